"""What methods ask of the engine: a struct of arguments, and the function that runs on it inside a
call.

They know no Python: nothing can raise between entering and leaving, and what a call reports is in
its own struct.
"""
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t

from zswap_core.abi cimport zsw_backing_ops, zsw_compressor, zsw_zpool_config, zsw_zpool_ops
from zswap_core.evict cimport zsw_eviction
from zswap_core.latency cimport TIMED, zsw_histogram
from zswap_core.recompress cimport zsw_recompressed
from zswap_core.state cimport CEILINGS, MAX_AREAS, MAX_POOLS, zsw_engine, zsw_worker
from zswap_core.vectors cimport zsw_made, zsw_vector
from zswap_core.walk cimport zsw_weight


cdef enum:
    # pages that a call works on before it looks for signals: a tenth of a second or so
    SLICE = 16384
    NODES = 1024                # NUMA nodes that a kernel can have

cdef enum LoadAs:
    USUAL                       # as exclusive_loads says
    KEEP
    TAKE


ctypedef void (*call_body)(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil

cdef void look(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil


cdef struct page_args:
    uint32_t type
    uint64_t offset
    uint8_t *page
    bint absent                 # store only where no page is held
    LoadAs how
    bint no_wait
    bint zeros                  # of which a page is that is absent
    int status
    int error                   # what the backing store said, where it failed

cdef void do_store(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil
cdef void do_load(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil
cdef void contains_page(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil


cdef struct part_args:
    uint32_t type
    uint64_t offset
    uint32_t at
    uint32_t bytes
    uint8_t *data
    bint no_wait
    bint zeros
    int status
    int error

cdef void do_store_part(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil
cdef void do_load_part(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil


# Of buffers, from page `first` on.
cdef struct vector_args:
    uint32_t type
    uint64_t first
    zsw_vector vector
    zsw_made *made              # room for one a page, of a store
    bint no_wait
    bint zeros
    uint64_t failed             # the page that did, from 0
    int status
    int error

cdef void do_storev(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil
cdef void do_loadv(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil


cdef struct range_args:
    uint32_t type
    uint64_t first
    uint64_t last
    uint64_t pages

cdef void invalidate_pages(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil
cdef void count_pages(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil
cdef void is_online(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil


# From `offset` on, or at offset..last.
cdef struct walk_args:
    uint32_t type
    uint64_t offset
    uint64_t last
    bint found
    zsw_weight weight

cdef void next_held(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil
cdef void next_hole(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil
cdef void weigh_pages(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil


cdef struct extent_args:
    uint32_t type
    uint64_t offset
    uint64_t pages              # of an extent to allocate; that were held in one that is freed
    int rc

cdef void allocate_extent(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil
cdef void free_extent(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil


# Bytes that lie in a row from the beginning of a page on; the last one may be a part of a page.
cdef struct span_args:
    uint32_t type
    uint64_t first
    uint8_t *data
    uint64_t bytes
    uint8_t *part               # room for a page, where `bytes` are no whole number of them
    uint64_t done               # pages, of this call and those before
    uint64_t most               # of one call
    bint no_wait
    int status                  # of the first page that failed
    int error

cdef void store_span(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil
cdef void load_span(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil


cdef struct batch_args:
    uint32_t type
    const uint64_t *offsets
    uint8_t *pages
    uint64_t count
    int threads
    int8_t *status
    uint32_t *ns
    int error                   # what the backing store said of the first page that it failed with

cdef void store_batch(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil
cdef void load_batch(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil


cdef struct look_args:
    uint32_t type
    uint64_t shard
    const uint64_t *offsets
    uint64_t count
    # where to put shards or offsets, and how many of them there is room for
    uint64_t *numbers
    int32_t *sizes
    uint64_t found

cdef void invalidate_batch(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil
cdef void page_sizes(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil
cdef void area_shard_numbers(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil
cdef void shard_offsets(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil


cdef struct pool_args:
    zsw_compressor *compressor
    const zsw_zpool_ops *ops
    zsw_zpool_config config
    int thread                  # what starting the maintenance thread came to
    int rc
    # of recompression
    uint32_t idle
    bint incompressible
    uint64_t max_pages
    uint32_t next
    zsw_recompressed result

cdef void use_pool(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil
cdef void recompress_some(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil


cdef struct area_args:
    uint32_t type
    uint64_t pages
    const zsw_backing_ops *backing
    void *store
    bint sealed
    int thread
    int rc

cdef void seal(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil
cdef void swap_on(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil
cdef void swap_off(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil


cdef struct news_args:
    uint32_t news
    uint32_t times_full
    # what each area's store last said to writes, and to reads: 0 or an errno
    uint32_t errors[2 * MAX_AREAS]

cdef void read_news(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil


cdef struct work_args:
    uint64_t pages
    uint64_t accept
    uint32_t idle
    uint64_t done

# Of the pages of a range: how many at most, and how many it came to.
cdef struct evict_args:
    bint begun
    bint goes_on
    zsw_eviction eviction

cdef void evict_bytes(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil


cdef struct reach_args:
    uint32_t type
    uint64_t first                  # goes on behind what was looked at
    uint64_t last
    uint64_t pages
    uint64_t done

cdef void evict_pages(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil
cdef void recall_pages(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil
cdef void write_back(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil
cdef void compact_all(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil
cdef struct budget_args:
    uint64_t bytes
    uint64_t least
    uint64_t ceilings[<int> CEILINGS]
    int thread                      # how starting the maintenance thread went

cdef void set_budget(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil
cdef void set_limits(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil
cdef void sum_totals(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil


cdef struct latency_args:
    zsw_histogram histograms[<int> TIMED]
    bint reset

cdef void read_latency(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil


cdef struct nodes_args:
    uint64_t *counts
    int rc

cdef void count_nodes(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil


cdef struct pool_row:
    zsw_compressor compressor
    const char *name            # of the zpool; static
    uint32_t chain
    bint kernel
    bint current
    int64_t entries
    uint64_t pages


cdef struct pools_args:
    pool_row rows[<int> MAX_POOLS]
    uint32_t count

cdef void list_pools(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil
