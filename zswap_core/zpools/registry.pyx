"""The zpools by name."""
from libc.string cimport strcmp

from zswap_core.abi cimport zsw_zpool_ops
from zswap_core.zpools.z3fold cimport z3fold_ops
from zswap_core.zpools.zbud cimport zbud_ops
from zswap_core.zpools.zsmalloc cimport zsmalloc_ops

cdef const zsw_zpool_ops *zpools[4]

zpools[0] = zsmalloc_ops()
zpools[1] = z3fold_ops()
zpools[2] = zbud_ops()
zpools[3] = NULL


cdef const zsw_zpool_ops *zpool_at(size_t i) noexcept nogil:
    return zpools[i] if i < sizeof(zpools) // sizeof(zpools[0]) else NULL


cdef const zsw_zpool_ops *zpool_find(const char *name) noexcept nogil:
    cdef size_t i = 0
    while zpools[i] != NULL:
        if strcmp(zpools[i].name, name) == 0:
            return zpools[i]
        i += 1
    return NULL
