"""A backing store for zswap, from outside: pages in plain memory, each made when first written.

Small enough to show all that a backing store has to do.
"""
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from libc.errno cimport ENOMEM
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from zswap_core.abi cimport (
    ZSW_ABI_VERSION, zsw_backing, ZSW_BACKING_CAPSULE, ZSW_BACKING_NATIVE, zsw_backing_ops,
)


cdef struct memory:
    uint64_t nr_pages
    uint32_t page_size
    uint8_t **pages                 # NULL: never written, or not wanted any more


# The engine writes one batch at a time, and no page that is being read: nothing is to be locked.
cdef int write_pages(void *store, const uint64_t *offsets, const uint8_t *pages,
                     size_t n) noexcept nogil:
    cdef memory *m = <memory *> store
    cdef size_t i
    for i in range(n):
        if m.pages[offsets[i]] == NULL:
            m.pages[offsets[i]] = <uint8_t *> malloc(m.page_size)
            if m.pages[offsets[i]] == NULL:
                return -ENOMEM
        memcpy(m.pages[offsets[i]], pages + i * m.page_size, m.page_size)
    return 0


cdef int read_pages(void *store, const uint64_t *offsets, uint8_t *pages, size_t n) noexcept nogil:
    cdef memory *m = <memory *> store
    cdef size_t i
    for i in range(n):
        if m.pages[offsets[i]] != NULL:
            memcpy(pages + i * m.page_size, m.pages[offsets[i]], m.page_size)
        else:
            memset(pages + i * m.page_size, 0, m.page_size)
    return 0


cdef void discard(void *store, const uint64_t *offsets, size_t n) noexcept nogil:
    cdef memory *m = <memory *> store
    cdef size_t i
    for i in range(n):
        free(m.pages[offsets[i]])
        m.pages[offsets[i]] = NULL


cdef void destroy(void *store) noexcept nogil:
    cdef memory *m = <memory *> store
    cdef uint64_t i
    for i in range(m.nr_pages):
        free(m.pages[i])
    free(m.pages)
    free(m)


cdef zsw_backing_ops OPS = zsw_backing_ops(
    abi_version=ZSW_ABI_VERSION,
    struct_size=sizeof(zsw_backing_ops),
    name="memory",
    flags=ZSW_BACKING_NATIVE,
    write_pages=write_pages,
    read_pages=read_pages,
    discard=discard,
    destroy=destroy,
    write_objects=NULL,
    uses=NULL,
    tidy=NULL,
)


cdef void forget(object capsule) noexcept:
    PyMem_Free(PyCapsule_GetPointer(capsule, ZSW_BACKING_CAPSULE))


def capsule(argument, page_size):
    """Make a store for `zswap.register_backing("memory", factory=memory_backing.capsule)`.

    `argument` says how many pages it has, as in ``backing="memory:1000"``.
    """
    cdef uint64_t nr_pages = int(argument or 1 << 16)
    cdef zsw_backing *backing = <zsw_backing *> PyMem_Malloc(sizeof(zsw_backing))
    cdef memory *m = <memory *> calloc(1, sizeof(memory))
    if m != NULL:
        m.pages = <uint8_t **> calloc(nr_pages, sizeof(uint8_t *))
    if backing == NULL or m == NULL or m.pages == NULL:
        PyMem_Free(backing)
        free(m)
        raise MemoryError
    m.nr_pages, m.page_size = nr_pages, page_size
    backing.ops, backing.state = &OPS, m
    backing.nr_pages, backing.page_size = nr_pages, page_size
    return PyCapsule_New(backing, ZSW_BACKING_CAPSULE, forget)
