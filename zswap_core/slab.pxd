# cython: language_level=3
"""Fixed-size items named by 32-bit ids, in chunks that never move and go back to the system when they empty."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zswap_core.os cimport zsw_load_ptr, zsw_mutex


cdef struct slab_chunk:
    uint8_t *base           # published before the first id of the chunk is
    uint32_t free_head      # 1 + index of the first freed item; 0: none
    uint32_t bump           # items from here on are untouched, and read as zeros
    uint32_t inuse
    uint32_t prev           # neighbours in a list of chunks, 1 + chunk number; 0: none
    uint32_t next


# The lock is a leaf: nothing is locked under it.
cdef struct zsw_slab:
    slab_chunk *chunks      # address space for all there can be, so that a reader needs no lock
    size_t item_size
    uint32_t shift          # log2 of the items in a chunk
    uint32_t max_chunks
    uint32_t chunk_count    # chunks mapped so far
    uint32_t room           # head of the list of chunks with room and memory, 1 + chunk number
    uint32_t cold           # head of the list of chunks whose memory went back, linked by `next` alone
    bint no_dump            # chunks are kept out of core dumps
    zsw_mutex lock
    # Written under the lock, looked at without.
    uint64_t inuse          # items handed out
    uint64_t touched        # items whose memory has been touched since it last came from the system


cdef enum:
    ANY_ID = 0xffffff00     # a limit that leaves ids free for other meanings


cdef int slab_init(zsw_slab *s, size_t item_size, uint64_t limit) noexcept nogil
cdef void slab_destroy(zsw_slab *s) noexcept nogil
cdef uint32_t slab_take(zsw_slab *s, uint32_t *ids, uint32_t count) noexcept nogil
cdef void slab_give(zsw_slab *s, const uint32_t *ids, uint32_t count) noexcept nogil
cdef uint64_t slab_bytes(zsw_slab *s) noexcept nogil
cdef uint32_t slab_limit(zsw_slab *s) noexcept nogil
cdef int slab_validate(zsw_slab *s) noexcept nogil

# Checking at rest that each item is free or some one owner's: begin, claim each that is owned, end.  end() is due even after a
# begin or a claim that failed.  Negative numbers name what failed.
cdef int slab_check_begin(zsw_slab *s, uint64_t **claims) noexcept nogil
cdef int slab_check_claim(const zsw_slab *s, uint64_t *claims, uint32_t id) noexcept nogil
cdef int slab_check_end(const zsw_slab *s, uint64_t *claims) noexcept nogil


cdef inline void *slab_at(const zsw_slab *s, uint32_t id) noexcept nogil:
    """The item `id` names.  Any id that slab_take ever gave is safe to look at, even after it was given back."""
    cdef uint32_t mask = (<uint32_t> 1 << s.shift) - 1
    return s.chunks[id >> s.shift].base + <size_t> (id & mask) * s.item_size


cdef inline void *slab_peek(const zsw_slab *s, uint32_t id) noexcept nogil:
    """As slab_at for whatever number: NULL when no item is there.  For readers without a lock, who may have read anything."""
    cdef uint32_t number = id >> s.shift
    cdef uint8_t *base = <uint8_t *> zsw_load_ptr(<void **> &s.chunks[number].base) if number < s.max_chunks else NULL
    return base + <size_t> (id & ((<uint32_t> 1 << s.shift) - 1)) * s.item_size if base != NULL else NULL
