"""A memory that programs have: which there are, and what they ask for."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from zswap_core.memory.state cimport zsw_memory


cdef extern from "zswap/program.h" nogil:
    const uint32_t ZSW_PROGRAM_PART
    cdef enum zsw_what:
        ZSW_ALLOCATE
        ZSW_GROW
        ZSW_FREE
        ZSW_GIVE_UP
        ZSW_PIN
        ZSW_UNPIN
        ZSW_EVICT
        ZSW_HINT
    ctypedef struct zsw_request "struct zsw_request":
        uint32_t what
        uint32_t hint
        uint64_t first
        uint64_t pages
        uint64_t more
    ctypedef struct zsw_reply "struct zsw_reply":
        int64_t value
        uint64_t stale


cdef int program_join(zsw_memory *m, int fd, int file, uint64_t base) noexcept nogil
cdef void program_leave(zsw_memory *m, uint32_t which) noexcept nogil
cdef void program_ask(zsw_memory *m, uint32_t which, const zsw_request *q,
                      zsw_reply *r) noexcept nogil
cdef bint program_is_alive(const zsw_memory *m, uint32_t which) noexcept nogil
