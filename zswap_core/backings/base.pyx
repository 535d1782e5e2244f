"""`Backing`: a zsw_backing_ops with its state, its description and its lifetime."""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport EBADMSG, EBUSY, EFBIG, EINVAL, EIO, ENOSPC, EPERM
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zswap_core.buffers cimport integer_array, take_buffer
from zswap_core.os cimport EKEYREJECTED, zsw_cas_u32, zsw_load_u32, zsw_peek_u64

import os

import numpy as np

from zswap_core.causes import recall
from zswap_core.errors import BackingError


cdef uint64_t OFFSET_LIMIT = <uint64_t> 1 << 47

cdef dict REMEDIES = {
    EBADMSG: "what is there is not what was written: the device failed, or something else has "
             "written to the file; see the system log, and use a new swap file",
    EFBIG: "raise the limit on file sizes (ulimit -f), or use a smaller swap file",
    EIO: "the device failed, or the file was changed behind zswap's back: see the system log, then "
         "use a new swap file",
    EKEYREJECTED: "libcrypto could not encrypt or decrypt: see the system log, then use a new swap "
                  "file",
    ENOSPC: "free space on its file system, or use a smaller swap file",
    EPERM: "after a fork it belongs to the parent process; open a swap file of your own",
}


cdef object backing_error(Backing self, int rc, str what):
    """The exception for a failure that a table's function returned; `what` names the operation and
    its pages."""
    cause = recall(self)
    if cause is None:
        remedy = REMEDIES.get(-rc)
        why = os.strerror(-rc) + (f"; {remedy}" if remedy else "")
    else:
        why = f"{type(cause).__name__}: {cause}"
    error = BackingError(-rc, f"{self.name}: cannot {what}: {why}")
    error.__cause__ = cause
    return error


cdef uint32_t page_size_of(object page_size) except 0:
    if page_size not in (4096, 16384, 65536):
        raise ValueError(f"page_size is {page_size}; 4096, 16384 or 65536 is needed")
    return page_size


cdef bint in_range(uint64_t nr_pages, const uint64_t *offsets, size_t n) noexcept nogil:
    cdef size_t i
    for i in range(n):
        if offsets[i] >= nr_pages:
            return False
    return True


cdef object offset_array(object offsets):
    """`offsets` as a contiguous uint64 array."""
    array = integer_array(offsets)
    if array.size == 0:
        return np.empty(0, np.uint64)
    if array.dtype.kind == "O":
        raise TypeError(f"offsets must be integers, not {array.dtype}")
    if array.min() < 0 or array.max() >= OFFSET_LIMIT:
        bad = array.min() if array.min() < 0 else array.max()
        raise ValueError(f"offset {bad} is out of range: a page number from 0 to 2**47 - 1 is "
                         "needed")
    return np.ascontiguousarray(array, np.uint64)


cdef enum Operation:
    WRITE
    READ
    DISCARD


cdef int perform(Backing self, Operation operation, object offsets, object pages) except -1:
    """One call of the store's function, with the GIL released, as the engine does it."""
    cdef Py_buffer numbers, memory
    cdef size_t n
    cdef int rc = 0
    self.check()
    if operation != READ and zsw_load_u32(&self.use) == ATTACHED:
        raise BackingError(EBUSY, f"{self.name}: an engine keeps its pages here; only the engine "
                                  "may change them")
    array = offset_array(offsets)
    n = array.size
    if n == 0:
        return 0
    self.last_error = None
    PyObject_GetBuffer(array, &numbers, PyBUF_SIMPLE)
    try:
        if operation == DISCARD:
            with nogil:
                self.ops.discard(self.state, <const uint64_t *> numbers.buf, n)
            return 0
        take_buffer(pages, "out" if operation == READ else "pages", operation == READ, &memory)
        try:
            # The other way round, n * page_size could wrap.
            if (<size_t> memory.len % self.page_size != 0
                    or <size_t> memory.len // self.page_size != n):
                raise ValueError(f"{n} pages of {self.page_size} bytes are needed, not "
                                 f"{memory.len} bytes")
            with nogil:
                if operation == WRITE:
                    rc = self.ops.write_pages(self.state, <const uint64_t *> numbers.buf,
                                              <const uint8_t *> memory.buf, n)
                else:
                    rc = self.ops.read_pages(self.state, <const uint64_t *> numbers.buf,
                                             <uint8_t *> memory.buf, n)
        finally:
            PyBuffer_Release(&memory)
    finally:
        PyBuffer_Release(&numbers)
    if rc == -EINVAL and array.max() >= self.nr_pages:
        raise ValueError(f"{self.name}: offset {array.max()} is out of range: it has "
                         f"{self.nr_pages} pages")
    if rc < 0:
        verb = "write" if operation == WRITE else "read"
        where = (f"the page at offset {array[0]}" if n == 1
                 else f"{n} pages between offsets {array.min()} and {array.max()}")
        raise backing_error(self, rc, f"{verb} {where}")
    return 0


cdef class Backing:
    """Where an engine keeps pages that leave its pool: a `SwapFile`, or a `PythonBacking`.

    The engine uses the C functions behind it.  The methods here go through those same functions.
    All of them may be called from any thread.  As a context manager it is closed at the end.

    Attributes
    ----------
    name : str
        What messages call it.
    page_size : int
        Bytes in a page.
    nr_pages : int
        How many pages there is room for: offsets are below this.
    closed, attached : bool
        Whether it was closed, and whether an engine uses it now.
    last_error : BaseException or None
        The exception behind the latest failure of a store written in Python.
    """

    def __init__(self):
        raise TypeError("use SwapFile, PythonBacking or open_backing()")

    def __enter__(self):
        self.check()
        return self

    def __exit__(self, *exception):
        self.close()

    def __reduce__(self):
        raise TypeError(f"a {type(self).__name__} can be neither copied nor pickled: it is a store "
                        "of this process; another process opens one of its own")

    @property
    def closed(self):
        return zsw_load_u32(&self.use) == CLOSED

    @property
    def attached(self):
        return zsw_load_u32(&self.use) == ATTACHED

    # ---- pages -----------------------------------------------------------------------------------

    def write_pages(self, offsets, pages):
        """Write pages.

        Parameters
        ----------
        offsets : array_like of int, shape (n,)
            Where each goes.  Fastest in ascending order: consecutive offsets are written together.
        pages : bytes-like
            The n pages, one after another, in C-contiguous memory.

        Raises
        ------
        BackingError
            Nothing counts as written: each of these pages holds its old content, the new, or a part
            of each.  Also when an engine uses the store.
        ValueError
            An offset is out of range, `pages` has a wrong length, or the store is closed.
        """
        perform(self, WRITE, offsets, pages)

    def read_pages(self, offsets, out):
        """Read pages.  One of a `SwapFile` that was never written reads as zeros.

        Parameters
        ----------
        offsets : array_like of int, shape (n,)
            Where each lies.
        out : writable bytes-like
            Room for the n pages, one after another, in C-contiguous memory.

        Raises
        ------
        BackingError
            A page cannot be read; `out` is undefined then.
        ValueError
            An offset is out of range, `out` has a wrong length, or the store is closed.
        """
        perform(self, READ, offsets, out)

    def discard_pages(self, offsets):
        """Say that pages are no longer wanted: a hint, which never fails and leaves them undefined.

        Parameters
        ----------
        offsets : array_like of int, shape (n,)
            Where they lie.
        """
        perform(self, DISCARD, offsets, None)

    def stats(self):
        """Return what was done since the store was opened: a dict of counts, exact when no call is
        under way."""
        cdef zsw_backing_counts now
        cdef size_t i
        # each word whole, though calls may be counting
        for i in range(sizeof(now) // sizeof(uint64_t)):
            (<uint64_t *> &now)[i] = zsw_peek_u64(<uint64_t *> &self.counts + i)
        figures = dict(now)
        figures["written_bytes"] = figures["written_pages"] * self.page_size
        figures["read_bytes"] = figures["read_pages"] * self.page_size
        return figures

    # ---- lifetime --------------------------------------------------------------------------------

    cpdef attach(self):
        """Reserve the store for one engine (or one swap area of it), until `detach`."""
        self.check()
        if not zsw_cas_u32(&self.use, OPEN, ATTACHED):
            self.check()
            raise BackingError(EBUSY, f"{self.name}: already used by an engine; one backing store "
                                      "serves one swap area")

    cpdef detach(self):
        """End what `attach` began; nothing when nothing began."""
        zsw_cas_u32(&self.use, ATTACHED, OPEN)

    def close(self):
        """Close the store, once all calls under way have ended; a second time does nothing.

        Raises
        ------
        BackingError
            An engine uses it.
        """
        if zsw_cas_u32(&self.use, OPEN, CLOSED):
            self.release()
        elif self.attached:
            raise BackingError(EBUSY, f"{self.name}: in use by an engine; close the engine or "
                                      "swapoff the area first")

    cdef int check(self) except -1:
        """Raise where the store cannot be used."""
        if self.ops == NULL:
            raise ValueError("this backing store was never opened")
        if zsw_load_u32(&self.use) == CLOSED:
            raise ValueError(f"{self.name} is closed; open it anew")
        return 0

    cdef int erase(self) except -1:
        """Drop every page, where a store can do that at once."""
        return 0

    cdef int wipe_freed(self, bint wipe) except -1:
        """Whether what is left of freed pages has to be overwritten, should it not be anyway."""
        return 0

    cdef int release(self) except -1:
        """What else there is to do at close."""
        return 0
