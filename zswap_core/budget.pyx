"""The budget: what the pools may take is what is left of it after everything else.

Everything else grows as pages come, so what is left must be looked at again and again, but not with
each page.  The slabs count into `metered` whenever they touch another page of the system's, and a
store compares that with where it was: after a 128th of the budget it looks anew, and so it does
when the pools have grown by as much.  What may come before the next look, and what each call in
flight may add beyond the limit, is set aside; so are the buffers, whether they are there or not:
they are mapped when the pool is full.

A look sets `max_pages`, and all that asks for the limit goes by it.  Same-filled pages take no room
in a pool and come in at its limit; they may have half of what is set aside, and then nothing comes
in.

A budget may follow the process: half of what the process has left below its ceilings is the
engine's, so that several engines do not take the same twice; what it is above them, the engine
gives back.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport strtoull
from posix.unistd cimport _SC_PAGESIZE, sysconf

from zswap_core.abi cimport zsw_zpool_stats
from zswap_core.lookup cimport pool_at
from zswap_core.os cimport (
    zsw_add_u64, zsw_load_ptr, zsw_load_u32, zsw_lock, zsw_map_as, zsw_now_ns, zsw_peek_u64,
    zsw_poke_u32, zsw_poke_u64, zsw_read_text, zsw_unlock, zsw_unmap,
)
from zswap_core.state cimport CEILINGS, zsw_engine, zsw_pool, zsw_worker
from zswap_core.worker cimport first_worker, scratch_bytes


cdef enum:
    LOOK_SHARE = 128            # of the budget, so much may come before the next look,
    LOOK_LEAST = 16 << 10       # at least so much,
    LOOK_MOST = 4 << 20         # and at most
    CALL_PAGES = 4              # that a call may add beyond the limit: allocators round up
    CEILING_SHARE = 16          # of a ceiling, which is left free
    STATM_BYTES = 256
    OLD_NS = 10000000           # how long what the process takes is good to go by at the limit

# which field of /proc/self/statm, in pages, each ceiling is for
cdef uint32_t[CEILINGS] FIELDS = [1, 0, 5]


# ---- what is taken -------------------------------------------------------------------------------


cdef void add_pools(zsw_engine *e, uint64_t *pages, uint64_t *metadata) noexcept nogil:
    cdef zsw_zpool_stats stats
    cdef zsw_pool *pool
    cdef uint32_t i
    for i in range(zsw_load_u32(&e.pool_limit)):
        pool = pool_at(e, i)
        if pool != NULL:
            pool.ops.stats(pool.zpool, &stats)
            pages[0] += stats.total_pages
            metadata[0] += stats.metadata_bytes


cdef uint64_t add_workers(zsw_engine *e, uint64_t *aside) noexcept nogil:
    """Bytes of all workers; and what is to be set aside for those that have worked, and for one
    more, which will take as much as the largest."""
    cdef zsw_pool *current = <zsw_pool *> zsw_load_ptr(<void **> &e.current)
    cdef uint64_t call = <uint64_t> CALL_PAGES * e.page_size, size = 0, its
    cdef uint64_t most = current.bound if current != NULL else 0
    cdef zsw_worker *w = first_worker(e)
    while w != NULL:
        its = scratch_bytes(e, w)
        size += sizeof(zsw_worker) + its
        if its:
            aside[0] += call
        most = max(most, its)
        w = w.next
    aside[0] += call + sizeof(zsw_worker) + 2 * e.page_size + most
    return size


cdef uint64_t beside_pools(zsw_engine *e) noexcept nogil:
    """Bytes that the engine takes beside the pools' pages."""
    cdef uint64_t pages = 0, metadata = 0, aside = 0
    add_pools(e, &pages, &metadata)
    return (sizeof(zsw_engine) + zsw_peek_u64(&e.budget.metered) + zsw_peek_u64(&e.budget.buffers)
            + metadata + add_workers(e, &aside))


# ---- what is left --------------------------------------------------------------------------------


cdef inline uint64_t look_bytes(const zsw_engine *e) noexcept nogil:
    return min(max(zsw_peek_u64(&e.budget.bytes) // LOOK_SHARE, <uint64_t> LOOK_LEAST),
               <uint64_t> LOOK_MOST)


cdef void set_pages(zsw_engine *e, uint64_t pages) noexcept nogil:
    """Sets the limit, and in proportion the accept threshold."""
    cdef uint64_t accept = e.budget.pool_accept
    if pages != e.budget.pool_pages:
        accept = <uint64_t> (<double> accept * pages / e.budget.pool_pages)
    zsw_poke_u64(&e.params.max_pages, pages)
    zsw_poke_u64(&e.params.accept_pages, accept)
    zsw_poke_u64(&e.params.near_pages, pages - headroom(pages))


cdef void follow(zsw_engine *e, uint64_t taken) noexcept nogil:
    """Makes the budget of what the process takes, of which the engine has `taken`.  Where the
    system does not tell, it stays."""
    cdef char text[STATM_BYTES]
    cdef char *at = text
    cdef char *end
    cdef uint64_t measured[8]
    cdef uint64_t bytes
    cdef int64_t room = 1 << 62, left
    cdef uint32_t i
    if zsw_read_text(b"/proc/self/statm", text, STATM_BYTES) <= 0:
        return
    for i in range(7):
        measured[i] = strtoull(at, &end, 10) * <uint64_t> sysconf(_SC_PAGESIZE)
        if end == at:
            return
        at = end
    for i in range(<uint32_t> CEILINGS):
        if e.budget.ceilings[i]:
            bytes = e.budget.ceilings[i] - e.budget.ceilings[i] // CEILING_SHARE
            left = <int64_t> bytes - <int64_t> measured[FIELDS[i]]
            # addresses stay taken when their memory goes back: what is given back helps nobody
            room = min(room, left if i == 0 else max(left, <int64_t> 0))
    bytes = taken + room // 2 if room > 0 else taken - min(<uint64_t> -room, taken)
    zsw_poke_u64(&e.budget.bytes, max(bytes, e.budget.least))


cdef void look(zsw_engine *e) noexcept nogil:
    """Under the lock."""
    cdef uint64_t pages = 0, beside, metadata = 0, aside = 0, metered, taken, left
    cdef uint64_t most = e.budget.pool_pages, buffers = zsw_peek_u64(&e.budget.buffers)
    metered = zsw_peek_u64(&e.budget.metered)       # first: what comes meanwhile is seen next time
    add_pools(e, &pages, &metadata)
    beside = sizeof(zsw_engine) + metered + buffers + metadata + add_workers(e, &aside)
    taken = beside + pages * e.page_size
    if budget_follows(e):
        follow(e, taken)
    if zsw_load_u32(&e.backed_areas):
        aside += through_bytes(e, buffers_share(e))
        aside += buffers_share(e) - min(buffers_share(e), buffers)
    aside += look_bytes(e)
    left = e.budget.bytes - min(e.budget.bytes, beside + aside)
    set_pages(e, min(most, left // e.page_size))
    zsw_poke_u32(&e.budget.over, taken + aside // 2 > e.budget.bytes)
    zsw_poke_u64(&e.budget.look_pages, pages + look_bytes(e) // e.page_size + 1)
    zsw_poke_u64(&e.budget.looked_ns, zsw_now_ns())
    zsw_poke_u64(&e.budget.metered_low, metered - look_bytes(e) // 2)
    zsw_poke_u64(&e.budget.metered_span, look_bytes(e))


cdef void forget(zsw_engine *e) noexcept nogil:
    """There is no budget."""
    set_pages(e, e.budget.pool_pages)
    zsw_poke_u32(&e.budget.over, 0)
    zsw_poke_u64(&e.budget.look_pages, <uint64_t> -1)
    zsw_poke_u64(&e.budget.metered_span, <uint64_t> -1)


cdef void budget_look(zsw_engine *e) noexcept nogil:
    """Makes the pools' limit of what is left now.  Whoever finds another at it waits: it may have
    begun long ago."""
    if zsw_peek_u64(&e.budget.bytes) == 0:
        return
    zsw_lock(&e.budget.lock)
    if e.budget.bytes:
        look(e)
    zsw_unlock(&e.budget.lock)


cdef void budget_renew(zsw_engine *e) noexcept nogil:
    """The same for a store at the limit, where the process may have left more by now, or less."""
    if budget_follows(e) and zsw_now_ns() - zsw_peek_u64(&e.budget.looked_ns) > OLD_NS:
        budget_look(e)


cdef void budget_pool(zsw_engine *e, uint64_t pages, uint64_t accept) noexcept nogil:
    """What the pools may take where the budget leaves so much."""
    zsw_lock(&e.budget.lock)
    zsw_poke_u64(&e.budget.pool_pages, pages)
    e.budget.pool_accept = accept
    if e.budget.bytes:
        look(e)
    else:
        forget(e)
    zsw_unlock(&e.budget.lock)


cdef void budget_set(zsw_engine *e, uint64_t bytes, uint64_t least,
                     const uint64_t *ceilings) noexcept nogil:
    """The budget in bytes, 0: there is none.  With ceilings it follows the process from there on,
    and never gets less than `least`."""
    cdef uint32_t i
    zsw_lock(&e.budget.lock)
    zsw_poke_u64(&e.budget.bytes, bytes)
    e.budget.least = least
    for i in range(<uint32_t> CEILINGS):
        zsw_poke_u64(&e.budget.ceilings[i], ceilings[i])
    if bytes:
        look(e)
    else:
        forget(e)
    zsw_unlock(&e.budget.lock)


cdef bint budget_follows(const zsw_engine *e) noexcept nogil:
    """Whether the budget is made of what the process takes."""
    cdef uint32_t i
    for i in range(<uint32_t> CEILINGS):
        if zsw_peek_u64(&e.budget.ceilings[i]):
            return True
    return False


# ---- buffers -------------------------------------------------------------------------------------


cdef bint buffers_spare(const zsw_engine *e, uint64_t size) noexcept nogil:
    """Whether there may be one more for a call, beside writeback's."""
    cdef uint64_t taken = zsw_peek_u64(&e.budget.buffers) + size
    if zsw_load_ptr(<void **> &e.writeback) == NULL:
        taken += buffers_share(e) // 2
    return zsw_peek_u64(&e.budget.bytes) == 0 or taken <= buffers_share(e)


cdef uint8_t *map_buffer(zsw_engine *e, size_t size, uint32_t mapping) noexcept nogil:
    """Maps memory that is counted as a buffer; NULL: there is none."""
    cdef uint8_t *buffer = <uint8_t *> zsw_map_as(size, mapping)
    if buffer != NULL:
        zsw_add_u64(&e.budget.buffers, size)
    return buffer


cdef void unmap_buffer(zsw_engine *e, void *buffer, size_t size) noexcept nogil:
    if buffer != NULL:
        zsw_unmap(buffer, size)
        zsw_add_u64(&e.budget.buffers, -<uint64_t> size)
