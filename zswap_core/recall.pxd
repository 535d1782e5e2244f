"""Recall: what the backing store has of a range becomes resident again, before it is asked for."""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.state cimport zsw_engine, zsw_worker


cdef uint64_t engine_recall(zsw_engine *e, zsw_worker *w, uint64_t pages, uint32_t type,
                            uint64_t *first, uint64_t last) noexcept nogil
