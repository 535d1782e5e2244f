"""zsmalloc: objects in size classes, each class packed into zspages of a few pages."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from zswap_core.abi cimport ZSW_HANDLE_BITS, zsw_zpool_ops
from zswap_core.os cimport zsw_mutex
from zswap_core.slab cimport zsw_slab
from zswap_core.zpools.arena cimport zsw_arena, zsw_span


cdef enum:
    SLOT_BITS = 12              # of a handle
    SLOT_MASK = (1 << SLOT_BITS) - 1
    CLASSES = 256               # distinct ones, so that an index is a byte
    SIZES = 258                 # before equal ones are merged
    LONE_SHIFT = ZSW_HANDLE_BITS - 1    # the bit of a handle that leads to a lone page
    GROUPS = 14                 # by fullness, see zsmalloc.pyx

cdef struct zspage:             # followed by a bitmap of its free slots
    uint8_t *first              # the first object
    uint32_t next               # neighbours in the fullness group, by id
    uint32_t prev
    zsw_span span
    uint32_t size               # of a slot: the class's, here so that map() needs no second look-up
    uint16_t objects            # live ones
    uint8_t class_id
    uint8_t group

cdef struct zs_class:
    zsw_mutex lock
    uint32_t size               # of a slot
    uint32_t payload            # of it, what an object may use
    uint16_t pages              # in a zspage
    uint16_t slots              # in a zspage
    uint32_t groups             # bit i: heads[i] is not empty
    uint32_t heads[GROUPS]
    uint64_t tenths             # 10 / slots, times 2**32, rounded up
    uint64_t zspages
    uint64_t objects
    uint8_t padding[24]         # to 128 bytes: neighbours are locked by other CPUs

cdef struct zs_pool:
    zs_class classes[CLASSES]
    uint8_t class_of[SIZES]     # by size in steps of a class
    uint32_t class_count
    uint32_t page_size
    uint32_t page_shift
    uint32_t step_shift
    uint32_t size_min
    uint32_t handle_size        # added to each request
    bint whole                  # a zspage counts whole from its first object on
    zsw_arena arena
    zsw_slab zspages
    int64_t freed_by_compaction  # pages since compact_begin(), less those its targets took; atomic
    uint64_t pages_compacted    # ever; atomic
    uint64_t bad_frees          # of objects that were free already; atomic

cdef struct zsmalloc_geometry:
    uint32_t size               # of a slot
    uint32_t pages              # in a zspage
    uint32_t objects            # in a zspage


cdef inline bint is_lone(uint64_t handle) noexcept nogil:
    return handle >> LONE_SHIFT & 1


cdef const zsw_zpool_ops *zsmalloc_ops() noexcept nogil

# The size classes of a pool, smallest first, at most `n` of them; returns how many there are.
cdef size_t zsmalloc_classes(void *pool, zsmalloc_geometry *out, size_t n) noexcept nogil
