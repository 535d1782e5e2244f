"""Every place that can fail, made to fail: no page is lost or wrong, nothing leaks, and the error
says what to do.

The sites are those of zswap_core/fault.pxd.  `everything` is a program that comes by all of them;
it is run with each site failing, in turn, the first time, a later time and always.
"""

import contextlib
import errno
import functools
import gc
import itertools
import mmap
import os
import random
import threading

import numpy as np
import pytest

import zswap
import zswap.core
from hooks.faults import FOREVER, arm, disarm, fault, hits, injected, names
from hooks.packed import tidy
from hooks.parts import Codec
from zswap import BackingError, CompressorNotFound, PageCorruptError, Status
from zswap_core.compressors.registry import open_compressor
from zswap_core.fault import Site

pytestmark = pytest.mark.slow

# Those of memories are of no engine: tests/core/test_memory.py has them fail.
SITES = [site for site in names() if not site.startswith("MEMORY_")]
PAGE = 4096
SHARD = 1 << 14
ERRORS = {
    "MAINTENANCE_THREAD": errno.EAGAIN,
    "BATCH_THREAD": errno.EAGAIN,
    "WRITEBACK_THREAD": errno.EAGAIN,
    "ARENA_BIND": errno.EPERM,
    "ARENA_NODES": errno.EPERM,
    "PRESSURE_FILE": errno.EACCES,
    "BACKING_WRITE": errno.EIO,
    "BACKING_READ": errno.EIO,
    "FILE_STAT": errno.EIO,
    "FILE_WRITE": errno.ENOSPC,
    "FILE_READ": errno.EIO,
    "FILE_RING": errno.EPERM,
    "FILE_RING_ENTER": errno.EPERM,
    "FILE_THREAD": errno.EAGAIN,
    "FILE_ALLOCATE": errno.ENOSPC,
    "FILE_PUNCH": errno.EIO,
    "FILE_LENGTH": errno.ENOSPC,
    "FILE_WRITE_SHORT": 512,
    "FILE_READ_SHORT": 512,
}
NODE = 0
CHUNK = np.arange(300, 9000, dtype=np.uint64)
LEVELS = itertools.count(1000)


@pytest.fixture(autouse=True)
def _nothing_armed():
    yield
    disarm()


@pytest.fixture(scope="module")
def binds():
    """Whether this system binds memory to nodes and tells where it lies."""
    try:
        with zswap.ZSwap(numa_node=NODE) as z:
            z.numa_pages()
    except zswap.Error:
        return False
    return True


@pytest.fixture(scope="module")
def rings(tmp_path_factory):
    """Whether this system lets files be read through io_uring."""
    path = tmp_path_factory.mktemp("rings") / "swap"
    with zswap.SwapFile(path, "64KiB") as file, mmap.mmap(-1, 2 * PAGE) as memory:
        file.read_pages([1, 3], memory)
        return file.io_uring


def missing(binds, rings):
    """The sites that this system never comes by."""
    return (set() if binds else {"ARENA_BIND", "ARENA_NODES"}) | (
        set() if rings else {"FILE_RING_ENTER"}
    )


@functools.cache
def text(n):
    """A page that compresses, to about a third."""
    return (random.Random(n).randbytes(1000) + f"page {n} ".encode() * 500)[:PAGE]


@functools.cache
def noise(n):
    """A page that does not."""
    return random.Random(~n).randbytes(PAGE)


def same(n):
    """A page that is one word."""
    return n.to_bytes(8, "little") * (PAGE // 8)


def virtual():
    """Address space of this process, in bytes."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * 4096


def descriptors():
    """Open files of this process."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


class Program:
    """Calls that may fail, against a dict of what must be there."""

    def __init__(self):
        self.errors = []

    def may(self, call, *args, **kwargs):
        """Call it; None where it fails as it may."""
        try:
            return call(*args, **kwargs)
        except (zswap.Error, MemoryError) as error:
            self.errors.append(error)
            return None

    def store(self, z, oracle, offset, page):
        before = len(self.errors)
        self.may(z.store, offset, page)
        if len(self.errors) == before:
            oracle[offset] = page
        else:  # refused: then no stale copy either
            oracle.pop(offset, None)

    def store_many(self, z, oracle, offsets, page, threads=1):
        pages = [page(offset) for offset in offsets]
        status = self.may(z.store_many, offsets, b"".join(pages), threads=threads)
        if status is None:  # the call itself was refused, and did nothing
            return
        for offset, content, code in zip(offsets, pages, status, strict=True):
            if code >= 0:
                oracle[offset] = content
            else:
                oracle.pop(offset, None)

    def load(self, z, oracle, offset):
        page = self.may(z.load, offset)
        assert page is None or page == oracle[offset]

    def load_many(self, z, oracle, offsets, threads=1):
        status = np.zeros(len(offsets), np.int8)
        pages = self.may(z.load_many, offsets, status=status, threads=threads)
        for i, offset in enumerate(offsets if pages is not None else ()):
            assert status[i] < 0 or pages[i].tobytes() == oracle[offset]
            assert status[i] != Status.ABSENT


def settle(z, oracle):
    """What must hold when nothing fails any more: every page, the structures, and all memory given
    back at the end."""
    assert sorted(z) == sorted(oracle)
    for offset, page in oracle.items():
        assert z[offset] == page
    z._validate()
    z.store(5, text(5))
    assert z[5] == text(5)
    z.clear()
    z.compact()
    z._validate()
    s = z.stats()
    assert (
        s.stored_pages,
        s.same_filled_pages,
        s.compressed_bytes,
        s.backed_pages,
        s.pool_total_size,
    ) == (0, 0, 0, 0, 0)
    assert len(z) == 0


def everything(folder, monkeypatch, binds, until, over=lambda: False):
    """Come by every site.  The engines, each with the pages that it must have, and the errors
    met.  Once it is `over` no further engine is made: nothing would fail there any more."""
    p = Program()
    engines = []
    psi = folder / "memory.pressure"
    psi.write_text("some avg10=0.00 total=0\n")
    monkeypatch.setattr(zswap.core, "pressure_files", lambda: (bytes(psi), b"", 0))
    # A swap file by itself.
    for io_uring in (True, False):
        file = p.may(
            zswap.SwapFile, folder / "plain", "256KiB", preallocate=True, io_uring=io_uring
        )
        if file is not None:
            p.may(file.write_pages, range(32), bytes(32 * PAGE))
            p.may(file.read_pages, range(8), bytearray(8 * PAGE))
            with mmap.mmap(-1, 16 * PAGE) as memory:  # aligned
                p.may(file.read_pages, range(0, 32, 2), memory)
            file.close()
    file = p.may(zswap.SwapFile, folder / "packed", "16MiB", packed=True)
    if file is not None:
        for first in range(0, 4096, 256):
            p.may(file.write_pages, range(first, first + 256), noise(first) * 256)
        for offset in range(4096):  # here and there, so that some of it is moved
            if offset % 4:
                p.may(file.discard_pages, [offset])
        tidy(file)
        p.may(file.read_pages, range(0, 4096, 16), bytearray(256 * PAGE))
        p.may(file.discard_pages, range(4096))
        file.close()
    level = next(LEVELS)  # one that nobody holds, so that it is really opened
    specs = f"lz4:{level}", "lz4hc", "deflate", f"zstd:-{level}"
    for zpool, spec in zip(("zsmalloc", "zbud", "z3fold", "zsmalloc-kernel"), specs, strict=True):
        z = p.may(
            zswap.ZSwap,
            spec,
            zpool,
            max_pool_bytes="64MiB",
            numa_node=NODE if binds else None,
            backing=folder / zpool,
            shrinker_interval=0.001,
        )
        if z is None:
            continue
        oracle = {}
        engines.append((z, oracle))
        for offset in (1, 2, 3 * SHARD, 5 * SHARD):
            p.store(z, oracle, offset, text(offset))
        p.store_many(z, oracle, list(range(10, 160)), text, threads=3)
        p.store_many(z, oracle, list(range(160, 200)), same)
        p.store_many(z, oracle, list(range(200, 240)), noise)
        # more shards than the first table takes
        p.store_many(z, oracle, [n * SHARD + 7 for n in range(90)], same)
        p.load_many(z, oracle, list(oracle), threads=3)
        for offset in list(oracle)[::9]:
            p.load(z, oracle, offset)
        p.may(z.shrink, 60)
        for offset in list(oracle)[::9]:
            p.load(z, oracle, offset)
        for offset in list(oracle)[::3]:
            if p.may(z.invalidate, offset):
                del oracle[offset]
        p.may(z.compact)
        for pages in (1, 2, 1, 2):  # no two of a length side by side: each takes a node
            p.may(z.allocate, pages)
        with contextlib.suppress(ValueError):  # which is what a parameter that cannot be had says
            p.may(setattr, z, "compressor", "zstd:5")
        p.may(z.recompress, "zstd:9", max_pages=20)
        if binds:
            p.may(z.numa_pages)
        p.may(z.stats)
        with contextlib.suppress(AssertionError):
            z._validate()
        until(lambda: "PRESSURE_FILE" in hits())
        # A chunk of entries goes back when its last one does.
        p.may(z.store_many, CHUNK, np.repeat(CHUNK, PAGE // 8))  # what same() gives
        for offset in CHUNK.tolist():
            oracle.pop(offset, None)
        p.may(z.invalidate_range, 300, 9000)
        p.may(z.shrink, 1000)  # so many that a thread of its own writes them
        if over():
            break
    return engines, p.errors


def test_every_site_is_come_by(tmp_path, monkeypatch, binds, rings, until):
    """A new site without a test fails here."""
    arm("COMPRESS", times=0)
    engines, errors = everything(tmp_path, monkeypatch, binds, until)
    assert not errors
    seen = set(hits())
    disarm()
    for z, oracle in engines:
        settle(z, oracle)
        z.close()
    unseen = set(SITES) - seen
    assert unseen <= missing(binds, rings), unseen
    assert {site.name for site in Site if site.name != "SITES"} == set(names())


@pytest.mark.parametrize("when", ["first", "later", "always"])
@pytest.mark.parametrize("site", SITES)
def test_whatever_fails_no_page_is_lost(tmp_path, monkeypatch, binds, rings, until, site, when):
    nth, times = {"first": (1, 1), "later": (3, 2), "always": (1, FOREVER)}[when]
    with fault(site, nth, times, ERRORS.get(site, errno.ENOMEM)) as failed:
        engines, errors = everything(tmp_path, monkeypatch, binds, until, lambda: failed() == times)
        # The engines' own threads come by while this looks.
        before = hits().get(site, 0)
        count = failed()
        reached = hits().get(site, 0)
    assert min(max(before - nth + 1, 0), times) <= count <= min(max(reached - nth + 1, 0), times)
    assert count or (when == "later" and reached) or site in missing(binds, rings)
    for error in errors:
        assert not isinstance(error, PageCorruptError) or site == "DECOMPRESS"
        assert not isinstance(error, CompressorNotFound) or site in (
            "LIBRARY_OPEN",
            "LIBRARY_SYMBOL",
        )
    for z, oracle in engines:
        settle(z, oracle)
        z.close()


# ---- what the caller sees ------------------------------------------------------------------------

NO_MEMORY = "no memory"


def make(**options):
    """An engine with two pages, and a swap file where one is named."""
    z = zswap.ZSwap(**{"max_pool_bytes": "64MiB", "shrinker_interval": 3600.0, **options})
    z[0], z[1] = text(0), noise(1)
    return z


@pytest.mark.parametrize(
    ("site", "nth"),
    [
        ("ENGINE", 1),
        ("ENGINE", 2),
        ("WORKER", 1),
        ("WORKER", 2),
        ("AREA", 1),
        ("AREA_TABLE", 1),
        ("POOL", 1),
        ("ZPOOL", 1),
    ],
)
@pytest.mark.parametrize("zpool", ["zsmalloc", "zbud"])
def test_an_engine_that_cannot_be_made_leaves_nothing(site, nth, zpool):
    if site == "WORKER" and nth > os.sysconf("SC_NPROCESSORS_CONF"):
        pytest.skip("there are not so many workers")

    def fail():
        with fault(site, nth) as failed:
            with pytest.raises(MemoryError, match=NO_MEMORY):
                zswap.ZSwap(zpool=zpool, max_pool_bytes="1MiB")
            assert failed() == 1

    fail()
    before = virtual(), descriptors()
    for _ in range(5):
        fail()
    assert virtual() - before[0] < 128 << 10
    assert descriptors() == before[1]


@pytest.mark.parametrize(
    ("site", "status", "counter", "error", "match"),
    [
        (
            "COMPRESS",
            Status.COMPRESS_FAIL,
            "reject_compress_fail",
            zswap.Error,
            r"offset 7: the compressor lz4:1 failed",
        ),
        (
            "ZPOOL_MALLOC",
            Status.ALLOC_FAIL,
            "reject_alloc_fail",
            MemoryError,
            r"offset 7: no memory",
        ),
        ("SCRATCH", Status.ALLOC_FAIL, "reject_alloc_fail", MemoryError, r"offset 7: no memory"),
        (
            "COMPRESSOR_CONTEXT",
            Status.ALLOC_FAIL,
            "reject_alloc_fail",
            MemoryError,
            r"offset 7: no memory",
        ),
        ("ARENA_MAP", Status.ALLOC_FAIL, "reject_alloc_fail", MemoryError, r"offset 7: no memory"),
    ],
)
@pytest.mark.parametrize("many", [False, True])
def test_a_store_that_fails(site, status, counter, error, match, many):
    with zswap.ZSwap("lz4", max_pool_bytes="64MiB") as z:
        z.store(7, same(7))  # what would be stale
        with fault(site, times=FOREVER) as failed:
            if many:
                assert z.store_many([7, 8], text(7) + text(8)).tolist() == [status] * 2
            else:
                with pytest.raises(error, match=match):
                    z.store(7, text(7))
            assert failed() == 1 + many
        assert 7 not in z
        assert getattr(z.stats(), counter) == 1 + many
        z._validate()
        z[7] = text(7)
        assert z[7] == text(7)


@pytest.mark.parametrize("site", ["SLAB_TABLE", "SLAB_BLOCK"])
@pytest.mark.parametrize("nth", range(1, 7))
def test_no_memory_for_entry_or_index(site, nth):
    """The chunks of entries, shards, runs and arrays that a first page needs, and those of the
    allocator before them."""
    with zswap.ZSwap("lz4", max_pool_bytes="64MiB") as z:
        with fault(site, nth) as failed:
            with pytest.raises(MemoryError, match="offset 7: no memory"):
                z.store(7, text(7))
            assert failed() == 1
        s = z.stats()
        assert s.reject_alloc_fail + s.reject_kmemcache_fail == 1
        assert (s.stored_pages, s.compressed_bytes) == (0, 0)
        z._validate()
        z[7] = text(7)
        assert z[7] == text(7)
        z._validate()


def test_a_full_table_of_shards_that_cannot_grow():
    with zswap.ZSwap("lz4", max_pool_bytes="64MiB") as z:
        offsets = [n * SHARD for n in range(300)]
        with fault("AREA_TABLE", times=FOREVER):
            status = z.store_many(offsets, b"".join(map(same, range(300))))
        held = (status >= 0).sum()
        assert held == 127  # one slot of the first table stays free
        assert set(status[held:]) == {Status.ENTRY_FAIL}
        assert z.stats().reject_kmemcache_fail == 300 - held
        assert [z[o] for o in offsets[:held]] == [same(n) for n in range(held)]
        z._validate()
        assert (z.store_many(offsets, b"".join(map(same, range(300)))) >= 0).all()
        z._validate()


def test_a_larger_table_that_cannot_be_had_yet():
    with zswap.ZSwap("lz4", max_pool_bytes="64MiB") as z:
        with fault("AREA_TABLE", times=3) as failed:
            assert (
                z.store_many([n * SHARD for n in range(300)], b"".join(map(same, range(300)))) >= 0
            ).all()
            assert failed() == 3
        z._validate()


@pytest.mark.parametrize("many", [False, True])
def test_a_load_that_fails(many):
    with make(compressor="lz4") as z, fault("DECOMPRESS", times=2) as failed:
        for _ in range(2):
            if many:
                status = np.zeros(2, np.int8)
                z.load_many([0, 1], status=status)
                assert status.tolist() == [Status.CORRUPT, Status.STORED]
            else:
                with pytest.raises(PageCorruptError, match=r"offset 0 .* the entry is kept"):
                    z.load(0)
        assert failed() == 2
        assert z.stats().decompress_fail == 2
        assert z[0] == text(0)


def test_one_more_call_than_there_is_memory_for(thread, until):
    codec = Codec(slow=True)
    zswap.register_compressor("faults.worker", factory=codec.capsule)
    workers = os.sysconf("SC_NPROCESSORS_CONF")
    try:
        with zswap.ZSwap("faults.worker", max_pool_bytes="64MiB") as z:
            codec.hold_compress = True
            callers = [thread(z.store_many, [n], text(n)) for n in range(workers)]
            until(lambda: codec.compressing == workers)
            with fault("WORKER") as failed:
                with pytest.raises(MemoryError, match="no memory for one more call"):
                    z.load(0)
                assert failed() == 1
            assert 0 not in z  # now there is
            codec.hold_compress = False
            for caller in callers:
                assert caller.join() >= 0
            z._validate()
    finally:
        zswap.unregister_compressor("faults.worker")


@pytest.mark.parametrize("times", [1, FOREVER])
def test_a_batch_without_helpers_is_done_all_the_same(times):
    pages = b"".join(map(text, range(600)))
    with (
        zswap.ZSwap(max_pool_bytes="64MiB") as z,
        fault("BATCH_THREAD", times=times, error=errno.EAGAIN) as failed,
    ):
        assert (z.store_many(range(600), pages, threads=4) >= 0).all()
        assert z.load_many(range(600), threads=4).tobytes() == pages
        assert failed() >= 1


@pytest.mark.parametrize("times", [1, FOREVER])
def test_writeback_without_its_thread_is_done_all_the_same(tmp_path, times):
    with (
        make(backing=tmp_path / "swap") as z,
        fault("WRITEBACK_THREAD", times=times, error=errno.EAGAIN) as failed,
    ):
        z.store_many(range(600), b"".join(map(text, range(600))))
        assert z.shrink(600) == 600
        assert failed() >= 1
        z._validate()
        assert [z[offset] for offset in range(600)] == list(map(text, range(600)))


def test_a_flight_that_its_thread_does_not_come_for_is_written_by_the_caller(tmp_path):
    # The second time the site is reached the thread is there, and goes back to sleep.
    with (
        make(backing=tmp_path / "swap") as z,
        fault("WRITEBACK_THREAD", nth=2, times=FOREVER, error=errno.EAGAIN),
    ):
        z.store_many(range(600), b"".join(map(text, range(600))))
        assert z.shrink(600) == 600
        z._validate()
        assert [z[offset] for offset in range(600)] == list(map(text, range(600)))


def test_a_thread_that_cannot_be_started(tmp_path):
    with make() as z, fault("MAINTENANCE_THREAD", times=FOREVER, error=errno.EAGAIN) as failed:
        before = descriptors()
        with pytest.raises(
            zswap.Error, match=r"starts no thread .*temporarily unavailable; .*ulimit -u"
        ):
            z.swapon(1, backing=tmp_path / "swap")
        with pytest.raises(zswap.Error, match="starts no thread"):
            z.compressor = "zstd"
        with pytest.raises(zswap.Error, match="starts no thread"):
            z.recompress("zstd")
        assert failed() == 3
        assert z.compressor == "lz4:1"
        assert descriptors() == before  # the swap file is closed again
        assert (z[0], z[1]) == (text(0), noise(1))
        disarm()
        z.swapon(1, backing=tmp_path / "swap")
        z.compressor = "zstd"
        assert (z[0], z[1]) == (text(0), noise(1))
        z._validate()


@pytest.mark.parametrize("site", ["POOL", "ZPOOL"])
def test_a_switch_that_fails_changes_nothing(site):
    with make() as z:
        z.zpool = "zbud"
        with fault(site, times=2) as failed:
            with pytest.raises(MemoryError, match="no memory for the pool"):
                z.zpool = "z3fold"
            with pytest.raises(MemoryError, match="no memory for the pool"):
                z.recompress("zstd")
            assert failed() == 2
        assert (z.compressor, z.zpool) == ("lz4:1", "zbud")
        assert (z[0], z[1]) == (text(0), noise(1))
        z._validate()


@pytest.mark.parametrize("site", ["COMPRESS", "DECOMPRESS", "ZPOOL_MALLOC", "SCRATCH"])
def test_a_recompression_that_fails_keeps_the_page(site):
    with make(compressor="lz4") as z, fault(site, times=FOREVER) as failed:
        done = z.recompress("zstd:3", incompressible=False)
        # the raw page needs no decompressor
        assert failed() == (2 if site in ("COMPRESS", "SCRATCH") else 1)
        assert (done.moved, done.kept) == (0, 2)
        disarm()
        z._validate()
        assert (z[0], z[1]) == (text(0), noise(1))


def test_objects_that_cannot_be_moved_stay():
    with zswap.ZSwap(max_pool_bytes="64MiB") as z:
        z.store_many(range(1000), b"".join(map(text, range(1000))))
        z.invalidate_many([n for n in range(1000) if n % 5])
        with fault("ZPOOL_RELOCATE", times=FOREVER) as failed:
            z.compact()
            assert failed() > 0
        z._validate()
        assert z.compact() > 0
        assert all(z[n] == text(n) for n in range(0, 1000, 5))


def test_a_chunk_that_does_not_go_back_serves_on():
    with zswap.ZSwap(max_pool_bytes="64MiB") as z:
        with fault("SLAB_RELEASE", times=FOREVER) as failed:
            z.store_many(range(9000), b"".join(map(same, range(9000))))
            z.invalidate_range(0, 9000)
            assert failed() > 0
            z._validate()
        size = z.stats().metadata_bytes
        z.store_many(range(9000), b"".join(map(same, range(9000))))
        z._validate()
        assert z.stats().metadata_bytes < size * 1.5
        z.clear()


def test_no_memory_to_check_with():
    with make() as z, fault("ARENA_CHECK"):
        with pytest.raises(AssertionError, match="no memory to check with"):
            z._validate()
        z._validate()  # and no lock was left behind
        z[2] = text(2)
        assert z[2] == text(2)


def test_binding_to_a_node(binds):
    if not binds:
        pytest.skip("this system does not bind memory")
    with fault("ARENA_BIND", error=errno.EPERM) as failed:
        with pytest.raises(
            zswap.Error, match=r"does not bind memory to NUMA node 0: .*leave numa_node out"
        ):
            zswap.ZSwap(numa_node=NODE)
        assert failed() == 1
    with zswap.ZSwap(numa_node=NODE, max_pool_bytes="64MiB") as z:
        with (
            fault("ARENA_BIND", error=errno.EPERM),
            pytest.raises(MemoryError, match="offset 3: no memory"),
        ):
            z[3] = text(3)
        z._validate()
        z[3] = text(3)
        arm("ARENA_NODES", error=errno.EPERM)
        with pytest.raises(
            zswap.Error, match="does not tell where memory lies: Operation not permitted"
        ):
            z.numa_pages()
        disarm()
        assert sum(z.numa_pages().values()) >= 1


@pytest.mark.parametrize("site", ["LIBRARY_OPEN", "LIBRARY_SYMBOL"])
def test_libraries_that_will_not_do(site):
    opened = open_compressor(f"lz4:{next(LEVELS)}")
    with fault(site, times=FOREVER) as failed:
        with pytest.raises(
            CompressorNotFound,
            match=r"liblz4 was not found; tried .*pip install lz4.*\$ZSWAP_LIBLZ4",
        ):
            open_compressor(f"lz4:{next(LEVELS)}")
        assert failed() >= 1
    if opened.origin == "wheel":
        with fault(site), contextlib.suppress(CompressorNotFound):  # there may be no other
            assert open_compressor(f"lz4:{next(LEVELS)}").origin == "system"


@pytest.mark.parametrize("name", ["lz4", "lz4hc", "zstd", "deflate", "lref"])
def test_no_memory_for_a_compressor(name):
    gc.collect()
    with fault("COMPRESSOR"), pytest.raises(MemoryError):
        open_compressor(f"{name}:2")
    assert open_compressor(f"{name}:2").decompress(
        open_compressor(f"{name}:2").compress(text(0)), PAGE
    ) == text(0)


@pytest.mark.parametrize(
    ("name", "parts"),
    [("lz4", 1), ("lz4hc", 1), ("zstd", 3), ("deflate", 3), ("lref", 2), ("lref:3", 4)],
)
def test_no_memory_for_a_context(name, parts):
    for nth in range(1, parts + 1):
        with (
            zswap.ZSwap(name, max_pool_bytes="64MiB") as z,
            fault("COMPRESSOR_CONTEXT", nth) as failed,
        ):
            with pytest.raises(MemoryError, match="offset 0: no memory"):
                z[0] = text(0)
            assert failed() == 1
            z[0] = text(0)
            assert z[0] == text(0)


# ---- backing stores ------------------------------------------------------------------------------


@pytest.fixture
def backed(tmp_path):
    """An engine with a swap file, 64 pages in memory and 64 in the file, and what they are."""
    z = zswap.ZSwap(max_pool_bytes="64MiB", backing=tmp_path / "swap", shrinker_interval=3600.0)
    pages = {n: text(n) for n in range(128)}
    z.store_many(list(pages)[:64], b"".join(list(pages.values())[:64]))
    assert z.shrink(64) == 64
    z.store_many(list(pages)[64:], b"".join(list(pages.values())[64:]))
    yield z, pages
    disarm()
    z._validate()
    assert {o: z[o] for o in z} == pages
    z.close()


@pytest.mark.parametrize("site", ["BACKING_WRITE", "FILE_WRITE"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_writeback_that_fails_keeps_the_pages(backed, site, error):
    z, _ = backed
    with fault(site, times=FOREVER, error=error) as failed:
        assert z.shrink(64) == 0
        assert failed() == 1
    s = z.stats()
    assert (s.backed_pages, s.reject_reclaim_fail, s.backing_write_fail, s.written_back_pages) == (
        64,
        64,
        64,
        64,
    )
    assert z.shrink(64) == 64


@pytest.mark.parametrize(
    ("error", "remedy"), [(errno.EIO, "device and the system log"), (errno.ENOSPC, "free space")]
)
@pytest.mark.parametrize("site", ["BACKING_WRITE", "FILE_WRITE"])
def test_a_page_that_cannot_be_written_through(backed, site, error, remedy):
    z, pages = backed
    z.parameters["enabled"] = False
    with fault(site, error=error) as failed:
        with pytest.raises(
            BackingError, match=rf"offset 3: the backing store failed: .*{remedy}"
        ) as caught:
            z[3] = text(1000)
        assert failed() == 1
    assert caught.value.errno == error
    assert 3 not in z
    assert z.stats().backing_write_fail == 1
    del pages[3]
    z[4] = pages[4] = text(1004)
    z.parameters["enabled"] = True
    assert z.stats().written_through_pages == 1


@pytest.mark.parametrize("site", ["BACKING_READ", "FILE_READ", "FILE_STAT"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOMEM])
def test_a_page_that_cannot_be_read(backed, site, error):
    z, pages = backed
    with fault(site, times=2, error=error) as failed:
        with pytest.raises(BackingError, match="offset 3: the backing store failed: ") as caught:
            z[3]
        status = np.zeros(2, np.int8)
        z.load_many([3, 100], status=status)
        assert status.tolist() == [Status.BACKING_FAIL, Status.STORED]
        assert failed() == 2
        assert z[3] == pages[3]  # the failure was the moment's
    assert caught.value.errno == error
    assert z.stats().backing_read_fail == 2


@pytest.mark.parametrize(
    ("site", "times", "error"),
    [(f"FILE_{way}", 5, errno.EINTR) for way in ("READ", "WRITE")]
    + [
        (f"FILE_{way}_SHORT", times, cut)
        for way in ("READ", "WRITE")
        for times, cut in ((1, 512), (4, 512), (4, 3584), (1, 511))
    ],
)
def test_interrupted_and_short_transfers_go_on(backed, site, times, error):
    z, pages = backed
    with fault(site, times=times, error=error) as failed:
        wrong = error == 511  # moves no whole block: an error where the file bypasses the cache
        written = z.shrink(64)
        assert written == 64 or (wrong and "WRITE" in site)
        status = np.zeros(128, np.int8)
        found = z.load_many(list(pages), status=status)
        assert failed() == times
        for i, page in enumerate(pages.values()):
            assert (
                status[i] == Status.STORED
                if not wrong
                else status[i] in (Status.STORED, Status.BACKING_FAIL)
            )
            assert status[i] < 0 or found[i].tobytes() == page


@pytest.mark.parametrize("nth", [1, 2])
def test_the_first_writeback_needs_memory(tmp_path, nth):
    with zswap.ZSwap(
        max_pool_bytes="64MiB", backing=tmp_path / "swap", shrinker_interval=3600.0
    ) as z:
        z[0] = text(0)
        with fault("WRITEBACK_BUFFERS", nth) as failed:
            assert z.shrink(1) == 0
            assert failed() == 1
            assert z.shrink(1) == 1
        assert z[0] == text(0)


def test_holes_that_cannot_be_punched(backed):
    z, pages = backed
    with fault("FILE_PUNCH", times=2, error=errno.EINTR) as failed:
        assert z.invalidate(3)
        assert failed() == 2
    with fault("FILE_PUNCH", error=errno.EIO) as failed:
        assert z.invalidate(4)
        assert failed() == 1
    del pages[3], pages[4]
    assert 3 not in z
    assert 4 not in z


def test_pressure_that_nobody_can_read_of(tmp_path, monkeypatch, until):
    """The shrinker does nothing it has no reason for, and looks again."""
    psi = tmp_path / "memory.pressure"
    psi.write_text("some avg10=0.00 total=0\n")
    usage = tmp_path / "memory.current"
    usage.write_text("1000\n")  # above 15/16 of the limit
    monkeypatch.setattr(zswap.core, "pressure_files", lambda: (bytes(psi), bytes(usage), 1000))
    with fault("PRESSURE_FILE", times=FOREVER):
        z = zswap.ZSwap(max_pool_bytes="64MiB", backing=tmp_path / "swap", shrinker_interval=0.001)
        z.store_many(range(64), b"".join(map(text, range(64))))
        until(lambda: hits().get("PRESSURE_FILE", 0) >= 20)
        assert z.stats().written_back_pages == 0
    until(lambda: z.stats().written_back_pages >= 1)
    assert all(z[n] == text(n) for n in range(64))
    z.close()


# ---- the mechanism itself ------------------------------------------------------------------------


def test_arming():
    with zswap.ZSwap(max_pool_bytes="64MiB") as z:
        outcome = []
        with fault("COMPRESS", nth=3, times=2) as failed:
            for n in range(6):
                outcome.append(z.store_many([n], text(n))[0])
            assert failed() == 2
            assert injected() == {"COMPRESS": 2}
            assert hits()["COMPRESS"] == 6
        assert outcome == [0, 0, Status.COMPRESS_FAIL, Status.COMPRESS_FAIL, 0, 0]
        assert z.store_many([9], text(9)) == [0]
        assert hits()["COMPRESS"] == 6  # not counted any more
    for wrong in ({"nth": 0}, {"times": -1}, {"error": -1}):
        with pytest.raises(ValueError, match="nth is 1 or more"):
            arm("COMPRESS", **wrong)
    for name in ("NOWHERE", "SITES"):
        with pytest.raises(KeyError):
            arm(name)


def test_two_sites_at_once():
    with make(compressor="zstd") as z:
        arm("COMPRESS", times=FOREVER)
        arm("DECOMPRESS", nth=2)
        assert z.store_many([3], text(3)) == [Status.COMPRESS_FAIL]
        assert z[0] == text(0)
        with pytest.raises(PageCorruptError):
            z[0]
        disarm()
        assert z[0] == text(0)


def test_faults_in_threads():
    """Each failure is somebody's, and only his."""
    with zswap.ZSwap(max_pool_bytes="64MiB") as z, fault("COMPRESS", nth=100, times=50) as failed:
        codes = {}

        def work(t):
            codes[t] = z.store_many(
                range(t * 200, t * 200 + 200), b"".join(map(text, range(t * 200, t * 200 + 200)))
            )

        threads = [threading.Thread(target=work, args=(t,)) for t in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed() == 50
        assert sum((c < 0).sum() for c in codes.values()) == 50 == z.stats().reject_compress_fail
        assert len(z) == 550
        z._validate()
