"""What is allocated in a memory, and what is kept of it for the next who asks.

An allocation is a row of pages, which only its owner touches; what others know of them, the thread
that evicts above all, is their words.

Numpy's arrays come and go by the thousand, and to drop pages and fetch new ones costs fifty times
what it takes to fill them.  So what an array leaves is kept with its pages, up to a share of the
room, for the next array of that length; lengths are rounded up to a 16th for it.  It is nobody's:
it counts as resident but not as allocated, gives way to whoever allocates where the limit is met,
and goes before anything else when pages have to leave, unless its length was in use of late.
"""
from libc.errno cimport ENOSPC
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from zswap_core.calls cimport engine_enter_ready, engine_leave
from zswap_core.extents cimport extents_give, extents_leave, extents_take
from zswap_core.invalidate cimport engine_invalidate
from zswap_core.memory.state cimport (
    at_page, AWAY, BUSY, COPY, count_pinned, epoch_of, EXTENT_SHIFT, FRESH, HERE, KIND, kind_of,
    LEAVING, LENGTHS, NOBODYS, PINS, rest, word_of, zsw_memory,
)
from zswap_core.memory.uffd cimport zsw_release_shared
from zswap_core.os cimport (
    zsw_add_u32, zsw_add_u64, zsw_cas_u32, zsw_load_u32, zsw_lock, zsw_peek_u32, zsw_peek_u64,
    zsw_poke_u32, zsw_poke_u64, zsw_release, zsw_store_u32, zsw_unlock,
)
from zswap_core.state cimport zsw_worker


cdef enum:
    KEPT_SHARE_SHIFT = 3        # of the room, what may be kept


# ---- pages ---------------------------------------------------------------------------------------


cdef uint32_t seize(zsw_memory *m, uint64_t page) noexcept nogil:
    """Makes a page BUSY, whatever it is, once nobody else has it; returns its word."""
    cdef uint32_t word, times = 0
    while True:
        word = zsw_load_u32(&m.words[page])
        if (kind_of(word) != BUSY and kind_of(word) != LEAVING
                and zsw_cas_u32(&m.words[page], word, (word & ~<uint32_t> KIND) | BUSY)):
            return word
        rest(&times)


cdef uint64_t forget(zsw_memory *m, uint64_t first, uint64_t pages, uint32_t word) noexcept nogil:
    """Drops the content of pages, wherever it is; they are `word` from then on.  Returns how many
    were resident."""
    cdef uint64_t i, here = 0, held = 0
    cdef uint32_t old
    cdef int rc = 0
    cdef zsw_worker *w
    for i in range(pages):
        old = seize(m, first + i)
        if kind_of(old) == HERE:
            here += 1
            zsw_add_u32(&m.parts[(first + i) >> EXTENT_SHIFT].here, <uint32_t> -1)
        if old & COPY or kind_of(old) == AWAY:
            held += 1
        if old & PINS:
            count_pinned(m, first + i, -1)
    if here or held and m.threads:              # a page that was lost may be poisoned
        if m.programs == NULL:
            zsw_release(at_page(m, first), <size_t> pages << m.page_shift)
        else:
            zsw_release_shared(at_page(m, first), <size_t> pages << m.page_shift)
        zsw_add_u64(&m.resident, -here)
    if held:
        w = engine_enter_ready(m.e, &rc)
        if w != NULL:
            engine_invalidate(m.e, w, 0, first, first + pages - 1)
            engine_leave(m.e, w)
    for i in range(pages):
        zsw_store_u32(&m.words[first + i], word)
    return here


# ---- allocations ---------------------------------------------------------------------------------


cdef int allocate(zsw_memory *m, uint64_t pages, uint64_t *first) noexcept nogil:
    cdef int rc = -ENOSPC
    zsw_lock(&m.extents.lock)
    if pages <= m.limit and m.allocated + m.kept_pages <= m.limit - pages:
        rc = extents_take(&m.nodes, &m.extents, pages, m.pages, first)
    if rc == 0:
        zsw_poke_u64(&m.allocated, m.allocated + pages)
        m.most_allocated = max(m.most_allocated, m.allocated)
        if first[0] + pages > m.top:
            zsw_poke_u64(&m.top, first[0] + pages)
    zsw_unlock(&m.extents.lock)
    return rc


cdef int memory_allocate(zsw_memory *m, uint64_t pages, uint64_t *first) noexcept nogil:
    """-ENOSPC: no more than `limit` may be allocated; -ENOMEM."""
    cdef uint64_t i
    cdef int rc = allocate(m, pages, first)
    while rc == -ENOSPC and pages <= m.limit and release_stalest(m):
        rc = allocate(m, pages, first)
    if rc == 0:
        m.sizes[first[0]] = <uint32_t> pages
        for i in range(pages):
            zsw_store_u32(&m.words[first[0] + i], FRESH)
    return rc


cdef uint64_t memory_size(const zsw_memory *m, uint64_t first) noexcept nogil:
    """Pages of the allocation that begins there."""
    return m.sizes[first]


cdef int free_extent(zsw_memory *m, uint64_t first, uint64_t *pages, uint64_t *here) noexcept nogil:
    """Frees the extent that begins there: 0, -EINVAL where none does, or -ENOMEM."""
    cdef int rc
    zsw_lock(&m.extents.lock)
    rc = extents_leave(&m.nodes, &m.extents, first, pages)
    zsw_unlock(&m.extents.lock)
    if rc != 0:
        return rc
    here[0] = forget(m, first, pages[0], NOBODYS)
    zsw_lock(&m.extents.lock)
    extents_give(&m.nodes, &m.extents, first)
    zsw_unlock(&m.extents.lock)
    return 0


cdef int memory_free(zsw_memory *m, uint64_t first) noexcept nogil:
    """Frees the allocation that begins there: 0, -EINVAL where none does, or -ENOMEM."""
    cdef uint64_t pages = 0, here = 0
    cdef int rc = free_extent(m, first, &pages, &here)
    if rc == 0:
        zsw_lock(&m.extents.lock)
        zsw_poke_u64(&m.allocated, m.allocated - pages)
        zsw_unlock(&m.extents.lock)
    return rc


# ---- what is kept --------------------------------------------------------------------------------


cdef uint32_t length_of(uint64_t pages) noexcept nogil:
    """The number of the least length that holds so many pages; LENGTHS or more: there is none."""
    cdef uint32_t shift = 0
    while (pages - 1) >> shift >= 32:
        shift += 1
    return 16 * shift + <uint32_t> ((pages - 1) >> shift)


cdef uint64_t pages_of(uint32_t length) noexcept nogil:
    cdef uint32_t shift = length // 16 - 1 if length >= 32 else 0
    return <uint64_t> (length - 16 * shift + 1) << shift


cdef void push(zsw_memory *m, uint32_t length, uint64_t first) noexcept nogil:
    """Under the lock.  What is kept is chained by the word that has its size otherwise."""
    m.sizes[first] = m.kept[length].last
    zsw_poke_u32(&m.kept[length].last, <uint32_t> first + 1)
    zsw_poke_u64(&m.kept_pages, m.kept_pages + pages_of(length))


cdef bint pop(zsw_memory *m, uint32_t length, uint64_t *first) noexcept nogil:
    if m.kept[length].last == 0:
        return False
    first[0] = m.kept[length].last - 1
    zsw_poke_u32(&m.kept[length].last, m.sizes[first[0]])
    m.sizes[first[0]] = <uint32_t> pages_of(length)
    zsw_poke_u64(&m.kept_pages, m.kept_pages - pages_of(length))
    return True


cdef void note_use(zsw_memory *m, uint32_t length) noexcept nogil:
    m.turn += 1
    m.kept[length].turn = m.turn
    zsw_poke_u32(&m.kept[length].epoch, epoch_of(m))


cdef bint release(zsw_memory *m, uint32_t length, uint64_t *here) noexcept nogil:
    """Frees one that is kept; False when there is none, or no memory to note that it is free."""
    cdef uint64_t first = 0, pages = 0
    cdef bint found
    zsw_lock(&m.extents.lock)
    found = pop(m, length, &first)
    zsw_unlock(&m.extents.lock)
    if found and free_extent(m, first, &pages, here) != 0:
        zsw_lock(&m.extents.lock)
        push(m, length, first)
        zsw_unlock(&m.extents.lock)
        found = False
    return found


cdef bint release_stalest(zsw_memory *m) noexcept nogil:
    """Frees one of the length that was not used for longest; False when nothing is kept."""
    cdef uint32_t i, length = LENGTHS
    cdef uint64_t turn = <uint64_t> -1, here = 0
    if zsw_peek_u64(&m.kept_pages) == 0:
        return False
    zsw_lock(&m.extents.lock)
    for i in range(<uint32_t> LENGTHS):
        if m.kept[i].last and m.kept[i].turn < turn:
            length, turn = i, m.kept[i].turn
    zsw_unlock(&m.extents.lock)
    return length < LENGTHS and release(m, length, &here)


cdef uint64_t release_idle(zsw_memory *m, uint32_t epochs) noexcept nogil:
    """Frees what is kept of lengths that were not used for so long; returns how many of the pages
    were resident."""
    cdef uint32_t i
    cdef uint64_t done = 0, here = 0
    if zsw_peek_u64(&m.kept_pages) == 0:
        return 0
    for i in range(<uint32_t> LENGTHS):
        while (zsw_peek_u32(&m.kept[i].last)
                and epoch_of(m) - zsw_peek_u32(&m.kept[i].epoch) >= epochs
                and release(m, i, &here)):
            done += here
    return done


cdef void make_ready(zsw_memory *m, uint64_t first, uint64_t pages, bint zeros) noexcept nogil:
    """Forgets what has left of an allocation that was kept, and clears the rest if need be."""
    cdef uint64_t i = 0, n
    while i < pages:
        n = 0
        while i + n < pages and kind_of(word_of(m, first + i + n)) == AWAY:
            n += 1
        if n:
            forget(m, first + i, n, FRESH)
        elif zeros and kind_of(word_of(m, first + i)) != FRESH:
            memset(at_page(m, first + i), 0, m.page_size)
        i += max(n, <uint64_t> 1)


cdef int memory_take(zsw_memory *m, uint64_t wanted, bint zeros, uint64_t *first) noexcept nogil:
    """Allocates pages to be kept afterwards, of which it takes up to a 16th more.  If they are not
    to be `zeros`, anything may be in them.  As memory_allocate."""
    cdef uint32_t length = length_of(wanted)
    cdef uint64_t pages
    cdef bint found
    cdef int rc
    if length >= LENGTHS:
        return memory_allocate(m, wanted, first)
    pages = pages_of(length)
    zsw_lock(&m.extents.lock)
    note_use(m, length)
    found = pop(m, length, first)
    if found:
        zsw_poke_u64(&m.allocated, m.allocated + pages)
        m.most_allocated = max(m.most_allocated, m.allocated)
    zsw_unlock(&m.extents.lock)
    if found:
        make_ready(m, first[0], pages, zeros)
        return 0
    rc = memory_allocate(m, pages, first)
    return memory_allocate(m, wanted, first) if rc == -ENOSPC else rc


cdef bint may_keep(zsw_memory *m, uint64_t first, uint64_t pages) noexcept nogil:
    cdef uint64_t i, most = zsw_peek_u64(&m.room) >> KEPT_SHARE_SHIFT
    cdef uint32_t length = length_of(pages)
    if (length >= LENGTHS or pages != pages_of(length) or pages > most
            or first >= <uint32_t> -1):
        return False
    for i in range(pages):
        if word_of(m, first + i) & PINS:
            return False
    while zsw_peek_u64(&m.kept_pages) + pages > most:
        if not release_stalest(m):
            return False
    return True


cdef void memory_keep(zsw_memory *m, uint64_t first) noexcept nogil:
    """Keeps what memory_take has given and nobody has any more, or frees it."""
    cdef uint64_t pages = m.sizes[first]
    cdef uint32_t length = length_of(pages)
    if not may_keep(m, first, pages):
        memory_free(m, first)
        return
    zsw_lock(&m.extents.lock)
    note_use(m, length)
    push(m, length, first)
    zsw_poke_u64(&m.allocated, m.allocated - pages)
    zsw_unlock(&m.extents.lock)
