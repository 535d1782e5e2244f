"""A zpool, and the arena below it, driven from Python.

Whatever takes a lock releases the GIL, so threads meet in the allocator.  A build with line tracing
depends on it: there compiled code waits for the GIL while it holds a lock.  Handles are what the
caller makes of them: a wrong one crashes.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_NoMemory
from libc.errno cimport ENOMEM
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

import os
from array import array

from zswap_core.abi cimport zsw_zpool_config, zsw_zpool_ops, zsw_zpool_stats
from zswap_core.buffers cimport Items, items_of
from zswap_core.os cimport ZSW_POISON, ZSW_UNPOISON
from zswap_core.zpools.arena cimport (
    arena_alloc, arena_check_begin, arena_check_claim, arena_check_end, arena_commit, arena_destroy,
    arena_free, arena_idle_pages, arena_init, arena_release, ARENA_SPAN_MAX, arena_total_pages,
    arena_uncommit, zsw_arena, zsw_span,
)
from zswap_core.zpools.registry cimport zpool_find

from zswap_core.zpools.geometry import Trial
from zswap_core.zpools.registry import zpool_names as zpools


cdef int check(int rc) except -1:
    if rc == -ENOMEM:
        PyErr_NoMemory()
    if rc < 0:
        raise OSError(-rc, os.strerror(-rc))
    return rc


cdef void mark(uint8_t *object, size_t size, uint64_t tag) noexcept nogil:
    """Content that tells whose it is: the tag, then one byte made of it to the end."""
    memset(object, <uint8_t> (tag * 167 >> 3), size)
    memcpy(object, &tag, min(size, sizeof(tag)))


cdef bint is_marked(const uint8_t *object, size_t size, uint64_t tag) noexcept nogil:
    cdef size_t head = min(size, sizeof(tag))
    if memcmp(object, &tag, head) != 0:
        return False
    if size == head:
        return True
    return (object[head] == <uint8_t> (tag * 167 >> 3)
            and memcmp(object + head, object + head + 1, size - head - 1) == 0)


cdef class Zpool:
    """One zpool: `Zpool("zsmalloc", kernel=True).malloc(b"...")`."""
    cdef const zsw_zpool_ops *ops
    cdef void *pool
    cdef readonly str name
    cdef dict options

    def __cinit__(self, name="zsmalloc", *, page_size=4096, chain=0, kernel=False, numa_node=-1):
        cdef zsw_zpool_config config
        self.options = {"page_size": page_size, "chain": chain, "kernel": kernel}
        config.page_size = page_size
        config.chain = chain
        config.kernel = bool(kernel)
        config.numa_node = numa_node
        config.flags = 0
        self.name = name
        self.ops = zpool_find(name)
        if self.ops == NULL:
            raise LookupError(f"no zpool {name!r}; there is {', '.join(zpools())}")
        check(self.ops.create(&config, &self.pool))

    def __dealloc__(self):
        if self.pool != NULL:
            self.ops.destroy(self.pool)

    def malloc(self, data):
        """Stores the bytes; returns the handle."""
        cdef Items items = items_of(data, "data", 1)
        cdef uint64_t handle
        cdef uint8_t *object
        cdef int rc
        with nogil:
            rc = self.ops.malloc(self.pool, items.count, &handle, &object)
        check(rc)
        memcpy(object, items.at, items.count)
        return handle

    def malloc_many(self, sizes, tag=None):
        """Handles of new objects; with a tag, object i is filled with something made of tag + i."""
        cdef Items items = items_of(sizes, "sizes", 4)
        cdef const uint32_t *size = <const uint32_t *> items.at
        handles = array("Q", bytes(8 * items.count))
        cdef Items room = items_of(handles, "handles", 8, writable=True)
        cdef uint64_t *h = <uint64_t *> room.at
        cdef uint64_t first = tag or 0
        cdef bint fill = tag is not None
        cdef Py_ssize_t done = 0
        cdef Py_ssize_t i
        cdef uint8_t *object
        cdef int rc = 0
        with nogil:
            while done < items.count:
                rc = self.ops.malloc(self.pool, size[done], &h[done], &object)
                if rc != 0:
                    break
                if fill:
                    mark(object, size[done], first + <uint64_t> done)
                done += 1
            if rc != 0:
                for i in range(done):
                    self.ops.free(self.pool, h[i])
        check(rc)
        return handles

    def malloc_alike(self, size, n):
        """Handles of up to `n` objects of one size, made by the zpool's own malloc_many."""
        handles = array("Q", bytes(8 * n))
        cdef Items room = items_of(handles, "handles", 8, writable=True)
        cdef size_t width = size
        cdef int64_t got
        with nogil:
            got = self.ops.malloc_many(self.pool, width, <uint64_t *> room.at, room.count)
        if got < 0:
            check(<int> got)
        return handles[:got]

    def wrong(self, handles, sizes, uint64_t tag):
        """How many of the objects do not hold what malloc_many() with this tag put there."""
        cdef Items items = items_of(handles, "handles", 8), widths = items_of(sizes, "sizes", 4)
        cdef const uint64_t *h = <const uint64_t *> items.at
        cdef const uint32_t *size = <const uint32_t *> widths.at
        if items.count != widths.count:
            raise ValueError("as many sizes as handles")
        cdef Py_ssize_t wrong = 0
        cdef Py_ssize_t i
        with nogil:
            for i in range(items.count):
                wrong += not is_marked(self.ops.map(self.pool, h[i]), size[i], tag + <uint64_t> i)
        return wrong

    def read(self, uint64_t handle, size_t size):
        return PyBytes_FromStringAndSize(<const char *> self.ops.map(self.pool, handle), size)

    def address(self, uint64_t handle):
        """Where the object lies."""
        return <size_t> self.ops.map(self.pool, handle)

    def map_many(self, handles):
        """Looks each object up; returns a sum of the addresses, to have had a use for them."""
        cdef Items items = items_of(handles, "handles", 8)
        cdef const uint64_t *h = <const uint64_t *> items.at
        cdef size_t sum = 0
        cdef Py_ssize_t i
        with nogil:
            for i in range(items.count):
                sum += <size_t> self.ops.map(self.pool, h[i])
        return sum

    def free(self, uint64_t handle):
        with nogil:
            self.ops.free(self.pool, handle)

    def free_many(self, handles):
        cdef Items items = items_of(handles, "handles", 8)
        cdef const uint64_t *h = <const uint64_t *> items.at
        cdef Py_ssize_t i
        with nogil:
            for i in range(items.count):
                self.ops.free(self.pool, h[i])

    def free_together(self, handles):
        """As free_many, by the zpool's own."""
        cdef Items items = items_of(handles, "handles", 8)
        with nogil:
            self.ops.free_many(self.pool, <const uint64_t *> items.at, items.count)

    def room(self, handle):
        """What the object of any handle can hold; 0: there is none."""
        return self.ops.object_room(self.pool, handle)

    def compact_begin(self):
        cdef uint64_t moves
        with nogil:
            moves = self.ops.compact_begin(self.pool)
        return moves

    def relocate_many(self, handles):
        """Moves what is to move, changing the handles in place; returns how many moved."""
        cdef Items items = items_of(handles, "handles", 8, writable=True)
        cdef uint64_t *h = <uint64_t *> items.at
        cdef Py_ssize_t moved = 0
        cdef Py_ssize_t i
        cdef int rc = 0
        with nogil:
            for i in range(items.count):
                rc = self.ops.relocate(self.pool, h[i], &h[i])
                if rc < 0:
                    break
                moved += rc
        check(rc)
        return moved

    def compact_end(self):
        cdef uint64_t pages
        with nogil:
            pages = self.ops.compact_end(self.pool)
        return pages

    def compact(self, handles):
        """A whole compaction, given all live handles (changed in place); returns the pages
        freed."""
        self.compact_begin()
        try:
            self.relocate_many(handles)
        finally:
            pages = self.compact_end()
        return pages

    def trim(self):
        cdef uint64_t pages
        with nogil:
            pages = self.ops.trim(self.pool)
        return pages

    def stats(self):
        cdef zsw_zpool_stats s
        with nogil:
            self.ops.stats(self.pool, &s)
        return {"total_pages": s.total_pages, "idle_pages": s.idle_pages, "objects": s.objects,
                "object_bytes": s.object_bytes, "metadata_bytes": s.metadata_bytes,
                "pages_compacted": s.pages_compacted}

    @property
    def total_pages(self):
        return self.ops.total_pages(self.pool)

    @property
    def max_saving_size(self):
        return self.ops.max_saving_size(self.pool)

    def validate(self):
        """0, or a negative number that names the check that failed."""
        cdef int rc
        with nogil:
            rc = self.ops.validate(self.pool)
        return rc

    def classes(self):
        return Trial(self.name, **self.options).classes()


cdef class Arena:
    """The page-span arena by itself.  A span is known by the address where it starts."""
    cdef zsw_arena arena
    cdef dict spans             # address -> (at, pages, committed)

    def __cinit__(self, *, int page_shift=12):
        cdef zsw_zpool_config config
        memset(&config, 0, sizeof(config))
        config.numa_node = -1
        self.spans = {}
        arena_init(&self.arena, page_shift, &config)

    def __dealloc__(self):
        arena_destroy(&self.arena)

    cdef zsw_span span(self, size_t start):
        cdef zsw_span span
        span.at, span.pages, span.committed = self.spans[start]
        return span

    def alloc(self, uint32_t pages):
        """(start, pages committed by the last user) of a new span."""
        cdef zsw_span span
        cdef uint8_t *start
        if not 1 <= pages <= ARENA_SPAN_MAX:
            raise ValueError("pages")
        check(arena_alloc(&self.arena, pages, &span, &start))
        self.spans[<size_t> start] = span.at, span.pages, span.committed
        return <size_t> start, span.committed

    def commit(self, size_t start, uint32_t pages):
        """Counts the first `pages` of the span as committed, and writes to them."""
        cdef zsw_span span = self.span(start)
        cdef uint32_t i
        if not span.committed <= pages <= span.pages:
            raise ValueError("pages")
        arena_commit(&self.arena, pages - span.committed)
        ZSW_UNPOISON(<uint8_t *> start, <size_t> pages << self.arena.page_shift)
        for i in range(pages):
            (<uint8_t *> start)[<size_t> i << self.arena.page_shift] = 1
        ZSW_POISON(<uint8_t *> start, <size_t> pages << self.arena.page_shift)
        self.spans[start] = span.at, span.pages, pages

    def uncommit(self, size_t start, uint32_t pages):
        cdef zsw_span span = self.span(start)
        if pages > span.committed:
            raise ValueError("pages")
        arena_uncommit(&self.arena, &span, pages)
        self.spans[start] = span.at, span.pages, span.committed

    def free(self, size_t start):
        """True when a release is due."""
        cdef zsw_span span = self.span(start)
        del self.spans[start]
        return bool(arena_free(&self.arena, &span))

    def release(self):
        return arena_release(&self.arena)

    @property
    def total_pages(self):
        return arena_total_pages(&self.arena)

    @property
    def idle_pages(self):
        return arena_idle_pages(&self.arena)

    @property
    def regions(self):
        return self.arena.regions.inuse

    @property
    def mapped_pages(self):
        return self.arena.mapped_pages

    def validate(self, forget=None, twice=None):
        """0 or the number of the check that failed; may leave out a span, or count one twice, to
        see that it is noticed."""
        cdef uint64_t *claims
        cdef uint64_t committed = 0
        cdef zsw_span span
        cdef int rc, end_rc
        rc = arena_check_begin(&self.arena, &claims)
        for start in [*self.spans, *([] if twice is None else [twice])]:
            if rc != 0:
                break
            span = self.span(start)
            committed += span.committed
            if start != forget:
                rc = arena_check_claim(&self.arena, claims, &span, <uint8_t *> <size_t> start)
        end_rc = arena_check_end(&self.arena, claims, committed)
        return rc if rc != 0 else end_rc
