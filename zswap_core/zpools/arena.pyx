"""The page-span arena; what it promises is in arena.pxd.

Lock order: the arena's lock, then its slab's.  No system call that gives pages back spans under the
arena's lock, so the thread that frees the span too many pays for the batch and no other waits for
it.

For a memory checker a region is poisoned whole when it is mapped; only live objects are not, which
is their owner's doing.
"""
from libc.errno cimport ENOMEM
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from zswap_core.abi cimport zsw_zpool_config, ZSW_ZPOOL_NO_DUMP, ZSW_ZPOOL_NO_FORK, ZSW_ZPOOL_WIPE
from zswap_core.fault cimport fault, Site
from zswap_core.os cimport (
    zsw_add_u64, zsw_bind_node, zsw_ctz, zsw_load_u64, zsw_lock, zsw_map, zsw_map_as,
    ZSW_MAP_NO_DUMP, ZSW_MAP_NO_FORK, zsw_nodes_of, zsw_peek_u64, ZSW_POISON, zsw_poke_u64,
    zsw_popcount, zsw_release_inside, zsw_relock, zsw_store_ptr, zsw_unlock, zsw_unmap,
    ZSW_UNPOISON, zsw_yield,
)
from zswap_core.slab cimport (
    slab_at, slab_bytes, slab_destroy, slab_give, slab_init, slab_limit, slab_peek, slab_take,
    slab_validate,
)


cdef enum:
    IDLE_BYTES = 1 << 20        # about this much stays warm
    REGION_BYTES_MIN = 1 << 20
    REGION_BYTES_MAX = 8 << 20
    REGION_PAGES_MIN = 64        # whole words of bits, and room for the longest span
    NODE_BATCH = 512            # pages the system is asked about at a time
    SPANS_HELD = 32             # become free before others get the arena's lock

cdef uint64_t ALL = ~(<uint64_t> 0)


# ---- pages of a region ---------------------------------------------------------------------------

cdef zsw_region *region_of(const zsw_arena *arena, uint32_t id) noexcept nogil:
    return <zsw_region *> slab_at(&arena.regions, id)


cdef size_t region_bytes(const zsw_arena *arena, uint32_t pages) noexcept nogil:
    return <size_t> pages << arena.page_shift


cdef uint32_t least_region_pages(const zsw_arena *arena) noexcept nogil:
    return max(<uint32_t> REGION_BYTES_MIN >> arena.page_shift, <uint32_t> REGION_PAGES_MIN)


cdef uint32_t next_region_pages(const zsw_arena *arena) noexcept nogil:
    cdef uint64_t most = <uint32_t> REGION_BYTES_MAX >> arena.page_shift
    return <uint32_t> min(max(arena.mapped_pages // 64 * 64, <uint64_t> least_region_pages(arena)),
                          most)


cdef uint32_t next_page(const uint64_t *free, uint32_t page, uint64_t flip) noexcept nogil:
    """First page from `page` on that is free (flip 0) or taken (flip ALL); REGION_PAGES when there
    is none."""
    cdef uint32_t i = page >> 6
    cdef uint64_t word
    if page >= REGION_PAGES:
        return REGION_PAGES
    word = (free[i] ^ flip) & (ALL << (page & 63))
    while word == 0:
        i += 1
        if i == REGION_WORDS:
            return REGION_PAGES
        word = free[i] ^ flip
    return (i << 6) + <uint32_t> zsw_ctz(word)


cdef void flip_pages(uint64_t *bits, uint32_t page, uint32_t pages) noexcept nogil:
    cdef uint64_t mask = (<uint64_t> 1 << pages) - 1      # pages <= ARENA_SPAN_MAX
    cdef uint32_t i = page >> 6
    cdef uint32_t shift = page & 63
    bits[i] ^= mask << shift
    if shift + pages > 64:
        bits[i + 1] ^= mask >> (64 - shift)


cdef bint all_clear(const uint64_t *bits, uint32_t page, uint32_t pages) noexcept nogil:
    return page + pages <= REGION_PAGES and next_page(bits, page, 0) >= page + pages


cdef uint32_t first_fit(const uint64_t *free, uint32_t pages, uint32_t *longest) noexcept nogil:
    """Where the first free span of so many pages begins, or REGION_PAGES, and then `longest` is the
    length of the longest."""
    cdef uint32_t start = next_page(free, 0, 0)
    cdef uint32_t end
    longest[0] = 0
    while start < REGION_PAGES:
        end = next_page(free, start, ALL)
        if end - start >= pages:
            return start
        longest[0] = max(longest[0], end - start)
        start = next_page(free, end, 0)
    return REGION_PAGES


cdef uint32_t span_around(const uint64_t *free, uint32_t page, uint32_t pages) noexcept nogil:
    """Length, up to ARENA_SPAN_MAX, of the free span that the free pages [page, page + pages) are
    part of."""
    cdef uint32_t start = page
    cdef uint32_t end = next_page(free, page, ALL)
    while (start > 0 and end - start < ARENA_SPAN_MAX
            and free[(start - 1) >> 6] >> ((start - 1) & 63) & 1):
        start -= 1
    return min(end - start, <uint32_t> ARENA_SPAN_MAX)


# ---- regions, in bins by their longest free span -------------------------------------------------

cdef void bin_add(zsw_arena *arena, uint32_t id, uint32_t bin) noexcept nogil:
    cdef zsw_region *region = region_of(arena, id)
    cdef uint32_t head = arena.heads[bin]
    region.bin = bin
    region.prev = 0
    region.next = head
    if head != 0:
        region_of(arena, head).prev = id
    arena.heads[bin] = id
    arena.bins |= <uint64_t> 1 << bin


cdef void bin_remove(zsw_arena *arena, uint32_t id) noexcept nogil:
    cdef zsw_region *region = region_of(arena, id)
    if region.next != 0:
        region_of(arena, region.next).prev = region.prev
    if region.prev != 0:
        region_of(arena, region.prev).next = region.next
    else:
        arena.heads[region.bin] = region.next
        if region.next == 0:
            arena.bins &= ~(<uint64_t> 1 << region.bin)


cdef void bin_move(zsw_arena *arena, uint32_t id, uint32_t bin) noexcept nogil:
    if region_of(arena, id).bin != bin:
        bin_remove(arena, id)
        bin_add(arena, id, bin)


cdef int region_add(zsw_arena *arena) noexcept nogil:
    cdef uint32_t id = arena.spare, pages = next_region_pages(arena)
    cdef zsw_region *region
    cdef uint8_t *base
    cdef int rc
    if id != 0:
        arena.spare = 0
        bin_add(arena, id, ARENA_SPAN_MAX)
        return 0
    if slab_take(&arena.regions, &id, 1) != 1:
        return -ENOMEM
    base = <uint8_t *> zsw_map_as(region_bytes(arena, pages),
                                  arena.mapping) if fault(Site.ARENA_MAP) == 0 else NULL
    if base == NULL:
        slab_give(&arena.regions, &id, 1)
        return -ENOMEM
    # The one place where memory comes from the system, and before its first touch, which a NUMA
    # policy must precede.
    rc = 0
    if arena.numa_node >= 0:
        rc = fault(Site.ARENA_BIND)
        if rc == 0:
            rc = zsw_bind_node(base, region_bytes(arena, pages), arena.numa_node)
    if rc != 0:
        zsw_unmap(base, region_bytes(arena, pages))
        slab_give(&arena.regions, &id, 1)
        return rc
    ZSW_POISON(base, region_bytes(arena, pages))
    region = region_of(arena, id)
    zsw_store_ptr(<void **> &region.base, base)
    region.pages = region.free_pages = pages
    memset(region.free, 0, sizeof(region.free))
    memset(region.free, 0xff, pages // 8)
    memset(region.lone, 0, sizeof(region.lone))
    arena.mapped_pages += pages
    bin_add(arena, id, ARENA_SPAN_MAX)
    return 0


cdef void region_unmap(zsw_arena *arena, uint32_t id) noexcept nogil:
    cdef zsw_region *region = region_of(arena, id)
    ZSW_UNPOISON(region.base, region_bytes(arena, region.pages))
    zsw_unmap(region.base, region_bytes(arena, region.pages))
    arena.mapped_pages -= region.pages
    zsw_store_ptr(<void **> &region.base, NULL)


cdef int carve(zsw_arena *arena, uint32_t pages, uint32_t *at) noexcept nogil:
    """Takes free pages out of the region that fits most tightly, so that regions with long spans
    have a chance to get empty."""
    cdef uint64_t fitting
    cdef uint32_t id, page, longest
    cdef zsw_region *region
    cdef int rc
    while True:
        fitting = arena.bins >> pages << pages
        if fitting == 0:
            rc = region_add(arena)
            if rc != 0:
                return rc
            continue
        id = arena.heads[zsw_ctz(fitting)]
        region = region_of(arena, id)
        page = first_fit(region.free, pages, &longest)
        if page < REGION_PAGES:
            break
        # Carving leaves the bin as it is, so it is an upper bound only; set it right and look on.
        bin_move(arena, id, longest)
    flip_pages(region.free, page, pages)
    region.free_pages -= pages
    if region.free_pages == 0:
        bin_move(arena, id, 0)
    at[0] = id << REGION_SHIFT | page
    return 0


cdef void uncarve(zsw_arena *arena, uint32_t at, uint32_t pages) noexcept nogil:
    """Makes pages, none of them committed, free again."""
    cdef uint32_t id = at >> REGION_SHIFT
    cdef uint32_t page = at & (REGION_PAGES - 1)
    cdef zsw_region *region = region_of(arena, id)
    flip_pages(region.free, page, pages)
    region.free_pages += pages
    if region.free_pages < region.pages:
        bin_move(arena, id, max(region.bin, span_around(region.free, page, pages)))
        return
    bin_remove(arena, id)
    if arena.spare == 0 and region.pages == least_region_pages(arena):
        arena.spare = id
    else:
        region_unmap(arena, id)
        slab_give(&arena.regions, &id, 1)


# ---- idle spans ----------------------------------------------------------------------------------

cdef bint take_idle(zsw_arena *arena, uint32_t pages, zsw_span *span) noexcept nogil:
    """The span of this length that was freed last, hence likely still in a cache.  At most a few
    hundred are idle."""
    cdef uint32_t i = arena.idle_spans
    while i > 0:
        i -= 1
        if arena.idle[i].pages == pages:
            span[0] = arena.idle[i]
            arena.idle_spans -= 1
            arena.idle[i] = arena.idle[arena.idle_spans]
            arena.idle_pages -= span.committed
            return True
    return False


cdef void sort_spans(zsw_span *spans, uint32_t count) noexcept nogil:
    """By address.  Shell's sort: short, in place, and quick enough for the few hundred there
    are."""
    cdef uint32_t gap = 1
    cdef uint32_t i, j
    cdef zsw_span span
    while gap < count // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(gap, count):
            span = spans[i]
            j = i
            while j >= gap and spans[j - gap].at > span.at:
                spans[j] = spans[j - gap]
                j -= gap
            spans[j] = span
        gap //= 3


cdef bint adjoins(const zsw_span *span, const zsw_span *successor) noexcept nogil:
    # Consecutive region ids say nothing about addresses.
    return (span.at + span.pages == successor.at
            and span.at >> REGION_SHIFT == successor.at >> REGION_SHIFT)


cdef uint64_t arena_release(zsw_arena *arena) noexcept nogil:
    cdef zsw_span batch[IDLE_SPANS]
    cdef uint32_t count, first, last
    cdef uint64_t pages
    # From here to the second locked part the batch is this thread's alone: neither idle nor free,
    # so nobody is handed memory that is about to vanish.
    zsw_lock(&arena.lock)
    count = arena.idle_spans
    pages = arena.idle_pages
    if count == 0:
        zsw_unlock(&arena.lock)
        return 0
    memcpy(batch, arena.idle, count * sizeof(zsw_span))
    arena.idle_spans = 0
    arena.idle_pages = 0
    arena.releasing += 1
    zsw_unlock(&arena.lock)

    sort_spans(batch, count)
    first = 0
    while first < count:
        last = first
        while last + 1 < count and adjoins(&batch[last], &batch[last + 1]):
            last += 1
        # The uncommitted tails in between cost nothing to include.
        zsw_release_inside(arena_page(arena, batch[first].at),
                           <size_t> (batch[last].at + batch[last].committed
                                     - batch[first].at) << arena.page_shift)
        first = last + 1
    zsw_add_u64(&arena.total_pages, 0 - pages)

    zsw_lock(&arena.lock)
    for first in range(count):
        uncarve(arena, batch[first].at, batch[first].pages)
        if first % SPANS_HELD == SPANS_HELD - 1:
            zsw_relock(&arena.lock)
    arena.releasing -= 1
    zsw_unlock(&arena.lock)
    return pages


# ---- spans ---------------------------------------------------------------------------------------

cdef int take_span(zsw_arena *arena, uint32_t pages, zsw_span *span) noexcept nogil:
    cdef int rc = 0
    if not take_idle(arena, pages, span):
        span.pages = <uint16_t> pages
        span.committed = 0
        rc = carve(arena, pages, &span.at)
    if rc == 0:
        arena.spans += 1
    return rc


cdef void give_span(zsw_arena *arena, const zsw_span *span) noexcept nogil:
    arena.spans -= 1
    if span.committed == 0:
        uncarve(arena, span.at, span.pages)
    elif arena.idle_spans < IDLE_SPANS:
        arena.idle[arena.idle_spans] = span[0]
        arena.idle_spans += 1
        arena.idle_pages += span.committed
    else:
        # Only when others are slow to do the release they were told of.
        zsw_release_inside(arena_page(arena, span.at),
                           <size_t> span.committed << arena.page_shift)
        zsw_add_u64(&arena.total_pages, 0 - <uint64_t> span.committed)
        uncarve(arena, span.at, span.pages)


cdef bint release_due(const zsw_arena *arena) noexcept nogil:
    return arena.idle_pages > arena.idle_limit or arena.spans == 0


cdef int arena_alloc(zsw_arena *arena, uint32_t pages, zsw_span *span,
                     uint8_t **start) noexcept nogil:
    cdef int rc
    zsw_lock(&arena.lock)
    rc = take_span(arena, pages, span)
    if rc == 0:
        start[0] = arena_page(arena, span.at)
    zsw_unlock(&arena.lock)
    return rc


cdef bint arena_free(zsw_arena *arena, const zsw_span *span) noexcept nogil:
    cdef bint due
    zsw_lock(&arena.lock)
    give_span(arena, span)
    due = release_due(arena)
    zsw_unlock(&arena.lock)
    return due


cdef void arena_uncommit(zsw_arena *arena, zsw_span *span, uint32_t committed) noexcept nogil:
    cdef uint32_t pages = span.committed - committed
    zsw_release_inside(arena_page(arena, span.at + committed), <size_t> pages << arena.page_shift)
    span.committed = <uint16_t> committed
    zsw_add_u64(&arena.total_pages, 0 - <uint64_t> pages)


# ---- lone pages ----------------------------------------------------------------------------------

cdef uint64_t *lone_word(const zsw_arena *arena, uint32_t at) noexcept nogil:
    return &region_of(arena, at >> REGION_SHIFT).lone[(at & (REGION_PAGES - 1)) >> 6]


cdef uint64_t lone_bit(uint32_t at) noexcept nogil:
    return <uint64_t> 1 << (at & 63)


cdef void flip_lone(zsw_arena *arena, uint32_t at) noexcept nogil:
    cdef uint64_t *word = lone_word(arena, at)
    zsw_poke_u64(word, word[0] ^ lone_bit(at))


cdef uint32_t arena_take_lone(zsw_arena *arena, uint32_t *at, uint32_t count) noexcept nogil:
    cdef uint32_t got = 0, fresh = 0
    cdef zsw_span span
    zsw_lock(&arena.lock)
    while got < count and take_span(arena, 1, &span) == 0:
        flip_lone(arena, span.at)
        fresh += 1 - span.committed
        at[got] = span.at
        got += 1
    zsw_poke_u64(&arena.lone_pages, arena.lone_pages + got)
    if fresh:
        arena_commit(arena, fresh)
    zsw_unlock(&arena.lock)
    return got


cdef bint arena_give_lone(zsw_arena *arena, const uint32_t *at, uint32_t count) noexcept nogil:
    cdef zsw_span span
    cdef uint32_t i
    cdef bint due
    span.pages = span.committed = 1
    zsw_lock(&arena.lock)
    for i in range(count):
        flip_lone(arena, at[i])
        span.at = at[i]
        give_span(arena, &span)
    zsw_poke_u64(&arena.lone_pages, arena.lone_pages - count)
    due = release_due(arena)
    zsw_unlock(&arena.lock)
    return due


cdef bint arena_is_lone(zsw_arena *arena, uint32_t at) noexcept nogil:
    if slab_peek(&arena.regions, at >> REGION_SHIFT) == NULL:
        return False
    # Others' bits may change meanwhile; that of a page changes with its owner only.
    return zsw_peek_u64(lone_word(arena, at)) & lone_bit(at) != 0


# ---- life, figures -------------------------------------------------------------------------------

cdef void arena_init(zsw_arena *arena, uint32_t page_shift,
                     const zsw_zpool_config *config) noexcept nogil:
    memset(arena, 0, sizeof(zsw_arena))
    arena.page_shift = page_shift
    arena.idle_limit = IDLE_BYTES >> page_shift
    # An id shares 32 bits with a page number: 16 TiB of regions.
    slab_init(&arena.regions, (sizeof(zsw_region) + 63) & ~(<size_t> 63),
              <uint32_t> 1 << (32 - REGION_SHIFT))

    arena.numa_node = config.numa_node
    arena.wipe = config.flags & ZSW_ZPOOL_WIPE != 0
    arena.regions.mapping = ZSW_MAP_NO_DUMP if config.flags & ZSW_ZPOOL_NO_DUMP else 0
    arena.mapping = arena.regions.mapping
    if config.flags & ZSW_ZPOOL_NO_FORK:
        arena.mapping |= ZSW_MAP_NO_FORK


cdef void arena_destroy(zsw_arena *arena) noexcept nogil:
    cdef uint32_t bin, id
    if arena.regions.table == NULL:
        return
    for bin in range(<uint32_t> ARENA_SPAN_MAX + 1):
        id = arena.heads[bin]
        while id != 0:
            region_unmap(arena, id)
            id = region_of(arena, id).next
    if arena.spare != 0:
        region_unmap(arena, arena.spare)
    slab_destroy(&arena.regions)


cdef int add_nodes(void **pages, uint32_t count, uint64_t *counts, uint32_t nodes) noexcept nogil:
    cdef int found[NODE_BATCH]
    cdef uint32_t i
    cdef int rc = fault(Site.ARENA_NODES)
    if rc == 0 and count > 0:
        rc = zsw_nodes_of(pages, count, found)
    for i in range(count if rc == 0 else 0):
        if found[i] >= 0 and <uint32_t> found[i] < nodes:
            counts[found[i]] += 1
    return rc


cdef int region_node_pages(const zsw_arena *arena, uint8_t *base, uint32_t size,
                           const uint64_t *free, uint64_t *counts, uint32_t nodes) noexcept nogil:
    cdef void *pages[NODE_BATCH]
    cdef uint32_t page = next_page(free, 0, ALL), count = 0
    cdef int rc = 0
    while page < size and rc == 0:
        pages[count] = base + (<size_t> page << arena.page_shift)
        count += 1
        if count == NODE_BATCH:
            rc = add_nodes(pages, count, counts, nodes)
            count = 0
        page = next_page(free, page + 1, ALL)
    return add_nodes(pages, count, counts, nodes) if rc == 0 else rc


cdef int arena_node_pages(zsw_arena *arena, uint64_t *counts, uint32_t nodes) noexcept nogil:
    cdef uint64_t free[REGION_WORDS]
    cdef uint8_t *base
    cdef uint32_t id = 1, size
    cdef bint more = True
    cdef int rc = 0
    while more and rc == 0:
        # The system is asked with no lock held: a region that goes meanwhile has no resident pages,
        # which is no error.
        zsw_lock(&arena.lock)
        more = id < slab_limit(&arena.regions)
        if more:
            base = region_of(arena, id).base
            size = region_of(arena, id).pages
            memcpy(free, region_of(arena, id).free, sizeof(free))
        zsw_unlock(&arena.lock)
        if more and base != NULL:
            rc = region_node_pages(arena, base, size, free, counts, nodes)
        id += 1
    return rc


cdef uint64_t arena_idle_pages(zsw_arena *arena) noexcept nogil:
    cdef uint64_t pages
    zsw_lock(&arena.lock)
    pages = arena.idle_pages
    zsw_unlock(&arena.lock)
    return pages


cdef uint64_t arena_metadata_bytes(zsw_arena *arena) noexcept nogil:
    return slab_bytes(&arena.regions)


# ---- checking ------------------------------------------------------------------------------------

cdef size_t claims_bytes(zsw_arena *arena) noexcept nogil:
    # A bit for every page of every region id; never none, which could not be mapped.
    return <size_t> (slab_limit(&arena.regions) + 1) * REGION_WORDS * sizeof(uint64_t)


cdef int arena_check_begin(zsw_arena *arena, uint64_t **claims) noexcept nogil:
    zsw_lock(&arena.lock)
    while arena.releasing != 0:
        zsw_unlock(&arena.lock)
        zsw_yield()
        zsw_lock(&arena.lock)
    claims[0] = <uint64_t *> zsw_map(claims_bytes(arena)) if fault(Site.ARENA_CHECK) == 0 else NULL
    return 0 if claims[0] != NULL else -ENOMEM


cdef int arena_check_claim(zsw_arena *arena, uint64_t *claims, const zsw_span *span,
                           const uint8_t *start) noexcept nogil:
    cdef uint32_t id = span.at >> REGION_SHIFT
    cdef uint32_t page = span.at & (REGION_PAGES - 1)
    if span.pages == 0 or span.pages > ARENA_SPAN_MAX or span.committed > span.pages:
        return -201
    if id == 0 or id >= slab_limit(&arena.regions):
        return -202
    if (page + span.pages > region_of(arena, id).pages
            or not all_clear(region_of(arena, id).free, page, span.pages)):
        return -203                                         # free and in use
    claims += <size_t> id * REGION_WORDS
    if not all_clear(claims, page, span.pages):
        return -204                                         # in use twice
    if start != NULL and start != arena_page(arena, span.at):
        return -205
    flip_pages(claims, page, span.pages)
    return 0


cdef int check_region(zsw_arena *arena, uint64_t *claims, uint32_t id) noexcept nogil:
    cdef zsw_region *region = region_of(arena, id)
    cdef uint64_t taken
    cdef uint32_t i
    cdef uint32_t free_pages = 0
    cdef uint32_t longest
    for i in range(<uint32_t> REGION_WORDS):
        taken = ~region.free[i] if i < region.pages // 64 else region.free[i]
        if claims[<size_t> id * REGION_WORDS + i] != taken:
            # a page that is neither free nor in a span
            return -206
        free_pages += <uint32_t> zsw_popcount(region.free[i])
    if free_pages != region.free_pages:
        return -207
    first_fit(region.free, REGION_PAGES + 1, &longest)
    # The spare one is in no bin, and what it says of one is what it was in last.
    if id != arena.spare and region.bin < ARENA_SPAN_MAX and longest > region.bin:
        return -208                                         # a free span that nobody would find
    return 0


cdef int check_regions(zsw_arena *arena, uint64_t *claims) noexcept nogil:
    cdef uint32_t bin, id, prev
    cdef uint32_t seen = 0
    cdef int rc
    for bin in range(<uint32_t> ARENA_SPAN_MAX + 1):
        if (arena.heads[bin] != 0) != (arena.bins >> bin & 1):
            return -209
        prev = 0
        id = arena.heads[bin]
        while id != 0:
            seen += 1
            if (seen > arena.regions.inuse or region_of(arena, id).bin != bin
                    or region_of(arena, id).prev != prev):
                return -210
            if region_of(arena, id).free_pages == region_of(arena, id).pages:
                # Legal for a moment only, between region_add() and the carving that follows.
                return -211
            rc = check_region(arena, claims, id)
            if rc != 0:
                return rc
            prev = id
            id = region_of(arena, id).next
    if arena.spare != 0:
        seen += 1
        if region_of(arena, arena.spare).free_pages != region_of(arena, arena.spare).pages:
            return -212
        rc = check_region(arena, claims, arena.spare)
        if rc != 0:
            return rc
    return slab_validate(&arena.regions) if seen == arena.regions.inuse else -213


cdef int claim_lone(zsw_arena *arena, uint64_t *claims) noexcept nogil:
    """Nobody else claims the lone pages."""
    cdef uint64_t lone_pages = 0
    cdef uint32_t id, page
    cdef zsw_span span
    cdef int rc = 0
    span.pages = span.committed = 1
    for id in range(1, slab_limit(&arena.regions)):
        page = next_page(region_of(arena, id).lone, 0, 0)
        while page < REGION_PAGES and rc == 0:
            lone_pages += 1
            span.at = id << REGION_SHIFT | page
            rc = arena_check_claim(arena, claims, &span, NULL)
            page = next_page(region_of(arena, id).lone, page + 1, 0)
        if rc != 0:
            return rc
    return 0 if lone_pages == arena.lone_pages else -217


cdef int check_totals(zsw_arena *arena, uint64_t *claims, uint64_t committed) noexcept nogil:
    cdef uint64_t idle_pages = 0
    cdef uint32_t i
    cdef int rc = claim_lone(arena, claims)
    if rc != 0:
        return rc
    for i in range(arena.idle_spans):
        if arena.idle[i].committed == 0:
            return -214
        rc = arena_check_claim(arena, claims, &arena.idle[i], NULL)
        if rc != 0:
            return rc
        idle_pages += arena.idle[i].committed
    if idle_pages != arena.idle_pages:
        return -215
    if committed + arena.lone_pages + idle_pages != zsw_load_u64(&arena.total_pages):
        return -216
    return check_regions(arena, claims)


cdef int arena_check_end(zsw_arena *arena, uint64_t *claims, uint64_t committed) noexcept nogil:
    cdef size_t bytes = claims_bytes(arena)
    cdef int rc = check_totals(arena, claims, committed) if claims != NULL else -ENOMEM
    zsw_unlock(&arena.lock)
    zsw_unmap(claims, bytes)
    return rc
