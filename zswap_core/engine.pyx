# cython: language_level=3
"""The engine.

A store looks for a same-filled page, asks the limits, compresses into the worker's scratch, copies the result into an object
of the zpool, and only then publishes: under the shard's lock the index slot changes from the old entry to the new and both
change places in the LRU, so nobody ever sees half an entry.  The old entry loses the index's reference, and whoever drops
the last reference frees it.  A load takes a reference under the shard's lock and decompresses after letting go of it.

A pool needs no reference a call.  Calls use pools only while their worker is busy, so once every worker that was busy has
been given back, an empty pool that is not current has no user left (the maintenance thread waits for that).
"""
from libc.errno cimport EINVAL, ENOMEM, ENOSPC, EPIPE
from libc.stdint cimport int8_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from zswap_core.abi cimport ZSW_COMPRESSOR_STATELESS_DECOMPRESS, ZSW_HANDLE_MAX
from zswap_core.entry cimport (ENTRY_REFS, ENTRY_SAME, entry_get, entry_put, entry_touch, state_new, word_handle,
                               word_length, word_pack, word_pool, zsw_entry)
from zswap_core.index cimport (RUN_PAGES, SHARD_PAGES, SHARD_SHIFT, area_add_shard, area_bytes, area_destroy, area_init,
                               area_shard, area_shards, area_validate, index_bytes, index_destroy, index_init, pos_shard, shard_collect,
                               shard_erase, shard_find, shard_reserve, shard_table, zsw_shard)
from zswap_core.lru cimport lru_add, lru_remove
from zswap_core.os cimport (EDEADLK, pthread_t, zsw_add_i64, zsw_add_u32, zsw_add_u64, zsw_cas_u32, zsw_cpu, zsw_cpu_count,
                            zsw_depth, zsw_depth_add, zsw_futex_wait, zsw_futex_wake, zsw_load_i64, zsw_load_ptr, zsw_load_u32, zsw_lock,
                            zsw_map, zsw_now_ns, zsw_now_s, zsw_peek_i64, zsw_peek_u32, zsw_peek_u64, zsw_poke_i64,
                            zsw_poke_u32, zsw_poke_u64, zsw_sleep_ns, zsw_store_ptr, zsw_store_u32, zsw_swap_u32,
                            zsw_thread_join, zsw_thread_start, zsw_unlikely, zsw_unlock, zsw_unmap, zsw_yield)
from zswap_core.pool cimport pool_create, pool_destroy, pool_matches
from zswap_core.samefilled cimport same_fill, same_filled
from zswap_core.slab cimport (slab_at, slab_bytes, slab_destroy, slab_give, slab_init, slab_limit, slab_take, slab_validate)
from zswap_core.stats cimport Counter, count
from zswap_core.status cimport Status

cdef enum:
    CHUNK = 64                  # pages a thread takes from a batch at a time


# ---- fork: a child gets a copy whose locks may be held by threads it does not have -----------------------------------

cdef extern from "<pthread.h>" nogil:
    int pthread_atfork(void (*prepare)() noexcept nogil, void (*parent)() noexcept nogil, void (*child)() noexcept nogil)

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


# ---- workers --------------------------------------------------------------------------------------------------------


cdef int engine_create(uint32_t page_size, zsw_engine **out) noexcept nogil:
    """An engine with no pool and no area yet, whose limit admits nothing."""
    cdef zsw_engine *e = <zsw_engine *> calloc(1, sizeof(zsw_engine))
    cdef uint32_t i
    cdef int rc
    if e == NULL:
        return -ENOMEM
    e.page_size = page_size
    e.params.enabled = 1
    e.params.same_filled_pages_enabled = 1
    e.worker_count = zsw_cpu_count()
    e.workers = <zsw_worker **> calloc(e.worker_count, sizeof(zsw_worker *))
    rc = 0 if e.workers != NULL else -ENOMEM
    if rc == 0:
        for i in range(e.worker_count):
            e.workers[i] = <zsw_worker *> calloc(1, sizeof(zsw_worker))
            if e.workers[i] == NULL:
                rc = -ENOMEM
    if rc == 0:
        rc = index_init(&e.index)
    if rc == 0:
        rc = slab_init(&e.entries, sizeof(zsw_entry))
    list_engine(e)
    if rc != 0:
        engine_close(e)
        engine_free(e)
        return rc
    out[0] = e
    return 0


cdef zsw_worker *engine_enter(zsw_engine *e, int *rc) noexcept nogil:
    """Begins a call: a worker of the caller's own until engine_leave.  NULL, with -EPIPE when the engine is closed, or -ENOMEM."""
    cdef uint32_t i, at = zsw_cpu()
    cdef zsw_worker *w = NULL
    for i in range(e.worker_count):
        w = e.workers[(at + i) % e.worker_count]
        if zsw_peek_u32(&w.busy) == 0 and zsw_cas_u32(&w.busy, 0, 1):
            break
        w = NULL
    if w == NULL:
        w = <zsw_worker *> zsw_load_ptr(<void **> &e.extra_workers)
        while w != NULL and not (zsw_peek_u32(&w.busy) == 0 and zsw_cas_u32(&w.busy, 0, 1)):
            w = w.next
    if zsw_unlikely(w == NULL):
        w = <zsw_worker *> calloc(1, sizeof(zsw_worker))
        if w == NULL:
            rc[0] = -ENOMEM
            return NULL
        w.busy = 1
        zsw_lock(&e.areas_lock)
        w.next = e.extra_workers
        zsw_store_ptr(<void **> &e.extra_workers, w)
        zsw_unlock(&e.areas_lock)
    # busy is set before closing is read, and engine_close sets closing before it reads busy: one of the two sees the other.
    if zsw_unlikely(zsw_load_u32(&e.closing) != 0):
        zsw_store_u32(&w.busy, 0)
        rc[0] = -EPIPE
        return NULL
    w.now = zsw_now_s()
    zsw_depth_add(1)
    return w


cdef void flush_entries(zsw_engine *e, zsw_worker *w) noexcept nogil:
    cdef zsw_pool *pool = w.counted
    if w.entries != 0:
        if zsw_add_i64(&pool.entries, w.entries) == 0 and pool != <zsw_pool *> zsw_load_ptr(<void **> &e.current):
            zsw_add_u32(&e.work, 1)
            zsw_futex_wake(&e.work, 1)
        w.entries = 0
    w.counted = NULL


cdef void engine_leave(zsw_engine *e, zsw_worker *w) noexcept nogil:
    flush_entries(e, w)
    zsw_depth_add(-1)
    zsw_poke_u32(&w.uses, w.uses + 1)
    zsw_store_u32(&w.busy, 0)


cdef inline void count_entry(zsw_engine *e, zsw_worker *w, zsw_pool *pool, int by) noexcept nogil:
    if w.counted != pool:
        flush_entries(e, w)
        w.counted = pool
    w.entries += by


cdef void *worker_context(zsw_worker *w, zsw_pool *pool) noexcept nogil:
    """The worker's context for the pool's compressor, made on first use; NULL when there is no memory for it."""
    if w.contexts[pool.id] == NULL:
        if pool.compressor.ops.ctx_new(pool.compressor.state, &w.contexts[pool.id]) != 0:
            w.contexts[pool.id] = NULL
    return w.contexts[pool.id]


cdef bint worker_scratch(zsw_worker *w, size_t size) noexcept nogil:
    if w.scratch_size >= size:
        return True
    zsw_unmap(w.scratch, w.scratch_size)
    w.scratch_size = 0
    w.scratch = <uint8_t *> zsw_map(size)
    if w.scratch == NULL:
        return False
    w.scratch_size = size
    return True


cdef void drop_context(zsw_worker *w, zsw_pool *pool) noexcept nogil:
    if w.contexts[pool.id] != NULL:
        pool.compressor.ops.ctx_free(pool.compressor.state, w.contexts[pool.id])
        w.contexts[pool.id] = NULL


cdef void drop_contexts(zsw_engine *e, zsw_pool *pool) noexcept nogil:
    """Frees every worker's context for a pool that nobody uses any more."""
    cdef uint32_t i
    cdef zsw_worker *w
    for i in range(e.worker_count):
        if e.workers != NULL and e.workers[i] != NULL:
            drop_context(e.workers[i], pool)
    w = e.extra_workers
    while w != NULL:
        drop_context(w, pool)
        w = w.next


cdef void wait_worker(zsw_worker *w) noexcept nogil:
    """Returns once the call that has this worker now, if any, has ended."""
    cdef uint32_t uses = zsw_load_u32(&w.uses)
    while zsw_load_u32(&w.busy) != 0 and zsw_load_u32(&w.uses) == uses:
        zsw_sleep_ns(20000)


cdef void wait_calls(zsw_engine *e) noexcept nogil:
    """Returns once every call that is in flight now has ended."""
    cdef uint32_t i
    cdef zsw_worker *w
    for i in range(e.worker_count):
        wait_worker(e.workers[i])
    w = <zsw_worker *> zsw_load_ptr(<void **> &e.extra_workers)
    while w != NULL:
        wait_worker(w)
        w = w.next


# ---- closing --------------------------------------------------------------------------------------------------------


cdef int engine_close(zsw_engine *e) noexcept nogil:
    """Refuses new calls, waits for those in flight and frees all memory but the engine's shell.  -EDEADLK from inside a call."""
    cdef uint32_t i
    cdef zsw_worker *w
    if zsw_depth() > 0 and not e.forked:
        return -EDEADLK
    if zsw_swap_u32(&e.closing, 1) != 0 and not e.forked:
        return 0
    if not e.forked:
        if e.workers != NULL:
            for i in range(e.worker_count):
                if e.workers[i] != NULL:
                    wait_worker(e.workers[i])
        w = <zsw_worker *> zsw_load_ptr(<void **> &e.extra_workers)
        while w != NULL:
            wait_worker(w)
            w = w.next
        if e.thread_started:
            zsw_store_u32(&e.stop, 1)
            zsw_add_u32(&e.work, 1)
            zsw_futex_wake(&e.work, 1)
            zsw_thread_join(e.thread)
            e.thread_started = 0
    for i in range(MAX_POOLS):
        if e.pools[i] != NULL:
            drop_contexts(e, e.pools[i])
            pool_destroy(e.pools[i])
            e.pools[i] = NULL
    e.current = NULL
    for i in range(MAX_AREAS):
        if e.areas[i] != NULL:
            area_destroy(e.areas[i])
            free(e.areas[i])
            e.areas[i] = NULL
    index_destroy(&e.index)
    slab_destroy(&e.entries)
    return 0


cdef void free_worker(zsw_worker *w) noexcept nogil:
    if w != NULL:
        zsw_unmap(w.scratch, w.scratch_size)
        free(w)


cdef void engine_free(zsw_engine *e) noexcept nogil:
    """Frees the shell of a closed engine that nobody can reach any more."""
    cdef uint32_t i
    cdef zsw_worker *w = e.extra_workers
    cdef zsw_worker *after
    unlist_engine(e)
    if e.workers != NULL:
        for i in range(e.worker_count):
            free_worker(e.workers[i])
    while w != NULL:
        after = w.next
        free_worker(w)
        w = after
    free(e.workers)
    free(e)


# ---- pools ----------------------------------------------------------------------------------------------------------


cdef zsw_pool *find_pool(zsw_engine *e, const zsw_compressor *compressor, const zsw_zpool_ops *ops,
                         const zsw_zpool_config *config) noexcept nogil:
    cdef uint32_t i
    for i in range(e.pool_limit):
        if e.pools[i] != NULL and not e.pools[i].retired and pool_matches(e.pools[i], compressor, ops, config):
            return e.pools[i]
    return NULL


cdef void make_current(zsw_engine *e, zsw_pool *pool) noexcept nogil:
    zsw_store_ptr(<void **> &e.current, pool)
    zsw_add_u32(&e.work, 1)                     # the one that was current may be empty
    zsw_futex_wake(&e.work, 1)


cdef int engine_use_pool(zsw_engine *e, const zsw_compressor *compressor, const zsw_zpool_ops *ops,
                         const zsw_zpool_config *config) noexcept nogil:
    """Makes the pool of this compressor and zpool current, with a new one where there is none.  On failure nothing changes."""
    cdef zsw_pool *pool
    cdef uint32_t id
    cdef int rc = 0
    zsw_lock(&e.pools_lock)
    if e.current != NULL and not e.thread_started:
        rc = zsw_thread_start(&e.thread, maintain, e)
        e.thread_started = 1 if rc == 0 else 0
    pool = find_pool(e, compressor, ops, config) if rc == 0 else NULL
    if rc == 0 and pool == NULL:
        id = 0
        while id < MAX_POOLS and e.pool_claimed[id]:
            id += 1
        rc = pool_create(compressor, ops, config, &pool) if id < MAX_POOLS else -ENOSPC
        if rc == 0:
            pool.id = id
            e.pool_claimed[id] = 1
            zsw_store_ptr(<void **> &e.pools[id], pool)
            if id >= e.pool_limit:
                zsw_store_u32(&e.pool_limit, id + 1)
    if rc == 0:
        make_current(e, pool)
    zsw_unlock(&e.pools_lock)
    return rc


cdef void retire_pools(zsw_engine *e) noexcept nogil:
    """Frees the pools that are empty and not current."""
    cdef uint32_t id
    cdef zsw_pool *pool
    cdef zsw_zpool_stats stats
    for id in range(MAX_POOLS):
        zsw_lock(&e.pools_lock)
        pool = e.pools[id]
        if pool != NULL and pool != e.current and zsw_load_i64(&pool.entries) == 0:
            pool.retired = 1
        else:
            pool = NULL
        zsw_unlock(&e.pools_lock)
        if pool == NULL:
            continue
        # A store that took this pool while it was current may still be about to publish, and entries it has published may
        # not be counted yet: both are over when the calls of this moment are.
        wait_calls(e)
        if zsw_load_i64(&pool.entries) != 0:
            continue                            # it drains, and its last entry wakes us again
        zsw_lock(&e.pools_lock)
        zsw_store_ptr(<void **> &e.pools[id], NULL)
        zsw_unlock(&e.pools_lock)
        wait_calls(e)                           # those that walk all pools may hold the pointer
        pool.ops.stats(pool.zpool, &stats)
        e.pages_compacted += stats.pages_compacted
        drop_contexts(e, pool)
        pool_destroy(pool)
        zsw_lock(&e.pools_lock)
        e.pool_claimed[id] = 0                  # only now: a new pool of that id would have met the old one's contexts
        zsw_unlock(&e.pools_lock)


cdef void *maintain(void *arg) noexcept nogil:
    """The maintenance thread."""
    cdef zsw_engine *e = <zsw_engine *> arg
    cdef uint32_t seen
    while True:
        seen = zsw_load_u32(&e.work)
        if zsw_load_u32(&e.stop):
            return NULL
        retire_pools(e)
        if not zsw_load_u32(&e.stop):
            zsw_futex_wait(&e.work, seen)


cdef uint64_t pool_pages(zsw_engine *e) noexcept nogil:
    cdef uint64_t pages = 0
    cdef uint32_t i
    cdef zsw_pool *pool
    for i in range(zsw_load_u32(&e.pool_limit)):
        pool = <zsw_pool *> zsw_load_ptr(<void **> &e.pools[i])
        if pool != NULL:
            pages += pool.ops.total_pages(pool.zpool)
    return pages


cdef void trim_pools(zsw_engine *e) noexcept nogil:
    cdef uint32_t i
    cdef zsw_pool *pool
    for i in range(zsw_load_u32(&e.pool_limit)):
        pool = <zsw_pool *> zsw_load_ptr(<void **> &e.pools[i])
        if pool != NULL:
            pool.ops.trim(pool.zpool)


cdef int check_limits(zsw_engine *e, zsw_worker *w) noexcept nogil:
    """STORED when a page may come in, else the reason why not."""
    cdef uint64_t pages = pool_pages(e), limit = zsw_peek_u64(&e.params.max_pages)
    if zsw_unlikely(pages >= limit):
        trim_pools(e)                           # memory that only waits for reuse is no reason to refuse
        pages = pool_pages(e)
        if pages >= limit:
            zsw_store_u32(&e.reached_full, 1)
            count(w.counters, Counter.pool_limit_hit, 1)
            return Status.POOL_LIMIT
    if zsw_unlikely(zsw_peek_u32(&e.reached_full) != 0):
        if pages > zsw_peek_u64(&e.params.accept_pages):
            count(w.counters, Counter.reject_accept_threshold, 1)
            return Status.ACCEPT_THRESHOLD
        zsw_store_u32(&e.reached_full, 0)
    return Status.STORED


# ---- areas ----------------------------------------------------------------------------------------------------------


cdef int engine_swapon(zsw_engine *e, uint32_t type, uint64_t nr_pages) noexcept nogil:
    """Brings a swap area of `nr_pages` offsets online.  -EINVAL when it is online already or the numbers are out of range."""
    cdef zsw_area *area
    cdef int rc = 0
    if type >= MAX_AREAS or nr_pages == 0 or nr_pages > <uint64_t> 1 << MAX_OFFSET_SHIFT:
        return -EINVAL
    zsw_lock(&e.areas_lock)
    area = e.areas[type]
    if area == NULL:
        area = <zsw_area *> calloc(1, sizeof(zsw_area))
        rc = area_init(area, type) if area != NULL else -ENOMEM
        if rc != 0:
            free(area)
        else:
            zsw_store_ptr(<void **> &e.areas[type], area)
    elif area.online:
        rc = -EINVAL
    if rc == 0:
        zsw_poke_u64(&area.nr_pages, nr_pages)
        zsw_store_u32(&area.online, 1)
    zsw_unlock(&e.areas_lock)
    return rc


cdef int engine_swapoff(zsw_engine *e, zsw_worker *w, uint32_t type) noexcept nogil:
    """Takes an area offline and frees all it held.  -EINVAL when it is not online."""
    cdef zsw_area *area
    cdef int rc = -EINVAL
    if type >= MAX_AREAS:
        return rc
    zsw_lock(&e.areas_lock)
    area = e.areas[type]
    if area != NULL and area.online:
        zsw_store_u32(&area.online, 0)
        rc = 0
    zsw_unlock(&e.areas_lock)
    if rc == 0:
        # A store checks `online` under its shard's lock.  Taking area.grow here orders us with a shard that is being added:
        # either we see it below, or its store sees the area offline.
        zsw_lock(&area.grow)
        zsw_unlock(&area.grow)
        invalidate_area(e, w, area, 0, <uint64_t> -1)
    return rc


cdef inline zsw_area *find_area(zsw_engine *e, uint32_t type, uint64_t offset) noexcept nogil:
    cdef zsw_area *area = <zsw_area *> zsw_load_ptr(<void **> &e.areas[type]) if type < MAX_AREAS else NULL
    if area == NULL or not zsw_load_u32(&area.online) or offset >= zsw_peek_u64(&area.nr_pages):
        return NULL
    return area


# ---- entries --------------------------------------------------------------------------------------------------------


cdef inline zsw_entry *entry_at(zsw_engine *e, uint32_t id) noexcept nogil:
    return <zsw_entry *> slab_at(&e.entries, id)


cdef uint32_t take_entry(zsw_engine *e, zsw_worker *w) noexcept nogil:
    if w.spares == 0:
        w.spares = slab_take(&e.entries, w.spare, SPARE_ENTRIES // 2)
        if w.spares == 0:
            return 0
    w.spares -= 1
    return w.spare[w.spares]


cdef void give_entry(zsw_engine *e, zsw_worker *w, uint32_t id) noexcept nogil:
    zsw_poke_u32(&entry_at(e, id).pos, 0)       # a walk over all entries tells by this that it is free
    if w.spares == SPARE_ENTRIES:
        w.spares = SPARE_ENTRIES // 2
        slab_give(&e.entries, &w.spare[SPARE_ENTRIES // 2], SPARE_ENTRIES // 2)
    w.spare[w.spares] = id
    w.spares += 1


cdef void free_entry(zsw_engine *e, zsw_worker *w, uint32_t id) noexcept nogil:
    """Frees an entry that has lost its last reference, and its object."""
    cdef zsw_entry *entry = entry_at(e, id)
    cdef zsw_pool *pool
    cdef uint32_t length
    if entry.state & ENTRY_SAME:
        count(w.counters, Counter.same_filled_pages, -1)
    else:
        pool = e.pools[word_pool(entry.word)]
        length = word_length(entry.word)
        pool.ops.free(pool.zpool, word_handle(entry.word))
        count(w.counters, Counter.compressed_bytes, -<int64_t> length)
        if length == e.page_size:
            count(w.counters, Counter.stored_incompressible_pages, -1)
        count_entry(e, w, pool, -1)
    count(w.counters, Counter.stored_pages, -1)
    give_entry(e, w, id)


cdef inline void put_entry(zsw_engine *e, zsw_worker *w, uint32_t id) noexcept nogil:
    if entry_put(entry_at(e, id)):
        free_entry(e, w, id)


# ---- store ----------------------------------------------------------------------------------------------------------


cdef int publish(zsw_engine *e, zsw_worker *w, zsw_area *area, uint64_t offset, uint32_t id) noexcept nogil:
    """Puts a complete entry into the index and the LRU, in place of the old one if there is one."""
    cdef zsw_entry *entry = entry_at(e, id)
    cdef zsw_shard *shard = area_shard(&e.index, area, offset >> SHARD_SHIFT)
    cdef uint32_t *slot
    cdef uint32_t pos, old
    if zsw_unlikely(shard == NULL) and area_add_shard(&e.index, area, offset >> SHARD_SHIFT, &shard) != 0:
        return Status.ENTRY_FAIL
    zsw_lock(&shard.lock)
    if zsw_unlikely(zsw_load_u32(&area.online) == 0):
        zsw_unlock(&shard.lock)
        return Status.NO_AREA
    if shard_reserve(&e.index, shard, offset & (SHARD_PAGES - 1), &slot, &pos) != 0:
        zsw_unlock(&shard.lock)
        return Status.ENTRY_FAIL
    old = slot[0]
    slot[0] = id
    zsw_poke_u32(&entry.pos, pos)
    # The LRU comes last: what walks it may take any entry it finds there for complete.
    zsw_lock(&e.lru.lock)
    if old and not entry_at(e, old).state & ENTRY_SAME:
        lru_remove(&e.lru, &e.entries, old)
    if not entry.state & ENTRY_SAME:
        lru_add(&e.lru, &e.entries, id)
    zsw_unlock(&e.lru.lock)
    zsw_unlock(&shard.lock)
    if old:
        count(w.counters, Counter.duplicate_entry, 1)
        put_entry(e, w, old)
    return Status.STORED


cdef int compress_page(zsw_engine *e, zsw_worker *w, zsw_pool *pool, const uint8_t *page, uint64_t *word) noexcept nogil:
    """Compresses a page into an object of the pool; a page that would take a whole allocator page is kept raw."""
    cdef void *context = NULL
    cdef const uint8_t *source = w.scratch
    cdef uint8_t *object
    cdef uint64_t handle
    cdef int64_t length
    cdef int rc
    if pool.compressor.ops.ctx_new != NULL:
        context = worker_context(w, pool)
        if zsw_unlikely(context == NULL):
            return Status.ALLOC_FAIL
    if zsw_unlikely(not worker_scratch(w, pool.bound)):
        return Status.ALLOC_FAIL
    source = w.scratch
    length = pool.compressor.ops.compress(pool.compressor.state, context, page, e.page_size, w.scratch, w.scratch_size)
    if zsw_unlikely(length < 0):
        return Status.COMPRESS_FAIL
    if length == 0 or <uint64_t> length > pool.max_saving:
        if zsw_peek_u32(&e.params.reject_compress_poor):
            return Status.COMPRESS_POOR
        source = page
        length = e.page_size
    rc = pool.ops.malloc(pool.zpool, <size_t> length, &handle, &object)
    if zsw_unlikely(rc != 0):
        return Status.COMPRESS_POOR if rc == -ENOSPC else Status.ALLOC_FAIL
    if zsw_unlikely(handle > ZSW_HANDLE_MAX):
        pool.ops.free(pool.zpool, handle)
        return Status.ALLOC_FAIL
    memcpy(object, source, <size_t> length)
    word[0] = word_pack(handle, <uint32_t> length, pool.id)
    return Status.STORED


cdef int hold_same_filled(zsw_engine *e, zsw_worker *w, zsw_area *area, uint64_t offset, uint64_t value) noexcept nogil:
    cdef uint32_t id = take_entry(e, w)
    cdef zsw_entry *entry
    cdef int rc
    if zsw_unlikely(id == 0):
        return Status.ENTRY_FAIL
    entry = entry_at(e, id)
    zsw_poke_u64(&entry.word, value)
    zsw_store_u32(&entry.state, state_new(True, w.now))
    count(w.counters, Counter.stored_pages, 1)
    count(w.counters, Counter.same_filled_pages, 1)
    rc = publish(e, w, area, offset, id)
    if zsw_unlikely(rc < 0):
        free_entry(e, w, id)
        return rc
    return Status.SAME_FILLED


cdef int hold_compressed(zsw_engine *e, zsw_worker *w, zsw_area *area, uint64_t offset,
                         const uint8_t *page) noexcept nogil:
    cdef zsw_pool *pool
    cdef zsw_entry *entry
    cdef uint64_t word = 0
    cdef uint32_t id, length
    cdef int rc = check_limits(e, w)
    if rc < 0:
        return rc
    pool = <zsw_pool *> zsw_load_ptr(<void **> &e.current)
    rc = compress_page(e, w, pool, page, &word)
    if zsw_unlikely(rc < 0):
        return rc
    id = take_entry(e, w)
    if zsw_unlikely(id == 0):
        pool.ops.free(pool.zpool, word_handle(word))
        return Status.ENTRY_FAIL
    entry = entry_at(e, id)
    zsw_poke_u64(&entry.word, word)
    zsw_store_u32(&entry.state, state_new(False, w.now))
    length = word_length(word)
    # Counted before it is published: from then on another thread may free it.
    count_entry(e, w, pool, 1)
    count(w.counters, Counter.stored_pages, 1)
    count(w.counters, Counter.compressed_bytes, length)
    if length == e.page_size:
        count(w.counters, Counter.stored_incompressible_pages, 1)
    rc = publish(e, w, area, offset, id)
    if zsw_unlikely(rc < 0):
        free_entry(e, w, id)
        return rc
    return Status.INCOMPRESSIBLE if length == e.page_size else Status.STORED


cdef void count_refusal(zsw_worker *w, int status) noexcept nogil:
    # The two limits have counted themselves.
    if status == Status.DISABLED:
        count(w.counters, Counter.reject_disabled, 1)
    elif status == Status.NO_AREA:
        count(w.counters, Counter.reject_area, 1)
    elif status == Status.COMPRESS_POOR:
        count(w.counters, Counter.reject_compress_poor, 1)
    elif status == Status.COMPRESS_FAIL:
        count(w.counters, Counter.reject_compress_fail, 1)
    elif status == Status.ALLOC_FAIL:
        count(w.counters, Counter.reject_alloc_fail, 1)
    elif status == Status.ENTRY_FAIL:
        count(w.counters, Counter.reject_kmemcache_fail, 1)


cdef int engine_store(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset, const uint8_t *page) noexcept nogil:
    """Holds a copy of the page; returns its Status.  When it is refused, nothing is held at that offset any more."""
    cdef zsw_area *area = find_area(e, type, offset)
    cdef uint64_t value
    cdef int status
    if zsw_unlikely(area == NULL):
        count_refusal(w, Status.NO_AREA)
        return Status.NO_AREA
    if zsw_unlikely(not zsw_peek_u32(&e.params.enabled)):
        status = Status.DISABLED
    elif zsw_peek_u32(&e.params.same_filled_pages_enabled) and same_filled(page, e.page_size, &value):
        status = hold_same_filled(e, w, area, offset, value)
    else:
        status = hold_compressed(e, w, area, offset, page)
    if zsw_unlikely(status < 0):
        count_refusal(w, status)
        invalidate_area(e, w, area, offset, offset)     # what it held is stale now
    return status


# ---- load -----------------------------------------------------------------------------------------------------------


cdef inline uint32_t find_entry(zsw_engine *e, zsw_shard *shard, uint64_t offset) noexcept nogil:
    """The entry at `offset`, or 0.  Under the shard's lock."""
    cdef uint32_t pos
    cdef uint32_t *slot = shard_find(&e.index, shard, offset & (SHARD_PAGES - 1), &pos)
    return slot[0] if slot != NULL else 0


cdef int read_object(zsw_engine *e, zsw_worker *w, uint64_t word, uint8_t *page) noexcept nogil:
    """Decompresses the object that `word` names, of which the caller has a reference."""
    cdef zsw_pool *pool = e.pools[word_pool(word)]
    cdef uint32_t length = word_length(word)
    cdef const uint8_t *object = pool.ops.map(pool.zpool, word_handle(word))
    cdef void *context = NULL
    if length == e.page_size:
        memcpy(page, object, length)
        return Status.STORED
    if not pool.compressor.ops.flags & ZSW_COMPRESSOR_STATELESS_DECOMPRESS and pool.compressor.ops.ctx_new != NULL:
        context = worker_context(w, pool)
        if zsw_unlikely(context == NULL):
            return Status.ALLOC_FAIL
    if zsw_unlikely(pool.compressor.ops.decompress(pool.compressor.state, context, object, length, page,
                                                   e.page_size) != <int64_t> e.page_size):
        return Status.CORRUPT
    return Status.STORED


cdef int engine_load(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset, uint8_t *page) noexcept nogil:
    """Fills `page`; returns its Status.  When that is negative the content of `page` is undefined."""
    cdef zsw_area *area = find_area(e, type, offset)
    cdef zsw_shard *shard = NULL
    cdef zsw_entry *entry
    cdef uint64_t word
    cdef uint32_t id = 0
    cdef int status
    if area != NULL:
        shard = area_shard(&e.index, area, offset >> SHARD_SHIFT)
    if shard != NULL:
        zsw_lock(&shard.lock)
        id = find_entry(e, shard, offset)
    if id == 0:
        if shard != NULL:
            zsw_unlock(&shard.lock)
        count(w.counters, Counter.load_misses, 1)
        return Status.ABSENT
    entry = entry_at(e, id)
    word = entry.word
    if entry.state & ENTRY_SAME:
        entry_touch(entry, w.now)
        zsw_unlock(&shard.lock)
        same_fill(page, e.page_size, word)
        status = Status.SAME_FILLED
    else:
        if zsw_unlikely(not entry_get(entry, w.now)):
            zsw_unlock(&shard.lock)
            zsw_yield()                         # over 250 threads are reading this very page
            return engine_load(e, w, type, offset, page)
        word = entry.word
        zsw_unlock(&shard.lock)
        status = read_object(e, w, word, page)
        put_entry(e, w, id)
        if zsw_unlikely(status < 0):
            if status == Status.CORRUPT:
                count(w.counters, Counter.decompress_fail, 1)
            return status
    count(w.counters, Counter.loads, 1)
    if zsw_unlikely(zsw_peek_u32(&e.params.exclusive_loads) != 0):
        erase_same(e, w, shard, offset, id, word)
    return status


cdef bint engine_contains(zsw_engine *e, uint32_t type, uint64_t offset) noexcept nogil:
    return engine_length(e, type, offset) >= 0


cdef int64_t engine_length(zsw_engine *e, uint32_t type, uint64_t offset) noexcept nogil:
    """Bytes that the page at `offset` was compressed to: 0 when same-filled, the page size when raw, -1 when absent."""
    cdef zsw_area *area = find_area(e, type, offset)
    cdef zsw_shard *shard = area_shard(&e.index, area, offset >> SHARD_SHIFT) if area != NULL else NULL
    cdef zsw_entry *entry
    cdef uint32_t id
    cdef int64_t length = -1
    if shard != NULL:
        zsw_lock(&shard.lock)
        id = find_entry(e, shard, offset)
        if id:
            entry = entry_at(e, id)
            length = 0 if entry.state & ENTRY_SAME else word_length(entry.word)
        zsw_unlock(&shard.lock)
    return length


# ---- invalidate -----------------------------------------------------------------------------------------------------


cdef void erase_same(zsw_engine *e, zsw_worker *w, zsw_shard *shard, uint64_t offset, uint32_t id,
                     uint64_t word) noexcept nogil:
    """Erases the entry at `offset` if it is still the one that was loaded."""
    cdef zsw_entry *entry = entry_at(e, id)
    cdef bint found
    zsw_lock(&shard.lock)
    found = find_entry(e, shard, offset) == id and entry.word == word
    if found:
        if not entry.state & ENTRY_SAME:
            zsw_lock(&e.lru.lock)
            lru_remove(&e.lru, &e.entries, id)
            zsw_unlock(&e.lru.lock)
        shard_erase(&e.index, shard, offset & (SHARD_PAGES - 1))
    zsw_unlock(&shard.lock)
    if found:
        put_entry(e, w, id)


cdef uint64_t invalidate_shard(zsw_engine *e, zsw_worker *w, zsw_shard *shard, uint32_t first, uint32_t last) noexcept nogil:
    """Erases what the shard holds in first..last (inclusive), one run's worth at a time; returns how many pages that were."""
    cdef uint32_t where[RUN_PAGES]
    cdef uint32_t ids[RUN_PAGES]
    cdef uint32_t i, found
    cdef uint64_t total = 0
    while True:
        zsw_lock(&shard.lock)
        found = shard_collect(&e.index, shard, first, last, where, ids, RUN_PAGES)
        if found:
            zsw_lock(&e.lru.lock)
            for i in range(found):
                if not entry_at(e, ids[i]).state & ENTRY_SAME:
                    lru_remove(&e.lru, &e.entries, ids[i])
            zsw_unlock(&e.lru.lock)
            # From the last to the first: the arrays behind the bitmaps only lose their ends.
            i = found
            while i > 0:
                i -= 1
                shard_erase(&e.index, shard, where[i])
        zsw_unlock(&shard.lock)
        for i in range(found):
            put_entry(e, w, ids[i])
        total += found
        if found < RUN_PAGES:
            return total


cdef uint64_t invalidate_area(zsw_engine *e, zsw_worker *w, zsw_area *area, uint64_t first, uint64_t last) noexcept nogil:
    cdef uint64_t first_shard = first >> SHARD_SHIFT, last_shard = last >> SHARD_SHIFT, slot, total = 0
    cdef uint32_t id, lo, hi
    cdef shard_table *table
    cdef zsw_shard *shard
    if first_shard == last_shard:
        shard = area_shard(&e.index, area, first_shard)
        if shard != NULL:
            total = invalidate_shard(e, w, shard, first & (SHARD_PAGES - 1), last & (SHARD_PAGES - 1))
    else:
        # What is stored meanwhile may stay; what was there before is in this table.
        table = <shard_table *> zsw_load_ptr(<void **> &area.table)
        for slot in range(table.mask + 1):
            id = zsw_load_u32(&table.slots[slot])
            if id == 0:
                continue
            shard = <zsw_shard *> slab_at(&e.index.shards, id)
            if shard.number < first_shard or shard.number > last_shard:
                continue
            lo = first & (SHARD_PAGES - 1) if shard.number == first_shard else 0
            hi = last & (SHARD_PAGES - 1) if shard.number == last_shard else SHARD_PAGES - 1
            total += invalidate_shard(e, w, shard, lo, hi)
    count(w.counters, Counter.invalidates, <int64_t> total)
    return total


cdef uint64_t engine_invalidate(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t first, uint64_t last) noexcept nogil:
    """Frees the pages at first..last (inclusive); returns how many were held."""
    cdef zsw_area *area = find_area(e, type, first)
    if area == NULL or last < first:
        return 0
    return invalidate_area(e, w, area, first, last)


# ---- batches --------------------------------------------------------------------------------------------------------


cdef struct batch:
    zsw_engine *e
    page_call call
    const uint64_t *offsets
    uint8_t *pages
    int8_t *status
    uint32_t *ns
    uint64_t total
    uint64_t next                   # threads take CHUNK pages from here at a time
    uint32_t type


cdef int store_call(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset, uint8_t *page) noexcept nogil:
    return engine_store(e, w, type, offset, page)


cdef void run_batch(batch *b, zsw_worker *w) noexcept nogil:
    cdef uint64_t i, end, before = 0, after
    while True:
        end = zsw_add_u64(&b.next, CHUNK)
        i = end - CHUNK
        if i >= b.total:
            return
        if end > b.total:
            end = b.total
        w.now = zsw_now_s()
        if b.ns != NULL:
            before = zsw_now_ns()
        while i < end:
            b.status[i] = <int8_t> b.call(b.e, w, b.type, b.offsets[i], b.pages + i * b.e.page_size)
            if b.ns != NULL:
                after = zsw_now_ns()
                before = after - before
                b.ns[i] = <uint32_t> before if before >> 32 == 0 else <uint32_t> -1
                before = after
            i += 1


cdef void *batch_thread(void *arg) noexcept nogil:
    cdef batch *b = <batch *> arg
    cdef int rc
    cdef zsw_worker *w = engine_enter(b.e, &rc)
    if w != NULL:                           # else the caller's own thread does all of it
        run_batch(b, w)
        engine_leave(b.e, w)
    return NULL


cdef void run_threads(batch *b, zsw_worker *w, int threads) noexcept nogil:
    """Runs the batch on this thread and on up to threads - 1 helpers.  Fewer helpers only make it slower."""
    cdef pthread_t helpers[MAX_THREADS]
    cdef int started = 0, i
    if threads > MAX_THREADS:
        threads = MAX_THREADS
    while started < threads - 1 and <uint64_t> (started + 1) * CHUNK < b.total:
        if zsw_thread_start(&helpers[started], batch_thread, b) != 0:
            break
        started += 1
    run_batch(b, w)
    for i in range(started):
        zsw_thread_join(helpers[i])


cdef int engine_store_many(zsw_engine *e, zsw_worker *w, uint32_t type, const uint64_t *offsets, const uint8_t *pages,
                           uint64_t count, int threads, int8_t *status, uint32_t *ns) noexcept nogil:
    cdef batch b
    b.e, b.call, b.offsets, b.pages, b.status, b.ns, b.total, b.next, b.type = (
        e, store_call, offsets, <uint8_t *> pages, status, ns, count, 0, type)
    run_threads(&b, w, threads)
    return 0


cdef int engine_load_many(zsw_engine *e, zsw_worker *w, uint32_t type, const uint64_t *offsets, uint8_t *pages,
                          uint64_t count, int threads, int8_t *status, uint32_t *ns) noexcept nogil:
    cdef batch b
    b.e, b.call, b.offsets, b.pages, b.status, b.ns, b.total, b.next, b.type = (
        e, engine_load, offsets, pages, status, ns, count, 0, type)
    run_threads(&b, w, threads)
    return 0


cdef uint64_t engine_invalidate_many(zsw_engine *e, zsw_worker *w, uint32_t type, const uint64_t *offsets,
                                     uint64_t count) noexcept nogil:
    cdef uint64_t i, total = 0
    for i in range(count):
        total += engine_invalidate(e, w, type, offsets[i], offsets[i])
    return total


# ---- looking around -------------------------------------------------------------------------------------------------


cdef uint64_t engine_shards(zsw_engine *e, uint32_t type, uint64_t *numbers, uint64_t capacity) noexcept nogil:
    """Numbers of the area's shards, unsorted; returns how many there are, and writes up to `capacity`."""
    cdef zsw_area *area = find_area(e, type, 0)
    return area_shards(&e.index, area, 0, <uint64_t> -1, numbers, capacity) if area != NULL else 0


cdef uint32_t engine_shard_offsets(zsw_engine *e, uint32_t type, uint64_t number, uint64_t first,
                                   uint64_t *offsets, uint32_t capacity) noexcept nogil:
    """Offsets held in a shard from `first` on, in order, up to `capacity`."""
    cdef zsw_area *area = find_area(e, type, number << SHARD_SHIFT)
    cdef zsw_shard *shard = area_shard(&e.index, area, number) if area != NULL else NULL
    cdef uint32_t where[RUN_PAGES]
    cdef uint32_t ids[RUN_PAGES]
    cdef uint32_t found = 0, got, i, start = 0
    if shard == NULL or first > (number << SHARD_SHIFT | (SHARD_PAGES - 1)):
        return 0
    if first > number << SHARD_SHIFT:
        start = first & (SHARD_PAGES - 1)
    while found < capacity and start < SHARD_PAGES:
        zsw_lock(&shard.lock)
        got = shard_collect(&e.index, shard, start, SHARD_PAGES - 1, where, ids,
                            RUN_PAGES if capacity - found > RUN_PAGES else capacity - found)
        zsw_unlock(&shard.lock)
        if got == 0:
            break
        for i in range(got):
            offsets[found + i] = number << SHARD_SHIFT | where[i]
        found += got
        start = where[got - 1] + 1
    return found


cdef uint64_t engine_area_pages(zsw_engine *e, uint32_t type) noexcept nogil:
    """How many pages an area holds."""
    cdef zsw_area *area = find_area(e, type, 0)
    cdef shard_table *table
    cdef uint64_t slot, pages = 0
    cdef uint32_t id
    if area != NULL:
        table = <shard_table *> zsw_load_ptr(<void **> &area.table)
        for slot in range(table.mask + 1):
            id = zsw_load_u32(&table.slots[slot])
            if id:
                pages += zsw_peek_u32(&(<zsw_shard *> slab_at(&e.index.shards, id)).pages)
    return pages


# ---- compaction -----------------------------------------------------------------------------------------------------


cdef void relocate_entry(zsw_engine *e, zsw_pool *pool, uint32_t id) noexcept nogil:
    """Lets the zpool move the entry's object, if it is still indexed and nobody reads it."""
    cdef zsw_entry *entry = entry_at(e, id)
    cdef uint32_t where, pos = zsw_peek_u32(&entry.pos)
    cdef uint64_t word = zsw_peek_u64(&entry.word), handle
    cdef zsw_shard *shard
    cdef uint32_t *slot
    if pos == 0 or zsw_peek_u32(&entry.state) & ENTRY_SAME or word_pool(word) != pool.id:
        return
    shard = pos_shard(&e.index, pos, &where)
    if shard == NULL:
        return
    zsw_lock(&shard.lock)
    slot = shard_find(&e.index, shard, where, &pos)
    word = entry.word
    # One reference is the index's own: there is no reader, and while we hold the lock none can come.
    if (slot != NULL and slot[0] == id and not entry.state & ENTRY_SAME and word_pool(word) == pool.id
            and (zsw_load_u32(&entry.state) & ENTRY_REFS) == 1):
        if pool.ops.relocate(pool.zpool, word_handle(word), &handle) == 1:
            zsw_poke_u64(&entry.word, word_pack(handle, word_length(word), pool.id))
    zsw_unlock(&shard.lock)


cdef uint64_t engine_compact(zsw_engine *e, zsw_worker *w) noexcept nogil:
    """Moves objects out of sparsely filled memory in every pool; returns the allocator pages freed."""
    cdef uint64_t freed = 0
    cdef uint32_t i, id, limit
    cdef zsw_pool *pool
    zsw_lock(&e.compacting)
    for i in range(zsw_load_u32(&e.pool_limit)):
        pool = <zsw_pool *> zsw_load_ptr(<void **> &e.pools[i])
        if pool == NULL:
            continue
        if pool.ops.compact_begin(pool.zpool) != 0:
            limit = slab_limit(&e.entries)
            for id in range(1, limit):
                relocate_entry(e, pool, id)
        freed += pool.ops.compact_end(pool.zpool)
        pool.ops.trim(pool.zpool)
    zsw_unlock(&e.compacting)
    return freed


# ---- figures and checks ---------------------------------------------------------------------------------------------


cdef void add_counters(zsw_worker *w, zsw_totals *out) noexcept nogil:
    cdef int i
    for i in range(<int> COUNTERS):
        out.counters[i] += zsw_peek_i64(&w.counters[i])
    out.metadata_bytes += sizeof(zsw_worker) + w.scratch_size


cdef void engine_totals(zsw_engine *e, zsw_totals *out) noexcept nogil:
    cdef uint32_t i
    cdef zsw_worker *w
    cdef zsw_pool *pool
    cdef zsw_area *area
    cdef zsw_zpool_stats stats
    memset(out, 0, sizeof(zsw_totals))
    out.pages_compacted = e.pages_compacted
    out.metadata_bytes = sizeof(zsw_engine) + index_bytes(&e.index) + slab_bytes(&e.entries)
    for i in range(e.worker_count):
        add_counters(e.workers[i], out)
    w = <zsw_worker *> zsw_load_ptr(<void **> &e.extra_workers)
    while w != NULL:
        add_counters(w, out)
        w = w.next
    for i in range(zsw_load_u32(&e.pool_limit)):
        pool = <zsw_pool *> zsw_load_ptr(<void **> &e.pools[i])
        if pool != NULL:
            pool.ops.stats(pool.zpool, &stats)
            out.pool_pages += stats.total_pages
            out.idle_pages += stats.idle_pages
            out.pages_compacted += stats.pages_compacted
            out.metadata_bytes += stats.metadata_bytes
    for i in range(MAX_AREAS):
        area = <zsw_area *> zsw_load_ptr(<void **> &e.areas[i])
        if area != NULL:
            out.metadata_bytes += area_bytes(area)
    out.lru_pages = e.lru.count


cdef int engine_validate(zsw_engine *e) noexcept nogil:
    """Walks everything and compares it with the counters.  0, or a negative number naming the check that failed.  At rest."""
    cdef zsw_totals totals
    cdef uint64_t pages = 0, held, same = 0, raw = 0, payload = 0, listed = 0
    cdef int64_t by_pool[MAX_POOLS]
    cdef uint32_t i, id, where, pos, previous = 0
    cdef uint32_t *slot
    cdef zsw_shard *shard
    cdef zsw_entry *entry
    cdef zsw_pool *pool
    cdef zsw_zpool_stats stats
    cdef int rc
    memset(by_pool, 0, sizeof(by_pool))
    for i in range(MAX_AREAS):
        if e.areas[i] != NULL:
            rc = area_validate(&e.index, e.areas[i], &held)
            if rc != 0:
                return rc
            if held and not e.areas[i].online:
                return -101
            pages += held
    rc = slab_validate(&e.entries)
    if rc != 0:
        return rc
    # Every entry in use is indexed where it says, by nobody else; every indexed page has such an entry (the counts agree).
    held = 0
    for id in range(1, slab_limit(&e.entries)):
        entry = entry_at(e, id)
        if entry.pos == 0:
            continue
        held += 1
        shard = pos_shard(&e.index, entry.pos, &where)
        if shard == NULL:
            return -102
        slot = shard_find(&e.index, shard, where, &pos)
        if slot == NULL or slot[0] != id or pos != entry.pos:
            return -103
        if (entry.state & ENTRY_REFS) != 1:
            return -104
        if entry.state & ENTRY_SAME:
            same += 1
            continue
        pool = e.pools[word_pool(entry.word)]
        if pool == NULL:
            return -105
        by_pool[pool.id] += 1
        payload += word_length(entry.word)
        raw += word_length(entry.word) == e.page_size
    if held != pages:
        return -106
    id = e.lru.oldest
    while id:
        entry = entry_at(e, id)
        listed += 1
        if listed > e.lru.count or entry.prev != previous or entry.pos == 0 or entry.state & ENTRY_SAME:
            return -107
        previous = id
        id = entry.next
    if listed != e.lru.count or previous != e.lru.newest or listed != pages - same:
        return -108
    for i in range(MAX_POOLS):
        pool = e.pools[i]
        if pool == NULL:
            continue
        pool.ops.stats(pool.zpool, &stats)
        if pool.entries != by_pool[i] or <int64_t> stats.objects != by_pool[i]:
            return -109
        rc = pool.ops.validate(pool.zpool)
        if rc != 0:
            return rc - 1000
    engine_totals(e, &totals)
    if (totals.counters[<int> Counter.stored_pages] != <int64_t> pages
            or totals.counters[<int> Counter.same_filled_pages] != <int64_t> same
            or totals.counters[<int> Counter.stored_incompressible_pages] != <int64_t> raw
            or totals.counters[<int> Counter.compressed_bytes] != <int64_t> payload):
        return -110
    return 0
