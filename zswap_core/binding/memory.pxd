"""The binding of a memory, for what is built on it."""
from libc.stdint cimport uint64_t

from zswap_core.binding.results cimport Handle
from zswap_core.memory.state cimport zsw_memory


cdef class Region:
    cdef zsw_memory *m
    cdef Handle engine
    cdef object used                # what the engine uses, which the collector may take from it

    cdef int check(self) except -1
    cdef int span_of(self, uint64_t address, uint64_t size, uint64_t *first,
                     uint64_t *pages) except -1
    cdef object error(self, int rc, uint64_t first)
