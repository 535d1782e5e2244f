"""An engine at rest, looked into: its pages made older, its objects damaged, and all of it checked.

validate() is one walk over areas, index, entries, LRU, workers and pools, against each other and
the counters.

Each item has one owner: a shard is in one area's table or garbage, a run in one shard, an array in
one run or shard, an entry in one slot or spare with one worker, an object in one entry.  So
whatever is owned is claimed, which fails for what is free or claimed already, and at the end
nothing may be left that is neither.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport ENOMEM
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcpy, memset

from zswap_core.abi cimport zsw_zpool_stats
from zswap_core.binding.results cimport Handle
from zswap_core.budget cimport beside_pools, headroom
from zswap_core.calls cimport engine_enter, engine_leave
from zswap_core.entries cimport entry_at, find_entry
from zswap_core.entry cimport (
    ENTRY_AGE_SHIFT, ENTRY_REFS, ENTRY_SAME, entry_same, is_backed, is_entry, word_handle,
    word_length, word_pool, zsw_entry,
)
from zswap_core.extents cimport extents_check
from zswap_core.figures cimport engine_totals, zsw_totals
from zswap_core.index cimport (
    area_check, area_figures, area_open, area_shard, index_check_begin, index_check_end,
    index_claims, RUN_PAGES, RUN_SHIFT, SHARD_SHIFT, zsw_area, zsw_area_figures, zsw_run, zsw_shard,
)
from zswap_core.lookup cimport find_area
from zswap_core.lru cimport LRU_AGE_MAX, LRU_LISTED, lru_stamp, LRU_TIME
from zswap_core.maintenance cimport maintenance_start, maintenance_stop, shrink_at_limit
from zswap_core.os cimport (
    zsw_load_u32, zsw_lock, zsw_map, zsw_store_u32, zsw_swap_u32, zsw_unlock, zsw_unmap,
)
from zswap_core.slab cimport slab_at, slab_check_begin, slab_check_claim, slab_check_end, slab_limit
from zswap_core.state cimport MAX_AREAS, MAX_POOLS, POOL_LIVE, zsw_engine, zsw_pool, zsw_worker
from zswap_core.stats cimport Counter
from zswap_core.streams cimport streams_at_rest
from zswap_core.worker cimport first_worker

from hooks.findings import describe


# Where the check failed.
cdef struct zsw_finding:
    const char *zpool           # whose number it is, when an allocator's
    uint64_t place              # the entry, offset, area, pool or object, see findings.py


# What the walk has seen.
cdef struct check:
    zsw_engine *e
    zsw_finding *out
    uint64_t *entries           # claims
    uint64_t *objects           # pool << 40 | handle of each that an entry owns
    uint64_t owned              # how many those are
    uint64_t most               # and can be
    uint64_t held               # pages with an entry
    uint64_t same               # of these, same-filled ones
    uint64_t raw                # of these, ones that were kept as they are
    uint64_t payload            # bytes
    uint64_t backed             # pages in backing stores
    uint64_t found              # pages of the area in hand
    int64_t by_pool[MAX_POOLS]  # entries


cdef int entry_check(check *c, uint32_t id, uint32_t pos) noexcept nogil:
    """An entry that a slot of the index names."""
    cdef zsw_entry *entry
    cdef zsw_pool *pool
    cdef uint32_t length
    cdef int rc
    c.out.place = id
    rc = slab_check_claim(&c.e.entries, c.entries, id)
    if rc != 0:
        return rc
    entry = entry_at(c.e, id)
    if entry.pos != pos:
        return -103
    if (entry.state & ENTRY_REFS) != 1:
        return -104
    c.held += 1
    if entry.state & ENTRY_SAME:
        c.same += 1
        return 0
    pool = c.e.pools[word_pool(entry.word)]
    if pool == NULL:
        return -105
    length = word_length(entry.word)
    if (pool.ops.object_room != NULL
            and pool.ops.object_room(pool.zpool, word_handle(entry.word)) < length):
        return -113
    if c.owned == c.most:
        return -112
    c.objects[c.owned] = <uint64_t> pool.id << 40 | word_handle(entry.word)
    c.owned += 1
    c.by_pool[pool.id] += 1
    c.payload += length
    c.raw += length == c.e.page_size
    return 0


cdef int slot_check(void *context, zsw_area *area, uint64_t offset, uint32_t id,
                    uint32_t pos) noexcept nogil:
    cdef check *c = <check *> context
    cdef const zsw_run *run = <const zsw_run *> slab_at(&c.e.index.runs, pos >> RUN_SHIFT)
    c.found += 1
    if (run.clean >> (pos & (RUN_PAGES - 1)) & 1
            and (area.backing == NULL or not is_entry(id) or entry_same(entry_at(c.e, id)))):
        c.out.place = offset
        return -120
    if is_entry(id):
        return entry_check(c, id, pos)
    c.out.place = offset
    if not is_backed(id):
        return -111
    c.backed += 1
    return 0 if area.backing != NULL else -114


cdef int areas_check(check *c, index_claims *claims) noexcept nogil:
    cdef uint32_t i, backed = 0
    cdef zsw_area *area
    cdef zsw_area_figures figures
    cdef check before
    cdef int rc
    for i in range(<uint32_t> MAX_AREAS):
        area = c.e.areas[i]
        if area == NULL:
            continue
        c.out.place = i
        c.found = 0
        before = c[0]
        rc = area_check(&c.e.index, claims, area, slot_check, c)
        if rc != 0:
            return rc
        c.out.place = i
        area_figures(&c.e.index, area, &figures)
        if (figures.pages != c.found or figures.same != c.same - before.same
                or figures.raw != c.raw - before.raw or figures.backed != c.backed - before.backed
                or figures.bytes != c.payload - before.payload):
            return -122
        if (area.used != <int64_t> (figures.bytes if area.tallied else 0)
                or area.quota >= 0 and not area.tallied):
            return -123
        if area.type != i or c.found and not area_open(area.online):
            return -101
        backed += area_open(area.online) and area.backing != NULL
    return 0 if backed == c.e.backed_areas else -115


cdef int index_check(check *c) noexcept nogil:
    cdef index_claims claims
    cdef int end, rc = index_check_begin(&c.e.index, &claims)
    if rc == 0:
        rc = areas_check(c, &claims)
    end = index_check_end(&c.e.index, &claims)
    return rc if rc != 0 else end


cdef int spares_check(check *c) noexcept nogil:
    cdef zsw_worker *w = first_worker(c.e)
    cdef uint32_t i
    while w != NULL:
        for i in range(w.spares):
            c.out.place = w.spare[i]
            if (slab_check_claim(&c.e.entries, c.entries, w.spare[i]) != 0
                    or entry_at(c.e, w.spare[i]).pos != 0):
                return -116
        w = w.next
    return 0


cdef int entries_check(check *c) noexcept nogil:
    """The index, and with it every entry.  What is left over says that it is indexed and is not, or
    was lost."""
    cdef uint32_t id
    cdef int end, rc = slab_check_begin(&c.e.entries, &c.entries)
    if rc == 0:
        rc = index_check(c)
    if rc == 0:
        for id in range(1, slab_limit(&c.e.entries)):
            if entry_at(c.e, id).pos != 0 and not c.entries[id >> 6] >> (id & 63) & 1:
                c.out.place = id
                rc = -102
                break
    if rc == 0:
        rc = spares_check(c)
    end = slab_check_end(&c.e.entries, c.entries)
    return rc if rc != 0 else end


cdef int allocated_check(check *c) noexcept nogil:
    """What areas have handed out: every node is one area's."""
    cdef uint64_t *claims
    cdef uint32_t i
    cdef zsw_area *area
    cdef int end, rc = slab_check_begin(&c.e.extents, &claims)
    for i in range(<uint32_t> MAX_AREAS):
        area = c.e.areas[i]
        if area != NULL and rc == 0:
            c.out.place = i
            rc = extents_check(&c.e.extents, &area.extents, claims)
    end = slab_check_end(&c.e.extents, claims)
    return rc if rc != 0 else end


cdef int lru_check(check *c) noexcept nogil:
    cdef uint32_t id
    cdef uint16_t stamp
    cdef zsw_entry *entry
    for id in range(1, slab_limit(&c.e.entries)):
        c.out.place = id
        entry = entry_at(c.e, id)
        stamp = lru_stamp(&c.e.entries, id)[0]
        if (stamp != 0) != (entry.pos != 0 and not entry.state & ENTRY_SAME):
            return -107
        if stamp != 0 and (not stamp & LRU_LISTED or (c.e.lru.tick - stamp & LRU_TIME)
                           > LRU_AGE_MAX):
            return -108
    return 0


cdef int by_number(const void *a, const void *b) noexcept nogil:
    cdef uint64_t x = (<const uint64_t *> a)[0], y = (<const uint64_t *> b)[0]
    return (x > y) - (x < y)


cdef int objects_check(check *c) noexcept nogil:
    """No two entries own one object.  Each owns one that lives, and their number is the pools': so
    each object has its owner."""
    cdef uint64_t i
    qsort(c.objects, c.owned, sizeof(uint64_t), by_number)
    for i in range(1, c.owned):
        if c.objects[i] == c.objects[i - 1]:
            c.out.place = c.objects[i] & ((<uint64_t> 1 << 40) - 1)
            return -117
    return 0


cdef int pools_check(check *c) noexcept nogil:
    cdef zsw_pool *pool
    cdef uint32_t i
    cdef int rc
    pool = c.e.current
    if (pool == NULL or pool.id >= MAX_POOLS or c.e.pools[pool.id] != pool
            or pool.stage != POOL_LIVE):
        return -118
    for i in range(<uint32_t> MAX_POOLS):
        pool = c.e.pools[i]
        if pool == NULL:
            continue
        c.out.place = i
        if pool.id != i or i >= c.e.pool_limit or not c.e.pool_claimed[i] or pool.holds != 0:
            return -118
        c.out.zpool = pool.ops.name
        rc = pool.ops.validate(pool.zpool)
        if rc != 0:
            return rc
        c.out.zpool = NULL
    return 0


cdef int pool_counts_check(check *c) noexcept nogil:
    cdef zsw_zpool_stats stats
    cdef zsw_pool *pool
    cdef uint32_t i
    for i in range(<uint32_t> MAX_POOLS):
        pool = c.e.pools[i]
        if pool == NULL:
            continue
        c.out.place = i
        pool.ops.stats(pool.zpool, &stats)
        if pool.entries != c.by_pool[i] or <int64_t> stats.objects != c.by_pool[i]:
            return -109
    return 0


cdef int counters_check(check *c) noexcept nogil:
    cdef zsw_totals totals
    engine_totals(c.e, &totals)
    if totals.metadata_bytes != beside_pools(c.e):
        return -125
    if totals.counters[<int> Counter.backed_pages] != <int64_t> c.backed:
        return -106
    if (totals.counters[<int> Counter.stored_pages] != <int64_t> c.held
            or totals.counters[<int> Counter.same_filled_pages] != <int64_t> c.same
            or totals.counters[<int> Counter.stored_incompressible_pages] != <int64_t> c.raw
            or totals.counters[<int> Counter.compressed_bytes] != <int64_t> c.payload):
        return -110
    return 0


cdef int reclaim_check(zsw_engine *e) noexcept nogil:
    cdef uint64_t most = e.params.max_pages
    if e.params.near_pages != most - headroom(most) or e.tickets != e.turn or e.awaited:
        return -119
    return 0 if streams_at_rest(e) else -121


cdef int walk(zsw_engine *e, zsw_finding *out) noexcept nogil:
    """Walks everything and compares it with the counters.  0, or a negative number that names the
    check that failed, see findings.py.  At rest."""
    cdef check c
    cdef int rc
    cdef size_t size
    memset(&c, 0, sizeof(c))
    memset(out, 0, sizeof(zsw_finding))
    c.e = e
    c.out = out
    c.most = e.entries.inuse
    size = (c.most + 1) * sizeof(uint64_t)
    c.objects = <uint64_t *> zsw_map(size)
    if c.objects == NULL:
        return -ENOMEM
    zsw_lock(&e.pools_lock)                     # the maintenance thread frees emptied pools
    rc = pools_check(&c)                        # first: what entries own is asked of them
    if rc == 0:
        rc = entries_check(&c)
    if rc == 0:
        rc = lru_check(&c)
    if rc == 0:
        rc = allocated_check(&c)
    if rc == 0:
        rc = objects_check(&c)
    if rc == 0:
        rc = pool_counts_check(&c)
    zsw_unlock(&e.pools_lock)
    if rc == 0:
        rc = counters_check(&c)
    if rc == 0:
        rc = reclaim_check(e)
    zsw_unmap(c.objects, size)
    return rc


cdef uint8_t *find_object(zsw_engine *e, uint32_t type, uint64_t offset,
                          uint32_t *length) noexcept nogil:
    """The bytes that the page was made into, or the word that it is; NULL when it is not in memory.
    At rest."""
    cdef zsw_area *area = find_area(e, type, offset)
    cdef zsw_shard *shard = (
        area_shard(&e.index, area, offset >> SHARD_SHIFT) if area != NULL else NULL)
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


# ---- from Python ---------------------------------------------------------------------------------


cdef zsw_worker *enter(Handle z) except NULL:
    """Begins a call, as the binding does."""
    cdef int rc = 0
    cdef zsw_worker *w = engine_enter(z.e, &rc)
    if w == NULL:
        len(z)                          # says why
        raise MemoryError
    return w


def validate(Handle z not None):
    """Walk every structure and compare it with the counters; AssertionError names what does not
    agree.  No other call may be in flight."""
    cdef zsw_worker *w = enter(z)
    cdef zsw_engine *e = z.e
    cdef zsw_finding finding
    cdef int rc
    cdef bint maintained
    with nogil:
        maintained = e.thread_started
        maintenance_stop(e)             # a flight holds references, and compaction moves objects
        rc = walk(e, &finding)
        if maintained:
            zsw_store_u32(&e.stop, 0)
            maintenance_start(e)
        engine_leave(e, w)
    if rc != 0:
        raise AssertionError(describe(rc, finding.place, finding.zpool.decode()
                                      if finding.zpool != NULL else None))


def stop_maintenance(Handle z not None):
    """End the maintenance thread, so that nothing depends on when it runs: see shrink_if_wanted.
    No other call may be in flight."""
    maintenance_stop(z.e)
    zsw_store_u32(&z.e.stop, 0)


def shrink_if_wanted(Handle z not None):
    """Do what the thread would, had the last store woken it."""
    cdef uint64_t left = 0
    if zsw_swap_u32(&z.e.limit_hit, 0):
        shrink_at_limit(z.e, &left)


def waiting(Handle z not None):
    """How many stores are at the gate, waiting for room or making it."""
    return zsw_load_u32(&z.e.tickets) - zsw_load_u32(&z.e.turn)


def age(Handle z not None, uint32_t seconds):
    """Make every held page `seconds` older.  No other call may be in flight."""
    cdef zsw_worker *w = enter(z)
    cdef uint32_t id
    cdef zsw_entry *entry
    for id in range(1, slab_limit(&z.e.entries)):
        entry = entry_at(z.e, id)
        if entry.pos != 0:
            # modulo the age's 22 bits, which are the uppermost
            entry.state -= seconds << ENTRY_AGE_SHIFT
    engine_leave(z.e, w)


def object_of(Handle z not None, uint64_t offset, bytes data=None, *, uint32_t swap_type=0):
    """The bytes that a page in memory was made into, or its word; with `data`, after that took the
    place of the first of them.  None for a page that is elsewhere.  No other call may be in
    flight."""
    cdef uint32_t length = 0
    cdef zsw_worker *w = enter(z)
    cdef uint8_t *at = find_object(z.e, swap_type, offset, &length)
    found = None
    if at != NULL:
        if data is not None:
            memcpy(at, <const char *> data, min(<size_t> len(data), <size_t> length))
        found = PyBytes_FromStringAndSize(<const char *> at, length)
    engine_leave(z.e, w)
    return found
