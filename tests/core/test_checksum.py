"""Checksums: damage anywhere is found and told of, and what is sound is never taken for damaged."""

import gc
import random
import threading
import zlib

import numpy as np
import pytest

import zswap
import zswap.core
from hooks.faults import FOREVER, fault
from zswap import PageCorruptError, Status
from zswap_core.libraries import checksums
from zswap_core.libraries.checksums import open_checksum
from zswap_core.libraries.find import CRC_OF_LIBDEFLATE, XXH3_OF_LIBXXHASH, XXH64_OF_LIBZSTD

PAGE = 4096
SOURCES = (CRC_OF_LIBDEFLATE, XXH3_OF_LIBXXHASH, XXH64_OF_LIBZSTD)


def text(n, size=PAGE):
    return (random.Random(n).randbytes(size // 4) + f"page {n} ".encode() * size)[:size]


def noise(n, size=PAGE):
    return random.Random(~n).randbytes(size)


def same(n, size=PAGE):
    return (n + 1 << 32).to_bytes(8, "little") * (size // 8)


def flip(z, offset, bit):
    """Change a bit of what a page was made into; done twice, it is as before."""
    data = bytearray(z._object(offset))
    data[bit // 8] ^= 1 << bit % 8
    z._object(offset, bytes(data))


def flip_file(path, offset, bit, size=PAGE):
    """Change a bit of a page in a swap file."""
    with open(path, "r+b", buffering=0) as file:
        file.seek((1 + offset) * size + bit // 8)
        byte = file.read(1)[0] ^ 1 << bit % 8
        file.seek(-1, 1)
        file.write(bytes([byte]))


@pytest.fixture
def checked(engine, tmp_path):
    """Makes engines with checksums, and a swap file where one is wanted."""

    def make(*args, backing=False, **options):
        if backing:
            options["backing"] = zswap.SwapFile(tmp_path / "swap", "8MiB", direct=False)
        return engine(
            *args,
            checksum=True,
            **{"max_pool_bytes": "64MiB", "shrinker_interval": 3600.0, **options},
        )

    return make


# ---- the functions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "sums"),
    [
        (CRC_OF_LIBDEFLATE, {b"a": 0xE8B7BE43, b"123456789": 0xCBF43926}),
        (XXH3_OF_LIBXXHASH, {b"a": 0xE6C632B61E964E1F & 0xFFFFFFFF}),
        (XXH64_OF_LIBZSTD, {b"a": 0xD24EC4F1A98C6E5B & 0xFFFFFFFF}),
    ],
)
def test_the_functions_are_what_they_are_called(source, sums):
    try:
        function = open_checksum([source])
    except zswap.Error as error:
        pytest.skip(str(error))
    assert {data: function(data) for data in sums} == sums
    assert function.path
    if source is CRC_OF_LIBDEFLATE:
        for n in (1, 8, 63, 4096, 65536):
            assert function(noise(n, n)) == zlib.crc32(noise(n, n))


def test_no_library(monkeypatch):
    lz4 = zswap.open_compressor("lz4")
    match = r"no library that makes checksums; .*or leave checksum out: libdeflate"
    with fault("LIBRARY_OPEN", times=FOREVER), pytest.raises(zswap.Error, match=match) as caught:
        zswap.ZSwap(lz4, checksum=True)
    assert "pip install deflate" in str(caught.value)
    assert "pip install xxhash" in str(caught.value)
    assert "pip install zstd" in str(caught.value)
    # The next one will do.
    monkeypatch.setenv(CRC_OF_LIBDEFLATE.env, "/nowhere")
    assert not open_checksum().name.startswith("crc32")


@pytest.mark.parametrize("source", SOURCES, ids=checksums.NAMES.get)
def test_every_function_serves(checked, monkeypatch, source):
    try:
        function = open_checksum([source])
    except zswap.Error as error:
        pytest.skip(str(error))
    monkeypatch.setattr(zswap.core, "open_checksum", lambda: function)
    z = checked(backing=True)
    assert z.checksum == function.name == f"{checksums.NAMES[source]} ({source.library})"
    kinds = (text, noise, same)
    for n in range(30):
        z[n] = kinds[n % 3](n)
    z.shrink(10)
    assert all(z[n] == kinds[n % 3](n) for n in range(30))
    flip(z, 2, 5)
    with pytest.raises(PageCorruptError):
        z[2]
    flip(z, 2, 5)


# ---- parameter and memory ------------------------------------------------------------------------


def test_it_is_chosen_once(engine, checked):
    plain, z = engine(), checked()
    assert plain.parameters["checksum"] is False
    assert plain.checksum is None
    assert z.parameters["checksum"] is True
    for one, other in ((plain, True), (z, False)):
        with pytest.raises(ValueError, match="checksum is chosen when the ZSwap is made"):
            one.parameters["checksum"] = other
        one.parameters["checksum"] = not other
    with pytest.raises(ValueError, match="no switch"):
        zswap.ZSwap(checksum="crc32")


def test_what_it_takes(engine, checked):
    """4 bytes a page where they are dense, 256 where they lie alone, nothing without."""
    plain, z = engine(max_pool_bytes="64MiB"), checked()
    for offsets, each in ((range(1 << 14), 4), (range(1 << 20, 1 << 21, 64), 256)):
        before = [e.stats().metadata_bytes for e in (plain, z)]
        for e in (plain, z):
            e.store_many(offsets, b"".join(same(n) for n in offsets))
        grown = [e.stats().metadata_bytes - b for e, b in zip((plain, z), before, strict=True)]
        # of where they lie, and what the last of the memory for them leaves over
        table = 8192 / len(offsets)
        assert each * 0.98 <= (grown[1] - grown[0]) / len(offsets) <= each * 1.05 + table
    for e in (plain, z):
        e.clear()
        e.compact()
    assert z.stats().metadata_bytes - plain.stats().metadata_bytes < 1 << 17


@pytest.mark.parametrize("nth", range(1, 9))
def test_no_memory_for_the_sums(nth):
    with zswap.ZSwap("lz4", checksum=True, max_pool_bytes="64MiB") as z:
        with fault("SLAB_BLOCK", nth) as failed:
            outcome = z.store_many([7], text(7))
            assert failed() == (outcome[0] < 0)
        z._validate()
        z[7] = text(7)
        assert z[7] == text(7)
        z._validate()
    assert nth == 8 or outcome[0] in (Status.ALLOC_FAIL, Status.ENTRY_FAIL)


# ---- damage in memory ----------------------------------------------------------------------------


@pytest.mark.parametrize("zpool", ["zsmalloc", "zsmalloc-kernel", "zbud", "z3fold"])
@pytest.mark.parametrize("spec", ["lz4", "lz4hc", "zstd:1", "deflate:1", "lzo", "lref", "lref:2"])
@pytest.mark.parametrize("page_size", [4096, 65536])
def test_every_flip_in_memory_is_found(checked, spec, zpool, page_size):
    if spec.partition(":")[0] not in {info.name for info in zswap.compressors() if info.available}:
        pytest.skip(f"no library for {spec}")
    z = checked(spec, zpool, page_size)
    # those hold no raw pages
    kinds = (text, same) if zpool in ("zbud", "z3fold") else (text, noise, same)
    pages = {n: kinds[n % len(kinds)](n, page_size) for n in range(3 * len(kinds))}
    for n, page in pages.items():
        z[n] = page
    rng = random.Random(f"{spec} {zpool} {page_size}")
    found = 0
    for n in pages:
        for _ in range(6):
            bit = rng.randrange(8 * len(z._object(n)))
            flip(z, n, bit)
            with pytest.raises(
                PageCorruptError,
                match=rf"^page at offset {n} is damaged in memory: .*the entry is kept$",
            ):
                z.load(n)
            found += 1
            flip(z, n, bit)
            assert z[n] == pages[n]
    s = z.stats()
    assert s.decompress_fail + s.checksum_fail == found
    assert s.checksum_fail >= found // len(kinds)
    assert s.stored_pages == len(pages)


def test_a_batch_says_which(checked):
    z = checked()
    pages = {n: (text, noise, same)[n % 3](n) for n in range(300)}
    z.store_many(list(pages), b"".join(pages.values()))
    bad = random.Random(1).sample(range(300), 40)
    for n in bad:
        flip(z, n, 13)
    for threads in (1, 3):
        status = np.zeros(300, np.int8)
        out = z.load_many(list(pages), status=status, threads=threads)
        assert set(np.flatnonzero(status == Status.CORRUPT)) == set(bad)
        assert all(out[n].tobytes() == pages[n] for n in pages if n not in bad)
    with pytest.raises(PageCorruptError, match=f"offset {min(bad)} is damaged in memory"):
        z.load_many(list(pages))
    for n in bad:
        flip(z, n, 13)
    assert z.load_many(list(pages)).tobytes() == b"".join(pages.values())


def test_a_damaged_page_is_replaced_and_invalidated_as_any_other(checked):
    z = checked()
    z[0], z[1] = text(0), same(1)
    flip(z, 0, 99)
    flip(z, 1, 40)
    z[0] = text(5)
    assert z[0] == text(5)
    assert z.invalidate(1)
    assert 1 not in z


def test_without_checksums_it_may_pass(engine):
    """What they are for: a raw page has nothing else to be known by."""
    z = engine()
    z[0] = noise(0)
    flip(z, 0, 0)
    assert z[0] != noise(0)
    assert z.stats().checksum_fail == 0


# ---- damage in the backing store -----------------------------------------------------------------


@pytest.mark.parametrize("page_size", [4096, 16384])
def test_every_flip_in_the_file_is_found(engine, tmp_path, page_size):
    path = tmp_path / "swap"
    file = zswap.SwapFile(path, "8MiB", page_size=page_size, direct=False)
    z = engine(
        page_size=page_size,
        backing=file,
        checksum=True,
        promote="never",
        read_ahead=False,  # what was read before it was damaged is still the page
        shrinker_interval=3600.0,
    )
    pages = {n: (text, noise)[n % 2](n, page_size) for n in range(16)}
    for n, page in pages.items():
        z[n] = page
    assert z.shrink(16) == 16
    rng = random.Random(page_size)
    for n in pages:
        for _ in range(20):
            bit = rng.randrange(8 * page_size)
            flip_file(path, n, bit, page_size)
            with pytest.raises(
                PageCorruptError,
                match=rf"offset {n} is damaged in the backing store, swap file '{path}'",
            ):
                z.load(n)
            flip_file(path, n, bit, page_size)
        assert z[n] == pages[n]
    s = z.stats()
    assert (s.backing_checksum_fail, s.checksum_fail, s.backed_pages, s.backing_loads) == (
        320,
        0,
        16,
        16,
    )


def test_pages_of_the_file_that_were_exchanged_or_lost(checked, tmp_path):
    z = checked(backing=True)
    for n in range(3):
        z[n] = text(n)
    z.shrink(3)
    with open(tmp_path / "swap", "r+b", buffering=0) as file:
        content = bytearray(file.read())
        content[PAGE : 3 * PAGE] = content[2 * PAGE : 3 * PAGE] + content[PAGE : 2 * PAGE]
        content[3 * PAGE : 4 * PAGE] = bytes(PAGE)  # as a hole would read
        file.seek(0)
        file.write(content)
    status = np.zeros(3, np.int8)
    z.load_many(range(3), status=status)
    assert status.tolist() == [Status.BACKING_CORRUPT] * 3
    assert z.stats().backing_checksum_fail == 3


def test_pages_that_are_written_through_have_sums_too(checked, tmp_path):
    z = checked(backing=True)
    z.parameters["enabled"] = False
    z[0], z[1] = text(0), same(1)
    assert z.stats().written_through_pages == 2
    assert (z[0], z[1]) == (text(0), same(1))
    flip_file(tmp_path / "swap", 1, 77)
    with pytest.raises(PageCorruptError, match="offset 1 is damaged in the backing store"):
        z[1]
    z.parameters["enabled"] = True
    z[1] = text(9)  # in memory again
    assert z[1] == text(9)
    z.shrink(1)
    assert z[1] == text(9)
    z[1] = same(3)
    assert z[1] == same(3)


def test_an_exclusive_load_does_not_drop_a_damaged_page(checked, tmp_path):
    z = checked(backing=True)
    z[0], z[1], z[2] = text(0), text(1), same(2)
    z.shrink(1)
    z.parameters["exclusive_loads"] = True
    flip_file(tmp_path / "swap", 0, 500)
    flip(z, 1, 3)
    flip(z, 2, 3)
    for n in range(3):
        for _ in range(2):
            with pytest.raises(PageCorruptError):
                z[n]
    flip_file(tmp_path / "swap", 0, 500)
    flip(z, 1, 3)
    flip(z, 2, 3)
    assert (z[0], z[1], z[2]) == (text(0), text(1), same(2))
    assert len(z) == 0
    assert z.stats().backed_pages == 0


def test_a_store_in_python_that_lies(engine, memory_store):
    store = memory_store()
    z = engine(backing=store, checksum=True, shrinker_interval=3600.0)
    z[5] = text(5)
    z.shrink(1)
    store.pages[5] = text(6)
    with pytest.raises(PageCorruptError, match="offset 5 is damaged in the backing store, "):
        z[5]


# ---- what moves pages ----------------------------------------------------------------------------


def test_a_damaged_page_is_not_written_back(engine, memory_store):
    store = memory_store()
    z = engine(backing=store, checksum=True, shrinker_interval=3600.0)
    for n in range(20):
        z[n] = (text, noise)[n % 2](n)
    bad = {3, 4, 11}
    for n in bad:
        flip(z, n, 800)
    assert z.shrink(20) == 17
    assert set(store.pages) == set(range(20)) - bad
    s = z.stats()
    assert (s.backed_pages, s.stored_pages) == (17, 3)
    assert s.checksum_fail + s.decompress_fail == s.reject_reclaim_fail >= 3
    assert s.checksum_fail >= 2
    for n in bad:
        with pytest.raises(PageCorruptError, match="damaged in memory"):
            z[n]
        flip(z, n, 800)
    assert z.shrink(20) == 3
    assert all(z[n] == (text, noise)[n % 2](n) for n in range(20))


def test_a_damaged_page_does_not_reach_the_store_over_a_good_copy(engine, memory_store):
    store = memory_store()
    z = engine(backing=store, checksum=True, shrinker_interval=3600.0)
    z[0] = text(0)
    z.shrink(1)
    z[0] = noise(0)
    flip(z, 0, 1)
    assert z.shrink(1) == 0
    assert store.pages[0] == text(0)


@pytest.mark.parametrize("target", ["zstd:9", "zstd:19"])
def test_recompression(checked, target):
    z = checked("lz4")
    for n in range(60):
        z[n] = (text, noise, same)[n % 3](n)
    for n in (0, 1, 3):
        flip(z, n, 900)
    done = z.recompress(target)
    assert done.moved == 18
    s = z.stats()
    assert s.checksum_fail + s.decompress_fail == 3
    for n in (0, 1, 3):
        with pytest.raises(PageCorruptError):
            z[n]
        flip(z, n, 900)
    assert all(z[n] == (text, noise, same)[n % 3](n) for n in range(60))
    flip(z, 6, 100)
    with pytest.raises(PageCorruptError):
        z[6]
    flip(z, 6, 100)


@pytest.mark.parametrize("zpool", ["zsmalloc", "zbud", "z3fold"])
def test_compaction_and_switches(checked, zpool):
    z = checked("lz4", zpool)
    z.store_many(range(2000), b"".join(text(n) for n in range(2000)))
    z.invalidate_many([n for n in range(2000) if n % 7])
    z.compressor = "zstd:1"
    z.zpool = "zsmalloc"
    z.store_many(range(3000, 3100), b"".join(noise(n) for n in range(100)))
    z.compact()
    assert all(z[n] == text(n) for n in range(0, 2000, 7))
    flip(z, 7, 900)
    with pytest.raises(PageCorruptError):
        z[7]
    flip(z, 7, 900)


def test_a_drain_ends_at_a_damaged_page(checked):
    z = checked()
    z.swapon(1, 100)
    for n in range(4):
        z.store(n, text(n), swap_type=1)
    data = z._object(2, swap_type=1)
    z._object(2, bytes([data[0] ^ 1]), swap_type=1)
    pages = z.swapoff(1, drain=True)
    assert [next(pages)[0], next(pages)[0]] == [0, 1]
    with pytest.raises(PageCorruptError, match="offset 2 of swap area 1 is damaged in memory"):
        next(pages)
    assert z.load(3, swap_type=1) == text(3)


def test_runs_come_and_go(checked):
    """Sums belong to places: what was at one before says nothing."""
    z = checked()
    rng = random.Random(5)
    oracle = {}
    for _ in range(6000):
        n = rng.choice((rng.randrange(200), rng.randrange(200) * 64, rng.randrange(50) << 14))
        if rng.random() < 0.6:
            seed = rng.randrange(1 << 30)
            z[n] = oracle[n] = (text, noise, same)[seed % 3](seed)
        elif n in oracle and rng.random() < 0.5:
            assert z[n] == oracle[n]
        else:
            assert z.invalidate(n) == (oracle.pop(n, None) is not None)
    z._validate()
    assert {n: z[n] for n in z} == oracle
    assert z.stats().checksum_fail == 0


def test_threads(checked):
    """Stores, loads, writeback, recompression and compaction at once: no false alarm."""
    z = checked("lz4", backing=True, max_pool_bytes="1MiB", shrinker_interval=0.001)
    stop = threading.Event()
    errors = []

    def work(t):
        rng = random.Random(t)
        oracle = {}
        try:
            for _ in range(700):
                n = t * 400 + rng.randrange(400)
                if rng.random() < 0.5:
                    seed = rng.randrange(1 << 30)
                    z[n] = oracle[n] = (text, noise, same)[seed % 3](seed)
                elif n in oracle:
                    assert z[n] == oracle[n]
                if rng.random() < 0.1:
                    assert z.invalidate(n) == (oracle.pop(n, None) is not None)
            assert all(z[n] == page for n, page in oracle.items())
        except BaseException as error:
            errors.append(error)

    def meddle():
        try:
            while not stop.is_set():
                z.shrink(20)
                z.recompress("zstd:1", max_pages=10)
                z.compact()
        except BaseException as error:
            errors.append(error)

    meddler = threading.Thread(target=meddle)
    threads = [threading.Thread(target=work, args=(t,)) for t in range(3)]
    meddler.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    meddler.join()
    assert not errors
    s = z.stats()
    assert (s.checksum_fail, s.backing_checksum_fail, s.decompress_fail) == (0, 0, 0)
    assert s.written_back_pages + s.written_through_pages > 0
    gc.collect()
