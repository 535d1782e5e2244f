"""Any Python object as a backing store.

Binding-side code: these are the only functions of a backing store that take the GIL.  An exception
in the object is never printed; the call fails, and the exception is kept in `last_error` for
whoever reports the failure.
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_SetInterrupt
from libc.errno cimport EINVAL, EIO
from libc.stdint cimport SIZE_MAX, uint8_t, uint64_t
from libc.string cimport memcpy

from zswap_core.abi cimport ZSW_ABI_VERSION, zsw_backing_ops
from zswap_core.backings.base cimport Backing, in_range, page_size_of
from zswap_core.interpreter cimport zsw_python_is_gone, zsw_stack_is_short
from zswap_core.os cimport zsw_add_u64

import numpy as np

from zswap_core import causes


cdef int copy_in(object array, const void *src, size_t size) except -1:
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_WRITABLE)
    memcpy(view.buf, src, size)
    PyBuffer_Release(&view)
    array.setflags(write=False)
    return 0


cdef int copy_out(object array, void *dst, size_t size) except -1:
    cdef Py_buffer view
    cdef size_t length
    PyObject_GetBuffer(array, &view, PyBUF_SIMPLE)
    length = view.len
    if length == size:
        memcpy(dst, view.buf, size)
    PyBuffer_Release(&view)
    if length != size:                          # ndarray.resize
        raise ValueError(f"read_pages has changed the length of `out` to {length} bytes; {size} "
                         "are needed")
    return 0


cdef class PythonBacking(Backing):
    """A backing store made of a Python object.

    Parameters
    ----------
    obj : object
        Has the methods ``write_pages(offsets, pages)``, which keeps the pages and returns None or
        raises, and ``read_pages(offsets, out)``, which fills all of `out` and returns None, or
        raises.  `offsets` is a read-only uint64 array, ascending in calls of the engine; `pages` a
        read-only and `out` a writable uint8 array of shape (n, page_size).  Two things are
        optional: ``discard_pages(offsets)``, a hint that these pages are no longer wanted, and
        ``nr_pages``, an int, how many pages there is room for (without it any offset will do).
    page_size : int, default 4096

    Raises
    ------
    TypeError
        A method is missing.
    ValueError
        `nr_pages` or `page_size` is out of range.

    Notes
    -----
    The arrays are copies that belong to the object, which may keep them.  A view of the engine's
    memory that an object kept would outlive that memory, and nothing can take back a view that
    numpy has taken.

    The methods are called with the GIL held, from any thread, also from several at once; but writes
    to all the stores of an engine come one at a time.  When one raises an OSError, its errno is
    what the engine sees; any other exception counts as EIO.

    They may call the engine back, though not for the pages that they were given.  None may wait for
    another thread's call of the engine: that thread may be waiting for this one, also a reader's,
    which keeps writers away once it has been overtaken a few times.
    """

    cdef readonly object obj

    def __init__(self, obj, page_size=4096):
        if self.ops != NULL:
            raise TypeError("a PythonBacking does not change")
        for method in ("write_pages", "read_pages"):
            if not callable(getattr(obj, method, None)):
                raise TypeError("a backing store is a path, a SwapFile or an object with "
                                "write_pages(offsets, pages) and read_pages(offsets, out); "
                                f"{type(obj).__name__} has no {method}")
        nr_pages = getattr(obj, "nr_pages", None)
        if nr_pages is None:
            nr_pages = 1 << 47
        elif isinstance(nr_pages, bool) or not isinstance(nr_pages, int):
            raise TypeError(f"nr_pages of {type(obj).__name__} is {nr_pages!r}; an int or None is "
                            "needed")
        elif not 1 <= nr_pages <= 1 << 47:
            raise ValueError(f"nr_pages of {type(obj).__name__} is {nr_pages}; 1 to 2**47 is "
                             "needed")
        self.page_size = page_size_of(page_size)
        self.nr_pages = nr_pages
        self.name = f"backing store {type(obj).__name__}"
        self.obj = obj
        # Borrowed: this object lives as long as anyone may call the table.
        self.state = <void *> self
        self.ops = &PYTHON

    def __repr__(self):
        return f"<PythonBacking of {self.obj!r}{', closed' if self.closed else ''}>"

    cdef int call_write(self, const uint64_t *offsets, const uint8_t *pages, size_t n) noexcept:
        try:
            if zsw_stack_is_short():
                raise causes.out_of_stack()
            numbers = np.empty(n, np.uint64)
            copy_in(numbers, offsets, n * sizeof(uint64_t))
            data = np.empty((n, self.page_size), np.uint8)
            copy_in(data, pages, n * self.page_size)
            result = self.obj.write_pages(numbers, data)
            # A coroutine that nobody awaits, or a count of what was kept: that must not pass for
            # all of them.
            if result is not None:
                raise TypeError(f"write_pages returned {type(result).__name__}; it must keep the "
                                "pages and return None, or raise")
        except BaseException as error:
            return self.remember(error)
        return 0

    cdef int call_read(self, const uint64_t *offsets, uint8_t *pages, size_t n) noexcept:
        try:
            if zsw_stack_is_short():
                raise causes.out_of_stack()
            numbers = np.empty(n, np.uint64)
            copy_in(numbers, offsets, n * sizeof(uint64_t))
            out = np.zeros((n, self.page_size), np.uint8)
            result = self.obj.read_pages(numbers, out)
            # An object that returns the pages has most likely not filled `out`: that must not read
            # as zeros.
            if result is not None:
                raise TypeError(f"read_pages returned {type(result).__name__}; it must fill `out` "
                                "and return None")
            copy_out(out, pages, n * self.page_size)
        except BaseException as error:
            return self.remember(error)
        return 0

    cdef int call_discard(self, const uint64_t *offsets, size_t n) noexcept:
        try:
            if zsw_stack_is_short():
                raise causes.out_of_stack()
            discard = getattr(self.obj, "discard_pages", None)
            if discard is not None:
                numbers = np.empty(n, np.uint64)
                copy_in(numbers, offsets, n * sizeof(uint64_t))
                discard(numbers)
        except BaseException as error:
            return self.remember(error)
        return 0

    cdef int remember(self, object error) noexcept:
        """Keep the exception, and say it as -errno."""
        self.last_error = error
        try:
            causes.remember(self, error)
        except MemoryError:                     # then the failure has no cause to show
            pass
        if isinstance(error, KeyboardInterrupt):
            PyErr_SetInterrupt()  # raise it again once control is back in the user's code
        code = error.errno if isinstance(error, OSError) else None
        return -<int> code if isinstance(code, int) and 0 < code < 4096 else -EIO


cdef int write_pages(void *store, const uint64_t *offsets, const uint8_t *pages,
                     size_t n) noexcept nogil:
    cdef int rc
    # Python would end a thread that asks for the GIL during its shutdown.
    if zsw_python_is_gone():
        return -EIO
    with gil:
        self = <PythonBacking> store
        rc = self.call_write(offsets, pages, n) if callable_for(self, offsets, n) else -EINVAL
        count(&self.counts.write_requests, &self.counts.written_pages, &self.counts.write_failures,
              n, rc)
    return rc


cdef int read_pages(void *store, const uint64_t *offsets, uint8_t *pages, size_t n) noexcept nogil:
    cdef int rc
    if zsw_python_is_gone():
        return -EIO
    with gil:
        self = <PythonBacking> store
        rc = self.call_read(offsets, pages, n) if callable_for(self, offsets, n) else -EINVAL
        count(&self.counts.read_requests, &self.counts.read_pages, &self.counts.read_failures, n,
              rc)
    return rc


cdef void discard(void *store, const uint64_t *offsets, size_t n) noexcept nogil:
    cdef int rc
    cdef uint64_t requests = 0
    if zsw_python_is_gone():
        return
    with gil:
        self = <PythonBacking> store
        rc = self.call_discard(offsets, n) if callable_for(self, offsets, n) else -EINVAL
        count(&requests, &self.counts.discarded_pages, &self.counts.discard_failures, n, rc)


cdef bint callable_for(PythonBacking self, const uint64_t *offsets, size_t n) noexcept:
    return n <= (SIZE_MAX >> 1) // self.page_size and in_range(self.nr_pages, offsets, n)


cdef void count(uint64_t *requests, uint64_t *pages, uint64_t *failures, size_t n,
                int rc) noexcept nogil:
    zsw_add_u64(requests, 1)
    zsw_add_u64(failures if rc < 0 else pages, 1 if rc < 0 else n)


cdef zsw_backing_ops PYTHON = zsw_backing_ops(
    abi_version=ZSW_ABI_VERSION,
    struct_size=sizeof(zsw_backing_ops),
    name="python",
    flags=0,
    write_pages=write_pages,
    read_pages=read_pages,
    discard=discard,
    destroy=NULL,
    write_objects=NULL,
    uses=NULL,
    tidy=NULL,
)
