"""Recompression: held pages move to another compressor's pool where that makes them smaller."""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.abi cimport zsw_compressor, zsw_zpool_config, zsw_zpool_ops
from zswap_core.state cimport zsw_engine, zsw_worker


cdef struct zsw_recompressed:
    uint64_t moved
    uint64_t kept               # looked at and left: nothing would have been won
    uint64_t bytes_before       # of the pages moved
    uint64_t bytes_after


cdef int engine_recompress(zsw_engine *e, zsw_worker *w, const zsw_compressor *compressor,
                           const zsw_zpool_ops *ops, const zsw_zpool_config *config, uint32_t idle,
                           bint incompressible, uint64_t max_pages, uint64_t tries, uint32_t *next,
                           zsw_recompressed *out) noexcept nogil
