"""Spans of 1 to 32 contiguous pages, carved out of a few big mappings and given back to the system
in batches.

The first mappings are of a MiB, later ones as large as all before together, up to 8 MiB: a pool
takes no more address space than about twice what it holds, for address space is memory where a
process locks all it maps or the system overcommits none.

A page is *committed* when it holds, held or is about to hold data: only such pages cost memory.  A
span starts with none (or with those it kept from its last user) and its owner reports each one
more.  Freed spans with committed pages stay *idle*, ready to be handed out warm, until there is
more than about a MiB of them or no span is in use any more; then the caller is told to release
them, which it does when it holds no lock.  So

    total_pages = committed pages of the spans in use + idle pages

at every moment, and the memory behind the arena is never more than that.

A *lone* page is a span of one page that has no owner to describe it: its region has a bit for it.
Such pages are taken and given many at a time, and cost nothing but that bit.
"""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from zswap_core.abi cimport zsw_zpool_config
from zswap_core.os cimport (
    zsw_add_u64, zsw_load_ptr, zsw_load_u64, zsw_mutex, ZSW_POISON, zsw_unlikely, zsw_wipe,
)
from zswap_core.slab cimport slab_at, zsw_slab


cdef enum:
    ARENA_SPAN_MAX = 32              # pages in the longest span
    REGION_SHIFT = 11
    # the most pages of one mapping: 8 MiB of address space when a page is 4 KiB
    REGION_PAGES = 1 << REGION_SHIFT
    REGION_WORDS = REGION_PAGES // 64
    IDLE_SPANS = 512

cdef struct zsw_region:
    uint32_t next               # neighbours in the bin
    uint32_t prev
    # no free span of this region is longer, as far as spans to ARENA_SPAN_MAX go
    uint32_t bin
    uint32_t free_pages
    uint32_t pages              # that it has, a multiple of 64
    uint8_t *base               # NULL: unmapped
    # pages in no span, neither in use nor idle; none of them is committed
    uint64_t free[REGION_WORDS]
    uint64_t lone[REGION_WORDS]         # lone pages in use

cdef struct zsw_span:
    uint32_t at                 # region id << REGION_SHIFT | first page
    uint16_t pages
    uint16_t committed          # its first pages, those that cost memory

cdef struct zsw_arena:
    # What every look-up reads and nobody changes; `regions` changes with a region only.
    uint32_t page_shift
    # bind memory to it; -1: where the first touch happens, the caller's node
    int32_t numa_node
    bint wipe                   # what is vacated
    uint32_t mapping            # ZSW_MAP_ flags of the pages
    uint64_t idle_limit
    zsw_slab regions
    uint8_t padding[64]         # the lock moves from CPU to CPU, and its cache line with it
    uint64_t total_pages        # atomic, see above
    uint64_t idle_pages
    uint64_t mapped_pages       # of all regions
    uint64_t lone_pages
    zsw_mutex lock
    uint32_t spans               # in use, lone pages too
    uint32_t idle_spans
    # batches taken off the idle spans and not yet back among the free pages
    uint32_t releasing
    # a small region without a span, kept against unmapping and mapping in turns
    uint32_t spare
    uint64_t bins               # bit i: heads[i] is not empty
    uint32_t heads[ARENA_SPAN_MAX + 1]
    zsw_span idle[IDLE_SPANS]


cdef inline uint64_t arena_total_pages(const zsw_arena *arena) noexcept nogil:
    return zsw_load_u64(&arena.total_pages)


cdef inline void arena_commit(zsw_arena *arena, uint64_t pages) noexcept nogil:
    """The owner of a span is about to write to so many more of its pages."""
    zsw_add_u64(&arena.total_pages, pages)


cdef inline void arena_vacate(const zsw_arena *arena, uint8_t *start, size_t bytes) noexcept nogil:
    """An object has left this place."""
    if zsw_unlikely(arena.wipe):
        zsw_wipe(start, bytes)
    ZSW_POISON(start, bytes)


cdef inline uint8_t *arena_page(const zsw_arena *arena, uint32_t at) noexcept nogil:
    """Where the page is that a span's or a lone page's `at` names."""
    cdef zsw_region *region = <zsw_region *> slab_at(&arena.regions, at >> REGION_SHIFT)
    return (<uint8_t *> zsw_load_ptr(<void **> &region.base)
            + (<size_t> (at & (REGION_PAGES - 1)) << arena.page_shift))


cdef void arena_init(zsw_arena *arena, uint32_t page_shift,
                     const zsw_zpool_config *config) noexcept nogil
# Unmaps everything, spans in use too.
cdef void arena_destroy(zsw_arena *arena) noexcept nogil

# A span of `pages` (at most ARENA_SPAN_MAX) and where it starts, or -ENOMEM with nothing changed.
# Its memory holds anything.
cdef int arena_alloc(zsw_arena *arena, uint32_t pages, zsw_span *span,
                     uint8_t **start) noexcept nogil
# True: call arena_release() as soon as you hold no lock.
cdef bint arena_free(zsw_arena *arena, const zsw_span *span) noexcept nogil
# Takes the committed pages of a span in use down to its first `committed`; the rest must hold
# nothing.
cdef void arena_uncommit(zsw_arena *arena, zsw_span *span, uint32_t committed) noexcept nogil
# Up to `count` lone pages, committed, whose memory holds anything; returns how many, fewer only
# when there is no memory.
cdef uint32_t arena_take_lone(zsw_arena *arena, uint32_t *at, uint32_t count) noexcept nogil
# Takes them back, vacated.  As arena_free.
cdef bint arena_give_lone(zsw_arena *arena, const uint32_t *at, uint32_t count) noexcept nogil
# Whether any number names a lone page in use.
cdef bint arena_is_lone(zsw_arena *arena, uint32_t at) noexcept nogil
# Gives the idle pages back to the system; returns how many.
cdef uint64_t arena_release(zsw_arena *arena) noexcept nogil

cdef uint64_t arena_idle_pages(zsw_arena *arena) noexcept nogil
cdef uint64_t arena_metadata_bytes(zsw_arena *arena) noexcept nogil
# Adds to counts[node] the resident pages of each NUMA node below `nodes`; 0 or -errno.
cdef int arena_node_pages(zsw_arena *arena, uint64_t *counts, uint32_t nodes) noexcept nogil

# Checking, while nobody else allocates or frees spans: begin, claim each span in use, end.
# Negative numbers name what failed; begin waits for releases under way and returns with the arena
# locked, which end() undoes, even after a failed claim.
cdef int arena_check_begin(zsw_arena *arena, uint64_t **claims) noexcept nogil
cdef int arena_check_claim(zsw_arena *arena, uint64_t *claims, const zsw_span *span,
                           const uint8_t *start) noexcept nogil
cdef int arena_check_end(zsw_arena *arena, uint64_t *claims, uint64_t committed) noexcept nogil
