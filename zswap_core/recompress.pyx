"""Recompression, as zram does it: in the order of the entries, a page at a time.

An entry that qualifies is pinned, its page decompressed and compressed anew with no lock held.  The
result is kept only if its slot is smaller than the old one.  Then, under the shard's lock, the
entry's word changes, if the entry is still indexed and nobody else reads it; else the new object is
freed and the page stays as it was.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from zswap_core.abi cimport zsw_compressor, zsw_zpool_config, zsw_zpool_ops
from zswap_core.entries cimport entry_at, put_entry
from zswap_core.entry cimport (
    entry_age, entry_pin, ENTRY_REFS, entry_same, ENTRY_SAME, word_handle, word_length, word_pool,
    zsw_entry,
)
from zswap_core.index cimport zsw_shard
from zswap_core.lookup cimport pool_at
from zswap_core.objects cimport compress_page, entry_sum, make_object, read_object
from zswap_core.os cimport (
    zsw_load_u32, zsw_now_s, zsw_peek_u32, zsw_peek_u64, zsw_poke_u64, zsw_unlock,
)
from zswap_core.pool cimport pool_hold, pool_release, pools_reach
from zswap_core.slab cimport slab_limit
from zswap_core.slots cimport count_slot, lock_entry
from zswap_core.state cimport zsw_engine, zsw_pool, zsw_worker
from zswap_core.stats cimport count, Counter
from zswap_core.status cimport Status
from zswap_core.worker cimport count_entry, worker_scratch


cdef bint qualifies(zsw_engine *e, zsw_worker *w, const zsw_pool *target, const zsw_entry *entry,
                    uint32_t idle, bint incompressible) noexcept nogil:
    cdef uint64_t word = zsw_peek_u64(&entry.word)
    return (zsw_peek_u32(&entry.pos) != 0 and not zsw_peek_u32(&entry.state) & ENTRY_SAME
            and word_pool(word) != target.id and (idle == 0 or entry_age(entry, w.now) >= idle)
            and (not incompressible or word_length(word) == e.page_size))


cdef bint pin_entry(zsw_engine *e, uint32_t id, uint64_t *word, uint32_t *sum) noexcept nogil:
    """Takes a reference to an indexed entry and gives its word and checksum; False when it is
    gone."""
    cdef zsw_entry *entry = entry_at(e, id)
    cdef zsw_shard *shard
    cdef uint32_t where
    cdef bint pinned
    if lock_entry(e, id, zsw_peek_u32(&entry.pos), &shard, &where) == NULL:
        return False
    pinned = not entry_same(entry) and entry_pin(entry)
    if pinned:
        word[0] = entry.word
        sum[0] = entry_sum(e, entry)
    zsw_unlock(&shard.lock)
    return pinned


cdef int64_t compress_smaller(zsw_engine *e, zsw_worker *w, zsw_pool *target, uint64_t word,
                              uint32_t sum) noexcept nogil:
    """Compresses the pinned page into the worker's scratch; its length, or 0 when nothing would be
    won."""
    cdef zsw_pool *source = pool_at(e, word_pool(word))
    cdef uint8_t *page
    cdef int64_t length
    if not worker_scratch(e, w, target.bound + e.page_size):
        return 0
    page = w.scratch + target.bound
    if read_object(e, w, word, sum, page) < 0:
        return 0
    length = compress_page(e, w, target, page)
    if length <= 0:
        return 0
    if (target.ops.slot_size(target.zpool, <size_t> length)
            >= source.ops.slot_size(source.zpool, word_length(word))):
        return 0
    return length


cdef void count_move(zsw_engine *e, zsw_worker *w, uint64_t old, uint64_t fresh) noexcept nogil:
    """Counts an object that takes another's place; the old one is freed."""
    cdef zsw_pool *source = pool_at(e, word_pool(old))
    source.ops.free(source.zpool, word_handle(old))
    count_entry(e, w, source, -1)
    count_entry(e, w, pool_at(e, word_pool(fresh)), 1)
    count(w.counters, Counter.compressed_bytes, <int64_t> word_length(fresh)
          - <int64_t> word_length(old))
    if word_length(old) == e.page_size:
        count(w.counters, Counter.stored_incompressible_pages, -1)


cdef void recompress_entry(zsw_engine *e, zsw_worker *w, zsw_pool *target, uint32_t id,
                           zsw_recompressed *out) noexcept nogil:
    cdef zsw_entry *entry = entry_at(e, id)
    cdef zsw_shard *shard
    cdef uint32_t where, sum = 0
    cdef uint64_t old = 0, fresh
    cdef int64_t length
    cdef bint moved = False
    if not pin_entry(e, id, &old, &sum):
        return
    length = compress_smaller(e, w, target, old, sum)
    if length and make_object(e, w, target, w.scratch, <uint32_t> length, &fresh) == Status.STORED:
        if lock_entry(e, id, entry.pos, &shard, &where) != NULL:
            # Two references: the index's and ours.  Our pin keeps compaction away, so the word is
            # still the old one.
            moved = ((zsw_load_u32(&entry.state) & ENTRY_REFS) == 2
                     # a slot of another allocator's may be smaller though the object is longer
                     and (not shard.tallied or length <= <int64_t> word_length(old)))
            if moved:
                count_slot(e, shard, id, -1)
                zsw_poke_u64(&entry.word, fresh)
                count_slot(e, shard, id, 1)
            zsw_unlock(&shard.lock)
        if moved:
            count_move(e, w, old, fresh)
            out.moved += 1
            out.bytes_before += word_length(old)
            out.bytes_after += <uint64_t> length
        else:
            target.ops.free(target.zpool, word_handle(fresh))
    put_entry(e, w, id)
    if not moved:
        out.kept += 1


cdef int engine_recompress(zsw_engine *e, zsw_worker *w, const zsw_compressor *compressor,
                           const zsw_zpool_ops *ops, const zsw_zpool_config *config, uint32_t idle,
                           bint incompressible, uint64_t max_pages, uint64_t tries, uint32_t *next,
                           zsw_recompressed *out) noexcept nogil:
    """Moves pages that are idle for `idle` seconds (0: any), with `incompressible` only those kept
    raw, until `max_pages` have moved.  It goes through the entries from `*next` on and stops after
    so many `tries`, with `*next` where to go on, or 0."""
    cdef zsw_pool *target
    cdef uint64_t last = out.moved + out.kept + tries
    cdef uint32_t id, limit
    cdef int rc
    rc = pool_hold(e, compressor, ops, config, &target)
    if rc != 0:
        return rc
    w.now = zsw_now_s()
    limit = slab_limit(&e.entries)
    id = next[0]
    next[0] = 0
    while id < limit:
        # Old and new object exist side by side for a moment, and the old one's page may stay: the
        # limit holds here too.
        if out.moved >= max_pages or pools_reach(e, zsw_peek_u64(&e.params.max_pages)):
            break
        if out.moved + out.kept >= last:
            next[0] = id
            break
        if qualifies(e, w, target, entry_at(e, id), idle, incompressible):
            recompress_entry(e, w, target, id, out)
        id += 1
    pool_release(e, target)
    return 0
