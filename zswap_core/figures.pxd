# cython: language_level=3
"""Every counter and size, summed over workers and pools."""
from libc.stdint cimport int64_t, uint64_t

from zswap_core.state cimport zsw_engine
from zswap_core.stats cimport COUNTERS


cdef struct zsw_totals:
    int64_t counters[COUNTERS]
    uint64_t pool_pages
    uint64_t idle_pages
    uint64_t pages_compacted
    uint64_t metadata_bytes


cdef void engine_totals(zsw_engine *e, zsw_totals *out) noexcept nogil
