"""The sharded interval index.

An area maps offsets to entries in three steps: a hash table finds the shard of 64 MiB that an
offset lies in; the shard knows by a bitmap which of its 256 runs exist; a run knows by a bitmap
which of its 64 pages are held.  Behind each bitmap lies an array with one id for each set bit, in
order, so the place of an id is the number of set bits before its own.  Arrays come in four sizes
and grow fourfold, so a lone page costs about 150 bytes and a dense page 4.4.

Newer kernels moved from a red-black tree a shard to a radix tree for the same reason that there is
no tree here: four dependent loads find any entry, however many there are, with nothing to
rebalance, while ranges and order stay natural. docs/design.md has the comparison.

Shards are added under `area.grow` and found without a lock: a table only ever gains shards, each
published by one store of its id.  Empty shards are removed by building a table without them, which
then takes the old one's place.  Both, the old table and the shards that are not in the new one, are
garbage: calls in flight may still look at them, so they are kept until those have ended.  reap.pyx
knows when that is, and calls index_turn.
"""
from libc.errno cimport ENOMEM
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset

from zswap_core.fault cimport fault, Site
from zswap_core.os cimport (
    zsw_add_i64, zsw_add_u32, zsw_add_u64, zsw_ctz, zsw_likely, zsw_load_ptr, zsw_load_u32,
    zsw_lock, zsw_map_as, ZSW_MAP_NO_FORK, zsw_peek_u8, zsw_peek_u32, zsw_peek_u64, zsw_poke_u8,
    zsw_poke_u32, zsw_poke_u64, zsw_popcount, zsw_store_ptr, zsw_store_u32, zsw_unlikely,
    zsw_unlock, zsw_unmap,
)
from zswap_core.slab cimport (
    ANY_ID, meter_move, slab_at, slab_bytes, slab_check_begin, slab_check_claim, slab_check_end,
    slab_destroy, slab_give, slab_init, slab_peek, slab_take,
)


cdef enum:
    TABLE_SLOTS = 128       # of the smallest table
    REAP_AT = 64            # empty shards that are not worth removing


# ---- set-up --------------------------------------------------------------------------------------


cdef void index_init(zsw_index *ix) noexcept nogil:
    cdef int kind
    memset(ix, 0, sizeof(zsw_index))
    ix.reap_at = REAP_AT
    slab_init(&ix.shards, sizeof(zsw_shard), ANY_ID)
    slab_init(&ix.runs, sizeof(zsw_run), POS_RUN_MAX + 1)
    for kind in range(ARRAY_KINDS):
        slab_init(&ix.arrays[kind], <size_t> 16 << 2 * kind, ANY_ID)
    slab_init(&ix.sums, RUN_PAGES * sizeof(uint32_t), ANY_ID)
    slab_init(&ix.values, RUN_PAGES * (sizeof(uint32_t) + sizeof(uint16_t)), ANY_ID)


cdef void index_protect(zsw_index *ix, bint wipe, uint32_t pages) noexcept nogil:
    """How memory with what is made of pages is to be mapped, and whether it is wiped.  A forked
    child keeps the rest: a call that forks, in a compressor written in Python, goes on in both."""
    cdef int kind
    ix.wipe = wipe
    ix.mapping = ix.shards.mapping = ix.runs.mapping = pages & ~ZSW_MAP_NO_FORK
    for kind in range(ARRAY_KINDS):
        ix.arrays[kind].mapping = ix.mapping
    ix.sums.mapping = ix.values.mapping = pages


cdef void index_meter(zsw_index *ix, uint64_t *meter) noexcept nogil:
    """Where its memory is to be counted.  Before there is any."""
    cdef int kind
    ix.meter = ix.shards.meter = ix.runs.meter = ix.sums.meter = ix.values.meter = meter
    for kind in range(ARRAY_KINDS):
        ix.arrays[kind].meter = meter


cdef void index_destroy(zsw_index *ix) noexcept nogil:
    cdef int kind
    free_tables(&ix.unlinked.tables)
    free_tables(&ix.condemned.tables)
    slab_destroy(&ix.shards)
    slab_destroy(&ix.runs)
    for kind in range(ARRAY_KINDS):
        slab_destroy(&ix.arrays[kind])
    slab_destroy(&ix.sums)
    slab_destroy(&ix.values)


# ---- arrays of ids -------------------------------------------------------------------------------


cdef inline uint32_t kind_capacity(uint32_t kind) noexcept nogil:
    return <uint32_t> 4 << 2 * kind


cdef inline uint32_t *array_at(const zsw_index *ix, uint32_t kind, uint32_t array) noexcept nogil:
    return <uint32_t *> slab_at(&ix.arrays[kind], array)


cdef int array_resize(zsw_index *ix, uint32_t *array, uint32_t *kind, uint32_t to,
                      uint32_t count) noexcept nogil:
    """Moves `count` ids to an array of kind `to`."""
    cdef uint32_t fresh
    if slab_take(&ix.arrays[to], &fresh, 1) != 1:
        return -ENOMEM
    memcpy(array_at(ix, to, fresh), array_at(ix, kind[0], array[0]), count * sizeof(uint32_t))
    slab_give(&ix.arrays[kind[0]], array, 1)
    array[0] = fresh
    kind[0] = to
    return 0


cdef int array_insert(zsw_index *ix, uint32_t *array, uint32_t *kind, uint32_t count, uint32_t rank,
                      uint32_t value) noexcept nogil:
    """Puts `value` before place `rank` of an array of `count` ids; an array of none is
    allocated."""
    cdef uint32_t *ids
    if count == 0:
        if slab_take(&ix.arrays[0], array, 1) != 1:
            return -ENOMEM
        kind[0] = 0
    elif count == kind_capacity(kind[0]) and array_resize(ix, array, kind, kind[0] + 1, count) != 0:
        return -ENOMEM
    ids = array_at(ix, kind[0], array[0])
    memmove(ids + rank + 1, ids + rank, (count - rank) * sizeof(uint32_t))
    ids[rank] = value
    return 0


cdef void array_remove(zsw_index *ix, uint32_t *array, uint32_t *kind, uint32_t count,
                       uint32_t rank) noexcept nogil:
    """Takes the id at `rank` out of `count` ids; the last one frees the array."""
    cdef uint32_t *ids = array_at(ix, kind[0], array[0])
    memmove(ids + rank, ids + rank + 1, (count - rank - 1) * sizeof(uint32_t))
    if count == 1:
        slab_give(&ix.arrays[kind[0]], array, 1)
        array[0] = 0
    elif kind[0] and count - 1 <= kind_capacity(kind[0] - 1) // 2:
        # Half of the smaller size, so that an insert does not grow it again; without memory the
        # large one stays.
        array_resize(ix, array, kind, kind[0] - 1, count - 1)


# ---- areas: number -> shard ----------------------------------------------------------------------


cdef shard_table *table_new(uint64_t slots, uint32_t mapping) noexcept nogil:
    cdef size_t size = sizeof(shard_table) + slots * sizeof(uint32_t)
    cdef shard_table *table = NULL
    if fault(Site.AREA_TABLE) == 0:
        table = <shard_table *> zsw_map_as(size, mapping)
    if table != NULL:
        table.mask = slots - 1
        table.map_bytes = size
    return table


cdef uint64_t free_tables(shard_table **first) noexcept nogil:
    """Returns the bytes that went."""
    cdef shard_table *table
    cdef uint64_t size = 0
    while first[0] != NULL:
        table = first[0]
        first[0] = table.next           # before it goes: a forked child must not find what is gone
        size += table.map_bytes
        zsw_unmap(table, table.map_bytes)
    return size


cdef int area_init(zsw_area *area, uint32_t type, uint32_t mapping) noexcept nogil:
    memset(area, 0, sizeof(zsw_area))
    area.type = type
    area.table = table_new(TABLE_SLOTS, mapping)
    return 0 if area.table != NULL else -ENOMEM


cdef void area_destroy(zsw_area *area) noexcept nogil:
    free_tables(&area.table)


cdef zsw_shard *area_shard(const zsw_index *ix, zsw_area *area, uint64_t number) noexcept nogil:
    """The shard of that number, or NULL.  Needs no lock."""
    cdef shard_table *table = <shard_table *> zsw_load_ptr(<void **> &area.table)
    cdef uint64_t slot = number & table.mask, step = 0
    cdef uint32_t id
    cdef zsw_shard *shard
    while True:
        id = zsw_load_u32(&table.slots[slot])
        if id == 0:
            return NULL
        shard = <zsw_shard *> slab_at(&ix.shards, id)
        if shard.number == number:
            return shard
        slot = next_slot(table, number, slot, &step)


cdef void table_put(shard_table *table, uint64_t number, uint32_t id) noexcept nogil:
    cdef uint64_t slot = number & table.mask, step = 0
    while zsw_peek_u32(&table.slots[slot]) != 0:
        slot = next_slot(table, number, slot, &step)
    zsw_store_u32(&table.slots[slot], id)       # publishes: the shard is complete by now
    table.count += 1


cdef int area_add_shard(zsw_index *ix, zsw_area *area, uint64_t number,
                        zsw_shard **out) noexcept nogil:
    """Finds or makes the shard of that number."""
    cdef shard_table *table
    cdef uint32_t id
    cdef zsw_shard *shard
    cdef int rc = 0
    zsw_lock(&area.grow)
    shard = area_shard(ix, area, number)
    if shard == NULL:
        table = area.table
        if (table.count * 2 > table.mask and area_rebuild(ix, area) != 0
                and table.count == table.mask):
            rc = -ENOMEM                        # one slot must stay free, or a search would not end
        if rc == 0 and slab_take(&ix.shards, &id, 1) != 1:
            rc = -ENOMEM
        if rc == 0:
            shard = <zsw_shard *> slab_at(&ix.shards, id)
            memset(shard, 0, sizeof(zsw_shard))
            shard.type = area.type
            shard.number = number
            shard.id = id
            shard.tallied = area.tallied
            shard.variable = area.variable
            table_put(area.table, number, id)
    zsw_unlock(&area.grow)
    out[0] = shard
    return rc


cdef zsw_shard *area_lock_shard(zsw_index *ix, zsw_area *area, uint64_t number) noexcept nogil:
    """Locks the shard of that number, which is made if there is none.  NULL when there is no memory
    for it."""
    cdef zsw_shard *shard = area_shard(ix, area, number)
    while True:
        if zsw_unlikely(shard == NULL) and area_add_shard(ix, area, number, &shard) != 0:
            return NULL
        zsw_lock(&shard.lock)
        if zsw_likely(zsw_peek_u32(&shard.next) == 0):
            return shard
        # It was removed after we had found it.  Whoever does that holds area.grow until the table
        # is without it.
        zsw_unlock(&shard.lock)
        shard = NULL


cdef uint64_t area_shards(const zsw_index *ix, zsw_area *area, uint64_t first, uint64_t last,
                          uint64_t *numbers, uint64_t capacity) noexcept nogil:
    """Numbers of the shards in first..last (inclusive), unsorted; returns how many there are,
    though it writes no more than `capacity`."""
    cdef shard_table *table
    cdef uint64_t slot, count = 0, number
    cdef uint32_t id
    zsw_lock(&area.grow)
    table = area.table
    for slot in range(table.mask + 1):
        id = zsw_peek_u32(&table.slots[slot])
        if id:
            number = (<zsw_shard *> slab_at(&ix.shards, id)).number
            if first <= number <= last:
                if count < capacity:
                    numbers[count] = number
                count += 1
    zsw_unlock(&area.grow)
    return count


cdef void area_vary(zsw_index *ix, zsw_area *area, bint variable) noexcept nogil:
    """Whether lengths are kept of the pages that come; there are none yet, though there may be
    shards of an area that this one was before."""
    cdef shard_table *table
    cdef zsw_shard *shard
    cdef uint64_t slot
    cdef uint32_t id
    zsw_lock(&area.grow)
    area.variable = variable
    table = area.table
    for slot in range(table.mask + 1):
        id = zsw_peek_u32(&table.slots[slot])
        if id:
            shard = <zsw_shard *> slab_at(&ix.shards, id)
            zsw_lock(&shard.lock)
            shard.variable = variable
            zsw_unlock(&shard.lock)
    zsw_unlock(&area.grow)


cdef void area_tally(zsw_index *ix, zsw_area *area, bint tallied) noexcept nogil:
    """Has `used` go along with what the area holds from now on, or not any more."""
    cdef shard_table *table
    cdef zsw_shard *shard
    cdef uint64_t slot
    cdef uint32_t id
    zsw_lock(&area.grow)
    area.tallied = tallied
    table = area.table
    for slot in range(table.mask + 1):
        id = zsw_peek_u32(&table.slots[slot])
        if id == 0:
            continue
        shard = <zsw_shard *> slab_at(&ix.shards, id)
        zsw_lock(&shard.lock)
        if tallied and not shard.tallied:
            zsw_add_i64(&area.used, shard.bytes)
        elif not tallied and shard.tallied:
            zsw_add_i64(&area.used, -<int64_t> shard.bytes)
        shard.tallied = tallied
        zsw_unlock(&shard.lock)
    zsw_unlock(&area.grow)


cdef void area_figures(const zsw_index *ix, zsw_area *area, zsw_area_figures *out) noexcept nogil:
    """Adds up what the shards hold: exact when no call is in flight."""
    cdef shard_table *table = <shard_table *> zsw_load_ptr(<void **> &area.table)
    cdef zsw_shard *shard
    cdef uint64_t slot
    cdef uint32_t id
    memset(out, 0, sizeof(zsw_area_figures))
    for slot in range(table.mask + 1):
        id = zsw_load_u32(&table.slots[slot])
        if id:
            shard = <zsw_shard *> slab_at(&ix.shards, id)
            out.pages += zsw_peek_u32(&shard.pages)
            out.same += zsw_peek_u32(&shard.same)
            out.raw += zsw_peek_u32(&shard.raw)
            out.backed += zsw_peek_u32(&shard.backed)
            out.bytes += zsw_peek_u32(&shard.bytes)


# ---- removing empty shards -----------------------------------------------------------------------


cdef void note_emptied(zsw_index *ix) noexcept nogil:
    if zsw_add_u32(&ix.emptied, 1) >= zsw_peek_u32(&ix.reap_at):
        zsw_store_u32(&ix.reap_due, 1)


cdef bint shard_unlink(zsw_shard *shard, uint32_t *list) noexcept nogil:
    """Marks an empty shard as out of the table and puts it before others that are; False when it
    holds pages."""
    cdef bint empty
    if zsw_peek_u32(&shard.pages) != 0:
        return False
    zsw_lock(&shard.lock)
    empty = shard.pages == 0
    if empty:
        shard.next = list[0] if list[0] else shard.id
        list[0] = shard.id
    zsw_unlock(&shard.lock)
    return empty


cdef uint32_t next_garbage(const zsw_shard *shard) noexcept nogil:
    return shard.next if shard.next != shard.id else 0


cdef void shards_relink(zsw_index *ix, uint32_t list) noexcept nogil:
    cdef zsw_shard *shard
    while list:
        shard = <zsw_shard *> slab_at(&ix.shards, list)
        list = next_garbage(shard)
        zsw_lock(&shard.lock)
        shard.next = 0
        zsw_unlock(&shard.lock)


cdef void discard(zsw_index *ix, shard_table *table, uint32_t shards) noexcept nogil:
    """Makes garbage of a table and a list of shards."""
    cdef uint32_t last = shards
    cdef zsw_shard *shard
    zsw_lock(&ix.garbage_lock)
    table.next = ix.unlinked.tables
    ix.unlinked.tables = table
    if shards:
        shard = <zsw_shard *> slab_at(&ix.shards, last)
        while shard.next != shard.id:
            shard = <zsw_shard *> slab_at(&ix.shards, shard.next)
        if ix.unlinked.shards:
            zsw_poke_u32(&shard.next, ix.unlinked.shards)      # a late finder may be looking
        ix.unlinked.shards = shards
    zsw_unlock(&ix.garbage_lock)
    zsw_store_u32(&ix.reap_due, 1)


cdef int area_rebuild(zsw_index *ix, zsw_area *area) noexcept nogil:
    """Gives the area a table of the size that its shards ask for, without the empty ones.  Under
    area.grow."""
    cdef shard_table *table = area.table
    cdef shard_table *fresh
    cdef uint64_t slot, slots = TABLE_SLOTS, left = 0
    cdef uint32_t id, empty = 0
    cdef zsw_shard *shard
    for slot in range(table.mask + 1):
        id = zsw_peek_u32(&table.slots[slot])
        if id and not shard_unlink(<zsw_shard *> slab_at(&ix.shards, id), &empty):
            left += 1
    while slots < 4 * left:
        slots *= 2
    fresh = table_new(slots, ix.mapping)
    if fresh == NULL:
        shards_relink(ix, empty)
        return -ENOMEM
    meter_move(ix.meter, fresh.map_bytes)
    for slot in range(table.mask + 1):
        id = zsw_peek_u32(&table.slots[slot])
        shard = <zsw_shard *> slab_at(&ix.shards, id)
        if id and shard.next == 0:
            table_put(fresh, shard.number, id)
    zsw_store_ptr(<void **> &area.table, fresh)
    discard(ix, table, empty)
    return 0


cdef uint64_t area_prune(zsw_index *ix, zsw_area *area) noexcept nogil:
    """Removes the empty shards if they are at least as many as the others; returns how many shards
    there are now."""
    cdef shard_table *table
    cdef uint64_t slot, empty = 0, count
    cdef uint32_t id
    zsw_lock(&area.grow)
    table = area.table
    for slot in range(table.mask + 1):
        id = zsw_peek_u32(&table.slots[slot])
        if id:
            empty += zsw_peek_u32(&(<zsw_shard *> slab_at(&ix.shards, id)).pages) == 0
    if empty and 2 * empty >= table.count:
        area_rebuild(ix, area)
    count = area.table.count
    zsw_unlock(&area.grow)
    return count


cdef void index_pruned(zsw_index *ix, uint64_t shards) noexcept nogil:
    """Every area was pruned, and so many shards are left: decides when to do so again."""
    zsw_store_u32(&ix.emptied, 0)
    zsw_store_u32(&ix.reap_at, <uint32_t> (REAP_AT + shards // 2))


cdef void free_shards(zsw_index *ix, uint32_t *first) noexcept nogil:
    cdef uint32_t batch[64]
    cdef uint32_t count
    while first[0]:
        count = 0
        while first[0] and count < 64:
            batch[count] = first[0]
            first[0] = next_garbage(<zsw_shard *> slab_at(&ix.shards, first[0]))
            count += 1
        # before they can be taken: who finds one anew sees that it was freed
        zsw_add_u64(&ix.freed, count)
        slab_give(&ix.shards, batch, count)


cdef bint index_turn(zsw_index *ix) noexcept nogil:
    """To be called once the calls that may have seen the condemned garbage have ended.  Frees it,
    and condemns what came after; True when there was such: then the calls of this moment must end
    before the next turn."""
    cdef bint more
    zsw_lock(&ix.garbage_lock)
    meter_move(ix.meter, -free_tables(&ix.condemned.tables))
    free_shards(ix, &ix.condemned.shards)
    ix.condemned = ix.unlinked
    ix.unlinked.tables = NULL
    ix.unlinked.shards = 0
    more = ix.condemned.tables != NULL or ix.condemned.shards != 0
    zsw_unlock(&ix.garbage_lock)
    return more


# ---- shards: where (the offset's low 14 bits) -> entry id.  All under the shard's lock. ----------


cdef inline uint32_t run_rank(const zsw_shard *shard, uint32_t run) noexcept nogil:
    """How many runs come before this one."""
    cdef uint32_t word = run >> 6, rank = 0, i
    for i in range(word):
        rank += zsw_popcount(shard.present[i])
    return rank + zsw_popcount(shard.present[word] & ((<uint64_t> 1 << (run & 63)) - 1))


cdef inline uint32_t run_count(const zsw_shard *shard) noexcept nogil:
    return (zsw_popcount(shard.present[0]) + zsw_popcount(shard.present[1])
            + zsw_popcount(shard.present[2]) + zsw_popcount(shard.present[3]))


cdef inline uint32_t shard_run(const zsw_index *ix, const zsw_shard *shard,
                               uint32_t run) noexcept nogil:
    """The id of run number `run`, or 0."""
    if not shard.present[run >> 6] >> (run & 63) & 1:
        return 0
    return array_at(ix, shard.runs_kind, shard.runs)[run_rank(shard, run)]


cdef uint32_t *shard_find(const zsw_index *ix, zsw_shard *shard, uint32_t where,
                          uint32_t *pos) noexcept nogil:
    """The slot that holds the entry id at `where`, and its name for the entry; NULL when there is
    none."""
    cdef uint32_t id = shard_run(ix, shard, where >> RUN_SHIFT)
    cdef uint64_t bit = <uint64_t> 1 << (where & (RUN_PAGES - 1))
    cdef zsw_run *run
    if id == 0:
        return NULL
    run = <zsw_run *> slab_at(&ix.runs, id)
    if not run.present & bit:
        return NULL
    pos[0] = id << RUN_SHIFT | where & (RUN_PAGES - 1)
    return array_at(ix, run.slots_kind, run.slots) + zsw_popcount(run.present & (bit - 1))


cdef uint32_t *array_peek(const zsw_index *ix, uint32_t kind, uint32_t array,
                          uint32_t rank) noexcept nogil:
    cdef uint32_t *ids
    if kind >= ARRAY_KINDS or rank >= kind_capacity(kind):
        return NULL
    ids = <uint32_t *> slab_peek(&ix.arrays[kind], array)
    return ids + rank if ids != NULL else NULL


cdef uint32_t *run_id_peek(const zsw_index *ix, const zsw_shard *shard,
                           uint32_t where) noexcept nogil:
    """Where the id of the run that `where` lies in should be, or NULL.  Like the next two it is for
    readers without the shard's lock: they find out as much as they can, and it may be anything."""
    cdef uint32_t number = where >> RUN_SHIFT
    if not shard.present[number >> 6] >> (number & 63) & 1:
        return NULL
    return array_peek(ix, zsw_peek_u32(&shard.runs_kind), zsw_peek_u32(&shard.runs),
                      run_rank(shard, number))


cdef zsw_run *run_peek(const zsw_index *ix, uint32_t id) noexcept nogil:
    return <zsw_run *> slab_peek(&ix.runs, id)


cdef uint32_t *slot_peek(const zsw_index *ix, const zsw_run *run, uint32_t where) noexcept nogil:
    """The slot at `where` in its run, or NULL."""
    cdef uint64_t bit = <uint64_t> 1 << (where & (RUN_PAGES - 1))
    cdef uint64_t present = zsw_peek_u64(&run.present)
    if not present & bit:
        return NULL
    return array_peek(ix, zsw_peek_u8(&run.slots_kind), zsw_peek_u32(&run.slots),
                      zsw_popcount(present & (bit - 1)))


cdef int shard_reserve(zsw_index *ix, zsw_shard *shard, uint32_t where, uint32_t **slot,
                       uint32_t *pos) noexcept nogil:
    """As shard_find, but makes a slot, holding 0, where there is none.  On -ENOMEM nothing has
    changed."""
    cdef uint32_t number = where >> RUN_SHIFT, kind, id, rank
    cdef uint64_t bit = <uint64_t> 1 << (where & (RUN_PAGES - 1))
    cdef zsw_run *run
    cdef bint fresh = False
    id = shard_run(ix, shard, number)
    if id == 0:
        if slab_take(&ix.runs, &id, 1) != 1:
            return -ENOMEM
        fresh = True
        run = <zsw_run *> slab_at(&ix.runs, id)
        run.slots = run.sums = 0
        run.clean = 0
        run.variable = shard.variable != 0
        zsw_poke_u64(&run.present, 0)           # whoever has the id from before may look
        zsw_poke_u8(&run.slots_kind, 0)
        zsw_poke_u8(&run.number, <uint8_t> number)
        if ((has_sums(ix, run) and slab_take(sums_slab(ix, run), &run.sums, 1) != 1)
            or array_insert(ix, &shard.runs, &shard.runs_kind, run_count(shard),
                            run_rank(shard, number), id) != 0):
            free_run(ix, id)
            return -ENOMEM
        shard.present[number >> 6] |= <uint64_t> 1 << (number & 63)
        zsw_store_u32(&run.shard, shard.id)
    run = <zsw_run *> slab_at(&ix.runs, id)
    rank = zsw_popcount(run.present & (bit - 1))
    if not run.present & bit:
        kind = run.slots_kind
        if array_insert(ix, &run.slots, &kind, zsw_popcount(run.present), rank, 0) != 0:
            if fresh:
                drop_run(ix, shard, number, id)
            return -ENOMEM
        run.slots_kind = <uint8_t> kind
        run.present |= bit
        zsw_poke_u32(&shard.pages, shard.pages + 1)
    slot[0] = array_at(ix, run.slots_kind, run.slots) + rank
    pos[0] = id << RUN_SHIFT | where & (RUN_PAGES - 1)
    return 0


cdef uint32_t *sum_at(const zsw_index *ix, uint32_t pos) noexcept nogil:
    """Where the checksum of the page at `pos` is, in an index that keeps them.  It stays as long as
    the slot does."""
    return sums_of(ix, <zsw_run *> slab_at(&ix.runs, pos >> RUN_SHIFT)) + (pos & (RUN_PAGES - 1))


cdef inline uint32_t *sums_of(const zsw_index *ix, const zsw_run *run) noexcept nogil:
    return <uint32_t *> slab_at(&ix.values if zsw_unlikely(run.variable) else &ix.sums, run.sums)


cdef inline bint has_sums(const zsw_index *ix, const zsw_run *run) noexcept nogil:
    return ix.checksums != 0 or run.variable != 0


cdef inline zsw_slab *sums_slab(zsw_index *ix, const zsw_run *run) noexcept nogil:
    return &ix.values if run.variable else &ix.sums


cdef inline uint16_t *length_at(const zsw_index *ix, uint32_t pos) noexcept nogil:
    return (<uint16_t *> (sums_of(ix, <zsw_run *> slab_at(&ix.runs, pos >> RUN_SHIFT)) + RUN_PAGES)
            + (pos & (RUN_PAGES - 1)))


cdef uint32_t value_length(const zsw_index *ix, uint32_t pos) noexcept nogil:
    """Bytes of the value at `pos`, of a shard that is variable.  It stays with the slot, whether
    the page is in the pool or in the backing store."""
    return <uint32_t> length_at(ix, pos)[0] + 1


cdef void set_value_length(zsw_index *ix, uint32_t pos, uint32_t length) noexcept nogil:
    length_at(ix, pos)[0] = <uint16_t> (length - 1)


cdef void wipe_sums(zsw_index *ix, zsw_run *run, uint64_t gone) noexcept nogil:
    """Of pages that are leaving a run."""
    cdef uint32_t *sums
    if run.sums:
        sums = sums_of(ix, run)
        while gone:
            sums[zsw_ctz(gone)] = 0
            gone &= gone - 1


cdef void free_run(zsw_index *ix, uint32_t id) noexcept nogil:
    cdef zsw_run *run = <zsw_run *> slab_at(&ix.runs, id)
    if run.sums:
        slab_give(sums_slab(ix, run), &run.sums, 1)
    slab_give(&ix.runs, &id, 1)


cdef void drop_run(zsw_index *ix, zsw_shard *shard, uint32_t number, uint32_t id) noexcept nogil:
    zsw_store_u32(&(<zsw_run *> slab_at(&ix.runs, id)).shard, 0)
    array_remove(ix, &shard.runs, &shard.runs_kind, run_count(shard), run_rank(shard, number))
    shard.present[number >> 6] &= ~(<uint64_t> 1 << (number & 63))
    free_run(ix, id)


cdef void shard_erase(zsw_index *ix, zsw_shard *shard, uint32_t where) noexcept nogil:
    """Removes the slot at `where`, which must exist."""
    cdef uint32_t number = where >> RUN_SHIFT, id = shard_run(ix, shard, number), kind
    cdef uint64_t bit = <uint64_t> 1 << (where & (RUN_PAGES - 1))
    cdef zsw_run *run = <zsw_run *> slab_at(&ix.runs, id)
    kind = run.slots_kind
    if zsw_unlikely(ix.wipe):
        wipe_sums(ix, run, bit)
    array_remove(ix, &run.slots, &kind, zsw_popcount(run.present),
                 zsw_popcount(run.present & (bit - 1)))
    run.slots_kind = <uint8_t> kind
    run.present &= ~bit
    run.clean &= ~bit
    zsw_poke_u32(&shard.pages, shard.pages - 1)
    if run.present == 0:
        drop_run(ix, shard, number, id)
    if shard.pages == 0:
        note_emptied(ix)


cdef void array_keep(zsw_index *ix, uint32_t *array, uint32_t *kind, uint64_t present,
                     uint64_t kept) noexcept nogil:
    """Of the ids that belong to the bits of `present`, in order, leaves those of `kept`; without
    any the array is freed."""
    cdef uint32_t *ids = array_at(ix, kind[0], array[0])
    cdef uint32_t to = kind[0], i = 0, count = 0
    if kept == 0:
        slab_give(&ix.arrays[kind[0]], array, 1)
        array[0] = 0
        return
    while present:
        if kept & present & -present:
            ids[count] = ids[i]
            count += 1
        i += 1
        present &= present - 1
    while to and count <= kind_capacity(to - 1) // 2:
        to -= 1
    if to != kind[0]:
        array_resize(ix, array, kind, to, count)


cdef void shard_erase_run(zsw_index *ix, zsw_shard *shard, uint32_t number,
                          uint64_t gone) noexcept nogil:
    """Removes the slots of run `number` whose bits are in `gone`; all must exist."""
    cdef uint32_t id = shard_run(ix, shard, number), kind
    cdef zsw_run *run = <zsw_run *> slab_at(&ix.runs, id)
    kind = run.slots_kind
    if zsw_unlikely(ix.wipe):
        wipe_sums(ix, run, gone)
    array_keep(ix, &run.slots, &kind, run.present, run.present & ~gone)
    run.slots_kind = <uint8_t> kind
    run.present &= ~gone
    run.clean &= ~gone
    zsw_poke_u32(&shard.pages, shard.pages - zsw_popcount(gone))
    if run.present == 0:
        drop_run(ix, shard, number, id)
    if shard.pages == 0:
        note_emptied(ix)


cdef uint32_t shard_hole(const zsw_index *ix, const zsw_shard *shard,
                         uint32_t first) noexcept nogil:
    """The first place from there on at which no page is held; SHARD_PAGES when all are."""
    cdef uint32_t run = first >> RUN_SHIFT, id
    cdef uint64_t holes = ~<uint64_t> 0 << (first & (RUN_PAGES - 1))
    while run < SHARD_RUNS:
        id = shard_run(ix, shard, run)
        if id != 0:
            holes &= ~(<zsw_run *> slab_at(&ix.runs, id)).present
        if holes != 0:
            return run << RUN_SHIFT | zsw_ctz(holes)
        holes = ~<uint64_t> 0
        run += 1
    return SHARD_PAGES


cdef uint32_t shard_collect(const zsw_index *ix, zsw_shard *shard, uint32_t first, uint32_t last,
                            uint32_t *where, uint32_t *ids, uint32_t capacity) noexcept nogil:
    """The held pages in first..last (inclusive), in order, up to `capacity` of them: their places
    and entry ids."""
    cdef uint32_t count = 0, run, lo, hi, bit
    cdef uint32_t id
    cdef uint32_t *slots
    cdef uint64_t left
    cdef zsw_run *r
    cdef uint64_t runs
    run = first >> RUN_SHIFT
    while run <= last >> RUN_SHIFT and count < capacity:
        runs = shard.present[run >> 6] >> (run & 63)
        if runs == 0:
            run = (run | 63) + 1
            continue
        run += zsw_ctz(runs)
        if run > last >> RUN_SHIFT:
            break
        id = shard_run(ix, shard, run)
        r = <zsw_run *> slab_at(&ix.runs, id)
        slots = array_at(ix, r.slots_kind, r.slots)
        lo = first - (run << RUN_SHIFT) if first > run << RUN_SHIFT else 0
        hi = RUN_PAGES - 1
        if last < (run << RUN_SHIFT | hi):
            hi = last - (run << RUN_SHIFT)
        left = r.present & (<uint64_t> -1 << lo) & (<uint64_t> -1 >> (63 - hi))
        while left and count < capacity:
            bit = zsw_ctz(left)
            where[count] = run << RUN_SHIFT | bit
            ids[count] = slots[zsw_popcount(r.present & ((<uint64_t> 1 << bit) - 1))]
            count += 1
            left &= left - 1
        run += 1
    return count


cdef zsw_shard *pos_shard(const zsw_index *ix, uint32_t pos, uint32_t *where) noexcept nogil:
    """The shard and place an entry's `pos` names, or NULL.  Without the shard's lock it is only a
    hint: the run may have gone and come back elsewhere, so lock the shard and look again."""
    # The place may have been read before the table of the slab that knows its run.
    cdef zsw_run *run = run_peek(ix, pos >> RUN_SHIFT) if pos != 0 else NULL
    cdef uint32_t shard = zsw_load_u32(&run.shard) if run != NULL else 0
    if shard == 0:
        return NULL
    where[0] = <uint32_t> zsw_peek_u8(&run.number) << RUN_SHIFT | pos & (RUN_PAGES - 1)
    return <zsw_shard *> slab_at(&ix.shards, shard)


# ---- figures and checks --------------------------------------------------------------------------


cdef uint64_t tables_bytes(const shard_table *table) noexcept nogil:
    cdef uint64_t size = 0
    while table != NULL:
        size += table.map_bytes
        table = table.next
    return size


cdef uint64_t index_bytes(zsw_index *ix) noexcept nogil:
    cdef uint64_t size = slab_bytes(&ix.shards) + slab_bytes(&ix.runs)
    cdef int kind
    for kind in range(ARRAY_KINDS):
        size += slab_bytes(&ix.arrays[kind])
    size += slab_bytes(&ix.sums) + slab_bytes(&ix.values)
    zsw_lock(&ix.garbage_lock)
    size += tables_bytes(ix.unlinked.tables) + tables_bytes(ix.condemned.tables)
    zsw_unlock(&ix.garbage_lock)
    return size


cdef uint64_t area_bytes(zsw_area *area) noexcept nogil:
    cdef uint64_t size
    zsw_lock(&area.grow)
    size = sizeof(zsw_area) + area.table.map_bytes
    zsw_unlock(&area.grow)
    return size


cdef int index_check_begin(zsw_index *ix, index_claims *claims) noexcept nogil:
    """Claims the shards that were removed, too."""
    cdef int kind, rc
    memset(claims, 0, sizeof(index_claims))
    rc = slab_check_begin(&ix.shards, &claims.shards)
    if rc == 0:
        rc = slab_check_begin(&ix.runs, &claims.runs)
    for kind in range(ARRAY_KINDS):
        if rc == 0:
            rc = slab_check_begin(&ix.arrays[kind], &claims.arrays[kind])
    if rc == 0:
        rc = slab_check_begin(&ix.sums, &claims.sums)
    if rc == 0:
        rc = slab_check_begin(&ix.values, &claims.values)
    if rc == 0:
        rc = garbage_check(ix, claims, ix.unlinked.shards)
    if rc == 0:
        rc = garbage_check(ix, claims, ix.condemned.shards)
    return rc


cdef int garbage_check(zsw_index *ix, index_claims *claims, uint32_t id) noexcept nogil:
    """Removed shards are empty, and end with one that names itself."""
    cdef zsw_shard *shard
    while id:
        if slab_check_claim(&ix.shards, claims.shards, id) != 0:
            return -27
        shard = <zsw_shard *> slab_at(&ix.shards, id)
        if shard.id != id or shard.next == 0:
            return -27
        if shard.pages != 0 or run_count(shard) != 0:
            return -28
        id = next_garbage(shard)
    return 0


cdef int array_check(zsw_index *ix, index_claims *claims, uint32_t kind, uint32_t array,
                     uint32_t count) noexcept nogil:
    """The array is its owner's alone and holds so many ids."""
    if kind >= ARRAY_KINDS or count > kind_capacity(kind):
        return -22
    return slab_check_claim(&ix.arrays[kind], claims.arrays[kind], array)


cdef int run_check(zsw_index *ix, index_claims *claims, zsw_area *area, zsw_shard *shard,
                   uint32_t id, uint32_t number, index_visit visit, void *context) noexcept nogil:
    cdef zsw_run *run = <zsw_run *> slab_at(&ix.runs, id)
    cdef uint64_t left, offset
    cdef uint32_t rank = 0
    cdef int rc
    if run.shard != shard.id or run.number != number or run.present == 0:
        return -21
    if (run.sums != 0) != has_sums(ix, run):
        return -30
    if (run.variable != 0) != (area.variable != 0) or run.variable != shard.variable:
        return -37
    rc = array_check(ix, claims, run.slots_kind, run.slots, zsw_popcount(run.present))
    if rc == 0 and run.sums != 0:
        rc = slab_check_claim(sums_slab(ix, run), claims.values if run.variable else claims.sums,
                              run.sums)
    left = run.present if visit != NULL else 0
    while left and rc == 0:
        offset = (shard.number << SHARD_SHIFT | <uint64_t> number << RUN_SHIFT
                  | <uint64_t> zsw_ctz(left))
        rc = visit(context, area, offset, array_at(ix, run.slots_kind, run.slots)[rank],
                   id << RUN_SHIFT | <uint32_t> zsw_ctz(left))
        rank += 1
        left &= left - 1
    return rc


cdef int shard_check(zsw_index *ix, index_claims *claims, zsw_area *area, zsw_shard *shard,
                     index_visit visit, void *context) noexcept nogil:
    cdef uint32_t number, pages = 0, id, runs = run_count(shard)
    cdef int rc
    if runs != 0:
        rc = array_check(ix, claims, shard.runs_kind, shard.runs, runs)
        if rc != 0:
            return rc
    for number in range(<uint32_t> SHARD_RUNS):
        if not shard.present[number >> 6] >> (number & 63) & 1:
            continue
        id = shard_run(ix, shard, number)
        rc = slab_check_claim(&ix.runs, claims.runs, id)
        if rc == 0:
            rc = run_check(ix, claims, area, shard, id, number, visit, context)
        if rc != 0:
            return rc
        pages += zsw_popcount((<zsw_run *> slab_at(&ix.runs, id)).present)
    return 0 if pages == shard.pages else -24


cdef int area_check(zsw_index *ix, index_claims *claims, zsw_area *area, index_visit visit,
                    void *context) noexcept nogil:
    cdef shard_table *table = area.table
    cdef uint64_t slot, shards = 0
    cdef uint32_t id
    cdef zsw_shard *shard
    cdef int rc
    for slot in range(table.mask + 1):
        id = table.slots[slot]
        if id == 0:
            continue
        shards += 1
        rc = slab_check_claim(&ix.shards, claims.shards, id)
        if rc != 0:
            return rc
        shard = <zsw_shard *> slab_at(&ix.shards, id)
        if shard.id != id or area_shard(ix, area, shard.number) != shard or shard.type != area.type:
            return -20
        if shard.next != 0:
            return -26
        rc = shard_check(ix, claims, area, shard, visit, context)
        if rc != 0:
            return rc
    return 0 if shards == table.count else -25


cdef int index_check_end(zsw_index *ix, index_claims *claims) noexcept nogil:
    cdef int kind, end, rc = slab_check_end(&ix.shards, claims.shards)
    end = slab_check_end(&ix.runs, claims.runs)
    rc = rc if rc != 0 else end
    for kind in range(ARRAY_KINDS):
        end = slab_check_end(&ix.arrays[kind], claims.arrays[kind])
        rc = rc if rc != 0 else end
    end = slab_check_end(&ix.values, claims.values)
    rc = rc if rc != 0 else end
    end = slab_check_end(&ix.sums, claims.sums)
    rc = rc if rc != 0 else end
    return rc
