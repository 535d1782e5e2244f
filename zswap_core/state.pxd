"""The engine's structures, and the order of its locks."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from zswap_core.abi cimport zsw_compressor, zsw_object, zsw_zpool_config, zsw_zpool_ops
from zswap_core.checksum cimport zsw_checksum
from zswap_core.index cimport zsw_area, zsw_index
from zswap_core.latency cimport zsw_latency
from zswap_core.lru cimport zsw_lru, zsw_search
from zswap_core.os cimport pthread_t, zsw_mutex
from zswap_core.params cimport zsw_params
from zswap_core.slab cimport zsw_slab
from zswap_core.stats cimport COUNTERS
from zswap_core.status cimport REASONS


cdef enum:
    MAX_AREAS = 256
    MAX_POOLS = 256                     # an entry names its pool in 8 bits
    SPARE_ENTRIES = 64
    MAGAZINE = 16               # places for raw pages that a batch takes ahead of need, at most
    MAX_THREADS = 64
    WRITEBACK_BATCH = 256               # pages, at most
    ALOFT_WORDS = 64
    PATH_BYTES = 512
    # Offsets stay below this, so that offset * page size fits a file offset whatever the page size.
    MAX_OFFSET_SHIFT = 47


# Kinds of grace period; of each kind one runs at a time: see worker.pyx.
cdef enum:
    GRACE_POOLS                 # of emptied pools; the maintenance thread's
    GRACE_INDEX                 # of what was taken out of the index; guarded by `reaping`
    GRACES


cdef enum pool_stage:
    POOL_LIVE
    # found empty while not current, and never current again: waits for the calls of that moment
    POOL_EMPTY
    POOL_DRAINING               # one of those had still filled it


# One compressor and one zpool with its memory.  One pool is current; the others live until their
# last entry goes.
cdef struct zsw_pool:
    zsw_compressor compressor
    const zsw_zpool_ops *ops
    void *zpool
    zsw_zpool_config config
    size_t bound                # scratch its compressor wants
    size_t max_saving           # a longer result takes a whole page: keep the page raw
    int64_t entries             # entries that live in it; exact when no call is in flight
    uint32_t id
    uint32_t stage              # a pool_stage
    zsw_pool *next              # among the engine's unlinked ones
    uint32_t holds              # calls that fill it though it is not current; guarded by pools_lock


cdef enum:
    DEPARTURE_SHIFT = MAX_OFFSET_SHIFT


# Pages that have left the pool for their stores: see departures.pxd.
cdef struct zsw_departures:
    uint64_t *pages             # swap type << DEPARTURE_SHIFT | offset
    uint32_t count
    uint32_t room


ctypedef void (*departure_call)(void *context, uint32_t type, const uint64_t *offsets,
                                size_t n) noexcept nogil


# Who is told of them.
cdef enum Listener:
    PYTHONS
    CS
    LISTENERS


cdef struct zsw_listener:
    departure_call call         # NULL: nobody
    void *context


# What one call in flight works with.  There is one for each CPU, taken by a try-lock and never
# waited for: when all are busy another is made, so a fault in the middle of a store can itself call
# load.
cdef struct zsw_magazine:               # see magazine.pyx
    zsw_pool *pool                      # that the handles are of
    uint32_t expected                   # pages that may still want one; 0: there is no batch
    uint32_t more                       # to take when there are none left
    uint32_t taken                      # since pages were published last
    uint32_t next                       # of `handles`, those from here
    uint32_t end                        # to here are left
    uint64_t handles[MAGAZINE]


cdef struct zsw_worker:
    uint32_t busy
    # goes up when it is given back: tells a grace period that the call ended
    uint32_t uses
    # by kind: whether a grace period waits for this call, and what `uses` was when it began
    uint32_t awaited[GRACES]
    uint32_t awaited_uses[GRACES]
    uint64_t owner                      # the thread whose call it is
    uint64_t now                        # seconds, read once a call
    # bytes of the value that is stored, or was loaded; of a page elsewhere than in an area that is
    # variable the page's
    uint32_t size
    # the page in hand, of which all from `padded_from` on is known to be zero, or wanted by nobody
    const uint8_t *padded
    uint32_t padded_from
    uint32_t telling                    # how deep: only this thread looks
    zsw_departures left                 # pages of which others are yet to be told
    uint8_t *scratch                    # where pages are compressed to
    uint64_t scratch_size
    uint32_t scratch_used               # since it was last wiped
    uint32_t spares                     # entries taken from the slab ahead of need
    uint32_t spare[SPARE_ENTRIES]
    zsw_magazine magazine
    uint32_t lru_left                   # pages that may join before time passes, see lru_pass
    zsw_pool *counted                   # the pool that `entries` below belongs to
    int64_t entries                     # change of counted.entries not yet made
    # how a backing store first failed in this call, -errno; 0: it did not
    int32_t error
    zsw_worker *next
    void *contexts[MAX_POOLS]           # the compressors' contexts, by pool
    int64_t counters[COUNTERS]
    int64_t refused[REASONS]            # stores, by -status
    zsw_latency latency
    uint8_t *page                       # for calls that want a part of one; made by the first


# Pages on their way to backing stores.
cdef struct zsw_victim:
    zsw_area *area
    uint64_t offset
    uint64_t word
    uint32_t id
    uint32_t pos
    uint32_t sum


cdef struct zsw_flight:
    zsw_victim victims[WRITEBACK_BATCH]     # by area and offset
    uint64_t offsets[WRITEBACK_BATCH]
    int32_t rc[WRITEBACK_BATCH]             # what writing each came to
    # for stores that take those; what `pages` has of the others
    zsw_object objects[WRITEBACK_BATCH]
    uint8_t *pages                          # flight_room() of them, page-aligned
    uint32_t count


cdef struct zsw_writeback:
    zsw_flight flights[2]                   # one is made ready while the other is being written
    zsw_flight *aloft                       # the latter, or NULL
    uint64_t aloft_at[ALOFT_WORDS]     # which remainders its offsets leave
    # The thread that writes meanwhile; see flight.pyx.
    pthread_t pilot
    uint32_t has_pilot
    uint32_t turn                           # futex word
    uint64_t tokens_ns                      # when the rate was last accounted for
    uint64_t tokens                         # pages it allows now
    zsw_search search                       # for the coldest pages
    zsw_search own                          # for the coldest of one area,
    zsw_area *searched                      # which is this
    uint32_t rests                          # nobody has written since the last look


cdef enum:
    CEILINGS = 3            # of the process: its resident memory, its address space, its data


# What all that the engine takes may come to, and what is left for the pools: see budget.pyx.
cdef struct zsw_budget:
    zsw_mutex lock              # one at a time looks; under it are the allocators' alone
    uint64_t pool_pages         # what the pools may take if there is room for it,
    uint64_t pool_accept        # and their accept threshold then
    uint64_t bytes              # now; 0: there is no budget
    uint64_t least              # it never gets less, whatever the process takes
    # what the process is to stay below, 0: anything; all 0: the budget stays as it was set
    uint64_t ceilings[CEILINGS]
    uint64_t metered            # bytes of slabs, tables and areas
    uint64_t buffers            # and of what is only mapped for some time, see map_buffer
    # From here on `metered` may move by so much before it is looked at again; all of it without a
    # budget.
    uint64_t metered_low
    uint64_t metered_span
    uint64_t look_pages         # and so many pages the pools may come to
    uint64_t looked_ns          # when that was
    uint32_t over               # not even same-filled pages come in


# Lock order: writing, compacting, pools_lock, reaping, area.grow, shard.lock, then the leaves (the
# index's garbage_lock, slab locks, the allocators').  `writing` alone is held while pages are
# decompressed (into memory of our own) and while a backing store works, which may take the GIL; so
# nobody waits for `writing` with the GIL held.  None of the others is held while memory of the
# caller's is touched, while a page is compressed or decompressed, or while the GIL is taken.
cdef struct zsw_engine:
    zsw_params params
    zsw_budget budget
    uint32_t page_size
    uint32_t flight_room                # pages in a full flight; changed by the writer
    uint32_t closing                    # no new call may enter
    uint32_t closed                     # all is freed but this
    # this is a forked child's copy: its locks may be held by threads that do not exist
    uint32_t forked
    # the limit was hit and the accept threshold not reached since
    uint32_t reached_full
    uint32_t news                       # goes up when there is something to tell, see news.pxd
    uint32_t times_full                 # how often `reached_full` was set
    uint32_t worker_count
    zsw_worker **workers                # one a CPU
    # these, and those made when all were busy; only ever pushed to
    zsw_worker *all_workers
    zsw_checksum checksum               # set once, before there are pages
    zsw_index index
    zsw_slab entries
    zsw_slab extents                    # nodes of every area's
    zsw_lru lru
    zsw_mutex reaping                   # one at a time clears away what calls left behind
    zsw_mutex areas_lock
    zsw_area *areas[MAX_AREAS]
    zsw_mutex pools_lock
    zsw_pool *pools[MAX_POOLS]
    uint8_t pool_claimed[MAX_POOLS]     # ids in use, those of pools being freed included
    uint32_t pool_limit                 # pools[] is NULL from here on
    zsw_pool *current
    char psi_path[PATH_BYTES]           # where the kernel tells of memory pressure; empty: nowhere
    char usage_path[PATH_BYTES]         # the cgroup's memory use, when it has a limit
    uint64_t usage_limit
    uint64_t stall_us                   # what psi_path said last, and when
    uint64_t stall_ns
    zsw_mutex compacting
    uint32_t backed_areas               # online areas that have a backing store
    zsw_mutex writing                   # one writer to backing stores at a time
    uint64_t writer                     # the thread that holds it; a store in Python may call back
    zsw_writeback *writeback            # its buffers, made by the first; guarded by `writing`
    zsw_mutex listeners_lock            # a leaf
    uint32_t listening                  # how many of these there are
    zsw_listener listeners[<int> LISTENERS]
    uint64_t pages_compacted            # by pools that are gone
    uint32_t latency_epoch              # goes up when the histograms are to be empty
    uint64_t *touches                   # recent reads from backing stores, see promote.pyx;
    uint64_t touches_mask               # for so many and one
    uint64_t reads                      # how many there were
    void *streams                       # what is read ahead, see streams.pyx
    uint64_t spare                      # a buffer that a batch read into, see parking.pyx; 0: none
    void *requests                      # what was submitted, see submit.pyx
    uint64_t requester                  # the thread that serves it, by itself; 0: none
    # room below the limit, see reclaim.pyx
    uint32_t tickets                    # stores that came to the gate
    uint32_t turn                       # futex word: and those that left it
    uint32_t landings                   # futex word: goes up when a flight lands or a writer leaves
    uint32_t awaited                    # the first at the gate sleeps on it
    uint64_t pause_ns                   # how long stores make no room; 0: they do
    uint64_t paused_until
    uint64_t resting_until              # how long they do not wake the shrinker; 0: they do
    # the maintenance thread
    pthread_t thread
    uint32_t thread_started
    uint32_t work                       # futex word: bumped when there is something to do
    uint32_t limit_hit                  # a store hit the limit: there is something to shrink
    uint32_t grace                      # a grace period has begun, see pool.pyx
    zsw_pool *unlinked                  # pools that nobody finds any more, to be freed at its end
    uint32_t stop
    zsw_engine *next_engine             # all engines of the process, for fork
