"""Writeback.

A batch of victims is picked from the oldest of the LRU.  One that was referenced since the last
look gets another round: its mark is cleared and it becomes the youngest; so does each that is
picked, so that the next batch has others, should this one fail.  Each victim is then looked up
again under its shard's lock, for it may have gone meanwhile, and pinned by a reference.  The batch
is sorted by place and becomes a flight (flight.pyx), with no lock but `writing` held.  Only after
the write returned success, and only if the slot still holds this very entry, does the slot change
to ON_BACKING and the entry lose the index's reference.  A failed write leaves every page where it
was.  What the store then holds for nothing is discarded.
"""
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport qsort

from zswap_core.departures cimport (
    DEPARTURES, has_listeners, may_leave, note_departure, tell_departures,
)
from zswap_core.entries cimport entry_at, put_entry
from zswap_core.entry cimport (
    entry_age, entry_pin, ENTRY_REFERENCED, entry_same, is_entry, zsw_entry,
)
from zswap_core.flight cimport (
    call_pilot, flight_cancel, flight_land, flight_load, flight_room, flight_start, flights_init,
    give_way, is_aloft,
)
from zswap_core.index cimport (
    area_shard, is_clean, pos_shard, RUN_PAGES, set_clean, shard_collect, SHARD_PAGES, SHARD_SHIFT,
    shard_table, zsw_area, zsw_shard,
)
from zswap_core.lookup cimport area_at, find_area
from zswap_core.lru cimport (
    lru_next, lru_offer, lru_offered, lru_pass, lru_renew, lru_since, lru_tick, LRU_TIME, stamp_at,
    zsw_search,
)
from zswap_core.objects cimport entry_sum
from zswap_core.os cimport (
    zsw_and_u32, zsw_cas_i64, zsw_load_i64, zsw_load_ptr, zsw_load_u32, zsw_lock, zsw_now_ns,
    zsw_now_s, zsw_peek_i64, zsw_peek_u32, zsw_peek_u64, zsw_unlock,
)
from zswap_core.quota cimport area_has_room, pages_over
from zswap_core.slab cimport slab_at
from zswap_core.slots cimport in_lru, lock_entry
from zswap_core.state cimport zsw_engine, zsw_flight, zsw_victim, zsw_worker, zsw_writeback
from zswap_core.stats cimport count, Counter
from zswap_core.transit cimport writing_begin, writing_end
from zswap_core.walk cimport engine_next_held
from zswap_core.worker cimport pages_listed


cdef enum:
    MOST_LOOKS = 8              # through an area, for one flight


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


cdef uint32_t pick(zsw_engine *e, zsw_worker *w, zsw_flight *flight, uint32_t wanted, uint32_t idle,
                   uint64_t *looks) noexcept nogil:
    """Fills in the victims' ids and places from the LRU; `looks` is how many more entries may be
    looked at."""
    cdef uint32_t found = 0, id = 0
    cdef uint16_t stamp = 0
    cdef uint32_t begun = lru_tick(&e.lru, &e.entries)
    cdef zsw_entry *entry
    e.writeback.search.vain = 0
    while found < wanted and looks[0] > 0:
        if not lru_next(&e.lru, &e.entries, &e.writeback.search, w.now, idle, &id, &stamp):
            looks[0] = 0
            break
        if lru_since(&e.lru, stamp, begun):
            break                               # nobody is looked at twice for one batch
        looks[0] -= 1
        entry = entry_at(e, id)
        if idle and entry_age(entry, w.now) < idle:
            continue
        lru_pass(&e.lru, &e.entries, &w.lru_left)
        if not lru_renew(&e.lru, &e.entries, id, stamp):
            continue                            # it has gone
        if (not idle and zsw_and_u32(&entry.state, ~<uint32_t> ENTRY_REFERENCED)
                & ENTRY_REFERENCED):
            continue
        flight.victims[found].id = id
        flight.victims[found].pos = zsw_peek_u32(&entry.pos)
        found += 1
    return found


cdef bint pin(zsw_engine *e, zsw_worker *w, zsw_victim *victim, uint32_t *gone) noexcept nogil:
    """Looks the victim up where it was picked, for its id may name another page by now, and pins
    it.  False when it is gone, has no backing store, is in use or on its way already; or when the
    store has the page as it is: it goes at once, which is counted in `gone`."""
    cdef zsw_entry *entry = entry_at(e, victim.id)
    cdef zsw_shard *shard
    cdef uint32_t where
    cdef bint pinned = False
    cdef uint32_t *slot = lock_entry(e, victim.id, victim.pos, &shard, &where)
    if slot == NULL:
        return False
    if is_clean(&e.index, victim.pos):
        set_clean(&e.index, victim.pos, False)
        give_way(e, w, victim.id, shard, slot)
        note_departure(w, shard.type, shard.number << SHARD_SHIFT | where)
        count(w.counters, Counter.clean_evictions, 1)
        gone[0] += 1
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


cdef uint32_t drop_twins(zsw_engine *e, zsw_worker *w, zsw_victim *victims,
                         uint32_t n) noexcept nogil:
    """Leaves out pages that were picked twice, as one entry or as an older and a newer: which of
    two writes to a place lands last, nobody could say.  Returns how many are left."""
    cdef uint32_t i = 0, k, kept = 0
    while i < n:
        k = i + 1
        while k < n and by_place(&victims[i], &victims[k]) == 0:
            k += 1
        if k == i + 1:
            victims[kept] = victims[i]
            kept += 1
            i = k
        while i < k:
            put_entry(e, w, victims[i].id)
            i += 1
    return kept


cdef uint32_t load_picked(zsw_engine *e, zsw_worker *w, zsw_flight *flight, uint32_t found,
                          uint32_t *gone) noexcept nogil:
    """Loads the flight with those of the pages picked that have a store; returns how many.  Those
    that need no write are gone then."""
    cdef uint32_t i, n = 0
    gone[0] = 0
    for i in range(found):
        if pin(e, w, &flight.victims[i], gone):
            flight.victims[n] = flight.victims[i]
            n += 1
    qsort(flight.victims, n, sizeof(zsw_victim), by_place)
    n = drop_twins(e, w, flight.victims, n)
    flight.count = n
    flight_load(e, w, flight)
    return n


cdef uint32_t prepare(zsw_engine *e, zsw_worker *w, zsw_flight *flight, uint32_t wanted,
                      uint32_t idle, uint64_t *looks, uint32_t *gone) noexcept nogil:
    """Makes a flight of up to `wanted` of the coldest pages, as load_picked."""
    return load_picked(e, w, flight, pick(e, w, flight, wanted, idle, looks), gone)


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
    cdef uint64_t looks = pages_listed(e) * (1 if idle else 2)
    cdef uint32_t written, tried, aloft, gone = 0
    while done < pages:
        w.now = zsw_now_s()
        aloft = wb.aloft.count if wb.aloft != NULL else 0
        wanted = pages - done - aloft
        allowed = within_budget(e, min(wanted, <uint64_t> flight_room(e)), aloft)
        allowed = may_leave(e, w, <uint32_t> allowed, aloft)
        tried = (prepare(e, w, next, <uint32_t> allowed, idle, &looks, &gone) if allowed
                 else 0)
        done += gone
        gone = 0
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


cdef uint64_t write_back(zsw_engine *e, zsw_worker *w, uint64_t pages,
                         uint32_t idle) noexcept nogil:
    """As engine_writeback, by the writer."""
    return write_coldest(e, w, pages, idle) if flights_init(e) == 0 else 0


cdef uint64_t engine_writeback(zsw_engine *e, zsw_worker *w, uint64_t pages,
                               uint32_t idle) noexcept nogil:
    """Writes back up to `pages` of the coldest pages, with `idle` only those not accessed for so
    many seconds, and returns how many went: fewer when the budget is used up, the store fails, or
    there are no more."""
    cdef uint64_t done = 0, wanted, went
    if zsw_load_u32(&e.backed_areas) == 0:
        return 0
    while done < pages:
        # a backing store in Python, called by the one that is going on
        if not writing_begin(e):
            break
        wanted = pages - done
        if has_listeners(e):
            wanted = min(wanted, <uint64_t> DEPARTURES)
        went = write_back(e, w, wanted, idle)
        writing_end(e)
        done += went
        if went < wanted or done == pages:
            break
        tell_departures(e, w)
    return done


# ---- the coldest of one area ---------------------------------------------------------------------


cdef void look_through(zsw_engine *e, zsw_area *area, zsw_search *search) noexcept nogil:
    """Finds the area's coldest pages."""
    cdef uint32_t where[RUN_PAGES]
    cdef uint32_t ids[RUN_PAGES]
    cdef shard_table *table = <shard_table *> zsw_load_ptr(<void **> &area.table)
    cdef zsw_shard *shard
    cdef uint64_t slot
    cdef uint32_t id, got, start, i
    search.count, search.tick = 0, zsw_peek_u32(&e.lru.tick)
    for slot in range(table.mask + 1):
        id = zsw_load_u32(&table.slots[slot])
        if id == 0:
            continue
        shard = <zsw_shard *> slab_at(&e.index.shards, id)
        start = 0
        while start < SHARD_PAGES:
            zsw_lock(&shard.lock)
            got = shard_collect(&e.index, shard, start, SHARD_PAGES - 1, where, ids, RUN_PAGES)
            for i in range(got):
                if in_lru(e, ids[i]):
                    lru_offer(&e.lru, &e.entries, search, ids[i])
            zsw_unlock(&shard.lock)
            if got == 0:
                break
            start = where[got - 1] + 1
    lru_offered(search)


cdef uint32_t pick_own(zsw_engine *e, zsw_worker *w, zsw_flight *flight, uint32_t wanted,
                       zsw_area *area, bint chances) noexcept nogil:
    """As pick, of one area's pages; without `chances` also those that were referenced."""
    cdef zsw_writeback *wb = e.writeback
    cdef zsw_search *search = &wb.own
    cdef uint32_t begun = lru_tick(&e.lru, &e.entries), found = 0, looks = 0, id, pos
    cdef uint32_t where
    cdef uint16_t stamp
    cdef zsw_entry *entry
    cdef zsw_shard *shard
    while found < wanted:
        if search.next == search.count or wb.searched != area:
            if looks == MOST_LOOKS:
                break
            looks += 1
            wb.searched = area
            look_through(e, area, search)
            if search.count == 0:
                break
        id = <uint32_t> search.found[search.next]
        stamp = stamp_at(search.tick - (LRU_TIME - <uint32_t> (search.found[search.next] >> 32)))
        search.next += 1
        if lru_since(&e.lru, stamp, begun):
            search.next = search.count          # so are those that follow
            break
        entry = entry_at(e, id)
        lru_pass(&e.lru, &e.entries, &w.lru_left)
        if not lru_renew(&e.lru, &e.entries, id, stamp):
            continue                            # it has gone, or is younger by now
        if (zsw_and_u32(&entry.state, ~<uint32_t> ENTRY_REFERENCED) & ENTRY_REFERENCED
                and chances):
            continue
        pos = zsw_peek_u32(&entry.pos)
        shard = pos_shard(&e.index, pos, &where)
        if shard == NULL or shard.type != area.type:
            continue                            # its id is another area's page by now
        flight.victims[found].id, flight.victims[found].pos = id, pos
        found += 1
    return found


cdef uint64_t write_area(zsw_engine *e, zsw_worker *w, zsw_area *area,
                         uint64_t pages) noexcept nogil:
    """Writes back up to so many of the area's coldest pages, a flight at most; how many went.  By
    the writer."""
    cdef zsw_flight *flight
    cdef uint32_t wanted, found = 0, gone = 0
    if flights_init(e) != 0:
        return 0
    flight = &e.writeback.flights[0]
    w.now = zsw_now_s()
    wanted = <uint32_t> within_budget(e, min(pages, <uint64_t> flight_room(e)), 0)
    wanted = may_leave(e, w, wanted, 0)
    if wanted:
        found = pick_own(e, w, flight, wanted, area, True)
        if found == 0:                          # all of them are in use: then the oldest go
            found = pick_own(e, w, flight, wanted, area, False)
    load_picked(e, w, flight, found, &gone)
    if flight.count:
        flight_start(e, flight)
        gone += land(e, w)
    return gone


cdef uint64_t engine_meet_quota(zsw_engine *e, zsw_worker *w, uint32_t type) noexcept nogil:
    """Writes back a flight of what an area has above its quota; how many pages went: 0 when it has
    no more, or nothing can be written."""
    cdef zsw_area *area = find_area(e, type, 0)
    cdef uint64_t done
    if area == NULL or area.backing == NULL or area_has_room(area, 0) or not writing_begin(e):
        return 0
    done = write_area(e, w, area, pages_over(e, area, 0))
    writing_end(e)
    return done


# ---- a range of offsets, cold or not -------------------------------------------------------------


cdef uint32_t pick_range(zsw_engine *e, zsw_flight *flight, uint32_t wanted, uint32_t type,
                         uint64_t *first, uint64_t last) noexcept nogil:
    """Fills in the ids and places of up to `wanted` pages of the pool, of first..last, and goes on
    with `first` behind them."""
    cdef uint32_t where[RUN_PAGES]
    cdef uint32_t ids[RUN_PAGES]
    cdef zsw_area *area
    cdef zsw_shard *shard
    cdef uint32_t found = 0, got, end, i
    while found < wanted and engine_next_held(e, type, first) and first[0] <= last:
        area = find_area(e, type, first[0])
        shard = area_shard(&e.index, area, first[0] >> SHARD_SHIFT) if area != NULL else NULL
        if shard == NULL:
            continue                            # it has just gone
        end = SHARD_PAGES - 1
        if last >> SHARD_SHIFT == first[0] >> SHARD_SHIFT:
            end = <uint32_t> last & (SHARD_PAGES - 1)
        zsw_lock(&shard.lock)
        got = shard_collect(&e.index, shard, <uint32_t> first[0] & (SHARD_PAGES - 1), end, where,
                            ids, min(wanted - found, <uint32_t> RUN_PAGES))
        for i in range(got):
            if is_entry(ids[i]):
                flight.victims[found].id = ids[i]
                flight.victims[found].pos = zsw_peek_u32(&entry_at(e, ids[i]).pos)
                found += 1
        zsw_unlock(&shard.lock)
        if got:
            first[0] = (first[0] & ~(<uint64_t> SHARD_PAGES - 1)) + where[got - 1] + 1
    if found < wanted:
        first[0] = last + 1
    return found


cdef uint64_t write_range(zsw_engine *e, zsw_worker *w, uint64_t pages, uint32_t type,
                          uint64_t *first, uint64_t last) noexcept nogil:
    """As engine_evict, by the writer."""
    cdef zsw_flight *flight = &e.writeback.flights[0]
    cdef uint64_t done = 0
    cdef uint32_t wanted, found, written, gone = 0
    while done < pages and first[0] <= last:
        wanted = <uint32_t> within_budget(e, min(pages - done, <uint64_t> flight_room(e)), 0)
        wanted = may_leave(e, w, wanted, 0)
        if wanted == 0:
            break
        found = pick_range(e, flight, wanted, type, first, last)
        load_picked(e, w, flight, found, &gone)
        done += gone
        if flight.count:
            flight_start(e, flight)
            written = land(e, w)
            done += written
            if written == 0:                                    # the store fails
                break
    return done


cdef uint64_t engine_evict(zsw_engine *e, zsw_worker *w, uint64_t pages, uint32_t type,
                           uint64_t *first, uint64_t last) noexcept nogil:
    """Writes back what the pool holds at first..last (inclusive), up to about so many pages, and
    returns how many went.  `first` goes on behind what was looked at; where it stays, the budget is
    used up or the store fails."""
    cdef uint64_t done = 0
    if zsw_load_u32(&e.backed_areas) == 0 or not writing_begin(e):
        return 0
    if flights_init(e) == 0:
        done = write_range(e, w, pages, type, first, last)
    writing_end(e)
    return done
