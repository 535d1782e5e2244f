"""Requests: loads and stores that are submitted, and completed by a thread of the engine's.

A load of what is in the pool is complete when it has been submitted.  All else waits for the
thread, which the first such request begins: it takes what has come meanwhile in its order, and
reads the loads that follow one another together, as a batch does.

The thread enters the engine for each such group, and calls `done` when it has left: what is called
may do anything but wait for the thread itself.  Requests are queued inside a call, and engine_close
waits for calls before it ends the thread: so each one that was queued is completed, those that the
closing finds in the queue as ZSWAP_CLOSED.
"""
from libc.errno cimport ENOMEM
from libc.stdint cimport int8_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from zswap_core.batch cimport engine_load_many
from zswap_core.budget cimport buffer_bytes, map_buffer, unmap_buffer
from zswap_core.calls cimport engine_enter, engine_leave
from zswap_core.fault cimport fault, Site
from zswap_core.load cimport engine_load, LOAD_NO_WAIT, LOAD_ZEROS
from zswap_core.os cimport (
    pthread_t, zsw_add_u32, zsw_fence, zsw_fence_after_rmw, zsw_futex_wait, zsw_futex_wake,
    zsw_load_ptr, zsw_load_u32, zsw_lock, ZSW_MAP_NO_FORK, zsw_mutex, zsw_peek_u64, zsw_poke_u64,
    zsw_self, zsw_store_ptr, zsw_store_u32, zsw_thread_join, zsw_thread_start, zsw_unlikely,
    zsw_unlock, zsw_wipe,
)
from zswap_core.state cimport zsw_engine, zsw_worker
from zswap_core.status cimport Status
from zswap_core.store cimport engine_store
from zswap_core.zswap cimport (
    ZSWAP_CLOSED, ZSWAP_COMPLETE, ZSWAP_LOAD, ZSWAP_NO_MEMORY, ZSWAP_PENDING, zswap_request,
    ZSWAP_STORE, ZSWAP_ZEROS,
)


cdef enum:
    MOST = 64                   # requests of a group,
    MOST_BYTES = 1 << 20        # and so many bytes that are read together, at most


cdef struct zsw_requests:
    zsw_engine *e
    zsw_mutex lock              # guards these two
    zswap_request *first
    zswap_request *last
    uint32_t work               # futex word: goes up when there is something to do
    uint32_t idle               # the thread sleeps on it, or is about to
    uint32_t stop
    pthread_t thread
    uint8_t *memory             # to read into; NULL: none yet.  The thread's, as its size is
    uint64_t size


cdef zsw_requests *requests_of(zsw_engine *e) noexcept nogil:
    """Made, with its thread, by the first that wants it; NULL: the system has no memory for it, or
    starts no thread."""
    cdef zsw_requests *all = <zsw_requests *> zsw_load_ptr(<void **> &e.requests)
    if zsw_unlikely(all == NULL):
        zsw_lock(&e.pools_lock)
        all = <zsw_requests *> e.requests
        if all == NULL and fault(Site.BATCH_THREAD) == 0:
            all = <zsw_requests *> map_buffer(e, sizeof(zsw_requests), e.params.mapping)
            if all != NULL:
                all.e = e
                if zsw_thread_start(&all.thread, serve, all) != 0:
                    unmap_buffer(e, all, sizeof(zsw_requests))
                    all = NULL
            # there is a thread for whoever finds it
            zsw_store_ptr(<void **> &e.requests, all)
        zsw_unlock(&e.pools_lock)
    return all


cdef int engine_submit(zsw_engine *e, zsw_worker *w, zswap_request *request) noexcept nogil:
    """ZSWAP_COMPLETE, ZSWAP_PENDING or -ENOMEM.  A request that is pending is the thread's, and may
    be gone."""
    cdef zsw_requests *all
    if request.what == ZSWAP_LOAD:
        request.status = engine_load(e, w, request.area, request.offset, <uint8_t *> request.page,
                                     LOAD_NO_WAIT | zeros(request))
        if request.status != Status.WOULD_BLOCK:
            return ZSWAP_COMPLETE
    all = requests_of(e)
    if all == NULL:
        return -ENOMEM
    request.next = NULL
    zsw_lock(&all.lock)
    if all.first == NULL:
        all.first = request
    else:
        all.last.next = request
    all.last = request
    zsw_unlock(&all.lock)
    wake(all)
    return ZSWAP_PENDING


cdef inline uint32_t zeros(const zswap_request *request) noexcept nogil:
    return LOAD_ZEROS if request.flags & ZSWAP_ZEROS else 0


cdef inline void wake(zsw_requests *all) noexcept nogil:
    zsw_add_u32(&all.work, 1)
    # we see that it sleeps, or it that `work` has changed
    zsw_fence_after_rmw()
    if zsw_load_u32(&all.idle):
        zsw_futex_wake(&all.work, 1)


# ---- the thread ----------------------------------------------------------------------------------


cdef void *serve(void *arg) noexcept nogil:
    cdef zsw_requests *all = <zsw_requests *> arg
    cdef zswap_request *first
    cdef uint32_t seen
    # In the engine's shell, as whoever closes may ask when another has freed all of this.
    zsw_poke_u64(&all.e.requester, zsw_self())
    while True:
        seen = zsw_load_u32(&all.work)
        zsw_lock(&all.lock)
        first = all.first
        all.first = NULL
        zsw_unlock(&all.lock)
        if first != NULL:
            while first != NULL:
                first = serve_group(all.e, all, first)
        elif zsw_load_u32(&all.stop):
            zsw_poke_u64(&all.e.requester, 0)
            return NULL
        else:
            zsw_store_u32(&all.idle, 1)
            zsw_fence()
            zsw_futex_wait(&all.work, seen)
            zsw_store_u32(&all.idle, 0)


cdef zswap_request *serve_group(zsw_engine *e, zsw_requests *all,
                                zswap_request *first) noexcept nogil:
    """Carries out the first requests, as many as are alike; returns those that are left."""
    cdef zswap_request *group[MOST]
    cdef zswap_request *rest = first
    cdef zsw_worker *w
    cdef uint32_t n = 0, i
    cdef int rc = 0
    while (rest != NULL and n < <uint32_t> MOST and rest.what == first.what
            and rest.area == first.area):
        group[n] = rest
        rest = rest.next
        n += 1
    w = engine_enter(e, &rc)
    if w == NULL:
        for i in range(n):
            group[i].status = ZSWAP_NO_MEMORY if rc == -ENOMEM else ZSWAP_CLOSED
    else:
        if first.what == ZSWAP_STORE:
            for i in range(n):
                group[i].status = engine_store(e, w, first.area, group[i].offset,
                                               <const uint8_t *> group[i].page)
        else:
            load_group(e, w, all, group, n)
        engine_leave(e, w)
    for i in range(n):
        group[i].done(group[i])
    return rest


cdef void load_group(zsw_engine *e, zsw_worker *w, zsw_requests *all, zswap_request **group,
                     uint32_t n) noexcept nogil:
    cdef uint32_t most = 1, i = 0
    if n > 1 and has_memory(e, all):
        most = <uint32_t> (all.size // e.page_size)
    while i < n:
        load_some(e, w, all, group + i, min(most, n - i))
        i += most


cdef void load_some(zsw_engine *e, zsw_worker *w, zsw_requests *all, zswap_request **group,
                    uint32_t n) noexcept nogil:
    """As many as there is room for."""
    cdef uint64_t offsets[MOST]
    cdef int8_t status[MOST]
    cdef uint32_t i, read = n if n > 1 else 0
    if read:
        for i in range(n):
            offsets[i] = group[i].offset
        engine_load_many(e, w, group[0].area, offsets, all.memory, n, 1, status, NULL)
    for i in range(n):
        if read and status[i] != Status.ABSENT:     # of which a load may still make zeros
            group[i].status = status[i]
            if status[i] >= 0:
                memcpy(group[i].page, all.memory + <size_t> i * e.page_size, e.page_size)
        else:
            group[i].status = engine_load(e, w, group[i].area, group[i].offset,
                                          <uint8_t *> group[i].page, zeros(group[i]))
    if zsw_unlikely(e.params.wipe_on_free and read):
        zsw_wipe(all.memory, read * <size_t> e.page_size)


cdef bint has_memory(zsw_engine *e, zsw_requests *all) noexcept nogil:
    if all.memory == NULL:
        all.size = buffer_bytes(e, MOST_BYTES, 8)
        if all.size != 0 and fault(Site.SCRATCH) == 0:
            all.memory = map_buffer(e, all.size, e.params.mapping | ZSW_MAP_NO_FORK)
    return all.memory != NULL


# ---- from outside --------------------------------------------------------------------------------


cdef bint serves_requests(const zsw_engine *e) noexcept nogil:
    """Whether this is the thread, for which closing would wait."""
    return zsw_peek_u64(&e.requester) == zsw_self()


cdef void requests_stop(zsw_engine *e) noexcept nogil:
    """Ends the thread, when no call can queue any more."""
    cdef zsw_requests *all = <zsw_requests *> e.requests
    if all != NULL:
        zsw_store_u32(&all.stop, 1)
        wake(all)
        zsw_thread_join(all.thread)


cdef void requests_destroy(zsw_engine *e) noexcept nogil:
    cdef zsw_requests *all = <zsw_requests *> e.requests
    if all != NULL:
        unmap_buffer(e, all.memory, all.size)
        unmap_buffer(e, all, sizeof(zsw_requests))
    e.requests = NULL
