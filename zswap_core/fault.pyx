"""Fault sites: whether the one that was reached is to fail, or the process to stop there."""
from libc.stdint cimport uint32_t
from posix.signal cimport kill
from posix.unistd cimport getpid

from zswap_core.os cimport zsw_add_u32, zsw_load_u32


cdef extern from "<signal.h>" nogil:
    const int SIGSTOP

cpdef enum:
    # Neither an error number nor a length: the process stops here until a test lets it go on, or
    # kills it.  What such a one leaves behind can be told in no other way.
    STOP = 1 << 30


cdef int fault_hit(Site site) noexcept nogil:
    cdef zsw_fault *f = &faults[<int> site]
    cdef uint32_t hit = zsw_add_u32(&f.hits, 1)
    if not zsw_load_u32(&f.first) <= hit < zsw_load_u32(&f.end):
        return 0
    if f.error == STOP:
        kill(getpid(), SIGSTOP)
        return 0
    return -f.error
