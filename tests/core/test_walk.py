"""Looking around an area: the next page that is held, the next hole, and what a range weighs;
against a dict.  And eviction by bytes, and of ranges, which come back."""

import itertools
import os
import random
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import zswap
from hooks.engine import stop_maintenance
from hooks.faults import fault

PAGE = 4096
LAST = 1 << 47
RUN, SHARD = 64, 1 << 14

# where something changes: runs, shards, the ends
EDGES = sorted(
    {
        edge + off
        for edge in (0, RUN, 2 * RUN, SHARD, 2 * SHARD, 5 * SHARD, LAST - SHARD, LAST)
        for off in (-2, -1, 0, 1)
        if 0 <= edge + off < LAST
    }
)


def next_held(held, offset):
    return min((o for o in held if o >= offset), default=None)


def next_hole(held, offset, limit):
    if offset >= limit:
        return None
    return next(o for o in itertools.count(offset) if o not in held)


@given(
    held=st.sets(st.sampled_from(EDGES)),
    gone=st.sets(st.sampled_from(EDGES)),
)
def test_against_a_set(held, gone):
    with zswap.ZSwap(max_pool_bytes="16MiB") as z:
        pages = np.ones((len(held), PAGE), np.uint8)
        z.store_many(sorted(held), pages)
        z.invalidate_many(sorted(gone))
        held -= gone
        for offset in EDGES:
            assert z.next_held(offset) == next_held(held, offset)
            assert z.next_hole(offset) == next_hole(held, offset, LAST)
        for start, stop in itertools.combinations(EDGES, 2):
            inside = sum(start <= o < stop for o in held)
            assert z.weight(start, stop) == (inside, inside, 0, 0)
        assert z.weight(0, LAST).pages == len(held)


def test_shards_that_are_full():
    with zswap.ZSwap(max_pool_bytes="16MiB") as z:
        z.swapon(1, 3 * SHARD + 5)
        z.store_many(range(3 * SHARD + 5), np.zeros((3 * SHARD + 5, PAGE), np.uint8), swap_type=1)
        assert z.next_hole(0, swap_type=1) == z.next_hole(SHARD, swap_type=1) == 3 * SHARD + 5
        assert z.next_hole(3 * SHARD + 5, swap_type=1) is None
        z.invalidate(2 * SHARD + 77, swap_type=1)
        assert z.next_hole(3, swap_type=1) == 2 * SHARD + 77
        assert z.next_hole(2 * SHARD + 78, swap_type=1) == 3 * SHARD + 5
        assert z.weight(100, 3 * SHARD, swap_type=1).pages == 3 * SHARD - 101


def test_every_kind_of_page(memory_store):
    with zswap.ZSwap(max_pool_bytes="16MiB", shrinker_enabled=False) as z:
        z.swapon(1, 1000, backing=memory_store())
        random_bytes = random.Random(1).randbytes
        z.store(0, bytes(PAGE), swap_type=1)
        z.store(1, random_bytes(100) + bytes(PAGE - 100), swap_type=1)
        z.store(2, random_bytes(PAGE), swap_type=1)
        sizes = z.compressed_sizes(range(3), swap_type=1).tolist()
        assert sizes[0] == 0 < sizes[1] < sizes[2] == PAGE
        assert z.weight(0, 1000, swap_type=1) == (3, 1, 0, sizes[1] + PAGE)
        assert z.shrink(1) == 1
        assert z.weight(0, 1000, swap_type=1) == (3, 1, 1, PAGE)
        assert z.weight(0, 1000) == (0, 0, 0, 0)
        assert z.next_held(1, swap_type=1) == 1


@pytest.mark.parametrize("call", ["next_held", "next_hole"])
@pytest.mark.parametrize("bad", [-1, LAST, "x", 1.0])
def test_bad_offsets(call, bad):
    with zswap.ZSwap() as z, pytest.raises((ValueError, TypeError), match="offset"):
        getattr(z, call)(bad)


def test_bad_ranges():
    with zswap.ZSwap() as z:
        for stop in (-1, LAST + 1):
            with pytest.raises(ValueError, match=r"stop .* out of range"):
                z.weight(0, stop)
        assert z.weight(5, 5) == z.weight(9, 3) == (0, 0, 0, 0)
        # an area that is not online holds nothing, and has no room for it
        assert z.next_held(swap_type=9) is z.next_hole(swap_type=9) is None
        assert z.weight(0, LAST, swap_type=9).pages == 0


# ---- eviction ------------------------------------------------------------------------------------


@pytest.fixture
def full(memory_store):
    """An engine that holds 500 pages of noise and 500 that compress, and its store."""
    with zswap.ZSwap(max_pool_bytes="64MiB", shrinker_enabled=False) as z:
        store = memory_store()
        z.swapon(1, 1000, backing=store)
        noise = random.Random(1).randbytes
        for offset in range(500):
            z.store(offset, noise(PAGE), swap_type=1)
            z.store(500 + offset, noise(1000) + bytes(PAGE - 1000), swap_type=1)
        yield z, store


@pytest.mark.parametrize("wanted", [1, 100_000, "1MiB"])
def test_as_much_as_wanted_is_freed(full, wanted):
    z, store = full
    z.shrink(1)  # the buffers of writeback are there, as they stay
    before = z.stats().resident_bytes
    freed = z.evict(wanted)
    number = 1 << 20 if wanted == "1MiB" else wanted
    assert number <= freed <= number + (256 << 10)
    assert before - z.stats().resident_bytes == freed
    # the coldest, in the order in which they came
    out = {o for batch in store.writes for o in batch}
    assert out == {o for n in range(len(out)) for o in [n // 2 + 500 * (n % 2)]}


def test_all_of_it(full):
    z, _ = full
    before = z.stats()
    assert z.evict(1 << 60) <= before.resident_bytes
    assert z.stats().pool_total_size == 0
    assert z.evict(1 << 60) == 0
    assert z.weight(0, 1000, swap_type=1) == (1000, 0, 1000, 0)


def test_nothing_to_evict_to():
    with zswap.ZSwap(max_pool_bytes="16MiB") as z:
        z[0] = os.urandom(PAGE)
        assert z.evict("1MiB") == 0
        assert z.evict(0) == 0
        assert 0 in z
        with pytest.raises(ValueError, match="-5"):
            z.evict(-5)


def test_a_store_that_fails_ends_it(full):
    z, store = full

    def hook(offsets):
        raise OSError(5, "broken")

    store.on_write = hook
    # the buffers of writeback have come: nothing was freed
    assert z.evict("1MiB") == 0
    assert z.stats().stored_pages == 1000


# ---- a range, pushed out and brought back --------------------------------------------------------


@pytest.fixture
def make(engine, memory_store):
    """An engine with pages here and there, some same-filled, over many shards; and its store."""

    def make(page_size=PAGE, backing=None, places=PLACES, **options):
        store = memory_store() if backing is None else backing
        z = engine(
            max_pool_bytes="64MiB",
            backing=store,
            page_size=page_size,
            shrinker_enabled=False,
            **{"promote": "never", **options},
        )
        for n in places:
            z[n] = page_at(n, page_size)
        return z, store

    return make


PLACES = [*range(70), *range(100, 300, 3), *range(16380, 16390), 1 << 20, 1 << 40]


def page_at(n, page_size=PAGE, version=0):
    if n % 7 == 3:
        return bytes([n & 255, *bytes(7)]) * (page_size // 8)
    return random.Random(n << 8 | version).randbytes(1000) + bytes(page_size - 1000)


def backed(z):
    """Which pages are in the store alone."""
    return {n for n in z if z.compressed_sizes([n])[0] == -2}


RANGES = [
    range(0, 0),
    range(5, 6),
    range(10, 120),
    range(16000, 17000),
    range(0, 1 << 41),
    range(299, 16380),
]


@pytest.mark.parametrize("there", RANGES, ids=str)
@pytest.mark.parametrize("page_size", [PAGE, 65536])
def test_a_range_goes_and_comes_back(make, there, page_size):
    z, _ = make(page_size)
    z.shrink(0)
    went = {n for n in PLACES if n in there and n % 7 != 3}
    before = z.stats()
    freed = z.evict(there)
    assert backed(z) == went
    assert z.stats().written_back_pages == len(went)
    assert freed == max(before.resident_bytes - z.stats().resident_bytes, 0)
    assert z.evict(there) == 0
    assert z.promote(there) == len(went) == z.stats().promoted_pages
    assert backed(z) == set()
    assert z.promote(there) == 0
    # the store has them still: no write
    z.evict(there)
    assert z.stats().clean_evictions == len(went)
    assert backed(z) == went
    assert all(z[n] == page_at(n, page_size) for n in PLACES)
    z._validate()


def test_a_range_of_one_area_is_of_that_alone(make, memory_store):
    z, _ = make()
    z.swapon(3, 1000, backing=memory_store())
    z.swapon(4, 1000)
    for area in (3, 4):
        for n in range(20):
            z.store(n, page_at(n), swap_type=area)
    assert z.evict(range(0, 1000), swap_type=3) >= 0
    assert z.stats().written_back_pages == sum(n % 7 != 3 for n in range(20))
    assert z.weight(0, 1000, swap_type=4).backed == z.weight(0, 1000).backed == 0
    assert z.evict(range(0, 1000), swap_type=4) == z.promote(range(0, 1000), swap_type=4) == 0
    assert z.promote(range(0, 1000)) == 0
    assert z.weight(0, 1000, swap_type=3).backed > 0


def test_wrong_ranges(make):
    z, _ = make()
    for wrong in (range(0, 10, 2), range(10, 0, -1)):
        for call in (z.evict, z.promote):
            with pytest.raises(ValueError, match="has a step of"):
                call(wrong)
    for call in (z.evict, z.promote):
        with pytest.raises((ValueError, OverflowError), match="-1"):
            call(range(-1, 10))
    with pytest.raises(TypeError, match="a range is needed"):
        z.promote(10)
    assert z.stats().written_back_pages == 0


def test_promote_ends_at_the_limit(make):
    z, _ = make()
    z.evict(range(0, 1 << 41))
    z.parameters["max_pool_bytes"] = 10 * PAGE
    stop_maintenance(z)  # which would make room for more
    came = z.promote(range(0, 1 << 41))
    assert 0 < came < len(PLACES) // 2
    assert z.stats().pool_total_size <= 10 * PAGE
    z._validate()


def test_the_budget_of_writeback_holds_for_ranges(make):
    z, _ = make()
    z.parameters["writeback_limit"] = 7
    z.evict(range(0, 1 << 41))
    assert z.stats().written_back_pages == 7
    assert z.evict(range(0, 1 << 41)) == 0


def test_a_store_that_fails_ends_a_range(make):
    z, store = make()

    def broken(offsets):
        raise OSError(5, "broken")

    store.on_write = broken
    assert z.evict(range(0, 1 << 41)) == 0
    assert (z.stats().written_back_pages, backed(z)) == (0, set())
    store.on_write = lambda offsets: None
    z.evict(range(0, 1 << 41))
    with fault("BACKING_READ"):
        assert z.promote(range(0, 70)) == 0
    assert z.promote(range(0, 70)) == 60
    assert all(z[n] == page_at(n) for n in PLACES)


def test_damage_is_left_to_who_loads_it(make):
    z, store = make(checksum=True)
    z.evict(range(0, 1 << 41))
    store.pages[5] = page_at(6)
    assert z.promote(range(0, 10)) == 8
    assert backed(z) & set(range(10)) == {5}
    with pytest.raises(zswap.PageCorruptError):
        z[5]


def test_pages_stored_while_a_range_comes_back(make):
    """What was read is of before: it does not stay."""
    z, store = make()
    z.evict(range(0, 1 << 41))

    def meanwhile(offsets, out):
        del store.read_pages
        store.read_pages(offsets, out)
        z[2], z[4] = page_at(2, version=1), page_at(4, version=1)
        z.evict(range(4, 5))
        z.invalidate(6)

    store.read_pages = meanwhile
    assert z.promote(range(0, 10)) == 9 - 3
    assert z[2] == page_at(2, version=1)
    assert z[4] == page_at(4, version=1)
    assert 6 not in z
    z._validate()


@pytest.mark.slow
def test_ranges_beside_everything(make, tmp_path, thread):
    z, _ = make(
        backing=zswap.SwapFile(tmp_path / "swap", "64MiB", packed=True), places=PLACES[:130]
    )
    stop = threading.Event()

    def meddle(call, seed):
        rng = random.Random(seed)
        while not stop.is_set():
            start = rng.randrange(300)
            call(range(start, start + rng.randrange(100)))

    threads = [thread(meddle, call, n) for n, call in enumerate((z.evict, z.promote, z.evict))]
    held = {}
    rng = random.Random(7)
    for step in range(3000):
        n = rng.choice(PLACES[:130])
        if rng.random() < 0.1:
            z.invalidate(n)
            held[n] = None
        elif rng.random() < 0.5:
            z[n] = held[n] = page_at(n, version=step)
        else:
            assert z.get(n) == held.get(n, page_at(n))
    stop.set()
    for t in threads:
        t.join()
    z._validate()
