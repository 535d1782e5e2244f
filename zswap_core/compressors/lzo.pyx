"""lzo (LZO1X-1, as the kernel's), from liblzo2 where the user has it, else from the Python package
lzallright.

liblzo2 is GPL: nothing here links to it or ships it.
"""
from libc.errno cimport EBADMSG, EIO, ENOMEM
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy

from zswap_core.abi cimport ZSW_ABI_VERSION, zsw_compressor_ops, ZSW_COMPRESSOR_STATELESS_DECOMPRESS
from zswap_core.compressors.base cimport Compressor, free_state, new_compressor, new_state
from zswap_core.fault cimport fault, Site
from zswap_core.libraries.bind cimport Library, open_library
from zswap_core.os cimport zsw_map_as, ZSW_MAP_NO_DUMP, ZSW_MAP_NO_FORK, zsw_unmap

from zswap_core.errors import CompressorNotFound
from zswap_core.libraries.find import explicit_path, LIBLZO2, module_file


# LZO1X_1_MEM_COMPRESS
cdef size_t WORK_SIZE = 16384 * sizeof(void *)


ctypedef unsigned int (*lzo_version_fn)() noexcept nogil
ctypedef int (*lzo_init_fn)(unsigned int version, int short_size, int int_size, int long_size,
                            int u32_size, int uint_size, int dict_size, int charp_size,
                            int voidp_size, int callback_size) noexcept nogil


cdef struct lzo_state:
    int (*compress)(const uint8_t *src, size_t n, uint8_t *dst, size_t *done,
                    void *work) noexcept nogil
    int (*decompress)(const uint8_t *src, size_t n, uint8_t *dst, size_t *done,
                      void *work) noexcept nogil


cdef size_t bound(void *state, size_t n) noexcept nogil:
    return n + n // 16 + 64 + 3


cdef int ctx_new(void *state, void **ctx) noexcept nogil:
    ctx[0] = NULL
    if fault(Site.COMPRESSOR_CONTEXT) == 0:
        ctx[0] = zsw_map_as(WORK_SIZE, ZSW_MAP_NO_DUMP | ZSW_MAP_NO_FORK)
    return 0 if ctx[0] != NULL else -ENOMEM


cdef void ctx_free(void *state, void *ctx) noexcept nogil:
    zsw_unmap(ctx, WORK_SIZE)


cdef size_t ctx_bytes(void *state, void *ctx) noexcept nogil:
    return WORK_SIZE


cdef int64_t compress(void *state, void *ctx, const uint8_t *src, size_t n, uint8_t *dst,
                      size_t cap) noexcept nogil:
    cdef lzo_state *s = <lzo_state *> state
    cdef uint8_t *out = dst
    cdef size_t done = 0
    cdef int rc
    # The function cannot be told where to stop, so with less room than the bound it works
    # elsewhere.
    if cap < bound(state, n):
        out = <uint8_t *> zsw_map_as(bound(state, n), ZSW_MAP_NO_DUMP | ZSW_MAP_NO_FORK)
        if out == NULL:
            return -ENOMEM
    rc = s.compress(src, n, out, &done, ctx)
    if out != dst:
        if done > cap:
            done = 0
        memcpy(dst, out, done)
        zsw_unmap(out, bound(state, n))
    return <int64_t> done if rc == 0 else -EIO


cdef int64_t decompress(void *state, void *ctx, const uint8_t *src, size_t n, uint8_t *dst,
                        size_t cap) noexcept nogil:
    cdef size_t done = cap
    cdef int rc = (<lzo_state *> state).decompress(src, n, dst, &done, NULL)
    return <int64_t> done if rc == 0 else -EBADMSG


cdef zsw_compressor_ops LZO = zsw_compressor_ops(
    abi_version=ZSW_ABI_VERSION,
    struct_size=sizeof(zsw_compressor_ops),
    name="lzo",
    flags=ZSW_COMPRESSOR_STATELESS_DECOMPRESS,
    bound=bound,
    ctx_new=ctx_new,
    ctx_free=ctx_free,
    compress=compress,
    decompress=decompress,
    destroy=free_state,
    ctx_bytes=ctx_bytes,
)


cdef Compressor open_liblzo2(object path):
    cdef Library lib = open_library(LIBLZO2, path)
    cdef lzo_version_fn version = <lzo_version_fn> lib.symbol("lzo_version")
    cdef lzo_init_fn init = <lzo_init_fn> lib.symbol("__lzo_init_v2")
    cdef int pointer = sizeof(void *)
    # The sizes of its types: short, int, long, lzo_uint32_t, lzo_uint, dictionary entry, two
    # pointers; -1: no callbacks.
    if init(version(), sizeof(short), sizeof(int), sizeof(long), 4, sizeof(size_t), pointer,
            pointer, pointer, -1) != 0:
        raise CompressorNotFound(f"liblzo2 in {lib.path} has types of other sizes. To get another: "
                                 f"{LIBLZO2.remedy}")

    cdef lzo_state *s = <lzo_state *> new_state(sizeof(lzo_state))
    cdef Compressor self = new_compressor(&LZO, s, "lzo", None, lib)
    s.compress = (<int (*)(const uint8_t *, size_t, uint8_t *, size_t *, void *) noexcept nogil>
                  lib.symbol("lzo1x_1_compress"))
    s.decompress = (<int (*)(const uint8_t *, size_t, uint8_t *, size_t *, void *) noexcept nogil>
                    lib.symbol("lzo1x_decompress_safe"))
    return self


def open_lzo(level=None, path=None):
    """Return the `lzo` compressor."""
    try:
        return open_liblzo2(path)
    except CompressorNotFound:
        if explicit_path(LIBLZO2, path) is not None or module_file("lzallright") is None:
            raise
    return open_lzallright()


def open_lzallright():
    """Return `lzo` by way of the package lzallright: the same format, made many times slower and
    under the GIL."""
    from importlib.metadata import version

    import lzallright

    from zswap_core.compressors.adapter import PythonCompressor

    def compress(data):
        # A new one each time: it cannot serve two threads at once.
        return lzallright.LZOCompressor().compress(data)

    def decompress(data, size):
        return lzallright.LZOCompressor.decompress(data, size)

    return PythonCompressor("lzo", compress, decompress, library="lzallright",
                            version=version("lzallright"), path=lzallright.__file__)
