"""A memory that programs have: which there are, and what they ask for.

All have the same numbers of pages and each a file of its own, of which it maps the whole at one
address and we, part by part as we hand those out, at ours: a page lies at the same distance from
the start of both.  A part has one owner, and an allocation begins with a part.

One thread does all that is here, so that what is allocated needs no lock; what others know of it,
those who evict and read faults, is the words of pages, and the owner of a part as long as there is
a page in it.
"""
from libc.errno cimport EINVAL, EMFILE, ENOMEM, ESRCH
from libc.stdint cimport int64_t, uint32_t, uint64_t
from posix.unistd cimport close

from zswap_core.fault cimport fault, Site
from zswap_core.memory.allocations cimport forget
from zswap_core.memory.region cimport memory_evict, memory_hint, memory_pin, memory_unpin, settle
from zswap_core.memory.state cimport (
    at_page, EXTENT, EXTENT_SHIFT, FRESH, HINT_NONE, HINT_SEQUENTIAL, kind_of, NOBODYS, PINS,
    PROGRAMS, word_of, zsw_hint, zsw_memory, zsw_program,
)
from zswap_core.memory.uffd cimport (
    zsw_epoll_add, zsw_epoll_leave, zsw_map_shared, zsw_uffd_register,
)
from zswap_core.os cimport (
    zsw_lock, zsw_peek_u32, zsw_poke_u32, zsw_poke_u64, zsw_store_u32, zsw_unlock,
)


cdef enum:
    AT_ONCE = 16 * EXTENT       # pages that are freed before the next are looked at


# ---- parts ---------------------------------------------------------------------------------------


cdef inline uint64_t part_of(uint64_t page) noexcept nogil:
    return page >> EXTENT_SHIFT


cdef inline uint64_t parts_for(uint64_t pages) noexcept nogil:
    return (pages + EXTENT - 1) >> EXTENT_SHIFT


cdef bint are_free(const zsw_memory *m, uint64_t part, uint64_t n) noexcept nogil:
    cdef uint64_t i
    if n > (m.pages >> EXTENT_SHIFT) - part:
        return False
    for i in range(n):
        if m.parts[part + i].owner:
            return False
    return True


cdef int find_free(zsw_memory *m, uint64_t n, uint64_t *found) noexcept nogil:
    """The first row of so many parts that nobody has; 0 or -ENOMEM."""
    cdef uint64_t part = m.lowest, parts = m.pages >> EXTENT_SHIFT, run = 0
    cdef bint first = True
    while part < parts:
        if m.parts[part].owner:
            run = 0
        else:
            if first:
                m.lowest = part
                first = False
            run += 1
            if run == n:
                found[0] = part + 1 - n
                return 0
        part += 1
    return -ENOMEM


cdef int map_parts(zsw_memory *m, uint32_t which, uint64_t part, uint64_t n) noexcept nogil:
    """Maps the owner's file at our addresses of the parts."""
    cdef int rc = fault(Site.MEMORY_MAP)
    if rc == 0:
        rc = zsw_map_shared(at_page(m, part << EXTENT_SHIFT),
                            <size_t> (n << EXTENT_SHIFT) << m.page_shift, m.programs[which].file,
                            (part << EXTENT_SHIFT) << m.page_shift)
    return rc


cdef void hand_out(zsw_memory *m, uint32_t which, uint64_t first, uint64_t pages) noexcept nogil:
    """The pages are the program's, and zeros."""
    cdef uint64_t page
    for page in range(first, first + pages):
        zsw_poke_u32(&m.parts[part_of(page)].owner, which)
        m.parts[part_of(page)].live += 1
        zsw_store_u32(&m.words[page], FRESH)
    zsw_poke_u64(&m.allocated, m.allocated + pages)
    m.most_allocated = max(m.most_allocated, m.allocated)
    if first + pages > m.top:
        zsw_poke_u64(&m.top, first + pages)


cdef int64_t allocate(zsw_memory *m, uint32_t which, uint64_t pages) noexcept nogil:
    cdef uint64_t part = 0
    cdef int rc = -ENOMEM
    if pages == 0 or pages > m.limit or m.allocated > m.limit - pages:
        return -ENOMEM
    rc = find_free(m, parts_for(pages), &part)
    if rc == 0:
        rc = map_parts(m, which, part, parts_for(pages))
    if rc != 0:
        return -ENOMEM
    hand_out(m, which, part << EXTENT_SHIFT, pages)
    return <int64_t> (part << EXTENT_SHIFT)


cdef int grow(zsw_memory *m, uint32_t which, uint64_t first, uint64_t old,
              uint64_t pages) noexcept nogil:
    """Makes an allocation longer, where what follows it is free."""
    cdef uint64_t next_part = part_of(first + old - 1) + 1, page
    cdef uint64_t more = parts_for(first + pages) - next_part
    if first % EXTENT or pages - old > m.limit or m.allocated > m.limit - (pages - old):
        return -ENOMEM
    for page in range(first + old, min(next_part << EXTENT_SHIFT, first + pages)):
        if kind_of(word_of(m, page)) != NOBODYS:
            return -ENOMEM
    if more and (not are_free(m, next_part, more) or map_parts(m, which, next_part, more) != 0):
        return -ENOMEM
    hand_out(m, which, first + old, pages - old)
    return 0


cdef void free_some(zsw_memory *m, uint64_t first, uint64_t pages) noexcept nogil:
    """Frees pages of one owner, of which some may have been free."""
    cdef uint64_t page, part, freed = 0
    for page in range(first, first + pages):
        if kind_of(word_of(m, page)) != NOBODYS:
            m.parts[part_of(page)].live -= 1
            freed += 1
    if freed:
        forget(m, first, pages, NOBODYS)
    for part in range(part_of(first), part_of(first + pages - 1) + 1):
        if m.parts[part].live == 0 and m.parts[part].owner:
            settle(m, part)                     # who evicts may still look at whose it was
            zsw_poke_u32(&m.parts[part].owner, 0)
            zsw_poke_u32(&m.parts[part].hint, HINT_NONE)
            m.lowest = min(m.lowest, part)
    zsw_poke_u64(&m.allocated, m.allocated - freed)


# ---- what a program asks -------------------------------------------------------------------------


cdef bint has(const zsw_memory *m, uint32_t which, uint64_t first, uint64_t pages) noexcept nogil:
    """Whether the pages lie in parts of the program's."""
    cdef uint64_t part
    if pages == 0 or first >= m.pages or pages > m.pages - first:
        return False
    for part in range(part_of(first), part_of(first + pages - 1) + 1):
        if m.parts[part].owner != which:
            return False
    return True


cdef uint64_t alike(const zsw_memory *m, uint64_t first, uint64_t pages, uint64_t most,
                    bint allocated, bint pinned) noexcept nogil:
    """How many pages from the first on are like that."""
    cdef uint64_t n = 0
    cdef uint32_t word
    while n < min(pages, most):
        word = word_of(m, first + n)
        if (kind_of(word) != NOBODYS) != allocated or (word & PINS != 0) != pinned:
            break
        n += 1
    return n


cdef void free_pages(zsw_memory *m, uint32_t which, uint64_t first, uint64_t pages) noexcept nogil:
    cdef uint64_t n, end = first + pages
    while first < end:
        n = min(end - first, <uint64_t> EXTENT - first % EXTENT)
        if m.parts[part_of(first)].owner == which:
            while (n < end - first and n < AT_ONCE
                    and m.parts[part_of(first + n)].owner == which):
                n = min(end - first, n + EXTENT)
            free_some(m, first, n)
        first += n


cdef int give_up(zsw_memory *m, uint64_t first, uint64_t pages) noexcept nogil:
    cdef uint64_t n, i, end = first + pages
    for i in range(first, end):
        if word_of(m, i) & PINS:
            return -EINVAL
    while first < end:
        n = alike(m, first, end - first, AT_ONCE, True, False)
        if n:
            forget(m, first, n, FRESH)
        first += max(n, <uint64_t> 1)
    return 0


cdef void unpin(zsw_memory *m, uint64_t first, uint64_t pages) noexcept nogil:
    cdef uint64_t n, end = first + pages
    while first < end:
        n = alike(m, first, end - first, end - first, True, True)
        if n:
            memory_unpin(m, first, n)
        first += max(n, <uint64_t> 1)


cdef int pin(zsw_memory *m, uint64_t first, uint64_t pages) noexcept nogil:
    """Pins what is not: who locks twice unlocks once.  Where that is too much, nothing stays
    pinned of the span."""
    cdef uint64_t n, at = first
    cdef int rc = 0
    while at < first + pages and rc == 0:
        n = alike(m, at, first + pages - at, first + pages - at, True, False)
        if n:
            rc = memory_pin(m, at, n)
        elif kind_of(word_of(m, at)) == NOBODYS:
            rc = -ENOMEM
        at += max(n, <uint64_t> 1)
    if rc != 0:
        unpin(m, first, pages)
        return -ENOMEM
    return 0


cdef void program_ask(zsw_memory *m, uint32_t which, const zsw_request *q,
                      zsw_reply *r) noexcept nogil:
    """Does what a program asks for, and says what became of it."""
    r.value = -EINVAL
    r.stale = zsw_peek_u32(&m.programs[which].stale)
    if q.what == ZSW_ALLOCATE:
        r.value = allocate(m, which, q.pages)
    elif q.what == ZSW_FREE:
        if q.first < m.pages and q.pages and q.pages <= m.pages - q.first:
            free_pages(m, which, q.first, q.pages)
            r.value = 0
    elif q.what == ZSW_GROW:
        if has(m, which, q.first, q.more) and q.pages > q.more and q.pages <= m.pages - q.first:
            r.value = grow(m, which, q.first, q.more, q.pages)
    elif has(m, which, q.first, q.pages):
        r.value = 0
        if q.what == ZSW_GIVE_UP:
            r.value = give_up(m, q.first, q.pages)
        elif q.what == ZSW_PIN:
            r.value = pin(m, q.first, q.pages)
        elif q.what == ZSW_UNPIN:
            unpin(m, q.first, q.pages)
        elif q.what == ZSW_EVICT:
            memory_evict(m, q.first, q.pages)
        elif q.what == ZSW_HINT and q.hint <= HINT_SEQUENTIAL:
            memory_hint(m, q.first, q.pages, <zsw_hint> q.hint)
        else:
            r.value = -EINVAL


# ---- coming and going ----------------------------------------------------------------------------


cdef int program_join(zsw_memory *m, int fd, int file, uint64_t base) noexcept nogil:
    """A program has mapped `file` at `base`, under the userfaultfd `fd`; both are ours from now on.
    Its number, from 1 on, or -errno with nothing taken."""
    cdef uint32_t which
    cdef int rc
    for which in range(1, <uint32_t> PROGRAMS):
        if m.programs[which].fd < 0:
            m.programs[which].file = file
            m.programs[which].base = base
            m.programs[which].stale = 0
            zsw_store_u32(<uint32_t *> &m.programs[which].fd, <uint32_t> fd)
            rc = zsw_epoll_add(m.fd, fd, which)
            if rc != 0:
                m.programs[which].fd = -1
                return rc
            return <int> which
    return -EMFILE


cdef void program_leave(zsw_memory *m, uint32_t which) noexcept nogil:
    """The program has ended: all that it had is free."""
    cdef zsw_program *p = &m.programs[which]
    cdef uint64_t part = 0, n, parts = (m.top + EXTENT - 1) >> EXTENT_SHIFT
    cdef int fd = p.fd
    zsw_lock(&m.reading)                        # no fault of its is being served, nor will be
    zsw_epoll_leave(m.fd, fd)
    p.left = 1
    zsw_unlock(&m.reading)
    while part < parts:
        n = 0
        while part + n < parts and m.parts[part + n].owner == which:
            n += 1
        if n:
            free_pages(m, which, part << EXTENT_SHIFT, n << EXTENT_SHIFT)
        part += max(n, <uint64_t> 1)
    close(fd)
    close(p.file)
    p.left = 0
    p.fd = -1


cdef bint program_is_alive(const zsw_memory *m, uint32_t which) noexcept nogil:
    """Whether the program's memory is there, be it that its socket is closed: what is registered
    may be once more."""
    return zsw_uffd_register(m.programs[which].fd, <void *> m.programs[which].base,
                             m.page_size) != -ESRCH
