"""Parts of pages: read, or written over what a page holds.

A part that is stored makes a new page of the old one, in memory of the worker's, and that takes the
old one's place only if this is still what was read; else it begins again.  So of two parts of one
page none is lost, and whoever loads the page finds all of a part or nothing.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from zswap_core.entries cimport find_entry, put_entry
from zswap_core.entry cimport is_backed, is_entry
from zswap_core.index cimport area_shard, SHARD_SHIFT, zsw_area, zsw_shard
from zswap_core.load cimport (
    engine_load, hold_entry, LOAD_ALONE, LOAD_NO_WAIT, load_page, LOAD_ZEROS, OPTIMISTIC_READS,
    read_entry,
)
from zswap_core.lookup cimport find_area
from zswap_core.os cimport zsw_lock, zsw_sleep_ns, zsw_unlikely, zsw_unlock, zsw_wipe
from zswap_core.slots cimport CHANGED, TRANSIT_NS, zsw_held
from zswap_core.state cimport zsw_engine, zsw_worker
from zswap_core.status cimport Status
from zswap_core.store cimport count_refusal, store_page
from zswap_core.transit cimport AGAIN, read_backed, writing_begin, writing_end
from zswap_core.worker cimport worker_page


cdef void let_go(zsw_engine *e, zsw_worker *w, const zsw_held *held) noexcept nogil:
    if is_entry(held.id) and not held.same:
        put_entry(e, w, held.id)


cdef int try_read(zsw_engine *e, zsw_worker *w, zsw_area *area, zsw_shard *shard, uint64_t offset,
                  uint8_t *page, bint no_wait, zsw_held *held) noexcept nogil:
    """As read_held_page, once.  AGAIN: it is in transit, was overtaken, or all references are
    out."""
    cdef int status
    cdef bint taken
    zsw_lock(&shard.lock)
    held.shard, held.same = shard, False
    held.id = find_entry(e, shard, offset)
    taken = is_entry(held.id) and hold_entry(e, w, shard, held.id, held)
    zsw_unlock(&shard.lock)
    if taken:
        status = read_entry(e, w, held, page)
        if zsw_unlikely(status < 0):
            let_go(e, w, held)
        return status
    if held.id == 0:
        return Status.ABSENT
    if no_wait:
        return Status.WOULD_BLOCK
    if is_backed(held.id):
        status = read_backed(e, w, area, shard, offset, held.id, page, False)
        held.size = w.size
        return status
    zsw_sleep_ns(TRANSIT_NS)
    return AGAIN


cdef int read_held_page(zsw_engine *e, zsw_worker *w, zsw_area *area, uint64_t offset,
                        uint8_t *page, bint no_wait, zsw_held *held) noexcept nogil:
    """Reads the page that another is to take the place of, wherever it is, and says in `held` what
    that is: to be let go of where the status is not negative."""
    cdef zsw_shard *shard = area_shard(&e.index, area, offset >> SHARD_SHIFT)
    cdef int status = Status.ABSENT, tries = 0
    cdef bint alone
    held.shard, held.id, held.same = shard, 0, False
    while shard != NULL:
        # Overtaken often, it keeps writers to the backing store away.
        alone = tries >= OPTIMISTIC_READS and writing_begin(e)
        status = try_read(e, w, area, shard, offset, page, no_wait, held)
        if alone:
            writing_end(e)
        if status != AGAIN:
            break
        tries += 1
    return status


cdef int exchange_part(zsw_engine *e, zsw_worker *w, zsw_area *area, uint64_t offset, uint32_t at,
                       uint32_t n, const void *data, uint32_t how, uint8_t *page) noexcept nogil:
    """Makes the page with the part in it, and stores it in place of the one without."""
    cdef zsw_held held
    cdef int status
    while True:
        status = read_held_page(e, w, area, offset, page, how & LOAD_NO_WAIT, &held)
        if status == Status.ABSENT and how & LOAD_ZEROS:
            memset(page, 0, e.page_size)
            w.size = e.page_size
        elif status < 0:
            return status
        if zsw_unlikely(at + n > w.size):
            let_go(e, w, &held)
            return BEYOND
        memcpy(page + at, data, n)
        status = store_page(e, w, area.type, offset, page, &held)
        let_go(e, w, &held)
        if status != CHANGED:
            return status


cdef int engine_store_part(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset,
                           uint32_t at, uint32_t n, const void *data, uint32_t how) noexcept nogil:
    """Writes `n` bytes over what the page holds from `at` on: the Status of the page, as of a store
    of it, or of a load where it could not be read.  When it is negative the page is as it was, but
    for BACKING_FAIL: where the store was to take the page nothing is held any more.  `how` is
    LOAD_NO_WAIT and LOAD_ZEROS."""
    cdef zsw_area *area = find_area(e, type, offset)
    cdef uint8_t *page
    cdef int status
    if area == NULL:
        count_refusal(w, Status.NO_AREA)
        return Status.NO_AREA
    page = worker_page(e, w)
    if zsw_unlikely(page == NULL):
        return Status.ALLOC_FAIL
    status = exchange_part(e, w, area, offset, at, n, data, how, page)
    if zsw_unlikely(e.params.wipe_on_free):
        zsw_wipe(page, e.page_size)
    return status


cdef int engine_load_part(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset, uint32_t at,
                          uint32_t n, void *data, uint32_t how) noexcept nogil:
    """As engine_load, for `n` bytes of the page from `at` on; when the status is negative `data` is
    as it was."""
    cdef uint8_t *page = worker_page(e, w)
    cdef zsw_area *area = find_area(e, type, offset)
    cdef int status
    if zsw_unlikely(page == NULL):
        return Status.ALLOC_FAIL
    if area != NULL and zsw_unlikely(area.variable):
        # nothing is taken away whose length is to be looked at first
        status = load_page(e, w, type, offset, page, how | LOAD_ALONE)
    else:
        status = engine_load(e, w, type, offset, page, how)
    if status >= 0 and zsw_unlikely(at + n > w.size):
        status = BEYOND
    if status >= 0:
        memcpy(data, page + at, n)
    if zsw_unlikely(e.params.wipe_on_free):
        zsw_wipe(page, e.page_size)
    return status
