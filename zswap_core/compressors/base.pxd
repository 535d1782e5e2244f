from zswap_core.abi cimport zsw_compressor, zsw_compressor_ops
from zswap_core.libraries.bind cimport Library


cdef class Compressor:
    cdef zsw_compressor c          # what C code uses, for as long as this object lives
    cdef zsw_compressor_ops whole  # in place of a table that is shorter than today's
    cdef bint owns_state           # then the table's destroy() ends it
    cdef object keep               # whatever else must outlive the functions
    cdef object __weakref__
    cdef readonly str name
    cdef readonly str spec
    cdef readonly object level
    cdef readonly bytes dictionary
    cdef readonly str library
    cdef readonly str version
    cdef readonly str path
    cdef readonly str origin
    cdef public object last_error  # the exception behind the last failure, where there was one


cdef void *new_state(size_t size) except NULL
cdef void free_state(void *state) noexcept nogil
cdef Compressor new_compressor(const zsw_compressor_ops *ops, void *state, str name, object level,
                               Library library, bytes dictionary=*)
cpdef str spec_of(str name, object level, object dictionary=*)
cpdef str dictionary_id(object dictionary)
