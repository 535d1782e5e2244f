"""Memory: what is taken and given back, how much there is, and how people write amounts of it."""

import os
import random
import threading

import pytest

import zswap
from hooks.parts import Codec
from zswap.meminfo import format_bytes, parse_bytes, pressure_files, total_ram

pytestmark = [pytest.mark.slow, pytest.mark.memory]

PAGE = 4096

# Each measurement in a process of its own, whose heap nothing else stirs.  Pages come from one
# block, so that the arrays here do not drown what is measured.
PRELUDE = """
import gc, random, sys
import numpy as np
import hooks, zswap

def rss():
    for line in open("/proc/self/smaps_rollup"):
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024

rng = random.Random(1)
# Compressed to between a few bytes and nearly all.
BLOCK = 1000
SIZES = [5, 200, 1000, 1500, 2500, 3900]
block = np.frombuffer(b"".join((rng.randbytes(rng.choice(SIZES)) + bytes(4096))[:4096]
                               for _ in range(BLOCK)), np.uint8)

def store(z, offsets):
    for start in range(0, len(offsets), BLOCK):
        some = offsets[start : start + BLOCK]
        assert z.store_many(some, block[: len(some) * 4096], threads=2).min() >= 0

def warm(z):
    # The first use of everything: code, contexts, scratch, the first chunks.
    store(z, np.arange(3000))
    z.load_many(np.arange(100))
    z.invalidate_range(0, 3000)
    z.stats(), z.pools(), z.compact()
    gc.collect()
"""


@pytest.mark.parametrize("zpool", ["zsmalloc", "zsmalloc:4", "zsmalloc-kernel", "zbud", "z3fold"])
@pytest.mark.parametrize("how", ["area", "many", "one by one", "overwritten", "loaded", "swapoff"])
def test_memory_goes_back_to_the_system(python, zpool, how):
    if how in ("one by one", "overwritten", "loaded", "swapoff") and zpool != "zsmalloc":
        pytest.skip("the allocator makes no difference to this")
    out = python(
        PRELUDE
        + """
zpool, how = sys.argv[1:]
offsets = list(range(100_000))
if how == "many":
    rng.shuffle(offsets)
offsets = np.array(offsets)
listed = offsets.tolist()
zeros = bytes(4096 * BLOCK)
pages = np.ones(4096 * BLOCK, np.uint8)
z = zswap.ZSwap("lz4", zpool, max_pool_bytes="1GiB")
warm(z)
before, metadata = rss(), z.stats().metadata_bytes
store(z, offsets)
full = rss()
s = z.stats()
assert s.stored_pages == 100_000
assert full - before > s.compressed_bytes * 0.9, "it was measured at all"
assert full - before < s.resident_bytes + (8 << 20), "what is taken is accounted for"
if how == "area":
    assert z.invalidate_area() == 100_000
elif how == "many":
    assert z.invalidate_many(offsets) == 100_000
elif how == "one by one":
    for o in listed:
        z.invalidate(o)
elif how == "loaded":
    z.parameters["exclusive_loads"] = True
    for start in range(0, 100_000, BLOCK):
        z.load_many(offsets[start : start + BLOCK], pages, threads=2)
elif how == "swapoff":
    z.swapoff(0)
else:
    for start in range(0, 100_000, BLOCK):
        z.store_many(offsets[start : start + BLOCK], zeros)
    z.clear()
after = rss()
s = z.stats()
assert s.stored_pages == 0
z._validate()
print(before, full, after, s.pool_total_size, s.idle_bytes, s.metadata_bytes - metadata)
""",
        zpool,
        how,
    )
    before, full, after, total, idle, metadata = map(int, out.split())
    assert total == idle
    assert after - before <= 2 << 20, (
        f"{(after - before) >> 10} KiB of {(full - before) >> 10} are still held, {idle >> 10} idle"
    )
    assert metadata <= 2 << 20


def test_half_the_pages_gone_and_compacted(python):
    out = python(
        PRELUDE
        + """
z = zswap.ZSwap("lz4", max_pool_bytes="1GiB")
warm(z)
before = rss()
store(z, np.arange(60_000))
full = rss() - before
z.invalidate_many(np.arange(60_000)[np.arange(60_000) % 5 != 0])
z.compact()
print(full, rss() - before, z.stats().compressed_bytes)
z._validate()
"""
    )
    full, after, payload = map(int, out.split())
    assert after <= full // 3
    assert after <= payload * 1.3 + (4 << 20)


def test_close_gives_everything_back(python):
    out = python(
        PRELUDE
        + """
z = zswap.ZSwap("zstd", max_pool_bytes="1GiB")
warm(z)
z.close()
gc.collect()
before = rss()
for n in range(3):
    z = zswap.ZSwap("zstd", max_pool_bytes="1GiB")
    z.swapon(5)
    store(z, np.arange(20_000))
    z.compressor = "lz4"
    store(z, np.arange(10_000, 40_000))
    z.store_many(np.arange(300) << 30, block[: 300 * 4096], swap_type=5)
    z.close()
print(rss() - before)
"""
    )
    assert int(out) <= 2 << 20


def test_engines_come_and_go(python):
    # Nothing is left behind: no memory, no thread, no file.
    out = python(
        PRELUDE
        + """
import os, threading
def one(n):
    known = n % 3 < len(zswap.compressors())
    with zswap.ZSwap(["lz4", "zstd", "deflate"][n % 3] if known else "lz4") as z:
        z[n] = block[:4096]
        z.compressor = "lz4:2"
        z[n + 1] = block[4096:8192]
    with open("/proc/self/status") as f:
        return int(f.read().split("Threads:")[1].split()[0])
zswap.register_compressor("deflate-or-not", bytes, bytes)
names = {c.name for c in zswap.compressors() if c.available}
if "deflate" not in names:
    print("0 0 0")
    raise SystemExit
for n in range(20): one(n)
gc.collect()
before, threads, files = rss(), one(0), len(os.listdir("/proc/self/fd"))
for n in range(150): one(n)
gc.collect()
print(rss() - before, one(0) - threads, len(os.listdir("/proc/self/fd")) - files)
"""
    )
    memory, threads, files = map(int, out.split())
    assert memory <= 2 << 20
    assert threads == files == 0


def test_metadata_of_dense_pages(engine):
    z = engine(max_pool_bytes="1GiB")
    empty = z.stats().metadata_bytes
    pages, count = (b"dense" + bytes(PAGE - 5)) * 1000, 200_000
    for start in range(0, count, 1000):
        z.store_many(range(start, start + 1000), pages)
    s = z.stats()
    assert (s.metadata_bytes - empty) / count <= 40
    assert s.resident_bytes == s.pool_total_size + s.metadata_bytes
    z.clear()
    assert z.stats().metadata_bytes - empty <= 2 << 20


def test_metadata_of_same_filled_pages(engine):
    z = engine()
    empty = z.stats().metadata_bytes
    for start in range(0, 100_000, 1000):
        z.store_many(range(start, start + 1000), bytes(PAGE * 1000))
    s = z.stats()
    assert s.pool_total_size == 0
    assert (s.metadata_bytes - empty) / 100_000 <= 40


def test_metadata_of_sparse_pages(engine):
    # The dearest case: no two pages in the same shard, up to the last offset there is.
    z = engine()
    empty = z.stats().metadata_bytes
    count = 5000
    offsets = [n * ((1 << 47) // count) for n in range(count - 1)] + [(1 << 47) - 1]
    z.store_many(offsets, bytes(PAGE * count))
    assert (z.stats().metadata_bytes - empty) / count <= 256
    assert list(z) == offsets
    assert z.load_many(offsets).tobytes() == bytes(PAGE * count)
    assert z.invalidate_range(1 << 46, 1 << 47) == sum(o >= 1 << 46 for o in offsets)
    assert list(z) == [o for o in offsets if o < 1 << 46]


def test_sparse_offsets_that_come_and_go_do_not_pile_up(engine):
    # A program whose offsets are addresses wanders over all of them in time.
    z = engine()
    pages = bytes(PAGE * 1000)
    taken = []
    for step in range(40):
        z.store_many([((step * 1000 + n) << 20) for n in range(1000)], pages)
        z.clear()
        taken.append(z.stats().metadata_bytes)
    assert taken[-1] <= taken[9] + (1 << 20)


def test_garbage_waits_for_calls_in_flight(engine):
    # A load is held up in its decompressor.  What is taken out of the index meanwhile must wait for
    # it, and goes when it ends.
    gate = Codec()
    zswap.register_compressor("test.memory.gate", factory=gate.capsule)
    try:
        z = engine("test.memory.gate")
        z.store_many([7], b"held up" + bytes(PAGE - 7))
        empty = z.stats().metadata_bytes
        gate.hold_decompress = True
        load = threading.Thread(target=z.load_many, args=([7],))
        load.start()
        while gate.decompressing != 1:
            pass
        sparse = [n << 30 for n in range(1, 5000)]
        for _ in range(3):
            z.store_many(sparse, bytes(PAGE * len(sparse)))
            assert z.invalidate_many(sparse) == len(sparse)
        assert z.stats().metadata_bytes > empty + len(sparse) * 64
        assert list(z) == [7]
        gate.hold_decompress = False
        load.join()
        assert z.stats().metadata_bytes <= empty + (256 << 10)
    finally:
        gate.hold_decompress = False
        zswap.unregister_compressor("test.memory.gate")


def test_threads_that_empty_shards_under_each_other(engine):
    # Each thread has one page of every shard, so that a shard is empty now and then, and removed
    # while others look for it.
    z = engine()
    wrong, start = [], threading.Barrier(3)

    def work(k):
        rng = random.Random(k)
        start.wait()
        for _ in range(60):
            offsets = [(n << 20) + k * 64 for n in rng.sample(range(300), 150)]
            pages = b"".join(
                f"thread {k} page {n} ".encode().ljust(PAGE, b".") for n in range(len(offsets))
            )
            z.store_many(offsets, pages)
            if z.load_many(offsets).tobytes() != pages:
                wrong.append("lost")
            if z.invalidate_many(offsets) != len(offsets):
                wrong.append("vanished")

    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    assert len(z) == 0
    z._validate()


def test_swapoff_gives_the_index_back(engine):
    z = engine()
    empty = z.stats().metadata_bytes
    for _ in range(3):
        z.swapon(1)
        for start in range(0, 20_000, 1000):
            z.store_many([(start + n) << 25 for n in range(1000)], bytes(PAGE * 1000), swap_type=1)
        z.swapoff(1)
        assert z.stats().metadata_bytes - empty <= 1 << 20


def test_idle_memory_is_accounted_for(engine, make_page):
    z = engine()
    for n in range(200):
        z[n] = make_page(n)
    z.invalidate_range(0, 199)
    s = z.stats()
    assert 0 <= s.idle_bytes <= s.pool_total_size
    z.compact()
    s = z.stats()
    assert s.idle_bytes == 0
    assert 0 < s.pool_total_size <= 32 * PAGE


@pytest.mark.parametrize("zpool", ["zsmalloc", "zsmalloc-kernel", "zbud", "z3fold"])
def test_little_stays_idle(engine, zpool):
    z = engine("lz4", zpool, max_pool_bytes="1GiB")
    pages = random.Random(1).randbytes(3000 * 1000)
    pages = b"".join(pages[i : i + 3000].ljust(PAGE, b"-") for i in range(0, len(pages), 3000))
    for start in range(0, 10_000, 1000):
        z.store_many(range(start, start + 1000), pages)
    for stop in range(500, 10_000, 500):
        z.invalidate_range(0, stop)
        assert z.stats().idle_bytes <= 1 << 20
    z.invalidate_range(0, 10_000)
    s = z.stats()
    assert (s.idle_bytes, s.pool_total_size) == (0, 0), "an empty pool keeps none"


# ---- amounts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        (0, 0),
        (4096, 4096),
        ("0", 0),
        ("4096", 4096),
        ("4096B", 4096),
        ("64k", 64 << 10),
        ("64K", 64 << 10),
        ("64KiB", 64 << 10),
        ("64kb", 64_000),
        ("1M", 1 << 20),
        ("512MiB", 512 << 20),
        ("512 MiB", 512 << 20),
        ("  512mib ", 512 << 20),
        ("1.5GB", 1_500_000_000),
        ("1.5 GiB", 3 << 29),
        ("2T", 2 << 40),
        ("1TiB", 1 << 40),
        ("0.5k", 512),
        (1 << 62, 1 << 62),
        ("9007199254740993", 9007199254740993),  # 2**53 + 1: not by way of a float
    ],
)
def test_amounts_read(text, amount):
    assert parse_bytes(text) == amount


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "k",
        "MiB",
        "-1",
        "+1",
        "1e3",
        "0x10",
        "1 2",
        "1..5",
        ".5",
        "1.5.5",
        "10 PiB",
        "10X",
        "1_000",
        "nan",
        "inf",
    ],
)
def test_amounts_that_are_none(text):
    with pytest.raises(ValueError, match="amount"):
        parse_bytes(text)


def test_amounts_of_the_wrong_type():
    with pytest.raises(ValueError, match="-1"):
        parse_bytes(-1)
    for value in (1.5, None, True, b"1", [1]):
        with pytest.raises(TypeError):
            parse_bytes(value)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1 << 20, "1.0 MiB"),
        (512 << 20, "512.0 MiB"),
        (3 << 29, "1.5 GiB"),
        (1 << 40, "1.0 TiB"),
        (1 << 52, "4096.0 TiB"),
    ],
)
def test_amounts_written(amount, text):
    assert format_bytes(amount) == text
    assert parse_bytes(text) == amount


# ---- how much there is ---------------------------------------------------------------------------


def tree(root, files):
    """Lay out a false /proc and /sys."""
    for path, text in {
        "proc/meminfo": "MemTotal:       16384000 kB\nMemFree: 1 kB\n",
        **files,
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


RAM = 16384000 * 1024
V2 = "sys/fs/cgroup"
V1 = "sys/fs/cgroup/memory"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, RAM),
        ({"proc/self/cgroup": ""}, RAM),
        # version 2
        ({"proc/self/cgroup": "0::/\n"}, RAM),
        ({"proc/self/cgroup": "0::/\n", f"{V2}/memory.max": "max\n"}, RAM),
        ({"proc/self/cgroup": "0::/a/b\n", f"{V2}/a/b/memory.max": "1073741824\n"}, 1 << 30),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                f"{V2}/a/b/memory.max": "max\n",
                f"{V2}/a/memory.max": "2147483648\n",
            },
            2 << 30,
        ),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                f"{V2}/a/b/memory.max": "3000000\n",
                f"{V2}/a/memory.max": "2000000\n",
            },
            2_000_000,
        ),
        ({"proc/self/cgroup": "0::/a\n", f"{V2}/a/memory.max": "99999999999999\n"}, RAM),
        # a container's own view
        (
            {"proc/self/cgroup": "0::/host/path\n", f"{V2}/memory.max": "1073741824\n"},
            1 << 30,
        ),
        ({"proc/self/cgroup": "0::/a b\n", f"{V2}/a b/memory.max": "1073741824\n"}, 1 << 30),
        # version 1
        (
            {"proc/self/cgroup": "5:memory:/x\n", f"{V1}/x/memory.limit_in_bytes": "1073741824\n"},
            1 << 30,
        ),
        (
            {
                "proc/self/cgroup": "5:memory:/x\n",
                f"{V1}/x/memory.limit_in_bytes": "9223372036854771712\n",
            },
            RAM,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/x\n3:memory,hugetlb:/x\n",
                f"{V1}/x/memory.limit_in_bytes": "4096000\n",
            },
            4096000,
        ),
        ({"proc/self/cgroup": "4:cpu:/x\n", f"{V1}/x/memory.limit_in_bytes": "4096000\n"}, RAM),
        # both: version 1 holds the memory controller, version 2 is there for systemd
        (
            {
                "proc/self/cgroup": "5:memory:/x\n0::/x\n",
                f"{V1}/x/memory.limit_in_bytes": "4096000\n",
                f"{V2}/x/memory.max": "max",
            },
            4096000,
        ),
        # a colon in a path
        ({"proc/self/cgroup": "0::/a:b\n", f"{V2}/a:b/memory.max": "1073741824\n"}, 1 << 30),
        # the soft limit, of the group itself or of one above
        (
            {
                "proc/self/cgroup": "0::/a\n",
                f"{V2}/a/memory.max": "2000000\n",
                f"{V2}/a/memory.high": "1000000\n",
            },
            1000000,
        ),
        (
            {
                "proc/self/cgroup": "0::/a\n",
                f"{V2}/a/memory.max": "2000000\n",
                f"{V2}/a/memory.high": "max\n",
            },
            2000000,
        ),
        (
            {
                "proc/self/cgroup": "0::/a/b/c\n",
                f"{V2}/a/memory.high": "3000\n",
                f"{V2}/a/b/memory.max": "4000\n",
            },
            3000,
        ),
        # "reclaim all you can": no size
        (
            {"proc/self/cgroup": "0::/a\n", f"{V2}/a/memory.high": "0\n"},
            RAM,
        ),
        # a group that this namespace does not show
        (
            {
                "proc/self/cgroup": "0::/../../x\n",
                "x/memory.max": "4096000\n",
                f"{V2}/memory.max": "5000000\n",
            },
            5000000,
        ),
        # nonsense is no limit
        ({"proc/self/cgroup": "0::/a\n", f"{V2}/a/memory.max": "lots\n"}, RAM),
    ],
)
def test_total_ram(tmp_path, files, expected):
    assert total_ram(tree(tmp_path, files)) == expected


def test_total_ram_of_this_machine():
    assert total_ram() > 64 << 20


def test_no_meminfo(tmp_path, monkeypatch):
    """As under ProcSubset=pid, or without /proc at all: the C library knows, and a cgroup's limit
    still counts."""
    assert total_ram(tmp_path) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limited = tmp_path / "limited"
    tree(
        limited,
        {"proc/meminfo": "", "proc/self/cgroup": "0::/a\n", f"{V2}/a/memory.max": "3000000\n"},
    )
    assert total_ram(limited) == 3000000

    def unknown(name):
        raise OSError(38, "not implemented")

    for sysconf in (unknown, lambda name: -1):
        monkeypatch.setattr(os, "sysconf", sysconf)
        with pytest.raises(zswap.Error, match=r"how much memory there is; give max_pool_bytes"):
            total_ram(tmp_path)


def test_an_engine_without_proc(python):
    """In a sandbox of its own, with neither /proc nor /sys."""
    program = """
import ctypes, os
import zswap
libc = ctypes.CDLL(None)
# CLONE_NEWNS, MS_REC | MS_PRIVATE
alone = libc.unshare(0x20000) == 0 and libc.mount(b"none", b"/", None, 0x44000, None) == 0
def hide(folder):
    return libc.mount(b"none", folder, b"tmpfs", 0, None) == 0
if not alone or not hide(b"/proc") or not hide(b"/sys"):
    print("cannot")
    os._exit(0)
assert not os.path.exists("/proc/self") and not os.listdir("/sys")
with zswap.ZSwap() as z:
    z[1] = b"k" * 4096
    assert z[1] == b"k" * 4096
    assert z.stats().max_pool_bytes > 1 << 20
print("done")
"""
    if python(program).strip() == "cannot":
        pytest.skip("this user may not mount")


def test_pressure_files(tmp_path):
    """The nearest pressure file, and the use of the cgroup with the lowest limit."""

    def found(files):
        for path in tmp_path.glob("*/**/*"):
            if path.is_file():
                path.unlink()
        psi, usage, limit = pressure_files(tree(tmp_path, files))
        strip = f"{tmp_path}/"
        return os.fsdecode(psi).removeprefix(strip), os.fsdecode(usage).removeprefix(strip), limit

    machine = {"proc/pressure/memory": "some"}
    assert found({}) == ("", "", 0)
    assert found(machine) == ("proc/pressure/memory", "", 0)
    v2 = {**machine, "proc/self/cgroup": "0::/a/b\n"}
    assert found(v2) == ("proc/pressure/memory", "", 0)
    assert found({**v2, f"{V2}/a/memory.pressure": "some"})[0] == f"{V2}/a/memory.pressure"
    assert found({**v2, f"{V2}/a/b/memory.max": "5000", f"{V2}/a/memory.max": "5000"})[1:] == (
        f"{V2}/a/b/memory.current",
        5000,
    )
    assert found({**v2, f"{V2}/a/b/memory.max": "5000", f"{V2}/a/memory.max": "4000"})[1:] == (
        f"{V2}/a/memory.current",
        4000,
    )
    assert found({**v2, f"{V2}/a/b/memory.max": "5000", f"{V2}/a/b/memory.high": "3000"})[1:] == (
        f"{V2}/a/b/memory.current",
        3000,
    )
    assert found({**v2, f"{V2}/a/b/memory.max": "max", f"{V2}/memory.high": "3000"})[1:] == (
        f"{V2}/memory.current",
        3000,
    )
    v1 = {"proc/self/cgroup": "5:memory:/x/y\n1:name=systemd:/z\n"}
    assert found({**v1, f"{V1}/x/memory.limit_in_bytes": "7000"})[1:] == (
        f"{V1}/x/memory.usage_in_bytes",
        7000,
    )
    assert found({**v1, f"{V1}/x/memory.limit_in_bytes": "9223372036854771712"})[1:] == ("", 0)
    deep = "/".join("d" * 100 for _ in range(6))
    assert found({"proc/self/cgroup": f"0::/{deep}\n", f"{V2}/{deep}/memory.max": "5000"})[1:] == (
        "",
        0,
    )


def test_an_engine_in_a_cgroup_with_a_soft_limit(tmp_path, monkeypatch, engine):
    files = {
        "proc/self/cgroup": "0::/a\n",
        f"{V2}/a/memory.max": "max",
        f"{V2}/a/memory.high": str(100 << 20),
    }
    root = tree(tmp_path, files)
    monkeypatch.setattr("zswap.core.total_ram", lambda: total_ram(root))
    assert engine(max_pool_percent=50).stats().max_pool_bytes == 50 << 20
