"""The exceptions for what a call reports, and what they tell of: an engine with its objects."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from zswap_core.compressors.base cimport Compressor
from zswap_core.state cimport zsw_engine


cdef class Held:
    cdef Compressor compressor
    cdef int64_t calls              # that are about to give it a pool


cdef class Handle:
    cdef zsw_engine *e
    # id -> Held: all that pools may still use, whatever they think of being hashed or compared
    cdef dict compressors
    cdef Compressor compressor_     # the current one
    # by swap type: the area's Backing, or None.  As long as it ever gets: setting cannot fail
    cdef list stores


cdef object compressor_error(Handle engine)
cdef object backing_error(Handle engine, int rc, str what, uint32_t swap_type)
cdef object error_for(int status, int rc, uint64_t offset, uint32_t swap_type, Handle engine)
