"""What an area may take of the pool, where it has a quota: see the .pxd."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from zswap_core.entries cimport entry_at
from zswap_core.entry cimport entry_same, is_entry, word_length
from zswap_core.index cimport area_figures, zsw_area, zsw_area_figures
from zswap_core.os cimport zsw_cas_i64, zsw_load_i64, zsw_peek_i64, zsw_peek_u64
from zswap_core.state cimport zsw_engine


cdef enum:
    SPARE_SHIFT = 6             # room is made for this share of the quota more (log2)


cdef int64_t slot_bytes(zsw_engine *e, uint32_t id) noexcept nogil:
    """What an entry that a slot holds takes of the pool; 0 also for what is no entry."""
    if not is_entry(id) or entry_same(entry_at(e, id)):
        return 0
    return word_length(zsw_peek_u64(&entry_at(e, id).word))


cdef bint charge(zsw_area *area, int64_t bytes, int64_t frees) noexcept nogil:
    """Adds to what the area uses, if its quota allows that once it has got rid of `frees`; what
    takes no more than it replaces always is."""
    cdef int64_t used, quota
    while True:
        used, quota = zsw_load_i64(&area.used), zsw_peek_i64(&area.quota)
        if quota >= 0 and bytes > frees and used + bytes - frees > quota:
            return False
        if zsw_cas_i64(&area.used, used, used + bytes):
            return True


cdef bint area_has_room(zsw_area *area, int64_t bytes) noexcept nogil:
    """Whether so many bytes more are within its quota."""
    cdef int64_t quota = zsw_peek_i64(&area.quota)
    return quota < 0 or zsw_load_i64(&area.used) + bytes <= quota


cdef uint64_t pages_over(zsw_engine *e, zsw_area *area, int64_t bytes) noexcept nogil:
    """How many of its pages must go for so many bytes, and some more so that not each store has to
    ask, if they take as much as the others on average."""
    cdef zsw_area_figures figures
    cdef int64_t quota = zsw_peek_i64(&area.quota), over
    over = zsw_load_i64(&area.used) + bytes - quota + (quota >> SPARE_SHIFT)
    area_figures(&e.index, area, &figures)
    if quota < 0 or over <= 0 or figures.bytes == 0:
        return 0
    return <uint64_t> (<double> (figures.pages - min(figures.pages, figures.same + figures.backed))
                       * over / figures.bytes) + 1
