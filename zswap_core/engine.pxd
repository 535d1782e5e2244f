"""An engine's life."""
from libc.stdint cimport uint32_t

from zswap_core.state cimport zsw_engine


cdef int engine_create(uint32_t page_size, zsw_engine **out) noexcept nogil
cdef int engine_close(zsw_engine *e) noexcept nogil
cdef void engine_free(zsw_engine *e) noexcept nogil
