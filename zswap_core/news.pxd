"""What is worth a line in a log, noticed where it happens: by threads that may not ask for the GIL.

The binding compares `zsw_engine.news` after a call with what it saw there before, and then looks at
what has changed.
"""
from libc.stdint cimport uint32_t

from zswap_core.os cimport zsw_add_u32, zsw_peek_u32, zsw_poke_u32, zsw_unlikely
from zswap_core.state cimport zsw_engine


cdef inline void note_full(zsw_engine *e) noexcept nogil:
    """The limit was hit, for the first time or since the accept threshold was reached."""
    zsw_add_u32(&e.times_full, 1)
    zsw_add_u32(&e.news, 1)


cdef inline void note_answer(zsw_engine *e, uint32_t *last, int rc) noexcept nogil:
    """A backing store has answered a write, or a read: 0 or -errno, which goes to the area's
    `write_error` or `read_error`."""
    if zsw_unlikely(zsw_peek_u32(last) != <uint32_t> -rc):
        zsw_poke_u32(last, <uint32_t> -rc)
        zsw_add_u32(&e.news, 1)
