# cython: language_level=3
"""The maintenance thread, one an engine, started by the first switch of pools or the first backing
store.

It sleeps on `work`, which is bumped when an emptied pool is to be freed or a store hit the limit,
and wakes by itself every shrinker interval while there is a backing store.  It never waits for
other calls, which may wait for a backing store.
"""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.calls cimport engine_enter, engine_leave
from zswap_core.compact cimport engine_compact
from zswap_core.fault cimport fault, Site
from zswap_core.os cimport (zsw_futex_wait, zsw_futex_wait_for, zsw_load_u32, zsw_lock, zsw_now_ns,
                            zsw_peek_i64, zsw_peek_u32, zsw_peek_u64, zsw_store_u32, zsw_swap_u32,
                            zsw_thread_join, zsw_thread_start, zsw_unlock)
from zswap_core.pool cimport pools_reach, retire_pools
from zswap_core.pressure cimport under_pressure
from zswap_core.state cimport WRITEBACK_BATCH, zsw_engine, zsw_worker
from zswap_core.wake cimport maintenance_wake
from zswap_core.writeback cimport engine_writeback

cdef enum:
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


cdef void shrink_to_threshold(zsw_engine *e) noexcept nogil:
    """After the limit was hit: works down to the accept threshold.  Writing back frees objects here
    and there, so whenever as much has gone as would make a sixteenth of the pool, what is left is
    moved together."""
    cdef uint64_t written = 0, since = 0, batch = WRITEBACK_BATCH
    cdef int failures = 0, rc
    cdef zsw_worker *w
    while zsw_load_u32(&e.reached_full) and zsw_load_u32(&e.backed_areas):
        if zsw_load_u32(&e.stop):
            zsw_store_u32(&e.limit_hit, 1)      # for the next thread, should there be one
            return
        if not pools_reach(e, zsw_peek_u64(&e.params.accept_pages) + 1):
            return
        if not write_some(e, batch, &written):
            return
        since += written
        if written == 0:
            failures += 1
            # a store that is nearly full may yet have room for some of them
            batch = (batch + 1) // 2
            if failures == MAX_FAILURES or zsw_peek_i64(&e.params.writeback_limit) == 0:
                return                          # the next interval, or the next hit, tries again
        else:
            failures = 0
            batch = WRITEBACK_BATCH
        if since > zsw_peek_u64(&e.lru.count) // 16 + WRITEBACK_BATCH:
            since = 0
            w = engine_enter(e, &rc)
            if w == NULL:
                return
            engine_compact(e, w)
            engine_leave(e, w)


cdef void shrink_some(zsw_engine *e) noexcept nogil:
    cdef uint64_t written
    shrink_to_threshold(e)
    if zsw_peek_u32(&e.params.shrinker_enabled) and under_pressure(e):
        write_some(e, zsw_peek_u64(&e.lru.count) // PRESSURE_SHARE + 1, &written)


cdef void *maintain(void *arg) noexcept nogil:
    cdef zsw_engine *e = <zsw_engine *> arg
    cdef uint32_t seen
    cdef uint64_t looked = zsw_now_ns(), now, interval, wait, pause = PAUSE_MIN_NS
    while not zsw_load_u32(&e.stop):
        seen = zsw_load_u32(&e.work)
        wait = FOREVER
        if retire_pools(e):
            wait = pause
            pause = pause * 2 if pause < PAUSE_MAX_NS else pause
        else:
            pause = PAUSE_MIN_NS
        if zsw_load_u32(&e.backed_areas):
            now = zsw_now_ns()
            interval = zsw_peek_u64(&e.params.shrinker_interval_ns)
            if zsw_swap_u32(&e.limit_hit, 0) or now - looked >= interval:
                shrink_some(e)
                now = looked = zsw_now_ns()
            if looked + interval - now < wait:
                wait = looked + interval - now
        if zsw_load_u32(&e.stop):
            break
        if wait == FOREVER:
            zsw_futex_wait(&e.work, seen)
        else:
            zsw_futex_wait_for(&e.work, seen, wait)
    return NULL
