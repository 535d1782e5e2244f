"""The Cython mirror of zswap/os.h and zswap/track.h: atomics, the mutex, memory, clocks,
threads."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "zswap/os.h" nogil:
    const int EDEADLK               # libc.errno lacks these two
    const int EKEYREJECTED

    bint zsw_likely(bint x)
    bint zsw_unlikely(bint x)

    uint8_t zsw_peek_u8(const uint8_t *p)
    void zsw_poke_u8(uint8_t *p, uint8_t v)

    uint16_t zsw_peek_u16(const uint16_t *p)
    void zsw_store_u16(uint16_t *p, uint16_t v)
    bint zsw_cas_u16(uint16_t *p, uint16_t expected, uint16_t desired)

    uint32_t zsw_load_u32(const uint32_t *p)
    uint32_t zsw_peek_u32(const uint32_t *p)
    void zsw_store_u32(uint32_t *p, uint32_t v)
    void zsw_poke_u32(uint32_t *p, uint32_t v)
    uint32_t zsw_add_u32(uint32_t *p, uint32_t v)
    uint32_t zsw_and_u32(uint32_t *p, uint32_t v)    # what it was before
    uint32_t zsw_swap_u32(uint32_t *p, uint32_t v)
    bint zsw_cas_u32(uint32_t *p, uint32_t expected, uint32_t desired)

    uint64_t zsw_load_u64(const uint64_t *p)
    uint64_t zsw_peek_u64(const uint64_t *p)
    void zsw_store_u64(uint64_t *p, uint64_t v)
    void zsw_poke_u64(uint64_t *p, uint64_t v)
    uint64_t zsw_add_u64(uint64_t *p, uint64_t v)
    bint zsw_cas_u64(uint64_t *p, uint64_t expected, uint64_t desired)

    int64_t zsw_load_i64(const int64_t *p)
    int64_t zsw_peek_i64(const int64_t *p)
    void zsw_store_i64(int64_t *p, int64_t v)
    void zsw_poke_i64(int64_t *p, int64_t v)
    int64_t zsw_add_i64(int64_t *p, int64_t v)
    bint zsw_cas_i64(int64_t *p, int64_t expected, int64_t desired)

    void *zsw_load_ptr(void **p)
    void zsw_store_ptr(void **p, void *v)
    void zsw_fence()
    void zsw_fence_after_rmw()
    void zsw_copy_page(void *to, const void *from_, size_t bytes)
    void zsw_prefetch(const void *p)
    void zsw_prefetch_write(const void *p)
    void zsw_pause()
    int zsw_popcount(uint64_t v)
    int zsw_ctz(uint64_t v)
    int zsw_clz(uint64_t v)

    ctypedef struct zsw_mutex:
        uint32_t word
    void zsw_lock(zsw_mutex *m)
    bint zsw_trylock(zsw_mutex *m)
    void zsw_unlock(zsw_mutex *m)
    void zsw_relock(zsw_mutex *m)
    size_t zsw_lock_any(zsw_mutex *m, size_t count)
    void zsw_futex_wait(uint32_t *word, uint32_t seen)
    void zsw_futex_wait_for(uint32_t *word, uint32_t seen, uint64_t ns)
    void zsw_futex_wake(uint32_t *word, int count)

    const uint32_t ZSW_MAP_NO_DUMP
    const uint32_t ZSW_MAP_NO_FORK
    void *zsw_map(size_t size)
    void *zsw_map_as(size_t size, uint32_t flags)
    void zsw_unmap(void *p, size_t size)
    int zsw_release(void *p, size_t size)
    int zsw_release_inside(void *p, size_t size)
    int zsw_bind_node(void *p, size_t size, int node)
    int zsw_nodes_of(void **pages, unsigned long count, int *nodes)

    void zsw_wipe(void *p, size_t size)
    void *zsw_map_secret()
    void zsw_unmap_secret(void *p)
    int zsw_random(void *p, size_t size)

    long zsw_read_text(const char *path, char *text, size_t capacity)

    uint64_t zsw_now_ns()
    uint64_t zsw_now_s()
    unsigned int zsw_cpu()
    unsigned int zsw_cpu_count()
    void zsw_yield()
    void zsw_sleep_ns(uint64_t ns)

    ctypedef unsigned long pthread_t
    ctypedef void *(*zsw_thread_main)(void *) noexcept nogil
    int zsw_thread_start(pthread_t *thread, zsw_thread_main body, void *arg)
    uint64_t zsw_self()
    void zsw_thread_join(pthread_t thread)


cdef extern from "zswap/track.h" nogil:
    void ZSW_POISON(const void *p, size_t n)
    void ZSW_UNPOISON(const void *p, size_t n)
