"""The codes of status.py, for C: what became of one page."""


cdef enum Status:
    STORED = 0
    SAME_FILLED = 1
    INCOMPRESSIBLE = 2
    WRITTEN_THROUGH = 3
    DISABLED = -1
    NO_AREA = -2
    POOL_LIMIT = -3
    ACCEPT_THRESHOLD = -4
    COMPRESS_POOR = -5
    COMPRESS_FAIL = -6
    ALLOC_FAIL = -7
    ENTRY_FAIL = -8
    ABSENT = -9
    CORRUPT = -10
    BACKING_FAIL = -11
    WOULD_BLOCK = -12
    BACKING_CORRUPT = -13
    AREA_QUOTA = -14


cdef enum:
    REASONS = 32                # refused stores are counted by -status, which is less
