# cython: language_level=3
"""Swap areas: brought online, taken offline, and found for a call."""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.abi cimport zsw_backing_ops
from zswap_core.index cimport area_open, zsw_area
from zswap_core.os cimport zsw_load_ptr, zsw_load_u32, zsw_peek_u64
from zswap_core.state cimport MAX_AREAS, zsw_engine, zsw_worker


cdef int engine_swapon(zsw_engine *e, uint32_t type, uint64_t nr_pages, const zsw_backing_ops *backing,
                       void *store) noexcept nogil
cdef int engine_swapoff(zsw_engine *e, zsw_worker *w, uint32_t type) noexcept nogil
cdef int engine_seal(zsw_engine *e, uint32_t type, bint sealed) noexcept nogil
cdef void engine_swapoff_end(zsw_engine *e, uint32_t type) noexcept nogil


cdef inline zsw_area *find_area(zsw_engine *e, uint32_t type, uint64_t offset) noexcept nogil:
    """The area, if it is online and the offset lies in it; else NULL."""
    cdef zsw_area *area = <zsw_area *> zsw_load_ptr(<void **> &e.areas[type]) if type < MAX_AREAS else NULL
    if area == NULL or not area_open(zsw_load_u32(&area.online)) or offset >= zsw_peek_u64(&area.nr_pages):
        return NULL
    return area
