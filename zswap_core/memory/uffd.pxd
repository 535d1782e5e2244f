"""The Cython mirror of zswap/uffd.h."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from "zswap/uffd.h" nogil:
    const uint32_t ZSW_FAULT_KNOWN
    const uint32_t ZSW_FAULT_PRESENT
    const uint32_t ZSW_FAULT_WRITE
    const uint32_t ZSW_FAULT_LITTLE_STACK

    int zsw_uffd_open_signals()
    int zsw_uffd_open_messages()
    int zsw_uffd_open_programs()
    int zsw_uffd_register(int fd, void *p, size_t size)
    int zsw_uffd_copy(int fd, uint8_t *to, const uint8_t *from_, size_t size, size_t page)
    int zsw_uffd_protect(int fd, void *p, size_t size, bint on, size_t page)
    void zsw_uffd_wake(int fd, void *p, size_t size)
    int zsw_uffd_poison(int fd, void *p, size_t size)
    int zsw_uffd_next(int fd, uint64_t *address, uint32_t *how, uint64_t *thread)
    void zsw_uffd_poll(int fd, int other)
    int zsw_epoll_open()
    int zsw_epoll_add(int set, int fd, uint32_t which)
    void zsw_epoll_leave(int set, int fd)
    int zsw_epoll_next(int set, uint32_t *which)

    int zsw_keep_from_children(void *p, size_t size)
    void zsw_map_nothing(void *p, size_t size)
    int zsw_pidfd()

    cdef struct iovec:
        void *iov_base
        size_t iov_len
    int zsw_drop(int pidfd, const iovec *parts, size_t n, bint shared)
    int zsw_release_shared(void *p, size_t size)
    int zsw_map_shared(void *p, size_t size, int fd, uint64_t offset)

    ctypedef struct zsw_sum:
        uint64_t low
        uint64_t high
    zsw_sum zsw_nh(const void *page, const uint64_t *key, size_t size)
