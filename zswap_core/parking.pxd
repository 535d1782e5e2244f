"""Pages that wait to be read from their backing store together."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zswap_core.index cimport zsw_area, zsw_shard
from zswap_core.state cimport zsw_engine


cdef enum:
    PARKED_PAGES = 256          # that are read together, at most,
    PARKED_BYTES = 1 << 20      # and so many bytes


# A page that its backing store has.
cdef struct zsw_parked:
    zsw_shard *shard
    uint64_t offset
    uint64_t at                 # in the batch, or the stream
    uint32_t seen               # what its slot said
    uint32_t read               # which of those read it is


# Those that wait to be read together; all of one area.
cdef struct zsw_parking:
    zsw_area *area
    uint8_t *memory             # to read into; NULL: none yet
    size_t size                 # of it
    uint32_t most
    uint32_t count
    zsw_parked pages[PARKED_PAGES]


cdef void spare_rest(zsw_engine *e) noexcept nogil
cdef void spare_destroy(zsw_engine *e) noexcept nogil
cdef void parking_init(zsw_engine *e, zsw_parking *parking) noexcept nogil
cdef void parking_end(zsw_engine *e, zsw_parking *parking) noexcept nogil
cdef bint park(zsw_parking *parking, zsw_area *area, zsw_shard *shard, uint64_t offset,
               uint64_t at, uint32_t seen) noexcept nogil
cdef int read_parked(zsw_engine *e, zsw_parking *parking) noexcept nogil


cdef inline uint8_t *parked_page(const zsw_engine *e, const zsw_parking *parking,
                                 const zsw_parked *parked) noexcept nogil:
    """What was read of it."""
    return parking.memory + <size_t> parked.read * e.page_size


cdef int parked_status(zsw_engine *e, const zsw_parked *parked, uint32_t sum) noexcept nogil
