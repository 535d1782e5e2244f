"""Extents of swap areas: allocated and freed."""
from libc.errno cimport EINVAL, ENODEV
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.extents cimport extents_give, extents_leave, extents_take
from zswap_core.index cimport AREA_ONLINE, zsw_area
from zswap_core.invalidate cimport invalidate_area
from zswap_core.lookup cimport find_area
from zswap_core.os cimport zsw_load_u32, zsw_lock, zsw_peek_u64, zsw_unlock
from zswap_core.state cimport zsw_engine, zsw_worker


cdef int engine_allocate(zsw_engine *e, uint32_t type, uint64_t pages,
                         uint64_t *offset) noexcept nogil:
    """Hands out `pages` offsets in a row that nobody else has.  -ENODEV: the area is not online;
    -ENOSPC, -ENOMEM."""
    cdef zsw_area *area = find_area(e, type, 0)
    cdef int rc = -ENODEV
    if area == NULL:
        return rc
    zsw_lock(&area.extents.lock)
    # Going offline it empties them under the lock: nothing may come after that.
    if zsw_load_u32(&area.online) == AREA_ONLINE:
        rc = extents_take(&e.extents, &area.extents, pages, zsw_peek_u64(&area.nr_pages), offset)
    zsw_unlock(&area.extents.lock)
    return rc


cdef int engine_free_extent(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset,
                            uint64_t *pages) noexcept nogil:
    """Takes back the extent that begins there, and frees the pages in it, in `pages` of them.
    -ENODEV: the area is not online; -EINVAL: no extent begins there; -ENOMEM.  On failure nothing
    has changed."""
    cdef zsw_area *area = find_area(e, type, offset)
    cdef uint64_t size = 0
    cdef int rc
    if area == NULL:
        return -ENODEV if find_area(e, type, 0) == NULL else -EINVAL
    zsw_lock(&area.extents.lock)
    rc = extents_leave(&e.extents, &area.extents, offset, &size)
    zsw_unlock(&area.extents.lock)
    if rc != 0:
        return rc
    pages[0] = invalidate_area(e, w, area, offset, offset + size - 1)
    zsw_lock(&area.extents.lock)
    extents_give(&e.extents, &area.extents, offset)
    zsw_unlock(&area.extents.lock)
    return 0
