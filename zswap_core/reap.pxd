"""What calls leave behind and the last of them clears away."""
from zswap_core.os cimport zsw_peek_u32
from zswap_core.state cimport GRACE_INDEX, zsw_engine, zsw_worker


cdef void reap(zsw_engine *e, zsw_worker *w) noexcept nogil


cdef inline bint reap_is_due(zsw_engine *e, zsw_worker *w) noexcept nogil:
    return zsw_peek_u32(&w.awaited[<int> GRACE_INDEX]) != 0 or zsw_peek_u32(&e.index.reap_due) != 0
