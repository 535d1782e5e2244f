"""Values of 1 to page_size bytes, in areas that are variable."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zswap_core.slots cimport zsw_held
from zswap_core.state cimport zsw_engine, zsw_worker


cdef enum:
    TOO_SMALL = -103            # no status: there is less room than the value has bytes


cdef int engine_store_value(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset,
                            const uint8_t *data, uint32_t n, const zsw_held *only) noexcept nogil
cdef int engine_load_value(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset,
                           uint8_t *out, uint32_t *n, uint32_t how) noexcept nogil
