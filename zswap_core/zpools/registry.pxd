"""The zpools by name: the one place to add another."""
from zswap_core.abi cimport zsw_zpool_ops


# NULL when there is none of that name.
cdef const zsw_zpool_ops *zpool_find(str name) except? NULL
