/* zswap/lockstats.h: a census of the locks, in builds with ZSWAP_LOCK_STATS=1 and in no other.
 *
 * From here on zsw_lock, zsw_trylock and zsw_unlock count, for each place in the source that locks,
 * how often it did so, how often it had to wait, and how long it waited and held the lock, as
 * histograms.  Each extension module has a list of its own places, `zsw_lock_sites`, which
 * bench/locks.py finds by name.  Included by os.h, behind the mutex.
 */
#ifndef ZSWAP_LOCKSTATS_H
#define ZSWAP_LOCKSTATS_H

#ifdef __x86_64__
#include <x86intrin.h>
#endif

enum { ZSW_LOCK_BUCKETS = 40 }; /* bucket i: times from 2^i ticks on; the first begins at 0 */

typedef struct zsw_lock_site {
    const char *what;  /* the lock, as the source names it */
    const char *where; /* the function */
    struct zsw_lock_site *next;
    uint64_t listed;
    uint64_t taken;
    uint64_t contended; /* of those, how often somebody else had it */
    uint64_t waited, longest_wait; /* ticks */
    uint64_t held, longest_hold;
    uint64_t waits[ZSW_LOCK_BUCKETS];
    uint64_t holds[ZSW_LOCK_BUCKETS];
} zsw_lock_site;

#define ZSW_SHOWN __attribute__((weak, visibility("default")))
ZSW_SHOWN zsw_lock_site *zsw_lock_sites;

static inline uint64_t zsw_ticks(void) {
#ifdef __x86_64__
    return __rdtsc();
#else
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
#endif
}

/* Ticks and nanoseconds now, from which a reader learns how long a tick is. */
ZSW_SHOWN void zsw_lock_clock(uint64_t now[2]);
ZSW_SHOWN void zsw_lock_clock(uint64_t now[2]) {
    struct timespec t;
    now[0] = zsw_ticks();
    clock_gettime(CLOCK_MONOTONIC, &t);
    now[1] = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void zsw_lock_list(zsw_lock_site *site) {
    if (__atomic_exchange_n(&site->listed, 1u, __ATOMIC_SEQ_CST) != 0) return;
    site->next = __atomic_load_n(&zsw_lock_sites, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(&zsw_lock_sites, &site->next, site, 0, __ATOMIC_SEQ_CST,
                                        __ATOMIC_RELAXED)) {
    }
}

static inline void zsw_lock_note(uint64_t ticks, uint64_t *total, uint64_t *longest,
                                 uint64_t *buckets) {
    int i = 63 - __builtin_clzll(ticks | 1);
    uint64_t seen = __atomic_load_n(longest, __ATOMIC_RELAXED);
    __atomic_fetch_add(&buckets[i < ZSW_LOCK_BUCKETS ? i : ZSW_LOCK_BUCKETS - 1], 1u,
                       __ATOMIC_RELAXED);
    __atomic_fetch_add(total, ticks, __ATOMIC_RELAXED);
    while (ticks > seen && !__atomic_compare_exchange_n(longest, &seen, ticks, 0, __ATOMIC_RELAXED,
                                                        __ATOMIC_RELAXED)) {
    }
}

static inline void zsw_lock_taken(zsw_mutex *m, zsw_lock_site *site) {
    if (!__atomic_load_n(&site->listed, __ATOMIC_RELAXED)) zsw_lock_list(site);
    __atomic_fetch_add(&site->taken, 1u, __ATOMIC_RELAXED);
    m->site = site;
    m->since = zsw_ticks();
}

static inline int zsw_trylock_counted(zsw_mutex *m, zsw_lock_site *site) {
    int got = zsw_trylock(m);
    if (got) zsw_lock_taken(m, site);
    return got;
}

static inline void zsw_lock_counted(zsw_mutex *m, zsw_lock_site *site) {
    if (zsw_unlikely(!zsw_trylock(m))) {
        uint64_t start = zsw_ticks();
        zsw_lock_slow(m);
        zsw_lock_note(zsw_ticks() - start, &site->waited, &site->longest_wait, site->waits);
        __atomic_fetch_add(&site->contended, 1u, __ATOMIC_RELAXED);
    }
    zsw_lock_taken(m, site);
}

static inline void zsw_unlock_counted(zsw_mutex *m) {
    zsw_lock_site *site = m->site;
    uint64_t held = zsw_ticks() - m->since;
    zsw_unlock(m);
    if (site) zsw_lock_note(held, &site->held, &site->longest_hold, site->holds);
}

#define ZSW_LOCK_SITE(m) \
    ({ \
        static zsw_lock_site zsw_site_ = {.what = #m}; \
        zsw_site_.where = __func__; \
        &zsw_site_; \
    })
#define zsw_lock(m) zsw_lock_counted((m), ZSW_LOCK_SITE(m))
#define zsw_trylock(m) zsw_trylock_counted((m), ZSW_LOCK_SITE(m))
#define zsw_unlock(m) zsw_unlock_counted(m)

#endif
