"""`SwapFile`: pages in a file of their own.

Page 0 of the file is the header, page 1 + n the page at offset n.  The header exists to recognise
the file, not to find pages in it again: every opening starts empty.

    bytes 0-15      magic
    16, 20, 24      format version (u32), page size (u32), number of pages (u64), little-endian as
                    all of it
    32-47           random identity, new at each opening
    48, 52          state (u32): 0 clean, 1 in use, 2 being made; process id of the last user
                    (u32), for messages
    56              layout (u32): 0 plain, as above, 1 packed, see packed.pyx: its length is its use
    60-4091         zeros
    4092            CRC32 of all bytes before (u32)

State 2 is written before the file gets its size, and before it loses its pages, so that a process
killed at any point leaves a file that can be opened again.

No file is taken over: whoever has an old one open, or had it open when its mode was another, would
read every page.  An opening makes a new file in its place.
"""
from libc.errno cimport (
    EACCES, EAGAIN, EBADMSG, EBUSY, EDQUOT, EEXIST, EFBIG, EINVAL, EISDIR, ELOOP, EMLINK, ENOSPC,
    ENOSYS, EOPNOTSUPP, EPERM,
)
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset
from posix.fcntl cimport F_GETFL, F_SETFL, fcntl, O_DIRECT
from posix.types cimport off_t
from posix.unistd cimport close, getpid

from zswap_core.abi cimport ZSW_ABI_VERSION, ZSW_BACKING_NATIVE, zsw_backing_ops
from zswap_core.backings.base cimport ATTACHED, Backing, in_range, page_size_of
from zswap_core.backings.medium cimport (
    allocate, BOUNCE_BYTES, BOUNCES, clear, enter, leave, overwrite, swap_file,
)
from zswap_core.backings.packed cimport (
    packed_bytes, packed_clear, packed_destroy, packed_open, packed_ops, zsw_packed,
)
from zswap_core.backings.transfer cimport (
    MANY, move, read_many, reader_close, reader_forget, zsw_read,
)
from zswap_core.fault cimport fault, Site
from zswap_core.forks cimport unwatch_forks, watch_forks, zsw_fork_watch
from zswap_core.libraries.ciphers cimport Cipher, cipher_run
from zswap_core.os cimport (
    zsw_add_u64, zsw_fence, zsw_load_i64, zsw_load_u32, zsw_lock_any, zsw_map_as, ZSW_MAP_NO_DUMP,
    ZSW_MAP_NO_FORK, zsw_peek_i64, zsw_peek_u64, zsw_poke_u32, zsw_sleep_ns, zsw_store_u32,
    zsw_unlock, zsw_unmap, zsw_wipe,
)

import fcntl as locks
import os
import shlex
import stat
import struct
import zlib
from contextlib import suppress

from zswap_core.amounts import parse_bytes
from zswap_core.errors import BackingError


cdef enum:
    ALIGNMENT = 4096            # of memory and of file offsets: enough for O_DIRECT on every device
    REQUEST_BYTES = 1 << 20     # the longest single transfer

cdef enum:
    CLEAN
    IN_USE
    BEING_MADE

cdef enum:
    PLAIN
    PACKED

MAGIC = b"\x89zswap swap\r\n\x1a\n\0"
VERSION = 1
HEADER = struct.Struct("<16sIIQ16sIII")
HEADER_BYTES = 4096
CRC_AT = HEADER_BYTES - 4
LARGEST_FILE = (1 << 63) - 1    # what a file offset can say
MOST_LINKS = 40                 # that Linux follows in one path


# ---- the table: any thread, no GIL ---------------------------------------------------------------


cdef void forget_in_child(zsw_fork_watch *watch) noexcept nogil:
    """A forked child, which may give up its rights, keeps no way to the pages."""
    cdef swap_file *f = <swap_file *> watch
    reader_forget(&f.reader)
    if f.fd >= 0:
        close(f.fd)
    f.fd = -1


cdef int recode(swap_file *f, bint writing, uint64_t offset, const uint8_t *source, uint8_t *target,
                size_t n) noexcept nogil:
    """n pages from the caller's memory to what goes to the file, or from what came from it to the
    caller's memory."""
    if f.cipher != NULL:
        return cipher_run(f.cipher, writing, offset, source, target, n, f.page_size)
    if source != target:
        memcpy(target, source, n * f.page_size)
    return 0


cdef size_t stretch_at(const uint64_t *offsets, size_t n, size_t longest) noexcept nogil:
    """How many of the first offsets are consecutive."""
    cdef size_t stretch = 1
    while stretch < longest and stretch < n and offsets[stretch] == offsets[0] + stretch:
        stretch += 1
    return stretch


cdef int read_stretches(swap_file *f, const uint64_t *offsets, uint8_t *pages,
                        size_t n) noexcept nogil:
    """All n pages, into aligned memory, with many requests on their way at a time."""
    cdef zsw_read reads[MANY]
    cdef size_t firsts[MANY + 1]
    cdef size_t i = 0, k, count
    cdef int rc = 0
    while i < n and rc == 0:
        count = 0
        while i < n and count < MANY:
            firsts[count] = i
            i += stretch_at(offsets + i, n - i, REQUEST_BYTES // f.page_size)
            reads[count].memory = pages + firsts[count] * f.page_size
            reads[count].size = (i - firsts[count]) * f.page_size
            reads[count].at = <off_t> ((1 + offsets[firsts[count]]) * f.page_size)
            count += 1
        firsts[count] = i
        read_many(&f.reader, f.fd, f.direct, reads, <uint32_t> count, NULL, NULL)
        zsw_add_u64(&f.counts.read_requests, count)
        for k in range(count):
            rc = rc or reads[k].rc
            if rc == 0:
                rc = recode(f, False, offsets[firsts[k]], pages + firsts[k] * f.page_size,
                            pages + firsts[k] * f.page_size, firsts[k + 1] - firsts[k])
    return rc


cdef int transfer(swap_file *f, bint writing, const uint64_t *offsets, uint8_t *pages,
                  size_t n) noexcept nogil:
    """All n pages, every stretch of consecutive offsets in as few requests as its length allows."""
    cdef bint unaligned = f.direct and <uintptr_t> pages % ALIGNMENT != 0
    # what is read is decrypted where it lies
    cdef bint bounced = unaligned or (writing and f.cipher != NULL)
    cdef size_t longest = (BOUNCE_BYTES if bounced else REQUEST_BYTES) // f.page_size
    cdef uint64_t *requests = &f.counts.write_requests if writing else &f.counts.read_requests
    cdef size_t i = 0, stretch, bytes, number = 0
    cdef uint8_t *memory
    cdef off_t at
    cdef int rc = 0
    if not in_range(f.nr_pages, offsets, n):
        return -EINVAL  # and so every product below fits: the file's own size does
    if not writing and not unaligned and stretch_at(offsets, n, longest) < n:
        return read_stretches(f, offsets, pages, n)
    if bounced:
        number = zsw_lock_any(f.bounce_locks, BOUNCES)
    if unaligned:
        zsw_add_u64(&f.counts.bounced_pages, n)
    while i < n and rc == 0:
        stretch = stretch_at(offsets + i, n - i, longest)
        bytes = stretch * f.page_size
        at = <off_t> ((1 + offsets[i]) * f.page_size)
        memory = f.bounces + number * BOUNCE_BYTES if bounced else pages
        if writing:
            rc = recode(f, True, offsets[i], pages, memory, stretch)
        if rc == 0:
            rc = move(f.fd, writing, f.direct, memory, bytes, at)
        if rc == 0 and not writing:
            rc = recode(f, False, offsets[i], memory, pages, stretch)
        if bounced and f.cipher == NULL:
            # what is left there would be found by nobody who looks after the pages
            zsw_wipe(memory, bytes)
        zsw_add_u64(requests, 1)
        pages += bytes
        i += stretch
    if bounced:
        zsw_unlock(&f.bounce_locks[number])
    return rc


cdef int write_pages(void *store, const uint64_t *offsets, const uint8_t *pages,
                     size_t n) noexcept nogil:
    cdef swap_file *f = <swap_file *> store
    cdef int rc = enter(f)
    if rc == 0:
        rc = transfer(f, True, offsets, <uint8_t *> pages, n)
        leave(f)
    zsw_add_u64(&f.counts.write_failures if rc < 0 else &f.counts.written_pages, 1 if rc < 0 else n)
    return rc


cdef int read_pages(void *store, const uint64_t *offsets, uint8_t *pages, size_t n) noexcept nogil:
    cdef swap_file *f = <swap_file *> store
    cdef int rc = enter(f)
    if rc == 0:
        rc = transfer(f, False, offsets, pages, n)
        leave(f)
    zsw_add_u64(&f.counts.read_failures if rc < 0 else &f.counts.read_pages, 1 if rc < 0 else n)
    return rc


cdef int forget(swap_file *f, const uint64_t *offsets, size_t n) noexcept nogil:
    """What freed pages leave in the file goes at once, where the file system can do so cheaply or
    not."""
    cdef size_t i = 0, stretch
    cdef off_t start
    cdef int rc = 0, failed = 0
    while i < n:
        stretch = stretch_at(offsets + i, n - i, n)
        start = <off_t> (f.page_size + offsets[i] * f.page_size)
        rc = -EOPNOTSUPP
        if not zsw_load_u32(&f.cannot_punch):
            rc = clear(f, start, <off_t> (stretch * f.page_size))
        if rc == -EOPNOTSUPP or rc == -ENOSYS:
            zsw_store_u32(&f.cannot_punch, 1)
        if rc != 0:
            rc = overwrite(f, start, stretch * f.page_size)
        if rc == 0:
            zsw_add_u64(&f.counts.discarded_pages, stretch)
        else:
            failed = rc             # the others go all the same
        i += stretch
    return failed


cdef void discard(void *store, const uint64_t *offsets, size_t n) noexcept nogil:
    cdef swap_file *f = <swap_file *> store
    cdef int rc = enter(f)
    if rc == 0:
        rc = forget(f, offsets, n) if in_range(f.nr_pages, offsets, n) else -EINVAL
        leave(f)
    if rc < 0:
        zsw_add_u64(&f.counts.discard_failures, 1)


cdef zsw_backing_ops FILE_OPS = zsw_backing_ops(
    abi_version=ZSW_ABI_VERSION,
    struct_size=sizeof(zsw_backing_ops),
    name="file",
    flags=ZSW_BACKING_NATIVE,
    write_pages=write_pages,
    read_pages=read_pages,
    discard=discard,
    destroy=NULL,
    write_objects=NULL,
    uses=NULL,
    tidy=NULL,
)


# ---- opening -------------------------------------------------------------------------------------


cdef object refusal(int code, str path, str why):
    return BackingError(code, f"swap file {path!r}: {why}")


cdef object failure(object error, str path, str what):
    """A BackingError for an OSError of the system's."""
    return refusal(error.errno, path, f"cannot {what}: {os.strerror(error.errno)}; "
                                      f"{REMEDIES.get(error.errno, ELSEWHERE)}")


cdef object replaced(str path):
    return refusal(EBUSY, path, "it was replaced while it was being opened; try again")


cdef object no_size(str path):
    return ValueError(f"swap file {path!r}: a new swap file needs a size, such as size='1GiB'")


REMEDIES = {
    EDQUOT: "free space, raise the quota, or give a smaller size",
    EFBIG: "give a smaller size, or raise the limit on file sizes (ulimit -f)",
    ENOSPC: "free space, or give a smaller size",
    EOPNOTSUPP: "its file system cannot do this: use preallocate=False, or a file elsewhere",
}
ELSEWHERE = "name a file in a folder that you may write to, on a local disk"


cdef int check_file(object found, str path) except -1:
    """Refuse whatever is not a plain file of this user's that nobody else can open."""
    mode = found.st_mode
    if stat.S_ISLNK(mode):
        raise refusal(ELOOP, path, "it is a symbolic link, which could lead anywhere; name the "
                                   "file itself")
    if stat.S_ISDIR(mode):
        raise refusal(EISDIR, path, "it is a directory; name a file in it")
    if not stat.S_ISREG(mode):
        raise refusal(EINVAL, path, "it is a device, a pipe or a socket; name a regular file")
    if found.st_uid != os.geteuid():
        raise refusal(EPERM, path, f"it belongs to user {found.st_uid}, not to user "
                                   f"{os.geteuid()}; use a file of your own")
    if found.st_nlink > 1:
        raise refusal(EMLINK, path, f"it has {found.st_nlink} names (hard links), and pages would "
                                    "show under each; remove it and let zswap make a new one")
    if mode & 0o077:
        raise refusal(EACCES, path, f"its mode {stat.S_IMODE(mode):04o} lets other users at it, "
                                    "who may have it open already; if nobody needs it, run: rm "
                                    f"{shlex.quote(path)}")
    return 0


cdef int check_folders(str path) except -1:
    """Refuse a path that leads through another user's symbolic link, for that user says where it
    leads.  Links of root's and of this user's own are followed, as in any path."""
    here, ahead, links = "/", os.path.dirname(path).split("/")[::-1], 0
    while ahead and links < MOST_LINKS:  # with more of them the system will not open it
        name = ahead.pop()
        # no link is left in it that ".." could go back through
        there = os.path.normpath(os.path.join(here, name))
        found = os.lstat(there)
        if not stat.S_ISLNK(found.st_mode):
            here = there
            continue
        if found.st_uid not in (0, os.geteuid()):
            raise refusal(ELOOP, path, f"on the way there {there} is a symbolic link of user "
                                       f"{found.st_uid}, who could make it lead anywhere; give a "
                                       "path without it")
        target = os.readlink(there)
        ahead += target.split("/")[::-1]
        here = "/" if target.startswith("/") else here
        links += 1
    return 0


cdef int remove_name(int fd, str path) except -1:
    """Unlink `path` if it still names the file that is open here."""
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(fd), os.lstat(path)):
            os.unlink(path)
    return 0


cdef int open_file(str path, int flags) except -1:
    return os.open(path, flags | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)


cdef int make_file(str path) except -1:
    """A new file, locked; FileExistsError where there is one."""
    cdef int fd = open_file(path, os.O_CREAT | os.O_EXCL)
    try:
        lock_file(fd, path)
    except BaseException:
        close(fd)  # its name stays: without the lock it is somebody else's already
        raise
    return fd


cdef int lock_file(int fd, str path) except -1:
    """Make sure of being the only user of the file that `path` names now."""
    try:
        locks.flock(fd, locks.LOCK_EX | locks.LOCK_NB)
    except OSError as error:
        if error.errno != EAGAIN:
            raise failure(error, path, "lock it") from error
        header = os.pread(fd, HEADER.size, 0)
        user = (f" (process {HEADER.unpack(header)[6]})" if len(header) == HEADER.size
                and header.startswith(MAGIC) else "")
        raise refusal(EBUSY, path, f"another SwapFile{user} uses it; close that one, or name "
                                   "another file") from error
    found = os.fstat(fd)
    check_file(found, path)
    try:
        same = os.path.samestat(found, os.lstat(path))
    except FileNotFoundError:
        same = False
    if not same:
        raise replaced(path)
    return 0


cdef object read_header(int fd, str path):
    """Bytes of pages that the file was made for, and whether its last user left it open; None for
    an empty file."""
    length = os.fstat(fd).st_size
    if length == 0:
        return None
    header = os.pread(fd, HEADER_BYTES, 0)
    if not header.startswith(MAGIC):
        raise refusal(EEXIST, path, "it holds something else than zswap's pages, and is left as "
                                    "it is; name another file, or remove this one if nobody needs "
                                    "it")
    remedy = f"if nobody needs it, run: rm {shlex.quote(path)}"
    if (len(header) < HEADER_BYTES
            or zlib.crc32(header[:CRC_AT]) != int.from_bytes(header[CRC_AT:], "little")):
        raise refusal(EBADMSG, path, f"its header is damaged; {remedy}")
    _, version, page_size, nr_pages, _, state, _, layout = HEADER.unpack_from(header)
    if version != VERSION:
        raise refusal(EBADMSG, path, f"it has format version {version}, and this zswap knows only "
                                     f"{VERSION}; {remedy}")
    if (page_size == 0 or nr_pages == 0 or state not in (CLEAN, IN_USE, BEING_MADE)
            or layout not in (PLAIN, PACKED)):
        raise refusal(EBADMSG, path, f"its header makes no sense; {remedy}")
    if layout == PLAIN and state != BEING_MADE and length != (1 + nr_pages) * page_size:
        raise refusal(EBADMSG, path, f"it is {length} bytes long, and its header says "
                                     f"{(1 + nr_pages) * page_size}: something else has changed "
                                     f"it; {remedy}")
    return nr_pages * page_size, state != CLEAN


cdef class SwapFile(Backing):
    """A file for pages that leave the pool.

    It is a scratch file for the life of one process: a new one takes the place of whatever swap
    file was there, its pages are dropped when it is closed, and nothing is ever flushed to the
    device.  It is the property of one user, one process and one `SwapFile` at a time, which is
    enforced by its mode (0600) and a lock.

    Parameters
    ----------
    path : str or path-like
        A file that does not exist; or an empty one, or one that was a swap file before, which is
        then replaced by a new one, since others might have it open.  Anything else is refused and
        not touched: other content, a damaged swap file, a symbolic link, a device, another user's
        file, a file that others may open or that has a second name (a hard link), and a path that
        leads through another user's symbolic link.
    size : int or str, optional
        Room for pages, in bytes or as ``"1GiB"``, rounded down to whole pages; the file is one page
        longer.  May be left out for a file that was a swap file before, which keeps its size.
    direct : bool, default True
        Bypass the page cache (O_DIRECT), where the file system can.
    preallocate : bool, default False
        Take all disk blocks now and keep them, so that writes cannot fail for want of space.
        Otherwise the file is sparse: it takes blocks as pages are written and gives them back as
        they are discarded.  Either way a discarded page reads as zeros from then on; on a file
        system that can neither make holes nor zeros it is overwritten with them, which takes as
        long as writing it.
    page_size : int, default 4096
    encrypt : bool, default False
        Write every page encrypted (AES-256-XTS, by the system's libcrypto), with a random key that
        is made here, never leaves memory and is wiped at close.  What the file held can then be
        read by nobody, be it found on the disk or in a backup.  It hides what pages hold, not which
        are written when; and it finds no damage: a changed page decrypts to garbage.
    io_uring : bool, default True
        Read what many loads ask for through io_uring, where the system allows it; otherwise a few
        threads read it.
    unlink : bool, default False
        Remove the file's name once it is open: the system frees it when the process ends, however
        it ends.
    packed : bool, default False
        Keep pages as they were compressed in the pool, one behind the other, and not each at an
        offset of its own.  Less is written and read, and writes are in order whatever the offsets.
        The file is as long as its use: it grows and shrinks, and is no larger than 1.3 times what
        it holds, compressed, and 16 MiB; what is freed in between is moved together in the
        background.  The engine's pages are in it only as long as the engine uses it: in between it
        is empty.  See docs/tier.md.

    Attributes
    ----------
    path : str
        Absolute.
    direct : bool
        Whether O_DIRECT is in use.
    preallocated, encrypted, packed : bool
    io_uring : bool
        Whether io_uring is wanted, and was not refused when it was tried.
    id : str
        32 hexadecimal digits, new at each opening.
    left_open : bool
        Whether the file was there, and its last user died without closing it.
    name, page_size, nr_pages, closed, attached, last_error
        As of every `Backing`.

    Raises
    ------
    BackingError
        The file cannot be used, or there is no space for it, or no libcrypto to encrypt with; a
        file that was made for this is removed again.
    ValueError
        An argument is out of range, or `size` is missing.

    Notes
    -----
    A forked child cannot use its parent's swap file: every call fails with EPERM.  It does keep the
    file locked until it ends, should the parent die without closing.

    Should others change its length while it is open, all calls fail with EIO from then on, since a
    page that was cut off would read as zeros.

    A page that was never written reads as zeros, or with `encrypt` as anything, unless `packed`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, SwapFile(f"{folder}/swap", "1MiB") as file:
    ...     file.write_pages([7], b"swap" * 1024)
    ...     page = bytearray(4096)
    ...     file.read_pages([7], page)
    ...     page[:8]
    bytearray(b'swapswap')
    """

    cdef swap_file f
    cdef Cipher cipher
    cdef readonly str path
    cdef readonly str id
    cdef readonly bint left_open
    cdef bint was_there         # a swap file, which this one replaced
    cdef readonly bint packed
    cdef zsw_packed p

    def __cinit__(self, *args, **kwargs):
        self.f.fd = -1

    def __init__(self, path, size=None, direct=True, preallocate=False, page_size=4096, *,
                 encrypt=False, io_uring=True, unlink=False, packed=False):
        if self.ops != NULL:
            raise TypeError("a SwapFile is opened once; make another")
        self.page_size = page_size_of(page_size)
        self.path = os.path.abspath(os.fsdecode(path))
        self.name = f"swap file {self.path!r}"
        self.packed = packed
        if packed and preallocate:
            raise ValueError(f"{self.name}: a packed file takes and gives back space as it is "
                             "used; give one of packed and preallocate")
        if size is not None:
            size = parse_bytes(size)
            self.set_size(size)
        self.f.pid = getpid()
        self.f.counts = &self.counts
        self.f.reader.no_rings = not io_uring
        if fault(Site.FILE_BUFFERS) == 0:
            self.f.bounces = <uint8_t *> zsw_map_as(
                BOUNCES * BOUNCE_BYTES, ZSW_MAP_NO_DUMP | ZSW_MAP_NO_FORK)
        if self.f.bounces == NULL:
            raise MemoryError(f"{self.name}: no memory for its bounce buffers")
        if encrypt:
            self.cipher = Cipher(self.name)
            self.f.cipher = &self.cipher.c

        self.f.watch.in_child = forget_in_child
        if watch_forks(&self.f.watch) != 0:
            raise MemoryError(f"{self.name}: no memory to be told of forks")
        keep = False
        self.f.fd = self.open_anew()
        try:
            os.fchmod(self.f.fd, 0o600)  # whatever the umask left of it
            self.id = os.urandom(16).hex()
            self.write_header(BEING_MADE)
            keep = self.was_there  # the next one may count on there being one, with a size
            self.make(direct, preallocate)
            if unlink:
                remove_name(self.f.fd, self.path)
        except BaseException as error:
            with suppress(OSError):
                if keep:
                    os.ftruncate(self.f.fd, self.page_size)
                else:
                    remove_name(self.f.fd, self.path)
            close(self.f.fd)
            self.f.fd = -1
            if isinstance(error, OSError) and not isinstance(error, BackingError):
                raise failure(error, self.path,
                              f"make a file of {self.f.size} bytes of it") from error
            raise
        self.state = &self.f
        self.ops = packed_ops() if packed else &FILE_OPS

    def __del__(self):
        # at the very end of the interpreter modules are empty, and the system closes it
        if self.ops != NULL and not self.attached and suppress is not None:
            self.close()

    def __dealloc__(self):
        unwatch_forks(&self.f.watch)
        reader_close(&self.f.reader)
        packed_destroy(&self.p)
        if self.f.fd >= 0:
            close(self.f.fd)
        zsw_unmap(self.f.bounces, BOUNCES * BOUNCE_BYTES)

    def __repr__(self):
        if self.ops == NULL:
            return "<SwapFile, never opened>"
        notes = "".join(f", {note}" for note in ("direct", "encrypted", "packed", "closed")
                        if getattr(self, note))
        return f"<SwapFile {self.path!r}, {self.nr_pages} pages of {self.page_size} bytes{notes}>"

    @property
    def direct(self):
        return bool(self.f.direct)

    @property
    def preallocated(self):
        return bool(self.f.preallocated)

    @property
    def encrypted(self):
        return self.f.cipher != NULL

    @property
    def io_uring(self):
        return zsw_load_u32(&self.f.reader.no_rings) == 0

    def stats(self):
        """Return what was done since the file was opened: as other stores, and `ring_requests`, how
        many of the `read_requests` went through io_uring.

        Of a packed file also `packed_bytes`, what the pages in it were compressed to, `file_bytes`,
        its length, `file_written_bytes` and `file_read_bytes`, `moved_bytes`, what cleaning wrote
        of those, `cleaned_segments`, and `metadata_bytes`, the memory that says where pages lie.
        """
        figures = super().stats() | {"ring_requests": zsw_peek_u64(&self.f.reader.in_rings)}
        if self.packed:
            figures |= {
                "packed_bytes": zsw_peek_u64(&self.p.log.bytes),
                "file_bytes": zsw_peek_i64(<int64_t *> &self.f.size),
                "file_written_bytes": zsw_peek_u64(&self.p.written_bytes),
                "file_read_bytes": zsw_peek_u64(&self.p.read_bytes),
                "moved_bytes": zsw_peek_u64(&self.p.moved_bytes),
                "cleaned_segments": zsw_peek_u64(&self.p.cleaned),
                "metadata_bytes": packed_bytes(&self.p),
            }
        return figures

    cpdef attach(self):
        """Reserve the store for one engine (or one swap area of it), until `detach`.  A packed file
        is empty before and after."""
        Backing.attach(self)
        self.forget_objects()

    cpdef detach(self):
        """End what `attach` began; nothing when nothing began."""
        if zsw_load_u32(&self.use) == ATTACHED:
            self.forget_objects()
            zsw_poke_u32(&self.p.wipe, 0)
        Backing.detach(self)

    cdef int forget_objects(self) except -1:
        """What is in a packed file can be read with the engine's compressors only."""
        if self.packed:
            with nogil:
                packed_clear(&self.f)
        return 0

    cdef int wipe_freed(self, bint wipe) except -1:
        zsw_poke_u32(&self.p.wipe, wipe)
        return 0

    cdef int open_anew(self) except -1:
        """A new file, locked."""
        try:
            check_folders(self.path)
            if self.nr_pages:
                with suppress(FileExistsError):
                    return make_file(self.path)
            return self.replace_file()
        except BackingError:
            raise
        except OSError as error:
            raise failure(error, self.path, "open it") from error

    cdef int replace_file(self) except -1:
        """A new file, locked, in place of the empty one or the swap file that is there."""
        cdef int old
        try:
            # before it is opened: opening a device can do things
            check_file(os.lstat(self.path), self.path)
            old = open_file(self.path, 0)
        # or gone in between: somebody else is putting a new one in its place
        except FileNotFoundError:
            raise (replaced if self.nr_pages else no_size)(self.path) from None
        try:
            lock_file(old, self.path)
            before = read_header(old, self.path)
            if not self.nr_pages:
                if before is None:
                    raise no_size(self.path)
                self.set_size(before[0])
            if before is not None:
                self.was_there, self.left_open = True, before[1]
            try:
                os.unlink(self.path)
                # for whoever has it open: it may be left over from a run that was killed
                os.ftruncate(old, 0)
            except OSError as error:
                raise failure(error, self.path, "put a new file in its place") from error
            try:
                return make_file(self.path)
            except FileExistsError as error:
                raise replaced(self.path) from error
        finally:
            close(old)

    cdef int set_size(self, object size) except -1:
        nr_pages = size // self.page_size
        if nr_pages < 1:
            raise ValueError(f"{self.name}: a size of {size} bytes has no room for a page of "
                             f"{self.page_size}; give more")
        if nr_pages > 1 << 47 or (1 + nr_pages) * self.page_size > LARGEST_FILE:
            most = min(1 << 47, LARGEST_FILE // self.page_size - 1) * self.page_size
            raise ValueError(f"{self.name}: a size of {size} bytes is more than a file can have; "
                             f"give {most} at most")
        self.nr_pages = self.f.nr_pages = nr_pages
        self.f.page_size = self.page_size
        self.f.size = self.page_size if self.packed else (1 + nr_pages) * self.page_size
        return 0

    cdef int make(self, bint direct, bint preallocate) except -1:
        """Turn the locked file into an empty swap file."""
        os.ftruncate(self.f.fd, self.f.size)
        if preallocate:
            self.preallocate()
        if self.packed and packed_open(&self.f, &self.p) != 0:
            raise MemoryError(f"{self.name}: no memory to say where in it pages lie")
        self.f.direct = (
            direct and fcntl(self.f.fd, F_SETFL, fcntl(self.f.fd, F_GETFL) | O_DIRECT) == 0)
        self.write_header(IN_USE)
        return 0

    cdef int preallocate(self) except -1:
        cdef int rc
        self.f.preallocated = True
        with nogil:
            rc = allocate(Site.FILE_ALLOCATE, self.f.fd, 0, 0, self.f.size)
        if rc != 0:
            raise OSError(-rc, os.strerror(-rc))
        return 0

    cdef int write_header(self, uint32_t state) except -1:
        header = HEADER.pack(MAGIC, VERSION, self.page_size, self.nr_pages, bytes.fromhex(self.id),
                             state, self.f.pid, PACKED if self.packed else PLAIN)
        header = header.ljust(CRC_AT, b"\0")
        header += zlib.crc32(header).to_bytes(4, "little")
        cdef const uint8_t *text = header
        cdef size_t length = len(header)
        cdef int rc
        with nogil:  # no call is under way, so the bounce buffers are free
            memset(self.f.bounces, 0, self.page_size)
            memcpy(self.f.bounces, text, length)
            rc = move(self.f.fd, True, self.f.direct, self.f.bounces, self.page_size, 0)
            if rc == -EINVAL and self.f.direct:
                # Some file systems take the flag and refuse the write.
                self.f.direct = False
                fcntl(self.f.fd, F_SETFL, fcntl(self.f.fd, F_GETFL) & ~O_DIRECT)
                rc = move(self.f.fd, True, False, self.f.bounces, self.page_size, 0)
        if rc < 0:
            raise OSError(-rc, os.strerror(-rc))
        return 0

    cdef int erase(self) except -1:
        cdef swap_file *f = &self.f
        if self.packed:
            return self.forget_objects()
        with nogil:
            if enter(f) == 0:
                if clear(f, f.page_size, f.size - f.page_size) != 0 and f.preallocated:
                    # of a sparse file close cuts it off
                    overwrite(f, f.page_size, f.size - f.page_size)
                leave(f)
        return 0

    cdef int drop_pages(self) except -1:
        """At close, when no call is under way."""
        cdef int rc
        if self.packed:
            os.ftruncate(self.f.fd, self.page_size)
            return 0
        with nogil:
            rc = clear(&self.f, self.page_size, self.f.size - self.page_size)
        if rc != 0 and not zsw_load_u32(&self.f.damaged):
            # Cut off, and as long again: blocks that it had are lost to it, but so is what they
            # held.
            self.write_header(BEING_MADE)
            os.ftruncate(self.f.fd, self.page_size)
            os.ftruncate(self.f.fd, self.f.size)
        return 0

    cdef int release(self) except -1:
        zsw_store_u32(&self.f.closed, 1)
        # In a forked child the file is not ours, and the threads whose calls are counted are gone.
        if self.f.pid == getpid():
            with nogil:
                zsw_fence()
                while zsw_load_i64(&self.f.calls) != 0:
                    zsw_sleep_ns(50_000)
            reader_close(&self.f.reader)
            if self.cipher is not None:
                self.cipher.forget()
            # a file that is not marked clean is as good: its content is dropped either way
            with suppress(OSError):
                self.drop_pages()
                self.write_header(CLEAN)
            with suppress(OSError):
                # a process made by vfork() or clone() may still have the file open
                locks.flock(self.f.fd, locks.LOCK_UN)
            close(self.f.fd)
        self.f.fd = -1
        return 0
