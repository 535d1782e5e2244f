"""Pages that wait to be read from their backing store together, into memory of ours.

What each one's slot said when it was parked tells afterwards whether what was read is still the
page: a slot says by a number which write of the page it means.
"""
from libc.errno cimport ENOMEM
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport qsort

from zswap_core.budget cimport buffer_bytes, buffers_spare, map_buffer, unmap_buffer
from zswap_core.fault cimport fault, Site
from zswap_core.index cimport shard_find, SHARD_PAGES, sum_at, zsw_area, zsw_shard
from zswap_core.news cimport note_answer
from zswap_core.os cimport ZSW_MAP_NO_FORK, zsw_unlikely, zsw_wipe
from zswap_core.state cimport zsw_engine
from zswap_core.status cimport Status


cdef void parking_init(zsw_engine *e, zsw_parking *parking) noexcept nogil:
    parking.memory = NULL
    parking.count = 0
    parking.size = buffer_bytes(e, PARKED_BYTES, 8)
    if parking.size == 0 or not buffers_spare(e, parking.size):
        parking.size = e.page_size
    parking.most = min(<uint32_t> PARKED_PAGES, <uint32_t> (parking.size // e.page_size))


cdef void parking_end(zsw_engine *e, zsw_parking *parking) noexcept nogil:
    if parking.memory != NULL:
        if zsw_unlikely(e.params.wipe_on_free):
            zsw_wipe(parking.memory, parking.size)
        unmap_buffer(e, parking.memory, parking.size)


cdef bint park(zsw_parking *parking, zsw_area *area, zsw_shard *shard, uint64_t offset,
               uint64_t at, uint32_t seen) noexcept nogil:
    """Notes a page that is in the backing store, to be read with others; False when it must be read
    by itself, after those."""
    cdef zsw_parked *parked
    if parking == NULL or parking.count == parking.most:
        return False
    parked = &parking.pages[parking.count]
    parked.shard, parked.offset, parked.at, parked.seen = shard, offset, at, seen
    parking.area = area
    parking.count += 1
    return True


cdef int by_offset(const void *a, const void *b) noexcept nogil:
    cdef const zsw_parked *x = <const zsw_parked *> a
    cdef const zsw_parked *y = <const zsw_parked *> b
    return -1 if x.offset < y.offset else x.offset > y.offset


cdef int read_parked(zsw_engine *e, zsw_parking *parking) noexcept nogil:
    """Reads the pages with one call of the store, each once: 0 or -errno."""
    cdef uint64_t offsets[PARKED_PAGES]
    cdef uint32_t i, n = 0
    cdef int rc
    if parking.memory == NULL:
        if fault(Site.SCRATCH) == 0:
            parking.memory = map_buffer(e, parking.size, e.params.mapping | ZSW_MAP_NO_FORK)
        if parking.memory == NULL:
            return -ENOMEM
    qsort(parking.pages, parking.count, sizeof(zsw_parked), by_offset)
    for i in range(parking.count):
        if n == 0 or offsets[n - 1] != parking.pages[i].offset:
            offsets[n] = parking.pages[i].offset
            n += 1
        parking.pages[i].read = n - 1
    rc = fault(Site.BACKING_READ)
    if rc == 0:
        rc = parking.area.backing.read_pages(parking.area.store, offsets, parking.memory, n)
    if rc == 0:
        note_answer(e, &parking.area.read_error, 0)
    return rc


cdef int parked_status(zsw_engine *e, const zsw_parked *parked, uint32_t sum) noexcept nogil:
    """Under the shard's lock, once the page was read, with this checksum: STORED, WOULD_BLOCK if it
    has changed meanwhile, or BACKING_CORRUPT."""
    cdef uint32_t pos
    cdef uint32_t *slot = shard_find(&e.index, parked.shard, parked.offset & (SHARD_PAGES - 1),
                                     &pos)
    if slot == NULL or slot[0] != parked.seen:
        return Status.WOULD_BLOCK
    if e.index.checksums and sum_at(&e.index, pos)[0] != sum:
        return Status.BACKING_CORRUPT
    return Status.STORED
