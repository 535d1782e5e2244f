"""Pages that go straight to a backing store, and pages that come back from it.

While a page is written through or discarded its index slot says IN_TRANSIT, and every other call on
that page waits.  Whoever writes to a store holds `writing`, so that of two writes to one offset the
later is the one that lands: the entry of a page being written back may long have left the index.  A
reader reads without a lock, and looks afterwards whether the slot still holds what it held before:
once the page went to the store again, that is another number, and what was read is not used.
"""
from libc.errno cimport EBADMSG
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from zswap_core.checksum cimport checksum_of
from zswap_core.entries cimport entry_at, put_entry
from zswap_core.entry cimport backed, IN_TRANSIT, is_backed, is_entry
from zswap_core.fault cimport fault, Site
from zswap_core.flight cimport flight_has, write_to
from zswap_core.index cimport (
    is_clean, RUN_PAGES, set_clean, set_value_length, shard_erase, shard_find, SHARD_PAGES,
    SHARD_SHIFT, sum_at, value_length, zsw_area, zsw_shard,
)
from zswap_core.lookup cimport area_at
from zswap_core.news cimport note_answer
from zswap_core.os cimport (
    EDEADLK, zsw_lock, zsw_peek_u32, zsw_peek_u64, zsw_poke_u64, zsw_self, zsw_trylock,
    zsw_unlikely, zsw_unlock,
)
from zswap_core.slots cimport change_slot, lock_entry, lock_slot, zsw_held
from zswap_core.state cimport zsw_engine, zsw_worker, zsw_writeback
from zswap_core.stats cimport count, Counter
from zswap_core.status cimport Status
from zswap_core.wake cimport tell_landing


cdef bint writing_begin(zsw_engine *e) noexcept nogil:
    """Becomes the writer; False when this thread is it already: a backing store in Python has
    called back."""
    if zsw_peek_u64(&e.writer) == zsw_self():
        return False
    zsw_lock(&e.writing)
    zsw_poke_u64(&e.writer, zsw_self())
    return True


cdef bint writing_try(zsw_engine *e) noexcept nogil:
    """Becomes the writer if there is none; not for a thread that may be it."""
    if not zsw_trylock(&e.writing):
        return False
    zsw_poke_u64(&e.writer, zsw_self())
    return True


cdef void writing_end(zsw_engine *e) noexcept nogil:
    zsw_poke_u64(&e.writer, 0)
    zsw_unlock(&e.writing)
    tell_landing(e)


cdef bint in_flight(zsw_engine *e, const zsw_area *area, uint64_t offset) noexcept nogil:
    """Whether one of the flights of this thread, which is the writer, has this page."""
    cdef zsw_writeback *wb = e.writeback
    return wb != NULL and (flight_has(&wb.flights[0], area, offset)
                           or flight_has(&wb.flights[1], area, offset))


cdef int begin_transit(zsw_engine *e, zsw_worker *w, zsw_area *area, uint64_t offset,
                       zsw_shard **shard, const zsw_held *only) noexcept nogil:
    """Puts IN_TRANSIT where the page was and frees what was there; others wait from here on.
    Unless `only` is NULL, that must be there."""
    cdef uint32_t *slot
    cdef uint32_t pos, old
    cdef int rc = lock_slot(e, area, offset, only, shard, &slot, &pos)
    if rc < 0:
        return rc
    old = slot[0]
    slot[0] = IN_TRANSIT
    change_slot(e, shard[0], old, 0)
    set_clean(&e.index, pos, False)
    zsw_unlock(&shard[0].lock)
    if is_entry(old):
        put_entry(e, w, old)
    elif is_backed(old):
        count(w.counters, Counter.backed_pages, -1)
    return Status.STORED


cdef int end_transit(zsw_engine *e, zsw_worker *w, zsw_area *area, zsw_shard *shard,
                     uint64_t offset, uint32_t sum, int rc) noexcept nogil:
    """The page in transit was written, or not: its slot says so."""
    cdef uint32_t *slot
    cdef uint32_t pos
    if rc == 0:
        count(w.counters, Counter.written_through_pages, 1)
        count(w.counters, Counter.backed_pages, 1)
    else:
        w.error = w.error or rc
        count(w.counters, Counter.backing_write_fail, 1)
        area.backing.discard(area.store, &offset, 1)        # half a page, or one from before
    zsw_lock(&shard.lock)
    slot = shard_find(&e.index, shard, offset & (SHARD_PAGES - 1), &pos)
    if rc == 0:
        shard.writes += 1
        slot[0] = backed(shard.writes)
        change_slot(e, shard, 0, slot[0])
        if e.index.checksums:
            sum_at(&e.index, pos)[0] = sum
        if zsw_unlikely(shard.variable):
            set_value_length(&e.index, pos, w.size)
    else:
        shard_erase(&e.index, shard, offset & (SHARD_PAGES - 1))
    zsw_unlock(&shard.lock)
    return Status.WRITTEN_THROUGH if rc == 0 else Status.BACKING_FAIL


cdef int write_through(zsw_engine *e, zsw_worker *w, zsw_area *area, uint64_t offset,
                       const uint8_t *page, const zsw_held *only) noexcept nogil:
    """Writes a refused page to the area's backing store.  When that fails nothing is held at
    `offset`."""
    cdef zsw_shard *shard
    cdef uint32_t sum = checksum_of(&e.checksum, page, e.page_size)
    cdef int status, rc
    cdef bint first, lost
    first = writing_begin(e)
    # In a callback from the very flight that has this offset, our page cannot be made to land
    # later than that one.
    lost = not first and in_flight(e, area, offset)
    # No memory for the slot: there is none, so nothing is held.  Area gone: swapoff frees what is
    # there.
    status = begin_transit(e, w, area, offset, &shard, only)
    if status >= 0:
        rc = -EDEADLK if lost else write_to(area, &offset, page, 1)
        if not lost:
            note_answer(e, &area.write_error, rc)
        status = end_transit(e, w, area, shard, offset, sum, rc)
    if first:
        writing_end(e)
    return status


cdef void write_through_many(zsw_engine *e, zsw_worker *w, zsw_area *area, uint64_t *offsets,
                             uint8_t *pages, uint32_t n, int *statuses) noexcept nogil:
    """As write_through for each of at most RUN_PAGES pages, in ascending order, with one write.
    `offsets` and `pages` are ours to change."""
    cdef zsw_shard *shards[RUN_PAGES]
    cdef uint32_t sums[RUN_PAGES]
    cdef uint32_t of[RUN_PAGES]
    cdef uint8_t *page
    cdef uint32_t i, m = 0
    cdef int rc = 0, whole
    if n == 1 or not writing_begin(e):              # in a callback each is looked at by itself
        for i in range(n):
            statuses[i] = write_through(e, w, area, offsets[i], pages + <size_t> i * e.page_size,
                                        NULL)
        return
    for i in range(n):
        statuses[i] = begin_transit(e, w, area, offsets[i], &shards[m], NULL)
        if statuses[i] < 0:
            continue
        page = pages + <size_t> m * e.page_size
        if m != i:
            offsets[m] = offsets[i]
            memcpy(page, pages + <size_t> i * e.page_size, e.page_size)
        sums[m] = checksum_of(&e.checksum, page, e.page_size)
        of[m] = i
        m += 1
    if m:
        rc = write_to(area, offsets, pages, m)
        if rc == 0:
            note_answer(e, &area.write_error, 0)
    whole = rc
    for i in range(m):
        if whole != 0:                              # the store may yet take some of them
            rc = write_to(area, offsets + i, pages + <size_t> i * e.page_size, 1)
            note_answer(e, &area.write_error, rc)
        statuses[of[i]] = end_transit(e, w, area, shards[i], offsets[i], sums[i], rc)
    writing_end(e)


cdef int read_backed(zsw_engine *e, zsw_worker *w, zsw_area *area, zsw_shard *shard,
                     uint64_t offset, uint32_t seen, uint8_t *page, bint take) noexcept nogil:
    """Reads a page whose slot said `seen`.  AGAIN: it changed meanwhile.  With `take` the store has
    it no more."""
    cdef int rc = fault(Site.BACKING_READ)
    cdef uint32_t *slot
    cdef uint32_t pos
    cdef uint32_t sum = 0
    cdef bint still, damaged, lost
    if rc == 0:
        rc = area.backing.read_pages(area.store, &offset, page, 1)
    lost = rc == -EBADMSG                       # of the page, not of the store
    note_answer(e, &area.read_error, 0 if lost else rc)
    if rc == 0:
        sum = checksum_of(&e.checksum, page, e.page_size)
    zsw_lock(&shard.lock)
    slot = shard_find(&e.index, shard, offset & (SHARD_PAGES - 1), &pos)
    still = slot != NULL and slot[0] == seen
    damaged = still and rc == 0 and e.index.checksums and sum_at(&e.index, pos)[0] != sum
    damaged = damaged or still and lost
    if still and zsw_unlikely(shard.variable):
        w.size = value_length(&e.index, pos)
    if still and take and rc == 0 and not damaged:
        change_slot(e, shard, seen, 0)
        slot[0] = IN_TRANSIT
    zsw_unlock(&shard.lock)
    if rc != 0 and not lost:
        w.error = w.error or rc
        count(w.counters, Counter.backing_read_fail, 1)
    if not still:
        return AGAIN
    if damaged:
        count(w.counters, Counter.backing_checksum_fail, 1)
        return Status.BACKING_CORRUPT
    if rc != 0:
        return Status.BACKING_FAIL
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


cdef bint erase_entry(zsw_engine *e, zsw_worker *w, uint32_t id) noexcept nogil:
    """Erases an entry, of which the caller has a reference, from the index and the LRU, and has the
    store forget a copy of its page; False when it was not there any more."""
    cdef zsw_shard *shard
    cdef uint32_t where, pos = zsw_peek_u32(&entry_at(e, id).pos)
    cdef uint64_t offset
    cdef uint32_t *slot = lock_entry(e, id, pos, &shard, &where)
    cdef bint clean
    if slot == NULL:
        return False
    change_slot(e, shard, id, 0)
    clean = is_clean(&e.index, pos)
    if clean:
        slot[0] = IN_TRANSIT
        set_clean(&e.index, pos, False)
        count(w.counters, Counter.backed_pages, 1)
    else:
        shard_erase(&e.index, shard, where)
    zsw_unlock(&shard.lock)
    put_entry(e, w, id)
    if clean:
        offset = shard.number << SHARD_SHIFT | where
        discard_backed(e, w, area_at(e, shard.type), shard, &offset, 1)
    return True
