"""Fixed-size items named by 32-bit ids, in blocks that never move and go back to the system when
they empty."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zswap_core.os cimport zsw_add_u64, zsw_load_ptr, zsw_mutex


cdef struct slab_block:
    uint8_t *base
    uint32_t free_head      # 1 + index of the first freed item; 0: none
    uint32_t bump           # items from here on are untouched, and read as zeros
    uint32_t inuse
    uint32_t prev           # neighbours in a list of blocks, 1 + block number; 0: none
    uint32_t next


# Where blocks lie, for readers without the lock; the blocks themselves follow in the same mapping.
# When it is full one of twice its size takes its place, by one store.
cdef struct slab_table:
    uint64_t capacity       # blocks there is room for
    size_t bytes            # of the mapping
    slab_table *older       # whose place it took: somebody may still be looking there
    uint8_t *bases[1]       # `capacity` of them, each published before the first id of its block is


# The lock is a leaf: nothing is locked under it.
cdef struct zsw_slab:
    # an id is never older than the table that knows its block, so take the id first
    slab_table *table
    slab_block *blocks      # behind it
    size_t item_size
    uint32_t shift          # log2 of the items in a block
    uint32_t max_blocks
    uint32_t block_count    # blocks mapped so far
    uint32_t room           # head of the list of blocks with room and memory, 1 + block number
    # head of the list of blocks whose memory went back, linked by `next` alone
    uint32_t cold
    # to be set before the first item is taken: ZSW_MAP_ flags, and the bytes beside each item, see
    # slab_beside
    uint32_t mapping
    uint32_t beside
    # NULL, or what else the sum of the last two counts towards; also set before the first item
    uint64_t *meter
    zsw_mutex lock
    # Written under the lock, looked at without.
    uint64_t inuse          # items handed out
    uint64_t touched        # items whose memory has been touched since it last came from the system
    uint64_t touched_bytes  # what of the system's pages that makes
    uint64_t table_bytes    # of the tables, older ones too


cdef enum:
    ANY_ID = 0xfe000000     # a limit that leaves ids free for other meanings


cdef inline void meter_move(uint64_t *meter, uint64_t by) noexcept nogil:
    """Counts bytes taken or, modulo 2^64, given back."""
    if meter != NULL and by != 0:
        zsw_add_u64(meter, by)


cdef void slab_init(zsw_slab *s, size_t item_size, uint64_t limit) noexcept nogil
cdef void slab_destroy(zsw_slab *s) noexcept nogil
cdef uint32_t slab_take(zsw_slab *s, uint32_t *ids, uint32_t count) noexcept nogil
cdef void slab_give(zsw_slab *s, const uint32_t *ids, uint32_t count) noexcept nogil
cdef uint64_t slab_bytes(zsw_slab *s) noexcept nogil
cdef uint32_t slab_limit(const zsw_slab *s) noexcept nogil
cdef int slab_validate(zsw_slab *s) noexcept nogil

# Checking at rest that each item is free or some one owner's: begin, claim each that is owned, end.
# end() is due even after a begin or a claim that failed.  Negative numbers name what failed.
cdef int slab_check_begin(zsw_slab *s, uint64_t **claims) noexcept nogil
cdef int slab_check_claim(const zsw_slab *s, uint64_t *claims, uint32_t id) noexcept nogil
cdef int slab_check_end(const zsw_slab *s, uint64_t *claims) noexcept nogil


cdef inline void *slab_at(const zsw_slab *s, uint32_t id) noexcept nogil:
    """The item `id` names.  Any id that slab_take ever gave is safe to look at, even after it was
    given back."""
    cdef uint32_t mask = (<uint32_t> 1 << s.shift) - 1
    cdef slab_table *table = <slab_table *> zsw_load_ptr(<void **> &s.table)
    return table.bases[id >> s.shift] + <size_t> (id & mask) * s.item_size


cdef inline void *slab_beside(const zsw_slab *s, uint32_t id) noexcept nogil:
    """What is kept beside the item: packed, so that a walk over all of it meets nothing else.  Zero
    until it is written, and again when the block's memory has gone back to the system; neither
    taking the item nor giving it back changes it."""
    cdef uint32_t mask = (<uint32_t> 1 << s.shift) - 1
    cdef slab_table *table = <slab_table *> zsw_load_ptr(<void **> &s.table)
    return (table.bases[id >> s.shift] + (s.item_size << s.shift)
            + <size_t> (id & mask) * s.beside)


cdef inline void *slab_peek(const zsw_slab *s, uint32_t id) noexcept nogil:
    """As slab_at for whatever number: NULL when no item is there.  For readers without a lock, who
    may have read anything."""
    cdef uint32_t number = id >> s.shift
    cdef slab_table *table = <slab_table *> zsw_load_ptr(<void **> &s.table)
    cdef uint8_t *base = NULL
    if number < table.capacity:
        base = <uint8_t *> zsw_load_ptr(<void **> &table.bases[number])
    return base + <size_t> (id & ((<uint32_t> 1 << s.shift)
                                  - 1)) * s.item_size if base != NULL else NULL
