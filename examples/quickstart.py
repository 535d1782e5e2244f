"""Pages in, compressed; the same pages out."""

import zswap

page = b"cold page " * 409 + b"......"  # 4096 bytes
with zswap.ZSwap(compressor="lz4", max_pool_bytes="64MiB") as z:
    for offset in range(1000):
        z[offset] = offset.to_bytes(8, "little") + page[8:]
    assert z[999] == (999).to_bytes(8, "little") + page[8:]
    print(len(z), "pages,", z.stats().compression_ratio, "times smaller")
