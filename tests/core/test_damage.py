"""Damage of every kind: with checksums all of it is found; without, no damaged byte makes anybody
read or write astray."""

import errno
import os
import random
import shutil
import threading
import zlib

import numpy as np
import pytest

import zswap
from zswap import BackingError, PageCorruptError, Status
from zswap_core.compressors.registry import open_compressor

pytestmark = pytest.mark.slow

PAGE = 4096
AVAILABLE = [info.name for info in zswap.compressors() if info.available]
FLIPS = 1200
GUARD = 64


def page_of(n, size=PAGE):
    """Pages of five kinds, from nearly all noise to nearly none."""
    rng = random.Random(n)
    noise = rng.randbytes(size * (n % 5 + 1) // 7)
    return (
        noise + b"".join(b"record %d: %d; " % (n, rng.randrange(100)) for _ in range(size // 8))
    )[:size]


def damages(rng, data):
    """Change some bits or bytes, somewhere; never nothing."""
    out = bytearray(data)
    kind = rng.randrange(5)
    if kind == 0:
        bit = rng.randrange(8 * len(out))
        out[bit // 8] ^= 1 << bit % 8
    elif kind == 1:
        for bit in rng.sample(range(8 * len(out)), rng.randrange(2, 9)):
            out[bit // 8] ^= 1 << bit % 8
    elif kind == 2:
        at, n = rng.randrange(len(out)), rng.randrange(1, 33)
        out[at : at + n] = rng.randbytes(len(out[at : at + n]))
    elif kind == 3:
        at, n = rng.randrange(len(out)), rng.randrange(1, 513)
        out[at : at + n] = bytes(len(out[at : at + n]))
    else:
        at = rng.randrange(0, len(out), 512)
        out[at : at + 512] = rng.randbytes(len(out[at : at + 512]))
    return bytes(out)


@pytest.mark.parametrize("spec", [*AVAILABLE, "zstd:-5"])
def test_with_checksums_no_damage_in_memory_passes(engine, spec):
    """Each of over a thousand damages: what is loaded is the page, or it is an error."""
    z = engine(spec, checksum=True, max_pool_bytes="64MiB")
    pages = {n: page_of(n) for n in range(20)}
    for n, page in pages.items():
        z[n] = page
    rng = random.Random(spec)
    found = harmless = tried = 0
    out = np.zeros((1, PAGE), np.uint8)
    status = np.zeros(1, np.int8)
    while tried < FLIPS:
        n = rng.randrange(20)
        whole = z._object(n)
        damaged = damages(rng, whole)
        if damaged == whole:
            continue
        tried += 1
        z._object(n, damaged)
        z.load_many([n], out, status=status)
        if status[0] == Status.CORRUPT:
            found += 1
        else:  # bits that the format does not look at
            assert out.tobytes() == pages[n]
            harmless += 1
        z._object(n, whole)
    s = z.stats()
    assert s.checksum_fail + s.decompress_fail == found
    assert found + harmless == FLIPS
    assert found > FLIPS * 0.9
    assert all(z[n] == page for n, page in pages.items())


@pytest.mark.parametrize("spec", [*AVAILABLE, "zstd:-5"])
def test_without_checksums_damage_stays_within_the_page(engine, spec):
    """A decompressor given anything writes no byte beside the page, and all of it or nothing."""
    z = engine(spec, max_pool_bytes="64MiB")
    for n in range(20):
        z[n] = page_of(n)
    rng = random.Random(f"{spec} astray")
    memory = np.zeros(PAGE + 2 * GUARD, np.uint8)
    passed = 0
    for _ in range(FLIPS):
        n = rng.randrange(20)
        whole = z._object(n)
        z._object(n, damages(rng, whole) if rng.random() < 0.8 else rng.randbytes(len(whole)))
        memory[:] = 0xA5
        try:
            z.load(n, memory[GUARD:-GUARD])
            passed += 1
        except PageCorruptError:
            pass
        assert (memory[:GUARD] == 0xA5).all()
        assert (memory[-GUARD:] == 0xA5).all()
        z._object(n, whole)
        assert z[n] == page_of(n)
    assert z.stats().decompress_fail == FLIPS - passed


@pytest.mark.parametrize("name", AVAILABLE)
@pytest.mark.parametrize("length", [1, 8, PAGE - 1, PAGE + 1, 3 * PAGE])
def test_the_length_must_be_exact(name, length):
    """Sound data of a page that is shorter or longer is damage too, and nothing is written behind
    the page."""
    compressor = open_compressor(name)
    packed = compressor.compress((b"abc" * PAGE * 2)[:length])
    with pytest.raises(zswap.Error):
        compressor.decompress(packed, PAGE)
    memory = bytearray(b"\xa5" * (PAGE + GUARD))
    try:
        n = compressor.decompress_into(packed, memoryview(memory)[:PAGE])
    except zswap.Error:
        n = 0
    assert n <= PAGE
    assert n != PAGE
    assert memory[PAGE:] == b"\xa5" * GUARD


@pytest.mark.parametrize("name", AVAILABLE)
def test_cut_and_foreign_data(name):
    """Every prefix of what a compressor made, and what another one made."""
    compressor = open_compressor(name)
    page = page_of(3)
    packed = compressor.compress(page)
    for n in range(1, len(packed)):
        try:
            assert compressor.decompress(packed[:n], PAGE) == page  # the last bits may be padding
            assert n >= len(packed) - 8
        except zswap.Error:
            pass
    for other in AVAILABLE:
        if {other, name} != {"lz4", "lz4hc"} and other != name:
            try:
                found = compressor.decompress(open_compressor(other).compress(page), PAGE)
            except zswap.Error:
                continue
            assert len(found) == PAGE
            assert found != page


def test_many_threads_meet_damage(engine):
    """Loads, writeback and recompression meet damaged pages all at once: each tells, none lets one
    pass."""
    z = engine("lz4", checksum=True, max_pool_bytes="64MiB")
    z.swapon(1, backing=Memory(), nr_pages=4000)
    pages = {n: page_of(n) for n in range(600)}
    z.store_many(range(600), b"".join(pages.values()), swap_type=1)
    bad = set(random.Random(3).sample(range(600), 60))
    for n in bad:
        whole = bytearray(z._object(n, swap_type=1))
        whole[len(whole) // 2] ^= 0x10
        z._object(n, bytes(whole), swap_type=1)
    wrong, errors = [], []

    def load():
        try:
            for _ in range(4):
                status = np.zeros(600, np.int8)
                out = z.load_many(range(600), status=status, swap_type=1)
                for n in range(600):
                    if (status[n] < 0) != (n in bad) or (
                        status[n] >= 0 and out[n].tobytes() != pages[n]
                    ):
                        wrong.append(n)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=load) for _ in range(2)]
    threads += [
        threading.Thread(target=z.shrink, args=(600,)),
        threading.Thread(target=z.recompress, args=("zstd:9",)),
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors
    assert not wrong
    assert z.stats().stored_pages >= 60  # the damaged ones are where they were


class Memory:
    """A backing store in memory."""

    def __init__(self):
        self.pages = {}

    def write_pages(self, offsets, pages):
        self.pages.update(zip(offsets.tolist(), (page.tobytes() for page in pages), strict=True))

    def read_pages(self, offsets, out):
        for offset, page in zip(offsets.tolist(), out, strict=True):
            page[:] = np.frombuffer(self.pages[offset], np.uint8)


# ---- the swap file -------------------------------------------------------------------------------


@pytest.fixture
def spilled(engine, tmp_path):
    """Engine, the path of its swap file, and pages of which all are in the file."""

    def make(**options):
        path = tmp_path / "swap"
        file = zswap.SwapFile(path, "1MiB", direct=False)
        # what was read ahead, before it was damaged, is still the page
        quiet = {"read_ahead": False, "shrinker_interval": 3600.0}
        z = engine(backing=file, max_pool_bytes="64MiB", **quiet, **options)
        pages = {n: page_of(n) for n in range(64)}
        z.store_many(range(64), b"".join(pages.values()))
        assert z.shrink(64) == 64
        return z, path, pages

    return make


def test_with_checksums_no_damage_in_the_file_passes(spilled):
    z, path, pages = spilled(checksum=True)
    rng = random.Random(7)
    out, status = np.zeros((1, PAGE), np.uint8), np.zeros(1, np.int8)
    tried = 0
    with open(path, "r+b", buffering=0) as file:
        while tried < FLIPS:
            n = rng.randrange(64)
            damaged = damages(rng, pages[n])
            if damaged == pages[n]:
                continue
            tried += 1
            os.pwrite(file.fileno(), damaged, (1 + n) * PAGE)
            z.load_many([n], out, status=status)
            assert status[0] == Status.BACKING_CORRUPT
            os.pwrite(file.fileno(), pages[n], (1 + n) * PAGE)
    assert z.stats().backing_checksum_fail == FLIPS
    assert all(z[n] == page for n, page in pages.items())


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("left", [0, 1, PAGE, PAGE + 1, 5 * PAGE, 40 * PAGE + 100])
def test_a_file_that_is_cut_under_us(spilled, left, checksum):
    """No SIGBUS, no zeros for pages: one clear error, and what is in memory lives on."""
    z, path, pages = spilled(checksum=checksum)
    z[100] = page_of(100)
    os.truncate(path, left)
    for n in (0, 3, 63):
        with pytest.raises(
            BackingError, match=f"offset {n}: the backing store failed: .*; look at the device"
        ) as caught:
            z[n]
        assert caught.value.errno == errno.EIO
    assert z.shrink(1) == 0
    assert z[100] == page_of(100)
    # Nor when it has grown to its old length, with holes where pages were.
    os.truncate(path, 257 * PAGE)
    with pytest.raises(BackingError):
        z[63]
    z[63] = page_of(5)  # a new page needs the file no more
    assert z[63] == page_of(5)
    assert len(z) == len(pages) + 1


@pytest.mark.parametrize("checksum", [False, True])
def test_a_file_that_was_exchanged_or_removed(spilled, tmp_path, checksum):
    """The name may lead elsewhere: the pages are in the file that was opened."""
    z, path, pages = spilled(checksum=checksum)
    other = tmp_path / "other"
    other.write_bytes(bytes(path.stat().st_size))
    os.replace(other, path)
    assert all(z[n] == page for n, page in pages.items())
    path.unlink()
    assert all(z[n] == page for n, page in pages.items())


def test_a_file_that_was_overwritten_by_another(spilled, tmp_path):
    z, path, pages = spilled(checksum=True)
    foreign = random.Random(1).randbytes(path.stat().st_size)
    with open(path, "r+b", buffering=0) as file:
        file.write(foreign)
    status = np.zeros(64, np.int8)
    z.load_many(list(pages), status=status)
    assert set(status.tolist()) == {Status.BACKING_CORRUPT}
    z.close()
    shutil.copy(path, tmp_path / "copy")  # and nobody takes the rest for a swap file of ours


@pytest.mark.parametrize(
    "content", ["truncated", "foreign", "zeros", "header only", "header of another length"]
)
def test_what_is_no_swap_file_any_more_is_refused(tmp_path, content):
    path = tmp_path / "swap"
    zswap.SwapFile(path, "64KiB").close()
    whole = path.read_bytes()
    if content == "truncated":
        path.write_bytes(whole[:-PAGE])
    elif content == "foreign":
        path.write_bytes(random.Random(1).randbytes(len(whole)))
    elif content == "zeros":
        path.write_bytes(bytes(len(whole)))
    elif content == "header only":
        path.write_bytes(whole[:PAGE])
    else:
        header = bytearray(whole[:PAGE])
        header[24] += 1
        header[-4:] = zlib.crc32(header[:-4]).to_bytes(4, "little")
        path.write_bytes(bytes(header) + whole[PAGE:])
    before = path.read_bytes()
    with pytest.raises(BackingError, match=r"rm |name another file"):
        zswap.ZSwap(backing=path, max_pool_bytes="1MiB")
    assert path.read_bytes() == before
