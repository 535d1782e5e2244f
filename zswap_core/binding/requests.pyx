"""What methods ask of the engine, done inside a call: see the .pxd."""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from zswap_core.allocate cimport engine_allocate, engine_free_extent
from zswap_core.area cimport engine_seal, engine_swapoff, engine_swapon
from zswap_core.batch cimport engine_invalidate_many, engine_load_many, engine_store_many
from zswap_core.compact cimport engine_compact
from zswap_core.evict cimport evict_begin, evict_some
from zswap_core.figures cimport engine_latency, engine_node_pages, engine_totals, zsw_totals
from zswap_core.index cimport zsw_area
from zswap_core.invalidate cimport engine_invalidate
from zswap_core.latency cimport latency_record, Timed, TIMED
from zswap_core.load cimport (
    engine_contains, engine_length, engine_load, engine_take, LOAD_NO_WAIT, load_page, LOAD_ZEROS,
)
from zswap_core.lookup cimport area_at, find_area, pool_at
from zswap_core.maintenance cimport maintenance_start
from zswap_core.os cimport (
    zsw_add_u32, zsw_load_ptr, zsw_now_ns, zsw_peek_i64, zsw_peek_u32, zsw_unlikely,
)
from zswap_core.params cimport Flag, is_on
from zswap_core.parts cimport engine_load_part, engine_store_part
from zswap_core.pool cimport engine_set_budget, engine_set_limits, engine_use_pool
from zswap_core.recall cimport engine_recall
from zswap_core.recompress cimport engine_recompress
from zswap_core.slots cimport zsw_held
from zswap_core.state cimport CEILINGS, MAX_AREAS, MAX_POOLS, zsw_engine, zsw_pool, zsw_worker
from zswap_core.store cimport store_page
from zswap_core.vectors cimport engine_loadv, engine_storev, zsw_vector
from zswap_core.wake cimport maintenance_wake
from zswap_core.walk cimport (
    engine_area_pages, engine_next_held, engine_next_hole, engine_shard_offsets, engine_shards,
    engine_weigh,
)
from zswap_core.writeback cimport engine_evict, engine_writeback


cdef void look(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    """Nothing: whoever calls it only wants to know whether the engine is open."""
    pass


cdef void time_call(zsw_engine *e, zsw_worker *w, Timed call, uint64_t start,
                    int status) noexcept nogil:
    if status >= 0:
        latency_record(&w.latency, zsw_peek_u32(&e.latency_epoch), call, zsw_now_ns() - start)


cdef inline uint32_t load_flags(bint no_wait, bint zeros) noexcept nogil:
    return (LOAD_NO_WAIT if no_wait else 0) | (LOAD_ZEROS if zeros else 0)


cdef void do_store(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef page_args *a = <page_args *> args
    cdef uint64_t start = zsw_now_ns() if zsw_unlikely(is_on(&e.params, Flag.latency)) else 0
    cdef zsw_held nothing
    nothing.shard, nothing.id, nothing.same = NULL, 0, False
    a.status = store_page(e, w, a.type, a.offset, a.page, &nothing if a.absent else NULL)
    a.error = w.error
    if zsw_unlikely(start != 0):
        time_call(e, w, Timed.store_ns, start, a.status)


cdef void do_load(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef page_args *a = <page_args *> args
    cdef uint64_t start = zsw_now_ns() if zsw_unlikely(is_on(&e.params, Flag.latency)) else 0
    cdef uint32_t how = load_flags(a.no_wait, a.zeros)
    if a.how == LoadAs.USUAL:
        a.status = engine_load(e, w, a.type, a.offset, a.page, how)
    elif a.how == LoadAs.TAKE:
        a.status = engine_take(e, w, a.type, a.offset, a.page, how)
    else:
        a.status = load_page(e, w, a.type, a.offset, a.page, how)
    a.error = w.error
    if zsw_unlikely(start != 0):
        time_call(e, w, Timed.load_ns, start, a.status)


cdef void do_store_part(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef part_args *a = <part_args *> args
    cdef uint64_t start = zsw_now_ns() if zsw_unlikely(is_on(&e.params, Flag.latency)) else 0
    a.status = engine_store_part(e, w, a.type, a.offset, a.at, a.bytes, a.data,
                                 load_flags(a.no_wait, a.zeros))
    a.error = w.error
    if zsw_unlikely(start != 0):
        time_call(e, w, Timed.store_ns, start, a.status)


cdef void do_load_part(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef part_args *a = <part_args *> args
    cdef uint64_t start = zsw_now_ns() if zsw_unlikely(is_on(&e.params, Flag.latency)) else 0
    a.status = engine_load_part(e, w, a.type, a.offset, a.at, a.bytes, a.data,
                                load_flags(a.no_wait, a.zeros))
    a.error = w.error
    if zsw_unlikely(start != 0):
        time_call(e, w, Timed.load_ns, start, a.status)


cdef void do_storev(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef vector_args *a = <vector_args *> args
    a.status = engine_storev(e, w, a.type, a.first, &a.vector, a.made, &a.failed)
    a.error = w.error


cdef void do_loadv(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef vector_args *a = <vector_args *> args
    cdef zsw_vector vector = a.vector           # it may be called again
    a.status = engine_loadv(e, w, a.type, a.first, &vector, load_flags(a.no_wait, a.zeros),
                            &a.failed)
    a.error = w.error


cdef void contains_page(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef page_args *a = <page_args *> args
    a.status = engine_contains(e, a.type, a.offset)


cdef void invalidate_pages(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef range_args *a = <range_args *> args
    a.pages = engine_invalidate(e, w, a.type, a.first, a.last)


cdef void count_pages(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef range_args *a = <range_args *> args
    a.pages = engine_area_pages(e, a.type)


cdef void is_online(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef range_args *a = <range_args *> args
    a.pages = find_area(e, a.type, 0) != NULL


cdef void next_held(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef walk_args *a = <walk_args *> args
    a.found = engine_next_held(e, a.type, &a.offset)


cdef void next_hole(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef walk_args *a = <walk_args *> args
    a.found = engine_next_hole(e, a.type, &a.offset)


cdef void weigh_pages(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef walk_args *a = <walk_args *> args
    engine_weigh(e, a.type, a.offset, a.last, &a.weight)


cdef void allocate_extent(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef extent_args *a = <extent_args *> args
    a.rc = engine_allocate(e, a.type, a.pages, &a.offset)


cdef void free_extent(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef extent_args *a = <extent_args *> args
    a.rc = engine_free_extent(e, w, a.type, a.offset, &a.pages)


cdef void store_span(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef span_args *a = <span_args *> args
    cdef uint64_t at, last = a.done + a.most
    cdef uint8_t *page
    a.status = 0
    while a.done < last and a.done * e.page_size < a.bytes:
        at = a.done * e.page_size
        page = a.data + at
        if a.bytes - at < e.page_size:
            memcpy(a.part, page, a.bytes - at)
            memset(a.part + (a.bytes - at), 0, e.page_size - (a.bytes - at))
            page = a.part
        a.status = store_page(e, w, a.type, a.first + a.done, page, NULL)
        if a.status < 0:
            a.error = w.error
            return
        a.done += 1


cdef void load_span(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef span_args *a = <span_args *> args
    cdef uint64_t at, last = a.done + a.most
    cdef uint8_t *page
    cdef bint part
    a.status = 0
    while a.done < last and a.done * e.page_size < a.bytes:
        at = a.done * e.page_size
        part = a.bytes - at < e.page_size
        page = a.part if part else a.data + at
        a.status = load_page(e, w, a.type, a.first + a.done, page,
                             LOAD_NO_WAIT if a.no_wait else 0)
        if a.status < 0:
            a.error = w.error
            return
        if part:
            memcpy(a.data + at, page, a.bytes - at)
        a.done += 1


cdef void store_batch(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef batch_args *a = <batch_args *> args
    a.error = engine_store_many(e, w, a.type, a.offsets, a.pages, a.count, a.threads, a.status,
                                a.ns)


cdef void load_batch(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef batch_args *a = <batch_args *> args
    a.error = engine_load_many(e, w, a.type, a.offsets, a.pages, a.count, a.threads, a.status, a.ns)


cdef void invalidate_batch(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef look_args *a = <look_args *> args
    a.found = engine_invalidate_many(e, w, a.type, a.offsets, a.count)


cdef void page_sizes(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef look_args *a = <look_args *> args
    cdef uint64_t i
    for i in range(a.count):
        a.sizes[i] = <int32_t> engine_length(e, a.type, a.offsets[i])


cdef void area_shard_numbers(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef look_args *a = <look_args *> args
    a.found = engine_shards(e, a.type, a.numbers, a.count)


cdef void shard_offsets(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef look_args *a = <look_args *> args
    a.found = engine_shard_offsets(e, a.type, a.shard, a.numbers, <uint32_t> a.count)


cdef void use_pool(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef pool_args *a = <pool_args *> args
    # the one that is current will be emptied some day
    if zsw_load_ptr(<void **> &e.current) != NULL:
        a.thread = maintenance_start(e)
    if a.thread == 0:
        a.rc = engine_use_pool(e, a.compressor, a.ops, &a.config)


cdef void recompress_some(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef pool_args *a = <pool_args *> args
    a.thread = maintenance_start(e)
    if a.thread == 0:
        a.rc = engine_recompress(e, w, a.compressor, a.ops, &a.config, a.idle, a.incompressible,
                                 a.max_pages, SLICE // 8, &a.next, &a.result)


cdef void seal(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef area_args *a = <area_args *> args
    a.rc = engine_seal(e, a.type, a.sealed)


cdef void swap_on(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef area_args *a = <area_args *> args
    if a.backing != NULL:
        a.thread = maintenance_start(e)
    if a.thread == 0:
        a.rc = engine_swapon(e, a.type, a.pages, a.backing, a.store)


cdef void swap_off(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef area_args *a = <area_args *> args
    a.rc = engine_swapoff(e, w, a.type)


cdef void read_news(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef news_args *a = <news_args *> args
    cdef zsw_area *area
    cdef uint32_t i
    a.news = zsw_peek_u32(&e.news)
    a.times_full = zsw_peek_u32(&e.times_full)
    for i in range(<uint32_t> MAX_AREAS):
        area = area_at(e, i)
        a.errors[2 * i] = zsw_peek_u32(&area.write_error) if area != NULL else 0
        a.errors[2 * i + 1] = zsw_peek_u32(&area.read_error) if area != NULL else 0


cdef void write_back(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef work_args *a = <work_args *> args
    a.done = engine_writeback(e, w, a.pages, a.idle)


cdef void evict_bytes(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef evict_args *a = <evict_args *> args
    if not a.begun:
        evict_begin(e, &a.eviction, a.eviction.wanted)
        a.begun = True
    a.goes_on = evict_some(e, w, &a.eviction)


cdef void evict_pages(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef reach_args *a = <reach_args *> args
    a.done = engine_evict(e, w, a.pages, a.type, &a.first, a.last)


cdef void recall_pages(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef reach_args *a = <reach_args *> args
    a.done = engine_recall(e, w, a.pages, a.type, &a.first, a.last)


cdef void compact_all(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef work_args *a = <work_args *> args
    a.done = engine_compact(e, w)


cdef void set_limits(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef work_args *a = <work_args *> args
    engine_set_limits(e, a.pages, a.accept)


cdef void set_budget(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef budget_args *a = <budget_args *> args
    cdef uint32_t i
    for i in range(<uint32_t> CEILINGS):
        if a.ceilings[i] and a.thread == 0:     # who follows the process must look now and then
            a.thread = maintenance_start(e)
    if a.thread == 0:
        engine_set_budget(e, a.bytes, a.least, a.ceilings)
        maintenance_wake(e)


cdef void sum_totals(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    engine_totals(e, <zsw_totals *> args)


cdef void read_latency(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef latency_args *a = <latency_args *> args
    cdef int call
    for call in range(<int> TIMED):
        engine_latency(e, <Timed> call, &a.histograms[call])
    if a.reset:
        zsw_add_u32(&e.latency_epoch, 1)


cdef void count_nodes(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef nodes_args *a = <nodes_args *> args
    a.rc = engine_node_pages(e, a.counts, NODES)


cdef void list_pools(zsw_engine *e, zsw_worker *w, void *args) noexcept nogil:
    cdef pools_args *a = <pools_args *> args
    # once: it may change meanwhile
    cdef zsw_pool *current = <zsw_pool *> zsw_load_ptr(<void **> &e.current)
    cdef zsw_pool *pool
    cdef pool_row *row
    cdef uint32_t i
    a.count = 0
    for i in range(<uint32_t> MAX_POOLS):
        pool = pool_at(e, i)
        if pool == NULL:
            continue
        row = &a.rows[a.count]
        row.compressor = pool.compressor
        row.name = pool.ops.name
        row.chain = pool.config.chain
        row.kernel = pool.config.kernel != 0
        row.current = pool == current
        row.entries = zsw_peek_i64(&pool.entries)
        row.pages = pool.ops.total_pages(pool.zpool)
        a.count += 1
