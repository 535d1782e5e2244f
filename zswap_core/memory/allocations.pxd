"""What is allocated in a memory."""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.memory.state cimport zsw_memory


cdef int memory_allocate(zsw_memory *m, uint64_t pages, uint64_t *first) noexcept nogil
cdef int memory_take(zsw_memory *m, uint64_t pages, bint zeros, uint64_t *first) noexcept nogil
cdef uint64_t memory_size(const zsw_memory *m, uint64_t first) noexcept nogil
cdef int memory_free(zsw_memory *m, uint64_t first) noexcept nogil
cdef void memory_keep(zsw_memory *m, uint64_t first) noexcept nogil
cdef uint64_t forget(zsw_memory *m, uint64_t first, uint64_t pages, uint32_t word) noexcept nogil
cdef bint release_stalest(zsw_memory *m) noexcept nogil
cdef uint64_t release_idle(zsw_memory *m, uint32_t epochs) noexcept nogil
