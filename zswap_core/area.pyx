# cython: language_level=3
"""Swap areas: brought online, taken offline, and found for a call."""
from libc.errno cimport EINVAL, ENOMEM
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from zswap_core.abi cimport zsw_backing_ops
from zswap_core.index cimport area_init, zsw_area
from zswap_core.invalidate cimport invalidate_area
from zswap_core.os cimport zsw_add_u32, zsw_lock, zsw_poke_u64, zsw_store_ptr, zsw_store_u32, zsw_unlock
from zswap_core.state cimport MAX_AREAS, MAX_OFFSET_SHIFT, zsw_engine, zsw_worker


cdef int engine_swapon(zsw_engine *e, uint32_t type, uint64_t nr_pages, const zsw_backing_ops *backing,
                       void *store) noexcept nogil:
    """Brings a swap area of `nr_pages` offsets online, with a backing store unless `backing` is NULL.  -EINVAL when it is online already or the numbers are out of range."""
    cdef zsw_area *area
    cdef int rc = 0
    if type >= MAX_AREAS or nr_pages == 0 or nr_pages > <uint64_t> 1 << MAX_OFFSET_SHIFT:
        return -EINVAL
    zsw_lock(&e.areas_lock)
    area = e.areas[type]
    if area == NULL:
        area = <zsw_area *> calloc(1, sizeof(zsw_area))
        rc = area_init(area, type) if area != NULL else -ENOMEM
        if rc != 0:
            free(area)
        else:
            zsw_store_ptr(<void **> &e.areas[type], area)
    elif area.online:
        rc = -EINVAL
    if rc == 0:
        zsw_poke_u64(&area.nr_pages, nr_pages)
        area.backing = backing
        area.store = store
        if backing != NULL:
            zsw_add_u32(&e.backed_areas, 1)
        zsw_store_u32(&area.online, 1)
    zsw_unlock(&e.areas_lock)
    return rc


cdef int engine_swapoff(zsw_engine *e, zsw_worker *w, uint32_t type) noexcept nogil:
    """Takes an area offline and frees all it held.  -EINVAL when it is not online.  Calls that are in flight may go on using
    the backing store: wait for those (wait_calls) before ending it."""
    cdef zsw_area *area
    cdef int rc = -EINVAL
    if type >= MAX_AREAS:
        return rc
    zsw_lock(&e.areas_lock)
    area = e.areas[type]
    if area != NULL and area.online:
        zsw_store_u32(&area.online, 0)
        if area.backing != NULL:
            zsw_add_u32(&e.backed_areas, <uint32_t> -1)
        rc = 0
    zsw_unlock(&e.areas_lock)
    if rc == 0:
        # A store checks `online` under its shard's lock.  Taking area.grow here orders us with a shard that is being added:
        # either we see it below, or its store sees the area offline.
        zsw_lock(&area.grow)
        zsw_unlock(&area.grow)
        invalidate_area(e, w, area, 0, <uint64_t> -1)
    return rc
