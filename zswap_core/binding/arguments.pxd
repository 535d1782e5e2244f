"""What Python hands over, checked and made raw."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from zswap_core.vectors cimport zsw_buffer


cdef class View:
    cdef Py_buffer buffer
    cdef bint held


cdef class Buffers:
    cdef list views             # that hold them
    cdef zsw_buffer *rows
    cdef size_t count


cdef Buffers buffers_of(object buffers, bint writable)
cdef object as_int(object value, str name)
cdef uint64_t as_offset(object offset) except? 0xffffffffffffffff
cdef int64_t as_quota(object quota) except? -2
cdef uint64_t as_stop(object stop) except? 0xffffffffffffffff
cdef uint32_t as_type(object swap_type) except? 0xffffffff
cdef int take_pages(object obj, str name, Py_ssize_t size, bint writable,
                    Py_buffer *buffer) except -1
cdef bint boolean_of(object value, str name) except -1
cdef int check_value(str name, Py_ssize_t size, Py_ssize_t most) except -1
cdef int take_value(object obj, str name, Py_ssize_t most, Py_buffer *buffer) except -1
cdef View view_of(object obj, str name, Py_ssize_t size, bint writable)
cdef View offsets_of(object offsets)
cdef bint wants_zeros(object absent) except -1
cdef int thread_count(object threads) except -1
cdef uint32_t idle_of(object seconds) except? 0xffffffff
