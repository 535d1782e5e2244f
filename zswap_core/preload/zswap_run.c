/* zswap_run.c: the library that `zswap run` preloads into a program.
 *
 * It serves the program's allocations of a certain size and more, and its private anonymous
 * mappings, from a region of memory whose pages `zswap run` brings and takes away; the rest is
 * libc's.  The region is a file in memory, mapped under a userfaultfd: both processes have it, so
 * that pages are read and dropped there, and this process needs no thread of ours.
 *
 * Nothing here allocates, or takes a lock that an allocator may hold: allocators call mmap with
 * theirs held.  While ours is held signals wait, and nothing is touched that could be missing.
 */
#undef _FORTIFY_SOURCE /* whose open() is another's */
#include "zswap/uffd.h"
#include "zswap/program.h"
#include "zswap/text.h"
#include <dlfcn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/socket.h>

#define EXPORT __attribute__((visibility("default")))

enum { INERT, ASKED_FOR, THERE };
enum { PROTECTED = 1, LOCKED = 2, REPLACED = 4 }; /* what the program did to parts of the region */
enum { ANCESTORS = 8, HIGH = 900 };
#define MAPPED UINT32_MAX /* in the table of sizes: a part of a mapping, not of a block */

struct region { uint8_t *base; size_t bytes; uint32_t *sizes; };

static struct {
    zsw_mutex lock;
    uint32_t state;
    pid_t pid; /* whose all this is: a child of vfork sees it, too */
    size_t least, page;
    unsigned shift;
    int inherited, uffd, socket, life, file;
    struct region r;
    uint32_t altered;
    struct region ancestors[ANCESTORS]; /* a forked child has none of them */
    unsigned generation;
} z = {.least = SIZE_MAX, .inherited = -1, .uffd = -1, .socket = -1, .life = -1, .file = -1};

/* ---- libc's ------------------------------------------------------------------------------ */

static struct {
    void *(*malloc)(size_t);
    void *(*calloc)(size_t, size_t);
    void *(*realloc)(void *, size_t);
    void *(*memalign)(size_t, size_t);
    size_t (*usable)(void *);
    void (*free)(void *);
    int (*close)(int);
    int (*open)(const char *, int, ...);
    int (*openat)(int, const char *, int, ...);
    int (*fcntl)(int, int, ...);
} next;
static int looking;

/* What is allocated while the dynamic linker looks for the next malloc; never freed. */
static _Alignas(64) uint8_t early[16384];
static size_t early_used;

static int is_early(const void *p) { return (uintptr_t)p - (uintptr_t)early < sizeof early; }
static void *take_early(size_t size, size_t align) {
    size_t at = (early_used + 16 + align - 1) & ~(align - 1);
    if (size > sizeof early || at > sizeof early - size) return NULL;
    memcpy(early + at - 8, &size, 8);
    early_used = at + size;
    return early + at;
}
static size_t early_size(const void *p) {
    size_t size;
    memcpy(&size, (const uint8_t *)p - 8, 8);
    return size;
}

static __attribute__((noinline)) int find_next(void) {
    if (next.free != NULL) return 1;
    if (looking) return 0;
    looking = 1;
#define FIND(name, symbol) *(void **)&next.name = dlsym(RTLD_NEXT, symbol)
    FIND(malloc, "malloc");
    FIND(calloc, "calloc");
    FIND(realloc, "realloc");
    FIND(memalign, "memalign");
    FIND(usable, "malloc_usable_size");
    FIND(close, "close");
    FIND(open, "open64");
    FIND(openat, "openat64");
    FIND(fcntl, "fcntl64");
    if (next.fcntl == NULL) FIND(fcntl, "fcntl");
    FIND(free, "free");
    looking = 0;
    return 1;
}
static inline int has_next(void) { return zsw_likely(next.free != NULL) || find_next(); }

static void *raw_map(void *at, size_t bytes, int prot, int flags, int fd, off_t offset) {
    return (void *)syscall(SYS_mmap, at, bytes, prot, flags, fd, offset);
}
static int raw_unmap(void *p, size_t bytes) { return (int)syscall(SYS_munmap, p, bytes); }
static int raw_advise(void *p, size_t bytes, int advice) {
    return (int)syscall(SYS_madvise, p, bytes, advice);
}
static void raw_close(int *fd) {
    if (*fd >= 0) syscall(SYS_close, *fd);
    *fd = -1;
}

/* ---- words ------------------------------------------------------------------------------- */

/* One line on stderr. */
static void say(const char *what, uintptr_t address, const char *why, int error) {
    char line[400], *at = line, *end = line + sizeof line - 1;
    at = zsw_add_text(at, end, "zswap: ");
    at = zsw_add_text(at, end, what);
    at = zsw_add_text(at, end, " (process ");
    at = zsw_add_number(at, end, (uint64_t)syscall(SYS_getpid), 10);
    if (address) at = zsw_add_number(zsw_add_text(at, end, ", 0x"), end, address, 16);
    at = zsw_add_text(at, end, "): ");
    at = zsw_add_text(at, end, why);
    if (error) at = zsw_add_error(at, end, error);
    *at++ = '\n';
    syscall(SYS_write, 2, line, (size_t)(at - line));
}
static void die(const char *what, const void *p, const char *why) {
    say(what, (uintptr_t)p, why, 0);
    abort();
}

/* ---- the region -------------------------------------------------------------------------- */

static inline int within(const struct region *r, const void *p) {
    return (uintptr_t)p - (uintptr_t)r->base < r->bytes;
}
static inline int is_here(const void *p) { return within(&z.r, p); }
static const struct region *ancestor_of(const void *p) {
    for (unsigned i = 0; i < z.generation && i < ANCESTORS; i++)
        if (within(&z.ancestors[i], p)) return &z.ancestors[i];
    return NULL;
}
static inline uint64_t page_of(const void *p) {
    return ((uintptr_t)p - (uintptr_t)z.r.base) >> z.shift;
}
static inline uint64_t pages_for(size_t bytes) {
    return (bytes >> z.shift) + ((bytes & (z.page - 1)) != 0);
}
static inline uint8_t *at_page(uint64_t page) { return z.r.base + (page << z.shift); }
static inline uint32_t *size_at(const struct region *r, const void *p) {
    return &r->sizes[(((uintptr_t)p - (uintptr_t)r->base) >> z.shift) / ZSW_PROGRAM_PART];
}

/* The kernel's mask of signals has 64. */
static void enter(uint64_t *mask) {
    uint64_t all = ~(uint64_t)0;
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, mask, sizeof all);
    zsw_lock(&z.lock);
}
static void leave(const uint64_t *mask) {
    zsw_unlock(&z.lock);
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, mask, NULL, sizeof *mask);
}

static ssize_t exchange(int number, int fd, void *data, size_t bytes, int *fds, unsigned count) {
    union { struct cmsghdr h; char room[CMSG_SPACE(2 * sizeof(int))]; } u;
    struct iovec part = {data, bytes};
    struct msghdr m;
    ssize_t n;
    memset(&m, 0, sizeof m);
    memset(&u, 0, sizeof u);
    m.msg_iov = &part, m.msg_iovlen = 1;
    m.msg_control = u.room, m.msg_controllen = CMSG_SPACE(count * sizeof(int));
    if (number == SYS_sendmsg) {
        u.h.cmsg_level = SOL_SOCKET, u.h.cmsg_type = SCM_RIGHTS;
        u.h.cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(&u.h), fds, count * sizeof(int));
    }
    do
        n = syscall(number, fd, &m, number == SYS_sendmsg ? MSG_NOSIGNAL : MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (number == SYS_recvmsg && n == (ssize_t)bytes) {
        if (m.msg_controllen < CMSG_LEN(count * sizeof(int)) || u.h.cmsg_type != SCM_RIGHTS)
            return -1;
        memcpy(fds, CMSG_DATA(&u.h), count * sizeof(int));
    }
    return n;
}

/* Where programs do not expect them, and the dups and close loops of most do not come. */
static int put_high(int fd) {
    for (int least = HIGH; least > 30; least /= 2) {
        int up = (int)syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, least);
        if (up >= 0) {
            raw_close(&fd);
            return up;
        }
    }
    return fd;
}

/* Maps part of the file, or all, where the region is: under the userfaultfd, not for children,
 * dumps or huge pages, and whatever the process locks, it is not populated. */
static int map_part(uint8_t *at, size_t bytes) {
    if (raw_map(at, bytes, PROT_NONE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, z.file,
                at - z.r.base) != at)
        return -errno;
    syscall(SYS_munlock, at, bytes);
    raw_advise(at, bytes, MADV_NOHUGEPAGE);
    if (raw_advise(at, bytes, MADV_DONTFORK) != 0 || raw_advise(at, bytes, MADV_DONTDUMP) != 0)
        return -errno;
    if (zsw_uffd_register(z.uffd, at, bytes) != 0) return -errno;
    return syscall(SYS_mprotect, at, bytes, PROT_READ | PROT_WRITE) == 0 ? 0 : -errno;
}

static int map_region(size_t bytes) {
    size_t align = z.page * ZSW_PROGRAM_PART, head;
    size_t table = bytes / align * sizeof(uint32_t);
    uint8_t *p;
    if (align < (2u << 20)) align = 2u << 20;
    p = raw_map(NULL, bytes + align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return -errno;
    head = -(uintptr_t)p & (align - 1);
    if (head) raw_unmap(p, head);
    raw_unmap(p + head + bytes, align - head);
    z.r.base = p + head;
    z.r.sizes = raw_map(NULL, table, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (z.r.sizes == MAP_FAILED) return -errno;
    return map_part(z.r.base, bytes);
}

/* Has the kernel kill this process when the other end of the pipe is closed. */
static int hang_on(void) {
    if (syscall(SYS_fcntl, z.life, F_SETSIG, SIGKILL) != 0) return -errno;
    if (syscall(SYS_fcntl, z.life, F_SETOWN, (int)z.pid) != 0) return -errno;
    return syscall(SYS_fcntl, z.life, F_SETFL, O_ASYNC | O_NONBLOCK) == 0 ? 0 : -errno;
}

static int meet(void) {
    struct zsw_hello hello = {ZSW_PROGRAM_VERSION, 0};
    struct zsw_welcome w;
    struct zsw_ready ready;
    struct zsw_reply reply;
    int sockets[2], ends[2], theirs[2], rc;
    if (z.uffd < 0) z.uffd = zsw_uffd_open_programs();
    if (z.uffd < 0) return z.uffd;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0) return -errno;
    z.socket = sockets[0];
    if (pipe2(ends, O_CLOEXEC) != 0) {
        raw_close(&sockets[1]);
        return -errno;
    }
    z.life = ends[0];
    theirs[0] = sockets[1], theirs[1] = ends[1];
    rc = exchange(SYS_sendmsg, z.inherited, &hello, sizeof hello, theirs, 2) < 0 ? -errno : 0;
    raw_close(&theirs[0]);
    raw_close(&theirs[1]);
    if (rc != 0) return rc;
    if (exchange(SYS_recvmsg, z.socket, &w, sizeof w, &z.file, 1) != (ssize_t)sizeof w)
        return -ECONNRESET;
    if (w.page_size != z.page) return -EPROTO;
    z.uffd = put_high(z.uffd), z.socket = put_high(z.socket);
    z.life = put_high(z.life), z.file = put_high(z.file);
    rc = hang_on();
    if (rc == 0) rc = map_region(w.bytes);
    if (rc != 0) return rc;
    ready.base = (uintptr_t)z.r.base;
    if (exchange(SYS_sendmsg, z.socket, &ready, sizeof ready, &z.uffd, 1) < 0) return -errno;
    if (syscall(SYS_recvfrom, z.socket, &reply, sizeof reply, 0, NULL, NULL)
        != (ssize_t)sizeof reply)
        return -ECONNRESET;
    if (reply.value < 0) return (int)reply.value;
    z.r.bytes = w.bytes;
    return 0;
}

static void forget_all(void) {
    raw_close(&z.life);
    raw_close(&z.socket);
    raw_close(&z.uffd);
    raw_close(&z.file);
    memset(&z.r, 0, sizeof z.r);
    z.altered = 0;
}

/* Whether large allocations come from the region; the first makes it. */
static __attribute__((noinline)) int begin(void) {
    int failed = errno, rc = 0;
    uint64_t mask;
    enter(&mask);
    if (z.state == ASKED_FOR) {
        rc = meet();
        if (rc != 0) {
            /* when the other end sees the socket closed it closes its end of this */
            if (z.life >= 0) syscall(SYS_fcntl, z.life, F_SETFL, O_NONBLOCK);
            forget_all();
        }
        zsw_store_u32(&z.state, rc == 0 ? THERE : INERT);
    }
    leave(&mask);
    if (rc != 0)
        say("this process has ordinary memory", 0,
            rc == -EPERM || rc == -EACCES ? "userfaultfd is refused: allow /dev/userfaultfd, "
                                            "CAP_SYS_PTRACE or vm.unprivileged_userfaultfd=1"
                                          : "no region of `zswap run` can be made", -rc);
    errno = failed;
    return z.state == THERE;
}
static inline int is_served(size_t size) {
    if (zsw_likely(size < z.least)) return 0;
    if (zsw_load_u32(&z.state) == INERT || z.pid != (pid_t)syscall(SYS_getpid)) return 0;
    return zsw_load_u32(&z.state) == THERE || begin();
}

/* Whether it is this process, not a child of vfork or clone, that has a pointer into the region. */
static inline int is_mine(void) { return z.pid == (pid_t)syscall(SYS_getpid); }

static int64_t ask(uint32_t what, uint64_t first, uint64_t pages, uint64_t more, uint32_t hint) {
    struct zsw_request q = {what, hint, first, pages, more};
    struct zsw_reply r = {-ENOMEM, 0};
    int failed = errno;
    uint64_t mask;
    ssize_t n;
    enter(&mask);
    do n = syscall(SYS_sendto, z.socket, &q, sizeof q, MSG_NOSIGNAL, NULL, 0);
    while (n < 0 && errno == EINTR);
    if (n == (ssize_t)sizeof q) {
        do n = syscall(SYS_recvfrom, z.socket, &r, sizeof r, 0, NULL, NULL);
        while (n < 0 && errno == EINTR);
        if (n != (ssize_t)sizeof r) r.value = -ENOMEM, r.stale = 0;
    }
    leave(&mask);
    if (r.stale && r.value >= 0)
        raw_advise(at_page(what == ZSW_ALLOCATE ? (uint64_t)r.value : first),
                   (size_t)pages << z.shift, MADV_DONTNEED);
    errno = failed;
    return r.value;
}

/* ---- pages ------------------------------------------------------------------------------- */

static void *take(size_t size) {
    int64_t first = -ENOMEM;
    if (size <= PTRDIFF_MAX) first = ask(ZSW_ALLOCATE, 0, pages_for(size), 0, 0);
    if (first < 0) {
        errno = ENOMEM;
        return NULL;
    }
    return at_page((uint64_t)first);
}

/* What the program may have done to the pages is undone before others have them. */
static void make_plain(uint64_t first, uint64_t pages) {
    uint8_t *at = at_page(first);
    size_t bytes = (size_t)pages << z.shift;
    uint32_t altered = zsw_load_u32(&z.altered);
    if (altered & REPLACED) {
        if (map_part(at, bytes) != 0) die("memory is lost", at, "it cannot be mapped again");
        return;
    }
    if (altered & PROTECTED) syscall(SYS_mprotect, at, bytes, PROT_READ | PROT_WRITE);
    if (altered & LOCKED) syscall(SYS_munlock, at, bytes);
}

static void give(uint64_t first, uint64_t pages) {
    int failed = errno;
    if (zsw_load_u32(&z.altered)) make_plain(first, pages);
    ask(ZSW_FREE, first, pages, 0, 0);
    errno = failed;
}

/* The piece of a span of addresses that lies in the region; what lies below and above of it is
 * the kernel's. */
struct span { uint8_t *p; size_t bytes, below, above; };

static int meets(const void *p, size_t bytes) {
    uintptr_t a = (uintptr_t)p, b = (uintptr_t)z.r.base;
    return z.r.bytes && bytes && a < b + z.r.bytes && (a >= b || bytes > b - a);
}
static struct span span_of(void *p, size_t bytes) {
    struct span s = {p, bytes, 0, 0};
    uint8_t *end = z.r.base + z.r.bytes;
    if (s.p < z.r.base) s.below = (size_t)(z.r.base - s.p), s.p = z.r.base, s.bytes -= s.below;
    if (s.bytes > (size_t)(end - s.p))
        s.above = s.bytes - (size_t)(end - s.p), s.bytes = (size_t)(end - s.p);
    return s;
}

static int refuse(int error) {
    errno = error;
    return -1;
}

/* ---- malloc and its kin ------------------------------------------------------------------ */

/* Notes what the parts are in which these pages lie. */
static void note(uint64_t first, uint64_t pages, uint32_t what) {
    uint64_t part = first / ZSW_PROGRAM_PART, end = (first + pages - 1) / ZSW_PROGRAM_PART;
    for (; part <= end; part++) zsw_store_u32(&z.r.sizes[part], what);
}
/* What is allocated begins with a part; for more than that, what lies before and behind the block
 * goes back.  The alignment is a power of two. */
static void *take_block(size_t align, size_t size) {
    size_t part = z.page * ZSW_PROGRAM_PART, more = align > part ? align - part : 0;
    uint64_t first, before, behind, pages = pages_for(size);
    void *p = take(more <= PTRDIFF_MAX && size <= PTRDIFF_MAX - more ? size + more : SIZE_MAX);
    if (p == NULL) return NULL;
    before = more ? (-(uintptr_t)p & (align - 1)) >> z.shift : 0;
    behind = pages_for(size + more) - before - pages;
    first = page_of(p) + before;
    if (before) give(first - before, before);
    if (behind) give(first + pages, behind);
    note(first, pages, 0);
    p = at_page(first);
    zsw_store_u32(size_at(&z.r, p), (uint32_t)pages);
    return p;
}
static void *take_mapping(size_t size) {
    void *p = take(size);
    if (p != NULL) note(page_of(p), pages_for(size), MAPPED);
    return p;
}
static size_t block_size(const struct region *r, const void *p) {
    return (size_t)zsw_load_u32(size_at(r, p)) << z.shift;
}
static int is_block(const void *p) {
    uint32_t pages = zsw_load_u32(size_at(&z.r, p));
    return page_of(p) % ZSW_PROGRAM_PART == 0 && ((uintptr_t)p & (z.page - 1)) == 0 && pages != 0
        && pages != MAPPED;
}
/* In pages that the next allocator has mapped, jemalloc say, its blocks lie. */
static int is_theirs(const struct region *r, const void *p) {
    return zsw_load_u32(size_at(r, p)) == MAPPED;
}

EXPORT void *malloc(size_t size) {
    if (is_served(size)) return take_block(1, size);
    if (!has_next()) return take_early(size, 16);
    return next.malloc(size);
}

EXPORT void *calloc(size_t n, size_t size) {
    size_t bytes;
    void *p;
    if (__builtin_mul_overflow(n, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    if (is_served(bytes)) return take_block(1, bytes); /* which is zeros */
    if (has_next()) return next.calloc(n, size);
    p = take_early(bytes, 16); /* and so is this */
    return p;
}

EXPORT void free(void *p) {
    uint32_t pages;
    if (p == NULL || zsw_unlikely(is_early(p))) return;
    if (!is_here(p) || is_theirs(&z.r, p)) {
        if (z.generation && !is_here(p) && ancestor_of(p)) return;
        if (has_next()) next.free(p);
        return;
    }
    if (!is_mine()) return;
    pages = is_block(p) ? zsw_swap_u32(size_at(&z.r, p), 0) : 0;
    if (pages == 0) die("free(): invalid pointer", p, "no allocation begins there");
    give(page_of(p), pages);
}

/* A block of another size, in its place where that can be. */
static int resize(void *p, size_t size) {
    uint64_t old = zsw_load_u32(size_at(&z.r, p)), pages = pages_for(size);
    if (size > PTRDIFF_MAX) return 0;
    if (pages > old) {
        if (ask(ZSW_GROW, page_of(p), pages, old, 0) < 0) return 0;
        note(page_of(p) + old, pages - old, 0);
    }
    zsw_store_u32(size_at(&z.r, p), (uint32_t)pages);
    if (pages < old) give(page_of(p) + pages, old - pages);
    return 1;
}

EXPORT void *realloc(void *p, size_t size) {
    size_t old;
    void *fresh;
    if (p == NULL) return malloc(size);
    if (is_here(p) && !is_theirs(&z.r, p)) {
        if (!is_block(p)) die("realloc(): invalid pointer", p, "no allocation begins there");
        if (size == 0) {
            free(p);
            return NULL;
        }
        if (size >= z.least && is_mine() && resize(p, size)) return p;
        old = block_size(&z.r, p);
    } else if (is_early(p)) {
        old = early_size(p);
    } else if (z.generation && !is_here(p) && ancestor_of(p)
               && !is_theirs(ancestor_of(p), p)) {
        old = block_size(ancestor_of(p), p);
    } else {
        if (!is_served(size)) return has_next() ? next.realloc(p, size) : NULL;
        old = next.usable(p);
    }
    fresh = malloc(size);
    if (fresh == NULL) return NULL;
    memcpy(fresh, p, old < size ? old : size);
    free(p);
    return fresh;
}

EXPORT void *reallocarray(void *p, size_t n, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    return realloc(p, bytes);
}

EXPORT void *memalign(size_t align, size_t size) {
    if ((align & (align - 1)) == 0 && is_served(size)) return take_block(align, size);
    if (!has_next()) return take_early(size, align < 16 ? 16 : align);
    return next.memalign(align, size);
}
EXPORT void *aligned_alloc(size_t align, size_t size) {
    if (align == 0 || (align & (align - 1))) {
        errno = EINVAL;
        return NULL;
    }
    return memalign(align, size);
}
EXPORT int posix_memalign(void **out, size_t align, size_t size) {
    int failed = errno;
    void *p;
    if (align % sizeof(void *) || align == 0 || (align & (align - 1))) return EINVAL;
    p = memalign(align, size);
    errno = failed;
    if (p == NULL) return ENOMEM;
    *out = p;
    return 0;
}
EXPORT void *valloc(size_t size) { return memalign((size_t)sysconf(_SC_PAGESIZE), size); }
EXPORT void *pvalloc(size_t size) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (size > PTRDIFF_MAX) {
        errno = ENOMEM;
        return NULL;
    }
    return memalign(page, (size + page - 1) & ~(page - 1));
}
EXPORT size_t malloc_usable_size(void *p) {
    if (p == NULL) return 0;
    if (is_here(p) && !is_theirs(&z.r, p)) return is_block(p) ? block_size(&z.r, p) : 0;
    if (is_early(p)) return early_size(p);
    if (z.generation && !is_here(p) && ancestor_of(p) && !is_theirs(ancestor_of(p), p))
        return block_size(ancestor_of(p), p);
    return has_next() ? next.usable(p) : 0;
}

/* ---- mappings ---------------------------------------------------------------------------- */

/* Something else in the place of a part of the region, at the program's wish. */
static void *replace(void *at, size_t bytes, int prot, int flags, int fd, off_t offset) {
    struct span s = span_of(at, bytes);
    void *p;
    if (s.below || s.above || ((uintptr_t)at & (z.page - 1))) {
        errno = s.below || s.above ? ENOMEM : EINVAL;
        return MAP_FAILED;
    }
    if (ask(ZSW_GIVE_UP, page_of(at), pages_for(bytes), 0, 0) < 0) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    if (flags & MAP_ANONYMOUS && flags & MAP_PRIVATE) {
        __atomic_fetch_or(&z.altered, PROTECTED, __ATOMIC_SEQ_CST);
        return syscall(SYS_mprotect, at, bytes, prot) == 0 ? at : MAP_FAILED;
    }
    __atomic_fetch_or(&z.altered, REPLACED, __ATOMIC_SEQ_CST);
    p = raw_map(at, bytes, prot, flags, fd, offset);
    return p;
}

EXPORT void *mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset) {
    const int no = MAP_FIXED | MAP_FIXED_NOREPLACE | MAP_GROWSDOWN | MAP_STACK | MAP_HUGETLB
        | MAP_LOCKED
#ifdef MAP_32BIT
        | MAP_32BIT
#endif
        ;
    if ((flags & MAP_TYPE) == MAP_PRIVATE && flags & MAP_ANONYMOUS && !(flags & no)
        && prot == (PROT_READ | PROT_WRITE) && is_served(bytes)) {
        void *p = take_mapping(bytes);
        return p == NULL ? MAP_FAILED : p;
    }
    if (flags & MAP_FIXED && meets(at, bytes) && is_mine())
        return replace(at, bytes, prot, flags, fd, offset);
    return raw_map(at, bytes, prot, flags, fd, offset);
}
EXPORT void *mmap64(void *at, size_t bytes, int prot, int flags, int fd, off_t offset) {
    return mmap(at, bytes, prot, flags, fd, offset);
}

EXPORT int munmap(void *p, size_t bytes) {
    struct span s;
    if (!meets(p, bytes)) return z.generation && ancestor_of(p) ? 0 : raw_unmap(p, bytes);
    if ((uintptr_t)p & (z.page - 1)) return refuse(EINVAL);
    if (!is_mine()) return 0;
    s = span_of(p, bytes);
    if (s.below && raw_unmap(p, s.below) != 0) return -1;
    if (s.above && raw_unmap(s.p + s.bytes, s.above) != 0) return -1;
    give(page_of(s.p), pages_for(s.bytes));
    return 0;
}

EXPORT void *mremap(void *old, size_t from, size_t to, int flags, ...) {
    uint64_t had, wants;
    va_list list;
    void *at, *fresh;
    va_start(list, flags);
    at = flags & MREMAP_FIXED ? va_arg(list, void *) : NULL;
    va_end(list);
    if (!meets(old, from ? from : 1)) {
        if (flags & MREMAP_FIXED && meets(at, to)) {
            errno = ENOMEM;
            return MAP_FAILED;
        }
        return (void *)syscall(SYS_mremap, old, from, to, flags, at);
    }
    had = pages_for(from), wants = pages_for(to);
    if ((uintptr_t)old & (z.page - 1) || from == 0 || to == 0 || flags & ~MREMAP_MAYMOVE) {
        errno = EINVAL;
        return MAP_FAILED;
    }
    if (wants <= had) {
        if (wants < had) give(page_of(old) + wants, had - wants);
        return old;
    }
    if (page_of(old) % ZSW_PROGRAM_PART == 0 && ask(ZSW_GROW, page_of(old), wants, had, 0) == 0) {
        note(page_of(old) + had, wants - had, MAPPED);
        return old;
    }
    fresh = flags & MREMAP_MAYMOVE ? take_mapping(to) : NULL;
    if (fresh == NULL) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    memcpy(fresh, old, from);
    give(page_of(old), had);
    return fresh;
}

static int advise_here(uint8_t *p, size_t bytes, int advice) {
    uint64_t first = page_of(p), pages = pages_for(bytes);
    switch (advice) {
    case MADV_DONTNEED:
    case MADV_FREE: return ask(ZSW_GIVE_UP, first, pages, 0, 0) < 0 ? refuse(EINVAL) : 0;
    case MADV_NORMAL: return (void)ask(ZSW_HINT, first, pages, 0, 0), 0;
    case MADV_RANDOM: return (void)ask(ZSW_HINT, first, pages, 0, 1), 0;
    case MADV_SEQUENTIAL: return (void)ask(ZSW_HINT, first, pages, 0, 2), 0;
    case 20: /* MADV_COLD */
    case 21: /* MADV_PAGEOUT */ return (void)ask(ZSW_EVICT, first, pages, 0, 0), 0;
    case 22: /* MADV_POPULATE_READ */
    case 23: return raw_advise(p, bytes, advice);
    case MADV_DOFORK:
    case MADV_REMOVE:
    case MADV_WIPEONFORK: return refuse(EINVAL);
    default: return 0; /* it is not dumped, not forked and of small pages already */
    }
}
EXPORT int madvise(void *p, size_t bytes, int advice) {
    struct span s;
    if (!meets(p, bytes)) return raw_advise(p, bytes, advice);
    if ((uintptr_t)p & (z.page - 1)) return refuse(EINVAL);
    s = span_of(p, bytes);
    if (s.below && raw_advise(p, s.below, advice) != 0) return -1;
    if (s.above && raw_advise(s.p + s.bytes, s.above, advice) != 0) return -1;
    return advise_here(s.p, s.bytes, advice);
}

EXPORT int mprotect(void *p, size_t bytes, int prot) {
    if (meets(p, bytes)) __atomic_fetch_or(&z.altered, PROTECTED, __ATOMIC_SEQ_CST);
    return (int)syscall(SYS_mprotect, p, bytes, prot);
}

static int lock_pages(const void *p, size_t bytes, int number, unsigned flags) {
    uint8_t *start = (uint8_t *)((uintptr_t)p & ~(z.page - 1));
    struct span s;
    int64_t rc;
    if (!meets(p, bytes)) return (int)syscall(number, p, bytes, flags);
    s = span_of(start, bytes + (size_t)((uintptr_t)p - (uintptr_t)start));
    rc = ask(ZSW_PIN, page_of(s.p), pages_for(s.bytes), 0, 0);
    if (rc < 0) return refuse(ENOMEM);
    __atomic_fetch_or(&z.altered, LOCKED, __ATOMIC_SEQ_CST);
    if (syscall(number, p, bytes, flags) == 0) return 0;
    rc = errno;
    ask(ZSW_UNPIN, page_of(s.p), pages_for(s.bytes), 0, 0);
    return refuse((int)rc);
}
EXPORT int mlock(const void *p, size_t bytes) { return lock_pages(p, bytes, SYS_mlock, 0); }
EXPORT int mlock2(const void *p, size_t bytes, unsigned flags) {
    return lock_pages(p, bytes, SYS_mlock2, flags);
}
EXPORT int munlock(const void *p, size_t bytes) {
    if (meets(p, bytes)) {
        uint8_t *start = (uint8_t *)((uintptr_t)p & ~(z.page - 1));
        struct span s = span_of(start, bytes + (size_t)((uintptr_t)p - (uintptr_t)start));
        ask(ZSW_UNPIN, page_of(s.p), pages_for(s.bytes), 0, 0);
    }
    return (int)syscall(SYS_munlock, p, bytes);
}
/* All cannot be locked of what is larger than memory. */
EXPORT int mlockall(int flags) {
    return z.state == INERT ? (int)syscall(SYS_mlockall, flags) : refuse(ENOMEM);
}

/* ---- descriptors ------------------------------------------------------------------------- */

static inline int is_our_file(int fd) {
    return fd > 2 && z.state != INERT
        && (fd == z.inherited || fd == z.uffd || fd == z.socket || fd == z.life || fd == z.file);
}
EXPORT int close(int fd) {
    if (zsw_unlikely(is_our_file(fd))) return refuse(EBADF);
    return has_next() && next.close != NULL ? next.close(fd) : (int)syscall(SYS_close, fd);
}

#ifndef SYS_close_range
#define SYS_close_range 436
#endif
EXPORT int close_range(unsigned first, unsigned last, int flags) {
    unsigned at = first, ours;
    if (first > last) return refuse(EINVAL);
    for (;;) {
        int fds[5] = {z.inherited, z.uffd, z.socket, z.life, z.file};
        ours = last;
        for (int i = 0; i < 5; i++)
            if (z.state != INERT && fds[i] >= 0 && (unsigned)fds[i] >= at
                && (unsigned)fds[i] <= ours)
                ours = (unsigned)fds[i];
        if (!is_our_file((int)ours)) return (int)syscall(SYS_close_range, at, last, flags);
        if (ours > at && syscall(SYS_close_range, at, ours - 1, flags) != 0) return -1;
        if (ours == last) return 0;
        at = ours + 1;
    }
}
EXPORT void closefrom(int low) {
    int failed = errno;
    if (close_range(low < 0 ? 0u : (unsigned)low, ~0u, 0) != 0)
        for (int fd = low < 0 ? 0 : low; fd < 65536; fd++)
            if (!is_our_file(fd)) syscall(SYS_close, fd);
    errno = failed;
}

/* The program wants the number for itself: ours takes another. */
static void make_way(int fd) {
    int *const ours[] = {&z.uffd, &z.socket, &z.life, &z.file};
    uint64_t mask;
    if (!is_mine()) return;
    enter(&mask);
    for (int i = 0; i < 4; i++)
        if (*ours[i] == fd) {
            int up = (int)syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, fd + 1);
            if (up < 0) up = (int)syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 3);
            *ours[i] = up;
        }
    leave(&mask);
}
EXPORT int dup3(int from, int to, int flags) {
    if (zsw_unlikely(is_our_file(to)) && from != to) make_way(to);
    return (int)syscall(SYS_dup3, from, to, flags);
}
EXPORT int dup2(int from, int to) {
    if (from == to) return syscall(SYS_fcntl, from, F_GETFD) < 0 ? -1 : to;
    return dup3(from, to, 0);
}

/* ---- O_DIRECT ---------------------------------------------------------------------------- */

/* Such a transfer goes past page tables, and with them past the protection by which it is seen that
 * a page changes while it leaves: files are opened without it. */
static int indirect(int flags) { return z.state == INERT ? flags : flags & ~O_DIRECT; }

#define OPENS(name, function, parameters, ...) \
    EXPORT int name parameters { \
        mode_t mode = 0; \
        if (__OPEN_NEEDS_MODE(flags)) { \
            va_list list; \
            va_start(list, flags); \
            mode = va_arg(list, mode_t); \
            va_end(list); \
        } \
        find_next(); \
        return next.function(__VA_ARGS__, indirect(flags), mode); \
    }
#ifndef __OPEN_NEEDS_MODE
#define __OPEN_NEEDS_MODE(flags) ((flags) & O_CREAT || ((flags) & O_TMPFILE) == O_TMPFILE)
#endif
OPENS(open, open, (const char *path, int flags, ...), path)
OPENS(open64, open, (const char *path, int flags, ...), path)
OPENS(openat, openat, (int at, const char *path, int flags, ...), at, path)
OPENS(openat64, openat, (int at, const char *path, int flags, ...), at, path)
EXPORT int __open_2(const char *path, int flags) { return open(path, flags); }
EXPORT int __open64_2(const char *path, int flags) { return open(path, flags); }
EXPORT int __openat_2(int at, const char *path, int flags) { return openat(at, path, flags); }
EXPORT int __openat64_2(int at, const char *path, int flags) { return openat(at, path, flags); }

EXPORT int fcntl(int fd, int what, ...) {
    va_list list;
    void *value;
    va_start(list, what);
    value = va_arg(list, void *); /* whatever it is: all fit */
    va_end(list);
    if (what == F_SETFL) value = (void *)(intptr_t)indirect((int)(intptr_t)value);
    find_next();
    return next.fcntl(fd, what, value);
}
EXPORT int fcntl64(int fd, int what, ...) {
    va_list list;
    void *value;
    va_start(list, what);
    value = va_arg(list, void *);
    va_end(list);
    return fcntl(fd, what, value);
}

/* ---- processes --------------------------------------------------------------------------- */

static void in_child_at(int number, siginfo_t *info, void *context) {
    struct sigaction plain;
    if (info->si_code > 0 && ancestor_of(info->si_addr) != NULL)
        say("memory cannot be had", (uintptr_t)info->si_addr,
            "this is a forked child, and what its parent had allocated under `zswap run` is its "
            "parent's alone: have children begin by exec, or raise --min-size", 0);
    memset(&plain, 0, sizeof plain);
    plain.sa_handler = SIG_DFL;
    sigaction(number, &plain, NULL); /* and the instruction is tried again */
}

/* A forked child has nothing of the region.  Its addresses lead to a SIGBUS, never to zeros, nor to
 * something else; and when it allocates as much, it gets a region of its own. */
static void in_child(void) {
    struct sigaction now;
    int fd;
    z.lock.word = 0;
    z.pid = (pid_t)syscall(SYS_getpid);
    if (z.state == INERT) return;
    if (z.r.bytes) {
        fd = (int)syscall(SYS_memfd_create, "zswap", 1u);
        if (fd < 0
            || raw_map(z.r.base, z.r.bytes, PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd, 0) == MAP_FAILED)
            raw_map(z.r.base, z.r.bytes, PROT_NONE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
        raw_close(&fd);
        z.ancestors[z.generation % ANCESTORS] = z.r;
        z.generation++;
        if (sigaction(SIGBUS, NULL, &now) == 0 && now.sa_handler == SIG_DFL) {
            memset(&now, 0, sizeof now);
            now.sa_sigaction = in_child_at;
            now.sa_flags = SA_SIGINFO;
            sigaction(SIGBUS, &now, NULL);
        }
    }
    forget_all();
    z.state = z.inherited >= 0 ? ASKED_FOR : INERT;
}

static const char *read_number(const char *at, uint64_t *number) {
    *number = 0;
    for (; *at >= '0' && *at <= '9'; at++) *number = *number * 10 + (uint64_t)(*at - '0');
    return *at == ':' ? at + 1 : at;
}

static int is_socket(int fd, uint64_t cookie) {
    uint64_t found = 0;
    socklen_t size = sizeof found;
    return getsockopt(fd, SOL_SOCKET, 57 /* SO_COOKIE */, &found, &size) == 0 && found == cookie;
}

/* ZSWAP_RUN has the number of the inherited socket, by which it is known, and the least size that
 * is served. */
static __attribute__((constructor)) void set_up(void) {
    const char *given = getenv("ZSWAP_RUN");
    uint64_t fd, cookie, least;
    find_next();
    if (given == NULL || getauxval(AT_SECURE)) return;
    read_number(read_number(read_number(given, &fd), &cookie), &least);
    if (fd < 3 || fd > INT32_MAX || least == 0 || !is_socket((int)fd, cookie)) return;
    z.page = (size_t)sysconf(_SC_PAGESIZE);
    z.shift = (unsigned)zsw_ctz(z.page);
    z.pid = (pid_t)syscall(SYS_getpid);
    z.inherited = (int)fd;
    /* now, as the program may give up what it needs for that */
    z.uffd = zsw_uffd_open_programs();
    if (z.uffd >= 0) z.uffd = put_high(z.uffd);
    if (pthread_atfork(NULL, NULL, in_child) != 0) return;
    z.state = ASKED_FOR;
    z.least = least;
}
