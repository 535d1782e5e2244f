"""Entries: taken, freed and given back, with the object and the counts that go with them."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from zswap_core.entry cimport entry_put, entry_same, word_handle, word_length, word_pool, zsw_entry
from zswap_core.index cimport RUN_PAGES
from zswap_core.os cimport (
    zsw_peek_u32, zsw_peek_u64, zsw_poke_u32, zsw_poke_u64, zsw_store_u32, zsw_unlikely,
)
from zswap_core.slab cimport slab_give, slab_take
from zswap_core.state cimport SPARE_ENTRIES, zsw_engine, zsw_pool, zsw_worker
from zswap_core.stats cimport count, Counter
from zswap_core.worker cimport count_entry, first_worker


cdef uint32_t take_entry(zsw_engine *e, zsw_worker *w) noexcept nogil:
    if w.spares == 0:
        zsw_poke_u32(&w.spares, slab_take(&e.entries, w.spare, SPARE_ENTRIES // 2))
        if w.spares == 0:
            return 0
    zsw_poke_u32(&w.spares, w.spares - 1)
    return w.spare[w.spares]


cdef bint only_spares(zsw_engine *e) noexcept nogil:
    """Whether the entries in use are all spare ones, and lie about in more than one block."""
    cdef uint64_t spares = 0, inuse = zsw_peek_u64(&e.entries.inuse)
    cdef zsw_worker *w = first_worker(e)
    if zsw_peek_u64(&e.entries.touched) >> e.entries.shift == 0:
        return False
    while w != NULL:
        spares += zsw_peek_u32(&w.spares)
        w = w.next
    return spares >= inuse


cdef void give_spares(zsw_engine *e, zsw_worker *w) noexcept nogil:
    slab_give(&e.entries, w.spare, w.spares)
    zsw_poke_u32(&w.spares, 0)


cdef inline void note_given(zsw_engine *e) noexcept nogil:
    # Without pages there is nothing to be ready for.
    if (zsw_unlikely(zsw_peek_u64(&e.entries.inuse) <= <uint64_t> e.worker_count * SPARE_ENTRIES)
            and only_spares(e)):
        zsw_store_u32(&e.index.reap_due, 1)


cdef inline void clear_entry(zsw_engine *e, zsw_entry *entry) noexcept nogil:
    # a walk over all entries tells by this that it is free
    zsw_poke_u32(&entry.pos, 0)
    if zsw_unlikely(e.params.wipe_on_free):
        zsw_poke_u64(&entry.word, 0)


cdef void give_entry(zsw_engine *e, zsw_worker *w, uint32_t id) noexcept nogil:
    """Gives a cleared entry back."""
    if w.spares == SPARE_ENTRIES:
        zsw_poke_u32(&w.spares, SPARE_ENTRIES // 2)
        slab_give(&e.entries, &w.spare[SPARE_ENTRIES // 2], SPARE_ENTRIES // 2)
    w.spare[w.spares] = id
    zsw_poke_u32(&w.spares, w.spares + 1)
    note_given(e)


cdef void free_entry(zsw_engine *e, zsw_worker *w, uint32_t id) noexcept nogil:
    """Frees an entry that has lost its last reference, and its object."""
    cdef zsw_entry *entry = entry_at(e, id)
    cdef zsw_pool *pool
    cdef uint32_t length
    if entry_same(entry):
        count(w.counters, Counter.same_filled_pages, -1)
    else:
        pool = e.pools[word_pool(entry.word)]
        length = word_length(entry.word)
        pool.ops.free(pool.zpool, word_handle(entry.word))
        count(w.counters, Counter.compressed_bytes, -<int64_t> length)
        if length == e.page_size:
            count(w.counters, Counter.stored_incompressible_pages, -1)
        count_entry(e, w, pool, -1)
    count(w.counters, Counter.stored_pages, -1)
    clear_entry(e, entry)
    give_entry(e, w, id)


cdef void free_objects(zsw_engine *e, zsw_worker *w, zsw_pool *pool, const uint64_t *handles,
                       uint32_t objects) noexcept nogil:
    cdef uint32_t i
    if pool.ops.free_many != NULL:
        pool.ops.free_many(pool.zpool, handles, objects)
    else:
        for i in range(objects):
            pool.ops.free(pool.zpool, handles[i])
    count_entry(e, w, pool, -<int64_t> objects)


cdef void put_entries(zsw_engine *e, zsw_worker *w, const uint32_t *ids,
                      uint32_t entries) noexcept nogil:
    """As put_entry for each of at most RUN_PAGES entries."""
    cdef uint64_t handles[RUN_PAGES]
    cdef uint32_t freed[RUN_PAGES]
    cdef uint32_t i, dead = 0, same = 0, raw = 0, objects = 0, length
    cdef uint64_t bytes = 0, word
    cdef zsw_entry *entry
    cdef zsw_pool *pool = NULL
    cdef zsw_pool *owner
    for i in range(entries):
        entry = entry_at(e, ids[i])
        if not entry_put(entry):
            continue
        freed[dead] = ids[i]
        dead += 1
        word = entry.word
        clear_entry(e, entry)
        if entry_same(entry):
            same += 1
            continue
        owner = e.pools[word_pool(word)]
        if owner != pool:
            if objects:
                free_objects(e, w, pool, handles, objects)
            pool = owner
            objects = 0
        length = word_length(word)
        bytes += length
        raw += length == e.page_size
        handles[objects] = word_handle(word)
        objects += 1
    if objects:
        free_objects(e, w, pool, handles, objects)
    count(w.counters, Counter.same_filled_pages, -<int64_t> same)
    count(w.counters, Counter.compressed_bytes, -<int64_t> bytes)
    count(w.counters, Counter.stored_incompressible_pages, -<int64_t> raw)
    count(w.counters, Counter.stored_pages, -<int64_t> dead)
    if dead > SPARE_ENTRIES // 2:
        slab_give(&e.entries, freed, dead)
        note_given(e)
    else:
        for i in range(dead):
            give_entry(e, w, freed[i])
