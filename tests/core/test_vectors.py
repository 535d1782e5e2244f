"""`storev` and `loadv`: several buffers as one row of bytes in pages that follow one another."""

import errno
import random
import zlib

import numpy as np
import pytest

from hooks.faults import FOREVER, fault
from zswap import BackingError, Error, PageCorruptError, PoolLimitError, SwapFile

PAGE = 4096
MOST = 16384
NEVER = 86400
QUIET = {"shrinker_interval": NEVER, "shrinker_enabled": False, "max_pool_bytes": "64MiB"}


def noise(seed, size=PAGE):
    return random.Random(seed).randbytes(size)


# Lengths of buffers: none, less than a page, pages, and what lies across them.
SHAPES = {
    "nothing": [],
    "empty buffers": [0, 0],
    "a byte": [1],
    "a page": [PAGE],
    "pages": [PAGE, 2 * PAGE],
    "pages and a byte": [3 * PAGE + 1],
    "pages that begin within one": [100, 2 * PAGE, 5],
    "many small ones": [7] * 1500,
    "all kinds": [0, PAGE - 1, 0, 1, PAGE, 10, 3 * PAGE, 0, PAGE // 2, 0],
}


def rows(shape, seed=1):
    """Buffers of these lengths, by turns noise, what compresses, and zeros."""
    makers = [noise, lambda k, n: (noise(k, 99) * n)[:n], lambda k, n: bytes(n)]
    return [makers[k % 3](k + seed, n) for k, n in enumerate(shape)]


def padded(data):
    return data + bytes(-len(data) % PAGE)


def held(z, first, pages):
    return b"".join(z.load(o) for o in range(first, first + pages))


@pytest.fixture(params=["lz4", "zstd", "lref", "checksum", "wiped"])
def z(request, engine):
    """An engine that holds three pages beforehand, two of which will be replaced."""
    plain = request.param in ("checksum", "wiped")
    made = engine(
        "lz4" if plain else request.param,
        checksum=request.param == "checksum",
        wipe_on_free=request.param == "wiped",
        **QUIET,
    )
    made[4], made[5], made[6] = noise(4), b"five" * 1024, noise(6, 2000) + bytes(PAGE - 2000)
    return made


@pytest.mark.parametrize("shape", SHAPES)
def test_what_was_stored_is_loaded(z, shape):
    buffers = rows(SHAPES[shape])
    data = b"".join(buffers)
    pages = -(-len(data) // PAGE)
    assert z.storev(5, buffers) == pages
    z._validate()
    assert held(z, 5, pages) == padded(data)
    assert z[4] == noise(4)
    out = [bytearray(b"x" * len(b)) for b in buffers]
    assert z.loadv(5, out) == pages
    assert out == buffers
    # by other buffers than those that were stored
    for n in (1, 1000, PAGE):
        views = [memoryview(bytearray(data))[at : at + n] for at in range(0, len(data), n)]
        z.loadv(5, views)
        assert b"".join(views) == data
    if pages:
        out = bytearray(pages * PAGE)
        z.loadv(5, [out])
        assert out == padded(data)


def test_any_buffers(z):
    buffers = [
        np.arange(1000, dtype=np.float32),
        b"bytes",
        memoryview(bytearray(b"view")),
        np.zeros((3, 5)),
    ]
    z.storev(0, iter(buffers))
    out = [np.ones(1000, np.float32), bytearray(5), bytearray(4), np.ones((3, 5))]
    z.loadv(0, tuple(out))
    assert (out[0] == buffers[0]).all()
    assert (out[1], out[2]) == (b"bytes", b"view")
    assert not out[3].any()


@pytest.mark.parametrize("page_size", [16384, 65536])
def test_large_pages(engine, page_size):
    z = engine(page_size=page_size, **QUIET)
    buffers = rows([page_size - 1, 5, page_size, 9])
    assert z.storev(0, buffers) == 3
    out = [bytearray(len(b)) for b in buffers]
    z.loadv(0, out)
    assert out == buffers


def test_absent_pages(z):
    out = [bytearray(b"x" * 5000), bytearray(b"x" * 9000)]
    with pytest.raises(KeyError, match="7"):
        z.loadv(6, out)
    assert z.loadv(6, out, absent="zeros") == 4
    assert b"".join(out) == (z[6] + bytes(3 * PAGE))[:14000]
    z.swapon(1, nr_pages=2)
    with pytest.raises(ValueError, match="offset 2 of swap area 1: no such"):
        z.loadv(0, [bytearray(3 * PAGE)], swap_type=1, absent="zeros")
    with pytest.raises(ValueError, match="absent is"):
        z.loadv(0, out, absent="nothing")


def test_they_stay_whatever_exclusive_loads_says(z):
    z.parameters["exclusive_loads"] = True
    with pytest.raises(KeyError):
        z.loadv(4, [bytearray(4 * PAGE)])
    z.loadv(4, [bytearray(3 * PAGE)])
    assert len(z) == 3


def test_nothing_changes_before_all_is_checked(z):
    before = dict(z.items())
    z.swapon(1, nr_pages=10)
    with pytest.raises(ValueError, match=r"offset 10 of swap area 1.*beyond its end"):
        z.storev(8, [bytes(3 * PAGE)], swap_type=1)
    with pytest.raises(ValueError, match="no such swap area"):
        z.storev(0, [b"x"], swap_type=2)
    with pytest.raises(ValueError, match="beyond its end"):
        z.storev((1 << 47) - 1, [bytes(2 * PAGE)])
    assert z.storev((1 << 47) - 1, [noise(1)]) == 1
    assert z.invalidate((1 << 47) - 1)
    # the same one again and again: it is only its address that counts
    large = bytes(1 << 20)
    many = [large] * (MOST * PAGE >> 20)
    assert z.loadv(1000, [np.empty(0)], absent="zeros") == 0
    for wrong in ([*many, b"x"], many * 3):
        with pytest.raises(ValueError, match="more than 16384 pages"):
            z.storev(0, wrong)
    for wrong in (b"bytes", bytearray(5), "text", memoryview(b"x"), [b"x", "text"], [1], 5, None):
        with pytest.raises(TypeError):
            z.storev(0, wrong)
        with pytest.raises((TypeError, ValueError)):
            z.loadv(0, wrong)
    for wrong in ([b"bytes"], [bytearray(1), b"x"], [np.zeros((4, 4))[:, 0]]):
        with pytest.raises(ValueError, match=r"buffers\[\d\]"):
            z.loadv(0, wrong)
    assert len(z._shard_offsets(0, 1)) == 0
    assert dict(z.items()) == before


def test_as_many_as_can_be(engine):
    z = engine(**QUIET)
    large = noise(1, 1000) * 1100
    buffers = [memoryview(large)[: 1 << 20]] * (MOST * PAGE >> 20)
    assert z.storev(7, buffers) == MOST
    out = np.empty(1 << 20, np.uint8)
    z.loadv(7 + 256 * 63, [out])
    assert out.tobytes() == large[: 1 << 20]
    assert len(z) == MOST


# ---- all or nothing ------------------------------------------------------------------------------


def test_a_limit_that_is_met_half_way(engine):
    z = engine(max_pool_bytes=32 * PAGE, shrinker_interval=NEVER)
    pages = {n: noise(n) for n in range(8)}
    z.update(pages)
    before = z.stats()
    with pytest.raises(PoolLimitError, match=r"page at offset \d\d"):
        z.storev(4, [noise(99, 60 * PAGE)])
    s = z.stats()
    assert dict(z.items()) == pages
    assert (s.stored_pages, s.compressed_bytes, s.pool_limit_hit) == (
        before.stored_pages,
        before.compressed_bytes,
        1,
    )
    z._validate()


@pytest.mark.parametrize("failing", [0, 1, 5])
def test_a_compressor_that_fails_half_way(engine, codec, failing):
    calls, fail = [], []

    def compress(page):
        calls.append(page)
        if fail and len(calls) == fail[0] + 1:
            raise RuntimeError("the compressor fails")
        return zlib.compress(page, 1)

    z = engine(codec(compress, zlib.decompress), **QUIET)
    pages = {n: noise(n, 2000) + bytes(2096) for n in range(6)}
    z.update(pages)
    z[6] = bytes(PAGE)
    calls.clear()
    fail.append(failing)
    with pytest.raises(Error, match=f"page at offset {failing}") as caught:
        z.storev(0, [noise(9, 50), bytes(6 * PAGE)] if failing == 0 else [noise(9, 7 * PAGE)])
    assert "the compressor fails" in str(caught.value.__cause__)
    assert len(calls) == failing + 1
    assert dict(z.items()) == {**pages, 6: bytes(PAGE)}


def test_storing_is_off(z):
    before = dict(z.items())
    z.parameters["enabled"] = False
    with pytest.raises(Error, match="'enabled' is off"):
        z.storev(4, [noise(1, 3 * PAGE)])
    z.parameters.update(enabled=True, non_same_filled_pages_enabled=False)
    with pytest.raises(Error, match="offset 6"):
        z.storev(4, [bytes(2 * PAGE), noise(1)])
    assert dict(z.items()) == before
    z.storev(4, [bytes(3 * PAGE)])
    assert z.stats().same_filled_pages == 3


@pytest.mark.parametrize("site", ["SCRATCH", "SLAB_BLOCK", "ZPOOL_MALLOC", "COMPRESS", "ARENA_MAP"])
@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("offset", [4, 1 << 40], ids=["held", "new"])
def test_no_memory(engine, site, nth, offset):
    """All of the pages or none: those that were there where they had been, or no page at all."""
    z = engine(**QUIET)
    pages = {4: noise(4), 5: b"five" * 1024, 6: noise(6, 2000) + bytes(PAGE - 2000)}
    z.update(pages)
    data = rows([PAGE, 300, PAGE, 2 * PAGE])
    fresh = padded(b"".join(data))
    with fault(site, nth=nth, times=FOREVER):
        try:
            z.storev(offset, data)
            stored = True
        except (MemoryError, Error):
            stored = False
    z._validate()
    if stored:
        assert held(z, offset, 5) == fresh
    else:
        assert {o: z[o] for o in z if o >= offset} in ({}, pages)


@pytest.fixture(params=["memory", "packed"])
def backed(request, engine, memory_store, tmp_path):
    """An engine with a store, into which next to nothing fits beside what is there."""

    def make(**kwargs):
        store = (
            memory_store()
            if request.param == "memory"
            else SwapFile(str(tmp_path / "swap"), "8MiB", packed=True)
        )
        return engine(backing=store, promote="never", **{**QUIET, **kwargs})

    return make


def test_what_has_no_room_goes_to_the_store(backed):
    z = backed(max_pool_bytes=16 * PAGE, direct_reclaim=False)
    data = noise(5, 100 * PAGE - 7)
    assert z.storev(3, [data[:5000], data[5000:]]) == 100
    assert z.stats().written_through_pages > 50
    out = [bytearray(100), bytearray(len(data) - 100)]
    z.loadv(3, out)
    assert b"".join(out) == data
    z._validate()


def test_room_is_made(backed):
    z = backed(max_pool_bytes=64 * PAGE)
    for n in range(5):
        z.storev(n * 40, [noise(n, 40 * PAGE)])
    assert held(z, 0, 200) == b"".join(noise(n, 40 * PAGE) for n in range(5))


def test_in_place_of_pages_in_the_store(backed):
    z = backed()
    z.storev(0, [noise(1, 10 * PAGE)])
    assert z.shrink(10) == 10
    z.storev(2, [noise(2, 5 * PAGE)])
    assert (
        held(z, 0, 10)
        == noise(1, 10 * PAGE)[: 2 * PAGE] + noise(2, 5 * PAGE) + (noise(1, 10 * PAGE)[7 * PAGE :])
    )
    assert z.stats().backed_pages == 5


def test_a_store_that_fails(backed):
    z = backed()
    z.storev(0, [noise(1, 10 * PAGE)])
    z.parameters["enabled"] = False
    with (
        fault("BACKING_WRITE", error=errno.EIO, nth=4, times=FOREVER),
        pytest.raises(BackingError, match="page at offset 5"),
    ):
        z.storev(2, [noise(2, 5 * PAGE)])
    assert sorted(z) == [0, 1, 7, 8, 9]
    z._validate()
    z.parameters["enabled"] = True
    z.shrink(10)
    with fault("BACKING_READ", error=errno.EIO, times=FOREVER), pytest.raises(BackingError):
        z.loadv(0, [bytearray(2 * PAGE)])
    out = bytearray(2 * PAGE)
    z.loadv(0, [out])
    assert out == noise(1, 10 * PAGE)[: 2 * PAGE]


def test_damage(engine):
    z = engine(checksum=True, **QUIET)
    z.storev(0, [b"texts" * 2400])
    with (
        fault("DECOMPRESS", error=errno.EIO, nth=2, times=FOREVER),
        pytest.raises(PageCorruptError, match="offset 1"),
    ):
        z.loadv(0, [bytearray(12000)])
    assert len(z) == 3


def test_an_area_that_goes_meanwhile(engine, codec):
    """The entries that nobody knew yet are freed."""
    calls = []

    def compress(page):
        if calls:
            calls.pop()()
        return zlib.compress(page, 1)

    z = engine(codec(compress, zlib.decompress), **QUIET)
    z.swapon(1)
    # swapoff() would wait for the call that it is in: so the area only takes no more pages in
    calls.append(lambda: z._seal(1, True))
    with pytest.raises(ValueError, match="no such swap area"):
        z.storev(0, [noise(1, 5 * PAGE)], swap_type=1)
    s = z.stats()
    assert (s.stored_pages, s.compressed_bytes) == (0, 0)
    z._validate()


@pytest.mark.usefixtures("eager_switches")
def test_each_page_is_whole(engine, thread):
    """Two that store over each other, and a reader."""
    z = engine("zstd:1", **QUIET)
    rounds = 150

    def write(k):
        for n in range(rounds):
            z.storev(
                k, [np.full(700, k << 16 | n, np.uint32), np.full(3000, k << 16 | n, np.uint32)]
            )

    def read():
        for _ in range(rounds):
            pages = np.zeros((5, PAGE // 4), np.uint32)
            z.loadv(0, [pages], absent="zeros")
            assert all(set(page.tolist()) - {0} <= {page[0]} for page in pages)

    for t in [thread(write, 0), thread(write, 1), thread(read)]:
        t.join()
