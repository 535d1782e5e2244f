"""The maintenance thread, one an engine, started by the first switch of pools or the first backing
store.

It sleeps on `work`, which is bumped when an emptied pool is to be freed or a store hit the limit,
and wakes by itself every shrinker interval while there is a backing store.  It never waits for
other calls, which may wait for a backing store.
"""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.abi cimport zsw_zpool_stats
from zswap_core.budget cimport budget_follows, budget_look
from zswap_core.calls cimport engine_enter, engine_leave
from zswap_core.compact cimport engine_compact
from zswap_core.fault cimport fault, Site
from zswap_core.flight cimport flight_room, flights_rest
from zswap_core.index cimport area_open, zsw_area
from zswap_core.lookup cimport area_at, pool_at
from zswap_core.os cimport (
    zsw_futex_wait, zsw_futex_wait_for, zsw_load_u32, zsw_lock, zsw_now_ns, zsw_peek_i64,
    zsw_peek_u32, zsw_peek_u64, zsw_poke_u64, zsw_store_u32, zsw_swap_u32, zsw_thread_join,
    zsw_thread_start, zsw_unlock,
)
from zswap_core.parking cimport spare_rest
from zswap_core.pool cimport (
    accepts_again, hit_limit, pool_pages, pools_reach, reclaim_goal, reclaims, retire_pools,
)
from zswap_core.pressure cimport under_pressure
from zswap_core.reclaim cimport pages_above
from zswap_core.state cimport MAX_AREAS, WRITEBACK_BATCH, zsw_engine, zsw_pool, zsw_worker
from zswap_core.streams cimport streams_rest
from zswap_core.transit cimport writing_end, writing_try
from zswap_core.wake cimport maintenance_wake, tell_landing
from zswap_core.worker cimport pages_listed
from zswap_core.writeback cimport engine_writeback


cdef enum:
    SHRINK_FLIGHTS = 8          # at most, before others may write, where stores make room
    FEW_HOLES = 16              # pages, for which nothing is moved
    MAX_FAILURES = 16           # batches in a row from which nothing could be written
    PRESSURE_SHARE = 32         # under memory pressure, one in so many pages goes at each look
    # before looking again whether the calls have ended that may use an emptied pool; doubles
    PAUSE_MIN_NS = 100000
    PAUSE_MAX_NS = 100000000

cdef uint64_t FOREVER = <uint64_t> -1


cdef int maintenance_start(zsw_engine *e) noexcept nogil:
    """Starts the thread if it does not run yet."""
    cdef int rc = 0
    zsw_lock(&e.pools_lock)
    if not e.thread_started:
        rc = fault(Site.MAINTENANCE_THREAD)
        if rc == 0:
            rc = zsw_thread_start(&e.thread, maintain, e)
        e.thread_started = 1 if rc == 0 else 0
    zsw_unlock(&e.pools_lock)
    return rc


cdef void maintenance_stop(zsw_engine *e) noexcept nogil:
    if e.thread_started:
        zsw_store_u32(&e.stop, 1)
        maintenance_wake(e)
        zsw_thread_join(e.thread)
        e.thread_started = 0


cdef bint write_some(zsw_engine *e, uint64_t pages, uint64_t *written) noexcept nogil:
    """Writes back up to `pages`; False when the engine is closing."""
    cdef int rc
    cdef zsw_worker *w = engine_enter(e, &rc)
    if w == NULL:
        return False
    written[0] = engine_writeback(e, w, pages, 0)
    engine_leave(e, w)
    return True


cdef uint64_t shrink_batch(zsw_engine *e, bint begun) noexcept nogil:
    """How many pages to write back next; 0: the shrinker has nothing to do.  When a store was
    refused at the limit it works down to the accept threshold.  Where stores make room before they
    are refused it begins near the limit, and stops a little further down."""
    cdef uint64_t goal
    if not zsw_load_u32(&e.backed_areas):
        return 0
    if zsw_load_u32(&e.reached_full):
        if not reclaims(e):                     # the next store finds out when that is enough
            return WRITEBACK_BATCH if pools_reach(
                e, zsw_peek_u64(&e.params.accept_pages) + 1) else 0
        if not accepts_again(e):
            return WRITEBACK_BATCH
    elif reclaims(e) and (begun or pools_reach(e, zsw_peek_u64(&e.params.near_pages))):
        goal = reclaim_goal(e)
        if pools_reach(e, goal + 1):
            return min(pages_above(e, goal), <uint64_t> SHRINK_FLIGHTS * flight_room(e))
    return 0


cdef uint64_t holes_in(zsw_engine *e) noexcept nogil:
    """Pages' worth of what the pools take and no object has."""
    cdef zsw_zpool_stats s
    cdef uint64_t pages = 0, bytes
    cdef uint32_t i
    cdef zsw_pool *pool
    for i in range(zsw_load_u32(&e.pool_limit)):
        pool = pool_at(e, i)
        if pool != NULL:
            pool.ops.stats(pool.zpool, &s)
            bytes = (s.total_pages - s.idle_pages) * e.page_size
            pages += (bytes - min(s.object_bytes, bytes)) // e.page_size
    return pages


cdef bint compact_holes(zsw_engine *e, uint64_t share, uint64_t *left, bint *moved) noexcept nogil:
    """Moves objects together if, since that was done last, holes have come that are a `share`th of
    the pools, by writing back or otherwise; `left` are those that it left.  False when the engine
    is closing."""
    cdef int rc
    cdef uint64_t holes
    cdef zsw_worker *w = engine_enter(e, &rc)
    if w == NULL:
        return False
    holes = holes_in(e)
    left[0] = min(left[0], holes)
    moved[0] = holes - left[0] > pool_pages(e) // share + FEW_HOLES
    if moved[0]:
        engine_compact(e, w)
        left[0] = holes_in(e)
    engine_leave(e, w)
    return True


cdef void shrink_at_limit(zsw_engine *e, uint64_t *left) noexcept nogil:
    """Writes back what the limit asks for.  Before it does, and in between, objects are moved
    together where there is room that none of them has: it may be enough."""
    cdef uint64_t written = 0, wanted, share = 64 if reclaims(e) else 16
    cdef uint32_t failures = 0, halved = 0
    cdef bint begun = False, moved = False
    while True:
        wanted = shrink_batch(e, begun)
        if wanted == 0:
            return
        begun = True
        if zsw_load_u32(&e.stop):
            zsw_store_u32(&e.limit_hit, 1)      # for the next thread, should there be one
            return
        if not compact_holes(e, share, left, &moved):
            return
        if moved:
            tell_landing(e)
            continue
        if not write_some(e, max(wanted >> halved, <uint64_t> 1), &written):
            return
        if written == 0:
            failures += 1
            # a store that is nearly full may yet have room for some of them
            halved += wanted >> halved > 1
            if failures == MAX_FAILURES or zsw_peek_i64(&e.params.writeback_limit) == 0:
                # The next interval, or the next hit, tries again: not each store that comes near
                # the limit.
                zsw_poke_u64(&e.resting_until,
                             zsw_now_ns() + zsw_peek_u64(&e.params.shrinker_interval_ns))
                return
        else:
            failures = halved = 0
            zsw_poke_u64(&e.resting_until, 0)


cdef void follow_budget(zsw_engine *e) noexcept nogil:
    """The limit may be another, though no page came."""
    budget_look(e)
    # else shrink_at_limit sees it by itself
    if not reclaims(e) and pools_reach(e, zsw_peek_u64(&e.params.max_pages) + 1):
        hit_limit(e)


cdef void shrink_some(zsw_engine *e, uint64_t *left) noexcept nogil:
    cdef uint64_t written
    follow_budget(e)
    if zsw_load_u32(&e.backed_areas) == 0:
        return
    shrink_at_limit(e, left)
    if zsw_peek_u32(&e.params.shrinker_enabled) and under_pressure(e):
        write_some(e, pages_listed(e) // PRESSURE_SHARE + 1, &written)


cdef void rest(zsw_engine *e) noexcept nogil:
    """Gives back what nobody has used for an interval."""
    if writing_try(e):
        flights_rest(e)
        writing_end(e)
    streams_rest(e)
    spare_rest(e)


cdef bint tidy_stores(zsw_engine *e) noexcept nogil:
    """Lets each store do some of its housekeeping; whether there is more to do."""
    cdef uint32_t i
    cdef int rc
    cdef zsw_area *area
    cdef bint more = False
    cdef zsw_worker *w = engine_enter(e, &rc)
    if w == NULL:
        return False
    for i in range(<uint32_t> MAX_AREAS):
        area = area_at(e, i)
        if (area != NULL and area_open(zsw_load_u32(&area.online)) and area.backing != NULL
                and area.backing.tidy != NULL):
            more = area.backing.tidy(area.store) == 1 or more
    engine_leave(e, w)
    return more


cdef void *maintain(void *arg) noexcept nogil:
    cdef zsw_engine *e = <zsw_engine *> arg
    cdef uint32_t seen
    cdef uint64_t looked = zsw_now_ns(), now, interval, wait, pause = PAUSE_MIN_NS
    cdef uint64_t left = 0                      # holes that compaction could not mend
    while not zsw_load_u32(&e.stop):
        seen = zsw_load_u32(&e.work)
        wait = FOREVER
        if retire_pools(e):
            wait = pause
            pause = pause * 2 if pause < PAUSE_MAX_NS else pause
        else:
            pause = PAUSE_MIN_NS
        if zsw_load_u32(&e.backed_areas) or budget_follows(e):
            now = zsw_now_ns()
            interval = zsw_peek_u64(&e.params.shrinker_interval_ns)
            if zsw_swap_u32(&e.limit_hit, 0) or now - looked >= interval:
                if now - looked >= interval:
                    rest(e)
                shrink_some(e, &left)
                now = looked = zsw_now_ns()
            if looked + interval - now < wait:
                wait = looked + interval - now
            if tidy_stores(e):
                wait = min(wait, <uint64_t> PAUSE_MIN_NS)
        if zsw_load_u32(&e.stop):
            break
        if wait == FOREVER:
            zsw_futex_wait(&e.work, seen)
        else:
            zsw_futex_wait_for(&e.work, seen, wait)
    return NULL
