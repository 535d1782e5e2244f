"""Eviction by pages, as zbud and z3fold have it, driven from Python.  Everything else is in
zpool."""
from libc.stdint cimport uint64_t

from zswap_core.abi cimport zsw_zpool_config, zsw_zpool_ops
from zswap_core.zpools.registry cimport zpool_find
from zswap_core.zpools.z3fold cimport z3fold_evict_candidates
from zswap_core.zpools.zbud cimport zbud_evict_candidates


cdef class Buddies:
    """A zpool by name, with what its objects' owner needs to evict them."""
    cdef const zsw_zpool_ops *ops
    cdef void *pool
    cdef bint zbud

    def __cinit__(self, name, *, page_size=4096):
        cdef zsw_zpool_config config
        config.page_size, config.chain, config.kernel = page_size, 0, 0
        config.numa_node, config.flags = -1, 0
        if name not in ("zbud", "z3fold"):
            raise LookupError(name)
        self.zbud = name == "zbud"
        self.ops = zpool_find(name)
        if self.ops.create(&config, &self.pool) != 0:
            raise MemoryError

    def __dealloc__(self):
        if self.pool != NULL:
            self.ops.destroy(self.pool)

    def malloc(self, size_t size):
        cdef uint64_t handle
        cdef unsigned char *object
        if self.ops.malloc(self.pool, size, &handle, &object) != 0:
            raise ValueError("size")
        return handle

    def free(self, uint64_t handle):
        self.ops.free(self.pool, handle)

    def compact(self, handles):
        """Returns the pages freed; the handles stay as they are."""
        cdef uint64_t new_handle
        self.ops.compact_begin(self.pool)
        for handle in handles:
            self.ops.relocate(self.pool, handle, &new_handle)
        return self.ops.compact_end(self.pool)

    def candidates(self, n=3):
        """Handles of at most n objects, those of the page to evict, in the order to do it."""
        cdef uint64_t handles[3]
        cdef unsigned int count
        if not 0 <= n <= 3:
            raise ValueError("n")
        if self.zbud:
            count = zbud_evict_candidates(self.pool, handles, n)
        else:
            count = z3fold_evict_candidates(self.pool, handles, n)
        return [handles[i] for i in range(count)]

    @property
    def total_pages(self):
        return self.ops.total_pages(self.pool)

    def validate(self):
        return self.ops.validate(self.pool)
