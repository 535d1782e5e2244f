"""Promotion: a page that was read from its backing store becomes resident again.

The store keeps it, and the index notes that its copy is clean: writing the page back again is then
no write.  The note goes with whatever makes the two differ, or frees the page, and then the copy is
discarded as any other.

By default it takes a second read within as many reads as pages could be resident: what is read
sooner than that would have been found in the pool, had it stayed; one pass over everything changes
nothing.  Reads are remembered in a table where each has one place, and takes it from whoever had
it.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from zswap_core.budget cimport buffer_bytes, map_buffer, unmap_buffer
from zswap_core.entries cimport entry_at, free_entry
from zswap_core.entry cimport is_backed
from zswap_core.fault cimport fault, Site
from zswap_core.index cimport (
    AREA_ONLINE, area_shard, set_clean, shard_find, SHARD_PAGES, SHARD_SHIFT, zsw_area, zsw_shard,
)
from zswap_core.lookup cimport find_area
from zswap_core.lru cimport lru_pass
from zswap_core.objects cimport make_entry
from zswap_core.os cimport (
    zsw_add_u64, zsw_load_ptr, zsw_load_u32, zsw_lock, zsw_peek_u32, zsw_peek_u64, zsw_poke_u32,
    zsw_poke_u64, zsw_store_ptr, zsw_store_u32, zsw_unlikely, zsw_unlock,
)
from zswap_core.pool cimport pool_pages, pools_reach, reclaims
from zswap_core.quota cimport charge, refund, slot_bytes
from zswap_core.slots cimport change_slot
from zswap_core.state cimport zsw_engine, zsw_worker
from zswap_core.stats cimport count, Counter
from zswap_core.wake cimport maintenance_wake
from zswap_core.worker cimport pages_listed


cdef uint64_t *touches(zsw_engine *e) noexcept nogil:
    """The table, made by the first read from a store; NULL: there is no memory for it."""
    cdef uint64_t *table = <uint64_t *> zsw_load_ptr(<void **> &e.touches)
    cdef uint64_t size
    if table == NULL:
        zsw_lock(&e.areas_lock)
        table = e.touches
        if table == NULL and fault(Site.TOUCHES) == 0:
            size = 1
            while 2 * size * sizeof(uint64_t) <= buffer_bytes(e, TOUCHES_BYTES, 8):
                size *= 2
            table = <uint64_t *> map_buffer(e, size * sizeof(uint64_t), e.params.mapping)
            if table != NULL:
                zsw_poke_u64(&e.touches_mask, size - 1)
                zsw_store_ptr(<void **> &e.touches, table)
        zsw_unlock(&e.areas_lock)
    return table


cdef void touches_destroy(zsw_engine *e) noexcept nogil:
    unmap_buffer(e, e.touches, (e.touches_mask + 1) * sizeof(uint64_t))
    e.touches = NULL


cdef bint touched(zsw_engine *e, const zsw_area *area, uint64_t offset) noexcept nogil:
    """Whether the page was read not long ago; notes that it is now."""
    cdef uint64_t *table = touches(e)
    cdef uint64_t now = zsw_add_u64(&e.reads, 1)
    cdef uint64_t key = ((<uint64_t> area.type << 47 | offset) + 1) * <uint64_t> 0x9e3779b97f4a7c15
    cdef uint64_t window = max(zsw_peek_u64(&e.params.max_pages), pages_listed(e))
    cdef uint64_t *place
    cdef uint64_t before
    if table == NULL:
        return False
    # by the uppermost bits: those below leave neighbours a ninth of the places
    place = &table[(key >> 32) * (zsw_peek_u64(&e.touches_mask) + 1) >> 32]
    before = zsw_peek_u64(place)
    # a page is known by 32 bits; two that share them cost a promotion too many
    zsw_poke_u64(place, key << 32 | <uint32_t> now)
    return (before >> 32 == <uint32_t> key and before != 0
            and <uint32_t> (now - before) <= window)


cdef bint promotes(zsw_engine *e, const zsw_area *area, uint64_t offset) noexcept nogil:
    """Whether a page that is about to be read from its store should stay in the pool."""
    cdef uint32_t how = zsw_peek_u32(&e.params.promote)
    return how == Promote.always or how == Promote.second and touched(e, area, offset)


cdef bint has_room(zsw_engine *e) noexcept nogil:
    """Whether the pools are below the limit.  Near it the shrinker is wanted; nothing waits."""
    cdef bint room = True
    if zsw_peek_u32(&e.reached_full):
        return False
    if pool_pages(e) >= zsw_peek_u64(&e.params.near_pages):
        room = not pools_reach(e, zsw_peek_u64(&e.params.max_pages))
        if reclaims(e) and not zsw_peek_u32(&e.limit_hit):
            zsw_store_u32(&e.limit_hit, 1)
            maintenance_wake(e)
    return room


cdef void promote(zsw_engine *e, zsw_worker *w, zsw_area *area, zsw_shard *shard, uint64_t offset,
                  uint32_t seen, const uint8_t *page) noexcept nogil:
    """Makes a page resident that was read from the store when its slot said `seen`.  Where there is
    no room or no memory, or the page has changed, nothing happens.  `page` is memory of ours."""
    cdef uint32_t id, pos
    cdef uint32_t *slot
    cdef int64_t paid
    if not has_room(e) or make_entry(e, w, page, &id) < 0:
        return
    lru_pass(&e.lru, &e.entries, &w.lru_left)
    zsw_lock(&shard.lock)
    slot = shard_find(&e.index, shard, offset & (SHARD_PAGES - 1), &pos)
    if (slot == NULL or slot[0] != seen or zsw_load_u32(&area.online) != AREA_ONLINE
            or zsw_unlikely(shard.tallied) and not charge(area, slot_bytes(e, id), 0)):
        zsw_unlock(&shard.lock)
        free_entry(e, w, id)
        return
    paid = slot_bytes(e, id) if zsw_unlikely(shard.tallied) else 0
    slot[0] = id
    zsw_poke_u32(&entry_at(e, id).pos, pos)
    set_clean(&e.index, pos, True)
    change_slot(e, shard, seen, id)
    zsw_unlock(&shard.lock)
    refund(area, paid)
    count(w.counters, Counter.backed_pages, -1)
    count(w.counters, Counter.promoted_pages, 1)


cdef void promote_copy(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset,
                       const uint8_t *page) noexcept nogil:
    """The same for a page that the caller has as the store has it, if it is there."""
    cdef zsw_area *area = find_area(e, type, offset)
    cdef zsw_shard *shard = NULL
    cdef uint32_t *slot
    cdef uint32_t pos, seen = 0
    if area != NULL:
        shard = area_shard(&e.index, area, offset >> SHARD_SHIFT)
    if shard == NULL:
        return
    zsw_lock(&shard.lock)
    slot = shard_find(&e.index, shard, offset & (SHARD_PAGES - 1), &pos)
    if slot != NULL:
        seen = slot[0]
    zsw_unlock(&shard.lock)
    if is_backed(seen):
        promote(e, w, area, shard, offset, seen, page)
