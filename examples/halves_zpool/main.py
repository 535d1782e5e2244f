"""Stores pages through zswap with an allocator that zswap has never heard of."""

import halves_zpool

import zswap

PAGE = 4096


def main():
    zswap.register_zpool("halves", factory=halves_zpool.capsule)
    pages = [bytes([n % 251]) * 1500 + bytes(range(256)) * 10 + bytes(36) for n in range(1000)]
    with zswap.ZSwap(zpool="halves", max_pool_bytes="16MiB") as z:
        for offset, page in enumerate(pages):
            z.store(offset, page)
        for offset in range(0, len(pages), 3):
            z.invalidate(offset)
        for offset, page in enumerate(pages):
            assert offset % 3 == 0 or z.load(offset) == page
        (pool,) = z.pools()
        print(f"{len(z)} pages stored in {pool.total_size // PAGE} pages of {pool.zpool}")


if __name__ == "__main__":
    main()
