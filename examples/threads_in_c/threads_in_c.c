/* Eight threads of C that store and load pages of a zswap.ZSwap and never hold the GIL. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <zswap/zswap.h>

#define THREADS 8

static const zswap_api *zswap;

struct job {
    zswap_engine *engine;
    uint64_t pages;
    uint64_t held;          /* pages that came back as they were */
    int failure;
};

static void fill(unsigned char *page, size_t size, uint64_t seed)
{
    for (size_t i = 0; i + 8 <= size; i += 8) {
        uint64_t word = seed * 2654435761u + i / 64;
        memcpy(page + i, &word, 8);
    }
}

static void *work(void *arg)
{
    struct job *job = arg;
    size_t size = zswap->page_size(job->engine);
    unsigned char *page = malloc(2 * size);
    uint64_t first = 0;
    job->failure = page == NULL ? ZSWAP_NO_MEMORY
                                : zswap->allocate(job->engine, 0, job->pages, &first);
    for (uint64_t i = 0; job->failure == 0 && i < job->pages; i++) {
        fill(page, size, first + i);
        int status = zswap->store(job->engine, 0, first + i, page);
        if (status >= 0)
            status = zswap->load(job->engine, 0, first + i, page + size);
        if (status < 0)
            job->failure = status;
        else
            job->held += memcmp(page, page + size, size) == 0;
    }
    free(page);
    zswap->unref(job->engine);
    return NULL;
}

static PyObject *run(PyObject *module, PyObject *args)
{
    PyObject *object;
    unsigned long long pages;
    struct job jobs[THREADS] = {{0}};
    pthread_t threads[THREADS];
    uint64_t held = 0;
    int failure = 0, started = 0;
    zswap_engine *engine;
    (void)module;
    if (!PyArg_ParseTuple(args, "OK", &object, &pages))
        return NULL;
    engine = zswap->open(object);
    if (engine == NULL)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    for (; started < THREADS; started++) {
        zswap->ref(engine);
        jobs[started].engine = engine;
        jobs[started].pages = pages;
        if (pthread_create(&threads[started], NULL, work, &jobs[started]) != 0) {
            zswap->unref(engine);
            failure = ZSWAP_NO_MEMORY;
            break;
        }
    }
    for (int i = 0; i < started; i++) {
        pthread_join(threads[i], NULL);
        held += jobs[i].held;
        failure = failure != 0 ? failure : jobs[i].failure;
    }
    zswap->unref(engine);
    Py_END_ALLOW_THREADS
    return Py_BuildValue("Ki", (unsigned long long)held, failure);
}

static PyMethodDef methods[] = {
    {"run", run, METH_VARARGS, "run(z, pages): what came back as it was, and 0 or a failure"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "threads_in_c", NULL, -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit_threads_in_c(void)
{
    zswap = zswap_import();
    return zswap != NULL ? PyModule_Create(&definition) : NULL;
}
