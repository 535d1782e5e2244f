"""The z3fold zpool.

zbud with a third place: behind the header, at the end of the page, and, once both are taken, right
behind the first.  What does not fit beside the header, which is two chunks, has a page to itself
without one: a *headless* page.

Objects move, so a handle names a *cell*, and the cell says where the object is.  A page's
descriptor has three cells, for the objects that were allocated there; an object that moves to
another page, where it is *foreign*, keeps its cell, and a descriptor without a page is kept as long
as one of its cells is in use.

    handle      descriptor's id << 2 | cell, 3 for the object of a headless page
    cell        page's id << 8 | the chunk where the object begins << 2 | first, middle or last; 0
                when free

The kernel's cell has the chunks of the last object there, which gives its beginning; that of the
others it finds in the header.  With the beginning in the cell, map() depends on nothing that
changes while the object stays.

Compaction is the kernel's: the only object of a page moves to a page with room for it, unless it is
foreign; a middle object that is alone becomes the first; one that has three chunks or more between
itself and its only neighbour is brought up to it.  One deviation: the kernel does this after each
free, passing over objects that are mapped.  Here readers take no lock and leave no mark, so an
object may move only when relocate() is called, in a compaction: the caller knows then that nobody
reads it.  Between compactions pages are as sparse as frees leave them.

In kernel geometry each object has 8 bytes before it, where the kernel's zswap kept the swap slot
for zpools that evict.

Lock order: the pool's lock, then the descriptors' slab's or the arena's.  Cells are written under
the pool's lock.
"""
from libc.errno cimport EINVAL, ENOSPC
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove

from zswap_core.abi cimport ZSW_ABI_VERSION, zsw_zpool_config, zsw_zpool_ops
from zswap_core.os cimport (
    zsw_load_u64, zsw_lock, zsw_store_u64, zsw_unlikely, zsw_unlock, ZSW_UNPOISON,
)
from zswap_core.slab cimport slab_give, slab_limit
from zswap_core.zpools.arena cimport arena_release, arena_vacate
from zswap_core.zpools.zbud cimport (
    best_fit, buddies_check, buddies_create, buddies_destroy, buddies_node_pages, buddies_stats,
    buddies_total_pages, buddies_trim, buddy_page, buddy_pool, BY_AGE, CHUNK_BITS, CHUNKS,
    chunks_for, lru_touch, object_at, page_at, page_delete, page_new, page_objects, unbuddied_add,
    unbuddied_remove,
)


cdef enum:
    HEADER = 2                  # chunks
    BIG_GAP = 3                 # chunks: what is worth moving an object for

    CELL_BITS = 2
    HEADLESS = 3                # in place of a cell's number

    FIRST = 1
    MIDDLE = 2
    LAST = 3


cdef z3_page *z3_page_at(const z3_pool *pool, uint32_t id) noexcept nogil:
    return <z3_page *> page_at(&pool.buddies, id)


# ---- cells ---------------------------------------------------------------------------------------

cdef uint64_t cell_pack(uint32_t id, uint32_t start, uint32_t place) noexcept nogil:
    return <uint64_t> id << (CHUNK_BITS + CELL_BITS) | start << CELL_BITS | place


cdef uint32_t cell_page(uint64_t cell) noexcept nogil:
    return <uint32_t> (cell >> (CHUNK_BITS + CELL_BITS))


cdef uint32_t cell_start(uint64_t cell) noexcept nogil:
    return <uint32_t> cell >> CELL_BITS & (CHUNKS - 1)


cdef uint32_t cell_place(uint64_t cell) noexcept nogil:
    return <uint32_t> cell & ((1 << CELL_BITS) - 1)


cdef uint32_t free_cell(const z3_page *home) noexcept nogil:
    """Of a page with a place left, hence with a cell."""
    cdef uint32_t i = 0
    while home.cells[i] != 0:
        i += 1
    return i


cdef uint32_t cell_of(const z3_page *home, uint32_t place) noexcept nogil:
    """The cell of the object that lies at this place of its own page."""
    cdef uint32_t i = 0
    while cell_place(home.cells[i]) != place:
        i += 1
    return i


# ---- places on a page; under the pool's lock -----------------------------------------------------

cdef uint8_t *chunks_at(buddy_page *page, uint32_t place) noexcept nogil:
    if place == FIRST:
        return &page.first
    return &page.middle if place == MIDDLE else &page.last


cdef uint32_t room(const buddy_page *page) noexcept nogil:
    """Gaps do not add up: the larger one counts, and none between two neighbours."""
    cdef uint32_t before = 0
    cdef uint32_t after = 0
    if page.first == CHUNKS:
        return 0
    if page.middle == 0:
        return CHUNKS - HEADER - page.first - page.last
    if page.first == 0:
        before = page.start_middle - HEADER
    if page.last == 0:
        after = CHUNKS - page.start_middle - page.middle
    return max(before, after)


cdef uint32_t place_for(const buddy_page *page, uint32_t chunks) noexcept nogil:
    """Where an object goes on a page that has the room for it."""
    if page.first == 0 and (page.middle == 0 or HEADER + chunks <= page.start_middle):
        return FIRST
    return LAST if page.last == 0 else MIDDLE


cdef uint32_t put_object(z3_page *on, uint32_t place, uint32_t chunks) noexcept nogil:
    """Takes the place; returns the object's first chunk."""
    chunks_at(&on.page, place)[0] = <uint8_t> chunks
    if place == FIRST:
        return HEADER
    if place == LAST:
        return CHUNKS - chunks
    on.page.start_middle = <uint8_t> (HEADER + on.page.first)
    return on.page.start_middle


cdef uint32_t middle_target(const buddy_page *page) noexcept nogil:
    """The chunk where the middle object had better begin; where it does, when there is no such
    chunk or no such object."""
    if page.middle == 0 or (page.first != 0 and page.last != 0):
        return page.start_middle
    if page.first == 0 and page.last == 0:
        return HEADER
    if page.first != 0 and page.start_middle >= HEADER + page.first + BIG_GAP:
        return HEADER + page.first
    if page.last != 0 and page.start_middle + page.middle + page.last + BIG_GAP <= CHUNKS:
        return CHUNKS - page.last - page.middle
    return page.start_middle


cdef bint may_leave(const z3_page *on) noexcept nogil:
    """Its only object, if compaction finds another page for it."""
    return page_objects(&on.page) == 1 and on.foreign == 0


cdef void count_work(z3_pool *pool, const z3_page *on, int by) noexcept nogil:
    if may_leave(on):
        pool.lone[on.page.first + on.page.middle + on.page.last] += by
    if middle_target(&on.page) != on.page.start_middle:
        pool.gaps += by


cdef void page_add(z3_pool *pool, uint32_t id) noexcept nogil:
    """To its list, and to the work of compaction.  A page with a header is taken out before it
    changes and added after."""
    cdef z3_page *on = z3_page_at(pool, id)
    unbuddied_add(&pool.buddies, id, room(&on.page))
    count_work(pool, on, 1)


cdef void page_remove(z3_pool *pool, uint32_t id) noexcept nogil:
    cdef z3_page *on = z3_page_at(pool, id)
    unbuddied_remove(&pool.buddies, id, room(&on.page))
    count_work(pool, on, -1)


# ---- the zpool's functions -----------------------------------------------------------------------

cdef size_t z3_max_saving_size(void *opaque) noexcept nogil:
    """A chunk less than fits behind the header, as the kernel has it; the next size is headless."""
    cdef buddy_pool *pool = <buddy_pool *> opaque
    return (<size_t> (CHUNKS - HEADER - 1) << pool.chunk_shift) - pool.prefix


cdef size_t z3_slot_size(void *opaque, size_t size) noexcept nogil:
    cdef buddy_pool *pool = <buddy_pool *> opaque
    if size == 0 or size > pool.page_size - pool.prefix:
        return 0
    if size > z3_max_saving_size(pool):
        return pool.page_size
    return <size_t> chunks_for(pool, size) << pool.chunk_shift


cdef int malloc_headless(z3_pool *pool, uint64_t *handle, uint8_t **object) noexcept nogil:
    cdef buddy_page *page
    cdef uint32_t id
    cdef int rc
    zsw_lock(&pool.buddies.lock)
    rc = page_new(&pool.buddies, &id)
    if rc == 0:
        page_at(&pool.buddies, id).first = CHUNKS
        pool.buddies.objects += 1
        pool.buddies.object_chunks += CHUNKS
    zsw_unlock(&pool.buddies.lock)
    if zsw_unlikely(rc != 0):
        return rc
    page = page_at(&pool.buddies, id)
    ZSW_UNPOISON(page.start, pool.buddies.page_size)
    object[0] = object_at(&pool.buddies, page, 0)
    handle[0] = <uint64_t> id << CELL_BITS | HEADLESS
    return 0


cdef int z3_malloc(void *opaque, size_t size, uint64_t *handle, uint8_t **object) noexcept nogil:
    cdef z3_pool *pool = <z3_pool *> opaque
    cdef z3_page *on
    cdef uint32_t id, chunks, place, start, cell
    cdef int rc
    if size == 0:
        return -EINVAL
    if size > pool.buddies.page_size - pool.buddies.prefix:
        return -ENOSPC
    if size > z3_max_saving_size(pool):
        return malloc_headless(pool, handle, object)
    chunks = chunks_for(&pool.buddies, size)
    zsw_lock(&pool.buddies.lock)
    id = best_fit(&pool.buddies, chunks, 0)
    if id != 0:
        page_remove(pool, id)
    else:
        rc = page_new(&pool.buddies, &id)
        if zsw_unlikely(rc != 0):
            zsw_unlock(&pool.buddies.lock)
            return rc
    on = z3_page_at(pool, id)
    place = place_for(&on.page, chunks)
    start = put_object(on, place, chunks)
    cell = free_cell(on)
    on.cells[cell] = cell_pack(id, start, place)
    page_add(pool, id)
    lru_touch(&pool.buddies, id)
    pool.buddies.objects += 1
    pool.buddies.object_chunks += chunks
    zsw_unlock(&pool.buddies.lock)
    object[0] = object_at(&pool.buddies, &on.page, start)
    ZSW_UNPOISON(object[0] - pool.buddies.prefix, <size_t> chunks << pool.buddies.chunk_shift)
    handle[0] = <uint64_t> id << CELL_BITS | cell
    return 0


cdef uint8_t *z3_map(void *opaque, uint64_t handle) noexcept nogil:
    cdef z3_pool *pool = <z3_pool *> opaque
    cdef z3_page *home = z3_page_at(pool, <uint32_t> (handle >> CELL_BITS))
    cdef uint32_t number = <uint32_t> handle & HEADLESS
    cdef uint64_t cell
    if number == HEADLESS:
        return object_at(&pool.buddies, &home.page, 0)
    cell = zsw_load_u64(&home.cells[number])
    return object_at(&pool.buddies, page_at(&pool.buddies, cell_page(cell)), cell_start(cell))


cdef void vacate(const z3_pool *pool, const buddy_page *page, uint32_t start,
                 uint32_t chunks) noexcept nogil:
    arena_vacate(&pool.buddies.arena, object_at(&pool.buddies, page, start) - pool.buddies.prefix,
                 <size_t> chunks << pool.buddies.chunk_shift)


cdef size_t z3_object_room(void *opaque, uint64_t handle) noexcept nogil:
    cdef z3_pool *pool = <z3_pool *> opaque
    cdef uint32_t number = <uint32_t> handle & HEADLESS
    cdef z3_page *home
    cdef uint64_t cell
    if handle >> CELL_BITS >= slab_limit(&pool.buddies.pages):
        return 0
    home = z3_page_at(pool, <uint32_t> (handle >> CELL_BITS))
    if number == HEADLESS:
        return pool.buddies.page_size - pool.buddies.prefix if home.page.first == CHUNKS else 0
    cell = home.cells[number]
    if cell == 0:
        return 0
    return (<size_t> chunks_at(page_at(&pool.buddies, cell_page(cell)),
                               cell_place(cell))[0] << pool.buddies.chunk_shift) \
        - pool.buddies.prefix


cdef bint free_headless(z3_pool *pool, uint32_t id) noexcept nogil:
    """True: a release is due."""
    cdef buddy_page *page = page_at(&pool.buddies, id)
    cdef bint due
    if zsw_unlikely(page.first != CHUNKS):
        pool.buddies.bad_frees += 1
        return False
    vacate(pool, page, 0, CHUNKS)
    page.first = 0
    pool.buddies.objects -= 1
    pool.buddies.object_chunks -= CHUNKS
    due = page_delete(&pool.buddies, id)
    slab_give(&pool.buddies.pages, &id, 1)
    return due


cdef bint take_object(z3_pool *pool, uint64_t cell) noexcept nogil:
    """Frees the object's place, and the page with its last object.  True: a release is due."""
    cdef uint32_t id = cell_page(cell)
    cdef buddy_page *page = page_at(&pool.buddies, id)
    cdef uint8_t *chunks = chunks_at(page, cell_place(cell))
    vacate(pool, page, cell_start(cell), chunks[0])
    chunks[0] = 0
    if cell_place(cell) == MIDDLE:
        page.start_middle = 0
    if page_objects(page) == 0:
        return page_delete(&pool.buddies, id)
    page_add(pool, id)
    return False


cdef bint free_cell_of(z3_pool *pool, uint32_t home_id, uint32_t number) noexcept nogil:
    """True: a release is due."""
    cdef z3_page *home = z3_page_at(pool, home_id)
    cdef uint64_t cell = home.cells[number]
    cdef uint32_t id = cell_page(cell)
    cdef buddy_page *page
    cdef bint due
    if zsw_unlikely(cell == 0):
        # The caller's mistake.  Freeing twice would lose another's object sooner or later;
        # validate() tells of it.
        pool.buddies.bad_frees += 1
        return False
    page = page_at(&pool.buddies, id)
    page_remove(pool, id)
    pool.buddies.objects -= 1
    pool.buddies.object_chunks -= chunks_at(page, cell_place(cell))[0]
    home.cells[number] = 0
    if home_id != id:
        # Only a page's only object leaves it, so no other cell of its first page is in use, and the
        # page itself is gone.
        z3_page_at(pool, id).foreign -= 1
        pool.without_page -= 1
        slab_give(&pool.buddies.pages, &home_id, 1)
    due = take_object(pool, cell)
    if page_objects(page) == 0:
        slab_give(&pool.buddies.pages, &id, 1)
    return due


cdef void z3_free(void *opaque, uint64_t handle) noexcept nogil:
    cdef z3_pool *pool = <z3_pool *> opaque
    cdef uint32_t id = <uint32_t> (handle >> CELL_BITS)
    cdef uint32_t number = <uint32_t> handle & HEADLESS
    cdef bint due
    zsw_lock(&pool.buddies.lock)
    due = free_headless(pool, id) if number == HEADLESS else free_cell_of(pool, id, number)
    zsw_unlock(&pool.buddies.lock)
    if zsw_unlikely(due):
        arena_release(&pool.buddies.arena)


# ---- compaction ----------------------------------------------------------------------------------
#
# No page is chosen beforehand: what there is to do on a page follows from the page, so each object
# is looked at when it is offered.  Each move to another page frees a page, so moves come to an end.

cdef bint other_page_fits(const z3_pool *pool, uint32_t chunks) noexcept nogil:
    """Whether there is a page for an object of this size beside the one it is alone on, first or
    last."""
    cdef uint64_t rooms = pool.buddies.rooms >> chunks << chunks
    cdef uint32_t id
    if rooms == 0:
        return False
    if 2 * chunks > CHUNKS - HEADER or rooms & (rooms - 1) != 0:
        # its own has no room for another like it, or is not the only one
        return True
    id = best_fit(&pool.buddies, chunks, 0)
    return best_fit(&pool.buddies, chunks, id) != 0


cdef uint64_t z3_compact_begin(void *opaque) noexcept nogil:
    """About so many moves, as each may make room for more or take it; 0 only when none is
    possible."""
    cdef z3_pool *pool = <z3_pool *> opaque
    cdef uint64_t moves
    cdef uint32_t chunks
    zsw_lock(&pool.buddies.lock)
    pool.freed_by_compaction = 0
    moves = pool.gaps
    for chunks in range(1, <uint32_t> CHUNKS):
        if pool.lone[chunks] != 0 and other_page_fits(pool, chunks):
            moves += pool.lone[chunks]
    zsw_unlock(&pool.buddies.lock)
    return moves


cdef bint move_away(z3_pool *pool, uint64_t *cell, bint *due) noexcept nogil:
    """Moves the only object of a page to another page, if there is one for it."""
    cdef uint32_t id = cell_page(cell[0])
    cdef buddy_page *page = page_at(&pool.buddies, id)
    cdef uint32_t chunks = chunks_at(page, cell_place(cell[0]))[0]
    cdef uint32_t target_id = best_fit(&pool.buddies, chunks, id)
    cdef size_t bytes = <size_t> chunks << pool.buddies.chunk_shift
    cdef uint64_t old = cell[0]
    cdef z3_page *target
    cdef uint8_t *to
    cdef uint32_t place, start
    if target_id == 0:
        return False
    target = z3_page_at(pool, target_id)
    page_remove(pool, target_id)
    place = place_for(&target.page, chunks)
    start = put_object(target, place, chunks)
    target.foreign += 1
    page_add(pool, target_id)
    to = object_at(&pool.buddies, &target.page, start) - pool.buddies.prefix
    ZSW_UNPOISON(to, bytes)
    memcpy(to, object_at(&pool.buddies, page, cell_start(old)) - pool.buddies.prefix, bytes)
    zsw_store_u64(cell, cell_pack(target_id, start, place))
    page_remove(pool, id)
    due[0] = take_object(pool, old)
    pool.without_page += 1
    pool.freed_by_compaction += 1
    return True


cdef void move_middle(z3_pool *pool, uint64_t *cell) noexcept nogil:
    """To where it had better begin; there it is the first if it is alone."""
    cdef uint32_t id = cell_page(cell[0])
    cdef buddy_page *page = page_at(&pool.buddies, id)
    cdef uint32_t start = middle_target(page)
    cdef uint32_t old = page.start_middle
    cdef uint32_t chunks = page.middle
    cdef uint32_t place = MIDDLE
    cdef size_t bytes = <size_t> chunks << pool.buddies.chunk_shift
    cdef uint8_t *to = object_at(&pool.buddies, page, start) - pool.buddies.prefix
    page_remove(pool, id)
    ZSW_UNPOISON(to, bytes)
    memmove(to, object_at(&pool.buddies, page, old) - pool.buddies.prefix, bytes)
    if start == HEADER:
        place = FIRST
        page.first = page.middle
        page.middle = 0
        page.start_middle = 0
    else:
        page.start_middle = <uint8_t> start
    # What it left: it may overlap where it is now.
    if start < old:
        start = max(start + chunks, old)
        vacate(pool, page, start, old + chunks - start)
    else:
        vacate(pool, page, old, min(chunks, start - old))
    zsw_store_u64(cell, cell_pack(id, page.start_middle if place == MIDDLE else <uint32_t> HEADER,
                                  place))
    page_add(pool, id)


cdef int z3_relocate(void *opaque, uint64_t handle, uint64_t *new_handle) noexcept nogil:
    """The whole move under the lock, as the object's place and its cell must change in one."""
    cdef z3_pool *pool = <z3_pool *> opaque
    cdef z3_page *home = z3_page_at(pool, <uint32_t> (handle >> CELL_BITS))
    cdef uint32_t number = <uint32_t> handle & HEADLESS
    cdef z3_page *on
    cdef uint64_t *cell
    cdef bint due = False
    cdef bint moved = False
    if number == HEADLESS:
        return 0
    cell = &home.cells[number]
    zsw_lock(&pool.buddies.lock)
    on = z3_page_at(pool, cell_page(cell[0]))
    if may_leave(on):
        moved = move_away(pool, cell, &due)
    if (not moved and cell_place(cell[0]) == MIDDLE
            and middle_target(&on.page) != on.page.start_middle):
        move_middle(pool, cell)
        moved = True
    # what is due is the caller's to trim, who holds a lock
    zsw_unlock(&pool.buddies.lock)
    new_handle[0] = handle                      # the cell stays, whatever it says now
    return moved


cdef uint64_t z3_compact_end(void *opaque) noexcept nogil:
    cdef z3_pool *pool = <z3_pool *> opaque
    cdef uint64_t freed
    zsw_lock(&pool.buddies.lock)
    freed = pool.freed_by_compaction
    pool.freed_by_compaction = 0
    pool.buddies.pages_compacted += freed
    zsw_unlock(&pool.buddies.lock)
    arena_release(&pool.buddies.arena)
    return freed


# ---- eviction ------------------------------------------------------------------------------------

cdef uint32_t z3fold_evict_candidates(void *opaque, uint64_t *handles, uint32_t n) noexcept nogil:
    cdef z3_pool *pool = <z3_pool *> opaque
    cdef z3_page *on = NULL
    cdef uint32_t[3] order = [MIDDLE, FIRST, LAST]
    cdef uint32_t i, id
    cdef uint32_t count = 0
    zsw_lock(&pool.buddies.lock)
    id = pool.buddies.lru.last
    while id != 0 and z3_page_at(pool, id).foreign != 0:
        id = page_at(&pool.buddies, id).links[BY_AGE].prev
    if id != 0:
        on = z3_page_at(pool, id)
        if on.page.first == CHUNKS:
            if n > 0:
                handles[0] = <uint64_t> id << CELL_BITS | HEADLESS
                count = 1
        else:
            for i in range(3):
                if chunks_at(&on.page, order[i])[0] != 0 and count < n:
                    handles[count] = <uint64_t> id << CELL_BITS | cell_of(on, order[i])
                    count += 1
        lru_touch(&pool.buddies, id)
    zsw_unlock(&pool.buddies.lock)
    return count


# ---- life ----------------------------------------------------------------------------------------

cdef int z3_create(const zsw_zpool_config *config, void **out) noexcept nogil:
    return buddies_create(config, HEADER, sizeof(z3_page), sizeof(z3_pool), out)


# ---- checking ------------------------------------------------------------------------------------

cdef int check_cell(z3_pool *pool, uint32_t home_id, uint64_t cell) noexcept nogil:
    """Names an object, at the chunk where it begins, that no other cell names."""
    cdef uint32_t place = cell_place(cell)
    cdef uint32_t start
    cdef z3_page *on
    if place == 0 or cell_page(cell) == 0 or cell_page(cell) >= slab_limit(&pool.buddies.pages):
        return -121
    on = z3_page_at(pool, cell_page(cell))
    if on.page.first == CHUNKS or chunks_at(&on.page, place)[0] == 0:
        return -122
    start = on.page.start_middle if place == MIDDLE else <uint32_t> HEADER
    if place == LAST:
        start = CHUNKS - on.page.last
    if cell_start(cell) != start:
        return -123
    if on.seen >> place & 1:
        return -124
    on.seen |= <uint8_t> (1 << place)
    if cell_page(cell) != home_id:
        on.seen += 1 << 4                       # foreign ones are counted there
        if page_objects(page_at(&pool.buddies, home_id)) != 0:
            return -125
    return 0


cdef int check_cells(z3_pool *pool, uint64_t *without_page) noexcept nogil:
    cdef z3_page *home
    cdef uint32_t id, i, used
    cdef int rc
    for id in range(1, slab_limit(&pool.buddies.pages)):
        home = z3_page_at(pool, id)
        used = 0
        for i in range(<uint32_t> CELLS):
            if home.cells[i] != 0:
                used += 1
                rc = check_cell(pool, id, home.cells[i])
                if rc != 0:
                    return rc
        if used != 0 and page_objects(&home.page) == 0:
            without_page[0] += 1
            if used != 1:
                return -126
    return 0


cdef int check_work(z3_pool *pool) noexcept nogil:
    """What each page adds up to; takes it off the counters, which are restored by whoever
    called."""
    cdef z3_page *on
    cdef uint32_t id = pool.buddies.lru.first
    cdef uint32_t places
    while id != 0:
        on = z3_page_at(pool, id)
        places = ((on.page.first != 0) << FIRST | (on.page.middle != 0) << MIDDLE
                  | (on.page.last != 0) << LAST)
        if on.page.first == CHUNKS:
            if on.seen != 0 or on.foreign != 0:
                return -127
        elif on.seen & 0xf != places or on.seen >> 4 != on.foreign:
            return -128
        else:
            count_work(pool, on, -1)
        id = on.page.links[BY_AGE].next
    for id in range(<uint32_t> CHUNKS):
        if pool.lone[id] != 0:
            return -129
    return 0 if pool.gaps == 0 else -130


cdef int check_all(z3_pool *pool) noexcept nogil:
    cdef uint64_t lone[CHUNKS]
    cdef uint64_t gaps = pool.gaps
    cdef uint64_t without_page = 0
    cdef uint32_t id
    cdef int rc = buddies_check(&pool.buddies, room)
    if rc != 0:
        return rc
    for id in range(1, slab_limit(&pool.buddies.pages)):
        z3_page_at(pool, id).seen = 0
    rc = check_cells(pool, &without_page)
    if rc != 0:
        return rc
    memcpy(lone, pool.lone, sizeof(lone))
    rc = check_work(pool)
    memcpy(pool.lone, lone, sizeof(lone))
    pool.gaps = gaps
    if rc != 0:
        return rc
    if (without_page != pool.without_page or pool.buddies.pages.inuse != pool.buddies.page_count
            + without_page):
        return -131
    return 0


cdef int z3_validate(void *opaque) noexcept nogil:
    cdef z3_pool *pool = <z3_pool *> opaque
    cdef int rc
    zsw_lock(&pool.buddies.lock)
    rc = check_all(pool)
    zsw_unlock(&pool.buddies.lock)
    return rc


cdef zsw_zpool_ops ops

ops.abi_version = ZSW_ABI_VERSION
ops.struct_size = sizeof(zsw_zpool_ops)
ops.name = "z3fold"
ops.create = z3_create
ops.destroy = buddies_destroy
ops.malloc = z3_malloc
ops.free = z3_free
ops.map = z3_map
ops.total_pages = buddies_total_pages
ops.max_saving_size = z3_max_saving_size
ops.compact_begin = z3_compact_begin
ops.relocate = z3_relocate
ops.compact_end = z3_compact_end
ops.trim = buddies_trim
ops.stats = buddies_stats
ops.validate = z3_validate
ops.slot_size = z3_slot_size
ops.node_pages = buddies_node_pages
ops.object_room = z3_object_room


cdef const zsw_zpool_ops *z3fold_ops() noexcept nogil:
    return &ops
