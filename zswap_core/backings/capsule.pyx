"""A backing store from outside: a capsule of a zsw_backing, behind functions that check and count.

The store is given offsets that it has only, and need not count.
"""
from cpython.pycapsule cimport PyCapsule_CheckExact, PyCapsule_GetPointer
from libc.errno cimport EINVAL
from libc.stdint cimport uint8_t, uint64_t

from zswap_core.abi cimport (
    ZSW_ABI_VERSION, zsw_backing, ZSW_BACKING_CAPSULE, ZSW_BACKING_FIRST, ZSW_BACKING_NATIVE,
    ZSW_BACKING_NEEDED, zsw_backing_ops,
)
from zswap_core.backings.base cimport Backing, in_range, page_size_of, zsw_backing_counts
from zswap_core.os cimport zsw_add_u64
from zswap_core.plugin cimport need_functions, table_name, take_table


cdef struct outside:
    zsw_backing_ops ops             # theirs; what its author did not know is NULL
    void *state
    uint64_t nr_pages
    zsw_backing_counts *counts


cdef int write_pages(void *store, const uint64_t *offsets, const uint8_t *pages,
                     size_t n) noexcept nogil:
    cdef outside *o = <outside *> store
    cdef int rc = -EINVAL
    if in_range(o.nr_pages, offsets, n):
        rc = o.ops.write_pages(o.state, offsets, pages, n)
    zsw_add_u64(&o.counts.write_requests, 1)
    zsw_add_u64(&o.counts.write_failures if rc < 0 else &o.counts.written_pages, 1 if rc < 0 else n)
    return rc


cdef int read_pages(void *store, const uint64_t *offsets, uint8_t *pages, size_t n) noexcept nogil:
    cdef outside *o = <outside *> store
    cdef int rc = -EINVAL
    if in_range(o.nr_pages, offsets, n):
        rc = o.ops.read_pages(o.state, offsets, pages, n)
    zsw_add_u64(&o.counts.read_requests, 1)
    zsw_add_u64(&o.counts.read_failures if rc < 0 else &o.counts.read_pages, 1 if rc < 0 else n)
    return rc


cdef void discard(void *store, const uint64_t *offsets, size_t n) noexcept nogil:
    cdef outside *o = <outside *> store
    if o.ops.discard != NULL and in_range(o.nr_pages, offsets, n):
        o.ops.discard(o.state, offsets, n)
        zsw_add_u64(&o.counts.discarded_pages, n)


cdef class CapsuleBacking(Backing):
    """A backing store in C, from outside.

    Parameters
    ----------
    capsule : PyCapsule
        Of a ``zsw_backing``, see ``zswap/abi.h``.
    name : str, optional
        What messages call it; by default the name in its table.

    Raises
    ------
    ValueError
        The capsule is of another kind, or its table is incomplete or made for another ABI.
    """
    cdef zsw_backing_ops ours       # what the engine calls
    cdef outside store
    cdef bint ended
    cdef object keep

    def __init__(self, capsule, name=None):
        cdef const zsw_backing *given
        if self.ops != NULL:
            raise TypeError("a CapsuleBacking does not change")
        given = <const zsw_backing *> PyCapsule_GetPointer(capsule, ZSW_BACKING_CAPSULE)
        take_table(given.ops, "backing", ZSW_BACKING_NEEDED, &self.store.ops,
                   sizeof(zsw_backing_ops))
        need_functions(&self.store.ops, "backing", ZSW_BACKING_FIRST, ZSW_BACKING_NEEDED)
        if not 1 <= given.nr_pages <= <uint64_t> 1 << 47:
            raise ValueError(f"the capsule's store has {given.nr_pages} pages; "
                             "1 to 2**47 is needed")
        self.page_size = page_size_of(given.page_size)
        self.nr_pages = given.nr_pages
        self.name = table_name(&self.store.ops) if name is None else name
        self.keep = capsule
        self.store.state, self.store.nr_pages = given.state, given.nr_pages
        self.store.counts = &self.counts
        self.ours = zsw_backing_ops(
            abi_version=ZSW_ABI_VERSION,
            struct_size=sizeof(zsw_backing_ops),
            name=self.store.ops.name,
            flags=self.store.ops.flags & ZSW_BACKING_NATIVE,
            write_pages=write_pages,
            read_pages=read_pages,
            discard=discard,
            destroy=NULL,
            write_objects=NULL,
            uses=NULL,
            tidy=NULL,
        )
        self.state = &self.store        # this object outlives whoever calls the table
        self.ops = &self.ours

    def __repr__(self):
        closed = ", closed" if self.closed else ""
        return f"<CapsuleBacking {self.name}, {self.nr_pages} pages{closed}>"

    def __dealloc__(self):
        self.end()

    cdef int release(self) except -1:
        self.end()
        return 0

    cdef void end(self) noexcept:
        """The store's own end, once."""
        if self.keep is not None and not self.ended and self.store.ops.destroy != NULL:
            self.ended = True
            self.store.ops.destroy(self.store.state)


def is_capsule(made):
    """Whether something is a capsule, of whatever kind."""
    return bool(PyCapsule_CheckExact(made))
