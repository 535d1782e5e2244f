"""Magazines: places for pages that do not compress, taken several at a time.

All such pages come from one place of a pool and go back there, under one lock, where other pages
are spread over a hundred size classes.  So a batch takes as many at once as it needed for the pages
that it published last, and never more than it has yet to make ready: what it needs is what those
before left, and in the order in which they left it.  What it has no use for it gives back when it
ends, or when room becomes scarce.  What a magazine holds is an object of the pool's without an
entry.
"""
from libc.errno cimport ENOMEM
from libc.stdint cimport int64_t, uint32_t, uint64_t

from zswap_core.state cimport MAGAZINE, zsw_magazine, zsw_pool, zsw_worker


cdef int refill(zsw_magazine *m, zsw_pool *pool) noexcept nogil:
    """Takes one at least."""
    cdef uint32_t wanted = min(min(max(m.more, <uint32_t> 1), m.expected), <uint32_t> MAGAZINE)
    cdef int64_t got = pool.ops.malloc_many(pool.zpool, pool.config.page_size, m.handles, wanted)
    if got <= 0:
        return <int> got if got < 0 else -ENOMEM
    m.pool = pool
    m.next, m.end = 0, <uint32_t> min(got, <int64_t> wanted)
    m.more = 1
    return 0


cdef int magazine_take(zsw_worker *w, zsw_pool *pool, uint64_t *handle) noexcept nogil:
    cdef zsw_magazine *m = &w.magazine
    cdef int rc = 0
    if m.next != m.end and m.pool != pool:
        magazine_empty(w)                       # there is another current pool since
    if m.next == m.end:
        rc = refill(m, pool)
    if rc == 0:
        handle[0] = m.handles[m.next]
        m.next += 1
        m.taken += 1
    return rc


cdef void magazine_turn(zsw_worker *w) noexcept nogil:
    cdef zsw_magazine *m = &w.magazine
    cdef uint32_t left = m.end - m.next
    m.more = m.taken - left if m.taken > left else 1
    m.taken = 0


cdef bint magazine_empty(zsw_worker *w) noexcept nogil:
    cdef zsw_magazine *m = &w.magazine
    cdef uint32_t left = m.end - m.next, i
    if left == 0:
        return False
    if m.pool.ops.free_many != NULL:
        m.pool.ops.free_many(m.pool.zpool, &m.handles[m.next], left)
    else:
        for i in range(m.next, m.end):
            m.pool.ops.free(m.pool.zpool, m.handles[i])
    m.next = m.end = 0
    return True
