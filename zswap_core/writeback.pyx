# cython: language_level=3
"""Writeback.

A batch of victims is picked from the old end of the LRU.  One that was referenced since the last look gets another round: its
mark is cleared and it moves to the new end; so does every other that is looked at, so that a second walker meets new ones.
Each victim is then looked up again under its shard's lock, for it may have gone meanwhile, and pinned by a reference.  The
batch is sorted by place, decompressed and written with no lock but `writing` held.  Only after the write returned success,
and only if the slot still holds this very entry, does the slot change to ON_BACKING and the entry lose the index's reference.
A failed write leaves every page where it was.  What the store then has in vain is discarded.
"""
from libc.errno cimport ENOMEM
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free, qsort

from zswap_core.backing cimport writing_begin, writing_end
from zswap_core.entries cimport entry_at, put_entry
from zswap_core.entry cimport entry_age, entry_pin, ENTRY_REFERENCED, ENTRY_SAME, ON_BACKING, zsw_entry
from zswap_core.fault cimport fault, Site
from zswap_core.index cimport pos_shard, shard_find, SHARD_SHIFT, zsw_area, zsw_shard
from zswap_core.load cimport entry_sum, read_object
from zswap_core.lru cimport lru_add, lru_remove
from zswap_core.os cimport (zsw_and_u32, zsw_cas_i64, zsw_load_i64, zsw_load_ptr, zsw_load_u32, zsw_lock, zsw_map,
                            zsw_now_ns, zsw_now_s, zsw_peek_i64, zsw_peek_u32, zsw_peek_u64, zsw_unlock, zsw_unmap)
from zswap_core.state cimport WRITEBACK_BATCH, zsw_engine, zsw_victim, zsw_worker, zsw_writeback
from zswap_core.stats cimport count, Counter


cdef int make_buffers(zsw_engine *e) noexcept nogil:
    if e.writeback != NULL:
        return 0
    e.writeback = <zsw_writeback *> calloc(1, sizeof(zsw_writeback)) if fault(Site.WRITEBACK_BUFFERS) == 0 else NULL
    if e.writeback == NULL:
        return -ENOMEM
    if fault(Site.WRITEBACK_BUFFERS) == 0:
        e.writeback.pages = <uint8_t *> zsw_map(<size_t> WRITEBACK_BATCH * e.page_size)
    if e.writeback.pages == NULL:
        free(e.writeback)
        e.writeback = NULL
        return -ENOMEM
    return 0


cdef void writeback_destroy(zsw_engine *e) noexcept nogil:
    if e.writeback != NULL:
        zsw_unmap(e.writeback.pages, <size_t> WRITEBACK_BATCH * e.page_size)
        free(e.writeback)
        e.writeback = NULL


cdef uint64_t within_budget(zsw_engine *e, uint64_t pages) noexcept nogil:
    """How many of `pages` the budget allows now: what is left of writeback_limit, and writeback_rate since the last time, of
    which at most one second's worth is saved up."""
    cdef zsw_writeback *wb = e.writeback
    cdef int64_t limit = zsw_peek_i64(&e.params.writeback_limit)
    cdef uint64_t rate = zsw_peek_u64(&e.params.writeback_rate), now, fresh
    if limit >= 0 and pages > <uint64_t> limit:
        pages = <uint64_t> limit
    if rate:
        now = zsw_now_ns()
        if now - wb.tokens_ns >= 1000000000:
            wb.tokens, wb.tokens_ns = rate, now
        else:
            fresh = <uint64_t> (<double> rate * <double> (now - wb.tokens_ns) / 1e9)
            if fresh:
                wb.tokens += fresh
                wb.tokens_ns = now
            if wb.tokens > rate:                # also when the rate has been lowered
                wb.tokens = rate
        if pages > wb.tokens:
            pages = wb.tokens
    return pages


cdef void spend(zsw_engine *e, uint32_t written) noexcept nogil:
    """Takes what was written off writeback_limit, which may have been set meanwhile: never below 0, which would be no limit."""
    cdef int64_t limit
    while True:
        limit = zsw_load_i64(&e.params.writeback_limit)
        if limit < 0 or zsw_cas_i64(&e.params.writeback_limit, limit, limit - written if limit > written else 0):
            return


cdef uint32_t pick(zsw_engine *e, uint32_t wanted, uint32_t idle, uint64_t now, uint64_t *looks) noexcept nogil:
    """Fills the victims' ids and places from the LRU; `looks` is how many more entries may be looked at."""
    cdef zsw_writeback *wb = e.writeback
    cdef uint32_t found = 0, id
    cdef uint64_t round
    cdef zsw_entry *entry
    zsw_lock(&e.lru.lock)
    round = e.lru.count                         # nobody is looked at twice for one batch: that would be one page twice in it
    if round == 0:
        looks[0] = 0
    while found < wanted and looks[0] > 0 and round > 0:
        looks[0] -= 1
        round -= 1
        id = e.lru.oldest
        entry = entry_at(e, id)
        lru_remove(&e.lru, &e.entries, id)
        lru_add(&e.lru, &e.entries, id)
        if idle:
            if entry_age(entry, now) < idle:
                continue
        elif zsw_and_u32(&entry.state, ~<uint32_t> ENTRY_REFERENCED) & ENTRY_REFERENCED:
            continue
        wb.victims[found].id = id
        wb.victims[found].pos = zsw_peek_u32(&entry.pos)
        found += 1
    zsw_unlock(&e.lru.lock)
    return found


cdef bint pin(zsw_engine *e, zsw_victim *victim) noexcept nogil:
    """Looks the victim up again and pins it.  False when it is gone, has no backing store or is in use."""
    cdef uint32_t where, pos
    cdef zsw_shard *shard = pos_shard(&e.index, victim.pos, &where)
    cdef zsw_entry *entry = entry_at(e, victim.id)
    cdef uint32_t *slot
    cdef bint pinned = False
    if shard == NULL:
        return False
    zsw_lock(&shard.lock)
    slot = shard_find(&e.index, shard, where, &pos)
    victim.area = <zsw_area *> zsw_load_ptr(<void **> &e.areas[shard.type])
    if slot != NULL and slot[0] == victim.id and not entry.state & ENTRY_SAME and victim.area.backing != NULL:
        pinned = entry_pin(entry)
        victim.offset = shard.number << SHARD_SHIFT | where
        victim.word = entry.word
        victim.sum = entry_sum(e, entry)
        victim.pos = pos
    zsw_unlock(&shard.lock)
    return pinned


cdef bint finish(zsw_engine *e, zsw_worker *w, zsw_victim *victim) noexcept nogil:
    """After the write: the entry gives its place to the backing store, if it still has it."""
    cdef uint32_t where, pos
    cdef zsw_shard *shard = pos_shard(&e.index, victim.pos, &where)
    cdef uint32_t *slot
    cdef bint same = False
    if shard != NULL:
        zsw_lock(&shard.lock)
        slot = shard_find(&e.index, shard, where, &pos)
        same = slot != NULL and slot[0] == victim.id            # we hold a reference, so the id names no other entry
        if same:
            zsw_lock(&e.lru.lock)
            lru_remove(&e.lru, &e.entries, victim.id)
            zsw_unlock(&e.lru.lock)
            slot[0] = ON_BACKING
            shard.writes += 1
            count(w.counters, Counter.backed_pages, 1)
        zsw_unlock(&shard.lock)
    if same:
        put_entry(e, w, victim.id)                              # the index's
    put_entry(e, w, victim.id)                                  # ours
    return same


cdef int by_place(const void *a, const void *b) noexcept nogil:
    cdef const zsw_victim *x = <const zsw_victim *> a
    cdef const zsw_victim *y = <const zsw_victim *> b
    if x.area != y.area:
        return -1 if x.area.type < y.area.type else 1
    return -1 if x.offset < y.offset else x.offset > y.offset


cdef uint32_t write_run(zsw_engine *e, zsw_worker *w, uint32_t first, uint32_t end) noexcept nogil:
    """Writes the victims first..end-1, all of one area; returns how many went.  No other page is written to a store meanwhile,
    so what has come to the slot of a page that changed is not in the store."""
    cdef zsw_writeback *wb = e.writeback
    cdef zsw_victim *victim
    cdef zsw_area *area = wb.victims[first].area
    cdef uint32_t i, n = 0, written = 0, vain = 0
    cdef int rc
    for i in range(first, end):
        victim = &wb.victims[i]
        if read_object(e, w, victim.word, victim.sum, wb.pages + <size_t> n * e.page_size) < 0:
            count(w.counters, Counter.reject_reclaim_fail, 1)
            put_entry(e, w, victim.id)
            continue
        wb.victims[first + n] = victim[0]
        wb.offsets[n] = victim.offset
        n += 1
    if n == 0:
        return 0
    rc = fault(Site.BACKING_WRITE)
    if rc == 0:
        rc = area.backing.write_pages(area.store, wb.offsets, wb.pages, n)
    if rc != 0:
        area.error = rc
        count(w.counters, Counter.backing_write_fail, n)
        count(w.counters, Counter.reject_reclaim_fail, n)
    for i in range(first, first + n):
        if rc != 0:
            put_entry(e, w, wb.victims[i].id)
        elif finish(e, w, &wb.victims[i]):
            written += 1
            continue
        wb.offsets[vain] = wb.victims[i].offset
        vain += 1
    if vain:
        area.backing.discard(area.store, wb.offsets, vain)
    count(w.counters, Counter.written_back_pages, written)
    return written


cdef uint32_t write_batch(zsw_engine *e, zsw_worker *w, uint32_t wanted, uint32_t idle, uint64_t *looks,
                          uint32_t *tried) noexcept nogil:
    """Picks up to `wanted` pages, tries to write those that have a store, and returns how many went."""
    cdef zsw_writeback *wb = e.writeback
    cdef uint32_t found = pick(e, wanted, idle, w.now, looks), i, n = 0, first, written = 0
    for i in range(found):
        if pin(e, &wb.victims[i]):
            wb.victims[n] = wb.victims[i]
            n += 1
    tried[0] = n
    qsort(wb.victims, n, sizeof(zsw_victim), by_place)
    e.in_flight = n
    first = 0
    while first < n:
        i = first + 1
        while i < n and wb.victims[i].area == wb.victims[first].area:
            i += 1
        written += write_run(e, w, first, i)
        first = i
    e.in_flight = 0
    return written


cdef uint64_t engine_writeback(zsw_engine *e, zsw_worker *w, uint64_t pages, uint32_t idle) noexcept nogil:
    """Writes back up to `pages` of the coldest pages, with `idle` only those not accessed for so many seconds, and returns how
    many went: fewer when the budget is used up, the store fails, or there are no more."""
    cdef uint64_t done = 0, allowed, looks
    cdef uint32_t written, tried
    if zsw_load_u32(&e.backed_areas) == 0:
        return 0
    if not writing_begin(e):                    # a backing store in Python, called by the one that is going on
        return 0
    if make_buffers(e) == 0:
        # Twice round at most: once to take the second chances away.
        looks = e.lru.count * (1 if idle else 2)
        while done < pages:
            w.now = zsw_now_s()
            allowed = within_budget(e, pages - done if pages - done < WRITEBACK_BATCH else WRITEBACK_BATCH)
            if allowed == 0:
                break
            written = write_batch(e, w, <uint32_t> allowed, idle, &looks, &tried)
            spend(e, written)
            if zsw_peek_u64(&e.params.writeback_rate):
                e.writeback.tokens -= written
            done += written
            if written == 0 and (tried or looks == 0):      # the store fails, or nothing is left
                break
    writing_end(e)
    return done
