from libc.stdint cimport uint32_t, uint64_t

from zswap_core.abi cimport zsw_backing_ops


# Since the store was opened, exact at rest.  Requests are system calls, or calls of a Python
# object's method.
cdef struct zsw_backing_counts:
    uint64_t written_pages
    uint64_t write_requests
    uint64_t write_failures     # calls of write_pages that returned an error
    uint64_t read_pages
    uint64_t read_requests
    uint64_t read_failures
    uint64_t discarded_pages
    uint64_t discard_failures
    uint64_t bounced_pages      # copied because the caller's memory was not aligned for O_DIRECT


cdef class Backing:
    # NULL until opened; what C code uses, with `state`, between attach() and detach()
    cdef const zsw_backing_ops *ops
    cdef void *state
    cdef uint32_t use                   # OPEN, ATTACHED or CLOSED
    cdef zsw_backing_counts counts
    cdef object __weakref__
    cdef readonly uint32_t page_size
    cdef readonly uint64_t nr_pages     # offsets are below this
    cdef readonly str name
    cdef public object last_error       # the exception behind the last failure, where there was one

    cpdef attach(self)
    cpdef detach(self)
    cdef int check(self) except -1
    cdef int erase(self) except -1
    cdef int wipe_freed(self, bint wipe) except -1
    cdef int release(self) except -1


# Values of Backing.use.  One word, so that attach and close cannot both win.
cdef enum:
    OPEN
    ATTACHED
    CLOSED


cdef object backing_error(Backing self, int rc, str what)
cdef uint32_t page_size_of(object page_size) except 0
cdef bint in_range(uint64_t nr_pages, const uint64_t *offsets, size_t n) noexcept nogil
