# cython: language_level=3
"""Pages and objects: a page is made into an object of a pool, and read back from it."""
from libc.errno cimport ENOSPC
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy

from zswap_core.abi cimport (
    ZSW_COMPRESSOR_GIVES_UP, ZSW_COMPRESSOR_STATELESS_DECOMPRESS, ZSW_HANDLE_MAX,
)
from zswap_core.entry cimport word_handle, word_length, word_pack, word_pool
from zswap_core.fault cimport fault, Site
from zswap_core.os cimport zsw_copy_page, zsw_likely, zsw_unlikely
from zswap_core.state cimport zsw_engine, zsw_pool, zsw_worker
from zswap_core.stats cimport count, Counter
from zswap_core.status cimport Status
from zswap_core.worker cimport worker_context, worker_scratch


cdef int64_t compress_page(zsw_engine *e, zsw_worker *w, zsw_pool *pool,
                           const uint8_t *page) noexcept nogil:
    """Compresses a page into the worker's scratch: its length, 0 when it would take a whole
    allocator page, or why it failed."""
    cdef void *context = NULL
    cdef size_t cap = pool.bound
    cdef int64_t length
    if pool.compressor.ops.ctx_new != NULL:
        context = worker_context(w, pool)
        if zsw_unlikely(context == NULL):
            return Status.ALLOC_FAIL
    if zsw_unlikely(not worker_scratch(e, w, pool.bound)):
        return Status.ALLOC_FAIL
    if pool.compressor.ops.flags & ZSW_COMPRESSOR_GIVES_UP:
        cap = min(cap, pool.max_saving)
    length = fault(Site.COMPRESS)
    if zsw_likely(length == 0):
        length = pool.compressor.ops.compress(pool.compressor.state, context, page, e.page_size,
                                              w.scratch, cap)
    if zsw_unlikely(length < 0):
        return Status.COMPRESS_FAIL
    return length if <uint64_t> length <= pool.max_saving else 0


cdef int make_object(zsw_engine *e, zsw_pool *pool, const uint8_t *data, uint32_t length,
                     uint64_t *word) noexcept nogil:
    """Makes an object of a compressed page, or of a raw one, which is as long as a page, and names
    it in `word`."""
    cdef uint8_t *object
    cdef uint64_t handle
    cdef int rc = fault(Site.ZPOOL_MALLOC)
    if zsw_likely(rc == 0):
        rc = pool.ops.malloc(pool.zpool, length, &handle, &object)
    if zsw_unlikely(rc != 0):
        return Status.COMPRESS_POOR if rc == -ENOSPC else Status.ALLOC_FAIL
    if zsw_unlikely(handle > ZSW_HANDLE_MAX):
        pool.ops.free(pool.zpool, handle)
        return Status.ALLOC_FAIL
    if length == e.page_size:
        zsw_copy_page(object, data, length)
    else:
        memcpy(object, data, length)
    word[0] = word_pack(handle, length, pool.id)
    return Status.STORED


cdef int read_object(zsw_engine *e, zsw_worker *w, uint64_t word, uint32_t sum,
                     uint8_t *page) noexcept nogil:
    """Decompresses the object that `word` names, of which the caller has a reference, and compares
    the page with `sum` if there are checksums.  Counts what is damaged."""
    cdef zsw_pool *pool = e.pools[word_pool(word)]
    cdef uint32_t length = word_length(word)
    cdef const uint8_t *object = pool.ops.map(pool.zpool, word_handle(word))
    cdef void *context = NULL
    if length == e.page_size:
        zsw_copy_page(page, object, length)
        return check_sum(e, w, page, e.page_size, sum)
    if (not pool.compressor.ops.flags & ZSW_COMPRESSOR_STATELESS_DECOMPRESS
            and pool.compressor.ops.ctx_new != NULL):
        context = worker_context(w, pool)
        if zsw_unlikely(context == NULL):
            return Status.ALLOC_FAIL
    if zsw_unlikely(fault(Site.DECOMPRESS) != 0
                    or pool.compressor.ops.decompress(pool.compressor.state, context, object,
                                                      length, page,
                                                      e.page_size) != <int64_t> e.page_size):
        count(w.counters, Counter.decompress_fail, 1)
        return Status.CORRUPT
    return check_sum(e, w, page, e.page_size, sum)
