"""deflate (raw, as the kernel's), from libdeflate."""
from libc.errno cimport EBADMSG, ENOMEM
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport calloc, free

from zswap_core.abi cimport ZSW_ABI_VERSION, zsw_compressor_ops, ZSW_COMPRESSOR_SLOW
from zswap_core.compressors.base cimport Compressor, free_state, new_compressor, new_state
from zswap_core.fault cimport fault, Site
from zswap_core.libraries.bind cimport Library, open_library

from zswap_core.libraries.find import LIBDEFLATE


cdef struct deflate_state:
    int level
    void *(*new_compressor)(int level) noexcept nogil
    void (*free_compressor)(void *c) noexcept nogil
    size_t (*bound)(void *c, size_t n) noexcept nogil
    size_t (*compress)(void *c, const void *src, size_t n, void *dst, size_t cap) noexcept nogil
    void *(*new_decompressor)() noexcept nogil
    void (*free_decompressor)(void *d) noexcept nogil
    int (*decompress)(void *d, const void *src, size_t n, void *dst, size_t cap, size_t *taken,
                      size_t *done) noexcept nogil


cdef struct deflate_context:
    void *compressor
    void *decompressor


cdef size_t bound(void *state, size_t n) noexcept nogil:
    return (<deflate_state *> state).bound(NULL, n)


cdef void ctx_free(void *state, void *ctx) noexcept nogil:
    cdef deflate_state *s = <deflate_state *> state
    cdef deflate_context *c = <deflate_context *> ctx
    s.free_compressor(c.compressor)  # these two take NULL
    s.free_decompressor(c.decompressor)
    free(c)


cdef int ctx_new(void *state, void **ctx) noexcept nogil:
    cdef deflate_state *s = <deflate_state *> state
    cdef deflate_context *c = NULL
    if fault(Site.COMPRESSOR_CONTEXT) == 0:
        c = <deflate_context *> calloc(1, sizeof(deflate_context))
    if c == NULL:
        return -ENOMEM
    c.compressor = s.new_compressor(s.level) if fault(Site.COMPRESSOR_CONTEXT) == 0 else NULL
    c.decompressor = s.new_decompressor() if fault(Site.COMPRESSOR_CONTEXT) == 0 else NULL
    if c.compressor == NULL or c.decompressor == NULL:
        ctx_free(state, c)
        return -ENOMEM
    ctx[0] = c
    return 0


cdef int64_t compress(void *state, void *ctx, const uint8_t *src, size_t n, uint8_t *dst,
                      size_t cap) noexcept nogil:
    return <int64_t> (<deflate_state *> state).compress(
        (<deflate_context *> ctx).compressor, src, n, dst, cap)


cdef int64_t decompress(void *state, void *ctx, const uint8_t *src, size_t n, uint8_t *dst,
                        size_t cap) noexcept nogil:
    cdef size_t taken = 0, done = 0
    cdef deflate_state *s = <deflate_state *> state
    cdef int rc = s.decompress((<deflate_context *> ctx).decompressor, src, n, dst, cap, &taken,
                               &done)
    # The format marks its own end, so only the count of bytes taken shows that something follows
    # it.
    return <int64_t> done if rc == 0 and taken == n else -EBADMSG


cdef zsw_compressor_ops DEFLATE = zsw_compressor_ops(
    abi_version=ZSW_ABI_VERSION,
    struct_size=sizeof(zsw_compressor_ops),
    name="deflate",
    flags=ZSW_COMPRESSOR_SLOW,
    bound=bound,
    ctx_new=ctx_new,
    ctx_free=ctx_free,
    compress=compress,
    decompress=decompress,
    destroy=free_state,
    ctx_bytes=NULL,
)


def open_deflate(level, path=None):
    """Return the `deflate` compressor; `level` is 1 .. 12."""
    cdef Library lib = open_library(LIBDEFLATE, path)
    cdef deflate_state *s = <deflate_state *> new_state(sizeof(deflate_state))
    cdef Compressor self = new_compressor(&DEFLATE, s, "deflate", level, lib)
    s.level = level
    s.new_compressor = <void *(*)(int) noexcept nogil> lib.symbol("libdeflate_alloc_compressor")
    s.free_compressor = <void (*)(void *) noexcept nogil> lib.symbol("libdeflate_free_compressor")
    s.bound = <size_t (*)(void *,
                          size_t) noexcept nogil> lib.symbol("libdeflate_deflate_compress_bound")
    s.compress = (<size_t (*)(void *, const void *, size_t, void *, size_t) noexcept nogil>
                  lib.symbol("libdeflate_deflate_compress"))
    s.new_decompressor = <void *(*)() noexcept nogil> lib.symbol("libdeflate_alloc_decompressor")
    s.free_decompressor = (<void (*)(void *) noexcept nogil>
                           lib.symbol("libdeflate_free_decompressor"))
    s.decompress = (<int (*)(void *, const void *, size_t, void *, size_t, size_t *,
                             size_t *) noexcept nogil>
                    lib.symbol("libdeflate_deflate_decompress_ex"))
    return self
