# cython: language_level=3
"""Looking around an area."""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.state cimport zsw_engine


cdef uint64_t engine_shards(zsw_engine *e, uint32_t type, uint64_t *numbers,
                            uint64_t capacity) noexcept nogil
cdef uint32_t engine_shard_offsets(zsw_engine *e, uint32_t type, uint64_t number, uint64_t *offsets,
                                   uint32_t capacity) noexcept nogil
cdef uint64_t engine_area_pages(zsw_engine *e, uint32_t type) noexcept nogil
