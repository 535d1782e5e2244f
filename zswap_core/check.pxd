# cython: language_level=3
"""What tests need: validate(), and to make pages old."""
from libc.stdint cimport uint32_t, uint64_t, uint8_t

from zswap_core.state cimport zsw_engine


cdef int engine_validate(zsw_engine *e) noexcept nogil
cdef void engine_age(zsw_engine *e, uint32_t seconds) noexcept nogil
cdef uint8_t *engine_object(zsw_engine *e, uint32_t type, uint64_t offset, uint32_t *length) noexcept nogil
