"""Values of 1 to page_size bytes, in areas that are variable.

A value is a page that ends in zeros, and its length lies beside the index, as a checksum does: so
it is the same wherever the page is.  What is compressed ends where the zeros begin (trim_zeros),
and so does the object.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from zswap_core.index cimport zsw_area
from zswap_core.load cimport LOAD_ALONE, load_page, LOAD_TAKE
from zswap_core.lookup cimport find_area
from zswap_core.os cimport zsw_unlikely, zsw_wipe
from zswap_core.slots cimport zsw_held
from zswap_core.state cimport zsw_engine, zsw_worker
from zswap_core.status cimport Status
from zswap_core.store cimport count_refusal, store_page
from zswap_core.worker cimport worker_page


cdef zsw_area *find_variable(zsw_engine *e, uint32_t type, uint64_t offset) noexcept nogil:
    cdef zsw_area *area = find_area(e, type, offset)
    return area if area != NULL and area.variable else NULL


cdef int engine_store_value(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset,
                            const uint8_t *data, uint32_t n, const zsw_held *only) noexcept nogil:
    """As store_page, of a value of `n` bytes, 1 to a page.  NO_AREA also where the area is not
    variable."""
    cdef uint8_t *page
    cdef int status
    if zsw_unlikely(find_variable(e, type, offset) == NULL):
        count_refusal(w, Status.NO_AREA)
        return Status.NO_AREA
    if n == e.page_size:
        return store_page(e, w, type, offset, data, only)
    page = worker_page(e, w)
    if zsw_unlikely(page == NULL):
        return Status.ALLOC_FAIL
    memcpy(page, data, n)
    memset(page + n, 0, e.page_size - n)
    w.size = n
    status = store_page(e, w, type, offset, page, only)
    w.size = e.page_size
    if zsw_unlikely(e.params.wipe_on_free):
        zsw_wipe(page, n)
    return status


cdef int engine_load_value(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset,
                           uint8_t *out, uint32_t *n, uint32_t how) noexcept nogil:
    """As load_page, of a value, which may have `n` bytes; how many there are is in `n` then.
    TOO_SMALL: they are more, or could be and the load would have freed it; it is as it was.  What
    `out` has behind the value is undefined."""
    cdef uint32_t room = n[0]
    cdef uint8_t *page = out
    cdef int status
    if room < e.page_size:
        if how & LOAD_TAKE:
            n[0] = e.page_size
            return TOO_SMALL
        page = worker_page(e, w)
        if zsw_unlikely(page == NULL):
            return Status.ALLOC_FAIL
    status = load_page(e, w, type, offset, page, how | LOAD_ALONE)
    if status >= 0:
        n[0] = w.size
    if status >= 0 and page != out:
        if w.size > room:
            status = TOO_SMALL
        else:
            memcpy(out, page, w.size)
    if zsw_unlikely(e.params.wipe_on_free) and page != out:
        zsw_wipe(page, e.page_size)
    return status
