"""Whole calls about one small page of area 0: begun, done and ended, for who has nothing else to do
in between."""
from libc.stdint cimport uint8_t, uint64_t

from zswap_core.os cimport zsw_wipe
from zswap_core.state cimport zsw_engine


cdef enum:
    SMALL = 4096                # bytes


cdef inline void wipe(zsw_engine *e, uint8_t *page) noexcept nogil:
    """For what was copied here, if it is to be."""
    if e.params.wipe_on_free:
        zsw_wipe(page, SMALL)


# Each returns a status; -1 where there is no call to be had.
cdef int single_store(zsw_engine *e, uint64_t offset, const char *data,
                      size_t length) noexcept nogil
cdef int single_load(zsw_engine *e, uint64_t offset, uint8_t *page, size_t length) noexcept nogil
cdef int single_free(zsw_engine *e, uint64_t offset) noexcept nogil
