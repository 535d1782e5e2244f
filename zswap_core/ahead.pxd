"""Looking ahead in a batch, so that its cache misses overlap."""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.state cimport zsw_engine


cdef enum:
    # looked at in one go: about as many misses as a processor waits for at a time
    AHEAD_PAGES = 16
    AHEAD_FROM = 1 << 10        # entries in use; with fewer, caches hold what a load needs


cdef void look_ahead(zsw_engine *e, uint32_t type, const uint64_t *offsets, uint32_t pages,
                     bint storing) noexcept nogil
