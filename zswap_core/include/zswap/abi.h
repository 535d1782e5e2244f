/* zswap/abi.h: what a plug-in is to the engine, and nothing else.
 *
 * A compressor, a zpool and a backing store each fill one table of functions.  No function takes
 * the GIL, raises, or keeps a pointer it was given after it returns.  Results are 0 or a
 * positive count; failures are -errno.  Tables only ever grow at their end: `struct_size` says
 * how much of one its author knew.
 */
#ifndef ZSWAP_ABI_H
#define ZSWAP_ABI_H

#include <stddef.h>
#include <stdint.h>

#define ZSW_ABI_VERSION 1u

#define ZSW_PAGE_SIZE_MIN 4096u
#define ZSW_PAGE_SIZE_MAX 65536u
/* The engine keeps a handle in 40 bits of an entry. */
#define ZSW_HANDLE_BITS 40
#define ZSW_HANDLE_MAX ((((uint64_t)1) << ZSW_HANDLE_BITS) - 1)

/* Names of the capsules in which a package hands over a plug-in: a zsw_compressor, a zsw_zpool_ops,
 * a zsw_backing.  What they point to lives as long as the capsule. */
#define ZSW_COMPRESSOR_CAPSULE "zswap_core.compressor.v1"
#define ZSW_ZPOOL_CAPSULE "zswap_core.zpool.v1"
#define ZSW_BACKING_CAPSULE "zswap_core.backing.v1"

/* ---- compressors ------------------------------------------------------------------------- */

/* decompress() works with ctx == NULL, so a load needs no context. */
#define ZSW_COMPRESSOR_STATELESS_DECOMPRESS 1u
/* compress() takes tens of microseconds a page: worth giving up the GIL for, even for one page. */
#define ZSW_COMPRESSOR_SLOW 2u
/* compress() saves time with a lower `cap`: it is then given no more than what a page may take
 * and still be worth it. */
#define ZSW_COMPRESSOR_GIVES_UP 4u
/* decompress() fails where the result is shorter than `cap`: it is given whole pages only. */
#define ZSW_COMPRESSOR_WHOLE_PAGES 8u

typedef struct zsw_compressor_ops {
    uint32_t abi_version;
    uint32_t struct_size;
    const char *name;
    uint32_t flags;
    /* Scratch that compress() wants as `cap` so that it never has to check its output: >= n. */
    size_t (*bound)(void *state, size_t n);
    /* A context serves one call at a time; the engine keeps one a CPU.  0 or -errno.  Both may be
     * NULL: no context. */
    int (*ctx_new)(void *state, void **ctx);
    void (*ctx_free)(void *state, void *ctx);
    /* Bytes written to dst (<= cap), 0 when the result does not fit in cap, or -errno. */
    int64_t (*compress)(
        void *state, void *ctx, const uint8_t *src, size_t n, uint8_t *dst, size_t cap);
    /* Bytes written to dst, never more than cap whatever src holds; -EBADMSG when src is damaged;
     * or -errno. */
    int64_t (*decompress)(
        void *state, void *ctx, const uint8_t *src, size_t n, uint8_t *dst, size_t cap);
    /* Ends `state`; called once, after the last context is gone.  May be NULL. */
    void (*destroy)(void *state);
    /* Bytes that a context takes now, asked by any thread while another uses it.  May be NULL: it
     * is not known. */
    size_t (*ctx_bytes)(void *state, void *ctx);
} zsw_compressor_ops;

/* Bytes of the table that no author may leave out.  What `struct_size` does not reach counts as
 * NULL. */
#define ZSW_COMPRESSOR_NEEDED offsetof(zsw_compressor_ops, destroy)

/* One compressor with its level and dictionary chosen.  `state` is read-only once built, so any
 * thread may use it. */
typedef struct zsw_compressor {
    const zsw_compressor_ops *ops;
    void *state;
} zsw_compressor;

/* ---- zpools (allocators) ----------------------------------------------------------------- */

/* Of zsw_zpool_config.flags: overwrite what is freed or moved away from; keep objects out of
 * core dumps; let a forked child find zeros in their place. */
#define ZSW_ZPOOL_WIPE 1u
#define ZSW_ZPOOL_NO_DUMP 2u
#define ZSW_ZPOOL_NO_FORK 4u

typedef struct zsw_zpool_config {
    /* the allocator's page, a power of two in ZSW_PAGE_SIZE_MIN .. ZSW_PAGE_SIZE_MAX */
    uint32_t page_size;
    uint32_t chain;       /* zsmalloc: most pages in a zspage; 0: the allocator's default */
    /* zsmalloc: the kernel's classes, 8-byte handle in each object, whole zspages counted */
    uint32_t kernel;
    int32_t numa_node;    /* bind memory to this node; -1: leave it to the system */
    uint32_t flags;
} zsw_zpool_config;

typedef struct zsw_zpool_stats {
    /* pages that hold, held or are kept for objects: what the limit counts */
    uint64_t total_pages;
    uint64_t idle_pages;      /* of these, pages with no object, kept for reuse until trim() */
    uint64_t objects;         /* live objects */
    /* sum of the sizes asked for by live objects' size classes (slot size x objects) */
    uint64_t object_bytes;
    uint64_t metadata_bytes;  /* memory of the allocator's own that lies outside total_pages */
    uint64_t pages_compacted; /* pages that compaction freed, ever */
} zsw_zpool_stats;

/* Any thread may call any function at any time, but for create/destroy, and: an object is freed
 * or relocated by one caller at a time, and by none while another still reads it (the engine's
 * references see to that). */
typedef struct zsw_zpool_ops {
    uint32_t abi_version;
    uint32_t struct_size;
    const char *name;
    uint32_t flags;
    int (*create)(const zsw_zpool_config *config, void **pool);
    void (*destroy)(void *pool);
    /* -EINVAL for size 0, -ENOSPC for a size this allocator never takes, -ENOMEM.  *object is where
     * to write `size` bytes. */
    int (*malloc)(void *pool, size_t size, uint64_t *handle, uint8_t **object);
    void (*free)(void *pool, uint64_t handle);
    /* The object's bytes: contiguous, and in place until it is freed or relocated. */
    uint8_t *(*map)(void *pool, uint64_t handle);
    uint64_t (*total_pages)(void *pool);
    /* The largest object that takes less than a whole page: a larger one is better kept raw. */
    size_t (*max_saving_size)(void *pool);
    /* Compaction, one at a time, driven by the owner of the handles:
     *   compact_begin picks the pages to empty and returns how many objects are to move (0: nothing
     *                 to win);
     *   relocate      moves one object if it lies on such a page (1, *new_handle set), else leaves
     *                 it (0), or -ENOMEM; the caller holds a lock, and trims what was left now and
     *                 then;
     *   compact_end   frees what got empty and returns the number of pages freed. */
    uint64_t (*compact_begin)(void *pool);
    int (*relocate)(void *pool, uint64_t handle, uint64_t *new_handle);
    uint64_t (*compact_end)(void *pool);
    /* Gives idle pages back to the system; returns how many. */
    uint64_t (*trim)(void *pool);
    void (*stats)(void *pool, zsw_zpool_stats *out);
    /* 0 when every structure agrees with every other, else a negative number that names the check
     * that failed. */
    int (*validate)(void *pool);
    /* Memory that an object of `size` takes in all, in bytes, the rounding of its size class
     * included. */
    size_t (*slot_size)(void *pool, size_t size);
    /* Adds to counts[node], for each NUMA node below `nodes`, the pages that lie there now.  0 or
     * -errno. */
    int (*node_pages)(void *pool, uint64_t *counts, uint32_t nodes);
    /* The object will be read soon.  A hint, and safe with any handle, that of an object long freed
     * too.  May be NULL. */
    void (*prefetch)(void *pool, uint64_t handle);
    /* As free, of n objects.  May be NULL. */
    void (*free_many)(void *pool, const uint64_t *handles, size_t n);
    /* Bytes that the live object of this handle can hold; 0 when the handle, any number, names
     * none. For checks at rest.  May be NULL. */
    size_t (*object_room)(void *pool, uint64_t handle);
    /* As malloc, n times: how many objects there are, which are fewer than n only when malloc would
     * fail, or -errno when there is none.  May be NULL. */
    int64_t (*malloc_many)(void *pool, size_t size, uint64_t *handles, size_t n);
} zsw_zpool_ops;

/* As ZSW_COMPRESSOR_NEEDED; of these functions all must be there, from ZSW_ZPOOL_FIRST on. */
#define ZSW_ZPOOL_FIRST offsetof(zsw_zpool_ops, create)
#define ZSW_ZPOOL_NEEDED offsetof(zsw_zpool_ops, prefetch)

/* ---- backing stores ---------------------------------------------------------------------- */

/* Flags: write_pages may run on a thread of the engine's, beside the one that prepares the next
 * pages; it never calls back. */
#define ZSW_BACKING_NATIVE 1u
/* What it has of a page takes room until the page is discarded, or written anew: so a page that is
 * replaced in the pool is discarded. */
#define ZSW_BACKING_LOG 2u

/* Flag of an object: it decompresses to what the page begins with, and the rest is zeros. */
#define ZSW_OBJECT_TRIMMED 1u

/* A page as it lies in the pool. */
typedef struct zsw_object {
    const uint8_t *data;
    const zsw_compressor *compressor; /* of what is shorter than a page; else it is a page */
    uint32_t length;
    uint32_t flags;
} zsw_object;

typedef struct zsw_backing_ops {
    uint32_t abi_version;
    uint32_t struct_size;
    const char *name;
    uint32_t flags;
    /* n pages at page numbers offsets[0..n), ascending, lying one after another in pages.  0 when
     * all are written; on -errno none of them counts as written. */
    int (*write_pages)(void *store, const uint64_t *offsets, const uint8_t *pages, size_t n);
    /* -EBADMSG when what the store has of a page is damaged. */
    int (*read_pages)(void *store, const uint64_t *offsets, uint8_t *pages, size_t n);
    /* The pages are no longer wanted; a hint.  May be NULL. */
    void (*discard)(void *store, const uint64_t *offsets, size_t n);
    /* Ends `store`; called once, when nobody calls any of these any more.  May be NULL. */
    void (*destroy)(void *store);
    /* As write_pages, of pages as they are in the pool: read_pages decompresses them.  May be NULL;
     * with it, `uses` must be there.  These three are not asked yet of a store in a capsule. */
    int (*write_objects)(
        void *store, const uint64_t *offsets, const zsw_object *objects, size_t n);
    /* Whether it may yet ask this compressor to decompress: until then that stays. */
    int (*uses)(void *store, const zsw_compressor *compressor);
    /* Some milliseconds of housekeeping, asked for in the background now and then; 1 when there may
     * be more to do.  May be NULL. */
    int (*tidy)(void *store);
} zsw_backing_ops;

/* As ZSW_COMPRESSOR_NEEDED; of these functions all must be there, from ZSW_BACKING_FIRST on. */
#define ZSW_BACKING_FIRST offsetof(zsw_backing_ops, write_pages)
#define ZSW_BACKING_NEEDED offsetof(zsw_backing_ops, discard)

/* One store, open.  The offsets that its functions are given are below nr_pages. */
typedef struct zsw_backing {
    const zsw_backing_ops *ops;
    void *state;
    uint64_t nr_pages;
    uint32_t page_size;
} zsw_backing;

#endif
