"""Slots of the index: locked to be filled, found again by an entry's place, and what changes in the
LRU along with them."""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.entries cimport entry_at
from zswap_core.entry cimport entry_same, is_entry
from zswap_core.index cimport zsw_area, zsw_shard
from zswap_core.lru cimport lru_join, lru_leave
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
    bint same                   # then it has no reference, and needs none


cdef int lock_slot(zsw_engine *e, zsw_area *area, uint64_t offset, const zsw_held *only,
                   zsw_shard **shard, uint32_t **slot, uint32_t *pos) noexcept nogil
cdef uint32_t *lock_entry(zsw_engine *e, uint32_t id, uint32_t pos, zsw_shard **shard,
                          uint32_t *where) noexcept nogil


cdef inline bint in_lru(zsw_engine *e, uint32_t id) noexcept nogil:
    """Whether what a slot holds has a place in the LRU: an entry, and not a same-filled one."""
    return is_entry(id) and not entry_same(entry_at(e, id))


cdef inline void change_lru(zsw_engine *e, uint32_t old, uint32_t fresh) noexcept nogil:
    """`fresh` takes the place of `old` in a slot: the one leaves the LRU, the other joins it as its
    youngest, and 0 is neither.  Under the shard's lock."""
    if is_entry(old):
        lru_leave(&e.entries, old)
    if in_lru(e, fresh):
        lru_join(&e.lru, &e.entries, fresh)
