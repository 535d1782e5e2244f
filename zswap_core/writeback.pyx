# cython: language_level=3
"""Writeback.

A batch of victims is picked from the old end of the LRU.  One that was referenced since the last
look gets another round: its mark is cleared and it moves to the new end; so does every other that
is looked at, so that a second walker meets new ones.  Each victim is then looked up again under its
shard's lock, for it may have gone meanwhile, and pinned by a reference.  The batch is sorted by
place and becomes a flight (flight.pyx), with no lock but `writing` held.  Only after the write
returned success, and only if the slot still holds this very entry, does the slot change to
ON_BACKING and the entry lose the index's reference.  A failed write leaves every page where it was.
What the store then has in vain is discarded.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport qsort

from zswap_core.entries cimport entry_at
from zswap_core.entry cimport entry_age, entry_pin, ENTRY_REFERENCED, entry_same, zsw_entry
from zswap_core.flight cimport (call_pilot, dismiss_pilot, flight_cancel, flight_land, flight_load,
                                flight_room, flight_start, flights_init, is_aloft)
from zswap_core.index cimport SHARD_SHIFT, zsw_shard
from zswap_core.lookup cimport area_at
from zswap_core.lru cimport lru_add, lru_remove
from zswap_core.objects cimport entry_sum
from zswap_core.os cimport (zsw_and_u32, zsw_cas_i64, zsw_load_i64, zsw_load_u32, zsw_lock,
                            zsw_now_ns, zsw_now_s, zsw_peek_i64, zsw_peek_u32, zsw_peek_u64,
                            zsw_unlock)
from zswap_core.slots cimport lock_entry
from zswap_core.state cimport zsw_engine, zsw_flight, zsw_victim, zsw_worker, zsw_writeback
from zswap_core.transit cimport writing_begin, writing_end


cdef uint64_t within_budget(zsw_engine *e, uint64_t pages, uint32_t aloft) noexcept nogil:
    """How many of `pages` the budget allows now, beside those aloft: what is left of
    writeback_limit, and writeback_rate since the last time, of which at most one second's worth is
    saved up."""
    cdef zsw_writeback *wb = e.writeback
    cdef int64_t limit = zsw_peek_i64(&e.params.writeback_limit)
    cdef uint64_t rate = zsw_peek_u64(&e.params.writeback_rate), now, fresh
    if limit >= 0:
        limit = limit - aloft if limit > aloft else 0
        if pages > <uint64_t> limit:
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
        fresh = wb.tokens - aloft if wb.tokens > aloft else 0
        if pages > fresh:
            pages = fresh
    return pages


cdef void spend(zsw_engine *e, uint32_t written) noexcept nogil:
    """Takes what was written off writeback_limit, which may have been set meanwhile: never below 0,
    which would be no limit."""
    cdef int64_t limit
    while True:
        limit = zsw_load_i64(&e.params.writeback_limit)
        if limit < 0 or zsw_cas_i64(&e.params.writeback_limit, limit, limit - written
                                    if limit > written else 0):
            return


cdef uint32_t pick(zsw_engine *e, zsw_flight *flight, uint32_t wanted, uint32_t idle, uint64_t now,
                   uint64_t *looks) noexcept nogil:
    """Fills in the victims' ids and places from the LRU; `looks` is how many more entries may be
    looked at."""
    cdef uint32_t found = 0, id
    cdef uint64_t round
    cdef zsw_entry *entry
    zsw_lock(&e.lru.lock)
    # nobody is looked at twice for one batch: that would be one page twice in it
    round = e.lru.count
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
        flight.victims[found].id = id
        flight.victims[found].pos = zsw_peek_u32(&entry.pos)
        found += 1
    zsw_unlock(&e.lru.lock)
    return found


cdef bint pin(zsw_engine *e, zsw_victim *victim) noexcept nogil:
    """Looks the victim up where it was picked, for its id may name another page by now, and pins
    it.  False when it is gone, has no backing store, is in use or on its way already."""
    cdef zsw_entry *entry = entry_at(e, victim.id)
    cdef zsw_shard *shard
    cdef uint32_t where
    cdef bint pinned = False
    if lock_entry(e, victim.id, victim.pos, &shard, &where) == NULL:
        return False
    victim.area = area_at(e, shard.type)
    if not entry_same(entry) and victim.area.backing != NULL:
        victim.offset = shard.number << SHARD_SHIFT | where
        pinned = not is_aloft(e.writeback, victim.area, victim.offset) and entry_pin(entry)
        victim.word = entry.word
        victim.sum = entry_sum(e, entry)
        victim.pos = entry.pos
    zsw_unlock(&shard.lock)
    return pinned


cdef int by_place(const void *a, const void *b) noexcept nogil:
    cdef const zsw_victim *x = <const zsw_victim *> a
    cdef const zsw_victim *y = <const zsw_victim *> b
    if x.area != y.area:
        return -1 if x.area.type < y.area.type else 1
    return -1 if x.offset < y.offset else x.offset > y.offset


cdef uint32_t prepare(zsw_engine *e, zsw_worker *w, zsw_flight *flight, uint32_t wanted,
                      uint32_t idle, uint64_t *looks) noexcept nogil:
    """Picks up to `wanted` pages that have a store and loads the flight with them; returns how many
    were picked."""
    cdef uint32_t found = pick(e, flight, wanted, idle, w.now, looks), i, n = 0
    for i in range(found):
        if pin(e, &flight.victims[i]):
            flight.victims[n] = flight.victims[i]
            n += 1
    qsort(flight.victims, n, sizeof(zsw_victim), by_place)
    flight.count = n
    flight_load(e, w, flight)
    return n


cdef uint32_t land(zsw_engine *e, zsw_worker *w) noexcept nogil:
    cdef uint32_t written = flight_land(e, w)
    spend(e, written)
    e.writeback.tokens -= written if written < e.writeback.tokens else e.writeback.tokens
    return written


cdef uint64_t write_coldest(zsw_engine *e, zsw_worker *w, uint64_t pages,
                            uint32_t idle) noexcept nogil:
    cdef zsw_writeback *wb = e.writeback
    cdef zsw_flight *next = &wb.flights[0]
    cdef uint64_t done = 0, wanted, allowed
    # twice round, to take second chances away
    cdef uint64_t looks = zsw_peek_u64(&e.lru.count) * (1 if idle else 2)
    cdef uint32_t written, tried, aloft
    while done < pages:
        w.now = zsw_now_s()
        aloft = wb.aloft.count if wb.aloft != NULL else 0
        wanted = pages - done - aloft
        allowed = within_budget(e, min(wanted, <uint64_t> flight_room(e)), aloft)
        tried = prepare(e, w, next, <uint32_t> allowed, idle, &looks) if allowed else 0
        if aloft:
            written = land(e, w)
            done += written
            if written == 0:                                    # the store fails
                flight_cancel(e, w, next)
                break
        elif allowed == 0 or next.count == 0 and (tried or looks == 0):
            break
        if next.count:
            if pages - done > flight_room(e):
                call_pilot(e)
            flight_start(e, next)
            next = &wb.flights[next == &wb.flights[0]]
    return done


cdef uint64_t engine_writeback(zsw_engine *e, zsw_worker *w, uint64_t pages,
                               uint32_t idle) noexcept nogil:
    """Writes back up to `pages` of the coldest pages, with `idle` only those not accessed for so
    many seconds, and returns how many went: fewer when the budget is used up, the store fails, or
    there are no more."""
    cdef uint64_t done = 0
    if zsw_load_u32(&e.backed_areas) == 0:
        return 0
    # a backing store in Python, called by the one that is going on
    if not writing_begin(e):
        return 0
    if flights_init(e) == 0:
        done = write_coldest(e, w, pages, idle)
        dismiss_pilot(e)
    writing_end(e)
    return done
