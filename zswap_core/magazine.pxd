"""What a batch of stores has of a zpool ahead of need."""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.state cimport zsw_pool, zsw_worker


# So many pages may yet come before those that are ready are published; 0: none are taken ahead.
cdef inline void magazine_expect(zsw_worker *w, uint32_t pages) noexcept nogil:
    w.magazine.expected = pages


# As the pool's malloc, for a page as it is.
cdef int magazine_take(zsw_worker *w, zsw_pool *pool, uint64_t *handle) noexcept nogil
# What was ready has been published.
cdef void magazine_turn(zsw_worker *w) noexcept nogil
# Gives back what is left; whether there was any.
cdef bint magazine_empty(zsw_worker *w) noexcept nogil
