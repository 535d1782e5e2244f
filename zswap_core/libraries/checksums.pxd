from zswap_core.checksum cimport zsw_checksum
from zswap_core.libraries.bind cimport Library


cdef class Checksum:
    cdef zsw_checksum c
    cdef Library library
    cdef readonly str name
