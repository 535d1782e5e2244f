# cython: language_level=3
"""The engine: store, load, invalidate, limits, pools.  Everything the binding may call, and the structures behind it."""
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t

from zswap_core.abi cimport zsw_compressor, zsw_zpool_config, zsw_zpool_ops, zsw_zpool_stats
from zswap_core.index cimport zsw_area, zsw_index
from zswap_core.lru cimport zsw_lru
from zswap_core.os cimport pthread_t, zsw_mutex
from zswap_core.pool cimport MAX_POOLS, zsw_pool
from zswap_core.slab cimport zsw_slab
from zswap_core.stats cimport COUNTERS

cdef enum:
    MAX_AREAS = 256
    SPARE_ENTRIES = 64
    MAX_THREADS = 64
    # Offsets stay below this, so that offset * page size fits a file offset whatever the page size.
    MAX_OFFSET_SHIFT = 47


# What one call in flight works with.  There is one for each CPU, taken by a try-lock and never waited for: when all are busy
# another is made, so a fault in the middle of a store can itself call load.
cdef struct zsw_worker:
    uint32_t busy
    uint32_t uses                       # goes up when it is given back: tells a grace period that the call ended
    uint64_t now                        # seconds, read once a call
    uint8_t *scratch                    # where pages are compressed to
    size_t scratch_size
    uint32_t spares                     # entries taken from the slab ahead of need
    uint32_t spare[SPARE_ENTRIES]
    zsw_pool *counted                   # the pool that `entries` below belongs to
    int64_t entries                     # change of counted.entries not yet made
    zsw_worker *next
    void *contexts[MAX_POOLS]           # the compressors' contexts, by pool
    int64_t counters[COUNTERS]


cdef struct zsw_params:
    uint32_t enabled
    uint32_t same_filled_pages_enabled
    uint32_t exclusive_loads
    uint32_t reject_compress_poor
    uint64_t max_pages                  # the limit, in allocator pages
    uint64_t accept_pages               # after the limit was hit, refuse until at or below this


# Lock order: compacting, pools_lock, area.grow, shard.lock, lru.lock, then the leaves (slab locks, the allocators' own).
# None is held while memory of the caller's is touched, while a page is compressed or decompressed, or while the GIL is taken.
cdef struct zsw_engine:
    zsw_params params
    uint32_t page_size
    uint32_t closing                    # no new call may enter
    uint32_t forked                     # this is a forked child's copy: its locks may be held by threads that do not exist
    uint32_t reached_full               # the limit was hit and the accept threshold not reached since
    uint32_t worker_count
    zsw_worker **workers                # one a CPU
    zsw_worker *extra_workers           # made when all were busy; only ever pushed to
    zsw_index index
    zsw_slab entries
    zsw_lru lru
    zsw_mutex areas_lock
    zsw_area *areas[MAX_AREAS]
    zsw_mutex pools_lock
    zsw_pool *pools[MAX_POOLS]
    uint8_t pool_claimed[MAX_POOLS]     # ids in use, those of pools being freed included
    uint32_t pool_limit                 # pools[] is NULL from here on
    zsw_pool *current
    zsw_mutex compacting
    uint64_t pages_compacted            # by pools that are gone
    # the maintenance thread
    pthread_t thread
    uint32_t thread_started
    uint32_t work                       # futex word: bumped when there is something to do
    uint32_t stop
    zsw_engine *next_engine             # all engines of the process, for fork


cdef struct zsw_totals:
    int64_t counters[COUNTERS]
    uint64_t pool_pages
    uint64_t idle_pages
    uint64_t pages_compacted
    uint64_t metadata_bytes
    uint64_t lru_pages


cdef int engine_create(uint32_t page_size, zsw_engine **out) noexcept nogil
cdef int engine_close(zsw_engine *e) noexcept nogil
cdef void engine_free(zsw_engine *e) noexcept nogil
cdef zsw_worker *engine_enter(zsw_engine *e, int *rc) noexcept nogil
cdef void engine_leave(zsw_engine *e, zsw_worker *w) noexcept nogil

cdef int engine_use_pool(zsw_engine *e, const zsw_compressor *compressor, const zsw_zpool_ops *ops,
                         const zsw_zpool_config *config) noexcept nogil
cdef int engine_swapon(zsw_engine *e, uint32_t type, uint64_t nr_pages) noexcept nogil
cdef int engine_swapoff(zsw_engine *e, zsw_worker *w, uint32_t type) noexcept nogil

cdef int engine_store(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset, const uint8_t *page) noexcept nogil
cdef int engine_load(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset, uint8_t *page) noexcept nogil
cdef bint engine_contains(zsw_engine *e, uint32_t type, uint64_t offset) noexcept nogil
cdef int64_t engine_length(zsw_engine *e, uint32_t type, uint64_t offset) noexcept nogil
cdef uint64_t engine_invalidate(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t first, uint64_t last) noexcept nogil

# A batch: `count` pages at `pages`, page after page.  Each gets its status, and its nanoseconds unless ns is NULL.
ctypedef int (*page_call)(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset, uint8_t *page) noexcept nogil
cdef int engine_store_many(zsw_engine *e, zsw_worker *w, uint32_t type, const uint64_t *offsets, const uint8_t *pages,
                           uint64_t count, int threads, int8_t *status, uint32_t *ns) noexcept nogil
cdef int engine_load_many(zsw_engine *e, zsw_worker *w, uint32_t type, const uint64_t *offsets, uint8_t *pages,
                          uint64_t count, int threads, int8_t *status, uint32_t *ns) noexcept nogil
cdef uint64_t engine_invalidate_many(zsw_engine *e, zsw_worker *w, uint32_t type, const uint64_t *offsets,
                                     uint64_t count) noexcept nogil

cdef uint64_t engine_shards(zsw_engine *e, uint32_t type, uint64_t *numbers, uint64_t capacity) noexcept nogil
cdef uint32_t engine_shard_offsets(zsw_engine *e, uint32_t type, uint64_t number, uint64_t first,
                                   uint64_t *offsets, uint32_t capacity) noexcept nogil
cdef uint64_t engine_area_pages(zsw_engine *e, uint32_t type) noexcept nogil

cdef uint64_t engine_compact(zsw_engine *e, zsw_worker *w) noexcept nogil
cdef void engine_totals(zsw_engine *e, zsw_totals *out) noexcept nogil
cdef int engine_validate(zsw_engine *e) noexcept nogil
