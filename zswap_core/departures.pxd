"""Pages that leave the pool for their backing stores, and those who want to hear of it.

A call that writes back notes each page once it has left, in its worker; when the call ends, or in
between where it takes long, with no lock held, it tells the listeners.  They may call the engine,
also so that more pages leave: of those they hear afterwards, not from inside themselves.
"""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.os cimport zsw_likely, zsw_peek_u32
from zswap_core.state cimport departure_call, DEPARTURE_SHIFT, Listener, zsw_engine, zsw_worker


cdef enum:
    DEPARTURES = 1 << 14            # of one call before it tells


cdef uint32_t reserve_departures(zsw_engine *e, zsw_worker *w, uint32_t pages) noexcept nogil
cdef void tell_departures(zsw_engine *e, zsw_worker *w) noexcept nogil
cdef void engine_listen(zsw_engine *e, Listener which, departure_call call,
                        void *context) noexcept nogil
cdef void departures_destroy(zsw_engine *e) noexcept nogil


cdef inline bint has_listeners(const zsw_engine *e) noexcept nogil:
    return zsw_peek_u32(&e.listening) != 0


cdef inline uint32_t may_leave(zsw_engine *e, zsw_worker *w, uint32_t pages,
                               uint32_t aloft) noexcept nogil:
    """How many of `pages`, beside those aloft, may leave such that there is room to note them: all,
    or where memory is short none."""
    if zsw_likely(not has_listeners(e)) or reserve_departures(e, w, pages + aloft) != 0:
        return pages
    return 0


cdef inline void note_departure(zsw_worker *w, uint32_t type, uint64_t offset) noexcept nogil:
    """A page has left; by a call that began when nobody listened there is no room, and no word."""
    if w.left.count < w.left.room:
        w.left.pages[w.left.count] = <uint64_t> type << DEPARTURE_SHIFT | offset
        w.left.count += 1
