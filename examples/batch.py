"""An array larger than it needs to be: held compressed, fetched in any order, many pages a call."""

import numpy as np

import zswap

PAGE = 4096


def main():
    readings = np.cumsum(np.random.default_rng(1).integers(-3, 4, 8_000_000), dtype=np.int64)
    pages = readings.view(np.uint8).reshape(-1, PAGE)
    offsets = np.arange(len(pages))

    with zswap.ZSwap(compressor="zstd:1", max_pool_bytes=pages.nbytes) as z:
        status = z.store_many(offsets, pages, threads=2)
        assert (status >= 0).all(), f"{np.count_nonzero(status < 0)} pages were refused"

        wanted = np.random.default_rng(2).permutation(len(pages))[:1000]
        out = np.empty((len(wanted), PAGE), np.uint8)
        z.load_many(wanted, out=out, threads=2)
        assert np.array_equal(out, pages[wanted])
        print(z.stats())


if __name__ == "__main__":
    main()
