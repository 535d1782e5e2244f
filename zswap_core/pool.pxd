# cython: language_level=3
"""Pools: made, made current, emptied and freed; and the limit on what they take together."""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.abi cimport zsw_compressor, zsw_zpool_config, zsw_zpool_ops
from zswap_core.state cimport zsw_engine, zsw_pool, zsw_worker


cdef int engine_use_pool(zsw_engine *e, const zsw_compressor *compressor, const zsw_zpool_ops *ops,
                         const zsw_zpool_config *config) noexcept nogil
cdef int pool_hold(zsw_engine *e, const zsw_compressor *compressor, const zsw_zpool_ops *ops,
                   const zsw_zpool_config *config, zsw_pool **out) noexcept nogil
cdef void pool_release(zsw_engine *e, zsw_pool *pool) noexcept nogil
cdef bint retire_pools(zsw_engine *e) noexcept nogil
cdef uint64_t pool_pages(zsw_engine *e) noexcept nogil
cdef bint pools_reach(zsw_engine *e, uint64_t pages) noexcept nogil
cdef void destroy_pools(zsw_engine *e) noexcept nogil
cdef void engine_set_limits(zsw_engine *e, uint64_t max_pages, uint64_t accept_pages) noexcept nogil
cdef int check_limits(zsw_engine *e) noexcept nogil
# Whether a pool may still call the compressor, be it one that is just being freed.
cdef bint compressor_in_use(zsw_engine *e, const zsw_compressor *compressor) noexcept nogil
