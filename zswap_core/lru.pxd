"""The LRU: in which order pages came, without a list and without a lock.

Time is counted in ticks, which pass as pages come: at least one for each 4096th of them, so that
up to some thousand pages each has its own.  A page that joins gets the time as its stamp, which
lies beside its entry (see slab_beside); a page that leaves has none.  So joining and leaving are
one store each.  Stamps are compared modulo 2^15 ticks.  That none gets so old is seen to by a
sweep, of which each tick does a little: what is older than LRU_OLDEST is made as old as that.

Who wants the oldest searches for them: one look over all stamps says from which age on they are the
oldest thousand, or the oldest 64th where those are more; then the search goes over the stamps once
more, takes the next thousand that are as old, and hands them out, oldest first.  Nobody waits for
it, and whatever joins meanwhile is younger.  One search at a time is its owner's business.  Who
wants the oldest of some of the pages shows each of those to a search of its own (lru_offer).
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from zswap_core.os cimport zsw_peek_u32, zsw_peek_u64, zsw_store_u16
from zswap_core.slab cimport slab_beside, zsw_slab


cdef enum:
    LRU_LISTED = 0x8000         # of a stamp: it is one
    LRU_TIME = 0x7fff           # of a stamp: the tick
    LRU_OLDEST = 16000
    LRU_ROUND = 8192            # ticks, in which the sweep comes round
    # no stamp is so old, whatever sweeps late
    LRU_AGE_MAX = 28000
    LRU_TICKS_SHIFT = 12        # while as many pages come as there are, so many pass (log2)
    LRU_FOUND = 1024


cdef struct zsw_lru:
    uint8_t ahead[64]           # its own cache line
    uint32_t tick
    uint32_t swept              # up to this id
    uint8_t behind[56]


cdef struct zsw_search:
    uint32_t since              # pages are looked for that came at this tick or before
    uint32_t idle               # and were not accessed for so many seconds, see entry_age
    uint32_t hand               # from this id on; 0: it is over
    uint32_t vain               # looks without any that was of use; who has one says so by 0
    uint32_t tick               # when those were found
    uint32_t count
    uint32_t next
    # what was found, oldest first: LRU_TIME - age << 32 | id
    uint64_t found[LRU_FOUND]


cdef inline uint16_t *lru_stamp(const zsw_slab *entries, uint32_t id) noexcept nogil:
    return <uint16_t *> slab_beside(entries, id)


cdef inline uint16_t stamp_at(uint32_t tick) noexcept nogil:
    return <uint16_t> (LRU_LISTED | tick & LRU_TIME)


cdef inline uint32_t stamp_age(uint16_t stamp, uint32_t tick) noexcept nogil:
    """Ticks since the page joined: 0 also where that came after `tick` was read."""
    cdef uint32_t age = tick - stamp & LRU_TIME
    return age if age <= LRU_AGE_MAX else 0


cdef uint32_t lru_tick(zsw_lru *lru, const zsw_slab *entries) noexcept nogil
cdef bint lru_next(zsw_lru *lru, const zsw_slab *entries, zsw_search *search, uint64_t now,
                   uint32_t idle, uint32_t *id, uint16_t *stamp) noexcept nogil
cdef bint lru_renew(zsw_lru *lru, const zsw_slab *entries, uint32_t id,
                    uint16_t stamp) noexcept nogil


cdef void lru_offer(const zsw_lru *lru, const zsw_slab *entries, zsw_search *search,
                    uint32_t id) noexcept nogil
cdef void lru_offered(zsw_search *search) noexcept nogil


cdef inline bint lru_since(const zsw_lru *lru, uint16_t stamp, uint32_t tick) noexcept nogil:
    """Whether the page joined at that tick or later."""
    cdef uint32_t now = zsw_peek_u32(&lru.tick)
    return stamp_age(stamp, now) <= now - tick


cdef inline void lru_pass(zsw_lru *lru, const zsw_slab *entries, uint32_t *left) noexcept nogil:
    """Time passes, as a page is about to join; `left` is the caller's own, and 0 at first."""
    if left[0] == 0:
        lru_tick(lru, entries)
        left[0] = 1 + <uint32_t> (zsw_peek_u64(&entries.inuse) >> LRU_TICKS_SHIFT)
    left[0] -= 1


cdef inline void lru_join(const zsw_lru *lru, const zsw_slab *entries, uint32_t id) noexcept nogil:
    zsw_store_u16(lru_stamp(entries, id), stamp_at(zsw_peek_u32(&lru.tick)))


cdef inline void lru_leave(const zsw_slab *entries, uint32_t id) noexcept nogil:
    zsw_store_u16(lru_stamp(entries, id), 0)
