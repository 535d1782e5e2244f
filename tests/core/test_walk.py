"""Looking around an area: the next page that is held, the next hole, and what a range weighs;
against a dict.  And eviction by bytes."""

import itertools
import os
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import zswap

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
