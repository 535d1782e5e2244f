"""SIGBUS: the memories of the process, and whose fault it was."""
from libc.stdint cimport uint64_t

from zswap_core.memory.state cimport zsw_memory


cdef zsw_memory *take_shell() noexcept nogil
cdef void leave_shell(zsw_memory *m) noexcept nogil
cdef void serve_signals(zsw_memory *m) noexcept nogil
cdef void stop_serving(zsw_memory *m) noexcept nogil
cdef zsw_memory *memory_at(uint64_t address) noexcept nogil
cdef int catch_signals() noexcept nogil
cdef void complain(const zsw_memory *m, uint64_t page, uint64_t address, int rc) noexcept nogil
