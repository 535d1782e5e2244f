"""The storm: every public method from six threads on one engine, while others close it, take its
areas off and on, switch its compressor, lower its limit, and its backing stores fail.  Nothing may
crash, hang, or give a page that was never stored.

    python tests/core/test_storm.py [CALLS] [SEED]

makes four million calls unless told, with a line of figures for each minute.
"""

import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter

import numpy as np
import pytest

import zswap

pytestmark = pytest.mark.slow

PAGE = 4096
THREADS = 6
OFFSETS = 64
TOLD = (
    ValueError, KeyError, zswap.PoolLimitError, zswap.BackingError, zswap.PageCorruptError,
    zswap.Error, RuntimeError, MemoryError
)  # fmt: skip


def page_for(offset, version):
    """A page that says which it is, of one of three kinds: packed, raw, same-filled."""
    if version % 3 == 2:
        return (offset << 32 | version).to_bytes(8, "little") * (PAGE // 8)
    head = f"{offset}.{version}.".encode()
    body = random.Random(version % 16).randbytes(3900 if version % 3 else 600)
    return (head + body).ljust(PAGE, b".")


PAGES = {
    (offset, version): page_for(offset, version)
    for offset in range(OFFSETS)
    for version in range(24)
}
KNOWN = {page: offset for (offset, _), page in PAGES.items()}


class Flaky:
    """A backing store in Python that fails now and then."""

    def __init__(self, rng):
        self.rng, self.pages = rng, {}

    def write_pages(self, offsets, pages):
        if self.rng.random() < 0.2:
            raise OSError(self.rng.choice((5, 28)), "flaky")
        for offset, page in zip(offsets.tolist(), pages, strict=True):
            self.pages[offset] = page.tobytes()

    def read_pages(self, offsets, out):
        if self.rng.random() < 0.1:
            raise OSError(5, "flaky")
        for offset, page in zip(offsets.tolist(), out, strict=True):
            page[:] = memoryview(self.pages.get(offset, bytes(PAGE)))


class Cut:
    """A swap file that somebody cuts off: from then on reads and writes fail."""

    def __init__(self, folder, rng):
        self.path = f"{folder}/{rng.getrandbits(60):x}"
        self.file = zswap.SwapFile(self.path, OFFSETS * PAGE)
        if rng.random() < 0.7:
            os.truncate(self.path, PAGE)


class Storm:
    """Rounds of one engine each, which ends when somebody has closed it."""

    def __init__(self, seed, folder):
        self.rng, self.folder = random.Random(seed), folder
        self.calls, self.ended, self.told, self.wrong = 0, 0, Counter(), []

    def backing(self, rng):
        kind = rng.randrange(4)
        if kind == 0:
            return None
        if kind == 1:
            return Flaky(rng)
        cut = Cut(self.folder, rng)
        self.paths.append(cut.path)
        return cut.file

    def check(self, offset, page):
        page = bytes(page)
        if KNOWN.get(page) != offset:
            self.wrong.append((offset, page[:40]))

    def methods(self, z, rng):
        """What a thread calls, and how often."""
        out, status = np.empty((8, PAGE), np.uint8), np.empty(8, np.int8)

        def some():
            return rng.randrange(OFFSETS)

        def put():
            offset = some()
            z.store(offset, PAGES[offset, rng.randrange(24)])

        def get():
            offset = some()
            self.check(offset, z.load(offset))

        def fill():
            offset = some()
            self.check(offset, z.load(offset, out[0]))

        def put_many():
            offsets = [some() for _ in range(8)]
            z.store_many(
                offsets,
                b"".join(PAGES[o, rng.randrange(24)] for o in offsets),
                threads=rng.choice((1, 1, 1, 2)),
            )

        def get_many():
            offsets = [some() for _ in range(8)]
            z.load_many(offsets, out=out, status=status, threads=rng.choice((1, 1, 1, 2)))
            for i, offset in enumerate(offsets):
                if status[i] >= 0:
                    self.check(offset, out[i])

        def put_row():
            offset, one = rng.randrange(OFFSETS - 3), rng.randrange(24)
            data = b"".join(PAGES[offset + k, one] for k in range(3))
            at = rng.randrange(3 * PAGE)
            z.storev(offset, [data[:at], data[at:]])

        def get_row():
            offset, pages = rng.randrange(OFFSETS - 3), np.empty((3, PAGE), np.uint8)
            z.loadv(offset, [pages])
            for k in range(3):
                self.check(offset + k, pages[k])

        def take():
            offset = some()
            page = z.pop(offset, None)
            if page is not None:
                self.check(offset, page)

        def drain():
            for _ in z.swapoff(rng.randrange(1, 4), drain=True):
                pass

        def look():
            for _, offset in zip(range(5), z, strict=False):
                assert 0 <= offset < OFFSETS

        def limit():
            z.parameters["max_pool_bytes"] = rng.choice((1 << 16, 1 << 18, 1 << 20))
            z.parameters["max_memory_bytes"] = rng.choice((None, None, "2MiB", "auto:1MiB", "auto"))

        often = [
            put,
            get,
            fill,
            lambda: z.invalidate(some()),
            lambda: some() in z,
            lambda: z.get(some()),
            take,
        ]
        also = [
            put_many, get_many, put_row, get_row,
            lambda: z.invalidate_many([some(), some()]), lambda: len(z),
            lambda: z.compressed_sizes([some()]),
            lambda: z.invalidate_range(some(), some()),
            lambda: z.setdefault(o := some(), PAGES[o, 0]), z.stats, z.pools, look,
            lambda: z.update({(o := some()): PAGES[o, 1]}),
            lambda: z.store(o := some(), PAGES[o, 3], swap_type=rng.randrange(1, 4)),
            lambda: z.load(some(), swap_type=rng.randrange(1, 4)),
            lambda: z.store_part(o := some(), 0, PAGES[o, 4], absent="zeros"),
            lambda: self.check(o := some(), z.load_part(o, 0, PAGE)),
        ]  # fmt: skip
        seldom = [
            z.compact, lambda: z.shrink(16), lambda: z.shrink(4, idle_seconds=1), z.latency,
            z.numa_pages, z.popitem, z.clear,
            lambda: z.recompress("zstd:1", max_pages=8), lambda: z.swapoff(rng.randrange(1, 4)),
            limit, drain, lambda: repr(z),
            lambda: z.swapon(rng.randrange(1, 4), backing=self.backing(rng)),
            lambda: z.swapon(rng.randrange(1, 4)),
            lambda: setattr(z, "compressor", rng.choice(("lz4", "zstd:1", "lz4hc:3"))),
            lambda: z.invalidate_area(rng.randrange(4)),
            lambda: setattr(z, "zpool", rng.choice(("zsmalloc", "zbud", "z3fold"))),
            lambda: z.parameters.update(
                exclusive_loads=rng.random() < 0.3, latency=rng.random() < 0.3),
            lambda: z == {1: b"x"}, lambda: z.closed,
        ]  # fmt: skip
        return often, also, seldom

    def work(self, z, seed, last, end):
        rng = random.Random(seed)
        often, also, seldom = self.methods(z, rng)
        told, calls = Counter(), 0
        while True:
            roll = rng.random()
            call = rng.choice(often if roll < 0.9 else also if roll < 0.985 else seldom)
            calls += 1
            if calls == last:
                call = z.close
            try:
                call()
            except TOLD as error:
                told[type(error).__name__] += 1
                if z.closed:
                    break
            except BaseException as error:
                self.wrong.append(repr(error))
                break
            if self.wrong or (calls > last and z.closed):
                break
        with end:
            self.calls += calls
            self.told += told

    def round(self, length):
        """One engine, from its making to its end; somebody closes it after about `length` calls of
        his."""
        rng, self.paths = self.rng, []
        z = zswap.ZSwap(
            rng.choice(("lz4", "zstd:1")), rng.choice(("zsmalloc", "zbud", "z3fold")),
            max_pool_bytes=rng.choice((1 << 16, 1 << 20)), backing=self.backing(rng),
            shrinker_interval=0.01,
            checksum=rng.random() < 0.3, wipe_on_free=rng.random() < 0.3,
        )  # fmt: skip
        end, closer = threading.Lock(), rng.randrange(THREADS)
        lasts = [
            rng.randrange(length // 2, length) if i == closer else 1 << 60 for i in range(THREADS)
        ]
        threads = [
            threading.Thread(target=self.work, args=(z, rng.random(), last, end), daemon=True)
            for last in lasts
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive(), "a call hangs"
        assert z.closed
        self.ended += 1
        for path in self.paths:
            os.unlink(path)


def storm(calls, seed, length=400, every=60.0, engines=0):
    """Blow until so many calls were made and so many engines have ended; returns the Storm."""
    begun = told = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="zswap-storm.") as folder:
        it = Storm(seed, folder)
        while (it.calls < calls or it.ended < engines) and not it.wrong:
            it.round(length)
            if time.monotonic() - told > every:
                told = time.monotonic()
                print(
                    f"{it.calls:,} calls, {it.ended:,} engines, {told - begun:.0f} s, "
                    f"{dict(it.told)}",
                    flush=True,
                )
    return it


def test_storm(eager_switches):
    it = storm(30_000, 11, engines=11)  # how many calls each of them gets is up to the scheduler
    assert not it.wrong, it.wrong[:3]
    assert it.ended > 10
    assert {"ValueError", "KeyError", "BackingError"} <= set(it.told)


if __name__ == "__main__":
    import faulthandler

    faulthandler.enable()
    sys.setswitchinterval(1e-4)
    blown = storm(
        int(sys.argv[1]) if len(sys.argv) > 1 else 4_000_000,
        int(sys.argv[2]) if len(sys.argv) > 2 else 1,
        1000,
    )
    print(
        f"{blown.calls:,} calls, {blown.ended:,} engines: {blown.wrong[:3] or 'nothing wrong'}; "
        f"{dict(blown.told)}"
    )
    sys.exit(bool(blown.wrong))
