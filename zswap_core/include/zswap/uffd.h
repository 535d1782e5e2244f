/* zswap/uffd.h: userfaultfd(2), the signal it may send, and dropping pages.
 *
 * The kernel's structures are declared here, in our own words, since the headers that we build with
 * may be older than the kernel that we run on.  Everything returns 0 or -errno; nothing here
 * allocates.
 */
#ifndef ZSWAP_UFFD_H
#define ZSWAP_UFFD_H

#include "zswap/os.h"
#include <poll.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <ucontext.h>

/* ---- the kernel's interface -------------------------------------------------------------- */

struct zsw_uffd_api { uint64_t api, features, ioctls; };
struct zsw_uffd_range { uint64_t start, len; };
struct zsw_uffd_register { struct zsw_uffd_range range; uint64_t mode, ioctls; };
struct zsw_uffd_copy { uint64_t dst, src, len, mode; int64_t copied; };
struct zsw_uffd_protect { struct zsw_uffd_range range; uint64_t mode; };
struct zsw_uffd_poison { struct zsw_uffd_range range; uint64_t mode; int64_t done; };
struct zsw_uffd_message {
    uint8_t event, unused[7];
    uint64_t flags, address, more;
};

#define ZSW_UFFD_NEW _IO(0xaa, 0x00)
#define ZSW_UFFD_API _IOWR(0xaa, 0x3f, struct zsw_uffd_api)
#define ZSW_UFFD_REGISTER _IOWR(0xaa, 0x00, struct zsw_uffd_register)
#define ZSW_UFFD_WAKE _IOR(0xaa, 0x02, struct zsw_uffd_range)
#define ZSW_UFFD_COPY _IOWR(0xaa, 0x03, struct zsw_uffd_copy)
#define ZSW_UFFD_PROTECT _IOWR(0xaa, 0x06, struct zsw_uffd_protect)
#define ZSW_UFFD_POISON _IOWR(0xaa, 0x08, struct zsw_uffd_poison)
#define ZSW_UFFD_VERSION 0xaaull
#define ZSW_UFFD_USER_MODE_ONLY 1
#define ZSW_UFFD_PROTECTS (1ull << 0) /* features: faults at write-protected pages are told */
#define ZSW_UFFD_SIGBUS (1ull << 7)   /* faults are signals */
#define ZSW_UFFD_THREADS (1ull << 8)  /* whose fault it is, is told */
#define ZSW_UFFD_SHARED (1ull << 12)  /* shared memory can be write-protected (Linux 5.19) */
#define ZSW_UFFD_MODES 3ull           /* of a registration: missing, and write-protected */
#define ZSW_UFFD_PAGEFAULT 0x12

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_process_madvise
#define SYS_process_madvise 440
#endif

/* What is known of a fault. */
#define ZSW_FAULT_KNOWN 1u   /* the other two are */
#define ZSW_FAULT_PRESENT 2u /* the page was there, and protected */
#define ZSW_FAULT_WRITE 4u
#define ZSW_FAULT_LITTLE_STACK 8u /* nothing may be done that needs much of it */

static inline int zsw_uffd_features(int fd, uint64_t wanted) {
    struct zsw_uffd_api api = {ZSW_UFFD_VERSION, wanted, 0};
    return ioctl(fd, ZSW_UFFD_API, &api) == 0 ? fd : -errno;
}
/* A descriptor whose faults come as signals, and as EFAULT where the kernel touches the memory:
 * any user may have one. */
static inline int zsw_uffd_open_signals(void) {
    int rc, fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | ZSW_UFFD_USER_MODE_ONLY);
    if (fd < 0 && errno == EINVAL) fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return -errno;
    rc = zsw_uffd_features(fd, ZSW_UFFD_PROTECTS | ZSW_UFFD_SIGBUS);
    if (rc < 0) close(fd);
    return rc;
}
/* One to read faults from, those of the kernel as well: root's, or whose the device is. */
static inline int zsw_uffd_open_to_read(uint64_t features) {
    int rc, fd = -1, device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    if (device >= 0) {
        fd = ioctl(device, ZSW_UFFD_NEW, O_CLOEXEC | O_NONBLOCK);
        close(device);
    }
    if (fd < 0) fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return -errno;
    rc = zsw_uffd_features(fd, features);
    if (rc < 0) close(fd);
    return rc;
}
static inline int zsw_uffd_open_messages(void) { return zsw_uffd_open_to_read(ZSW_UFFD_PROTECTS); }
/* The same for memory that another process has, too. */
static inline int zsw_uffd_open_programs(void) {
    return zsw_uffd_open_to_read(ZSW_UFFD_PROTECTS | ZSW_UFFD_SHARED | ZSW_UFFD_THREADS);
}
static inline int zsw_uffd_register(int fd, void *p, size_t bytes) {
    struct zsw_uffd_register r = {{(uintptr_t)p, bytes}, ZSW_UFFD_MODES, 0};
    return ioctl(fd, ZSW_UFFD_REGISTER, &r) == 0 ? 0 : -errno;
}
/* A span may lie in several mappings, when some of it is protected, say: then page by page. */
static inline int zsw_uffd_is_torn(size_t bytes, size_t page) {
    return bytes > page && (errno == ENOENT || errno == EINVAL);
}
/* Maps copies of pages where there are none; one that is there stays. */
static inline int zsw_uffd_copy(int fd, uint8_t *to, const uint8_t *from, size_t bytes,
                                size_t page) {
    size_t step = bytes;
    while (bytes > 0) {
        struct zsw_uffd_copy c = {(uintptr_t)to, (uintptr_t)from, step < bytes ? step : bytes, 0, 0};
        size_t done = c.len;
        if (ioctl(fd, ZSW_UFFD_COPY, &c) != 0) {
            done = c.copied > 0 ? (size_t)c.copied : 0;
            if (done == 0 && errno == EEXIST) done = page;
            else if (done == 0 && zsw_uffd_is_torn(c.len, page)) step = page;
            else if (done == 0 && errno != EAGAIN && errno != EINTR) return -errno;
        }
        to += done, from += done, bytes -= done;
    }
    return 0;
}
static inline int zsw_uffd_protect(int fd, void *p, size_t bytes, int on, size_t page) {
    struct zsw_uffd_protect w = {{(uintptr_t)p, bytes}, on ? 1u : 0u};
    int rc;
    do rc = ioctl(fd, ZSW_UFFD_PROTECT, &w);
    while (rc != 0 && (errno == EAGAIN || errno == EINTR));
    if (rc == 0) return 0;
    if (!zsw_uffd_is_torn(bytes, page)) return -errno;
    for (w.range.len = page; bytes > 0; w.range.start += page, bytes -= page) {
        do rc = ioctl(fd, ZSW_UFFD_PROTECT, &w);
        while (rc != 0 && (errno == EAGAIN || errno == EINTR));
        if (rc != 0) return -errno;
    }
    return 0;
}
static inline void zsw_uffd_wake(int fd, void *p, size_t bytes) {
    struct zsw_uffd_range r = {(uintptr_t)p, bytes};
    (void)!ioctl(fd, ZSW_UFFD_WAKE, &r);
}
/* Who touches the page from now on gets a SIGBUS. */
static inline int zsw_uffd_poison(int fd, void *p, size_t bytes) {
    struct zsw_uffd_poison q = {{(uintptr_t)p, bytes}, 0, 0};
    return ioctl(fd, ZSW_UFFD_POISON, &q) == 0 ? 0 : -errno;
}
/* The next fault: 1, 0 when there is none, or -errno; whose it is, where that is told. */
static inline int zsw_uffd_next(int fd, uint64_t *address, uint32_t *how, uint64_t *thread) {
    struct zsw_uffd_message m;
    ssize_t n = read(fd, &m, sizeof m);
    if (n < 0) return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    if (n != (ssize_t)sizeof m || m.event != ZSW_UFFD_PAGEFAULT) return 0;
    *address = m.address;
    *thread = m.more;
    *how = ZSW_FAULT_KNOWN | (m.flags & 1 ? ZSW_FAULT_WRITE : 0u)
        | (m.flags & 2 ? ZSW_FAULT_PRESENT : 0u);
    return 1;
}
/* Sleeps until there is a fault, or the other descriptor can be read. */
static inline void zsw_uffd_poll(int fd, int other) {
    struct pollfd p[2] = {{fd, POLLIN, 0}, {other, POLLIN, 0}};
    (void)!poll(p, 2, -1);
}

/* Which of many descriptors has a fault: 1, or 0 when none has. */
static inline int zsw_epoll_next(int set, uint32_t *which) {
    struct epoll_event e;
    if (epoll_wait(set, &e, 1, 0) != 1) return 0;
    *which = e.data.u32;
    return 1;
}
static inline int zsw_epoll_open(void) {
    int set = epoll_create1(EPOLL_CLOEXEC);
    return set < 0 ? -errno : set;
}
static inline int zsw_epoll_add(int set, int fd, uint32_t which) {
    struct epoll_event e = {EPOLLIN, {.u32 = which}};
    return epoll_ctl(set, EPOLL_CTL_ADD, fd, &e) == 0 ? 0 : -errno;
}
static inline void zsw_epoll_leave(int set, int fd) {
    (void)epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL);
}

/* ---- the memory itself ------------------------------------------------------------------- */

/* Keeps the range from forked children, and from core dumps, which would find holes in it. */
static inline int zsw_keep_from_children(void *p, size_t bytes) {
    if (madvise(p, bytes, MADV_DONTFORK) != 0) return -errno;
    return madvise(p, bytes, MADV_DONTDUMP) == 0 ? 0 : -errno;
}
/* In a forked child, where nothing lies at the range: from now on whoever touches it gets a
 * SIGBUS, and nothing else can come to lie there. */
static inline void zsw_map_nothing(void *p, size_t bytes) {
    int fd = (int)syscall(SYS_memfd_create, "zswap", 1u /* MFD_CLOEXEC */);
    void *at = MAP_FAILED;
    if (fd >= 0) {
        at = mmap(p, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd, 0);
        close(fd);
    }
    if (at == MAP_FAILED)
        (void)!mmap(p, bytes, PROT_NONE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
}
static inline int zsw_pidfd(void) {
    int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    return fd < 0 ? -errno : fd;
}
/* Drops pages of a file that others have, too: they find none there. */
static inline int zsw_release_shared(void *p, size_t bytes) {
    return madvise(p, bytes, MADV_REMOVE) == 0 ? 0 : -errno;
}
/* Maps a part of such a file in the place of what is there. */
static inline int zsw_map_shared(void *p, size_t bytes, int fd, uint64_t offset) {
    void *at = mmap(p, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd,
                    (off_t)offset);
    if (at == MAP_FAILED) return -errno;
    (void)madvise(p, bytes, MADV_NOHUGEPAGE);
    return zsw_keep_from_children(p, bytes);
}
/* Drops pages that lie here and there; with one call where the kernel lets a process do that to
 * itself (Linux 6.13). */
static inline int zsw_drop(int pidfd, const struct iovec *parts, size_t n, int shared) {
    size_t i = 0;
    int rc = 0;
    if (n > 1 && pidfd >= 0) {
        ssize_t did = syscall(SYS_process_madvise, pidfd, parts, n,
                              shared ? MADV_REMOVE : MADV_DONTNEED, 0u);
        /* what it did not reach is dropped below; a part that it did half, once more */
        for (; i < n && did >= (ssize_t)parts[i].iov_len; i++) did -= (ssize_t)parts[i].iov_len;
    }
    for (; i < n && rc == 0; i++)
        rc = shared ? zsw_release_shared(parts[i].iov_base, parts[i].iov_len)
                    : zsw_release(parts[i].iov_base, parts[i].iov_len);
    return rc;
}

/* ---- sums -------------------------------------------------------------------------------- */

typedef struct zsw_sum { uint64_t low, high; } zsw_sum;

/* NH (Black, Halevi, Krawczyk, Krovetz, Rogaway: UMAC, 1999) on words of 64 bits: two pages that
 * differ have the same sum with a probability of 2^-64 at most, over the choice of the key, which
 * is as long as the page and secret. */
static inline zsw_sum zsw_nh(const void *page, const uint64_t *key, size_t bytes) {
    const uint64_t *words = (const uint64_t *)page;
    unsigned __int128 even = 0, odd = 0;
    zsw_sum sum;
    for (size_t i = 0; i < bytes / 8; i += 4) {
        even += (unsigned __int128)(words[i] + key[i]) * (words[i + 1] + key[i + 1]);
        odd += (unsigned __int128)(words[i + 2] + key[i + 2]) * (words[i + 3] + key[i + 3]);
    }
    even += odd;
    sum.low = (uint64_t)even;
    sum.high = (uint64_t)(even >> 64);
    return sum;
}

#endif
