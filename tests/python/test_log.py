"""What an engine says to the logger `zswap`: once, until it changes; and that no handler can do
harm."""

import errno
import logging
import os

import numpy as np
import pytest

import zswap

PAGE = 4096


class Store:
    """A backing store that works or not, as one says."""

    def __init__(self):
        self.pages, self.write_error, self.read_error = {}, None, None

    def write_pages(self, offsets, pages):
        if self.write_error:
            raise self.write_error
        self.pages.update(zip(map(int, offsets), (bytes(page) for page in pages), strict=True))

    def read_pages(self, offsets, out):
        if self.read_error:
            raise self.read_error
        for i, offset in enumerate(offsets):
            out[i] = np.frombuffer(self.pages[int(offset)], np.uint8)


@pytest.fixture
def said(caplog):
    """What was said since the last look."""

    def since():
        texts = [record.getMessage() for record in caplog.records if record.name == "zswap"]
        caplog.clear()
        return texts

    return since


@pytest.fixture
def full(engine):
    """An engine at its limit, without a backing store."""

    def make(**options):
        z = engine(max_pool_bytes="64KiB", shrinker_enabled=False, **options)
        for offset in range(16):
            z[offset] = os.urandom(PAGE)
        return z

    return make


def refused(z, offset=99):
    with pytest.raises(zswap.PoolLimitError):
        z[offset] = os.urandom(PAGE)


def test_nothing_by_default(engine, said):
    z = engine()
    z[1] = b"x" * PAGE
    assert z[1] == b"x" * PAGE
    with pytest.raises(KeyError):
        z[2]
    z.stats()
    assert said() == []


def test_nothing_by_default_when_there_is_something(full, capfd, monkeypatch):
    """Nobody configured logging, and Python's last resort, stderr, hears nothing."""
    log = logging.getLogger("zswap")
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(log, "propagate", False)
    refused(full())
    assert capfd.readouterr().err == ""
    assert [type(handler) for handler in log.handlers] == [logging.NullHandler]


def test_the_limit_once(full, said):
    z = full()
    assert said() == []
    for _ in range(5):
        refused(z)
    limit, refusal = said()
    assert "reached its limit of 64.0 KiB" in limit
    assert "pages are refused" in refusal
    assert "raise max_pool_bytes" in refusal
    # Another limit is another matter.
    z.parameters["max_pool_bytes"] = "128KiB"
    for offset in range(16, 32):
        z[offset] = os.urandom(PAGE)
    assert said() == []
    refused(z)
    assert "128.0 KiB" in said()[0]


def test_the_limit_in_a_batch(engine, said):
    z = engine(max_pool_bytes="64KiB", shrinker_enabled=False)
    status = z.store_many(range(99), os.urandom(99 * PAGE))
    assert (status < 0).sum() == 83
    assert len(said()) == 2
    z.store_many(range(99), os.urandom(99 * PAGE))
    assert len(said()) <= 1  # in between it was down to the threshold, perhaps


def test_the_limit_with_a_store(engine, said):
    z = engine(
        max_pool_bytes="64KiB", shrinker_enabled=False, direct_reclaim=False, backing=Store()
    )
    z.store_many(range(99), os.urandom(99 * PAGE))
    assert ["reached its limit" in text for text in said()] == [True]


def test_every_reason_once(engine, said):
    z = engine()
    z.parameters["enabled"] = False
    for _ in range(3):
        with pytest.raises(zswap.Error):
            z[1] = os.urandom(PAGE)
    assert ["'enabled' is off" in text for text in said()] == [True]
    z.parameters["enabled"] = True
    z.parameters["reject_compress_poor"] = True
    for _ in range(3):
        z.store_many([1, 2], os.urandom(2 * PAGE))
    assert ["does not compress" in text for text in said()] == [True]


def test_a_store_that_fails_and_recovers(engine, said):
    store = Store()
    z = engine(backing=store, shrinker_enabled=False)
    pages = [os.urandom(PAGE) for _ in range(8)]
    for offset, page in enumerate(pages):
        z[offset] = page
    store.write_error = OSError(errno.ENOSPC, "it is full")
    for _ in range(3):
        assert z.shrink(4) == 0
    (text,) = said()
    assert "backing store Store, of swap area 0, fails to write pages" in text
    assert "it is full" in text
    store.write_error = None
    assert z.shrink(4) == 4
    z.shrink(4)
    (text,) = said()
    assert "of swap area 0, writes pages again" in text
    # Reads are another matter.
    store.read_error = RuntimeError("gone")
    for _ in range(3):
        with pytest.raises(zswap.BackingError):
            z[0]
    (text,) = said()
    assert "fails to read pages: gone" in text
    store.read_error = None
    assert z[0] == pages[0]
    assert ["reads pages again" in text for text in said()] == [True]


def test_what_the_engines_own_thread_finds(engine, said, until):
    """It is told by the next call, or by stats()."""
    store = Store()
    store.write_error = OSError(errno.EIO, "broken")
    z = engine(max_pool_bytes="64KiB", backing=store, shrinker_interval=0.001)
    for offset in range(16):
        z[offset] = os.urandom(PAGE)
    with pytest.raises(zswap.BackingError):
        z[99] = os.urandom(PAGE)  # hits the limit, which wakes the thread
    texts = said()
    assert any("fails to write" in text for text in texts)
    store.write_error = None
    until(lambda: z.stats().written_back_pages > 0)
    z.stats()
    assert ["writes pages again" in text for text in said()] == [True]


def test_a_store_that_comes_and_goes_is_not_told_of_for_ever(engine, said, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("zswap.log.time.monotonic", lambda: now)
    store = Store()
    z = engine(backing=store, shrinker_enabled=False)
    for offset in range(100):
        z[offset] = os.urandom(PAGE)

    def fail_once():
        store.write_error = OSError(errno.ENOSPC, "it is full")
        assert z.shrink(1) == 0
        store.write_error = None
        assert z.shrink(1) == 1
        return len(said())

    assert [fail_once() for _ in range(20)] == [2] * 8 + [0] * 12
    now += 61
    assert fail_once() == 2


def test_areas_are_told_apart(engine, said):
    stores = [Store(), Store()]
    z = engine(backing=stores[0], shrinker_enabled=False)
    z.swapon(7, backing=stores[1])
    stores[1].write_error = OSError(errno.EIO, "broken")
    z.store(1, os.urandom(PAGE), swap_type=7)
    z.shrink(1)
    assert ["of swap area 7" in text for text in said()] == [True]
    z.swapoff(7)
    z.swapon(7, backing=Store())  # another one, which works
    z.store(1, os.urandom(PAGE), swap_type=7)
    assert z.shrink(1) == 1
    assert said() == []


@pytest.mark.parametrize("what", ["calls back", "raises", "closes"])
def test_a_handler_does_no_harm(full, what):
    z = full()
    page = z[3]
    seen = []

    class Handler(logging.Handler):
        def emit(self, record):
            seen.append(record)
            if what == "raises":
                raise RuntimeError("this handler is broken")
            if what == "closes":
                z.close()
            else:
                assert z[3] == page
                refused(z, 100)
                z.stats()

    handler = Handler()
    logging.getLogger("zswap").addHandler(handler)
    try:
        refused(z)
    finally:
        logging.getLogger("zswap").removeHandler(handler)
    assert len(seen) == 2
    if what == "closes":
        assert z.closed
    else:
        assert z[3] == page
        assert z.invalidate(3)


def test_a_handler_inside_a_call_of_a_store(engine):
    """The engine is called from a store's method, has something to say, and a handler closes it:
    refused, and all goes on."""
    raised = []

    class Nested(Store):
        def write_pages(self, offsets, pages):
            super().write_pages(offsets, pages)
            z.parameters["enabled"] = False
            with pytest.raises(zswap.Error):
                z.store(1 << 20, os.urandom(PAGE), swap_type=1)
            z.parameters["enabled"] = True

    class Handler(logging.Handler):
        def emit(self, record):
            try:
                z.close()
            except RuntimeError as error:
                raised.append(str(error))

    z = engine(backing=Nested(), shrinker_enabled=False)
    z.swapon(1)
    z[0] = os.urandom(PAGE)
    handler = Handler()
    logging.getLogger("zswap").addHandler(handler)
    try:
        assert z.shrink(1) == 1
    finally:
        logging.getLogger("zswap").removeHandler(handler)
    assert len(raised) == 1
    assert "from inside a call" in raised[0]
    assert len(z) == 1
