"""A memory's life, and what the owner of an allocation asks."""
from libc.errno cimport EBUSY, ENOMEM, ENOSPC
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from posix.unistd cimport close

from zswap_core.calls cimport engine_enter, engine_enter_ready, engine_leave
from zswap_core.extents cimport zsw_extent
from zswap_core.fault cimport fault, Site
from zswap_core.forks cimport unwatch_forks, watch_forks, zsw_fork_watch
from zswap_core.memory.allocations cimport forget, release_stalest
from zswap_core.memory.evict cimport evict_part
from zswap_core.memory.fetch cimport fetch_span, memory_fault
from zswap_core.memory.room cimport kick, lasting_room, pins_of, promise_pins, set_room
from zswap_core.memory.server cimport start_threads, stop_threads
from zswap_core.memory.signals cimport (
    catch_signals, leave_shell, serve_signals, stop_serving, take_shell,
)
from zswap_core.memory.split cimport split_begin, split_scale
from zswap_core.memory.state cimport (
    AWAY, BUSY, BY_SIGNALS, count_pinned, EXTENT, EXTENT_SHIFT, fd_of, FRESH, HERE, kind_of,
    LEAVING, OF_PROGRAMS, PIN_ONE, PINS, PROGRAMS, rest, seen_at, SLOTS, THREADS, WINDOW, word_of,
    zsw_hint, zsw_memory, zsw_mode, zsw_part, zsw_program, zsw_slot, zsw_streams,
)
from zswap_core.memory.uffd cimport (
    zsw_epoll_open, zsw_keep_from_children, zsw_map_nothing, zsw_pidfd, zsw_sum,
    zsw_uffd_open_messages, zsw_uffd_open_programs, zsw_uffd_open_signals, zsw_uffd_protect,
    zsw_uffd_register,
)
from zswap_core.os cimport (
    zsw_add_u64, zsw_cas_u32, zsw_cpu_count, zsw_ctz, zsw_fence, zsw_load_u32, zsw_lock, zsw_map_as,
    ZSW_MAP_NO_DUMP, ZSW_MAP_NO_FORK, zsw_peek_u32, zsw_peek_u64, zsw_poke_u32, zsw_poke_u64,
    zsw_random, zsw_unlock, zsw_unmap,
)
from zswap_core.slab cimport ANY_ID, slab_destroy, slab_init
from zswap_core.state cimport zsw_engine, zsw_pool, zsw_worker
from zswap_core.worker cimport worker_context, worker_scratch


cdef enum:
    SPARE_WORKERS = 4
    RANDOM_BYTES = 256
    BROUGHT_SHIFT = 4           # of the room, the most that is fetched when it is allocated
    STACKS = 64 << 10           # what the threads touch of theirs, about
    PATIENCE_S = 30


cdef inline uint64_t mask_of(uint64_t first, uint64_t pages, uint64_t part) noexcept nogil:
    """Which pages of an extent lie in the span."""
    cdef uint64_t start = part << EXTENT_SHIFT
    cdef uint64_t low = max(first, start) - start
    cdef uint64_t high = min(first + pages, start + EXTENT) - start
    return (<uint64_t> -1 >> (EXTENT - (high - low))) << low


# ---- life ----------------------------------------------------------------------------------------


cdef void in_child(zsw_fork_watch *watch) noexcept nogil:
    """A forked child has none of it, and must not take zeros or another mapping for it."""
    cdef zsw_memory *m = <zsw_memory *> watch
    if m.forked:                                # a child's child: the descriptors are others' now
        return
    m.forked = 1
    zsw_map_nothing(m.base, m.bytes)
    close(m.fd)
    if m.pidfd >= 0:
        close(m.pidfd)
    if m.threads:
        close(m.ended)
        close(m.ending)


cdef int warm_up(zsw_engine *e) noexcept nogil:
    """Makes what calls of the engine need, so that a fault finds it: workers, and what they
    compress with."""
    cdef zsw_worker *workers[256]
    cdef uint32_t n = 0, most = min(zsw_cpu_count() + SPARE_WORKERS, 256)
    cdef zsw_pool *pool = e.current
    cdef int rc = 0
    while n < most and rc == 0:
        workers[n] = engine_enter(e, &rc)
        if workers[n] == NULL:
            break
        n += 1
        if not worker_scratch(e, workers[n - 1], pool.bound):
            rc = -ENOMEM
        elif (pool.compressor.ops.ctx_new != NULL
                and worker_context(e, workers[n - 1], pool) == NULL):
            rc = -ENOMEM
    while n:
        n -= 1
        engine_leave(e, workers[n])
    return rc


cdef void *map_table(zsw_memory *m, size_t size) noexcept nogil:
    if fault(Site.MEMORY_MAP) != 0:
        return NULL
    return zsw_map_as(size, ZSW_MAP_NO_DUMP | ZSW_MAP_NO_FORK)


cdef int map_programs(zsw_memory *m) noexcept nogil:
    cdef uint32_t i
    m.programs = <zsw_program *> map_table(m, PROGRAMS * sizeof(zsw_program))
    if m.programs == NULL:
        return -ENOMEM
    for i in range(<uint32_t> PROGRAMS):
        m.programs[i].fd = m.programs[i].file = -1
    return 0


cdef int map_tables(zsw_memory *m) noexcept nogil:
    cdef size_t window = <size_t> WINDOW << m.page_shift
    cdef uint32_t i
    m.words = <uint32_t *> map_table(m, m.pages * sizeof(uint32_t))
    m.sums = <zsw_sum *> map_table(m, m.pages * sizeof(zsw_sum))
    m.parts = <zsw_part *> map_table(m, (m.pages >> EXTENT_SHIFT) * sizeof(zsw_part))
    m.sizes = <uint32_t *> map_table(m, m.pages * sizeof(uint32_t))
    m.key = <uint64_t *> map_table(m, m.page_size)
    m.streams = <zsw_streams *> map_table(m, THREADS * sizeof(zsw_streams))
    m.slots = <zsw_slot *> map_table(m, SLOTS * sizeof(zsw_slot))
    m.slot_memory = <uint8_t *> map_table(m, 2 * SLOTS * window)
    if (m.words == NULL or m.sums == NULL or m.parts == NULL or m.sizes == NULL or m.key == NULL
            or m.streams == NULL or m.slots == NULL or m.slot_memory == NULL):
        return -ENOMEM
    for i in range(<uint32_t> SLOTS):
        m.slots[i].memory = m.slot_memory + 2 * i * window
        m.slots[i].parking.memory = m.slots[i].memory + window
        m.slots[i].parking.most = WINDOW
    for i in range(m.page_size // RANDOM_BYTES):
        if zsw_random(<uint8_t *> m.key + i * RANDOM_BYTES, RANDOM_BYTES) != 0:
            return -ENOMEM
    m.seed = m.key[0] | 1
    m.overhead = 4 * window + m.page_size + 4 * sizeof(zsw_slot) + STACKS
    return 0


cdef void unmap_tables(zsw_memory *m) noexcept nogil:
    zsw_unmap(m.words, m.pages * sizeof(uint32_t))
    zsw_unmap(m.sums, m.pages * sizeof(zsw_sum))
    zsw_unmap(m.parts, (m.pages >> EXTENT_SHIFT) * sizeof(zsw_part))
    zsw_unmap(m.sizes, m.pages * sizeof(uint32_t))
    zsw_unmap(m.key, m.page_size)
    zsw_unmap(m.streams, THREADS * sizeof(zsw_streams))
    zsw_unmap(m.slots, SLOTS * sizeof(zsw_slot))
    zsw_unmap(m.slot_memory, 2 * SLOTS * (<size_t> WINDOW << m.page_shift))
    zsw_unmap(m.programs, PROGRAMS * sizeof(zsw_program))


cdef int open_faults(zsw_mode mode) noexcept nogil:
    """What faults are read from, or their signals had by; of programs, which have userfaultfds of
    their own, all of these once they come."""
    cdef int rc
    if mode == BY_SIGNALS:
        return zsw_uffd_open_signals()
    if mode != OF_PROGRAMS:
        return zsw_uffd_open_messages()
    rc = zsw_uffd_open_programs()               # whether they may
    if rc < 0:
        return rc
    close(rc)
    return zsw_epoll_open()


cdef int map_memory(zsw_memory *m, zsw_mode mode) noexcept nogil:
    """The memory itself, under its userfaultfd."""
    cdef int rc = fault(Site.MEMORY_OPEN)
    if rc == 0:
        m.fd = open_faults(mode)
        rc = min(m.fd, 0)
    if rc != 0:
        return rc
    if fault(Site.MEMORY_MAP) == 0:
        m.base = <uint8_t *> zsw_map_as(m.bytes, ZSW_MAP_NO_DUMP)
    if m.base == NULL:
        return -ENOMEM
    rc = zsw_keep_from_children(m.base, m.bytes)
    if rc == 0:
        rc = fault(Site.MEMORY_REGISTER)
    if rc == 0 and mode != OF_PROGRAMS:
        rc = zsw_uffd_register(m.fd, m.base, m.bytes)
    return rc


cdef int memory_open(zsw_engine *e, uint64_t pages, uint64_t budget, uint64_t limit, bint divides,
                     zsw_mode mode, zsw_memory **out) noexcept nogil:
    """A memory with room for so many pages, whose cold ones go to area 0 of an engine that nobody
    else uses; it `divides` the budget between these and the pool, or leaves the pool's limit alone.
    0 or -errno; -EBUSY when there are too many memories."""
    cdef zsw_memory *m = take_shell()
    cdef int rc
    if m == NULL:
        return -EBUSY
    m.e = e
    m.fd = m.pidfd = m.ending = m.ended = -1
    m.page_size = e.page_size
    m.page_shift = zsw_ctz(e.page_size)
    m.pages = (pages + EXTENT - 1) & ~<uint64_t> (EXTENT - 1)
    m.bytes = m.pages << m.page_shift
    m.threads = mode != BY_SIGNALS
    m.budget, m.limit = budget, limit
    m.patience = <uint64_t> PATIENCE_S * 1000000000
    m.watch.in_child = in_child
    slab_init(&m.nodes, sizeof(zsw_extent), ANY_ID)
    rc = map_memory(m, mode)
    if rc == 0:
        rc = map_tables(m)
    if rc == 0 and mode == OF_PROGRAMS:
        rc = map_programs(m)
    if rc == 0:
        rc = warm_up(e)
    if rc == 0:
        split_begin(m, e.params.max_pages if divides else 0)
        set_room(m)
        m.pidfd = zsw_pidfd()
        if mode != OF_PROGRAMS:
            rc = min(catch_signals(), 0)
    if rc == 0:
        rc = watch_forks(&m.watch)
    if rc == 0:
        if mode != OF_PROGRAMS:
            serve_signals(m)
        rc = start_threads(m)
    if rc != 0:
        memory_close(m)
        return rc
    out[0] = m
    return 0


cdef void memory_close(zsw_memory *m) noexcept nogil:
    """Frees all of it; nobody has an array in it any more."""
    unwatch_forks(&m.watch)
    if not m.forked:
        stop_threads(m)
    stop_serving(m)
    if m.fd >= 0 and not m.forked:
        close(m.fd)
    if m.pidfd >= 0 and not m.forked:
        close(m.pidfd)
    zsw_unmap(m.base, m.bytes)
    unmap_tables(m)
    slab_destroy(&m.nodes)
    leave_shell(m)


# ---- what the owner of an allocation asks --------------------------------------------------------


cdef int pin_page(zsw_memory *m, uint64_t page) noexcept nogil:
    cdef uint32_t word, times = 0
    cdef int rc
    while True:
        word = zsw_load_u32(&m.words[page])
        if kind_of(word) == HERE:
            if word & PINS == PINS:
                return -EBUSY
            if zsw_cas_u32(&m.words[page], word, word + PIN_ONE):
                if word & PINS == 0:
                    count_pinned(m, page, 1)
                return 0
        elif kind_of(word) == BUSY or kind_of(word) == LEAVING:
            rest(&times)
        else:
            rc = memory_fault(m, page, 0)
            if rc < 0:
                return rc


cdef void settle(zsw_memory *m, uint64_t part) noexcept nogil:
    """Waits until evict has left an extent in which pages were pinned."""
    cdef uint32_t times = 0
    zsw_fence()
    while zsw_load_u32(&m.parts[part].leaving):
        rest(&times)


cdef int memory_pin(zsw_memory *m, uint64_t first, uint64_t pages) noexcept nogil:
    """Fetches the pages and keeps them until they are unpinned as often.  0, or what is wrong, with
    nothing pinned: -ENOMEM when too much would be, -EBUSY when a page is too often, else as
    memory_fault."""
    cdef uint64_t i = 0, part
    cdef int rc = 0
    if not promise_pins(m, pages):
        return -ENOMEM
    while i < pages and rc == 0:
        if i % WINDOW == 0:
            fetch_span(m, first + i, <uint32_t> min(pages - i, <uint64_t> WINDOW), &rc)
            rc = 0                              # told when the page itself is pinned
        rc = pin_page(m, first + i)
        if rc == 0:
            i += 1
            zsw_add_u64(&m.pinning, <uint64_t> -1)
    if rc != 0:
        zsw_add_u64(&m.pinning, i - pages)
        memory_unpin(m, first, i)
        return rc
    for part in range(first >> EXTENT_SHIFT, ((first + pages - 1) >> EXTENT_SHIFT) + 1):
        settle(m, part)
    # evict may have protected, before they were pinned, more than it noticed
    zsw_uffd_protect(fd_of(m, first), seen_at(m, first), <size_t> pages << m.page_shift, False,
                     m.page_size)
    return 0


cdef int memory_pin_one(zsw_memory *m, uint64_t page) noexcept nogil:
    """The same for a page, however much is pinned: for who keeps no more, and not for long."""
    cdef int rc = pin_page(m, page)
    if rc == 0:
        settle(m, page >> EXTENT_SHIFT)
        zsw_uffd_protect(fd_of(m, page), seen_at(m, page), m.page_size, False, m.page_size)
    return rc


cdef void memory_unpin(zsw_memory *m, uint64_t first, uint64_t pages) noexcept nogil:
    cdef uint64_t i = 0
    cdef uint32_t word, times = 0
    while i < pages:
        word = zsw_load_u32(&m.words[first + i])
        if kind_of(word) == HERE and zsw_cas_u32(&m.words[first + i], word, word - PIN_ONE):
            if (word - PIN_ONE) & PINS == 0:
                count_pinned(m, first + i, -1)
            i += 1
        else:
            rest(&times)


cdef int memory_fetch(zsw_memory *m, uint64_t first, uint64_t pages) noexcept nogil:
    """Fetches as many of the pages as half of the room holds.  0, or what became of the first that
    could not be."""
    cdef uint64_t i = 0, most = min(pages, zsw_peek_u64(&m.room) // 2)
    cdef int rc = 0
    while i < most and rc >= 0:
        i += fetch_span(m, first + i, <uint32_t> min(most - i, <uint64_t> WINDOW), &rc)
    return min(rc, 0)


cdef void memory_bring(zsw_memory *m, uint64_t first, uint64_t pages) noexcept nogil:
    """Fetches pages that are about to be written, unless that is much of the room.  So one call
    does what would be many faults."""
    cdef uint64_t i
    cdef uint32_t kind
    cdef int rc = 0
    if pages > zsw_peek_u64(&m.room) >> BROUGHT_SHIFT:
        return
    for i in range(pages):
        kind = kind_of(word_of(m, first + i))
        if kind == FRESH or kind == AWAY:
            fetch_span(m, first + i, <uint32_t> min(pages - i, <uint64_t> WINDOW), &rc)
            # there may have been room for some of them alone
            if kind_of(word_of(m, first + i)) != HERE and memory_fault(m, first + i, 0) < 0:
                return


cdef void memory_evict(zsw_memory *m, uint64_t first, uint64_t pages) noexcept nogil:
    """Evicts what of the pages is resident and not pinned."""
    cdef uint64_t part, i
    cdef uint32_t times = 0
    cdef int rc = 0
    cdef zsw_worker *w
    # What a thread of ours has just mapped, who asked for it touches before it is noted.
    for i in range(first, first + pages):
        while kind_of(word_of(m, i)) == BUSY:
            rest(&times)
    w = engine_enter_ready(m.e, &rc)
    if w == NULL:
        return
    for part in range(first >> EXTENT_SHIFT, ((first + pages - 1) >> EXTENT_SHIFT) + 1):
        while zsw_peek_u32(&m.parts[part].here):
            settle(m, part)                     # another thread may be at it, and leave some
            if (evict_part(m, w, part, mask_of(first, pages, part), True) != 0
                    or not zsw_load_u32(&m.parts[part].leaving)):
                break
    engine_leave(m.e, w)
    set_room(m)


cdef int memory_give_up(zsw_memory *m, uint64_t first, uint64_t pages) noexcept nogil:
    """Drops the content of the pages, which are zeros from then on.  -EBUSY when one is pinned."""
    cdef uint64_t i
    for i in range(pages):
        if word_of(m, first + i) & PINS:
            return -EBUSY
    i = 0
    while i < pages:
        forget(m, first + i, min(pages - i, <uint64_t> EXTENT), FRESH)
        i += EXTENT
    return 0


cdef void memory_hint(zsw_memory *m, uint64_t first, uint64_t pages,
                      zsw_hint hint) noexcept nogil:
    """How the pages will be read, to whole extents."""
    cdef uint64_t part
    for part in range(first >> EXTENT_SHIFT, ((first + pages - 1) >> EXTENT_SHIFT) + 1):
        zsw_poke_u32(&m.parts[part].hint, hint)


cdef int memory_set_budget(zsw_memory *m, uint64_t budget, uint64_t limit) noexcept nogil:
    """-ENOSPC when more is allocated than the new limit, -EBUSY when more is pinned than half of
    what room is left; then nothing changes."""
    cdef uint64_t before = zsw_peek_u64(&m.budget)
    cdef int rc = 0
    if budget < before and pins_of(m) > lasting_room(m, budget) // 2:
        return -EBUSY
    while zsw_peek_u64(&m.allocated) + zsw_peek_u64(&m.kept_pages) > limit and release_stalest(m):
        pass
    zsw_lock(&m.extents.lock)
    if m.allocated > limit:
        rc = -ENOSPC
    else:
        m.limit = limit
        zsw_poke_u64(&m.budget, budget)
    zsw_unlock(&m.extents.lock)
    if rc == 0:
        split_scale(m, before, budget)
        set_room(m)
        kick(m)
    return rc
