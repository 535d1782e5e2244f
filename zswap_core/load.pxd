"""Load, and what can be asked of a page without loading it."""
from libc.stdint cimport int8_t, int64_t, uint8_t, uint32_t, uint64_t

from zswap_core.ahead cimport AHEAD_PAGES
from zswap_core.index cimport zsw_area, zsw_shard
from zswap_core.parking cimport zsw_parking
from zswap_core.slots cimport zsw_held
from zswap_core.state cimport zsw_engine, zsw_worker


cdef enum:
    LENGTH_BACKED = -2
    LOAD_TAKE = 1               # free the page, and give it to this call alone
    # rather than wait for a backing store or another call, WOULD_BLOCK: the caller holds the GIL
    LOAD_NO_WAIT = 2
    LOAD_ZEROS = 4              # of which a page is that is absent, in an area that could hold it
    LOAD_ALONE = 8              # read nothing else with it: a batch has said what it wants
    LOADS_TOGETHER = AHEAD_PAGES        # pages held at a time by a batch
    OPTIMISTIC_READS = 8        # of one page from a backing store, before it keeps writers away


cdef int engine_load(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset, uint8_t *page,
                     uint32_t how) noexcept nogil
cdef int engine_take(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset, uint8_t *page,
                     uint32_t how) noexcept nogil
cdef bint hold_entry(zsw_engine *e, zsw_worker *w, const zsw_shard *shard, uint32_t id,
                     zsw_held *held) noexcept nogil
cdef int read_entry(zsw_engine *e, zsw_worker *w, const zsw_held *held,
                    uint8_t *page) noexcept nogil
cdef int load_page(zsw_engine *e, zsw_worker *w, uint32_t type, uint64_t offset, uint8_t *page,
                   uint32_t how) noexcept nogil
cdef void engine_load_together(zsw_engine *e, zsw_worker *w, uint32_t type, const uint64_t *offsets,
                               uint32_t pages, uint8_t *out, int8_t *status, uint64_t *took,
                               zsw_parking *parking, uint64_t at) noexcept nogil
cdef void load_parked(zsw_engine *e, zsw_worker *w, zsw_parking *parking, uint8_t *out,
                      int8_t *status) noexcept nogil
cdef bint engine_contains(zsw_engine *e, uint32_t type, uint64_t offset) noexcept nogil
cdef int64_t engine_value_length(zsw_engine *e, uint32_t type, uint64_t offset) noexcept nogil
cdef int64_t engine_length(zsw_engine *e, uint32_t type, uint64_t offset) noexcept nogil
