# cython: language_level=3
"""What tests need: validate(), and to make pages old."""
from libc.stdint cimport uint32_t, uint64_t, uint8_t

from zswap_core.state cimport zsw_engine


# Where the check failed.
cdef struct zsw_finding:
    const char *zpool           # whose number it is, when an allocator's
    uint64_t place              # the entry, offset, area, pool or object, see findings.py


cdef int engine_validate(zsw_engine *e, zsw_finding *out) noexcept nogil
cdef void engine_age(zsw_engine *e, uint32_t seconds) noexcept nogil
cdef uint8_t *engine_object(zsw_engine *e, uint32_t type, uint64_t offset, uint32_t *length) noexcept nogil
