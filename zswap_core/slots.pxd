"""Slots of the index: locked to be filled, found again by an entry's place, and what changes in the
LRU and the figures along with them."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from zswap_core.entries cimport entry_at
from zswap_core.entry cimport entry_same, is_backed, is_entry, word_length, zsw_entry
from zswap_core.index cimport zsw_area, zsw_shard
from zswap_core.lookup cimport area_at
from zswap_core.lru cimport lru_join, lru_leave
from zswap_core.os cimport zsw_add_i64, zsw_peek_u64, zsw_poke_u32, zsw_unlikely
from zswap_core.state cimport zsw_engine, zsw_worker


cdef enum:
    TRANSIT_NS = 20000          # how long to sleep before looking again at a page in transit
    # no status: a page was to take the place of one alone, or of none, and there is another
    CHANGED = -101


# What was found of a page under its shard's lock.
cdef struct zsw_held:
    zsw_shard *shard            # in which a number is that of one write; set where one may count
    uint64_t word
    uint32_t id                 # what its slot said; 0: there is no page
    uint32_t sum
    uint32_t size               # of the value, in an area that is variable
    bint same                   # then it has no reference, and needs none


cdef int lock_slot(zsw_engine *e, zsw_area *area, uint64_t offset, const zsw_held *only,
                   zsw_shard **shard, uint32_t **slot, uint32_t *pos) noexcept nogil
cdef uint32_t *lock_entry(zsw_engine *e, uint32_t id, uint32_t pos, zsw_shard **shard,
                          uint32_t *where) noexcept nogil


cdef inline bint in_lru(zsw_engine *e, uint32_t id) noexcept nogil:
    """Whether what a slot holds has a place in the LRU: an entry, and not a same-filled one."""
    return is_entry(id) and not entry_same(entry_at(e, id))


cdef inline void count_bytes(zsw_engine *e, zsw_shard *shard, int64_t more) noexcept nogil:
    """Counts payload that came to the shard's pages, or went.  Under the shard's lock."""
    zsw_poke_u32(&shard.bytes, shard.bytes + <uint32_t> more)
    if zsw_unlikely(shard.tallied):
        zsw_add_i64(&area_at(e, shard.type).used, more)


cdef inline void count_slot(zsw_engine *e, zsw_shard *shard, uint32_t id, int by) noexcept nogil:
    """Counts what a slot holds, or held.  Under the shard's lock."""
    cdef zsw_entry *entry
    cdef uint32_t length
    if is_entry(id):
        entry = entry_at(e, id)
        if entry_same(entry):
            zsw_poke_u32(&shard.same, shard.same + by)
            return
        length = word_length(zsw_peek_u64(&entry.word))
        count_bytes(e, shard, by * <int64_t> length)
        if length == e.page_size:
            zsw_poke_u32(&shard.raw, shard.raw + by)
    elif is_backed(id):
        zsw_poke_u32(&shard.backed, shard.backed + by)


cdef inline void change_slot(zsw_engine *e, zsw_shard *shard, uint32_t old,
                             uint32_t fresh) noexcept nogil:
    """`fresh` takes the place of `old` in a slot: the one leaves the LRU and the shard's figures,
    the other joins them, as the youngest; 0 is neither.  Under the shard's lock."""
    count_slot(e, shard, old, -1)
    count_slot(e, shard, fresh, 1)
    if is_entry(old):
        lru_leave(&e.entries, old)
    if in_lru(e, fresh):
        lru_join(&e.lru, &e.entries, fresh)
