"""Magazines: places for pages that do not compress, taken several at a time.

All such pages come from one place of a pool and go back there, under one lock, where other pages
are spread over a hundred size classes.  So a batch takes twice as many each time as the time
before, for the pages that are still to come, and gives back what it had no use for when it ends,
or when room becomes scarce.  What a magazine holds is an object of the pool's without an entry.
"""
from libc.errno cimport ENOMEM
from libc.stdint cimport int64_t, uint32_t, uint64_t

from zswap_core.state cimport MAGAZINE, zsw_magazine, zsw_pool, zsw_worker


cdef int refill(zsw_magazine *m, zsw_pool *pool) noexcept nogil:
    """Takes one at least."""
    cdef uint32_t wanted = min(min(max(m.more, <uint32_t> 1), m.expected),
                               <uint32_t> MAGAZINE)
    cdef int64_t got = pool.ops.malloc_many(pool.zpool, pool.config.page_size, m.handles, wanted)
    if got <= 0:
        return <int> got if got < 0 else -ENOMEM
    m.pool = pool
    m.held = <uint32_t> min(got, <int64_t> MAGAZINE)
    m.more = 2 * m.held
    return 0


cdef int magazine_take(zsw_worker *w, zsw_pool *pool, uint64_t *handle) noexcept nogil:
    cdef zsw_magazine *m = &w.magazine
    cdef int rc = 0
    if m.held != 0 and m.pool != pool:
        magazine_empty(w)                       # there is another current pool since
    if m.held == 0:
        rc = refill(m, pool)
    if rc == 0:
        m.held -= 1
        handle[0] = m.handles[m.held]
    return rc


cdef bint magazine_empty(zsw_worker *w) noexcept nogil:
    cdef zsw_magazine *m = &w.magazine
    cdef uint32_t i
    cdef bint any = m.held != 0
    if any and m.pool.ops.free_many != NULL:
        m.pool.ops.free_many(m.pool.zpool, m.handles, m.held)
    elif any:
        for i in range(m.held):
            m.pool.ops.free(m.pool.zpool, m.handles[i])
    m.held = 0
    m.more = 0
    return any
