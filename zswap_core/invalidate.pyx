"""Invalidate: unlink entries from index and LRU under the locks, free them after."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from zswap_core.entries cimport entry_at, put_entries
from zswap_core.entry cimport IN_TRANSIT, is_backed, is_entry
from zswap_core.index cimport (
    area_shard, is_clean, RUN_PAGES, RUN_SHIFT, set_clean, shard_collect, shard_erase_run,
    shard_find, SHARD_PAGES, SHARD_SHIFT, shard_table, zsw_area, zsw_shard,
)
from zswap_core.lookup cimport find_area
from zswap_core.lru cimport lru_stamp
from zswap_core.os cimport (
    zsw_likely, zsw_load_ptr, zsw_load_u32, zsw_lock, zsw_peek_u32, zsw_prefetch_write,
    zsw_sleep_ns, zsw_unlock,
)
from zswap_core.slab cimport slab_at
from zswap_core.slots cimport change_slot, TRANSIT_NS
from zswap_core.state cimport zsw_engine, zsw_worker
from zswap_core.stats cimport count, Counter
from zswap_core.transit cimport discard_backed


cdef enum:
    NOWHERE = SHARD_PAGES       # a place that no page has


cdef bint take_clean(zsw_engine *e, zsw_worker *w, zsw_shard *shard, uint32_t where) noexcept nogil:
    """Puts the slot of an entry in transit if the backing store has its page as well."""
    cdef uint32_t pos
    cdef uint32_t *slot
    if zsw_likely(zsw_peek_u32(&e.index.cleans) == 0):
        return False
    slot = shard_find(&e.index, shard, where, &pos)
    if not is_clean(&e.index, pos):
        return False
    slot[0] = IN_TRANSIT
    set_clean(&e.index, pos, False)
    count(w.counters, Counter.backed_pages, 1)
    return True


cdef uint64_t invalidate_shard(zsw_engine *e, zsw_worker *w, zsw_area *area, zsw_shard *shard,
                               uint32_t first, uint32_t last) noexcept nogil:
    """Erases what the shard holds in first..last (inclusive), one run's worth at a time; returns
    how many pages that were."""
    cdef uint32_t where[RUN_PAGES]
    cdef uint32_t ids[RUN_PAGES]
    cdef uint64_t offsets[RUN_PAGES]
    cdef uint32_t i, found, entries, backed, cleans, transit, run, number
    cdef uint64_t gone
    cdef uint32_t *slot
    cdef uint32_t pos
    cdef uint64_t total = 0
    while True:
        zsw_lock(&shard.lock)
        found = shard_collect(&e.index, shard, first, last, where, ids, RUN_PAGES)
        entries = backed = cleans = transit = run = 0
        gone = 0
        for i in range(found):
            if is_entry(ids[i]):
                zsw_prefetch_write(entry_at(e, ids[i]))
                zsw_prefetch_write(lru_stamp(&e.entries, ids[i]))
        for i in range(found):
            change_slot(e, shard, ids[i], 0)
            if is_entry(ids[i]) and take_clean(e, w, shard, where[i]):
                continue                        # its copy has to go as well
            if is_entry(ids[i]):
                number = where[i] >> RUN_SHIFT
                if number != run and gone:
                    shard_erase_run(&e.index, shard, run, gone)
                    gone = 0
                run = number
                gone |= <uint64_t> 1 << (where[i] & (RUN_PAGES - 1))
                where[i] = NOWHERE
            elif is_backed(ids[i]):
                slot = shard_find(&e.index, shard, where[i], &pos)
                slot[0] = IN_TRANSIT
            else:
                where[i] = NOWHERE
                transit += 1
        if gone:
            shard_erase_run(&e.index, shard, run, gone)
        zsw_unlock(&shard.lock)
        for i in range(found):
            if is_entry(ids[i]):
                ids[entries] = ids[i]
                entries += 1
                if where[i] != NOWHERE:
                    cleans += 1
            if where[i] != NOWHERE:
                offsets[backed] = shard.number << SHARD_SHIFT | where[i]
                backed += 1
        put_entries(e, w, ids, entries)
        if backed:
            discard_backed(e, w, area, shard, offsets, backed)
        total += entries + backed - cleans
        if transit:
            zsw_sleep_ns(TRANSIT_NS)            # another call has them: it ends soon
        elif found < RUN_PAGES:
            return total


cdef uint64_t invalidate_area(zsw_engine *e, zsw_worker *w, zsw_area *area, uint64_t first,
                              uint64_t last) noexcept nogil:
    cdef uint64_t first_shard = first >> SHARD_SHIFT, last_shard = last >> SHARD_SHIFT
    cdef uint64_t slot, total = 0
    cdef uint32_t id, lo, hi
    cdef shard_table *table
    cdef zsw_shard *shard
    if first_shard == last_shard:
        shard = area_shard(&e.index, area, first_shard)
        if shard != NULL:
            total = invalidate_shard(e, w, area, shard, first & (SHARD_PAGES - 1),
                                     last & (SHARD_PAGES - 1))
    else:
        # What is stored meanwhile may stay; what was there before is in this table.
        table = <shard_table *> zsw_load_ptr(<void **> &area.table)
        for slot in range(table.mask + 1):
            id = zsw_load_u32(&table.slots[slot])
            if id == 0:
                continue
            shard = <zsw_shard *> slab_at(&e.index.shards, id)
            if shard.number < first_shard or shard.number > last_shard:
                continue
            lo = first & (SHARD_PAGES - 1) if shard.number == first_shard else 0
            hi = last & (SHARD_PAGES - 1) if shard.number == last_shard else SHARD_PAGES - 1
            total += invalidate_shard(e, w, area, shard, lo, hi)
    count(w.counters, Counter.invalidates, <int64_t> total)
    return total


cdef uint64_t engine_invalidate(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t first,
                                uint64_t last) noexcept nogil:
    """Frees the pages at first..last (inclusive); returns how many were held."""
    cdef zsw_area *area = find_area(e, type, first)
    if area == NULL or last < first:
        return 0
    return invalidate_area(e, w, area, first, last)
