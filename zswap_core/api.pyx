"""The engine for programs in C: the table of zswap/zswap.h, as the capsule `v1`."""
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.pycapsule cimport PyCapsule_New
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.errno cimport EINVAL, ENODEV, ENOMEM, ENOSPC
from libc.stdint cimport int8_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from zswap_core.allocate cimport engine_allocate, engine_free_extent
from zswap_core.batch cimport engine_load_many, engine_store_many
from zswap_core.binding.results cimport Handle
from zswap_core.calls cimport engine_enter, engine_leave
from zswap_core.evict cimport evict_begin, evict_some, zsw_eviction
from zswap_core.figures cimport engine_totals, zsw_totals
from zswap_core.interpreter cimport zsw_python_is_gone
from zswap_core.invalidate cimport engine_invalidate
from zswap_core.load cimport engine_length, engine_load, LOAD_ZEROS
from zswap_core.os cimport zsw_add_u32, zsw_load_u32, zsw_peek_u64
from zswap_core.parts cimport engine_load_part, engine_store_part, in_page
from zswap_core.state cimport MAX_OFFSET_SHIFT, zsw_engine, zsw_worker
from zswap_core.stats cimport Counter
from zswap_core.status cimport Status
from zswap_core.store cimport engine_replace, engine_store
from zswap_core.submit cimport engine_submit
from zswap_core.vectors cimport (
    engine_loadv, engine_storev, vector_init, zsw_buffer, zsw_made, zsw_vector,
)
from zswap_core.walk cimport engine_next_held, engine_next_hole, engine_weigh, zsw_weight
from zswap_core.writeback cimport engine_writeback
from zswap_core.zswap cimport (
    zswap_api, ZSWAP_API_CAPSULE, ZSWAP_API_VERSION, zswap_buffer, ZSWAP_CLOSED, zswap_engine,
    zswap_figures, ZSWAP_LOAD, ZSWAP_NO_AREA, ZSWAP_NO_EXTENT, ZSWAP_NO_MEMORY, ZSWAP_NO_PART,
    ZSWAP_NO_REQUEST, ZSWAP_NO_ROOM, zswap_request, ZSWAP_STORE, ZSWAP_TOO_LONG, zswap_weight,
    ZSWAP_ZEROS,
)

from zswap_core.status import Status as PyStatus


# A counted reference: what a zswap_engine is.
cdef struct reference:
    PyObject *owner
    zsw_engine *e
    uint32_t refs


cdef inline zsw_engine *engine_of(zswap_engine *r) noexcept nogil:
    return (<reference *> r).e


cdef uint64_t OFFSETS = <uint64_t> 1 << MAX_OFFSET_SHIFT


cdef zswap_engine *api_open(void *engine) noexcept:
    cdef Handle handle
    cdef reference *r = NULL
    try:
        handle = <Handle?> <object> engine
        if zsw_load_u32(&handle.e.closing) != 0:
            raise ValueError("the ZSwap is closed")
        r = <reference *> calloc(1, sizeof(reference))
        if r == NULL:
            raise MemoryError
    except BaseException as error:
        restore(error)
        return NULL
    Py_INCREF(handle)
    r.owner, r.e, r.refs = <PyObject *> handle, handle.e, 1
    return <zswap_engine *> r


cdef extern from "Python.h":
    void PyErr_SetObject(PyObject *type, PyObject *value)


cdef void restore(object error) noexcept:
    """Leaves the exception to the caller in C."""
    kind = type(error)
    PyErr_SetObject(<PyObject *> kind, <PyObject *> error)


cdef void api_ref(zswap_engine *r) noexcept nogil:
    zsw_add_u32(&(<reference *> r).refs, 1)


cdef void api_unref(zswap_engine *r) noexcept nogil:
    if zsw_add_u32(&(<reference *> r).refs, <uint32_t> -1) != 0:
        return
    if not zsw_python_is_gone():                # else it goes with the process
        with gil:
            Py_DECREF(<object> (<reference *> r).owner)
    free(r)


cdef uint32_t api_page_size(zswap_engine *r) noexcept nogil:
    return engine_of(r).page_size


cdef zsw_worker *enter(zswap_engine *r, int *rc) noexcept nogil:
    cdef zsw_worker *w = engine_enter(engine_of(r), rc)
    if w == NULL:
        rc[0] = ZSWAP_NO_MEMORY if rc[0] == -ENOMEM else ZSWAP_CLOSED
    return w


cdef int api_store(zswap_engine *r, uint32_t area, uint64_t offset,
                   const void *page) noexcept nogil:
    cdef int rc = 0
    cdef zsw_worker *w = enter(r, &rc)
    if w != NULL:
        rc = engine_store(engine_of(r), w, area, offset, <const uint8_t *> page)
        engine_leave(engine_of(r), w)
    return rc


cdef int api_load(zswap_engine *r, uint32_t area, uint64_t offset, void *page) noexcept nogil:
    cdef int rc = 0
    cdef zsw_worker *w = enter(r, &rc)
    if w != NULL:
        rc = engine_load(engine_of(r), w, area, offset, <uint8_t *> page, 0)
        engine_leave(engine_of(r), w)
    return rc


cdef int api_store_many(zswap_engine *r, uint32_t area, const uint64_t *offsets, const void *pages,
                        size_t n, int threads, int8_t *status) noexcept nogil:
    cdef int rc = 0
    cdef zsw_worker *w = enter(r, &rc)
    if w != NULL:
        engine_store_many(engine_of(r), w, area, offsets, <const uint8_t *> pages, n,
                          min(max(threads, 1), 64), status, NULL)
        engine_leave(engine_of(r), w)
    return rc


cdef int api_load_many(zswap_engine *r, uint32_t area, const uint64_t *offsets, void *pages,
                       size_t n, int threads, int8_t *status) noexcept nogil:
    cdef int rc = 0
    cdef zsw_worker *w = enter(r, &rc)
    if w != NULL:
        engine_load_many(engine_of(r), w, area, offsets, <uint8_t *> pages, n,
                         min(max(threads, 1), 64), status, NULL)
        engine_leave(engine_of(r), w)
    return rc


cdef int64_t api_invalidate(zswap_engine *r, uint32_t area, uint64_t first,
                            uint64_t last) noexcept nogil:
    cdef int rc = 0
    cdef int64_t freed
    cdef zsw_worker *w = enter(r, &rc)
    if w == NULL:
        return rc
    freed = <int64_t> engine_invalidate(engine_of(r), w, area, first, min(last, OFFSETS - 1))
    engine_leave(engine_of(r), w)
    return freed


cdef int64_t api_weight(zswap_engine *r, uint32_t area, uint64_t offset) noexcept nogil:
    cdef int rc = 0
    cdef int64_t length
    cdef zsw_worker *w = enter(r, &rc)
    if w == NULL:
        return rc
    length = engine_length(engine_of(r), area, offset)
    engine_leave(engine_of(r), w)
    return length


cdef int failure(int rc) noexcept nogil:
    """What an error number is called outside."""
    if rc == -ENOSPC:
        return ZSWAP_NO_ROOM
    if rc == -ENODEV:
        return ZSWAP_NO_AREA
    if rc == -EINVAL:
        return ZSWAP_NO_EXTENT
    return ZSWAP_NO_MEMORY if rc != 0 else 0


cdef int api_allocate(zswap_engine *r, uint32_t area, uint64_t pages,
                      uint64_t *offset) noexcept nogil:
    cdef int rc = 0
    cdef zsw_worker *w
    if pages == 0 or pages > OFFSETS:
        return ZSWAP_NO_ROOM
    w = enter(r, &rc)
    if w != NULL:
        rc = failure(engine_allocate(engine_of(r), area, pages, offset))
        engine_leave(engine_of(r), w)
    return rc


cdef int api_free(zswap_engine *r, uint32_t area, uint64_t offset) noexcept nogil:
    cdef int rc = 0
    cdef uint64_t pages = 0
    cdef zsw_worker *w = enter(r, &rc)
    if w != NULL:
        rc = failure(engine_free_extent(engine_of(r), w, area, offset, &pages))
        engine_leave(engine_of(r), w)
    return rc


cdef int64_t api_shrink(zswap_engine *r, uint64_t pages) noexcept nogil:
    cdef int rc = 0
    cdef int64_t done
    cdef zsw_worker *w = enter(r, &rc)
    if w == NULL:
        return rc
    done = <int64_t> engine_writeback(engine_of(r), w, min(pages, OFFSETS), 0)
    engine_leave(engine_of(r), w)
    return done


cdef int api_next_held(zswap_engine *r, uint32_t area, uint64_t *offset) noexcept nogil:
    cdef int rc = 0
    cdef zsw_worker *w = enter(r, &rc)
    if w != NULL:
        rc = engine_next_held(engine_of(r), area, offset)
        engine_leave(engine_of(r), w)
    return rc


cdef int api_next_hole(zswap_engine *r, uint32_t area, uint64_t *offset) noexcept nogil:
    cdef int rc = 0
    cdef zsw_worker *w = enter(r, &rc)
    if w != NULL:
        rc = engine_next_hole(engine_of(r), area, offset)
        engine_leave(engine_of(r), w)
    return rc


cdef int api_weigh(zswap_engine *r, uint32_t area, uint64_t first, uint64_t last,
                   zswap_weight *weight) noexcept nogil:
    cdef zsw_weight found
    cdef int rc = 0
    cdef zsw_worker *w = enter(r, &rc)
    if w != NULL:
        engine_weigh(engine_of(r), area, first, last, &found)
        engine_leave(engine_of(r), w)
        weight.pages, weight.same_filled = found.pages, found.same_filled
        weight.backed, weight.compressed_bytes = found.backed, found.bytes
    return rc


cdef int api_load_part(zswap_engine *r, uint32_t area, uint64_t offset, size_t at, size_t n,
                       void *data, uint32_t flags) noexcept nogil:
    cdef int rc = 0
    cdef zsw_worker *w
    if not in_page(engine_of(r), at, n):
        return ZSWAP_NO_PART
    w = enter(r, &rc)
    if w != NULL:
        rc = engine_load_part(engine_of(r), w, area, offset, <uint32_t> at, <uint32_t> n, data,
                              LOAD_ZEROS if flags & ZSWAP_ZEROS else 0)
        engine_leave(engine_of(r), w)
    return rc


cdef int api_store_part(zswap_engine *r, uint32_t area, uint64_t offset, size_t at, size_t n,
                        const void *data, uint32_t flags) noexcept nogil:
    cdef int rc = 0
    cdef zsw_worker *w
    if not in_page(engine_of(r), at, n):
        return ZSWAP_NO_PART
    w = enter(r, &rc)
    if w != NULL:
        rc = engine_store_part(engine_of(r), w, area, offset, <uint32_t> at, <uint32_t> n, data,
                               LOAD_ZEROS if flags & ZSWAP_ZEROS else 0)
        engine_leave(engine_of(r), w)
    return rc


cdef int api_storev(zswap_engine *r, uint32_t area, uint64_t offset, const zswap_buffer *buffers,
                    size_t n) noexcept nogil:
    cdef int rc = 0
    cdef uint64_t failed = 0
    cdef zsw_vector vector
    cdef zsw_made *made
    cdef zsw_worker *w
    if vector_init(engine_of(r), &vector, <const zsw_buffer *> buffers, n) != 0:
        return ZSWAP_TOO_LONG
    made = <zsw_made *> calloc(vector.pages + 1, sizeof(zsw_made))
    if made == NULL:
        return ZSWAP_NO_MEMORY
    w = enter(r, &rc)
    if w != NULL:
        rc = engine_storev(engine_of(r), w, area, offset, &vector, made, &failed)
        engine_leave(engine_of(r), w)
    free(made)
    return rc


cdef int api_loadv(zswap_engine *r, uint32_t area, uint64_t offset, const zswap_buffer *buffers,
                   size_t n, uint32_t flags) noexcept nogil:
    cdef int rc = 0
    cdef uint64_t failed = 0
    cdef zsw_vector vector
    cdef zsw_worker *w
    if vector_init(engine_of(r), &vector, <const zsw_buffer *> buffers, n) != 0:
        return ZSWAP_TOO_LONG
    w = enter(r, &rc)
    if w != NULL:
        rc = engine_loadv(engine_of(r), w, area, offset, &vector,
                          LOAD_ZEROS if flags & ZSWAP_ZEROS else 0, &failed)
        engine_leave(engine_of(r), w)
    return rc


cdef int api_replace(zswap_engine *r, uint32_t area, uint64_t offset,
                     const void *page) noexcept nogil:
    cdef int rc = 0
    cdef zsw_worker *w = enter(r, &rc)
    if w != NULL:
        rc = engine_replace(engine_of(r), w, area, offset, <const uint8_t *> page)
        engine_leave(engine_of(r), w)
    return rc


cdef int api_submit(zswap_engine *r, zswap_request *request) noexcept nogil:
    cdef int rc = 0
    cdef zsw_worker *w
    if request.done == NULL or request.what != ZSWAP_LOAD and request.what != ZSWAP_STORE:
        return ZSWAP_NO_REQUEST
    w = enter(r, &rc)
    if w != NULL:
        rc = engine_submit(engine_of(r), w, request)
        engine_leave(engine_of(r), w)
        rc = ZSWAP_NO_MEMORY if rc < 0 else rc
    return rc


cdef int64_t api_evict(zswap_engine *r, uint64_t size) noexcept nogil:
    cdef zsw_eviction eviction
    cdef int rc = 0
    cdef zsw_worker *w = enter(r, &rc)
    if w == NULL:
        return rc
    evict_begin(engine_of(r), &eviction, size)
    while evict_some(engine_of(r), w, &eviction):
        pass
    engine_leave(engine_of(r), w)
    return <int64_t> eviction.freed


cdef int api_figures(zswap_engine *r, zswap_figures *figures) noexcept nogil:
    cdef zsw_engine *e = engine_of(r)
    cdef zsw_totals totals
    cdef zswap_figures f
    cdef int rc = 0
    cdef zsw_worker *w = enter(r, &rc)
    if w == NULL:
        return rc
    engine_totals(e, &totals)
    engine_leave(e, w)
    memset(&f, 0, sizeof(f))
    f.struct_size, f.page_size = figures.struct_size, e.page_size
    f.max_pool_bytes = zsw_peek_u64(&e.params.max_pages) * e.page_size
    f.pool_total_size, f.metadata_bytes = totals.pool_pages * e.page_size, totals.metadata_bytes
    f.compressed_bytes = totals.counters[<int> Counter.compressed_bytes]
    f.stored_pages = totals.counters[<int> Counter.stored_pages]
    f.same_filled_pages = totals.counters[<int> Counter.same_filled_pages]
    f.stored_incompressible_pages = totals.counters[<int> Counter.stored_incompressible_pages]
    f.backed_pages = totals.counters[<int> Counter.backed_pages]
    f.loads = totals.counters[<int> Counter.loads]
    f.load_misses = totals.counters[<int> Counter.load_misses]
    f.backing_loads = totals.counters[<int> Counter.backing_loads]
    f.written_back_pages = totals.counters[<int> Counter.written_back_pages]
    f.written_through_pages = totals.counters[<int> Counter.written_through_pages]
    f.pool_limit_hit = totals.refused[-<int> Status.POOL_LIMIT]
    memcpy(figures, &f, min(<size_t> figures.struct_size, sizeof(f)))
    return 0


cdef enum:
    TEXTS = 64                  # codes of a kind, at most

# What `status_text` gives: of statuses, from PyStatus, and of what is below -1000
cdef const char *status_texts[TEXTS]
cdef const char *call_texts[TEXTS]
texts = []                      # which keeps them

CALLS = {
    ZSWAP_CLOSED: "The engine is closed, or belongs to the parent process.",
    ZSWAP_NO_MEMORY: "There is no memory for the call.",
    ZSWAP_NO_ROOM: "The area has not so many offsets in a row left.",
    ZSWAP_NO_AREA: "The area is not online.",
    ZSWAP_NO_EXTENT: "No extent begins there.",
    ZSWAP_NO_PART: "The part does not lie in a page.",
    ZSWAP_TOO_LONG: "The buffers have more pages than one call takes.",
    ZSWAP_NO_REQUEST: "The request is neither a load nor a store, or has no `done`.",
}


cdef const char *kept(str text):
    cdef bytes encoded = text.encode()
    texts.append(encoded)
    return PyBytes_AS_STRING(encoded)


for status in PyStatus:
    status_texts[status + TEXTS // 2] = kept(status.text)
for code, text in CALLS.items():
    call_texts[-1000 - code] = kept(text)
cdef const char *unknown_text = kept("No function returns this.")


cdef const char *api_status_text(int status) noexcept nogil:
    cdef const char *text = NULL
    if -TEXTS // 2 <= status < TEXTS // 2:
        text = status_texts[status + TEXTS // 2]
    elif -1000 - TEXTS < status < -1000:
        text = call_texts[-1000 - status]
    return text if text != NULL else unknown_text


cdef zswap_api TABLE = zswap_api(
    version=ZSWAP_API_VERSION,
    struct_size=sizeof(zswap_api),
    open=api_open,
    ref=api_ref,
    unref=api_unref,
    page_size=api_page_size,
    store=api_store,
    load=api_load,
    store_many=api_store_many,
    load_many=api_load_many,
    invalidate=api_invalidate,
    weight=api_weight,
    allocate=api_allocate,
    free=api_free,
    shrink=api_shrink,
    next_held=api_next_held,
    next_hole=api_next_hole,
    weigh=api_weigh,
    load_part=api_load_part,
    store_part=api_store_part,
    storev=api_storev,
    loadv=api_loadv,
    replace=api_replace,
    submit=api_submit,
    evict=api_evict,
    figures=api_figures,
    status_text=api_status_text,
)

#: The table's capsule.
v1 = PyCapsule_New(&TABLE, ZSWAP_API_CAPSULE, NULL)
