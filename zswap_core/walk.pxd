"""Looking around an area."""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.state cimport zsw_engine


# What a range of an area holds; each shard as it was at some moment.
cdef struct zsw_weight:
    uint64_t pages              # held, wherever
    uint64_t same_filled
    uint64_t backed             # of which nothing but the backing store has a copy
    uint64_t bytes              # compressed, of the others


cdef uint64_t engine_shards(zsw_engine *e, uint32_t type, uint64_t *numbers,
                            uint64_t capacity) noexcept nogil
cdef uint32_t engine_shard_offsets(zsw_engine *e, uint32_t type, uint64_t number, uint64_t *offsets,
                                   uint32_t capacity) noexcept nogil
cdef uint64_t engine_area_pages(zsw_engine *e, uint32_t type) noexcept nogil
cdef bint engine_next_held(zsw_engine *e, uint32_t type, uint64_t *offset) noexcept nogil
cdef bint engine_next_hole(zsw_engine *e, uint32_t type, uint64_t *offset) noexcept nogil
cdef void engine_weigh(zsw_engine *e, uint32_t type, uint64_t first, uint64_t last,
                       zsw_weight *weight) noexcept nogil
