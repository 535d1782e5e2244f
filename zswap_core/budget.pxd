"""What all that the engine takes may come to, and what of that is left for the pools."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zswap_core.os cimport zsw_peek_u32, zsw_peek_u64, zsw_unlikely
from zswap_core.state cimport zsw_engine


cdef enum:
    HEADROOM_SHARE = 32         # of the limit, one page in so many is kept free for stores to come,
    HEADROOM_PAGES = 1024       # but no more than these
    BUFFERS_MOST = 8 << 20      # bytes for buffers, when the budget has room for all of them


cdef inline uint64_t headroom(uint64_t max_pages) noexcept nogil:
    """So far below the limit stores wake the shrinker, if they make room before they are
    refused."""
    return min(max_pages // HEADROOM_SHARE, <uint64_t> HEADROOM_PAGES)


cdef inline uint64_t buffers_share(const zsw_engine *e) noexcept nogil:
    """Bytes that are kept for buffers.  Half of them are writeback's, a quarter read-ahead's."""
    cdef uint64_t bytes = zsw_peek_u64(&e.budget.bytes)
    return min(bytes // 8, <uint64_t> BUFFERS_MOST) if bytes else <uint64_t> 1 << 62


cdef inline uint64_t buffer_bytes(const zsw_engine *e, uint64_t most,
                                  uint32_t share) noexcept nogil:
    """How large a buffer is to be: `most`, or one part in `share` of what is kept for them where
    that is less; whole pages, or none."""
    return min(most, buffers_share(e) // share) & ~(<uint64_t> e.page_size - 1)


cdef inline uint64_t through_bytes(const zsw_engine *e, uint64_t most) noexcept nogil:
    """Of pages that a batch writes through together, at most `most`."""
    return max(buffer_bytes(e, most, 8), <uint64_t> e.page_size)


cdef inline bint budget_moved(const zsw_engine *e) noexcept nogil:
    """Whether there is so much more or less beside the pools that the limit is to be made anew."""
    return (zsw_peek_u64(&e.budget.metered) - zsw_peek_u64(&e.budget.metered_low)
            > zsw_peek_u64(&e.budget.metered_span))


cdef inline bint budget_allows(zsw_engine *e) noexcept nogil:
    """Whether what takes no room in a pool may come in."""
    if zsw_unlikely(budget_moved(e)):
        budget_look(e)
    return zsw_peek_u32(&e.budget.over) == 0


cdef uint64_t beside_pools(zsw_engine *e) noexcept nogil
cdef void budget_look(zsw_engine *e) noexcept nogil
cdef void budget_renew(zsw_engine *e) noexcept nogil
cdef void budget_pool(zsw_engine *e, uint64_t pages, uint64_t accept) noexcept nogil
cdef void budget_set(zsw_engine *e, uint64_t bytes, uint64_t least,
                     const uint64_t *ceilings) noexcept nogil
cdef bint budget_follows(const zsw_engine *e) noexcept nogil
cdef bint buffers_spare(const zsw_engine *e, uint64_t size) noexcept nogil
cdef uint8_t *map_buffer(zsw_engine *e, size_t size, uint32_t mapping) noexcept nogil
cdef void unmap_buffer(zsw_engine *e, void *buffer, size_t size) noexcept nogil
