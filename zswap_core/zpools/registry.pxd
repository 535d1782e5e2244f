# cython: language_level=3
"""The zpools by name: the one place to add another."""
from zswap_core.abi cimport zsw_zpool_ops


# NULL when there is none of that name.
cdef const zsw_zpool_ops *zpool_find(const char *name) noexcept nogil
# In order of preference; NULL behind the last one.
cdef const zsw_zpool_ops *zpool_at(size_t i) noexcept nogil
