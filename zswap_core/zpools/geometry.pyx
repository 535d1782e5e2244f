"""What an allocator would take, without an engine: for `zswap analyze`."""
from cpython.exc cimport PyErr_NoMemory
from libc.errno cimport ENOMEM
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zswap_core.abi cimport zsw_zpool_config, zsw_zpool_ops
from zswap_core.buffers cimport Items, items_of
from zswap_core.zpools.registry cimport zpool_find
from zswap_core.zpools.zsmalloc cimport zsmalloc_classes, zsmalloc_geometry

import os


cdef enum:
    MOST_CLASSES = 256


cdef int check(int rc, str name) except -1:
    if rc == -ENOMEM:
        PyErr_NoMemory()
    if rc != 0:
        raise OSError(-rc, os.strerror(-rc), name)
    return 0


cdef class Trial:
    """An allocator that nobody else uses.

    Parameters
    ----------
    name : str
        As the engine knows it, such as ``"zbud"``.
    page_size : int
    chain : int
        Of zsmalloc: most pages in a zspage; 0: the default.
    kernel : bool
        Of zsmalloc: the kernel's geometry.
    """
    cdef const zsw_zpool_ops *ops
    cdef void *pool
    cdef readonly str name

    def __cinit__(self, str name not None, *, uint32_t page_size=4096, uint32_t chain=0,
                  bint kernel=False):
        cdef zsw_zpool_config config
        config.page_size, config.chain, config.kernel = page_size, chain, kernel
        config.numa_node, config.flags = -1, 0
        self.name = name
        self.ops = zpool_find(name)
        if self.ops == NULL:
            raise LookupError(f"there is no zpool {name!r}")
        check(self.ops.create(&config, &self.pool), name)

    def __dealloc__(self):
        if self.pool != NULL:
            self.ops.destroy(self.pool)

    @property
    def max_saving_size(self):
        """Longest object that takes less than a page."""
        return self.ops.max_saving_size(self.pool)

    def pages(self, sizes):
        """How many pages it has once objects of these sizes, an array of uint32, were added to
        it."""
        cdef Items items = items_of(sizes, "sizes", sizeof(uint32_t))
        cdef const uint32_t *size = <const uint32_t *> items.at
        cdef uint64_t handle, pages
        cdef uint8_t *object
        cdef Py_ssize_t i
        cdef int rc = 0
        with nogil:
            for i in range(items.count):
                rc = self.ops.malloc(self.pool, size[i], &handle, &object)
                if rc != 0:
                    break
            pages = self.ops.total_pages(self.pool)
        check(rc, self.name)
        return pages

    def classes(self):
        """Of zsmalloc: (slot size, pages in a zspage, objects in a zspage) of each size class,
        smallest first."""
        cdef zsmalloc_geometry geometry[MOST_CLASSES]
        cdef size_t n, i
        if self.name != "zsmalloc":
            raise TypeError(f"{self.name} has no size classes")
        n = zsmalloc_classes(self.pool, geometry, MOST_CLASSES)
        return [(geometry[i].size, geometry[i].pages, geometry[i].objects) for i in range(n)]
