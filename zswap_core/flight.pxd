"""Flights: batches of pages on their way from the pools to the backing stores."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zswap_core.index cimport zsw_area, zsw_shard
from zswap_core.os cimport zsw_peek_u32
from zswap_core.state cimport WRITEBACK_BATCH, zsw_engine, zsw_flight, zsw_worker, zsw_writeback


cdef enum:
    FLIGHT_BYTES = 1 << 20              # of pages, however large one is, at most


cdef int flights_init(zsw_engine *e) noexcept nogil
cdef void flights_destroy(zsw_engine *e) noexcept nogil
cdef void flights_rest(zsw_engine *e) noexcept nogil
cdef int write_to(const zsw_area *area, const uint64_t *offsets, const uint8_t *pages,
                  size_t n) noexcept nogil
cdef void call_pilot(zsw_engine *e) noexcept nogil
cdef bint is_aloft(const zsw_writeback *wb, const zsw_area *area, uint64_t offset) noexcept nogil
cdef void flight_load(zsw_engine *e, zsw_worker *w, zsw_flight *flight) noexcept nogil
cdef void flight_start(zsw_engine *e, zsw_flight *flight) noexcept nogil
cdef void give_way(zsw_engine *e, zsw_worker *w, uint32_t id, zsw_shard *shard,
                   uint32_t *slot) noexcept nogil
cdef uint32_t flight_land(zsw_engine *e, zsw_worker *w) noexcept nogil
cdef void flight_cancel(zsw_engine *e, zsw_worker *w, zsw_flight *flight) noexcept nogil


cdef inline uint32_t flight_room(const zsw_engine *e) noexcept nogil:
    """Pages in a full flight."""
    return zsw_peek_u32(&e.flight_room)


cdef inline bint flight_has(const zsw_flight *flight, const zsw_area *area,
                            uint64_t offset) noexcept nogil:
    """Whether the page is one of the flight's."""
    cdef uint32_t i
    for i in range(flight.count):
        if flight.victims[i].offset == offset and flight.victims[i].area == area:
            return True
    return False
