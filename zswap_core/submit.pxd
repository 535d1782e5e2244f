"""Requests: loads and stores that are submitted, and completed by a thread of the engine's."""
from zswap_core.state cimport zsw_engine, zsw_worker
from zswap_core.zswap cimport zswap_request


cdef int engine_submit(zsw_engine *e, zsw_worker *w, zswap_request *request) noexcept nogil
cdef bint serves_requests(const zsw_engine *e) noexcept nogil
cdef void requests_stop(zsw_engine *e) noexcept nogil
cdef void requests_destroy(zsw_engine *e) noexcept nogil
