"""The zbud zpool.

A page holds one or two objects: the first behind the header's chunk, the last at the end of the
page.  An object goes to the page where it leaves the least room, else to a new one.  Nothing ever
moves, so a page is free only when both its objects are: low density, but predictable, and a page is
emptied by evicting two objects at most.

A handle is the id of a page descriptor << 6 | the chunk where the object begins, as the kernel's is
an address: map() needs nothing else.  An object at chunk 1 is its page's first, any other its last.

In kernel geometry each object has 8 bytes before it, where the kernel's zswap kept the swap slot
for zpools that evict.

Lock order: the pool's lock, then the descriptors' slab's or the arena's.
"""
from libc.errno cimport EINVAL, ENOMEM, ENOSPC
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from zswap_core.abi cimport (
    ZSW_ABI_VERSION, ZSW_PAGE_SIZE_MAX, ZSW_PAGE_SIZE_MIN, zsw_zpool_config, ZSW_ZPOOL_NO_DUMP,
    zsw_zpool_ops, zsw_zpool_stats,
)
from zswap_core.fault cimport fault, Site
from zswap_core.os cimport (
    zsw_ctz, zsw_lock, zsw_map_as, ZSW_MAP_NO_DUMP, zsw_unlikely, zsw_unlock, zsw_unmap,
    ZSW_UNPOISON,
)
from zswap_core.slab cimport slab_bytes, slab_destroy, slab_give, slab_init, slab_limit, slab_take
from zswap_core.zpools.arena cimport (
    arena_alloc, arena_check_begin, arena_check_claim, arena_check_end, arena_commit, arena_destroy,
    arena_free, arena_idle_pages, arena_init, arena_metadata_bytes, arena_node_pages, arena_release,
    arena_total_pages, arena_vacate, zsw_span,
)


cdef enum:
    HEADER = 1                      # chunks
    KERNEL_PREFIX = 8
    PAGES_MAX = 1 << 30             # 4 TiB of them, at 4 KiB


# ---- what z3fold has too -------------------------------------------------------------------------

cdef int buddies_create(const zsw_zpool_config *config, uint32_t header, uint32_t stride,
                        uint32_t bytes, void **out) noexcept nogil:
    cdef buddy_pool *pool
    cdef uint32_t no_dump = ZSW_MAP_NO_DUMP if config.flags & ZSW_ZPOOL_NO_DUMP else 0
    cdef uint32_t page_shift
    if config.page_size < ZSW_PAGE_SIZE_MIN or config.page_size > ZSW_PAGE_SIZE_MAX:
        return -EINVAL
    if config.page_size & (config.page_size - 1) != 0:
        return -EINVAL
    pool = <buddy_pool *> zsw_map_as(bytes, no_dump) if fault(Site.ZPOOL) == 0 else NULL
    if pool == NULL:
        return -ENOMEM
    page_shift = <uint32_t> zsw_ctz(config.page_size)
    pool.page_size = config.page_size
    pool.chunk_shift = page_shift - CHUNK_BITS
    pool.header = header
    pool.prefix = KERNEL_PREFIX if config.kernel != 0 else 0
    pool.bytes = bytes
    slab_init(&pool.pages, stride, PAGES_MAX)
    pool.pages.mapping = no_dump
    arena_init(&pool.arena, page_shift, config)
    out[0] = pool
    return 0


cdef void buddies_destroy(void *opaque) noexcept nogil:
    cdef buddy_pool *pool = <buddy_pool *> opaque
    arena_destroy(&pool.arena)
    slab_destroy(&pool.pages)
    zsw_unmap(pool, pool.bytes)


cdef uint64_t buddies_total_pages(void *opaque) noexcept nogil:
    return arena_total_pages(&(<buddy_pool *> opaque).arena)


cdef int buddies_node_pages(void *opaque, uint64_t *counts, uint32_t nodes) noexcept nogil:
    return arena_node_pages(&(<buddy_pool *> opaque).arena, counts, nodes)


cdef uint64_t buddies_trim(void *opaque) noexcept nogil:
    return arena_release(&(<buddy_pool *> opaque).arena)


cdef void buddies_stats(void *opaque, zsw_zpool_stats *out) noexcept nogil:
    cdef buddy_pool *pool = <buddy_pool *> opaque
    memset(out, 0, sizeof(zsw_zpool_stats))
    zsw_lock(&pool.lock)
    out.objects = pool.objects
    out.object_bytes = pool.object_chunks << pool.chunk_shift
    out.pages_compacted = pool.pages_compacted
    zsw_unlock(&pool.lock)
    out.total_pages = arena_total_pages(&pool.arena)
    out.idle_pages = arena_idle_pages(&pool.arena)
    out.metadata_bytes = pool.bytes + slab_bytes(&pool.pages) + arena_metadata_bytes(&pool.arena)


cdef zsw_span page_span(const buddy_page *page) noexcept nogil:
    cdef zsw_span span
    span.at = page.at
    span.pages = 1
    span.committed = 1
    return span


cdef int page_new(buddy_pool *pool, uint32_t *id) noexcept nogil:
    cdef buddy_page *page
    cdef zsw_span span
    cdef int rc
    if slab_take(&pool.pages, id, 1) != 1:
        return -ENOMEM
    page = page_at(pool, id[0])
    rc = arena_alloc(&pool.arena, 1, &span, &page.start)
    if rc != 0:
        slab_give(&pool.pages, id, 1)
        return rc
    if span.committed == 0:
        arena_commit(&pool.arena, 1)
    page.at = span.at
    pool.page_count += 1
    list_push(pool, &pool.lru, BY_AGE, id[0])
    return 0


cdef bint page_delete(buddy_pool *pool, uint32_t id) noexcept nogil:
    cdef zsw_span span = page_span(page_at(pool, id))
    list_remove(pool, &pool.lru, BY_AGE, id)
    pool.page_count -= 1
    return arena_free(&pool.arena, &span)


# ---- pages of one or two objects -----------------------------------------------------------------

cdef uint32_t room(const buddy_page *page) noexcept nogil:
    return CHUNKS - HEADER - page.first - page.last if page.first == 0 or page.last == 0 else 0


cdef size_t zb_max_saving_size(void *opaque) noexcept nogil:
    """A chunk less than fits behind the header: the kernel's limit, there to leave something of
    every page to a buddy."""
    cdef buddy_pool *pool = <buddy_pool *> opaque
    return (<size_t> (CHUNKS - HEADER - 1) << pool.chunk_shift) - pool.prefix


cdef size_t zb_slot_size(void *opaque, size_t size) noexcept nogil:
    cdef buddy_pool *pool = <buddy_pool *> opaque
    if size == 0 or size > zb_max_saving_size(pool):
        return 0
    return <size_t> chunks_for(pool, size) << pool.chunk_shift


cdef int zb_malloc(void *opaque, size_t size, uint64_t *handle, uint8_t **object) noexcept nogil:
    cdef buddy_pool *pool = <buddy_pool *> opaque
    cdef buddy_page *page
    cdef uint32_t id, chunks, start
    cdef int rc
    if size == 0:
        return -EINVAL
    if size > zb_max_saving_size(pool):
        return -ENOSPC
    chunks = chunks_for(pool, size)
    zsw_lock(&pool.lock)
    id = best_fit(pool, chunks, 0)
    if id != 0:
        unbuddied_remove(pool, id, room(page_at(pool, id)))
    else:
        rc = page_new(pool, &id)
        if zsw_unlikely(rc != 0):
            zsw_unlock(&pool.lock)
            return rc
    page = page_at(pool, id)
    if page.first == 0:
        page.first = <uint8_t> chunks
        start = HEADER
    else:
        page.last = <uint8_t> chunks
        start = CHUNKS - chunks
    unbuddied_add(pool, id, room(page))
    lru_touch(pool, id)
    pool.objects += 1
    pool.object_chunks += chunks
    zsw_unlock(&pool.lock)
    object[0] = object_at(pool, page, start)
    ZSW_UNPOISON(object[0] - pool.prefix, <size_t> chunks << pool.chunk_shift)
    handle[0] = <uint64_t> id << CHUNK_BITS | start
    return 0


cdef uint8_t *zb_map(void *opaque, uint64_t handle) noexcept nogil:
    cdef buddy_pool *pool = <buddy_pool *> opaque
    return object_at(pool, page_at(pool, <uint32_t> (handle >> CHUNK_BITS)),
                     <uint32_t> handle & (CHUNKS - 1))


cdef uint8_t *buddy_of(buddy_page *page, uint32_t start) noexcept nogil:
    """The size of the object that begins at this chunk; NULL when there is no such object."""
    if start == HEADER and page.first != 0:
        return &page.first
    if start + page.last == CHUNKS:
        return &page.last
    return NULL


cdef size_t zb_object_room(void *opaque, uint64_t handle) noexcept nogil:
    cdef buddy_pool *pool = <buddy_pool *> opaque
    cdef uint8_t *buddy
    if handle >> CHUNK_BITS >= slab_limit(&pool.pages):
        return 0
    buddy = buddy_of(page_at(pool, <uint32_t> (handle >> CHUNK_BITS)),
                     <uint32_t> handle & (CHUNKS - 1))
    return (<size_t> buddy[0] << pool.chunk_shift) - pool.prefix if buddy != NULL else 0


cdef void zb_free(void *opaque, uint64_t handle) noexcept nogil:
    cdef buddy_pool *pool = <buddy_pool *> opaque
    cdef uint32_t id = <uint32_t> (handle >> CHUNK_BITS)
    cdef uint32_t start = <uint32_t> handle & (CHUNKS - 1)
    cdef buddy_page *page = page_at(pool, id)
    cdef uint8_t *buddy
    cdef bint due = False
    zsw_lock(&pool.lock)
    buddy = buddy_of(page, start)
    if zsw_unlikely(buddy == NULL):
        # The caller's mistake.  Freeing twice would lose another's object sooner or later;
        # validate() tells of it.
        pool.bad_frees += 1
        zsw_unlock(&pool.lock)
        return
    arena_vacate(&pool.arena, object_at(pool, page, start) - pool.prefix,
                 <size_t> buddy[0] << pool.chunk_shift)
    unbuddied_remove(pool, id, room(page))
    pool.objects -= 1
    pool.object_chunks -= buddy[0]
    buddy[0] = 0
    if page_objects(page) == 0:
        due = page_delete(pool, id)
        slab_give(&pool.pages, &id, 1)
    else:
        unbuddied_add(pool, id, room(page))
    zsw_unlock(&pool.lock)
    if zsw_unlikely(due):
        arena_release(&pool.arena)


# ---- compaction: there is none -------------------------------------------------------------------

cdef uint64_t zb_compact_begin(void *opaque) noexcept nogil:
    return 0


cdef int zb_relocate(void *opaque, uint64_t handle, uint64_t *new_handle) noexcept nogil:
    return 0


cdef uint64_t zb_compact_end(void *opaque) noexcept nogil:
    return 0


# ---- eviction ------------------------------------------------------------------------------------

cdef uint32_t zbud_evict_candidates(void *opaque, uint64_t *handles, uint32_t n) noexcept nogil:
    cdef buddy_pool *pool = <buddy_pool *> opaque
    cdef buddy_page *page
    cdef uint32_t id
    cdef uint32_t count = 0
    zsw_lock(&pool.lock)
    id = pool.lru.last
    if id != 0:
        page = page_at(pool, id)
        if page.first != 0 and count < n:
            handles[count] = <uint64_t> id << CHUNK_BITS | HEADER
            count += 1
        if page.last != 0 and count < n:
            handles[count] = <uint64_t> id << CHUNK_BITS | (CHUNKS - page.last)
            count += 1
        lru_touch(pool, id)
    zsw_unlock(&pool.lock)
    return count


# ---- life ----------------------------------------------------------------------------------------

cdef int zb_create(const zsw_zpool_config *config, void **out) noexcept nogil:
    return buddies_create(config, HEADER, sizeof(buddy_page), sizeof(buddy_pool), out)


# ---- checking ------------------------------------------------------------------------------------

cdef int check_page(const buddy_pool *pool, const buddy_page *page) noexcept nogil:
    """The objects lie behind the header, in order, and none reaches into the next."""
    cdef uint32_t end = CHUNKS - page.last
    if page_objects(page) == 0:
        return -101
    if (page.middle == 0) != (page.start_middle == 0):
        return -102
    if page.first == CHUNKS:
        return 0 if page.middle == 0 and page.last == 0 else -103
    if page.middle != 0:
        if page.start_middle + page.middle > end:
            return -104
        end = page.start_middle
    return 0 if pool.header + page.first <= end else -105


cdef int check_pages(buddy_pool *pool, page_room room_of, uint64_t *claims,
                     uint64_t *with_room) noexcept nogil:
    cdef buddy_page *page
    cdef zsw_span span
    cdef uint64_t pages = 0
    cdef uint64_t objects = 0
    cdef uint64_t chunks = 0
    cdef uint32_t prev = 0
    cdef uint32_t id = pool.lru.first
    cdef int rc
    while id != 0:
        pages += 1
        if (id >= slab_limit(&pool.pages) or pages > pool.page_count
                or page_at(pool, id).links[BY_AGE].prev != prev):
            return -106
        page = page_at(pool, id)
        span = page_span(page)
        rc = check_page(pool, page)
        if rc == 0:
            rc = arena_check_claim(&pool.arena, claims, &span, page.start)
        if rc != 0:
            return rc
        objects += page_objects(page)
        chunks += page.first + page.middle + page.last
        with_room[0] += room_of(page) != 0
        prev = id
        id = page.links[BY_AGE].next
    if prev != pool.lru.last or pages != pool.page_count:
        return -107
    if objects != pool.objects or chunks != pool.object_chunks:
        return -108
    return 0 if pages == pool.arena.spans else -109


cdef int check_rooms(buddy_pool *pool, page_room room_of, uint64_t with_room) noexcept nogil:
    cdef uint64_t listed = 0
    cdef uint32_t i, id, prev
    for i in range(<uint32_t> CHUNKS):
        if (pool.unbuddied[i].first != 0) != (pool.rooms >> i & 1):
            return -110
        prev = 0
        id = pool.unbuddied[i].first
        while id != 0:
            listed += 1
            if (id >= slab_limit(&pool.pages) or listed > with_room
                    or page_at(pool, id).links[BY_ROOM].prev != prev):
                return -111
            if i == 0 or room_of(page_at(pool, id)) != i:
                return -112
            prev = id
            id = page_at(pool, id).links[BY_ROOM].next
        if pool.unbuddied[i].last != prev:
            return -113
    return 0 if listed == with_room else -114


cdef int buddies_check(buddy_pool *pool, page_room room_of) noexcept nogil:
    cdef uint64_t *claims
    cdef uint64_t with_room = 0
    cdef int rc = arena_check_begin(&pool.arena, &claims)
    cdef int arena_rc
    if rc == 0:
        rc = check_pages(pool, room_of, claims, &with_room)
    if rc == 0:
        rc = check_rooms(pool, room_of, with_room)
    if rc == 0 and pool.bad_frees != 0:
        rc = -100
    arena_rc = arena_check_end(&pool.arena, claims, pool.page_count)
    return rc if rc != 0 else arena_rc


cdef int zb_validate(void *opaque) noexcept nogil:
    cdef buddy_pool *pool = <buddy_pool *> opaque
    cdef int rc
    zsw_lock(&pool.lock)
    rc = buddies_check(pool, room)
    if rc == 0 and pool.pages.inuse != pool.page_count:
        rc = -115
    zsw_unlock(&pool.lock)
    return rc


cdef zsw_zpool_ops ops

ops.abi_version = ZSW_ABI_VERSION
ops.struct_size = sizeof(zsw_zpool_ops)
ops.name = "zbud"
ops.create = zb_create
ops.destroy = buddies_destroy
ops.malloc = zb_malloc
ops.free = zb_free
ops.map = zb_map
ops.total_pages = buddies_total_pages
ops.max_saving_size = zb_max_saving_size
ops.compact_begin = zb_compact_begin
ops.relocate = zb_relocate
ops.compact_end = zb_compact_end
ops.trim = buddies_trim
ops.stats = buddies_stats
ops.validate = zb_validate
ops.slot_size = zb_slot_size
ops.node_pages = buddies_node_pages
ops.object_room = zb_object_room


cdef const zsw_zpool_ops *zbud_ops() noexcept nogil:
    return &ops
