"""A call begins and ends: it takes a worker and gives it back, clearing away what is due."""
from libc.errno cimport ENOMEM, EPIPE
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc

from zswap_core.departures cimport tell_departures
from zswap_core.fault cimport fault, Site
from zswap_core.os cimport (
    zsw_cas_u32, zsw_cpu, zsw_fence_after_rmw, zsw_load_u32, zsw_lock, zsw_now_s, zsw_peek_u32,
    zsw_poke_u64, zsw_self, zsw_store_ptr, zsw_store_u32, zsw_unlikely, zsw_unlock, zsw_wipe,
    zsw_yield,
)
from zswap_core.reap cimport reap, reap_is_due
from zswap_core.state cimport zsw_engine, zsw_worker
from zswap_core.worker cimport first_worker, flush_entries


cdef zsw_worker *idle_worker(zsw_engine *e) noexcept nogil:
    """Takes a worker that is there: this CPU's, or any.  NULL when all are busy."""
    cdef uint32_t at = zsw_cpu()
    cdef zsw_worker *w = e.workers[at if at < e.worker_count else at % e.worker_count]
    if zsw_unlikely(zsw_peek_u32(&w.busy) != 0 or not zsw_cas_u32(&w.busy, 0, 1)):
        w = first_worker(e)
        while w != NULL and not (zsw_peek_u32(&w.busy) == 0 and zsw_cas_u32(&w.busy, 0, 1)):
            w = w.next
    return w


cdef zsw_worker *begin_call(zsw_engine *e, zsw_worker *w, int *rc) noexcept nogil:
    """Begins a call with a worker; NULL, with -EPIPE, when the engine is closed."""
    # busy is set before closing is read, and engine_close sets closing before it reads busy, each
    # with a full fence between the two: one of them sees the other.  In the same way await_calls
    # waits for this call, or this call finds what went before it.
    zsw_fence_after_rmw()
    if zsw_unlikely(zsw_load_u32(&e.closing) != 0):
        zsw_store_u32(&w.busy, 0)
        rc[0] = -EPIPE
        return NULL
    zsw_poke_u64(&w.owner, zsw_self())
    w.now = zsw_now_s()
    w.error = 0
    w.size = e.page_size
    return w


cdef zsw_worker *engine_enter(zsw_engine *e, int *rc) noexcept nogil:
    """Begins a call: a worker of the caller's own until engine_leave.  NULL, with -EPIPE when the
    engine is closed, or -ENOMEM."""
    cdef zsw_worker *w = idle_worker(e)
    if zsw_unlikely(w == NULL):
        w = <zsw_worker *> calloc(1, sizeof(zsw_worker)) if fault(Site.WORKER) == 0 else NULL
        if w == NULL:
            rc[0] = -ENOMEM
            return NULL
        w.busy = 1
        zsw_lock(&e.areas_lock)
        w.next = e.all_workers
        zsw_store_ptr(<void **> &e.all_workers, w)
        zsw_unlock(&e.areas_lock)
    return begin_call(e, w, rc)


cdef zsw_worker *engine_enter_ready(zsw_engine *e, int *rc) noexcept nogil:
    """The same for whoever may not allocate: waits for a worker that is there."""
    cdef zsw_worker *w = idle_worker(e)
    while zsw_unlikely(w == NULL):
        zsw_yield()
        w = idle_worker(e)
    return begin_call(e, w, rc)


cdef void engine_leave(zsw_engine *e, zsw_worker *w) noexcept nogil:
    flush_entries(e, w)
    if zsw_unlikely(w.left.count != 0):
        tell_departures(e, w)
    if zsw_unlikely(e.params.wipe_on_free and w.scratch_used):
        zsw_wipe(w.scratch, w.scratch_size)
        w.scratch_used = 0
    if zsw_unlikely(reap_is_due(e, w)):
        reap(e, w)
    zsw_poke_u64(&w.owner, 0)
    # like busy it says that the call has ended, with all it did
    zsw_store_u32(&w.uses, w.uses + 1)
    zsw_store_u32(&w.busy, 0)
