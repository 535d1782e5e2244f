"""Workers: what a call in flight owns, and how to know that calls have ended."""
from libc.stdint cimport uint8_t, uint64_t

from zswap_core.os cimport zsw_load_ptr, zsw_peek_u64
from zswap_core.state cimport zsw_engine, zsw_pool, zsw_worker


cdef void *worker_context(zsw_engine *e, zsw_worker *w, zsw_pool *pool) noexcept nogil
cdef uint64_t context_bytes(zsw_engine *e, zsw_worker *w) noexcept nogil
cdef bint worker_scratch(zsw_engine *e, zsw_worker *w, size_t size) noexcept nogil
cdef uint8_t *worker_page(zsw_engine *e, zsw_worker *w) noexcept nogil
cdef void free_worker_page(zsw_engine *e, zsw_worker *w) noexcept nogil
cdef void free_scratch(zsw_worker *w) noexcept nogil
cdef void flush_entries(zsw_engine *e, zsw_worker *w) noexcept nogil
cdef void drop_contexts(zsw_engine *e, zsw_pool *pool) noexcept nogil
cdef int call_depth(zsw_engine *e) noexcept nogil
cdef void wait_calls(zsw_engine *e) noexcept nogil
cdef void await_calls(zsw_engine *e, int which) noexcept nogil
cdef bint calls_ended(zsw_engine *e, int which) noexcept nogil
cdef uint64_t pages_listed(zsw_engine *e) noexcept nogil


cdef inline zsw_worker *first_worker(zsw_engine *e) noexcept nogil:
    """The first of all workers; each has the `next`."""
    return <zsw_worker *> zsw_load_ptr(<void **> &e.all_workers)


cdef inline uint64_t scratch_bytes(zsw_engine *e, zsw_worker *w) noexcept nogil:
    """What it has for its own use."""
    return (zsw_peek_u64(&w.scratch_size) + context_bytes(e, w)
            + (e.page_size if zsw_load_ptr(<void **> &w.page) != NULL else 0))


cdef inline void count_entry(zsw_engine *e, zsw_worker *w, zsw_pool *pool, int by) noexcept nogil:
    """Counts entries of a pool in the worker; the pool hears of it when the call ends or turns to
    another pool."""
    if w.counted != pool:
        flush_entries(e, w)
        w.counted = pool
    w.entries += by
