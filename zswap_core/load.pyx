"""Load: take a reference under the shard's lock, decompress after letting go of it."""
from libc.stdint cimport int8_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from zswap_core.ahead cimport AHEAD_FROM, look_ahead
from zswap_core.checksum cimport checksum_of
from zswap_core.entries cimport entry_at, find_entry, put_entry
from zswap_core.entry cimport (
    entry_get, entry_same, entry_touch, IN_TRANSIT, is_backed, is_entry, word_length, zsw_entry,
)
from zswap_core.fault cimport fault, Site
from zswap_core.index cimport (
    area_shard, is_clean, shard_erase, shard_find, SHARD_PAGES, SHARD_SHIFT, value_length, zsw_area,
    zsw_shard,
)
from zswap_core.lookup cimport find_area
from zswap_core.objects cimport check_sum, entry_sum, read_object
from zswap_core.os cimport (
    zsw_likely, zsw_lock, zsw_map_as, zsw_now_ns, zsw_peek_u64, zsw_sleep_ns, zsw_unlikely,
    zsw_unlock, zsw_unmap, zsw_wipe,
)
from zswap_core.params cimport Flag, is_on
from zswap_core.parking cimport (
    park, parked_page, parked_status, read_parked, zsw_parked, zsw_parking,
)
from zswap_core.promote cimport promote, promotes
from zswap_core.samefilled cimport same_fill
from zswap_core.slots cimport change_slot, TRANSIT_NS, zsw_held
from zswap_core.state cimport zsw_engine, zsw_worker
from zswap_core.stats cimport count, Counter
from zswap_core.status cimport Status
from zswap_core.streams cimport stream_load
from zswap_core.transit cimport AGAIN, erase_entry, read_backed, writing_begin, writing_end


cdef int engine_load(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset, uint8_t *page,
                     uint32_t how) noexcept nogil:
    """Fills `page`; returns its Status.  When that is negative the content of `page` is undefined.
    `how` is LOAD_ flags."""
    return load_page(e, w, type, offset, page, how | LOAD_TAKE
                     if is_on(&e.params, Flag.exclusive_loads) else how)


cdef int engine_take(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset, uint8_t *page,
                     uint32_t how) noexcept nogil:
    """A load and an invalidation in one: of several calls one gets the page."""
    cdef int status = load_page(e, w, type, offset, page, how | LOAD_TAKE)
    count(w.counters, Counter.invalidates, status >= 0)
    return status


cdef int load_page(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset, uint8_t *page,
                   uint32_t how) noexcept nogil:
    """As engine_load, whatever `exclusive_loads` says."""
    cdef zsw_area *area = find_area(e, type, offset)
    cdef zsw_shard *shard = NULL
    cdef uint32_t id
    cdef int status, tries = 0
    if area != NULL:
        shard = area_shard(&e.index, area, offset >> SHARD_SHIFT)
    while shard != NULL:
        zsw_lock(&shard.lock)
        id = find_entry(e, shard, offset)
        if id == 0:
            zsw_unlock(&shard.lock)
            break
        if zsw_unlikely(not is_entry(id)):
            # Overtaken often, it keeps writers away and reads again.  Each of these unlocks.
            tries += 1
            if tries < OPTIMISTIC_READS or how & LOAD_NO_WAIT:
                status = load_backed(e, w, area, shard, offset, id, page, how)
            else:
                zsw_unlock(&shard.lock)
                status = load_backed_alone(e, w, area, shard, offset, page, how)
        else:
            status = load_entry(e, w, shard, offset, id, page, how)         # unlocks
        if zsw_likely(status >= 0):
            count(w.counters, Counter.loads, 1)
            return status
        if status != AGAIN:
            return status
    count(w.counters, Counter.load_misses, 1)
    if not how & LOAD_ZEROS:
        return Status.ABSENT
    if area == NULL:
        return Status.NO_AREA
    memset(page, 0, e.page_size)
    w.size = e.page_size
    return Status.SAME_FILLED


cdef bint hold_entry(zsw_engine *e, zsw_worker *w, const zsw_shard *shard, uint32_t id,
                     zsw_held *held) noexcept nogil:
    """Takes what reading the entry's page needs, and a reference unless the page is same-filled.
    False when all references are out.  Under the shard's lock."""
    cdef zsw_entry *entry = entry_at(e, id)
    held.id = id
    held.word = entry.word
    held.sum = entry_sum(e, entry)
    held.same = entry_same(entry)
    if zsw_unlikely(shard.variable):
        held.size = w.size = value_length(&e.index, entry.pos)
    if held.same:
        entry_touch(entry, w.now)
        return True
    return entry_get(entry, w.now)


cdef int read_entry(zsw_engine *e, zsw_worker *w, const zsw_held *held,
                    uint8_t *page) noexcept nogil:
    """Reads the page of an entry that was held."""
    if not held.same:
        return read_object(e, w, held.word, held.sum, page)
    if zsw_unlikely(check_sum(e, w, &held.word, sizeof(held.word), held.sum) < 0):
        return Status.CORRUPT
    same_fill(page, e.page_size, held.word)
    return Status.SAME_FILLED


cdef int read_held(zsw_engine *e, zsw_worker *w, const zsw_held *held, uint8_t *page,
                   bint take) noexcept nogil:
    """Reads the page and drops the reference.  AGAIN: it was to be taken, but another page
    is held there by now."""
    cdef int status = read_entry(e, w, held, page)
    # Still with our reference, so that the id cannot have come to name another entry.
    if status >= 0 and zsw_unlikely(take) and not erase_entry(e, w, held.id):
        status = AGAIN
    if not held.same:
        put_entry(e, w, held.id)
    return status


cdef int take_same_filled(zsw_engine *e, zsw_worker *w, zsw_shard *shard, uint64_t offset,
                          const zsw_held *held, uint8_t *page) noexcept nogil:
    """Nobody has references to a same-filled entry, and another store changes it where it is: so it
    is taken under the lock that it was found under."""
    cdef int status = check_sum(e, w, &held.word, sizeof(held.word), held.sum)
    if status >= 0:
        change_slot(e, shard, held.id, 0)
        shard_erase(&e.index, shard, offset & (SHARD_PAGES - 1))
    zsw_unlock(&shard.lock)
    if status >= 0:
        put_entry(e, w, held.id)
        same_fill(page, e.page_size, held.word)
    return status


cdef int load_entry(zsw_engine *e, zsw_worker *w, zsw_shard *shard, uint64_t offset, uint32_t id,
                    uint8_t *page, uint32_t how) noexcept nogil:
    """Reads the entry's page.  Called with the shard locked, returns with it unlocked."""
    cdef zsw_held held
    cdef bint taken
    if (zsw_unlikely(how & LOAD_TAKE) and how & LOAD_NO_WAIT
            and is_clean(&e.index, entry_at(e, id).pos)):
        zsw_unlock(&shard.lock)                 # the backing store must forget it
        return Status.WOULD_BLOCK
    taken = hold_entry(e, w, shard, id, &held)
    if zsw_unlikely(how & LOAD_TAKE) and held.same:
        return take_same_filled(e, w, shard, offset, &held, page)
    zsw_unlock(&shard.lock)
    if zsw_likely(taken):
        return read_held(e, w, &held, page, how & LOAD_TAKE)
    if how & LOAD_NO_WAIT:                  # over 250 threads are reading this very page
        return Status.WOULD_BLOCK
    zsw_sleep_ns(TRANSIT_NS)
    return AGAIN


cdef int load_backed(zsw_engine *e, zsw_worker *w, zsw_area *area, zsw_shard *shard,
                     uint64_t offset, uint32_t id, uint8_t *page, uint32_t how) noexcept nogil:
    """Reads the page from the area's backing store.  Called with the shard locked, returns with it
    unlocked."""
    zsw_unlock(&shard.lock)
    if (id != IN_TRANSIT and not how & (LOAD_TAKE | LOAD_ALONE)
            and stream_load(e, w, area, shard, offset, id, page, not how & LOAD_NO_WAIT)):
        return Status.STORED
    if how & LOAD_NO_WAIT:
        return Status.WOULD_BLOCK
    if id == IN_TRANSIT:
        zsw_sleep_ns(TRANSIT_NS)
        return AGAIN
    if not how & LOAD_TAKE and promotes(e, area, offset):
        return read_to_stay(e, w, area, shard, offset, id, page)
    return read_backed(e, w, area, shard, offset, id, page, how & LOAD_TAKE)


cdef int read_to_stay(zsw_engine *e, zsw_worker *w, zsw_area *area, zsw_shard *shard,
                      uint64_t offset, uint32_t id, uint8_t *page) noexcept nogil:
    """As read_backed, and the page becomes resident: made of memory of ours, for the caller may
    change his."""
    cdef uint8_t *memory = NULL
    cdef int status
    if fault(Site.SCRATCH) == 0:
        memory = <uint8_t *> zsw_map_as(e.page_size, e.params.mapping)
    if memory == NULL:
        return read_backed(e, w, area, shard, offset, id, page, False)
    status = read_backed(e, w, area, shard, offset, id, memory, False)
    if status >= 0:
        promote(e, w, area, shard, offset, id, memory)
        memcpy(page, memory, e.page_size)
    if zsw_unlikely(e.params.wipe_on_free):
        zsw_wipe(memory, e.page_size)
    zsw_unmap(memory, e.page_size)
    return status


cdef int load_backed_alone(zsw_engine *e, zsw_worker *w, zsw_area *area, zsw_shard *shard,
                           uint64_t offset, uint8_t *page, uint32_t how) noexcept nogil:
    cdef bint first = writing_begin(e)
    cdef uint32_t id
    cdef int status = AGAIN
    zsw_lock(&shard.lock)
    id = find_entry(e, shard, offset)
    if is_backed(id) or id == IN_TRANSIT:
        status = load_backed(e, w, area, shard, offset, id, page, how)
    else:
        zsw_unlock(&shard.lock)
    if first:
        writing_end(e)
    return status


cdef uint32_t hold_entries(zsw_engine *e, zsw_worker *w, uint32_t type, const uint64_t *offsets,
                           uint32_t pages, zsw_held *held, zsw_parking *parking,
                           uint64_t at) noexcept nogil:
    """Takes the first of the pages, as many as lie in one shard with their entries or nothing, or
    can be parked; returns how many.  The first is number `at` of the batch."""
    cdef zsw_area *area = find_area(e, type, offsets[0])
    cdef uint64_t number = offsets[0] >> SHARD_SHIFT
    cdef zsw_shard *shard = area_shard(&e.index, area, number) if area != NULL else NULL
    cdef uint32_t id, taken = 0
    if shard == NULL:
        return 0
    zsw_lock(&shard.lock)
    while taken < pages and offsets[taken] >> SHARD_SHIFT == number:
        id = find_entry(e, shard, offsets[taken])
        held[taken].id = id
        if zsw_unlikely(not is_entry(id)):
            if id != 0 and (not is_backed(id) or not park(parking, area, shard, offsets[taken],
                                                          at + taken, id)):
                break
        elif zsw_unlikely(not hold_entry(e, w, shard, id, &held[taken])):
            break
        taken += 1
    zsw_unlock(&shard.lock)
    return taken


cdef uint64_t share(uint64_t *took, uint32_t pages, uint64_t since) noexcept nogil:
    """Adds to each page an equal share of the time since then; returns the time now."""
    cdef uint64_t now = zsw_now_ns()
    cdef uint32_t i
    for i in range(pages):
        took[i] += (now - since) // pages
    return now


cdef void engine_load_together(zsw_engine *e, zsw_worker *w, uint32_t type, const uint64_t *offsets,
                               uint32_t pages, uint8_t *out, int8_t *status, uint64_t *took,
                               zsw_parking *parking, uint64_t first) noexcept nogil:
    """As engine_load for each of at most LOADS_TOGETHER pages, of which the first is number `first`
    of the batch; those that can be parked are, and WOULD_BLOCK.  `took`, unless it is NULL, gets
    the nanoseconds of each; what is done for several at once they share."""
    cdef zsw_held held[LOADS_TOGETHER]
    cdef uint64_t at = 0
    cdef uint32_t i = 0, k, taken
    if took != NULL:
        memset(took, 0, pages * sizeof(uint64_t))
        at = zsw_now_ns()
    if zsw_peek_u64(&e.entries.inuse) >= AHEAD_FROM:
        look_ahead(e, type, offsets, pages, False)
        if took != NULL:
            at = share(took, pages, at)
    while i < pages:
        # An exclusive load is over before the next begins, which may be of the same page.
        taken = (0 if zsw_unlikely(is_on(&e.params, Flag.exclusive_loads))
                 else hold_entries(e, w, type, offsets + i, pages - i, held, parking, first + i))
        if zsw_unlikely(taken == 0):
            status[i] = <int8_t> engine_load(
                e, w, type, offsets[i], out + <size_t> i * e.page_size, LOAD_ALONE)
            i += 1
            if took != NULL:
                at = share(&took[i - 1], 1, at)
        elif took != NULL:
            at = share(&took[i], taken, at)
        for k in range(taken):
            if held[k].id == 0:
                status[i] = Status.ABSENT
                count(w.counters, Counter.load_misses, 1)
            elif zsw_unlikely(not is_entry(held[k].id)):
                status[i] = Status.WOULD_BLOCK
            else:
                status[i] = <int8_t> read_held(
                    e, w, &held[k], out + <size_t> i * e.page_size, False)
                count(w.counters, Counter.loads, status[i] >= 0)
            if took != NULL:
                at = share(&took[i], 1, at)
            i += 1


# ---- pages of a batch that the backing store has ------------------------------------------------


cdef uint32_t settle(zsw_engine *e, zsw_worker *w, zsw_parking *parking, uint32_t i,
                     uint8_t *out, int8_t *status) noexcept nogil:
    """Hands over the pages that were read, from number i on, of one shard; those that changed
    meanwhile stay WOULD_BLOCK.  Returns how many it looked at."""
    cdef uint32_t sums[LOADS_TOGETHER]
    cdef zsw_parked *parked = &parking.pages[i]
    cdef zsw_shard *shard = parked.shard
    cdef uint32_t n = 0, k
    while n < LOADS_TOGETHER and i + n < parking.count and parked[n].shard == shard:
        sums[n] = checksum_of(&e.checksum, parked_page(e, parking, &parked[n]), e.page_size)
        n += 1
    zsw_lock(&shard.lock)
    for k in range(n):
        status[parked[k].at] = <int8_t> parked_status(e, &parked[k], sums[k])
    zsw_unlock(&shard.lock)
    for k in range(n):              # no lock may be held while the caller's memory is touched
        if status[parked[k].at] == Status.STORED:
            memcpy(out + parked[k].at * e.page_size, parked_page(e, parking, &parked[k]),
                   e.page_size)
            count(w.counters, Counter.backing_loads, 1)
            count(w.counters, Counter.loads, 1)
            if ((k == 0 or parked[k].read != parked[k - 1].read)
                    and promotes(e, parking.area, parked[k].offset)):
                promote(e, w, parking.area, shard, parked[k].offset, parked[k].seen,
                        parked_page(e, parking, &parked[k]))
        elif status[parked[k].at] == Status.BACKING_CORRUPT:
            count(w.counters, Counter.backing_checksum_fail, 1)
    return n


cdef void load_parked(zsw_engine *e, zsw_worker *w, zsw_parking *parking, uint8_t *out,
                      int8_t *status) noexcept nogil:
    """Reads the parked pages together.  Those of which nothing came stay WOULD_BLOCK: each must be
    loaded by itself, which tells what is the matter with it."""
    cdef uint32_t i = 0
    if parking.count > 1 and read_parked(e, parking) == 0:
        while i < parking.count:
            i += settle(e, w, parking, i, out, status)


cdef bint engine_contains(zsw_engine *e, uint32_t type, uint64_t offset) noexcept nogil:
    return engine_length(e, type, offset) != -1


cdef int64_t engine_value_length(zsw_engine *e, uint32_t type, uint64_t offset) noexcept nogil:
    """Bytes of the value at `offset`, wherever it is; of a page the page's; -1 when absent."""
    cdef zsw_area *area = find_area(e, type, offset)
    cdef zsw_shard *shard = area_shard(&e.index, area,
                                       offset >> SHARD_SHIFT) if area != NULL else NULL
    cdef uint32_t *slot
    cdef uint32_t pos, id
    cdef int64_t length
    while shard != NULL:                        # until no call has it in transit
        zsw_lock(&shard.lock)
        slot = shard_find(&e.index, shard, offset & (SHARD_PAGES - 1), &pos)
        id = slot[0] if slot != NULL else 0
        length = value_length(&e.index, pos) if id != 0 and shard.variable else e.page_size
        zsw_unlock(&shard.lock)
        if id != IN_TRANSIT:
            return length if id != 0 else -1
        zsw_sleep_ns(TRANSIT_NS)
    return -1


cdef int64_t engine_length(zsw_engine *e, uint32_t type, uint64_t offset) noexcept nogil:
    """Bytes that the page at `offset` was compressed to: 0 when same-filled, the page size when
    raw, -1 when absent, LENGTH_BACKED when it is in the backing store."""
    cdef zsw_area *area = find_area(e, type, offset)
    cdef zsw_shard *shard = area_shard(&e.index, area,
                                       offset >> SHARD_SHIFT) if area != NULL else NULL
    cdef zsw_entry *entry
    cdef uint32_t id
    cdef int64_t length = -1
    if shard != NULL:
        zsw_lock(&shard.lock)
        id = find_entry(e, shard, offset)
        if is_entry(id):
            entry = entry_at(e, id)
            length = 0 if entry_same(entry) else word_length(entry.word)
        elif id:
            length = LENGTH_BACKED
        zsw_unlock(&shard.lock)
    return length
