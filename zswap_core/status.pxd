# cython: language_level=3
"""What became of one page.  The only list of these codes; Python sees it as zswap.Status."""


cpdef enum Status:
    STORED = 0              # held, compressed
    SAME_FILLED = 1         # held as one word
    INCOMPRESSIBLE = 2      # held raw
    WRITTEN_THROUGH = 3     # refused, and written to the area's backing store instead
    DISABLED = -1           # the `enabled` parameter is off, or the one for pages of its kind
    NO_AREA = -2            # no such swap area, or the offset lies beyond its end
    POOL_LIMIT = -3         # the pool is at its limit
    # the pool was at its limit and has not fallen to the accept threshold since
    ACCEPT_THRESHOLD = -4
    # would take a whole page, and `reject_compress_poor` is on; or the allocator has no room that
    # large
    COMPRESS_POOR = -5
    COMPRESS_FAIL = -6      # the compressor failed
    ALLOC_FAIL = -7         # no memory for the page
    ENTRY_FAIL = -8         # no memory for its entry or the index
    ABSENT = -9             # nothing held at that offset
    CORRUPT = -10           # it does not decompress to what was stored; the entry is kept
    BACKING_FAIL = -11      # the backing store failed to write or read the page
    WOULD_BLOCK = -12       # must wait for others, and the caller holds the GIL: never seen outside
    # what the backing store gave back is not what was written there; it is kept
    BACKING_CORRUPT = -13
