# cython: language_level=3
"""Store: same-filled?  Room?  Compress, allocate, publish.

Only the last step is seen by others: under the shard's lock the index slot changes from the old
entry to the new one and both change places in the LRU.  The old entry loses the index's reference,
and whoever drops the last reference frees it.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy

from zswap_core.checksum cimport checksum_of
from zswap_core.entries cimport entry_at, free_entry, put_entry, take_entry
from zswap_core.entry cimport (entry_same, IN_TRANSIT, is_entry, ON_BACKING, state_new, word_handle,
                               word_length, zsw_entry)
from zswap_core.index cimport shard_erase, shard_find, SHARD_PAGES, sum_at, zsw_area, zsw_shard
from zswap_core.invalidate cimport invalidate_area
from zswap_core.lookup cimport find_area
from zswap_core.objects cimport compress_page, make_object
from zswap_core.os cimport (zsw_load_ptr, zsw_lock, zsw_poke_i64, zsw_poke_u32, zsw_poke_u64,
                            zsw_store_u32, zsw_unlikely, zsw_unlock)
from zswap_core.params cimport Flag, is_on
from zswap_core.pool cimport check_limits
from zswap_core.samefilled cimport same_filled
from zswap_core.slots cimport change_lru, lock_slot, OCCUPIED
from zswap_core.state cimport zsw_engine, zsw_pool, zsw_worker
from zswap_core.stats cimport count, Counter
from zswap_core.status cimport REASONS, Status
from zswap_core.transit cimport write_through
from zswap_core.worker cimport count_entry, worker_scratch


cdef uint32_t *clear_backed(zsw_engine *e, zsw_worker *w, zsw_area *area, zsw_shard *shard,
                            uint64_t offset, uint32_t *slot) noexcept nogil:
    """For wipe_on_free: has the backing store forget the page that is about to be replaced, and
    returns its slot, which holds nothing then.  The shard is locked before and after; in between
    others wait for the page."""
    cdef uint32_t pos
    slot[0] = IN_TRANSIT
    zsw_unlock(&shard.lock)
    area.backing.discard(area.store, &offset, 1)
    zsw_lock(&shard.lock)
    slot = shard_find(&e.index, shard, offset & (SHARD_PAGES - 1), &pos)
    slot[0] = 0
    count(w.counters, Counter.backed_pages, -1)
    count(w.counters, Counter.duplicate_entry, 1)
    return slot


cdef int open_slot(zsw_engine *e, zsw_worker *w, zsw_area *area, uint64_t offset, bint absent,
                   zsw_shard **shard, uint32_t **slot, uint32_t *pos) noexcept nogil:
    """As lock_slot; what a slot says that the page is in the backing store can be overwritten."""
    cdef int rc = lock_slot(e, area, offset, absent, shard, slot, pos)
    if zsw_unlikely(e.params.wipe_on_free) and rc == Status.STORED and slot[0][0] == ON_BACKING:
        slot[0] = clear_backed(e, w, area, shard[0], offset, slot[0])
    return rc


cdef void publish(zsw_engine *e, zsw_worker *w, zsw_shard *shard, uint32_t *slot, uint32_t pos,
                  uint32_t id, uint32_t sum) noexcept nogil:
    """Puts a complete entry into its slot and the LRU, in place of the old one if there is one, and
    unlocks the shard."""
    cdef zsw_entry *entry = entry_at(e, id)
    cdef uint32_t old = slot[0]
    slot[0] = id
    zsw_poke_u32(&entry.pos, pos)
    if zsw_unlikely(e.index.checksums != 0):
        sum_at(&e.index, pos)[0] = sum
    # The LRU comes last: what walks it may take any entry it finds there for complete.
    change_lru(e, old, id)
    zsw_unlock(&shard.lock)
    if old:
        count(w.counters, Counter.duplicate_entry, 1)
        if is_entry(old):
            put_entry(e, w, old)
        else:
            # what the backing store has is stale and will be overwritten
            count(w.counters, Counter.backed_pages, -1)


cdef int make_word(zsw_engine *e, zsw_worker *w, zsw_pool *pool, const uint8_t *page,
                   uint64_t *word) noexcept nogil:
    """Makes the page an object of the pool, compressed or, where that would take a whole allocator
    page, raw."""
    cdef int64_t length = compress_page(e, w, pool, page)
    if zsw_unlikely(length < 0):
        return <int> length
    if length:
        return make_object(e, pool, w.scratch, <uint32_t> length, word)
    if is_on(&e.params, Flag.reject_compress_poor):
        return Status.COMPRESS_POOR
    return make_object(e, pool, page, e.page_size, word)


cdef int hold_same_filled(zsw_engine *e, zsw_worker *w, zsw_area *area, uint64_t offset,
                          uint64_t value, bint absent) noexcept nogil:
    cdef zsw_shard *shard
    cdef zsw_entry *entry
    cdef uint32_t *slot
    # the word is the page
    cdef uint32_t pos, id, sum = checksum_of(&e.checksum, &value, sizeof(value))
    cdef bint held
    cdef int rc = open_slot(e, w, area, offset, absent, &shard, &slot, &pos)
    if zsw_unlikely(rc < 0):
        return rc
    # In place of another same-filled page only the value changes: under the shard's lock nobody
    # else is looking at it.
    id = slot[0]
    held = is_entry(id) and entry_same(entry_at(e, id))
    if not held:
        id = take_entry(e, w)
        if zsw_unlikely(id == 0):
            if slot[0] == 0:
                shard_erase(&e.index, shard, offset & (SHARD_PAGES - 1))
            zsw_unlock(&shard.lock)
            return Status.ENTRY_FAIL
    entry = entry_at(e, id)
    zsw_poke_u64(&entry.word, value)
    zsw_store_u32(&entry.state, state_new(True, w.now))
    if held:
        if zsw_unlikely(e.index.checksums != 0):
            sum_at(&e.index, pos)[0] = sum
        zsw_unlock(&shard.lock)
        count(w.counters, Counter.duplicate_entry, 1)
    else:
        count(w.counters, Counter.stored_pages, 1)
        count(w.counters, Counter.same_filled_pages, 1)
        publish(e, w, shard, slot, pos, id, sum)
    return Status.SAME_FILLED


cdef int hold_compressed(zsw_engine *e, zsw_worker *w, zsw_area *area, uint64_t offset,
                         const uint8_t *page, bint absent) noexcept nogil:
    cdef zsw_pool *pool
    cdef zsw_entry *entry
    cdef zsw_shard *shard
    cdef uint32_t *slot
    cdef uint64_t word = 0
    cdef uint32_t id, length, pos, sum
    cdef int rc = check_limits(e)
    if rc < 0:
        return rc
    sum = checksum_of(&e.checksum, page, e.page_size)
    pool = <zsw_pool *> zsw_load_ptr(<void **> &e.current)
    rc = make_word(e, w, pool, page, &word)
    if zsw_unlikely(rc < 0):
        return rc
    id = take_entry(e, w)
    if zsw_unlikely(id == 0):
        pool.ops.free(pool.zpool, word_handle(word))
        return Status.ENTRY_FAIL
    entry = entry_at(e, id)
    zsw_poke_u64(&entry.word, word)
    zsw_store_u32(&entry.state, state_new(False, w.now))
    length = word_length(word)
    # Counted before it is published: from then on another thread may free it.
    count_entry(e, w, pool, 1)
    count(w.counters, Counter.stored_pages, 1)
    count(w.counters, Counter.compressed_bytes, length)
    if length == e.page_size:
        count(w.counters, Counter.stored_incompressible_pages, 1)
    rc = open_slot(e, w, area, offset, absent, &shard, &slot, &pos)
    if zsw_unlikely(rc < 0):
        free_entry(e, w, id)
        return rc
    publish(e, w, shard, slot, pos, id, sum)
    return Status.INCOMPRESSIBLE if length == e.page_size else Status.STORED


cdef void count_refusal(zsw_worker *w, int status) noexcept nogil:
    if -status < <int> REASONS:                 # else OCCUPIED
        zsw_poke_i64(&w.refused[-status], w.refused[-status] + 1)


cdef int engine_store(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset,
                      const uint8_t *page) noexcept nogil:
    """Holds a copy of the page; returns its Status.  A page that is refused goes to the area's
    backing store; where there is none, or it fails, nothing is held at that offset any more."""
    return store_page(e, w, type, offset, page, False)


cdef int store_page(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset,
                    const uint8_t *page, bint absent) noexcept nogil:
    """As engine_store; with `absent` only where nothing is held, else what is there stays and the
    result is OCCUPIED."""
    cdef zsw_area *area = find_area(e, type, offset)
    cdef uint64_t value
    cdef int status
    if zsw_unlikely(not is_on(&e.params, Flag.enabled)):
        status = Status.DISABLED
    elif zsw_unlikely(area == NULL):
        status = Status.NO_AREA
    elif (is_on(&e.params, Flag.same_filled_pages_enabled)
            and same_filled(page, e.page_size, &value)):
        status = hold_same_filled(e, w, area, offset, value, absent)
    elif zsw_unlikely(not is_on(&e.params, Flag.non_same_filled_pages_enabled)):
        status = Status.DISABLED
    else:
        status = hold_compressed(e, w, area, offset, page, absent)
    if zsw_unlikely(status < 0):
        count_refusal(w, status)
        if area == NULL or status == OCCUPIED:
            return status
        if area.backing != NULL and status != Status.NO_AREA and worker_scratch(e, w, e.page_size):
            # no lock may be held while the caller's memory is touched
            memcpy(w.scratch, page, e.page_size)
            return write_through(e, w, area, offset, w.scratch, absent)
        if not absent:
            invalidate_area(e, w, area, offset, offset)     # what it held is stale now
    return status
