"""Several buffers as one row of bytes, stored in and loaded from pages that follow one another.

A store first makes an entry of each page, which nobody knows yet, and only then puts them in place
of what is held.  What can be refused is refused before anything has changed.
"""
from libc.errno cimport E2BIG
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from zswap_core.entries cimport free_entry
from zswap_core.index cimport zsw_area
from zswap_core.invalidate cimport invalidate_area
from zswap_core.load cimport load_page
from zswap_core.lookup cimport find_area
from zswap_core.os cimport zsw_likely, zsw_peek_i64, zsw_unlikely, zsw_wipe
from zswap_core.quota cimport charge, refund, slot_bytes
from zswap_core.reclaim cimport make_room_in
from zswap_core.state cimport zsw_engine, zsw_worker
from zswap_core.status cimport Status
from zswap_core.store cimport count_refusal, make_same_filled, place_entry, prepare_page, zsw_ready
from zswap_core.transit cimport write_through
from zswap_core.worker cimport worker_page


cdef enum Move:
    GATHER
    SCATTER
    PASS


cdef int vector_init(const zsw_engine *e, zsw_vector *v, const zsw_buffer *buffers,
                     size_t count) noexcept nogil:
    """0, or -E2BIG: they fill more than VECTOR_PAGES."""
    cdef uint64_t bytes = 0, most = <uint64_t> VECTOR_PAGES * e.page_size
    cdef size_t i
    for i in range(count):
        if buffers[i].bytes > most - bytes:
            return -E2BIG
        bytes += buffers[i].bytes
    v.buffers, v.count, v.number, v.at = buffers, count, 0, 0
    v.pages = (bytes + e.page_size - 1) // e.page_size
    return 0


cdef size_t walk(zsw_vector *v, uint8_t *page, size_t size, Move move) noexcept nogil:
    """Goes on along the buffers by so many bytes, or to their end, and copies them to the page or
    from there; returns how many they were."""
    cdef const zsw_buffer *buffer
    cdef size_t n, done = 0
    while done < size and v.number < v.count:
        buffer = &v.buffers[v.number]
        n = min(size - done, buffer.bytes - v.at)
        if n != 0 and move == GATHER:           # of a buffer without bytes the address may be NULL
            memcpy(page + done, buffer.data + v.at, n)
        elif n != 0 and move == SCATTER:
            memcpy(buffer.data + v.at, page + done, n)
        done += n
        v.at += n
        if v.at == buffer.bytes:
            v.number += 1
            v.at = 0
    return done


cdef uint8_t *whole(const zsw_vector *v, size_t size) noexcept nogil:
    """Where the next page lies, if it is in one buffer; else NULL."""
    if v.number == v.count or v.buffers[v.number].bytes - v.at < size:
        return NULL
    return v.buffers[v.number].data + v.at


cdef void gather(zsw_vector *v, uint8_t *page, size_t size) noexcept nogil:
    cdef size_t filled = walk(v, page, size, GATHER)
    memset(page + filled, 0, size - filled)


cdef void drop(zsw_engine *e, zsw_worker *w, zsw_area *area, const zsw_made *made,
               uint64_t pages) noexcept nogil:
    """Frees entries that nobody knows."""
    cdef uint64_t i
    for i in range(pages):
        if made[i].id != 0:
            free_entry(e, w, made[i].id)
            refund(area, made[i].paid)


cdef bint pay(zsw_engine *e, zsw_worker *w, zsw_area *area, zsw_made *made) noexcept nogil:
    """Charges the area for an entry that is not in place yet."""
    cdef int64_t bytes
    if zsw_likely(zsw_peek_i64(&area.quota) < 0):
        return True
    bytes = slot_bytes(e, made.id)
    if not charge(area, bytes, 0) and not (make_room_in(e, w, area, bytes)
                                           and charge(area, bytes, 0)):
        return False
    made.paid = bytes
    return True


cdef int make_all(zsw_engine *e, zsw_worker *w, zsw_area *area, zsw_vector *v, zsw_made *made,
                  uint64_t *failed) noexcept nogil:
    """Makes an entry of each page.  Where there is a backing store, those that are refused are left
    to it."""
    cdef zsw_ready ready
    cdef uint8_t *page
    cdef int status
    cdef uint64_t i
    for i in range(v.pages):
        page = whole(v, e.page_size)
        if page != NULL:
            walk(v, NULL, e.page_size, PASS)
        else:
            page = w.page
            gather(v, page, e.page_size)
        status = prepare_page(e, w, area, page, &ready, NULL)
        if status == Status.SAME_FILLED:
            status = make_same_filled(e, w, ready.word, &ready.id)
        made[i].id, made[i].sum, made[i].paid = ready.id if status >= 0 else 0, ready.sum, 0
        if status >= 0 and zsw_unlikely(not pay(e, w, area, &made[i])):
            free_entry(e, w, made[i].id)
            made[i].id = 0
            status = Status.AREA_QUOTA
        if zsw_unlikely(status < 0):
            count_refusal(w, status)
        if zsw_unlikely(status < 0) and area.backing == NULL:
            drop(e, w, area, made, i)
            failed[0] = i
            return status
    return Status.STORED


cdef int hold_all(zsw_engine *e, zsw_worker *w, zsw_area *area, uint64_t first, zsw_vector *v,
                  const zsw_made *made, uint64_t *failed) noexcept nogil:
    """Puts the pages in place of what is held.  If one fails now, none of them is held."""
    cdef int status
    cdef uint64_t i
    v.number = v.at = 0
    for i in range(v.pages):
        if made[i].id != 0:
            walk(v, NULL, e.page_size, PASS)
            status = place_entry(e, w, area, first + i, NULL, made[i].id, made[i].sum,
                                 made[i].paid)
        else:                       # no lock may be held while the caller's memory is touched
            gather(v, w.page, e.page_size)
            status = write_through(e, w, area, first + i, w.page, NULL)
        if zsw_unlikely(status < 0):
            drop(e, w, area, made + i + 1, v.pages - i - 1)
            invalidate_area(e, w, area, first, first + v.pages - 1)
            failed[0] = i
            return status
    return Status.STORED


cdef int engine_storev(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t first, zsw_vector *v,
                       zsw_made *made, uint64_t *failed) noexcept nogil:
    """Stores the buffers from page `first` on, the last page filled up with zeros: STORED, or the
    Status of the page that `failed`, counted from 0.  Then all is as it was; but where the backing
    store failed, the area went offline or the index found no memory, none of the pages is held.
    `made` has room for one each."""
    cdef zsw_area *area = find_area(e, type, first)
    cdef int status
    failed[0] = 0
    if v.pages == 0:
        return Status.STORED
    if area == NULL or find_area(e, type, first + v.pages - 1) == NULL:
        failed[0] = 0 if area == NULL else v.pages - 1
        count_refusal(w, Status.NO_AREA)
        return Status.NO_AREA
    if worker_page(e, w) == NULL:
        return Status.ALLOC_FAIL
    status = make_all(e, w, area, v, made, failed)
    if status >= 0:
        status = hold_all(e, w, area, first, v, made, failed)
    if zsw_unlikely(e.params.wipe_on_free):
        zsw_wipe(w.page, e.page_size)
    return status


cdef int engine_loadv(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t first, zsw_vector *v,
                      uint32_t how, uint64_t *failed) noexcept nogil:
    """Loads what engine_storev stored into buffers, and leaves it held, whatever `exclusive_loads`
    says: if a page failed, the ones before would be lost.  Then the content of the buffers is
    undefined."""
    cdef uint8_t *page
    cdef int status = Status.STORED
    cdef uint64_t i
    failed[0] = 0
    if v.pages and worker_page(e, w) == NULL:
        return Status.ALLOC_FAIL
    for i in range(v.pages):
        page = whole(v, e.page_size)
        status = load_page(e, w, type, first + i, page if page != NULL else w.page, how)
        if zsw_unlikely(status < 0):
            failed[0] = i
            break
        walk(v, w.page, e.page_size, SCATTER if page == NULL else PASS)
    if zsw_unlikely(e.params.wipe_on_free) and v.pages:
        zsw_wipe(w.page, e.page_size)
    return min(status, <int> Status.STORED)
