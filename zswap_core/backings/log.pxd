"""What a packed swap file knows of its content, in memory."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zswap_core.abi cimport zsw_compressor
from zswap_core.os cimport zsw_mutex
from zswap_core.slab cimport zsw_slab


cdef enum:
    SEGMENT_BYTES = 1 << 20
    BLOCK = 4096                # what the file is read and written in
    UNIT = 16                   # objects begin at multiples of it, which no cipher block straddles
    HEAD_BYTES = 8              # before each object: whose it is, and how long
    CODECS = 256
    RAW = 0                     # the codec of pages that did not compress
    SEGMENTS = (1 << 24) - 1    # there can be

cdef enum segment_state:
    FREE
    OPENED                      # takes objects
    SEALED
    SHUNNED                     # it cannot be read as a whole, so it is left until it is empty


# An array that grows and shrinks by blocks, of which none moves.
cdef struct zsw_array:
    uint8_t **blocks            # there is room to name all that there could be
    size_t room                 # bytes of that
    size_t item
    uint32_t shift              # log2 of the items in a block
    uint32_t count              # blocks there are


# Where a page's object lies.
cdef struct zsw_record:
    uint32_t next               # in its bucket
    uint32_t sum
    uint64_t offset
    uint64_t place              # segment:24 | begins at UNIT:16 | length-1:16 | codec:8


cdef struct zsw_segment:
    uint64_t sequence           # new each time it is opened: what it is encrypted by
    uint32_t live               # bytes that its live objects take
    uint32_t objects            # how many those are
    uint32_t used               # bytes written, whole blocks
    uint32_t state


cdef struct zsw_codec:
    zsw_compressor compressor
    uint64_t objects
    uint32_t holds              # calls that are about to add or to read objects of it
    uint32_t flags              # of the objects


# What is written under `lock` alone may be looked at without.
cdef struct zsw_log:
    zsw_mutex lock              # a leaf but for the slab's; held for some microseconds
    zsw_slab records
    zsw_array heads             # of buckets: the first record in each
    uint32_t base               # a power of two; base <= buckets < 2 * base
    uint32_t buckets
    zsw_array segments
    uint32_t extent             # segments in the file
    uint32_t taken              # of these, not free
    uint32_t lowest             # no segment before this is free
    uint32_t dead               # sealed ones without an object
    uint32_t most               # segments there may be
    uint64_t objects
    uint64_t bytes              # of them, compressed
    uint64_t slots              # and as they lie in the file
    zsw_codec codecs[CODECS]


cdef extern from *:
    """
    #define ZSW_NOWHERE (~(uint64_t)0)          /* no place */
    #define ZSW_LOST (~(uint64_t)0 - 1)         /* that of an object that was found damaged */
    """
    const uint64_t NOWHERE "ZSW_NOWHERE"
    const uint64_t LOST "ZSW_LOST"


cdef inline uint32_t slot_bytes(uint32_t length) noexcept nogil:
    """What an object takes in a segment."""
    return (length + HEAD_BYTES + UNIT - 1) & ~<uint32_t> (UNIT - 1)


cdef inline uint64_t place_pack(uint32_t segment, uint32_t at, uint32_t length,
                                uint32_t codec) noexcept nogil:
    return (<uint64_t> segment << 40 | <uint64_t> (at // UNIT) << 24
            | <uint64_t> (length - 1) << 8 | codec)


cdef inline uint32_t place_segment(uint64_t place) noexcept nogil:
    return <uint32_t> (place >> 40)


cdef inline uint32_t place_at(uint64_t place) noexcept nogil:
    return (<uint32_t> (place >> 24) & 0xffff) * UNIT


cdef inline uint32_t place_length(uint64_t place) noexcept nogil:
    return (<uint32_t> (place >> 8) & 0xffff) + 1


cdef inline uint32_t place_codec(uint64_t place) noexcept nogil:
    return <uint32_t> place & 0xff


cdef inline void *array_at(const zsw_array *a, uint32_t i) noexcept nogil:
    return a.blocks[i >> a.shift] + <size_t> (i & ((<uint32_t> 1 << a.shift) - 1)) * a.item


cdef inline zsw_segment *segment_at(const zsw_log *log, uint32_t number) noexcept nogil:
    return <zsw_segment *> array_at(&log.segments, number)


cdef int log_init(zsw_log *log, uint64_t pages, uint32_t segments) noexcept nogil
cdef void log_destroy(zsw_log *log) noexcept nogil
cdef uint64_t log_bytes(zsw_log *log) noexcept nogil

# All below under `lock`.
cdef zsw_record *log_find(zsw_log *log, uint64_t offset) noexcept nogil
cdef uint64_t log_put(zsw_log *log, uint64_t offset, uint64_t place, uint32_t sum,
                      uint32_t *spare) noexcept nogil
cdef void log_move(zsw_log *log, zsw_record *record, uint64_t place) noexcept nogil
cdef uint64_t log_drop(zsw_log *log, uint64_t offset) noexcept nogil
cdef void log_clear(zsw_log *log) noexcept nogil
cdef int log_codec(zsw_log *log, const zsw_compressor *compressor, uint32_t flags) noexcept nogil
cdef bint log_uses(zsw_log *log, const zsw_compressor *compressor) noexcept nogil

# And those by the one who writes to the file.
cdef int segment_open(zsw_log *log, uint64_t sequence, uint32_t *number) noexcept nogil
cdef void segment_seal(zsw_log *log, uint32_t number, segment_state state) noexcept nogil
cdef void segment_free(zsw_log *log, uint32_t number) noexcept nogil
