"""A memory's life, and what the owner of an allocation asks."""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.memory.state cimport zsw_hint, zsw_memory, zsw_mode
from zswap_core.state cimport zsw_engine


cdef int memory_open(zsw_engine *e, uint64_t pages, uint64_t budget, uint64_t limit, bint divides,
                     zsw_mode mode, zsw_memory **out) noexcept nogil
cdef void memory_close(zsw_memory *m) noexcept nogil
cdef void settle(zsw_memory *m, uint64_t part) noexcept nogil
cdef int memory_pin(zsw_memory *m, uint64_t first, uint64_t pages) noexcept nogil
cdef int memory_pin_one(zsw_memory *m, uint64_t page) noexcept nogil
cdef void memory_unpin(zsw_memory *m, uint64_t first, uint64_t pages) noexcept nogil
cdef int memory_fetch(zsw_memory *m, uint64_t first, uint64_t pages) noexcept nogil
cdef void memory_bring(zsw_memory *m, uint64_t first, uint64_t pages) noexcept nogil
cdef void memory_evict(zsw_memory *m, uint64_t first, uint64_t pages) noexcept nogil
cdef int memory_give_up(zsw_memory *m, uint64_t first, uint64_t pages) noexcept nogil
cdef void memory_hint(zsw_memory *m, uint64_t first, uint64_t pages, zsw_hint hint) noexcept nogil
cdef int memory_set_budget(zsw_memory *m, uint64_t budget, uint64_t limit) noexcept nogil
