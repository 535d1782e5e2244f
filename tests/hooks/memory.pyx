"""Touching pages of a memory from many threads at the speed of C: each page has one writer and is
stamped all over, and whoever reads one knows which stamps there were.  And how a budget is
divided."""
from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free

from zswap_core.binding.memory cimport Region
from zswap_core.binding.results cimport Handle
from zswap_core.memory.evict cimport evict_some
from zswap_core.memory.split cimport split_begin, split_look, split_move, split_note
from zswap_core.memory.state cimport AWAY, EPOCH_SHIFT, MISSED, zsw_memory, zsw_slot


cdef inline uint64_t stamp(uint64_t page, uint64_t version, uint64_t at) noexcept nogil:
    # every fourth word does not compress
    cdef uint64_t word = page << 32 ^ version << 10 ^ at
    if at & 3:
        return page ^ version << 40
    word ^= word << 25 ^ word >> 13
    word *= 1000000007
    word ^= word >> 29
    word *= 998244353
    return word ^ word >> 32


cdef inline uint64_t spot(uint64_t page) noexcept nogil:
    """Which word of a page is counted up alone."""
    return page * 101 % 512


cdef bint is_stamped(const uint64_t *words, uint64_t page, uint64_t known, uint64_t first,
                     uint64_t step) noexcept nogil:
    cdef uint64_t at = first, version = <uint32_t> known, alone = spot(page)
    if words[alone] != (stamp(page, version, alone) if version else 0) + (known >> 32):
        return False
    while at < 512:
        if words[at] != (stamp(page, version, at) if version else 0) and at != alone:
            return False
        at += step
    return True


cdef void write(uint64_t *words, uint64_t page, uint64_t known) noexcept nogil:
    cdef uint64_t at
    for at in range(512):
        words[at] = stamp(page, <uint32_t> known, at)
    words[spot(page)] += known >> 32


def touch(uintptr_t address, uintptr_t versions, uint64_t pages, uint64_t me, uint64_t threads,
          uint64_t count, uint64_t seed, uint32_t writes, uint64_t again=0):
    """Reads and rewrites, `writes` times of 16, pages whose number leaves `me` on division by
    `threads`: at random, in order, and here and there; at times a word only.  With `again` one
    stretch of five has that many touches of 32 pages, which are so written while they leave.
    Returns the first page that was not as it was left, or -1."""
    cdef uint64_t *base = <uint64_t *> address
    cdef uint64_t *known = <uint64_t *> versions
    cdef uint64_t i, page, mine = pages // threads, at = 0, first = 0, kind = 0, turn = 0
    cdef uint32_t lot
    cdef int64_t wrong = -1
    with nogil:
        for i in range(count):
            seed ^= seed << 13
            seed ^= seed >> 7
            seed ^= seed << 17
            if i == turn:
                kind = seed % (5 if again else 4)
                turn += again if kind == 4 else 256
                at = first = (seed >> 8) % mine
            elif kind == 0:
                at = (seed >> 8) % mine
            elif kind == 1:
                at = (at + 1) % mine
            elif kind == 2:
                at = (seed >> 8) % (mine // 16 + 1)
            elif kind == 3:
                at = (at + mine - 3) % mine
            else:
                at = (first + (seed >> 8) % 32) % mine
            page = at * threads + me
            if not is_stamped(base + page * 512, page, known[page], i % 37, 37):
                wrong = page
                break
            lot = (seed >> 20) % 16
            if lot < writes:
                known[page] += 1
                write(base + page * 512, page, known[page])
            elif lot >= (8 if kind == 4 else 15):
                known[page] += <uint64_t> 1 << 32
                base[page * 512 + spot(page)] += 1
    return wrong


def check(uintptr_t address, uintptr_t versions, uint64_t pages):
    """The first page that is not as it was left, or -1."""
    cdef uint64_t *base = <uint64_t *> address
    cdef uint64_t *known = <uint64_t *> versions
    cdef uint64_t page
    cdef int64_t wrong = -1
    with nogil:
        for page in range(pages):
            if not is_stamped(base + page * 512, page, known[page], 0, 1):
                wrong = page
                break
    return wrong


def split(Handle z not None, uint64_t budget, uint64_t pool, uint64_t filled, uint64_t stored,
          reads, uint64_t pinned=0, uint64_t room=0):
    """What the pool's limit is, in pages, after reads of one page each, of a memory that has such a
    budget: `reads` says how many epochs each was away, whether the file had it, and nanoseconds.
    Also which of the pages are to go to the pool when they leave."""
    cdef zsw_memory *m = <zsw_memory *> calloc(1, sizeof(zsw_memory))
    cdef zsw_slot *slot = <zsw_slot *> calloc(1, sizeof(zsw_slot))
    if m == NULL or slot == NULL:
        raise MemoryError
    m.e, m.budget, m.page_shift = z.e, budget << 12, 12
    m.epoch, m.epoch_pages, slot.n = 1000, 100, 1
    m.pinned, m.room = pinned, room
    missed = []
    try:
        split_begin(m, pool)
        split_look(m, filled, stored)
        for away, backed, ns in reads:
            slot.words[0] = AWAY | <uint32_t> (1000 - away) << EPOCH_SHIFT
            split_note(m, slot, ns, backed)
            missed.append(bool(slot.words[0] & MISSED))
        split_move(m)
        return m.split.pool, missed
    finally:
        free(m)
        free(slot)


def set_patience(Region region not None, uint64_t ms):
    """How long who needs room waits when nothing can be evicted."""
    region.m.patience = ms * 1000000


def evict(Region region not None, uint64_t pages):
    """Evicts about so many pages, as whoever finds no room does; returns how many went."""
    return evict_some(region.m, pages)
