"""`Compressor`: a zsw_compressor with its description and its lifetime."""
from cpython.buffer cimport PyBuffer_Release
from cpython.pycapsule cimport (
    PyCapsule_GetContext, PyCapsule_GetPointer, PyCapsule_New, PyCapsule_SetContext,
)
from cpython.ref cimport Py_INCREF, Py_XDECREF, PyObject
from libc.errno cimport EBADMSG, ENOMEM
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport calloc, free

from zswap_core.abi cimport (
    zsw_compressor, ZSW_COMPRESSOR_CAPSULE, ZSW_COMPRESSOR_NEEDED, zsw_compressor_ops,
    ZSW_COMPRESSOR_STATELESS_DECOMPRESS,
)
from zswap_core.buffers cimport take_buffer
from zswap_core.fault cimport fault, Site
from zswap_core.libraries.bind cimport Library
from zswap_core.plugin cimport table_name, take_table

import os

from zswap_core.buffers import plain_view
from zswap_core.causes import recall
from zswap_core.errors import Error, PageCorruptError


cdef int64_t run_once(const zsw_compressor *c, bint packing, const uint8_t *src, size_t n,
                      uint8_t *dst, size_t cap) noexcept nogil:
    """One compress() or decompress() with a context of its own, or with none where none is
    needed."""
    cdef const zsw_compressor_ops *ops = c.ops
    cdef bint in_context = ops.ctx_new != NULL and (
        packing or not ops.flags & ZSW_COMPRESSOR_STATELESS_DECOMPRESS)
    cdef void *ctx = NULL
    cdef int64_t rc
    if in_context:
        rc = ops.ctx_new(c.state, &ctx)
        if rc < 0:
            return rc
    if packing:
        rc = ops.compress(c.state, ctx, src, n, dst, cap)
    else:
        rc = ops.decompress(c.state, ctx, src, n, dst, cap)
    if in_context:
        ops.ctx_free(c.state, ctx)
    return rc


cdef int64_t convert(Compressor self, bint packing, object data, object out) except -1:
    cdef Py_buffer src, dst
    cdef int64_t rc
    check(self)
    self.last_error = None
    take_buffer(data, "data", False, &src)
    try:
        take_buffer(out, "out", True, &dst)
        try:
            with nogil:
                rc = run_once(&self.c, packing, <const uint8_t *> src.buf, <size_t> src.len,
                              <uint8_t *> dst.buf, <size_t> dst.len)
        finally:
            PyBuffer_Release(&dst)
    finally:
        PyBuffer_Release(&src)
    if rc == -EBADMSG:
        raise PageCorruptError(f"{self.spec}: damaged data") from recall(self)
    if rc == -ENOMEM:
        raise MemoryError(f"{self.spec}: no memory to {'' if packing else 'de'}compress")
    if rc < 0:
        what = "compress" if packing else "decompress"
        raise Error(f"{self.spec}: {what} failed: {os.strerror(-rc)}") from recall(self)
    return rc


cdef int check(Compressor self) except -1:
    """A Compressor made by __new__ alone has no functions."""
    if self.c.ops == NULL:
        raise ValueError("this Compressor was never opened")
    return 0


cdef class Compressor:
    """A compressor with its level chosen: what `open_compressor` returns.

    The engine uses the C functions behind it, without the GIL.  The methods here go through those
    same functions, with a context made for each call: right for tests and tools, slow for anything
    else.

    Attributes
    ----------
    name : str
        "zstd".
    spec : str
        Name and level: "zstd:3"; with a dictionary also the first digits of its SHA-256:
        "zstd:3+dict:1a2b3c4d".  Two compressors from one registry with equal specs make the same
        output.
    level : int or None
        None when this compressor has no levels.
    dictionary : bytes or None
        What it takes as known to both sides.
    library, version, path : str or None
        The library that does the work, its version if it tells, and the file it was found in.
    origin : str
        How it was found: "wheel", "system", "path" (named by the user), "python" (Python callables)
        or "capsule".
    last_error : BaseException or None
        The exception behind the latest failure of a compressor written in Python.
    """

    def __init__(self):
        raise TypeError("use zswap_core.compressors.registry.open_compressor() or "
                        "Compressor.from_capsule()")

    def __dealloc__(self):
        if self.owns_state and self.c.ops.destroy != NULL:
            self.c.ops.destroy(self.c.state)

    def __reduce__(self):
        raise TypeError(f"a {type(self).__name__} can be neither copied nor pickled: it is "
                        "functions of this process; open_compressor makes one anew, of the same "
                        "spec and dictionary")

    def __repr__(self):
        return f"<Compressor {self.spec}, origin {self.origin}, {self.library} {self.version}>"

    # ---- one page at a time ----------------------------------------------------------------------

    def bound(self, n):
        """Return the room that `compress_into` wants so that any `n` bytes fit.

        Parameters
        ----------
        n : int
            Bytes to compress.
        """
        check(self)
        cdef size_t size = n
        return self.c.ops.bound(self.c.state, size)

    def compress(self, data, cap=None):
        """Compress a bytes-like object.

        Parameters
        ----------
        data : bytes-like
            What to compress, up to 2 GiB.
        cap : int, optional
            Longest result wanted; by default there is no such limit.

        Returns
        -------
        bytes or None
            None when the result does not fit in `cap` bytes.
        """
        out = bytearray(self.bound(plain_view(data, "data").nbytes) if cap is None else cap)
        n = self.compress_into(data, out)
        return bytes(memoryview(out)[:n]) if n else None

    def decompress(self, data, size):
        """Decompress what was compressed of `size` bytes.

        Parameters
        ----------
        data : bytes-like
            What `compress` made.
        size : int
            Bytes before it was compressed, all of them and no more.

        Raises
        ------
        PageCorruptError
            When `data` is damaged, or comes to another length.
        """
        out = bytearray(size)
        n = self.decompress_into(data, out)
        if n != size:
            raise PageCorruptError(f"{self.spec}: decompressed to {n} bytes, not {size}")
        return bytes(out)

    def compress_into(self, data, out):
        """Compress into a buffer.

        Parameters
        ----------
        data : bytes-like
            What to compress, up to 2 GiB.
        out : writable bytes-like
            Where the result goes; `bound` says what is always enough.

        Returns
        -------
        int
            Bytes written; 0 when the result does not fit.
        """
        return convert(self, True, data, out)

    def decompress_into(self, data, out):
        """Decompress into a buffer.

        Parameters
        ----------
        data : bytes-like
            What `compress` made.
        out : writable bytes-like
            Where the result goes.

        Returns
        -------
        int
            Bytes written.

        Raises
        ------
        PageCorruptError
            When `data` is damaged, or does not fit.
        """
        return convert(self, False, data, out)

    # ---- capsules --------------------------------------------------------------------------------

    @property
    def capsule(self):
        """A PyCapsule of the zsw_compressor, named ZSW_COMPRESSOR_CAPSULE, that keeps this object
        alive."""
        check(self)
        capsule = PyCapsule_New(&self.c, ZSW_COMPRESSOR_CAPSULE, release_owner)
        PyCapsule_SetContext(capsule, <void *> self)
        Py_INCREF(self)
        return capsule

    @staticmethod
    def from_capsule(capsule, name=None, *, level=None, library=None, version=None, path=None):
        """Make a Compressor of a capsule that another extension filled.

        The capsule is kept alive and stays the owner of the state: the table's destroy() is left to
        whoever made it.

        Parameters
        ----------
        capsule : PyCapsule
            Holds a `zsw_compressor *` under the name ZSW_COMPRESSOR_CAPSULE.
        name : str, optional
            By default the one in the table.
        level : int, optional
        library, version, path : str, optional
            What to tell about it.

        Raises
        ------
        ValueError
            The capsule is of another kind, or its table is incomplete or made for another ABI.
        """
        cdef const zsw_compressor *given = (
            <const zsw_compressor *> PyCapsule_GetPointer(capsule, ZSW_COMPRESSOR_CAPSULE))
        cdef const zsw_compressor_ops *ops = given.ops
        cdef zsw_compressor_ops whole
        take_table(ops, "compressor", ZSW_COMPRESSOR_NEEDED, &whole, sizeof(whole))
        if ops.bound == NULL or ops.compress == NULL or ops.decompress == NULL:
            raise ValueError("the capsule's table lacks bound, compress or decompress")
        if (ops.ctx_new == NULL) != (ops.ctx_free == NULL):
            raise ValueError("the capsule's table has one of ctx_new and ctx_free without the "
                             "other")
        if name is None:
            name = table_name(ops)

        cdef Compressor self = Compressor.__new__(Compressor)
        self.c.ops = ops
        if ops.struct_size < sizeof(zsw_compressor_ops):
            self.whole = whole
            self.c.ops = &self.whole
        self.c.state = given.state
        self.keep = capsule
        self.name = name
        self.level = level
        self.spec = spec_of(name, level)
        self.library = library
        self.version = version
        self.path = path
        self.origin = "capsule"
        return self


cdef void release_owner(object capsule) noexcept:
    Py_XDECREF(<PyObject *> PyCapsule_GetContext(capsule))


cpdef str dictionary_id(object dictionary):
    """What tells a dictionary from another."""
    from hashlib import sha256  # dear to import, and few have dictionaries
    return sha256(dictionary).hexdigest()


cpdef str spec_of(str name, object level, object dictionary=None):
    """The one way to write a name, a level and a dictionary."""
    spec = name if level is None else f"{name}:{level}"
    return spec if dictionary is None else f"{spec}+dict:{dictionary_id(dictionary)[:8]}"


cdef void *new_state(size_t size) except NULL:
    """Memory for a plug-in's state, all zeros, for `free_state` as its table's destroy()."""
    cdef void *state = calloc(1, size) if fault(Site.COMPRESSOR) == 0 else NULL
    if state == NULL:
        raise MemoryError
    return state


cdef void free_state(void *state) noexcept nogil:
    free(state)


cdef Compressor new_compressor(const zsw_compressor_ops *ops, void *state, str name, object level,
                               Library library, bytes dictionary=None):
    """For a plug-in of this package: the new object owns `state`."""
    cdef Compressor self = Compressor.__new__(Compressor)
    self.c.ops = ops
    self.c.state = state
    self.owns_state = True
    self.keep = library
    self.name = name
    self.level = level
    self.dictionary = dictionary
    self.spec = spec_of(name, level, dictionary)
    self.library = library.library
    self.version = library.version
    self.path = library.path
    self.origin = library.origin
    return self
