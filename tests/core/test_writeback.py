"""Writeback: which pages go, in what order, what is found afterwards, what a failure leaves, and
every race around it.

Races are forced: a hook of the backing store or of a compressor holds one thread up at the spot in
question.
"""

import errno
import random
import time
from itertools import chain

import numpy as np
import pytest

from hooks.faults import fault
from zswap import BackingError, PageCorruptError, Status, SwapFile
from zswap_core.backings import open_backing

PAGE = 4096


def noise(seed):
    return random.Random(seed).randbytes(PAGE)


@pytest.fixture
def make(engine, memory_store):
    """Make an engine with a store and no shrinker of its own."""

    def make(backing=None, *args, **kwargs):
        kwargs = {
            "max_pool_bytes": "64MiB",
            "shrinker_interval": 3600,
            "shrinker_enabled": False,
            "promote": "never",
        } | kwargs
        return engine(*args, backing=memory_store() if backing is None else backing, **kwargs)

    return make


@pytest.fixture
def store(memory_store):
    return memory_store()


@pytest.fixture
def fill(make_page):
    """Store pages made of their offsets."""

    def fill(z, *offsets, swap_type=0):
        for o in offsets:
            z.store(o, make_page(o), swap_type=swap_type)

    return fill


@pytest.fixture
def check(make_page):
    """Load pages and compare them with what `fill` stored."""

    def check(z, *offsets, swap_type=0):
        for o in offsets:
            assert z.load(o, swap_type=swap_type) == make_page(o)

    return check


def sizes(z, *offsets, swap_type=0):
    """'m' for a page in memory, 'b' for one in the store, '-' for none."""
    taken = z.compressed_sizes(list(offsets), swap_type=swap_type)
    return "".join("m" if n >= 0 else "b" if n == -2 else "-" for n in taken)


# ---- which pages go ------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [0, 1, 7, 20, 21, 1 << 60])
def test_shrink_writes_what_it_says(make, store, fill, check, asked):
    z = make(store)
    fill(z, *range(20))
    done = min(asked, 20)
    assert z.shrink(asked) == done
    assert sum(map(len, store.writes)) == done
    assert sizes(z, *range(20)) == "b" * done + "m" * (20 - done)
    s = z.stats()
    assert (s.written_back_pages, s.backed_pages, s.stored_pages) == (done, done, 20 - done)
    z._validate()
    check(z, *range(20))
    assert z.stats().backing_loads == done
    assert z.stats().reject_reclaim_fail == s.backing_write_fail == 0


def test_shrink_takes_whole_numbers_from_0_only(make):
    z = make()
    for bad in (-1, 1.0, "1", None):
        with pytest.raises((TypeError, ValueError)):
            z.shrink(bad)
    for bad in (0, -1, 1 << 22):
        with pytest.raises(ValueError, match="idle_seconds is"):
            z.shrink(1, idle_seconds=bad)


def test_without_a_store_nothing_goes(engine, fill):
    z = engine(max_pool_bytes="1MiB")
    fill(z, 0, 1)
    assert z.shrink(2) == 0
    assert sizes(z, 0, 1) == "mm"


def test_the_coldest_go_first_in_batches_sorted_by_place(make, store, fill):
    z = make(store)
    order = random.Random(1).sample(range(100_000), 600)
    fill(z, *order)
    assert z.shrink(600) == 600
    assert [len(batch) for batch in store.writes] == [256, 256, 88]
    assert [sorted(order[:256]), sorted(order[256:512]), sorted(order[512:])] == store.writes


def test_storing_anew_makes_a_page_the_youngest(make, store, fill):
    z = make(store)
    fill(z, 0, 1, 2)
    fill(z, 0)
    assert z.shrink(2) == 2
    assert store.writes == [[1, 2]]


def test_a_loaded_page_gets_one_more_round_and_no_second(make, store, fill, check):
    z = make(store)
    fill(z, *range(10))
    check(z, *range(5))
    assert z.shrink(3) == 3
    assert store.writes == [[5, 6, 7]]
    assert z.shrink(5) == 5
    assert store.writes[1:] == [[0, 1, 2, 8, 9]]
    # 3 and 4 have lost their mark, and get it back by another load only.
    check(z, 3)
    assert z.shrink(1) == 1
    assert store.writes[2:] == [[4]]
    assert z.shrink(1) == 1
    assert sizes(z, *range(10)) == "b" * 10


def test_all_pages_referenced_go_all_the_same(make, store, fill, check):
    z = make(store)
    fill(z, *range(600))
    check(z, *range(600))
    assert z.shrink(600) == 600
    assert sorted(chain.from_iterable(store.writes)) == list(range(600))


def test_same_filled_pages_stay(make, store, fill):
    z = make(store)
    for o in range(5):
        z.store(o, bytes([o]) * PAGE)
    fill(z, 5)
    assert z.shrink(10) == 1
    assert store.writes == [[5]]
    assert sizes(z, *range(6)) == "mmmmmb"


def test_idle_pages_only(make, store, fill, check):
    z = make(store)
    fill(z, *range(6))
    z._age(1000)
    check(z, 1)
    fill(z, 6)
    assert z.shrink(10, idle_seconds=2000) == 0
    # Referenced or not: 1 was accessed a moment ago, the others were not.
    assert z.shrink(10, idle_seconds=999) == 5
    assert store.writes == [[0, 2, 3, 4, 5]]
    z._age(5000)
    assert z.shrink(10, idle_seconds=5000) == 2
    assert store.writes[1:] == [[1, 6]]


def test_every_kind_of_page_comes_back(make, store):
    z = make(store)
    pages = {
        0: b"a" * 4095 + b"b",
        1: noise(1),
        2: bytes(4088) + b"12345678",
        (1 << 47) - 1: noise(2)[:2048] * 2,
    }
    for o, page in pages.items():
        z.store(o, page)
    assert z.shrink(10) == 4
    assert store.pages == pages
    for o, page in pages.items():
        assert z.load(o) == page


@pytest.mark.parametrize("page_size", [16384, 65536])
def test_larger_pages(make, store, make_page, page_size):
    z = make(store, "lz4", "zsmalloc", page_size)
    for o in range(300):
        z.store(o, make_page(o, page_size))
    assert z.shrink(300) == 300
    assert all(z.load(o) == make_page(o, page_size) for o in range(300))


@pytest.mark.parametrize("zpool", ["zsmalloc", "zsmalloc-kernel", "zbud", "z3fold"])
@pytest.mark.parametrize("compressor", ["lz4", "zstd", "deflate"])
def test_every_allocator_and_compressor(make, store, fill, check, compressor, zpool):
    z = make(store, compressor, zpool)
    fill(z, *range(50))
    assert z.shrink(30) == 30
    check(z, *range(50))


# ---- pages in the store --------------------------------------------------------------------------


def test_a_backed_page_is_held(make, store, fill):
    z = make(store)
    fill(z, 3, 70000)
    z.shrink(2)
    assert 3 in z
    assert len(z) == 2
    assert list(z) == [3, 70000]
    assert dict(z.items()) == store.pages


def test_a_load_leaves_the_page_in_the_store(make, store, fill, check):
    z = make(store)
    fill(z, 0)
    z.shrink(1)
    check(z, 0, 0)
    out = np.empty((2, PAGE), np.uint8)
    status = np.empty(2, np.int8)
    z.load_many([0, 0], out, status=status, threads=2)
    assert status.tolist() == [Status.STORED] * 2
    assert out.tobytes() == store.pages[0] * 2
    assert sizes(z, 0) == "b"
    assert z.stats().backing_loads == 4
    assert store.reads == [[0]] * 3  # the batch read it once
    assert store.discards == []


@pytest.mark.parametrize("batch", [False, True])
def test_an_exclusive_load_frees_the_page_in_the_store_too(
    make, store, fill, check, make_page, batch
):
    z = make(store)
    fill(z, 0, 1, 2)
    z.shrink(2)
    z.parameters["exclusive_loads"] = True
    if batch:
        assert z.load_many([0, 2]).tobytes() == make_page(0) + make_page(2)
    else:
        check(z, 0, 2)
    assert sizes(z, 0, 1, 2) == "-b-"
    assert store.discards == [[0]]
    assert list(store.pages) == [1]
    s = z.stats()
    assert (s.backed_pages, s.backing_loads, s.loads, s.invalidates) == (1, 1, 2, 0)
    with pytest.raises(KeyError):
        z.load(0)
    z._validate()


def test_an_exclusive_load_that_fails_keeps_the_page(make, store, fill, check):
    z = make(store)
    fill(z, 0)
    z.shrink(1)
    z.parameters["exclusive_loads"] = True

    def fail(offsets):
        store.on_read = lambda offsets: None
        raise OSError(errno.EIO, "once")

    store.on_read = fail
    with pytest.raises(BackingError):
        z.load(0)
    assert sizes(z, 0) == "b"
    assert store.discards == []
    check(z, 0)
    assert sizes(z, 0) == "-"


def test_a_store_over_a_backed_page(make, store, fill, make_page):
    z = make(store)
    fill(z, 0, 1)
    z.shrink(2)
    z.store(0, make_page(100))
    z.store(1, bytes(PAGE))
    s = z.stats()
    assert (s.backed_pages, s.stored_pages, s.duplicate_entry) == (0, 2, 2)
    assert z.load(0) == make_page(100)
    assert z.load(1) == bytes(PAGE)
    assert store.reads == []
    assert z.shrink(2) == 1
    assert store.pages[0] == z.load(0) == make_page(100)


@pytest.mark.parametrize(
    ("drop", "gone"),
    [
        (lambda z: z.invalidate(1), [1]),
        (lambda z: z.__delitem__(1), [1]),
        (lambda z: z.invalidate_many([3, 0, 3]), [0, 3]),
        (lambda z: z.invalidate_range(1, 3), [1, 2]),
        (lambda z: z.invalidate_area(), [0, 1, 2, 3]),
        (lambda z: z.clear(), [0, 1, 2, 3]),
        (lambda z: z.pop(2), [2]),
        (lambda z: z.swapoff(0), [0, 1, 2, 3]),
    ],
    ids=["invalidate", "del", "many", "range", "area", "clear", "pop", "swapoff"],
)
def test_a_backed_page_that_is_dropped_leaves_the_store(make, store, fill, drop, gone):
    z = make(store)
    fill(z, *range(6))
    z.shrink(4)
    drop(z)
    assert sorted(chain.from_iterable(store.discards)) == gone
    assert sorted(store.pages) == sorted({0, 1, 2, 3} - set(gone))
    assert z.stats().backed_pages == 4 - len(gone)
    assert z.stats().invalidates == len(gone) + 2 * (len(gone) == 4)
    z._validate()


def test_holes_are_punched_in_a_swap_file(make, fill, check, tmp_path):
    file = SwapFile(tmp_path / "swap", "1MiB")
    z = make(file)
    fill(z, *range(200))
    assert z.shrink(200) == 200
    check(z, *range(200))
    full = file.stats()
    assert full["written_pages"] == full["read_pages"] == 200
    blocks = (tmp_path / "swap").stat().st_blocks
    assert z.invalidate_range(50, 200) == 150
    assert file.stats()["discarded_pages"] == 150
    if not file.stats()["discard_failures"]:
        assert (tmp_path / "swap").stat().st_blocks < blocks
    check(z, *range(50))
    fill(z, *range(50, 200))
    assert z.shrink(200) == 150
    check(z, *range(200))


def test_a_path_is_opened_and_closed(make, fill, check, tmp_path):
    SwapFile(tmp_path / "swap", "1MiB").close()
    z = make(tmp_path / "swap")
    fill(z, *range(100))
    assert z.shrink(60) == 60
    check(z, *range(100))
    with pytest.raises(ValueError, match="offset 256"):
        z.store(256, noise(0))
    with pytest.raises(BackingError, match="another SwapFile"):
        SwapFile(tmp_path / "swap")
    z.close()
    SwapFile(tmp_path / "swap").close()


def test_a_file_is_closed_when_the_area_wants_more_than_it_has(make, tmp_path):
    SwapFile(tmp_path / "swap", "1MiB").close()
    z = make()
    for wrong in (257, 0):
        with pytest.raises(ValueError, match="nr_pages"):
            z.swapon(1, wrong, backing=tmp_path / "swap")
    SwapFile(tmp_path / "swap").close()  # nobody has it
    z.swapon(1, 256, backing=tmp_path / "swap")


def test_areas_with_stores_of_their_own(make, memory_store, fill, check, tmp_path):
    one, two = memory_store(), SwapFile(tmp_path / "swap", "1MiB")
    z = make(one)
    z.swapon(7, backing=two)
    z.swapon(8)
    for o in range(30):  # in turn, so that a batch has pages of all areas
        fill(z, o)
        fill(z, o, swap_type=7)
        fill(z, o, swap_type=8)
    assert z.shrink(60) == 60
    assert sorted(chain.from_iterable(one.writes)) == list(range(30))
    assert two.stats()["written_pages"] == 30
    assert sizes(z, *range(30), swap_type=8) == "m" * 30
    for area in (0, 7, 8):
        check(z, *range(30), swap_type=area)
    assert z.invalidate_area(7) == 30
    check(z, *range(30))
    z.swapoff(7)
    z.swapon(7)
    fill(z, 3, swap_type=7)
    assert z.shrink(10) == 0
    assert sizes(z, 3, swap_type=7) == "m"


def test_one_store_serves_one_area(make, store):
    z = make()
    backing = open_backing(store)
    z.swapon(1, backing=backing)
    with pytest.raises(BackingError, match="already used"):
        z.swapon(2, backing=backing)
    z.swapoff(1)
    z.swapon(2, backing=backing)


# ---- pages that are written through --------------------------------------------------------------


def refusals():
    def disabled(z):
        z.parameters["enabled"] = False

    def limit(z):
        z.parameters["writeback_limit"] = 0  # or the shrinker would write back
        z.parameters["max_pool_bytes"] = 0

    def poor(z):
        z.parameters["reject_compress_poor"] = True

    return [
        ("reject_disabled", disabled),
        ("pool_limit_hit", limit),
        ("reject_compress_poor", poor),
    ]


@pytest.mark.parametrize(("counter", "refuse"), refusals(), ids=[name for name, _ in refusals()])
@pytest.mark.parametrize("before", [None, "memory", "store"])
def test_a_refused_page_goes_to_the_store(make, store, counter, refuse, before):
    z = make(store)
    if before:
        z.store(4, noise(1))
    if before == "store":
        z.shrink(1)
    refuse(z)
    z.store(4, noise(2))
    assert store.pages == {4: noise(2)}
    assert sizes(z, 4) == "b"
    assert z.load(4) == noise(2)
    s = z.stats()
    assert (getattr(s, counter), s.written_through_pages, s.backed_pages, s.stored_pages) == (
        1,
        1,
        1,
        0,
    )
    assert s.written_back_pages == (before == "store")
    assert z.store_many([5, 6], noise(5) + noise(6)).tolist() == [Status.WRITTEN_THROUGH] * 2
    assert z.load_many([4, 6, 5]).tobytes() == noise(2) + noise(6) + noise(5)


@pytest.mark.parametrize("before", [None, "memory", "store"])
def test_a_refused_page_that_cannot_be_written_is_gone(make, store, fill, before):
    z = make(store)
    if before:
        fill(z, 4)
    if before == "store":
        z.shrink(1)
    z.parameters["enabled"] = False

    def fail(offsets):
        raise OSError(errno.ENOSPC, "full")

    store.on_write = fail
    with pytest.raises(BackingError, match="free space") as caught:
        z.store(4, noise(2))
    assert caught.value.errno == errno.ENOSPC
    assert sizes(z, 4) == "-"
    assert store.pages == {}
    s = z.stats()
    assert (s.backing_write_fail, s.backed_pages, s.stored_pages, s.written_through_pages) == (
        1,
        0,
        0,
        0,
    )
    assert z.store_many([4], noise(2)).tolist() == [Status.BACKING_FAIL]
    z._validate()


def test_an_offset_that_is_not_the_areas_is_not_written(make, store):
    z = make(store)
    z.swapon(1, 10)
    with pytest.raises(ValueError, match="beyond its end"):
        z.store(10, noise(1), swap_type=1)
    assert store.writes == []


# ---- failures ------------------------------------------------------------------------------------


def test_a_failed_write_keeps_every_page(make, store, fill, check):
    z = make(store)
    fill(z, *range(300))

    def fail(offsets):
        raise OSError(errno.EIO, "broken")

    store.on_write = fail
    assert z.shrink(300) == 0
    assert len(store.writes) == 1  # it does not try the rest
    s = z.stats()
    assert (s.reject_reclaim_fail, s.backing_write_fail, s.written_back_pages, s.backed_pages) == (
        256,
        256,
        0,
        0,
    )
    assert sizes(z, *range(300)) == "m" * 300
    # Half of it may have been written.
    assert store.discards == store.writes
    z._validate()
    check(z, *range(300))
    store.on_write = lambda offsets: None
    assert z.shrink(300) == 300
    check(z, *range(300))


def test_one_store_that_fails_does_not_keep_the_others_back(make, memory_store, fill, check):
    good, bad = memory_store(), memory_store()
    z = make(bad)
    z.swapon(1, backing=good)

    def fail(offsets):
        raise OSError(errno.EIO, "broken")

    bad.on_write = fail
    for o in range(10):
        fill(z, o)
        fill(z, o, swap_type=1)
    assert z.shrink(20) == 10
    assert sizes(z, *range(10)) == "m" * 10
    assert sizes(z, *range(10), swap_type=1) == "b" * 10
    check(z, *range(10))
    check(z, *range(10), swap_type=1)


def test_a_failed_read_says_so_and_keeps_the_page(make, store, fill, check):
    z = make(store)
    fill(z, 0, 1)
    z.shrink(2)
    cause = OSError(errno.EIO, "broken")

    def fail(offsets):
        if 0 in offsets:
            raise cause

    store.on_read = fail
    with pytest.raises(BackingError, match="page at offset 0: the backing store failed") as caught:
        z.load(0)
    assert caught.value.errno == errno.EIO
    assert caught.value.__cause__ is cause
    status = np.empty(2, np.int8)
    pages = z.load_many([0, 1], status=status)
    assert status.tolist() == [Status.BACKING_FAIL, Status.STORED]
    assert pages[1].tobytes() == store.pages[1]
    assert z.stats().backing_read_fail == 2
    assert z.stats().loads == z.stats().backing_loads == 1
    assert sizes(z, 0, 1) == "bb"
    store.on_read = lambda offsets: None
    check(z, 0, 1)


def test_a_page_that_cannot_be_decompressed_stays(make, store, codec, fill, make_page):
    broken = set()

    def decompress(data):
        if data in broken:
            raise ValueError("damaged")
        return data

    z = make(store, codec(lambda page: page[: PAGE // 2], lambda data: decompress(data) * 2))
    pages = {o: noise(o)[: PAGE // 2] * 2 for o in range(4)}
    z.update(pages)
    broken.add(pages[2][: PAGE // 2])
    assert z.shrink(4) == 3
    assert store.writes == [[0, 1, 3]]
    s = z.stats()
    # once more for the fourth page
    assert (s.decompress_fail, s.reject_reclaim_fail, s.backing_write_fail) == (
        2,
        2,
        0,
    )
    assert sizes(z, 0, 1, 2, 3) == "bbmb"
    with pytest.raises(PageCorruptError, match="the entry is kept"):
        z.load(2)
    assert z.shrink(4) == 0
    assert z.stats().decompress_fail == 4
    assert all(z.load(o) == pages[o] for o in (0, 1, 3))
    broken.clear()
    assert z.load(2) == pages[2]
    assert z.shrink(4) == 1


FULL = """
import hooks, os, resource, signal, sys, zswap
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
page = lambda i: (b"%d " % i + bytes(range(256)) * 16)[:4096]
file = zswap.SwapFile("swap", "4MiB", direct=False)
z = zswap.ZSwap(backing=file, max_pool_bytes="64MiB", shrinker_interval=3600)
for i in range(600):
    z.store(i, page(i))
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (101 * 4096, hard))
assert z.shrink(100) == 100
assert z.shrink(500) == 0
s = z.stats()
assert (s.reject_reclaim_fail, s.backing_write_fail, s.backed_pages) == (256, 256, 100), s
z._validate()
assert all(z.load(i) == page(i) for i in range(600))
z.parameters["enabled"] = False
try:
    z.store(599, os.urandom(4096))
except zswap.BackingError as error:
    assert error.errno == 27 and "free space" in str(error), error
else:
    raise AssertionError("no error")
assert 599 not in z and len(z) == 599
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
assert z.shrink(600) == 499
assert all(z.load(i) == page(i) for i in range(599))
z._validate()
z.close()
print("done")
"""


def test_a_full_disk_loses_nothing(python):
    assert python(FULL) == "done\n"


# ---- the budget ----------------------------------------------------------------------------------


def test_the_budget_is_counted_down(make, store, fill):
    z = make(store)
    fill(z, *range(600))
    z.parameters["writeback_limit"] = 300
    assert z.shrink(10) == 10
    assert z.parameters["writeback_limit"] == 290
    assert z.shrink(600) == 290
    assert z.parameters["writeback_limit"] == 0
    assert z.shrink(600) == 0
    assert len(store.pages) == 300
    z.parameters["shrinker_interval"] = 1800  # sets all of them: what is left stays
    assert z.parameters["writeback_limit"] == 0
    z.parameters["writeback_limit"] = None
    assert z.shrink(600) == 300


def test_only_pages_written_count(make, store, fill):
    z = make(store)
    fill(z, *range(10))
    z.parameters["writeback_limit"] = 5

    def fail(offsets):
        raise OSError(errno.EIO, "broken")

    store.on_write = fail
    assert z.shrink(10) == 0
    assert z.parameters["writeback_limit"] == 5


def test_a_budget_lowered_during_a_write_is_not_overdrawn(make, store, fill):
    z = make(store)
    fill(z, *range(600))
    z.parameters["writeback_limit"] = 256

    def lower(offsets):
        store.on_write = lambda offsets: None
        z.parameters["writeback_limit"] = 10

    store.on_write = lower
    assert z.shrink(256) == 256
    assert z.parameters["writeback_limit"] == 0
    assert z.shrink(100) == 0


def test_the_rate(make, store, fill):
    z = make(store)
    fill(z, *range(1000))
    z.parameters["writeback_rate"] = 20
    began = time.monotonic()
    done = [z.shrink(1000) for _ in range(20)]
    most = 20 * (2 + time.monotonic() - began)
    assert done[0] == 20  # a second's worth is saved up
    assert sum(done) <= most
    # What was saved up under a higher rate is cut to the lower.
    z.parameters["writeback_rate"] = 500
    z.shrink(1)
    z.parameters["writeback_rate"] = 3
    assert z.shrink(1000) <= 3
    z.parameters["writeback_rate"] = None
    left = 1000 - len(store.pages)
    assert z.shrink(1000) == left > 0


def test_the_rate_allows_more_as_time_goes_by(make, store, fill):
    z = make(store)
    fill(z, *range(600))
    z.parameters["writeback_rate"] = 10_000_000
    assert [z.shrink(1) for _ in range(50)] == [1] * 50
    began = time.monotonic()
    z.parameters["writeback_rate"] = 10  # what was saved up is cut to this
    assert z.shrink(550) <= 10 * (2 + time.monotonic() - began)


# ---- swapoff -------------------------------------------------------------------------------------


def test_draining_gives_every_page_back(make, store, fill, make_page):
    z = make(store)
    fill(z, *range(20), 20000)
    z.store(7, bytes(PAGE))
    z.shrink(8)
    given = dict(z.swapoff(0, drain=True))
    assert given == {o: make_page(o) for o in [*range(20), 20000]} | {7: bytes(PAGE)}
    assert store.pages == {}
    with pytest.raises(ValueError, match="not online"):
        z.swapoff(0)
    assert z.stats().backed_pages == z.stats().stored_pages == 0
    z._validate()


def test_draining_with_exclusive_loads(make, store, fill, make_page):
    z = make(store)
    fill(z, *range(20))
    z.shrink(10)
    z.parameters["exclusive_loads"] = True
    assert dict(z.swapoff(0, drain=True)) == {o: make_page(o) for o in range(20)}
    assert store.pages == {}


def test_draining_an_area_that_changes(make, fill, make_page):
    z = make()
    fill(z, *range(10))
    z.shrink(5)
    given = {}
    for o, page in z.swapoff(0, drain=True):
        given[o] = page
        if o == 1:
            z.invalidate(2)
            z.invalidate(7)
        if o == 5:
            z.store(50000, make_page(50000))
    assert given == {o: make_page(o) for o in (0, 1, 3, 4, 5, 6, 8, 9, 50000)}


def test_a_drain_that_fails_can_be_begun_again(make, store, fill, make_page):
    z = make(store)
    fill(z, *range(4))
    z.shrink(4)

    def fail(offsets):
        if offsets == [2]:
            raise OSError(errno.EIO, "broken")

    store.on_read = fail
    given = {}
    with pytest.raises(BackingError):
        given.update(z.swapoff(0, drain=True))
    store.on_read = lambda offsets: None
    assert list(z) == [2, 3]
    given.update(z.swapoff(0, drain=True))
    assert {2, 3} <= set(given)
    assert all(given[o] == make_page(o) for o in given)


def test_swapoff_gives_the_store_back(make, tmp_path, fill):
    file = SwapFile(tmp_path / "swap", "1MiB")
    z = make(file)
    fill(z, *range(10))
    z.shrink(5)
    assert file.attached
    z.swapoff(0)
    assert not file.attached
    assert file.stats()["discarded_pages"] == 5
    file.close()
    assert z.shrink(10) == 0


# ---- races: while the write is under way ---------------------------------------------------------


@pytest.fixture
def during(gate, thread):
    """Run `shrink(n)` in a thread of its own, and something else while its write is stuck; returns
    what shrink did."""

    def during(z, store, action, n=1):
        held = store.on_write = gate()
        shrinking = thread(z.shrink, n)
        with held:
            action()
        done = shrinking.join()
        z._validate()
        return done

    return during


def test_store_during_the_write(make, store, fill, during, make_page):
    z = make(store)
    fill(z, 0)
    assert during(z, store, lambda: z.store(0, make_page(100))) == 0
    assert z.load(0) == make_page(100)
    assert sizes(z, 0) == "m"
    assert store.pages == {}  # what had been written is stale
    assert z.stats().written_back_pages == z.stats().reject_reclaim_fail == 0
    assert z.shrink(1) == 1
    assert z.load(0) == store.pages[0] == make_page(100)


def test_load_during_the_write(make, store, fill, during, check):
    z = make(store)
    fill(z, 0)
    assert during(z, store, lambda: check(z, 0)) == 1
    assert store.reads == []
    assert sizes(z, 0) == "b"
    check(z, 0)


def test_exclusive_load_during_the_write(make, store, fill, during, check):
    z = make(store)
    fill(z, 0)
    z.parameters["exclusive_loads"] = True
    assert during(z, store, lambda: check(z, 0)) == 0
    assert sizes(z, 0) == "-"
    assert store.pages == {}


@pytest.mark.parametrize("drop", ["invalidate", "invalidate_many", "invalidate_area"])
def test_invalidate_during_the_write(make, store, fill, during, drop, check):
    z = make(store)
    fill(z, 0, 1)
    args = {"invalidate": (0,), "invalidate_many": ([0],), "invalidate_area": ()}[drop]
    left = 1 - (drop == "invalidate_area")
    assert during(z, store, lambda: getattr(z, drop)(*args), n=2) == left
    assert sizes(z, 0, 1) == "-" + "-b"[left]
    assert sorted(store.pages) == [1] * left
    assert z.stats().backed_pages == left


def test_the_slot_is_used_again_during_the_write(make, store, fill, during, make_page):
    """The entry that is being written goes, and others come, at the same offset and at others."""
    z = make(store)
    fill(z, 0)

    def action():
        for n in range(100):
            z.invalidate(0)
            z.store(0, make_page(100 + n))
            z.store(1000 + n, make_page(n))

    assert during(z, store, action) == 0
    assert store.pages == {}
    assert z.load(0) == make_page(199)
    assert all(z.load(1000 + n) == make_page(n) for n in range(100))
    assert z.shrink(101) == 101
    assert z.load(0) == make_page(199)


def test_same_filled_store_during_the_write(make, store, fill, during):
    z = make(store)
    fill(z, 0)
    assert during(z, store, lambda: z.store(0, bytes(PAGE))) == 0
    assert z.load(0) == bytes(PAGE)
    assert store.pages == {}


def test_only_what_changed_is_discarded(make, store, fill, during, check, make_page):
    z = make(store)
    fill(z, *range(10))

    def action():
        z.store(3, make_page(100))
        z.invalidate(6)

    # Ten were asked for: after the eight it finds the new page.
    assert during(z, store, action, n=10) == 9
    assert store.writes == [list(range(10)), [3]]
    assert store.discards == [[3, 6]]
    assert sizes(z, *range(10)) == "bbbbbb-bbb"
    check(z, 0, 1, 2, 4, 5, 7, 8, 9)
    assert z.load(3) == make_page(100)


def test_pool_switch_during_the_write(make, store, fill, during, check, until):
    z = make(store)
    fill(z, 0, 1)

    def action():
        z.compressor = "zstd"
        z.zpool = "zbud"
        fill(z, 2)

    assert during(z, store, action) == 1
    check(z, 0, 1, 2)
    assert z.shrink(2) == 2
    until(lambda: len(z.pools()) == 1)
    check(z, 0, 1, 2)


def test_compaction_and_recompression_during_the_write(make, store, fill, during, check):
    z = make(store)
    fill(z, *range(40))
    z.invalidate_range(1, 30)

    def action():
        z.compact()
        z.recompress("zstd:9")

    assert during(z, store, action) == 1
    check(z, 0, *range(30, 40))
    assert store.pages[0] == z[0]


@pytest.mark.parametrize("again", [False, True])
def test_swapoff_during_the_write(make, memory_store, store, fill, gate, thread, until, again):
    z = make()
    z.swapon(1, backing=store)
    fill(z, 0, 1, swap_type=1)
    held = store.on_write = gate()
    shrinking = thread(z.shrink, 2)
    with held:
        leaving = thread(z.swapoff, 1)
        until(lambda: not z._online(1))
        with pytest.raises(ValueError, match="online already"):
            z.swapon(1)  # calls in flight still use the old store
        assert leaving.is_alive()
    assert shrinking.join() == 0
    leaving.join()
    assert store.pages == {}
    z._validate()
    if again:
        other = memory_store()
        z.swapon(1, backing=other)
        fill(z, 5, swap_type=1)
        assert z.shrink(1) == 1
        assert other.writes == [[5]]
        assert store.writes == [[0, 1]]


def test_close_during_the_write(make, store, fill, gate, thread, until):
    z = make(store)
    fill(z, 0, 1)
    held = store.on_write = gate()
    shrinking = thread(z.shrink, 2)
    with held:
        closing = [thread(z.close) for _ in range(2)]
        until(lambda: z.closed)
        with pytest.raises(ValueError, match="closed"):
            z.load(0)
        assert all(t.is_alive() for t in closing)
    assert shrinking.join() == 2
    for t in closing:
        t.join()


def test_a_page_written_through_while_an_older_one_is_being_written(
    make, store, fill, gate, thread, until
):
    z = make(store)
    fill(z, 0)
    held = store.on_write = gate()
    shrinking = thread(z.shrink, 1)
    with held:
        z.parameters["enabled"] = False
        storing = thread(z.store, 0, noise(1))
        until(lambda: z.stats().reject_disabled == 1)
    assert shrinking.join() + (len(store.discards) == 1) == 1
    storing.join()
    assert store.writes == [[0], [0]]
    assert z.load(0) == store.pages[0] == noise(1)
    z._validate()


def test_calls_wait_for_a_page_that_is_being_written_through(
    make, store, fill, gate, thread, until
):
    z = make(store)
    fill(z, 0, 1, 2)
    held = store.on_write = gate()
    z.parameters["enabled"] = False
    storing = thread(z.store, 0, noise(1))
    with held:
        z.parameters["enabled"] = True
        loading = thread(z.load, 0)
        dropping = thread(z.invalidate, 0)
        assert z.load(1) != z.load(2)  # others do not
        z.store(1, noise(3))
        assert loading.is_alive()
        assert dropping.is_alive()
        assert 0 in z
    storing.join()
    try:
        assert loading.join() == noise(1)
    except KeyError:
        assert dropping.join()
    assert dropping.join() is True
    assert sizes(z, 0) == "-"
    assert store.pages == {}


def test_a_refused_store_waits_for_a_page_that_is_being_discarded(
    make, store, fill, gate, thread, until
):
    z = make(store)
    fill(z, 0, 1)
    z.shrink(1)
    held = store.on_discard = gate()
    dropping = thread(z.invalidate, 0)
    with held:
        z.parameters["enabled"] = False
        storing = thread(z.store, 0, noise(1))
        until(lambda: z.stats().reject_disabled == 1)
        assert storing.is_alive()
    assert dropping.join() is True
    storing.join()
    assert z.load(0) == store.pages[0] == noise(1)
    z._validate()


def test_a_store_waits_for_what_an_exclusive_load_discards(
    make, store, fill, check, gate, thread, until, make_page
):
    z = make(store)
    fill(z, 0, 1)
    assert z.shrink(1) == 1
    assert sizes(z, 0, 1) == "bm"
    z.parameters["exclusive_loads"] = True
    held = store.on_discard = gate()
    loading = thread(z.load, 0)
    with held:
        storing = thread(z.store, 0, noise(1))
        until(lambda: z.stats().stored_pages == 2)  # it has its entry, and wants the slot
        fill(z, *range(10, 100))  # others are not kept waiting
        assert storing.is_alive()
    assert loading.join() == make_page(0)
    storing.join()
    assert z.load(0) == noise(1)
    check(z, 1)
    z._validate()


def test_a_refused_store_into_an_area_that_is_leaving(
    make, memory_store, store, fill, gate, thread, until
):
    z = make()
    z.swapon(1, backing=store)
    fill(z, 0, 1, swap_type=1)
    held = store.on_write = gate()
    shrinking = thread(z.shrink, 1)
    with held:
        z.parameters["enabled"] = False
        storing = thread(lambda: z.store(1, noise(1), swap_type=1))
        # then it has found the area, and waits for the writer
        until(lambda: z.stats().reject_disabled == 1)
        leaving = thread(z.swapoff, 1)
        until(lambda: not z._online(1))
    shrinking.join()
    with pytest.raises(ValueError, match="no such swap area"):
        storing.join()
    leaving.join()
    assert store.pages == {}
    assert z.stats().backed_pages == 0
    z._validate()


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_no_memory_for_the_slot_of_a_refused_page(make, store, nth):
    z = make(store)
    z.parameters["enabled"] = False
    with fault("SLAB_BLOCK", nth=nth) as failures:
        with pytest.raises(MemoryError):
            z.store(3, noise(1))
        assert failures() == 1
    assert 3 not in z
    assert store.pages == {}
    z._validate()
    z.store(3, noise(1))
    assert z.load(3) == noise(1)


def test_two_shrinks_at_once(make, store, fill, gate, thread, check):
    z = make(store)
    fill(z, *range(20))
    held = store.on_write = gate()
    one = thread(z.shrink, 10)
    with held:
        two = thread(z.shrink, 10)
    assert one.join() + two.join() == 20
    assert sorted(chain.from_iterable(store.writes)) == list(range(20))
    check(z, *range(20))


# ---- races: while the page is being decompressed for the write -----------------------------------


@pytest.fixture
def slow(codec, gate):
    """A compressor whose decompress can be held up: `slow.held` is a Gate or None."""

    class Slow:
        held = None

        def decompress(self, data):
            held, self.held = self.held, None
            if held is not None:
                held()
            return bytes(data) * 2

    s = Slow()
    s.name = codec(lambda page: bytes(page[: PAGE // 2]), s.decompress)
    return s


def half(seed):
    return noise(seed)[: PAGE // 2] * 2


@pytest.mark.parametrize(
    "what", ["store", "load", "invalidate", "reuse", "switch", "area", "compact"]
)
def test_during_the_decompression(make, store, slow, gate, thread, what):
    z = make(store, slow.name)
    z.update({o: half(o) for o in range(4)})
    held = slow.held = gate()
    shrinking = thread(z.shrink, 1)
    left = {o: half(o) for o in range(4)}
    with held:
        if what == "store":
            z[0] = left[0] = half(100)
        elif what == "load":
            assert z[0] == half(0)
        elif what == "invalidate":
            del z[0], left[0]
        elif what == "reuse":
            del z[0]
            z.update({o: half(100 + o) for o in range(50)})
            left = {o: half(100 + o) for o in range(50)}
        elif what == "switch":
            z.compressor = "lz4"
            z[1] = left[1] = half(100)
        elif what == "area":
            z.invalidate_area()
            left = {}
        else:
            z.compact()
    kept = what in ("load", "switch", "compact")
    assert shrinking.join() == kept
    z._validate()
    assert sorted(store.pages) == [0] * kept
    assert dict(z) == left
    assert z.shrink(100) == len(left) - kept
    assert dict(z) == left


@pytest.mark.parametrize("what", ["swapoff", "close"])
def test_the_end_during_the_decompression(make, store, slow, gate, thread, until, what):
    z = make(store, slow.name)
    z.update({o: half(o) for o in range(4)})
    held = slow.held = gate()
    shrinking = thread(z.shrink, 1)
    with held:
        ending = thread(z.close) if what == "close" else thread(z.swapoff, 0)
        until(lambda: z.closed if what == "close" else not z._online(0))
        assert ending.is_alive()
    assert shrinking.join() == (what == "close")
    ending.join()
    if what == "swapoff":
        assert store.pages == {}
        z._validate()


# ---- races: while the store is being read --------------------------------------------------------


@pytest.mark.parametrize(
    "what",
    ["store", "store, write", "invalidate", "invalidate, store", "through", "exclusive", "other"],
)
def test_during_the_read(make, store, fill, gate, thread, make_page, what):
    z = make(store)
    fill(z, 0, 1)
    z.shrink(1)
    held = store.on_read = gate()
    loading = thread(z.load, 0)
    expected, where = make_page(100), "m"
    with held:
        store.on_read = lambda offsets: None
        if what.startswith("invalidate"):
            z.invalidate(0)
            expected = None
        if "store" in what:
            z.store(0, make_page(100))
            expected = make_page(100)
        if what == "store, write":
            z.invalidate(1)
            assert z.shrink(1) == 1
            where = "b"
        if what == "through":
            z.parameters["enabled"] = False
            z.store(0, make_page(100))
            where = "b"
        if what == "exclusive":
            z.parameters["exclusive_loads"] = True
            assert z.load(0) == make_page(0)
            expected = None
        # another page of the shard goes to the store, which is no matter
        if what == "other":
            assert z.shrink(1) == 1
            expected, where = make_page(0), "b"
    if expected is None:
        with pytest.raises(KeyError):
            loading.join()
        assert sizes(z, 0) == "-"
    else:
        assert loading.join() == expected
        assert sizes(z, 0) == where
    anew = where == "b" and what != "other"
    assert len(store.reads) == 1 + anew + (what == "exclusive")
    z._validate()


def test_a_failed_read_of_a_page_that_changed_is_counted_and_no_error(make, store, fill, make_page):
    z = make(store)
    fill(z, 0)
    z.shrink(1)

    def fail(offsets):
        z.store(0, make_page(100))
        raise OSError(errno.EIO, "broken")

    store.on_read = fail
    assert z.load(0) == make_page(100)
    assert z.stats().backing_read_fail == 1


def test_swapoff_during_the_read(make, store, fill, gate, thread, until):
    z = make(store)
    fill(z, 0)
    z.shrink(1)
    held = store.on_read = gate()
    loading = thread(z.load, 0)
    with held:
        leaving = thread(z.swapoff, 0)
        until(lambda: not z._online(0))
        assert leaving.is_alive()
    with pytest.raises(KeyError):
        loading.join()
    leaving.join()
    z._validate()


def test_close_during_the_read(make, store, fill, gate, thread, until, make_page):
    z = make(store)
    fill(z, 0)
    z.shrink(1)
    held = store.on_read = gate()
    loading = thread(z.load, 0)
    with held:
        closing = thread(z.close)
        until(lambda: z.closed)
    assert loading.join() == make_page(0)
    closing.join()


def test_a_reader_that_is_overtaken_every_time_gets_its_page(make, store, fill, check):
    """Whenever it reads, the page goes to the store anew, until it keeps the writers away."""
    z = make(store)
    fill(z, 0)
    z.shrink(1)

    def overtake(offsets):
        fill(z, 0)
        z.shrink(1)

    store.on_read = overtake
    check(z, 0)
    assert 2 <= len(store.reads) <= 10
    z._validate()


# ---- calls back from the store -------------------------------------------------------------------


def test_shrink_inside_the_write_does_nothing(make, store, fill):
    z = make(store)
    fill(z, *range(10))
    inner = []
    store.on_write = lambda offsets: inner.append(z.shrink(5))
    assert z.shrink(5) == 5
    assert inner == [0]


def test_a_refused_store_inside_the_write(make, store, fill, check):
    """Another offset is written through; one that is being written cannot be: the older page would
    land later."""
    z = make(store)
    fill(z, *range(10))
    errors = []

    def hook(offsets):
        store.on_write = lambda offsets: None
        z.parameters["enabled"] = False
        z.store(100, noise(100))
        try:
            z.store(3, noise(3))
        except BackingError as error:
            errors.append(error.errno)

    store.on_write = hook
    assert z.shrink(5) == 5  # another one for 3
    assert errors == [errno.EDEADLK]
    assert sizes(z, 3, 100) == "-b"
    assert sorted(store.pages) == [0, 1, 2, 4, 5, 100]
    assert z.load(100) == noise(100)
    check(z, 0, 1, 2, 4)
    z._validate()


@pytest.mark.parametrize("when", ["write", "decompress"])
def test_a_refused_store_of_a_page_that_is_about_to_be_written(make, memory_store, slow, when):
    """It is in the batch, though not in the call that is under way."""
    stores = [memory_store(), memory_store()]
    z = make(stores[0], slow.name)
    z.swapon(1, backing=stores[1])
    for area in (0, 1):
        z.store(5, half(area), swap_type=area)
    errors = []

    def hook(*_):
        stores[0].on_write = lambda offsets: None
        z.parameters["enabled"] = False
        try:
            z.store(5, half(100), swap_type=1)
        except BackingError as error:
            errors.append(error.errno)

    if when == "write":
        stores[0].on_write = hook
    else:
        slow.held = hook
    assert z.shrink(2) == 1
    assert errors == [errno.EDEADLK]
    assert sizes(z, 5, swap_type=1) == "-"
    assert stores[1].pages == {}
    z._validate()


def test_swapoff_and_close_inside_a_call_are_refused(make, store, fill):
    z = make(store)
    fill(z, 0)
    errors = []

    def hook(*_):
        for call in (lambda: z.swapoff(0), z.close):
            try:
                call()
            except RuntimeError as error:
                errors.append(str(error))

    store.on_write = store.on_read = store.on_discard = hook
    assert z.shrink(1) == 1
    assert len(errors) == 2
    z.load(0)
    z.invalidate(0)
    assert len(errors) == 6
    assert all("from inside a call" in text for text in errors)


COLLECTED = """
import gc, sys, threading, zswap
mode = sys.argv[1]
class Store:
    def __init__(self): self.pages, self.inside = {}, threading.Event()
    def write_pages(self, offsets, pages):
        self.inside.set()
        for _ in range(50): sum(range(1000))        # so that the other thread gets the GIL
    def read_pages(self, offsets, out): pass
gc.disable()
for k in range(5):
    store = Store()
    z = zswap.ZSwap(backing=store, max_pool_bytes="256KiB", shrinker_interval=3600)
    if mode == "cycle":
        store.z = z
    i = 0
    while not store.inside.is_set():
        z.store(i, (b"%d " % i * 4096)[:4096])
        i += 1
    del z, store
    gc.collect()
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["alone", "cycle"])
def test_an_engine_is_collected_while_it_shrinks(python, mode):
    assert python(COLLECTED, mode) == "done\n"
