"""Pages that wait to be read from their backing store together, into memory of ours.

What each one's slot said when it was parked tells afterwards whether what was read is still the
page: a slot says by a number which write of the page it means.

The memory of a batch that has ended waits for the next one, which else had each page of it from the
system anew: a fifth of the time that reading one takes.  There is one such spare buffer; it goes
when nobody has taken it for an interval.
"""
from libc.errno cimport ENOMEM
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport qsort

from zswap_core.budget cimport buffer_bytes, buffers_spare, map_buffer, unmap_buffer
from zswap_core.fault cimport fault, Site
from zswap_core.index cimport shard_find, SHARD_PAGES, sum_at, zsw_area, zsw_shard
from zswap_core.news cimport note_answer
from zswap_core.os cimport zsw_cas_u64, ZSW_MAP_NO_FORK, zsw_peek_u64, zsw_unlikely, zsw_wipe
from zswap_core.state cimport zsw_engine
from zswap_core.status cimport Status


cdef enum:
    # beside its address, a spare buffer's word says how many pages it has, less one, and
    RESTS = PARKED_PAGES        # that nobody has taken it since the last look


cdef inline uint8_t *spare_memory(uint64_t spare) noexcept nogil:
    return <uint8_t *> <uintptr_t> (spare & ~<uint64_t> (2 * RESTS - 1))


cdef inline size_t spare_bytes(const zsw_engine *e, uint64_t spare) noexcept nogil:
    return <size_t> ((spare & (RESTS - 1)) + 1) * e.page_size


cdef uint64_t take_spare(zsw_engine *e) noexcept nogil:
    """0: there is none, or others are at it."""
    cdef uint64_t spare = zsw_peek_u64(&e.spare)
    return spare if spare and zsw_cas_u64(&e.spare, spare, 0) else 0


cdef void unmap_spare(zsw_engine *e, uint64_t spare) noexcept nogil:
    unmap_buffer(e, spare_memory(spare), spare_bytes(e, spare))


cdef void give_spare(zsw_engine *e, uint64_t spare) noexcept nogil:
    if not zsw_cas_u64(&e.spare, 0, spare):
        unmap_spare(e, spare)


cdef void spare_rest(zsw_engine *e) noexcept nogil:
    """Gives the buffer back if nobody has taken it since this was last called."""
    cdef uint64_t spare = take_spare(e)
    if spare & RESTS:
        unmap_spare(e, spare)
    elif spare:
        give_spare(e, spare | RESTS)


cdef void spare_destroy(zsw_engine *e) noexcept nogil:
    cdef uint64_t spare = take_spare(e)
    if spare:
        unmap_spare(e, spare)


cdef void parking_init(zsw_engine *e, zsw_parking *parking) noexcept nogil:
    parking.memory = NULL
    parking.count = 0
    parking.size = buffer_bytes(e, PARKED_BYTES, 8)
    if parking.size == 0 or zsw_peek_u64(&e.spare) == 0 and not buffers_spare(e, parking.size):
        parking.size = e.page_size
    parking.most = min(<uint32_t> PARKED_PAGES, <uint32_t> (parking.size // e.page_size))


cdef bint has_memory(zsw_engine *e, zsw_parking *parking) noexcept nogil:
    cdef uint64_t spare
    if parking.memory != NULL:
        return True
    spare = take_spare(e)
    if spare and spare_bytes(e, spare) == parking.size:
        parking.memory = spare_memory(spare)
        return True
    if spare:                                   # the budget was another
        unmap_spare(e, spare)
    if fault(Site.SCRATCH) == 0 and buffers_spare(e, parking.size):
        parking.memory = map_buffer(e, parking.size, e.params.mapping | ZSW_MAP_NO_FORK)
    return parking.memory != NULL


cdef void parking_end(zsw_engine *e, zsw_parking *parking) noexcept nogil:
    if parking.memory == NULL:
        return
    if zsw_unlikely(e.params.wipe_on_free):
        zsw_wipe(parking.memory, parking.size)
        unmap_buffer(e, parking.memory, parking.size)
        return
    give_spare(e, <uint64_t> <uintptr_t> parking.memory | parking.size // e.page_size - 1)


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
    if not has_memory(e, parking):
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
