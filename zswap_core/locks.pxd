from cpython.pythread cimport PyThread_type_lock


cdef class Lock:
    cdef PyThread_type_lock lock
    cdef bint reentrant
    cdef unsigned long owner        # and how often it has it; read by others only to be unequal
    cdef unsigned long depth
    cdef object __weakref__

    cdef int take(self) except -1
    cdef void give(self)
    cdef int renew(self) except -1
