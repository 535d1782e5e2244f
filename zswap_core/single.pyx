"""Whole calls about one small page of area 0: begun, done and ended."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from zswap_core.calls cimport engine_enter, engine_leave
from zswap_core.invalidate cimport engine_invalidate
from zswap_core.load cimport LOAD_NO_WAIT, load_page
from zswap_core.state cimport zsw_engine, zsw_worker
from zswap_core.store cimport engine_store


cdef int single_store(zsw_engine *e, uint64_t offset, const char *data,
                      size_t length) noexcept nogil:
    """Stores at most SMALL bytes, and zeros behind them."""
    cdef uint8_t page[SMALL]
    cdef int rc = 0
    cdef zsw_worker *w = engine_enter(e, &rc)
    if w == NULL:
        return -1
    memcpy(page, data, length)
    memset(page + length, 0, SMALL - length)
    w.padded, w.padded_from = page, <uint32_t> length
    rc = engine_store(e, w, 0, offset, page)
    w.padded = NULL
    engine_leave(e, w)
    wipe(e, page)
    return rc


cdef int single_load(zsw_engine *e, uint64_t offset, uint8_t *page, size_t length) noexcept nogil:
    """Loads the first bytes of a page that stays held, if that needs no waiting.  What is behind
    them is undefined."""
    cdef int rc = 0
    cdef zsw_worker *w = engine_enter(e, &rc)
    if w == NULL:
        return -1
    if not e.index.checksums:           # which are of whole pages
        w.padded, w.padded_from = page, <uint32_t> length
    rc = load_page(e, w, 0, offset, page, LOAD_NO_WAIT)
    w.padded = NULL
    engine_leave(e, w)
    return rc


cdef int single_free(zsw_engine *e, uint64_t offset) noexcept nogil:
    cdef int rc = 0
    cdef zsw_worker *w = engine_enter(e, &rc)
    if w == NULL:
        return -1
    engine_invalidate(e, w, 0, offset, offset)
    engine_leave(e, w)
    return 0
