"""Batches: many pages a call, shared among threads.

`count` pages lie at `pages`, one after another.  Each gets its Status, and its nanoseconds unless
`ns` is NULL.  Stores and loads return how a backing store failed with the first page that is
BACKING_FAIL, -errno.
"""
from libc.stdint cimport int8_t, uint8_t, uint32_t, uint64_t

from zswap_core.state cimport zsw_engine, zsw_worker
from zswap_core.stats cimport count


cdef int engine_store_many(zsw_engine *e, zsw_worker *w, uint32_t type, const uint64_t *offsets,
                           const uint8_t *pages, uint64_t count, int threads, int8_t *status,
                           uint32_t *ns) noexcept nogil
cdef int engine_load_many(zsw_engine *e, zsw_worker *w, uint32_t type, const uint64_t *offsets,
                          uint8_t *pages, uint64_t count, int threads, int8_t *status,
                          uint32_t *ns) noexcept nogil
cdef uint64_t engine_invalidate_many(zsw_engine *e, zsw_worker *w, uint32_t type,
                                     const uint64_t *offsets, uint64_t count) noexcept nogil
