"""Pages and objects: a page is made into an object of a pool, and read back from it."""
from libc.errno cimport ENOSPC
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from zswap_core.abi cimport (
    ZSW_COMPRESSOR_GIVES_UP, ZSW_COMPRESSOR_STATELESS_DECOMPRESS, ZSW_COMPRESSOR_WHOLE_PAGES,
    ZSW_HANDLE_MAX, zsw_object, ZSW_OBJECT_TRIMMED,
)
from zswap_core.entries cimport entry_at, take_entry
from zswap_core.entry cimport state_new, word_handle, word_length, word_pack, word_pool, zsw_entry
from zswap_core.fault cimport fault, Site
from zswap_core.magazine cimport magazine_take
from zswap_core.os cimport (
    zsw_copy_page, zsw_likely, zsw_load_ptr, zsw_peek_u32, zsw_poke_u64, zsw_store_u32,
    zsw_unlikely,
)
from zswap_core.params cimport Flag, is_on
from zswap_core.state cimport zsw_engine, zsw_pool, zsw_worker
from zswap_core.stats cimport count, Counter
from zswap_core.status cimport Status
from zswap_core.worker cimport count_entry, worker_context, worker_scratch


cdef size_t up_to_zeros(const uint8_t *page, size_t size) noexcept nogil:
    """How long the page is without the zeros that it ends in; 1 at least."""
    cdef uint64_t words[8]
    while size > 64:
        memcpy(words, page + size - 64, 64)
        if (words[0] | words[1] | words[2] | words[3] | words[4] | words[5] | words[6]
                | words[7]) != 0:
            break
        size -= 64
    while size > 1 and page[size - 1] == 0:
        size -= 1
    return size


cdef int64_t compress_page(zsw_engine *e, zsw_worker *w, zsw_pool *pool,
                           const uint8_t *page) noexcept nogil:
    """Compresses a page into the worker's scratch: its length, 0 when it would take a whole
    allocator page, or why it failed."""
    cdef void *context = NULL
    cdef size_t cap = pool.bound, size = e.page_size
    cdef int64_t length
    if pool.compressor.ops.ctx_new != NULL:
        context = worker_context(e, w, pool)
        if zsw_unlikely(context == NULL):
            return Status.ALLOC_FAIL
    if zsw_unlikely(not worker_scratch(e, w, pool.bound)):
        return Status.ALLOC_FAIL
    if pool.compressor.ops.flags & ZSW_COMPRESSOR_GIVES_UP:
        cap = min(cap, pool.max_saving)
    if (zsw_unlikely(zsw_peek_u32(&e.params.trim_zeros))
            and not pool.compressor.ops.flags & ZSW_COMPRESSOR_WHOLE_PAGES):
        size = up_to_zeros(page, w.padded_from if page == w.padded else size)
    length = fault(Site.COMPRESS)
    if zsw_likely(length == 0):
        length = pool.compressor.ops.compress(pool.compressor.state, context, page, size,
                                              w.scratch, cap)
    if zsw_unlikely(length < 0):
        return Status.COMPRESS_FAIL
    return length if <uint64_t> length <= pool.max_saving else 0


cdef inline int take_object(zsw_engine *e, zsw_worker *w, zsw_pool *pool, uint32_t length,
                            uint64_t *handle, uint8_t **object) noexcept nogil:
    cdef int rc
    if length < e.page_size or w.magazine.expected == 0 or pool.ops.malloc_many == NULL:
        return pool.ops.malloc(pool.zpool, length, handle, object)
    rc = magazine_take(w, pool, handle)
    if zsw_likely(rc == 0):
        object[0] = pool.ops.map(pool.zpool, handle[0])
    return rc


cdef int make_object(zsw_engine *e, zsw_worker *w, zsw_pool *pool, const uint8_t *data,
                     uint32_t length, uint64_t *word) noexcept nogil:
    """Makes an object of a compressed page, or of a raw one, which is as long as a page, and names
    it in `word`."""
    cdef uint8_t *object
    cdef uint64_t handle
    cdef int rc = fault(Site.ZPOOL_MALLOC)
    if zsw_likely(rc == 0):
        rc = take_object(e, w, pool, length, &handle, &object)
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


cdef int make_word(zsw_engine *e, zsw_worker *w, zsw_pool *pool, const uint8_t *page,
                   uint64_t *word) noexcept nogil:
    """Makes the page an object of the pool, compressed or, where that would take a whole allocator
    page, raw."""
    cdef int64_t length = compress_page(e, w, pool, page)
    if zsw_unlikely(length < 0):
        return <int> length
    if length:
        return make_object(e, w, pool, w.scratch, <uint32_t> length, word)
    if is_on(&e.params, Flag.reject_compress_poor):
        return Status.COMPRESS_POOR
    return make_object(e, w, pool, page, e.page_size, word)


cdef int make_entry(zsw_engine *e, zsw_worker *w, const uint8_t *page, uint32_t *id) noexcept nogil:
    """Makes the page an object of the current pool and an entry of it, which nobody knows yet; its
    Status.  Counted already: from when it is published on, another thread may free it."""
    cdef zsw_pool *pool = <zsw_pool *> zsw_load_ptr(<void **> &e.current)
    cdef uint64_t word = 0
    cdef zsw_entry *entry
    cdef uint32_t length
    cdef int rc = make_word(e, w, pool, page, &word)
    if zsw_unlikely(rc < 0):
        return rc
    id[0] = take_entry(e, w)
    if zsw_unlikely(id[0] == 0):
        pool.ops.free(pool.zpool, word_handle(word))
        return Status.ENTRY_FAIL
    entry = entry_at(e, id[0])
    zsw_poke_u64(&entry.word, word)
    zsw_store_u32(&entry.state, state_new(False, w.now))
    length = word_length(word)
    count_entry(e, w, pool, 1)
    count(w.counters, Counter.stored_pages, 1)
    count(w.counters, Counter.compressed_bytes, length)
    if length == e.page_size:
        count(w.counters, Counter.stored_incompressible_pages, 1)
        return Status.INCOMPRESSIBLE
    return Status.STORED


cdef void name_object(zsw_engine *e, uint64_t word, zsw_object *out) noexcept nogil:
    """The object that `word` names, for a backing store; it stays as long as the caller's reference
    to it."""
    cdef zsw_pool *pool = e.pools[word_pool(word)]
    out.data = pool.ops.map(pool.zpool, word_handle(word))
    out.compressor = &pool.compressor
    out.length = word_length(word)
    out.flags = ZSW_OBJECT_TRIMMED if zsw_peek_u32(&e.params.trim_zeros) else 0


cdef int read_object(zsw_engine *e, zsw_worker *w, uint64_t word, uint32_t sum,
                     uint8_t *page) noexcept nogil:
    """Decompresses the object that `word` names, of which the caller has a reference, and compares
    the page with `sum` if there are checksums.  Counts what is damaged."""
    cdef zsw_pool *pool = e.pools[word_pool(word)]
    cdef uint32_t length = word_length(word)
    cdef const uint8_t *object = pool.ops.map(pool.zpool, word_handle(word))
    cdef void *context = NULL
    cdef uint32_t fill
    cdef int64_t size
    if length == e.page_size:
        zsw_copy_page(page, object, length)
        return check_sum(e, w, page, e.page_size, sum)
    if (not pool.compressor.ops.flags & ZSW_COMPRESSOR_STATELESS_DECOMPRESS
            and pool.compressor.ops.ctx_new != NULL):
        context = worker_context(e, w, pool)
        if zsw_unlikely(context == NULL):
            return Status.ALLOC_FAIL
    size = fault(Site.DECOMPRESS)
    if zsw_likely(size == 0):
        size = pool.compressor.ops.decompress(pool.compressor.state, context, object, length, page,
                                              e.page_size)
    if zsw_unlikely(size != <int64_t> e.page_size):
        if size <= 0 or not zsw_peek_u32(&e.params.trim_zeros):
            count(w.counters, Counter.decompress_fail, 1)
            return Status.CORRUPT
        fill = w.padded_from if page == w.padded else e.page_size
        if size < <int64_t> fill:
            memset(page + size, 0, fill - <size_t> size)
    return check_sum(e, w, page, e.page_size, sum)
