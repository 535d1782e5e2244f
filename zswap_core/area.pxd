"""Swap areas: brought online, sealed and taken offline."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from zswap_core.abi cimport zsw_backing_ops
from zswap_core.state cimport zsw_engine, zsw_worker


cdef int engine_swapon(zsw_engine *e, uint32_t type, uint64_t nr_pages,
                       const zsw_backing_ops *backing, void *store, int64_t quota,
                       bint variable) noexcept nogil
cdef int engine_set_quota(zsw_engine *e, uint32_t type, int64_t quota) noexcept nogil
cdef int engine_swapoff(zsw_engine *e, zsw_worker *w, uint32_t type) noexcept nogil
cdef int engine_seal(zsw_engine *e, uint32_t type, bint sealed) noexcept nogil
cdef void engine_swapoff_end(zsw_engine *e, uint32_t type) noexcept nogil
