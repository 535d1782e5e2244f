"""A call begins and ends."""
from zswap_core.state cimport zsw_engine, zsw_worker


cdef zsw_worker *engine_enter(zsw_engine *e, int *rc) noexcept nogil
cdef zsw_worker *engine_enter_ready(zsw_engine *e, int *rc) noexcept nogil
cdef void engine_leave(zsw_engine *e, zsw_worker *w) noexcept nogil
