"""What an engine goes by, set at any time by whichever thread.  The rows of zswap/parameters.py say
what each means."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from zswap_core.os cimport zsw_peek_u32


cpdef enum Flag:
    enabled
    same_filled_pages_enabled
    non_same_filled_pages_enabled
    exclusive_loads
    reject_compress_poor
    direct_reclaim
    read_ahead
    latency
    FLAGS                       # how many there are


cdef struct zsw_params:
    uint32_t flags[FLAGS]
    uint64_t max_pages                  # the limit, in allocator pages
    uint64_t accept_pages               # after the limit was hit, refuse until at or below this
    uint64_t near_pages                 # below the limit: from here on the shrinker is wanted
    uint32_t shrinker_enabled           # answer memory pressure, not only the limit
    uint64_t shrinker_interval_ns
    int64_t writeback_limit             # pages that may still be written back; -1: no limit
    uint64_t writeback_rate             # pages a second that may be written back; 0: no limit
    uint32_t promote                    # a Promote
    # These are set before the first page and never again; but trim_zeros may yet come on.
    uint32_t wipe_on_free
    uint32_t mapping                    # ZSW_MAP_ flags of memory with what is made of pages
    uint32_t trim_zeros                 # what a page ends in is not compressed


cdef inline bint is_on(const zsw_params *params, Flag which) noexcept nogil:
    return zsw_peek_u32(&params.flags[<int> which]) != 0
