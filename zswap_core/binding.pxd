# cython: language_level=3
"""Where the engine lies that an object of Python holds, for what is compiled beside it."""
from zswap_core.state cimport zsw_engine


cdef class Handle:
    cdef zsw_engine *e
