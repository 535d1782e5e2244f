"""What an engine maps: how much of it, with which properties, and that it costs what the statistics
say, however the process or the system treats memory."""

import os
import sys
from pathlib import Path

import pytest

import zswap
from hooks.faults import fault

pytestmark = [
    pytest.mark.slow,
    pytest.mark.memory,
    pytest.mark.skipif(
        "ZSWAP_SANITIZED" in os.environ, reason="a sanitizer's own memory is measured with it"
    ),
]

MIB = 1 << 20
# by which other Pythons themselves grow meanwhile
BESIDE = 0 if sys.version_info[:2] == (3, 11) else MIB // 4

# `ours` are the mappings that never get huge pages and are reserved nowhere: nothing else in a
# Python process is both.
PRELUDE = """
import ctypes, os, resource, sys
import logging      # as an engine does when it is full
import numpy as np
import hooks, zswap

class Mapping:
    def __init__(self, line):
        words = line.split()
        self.start, self.end = (int(x, 16) for x in words[0].split("-"))
        self.size, self.access = self.end - self.start, words[1]
        self.anonymous = len(words) < 6 or words[5].startswith("[anon")
        self.rss, self.flags = 0, []

def mappings():
    found = []
    with open("/proc/self/smaps") as f:
        for line in f:
            words = line.split()
            if not words[0].endswith(":"):
                found.append(Mapping(line))
            elif words[0] == "Rss:":
                found[-1].rss = int(words[1]) << 10
            elif words[0] == "VmFlags:":
                found[-1].flags = words[1:]
    return found

def ours():
    return [m for m in mappings() if {"nh", "nr"} <= set(m.flags)]

def others():
    return sum(m.size for m in mappings()
               if m.anonymous and m.access == "rw-p" and not {"nh", "nr"} <= set(m.flags))

def taken():
    with open("/proc/self/smaps_rollup") as f:
        # without pages of programs, which come by as many as the kernel finds in its cache
        rss = next(int(line.split()[1]) << 10 for line in f if line.startswith("Anonymous:"))
    with open("/proc/self/statm") as f:
        return int(f.read().split()[0]) * resource.getpagesize(), rss

def lock(flags):
    if ctypes.CDLL(None).mlockall(flags):
        print("skip: this process may not lock its memory")
        raise SystemExit

rng = np.random.default_rng(1)
pages = np.full((256, 4096), 7, np.uint8)
pages[:, :2000] = rng.integers(0, 256, (256, 2000), np.uint8)
offsets = np.arange(256)
zswap.open_compressor("lz4").compress(pages[0].tobytes())       # so that the library is there
taken(), mappings()

def fill(z, start=0):
    while not (z.store_many(offsets + start, pages) < 0).any():
        start += 256
    return start
"""

PREPARE = {
    "plain": "",
    "mlockall": "lock(3)",
    "mlockall on fault": "lock(7)",
    "limited": "size = taken()[0] + (48 << 20); resource.setrlimit(resource.RLIMIT_AS, (size, "
    "size))",
}


@pytest.mark.parametrize("how", PREPARE)
def test_an_engine_of_16_MiB(python, how):
    out = python(
        PRELUDE
        + PREPARE[how]
        + """
before = taken()
def step():
    now = taken()
    print(now[0] - before[0], now[1] - before[1], z.stats().resident_bytes)
z = zswap.ZSwap(max_pool_bytes="16MiB")
step()
z.store_many(offsets[:1], pages[:1])
step()
fill(z)
step()
z.clear()
z.compact()
step()
second, third = zswap.ZSwap(max_pool_bytes="16MiB"), zswap.ZSwap(max_pool_bytes="16MiB")
second[0] = third[0] = pages[0]
step()
"""
    )
    if out.startswith("skip"):
        pytest.skip(out)
    opened, one, full, emptied, three = (
        [int(word) for word in line.split()] for line in out.splitlines()
    )
    assert opened[0] <= MIB
    assert one[0] <= 4 * MIB
    assert opened[1] <= one[1] <= MIB * 3 // 10 + BESIDE
    assert full[0] <= 48 * MIB
    assert 16 * MIB <= full[1] <= full[2] + MIB // 2 + BESIDE
    assert emptied[0] <= 8 * MIB
    assert emptied[1] <= MIB // 2 + BESIDE
    assert three[0] <= 12 * MIB
    assert three[1] - emptied[1] <= MIB * 3 // 10 + BESIDE
    for _, resident, counted in (opened, one, full, emptied):
        assert abs(resident - counted) <= MIB // 4 + BESIDE


def test_memory_that_is_locked_later(python):
    # All there is becomes resident at once, which nobody can help; but it goes back.
    out = python(
        PRELUDE
        + """
z = zswap.ZSwap(max_pool_bytes="16MiB")
z.store_many(offsets, pages)
before = sum(m.rss for m in ours())
stop = fill(z, 256)
lock(1)
full = sum(m.rss for m in ours())
assert all("lo" in m.flags for m in ours())
z.invalidate_range(256, stop + 256)
z.compact()
print(before, full, sum(m.rss for m in ours()))
"""
    )
    if out.startswith("skip"):
        pytest.skip(out)
    before, full, after = map(int, out.split())
    assert full >= 16 * MIB
    assert after <= before + 4 * MIB


def test_locked_memory_stays_locked(python):
    out = python(
        PRELUDE
        + """
lock(3)
z = zswap.ZSwap(max_pool_bytes="16MiB")
for _ in range(2):
    fill(z)
    assert ours() and all("lo" in m.flags for m in ours())
    z.clear()
    z.compact()
"""
    )
    if out.startswith("skip"):
        pytest.skip(out)


def test_the_limit_can_be_raised(python):
    out = python(
        PRELUDE
        + """
z = zswap.ZSwap(max_pool_bytes="1MiB")
before = taken()
stop = fill(z)
print(taken()[0] - before[0])
z.parameters["max_pool_bytes"] = "64MiB"
fill(z, stop)
print(taken()[0] - before[0])
for start in range(1 << 30, (1 << 30) + 1_000_000, 1000):       # same-filled pages have no limit
    z.store_many(np.arange(start, start + 1000), np.zeros((1000, 4096), np.uint8))
z._validate()
counted = z.stats().metadata_bytes
print(taken()[0] - before[0] - (80 << 20), counted)
"""
    )
    small, large, (same, metadata) = (list(map(int, line.split())) for line in out.splitlines())
    assert small[0] <= 4 * MIB
    assert large[0] <= 80 * MIB
    assert same <= metadata + 4 * MIB


def test_pools_that_follow_each_other(python):
    out = python(
        PRELUDE
        + """
z = zswap.ZSwap(max_pool_bytes="16MiB")
z[0] = pages[0]
before = sum(m.size for m in ours())
for n, zpool in enumerate(["zbud", "z3fold", "zsmalloc-kernel", "zsmalloc:4"], 1):
    z.zpool = zpool
    z[n] = pages[n]
assert len(z.pools()) == 5
print(sum(m.size for m in ours()) - before)
"""
    )
    assert int(out) <= 8 * MIB


@pytest.mark.parametrize("page_size", [16384, 65536])
def test_larger_pages(python, page_size):
    out = python(
        PRELUDE
        + """
size, folder = int(sys.argv[1]), sys.argv[2]
store = zswap.SwapFile(folder, "32MiB", page_size=size)
z = zswap.ZSwap(page_size=size, max_pool_bytes="16MiB", backing=store)
z[0] = np.resize(pages, size)
z.shrink(1)
print(sum(m.size for m in ours()))
""",
        page_size,
        "swap",
    )
    assert int(out) <= 16 * MIB


EVERYTHING = """
# not an array that goes: what was in it may stay in the heap
loaded = np.empty_like(pages)
def everything(**options):
    z = zswap.ZSwap("lz4", backing="swap", checksum=True, max_pool_bytes="8MiB",
                    shrinker_enabled=False, **options)
    z.swapon(3)
    for zpool in ("zbud", "z3fold", "zsmalloc"):
        z.zpool = zpool
        z.store_many(offsets, pages)
    z.store_many(offsets + 1000, pages, threads=2)
    z.shrink(20)
    z.load_many(offsets, loaded)
    z.compressor = "zstd"
    z.store_many(offsets, pages)
    z.recompress("lz4hc")
    z.compact()
    z[5000] = b"same-fil" * 512
    return z
"""


def test_each_mapping_is_made_the_same_way(python):
    out = python(
        PRELUDE
        + EVERYTHING
        + """
assert not ours()
z = zswap.SwapFile("swap", "64MiB")
z.close()
before = others()
z = everything(dontdump=True, dontfork=True)
assert len(ours()) > 5
assert all("dd" in m.flags and m.access == "rw-p" for m in ours())
assert any("wf" in m.flags for m in ours())
other = others()
# The maintenance thread's stack, what Python and the C library took for themselves, and nothing
# like a pool.
assert other - before <= 4 << 20, other - before
z.close()
print(sum(m.size for m in ours()))
del z
import gc; gc.collect()
print(sum(m.size for m in ours()))
"""
    )
    closed, gone = map(int, out.split())
    assert closed <= 3 * MIB, "a thread's compressor, and the swap file until it is closed"
    assert gone <= closed


def test_a_forked_child_has_no_pages(python):
    out = python(
        PRELUDE
        + EVERYTHING
        + """
import mmap
def cookie():                                                   # never whole but in pages
    return bytes(x ^ 0x55 for x in b"\\xc4\\x3a\\x36\\x3e\\x3c\\x30\\xb2\\xbd")
def counted(pid):
    count, word = 0, cookie()
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for m in mappings():
            if m.access == "rw-p":
                # which goes: bytes of the heap would be found again in the child
                with mmap.mmap(-1, m.size) as copy:
                    memory.seek(m.start)
                    try:
                        memory.readinto(copy)
                    except OSError:
                        continue
                    at = copy.find(word)
                    while at >= 0:
                        count += 1
                        at = copy.find(word, at + 8)
    return count
zswap.SwapFile("swap", "64MiB").close()
pages[:, 8:16] = np.frombuffer(cookie(), np.uint8)
z = everything()
# in place, and cleared: a temporary page would stay in the heap
same = np.frombuffer(cookie(), np.uint64).repeat(512)
for n in range(100):
    z[6000 + n] = same                                          # same-filled
pages[:] = loaded[:] = same[:] = 0
held, files = counted(os.getpid()), len(os.listdir("/proc/self/fd"))
assert held > 300, held
pid = os.fork()
if not pid:
    try:
        assert z.closed
        left = counted(os.getpid())
        names = [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
                 if n != str(left) and os.path.exists(f"/proc/self/fd/{n}")]
        assert not any(name.endswith("/swap") for name in names), names
        z.close()
        z.close()
        with zswap.ZSwap("zstd") as own:
            own[1] = b"one's own".ljust(4096)
            assert own[1] == b"one's own".ljust(4096)
        print(left, flush=True)
    finally:
        os._exit(0)
os.waitpid(pid, 0)
assert z[6000] == cookie() * 512
assert 5000 in z and z.load_many(offsets).any()
z._validate()
"""
    )
    # The word itself, and what Python's allocator has left of the pages that were given to it.
    assert int(out) <= 6


def test_dontfork_can_be_left_out_or_insisted_on(python):
    python(
        PRELUDE
        + """
for options, wiped in (({}, True), ({"dontfork": True}, True), ({"dontfork": False}, False)):
    with zswap.ZSwap("zstd", **options) as z:
        z[0] = pages[0]
        z.clear()
        z[0] = pages[0]
        assert any(m.size >= 1 << 20 and ("wf" in m.flags) is wiped for m in ours()), options
"""
    )


def test_what_libraries_compress_with_is_in_no_core_dump(python):
    out = python(
        PRELUDE
        + """
for name in ("zstd", "zstd:19", "lz4", "lz4hc", "lref", "lref:2"):
    with zswap.ZSwap(name) as z:
        before = sum(m.size for m in ours() if "dd" in m.flags)
        z[0] = pages[0]
        print(sum(m.size for m in ours() if "dd" in m.flags) - before)
"""
    )
    assert all(int(size) >= 16384 for size in out.split())


def test_no_memory_for_a_context_of_zstd(engine):
    z = engine("zstd")
    for nth in range(1, 8):
        with fault("COMPRESSOR_CONTEXT", nth):
            try:
                z[nth] = b"page".ljust(4096)
            except (MemoryError, zswap.Error):  # the latter where it is libzstd that gets none
                assert nth not in z
        z._validate()
    z[9] = b"page".ljust(4096)
    assert z[9] == b"page".ljust(4096)


def test_no_huge_page_even_where_all_get_them(python):
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[always]" not in setting.read_text():
        pytest.skip(
            "this system gives huge pages only to those that ask (no mapping of ours does, see "
            "above)"
        )
    out = python(
        PRELUDE
        + """
before = taken()[1]
z = zswap.ZSwap(max_pool_bytes="16MiB")
z[0] = pages[0]
print(taken()[1] - before)
"""
    )
    assert int(out) <= MIB * 3 // 10


def test_the_statistics_are_what_the_system_says(python):
    out = python(
        PRELUDE
        + """
z = zswap.ZSwap("lz4", max_pool_bytes="64MiB")
for count in (1, 100, 4000, 12000):
    for start in range(0, count, 100):
        z.store_many(np.arange(start, start + 100), pages[:100])
    z.invalidate_many(np.arange(0, count, 3))
    z.compact()
    print(sum(m.rss for m in ours()), z.stats().resident_bytes)
"""
    )
    for line in out.splitlines():
        resident, counted = map(int, line.split())
        assert abs(resident - counted) <= 128 << 10, line
