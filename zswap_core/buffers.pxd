# cython: language_level=3
"""Buffers and arrays of offsets, as callers give them: taken at one place, so that each is refused with the same words."""


cdef int take_buffer(object obj, str name, bint writable, Py_buffer *buffer) except -1
cdef object integer_array(object offsets)
