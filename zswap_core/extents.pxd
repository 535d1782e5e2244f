"""Extents: spans of offsets that an area hands out, as a swap allocator does with its slots."""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.os cimport zsw_mutex
from zswap_core.slab cimport zsw_slab


cdef enum:
    EXTENT_SHIFT = 47           # offsets are below 1 << this
    EXTENT_FREE = 0             # values of zsw_extent.unit


# A span of offsets that are all free, or extents of one length that lie side by side.  A node of a
# tree by `start`; all of them together are the whole of an area, without a gap.
cdef struct zsw_extent:
    uint32_t left
    uint32_t right
    uint64_t start
    uint64_t pages
    uint64_t unit               # pages of each extent
    uint64_t room               # of the longest free span under this node


# Those of one area.  The lock is taken for every call below; only the slab's is taken under it.
cdef struct zsw_extents:
    zsw_mutex lock
    uint32_t root               # 0: nothing was ever handed out


cdef int extents_take(zsw_slab *s, zsw_extents *x, uint64_t pages, uint64_t limit,
                      uint64_t *offset) noexcept nogil
cdef int extents_leave(zsw_slab *s, zsw_extents *x, uint64_t offset, uint64_t *pages) noexcept nogil
cdef void extents_give(zsw_slab *s, zsw_extents *x, uint64_t offset) noexcept nogil
cdef void extents_clear(zsw_slab *s, zsw_extents *x) noexcept nogil
cdef int extents_check(zsw_slab *s, zsw_extents *x, uint64_t *claims) noexcept nogil
