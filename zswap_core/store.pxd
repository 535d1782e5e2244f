# cython: language_level=3
"""Store."""
from libc.stdint cimport uint32_t, uint64_t, uint8_t

from zswap_core.state cimport zsw_engine, zsw_worker


cdef int store_page(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset,
                    const uint8_t *page, bint absent) noexcept nogil
cdef int engine_store(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset,
                      const uint8_t *page) noexcept nogil
