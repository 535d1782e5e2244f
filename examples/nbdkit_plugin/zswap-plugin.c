/* A compressed RAM disk for nbdkit: the pages of a zswap.ZSwap, from any thread without the GIL.
 *
 *     nbdkit -U disk.sock ./zswap-plugin.so size=4G limit=512M backing=/var/tmp/disk
 *
 * nbdkit goes to the background by a fork, which neither Python nor an engine is to see: both are
 * started after it.  What is wrong with the parameters is to be read at the terminal, though, which
 * is gone by then; so all is tried before the fork, in a child.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>
#include <zswap/zswap.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

#define PAGE 4096u
#define LARGEST ((int64_t)PAGE << 47)   /* an engine's offsets end there */
#define LOCKS 64            /* a power of two */
#define RUN 64u             /* pages in a row that share a lock */

/* ---- parameters ------------------------------------------------------------------------------ */

static int64_t size = -1, limit = -1;
static char *backing, *compressor;
static int encrypt = 1;

static int set_size(int64_t *into, const char *value)
{
    *into = nbdkit_parse_size(value);
    return *into < 0 ? -1 : 0;
}

static int set_text(char **into, char *copy)
{
    free(*into);
    *into = copy;
    return copy == NULL ? -1 : 0;
}

static int disk_config(const char *key, const char *value)
{
    if (strcmp(key, "size") == 0)
        return set_size(&size, value);
    if (strcmp(key, "limit") == 0)
        return set_size(&limit, value);
    if (strcmp(key, "backing") == 0)        /* in the background the folder is another */
        return set_text(&backing, nbdkit_absolute_path(value));
    if (strcmp(key, "compressor") == 0)
        return set_text(&compressor, strdup(value));
    if (strcmp(key, "encrypt") == 0)
        return (encrypt = nbdkit_parse_bool(value)) < 0 ? -1 : 0;
    nbdkit_error("there is no parameter '%s'; there are size, limit, backing, compressor and encrypt",
        key);
    return -1;
}

#define HELP \
    "size=SIZE          (required) of the disk, as 4G\n" \
    "limit=SIZE         what its compressed pages may take of memory (20 % of it)\n" \
    "backing=PATH       a new file for the coldest pages once that is reached\n" \
    "compressor=NAME    as lz4 (the default), lref or zstd:3\n" \
    "encrypt=BOOL       whether the file is encrypted (true)"

static int disk_config_complete(void)
{
    if (size <= 0) {
        nbdkit_error("size= is missing, or 0: how large the disk is to be, as size=4G");
        return -1;
    }
    if (size > LARGEST) {
        nbdkit_error("size=%lld is more than %lld", (long long)size, (long long)LARGEST);
        return -1;
    }
    return 0;
}

/* ---- Python and the engine ------------------------------------------------------------------- */

static const zswap_api *api;
static zswap_engine *engine;
static PyObject *owner;             /* the ZSwap */
static PyThreadState *state;        /* of the thread that started Python, which gave the GIL back */

/* What there is of a page to change, and to write whole, once at a time. */
static struct {
    pthread_rwlock_t lock;
} __attribute__((aligned(64))) locks[LOCKS];

static void say_exception(void)
{
    PyObject *type, *value, *trace, *text;
    const char *words = NULL;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    text = value != NULL ? PyObject_Str(value) : NULL;
    if (text != NULL)
        words = PyUnicode_AsUTF8(text);
    nbdkit_error("%s: %s", type != NULL ? ((PyTypeObject *)type)->tp_name : "Python",
        words != NULL ? words : "no message");
    Py_XDECREF(text);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(trace);
    PyErr_Clear();
}

static int start_python(void)
{
    PyConfig config;
    PyStatus status;
    PyConfig_InitPythonConfig(&config);
    config.parse_argv = 0;
    config.install_signal_handlers = 0;     /* they are nbdkit's */
    /* By its name Python finds the packages beside it, also those of a virtual environment. */
    status = PyConfig_SetBytesString(&config, &config.program_name, PYTHON);
    if (!PyStatus_Exception(status))
        status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    if (!PyStatus_Exception(status))
        return 0;
    nbdkit_error("%s does not start: %s", PYTHON,
        status.err_msg != NULL ? status.err_msg : "no message");
    return -1;
}

/* module.name(*args, **options), of which the last two are taken over. */
static PyObject *call(PyObject *module, const char *name, PyObject *args, PyObject *options)
{
    PyObject *function = PyObject_GetAttrString(module, name), *result = NULL;
    if (function != NULL && args != NULL && options != NULL)
        result = PyObject_Call(function, args, options);
    Py_XDECREF(function);
    Py_XDECREF(args);
    Py_XDECREF(options);
    return result;
}

/* The engine that the parameters ask for, or NULL with an exception set. */
static PyObject *make_engine(void)
{
    unsigned long long bytes = ((uint64_t)size + PAGE - 1) / PAGE * PAGE;
    PyObject *module = PyImport_ImportModule("zswap"), *file = NULL, *made = NULL;
    if (module == NULL) {
        nbdkit_error("%s, which this plugin was built with, cannot import zswap", PYTHON);
        return NULL;
    }
    if (backing != NULL) {
        /* Its name goes at once: a process that is killed leaves no file. */
        file = call(module, "SwapFile", Py_BuildValue("(NK)", PyUnicode_DecodeFSDefault(backing),
            bytes), Py_BuildValue("{s:N,s:O}", "encrypt", PyBool_FromLong(encrypt), "unlink",
            Py_True));
    }
    if (backing == NULL || file != NULL) {
        /* Without a file a full disk takes writes again as soon as there is room for one. */
        made = call(module, "ZSwap", Py_BuildValue("(s)", compressor != NULL ? compressor : "lz4"),
            Py_BuildValue("{s:N,s:O,s:i}",
                "max_pool_bytes", limit >= 0 ? PyLong_FromLongLong(limit) : Py_NewRef(Py_None),
                "backing", file != NULL ? file : Py_None,
                "accept_threshold_percent", file != NULL ? 90 : 100));
    }
    Py_XDECREF(file);
    Py_DECREF(module);
    return made;
}

static int start(void)
{
    if (start_python() != 0)
        return -1;
    owner = make_engine();
    if (owner != NULL)
        api = zswap_import();
    if (api != NULL)
        engine = api->open(owner);
    if (engine == NULL) {
        say_exception();
        return -1;
    }
    if (api->page_size(engine) != PAGE) {
        nbdkit_error("the engine's pages have %u bytes", api->page_size(engine));
        return -1;
    }
    return 0;
}

static void stop(void)
{
    /* Calls that are under way end first; those that come later are refused, since our reference
     * stays.  Python is not ended: the process is about to be. */
    PyObject *closed = PyObject_CallMethod(owner, "close", NULL);
    if (closed == NULL)
        say_exception();
    Py_XDECREF(closed);
}

static void disk_load(void)
{
    /* Extension modules expect to find Python's functions among those that all see. */
    if (dlopen(LIBPYTHON, RTLD_NOW | RTLD_GLOBAL | RTLD_NODELETE) == NULL)
        nbdkit_debug("%s", dlerror());
}

static int disk_get_ready(void)
{
    int status = -1;
    pid_t child = fork();
    if (child == 0) {
        status = start();
        if (status == 0)
            stop();
        _exit(status == 0 ? 0 : 1);
    }
    if (child > 0)
        while (waitpid(child, &status, 0) < 0 && errno == EINTR)
            continue;
    if (child < 0 || (status != 0 && !WIFEXITED(status)))
        nbdkit_error("the engine could not be tried");
    return status == 0 ? 0 : -1;
}

static int disk_after_fork(void)
{
    for (int i = 0; i < LOCKS; i++)
        pthread_rwlock_init(&locks[i].lock, NULL);
    if (start() != 0)
        return -1;
    state = PyEval_SaveThread();
    return 0;
}

static void disk_cleanup(void)
{
    if (state != NULL) {
        PyEval_RestoreThread(state);
        stop();
    }
}

/* ---- pages ----------------------------------------------------------------------------------- */

static pthread_rwlock_t *lock_of(uint64_t page)
{
    return &locks[page / RUN % LOCKS].lock;
}

/* Tells the client, and the log what a person can do about it, once. */
static int fail(int status)
{
    static int told;
    switch (status) {
    case ZSWAP_POOL_LIMIT:
    case ZSWAP_ACCEPT_THRESHOLD:
    case ZSWAP_COMPRESS_POOR:
    case ZSWAP_ALLOC_FAIL:
    case ZSWAP_ENTRY_FAIL:
        if (!__atomic_exchange_n(&told, 1, __ATOMIC_RELAXED))
            nbdkit_error("no room for a page: writes fail with ENOSPC until pages are trimmed; "
                "raise limit=%s", backing == NULL ? ", or give backing=" : "");
        nbdkit_set_error(ENOSPC);
        break;
    case ZSWAP_CLOSED:
        nbdkit_set_error(ESHUTDOWN);
        break;
    case ZSWAP_NO_MEMORY:
        nbdkit_set_error(ENOMEM);
        break;
    default:
        nbdkit_error("a page could not be %s: zswap.Status(%d)", status == ZSWAP_BACKING_FAIL
            ? "written to or read from the backing file" : "read", status);
        nbdkit_set_error(EIO);
    }
    return -1;
}

/* A page, or zeros where nothing is held. */
static int load(uint64_t page, void *into)
{
    int status = api->load(engine, 0, page, into);
    if (status == ZSWAP_ABSENT)
        memset(into, 0, PAGE);
    else if (status < 0)
        return fail(status);
    return 0;
}

static int store(uint64_t page, const void *from)
{
    int status = api->replace(engine, 0, page, from);
    return status < 0 ? fail(status) : 0;
}

/* Writes a part of a page; zeros where `from` is NULL.  With its lock, for nobody else to write. */
static int change(uint64_t page, uint32_t at, uint32_t count, const void *from)
{
    char whole[PAGE];
    if (load(page, whole) != 0)
        return -1;
    if (from != NULL)
        memcpy(whole + at, from, count);
    else
        memset(whole + at, 0, count);
    return store(page, whole);
}

/* Frees pages that lie in the range whole, the last of the disk among them where that is shorter;
 * with `parts` the bytes of others become zeros. */
static int clear(uint64_t offset, uint64_t count, bool parts)
{
    uint64_t end = offset + count;
    while (offset < end) {
        uint64_t page = offset / PAGE;
        uint32_t at = offset % PAGE;
        pthread_rwlock_t *lock = lock_of(page);
        uint64_t next = (page + 1) * PAGE;      /* where what is done now ends */
        int rc = 0;
        if (at != 0 || (next > end && end != (uint64_t)size)) {
            next = next < end ? next : end;
            if (parts && api->weight(engine, 0, page) != -1) {
                pthread_rwlock_wrlock(lock);
                rc = change(page, at, next - offset, NULL);
                pthread_rwlock_unlock(lock);
            }
        } else {
            uint64_t last = page | (RUN - 1);
            int64_t freed;
            if (last >= end / PAGE)
                last = end == (uint64_t)size ? (end - 1) / PAGE : end / PAGE - 1;
            next = (last + 1) * PAGE;
            pthread_rwlock_rdlock(lock);
            freed = api->invalidate(engine, 0, page, last);
            pthread_rwlock_unlock(lock);
            rc = freed < 0 ? fail(freed) : 0;
        }
        if (rc != 0)
            return -1;
        offset = next;
    }
    return 0;
}

/* ---- requests -------------------------------------------------------------------------------- */

static void *disk_open(int readonly)
{
    (void)readonly;
    return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t disk_get_size(void *handle)
{
    (void)handle;
    return size;
}

static int yes(void *handle)
{
    (void)handle;
    return 1;
}

static int disk_can_fua(void *handle)
{
    (void)handle;
    return NBDKIT_FUA_NATIVE;
}

static int disk_block_size(void *handle, uint32_t *minimum, uint32_t *preferred, uint32_t *maximum)
{
    (void)handle;
    *minimum = 1;
    *preferred = PAGE;
    *maximum = 64 << 20;
    return 0;
}

static int disk_pread(void *handle, void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
    char *into = buf, whole[PAGE];
    (void)handle, (void)flags;
    while (count > 0) {
        uint32_t at = offset % PAGE, n = count < PAGE - at ? count : PAGE - at;
        if (load(offset / PAGE, n == PAGE ? into : whole) != 0)
            return -1;
        if (n < PAGE)
            memcpy(into, whole + at, n);
        into += n, offset += n, count -= n;
    }
    return 0;
}

static int disk_pwrite(void *handle, const void *buf, uint32_t count, uint64_t offset,
    uint32_t flags)
{
    const char *from = buf;
    (void)handle, (void)flags;
    while (count > 0) {
        uint64_t page = offset / PAGE;
        uint32_t at = offset % PAGE, n = count < PAGE - at ? count : PAGE - at;
        pthread_rwlock_t *lock = lock_of(page);
        int rc;
        /* Whole pages go by each other; a part is not to bring back what one has replaced. */
        if (n == PAGE) {
            pthread_rwlock_rdlock(lock);
            rc = store(page, from);
        } else {
            pthread_rwlock_wrlock(lock);
            rc = change(page, at, n, from);
        }
        pthread_rwlock_unlock(lock);
        if (rc != 0)
            return -1;
        from += n, offset += n, count -= n;
    }
    return 0;
}

/* Nothing outlives the process, so nothing is more durable after a flush or with FUA than before:
 * both promise only that all connections see what was written, and they do anyway. */
static int disk_flush(void *handle, uint32_t flags)
{
    (void)handle, (void)flags;
    return 0;
}

static int disk_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    (void)handle, (void)flags;
    return clear(offset, count, false);
}

static int disk_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    (void)handle;
    if (flags & NBDKIT_FLAG_MAY_TRIM)
        return clear(offset, count, true);
    nbdkit_set_error(EOPNOTSUPP);       /* no hole is wanted: nbdkit writes the zeros */
    return -1;
}

static int disk_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags,
    struct nbdkit_extents *extents)
{
    uint64_t at = offset / PAGE * PAGE, end = offset + count;
    (void)handle;
    while (at < end) {
        uint64_t page = at / PAGE, next = page, until;
        int found = api->next_held(engine, 0, &next);
        bool hole = found == 0 || next > page;
        if (found > 0 && !hole)
            found = api->next_hole(engine, 0, &next);
        if (found < 0)
            return fail(found);
        /* Not beyond what was asked for: nbdkit 1.32 aborts where that makes 4 GiB and more. */
        until = found == 0 || next > end / PAGE ? end : next * PAGE;
        if (nbdkit_add_extent(extents, at, until - at,
                hole ? NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO : 0) != 0)
            return -1;
        if (flags & NBDKIT_FLAG_REQ_ONE)
            break;
        at = until;
    }
    return 0;
}

static struct nbdkit_plugin plugin = {
    .name = "zswap",
    .longname = "compressed RAM disk",
    .description = "A RAM disk whose pages are compressed; the coldest go to a file.",
    .load = disk_load,
    .config = disk_config,
    .config_complete = disk_config_complete,
    .config_help = HELP,
    .magic_config_key = "size",
    .get_ready = disk_get_ready,
    .after_fork = disk_after_fork,
    .cleanup = disk_cleanup,
    .open = disk_open,
    .get_size = disk_get_size,
    .can_multi_conn = yes,
    .can_fast_zero = yes,
    .can_fua = disk_can_fua,
    .block_size = disk_block_size,
    .pread = disk_pread,
    .pwrite = disk_pwrite,
    .flush = disk_flush,
    .trim = disk_trim,
    .zero = disk_zero,
    .extents = disk_extents,
};

NBDKIT_REGISTER_PLUGIN(plugin)
