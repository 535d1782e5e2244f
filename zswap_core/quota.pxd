"""What an area may take of the pool, where it has a quota.

An area with one keeps in `used` the payload of its pages in the pool, to the byte.  Whoever puts an
object in place charges for it under the shard's lock, and in the same moment what it replaces is
taken off.  Areas without a quota count in their shards alone.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from zswap_core.index cimport zsw_area
from zswap_core.os cimport zsw_add_i64
from zswap_core.state cimport zsw_engine


cdef int64_t slot_bytes(zsw_engine *e, uint32_t id) noexcept nogil
cdef bint charge(zsw_area *area, int64_t bytes, int64_t frees) noexcept nogil
cdef bint area_has_room(zsw_area *area, int64_t bytes) noexcept nogil
cdef uint64_t pages_over(zsw_engine *e, zsw_area *area, int64_t bytes) noexcept nogil


cdef inline void refund(zsw_area *area, int64_t bytes) noexcept nogil:
    """Takes back what was charged: it was not put in place, or the shard has counted it too."""
    if bytes > 0:
        zsw_add_i64(&area.used, -bytes)
