"""What is open of a swap file, and what its every layout needs of it: calls that are counted, its
length, and ranges that become zeros."""
from libc.errno cimport EBADF, EINTR, EIO, EPERM, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memset
from posix.stat cimport fstat, struct_stat
from posix.types cimport off_t
from posix.unistd cimport ftruncate, getpid

from zswap_core.backings.transfer cimport move
from zswap_core.fault cimport fault, Site
from zswap_core.os cimport (
    zsw_add_i64, zsw_add_u32, zsw_fence, zsw_load_u32, zsw_lock_any, zsw_peek_i64, zsw_poke_i64,
    zsw_store_u32, zsw_unlock,
)


cdef extern from "<fcntl.h>" nogil:
    int fallocate(int fd, int mode, off_t offset, off_t size)
    const int FALLOC_FL_KEEP_SIZE
    const int FALLOC_FL_PUNCH_HOLE
    const int FALLOC_FL_ZERO_RANGE


cdef int enter(swap_file *f) noexcept nogil:
    """0, and a leave() is due, when the file may be used."""
    cdef struct_stat now
    cdef uint32_t seen
    cdef int64_t size
    cdef int rc
    if getpid() != f.pid:
        return -EPERM
    zsw_add_i64(&f.calls, 1)
    zsw_fence()  # close sets `closed` and then reads `calls`: one of the two sees the other
    if zsw_load_u32(&f.closed):
        leave(f)
        return -EBADF
    # Where the file was cut, and where a later write made it longer again, pages would read as
    # zeros.
    seen = zsw_load_u32(&f.resized)
    size = zsw_peek_i64(<int64_t *> &f.size)
    rc = fault(Site.FILE_STAT)
    if rc == 0 and fstat(f.fd, &now) != 0:
        rc = -errno
    # while we change its length ourselves nobody can tell
    if rc == 0 and now.st_size != size and not seen & 1 and zsw_load_u32(&f.resized) == seen:
        zsw_store_u32(&f.damaged, 1)
    if zsw_load_u32(&f.damaged):
        rc = -EIO
    if rc != 0:
        leave(f)
    return rc


cdef void leave(swap_file *f) noexcept nogil:
    zsw_add_i64(&f.calls, -1)


cdef int set_length(swap_file *f, off_t size) noexcept nogil:
    """Makes the file shorter or longer; by one caller at a time."""
    cdef int rc = -EINTR
    zsw_add_u32(&f.resized, 1)
    while rc == -EINTR:
        rc = fault(Site.FILE_LENGTH)
        if rc == 0 and ftruncate(f.fd, size) != 0:
            rc = -errno
    if rc == 0:
        zsw_poke_i64(<int64_t *> &f.size, size)
    zsw_add_u32(&f.resized, 1)
    return rc


cdef int allocate(Site site, int fd, int mode, off_t at, off_t size) noexcept nogil:
    """fallocate(), over again when it was interrupted: 0 or -errno."""
    cdef int rc = -EINTR
    while rc == -EINTR:
        rc = fault(site)
        if rc == 0 and fallocate(fd, mode, at, size) != 0:
            rc = -errno
    return rc


cdef int clear(swap_file *f, off_t at, off_t size) noexcept nogil:
    """Makes zeros of a range by the file system's means.  A preallocated file keeps its blocks:
    that is what it is for."""
    cdef int mode = FALLOC_FL_ZERO_RANGE if f.preallocated else FALLOC_FL_PUNCH_HOLE
    return allocate(Site.FILE_PUNCH, f.fd, mode | FALLOC_FL_KEEP_SIZE, at, size)


cdef int overwrite(swap_file *f, off_t at, size_t size) noexcept nogil:
    """The same where the file system has none."""
    cdef size_t number = zsw_lock_any(f.bounce_locks, BOUNCES), part
    cdef uint8_t *zeros = f.bounces + number * BOUNCE_BYTES
    cdef int rc = 0
    memset(zeros, 0, size if size < BOUNCE_BYTES else BOUNCE_BYTES)
    while size > 0 and rc == 0:
        part = size if size < BOUNCE_BYTES else BOUNCE_BYTES
        rc = move(f.fd, True, f.direct, zeros, part, at)
        at += part
        size -= part
    zsw_unlock(&f.bounce_locks[number])
    return rc
