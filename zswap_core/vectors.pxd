"""Several buffers as one row of bytes, stored in and loaded from pages that follow one another."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from zswap_core.state cimport zsw_engine, zsw_worker


cdef enum:
    # in one call, which nothing can interrupt: a tenth of a second or so
    VECTOR_PAGES = 16384


cdef struct zsw_buffer:
    uint8_t *data
    size_t bytes


cdef struct zsw_vector:
    const zsw_buffer *buffers
    size_t count
    uint64_t pages              # that all of them fill, the last one in part perhaps
    # where the walk along them is
    size_t number
    size_t at


# What a page has become that is stored, but not yet held.
cdef struct zsw_made:
    uint32_t id                 # 0: it was refused, and is for the backing store
    uint32_t sum
    int64_t paid                # of its area's quota


cdef int vector_init(const zsw_engine *e, zsw_vector *v, const zsw_buffer *buffers,
                     size_t count) noexcept nogil
cdef int engine_storev(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t first, zsw_vector *v,
                       zsw_made *made, uint64_t *failed) noexcept nogil
cdef int engine_loadv(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t first, zsw_vector *v,
                      uint32_t how, uint64_t *failed) noexcept nogil
