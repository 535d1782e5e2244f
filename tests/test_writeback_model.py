"""The engine with backing stores against a dict, with hypothesis choosing what happens.

The dict says what every page is; where it is, in memory or in a store, the engine may choose, but its counters must agree
with it.  A store in memory fails now and then; a swap file does not.
"""

import errno
import random
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

import zswap
from zswap import Status, SwapFile

PAGE = 4096
AREAS = (0, 1, 2)
FILE_PAGES = 100
OFFSETS = [*range(8), 62, 63, 64, 65, 99, 100, 16383, 16384, (1 << 47) - 1]
COUNTED = (
    "loads",
    "load_misses",
    "invalidates",
    "duplicate_entry",
    "written_through_pages",
    "reject_area",
    "reject_disabled",
    "backing_read_fail",
)

areas = st.sampled_from(AREAS)
offsets = st.sampled_from(OFFSETS)
# Most often a parameter is set to what it is at first.
meddling = st.one_of(
    st.tuples(st.just("recompress"), st.sampled_from(["zstd:3", "deflate:9"]), st.sampled_from([None, 2]), st.booleans()),
    st.just(("compact",)),
    st.tuples(
        st.just("switch"), st.sampled_from(["lz4", "zstd:1"]), st.sampled_from(["zsmalloc", "zsmalloc:4", "z3fold", "zbud"])
    ),
    st.tuples(st.sampled_from(["enabled", "same_filled_pages_enabled"]), st.sampled_from([True, True, False])),
    st.tuples(st.sampled_from(["exclusive_loads", "reject_compress_poor"]), st.sampled_from([False, False, True])),
    st.tuples(st.just("max_pool_bytes"), st.sampled_from(["64MiB", "64MiB", 40960, 12288, 0])),
    st.tuples(st.just("accept_threshold_percent"), st.sampled_from([0, 50, 90])),
)
recipes = st.tuples(st.sampled_from(["word", "text", "half", "noise"]), st.integers(0, 5))


def page_of(recipe):
    kind, number = recipe
    rng = random.Random(number)
    if kind == "word":
        return rng.randbytes(8) * (PAGE // 8)
    if kind == "text":
        return (f"page {number} of many " * PAGE).encode()[:PAGE]
    if kind == "half":
        return (rng.randbytes(PAGE // 2) + bytes(PAGE))[:PAGE]
    return rng.randbytes(PAGE)


class Model(RuleBasedStateMachine):
    """One engine and the dict that it must equal."""

    store_class = None
    checksum = False

    @initialize()
    def start(self):
        """Make both."""
        self.folder = Path(tempfile.mkdtemp(prefix="zswap-model-"))
        self.z = zswap.ZSwap(max_pool_bytes="64MiB", shrinker_interval=86400, shrinker_enabled=False, checksum=self.checksum)
        self.held = {}  # (area, offset) -> page
        self.end = {}  # of each area that is online
        self.stores = {}  # the stores in memory
        self.z.swapoff(0)
        for area, kind in enumerate(("memory", "file", None)):
            self.swapon(area, kind)
        self.counted = dict.fromkeys(COUNTED, 0)
        self.hits = 0

    def teardown(self):
        """Close the engine."""
        if hasattr(self, "z"):
            self.z.close()
            shutil.rmtree(self.folder)

    # ---- what the dict expects ----

    def stored(self, area, offset, page, status):
        """Follow one store."""
        key, status = (area, offset), Status(status)
        here = offset < self.end.get(area, 0)
        backed = area in self.backed
        self.counted["reject_disabled"] += not self.z.parameters["enabled"]
        self.counted["reject_area"] += self.z.parameters["enabled"] and not here
        if not here:
            assert status in (Status.NO_AREA, Status.DISABLED)
            return
        if status == Status.WRITTEN_THROUGH:
            assert backed
            self.counted["written_through_pages"] += 1
            self.held[key] = page
        elif status >= 0:
            assert self.z.parameters["enabled"]
            self.counted["duplicate_entry"] += key in self.held
            self.held[key] = page
        else:
            assert (status == Status.BACKING_FAIL) == backed
            gone = self.held.pop(key, None) is not None
            self.counted["invalidates"] += gone and not backed

    def loaded(self, area, offset, status, page):
        """Check one load, and follow it."""
        expected = self.held.get((area, offset))
        if status == Status.BACKING_FAIL:
            assert expected is not None
            assert area in self.stores
            self.counted["backing_read_fail"] += 1
            return
        assert (status == Status.ABSENT) == (expected is None)
        if expected is None:
            self.counted["load_misses"] += 1
            return
        assert status >= 0
        assert bytes(page) == expected
        self.counted["loads"] += 1
        if self.z.parameters["exclusive_loads"]:
            del self.held[area, offset]

    def dropped(self, keys):
        """Note that pages were invalidated; returns how many there were."""
        found = [self.held.pop(key) for key in keys if key in self.held]
        self.counted["invalidates"] += len(found)
        return len(found)

    @property
    def backed(self):
        """The areas that have a store."""
        return [area for area, end in self.end.items() if end == FILE_PAGES or area in self.stores]

    def settle(self):
        """After a hit of the limit, wait until the shrinker has done its work: it frees pools first."""
        hits = self.z.stats().pool_limit_hit
        if hits == self.hits:
            return
        self.hits = hits
        now = self.z.compressor
        for _ in range(2):
            self.z.compressor = "deflate:2"
            self.z.compressor = now
            deadline = time.monotonic() + 60
            while not all(p.current or p.stored_pages for p in self.z.pools()):
                assert time.monotonic() < deadline

    # ---- pages ----

    @rule(area=areas, batch=st.lists(st.tuples(offsets, recipes), min_size=4, max_size=12), threads=st.integers(1, 2))
    def store(self, area, batch, threads):
        """Store."""
        batch = list(dict(batch).items())
        pages = [page_of(recipe) for _, recipe in batch]
        status = self.z.store_many([o for o, _ in batch], b"".join(pages), swap_type=area, threads=threads)
        self.settle()
        for (offset, _), page, code in zip(batch, pages, status, strict=True):
            self.stored(area, offset, page, code)

    @rule(area=areas, batch=st.lists(offsets, min_size=1, max_size=6, unique=True), threads=st.integers(1, 2))
    def load(self, area, batch, threads):
        """Load."""
        status = np.full(len(batch), 99, np.int8)
        pages = self.z.load_many(batch, swap_type=area, threads=threads, status=status)
        for offset, page, code in zip(batch, pages, status, strict=True):
            self.loaded(area, offset, code, page)

    @rule(area=areas, offset=offsets)
    def load_one(self, area, offset):
        """Load one page."""
        status = np.full(1, Status.STORED, np.int8)
        page = None
        try:
            page = self.z.load(offset, swap_type=area)
        except KeyError:
            status[0] = Status.ABSENT
        except zswap.BackingError:
            status[0] = Status.BACKING_FAIL
        self.loaded(area, offset, status[0], page)

    @rule(area=areas, batch=st.lists(offsets, max_size=4))
    def invalidate(self, area, batch):
        """Invalidate."""
        assert self.z.invalidate_many(batch, swap_type=area) == self.dropped([(area, o) for o in batch])

    @rule(area=areas, start=offsets, length=st.sampled_from([0, 2, 60, 1 << 20]))
    def invalidate_range(self, area, start, length):
        """Invalidate a range."""
        stop = min(start + length, 1 << 47)
        keys = [(area, o) for o in OFFSETS if start <= o < stop]
        assert self.z.invalidate_range(start, stop, swap_type=area) == self.dropped(keys)

    # ---- what moves them ----

    @rule(count=st.sampled_from([1, 3, 100]), budget=st.sampled_from([None, 0, 2]), age=st.sampled_from([0, 0, 5, 10]))
    def shrink(self, count, budget, age):
        """Write back, all pages or those that are idle."""
        z = self.z
        z._age(5)
        z.parameters["writeback_limit"] = budget
        before = z.stats().written_back_pages
        done = z.shrink(count, idle_seconds=age or None)
        assert done <= min(count, count if budget is None else budget)
        assert z.stats().written_back_pages - before == done
        if budget is not None:
            assert z.parameters["writeback_limit"] == budget - done
            z.parameters["writeback_limit"] = None
        held = len(self.held) - z.stats().same_filled_pages
        if count == 100 and budget is None and not age and not self.failing and set(self.end) == set(self.backed):
            assert z.stats().stored_pages == z.stats().same_filled_pages
            assert z.stats().backed_pages == held

    # ---- areas and their stores ----

    @rule(area=areas, kind=st.sampled_from(["file", "memory", "memory", None]), drain=st.booleans(), off=st.integers(0, 3))
    def swap(self, area, kind, drain, off):
        """Swap an area off, though not often, or on with a store of some kind."""
        if area in self.end and off:
            return
        if area in self.end:
            keys = [key for key in self.held if key[0] == area]
            sizes = self.z.compressed_sizes([o for _, o in keys], swap_type=area)
            backed = {o for (_, o), size in zip(keys, sizes, strict=True) if size == -2}
            if drain and not self.failing and not self.z.parameters["exclusive_loads"]:
                assert dict(self.z.swapoff(area, drain=True)) == {o: self.held[a, o] for a, o in keys}
                self.counted["loads"] += len(keys)
            else:
                self.z.swapoff(area)
            self.dropped(keys)
            del self.end[area]
            store = self.stores.pop(area, None)
            assert store is None or not store.pages.keys() & backed
            return
        self.swapon(area, kind)

    def swapon(self, area, kind):
        """Swap an area on."""
        self.end[area] = 1 << 47
        backing = None
        if kind == "file":
            self.end[area] = FILE_PAGES
            backing = SwapFile(self.folder / str(area), FILE_PAGES * PAGE)
        elif kind == "memory":
            backing = self.stores[area] = self.store_class()
        self.z.swapon(area, backing=backing)

    @property
    def failing(self):
        """The stores that fail now."""
        return [store for store in self.stores.values() if store.failing]

    @precondition(lambda self: self.stores)
    @rule(kind=st.sampled_from(["write", "read", "all", None, None]), data=st.data())
    def fail(self, kind, data):
        """Let a store fail, or work again."""
        store = self.stores[data.draw(st.sampled_from(sorted(self.stores)))]
        store.failing = kind

        def hook(name):
            def call(offsets):
                if store.failing in (name, "all"):
                    raise OSError(errno.EIO, "broken")

            return call

        store.on_write, store.on_read = hook("write"), hook("read")

    # ---- the rest, all in one rule, so that it does not crowd out the pages ----

    @rule(what=meddling)
    def meddle(self, what):
        """Recompress, compact, switch pools, set a parameter."""
        name, *values = what
        if name == "recompress":
            spec, most, hard = values
            moved = self.z.recompress(spec, max_pages=most, incompressible=hard).moved
            assert most is None or moved <= most
        elif name == "compact":
            assert self.z.compact() >= 0
        elif name == "switch":
            self.z.compressor, self.z.zpool = values
        else:
            self.z.parameters[name] = values[0]

    # ---- what holds after each step ----

    @invariant()
    def agrees(self):
        """The engine holds what the dict holds, its parts agree, its counters are right."""
        if not hasattr(self, "z"):
            return
        z = self.z
        z._validate()
        backed = 0
        exclusive = z.parameters["exclusive_loads"]
        z.parameters["exclusive_loads"] = False
        for area in AREAS:
            where = z.compressed_sizes(OFFSETS, swap_type=area)
            assert [o for o, size in zip(OFFSETS, where, strict=True) if size != -1] == [
                o for o in OFFSETS if (area, o) in self.held
            ]
            assert z._page_count(area) == int((where != -1).sum())
            backed += int((where == -2).sum())
            assert area in self.backed or not (where == -2).any()
            if area in self.stores and self.stores[area].failing in ("read", "all"):
                continue
            status = np.zeros(len(OFFSETS), np.int8)
            pages = z.load_many(OFFSETS, swap_type=area, status=status)
            for offset, page, code in zip(OFFSETS, pages, status, strict=True):
                self.loaded(area, offset, code, page)
        z.parameters["exclusive_loads"] = exclusive
        s = z.stats()
        assert s.backed_pages == backed
        assert s.stored_pages == len(self.held) - backed
        assert {name: getattr(s, name) for name in COUNTED} == self.counted
        assert s.checksum_fail == s.backing_checksum_fail == 0
        assert s.decompress_fail == s.reject_alloc_fail == s.reject_compress_fail == 0


def run(machine):
    """Run a machine under the profile's numbers of examples and steps."""
    quiet = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    run_state_machine_as_test(machine, settings=settings(suppress_health_check=quiet))


@pytest.mark.parametrize(("first", "checksum"), [("lz4", False), ("zstd", False), ("lz4", True)])
def test_machine(memory_store, first, checksum):
    store_class = type("Store", (memory_store,), {"failing": None})

    class Machine(Model):
        @initialize()
        def start(self):
            super().start()
            self.z.compressor = first

    Machine.store_class = store_class
    Machine.checksum = checksum
    run(Machine)
