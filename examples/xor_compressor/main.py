"""Stores pages through zswap with a compressor that zswap has never heard of."""

from array import array

import xor_compressor

import zswap

PAGE = 4096


def main():
    zswap.register_compressor("xor", factory=xor_compressor.capsule)
    # Counters that rarely move: each word repeats for a while.
    pages = [
        array("Q", (n * 1000 + i // 16 for i in range(PAGE // 8))).tobytes() for n in range(1000)
    ]
    with zswap.ZSwap(compressor="xor") as z:
        for offset, page in enumerate(pages):
            z.store(offset, page)
        for offset, page in enumerate(pages):
            assert z.load(offset) == page
        print(f"{len(z)} pages stored, compression ratio {z.stats().compression_ratio:.1f}")


if __name__ == "__main__":
    main()
