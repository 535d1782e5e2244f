# cython: language_level=3
"""A pool: one compressor and one zpool with its memory.  One is current; the others live until their last entry goes."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from zswap_core.abi cimport zsw_compressor, zsw_zpool_config, zsw_zpool_ops

cdef enum:
    MAX_POOLS = 256             # an entry names its pool in 8 bits


cdef struct zsw_pool:
    zsw_compressor compressor
    const zsw_zpool_ops *ops
    void *zpool
    zsw_zpool_config config
    size_t bound                # scratch its compressor wants
    size_t max_saving           # a longer result takes a whole page: keep the page raw
    int64_t entries             # entries that live in it; exact when no call is in flight
    uint32_t id
    uint32_t retired            # found empty while not current: never current again


cdef int pool_create(const zsw_compressor *compressor, const zsw_zpool_ops *ops, const zsw_zpool_config *config,
                     zsw_pool **out) noexcept nogil
cdef void pool_destroy(zsw_pool *pool) noexcept nogil
cdef bint pool_matches(const zsw_pool *pool, const zsw_compressor *compressor, const zsw_zpool_ops *ops,
                       const zsw_zpool_config *config) noexcept nogil
