"""Pages come."""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.memory.state cimport zsw_memory


cdef enum:
    NO_ROOM = -201              # beside the codes of Status: nothing can be evicted,
    NO_PAGE = -202              # the page is in no allocation,
    NOT_MAPPED = -203,          # the system had no memory for it,
    GONE = -205                 # the program that has it has ended


cdef int memory_fault(zsw_memory *m, uint64_t page, uint32_t how) noexcept nogil
cdef uint32_t fetch_span(zsw_memory *m, uint64_t first, uint32_t n, int *rc) noexcept nogil
