"""Pages that leave the pool for their backing stores: see the .pxd."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from zswap_core.fault cimport fault, Site
from zswap_core.os cimport zsw_lock, zsw_peek_u64, zsw_poke_u32, zsw_self, zsw_unlock
from zswap_core.state cimport (
    departure_call, DEPARTURE_SHIFT, Listener, LISTENERS, zsw_departures, zsw_engine, zsw_listener,
    zsw_worker,
)
from zswap_core.worker cimport first_worker


cdef bint reserve(zsw_departures *left, uint32_t pages) noexcept nogil:
    """Makes room to note so many pages more."""
    cdef uint32_t room = max(left.count + pages, 2 * left.room)
    cdef uint64_t *memory = NULL
    if left.count + pages <= left.room:
        return True
    if fault(Site.WRITEBACK_BUFFERS) == 0:
        memory = <uint64_t *> realloc(left.pages, room * sizeof(uint64_t))
    if memory == NULL:
        return False
    left.pages, left.room = memory, room
    return True


cdef uint32_t reserve_departures(zsw_engine *e, zsw_worker *w, uint32_t pages) noexcept nogil:
    """0 where there is no memory to note so many pages more."""
    return reserve(&w.left, pages)


cdef zsw_worker *outer_call(zsw_engine *e, const zsw_worker *own) noexcept nogil:
    """The call of this thread that is telling, if it is inside one."""
    cdef zsw_worker *w = first_worker(e)
    while w != NULL:
        if w != own and zsw_peek_u64(&w.owner) == zsw_self() and w.telling:
            return w
        w = w.next
    return NULL


cdef void tell(zsw_engine *e, uint32_t type, const uint64_t *offsets, uint32_t n) noexcept nogil:
    cdef zsw_listener listener
    cdef int i
    for i in range(<int> LISTENERS):
        zsw_lock(&e.listeners_lock)
        listener = e.listeners[i]
        zsw_unlock(&e.listeners_lock)
        # in a forked child, which a listener may have made, nobody is to hear of the parent's
        if listener.call != NULL and not e.forked:
            listener.call(listener.context, type, offsets, n)


cdef void tell_all(zsw_engine *e, const zsw_departures *left) noexcept nogil:
    """Each area's pages in a row by one call."""
    cdef uint64_t offset_mask = (<uint64_t> 1 << DEPARTURE_SHIFT) - 1
    cdef uint32_t first = 0, end, type
    while first < left.count and not e.forked:
        type = <uint32_t> (left.pages[first] >> DEPARTURE_SHIFT)
        end = first
        while end < left.count and left.pages[end] >> DEPARTURE_SHIFT == type:
            left.pages[end] &= offset_mask
            end += 1
        tell(e, type, left.pages + first, end - first)
        first = end


cdef void tell_departures(zsw_engine *e, zsw_worker *w) noexcept nogil:
    """Tells of the pages that have left by this call.  No lock is held."""
    cdef zsw_worker *outer = outer_call(e, w)
    cdef zsw_departures left
    if outer != NULL and reserve(&outer.left, w.left.count):
        memcpy(outer.left.pages + outer.left.count, w.left.pages, w.left.count * sizeof(uint64_t))
        outer.left.count += w.left.count
        w.left.count = 0
        return
    w.telling += 1
    while w.left.count != 0:
        left = w.left
        w.left.pages = NULL
        w.left.count = w.left.room = 0
        tell_all(e, &left)
        free(left.pages)
    w.telling -= 1


cdef void engine_listen(zsw_engine *e, Listener which, departure_call call,
                        void *context) noexcept nogil:
    """From the next writeback on; NULL: nobody listens any more.  Calls in flight may still be
    telling the one before."""
    cdef uint32_t i, n = 0
    zsw_lock(&e.listeners_lock)
    e.listeners[<int> which].call = call
    e.listeners[<int> which].context = context
    for i in range(<uint32_t> LISTENERS):
        n += e.listeners[i].call != NULL
    zsw_poke_u32(&e.listening, n)
    zsw_unlock(&e.listeners_lock)


cdef void departures_destroy(zsw_engine *e) noexcept nogil:
    """No call is in flight."""
    cdef zsw_worker *w = first_worker(e)
    while w != NULL:
        free(w.left.pages)
        w.left.pages = NULL
        w.left.count = w.left.room = 0
        w = w.next
