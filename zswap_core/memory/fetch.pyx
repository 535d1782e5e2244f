"""Pages come: what a fault at a page means, and what is fetched along with it.

Nothing here allocates, takes the GIL or a lock that the interrupted code may hold: a fault may
happen in any instruction of the program.
"""
from libc.errno cimport ESRCH
from libc.stdint cimport int8_t, int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memset

from zswap_core.calls cimport engine_enter_ready, engine_leave
from zswap_core.fault cimport fault, Site
from zswap_core.load cimport (
    engine_load, engine_load_together, LOAD_ALONE, load_parked, LOADS_TOGETHER,
)
from zswap_core.memory.room cimport leave_room, take_room
from zswap_core.memory.split cimport split_note
from zswap_core.memory.state cimport (
    AWAY, away_for, BUSY, COPY, epoch_of, EXTENT_SHIFT, fd_of, FRESH, HEAT, HEAT_ONE, HERE,
    HINT_RANDOM, HINT_SEQUENTIAL, KIND, kind_of, LEAVING, MISSED, NOBODYS, rest, seen_at, SLOTS,
    STREAMS, THREADS, WINDOW, word_of, zsw_memory, zsw_slot, zsw_stream, zsw_streams,
)
from zswap_core.memory.uffd cimport (
    ZSW_FAULT_KNOWN, ZSW_FAULT_LITTLE_STACK, ZSW_FAULT_PRESENT, ZSW_FAULT_WRITE, zsw_uffd_copy,
    zsw_uffd_protect,
)
from zswap_core.os cimport (
    zsw_add_u32, zsw_add_u64, zsw_cas_u32, zsw_cas_u64, zsw_load_u32, zsw_now_ns, zsw_peek_i64,
    zsw_peek_u32, zsw_peek_u64, zsw_poke_u32, zsw_self, zsw_store_u32,
)
from zswap_core.state cimport zsw_worker
from zswap_core.stats cimport Counter
from zswap_core.status cimport Status


cdef enum:
    AGAIN = 1                   # somebody else was faster
    SOON = 8                    # epochs: a page that comes back before that is warm
    LONGEST_STRIDE = 8
    EAGER = 16                  # pages, where somebody said that it is read in order


# ---- which ---------------------------------------------------------------------------------------


cdef zsw_stream *stream_of(zsw_memory *m, uint64_t page) noexcept nogil:
    """The stream that the page continues, with its stride and its next window; NULL: none.  What
    two threads that share an entry note there is a guess, as all of it is."""
    cdef uint64_t thread = zsw_self() >> 12 if m.programs == NULL else m.asking
    cdef zsw_streams *mine = &m.streams[thread % <uint64_t> THREADS]
    cdef zsw_stream *s
    cdef int64_t by
    cdef uint32_t i
    for i in range(<uint32_t> STREAMS):
        s = &mine.streams[i]
        by = <int64_t> (page - s.ahead)
        if s.window == 0 or by == 0:
            continue
        if s.stride == 0:
            if -LONGEST_STRIDE <= by <= LONGEST_STRIDE:
                s.stride = <int32_t> by
                s.window = 2
                return s
        elif by % s.stride == 0 and 1 <= by // s.stride <= WINDOW:
            s.window = min(2 * s.window, <uint32_t> WINDOW)
            return s
    s = &mine.streams[mine.turn % <uint32_t> STREAMS]
    mine.turn += 1
    s.ahead, s.stride, s.window = page, 0, 1
    return NULL


cdef void plan(zsw_memory *m, zsw_slot *slot, uint64_t page) noexcept nogil:
    """Which pages to fetch: the one, and those ahead of it that its stream comes to."""
    cdef uint32_t kind, _i, hint = zsw_peek_u32(&m.parts[page >> EXTENT_SHIFT].hint)
    cdef uint32_t window = 1
    cdef int32_t stride = 1
    cdef uint64_t at = page, last = page
    cdef zsw_stream *s = NULL
    slot.pages[0] = page
    slot.n = 1
    if hint != HINT_RANDOM:
        s = stream_of(m, page)
        if s != NULL:
            stride, window = s.stride, s.window
        elif hint == HINT_SEQUENTIAL:
            window = EAGER
    window = min(window, <uint32_t> (zsw_peek_u64(&m.room) >> 4) + 1)
    for _i in range(1, window):
        at += <uint64_t> <int64_t> stride
        if at >= m.pages:
            break
        kind = kind_of(word_of(m, at))
        if (kind == NOBODYS
                or m.parts[at >> EXTENT_SHIFT].owner != m.parts[page >> EXTENT_SHIFT].owner):
            break
        last = at
        if kind == FRESH or kind == AWAY:
            slot.pages[slot.n] = at
            slot.n += 1
    if s != NULL:
        s.ahead = last


# ---- how -----------------------------------------------------------------------------------------


cdef zsw_slot *take_slot(zsw_memory *m) noexcept nogil:
    cdef uint32_t i, times = 0
    while True:
        for i in range(<uint32_t> SLOTS):
            if zsw_peek_u32(&m.slots[i].busy) == 0 and zsw_cas_u32(&m.slots[i].busy, 0, 1):
                return &m.slots[i]
        rest(&times)


cdef uint32_t claim(zsw_memory *m, zsw_slot *slot) noexcept nogil:
    """Makes the pages BUSY that can be; drops the others from the list, whose length it
    returns."""
    cdef uint32_t i, n = 0, word
    for i in range(slot.n):
        word = word_of(m, slot.pages[i])
        if ((kind_of(word) == FRESH or kind_of(word) == AWAY)
                and zsw_cas_u32(&m.words[slot.pages[i]], word, (word & ~<uint32_t> KIND) | BUSY)):
            slot.pages[n] = slot.pages[i]
            slot.words[n] = word
            n += 1
    slot.n = n
    return n


cdef uint32_t stretch(const zsw_slot *slot, uint32_t i, uint32_t most) noexcept nogil:
    """How many pages from number i on are in the engine."""
    cdef uint32_t n = 0
    while n < most and i + n < slot.n and kind_of(slot.words[i + n]) == AWAY:
        n += 1
    return n


cdef void read_in(zsw_memory *m, zsw_worker *w, zsw_slot *slot) noexcept nogil:
    """Reads the contents into the slot's memory; the status of each."""
    cdef int64_t *backed = &w.counters[<int> Counter.backing_loads]
    cdef int64_t before = zsw_peek_i64(backed)
    cdef uint64_t began = zsw_now_ns()
    cdef uint32_t i = 0, n
    slot.parking.count = 0
    while i < slot.n:
        n = stretch(slot, i, LOADS_TOGETHER)
        if n == 0:
            memset(slot.memory + (<size_t> i << m.page_shift), 0, m.page_size)
            slot.status[i] = Status.STORED
            n = 1
        elif slot.n == 1:
            slot.status[0] = <int8_t> engine_load(m.e, w, 0, slot.pages[0], slot.memory, 0)
        else:
            engine_load_together(m.e, w, 0, slot.pages + i, n,
                                 slot.memory + (<size_t> i << m.page_shift), slot.status + i, NULL,
                                 &slot.parking, i)
        i += n
    if slot.parking.count:
        load_parked(m.e, w, &slot.parking, slot.memory, slot.status)
        for i in range(slot.n):
            if slot.status[i] == Status.WOULD_BLOCK:
                slot.status[i] = <int8_t> engine_load(
                    m.e, w, 0, slot.pages[i], slot.memory + (<size_t> i << m.page_shift),
                    LOAD_ALONE)
    split_note(m, slot, zsw_now_ns() - began, zsw_peek_i64(backed) != before)


cdef uint32_t warmth(const zsw_memory *m, uint32_t word) noexcept nogil:
    """The word of a page that comes, of which this is the old one: resident, and warmer if it did
    not stay away for long."""
    cdef uint32_t heat = word & HEAT
    if kind_of(word) == FRESH:
        return HERE
    if away_for(m, word) < SOON:
        heat = min(heat + HEAT_ONE, <uint32_t> HEAT)
    elif heat:
        heat -= HEAT_ONE
    return HERE | heat | word & (COPY | MISSED)


cdef void arrive(zsw_memory *m, uint32_t pages) noexcept nogil:
    cdef uint64_t arrivals = zsw_add_u64(&m.arrivals, pages), end = zsw_peek_u64(&m.epoch_end)
    if arrivals >= end and zsw_cas_u64(&m.epoch_end, end, arrivals + zsw_peek_u64(&m.epoch_pages)):
        zsw_add_u32(&m.epoch, 1)


cdef int map_in(zsw_memory *m, zsw_slot *slot) noexcept nogil:
    """Maps what could be read, a run of neighbours at a time, and lets go of all the pages; what
    became of the first: a Status, NOT_MAPPED or GONE."""
    cdef uint32_t i = 0, n, k
    cdef int rc, first = slot.status[0]
    cdef uint32_t here = 0, fresh = 0
    while i < slot.n:
        n = 1
        rc = slot.status[i]
        if rc >= 0:
            while (i + n < slot.n and slot.status[i + n] >= 0
                   and slot.pages[i + n] == slot.pages[i] + n):
                n += 1
            rc = fault(Site.MEMORY_COPY)
            if rc == 0:
                rc = zsw_uffd_copy(fd_of(m, slot.pages[i]), seen_at(m, slot.pages[i]),
                                   slot.memory + (<size_t> i << m.page_shift),
                                   <size_t> n << m.page_shift, m.page_size)
            if rc != 0 and i == 0:
                first = GONE if rc == -ESRCH else NOT_MAPPED
        for k in range(i, i + n):
            if rc < 0:
                zsw_store_u32(&m.words[slot.pages[k]], slot.words[k])
                continue
            here += 1
            fresh += kind_of(slot.words[k]) == FRESH
            zsw_add_u32(&m.parts[slot.pages[k] >> EXTENT_SHIFT].here, 1)
            zsw_poke_u32(&m.parts[slot.pages[k] >> EXTENT_SHIFT].fetched, epoch_of(m))
            zsw_store_u32(&m.words[slot.pages[k]], warmth(m, slot.words[k]))
        i += n
    arrive(m, here)
    zsw_add_u64(&m.counts.fresh, fresh)
    zsw_add_u64(&m.counts.fetched, here - fresh)
    if here:
        zsw_add_u64(&m.counts.ahead, here - 1)
    leave_room(m, slot.n - here)
    return first


cdef int fetch(zsw_memory *m, zsw_slot *slot, uint64_t page, uint32_t how) noexcept nogil:
    """Fetches what the slot lists, as far as there is room; the first page is the one that somebody
    waits for.  0, AGAIN, or why not."""
    cdef uint32_t room
    cdef int rc = 0
    cdef zsw_worker *w
    if slot.n > 1 and how & ZSW_FAULT_LITTLE_STACK:
        slot.n = 1
    room = take_room(m, slot.n, how)
    if room == 0:
        return NO_ROOM
    slot.n = min(slot.n, room)
    claim(m, slot)
    leave_room(m, room - slot.n)
    if slot.n == 0:
        return AGAIN
    w = engine_enter_ready(m.e, &rc)
    if w == NULL:                               # it is never closed before us
        rc = Status.ABSENT
        memset(slot.status, rc, slot.n)
    else:
        read_in(m, w, slot)
        if slot.status[0] == Status.BACKING_FAIL:
            m.error = w.error
        engine_leave(m.e, w)
    rc = slot.pages[0] == page
    if not rc:
        map_in(m, slot)
        return AGAIN
    return min(map_in(m, slot), 0)


cdef int meet_protection(zsw_memory *m, uint64_t page, uint32_t word, uint32_t how) noexcept nogil:
    """At a page that is there.  A writer to one that is about to leave takes it back; to another,
    protection is what evict has left on its way.  0 or AGAIN."""
    cdef uint32_t not_one = ZSW_FAULT_PRESENT | ZSW_FAULT_WRITE
    if how & ZSW_FAULT_KNOWN and how & not_one != not_one:
        return 0                                # it has come meanwhile
    if not zsw_cas_u32(&m.words[page], word, (word & ~<uint32_t> KIND) | BUSY):
        return AGAIN
    zsw_uffd_protect(fd_of(m, page), seen_at(m, page), m.page_size, False, m.page_size)
    zsw_store_u32(&m.words[page], (word & ~<uint32_t> KIND) | HERE)
    zsw_add_u64(&m.counts.taken_back, kind_of(word) == LEAVING)
    return 0


cdef int memory_fault(zsw_memory *m, uint64_t page, uint32_t how) noexcept nogil:
    """Makes that the page can be touched.  0, or why it cannot be: a Status, or one of ours."""
    cdef uint32_t word, times = 0
    cdef int rc = AGAIN
    cdef zsw_slot *slot
    zsw_add_u64(&m.counts.faults, 1)
    while rc == AGAIN:
        word = zsw_load_u32(&m.words[page])
        if kind_of(word) == NOBODYS:
            rc = NO_PAGE
        elif kind_of(word) == FRESH or kind_of(word) == AWAY:
            slot = take_slot(m)
            plan(m, slot, page)
            rc = fetch(m, slot, page, how)
            zsw_store_u32(&slot.busy, 0)
        elif kind_of(word) == BUSY:
            rest(&times)
        else:
            rc = meet_protection(m, page, word, how)
    return rc


cdef uint32_t fetch_span(zsw_memory *m, uint64_t first, uint32_t n, int *rc) noexcept nogil:
    """Fetches those of up to WINDOW neighbours that are not there; returns how many pages from the
    first on were dealt with, and in `rc` what became of the first that was fetched."""
    cdef zsw_slot *slot = take_slot(m)
    cdef uint32_t i, kind
    slot.n = 0
    for i in range(min(n, <uint32_t> WINDOW)):
        kind = kind_of(word_of(m, first + i))
        if kind == FRESH or kind == AWAY:
            slot.pages[slot.n] = first + i
            slot.n += 1
    rc[0] = 0
    if slot.n:
        rc[0] = fetch(m, slot, slot.pages[0], 0)
    zsw_store_u32(&slot.busy, 0)
    return min(n, <uint32_t> WINDOW)
