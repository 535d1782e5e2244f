"""Fault sites: whether the one that was reached is to fail."""
from libc.stdint cimport uint32_t

from zswap_core.os cimport zsw_add_u32, zsw_load_u32


cdef int fault_hit(Site site) noexcept nogil:
    cdef zsw_fault *f = &faults[<int> site]
    cdef uint32_t hit = zsw_add_u32(&f.hits, 1)
    return -f.error if zsw_load_u32(&f.first) <= hit < zsw_load_u32(&f.end) else 0
