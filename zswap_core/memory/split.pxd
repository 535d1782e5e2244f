"""How the budget is divided between resident pages and the pool."""
from libc.stdint cimport uint64_t

from zswap_core.memory.state cimport zsw_memory, zsw_slot


cdef void split_begin(zsw_memory *m, uint64_t pool_pages) noexcept nogil
cdef void split_note(zsw_memory *m, zsw_slot *slot, uint64_t ns, bint backed) noexcept nogil
cdef void split_look(zsw_memory *m, uint64_t pool_pages, uint64_t stored) noexcept nogil
cdef void split_move(zsw_memory *m) noexcept nogil
cdef void split_scale(zsw_memory *m, uint64_t before, uint64_t budget) noexcept nogil
