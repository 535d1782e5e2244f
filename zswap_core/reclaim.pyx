"""Reclaim: a store that meets the limit makes room before it is refused.

Stores that come near the limit wake the shrinker, which then keeps the pools a little below it.  A
store that is at the limit all the same goes to the gate, where each waits for those that came
before it.  The first has the coldest pages written back: by itself when nobody writes, else it
waits for the flights of whoever does.  Having room it leaves, and with it goes the turn.

Nobody holds a lock at the gate.  Inside a flight a thread does not go there, for it would wait for
itself: see `admit`.  The first gives up when its time is over, which began when it came; so those
behind it, whose time is over as well then, leave along with it.
Where nothing could be written (the store fails, the budget is used up, nothing has a store),
reclaim pauses for a while that doubles, and stores are refused at once meanwhile.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from zswap_core.compact cimport engine_compact
from zswap_core.flight cimport flight_room
from zswap_core.index cimport AREA_ONLINE, zsw_area
from zswap_core.os cimport (
    zsw_add_u32, zsw_fence, zsw_fence_after_rmw, zsw_futex_wait, zsw_futex_wait_for, zsw_futex_wake,
    zsw_load_u32, zsw_now_ns, zsw_peek_i64, zsw_peek_u32, zsw_peek_u64, zsw_poke_u64, zsw_self,
    zsw_store_u32,
)
from zswap_core.pool cimport accepts_again, hit_limit, pool_pages, pools_reach, reclaims
from zswap_core.quota cimport area_has_room, pages_over
from zswap_core.state cimport zsw_engine, zsw_worker
from zswap_core.status cimport Status
from zswap_core.transit cimport writing_end, writing_try
from zswap_core.wake cimport maintenance_wake
from zswap_core.worker cimport pages_listed
from zswap_core.writeback cimport write_area, write_back


cdef enum:
    COMPACT_AFTER = 8           # flights, when they have freed objects but no memory
    FEW_PAGES = 1 << 14         # that are moved together in less time than a flight takes
    MOST_VAIN = 2               # flights in a row of which nothing was written
    # from coming to leaving: longer than a shared disk was seen to stand still (0.36 s)
    PATIENCE_NS = 500000000
    LANDING_NS = 20000000       # of which so much for one flight of another's, then it looks again
    PAUSE_LEAST_NS = 1000000
    PAUSE_MOST_NS = 1000000000
    EVERYBODY = 0x7fffffff


cdef bint reclaim_pauses(zsw_engine *e) noexcept nogil:
    """Whether nothing could be written a moment ago, or may be."""
    if zsw_peek_i64(&e.params.writeback_limit) == 0:
        return True
    return zsw_peek_u64(&e.pause_ns) != 0 and zsw_now_ns() < zsw_peek_u64(&e.paused_until)


cdef void pause_reclaim(zsw_engine *e) noexcept nogil:
    """Nothing could be written.  A flight that lands ends the pause."""
    cdef uint64_t ns = zsw_peek_u64(&e.pause_ns) * 2
    ns = min(max(ns, <uint64_t> PAUSE_LEAST_NS), <uint64_t> PAUSE_MOST_NS)
    zsw_poke_u64(&e.paused_until, zsw_now_ns() + ns)
    zsw_poke_u64(&e.pause_ns, ns)


cdef bint shrinker_rests(zsw_engine *e) noexcept nogil:
    cdef uint64_t until = zsw_peek_u64(&e.resting_until)
    return until != 0 and zsw_now_ns() < until


cdef uint64_t pages_above(zsw_engine *e, uint64_t goal) noexcept nogil:
    """How many pages must go before the pools are down to `goal`, if they take as much as the
    others on average; 0: they are."""
    cdef uint64_t pages = pool_pages(e)
    if pages <= goal:
        return 0
    return <uint64_t> (<double> pages_listed(e) * (pages - goal) / pages) + 1


cdef uint64_t fly(zsw_engine *e, zsw_worker *w, uint32_t flights) noexcept nogil:
    """Writes back a flight of the coldest pages, as the writer: returns how many went.  A flight
    that frees no memory, its pages' neighbours being still there, is followed by a larger one."""
    cdef uint64_t pages = pages_above(e, zsw_peek_u64(&e.params.near_pages))
    pages = min(pages << min(flights, <uint32_t> 16), <uint64_t> flight_room(e))
    return write_back(e, w, max(pages, <uint64_t> 1), 0)


cdef void await_landing(zsw_engine *e, uint32_t seen) noexcept nogil:
    """Waits until the writer has landed a flight or left since `landings` was `seen`."""
    zsw_store_u32(&e.awaited, 1)
    zsw_fence()                                 # see tell_landing
    zsw_futex_wait_for(&e.landings, seen, LANDING_NS)
    zsw_store_u32(&e.awaited, 0)


cdef bint is_short(zsw_engine *e, zsw_area *area, int64_t bytes) noexcept nogil:
    """Whether there is no room: below the limit, or for so many bytes in an area with a quota."""
    if area != NULL:
        return not area_has_room(area, bytes)
    return pools_reach(e, zsw_peek_u64(&e.params.max_pages))


cdef bint may_write(zsw_engine *e, const zsw_area *area) noexcept nogil:
    return reclaims(e) if area == NULL else zsw_load_u32(&area.online) == AREA_ONLINE


cdef bint take_room(zsw_engine *e, zsw_worker *w, zsw_area *area, int64_t bytes,
                    uint64_t until) noexcept nogil:
    """The first at the gate: whether there is room now, or `until` then."""
    cdef uint64_t written
    cdef uint32_t flights = 0, vain = 0, seen
    while is_short(e, area, bytes):
        if (vain == MOST_VAIN or reclaim_pauses(e) or not may_write(e, area)
                or zsw_load_u32(&e.closing) or zsw_now_ns() >= until):
            return False
        seen = zsw_load_u32(&e.landings)        # before looking who writes: he tells when he leaves
        if writing_try(e):
            written = (fly(e, w, flights) if area == NULL
                       else write_area(e, w, area, pages_over(e, area, bytes)))
            writing_end(e)
            vain = 0 if written else vain + 1
            if vain == MOST_VAIN and area == NULL:
                pause_reclaim(e)
            if area == NULL and written and pages_listed(e) <= <uint64_t> FEW_PAGES:
                engine_compact(e, w)
        else:
            await_landing(e, seen)
        flights += 1
        if area == NULL and flights == COMPACT_AFTER:
            engine_compact(e, w)
    return True


cdef bint make_room(zsw_engine *e, zsw_worker *w, zsw_area *area, int64_t bytes) noexcept nogil:
    """Whether there is room, once it is our turn: in the pools, or in an area with a quota."""
    cdef uint64_t until = zsw_now_ns() + PATIENCE_NS
    cdef uint32_t ticket = zsw_add_u32(&e.tickets, 1) - 1
    cdef uint32_t turn
    cdef bint made
    # the one before us sees the ticket, or we see its turn end
    zsw_fence_after_rmw()
    turn = zsw_load_u32(&e.turn)
    while turn != ticket:
        zsw_futex_wait(&e.turn, turn)
        turn = zsw_load_u32(&e.turn)
    made = take_room(e, w, area, bytes, until)
    turn = zsw_add_u32(&e.turn, 1)
    zsw_fence_after_rmw()
    if zsw_load_u32(&e.tickets) != turn:
        zsw_futex_wake(&e.turn, EVERYBODY)
    return made


cdef bint make_room_in(zsw_engine *e, zsw_worker *w, zsw_area *area, int64_t bytes) noexcept nogil:
    """Has the coldest pages of an area at its quota written back; whether it has room for so many
    bytes now.  Also where `direct_reclaim` is off, as the shrinker looks after the limit alone."""
    if (area.backing == NULL or bytes > zsw_peek_i64(&area.quota)
            or zsw_peek_u64(&e.writer) == zsw_self()):
        return area_has_room(area, bytes)
    return make_room(e, w, area, bytes)


cdef int admit(zsw_engine *e, zsw_worker *w) noexcept nogil:
    """STORED when a page may come in near the limit, else the reason why not.  Where there is no
    pool at all, or inside a flight, whose pages the thread would wait for, nothing is made room
    for."""
    cdef uint64_t most = zsw_peek_u64(&e.params.max_pages)
    cdef bint room = not pools_reach(e, most)
    cdef bint waits = most != 0 and zsw_peek_u64(&e.writer) != zsw_self() and not reclaim_pauses(e)
    if waits and (not room or zsw_load_u32(&e.tickets) != zsw_load_u32(&e.turn)):
        # also where there is some, while others wait for it
        room = make_room(e, w, NULL, 0)
    if not room and hit_limit(e):
        return Status.POOL_LIMIT
    if (not (zsw_peek_u32(&e.reached_full) and accepts_again(e)) and waits
            and not zsw_peek_u32(&e.limit_hit) and not shrinker_rests(e)):
        zsw_store_u32(&e.limit_hit, 1)
        maintenance_wake(e)
    return Status.STORED
