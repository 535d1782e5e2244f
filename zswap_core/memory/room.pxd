"""Room below the budget for pages that come."""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.memory.state cimport zsw_memory


cdef uint64_t metadata_of(zsw_memory *m) noexcept nogil
cdef void set_room(zsw_memory *m) noexcept nogil
cdef uint64_t low_mark(const zsw_memory *m) noexcept nogil
cdef uint64_t high_mark(const zsw_memory *m) noexcept nogil
cdef uint32_t take_room(zsw_memory *m, uint32_t most, uint32_t how) noexcept nogil
cdef void leave_room(zsw_memory *m, uint64_t pages) noexcept nogil
cdef void kick(zsw_memory *m) noexcept nogil
cdef uint64_t pins_of(const zsw_memory *m) noexcept nogil
cdef uint64_t lasting_room(const zsw_memory *m, uint64_t budget) noexcept nogil
cdef bint promise_pins(zsw_memory *m, uint64_t pages) noexcept nogil
