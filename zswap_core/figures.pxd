"""Every counter, size and time, summed over workers and pools."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from zswap_core.latency cimport Timed, zsw_histogram
from zswap_core.state cimport zsw_engine
from zswap_core.stats cimport COUNTERS
from zswap_core.status cimport REASONS


cdef struct zsw_totals:
    int64_t counters[COUNTERS]
    int64_t refused[REASONS]
    uint64_t pool_pages
    uint64_t idle_pages
    uint64_t pages_compacted
    uint64_t metadata_bytes
    uint64_t buffer_bytes       # of these, what calls and backing stores work with
    uint64_t max_pages          # what the pools may take now
    uint64_t max_bytes          # and all together; 0: there is no such limit


cdef void engine_totals(zsw_engine *e, zsw_totals *out) noexcept nogil
cdef void engine_latency(zsw_engine *e, Timed call, zsw_histogram *out) noexcept nogil
# Adds the allocators' pages on each NUMA node below `nodes`; 0 or -errno.
cdef int engine_node_pages(zsw_engine *e, uint64_t *counts, uint32_t nodes) noexcept nogil
