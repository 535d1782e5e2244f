# cython: language_level=3
"""A type-stable table: elements are found by id, never move, and keep their type for the life of the table.

Blocks of elements hang off a directory that is reserved whole and touched only where used, so growing moves nothing and a
reader needs no lock: whoever has an id got it from somebody for whom the block was already in place.  Id 0 is never given
out and means "none".  The lock is a leaf: nothing else is taken under it.
"""
from libc.stdint cimport uint8_t, uint32_t

from zswap_core.os cimport zsw_mutex

cdef enum:
    TABLE_BLOCK_SHIFT = 12
    TABLE_BLOCK = 1 << TABLE_BLOCK_SHIFT

cdef struct zsw_table:
    uint8_t **blocks
    uint32_t stride         # bytes from one element to the next, at least 4
    uint32_t limit          # ids are below this
    uint32_t next           # the lowest id never given out
    uint32_t returned       # ids given back, chained through the first four bytes of their elements
    uint32_t used           # ids in use
    zsw_mutex lock


cdef inline void *table_at(const zsw_table *table, uint32_t id) noexcept nogil:
    return table.blocks[id >> TABLE_BLOCK_SHIFT] + <size_t> (id & (TABLE_BLOCK - 1)) * table.stride


cdef int table_init(zsw_table *table, uint32_t stride, uint32_t limit) noexcept nogil
cdef void table_destroy(zsw_table *table) noexcept nogil

# A free id, or -ENOMEM with nothing changed.  The element holds what its last user left, zeros at first.
cdef int table_get(zsw_table *table, uint32_t *id) noexcept nogil
cdef void table_put(zsw_table *table, uint32_t id) noexcept nogil

# Memory the table has touched.
cdef size_t table_bytes(zsw_table *table) noexcept nogil

# 0 when every id ever given out is either in use or on the chain of returned ones.
cdef int table_check(zsw_table *table) noexcept nogil
