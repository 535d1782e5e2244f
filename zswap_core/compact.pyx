"""Compaction: offers every object to its zpool to move."""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.entries cimport entry_at
from zswap_core.entry cimport (
    ENTRY_REFS, ENTRY_SAME, word_handle, word_length, word_pack, word_pool, zsw_entry,
)
from zswap_core.fault cimport fault, Site
from zswap_core.index cimport zsw_shard
from zswap_core.lookup cimport pool_at
from zswap_core.os cimport (
    zsw_load_u32, zsw_lock, zsw_peek_u32, zsw_peek_u64, zsw_poke_u64, zsw_store_u32, zsw_unlock,
)
from zswap_core.slab cimport slab_limit
from zswap_core.slots cimport lock_entry
from zswap_core.state cimport zsw_engine, zsw_pool, zsw_worker


cdef enum:
    MOVES_TRIMMED = 64          # objects move before what they left is given back


cdef bint relocate_entry(zsw_engine *e, zsw_pool *pool, uint32_t id) noexcept nogil:
    """Lets the zpool move the entry's object, if it is still indexed and nobody reads it; whether
    it did."""
    cdef zsw_entry *entry = entry_at(e, id)
    cdef uint32_t where, pos = zsw_peek_u32(&entry.pos)
    cdef uint64_t word = zsw_peek_u64(&entry.word), handle
    cdef zsw_shard *shard
    cdef bint moved = False
    if pos == 0 or zsw_peek_u32(&entry.state) & ENTRY_SAME or word_pool(word) != pool.id:
        return False
    if lock_entry(e, id, pos, &shard, &where) == NULL:
        return False
    # while it is not ours another store may be filling it
    word = zsw_peek_u64(&entry.word)
    # One reference is the index's own: there is no reader, and while we hold the lock none can
    # come.
    if word_pool(word) == pool.id and (zsw_load_u32(&entry.state) & (ENTRY_REFS | ENTRY_SAME)) == 1:
        if (fault(Site.ZPOOL_RELOCATE) == 0
                and pool.ops.relocate(pool.zpool, word_handle(word), &handle) == 1):
            zsw_poke_u64(&entry.word, word_pack(handle, word_length(word), pool.id))
            moved = True
    zsw_unlock(&shard.lock)
    return moved


cdef uint64_t engine_compact(zsw_engine *e, zsw_worker *w) noexcept nogil:
    """Moves objects out of sparsely filled memory in every pool, and clears the index of what is
    empty; returns the allocator pages freed."""
    cdef uint64_t freed = 0
    cdef uint32_t i, id, limit, moved
    cdef zsw_pool *pool
    zsw_lock(&e.compacting)
    for i in range(zsw_load_u32(&e.pool_limit)):
        pool = pool_at(e, i)
        if pool == NULL:
            continue
        if pool.ops.compact_begin(pool.zpool) != 0:
            limit = slab_limit(&e.entries)
            moved = 0
            for id in range(1, limit):
                if relocate_entry(e, pool, id):
                    moved += 1
                    if moved % MOVES_TRIMMED == 0:
                        pool.ops.trim(pool.zpool)
        freed += pool.ops.compact_end(pool.zpool)
        pool.ops.trim(pool.zpool)
    zsw_unlock(&e.compacting)
    zsw_store_u32(&e.index.reap_due, 1)         # when this call ends
    return freed
