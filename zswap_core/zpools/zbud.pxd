"""zbud: one or two objects a page; and what z3fold, which packs three, has in common with it.

A page of either is 64 chunks, whatever its size: one or two that the kernel's header takes, then
objects of whole chunks. Pages with room for another object are in lists by how much room that is,
most recently changed first, and all pages are in an LRU by when they were last given an object.

A page's descriptor is an item of a slab.  The header's chunks stay in the layout, empty, so that
what fits on a page is what fits on the kernel's; but walking a list touches a dense array instead
of one line in each of many pages, and freeing an object does not touch its page at all.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zswap_core.abi cimport zsw_zpool_config, zsw_zpool_ops, zsw_zpool_stats
from zswap_core.os cimport zsw_ctz, zsw_mutex
from zswap_core.slab cimport slab_at, zsw_slab
from zswap_core.zpools.arena cimport zsw_arena


cdef enum:
    CHUNK_BITS = 6
    CHUNKS = 1 << CHUNK_BITS    # in a page

    # A page's places in lists.
    BY_ROOM = 0
    BY_AGE = 1

cdef struct page_links:
    uint32_t next               # by id
    uint32_t prev

cdef struct page_list:
    uint32_t first
    uint32_t last

cdef struct buddy_page:
    page_links links[2]
    uint8_t *start              # constant while an object lives there, so that map() takes no lock
    uint32_t at                 # the page's name in the arena
    # chunks of the object behind the header; 64: it has the whole page, header's chunks too
    uint8_t first
    uint8_t middle
    uint8_t last                # chunks of the object that ends with the page
    uint8_t start_middle        # the middle object's first chunk; 0: there is none

cdef struct buddy_pool:
    # over all below but for arena and pages, which have their own, taken under it
    zsw_mutex lock
    uint32_t page_size
    uint32_t chunk_shift
    uint32_t header             # chunks
    uint32_t prefix             # bytes before each object
    uint32_t bytes              # size of the pool's struct, of which this one is the beginning
    uint64_t page_count
    uint64_t objects
    uint64_t object_chunks
    uint64_t pages_compacted
    uint64_t bad_frees          # of objects that were free already
    uint64_t rooms              # bit i: unbuddied[i] is not empty
    page_list unbuddied[CHUNKS]  # by room in chunks; the first was changed last
    page_list lru               # the first was given an object last
    zsw_arena arena
    zsw_slab pages

# Chunks of the largest object that the page takes beside those it has.
ctypedef uint32_t (*page_room)(const buddy_page *page) noexcept nogil


cdef inline buddy_page *page_at(const buddy_pool *pool, uint32_t id) noexcept nogil:
    return <buddy_page *> slab_at(&pool.pages, id)


cdef inline uint32_t page_objects(const buddy_page *page) noexcept nogil:
    return (page.first != 0) + (page.middle != 0) + (page.last != 0)


cdef inline uint32_t chunks_for(const buddy_pool *pool, size_t size) noexcept nogil:
    return <uint32_t> ((size + pool.prefix + (<size_t> 1 << pool.chunk_shift)
                        - 1) >> pool.chunk_shift)


cdef inline uint8_t *object_at(const buddy_pool *pool, const buddy_page *page,
                               uint32_t chunk) noexcept nogil:
    return page.start + (<size_t> chunk << pool.chunk_shift) + pool.prefix


# ---- lists; under the pool's lock ----------------------------------------------------------------

cdef inline void list_push(const buddy_pool *pool, page_list *pages, uint32_t which,
                           uint32_t id) noexcept nogil:
    cdef page_links *links = &page_at(pool, id).links[which]
    links.prev = 0
    links.next = pages.first
    if pages.first != 0:
        page_at(pool, pages.first).links[which].prev = id
    else:
        pages.last = id
    pages.first = id


cdef inline void list_remove(const buddy_pool *pool, page_list *pages, uint32_t which,
                             uint32_t id) noexcept nogil:
    cdef page_links *links = &page_at(pool, id).links[which]
    if links.next != 0:
        page_at(pool, links.next).links[which].prev = links.prev
    else:
        pages.last = links.prev
    if links.prev != 0:
        page_at(pool, links.prev).links[which].next = links.next
    else:
        pages.first = links.next


cdef inline void unbuddied_add(buddy_pool *pool, uint32_t id, uint32_t room) noexcept nogil:
    if room != 0:
        list_push(pool, &pool.unbuddied[room], BY_ROOM, id)
        pool.rooms |= <uint64_t> 1 << room


cdef inline void unbuddied_remove(buddy_pool *pool, uint32_t id, uint32_t room) noexcept nogil:
    if room != 0:
        list_remove(pool, &pool.unbuddied[room], BY_ROOM, id)
        if pool.unbuddied[room].first == 0:
            pool.rooms &= ~(<uint64_t> 1 << room)


cdef inline uint32_t best_fit(const buddy_pool *pool, uint32_t chunks,
                              uint32_t other_than) noexcept nogil:
    """The page that has the least room of those that have enough, and of these the one changed
    last; 0: there is none."""
    cdef uint64_t rooms = pool.rooms >> chunks << chunks
    cdef uint32_t id
    while rooms != 0:
        id = pool.unbuddied[zsw_ctz(rooms)].first
        if id == other_than:
            id = page_at(pool, id).links[BY_ROOM].next
        if id != 0:
            return id
        rooms &= rooms - 1
    return 0


cdef inline void lru_touch(buddy_pool *pool, uint32_t id) noexcept nogil:
    if pool.lru.first != id:
        list_remove(pool, &pool.lru, BY_AGE, id)
        list_push(pool, &pool.lru, BY_AGE, id)


# ---- for z3fold ----------------------------------------------------------------------------------

# A pool of `bytes` that begins with a buddy_pool, whose descriptors, of `stride` bytes, begin with
# a buddy_page.
cdef int buddies_create(const zsw_zpool_config *config, uint32_t header, uint32_t stride,
                        uint32_t bytes, void **out) noexcept nogil
cdef void buddies_destroy(void *pool) noexcept nogil
cdef uint64_t buddies_total_pages(void *pool) noexcept nogil
cdef uint64_t buddies_trim(void *pool) noexcept nogil
cdef int buddies_node_pages(void *pool, uint64_t *counts, uint32_t nodes) noexcept nogil
cdef void buddies_stats(void *pool, zsw_zpool_stats *out) noexcept nogil

# Under the pool's lock.  A new page is empty, the first of the LRU and in no other list, or -ENOMEM
# with nothing changed.
cdef int page_new(buddy_pool *pool, uint32_t *id) noexcept nogil
# Of an empty page, in the LRU only; its descriptor is still the caller's.  True: trim once the lock
# is dropped.
cdef bint page_delete(buddy_pool *pool, uint32_t id) noexcept nogil
# 0, or a negative number that names the check that failed.
cdef int buddies_check(buddy_pool *pool, page_room room_of) noexcept nogil


# ---- zbud ----------------------------------------------------------------------------------------

cdef const zsw_zpool_ops *zbud_ops() noexcept nogil

# For writeback by pages: the objects of the page that was least recently given one, in the order to
# evict them, at most `n` (2 are all); returns how many.  That page becomes the most recent one, as
# one that the kernel failed to evict does, so the next call names another.
cdef uint32_t zbud_evict_candidates(void *pool, uint64_t *handles, uint32_t n) noexcept nogil
