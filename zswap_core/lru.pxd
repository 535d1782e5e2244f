# cython: language_level=3
"""The LRU: one list of entries for all pools, newest at the tail.  Callers hold its lock."""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.entry cimport zsw_entry
from zswap_core.os cimport zsw_mutex, zsw_poke_u64
from zswap_core.slab cimport slab_at, zsw_slab


cdef struct zsw_lru:
    zsw_mutex lock
    uint32_t oldest
    uint32_t newest
    uint64_t count          # looked at without the lock too


cdef inline void lru_add(zsw_lru *lru, const zsw_slab *entries, uint32_t id) noexcept nogil:
    cdef zsw_entry *entry = <zsw_entry *> slab_at(entries, id)
    entry.prev = lru.newest
    entry.next = 0
    if lru.newest:
        (<zsw_entry *> slab_at(entries, lru.newest)).next = id
    else:
        lru.oldest = id
    lru.newest = id
    zsw_poke_u64(&lru.count, lru.count + 1)


cdef inline void lru_remove(zsw_lru *lru, const zsw_slab *entries, uint32_t id) noexcept nogil:
    cdef zsw_entry *entry = <zsw_entry *> slab_at(entries, id)
    if entry.prev:
        (<zsw_entry *> slab_at(entries, entry.prev)).next = entry.next
    else:
        lru.oldest = entry.next
    if entry.next:
        (<zsw_entry *> slab_at(entries, entry.next)).prev = entry.prev
    else:
        lru.newest = entry.prev
    zsw_poke_u64(&lru.count, lru.count - 1)
