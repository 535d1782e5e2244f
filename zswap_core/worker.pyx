"""Workers: what a call in flight owns, and how to know that calls have ended."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from zswap_core.fault cimport fault, Site
from zswap_core.lookup cimport pool_at
from zswap_core.os cimport (
    zsw_add_i64, zsw_fence, zsw_fence_after_rmw, zsw_load_ptr, zsw_load_u32, zsw_map_as,
    zsw_peek_i64, zsw_peek_u32, zsw_peek_u64, zsw_poke_u32, zsw_poke_u64, zsw_self, zsw_sleep_ns,
    zsw_store_ptr, zsw_unlikely, zsw_unmap,
)
from zswap_core.state cimport zsw_engine, zsw_pool, zsw_worker
from zswap_core.stats cimport Counter
from zswap_core.wake cimport maintenance_wake


cdef enum:
    # While a page that does not compress is compressed, a byte is written for each that is read.
    # A page begins a system page as a rule; if scratch did too, their addresses would agree in the
    # low 12 bits, and each read would wait for a write that it has nothing to do with.
    SCRATCH_LEAD = 2048


cdef void flush_entries(zsw_engine *e, zsw_worker *w) noexcept nogil:
    cdef zsw_pool *pool = w.counted
    if w.entries != 0:
        if zsw_add_i64(&pool.entries, w.entries) == 0:
            # Counted before `current` is read, and make_current sets that before the maintenance
            # thread reads the counts: one of the two sees that the pool is to go.
            zsw_fence_after_rmw()
            if pool != <zsw_pool *> zsw_load_ptr(<void **> &e.current):
                maintenance_wake(e)
        w.entries = 0
    w.counted = NULL


cdef int call_depth(zsw_engine *e) noexcept nogil:
    """How many calls of this engine this thread is in: a compressor or a backing store in Python
    may call back."""
    cdef uint64_t self = zsw_self()
    cdef int depth = 0
    cdef zsw_worker *w = first_worker(e)
    while w != NULL:
        depth += zsw_peek_u64(&w.owner) == self
        w = w.next
    return depth


cdef void stir(zsw_engine *e) noexcept nogil:
    """A worker takes more: the next store looks what the budget leaves for the pools."""
    if zsw_peek_u64(&e.budget.bytes):
        zsw_poke_u64(&e.budget.look_pages, 0)


cdef void *worker_context(zsw_engine *e, zsw_worker *w, zsw_pool *pool) noexcept nogil:
    """The worker's context for the pool's compressor, made on first use; NULL when there is no
    memory for it."""
    cdef void *context = NULL
    if w.contexts[pool.id] == NULL and pool.compressor.ops.ctx_new(pool.compressor.state,
                                                                   &context) == 0:
        zsw_store_ptr(&w.contexts[pool.id], context)        # who counts looks at it meanwhile
        stir(e)
    return w.contexts[pool.id]


cdef uint64_t context_bytes(zsw_engine *e, zsw_worker *w) noexcept nogil:
    """What its contexts take, as far as their compressors tell.  Inside a call, or by the thread
    that frees pools."""
    cdef uint64_t size = 0
    cdef zsw_pool *pool
    cdef void *context
    cdef uint32_t i
    for i in range(zsw_load_u32(&e.pool_limit)):
        pool = pool_at(e, i)
        context = zsw_load_ptr(&w.contexts[i])
        if pool != NULL and context != NULL and pool.compressor.ops.ctx_bytes != NULL:
            size += pool.compressor.ops.ctx_bytes(pool.compressor.state, context)
    return size


cdef bint worker_scratch(zsw_engine *e, zsw_worker *w, size_t size) noexcept nogil:
    cdef uint8_t *mapped = NULL
    if w.scratch_size < size:
        free_scratch(w)
        if fault(Site.SCRATCH) == 0:
            mapped = <uint8_t *> zsw_map_as(SCRATCH_LEAD + size, e.params.mapping)
        if mapped == NULL:
            return False
        w.scratch = mapped + SCRATCH_LEAD
        zsw_poke_u64(&w.scratch_size, size)     # stats reads it meanwhile
        stir(e)
    w.scratch_used = w.scratch != NULL
    return True


cdef void free_scratch(zsw_worker *w) noexcept nogil:
    if w.scratch != NULL:
        zsw_unmap(w.scratch - SCRATCH_LEAD, SCRATCH_LEAD + w.scratch_size)
    w.scratch = NULL
    w.scratch_used = 0
    zsw_poke_u64(&w.scratch_size, 0)


cdef uint8_t *worker_page(zsw_engine *e, zsw_worker *w) noexcept nogil:
    """A page of the worker's own, made on first use; NULL when there is no memory for it.  Scratch
    would not do: a larger one may take its place while a page is compressed."""
    if zsw_unlikely(w.page == NULL) and fault(Site.SCRATCH) == 0:
        zsw_store_ptr(<void **> &w.page, zsw_map_as(e.page_size, e.params.mapping))
        stir(e)
    return w.page


cdef void free_worker_page(zsw_engine *e, zsw_worker *w) noexcept nogil:
    zsw_unmap(w.page, e.page_size)
    w.page = NULL


cdef void drop_contexts(zsw_engine *e, zsw_pool *pool) noexcept nogil:
    """Frees every worker's context for a pool that nobody uses any more."""
    cdef zsw_worker *w = first_worker(e)
    while w != NULL:
        if w.contexts[pool.id] != NULL:
            pool.compressor.ops.ctx_free(pool.compressor.state, w.contexts[pool.id])
            zsw_store_ptr(&w.contexts[pool.id], NULL)
        w = w.next


cdef uint64_t pages_listed(zsw_engine *e) noexcept nogil:
    """How many pages are in the LRU: those held in memory, but for same-filled ones.  Exact when no
    call is in flight."""
    cdef int64_t pages = 0
    cdef zsw_worker *w = first_worker(e)
    while w != NULL:
        pages += zsw_peek_i64(&w.counters[<int> Counter.stored_pages])
        pages -= zsw_peek_i64(&w.counters[<int> Counter.same_filled_pages])
        w = w.next
    return <uint64_t> max(pages, <int64_t> 0)


cdef void await_calls(zsw_engine *e, int which) noexcept nogil:
    """Begins a grace period, which is over when every call that is in flight now has ended."""
    cdef zsw_worker *w
    # a worker taken or made from here on finds everything as it is now
    zsw_fence()
    w = first_worker(e)
    while w != NULL:
        w.awaited_uses[which] = zsw_load_u32(&w.uses)
        zsw_poke_u32(&w.awaited[which], zsw_load_u32(&w.busy))
        w = w.next


cdef bint worker_ended(zsw_worker *w, int which) noexcept nogil:
    if (zsw_peek_u32(&w.awaited[which])
            and (zsw_load_u32(&w.busy) == 0 or zsw_load_u32(&w.uses) != w.awaited_uses[which])):
        zsw_poke_u32(&w.awaited[which], 0)
    return zsw_peek_u32(&w.awaited[which]) == 0


cdef bint calls_ended(zsw_engine *e, int which) noexcept nogil:
    """Whether the grace period is over."""
    cdef zsw_worker *w = first_worker(e)
    while w != NULL:
        if not worker_ended(w, which):
            return False
        w = w.next
    return True


cdef void wait_calls(zsw_engine *e) noexcept nogil:
    """Returns once every call that is in flight now has ended."""
    cdef uint32_t uses
    cdef zsw_worker *w
    zsw_fence()                                 # as in await_calls
    w = first_worker(e)
    while w != NULL:
        uses = zsw_load_u32(&w.uses)
        while zsw_load_u32(&w.busy) != 0 and zsw_load_u32(&w.uses) == uses:
            zsw_sleep_ns(20000)
        w = w.next
