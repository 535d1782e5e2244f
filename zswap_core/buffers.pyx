"""Buffers and arrays of offsets, as callers give them.

What is stored is bytes.  A buffer that holds references to Python objects is none: its bytes are
addresses, which mean nothing once their objects are gone, and writing over them takes references
that nobody counted.  So it is refused wherever a buffer is taken, by its format.
"""
from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_ND, PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_CheckBuffer,
    PyObject_GetBuffer,
)

import sys


# The attribute itself, as its type keeps it.
cdef extern from "Python.h":
    ctypedef object (*getter)(object obj, void *closure)

    ctypedef struct PyGetSetDef:
        getter get
        void *closure

    ctypedef struct PyGetSetDescrObject:
        PyGetSetDef *d_getset


# numpy's, once it is loaded: compressors do without it
cdef object array_type = None
cdef object array_dtype = None      # the attribute
cdef object plain_dtype = None      # the last one seen that has no objects


cdef bint is_array(object obj) noexcept:
    global array_type, array_dtype
    if array_type is None:
        array_type = getattr(sys.modules.get("numpy"), "ndarray", None)
        array_dtype = getattr(array_type, "dtype", None)
    return array_type is not None and isinstance(obj, array_type)


cdef bint array_names_objects(object array) except -1:
    """Whether the items of an array of numpy's are references.  Asked for each page: finding two
    attributes by their names took a fifth of a load."""
    global plain_dtype
    cdef PyGetSetDef *attribute = (<PyGetSetDescrObject *> array_dtype).d_getset
    cdef object dtype = attribute.get(array, attribute.closure)
    if dtype is not plain_dtype:
        if dtype.hasobject:
            return True
        plain_dtype = dtype
    return False


cdef bint names_objects(const char *format) noexcept:
    """Whether a buffer's format (PEP 3118) has an item of the kind O.  Between colons there are the
    names of fields."""
    cdef bint in_name = False
    while format != NULL and format[0]:
        if format[0] == c":":
            in_name = not in_name
        elif format[0] == c"O" and not in_name:
            return True
        format += 1
    return False


cdef object no_buffer(object obj, str name):
    hint = ""
    if isinstance(obj, (list, tuple)) or hasattr(obj, "__next__"):
        hint = f'; join them: b"".join({name}), or np.stack({name}) where they are arrays'
    elif isinstance(obj, str):
        hint = "; encode it first"
    return TypeError(f"{name} must be a buffer, such as bytes, a bytearray, a memoryview or an "
                     f"array, not {type(obj).__name__}{hint}")


cdef object of_objects(str name, object what):
    return TypeError(f"{name} holds references to Python objects ({what}), not bytes: store what "
                     "they refer to, for example by pickle.dumps")


cdef int take_buffer(object obj, str name, bint writable, Py_buffer *buffer) except -1:
    """The buffer of `obj`, checked to be C-contiguous, without references to objects and, where
    asked, writable.  To be released."""
    cdef int flags = PyBUF_WRITABLE if writable else PyBUF_SIMPLE
    if type(obj) is not bytes and type(obj) is not bytearray:
        if not PyObject_CheckBuffer(obj):
            raise no_buffer(obj, name)
        if is_array(obj):
            # By its dtype, as it has no format for some that are plain, such as dates; and because
            # this is faster.
            if array_names_objects(obj):
                raise of_objects(name, array_dtype.__get__(obj))
        else:
            flags |= PyBUF_ND | PyBUF_FORMAT
    try:
        PyObject_GetBuffer(obj, buffer, flags)
    except (BufferError, ValueError) as error:
        # numpy says ValueError, memoryview BufferError.
        need = "a writable C-contiguous" if writable else "a C-contiguous"
        hint = ""
        if "contiguous" in str(error):
            hint = ("; np.empty(shape, np.uint8) is one" if writable
                    else f"; np.ascontiguousarray({name}) makes one")
        elif writable and ("writable" in str(error) or "read-only" in str(error)):
            hint = "; a bytearray is one, or np.empty(shape, np.uint8)"
        raise ValueError(f"{name} must be {need} buffer: {error}{hint}") from None
    if flags & PyBUF_FORMAT and names_objects(buffer.format):
        what = buffer.format.decode("ascii", "replace")
        PyBuffer_Release(buffer)
        raise of_objects(name, f"format {what!r}")
    return 0


def plain_view(obj, name):
    """A memoryview of a buffer, C-contiguous or not, that holds no references to objects."""
    if not PyObject_CheckBuffer(obj):
        raise no_buffer(obj, name)
    if is_array(obj) and array_names_objects(obj):
        raise of_objects(name, array_dtype.__get__(obj))
    view = memoryview(obj)
    if names_objects(view.format.encode()):
        raise of_objects(name, f"format {view.format!r}")
    return view


cdef object integer_array(object offsets):
    """`offsets` as a one-dimensional array, of integers unless it is empty or of objects."""
    import numpy as np
    array = np.asarray(offsets)
    if array.ndim == 1:
        if array.size and array.dtype.kind not in "iuO":
            raise TypeError(f"offsets must be integers, not {array.dtype}")
        return array
    if array.ndim == 0 and array.dtype.kind not in "iu":
        raise TypeError("offsets must be a sequence or an array of integers, not "
                        f"{type(offsets).__name__}; list(offsets) makes one of what can be "
                        "iterated over, or np.fromiter(offsets, np.uint64)")
    raise ValueError(f"offsets must be one-dimensional, not of shape {array.shape}"
                     + ("; for a single one give a list of it" if array.ndim == 0
                        else "; np.ravel(offsets) is"))


# A typed memoryview does as much, and brings 20,000 lines of C into each module that has one.
cdef class Items:
    def __dealloc__(self):
        PyBuffer_Release(&self.buffer)          # does nothing to one that was not taken


cdef Items items_of(object obj, str name, Py_ssize_t size, bint writable=False):
    """The items of `obj`, a C-contiguous buffer of items of `size` bytes each."""
    cdef Items items = Items.__new__(Items)
    take_buffer(obj, name, writable, &items.buffer)
    items.at = items.buffer.buf
    if items.buffer.itemsize != size:
        raise ValueError(f"{name} has items of {items.buffer.itemsize} bytes; items of {size} are "
                         "needed")
    items.count = items.buffer.len // size
    return items
