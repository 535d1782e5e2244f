"""The binding of memories: `Region` is a memory, `Block` an allocation in it, which others see as a
buffer; and the handler by which numpy allocates there."""
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.pycapsule cimport (
    PyCapsule_GetContext, PyCapsule_GetPointer, PyCapsule_New, PyCapsule_SetContext,
)
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from cython cimport no_gc_clear
from libc.errno cimport EACCES, EBUSY, EINVAL, ENOMEM, ENOSYS, EPERM
from libc.stdint cimport uint8_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy

from zswap_core.backings.base cimport Backing
from zswap_core.binding.results cimport error_for, Handle
from zswap_core.engine cimport engine_close
from zswap_core.figures cimport engine_totals, zsw_totals
from zswap_core.memory.allocations cimport (
    memory_allocate, memory_free, memory_keep, memory_size, memory_take,
)
from zswap_core.memory.fetch cimport NO_ROOM, NOT_MAPPED
from zswap_core.memory.io cimport io_look, io_watch
from zswap_core.memory.region cimport (
    memory_bring, memory_close, memory_evict, memory_fetch, memory_give_up, memory_hint,
    memory_open, memory_pin, memory_set_budget, memory_unpin,
)
from zswap_core.memory.room cimport lasting_room, metadata_of
from zswap_core.memory.state cimport (
    HINT_NONE, HINT_RANDOM, HINT_SEQUENTIAL, OF_PROGRAMS, zsw_memory, zsw_mode,
)
from zswap_core.os cimport zsw_peek_u64


cdef extern from "Python.h":
    void Py_IncRef(PyObject *o)

import os
import sys

from zswap_core.errors import Error

REFUSED = (EPERM, EACCES, ENOSYS)


@no_gc_clear
cdef class Region:
    """A memory.  It lives as long as the last allocation in it."""
    def __init__(self, Handle engine not None, used, uint64_t pages, uint64_t budget,
                 uint64_t limit, bint divides, int mode):
        cdef int rc
        cdef zsw_memory *m = NULL
        if self.m != NULL:
            raise RuntimeError("this Region has been initialised before")
        with nogil:
            rc = memory_open(engine.e, pages, budget, limit, divides, <zsw_mode> mode, &m)
        if -rc in REFUSED:
            how = ("/dev/userfaultfd, CAP_SYS_PTRACE or vm.unprivileged_userfaultfd=1"
                   if mode else "the system call userfaultfd (in containers, a seccomp profile)")
            raise PermissionError(-rc, f"userfaultfd is refused ({os.strerror(-rc)}): allow {how}")
        if rc == -EBUSY:
            raise Error("there are 64 Memory objects in this process; let go of one first")
        if rc == -ENOMEM:
            raise MemoryError(f"no address space for {pages} pages")
        if rc == -EINVAL and mode == OF_PROGRAMS:
            raise Error("this kernel cannot write-protect shared memory: Linux 5.19 is needed")
        if rc != 0:
            raise OSError(-rc, f"no userfaultfd: {os.strerror(-rc)}")
        self.m, self.engine, self.used = m, engine, used
        io_watch(m, <void *> Py_IncRef)

    def __dealloc__(self):
        cdef bint ours
        if self.m != NULL:
            ours = not self.m.forked
            with nogil:
                memory_close(self.m)
                if ours:
                    engine_close(self.engine.e)
            if ours and self.used[1] is not None:
                (<Backing> self.used[1]).detach()

    cdef int check(self) except -1:
        if self.m.forked:
            raise ValueError("this Memory belongs to the parent process; a forked child needs one "
                             "of its own")
        return 0

    @property
    def forked(self):
        """Whether this process is a forked child, which has none of it."""
        return self.m.forked != 0

    def allocate(self, uint64_t size):
        """A Block of so many bytes."""
        cdef Block block = Block.__new__(Block)
        cdef uint64_t pages = max((size + self.m.page_size - 1) >> self.m.page_shift, <uint64_t> 1)
        cdef int rc
        self.check()
        io_look()
        with nogil:
            rc = memory_allocate(self.m, pages, &block.first)
        if rc != 0:
            return None
        block.region, block.pages, block.size = self, pages, size
        return block

    cdef int span_of(self, uint64_t address, uint64_t size, uint64_t *first,
                     uint64_t *pages) except -1:
        """The pages of a span of addresses, which must lie in the memory."""
        cdef uint64_t at = address - <uint64_t> self.m.base
        if at >= self.m.bytes or size > self.m.bytes - at:
            raise ValueError("this array does not lie in this Memory")
        first[0] = at >> self.m.page_shift
        pages[0] = ((at + size - 1) >> self.m.page_shift) - first[0] + 1
        return 0

    cdef object error(self, int rc, uint64_t first):
        if rc == NO_ROOM:
            return Error("no room: nothing goes to the pool or the backing file any more")
        if rc == NOT_MAPPED:
            return MemoryError("the system has no memory to bring a page in")
        return error_for(rc, self.m.error, first, 0, self.engine)

    def pin(self, uint64_t address, uint64_t size):
        """Keeps the pages of a span resident until `unpin`."""
        cdef uint64_t first, pages
        cdef int rc
        self.check()
        self.span_of(address, size, &first, &pages)
        with nogil:
            rc = memory_pin(self.m, first, pages)
        if rc == -ENOMEM:
            room = lasting_room(self.m, zsw_peek_u64(&self.m.budget))
            raise MemoryError(f"{pages} pages are too many to pin: half of the room that resident "
                              f"pages always have, {room}, may be pinned at once: pin less, or "
                              "raise the budget")
        if rc == -EBUSY:
            raise ValueError("a page of it is pinned 255 times")
        if rc < 0:
            raise self.error(rc, first)

    def unpin(self, uint64_t address, uint64_t size):
        cdef uint64_t first, pages
        if self.m.forked:
            return
        self.span_of(address, size, &first, &pages)
        with nogil:
            memory_unpin(self.m, first, pages)

    def advise(self, uint64_t address, uint64_t size, str advice):
        cdef uint64_t first, pages, start, end
        cdef int rc = 0
        self.check()
        self.span_of(address, size, &first, &pages)
        if advice == "willneed":
            with nogil:
                rc = memory_fetch(self.m, first, pages)
            if rc < 0:
                raise self.error(rc, first)
        elif advice == "cold":
            with nogil:
                memory_evict(self.m, first, pages)
        elif advice == "dontneed":
            # whole pages alone, as others may have the rest
            start = address + self.m.page_size - 1 & ~<uint64_t> (self.m.page_size - 1)
            end = address + size & ~<uint64_t> (self.m.page_size - 1)
            if start < end:
                self.span_of(start, end - start, &first, &pages)
                with nogil:
                    rc = memory_give_up(self.m, first, pages)
                if rc != 0:
                    raise ValueError("a page of it is pinned")
        elif advice in ("sequential", "random", "normal"):
            memory_hint(self.m, first, pages, HINT_SEQUENTIAL if advice == "sequential"
                        else HINT_RANDOM if advice == "random" else HINT_NONE)
        else:
            raise ValueError(f"unknown advice {advice!r}; there are 'willneed', 'cold', "
                             "'dontneed', 'sequential', 'random' and 'normal'")

    def set_budget(self, uint64_t budget, uint64_t limit):
        """None, or why it cannot be."""
        cdef int rc
        self.check()
        with nogil:
            rc = memory_set_budget(self.m, budget, limit)
        if rc == -EBUSY:
            return "too small for what is pinned, which may take half of the room: unpin some first"
        if rc != 0:
            return "too small for what is allocated: free arrays first"

    def contains(self, uint64_t address):
        return address - <uint64_t> self.m.base < self.m.bytes

    def figures(self):
        """What there is to tell, by name."""
        cdef zsw_totals totals
        cdef uint64_t resident = zsw_peek_u64(&self.m.resident)
        self.check()
        engine_totals(self.m.e, &totals)
        return {
            "budget": self.m.budget,
            "limit": self.m.limit << self.m.page_shift,
            "allocated_bytes": self.m.allocated << self.m.page_shift,
            "peak_allocated_bytes": self.m.most_allocated << self.m.page_shift,
            "resident_bytes": resident << self.m.page_shift,
            "room_bytes": zsw_peek_u64(&self.m.room) << self.m.page_shift,
            "peak_resident_bytes": self.m.counts.peak << self.m.page_shift,
            "kept_bytes": self.m.kept_pages << self.m.page_shift,
            "pinned_bytes": self.m.pinned << self.m.page_shift,
            "pool_bytes": totals.pool_pages << self.m.page_shift,
            "pool_limit": zsw_peek_u64(&self.m.e.params.max_pages) << self.m.page_shift,
            "metadata_bytes": totals.metadata_bytes + metadata_of(self.m),
            "faults": self.m.counts.faults,
            "fetched_pages": self.m.counts.fetched,
            "fresh_pages": self.m.counts.fresh,
            "read_ahead_pages": self.m.counts.ahead,
            "evicted_pages": self.m.counts.evicted,
            "clean_pages": self.m.counts.clean,
            "taken_back_pages": self.m.counts.taken_back,
            "refused_pages": self.m.counts.refused,
            "direct_evictions": self.m.counts.direct,
            "waits": self.m.counts.waits,
        }

    def numpy_handler(self, uint64_t min_size):
        """A handler for numpy's arrays (NEP 49): those of `min_size` bytes and more lie here."""
        cdef numpy_handler *h = <numpy_handler *> calloc(1, sizeof(numpy_handler))
        if h == NULL:
            raise MemoryError
        io_look()
        memcpy(h.name, b"zswap.Memory", 13)
        h.version = 1
        h.allocator.ctx = h
        h.allocator.malloc, h.allocator.calloc = numpy_malloc, numpy_calloc
        h.allocator.realloc, h.allocator.free = numpy_realloc, numpy_free
        h.m, h.min_size = self.m, min_size
        capsule = PyCapsule_New(h, b"mem_handler", drop_handler)
        Py_INCREF(self)
        PyCapsule_SetContext(capsule, <void *> <PyObject *> self)
        return capsule


@no_gc_clear
cdef class Block:
    """So many bytes of a memory, freed with this object: a writable buffer."""
    cdef Region region
    cdef uint64_t first
    cdef uint64_t pages
    cdef readonly uint64_t size
    cdef object __weakref__

    def __init__(self):
        raise TypeError("a Block is made by Memory.buffer")

    def __dealloc__(self):
        if self.region is not None and not self.region.m.forked:
            with nogil:
                memory_free(self.region.m, self.first)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.region.m.base + (self.first << self.region.m.page_shift),
                          <Py_ssize_t> self.size, False, flags)

    def __len__(self):
        return self.size

    @property
    def address(self):
        """Where it begins."""
        return <uintptr_t> self.region.m.base + (self.first << self.region.m.page_shift)

    def __reduce__(self):
        raise TypeError("a Block of a Memory cannot be pickled; bytes(block) can")


# ---- numpy's allocator (NEP 49) ------------------------------------------------------------------


# numpy's PyDataMemAllocator and PyDataMem_Handler, which never change.
cdef struct numpy_allocator:
    void *ctx
    void *(*malloc)(void *ctx, size_t size) noexcept nogil
    void *(*calloc)(void *ctx, size_t n, size_t size) noexcept nogil
    void *(*realloc)(void *ctx, void *p, size_t size) noexcept nogil
    void (*free)(void *ctx, void *p, size_t size) noexcept nogil

cdef struct numpy_handler:
    char name[127]
    uint8_t version
    numpy_allocator allocator
    # ours
    zsw_memory *m
    uint64_t min_size

ctypedef PyObject *(*get_handler_t)() except? NULL
ctypedef PyObject *(*set_handler_t)(PyObject *) except? NULL

cdef enum:
    SET_HANDLER = 304           # in numpy's table, since 1.22
    GET_HANDLER = 305


cdef bint is_ours(numpy_handler *h, void *p) noexcept nogil:
    return <uint64_t> p - <uint64_t> h.m.base < h.m.bytes


cdef void *take_pages(numpy_handler *h, size_t size, bint zeros) noexcept nogil:
    cdef uint64_t first = 0, pages = (size + h.m.page_size - 1) >> h.m.page_shift
    if h.m.forked or memory_take(h.m, pages, zeros, &first) != 0:
        return NULL
    if not zeros:                               # who wants zeros may leave most of them alone
        memory_bring(h.m, first, pages)
    return h.m.base + (first << h.m.page_shift)


cdef void *numpy_malloc(void *ctx, size_t size) noexcept nogil:
    cdef numpy_handler *h = <numpy_handler *> ctx
    return malloc(max(size, <size_t> 1)) if size < h.min_size else take_pages(h, size, False)


cdef void *numpy_calloc(void *ctx, size_t n, size_t size) noexcept nogil:
    cdef numpy_handler *h = <numpy_handler *> ctx
    if size and n > <size_t> -1 // size:
        return NULL
    if n * size < h.min_size:
        return calloc(max(n, <size_t> 1), max(size, <size_t> 1))
    return take_pages(h, n * size, True)


cdef void numpy_free(void *ctx, void *p, size_t size) noexcept nogil:
    cdef numpy_handler *h = <numpy_handler *> ctx
    if p == NULL:
        return
    if not is_ours(h, p):
        free(p)
    elif not h.m.forked:
        memory_keep(h.m, (<uint64_t> p - <uint64_t> h.m.base) >> h.m.page_shift)


cdef void *numpy_realloc(void *ctx, void *p, size_t size) noexcept nogil:
    cdef numpy_handler *h = <numpy_handler *> ctx
    cdef void *fresh
    cdef uint64_t old
    if p == NULL:
        return numpy_malloc(ctx, size)
    if not is_ours(h, p):
        # how long it is nobody knows: it stays where small ones lie
        return realloc(p, max(size, <size_t> 1))
    if h.m.forked:                              # which has none of it, nor how long it was
        return NULL
    old = memory_size(h.m, (<uint64_t> p - <uint64_t> h.m.base) >> h.m.page_shift)
    old <<= h.m.page_shift
    if size <= old and size > old // 2:
        return p
    fresh = numpy_malloc(ctx, size)
    if fresh != NULL:
        memcpy(fresh, p, min(<uint64_t> size, old))
        numpy_free(ctx, p, old)
    return fresh


cdef void drop_handler(object capsule) noexcept:
    cdef void *h = PyCapsule_GetPointer(capsule, b"mem_handler")
    cdef PyObject *region = <PyObject *> PyCapsule_GetContext(capsule)
    free(h)
    if region != NULL:
        Py_DECREF(<object> region)


cdef void **numpy_table() except NULL:
    core = sys.modules.get("numpy._core._multiarray_umath")
    if core is None:
        from numpy.core import _multiarray_umath as core
    return <void **> PyCapsule_GetPointer(core._ARRAY_API, NULL)


def set_numpy_handler(handler):
    """Makes numpy allocate by this handler, in this context; returns the one before it, None for
    numpy's own."""
    cdef set_handler_t set_handler = <set_handler_t> numpy_table()[SET_HANDLER]
    cdef PyObject *before = set_handler(<PyObject *> handler if handler is not None else NULL)
    cdef object result = <object> before
    Py_DECREF(result)
    return result
