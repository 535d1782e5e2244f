"""Whom an engine tells of pages that have left the pool: a callable of Python's."""
from libc.stdint cimport uint32_t, uint64_t


cdef class Ear:
    cdef object callback            # or None
    cdef object engine              # a weak reference
    cdef uint64_t failures

    cdef int hear(self, uint32_t type, const uint64_t *offsets, size_t n) except -1


cdef void tell_ear(void *ear, uint32_t type, const uint64_t *offsets, size_t n) noexcept nogil
