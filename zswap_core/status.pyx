# cython: language_level=3
"""The status codes, as Python sees them."""

Status.__doc__ = """What became of a page of a batch: held where >= 0, refused or absent where < 0.

Attributes
----------
STORED : 0
    Held, compressed.
SAME_FILLED : 1
    Held as the one word that it consists of.
INCOMPRESSIBLE : 2
    Held raw.
WRITTEN_THROUGH : 3
    Refused, and written to the area's backing store instead.
DISABLED : -1
    Refused: the parameter ``enabled`` is off, or the one for pages of its kind.
NO_AREA : -2
    There is no such swap area, it is going offline, or the offset lies beyond its end.
POOL_LIMIT : -3
    Refused: the pool is at its limit.
ACCEPT_THRESHOLD : -4
    Refused: the pool was at its limit and has not fallen to the accept threshold since.
COMPRESS_POOR : -5
    Refused: it would take a whole page, and ``reject_compress_poor`` is on; or the allocator has no
    room that large.
COMPRESS_FAIL : -6
    Refused: the compressor failed.
ALLOC_FAIL : -7
    No memory for the page.
ENTRY_FAIL : -8
    No memory for its entry or the index.
ABSENT : -9
    Nothing is held at that offset.
CORRUPT : -10
    It is damaged in memory: it does not decompress to what was stored.  The entry is kept.
BACKING_FAIL : -11
    The backing store failed to write or read the page.
WOULD_BLOCK : -12
    Of use inside the engine alone: no call returns it.
BACKING_CORRUPT : -13
    What the backing store gave back is not what was written there.  It is kept there.

After a store with a negative status nothing is held at that offset.
"""
