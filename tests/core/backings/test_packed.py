"""The packed swap file: how large it is, what cleaning costs, what damage and failures do, which
compressors it needs, and what it leaves behind."""

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import zlib

import numpy as np
import pytest

import zswap
from hooks import PATH
from hooks.faults import FOREVER, disarm, fault
from hooks.packed import check, position, segments, tidy
from zswap import BackingError, PageCorruptError, Status, SwapFile

pytestmark = pytest.mark.slow

PAGE = 4096
MIB = 1 << 20
COOKIE = b"a page's cookie "


@pytest.fixture(autouse=True)
def _nothing_armed():
    yield
    disarm()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "swap"


@pytest.fixture
def packed(path):
    """Open packed files, checked and closed at the end."""
    files = []

    def make(size=64 * MIB, **kwargs):
        files.append(SwapFile(path, size, packed=True, **kwargs))
        return files[-1]

    yield make
    for file in files:
        if not file.closed and not file.attached:
            check(file)
            file.close()


def noise(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, PAGE), np.uint8)


def text(offset, turn=0):
    """A page that lz4 makes something like 1500 bytes of, and another for each turn."""
    rnd = random.Random(offset * 1000 + turn)
    return (rnd.randbytes(1200 + offset % 600) + COOKIE * 300)[:PAGE]


def texts(offsets, turn=0):
    return b"".join(text(o, turn) for o in offsets)


def read(file, *offsets):
    out = bytearray(len(offsets) * PAGE)
    file.read_pages(offsets, out)
    return bytes(out)


def bound(file):
    return 1.3 * file.stats()["packed_bytes"] + 16 * MIB


def tidy_all(file):
    for _ in range(10000):
        if not tidy(file):
            return
    pytest.fail("there is no end to it")


# ---- what it is ----------------------------------------------------------------------------------


def test_what_it_says_of_itself(packed, path):
    file = packed("4MiB", encrypt=True)
    assert file.packed
    assert (file.nr_pages, path.stat().st_size) == (1024, PAGE)
    assert "encrypted, packed>" in repr(file)
    file.write_pages([7], noise(1))
    stats = file.stats()
    assert stats["packed_bytes"] == PAGE
    assert stats["file_bytes"] == path.stat().st_size == PAGE + MIB
    assert (stats["file_written_bytes"], stats["moved_bytes"]) == (2 * PAGE, 0)
    file.close()
    assert path.stat().st_size == PAGE
    with SwapFile(path) as again:  # the size is that of its pages
        assert (again.nr_pages, again.packed, again.left_open) == (1024, False, False)
    with pytest.raises(ValueError, match="one of packed and preallocate"):
        SwapFile(path, packed=True, preallocate=True)


def test_it_is_as_long_as_its_use(packed, path):
    """It grows segment by segment, and all of it goes with the last page."""
    file = packed()
    for first in range(0, 2048, 256):
        file.write_pages(range(first, first + 256), noise(256, first))
    assert 8 * MIB < path.stat().st_size <= 10 * MIB
    file.discard_pages(range(1024))
    assert path.stat().st_blocks * 512 <= 6 * MIB
    assert read(file, 5, 1024) == bytes(PAGE) + noise(256, 1024)[0].tobytes()
    file.discard_pages(range(1024, 2048))
    assert path.stat().st_size == PAGE
    file.write_pages([3], noise(1, 3))
    assert read(file, 3) == noise(1, 3).tobytes()


def test_a_killed_user(path, tmp_path):
    """The next opening makes a new file of it, whatever its length is."""
    program = (
        "import os, signal, sys, zswap\n"
        "file = zswap.SwapFile(sys.argv[1], '64MiB', packed=True)\n"
        "for i in range(1500): file.write_pages([i % 1000], os.urandom(4096))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, path],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": PATH},
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert path.stat().st_size > 2 * MIB
    with SwapFile(path, packed=True) as file:
        assert file.left_open
        assert (file.nr_pages, path.stat().st_size) == (16384, PAGE)
        assert read(file, 5) == bytes(PAGE)


def test_a_file_cut_short_is_never_read_as_zeros(packed, path):
    file = packed()
    file.write_pages(range(600), noise(600))
    os.truncate(path, PAGE + MIB)
    for _ in range(2):
        with pytest.raises(BackingError) as caught:
            read(file, 599)
        assert caught.value.errno == errno.EIO
        os.truncate(path, PAGE + 4 * MIB)


# ---- bounds --------------------------------------------------------------------------------------


def churn(file, live, rounds, seed, draw):
    """Overwrite pages of a file that holds `live` of them; bytes moved for a byte written."""
    rnd = random.Random(seed)
    oracle = {}
    largest = 0.0
    for first in range(0, live, 250):
        pages = noise(250, first)
        file.write_pages(range(first, first + 250), pages)
        oracle.update((first + i, first * 1000 + i) for i in range(250))
    before = file.stats()
    for turn in range(rounds):
        offsets = sorted({draw(rnd, live) for _ in range(200)})
        file.write_pages(offsets, noise(len(offsets), turn + live))
        oracle.update((o, (turn + live) * 1000 + i) for i, o in enumerate(offsets))
        largest = max(largest, file.stats()["file_bytes"] / bound(file))
        if turn % 3 == 0:
            tidy(file)
    assert largest <= 1
    check(file)
    after = file.stats()
    sample = rnd.sample(sorted(oracle), 300)
    for o in sample:
        seed_, at = divmod(oracle[o], 1000)
        n = 250 if seed_ < live and at < 250 and seed_ % 250 == 0 else at + 1
        assert read(file, o) == noise(n, seed_)[at].tobytes()
    written = after["file_written_bytes"] - before["file_written_bytes"]
    moved = after["moved_bytes"] - before["moved_bytes"]
    return moved / (written - moved)


def hot_and_cold(rnd, live):
    """Nine of ten go to a tenth of the pages."""
    return rnd.randrange(live // 10) if rnd.random() < 0.9 else rnd.randrange(live)


def test_the_file_and_cleaning_are_bounded(packed):
    """At random, where half of what is held lies in the 16 MiB; and a hot set beside a cold one."""
    file = packed()
    assert churn(file, 5000, 150, 1, lambda rnd, live: rnd.randrange(live)) <= 0.3
    tidy_all(file)
    assert file.stats()["file_bytes"] <= bound(file)


def test_a_hot_set_costs_little(packed):
    file = packed(256 * MIB)
    assert churn(file, 16000, 160, 2, hot_and_cold) <= 0.3
    assert file.stats()["file_bytes"] <= bound(file)
    assert 0 < file.stats()["metadata_bytes"] <= 32 * 16000


def test_it_shrinks_with_what_it_holds(packed, path):
    """Three of four pages go, here and there; the rest is moved together, in small pieces."""
    file = packed(256 * MIB)
    n = 16000
    for first in range(0, n, 250):
        file.write_pages(range(first, first + 250), noise(250, first))
    for first in range(0, n, 1000):
        file.discard_pages([o for o in range(first, first + 1000) if o % 4])
    check(file)
    assert path.stat().st_size > 60 * MIB
    pieces = 0
    while tidy(file):
        pieces += 1
        assert file.stats()["moved_bytes"] <= pieces * MIB
    assert path.stat().st_size == file.stats()["file_bytes"] <= bound(file)
    assert file.stats()["moved_bytes"] <= n // 4 * (PAGE + 16)
    for o in range(0, n, 404):
        assert read(file, o) == noise(250, o // 250 * 250)[o % 250].tobytes()
    file.discard_pages(range(n))
    assert path.stat().st_size == PAGE
    assert file.stats()["metadata_bytes"] < MIB


# ---- damage --------------------------------------------------------------------------------------


@pytest.fixture(params=[{}, {"encrypt": True}, {"checksum": True}])
def full(request, packed, engine):
    """An engine whose 600 pages are all in a packed file."""
    file = packed(encrypt="encrypt" in request.param, direct=False)
    z = engine(
        "lz4",
        backing=file,
        shrinker_enabled=False,
        shrinker_interval=86400,
        promote="never",
        checksum="checksum" in request.param,
    )
    z.store_many(range(600), texts(range(600)))
    assert z.shrink(600) == 600
    assert z.stats().backed_pages == 600
    return z, file


def damage(file, offset, at=-1):
    where, length = position(file, offset)
    with open(file.path, "r+b") as raw:
        raw.seek(where + (at if at >= -8 and at < length and at != -1 else length // 2))
        byte = raw.read(1)
        raw.seek(-1, os.SEEK_CUR)
        raw.write(bytes([byte[0] ^ 0x10]))


@pytest.mark.parametrize("at", [-8, -2, 0, 5, 900])
def test_damage_is_one_pages(full, at):
    z, file = full
    damage(file, 77, at)
    with pytest.raises(PageCorruptError, match="offset 77"):
        z[77]
    status = np.zeros(600, np.int8)
    pages = z.load_many(range(600), status=status)
    assert np.flatnonzero(status < 0).tolist() in ([77], [76, 77])  # two may share a cipher block
    assert status[77] == Status.BACKING_CORRUPT
    for o in set(range(600)) - {76, 77}:
        assert pages[o].tobytes() == text(o)
    assert z.stats().backing_checksum_fail >= 2
    assert z.stats().backing_read_fail == 0
    z[77] = text(77, 1)  # and it is well again
    z.shrink(1)
    assert z[77] == text(77, 1)
    check(file)


@pytest.mark.parametrize("at", [-8, -2, 3])
def test_cleaning_does_not_spread_damage(packed, path, at):
    """A damaged head leaves the walk over a segment without an end; what it does not come by is
    looked up.  What is damaged stays so."""
    file = packed(direct=False)
    n = 8000
    for first in range(0, n, 250):
        file.write_pages(range(first, first + 250), noise(250, first))
    kept = [o for o in range(n) if o % 8 == 0]
    file.discard_pages([o for o in range(n) if o % 8])
    hurt = kept[5::200]
    for o in hurt:
        damage(file, o, at)
    tidy_all(file)
    check(file)
    assert file.stats()["file_bytes"] <= bound(file)
    assert file.stats()["cleaned_segments"] > 5
    for o in kept:
        if o in hurt:
            with pytest.raises(BackingError, match="not what was written"):
                read(file, o)
        else:
            assert read(file, o) == noise(250, o // 250 * 250)[o % 250].tobytes()
    file.discard_pages(kept)
    assert path.stat().st_size == PAGE


def test_an_object_of_another_page_or_time_is_no_page(packed, path, engine):
    file = packed(direct=False)
    z = engine("lz4", backing=file, shrinker_enabled=False, promote="never")
    z.store_many([0, 600], text(0) * 2)  # of one length
    assert z.shrink(2) == 2
    (first, length), (second, again) = position(file, 0), position(file, 600)
    assert length == again
    with open(path, "r+b") as raw:
        raw.seek(first - 8)
        whole = raw.read(length + 8)
        raw.seek(second - 8)
        raw.write(whole)
    assert z[0] == text(0)
    with pytest.raises(PageCorruptError):
        z[600]


def test_everything_read_back_is_hostile(packed, path):
    """Whatever is in the file, cleaning and reading find each page or say that they do not."""
    for seed in range(12):
        rnd = random.Random(seed)
        file = packed(direct=False)
        pages = noise(4600, seed)
        file.write_pages(range(4600), pages)
        with open(path, "r+b") as raw:
            for _ in range(60):
                raw.seek(rnd.randrange(PAGE, path.stat().st_size))
                raw.write(
                    rnd.choice([rnd.randbytes(rnd.randrange(1, 9)), bytes(70000), b"\xff" * 40])
                )
            raw.truncate(file.stats()["file_bytes"])
        file.discard_pages([o for o in range(4600) if o % 5])
        tidy_all(file)
        check(file)
        for o in range(0, 4600, 5):
            try:
                assert read(file, o) == pages[o].tobytes()
            except BackingError as error:
                if error.errno != errno.EBADMSG:
                    raise
        file.close()


# ---- failures ------------------------------------------------------------------------------------

FAILURES = [
    ("FILE_WRITE", errno.EIO),
    ("FILE_WRITE", errno.ENOSPC),
    ("FILE_READ", errno.EIO),
    ("FILE_LENGTH", errno.ENOSPC),
    ("FILE_TABLE", errno.ENOMEM),
    ("FILE_BUFFERS", errno.ENOMEM),
    ("FILE_PUNCH", errno.EIO),
    ("SLAB_BLOCK", errno.ENOMEM),
]


@pytest.mark.parametrize(("site", "code"), FAILURES)
@pytest.mark.parametrize(("nth", "wipe"), [(1, False), (4, True), (11, False)])
def test_failures_lose_nothing(packed, path, site, code, nth, wipe):
    """In writes, in cleaning and in what it writes, and when space goes back.  Nothing of a call
    that failed counts; all else is as it was."""
    file = packed(io_uring=False)
    if wipe:  # as an engine has it
        engine = zswap.ZSwap(wipe_on_free=True, backing=file, shrinker_enabled=False)
        engine.close()
    rnd = random.Random(nth)
    oracle = {}

    def put(offsets, seed):
        pages = noise(len(offsets), seed)
        try:
            file.write_pages(offsets, pages)
        except BackingError as error:
            if error.errno != code:
                raise
            return 0
        oracle.update((o, pages[i].tobytes()) for i, o in enumerate(offsets))
        return 1

    for first in range(0, 5000, 250):
        assert put(list(range(first, first + 250)), first)
    with fault(site, nth=nth, times=3, error=code):
        for turn in range(30):
            put(sorted(rnd.sample(range(5000), 100)), 10_000 + turn)
            gone = rnd.sample(sorted(oracle), 30)
            file.discard_pages(gone)
            for o in gone:
                del oracle[o]
            tidy(file)
            o = rnd.choice(sorted(oracle))
            try:
                assert read(file, o) == oracle[o]
            except BackingError as error:
                if error.errno != code:
                    raise
    check(file)
    for turn in range(20):
        assert put(sorted(rnd.sample(range(5000), 100)), 20_000 + turn)
    tidy_all(file)
    check(file)
    assert file.stats()["file_bytes"] == path.stat().st_size
    for o in range(5000):
        assert read(file, o) == oracle.get(o, bytes(PAGE))


@pytest.mark.parametrize("phase", ["read", "write", "full", "memory"])
def test_cleaning_that_fails_is_done_later(packed, phase):
    """Whatever fails of it, every page stays where it was; and a segment that cannot be read as a
    whole is left alone until it is empty."""
    file = packed(io_uring=False)
    pages = noise(6000)
    file.write_pages(range(6000), pages)
    file.discard_pages([o for o in range(6000) if o % 3])
    before = file.stats()["file_bytes"]
    site, code = {
        "read": ("FILE_READ", errno.EIO),
        "write": ("FILE_WRITE", errno.EIO),
        "full": ("FILE_WRITE", errno.ENOSPC),
        "memory": ("FILE_BUFFERS", errno.ENOMEM),
    }[phase]
    with fault(site, error=code, times=FOREVER) as failed:
        assert not tidy(file)
        assert failed()
    check(file)
    assert file.stats()["moved_bytes"] == 0
    assert file.stats()["file_bytes"] <= before + 2 * MIB
    for o in range(0, 6000, 33):
        assert read(file, o) == pages[o].tobytes()
    tidy_all(file)
    assert file.stats()["cleaned_segments"]
    for o in range(0, 6000, 3):
        assert read(file, o) == pages[o].tobytes()


def test_short_transfers_go_on(packed):
    file = packed(io_uring=False)
    pages = noise(500)
    with fault("FILE_WRITE_SHORT", nth=1, times=9, error=512):
        file.write_pages(range(500), pages)
    with fault("FILE_READ_SHORT", nth=1, times=9, error=1024):
        assert read(file, *range(500)) == pages.tobytes()


def test_an_engine_keeps_its_pages_when_the_file_fails(packed, engine):
    file = packed()
    z = engine("lz4", backing=file, shrinker_enabled=False, shrinker_interval=86400)
    z.store_many(range(600), texts(range(600)))
    with fault("FILE_WRITE", error=errno.ENOSPC, times=FOREVER):
        assert z.shrink(600) == 0
    assert z.stats().backed_pages == 0
    assert file.stats()["packed_bytes"] == 0
    assert z.shrink(600) == 600
    assert all(z[o] == text(o) for o in range(600))
    check(file)


# ---- the engine's objects ------------------------------------------------------------------------


def test_pages_go_out_as_they_are(packed, engine):
    file = packed()
    z = engine("lz4", backing=file, shrinker_enabled=False, promote="never")
    z.store_many(range(300), texts(range(300)))
    z.store_many(range(300, 320), noise(20))
    size = z.stats().compressed_bytes
    assert z.shrink(320) == 320
    stats = file.stats()
    assert stats["packed_bytes"] == size < 0.6 * 320 * PAGE
    assert stats["file_written_bytes"] <= size + 320 * 24 + 3 * PAGE
    assert all(z[o] == text(o) for o in range(300))
    assert z.load_many(range(300, 320)).tobytes() == noise(20).tobytes()


def test_what_is_replaced_or_freed_takes_no_room(packed, engine):
    file = packed()
    z = engine("lz4", backing=file, shrinker_enabled=False, promote="always")
    z.store_many(range(64), texts(range(64)))
    assert z.shrink(64) == 64
    for o in range(8):
        z[o] = text(o, 1)
        z[8 + o] = bytes(PAGE)
        assert z.invalidate(16 + o)
        assert z[24 + o] == text(24 + o)  # resident again, and a clean copy stays
        assert z[32 + o] == text(32 + o)
        z[32 + o] = text(32 + o, 1)
    assert z.invalidate_range(56, 64) == 8
    held = [o for o in range(64) if position(file, o) is not None]
    assert held == [*range(24, 32), *range(40, 56)]
    before = file.stats()["file_written_bytes"]
    z.shrink(8)  # the oldest are the clean ones, or so
    z.shrink(64)
    assert z.stats().clean_evictions == 8
    assert all(position(file, o) is not None for o in [*range(8), *range(24, 56)])
    assert file.stats()["file_written_bytes"] > before
    for o in range(64):
        turn = 1 if o < 8 or 32 <= o < 40 else 0
        if 8 <= o < 16:
            assert z[o] == bytes(PAGE)
        elif 16 <= o < 24 or o >= 56:
            assert o not in z
        else:
            assert z[o] == text(o, turn)
    z.clear()
    assert file.stats()["packed_bytes"] == 0
    check(file)


def test_every_compressor_stays_as_long_as_its_objects(packed, engine, codec):
    """Pools are gone with their last entry; who must decompress what the file has is not."""
    file = packed()
    ours = codec(lambda data: zlib.compress(data, 1), zlib.decompress)
    there = {info.name for info in zswap.compressors() if info.available}
    names = [n for n in ("lz4", "zstd:3", "deflate:1", "lzo") if n.partition(":")[0] in there]
    names.append(ours)
    z = engine(names[0], backing=file, shrinker_enabled=False, promote="never")
    for turn, name in enumerate(names):
        z.compressor = name
        z.store_many(range(turn * 50, turn * 50 + 50), texts(range(turn * 50, turn * 50 + 50)))
        assert z.shrink(50) == 50
    z.compressor = "lz4hc"
    for _ in range(2):  # they are looked at, and dropped if nobody wants them
        z.stats(), z.pools()
        for o in random.Random(1).sample(range(50 * len(names)), 50 * len(names)):
            assert z[o] == text(o)
        assert z.load_many(range(50 * len(names))).tobytes() == texts(range(50 * len(names)))
    z.clear()
    z.stats()


def test_a_compressor_goes_with_its_last_object(packed, engine, until):
    import weakref

    class Codec:
        def compress(self, data):
            return zlib.compress(data, 1)

        def decompress(self, data):
            return zlib.decompress(data)

    codec = Codec()
    zswap.register_compressor("test.packed.goes", codec.compress, codec.decompress)
    gone = weakref.ref(codec)
    file = packed()
    z = engine("test.packed.goes", backing=file, shrinker_enabled=False, promote="never")
    z[1] = text(1)
    assert z.shrink(1) == 1
    z.compressor = "lz4"
    zswap.unregister_compressor("test.packed.goes")
    del codec
    until(lambda: len(z.pools()) == 1)
    z.stats()
    assert gone() is not None
    assert z[1] == text(1)
    assert z.invalidate(1)
    until(lambda: z.stats() and gone() is None)


def test_pages_that_end_in_zeros(packed, engine):
    file = packed()
    z = engine("lz4", backing=file, shrinker_enabled=False, promote="never")
    z._trim_zeros()
    pages = [(os.urandom(100 * n + 1) + bytes(PAGE))[:PAGE] for n in range(30)]
    z.store_many(range(30), b"".join(pages))
    assert z.shrink(30) == 30
    assert [z[o] for o in range(30)] == pages


@pytest.mark.parametrize("page_size", [16384, 65536])
def test_larger_pages(path, page_size):
    pages = [
        os.urandom(page_size // 3) + bytes([n]) * (page_size - page_size // 3) for n in range(60)
    ]
    with (
        SwapFile(path, 60 * page_size, packed=True, page_size=page_size) as file,
        zswap.ZSwap("lz4", backing=file, page_size=page_size, promote="never") as z,
    ):
        z.store_many(range(60), b"".join(pages))
        assert z.shrink(60) == 60
        assert [z[o] for o in range(60)] == pages
        assert z.load_many(range(60)).tobytes() == b"".join(pages)
        assert file.stats()["packed_bytes"] < 60 * page_size // 2


def test_an_engine_finds_and_leaves_it_empty(packed, engine, path):
    file = packed()
    file.write_pages(range(100), noise(100))
    z = engine("lz4", backing=file, shrinker_enabled=False)
    assert file.stats()["packed_bytes"] == 0
    z[1] = text(1)
    assert z.shrink(1) == 1
    assert read(file, 1) == text(1)  # anybody may look
    z.close()
    assert path.stat().st_size == PAGE
    assert read(file, 1) == bytes(PAGE)


def test_the_file_is_tidied_in_the_background(packed, engine, until):
    file = packed(256 * MIB)
    z = engine("lz4", backing=file, shrinker_enabled=False, shrinker_interval=0.01, promote="never")
    for first in range(0, 9000, 500):
        z.store_many(range(first, first + 500), noise(500, first))
    assert z.shrink(9000) == 9000
    for o in range(9000):
        if o % 5:
            z.invalidate(o)
    until(lambda: file.stats()["file_bytes"] <= bound(file))
    for o in range(0, 9000, 505):
        assert z[o] == noise(500, o // 500 * 500)[o % 500].tobytes()


# ---- at the same time ----------------------------------------------------------------------------


@pytest.mark.parametrize("kwargs", [{}, {"encrypt": True}, {"io_uring": False, "direct": False}])
def test_readers_beside_cleaning(packed, kwargs):
    """They find every page, whole, wherever it is just now."""
    file = packed(**kwargs)
    n = 4800
    pages = noise(n)
    file.write_pages(range(n), pages)
    over, wrong = threading.Event(), []

    def look(seed):
        rnd = random.Random(seed)
        while not over.is_set():
            offsets = [rnd.randrange(n // 6) * 6 for _ in range(rnd.choice([1, 1, 40]))]
            if read(file, *offsets) != b"".join(pages[o].tobytes() for o in offsets):
                wrong.append(offsets)

    readers = [threading.Thread(target=look, args=(seed,)) for seed in range(3)]
    for reader in readers:
        reader.start()
    try:
        for turn in range(6):
            others = [o for o in range(n) if o % 6]
            file.discard_pages(others)
            tidy_all(file)
            file.write_pages(others, noise(len(others), turn))
    finally:
        over.set()
        for reader in readers:
            reader.join(60)
    assert wrong == []
    assert file.stats()["moved_bytes"] > 0
    assert file.stats()["read_failures"] == 0


# ---- secrets -------------------------------------------------------------------------------------


def test_encrypted_blocks_are_never_alike(packed, path):
    """No block of 16 bytes comes twice, be the same page written in one place again and again."""
    file = packed(encrypt=True, direct=False)
    seen = set()
    page = bytes(PAGE)
    for _ in range(40):
        file.write_pages([5, 6], page * 2)
        at, length = position(file, 5)
        with open(path, "rb") as raw:
            raw.seek(at // 16 * 16)
            content = raw.read(length)
        blocks = [content[i : i + 16] for i in range(16, length - 16, 16)]
        assert seen.isdisjoint(blocks)
        assert len(set(blocks)) == len(blocks)
        seen.update(blocks)
        file.discard_pages([5, 6])  # the file is empty: the segment is taken anew
        assert path.stat().st_size == PAGE


def test_nothing_of_a_page_is_in_an_encrypted_file(packed, path, engine):
    file = packed(encrypt=True)
    z = engine("lz4", backing=file, shrinker_enabled=False, promote="never")
    z.store_many(range(200), texts(range(200)))
    assert z.shrink(200) == 200
    assert COOKIE not in path.read_bytes()
    assert all(z[o] == text(o) for o in range(200))


@pytest.mark.parametrize("encrypt", [False, True])
@pytest.mark.parametrize("how", ["invalidated", "replaced", "written through", "moved", "failed"])
def test_wiping_follows_every_copy(packed, path, engine, encrypt, how):
    """With wipe_on_free what a page left in the file is zeros at once, and its neighbours are as
    they were."""
    file = packed(encrypt=encrypt, direct=False)
    z = engine("lz4", backing=file, shrinker_enabled=False, promote="never", wipe_on_free=True)
    offsets = range(200)
    z.store_many(offsets, texts(offsets))
    assert z.shrink(200) == 200
    before = path.read_bytes().count(COOKIE[:12])
    mine = range(50, 150, 2)
    places = [position(file, o) for o in mine]
    turn = dict.fromkeys(offsets, 0)
    if how == "invalidated":
        for o in mine:
            z.invalidate(o)
            del turn[o]
    elif how == "replaced":
        for o in mine:
            z[o] = text(o, 1)
            turn[o] = 1
    elif how == "written through":
        z.parameters["max_pool_bytes"] = 0
        for o in mine:
            assert z.store_many([o], text(o, 1))[0] == Status.WRITTEN_THROUGH
            turn[o] = 1
    elif how == "moved":
        z.close()
        z = engine("lz4", backing=file, shrinker_enabled=False, promote="never", wipe_on_free=True)
        z.store_many(range(4), texts(range(4)))
        z.parameters["max_pool_bytes"] = 0
        for first in range(0, 6000, 200):
            z.store_many(range(200 + first, 400 + first), noise(200, first))
        places = [position(file, o) for o in range(200, 6200) if o % 3 == 0]
        for o in range(200, 6200):
            if o % 3:
                z.invalidate(o)
        tidy_all(file)
        places = [
            (at, length) for at, length in places if at + length <= file.stats()["file_bytes"]
        ]
        still = {position(file, o) for o in range(200, 6200) if o % 3 == 0}
        taken = [(at // MIB) for at, _ in still]
        places = [p for p in places if p not in still and (p[0] - PAGE) // MIB not in taken]
        turn = dict.fromkeys(range(4), 0)
    else:
        z.store_many(range(1000, 1600), texts(range(1000, 1600)))
        with fault("FILE_WRITE", nth=2, error=errno.EIO, times=1) as failed:
            assert z.shrink(600) < 600
            assert failed()
        places = []
        for o in range(1000, 1600):
            z.invalidate(o)
        assert path.read_bytes().count(COOKIE[:12]) == before
    content = path.read_bytes()
    for at, length in places:
        assert content[at - 8 : at + length] == bytes(length + 8)
    for o, number in turn.items():
        assert z[o] == text(o, number)
    check(file)
    states = {state for state, _ in segments(file)}
    assert states <= {0, 1, 2}
