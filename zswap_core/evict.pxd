"""Evict: the coldest pages go until so much memory is free."""
from libc.stdint cimport uint64_t

from zswap_core.state cimport zsw_engine, zsw_worker


# How far one has come; memory in bytes, all that the engine takes.
cdef struct zsw_eviction:
    uint64_t wanted
    uint64_t before             # taken when it began
    uint64_t freed
    uint64_t left               # pages that may still go


cdef void evict_begin(zsw_engine *e, zsw_eviction *eviction, uint64_t wanted) noexcept nogil
cdef bint evict_some(zsw_engine *e, zsw_worker *w, zsw_eviction *eviction) noexcept nogil
