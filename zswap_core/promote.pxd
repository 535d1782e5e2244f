"""Promotion: a page that was read from its backing store becomes resident again."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zswap_core.index cimport zsw_area, zsw_shard
from zswap_core.state cimport zsw_engine, zsw_worker


cpdef enum Promote:
    never
    second                      # when it is read again before long
    always

cdef enum:
    TOUCHES_BITS = 16
    TOUCHES = 1 << TOUCHES_BITS     # reads that are remembered, at most
    TOUCHES_BYTES = TOUCHES * 8


cdef bint promotes(zsw_engine *e, const zsw_area *area, uint64_t offset) noexcept nogil
cdef void promote(zsw_engine *e, zsw_worker *w, zsw_area *area, zsw_shard *shard, uint64_t offset,
                  uint32_t seen, const uint8_t *page) noexcept nogil
cdef void promote_copy(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset,
                       const uint8_t *page) noexcept nogil
cdef void touches_destroy(zsw_engine *e) noexcept nogil
