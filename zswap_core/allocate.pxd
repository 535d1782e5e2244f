"""Extents of swap areas: allocated and freed."""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.state cimport zsw_engine, zsw_worker


cdef int engine_allocate(zsw_engine *e, uint32_t type, uint64_t pages,
                         uint64_t *offset) noexcept nogil
cdef int engine_free_extent(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset,
                            uint64_t *pages) noexcept nogil
