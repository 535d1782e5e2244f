"""Entries: taken, freed and given back, with the object and the counts that go with them."""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.entry cimport entry_put, zsw_entry
from zswap_core.index cimport shard_find, SHARD_PAGES, zsw_shard
from zswap_core.slab cimport slab_at
from zswap_core.state cimport zsw_engine, zsw_worker


cdef uint32_t take_entry(zsw_engine *e, zsw_worker *w) noexcept nogil
cdef bint only_spares(zsw_engine *e) noexcept nogil
cdef void give_spares(zsw_engine *e, zsw_worker *w) noexcept nogil
cdef void free_entry(zsw_engine *e, zsw_worker *w, uint32_t id) noexcept nogil
cdef void put_entries(zsw_engine *e, zsw_worker *w, const uint32_t *ids,
                      uint32_t entries) noexcept nogil


cdef inline zsw_entry *entry_at(zsw_engine *e, uint32_t id) noexcept nogil:
    return <zsw_entry *> slab_at(&e.entries, id)


cdef inline void put_entry(zsw_engine *e, zsw_worker *w, uint32_t id) noexcept nogil:
    if entry_put(entry_at(e, id)):
        free_entry(e, w, id)


cdef inline uint32_t find_entry(zsw_engine *e, zsw_shard *shard, uint64_t offset) noexcept nogil:
    """The entry at `offset`, or 0.  Under the shard's lock."""
    cdef uint32_t pos
    cdef uint32_t *slot = shard_find(&e.index, shard, offset & (SHARD_PAGES - 1), &pos)
    return slot[0] if slot != NULL else 0
