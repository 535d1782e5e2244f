"""An entry: the 16 bytes the engine keeps for each stored page; two more lie beside it (lru.pxd).

Who may touch what: `word` is written before the entry is published and by compaction, both with the
shard's lock or with no other owner; `pos` is written under the shard's lock; `state` is atomic.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zswap_core.os cimport zsw_add_u32, zsw_cas_u32, zsw_load_u32, zsw_peek_u32, zsw_poke_u32


# What an index slot holds is the id of an entry, or one of these.  The slabs never hand out ids so
# great.
cdef extern from *:
    """
    #define ON_BACKING 0xff000000u  /* from here on: its backing store has it, see backed */
    #define IN_TRANSIT 0xfeffffffu  /* a call is writing it there or discarding it: others wait */
    """
    const uint32_t ON_BACKING
    const uint32_t IN_TRANSIT

# state, from bit 0: references (the index's own counts as one), flags, and the second of the last
# access.
cdef enum:
    ENTRY_REFS = 0xff
    ENTRY_REFS_MAX = 0xfe
    ENTRY_SAME = 0x100              # `word` is the value of every word of the page
    ENTRY_REFERENCED = 0x200        # loaded since the LRU last looked
    ENTRY_AGE_SHIFT = 10
    ENTRY_AGE_MASK = 0x3fffff       # seconds modulo 2^22, 48 days
    # ages up to 45 days are told apart; the rest lies ahead of a clock that was read earlier
    ENTRY_AGE_MAX = 0x3bffff


cdef struct zsw_entry:
    uint64_t word           # same-filled: the value; else handle:40 | length-1:16 | pool:8
    uint32_t pos            # where it is indexed: run:26 | slot:6; 0 when it is not
    uint32_t state


cdef inline uint64_t word_pack(uint64_t handle, uint32_t length, uint32_t pool) noexcept nogil:
    return handle << 24 | <uint64_t> (length - 1) << 8 | pool


cdef inline uint64_t word_handle(uint64_t word) noexcept nogil:
    return word >> 24


cdef inline uint32_t word_length(uint64_t word) noexcept nogil:
    return (<uint32_t> (word >> 8) & 0xffff) + 1


cdef inline uint32_t word_pool(uint64_t word) noexcept nogil:
    return <uint32_t> word & 0xff


cdef inline uint32_t state_new(bint same, uint64_t now) noexcept nogil:
    """One reference, the index's; last accessed now."""
    return 1 | (ENTRY_SAME if same else 0) | (<uint32_t> now & ENTRY_AGE_MASK) << ENTRY_AGE_SHIFT


cdef inline bint entry_get(zsw_entry *entry, uint64_t now) noexcept nogil:
    """Takes a reference and marks the entry accessed; False when all references are out.  Under the
    shard's lock."""
    cdef uint32_t state, wanted
    while True:
        state = zsw_peek_u32(&entry.state)
        if (state & ENTRY_REFS) >= ENTRY_REFS_MAX:
            return False
        wanted = (((state & (ENTRY_REFS | ENTRY_SAME)) + 1) | ENTRY_REFERENCED
                  | (<uint32_t> now & ENTRY_AGE_MASK) << ENTRY_AGE_SHIFT)
        if zsw_cas_u32(&entry.state, state, wanted):
            return True


cdef inline bint entry_put(zsw_entry *entry) noexcept nogil:
    """Drops a reference; True when it was the last, so that the caller must free the entry."""
    cdef uint32_t state = zsw_load_u32(&entry.state)
    # only ours, hence not the index's: nobody can take another
    if (state & ENTRY_REFS) == 1:
        zsw_poke_u32(&entry.state, state - 1)
        return True
    return (zsw_add_u32(&entry.state, <uint32_t> -1) & ENTRY_REFS) == 0


cdef inline bint entry_same(const zsw_entry *entry) noexcept nogil:
    return zsw_peek_u32(&entry.state) & ENTRY_SAME != 0


cdef inline void entry_touch(zsw_entry *entry, uint64_t now) noexcept nogil:
    """Marks a same-filled entry accessed.  Nobody takes references to those, so a plain exchange
    under the shard's lock does."""
    zsw_poke_u32(&entry.state, 1 | ENTRY_SAME | ENTRY_REFERENCED
                 | (<uint32_t> now & ENTRY_AGE_MASK) << ENTRY_AGE_SHIFT)


cdef inline bint is_entry(uint32_t id) noexcept nogil:
    """Whether what an index slot holds is an entry."""
    return id - 1 < IN_TRANSIT - 1


cdef inline uint32_t backed(uint32_t writes) noexcept nogil:
    """What a slot holds once its page went to the backing store, by the shard's write of that
    number.  A later write, of another page or the same, has another number: so a reader notices
    that it was overtaken."""
    return ON_BACKING | writes & ~ON_BACKING


cdef inline bint is_backed(uint32_t id) noexcept nogil:
    return id >= ON_BACKING


cdef inline uint32_t entry_age(const zsw_entry *entry, uint64_t now) noexcept nogil:
    """Seconds since the last access: 0 also where that came after `now` was read, by a call that
    began later."""
    cdef uint32_t age = (<uint32_t> now
                         - (zsw_peek_u32(&entry.state) >> ENTRY_AGE_SHIFT)) & ENTRY_AGE_MASK
    return age if age <= ENTRY_AGE_MAX else 0


cdef inline bint entry_pin(zsw_entry *entry) noexcept nogil:
    """Takes a reference that is no access; False when all are out.  Under the shard's lock."""
    if (zsw_peek_u32(&entry.state) & ENTRY_REFS) >= ENTRY_REFS_MAX:
        return False
    zsw_add_u32(&entry.state, 1)
    return True
