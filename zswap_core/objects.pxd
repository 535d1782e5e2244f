"""Pages and objects: a page is made into an object of a pool, and read back from it."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from zswap_core.abi cimport zsw_object
from zswap_core.checksum cimport checksum_of
from zswap_core.entry cimport zsw_entry
from zswap_core.index cimport sum_at
from zswap_core.os cimport zsw_likely, zsw_unlikely
from zswap_core.state cimport zsw_engine, zsw_pool, zsw_worker
from zswap_core.stats cimport count, Counter
from zswap_core.status cimport Status


cdef int64_t compress_page(zsw_engine *e, zsw_worker *w, zsw_pool *pool,
                           const uint8_t *page) noexcept nogil
cdef int make_object(zsw_engine *e, zsw_worker *w, zsw_pool *pool, const uint8_t *data,
                     uint32_t length, uint64_t *word) noexcept nogil
cdef int make_entry(zsw_engine *e, zsw_worker *w, const uint8_t *page, uint32_t *id) noexcept nogil
cdef void name_object(zsw_engine *e, uint64_t word, zsw_object *out) noexcept nogil
cdef int read_object(zsw_engine *e, zsw_worker *w, uint64_t word, uint32_t sum,
                     uint8_t *page) noexcept nogil


cdef inline int check_sum(zsw_engine *e, zsw_worker *w, const void *data, size_t size,
                          uint32_t sum) noexcept nogil:
    """Compares data with its checksum, if there are checksums.  Counts what is damaged."""
    if zsw_likely(checksum_of(&e.checksum, data, size) == sum):
        return Status.STORED
    count(w.counters, Counter.checksum_fail, 1)
    return Status.CORRUPT


cdef inline uint32_t entry_sum(zsw_engine *e, const zsw_entry *entry) noexcept nogil:
    """The checksum of an entry's page; 0 without checksums, as checksum_of.  Under the shard's
    lock."""
    return sum_at(&e.index, entry.pos)[0] if zsw_unlikely(e.index.checksums != 0) else 0
