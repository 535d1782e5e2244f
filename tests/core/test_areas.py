"""Areas: what each holds, counted as it comes and goes, and how much of the pool it may take.

That the figures are what a scan finds is checked by validate() after every test of an engine, and
after every step of the model of test_writeback_model.py, which sets quotas too.
"""

import random

import numpy as np
import pytest

import zswap
from hooks.faults import FOREVER, fault
from zswap import Status

PAGE = 4096


def noise(seed, size=PAGE):
    return random.Random(seed).randbytes(size)


def half(seed):
    return noise(seed, PAGE // 2) + bytes(PAGE // 2)


@pytest.fixture
def z(engine):
    return engine(max_pool_bytes="64MiB", shrinker_enabled=False, shrinker_interval=86400)


def area(z, swap_type):
    return next(a for a in z.areas() if a.swap_type == swap_type)


def figures(z, swap_type):
    """Compressed, same-filled, raw and backed pages."""
    a = area(z, swap_type)
    return (
        a.pool_pages - a.stored_incompressible_pages,
        a.same_filled_pages,
        a.stored_incompressible_pages,
        a.backed_pages,
    )


# ---- what an area holds --------------------------------------------------------------------------


def test_each_area_counts_its_own(z, memory_store):
    store = memory_store()
    z.swapon(3, 1000, backing=store)
    z.store(0, half(0))
    z.store(1, bytes(PAGE), swap_type=3)
    z.store(2, noise(2), swap_type=3)
    z.store(999, half(3), swap_type=3)
    first, third = z.areas()
    assert (first.swap_type, first.nr_pages, first.backing) == (0, 1 << 47, None)
    assert (third.swap_type, third.nr_pages) == (3, 1000)
    assert (third.stored_pages, third.held_pages, third.pool_pages) == (3, 3, 2)
    assert figures(z, 0) == (1, 0, 0, 0)
    assert figures(z, 3) == (1, 1, 1, 0)
    assert first.quota_bytes is third.quota_bytes is None
    assert first.compressed_bytes == z.compressed_sizes([0])[0]
    assert third.compressed_bytes == z.weight(0, 1000, swap_type=3).compressed_bytes
    with pytest.raises(AttributeError):
        first.stored_pages = 7


@pytest.mark.parametrize("exclusive", [False, True])
def test_figures_follow_pages_everywhere(z, memory_store, exclusive):
    z.swapon(1, backing=memory_store())
    z.parameters["promote"] = "always"
    for o in range(8):
        z.store(o, half(o), swap_type=1)
    z.store(8, bytes(PAGE), swap_type=1)
    assert z.shrink(4) == 4
    assert figures(z, 1) == (4, 1, 0, 4)
    assert z.load(0, swap_type=1) == half(0)  # and it stays
    assert figures(z, 1) == (5, 1, 0, 3)
    assert z.evict(range(0, 1), swap_type=1) >= 0  # the store has it
    assert figures(z, 1) == (4, 1, 0, 4)
    z.store(1, noise(9), swap_type=1)  # in place of one in the store
    z.store(8, noise(8), swap_type=1)  # of a same-filled one
    z.store(7, bytes(PAGE), swap_type=1)  # by one
    assert figures(z, 1) == (3, 1, 2, 3)
    z.parameters["exclusive_loads"] = exclusive
    for o in (1, 2, 7):
        z.load(o, swap_type=1)
    assert figures(z, 1) == ((3, 0, 1, 2) if exclusive else (4, 1, 2, 2))
    z.invalidate_range(0, 100, swap_type=1)
    assert figures(z, 1) == (0, 0, 0, 0)
    assert area(z, 1).compressed_bytes == 0


def test_recompression_counts(z):
    for o in range(50):
        z.store(o, noise(o, PAGE // 2).hex().encode())
    before = area(z, 0).compressed_bytes
    z.set_quota(0, before)
    assert z.recompress("deflate:9").moved == 50
    assert area(z, 0).compressed_bytes == z.stats().compressed_bytes < before


def test_areas_that_are_offline_are_not_listed(z):
    z.swapon(255, 7)
    z.store(0, noise(1), swap_type=255)
    assert [a.swap_type for a in z.areas()] == [0, 255]
    z.swapoff(255)
    assert [a.swap_type for a in z.areas()] == [0]
    z.swapon(255, 9, quota_bytes=1)
    assert (area(z, 255).held_pages, area(z, 255).nr_pages) == (0, 9)
    z.swapoff(255)
    z.swapon(255, 9)
    assert area(z, 255).quota_bytes is None
    z.store(1, noise(1), swap_type=255)


def test_the_sum_is_what_stats_says(z, memory_store):
    z.swapon(1, backing=memory_store())
    z.swapon(2)
    rng = random.Random(1)
    for _ in range(400):
        kind = rng.choice([half, noise, lambda _: bytes(PAGE)])
        z.store(rng.randrange(40000), kind(rng.random()), swap_type=rng.randrange(3))
    z.shrink(30)
    s = z.stats()
    for name in (
        "stored_pages",
        "same_filled_pages",
        "stored_incompressible_pages",
        "compressed_bytes",
        "backed_pages",
    ):
        assert sum(getattr(a, name) for a in z.areas()) == getattr(s, name)


# ---- quotas --------------------------------------------------------------------------------------


def test_without_a_store_pages_beyond_the_quota_are_refused(z):
    z.swapon(2, quota_bytes=10 * PAGE)
    for o in range(10):
        z.store(o, noise(o), swap_type=2)
    with pytest.raises(zswap.PoolLimitError, match=r"area 2.*40960.*set_quota\(2"):
        z.store(10, noise(10), swap_type=2)
    assert z.stats().reject_area_quota == 1
    assert area(z, 2).compressed_bytes == area(z, 2).quota_bytes == 10 * PAGE
    z.store(10, bytes(PAGE), swap_type=2)  # takes nothing
    z.store(3, noise(33), swap_type=2)  # takes no more than it replaces
    assert z.load(3, swap_type=2) == noise(33)
    assert z.store_many([4, 11], noise(4) + noise(11), swap_type=2).tolist() == [
        Status.INCOMPRESSIBLE,
        Status.AREA_QUOTA,
    ]
    with pytest.raises(zswap.StoreError, match="AREA_QUOTA"):
        z.store_many([11], noise(11), swap_type=2, errors="raise")
    z.invalidate(0, swap_type=2)
    z.store(11, noise(11), swap_type=2)
    assert z.load(10, swap_type=2) == bytes(PAGE)


def test_it_is_exact_to_the_byte(z):
    size = z.compressed_sizes
    z.swapon(1)
    z.store(0, half(0), swap_type=1)
    one = int(size([0], swap_type=1)[0])
    z.set_quota(1, 3 * one - 1)
    z.store(1, half(1), swap_type=1)
    with pytest.raises(zswap.PoolLimitError):
        z.store(2, half(2), swap_type=1)
    z.set_quota(1, 3 * one)
    z.store(2, half(2), swap_type=1)
    with pytest.raises(zswap.PoolLimitError):
        z.store(2, noise(2), swap_type=1)  # longer than what it would replace
    assert 2 not in z.compressed_sizes([2], swap_type=1)  # as after any refusal nothing is held
    assert size([2], swap_type=1)[0] == -1


def test_refused_pages_leave_nothing_behind(z):
    z.swapon(1, quota_bytes=PAGE)
    z.store(5, noise(5), swap_type=1)
    z.store(70000, bytes(PAGE), swap_type=1)
    for o in (6, 70000, 1 << 40):
        with pytest.raises(zswap.PoolLimitError):
            z.store(o, noise(o), swap_type=1)
    assert figures(z, 1) == (0, 0, 1, 0)
    assert z.next_held(6, swap_type=1) is None


def test_its_own_coldest_pages_make_room_and_no_other(z, memory_store):
    z.swapon(1, backing=memory_store(), quota_bytes=100 * PAGE)
    z.swapon(2, backing=memory_store())
    for o in range(50):
        z.store(o, noise(o), swap_type=2)  # colder than all that follows
    for o in range(300):
        z.store(o, noise(o), swap_type=1)
        assert area(z, 1).compressed_bytes <= 100 * PAGE
    assert figures(z, 2) == (0, 0, 50, 0)
    where = z.compressed_sizes(range(300), swap_type=1)
    kept = int((where == PAGE).sum())
    assert 90 <= kept <= 100
    assert (where[300 - kept :] == PAGE).all()  # the youngest
    assert z.stats().written_through_pages == z.stats().reject_area_quota == 0
    for o in range(300):
        assert z.load(o, swap_type=1) == noise(o)


def test_pages_in_use_get_a_second_chance(z, memory_store):
    z.swapon(1, backing=memory_store(), quota_bytes=100 * PAGE)
    for o in range(100):
        z.store(o, noise(o), swap_type=1)
    for o in range(50):
        z.load(o, swap_type=1)
    z.store(100, noise(100), swap_type=1)
    where = z.compressed_sizes(range(101), swap_type=1)
    assert (where[:50] == PAGE).all()
    assert where[50] == -2
    for o in range(101):
        z.load(o, swap_type=1)
    z.store(101, noise(101), swap_type=1)  # all are in use: the oldest go all the same
    assert area(z, 1).compressed_bytes <= 100 * PAGE
    assert z.stats().reject_area_quota == 0


def test_a_quota_that_is_set_is_met_at_once(z, memory_store):
    z.swapon(1, backing=memory_store())
    for o in range(1500):
        z.store(o, noise(o), swap_type=1)
    z.store(0, noise(0))
    z.set_quota(1, "1MiB")
    assert 900 << 10 <= area(z, 1).compressed_bytes <= 1 << 20 == area(z, 1).quota_bytes
    assert figures(z, 0) == (0, 0, 1, 0)
    where = z.compressed_sizes(range(1500), swap_type=1)
    assert (where[:1200] == -2).all()
    z.set_quota(1, None)
    for o in range(1500):
        z.store(o, noise(o), swap_type=1)
    assert area(z, 1).compressed_bytes == 1500 * PAGE
    z.set_quota(1, 0)
    assert figures(z, 1) == (0, 0, 0, 1500)
    z.store(1500, noise(1), swap_type=1)
    assert z.stats().written_through_pages == 1
    assert z.stats().reject_area_quota == 1


def test_without_a_store_what_is_above_stays(z):
    for o in range(20):
        z.store(o, noise(o))
    z.set_quota(0, 10 * PAGE)
    assert area(z, 0).compressed_bytes == 20 * PAGE
    with pytest.raises(zswap.PoolLimitError):
        z[20] = noise(20)
    z[3] = noise(3)
    z.invalidate_range(0, 11)
    z[20] = noise(20)
    assert len(z) == 10


def test_a_store_that_fails_refuses(z, memory_store):
    store = memory_store()
    z.swapon(1, backing=store, quota_bytes=10 * PAGE)
    for o in range(10):
        z.store(o, noise(o), swap_type=1)

    def broken(offsets):
        raise OSError(5, "broken")

    store.on_write = broken
    with pytest.raises(zswap.BackingError):
        z.store(10, noise(10), swap_type=1)
    assert z.stats().reject_area_quota == 1
    assert all(z.load(o, swap_type=1) == noise(o) for o in range(10))
    store.on_write = lambda offsets: None
    z.store(10, noise(10), swap_type=1)
    assert area(z, 1).compressed_bytes <= 10 * PAGE


@pytest.mark.parametrize("how", ["direct_reclaim off", "no budget", "no memory"])
def test_what_cannot_be_written_back_goes_through(z, memory_store, how):
    z.swapon(1, backing=memory_store(), quota_bytes=10 * PAGE)
    for o in range(10):
        z.store(o, noise(o), swap_type=1)
    if how == "no memory":
        with fault("WRITEBACK_BUFFERS", times=FOREVER):
            z.store(10, noise(10), swap_type=1)
    else:
        z.parameters["direct_reclaim"] = how != "direct_reclaim off"
        z.parameters["writeback_limit"] = 0 if how == "no budget" else None
        z.store(10, noise(10), swap_type=1)
    # direct_reclaim is about the limit
    assert z.stats().written_through_pages == (how != "direct_reclaim off")
    assert z.load(10, swap_type=1) == noise(10)


def test_promotion_keeps_to_it(z, memory_store):
    z.swapon(1, backing=memory_store(), quota_bytes=10 * PAGE)
    z.parameters["promote"] = "always"
    for o in range(30):
        z.store(o, noise(o), swap_type=1)
    for o in range(30):
        assert z.load(o, swap_type=1) == noise(o)
    z.promote(range(0, 30), swap_type=1)
    assert 9 <= figures(z, 1)[2] <= 10


@pytest.mark.parametrize("backed", [False, True])
def test_several_buffers_are_all_there_or_not(z, memory_store, backed):
    z.swapon(1, backing=memory_store() if backed else None, quota_bytes=10 * PAGE)
    z.storev(0, [noise(1, 6 * PAGE)], swap_type=1)
    if backed:
        z.storev(0, [noise(2, 6 * PAGE)], swap_type=1)
    else:
        with pytest.raises(zswap.PoolLimitError):  # there is no room for the new beside the old
            z.storev(0, [noise(2, 6 * PAGE)], swap_type=1)
    out = bytearray(6 * PAGE)
    z.loadv(0, [out], swap_type=1)
    assert out == noise(2 if backed else 1, 6 * PAGE)
    z._validate()
    z.storev(6, [noise(3, 4 * PAGE)], swap_type=1)
    assert area(z, 1).compressed_bytes <= 10 * PAGE


def test_parts_keep_to_it(z):
    z.swapon(1, quota_bytes=PAGE)
    z.store_part(0, 7, b"part", swap_type=1, absent="zeros")
    z.store(0, half(0), swap_type=1)
    z.store(1, half(1)[: PAGE // 4] + bytes(3 * PAGE // 4), swap_type=1)
    held = z.load(1, swap_type=1)
    with pytest.raises(zswap.PoolLimitError):
        z.store_part(1, PAGE // 2, noise(5, PAGE // 2), swap_type=1)
    assert z.load(1, swap_type=1) == held  # of a part the caller has not the rest


def test_many_threads_stay_within_it(z, memory_store, thread):
    z.swapon(1, backing=memory_store(), quota_bytes=64 * PAGE)
    z.swapon(2, quota_bytes=64 * PAGE)

    def storm(seed):
        rng = random.Random(seed)
        for _ in range(150):
            o, kind = rng.randrange(200), rng.choice([half, noise])
            z.store(o, kind(o), swap_type=1)
            z.store_many([o], kind(o), swap_type=2)
            assert area(z, 2).compressed_bytes <= 64 * PAGE + PAGE * 3

    threads = [thread(storm, seed) for seed in range(3)]
    for t in threads:
        t.join()
    z._validate()
    for swap_type in (1, 2):
        assert area(z, swap_type).compressed_bytes <= 64 * PAGE
    for o in range(200):
        page = z.load(o, swap_type=1, absent="zeros")
        assert page in (half(o), noise(o), bytes(PAGE))


def test_a_storm_of_changes_of_the_quota(z, thread):
    z.swapon(1)
    rng = np.random.default_rng(1)
    pages = rng.integers(0, 256, (64, PAGE), np.uint8)

    def store():
        for i in range(100):
            z.store_many(rng_offsets[i], pages, swap_type=1)

    rng_offsets = rng.integers(0, 100000, (100, 64))
    t = thread(store)
    for i in range(60):
        z.set_quota(1, [None, 1 << 20, 1 << 30][i % 3])
    t.join()
    z._validate()
    z.set_quota(1, 1 << 30)
    z._validate()


@pytest.mark.parametrize("quota", [-1, -(1 << 80), 1.5, "many", [1]])
def test_bad_quotas(z, quota):
    with pytest.raises((ValueError, TypeError)):
        z.swapon(1, quota_bytes=quota)
    with pytest.raises((ValueError, TypeError)):
        z.set_quota(0, quota)
    with pytest.raises(ValueError, match="area 1 is not online"):
        z.set_quota(1, 100)
    with pytest.raises(ValueError, match="256"):
        z.set_quota(256, 100)
    assert [a.swap_type for a in z.areas()] == [0]
    z.set_quota(0, 1 << 100)
    z[0] = noise(0)
