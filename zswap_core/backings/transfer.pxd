"""Transfers between a file and memory: one at a time, or many reads at once."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from posix.types cimport off_t

from zswap_core.os cimport zsw_mutex


cdef enum:
    DEPTH = 64                  # reads that are on their way at a time, in a ring,
    HELPERS = 7                 # or, where there is none, by so many threads beside the caller's
    RINGS = 8                   # calls that may each have a ring at a time
    MANY = 256                  # reads that are asked for together


cdef extern from "zswap/ring.h" nogil:
    ctypedef struct zsw_ring:
        int fd
        uint32_t waiting
        void *map


cdef struct zsw_read:
    uint8_t *memory             # these three say what is left of it
    size_t size
    off_t at
    int rc                      # 0 when nothing is; -errno
    bint told


# What is to be done with a read that is over, while others are on their way: that of this number.
ctypedef void (*zsw_landed)(void *arg, uint32_t number) noexcept nogil


# What a file has for reading much at once.  All zeros is a good one, without rings yet.
cdef struct zsw_reader:
    zsw_mutex locks[RINGS]
    zsw_ring rings[RINGS]
    uint32_t no_rings           # refused by the system, or not wanted
    uint64_t in_rings           # reads that went through them


cdef int move(int fd, bint writing, bint direct, uint8_t *memory, size_t size,
              off_t at) noexcept nogil
cdef void read_many(zsw_reader *reader, int fd, bint direct, zsw_read *reads,
                    uint32_t n, zsw_landed landed, void *arg) noexcept nogil
cdef void reader_close(zsw_reader *reader) noexcept nogil
cdef void reader_forget(zsw_reader *reader) noexcept nogil
