"""What is open of a swap file, and what its every layout needs of it."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from posix.types cimport off_t

from zswap_core.backings.base cimport zsw_backing_counts
from zswap_core.backings.transfer cimport zsw_reader
from zswap_core.fault cimport Site
from zswap_core.forks cimport zsw_fork_watch
from zswap_core.libraries.ciphers cimport zsw_cipher
from zswap_core.os cimport zsw_mutex


cdef enum:
    BOUNCES = 8
    BOUNCE_BYTES = 1 << 18      # the longest single transfer through a bounce buffer


cdef struct swap_file:
    zsw_fork_watch watch        # the first, so that it is found by it
    int fd
    int pid                     # a forked child must not touch the parent's pages
    bint direct
    bint preallocated
    uint32_t page_size
    uint64_t nr_pages
    off_t size                  # of the whole file
    uint32_t resized            # goes up before and after that changes
    uint32_t closed
    uint32_t damaged            # the file is not as long as it should be, or was not at some time
    uint32_t cannot_punch       # the file system cannot make holes, or zeros of blocks that stay
    int64_t calls               # under way; close waits for them
    zsw_backing_counts *counts
    # For memory that O_DIRECT refuses, and for what is encrypted: made with the file, since a load
    # must not wait for memory.
    uint8_t *bounces
    zsw_mutex bounce_locks[BOUNCES]
    zsw_reader reader
    zsw_cipher *cipher          # NULL: pages are written as they are
    void *packed                # NULL: each page lies at its own offset


cdef int enter(swap_file *f) noexcept nogil
cdef void leave(swap_file *f) noexcept nogil
cdef int set_length(swap_file *f, off_t size) noexcept nogil
cdef int allocate(Site site, int fd, int mode, off_t at, off_t size) noexcept nogil
cdef int clear(swap_file *f, off_t at, off_t size) noexcept nogil
cdef int overwrite(swap_file *f, off_t at, size_t size) noexcept nogil
