"""Pages leave: compared or stored, and dropped.

It is done by extents, as each call that protects or drops has every CPU look at what it knows of
the pages: two such calls for up to 64 pages.  Which extent, chance decides among those that were
left alone for a while, so that a scan over more than there is room for finds a part of it resident;
a page that came back soon after it had gone stays a round longer, or three.
"""
from libc.errno cimport ESRCH
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zswap_core.calls cimport engine_enter_ready, engine_leave
from zswap_core.fault cimport fault, Site
from zswap_core.memory.allocations cimport release_idle
from zswap_core.memory.state cimport (
    at_page, AWAY, BUSY, COPY, epoch_of, EPOCH_SHIFT, EXTENT, EXTENT_SHIFT, fd_of, HEAT, HEAT_ONE,
    HERE, KIND, kind_of, LEAVING, MISSED, PINS, seen_at, word_of, zsw_memory, zsw_part,
)
from zswap_core.memory.uffd cimport iovec, zsw_drop, zsw_nh, zsw_sum, zsw_uffd_protect
from zswap_core.os cimport (
    zsw_add_u32, zsw_add_u64, zsw_cas_u32, zsw_ctz, zsw_peek_u32, zsw_peek_u64, zsw_poke_u64,
    zsw_popcount, zsw_store_u32,
)
from zswap_core.promote cimport promote_copy
from zswap_core.state cimport zsw_worker
from zswap_core.store cimport engine_store


cdef enum:
    TRIES = 48                  # extents that are looked at before it gives up
    FORCED = 32                 # from this one on whatever is there must go
    REST = 2                    # epochs that an extent is left alone after a page came

cdef uint64_t NONE = <uint64_t> -1


cdef inline uint64_t bit(uint32_t i) noexcept nogil:
    return <uint64_t> 1 << i


cdef uint64_t choose(zsw_memory *m, uint64_t first, uint64_t among, bint force,
                     uint64_t *pinned) noexcept nogil:
    """The pages of an extent that are to leave: LEAVING from now on.  Of the others that are
    resident it tells which are pinned."""
    cdef uint64_t chosen = 0
    cdef uint32_t i, word
    for i in range(<uint32_t> EXTENT):
        word = word_of(m, first + i)
        if kind_of(word) != HERE:
            continue
        if word & PINS:
            pinned[0] |= bit(i)
        elif word & HEAT and not force:
            zsw_cas_u32(&m.words[first + i], word, word - HEAT_ONE)
        elif among >> i & 1 and zsw_cas_u32(&m.words[first + i], word, word - HERE + LEAVING):
            chosen |= bit(i)
    return chosen


cdef int protect(zsw_memory *m, uint64_t first, uint64_t chosen, uint64_t pinned,
                 bint on) noexcept nogil:
    """Write-protects the pages, or lets them be written again, along with those that lie between
    but for the pinned ones."""
    cdef uint32_t low, high, i = 0
    cdef int rc = fault(Site.MEMORY_PROTECT) if on else 0
    while chosen >> i != 0 and rc == 0:
        i += zsw_ctz(chosen >> i)
        low = high = i
        while i < EXTENT and not pinned >> i & 1:
            if chosen >> i & 1:
                high = i
            i += 1
        rc = zsw_uffd_protect(fd_of(m, first), seen_at(m, first + low),
                              <size_t> (high - low + 1) << m.page_shift, on, m.page_size)
        if rc == -ESRCH:                        # of a program that has ended: nobody writes
            rc = 0
        if i == EXTENT:
            break
    return rc


cdef bint put_away(zsw_memory *m, zsw_worker *w, uint64_t page) noexcept nogil:
    """Has the engine hold the page, which is LEAVING and still ours; it is LEAVING afterwards,
    unless somebody took it back.  Whether it may be dropped."""
    cdef uint32_t word = word_of(m, page)
    cdef uint32_t busy = word - LEAVING + BUSY
    cdef zsw_sum sum
    cdef bint held
    if kind_of(word) != LEAVING or not zsw_cas_u32(&m.words[page], word, busy):
        return False
    sum = zsw_nh(at_page(m, page), m.key, m.page_size)
    held = (word & COPY and sum.low == m.sums[page].low and sum.high == m.sums[page].high)
    if held:
        zsw_add_u64(&m.counts.clean, 1)
        if word & MISSED:
            promote_copy(m.e, w, 0, page, at_page(m, page))
    else:
        word &= ~<uint32_t> COPY
        held = engine_store(m.e, w, 0, page, at_page(m, page)) >= 0
        if held:
            m.sums[page] = sum
            word |= COPY
        else:
            zsw_add_u64(&m.counts.refused, 1)
    zsw_store_u32(&m.words[page], word & ~<uint32_t> MISSED)
    return held


cdef uint64_t drop(zsw_memory *m, uint64_t first, uint64_t ready) noexcept nogil:
    """Drops pages that the engine holds; returns those that nobody took back."""
    cdef iovec spans[EXTENT]
    cdef uint32_t i, word, n = 0, epoch = epoch_of(m)
    cdef uint64_t going = 0
    cdef int rc = fault(Site.MEMORY_DROP)
    for i in range(<uint32_t> EXTENT):
        if ready >> i & 1 and rc == 0:
            word = word_of(m, first + i)
            if (kind_of(word) == LEAVING
                    and zsw_cas_u32(&m.words[first + i], word, word - LEAVING + BUSY)):
                if n and <uint8_t *> spans[n - 1].iov_base + spans[n - 1].iov_len == at_page(
                        m, first + i):
                    spans[n - 1].iov_len += m.page_size
                else:
                    spans[n].iov_base = at_page(m, first + i)
                    spans[n].iov_len = m.page_size
                    n += 1
                going |= bit(i)
    if n:
        rc = zsw_drop(m.pidfd, spans, n, m.programs != NULL)
    for i in range(<uint32_t> EXTENT):
        if going >> i & 1:
            word = word_of(m, first + i) & ~<uint32_t> KIND
            if rc == 0:
                word = (word & 0xffff) | AWAY | epoch << EPOCH_SHIFT
            else:
                word |= LEAVING
            zsw_store_u32(&m.words[first + i], word)
    return going if rc == 0 else 0


cdef uint64_t exposed(zsw_memory *m, uint64_t first, uint64_t chosen) noexcept nogil:
    """Pages that were not to leave and may have been protected along with those that were."""
    cdef uint64_t found = 0
    cdef uint32_t i, kind
    for i in range(<uint32_t> EXTENT):
        kind = kind_of(word_of(m, first + i))
        if not chosen >> i & 1 and (kind == HERE or kind == BUSY):
            found |= bit(i)
    return found


cdef void keep(zsw_memory *m, uint64_t first, uint64_t chosen) noexcept nogil:
    """Gives back to the program what was to leave and did not."""
    cdef uint32_t i, word
    for i in range(<uint32_t> EXTENT):
        if chosen >> i & 1:
            word = word_of(m, first + i)
            if kind_of(word) == LEAVING:
                zsw_cas_u32(&m.words[first + i], word, word - LEAVING + HERE)


cdef uint32_t evict_part(zsw_memory *m, zsw_worker *w, uint64_t part, uint64_t among,
                         bint force) noexcept nogil:
    """Evicts the pages of an extent that are `among`; returns how many that were.  None where
    another thread is at it."""
    cdef zsw_part *p = &m.parts[part]
    cdef uint64_t first = part << EXTENT_SHIFT, pinned = 0, ready = 0, gone = 0, chosen, beside
    cdef uint32_t i, dropped
    if zsw_peek_u32(&p.leaving) or not zsw_cas_u32(&p.leaving, 0, 1):
        return 0
    chosen = choose(m, first, among, force, &pinned)
    if chosen:
        if protect(m, first, chosen, pinned, True) == 0:
            beside = exposed(m, first, chosen)
            for i in range(<uint32_t> EXTENT):
                if chosen >> i & 1 and put_away(m, w, first + i):
                    ready |= bit(i)
            gone = drop(m, first, ready)
            beside |= chosen & ~gone
        else:
            beside = chosen
        if beside:
            protect(m, first, beside, 0, False)
        keep(m, first, chosen & ~gone)
    zsw_store_u32(&p.leaving, 0)
    dropped = <uint32_t> zsw_popcount(gone)
    if dropped:
        zsw_add_u32(&p.here, -dropped)
        zsw_add_u64(&m.resident, -<uint64_t> dropped)
        zsw_add_u64(&m.counts.evicted, dropped)
    return dropped


cdef uint64_t pick(zsw_memory *m) noexcept nogil:
    """Any extent that has resident pages which are not pinned, or NONE."""
    cdef uint64_t parts = (zsw_peek_u64(&m.top) + EXTENT - 1) >> EXTENT_SHIFT
    cdef uint64_t seed = zsw_peek_u64(&m.seed), part, looked = 0
    seed ^= seed << 13
    seed ^= seed >> 7
    seed ^= seed << 17
    zsw_poke_u64(&m.seed, seed)             # two that have the same choose the same, once
    part = (seed >> 11) % parts if parts else 0
    while looked < parts:
        if zsw_peek_u32(&m.parts[part].here) > zsw_peek_u32(&m.parts[part].pinned):
            return part
        part = part + 1 if part + 1 < parts else 0
        looked += 1
    return NONE


cdef uint64_t evict_some(zsw_memory *m, uint64_t wanted) noexcept nogil:
    """Evicts about so many pages; returns how many it did.  First go those that nobody has."""
    cdef uint64_t done = release_idle(m, REST), part
    cdef uint32_t tries = 0
    cdef int rc = 0
    cdef zsw_worker *w
    if done >= wanted:
        return done
    w = engine_enter_ready(m.e, &rc)
    if w == NULL:
        return done
    while done < wanted and tries < TRIES:
        part = pick(m)
        if part == NONE:
            break
        if tries >= FORCED or epoch_of(m) - zsw_peek_u32(&m.parts[part].fetched) >= REST:
            done += evict_part(m, w, part, <uint64_t> -1, tries >= FORCED)
        tries += 1
    engine_leave(m.e, w)
    return done if done else release_idle(m, 0)
