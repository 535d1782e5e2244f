"""The engine for programs in C: the table of zswap/zswap.h, as the capsule `v1`."""
from cpython.pycapsule cimport PyCapsule_New
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.errno cimport EINVAL, ENODEV, ENOMEM, ENOSPC
from libc.stdint cimport int8_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from zswap_core.allocate cimport engine_allocate, engine_free_extent
from zswap_core.batch cimport engine_load_many, engine_store_many
from zswap_core.binding.results cimport Handle
from zswap_core.calls cimport engine_enter, engine_leave
from zswap_core.departures cimport engine_listen
from zswap_core.interpreter cimport zsw_python_is_gone
from zswap_core.invalidate cimport engine_invalidate
from zswap_core.load cimport engine_length, engine_load, engine_value_length, LOAD_TAKE, LOAD_ZEROS
from zswap_core.os cimport zsw_add_u32, zsw_load_u32
from zswap_core.params cimport Flag, is_on
from zswap_core.parts cimport BEYOND, engine_load_part, engine_store_part, in_page
from zswap_core.state cimport departure_call, Listener, MAX_OFFSET_SHIFT, zsw_engine, zsw_worker
from zswap_core.store cimport engine_replace, engine_store
from zswap_core.values cimport engine_load_value, engine_store_value, TOO_SMALL
from zswap_core.vectors cimport (
    engine_loadv, engine_storev, vector_init, zsw_buffer, zsw_made, zsw_vector,
)
from zswap_core.walk cimport engine_next_held, engine_next_hole, engine_weigh, zsw_weight
from zswap_core.worker cimport call_depth, wait_calls
from zswap_core.writeback cimport engine_writeback


cdef extern from "zswap/zswap.h" nogil:
    """
    /* A counted reference. */
    struct zswap_engine {
        PyObject *owner;
        struct __pyx_t_10zswap_core_5state_zsw_engine *e;
        uint32_t refs;
    };
    """
    const uint32_t ZSWAP_API_VERSION
    const char *ZSWAP_API_CAPSULE
    const int ZSWAP_CLOSED
    const int ZSWAP_NO_MEMORY
    const int ZSWAP_NO_ROOM
    const int ZSWAP_NO_AREA
    const int ZSWAP_NO_EXTENT
    const int ZSWAP_NO_PART
    const int ZSWAP_TOO_LONG
    const uint32_t ZSWAP_ZEROS

    ctypedef struct zswap_weight:
        uint64_t pages
        uint64_t same_filled
        uint64_t backed
        uint64_t compressed_bytes

    ctypedef struct zswap_buffer:
        void *data
        size_t bytes

    ctypedef struct zswap_engine:
        PyObject *owner
        zsw_engine *e
        uint32_t refs

    ctypedef struct zswap_api:
        uint32_t version
        uint32_t struct_size
        zswap_engine *(*open)(void *) noexcept
        void (*ref)(zswap_engine *) noexcept nogil
        void (*unref)(zswap_engine *) noexcept nogil
        uint32_t (*page_size)(zswap_engine *) noexcept nogil
        int (*store)(zswap_engine *, uint32_t, uint64_t, const void *) noexcept nogil
        int (*load)(zswap_engine *, uint32_t, uint64_t, void *) noexcept nogil
        int (*store_many)(zswap_engine *, uint32_t, const uint64_t *, const void *, size_t, int,
                          int8_t *) noexcept nogil
        int (*load_many)(zswap_engine *, uint32_t, const uint64_t *, void *, size_t, int,
                         int8_t *) noexcept nogil
        int64_t (*invalidate)(zswap_engine *, uint32_t, uint64_t, uint64_t) noexcept nogil
        int64_t (*weight)(zswap_engine *, uint32_t, uint64_t) noexcept nogil
        int (*allocate)(zswap_engine *, uint32_t, uint64_t, uint64_t *) noexcept nogil
        int (*free)(zswap_engine *, uint32_t, uint64_t) noexcept nogil
        int64_t (*shrink)(zswap_engine *, uint64_t) noexcept nogil
        int (*next_held)(zswap_engine *, uint32_t, uint64_t *) noexcept nogil
        int (*next_hole)(zswap_engine *, uint32_t, uint64_t *) noexcept nogil
        int (*weigh)(zswap_engine *, uint32_t, uint64_t, uint64_t, zswap_weight *) noexcept nogil
        int (*load_part)(zswap_engine *, uint32_t, uint64_t, size_t, size_t, void *,
                         uint32_t) noexcept nogil
        int (*store_part)(zswap_engine *, uint32_t, uint64_t, size_t, size_t, const void *,
                          uint32_t) noexcept nogil
        int (*storev)(zswap_engine *, uint32_t, uint64_t, const zswap_buffer *,
                      size_t) noexcept nogil
        int (*loadv)(zswap_engine *, uint32_t, uint64_t, const zswap_buffer *, size_t,
                     uint32_t) noexcept nogil
        int (*replace)(zswap_engine *, uint32_t, uint64_t, const void *) noexcept nogil
        int (*on_evict)(zswap_engine *, departure_call, void *) noexcept nogil
        int (*store_value)(zswap_engine *, uint32_t, uint64_t, const void *, size_t) noexcept nogil
        int (*load_value)(zswap_engine *, uint32_t, uint64_t, void *, size_t *) noexcept nogil
        int64_t (*length)(zswap_engine *, uint32_t, uint64_t) noexcept nogil


cdef uint64_t OFFSETS = <uint64_t> 1 << MAX_OFFSET_SHIFT


cdef zswap_engine *api_open(void *engine) noexcept:
    cdef Handle handle
    cdef zswap_engine *r = NULL
    try:
        handle = <Handle?> <object> engine
        if zsw_load_u32(&handle.e.closing) != 0:
            raise ValueError("the ZSwap is closed")
        r = <zswap_engine *> calloc(1, sizeof(zswap_engine))
        if r == NULL:
            raise MemoryError
    except BaseException as error:
        restore(error)
        return NULL
    Py_INCREF(handle)
    r.owner, r.e, r.refs = <PyObject *> handle, handle.e, 1
    return r


cdef extern from "Python.h":
    void PyErr_SetObject(PyObject *type, PyObject *value)


cdef void restore(object error) noexcept:
    """Leaves the exception to the caller in C."""
    kind = type(error)
    PyErr_SetObject(<PyObject *> kind, <PyObject *> error)


cdef void api_ref(zswap_engine *r) noexcept nogil:
    zsw_add_u32(&r.refs, 1)


cdef void api_unref(zswap_engine *r) noexcept nogil:
    if zsw_add_u32(&r.refs, <uint32_t> -1) != 0:
        return
    if not zsw_python_is_gone():                # else it goes with the process
        with gil:
            Py_DECREF(<object> r.owner)
    free(r)


cdef uint32_t api_page_size(zswap_engine *r) noexcept nogil:
    return r.e.page_size


cdef zsw_worker *enter(zswap_engine *r, int *rc) noexcept nogil:
    cdef zsw_worker *w = engine_enter(r.e, rc)
    if w == NULL:
        rc[0] = ZSWAP_NO_MEMORY if rc[0] == -ENOMEM else ZSWAP_CLOSED
    return w


cdef int api_store(zswap_engine *r, uint32_t area, uint64_t offset,
                   const void *page) noexcept nogil:
    cdef int rc = 0
    cdef zsw_worker *w = enter(r, &rc)
    if w != NULL:
        rc = engine_store(r.e, w, area, offset, <const uint8_t *> page)
        engine_leave(r.e, w)
    return rc


cdef int api_load(zswap_engine *r, uint32_t area, uint64_t offset, void *page) noexcept nogil:
    cdef int rc = 0
    cdef zsw_worker *w = enter(r, &rc)
    if w != NULL:
        rc = engine_load(r.e, w, area, offset, <uint8_t *> page, 0)
        engine_leave(r.e, w)
    return rc


cdef int api_store_many(zswap_engine *r, uint32_t area, const uint64_t *offsets, const void *pages,
                        size_t n, int threads, int8_t *status) noexcept nogil:
    cdef int rc = 0
    cdef zsw_worker *w = enter(r, &rc)
    if w != NULL:
        engine_store_many(r.e, w, area, offsets, <const uint8_t *> pages, n,
                          min(max(threads, 1), 64), status, NULL)
        engine_leave(r.e, w)
    return rc


cdef int api_load_many(zswap_engine *r, uint32_t area, const uint64_t *offsets, void *pages,
                       size_t n, int threads, int8_t *status) noexcept nogil:
    cdef int rc = 0
    cdef zsw_worker *w = enter(r, &rc)
    if w != NULL:
        engine_load_many(r.e, w, area, offsets, <uint8_t *> pages, n, min(max(threads, 1), 64),
                         status, NULL)
        engine_leave(r.e, w)
    return rc


cdef int64_t api_invalidate(zswap_engine *r, uint32_t area, uint64_t first,
                            uint64_t last) noexcept nogil:
    cdef int rc = 0
    cdef int64_t freed
    cdef zsw_worker *w = enter(r, &rc)
    if w == NULL:
        return rc
    freed = <int64_t> engine_invalidate(r.e, w, area, first, min(last, OFFSETS - 1))
    engine_leave(r.e, w)
    return freed


cdef int64_t api_weight(zswap_engine *r, uint32_t area, uint64_t offset) noexcept nogil:
    cdef int rc = 0
    cdef int64_t length
    cdef zsw_worker *w = enter(r, &rc)
    if w == NULL:
        return rc
    length = engine_length(r.e, area, offset)
    engine_leave(r.e, w)
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
        rc = failure(engine_allocate(r.e, area, pages, offset))
        engine_leave(r.e, w)
    return rc


cdef int api_free(zswap_engine *r, uint32_t area, uint64_t offset) noexcept nogil:
    cdef int rc = 0
    cdef uint64_t pages = 0
    cdef zsw_worker *w = enter(r, &rc)
    if w != NULL:
        rc = failure(engine_free_extent(r.e, w, area, offset, &pages))
        engine_leave(r.e, w)
    return rc


cdef int64_t api_shrink(zswap_engine *r, uint64_t pages) noexcept nogil:
    cdef int rc = 0
    cdef int64_t done
    cdef zsw_worker *w = enter(r, &rc)
    if w == NULL:
        return rc
    done = <int64_t> engine_writeback(r.e, w, min(pages, OFFSETS), 0)
    engine_leave(r.e, w)
    return done


cdef int api_next_held(zswap_engine *r, uint32_t area, uint64_t *offset) noexcept nogil:
    cdef int rc = 0
    cdef zsw_worker *w = enter(r, &rc)
    if w != NULL:
        rc = engine_next_held(r.e, area, offset)
        engine_leave(r.e, w)
    return rc


cdef int api_next_hole(zswap_engine *r, uint32_t area, uint64_t *offset) noexcept nogil:
    cdef int rc = 0
    cdef zsw_worker *w = enter(r, &rc)
    if w != NULL:
        rc = engine_next_hole(r.e, area, offset)
        engine_leave(r.e, w)
    return rc


cdef int api_weigh(zswap_engine *r, uint32_t area, uint64_t first, uint64_t last,
                   zswap_weight *weight) noexcept nogil:
    cdef zsw_weight found
    cdef int rc = 0
    cdef zsw_worker *w = enter(r, &rc)
    if w != NULL:
        engine_weigh(r.e, area, first, last, &found)
        engine_leave(r.e, w)
        weight.pages, weight.same_filled = found.pages, found.same_filled
        weight.backed, weight.compressed_bytes = found.backed, found.bytes
    return rc


cdef int api_load_part(zswap_engine *r, uint32_t area, uint64_t offset, size_t at, size_t n,
                       void *data, uint32_t flags) noexcept nogil:
    cdef int rc = 0
    cdef zsw_worker *w
    if not in_page(r.e, at, n):
        return ZSWAP_NO_PART
    w = enter(r, &rc)
    if w != NULL:
        rc = engine_load_part(r.e, w, area, offset, <uint32_t> at, <uint32_t> n, data,
                              LOAD_ZEROS if flags & ZSWAP_ZEROS else 0)
        engine_leave(r.e, w)
    return ZSWAP_NO_PART if rc == BEYOND else rc


cdef int api_store_part(zswap_engine *r, uint32_t area, uint64_t offset, size_t at, size_t n,
                        const void *data, uint32_t flags) noexcept nogil:
    cdef int rc = 0
    cdef zsw_worker *w
    if not in_page(r.e, at, n):
        return ZSWAP_NO_PART
    w = enter(r, &rc)
    if w != NULL:
        rc = engine_store_part(r.e, w, area, offset, <uint32_t> at, <uint32_t> n, data,
                               LOAD_ZEROS if flags & ZSWAP_ZEROS else 0)
        engine_leave(r.e, w)
    return ZSWAP_NO_PART if rc == BEYOND else rc


cdef int api_storev(zswap_engine *r, uint32_t area, uint64_t offset, const zswap_buffer *buffers,
                    size_t n) noexcept nogil:
    cdef int rc = 0
    cdef uint64_t failed = 0
    cdef zsw_vector vector
    cdef zsw_made *made
    cdef zsw_worker *w
    if vector_init(r.e, &vector, <const zsw_buffer *> buffers, n) != 0:
        return ZSWAP_TOO_LONG
    made = <zsw_made *> calloc(vector.pages + 1, sizeof(zsw_made))
    if made == NULL:
        return ZSWAP_NO_MEMORY
    w = enter(r, &rc)
    if w != NULL:
        rc = engine_storev(r.e, w, area, offset, &vector, made, &failed)
        engine_leave(r.e, w)
    free(made)
    return rc


cdef int api_loadv(zswap_engine *r, uint32_t area, uint64_t offset, const zswap_buffer *buffers,
                   size_t n, uint32_t flags) noexcept nogil:
    cdef int rc = 0
    cdef uint64_t failed = 0
    cdef zsw_vector vector
    cdef zsw_worker *w
    if vector_init(r.e, &vector, <const zsw_buffer *> buffers, n) != 0:
        return ZSWAP_TOO_LONG
    w = enter(r, &rc)
    if w != NULL:
        rc = engine_loadv(r.e, w, area, offset, &vector, LOAD_ZEROS if flags & ZSWAP_ZEROS else 0,
                          &failed)
        engine_leave(r.e, w)
    return rc


cdef int api_replace(zswap_engine *r, uint32_t area, uint64_t offset,
                     const void *page) noexcept nogil:
    cdef int rc = 0
    cdef zsw_worker *w = enter(r, &rc)
    if w != NULL:
        rc = engine_replace(r.e, w, area, offset, <const uint8_t *> page)
        engine_leave(r.e, w)
    return rc


cdef int api_on_evict(zswap_engine *r, departure_call call, void *context) noexcept nogil:
    cdef int rc = 0
    cdef zsw_worker *w = enter(r, &rc)
    if w != NULL:
        engine_listen(r.e, Listener.CS, call, context)
        engine_leave(r.e, w)
        if call_depth(r.e) == 0:                # else it may be waiting for itself
            wait_calls(r.e)
    return rc


cdef int api_store_value(zswap_engine *r, uint32_t area, uint64_t offset, const void *data,
                         size_t n) noexcept nogil:
    cdef int rc = 0
    cdef zsw_worker *w
    if n == 0 or n > r.e.page_size:
        return ZSWAP_NO_PART
    w = enter(r, &rc)
    if w != NULL:
        rc = engine_store_value(r.e, w, area, offset, <const uint8_t *> data, <uint32_t> n, NULL)
        engine_leave(r.e, w)
    return rc


cdef int api_load_value(zswap_engine *r, uint32_t area, uint64_t offset, void *data,
                        size_t *n) noexcept nogil:
    cdef uint32_t bytes = <uint32_t> min(n[0], <size_t> r.e.page_size)
    cdef int rc = 0
    cdef zsw_worker *w = enter(r, &rc)
    if w != NULL:
        rc = engine_load_value(r.e, w, area, offset, <uint8_t *> data, &bytes, LOAD_TAKE
                               if is_on(&r.e.params, Flag.exclusive_loads) else 0)
        engine_leave(r.e, w)
        if rc >= 0 or rc == TOO_SMALL:
            n[0] = bytes
    return ZSWAP_NO_PART if rc == TOO_SMALL else rc


cdef int64_t api_length(zswap_engine *r, uint32_t area, uint64_t offset) noexcept nogil:
    cdef int rc = 0
    cdef int64_t length
    cdef zsw_worker *w = enter(r, &rc)
    if w == NULL:
        return rc
    length = engine_value_length(r.e, area, offset)
    engine_leave(r.e, w)
    return length


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
    on_evict=api_on_evict,
    store_value=api_store_value,
    load_value=api_load_value,
    length=api_length,
)

#: The table's capsule.
v1 = PyCapsule_New(&TABLE, ZSWAP_API_CAPSULE, NULL)
