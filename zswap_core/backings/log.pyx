"""What a packed swap file knows of its content: which object is a page's and where it lies, how
full each segment is, and whose objects there are.

It is in memory alone, for a swap file is of no use to the next process.  24 bytes say where a
page's object lies; they are found by a hash table with lists, which takes 2 to 4 more and grows and
shrinks by one bucket at a time (linear hashing), so that no call has to wait for all of it.

Segments that are free are taken again from the lowest on, and those at the end leave the file.
"""
from libc.errno cimport ENOMEM, ENOSPC
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from zswap_core.fault cimport fault, Site
from zswap_core.os cimport (
    zsw_add_u32, zsw_load_u32, zsw_map_as, ZSW_MAP_NO_DUMP, ZSW_MAP_NO_FORK, zsw_poke_u32,
    zsw_poke_u64, zsw_unmap,
)
from zswap_core.slab cimport ANY_ID, slab_at, slab_bytes, slab_destroy, slab_give, slab_init


cdef enum:
    HEADS_SHIFT = 14            # items in a block of the arrays
    SEGMENTS_SHIFT = 9
    FIRST_BUCKETS = 256
    CROWDED = 2                 # records to a bucket


# ---- arrays --------------------------------------------------------------------------------------


cdef inline size_t block_bytes(const zsw_array *a) noexcept nogil:
    return (a.item << a.shift) + 4095 & ~<size_t> 4095


cdef int array_init(zsw_array *a, size_t item, uint32_t shift, uint64_t most) noexcept nogil:
    memset(a, 0, sizeof(zsw_array))
    a.item = item
    a.shift = shift
    a.room = ((most >> shift) + 1) * sizeof(uint8_t *)
    if fault(Site.FILE_TABLE) == 0:
        a.blocks = <uint8_t **> zsw_map_as(a.room, 0)
    return 0 if a.blocks != NULL else -ENOMEM


cdef int array_reach(zsw_array *a, uint64_t items) noexcept nogil:
    """Sees to it that there are so many; those that come are zeros."""
    cdef uint8_t *block
    while <uint64_t> a.count << a.shift < items:
        block = NULL
        if fault(Site.FILE_TABLE) == 0:
            block = <uint8_t *> zsw_map_as(block_bytes(a), 0)
        if block == NULL:
            return -ENOMEM
        a.blocks[a.count] = block
        a.count += 1
    return 0


cdef void array_cut(zsw_array *a, uint64_t items) noexcept nogil:
    """Gives back what lies beyond so many, but for one block."""
    while a.count > 1 and <uint64_t> (a.count - 2) << a.shift >= items:
        a.count -= 1
        zsw_unmap(a.blocks[a.count], block_bytes(a))


cdef void array_destroy(zsw_array *a) noexcept nogil:
    cdef uint32_t i
    if a.blocks != NULL:
        for i in range(a.count):
            zsw_unmap(a.blocks[i], block_bytes(a))
        zsw_unmap(a.blocks, a.room)
    memset(a, 0, sizeof(zsw_array))


# ---- a log ---------------------------------------------------------------------------------------


cdef int log_init(zsw_log *log, uint64_t pages, uint32_t segments) noexcept nogil:
    """A log of no object, all of it zeros before.  log_destroy is due even when it fails."""
    log.most = segments
    slab_init(&log.records, sizeof(zsw_record), ANY_ID)
    # it has sums of what pages were compressed to
    log.records.mapping = ZSW_MAP_NO_DUMP | ZSW_MAP_NO_FORK
    log.base = log.buckets = FIRST_BUCKETS
    if (array_init(&log.heads, sizeof(uint32_t), HEADS_SHIFT, min(pages, <uint64_t> 1 << 31)) != 0
            or array_init(&log.segments, sizeof(zsw_segment), SEGMENTS_SHIFT, segments) != 0
            or array_reach(&log.heads, FIRST_BUCKETS) != 0):
        return -ENOMEM
    return 0


cdef void log_destroy(zsw_log *log) noexcept nogil:
    array_destroy(&log.heads)
    array_destroy(&log.segments)
    slab_destroy(&log.records)


cdef uint64_t log_bytes(zsw_log *log) noexcept nogil:
    """Memory that it takes, by and large."""
    return (slab_bytes(&log.records) + <uint64_t> log.buckets * sizeof(uint32_t)
            + <uint64_t> log.extent * sizeof(zsw_segment))


# ---- objects -------------------------------------------------------------------------------------


cdef inline uint32_t hash_of(uint64_t offset) noexcept nogil:
    cdef uint64_t x = (offset ^ offset >> 32) * <uint64_t> 0xd6e8feb86659fd93
    return <uint32_t> (x ^ x >> 32)


cdef inline uint32_t *bucket_of(zsw_log *log, uint64_t offset) noexcept nogil:
    cdef uint32_t h = hash_of(offset), b = h & (2 * log.base - 1)
    return <uint32_t *> array_at(&log.heads, b if b < log.buckets else h & (log.base - 1))


cdef inline zsw_record *record_at(zsw_log *log, uint32_t id) noexcept nogil:
    return <zsw_record *> slab_at(&log.records, id)


cdef void add_bucket(zsw_log *log) noexcept nogil:
    """Splits the next bucket in two.  Without memory its list stays long."""
    cdef uint32_t *old = <uint32_t *> array_at(&log.heads, log.buckets - log.base)
    cdef uint32_t *fresh
    cdef uint32_t *link = old
    cdef zsw_record *record
    cdef uint32_t id
    if log.buckets >> 31 or array_reach(&log.heads, <uint64_t> log.buckets + 1) != 0:
        return
    fresh = <uint32_t *> array_at(&log.heads, log.buckets)
    fresh[0] = 0
    while link[0] != 0:
        id = link[0]
        record = record_at(log, id)
        if hash_of(record.offset) & log.base:
            link[0] = record.next
            record.next = fresh[0]
            fresh[0] = id
        else:
            link = &record.next
    log.buckets += 1
    if log.buckets == 2 * log.base:
        log.base *= 2


cdef void remove_bucket(zsw_log *log) noexcept nogil:
    """Joins the last bucket to the one that it was split from."""
    cdef uint32_t *link
    cdef uint32_t *last
    if log.buckets == FIRST_BUCKETS:
        return
    if log.buckets == log.base:
        log.base //= 2
    log.buckets -= 1
    last = <uint32_t *> array_at(&log.heads, log.buckets)
    link = <uint32_t *> array_at(&log.heads, log.buckets - log.base)
    while link[0] != 0:
        link = &record_at(log, link[0]).next
    link[0] = last[0]
    last[0] = 0
    array_cut(&log.heads, log.buckets)


cdef void account(zsw_log *log, uint64_t place, bint comes) noexcept nogil:
    """An object comes to a place, or leaves it."""
    cdef uint64_t one = 1 if comes else <uint64_t> -1
    cdef uint64_t length, slot
    cdef zsw_segment *s
    zsw_poke_u64(&log.objects, log.objects + one)
    if place == LOST:
        return
    length = place_length(place)
    slot = slot_bytes(<uint32_t> length)
    log.codecs[place_codec(place)].objects += one
    zsw_poke_u64(&log.bytes, log.bytes + one * length)
    zsw_poke_u64(&log.slots, log.slots + one * slot)
    s = segment_at(log, place_segment(place))
    if s.objects == 0 and s.state >= SEALED:
        zsw_poke_u32(&log.dead, log.dead - 1)
    zsw_poke_u32(&s.objects, s.objects + <uint32_t> one)
    zsw_poke_u32(&s.live, s.live + <uint32_t> (one * slot))
    if s.objects == 0 and s.state >= SEALED:
        zsw_poke_u32(&log.dead, log.dead + 1)


cdef zsw_record *log_find(zsw_log *log, uint64_t offset) noexcept nogil:
    """The page's record; NULL when it has no object."""
    cdef uint32_t id = bucket_of(log, offset)[0]
    cdef zsw_record *record
    while id != 0:
        record = record_at(log, id)
        if record.offset == offset:
            return record
        id = record.next
    return NULL


cdef uint64_t log_put(zsw_log *log, uint64_t offset, uint64_t place, uint32_t sum,
                      uint32_t *spare) noexcept nogil:
    """Makes what lies at `place` the page's object; returns where the one before lies, or NOWHERE.
    `spare` is a record of the caller's, and 0 when it was used."""
    cdef zsw_record *record = log_find(log, offset)
    cdef uint64_t before = NOWHERE
    cdef uint32_t *head
    if record == NULL:
        record = record_at(log, spare[0])
        head = bucket_of(log, offset)
        record.next = head[0]
        record.offset = offset
        head[0] = spare[0]
        spare[0] = 0
    else:
        before = record.place
        account(log, before, False)
    record.place = place
    record.sum = sum
    account(log, place, True)
    if log.objects > <uint64_t> CROWDED * log.buckets:
        add_bucket(log)
    return before


cdef void log_move(zsw_log *log, zsw_record *record, uint64_t place) noexcept nogil:
    """The record's object lies elsewhere now, or was LOST."""
    account(log, record.place, False)
    record.place = place
    account(log, place, True)


cdef uint64_t log_drop(zsw_log *log, uint64_t offset) noexcept nogil:
    """The page has no object any more; returns where it lies, or NOWHERE."""
    cdef uint32_t *link = bucket_of(log, offset)
    cdef zsw_record *record
    cdef uint64_t place
    cdef uint32_t id
    while link[0] != 0:
        id = link[0]
        record = record_at(log, id)
        if record.offset == offset:
            place = record.place
            link[0] = record.next
            record.sum = 0
            record.place = NOWHERE
            account(log, place, False)
            slab_give(&log.records, &id, 1)
            if log.objects < log.buckets:
                remove_bucket(log)
            return place
        link = &record.next
    return NOWHERE


cdef void log_clear(zsw_log *log) noexcept nogil:
    """No page has an object any more.  What segments there are stays."""
    cdef uint32_t i = 0, id
    while log.objects:                            # buckets are joined meanwhile
        i = 0
        while i < log.buckets:
            id = (<uint32_t *> array_at(&log.heads, i))[0]
            if id == 0:
                i += 1
            else:
                log_drop(log, record_at(log, id).offset)


# ---- whose objects they are ----------------------------------------------------------------------


cdef int log_codec(zsw_log *log, const zsw_compressor *compressor, uint32_t flags) noexcept nogil:
    """The number of a compressor's objects, held until the caller takes one from `holds`; or
    -ENOSPC."""
    cdef uint32_t i, empty = 0
    cdef zsw_codec *codec
    for i in range(1, <uint32_t> CODECS):
        codec = &log.codecs[i]
        if codec.objects == 0 and zsw_load_u32(&codec.holds) == 0:
            empty = empty or i
        elif (codec.compressor.ops == compressor.ops and codec.flags == flags
                and codec.compressor.state == compressor.state):
            # Not written again: whoever reads by it does so without a lock.
            zsw_add_u32(&codec.holds, 1)
            return <int> i
    if empty == 0:
        return -ENOSPC
    codec = &log.codecs[empty]
    codec.compressor = compressor[0]
    codec.flags = flags
    zsw_add_u32(&codec.holds, 1)
    return <int> empty


cdef bint log_uses(zsw_log *log, const zsw_compressor *compressor) noexcept nogil:
    """Whether the compressor may yet be asked to decompress an object."""
    cdef uint32_t i
    cdef zsw_codec *codec
    for i in range(1, <uint32_t> CODECS):
        codec = &log.codecs[i]
        if (codec.compressor.ops == compressor.ops
                and codec.compressor.state == compressor.state
                and (codec.objects != 0 or zsw_load_u32(&codec.holds) != 0)):
            return True
    return False


# ---- segments ------------------------------------------------------------------------------------


cdef int segment_open(zsw_log *log, uint64_t sequence, uint32_t *number) noexcept nogil:
    """Takes the lowest free segment, be it at the end of the file, which is to be made longer by
    the caller then.  0, -ENOSPC or -ENOMEM."""
    cdef zsw_segment *s
    while log.lowest < log.extent and segment_at(log, log.lowest).state != FREE:
        log.lowest += 1
    if log.lowest == log.extent:
        if log.extent == log.most:
            return -ENOSPC
        if array_reach(&log.segments, <uint64_t> log.extent + 1) != 0:
            return -ENOMEM
        zsw_poke_u32(&log.extent, log.extent + 1)
    s = segment_at(log, log.lowest)
    memset(s, 0, sizeof(zsw_segment))
    s.sequence = sequence
    s.state = OPENED
    number[0] = log.lowest
    log.lowest += 1
    zsw_poke_u32(&log.taken, log.taken + 1)
    return 0


cdef void segment_seal(zsw_log *log, uint32_t number, segment_state state) noexcept nogil:
    cdef zsw_segment *s = segment_at(log, number)
    if s.state == OPENED and s.objects == 0:
        zsw_poke_u32(&log.dead, log.dead + 1)
    s.state = state


cdef void segment_free(zsw_log *log, uint32_t number) noexcept nogil:
    """A dead segment is free, and those at the end are none of the file's."""
    cdef zsw_segment *s = segment_at(log, number)
    cdef uint32_t extent = log.extent
    zsw_poke_u32(&log.dead, log.dead - 1)
    zsw_poke_u32(&log.taken, log.taken - 1)
    s.state = FREE
    s.used = 0
    log.lowest = min(log.lowest, number)
    while extent and segment_at(log, extent - 1).state == FREE:
        extent -= 1
    log.lowest = min(log.lowest, extent)
    zsw_poke_u32(&log.extent, extent)
    array_cut(&log.segments, extent)
