"""Room below the budget for pages that come.

What the budget has to hold is resident pages, the engine's pool and metadata, and our own.  All but
the first is asked for now and then, and what is left is the room for the first; a page has its
place there before it is mapped.

Some room there must always be, and half as much again as is pinned, or nobody finds a page that may
go.  So the engine has a budget of its own, which is what that and ours leave: its pool gives way
when anything else grows.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from zswap_core.calls cimport engine_enter_ready, engine_leave
from zswap_core.figures cimport engine_totals, zsw_totals
from zswap_core.memory.evict cimport evict_some
from zswap_core.memory.split cimport split_look
from zswap_core.memory.state cimport EXTENT_SHIFT, zsw_memory, zsw_part
from zswap_core.memory.uffd cimport ZSW_FAULT_LITTLE_STACK, zsw_sum
from zswap_core.os cimport (
    zsw_add_u32, zsw_add_u64, zsw_cas_u64, zsw_fence, zsw_futex_wake, zsw_load_u32, zsw_now_ns,
    zsw_peek_u32, zsw_peek_u64, zsw_poke_u64, zsw_sleep_ns,
)
from zswap_core.pool cimport engine_set_budget
from zswap_core.state cimport CEILINGS, zsw_worker
from zswap_core.stats cimport Counter


cdef enum:
    LEAST_ROOM = 32             # pages
    LEAST_SHARE_SHIFT = 4       # of the budget, the least room, where a file is behind the pool
    STEP_SHIFT = 8              # of the budget, by how much the engine's changes
    EPOCH_SHARE_SHIFT = 4       # of the room, the pages that make an epoch
    SLACK_SHIFT = 5             # of the room, what is kept free for those who come
    SLACK_LEAST = 128
    DIRECT = 32                 # pages that somebody who finds no room evicts himself
    NAP_NS = 50000              # how long he sleeps at first when nothing can be evicted,
    LONGEST_NAP_NS = 10000000   # and at last
    NAP_SHARE = 8               # of what he has waited, the next nap
    LONGEST_ROUND_NS = 100000000    # to look for what can be, and to sleep


cdef uint64_t metadata_of(zsw_memory *m) noexcept nogil:
    """Bytes of what is kept about pages."""
    cdef uint64_t pages = zsw_peek_u64(&m.allocated) + zsw_peek_u64(&m.kept_pages)
    return (pages * (sizeof(uint32_t) + sizeof(zsw_sum))
            + (pages >> EXTENT_SHIFT) * sizeof(zsw_part) + m.overhead)


cdef uint64_t least_room(const zsw_memory *m, uint64_t budget) noexcept nogil:
    """Pages that may be resident however large the pool would be."""
    if zsw_peek_u32(&m.e.backed_areas) == 0:    # the pool has nowhere to put them either
        return LEAST_ROOM
    return budget >> (m.page_shift + LEAST_SHARE_SHIFT)


cdef uint64_t pins_of(const zsw_memory *m) noexcept nogil:
    return zsw_peek_u64(&m.pinned) + zsw_peek_u64(&m.pinning)


cdef void share_out(zsw_memory *m) noexcept nogil:
    """Sets the engine's budget."""
    cdef uint64_t budget = zsw_peek_u64(&m.budget), step = budget >> STEP_SHIFT
    cdef uint64_t pins = pins_of(m), room = least_room(m, budget) + pins + pins // 2
    cdef uint64_t ours = metadata_of(m) + (room << m.page_shift)
    cdef uint64_t its = budget - ours if ours < budget else 0
    cdef uint64_t[CEILINGS] none
    its = max(its - its % step, step)
    if its != zsw_peek_u64(&m.e.budget.bytes):
        memset(none, 0, sizeof(none))
        engine_set_budget(m.e, its, 0, none)


cdef void set_room(zsw_memory *m) noexcept nogil:
    """Looks what the rest takes."""
    cdef zsw_totals totals
    cdef uint64_t taken, room = 0, budget = zsw_peek_u64(&m.budget)
    cdef int rc = 0
    cdef zsw_worker *w = engine_enter_ready(m.e, &rc)
    if w == NULL:
        return
    share_out(m)
    engine_totals(m.e, &totals)
    engine_leave(m.e, w)
    zsw_poke_u64(&m.beside, totals.metadata_bytes + metadata_of(m))
    taken = (totals.pool_pages << m.page_shift) + zsw_peek_u64(&m.beside)
    if taken < budget:
        room = (budget - taken) >> m.page_shift
    taken += zsw_peek_u64(&m.resident) << m.page_shift
    if taken > zsw_peek_u64(&m.counts.most):
        zsw_poke_u64(&m.counts.most, taken)
    zsw_poke_u64(&m.room, max(room, <uint64_t> LEAST_ROOM))
    zsw_poke_u64(&m.epoch_pages, max(room >> EPOCH_SHARE_SHIFT, <uint64_t> 16))
    split_look(m, totals.pool_pages, <uint64_t> totals.counters[<int> Counter.stored_pages])


cdef uint64_t lasting_room(const zsw_memory *m, uint64_t budget) noexcept nogil:
    """What such a budget leaves for resident pages when the pool is as large as it was asked to
    be.  Without a file that is bounded by what is allocated, and all of it fits."""
    cdef uint64_t beside = zsw_peek_u64(&m.beside), before = zsw_peek_u64(&m.budget)
    cdef uint64_t left = (budget - min(beside, budget)) >> m.page_shift
    cdef uint64_t pool = zsw_peek_u64(&m.split.filled)
    if zsw_peek_u32(&m.e.backed_areas):
        pool = zsw_peek_u64(&m.e.budget.pool_pages)
        if budget != before:
            pool = <uint64_t> (<double> pool * <double> budget / <double> before)
    return max(left - min(left, pool), least_room(m, budget))


cdef bint promise_pins(zsw_memory *m, uint64_t pages) noexcept nogil:
    """Whether so many more pages may be pinned: half of the room stays for what comes and goes."""
    cdef uint64_t promised
    while True:
        promised = zsw_peek_u64(&m.pinning)
        if (zsw_peek_u64(&m.pinned) + promised + pages
                > lasting_room(m, zsw_peek_u64(&m.budget)) // 2):
            return False
        if zsw_cas_u64(&m.pinning, promised, promised + pages):
            share_out(m)
            return True


cdef uint64_t slack(const zsw_memory *m) noexcept nogil:
    cdef uint64_t room = zsw_peek_u64(&m.room)
    return max(room >> SLACK_SHIFT, min(<uint64_t> SLACK_LEAST, room >> 2))


cdef uint64_t low_mark(const zsw_memory *m) noexcept nogil:
    """Resident pages that evicting ends at."""
    return zsw_peek_u64(&m.room) - slack(m)


cdef uint64_t high_mark(const zsw_memory *m) noexcept nogil:
    """And those that it begins above."""
    return zsw_peek_u64(&m.room) - slack(m) // 2


cdef void kick(zsw_memory *m) noexcept nogil:
    """Wakes the thread that evicts, if it sleeps."""
    zsw_fence()
    if zsw_load_u32(&m.idle):
        zsw_add_u32(&m.work, 1)
        zsw_futex_wake(&m.work, 1)


cdef uint32_t take_free(zsw_memory *m, uint32_t most) noexcept nogil:
    """Takes room for up to so many pages, where there is any."""
    cdef uint64_t resident, room, n
    while True:
        resident = zsw_peek_u64(&m.resident)
        room = zsw_peek_u64(&m.room)
        if resident >= room:
            return 0
        n = min(room - resident, <uint64_t> most)
        if zsw_cas_u64(&m.resident, resident, resident + n):
            if resident + n > zsw_peek_u64(&m.counts.peak):
                zsw_poke_u64(&m.counts.peak, resident + n)
            return <uint32_t> n


cdef uint32_t take_room(zsw_memory *m, uint32_t most, uint32_t how) noexcept nogil:
    """Room for up to so many pages, one at least; 0 when none can be had.  Whoever finds none makes
    some, unless he has too little stack for that: then he waits for the thread that evicts."""
    cdef uint32_t n = take_free(m, most)
    cdef uint64_t waited = 0, began
    while n == 0:
        began = zsw_now_ns()
        kick(m)
        if not how & ZSW_FAULT_LITTLE_STACK and evict_some(m, DIRECT) != 0:
            zsw_add_u64(&m.counts.direct, 1)
            set_room(m)                         # the pool has grown
            waited = 0
        else:
            zsw_add_u64(&m.counts.waits, 1)
            if waited > zsw_peek_u64(&m.patience):
                return 0
            zsw_sleep_ns(min(NAP_NS + waited // NAP_SHARE, <uint64_t> LONGEST_NAP_NS))
            # not the time for which the process was stopped, or the machine asleep
            waited += min(zsw_now_ns() - began, <uint64_t> LONGEST_ROUND_NS)
        n = take_free(m, 1)
    if zsw_peek_u64(&m.resident) > high_mark(m):
        kick(m)
    return n


cdef void leave_room(zsw_memory *m, uint64_t pages) noexcept nogil:
    """Gives back what was taken and not used."""
    zsw_add_u64(&m.resident, -pages)
