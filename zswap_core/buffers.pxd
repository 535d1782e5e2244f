"""Buffers and arrays of offsets, as callers give them: taken at one place, so that each is refused
with the same words."""


cdef int take_buffer(object obj, str name, bint writable, Py_buffer *buffer) except -1
cdef object integer_array(object offsets)


cdef class Items:
    """The numbers in a buffer, held as long as this is."""
    cdef Py_buffer buffer
    cdef void *at
    cdef Py_ssize_t count


cdef Items items_of(object obj, str name, Py_ssize_t size, bint writable=*)
