"""The LRU; what it is and how it works is said in lru.pxd."""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memset

from zswap_core.entry cimport entry_age, zsw_entry
from zswap_core.os cimport (
    zsw_add_u32, zsw_cas_u16, zsw_cas_u32, zsw_peek_u16, zsw_peek_u32, zsw_peek_u64,
)
from zswap_core.slab cimport slab_at, slab_limit, zsw_slab


cdef enum:
    SHARE_SHIFT = 6             # a search looks for this share of all pages (log2), or LRU_FOUND
    FINE_SHIFT = 6              # ages are counted first in groups of so many ticks (log2),
    FINE = 1 << FINE_SHIFT          # then one by one in one of the groups
    COARSE = (LRU_TIME + 1) >> FINE_SHIFT
    LANES = 4                   # stamps in a word

cdef uint64_t ANY_LISTED = <uint64_t> 0x8000800080008000


cdef inline uint64_t stamps_at(const zsw_slab *entries, uint32_t id) noexcept nogil:
    """Those of LANES entries at once, of which `id` is the first."""
    return zsw_peek_u64(<const uint64_t *> lru_stamp(entries, id))


cdef inline void make_younger(zsw_lru *lru, uint16_t *stamp) noexcept nogil:
    cdef uint16_t old = zsw_peek_u16(stamp)
    cdef uint32_t tick = zsw_peek_u32(&lru.tick)        # of now: we may have been kept waiting
    if old & LRU_LISTED and stamp_age(old, tick) > LRU_OLDEST:
        # who leaves or joins at this moment wins
        zsw_cas_u16(stamp, old, stamp_at(tick - LRU_OLDEST))


cdef void sweep(zsw_lru *lru, const zsw_slab *entries) noexcept nogil:
    """The next entries' stamps, as many as must be looked at in LANES ticks."""
    cdef uint32_t limit = slab_limit(entries), first, end, id
    cdef uint32_t step = (limit // (LRU_ROUND // LANES) + LANES) & ~<uint32_t> (LANES - 1)
    if limit == 0:
        return
    while True:
        first = zsw_peek_u32(&lru.swept)
        end = first + step
        if zsw_cas_u32(&lru.swept, first, end if end < limit else 0):
            break
    end = min(end, limit)
    while first < end:
        if stamps_at(entries, first) & ANY_LISTED:
            for id in range(first, first + LANES):
                make_younger(lru, lru_stamp(entries, id))
        first += LANES


cdef uint32_t lru_tick(zsw_lru *lru, const zsw_slab *entries) noexcept nogil:
    """The next tick begins."""
    cdef uint32_t tick = zsw_add_u32(&lru.tick, 1)
    if tick % LANES == 0:
        sweep(lru, entries)
    return tick


cdef inline bint wanted(const zsw_slab *entries, uint32_t id, uint16_t stamp, uint64_t now,
                        uint32_t idle) noexcept nogil:
    return stamp & LRU_LISTED and (
        idle == 0 or entry_age(<zsw_entry *> slab_at(entries, id), now) >= idle)


cdef void count_ages(const zsw_slab *entries, uint32_t tick, uint64_t now, uint32_t idle,
                     uint32_t shift, uint32_t first, uint32_t *counts, uint32_t n) noexcept nogil:
    """How many pages have each age, in groups of 1 << shift ticks, of which the n from `first` on
    count."""
    cdef uint32_t id = 0, lane, group, limit = slab_limit(entries)
    cdef uint64_t word
    memset(counts, 0, n * sizeof(uint32_t))
    while id < limit:
        word = stamps_at(entries, id)
        if word & ANY_LISTED:
            for lane in range(<uint32_t> LANES):
                if wanted(entries, id + lane, <uint16_t> word, now, idle):
                    group = (stamp_age(<uint16_t> word, tick) - first) >> shift
                    if group < n:
                        counts[group] += 1
                word >>= 16
        id += LANES


cdef uint32_t oldest_groups(const uint32_t *counts, uint32_t n, uint64_t target,
                            uint64_t *sum) noexcept nogil:
    """From the oldest group on, adds up as many as are no more than `target` with `sum`; returns
    the last of those."""
    while n > 0 and sum[0] + counts[n - 1] <= target:
        n -= 1
        sum[0] += counts[n]
    return n


cdef void look(zsw_lru *lru, const zsw_slab *entries, zsw_search *search, uint64_t now,
               uint32_t idle) noexcept nogil:
    """Says which are the oldest."""
    cdef uint32_t coarse[COARSE]
    cdef uint32_t fine[FINE]
    cdef uint32_t tick = zsw_peek_u32(&lru.tick), group, age, i
    cdef uint64_t total = 0, sum = 0, target
    search.idle = idle
    search.hand = search.count = search.next = 0
    count_ages(entries, tick, now, idle, FINE_SHIFT, 0, coarse, COARSE)
    for i in range(<uint32_t> COARSE):
        total += coarse[i]
    if total == 0:
        return
    target = max(total >> SHARE_SHIFT, <uint64_t> LRU_FOUND)
    if target > LRU_FOUND:              # else each look costs little, and the order is exact
        target <<= min(search.vain, <uint32_t> SHARE_SHIFT - 1)
    search.vain += 1
    group = oldest_groups(coarse, COARSE, target, &sum)
    age = group << FINE_SHIFT
    if group > 0:
        age -= FINE
        count_ages(entries, tick, now, idle, 0, age, fine, FINE)
        age += oldest_groups(fine, FINE, target, &sum)
        if sum == 0:
            age -= 1                    # more came in the oldest tick of all
    search.since = tick - age
    search.hand = 1


cdef int by_number(const void *a, const void *b) noexcept nogil:
    cdef uint64_t x = (<const uint64_t *> a)[0], y = (<const uint64_t *> b)[0]
    return (x > y) - (x < y)


cdef void gather(zsw_lru *lru, const zsw_slab *entries, zsw_search *search,
                 uint64_t now) noexcept nogil:
    """Goes on over the stamps until it has found enough, or the end.  No stamp is older than
    LRU_OLDEST and a round of the sweep; so when a search takes too long, it finds nothing more."""
    cdef uint32_t id = search.hand, limit = slab_limit(entries), age
    cdef uint32_t tick = zsw_peek_u32(&lru.tick), least = tick - search.since
    cdef uint16_t stamp
    search.tick = tick
    search.count = search.next = 0
    while id < limit and search.count < LRU_FOUND:
        if id % LANES == 0 and not stamps_at(entries, id) & ANY_LISTED:
            id += LANES
            continue
        stamp = zsw_peek_u16(lru_stamp(entries, id))
        age = stamp_age(stamp, tick)
        if age >= least and wanted(entries, id, stamp, now, search.idle):
            search.found[search.count] = <uint64_t> (LRU_TIME - age) << 32 | id
            search.count += 1
        id += 1
    search.hand = id if id < limit else 0
    qsort(search.found, search.count, sizeof(uint64_t), by_number)


cdef bint lru_next(zsw_lru *lru, const zsw_slab *entries, zsw_search *search, uint64_t now,
                   uint32_t idle, uint32_t *id, uint16_t *stamp) noexcept nogil:
    """The next oldest page, with its stamp; False when there is none.  It must leave, be renewed or
    be no longer idle, else the next search finds it again."""
    cdef uint64_t found
    cdef uint32_t tick
    cdef bint looked = False
    if search.idle != idle:
        search.hand = search.count = search.next = 0
    while True:
        while search.next < search.count:
            found = search.found[search.next]
            search.next += 1
            id[0] = <uint32_t> found
            stamp[0] = stamp_at(search.tick - (LRU_TIME - <uint32_t> (found >> 32)))
            tick = zsw_peek_u32(&lru.tick)
            # what joined while it was looked for may have seemed old
            if (zsw_peek_u16(lru_stamp(entries, id[0])) == stamp[0]
                    and stamp_age(stamp[0], tick) >= tick - search.since):
                return True
        if search.hand == 0:
            if looked:
                return False
            look(lru, entries, search, now, idle)
            looked = True
            if search.hand == 0:
                return False
        gather(lru, entries, search, now)


cdef void lru_offer(const zsw_lru *lru, const zsw_slab *entries, zsw_search *search,
                    uint32_t id) noexcept nogil:
    """Shows a page to a search that is not over all of them, which began by setting `count` to 0
    and `tick`: it keeps the oldest, in a heap of which the youngest comes first."""
    cdef uint16_t stamp = zsw_peek_u16(lru_stamp(entries, id))
    cdef uint64_t key = <uint64_t> (LRU_TIME - stamp_age(stamp, search.tick)) << 32 | id
    cdef uint64_t *heap = search.found
    cdef uint32_t at = search.count, other
    if not stamp & LRU_LISTED:
        return
    if at < LRU_FOUND:
        search.count += 1
        while at > 0 and heap[(at - 1) // 2] < key:
            heap[at] = heap[(at - 1) // 2]
            at = (at - 1) // 2
    elif key >= heap[0]:
        return
    else:
        at = 0
        while 2 * at + 1 < LRU_FOUND:
            other = 2 * at + 1
            if other + 1 < LRU_FOUND and heap[other + 1] > heap[other]:
                other += 1
            if heap[other] <= key:
                break
            heap[at] = heap[other]
            at = other
    heap[at] = key


cdef void lru_offered(zsw_search *search) noexcept nogil:
    """All have been shown: `found` has the oldest, in order."""
    search.next = 0
    qsort(search.found, search.count, sizeof(uint64_t), by_number)


cdef bint lru_renew(zsw_lru *lru, const zsw_slab *entries, uint32_t id,
                    uint16_t stamp) noexcept nogil:
    """The page becomes the youngest, if it still has this stamp."""
    return zsw_cas_u16(lru_stamp(entries, id), stamp, stamp_at(zsw_peek_u32(&lru.tick)))
