"""Parts of pages: read, or written over what a page holds."""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.state cimport zsw_engine, zsw_worker


cdef enum:
    BEYOND = -102               # no status: the part does not lie in the value


cdef int engine_load_part(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset, uint32_t at,
                          uint32_t n, void *data, uint32_t how) noexcept nogil
cdef int engine_store_part(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset,
                           uint32_t at, uint32_t n, const void *data, uint32_t how) noexcept nogil


cdef inline bint in_page(const zsw_engine *e, uint64_t at, uint64_t n) noexcept nogil:
    """Whether `n` bytes from `at` on are a part of a page."""
    return at <= e.page_size and n <= e.page_size - at
