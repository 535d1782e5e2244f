"""The binding of memories that other processes touch: `Programs`; and what a process that waits for
another needs."""
from cython cimport no_gc_clear
from libc.errno cimport EAGAIN, EINTR, EINVAL, ENOMEM, errno
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.binding.memory cimport Region
from zswap_core.memory.programs cimport (
    program_ask, program_is_alive, program_join, program_leave, ZSW_ALLOCATE, ZSW_PROGRAM_PART,
    zsw_reply, zsw_request,
)
from zswap_core.memory.state cimport OF_PROGRAMS
from zswap_core.os cimport zsw_peek_u64

import os


cdef extern from "zswap/forward.h" nogil:
    void zsw_forward_to(int pid)
    int zsw_forward(int number)
    void zsw_forward_no_more()
    int zsw_die_with_parent(int parent)

cdef extern from "<sys/socket.h>" nogil:
    enum: MSG_DONTWAIT, MSG_NOSIGNAL
    ssize_t recv(int fd, void *data, size_t size, int flags)
    ssize_t send(int fd, const void *data, size_t size, int flags)

cdef extern from "<sys/statvfs.h>" nogil:
    cdef struct statvfs_t "statvfs":
        unsigned long f_bsize
        unsigned long f_frsize
        unsigned long f_bavail
    int fstatvfs(int fd, statvfs_t *found)

PART = ZSW_PROGRAM_PART


@no_gc_clear
cdef class Programs(Region):
    """A memory whose pages other processes have."""
    cdef int folder

    def __cinit__(self):
        self.folder = -1

    def __init__(self, engine not None, used, uint64_t pages, uint64_t budget, uint64_t limit,
                 bint divides):
        Region.__init__(self, engine, used, pages, budget, limit, divides, OF_PROGRAMS)

    def watch_space(self, path):
        """Refuses what the file system of the path has no room for."""
        self.folder = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    @property
    def bytes(self):
        """How long a program's file is."""
        return self.m.bytes

    @property
    def page_size(self):
        return self.m.page_size

    def join(self, int fd, int file, uint64_t base):
        """A process has mapped its file at `base`, under a userfaultfd; it has both from now on.
        The number of the program."""
        cdef int rc
        with nogil:
            rc = program_join(self.m, fd, file, base)
        if rc < 0:
            raise OSError(-rc, os.strerror(-rc))
        return rc

    def leave(self, uint32_t which):
        """The process has ended."""
        with nogil:
            program_leave(self.m, which)

    def is_alive(self, uint32_t which):
        """Whether the memory of the process is still there."""
        return program_is_alive(self.m, which)

    cdef bint has_space(self, uint64_t pages) noexcept nogil:
        cdef statvfs_t found
        if self.folder < 0 or fstatvfs(self.folder, &found) != 0:
            return True
        return found.f_bavail * found.f_frsize >= pages << self.m.page_shift

    def answer(self, uint32_t which, int sock):
        """Answers one request; False when there will be none any more."""
        cdef zsw_request q
        cdef zsw_reply r
        cdef ssize_t n
        with nogil:
            n = recv(sock, &q, sizeof(q), MSG_DONTWAIT)
            if n == <ssize_t> sizeof(q):
                if q.what == ZSW_ALLOCATE and not self.has_space(q.pages):
                    r.value, r.stale = -ENOMEM, 0
                else:
                    program_ask(self.m, which, &q, &r)
                send(sock, &r, sizeof(r), MSG_NOSIGNAL | MSG_DONTWAIT)
        return n != 0 and (n > 0 or errno == EINTR or errno == EAGAIN)

    def most_bytes(self):
        """The most that all of it took."""
        return zsw_peek_u64(&self.m.counts.most)


def forward_signals(int pid, numbers):
    """Signals that somebody sends to this process go to that one, but for those that a terminal
    sends, which come to both; what is ignored stays so.  With pid 0 they are ours again."""
    if pid == 0:
        zsw_forward_no_more()
        return
    zsw_forward_to(pid)
    for number in numbers:
        if zsw_forward(number) != 0:
            raise OSError(EINVAL, f"signal {number} cannot be forwarded")


def die_with_parent(int parent):
    """Has the kernel kill this process when its parent ends; whether that is still there."""
    return zsw_die_with_parent(parent) == 0
