# cython: language_level=3
"""Waking the maintenance thread, which every part of the engine may do."""
from zswap_core.os cimport zsw_add_u32, zsw_futex_wake
from zswap_core.state cimport zsw_engine


cdef inline void maintenance_wake(zsw_engine *e) noexcept nogil:
    zsw_add_u32(&e.work, 1)
    zsw_futex_wake(&e.work, 1)
