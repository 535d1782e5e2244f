"""Looking ahead in a batch, so that its cache misses overlap.

From offset to object there are eight addresses, each read from where the one before points.  With
millions of pages every one is a cache miss and a page walk, and between two loads the locks keep
the processor from starting the second.  So the addresses of some pages are followed first, one step
for all of them before the next step for any: each step asks for what the next one reads, and by
then it has come.  There is no lock and no atomic operation in it; it is for the caches' sake alone.

What is read here may change under the reader.  Every id is checked before it is followed, slabs
keep their memory mapped, a shard and a pool live as long as a call that found them, and nothing
comes of it but a prefetch.
"""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.entry cimport ENTRY_SAME, is_entry, word_handle, word_pool, zsw_entry
from zswap_core.index cimport (
    area_shard, run_id_peek, run_peek, SHARD_PAGES, SHARD_SHIFT, slot_peek, zsw_area, zsw_run,
    zsw_shard,
)
from zswap_core.lookup cimport find_area, pool_at
from zswap_core.lru cimport lru_stamp
from zswap_core.os cimport zsw_peek_u32, zsw_peek_u64, zsw_prefetch, zsw_prefetch_write
from zswap_core.slab cimport slab_peek
from zswap_core.state cimport zsw_engine, zsw_pool


cdef void prefetch_object(zsw_engine *e, zsw_entry *entry) noexcept nogil:
    cdef uint64_t word
    cdef zsw_pool *pool
    if zsw_peek_u32(&entry.state) & ENTRY_SAME:
        return
    word = zsw_peek_u64(&entry.word)
    pool = pool_at(e, word_pool(word))
    if pool != NULL and pool.ops.prefetch != NULL:
        pool.ops.prefetch(pool.zpool, word_handle(word))


cdef void look_ahead(zsw_engine *e, uint32_t type, const uint64_t *offsets, uint32_t pages,
                     bint storing) noexcept nogil:
    """Prefetches what loading so many pages, or storing them anew, will touch; at most
    AHEAD_PAGES."""
    cdef zsw_area *area = find_area(e, type, offsets[0])
    cdef zsw_shard *shard
    cdef uint32_t *ids[AHEAD_PAGES]
    cdef zsw_run *runs[AHEAD_PAGES]
    cdef zsw_entry *entries[AHEAD_PAGES]
    cdef uint32_t i, id
    if area == NULL:
        return
    for i in range(pages):
        shard = area_shard(&e.index, area, offsets[i] >> SHARD_SHIFT)
        ids[i] = NULL
        if shard != NULL:
            ids[i] = run_id_peek(&e.index, shard, offsets[i] & (SHARD_PAGES - 1))
        zsw_prefetch(ids[i])
    for i in range(pages):
        runs[i] = run_peek(&e.index, zsw_peek_u32(ids[i])) if ids[i] != NULL else NULL
        zsw_prefetch(runs[i])
    for i in range(pages):
        ids[i] = NULL
        if runs[i] != NULL:
            ids[i] = slot_peek(&e.index, runs[i], offsets[i] & (SHARD_PAGES - 1))
        zsw_prefetch(ids[i])
    for i in range(pages):
        id = zsw_peek_u32(ids[i]) if ids[i] != NULL else 0
        entries[i] = <zsw_entry *> slab_peek(&e.entries, id) if is_entry(id) else NULL
        zsw_prefetch_write(entries[i])      # where a load counts its reference, a store drops it
        if storing and entries[i] != NULL:
            zsw_prefetch_write(lru_stamp(&e.entries, id))
    # Of an object a store only needs the descriptor, which is read on the way there.
    for i in range(pages):
        if entries[i] != NULL:
            prefetch_object(e, entries[i])
