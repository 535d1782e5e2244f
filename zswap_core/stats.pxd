"""The counters: one list, one array a worker, summed when somebody asks.  What each
means is said in zswap/stats.py; refused stores are counted apart, by their status.

A worker is used by one thread at a time, so counting is a plain add; it is published with a relaxed
store because stats() may read it meanwhile.  A gauge is the sum of what was added and taken away,
by whichever worker.
"""
from libc.stdint cimport int64_t

from zswap_core.os cimport zsw_poke_i64


cpdef enum Counter:
    # gauges
    stored_pages
    same_filled_pages
    stored_incompressible_pages
    compressed_bytes
    backed_pages
    # events
    decompress_fail
    duplicate_entry
    loads
    load_misses
    invalidates
    written_back_pages
    written_through_pages
    backing_loads
    promoted_pages
    clean_evictions
    read_ahead_pages
    read_ahead_loads
    reject_reclaim_fail
    backing_write_fail
    backing_read_fail
    checksum_fail
    backing_checksum_fail
    COUNTERS                    # how many there are


cdef inline void count(int64_t *counters, Counter which, int64_t by) noexcept nogil:
    zsw_poke_i64(&counters[<int> which], counters[<int> which] + by)
