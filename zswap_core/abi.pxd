"""The one Cython mirror of zswap/abi.h.  Public: plug-ins cimport this and nothing else."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t


cdef extern from "zswap/abi.h" nogil:
    const uint32_t ZSW_ABI_VERSION
    const uint32_t ZSW_PAGE_SIZE_MIN
    const uint32_t ZSW_PAGE_SIZE_MAX
    const int ZSW_HANDLE_BITS
    const uint64_t ZSW_HANDLE_MAX
    const char *ZSW_COMPRESSOR_CAPSULE
    const char *ZSW_ZPOOL_CAPSULE
    const char *ZSW_BACKING_CAPSULE
    const size_t ZSW_COMPRESSOR_NEEDED
    const size_t ZSW_ZPOOL_FIRST
    const size_t ZSW_ZPOOL_NEEDED
    const size_t ZSW_BACKING_FIRST
    const size_t ZSW_BACKING_NEEDED
    const uint32_t ZSW_COMPRESSOR_STATELESS_DECOMPRESS
    const uint32_t ZSW_COMPRESSOR_SLOW
    const uint32_t ZSW_COMPRESSOR_GIVES_UP
    const uint32_t ZSW_COMPRESSOR_WHOLE_PAGES
    const uint32_t ZSW_BACKING_NATIVE
    const uint32_t ZSW_BACKING_LOG
    const uint32_t ZSW_OBJECT_TRIMMED
    const uint32_t ZSW_ZPOOL_WIPE
    const uint32_t ZSW_ZPOOL_NO_DUMP
    const uint32_t ZSW_ZPOOL_NO_FORK

    ctypedef struct zsw_compressor_ops:
        uint32_t abi_version
        uint32_t struct_size
        const char *name
        uint32_t flags
        size_t (*bound)(void *state, size_t n) noexcept nogil
        int (*ctx_new)(void *state, void **ctx) noexcept nogil
        void (*ctx_free)(void *state, void *ctx) noexcept nogil
        int64_t (*compress)(void *state, void *ctx, const uint8_t *src, size_t n, uint8_t *dst,
                            size_t cap) noexcept nogil
        int64_t (*decompress)(void *state, void *ctx, const uint8_t *src, size_t n, uint8_t *dst,
                              size_t cap) noexcept nogil
        void (*destroy)(void *state) noexcept nogil
        size_t (*ctx_bytes)(void *state, void *ctx) noexcept nogil

    ctypedef struct zsw_compressor:
        const zsw_compressor_ops *ops
        void *state

    ctypedef struct zsw_zpool_config:
        uint32_t page_size
        uint32_t chain
        uint32_t kernel
        int32_t numa_node
        uint32_t flags

    ctypedef struct zsw_zpool_stats:
        uint64_t total_pages
        uint64_t idle_pages
        uint64_t objects
        uint64_t object_bytes
        uint64_t metadata_bytes
        uint64_t pages_compacted

    ctypedef struct zsw_zpool_ops:
        uint32_t abi_version
        uint32_t struct_size
        const char *name
        uint32_t flags
        int (*create)(const zsw_zpool_config *config, void **pool) noexcept nogil
        void (*destroy)(void *pool) noexcept nogil
        int (*malloc)(void *pool, size_t size, uint64_t *handle, uint8_t **object) noexcept nogil
        void (*free)(void *pool, uint64_t handle) noexcept nogil
        uint8_t *(*map)(void *pool, uint64_t handle) noexcept nogil
        uint64_t (*total_pages)(void *pool) noexcept nogil
        size_t (*max_saving_size)(void *pool) noexcept nogil
        uint64_t (*compact_begin)(void *pool) noexcept nogil
        int (*relocate)(void *pool, uint64_t handle, uint64_t *new_handle) noexcept nogil
        uint64_t (*compact_end)(void *pool) noexcept nogil
        uint64_t (*trim)(void *pool) noexcept nogil
        void (*stats)(void *pool, zsw_zpool_stats *out) noexcept nogil
        int (*validate)(void *pool) noexcept nogil
        size_t (*slot_size)(void *pool, size_t size) noexcept nogil
        int (*node_pages)(void *pool, uint64_t *counts, uint32_t nodes) noexcept nogil
        void (*prefetch)(void *pool, uint64_t handle) noexcept nogil
        void (*free_many)(void *pool, const uint64_t *handles, size_t n) noexcept nogil
        size_t (*object_room)(void *pool, uint64_t handle) noexcept nogil
        int64_t (*malloc_many)(void *pool, size_t size, uint64_t *handles, size_t n) noexcept nogil

    ctypedef struct zsw_object:
        const uint8_t *data
        const zsw_compressor *compressor
        uint32_t length
        uint32_t flags

    ctypedef struct zsw_backing_ops:
        uint32_t abi_version
        uint32_t struct_size
        const char *name
        uint32_t flags
        int (*write_pages)(void *store, const uint64_t *offsets, const uint8_t *pages,
                           size_t n) noexcept nogil
        int (*read_pages)(void *store, const uint64_t *offsets, uint8_t *pages,
                          size_t n) noexcept nogil
        void (*discard)(void *store, const uint64_t *offsets, size_t n) noexcept nogil
        void (*destroy)(void *store) noexcept nogil
        int (*write_objects)(void *store, const uint64_t *offsets, const zsw_object *objects,
                             size_t n) noexcept nogil
        int (*uses)(void *store, const zsw_compressor *compressor) noexcept nogil
        int (*tidy)(void *store) noexcept nogil

    ctypedef struct zsw_backing:
        const zsw_backing_ops *ops
        void *state
        uint64_t nr_pages
        uint32_t page_size
