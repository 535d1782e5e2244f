"""What freed pages leave behind: a search of the memory that zswap marked as its own."""

import itertools
import mmap
import os
import random
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest

import zswap
from zswap import Status, ZSwap

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "VmFlags" not in Path("/proc/self/smaps").read_text(),
        reason="this kernel does not say what is kept out of core dumps",
    ),
    pytest.mark.skipif(
        "ZSWAP_SANITIZED" in os.environ,
        reason="the sanitizer's own memory is kept out too, and is endless",
    ),
]

PAGE = 4096
COOKIE = b"\x91cooKIE\xe7"  # occurs in no page but those that are to vanish
KEPT = b"\x92kept!!\xe8"
N = 400


def marked_areas():
    """Ranges of this process's memory that are kept out of core dumps: with `dontdump`, the
    engines' and no others'."""
    areas, area = [], None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        word = line.split()[0]
        if not word.endswith(":"):
            area = [int(x, 16) for x in word.split("-")]
        elif word == "VmFlags:" and " dd" in line and " io" not in line and " pf" not in line:
            areas.append(area)
    return areas


def count_in(word, areas, pid="self"):
    """How often the word occurs there.  A page that cannot be read hides none of those behind
    it."""
    found = 0
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for start, end in areas:
            at, before = start, b""
            while at < end:
                try:
                    memory.seek(at)
                    data = memory.read(min(1 << 20, end - at))
                except OSError:
                    data = b""
                found += (before + data).count(word)
                before = data[-len(word) + 1 :]
                at += len(data)
                if not data:
                    at = (at & -mmap.PAGESIZE) + mmap.PAGESIZE
    return found


def found(word=COOKIE):
    return count_in(word, marked_areas())


def pages_with(word, n, seed=0):
    """Pages of every kind that hold the word, and compress to every length: from nearly nothing to
    not at all."""
    rng = random.Random(seed)
    pages = []
    for i in range(n):
        noise = bytearray(
            rng.randbytes((0, 300, 1200, 2500, PAGE)[i % 5]).ljust(PAGE, bytes([i & 1]))
        )
        for _ in range(3):
            at = rng.randrange(PAGE // 8 - 1) * 8
            noise[at : at + len(word)] = word
        pages.append(bytes(noise))
    return pages


@pytest.fixture(params=["zsmalloc", "zsmalloc-kernel", "z3fold", "zbud"])
def zpool(request):
    return request.param


@pytest.fixture(params=[True, False], ids=["wiped", "not"])
def wipe(request):
    return request.param


class Case:
    """An engine with pages that are to vanish at the even offsets, and pages that stay at the odd
    ones."""

    def __init__(self, engine, zpool, wipe, compressor="lz4", **kwargs):
        options = {"max_pool_bytes": "64MiB", "shrinker_enabled": False, **kwargs}
        self.z = engine(compressor, zpool=zpool, wipe_on_free=wipe, dontdump=True, **options)
        self.wipe = wipe
        self.gone = range(0, 2 * N, 2)
        self.kept = range(1, 2 * N, 2)
        pages = itertools.chain(*zip(pages_with(COOKIE, N), pages_with(KEPT, N, 1), strict=True))
        self.expected = []
        for offset, page in enumerate(pages):
            try:
                self.z.store(offset, page)
            except Exception:  # zbud holds no raw pages
                page = None
            self.expected.append(page)
        assert found() >= N // 2
        assert found(KEPT) >= N // 2

    def check(self):
        """The pages that were to vanish have, or, when nothing wiped them, have not; and the others
        are whole."""
        if self.wipe:
            assert found() == 0
        else:
            assert found() > 0
        for offset in self.kept:
            if self.expected[offset] is not None:
                assert self.z[offset] == self.expected[offset]
        if self.wipe:
            assert found() == 0  # reading brought none back


def test_parts(engine, wipe):
    """A part is cut out of, or put into, a page of the worker's own."""
    z = engine(wipe_on_free=wipe, dontdump=True, max_pool_bytes="64MiB", checksum=True)
    (page,) = pages_with(COOKIE, 1)
    z[0] = page
    assert z.load_part(0, 0, PAGE) == page
    z.store_part(0, 0, page[:100])
    assert z.load_part(0, 8, 3000) == page[8:3008]
    z.invalidate(0)
    assert bool(found()) is not wipe
    z.store_part(0, 8, COOKIE + bytes(8), absent="zeros")
    z.store_part(0, 8, bytes(len(COOKIE)))
    z.store(0, bytes(PAGE))
    assert bool(found()) is not wipe


def test_invalidated(engine, zpool, wipe):
    case = Case(engine, zpool, wipe)
    for offset in itertools.islice(case.gone, 100):
        case.z.invalidate(offset)
    case.z.invalidate_many(case.gone)
    case.check()


def test_range_invalidated(engine, zpool, wipe):
    case = Case(engine, zpool, wipe)
    case.z.swapon(1)
    for offset in case.gone:
        if case.expected[offset] is not None:
            case.z.store(offset, case.expected[offset], swap_type=1)
    case.z.invalidate_many(case.gone)
    assert found() >= N // 2
    case.z.swapoff(1)
    case.check()


def test_replaced(engine, zpool, wipe):
    case = Case(engine, zpool, wipe)
    case.z.store_many(case.gone, b"".join(pages_with(KEPT, N, 2)))
    case.check()


def test_exclusive_loads(engine, zpool, wipe):
    case = Case(engine, zpool, wipe)
    case.z.parameters["exclusive_loads"] = True
    held = [o for o in case.gone if case.expected[o] is not None]
    out = np.zeros((len(held), PAGE), np.uint8)
    case.z.load_many(held[:-50], out[:-50])
    for i, offset in enumerate(held[-50:]):
        case.z.load(offset, out[len(out) - 50 + i])
    assert out.tobytes() == b"".join(case.expected[o] for o in held)
    case.z.parameters["exclusive_loads"] = False
    case.check()


def test_compacted(engine, zpool, wipe):
    """Compaction moves pages with the word, and their old places go too, whether they were freed or
    only moved up."""
    case = Case(engine, zpool, wipe)
    for offset in range(0, 2 * N):
        if offset % 16 not in (0, 1):
            case.z.invalidate(offset)
    held = found()
    case.z.compact()
    if wipe:
        assert found() <= held
    left = [o for o in range(0, 2 * N, 16) if case.expected[o] is not None]
    assert all(case.z[o] == case.expected[o] for o in left)
    case.z.invalidate_many(left)
    if wipe:
        assert found() == 0
    assert [case.z[o + 1] for o in left if case.expected[o + 1] is not None]


def test_moved_on_its_page(engine, wipe):
    """What z3fold's compaction moves up to a neighbour leaves its old place."""
    z = engine(zpool="z3fold", wipe_on_free=wipe, dontdump=True)
    rng = random.Random(3)
    for offset in range(0, 90, 3):  # first, last and middle of one page
        for i, word, size in ((0, KEPT, 1000), (1, KEPT, 1000), (2, COOKIE, 400)):
            z[offset + i] = word + rng.randbytes(size) + bytes(PAGE - size - len(word))
    z.invalidate_many(range(0, 90, 3))
    scratch = found() - 30
    assert scratch == (0 if wipe else 1)
    z.compact()
    assert found() == 30 + scratch + (0 if wipe else 30)


def test_recompressed(engine, wipe):
    case = Case(engine, "zsmalloc", wipe, compressor="lz4")
    case.z.recompress("deflate:6")
    case.z.invalidate_many(case.gone)
    case.check()


def test_moved_to_other_pools(engine, wipe):
    case = Case(engine, "zsmalloc", wipe)
    case.z.zpool = "z3fold"
    case.z.store_many(case.gone, b"".join(pages_with(COOKIE, N)))
    case.z.zpool = "zsmalloc:4"
    case.z.store_many(case.gone, b"".join(pages_with(KEPT, N, 5)))
    case.check()


@pytest.mark.parametrize("shift", [0, 8])
def test_written_back(engine, wipe, tmp_path, shift):
    """The buffers of writeback, and those of a swap file that bypasses the page cache."""
    case = Case(engine, "zsmalloc", wipe, backing=tmp_path / "swap")
    first = found()
    assert case.z.shrink(2 * N) == 2 * N
    case.z.store_many(case.kept, b"".join(case.expected[o] for o in case.kept))
    if wipe:
        assert found() == 0
    else:
        assert 0 < found() <= 2 * first
    memory = memoryview(mmap.mmap(-1, (N + 1) * PAGE))[shift:][: N * PAGE]
    case.z.load_many(case.gone, memory)
    assert memory == b"".join(case.expected[o] for o in case.gone)
    case.check()


@pytest.mark.parametrize("preallocate", [False, True])
@pytest.mark.parametrize(
    "how", ["invalidated", "replaced", "replaced by a word", "loaded", "swapped off", "closed"]
)
def test_the_swap_file(engine, wipe, tmp_path, preallocate, how):
    """A freed or replaced page leaves the file; a replaced one only where it is asked for, since
    that takes a call more."""
    path = tmp_path / "swap"
    file = zswap.SwapFile(path, "1MiB", preallocate=preallocate)
    z = engine(backing=file, wipe_on_free=wipe, shrinker_enabled=False)
    for offset in range(64):
        z[offset] = pages_with(COOKIE, 1, offset)[0]
    assert z.shrink(64) == 64
    assert path.read_bytes().count(COOKIE) >= 64
    if how == "invalidated":
        z.clear()
    elif how.startswith("replaced"):
        for offset in range(64):
            z[offset] = bytes(PAGE) if how.endswith("word") else pages_with(KEPT, 1, offset)[0]
        stats = z.stats()
        assert (stats.backed_pages, stats.stored_pages, stats.duplicate_entry) == (0, 64, 64)
    elif how == "loaded":
        z.parameters["exclusive_loads"] = True
        for offset in range(64):
            assert z[offset] == pages_with(COOKIE, 1, offset)[0]
    elif how == "swapped off":
        z.swapoff(0)
    else:
        z.close()
    left = path.read_bytes().count(COOKIE)
    assert (left == 0) == (wipe or how not in ("replaced", "replaced by a word", "closed"))
    z.close()
    file.close()
    assert COOKIE not in path.read_bytes()


def test_a_page_replaced_in_the_file_is_old_or_new_to_its_readers(engine, tmp_path):
    """While the file forgets it, readers wait: the page is never missing, and never a hole's
    zeros."""
    z = engine(backing=tmp_path / "swap", wipe_on_free=True, shrinker_enabled=False)
    good = [pages_with(COOKIE, 1, 2)[0], pages_with(KEPT, 1, 2)[0]]
    wrong, over = [], threading.Event()
    z[5] = good[0]

    def read():
        while not over.is_set():
            try:
                page = z[5]
            except KeyError:
                page = None
            if page not in good:
                wrong.append(page)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for i in range(300):
        z.shrink(1)
        z[5] = good[i & 1]
    over.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert z.stats().backed_pages == 0


def test_written_through(engine, wipe, tmp_path):
    case = Case(engine, "zsmalloc", wipe, backing=tmp_path / "swap")
    case.z.invalidate_many(case.gone)
    case.z.parameters["reject_compress_poor"] = True
    noise = bytearray(random.Random(9).randbytes(PAGE))
    noise[8 : 8 + len(COOKIE)] = COOKIE
    for offset in range(0, 64, 2):
        case.z.store(offset, noise)
    assert case.z.stats().written_through_pages == 32
    case.check()


def test_same_filled(engine, wipe):
    z = engine(wipe_on_free=wipe, dontdump=True)
    for offset in range(200):
        z[offset] = COOKIE * (PAGE // 8)
    z[1000] = bytes(PAGE)
    assert found() == 200
    z.invalidate_range(0, 70)  # a whole run at once
    z.invalidate_many(range(70, 100))
    for offset in range(100, 150):
        z[offset] = KEPT * (PAGE // 8)
    for offset in range(150, 200):
        del z[offset]
    assert (
        found(COOKIE[4:]) == 0
    ) is wipe  # a freed entry begins with a link, so only the other half of the word may be left
    assert found(KEPT) == 50


@pytest.mark.parametrize("how", ["one by one", "range", "many", "taken out", "replaced"])
def test_checksums(engine, wipe, how):
    """A run's lie side by side, so four neighbours are a word to search for; its pages are freed,
    and the next run's are not."""
    z = engine(wipe_on_free=wipe, dontdump=True, checksum=True)
    pages = pages_with(KEPT, 128)
    z.store_many(range(128), b"".join(pages))
    sums = [zlib.crc32(page) for page in pages]
    gone, kept = (b"".join(n.to_bytes(4, sys.byteorder) for n in sums[i : i + 4]) for i in (8, 72))
    assert (found(gone), found(kept)) == (1, 1)
    if how == "one by one":
        for offset in range(64):
            z.invalidate(offset)
    elif how == "range":
        z.invalidate_range(8, 64)
    elif how == "many":
        z.invalidate_many(range(64))
    elif how == "taken out":
        z.parameters["exclusive_loads"] = True
        z.load_many(range(64))
    else:
        z.store_many(range(64), b"".join(pages_with(KEPT, 64, 1)))
    assert (found(gone) == 0) is (wipe or how == "replaced")
    assert found(kept) == 1


def test_refused_stores(engine, wipe):
    """What was compressed and then not kept."""
    case = Case(engine, "zsmalloc", wipe)
    case.z.invalidate_many(case.gone)
    status = case.z.store_many([1 << 40], pages_with(COOKIE, 1)[0], swap_type=7)
    assert status[0] == Status.NO_AREA
    case.z.parameters["reject_compress_poor"] = True
    status = case.z.store_many(range(0, 10, 2), b"".join(pages_with(COOKIE, 5)))
    assert (status < 0).any()
    case.z.invalidate_many(range(0, 10, 2))
    case.check()


@pytest.fixture
def one_cpu():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.parametrize("compressor", ["lz4hc:3", "zstd:1", "deflate:1", "lref", "lref:2"])
def test_other_compressors(engine, one_cpu, wipe, compressor):
    """Their contexts are not zswap's memory, and SECURITY.md says so; what is stored is.

    A context keeps parts of the pages it worked on last.  Each CPU has one, so on one CPU these
    are of a page that stays.
    """
    case = Case(engine, "zsmalloc", wipe, compressor=compressor)
    case.z.invalidate_many(case.gone)
    case.check()


def test_pages_of_64_KiB(engine, wipe):
    z = engine(page_size=65536, wipe_on_free=wipe, dontdump=True)
    rng = random.Random(0)
    for offset in range(40):
        z[offset] = (
            rng.randbytes(30000)
            + (COOKIE if offset % 2 == 0 else KEPT) * 4
            + bytes(65536 - 30000 - 32)
        )
    assert found() >= 20
    z.invalidate_many(range(0, 40, 2))
    assert (found() == 0) is wipe
    assert found(KEPT) >= 20


def test_batches_on_threads(engine, wipe):
    case = Case(engine, "zsmalloc", wipe)
    held = b"".join(pages_with(COOKIE, N))
    for _ in range(3):
        case.z.store_many(case.gone, held, threads=4)
        case.z.load_many(case.gone, threads=4)
    case.z.invalidate_many(case.gone)
    case.check()


# ---- the whole process ---------------------------------------------------------------------------

PROGRAM = """
import mmap, os, sys
from zswap import ZSwap
n, folder, zpool, on = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4] == "True"
z = ZSwap(zpool=zpool, backing=folder + "/swap", shrinker_enabled=False, wipe_on_free=on,
          dontdump=on)
# shared memory: no place of zswap's
source, target = mmap.mmap(-1, n * 4096), mmap.mmap(-1, (n + 1) * 4096)
with open(folder + "/pages", "rb", 0) as file:
    file.readinto(source)
view = memoryview(target)[8:][: n * 4096]
z.store_many(range(n), source)
z[n] = memoryview(source)[:4096]
for offset in range(n + 1, 2 * n):
    z[offset] = (b"kept%4d" % offset) * 512
z.store_many(range(2 * n, 3 * n), os.urandom(n * 4096))
z.shrink(n // 2)
z.load_many(range(n), view)
z.load(3, memoryview(target)[:4096])
assert z.stats().backed_pages
z.recompress("lz4hc:3", max_pages=n // 4)
z.compact()
def step(what):
    print(what, flush=True)
    sys.stdin.readline()
step("held")
z.invalidate_many(range(n + 1))
step("freed")
"""


def search(pid, word):
    """How often the word occurs in the process's private memory: what core dumps hold, and what
    they do not.

    Also the areas that are kept out, with what was found in each.
    """
    dumped, kept_out, areas, seen = 0, 0, [], []
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            areas.append((words[1] == "rw-p", [int(x, 16) for x in words[0].split("-")], []))
        elif words[0] == "VmFlags:":
            areas[-1][2].extend(words[1:])
    for private, area, flags in areas:
        if private:
            count = count_in(word, [area], pid)
            if "dd" in flags:
                kept_out += count
                seen.append((*map(hex, area), count))
            else:
                dumped += count
    return dumped, kept_out, seen


@pytest.mark.parametrize("on", [True, False])
def test_a_whole_process(tmp_path, zpool, on):
    """With the options: a core dump holds nothing of a page, and once the pages are freed nothing
    is anywhere."""
    n = 200
    (tmp_path / "pages").write_bytes(b"".join(pages_with(COOKIE, n)))
    env = {**os.environ, "PYTHONPATH": str(Path(zswap.__file__).parent.parent)}
    command = [sys.executable, "-c", PROGRAM, str(n), str(tmp_path), zpool, str(on)]
    with subprocess.Popen(
        command, env=env, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "held\n"
            dumped, kept_out, seen = search(process.pid, COOKIE)
            assert (dumped == 0, kept_out > 0) == (on, on), seen
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "freed\n"
            assert (search(process.pid, COOKIE)[:2] == (0, 0)) is on
        finally:
            process.kill()


def test_a_closed_engine_leaves_nothing(wipe):
    z = ZSwap(wipe_on_free=wipe, dontdump=True)
    z[0] = pages_with(COOKIE, 3)[2]
    assert found() > 0
    z.close()
    assert found() == 0
