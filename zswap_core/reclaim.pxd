"""Reclaim: a store that meets the limit makes room before it is refused."""
from libc.stdint cimport uint64_t

from zswap_core.state cimport zsw_engine, zsw_worker


cdef int admit(zsw_engine *e, zsw_worker *w) noexcept nogil
cdef uint64_t pages_above(zsw_engine *e, uint64_t goal) noexcept nogil
