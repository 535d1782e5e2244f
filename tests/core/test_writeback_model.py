"""Every public operation against a dict, with backing stores, with hypothesis choosing what
happens.

The dict says what every page is; where it is, in memory or in a store, the engine may choose, but
its counters must agree with it.  A store in memory fails now and then; a swap file does not.

There is a machine for each compressor, zpool and backing of area 0.  The profile "quick" runs some
of them, such that each compressor, zpool and backing is among them; "ci" and "long" run all
(HYPOTHESIS_PROFILE, see conftest.py).
"""

import errno
import os
import random
import shutil
import tempfile
import time
import zlib
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import zswap
from zswap import Status, SwapFile

pytestmark = pytest.mark.slow

PAGE = 4096
AREAS = (0, 1, 2)
FILE_PAGES = 100
OFFSETS = [*range(8), 62, 63, 64, 65, 99, 100, 16383, 16384, (1 << 47) - 1]
AVAILABLE = {info.name for info in zswap.compressors() if info.available} | {"test-model-python"}
COMPRESSORS = [
    spec
    for spec in ("lz4", "lz4hc", "zstd:3", "lzo", "deflate:1", "lref", "test-model-python")
    if spec.partition(":")[0] in AVAILABLE
]
ZPOOLS = ["zsmalloc", "zsmalloc:1", "zsmalloc-kernel", "z3fold", "zbud"]
BACKINGS = [None, "path", "packed", "file", "memory"]
COUNTED = (
    "loads",
    "load_misses",
    "invalidates",
    "duplicate_entry",
    "written_through_pages",
    "reject_area",
    "reject_disabled",
    "backing_read_fail",
    "backing_loads",
    "written_back_pages",
)

REFUSED = [
    ("compressor", "nope"),
    ("zpool", "zsmalloc:99"),
    ("max_pool_bytes", -1),
    ("enabled", "maybe"),
    ("writeback_rate", -1),
]

mappings = st.sampled_from(["get", "pop", "popitem", "del", "items", "values", "clear"])
areas = st.sampled_from(AREAS)
offsets = st.sampled_from(OFFSETS)
# Most often a parameter is set to what it is at first.
meddling = st.one_of(
    st.tuples(
        st.just("recompress"),
        st.sampled_from(["zstd:3", "deflate:9"]),
        st.sampled_from([None, 2]),
        st.booleans(),
    ),
    st.just(("compact",)),
    st.tuples(st.just("switch"), st.sampled_from(["lz4", *COMPRESSORS]), st.sampled_from(ZPOOLS)),
    st.tuples(
        st.sampled_from(["enabled", "same_filled_pages_enabled", "non_same_filled_pages_enabled"]),
        st.sampled_from([True, True, True, False]),
    ),
    st.tuples(
        st.sampled_from(["exclusive_loads", "reject_compress_poor", "latency"]),
        st.sampled_from([False, False, True]),
    ),
    st.tuples(
        st.sampled_from(["direct_reclaim", "read_ahead"]), st.sampled_from([True, True, False])
    ),
    st.tuples(st.just("promote"), st.sampled_from(["second", "always", "always", "never"])),
    st.tuples(st.just("shrinker_interval"), st.sampled_from([3600, 86400.0])),
    st.tuples(st.just("writeback_rate"), st.sampled_from([None, 1 << 40])),
    st.tuples(st.just("max_pool_percent"), st.sampled_from([20, 100])),
    st.tuples(st.just("quota"), areas, st.sampled_from([None, None, 0, PAGE, 3 * PAGE, "1MiB"])),
    st.just(("refused",)),
    st.just(("read figures",)),
    st.tuples(st.just("max_pool_bytes"), st.sampled_from(["64MiB", "64MiB", 40960, 16384, 0])),
    st.tuples(st.just("accept_threshold_percent"), st.sampled_from([0, 50, 90])),
)
recipes = st.tuples(st.sampled_from(["word", "text", "half", "noise"]), st.integers(0, 5))
parts = st.sampled_from([slice(0, 1), slice(0, PAGE), slice(8, 3000), slice(PAGE - 6, PAGE)])
# A first page, and how many follow, all of them among OFFSETS or beyond an area's end.
rows = st.sampled_from(
    [(0, 1), (0, 3), (2, 6), (5, 2), (62, 4), (64, 2), (99, 1), (99, 2), (16383, 2)]
)


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
    compressor, zpool, backing = "lz4", "zsmalloc", None
    checksum = wipe = False
    kinds = None  # of the areas' stores; None: one after the other from `backing` on
    encrypted = AREAS[1:]  # the areas whose packed files are
    fixed = MappingProxyType({})  # parameters that nobody meddles with

    @initialize()
    def start(self):
        """Make both."""
        self.folder = Path(tempfile.mkdtemp(prefix="zswap-model-"))
        self.z = None
        self.open()

    def open(self):
        """Make an engine; the swap files are those of the one before."""
        self.z = zswap.ZSwap(
            self.compressor,
            self.zpool,
            max_pool_bytes="64MiB",
            shrinker_interval=86400,
            shrinker_enabled=False,
            checksum=self.checksum,
            wipe_on_free=self.wipe,
        )
        self.z.parameters.update(self.fixed)
        self.held = {}  # (area, offset) -> page
        self.end = {}  # of each area that is online
        self.stores = {}  # the stores in memory
        self.files = {}  # the swap files that are ours
        self.counted = dict.fromkeys(COUNTED, 0)
        self.hits = 0
        self.z.swapoff(0)
        first = BACKINGS.index(self.backing)
        for area in AREAS:
            kinds = self.kinds or BACKINGS[first:] + BACKINGS[:first]
            self.swapon(area, kinds[area])

    def teardown(self):
        """Close the engine."""
        if self.z is not None:
            self.z.close()
        for file in self.files.values():
            file.close()
        shutil.rmtree(self.folder)

    # ---- what the dict expects ----

    def stored(self, area, offset, page, status, part=False):
        """Follow one store; a part that is refused changes nothing but where the store failed."""
        key, status = (area, offset), Status(status)
        here = offset < self.end.get(area, 0)
        backed = area in self.backed
        on = self.z.parameters
        same = on["same_filled_pages_enabled"] and page == page[:8] * (PAGE // 8)
        off = not on["enabled"] or (here and not same and not on["non_same_filled_pages_enabled"])
        self.counted["reject_disabled"] += off
        self.counted["reject_area"] += on["enabled"] and not here
        if not here:
            assert status in (Status.NO_AREA, Status.DISABLED)
            return
        if status == Status.WRITTEN_THROUGH:
            assert backed
            self.counted["written_through_pages"] += 1
            self.held[key] = page
        elif status >= 0:
            assert not off
            assert (status == Status.SAME_FILLED) == same
            self.counted["duplicate_entry"] += key in self.held
            self.held[key] = page
        else:
            assert (status == Status.BACKING_FAIL) == backed
            if backed or not part:
                gone = self.held.pop(key, None) is not None
                self.counted["invalidates"] += gone and not backed

    def loaded(self, area, offset, status, page, part=slice(None)):
        """Check one load, be it of a part, and follow it."""
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
        assert bytes(page) == expected[part]
        self.counted["loads"] += 1
        if self.z.parameters["exclusive_loads"]:
            del self.held[area, offset]

    def reads(self, area, wanted):
        """Count those of the pages, which are about to be loaded once each, that must come from a
        store that works."""
        if area in self.end and not (
            area in self.stores and self.stores[area].failing in ("read", "all")
        ):
            where = self.z.compressed_sizes(wanted, swap_type=area)
            self.counted["backing_loads"] += int((where == -2).sum())

    def dropped(self, keys):
        """Note that pages were invalidated; returns how many there were."""
        found = [self.held.pop(key) for key in keys if key in self.held]
        self.counted["invalidates"] += len(found)
        return len(found)

    @property
    def backed(self):
        """The areas that have a store."""
        return [area for area, end in self.end.items() if end == FILE_PAGES or area in self.stores]

    def settle(self, limit_set=False):
        """After a hit of the limit, or a limit that was set, wait until the shrinker has done its
        work: it frees pools first."""
        hits = self.z.stats().pool_limit_hit
        full = self.z.parameters["direct_reclaim"] and self.z.parameters["max_pool_bytes"] in (
            40960,
            16384,
            0,
        )
        if hits == self.hits and not limit_set and not full:
            return
        self.hits = hits
        now = self.z.compressor
        for _ in range(2):
            self.z.compressor = "deflate:2"
            self.z.compressor = now
            deadline = time.monotonic() + 60
            while not all(p.current or p.stored_pages for p in self.z.pools()):
                assert time.monotonic() < deadline
        self.counted["written_back_pages"] = self.z.stats().written_back_pages

    # ---- pages ----

    @rule(
        area=areas,
        batch=st.lists(st.tuples(offsets, recipes), min_size=4, max_size=12),
        threads=st.integers(1, 2),
    )
    def store(self, area, batch, threads):
        """Store."""
        batch = list(dict(batch).items())
        pages = [page_of(recipe) for _, recipe in batch]
        status = self.z.store_many(
            [o for o, _ in batch], b"".join(pages), swap_type=area, threads=threads
        )
        self.settle()
        for (offset, _), page, code in zip(batch, pages, status, strict=True):
            self.stored(area, offset, page, code)

    @rule(
        area=areas,
        batch=st.lists(offsets, min_size=1, max_size=6, unique=True),
        threads=st.integers(1, 2),
    )
    def load(self, area, batch, threads):
        """Load."""
        status = np.full(len(batch), 99, np.int8)
        self.reads(area, batch)
        pages = self.z.load_many(batch, swap_type=area, threads=threads, status=status)
        for offset, page, code in zip(batch, pages, status, strict=True):
            self.loaded(area, offset, code, page)

    @rule(area=areas, offset=offsets)
    def load_one(self, area, offset):
        """Load one page."""
        self.try_load(area, offset, lambda: self.z.load(offset, swap_type=area))

    def try_load(self, area, offset, call, part=slice(None)):
        """Check a call that loads one page, or a part; whether it gave one."""
        page, status = None, Status.STORED
        self.reads(area, [offset])
        try:
            page = call()
        except KeyError:
            status = Status.ABSENT
        except zswap.BackingError:
            status = Status.BACKING_FAIL
        self.loaded(area, offset, status, page, part)
        return page is not None

    @rule(area=areas, offset=offsets, recipe=recipes, mapping=st.booleans())
    def store_one(self, area, offset, recipe, mapping):
        """Store one page, into area 0 also as into a dict."""
        page = page_of(recipe)

        def store():
            if area == 0 and mapping:
                self.z[offset] = page
            else:
                self.z.store(offset, memoryview(page), swap_type=area)

        self.stored(area, offset, page, self.status_of(area, offset, store))

    def status_of(self, area, offset, store):
        """The status that a store's exception, or what is held afterwards, stands for."""
        before = self.z.stats().written_through_pages
        try:
            store()
        except zswap.BackingError:
            status = Status.BACKING_FAIL
        except zswap.PoolLimitError:
            status = Status.POOL_LIMIT
        except zswap.Error:
            status = Status.COMPRESS_POOR if offset < self.end.get(area, 0) else Status.DISABLED
        except ValueError:
            status = Status.NO_AREA
        else:
            through = self.z.stats().written_through_pages > before
            size = self.z.compressed_sizes([offset], swap_type=area)[0]
            status = (
                Status.WRITTEN_THROUGH if through else Status.STORED if size else Status.SAME_FILLED
            )
        self.settle()
        return status

    # ---- parts, and several buffers in a row ----

    @rule(area=areas, offset=offsets, part=parts)
    def load_part(self, area, offset, part):
        """Load a part of a page."""
        n = part.stop - part.start
        self.try_load(
            area, offset, lambda: self.z.load_part(offset, part.start, n, swap_type=area), part
        )

    @rule(
        area=areas,
        offset=offsets,
        recipe=recipes,
        part=parts,
        absent=st.sampled_from(["raise", "zeros"]),
    )
    def store_part(self, area, offset, recipe, part, absent):
        """Store a part of a page, which reads it first."""
        key, data = (area, offset), page_of(recipe)[part]

        def store():
            self.z.store_part(offset, part.start, data, swap_type=area, absent=absent)

        if offset >= self.end.get(area, 0):
            with pytest.raises(ValueError, match="no such swap area"):
                store()
            self.counted["reject_area"] += 1
            return
        if key not in self.held and absent == "raise":
            with pytest.raises(KeyError):
                store()
            return
        self.reads(area, [offset])
        before = self.z.stats().backing_read_fail
        status = self.status_of(area, offset, store)
        if self.z.stats().backing_read_fail > before:
            assert (status, self.stores[area].failing in ("read", "all")) == (
                Status.BACKING_FAIL,
                True,
            )
            self.counted["backing_read_fail"] += 1
            return
        page = bytearray(self.held.get(key, bytes(PAGE)))
        page[part] = data
        self.stored(area, offset, bytes(page), status, part=True)

    @rule(area=areas, row=rows, recipe=recipes, short=st.sampled_from([0, 1, 3000]))
    def storev(self, area, row, recipe, short):
        """Store several buffers in pages that follow one another: all of them, or none."""
        first, n = row
        data = b"".join(page_of((recipe[0], recipe[1] + i)) for i in range(n))[: n * PAGE - short]
        pages = [data[i * PAGE : (i + 1) * PAGE].ljust(PAGE, b"\0") for i in range(n)]
        keys = [(area, first + i) for i in range(n)]
        buffers = [data[:100], data[100:5000], data[5000:]]
        if first + n > self.end.get(area, 0):
            with pytest.raises(ValueError, match="no such swap area"):
                self.z.storev(first, buffers, swap_type=area)
            self.counted["reject_area"] += 1
            return
        try:
            assert self.z.storev(first, buffers, swap_type=area) == n
        except zswap.BackingError:  # none of them is held
            assert self.stores[area].failing in ("write", "all")
            for key in keys:
                self.held.pop(key, None)
        except zswap.Error:  # all is as it was
            assert area not in self.backed
        else:
            self.held.update(zip(keys, pages, strict=True))
        self.settle()
        self.follow("duplicate_entry", "invalidates", "reject_disabled", "written_through_pages")

    @rule(area=areas, row=rows)
    def loadv(self, area, row):
        """Load pages that follow one another into several buffers; they stay, whatever
        exclusive_loads says."""
        first, n = row
        out = [bytearray(100), bytearray(n * PAGE - 100)]
        expected = [self.held.get((area, first + i)) for i in range(n)]
        self.reads(area, range(first, first + n))
        try:
            assert self.z.loadv(first, out, swap_type=area) == n
        except KeyError:
            assert None in expected
            self.counted["load_misses"] += 1
        except zswap.BackingError:
            assert self.stores[area].failing in ("read", "all")
            self.counted["backing_read_fail"] += 1
        else:
            assert b"".join(out) == b"".join(expected)
            self.counted["loads"] += n
            return
        self.follow("loads", "backing_loads")  # of those before the one that failed

    def follow(self, *names):
        """Take over counters of a call that did some of its pages."""
        for name in names:
            now = getattr(self.z.stats(), name)
            assert now >= self.counted[name] or name == "backing_loads"
            self.counted[name] = now

    @rule(area=areas, batch=st.lists(offsets, max_size=4), single=st.booleans())
    def invalidate(self, area, batch, single):
        """Invalidate."""
        if single:
            for offset in batch:
                assert self.z.invalidate(offset, swap_type=area) == bool(
                    self.dropped([(area, offset)])
                )
        else:
            assert self.z.invalidate_many(batch, swap_type=area) == self.dropped(
                [(area, o) for o in batch]
            )

    @rule(
        offset=offsets,
        what=st.sampled_from(["get", "pop", "popitem", "del", "items", "values", "clear"]),
        rare=st.integers(0, 3),
    )
    def mapping(self, offset, what, rare):
        """Use area 0 as a dict."""
        z, mine = self.z, {o: page for (area, o), page in self.held.items() if area == 0}
        if what == "get":
            self.try_load(0, offset, lambda: z[offset])
        elif what == "pop":
            self.take(offset, lambda: z.pop(offset))
            if (0, offset) not in self.held:
                self.counted["load_misses"] += 1
                assert z.pop(offset, "nothing") == "nothing"
        elif what == "popitem" and mine:
            self.take(min(mine), lambda: z.popitem()[1])
        elif what == "del":
            if offset in mine:
                del z[offset]
                self.dropped([(0, offset)])
            else:
                with pytest.raises(KeyError):
                    del z[offset]
        elif what in ("items", "values") and not self.failing:
            self.reads(0, sorted(mine))
            self.counted["loads"] += len(mine)
            expected = sorted(mine.items())
            assert list(getattr(z, what)()) == (
                expected if what == "items" else [page for _, page in expected]
            )
            if z.parameters["exclusive_loads"]:
                self.held = {key: page for key, page in self.held.items() if key[0] != 0}
        elif what == "clear" and not rare:
            z.clear()
            self.dropped([(0, o) for o in mine])
            assert not z
            with pytest.raises(KeyError):
                z.popitem()
        assert list(z) == list(z.keys()) == sorted(o for area, o in self.held if area == 0)
        assert len(z) == len(list(z))
        assert (offset in z) == ((0, offset) in self.held)

    def take(self, offset, call):
        """Check a call that loads a page and frees it, which is both whatever exclusive_loads
        says."""
        if self.try_load(0, offset, call):
            self.held.pop((0, offset), None)
            self.counted["invalidates"] += 1

    @rule(area=areas, rare=st.integers(0, 3))
    def invalidate_area(self, area, rare):
        """Invalidate an area, now and then."""
        if not rare:
            assert self.z.invalidate_area(area) == self.dropped(
                [key for key in self.held if key[0] == area]
            )

    @rule(area=areas, start=offsets, length=st.sampled_from([0, 2, 60, 1 << 20]))
    def invalidate_range(self, area, start, length):
        """Invalidate a range."""
        stop = min(start + length, 1 << 47)
        keys = [(area, o) for o in OFFSETS if start <= o < stop]
        assert self.z.invalidate_range(start, stop, swap_type=area) == self.dropped(keys)

    # ---- what moves them ----

    @rule(
        count=st.sampled_from([1, 3, 100]),
        budget=st.sampled_from([None, 0, 2]),
        age=st.sampled_from([0, 0, 5, 10]),
    )
    def shrink(self, count, budget, age):
        """Write back, all pages or those that are idle."""
        z = self.z
        z._age(5)
        z.parameters["writeback_limit"] = budget
        before = z.stats().written_back_pages
        done = z.shrink(count, idle_seconds=age or None)
        assert done <= min(count, count if budget is None else budget)
        assert z.stats().written_back_pages - before == done
        self.counted["written_back_pages"] += done
        if budget is not None:
            assert z.parameters["writeback_limit"] == budget - done
            z.parameters["writeback_limit"] = None
        held = len(self.held) - z.stats().same_filled_pages
        if (
            count == 100
            and budget is None
            and not age
            and not self.failing
            and set(self.end) == set(self.backed)
        ):
            assert z.stats().stored_pages == z.stats().same_filled_pages
            assert z.stats().backed_pages == held

    # ---- areas and their stores ----

    @rule(
        area=areas,
        kind=st.sampled_from(["path", "file", "packed", "packed", "memory", "memory", None]),
        drain=st.booleans(),
        off=st.integers(0, 3),
    )
    def swap(self, area, kind, drain, off):
        """Swap an area off, though not often, or on with a store of some kind."""
        if area in self.end and off:
            return
        if area in self.end:
            keys = [key for key in self.held if key[0] == area]
            sizes = self.z.compressed_sizes([o for _, o in keys], swap_type=area)
            backed = {o for (_, o), size in zip(keys, sizes, strict=True) if size == -2}
            if drain and not self.failing and not self.z.parameters["exclusive_loads"]:
                self.counted["backing_loads"] += len(backed)
                assert dict(self.z.swapoff(area, drain=True)) == {
                    o: self.held[a, o] for a, o in keys
                }
                self.counted["loads"] += len(keys)
            else:
                self.z.swapoff(area)
            self.dropped(keys)
            del self.end[area]
            store = self.stores.pop(area, None)
            assert store is None or not store.pages.keys() & backed
            if area in self.files:
                self.files.pop(area).close()
            return
        self.swapon(area, kind)

    def swapon(self, area, kind):
        """Swap an area on."""
        self.end[area] = 1 << 47
        backing = None
        if kind in ("file", "packed", "path"):
            self.end[area] = FILE_PAGES
            path = self.folder / str(area)
            packed = kind == "packed"
            encrypt = (packed or kind == "file") and area in self.encrypted
            backing = SwapFile(path, FILE_PAGES * PAGE, packed=packed, encrypt=encrypt)
            assert not backing.left_open
            if kind == "path":  # it keeps its size; whoever opened it closes it
                backing.close()
                backing = os.fspath(path)
            else:
                self.files[area] = backing
        elif kind == "memory":
            backing = self.stores[area] = self.store_class()
        # one that encrypts has every later one encrypt that is not told
        self.z.swapon(area, backing=backing, encrypt=False if backing is not None else None)

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
        elif name == "refused":
            before = dict(self.z.parameters)
            for key, value in REFUSED:
                with pytest.raises(ValueError, match=r"\w"):
                    self.z.parameters[key] = value
            assert dict(self.z.parameters) == before
        elif name == "read figures":
            self.z.latency(reset=True)
            self.z.numa_pages()
            assert f"{self.z.stats().stored_pages} pages" in str(self.z.stats())
            assert repr(self.z).startswith("<ZSwap ")
        elif name == "quota":
            if values[0] in self.end:
                self.z.set_quota(*values)
                self.counted["written_back_pages"] = self.z.stats().written_back_pages
        elif name == "switch":
            self.z.compressor, self.z.zpool = values
        elif name not in self.fixed:
            self.z.parameters[name] = values[0]
            self.settle(
                limit_set=name in ("max_pool_bytes", "max_pool_percent", "accept_threshold_percent")
            )

    @rule(rare=st.integers(0, 7))
    def reopen(self, rare):
        """Close the engine, and go on with another."""
        if rare:
            return
        self.z.close()
        for file in self.files.values():
            file.close()
        assert self.z.closed
        with pytest.raises(ValueError, match="closed"):
            self.z.store(0, bytes(PAGE))
        self.open()

    # ---- what holds after each step ----

    @invariant()
    def agrees(self):
        """The engine holds what the dict holds, its parts agree, its counters are right."""
        z = self.z
        if z is None:
            return
        self.settle()  # also after a load, whose page may have come near the limit
        z._validate()
        sizes = []
        before = {name: z.parameters[name] for name in ("exclusive_loads", "promote")}
        z.parameters["exclusive_loads"] = False
        z.parameters["promote"] = "never"
        for area in AREAS:
            where = z.compressed_sizes(OFFSETS, swap_type=area)
            assert [o for o, size in zip(OFFSETS, where, strict=True) if size != -1] == [
                o for o in OFFSETS if (area, o) in self.held
            ]
            assert z._page_count(area) == int((where != -1).sum())
            sizes += where.tolist()
            assert area in self.backed or not (where == -2).any()
            if area in self.stores and self.stores[area].failing in ("read", "all"):
                continue
            self.reads(area, OFFSETS)
            status = np.zeros(len(OFFSETS), np.int8)
            pages = z.load_many(OFFSETS, swap_type=area, status=status)
            for offset, page, code in zip(OFFSETS, pages, status, strict=True):
                self.loaded(area, offset, code, page)
        for name, value in before.items():
            z.parameters[name] = value
        s = z.stats()
        assert s.backed_pages == sizes.count(-2)
        assert s.stored_pages == len(self.held) - s.backed_pages
        assert s.same_filled_pages == sizes.count(0)
        assert s.stored_incompressible_pages == sizes.count(PAGE)
        assert s.compressed_bytes == sum(size for size in sizes if size > 0)
        found = z.areas()
        assert [a.swap_type for a in found] == sorted(self.end)
        assert sum(a.held_pages for a in found) == len(self.held)
        assert sum(a.compressed_bytes for a in found) == s.compressed_bytes
        pools = z.pools()
        assert sum(pool.stored_pages for pool in pools) == s.stored_pages - s.same_filled_pages
        assert sum(pool.total_size for pool in pools) >= s.pool_total_size >= s.idle_bytes
        assert s.pool_total_size >= s.compressed_bytes
        assert {name: getattr(s, name) for name in COUNTED} == self.counted
        assert s.checksum_fail == s.backing_checksum_fail == 0
        assert (
            s.decompress_fail
            == s.reject_alloc_fail
            == s.reject_compress_fail
            == s.reject_kmemcache_fail
            == 0
        )


def run(machine):
    """Run a machine under the profile's numbers of examples and steps."""
    quiet = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    run_state_machine_as_test(machine, settings=settings(suppress_health_check=quiet))


@pytest.fixture(autouse=True)
def python_compressor():
    """A compressor in Python."""
    zswap.register_compressor(
        "test-model-python", lambda data: zlib.compress(data, 1), zlib.decompress
    )
    yield
    zswap.unregister_compressor("test-model-python")


def combinations():
    """The machines of this profile: all, or some with each compressor, zpool and backing among
    them."""
    if os.environ.get("HYPOTHESIS_PROFILE", "quick") != "quick":
        return [(c, z, b) for c in COMPRESSORS for z in ZPOOLS for b in BACKINGS]
    turns = [[every[i % len(every)] for i in range(8)] for every in (COMPRESSORS, ZPOOLS, BACKINGS)]
    return list(zip(*turns, strict=True))


@pytest.mark.parametrize(("compressor", "zpool", "backing"), combinations())
def test_machine(memory_store, compressor, zpool, backing):
    store_class = type("Store", (memory_store,), {"failing": None})
    parts = {
        "store_class": store_class,
        "compressor": compressor,
        "zpool": zpool,
        "backing": backing,
    }
    parts["checksum"] = COMPRESSORS.index(compressor) % 2 == 0
    run(type("Machine", (Model,), parts))


class Combined(Model):
    """Areas over files of one layout, whatever else there is to choose."""

    promote = "second"

    @initialize(
        checksum=st.booleans(),
        wipe=st.booleans(),
        encrypt=st.booleans(),
        read_ahead=st.booleans(),
        exclusive=st.booleans(),
    )
    def start(self, checksum, wipe, encrypt, read_ahead, exclusive):
        """Make both."""
        self.checksum, self.wipe = checksum, wipe
        self.encrypted = AREAS if encrypt else ()
        self.fixed = {
            "promote": self.promote,
            "read_ahead": read_ahead,
            "exclusive_loads": exclusive,
        }
        super().start()


@pytest.mark.parametrize("promote", ["second", "always", "never"])
@pytest.mark.parametrize("layout", ["file", "packed"])
def test_combined(memory_store, promote, layout):
    """Each way to promote over each layout; hypothesis chooses checksums, encryption, wiping,
    read-ahead and exclusive loads."""
    parts = {
        "store_class": type("Store", (memory_store,), {"failing": None}),
        "promote": promote,
        "kinds": (layout, layout, "memory"),
    }
    run(type("Machine", (Combined,), parts))
