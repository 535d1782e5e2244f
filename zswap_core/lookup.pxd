"""The engine's areas and pools, by number.  Found without a lock; what a call has found stays until
it ends."""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.index cimport area_open, zsw_area
from zswap_core.os cimport zsw_load_ptr, zsw_load_u32, zsw_peek_u64
from zswap_core.state cimport MAX_AREAS, zsw_engine, zsw_pool


cdef inline zsw_area *area_at(zsw_engine *e, uint32_t type) noexcept nogil:
    """The area of that swap type, online or not; NULL when there never was one."""
    return <zsw_area *> zsw_load_ptr(<void **> &e.areas[type])


cdef inline zsw_area *find_area(zsw_engine *e, uint32_t type, uint64_t offset) noexcept nogil:
    """The area, if it is online and the offset lies in it; else NULL."""
    cdef zsw_area *area = area_at(e, type) if type < MAX_AREAS else NULL
    if (area == NULL or not area_open(zsw_load_u32(&area.online))
            or offset >= zsw_peek_u64(&area.nr_pages)):
        return NULL
    return area


cdef inline zsw_pool *pool_at(zsw_engine *e, uint32_t id) noexcept nogil:
    """The pool of that id, or NULL.  During a call the pool stays, even if it is unlinked
    meanwhile."""
    return <zsw_pool *> zsw_load_ptr(<void **> &e.pools[id])
