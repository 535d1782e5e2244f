"""Slots of the index: locked to be filled, found again by an entry's place, and what changes in the
LRU and the figures along with them."""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.entries cimport entry_at
from zswap_core.entry cimport entry_same, IN_TRANSIT, is_backed
from zswap_core.index cimport (
    area_lock_shard, AREA_ONLINE, pos_shard, shard_erase, shard_find, SHARD_PAGES, shard_reserve,
    SHARD_SHIFT, value_length, zsw_area, zsw_shard,
)
from zswap_core.os cimport (
    zsw_likely, zsw_load_u32, zsw_lock, zsw_sleep_ns, zsw_unlikely, zsw_unlock,
)
from zswap_core.state cimport zsw_engine
from zswap_core.status cimport Status


cdef bint is_still(zsw_engine *e, const zsw_shard *shard, uint32_t id, uint32_t pos,
                   const zsw_held *held) noexcept nogil:
    """Whether what a slot holds is the page that was found.  An entry to which there is a reference
    has kept its page; a same-filled one may be another by now, or have changed where it is; and a
    shard that was made anew counts its writes from the beginning."""
    if id != held.id or is_backed(id) and shard != held.shard:
        return False
    if zsw_unlikely(shard.variable) and id != 0 and value_length(&e.index, pos) != held.size:
        return False
    return not held.same or entry_same(entry_at(e, id)) and entry_at(e, id).word == held.word


cdef int lock_slot(zsw_engine *e, zsw_area *area, uint64_t offset, const zsw_held *only,
                   zsw_shard **shard, uint32_t **slot, uint32_t *pos) noexcept nogil:
    """Finds or makes the slot of `offset`, once no call has the page in transit, and leaves its
    shard locked.  Fails without.  Unless `only` is NULL it must hold that, else it is CHANGED."""
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
            if zsw_unlikely(only != NULL) and not is_still(
                    e, shard[0], slot[0][0], pos[0], only):
                if slot[0][0] == 0:             # it is gone, and the slot was made for nothing
                    shard_erase(&e.index, shard[0], offset & (SHARD_PAGES - 1))
                zsw_unlock(&shard[0].lock)
                return CHANGED
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
