"""Ctrl-C during long calls: it comes through soon, what was done until then holds, and nothing is
lost.

`interrupt_main` is to Python what the signal is.  It comes while the main thread waits at a gate,
inside a call, without the GIL; so each time it is the same page at which it comes.
"""

import _thread
import random

import numpy as np
import pytest

from hooks.parts import Codec
from zswap import Status, SwapFile

PAGE = 4096
SLICE = 16384  # pages between two looks for signals


@pytest.fixture
def gated(codec):
    """Make a compressor with gates; returns its name and itself."""

    def make():
        made = Codec()
        return codec(factory=made.capsule), made

    return make


@pytest.fixture
def interrupted(thread, until):
    """Run a call that comes to a gate; while it waits there Ctrl-C is pressed, then the gate
    opens."""

    def run(codec, gate, call):
        def press():
            until(lambda: codec.compressing if gate == "hold_compress" else codec.decompressing)
            _thread.interrupt_main()
            setattr(codec, gate, False)

        setattr(codec, gate, True)
        presser = thread(press)
        try:
            with pytest.raises(KeyboardInterrupt):
                call()
        finally:
            setattr(codec, gate, False)
            presser.join()

    return run


def text(n):
    return (b"page %d " % n * 500)[: PAGE - 200].ljust(PAGE, b".")


@pytest.mark.parametrize("threads", [1, 2])
def test_store_many(engine, gated, interrupted, threads):
    name, codec = gated()
    z = engine(name)
    z[3 * SLICE - 1] = text(7)
    pages = np.zeros((3 * SLICE, PAGE), np.uint8)
    pages[5] = np.frombuffer(text(5), np.uint8)
    interrupted(
        codec, "hold_compress", lambda: z.store_many(range(3 * SLICE), pages, threads=threads)
    )
    assert list(z) == [*range(SLICE), 3 * SLICE - 1]
    assert z[5] == text(5)
    assert z[3 * SLICE - 1] == text(7)
    z._validate()
    assert (z.store_many(range(3 * SLICE), pages, threads=threads) >= 0).all()
    assert len(z) == 3 * SLICE


def test_load_many(engine, gated, interrupted):
    name, codec = gated()
    z = engine(name)
    z.store_many(range(2 * SLICE), np.zeros((2 * SLICE, PAGE), np.uint8))
    z[5] = text(5)
    status = np.full(2 * SLICE, 99, np.int8)
    out = np.empty((2 * SLICE, PAGE), np.uint8)
    z.parameters["exclusive_loads"] = True
    interrupted(codec, "hold_decompress", lambda: z.load_many(range(2 * SLICE), out, status=status))
    assert (status[:SLICE] >= 0).all()
    assert (status[SLICE:] == 99).all()
    assert out[5].tobytes() == text(5)
    assert len(z) == SLICE


def test_invalidate_many(engine, memory_store):
    store = memory_store()
    z = engine(backing=store)
    z[0] = text(0)
    assert z.shrink(1) == 1
    z.store_many(range(1, 2 * SLICE), np.zeros((2 * SLICE - 1, PAGE), np.uint8))
    store.on_discard = lambda offsets: _thread.interrupt_main()
    with pytest.raises(KeyboardInterrupt):
        z.invalidate_many(range(2 * SLICE))
    assert list(z) == list(range(SLICE, 2 * SLICE))
    assert z.stats().backed_pages == 0


def test_recompress(engine, gated, interrupted):
    name, codec = gated()
    z = engine(max_pool_bytes="64MiB")
    pages = [
        random.Random(n).randbytes(PAGE // 2 + 16) + bytes(PAGE // 2 - 16) for n in range(3000)
    ]
    z.parameters["same_filled_pages_enabled"] = False
    z.store_many(range(3000), b"".join(pages))
    z.store_many(range(5000, 8000), np.zeros((3000, PAGE), np.uint8))
    interrupted(codec, "hold_compress", lambda: z.recompress(name))
    moved = sum(pool.stored_pages for pool in z.pools() if not pool.current)
    assert 0 < moved < 6000
    z._validate()
    assert z.load_many(range(3000)).tobytes() == b"".join(pages)
    assert z.recompress(name).moved > 0


def test_shrink_into_a_file(engine, gated, interrupted, tmp_path):
    name, codec = gated()
    with SwapFile(tmp_path / "swap", 1000 * PAGE) as file:
        z = engine(name, backing=file)
        for n in range(600):
            z[n] = text(n)
        interrupted(codec, "hold_decompress", lambda: z.shrink(600))
        assert z.stats().backed_pages == 600  # fewer than would be worth stopping for
        z._validate()
        assert [z[n] for n in range(600)] == [text(n) for n in range(600)]
        z.close()


def test_shrink_into_a_store_in_python(engine, memory_store):
    store = memory_store()
    z = engine(backing=store)
    for n in range(600):
        z[n] = text(n)
    store.on_write = lambda offsets: _thread.interrupt_main()
    with pytest.raises(KeyboardInterrupt):
        z.shrink(600)
    store.on_write = lambda offsets: None
    z._validate()
    assert z.stats().stored_pages + z.stats().backed_pages == 600
    assert z.stats().reject_reclaim_fail > 0
    assert [z[n] for n in range(600)] == [text(n) for n in range(600)]


def test_a_handler_that_closes_the_engine(engine, gated, thread, until):
    import signal

    name, codec = gated()
    z = engine(name)
    pages = np.zeros((2 * SLICE, PAGE), np.uint8)
    pages[0] = np.frombuffer(text(0), np.uint8)

    def press():
        until(lambda: codec.compressing)
        signal.raise_signal(signal.SIGUSR1)
        codec.hold_compress = False

    before = signal.signal(signal.SIGUSR1, lambda *_: z.close())
    codec.hold_compress = True
    presser = thread(press)
    try:
        with pytest.raises(ValueError, match="closed"):
            z.store_many(range(2 * SLICE), pages)
    finally:
        codec.hold_compress = False
        presser.join()
        signal.signal(signal.SIGUSR1, before)
    assert z.closed


def test_a_status_for_each_page_when_nobody_interrupts(engine):
    z = engine()
    n = 2 * SLICE + 1
    pages = np.zeros((n, PAGE), np.uint8)
    ns = np.zeros(n, np.uint32)
    assert (z.store_many(range(n), pages, ns=ns) == Status.SAME_FILLED).all()
    assert (ns > 0).any()
    assert not z.load_many(range(n)).any()
    assert z.invalidate_many(range(n)) == n
