# cython: language_level=3
"""validate()."""
from zswap_core.state cimport zsw_engine


cdef int engine_validate(zsw_engine *e) noexcept nogil
