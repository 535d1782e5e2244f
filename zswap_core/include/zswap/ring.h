/* zswap/ring.h: io_uring by its raw system calls, as much of it as reading a file takes.
 *
 * Kernels since 5.6 have it; in containers and where the sysctl kernel.io_uring_disabled says so it
 * is refused.  The layouts and numbers are the kernel's ABI, which headers older than that lack.
 * One thread at a time uses a ring.
 */
#ifndef ZSWAP_RING_H
#define ZSWAP_RING_H

#include "zswap/os.h"

#define ZSW_SYS_RING_SETUP 425 /* the same on all processors that came with or after them */
#define ZSW_SYS_RING_ENTER 426
#define ZSW_RING_SINGLE_MMAP 1u     /* both queues in one mapping, */
#define ZSW_RING_NO_DROP 2u         /* no completion is lost, */
#define ZSW_RING_CURRENT_POSITION 8u /* and came in the release that has plain reads */
#define ZSW_RING_NEEDS (ZSW_RING_SINGLE_MMAP | ZSW_RING_NO_DROP | ZSW_RING_CURRENT_POSITION)
#define ZSW_RING_GET_EVENTS 1u
#define ZSW_RING_ENTRIES_AT 0x10000000
#define ZSW_RING_READ 22

typedef struct zsw_ring_entry {     /* a request */
    uint8_t opcode, flags;
    uint16_t priority;
    int32_t fd;
    uint64_t offset, address;
    uint32_t length, operation_flags;
    uint64_t data;
    uint64_t unused[3];
} zsw_ring_entry;

typedef struct zsw_ring_answer {
    uint64_t data;
    int32_t result;
    uint32_t flags;
} zsw_ring_answer;

typedef struct zsw_ring_params {
    uint32_t entries, answers, flags, thread_cpu, thread_idle, features, workers, unused[3];
    struct { uint32_t head, tail, mask, entries, flags, dropped, array, unused[3]; } asked;
    struct { uint32_t head, tail, mask, entries, overflow, answers, unused[4]; } answered;
} zsw_ring_params;

/* All zeros: none, but for `fd`, which is 0 then and -1 after zsw_ring_forget. */
typedef struct zsw_ring {
    int fd;
    uint32_t depth;                 /* requests that may be on their way at a time */
    uint32_t waiting;               /* put into the queue, and not yet given to the kernel */
    uint32_t mask, answer_mask;
    uint32_t *tail, *answer_head, *answer_tail;
    zsw_ring_entry *entries;
    zsw_ring_answer *answers;
    void *map;
    size_t bytes, entry_bytes;
} zsw_ring;

static inline void zsw_ring_close(zsw_ring *r) {
    if (r->entries != NULL) munmap(r->entries, r->entry_bytes);
    if (r->map != NULL) munmap(r->map, r->bytes);
    if (r->map != NULL && r->fd >= 0) close(r->fd);
    memset(r, 0, sizeof(*r));
}

/* In a forked child, which has the descriptor but not the mappings. */
static inline void zsw_ring_forget(zsw_ring *r) {
    if (r->map != NULL && r->fd >= 0) close(r->fd);
    memset(r, 0, sizeof(*r));
}

/* 0 or -errno.  The descriptor is closed by exec; a forked child does not see the queues. */
static inline int zsw_ring_open(zsw_ring *r, uint32_t depth) {
    zsw_ring_params p;
    uint32_t i, *array;
    uint8_t *map;
    int rc;
    memset(&p, 0, sizeof(p));
    memset(r, 0, sizeof(*r));
    r->fd = (int)syscall(ZSW_SYS_RING_SETUP, depth, &p);
    if (r->fd < 0) return -errno;
    rc = (p.features & ZSW_RING_NEEDS) == ZSW_RING_NEEDS ? 0 : -ENOSYS;
    if (rc == 0) {
        size_t asked = p.asked.array + p.entries * sizeof(uint32_t);
        size_t answered = p.answered.answers + p.answers * sizeof(zsw_ring_answer);
        r->bytes = asked > answered ? asked : answered;
        r->entry_bytes = p.entries * sizeof(zsw_ring_entry);
        map = mmap(NULL, r->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, 0);
        if (map == MAP_FAILED) rc = -errno;
        else r->map = map;
    }
    if (rc == 0) {
        void *entries = mmap(NULL, r->entry_bytes, PROT_READ | PROT_WRITE,
                             MAP_SHARED | MAP_POPULATE, r->fd, ZSW_RING_ENTRIES_AT);
        if (entries == MAP_FAILED) rc = -errno;
        else r->entries = entries;
    }
    if (rc == 0 && (madvise(r->map, r->bytes, MADV_DONTFORK) != 0
                    || madvise(r->entries, r->entry_bytes, MADV_DONTFORK) != 0)) rc = -errno;
    if (rc != 0) {
        int fd = r->fd;
        r->fd = -1;
        zsw_ring_close(r);
        close(fd);
        return rc;
    }
    r->depth = depth;
    r->mask = p.entries - 1;
    r->answer_mask = p.answers - 1;
    r->tail = (uint32_t *)(map + p.asked.tail);
    r->answer_head = (uint32_t *)(map + p.answered.head);
    r->answer_tail = (uint32_t *)(map + p.answered.tail);
    r->answers = (zsw_ring_answer *)(map + p.answered.answers);
    array = (uint32_t *)(map + p.asked.array);
    for (i = 0; i < p.entries; i++) array[i] = i; /* each place has its own entry */
    return 0;
}

/* Puts a read into the queue, which the next zsw_ring_enter gives to the kernel.  At most `depth`
 * may be waiting or on their way. */
static inline void zsw_ring_read(
    zsw_ring *r, int fd, void *memory, uint32_t length, uint64_t at, uint64_t data) {
    uint32_t tail = *r->tail;
    zsw_ring_entry *entry = &r->entries[tail & r->mask];
    memset(entry, 0, sizeof(*entry));
    entry->opcode = ZSW_RING_READ;
    entry->fd = fd;
    entry->address = (uint64_t)(uintptr_t)memory;
    entry->length = length;
    entry->offset = at;
    entry->data = data;
    zsw_store_u32(r->tail, tail + 1);
    r->waiting++;
}

/* Gives the kernel what waits, and waits itself for so many answers: 0 or -errno, and then what
 * still waits may be given again. */
static inline int zsw_ring_enter(zsw_ring *r, uint32_t answers) {
    long taken = syscall(ZSW_SYS_RING_ENTER, r->fd, r->waiting, answers, ZSW_RING_GET_EVENTS,
                         (void *)NULL, (size_t)0);
    if (taken < 0) return -errno;
    r->waiting -= (uint32_t)taken;
    return 0;
}

/* Takes back what waits; returns how many that were. */
static inline uint32_t zsw_ring_take_back(zsw_ring *r) {
    uint32_t waiting = r->waiting;
    zsw_store_u32(r->tail, *r->tail - waiting);
    r->waiting = 0;
    return waiting;
}

/* The next answer there is. */
static inline int zsw_ring_next(zsw_ring *r, uint64_t *data, int32_t *result) {
    uint32_t head = *r->answer_head;
    if (head == zsw_load_u32(r->answer_tail)) return 0;
    *data = r->answers[head & r->answer_mask].data;
    *result = r->answers[head & r->answer_mask].result;
    zsw_store_u32(r->answer_head, head + 1);
    return 1;
}

#endif
