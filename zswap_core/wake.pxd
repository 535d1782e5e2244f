"""Waking the maintenance thread, which every part of the engine may do; and who waits for room."""
from zswap_core.os cimport zsw_add_u32, zsw_fence_after_rmw, zsw_futex_wake, zsw_load_u32
from zswap_core.state cimport zsw_engine


cdef inline void maintenance_wake(zsw_engine *e) noexcept nogil:
    zsw_add_u32(&e.work, 1)
    zsw_futex_wake(&e.work, 1)


cdef inline void tell_landing(zsw_engine *e) noexcept nogil:
    """A flight has landed, or the writer has left: the store that waits for room looks again."""
    zsw_add_u32(&e.landings, 1)
    # we see that it waits, or it that `landings` has changed
    zsw_fence_after_rmw()
    if zsw_load_u32(&e.awaited):
        zsw_futex_wake(&e.landings, 1)
