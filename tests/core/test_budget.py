"""The budget: all that an engine takes stays within max_memory_bytes."""

import os
import random
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import zswap
from zswap.core import BUDGET_PAGES, LEAST_BUDGET
from zswap.meminfo import parse_budget, process_ceilings

PAGE = 4096
MIB = 1 << 20

whole_process = pytest.mark.skipif(
    "ZSWAP_SANITIZED" in os.environ, reason="a sanitizer's own memory is measured with it"
)


def least(page_size):
    return LEAST_BUDGET + BUDGET_PAGES * page_size


def pages_of(count, size, seed=0):
    """Pages that compress to a third or so, each another."""
    pages = np.zeros((count, size), np.uint8)
    rng = np.random.default_rng(seed)
    pages[:, : size // 3] = rng.integers(0, 256, (count, size // 3), dtype=np.uint8)
    return pages


def within(z):
    """The figures at rest, which are all right."""
    s = z.stats()
    assert s.resident_bytes <= s.max_memory_bytes
    z._validate()
    return s


@pytest.fixture
def backing(tmp_path):
    def make(page_size, size=256 * MIB):
        return zswap.SwapFile(tmp_path / "swap", size=size, page_size=page_size, direct=False)

    return make


# ---- a fixed budget ------------------------------------------------------------------------------


@pytest.mark.parametrize("backed", [False, True], ids=["pool", "backed"])
@pytest.mark.parametrize("budget", ["least", "8MiB", "40MiB"])
@pytest.mark.parametrize("compressor", ["lz4", "zstd"])
@pytest.mark.parametrize("size", [4096, 16384, 65536])
def test_nothing_takes_more(engine, backing, size, compressor, budget, backed):
    amount = least(size) if budget == "least" else budget
    kwargs = {"backing": backing(size)} if backed else {}
    z = engine(compressor, page_size=size, max_memory_bytes=amount, **kwargs)
    limit = z.stats().max_memory_bytes
    assert limit == (least(size) if budget == "least" else zswap.meminfo.parse_bytes(budget))
    count, block = 4 * limit // size, pages_of(64, size)
    held = refused = 0
    for first in range(0, count, 64):
        status = z.store_many(np.arange(first, first + 64), block, threads=2)
        held, refused = held + (status >= 0).sum(), refused + (status < 0).sum()
        assert z.stats().resident_bytes <= limit
    s = within(z)
    assert s.resident_bytes > limit * 0.5, "and it is made use of"
    if backed:
        assert refused == 0
        for first in range(0, count, 64):
            assert (z.load_many(np.arange(first, first + 64)) == block).all()
            assert z.stats().resident_bytes <= limit
        for offset in range(0, count, 3):  # and by single loads, which read ahead and promote
            assert z[offset] == block[offset % 64].tobytes()
        within(z)
    else:
        assert refused
        assert held


@pytest.mark.parametrize("size", [4096, 65536])
def test_the_lower_of_the_two_limits_counts(engine, size):
    z = engine(page_size=size, max_pool_bytes="4MiB", max_memory_bytes="64MiB")
    assert z.stats().max_pool_bytes == 4 * MIB
    z.parameters["max_pool_bytes"] = "1GiB"
    assert 60 * MIB < z.stats().max_pool_bytes < 64 * MIB
    z.parameters["max_memory_bytes"] = None
    assert (z.stats().max_pool_bytes, z.stats().max_memory_bytes) == (1 << 30, 0)


def test_pages_of_one_word_come_in_at_the_limit_until_the_budget_is_used_up(engine):
    z = engine(max_memory_bytes="4MiB")
    block = pages_of(64, PAGE)
    for first in range(0, 4096, 64):
        z.store_many(np.arange(first, first + 64), block)
    with pytest.raises(zswap.PoolLimitError, match="max_memory_bytes"):
        z.store(5000, block[0])
    z.store(5000, bytes(PAGE))
    assert 5000 in z
    offset = 5001
    for first in range(6000, 1 << 20, 64):
        status = z.store_many(np.arange(first, first + 64), bytes(64 * PAGE))
        if status[-1] < 0:
            offset = first + 63
            break
        assert z.stats().resident_bytes <= 4 * MIB
    with pytest.raises(
        zswap.PoolLimitError, match=r"all that the engine takes .*\(4194304 bytes\)"
    ):
        z.store(offset, bytes(PAGE))
    assert offset not in z
    with pytest.raises(zswap.PoolLimitError):
        z.store(6000, b"\1" * PAGE)
    assert 6000 not in z, "no stale copy"
    within(z)
    z.invalidate_range(0, 4096)
    z.compact()
    z.store(offset, bytes(PAGE))
    within(z)


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "kernel"])
def test_pages_of_one_word_push_others_out_and_then_go_to_the_store(
    engine, memory_store, direct, until
):
    """Without direct reclaim the shrinker comes behind."""
    z = engine(max_memory_bytes="2MiB", backing=memory_store(), direct_reclaim=direct)
    block = pages_of(64, PAGE)
    for first in range(0, 2048, 64):
        z.store_many(np.arange(first, first + 64), block)
    ones = np.repeat(np.arange(1, 65, dtype=np.uint8), PAGE).reshape(64, PAGE)
    for first in range(1 << 20, (1 << 20) + 150_000, 64):
        assert z.store_many(np.arange(first, first + 64), ones).min() >= 0
        assert not direct or z.stats().resident_bytes <= 2 * MIB
        if z.stats().max_pool_bytes == 0:
            break
    until(lambda: z.stats().resident_bytes <= 2 * MIB)
    s = within(z)
    assert s.pool_total_size < MIB, "the pool gave way to the index"
    for first in range(0, 2048, 512):
        assert z[first] == block[first % 64].tobytes()
    assert z[(1 << 20) + 63] == ones[63].tobytes()


def test_sparse_pages_cost_more_and_fewer_fit(engine):
    z = engine(max_memory_bytes="2MiB")
    block, held = pages_of(1, PAGE), 0
    for number in range(8000):
        try:
            z.store(number << 14, block[0])
        except zswap.PoolLimitError:
            break
        held += 1
        if number % 64 == 0:
            assert z.stats().resident_bytes <= 2 * MIB
    assert 100 < held < 8000
    within(z)


@pytest.mark.parametrize("size", [4096, 65536])
def test_there_is_room_for_one_more_thread(engine, thread, size):
    """Whose contexts and scratch come when the pool is full."""
    z = engine("zstd", page_size=size, max_memory_bytes="8MiB")
    block = pages_of(64, size)
    for first in range(0, 16 * MIB // size, 64):
        z.store_many(np.arange(first, first + 64), block)
    before = within(z)

    def late():
        z.load(97)
        z.store_many(np.arange(0, 64), block)

    held = [thread(z.load_many, np.arange(64, 96)), thread(late)]
    for t in held:
        t.join()
    assert within(z).buffer_bytes >= before.buffer_bytes


@pytest.mark.parametrize("size", [4096, 65536])
def test_a_batch_with_hardly_a_buffer_is_timed(engine, backing, size):
    """Room for one page to read into: there is none that waits with others."""
    z = engine(page_size=size, max_memory_bytes=least(size), latency=True, backing=backing(size))
    block = pages_of(64, size)
    for first in range(0, 512, 64):
        z.store_many(np.arange(first, first + 64), block)
    for first in range(0, 512, 64):
        assert (z.load_many(np.arange(first, first + 64), threads=2) == block).all()
    assert z.latency()["load"].count == 512
    assert z.promote(range(512)) >= 0
    within(z)


def test_it_is_lowered_and_raised(engine, backing):
    z = engine(max_memory_bytes="32MiB", backing=backing(PAGE))
    block = pages_of(64, PAGE)
    for first in range(0, 8192, 64):
        z.store_many(np.arange(first, first + 64), block)
    before = within(z)
    assert before.resident_bytes > 10 * MIB
    z.parameters["max_memory_bytes"] = "4MiB"
    z.store(0, block[0])  # waits for room
    s = z.stats()
    assert s.pool_total_size <= s.max_pool_bytes
    z.parameters["max_memory_bytes"] = "32MiB"
    assert z.stats().max_pool_bytes == pytest.approx(before.max_pool_bytes, rel=0.05)
    for first in range(0, 8192, 64):
        assert (z.load_many(np.arange(first, first + 64)) == block).all()
    within(z)


def test_buffers_go_back_when_nobody_writes(engine, backing, until):
    z = engine(
        page_size=65536, max_pool_bytes="4MiB", shrinker_interval=0.01, backing=backing(65536)
    )
    block = pages_of(64, 65536)
    for first in range(0, 512, 64):
        z.store_many(np.arange(first, first + 64), block)
    assert z.stats().written_back_pages
    before = z.stats().metadata_bytes
    until(lambda: z.stats().buffer_bytes < MIB // 4)
    assert z.stats().metadata_bytes < before - 2 * MIB + 65536
    z._validate()
    z.store_many(np.arange(0, 64), block)
    assert z.shrink(64)
    assert (z.load_many(np.arange(0, 64)) == block).all()


WRITES = """
import os, sys, threading
import numpy as np
import zswap

def threads():
    return len(os.listdir("/proc/self/task"))

pages = np.zeros((600, 4096), np.uint8)
pages[:, :1365] = np.random.default_rng(0).integers(0, 256, (600, 1365), dtype=np.uint8)
file = zswap.SwapFile(sys.argv[1], size=1 << 28, direct=False)
z = zswap.ZSwap(shrinker_interval=86400, shrinker_enabled=False, backing=file)
z.store_many(np.arange(600), pages)
before = threads()
assert z.shrink(600) == 600
assert threads() == before + 1, threads()
z.store_many(np.arange(600), pages)
assert z.shrink(600) == 600
assert threads() == before + 1, threads()
z.parameters["shrinker_interval"] = 0.01
for _ in range(3000):
    if threads() == before and z.stats().buffer_bytes < 1 << 18:
        break
    threading.Event().wait(0.01)
assert threads() == before, threads()
assert z.stats().buffer_bytes < 1 << 18
"""


def test_the_thread_that_writes_goes_with_the_buffers(python, tmp_path):
    """In a process of its own, where no thread is another test's."""
    python(WRITES, tmp_path / "swap")


def test_buffers_are_bounded_by_bytes(engine, backing):
    """Of pages of 64 KiB as of others: once a flight had 256 of them."""
    for size in (4096, 65536):
        z = engine(page_size=size, max_pool_bytes="16MiB", backing=backing(size, 64 * MIB))
        z.store_many(np.arange(64), pages_of(64, size))
        before = z.stats().buffer_bytes
        assert z.shrink(64) == 64
        assert z.stats().buffer_bytes - before < 2 * MIB + (256 << 10)
        z.close()


def test_a_memory_of_its_own_is_seen_by_repr_and_figures(engine):
    z = engine(max_memory_bytes="64MiB")
    assert ", 64.0 MiB in all>" in repr(z)
    assert "of 64.0 MiB" in str(z.stats())
    z.parameters["max_memory_bytes"] = "auto"
    assert "in all (auto)>" in repr(z)
    z.parameters["max_memory_bytes"] = None
    assert "in all" not in repr(z)
    assert z.stats().buffer_bytes <= z.stats().metadata_bytes


@pytest.mark.parametrize("size", [4096, 16384, 65536])
def test_too_little_is_refused_and_changes_nothing(engine, size):
    with pytest.raises(ValueError, match=f"at least {least(size)}"):
        engine(page_size=size, max_memory_bytes=least(size) - 1)
    z = engine(page_size=size, max_memory_bytes=least(size))
    with pytest.raises(ValueError, match="at least"):
        z.parameters["max_memory_bytes"] = 5
    assert z.parameters["max_memory_bytes"] == least(size)
    z.store(0, pages_of(1, size)[0])


@pytest.mark.parametrize(
    "value",
    ["", "auto:", "auto:0", "auto:x", "automatic", "-1", "5 parsecs", -1, 1 << 63, "auto:-1"],
)
def test_what_is_no_budget(engine, value):
    with pytest.raises(ValueError, match=r"amount of memory|budget"):
        engine(max_memory_bytes=value)


@pytest.mark.parametrize("value", [1.5, True, b"8MiB", [8]])
def test_what_is_no_amount(engine, value):
    with pytest.raises((TypeError, ValueError)):
        engine(max_memory_bytes=value)


@given(st.integers(1, 1 << 50))
def test_an_amount_behind_auto_is_read_as_any(amount):
    assert parse_budget(f"auto:{amount}") == f"auto:{amount}"
    assert parse_budget(amount) == amount
    assert parse_budget(f"auto:{amount}KiB") == f"auto:{amount << 10}"


# ---- storms --------------------------------------------------------------------------------------


@pytest.mark.parametrize("backed", [False, True], ids=["pool", "backed"])
@pytest.mark.parametrize(
    ("size", "compressor"), [(4096, "lz4"), (4096, "zstd"), (16384, "lz4"), (65536, "zstd")]
)
def test_while_threads_store_load_and_it_changes(
    engine, backing, thread, eager_switches, size, compressor, backed
):
    """At each barrier all is counted; the budget changes while all are at work."""
    workers, rounds, space = 4, 6, 6 * MIB // size * 4
    # what came without a budget leaves only where there is a store
    budgets = ["8MiB", "10MiB", "12MiB", *[None] * backed]
    kwargs = {"backing": backing(size)} if backed else {}
    z = engine(compressor, page_size=size, max_memory_bytes="10MiB", **kwargs)
    pages = pages_of(32, size)
    pages[::4] = np.arange(8, dtype=np.uint8)[:, None]
    barrier = threading.Barrier(workers + 1)

    def work(seed):
        rng = random.Random(seed)
        mine = range(seed * space, (seed + 1) * space)
        known = {}
        for _ in range(rounds):
            for _ in range(40):
                first = rng.randrange(mine.start, mine.stop - 32)
                what = rng.randrange(4)
                offsets = np.arange(first, first + 32)
                if what < 2:
                    turn = rng.randrange(32)
                    status = z.store_many(offsets, np.roll(pages, turn, 0))
                    for at, s in zip(offsets.tolist(), status.tolist(), strict=True):
                        known[at] = (at - first - turn) % 32 if s >= 0 else None
                elif what == 2:
                    for at in offsets.tolist()[::5]:
                        found = z.load(at) if at in z else None
                        there = known.get(at)
                        assert found == (None if there is None else pages[there].tobytes())
                else:
                    z.invalidate_range(first, first + 8)
                    for at in range(first, first + 8):
                        known.pop(at, None)
            barrier.wait(60)
            barrier.wait(60)

    threads = [thread(work, i) for i in range(workers)]
    rng = random.Random(7)
    try:
        for _ in range(rounds):
            for _ in range(5):
                z.parameters["max_memory_bytes"] = rng.choice(budgets)
            z.parameters["max_memory_bytes"] = "12MiB"
            barrier.wait(60)
            if backed:
                z.store(workers * space, pages[1])  # waits for room, should nobody else have
            s = z.stats()
            assert s.resident_bytes <= 12 * MIB
            z._validate()
            barrier.wait(60)
    except BaseException:
        barrier.abort()
        raise
    for t in threads:
        t.join()
    within(z)


@settings(max_examples=30)
@given(st.data())
def test_whatever_comes(data):
    """Steps of every kind, each of which leaves all within the budget."""
    size = data.draw(st.sampled_from([4096, 16384]))
    low = least(size)
    block = pages_of(16, size)
    block[::3] = 9
    with zswap.ZSwap(
        data.draw(st.sampled_from(["lz4", "zstd"])),
        page_size=size,
        zpool=data.draw(st.sampled_from(["zsmalloc", "zbud", "z3fold"])),
        max_memory_bytes=low,
    ) as z:
        budget = low
        for _ in range(data.draw(st.integers(1, 25))):
            step = data.draw(st.sampled_from(["dense", "sparse", "free", "more", "load"]))
            first = data.draw(st.integers(0, 4000))
            if step == "dense":
                for at in range(first, first + 128, 16):
                    z.store_many(np.arange(at, at + 16), block)
            elif step == "sparse":
                z.store_many(np.arange(first, first + 16) << 9, block)
            elif step == "free":
                z.invalidate_range(first, first + 1000)
            elif step == "more":
                budget += MIB
                z.parameters["max_memory_bytes"] = budget
            else:
                for at in range(first, first + 16):
                    z.load(at, absent="zeros")
            assert within(z).max_memory_bytes == budget


# ---- the process ---------------------------------------------------------------------------------


def tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal:       16384000 kB\n"}
V2 = {**MEMINFO, "proc/self/cgroup": "0::/a/b\n"}
V1 = {**MEMINFO, "proc/self/cgroup": "5:cpu:/x\n4:memory:/a/b\n"}


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        (MEMINFO, 16384000 << 10),
        ({**V2, "sys/fs/cgroup/a/b/memory.max": "max\n"}, 16384000 << 10),
        ({**V2, "sys/fs/cgroup/a/b/memory.max": "469762048\n"}, 448 * MIB),
        (
            {
                **V2,
                "sys/fs/cgroup/a/b/memory.max": "469762048\n",
                "sys/fs/cgroup/a/memory.max": "268435456\n",
            },
            256 * MIB,
        ),
        (
            {
                **V2,
                "sys/fs/cgroup/a/b/memory.max": "469762048\n",
                "sys/fs/cgroup/a/b/memory.high": "134217728\n",
            },
            128 * MIB,
        ),
        ({**V1, "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "268435456\n"}, 256 * MIB),
        (
            {**V1, "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "9223372036854771712\n"},
            16384000 << 10,
        ),
        ({**V2, "sys/fs/cgroup/a/b/memory.max": "nonsense\n"}, 16384000 << 10),
    ],
    ids=["none", "v2-max", "v2", "v2-above", "v2-high", "v1", "v1-none", "nonsense"],
)
def test_the_ceiling_is_the_cgroups(tmp_path, files, limit):
    assert process_ceilings(root=tree(tmp_path, files))[0] == limit


def test_a_limit_that_is_given_comes_before_those_of_the_system(tmp_path):
    root = tree(tmp_path, {**V2, "sys/fs/cgroup/a/b/memory.max": "268435456\n"})
    assert process_ceilings(300 * MIB, root)[0] == 300 * MIB


@whole_process
def test_limits_of_the_process_are_read(python):
    out = python("""
import resource
from zswap.meminfo import process_ceilings
print(*process_ceilings(1 << 30))
resource.setrlimit(resource.RLIMIT_AS, (9 << 30, resource.RLIM_INFINITY))
resource.setrlimit(resource.RLIMIT_DATA, (8 << 30, resource.RLIM_INFINITY))
print(*process_ceilings(1 << 30))
""")
    assert [line.split() for line in out.splitlines()][-1] == [
        str(1 << 30),
        str(9 << 30),
        str(8 << 30),
    ]


RSS = """
import re, numpy as np, zswap
def rss(which="VmRSS"):
    return int(re.search(which + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10
def pages_of(count, size):
    pages = np.zeros((count, size), np.uint8)
    rng = np.random.default_rng(1)
    pages[:, : size // 3] = rng.integers(0, 256, (count, size // 3), dtype=np.uint8)
    return pages
MIB = 1 << 20
"""


@whole_process
@pytest.mark.memory
@pytest.mark.parametrize("size", [4096, 65536])
@pytest.mark.parametrize("compressor", ["lz4", "zstd"])
def test_the_process_grows_by_no_more(python, tmp_path, size, compressor):
    """The peak of its resident memory, while four times the budget go through; beside the budget
    are the compressors' contexts and what Python takes for the calls."""
    out = python(
        RSS
        + f"""
block = pages_of(64, {size})
file = zswap.SwapFile("swap", size=512 * MIB, page_size={size}, direct=False)
z = zswap.ZSwap({compressor!r}, page_size={size}, max_memory_bytes="8MiB", backing=file)
found = np.empty_like(block)
def run(first, stop):
    for at in range(first, stop, 64):
        assert z.store_many(np.arange(at, at + 64), block).min() >= 0
        z.load_many(np.arange(at, at + 64), found)
        assert (found == block).all()
run(0, 512)
z.clear()
base = rss() - z.stats().resident_bytes
z.parameters["max_memory_bytes"] = 32 * MIB
run(0, 128 * MIB // {size})
for at in range(0, 64 * MIB // {size}, 7):
    assert z[at] == block[at % 64].tobytes()
print(rss("VmHWM") - base, z.stats().resident_bytes)
""",
    )
    grown, counted = map(int, out.split())
    assert counted <= 32 * MIB
    assert grown <= 32 * MIB + 4 * MIB
    assert grown > 16 * MIB, "it was measured at all"


@whole_process
@pytest.mark.memory
def test_auto_keeps_the_process_below_the_limit(python):
    """Others' memory comes and goes: what is left is the engine's."""
    out = python(
        RSS
        + """
block = pages_of(64, 4096)
file = zswap.SwapFile("swap", size=1024 * MIB, direct=False)
z = zswap.ZSwap("lz4", max_pool_bytes="1GiB", shrinker_interval=86400, backing=file)
z.store_many(np.arange(64), block)
limit = rss() + 64 * MIB
z.parameters["max_memory_bytes"] = f"auto:{limit}"
ceiling = limit - limit // 16
def run(first, stop):
    top = 0
    for at in range(first, stop, 64):
        assert z.store_many(np.arange(at, at + 64), block).min() >= 0
        top = max(top, rss())
    return top
full = run(0, 60000)
assert full < limit, (full, limit)
assert full > ceiling - 24 * MIB, (full, ceiling)
s = z.stats()
assert s.pool_total_size > 16 * MIB, s
assert s.written_back_pages
ballast = np.ones(24 * MIB, np.uint8)
z.parameters["max_memory_bytes"] = f"auto:{limit}"  # looks at once
lowered = z.stats().max_memory_bytes
assert lowered < s.max_memory_bytes, (lowered, s.max_memory_bytes)
run(60032, 64000)
z.compact()
assert rss() < limit, (rss(), limit)
s = z.stats()
del ballast
again = run(0, 60000)
assert again < limit, (again, limit)
assert z.stats().pool_total_size > s.pool_total_size + 4 * MIB, (z.stats(), s)
for at in range(0, 64000, 97):
    assert z[at] == block[at % 64].tobytes()
print("done")
""",
    )
    assert out == "done\n"


def test_auto_of_less_than_the_interpreter_takes_is_the_least(engine):
    """A limit that cannot be kept leaves the smallest engine that works."""
    z = engine(max_memory_bytes="auto:1MiB")
    assert z.stats().max_memory_bytes == least(PAGE)
    block = pages_of(2, PAGE)
    z.store(0, block[0])
    assert z[0] == block[0].tobytes()
    z.store_many(np.arange(2000), np.repeat(block, 1000, axis=0))
    with pytest.raises(zswap.PoolLimitError, match="of the process's memory"):
        z.store(2000, block[0])
    within(z)


@whole_process
@pytest.mark.memory
def test_auto_is_followed_by_the_thread_alone(python):
    out = python(
        RSS
        + """
import time
def wait_until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.0005)
z = zswap.ZSwap(max_memory_bytes="auto:1TiB", shrinker_interval=0.01)
before = z.stats().max_memory_bytes
ballast = np.ones(64 * MIB, np.uint8)
wait_until(lambda: z.stats().max_memory_bytes < before - 16 * MIB)
del ballast
wait_until(lambda: z.stats().max_memory_bytes > before - 16 * MIB)
z.parameters["max_memory_bytes"] = None
print(z.stats().max_memory_bytes)
"""
    )
    assert out == "0\n"


def test_several_engines_do_not_take_the_same_twice(engine):
    first = engine(max_memory_bytes="auto")
    second = engine(max_memory_bytes="auto")
    total = process_ceilings()[0]
    assert first.stats().max_memory_bytes + second.stats().max_memory_bytes < total


def test_an_address_space_that_is_nearly_used_up_leaves_the_least(python):
    out = python(
        RSS
        + """
import resource
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = size + (size // 16) + 96 * MIB
resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
z = zswap.ZSwap(max_memory_bytes="auto")
print(z.stats().max_memory_bytes < 64 * MIB)
"""
    )
    assert out == "True\n"
