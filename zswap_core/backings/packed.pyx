"""A packed swap file: objects as they are in the pool, one behind the other, wherever their pages
are.

The file is cut into segments of 1 MiB.  A write lays its objects together, begins with a block of
the open segment and ends with one; what was written once is never written again, before the whole
segment is free.  An object has 8 bytes before it that name its page, and begins at a multiple of
16.  What becomes of it is in memory (log.pyx): a page that is written anew, or discarded, leaves
its object dead where it lies.

Cleaning reads a segment, writes the objects that live to another one and frees it.  It begins when
the file would grow beyond a bound, with the segment that has the least in it; or, where less is
held than was, with the last, so that the file can be cut.  Moved objects have an open segment of
their own: they are older than new ones, and will outlive them.

Readers hold no lock while the disk works.  They know by the sum of an object, which is in memory,
whether they found it; if not, be it moved meanwhile or damaged, they look again while nobody
writes, which tells.
"""
from libc.errno cimport EBADMSG, EINVAL, ENOMEM, ENOSYS, EOPNOTSUPP, EPERM
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcpy, memset
from posix.types cimport off_t
from posix.unistd cimport getpid

from zswap_core.abi cimport (
    ZSW_ABI_VERSION, ZSW_BACKING_LOG, ZSW_BACKING_NATIVE, zsw_backing_ops, zsw_compressor,
    ZSW_COMPRESSOR_STATELESS_DECOMPRESS, zsw_object, ZSW_OBJECT_TRIMMED,
)
from zswap_core.backings.base cimport in_range
from zswap_core.backings.log cimport (
    BLOCK, FREE, HEAD_BYTES, log_bytes, log_clear, log_codec, log_destroy, log_drop, log_find,
    log_init, log_move, log_put, log_uses, LOST, NOWHERE, place_at, place_codec, place_length,
    place_pack, place_segment, RAW, SEALED, segment_at, SEGMENT_BYTES, segment_free, segment_open,
    segment_seal, SEGMENTS, SHUNNED, slot_bytes, zsw_codec, zsw_log, zsw_record, zsw_segment,
)
from zswap_core.backings.medium cimport clear, enter, leave, overwrite, set_length, swap_file
from zswap_core.backings.transfer cimport MANY, move, read_many, zsw_read
from zswap_core.fault cimport fault, Site
from zswap_core.libraries.ciphers cimport cipher_run
from zswap_core.os cimport (
    zsw_add_u32, zsw_add_u64, zsw_load_u32, zsw_lock, zsw_map_as, ZSW_MAP_NO_DUMP, ZSW_MAP_NO_FORK,
    zsw_peek_u32, zsw_peek_u64, zsw_random, zsw_sleep_ns, zsw_store_u32, zsw_trylock, zsw_unlock,
    zsw_unmap, zsw_wipe,
)
from zswap_core.slab cimport slab_give, slab_limit, slab_peek, slab_take


cdef enum:
    GROUP = 256                 # objects that are written, or looked up, together
    HELD = 64                   # lookups before others get the lock
    READ_BYTES = 1 << 20        # of the file, that are read together
    GAP = 8192                  # so much is rather read than left out
    # The file is no larger than what lives in it, 28 in 100 of that, and so many segments; heads
    # and one segment more, while a write is under way, make that 30 in 100 and 16 MiB.
    SPARE_SEGMENTS = 15
    AHEAD = 2                   # segments that a write and its cleaning may need
    CLEANINGS = 8               # that one write waits for, at most

cdef enum:
    NEW                         # of the open segments: for pages,
    MOVED                       # and for what is moved

cdef enum:
    OFFSET_BITS = 47


# An object that is to be written.
cdef struct zsw_piece:
    const uint8_t *data
    uint64_t offset
    uint64_t place              # where it was put
    uint64_t before             # where the page's object was
    uint32_t length
    uint32_t codec
    uint32_t sum


# An object that is to be read.
cdef struct zsw_want:
    uint64_t place
    uint64_t offset
    uint64_t sequence
    uint8_t *data               # where it is when it was read
    uint32_t sum
    uint32_t at                 # its number in the call
    uint32_t request


# What decompresses a call's objects: a context for one compressor at a time.
cdef struct zsw_lens:
    uint32_t codec
    void *context


# What is being read: requests, and the objects of each.
cdef struct zsw_unpacking:
    swap_file *file
    zsw_lens *lens
    zsw_want *wants
    uint8_t *pages
    zsw_read reads[MANY]
    uint8_t *starts[MANY]
    uint32_t sizes[MANY]
    uint32_t firsts[MANY + 1]   # of `wants`
    int rc


cdef inline zsw_packed *packed_of(const swap_file *f) noexcept nogil:
    return <zsw_packed *> f.packed


cdef inline off_t file_at(const swap_file *f, uint32_t segment, uint32_t at) noexcept nogil:
    return <off_t> f.page_size + <off_t> segment * SEGMENT_BYTES + at


cdef inline uint32_t block_begin(uint32_t at) noexcept nogil:
    return at & ~<uint32_t> (BLOCK - 1)


cdef inline uint32_t block_end(uint32_t at) noexcept nogil:
    return block_begin(at + BLOCK - 1)


cdef int crypt(swap_file *f, bint encrypting, uint64_t sequence, uint32_t at, uint8_t *memory,
               uint32_t size) noexcept nogil:
    """Blocks of a segment, where they lie in memory.  A segment's number is new each time it is
    opened, and no block of it is written twice: so key and tweak meet one content only."""
    if f.cipher == NULL:
        return 0
    return cipher_run(f.cipher, encrypting, sequence * (SEGMENT_BYTES // BLOCK) + at // BLOCK,
                      memory, memory, size // BLOCK, BLOCK)


# ---- sums ----------------------------------------------------------------------------------------


cdef inline uint64_t fold(uint64_t h, uint64_t word) noexcept nogil:
    """Another result for each word, and for each `h`."""
    h = (h ^ word) * <uint64_t> 0x9fb21c651e98df25
    return h ^ h >> 32


cdef uint32_t sum_of(uint64_t seed, const uint8_t *data, uint32_t size) noexcept nogil:
    """32 bits by which the bytes are known again.  Damage within one word always changes the 64
    that they are cut from."""
    cdef uint64_t lanes[4]
    cdef uint64_t words[4]
    cdef uint64_t h = seed ^ size
    lanes[0], lanes[1], lanes[2], lanes[3] = h, h + 1, h + 2, h + 3
    while size >= 32:
        memcpy(words, data, 32)
        lanes[0] = fold(lanes[0], words[0])
        lanes[1] = fold(lanes[1], words[1])
        lanes[2] = fold(lanes[2], words[2])
        lanes[3] = fold(lanes[3], words[3])
        data += 32
        size -= 32
    memset(words, 0, 32)
    memcpy(words, data, size)
    h = fold(lanes[0], words[0])
    h = fold(h, fold(lanes[1], words[1]))
    h = fold(h, fold(lanes[2], words[2]))
    h = fold(h, fold(lanes[3], words[3]))
    return <uint32_t> h


cdef inline uint64_t head_of(uint64_t offset, uint32_t length) noexcept nogil:
    return <uint64_t> length << OFFSET_BITS | offset


cdef inline uint32_t object_sum(const zsw_packed *p, uint64_t offset, const uint8_t *slot,
                                uint32_t length) noexcept nogil:
    return sum_of(fold(p.seed, offset), slot, HEAD_BYTES + length)


cdef bint is_whole(const zsw_packed *p, uint64_t offset, uint64_t place, uint32_t sum,
                   const uint8_t *slot) noexcept nogil:
    """Whether `slot` has what was written for the page."""
    cdef uint64_t head
    memcpy(&head, slot, HEAD_BYTES)
    return (head == head_of(offset, place_length(place))
            and object_sum(p, offset, slot, place_length(place)) == sum)


# ---- segments come and go ------------------------------------------------------------------------


cdef inline uint32_t largest(const zsw_log *log) noexcept nogil:
    """Segments that the file may have for what lives in it."""
    cdef uint64_t slots = zsw_peek_u64(&log.slots)
    return <uint32_t> ((slots + slots // 25 * 7) // SEGMENT_BYTES) + SPARE_SEGMENTS


cdef int fit(swap_file *f) noexcept nogil:
    """Makes the file as long as its segments are."""
    cdef off_t size = file_at(f, packed_of(f).log.extent, 0)
    return set_length(f, size) if size != f.size else 0


cdef void seal(zsw_packed *p, uint32_t which) noexcept nogil:
    if p.opened[which]:
        zsw_lock(&p.log.lock)
        segment_seal(&p.log, p.opened[which] - 1, SEALED)
        zsw_unlock(&p.log.lock)
        p.opened[which] = 0


cdef void give_back(swap_file *f, uint32_t number) noexcept nogil:
    """A free segment's blocks go to the file system.  Where it cannot take them they stay."""
    cdef off_t at = file_at(f, number, 0)
    cdef int rc = -EOPNOTSUPP
    if not zsw_load_u32(&f.cannot_punch):
        rc = clear(f, at, SEGMENT_BYTES)
    if rc == -EOPNOTSUPP or rc == -ENOSYS:
        zsw_store_u32(&f.cannot_punch, 1)
    if rc != 0 and packed_of(f).wipe:
        rc = overwrite(f, at, SEGMENT_BYTES)
    if rc != 0 and packed_of(f).wipe:
        zsw_add_u64(&f.counts.discard_failures, 1)


cdef void free_dead(swap_file *f) noexcept nogil:
    """Frees segments in which nothing lives; under `append`."""
    cdef zsw_packed *p = packed_of(f)
    cdef zsw_log *log = &p.log
    cdef zsw_segment *s
    cdef uint32_t i = 0
    if zsw_peek_u64(&log.objects) == 0:
        seal(p, NEW)
        seal(p, MOVED)
    while i < log.extent and zsw_peek_u32(&log.dead):
        s = segment_at(log, i)
        if s.state >= SEALED and zsw_peek_u32(&s.objects) == 0:
            zsw_lock(&log.lock)
            segment_free(log, i)
            zsw_unlock(&log.lock)
            if i < log.extent:
                give_back(f, i)
        i += 1
    fit(f)                                      # if it fails, the next may do it


cdef int open_for(swap_file *f, uint32_t which, uint32_t bytes, uint32_t *number) noexcept nogil:
    """A segment that has room for one more object."""
    cdef zsw_packed *p = packed_of(f)
    cdef int rc
    if p.opened[which]:
        number[0] = p.opened[which] - 1
        if segment_at(&p.log, number[0]).used + bytes <= <uint32_t> SEGMENT_BYTES:
            return 0
        seal(p, which)
    zsw_lock(&p.log.lock)
    rc = segment_open(&p.log, p.sequence + 1, number)
    zsw_unlock(&p.log.lock)
    if rc != 0:
        return rc
    p.sequence += 1
    p.opened[which] = number[0] + 1
    if f.size < file_at(f, number[0] + 1, 0):
        rc = fit(f)
    if rc != 0:
        seal(p, which)                          # and it is dead
    return rc


# ---- writing -------------------------------------------------------------------------------------


cdef void lay(const zsw_packed *p, zsw_piece *piece, uint8_t *slot) noexcept nogil:
    cdef uint64_t head = head_of(piece.offset, piece.length)
    memcpy(slot, &head, HEAD_BYTES)
    memcpy(slot + HEAD_BYTES, piece.data, piece.length)
    memset(slot + HEAD_BYTES + piece.length, 0,
           slot_bytes(piece.length) - HEAD_BYTES - piece.length)
    piece.sum = object_sum(p, piece.offset, slot, piece.length)


cdef int append_pieces(swap_file *f, uint32_t which, zsw_piece *pieces, uint32_t n) noexcept nogil:
    """Writes objects, which nobody knows of yet; under `append`.  What a failed write may have
    reached is not written to again."""
    cdef zsw_packed *p = packed_of(f)
    cdef zsw_segment *s
    cdef uint32_t i, number = 0, size, slot, whole
    cdef int rc = 0
    for i in range(n):
        pieces[i].place = NOWHERE
    i = 0
    while i < n:
        rc = open_for(f, which, slot_bytes(pieces[i].length), &number)
        if rc != 0:
            return rc
        s = segment_at(&p.log, number)
        size = 0
        while i < n:
            slot = slot_bytes(pieces[i].length)
            if s.used + size + slot > <uint32_t> SEGMENT_BYTES:
                break
            lay(p, &pieces[i], p.out + size)
            pieces[i].place = place_pack(number, s.used + size, pieces[i].length, pieces[i].codec)
            size += slot
            i += 1
        whole = block_end(size)
        memset(p.out + size, 0, whole - size)
        rc = crypt(f, True, s.sequence, s.used, p.out, whole)
        if rc == 0:
            rc = move(f.fd, True, f.direct, p.out, whole, file_at(f, number, s.used))
        if f.cipher == NULL:
            zsw_wipe(p.out, whole)
        s.used += whole
        zsw_add_u64(&f.counts.write_requests, 1)
        if rc != 0:
            seal(p, which)
            return rc
        zsw_add_u64(&p.written_bytes, whole)
    return 0


cdef int by_place(const void *a, const void *b) noexcept nogil:
    cdef uint64_t x = (<const uint64_t *> a)[0]
    cdef uint64_t y = (<const uint64_t *> b)[0]
    return -1 if x < y else x > y


cdef void wipe_slots(swap_file *f, uint64_t *places, uint32_t n) noexcept nogil:
    """Overwrites what is left of dead objects; under `append`.  Ciphertext, too: objects share no
    block of the cipher."""
    cdef zsw_packed *p = packed_of(f)
    cdef uint32_t i = 0, k, j, number, begin, end, at
    cdef int rc
    qsort(places, n, sizeof(uint64_t), by_place)
    while i < n:
        number = place_segment(places[i])
        if number >= p.log.extent or segment_at(&p.log, number).state == FREE:
            i += 1                              # gone as a whole
            continue
        begin = block_begin(place_at(places[i]))
        end = begin
        k = i
        while (k < n and place_segment(places[k]) == number
               and (k == i or place_at(places[k]) <= end)):
            at = place_at(places[k])
            end = max(end, block_end(at + slot_bytes(place_length(places[k]))))
            k += 1
        rc = move(f.fd, False, f.direct, p.out, end - begin, file_at(f, number, begin))
        if rc == 0:
            for j in range(i, k):
                memset(p.out + (place_at(places[j]) - begin), 0,
                       slot_bytes(place_length(places[j])))
            rc = move(f.fd, True, f.direct, p.out, end - begin, file_at(f, number, begin))
        if rc != 0:
            zsw_add_u64(&f.counts.discard_failures, 1)
        zsw_wipe(p.out, end - begin)
        i = k


cdef int put_pieces(swap_file *f, zsw_piece *pieces, uint32_t n) noexcept nogil:
    """Writes objects of pages, and makes them those of their pages; all or none.  Under
    `append`."""
    cdef uint32_t spares[GROUP]
    cdef uint64_t places[GROUP]
    cdef zsw_packed *p = packed_of(f)
    cdef zsw_log *log = &p.log
    cdef uint32_t got = slab_take(&log.records, spares, n), i, unused = 0
    cdef int rc = -ENOMEM
    if got == n:
        rc = append_pieces(f, NEW, pieces, n)
    if rc == 0:
        zsw_lock(&log.lock)
        for i in range(n):
            if i % HELD == HELD - 1:
                zsw_unlock(&log.lock)
                zsw_lock(&log.lock)
            pieces[i].before = log_put(log, pieces[i].offset, pieces[i].place, pieces[i].sum,
                                       &spares[i])
        zsw_unlock(&log.lock)
    for i in range(got):
        if spares[i] != 0:
            spares[unused] = spares[i]
            unused += 1
    slab_give(&log.records, spares, unused)
    if p.wipe and got == n:
        for i in range(n):
            places[i] = pieces[i].before if rc == 0 else pieces[i].place
        wipe_slots(f, places, n)
    return rc


cdef int describe(swap_file *f, const zsw_object *object, zsw_piece *piece,
                  const zsw_piece *last) noexcept nogil:
    """An object of the caller's; its codec is held."""
    cdef zsw_log *log = &packed_of(f).log
    cdef zsw_codec *codec
    cdef int number = RAW
    if object.length < 1 or object.length > f.page_size:
        return -EINVAL
    piece.data, piece.length = object.data, object.length
    if object.length < f.page_size:
        if last != NULL and last.codec != RAW:
            codec = &log.codecs[last.codec]       # which is held, so it does not change
            if (codec.compressor.ops == object.compressor.ops and codec.flags == object.flags
                    and codec.compressor.state == object.compressor.state):
                zsw_add_u32(&codec.holds, 1)
                piece.codec = last.codec
                return 0
        zsw_lock(&log.lock)
        number = log_codec(log, object.compressor, object.flags)
        zsw_unlock(&log.lock)
        if number < 0:
            return number
    piece.codec = <uint32_t> number
    return 0


cdef inline bint wants_cleaning(const zsw_log *log, uint32_t ahead) noexcept nogil:
    """Whether the file would soon grow beyond its bound.  There should be a segment for what is
    moved, too."""
    return log.extent - log.taken < <uint32_t> AHEAD and log.extent + ahead > largest(log)


cdef void make_room(swap_file *f) noexcept nogil:
    """Before a write: cleans what the file would grow beyond its bound without."""
    cdef zsw_packed *p = packed_of(f)
    cdef zsw_log *log = &p.log
    cdef uint32_t tries = 0, victim
    free_dead(f)
    while tries < <uint32_t> CLEANINGS and wants_cleaning(log, AHEAD):
        victim = emptiest(log, log.extent)
        if victim == log.extent or clean(f, victim) != 0:
            return
        tries += 1


cdef int put_many(swap_file *f, const uint64_t *offsets, const zsw_object *objects,
                  const uint8_t *pages, size_t n) noexcept nogil:
    """Writes `objects`, or where that is NULL pages as they are."""
    cdef zsw_piece pieces[GROUP]
    cdef zsw_packed *p = packed_of(f)
    cdef size_t i = 0
    cdef uint32_t count, bytes, k
    cdef int rc = 0
    if not in_range(f.nr_pages, offsets, n):
        return -EINVAL
    zsw_lock(&p.append)
    while i < n and rc == 0:
        count = bytes = 0
        while i < n and count < GROUP and bytes + slot_bytes(f.page_size) <= SEGMENT_BYTES:
            pieces[count].offset = offsets[i]
            if objects != NULL:
                rc = describe(f, &objects[i], &pieces[count],
                              &pieces[count - 1] if count else NULL)
                if rc != 0:
                    break
            else:
                pieces[count].data = pages + i * f.page_size
                pieces[count].length, pieces[count].codec = f.page_size, RAW
            bytes += slot_bytes(pieces[count].length)
            count += 1
            i += 1
        if rc == 0:
            make_room(f)
            rc = put_pieces(f, pieces, count)
        for k in range(count):
            if pieces[k].codec != RAW:
                zsw_add_u32(&p.log.codecs[pieces[k].codec].holds, <uint32_t> -1)
    zsw_unlock(&p.append)
    return rc


cdef int write_objects(void *store, const uint64_t *offsets, const zsw_object *objects,
                       size_t n) noexcept nogil:
    return write_any(<swap_file *> store, offsets, objects, NULL, n)


cdef int write_pages(void *store, const uint64_t *offsets, const uint8_t *pages,
                     size_t n) noexcept nogil:
    return write_any(<swap_file *> store, offsets, NULL, pages, n)


cdef int write_any(swap_file *f, const uint64_t *offsets, const zsw_object *objects,
                   const uint8_t *pages, size_t n) noexcept nogil:
    cdef int rc = enter(f)
    if rc == 0:
        rc = put_many(f, offsets, objects, pages, n)
        leave(f)
    zsw_add_u64(&f.counts.write_failures if rc < 0 else &f.counts.written_pages, 1 if rc < 0 else n)
    return rc


# ---- reading -------------------------------------------------------------------------------------


cdef uint8_t *take_buffer(zsw_packed *p, uint32_t *which) noexcept nogil:
    """READ_BYTES until give_buffer, and no waiting: a compressor in Python may call back."""
    cdef uint8_t *memory = NULL
    cdef uint32_t i
    for i in range(<uint32_t> READERS):
        if zsw_trylock(&p.reader_locks[i]):
            which[0] = i
            return p.readers + <size_t> i * READ_BYTES
    which[0] = READERS
    if fault(Site.FILE_BUFFERS) == 0:
        memory = <uint8_t *> zsw_map_as(READ_BYTES, ZSW_MAP_NO_DUMP | ZSW_MAP_NO_FORK)
    return memory


cdef void give_buffer(zsw_packed *p, uint32_t which, uint8_t *memory, size_t used) noexcept nogil:
    zsw_wipe(memory, used)
    if which < <uint32_t> READERS:
        zsw_unlock(&p.reader_locks[which])
    else:
        zsw_unmap(memory, READ_BYTES)


cdef void look_up(zsw_packed *p, const uint64_t *offsets, zsw_want *wants,
                  uint32_t n) noexcept nogil:
    """Where the objects lie; the codec of each is held until `let_go`."""
    cdef zsw_log *log = &p.log
    cdef zsw_record *record
    cdef uint32_t i
    zsw_lock(&log.lock)
    for i in range(n):
        if i % HELD == HELD - 1:
            zsw_unlock(&log.lock)
            zsw_lock(&log.lock)
        wants[i].offset, wants[i].at = offsets[i], i
        record = log_find(log, offsets[i])
        wants[i].place = record.place if record != NULL else NOWHERE
        if record == NULL or record.place == LOST:
            continue
        wants[i].sum = record.sum
        wants[i].sequence = segment_at(log, place_segment(record.place)).sequence
        zsw_add_u32(&log.codecs[place_codec(record.place)].holds, 1)
    zsw_unlock(&log.lock)


cdef void let_go(zsw_packed *p, const zsw_want *wants, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        if wants[i].place < LOST:
            zsw_add_u32(&p.log.codecs[place_codec(wants[i].place)].holds, <uint32_t> -1)


cdef void drop_context(zsw_packed *p, zsw_lens *lens) noexcept nogil:
    if lens.context != NULL:
        p.log.codecs[lens.codec].compressor.ops.ctx_free(
            p.log.codecs[lens.codec].compressor.state, lens.context)
        lens.context = NULL


cdef int expand(swap_file *f, zsw_lens *lens, uint64_t place, const uint8_t *data,
                uint8_t *page) noexcept nogil:
    """Makes the page of an object: 0, -EBADMSG or -ENOMEM."""
    cdef zsw_packed *p = packed_of(f)
    cdef uint32_t number = place_codec(place)
    cdef const zsw_codec *codec = &p.log.codecs[number]
    cdef int64_t size
    if number == RAW:
        if place_length(place) != f.page_size:
            return -EBADMSG
        memcpy(page, data, f.page_size)
        return 0
    if lens.codec != number:
        drop_context(p, lens)
        lens.codec = number
    if (lens.context == NULL and codec.compressor.ops.ctx_new != NULL
            and not codec.compressor.ops.flags & ZSW_COMPRESSOR_STATELESS_DECOMPRESS
            and codec.compressor.ops.ctx_new(codec.compressor.state, &lens.context) != 0):
        lens.context = NULL
        return -ENOMEM
    size = fault(Site.DECOMPRESS)
    if size == 0:
        size = codec.compressor.ops.decompress(codec.compressor.state, lens.context, data,
                                               place_length(place), page, f.page_size)
    if 0 < size < <int64_t> f.page_size and codec.flags & ZSW_OBJECT_TRIMMED:
        memset(page + size, 0, f.page_size - <size_t> size)
        size = f.page_size
    if size == <int64_t> f.page_size:
        return 0
    return -ENOMEM if size == -ENOMEM else -EBADMSG


cdef int fetch(swap_file *f, zsw_want *want, uint8_t *memory) noexcept nogil:
    """Reads one object while nobody writes: what is not found now is damaged, or cannot be read."""
    cdef zsw_packed *p = packed_of(f)
    cdef uint64_t offset = want.offset
    cdef uint32_t at = want.at, number, begin, end
    cdef int rc = 0
    zsw_lock(&p.append)
    look_up(p, &offset, want, 1)
    want.at = at
    if want.place == LOST:
        rc = -EBADMSG
    elif want.place != NOWHERE:
        number = place_segment(want.place)
        begin = block_begin(place_at(want.place))
        end = block_end(place_at(want.place) + slot_bytes(place_length(want.place)))
        rc = move(f.fd, False, f.direct, memory, end - begin, file_at(f, number, begin))
        if rc == 0:
            rc = crypt(f, False, want.sequence, begin, memory, end - begin)
        want.data = memory + (place_at(want.place) - begin)
        if rc == 0 and not is_whole(p, offset, want.place, want.sum, want.data):
            rc = -EBADMSG
    zsw_unlock(&p.append)
    zsw_add_u64(&f.counts.read_requests, 1)
    return rc


cdef int read_again(swap_file *f, zsw_lens *lens, uint64_t offset, uint8_t *page) noexcept nogil:
    cdef zsw_packed *p = packed_of(f)
    cdef zsw_want want
    cdef uint32_t which = 0
    cdef uint8_t *memory
    cdef int rc
    if getpid() != f.pid:                       # a compressor has forked: `append` may be held
        return -EPERM
    memory = take_buffer(p, &which)
    if memory == NULL:
        return -ENOMEM
    want.offset, want.at, want.place = offset, 0, NOWHERE
    rc = fetch(f, &want, memory)
    if rc == 0 and want.place == NOWHERE:
        memset(page, 0, f.page_size)            # discarded meanwhile
    elif rc == 0:
        rc = expand(f, lens, want.place, want.data + HEAD_BYTES, page)
    drop_context(p, lens)                       # it is of a codec that we hold
    let_go(p, &want, 1)
    give_buffer(p, which, memory, 2 * BLOCK + slot_bytes(f.page_size))
    return rc


cdef int want_order(const void *a, const void *b) noexcept nogil:
    cdef uint64_t x = (<const zsw_want *> a).place
    cdef uint64_t y = (<const zsw_want *> b).place
    return -1 if x < y else x > y


cdef uint32_t gather(swap_file *f, zsw_want *wants, uint32_t n, uint8_t *memory, zsw_read *reads,
                     uint32_t *requests, uint32_t *bytes) noexcept nogil:
    """Makes requests of as many of the objects, which are sorted, as there is memory for; returns
    how many."""
    cdef uint32_t i = 0, begin, end, number, last = 0, open_at = 0, open_end = 0
    requests[0] = bytes[0] = 0
    while i < n:
        number = place_segment(wants[i].place)
        begin = block_begin(place_at(wants[i].place))
        end = block_end(place_at(wants[i].place) + slot_bytes(place_length(wants[i].place)))
        if requests[0] and number == last and begin <= open_end + GAP:
            if end > open_end:
                if bytes[0] + (end - open_end) > <uint32_t> READ_BYTES:
                    break
                bytes[0] += end - open_end
                reads[requests[0] - 1].size += end - open_end
                open_end = end
        else:
            if bytes[0] + (end - begin) > <uint32_t> READ_BYTES or requests[0] == MANY:
                break
            reads[requests[0]].memory = memory + bytes[0]
            reads[requests[0]].size = end - begin
            reads[requests[0]].at = file_at(f, number, begin)
            bytes[0] += end - begin
            last, open_at, open_end = number, begin, end
            requests[0] += 1
        wants[i].request = requests[0] - 1
        wants[i].data = (reads[requests[0] - 1].memory + (place_at(wants[i].place) - open_at))
        i += 1
    return i


cdef void unpack(void *arg, uint32_t number) noexcept nogil:
    """Makes the pages of a request that is over."""
    cdef zsw_unpacking *u = <zsw_unpacking *> arg
    cdef swap_file *f = u.file
    cdef zsw_want *want = &u.wants[u.firsts[number]]
    cdef zsw_want *end = &u.wants[u.firsts[number + 1]]
    cdef uint8_t *page
    cdef int read = u.reads[number].rc, rc
    if read == 0:
        read = crypt(f, False, want.sequence, block_begin(place_at(want.place)), u.starts[number],
                     u.sizes[number])
    while want < end:
        page = u.pages + <size_t> want.at * f.page_size
        if read == 0 and is_whole(packed_of(f), want.offset, want.place, want.sum, want.data):
            rc = expand(f, u.lens, want.place, want.data + HEAD_BYTES, page)
        else:
            drop_context(packed_of(f), u.lens)
            rc = read_again(f, u.lens, want.offset, page)
        u.rc = u.rc or rc
        want += 1


cdef int read_some(swap_file *f, zsw_lens *lens, zsw_want *wants, uint32_t n, uint8_t *memory,
                   uint8_t *pages, uint32_t *done) noexcept nogil:
    """Reads as many of the objects as there is memory for, and makes their pages as they come."""
    cdef zsw_unpacking u
    cdef uint32_t requests = 0, bytes = 0, i
    u.file, u.lens, u.wants, u.pages, u.rc = f, lens, wants, pages, 0
    done[0] = gather(f, wants, n, memory, u.reads, &requests, &bytes)
    for i in range(done[0]):
        if i == 0 or wants[i - 1].request != wants[i].request:
            u.firsts[wants[i].request] = i
    u.firsts[requests] = done[0]
    for i in range(requests):
        u.starts[i], u.sizes[i] = u.reads[i].memory, <uint32_t> u.reads[i].size
    zsw_add_u64(&f.counts.read_requests, requests)
    zsw_add_u64(&packed_of(f).read_bytes, bytes)
    if requests == 1:
        u.reads[0].rc = move(f.fd, False, f.direct, memory, bytes, u.reads[0].at)
        unpack(&u, 0)
    else:
        read_many(&f.reader, f.fd, f.direct, u.reads, requests, unpack, &u)
    zsw_wipe(memory, bytes)
    return u.rc


cdef int read_group(swap_file *f, const uint64_t *offsets, uint8_t *pages,
                    uint32_t n) noexcept nogil:
    cdef zsw_want wants[GROUP]
    cdef zsw_lens lens
    cdef zsw_packed *p = packed_of(f)
    cdef uint32_t which = 0, i = 0, there = n, done = 0
    cdef uint8_t *memory
    cdef int rc = 0
    lens.codec, lens.context = 0, NULL
    look_up(p, offsets, wants, n)
    qsort(wants, n, sizeof(zsw_want), want_order)
    while there and wants[there - 1].place >= LOST:
        there -= 1
        if wants[there].place == LOST:
            rc = -EBADMSG
        else:
            memset(pages + <size_t> wants[there].at * f.page_size, 0, f.page_size)
    if there and rc == 0:
        memory = take_buffer(p, &which)
        if memory == NULL:
            rc = -ENOMEM
        else:
            while i < there and rc == 0:
                rc = read_some(f, &lens, wants + i, there - i, memory, pages, &done)
                i += done
            give_buffer(p, which, memory, 0)
    drop_context(p, &lens)
    let_go(p, wants, there)
    return rc


cdef int read_pages(void *store, const uint64_t *offsets, uint8_t *pages, size_t n) noexcept nogil:
    cdef swap_file *f = <swap_file *> store
    cdef size_t i = 0
    cdef uint32_t count
    cdef int rc = enter(f)
    if rc == 0:
        if not in_range(f.nr_pages, offsets, n):
            rc = -EINVAL
        while i < n and rc == 0:
            count = <uint32_t> min(n - i, <size_t> GROUP)
            rc = read_group(f, offsets + i, pages + i * f.page_size, count)
            i += count
        leave(f)
    zsw_add_u64(&f.counts.read_failures if rc < 0 else &f.counts.read_pages, 1 if rc < 0 else n)
    return rc


# ---- forgetting ----------------------------------------------------------------------------------


cdef void drop(swap_file *f, const uint64_t *offsets, size_t n) noexcept nogil:
    cdef uint64_t places[GROUP]
    cdef zsw_packed *p = packed_of(f)
    cdef zsw_log *log = &p.log
    cdef size_t i = 0
    cdef uint32_t count
    cdef bint wipe = p.wipe
    if wipe:                                    # nobody may use their room before they are wiped
        zsw_lock(&p.append)
    while i < n:
        count = 0
        zsw_lock(&log.lock)
        while i < n and count < HELD:
            places[count] = log_drop(log, offsets[i])
            count += 1
            i += 1
        zsw_unlock(&log.lock)
        if wipe:
            free_dead(f)
            wipe_slots(f, places, count)
    if wipe:
        zsw_unlock(&p.append)
    elif ((zsw_peek_u32(&log.dead) or zsw_peek_u64(&log.objects) == 0 and zsw_peek_u32(&log.taken))
            and zsw_trylock(&p.append)):
        free_dead(f)                            # else whoever writes does it, or `tidy`
        zsw_unlock(&p.append)


cdef void discard(void *store, const uint64_t *offsets, size_t n) noexcept nogil:
    cdef swap_file *f = <swap_file *> store
    cdef int rc = enter(f)
    if rc == 0:
        if in_range(f.nr_pages, offsets, n):
            drop(f, offsets, n)
            zsw_add_u64(&f.counts.discarded_pages, n)
        else:
            rc = -EINVAL
        leave(f)
    if rc < 0:
        zsw_add_u64(&f.counts.discard_failures, 1)


# ---- cleaning ------------------------------------------------------------------------------------


cdef uint32_t emptiest(const zsw_log *log, uint32_t end) noexcept nogil:
    """The sealed segment before `end` with the least in it; `extent` when none is worth it."""
    cdef uint32_t i, live, best = log.extent, least = SEGMENT_BYTES // 16 * 15
    cdef zsw_segment *s
    for i in range(end):
        s = segment_at(log, i)
        if s.state == SEALED:
            live = zsw_peek_u32(&s.live)
            if live < least:
                best, least = i, live
    return best


cdef bint found(zsw_packed *p, uint32_t number, uint32_t at, uint64_t offset, uint32_t length,
                zsw_piece *piece) noexcept nogil:
    """Whether what lies there in the segment being cleaned is the page's object and whole.  One
    that is damaged is given up."""
    cdef zsw_log *log = &p.log
    cdef zsw_record *record
    cdef bint ours
    zsw_lock(&log.lock)
    record = log_find(log, offset)
    ours = (record != NULL and place_segment(record.place) == number
            and place_at(record.place) == at and place_length(record.place) == length)
    if ours:
        piece.before, piece.sum = record.place, record.sum
    zsw_unlock(&log.lock)
    if not ours:
        return False
    if is_whole(p, offset, piece.before, piece.sum, p.whole + at):
        piece.data, piece.offset = p.whole + at + HEAD_BYTES, offset
        piece.length, piece.codec = length, place_codec(piece.before)
        return True
    zsw_lock(&log.lock)
    record = log_find(log, offset)
    if record != NULL and record.place == piece.before:
        log_move(log, record, LOST)
    zsw_unlock(&log.lock)
    return False


cdef int move_pieces(swap_file *f, zsw_piece *pieces, uint32_t n) noexcept nogil:
    cdef zsw_log *log = &packed_of(f).log
    cdef zsw_record *record
    cdef uint64_t bytes = 0
    cdef uint32_t i
    cdef int rc = append_pieces(f, MOVED, pieces, n) if n else 0
    if n == 0 or rc != 0:
        return rc
    zsw_lock(&log.lock)
    for i in range(n):
        if i % HELD == HELD - 1:
            zsw_unlock(&log.lock)
            zsw_lock(&log.lock)
        bytes += slot_bytes(pieces[i].length)
        record = log_find(log, pieces[i].offset)
        if record != NULL and record.place == pieces[i].before:
            log_move(log, record, pieces[i].place)
    zsw_unlock(&log.lock)
    zsw_add_u64(&packed_of(f).moved_bytes, bytes)
    return 0


cdef int rescue(swap_file *f, uint32_t number, uint32_t used) noexcept nogil:
    """Moves what lives in the segment that was read, by what it says itself of its objects."""
    cdef zsw_piece pieces[GROUP]
    cdef zsw_packed *p = packed_of(f)
    cdef uint32_t at = 0, n = 0, length
    cdef uint64_t head
    cdef int rc = 0
    while at + HEAD_BYTES <= used and rc == 0:
        memcpy(&head, p.whole + at, HEAD_BYTES)
        length = <uint32_t> (head >> OFFSET_BITS)
        if length == 0:                         # the end of a write
            at = block_begin(at) + BLOCK
            continue
        if length > f.page_size or at + slot_bytes(length) > used:
            break                               # damaged
        n += found(p, number, at, head & ((<uint64_t> 1 << OFFSET_BITS) - 1), length, &pieces[n])
        at += slot_bytes(length)
        if n == GROUP:
            rc = move_pieces(f, pieces, n)
            n = 0
    return rc or move_pieces(f, pieces, n)


cdef int rescue_rest(swap_file *f, uint32_t number) noexcept nogil:
    """The same by what we know of all objects, for the segment is damaged."""
    cdef zsw_piece pieces[GROUP]
    cdef zsw_packed *p = packed_of(f)
    cdef zsw_log *log = &p.log
    cdef zsw_record *record
    cdef uint64_t offset = 0, place = 0
    cdef uint32_t id, n = 0
    cdef bint here
    cdef int rc = 0
    for id in range(1, slab_limit(&log.records)):
        zsw_lock(&log.lock)
        record = <zsw_record *> slab_peek(&log.records, id)
        here = (record != NULL and place_segment(record.place) == number
                and log_find(log, record.offset) == record)
        if here:
            offset, place = record.offset, record.place
        zsw_unlock(&log.lock)
        if here:
            n += found(p, number, place_at(place), offset, place_length(place), &pieces[n])
        if n == GROUP:
            rc = move_pieces(f, pieces, n)
            n = 0
            if rc != 0:
                return rc
    return move_pieces(f, pieces, n)


cdef int clean(swap_file *f, uint32_t number) noexcept nogil:
    """Moves what lives in a sealed segment to another and frees it; under `append`.  When anything
    fails, all that is left in it stays where it is."""
    cdef zsw_packed *p = packed_of(f)
    cdef zsw_segment *s = segment_at(&p.log, number)
    cdef uint32_t used = s.used
    cdef int rc
    if p.whole == NULL and fault(Site.FILE_BUFFERS) == 0:
        p.whole = <uint8_t *> zsw_map_as(SEGMENT_BYTES, ZSW_MAP_NO_DUMP | ZSW_MAP_NO_FORK)
    if p.whole == NULL:
        return -ENOMEM
    rc = move(f.fd, False, f.direct, p.whole, used, file_at(f, number, 0))
    if rc == 0:
        rc = crypt(f, False, s.sequence, 0, p.whole, used)
    if rc != 0:
        zsw_lock(&p.log.lock)
        segment_seal(&p.log, number, SHUNNED)
        zsw_unlock(&p.log.lock)
        return rc
    rc = rescue(f, number, used)
    if rc == 0 and zsw_peek_u32(&s.objects):
        rc = rescue_rest(f, number)
    zsw_wipe(p.whole, used)
    zsw_add_u64(&p.cleaned, rc == 0)
    free_dead(f)
    return rc


cdef bint tidy_some(swap_file *f) noexcept nogil:
    """Cleans a segment if that is due; whether there may be more to do."""
    cdef zsw_packed *p = packed_of(f)
    cdef zsw_log *log = &p.log
    cdef uint32_t victim
    free_dead(f)
    if log.extent > largest(log):
        # Less is held than was: the file gets shorter from its end on, once there is room before.
        victim = log.extent - 1
        if log.taken == log.extent:
            victim = emptiest(log, victim)
        elif p.opened[NEW] == log.extent:
            seal(p, NEW)
        elif p.opened[MOVED] == log.extent:
            seal(p, MOVED)
        elif segment_at(log, victim).state == SHUNNED:
            if log.taken <= largest(log):
                return False
            victim = emptiest(log, victim)      # then there are holes before it
    elif wants_cleaning(log, AHEAD + 1):
        victim = emptiest(log, log.extent)
    else:
        return False
    return victim < log.extent and clean(f, victim) == 0


cdef int tidy(void *store) noexcept nogil:
    cdef swap_file *f = <swap_file *> store
    cdef zsw_packed *p = packed_of(f)
    cdef bint more = False
    if enter(f) != 0:
        return 0
    if zsw_trylock(&p.append):
        more = tidy_some(f)
        zsw_unlock(&p.append)
    leave(f)
    return more


cdef int uses(void *store, const zsw_compressor *compressor) noexcept nogil:
    cdef zsw_log *log = &packed_of(<swap_file *> store).log
    cdef bint used
    zsw_lock(&log.lock)
    used = log_uses(log, compressor)
    zsw_unlock(&log.lock)
    return used


cdef zsw_backing_ops PACKED_OPS = zsw_backing_ops(
    abi_version=ZSW_ABI_VERSION,
    struct_size=sizeof(zsw_backing_ops),
    name="packed file",
    flags=ZSW_BACKING_NATIVE | ZSW_BACKING_LOG,
    write_pages=write_pages,
    read_pages=read_pages,
    discard=discard,
    destroy=NULL,
    write_objects=write_objects,
    uses=uses,
    tidy=tidy,
)


cdef const zsw_backing_ops *packed_ops() noexcept nogil:
    return &PACKED_OPS


# ---- its life ------------------------------------------------------------------------------------


cdef int packed_open(swap_file *f, zsw_packed *p) noexcept nogil:
    """Makes an empty one of a file that has its header only.  packed_destroy is due even when it
    fails."""
    cdef uint64_t segments = f.nr_pages // 100 + SEGMENTS, rc
    if f.nr_pages < <uint64_t> 1 << 40:
        segments = f.nr_pages * slot_bytes(f.page_size) // (SEGMENT_BYTES // 4 * 3) + 32
    rc = log_init(&p.log, f.nr_pages, <uint32_t> min(segments, <uint64_t> SEGMENTS))
    if rc == 0 and fault(Site.FILE_BUFFERS) == 0:
        p.out = <uint8_t *> zsw_map_as(SEGMENT_BYTES, ZSW_MAP_NO_DUMP | ZSW_MAP_NO_FORK)
        p.readers = <uint8_t *> zsw_map_as(READERS * READ_BYTES, ZSW_MAP_NO_DUMP | ZSW_MAP_NO_FORK)
    if p.out == NULL or p.readers == NULL:
        return -ENOMEM
    f.packed = p
    return zsw_random(&p.seed, sizeof(p.seed))


cdef void packed_destroy(zsw_packed *p) noexcept nogil:
    log_destroy(&p.log)
    zsw_unmap(p.out, SEGMENT_BYTES)
    zsw_unmap(p.whole, SEGMENT_BYTES)
    zsw_unmap(p.readers, READERS * READ_BYTES)
    p.out = p.whole = p.readers = NULL


cdef void packed_clear(swap_file *f) noexcept nogil:
    """Forgets every page, and returns when no compressor is needed any more."""
    cdef zsw_packed *p = packed_of(f)
    cdef uint32_t i
    if enter(f) != 0:
        return
    zsw_lock(&p.append)
    zsw_lock(&p.log.lock)
    log_clear(&p.log)
    zsw_unlock(&p.log.lock)
    free_dead(f)
    zsw_unlock(&p.append)
    for i in range(1, 256):
        while zsw_load_u32(&p.log.codecs[i].holds) != 0:
            zsw_sleep_ns(20_000)
    leave(f)


cdef uint64_t packed_bytes(zsw_packed *p) noexcept nogil:
    """Memory that says where the objects lie."""
    return log_bytes(&p.log)
