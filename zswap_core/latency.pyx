"""Latency histograms, recorded and summed."""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.os cimport (
    zsw_clz, zsw_load_u32, zsw_peek_u32, zsw_peek_u64, zsw_poke_u64, zsw_store_u32,
)


cdef uint32_t bucket_of(uint64_t ns) noexcept nogil:
    cdef uint32_t power
    if ns < 4:
        return <uint32_t> ns
    power = 63 - <uint32_t> zsw_clz(ns)
    return min((power - 1) * 4 + (<uint32_t> (ns >> (power - 2)) & 3), <uint32_t> LATENCY_BUCKETS
               - 1)


cdef uint64_t bucket_start(uint32_t bucket) noexcept nogil:
    """The shortest time that falls into the bucket."""
    return bucket if bucket < 4 else <uint64_t> (4 + (bucket & 3)) << (bucket // 4 - 1)


cdef void empty(zsw_latency *latency) noexcept nogil:
    cdef zsw_histogram *h
    cdef uint32_t call, bucket
    for call in range(<uint32_t> TIMED):
        h = &latency.calls[call]
        for bucket in range(<uint32_t> LATENCY_BUCKETS):
            zsw_poke_u64(&h.counts[bucket], 0)
        zsw_poke_u64(&h.total, 0)
        zsw_poke_u64(&h.longest, 0)


cdef void latency_record(zsw_latency *latency, uint32_t epoch, Timed call,
                         uint64_t ns) noexcept nogil:
    cdef zsw_histogram *h = &latency.calls[<int> call]
    cdef uint32_t bucket = bucket_of(ns)
    if zsw_peek_u32(&latency.epoch) != epoch:
        empty(latency)
        zsw_store_u32(&latency.epoch, epoch)
    zsw_poke_u64(&h.counts[bucket], h.counts[bucket] + 1)
    zsw_poke_u64(&h.total, h.total + ns)
    if ns > h.longest:
        zsw_poke_u64(&h.longest, ns)


cdef void latency_add(zsw_latency *latency, uint32_t epoch, Timed call,
                      zsw_histogram *sum) noexcept nogil:
    """Adds what was recorded in this epoch."""
    cdef zsw_histogram *h = &latency.calls[<int> call]
    cdef uint32_t bucket
    if zsw_load_u32(&latency.epoch) != epoch:
        return
    for bucket in range(<uint32_t> LATENCY_BUCKETS):
        sum.counts[bucket] += zsw_peek_u64(&h.counts[bucket])
    sum.total += zsw_peek_u64(&h.total)
    sum.longest = max(sum.longest, zsw_peek_u64(&h.longest))
