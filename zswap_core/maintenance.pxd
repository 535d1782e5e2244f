"""The maintenance thread: frees emptied pools, and shrinks."""
from libc.stdint cimport uint64_t

from zswap_core.state cimport zsw_engine


cdef int maintenance_start(zsw_engine *e) noexcept nogil
cdef void maintenance_stop(zsw_engine *e) noexcept nogil
cdef void shrink_at_limit(zsw_engine *e, uint64_t *left) noexcept nogil
