"""Pools: made, made current, emptied and freed; and the limit on what they take together."""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.abi cimport zsw_compressor, zsw_zpool_config, zsw_zpool_ops
from zswap_core.budget cimport headroom
from zswap_core.os cimport zsw_load_u32, zsw_peek_u64
from zswap_core.params cimport Flag, is_on
from zswap_core.state cimport zsw_engine, zsw_pool, zsw_worker


cdef inline uint64_t reclaim_goal(zsw_engine *e) noexcept nogil:
    """So far down the shrinker goes: always to where a page may come in, if there is a pool at
    all."""
    cdef uint64_t most = zsw_peek_u64(&e.params.max_pages)
    return most - 1 - 2 * headroom(most) if most else 0


cdef inline bint reclaims(zsw_engine *e) noexcept nogil:
    """Whether stores make room before they are refused."""
    return is_on(&e.params, Flag.direct_reclaim) and zsw_load_u32(&e.backed_areas) != 0


cdef int engine_use_pool(zsw_engine *e, const zsw_compressor *compressor, const zsw_zpool_ops *ops,
                         const zsw_zpool_config *config) noexcept nogil
cdef int pool_hold(zsw_engine *e, const zsw_compressor *compressor, const zsw_zpool_ops *ops,
                   const zsw_zpool_config *config, zsw_pool **out) noexcept nogil
cdef void pool_release(zsw_engine *e, zsw_pool *pool) noexcept nogil
cdef bint retire_pools(zsw_engine *e) noexcept nogil
cdef uint64_t pool_pages(zsw_engine *e) noexcept nogil
cdef bint hit_limit(zsw_engine *e) noexcept nogil
cdef bint pools_reach(zsw_engine *e, uint64_t pages) noexcept nogil
cdef bint accepts_again(zsw_engine *e) noexcept nogil
cdef void destroy_pools(zsw_engine *e) noexcept nogil
cdef void engine_set_limits(zsw_engine *e, uint64_t max_pages, uint64_t accept_pages) noexcept nogil
cdef void engine_set_budget(zsw_engine *e, uint64_t bytes, uint64_t least,
                            const uint64_t *ceilings) noexcept nogil
cdef bint near_limit(zsw_engine *e) noexcept nogil
cdef int admit_plainly(zsw_engine *e) noexcept nogil
# Whether a pool may still call the compressor, be it one that is just being freed.
cdef bint compressor_in_use(zsw_engine *e, const zsw_compressor *compressor) noexcept nogil
