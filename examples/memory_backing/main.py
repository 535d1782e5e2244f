"""Lets an engine write back to a store that zswap has never heard of."""

import os

import memory_backing

import zswap

PAGE = 4096


def main():
    zswap.register_backing("memory", factory=memory_backing.capsule)
    pages = [os.urandom(PAGE // 2) + bytes(PAGE // 2) for n in range(1000)]
    with zswap.ZSwap(backing="memory:2000", max_pool_bytes="1MiB") as z:
        for offset, page in enumerate(pages):
            z.store(offset, page)
        for offset, page in enumerate(pages):
            assert z.load(offset) == page
        stats = z.stats()
        print(f"{stats.stored_pages} pages in the pool, {stats.backed_pages} in the store")
        assert stats.backed_pages > 0


if __name__ == "__main__":
    main()
