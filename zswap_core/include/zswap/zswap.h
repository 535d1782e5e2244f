/* zswap/zswap.h: an engine for programs in C, from any thread and without the GIL.
 *
 * A module gets the table once, with the GIL (ZSWAP_IMPORT below, or PyCapsule_Import), and from a
 * zswap.ZSwap a counted reference.  All other functions are called WITHOUT the GIL: compressors
 * and backing stores may be in Python, and take it themselves.  ZSwap.close() waits for the calls
 * in flight; those that come later are ZSWAP_CLOSED, and never touch freed memory while the
 * reference is held.  Tables only ever grow at their end: struct_size says how much of one there
 * is.
 */
#ifndef ZSWAP_ZSWAP_H
#define ZSWAP_ZSWAP_H

#include <stddef.h>
#include <stdint.h>

#define ZSWAP_API_VERSION 1u
#define ZSWAP_API_CAPSULE "zswap_core.api.v1"

/* What became of a page, as zswap.Status, which says what each means: held where >= 0. */
enum zswap_status {
    ZSWAP_STORED = 0,
    ZSWAP_SAME_FILLED = 1,
    ZSWAP_INCOMPRESSIBLE = 2,
    ZSWAP_WRITTEN_THROUGH = 3,
    ZSWAP_DISABLED = -1,
    ZSWAP_OUT_OF_AREA = -2,         /* NO_AREA */
    ZSWAP_POOL_LIMIT = -3,
    ZSWAP_ACCEPT_THRESHOLD = -4,
    ZSWAP_COMPRESS_POOR = -5,
    ZSWAP_COMPRESS_FAIL = -6,
    ZSWAP_ALLOC_FAIL = -7,
    ZSWAP_ENTRY_FAIL = -8,
    ZSWAP_ABSENT = -9,
    ZSWAP_CORRUPT = -10,
    ZSWAP_BACKING_FAIL = -11,
    ZSWAP_BACKING_CORRUPT = -13,
    ZSWAP_AREA_QUOTA = -14
};

/* Of calls that did nothing: the engine is closed, or was forked away from; there is no memory for
 * the call. */
#define ZSWAP_CLOSED (-1001)
#define ZSWAP_NO_MEMORY (-1002)
/* Of allocate and free: no so many offsets in a row; the area is not online; no extent begins
 * there. */
#define ZSWAP_NO_ROOM (-1003)
#define ZSWAP_NO_AREA (-1004)
#define ZSWAP_NO_EXTENT (-1005)
/* A part that does not lie in a page. */
#define ZSWAP_NO_PART (-1006)

/* Buffers for more than so many pages in one call. */
#define ZSWAP_TOO_LONG (-1007)
#define ZSWAP_VECTOR_PAGES 16384u

/* Of load_part, store_part, loadv and requests: where nothing is held there are zeros. */
#define ZSWAP_ZEROS 1u

/* A request that is neither a load nor a store, or has no `done`. */
#define ZSWAP_NO_REQUEST (-1008)
/* What submit returns: the request is complete, or will be. */
#define ZSWAP_COMPLETE 0
#define ZSWAP_PENDING 1

typedef struct zswap_engine zswap_engine;

#define ZSWAP_LOAD 0u
#define ZSWAP_STORE 1u

/* A load or a store of one page, to be submitted.  It is the engine's, and so is `page`, until it
 * is complete. */
typedef struct zswap_request {
    struct zswap_request *next;  /* the engine's */
    void (*done)(struct zswap_request *request);
    void *data;                  /* the caller's */
    void *page;
    uint64_t offset;
    uint32_t area;
    uint32_t what;               /* ZSWAP_LOAD or ZSWAP_STORE */
    uint32_t flags;              /* ZSWAP_ZEROS, of a load */
    int32_t status;              /* what came of it, as load and store return */
} zswap_request;

/* As zswap.Stats, which says what each is. */
typedef struct zswap_figures {
    uint32_t struct_size;        /* set by the caller: so much of it is filled in */
    uint32_t page_size;
    uint64_t max_pool_bytes;
    uint64_t pool_total_size;
    uint64_t metadata_bytes;
    uint64_t compressed_bytes;
    uint64_t stored_pages;
    uint64_t same_filled_pages;
    uint64_t stored_incompressible_pages;
    uint64_t backed_pages;
    uint64_t loads;
    uint64_t load_misses;
    uint64_t backing_loads;
    uint64_t written_back_pages;
    uint64_t written_through_pages;
    uint64_t pool_limit_hit;
} zswap_figures;

/* Of zswap_config.flags. */
#define ZSWAP_ENCRYPT 1u
#define ZSWAP_CHECKSUM 2u
#define ZSWAP_WIPE 4u

/* What zswap_create makes; what is 0 or NULL is as zswap.ZSwap has it by default. */
typedef struct zswap_config {
    uint32_t struct_size;
    uint32_t page_size;
    uint64_t max_pool_bytes;
    uint64_t max_memory_bytes;
    const char *compressor;
    const char *zpool;
    const char *backing;         /* path of a swap file for area 0; NULL: none */
    uint32_t flags;              /* encrypt, checksum and wipe_on_free */
} zswap_config;

typedef struct zswap_weight {
    uint64_t pages;             /* held, wherever */
    uint64_t same_filled;
    uint64_t backed;            /* in the backing store alone */
    uint64_t compressed_bytes;  /* of the others */
} zswap_weight;

/* Laid out as a struct iovec.  storev only reads what `data` points to. */
typedef struct zswap_buffer {
    void *data;
    size_t bytes;
} zswap_buffer;

typedef void (*zswap_evicted)(void *context, uint32_t area, const uint64_t *offsets, size_t n);

typedef struct zswap_api {
    uint32_t version;
    uint32_t struct_size;
    /* With the GIL.  A reference to a zswap.ZSwap (a PyObject *), whose object it keeps alive; NULL
     * with an exception set when it is none, or there is no memory. */
    zswap_engine *(*open)(void *engine);
    /* One more reference; one less, of which the last takes the GIL. */
    void (*ref)(zswap_engine *engine);
    void (*unref)(zswap_engine *engine);
    uint32_t (*page_size)(zswap_engine *engine);
    /* A page of page_size bytes.  A zswap.Status: held, or found, where it is >= 0; after a
     * refused store nothing is held there, and after a failed load `page` is undefined. */
    int (*store)(zswap_engine *engine, uint32_t area, uint64_t offset, const void *page);
    int (*load)(zswap_engine *engine, uint32_t area, uint64_t offset, void *page);
    /* n pages that lie one after another, shared among so many threads; a zswap.Status for each.  0,
     * or why nothing was done. */
    int (*store_many)(zswap_engine *engine, uint32_t area, const uint64_t *offsets,
        const void *pages, size_t n, int threads, int8_t *status);
    int (*load_many)(zswap_engine *engine, uint32_t area, const uint64_t *offsets, void *pages,
        size_t n, int threads, int8_t *status);
    /* Frees first..last, both included.  How many were held, or why nothing was done. */
    int64_t (*invalidate)(zswap_engine *engine, uint32_t area, uint64_t first, uint64_t last);
    /* Compressed bytes of a page: 0 when it is same-filled, -1 where nothing is held, -2 when it is
     * in the backing store. */
    int64_t (*weight)(zswap_engine *engine, uint32_t area, uint64_t offset);
    /* As ZSwap.allocate and ZSwap.free; 0, or why not. */
    int (*allocate)(zswap_engine *engine, uint32_t area, uint64_t pages, uint64_t *offset);
    int (*free)(zswap_engine *engine, uint32_t area, uint64_t offset);
    /* Writes so many of the coldest pages back; how many that were. */
    int64_t (*shrink)(zswap_engine *engine, uint64_t pages);
    /* Goes on to the first offset, from the given one on, at which a page is held, or at which none
     * is, as ZSwap.next_held and next_hole: 1, or 0 where there is none; or why nothing was done. */
    int (*next_held)(zswap_engine *engine, uint32_t area, uint64_t *offset);
    int (*next_hole)(zswap_engine *engine, uint32_t area, uint64_t *offset);
    /* What first..last, both included, hold, as ZSwap.weight.  0, or why nothing was done. */
    int (*weigh)(zswap_engine *engine, uint32_t area, uint64_t first, uint64_t last,
        zswap_weight *weight);
    /* The n bytes of a page from `at` on, as ZSwap.load_part and store_part: a zswap.Status, or why
     * nothing was done.  A part that is stored is all there or not at all, and leaves the rest of
     * the page as it is.  Of the page's size, with ZSWAP_ZEROS, load_part is load with zeros where
     * nothing is held. */
    int (*load_part)(zswap_engine *engine, uint32_t area, uint64_t offset, size_t at, size_t n,
        void *data, uint32_t flags);
    int (*store_part)(zswap_engine *engine, uint32_t area, uint64_t offset, size_t at, size_t n,
        const void *data, uint32_t flags);
    /* n buffers, one behind the other, in pages from `offset` on, as ZSwap.storev and loadv: 0, or
     * the zswap.Status of the first page that failed, or why nothing was done.  The last page is
     * filled up with zeros.  A store that is refused changes nothing; if the backing store fails,
     * none of the pages is held.  After a failed load the buffers are undefined. */
    int (*storev)(zswap_engine *engine, uint32_t area, uint64_t offset,
        const zswap_buffer *buffers, size_t n);
    int (*loadv)(zswap_engine *engine, uint32_t area, uint64_t offset,
        const zswap_buffer *buffers, size_t n, uint32_t flags);
    /* As store, but in an area without a backing store a page that is refused changes nothing:
     * what was held there still is. */
    int (*replace)(zswap_engine *engine, uint32_t area, uint64_t offset, const void *page);
    /* Begins a load or a store and waits for nothing.  ZSWAP_COMPLETE: it was there at once, see
     * its `status`, and `done` is not called.  ZSWAP_PENDING: a thread of the engine's calls
     * `done`, once, when it is complete; before submit returns or after, and the request may be
     * gone by then.  Or why nothing was done.  Stores are made in the order in which they were
     * submitted; between a load and a store that are pending at the same time there is none.
     *
     * `done` may submit more, and call anything but ZSwap.close() and an unref that is the last;
     * what it waits for holds up the requests behind it.  close() completes those that wait as
     * ZSWAP_CLOSED.  In a forked child they are never completed. */
    int (*submit)(zswap_engine *engine, zswap_request *request);
    /* Writes the coldest pages back until so many bytes are free, as ZSwap.evict: how many are. */
    int64_t (*evict)(zswap_engine *engine, uint64_t bytes);
    /* The figures now, as much of them as figures->struct_size reaches.  0, or why not. */
    int (*figures)(zswap_engine *engine, zswap_figures *figures);
    /* A sentence about anything that these functions return.  It is there for good. */
    const char *(*status_text)(int status);
    /* `call` hears of pages that have left the pool for their backing store, as what is given to
     * ZSwap.on_evict, which is another one: n offsets of an area, by whatever thread wrote them
     * back.  It has not the GIL, holds no lock of the engine's and may call the engine, but not
     * ZSwap.close.  It takes the place of the one before, which is not called any more once this
     * has returned, unless this is called from inside it; NULL is nobody.  0, or why nothing was
     * done. */
    int (*on_evict)(zswap_engine *engine, zswap_evicted call, void *context);
    /* A value of 1 to page_size bytes, in an area that was brought online with variable=True:
     * ZSWAP_NO_PART where n is none of these, ZSWAP_OUT_OF_AREA where the area is another.  To load
     * one, *n is how many bytes there is room for, and then how many the value has: ZSWAP_NO_PART,
     * and the value as it was, where they are more; with exclusive_loads there must be room for a
     * page.  What lies behind the value is undefined.  `store` stores a whole page as a value of
     * page_size bytes, `load` fills a value up with zeros to that; a part must lie in the value. */
    int (*store_value)(zswap_engine *engine, uint32_t area, uint64_t offset, const void *data,
        size_t n);
    int (*load_value)(zswap_engine *engine, uint32_t area, uint64_t offset, void *data, size_t *n);
    /* How many bytes were stored there, of a page page_size; -1 where nothing is held. */
    int64_t (*length)(zswap_engine *engine, uint32_t area, uint64_t offset);
} zswap_api;

#ifdef Py_PYTHON_H
/* The table, or NULL with an exception set.  With the GIL, as all that follows. */
static inline const zswap_api *zswap_import(void)
{
    PyObject *module = PyImport_ImportModule("zswap_core.api");
    PyObject *capsule = module != NULL ? PyObject_GetAttrString(module, "v1") : NULL;
    const zswap_api *api = NULL;
    if (capsule != NULL)
        api = (const zswap_api *)PyCapsule_GetPointer(capsule, ZSWAP_API_CAPSULE);
    if (api != NULL && (api->version != ZSWAP_API_VERSION || api->struct_size < sizeof *api)) {
        PyErr_SetString(PyExc_ImportError, "zswap is older than what this was compiled against");
        api = NULL;
    }
    Py_XDECREF(capsule);
    Py_XDECREF(module);
    return api;
}

/* A reference to a zswap.ZSwap, or NULL with an exception set. */
static inline zswap_engine *zswap_open(const zswap_api *api, PyObject *engine)
{
    return api->open(engine);
}

static inline int zswap_config_put(PyObject *config, const char *name, PyObject *value)
{
    int rc = value != NULL ? PyDict_SetItemString(config, name, value) : -1;
    Py_XDECREF(value);
    return rc;
}

/* The first reference to a new engine, which lives as long as there are any; or NULL with an
 * exception set, as zswap.ZSwap raises it. */
static inline zswap_engine *zswap_create(const zswap_api *api, const zswap_config *config)
{
    PyObject *module = PyImport_ImportModule("zswap");
    PyObject *type = module != NULL ? PyObject_GetAttrString(module, "ZSwap") : NULL;
    PyObject *none = PyTuple_New(0), *asked = PyDict_New(), *engine = NULL;
    zswap_engine *reference = NULL;
    int rc = type != NULL && none != NULL && asked != NULL ? 0 : -1;
    if (rc == 0 && config->struct_size != sizeof *config) {
        PyErr_SetString(PyExc_ValueError, "struct_size is not that of a zswap_config");
        rc = -1;
    }
    if (rc == 0 && config->page_size != 0)
        rc = zswap_config_put(asked, "page_size", PyLong_FromUnsignedLong(config->page_size));
    if (rc == 0 && config->max_pool_bytes != 0)
        rc = zswap_config_put(asked, "max_pool_bytes",
                              PyLong_FromUnsignedLongLong(config->max_pool_bytes));
    if (rc == 0 && config->max_memory_bytes != 0)
        rc = zswap_config_put(asked, "max_memory_bytes",
                              PyLong_FromUnsignedLongLong(config->max_memory_bytes));
    if (rc == 0 && config->compressor != NULL)
        rc = zswap_config_put(asked, "compressor", PyUnicode_FromString(config->compressor));
    if (rc == 0 && config->zpool != NULL)
        rc = zswap_config_put(asked, "zpool", PyUnicode_FromString(config->zpool));
    if (rc == 0 && config->backing != NULL)
        rc = zswap_config_put(asked, "backing", PyUnicode_DecodeFSDefault(config->backing));
    if (rc == 0 && config->flags & ZSWAP_ENCRYPT)
        rc = zswap_config_put(asked, "encrypt", PyBool_FromLong(1));
    if (rc == 0 && config->flags & ZSWAP_CHECKSUM)
        rc = zswap_config_put(asked, "checksum", PyBool_FromLong(1));
    if (rc == 0 && config->flags & ZSWAP_WIPE)
        rc = zswap_config_put(asked, "wipe_on_free", PyBool_FromLong(1));
    if (rc == 0)
        engine = PyObject_Call(type, none, asked);
    if (engine != NULL)
        reference = api->open(engine);
    Py_XDECREF(engine);
    Py_XDECREF(asked);
    Py_XDECREF(none);
    Py_XDECREF(type);
    Py_XDECREF(module);
    return reference;
}
#endif

#endif
