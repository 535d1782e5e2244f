# cython: language_level=3
"""zsmalloc: objects in size classes, each class packed into zspages of a few pages."""
from libc.stdint cimport uint32_t

from zswap_core.abi cimport zsw_zpool_ops

cdef struct zsmalloc_geometry:
    uint32_t size               # of a slot
    uint32_t pages              # in a zspage
    uint32_t objects            # in a zspage


cdef const zsw_zpool_ops *zsmalloc_ops() noexcept nogil

# The size classes of a pool, smallest first, at most `n` of them; returns how many there are.
cdef size_t zsmalloc_classes(void *pool, zsmalloc_geometry *out, size_t n) noexcept nogil
