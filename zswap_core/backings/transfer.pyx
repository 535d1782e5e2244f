"""Transfers between a file and memory: one at a time, or many reads at once.

Many reads go through an io_uring of the file's, made when it is first wanted.  A call that finds
none (the system refuses, or all are in use) has a few threads read instead, which end with it.
Either way all of its reads have ended when it returns, so that nobody writes into its memory
afterwards.

What is to be done with each, such as to decompress it, is done while the others are on their way.
"""
from libc.errno cimport EAGAIN, EBADF, EBUSY, EINTR, EINVAL, EIO, EOPNOTSUPP, EPERM, errno
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from posix.types cimport off_t
from posix.unistd cimport pread, pwrite

from zswap_core.fault cimport fault, Site
from zswap_core.os cimport (
    pthread_t, zsw_add_u32, zsw_add_u64, zsw_load_u32, zsw_sleep_ns, zsw_store_u32, zsw_thread_join,
    zsw_thread_start, zsw_trylock, zsw_unlock,
)


cdef extern from "zswap/ring.h" nogil:
    int zsw_ring_open(zsw_ring *r, uint32_t depth)
    void zsw_ring_close(zsw_ring *r)
    void zsw_ring_forget(zsw_ring *r)
    void zsw_ring_read(zsw_ring *r, int fd, void *memory, uint32_t length, uint64_t at,
                       uint64_t data)
    int zsw_ring_enter(zsw_ring *r, uint32_t answers)
    uint32_t zsw_ring_take_back(zsw_ring *r)
    bint zsw_ring_next(zsw_ring *r, uint64_t *data, int32_t *result)

cdef enum:
    BLOCK = 512                 # what a short transfer with O_DIRECT is a multiple of
    A_HELPER = 4                # reads are worth one more thread
    A_TURN = 16                 # reads that are seen to before the ring is looked at again
    LEFT = 1                    # the rc of a read that is not over


cdef size_t asked(bint writing, bint direct, size_t size, ssize_t *moved) noexcept nogil:
    """How many of the bytes to ask the system for.  0: a test has it answer `moved` instead."""
    cdef int cut
    moved[0] = fault(Site.FILE_WRITE if writing else Site.FILE_READ)
    cut = -fault(Site.FILE_WRITE_SHORT if writing else Site.FILE_READ_SHORT)
    if moved[0] != 0:
        return 0
    if cut == 0 or <size_t> cut >= size:
        return size
    if direct and cut < BLOCK:
        moved[0] = cut          # the system would refuse to be asked for so little
        return 0
    return <size_t> cut


cdef ssize_t request(int fd, bint writing, bint direct, uint8_t *memory, size_t size,
                     off_t at) noexcept nogil:
    """One system call: the bytes moved, or -errno."""
    cdef ssize_t moved
    size = asked(writing, direct, size, &moved)
    if size == 0:
        return moved
    moved = pwrite(fd, memory, size, at) if writing else pread(fd, memory, size, at)
    return moved if moved >= 0 else -errno


cdef int move(int fd, bint writing, bint direct, uint8_t *memory, size_t size,
              off_t at) noexcept nogil:
    """All `size` bytes, or -errno."""
    cdef ssize_t moved
    while size > 0:
        moved = request(fd, writing, direct, memory, size, at)
        if moved == -EINTR:
            continue
        if moved < 0:
            return <int> moved
        if direct:
            moved -= moved % BLOCK  # the next request has to start with a block
        if moved == 0:
            return -EIO  # the file ends here
        memory += moved
        size -= <size_t> moved
        at += moved
    return 0


# ---- by a ring -----------------------------------------------------------------------------------


cdef bint advance(zsw_read *r, bint direct, ssize_t moved) noexcept nogil:
    """What the system said of a read; True when it must be asked again."""
    if moved == -EINTR or moved == -EAGAIN:
        return True
    if moved > 0 and direct:
        moved -= moved % BLOCK
    if moved <= 0:
        r.rc = <int> moved if moved < 0 else -EIO
        return False
    r.memory += moved
    r.size -= <size_t> moved
    r.at += moved
    if r.size == 0:
        r.rc = 0
    return r.size != 0


cdef bint ask(zsw_ring *ring, int fd, bint direct, zsw_read *r, uint64_t number) noexcept nogil:
    """Puts a read into the ring; False when it is over already, for a test wants it so."""
    cdef ssize_t moved
    cdef size_t size = asked(False, direct, r.size, &moved)
    while size == 0:
        if not advance(r, direct, moved):
            return False
        size = asked(False, direct, r.size, &moved)
    zsw_ring_read(ring, fd, r.memory, <uint32_t> size, <uint64_t> r.at, number)
    return True


cdef void tell(zsw_read *reads, uint32_t number, zsw_landed landed, void *arg) noexcept nogil:
    reads[number].told = True
    if landed != NULL:
        landed(arg, number)


cdef inline bint is_refusal(int rc) noexcept nogil:
    """Whether a plain read may do all the same what a ring did not."""
    return rc == -EINVAL or rc == -EOPNOTSUPP or rc == -EPERM


cdef inline bint is_gone(const zsw_ring *ring) noexcept nogil:
    """Whether this is a child by now, which who was told has forked."""
    return ring.map == NULL


cdef bint run_ring(zsw_ring *ring, int fd, bint direct, zsw_read *reads, uint32_t n,
                   zsw_landed landed, void *arg) noexcept nogil:
    """Has all reads made; False when the ring takes no more, and then some are left."""
    cdef uint32_t over[MANY]    # those that have ended, of which so many have been seen to
    cdef uint32_t ended = 0, seen = 0, next = 0, flying = 0, last
    cdef uint64_t number
    cdef int32_t result
    cdef int rc
    cdef bint good = True
    while flying or seen < ended or good and next < n:
        while good and next < n and flying < DEPTH:
            if ask(ring, fd, direct, &reads[next], next):
                flying += 1
            else:
                over[ended] = next
                ended += 1
            next += 1
        # The disk has something to do before we have; it is waited for when we have nothing.
        if flying and (seen == ended or ring.waiting):
            rc = fault(Site.FILE_RING_ENTER) if good else 0
            if rc == 0 and good:
                rc = zsw_ring_enter(ring, 1 if seen == ended else 0)
            if rc != 0 and rc != -EINTR and rc != -EAGAIN and rc != -EBUSY:
                # What it has taken it still writes to memory: that must end before we return.
                good = False
                flying -= zsw_ring_take_back(ring)
            if not good and seen == ended:
                zsw_sleep_ns(20_000)
        while zsw_ring_next(ring, &number, &result):
            flying -= 1
            if not advance(&reads[number], direct, result):
                over[ended] = <uint32_t> number
                ended += 1
            elif good and ask(ring, fd, direct, &reads[number], number):
                flying += 1
            elif good:
                over[ended] = <uint32_t> number
                ended += 1
        last = min(ended, seen + <uint32_t> A_TURN)
        while seen < last:
            if not is_refusal(reads[over[seen]].rc):
                tell(reads, over[seen], landed, arg)
            if is_gone(ring):
                return False
            seen += 1
    return good


cdef zsw_ring *take_ring(zsw_reader *reader, uint32_t *number) noexcept nogil:
    """One that nobody uses, until give_ring; NULL: there is none."""
    cdef uint32_t i
    cdef int rc
    for i in range(<uint32_t> RINGS):
        if zsw_load_u32(&reader.no_rings):
            return NULL
        if not zsw_trylock(&reader.locks[i]):
            continue
        rc = 0
        if reader.rings[i].map == NULL:
            rc = fault(Site.FILE_RING)
            if rc == 0:
                rc = zsw_ring_open(&reader.rings[i], DEPTH)
        if rc == 0:
            number[0] = i
            return &reader.rings[i]
        zsw_store_u32(&reader.no_rings, 1)
        zsw_unlock(&reader.locks[i])
    return NULL


# ---- by threads ----------------------------------------------------------------------------------


cdef struct crew:
    zsw_read *reads
    uint32_t count
    uint32_t next
    int fd
    bint direct


cdef void *help(void *arg) noexcept nogil:
    cdef crew *c = <crew *> arg
    cdef zsw_read *r
    cdef uint32_t i = zsw_add_u32(&c.next, 1) - 1
    while i < c.count:
        r = &c.reads[i]
        if r.rc == LEFT:
            r.rc = move(c.fd, False, c.direct, r.memory, r.size, r.at)
        i = zsw_add_u32(&c.next, 1) - 1
    return NULL


cdef void run_threads(int fd, bint direct, zsw_read *reads, uint32_t n) noexcept nogil:
    """Has those made that are left."""
    cdef pthread_t helpers[HELPERS]
    cdef crew c
    cdef uint32_t started = 0, i
    c.reads, c.count, c.next, c.fd, c.direct = reads, n, 0, fd, direct
    while started < HELPERS and (started + 1) * A_HELPER < n:
        if fault(Site.FILE_THREAD) != 0 or zsw_thread_start(&helpers[started], help, &c) != 0:
            break
        started += 1
    help(&c)
    for i in range(started):
        zsw_thread_join(helpers[i])


cdef void read_many(zsw_reader *reader, int fd, bint direct, zsw_read *reads, uint32_t n,
                    zsw_landed landed, void *arg) noexcept nogil:
    """Makes n reads, at most MANY; the rc of each says what came of it.  `landed`, unless it is
    NULL, is called once for each, by this thread."""
    cdef uint32_t number = 0, i
    cdef bint left = True, refused = False
    cdef zsw_ring *ring = take_ring(reader, &number)
    for i in range(n):
        reads[i].rc = LEFT
        reads[i].told = False
    if ring != NULL:
        zsw_add_u64(&reader.in_rings, n)
        left = not run_ring(ring, fd, direct, reads, n, landed, arg)
        if left:
            zsw_store_u32(&reader.no_rings, 1)
        zsw_unlock(&reader.locks[number])
        for i in range(n):
            if is_gone(ring):           # and so is the file
                left, reads[i].rc = False, -EBADF
            elif is_refusal(reads[i].rc):
                reads[i].rc = LEFT
                refused = True
    if left or refused:
        run_threads(fd, direct, reads, n)
    if refused:
        for i in range(n):
            refused = refused and reads[i].rc == 0
        if refused:
            zsw_store_u32(&reader.no_rings, 1)
    for i in range(n):
        if not reads[i].told:
            tell(reads, i, landed, arg)


cdef void reader_close(zsw_reader *reader) noexcept nogil:
    cdef uint32_t i
    for i in range(<uint32_t> RINGS):
        zsw_ring_close(&reader.rings[i])


cdef void reader_forget(zsw_reader *reader) noexcept nogil:
    """In a forked child."""
    cdef uint32_t i
    for i in range(<uint32_t> RINGS):
        zsw_ring_forget(&reader.rings[i])
