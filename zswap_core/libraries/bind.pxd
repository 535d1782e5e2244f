cdef class Library:
    cdef void *handle
    cdef readonly str library
    cdef readonly str path
    cdef readonly str origin
    cdef readonly str version

    cdef void *symbol(self, str name) except NULL


cpdef Library open_library(object source, object path=*)
