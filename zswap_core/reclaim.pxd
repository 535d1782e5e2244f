"""Reclaim: a store that meets the limit makes room before it is refused."""
from libc.stdint cimport int64_t, uint64_t

from zswap_core.index cimport zsw_area
from zswap_core.state cimport zsw_engine, zsw_worker


cdef bint make_room_in(zsw_engine *e, zsw_worker *w, zsw_area *area, int64_t bytes) noexcept nogil
cdef int admit(zsw_engine *e, zsw_worker *w) noexcept nogil
cdef uint64_t pages_above(zsw_engine *e, uint64_t goal) noexcept nogil
