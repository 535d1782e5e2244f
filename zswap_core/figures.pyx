"""Every counter, size and time, summed over workers and pools."""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from zswap_core.abi cimport zsw_zpool_stats
from zswap_core.index cimport area_bytes, index_bytes, zsw_area
from zswap_core.latency cimport latency_add, Timed, zsw_histogram
from zswap_core.lookup cimport area_at, pool_at
from zswap_core.os cimport zsw_load_u32, zsw_peek_i64, zsw_peek_u32, zsw_peek_u64
from zswap_core.slab cimport slab_bytes
from zswap_core.state cimport MAX_AREAS, zsw_engine, zsw_pool, zsw_worker
from zswap_core.stats cimport COUNTERS
from zswap_core.status cimport REASONS
from zswap_core.worker cimport first_worker, scratch_bytes


cdef void add_counters(zsw_engine *e, zsw_worker *w, zsw_totals *out) noexcept nogil:
    cdef int i
    for i in range(<int> COUNTERS):
        out.counters[i] += zsw_peek_i64(&w.counters[i])
    for i in range(<int> REASONS):
        out.refused[i] += zsw_peek_i64(&w.refused[i])
    out.metadata_bytes += sizeof(zsw_worker) + scratch_bytes(e, w)
    out.buffer_bytes += scratch_bytes(e, w)


cdef void engine_totals(zsw_engine *e, zsw_totals *out) noexcept nogil:
    cdef uint32_t i
    cdef zsw_worker *w
    cdef zsw_pool *pool
    cdef zsw_area *area
    cdef zsw_zpool_stats stats
    cdef uint64_t buffers
    memset(out, 0, sizeof(zsw_totals))
    out.pages_compacted = zsw_peek_u64(&e.pages_compacted)
    out.metadata_bytes = sizeof(zsw_engine) + index_bytes(&e.index) + slab_bytes(&e.entries)
    out.metadata_bytes += slab_bytes(&e.extents)
    w = first_worker(e)
    while w != NULL:
        add_counters(e, w, out)
        w = w.next
    for i in range(zsw_load_u32(&e.pool_limit)):
        pool = pool_at(e, i)
        if pool != NULL:
            pool.ops.stats(pool.zpool, &stats)
            out.pool_pages += stats.total_pages
            out.idle_pages += stats.idle_pages
            out.pages_compacted += stats.pages_compacted
            out.metadata_bytes += stats.metadata_bytes
    buffers = zsw_peek_u64(&e.budget.buffers)
    out.buffer_bytes += buffers
    out.metadata_bytes += buffers + zsw_peek_u64(&e.requests_bytes)
    out.max_pages = zsw_peek_u64(&e.params.max_pages)
    out.max_bytes = zsw_peek_u64(&e.budget.bytes)
    for i in range(<uint32_t> MAX_AREAS):
        area = area_at(e, i)
        if area != NULL:
            out.metadata_bytes += area_bytes(area)


cdef void engine_latency(zsw_engine *e, Timed call, zsw_histogram *out) noexcept nogil:
    cdef uint32_t epoch = zsw_peek_u32(&e.latency_epoch)
    cdef zsw_worker *w = first_worker(e)
    memset(out, 0, sizeof(zsw_histogram))
    while w != NULL:
        latency_add(&w.latency, epoch, call, out)
        w = w.next


cdef int engine_node_pages(zsw_engine *e, uint64_t *counts, uint32_t nodes) noexcept nogil:
    cdef zsw_pool *pool
    cdef uint32_t i
    cdef int rc = 0
    for i in range(zsw_load_u32(&e.pool_limit)):
        pool = pool_at(e, i)
        if pool != NULL and rc == 0:
            rc = pool.ops.node_pages(pool.zpool, counts, nodes)
    return rc
