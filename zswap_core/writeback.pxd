"""Writeback: the coldest entries go to their areas' backing stores, in sorted batches."""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.index cimport zsw_area
from zswap_core.state cimport zsw_engine, zsw_worker


cdef uint64_t write_back(zsw_engine *e, zsw_worker *w, uint64_t pages, uint32_t idle) noexcept nogil
cdef uint64_t write_area(zsw_engine *e, zsw_worker *w, zsw_area *area,
                         uint64_t pages) noexcept nogil
cdef uint64_t engine_meet_quota(zsw_engine *e, zsw_worker *w, uint32_t type) noexcept nogil
cdef uint64_t engine_writeback(zsw_engine *e, zsw_worker *w, uint64_t pages,
                               uint32_t idle) noexcept nogil
cdef uint64_t engine_evict(zsw_engine *e, zsw_worker *w, uint64_t pages, uint32_t type,
                           uint64_t *first, uint64_t last) noexcept nogil
