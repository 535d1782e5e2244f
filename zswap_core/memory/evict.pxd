"""Pages leave: compared or stored, and dropped."""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.memory.state cimport zsw_memory
from zswap_core.state cimport zsw_worker


cdef uint32_t evict_part(zsw_memory *m, zsw_worker *w, uint64_t part, uint64_t among,
                         bint force) noexcept nogil
cdef uint64_t evict_some(zsw_memory *m, uint64_t wanted) noexcept nogil
