"""`aload` and `astore`: loads and stores that are awaited.

What another task, a cancellation or the end of the engine comes in between is forced by gates in
backing stores and compressors.
"""

import asyncio
import errno
import gc
import os
import random
import threading
import weakref

import numpy as np
import pytest

import zswap.aio
from hooks.faults import FOREVER, fault
from zswap import BackingError, Error, PageCorruptError, PoolLimitError, ZSwap

PAGE = 4096
NEVER = 86400
QUIET = {"shrinker_interval": NEVER, "shrinker_enabled": False, "max_pool_bytes": "64MiB"}


def noise(seed, size=PAGE):
    return random.Random(seed).randbytes(size)


def run(coroutine):
    """Run it to its end, not for ever."""
    return asyncio.run(asyncio.wait_for(coroutine, 60))


def threads():
    return [t for t in threading.enumerate() if t.name == "zswap-aio"]


@pytest.fixture(autouse=True)
def no_thread_stays():
    yield
    assert threads() == []


@pytest.fixture
def make(memory_store):
    """Make an engine with so many pages, all in its store; both are closed at the end."""
    made = []

    def make(n, store=None, **kwargs):
        store = store or memory_store()
        z = ZSwap(backing=store, **{"promote": "never", **QUIET, **kwargs})
        made.append(z)
        z.store_many(range(n), b"".join(map(noise, range(n))))
        assert z.shrink(n) == n
        return z, store

    yield make
    for z in made:
        z.close()


async def reached(gate):
    """Wait until somebody is held up, and let the loop go on meanwhile."""
    await asyncio.get_running_loop().run_in_executor(None, gate.reached.wait, 60)


# ---- what comes of it ----------------------------------------------------------------------------


def test_a_page_in_the_pool_is_there_at_once():
    with ZSwap(**QUIET) as z:
        z[0], z[1] = noise(0), bytes(PAGE)
        out = bytearray(PAGE)
        for call, page in (
            (z.aload(0), noise(0)),
            (z.aload(1), bytes(PAGE)),
            (z.aload(2, absent="zeros"), bytes(PAGE)),
            (z.aload(0, out), noise(0)),
        ):
            with pytest.raises(StopIteration) as caught:
                call.send(None)  # no event loop is asked, and none is there
            assert caught.value.value == page
        assert caught.value.value is out
        with pytest.raises(KeyError, match="9"):
            z.aload(9).send(None)
        assert threads() == []


def test_a_page_in_the_store(make):
    z, store = make(10)
    z.parameters["read_ahead"] = False
    out = np.zeros((2, PAGE // 2), np.uint8)

    async def main():
        assert await z.aload(3) == noise(3)
        assert await z.aload(4, out) is out
        assert await z.aload(5, absent="zeros") == noise(5)

    run(main())
    assert out.tobytes() == noise(4)
    assert store.reads == [[3], [4], [5]]
    assert z.stats().loads == 3


def test_pages_are_stored():
    with ZSwap(**QUIET) as z:
        z.swapon(2, nr_pages=5)
        pages = [noise(1), bytearray(noise(2)), np.frombuffer(noise(3), np.float32)]

        async def main():
            assert await z.astore(0, pages[0]) is None
            await asyncio.gather(*(z.astore(n, page, swap_type=2) for n, page in enumerate(pages)))

        run(main())
        assert z[0] == noise(1)
        assert [z.load(n, swap_type=2) for n in range(3)] == [noise(1), noise(2), noise(3)]
        (thread,) = threads()
        assert thread.daemon


def test_the_page_is_copied(codec, gate):
    held = gate()

    def compress(page):
        held()
        return page[:10]

    with ZSwap(codec(compress, lambda data: data * 409), **QUIET) as z:

        async def main():
            first = asyncio.ensure_future(z.astore(0, noise(0)))
            await reached(held)
            page = np.full(PAGE, 7, np.uint8)
            second = asyncio.ensure_future(z.astore(1, page))
            await asyncio.sleep(0)
            page[:] = 8
            held.opened.set()
            await asyncio.gather(first, second)

        run(main())
        assert z[1] == bytes([7]) * PAGE


def test_arguments(make):
    z, _ = make(1)

    async def refused(error, call):
        with pytest.raises(error):
            await call

    async def main():
        for offset in (-1, 1 << 47, 1 << 70):
            await refused(ValueError, z.aload(offset))
            await refused(ValueError, z.astore(offset, noise(1)))
        for offset in ("1", None, 1.0):
            await refused(TypeError, z.aload(offset))
            await refused(TypeError, z.astore(offset, noise(1)))
        for out in (bytearray(5), bytes(PAGE), bytearray(PAGE + 1)):
            await refused(ValueError, z.aload(0, out))
        for page in (b"", noise(1)[1:], noise(1) + b"x"):
            await refused(ValueError, z.astore(0, page))
        await refused(TypeError, z.astore(0, "text"))
        await refused(ValueError, z.aload(0, absent="nothing"))
        await refused(ValueError, z.astore(0, noise(1), swap_type=7))
        await refused(KeyError, z.aload(0, swap_type=7))
        await refused(ValueError, z.aload(0, swap_type=7, absent="zeros"))

    run(main())
    assert z[0] == noise(0)


def test_subclasses_of_numbers(make):
    z, _ = make(3)

    async def main():
        await z.astore(np.uint8(7), noise(7), swap_type=np.int64(0))
        return await z.aload(np.uint64(2))

    assert run(main()) == noise(2)
    assert z[7] == noise(7)


# ---- together ------------------------------------------------------------------------------------


def test_what_is_awaited_meanwhile_is_one_batch(make, gate):
    z, store = make(300)
    held = gate()
    store.on_read = lambda offsets: held() if offsets == [0] else None

    async def main():
        first = asyncio.ensure_future(z.aload(0))
        await reached(held)
        order = random.Random(1).sample(range(1, 300), 299)
        rest = [asyncio.ensure_future(z.aload(o)) for o in order]
        await asyncio.sleep(0)  # all have begun
        held.opened.set()
        pages = await asyncio.gather(first, *rest)
        assert pages == [noise(o) for o in [0, *order]]

    run(main())
    assert sorted(map(len, store.reads)) == [1, 299 - 256, 256]


def test_stores_keep_their_order(codec, gate):
    held, compressed = gate(), []

    def compress(page):
        if not compressed:
            held()
        compressed.append(page)
        return page  # kept raw

    with ZSwap(codec(compress), **QUIET) as z:

        async def main():
            first = asyncio.ensure_future(z.astore(0, noise(0)))
            await reached(held)
            rest = [asyncio.ensure_future(z.astore(n % 3, noise(n))) for n in range(1, 40)]
            await asyncio.sleep(0)
            held.opened.set()
            await asyncio.gather(first, *rest)

        run(main())
        assert compressed == [noise(n) for n in range(40)]
        assert [z[n] for n in range(3)] == [noise(39), noise(37), noise(38)]


def test_two_loops(make, gate):
    z, store = make(20)
    held = gate()
    store.on_read = lambda offsets: held() if 0 in offsets else None
    both, found = threading.Barrier(2), []

    async def main(k):
        async def load(o):
            return await z.aload(o)

        first = asyncio.ensure_future(load(k))
        await asyncio.sleep(0)
        await asyncio.get_running_loop().run_in_executor(None, both.wait, 60)
        held.opened.set()
        found.append([await first, *await asyncio.gather(*(load(o) for o in range(2 + k, 20, 2)))])

    others = [threading.Thread(target=lambda k=k: run(main(k))) for k in range(2)]
    for t in others:
        t.start()
    for t in others:
        t.join(60)
    pages = [[noise(k), *(noise(o) for o in range(2 + k, 20, 2))] for k in range(2)]
    assert sorted(found) == sorted(pages)


def test_many_tasks(make):
    z, _ = make(64, promote="always")
    z.parameters["max_pool_bytes"] = "128KiB"

    async def task(k):
        rng = random.Random(k)
        for _ in range(60):
            o = k * 8 + rng.randrange(8)
            assert await z.aload(o) in (noise(o), noise(o + 1000))
            await z.astore(o, noise(o + rng.choice((0, 1000))))

    async def main():
        await asyncio.gather(*(task(k) for k in range(8)))

    run(main())
    z._validate()


# ---- failures ------------------------------------------------------------------------------------


def test_each_is_told_its_own_failure():
    with ZSwap(max_pool_bytes=32 * PAGE, shrinker_interval=NEVER) as z:

        async def main():
            return await asyncio.gather(
                *(z.astore(n, noise(n) if n % 2 else bytes(PAGE)) for n in range(100)),
                z.astore(5, noise(5), swap_type=3),
                return_exceptions=True,
            )

        done = run(main())
        assert done[0:100:2] == [None] * 50  # same-filled
        refused = [n for n in range(100) if done[n] is not None]
        assert refused
        for n in refused:
            assert isinstance(done[n], PoolLimitError)
            assert f"offset {n} " in str(done[n])
            assert n not in z
        assert isinstance(done[100], ValueError)


def test_a_store_that_fails(make):
    z, _ = make(4)

    async def main():
        with fault("BACKING_READ", error=errno.EIO, times=FOREVER):
            for o in range(2):
                with pytest.raises(BackingError, match=os.strerror(errno.EIO)):
                    await z.aload(o)
        assert await z.aload(1) == noise(1)
        z.parameters["enabled"] = False
        with fault("BACKING_WRITE", error=errno.ENOSPC, times=FOREVER):
            done = await asyncio.gather(
                *(z.astore(o, noise(9)) for o in range(2)), return_exceptions=True
            )
        for o, error in enumerate(done):
            assert isinstance(error, BackingError)
            assert error.errno == errno.ENOSPC
            assert f"offset {o}" in str(error)
        await z.astore(3, noise(9))  # written through
        assert await z.aload(3) == noise(9)

    run(main())
    assert sorted(z) == [2, 3]


def test_a_compressor_that_fails(codec):
    def compress(page):
        if page[0] == 1:
            raise RuntimeError("it fails")
        return page[:9]

    with ZSwap(codec(compress, lambda data: data * 456), **QUIET) as z:

        async def main():
            return await asyncio.gather(
                *(z.astore(n, bytes([n % 2, *range(255)] * 16)) for n in range(4)),
                return_exceptions=True,
            )

        done = run(main())
        assert (done[0], done[2]) == (None, None)
        assert isinstance(done[1], Error)
        assert isinstance(done[3], Error)

        async def load():
            await z.aload(0)

        with pytest.raises(PageCorruptError):
            run(load())


def test_the_page_goes_before_it_is_read(make, gate):
    z, store = make(3)
    held = gate()
    store.on_read = lambda offsets: held() if offsets == [0] else None

    async def main():
        tasks = [asyncio.ensure_future(z.aload(0))]
        await reached(held)
        tasks.append(asyncio.ensure_future(z.aload(1)))
        tasks.append(asyncio.ensure_future(z.aload(2, absent="zeros")))
        await asyncio.sleep(0)
        z.invalidate_range(1, 3)
        held.opened.set()
        first, second, third = await asyncio.gather(*tasks, return_exceptions=True)
        assert first == noise(0)
        assert isinstance(second, KeyError)
        assert third == bytes(PAGE)

    run(main())


def test_there_is_no_thread_to_be_had(make, monkeypatch):
    z, _ = make(1)

    def start(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="new thread"):
            run(z.aload(0))
    assert run(z.aload(0)) == noise(0)


# ---- cancellation --------------------------------------------------------------------------------


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_cancelled_load(make, gate, exclusive):
    z, store = make(3)
    held, out = gate(), bytearray(PAGE)
    store.on_read = held
    z.parameters["exclusive_loads"] = exclusive

    async def main():
        reading = asyncio.ensure_future(z.aload(0, out))
        await reached(held)
        waiting = asyncio.ensure_future(z.aload(1, out))
        await asyncio.sleep(0)
        for task in (reading, waiting):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        held.opened.set()
        assert await z.aload(2) == noise(2)

    run(main())
    assert out == bytes(PAGE)
    # the one was not read; what the other had taken is back
    assert [o for offsets in store.reads for o in offsets] == [0, 2]
    assert sorted(z) == ([0, 1] if exclusive else [0, 1, 2])
    assert z.load(0) == noise(0)


def test_a_cancelled_store(codec, gate):
    held = gate()

    def compress(page):
        held()
        return page

    with ZSwap(codec(compress), **QUIET) as z:

        async def main():
            compressing = asyncio.ensure_future(z.astore(0, noise(0)))
            await reached(held)
            waiting = asyncio.ensure_future(z.astore(1, noise(1)))
            await asyncio.sleep(0)
            for task in (compressing, waiting):
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            held.opened.set()
            await z.astore(2, noise(2))

        run(main())
        assert dict(z.items()) == {0: noise(0), 2: noise(2)}


def test_a_timeout(make, gate):
    z, store = make(2)
    held = gate()
    store.on_read = held

    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(z.aload(0), 0)
        task = asyncio.ensure_future(z.aload(0))
        await reached(held)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(task, 0)
        held.opened.set()
        assert await z.aload(1) == noise(1)

    run(main())


# ---- the end -------------------------------------------------------------------------------------


def test_close_ends_what_waits(make, gate, thread):
    z, store = make(3)
    held = gate()
    store.on_read = held

    async def main():
        first = asyncio.ensure_future(z.aload(0))
        await reached(held)
        rest = [asyncio.ensure_future(z.aload(1)), asyncio.ensure_future(z.astore(5, noise(5)))]
        await asyncio.sleep(0)
        closing = thread(z.close)
        while not z.closed:
            await asyncio.sleep(0)
        held.opened.set()
        done = await asyncio.gather(first, *rest, return_exceptions=True)
        closing.join()
        assert done[0] == noise(0)  # its call had begun
        for error in done[1:]:
            assert isinstance(error, ValueError)
            assert "closed" in str(error)
        for call in (z.aload(0), z.astore(0, noise(0))):
            with pytest.raises(ValueError, match="closed"):
                await call

    run(main())
    assert threads() == []
    z.close()


def test_the_loop_closes_it(make):
    z, _ = make(3)

    async def main():
        tasks = [asyncio.ensure_future(z.aload(o)) for o in range(3)]
        await asyncio.sleep(0)
        z.close()
        z.close()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(r, (bytes, ValueError)) for r in done)

    run(main())
    assert threads() == []


def test_a_close_that_the_beginning_does_not_see(make, monkeypatch):
    """It is closed after the first page was asked for, before there is a thread."""
    z, _ = make(1)
    real = zswap.aio.Batches

    def batches(engine):
        made = real(engine)
        engine.close()
        return made

    monkeypatch.setattr(zswap.aio, "Batches", batches)
    with pytest.raises(ValueError, match="closed"):
        run(z.aload(0))
    assert threads() == []


def test_the_last_reference_ends_the_thread(memory_store, until):
    z = ZSwap(backing=memory_store(), promote="never", **QUIET)
    z[0] = noise(0)
    z.shrink(1)
    assert run(z.aload(0)) == noise(0)
    assert len(threads()) == 1
    gone = weakref.ref(z)
    del z
    gc.collect()
    until(lambda: gone() is None and not threads())


def test_a_loop_that_has_ended(make, gate, until):
    z, store = make(3)
    held = gate()
    store.on_read = held
    z.parameters["exclusive_loads"] = True

    async def main():
        task = asyncio.ensure_future(z.aload(0))
        await reached(held)
        task.cancel()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    held.opened.set()
    assert run(z.aload(1)) == noise(1)
    until(lambda: 0 in z)  # nobody got it
    assert z.load(0) == noise(0)


@pytest.mark.usefixtures("whole_fork")
def test_fork(python):
    python("""
import asyncio, os, random, signal, sys, threading, zswap
noise = random.Random(1).randbytes(4096)
reading, on = threading.Event(), threading.Event()

class Store:
    def __init__(self):
        self.pages = {}
    def write_pages(self, offsets, pages):
        self.pages.update(zip(offsets.tolist(), [p.tobytes() for p in pages]))
    def read_pages(self, offsets, out):
        reading.set()
        assert on.wait(60)
        for o, page in zip(offsets.tolist(), out):
            page[:] = memoryview(self.pages[o])

z = zswap.ZSwap(backing=Store(), shrinker_interval=86400)
z.store_many([0, 1], noise * 2)
assert z.shrink(2) == 2

async def main():
    first = asyncio.ensure_future(z.aload(0))
    await asyncio.get_running_loop().run_in_executor(None, reading.wait, 60)
    second = asyncio.ensure_future(z.aload(1))
    await asyncio.sleep(0)
    pid = os.fork()
    if not pid:
        signal.alarm(20)
        code = 1
        try:
            for call in (z.aload(1), z.astore(1, noise)):
                try:
                    call.send(None)
                except ValueError as error:
                    assert "parent" in str(error), error
                else:
                    raise AssertionError("it went through")
            z.close()
            with zswap.ZSwap() as mine:
                mine[0] = noise
                assert mine[0] == noise
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    on.set()
    assert await first == await second == noise

asyncio.run(main())
z.close()
""")


def test_a_program_may_end_with_it(python):
    """Without a close, and with the thread waiting."""
    python("""
import asyncio, tempfile, zswap
z = zswap.ZSwap(backing=zswap.SwapFile(tempfile.mkdtemp() + "/swap", "1MiB"))
z[0] = bytes(range(256)) * 16
z.shrink(1)
async def main():
    await z.astore(1, bytes(4096))
    return await z.aload(0)
assert asyncio.run(main()) == bytes(range(256)) * 16
""")
