"""Fork: the child's copy is closed, whatever the parent's threads were doing, and the parent does
not notice."""

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("whole_fork")]

# Each program forks in a process of its own.  The alarm ends a child that hangs, which then is no
# success.
PRELUDE = """
import asyncio, hooks, os, random, signal, sys, threading, time, zswap
noise = random.Random(1).randbytes(4096)
packed = b"some page" + bytes(4087)

def in_child(body):
    # Fork, run `body` in the child, and say in the parent how that ended.
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        signal.alarm(20)
        try:
            body()
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    if status:
        print(f"the child ended with {status}", file=sys.stderr, flush=True)
        os._exit(3)         # other threads may be at it for ever

def refused(call, z):
    try:
        call(z)
    except ValueError as error:
        assert "parent" in str(error) or "closed" in str(error), error
    else:
        raise AssertionError("a call on the parent's engine went through")

CALLS = [
    lambda z: z.store(0, noise), lambda z: z.load(1), lambda z: z.load(99),
    lambda z: z.invalidate(1), lambda z: z[1],
    lambda z: 1 in z, len, list, lambda z: z.store_many([1, 2], noise * 2, threads=2),
    lambda z: z.load_many([1, 2], threads=2), lambda z: z.invalidate_many([1]),
    lambda z: z.invalidate_range(0, 10),
    lambda z: z.invalidate_area(), lambda z: z.clear(),
    lambda z: z.compact(), lambda z: z.stats(), lambda z: z.pools(), lambda z: z.swapon(3),
    lambda z: z.swapoff(0),
    lambda z: z.compressed_sizes([1]), lambda z: z._validate(),
    lambda z: z.load_part(1, 7, 9), lambda z: z.store_part(1, 7, b"part", absent="zeros"),
    lambda z: z.storev(1, [noise, b"x"]), lambda z: z.loadv(1, [bytearray(9)]),
    lambda z: asyncio.run(z.aload(1)), lambda z: asyncio.run(z.astore(1, noise)),
]
SETTINGS = [
    lambda z: setattr(z, "compressor", "zstd"), lambda z: setattr(z, "zpool", "zsmalloc:4"),
    lambda z: z.parameters.__setitem__("compressor", "zstd"),
]
"""


def test_every_call_in_the_child_is_a_value_error(python):
    python(
        PRELUDE
        + """
z = zswap.ZSwap()
z[1], z[2], z[3] = noise, packed, bytes(4096)
z.compressor = "zstd"
z[4] = packed
def child():
    assert z.closed
    for call in CALLS + SETTINGS:
        refused(call, z)
    assert "closed" in repr(z)
    z.close()
    z.close()
    for call in CALLS + SETTINGS:
        refused(call, z)
in_child(child)
assert [z[n] for n in (1, 2, 3, 4)] == [noise, packed, bytes(4096), packed]
z._validate()
z.compressor = "lz4:3"
z[5] = noise
z.clear()
z.close()
"""
    )


def test_the_settings_too(python):
    # They change nothing that anybody would see, but a program that sets them is in error.
    python(
        PRELUDE
        + """
z = zswap.ZSwap()
def child():
    for name, value in [
        ("enabled", False), ("max_pool_bytes", 1 << 20), ("accept_threshold_percent", 5),
    ]:
        refused(lambda z: z.parameters.__setitem__(name, value), z)
in_child(child)
assert z.parameters["enabled"] is True
"""
    )


def test_a_child_can_make_its_own(python):
    python(
        PRELUDE
        + """
z = zswap.ZSwap()
z[1] = noise
def child():
    with zswap.ZSwap("zstd") as mine:
        mine[1] = packed
        mine.compressor = "lz4"
        mine[2] = packed
        assert mine[1] == mine[2] == packed
        mine._validate()
        def grandchild():
            refused(len, mine)
            refused(len, z)
            with zswap.ZSwap() as own:
                own[1] = noise
                assert own[1] == noise
        in_child(grandchild)
        assert mine[1] == packed
    refused(len, z)
in_child(child)
assert z[1] == noise
"""
    )


def test_a_child_may_drop_its_copy(python):
    python(
        PRELUDE
        + """
import gc
z = zswap.ZSwap()
z[1] = noise
z.compressor = "zstd"
def child():
    global z
    del z
    gc.collect()
in_child(child)
assert z[1] == noise
"""
    )


def test_a_child_that_ends_in_the_ordinary_way(python):
    # Interpreter shutdown, atexit and all, with an engine that has a thread which the child does
    # not have.
    python(
        PRELUDE
        + """
z = zswap.ZSwap()
z[1] = noise
z.compressor = "zstd"
pid = os.fork()
if not pid:
    signal.alarm(20)
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert z[1] == noise
"""
    )


@pytest.mark.parametrize("close_first", [False, True])
def test_fork_beside_the_thread_that_writes(python, tmp_path, close_first):
    # It stays for the next time something is written; the child has none to wait for.
    python(
        PRELUDE
        + f"""
z = zswap.ZSwap(backing={str(tmp_path / "swap")!r}, shrinker_enabled=False, shrinker_interval=3600)
z.store_many(range(600), packed * 600)
assert z.shrink(600) == 600
def child():
    refused(lambda z: z.shrink(1), z)
    if {close_first}:
        z.close()
in_child(child)
assert z.load(599) == packed
z.store_many(range(600), packed * 600)
assert z.shrink(600) == 600
z.close()
"""
    )


@pytest.mark.parametrize("close_first", [False, True])
def test_fork_while_threads_are_in_calls(python, close_first):
    out = python(
        PRELUDE
        + """
import numpy as np
z = zswap.ZSwap(max_pool_bytes="64MiB")
stop = threading.Event()
errors = []
def work(k):
    # Pages of k alone; a child that took part would make them another's.
    rng = random.Random(k)
    base = k * 1000
    pages = b"".join(b"%8d" % (base + n) * 300 + noise[:1696] for n in range(200))
    try:
        while not stop.is_set():
            assert z.store_many(range(base, base + 200), pages, threads=2).min() >= 0
            assert z.load_many(range(base, base + 200), threads=2).tobytes() == pages
            z.compact()
            z.invalidate_range(base, base + 100)
            z.compressor = rng.choice(["lz4", "zstd:1", "lz4:9"])
            z.stats()
            z[base] = packed
            assert z[base] == packed
    except BaseException as error:
        errors.append(error)
threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
for t in threads: t.start()
def child():
    if CLOSE_FIRST:
        z.close()
    for call in CALLS:
        refused(call, z)
    z.close()
    with zswap.ZSwap() as own:
        own[1] = noise
        assert own[1] == noise
for _ in range(30):
    in_child(child)
stop.set()
for t in threads: t.join()
assert not errors, errors
z._validate()
z.clear()
assert z.stats().stored_pages == 0
z.close()
print("done")
""".replace("CLOSE_FIRST", str(close_first))
    )
    assert out.strip() == "done"


def test_fork_while_another_thread_changes_settings(python):
    # That thread holds whatever guards the settings; in the child nobody will ever give it back.
    python(
        PRELUDE
        + """
inside, go = threading.Event(), threading.Event()
def factory():
    inside.set()
    go.wait()
    raise RuntimeError("enough")
zswap.register_compressor("slow-to-open", factory=factory)
z = zswap.ZSwap()
def change():
    try:
        z.parameters["compressor"] = "slow-to-open"
    except Exception:
        pass
t = threading.Thread(target=change)
t.start()
inside.wait()
def child():
    for call in CALLS + SETTINGS:
        refused(call, z)
    z.close()
    with zswap.ZSwap("zstd") as own:
        own[1] = noise
        own.compressor = "lz4"
try:
    in_child(child)
finally:
    go.set()
    t.join()
z[1] = noise
assert z[1] == noise
"""
    )


def test_fork_inside_a_compressor(python):
    # The call goes on in the child, in which the engine is closed meanwhile; it must end there, one
    # way or the other.
    python(
        PRELUDE
        + """
children = []
def compress(data):
    if not children:
        pid = os.fork()
        children.append(pid)
        if not pid:
            signal.alarm(20)
    return data[:100]
zswap.register_compressor("forking", compress, lambda data: noise)
z = zswap.ZSwap("forking")
parent = os.getpid()
try:
    z[1] = noise
except Exception:
    assert os.getpid() != parent
if os.getpid() != parent:
    refused(len, z)
    z.close()
    os._exit(0)
assert os.waitpid(children[0], 0)[1] == 0
assert z[1] == noise
z._validate()
z.close()
"""
    )


def test_fork_while_pages_of_a_batch_are_ready(python):
    python(
        PRELUDE
        + """
children = []
numbers = []
def compress(data):
    numbers.append(len(numbers))
    if numbers[-1] == 5:
        pid = os.fork()
        children.append(pid)
        if not pid:
            signal.alarm(20)
    return bytes(data[:100])
def page(n):
    return (b"page %4d " % n * 500)[:4096]
zswap.register_compressor("forking", compress, lambda data: (bytes(data[:10]) * 500)[:4096])
z = zswap.ZSwap("forking")
parent = os.getpid()
try:
    z.store_many(range(12), b"".join(map(page, range(12))))
except Exception:
    assert os.getpid() != parent
if os.getpid() != parent:
    z.close()
    os._exit(0)
assert os.waitpid(children[0], 0)[1] == 0
assert [z[n] for n in range(12)] == [page(n) for n in range(12)]
z._validate()
z.close()
"""
    )


def test_multiprocessing_with_fork(python):
    python(
        PRELUDE
        + """
import multiprocessing
z = zswap.ZSwap()
z[1] = noise
def job(n):
    refused(len, z)
    with zswap.ZSwap() as own:
        own[n] = packed
        return own[n] == packed
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(job, range(8)) == [True] * 8
assert z[1] == noise
"""
    )


@pytest.mark.parametrize("where", ["compress", "decompress", "write", "read"])
def test_fork_inside_what_python_does_for_a_call(python, where):
    # The child goes on in the middle of a call, with nothing left of any page: it may fail, but not
    # crash.
    out = python(
        PRELUDE
        + """
import zlib
where, parent, children, armed = sys.argv[1], os.getpid(), [], False
def here(name):
    if name == where and armed and os.getpid() == parent and len(children) < 4:
        pid = os.fork()
        if pid:
            children.append(pid)
        else:
            signal.alarm(20)
def compress(data):
    here("compress")
    return zlib.compress(bytes(data), 1)
def decompress(data):
    here("decompress")
    return zlib.decompress(bytes(data))
class Store:
    nr_pages, page_size, pages = 4096, 4096, {}
    def write_pages(self, offsets, pages):
        here("write")
        pages = memoryview(pages).cast("B")
        for i, offset in enumerate(offsets):
            self.pages[int(offset)] = bytes(pages[i * 4096 : (i + 1) * 4096])
    def read_pages(self, offsets, out):
        here("read")
        out = memoryview(out).cast("B")
        for i, offset in enumerate(offsets):
            out[i * 4096 : (i + 1) * 4096] = self.pages[int(offset)]
zswap.register_compressor("forking", compress, decompress)
z = zswap.ZSwap("forking", checksum=True, wipe_on_free=True, backing=Store(), max_pool_bytes="4MiB",
                shrinker_enabled=False)
def page(n):
    return (b"page %d " % n * 300).ljust(4096, b"-")
for n in range(100): z[n] = page(n)
for n in range(100, 150): z[n] = b"sameword" * 512
armed = True
try:
    for n in range(20): z[n] = page(n + 1000)
    z.store_many(range(20, 40), b"".join(page(n + 1000) for n in range(20, 40)))
    assert all(z[n] == page(n + 1000) for n in range(40))
    for _ in range(3):
        z.shrink(20)
        assert all(z[n] == page(n if n >= 40 else n + 1000) for n in range(100))
    z.recompress("lz4")
    z.compact()
    z.clear()
# the latter for a page whose checksum is not there any more
except (ValueError, zswap.PageCorruptError) as error:
    assert os.getpid() != parent, error
    assert "parent" in str(error) or "damaged" in str(error), error
if os.getpid() != parent:
    z.close()
    os._exit(0)
print(*(os.waitpid(pid, 0)[1] for pid in children))
z._validate()
""",
        where,
    )
    assert out.split()
    assert set(out.split()) == {"0"}
