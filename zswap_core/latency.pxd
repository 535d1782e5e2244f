"""Latency histograms: four buckets to each power of two, so that a time read back is off by an
eighth at most.

A worker has its own and is used by one thread at a time, so recording is a few plain stores.
Emptying them is the workers' doing for the same reason: each empties its own when it records in a
later epoch than before, and until then they do not count.
"""
from libc.stdint cimport uint32_t, uint64_t


cdef enum:
    LATENCY_BUCKETS = 160               # up to 2**41 ns, over half an hour

cpdef enum Timed:
    store_ns
    load_ns
    TIMED                       # how many there are


cdef struct zsw_histogram:
    uint64_t counts[LATENCY_BUCKETS]
    uint64_t total                      # ns
    uint64_t longest                    # ns


cdef struct zsw_latency:
    uint32_t epoch
    zsw_histogram calls[TIMED]


cdef void latency_record(zsw_latency *latency, uint32_t epoch, Timed call,
                         uint64_t ns) noexcept nogil
cdef void latency_add(zsw_latency *latency, uint32_t epoch, Timed call,
                      zsw_histogram *sum) noexcept nogil
cdef uint64_t bucket_start(uint32_t bucket) noexcept nogil
