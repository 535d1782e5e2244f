"""Reclaim: a store that meets the limit makes room; what cannot be held is written together.

Races are forced: a hook of the backing store or of a compressor holds one thread up at the spot in
question.  Pages of noise take an allocator page each, so what the pools take is what they count.
"""

import contextlib
import errno
import random
import sys
import threading
import time

import numpy as np
import pytest

import zswap
from hooks.engine import shrink_if_wanted, stop_maintenance, waiting
from hooks.faults import FOREVER, fault
from zswap import BackingError, Status, SwapFile

PAGE = 4096
NEVER = 86400
LIMIT = 1000  # pages
NEAR = LIMIT - LIMIT // 32
GOAL = LIMIT - 1 - 2 * (LIMIT // 32)


def noise(seed, size=PAGE):
    return random.Random(seed).randbytes(size)


@pytest.fixture
def store(memory_store):
    return memory_store()


@pytest.fixture
def make(engine, store):
    """Make an engine of room for 1000 pages."""

    def make(backing=store, *args, **kwargs):
        quiet = {"shrinker_interval": NEVER, "shrinker_enabled": False}
        return engine(*args, backing=backing, **{"max_pool_bytes": LIMIT * PAGE} | quiet | kwargs)

    return make


def fill(z, count, start=0):
    for o in range(start, start + count):
        z.store(o, noise(o))


def check(z, offsets, seed=0):
    assert all(z.load(o) == noise(o + seed) for o in offsets)


def pool_pages(z):
    return z.stats().pool_total_size // PAGE


def where(z, count):
    """'m' for each page in memory, 'b' for one in the store, '-' for none."""
    return "".join(
        "m" if n >= 0 else "b" if n == -2 else "-" for n in z.compressed_sizes(range(count))
    )


# ---- room ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["single", "batch", "threads"])
def test_the_coldest_pages_go_and_no_other(make, how):
    z = make()
    if how == "single":
        fill(z, 3000)
    else:
        for at in range(0, 3000, 500):
            pages = b"".join(map(noise, range(at, at + 500)))
            status = z.store_many(range(at, at + 500), pages, threads=1 + (how == "threads"))
            assert set(status) == {Status.INCOMPRESSIBLE}
    s = z.stats()
    assert (s.written_through_pages, s.pool_limit_hit, s.reject_accept_threshold) == (0, 0, 0)
    assert s.backed_pages >= 2000
    found = where(z, 3000)
    cold = found.count("b")
    # Threads store chunks of 64 in no order.
    exact = cold if how != "threads" else cold - 256
    assert "m" not in found[:exact]
    assert "b" not in found[2 * cold - exact :]
    check(z, range(3000))


def test_steady_pressure_stays_near_the_limit(make):
    """No sawtooth down to the accept threshold, and never above the limit."""
    z = make(accept_threshold_percent=50)
    fill(z, LIMIT)
    seen = []
    for o in range(LIMIT, 4 * LIMIT):
        z.store(o, noise(o))
        seen.append(pool_pages(z))
    assert max(seen) <= LIMIT
    assert min(seen) >= GOAL - 2 * (LIMIT // 32)
    assert z.stats().written_through_pages == 0


def test_the_shrinker_begins_before_the_limit(make, until):
    z = make()
    fill(z, NEAR)
    assert z.stats().written_back_pages == 0
    fill(z, 1, start=NEAR)  # it finds the pool near the limit
    until(lambda: pool_pages(z) <= GOAL)
    assert z.stats().written_back_pages <= NEAR - GOAL + 16
    assert z.stats().pool_limit_hit == 0


def test_the_kernels_way_is_a_parameter(make, until):
    z = make(direct_reclaim=False)
    fill(z, LIMIT + 1)
    assert z.stats().pool_limit_hit == z.stats().written_through_pages == 1
    until(lambda: pool_pages(z) <= LIMIT * 9 // 10)
    z.parameters["direct_reclaim"] = True
    fill(z, LIMIT, start=LIMIT + 1)
    assert z.stats().written_through_pages == 1
    check(z, range(2 * LIMIT + 1))


def test_without_a_store_the_error_is_as_ever(make):
    z = make(None)
    fill(z, LIMIT)
    with pytest.raises(zswap.PoolLimitError):
        z.store(LIMIT, noise(0))
    assert z.store_many([1, LIMIT], noise(1) + noise(2)).tolist() == [
        Status.POOL_LIMIT,
        Status.ACCEPT_THRESHOLD,
    ]
    assert pool_pages(z) == LIMIT - 1  # and nothing stale is held


def test_an_area_without_a_store_gets_room_from_one_that_has_one(make, store):
    z = make()
    z.swapon(1)
    fill(z, LIMIT)
    for o in range(500):
        z.store(o, noise(o), swap_type=1)
    assert where(z, 500) == "b" * 500
    assert all(z.load(o, swap_type=1) == noise(o) for o in range(500))


def test_when_nothing_more_can_go_it_is_refused(make):
    z = make()
    z.swapon(1)
    for o in range(LIMIT - 10):
        z.store(o, noise(o), swap_type=1)
    fill(z, 30)
    # What cannot be written back fills the pool: the rest is written through.
    assert z.stats().pool_limit_hit == 0
    for o in range(LIMIT - 10, LIMIT):
        z.store(o, noise(o), swap_type=1)
    with pytest.raises(zswap.PoolLimitError):
        z.store(LIMIT, noise(1), swap_type=1)
    fill(z, 5, start=100)
    assert z.stats().written_through_pages == 5
    check(z, [*range(30), *range(100, 105)])


@pytest.mark.parametrize("zpool", ["zsmalloc", "z3fold"])
def test_what_was_freed_makes_room_before_any_page_goes(make, zpool):
    """Objects of one size, of which half are freed, leave their neighbours' memory behind; what
    comes then has another size."""
    z = make(zpool=zpool)
    stop_maintenance(z)
    n = 0
    while pool_pages(z) < NEAR - 20:
        z.store(n, noise(n, 700) + bytes(PAGE - 700))
        n += 1
    z.invalidate_many([o for o in range(n) if o % 8 > 1])
    assert pool_pages(z) > (0.6 if zpool == "z3fold" else 0.9) * NEAR
    for o in range(n, n + LIMIT // 3):
        z.store(o, noise(o, 3000) + bytes(PAGE - 3000))
        shrink_if_wanted(z)
    assert z.stats().written_back_pages == 0
    assert pool_pages(z) < NEAR
    for o in range(0, n, 8):
        assert z[o][:700] == noise(o, 700)


@pytest.mark.parametrize("zpool", ["zsmalloc", "zsmalloc-kernel", "zbud", "z3fold"])
def test_room_is_found_where_pages_go_in_no_order(make, store, make_page, zpool):
    """Their neighbours stay, so memory is freed late or by compaction only."""
    z = make(store, "lz4", zpool, max_pool_bytes="1MiB")
    rng = random.Random(zpool)
    held = {}
    for _ in range(4000):
        o = rng.randrange(1500)
        held[o] = make_page(o + rng.randrange(3) * 5000)
        z.store(o, held[o])
    assert z.stats().written_through_pages == 0
    assert z.stats().pool_total_size <= 1 << 20
    assert all(z.load(o) == page for o, page in held.items())


@pytest.mark.parametrize("pages", [4, 5, 33])
def test_small_pools(make, pages):
    z = make(max_pool_bytes=pages * PAGE)
    fill(z, 200)
    assert z.stats().written_through_pages == 0
    assert 0 < pool_pages(z) <= pages
    check(z, range(200))


def test_no_pool_at_all_writes_through(make, store):
    z = make(max_pool_bytes=0)
    fill(z, 3)
    assert (
        z.store_many(range(3, 9), b"".join(map(noise, range(3, 9)))).tolist()
        == [Status.WRITTEN_THROUGH] * 6
    )
    assert store.writes == [[0], [1], [2], [3, 4, 5, 6, 7, 8]]
    check(z, range(9))


def test_into_a_swap_file(make, tmp_path):
    file = SwapFile(tmp_path / "swap", "16MiB")
    z = make(file)
    z.store_many(range(4000), b"".join(map(noise, range(4000))), threads=2)
    assert z.stats().written_through_pages == 0
    assert file.stats()["written_pages"] >= 3000
    check(z, range(0, 4000, 7))


def test_a_limit_that_is_lowered_under_load(make):
    z = make(max_pool_bytes=4 * LIMIT * PAGE)
    fill(z, 3 * LIMIT)
    z.parameters["max_pool_bytes"] = 100 * PAGE
    fill(z, 200, start=3 * LIMIT)
    assert pool_pages(z) <= 100
    check(z, range(3 * LIMIT + 200))


# ---- budgets and failures ------------------------------------------------------------------------


def test_the_budget_is_not_overdrawn(make, store):
    z = make()
    z.parameters["writeback_limit"] = 10
    fill(z, LIMIT + 100)
    s = z.stats()
    assert s.written_back_pages == 10
    assert s.written_through_pages == s.pool_limit_hit + s.reject_accept_threshold > 0
    check(z, range(LIMIT + 100))
    z.parameters["writeback_limit"] = None
    fill(z, 100, start=LIMIT + 100)
    assert z.stats().written_through_pages == s.written_through_pages


def test_the_rate_is_honoured(make):
    z = make()
    z.parameters["writeback_rate"] = 40
    began = time.monotonic()
    fill(z, LIMIT + 500)
    assert z.stats().written_back_pages <= 40 * (2 + time.monotonic() - began)
    assert z.stats().written_through_pages > 0
    check(z, range(LIMIT + 500))


HELD = 2 * LIMIT - NEAR  # the first offset that is refused, of those from LIMIT on


def fail_flights(store, broken):
    """Fail the writes of pages that the pool holds; the others are those written through."""

    def hook(offsets):
        if broken and offsets[0] < HELD:
            raise OSError(errno.EIO, "broken")

    store.on_write = hook


def test_a_store_that_fails_loses_nothing_and_is_left_alone(make, store):
    z = make()
    fill(z, NEAR)
    broken = [True]
    fail_flights(store, broken)
    fill(z, 500, start=LIMIT)
    tried = len([batch for batch in store.writes if batch[0] < HELD])
    s = z.stats()
    assert s.written_back_pages == 0
    assert s.written_through_pages == 500 - (LIMIT - NEAR)
    # Each pause is twice as long as the one before: it is not tried for each page.
    assert 0 < tried < 400
    broken.clear()
    z.parameters["writeback_limit"] = None  # ends the pause
    fill(z, 300, start=2 * LIMIT)
    assert z.stats().written_through_pages == s.written_through_pages
    check(z, [*range(NEAR), *range(LIMIT, LIMIT + 500), *range(2 * LIMIT, 2 * LIMIT + 300)])


def test_the_pause_ends_by_itself(make, store, until):
    z = make()
    fill(z, NEAR)
    broken = [True]
    fail_flights(store, broken)
    fill(z, 100, start=LIMIT)
    broken.clear()
    at = iter(range(2 * LIMIT, 10**6))

    def stored():
        before = z.stats().written_through_pages
        fill(z, 1, start=next(at))
        return z.stats().written_through_pages == before

    until(stored)


def test_no_memory_for_flights(make):
    z = make()
    with fault("WRITEBACK_BUFFERS", times=FOREVER):
        fill(z, LIMIT + 50)
    assert z.stats().written_through_pages > 0
    assert z.stats().written_back_pages == 0
    check(z, range(LIMIT + 50))


def test_an_engine_that_holds_only_what_stays(make, store):
    """Same-filled pages have no place in the LRU: there is nobody to write back."""
    z = make(max_pool_bytes=4 * PAGE)
    for o in range(100, 200):
        z.store(o, bytes([o]) * PAGE)
    fill(z, 50)
    assert z.stats().same_filled_pages == 100
    check(z, range(50))


# ---- who waits for whom --------------------------------------------------------------------------


def hold_flights(store, gate):
    """Let what is written back wait at the gate; what is written through passes."""

    def hook(offsets):
        if offsets[0] < LIMIT:
            gate()

    store.on_write = hook
    return gate


@pytest.fixture
def stuck(make, store, gate, thread, until):
    """Make an engine whose flight is stuck until the block ends, with a thread that stores page
    after page, of which the last has no room and waits."""

    @contextlib.contextmanager
    def stuck():
        z = make()
        fill(z, NEAR)
        held = hold_flights(store, gate())
        fill(z, 1, LIMIT)  # wakes the shrinker, whose flight is stuck
        with held:
            filling = thread(fill, z, LIMIT - NEAR, LIMIT + 1)
            until(lambda: waiting(z) == 1)
            yield z, filling

    return stuck


def test_stores_wait_for_the_flight_and_are_held(stuck, thread, until):
    with stuck() as (z, filling):
        others = [thread(fill, z, 1, 2 * LIMIT + n) for n in range(3)]
        until(lambda: waiting(z) == 4)
        z.load(0)  # others are not kept waiting
        z.store(1, bytes(PAGE))
    for t in (filling, *others):
        t.join()
    assert z.stats().written_through_pages == z.stats().pool_limit_hit == 0
    assert waiting(z) == 0
    check(
        z,
        [
            0,
            *range(2, NEAR),
            *range(LIMIT, LIMIT + LIMIT - NEAR + 1),
            *range(2 * LIMIT, 2 * LIMIT + 3),
        ],
    )


def test_room_that_comes_otherwise_will_do(stuck):
    with stuck() as (z, filling):
        z.invalidate_range(500, 510)
        filling.join()  # the flight is still stuck
        assert waiting(z) == 0
    check(z, range(LIMIT, LIMIT + LIMIT - NEAR + 1))


def test_the_wait_is_bounded(stuck, thread, until):
    """Where the backing store takes for ever: what is refused then waits for it as a writer.  One
    wait after another would take half a minute."""
    with stuck() as (z, filling):
        others = [thread(fill, z, 1, 2 * LIMIT + n) for n in range(60)]
        until(lambda: z.stats().pool_limit_hit == 61)
        assert waiting(z) == 0
    for t in (filling, *others):
        t.join()
    assert z.stats().written_through_pages == 61
    check(z, [*range(NEAR), *range(LIMIT, LIMIT + LIMIT - NEAR + 1)])
    check(z, range(2 * LIMIT, 2 * LIMIT + 60))


def test_a_budget_that_is_used_up_ends_the_wait(stuck, until):
    with stuck() as (z, filling):
        z.parameters["writeback_limit"] = 0
        until(lambda: z.stats().pool_limit_hit == 1)
    filling.join()
    assert z.parameters["writeback_limit"] == 0


def test_close_while_stores_wait(stuck, thread, until):
    with stuck() as (z, filling):
        closing = thread(z.close)
        until(lambda: z.closed)
        assert closing.is_alive()
    filling.join()
    closing.join()


def test_swapoff_while_stores_wait(stuck, store, thread, until):
    with stuck() as (z, filling):
        leaving = thread(z.swapoff, 0)
        until(lambda: not z._online(0))
    with contextlib.suppress(ValueError):  # the area had gone
        filling.join()
    leaving.join()
    assert store.pages == {}
    assert waiting(z) == 0


def test_a_store_from_inside_a_flight_waits_for_nothing(make, store):
    z = make()
    fill(z, NEAR)
    inside = []

    depth = 0

    def hook(offsets):
        nonlocal depth
        if len(inside) < 300 and depth < 50:  # see below
            inside.append(5000 + len(inside))
            depth += 1
            z.store(inside[-1], noise(inside[-1]))
            depth -= 1

    store.on_write = hook
    z.shrink(10)
    fill(z, 500, start=LIMIT)
    store.on_write = lambda offsets: None
    check(z, [*range(NEAR), *range(LIMIT, LIMIT + 500), *inside])


def test_a_store_that_calls_itself_without_end(make, store):
    """The engine's threads have a small stack, and Python takes each for large."""
    z = make()
    fill(z, 10)
    z.parameters["enabled"] = False  # each is written through, by the store that it comes from
    depth, failures, innermost, page = 0, 0, "", noise(0)

    def hook(offsets):
        nonlocal depth, failures, innermost
        depth += 1
        try:
            z.store(5000 + depth, page)
        except BackingError as error:
            innermost = innermost or str(error)
            failures += 1
            raise

    store.on_write = hook
    before, limit = threading.stack_size(1 << 19), sys.getrecursionlimit()
    # The system may give the thread a larger stack, which another had: Python's own limit, of calls
    # of its own, is not to come first.
    sys.setrecursionlimit(100_000)
    try:
        writer = threading.Thread(target=z.shrink, args=(10,))
        writer.start()
        writer.join()
    finally:
        threading.stack_size(before)
        sys.setrecursionlimit(limit)
    assert failures == depth > 10
    assert "until the stack of the thread was used up" in innermost
    store.on_write = lambda offsets: None
    z.parameters["enabled"] = True
    check(z, range(10))
    assert z.shrink(10) == 10
    check(z, range(10))


def test_a_batch_from_inside_a_flight(make, store):
    z = make()
    fill(z, 10)
    done = []

    def hook(offsets):
        store.on_write = lambda offsets: None
        z.parameters["enabled"] = False
        done.extend(z.store_many([3, 50, 51], b"".join(map(noise, (3, 50, 51)))).tolist())

    store.on_write = hook
    z.shrink(10)
    # The page at 3 is in that very flight, which would land later.
    assert done == [Status.BACKING_FAIL, Status.WRITTEN_THROUGH, Status.WRITTEN_THROUGH]
    check(z, [*range(3), *range(4, 10), 50, 51])
    assert 3 not in z


def test_a_decompressor_that_stores(make, codec, store):
    """It runs inside a flight that a store waits for."""
    extra = []

    def decompress(data):
        if len(extra) < 20:
            extra.append(5000 + len(extra))
            z.store(extra[-1], noise(extra[-1]))
        return bytes(data) * 2

    z = make(
        store, codec(lambda page: bytes(page[: PAGE // 2]), decompress), max_pool_bytes=32 * PAGE
    )
    for o in range(200):
        z.store(o, noise(o)[: PAGE // 2] * 2)
    assert len(extra) == 20
    assert all(z.load(o) == noise(o)[: PAGE // 2] * 2 for o in range(200))


def test_many_threads_get_their_turn(make, thread, eager_switches):
    z = make(max_pool_bytes=64 * PAGE)
    threads = [thread(fill, z, 150, 1000 * n) for n in range(6)]
    for t in threads:
        t.join()
    assert z.stats().written_through_pages == z.stats().pool_limit_hit == 0
    assert waiting(z) == 0
    for n in range(6):
        check(z, range(1000 * n, 1000 * n + 150))


# ---- written through together --------------------------------------------------------------------


def batch(offsets, seed=0, size=PAGE):
    return b"".join(noise(o + seed, size) for o in offsets)


def test_refused_pages_go_together_and_sorted(make, store):
    z = make()
    z.parameters["enabled"] = False
    offsets = random.Random(1).sample(range(10_000), 100)
    assert z.store_many(offsets, batch(offsets)).tolist() == [Status.WRITTEN_THROUGH] * 100
    assert store.writes == [sorted(offsets[:64]), sorted(offsets[64:])]
    check(z, offsets)


@pytest.mark.parametrize(("page_size", "most"), [(16384, 16), (65536, 4)])
def test_they_are_bounded_by_bytes(make, store, page_size, most):
    z = make(store, "lz4", "zsmalloc", page_size, max_pool_bytes="64MiB")
    z.parameters["enabled"] = False
    z.store_many(range(70), batch(range(70), size=page_size))
    assert max(map(len, store.writes)) == most
    assert sum(map(len, store.writes)) == 70
    assert all(z.load(o) == noise(o, page_size) for o in range(70))


def test_neighbours_are_one_request(make, tmp_path):
    file = SwapFile(tmp_path / "swap", "1MiB")
    z = make(file)
    z.parameters["enabled"] = False
    z.store_many(range(64), batch(range(64)))
    assert file.stats()["write_requests"] == 1
    check(z, range(64))


def test_of_two_pages_at_an_offset_the_later_is_held(make, store):
    z = make()
    z.parameters["enabled"] = False
    z.parameters["same_filled_pages_enabled"] = True
    assert z.store_many([7, 8, 7], batch([7, 8, 9])).tolist() == [Status.WRITTEN_THROUGH] * 3
    assert z.load(7) == noise(9)
    assert store.writes == [[7, 8], [7]]
    # The later is held in the pool: the earlier must not come after it.
    z.parameters["enabled"] = True
    z.parameters["non_same_filled_pages_enabled"] = False
    assert z.store_many([5, 6, 5], batch([5, 6]) + b"a" * PAGE).tolist() == [
        3,
        3,
        Status.SAME_FILLED,
    ]
    assert z.load(5) == b"a" * PAGE
    assert z.load(6) == noise(6)


@pytest.mark.parametrize("bad", [{5}, {1, 2, 3, 4, 5, 6}, set()])
def test_a_write_that_fails_is_tried_page_by_page(make, store, bad):
    z = make()
    fill(z, 10)
    z.parameters["enabled"] = False

    def hook(offsets):
        if len(offsets) > 1 or bad & set(offsets):
            raise OSError(errno.ENOSPC, "full")

    store.on_write = hook
    status = z.store_many(range(1, 7), batch(range(1, 7), 100)).tolist()
    assert status == [
        Status.BACKING_FAIL if o in bad else Status.WRITTEN_THROUGH for o in range(1, 7)
    ]
    store.on_write = lambda offsets: None
    s = z.stats()
    assert (s.written_through_pages, s.backing_write_fail) == (6 - len(bad), len(bad))
    assert sorted(z) == [o for o in range(10) if o not in bad]
    check(z, [o for o in range(1, 7) if o not in bad], 100)
    check(z, [0, 7, 8, 9])


def test_the_first_page_that_failed_names_the_error(make, store):
    z = make()
    z.parameters["enabled"] = False

    def hook(offsets):
        if set(offsets) & {3, 70}:
            raise OSError(errno.EIO if 3 in offsets else errno.ENOSPC, "broken")

    store.on_write = hook
    with pytest.raises(BackingError) as caught:
        z.update({o: noise(o) for o in range(100)})
    assert caught.value.errno == errno.EIO


@pytest.mark.parametrize("site", ["BACKING_WRITE", "SCRATCH", "SLAB_BLOCK", "ENGINE"])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_faults_while_pages_go_together(make, store, site, nth):
    z = make()
    z.parameters["enabled"] = False
    with fault(site, nth=nth):
        status = z.store_many(range(20), batch(range(20)))
    for o, code in enumerate(status.tolist()):
        assert (o in z) == (code >= 0)
        if code >= 0:
            assert z.load(o) == noise(o)
    z._validate()


@pytest.mark.parametrize("what", ["load", "invalidate", "store"])
def test_calls_wait_for_all_of_them(make, store, gate, thread, what):
    z = make()
    fill(z, 10)
    z.parameters["enabled"] = False
    held = store.on_write = gate()
    storing = thread(z.store_many, range(10), batch(range(10), 100))
    with held:
        store.on_write = lambda offsets: None
        z.parameters["enabled"] = True
        other = thread(
            *{
                "load": (z.load, 5),
                "invalidate": (z.invalidate, 5),
                "store": (z.store, 5, noise(3)),
            }[what]
        )
        time.sleep(0.002)
        assert other.is_alive()
    assert storing.join().tolist() == [Status.WRITTEN_THROUGH] * 10
    done = other.join()
    if what == "load":
        assert done == noise(105)
    elif what == "invalidate":
        assert done
        assert 5 not in z
        assert 5 not in store.pages
    else:
        assert z.load(5) == noise(3)
    check(z, [o for o in range(10) if o != 5], 100)


def test_into_an_area_that_is_leaving(make, memory_store, store, gate, thread, until):
    z = make(memory_store())
    z.swapon(1, backing=store)
    z.store(0, noise(0), swap_type=1)
    held = store.on_write = gate()
    shrinking = thread(z.shrink, 1)
    with held:
        z.parameters["enabled"] = False
        storing = thread(lambda: z.store_many(range(1, 5), batch(range(1, 5)), swap_type=1))
        until(lambda: z.stats().reject_disabled == 4)
        leaving = thread(z.swapoff, 1)
        until(lambda: not z._online(1))
    shrinking.join()
    assert set(storing.join().tolist()) == {Status.NO_AREA}
    leaving.join()
    assert store.pages == {}
    assert z.stats().backed_pages == 0


@pytest.mark.parametrize("options", [{"checksum": True}, {"wipe_on_free": True}])
def test_with_checksums_and_wiping(make, store, options):
    z = make(**options)
    fill(z, 10)
    z.shrink(5)
    z.parameters["enabled"] = False
    z.store_many(range(20), batch(range(20), 100))
    z.parameters["enabled"] = True
    check(z, range(20), 100)
    z.store_many(range(0, 20, 2), batch(range(0, 20, 2)))
    check(z, range(0, 20, 2))
    check(z, range(1, 20, 2), 100)
    assert z.stats().backing_checksum_fail == 0


def test_what_they_took_is_given_back(make):
    z = make()
    z.store_many(range(4), batch(range(4)))
    before = z.stats().metadata_bytes
    z.parameters["enabled"] = False
    z.store_many(range(64), batch(range(64)))
    assert z.stats().metadata_bytes <= before + 65536


def test_times_of_refused_pages_are_recorded(make):
    z = make(latency=True)
    z.parameters["enabled"] = False
    z.store_many(range(100), batch(range(100)))
    assert z.latency()["store"].count == 100
    assert np.array(z.load_many(range(100))).tobytes() == batch(range(100))
