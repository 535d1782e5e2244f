# cython: language_level=3
"""Entries: taken, freed and given back, with the object and the counts that go with them."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from zswap_core.entry cimport entry_same, word_handle, word_length, word_pool, zsw_entry
from zswap_core.os cimport zsw_peek_u32, zsw_peek_u64, zsw_poke_u32, zsw_store_u32, zsw_unlikely
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
    """Whether the entries in use are all spare ones, and lie about in more than one chunk."""
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


cdef void give_entry(zsw_engine *e, zsw_worker *w, uint32_t id) noexcept nogil:
    zsw_poke_u32(&entry_at(e, id).pos, 0)       # a walk over all entries tells by this that it is free
    if w.spares == SPARE_ENTRIES:
        zsw_poke_u32(&w.spares, SPARE_ENTRIES // 2)
        slab_give(&e.entries, &w.spare[SPARE_ENTRIES // 2], SPARE_ENTRIES // 2)
    w.spare[w.spares] = id
    zsw_poke_u32(&w.spares, w.spares + 1)
    # Without pages there is nothing to be ready for.
    if zsw_unlikely(zsw_peek_u64(&e.entries.inuse) <= <uint64_t> e.worker_count * SPARE_ENTRIES) and only_spares(e):
        zsw_store_u32(&e.index.reap_due, 1)


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
    give_entry(e, w, id)
