"""Recall: what the backing store has of a range becomes resident again, before it is asked for.

Pages are read together, as those of a batch, and promoted as if each had been loaded often: the
store keeps them, and below the limit alone.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from zswap_core.checksum cimport checksum_of
from zswap_core.entry cimport is_backed
from zswap_core.index cimport (
    area_shard, RUN_PAGES, shard_collect, SHARD_PAGES, SHARD_SHIFT, zsw_area, zsw_shard,
)
from zswap_core.lookup cimport find_area
from zswap_core.os cimport zsw_lock, zsw_peek_i64, zsw_unlock
from zswap_core.parking cimport (
    park, parked_page, parked_status, parking_end, parking_init, read_parked, zsw_parked,
    zsw_parking,
)
from zswap_core.promote cimport promote
from zswap_core.state cimport zsw_engine, zsw_worker
from zswap_core.stats cimport count, Counter
from zswap_core.status cimport Status
from zswap_core.walk cimport engine_next_held


cdef void park_range(zsw_engine *e, zsw_parking *parking, uint32_t type, uint64_t *first,
                     uint64_t last) noexcept nogil:
    """Parks what the store has of first..last, as far as there is room and one shard goes, and goes
    on with `first` behind it."""
    cdef uint32_t where[RUN_PAGES]
    cdef uint32_t ids[RUN_PAGES]
    cdef zsw_area *area = find_area(e, type, first[0])
    cdef zsw_shard *shard = NULL
    cdef uint64_t base = first[0] & ~(<uint64_t> SHARD_PAGES - 1)
    cdef uint32_t got = 1, end = SHARD_PAGES - 1, i
    if area != NULL:
        shard = area_shard(&e.index, area, first[0] >> SHARD_SHIFT)
    if last - base < SHARD_PAGES:
        end = <uint32_t> (last - base)
    if area == NULL or area.backing == NULL:
        first[0] = last + 1
        return
    while shard != NULL and got and parking.count < parking.most:
        if first[0] > base + end:
            return
        zsw_lock(&shard.lock)
        got = shard_collect(&e.index, shard, <uint32_t> (first[0] - base), end, where, ids,
                            min(parking.most - parking.count, <uint32_t> RUN_PAGES))
        for i in range(got):
            if is_backed(ids[i]):
                park(parking, area, shard, base + where[i], 0, ids[i])
        zsw_unlock(&shard.lock)
        if got:
            first[0] = base + where[got - 1] + 1
    if shard == NULL or got == 0:
        first[0] = base + end + 1


cdef bint is_sound(zsw_engine *e, const zsw_parking *parking,
                   const zsw_parked *parked) noexcept nogil:
    """Whether what was read is the page that the slot said, and says, it is."""
    cdef uint32_t sum = checksum_of(&e.checksum, parked_page(e, parking, parked), e.page_size)
    cdef int status
    zsw_lock(&parked.shard.lock)
    status = parked_status(e, parked, sum)
    zsw_unlock(&parked.shard.lock)
    return status == Status.STORED


cdef uint64_t recall_some(zsw_engine *e, zsw_worker *w, zsw_parking *parking) noexcept nogil:
    """Reads what is parked; returns how many pages stay.  What cannot be read is left alone: who
    loads it will be told."""
    cdef const int64_t *promoted = &w.counters[<int> Counter.promoted_pages]
    cdef int64_t before = zsw_peek_i64(promoted)
    cdef zsw_parked *parked
    cdef uint32_t i
    if parking.count == 0 or read_parked(e, parking) != 0:
        return 0
    count(w.counters, Counter.read_ahead_pages, parking.count)
    for i in range(parking.count):
        parked = &parking.pages[i]
        if is_sound(e, parking, parked):
            promote(e, w, parking.area, parked.shard, parked.offset, parked.seen,
                    parked_page(e, parking, parked))
    return <uint64_t> (zsw_peek_i64(promoted) - before)


cdef uint64_t engine_recall(zsw_engine *e, zsw_worker *w, uint64_t pages, uint32_t type,
                            uint64_t *first, uint64_t last) noexcept nogil:
    """Makes resident what the backing store has of first..last (inclusive), about so many pages at
    most, and returns how many.  `first` goes on behind what was looked at; the pool is full, or
    nothing can be read, where pages were and none stays: then it goes to the end."""
    cdef zsw_parking parking
    cdef uint64_t done = 0, stayed
    parking_init(e, &parking)
    while done < pages and engine_next_held(e, type, first) and first[0] <= last:
        parking.count = 0
        park_range(e, &parking, type, first, last)
        if parking.count == 0:
            continue
        stayed = recall_some(e, w, &parking)
        done += stayed
        if stayed == 0:
            first[0] = last + 1
    if done < pages:
        first[0] = last + 1
    parking_end(e, &parking)
    return done
