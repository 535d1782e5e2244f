"""Invalidate: a page, a range, an area."""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.index cimport zsw_area
from zswap_core.state cimport zsw_engine, zsw_worker


cdef uint64_t engine_invalidate(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t first,
                                uint64_t last) noexcept nogil
cdef uint64_t invalidate_area(zsw_engine *e, zsw_worker *w, zsw_area *area, uint64_t first,
                              uint64_t last) noexcept nogil
