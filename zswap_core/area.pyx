"""Swap areas: brought online, sealed and taken offline."""
from libc.errno cimport EINVAL, ENOMEM
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from zswap_core.abi cimport zsw_backing_ops
from zswap_core.budget cimport budget_look
from zswap_core.extents cimport extents_clear
from zswap_core.fault cimport fault, Site
from zswap_core.index cimport (
    area_init, AREA_LEAVING, AREA_OFFLINE, AREA_ONLINE, area_open, AREA_SEALED, area_tally,
    area_vary, shard_table, zsw_area, zsw_shard,
)
from zswap_core.invalidate cimport invalidate_area
from zswap_core.os cimport (
    EDEADLK, zsw_add_u32, zsw_load_u32, zsw_lock, zsw_poke_i64, zsw_poke_u32, zsw_poke_u64,
    zsw_store_ptr, zsw_store_u32, zsw_unlock,
)
from zswap_core.slab cimport meter_move, slab_at
from zswap_core.state cimport MAX_AREAS, MAX_OFFSET_SHIFT, zsw_engine, zsw_worker
from zswap_core.wake cimport maintenance_wake
from zswap_core.worker cimport call_depth, wait_calls


cdef void set_quota(zsw_engine *e, zsw_area *area, int64_t quota) noexcept nogil:
    """How many bytes the area's pages may take in the pool; -1: no limit, and nobody counts."""
    if quota >= 0:
        area_tally(&e.index, area, True)
    zsw_poke_i64(&area.quota, quota)
    if quota < 0:
        area_tally(&e.index, area, False)


cdef int engine_set_quota(zsw_engine *e, uint32_t type, int64_t quota) noexcept nogil:
    """From the next store on.  -EINVAL when the area is not online."""
    cdef zsw_area *area
    cdef int rc = -EINVAL
    zsw_lock(&e.areas_lock)
    area = e.areas[type] if type < MAX_AREAS else NULL
    if area != NULL and area_open(area.online):
        set_quota(e, area, quota)
        rc = 0
    zsw_unlock(&e.areas_lock)
    return rc


cdef int engine_swapon(zsw_engine *e, uint32_t type, uint64_t nr_pages,
                       const zsw_backing_ops *backing, void *store, int64_t quota,
                       bint variable) noexcept nogil:
    """Brings a swap area of `nr_pages` offsets online, with a backing store unless `backing` is
    NULL, and with a quota unless that is -1.  -EINVAL when it is online already or the numbers are
    out of range."""
    cdef zsw_area *area
    cdef int rc = 0
    if type >= MAX_AREAS or nr_pages == 0 or nr_pages > <uint64_t> 1 << MAX_OFFSET_SHIFT:
        return -EINVAL
    zsw_lock(&e.areas_lock)
    area = e.areas[type]
    if area == NULL:
        area = <zsw_area *> calloc(1, sizeof(zsw_area)) if fault(Site.AREA) == 0 else NULL
        rc = area_init(area, type, e.index.mapping) if area != NULL else -ENOMEM
        if rc != 0:
            free(area)
        else:
            meter_move(&e.budget.metered, sizeof(zsw_area) + area.table.map_bytes)
            zsw_store_ptr(<void **> &e.areas[type], area)
    # the calls that used its store have ended
    elif zsw_load_u32(&area.online) != AREA_OFFLINE:
        rc = -EINVAL
    if rc == 0:
        zsw_poke_u64(&area.nr_pages, nr_pages)
        area.backing = backing
        area.store = store
        set_quota(e, area, quota)
        area_vary(&e.index, area, variable)
        if variable:                            # values are pages that end in zeros
            zsw_poke_u32(&e.params.trim_zeros, 1)
        zsw_poke_u32(&area.write_error, 0)
        zsw_poke_u32(&area.read_error, 0)
        if backing != NULL:
            zsw_add_u32(&e.backed_areas, 1)
            maintenance_wake(e)                 # without a store it sleeps for ever
        zsw_store_u32(&area.online, AREA_ONLINE)
    zsw_unlock(&e.areas_lock)
    budget_look(e)                              # with the first store there are buffers
    return rc


cdef int engine_swapoff(zsw_engine *e, zsw_worker *w, uint32_t type) noexcept nogil:
    """Closes an area to new pages and frees all it held.  -EINVAL when it is not online, -EDEADLK
    from inside a call.  Calls in flight may go on using the backing store: engine_swapoff_end,
    outside any call, waits for those."""
    cdef zsw_area *area
    cdef int rc = -EINVAL
    if type >= MAX_AREAS:
        return rc
    if call_depth(e) > 1:                        # this one is the first
        return -EDEADLK
    zsw_lock(&e.areas_lock)
    area = e.areas[type]
    if area != NULL and area_open(area.online):
        zsw_store_u32(&area.online, AREA_LEAVING)
        if area.backing != NULL:
            zsw_add_u32(&e.backed_areas, <uint32_t> -1)
        rc = 0
    zsw_unlock(&e.areas_lock)
    if rc == 0:
        # A store checks `online` under its shard's lock.  Taking area.grow here orders us with a
        # shard that is being added: either we see it below, or its store sees the area offline.
        zsw_lock(&area.grow)
        zsw_unlock(&area.grow)
        zsw_lock(&area.extents.lock)
        extents_clear(&e.extents, &area.extents)
        zsw_unlock(&area.extents.lock)
        invalidate_area(e, w, area, 0, <uint64_t> -1)
    return rc


cdef int engine_seal(zsw_engine *e, uint32_t type, bint sealed) noexcept nogil:
    """Closes an area to new pages while what it holds can still be loaded, or opens it again.  Once
    it is sealed, every store that came before is to be seen.  -EINVAL when it is not online, or the
    like already."""
    cdef zsw_area *area
    cdef shard_table *table
    cdef zsw_shard *shard
    cdef uint64_t slot
    cdef uint32_t id
    cdef int rc = -EINVAL
    if type >= MAX_AREAS:
        return rc
    zsw_lock(&e.areas_lock)
    area = e.areas[type]
    if area != NULL and area.online == (AREA_ONLINE if sealed else AREA_SEALED):
        zsw_store_u32(&area.online, AREA_SEALED if sealed else AREA_ONLINE)
        rc = 0
    zsw_unlock(&e.areas_lock)
    if rc == 0 and sealed:
        # As for swapoff: a store checks `online` under its shard's lock, and a shard is added under
        # area.grow.
        zsw_lock(&area.grow)
        table = area.table
        for slot in range(table.mask + 1):
            id = zsw_load_u32(&table.slots[slot])
            if id:
                shard = <zsw_shard *> slab_at(&e.index.shards, id)
                zsw_lock(&shard.lock)
                zsw_unlock(&shard.lock)
        zsw_unlock(&area.grow)
    return rc


cdef void engine_swapoff_end(zsw_engine *e, uint32_t type) noexcept nogil:
    """Waits for the calls that may still use an area's backing store; then the area can come online
    again."""
    wait_calls(e)
    zsw_lock(&e.areas_lock)                     # whoever asks its store something has had an answer
    zsw_store_u32(&e.areas[type].online, AREA_OFFLINE)
    zsw_unlock(&e.areas_lock)
