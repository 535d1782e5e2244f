"""An access trace replayed through a model of RAM, zswap and the swap device, for `zswap replay`.

No page's bytes are looked at, only what each compresses to; so a reference takes nanoseconds, and
the same trace can be replayed for many settings.

RAM is the kernel's two lists: what comes goes on the inactive one, reclaim looks at its old end,
and what it finds touched twice goes on the active one; a page that comes back sooner than the
active list is long goes there at once.  zswap is docs/kernel.md's: limit and accept threshold,
writeback from the old end of its LRU with second chance, by the worker or by the shrinker.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from zswap_core.buffers cimport Items, items_of


cdef enum:
    PAGE_BYTES = 4096
    MOST_CLASSES = 256
    GROUPS = 12                 # of the zspages of a class, by how full they are
    FULL_GROUP = 11
    MOST_BATCH = 32             # pages that reclaim wants at a time, unless there are few
    MOST_FAILURES = 16          # of a run of the worker
    SHRINK_BATCH = 128          # entries that the shrinker looks at, at a time
    HEADROOM_SHARE = 32         # of our own engine: see budget.pxd
    HEADROOM_PAGES = 1024
    MOST_AHEAD = 5              # at most 2**5 pages are read ahead, whatever page-cluster is
    MOST_AHEAD_HITS = 63

    # where a page is
    NEW = 0
    INACTIVE = 1
    ACTIVE = 2
    POOL = 3
    DEVICE = 4

    # what is known of it
    YOUNG = 1                   # touched since reclaim last looked
    REFERENCED = 2              # which has found it touched before
    DIRTY = 4                   # there is no copy of it elsewhere that would do
    AHEAD = 8                   # read ahead, not touched since
    SHADOW = 16                 # it has been evicted
    RECENT = 32                 # its entry gets another round
    KEPT = 64                   # in RAM, and still in the pool

    # what is done with a page
    READ = 0
    WRITE = 1
    FREE = 2

    # what the pool takes of the memory
    BESIDE = 0                  # nothing: the limit is for resident pages alone
    WHOLE = 1                   # its allocator's pages
    PAYLOAD = 2                 # its payloads: so a memory cgroup is charged

    # events of the log
    STORED = 0
    LOADED = 1
    DROPPED = 2


# What is counted, in the order of `COUNTERS`.
cdef struct zsw_replayed:
    uint64_t references
    uint64_t hits
    uint64_t first_touches
    uint64_t same_hits
    uint64_t pool_hits
    uint64_t device_hits
    uint64_t ahead_pool
    uint64_t ahead_device
    uint64_t ahead_used
    uint64_t evicted
    uint64_t dropped
    uint64_t same_filled
    uint64_t stored
    uint64_t rejected
    uint64_t limit_hits
    uint64_t written_back
    uint64_t second_chances
    uint64_t freed
    uint64_t most_pool_pages
    uint64_t most_stored
    uint64_t most_resident
    # sums over all references, for means
    uint64_t sum_pool_pages
    uint64_t sum_stored
    uint64_t sum_resident


COUNTERS = (
    "references", "hits", "first_touches", "same_hits", "pool_hits", "device_hits", "ahead_pool",
    "ahead_device", "ahead_used", "evicted", "dropped", "same_filled", "stored", "rejected",
    "limit_hits", "written_back", "second_chances", "freed", "most_pool_pages", "most_stored",
    "most_resident", "sum_pool_pages", "sum_stored", "sum_resident",
)


cdef struct zsw_spot:
    # neighbours in RAM's lists, and in the pool's LRU
    uint32_t next
    uint32_t prev
    uint32_t znext
    uint32_t zprev
    uint32_t shadow             # RAM's age when it was evicted
    uint32_t zspage             # that holds its entry
    uint16_t size               # what it compresses to; 0: same-filled
    uint8_t where
    uint8_t flags


cdef struct zsw_size_class:
    uint32_t size
    uint32_t pages              # of a zspage
    uint32_t objects
    uint64_t share              # of a zspage, an object: 1/16 bytes
    uint64_t count
    uint32_t fullness[GROUPS]   # the newest zspage of each group; 0: there is none


cdef struct zsw_zspage:
    uint32_t next
    uint32_t prev               # 0 at the head of its group
    uint16_t used               # objects
    uint8_t size_class
    uint8_t group
    bint was_full


cdef struct zsw_replay:
    zsw_spot *spots             # of each page, then the heads of the lists: inactive, active
    const uint64_t *numbers     # ascending
    uint32_t pages
    uint64_t memory             # pages
    uint64_t batch
    uint64_t most               # pages of the pool; 0: there is none
    uint64_t accept
    bint zswap
    bint shrinker
    bint ours                   # our own engine instead of the kernel's
    bint exclusive              # a load takes the entry out
    int charged
    uint32_t cluster
    zsw_size_class classes[MOST_CLASSES]
    uint32_t class_count
    bint compacted              # zspages are kept as full as may be
    uint64_t whole_pages        # of zspages that were full once
    uint64_t shares             # of the objects of all others: other programs' pages fill these up
    zsw_zspage *zspages         # from 1
    uint32_t zspage_count       # that have been there
    uint32_t unused_zspage
    uint8_t class_of[PAGE_BYTES + 1]
    uint64_t inactive, active, age
    uint64_t stored, pool_pages, payload
    bint full
    bint worker_wanted
    uint64_t device_reads       # that the shrinker has caused, as far as it has not paid for them
    double due                  # entries that the shrinker is to look at
    uint64_t ahead_at           # where the last fault was, how far was read ahead, what came of it
    uint32_t ahead_pages, ahead_hits
    uint64_t *log
    uint64_t logged, log_room
    zsw_replayed n


cdef inline void log_event(zsw_replay *r, uint32_t i, uint32_t event) noexcept nogil:
    if r.log != NULL:
        if r.logged < r.log_room:
            r.log[r.logged] = <uint64_t> i << 2 | event
        r.logged += 1


# ---- the pool ------------------------------------------------------------------------------------


cdef inline uint64_t pages_of(const zsw_size_class *c) noexcept nogil:
    """Pages that a class takes by itself, no zspage being emptier than need be; the last one has
    grown page by page."""
    cdef uint64_t zspages = c.count // c.objects, rest = c.count % c.objects
    return zspages * c.pages + (rest * c.size + PAGE_BYTES - 1) // PAGE_BYTES


cdef inline uint8_t group_of(uint32_t used, uint32_t objects) noexcept nogil:
    if used == 0 or used == objects:
        return FULL_GROUP if used else 0
    return <uint8_t> (10 * used // objects + 1)


cdef void zspage_regroup(zsw_replay *r, uint32_t z, uint8_t group) noexcept nogil:
    """A zspage comes first in a group of its class."""
    cdef zsw_zspage *page = &r.zspages[z]
    cdef zsw_size_class *c = &r.classes[page.size_class]
    zspage_leave(r, z)
    page.group, page.prev, page.next = group, 0, c.fullness[group]
    r.zspages[page.next].prev = z
    c.fullness[group] = z


cdef void zspage_leave(zsw_replay *r, uint32_t z) noexcept nogil:
    cdef zsw_zspage *page = &r.zspages[z]
    r.zspages[page.next].prev = page.prev
    if page.prev:
        r.zspages[page.prev].next = page.next
    elif r.classes[page.size_class].fullness[page.group] == z:
        r.classes[page.size_class].fullness[page.group] = page.next


cdef uint32_t zspage_new(zsw_replay *r, uint8_t size_class) noexcept nogil:
    cdef uint32_t z = r.unused_zspage
    if z:
        r.unused_zspage = r.zspages[z].next
    else:
        r.zspage_count += 1
        z = r.zspage_count
    r.zspages[z].next = r.zspages[z].prev = 0
    r.zspages[z].used, r.zspages[z].group, r.zspages[z].size_class = 0, 0, size_class
    r.zspages[z].was_full = False
    return z


cdef void zspage_take(zsw_replay *r, uint32_t i, uint8_t size_class) noexcept nogil:
    """An object goes to the fullest zspage with room, of these to the one that came there last."""
    cdef zsw_size_class *c = &r.classes[size_class]
    cdef uint32_t z = 0
    cdef uint8_t group = FULL_GROUP
    while z == 0 and group > 0:
        group -= 1
        z = c.fullness[group]
    if z == 0:
        z = zspage_new(r, size_class)
    r.spots[i].zspage = z
    zspage_count_object(r, z, 1)


cdef void zspage_count_object(zsw_replay *r, uint32_t z, int change) noexcept nogil:
    """One more object, or one fewer; without any a zspage is given back."""
    cdef zsw_zspage *page = &r.zspages[z]
    cdef zsw_size_class *c = &r.classes[page.size_class]
    cdef uint8_t group
    page.used += change
    if not page.was_full:
        r.shares += change * <int64_t> c.share
        if page.used == c.objects:
            page.was_full = True
            r.shares -= c.objects * c.share
            r.whole_pages += c.pages
    group = group_of(page.used, c.objects)
    if page.used == 0:
        zspage_leave(r, z)
        page.next, r.unused_zspage = r.unused_zspage, z
        if page.was_full:
            r.whole_pages -= c.pages
    elif group != page.group:
        zspage_regroup(r, z, group)
    r.pool_pages = r.whole_pages + (r.shares + 16 * PAGE_BYTES - 1) // (16 * PAGE_BYTES)


cdef inline void count_object(zsw_replay *r, uint32_t i, int change) noexcept nogil:
    """The pool has the page, or no longer."""
    cdef uint32_t size = r.spots[i].size
    cdef uint8_t size_class = r.class_of[size]
    cdef zsw_size_class *c = &r.classes[size_class]
    if r.compacted:
        r.pool_pages -= pages_of(c)
        c.count += change
        r.pool_pages += pages_of(c)
    elif change > 0:
        zspage_take(r, i, size_class)
    else:
        zspage_count_object(r, r.spots[i].zspage, -1)
    r.payload += change * <int64_t> size
    r.stored += change


cdef inline void pool_link(zsw_replay *r, uint32_t i) noexcept nogil:
    """At the new end of the LRU."""
    cdef uint32_t head = r.pages
    r.spots[i].zprev = head
    r.spots[i].znext = r.spots[head].znext
    r.spots[r.spots[head].znext].zprev = i
    r.spots[head].znext = i


cdef inline void pool_unlink(zsw_replay *r, uint32_t i) noexcept nogil:
    r.spots[r.spots[i].zprev].znext = r.spots[i].znext
    r.spots[r.spots[i].znext].zprev = r.spots[i].zprev


cdef inline void pool_drop(zsw_replay *r, uint32_t i) noexcept nogil:
    """The entry goes; that of a same-filled page is nothing."""
    if r.spots[i].size:
        pool_unlink(r, i)
        count_object(r, i, -1)
    r.spots[i].flags &= <uint8_t> ~(KEPT | RECENT)


cdef void write_back(zsw_replay *r, uint32_t i) noexcept nogil:
    cdef bint kept = r.spots[i].flags & KEPT != 0
    pool_drop(r, i)
    if not kept:
        r.spots[i].where = DEVICE
    r.n.written_back += 1


cdef uint64_t look_at(zsw_replay *r, uint64_t entries) noexcept nogil:
    """Looks at so many of the coldest entries; returns how many were written back.  What was stored
    or loaded lately gets another round."""
    cdef uint64_t written = 0
    cdef uint32_t i
    while entries and r.stored:
        entries -= 1
        i = r.spots[r.pages].zprev
        if r.spots[i].flags & RECENT:
            r.spots[i].flags &= <uint8_t> ~RECENT
            pool_unlink(r, i)
            pool_link(r, i)
            r.n.second_chances += 1
        else:
            write_back(r, i)
            written += 1
    return written


cdef void run_worker(zsw_replay *r) noexcept nogil:
    """The kernel's shrink worker, after a store was refused: entry by entry down to the accept
    threshold.  A look that writes nothing is a failure, and sixteen end it."""
    cdef int failures = 0
    while True:
        failures += look_at(r, 1) == 0
        if r.pool_pages <= r.accept or failures == MOST_FAILURES:
            return


cdef void make_room(zsw_replay *r) noexcept nogil:
    """Our own engine: near the limit the coldest go."""
    cdef uint64_t headroom = min(r.most // HEADROOM_SHARE, <uint64_t> HEADROOM_PAGES)
    cdef uint64_t looks = 2 * r.stored
    if r.pool_pages < r.most - headroom:
        return
    while r.pool_pages > r.most - 1 - 2 * headroom and looks and r.stored:
        look_at(r, 1)
        looks -= 1


cdef void run_shrinker(zsw_replay *r, uint64_t looked, uint64_t resident) noexcept nogil:
    """The kernel's shrinker: as reclaim looks at a share of RAM, it looks at twice that share of
    the entries; fewer where they compress well, and where the device was read for pages that had
    been written back."""
    cdef uint64_t entries = r.stored, paid = min(entries, r.device_reads)
    r.device_reads -= paid
    entries -= paid
    if entries == 0 or resident == 0:
        return
    r.due += (2.0 * <double> entries * (<double> r.payload / PAGE_BYTES / <double> r.stored)
              * <double> looked / <double> resident)
    while r.due >= SHRINK_BATCH and r.stored:
        look_at(r, SHRINK_BATCH)
        r.due -= SHRINK_BATCH


cdef bint pool_store(zsw_replay *r, uint32_t i) noexcept nogil:
    """Whether the page is held."""
    if r.spots[i].size == 0:
        r.n.same_filled += 1
        return True
    if r.most == 0:
        return False
    if r.ours:
        make_room(r)
    if r.pool_pages >= r.most:
        r.n.limit_hits += 1
        r.full = True
    elif r.pool_pages <= r.accept:
        r.full = False
    if r.full:
        r.worker_wanted = True
        return False
    count_object(r, i, 1)
    pool_link(r, i)
    if not r.ours:
        r.spots[i].flags |= RECENT
    r.n.stored += 1
    return True


# ---- RAM -----------------------------------------------------------------------------------------


cdef inline void ram_add(zsw_replay *r, uint32_t i, uint8_t where) noexcept nogil:
    """At the new end of a list."""
    cdef uint32_t head = r.pages + where - INACTIVE
    r.spots[i].prev = head
    r.spots[i].next = r.spots[head].next
    r.spots[r.spots[head].next].prev = i
    r.spots[head].next = i
    r.spots[i].where = where
    if where == ACTIVE:
        r.active += 1
    else:
        r.inactive += 1


cdef inline void ram_remove(zsw_replay *r, uint32_t i) noexcept nogil:
    r.spots[r.spots[i].prev].next = r.spots[i].next
    r.spots[r.spots[i].next].prev = r.spots[i].prev
    if r.spots[i].where == ACTIVE:
        r.active -= 1
    else:
        r.inactive -= 1


cdef inline uint64_t taken(const zsw_replay *r) noexcept nogil:
    """Pages of the memory that are taken."""
    cdef uint64_t pages = r.inactive + r.active
    if r.charged == WHOLE:
        pages += r.pool_pages
    elif r.charged == PAYLOAD:
        pages += (r.payload + PAGE_BYTES - 1) // PAGE_BYTES
    return pages


cdef void evict(zsw_replay *r, uint32_t i) noexcept nogil:
    """A page leaves RAM: for the pool, or for the device; or it is dropped, where there is a copy
    already."""
    cdef zsw_spot *spot = &r.spots[i]
    ram_remove(r, i)
    r.n.evicted += 1
    spot.shadow = <uint32_t> r.age
    r.age += 1
    spot.flags = spot.flags & (DIRTY | KEPT | RECENT) | SHADOW
    if not spot.flags & DIRTY:
        spot.where = POOL if spot.flags & KEPT else DEVICE
        spot.flags &= <uint8_t> ~KEPT
        r.n.dropped += 1
        return
    spot.flags &= <uint8_t> ~DIRTY
    spot.where = POOL
    if r.zswap:
        log_event(r, i, STORED)
        if pool_store(r, i):
            return
    spot.where = DEVICE
    r.n.rejected += 1


cdef uint64_t inactive_ratio(uint64_t pages) noexcept nogil:
    """How many times longer than the inactive list the active one may be: the root of ten times the
    GiB."""
    cdef uint64_t wanted = 10 * (pages >> 18), ratio = 1
    while (ratio + 1) * (ratio + 1) <= wanted:
        ratio += 1
    return ratio


cdef void reclaim(zsw_replay *r) noexcept nogil:
    """Has some pages leave RAM, or at least be looked at."""
    cdef uint64_t resident = r.inactive + r.active, looked = 0, before = r.n.evicted
    cdef uint64_t ratio = inactive_ratio(resident)
    cdef zsw_spot *spot
    cdef uint32_t i
    # each page of the inactive list is met at most three times: touched, touched again, or not
    cdef uint64_t most = 3 * resident + 1
    while r.n.evicted - before < r.batch and looked < most and r.inactive + r.active:
        if r.inactive * ratio < r.active or r.inactive == 0:
            i = r.spots[r.pages + 1].prev
            ram_remove(r, i)
            r.spots[i].flags &= <uint8_t> ~YOUNG
            ram_add(r, i, INACTIVE)
            continue
        looked += 1
        i = r.spots[r.pages].prev
        spot = &r.spots[i]
        if not spot.flags & YOUNG:
            evict(r, i)
            continue
        spot.flags &= <uint8_t> ~YOUNG
        ram_remove(r, i)
        if spot.flags & REFERENCED:
            ram_add(r, i, ACTIVE)
            r.age += 1
        else:
            ram_add(r, i, INACTIVE)
        spot.flags |= REFERENCED
    if r.worker_wanted:                         # once for all that were refused
        r.worker_wanted = False
        run_worker(r)
    if r.shrinker:
        run_shrinker(r, looked, resident)


cdef void come_in(zsw_replay *r, uint32_t i, uint8_t flags) noexcept nogil:
    """A page comes to RAM; who must leave for it leaves first."""
    cdef zsw_spot *spot = &r.spots[i]
    cdef uint8_t where = INACTIVE
    cdef uint64_t resident
    while taken(r) >= r.memory and r.inactive + r.active:
        resident = r.inactive + r.active
        reclaim(r)
        if r.inactive + r.active == resident:
            break
    # It would not have left, had the inactive list been longer by the active one.
    if spot.flags & SHADOW and <uint32_t> r.age - spot.shadow <= r.active:
        where = ACTIVE
        r.age += 1
    spot.flags = spot.flags & (DIRTY | KEPT | RECENT) | flags
    ram_add(r, i, where)


cdef inline void load(zsw_replay *r, uint32_t i) noexcept nogil:
    """The pool gives a page: the kernel's entry goes, ours may stay."""
    log_event(r, i, LOADED)
    if r.exclusive or r.spots[i].size == 0:
        pool_drop(r, i)
        r.spots[i].flags |= DIRTY
    else:
        r.spots[i].flags |= KEPT | RECENT


cdef void read_ahead(zsw_replay *r, uint32_t i) noexcept nogil:
    """As the kernel does for a mapping on a device that does not rotate: the more of the last
    pages read ahead were touched, the more are read."""
    cdef uint64_t at = r.numbers[i], before = r.ahead_at, first, pages = r.ahead_hits + 2
    cdef uint64_t most = <uint64_t> 1 << min(r.cluster, <uint32_t> MOST_AHEAD), wanted = 4
    cdef uint32_t k, last
    if most == 1:
        return
    if pages == 2:
        if at != before + 1 and at + 1 != before:
            pages = 1
    else:
        while wanted < pages:
            wanted *= 2
        pages = wanted
    pages = max(min(pages, most), <uint64_t> r.ahead_pages // 2)
    r.ahead_at, r.ahead_pages, r.ahead_hits = at, <uint32_t> pages, 0
    if pages <= 1:
        return
    first = (at if at == before + 1 else at - min(at, pages - 1) if at + 1 == before
             else at - min(at, (pages - 1) // 2))
    k = i
    while k > 0 and r.numbers[k - 1] >= first:
        k -= 1
    last = k
    while last < r.pages and r.numbers[last] < first + pages:
        last += 1
    while k < last:
        if k != i and (r.spots[k].where == POOL or r.spots[k].where == DEVICE):
            if r.spots[k].where == POOL:
                r.n.ahead_pool += r.spots[k].size != 0
                load(r, k)
            else:
                log_event(r, k, LOADED)
                r.n.ahead_device += 1
            come_in(r, k, AHEAD)
        k += 1


cdef inline void go_stale(zsw_replay *r, uint32_t i) noexcept nogil:
    """What copies there are of a page are stale."""
    if r.spots[i].flags & KEPT:
        log_event(r, i, DROPPED)
        pool_drop(r, i)
    r.spots[i].flags |= DIRTY


cdef void forget(zsw_replay *r, uint32_t i) noexcept nogil:
    """The program gives the page back."""
    cdef zsw_spot *spot = &r.spots[i]
    if spot.where == NEW:
        return
    if spot.where == INACTIVE or spot.where == ACTIVE:
        ram_remove(r, i)
        if spot.flags & KEPT:
            log_event(r, i, DROPPED)
            pool_drop(r, i)
    elif spot.where == POOL:
        log_event(r, i, DROPPED)
        pool_drop(r, i)
    else:
        log_event(r, i, DROPPED)
    spot.where, spot.flags = NEW, 0
    r.n.freed += 1


cdef void touch(zsw_replay *r, uint32_t i, uint8_t op) noexcept nogil:
    cdef zsw_spot *spot = &r.spots[i]
    cdef uint8_t where = spot.where
    r.n.references += 1
    if op == FREE:
        forget(r, i)
        return
    if where == INACTIVE or where == ACTIVE:
        r.n.hits += 1
        if spot.flags & AHEAD:
            spot.flags &= <uint8_t> ~AHEAD
            r.n.ahead_used += 1
            r.ahead_at = r.numbers[i]
            r.ahead_hits = min(r.ahead_hits + 1, <uint32_t> MOST_AHEAD_HITS)
        spot.flags |= YOUNG
    elif where == NEW:
        r.n.first_touches += 1
        come_in(r, i, YOUNG | DIRTY)
    else:
        if where == DEVICE:
            log_event(r, i, LOADED)
            r.n.device_hits += 1
            r.device_reads += 1
        else:
            if spot.size:
                r.n.pool_hits += 1
            else:
                r.n.same_hits += 1
            load(r, i)
        come_in(r, i, YOUNG)
        read_ahead(r, i)
    if op == WRITE:
        go_stale(r, i)


cdef void run(zsw_replay *r, const uint32_t *ids, const uint8_t *ops, uint64_t first,
              uint64_t stop) noexcept nogil:
    cdef uint64_t at, resident
    for at in range(first, stop):
        touch(r, ids[at], ops[at])
        resident = r.inactive + r.active
        r.n.sum_pool_pages += r.pool_pages
        r.n.sum_stored += r.stored
        r.n.sum_resident += resident
        if r.pool_pages > r.n.most_pool_pages:
            r.n.most_pool_pages = r.pool_pages
        if r.stored > r.n.most_stored:
            r.n.most_stored = r.stored
        if resident > r.n.most_resident:
            r.n.most_resident = resident


cdef class Replay:
    """One setting, and a trace that goes through it piece by piece.

    Parameters
    ----------
    numbers : array of uint64
        The pages' numbers, ascending.
    sizes : array of uint16
        What each compresses to; 0: same-filled, 4096: kept raw.
    classes : array of uint32, three to a class
        zsmalloc's: slot size, pages and slots of a zspage; ascending.
    memory, most, accept : int
        Pages: all the memory, what the pool may take of it, and from where it takes pages again.
    header : int
        Bytes in front of each object but a raw page.
    compacted : bool
        Whether zspages are as full as may be, as after `compact`; else one that was full stays
        until it has lost all its objects.
    zswap, shrinker, ours, exclusive : bool
        Whether there is a pool, a shrinker; whether it is our own engine's; whether a load takes
        the page out.
    charged : {"beside", "whole", "payload"}
        What of the pool is part of the memory.
    cluster : int
        As vm.page-cluster.
    log_room : int
        Events to log, for `log`.
    """
    cdef zsw_replay r
    cdef Items numbers
    cdef Items room
    cdef object events

    def __cinit__(self, numbers, sizes, classes, *, uint64_t memory, uint64_t most, uint64_t accept,
                  uint32_t header=8, bint compacted=False, bint zswap=True, bint shrinker=False,
                  bint ours=False, bint exclusive=True, str charged="whole", uint32_t cluster=0,
                  Py_ssize_t log_room=0):
        cdef Items given = items_of(sizes, "sizes", sizeof(uint16_t))
        cdef Items table = items_of(classes, "classes", sizeof(uint32_t))
        cdef const uint16_t *size = <const uint16_t *> given.at
        cdef const uint32_t *row = <const uint32_t *> table.at
        cdef zsw_replay *r = &self.r
        cdef uint32_t i, k = 0
        self.numbers = items_of(numbers, "numbers", sizeof(uint64_t))
        if given.count != self.numbers.count or not 0 < given.count < <Py_ssize_t> 0xfffffff0:
            raise ValueError("as many sizes as pages are needed, and one at least")
        if table.count % 3 or not 0 < table.count // 3 <= MOST_CLASSES:
            raise ValueError(f"1 to {MOST_CLASSES} classes of three numbers are needed")
        if charged not in ("beside", "whole", "payload"):
            raise ValueError(f"charged is {charged!r}; beside, whole or payload is needed")
        if memory == 0:
            raise ValueError("memory of one page at least is needed")
        r.pages = <uint32_t> given.count
        r.numbers = <const uint64_t *> self.numbers.at
        r.class_count = <uint32_t> (table.count // 3)
        for i in range(r.class_count):
            r.classes[i].size, r.classes[i].pages = row[3 * i], row[3 * i + 1]
            r.classes[i].objects = row[3 * i + 2]
            if not r.classes[i].size or not r.classes[i].pages or not r.classes[i].objects:
                raise ValueError("a class without room")
            r.classes[i].share = <uint64_t> 16 * PAGE_BYTES * row[3 * i + 1] // row[3 * i + 2]
        for i in range(PAGE_BYTES + 1):
            while k < r.class_count - 1 and r.classes[k].size < i + header:
                k += 1
            r.class_of[i] = <uint8_t> k
        r.spots = <zsw_spot *> calloc(r.pages + 2, sizeof(zsw_spot))
        r.zspages = <zsw_zspage *> calloc(r.pages + 1, sizeof(zsw_zspage))
        if r.spots == NULL or r.zspages == NULL:
            raise MemoryError("no memory for so many pages")
        for i in range(r.pages):
            if size[i] > PAGE_BYTES:
                raise ValueError(f"page {i} compresses to {size[i]} bytes: more than a page")
            r.spots[i].size = size[i]
        for i in range(r.pages, r.pages + 2):
            r.spots[i].next = r.spots[i].prev = r.spots[i].znext = r.spots[i].zprev = i
        r.memory, r.most, r.accept = memory, most, accept
        r.batch = max(min(memory // 8, <uint64_t> MOST_BATCH), <uint64_t> 1)
        r.compacted, r.zswap, r.shrinker, r.ours = compacted, zswap, shrinker and zswap, ours
        r.exclusive = exclusive
        r.charged = BESIDE if charged == "beside" else WHOLE if charged == "whole" else PAYLOAD
        r.cluster = cluster
        r.ahead_hits = 4                        # as a new mapping begins
        if log_room:
            import numpy as np
            self.events = np.zeros(log_room, np.uint64)
            self.room = items_of(self.events, "log", sizeof(uint64_t), writable=True)
            r.log, r.log_room = <uint64_t *> self.room.at, log_room

    def __dealloc__(self):
        free(self.r.spots)
        free(self.r.zspages)

    def run(self, ids, ops, uint64_t first=0, stop=None):
        """Replay references first .. stop - 1.

        Parameters
        ----------
        ids : array of uint32
            Which of the pages.
        ops : array of uint8
            0: read, 1: written, 2: given back.
        """
        cdef Items page = items_of(ids, "ids", sizeof(uint32_t))
        cdef Items what = items_of(ops, "ops", sizeof(uint8_t))
        cdef const uint32_t *id = <const uint32_t *> page.at
        cdef uint64_t last = page.count if stop is None else stop, i
        cdef bint wrong = False
        if page.count != what.count or first > last or last > <uint64_t> page.count:
            raise ValueError(f"references {first} to {last} of {page.count}: no such range")
        with nogil:
            for i in range(first, last):
                if id[i] >= self.r.pages:
                    wrong = True
                    break
            if not wrong:
                run(&self.r, id, <const uint8_t *> what.at, first, last)
        if wrong:
            raise ValueError(f"there is no page {id[i]}")

    def counters(self):
        """All that was counted, by name."""
        cdef const uint64_t *n = <const uint64_t *> &self.r.n
        cdef size_t i
        return {name: n[i] for i, name in enumerate(COUNTERS)}

    def state(self):
        """What there is now: ``resident``, ``stored``, ``pool_pages``, ``payload_bytes``."""
        return {"resident": self.r.inactive + self.r.active, "stored": self.r.stored,
                "pool_pages": self.r.pool_pages, "payload_bytes": self.r.payload}

    def log(self):
        """What zswap was asked for, as an array: page << 2 | event (0 a store, 1 a load, 2 that the
        page is forgotten)."""
        if self.events is None or self.r.logged > self.r.log_room:
            raise ValueError(f"there was room for {self.r.log_room} events of {self.r.logged}")
        return self.events[:self.r.logged]


# ---- the curve -----------------------------------------------------------------------------------


cdef void reuse(const uint32_t *ids, uint64_t n, uint32_t *last, uint32_t *tree,
                int64_t *distances) noexcept nogil:
    """For each reference the number of other pages since the one before it; -1: there is none.

    `tree` (Fenwick's) counts, by time, the pages whose latest reference that was.
    """
    cdef uint64_t now, at
    cdef int64_t since
    cdef uint32_t before
    for now in range(1, n + 1):
        before = last[ids[now - 1]]
        if before == 0:
            distances[now - 1] = -1
        else:
            since = 0
            at = now - 1
            while at:
                since += tree[at]
                at &= at - 1
            at = before
            while at:
                since -= tree[at]
                at &= at - 1
            distances[now - 1] = since
            at = before
            while at <= n:
                tree[at] -= 1
                at += at & (~at + 1)
        at = now
        while at <= n:
            tree[at] += 1
            at += at & (~at + 1)
        last[ids[now - 1]] = <uint32_t> now


def reuse_distances(ids, uint32_t pages):
    """Count, for each reference, the other pages that were touched since its page was before.

    Parameters
    ----------
    ids : array of uint32
        Below `pages` each.
    pages : int

    Returns
    -------
    ndarray of int64
        -1 for the first reference of a page.
    """
    import numpy as np
    cdef Items page = items_of(ids, "ids", sizeof(uint32_t))
    cdef const uint32_t *id = <const uint32_t *> page.at
    cdef uint64_t n = page.count, i
    cdef bint wrong = False
    distances = np.zeros(page.count, np.int64)
    cdef Items out = items_of(distances, "distances", sizeof(int64_t), writable=True)
    cdef uint32_t *last
    cdef uint32_t *tree
    if n >= 0xfffffff0:
        raise ValueError("too many references")
    last = <uint32_t *> calloc(pages + 1, sizeof(uint32_t))
    tree = <uint32_t *> calloc(n + 1, sizeof(uint32_t))
    try:
        if last == NULL or tree == NULL:
            raise MemoryError("no memory for so many references")
        with nogil:
            for i in range(n):
                wrong = wrong or id[i] >= pages
            if not wrong:
                reuse(id, n, last, tree, <int64_t *> out.at)
    finally:
        free(last)
        free(tree)
    if wrong:
        raise ValueError(f"there is a page of {pages} or more")
    return distances
