"""Pages in, compressed; the same pages out."""

import zswap

page = b"a page that nobody has touched for a while. " * 94  # longer than a page
with zswap.ZSwap(compressor="lz4", max_pool_bytes="64MiB") as z:
    for offset in range(1000):
        z[offset] = offset.to_bytes(8, "little") + page[: z.page_size - 8]
    assert z[999].startswith((999).to_bytes(8, "little"))
    ratio = z.stats().compression_ratio
    print(f"{len(z)} pages of {z.page_size} bytes, held {ratio:.1f} times smaller")
