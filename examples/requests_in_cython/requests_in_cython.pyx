"""An engine made from a struct of C, whose pages are stored and loaded by requests.

What is submitted is complete at once, or a thread of the engine's calls `done` for it: here that
posts a semaphore, and whoever submitted waits for as many as were pending.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from zswap_core.zswap cimport (
    zswap_api, zswap_config, zswap_create, zswap_engine, zswap_figures, zswap_import, ZSWAP_LOAD,
    ZSWAP_PENDING, zswap_request, ZSWAP_STORE,
)


cdef extern from "<semaphore.h>" nogil:
    ctypedef struct sem_t:
        pass
    int sem_init(sem_t *semaphore, int shared, unsigned int value)
    int sem_wait(sem_t *semaphore)
    int sem_post(sem_t *semaphore)
    int sem_destroy(sem_t *semaphore)


cdef const zswap_api *zswap = zswap_import()


cdef void tell(zswap_request *request) noexcept nogil:
    sem_post(<sem_t *> request.data)


cdef int carry_out(zswap_engine *engine, uint32_t what, unsigned char *pages, uint64_t n,
                   zswap_request *requests, sem_t *semaphore, uint64_t *waited) noexcept nogil:
    """Stores or loads pages 0 to n - 1; 0, or what the first failure came to."""
    cdef uint64_t i, _, pending = 0
    cdef uint32_t size = zswap.page_size(engine)
    cdef int rc, failure = 0
    for i in range(n):
        requests[i].done, requests[i].data = tell, semaphore
        requests[i].what, requests[i].area, requests[i].flags = what, 0, 0
        requests[i].offset, requests[i].page = i, pages + i * size
        rc = zswap.submit(engine, &requests[i])
        if rc == ZSWAP_PENDING:
            pending += 1
        elif rc < 0:
            requests[i].status = rc
    for _ in range(pending):
        while sem_wait(semaphore) != 0:         # a signal
            pass
    for i in range(n):
        if requests[i].status < 0 and failure == 0:
            failure = requests[i].status
    waited[0] = pending
    return failure


def round_trip(data, *, max_pool_bytes, str backing=None):
    """Store whole pages of 4 KiB and load them again; returns them, and how many loads waited."""
    cdef zswap_config config
    cdef zswap_engine *engine
    cdef zswap_request *requests
    cdef zswap_figures figures
    cdef sem_t semaphore
    cdef uint64_t waited = 0, n = len(data) // 4096
    cdef int failure
    cdef bytearray out = bytearray(data)
    cdef unsigned char *pages = out
    cdef bytes path = backing.encode() if backing is not None else None
    memset(&config, 0, sizeof(config))
    config.struct_size, config.max_pool_bytes = sizeof(config), max_pool_bytes
    config.max_memory_bytes = 256 << 20
    config.compressor = b"lz4"
    if path is not None:
        config.backing = path
    requests = <zswap_request *> calloc(n, sizeof(zswap_request))
    if requests == NULL:
        raise MemoryError
    try:
        engine = zswap_create(zswap, &config)
        with nogil:
            sem_init(&semaphore, 0, 0)
            failure = carry_out(engine, ZSWAP_STORE, pages, n, requests, &semaphore, &waited)
            memset(pages, 0, n * 4096)
            if failure == 0:
                failure = carry_out(engine, ZSWAP_LOAD, pages, n, requests, &semaphore, &waited)
            figures.struct_size = sizeof(figures)
            zswap.figures(engine, &figures)
            zswap.unref(engine)
            sem_destroy(&semaphore)
    finally:
        free(requests)
    if failure != 0:
        raise OSError(zswap.status_text(failure).decode())
    return bytes(out), waited, figures.backed_pages
