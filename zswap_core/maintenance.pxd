# cython: language_level=3
"""The maintenance thread: frees emptied pools, and shrinks."""
from zswap_core.os cimport zsw_add_u32, zsw_futex_wake
from zswap_core.state cimport zsw_engine


cdef int maintenance_start(zsw_engine *e) noexcept nogil
cdef void maintenance_stop(zsw_engine *e) noexcept nogil


cdef inline void maintenance_wake(zsw_engine *e) noexcept nogil:
    zsw_add_u32(&e.work, 1)
    zsw_futex_wake(&e.work, 1)
