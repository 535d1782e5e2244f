"""Streams: pages that single loads will want next, read with the one that was asked for."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zswap_core.index cimport zsw_area, zsw_shard
from zswap_core.state cimport zsw_engine, zsw_worker


cdef bint stream_load(zsw_engine *e, zsw_worker *w, zsw_area *area, zsw_shard *shard,
                      uint64_t offset, uint32_t seen, uint8_t *page, bint wait) noexcept nogil
cdef void streams_rest(zsw_engine *e) noexcept nogil
cdef bint streams_at_rest(zsw_engine *e) noexcept nogil
cdef void streams_destroy(zsw_engine *e) noexcept nogil
