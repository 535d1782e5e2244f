"""The zsmalloc zpool.

Objects of about one size share *zspages*: chains of a few pages, cut into equal slots so that
little is left over.  A zspage lies in one piece in the arena, so an object never straddles anything
and map() is one look-up and a multiplication.

Two geometries:
  kernel  the kernel's classes and page counts, 8 bytes of each slot for its handle, whole zspages
          counted as memory: the density measured here is the kernel's.
  ours    no handle in the slot; chains up to 32 pages, since contiguous address space is free here;
          slots are given out lowest first, so the tail of a zspage costs nothing (and counts for
          nothing) until an object needs it.  A class is a multiple of a 256th of a page, and the
          class of k such units has at most k pages: that is at most 256 slots, whatever the page
          size, and a descriptor of one cache line.

A handle is the id of a zspage descriptor << SLOT_BITS | slot.  Free slots are bits of the
descriptor; the memory of an object is its owner's alone, malloc and free never touch it.

An object that has a page to itself, as a page that does not compress, is a lone page of the
arena's: it has no zspage, and its handle, 1 << LONE_SHIFT | where it lies, leads to it.  So it
takes the arena's lock and no other, once for all of a malloc_many or a free_many.

Lock order: a class's lock, then the descriptors' slab's or the arena's.  A descriptor's list links,
counts and bits belong to the lock of its class; `first`, `size` and `class_id` are constant while
an object lives in it, so map() takes no lock.  Only validate() holds more than one class's lock:
all of them, in ascending order.
"""
from libc.errno cimport EINVAL, ENOMEM, ENOSPC
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from zswap_core.abi cimport (
    ZSW_ABI_VERSION, ZSW_PAGE_SIZE_MAX, ZSW_PAGE_SIZE_MIN, zsw_zpool_config, ZSW_ZPOOL_NO_DUMP,
    zsw_zpool_ops, zsw_zpool_stats,
)
from zswap_core.fault cimport fault, Site
from zswap_core.os cimport (
    zsw_add_i64, zsw_add_u64, zsw_clz, zsw_ctz, zsw_lock, zsw_map_as, ZSW_MAP_NO_DUMP, zsw_peek_i64,
    zsw_peek_u64, zsw_prefetch, zsw_relock, zsw_unlikely, zsw_unlock, zsw_unmap, ZSW_UNPOISON,
)
from zswap_core.slab cimport (
    slab_at, slab_bytes, slab_destroy, slab_give, slab_init, slab_limit, slab_peek, slab_take,
    slab_validate,
)
from zswap_core.zpools.arena cimport (
    arena_alloc, arena_check_begin, arena_check_claim, arena_check_end, arena_commit, arena_destroy,
    arena_free, arena_give_lone, arena_idle_pages, arena_init, arena_is_lone, arena_metadata_bytes,
    arena_node_pages, arena_page, arena_release, ARENA_SPAN_MAX, arena_take_lone, arena_total_pages,
    arena_uncommit, arena_vacate,
)


cdef enum:
    OUR_CHAIN = 32
    KERNEL_CHAIN = 8
    KERNEL_CHAIN_MAX = 16
    KERNEL_SIZE_MIN = 32
    KERNEL_HANDLE = 8

    # Fullness groups.  1 to 10 hold the zspages with room: tenths of their slots in use, rounded
    # down, plus 1.
    EMPTY = 0
    FULL = 11
    SOURCE = 12                 # being emptied by compaction: takes no object
    # what is left of a class's objects once compaction has filled all others
    TAIL = 13
    WITH_ROOM = 0x7FE           # the mask of groups 1 to 10

    PAGES_HELD = 32             # lone pages taken or given before others get the arena's lock

    # What compaction does before others get the lock of a class: zspages that change their group,
    MOVES_HELD = 64
    TRIMS_HELD = 4                  # that give memory back,
    SEEN_HELD = 512                 # that are looked at for that


# ---- geometry ------------------------------------------------------------------------------------

cdef uint32_t our_pages(uint32_t units, uint32_t chain) noexcept nogil:
    """The shortest chain that wastes at most a 256th of its pages more than the best one does.

    A shorter zspage gets empty sooner, which is worth more than the last tenth of a percent.
    `units` is the size in 256ths of a page.
    """
    cdef uint32_t best = 1
    cdef uint32_t pages
    chain = min(chain, units)
    for pages in range(2, chain + 1):
        if (256 * pages) % units * best < (256 * best) % units * pages:
            best = pages
    for pages in range(1, best):
        if (256 * pages) % units * best <= ((256 * best) % units + best) * pages:
            return pages
    return best


cdef uint32_t kernel_pages(uint32_t size, uint32_t page_size, uint32_t chain) noexcept nogil:
    """The rule of Linux 6.3 and later: least bytes wasted, over however many pages; one page for
    powers of two."""
    cdef uint32_t best = 1
    cdef uint32_t pages
    if size & (size - 1) == 0:
        return 1
    for pages in range(2, chain + 1):
        if pages * page_size % size < best * page_size % size:
            best = pages
    return best


cdef void class_set(zs_pool *pool, uint32_t id, uint32_t size, uint32_t pages) noexcept nogil:
    cdef zs_class *cls = &pool.classes[id]
    cdef uint32_t slots = pages * pool.page_size // size
    cls.size = size
    # A slot that is a page by itself has no room for a handle in it: the kernel keeps that one
    # elsewhere.
    cls.payload = size if slots == 1 else size - pool.handle_size
    cls.pages = <uint16_t> pages
    cls.slots = <uint16_t> slots
    cls.tenths = ((<uint64_t> 10 << 32) + slots - 1) // slots


cdef bint same_shape(const zs_class *cls, uint32_t pages, uint32_t slots) noexcept nogil:
    return cls.pages == pages and cls.slots == slots


cdef int build_classes(zs_pool *pool, uint32_t chain, bint kernel) noexcept nogil:
    """From large to small: a class that packs no better than the next larger one is that one."""
    cdef uint32_t sizes = ((pool.page_size - pool.size_min + (1 << pool.step_shift)
                            - 1) >> pool.step_shift) + 1
    cdef uint32_t step = sizes
    cdef uint32_t id = CLASSES
    cdef uint32_t size, pages, slots, most
    most = 0
    while step > 0:
        step -= 1
        size = min(pool.size_min + (step << pool.step_shift), pool.page_size)
        if kernel:
            pages = kernel_pages(size, pool.page_size, chain)
        else:
            pages = our_pages(size >> pool.step_shift, chain)
        slots = pages * pool.page_size // size
        if id == CLASSES or not same_shape(&pool.classes[id], pages, slots):
            if id == 0 or slots > SLOT_MASK + 1:
                return -EINVAL
            id -= 1
            class_set(pool, id, size, pages)
            most = max(most, slots)
        pool.class_of[step] = <uint8_t> id
    # They were filled in from the end; bring them to the front.
    pool.class_count = CLASSES - id
    if id > 0:
        for step in range(pool.class_count):
            pool.classes[step] = pool.classes[id + step]
        memset(&pool.classes[pool.class_count], 0, id * sizeof(zs_class))
        for step in range(sizes):
            pool.class_of[step] -= <uint8_t> id
    # A descriptor is whole cache lines: one, but for the kernel's smallest classes of large pages.
    slab_init(&pool.zspages, (sizeof(zspage) + (most + 63) // 64 * 8 + 63) & ~(<uint32_t> 63),
              <uint32_t> 1 << (LONE_SHIFT - SLOT_BITS))
    return 0


cdef zs_class *class_for(zs_pool *pool, size_t size) noexcept nogil:
    """The class for a request of 1 .. page_size bytes."""
    cdef size_t step = 0
    size += pool.handle_size
    if size > pool.page_size:
        size = pool.page_size       # a page by itself, its handle outside
    if size > pool.size_min:
        step = (size - pool.size_min + (<size_t> 1 << pool.step_shift) - 1) >> pool.step_shift
    return &pool.classes[pool.class_of[step]]


# ---- zspages in fullness groups ------------------------------------------------------------------

cdef zspage *zspage_of(const zs_pool *pool, uint32_t id) noexcept nogil:
    return <zspage *> slab_at(&pool.zspages, id)


cdef uint64_t *free_slots(zspage *zs) noexcept nogil:
    return <uint64_t *> (zs + 1)


cdef bint slot_is_free(zspage *zs, uint32_t slot) noexcept nogil:
    return free_slots(zs)[slot >> 6] >> (slot & 63) & 1


cdef uint32_t fullness(const zs_class *cls, uint32_t objects) noexcept nogil:
    """The fullness group.  Multiplies instead of dividing: exact, as the numbers have 12 bits and
    the factor 32 more."""
    if objects == 0:
        return EMPTY
    if objects == cls.slots:
        return FULL
    return <uint32_t> (objects * cls.tenths >> 32) + 1


cdef void group_add(zs_pool *pool, zs_class *cls, uint32_t id, uint32_t group) noexcept nogil:
    cdef zspage *zs = zspage_of(pool, id)
    cdef uint32_t head = cls.heads[group]
    zs.group = <uint8_t> group
    zs.prev = 0
    zs.next = head
    if head != 0:
        zspage_of(pool, head).prev = id
    cls.heads[group] = id
    cls.groups |= <uint32_t> 1 << group


cdef void group_remove(zs_pool *pool, zs_class *cls, uint32_t id) noexcept nogil:
    cdef zspage *zs = zspage_of(pool, id)
    if zs.next != 0:
        zspage_of(pool, zs.next).prev = zs.prev
    if zs.prev != 0:
        zspage_of(pool, zs.prev).next = zs.next
    else:
        cls.heads[zs.group] = zs.next
        if zs.next == 0:
            cls.groups &= ~(<uint32_t> 1 << zs.group)


cdef void group_move(zs_pool *pool, zs_class *cls, uint32_t id, uint32_t group) noexcept nogil:
    if zspage_of(pool, id).group != group:
        group_remove(pool, cls, id)
        group_add(pool, cls, id, group)


cdef uint32_t fullest_with_room(const zs_class *cls) noexcept nogil:
    cdef uint32_t groups = cls.groups & WITH_ROOM
    return cls.heads[63 - zsw_clz(groups)] if groups != 0 else 0


cdef int zspage_new(zs_pool *pool, zs_class *cls, uint32_t *id) noexcept nogil:
    """Under the class's lock, so that threads in need of the same class share one new zspage
    instead of making one each."""
    cdef zspage *zs
    cdef uint64_t *free
    cdef uint32_t slot
    cdef int rc
    if slab_take(&pool.zspages, id, 1) != 1:
        return -ENOMEM
    zs = zspage_of(pool, id[0])
    rc = arena_alloc(&pool.arena, cls.pages, &zs.span, &zs.first)
    if rc != 0:
        slab_give(&pool.zspages, id, 1)
        return rc
    zs.first += cls.size - cls.payload
    zs.size = cls.size
    zs.objects = 0
    zs.class_id = <uint8_t> (cls - pool.classes)
    free = free_slots(zs)
    memset(free, 0, (cls.slots + 63) // 64 * sizeof(uint64_t))
    for slot in range(cls.slots >> 6):
        free[slot] = ~(<uint64_t> 0)
    if cls.slots & 63:
        free[cls.slots >> 6] = (<uint64_t> 1 << (cls.slots & 63)) - 1
    if pool.whole:
        zspage_commit(pool, zs, cls.pages)
    cls.zspages += 1
    group_add(pool, cls, id[0], EMPTY)
    return 0


cdef bint zspage_delete(zs_pool *pool, zs_class *cls, uint32_t id) noexcept nogil:
    """True: arena_release() is due once the class's lock is dropped."""
    cdef bint due = arena_free(&pool.arena, &zspage_of(pool, id).span)
    group_remove(pool, cls, id)
    cls.zspages -= 1
    slab_give(&pool.zspages, &id, 1)
    return due


cdef void zspage_commit(zs_pool *pool, zspage *zs, uint32_t pages) noexcept nogil:
    if pages > zs.span.committed:
        arena_commit(&pool.arena, pages - zs.span.committed)
        zs.span.committed = <uint16_t> pages


cdef uint32_t pages_for(const zs_pool *pool, const zs_class *cls, uint32_t slots) noexcept nogil:
    return (slots * cls.size + pool.page_size - 1) >> pool.page_shift


# ---- slots; under the class's lock ---------------------------------------------------------------

cdef uint32_t lowest_free_slot(zspage *zs) noexcept nogil:
    """Of a zspage with room."""
    cdef uint64_t *free = free_slots(zs)
    cdef uint32_t word = 0
    while free[word] == 0:
        word += 1
    return (word << 6) + <uint32_t> zsw_ctz(free[word])


cdef uint32_t slot_take(zs_pool *pool, zs_class *cls, uint32_t id) noexcept nogil:
    """The lowest free slot of a zspage with room."""
    cdef zspage *zs = zspage_of(pool, id)
    cdef uint32_t slot = lowest_free_slot(zs)
    free_slots(zs)[slot >> 6] &= ~(<uint64_t> 1 << (slot & 63))
    zs.objects += 1
    cls.objects += 1
    zspage_commit(pool, zs, pages_for(pool, cls, slot + 1))
    if zs.group != TAIL or zs.objects == cls.slots:
        group_move(pool, cls, id, fullness(cls, zs.objects))
    return slot


cdef bint slot_drop(zs_pool *pool, zs_class *cls, uint32_t id, uint32_t slot) noexcept nogil:
    """True: arena_release() is due once the class's lock is dropped."""
    cdef zspage *zs = zspage_of(pool, id)
    free_slots(zs)[slot >> 6] |= <uint64_t> 1 << (slot & 63)
    zs.objects -= 1
    cls.objects -= 1
    if zs.objects == 0:
        if zs.group >= SOURCE:
            zsw_add_i64(&pool.freed_by_compaction, zs.span.committed)
        return zspage_delete(pool, cls, id)
    if zs.group < SOURCE:
        group_move(pool, cls, id, fullness(cls, zs.objects))
    return False


cdef int room_make(zs_pool *pool, zs_class *cls, uint32_t *id) noexcept nogil:
    """A zspage with room when there is none for the asking."""
    id[0] = cls.heads[TAIL]
    if id[0] != 0:
        return 0
    id[0] = cls.heads[SOURCE]
    if id[0] == 0:
        return zspage_new(pool, cls, id)
    # Compaction has filled every other zspage: this source could not be emptied any more, so it is
    # none.
    group_move(pool, cls, id[0], fullness(cls, zspage_of(pool, id[0]).objects))
    return 0


# ---- objects that are a page ---------------------------------------------------------------------

cdef uint8_t *lone_page(const zs_pool *pool, uint64_t handle) noexcept nogil:
    return arena_page(&pool.arena, <uint32_t> handle)


cdef size_t take_pages(zs_pool *pool, uint64_t *handles, size_t n) noexcept nogil:
    """Up to `n` pages and their handles; how many."""
    cdef uint32_t at[PAGES_HELD]
    cdef size_t got = 0
    cdef uint32_t i, some = 1
    while got < n and some != 0:
        some = arena_take_lone(&pool.arena, at, <uint32_t> min(n - got, <size_t> PAGES_HELD))
        for i in range(some):
            handles[got] = <uint64_t> 1 << LONE_SHIFT | at[i]
            ZSW_UNPOISON(lone_page(pool, handles[got]), pool.page_size)
            got += 1
    return got


cdef bint give_pages(zs_pool *pool, const uint64_t *handles, size_t n) noexcept nogil:
    """Gives back those of the objects that are pages.  True: arena_release() is due."""
    cdef uint32_t at[PAGES_HELD]
    cdef uint32_t some = 0
    cdef bint due = False
    cdef size_t i
    for i in range(n):
        if not is_lone(handles[i]):
            continue
        if zsw_unlikely(not arena_is_lone(&pool.arena, <uint32_t> handles[i])):
            zsw_add_u64(&pool.bad_frees, 1)         # as in object_drop
            continue
        arena_vacate(&pool.arena, lone_page(pool, handles[i]), pool.page_size)
        at[some] = <uint32_t> handles[i]
        some += 1
        if some == PAGES_HELD:
            due |= arena_give_lone(&pool.arena, at, some)
            some = 0
    if some:
        due |= arena_give_lone(&pool.arena, at, some)
    return due


# ---- the zpool's functions -----------------------------------------------------------------------

cdef int zs_malloc(void *opaque, size_t size, uint64_t *handle, uint8_t **object) noexcept nogil:
    cdef zs_pool *pool = <zs_pool *> opaque
    cdef zs_class *cls
    cdef zspage *zs
    cdef uint32_t id, slot
    cdef int rc
    if size == 0:
        return -EINVAL
    if size > pool.page_size:
        return -ENOSPC
    cls = class_for(pool, size)
    if cls.slots == 1:
        if zsw_unlikely(take_pages(pool, handle, 1) == 0):
            return -ENOMEM
        object[0] = lone_page(pool, handle[0])
        return 0
    zsw_lock(&cls.lock)
    id = fullest_with_room(cls)
    if zsw_unlikely(id == 0):
        rc = room_make(pool, cls, &id)
        if rc != 0:
            zsw_unlock(&cls.lock)
            return rc
    slot = slot_take(pool, cls, id)
    zs = zspage_of(pool, id)
    object[0] = zs.first + slot * zs.size
    zsw_unlock(&cls.lock)
    ZSW_UNPOISON(object[0], cls.payload)
    handle[0] = <uint64_t> id << SLOT_BITS | slot
    return 0


cdef int64_t zs_malloc_many(void *opaque, size_t size, uint64_t *handles,
                            size_t n) noexcept nogil:
    cdef zs_pool *pool = <zs_pool *> opaque
    cdef uint8_t *object
    cdef size_t got = 0
    cdef int rc = 0
    if size != 0 and size <= pool.page_size and class_for(pool, size).slots == 1:
        got = take_pages(pool, handles, n)
        rc = -ENOMEM
    else:
        while got < n and rc == 0:
            rc = zs_malloc(pool, size, &handles[got], &object)
            got += rc == 0
    return <int64_t> got if got != 0 else rc


cdef uint8_t *zs_map(void *opaque, uint64_t handle) noexcept nogil:
    cdef zspage *zs
    if is_lone(handle):
        return lone_page(<zs_pool *> opaque, handle)
    zs = zspage_of(<zs_pool *> opaque, <uint32_t> (handle >> SLOT_BITS))
    return zs.first + <uint32_t> (handle & SLOT_MASK) * zs.size


cdef void zs_prefetch(void *opaque, uint64_t handle) noexcept nogil:
    cdef zs_pool *pool = <zs_pool *> opaque
    cdef zspage *zs
    cdef uint8_t *object = NULL
    if is_lone(handle):
        if arena_is_lone(&pool.arena, <uint32_t> handle):
            object = lone_page(pool, handle)
    else:
        zs = <zspage *> slab_peek(&pool.zspages, <uint32_t> (handle >> SLOT_BITS))
        if zs != NULL:
            object = zs.first + <uint32_t> (handle & SLOT_MASK) * zs.size
    if object != NULL:
        zsw_prefetch(object)
        zsw_prefetch(object + 64)               # the processor's own prefetching goes on from there


cdef bint object_drop(zs_pool *pool, zs_class *cls, uint32_t id, uint32_t slot) noexcept nogil:
    """Under the class's lock.  True: arena_release() is due once it is dropped."""
    cdef zspage *zs = zspage_of(pool, id)
    if zsw_unlikely(slot_is_free(zs, slot)):
        # The caller's mistake.  Freeing twice would lose another's object sooner or later;
        # validate() tells of it.
        zsw_add_u64(&pool.bad_frees, 1)
        return False
    arena_vacate(&pool.arena, zs.first + slot * zs.size, cls.payload)
    return slot_drop(pool, cls, id, slot)


cdef zs_class *class_of(zs_pool *pool, uint64_t handle) noexcept nogil:
    return &pool.classes[zspage_of(pool, <uint32_t> (handle >> SLOT_BITS)).class_id]


cdef void zs_free(void *opaque, uint64_t handle) noexcept nogil:
    zs_free_many(opaque, &handle, 1)


cdef void zs_free_many(void *opaque, const uint64_t *handles, size_t n) noexcept nogil:
    """Neighbours are often of one class: its lock is kept from one to the next."""
    cdef zs_pool *pool = <zs_pool *> opaque
    cdef zs_class *cls = NULL
    cdef zs_class *owner
    cdef bint due = give_pages(pool, handles, n)
    cdef size_t i
    for i in range(n):
        if is_lone(handles[i]):
            continue
        owner = class_of(pool, handles[i])
        if owner != cls:
            if cls != NULL:
                zsw_unlock(&cls.lock)
            cls = owner
            zsw_lock(&cls.lock)
        due |= object_drop(pool, cls, <uint32_t> (handles[i] >> SLOT_BITS),
                           <uint32_t> (handles[i] & SLOT_MASK))
    if cls != NULL:
        zsw_unlock(&cls.lock)
    if zsw_unlikely(due):
        arena_release(&pool.arena)


cdef size_t zs_object_room(void *opaque, uint64_t handle) noexcept nogil:
    cdef zs_pool *pool = <zs_pool *> opaque
    cdef uint32_t slot = <uint32_t> (handle & SLOT_MASK)
    cdef zspage *zs
    if is_lone(handle):
        return pool.page_size if arena_is_lone(&pool.arena, <uint32_t> handle) else 0
    if handle >> SLOT_BITS >= slab_limit(&pool.zspages):
        return 0
    zs = zspage_of(pool, <uint32_t> (handle >> SLOT_BITS))
    if zs.objects == 0 or slot >= pool.classes[zs.class_id].slots or slot_is_free(zs, slot):
        return 0
    return pool.classes[zs.class_id].payload


cdef uint64_t zs_total_pages(void *opaque) noexcept nogil:
    return arena_total_pages(&(<zs_pool *> opaque).arena)


cdef size_t zs_max_saving_size(void *opaque) noexcept nogil:
    cdef zs_pool *pool = <zs_pool *> opaque
    cdef uint32_t id = pool.class_count
    while id > 0:
        id -= 1
        if pool.classes[id].slots > pool.classes[id].pages:
            return pool.classes[id].payload
    return 0


cdef size_t zs_slot_size(void *opaque, size_t size) noexcept nogil:
    cdef zs_pool *pool = <zs_pool *> opaque
    cdef zs_class *cls = class_for(pool, size)
    return <size_t> cls.pages * pool.page_size // cls.slots if cls != NULL else 0


# ---- compaction ----------------------------------------------------------------------------------
#
# Sources are the emptiest zspages of a class, as many as its free slots add up to: so the others
# have a slot for every object on them.  That is the kernel's rule, and the whole of it in its
# geometry.  In ours, free slots that do not add up to a zspage are worth having too, if they all
# lie at the end of one: the next emptiest zspage becomes the tail.  Its objects fill up the others,
# those that find no room there move to its own lowest slots, and the pages behind them are given
# back.

cdef uint32_t emptiest(const zs_class *cls) noexcept nogil:
    cdef uint32_t groups = cls.groups & WITH_ROOM
    return cls.heads[zsw_ctz(groups)] if groups != 0 else 0


cdef uint64_t class_compact_begin(zs_pool *pool, zs_class *cls) noexcept nogil:
    """Under the class's lock, which others have in between."""
    cdef uint64_t moves = 0
    cdef uint32_t sources = 0
    cdef uint32_t id, left
    cdef int64_t free
    while True:
        # of all but the sources; those that others emptied meanwhile still count as such
        free = <int64_t> (cls.zspages - sources) * cls.slots - <int64_t> cls.objects
        id = emptiest(cls)
        if id == 0 or free < cls.slots:
            break
        group_move(pool, cls, id, SOURCE)
        moves += zspage_of(pool, id).objects
        sources += 1
        if sources % MOVES_HELD == 0:
            zsw_relock(&cls.lock)
    if id != 0 and free >= 0 and not pool.whole:
        left = cls.slots - <uint32_t> free              # slots the tail will have in use
        if zspage_of(pool, id).span.committed > pages_for(pool, cls, left):
            group_move(pool, cls, id, TAIL)
            moves += zspage_of(pool, id).objects
    return moves


cdef uint64_t zs_compact_begin(void *opaque) noexcept nogil:
    cdef zs_pool *pool = <zs_pool *> opaque
    cdef uint64_t moves = 0
    cdef uint32_t i
    pool.freed_by_compaction = 0
    for i in range(pool.class_count):
        zsw_lock(&pool.classes[i].lock)
        moves += class_compact_begin(pool, &pool.classes[i])
        zsw_unlock(&pool.classes[i].lock)
    return moves


cdef uint32_t target_for(zs_pool *pool, zs_class *cls, zspage *zs, uint32_t slot) noexcept nogil:
    """The zspage this object is to move to; 0: it stays.  Never a new one, that would win
    nothing."""
    cdef uint32_t id = fullest_with_room(cls)
    if zs.group < SOURCE:
        return 0
    if id != 0 or pool.whole:
        return id
    if cls.heads[TAIL] == 0:
        # Its objects came first and found room elsewhere, which the last ones of the sources now
        # lack.
        group_move(pool, cls, cls.heads[SOURCE], TAIL)
    if zs.group == TAIL and lowest_free_slot(zs) > slot:
        return 0
    return cls.heads[TAIL]


cdef int zs_relocate(void *opaque, uint64_t handle, uint64_t *new_handle) noexcept nogil:
    cdef zs_pool *pool = <zs_pool *> opaque
    cdef zspage *zs
    cdef zs_class *cls
    cdef uint32_t id
    cdef uint32_t slot = 0
    cdef int64_t committed
    cdef uint8_t *target
    if is_lone(handle):
        return 0
    zs = zspage_of(pool, <uint32_t> (handle >> SLOT_BITS))
    cls = &pool.classes[zs.class_id]
    zsw_lock(&cls.lock)
    id = target_for(pool, cls, zs, <uint32_t> (handle & SLOT_MASK))
    if id != 0:
        committed = zspage_of(pool, id).span.committed
        slot = slot_take(pool, cls, id)
        zsw_add_i64(&pool.freed_by_compaction, committed - zspage_of(pool, id).span.committed)
    zsw_unlock(&cls.lock)
    if id == 0:
        return 0
    # The object lives twice while it is copied, without a lock: it is the caller's to move, and
    # both slots are taken.
    target = zs_map(pool, <uint64_t> id << SLOT_BITS | slot)
    ZSW_UNPOISON(target, cls.payload)
    memcpy(target, zs_map(pool, handle), cls.payload)
    zsw_lock(&cls.lock)
    # what is due is the caller's to trim, who holds a lock
    object_drop(pool, cls, <uint32_t> (handle >> SLOT_BITS), <uint32_t> (handle & SLOT_MASK))
    zsw_unlock(&cls.lock)
    new_handle[0] = <uint64_t> id << SLOT_BITS | slot
    return 1


cdef bint trim_some(zs_pool *pool, zs_class *cls, uint64_t *freed) noexcept nogil:
    """Gives back the pages behind the last object of some zspages with room, of which there are few
    after compaction; False when no more are found."""
    cdef zspage *zs
    cdef uint32_t group, id, slots, pages, seen = 0, trimmed = 0
    for group in range(1, <uint32_t> FULL):
        id = cls.heads[group]
        while id != 0:
            if trimmed == TRIMS_HELD or seen == SEEN_HELD:
                return trimmed != 0
            zs = zspage_of(pool, id)
            seen += 1
            slots = cls.slots
            while slot_is_free(zs, slots - 1):
                slots -= 1
            pages = pages_for(pool, cls, slots)
            if pages < zs.span.committed:
                freed[0] += zs.span.committed - pages
                arena_uncommit(&pool.arena, &zs.span, pages)
                trimmed += 1
            id = zs.next
    return False


cdef uint64_t zs_compact_end(void *opaque) noexcept nogil:
    """A source was freed with its last object; what still has some becomes an ordinary zspage
    again."""
    cdef zs_pool *pool = <zs_pool *> opaque
    cdef zs_class *cls
    cdef uint64_t trimmed = 0
    cdef int64_t freed
    cdef uint32_t i, id, group, moved = 0
    for i in range(pool.class_count):
        cls = &pool.classes[i]
        zsw_lock(&cls.lock)
        for group in range(SOURCE, <uint32_t> GROUPS):
            while cls.heads[group] != 0:
                id = cls.heads[group]
                group_move(pool, cls, id, fullness(cls, zspage_of(pool, id).objects))
                moved += 1
                if moved % MOVES_HELD == 0:
                    zsw_relock(&cls.lock)
        # Under the lock, since an object may come to lie there.
        while not pool.whole and trim_some(pool, cls, &trimmed):
            zsw_relock(&cls.lock)
        zsw_unlock(&cls.lock)
    arena_release(&pool.arena)
    freed = max(<int64_t> trimmed + zsw_peek_i64(&pool.freed_by_compaction), <int64_t> 0)
    zsw_add_u64(&pool.pages_compacted, <uint64_t> freed)
    return <uint64_t> freed


cdef int zs_node_pages(void *opaque, uint64_t *counts, uint32_t nodes) noexcept nogil:
    return arena_node_pages(&(<zs_pool *> opaque).arena, counts, nodes)


cdef uint64_t zs_trim(void *opaque) noexcept nogil:
    return arena_release(&(<zs_pool *> opaque).arena)


# ---- life, figures -------------------------------------------------------------------------------

cdef int zs_create(const zsw_zpool_config *config, void **out) noexcept nogil:
    cdef uint32_t chain = config.chain
    cdef bint kernel = config.kernel != 0
    cdef uint32_t no_dump = ZSW_MAP_NO_DUMP if config.flags & ZSW_ZPOOL_NO_DUMP else 0
    cdef zs_pool *pool
    cdef int rc
    if chain == 0:
        chain = KERNEL_CHAIN if kernel else OUR_CHAIN
    if chain > (<uint32_t> KERNEL_CHAIN_MAX if kernel else <uint32_t> ARENA_SPAN_MAX):
        return -EINVAL
    if config.page_size < ZSW_PAGE_SIZE_MIN or config.page_size > ZSW_PAGE_SIZE_MAX:
        return -EINVAL
    if config.page_size & (config.page_size - 1) != 0:
        return -EINVAL
    pool = <zs_pool *> zsw_map_as(sizeof(zs_pool), no_dump) if fault(Site.ZPOOL) == 0 else NULL
    if pool == NULL:
        return -ENOMEM
    pool.page_size = config.page_size
    pool.page_shift = <uint32_t> zsw_ctz(config.page_size)
    pool.step_shift = pool.page_shift - 8
    pool.size_min = KERNEL_SIZE_MIN if kernel else <uint32_t> 1 << pool.step_shift
    pool.handle_size = KERNEL_HANDLE if kernel else 0
    pool.whole = kernel
    arena_init(&pool.arena, pool.page_shift, config)
    rc = build_classes(pool, chain, kernel)
    if rc != 0:
        zs_destroy(pool)
        return rc
    pool.zspages.mapping = no_dump
    out[0] = pool
    return 0


cdef void zs_destroy(void *opaque) noexcept nogil:
    cdef zs_pool *pool = <zs_pool *> opaque
    arena_destroy(&pool.arena)
    slab_destroy(&pool.zspages)
    zsw_unmap(pool, sizeof(zs_pool))


cdef void zs_stats(void *opaque, zsw_zpool_stats *out) noexcept nogil:
    """At rest exact; while others work, each class is as it was at some moment."""
    cdef zs_pool *pool = <zs_pool *> opaque
    cdef zs_class *cls
    cdef uint64_t lone
    cdef uint32_t i
    memset(out, 0, sizeof(zsw_zpool_stats))
    for i in range(pool.class_count):
        cls = &pool.classes[i]
        zsw_lock(&cls.lock)
        out.objects += cls.objects
        out.object_bytes += cls.objects * cls.size
        zsw_unlock(&cls.lock)
    lone = zsw_peek_u64(&pool.arena.lone_pages)
    out.objects += lone
    out.object_bytes += lone * pool.page_size
    out.total_pages = arena_total_pages(&pool.arena)
    out.idle_pages = arena_idle_pages(&pool.arena)
    out.metadata_bytes = (sizeof(zs_pool) + slab_bytes(&pool.zspages)
                          + arena_metadata_bytes(&pool.arena))
    out.pages_compacted = zsw_peek_u64(&pool.pages_compacted)


cdef size_t zsmalloc_classes(void *opaque, zsmalloc_geometry *out, size_t n) noexcept nogil:
    cdef zs_pool *pool = <zs_pool *> opaque
    cdef size_t i
    for i in range(min(n, <size_t> pool.class_count)):
        out[i].size = pool.classes[i].size
        out[i].pages = pool.classes[i].pages
        out[i].objects = pool.classes[i].slots
    return pool.class_count


# ---- checking ------------------------------------------------------------------------------------

cdef int check_zspage(zs_pool *pool, zs_class *cls, uint32_t id, uint32_t group,
                      uint32_t prev) noexcept nogil:
    cdef zspage *zs = zspage_of(pool, id)
    cdef uint32_t free = 0
    cdef uint32_t slot
    if zs.prev != prev or zs.group != group:
        return -101
    if (zs.class_id != <uint8_t> (cls - pool.classes) or zs.size != cls.size
            or zs.span.pages != cls.pages):
        return -102
    if zs.objects == 0 or (group < SOURCE and fullness(cls, zs.objects) != group):
        return -103
    for slot in range(cls.slots):
        if slot_is_free(zs, slot):
            free += 1
        elif pages_for(pool, cls, slot + 1) > zs.span.committed:
            return -104                                     # an object above the high-water mark
    if free + zs.objects != cls.slots:
        return -105
    if cls.slots & 63 and free_slots(zs)[cls.slots >> 6] >> (cls.slots & 63) != 0:
        return -106                                         # a free slot that does not exist
    if pool.whole and zs.span.committed != cls.pages:
        return -107
    return 0


cdef int check_class(zs_pool *pool, zs_class *cls, uint64_t *claims,
                     uint64_t *committed) noexcept nogil:
    cdef zspage *zs
    cdef uint64_t zspages = 0
    cdef uint64_t objects = 0
    cdef uint32_t group, id, prev
    cdef int rc
    for group in range(<uint32_t> GROUPS):
        if (cls.heads[group] != 0) != (cls.groups >> group & 1):
            return -110
        prev = 0
        id = cls.heads[group]
        while id != 0:
            zspages += 1
            if id >= slab_limit(&pool.zspages) or zspages > cls.zspages:
                return -111
            rc = check_zspage(pool, cls, id, group, prev)
            zs = zspage_of(pool, id)
            if rc == 0:
                rc = arena_check_claim(&pool.arena, claims, &zs.span, zs.first
                                       - (cls.size - cls.payload))
            if rc != 0:
                return rc
            objects += zs.objects
            committed[0] += zs.span.committed
            prev = id
            id = zs.next
    if zspages != cls.zspages or objects != cls.objects:
        return -112
    return 0


cdef int check_classes(zs_pool *pool, uint64_t *claims, uint64_t *committed) noexcept nogil:
    cdef uint64_t zspages = 0
    cdef uint32_t i
    cdef int rc
    if zsw_peek_u64(&pool.bad_frees) != 0:
        return -100
    for i in range(pool.class_count):
        rc = check_class(pool, &pool.classes[i], claims, committed)
        if rc != 0:
            return rc
        zspages += pool.classes[i].zspages
    if zspages != pool.zspages.inuse or zspages + pool.arena.lone_pages != pool.arena.spans:
        return -113
    return slab_validate(&pool.zspages)


cdef int zs_validate(void *opaque) noexcept nogil:
    """With every class locked no zspage comes or goes, so the arena and the slab must agree with
    the classes."""
    cdef zs_pool *pool = <zs_pool *> opaque
    cdef uint64_t *claims
    cdef uint64_t committed = 0
    cdef uint32_t i
    cdef int rc, arena_rc
    for i in range(pool.class_count):
        zsw_lock(&pool.classes[i].lock)
    rc = arena_check_begin(&pool.arena, &claims)
    if rc == 0:
        rc = check_classes(pool, claims, &committed)
    arena_rc = arena_check_end(&pool.arena, claims, committed)
    for i in range(pool.class_count):
        zsw_unlock(&pool.classes[i].lock)
    return rc if rc != 0 else arena_rc


cdef zsw_zpool_ops ops

ops.abi_version = ZSW_ABI_VERSION
ops.struct_size = sizeof(zsw_zpool_ops)
ops.name = "zsmalloc"
ops.create = zs_create
ops.destroy = zs_destroy
ops.malloc = zs_malloc
ops.free = zs_free
ops.map = zs_map
ops.total_pages = zs_total_pages
ops.max_saving_size = zs_max_saving_size
ops.compact_begin = zs_compact_begin
ops.relocate = zs_relocate
ops.compact_end = zs_compact_end
ops.trim = zs_trim
ops.stats = zs_stats
ops.validate = zs_validate
ops.slot_size = zs_slot_size
ops.node_pages = zs_node_pages
ops.prefetch = zs_prefetch
ops.free_many = zs_free_many
ops.object_room = zs_object_room
ops.malloc_many = zs_malloc_many


cdef const zsw_zpool_ops *zsmalloc_ops() noexcept nogil:
    return &ops
