"""A memory's threads: one evicts, others read faults."""
from zswap_core.memory.state cimport zsw_memory


cdef int start_threads(zsw_memory *m) noexcept nogil
cdef void stop_threads(zsw_memory *m) noexcept nogil
