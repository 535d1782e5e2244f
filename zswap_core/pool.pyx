"""Pools: made, made current, emptied and freed; and the limit on what they take together.

No call takes a reference to a pool.  Calls use pools only while their worker is busy, so once every
worker that was busy has been given back, an empty pool that is not current has no user left.  The
maintenance thread waits for that.
"""
from libc.errno cimport EINVAL, ENOMEM, ENOSPC
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from zswap_core.abi cimport (
    ZSW_ABI_VERSION, zsw_compressor, zsw_compressor_ops, ZSW_PAGE_SIZE_MAX, ZSW_PAGE_SIZE_MIN,
    zsw_zpool_config, zsw_zpool_ops, zsw_zpool_stats,
)
from zswap_core.budget cimport budget_look, budget_moved, budget_pool, budget_renew, budget_set
from zswap_core.fault cimport fault, Site
from zswap_core.index cimport AREA_OFFLINE, zsw_area
from zswap_core.lookup cimport pool_at
from zswap_core.news cimport note_full
from zswap_core.os cimport (
    zsw_fence, zsw_likely, zsw_load_i64, zsw_load_u32, zsw_lock, zsw_peek_u32, zsw_peek_u64,
    zsw_poke_u64, zsw_store_ptr, zsw_store_u32, zsw_swap_u32, zsw_unlikely, zsw_unlock,
)
from zswap_core.state cimport (
    GRACE_POOLS, MAX_AREAS, MAX_POOLS, POOL_DRAINING, POOL_EMPTY, POOL_LIVE, zsw_engine, zsw_pool,
)
from zswap_core.status cimport Status
from zswap_core.wake cimport maintenance_wake
from zswap_core.worker cimport await_calls, calls_ended, drop_contexts


cdef int pool_create(const zsw_compressor *compressor, const zsw_zpool_ops *ops,
                     const zsw_zpool_config *config, zsw_pool **out) noexcept nogil:
    cdef zsw_pool *pool
    cdef int rc
    if (compressor.ops.abi_version != ZSW_ABI_VERSION
        or compressor.ops.struct_size < sizeof(zsw_compressor_ops)
            or ops.abi_version != ZSW_ABI_VERSION or ops.struct_size < sizeof(zsw_zpool_ops)):
        return -EINVAL
    if (config.page_size < ZSW_PAGE_SIZE_MIN or config.page_size > ZSW_PAGE_SIZE_MAX
            or config.page_size & (config.page_size - 1)):
        return -EINVAL
    pool = <zsw_pool *> calloc(1, sizeof(zsw_pool)) if fault(Site.POOL) == 0 else NULL
    if pool == NULL:
        return -ENOMEM
    pool.compressor = compressor[0]
    pool.ops = ops
    pool.config = config[0]
    pool.bound = compressor.ops.bound(compressor.state, config.page_size)
    rc = ops.create(config, &pool.zpool)
    if rc != 0:
        free(pool)
        return rc
    pool.max_saving = min(ops.max_saving_size(pool.zpool), <size_t> config.page_size - 1)
    out[0] = pool
    return 0


cdef void pool_destroy(zsw_pool *pool) noexcept nogil:
    pool.ops.destroy(pool.zpool)
    free(pool)


cdef bint pool_matches(const zsw_pool *pool, const zsw_compressor *compressor,
                       const zsw_zpool_ops *ops, const zsw_zpool_config *config) noexcept nogil:
    return (pool.compressor.ops == compressor.ops and pool.compressor.state == compressor.state
            and pool.ops == ops and pool.config.chain == config.chain
            and pool.config.kernel == config.kernel and pool.config.numa_node == config.numa_node)


cdef zsw_pool *find_pool(zsw_engine *e, const zsw_compressor *compressor, const zsw_zpool_ops *ops,
                         const zsw_zpool_config *config) noexcept nogil:
    cdef uint32_t i
    for i in range(e.pool_limit):
        if (e.pools[i] != NULL and e.pools[i].stage == POOL_LIVE
                and pool_matches(e.pools[i], compressor, ops, config)):
            return e.pools[i]
    return NULL


cdef void make_current(zsw_engine *e, zsw_pool *pool) noexcept nogil:
    zsw_store_ptr(<void **> &e.current, pool)
    zsw_fence()                                 # see flush_entries
    maintenance_wake(e)                         # the one that was current may be empty


cdef int open_pool(zsw_engine *e, const zsw_compressor *compressor, const zsw_zpool_ops *ops,
                   const zsw_zpool_config *config, zsw_pool **out) noexcept nogil:
    """Finds or makes the pool of this compressor and zpool.  Under pools_lock."""
    cdef zsw_pool *pool = find_pool(e, compressor, ops, config)
    cdef uint32_t id = 0
    cdef int rc = 0
    if pool == NULL:
        while id < MAX_POOLS and e.pool_claimed[id]:
            id += 1
        rc = pool_create(compressor, ops, config, &pool) if id < MAX_POOLS else -ENOSPC
        if rc == 0:
            pool.id = id
            e.pool_claimed[id] = 1
            zsw_store_ptr(<void **> &e.pools[id], pool)
            if id >= e.pool_limit:
                zsw_store_u32(&e.pool_limit, id + 1)
    out[0] = pool
    return rc


cdef int engine_use_pool(zsw_engine *e, const zsw_compressor *compressor, const zsw_zpool_ops *ops,
                         const zsw_zpool_config *config) noexcept nogil:
    """Makes the pool of this compressor and zpool current, with a new one where there is none.  On
    failure nothing changes.  With a second pool the maintenance thread must run, to free the first
    when it is empty."""
    cdef zsw_pool *pool
    cdef int rc
    zsw_lock(&e.pools_lock)
    rc = open_pool(e, compressor, ops, config, &pool)
    if rc == 0:
        make_current(e, pool)
    zsw_unlock(&e.pools_lock)
    return rc


cdef int pool_hold(zsw_engine *e, const zsw_compressor *compressor, const zsw_zpool_ops *ops,
                   const zsw_zpool_config *config, zsw_pool **out) noexcept nogil:
    """As engine_use_pool, but the pool does not become current: it is only kept until pool_release,
    be it empty."""
    cdef int rc
    zsw_lock(&e.pools_lock)
    rc = open_pool(e, compressor, ops, config, out)
    if rc == 0:
        out[0].holds += 1
    zsw_unlock(&e.pools_lock)
    return rc


cdef void pool_release(zsw_engine *e, zsw_pool *pool) noexcept nogil:
    zsw_lock(&e.pools_lock)
    pool.holds -= 1
    zsw_unlock(&e.pools_lock)
    maintenance_wake(e)                         # it may have stayed empty


cdef inline void lock_pools(zsw_engine *e) noexcept nogil:
    if not e.forked:                            # there a thread may hold it that does not exist
        zsw_lock(&e.pools_lock)


cdef inline void unlock_pools(zsw_engine *e) noexcept nogil:
    if not e.forked:
        zsw_unlock(&e.pools_lock)


cdef bint find_empty(zsw_engine *e) noexcept nogil:
    """Whether there are pools that are empty and not current."""
    cdef uint32_t id
    cdef bint found = False
    cdef zsw_pool *pool
    zsw_lock(&e.pools_lock)
    for id in range(e.pool_limit):
        pool = e.pools[id]
        if (pool != NULL and pool != e.current and pool.holds == 0
                and zsw_load_i64(&pool.entries) == 0):
            pool.stage = POOL_EMPTY
            found = True
    zsw_unlock(&e.pools_lock)
    return found


cdef void unlink_empty(zsw_engine *e) noexcept nogil:
    """Hides the pools that are still empty.  A store that had taken one while it was current may
    have published meanwhile, and what it had published before was perhaps not yet counted: such a
    pool drains, and its last entry wakes us again."""
    cdef uint32_t id
    cdef zsw_pool *pool
    cdef zsw_zpool_stats stats
    zsw_lock(&e.pools_lock)
    for id in range(e.pool_limit):
        pool = e.pools[id]
        if pool == NULL or pool.stage != POOL_EMPTY:
            continue
        if zsw_load_i64(&pool.entries) != 0:
            pool.stage = POOL_DRAINING
            continue
        pool.ops.stats(pool.zpool, &stats)
        zsw_poke_u64(&e.pages_compacted, e.pages_compacted + stats.pages_compacted)
        zsw_store_ptr(<void **> &e.pools[id], NULL)
        pool.next = e.unlinked
        e.unlinked = pool
    zsw_unlock(&e.pools_lock)


cdef void free_unlinked(zsw_engine *e) noexcept nogil:
    cdef zsw_pool *pool
    cdef uint32_t id
    while e.unlinked != NULL:
        pool = e.unlinked
        e.unlinked = pool.next
        id = pool.id
        drop_contexts(e, pool)
        pool_destroy(pool)
        lock_pools(e)
        # only now: a new pool of that id would have met the old one's contexts
        e.pool_claimed[id] = 0
        unlock_pools(e)


cdef void destroy_pools(zsw_engine *e) noexcept nogil:
    """At the engine's end, when no call is in flight: frees all pools.  The compressors
    themselves can still be asked about."""
    cdef uint32_t id
    cdef zsw_pool *pool
    lock_pools(e)
    for id in range(<uint32_t> MAX_POOLS):
        pool = e.pools[id]
        if pool != NULL:
            e.pools[id] = NULL
            pool.next = e.unlinked
            e.unlinked = pool
    e.current = NULL
    unlock_pools(e)
    free_unlinked(e)


cdef bint retire_pools(zsw_engine *e) noexcept nogil:
    """Goes on with freeing the pools that are empty and not current: one grace period before they
    are unlinked, another for those that walk all pools and may hold the pointer.  True when a grace
    period has yet to end: come back later, for a call may last as long as its backing store
    pleases."""
    while not e.grace or calls_ended(e, GRACE_POOLS):
        if e.unlinked != NULL:
            free_unlinked(e)
        elif e.grace:
            unlink_empty(e)
        e.grace = e.unlinked != NULL or find_empty(e)
        if not e.grace:
            return False
        await_calls(e, GRACE_POOLS)
    return True


cdef uint64_t pool_pages(zsw_engine *e) noexcept nogil:
    cdef uint64_t pages = 0
    cdef uint32_t i
    cdef zsw_pool *pool
    for i in range(zsw_load_u32(&e.pool_limit)):
        pool = pool_at(e, i)
        if pool != NULL:
            pages += pool.ops.total_pages(pool.zpool)
    return pages


cdef void trim_pools(zsw_engine *e) noexcept nogil:
    cdef uint32_t i
    cdef zsw_pool *pool
    for i in range(zsw_load_u32(&e.pool_limit)):
        pool = pool_at(e, i)
        if pool != NULL:
            pool.ops.trim(pool.zpool)


cdef bint pools_reach(zsw_engine *e, uint64_t pages) noexcept nogil:
    """Whether the pools take so many pages, when memory that only waits for reuse is given back."""
    if zsw_likely(pool_pages(e) < pages):
        return False
    trim_pools(e)
    return pool_pages(e) >= pages


cdef bint hit_limit(zsw_engine *e) noexcept nogil:
    """Whether the pools are at the limit; if so, they shrink to the accept threshold from now
    on."""
    if zsw_likely(not pools_reach(e, zsw_peek_u64(&e.params.max_pages))):
        return False
    if zsw_swap_u32(&e.reached_full, 1) == 0:
        # once: a shrinker that cannot write must not be kept awake
        zsw_store_u32(&e.limit_hit, 1)
        note_full(e)
        maintenance_wake(e)
    return True


cdef void engine_set_limits(zsw_engine *e, uint64_t max_pages,
                            uint64_t accept_pages) noexcept nogil:
    """Sets the limit and the accept threshold, which hold at once: what is above them is written
    back without waiting for the next store to find out."""
    budget_pool(e, max_pages, accept_pages)
    limits_changed(e)


cdef void engine_set_budget(zsw_engine *e, uint64_t bytes, uint64_t least,
                            const uint64_t *ceilings) noexcept nogil:
    """Sets what all that the engine takes may come to, in the same way; see budget_set."""
    budget_set(e, bytes, least, ceilings)
    limits_changed(e)


cdef void limits_changed(zsw_engine *e) noexcept nogil:
    zsw_poke_u64(&e.pause_ns, 0)
    zsw_poke_u64(&e.resting_until, 0)
    hit_limit(e)
    # perhaps since before, and the threshold has come down
    if zsw_load_u32(&e.reached_full):
        zsw_store_u32(&e.limit_hit, 1)
        maintenance_wake(e)


cdef bint near_limit(zsw_engine *e) noexcept nogil:
    """Whether a page may only come in if `admit`, or admit_plainly, allows it."""
    cdef uint64_t pages = pool_pages(e)
    if zsw_unlikely(pages >= zsw_peek_u64(&e.budget.look_pages) or budget_moved(e)):
        budget_look(e)
    if zsw_likely(zsw_peek_u32(&e.reached_full) == 0
                  and pages < zsw_peek_u64(&e.params.near_pages)):
        return False
    budget_renew(e)
    return True


cdef int admit_plainly(zsw_engine *e) noexcept nogil:
    """As the kernel does: at the limit, and until the accept threshold is reached, pages are
    refused."""
    if zsw_unlikely(hit_limit(e)):
        return Status.POOL_LIMIT
    if zsw_unlikely(zsw_peek_u32(&e.reached_full) != 0) and not accepts_again(e):
        return Status.ACCEPT_THRESHOLD
    return Status.STORED


cdef bint accepts_again(zsw_engine *e) noexcept nogil:
    """Whether the pools are down to the accept threshold; `reached_full` is over then."""
    cdef uint64_t accept = zsw_peek_u64(&e.params.accept_pages)
    if pools_reach(e, accept + 1):
        return False
    zsw_store_u32(&e.reached_full, 0)
    # A limit that was lowered meanwhile has set it first and may have found it set: it holds on.
    zsw_fence()
    if zsw_unlikely(zsw_peek_u64(&e.params.accept_pages) != accept):
        zsw_store_u32(&e.reached_full, 1)
        return False
    return True


cdef bint stores_use(zsw_engine *e, const zsw_compressor *compressor) noexcept nogil:
    """Whether a backing store has objects of the compressor's."""
    cdef uint32_t i
    cdef zsw_area *area
    cdef bint used = False
    zsw_lock(&e.areas_lock)                     # the store of an area that is online stays
    for i in range(<uint32_t> MAX_AREAS):
        area = e.areas[i]
        if (area != NULL and zsw_load_u32(&area.online) != AREA_OFFLINE and area.backing != NULL
                and area.backing.uses != NULL):
            used = used or area.backing.uses(area.store, compressor) != 0
    zsw_unlock(&e.areas_lock)
    return used


cdef bint compressor_in_use(zsw_engine *e, const zsw_compressor *compressor) noexcept nogil:
    cdef uint32_t id
    cdef zsw_pool *pool
    # Its pools go with the process; and at the end nobody knows what the stores' owners do.
    cdef bint used = e.forked != 0 or zsw_load_u32(&e.closing) != 0
    used = used or stores_use(e, compressor)
    lock_pools(e)
    for id in range(<uint32_t> MAX_POOLS):
        pool = e.pools[id]
        if pool == NULL:
            # it is being freed, and its compressor cannot be told any more
            used = used or e.pool_claimed[id] != 0
        elif pool.compressor.ops == compressor.ops and pool.compressor.state == compressor.state:
            used = True
    unlock_pools(e)
    return used
