"""Flights: batches of pages on their way from the pools to the backing stores.

A flight is loaded (its pages are decompressed), started (written) and landed (its entries give way
to what the store has).  While one is being written by a thread of its own, the pilot, the next is
loaded: so writeback is as fast as the slower of the two, not as slow as both.  Only native stores
have a pilot; one in Python is written by the caller, for it may call back.

The pilot stays as long as the buffers do.  On a machine that is busy it may be long before the
system lets it run, and stores wait for the landing.  So a flight is only offered to it, and a
writer who comes to land one that was not begun writes it himself.  `turn` says whose the flight
aloft is.
"""
from libc.errno cimport ENOMEM
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from zswap_core.abi cimport ZSW_BACKING_NATIVE
from zswap_core.budget cimport buffer_bytes, map_buffer, unmap_buffer
from zswap_core.departures cimport note_departure
from zswap_core.entries cimport put_entry
from zswap_core.entry cimport backed
from zswap_core.fault cimport fault, Site
from zswap_core.index cimport zsw_area, zsw_shard
from zswap_core.news cimport note_answer
from zswap_core.objects cimport name_object, read_object
from zswap_core.os cimport (
    zsw_cas_u32, zsw_futex_wait, zsw_futex_wake, zsw_load_u32, zsw_peek_u64, zsw_poke_u32,
    zsw_poke_u64, zsw_store_ptr, zsw_store_u32, zsw_thread_join, zsw_thread_start, zsw_unlikely,
    zsw_unlock, zsw_wipe,
)
from zswap_core.slots cimport change_slot, lock_entry
from zswap_core.state cimport (
    ALOFT_WORDS, WRITEBACK_BATCH, zsw_engine, zsw_flight, zsw_victim, zsw_worker, zsw_writeback,
)
from zswap_core.stats cimport count, Counter
from zswap_core.wake cimport tell_landing


cdef enum turns:
    WRITERS                     # there is none, or the writer (who holds `writing`) has it
    OFFERED                     # whoever is first may take it
    PILOTS
    LAST                        # the pilot leaves


cdef int flights_init(zsw_engine *e) noexcept nogil:
    """Sees to it that there are buffers, as large as the budget has room for.  By the writer, who
    has nothing under way."""
    cdef zsw_writeback *wb = NULL
    cdef uint64_t size = buffer_bytes(e, FLIGHT_BYTES, 4)
    cdef uint32_t i, room = max(<uint32_t> (size // e.page_size), <uint32_t> 1)
    room = min(room, <uint32_t> WRITEBACK_BATCH)
    if e.writeback != NULL:
        e.writeback.rests = 0
        if room == flight_room(e):
            return 0
        flights_destroy(e)
    zsw_poke_u32(&e.flight_room, room)
    # Victims have checksums of pages.
    if fault(Site.WRITEBACK_BUFFERS) == 0:
        wb = <zsw_writeback *> map_buffer(e, sizeof(zsw_writeback), e.params.mapping)
    if wb == NULL:
        return -ENOMEM
    for i in range(2):
        if fault(Site.WRITEBACK_BUFFERS) == 0:
            wb.flights[i].pages = map_buffer(e, <size_t> room * e.page_size, e.params.mapping)
        if wb.flights[i].pages == NULL:
            flights_free(e, wb)
            return -ENOMEM
    zsw_store_ptr(<void **> &e.writeback, wb)           # stats looks at it
    return 0


cdef void flights_free(zsw_engine *e, zsw_writeback *wb) noexcept nogil:
    cdef uint32_t i
    if wb != NULL:
        for i in range(2):
            unmap_buffer(e, wb.flights[i].pages, <size_t> flight_room(e) * e.page_size)
        unmap_buffer(e, wb, sizeof(zsw_writeback))


cdef void flights_destroy(zsw_engine *e) noexcept nogil:
    cdef zsw_writeback *wb = e.writeback
    if wb != NULL:
        dismiss_pilot(e, wb)
    zsw_store_ptr(<void **> &e.writeback, NULL)
    flights_free(e, wb)


cdef void flights_rest(zsw_engine *e) noexcept nogil:
    """Gives the buffers back if nobody has written since this was last called.  By the writer."""
    if e.writeback != NULL:
        if e.writeback.rests:
            flights_destroy(e)
        else:
            e.writeback.rests = 1


# ---- who writes ----------------------------------------------------------------------------------


cdef int write_to(const zsw_area *area, const uint64_t *offsets, const uint8_t *pages,
                  size_t n) noexcept nogil:
    """One write of the area's backing store: 0 or -errno."""
    cdef int rc = fault(Site.BACKING_WRITE)
    return area.backing.write_pages(area.store, offsets, pages, n) if rc == 0 else rc


cdef int write_part(zsw_engine *e, const zsw_flight *flight, uint32_t first,
                    uint32_t n) noexcept nogil:
    """The same of pages of one area in a flight."""
    cdef const zsw_area *area = flight.victims[first].area
    cdef const uint64_t *offsets = flight.offsets + first
    cdef int rc
    if area.backing.write_objects == NULL:
        return write_to(area, offsets, flight.pages + <size_t> first * e.page_size, n)
    rc = fault(Site.BACKING_WRITE)
    if rc == 0:
        rc = area.backing.write_objects(area.store, offsets, flight.objects + first, n)
    return rc


cdef void write_flight(zsw_engine *e, zsw_flight *flight) noexcept nogil:
    cdef uint32_t first = 0, end, i
    cdef zsw_area *area
    cdef int rc
    while first < flight.count:
        area = flight.victims[first].area
        end = first + 1
        while end < flight.count and flight.victims[end].area == area:
            end += 1
        rc = write_part(e, flight, first, end - first)
        for i in range(first, end):
            flight.rc[i] = rc
        first = end


cdef void *pilot(void *arg) noexcept nogil:
    cdef zsw_engine *e = <zsw_engine *> arg
    cdef zsw_writeback *wb = e.writeback        # it goes after us
    cdef uint32_t turn
    while True:
        turn = zsw_load_u32(&wb.turn)
        if turn == LAST:
            return NULL
        if (turn == OFFERED and fault(Site.WRITEBACK_THREAD) == 0
                and zsw_cas_u32(&wb.turn, OFFERED, PILOTS)):
            write_flight(e, wb.aloft)
            zsw_store_u32(&wb.turn, WRITERS)
            zsw_futex_wake(&wb.turn, 1)
        else:
            zsw_futex_wait(&wb.turn, turn)


cdef void call_pilot(zsw_engine *e) noexcept nogil:
    """Without one, flights are written by the caller."""
    cdef zsw_writeback *wb = e.writeback
    if not wb.has_pilot:
        wb.turn = WRITERS
        wb.has_pilot = (fault(Site.WRITEBACK_THREAD) == 0
                        and zsw_thread_start(&wb.pilot, pilot, e) == 0)


cdef void await_pilot(zsw_engine *e) noexcept nogil:
    """Has the flight aloft written, if it is not yet."""
    cdef zsw_writeback *wb = e.writeback
    if zsw_cas_u32(&wb.turn, OFFERED, WRITERS):
        write_flight(e, wb.aloft)
    while zsw_load_u32(&wb.turn) == PILOTS:
        zsw_futex_wait(&wb.turn, PILOTS)


cdef void dismiss_pilot(zsw_engine *e, zsw_writeback *wb) noexcept nogil:
    """No flight is aloft.  A forked child has no pilot."""
    if wb.has_pilot and not e.forked:
        zsw_store_u32(&wb.turn, LAST)
        zsw_futex_wake(&wb.turn, 1)
        zsw_thread_join(wb.pilot)
    wb.has_pilot = 0


# ---- a flight ------------------------------------------------------------------------------------


cdef bint is_aloft(const zsw_writeback *wb, const zsw_area *area, uint64_t offset) noexcept nogil:
    """Whether the flight that is being written has this page."""
    cdef uint64_t at = offset % <uint64_t> (64 * ALOFT_WORDS)
    return (wb.aloft != NULL and wb.aloft_at[at >> 6] >> (at & 63) & 1
            and flight_has(wb.aloft, area, offset))


cdef void wipe_pages(zsw_engine *e, zsw_flight *flight, uint32_t first,
                     uint32_t end) noexcept nogil:
    if zsw_unlikely(e.params.wipe_on_free):
        zsw_wipe(flight.pages + <size_t> first * e.page_size, <size_t> (end - first) * e.page_size)


cdef void flight_end(zsw_engine *e, zsw_flight *flight) noexcept nogil:
    wipe_pages(e, flight, 0, flight.count)
    if zsw_unlikely(e.params.wipe_on_free):
        zsw_wipe(flight.victims, sizeof(flight.victims))
    flight.count = 0


cdef void flight_load(zsw_engine *e, zsw_worker *w, zsw_flight *flight) noexcept nogil:
    """Decompresses the pages, but for stores that take objects; those that cannot be stay where
    they are, and the flight is shorter."""
    cdef uint32_t i, n = 0
    for i in range(flight.count):
        if flight.victims[i].area.backing.write_objects != NULL:
            name_object(e, flight.victims[i].word, &flight.objects[n])
        elif read_object(e, w, flight.victims[i].word, flight.victims[i].sum,
                         flight.pages + <size_t> n * e.page_size) < 0:
            count(w.counters, Counter.reject_reclaim_fail, 1)
            put_entry(e, w, flight.victims[i].id)
            continue
        flight.victims[n] = flight.victims[i]
        flight.offsets[n] = flight.victims[i].offset
        n += 1
    wipe_pages(e, flight, n, flight.count)
    flight.count = n


cdef bint all_native(const zsw_flight *flight) noexcept nogil:
    cdef uint32_t i
    for i in range(flight.count):
        if not flight.victims[i].area.backing.flags & ZSW_BACKING_NATIVE:
            return False
    return True


cdef void flight_start(zsw_engine *e, zsw_flight *flight) noexcept nogil:
    """Has the flight written; with a pilot, it may still have to be when this returns."""
    cdef zsw_writeback *wb = e.writeback
    cdef uint64_t at
    cdef uint32_t i
    wb.aloft = flight
    memset(wb.aloft_at, 0, sizeof(wb.aloft_at))
    for i in range(flight.count):
        at = flight.offsets[i] % <uint64_t> (64 * ALOFT_WORDS)
        wb.aloft_at[at >> 6] |= <uint64_t> 1 << (at & 63)
    if wb.has_pilot and all_native(flight):
        zsw_store_u32(&wb.turn, OFFERED)
        zsw_futex_wake(&wb.turn, 1)
    else:
        write_flight(e, flight)


cdef void give_way(zsw_engine *e, zsw_worker *w, uint32_t id, zsw_shard *shard,
                   uint32_t *slot) noexcept nogil:
    """The entry gives its place to the backing store, which has the page.  Unlocks the shard."""
    shard.writes += 1
    slot[0] = backed(shard.writes)
    change_slot(e, shard, id, slot[0])
    zsw_unlock(&shard.lock)
    count(w.counters, Counter.backed_pages, 1)
    put_entry(e, w, id)                                         # the index's


cdef bint finish(zsw_engine *e, zsw_worker *w, zsw_victim *victim) noexcept nogil:
    """The entry gives its place to the backing store, if it still has it."""
    cdef zsw_shard *shard
    cdef uint32_t where
    # still the same: we hold a reference
    cdef uint32_t *slot = lock_entry(e, victim.id, victim.pos, &shard, &where)
    if slot != NULL:
        give_way(e, w, victim.id, shard, slot)
        note_departure(w, victim.area.type, victim.offset)
    put_entry(e, w, victim.id)                                  # ours
    return slot != NULL


cdef uint32_t flight_land(zsw_engine *e, zsw_worker *w) noexcept nogil:
    """Waits for the flight aloft; returns how many of its pages are in their stores now.  No other
    page is written to a store meanwhile, so what has come to the slot of a page that changed is not
    in the store."""
    cdef zsw_writeback *wb = e.writeback
    cdef zsw_flight *flight = wb.aloft
    cdef zsw_area *area
    cdef uint32_t first, end, written = 0, vain
    await_pilot(e)
    first = 0
    while first < flight.count:
        area = flight.victims[first].area
        note_answer(e, &area.write_error, flight.rc[first])
        vain = 0
        end = first
        while end < flight.count and flight.victims[end].area == area:
            if flight.rc[end] != 0:
                count(w.counters, Counter.backing_write_fail, 1)
                count(w.counters, Counter.reject_reclaim_fail, 1)
                put_entry(e, w, flight.victims[end].id)
            if flight.rc[end] == 0 and finish(e, w, &flight.victims[end]):
                written += 1
            else:
                flight.offsets[first + vain] = flight.offsets[end]
                vain += 1
            end += 1
        if vain:
            area.backing.discard(area.store, flight.offsets + first, vain)
        first = end
    count(w.counters, Counter.written_back_pages, written)
    if written and zsw_peek_u64(&e.pause_ns):
        zsw_poke_u64(&e.pause_ns, 0)
    flight_end(e, flight)
    wb.aloft = NULL
    tell_landing(e)
    return written


cdef void flight_cancel(zsw_engine *e, zsw_worker *w, zsw_flight *flight) noexcept nogil:
    cdef uint32_t i
    for i in range(flight.count):
        put_entry(e, w, flight.victims[i].id)
    flight_end(e, flight)
