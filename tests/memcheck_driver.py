"""A small program over the whole core, for valgrind: `bash .ci/run memcheck`.  Not a test by
itself."""

import random
import sys
import tempfile
import threading
from pathlib import Path

import hooks  # noqa: F401 (it makes _validate)
import zswap

PAGE = 4096
rng = random.Random(1)
pages = [bytes([n]) * PAGE for n in range(4)]
pages += [(b"page %d " % n * 999)[: rng.randrange(100, PAGE)].ljust(PAGE, b".") for n in range(60)]
pages += [rng.randbytes(rng.randrange(1, PAGE + 1)).ljust(PAGE, b"\0") for n in range(60)]
N = len(pages)


class Store(dict):
    """A backing store."""

    def write_pages(self, offsets, data):
        """Keep pages."""
        self.update((o, bytes(page)) for o, page in zip(offsets.tolist(), data, strict=True))

    def read_pages(self, offsets, out):
        """Give pages back."""
        for o, page in zip(offsets.tolist(), out, strict=True):
            page[:] = memoryview(self[o])


def drive(compressor, zpool, backing):
    """Call every public operation of one engine."""
    with zswap.ZSwap(
        compressor,
        zpool,
        max_pool_bytes="16MiB",
        backing=backing,
        shrinker_enabled=False,
        latency=True,
    ) as z:
        for n, page in enumerate(pages):
            if zpool != "zbud" or n < 64:
                z[n] = page
        status = z.store_many(range(1000, 1000 + N), b"".join(pages), threads=2)
        held = [n for n in range(N) if status[n] >= 0]
        assert z.load_many([1000 + n for n in held]).tobytes() == b"".join(pages[n] for n in held)
        z.invalidate_many(range(1000, 1000 + N, 3))
        z.shrink(40)
        z.recompress("deflate:9", max_pages=10)
        z.zpool = "zsmalloc"
        z.store_many(range(20000, 20000 + N), b"".join(pages))
        z.invalidate_range(20010, 20050)
        z.compact()
        assert {n: z[n] for n in z if n < N} == {n: pages[n] for n in z if n < N}
        z.storev(200, [pages[70][:100], pages[5], pages[80] + b"x"])
        z.shrink(2)
        z.store_part(200, 90, b"part")
        z.store_part(209, 90, b"part", absent="zeros")
        assert z.load_part(200, 89, 6) == pages[70][89:90] + b"part" + pages[70][94:95]
        begin, rest = bytearray(90), bytearray(10 + 2 * PAGE + 1)
        z.loadv(200, [begin, rest])
        assert begin == pages[70][:90]
        assert rest[10:] == pages[5] + pages[80] + b"x"
        z.swapon(3)
        z.store(1 << 46, pages[50], swap_type=3)
        assert dict(z.swapoff(3, drain=True)) == {1 << 46: pages[50]}
        z.stats(), z.pools(), z.latency(), list(z)
        z._validate()
        threads = [
            threading.Thread(
                target=lambda k=k: [
                    z.store(k * 100 + n, pages[n + 10]) or z.load(k * 100 + n) for n in range(40)
                ]
            )
            for k in (50, 51)
        ]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        z._validate()
        z.clear()
        z._validate()


def main():
    """Drive each compressor and each zpool, with each kind of backing store."""
    with tempfile.TemporaryDirectory() as folder:
        for n, compressor in enumerate(c.name for c in zswap.compressors() if c.available):
            zpool = ["zsmalloc", "zsmalloc-kernel", "z3fold", "zbud", "zsmalloc:4"][n % 5]
            file = Path(folder) / str(n)
            with zswap.SwapFile(file, 30000 * PAGE, direct=bool(n % 2)) as swap:
                drive(compressor, zpool, [swap, Store(), None][n % 3])
    print("done")


if __name__ == "__main__":
    sys.exit(main())
