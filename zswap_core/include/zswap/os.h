/* zswap/os.h: the only place where the core meets the operating system and the compiler.
 *
 * Atomics, a 4-byte mutex, memory from mmap, clocks, CPUs.  Everything returns 0 or -errno, or
 * cannot fail.
 */
#ifndef ZSWAP_OS_H
#define ZSWAP_OS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define zsw_likely(x) __builtin_expect(!!(x), 1)
#define zsw_unlikely(x) __builtin_expect(!!(x), 0)

/* ---- atomics: loads acquire, stores release, the rest both unless the name says relaxed ------ */

#define ZSW_ATOMICS(suffix, type) \
    static inline type zsw_load_##suffix(const type *p) \
    { return __atomic_load_n(p, __ATOMIC_ACQUIRE); } \
    static inline type zsw_peek_##suffix(const type *p) \
    { return __atomic_load_n(p, __ATOMIC_RELAXED); } \
    static inline void zsw_store_##suffix(type *p, type v) \
    { __atomic_store_n(p, v, __ATOMIC_RELEASE); } \
    static inline void zsw_poke_##suffix(type *p, type v) \
    { __atomic_store_n(p, v, __ATOMIC_RELAXED); } \
    static inline type zsw_add_##suffix(type *p, type v) \
    { return __atomic_add_fetch(p, v, __ATOMIC_ACQ_REL); } \
    static inline type zsw_and_##suffix(type *p, type v) \
    { return __atomic_fetch_and(p, v, __ATOMIC_ACQ_REL); } \
    static inline type zsw_swap_##suffix(type *p, type v) \
    { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); } \
    static inline int zsw_cas_##suffix(type *p, type from, type to) \
    { return __atomic_compare_exchange_n(p, &from, to, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED); }
ZSW_ATOMICS(u8, uint8_t)
ZSW_ATOMICS(u16, uint16_t)
ZSW_ATOMICS(u32, uint32_t)
ZSW_ATOMICS(u64, uint64_t)
ZSW_ATOMICS(i64, int64_t)
#undef ZSW_ATOMICS

static inline void *zsw_load_ptr(void *const *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void zsw_store_ptr(void **p, void *v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
#ifdef __SANITIZE_THREAD__
/* ThreadSanitizer knows no fences; this orders the same. */
static uint32_t zsw_fenced;
static inline void zsw_fence(void) { __atomic_fetch_add(&zsw_fenced, 0u, __ATOMIC_SEQ_CST); }
#else
static inline void zsw_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
#endif
/* The same where a swap, cas or unlock comes right before it: on x86 those are full fences
 * themselves. */
static inline void zsw_fence_after_rmw(void) {
#if (defined(__x86_64__) || defined(__i386__)) && !defined(__SANITIZE_THREAD__)
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
#else
    zsw_fence();
#endif
}

static inline void zsw_prefetch(const void *p) { __builtin_prefetch(p, 0, 3); }
static inline void zsw_prefetch_write(const void *p) { __builtin_prefetch(p, 1, 3); }

static inline void zsw_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static inline int zsw_popcount(uint64_t v) { return __builtin_popcountll(v); }
/* Undefined for 0. */
static inline int zsw_ctz(uint64_t v) { return __builtin_ctzll(v); }
static inline int zsw_clz(uint64_t v) { return __builtin_clzll(v); }

/* ---- mutex: 0 free, 1 held, 2 held and somebody sleeps.  All-zero memory is a free mutex.  */

typedef struct zsw_mutex {
    uint32_t word;
#ifdef ZSW_LOCK_STATS
    struct zsw_lock_site *site; /* where it was locked */
    uint64_t since;
#endif
} zsw_mutex;

static inline void zsw_futex_wait(uint32_t *word, uint32_t seen) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}
/* Returns after `ns` at the latest. */
static inline void zsw_futex_wait_for(uint32_t *word, uint32_t seen, uint64_t ns) {
    struct timespec t = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, &t, NULL, 0);
}
static inline void zsw_futex_wake(uint32_t *word, int count) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

static inline int zsw_trylock(zsw_mutex *m) {
    uint32_t from = 0;
    return __atomic_compare_exchange_n(&m->word, &from, 1u, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

static __attribute__((noinline, unused)) void zsw_lock_slow(zsw_mutex *m) {
    /* What these locks guard takes well under a microsecond: spin for about that long before
     * sleeping. */
    for (int i = 0; i < 100; i++) {
        zsw_pause();
        if (__atomic_load_n(&m->word, __ATOMIC_RELAXED) == 0 && zsw_trylock(m)) return;
    }
    while (__atomic_exchange_n(&m->word, 2u, __ATOMIC_ACQUIRE) != 0) zsw_futex_wait(&m->word, 2u);
}

static inline void zsw_lock(zsw_mutex *m) {
    if (zsw_unlikely(!zsw_trylock(m))) zsw_lock_slow(m);
}

static inline void zsw_unlock(zsw_mutex *m) {
    if (zsw_unlikely(__atomic_exchange_n(&m->word, 0u, __ATOMIC_RELEASE) == 2u))
        zsw_futex_wake(&m->word, 1);
}

#ifdef ZSW_LOCK_STATS
#include "zswap/lockstats.h"
#endif

/* Lets others have a lock that is held for long, for some microseconds: else nobody who waits
 * would be as fast. */
static inline void zsw_relock(zsw_mutex *m) {
    zsw_unlock(m);
    for (int i = 0; i < 200; i++) zsw_pause();
    zsw_lock(m);
}

/* Locks one of several that will do: a free one, else this CPU's once it is free.  Returns
 * which. */
static inline size_t zsw_lock_any(zsw_mutex *m, size_t count) {
    int cpu = sched_getcpu();
    size_t first = cpu < 0 ? 0 : (size_t)cpu % count;
    for (size_t i = 0; i < count; i++)
        if (zsw_trylock(&m[(first + i) % count])) return (first + i) % count;
    zsw_lock(&m[first]);
    return first;
}

/* ---- memory ------------------------------------------------------------------------------ */

/* What a mapping is besides private and zero-filled; said when it is made. */
#define ZSW_MAP_NO_DUMP 1u /* in no core dump */
#define ZSW_MAP_NO_FORK 2u /* a forked child finds zeros in its place */

/* Younger than the headers that we build with. */
#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18 /* Linux 4.14 */
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24 /* Linux 5.18 */
#endif
#ifndef MLOCK_ONFAULT
#define MLOCK_ONFAULT 1 /* Linux 4.4 */
#endif
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41 /* Linux 5.17 */
#define PR_SET_VMA_ANON_NAME 0
#endif

static inline void zsw_unmap(void *p, size_t bytes) {
    if (p != NULL) munmap(p, bytes);
}

static inline int zsw_lock_on_fault(void *p, size_t bytes) {
    return syscall(SYS_mlock2, p, bytes, MLOCK_ONFAULT) == 0 ? 0 : -errno;
}

/* Gives the memory back to the system; the range reads as zeros afterwards.  Locked memory
 * (mlockall) goes too, and what comes in its place is locked again. */
static inline int zsw_release(void *p, size_t bytes) {
    if (madvise(p, bytes, MADV_DONTNEED) == 0) return 0;
    if (errno != EINVAL) return -errno;
    if (madvise(p, bytes, MADV_DONTNEED_LOCKED) == 0) return 0;
    if (munlock(p, bytes) != 0 || madvise(p, bytes, MADV_DONTNEED) != 0) return -errno;
    (void)zsw_lock_on_fault(p, bytes);
    return 0;
}
/* The same for a range whose ends may share a system page with a neighbour: what is whole inside
 * goes. */
static inline int zsw_release_inside(void *p, size_t bytes) {
    uintptr_t mask = (uintptr_t)sysconf(_SC_PAGESIZE) - 1;
    uintptr_t start = ((uintptr_t)p + mask) & ~mask;
    uintptr_t end = ((uintptr_t)p + bytes) & ~mask;
    return start < end ? zsw_release((void *)start, end - start) : 0;
}

static inline int zsw_map_set_up(void *p, size_t bytes, uint32_t flags) {
    if (flags & ZSW_MAP_NO_DUMP && madvise(p, bytes, MADV_DONTDUMP) != 0) return -errno;
    if (flags & ZSW_MAP_NO_FORK && madvise(p, bytes, MADV_WIPEONFORK) != 0) return -errno;
    /* One huge page would make 512 pages resident where one was touched.  Kernels without them
     * refuse, as may those that know no names. */
    (void)madvise(p, bytes, MADV_NOHUGEPAGE);
    (void)prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, p, bytes, "zswap");
    /* In a process that locks all it maps (MCL_FUTURE) it is still empty, for nobody may touch it
     * yet.  It is locked as it is touched, then, and not whole. */
    if (madvise(p, bytes, MADV_DONTNEED) != 0 && errno == EINVAL) (void)zsw_lock_on_fault(p, bytes);
    return mprotect(p, bytes, PROT_READ | PROT_WRITE) == 0 ? 0 : -errno;
}

/* The one way to memory from the system: address space that costs memory only where it is
 * touched, whatever the process or the system says of huge pages and of locking; zero-filled.
 * NULL when there is none. */
static __attribute__((noinline, unused)) void *zsw_map_as(size_t bytes, uint32_t flags) {
    void *p = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return NULL;
    if (zsw_map_set_up(p, bytes, flags) == 0) return p;
    zsw_unmap(p, bytes);
    return NULL;
}
static inline void *zsw_map(size_t bytes) { return zsw_map_as(bytes, 0); }
/* Memory of the range comes from this node and no other; to be said before it is touched. */
static inline int zsw_bind_node(void *p, size_t bytes, int node) {
    unsigned long mask[16] = {0};
    const int bits = 8 * (int)sizeof(unsigned long);
    if (node < 0 || node >= 16 * bits) return -EINVAL;
    mask[node / bits] |= 1ul << (node % bits);
    /* 2 is MPOL_BIND; the header that says so belongs to libnuma.  The kernel reads one bit less
     * than it is told. */
    return syscall(SYS_mbind, p, bytes, 2, mask, (unsigned long)(16 * bits), 0) == 0 ? 0 : -errno;
}
/* The node of each page, or -errno where none is resident. */
static inline int zsw_nodes_of(void **pages, unsigned long count, int *nodes) {
    return syscall(SYS_move_pages, 0, count, pages, NULL, nodes, 0) == 0 ? 0 : -errno;
}
/* memcpy for whole pages.  glibc copies 4 KiB by `rep movsb`, which Zen processors do at half
 * the speed of a loop where both pages lie at the same place of a system page, as they mostly
 * do. */
static inline void zsw_copy_page(void *to, const void *from, size_t bytes) {
#ifdef __SSE2__
    __m128i *t = (__m128i *)to;
    const __m128i *f = (const __m128i *)from;
    for (; bytes >= 64; t += 4, f += 4, bytes -= 64) {
        __m128i a = _mm_loadu_si128(f), b = _mm_loadu_si128(f + 1), c = _mm_loadu_si128(f + 2),
                d = _mm_loadu_si128(f + 3);
        _mm_storeu_si128(t, a);
        _mm_storeu_si128(t + 1, b);
        _mm_storeu_si128(t + 2, c);
        _mm_storeu_si128(t + 3, d);
    }
    memcpy(t, f, bytes);
#else
    memcpy(to, from, bytes);
#endif
}

/* Zeros, even where the compiler sees that nobody reads them. */
static inline void zsw_wipe(void *p, size_t bytes) {
    memset(p, 0, bytes);
    __asm__ __volatile__("" : : "r"(p) : "memory");
}
/* A system page for a secret, NULL when there is none: in no core dump, empty in a forked child
 * and, where the limit on locked memory allows, never swapped. */
static inline void *zsw_map_secret(void) {
    size_t bytes = (size_t)sysconf(_SC_PAGESIZE);
    void *p = zsw_map_as(bytes, ZSW_MAP_NO_DUMP | ZSW_MAP_NO_FORK);
    if (p != NULL) (void)!mlock(p, bytes);
    return p;
}
static inline void zsw_unmap_secret(void *p) { zsw_unmap(p, (size_t)sysconf(_SC_PAGESIZE)); }
/* Fills at most 256 bytes from the system's generator. */
static inline int zsw_random(void *p, size_t bytes) {
    ssize_t n;
    do n = (ssize_t)syscall(SYS_getrandom, p, bytes, 0);
    while (n < 0 && errno == EINTR);
    return n == (ssize_t)bytes ? 0 : n < 0 ? -errno : -EIO;
}

/* Up to `capacity` - 1 bytes of a file, with a 0 behind them; returns how many, or -errno. */
static inline long zsw_read_text(const char *path, char *text, size_t capacity) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -errno;
    ssize_t n = read(fd, text, capacity - 1);
    int failed = errno;
    close(fd);
    if (n < 0) return -failed;
    text[n] = 0;
    return (long)n;
}

/* ---- clocks, CPUs, threads --------------------------------------------------------------- */

static inline uint64_t zsw_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
/* Cheap, and good to a few milliseconds: what access times are made of. */
static inline uint64_t zsw_now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return (uint64_t)t.tv_sec;
}
static inline unsigned zsw_cpu(void) {
    int cpu = sched_getcpu();
    return cpu < 0 ? 0u : (unsigned)cpu;
}
static inline unsigned zsw_cpu_count(void) {
    long n = sysconf(_SC_NPROCESSORS_CONF);
    return n < 1 ? 1u : (unsigned)n;
}
static inline void zsw_yield(void) { sched_yield(); }
static inline void zsw_sleep_ns(uint64_t ns) {
    struct timespec t = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    nanosleep(&t, NULL);
}

typedef void *(*zsw_thread_main)(void *);

/* Of a thread's stack.  The system's 8 MiB would be locked whole in a process that locks all it
 * maps; this is what Python, which compressors and backing stores may be written in, asks for
 * where stacks are small. */
#ifdef __SANITIZE_THREAD__
#define ZSW_STACK_BYTES ((size_t)8 << 20) /* it has thread-local variables and frames of its own */
#else
#define ZSW_STACK_BYTES ((size_t)1 << 20)
#endif

/* A thread that takes no signals: those belong to the program. */
static inline int zsw_thread_start(pthread_t *thread, zsw_thread_main body, void *arg) {
    pthread_attr_t small;
    sigset_t all, old;
    int rc = pthread_attr_init(&small);
    if (rc != 0) return -rc;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_attr_setstacksize(&small, ZSW_STACK_BYTES);
    if (rc == 0) rc = pthread_create(thread, &small, body, arg);
    /* the program's thread-local variables take more */
    if (rc == EINVAL) rc = pthread_create(thread, NULL, body, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&small);
    return -rc;
}
static inline uint64_t zsw_self(void) { return (uint64_t)pthread_self(); }
static inline void zsw_thread_join(pthread_t thread) { pthread_join(thread, NULL); }

#endif
