# cython: language_level=3
from libc.errno cimport EINVAL, ENOMEM
from libc.stdlib cimport calloc, free

from zswap_core.abi cimport (ZSW_ABI_VERSION, ZSW_PAGE_SIZE_MAX, ZSW_PAGE_SIZE_MIN, zsw_compressor, zsw_compressor_ops,
                             zsw_zpool_config, zsw_zpool_ops)


cdef int pool_create(const zsw_compressor *compressor, const zsw_zpool_ops *ops, const zsw_zpool_config *config,
                     zsw_pool **out) noexcept nogil:
    cdef zsw_pool *pool
    cdef int rc
    if (compressor.ops.abi_version != ZSW_ABI_VERSION or compressor.ops.struct_size < sizeof(zsw_compressor_ops)
            or ops.abi_version != ZSW_ABI_VERSION or ops.struct_size < sizeof(zsw_zpool_ops)):
        return -EINVAL
    if (config.page_size < ZSW_PAGE_SIZE_MIN or config.page_size > ZSW_PAGE_SIZE_MAX
            or config.page_size & (config.page_size - 1)):
        return -EINVAL
    pool = <zsw_pool *> calloc(1, sizeof(zsw_pool))
    if pool == NULL:
        return -ENOMEM
    pool.compressor = compressor[0]
    pool.ops = ops
    pool.config = config[0]
    pool.bound = compressor.ops.bound(compressor.state, config.page_size)
    rc = ops.create(config, &pool.zpool)
    if rc != 0:
        free(pool)
        return rc
    pool.max_saving = ops.max_saving_size(pool.zpool)
    out[0] = pool
    return 0


cdef void pool_destroy(zsw_pool *pool) noexcept nogil:
    pool.ops.destroy(pool.zpool)
    free(pool)


cdef bint pool_matches(const zsw_pool *pool, const zsw_compressor *compressor, const zsw_zpool_ops *ops,
                       const zsw_zpool_config *config) noexcept nogil:
    return (pool.compressor.ops == compressor.ops and pool.compressor.state == compressor.state and pool.ops == ops
            and pool.config.chain == config.chain and pool.config.kernel == config.kernel
            and pool.config.numa_node == config.numa_node)
