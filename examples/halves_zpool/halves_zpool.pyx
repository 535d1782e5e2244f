# cython: cdivision=True
"""An allocator for zswap, from outside: a page holds one object, or two of half a page.

Small enough to show all that a zpool has to do.  It looks for the other half of the page last
opened only, so it wastes halves where objects come and go; it compacts nothing.
"""
from cpython.pycapsule cimport PyCapsule_New
from libc.errno cimport EINVAL, ENOMEM, ENOSPC
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from zswap_core.abi cimport (
    ZSW_ABI_VERSION, ZSW_ZPOOL_CAPSULE, zsw_zpool_config, ZSW_ZPOOL_NEEDED, zsw_zpool_ops,
    zsw_zpool_stats, ZSW_ZPOOL_WIPE,
)


cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *mutex, void *attributes)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)


cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void **memory, size_t alignment, size_t size)


cdef enum:
    LEAVES = 4096
    LEAF = 4096                     # pages in a leaf of the table
    BOTH = 3                        # halves in use, as bits
    WHOLE = 7                       # both, by one object


cdef struct page_info:
    uint8_t *memory                 # NULL: the number is free, and `next` the next free one
    uint32_t used
    uint32_t next


# A handle is twice the page's number, and one more for the second half.
cdef struct halves:
    pthread_mutex_t lock
    size_t page_size
    bint wipe
    uint64_t pages
    uint64_t objects
    uint32_t numbers                # given out so far; 0 is none
    uint32_t free                   # first free number, or 0
    uint32_t open                   # a page with one half free, or 0
    page_info *leaves[LEAVES]       # they never move: objects are found without the lock


cdef page_info *info(halves *h, uint64_t number) noexcept nogil:
    return &h.leaves[number // LEAF][number % LEAF]


cdef int create(const zsw_zpool_config *config, void **pool) noexcept nogil:
    cdef halves *h = <halves *> calloc(1, sizeof(halves))
    if h == NULL:
        return -ENOMEM
    pthread_mutex_init(&h.lock, NULL)
    h.page_size = config.page_size
    h.wipe = config.flags & ZSW_ZPOOL_WIPE != 0
    h.numbers = 1
    pool[0] = h
    return 0


cdef void destroy(void *pool) noexcept nogil:
    cdef halves *h = <halves *> pool
    cdef uint32_t number
    for number in range(1, h.numbers):
        free(info(h, number).memory)
    for number in range(<uint32_t> LEAVES):
        free(h.leaves[number])
    free(h)


cdef uint32_t new_page(halves *h) noexcept nogil:
    """The number of a page with nothing in it; 0: no memory."""
    cdef uint32_t number = h.free if h.free else h.numbers
    cdef void *memory = NULL
    if number >= LEAVES * LEAF:
        return 0
    if h.leaves[number // LEAF] == NULL:
        h.leaves[number // LEAF] = <page_info *> calloc(LEAF, sizeof(page_info))
        if h.leaves[number // LEAF] == NULL:
            return 0
    if posix_memalign(&memory, h.page_size, h.page_size) != 0:
        return 0
    if h.free:
        h.free = info(h, number).next
    else:
        h.numbers += 1
    info(h, number).memory = <uint8_t *> memory
    info(h, number).used = 0
    h.pages += 1
    return number


cdef uint8_t *map(void *pool, uint64_t handle) noexcept nogil:
    cdef halves *h = <halves *> pool
    return info(h, handle // 2).memory + (handle & 1) * (h.page_size // 2)


cdef int malloc(void *pool, size_t size, uint64_t *handle, uint8_t **object) noexcept nogil:
    cdef halves *h = <halves *> pool
    cdef bint small = size <= h.page_size // 2
    cdef uint32_t number
    if size == 0:
        return -EINVAL
    if size > h.page_size:
        return -ENOSPC
    pthread_mutex_lock(&h.lock)
    number = h.open if small and h.open else new_page(h)
    if number:
        handle[0] = 2 * <uint64_t> number + (1 if small and info(h, number).used & 1 else 0)
        info(h, number).used |= 1 << (handle[0] & 1) if small else WHOLE
        if small:
            h.open = 0 if info(h, number).used == BOTH else number
        h.objects += 1
        object[0] = map(pool, handle[0])
    pthread_mutex_unlock(&h.lock)
    return 0 if number else -ENOMEM


cdef void free_object(void *pool, uint64_t handle) noexcept nogil:
    cdef halves *h = <halves *> pool
    cdef uint32_t number = <uint32_t> (handle // 2)
    cdef page_info *page = info(h, number)
    pthread_mutex_lock(&h.lock)
    if h.wipe:
        memset(map(pool, handle), 0, h.page_size if page.used == WHOLE else h.page_size // 2)
    page.used = 0 if page.used == WHOLE else page.used & ~(1 << (handle & 1))
    h.objects -= 1
    if page.used == 0:
        free(page.memory)
        page.memory = NULL
        if h.open == number:
            h.open = 0
        page.next = h.free
        h.free = number
        h.pages -= 1
    elif h.open == 0:
        h.open = number
    pthread_mutex_unlock(&h.lock)


cdef uint64_t total_pages(void *pool) noexcept nogil:
    return (<halves *> pool).pages


cdef size_t max_saving_size(void *pool) noexcept nogil:
    return (<halves *> pool).page_size // 2


cdef size_t slot_size(void *pool, size_t size) noexcept nogil:
    cdef halves *h = <halves *> pool
    return h.page_size // 2 if size <= h.page_size // 2 else h.page_size


# Nothing is moved, and nothing kept for reuse.
cdef uint64_t nothing(void *pool) noexcept nogil:
    return 0


cdef int relocate(void *pool, uint64_t handle, uint64_t *new_handle) noexcept nogil:
    return 0


cdef int validate(void *pool) noexcept nogil:
    cdef halves *h = <halves *> pool
    cdef uint64_t number, pages = 0
    pthread_mutex_lock(&h.lock)
    for number in range(1, h.numbers):
        pages += info(h, number).memory != NULL
    pages -= h.pages
    pthread_mutex_unlock(&h.lock)
    return 0 if pages == 0 else -1


cdef void stats(void *pool, zsw_zpool_stats *out) noexcept nogil:
    cdef halves *h = <halves *> pool
    memset(out, 0, sizeof(zsw_zpool_stats))
    out.total_pages, out.objects = h.pages, h.objects
    out.metadata_bytes = sizeof(halves) + (h.numbers // LEAF + 1) * LEAF * sizeof(page_info)


cdef int node_pages(void *pool, uint64_t *counts, uint32_t nodes) noexcept nogil:
    counts[0] += (<halves *> pool).pages        # as far as an example knows
    return 0


# Up to what is optional: zswap takes the rest for NULL.
cdef zsw_zpool_ops OPS
OPS.abi_version, OPS.struct_size, OPS.name = ZSW_ABI_VERSION, ZSW_ZPOOL_NEEDED, "halves"
OPS.create, OPS.destroy = create, destroy
OPS.malloc, OPS.free, OPS.map = malloc, free_object, map
OPS.total_pages, OPS.max_saving_size, OPS.slot_size = total_pages, max_saving_size, slot_size
OPS.compact_begin, OPS.relocate, OPS.compact_end, OPS.trim = nothing, relocate, nothing, nothing
OPS.stats, OPS.validate, OPS.node_pages = stats, validate, node_pages


def capsule():
    """Return the allocator for `zswap.register_zpool("halves", factory=halves_zpool.capsule)`."""
    return PyCapsule_New(&OPS, ZSW_ZPOOL_CAPSULE, NULL)
