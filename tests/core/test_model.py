"""The engine against a dict, with hypothesis choosing what happens: one state machine for each
compressor and zpool.

After each step what is held is what the dict holds, every structure agrees with every other
(`_validate`), and every counter has the value that the steps so far give it.
"""

import random
import zlib

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
from zswap import Error, PoolLimitError, Status
from zswap_core.binding import FLAGS

pytestmark = pytest.mark.slow

AREAS = (0, 1, 255)
NR_PAGES = {0: None, 1: 20000, 255: None}
# Few enough to meet again, on all edges: runs of 64, shards of 16384, the area's end, the last
# offset there is.
OFFSETS = [
    *range(6),
    62,
    63,
    64,
    65,
    127,
    128,
    16383,
    16384,
    16385,
    19999,
    20000,
    32768,
    1 << 30,
    1 << 46,
    (1 << 47) - 1,
]

offsets = st.sampled_from(OFFSETS)
areas = st.sampled_from(AREAS)
kinds = st.sampled_from(["zeros", "word", "pair", "text", "half", "noise"])
recipes = st.tuples(kinds, st.integers(0, 3))
specs = st.sampled_from(["lz4", "lz4:9", "zstd:1", "lref", "lref:2", "test-model-zlib"])
zpools = st.sampled_from(["zsmalloc", "zsmalloc:4", "zsmalloc-kernel", "z3fold", "zbud"])


def page_of(recipe, size):
    """The page of a kind and a number: same-filled or not, compressible or not."""
    kind, number = recipe
    rng = random.Random(number)
    if kind == "zeros":
        return bytes(size)
    if kind == "word":
        return rng.randbytes(8) * (size // 8)
    if kind == "pair":  # two words in turn: not same-filled
        return rng.randbytes(16) * (size // 16)
    if kind == "text":
        return (f"page {number} " * size).encode()[:size]
    if kind == "half":
        return (rng.randbytes(size // 2 + 100 * number) + bytes(size))[:size]
    return rng.randbytes(size)


class Model(RuleBasedStateMachine):
    """One engine and the dict that it must equal."""

    compressor, zpool, page_size, checksum = "lz4", "zsmalloc", 4096, False

    @initialize()
    def start(self):
        """Make both."""
        self.z = zswap.ZSwap(
            self.compressor,
            self.zpool,
            self.page_size,
            max_pool_bytes="64MiB",
            checksum=self.checksum,
        )
        self.held = {}  # (area, offset) -> page
        self.same = set()  # those of them that are held as one word
        self.online = {0}
        self.limited = False  # whether a limit may refuse pages
        self.events = dict.fromkeys(
            (
                "duplicate_entry",
                "loads",
                "load_misses",
                "invalidates",
                "reject_disabled",
                "reject_area",
                "reject_compress_poor",
            ),
            0,
        )

    def teardown(self):
        """Close the engine."""
        if hasattr(self, "z"):
            self.z.close()

    # ---- what the dict expects ----

    def gone(self, key):
        """Note that a page was freed; returns whether there was one."""
        self.same.discard(key)
        found = self.held.pop(key, None) is not None
        self.events["invalidates"] += found
        return found

    def is_same(self, page):
        """Whether a page is held as one word."""
        return self.z.parameters["same_filled_pages_enabled"] and page == page[:8] * (
            self.page_size // 8
        )

    def stored(self, area, offset, page, status, part=False):
        """Check the status of one store, and follow it; a part that is refused changes nothing."""
        key, status = (area, offset), Status(status)
        if self.z.parameters["enabled"] and (
            area not in self.online or offset >= (NR_PAGES[area] or 1 << 47)
        ):
            assert status == Status.NO_AREA
            assert key not in self.held
            self.events["reject_area"] += 1
            return
        if not self.z.parameters["enabled"]:
            # The order of these two is a test of its own.
            assert status in (Status.DISABLED, Status.NO_AREA)
            self.events["reject_disabled" if status == Status.DISABLED else "reject_area"] += 1
        elif self.is_same(page):
            assert status == Status.SAME_FILLED
        elif not self.z.parameters["non_same_filled_pages_enabled"]:
            assert status == Status.DISABLED
            self.events["reject_disabled"] += 1
        else:
            allowed = {Status.STORED, Status.INCOMPRESSIBLE}
            if self.limited:
                allowed |= {Status.POOL_LIMIT, Status.ACCEPT_THRESHOLD}
            if self.z.parameters["reject_compress_poor"] or self.z.zpool == "zbud":
                allowed = allowed - {Status.INCOMPRESSIBLE} | {Status.COMPRESS_POOR}
            assert status in allowed
            self.events["reject_compress_poor"] += status == Status.COMPRESS_POOR
        if status < 0:
            if not part:
                self.gone(key)
            return
        self.events["duplicate_entry"] += key in self.held
        self.held[key] = page
        self.same.discard(key)
        if status == Status.SAME_FILLED:
            self.same.add(key)

    def loaded(self, area, offset):
        """Follow one load: the page, or None."""
        page = self.held.get((area, offset))
        self.events["loads" if page is not None else "load_misses"] += 1
        if page is not None and self.z.parameters["exclusive_loads"]:
            del self.held[area, offset]
            self.same.discard((area, offset))
        return page

    # ---- single pages ----

    @rule(
        area=areas,
        offset=offsets,
        recipe=recipes,
        buffer=st.sampled_from([bytes, bytearray, np.frombuffer]),
    )
    def store(self, area, offset, recipe, buffer):
        """Store."""
        page = page_of(recipe, self.page_size)
        data = np.frombuffer(page, np.uint8) if buffer is np.frombuffer else buffer(page)
        status = self.status_of(area, offset, lambda: self.z.store(offset, data, swap_type=area))
        self.stored(area, offset, page, status)

    @rule(
        area=areas,
        offset=offsets,
        recipe=recipes,
        part=st.sampled_from([slice(0, 1), slice(0, 4096), slice(8, 3000), slice(4090, 4096)]),
        absent=st.sampled_from(["raise", "zeros"]),
    )
    def store_part(self, area, offset, recipe, part, absent):
        """Store a part of a page."""
        data = page_of(recipe, self.page_size)[part]
        here = area in self.online and offset < (NR_PAGES[area] or 1 << 47)
        if here and absent == "raise" and (area, offset) not in self.held:
            with pytest.raises(KeyError):
                self.z.store_part(offset, part.start, data, swap_type=area)
            return
        page = bytearray(self.held.get((area, offset), bytes(self.page_size)))
        page[part] = data
        status = self.status_of(
            area,
            offset,
            lambda: self.z.store_part(offset, part.start, data, swap_type=area, absent=absent),
        )
        self.stored(area, offset, bytes(page), status, part=True)

    @rule(area=areas, offset=offsets, at=st.sampled_from([0, 7, 4000]))
    def load_part(self, area, offset, at):
        """Load a part of a page."""
        expected = self.loaded(area, offset)
        try:
            assert self.z.load_part(offset, at, 96, swap_type=area) == expected[at : at + 96]
        except KeyError:
            assert expected is None

    def status_of(self, area, offset, store):
        """The status that a call's exception, or what is held afterwards, stands for."""
        before = self.z.stats()
        try:
            store()
        except PoolLimitError:
            limit = self.z.stats().pool_limit_hit > before.pool_limit_hit
            status = Status.POOL_LIMIT if limit else Status.ACCEPT_THRESHOLD
        except Error:
            on = self.z.parameters
            status = (
                Status.COMPRESS_POOR
                if on["enabled"] and on["non_same_filled_pages_enabled"]
                else Status.DISABLED
            )
        except ValueError:
            status = Status.NO_AREA
        else:
            size = self.z.compressed_sizes([offset], swap_type=area)[0]
            status = {0: Status.SAME_FILLED, self.page_size: Status.INCOMPRESSIBLE}.get(
                size, Status.STORED
            )
        return status

    @rule(area=areas, offset=offsets, into=st.booleans())
    def load(self, area, offset, into):
        """Load."""
        out = bytearray(self.page_size) if into else None
        expected = self.loaded(area, offset)
        try:
            assert self.z.load(offset, out, swap_type=area) == expected
        except KeyError:
            assert expected is None

    @rule(area=areas, offset=offsets)
    def invalidate(self, area, offset):
        """Invalidate."""
        assert self.z.invalidate(offset, swap_type=area) == self.gone((area, offset))

    # ---- batches ----

    @rule(
        area=areas,
        batch=st.lists(st.tuples(offsets, recipes), max_size=8),
        threads=st.integers(1, 3),
    )
    def store_many(self, area, batch, threads):
        """Store a batch; with more than one thread each offset only once."""
        if threads > 1:
            batch = list(dict(batch).items())
        pages = [page_of(recipe, self.page_size) for _, recipe in batch]
        status = self.z.store_many(
            [o for o, _ in batch], b"".join(pages), swap_type=area, threads=threads
        )
        for (offset, _), page, code in zip(batch, pages, status, strict=True):
            self.stored(area, offset, page, code)

    @rule(area=areas, batch=st.lists(offsets, max_size=8), threads=st.integers(1, 3))
    def load_many(self, area, batch, threads):
        status = np.full(len(batch), 99, np.int8)
        pages = self.z.load_many(batch, swap_type=area, threads=threads, status=status)
        for offset, page, code in zip(batch, pages, status, strict=True):
            expected = self.loaded(area, offset)
            assert (code == Status.ABSENT) == (expected is None)
            if expected is not None:
                assert code >= 0
                assert page.tobytes() == expected

    @rule(area=areas, batch=st.lists(offsets, max_size=8))
    def invalidate_many(self, area, batch):
        """Invalidate a batch."""
        assert self.z.invalidate_many(batch, swap_type=area) == sum(
            self.gone((area, o)) for o in batch
        )

    @rule(area=areas, edges=st.tuples(offsets, offsets), more=st.integers(0, 1))
    def invalidate_range(self, area, edges, more):
        """Invalidate a range."""
        start, stop = min(edges), max(edges) + more
        keys = [(a, o) for a, o in self.held if a == area and start <= o < stop]
        assert self.z.invalidate_range(start, stop, swap_type=area) == len(keys)
        for key in keys:
            self.gone(key)

    @rule(area=areas)
    def invalidate_area(self, area):
        """Invalidate an area."""
        keys = [key for key in self.held if key[0] == area]
        assert self.z.invalidate_area(area) == len(keys)
        for key in keys:
            self.gone(key)

    # ---- the mapping ----

    @precondition(lambda self: not self.z.parameters["exclusive_loads"])
    @rule(offset=offsets, recipe=recipes)
    def mapping(self, offset, recipe):
        """Use pop and setdefault."""
        page = page_of(recipe, self.page_size)
        expected = self.loaded(0, offset)
        assert self.z.pop(offset, None) == expected
        self.gone((0, offset))
        if 0 in self.online and self.z.parameters["enabled"] and self.is_same(page):
            self.events["load_misses"] += 1
            assert self.z.setdefault(offset, page) == page
            self.stored(0, offset, page, Status.SAME_FILLED)

    @rule(offset=offsets)
    def delete(self, offset):
        """Delete as from a dict."""
        try:
            del self.z[offset]
            assert self.gone((0, offset))
        except KeyError:
            assert (0, offset) not in self.held

    # ---- areas ----

    @rule(area=areas)
    def swap(self, area):
        """Swap an area off or on."""
        if area in self.online:
            self.z.swapoff(area)
            self.online.discard(area)
            for key in [key for key in self.held if key[0] == area]:
                self.gone(key)
        else:
            self.z.swapon(area, NR_PAGES[area])
            self.online.add(area)

    # ---- settings ----

    @rule(spec=specs)
    def switch_compressor(self, spec):
        """Switch the compressor."""
        self.z.compressor = spec

    @rule(zpool=zpools)
    def switch_zpool(self, zpool):
        """Switch the zpool."""
        self.z.zpool = zpool

    @rule(
        name=st.sampled_from(FLAGS),
        on=st.booleans(),
    )
    def flag(self, name, on):
        """Set a switch."""
        self.z.parameters[name] = on

    @rule(pages=st.sampled_from([0, 4, 5, 10, None]))
    def limit(self, pages):
        """Set the limit."""
        self.z.parameters["max_pool_bytes"] = "64MiB" if pages is None else pages * self.page_size
        # The hysteresis may outlast the limit, until a store gets through.
        self.limited = self.limited or pages is not None

    @rule(percent=st.sampled_from([0, 50, 90, 100]))
    def threshold(self, percent):
        """Set the accept threshold."""
        self.z.parameters["accept_threshold_percent"] = percent
        self.limited = self.limited or percent < 90

    @rule(
        value=st.sampled_from(
            [
                ("compressor", "nope"),
                ("zpool", "zsmalloc:99"),
                ("max_pool_bytes", -1),
                ("enabled", "maybe"),
            ]
        )
    )
    def bad_parameter(self, value):
        """Set what is refused: nothing changes."""
        before = dict(self.z.parameters)
        with pytest.raises(ValueError, match=r"\w"):
            self.z.parameters[value[0]] = value[1]
        assert dict(self.z.parameters) == before

    @rule()
    def compact(self):
        """Compact."""
        assert self.z.compact() >= 0

    # ---- what holds after each step ----

    @invariant()
    def agrees(self):
        """The engine equals the dict, its parts agree, its counters are right."""
        if not hasattr(self, "z"):
            return
        z = self.z
        z._validate()
        # Everything is read without the counters' and exclusive loads' noticing too much of it.
        exclusive = z.parameters["exclusive_loads"]
        z.parameters["exclusive_loads"] = False
        sizes = 0
        raw = 0
        for area in AREAS:
            ours = sorted(o for a, o in self.held if a == area)
            status = np.zeros(len(OFFSETS), np.int8)
            pages = z.load_many(OFFSETS, swap_type=area, status=status)
            for offset, page, code in zip(OFFSETS, pages, status, strict=True):
                expected = self.held.get((area, offset))
                assert (code >= 0) == (expected is not None), (area, offset)
                assert expected is None or page.tobytes() == expected, (area, offset)
            self.events["loads"] += len(ours)
            self.events["load_misses"] += len(OFFSETS) - len(ours)
            taken = z.compressed_sizes(ours, swap_type=area)
            assert [o for o, n in zip(ours, taken, strict=True) if n == 0] == [
                o for o in ours if (area, o) in self.same
            ]
            sizes += int(taken.sum())
            raw += int((taken == self.page_size).sum())
        z.parameters["exclusive_loads"] = exclusive
        mine = sorted(o for a, o in self.held if a == 0)
        assert list(z) == mine
        assert len(z) == len(mine)
        assert [o for o in OFFSETS if o in z] == [o for o in OFFSETS if (0, o) in self.held]
        s = z.stats()
        assert s.stored_pages == len(self.held)
        assert s.same_filled_pages == len(self.same)
        assert s.stored_incompressible_pages == raw
        assert s.compressed_bytes == sizes
        assert {name: getattr(s, name) for name in self.events} == self.events
        assert (
            s.reject_compress_fail
            == s.reject_alloc_fail
            == s.reject_kmemcache_fail
            == s.decompress_fail
            == 0
        )
        pools = z.pools()
        assert [p.current for p in pools] == [True] + [False] * (len(pools) - 1)
        assert sum(p.stored_pages for p in pools) == len(self.held) - len(self.same)
        assert pools[0].compressor.partition(":")[0] == z.compressor.partition(":")[0]


PAIRS = [(c.name, "zsmalloc") for c in zswap.compressors() if c.available]
PAIRS += [
    ("test-model-zlib", "zsmalloc"),
    ("lz4", "zsmalloc:4"),
    ("lz4", "zsmalloc-kernel"),
    ("zstd", "zsmalloc:1"),
]
PAIRS += [("lz4", "z3fold"), ("lz4", "zbud")]


@pytest.fixture(autouse=True)
def python_compressor():
    """A compressor in Python, for the machines to switch to."""
    zswap.register_compressor(
        "test-model-zlib", lambda data: zlib.compress(data, 1), zlib.decompress
    )
    yield
    zswap.unregister_compressor("test-model-zlib")


def run(machine):
    """Run a machine under the profile's numbers of examples and steps."""
    quiet = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    run_state_machine_as_test(machine, settings=settings(suppress_health_check=quiet))


@pytest.mark.parametrize(("compressor", "zpool"), PAIRS)
def test_machine(compressor, zpool):
    run(type("Machine", (Model,), {"compressor": compressor, "zpool": zpool}))


def test_machine_with_checksums():
    run(type("Machine", (Model,), {"checksum": True}))


@pytest.mark.parametrize("page_size", [16384, 65536])
def test_machine_of_larger_pages(page_size):
    run(type("Machine", (Model,), {"page_size": page_size}))
