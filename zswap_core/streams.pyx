"""Streams: pages that single loads will want next, read with the one that was asked for.

A batch says itself what it wants.  Whoever loads page after page waits for the disk each time, for
less than a hundredth of what one request brings.  So a load of a page whose predecessor was loaded
not long ago begins a stream: it reads a window of pages with its own, into memory of the stream's,
and the next loads take theirs from there.  At the end of a window the next is read, twice as large
if most of this one was wanted, half as large if not.  When windows are read for nothing, more loads
in order are asked for before a stream begins.

A page in a window is the one that its slot names.  A slot says by a number which write of its
shard's the page is, but numbers come again: after 2^31 writes, and when a shard was freed and made
anew.  So a window is only looked at for STALE_NS, only by who finds the same shard, and only as
long as no shard has been freed since.

Nobody waits for a stream: its lock is tried, and who fails reads his page by himself.  It is held
while the store reads, which may take the GIL, never while the caller's memory is touched: for that
the window is kept by a count of `readers`.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from zswap_core.budget cimport buffer_bytes, map_buffer, unmap_buffer
from zswap_core.checksum cimport checksum_of
from zswap_core.entries cimport find_entry
from zswap_core.entry cimport is_backed
from zswap_core.fault cimport fault, Site
from zswap_core.index cimport SHARD_PAGES, shards_freed, zsw_area, zsw_shard
from zswap_core.os cimport (
    zsw_add_u32, zsw_load_ptr, zsw_load_u32, zsw_lock, ZSW_MAP_NO_FORK, zsw_mutex, zsw_now_ns,
    zsw_peek_u32, zsw_peek_u64, zsw_poke_u32, zsw_poke_u64, zsw_store_ptr, zsw_trylock,
    zsw_unlikely, zsw_unlock,
)
from zswap_core.params cimport Flag, is_on
from zswap_core.parking cimport (
    park, parked_page, parked_status, read_parked, zsw_parked, zsw_parking,
)
from zswap_core.promote cimport promote, promotes
from zswap_core.state cimport MAX_OFFSET_SHIFT, zsw_engine, zsw_worker
from zswap_core.stats cimport count, Counter
from zswap_core.status cimport Status


cdef enum:
    STREAMS = 4
    WINDOW_BYTES = 1 << 18      # that are read at a time, at most,
    WINDOW_PAGES = 64           # and so many pages
    LEAST_WINDOW = 4
    RECENT = 16                 # loads that a stream may go on from
    MOST_IN_ORDER = 16          # loads that are asked for before a stream begins
    STALE_NS = 60000000000


cdef struct zsw_stream:
    zsw_mutex lock
    uint32_t readers            # calls that copy a page of the window; keeps it as it is
    # These two are read without the lock, by who looks for his page; keys of pages
    uint64_t first              # the window's first page, 0: there is none
    uint64_t next               # the page behind it
    uint64_t filled_ns
    uint64_t freed              # shards that had been freed before
    uint32_t most               # pages to a window
    uint32_t window             # how many to read next
    uint32_t wanted             # pages of this window that were loaded
    uint32_t sums[WINDOW_PAGES]
    zsw_parking parking         # its pages; `seen` is 0 where what was read is not the page


cdef struct zsw_streams:
    uint64_t recent[RECENT]     # keys of pages that were loaded
    uint32_t in_order[RECENT]   # and how many were before each
    uint32_t turn               # whose place is taken next
    uint32_t asked              # so many in order, and a stream begins
    zsw_stream streams[STREAMS]


cdef inline uint64_t key_of(const zsw_area *area, uint64_t offset) noexcept nogil:
    """Of a page; neither it nor the one before it is 0, which is no page's."""
    return (<uint64_t> area.type << MAX_OFFSET_SHIFT | offset) + 2


cdef zsw_streams *streams_of(zsw_engine *e) noexcept nogil:
    """Made by the first that wants it; NULL: there is no memory for it."""
    cdef zsw_streams *all = <zsw_streams *> zsw_load_ptr(<void **> &e.streams)
    if all == NULL:
        zsw_lock(&e.areas_lock)
        all = <zsw_streams *> e.streams
        if all == NULL and fault(Site.TOUCHES) == 0:
            all = <zsw_streams *> map_buffer(e, sizeof(zsw_streams), e.params.mapping)
            if all != NULL:
                all.asked = 1
                zsw_store_ptr(<void **> &e.streams, all)
        zsw_unlock(&e.areas_lock)
    return all


cdef bint streams_at_rest(zsw_engine *e) noexcept nogil:
    """Whether nobody copies from a window, as it must be when no call is in flight."""
    cdef zsw_streams *all = <zsw_streams *> zsw_load_ptr(<void **> &e.streams)
    cdef uint32_t i
    if all != NULL:
        for i in range(<uint32_t> STREAMS):
            if zsw_load_u32(&all.streams[i].readers):
                return False
    return True


cdef void streams_destroy(zsw_engine *e) noexcept nogil:
    cdef zsw_streams *all = <zsw_streams *> e.streams
    cdef uint32_t i
    if all != NULL:
        for i in range(<uint32_t> STREAMS):
            unmap_buffer(e, all.streams[i].parking.memory, all.streams[i].parking.size)
        unmap_buffer(e, all, sizeof(zsw_streams))
    e.streams = NULL


cdef void streams_rest(zsw_engine *e) noexcept nogil:
    """Gives back the memory of windows that nobody may look at any more."""
    cdef zsw_streams *all = <zsw_streams *> zsw_load_ptr(<void **> &e.streams)
    cdef zsw_stream *stream
    cdef uint32_t i
    if all == NULL:
        return
    for i in range(<uint32_t> STREAMS):
        stream = &all.streams[i]
        if not zsw_trylock(&stream.lock):
            continue
        if (stream.parking.memory != NULL and zsw_load_u32(&stream.readers) == 0
                and is_stale(e, stream)):
            end_window(stream)
            stream.parking.count = 0
            unmap_buffer(e, stream.parking.memory, stream.parking.size)
            stream.parking.memory = NULL
        zsw_unlock(&stream.lock)


cdef bint begins(zsw_streams *all, uint64_t key) noexcept nogil:
    """Notes a load; whether enough were in order before it."""
    cdef uint32_t i, before
    for i in range(<uint32_t> RECENT):
        if zsw_peek_u64(&all.recent[i]) == key - 1:
            before = min(zsw_peek_u32(&all.in_order[i]) + 1, <uint32_t> MOST_IN_ORDER)
            zsw_poke_u32(&all.in_order[i], before)
            zsw_poke_u64(&all.recent[i], key)
            return before >= zsw_peek_u32(&all.asked)
    i = zsw_add_u32(&all.turn, 1) % RECENT
    zsw_poke_u32(&all.in_order[i], 0)
    zsw_poke_u64(&all.recent[i], key)
    return False


cdef void judge(zsw_streams *all, zsw_stream *stream) noexcept nogil:
    """The window is over: the next is as large as this one was useful."""
    cdef uint32_t ahead = stream.parking.count
    if ahead == 0:
        stream.window = min(<uint32_t> LEAST_WINDOW, stream.most)
    elif 2 * stream.wanted >= ahead:
        stream.window = min(2 * stream.window, stream.most)
        zsw_poke_u32(&all.asked, 1)
    else:
        stream.window = max(stream.window // 2, <uint32_t> 2)
        zsw_poke_u32(&all.asked, min(2 * zsw_peek_u32(&all.asked), <uint32_t> MOST_IN_ORDER))
    stream.parking.count = 0
    stream.wanted = 0


cdef void end_window(zsw_stream *stream) noexcept nogil:
    zsw_poke_u64(&stream.first, 0)
    zsw_poke_u64(&stream.next, 0)


cdef bint has_memory(zsw_engine *e, zsw_stream *stream) noexcept nogil:
    if stream.parking.memory == NULL and fault(Site.SCRATCH) == 0:
        stream.parking.size = buffer_bytes(e, WINDOW_BYTES, 16)
        stream.most = min(<uint32_t> WINDOW_PAGES, <uint32_t> (stream.parking.size // e.page_size))
        if stream.most > 1:
            stream.parking.memory = map_buffer(e, stream.parking.size,
                                               e.params.mapping | ZSW_MAP_NO_FORK)
        stream.parking.most = stream.most
        stream.window = min(stream.window, stream.most)
    return stream.parking.memory != NULL


cdef zsw_parked *parked_at(zsw_stream *stream, uint64_t offset) noexcept nogil:
    cdef uint32_t i
    for i in range(stream.parking.count):
        if stream.parking.pages[i].offset == offset:
            return &stream.parking.pages[i]
    return NULL


cdef void collect(zsw_engine *e, zsw_stream *stream, zsw_area *area, zsw_shard *shard,
                  uint64_t offset) noexcept nogil:
    """Parks what the store has of the window that begins at `offset`; it ends with the shard."""
    cdef uint64_t end = min(offset + stream.window, (offset | (SHARD_PAGES - 1)) + 1)
    cdef uint64_t at = offset
    cdef uint32_t id
    zsw_lock(&shard.lock)
    while at < end:
        id = find_entry(e, shard, at)
        if is_backed(id):
            park(&stream.parking, area, shard, at, at - offset, id)
        at += 1
    zsw_unlock(&shard.lock)
    zsw_poke_u64(&stream.first, key_of(area, offset))
    zsw_poke_u64(&stream.next, key_of(area, end))


cdef void settle_window(zsw_engine *e, zsw_stream *stream, zsw_shard *shard) noexcept nogil:
    """Drops what was written anew while it was read, of which this may be half, though some who
    saw the number of before are yet to come; and what is damaged: who loads it will be told."""
    cdef zsw_parked *parked
    cdef uint32_t i
    for i in range(stream.parking.count):
        parked = &stream.parking.pages[i]
        stream.sums[i] = checksum_of(&e.checksum, parked_page(e, &stream.parking, parked),
                                     e.page_size)
    zsw_lock(&shard.lock)
    for i in range(stream.parking.count):
        parked = &stream.parking.pages[i]
        if parked_status(e, parked, stream.sums[i]) != Status.STORED:
            parked.seen = 0
    zsw_unlock(&shard.lock)


cdef bint fill(zsw_engine *e, zsw_worker *w, zsw_streams *all, zsw_stream *stream, zsw_area *area,
               zsw_shard *shard, uint64_t offset) noexcept nogil:
    """Reads a window that begins at `offset`.  Under the stream's lock; nobody reads the old."""
    if not has_memory(e, stream):
        return False
    judge(all, stream)
    end_window(stream)
    stream.freed = shards_freed(&e.index)
    zsw_poke_u64(&stream.filled_ns, zsw_now_ns())
    collect(e, stream, area, shard, offset)
    if stream.parking.count < 2 or read_parked(e, &stream.parking) != 0:
        stream.parking.count = 0                # who asked reads his page, and is told
        end_window(stream)
        return False
    settle_window(e, stream, shard)
    count(w.counters, Counter.read_ahead_pages, stream.parking.count - 1)
    return True


cdef bint is_stale(const zsw_engine *e, const zsw_stream *stream) noexcept nogil:
    """Whether numbers may have come again since the window was read."""
    return (stream.freed != shards_freed(&e.index)
            or zsw_now_ns() - stream.filled_ns > <uint64_t> STALE_NS)


cdef zsw_parked *keep(zsw_stream *stream, zsw_shard *shard, uint64_t offset,
                      uint32_t seen) noexcept nogil:
    """The page in the window, which stays until `readers` is less again; NULL: it is not there.
    Under the stream's lock; the window is not stale."""
    cdef zsw_parked *parked = parked_at(stream, offset)
    if parked == NULL or parked.seen != seen or parked.shard != shard:
        return NULL
    stream.wanted += 1
    zsw_add_u32(&stream.readers, 1)
    return parked


cdef bint hand_over(zsw_engine *e, zsw_worker *w, zsw_stream *stream, const zsw_parked *parked,
                    uint8_t *page) noexcept nogil:
    """Copies the page to where it is wanted; False: it was damaged in our memory."""
    cdef const uint8_t *memory = parked_page(e, &stream.parking, parked)
    cdef uint32_t sum = stream.sums[parked - stream.parking.pages]
    cdef bint sound = (not e.index.checksums
                       or checksum_of(&e.checksum, memory, e.page_size) == sum)
    if sound:
        memcpy(page, memory, e.page_size)
        count(w.counters, Counter.backing_loads, 1)
        if promotes(e, stream.parking.area, parked.offset):
            promote(e, w, stream.parking.area, parked.shard, parked.offset, parked.seen, memory)
    zsw_add_u32(&stream.readers, <uint32_t> -1)
    return sound


cdef zsw_stream *stream_for(zsw_streams *all, uint64_t key, bint *there) noexcept nogil:
    """The stream that has the page, or goes on with it; NULL: none."""
    cdef zsw_stream *stream
    cdef uint32_t i
    for i in range(<uint32_t> STREAMS):
        stream = &all.streams[i]
        if key - zsw_peek_u64(&stream.first) < (zsw_peek_u64(&stream.next)
                                                - zsw_peek_u64(&stream.first)):
            there[0] = True
            return stream
        if key == zsw_peek_u64(&stream.next):
            return stream
    return NULL


cdef zsw_stream *oldest(zsw_streams *all) noexcept nogil:
    cdef zsw_stream *found = &all.streams[0]
    cdef uint32_t i
    for i in range(1, <uint32_t> STREAMS):
        if zsw_peek_u64(&all.streams[i].filled_ns) < zsw_peek_u64(&found.filled_ns):
            found = &all.streams[i]
    return found


cdef bint stream_load(zsw_engine *e, zsw_worker *w, zsw_area *area, zsw_shard *shard,
                      uint64_t offset, uint32_t seen, uint8_t *page, bint wait) noexcept nogil:
    """Loads a page whose slot said `seen` from a window, which is read if it may wait and others
    behind it will be wanted; False: the caller must read it."""
    cdef uint64_t key = key_of(area, offset)
    cdef zsw_streams *all
    cdef zsw_stream *stream
    cdef zsw_parked *parked = NULL
    cdef bint there = False, ahead = True
    # what is freed may be nowhere
    if not is_on(&e.params, Flag.read_ahead) or zsw_unlikely(e.params.wipe_on_free):
        return False
    all = streams_of(e)
    if all == NULL:
        return False
    stream = stream_for(all, key, &there)
    if not there:
        if not wait or stream == NULL and not begins(all, key):
            return False
        if stream == NULL:
            stream = oldest(all)
    if not zsw_trylock(&stream.lock):
        return False
    if not there or is_stale(e, stream):
        ahead = not (wait and zsw_load_u32(&stream.readers) == 0
                     and fill(e, w, all, stream, area, shard, offset))
    if not ahead or not is_stale(e, stream):
        parked = keep(stream, shard, offset, seen)
    zsw_unlock(&stream.lock)
    if parked == NULL or not hand_over(e, w, stream, parked, page):
        return False
    count(w.counters, Counter.read_ahead_loads, ahead)
    return True
