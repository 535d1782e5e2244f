"""A page in transit: written to its area's backing store, read from it or discarded, one at a time;
flight.pyx has batches."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zswap_core.index cimport zsw_area, zsw_shard
from zswap_core.slots cimport zsw_held
from zswap_core.state cimport zsw_engine, zsw_worker


cdef enum:
    AGAIN = -100                # no status: what was found has changed, look again


cdef bint writing_begin(zsw_engine *e) noexcept nogil
cdef bint writing_try(zsw_engine *e) noexcept nogil
cdef void writing_end(zsw_engine *e) noexcept nogil
cdef int write_through(zsw_engine *e, zsw_worker *w, zsw_area *area, uint64_t offset,
                       const uint8_t *page, const zsw_held *only) noexcept nogil
cdef void write_through_many(zsw_engine *e, zsw_worker *w, zsw_area *area, uint64_t *offsets,
                             uint8_t *pages, uint32_t n, int *statuses) noexcept nogil
cdef int read_backed(zsw_engine *e, zsw_worker *w, zsw_area *area, zsw_shard *shard,
                     uint64_t offset, uint32_t seen, uint8_t *page, bint take) noexcept nogil
cdef void discard_backed(zsw_engine *e, zsw_worker *w, zsw_area *area, zsw_shard *shard,
                         const uint64_t *offsets, uint32_t n) noexcept nogil
cdef bint erase_entry(zsw_engine *e, zsw_worker *w, uint32_t id) noexcept nogil
