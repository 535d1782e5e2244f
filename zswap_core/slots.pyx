# cython: language_level=3
"""Slots of the index: locked to be filled, found again by an entry's place, and what changes in the
LRU along with them."""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.entries cimport entry_at, put_entry
from zswap_core.entry cimport IN_TRANSIT
from zswap_core.index cimport (area_lock_shard, AREA_ONLINE, pos_shard, shard_erase, shard_find,
                               SHARD_PAGES, shard_reserve, SHARD_SHIFT, zsw_area, zsw_shard)
from zswap_core.lru cimport lru_remove
from zswap_core.os cimport (zsw_likely, zsw_load_u32, zsw_lock, zsw_peek_u32, zsw_sleep_ns,
                            zsw_unlikely, zsw_unlock)
from zswap_core.state cimport zsw_engine, zsw_worker
from zswap_core.status cimport Status


cdef int lock_slot(zsw_engine *e, zsw_area *area, uint64_t offset, bint absent, zsw_shard **shard,
                   uint32_t **slot, uint32_t *pos) noexcept nogil:
    """Finds or makes the slot of `offset`, once no call has the page in transit, and leaves its
    shard locked.  Fails without.  With `absent` it must be empty, else it is OCCUPIED."""
    while True:
        shard[0] = area_lock_shard(&e.index, area, offset >> SHARD_SHIFT)
        if zsw_unlikely(shard[0] == NULL):
            return Status.ENTRY_FAIL
        if zsw_unlikely(zsw_load_u32(&area.online) != AREA_ONLINE):
            zsw_unlock(&shard[0].lock)
            return Status.NO_AREA
        if shard_reserve(&e.index, shard[0], offset & (SHARD_PAGES - 1), slot, pos) != 0:
            zsw_unlock(&shard[0].lock)
            return Status.ENTRY_FAIL
        if zsw_likely(slot[0][0] != IN_TRANSIT):
            if zsw_unlikely(absent) and slot[0][0] != 0:
                zsw_unlock(&shard[0].lock)
                return OCCUPIED
            return Status.STORED
        zsw_unlock(&shard[0].lock)
        zsw_sleep_ns(TRANSIT_NS)


cdef uint32_t *lock_entry(zsw_engine *e, uint32_t id, uint32_t pos, zsw_shard **shard,
                          uint32_t *where) noexcept nogil:
    """Finds the slot of an entry again by its `pos`, which may have been read without a lock: the
    slot and its place, with the shard locked; or NULL, with nothing locked, when the entry is not
    there any more.  Without a reference to it, it may have been freed and be another page's by
    now."""
    cdef uint32_t *slot
    cdef uint32_t found
    shard[0] = pos_shard(&e.index, pos, where)
    if shard[0] == NULL:
        return NULL
    zsw_lock(&shard[0].lock)
    slot = shard_find(&e.index, shard[0], where[0], &found)
    if slot != NULL and slot[0] == id:
        return slot
    zsw_unlock(&shard[0].lock)
    return NULL


cdef bint erase_entry(zsw_engine *e, zsw_worker *w, uint32_t id) noexcept nogil:
    """Erases an entry, of which the caller has a reference, from the index and the LRU; False when
    it was not there any more."""
    cdef zsw_shard *shard
    cdef uint32_t where
    if lock_entry(e, id, zsw_peek_u32(&entry_at(e, id).pos), &shard, &where) == NULL:
        return False
    change_lru(e, id, 0)
    shard_erase(&e.index, shard, where)
    zsw_unlock(&shard.lock)
    put_entry(e, w, id)
    return True


cdef void leave_lru(zsw_engine *e, const uint32_t *ids, uint32_t n) noexcept nogil:
    """Takes those of the ids, as slots of one shard hold them, out of the LRU that are in it.
    Under the shard's lock."""
    cdef uint32_t i
    zsw_lock(&e.lru.lock)
    for i in range(n):
        if in_lru(e, ids[i]):
            lru_remove(&e.lru, &e.entries, ids[i])
    zsw_unlock(&e.lru.lock)
