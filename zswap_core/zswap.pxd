"""zswap/zswap.h for Cython, which says what each of these is.

What is compiled with it needs `zswap_core.get_include()` among its include_dirs, and calls
`zswap_import()` once for the table.
"""
from libc.stdint cimport int8_t, int32_t, int64_t, uint32_t, uint64_t


cdef extern from "zswap/zswap.h" nogil:
    const uint32_t ZSWAP_API_VERSION
    const char *ZSWAP_API_CAPSULE
    const int ZSWAP_CLOSED
    const int ZSWAP_NO_MEMORY
    const int ZSWAP_NO_ROOM
    const int ZSWAP_NO_AREA
    const int ZSWAP_NO_EXTENT
    const int ZSWAP_NO_PART
    const int ZSWAP_TOO_LONG
    const int ZSWAP_NO_REQUEST
    const uint32_t ZSWAP_ZEROS
    const int ZSWAP_COMPLETE
    const int ZSWAP_PENDING
    const uint32_t ZSWAP_LOAD
    const uint32_t ZSWAP_STORE
    const uint32_t ZSWAP_ENCRYPT
    const uint32_t ZSWAP_CHECKSUM
    const uint32_t ZSWAP_WIPE

    ctypedef struct zswap_weight:
        uint64_t pages
        uint64_t same_filled
        uint64_t backed
        uint64_t compressed_bytes

    ctypedef struct zswap_buffer:
        void *data
        size_t bytes

    ctypedef struct zswap_engine:
        pass

    ctypedef struct zswap_config:
        uint32_t struct_size
        uint32_t page_size
        uint64_t max_pool_bytes
        uint64_t max_memory_bytes
        const char *compressor
        const char *zpool
        const char *backing
        uint32_t flags

    ctypedef struct zswap_request:
        zswap_request *next
        void (*done)(zswap_request *) noexcept nogil
        void *data
        void *page
        uint64_t offset
        uint32_t area
        uint32_t what
        uint32_t flags
        int32_t status

    ctypedef struct zswap_figures:
        uint32_t struct_size
        uint32_t page_size
        uint64_t max_pool_bytes
        uint64_t pool_total_size
        uint64_t metadata_bytes
        uint64_t compressed_bytes
        uint64_t stored_pages
        uint64_t same_filled_pages
        uint64_t stored_incompressible_pages
        uint64_t backed_pages
        uint64_t loads
        uint64_t load_misses
        uint64_t backing_loads
        uint64_t written_back_pages
        uint64_t written_through_pages
        uint64_t pool_limit_hit

    ctypedef void (*zswap_evicted)(void *, uint32_t, const uint64_t *, size_t) noexcept nogil

    ctypedef struct zswap_api:
        uint32_t version
        uint32_t struct_size
        zswap_engine *(*open)(void *) noexcept
        void (*ref)(zswap_engine *) noexcept nogil
        void (*unref)(zswap_engine *) noexcept nogil
        uint32_t (*page_size)(zswap_engine *) noexcept nogil
        int (*store)(zswap_engine *, uint32_t, uint64_t, const void *) noexcept nogil
        int (*load)(zswap_engine *, uint32_t, uint64_t, void *) noexcept nogil
        int (*store_many)(zswap_engine *, uint32_t, const uint64_t *, const void *, size_t, int,
                          int8_t *) noexcept nogil
        int (*load_many)(zswap_engine *, uint32_t, const uint64_t *, void *, size_t, int,
                         int8_t *) noexcept nogil
        int64_t (*invalidate)(zswap_engine *, uint32_t, uint64_t, uint64_t) noexcept nogil
        int64_t (*weight)(zswap_engine *, uint32_t, uint64_t) noexcept nogil
        int (*allocate)(zswap_engine *, uint32_t, uint64_t, uint64_t *) noexcept nogil
        int (*free)(zswap_engine *, uint32_t, uint64_t) noexcept nogil
        int64_t (*shrink)(zswap_engine *, uint64_t) noexcept nogil
        int (*next_held)(zswap_engine *, uint32_t, uint64_t *) noexcept nogil
        int (*next_hole)(zswap_engine *, uint32_t, uint64_t *) noexcept nogil
        int (*weigh)(zswap_engine *, uint32_t, uint64_t, uint64_t, zswap_weight *) noexcept nogil
        int (*load_part)(zswap_engine *, uint32_t, uint64_t, size_t, size_t, void *,
                         uint32_t) noexcept nogil
        int (*store_part)(zswap_engine *, uint32_t, uint64_t, size_t, size_t, const void *,
                          uint32_t) noexcept nogil
        int (*storev)(zswap_engine *, uint32_t, uint64_t, const zswap_buffer *,
                      size_t) noexcept nogil
        int (*loadv)(zswap_engine *, uint32_t, uint64_t, const zswap_buffer *, size_t,
                     uint32_t) noexcept nogil
        int (*replace)(zswap_engine *, uint32_t, uint64_t, const void *) noexcept nogil
        int (*submit)(zswap_engine *, zswap_request *) noexcept nogil
        int64_t (*evict)(zswap_engine *, uint64_t) noexcept nogil
        int (*figures)(zswap_engine *, zswap_figures *) noexcept nogil
        const char *(*status_text)(int) noexcept nogil
        int (*on_evict)(zswap_engine *, zswap_evicted, void *) noexcept nogil
        int (*store_value)(zswap_engine *, uint32_t, uint64_t, const void *, size_t) noexcept nogil
        int (*load_value)(zswap_engine *, uint32_t, uint64_t, void *, size_t *) noexcept nogil
        int64_t (*length)(zswap_engine *, uint32_t, uint64_t) noexcept nogil


cdef extern from "zswap/zswap.h":
    const zswap_api *zswap_import() except NULL
    zswap_engine *zswap_open(const zswap_api *, object) except NULL
    zswap_engine *zswap_create(const zswap_api *, const zswap_config *) except NULL
