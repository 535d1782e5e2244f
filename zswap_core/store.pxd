"""Store."""
from libc.stdint cimport int8_t, int64_t, uint8_t, uint32_t, uint64_t

from zswap_core.index cimport RUN_PAGES, zsw_area
from zswap_core.slots cimport zsw_held
from zswap_core.state cimport zsw_engine, zsw_worker


cdef enum:
    STORES_TOGETHER = RUN_PAGES     # at most,
    PUBLISHED_TOGETHER = 16             # of which so many are published under one lock
    THROUGH_BYTES = 1 << 18             # and so many bytes are written through together


# A page that can be published.
cdef struct zsw_ready:
    uint64_t offset
    uint64_t word                   # a same-filled page is
    uint32_t id                     # its entry, which nobody knows yet; 0: it is same-filled
    uint32_t sum
    uint32_t at                     # which of a batch it is


# A page of a batch that was refused.
cdef struct refused_page:
    uint64_t offset
    uint32_t at


# Stores of a batch, on their way.
cdef struct together:
    zsw_engine *e
    zsw_worker *w
    zsw_area *area                  # of those pages:
    zsw_ready ready[PUBLISHED_TOGETHER]
    refused_page refused[STORES_TOGETHER]
    uint32_t count                  # ready, side by side
    uint32_t refusals
    uint32_t most                   # of them
    const uint8_t *pages
    int8_t *status
    uint64_t *took                  # or NULL
    uint64_t since


cdef enum:
    UNPAID = -1                     # the area's quota has yet to be asked


cdef int place_entry(zsw_engine *e, zsw_worker *w, zsw_area *area, uint64_t offset,
                     const zsw_held *only, uint32_t id, uint32_t sum, int64_t paid) noexcept nogil
cdef int make_same_filled(zsw_engine *e, zsw_worker *w, uint64_t value, uint32_t *id) noexcept nogil
cdef int prepare_page(zsw_engine *e, zsw_worker *w, const zsw_area *area, const uint8_t *page,
                      zsw_ready *ready, together *batch) noexcept nogil
cdef void count_refusal(zsw_worker *w, int status) noexcept nogil
cdef int store_page(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset,
                    const uint8_t *page, const zsw_held *only) noexcept nogil
cdef int engine_store(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset,
                      const uint8_t *page) noexcept nogil
cdef int engine_replace(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset,
                        const uint8_t *page) noexcept nogil
cdef void engine_store_together(zsw_engine *e, zsw_worker *w, uint32_t type,
                                const uint64_t *offsets, uint32_t pages, const uint8_t *page,
                                int8_t *status, uint64_t *took) noexcept nogil
