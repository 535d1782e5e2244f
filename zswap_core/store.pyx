"""Store: same-filled?  Room?  Compress, allocate, publish.

Only the last step is seen by others: under the shard's lock the index slot changes from the old
entry to the new one and both change places in the LRU.  The old entry loses the index's reference,
and whoever drops the last reference frees it.
"""
from libc.stdint cimport int8_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcpy

from zswap_core.abi cimport ZSW_BACKING_LOG, ZSW_PAGE_SIZE_MIN
from zswap_core.ahead cimport AHEAD_PAGES, look_ahead
from zswap_core.budget cimport budget_allows, budget_look, through_bytes
from zswap_core.checksum cimport checksum_of
from zswap_core.entries cimport entry_at, free_entry, put_entry, take_entry
from zswap_core.entry cimport entry_same, IN_TRANSIT, is_backed, is_entry, state_new, zsw_entry
from zswap_core.index cimport (
    is_clean, set_clean, set_value_length, shard_erase, shard_find, SHARD_PAGES, sum_at, zsw_area,
    zsw_shard,
)
from zswap_core.invalidate cimport invalidate_area
from zswap_core.lookup cimport find_area
from zswap_core.objects cimport make_entry
from zswap_core.os cimport (
    zsw_likely, zsw_lock, zsw_now_ns, zsw_peek_u64, zsw_poke_i64, zsw_poke_u32, zsw_poke_u64,
    zsw_prefetch, zsw_store_u32, zsw_unlikely, zsw_unlock,
)
from zswap_core.params cimport Flag, is_on
from zswap_core.pool cimport check_limits, hit_limit, NEAR_LIMIT, reclaims
from zswap_core.quota cimport charge, refund, slot_bytes
from zswap_core.reclaim cimport admit, make_room_in
from zswap_core.samefilled cimport same_filled
from zswap_core.slots cimport change_slot, CHANGED, lock_slot, zsw_held
from zswap_core.state cimport zsw_engine, zsw_worker
from zswap_core.stats cimport count, Counter
from zswap_core.status cimport REASONS, Status
from zswap_core.transit cimport write_through, write_through_many
from zswap_core.worker cimport worker_scratch


cdef enum:
    STORES_AHEAD_FROM = 1 << 15     # entries in use; with fewer, compressing hides the misses
    MOST_TRIES = 8                  # room that was made in an area has gone to others so often


cdef uint32_t *clear_backed(zsw_engine *e, zsw_worker *w, zsw_area *area, zsw_shard *shard,
                            uint64_t offset, uint32_t *slot, uint32_t at) noexcept nogil:
    """For wipe_on_free, and for stores in which it takes room: has the backing store forget the
    page that is about to be replaced, and returns its slot, which holds nothing then.  The shard is
    locked before and after; in between others wait for the page."""
    cdef uint32_t pos, old = slot[0]
    slot[0] = IN_TRANSIT
    set_clean(&e.index, at, False)
    change_slot(e, shard, old, 0)
    zsw_unlock(&shard.lock)
    if is_entry(old):
        put_entry(e, w, old)
    else:
        count(w.counters, Counter.backed_pages, -1)
    area.backing.discard(area.store, &offset, 1)
    zsw_lock(&shard.lock)
    slot = shard_find(&e.index, shard, offset & (SHARD_PAGES - 1), &pos)
    slot[0] = 0
    count(w.counters, Counter.duplicate_entry, 1)
    return slot


cdef void publish(zsw_engine *e, zsw_worker *w, zsw_area *area, zsw_shard *shard, uint64_t offset,
                  uint32_t *slot, uint32_t pos, uint32_t id, uint32_t sum) noexcept nogil:
    """Puts a complete entry into its slot and the LRU, in place of the old one if there is one, and
    unlocks the shard.  From here on nothing can fail: so what the backing store has may go."""
    cdef zsw_entry *entry = entry_at(e, id)
    cdef uint32_t old
    if (zsw_unlikely(is_backed(slot[0]) or is_clean(&e.index, pos))
            and (e.params.wipe_on_free or area.backing.flags & ZSW_BACKING_LOG)):
        slot = clear_backed(e, w, area, shard, offset, slot, pos)
    old = slot[0]
    slot[0] = id
    zsw_poke_u32(&entry.pos, pos)
    if is_clean(&e.index, pos):
        set_clean(&e.index, pos, False)         # what the store has is stale now
    if zsw_unlikely(e.index.checksums != 0):
        sum_at(&e.index, pos)[0] = sum
    if zsw_unlikely(shard.variable):
        set_value_length(&e.index, pos, w.size)
    # The LRU comes last: what walks it may take any entry it finds there for complete.
    change_slot(e, shard, old, id)
    zsw_unlock(&shard.lock)
    if old:
        count(w.counters, Counter.duplicate_entry, 1)
        if is_entry(old):
            put_entry(e, w, old)
        else:
            # what the backing store has is stale and will be overwritten
            count(w.counters, Counter.backed_pages, -1)


cdef int make_same_filled(zsw_engine *e, zsw_worker *w, uint64_t value,
                          uint32_t *id) noexcept nogil:
    """As make_entry, of a page that is one word."""
    cdef zsw_entry *entry
    id[0] = take_entry(e, w)
    if zsw_unlikely(id[0] == 0):
        return Status.ENTRY_FAIL
    entry = entry_at(e, id[0])
    zsw_poke_u64(&entry.word, value)
    zsw_store_u32(&entry.state, state_new(True, w.now))
    count(w.counters, Counter.stored_pages, 1)
    count(w.counters, Counter.same_filled_pages, 1)
    return Status.SAME_FILLED


cdef int hold_same_filled(zsw_engine *e, zsw_worker *w, zsw_area *area, uint64_t offset,
                          uint64_t value, const zsw_held *only) noexcept nogil:
    cdef zsw_shard *shard
    cdef zsw_entry *entry
    cdef uint32_t *slot
    # the word is the page
    cdef uint32_t pos, id, sum = checksum_of(&e.checksum, &value, sizeof(value))
    cdef int rc = lock_slot(e, area, offset, only, &shard, &slot, &pos)
    if zsw_unlikely(rc < 0):
        return rc
    # In place of another same-filled page only the value changes: under the shard's lock nobody
    # else is looking at it.
    entry = entry_at(e, slot[0]) if is_entry(slot[0]) else NULL
    if entry != NULL and entry_same(entry):
        zsw_poke_u64(&entry.word, value)
        zsw_store_u32(&entry.state, state_new(True, w.now))
        if zsw_unlikely(e.index.checksums != 0):
            sum_at(&e.index, pos)[0] = sum
        if zsw_unlikely(shard.variable):
            set_value_length(&e.index, pos, w.size)
        zsw_unlock(&shard.lock)
        count(w.counters, Counter.duplicate_entry, 1)
        return Status.SAME_FILLED
    rc = make_same_filled(e, w, value, &id)
    if zsw_unlikely(rc < 0):
        if slot[0] == 0:
            shard_erase(&e.index, shard, offset & (SHARD_PAGES - 1))
        zsw_unlock(&shard.lock)
        return rc
    publish(e, w, area, shard, offset, slot, pos, id, sum)
    return rc


cdef int admit_word(zsw_engine *e, zsw_worker *w) noexcept nogil:
    """STORED when a page may come in that takes no room in a pool: at the limit, too, until what
    all takes comes to the budget."""
    if zsw_likely(budget_allows(e)):
        return Status.STORED
    if reclaims(e):
        admit(e, w)
    else:
        hit_limit(e)
    budget_look(e)
    return Status.STORED if budget_allows(e) else Status.POOL_LIMIT


cdef int admit_entry(zsw_engine *e, zsw_worker *w, const uint8_t *page, uint32_t *id,
                     uint32_t *sum) noexcept nogil:
    """As make_entry, once the limit allows it; and the page's checksum."""
    cdef int rc = check_limits(e)
    if zsw_unlikely(rc == NEAR_LIMIT):
        rc = admit(e, w)
    if rc < 0:
        return rc
    sum[0] = checksum_of(&e.checksum, page, e.page_size)
    return make_entry(e, w, page, id)


cdef int place_entry(zsw_engine *e, zsw_worker *w, zsw_area *area, uint64_t offset,
                     const zsw_held *only, uint32_t id, uint32_t sum, int64_t paid) noexcept nogil:
    """Puts a complete entry in place of what is held at `offset`, or frees it.  What was `paid` for
    it beforehand is returned: the shard counts it, or it is not there."""
    cdef zsw_shard *shard
    cdef uint32_t *slot
    cdef uint32_t pos, tries = 0
    cdef int rc
    while True:
        rc = lock_slot(e, area, offset, only, &shard, &slot, &pos)
        if zsw_unlikely(rc < 0):
            break
        if zsw_unlikely(shard.tallied) and paid == UNPAID:
            if not charge(area, slot_bytes(e, id), slot_bytes(e, slot[0])):
                if slot[0] == 0:
                    shard_erase(&e.index, shard, offset & (SHARD_PAGES - 1))
                zsw_unlock(&shard.lock)
                rc = Status.AREA_QUOTA
                tries += 1
                if tries == MOST_TRIES or not make_room_in(e, w, area, slot_bytes(e, id)):
                    break
                continue
            paid = slot_bytes(e, id)
        publish(e, w, area, shard, offset, slot, pos, id, sum)
        refund(area, paid)
        return Status.STORED
    free_entry(e, w, id)
    refund(area, paid)
    return rc


cdef int prepare_page(zsw_engine *e, zsw_worker *w, const uint8_t *page, uint32_t *id,
                      uint32_t *sum) noexcept nogil:
    """Makes the page an entry that nobody knows yet, for place_entry, or says why not."""
    cdef uint64_t value
    cdef int status
    if zsw_unlikely(not is_on(&e.params, Flag.enabled)):
        status = Status.DISABLED
    elif (is_on(&e.params, Flag.same_filled_pages_enabled)
            and same_filled(page, e.page_size, &value)):
        sum[0] = checksum_of(&e.checksum, &value, sizeof(value))
        status = admit_word(e, w)
        if zsw_likely(status == Status.STORED):
            status = make_same_filled(e, w, value, id)
    elif zsw_unlikely(not is_on(&e.params, Flag.non_same_filled_pages_enabled)):
        status = Status.DISABLED
    else:
        status = admit_entry(e, w, page, id, sum)
    if zsw_unlikely(status < 0):
        count_refusal(w, status)
    return status


cdef int hold_compressed(zsw_engine *e, zsw_worker *w, zsw_area *area, uint64_t offset,
                         const uint8_t *page, const zsw_held *only) noexcept nogil:
    cdef uint32_t id, sum
    cdef int rc, status = admit_entry(e, w, page, &id, &sum)
    if zsw_unlikely(status < 0):
        return status
    rc = place_entry(e, w, area, offset, only, id, sum, UNPAID)
    return status if zsw_likely(rc == Status.STORED) else rc


cdef void count_refusal(zsw_worker *w, int status) noexcept nogil:
    if -status < <int> REASONS:                 # else CHANGED
        zsw_poke_i64(&w.refused[-status], w.refused[-status] + 1)


cdef int try_store(zsw_engine *e, zsw_worker *w, zsw_area *area, uint64_t offset,
                   const uint8_t *page, const zsw_held *only) noexcept nogil:
    """Holds a copy of the page, or says why not."""
    cdef uint64_t value
    cdef int status
    if zsw_unlikely(not is_on(&e.params, Flag.enabled)):
        status = Status.DISABLED
    elif zsw_unlikely(area == NULL):
        status = Status.NO_AREA
    elif (is_on(&e.params, Flag.same_filled_pages_enabled)
            and same_filled(page, e.page_size, &value)):
        status = admit_word(e, w)
        if zsw_likely(status == Status.STORED):
            status = hold_same_filled(e, w, area, offset, value, only)
    elif zsw_unlikely(not is_on(&e.params, Flag.non_same_filled_pages_enabled)):
        status = Status.DISABLED
    else:
        status = hold_compressed(e, w, area, offset, page, only)
    if zsw_unlikely(status < 0):
        count_refusal(w, status)
    return status


cdef int engine_store(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset,
                      const uint8_t *page) noexcept nogil:
    """Holds a copy of the page; returns its Status.  A page that is refused goes to the area's
    backing store; where there is none, or it fails, nothing is held at that offset any more."""
    return store_page(e, w, type, offset, page, NULL)


cdef int store_page(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset,
                    const uint8_t *page, const zsw_held *only) noexcept nogil:
    """As engine_store; unless `only` is NULL in place of that alone.  If something else is held by
    now, that stays and the result is CHANGED; if the page is refused, `only` stays, but where the
    backing store was to take the page and failed."""
    cdef zsw_area *area = find_area(e, type, offset)
    cdef int status = try_store(e, w, area, offset, page, only)
    if zsw_unlikely(status < 0) and area != NULL and status != CHANGED:
        if area.backing != NULL and status != Status.NO_AREA and worker_scratch(e, w, e.page_size):
            # no lock may be held while the caller's memory is touched
            memcpy(w.scratch, page, e.page_size)
            return write_through(e, w, area, offset, w.scratch, only)
        if only == NULL:
            invalidate_area(e, w, area, offset, offset)     # what it held is stale now
    return status


cdef int engine_replace(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset,
                        const uint8_t *page) noexcept nogil:
    """As engine_store, but where there is no backing store a refused page changes nothing: for
    those who were told that what is there was written."""
    cdef zsw_area *area = find_area(e, type, offset)
    if area == NULL or area.backing != NULL:
        return engine_store(e, w, type, offset, page)
    return try_store(e, w, area, offset, page, NULL)


# ---- many pages ----------------------------------------------------------------------------------


cdef int by_offset(const void *a, const void *b) noexcept nogil:
    cdef const refused_page *x = <const refused_page *> a
    cdef const refused_page *y = <const refused_page *> b
    return -1 if x.offset < y.offset else x.offset > y.offset


cdef bint is_refused(const refused_page *refused, uint32_t n, uint64_t offset) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        if refused[i].offset == offset:
            return True
    return False


cdef uint64_t through(zsw_engine *e, zsw_worker *w, zsw_area *area, refused_page *refused,
                      uint32_t n, const uint8_t *pages, int8_t *status, uint64_t *took,
                      uint64_t since) noexcept nogil:
    """Writes pages that were refused to the area's backing store, with one write; returns the time,
    which they share."""
    cdef uint64_t offsets[STORES_TOGETHER]
    cdef int statuses[STORES_TOGETHER]
    cdef uint64_t now
    cdef uint32_t i
    qsort(refused, n, sizeof(refused_page), by_offset)
    for i in range(n):              # no lock may be held while the caller's memory is touched
        offsets[i] = refused[i].offset
        memcpy(w.scratch + <size_t> i * e.page_size, pages + <size_t> refused[i].at * e.page_size,
               e.page_size)
    write_through_many(e, w, area, offsets, w.scratch, n, statuses)
    for i in range(n):
        status[refused[i].at] = <int8_t> statuses[i]
    if took == NULL:
        return 0
    now = zsw_now_ns()
    for i in range(n):
        took[refused[i].at] += (now - since) // n
    return now


cdef inline void prefetch_page(const uint8_t *page) noexcept nogil:
    """Prefetches a page, or its beginning, while the one before is compressed."""
    cdef size_t i
    for i in range(0, ZSW_PAGE_SIZE_MIN, 64):
        zsw_prefetch(page + i)


cdef void engine_store_together(zsw_engine *e, zsw_worker *w, uint32_t type,
                                const uint64_t *offsets, uint32_t pages, const uint8_t *page,
                                int8_t *status, uint64_t *took) noexcept nogil:
    """As engine_store for each of at most STORES_TOGETHER pages, but what is refused goes to the
    backing store together.  `took`, unless it is NULL, gets the nanoseconds of each."""
    cdef refused_page refused[STORES_TOGETHER]
    cdef uint32_t most = min(<uint32_t> STORES_TOGETHER,
                             <uint32_t> (through_bytes(e, THROUGH_BYTES) // e.page_size))
    cdef uint32_t n = 0, i, more
    cdef zsw_area *area
    cdef zsw_area *owner = NULL
    cdef uint64_t before = zsw_now_ns() if took != NULL else 0, after
    cdef bint ahead = zsw_peek_u64(&e.entries.inuse) >= STORES_AHEAD_FROM
    for i in range(pages):
        if zsw_unlikely(n != 0) and (n == most or is_refused(refused, n, offsets[i])):
            # The later of two pages is held: it must come after the other.
            before = through(e, w, owner, refused, n, page, status, took, before)
            n = 0
        # Where pages are same-filled, asking would take as long as looking at them.
        if ahead and i % AHEAD_PAGES == 0:
            more = min(pages - i, <uint32_t> AHEAD_PAGES)
            # neighbours lie together, and what is in place of them came together
            if offsets[i + more - 1] - offsets[i] != more - 1:
                look_ahead(e, type, offsets + i, more)
        if i + 1 < pages and (i == 0 or status[i - 1] != Status.SAME_FILLED):
            prefetch_page(page + <size_t> (i + 1) * e.page_size)
        area = find_area(e, type, offsets[i])
        status[i] = <int8_t> try_store(e, w, area, offsets[i], page + <size_t> i * e.page_size,
                                       NULL)
        if zsw_unlikely(status[i] < 0) and area != NULL:
            if (area.backing != NULL and status[i] != Status.NO_AREA
                    and worker_scratch(e, w, <size_t> most * e.page_size)):
                owner = area
                refused[n].offset, refused[n].at = offsets[i], i
                n += 1
            else:
                invalidate_area(e, w, area, offsets[i], offsets[i])
        if took != NULL:
            after = zsw_now_ns()
            took[i] = after - before
            before = after
    if zsw_unlikely(n != 0):
        through(e, w, owner, refused, n, page, status, took, before)
