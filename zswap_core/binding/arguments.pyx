"""What Python hands over, checked and made raw: numbers, buffers, arrays of offsets."""
from cpython.buffer cimport PyBuffer_Release
from cpython.long cimport PyLong_CheckExact
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.number cimport PyNumber_Index
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from zswap_core.buffers cimport integer_array, take_buffer
from zswap_core.entry cimport ENTRY_AGE_MAX
from zswap_core.state cimport MAX_AREAS, MAX_OFFSET_SHIFT

import numpy as np


cdef object UINT64 = np.dtype(np.uint64), INT64 = np.dtype(np.int64)
cdef uint64_t OFFSET_LIMIT = <uint64_t> 1 << MAX_OFFSET_SHIFT


# Declared here for its second argument.
cdef extern from "Python.h":
    int64_t PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1


cdef object as_int(object value, str name):
    """The int that a value is, by __index__; what that raises itself goes through."""
    try:
        return PyNumber_Index(value)
    except TypeError:
        if hasattr(type(value), "__index__") and not hasattr(value, "ndim"):
            raise
        hint = ("; store_many, load_many and invalidate_many take many of them" if name == "offset"
                else "")
        raise TypeError(f"{name} must be an int, not {type(value).__name__}{hint}") from None


cdef uint64_t as_offset(object offset) except? 0xffffffffffffffff:
    cdef int beyond
    cdef int64_t value
    if not PyLong_CheckExact(offset):
        offset = as_int(offset, "offset")
    value = PyLong_AsLongLongAndOverflow(offset, &beyond)
    if beyond or value < 0 or <uint64_t> value >= OFFSET_LIMIT:
        raise ValueError(f"offset {offset} is out of range: a page number from 0 to "
                         f"2**{MAX_OFFSET_SHIFT} - 1 is needed")
    return <uint64_t> value


cdef uint64_t as_stop(object stop) except? 0xffffffffffffffff:
    """One past the last offset of a range."""
    stop = as_int(stop, "stop")
    if stop < 0 or stop > OFFSET_LIMIT:
        raise ValueError(f"stop {stop} is out of range: 0 to 2**{MAX_OFFSET_SHIFT} is needed")
    return stop


cdef uint32_t as_type(object swap_type) except? 0xffffffff:
    cdef int beyond
    cdef int64_t value
    if not PyLong_CheckExact(swap_type):
        swap_type = as_int(swap_type, "swap_type")
    value = PyLong_AsLongLongAndOverflow(swap_type, &beyond)
    if beyond or value < 0 or value >= MAX_AREAS:
        raise ValueError(f"swap_type {swap_type} is out of range: 0 to {MAX_AREAS - 1} is needed")
    return <uint32_t> value


cdef int64_t as_quota(object quota) except? -2:
    """Bytes, or -1 for None."""
    if quota is None:
        return -1
    quota = as_int(quota, "quota_bytes")
    if quota < 0:
        raise ValueError(f"quota_bytes is {quota}; it cannot be negative, and None is no quota")
    return min(quota, 1 << 62)


cdef int take_pages(object obj, str name, Py_ssize_t size, bint writable,
                    Py_buffer *buffer) except -1:
    """As take_buffer, and checked to be of `size` bytes."""
    cdef Py_ssize_t length
    take_buffer(obj, name, writable, buffer)
    if buffer.len != size:
        length = buffer.len
        PyBuffer_Release(buffer)
        hint = ""
        if name == "page":
            hint = ('; pad it, as page.ljust(page_size, b"\\0") does with bytes' if length < size
                    else "; cut it into pages, and store_many takes them all at once")
        raise ValueError(f"{name} is {length} bytes long; {size} are needed{hint}")
    return 0


cdef bint boolean_of(object value, str name) except -1:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} is {value!r}; True or False is needed")
    return bool(value)


cdef int check_value(str name, Py_ssize_t size, Py_ssize_t most) except -1:
    if not 0 < size <= most:
        raise ValueError(f"{name} is {size} bytes long; a value has 1 to {most}")
    return 0


cdef int take_value(object obj, str name, Py_ssize_t most, Py_buffer *buffer) except -1:
    """As take_buffer, and checked to be of 1 to `most` bytes."""
    take_buffer(obj, name, False, buffer)
    try:
        check_value(name, buffer.len, most)
    except ValueError:
        PyBuffer_Release(buffer)
        raise
    return 0


cdef class View:
    """A buffer, held as long as this is."""

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.buffer)


cdef View view_of(object obj, str name, Py_ssize_t size, bint writable):
    cdef View view = View.__new__(View)
    take_pages(obj, name, size, writable, &view.buffer)
    view.held = True
    return view


cdef class Buffers:
    """Several buffers, held as long as this is."""

    def __dealloc__(self):
        PyMem_Free(self.rows)


cdef Buffers buffers_of(object buffers, bint writable):
    cdef Buffers held = Buffers.__new__(Buffers)
    cdef View view
    if isinstance(buffers, (bytes, bytearray, memoryview, str)):
        raise TypeError(f"buffers is a {type(buffers).__name__}; a sequence of buffers is needed, "
                        "such as a list of one")
    held.views = []
    for number, obj in enumerate(buffers):
        view = View.__new__(View)
        take_buffer(obj, f"buffers[{number}]", writable, &view.buffer)
        view.held = True
        held.views.append(view)
    held.rows = <zsw_buffer *> PyMem_Malloc((len(held.views) + 1) * sizeof(zsw_buffer))
    if held.rows == NULL:
        raise MemoryError
    for view in held.views:
        held.rows[held.count].data = <uint8_t *> view.buffer.buf
        held.rows[held.count].bytes = <size_t> view.buffer.len
        held.count += 1
    return held


cdef object wide_integers(object array):
    """As an array of 64-bit integers, signed or not."""
    if array.dtype.kind == "O" and array.size:
        for bad in array.tolist():
            if isinstance(bad, int):
                as_offset(bad)              # too large for an array, and no offset either
        raise TypeError(f"offsets must be integers, not {array.dtype}")
    return array.astype(UINT64 if array.dtype.kind == "u" else INT64)


cdef View offsets_of(object offsets):
    """`offsets` as uint64, every one checked."""
    cdef View view
    cdef const uint64_t *at
    cdef uint64_t i, n, bits = 0
    array = integer_array(offsets)
    if array.dtype is not UINT64 and array.dtype is not INT64:
        array = wide_integers(array)
    if array.strides[0] != 8:
        array = np.ascontiguousarray(array)
    n = len(array)
    view = view_of(array, "offsets", n * 8, False)
    at = <const uint64_t *> view.buffer.buf
    for i in range(n):
        # the limit is a power of two; what was negative is beyond it
        bits |= at[i]
    if bits >= OFFSET_LIMIT:
        for bad in (array.min(), array.max()):
            as_offset(int(bad))
    return view


cdef bint wants_zeros(object absent) except -1:
    """Whether a page that is absent is one of zeros."""
    if isinstance(absent, str):
        if absent == "raise":
            return False
        if absent == "zeros":
            return True
    raise ValueError(f"absent is {absent!r}; 'raise' or 'zeros' is needed")


cdef int thread_count(object threads) except -1:
    threads = as_int(threads, "threads")
    if threads < 1:
        raise ValueError(f"threads is {threads}; at least 1 is needed")
    return min(threads, 64)


cdef uint32_t idle_of(object seconds) except? 0xffffffff:
    """`idle_seconds` as the engine takes it: 0 for None."""
    if seconds is None:
        return 0
    seconds = as_int(seconds, "idle_seconds")
    if not 0 < seconds <= ENTRY_AGE_MAX:
        raise ValueError(f"idle_seconds is {seconds}; 1 to {<int> ENTRY_AGE_MAX} (45 days) is "
                         "needed")
    return seconds
