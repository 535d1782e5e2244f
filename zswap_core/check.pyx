# cython: language_level=3
"""validate(): one walk over index, entries, LRU and pools, against the counters."""
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memset

from zswap_core.abi cimport zsw_zpool_stats
from zswap_core.area cimport find_area
from zswap_core.entries cimport entry_at, find_entry
from zswap_core.entry cimport (ENTRY_AGE_SHIFT, ENTRY_REFS, ENTRY_SAME, is_entry, word_handle, word_length, word_pool,
                               zsw_entry)
from zswap_core.figures cimport engine_totals, zsw_totals
from zswap_core.index cimport (AREA_ONLINE, area_shard, area_validate, index_validate, pos_shard, shard_find, SHARD_SHIFT,
                               zsw_area, zsw_shard)
from zswap_core.slab cimport slab_limit, slab_validate
from zswap_core.state cimport MAX_AREAS, MAX_POOLS, zsw_engine, zsw_pool
from zswap_core.stats cimport Counter


cdef int engine_validate(zsw_engine *e) noexcept nogil:
    """Walks everything and compares it with the counters.  0, or a negative number naming the check that failed.  At rest."""
    cdef zsw_totals totals
    cdef uint64_t pages = 0, shards = 0, held, found, same = 0, raw = 0, payload = 0, listed = 0
    cdef int64_t by_pool[MAX_POOLS]
    cdef uint32_t i, id, where, pos, previous = 0
    cdef uint32_t *slot
    cdef zsw_shard *shard
    cdef zsw_entry *entry
    cdef zsw_pool *pool
    cdef zsw_zpool_stats stats
    cdef int rc
    memset(by_pool, 0, sizeof(by_pool))
    engine_totals(e, &totals)
    for i in range(<uint32_t> MAX_AREAS):
        if e.areas[i] != NULL:
            rc = area_validate(&e.index, e.areas[i], &held, &found)
            if rc != 0:
                return rc
            if held and e.areas[i].online != AREA_ONLINE:
                return -101
            pages += held
            shards += found
    rc = index_validate(&e.index, shards)
    if rc == 0:
        rc = slab_validate(&e.entries)
    if rc != 0:
        return rc
    # Every entry in use is indexed where it says, by nobody else; every indexed page has such an entry (the counts agree).
    held = 0
    for id in range(1, slab_limit(&e.entries)):
        entry = entry_at(e, id)
        if entry.pos == 0:
            continue
        held += 1
        shard = pos_shard(&e.index, entry.pos, &where)
        if shard == NULL:
            return -102
        slot = shard_find(&e.index, shard, where, &pos)
        if slot == NULL or slot[0] != id or pos != entry.pos:
            return -103
        if (entry.state & ENTRY_REFS) != 1:
            return -104
        if entry.state & ENTRY_SAME:
            same += 1
            continue
        pool = e.pools[word_pool(entry.word)]
        if pool == NULL:
            return -105
        by_pool[pool.id] += 1
        payload += word_length(entry.word)
        raw += word_length(entry.word) == e.page_size
    # What is in a backing store has no entry.
    if held + totals.counters[<int> Counter.backed_pages] != pages:
        return -106
    id = e.lru.oldest
    while id:
        entry = entry_at(e, id)
        listed += 1
        if listed > e.lru.count or entry.prev != previous or entry.pos == 0 or entry.state & ENTRY_SAME:
            return -107
        previous = id
        id = entry.next
    if listed != e.lru.count or previous != e.lru.newest or listed != held - same:
        return -108
    for i in range(<uint32_t> MAX_POOLS):
        pool = e.pools[i]
        if pool == NULL:
            continue
        pool.ops.stats(pool.zpool, &stats)
        if pool.entries != by_pool[i] or <int64_t> stats.objects != by_pool[i]:
            return -109
        rc = pool.ops.validate(pool.zpool)
        if rc != 0:
            return rc - 1000
    if (totals.counters[<int> Counter.stored_pages] != <int64_t> held
            or totals.counters[<int> Counter.same_filled_pages] != <int64_t> same
            or totals.counters[<int> Counter.stored_incompressible_pages] != <int64_t> raw
            or totals.counters[<int> Counter.compressed_bytes] != <int64_t> payload):
        return -110
    return 0


cdef void engine_age(zsw_engine *e, uint32_t seconds) noexcept nogil:
    """Makes every page seem not accessed for so much longer.  At rest."""
    cdef uint32_t id
    cdef zsw_entry *entry
    for id in range(1, slab_limit(&e.entries)):
        entry = entry_at(e, id)
        if entry.pos != 0:
            entry.state -= seconds << ENTRY_AGE_SHIFT       # modulo the age's 22 bits, which are the uppermost


cdef uint8_t *engine_object(zsw_engine *e, uint32_t type, uint64_t offset, uint32_t *length) noexcept nogil:
    """The bytes that the page was made into, or the word that it is; NULL when it is not in memory.  At rest."""
    cdef zsw_area *area = find_area(e, type, offset)
    cdef zsw_shard *shard = area_shard(&e.index, area, offset >> SHARD_SHIFT) if area != NULL else NULL
    cdef uint32_t id = find_entry(e, shard, offset) if shard != NULL else 0
    cdef zsw_entry *entry = entry_at(e, id) if is_entry(id) else NULL
    cdef zsw_pool *pool
    if entry == NULL:
        return NULL
    if entry.state & ENTRY_SAME:
        length[0] = sizeof(entry.word)
        return <uint8_t *> &entry.word
    pool = e.pools[word_pool(entry.word)]
    length[0] = word_length(entry.word)
    return pool.ops.map(pool.zpool, word_handle(entry.word))
