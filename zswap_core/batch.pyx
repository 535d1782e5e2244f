"""Batches: many pages a call, shared among threads."""
from libc.stdint cimport int8_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from zswap_core.budget cimport through_bytes
from zswap_core.calls cimport engine_enter, engine_leave
from zswap_core.fault cimport fault, Site
from zswap_core.invalidate cimport engine_invalidate
from zswap_core.latency cimport latency_record, Timed
from zswap_core.load cimport (
    engine_load, engine_load_together, LOAD_ALONE, load_parked, LOADS_TOGETHER,
)
from zswap_core.os cimport (
    pthread_t, zsw_add_u64, zsw_lock, zsw_mutex, zsw_now_ns, zsw_now_s, zsw_peek_u32,
    zsw_thread_join, zsw_thread_start, zsw_unlikely, zsw_unlock,
)
from zswap_core.params cimport Flag, is_on
from zswap_core.parking cimport parking_end, parking_init, zsw_parking
from zswap_core.state cimport MAX_THREADS, zsw_engine, zsw_worker
from zswap_core.status cimport Status
from zswap_core.store cimport engine_store_together, STORES_TOGETHER, THROUGH_BYTES
from zswap_core.worker cimport free_scratch


cdef enum:
    CHUNK = 64                  # pages a thread takes from the batch at a time


cdef struct batch:
    zsw_engine *e
    Timed timed                     # loads, or stores
    const uint64_t *offsets
    uint8_t *pages
    int8_t *status
    uint32_t *ns
    uint64_t total
    uint64_t next                   # threads take CHUNK pages from here at a time
    uint32_t type
    zsw_mutex failing               # guards these two:
    uint64_t failed_at              # the first page that a backing store failed with,
    int error                       # and how


cdef void note_failure(batch *b, int error, uint64_t at) noexcept nogil:
    zsw_lock(&b.failing)
    if b.error == 0 or at < b.failed_at:
        b.failed_at = at
        b.error = error
    zsw_unlock(&b.failing)


cdef void note_failures(batch *b, zsw_worker *w, uint64_t first, uint32_t pages) noexcept nogil:
    """Notes the first of these pages that a backing store failed with: w.error says how."""
    cdef uint32_t i = 0
    while i < pages and b.status[first + i] != Status.BACKING_FAIL:
        i += 1
    if i < pages:
        note_failure(b, w.error, first + i)
    w.error = 0


cdef void note_times(batch *b, zsw_worker *w, uint64_t first, uint32_t pages, const uint64_t *took,
                     bint recording) noexcept nogil:
    """Tells whoever asked how long each of these pages took."""
    cdef uint32_t k
    for k in range(pages):
        if b.ns != NULL:
            b.ns[first + k] = <uint32_t> took[k] if took[k] >> 32 == 0 else <uint32_t> -1
        if recording and b.status[first + k] >= 0:
            latency_record(&w.latency, zsw_peek_u32(&b.e.latency_epoch), b.timed, took[k])


cdef void end_loads(batch *b, zsw_worker *w, zsw_parking *parking, bint timing,
                    bint recording) noexcept nogil:
    """Loads the pages that were parked; they share the time."""
    cdef uint64_t began = zsw_now_ns() if timing else 0, each, at
    cdef uint32_t i
    load_parked(b.e, w, parking, b.pages, b.status)
    for i in range(parking.count):
        at = parking.pages[i].at
        if zsw_unlikely(b.status[at] == Status.WOULD_BLOCK):
            b.status[at] = <int8_t> engine_load(b.e, w, b.type, parking.pages[i].offset,
                                                b.pages + at * b.e.page_size,
                                                LOAD_ALONE if parking.count > 1 else 0)
            note_failures(b, w, at, 1)
    if timing:
        each = (zsw_now_ns() - began) // parking.count
        for i in range(parking.count):
            note_times(b, w, parking.pages[i].at, 1, &each, recording)
    parking.count = 0


cdef void run_batch(batch *b, zsw_worker *w) noexcept nogil:
    cdef zsw_parking parking
    cdef uint64_t took[STORES_TOGETHER]
    cdef uint64_t i, end
    cdef bint recording = False, timing = False
    cdef uint32_t pages
    parking_init(b.e, &parking)
    while True:
        end = zsw_add_u64(&b.next, CHUNK)
        i = end - CHUNK
        if i >= b.total:
            if parking.count:
                end_loads(b, w, &parking, timing, recording)
            parking_end(b.e, &parking)
            # pages were refused
            if zsw_unlikely(w.scratch_size >= max(through_bytes(b.e, THROUGH_BYTES),
                                                  <uint64_t> 4 * b.e.page_size)):
                free_scratch(w)
            return
        if end > b.total:
            end = b.total
        w.now = zsw_now_s()
        recording = is_on(&b.e.params, Flag.latency)
        timing = recording or b.ns != NULL
        while i < end:
            if b.timed == Timed.load_ns:
                if parking.count and parking.count + LOADS_TOGETHER > parking.most:
                    end_loads(b, w, &parking, timing, recording)
                pages = LOADS_TOGETHER if end - i > LOADS_TOGETHER else <uint32_t> (end - i)
                engine_load_together(b.e, w, b.type, b.offsets + i, pages, b.pages
                                     + i * b.e.page_size, b.status + i, took if timing else NULL,
                                     &parking, i)
            else:
                pages = STORES_TOGETHER if end - i > STORES_TOGETHER else <uint32_t> (end - i)
                engine_store_together(b.e, w, b.type, b.offsets + i, pages,
                                      b.pages + i * b.e.page_size, b.status + i,
                                      took if timing else NULL)
            if zsw_unlikely(w.error != 0):
                note_failures(b, w, i, pages)
            if timing:
                note_times(b, w, i, pages, took, recording)
            i += pages


cdef void *batch_thread(void *arg) noexcept nogil:
    cdef batch *b = <batch *> arg
    cdef int rc
    cdef zsw_worker *w = engine_enter(b.e, &rc)
    if w != NULL:                           # else the caller's own thread does all of it
        run_batch(b, w)
        engine_leave(b.e, w)
    return NULL


cdef int run_threads(batch *b, zsw_worker *w, int threads) noexcept nogil:
    """Runs the batch on this thread and on up to threads - 1 helpers.  Fewer helpers only make it
    slower.  Returns how a backing store failed with the first of the pages that are BACKING_FAIL,
    -errno."""
    cdef pthread_t helpers[MAX_THREADS]
    cdef int started = 0, i
    if threads > MAX_THREADS:
        threads = MAX_THREADS
    while started < threads - 1 and <uint64_t> (started + 1) * CHUNK < b.total:
        if (fault(Site.BATCH_THREAD) != 0
                or zsw_thread_start(&helpers[started], batch_thread, b) != 0):
            break
        started += 1
    run_batch(b, w)
    for i in range(started):
        zsw_thread_join(helpers[i])
    return b.error


cdef int engine_store_many(zsw_engine *e, zsw_worker *w, uint32_t type, const uint64_t *offsets,
                           const uint8_t *pages, uint64_t count, int threads, int8_t *status,
                           uint32_t *ns) noexcept nogil:
    cdef batch b
    memset(&b, 0, sizeof(b))
    b.e, b.timed, b.offsets, b.pages, b.status, b.ns, b.total, b.type = (
        e, Timed.store_ns, offsets, <uint8_t *> pages, status, ns, count, type)
    return run_threads(&b, w, threads)


cdef int engine_load_many(zsw_engine *e, zsw_worker *w, uint32_t type, const uint64_t *offsets,
                          uint8_t *pages, uint64_t count, int threads, int8_t *status,
                          uint32_t *ns) noexcept nogil:
    cdef batch b
    memset(&b, 0, sizeof(b))
    b.e, b.timed, b.offsets, b.pages, b.status, b.ns, b.total, b.type = (
        e, Timed.load_ns, offsets, pages, status, ns, count, type)
    return run_threads(&b, w, threads)


cdef uint64_t engine_invalidate_many(zsw_engine *e, zsw_worker *w, uint32_t type,
                                     const uint64_t *offsets, uint64_t count) noexcept nogil:
    cdef uint64_t i, total = 0
    for i in range(count):
        total += engine_invalidate(e, w, type, offsets[i], offsets[i])
    return total
