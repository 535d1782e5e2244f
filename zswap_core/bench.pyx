"""What a store and a load cost at the very least: loops over the compressor's own functions, the
scan, a copy, the index.

The engine calls the same functions with the same context and room, so the difference is what the
engine costs.
"""
from libc.errno cimport ENOMEM
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from zswap_core.abi cimport zsw_compressor
from zswap_core.buffers cimport Items, items_of
from zswap_core.compressors.base cimport Compressor
from zswap_core.index cimport (
    area_bytes, area_destroy, area_init, area_lock_shard, area_shard, index_bytes, index_destroy,
    index_init, shard_find, SHARD_PAGES, shard_reserve, SHARD_SHIFT, zsw_area, zsw_index, zsw_shard,
)
from zswap_core.os cimport zsw_lock, zsw_map, zsw_now_ns, zsw_unlock, zsw_unmap
from zswap_core.samefilled cimport same_fill, same_filled


cdef enum:
    RAW = -1            # kept as it is
    SAME = -2           # one word


# A loop over pages, and what it needs.  `order` says which page comes next, in a load.
cdef struct zsw_loop:
    zsw_compressor c
    size_t page_size
    size_t bound
    # `bound` bytes for each page; filled from the front of each range
    uint8_t *packed
    uint64_t *at                        # where in it a page lies, or its word
    int64_t *length                     # compressed bytes, RAW or SAME


cdef int64_t store_range(zsw_loop *loop, void *ctx, uint8_t *scratch, const uint8_t *pages,
                         uint64_t first, uint64_t stop, bint whole, uint32_t *ns) noexcept nogil:
    """Compress pages first .. stop - 1.  Whole: look for same-filled pages, keep what came out;
    else drop it."""
    cdef uint64_t i, start = 0, end = first * loop.bound
    cdef const uint8_t *page
    cdef int64_t n = 0
    for i in range(first, stop):
        if ns != NULL:
            start = zsw_now_ns()
        page = pages + i * loop.page_size
        if whole and same_filled(page, loop.page_size, &loop.at[i]):
            loop.length[i] = SAME
        else:
            n = loop.c.ops.compress(loop.c.state, ctx, page, loop.page_size, scratch, loop.bound)
            if n <= 0:
                return n - 1
            if whole:
                loop.at[i] = end
                if n < <int64_t> loop.page_size:
                    memcpy(loop.packed + end, scratch, n)
                    loop.length[i] = n
                    end += n
                else:
                    memcpy(loop.packed + end, page, loop.page_size)
                    loop.length[i] = RAW
                    end += loop.page_size
        if ns != NULL:
            ns[i] = <uint32_t> (zsw_now_ns() - start)
    return 0


cdef int64_t load_range(zsw_loop *loop, void *ctx, const uint64_t *order, uint8_t *out,
                        uint64_t first, uint64_t stop, uint32_t *ns) noexcept nogil:
    """Fill out[i] with page order[i], for i in first .. stop - 1."""
    cdef uint64_t i, page, start = 0
    cdef int64_t n
    for i in range(first, stop):
        if ns != NULL:
            start = zsw_now_ns()
        page = order[i]
        n = loop.length[page]
        if n == SAME:
            same_fill(out + i * loop.page_size, loop.page_size, loop.at[page])
        elif n == RAW:
            memcpy(out + i * loop.page_size, loop.packed + loop.at[page], loop.page_size)
        else:
            n = loop.c.ops.decompress(loop.c.state, ctx, loop.packed + loop.at[page], n,
                                      out + i * loop.page_size, loop.page_size)
            if n != <int64_t> loop.page_size:
                return -1
        if ns != NULL:
            ns[i] = <uint32_t> (zsw_now_ns() - start)
    return 0


cdef int64_t scan_range(zsw_loop *loop, const uint8_t *pages, uint64_t first,
                        uint64_t stop) noexcept nogil:
    """Look whether pages first .. stop - 1 are same-filled, and keep the words of those that
    are."""
    cdef bint same
    cdef uint64_t i
    for i in range(first, stop):
        same = same_filled(pages + i * loop.page_size, loop.page_size, &loop.at[i])
        loop.length[i] = SAME if same else RAW
    return 0


cdef int64_t copy_range(zsw_loop *loop, const uint8_t *pages, const uint64_t *order, uint8_t *out,
                        uint64_t first, uint64_t stop, uint32_t *ns) noexcept nogil:
    """Fill out[i] with page order[i] as it is."""
    cdef uint64_t i, start = 0
    for i in range(first, stop):
        if ns != NULL:
            start = zsw_now_ns()
        memcpy(out + i * loop.page_size, pages + order[i] * loop.page_size, loop.page_size)
        if ns != NULL:
            ns[i] = <uint32_t> (zsw_now_ns() - start)
    return 0


cdef class CodecLoop:
    """The loops over one set of pages.  Every method releases the GIL; threads may share the work
    by ranges."""
    cdef zsw_loop loop
    cdef Compressor compressor
    cdef Items pages
    cdef readonly uint64_t count

    def __cinit__(self, Compressor compressor not None, pages not None, size_t page_size=4096):
        self.pages = items_of(pages, "pages", 1)
        if page_size % 8 or not page_size or self.pages.count % page_size or not self.pages.count:
            raise ValueError("whole pages are needed")
        self.compressor = compressor
        self.count = self.pages.count // page_size
        self.loop.c = compressor.c
        self.loop.page_size = page_size
        self.loop.bound = compressor.c.ops.bound(compressor.c.state, page_size)
        self.loop.packed = <uint8_t *> zsw_map(self.count * self.loop.bound)
        self.loop.at = <uint64_t *> zsw_map(self.count * sizeof(uint64_t))
        self.loop.length = <int64_t *> zsw_map(self.count * sizeof(int64_t))
        if self.loop.packed == NULL or self.loop.at == NULL or self.loop.length == NULL:
            raise MemoryError("no memory for the compressed pages")

    def __dealloc__(self):
        zsw_unmap(self.loop.packed, self.count * self.loop.bound)
        zsw_unmap(self.loop.at, self.count * sizeof(uint64_t))
        zsw_unmap(self.loop.length, self.count * sizeof(int64_t))

    def run(self, str what, uint64_t first=0, stop=None, *, out=None, order=None, ns=None):
        """Do one loop over pages first .. stop - 1.

        Parameters
        ----------
        what : {"compress", "store", "load", "scan", "copy"}
            compress: the codec alone, its output dropped.  store: with the scan for same-filled
            pages before and a copy to where the page stays after it.  load: the codec alone, from
            where store put the pages; the fill alone for a same-filled one.  scan: whether pages
            are same-filled.  copy: pages to `out` as they are.
        out, order : buffers, for load and copy
            Room for all pages; which page comes at each place.
        ns : buffer of uint32, optional
            Filled with each page's time; not by scan.

        Returns
        -------
        int
            Nanoseconds in all.
        """
        cdef uint64_t last = self.count if stop is None else stop
        cdef const zsw_compressor *c = &self.loop.c
        cdef bint loading = what == "load", whole = what == "store"
        cdef bint copying = what == "copy", scanning = what == "scan"
        cdef const uint8_t *pages = <const uint8_t *> self.pages.at
        cdef Items room, turns, spent
        cdef const uint64_t *turn = NULL
        cdef uint8_t *to = NULL
        cdef uint32_t *times = NULL
        cdef uint8_t *scratch
        cdef void *ctx = NULL
        cdef int64_t rc = 0
        cdef uint64_t i, start, took
        if what not in ("compress", "store", "load", "scan", "copy"):
            raise ValueError(f"what is {what!r}; compress, store, load, scan or copy is needed")
        if first >= last or last > self.count:
            raise ValueError(f"pages {first} to {last} of {self.count}: no such range")
        if loading or copying:
            if out is not None and order is not None:
                room = items_of(out, "out", 1, writable=True)
                turns = items_of(order, "order", sizeof(uint64_t))
                to, turn = <uint8_t *> room.at, <const uint64_t *> turns.at
            if to == NULL or <uint64_t> turns.count != self.count or room.count != self.pages.count:
                raise ValueError(f"{what} needs `out` with room for all pages, and an `order` of "
                                 "all")
            for i in range(self.count):
                if turn[i] >= self.count:
                    raise ValueError(f"there is no page {turn[i]}")
        if ns is not None:
            spent = items_of(ns, "ns", sizeof(uint32_t), writable=True)
            if <uint64_t> spent.count != self.count:
                raise ValueError("`ns` needs a place for each page")
            times = <uint32_t *> spent.at
        if c.ops.ctx_new != NULL and c.ops.ctx_new(c.state, &ctx) != 0:
            raise MemoryError("no memory for the compressor")
        scratch = <uint8_t *> malloc(self.loop.bound)
        try:
            if scratch == NULL:
                raise MemoryError("no memory for a page")
            with nogil:
                start = zsw_now_ns()
                if loading:
                    rc = load_range(&self.loop, ctx, turn, to, first, last, times)
                elif copying:
                    rc = copy_range(&self.loop, pages, turn, to, first, last, times)
                elif scanning:
                    rc = scan_range(&self.loop, pages, first, last)
                else:
                    rc = store_range(&self.loop, ctx, scratch, pages, first, last, whole, times)
                took = zsw_now_ns() - start
        finally:
            free(scratch)
            if c.ops.ctx_new != NULL:
                c.ops.ctx_free(c.state, ctx)
        if rc != 0:
            raise RuntimeError(f"{self.compressor.spec} failed on a page")
        return took

    def lengths(self):
        """(compressed bytes, pages kept raw, same-filled pages) of the last store."""
        cdef uint64_t i
        cdef int64_t total = 0, raw = 0, same = 0
        for i in range(self.count):
            if self.loop.length[i] == RAW:
                raw += 1
                total += self.loop.page_size
            elif self.loop.length[i] == SAME:
                same += 1
            else:
                total += self.loop.length[i]
        return total, raw, same


cdef class IndexLoop:
    """The index of one swap area that holds `offsets`, and the loop that looks pages up in it as a
    load does.

    Parameters
    ----------
    offsets : buffer of uint64
        All different, each below 2**47.
    """
    cdef zsw_index ix
    cdef zsw_area area
    cdef readonly uint64_t count

    def __cinit__(self, offsets not None):
        cdef Items items = items_of(offsets, "offsets", sizeof(uint64_t))
        cdef const uint64_t *at = <const uint64_t *> items.at
        cdef uint64_t i
        cdef int rc = 0
        index_init(&self.ix)
        if area_init(&self.area, 0, 0) != 0:
            raise MemoryError("no memory for the index")
        self.count = items.count
        for i in range(self.count):
            if at[i] >> 47:
                raise ValueError(f"offset {at[i]} is too large")
        with nogil:
            for i in range(self.count):
                rc = self.put(at[i], <uint32_t> (i + 1))
                if rc != 0:
                    break
        if rc != 0:
            raise MemoryError("no memory for the index")

    def __dealloc__(self):
        area_destroy(&self.area)
        index_destroy(&self.ix)

    cdef int put(self, uint64_t offset, uint32_t id) noexcept nogil:
        cdef zsw_shard *shard = area_lock_shard(&self.ix, &self.area, offset >> SHARD_SHIFT)
        cdef uint32_t *slot
        cdef uint32_t pos
        cdef int rc
        if shard == NULL:
            return -ENOMEM
        rc = shard_reserve(&self.ix, shard, offset & (SHARD_PAGES - 1), &slot, &pos)
        if rc == 0:
            slot[0] = id
        zsw_unlock(&shard.lock)
        return rc

    def lookup(self, offsets not None):
        """Look every one of `offsets` up, one after another.

        Returns
        -------
        tuple of int
            How many were there, and the nanoseconds in all.
        """
        cdef Items items = items_of(offsets, "offsets", sizeof(uint64_t))
        cdef const uint64_t *at = <const uint64_t *> items.at
        cdef uint64_t i, start, took, found = 0, count = items.count
        cdef zsw_shard *shard
        cdef uint32_t pos
        with nogil:
            start = zsw_now_ns()
            for i in range(count):
                shard = area_shard(&self.ix, &self.area, at[i] >> SHARD_SHIFT)
                if shard == NULL:
                    continue
                zsw_lock(&shard.lock)
                if shard_find(&self.ix, shard, at[i] & (SHARD_PAGES - 1), &pos) != NULL:
                    found += 1
                zsw_unlock(&shard.lock)
            took = zsw_now_ns() - start
        return found, took

    def bytes(self):
        """Memory that the index takes."""
        return index_bytes(&self.ix) + area_bytes(&self.area)
