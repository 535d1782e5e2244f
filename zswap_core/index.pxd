"""The index: (swap area, offset) -> entry id, in shards of 64 MiB of address space."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from zswap_core.abi cimport zsw_backing_ops
from zswap_core.extents cimport zsw_extents
from zswap_core.os cimport zsw_likely, zsw_mutex, zsw_peek_u32, zsw_peek_u64, zsw_store_u32
from zswap_core.slab cimport slab_at, zsw_slab


cdef enum:
    SHARD_SHIFT = 14                # 2^14 pages of 4 KiB: 64 MiB
    SHARD_PAGES = 1 << SHARD_SHIFT
    RUN_SHIFT = 6
    RUN_PAGES = 1 << RUN_SHIFT      # pages in a run: what one bitmap word covers
    SHARD_RUNS = 1 << (SHARD_SHIFT - RUN_SHIFT)
    POS_RUN_MAX = (1 << 26) - 1     # an entry names its place in 32 bits: run:26 | slot:6
    ARRAY_KINDS = 4                 # arrays of 4, 16, 64 and 256 ids


# A shard that has lost its last page may be taken out of the table.  Whoever found it before still
# has its memory until the call ends, and finds it empty; a store must not fill it any more, but
# look again.
cdef struct zsw_shard:
    # guards all below it, and the runs, slots and entries found through it
    zsw_mutex lock
    uint32_t type                   # the area's swap type
    uint64_t number                 # offset >> SHARD_SHIFT
    uint64_t present[4]             # which of its 256 runs hold pages
    uint32_t runs                   # array of run ids, in order, packed
    uint32_t runs_kind
    uint32_t pages                  # held in this shard
    uint32_t id                     # its own, for the runs
    # Pages of the shard that went to the backing store, ever, which numbers them: see backed()
    uint32_t writes
    # 0: in the table.  Else out of it: the next such shard, or at the end its own id
    uint32_t next
    # of its pages, as change_slot keeps them: see area_figures
    uint32_t same                   # same-filled ones
    uint32_t raw                    # in the pool as they are
    uint32_t backed                 # in the backing store alone
    uint32_t bytes                  # payload of those in the pool
    uint32_t tallied                # whether the area's `used` goes along with `bytes`
    uint32_t variable               # whether its pages are values, whose lengths are kept


cdef struct zsw_run:
    uint64_t present                # which of its 64 pages are held
    uint64_t clean                  # which of those with an entry the backing store has as well
    uint32_t shard                  # 0 while the run is free
    uint32_t slots                  # array of entry ids, in order, packed
    uint8_t number                  # in its shard
    uint8_t slots_kind
    uint8_t variable                # `sums` has lengths too, behind them
    # its checksums, one for each of its 64 pages, held or not; 0: none are kept
    uint32_t sums


cdef struct shard_table:
    uint64_t mask
    uint64_t count
    shard_table *next               # when superseded: the next such table
    size_t map_bytes
    uint32_t slots[1]               # mask + 1 shard ids, open addressing, 0: free


cdef inline uint64_t next_slot(const shard_table *table, uint64_t number, uint64_t slot,
                               uint64_t *step) noexcept nogil:
    """Where to look for a shard next; `step` is 0 at first.  The first slot is `number & mask`, so
    neighbours never collide.  Numbers at equal distances may all collide there: the second slot is
    a hash of the whole number, and from there each number goes its own way through all slots (a
    linear congruential generator of full period)."""
    if step[0] == 0:
        slot = number * <uint64_t> 0xd6e8feb86659fd93
        slot = (slot ^ slot >> 32) * <uint64_t> 0xd6e8feb86659fd93
        step[0] = slot >> 40 | 1
        return (slot ^ slot >> 32) & table.mask
    return slot * 5 + step[0] & table.mask


cdef enum area_state:
    AREA_OFFLINE
    AREA_ONLINE
    # takes nothing in any more; calls in flight may still use its backing store
    AREA_LEAVING
    AREA_SEALED                     # takes nothing in any more; what it holds can be loaded


cdef struct zsw_area:
    zsw_mutex grow                  # serialises adding and removing shards
    uint32_t type
    uint32_t online                 # an area_state
    uint64_t nr_pages               # offsets are below this
    # NULL: none.  Set before `online` is, and stays while calls are in flight
    const zsw_backing_ops *backing
    void *store
    uint32_t write_error            # what its last write came to: 0 or an errno
    uint32_t read_error             # and its last read
    shard_table *table
    # whether new shards are tallied; under `grow`.  Once they are they stay so, until swapon
    uint32_t tallied
    # payload of its pages in the pool, of shards that are tallied, and how much it may be
    int64_t used
    int64_t quota                   # -1: no limit
    uint32_t variable               # set before `online` is, as `backing`
    zsw_extents extents             # offsets that were handed out


# What an area holds.
cdef struct zsw_area_figures:
    uint64_t pages                  # wherever
    uint64_t same
    uint64_t raw
    uint64_t backed
    uint64_t bytes


cdef inline bint area_open(uint32_t online) noexcept nogil:
    """Whether calls find the area's pages."""
    return online == AREA_ONLINE or online == AREA_SEALED


# What nobody finds any more, but calls in flight may still look at.
cdef struct index_garbage:
    uint32_t shards                 # linked by `next`, which at the end is the shard's own id
    shard_table *tables


# Lock order: area.grow, then shard.lock, then garbage_lock or the slabs' own.
cdef struct zsw_index:
    # whether runs have checksums; these three are set once, before there are any
    uint32_t checksums
    uint32_t wipe                   # those of freed pages
    # ZSW_MAP_ flags of all but the checksums, which have those of pages
    uint32_t mapping
    zsw_slab shards
    zsw_slab runs
    zsw_slab arrays[ARRAY_KINDS]
    zsw_slab sums                   # for what is made of pages: see index_protect
    zsw_slab values                 # the same with lengths, of areas that are variable
    uint32_t cleans                 # there is, or was, a page that is clean
    uint64_t freed                  # shards, ever: what is known of one is no more when this grows
    # there is garbage, or there are so many empty shards that removing them pays
    uint32_t reap_due
    # how often a shard has lost its last page since they were removed
    uint32_t emptied
    uint32_t reap_at                # so often makes it due
    uint64_t *meter                 # what the tables count towards, and the slabs; or NULL
    zsw_mutex garbage_lock
    index_garbage unlinked          # since the last index_turn
    index_garbage condemned         # before it: waits for the calls of that moment


cdef inline bint is_clean(const zsw_index *ix, uint32_t pos) noexcept nogil:
    """Whether the backing store has the page at `pos` as its entry has it.  Under the shard's
    lock."""
    cdef const zsw_run *run
    if zsw_likely(zsw_peek_u32(&ix.cleans) == 0):
        return False
    run = <const zsw_run *> slab_at(&ix.runs, pos >> RUN_SHIFT)
    return run.clean >> (pos & (RUN_PAGES - 1)) & 1


cdef inline void set_clean(zsw_index *ix, uint32_t pos, bint clean) noexcept nogil:
    cdef zsw_run *run = <zsw_run *> slab_at(&ix.runs, pos >> RUN_SHIFT)
    cdef uint64_t bit = <uint64_t> 1 << (pos & (RUN_PAGES - 1))
    if clean:
        zsw_store_u32(&ix.cleans, 1)
        run.clean |= bit
    else:
        run.clean &= ~bit


cdef inline uint64_t shards_freed(const zsw_index *ix) noexcept nogil:
    return zsw_peek_u64(&ix.freed)


cdef void index_init(zsw_index *ix) noexcept nogil
cdef void index_protect(zsw_index *ix, bint wipe, uint32_t pages) noexcept nogil
cdef void index_meter(zsw_index *ix, uint64_t *meter) noexcept nogil
cdef void index_destroy(zsw_index *ix) noexcept nogil
cdef int area_init(zsw_area *area, uint32_t type, uint32_t mapping) noexcept nogil
cdef void area_destroy(zsw_area *area) noexcept nogil
cdef zsw_shard *area_shard(const zsw_index *ix, zsw_area *area, uint64_t number) noexcept nogil
cdef zsw_shard *area_lock_shard(zsw_index *ix, zsw_area *area, uint64_t number) noexcept nogil
cdef int area_rebuild(zsw_index *ix, zsw_area *area) noexcept nogil
cdef uint64_t area_prune(zsw_index *ix, zsw_area *area) noexcept nogil
cdef void area_vary(zsw_index *ix, zsw_area *area, bint variable) noexcept nogil
cdef void area_tally(zsw_index *ix, zsw_area *area, bint tallied) noexcept nogil
cdef void area_figures(const zsw_index *ix, zsw_area *area, zsw_area_figures *out) noexcept nogil
cdef uint64_t area_shards(const zsw_index *ix, zsw_area *area, uint64_t first, uint64_t last,
                          uint64_t *numbers, uint64_t capacity) noexcept nogil

cdef uint32_t *shard_find(const zsw_index *ix, zsw_shard *shard, uint32_t where,
                          uint32_t *pos) noexcept nogil
cdef uint32_t *run_id_peek(const zsw_index *ix, const zsw_shard *shard,
                           uint32_t where) noexcept nogil
cdef zsw_run *run_peek(const zsw_index *ix, uint32_t id) noexcept nogil
cdef uint32_t *slot_peek(const zsw_index *ix, const zsw_run *run, uint32_t where) noexcept nogil
cdef int shard_reserve(zsw_index *ix, zsw_shard *shard, uint32_t where, uint32_t **slot,
                       uint32_t *pos) noexcept nogil
cdef uint32_t *sum_at(const zsw_index *ix, uint32_t pos) noexcept nogil
cdef uint32_t value_length(const zsw_index *ix, uint32_t pos) noexcept nogil
cdef void set_value_length(zsw_index *ix, uint32_t pos, uint32_t length) noexcept nogil
cdef void shard_erase(zsw_index *ix, zsw_shard *shard, uint32_t where) noexcept nogil
cdef void shard_erase_run(zsw_index *ix, zsw_shard *shard, uint32_t number,
                          uint64_t gone) noexcept nogil
cdef uint32_t shard_hole(const zsw_index *ix, const zsw_shard *shard,
                         uint32_t first) noexcept nogil
cdef uint32_t shard_collect(const zsw_index *ix, zsw_shard *shard, uint32_t first, uint32_t last,
                            uint32_t *where, uint32_t *ids, uint32_t capacity) noexcept nogil
cdef zsw_shard *pos_shard(const zsw_index *ix, uint32_t pos, uint32_t *where) noexcept nogil

cdef void index_pruned(zsw_index *ix, uint64_t shards) noexcept nogil
cdef bint index_turn(zsw_index *ix) noexcept nogil

cdef uint64_t index_bytes(zsw_index *ix) noexcept nogil
cdef uint64_t area_bytes(zsw_area *area) noexcept nogil

# Checking at rest: begin, each area, end, which is due even after one that failed.  Negative
# numbers name what failed.  `visit` is shown each held page's offset and what its slot holds, in
# order within a shard; it may be NULL.
cdef struct index_claims:
    uint64_t *shards
    uint64_t *runs
    uint64_t *arrays[ARRAY_KINDS]
    uint64_t *sums
    uint64_t *values

ctypedef int (*index_visit)(void *context, zsw_area *area, uint64_t offset, uint32_t id,
                            uint32_t pos) noexcept nogil

cdef int index_check_begin(zsw_index *ix, index_claims *claims) noexcept nogil
cdef int area_check(zsw_index *ix, index_claims *claims, zsw_area *area, index_visit visit,
                    void *context) noexcept nogil
cdef int index_check_end(zsw_index *ix, index_claims *claims) noexcept nogil
