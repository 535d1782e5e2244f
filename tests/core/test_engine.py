"""What the engine does with one call after the other: order of checks, limits, references, pools,
areas, damaged pages."""

import contextlib
import errno
import itertools
import random
import struct
import threading
import time

import numpy as np
import pytest

import zswap
from hooks.parts import REFS_MAX, Codec, Entry, entry_size, pack_word, unpack_word
from zswap import Error, PageCorruptError, PoolLimitError, Status

PAGE = 4096
ZEROS = bytes(PAGE)
WORD = b"12345678" * 512


def noise(seed, size=PAGE):
    """A page that no compressor shortens: it takes one allocator page, which makes limits easy to
    count."""
    return random.Random(seed).randbytes(size)


def until(condition, seconds=20):
    """Wait for something that another thread is about to do."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.001)


def counted(before, after):
    """The event counters that differ between two Stats, by how much."""
    events = [
        name
        for name in before.to_dict()
        if name.startswith("reject_")
        or name
        in (
            "pool_limit_hit",
            "decompress_fail",
            "duplicate_entry",
            "loads",
            "load_misses",
            "invalidates",
        )
    ]
    return {
        name: getattr(after, name) - getattr(before, name)
        for name in events
        if getattr(after, name) != getattr(before, name)
    }


def refused(z, offset, page, error, **expected):
    """Store what must be refused: the exception, what was counted, and no stale copy."""
    before = z.stats()
    held = offset in z
    with pytest.raises(error):
        z.store(offset, page)
    assert counted(before, z.stats()) == ({**expected, "invalidates": 1} if held else expected)
    assert offset not in z
    with pytest.raises(KeyError):
        z.load(offset)
    z._validate()


# ---- the parts: entries, words -------------------------------------------------------------------


def test_an_entry_is_small():
    assert entry_size() == 16


@pytest.mark.parametrize("handle", [0, 1, 0xABCDEF, (1 << 40) - 1])
@pytest.mark.parametrize("length", [1, 2, 4095, 4096, 16384, 65535, 65536])
@pytest.mark.parametrize("pool", [0, 1, 255])
def test_word_keeps_its_three_parts_apart(handle, length, pool):
    assert unpack_word(pack_word(handle, length, pool)) == (handle, length, pool)


def test_references_run_out_and_come_back():
    entry = Entry()
    assert entry.refs == 1
    taken = 0
    while entry.get():
        taken += 1
    assert taken == REFS_MAX - 1
    assert entry.refs == REFS_MAX
    assert not entry.get()
    assert not entry.put()
    assert entry.get()
    assert [entry.put() for _ in range(REFS_MAX)] == [False] * (REFS_MAX - 1) + [True]


def test_reference_marks_the_access():
    entry = Entry(now=5)
    assert (entry.refs, entry.same, entry.referenced, entry.age) == (1, False, False, 5)
    entry.get(9)
    assert (entry.refs, entry.same, entry.referenced, entry.age) == (2, False, True, 9)
    entry.get((1 << 22) + 3)  # the age wraps and spills into nothing else
    assert (entry.refs, entry.same, entry.referenced, entry.age) == (3, False, True, 3)
    entry.put()
    assert (entry.refs, entry.referenced, entry.age) == (2, True, 3)
    same = Entry(same=True, now=(1 << 22) - 1)
    assert (same.refs, same.same, same.referenced, same.age) == (1, True, False, (1 << 22) - 1)
    same.touch(1)
    assert (same.refs, same.same, same.referenced, same.age) == (1, True, True, 1)


# ---- the order of checks -------------------------------------------------------------------------
# Every pair of reasons that can hold at once: the one that comes first is the one that is counted.


def failing(data):
    """A compressor that must not be asked, or fails."""
    raise RuntimeError("compressor was asked")


def test_disabled_comes_before_the_area(engine):
    z = engine()
    z.parameters["enabled"] = False
    before = z.stats()
    with pytest.raises(Error):
        z.store(0, noise(1), swap_type=9)
    assert counted(before, z.stats()) == {"reject_disabled": 1}


def test_disabled_comes_before_same_filled_and_limit(engine):
    z = engine(max_pool_bytes=0)
    z[1] = ZEROS
    z.parameters["enabled"] = False
    refused(z, 1, ZEROS, Error, reject_disabled=1)
    refused(z, 2, noise(1), Error, reject_disabled=1)


def test_the_area_comes_before_same_filled_and_limit(engine):
    z = engine(max_pool_bytes=0)
    z.swapon(1, nr_pages=10)
    for page, (swap_type, offset) in itertools.product(
        (ZEROS, noise(1)), ((2, 0), (1, 10), (1, 1 << 40))
    ):
        before = z.stats()
        with pytest.raises(ValueError, match=f"{offset}"):
            z.store(offset, page, swap_type=swap_type)
        assert counted(before, z.stats()) == {"reject_area": 1}


def test_same_filled_comes_before_the_limit_and_the_threshold(engine):
    z = engine(max_pool_bytes=4 * PAGE, accept_threshold_percent=50)
    for n in range(4):
        z[n] = noise(n)
    z[4] = ZEROS
    refused(z, 5, noise(5), PoolLimitError, pool_limit_hit=1)
    z[5] = WORD
    assert (z[4], z[5]) == (ZEROS, WORD)
    assert z.stats().same_filled_pages == 2


def test_the_limit_comes_before_the_compressor(engine, codec):
    z = engine(codec(failing), max_pool_bytes=0)
    refused(z, 0, noise(0), PoolLimitError, pool_limit_hit=1)
    z.parameters["reject_compress_poor"] = True
    refused(z, 0, noise(0), PoolLimitError, pool_limit_hit=1)
    z.parameters["max_pool_bytes"] = 4 * PAGE
    z.parameters["accept_threshold_percent"] = 100
    refused(z, 0, noise(0), Error, reject_compress_fail=1)


def test_the_limit_comes_before_the_threshold(engine):
    z = engine(max_pool_bytes=4 * PAGE, accept_threshold_percent=50)
    for i in range(4):
        z[i] = noise(i)
    refused(z, 10, noise(10), PoolLimitError, pool_limit_hit=1)
    refused(z, 10, noise(10), PoolLimitError, pool_limit_hit=1)
    z.invalidate(0)
    refused(z, 10, noise(10), PoolLimitError, reject_accept_threshold=1)


def test_the_threshold_comes_before_the_compressor(engine, codec):
    bad = threading.Event()
    z = engine(
        codec(lambda data: failing(data) if bad.is_set() else data),
        max_pool_bytes=4 * PAGE,
        accept_threshold_percent=25,
    )
    for i in range(4):
        z[i] = noise(i)
    refused(z, 9, noise(9), PoolLimitError, pool_limit_hit=1)
    z.invalidate(0)
    bad.set()
    refused(z, 9, noise(9), PoolLimitError, reject_accept_threshold=1)
    z.invalidate_range(0, 3)
    refused(z, 9, noise(9), Error, reject_compress_fail=1)


def test_a_failed_compressor_comes_before_poor_compression(engine, codec):
    z = engine(codec(failing))
    z.parameters["reject_compress_poor"] = True
    refused(z, 0, noise(0), Error, reject_compress_fail=1)


def test_no_context_comes_before_the_compressor(engine, codec):
    c = Codec()
    z = engine(codec(factory=c.capsule))
    c.context_error, c.compress_error = -errno.ENOMEM, -errno.EIO
    refused(z, 0, noise(0), MemoryError, reject_alloc_fail=1)
    c.context_error = 0
    refused(z, 0, noise(0), Error, reject_compress_fail=1)
    c.compress_error = 0
    z[0] = noise(0)
    assert z[0] == noise(0)


# ---- no stale copy -------------------------------------------------------------------------------


def reasons():
    """Name, and what makes an engine with a `Codec` refuse the next page; with the Status of
    that."""

    def disabled(z, c):
        z.parameters["enabled"] = False

    def limit(z, c):
        z.parameters["max_pool_bytes"] = 0

    def threshold(z, c):
        z.parameters["max_pool_bytes"] = 0
        with pytest.raises(PoolLimitError):
            z.store(1000, noise(0))
        z.parameters["max_pool_bytes"] = 1 << 20
        z.parameters["accept_threshold_percent"] = 0

    def poor(z, c):
        z.parameters["reject_compress_poor"] = True

    def compress(z, c):
        c.compress_error = -errno.EIO

    def context(z, c):
        # A new pool has no contexts yet.
        z.zpool = "zsmalloc:4"
        c.context_error = -errno.ENOMEM

    return {
        "DISABLED": disabled,
        "POOL_LIMIT": limit,
        "ACCEPT_THRESHOLD": threshold,
        "COMPRESS_POOR": poor,
        "COMPRESS_FAIL": compress,
        "ALLOC_FAIL": context,
    }


@pytest.mark.parametrize("reason", reasons())
@pytest.mark.parametrize("old", ["compressed", "raw", "same-filled"])
@pytest.mark.parametrize("batch", [False, True])
def test_a_refused_store_leaves_no_stale_copy(engine, codec, reason, old, batch):
    c = Codec()
    z = engine(codec(factory=c.capsule), max_pool_bytes=1 << 20)
    z[5] = {"compressed": b"old" + bytes(PAGE - 3), "raw": noise(1), "same-filled": WORD}[old]
    z[6] = b"neighbour" + bytes(PAGE - 9)
    z[7] = noise(7)
    reasons()[reason](z, c)
    before = z.stats()
    if batch:
        status = z.store_many([5, 4], noise(2) * 2)
        assert status.tolist() == [Status[reason]] * 2
    else:
        with pytest.raises((Error, MemoryError)):
            z.store(5, noise(2))
    after = z.stats()
    assert after.invalidates - before.invalidates == 1
    assert after.stored_pages - before.stored_pages == -1
    assert 5 not in z
    assert z.compressed_sizes([5]).tolist() == [-1]
    with pytest.raises(KeyError):
        z.load(5)
    assert z[6].startswith(b"neighbour")
    assert z[7] == noise(7)
    z._validate()


def test_an_area_that_ends_takes_its_pages_along(engine):
    z = engine()
    z.swapon(1, nr_pages=100)
    z.store(50, noise(1), swap_type=1)
    z.swapoff(1)
    with pytest.raises(ValueError, match="area"):
        z.store(50, noise(2), swap_type=1)
    z.swapon(1, nr_pages=100)
    with pytest.raises(KeyError):
        z.load(50, swap_type=1)
    assert z.stats().stored_pages == 0


# ---- what is held, and what is counted -----------------------------------------------------------


def test_every_kind_replaces_every_kind(engine, make_page):
    z = engine()
    kinds = {"same": WORD, "zeros": ZEROS, "packed": make_page(1), "raw": noise(1)}
    replaced = 0
    for old, new in itertools.product(kinds.values(), repeat=2):
        z[3] = old
        z[3] = new
        assert z[3] == new
        replaced += 1
        s = z.stats()
        assert s.stored_pages == len(z) == 1
        assert s.same_filled_pages == (new in (WORD, ZEROS))
        assert s.stored_incompressible_pages == (new == kinds["raw"])
        assert s.compressed_bytes == max(0, z.compressed_sizes([3])[0])
        z._validate()
    assert z.stats().duplicate_entry == 2 * replaced - 1


def test_counters_of_a_plain_run(engine, make_page):
    z = engine()
    z[1], z[2], z[3] = ZEROS, make_page(2), noise(3)
    for offset in (1, 2, 2, 3):
        z.load(offset)
    for offset in (7, 8):
        with pytest.raises(KeyError):
            z.load(offset)
    z[2] = make_page(22)
    assert z.invalidate(1)
    assert not z.invalidate(1)
    s = z.stats()
    assert (s.stored_pages, s.same_filled_pages, s.stored_incompressible_pages) == (2, 0, 1)
    assert s.compressed_bytes == z.compressed_sizes([2, 3]).sum()
    assert (s.loads, s.load_misses, s.duplicate_entry, s.invalidates) == (4, 2, 1, 1)
    assert s.stored_bytes == 2 * PAGE
    assert s.resident_bytes == s.pool_total_size + s.metadata_bytes
    assert s.pool_total_size >= s.compressed_bytes
    assert s.payload_ratio == pytest.approx(2 * PAGE / s.compressed_bytes)
    assert s.compression_ratio == pytest.approx(2 * PAGE / s.resident_bytes)


def test_same_filled_can_be_turned_off(engine):
    z = engine(same_filled_pages_enabled=False)
    z[1] = WORD
    s = z.stats()
    assert (s.same_filled_pages, s.stored_pages) == (0, 1)
    assert s.compressed_bytes > 0
    z.parameters["same_filled_pages_enabled"] = True
    z[2] = WORD
    assert z.stats().same_filled_pages == 1
    z.parameters["same_filled_pages_enabled"] = False
    assert z[1] == z[2] == WORD  # held as one word, it stays that


def test_pages_that_are_not_same_filled_can_be_refused(engine):
    z, text = engine(), (b"text " * 1000)[:PAGE]
    z[1] = z[2] = text
    z.parameters["non_same_filled_pages_enabled"] = False
    assert z[1] == text  # what is held stays readable
    with pytest.raises(Error, match=r"offset 2 .*'non_same_filled_pages_enabled' is off"):
        z[2] = text
    assert 2 not in z  # no stale copy
    z[2] = WORD
    assert z.store_many([3], text).tolist() == [Status.DISABLED]
    z.parameters["same_filled_pages_enabled"] = False  # both off: nothing is accepted
    assert z.store_many([3], WORD).tolist() == [Status.DISABLED]
    assert (z.stats().stored_pages, z.stats().reject_disabled) == (2, 3)


@pytest.mark.parametrize("page_size", [4096, 16384, 65536])
@pytest.mark.parametrize("zpool", ["zsmalloc", "zsmalloc:1", "zsmalloc-kernel"])
def test_incompressible_pages_are_kept_raw_at_the_price_of_a_page(engine, zpool, page_size):
    z = engine("lz4", zpool, page_size=page_size)
    for i in range(8):
        assert z.store_many([i], noise(i, page_size)).tolist() == [Status.INCOMPRESSIBLE]
    s = z.stats()
    assert s.stored_incompressible_pages == 8
    assert s.compressed_bytes == 8 * page_size
    assert s.pool_total_size - s.idle_bytes == 8 * page_size
    assert [z[i] for i in range(8)] == [noise(i, page_size) for i in range(8)]
    assert z.compressed_sizes(range(8)).tolist() == [page_size] * 8


def test_poor_compression_can_be_refused(engine, make_page):
    z = engine()
    z[0] = noise(0)
    z.parameters["reject_compress_poor"] = True
    assert z[0] == noise(0)  # what is held stays
    refused(z, 0, noise(1), Error, reject_compress_poor=1)
    z[1] = make_page(1)
    z[2] = ZEROS
    assert (z[1], z[2]) == (make_page(1), ZEROS)
    z.parameters["reject_compress_poor"] = False
    z[0] = noise(0)
    assert z[0] == noise(0)


def test_an_allocator_that_takes_no_whole_page(engine, make_page):
    # zbud puts two pages in one or refuses, whatever the parameter says; the error must not blame
    # the parameter.
    z = engine("lz4", "zbud")
    before = z.stats()
    with pytest.raises(Error) as caught:
        z[1] = noise(1)
    assert "reject_compress_poor" not in str(caught.value)
    assert "zbud" in str(caught.value)
    assert counted(before, z.stats()) == {"reject_compress_poor": 1}
    z[2] = make_page(2)
    assert z[2] == make_page(2)


@pytest.mark.parametrize(
    "length", [0, 1, 2, 16, 100, 2048, 4000, 4064, 4080, 4090, 4094, 4095, 4096, 4097, 5000, 20000]
)
def test_compressed_lengths_at_the_edges(engine, codec, length):
    # A "compressor" that gives exactly this length, and knows the page by heart.
    page = noise(1)
    z = engine(codec(lambda data: bytes(length), lambda data: page))
    z[0] = page
    assert z[0] == page
    size = z.compressed_sizes([0])[0]
    assert size in (length, PAGE)
    if 0 < length <= 2048:
        assert size == length
    if length == 0 or length >= PAGE:
        assert size == PAGE


def test_exclusive_loads_free_the_page(engine, make_page):
    z = engine()
    pages = {1: ZEROS, 2: make_page(2), 3: noise(3), 4: make_page(4)}
    for offset, page in pages.items():
        z[offset] = page
    z.parameters["exclusive_loads"] = True
    assert z.load(1) == ZEROS
    assert z.load(2, out=bytearray(PAGE)) == pages[2]
    assert z.load_many([3, 4]).tobytes() == pages[3] + pages[4]
    assert len(z) == 0
    assert z.stats().loads == 4
    with pytest.raises(KeyError):
        z.load(2)
    z.parameters["exclusive_loads"] = False
    z[2] = pages[2]
    assert z[2] == z[2] == pages[2]


def test_exclusive_loads_of_a_batch_come_after_each_other(engine, make_page):
    z = engine()
    z[1], z[2], z[3] = make_page(1), ZEROS, noise(3)
    z.parameters["exclusive_loads"] = True
    status = np.zeros(7, np.int8)
    out = z.load_many([1, 1, 2, 2, 3, 3, 1], status=status)
    assert (status >= 0).tolist() == [True, False, True, False, True, False, False]
    assert (out[0].tobytes(), out[2].tobytes(), out[4].tobytes()) == (make_page(1), ZEROS, noise(3))
    s = z.stats()
    assert (len(z), s.loads, s.load_misses) == (0, 3, 4)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_batch_may_name_any_page_any_number_of_times(engine, make_page, threads):
    z = engine(checksum=True)
    held = {5: make_page(5), 6: ZEROS, 7: noise(7), 2**14 + 5: make_page(8), 3 * 2**14 - 1: WORD}
    for offset, page in held.items():
        z[offset] = page
    absent = [4, 2**14 + 6, 2**20, 2**40]
    offsets = [5] * 300 + random.Random(1).choices([*held, *absent], k=700)
    status = np.zeros(len(offsets), np.int8)
    out = z.load_many(offsets, status=status, threads=threads)
    for offset, page, code in zip(offsets, out, status, strict=True):
        if offset in held:
            assert page.tobytes() == held[offset]
            assert code == (Status.SAME_FILLED if offset in (6, 3 * 2**14 - 1) else Status.STORED)
        else:
            assert code == Status.ABSENT
    s = z.stats()
    assert s.loads == sum(offset in held for offset in offsets)
    assert s.load_misses == len(offsets) - s.loads
    z._validate()  # no reference is left
    assert z.invalidate_many(list(held)) == len(held)
    assert z.stats().stored_pages == 0


# ---- the limit and its hysteresis ----------------------------------------------------------------


def fill(z, start=0):
    """Store pages that take one allocator page each, until one is refused; returns how many were
    held."""
    for n in itertools.count(start):
        if z.store_many([n], noise(n))[0] < 0:
            return n - start
        assert n - start < 10_000


@pytest.mark.parametrize("pages", [0, 4, 5, 10])
def test_exactly_the_limit_is_reached(engine, pages):
    z = engine(max_pool_bytes=pages * PAGE)
    assert fill(z) == pages
    s = z.stats()
    assert s.pool_total_size == s.max_pool_bytes == pages * PAGE
    assert s.pool_limit_hit == 1


def test_part_of_a_page_is_no_page(engine):
    z = engine(max_pool_bytes=5 * PAGE + PAGE - 1)
    assert fill(z) == 5


@pytest.mark.parametrize("page_size", [4096, 16384, 65536])
def test_a_limit_of_less_than_a_few_pages_is_refused(engine, page_size):
    z = engine(page_size=page_size, max_pool_bytes=4 * page_size)
    for few in (1, page_size - 1, page_size, 4 * page_size - 1, "1KiB"):
        with pytest.raises(
            ValueError, match=rf"max_pool_bytes.*at least {4 * page_size} bytes, or 0"
        ):
            engine(page_size=page_size, max_pool_bytes=few)
        with pytest.raises(
            ValueError, match=rf"max_pool_bytes.*at least {4 * page_size} bytes, or 0"
        ):
            z.parameters["max_pool_bytes"] = few
        assert z.stats().max_pool_bytes == z.parameters["max_pool_bytes"] == 4 * page_size
    for none in (0, "0"):
        z.parameters["max_pool_bytes"] = none
        assert z.stats().max_pool_bytes == 0
        z[0] = bytes(page_size)
        with pytest.raises(PoolLimitError):
            z[0] = noise(0, page_size)


def test_a_percentage_of_less_than_a_few_pages_is_refused(engine, monkeypatch):
    monkeypatch.setattr("zswap.core.total_ram", lambda: 100 * PAGE)
    z = engine(max_pool_percent=4)
    assert z.stats().max_pool_bytes == 4 * PAGE
    with pytest.raises(ValueError, match=r"max_pool_percent.*12288 bytes, 3 pages"):
        z.parameters["max_pool_percent"] = 3
    z.parameters["max_pool_percent"] = 0
    assert z.stats().max_pool_bytes == 0


def test_percent_of_memory(engine):
    from zswap.meminfo import total_ram

    for percent in (0, 1, 20, 100):
        z = engine(max_pool_percent=percent)
        assert z.stats().max_pool_bytes == total_ram() * percent // 100 // PAGE * PAGE
    z = engine(max_pool_percent=0)
    with pytest.raises(PoolLimitError):
        z[0] = noise(0)
    z = engine(max_pool_percent=100, max_pool_bytes=4 * PAGE)  # bytes win
    assert fill(z) == 4
    z.parameters["max_pool_bytes"] = None
    assert z.stats().max_pool_bytes == total_ram() // PAGE * PAGE


@pytest.mark.parametrize("threshold", [0, 1, 10, 50, 90, 99, 100])
def test_after_the_limit_pages_are_refused_down_to_the_threshold(engine, threshold):
    pages = 20
    z = engine(max_pool_bytes=pages * PAGE, accept_threshold_percent=threshold)
    assert fill(z) == pages
    # at the limit itself it is the limit that refuses
    accept = min(pages * threshold // 100, pages - 1)
    for held in range(pages - 1, accept, -1):
        z.invalidate(held)
        refused(z, 100, noise(100), PoolLimitError, reject_accept_threshold=1)
    z.invalidate(accept)
    assert len(z) == accept
    z[100] = noise(100)
    # Accepted once, accepted again, above the threshold too: until the limit is hit anew.
    for n in range(101, 100 + pages - accept):
        z[n] = noise(n)
    assert z.stats().pool_total_size == pages * PAGE
    refused(z, 200, noise(200), PoolLimitError, pool_limit_hit=1)
    z.invalidate(100)
    if threshold < 95:
        refused(z, 200, noise(200), PoolLimitError, reject_accept_threshold=1)


def test_freed_memory_kept_for_reuse_does_not_count_against_the_threshold(engine):
    z = engine(max_pool_bytes=20 * PAGE, accept_threshold_percent=50)
    assert fill(z) == 20
    z.invalidate(0)
    refused(z, 100, noise(100), PoolLimitError, reject_accept_threshold=1)
    z.invalidate_range(0, 15)
    assert len(z) == 5
    z[100] = noise(100)


@pytest.mark.parametrize("threshold", [0, 50, 100])
def test_an_emptied_pool_accepts_again(engine, threshold):
    z = engine(max_pool_bytes=50 * PAGE, accept_threshold_percent=threshold)
    for _ in range(3):
        assert fill(z) == 50
        z.clear()
        z[0] = noise(0)
        z.clear()


def test_only_a_store_hits_the_limit(engine):
    z = engine(max_pool_bytes=10 * PAGE, accept_threshold_percent=10)
    for n in range(10):
        z[n] = noise(n)
    # At the limit, but no store was refused: loads, invalidations, compaction and same-filled pages
    # do not count as a hit.
    z.load(0)
    z.compact()
    z[20] = ZEROS
    z.invalidate(0)
    z[0] = noise(0)
    assert z.stats().pool_limit_hit == z.stats().reject_accept_threshold == 0
    z.parameters["max_pool_bytes"] = 5 * PAGE
    assert z.stats().pool_limit_hit == 0
    refused(z, 50, noise(50), PoolLimitError, pool_limit_hit=1)


def test_a_smaller_limit_keeps_what_is_held(engine):
    z = engine(max_pool_bytes=10 * PAGE)
    for n in range(10):
        z[n] = noise(n)
    z.parameters["max_pool_bytes"] = 4 * PAGE
    assert [z[n] for n in range(10)] == [noise(n) for n in range(10)]
    refused(z, 3, noise(33), PoolLimitError, pool_limit_hit=1)
    assert len(z) == 9


def test_raising_the_limit_is_enough_to_store_again(engine):
    z = engine(max_pool_bytes=10 * PAGE, accept_threshold_percent=50)
    assert fill(z) == 10
    z.parameters["max_pool_bytes"] = 15 * PAGE  # 10 held, 7 accepted
    refused(z, 50, noise(50), PoolLimitError, reject_accept_threshold=1)
    z.parameters["max_pool_bytes"] = 20 * PAGE  # 10 accepted
    z[50] = noise(50)


def test_replacing_a_page_at_the_limit_is_refused_and_drops_the_old(engine):
    z = engine(max_pool_bytes=4 * PAGE, accept_threshold_percent=100)
    for n in range(4):
        z[n] = noise(n)
    refused(z, 2, noise(22), PoolLimitError, pool_limit_hit=1)
    z[2] = noise(22)
    assert z[2] == noise(22)


def test_the_limit_counts_all_pools(engine):
    z = engine(max_pool_bytes=6 * PAGE)
    for n, zpool in enumerate(["zsmalloc", "zsmalloc:4", "zsmalloc-kernel"]):
        z.zpool = zpool
        z[2 * n], z[2 * n + 1] = noise(2 * n), noise(2 * n + 1)
    assert z.stats().pool_total_size == 6 * PAGE
    refused(z, 9, noise(9), PoolLimitError, pool_limit_hit=1)


@pytest.mark.parametrize("page_size", [4096, 16384, 65536])
def test_the_limit_counts_memory_not_payload(engine, page_size, make_page):
    z = engine(page_size=page_size, max_pool_bytes=1 << 20)
    held = 0
    while z.store_many([held], make_page(held, page_size))[0] >= 0:
        held += 1
    s = z.stats()
    assert s.compressed_bytes < s.pool_total_size
    assert (1 << 20) - 32 * page_size <= s.pool_total_size <= (1 << 20) + 32 * page_size
    assert held > (1 << 20) // page_size  # it compresses


# ---- areas ---------------------------------------------------------------------------------------


def test_areas_are_apart(engine, make_page):
    z = engine()
    z.swapon(1)
    z.swapon(255, nr_pages=8)
    for t in (0, 1, 255):
        z.store(7, make_page(t), swap_type=t)
    assert [z.load(7, swap_type=t) for t in (0, 1, 255)] == [make_page(t) for t in (0, 1, 255)]
    assert list(z) == [7]
    assert len(z) == 1
    assert z.stats().stored_pages == 3
    assert z.invalidate(7, swap_type=1)
    assert z.invalidate_area(1) == 0
    assert z.load(7, swap_type=255) == make_page(255)
    z.swapoff(255)
    assert z.stats().stored_pages == 1


def test_the_last_offset_of_an_area(engine):
    z = engine()
    z.swapon(1, nr_pages=1000)
    z.store(999, noise(1), swap_type=1)
    for offset in (1000, 1001, 16383, (1 << 47) - 1):
        with pytest.raises(ValueError, match="area"):
            z.store(offset, noise(1), swap_type=1)
        with pytest.raises(KeyError):
            z.load(offset, swap_type=1)
        assert not z.invalidate(offset, swap_type=1)
    assert z.invalidate_range(0, 1 << 47, swap_type=1) == 1
    z.store((1 << 47) - 1, noise(2))
    assert z.load((1 << 47) - 1) == noise(2)
    assert list(z) == [(1 << 47) - 1]


def test_an_offline_area_is_empty(engine):
    z = engine()
    assert z.store_many([1, 2], noise(1) * 2, swap_type=4).tolist() == [Status.NO_AREA] * 2
    status = np.zeros(2, np.int8)
    z.load_many([1, 2], swap_type=4, status=status)
    assert status.tolist() == [Status.ABSENT] * 2
    assert (
        z.invalidate_many([1, 2], swap_type=4)
        == z.invalidate_range(0, 5, swap_type=4)
        == z.invalidate_area(4)
        == 0
    )
    assert z.compressed_sizes([1, 2], swap_type=4).tolist() == [-1, -1]
    assert z.stats().reject_area == 2


def test_swapoff_frees_the_whole_area(engine, make_page):
    z = engine()
    z.swapon(3)
    offsets = [*range(0, 3000, 3), *(n << 30 for n in range(1, 200))]
    for n in offsets:
        z.store(n, make_page(n), swap_type=3)
    z[1] = make_page(1)
    z.swapoff(3)
    s = z.stats()
    assert (s.stored_pages, s.invalidates) == (1, len(offsets))
    assert s.pool_total_size - s.idle_bytes <= 8 * PAGE
    assert z[1] == make_page(1)
    z.swapon(3, nr_pages=5)
    with pytest.raises(KeyError):
        z.load(3, swap_type=3)


def test_area_0_can_be_swapped_off_and_on(engine):
    z = engine()
    z[1] = noise(1)
    z.swapoff(0)
    assert len(z) == 0
    assert list(z) == []
    assert 1 not in z
    with pytest.raises(ValueError, match="area"):
        z[1] = noise(1)
    z.swapon(0, nr_pages=2)
    z[1] = noise(1)
    with pytest.raises(ValueError, match="area"):
        z[2] = noise(1)


# ---- ranges --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_ranges_against_a_dict(engine, seed):
    rng = random.Random(seed)
    z = engine()
    near = [0, 1, 63, 64, 65, 16383, 16384, 16385, 32767, 32768, 5 << 20, 1 << 46, (1 << 47) - 1]
    held = {}
    for _ in range(60):
        batch = {
            rng.choice(near) if rng.random() < 0.2 else rng.randrange(40000): rng.randrange(1 << 30)
            for _ in range(40)
        }
        z.store_many(
            list(batch), b"".join(struct.pack("<I", v) + bytes(PAGE - 4) for v in batch.values())
        )
        held.update(batch)
        start, stop = sorted(
            rng.choice(near) if rng.random() < 0.4 else rng.randrange(40000) for _ in range(2)
        )
        stop += rng.choice([0, 1])
        gone = [o for o in held if start <= o < stop]
        assert z.invalidate_range(start, stop) == len(gone)
        for o in gone:
            del held[o]
        assert list(z) == sorted(held)
        z._validate()
    pages = z.load_many(sorted(held))
    assert [int(v) for v in pages[:, :4].copy().view("<u4")[:, 0]] == [
        held[o] for o in sorted(held)
    ]
    assert z.invalidate_area() == len(held)


# ---- pools ---------------------------------------------------------------------------------------


def test_pages_stay_readable_after_a_switch(engine, make_page):
    z = engine("lz4")
    specs = [
        ("lz4", "zsmalloc"),
        ("zstd:3", "zsmalloc"),
        ("zstd:3", "zsmalloc:4"),
        ("lz4hc", "zsmalloc-kernel"),
        ("lz4:3", "zsmalloc"),
    ]
    for n, (compressor, zpool) in enumerate(specs):
        z.compressor, z.zpool = compressor, zpool
        z[n] = make_page(n)
    # those in between, between two assignments, were empty
    until(lambda: len(z.pools()) == len(specs))
    z._validate()
    assert [z[n] for n in range(len(specs))] == [make_page(n) for n in range(len(specs))]
    pools = z.pools()
    assert [p.current for p in pools].count(True) == 1
    assert pools[0].current
    assert sum(p.stored_pages for p in pools) == len(specs)
    for p in pools:
        assert p.references == p.stored_pages + p.current
        assert p.total_size > 0
    assert sum(p.total_size for p in pools) == z.stats().pool_total_size


def test_an_old_pool_vanishes_with_its_last_entry(engine, make_page):
    z = engine("lz4")
    z[1], z[2], z[3] = make_page(1), make_page(2), ZEROS
    z.compressor = "zstd"
    until(lambda: len(z.pools()) == 2)
    z[1] = make_page(11)  # replaced: it moves
    assert len(z.pools()) == 2
    z.invalidate(2)
    until(lambda: len(z.pools()) == 1)
    z._validate()
    assert (z[1], z[3]) == (make_page(11), ZEROS)
    assert z.pools()[0].current


def test_an_empty_pool_vanishes_at_the_switch(engine):
    z = engine("lz4")
    for n in range(30):
        z.compressor = f"lz4:{n + 2}"
    until(lambda: len(z.pools()) == 1)
    assert z.pools()[0].stored_pages == 0


def test_the_same_pair_is_the_same_pool(engine, make_page):
    z = engine("lz4")
    z[1] = make_page(1)
    z.compressor = "zstd"
    z[2] = make_page(2)
    z.compressor = "lz4"
    z[3] = make_page(3)
    pools = z.pools()
    assert [(p.stored_pages, p.current) for p in pools] == [(2, True), (1, False)]
    z.compressor = z.compressor
    z.zpool = z.zpool
    assert z.pools() == pools


def test_contexts_go_with_their_pool(engine, codec):
    c = Codec()
    name = codec(factory=c.capsule)
    z = engine(name)
    z[1] = b"x" + bytes(PAGE - 1)
    assert c.contexts >= 1
    z.compressor = "lz4"
    z.clear()
    until(lambda: len(z.pools()) == 1)
    until(lambda: c.contexts == 0)
    z.compressor = name
    z[1] = b"x" + bytes(PAGE - 1)
    assert c.contexts >= 1
    z.close()
    assert c.contexts == 0


def test_as_many_pools_as_an_entry_can_name(engine):
    z = engine("lz4", max_pool_bytes="64MiB")
    page = b"some page".ljust(PAGE // 2, b".") + bytes(PAGE // 2)
    for n in range(1, 257):
        z.compressor = f"lz4:{n}"
        z[n] = page
    assert len(z.pools()) == 256
    before = z.compressor, z.zpool, dict(z.parameters)
    with pytest.raises(Error, match="256 pools"):
        z.compressor = "lz4:257"
    with pytest.raises(Error, match="256 pools"):
        z.recompress("lz4:257")
    assert (z.compressor, z.zpool, dict(z.parameters)) == before
    z[300] = page
    assert all(z[n] == page for n in (*range(1, 257), 300))
    z.invalidate(7)
    until(lambda: len(z.pools()) == 255)

    def switched():  # its number is free a little later than it is out of sight
        with contextlib.suppress(Error):
            z.compressor = "lz4:257"
        return z.compressor == "lz4:257"

    until(switched)
    z[7] = page
    assert z[7] == page
    assert len(z.pools()) == 256


def test_a_switch_that_fails_changes_nothing(engine, make_page):
    z = engine("lz4")
    z[1] = make_page(1)
    before = z.compressor, z.zpool, dict(z.parameters), z.pools()
    for attribute, value in [
        ("compressor", "nope"),
        ("compressor", "zstd:9999"),
        ("zpool", "nope"),
        ("zpool", "zsmalloc:99"),
    ]:
        with pytest.raises((LookupError, ValueError)):
            setattr(z, attribute, value)
        assert (z.compressor, z.zpool, dict(z.parameters), z.pools()) == before
    z[2] = make_page(2)
    assert z.pools()[0].stored_pages == 2


# ---- compaction ----------------------------------------------------------------------------------


@pytest.mark.parametrize("zpool", ["zsmalloc", "zsmalloc:4", "zsmalloc-kernel"])
def test_compact_moves_pages_together_and_keeps_them(engine, zpool, make_page):
    z = engine("lz4", zpool)
    pages = 2000
    z.store_many(
        np.arange(pages),
        b"".join(make_page(n % 50, incompressible=0.05 + n % 7 / 10) for n in range(pages)),
    )
    keep = [n for n in range(pages) if n % 10 == 3]
    z.invalidate_many([n for n in range(pages) if n % 10 != 3])
    before = z.stats()
    freed = z.compact()
    after = z.stats()
    z._validate()
    assert freed > 0
    assert after.pages_compacted - before.pages_compacted == freed
    assert after.pool_total_size < before.pool_total_size
    assert after.compressed_bytes == before.compressed_bytes
    assert after.idle_bytes == 0
    assert after.pool_total_size <= 2 * after.compressed_bytes + (1 << 19)
    for n in keep:
        assert z[n] == make_page(n % 50, incompressible=0.05 + n % 7 / 10)
    z.compact()
    assert z.stats().pool_total_size <= after.pool_total_size


def test_compact_with_nothing_to_do(engine):
    z = engine()
    assert z.compact() == 0
    z[0] = ZEROS
    assert z.compact() == 0
    z[1] = noise(1)
    z.compact()
    assert z[1] == noise(1)


# ---- compressors that fail, lie and return garbage -----------------------------------------------


class Broken(Exception):
    """What a compressor of the tests raises."""


def raises(data, *size):
    """Fail."""
    raise Broken("on purpose")


def test_compress_that_raises(engine, codec):
    z = engine(codec(raises))
    before = z.stats()
    with pytest.raises(Error) as caught:
        z[0] = noise(0)
    assert type(caught.value) is Error
    assert isinstance(caught.value.__cause__, Broken)
    assert counted(before, z.stats()) == {"reject_compress_fail": 1}
    assert z.store_many([1], noise(1)).tolist() == [Status.COMPRESS_FAIL]
    z[2] = ZEROS
    assert len(z) == 1


@pytest.mark.parametrize("result", [None, 5, "text", object()])
def test_compress_that_returns_no_buffer(engine, codec, result):
    z = engine(codec(lambda data: result))
    with pytest.raises(Error) as caught:
        z[0] = noise(0)
    assert isinstance(caught.value.__cause__, TypeError)
    assert z.stats().reject_compress_fail == 1


def damaged(engine, codec, decompress):
    """Hold a page that decompress() cannot give back: the error, the counter, the entry that is
    kept."""
    z = engine(codec(lambda data: data[:100], decompress))
    z[3] = noise(3)
    for count in (1, 2):
        with pytest.raises(PageCorruptError, match="3"):
            z.load(3)
        assert z.stats().decompress_fail == count
    out = bytearray(PAGE)
    with pytest.raises(PageCorruptError):
        z.load(3, out)
    status = np.zeros(2, np.int8)
    z.load_many([3, 4], status=status)
    assert status.tolist() == [Status.CORRUPT, Status.ABSENT]
    with pytest.raises(PageCorruptError):
        z.load_many([3])
    s = z.stats()
    assert (s.decompress_fail, s.loads, s.stored_pages) == (5, 0, 1)
    assert 3 in z
    z._validate()
    z.parameters["exclusive_loads"] = True
    with pytest.raises(PageCorruptError):
        z.load(3)
    assert 3 in z, "a page that could not be read is not freed"
    z.parameters["exclusive_loads"] = False
    z[3] = ZEROS
    assert z[3] == ZEROS
    return z


def test_decompress_that_raises(engine, codec):
    damaged(engine, codec, raises)


@pytest.mark.parametrize("length", [0, 1, PAGE - 1, PAGE + 1, 10 * PAGE])
def test_decompress_that_returns_another_length(engine, codec, length):
    damaged(engine, codec, lambda data: bytes(length))


@pytest.mark.parametrize("result", [None, 5, "text"])
def test_decompress_that_returns_no_buffer(engine, codec, result):
    damaged(engine, codec, lambda data: result)


@pytest.mark.parametrize(
    ("decompress", "cause"),
    [(raises, Broken), (lambda data: b"short", ValueError), (lambda data: None, TypeError)],
)
@pytest.mark.parametrize("batch", [False, True])
def test_a_damaged_page_says_why(engine, codec, decompress, cause, batch):
    z = engine(codec(lambda data: data[:100], decompress))
    z[3] = noise(3)
    with pytest.raises(PageCorruptError) as caught:
        z.load_many([3]) if batch else z.load(3)
    assert isinstance(caught.value.__cause__, cause)


def test_a_codec_in_c_that_fails(engine, codec):
    c = Codec()
    z = engine(codec(factory=c.capsule))
    z[0] = b"page" + bytes(PAGE - 4)
    for rc in (-errno.EBADMSG, -errno.EIO, -1):
        c.decompress_error = rc
        with pytest.raises(PageCorruptError):
            z.load(0)
    c.decompress_error = 0
    for short in (1, PAGE, -1):
        c.decompress_short = short
        with pytest.raises(PageCorruptError):
            z.load(0)
    c.decompress_short = 0
    assert z[0] == b"page" + bytes(PAGE - 4)
    assert z.stats().decompress_fail == 6


def test_raw_pages_need_no_decompressor(engine, codec):
    z = engine(codec(lambda data: data, raises))
    z[0] = noise(0)
    assert z[0] == noise(0)


def test_a_codec_that_needs_a_context_to_decompress(engine, codec):
    c = Codec(stateless=False)
    z = engine(codec(factory=c.capsule))
    z[0] = b"page" + bytes(PAGE - 4)
    assert z[0] == b"page" + bytes(PAGE - 4)
    # A worker that has no context yet and gets none: an error for this call, and the page stays.
    c.context_error = -errno.ENOMEM
    c.hold_decompress = True
    workers = [
        threading.Thread(target=z.load_many, args=([0],), kwargs={"status": np.zeros(1, np.int8)})
        for _ in range(3)
    ]
    for t in workers:
        t.start()
    c.hold_decompress = False
    for t in workers:
        t.join()
    c.context_error = 0
    assert z[0] == b"page" + bytes(PAGE - 4)


def test_the_codec_calls_the_engine_back(engine, codec):
    z = None

    def compress(data):
        if z is not None and data != noise(99):
            z[50] = noise(99)  # a store inside the store: another worker
            assert z[50] == noise(99)
        return data

    z = engine(codec(compress))
    z[0] = noise(0)
    assert (z[0], z[50]) == (noise(0), noise(99))
    z._validate()


def test_close_inside_a_call_is_refused(engine, codec):
    errors = []

    def close(data):
        try:
            z.close()
        except RuntimeError as error:
            errors.append(error)
        return data[:100]

    z = engine(codec(close, lambda data: close(data) and noise(0)))
    z[0] = noise(0)
    z.load(0)
    z.store_many([1, 2], noise(1) * 2)
    z.load_many([0, 1, 2] * 100, threads=2)
    assert len(errors) == 304
    assert "close" in str(errors[0])
    assert not z.closed
    z.close()
    assert z.closed


def test_another_engine_can_be_closed_inside_a_call(engine, codec):
    other = engine()
    other[1] = noise(1)
    z = engine(codec(lambda data: other.close() or data))
    z[0] = noise(0)
    assert other.closed
    assert z[0] == noise(0)


def test_swapoff_inside_a_call_does_not_wait_for_itself(python):
    out = python(
        """
import random, zswap
noise = random.Random(1).randbytes(4096)
def compress(data):
    try:
        z.swapoff(1)
    except RuntimeError:
        pass
    return data
zswap.register_compressor("swapping", compress, bytes)
z = zswap.ZSwap("swapping")
z.swapon(1)
z[0] = noise
assert z[0] == noise
print("done")
""",
        timeout=20,
    )
    assert out.strip() == "done"


def test_an_engine_can_be_collected_inside_a_call(python):
    # Its end comes while this thread is in a call of another engine; it must still stop its thread
    # and free its memory.
    assert (
        python(
            """
import gc, hooks, random, zswap
noise = random.Random(1).randbytes
kept = []
def threads():
    return int(open("/proc/self/status").read().split("Threads:")[1].split()[0])
before = threads()
def compress(data):
    kept.clear()
    gc.collect()
    return data
zswap.register_compressor("collecting", compress, bytes)
z = zswap.ZSwap("collecting")
for n in range(20):
    other = zswap.ZSwap("lz4")
    other[1] = noise(4096)
    other.compressor = "zstd"       # starts its maintenance thread
    kept.append(other)
    del other
    z[n] = noise(4096)
z._validate()
print(threads() - before)
"""
        ).strip()
        == "0"
    )


# ---- references ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["single", "many"])
def test_readers_of_one_page_beyond_the_references_of_an_entry(python, mode):
    # 253 calls hold a reference inside a decompressor in Python; the next waits, and must not keep
    # the GIL from the others.
    out = python(
        """
import hooks, sys, threading, zswap
READERS, many = 253, sys.argv[1] == "many"
threading.stack_size(128 << 10)
inside, go, lock, full = [0], threading.Event(), threading.Lock(), threading.Event()
page = b"page" * 1024
def decompress(data):
    with lock:
        inside[0] += 1
        if inside[0] == READERS:
            full.set()
    go.wait()
    return page
zswap.register_compressor("waiting", lambda data: data[:100], decompress)
z = zswap.ZSwap("waiting", same_filled_pages_enabled=False)
z[0] = page
results = []
def read():
    results.append(z.load_many([0]).tobytes() if many else z.load(0))
threads = [threading.Thread(target=read) for _ in range(READERS)]
for t in threads: t.start()
full.wait()
late = [threading.Thread(target=read) for _ in range(4)]
def release():
    # Once the late ones have run for a while: in a batch they spin without the GIL.
    import time
    clock = time.pthread_getcpuclockid(threading.main_thread().ident)
    start = time.process_time()
    while many and time.process_time() - start < 0.3:
        pass
    go.set()
for t in late: t.start()
release()
for t in threads + late: t.join()
assert len(results) == READERS + 4 and all(r == page for r in results)
z._validate()
z.invalidate(0)
assert z.stats().stored_pages == 0
z.close()
print("done")
""",
        mode,
        timeout=20,
    )
    assert out.strip() == "done"


# ---- memory runs out -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["raw", "same-filled", "sparse"])
def test_no_memory_is_an_error_and_nothing_worse(python, kind):
    out = python(
        """
import hooks, random, resource, sys, zswap
kind = sys.argv[1]
z = zswap.ZSwap("lz4", max_pool_bytes="1TiB")
noise = random.Random(1).randbytes(4096 * 64)
word = b"12345678" * 512 * 64
z.store_many(range(64), noise)
z.store_many(range(64), word)
offset = 0
def batch():
    global offset
    step = 1 << 30 if kind == "sparse" else 1
    offsets = [(offset + n) * step % (1 << 47) for n in range(64)]
    offset += 64
    return offsets, z.store_many(offsets, noise if kind == "raw" else word)
for _ in range(10): batch()
used = int(open("/proc/self/statm").read().split()[0]) * 4096
hard = resource.getrlimit(resource.RLIMIT_AS)[1]
resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 20), hard))
failed = None
for _ in range(20000):
    offsets, status = batch()
    if status.min() < 0:
        failed = [o for o, s in zip(offsets, status) if s < 0]
        break
resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
if failed is None:
    print("never failed")
else:
    assert set(status.tolist()) <= {0, 1, 2, -7, -8}, status
    assert all(o not in z for o in failed)
    z._validate()
    s = z.stats()
    assert s.reject_alloc_fail + s.reject_kmemcache_fail == len(failed), s
    z.store_many(offsets, noise)            # the memory is back
    assert z.load_many(offsets).tobytes() == noise
    z._validate()
    print("failed", "alloc" if s.reject_alloc_fail else "entry")
z.close()
""",
        kind,
        MALLOC_ARENA_MAX="1",
    ).split()
    if out == ["never", "failed"]:
        pytest.skip("the address space was reserved beforehand")
    assert out[0] == "failed"


@pytest.mark.parametrize("compressor", ["lz4", "lref:2", "zstd:1", "deflate"])
@pytest.mark.parametrize("page_size", [4096, 65536])
def test_zeros_that_a_page_ends_in_are_not_compressed(compressor, page_size, memory_store):
    """They cost nothing, and are there again: after a load, in the backing store, recompressed."""
    rng = random.Random(4)
    pages = [
        rng.randbytes(n).ljust(page_size, b"\0")
        for n in (1, 7, 63, 64, 65, 1000, page_size - 65, page_size - 1, page_size)
    ]
    pages.append(rng.randbytes(100).rjust(page_size, b"\0"))
    with zswap.ZSwap(
        compressor,
        page_size=page_size,
        max_pool_bytes="64MiB",
        trim_zeros=True,
        checksum=True,
        backing=memory_store(),
    ) as z:
        for offset, page in enumerate(pages):
            z[offset] = page
        assert all(size < 1020 for size in z.compressed_sizes(range(6)))
        for _ in range(2):
            out = bytearray(b"\xff" * page_size)
            for offset, page in enumerate(pages):
                z.load(offset, out)
                assert out == page
            z.recompress("zstd:3")
            z._validate()
        assert z.shrink(len(pages)) == len(pages)
        assert [z[offset] for offset in range(len(pages))] == pages
        with pytest.raises(ValueError, match="chosen when the ZSwap is made"):
            z.parameters["trim_zeros"] = False


def test_without_trimming_a_short_page_is_damage(make_page):
    with zswap.ZSwap("lz4", max_pool_bytes="1MiB") as z:
        z[0] = make_page(0)
        z._object(0, bytes([0x10, 65]) + bytes(40))
        with pytest.raises(zswap.PageCorruptError):
            z[0]
