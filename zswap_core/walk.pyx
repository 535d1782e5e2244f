# cython: language_level=3
"""Looking around an area: which shards, which offsets, how many pages."""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.index cimport (area_shard, area_shards, RUN_PAGES, shard_collect, SHARD_PAGES,
                               SHARD_SHIFT, shard_table, zsw_area, zsw_shard)
from zswap_core.lookup cimport find_area
from zswap_core.os cimport zsw_load_ptr, zsw_load_u32, zsw_lock, zsw_peek_u32, zsw_unlock
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
