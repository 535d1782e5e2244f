"""Calls: one function enters and leaves the engine, so nothing in Python can keep a worker; what a
call reports is its own."""

import ast
import asyncio
import contextlib
import errno
import inspect
import os
import random
import re
import sys
import threading

import numpy as np
import pytest

import zswap
from hooks import ROOT
from zswap_core import locks

PAGE = 4096
BINDING = ROOT / "zswap_core" / "binding" / "engine.pyx"


def noise(seed):
    return random.Random(seed).randbytes(PAGE)


# ---- by construction -----------------------------------------------------------------------------


@pytest.mark.skipif(not BINDING.exists(), reason="the sources are not here")
def test_one_function_enters_and_leaves_the_engine():
    text = "".join(path.read_text() for path in sorted(BINDING.parent.glob("*.p[yx][xd]")))
    _, _, body = text.partition("cdef int call(self, call_body body")
    body, _, _ = body.partition("    def ")
    for name in ("engine_enter(", "engine_leave("):
        assert name in body
        assert text.count(name) == body.count(name), f"{name} outside of Engine.call"
    # What it runs can neither raise nor take the GIL.
    assert (
        "ctypedef void (*call_body)(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil"
        in text
    )
    between = body[body.index("if waits:") :]
    assert not re.search(r"\b(raise|try|finally|for|while)\b", between)


@pytest.mark.skipif(not BINDING.exists(), reason="the sources are not here")
def test_what_close_frees_is_read_inside_calls_alone():
    freed = re.compile(r"\be\.(current|pools|areas|lru|writeback)\b")
    for path in sorted(BINDING.parent.glob("*.pyx")):
        assert path.name == "requests.pyx" or not freed.search(path.read_text()), path


# ---- garbage -------------------------------------------------------------------------------------


class Index:
    """A number by `__index__` alone."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


class Raising:
    """Nothing can be asked of it without an exception."""

    def __getattr__(self, name):
        raise OSError(errno.EIO, f"no {name}")

    def __index__(self):
        raise ZeroDivisionError("no number")

    def __len__(self):
        raise ZeroDivisionError("no length")

    def __iter__(self):
        raise ZeroDivisionError("no items")

    def __bool__(self):
        raise ZeroDivisionError("neither")

    def __eq__(self, other):
        raise ZeroDivisionError("not to be compared")

    __hash__ = None


GARBAGE = [
    None, True, -1, 1.5, 2**63, 2**64, 10**30, "7", "", b"", b"x", bytearray(PAGE), bytes(PAGE),
    memoryview(bytes(PAGE))[::2],
    [], [1, "2"], (), {}, {3}, object(), Index(3), Index(-3), Index(2**70), Raising(), float("nan"),
    np.float64(2), np.int8(-1),
    np.zeros((3, 3)), np.array([object()] * 512), np.zeros(0, np.uint64), np.array(["a"]), range(5),
    iter([1]), Ellipsis, print,
]  # fmt: skip

# Names that belong to tests or to Python, and what would only wait.
NOT_CALLED = {"close", "serve_stats"}


def public_methods(z):
    names = [
        name
        for name in dir(z)
        if not name.startswith("_") and callable(getattr(z, name)) and name not in NOT_CALLED
    ]
    return [
        *names,
        *(
            f"__{name}__"
            for name in (
                "getitem",
                "setitem",
                "delitem",
                "contains",
                "eq",
                "ior",
                "iter",
                "len",
                "repr",
            )
        ),
    ]


@pytest.mark.parametrize("backed", [False, True], ids=["memory", "backed"])
def test_garbage_leaves_no_call_behind(engine, memory_store, thread, backed):
    z = engine("zstd:1", max_pool_bytes="1MiB", backing=memory_store() if backed else None)
    keep = {offset: noise(offset) for offset in range(0, 40, 2)}
    rng = random.Random(3)
    outcomes = {}
    for name in public_methods(z):
        shapes = (
            [()]
            + [(bad,) for bad in GARBAGE]
            + [tuple(rng.choices(GARBAGE, k=2)) for _ in range(40)]
        )
        shapes += [(good, bad) for good in (2, [2, 4]) for bad in GARBAGE]
        for args in shapes:
            keywords = {}
            if rng.random() < 0.4:
                key = rng.choice(
                    [
                        "swap_type",
                        "threads",
                        "out",
                        "status",
                        "ns",
                        "idle_seconds",
                        "max_pages",
                        "default",
                        "drain",
                    ]
                )
                keywords = {key: rng.choice(GARBAGE)}
            try:
                result = getattr(z, name)(*args, **keywords)
                if hasattr(result, "__next__"):
                    next(result, None)
                elif inspect.iscoroutine(result):
                    asyncio.run(result)
            except Exception as error:
                outcomes[type(error).__name__] = outcomes.get(type(error).__name__, 0) + 1
        for offset, page in keep.items():  # swapoff(0) may have worked
            try:
                z.store(offset, page)
            except ValueError:
                z.swapon(0)
                z.store(offset, page)
    assert "SystemError" not in outcomes, outcomes
    assert outcomes["TypeError"] > 100, outcomes
    assert outcomes["ValueError"] > 100, outcomes
    assert all(z[offset] == page for offset, page in keep.items())
    z._validate()
    thread(z.close).join()


FAILING = """
import _testcapi, hooks, random, threading, zswap
import numpy as np
noise = random.Random(1).randbytes(4096)
out, offsets, pages = bytearray(4096), np.arange(8), noise * 8
# imported while there is memory: CPython 3.13 crashes when it imports any module without
for name in ("lz4hc", "zstd:1"):
    zswap.open_compressor(name)
z = zswap.ZSwap("lz4", max_pool_bytes="8MiB")
z.swapon(5)
z.store_many(offsets, pages)
CALLS = [
    lambda: z.store(1, noise), lambda: z.load(1), lambda: z.load(1, out), lambda: z.invalidate(99),
    lambda: z[1], lambda: 1 in z,
    lambda: z.store_part(1, 7, noise[:9]), lambda: z.load_part(1, 7, 9),
    lambda: z.storev(1, [noise[:9], noise[9:]]), lambda: z.loadv(1, [out]),
    lambda: len(z), lambda: list(z), lambda: z.store_many(offsets, pages),
    lambda: z.load_many(offsets),
    lambda: z.load_many([1, 2], threads=2), lambda: z.invalidate_many([99, 100]),
    lambda: z.invalidate_range(200, 300),
    lambda: z.compressed_sizes(offsets), lambda: z.stats(), lambda: z.pools(), lambda: z.latency(),
    lambda: z.compact(),
    lambda: z.shrink(3), lambda: z.recompress("lz4hc", max_pages=1), lambda: z.numa_pages(),
    lambda: z.pop(3, None),
    lambda: z.swapon(7), lambda: z.swapoff(7), lambda: list(z.swapoff(5, drain=True)),
    lambda: z.swapon(5),
    lambda: setattr(z, "compressor", "zstd:1"), lambda: setattr(z, "compressor", "lz4"),
    lambda: z.parameters.__setitem__("max_pool_bytes", 8 << 20),
    lambda: z.parameters.__setitem__("latency", True),
    lambda: repr(z), lambda: z.setdefault(3, noise), lambda: z == {1: 2}, lambda: z.get(77),
    lambda: z.popitem(), lambda: z[999],
]
def once(call, start):
    # The window is short: what cleans up after a failure finds memory again, in Python's own code
    # and in ours.
    _testcapi.set_nomemory(start, start + 1 + start % 3)
    try:
        call()
    finally:
        while True:
            try:
                _testcapi.remove_mem_hooks()
                break
            except MemoryError:
                pass

failures = 0
for call in CALLS:
    for start in range(60):
        try:
            once(call, start)
        except MemoryError:
            failures += 1
        except Exception:
            pass
    z.store_many(offsets, pages)
z._validate()
ended = threading.Thread(target=z.close, daemon=True)
ended.start()
ended.join(30)
assert z.closed and not ended.is_alive(), "a call was left behind"
print(failures)
"""


def test_python_running_out_of_memory_leaves_no_call_behind(python):
    pytest.importorskip("_testcapi", reason="this Python comes without its own test modules")
    if "ZSWAP_SANITIZED" in os.environ:
        pytest.skip("Python's allocator is not used in the sanitizer's run")
    assert int(python(FAILING).split()[-1]) > 200


# ---- holding before publishing -------------------------------------------------------------------


def test_compressors_are_told_apart_by_identity_alone(engine):
    from zswap_core.compressors.adapter import PythonCompressor

    class Equal(PythonCompressor):
        def __eq__(self, other):  # equal to anything, and so not to be hashed
            return True

    z = engine(max_pool_bytes="8MiB")
    for name in ("first", "second"):
        z.compressor = Equal(name, lambda data: bytes(reversed(data[:1000])), lambda data: data)
        assert z.compressor == name
        z[1] = bytes([7]) * 1000 + noise(1)[:3096]
    held = {pool.compressor for pool in z.pools()}
    assert "second" in held
    assert "?" not in held


def test_backing_stores_are_told_apart_by_identity_alone(engine, memory_store):
    from zswap_core.backings.adapter import PythonBacking

    class Equal(PythonBacking):
        def __eq__(self, other):
            return True

    z = engine(max_pool_bytes="8MiB", backing=Equal(memory_store()))
    z.swapon(1, backing=Equal(memory_store()))
    z.swapoff(1)
    z.close()


# ---- what a call reports -------------------------------------------------------------------------


class Picky:
    """Fails with an error number that the offset says."""

    def write_pages(self, offsets, pages):
        raise OSError(int(offsets[0]), f"page {offsets[0]}")

    def read_pages(self, offsets, out):
        raise OSError(int(offsets[0]), f"page {offsets[0]}")


def test_a_failing_call_reports_its_own_error(engine, thread, eager_switches):
    z = engine(max_pool_bytes=0, backing=Picky(), shrinker_enabled=False)
    codes = [errno.EIO, errno.ENOSPC, errno.EPERM, errno.EROFS]

    def work(code):
        page = noise(code)
        for _ in range(200):
            with pytest.raises(zswap.BackingError, match=f"page {code}") as caught:
                z.store(code, page)
            assert caught.value.errno == code
            assert caught.value.__cause__.errno == code

    for worker in [thread(work, code) for code in codes]:
        worker.join()


def test_a_batch_reports_how_the_store_failed_with_its_first_page(engine, memory_store):
    store = memory_store()
    z = engine(max_pool_bytes="1MiB", backing=store, shrinker_enabled=False)
    # which are error numbers too, of more pages than are loaded under one lock
    offsets = list(range(1, 41))
    for offset in offsets:
        z[offset] = noise(offset)
    assert z.shrink(len(offsets)) == len(offsets)

    def fail(offsets):
        raise OSError(offsets[0], f"page {offsets[0]}")

    store.on_read = fail
    for order in (offsets, offsets[::-1]):
        with pytest.raises(zswap.BackingError, match=f"offset {order[0]}:") as caught:
            z.load_many(order)
        assert caught.value.errno == order[0]
    store.on_read = lambda offsets: None
    assert z[7] == noise(7)


def test_a_causes_thread_alone_is_told_it(engine, codec, thread):
    failing = threading.local()

    def compress(data):
        if getattr(failing, "now", False):
            raise LookupError(threading.current_thread().name)
        return data[:100]

    z = engine(codec(compress, lambda data: data), max_pool_bytes="1MiB")
    ready, told = threading.Barrier(2, timeout=60), []

    def work():
        failing.now = True
        assert z.store_many([1], noise(1))[0] == zswap.Status.COMPRESS_FAIL
        ready.wait()  # the other fails alone, with this failure untold
        ready.wait()
        with pytest.raises(zswap.Error) as caught:
            z.store(1, noise(1))
        told.append(caught.value.__cause__)

    def other():
        ready.wait()
        z[2] = bytes(range(256)) * 16
        with pytest.raises(zswap.PageCorruptError) as caught:
            z.load(2)
        told.append(caught.value.__cause__)
        ready.wait()

    workers = [thread(work), thread(other)]
    for worker in workers:
        worker.join()
    assert isinstance(told[0], ValueError), told  # decompress gave 100 bytes
    assert isinstance(told[1], LookupError), told


# ---- the end -------------------------------------------------------------------------------------


def test_swapoff_outlives_a_close(thread):
    """What swapoff still has to write when its call is over is there as long as anybody has the
    engine.  A busy thread makes it wait for the GIL in between, while close() needs none."""
    before, stop = sys.getswitchinterval(), threading.Event()
    sys.setswitchinterval(1e-3)

    def hog():
        while not stop.is_set():
            sum(range(50))

    def off(z, area, ready):
        ready.wait()
        with contextlib.suppress(ValueError):  # close() was faster
            z.swapoff(area)

    hogs = [thread(hog), thread(hog)]
    try:
        for _ in range(25):
            z, ready = zswap.ZSwap(max_pool_bytes="1MiB"), threading.Barrier(5, timeout=60)
            for area in range(1, 5):
                z.swapon(area)
            workers = [thread(off, z, area, ready) for area in range(1, 5)]
            ready.wait()
            z.close()
            for worker in workers:
                worker.join()
            assert z.closed
    finally:
        stop.set()
        for busy in hogs:
            busy.join()
        sys.setswitchinterval(before)


def test_a_forked_child_finds_every_lock_free(python):
    python(
        """
import os, signal, sys, threading, zswap
from zswap_core import locks
z = zswap.ZSwap(max_pool_bytes="1MiB")
held, done = threading.Event(), threading.Event()
def hold():
    import contextlib
    with contextlib.ExitStack() as stack:
        for lock in list(locks._all):
            stack.enter_context(lock)
        held.set()
        done.wait()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
assert len(locks._all) >= 2
pid = os.fork()
if not pid:
    signal.alarm(20)
    mine = zswap.ZSwap("zstd:1", max_pool_bytes="1MiB")
    mine[0] = bytes(range(256)) * 16
    mine.parameters["max_pool_bytes"] = "2MiB"
    zswap.compressors()
    try:
        z.parameters["max_pool_bytes"] = "2MiB"
    except ValueError:
        os._exit(0 if mine[0] == bytes(range(256)) * 16 else 1)
    os._exit(2)
status = os.waitpid(pid, 0)[1]
done.set()
thread.join()
sys.exit(os.waitstatus_to_exitcode(status))
"""
    )


@pytest.mark.skipif(not BINDING.exists(), reason="the sources are not here")
def test_no_lock_of_python_is_left_to_a_forked_child():
    """Every lock that the package makes at its Python level is one of `zswap_core.locks`."""
    root = ROOT
    made = []
    for folder in ("zswap", "zswap_core"):
        for path in (root / folder).rglob("*.py"):
            if "bench" in path.parts:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and node.attr in (
                    "Lock",
                    "RLock",
                    "Condition",
                    "Semaphore",
                    "Event",
                ):
                    made.append(f"{path.relative_to(root)}:{node.lineno}")
    assert not made
    assert locks._all


# ---- limits and ages -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["bytes", "percent", "threshold"])
def test_a_lowered_limit_acts_at_once(engine, memory_store, until, how):
    """With a store the pools come down although nobody stores any more."""
    z = engine(max_pool_bytes="4MiB", backing=memory_store(), shrinker_interval=3600)
    pages = {offset: noise(offset) for offset in range(900)}
    for offset, page in pages.items():
        z[offset] = page
    before = z.stats().pool_total_size
    if how == "bytes":
        z.parameters["max_pool_bytes"] = "1MiB"
        bound = 1 << 20
    elif how == "percent":
        z.parameters["max_pool_percent"] = 0
        z.parameters["max_pool_bytes"] = None
        bound = 0
    else:
        z.parameters["max_pool_bytes"] = "2MiB"
        until(lambda: z.stats().pool_total_size <= 2 << 20)
        z.parameters["accept_threshold_percent"] = 10
        z.parameters["max_pool_bytes"] = "1MiB"
        bound = (1 << 20) // 10
    assert before > bound
    until(lambda: z.stats().pool_total_size <= bound)
    assert all(z[offset] == page for offset, page in pages.items())


def test_a_lowered_limit_without_a_store_loses_nothing(engine):
    z = engine(max_pool_bytes="4MiB")
    pages = {offset: noise(offset) for offset in range(500)}
    for offset, page in pages.items():
        z[offset] = page
    z.parameters["max_pool_bytes"] = "1MiB"
    with pytest.raises(zswap.PoolLimitError):
        z[1000] = noise(1000)
    assert all(z[offset] == page for offset, page in pages.items())
    z.parameters["max_pool_bytes"] = "8MiB"
    z[1000] = noise(1000)


def test_what_is_touched_after_the_clock_was_read_is_not_idle():
    from hooks.parts import Entry

    entry = Entry(now=10_000)
    for now, age in [
        (10_000, 0),
        (10_003, 3),
        (9_999, 0),
        (10_000 - 3600, 0),
        (10_000 + 40 * 86400, 40 * 86400),
    ]:
        assert entry.age_at(now) == age
    late = Entry(now=(1 << 22) + 5)  # the second wraps
    assert late.age_at((1 << 22) + 5 + 9) == 9
    assert late.age_at((1 << 22) - 2) == 0
