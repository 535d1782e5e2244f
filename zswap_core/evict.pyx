"""Evict: the coldest pages go until so much memory is free."""
from libc.stdint cimport uint64_t

from zswap_core.compact cimport engine_compact
from zswap_core.figures cimport engine_totals, zsw_totals
from zswap_core.state cimport zsw_engine, zsw_worker
from zswap_core.stats cimport Counter
from zswap_core.writeback cimport engine_writeback


cdef enum:
    MOST_AT_ONCE = 16384        # pages: a tenth of a second or so, between looks for signals


cdef inline uint64_t taken(const zsw_engine *e, const zsw_totals *totals) noexcept nogil:
    return totals.pool_pages * e.page_size + totals.metadata_bytes


cdef void note_freed(zsw_engine *e, zsw_eviction *eviction, zsw_totals *totals) noexcept nogil:
    cdef uint64_t now
    engine_totals(e, totals)
    now = taken(e, totals)
    eviction.freed = eviction.before - now if now < eviction.before else 0


cdef void evict_begin(zsw_engine *e, zsw_eviction *eviction, uint64_t wanted) noexcept nogil:
    cdef zsw_totals totals
    engine_totals(e, &totals)
    eviction.wanted, eviction.freed, eviction.before = wanted, 0, taken(e, &totals)
    eviction.left = <uint64_t> max(totals.counters[<int> Counter.stored_pages], 0)


cdef bint evict_some(zsw_engine *e, zsw_worker *w, zsw_eviction *eviction) noexcept nogil:
    """Writes back as many pages as take what is still missing, if they are like the others; whether
    to go on."""
    cdef zsw_totals totals
    cdef uint64_t pages, done
    cdef double share
    if eviction.freed >= eviction.wanted or eviction.left == 0:
        return False
    engine_totals(e, &totals)
    share = (<double> (eviction.wanted - eviction.freed)
             / max(totals.pool_pages * e.page_size, <uint64_t> 1))
    pages = min(eviction.left, <uint64_t> MOST_AT_ONCE)
    if share < 1:
        pages = min(pages, <uint64_t> (share * eviction.left) + 1)
    done = engine_writeback(e, w, pages, 0)
    if done == 0:
        return False
    eviction.left -= min(done, eviction.left)
    note_freed(e, eviction, &totals)
    if eviction.freed < eviction.wanted:
        engine_compact(e, w)            # each allocator page may still hold one that stays
        note_freed(e, eviction, &totals)
    return True
