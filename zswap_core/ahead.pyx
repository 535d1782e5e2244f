# cython: language_level=3
"""Looking ahead in a batch of loads, so that its cache misses overlap.

From offset to object there are eight addresses, each read from where the one before points.  With millions of pages every one
is a cache miss and a page walk, and between two loads the locks keep the processor from starting the second.  So the addresses
of a few pages are followed first, with no lock and no atomic operation between them, for the caches' sake alone.

What is read here may change under the reader.  Every id is checked before it is followed, slabs keep their memory mapped, a
shard and a pool live as long as a call that found them, and nothing comes of it but a prefetch.
"""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.area cimport find_area
from zswap_core.entry cimport ENTRY_SAME, is_entry, word_handle, word_pool, zsw_entry
from zswap_core.index cimport area_shard, SHARD_PAGES, shard_peek, SHARD_SHIFT, zsw_area, zsw_shard
from zswap_core.os cimport zsw_load_ptr, zsw_peek_u32, zsw_peek_u64, zsw_prefetch_write
from zswap_core.slab cimport slab_peek
from zswap_core.state cimport zsw_engine, zsw_pool


cdef void look_at(zsw_engine *e, zsw_area *area, uint64_t offset) noexcept nogil:
    cdef zsw_shard *shard = area_shard(&e.index, area, offset >> SHARD_SHIFT)
    cdef uint32_t id = shard_peek(&e.index, shard, offset & (SHARD_PAGES - 1)) if shard != NULL else 0
    cdef zsw_entry *entry = <zsw_entry *> slab_peek(&e.entries, id) if is_entry(id) else NULL
    cdef zsw_pool *pool
    cdef uint64_t word
    if entry == NULL or zsw_peek_u32(&entry.state) & ENTRY_SAME:
        return
    zsw_prefetch_write(entry)                   # a load counts its reference there
    word = zsw_peek_u64(&entry.word)
    pool = <zsw_pool *> zsw_load_ptr(<void **> &e.pools[word_pool(word)])
    if pool != NULL and pool.ops.prefetch != NULL:
        pool.ops.prefetch(pool.zpool, word_handle(word))


cdef void look_ahead(zsw_engine *e, uint32_t type, const uint64_t *offsets, uint32_t count) noexcept nogil:
    """Prefetches what loading `count` pages will touch."""
    cdef zsw_area *area = find_area(e, type, offsets[0])
    cdef uint32_t i
    if area == NULL:
        return
    for i in range(count):
        look_at(e, area, offsets[i])
