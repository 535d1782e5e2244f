"""An engine's life: created, forked away from, closed."""
from libc.errno cimport ENOMEM
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from zswap_core.departures cimport departures_destroy
from zswap_core.entry cimport zsw_entry
from zswap_core.extents cimport zsw_extent
from zswap_core.fault cimport fault, Site
from zswap_core.flight cimport FLIGHT_BYTES, flights_destroy
from zswap_core.index cimport area_destroy, index_destroy, index_init, index_meter
from zswap_core.maintenance cimport maintenance_stop
from zswap_core.os cimport (
    EDEADLK, zsw_cpu_count, zsw_load_u32, zsw_lock, zsw_mutex, zsw_sleep_ns, zsw_store_u32,
    zsw_swap_u32, zsw_unlock,
)
from zswap_core.parking cimport spare_destroy
from zswap_core.pool cimport destroy_pools
from zswap_core.promote cimport touches_destroy
from zswap_core.slab cimport ANY_ID, slab_destroy, slab_init
from zswap_core.state cimport MAX_AREAS, WRITEBACK_BATCH, zsw_engine, zsw_worker
from zswap_core.streams cimport streams_destroy
from zswap_core.submit cimport requests_destroy, requests_stop, serves_requests
from zswap_core.worker cimport call_depth, first_worker, free_scratch, free_worker_page, wait_calls


cdef extern from "<pthread.h>" nogil:
    int pthread_atfork(void (*prepare)() noexcept nogil, void (*parent)() noexcept nogil,
                       void (*child)() noexcept nogil)

cdef zsw_mutex all_lock             # guards the list; taken before any other lock
cdef zsw_engine *all_engines = NULL
cdef bint watching_forks = False


cdef void before_fork() noexcept nogil:
    zsw_lock(&all_lock)


cdef void after_fork_in_parent() noexcept nogil:
    zsw_unlock(&all_lock)


cdef void after_fork_in_child() noexcept nogil:
    cdef zsw_engine *e = all_engines
    while e != NULL:
        e.closing = 1
        e.forked = 1
        e = e.next_engine
    zsw_unlock(&all_lock)


cdef void list_engine(zsw_engine *e) noexcept nogil:
    global all_engines, watching_forks
    zsw_lock(&all_lock)
    if not watching_forks:
        watching_forks = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child) == 0
    e.next_engine = all_engines
    all_engines = e
    zsw_unlock(&all_lock)


cdef void unlist_engine(zsw_engine *e) noexcept nogil:
    global all_engines
    cdef zsw_engine **link
    zsw_lock(&all_lock)
    link = &all_engines
    while link[0] != NULL and link[0] != e:
        link = &link[0].next_engine
    if link[0] != NULL:
        link[0] = e.next_engine
    zsw_unlock(&all_lock)


cdef int engine_create(uint32_t page_size, zsw_engine **out) noexcept nogil:
    """An engine with no pool and no area yet, whose limit admits nothing."""
    cdef zsw_engine *e = NULL
    cdef zsw_worker *w
    cdef uint32_t cpus
    cdef int rc
    if fault(Site.ENGINE) == 0:
        e = <zsw_engine *> calloc(1, sizeof(zsw_engine))
    if e == NULL:
        return -ENOMEM
    e.page_size = page_size
    e.params.shrinker_interval_ns = 1000000000
    e.params.writeback_limit = -1
    e.latency_epoch = 1
    e.budget.metered_span = e.budget.look_pages = <uint64_t> -1     # there is none
    e.flight_room = min(<uint32_t> WRITEBACK_BATCH, <uint32_t> FLIGHT_BYTES // page_size)
    cpus = zsw_cpu_count()
    e.workers = <zsw_worker **> calloc(cpus,
                                       sizeof(zsw_worker *)) if fault(Site.ENGINE) == 0 else NULL
    rc = 0 if e.workers != NULL else -ENOMEM
    while rc == 0 and e.worker_count < cpus:
        w = <zsw_worker *> calloc(1, sizeof(zsw_worker)) if fault(Site.WORKER) == 0 else NULL
        if w == NULL:
            rc = -ENOMEM
        else:
            w.next = e.all_workers
            e.workers[e.worker_count] = e.all_workers = w
            e.worker_count += 1
    index_init(&e.index)
    slab_init(&e.entries, sizeof(zsw_entry), ANY_ID)
    e.entries.beside = sizeof(uint16_t)         # for stamps of the LRU
    slab_init(&e.extents, sizeof(zsw_extent), ANY_ID)
    index_meter(&e.index, &e.budget.metered)
    e.entries.meter = e.extents.meter = &e.budget.metered
    list_engine(e)
    if rc != 0:
        engine_close(e)
        engine_free(e)
        return rc
    out[0] = e
    return 0


cdef int engine_close(zsw_engine *e) noexcept nogil:
    """Refuses new calls, waits for those in flight and frees all memory but the engine's shell, its
    workers and areas: a thread that has just left a call, or waits for others to end, may still
    look at those.  1 when another thread does, or did, the same; -EDEADLK from inside a call, or
    from the thread that serves requests."""
    cdef uint32_t i
    cdef zsw_worker *w
    if not e.forked and (call_depth(e) > 0 or serves_requests(e)):
        return -EDEADLK
    if zsw_swap_u32(&e.closing, 1) != 0 and not e.forked:
        while not zsw_load_u32(&e.closed):
            zsw_sleep_ns(20000)
        return 1
    if not e.forked:
        wait_calls(e)
        requests_stop(e)
        maintenance_stop(e)
    destroy_pools(e)
    for i in range(<uint32_t> MAX_AREAS):
        if e.areas[i] != NULL:
            area_destroy(e.areas[i])
    w = first_worker(e)
    while w != NULL:
        free_scratch(w)
        free_worker_page(e, w)
        w = w.next
    departures_destroy(e)
    flights_destroy(e)
    touches_destroy(e)
    streams_destroy(e)
    spare_destroy(e)
    requests_destroy(e)
    index_destroy(&e.index)
    slab_destroy(&e.entries)
    slab_destroy(&e.extents)
    zsw_store_u32(&e.closed, 1)
    return 0


cdef void engine_free(zsw_engine *e) noexcept nogil:
    """Frees the shell of a closed engine that nobody can reach any more."""
    cdef zsw_worker *w
    cdef uint32_t i
    unlist_engine(e)
    for i in range(<uint32_t> MAX_AREAS):
        free(e.areas[i])
    while e.all_workers != NULL:
        w = e.all_workers
        e.all_workers = w.next
        free(w)
    free(e.workers)
    free(e)
