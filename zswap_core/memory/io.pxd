"""System calls about pages that may not be there."""
from zswap_core.memory.state cimport zsw_memory


cdef void io_watch(zsw_memory *m, void *python) noexcept nogil
cdef void io_look() noexcept nogil
