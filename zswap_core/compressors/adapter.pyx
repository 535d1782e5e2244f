"""Two Python callables as a compressor.

Binding-side code: these are the only compressor functions that take the GIL.  An exception in a
callable is never printed; the page fails, and the exception is kept in `last_error` for whoever
reports the failure.
"""
from cpython.buffer cimport PyBuffer_Release
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_SetInterrupt
from libc.errno cimport EBADMSG, EIO
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy

from zswap_core.abi cimport ZSW_ABI_VERSION, zsw_compressor_ops, ZSW_COMPRESSOR_WHOLE_PAGES
from zswap_core.buffers cimport take_buffer
from zswap_core.compressors.base cimport Compressor, spec_of
from zswap_core.interpreter cimport zsw_python_is_gone, zsw_stack_is_short

from zswap_core import causes


cdef class PythonCompressor(Compressor):
    """A compressor made of two callables.

    Parameters
    ----------
    name : str
    compress : callable
        ``compress(data: bytes) -> bytes-like``.
    decompress : callable
        ``decompress(data: bytes) -> bytes-like``, or with a second argument, the size of the
        result, when it has a second positional parameter that is required or is called ``size``.
    level : int, optional
    library, version, path : str, optional
        What to tell about it.

    Notes
    -----
    The callables get `bytes`, not a view: a view of the engine's memory that a callable kept would
    outlive that memory.
    """

    cdef object compressing
    cdef object decompressing
    cdef bint wants_size

    def __init__(self, name, compress, decompress, *, level=None, library=None, version=None,
                 path=None):
        if not callable(compress) or not callable(decompress):
            raise TypeError("compress and decompress must be callable")
        if self.c.ops != NULL:
            raise TypeError("a PythonCompressor does not change")
        self.compressing = compress
        self.decompressing = decompress
        self.wants_size = takes_size(decompress)
        self.name = name
        self.level = level
        self.spec = spec_of(name, level)
        self.library = library
        self.version = version
        self.path = path
        self.origin = "python"
        # Borrowed: this object lives as long as anyone may call the table, so there is nothing to
        # destroy.
        self.c.state = <void *> self
        self.c.ops = &PYTHON

    cdef int64_t call_compress(self, const uint8_t *src, size_t n, uint8_t *dst,
                               size_t cap) noexcept:
        cdef Py_buffer out
        cdef int64_t rc = 0
        try:
            if zsw_stack_is_short():
                raise causes.out_of_stack()
            data = PyBytes_FromStringAndSize(<const char *> src, <Py_ssize_t> n)
            take_buffer(self.compressing(data), "what compress returned", False, &out)
        except BaseException as error:
            return self.remember(error, -EIO)
        if <size_t> out.len <= cap:
            memcpy(dst, out.buf, <size_t> out.len)
            rc = out.len
        PyBuffer_Release(&out)
        return rc

    cdef int64_t call_decompress(self, const uint8_t *src, size_t n, uint8_t *dst,
                                 size_t cap) noexcept:
        cdef Py_buffer out
        cdef int64_t rc
        try:
            if zsw_stack_is_short():
                raise causes.out_of_stack()
            data = PyBytes_FromStringAndSize(<const char *> src, <Py_ssize_t> n)
            result = self.decompressing(data, cap) if self.wants_size else self.decompressing(data)
            take_buffer(result, "what decompress returned", False, &out)
        except BaseException as error:
            return self.remember(error, -EBADMSG)
        if <size_t> out.len == cap:
            memcpy(dst, out.buf, cap)
            rc = out.len
        else:
            rc = self.remember(ValueError(f"decompress returned {out.len} bytes, not {cap}"),
                               -EBADMSG)
        PyBuffer_Release(&out)
        return rc

    cdef int64_t remember(self, object error, int64_t rc) noexcept:
        self.last_error = error
        try:
            causes.remember(self, error)
        except MemoryError:                     # then the failure has no cause to show
            pass
        if isinstance(error, KeyboardInterrupt):
            PyErr_SetInterrupt()  # raise it again once control is back in the user's code
        return rc


cdef size_t bound(void *state, size_t n) noexcept nogil:
    # How far a callable expands is unknown; what grew by more than this is of no use to anyone.
    return n + n // 8 + 64


cdef int64_t compress(void *state, void *ctx, const uint8_t *src, size_t n, uint8_t *dst,
                      size_t cap) noexcept nogil:
    # Python would end a thread that asks for the GIL during its shutdown.
    if zsw_python_is_gone():
        return -EIO
    with gil:
        return (<PythonCompressor> state).call_compress(src, n, dst, cap)


cdef int64_t decompress(void *state, void *ctx, const uint8_t *src, size_t n, uint8_t *dst,
                        size_t cap) noexcept nogil:
    if zsw_python_is_gone():
        return -EIO
    with gil:
        return (<PythonCompressor> state).call_decompress(src, n, dst, cap)


cdef zsw_compressor_ops PYTHON = zsw_compressor_ops(
    abi_version=ZSW_ABI_VERSION,
    struct_size=sizeof(zsw_compressor_ops),
    name="python",
    flags=ZSW_COMPRESSOR_WHOLE_PAGES,
    bound=bound,
    ctx_new=NULL,
    ctx_free=NULL,
    compress=compress,
    decompress=decompress,
    destroy=NULL,
    ctx_bytes=NULL,
)


def takes_size(decompress):
    """Whether `decompress` wants the size of the result as its second argument."""
    import inspect

    try:
        parameters = inspect.signature(decompress).parameters.values()
    except (TypeError, ValueError):  # a builtin that does not tell
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(positional) > 1 and (positional[1].default is positional[1].empty
                                    or positional[1].name == "size")
