# cython: language_level=3
"""What calls leave behind and the last of them clears away."""
from zswap_core.os cimport zsw_peek_u32
from zswap_core.state cimport zsw_engine, zsw_worker


cdef void reap(zsw_engine *e, zsw_worker *w) noexcept nogil


cdef inline bint reap_is_due(zsw_engine *e, zsw_worker *w) noexcept nogil:
    return zsw_peek_u32(&w.reap_awaited) != 0 or zsw_peek_u32(&e.index.reap_due) != 0
