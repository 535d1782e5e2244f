"""A memory's threads: one evicts ahead of need, others read faults where those come as messages."""
from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint64_t
from posix.unistd cimport close, pipe

from zswap_core.fault cimport fault, Site
from zswap_core.memory.evict cimport evict_some
from zswap_core.memory.fetch cimport GONE, memory_fault, NO_PAGE
from zswap_core.memory.room cimport high_mark, low_mark, set_room
from zswap_core.memory.signals cimport catch_signals, complain
from zswap_core.memory.split cimport split_move
from zswap_core.memory.state cimport at_page, EXTENT_SHIFT, SERVERS, zsw_memory, zsw_program
from zswap_core.memory.uffd cimport (
    zsw_epoll_next, zsw_uffd_next, zsw_uffd_poison, zsw_uffd_poll, zsw_uffd_wake,
)
from zswap_core.os cimport (
    zsw_add_u32, zsw_fence, zsw_futex_wait_for, zsw_futex_wake, zsw_load_u32, zsw_lock, zsw_now_ns,
    zsw_pause, zsw_peek_u32, zsw_peek_u64, zsw_poke_u32, zsw_store_u32, zsw_thread_join,
    zsw_thread_start, zsw_unlock,
)


cdef enum:
    BATCH = 64                  # pages that are evicted between two looks at the room
    TICK_NS = 50000000          # how often it looks whose SIGBUS is
    PAUSE_NS = 1000000          # after it could evict nothing
    SPIN_NS = 50000             # how long a reader of faults looks for the next before it sleeps


cdef bint evict_down(zsw_memory *m) noexcept nogil:
    """Evicts down to the low mark; False when nothing goes."""
    while zsw_peek_u64(&m.resident) > low_mark(m):
        if zsw_load_u32(&m.stop):
            return True
        if evict_some(m, BATCH) == 0:
            return False
        set_room(m)
        split_move(m)
    return True


cdef void *evict_ahead(void *arg) noexcept nogil:
    cdef zsw_memory *m = <zsw_memory *> arg
    cdef uint32_t seen
    cdef uint64_t wait
    while not zsw_load_u32(&m.stop):
        seen = zsw_load_u32(&m.work)
        set_room(m)
        split_move(m)
        wait = TICK_NS
        if zsw_peek_u64(&m.resident) > high_mark(m) and not evict_down(m):
            wait = PAUSE_NS
        zsw_store_u32(&m.idle, 1)
        zsw_fence()                             # see kick
        if wait == PAUSE_NS or zsw_peek_u64(&m.resident) <= high_mark(m):
            zsw_futex_wait_for(&m.work, seen, wait)
        zsw_store_u32(&m.idle, 0)
        if m.programs == NULL:
            catch_signals()
    return NULL


cdef void answer(zsw_memory *m, uint64_t address, uint32_t how) noexcept nogil:
    """Serves a fault that was read; a page that cannot be had is a SIGBUS to who waits for it."""
    cdef uint64_t page = (address - <uint64_t> m.base) >> m.page_shift
    cdef int rc = memory_fault(m, page, how)
    if rc < 0:
        complain(m, page, <uint64_t> at_page(m, page), rc)
        zsw_uffd_poison(m.fd, at_page(m, page), m.page_size)
    zsw_uffd_wake(m.fd, at_page(m, page), m.page_size)


cdef void answer_program(zsw_memory *m, zsw_program *p, uint32_t which, uint64_t address,
                         uint32_t how) noexcept nogil:
    """The same for a fault of a program's, which may touch what it has freed."""
    cdef uint64_t page = (address - p.base) >> m.page_shift
    cdef uint64_t at = address & ~<uint64_t> (m.page_size - 1)
    cdef int rc = NO_PAGE
    if page < m.pages and zsw_peek_u32(&m.parts[page >> EXTENT_SHIFT].owner) == which:
        rc = memory_fault(m, page, how)
    if rc < 0 and rc != GONE:
        complain(m, page, at, rc)
        zsw_poke_u32(&p.stale, 1)
        zsw_uffd_poison(p.fd, <void *> at, m.page_size)
    zsw_uffd_wake(p.fd, <void *> at, m.page_size)


cdef bint read_fault(zsw_memory *m) noexcept nogil:
    """Serves a fault, if there is one."""
    cdef uint64_t address = 0, thread = 0
    cdef uint32_t how = 0, which = 0
    cdef zsw_program *p
    if m.programs == NULL:
        if zsw_uffd_next(m.fd, &address, &how, &thread) <= 0:
            return False
        answer(m, address, how)
        return True
    if not zsw_epoll_next(m.fd, &which):
        return False
    p = &m.programs[which]
    zsw_lock(&m.reading)
    if not p.left and zsw_uffd_next(p.fd, &address, &how, &m.asking) > 0:
        answer_program(m, p, which, address, how)
    zsw_unlock(&m.reading)
    return True


cdef void *read_faults(void *arg) noexcept nogil:
    cdef zsw_memory *m = <zsw_memory *> arg
    cdef uint64_t last = 0
    while not zsw_load_u32(&m.stop):
        if read_fault(m):
            last = zsw_now_ns()
        elif zsw_now_ns() - last > <uint64_t> SPIN_NS:
            zsw_uffd_poll(m.fd, m.ended)
        else:
            zsw_pause()
    return NULL


cdef int start_threads(zsw_memory *m) noexcept nogil:
    """0 or -errno; what was started before it failed is to be stopped."""
    cdef int ends[2]
    cdef int rc = fault(Site.MEMORY_THREAD)
    if rc == 0:
        rc = zsw_thread_start(&m.evictor, evict_ahead, m)
    m.evictor_started = rc == 0
    if rc == 0 and m.threads:
        rc = fault(Site.MEMORY_THREAD)
        if rc == 0 and pipe(ends) != 0:
            rc = -errno
        if rc == 0:
            m.ended, m.ending = ends[0], ends[1]
        while rc == 0 and m.servers_started < <uint32_t> SERVERS:
            rc = zsw_thread_start(&m.servers[m.servers_started], read_faults, m)
            m.servers_started += rc == 0
    return rc


cdef void stop_threads(zsw_memory *m) noexcept nogil:
    cdef uint32_t i
    zsw_store_u32(&m.stop, 1)
    if m.ending >= 0:
        close(m.ending)                         # which ends their sleep
    for i in range(m.servers_started):
        zsw_thread_join(m.servers[i])
    if m.ended >= 0:
        close(m.ended)
    if m.evictor_started:
        zsw_add_u32(&m.work, 1)
        zsw_futex_wake(&m.work, 1)
        zsw_thread_join(m.evictor)
    m.servers_started = m.evictor_started = 0
