"""Store: same-filled?  Room?  Compress, allocate, publish.

Only the last step is seen by others: under the shard's lock the index slot changes from the old
entry to the new one and both change places in the LRU.  The old entry loses the index's reference,
and whoever drops the last reference frees it.

A batch makes up to 16 pages ready, publishes those that lie in one shard under its lock in one go,
and then frees what they replace.  So its pages come in their order, as if each had been stored by
itself; where anything takes more than that one lock, each is.
"""
from libc.stdint cimport int8_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcpy, memset

from zswap_core.abi cimport ZSW_BACKING_LOG
from zswap_core.ahead cimport look_ahead
from zswap_core.budget cimport budget_allows, budget_look, through_bytes
from zswap_core.checksum cimport checksum_of
from zswap_core.entries cimport entry_at, free_entry, put_entries, put_entry, take_entry
from zswap_core.entry cimport entry_same, IN_TRANSIT, is_backed, is_entry, state_new, zsw_entry
from zswap_core.index cimport (
    area_lock_shard, AREA_ONLINE, is_clean, set_clean, set_value_length, shard_erase, shard_find,
    SHARD_PAGES, shard_reserve, SHARD_SHIFT, sum_at, zsw_area, zsw_shard,
)
from zswap_core.invalidate cimport invalidate_area
from zswap_core.lookup cimport find_area
from zswap_core.lru cimport lru_pass
from zswap_core.magazine cimport magazine_empty, magazine_expect, magazine_turn
from zswap_core.objects cimport make_entry
from zswap_core.os cimport (
    zsw_likely, zsw_load_u32, zsw_lock, zsw_now_ns, zsw_peek_u32, zsw_peek_u64, zsw_poke_i64,
    zsw_poke_u32, zsw_poke_u64, zsw_prefetch, zsw_store_u32, zsw_unlikely, zsw_unlock,
)
from zswap_core.params cimport Flag, is_on
from zswap_core.pool cimport admit_plainly, hit_limit, near_limit, pool_pages, reclaims
from zswap_core.quota cimport charge, refund, slot_bytes
from zswap_core.reclaim cimport admit, make_room_in
from zswap_core.samefilled cimport same_filled
from zswap_core.slots cimport change_slot, CHANGED, lock_slot, zsw_held
from zswap_core.state cimport MAGAZINE, zsw_engine, zsw_worker
from zswap_core.stats cimport count, Counter
from zswap_core.status cimport REASONS, Status
from zswap_core.transit cimport write_through, write_through_many
from zswap_core.worker cimport worker_scratch


cdef enum:
    STORES_AHEAD_FROM = 1 << 15     # entries in use; with fewer, caches hold what they need
    MOST_TRIES = 8                  # room that was made in an area has gone to others so often
    ALONE = -103                    # no status: publishing it takes more than its shard's lock


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


cdef inline void note_page(zsw_engine *e, zsw_worker *w, const zsw_shard *shard, uint32_t pos,
                           uint32_t sum) noexcept nogil:
    """What the index knows of a page beside where it is."""
    if zsw_unlikely(e.index.checksums != 0):
        sum_at(&e.index, pos)[0] = sum
    if zsw_unlikely(shard.variable):
        set_value_length(&e.index, pos, w.size)


cdef inline bint must_discard(zsw_engine *e, const zsw_area *area, uint32_t id,
                              uint32_t pos) noexcept nogil:
    """Whether the backing store has to forget what a slot holds before another page comes there."""
    return (zsw_unlikely(is_backed(id) or is_clean(&e.index, pos))
            and (e.params.wipe_on_free or area.backing.flags & ZSW_BACKING_LOG))


cdef inline uint32_t fill_slot(zsw_engine *e, zsw_worker *w, zsw_shard *shard, uint32_t *slot,
                               uint32_t pos, uint32_t id, uint32_t sum) noexcept nogil:
    """Puts a complete entry into its slot and the LRU, in place of what is returned.  Under the
    shard's lock; nothing can fail."""
    cdef uint32_t old = slot[0]
    slot[0] = id
    zsw_poke_u32(&entry_at(e, id).pos, pos)
    if is_clean(&e.index, pos):
        set_clean(&e.index, pos, False)         # what the store has is stale now
    note_page(e, w, shard, pos, sum)
    # The LRU comes last: what walks it may take any entry it finds there for complete.
    change_slot(e, shard, old, id)
    return old


cdef void publish(zsw_engine *e, zsw_worker *w, zsw_area *area, zsw_shard *shard, uint64_t offset,
                  uint32_t *slot, uint32_t pos, uint32_t id, uint32_t sum) noexcept nogil:
    """Fills the slot and unlocks the shard.  From here on nothing can fail: so what the backing
    store has may go."""
    cdef uint32_t old
    if must_discard(e, area, slot[0], pos):
        slot = clear_backed(e, w, area, shard, offset, slot, pos)
    old = fill_slot(e, w, shard, slot, pos, id, sum)
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


cdef inline bint change_word(zsw_engine *e, zsw_worker *w, const zsw_shard *shard, uint32_t id,
                             uint32_t pos, uint64_t value, uint32_t sum) noexcept nogil:
    """In place of another same-filled page only the value changes: under the shard's lock nobody
    else is looking at it.  False: a slot with `id` holds something else."""
    cdef zsw_entry *entry
    if not is_entry(id) or not entry_same(entry_at(e, id)):
        return False
    entry = entry_at(e, id)
    zsw_poke_u64(&entry.word, value)
    zsw_store_u32(&entry.state, state_new(True, w.now))
    note_page(e, w, shard, pos, sum)
    return True


cdef int hold_same_filled(zsw_engine *e, zsw_worker *w, zsw_area *area, uint64_t offset,
                          uint64_t value, uint32_t sum, const zsw_held *only) noexcept nogil:
    cdef zsw_shard *shard
    cdef uint32_t *slot
    cdef uint32_t pos, id
    cdef int rc = lock_slot(e, area, offset, only, &shard, &slot, &pos)
    if zsw_unlikely(rc < 0):
        return rc
    if change_word(e, w, shard, slot[0], pos, value, sum):
        zsw_unlock(&shard.lock)
        count(w.counters, Counter.duplicate_entry, 1)
        return Status.STORED
    rc = make_same_filled(e, w, value, &id)
    if zsw_unlikely(rc < 0):
        if slot[0] == 0:
            shard_erase(&e.index, shard, offset & (SHARD_PAGES - 1))
        zsw_unlock(&shard.lock)
        return rc
    publish(e, w, area, shard, offset, slot, pos, id, sum)
    return Status.STORED


cdef int place_entry(zsw_engine *e, zsw_worker *w, zsw_area *area, uint64_t offset,
                     const zsw_held *only, uint32_t id, uint32_t sum, int64_t paid) noexcept nogil:
    """Puts a complete entry in place of what is held at `offset`, or frees it.  What was `paid` for
    it beforehand is returned: the shard counts it, or it is not there."""
    cdef zsw_shard *shard
    cdef uint32_t *slot
    cdef uint32_t pos, tries = 0
    cdef int rc
    lru_pass(&e.lru, &e.entries, &w.lru_left)
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


cdef int admit_word(zsw_engine *e, zsw_worker *w, together *batch) noexcept nogil:
    """STORED when a page may come in that takes no room in a pool: at the limit, too, until what
    all takes comes to the budget."""
    if zsw_likely(budget_allows(e)):
        return Status.STORED
    publish_all(batch)
    if reclaims(e):
        admit(e, w)
    else:
        hit_limit(e)
    budget_look(e)
    return Status.STORED if budget_allows(e) else Status.POOL_LIMIT


cdef int admit_entry(zsw_engine *e, zsw_worker *w, together *batch) noexcept nogil:
    """STORED when a page may come in that takes room in a pool, else the reason why not."""
    cdef bint freed
    if zsw_likely(not near_limit(e)):
        return Status.STORED
    # What those replace may be all the room there is; and nobody waits at the gate with pages that
    # cannot be written back.
    freed = magazine_empty(w)
    if (publish_all(batch) or freed) and not near_limit(e):
        return Status.STORED
    return admit(e, w) if reclaims(e) else admit_plainly(e)


cdef int prepare_page(zsw_engine *e, zsw_worker *w, const zsw_area *area, const uint8_t *page,
                      zsw_ready *ready, together *batch) noexcept nogil:
    """Makes the page what can be published: its Status, or why not.  Unless `batch` is NULL its
    pages are published before this one is refused for want of room."""
    cdef int status
    ready.id = 0
    if zsw_unlikely(not is_on(&e.params, Flag.enabled)):
        return Status.DISABLED
    if zsw_unlikely(area == NULL):
        return Status.NO_AREA
    if (is_on(&e.params, Flag.same_filled_pages_enabled)
            and same_filled(page, e.page_size, &ready.word)):
        # the word is the page
        ready.sum = checksum_of(&e.checksum, &ready.word, sizeof(ready.word))
        status = admit_word(e, w, batch)
        return Status.SAME_FILLED if zsw_likely(status == Status.STORED) else status
    if zsw_unlikely(not is_on(&e.params, Flag.non_same_filled_pages_enabled)):
        return Status.DISABLED
    status = admit_entry(e, w, batch)
    if zsw_unlikely(status < 0):
        return status
    ready.sum = checksum_of(&e.checksum, page, e.page_size)
    return make_entry(e, w, page, &ready.id)


cdef int place_page(zsw_engine *e, zsw_worker *w, zsw_area *area, uint64_t offset,
                    const zsw_held *only, const zsw_ready *ready) noexcept nogil:
    """Publishes one page; if that fails nothing is left of it."""
    if ready.id == 0:
        return hold_same_filled(e, w, area, offset, ready.word, ready.sum, only)
    return place_entry(e, w, area, offset, only, ready.id, ready.sum, UNPAID)


cdef void count_refusal(zsw_worker *w, int status) noexcept nogil:
    if -status < <int> REASONS:                 # else CHANGED
        zsw_poke_i64(&w.refused[-status], w.refused[-status] + 1)


cdef int try_store(zsw_engine *e, zsw_worker *w, zsw_area *area, uint64_t offset,
                   const uint8_t *page, const zsw_held *only) noexcept nogil:
    """Holds a copy of the page, or says why not."""
    cdef zsw_ready ready
    cdef int rc, status = prepare_page(e, w, area, page, &ready, NULL)
    if zsw_likely(status >= 0):
        rc = place_page(e, w, area, offset, only, &ready)
        if zsw_unlikely(rc < 0):
            status = rc
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


cdef bint is_refused(const together *b, uint64_t offset) noexcept nogil:
    cdef uint32_t i
    for i in range(b.refusals):
        if b.refused[i].offset == offset:
            return True
    return False


cdef void pass_time(together *b, uint32_t first, uint32_t pages) noexcept nogil:
    """So many pages share the time since the last call."""
    cdef uint64_t now
    cdef uint32_t i
    if b.took == NULL:
        return
    now = zsw_now_ns()
    for i in range(pages):
        b.took[first + i] += (now - b.since) // pages
    b.since = now


cdef void write_refused(together *b) noexcept nogil:
    """Writes pages that were refused to the area's backing store, with one write."""
    cdef zsw_engine *e = b.e
    cdef zsw_worker *w = b.w
    cdef uint64_t offsets[STORES_TOGETHER]
    cdef int statuses[STORES_TOGETHER]
    cdef uint64_t now
    cdef uint32_t i, n = b.refusals
    b.refusals = 0
    if zsw_unlikely(not worker_scratch(e, w, <size_t> n * e.page_size)):
        for i in range(n):          # a larger page's scratch was to take its place, and failed
            invalidate_area(e, w, b.area, b.refused[i].offset, b.refused[i].offset)
        return
    qsort(b.refused, n, sizeof(refused_page), by_offset)
    for i in range(n):              # no lock may be held while the caller's memory is touched
        offsets[i] = b.refused[i].offset
        memcpy(w.scratch + <size_t> i * e.page_size,
               b.pages + <size_t> b.refused[i].at * e.page_size, e.page_size)
    write_through_many(e, w, b.area, offsets, w.scratch, n, statuses)
    for i in range(n):
        b.status[b.refused[i].at] = <int8_t> statuses[i]
    if b.took != NULL:
        now = zsw_now_ns()
        for i in range(n):
            b.took[b.refused[i].at] += (now - b.since) // n
        b.since = now


cdef void refuse(together *b, zsw_area *area, uint64_t offset, uint32_t at,
                 int status) noexcept nogil:
    """Page number `at` of the batch cannot be held; those before it have been published."""
    count_refusal(b.w, status)
    b.status[at] = <int8_t> status
    if area == NULL:
        return
    if (area.backing == NULL or status == Status.NO_AREA
            or not worker_scratch(b.e, b.w, <size_t> b.most * b.e.page_size)):
        invalidate_area(b.e, b.w, area, offset, offset)     # what it held is stale now
        return
    # The later of two pages is held: it must come after the other.
    if b.refusals == b.most or is_refused(b, offset):
        write_refused(b)
    b.area = area
    b.refused[b.refusals].offset, b.refused[b.refusals].at = offset, at
    b.refusals += 1


cdef inline int publish_next(zsw_engine *e, zsw_worker *w, zsw_area *area, zsw_shard *shard,
                             const zsw_ready *ready, uint32_t *old) noexcept nogil:
    """Publishes a page under its shard's lock, in place of `old`.  If that fails, or is ALONE,
    nothing has changed."""
    cdef uint32_t where = <uint32_t> (ready.offset & (SHARD_PAGES - 1)), id = ready.id, pos
    cdef uint32_t *slot
    cdef int rc = Status.STORED
    if zsw_unlikely(shard_reserve(&e.index, shard, where, &slot, &pos) != 0):
        return Status.ENTRY_FAIL
    old[0] = slot[0]
    if zsw_unlikely(old[0] == IN_TRANSIT) or must_discard(e, area, old[0], pos):
        return ALONE
    if id == 0:
        if change_word(e, w, shard, old[0], pos, ready.word, ready.sum):
            count(w.counters, Counter.duplicate_entry, 1)
            old[0] = 0
            return Status.STORED
        rc = min(make_same_filled(e, w, ready.word, &id), <int> Status.STORED)
    elif zsw_unlikely(shard.tallied) and not charge(area, slot_bytes(e, id),
                                                    slot_bytes(e, old[0])):
        rc = ALONE
    if zsw_unlikely(rc < 0):
        if old[0] == 0:
            shard_erase(&e.index, shard, where)
        return rc
    if ready.id != 0:
        lru_pass(&e.lru, &e.entries, &w.lru_left)
    fill_slot(e, w, shard, slot, pos, id, ready.sum)
    if zsw_unlikely(shard.tallied):
        refund(area, slot_bytes(e, id))
    return Status.STORED


cdef int publish_some(zsw_engine *e, zsw_worker *w, zsw_area *area, const zsw_ready *ready,
                      uint32_t pages, uint32_t *done) noexcept nogil:
    """Publishes the first of these pages under one lock, as many as lie in one shard, until one
    fails or is ALONE; `done` is how many."""
    cdef uint32_t olds[PUBLISHED_TOGETHER]
    cdef uint64_t number = ready[0].offset >> SHARD_SHIFT
    cdef uint32_t n = 0, entries = 0, duplicates = 0, old
    cdef zsw_shard *shard = area_lock_shard(&e.index, area, number)
    cdef int rc = Status.STORED
    done[0] = 0
    if zsw_unlikely(shard == NULL):
        return Status.ENTRY_FAIL
    if zsw_unlikely(zsw_load_u32(&area.online) != AREA_ONLINE):
        rc = Status.NO_AREA
    while rc == Status.STORED and n < pages and ready[n].offset >> SHARD_SHIFT == number:
        rc = publish_next(e, w, area, shard, &ready[n], &old)
        if zsw_likely(rc == Status.STORED):
            n += 1
            duplicates += old != 0
            if is_entry(old):
                olds[entries] = old
                entries += 1
    zsw_unlock(&shard.lock)
    count(w.counters, Counter.duplicate_entry, duplicates)
    # what the backing store has of these is stale and will be overwritten
    count(w.counters, Counter.backed_pages, -<int64_t> (duplicates - entries))
    put_entries(e, w, olds, entries)
    done[0] = n
    return rc


cdef bint publish_all(together *b) noexcept nogil:
    """Publishes the pages of a batch that are ready; whether there are any.  NULL: no batch."""
    cdef zsw_ready *ready
    cdef uint32_t i = 0, done
    cdef int rc
    if b == NULL or b.count == 0:
        return False
    while i < b.count:
        ready = &b.ready[i]
        if zsw_unlikely(b.refusals != 0) and is_refused(b, ready.offset):
            write_refused(b)
        # one by one while a page among those that come may have been refused before
        rc = publish_some(b.e, b.w, b.area, ready, b.count - i if b.refusals == 0 else 1, &done)
        i += done
        if zsw_likely(rc == Status.STORED):
            continue
        ready = &b.ready[i]
        if rc == ALONE:
            rc = place_page(b.e, b.w, b.area, ready.offset, NULL, ready)
        elif ready.id != 0:
            free_entry(b.e, b.w, ready.id)
        if rc < 0:
            refuse(b, b.area, ready.offset, ready.at, rc)
        i += 1
    pass_time(b, b.ready[0].at, b.count)
    b.count = 0
    return True


cdef void store_next(together *b, zsw_area *area, uint64_t offset, uint32_t at) noexcept nogil:
    """Makes page number `at` of the batch ready, or refuses it."""
    # Made where it stays: copying what was just written field by field would wait until the
    # page's bytes have reached the cache, and they need not before the next page is compressed.
    cdef zsw_ready *ready = &b.ready[b.count]
    cdef int status = prepare_page(b.e, b.w, area, b.pages + <size_t> at * b.e.page_size, ready, b)
    if zsw_unlikely(status < 0):
        publish_all(b)                          # one of them may be of the same offset
        refuse(b, area, offset, at, status)
        return
    b.status[at] = <int8_t> status
    b.area = area
    ready.offset, ready.at = offset, at
    if zsw_unlikely(ready != &b.ready[b.count]):
        b.ready[b.count] = ready[0]             # those before it are published already
    b.count += 1


cdef uint32_t group_size(zsw_engine *e) noexcept nogil:
    """How many pages of a batch are made ready before they are published.  Where what they replace
    may be missed it is one: a batch takes no more room than its pages one by one."""
    cdef uint64_t may_come = (STORES_TOGETHER
                              + <uint64_t> e.worker_count * (PUBLISHED_TOGETHER + MAGAZINE))
    if (zsw_peek_u32(&e.reached_full)
            or pool_pages(e) + may_come > zsw_peek_u64(&e.params.near_pages)):
        return 1
    return PUBLISHED_TOGETHER


cdef void engine_store_together(zsw_engine *e, zsw_worker *w, uint32_t type,
                                const uint64_t *offsets, uint32_t pages, const uint8_t *page,
                                int8_t *status, uint64_t *took) noexcept nogil:
    """As engine_store for each of at most STORES_TOGETHER pages, but they are published some at a
    time, and what is refused goes to the backing store together.  `took`, unless it is NULL, gets
    the nanoseconds of each; what is done for several at once they share."""
    cdef together b
    cdef uint64_t offset
    cdef uint32_t i, group = group_size(e)
    cdef bint ahead = zsw_peek_u64(&e.entries.inuse) >= STORES_AHEAD_FROM
    b.e, b.w, b.area, b.pages, b.status, b.took = e, w, NULL, page, status, took
    b.count = b.refusals = 0
    b.most = min(<uint32_t> STORES_TOGETHER,
                 <uint32_t> (through_bytes(e, THROUGH_BYTES) // e.page_size))
    if took != NULL:
        memset(took, 0, pages * sizeof(uint64_t))
        b.since = zsw_now_ns()
    for i in range(pages):
        if i + 1 < pages:
            # The next page's beginning, while this one is compressed; the processor's own
            # prefetching goes on from there.
            zsw_prefetch(page + <size_t> (i + 1) * e.page_size)
            zsw_prefetch(page + <size_t> (i + 1) * e.page_size + 64)
        offset = offsets[i]                     # once: it is the caller's, who may change it
        magazine_expect(w, min(pages - i, group - b.count) if group > 1 else 0)
        store_next(&b, find_area(e, type, offset), offset, i)
        pass_time(&b, i, 1)
        if b.count == group or i + 1 == pages:
            # Also for neighbours: what is in place of them need not have come together.
            if ahead and b.count > 1:
                look_ahead(e, type, offsets + i + 1 - b.count, b.count, True)
            publish_all(&b)
            magazine_turn(w)
    magazine_expect(w, 0)
    magazine_empty(w)
    if zsw_unlikely(b.refusals != 0):
        write_refused(&b)
