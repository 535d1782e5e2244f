"""Compaction."""
from libc.stdint cimport uint64_t

from zswap_core.state cimport zsw_engine, zsw_worker


cdef uint64_t engine_compact(zsw_engine *e, zsw_worker *w) noexcept nogil
