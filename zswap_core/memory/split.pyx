"""How the budget is divided between resident pages and the pool.

A page that is resident costs nothing, one in the pool some microseconds, one in the file ten times
that; but in place of one resident page the pool holds three or so.  Which is dearer depends on the
program, and a fixed division is up to sixty times slower than the right one.  So the faults say:

    away for a few epochs, in each of which a 16th of the room came: with as much more room the
    page would have been there;
    read from the file, and away for little longer than what is in the pool: had the pool as much
    more, the page would have been in it, but for those that had to give up their room.

Both are added up in nanoseconds, and from time to time a hundredth of the budget moves to where
more would have been saved.
"""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.memory.state cimport AWAY, away_for, kind_of, MISSED, zsw_memory, zsw_slot
from zswap_core.os cimport (
    zsw_add_u32, zsw_add_u64, zsw_peek_u32, zsw_peek_u64, zsw_poke_u32, zsw_poke_u64,
)
from zswap_core.pool cimport engine_set_limits


cdef enum:
    STEPS = 100                 # that the budget has
    LEAST_STEPS = 5             # that the pool keeps
    MOST_STEPS = 85             # that it may have
    SOON = 3                    # epochs: away for no more, a page was missing from the room
    NOTED = 16                  # pages that must have said something before anything moves
    CLEAR_SHIFT = 3             # it moves where one side has saved an eighth more
    FULL_SHIFT = 3              # a pool that lacks an eighth or less is full
    AVERAGE_SHIFT = 4


cdef inline uint64_t step(const zsw_memory *m) noexcept nogil:
    return max((zsw_peek_u64(&m.budget) >> m.page_shift) // STEPS, <uint64_t> 1)


cdef void split_begin(zsw_memory *m, uint64_t pool_pages) noexcept nogil:
    m.split.pool = pool_pages


cdef void average(uint64_t *ns, uint64_t each) noexcept nogil:
    """A thread that was interrupted says nothing about the page."""
    cdef uint64_t before = zsw_peek_u64(ns)
    if before != 0:
        each = min(each, 2 * before)
        each = before + (each >> AVERAGE_SHIFT) - (before >> AVERAGE_SHIFT)
    zsw_poke_u64(ns, max(each, <uint64_t> 1 << AVERAGE_SHIFT))


cdef void note_page(zsw_memory *m, uint32_t *word, bint backed) noexcept nogil:
    cdef uint32_t away = away_for(m, word[0])
    cdef uint64_t pool_ns = zsw_peek_u64(&m.split.pool_ns)
    cdef uint64_t file_ns = zsw_peek_u64(&m.split.file_ns)
    if kind_of(word[0]) != AWAY:
        return
    if backed and away <= zsw_peek_u64(&m.split.reach):
        word[0] |= MISSED
    if away <= SOON:
        zsw_add_u64(&m.split.by_room, file_ns if backed else pool_ns)
    elif word[0] & MISSED and file_ns > pool_ns:
        zsw_add_u64(&m.split.by_pool, file_ns - pool_ns)
    else:
        return
    zsw_add_u32(&m.split.noted, 1)


cdef void split_note(zsw_memory *m, zsw_slot *slot, uint64_t ns, bint backed) noexcept nogil:
    """What the slot lists was read, in so many nanoseconds; some of it from the file."""
    cdef uint32_t i
    if not backed:
        average(&m.split.pool_ns, ns // slot.n)
        for i in range(slot.n):
            note_page(m, &slot.words[i], False)
    elif slot.parking.count == 0:
        average(&m.split.file_ns, ns)
        note_page(m, &slot.words[0], True)
    else:
        average(&m.split.file_ns, ns // slot.parking.count)
        for i in range(slot.parking.count):
            note_page(m, &slot.words[slot.parking.pages[i].at], True)


cdef void split_look(zsw_memory *m, uint64_t pool_pages, uint64_t stored) noexcept nogil:
    """The pool takes so many pages, for so many that were stored."""
    cdef uint64_t epoch = zsw_peek_u64(&m.epoch_pages)
    zsw_poke_u64(&m.split.filled, pool_pages)
    # what the pool holds, and what it would in place of as many pages as come in SOON epochs
    zsw_poke_u64(&m.split.reach, stored // epoch + SOON * (stored // max(pool_pages, <uint64_t> 1)))


cdef void set_pool(zsw_memory *m, uint64_t pages) noexcept nogil:
    cdef uint64_t one = step(m)
    pages = min(max(pages, LEAST_STEPS * one), MOST_STEPS * one)
    if pages != zsw_peek_u64(&m.split.pool):
        zsw_poke_u64(&m.split.pool, pages)
        engine_set_limits(m.e, pages, pages)


cdef void split_move(zsw_memory *m) noexcept nogil:
    """Moves a step where the faults since the last one say so.  The thread's that evicts."""
    cdef uint64_t by_room, by_pool, pool = m.split.pool, one = step(m)
    if pool == 0 or zsw_peek_u32(&m.split.noted) < NOTED:
        return
    zsw_poke_u32(&m.split.noted, 0)
    by_room = zsw_peek_u64(&m.split.by_room)
    by_pool = zsw_peek_u64(&m.split.by_pool)
    zsw_add_u64(&m.split.by_room, -by_room)
    zsw_add_u64(&m.split.by_pool, -by_pool)
    if by_pool > by_room + (by_room >> CLEAR_SHIFT):
        # else it has room already, or what is pinned would leave too little of the other
        if (m.split.filled >= pool - (pool >> FULL_SHIFT)
                and 2 * zsw_peek_u64(&m.pinned) + one <= max(zsw_peek_u64(&m.room), one)):
            set_pool(m, pool + one)
    elif by_room > by_pool + (by_pool >> CLEAR_SHIFT):
        pool = min(pool, m.split.filled + (m.split.filled >> FULL_SHIFT))
        set_pool(m, pool - one if pool > one else one)


cdef void split_scale(zsw_memory *m, uint64_t before, uint64_t budget) noexcept nogil:
    """The budget is another."""
    if m.split.pool != 0:
        set_pool(m, <uint64_t> (<double> m.split.pool * <double> budget / <double> before))
