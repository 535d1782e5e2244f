"""Looking around an area: which offsets are held and which are not, and what they weigh."""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.entries cimport entry_at
from zswap_core.entry cimport entry_same, is_entry, word_length, zsw_entry
from zswap_core.index cimport (
    area_shard, area_shards, RUN_PAGES, shard_collect, shard_hole, SHARD_PAGES, SHARD_SHIFT,
    shard_table, zsw_area, zsw_shard,
)
from zswap_core.lookup cimport find_area
from zswap_core.os cimport (
    zsw_load_ptr, zsw_load_u32, zsw_lock, zsw_peek_u32, zsw_peek_u64, zsw_unlock,
)
from zswap_core.slab cimport slab_at
from zswap_core.state cimport zsw_engine


cdef uint64_t engine_shards(zsw_engine *e, uint32_t type, uint64_t *numbers,
                            uint64_t capacity) noexcept nogil:
    """Numbers of the area's shards, unsorted; returns how many there are, and writes up to
    `capacity`."""
    cdef zsw_area *area = find_area(e, type, 0)
    return area_shards(&e.index, area, 0, <uint64_t> -1, numbers, capacity) if area != NULL else 0


cdef uint32_t engine_shard_offsets(zsw_engine *e, uint32_t type, uint64_t number, uint64_t *offsets,
                                   uint32_t capacity) noexcept nogil:
    """Offsets held in a shard, in order, up to `capacity`."""
    cdef zsw_area *area = find_area(e, type, number << SHARD_SHIFT)
    cdef zsw_shard *shard = area_shard(&e.index, area, number) if area != NULL else NULL
    cdef uint32_t where[RUN_PAGES]
    cdef uint32_t ids[RUN_PAGES]
    cdef uint32_t found = 0, got, i, start = 0
    while shard != NULL and found < capacity and start < SHARD_PAGES:
        zsw_lock(&shard.lock)
        got = shard_collect(&e.index, shard, start, SHARD_PAGES - 1, where, ids,
                            RUN_PAGES if capacity - found > RUN_PAGES else capacity - found)
        zsw_unlock(&shard.lock)
        if got == 0:
            break
        for i in range(got):
            offsets[found + i] = number << SHARD_SHIFT | where[i]
        found += got
        start = where[got - 1] + 1
    return found


cdef uint64_t engine_area_pages(zsw_engine *e, uint32_t type) noexcept nogil:
    """How many pages an area holds."""
    cdef zsw_area *area = find_area(e, type, 0)
    cdef shard_table *table
    cdef uint64_t slot, pages = 0
    cdef uint32_t id
    if area != NULL:
        table = <shard_table *> zsw_load_ptr(<void **> &area.table)
        for slot in range(table.mask + 1):
            id = zsw_load_u32(&table.slots[slot])
            if id:
                pages += zsw_peek_u32(&(<zsw_shard *> slab_at(&e.index.shards, id)).pages)
    return pages


cdef zsw_shard *shard_from(zsw_engine *e, zsw_area *area, uint64_t number) noexcept nogil:
    """The first shard from that number on which is not empty, or NULL."""
    cdef shard_table *table = <shard_table *> zsw_load_ptr(<void **> &area.table)
    cdef zsw_shard *first = NULL
    cdef zsw_shard *shard
    cdef uint64_t slot
    cdef uint32_t id
    for slot in range(table.mask + 1):
        id = zsw_load_u32(&table.slots[slot])
        if id:
            shard = <zsw_shard *> slab_at(&e.index.shards, id)
            if (shard.number >= number and zsw_peek_u32(&shard.pages)
                    and (first == NULL or shard.number < first.number)):
                first = shard
    return first


cdef uint32_t first_place(const zsw_shard *shard, uint64_t offset) noexcept nogil:
    """The place of the offset in its shard; 0 in a later one."""
    return <uint32_t> offset & (SHARD_PAGES - 1) if offset >> SHARD_SHIFT == shard.number else 0


cdef bint engine_next_held(zsw_engine *e, uint32_t type, uint64_t *offset) noexcept nogil:
    """Goes on to the first offset, from the given one on, at which a page is held; False when there
    is none."""
    cdef zsw_area *area = find_area(e, type, offset[0])
    cdef zsw_shard *shard = NULL
    cdef uint32_t where, id, got
    if area != NULL:
        shard = shard_from(e, area, offset[0] >> SHARD_SHIFT)
    while shard != NULL:
        zsw_lock(&shard.lock)
        got = shard_collect(&e.index, shard, first_place(shard, offset[0]), SHARD_PAGES - 1,
                            &where, &id, 1)
        zsw_unlock(&shard.lock)
        if got:
            offset[0] = shard.number << SHARD_SHIFT | where
            return True
        shard = shard_from(e, area, shard.number + 1)
    return False


cdef bint engine_next_hole(zsw_engine *e, uint32_t type, uint64_t *offset) noexcept nogil:
    """Goes on to the first offset, from the given one on, at which no page is held, the area's end
    at the latest; False when the area has no such offset."""
    cdef zsw_area *area = find_area(e, type, offset[0])
    cdef zsw_shard *shard
    cdef uint32_t where = SHARD_PAGES
    if area == NULL:
        return False
    while where == SHARD_PAGES:
        where = <uint32_t> offset[0] & (SHARD_PAGES - 1)
        shard = area_shard(&e.index, area, offset[0] >> SHARD_SHIFT)
        if shard != NULL:
            zsw_lock(&shard.lock)
            where = shard_hole(&e.index, shard, where)
            zsw_unlock(&shard.lock)
        offset[0] = (offset[0] & ~(<uint64_t> SHARD_PAGES - 1)) + where
    offset[0] = min(offset[0], zsw_peek_u64(&area.nr_pages))
    return True


cdef void weigh(zsw_engine *e, const uint32_t *ids, uint32_t n, zsw_weight *weight) noexcept nogil:
    """Under the shard's lock."""
    cdef zsw_entry *entry
    cdef uint32_t i
    weight.pages += n
    for i in range(n):
        if not is_entry(ids[i]):
            weight.backed += 1
            continue
        entry = entry_at(e, ids[i])
        if entry_same(entry):
            weight.same_filled += 1
        else:
            weight.bytes += word_length(entry.word)


cdef void engine_weigh(zsw_engine *e, uint32_t type, uint64_t first, uint64_t last,
                       zsw_weight *weight) noexcept nogil:
    """What is held at first..last (inclusive)."""
    cdef zsw_area *area = find_area(e, type, first)
    cdef zsw_shard *shard = NULL
    cdef uint32_t where[RUN_PAGES]
    cdef uint32_t ids[RUN_PAGES]
    cdef uint32_t got, start, end
    weight.pages = weight.same_filled = weight.backed = weight.bytes = 0
    if area != NULL:
        shard = shard_from(e, area, first >> SHARD_SHIFT)
    while shard != NULL and shard.number <= last >> SHARD_SHIFT:
        start, end = first_place(shard, first), SHARD_PAGES - 1
        if shard.number == last >> SHARD_SHIFT:
            end = <uint32_t> last & (SHARD_PAGES - 1)
        while start <= end:
            zsw_lock(&shard.lock)
            got = shard_collect(&e.index, shard, start, end, where, ids, RUN_PAGES)
            weigh(e, ids, got, weight)
            zsw_unlock(&shard.lock)
            if got == 0:
                break
            start = where[got - 1] + 1
        shard = shard_from(e, area, shard.number + 1)
