# cython: language_level=3
"""Pages that go straight to a backing store, and pages that come back from it.

While a page is written through or discarded its index slot says IN_TRANSIT, and every other call on
that page waits.  Whoever writes to a store holds `writing`, so that of two writes to one offset the
later is the one that lands: the entry of a page being written back may long have left the index.  A
reader reads without a lock, and looks afterwards whether what it read was still the page: the slot
still says ON_BACKING, and no page of the shard went to the store meanwhile.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t

from zswap_core.checksum cimport checksum_of
from zswap_core.entries cimport put_entry
from zswap_core.entry cimport IN_TRANSIT, is_entry, ON_BACKING
from zswap_core.fault cimport fault, Site
from zswap_core.flight cimport flight_has
from zswap_core.index cimport shard_erase, shard_find, SHARD_PAGES, sum_at, zsw_area, zsw_shard
from zswap_core.news cimport note_answer
from zswap_core.os cimport EDEADLK, zsw_lock, zsw_peek_u64, zsw_poke_u64, zsw_self, zsw_unlock
from zswap_core.slots cimport change_lru, lock_slot
from zswap_core.state cimport zsw_engine, zsw_worker, zsw_writeback
from zswap_core.stats cimport count, Counter
from zswap_core.status cimport Status


cdef bint writing_begin(zsw_engine *e) noexcept nogil:
    """Becomes the writer; False when this thread is it already: a backing store in Python has
    called back."""
    if zsw_peek_u64(&e.writer) == zsw_self():
        return False
    zsw_lock(&e.writing)
    zsw_poke_u64(&e.writer, zsw_self())
    return True


cdef void writing_end(zsw_engine *e) noexcept nogil:
    zsw_poke_u64(&e.writer, 0)
    zsw_unlock(&e.writing)


cdef bint in_flight(zsw_engine *e, const zsw_area *area, uint64_t offset) noexcept nogil:
    """Whether one of the flights of this thread, which is the writer, has this page."""
    cdef zsw_writeback *wb = e.writeback
    return wb != NULL and (flight_has(&wb.flights[0], area, offset)
                           or flight_has(&wb.flights[1], area, offset))


cdef int begin_transit(zsw_engine *e, zsw_worker *w, zsw_area *area, uint64_t offset,
                       zsw_shard **shard, bint absent) noexcept nogil:
    """Puts IN_TRANSIT where the page was and frees what was there; others wait from here on.  With
    `absent` nothing may be there."""
    cdef uint32_t *slot
    cdef uint32_t pos, old
    cdef int rc = lock_slot(e, area, offset, absent, shard, &slot, &pos)
    if rc < 0:
        return rc
    old = slot[0]
    slot[0] = IN_TRANSIT
    change_lru(e, old, 0)
    zsw_unlock(&shard[0].lock)
    if is_entry(old):
        put_entry(e, w, old)
    elif old == ON_BACKING:
        count(w.counters, Counter.backed_pages, -1)
    return Status.STORED


cdef int write_through(zsw_engine *e, zsw_worker *w, zsw_area *area, uint64_t offset,
                       const uint8_t *page, bint absent) noexcept nogil:
    """Writes a refused page to the area's backing store.  When that fails nothing is held at
    `offset`."""
    cdef zsw_shard *shard
    cdef uint32_t *slot
    cdef uint32_t pos
    cdef uint32_t sum = checksum_of(&e.checksum, page, e.page_size)
    cdef int status, rc
    cdef bint first, lost
    first = writing_begin(e)
    # In a callback from the very flight that has this offset, our page could not be made to land
    # later than that one.
    lost = not first and in_flight(e, area, offset)
    status = begin_transit(e, w, area, offset, &shard, absent)
    if status < 0:
        if first:
            writing_end(e)
        # No memory for the slot: there is none, so nothing is held.  Area gone: swapoff frees what
        # is there.
        return status
    rc = -EDEADLK if lost else fault(Site.BACKING_WRITE)
    if rc == 0:
        rc = area.backing.write_pages(area.store, &offset, page, 1)
    if not lost:
        note_answer(e, &area.write_error, rc)
    if rc == 0:
        status = Status.WRITTEN_THROUGH
        count(w.counters, Counter.written_through_pages, 1)
        count(w.counters, Counter.backed_pages, 1)
    else:
        status = Status.BACKING_FAIL
        w.error = w.error or rc
        count(w.counters, Counter.backing_write_fail, 1)
        area.backing.discard(area.store, &offset, 1)        # half a page, or one from before
    zsw_lock(&shard.lock)
    slot = shard_find(&e.index, shard, offset & (SHARD_PAGES - 1), &pos)
    if status == Status.WRITTEN_THROUGH:
        slot[0] = ON_BACKING
        if e.index.checksums:
            sum_at(&e.index, pos)[0] = sum
        shard.writes += 1
    else:
        shard_erase(&e.index, shard, offset & (SHARD_PAGES - 1))
    zsw_unlock(&shard.lock)
    if first:
        writing_end(e)
    return status


cdef int read_backed(zsw_engine *e, zsw_worker *w, zsw_area *area, zsw_shard *shard,
                     uint64_t offset, uint32_t writes, uint8_t *page, bint take) noexcept nogil:
    """Reads a page whose slot said ON_BACKING when the shard's count was `writes`.  AGAIN: it
    changed meanwhile.  With `take` the store has it no more."""
    cdef int rc = fault(Site.BACKING_READ)
    cdef uint32_t *slot
    cdef uint32_t pos
    cdef uint32_t sum = 0
    cdef bint still, damaged
    if rc == 0:
        rc = area.backing.read_pages(area.store, &offset, page, 1)
    note_answer(e, &area.read_error, rc)
    if rc == 0:
        sum = checksum_of(&e.checksum, page, e.page_size)
    zsw_lock(&shard.lock)
    slot = shard_find(&e.index, shard, offset & (SHARD_PAGES - 1), &pos)
    still = slot != NULL and slot[0] == ON_BACKING and shard.writes == writes
    damaged = still and rc == 0 and e.index.checksums and sum_at(&e.index, pos)[0] != sum
    if still and take and rc == 0 and not damaged:
        slot[0] = IN_TRANSIT
    zsw_unlock(&shard.lock)
    if rc != 0:
        w.error = w.error or rc
        count(w.counters, Counter.backing_read_fail, 1)
    if not still:
        return AGAIN
    if rc != 0:
        return Status.BACKING_FAIL
    if damaged:
        count(w.counters, Counter.backing_checksum_fail, 1)
        return Status.BACKING_CORRUPT
    count(w.counters, Counter.backing_loads, 1)
    if take:
        discard_backed(e, w, area, shard, &offset, 1)
    return Status.STORED


cdef void discard_backed(zsw_engine *e, zsw_worker *w, zsw_area *area, zsw_shard *shard,
                         const uint64_t *offsets, uint32_t n) noexcept nogil:
    """Lets the backing store forget pages of a shard whose slots we have put in transit, and erases
    the slots."""
    cdef uint32_t i = n
    area.backing.discard(area.store, offsets, n)
    zsw_lock(&shard.lock)
    while i > 0:
        i -= 1
        shard_erase(&e.index, shard, offsets[i] & (SHARD_PAGES - 1))
    zsw_unlock(&shard.lock)
    count(w.counters, Counter.backed_pages, -<int64_t> n)
