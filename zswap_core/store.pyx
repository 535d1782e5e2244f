# cython: language_level=3
"""Store: same-filled?  Room?  Compress, allocate, publish.

Only the last step is seen by others: under the shard's lock the index slot changes from the old entry to the new one and both
change places in the LRU.  The old entry loses the index's reference, and whoever drops the last reference frees it.
"""
from libc.errno cimport ENOSPC
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy

from zswap_core.abi cimport ZSW_HANDLE_MAX
from zswap_core.area cimport find_area
from zswap_core.backing cimport OCCUPIED, TRANSIT_NS, write_through
from zswap_core.checksum cimport checksum_of
from zswap_core.entries cimport entry_at, free_entry, put_entry, take_entry
from zswap_core.entry cimport (entry_same, IN_TRANSIT, is_entry, ON_BACKING, state_new, word_handle, word_length, word_pack,
                               zsw_entry)
from zswap_core.fault cimport fault, Site
from zswap_core.index cimport (area_lock_shard, AREA_ONLINE, shard_erase, shard_find, SHARD_PAGES, shard_reserve, SHARD_SHIFT,
                               sum_at, zsw_area, zsw_shard)
from zswap_core.invalidate cimport invalidate_area
from zswap_core.lru cimport lru_add, lru_remove
from zswap_core.os cimport (zsw_copy_page, zsw_likely, zsw_load_ptr, zsw_load_u32, zsw_lock, zsw_peek_u32, zsw_poke_u32,
                            zsw_poke_u64, zsw_sleep_ns, zsw_store_u32, zsw_unlikely, zsw_unlock)
from zswap_core.pool cimport check_limits
from zswap_core.samefilled cimport same_filled
from zswap_core.state cimport zsw_engine, zsw_pool, zsw_worker
from zswap_core.stats cimport count, Counter
from zswap_core.status cimport Status
from zswap_core.worker cimport count_entry, worker_context, worker_scratch


cdef uint32_t *clear_backed(zsw_engine *e, zsw_worker *w, zsw_area *area, zsw_shard *shard, uint64_t offset,
                            uint32_t *slot) noexcept nogil:
    """For wipe_on_free: has the backing store forget the page that is about to be replaced, and returns its slot, which holds
    nothing then.  The shard is locked before and after; in between others wait for the page."""
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


cdef int lock_slot(zsw_engine *e, zsw_worker *w, zsw_area *area, uint64_t offset, bint absent, zsw_shard **shard,
                   uint32_t **slot, uint32_t *pos) noexcept nogil:
    """Finds or makes the slot of `offset`, once no call has the page in transit, and leaves its shard locked.  Fails without.
    With `absent` it must be empty."""
    while True:
        shard[0] = area_lock_shard(&e.index, area, offset >> SHARD_SHIFT)
        if zsw_unlikely(shard[0] == NULL):
            return Status.ENTRY_FAIL
        if zsw_unlikely(zsw_load_u32(&area.online) != AREA_ONLINE):
            zsw_unlock(&shard[0].lock)
            return Status.NO_AREA
        if shard_reserve(&e.index, shard[0], offset & (SHARD_PAGES - 1), slot, pos) != 0:
            zsw_unlock(&shard[0].lock)
            return Status.ENTRY_FAIL
        if zsw_unlikely(absent) and slot[0][0] != 0 and slot[0][0] != IN_TRANSIT:
            zsw_unlock(&shard[0].lock)
            return OCCUPIED
        if zsw_unlikely(slot[0][0] == ON_BACKING and e.params.wipe_on_free):
            slot[0] = clear_backed(e, w, area, shard[0], offset, slot[0])
        if zsw_likely(slot[0][0] != IN_TRANSIT):
            return Status.STORED
        zsw_unlock(&shard[0].lock)
        zsw_sleep_ns(TRANSIT_NS)


cdef void publish(zsw_engine *e, zsw_worker *w, zsw_shard *shard, uint32_t *slot, uint32_t pos, uint32_t id,
                  uint32_t sum) noexcept nogil:
    """Puts a complete entry into its slot and the LRU, in place of the old one if there is one, and unlocks the shard."""
    cdef zsw_entry *entry = entry_at(e, id)
    cdef uint32_t old = slot[0]
    cdef bint leaves, joins
    slot[0] = id
    zsw_poke_u32(&entry.pos, pos)
    if zsw_unlikely(e.index.checksums != 0):
        sum_at(&e.index, pos)[0] = sum
    # The LRU comes last: what walks it may take any entry it finds there for complete.
    leaves = is_entry(old) and not entry_same(entry_at(e, old))
    joins = not entry_same(entry)
    if leaves or joins:
        zsw_lock(&e.lru.lock)
        if leaves:
            lru_remove(&e.lru, &e.entries, old)
        if joins:
            lru_add(&e.lru, &e.entries, id)
        zsw_unlock(&e.lru.lock)
    zsw_unlock(&shard.lock)
    if old:
        count(w.counters, Counter.duplicate_entry, 1)
        if is_entry(old):
            put_entry(e, w, old)
        else:
            count(w.counters, Counter.backed_pages, -1)     # what the backing store has is stale and will be overwritten


cdef int compress_page(zsw_engine *e, zsw_worker *w, zsw_pool *pool, const uint8_t *page, uint64_t *word) noexcept nogil:
    """Compresses a page into an object of the pool; a page that would take a whole allocator page is kept raw."""
    cdef void *context = NULL
    cdef uint8_t *object
    cdef uint64_t handle
    cdef int64_t length
    cdef int rc
    if pool.compressor.ops.ctx_new != NULL:
        context = worker_context(w, pool)
        if zsw_unlikely(context == NULL):
            return Status.ALLOC_FAIL
    if zsw_unlikely(not worker_scratch(e, w, pool.bound)):
        return Status.ALLOC_FAIL
    length = fault(Site.COMPRESS)
    if zsw_likely(length == 0):
        length = pool.compressor.ops.compress(pool.compressor.state, context, page, e.page_size, w.scratch, w.scratch_size)
    if zsw_unlikely(length < 0):
        return Status.COMPRESS_FAIL
    if length == 0 or <uint64_t> length > pool.max_saving:
        if zsw_peek_u32(&e.params.reject_compress_poor):
            return Status.COMPRESS_POOR
        length = e.page_size
    rc = fault(Site.ZPOOL_MALLOC)
    if zsw_likely(rc == 0):
        rc = pool.ops.malloc(pool.zpool, <size_t> length, &handle, &object)
    if zsw_unlikely(rc != 0):
        return Status.COMPRESS_POOR if rc == -ENOSPC else Status.ALLOC_FAIL
    if zsw_unlikely(handle > ZSW_HANDLE_MAX):
        pool.ops.free(pool.zpool, handle)
        return Status.ALLOC_FAIL
    if length == e.page_size:
        zsw_copy_page(object, page, <size_t> length)
    else:
        memcpy(object, w.scratch, <size_t> length)
    word[0] = word_pack(handle, <uint32_t> length, pool.id)
    return Status.STORED


cdef int hold_same_filled(zsw_engine *e, zsw_worker *w, zsw_area *area, uint64_t offset, uint64_t value,
                          bint absent) noexcept nogil:
    cdef zsw_shard *shard
    cdef zsw_entry *entry
    cdef uint32_t *slot
    cdef uint32_t pos, id, sum = checksum_of(&e.checksum, &value, sizeof(value))       # the word is the page
    cdef bint held
    cdef int rc = lock_slot(e, w, area, offset, absent, &shard, &slot, &pos)
    if zsw_unlikely(rc < 0):
        return rc
    # In place of another same-filled page only the value changes: under the shard's lock nobody else is looking at it.
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


cdef int hold_compressed(zsw_engine *e, zsw_worker *w, zsw_area *area, uint64_t offset, const uint8_t *page,
                         bint absent) noexcept nogil:
    cdef zsw_pool *pool
    cdef zsw_entry *entry
    cdef zsw_shard *shard
    cdef uint32_t *slot
    cdef uint64_t word = 0
    cdef uint32_t id, length, pos, sum
    cdef int rc = check_limits(e, w)
    if rc < 0:
        return rc
    sum = checksum_of(&e.checksum, page, e.page_size)
    pool = <zsw_pool *> zsw_load_ptr(<void **> &e.current)
    rc = compress_page(e, w, pool, page, &word)
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
    rc = lock_slot(e, w, area, offset, absent, &shard, &slot, &pos)
    if zsw_unlikely(rc < 0):
        free_entry(e, w, id)
        return rc
    publish(e, w, shard, slot, pos, id, sum)
    return Status.INCOMPRESSIBLE if length == e.page_size else Status.STORED


cdef void count_refusal(zsw_worker *w, int status) noexcept nogil:
    # The two limits have counted themselves.
    if status == Status.DISABLED:
        count(w.counters, Counter.reject_disabled, 1)
    elif status == Status.NO_AREA:
        count(w.counters, Counter.reject_area, 1)
    elif status == Status.COMPRESS_POOR:
        count(w.counters, Counter.reject_compress_poor, 1)
    elif status == Status.COMPRESS_FAIL:
        count(w.counters, Counter.reject_compress_fail, 1)
    elif status == Status.ALLOC_FAIL:
        count(w.counters, Counter.reject_alloc_fail, 1)
    elif status == Status.ENTRY_FAIL:
        count(w.counters, Counter.reject_kmemcache_fail, 1)


cdef int engine_store(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset, const uint8_t *page) noexcept nogil:
    """Holds a copy of the page; returns its Status.  A page that is refused goes to the area's backing store; where there is
    none, or it fails, nothing is held at that offset any more."""
    return store_page(e, w, type, offset, page, False)


cdef int store_page(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset, const uint8_t *page,
                    bint absent) noexcept nogil:
    """As engine_store; with `absent` only where nothing is held, else what is there stays and the result is OCCUPIED."""
    cdef zsw_area *area = find_area(e, type, offset)
    cdef uint64_t value
    cdef int status
    if zsw_unlikely(not zsw_peek_u32(&e.params.enabled)):
        status = Status.DISABLED
    elif zsw_unlikely(area == NULL):
        status = Status.NO_AREA
    elif zsw_peek_u32(&e.params.same_filled_pages_enabled) and same_filled(page, e.page_size, &value):
        status = hold_same_filled(e, w, area, offset, value, absent)
    elif zsw_unlikely(not zsw_peek_u32(&e.params.non_same_filled_pages_enabled)):
        status = Status.DISABLED
    else:
        status = hold_compressed(e, w, area, offset, page, absent)
    if zsw_unlikely(status < 0):
        count_refusal(w, status)
        if area == NULL or status == OCCUPIED:
            return status
        if area.backing != NULL and status != Status.NO_AREA and worker_scratch(e, w, e.page_size):
            memcpy(w.scratch, page, e.page_size)        # no lock may be held while the caller's memory is touched
            return write_through(e, w, area, offset, w.scratch, absent)
        if not absent:
            invalidate_area(e, w, area, offset, offset)     # what it held is stale now
    return status
