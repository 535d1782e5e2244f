"""zstd, from libzstd.

Frames go without the magic number, checksum and dictionary id, as what is stored is known to be
ours: 4 bytes a page won. The content size stays: it costs a byte, and damage that changes the
length is then seen by the library.

A dictionary is digested once, when the compressor is opened, and then only referred to by every
context.  That a page meets the dictionary it was compressed with is the engine's doing: pools of
different dictionaries are different pools.

What libzstd works with holds parts of pages, so a context's memory is ours: in no core dump, and
empty in a forked child.
"""
from libc.errno cimport EBADMSG, EINVAL, EIO, ENOMEM
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free

from zswap_core.abi cimport ZSW_ABI_VERSION, zsw_compressor_ops, ZSW_COMPRESSOR_SLOW
from zswap_core.compressors.base cimport Compressor, free_state, new_compressor, new_state
from zswap_core.fault cimport fault, Site
from zswap_core.libraries.bind cimport Library, open_library
from zswap_core.os cimport (
    zsw_load_ptr, zsw_map_as, ZSW_MAP_NO_DUMP, ZSW_MAP_NO_FORK, zsw_peek_u64, zsw_poke_u64,
    zsw_store_ptr, zsw_unmap,
)

from zswap_core.libraries.find import LIBZSTD


# Values of zstd.h's enums: part of its stable ABI, but for the two formats, which have kept theirs
# since 1.4.0 and are checked when a compressor is opened.
cdef enum:
    ZSTD_c_compressionLevel = 100
    ZSTD_c_checksumFlag = 201
    ZSTD_c_dictIDFlag = 202
    ZSTD_c_format = 10
    ZSTD_d_format = 1000
    ZSTD_f_zstd1_magicless = 1
    ZSTD_error_memory_allocation = 64
    ZSTD_error_dstSize_tooSmall = 70

    # that a context's memory may come in: libzstd takes two for each half
    PIECES = 8


# libzstd's ZSTD_customMem.
cdef struct zstd_memory:
    void *(*alloc)(void *context, size_t size) noexcept nogil
    void (*free)(void *context, void *memory) noexcept nogil
    void *context


cdef struct zstd_piece:
    void *memory
    uint64_t size


cdef struct zstd_state:
    int level
    size_t (*bound)(size_t n) noexcept nogil
    unsigned int (*is_error)(size_t code) noexcept nogil
    int (*error_code)(size_t code) noexcept nogil
    void *(*new_cctx)(zstd_memory memory) noexcept nogil
    size_t (*set_c)(void *cctx, int parameter, int value) noexcept nogil
    size_t (*compress)(void *cctx, void *dst, size_t cap, const void *src, size_t n) noexcept nogil
    void *(*new_dctx)(zstd_memory memory) noexcept nogil
    size_t (*set_d)(void *dctx, int parameter, int value) noexcept nogil
    size_t (*decompress)(void *dctx, void *dst, size_t cap, const void *src,
                         size_t n) noexcept nogil
    void *cdict                 # these two are NULL without a dictionary
    void *ddict
    size_t (*free_cdict)(void *cdict) noexcept nogil
    size_t (*free_ddict)(void *ddict) noexcept nogil
    size_t (*ref_cdict)(void *cctx, const void *cdict) noexcept nogil
    size_t (*ref_ddict)(void *dctx, const void *ddict) noexcept nogil


cdef struct zstd_context:
    void *cctx
    void *dctx
    zstd_piece pieces[PIECES]


cdef void *piece_new(void *context, size_t size) noexcept nogil:
    cdef zstd_context *c = <zstd_context *> context
    cdef int i = 0
    while i < PIECES and c.pieces[i].memory != NULL:
        i += 1
    if i == PIECES or fault(Site.COMPRESSOR_CONTEXT) != 0:
        return NULL
    zsw_poke_u64(&c.pieces[i].size, size)
    zsw_store_ptr(&c.pieces[i].memory, zsw_map_as(size, ZSW_MAP_NO_DUMP | ZSW_MAP_NO_FORK))
    return c.pieces[i].memory


cdef void piece_free(void *context, void *memory) noexcept nogil:
    cdef zstd_context *c = <zstd_context *> context
    cdef int i
    for i in range(<int> PIECES):
        if memory != NULL and c.pieces[i].memory == memory:
            zsw_store_ptr(&c.pieces[i].memory, NULL)
            zsw_unmap(memory, c.pieces[i].size)


cdef size_t bound(void *state, size_t n) noexcept nogil:
    return (<zstd_state *> state).bound(n)


cdef void ctx_free(void *state, void *ctx) noexcept nogil:
    """Without a word to libzstd, which would look at what is gone in a forked child."""
    cdef zstd_context *c = <zstd_context *> ctx
    cdef int i
    for i in range(<int> PIECES):
        piece_free(c, c.pieces[i].memory)
    free(c)


cdef int configure(const zstd_state *s, const zstd_context *c) noexcept nogil:
    """Parameters and dictionaries are set once: they outlive every page.  A dictionary brings its
    level with it."""
    if (s.is_error(s.set_c(c.cctx, ZSTD_c_compressionLevel, s.level))
            or s.is_error(s.set_c(c.cctx, ZSTD_c_checksumFlag, 0))
            or s.is_error(s.set_c(c.cctx, ZSTD_c_dictIDFlag, 0))
            or s.is_error(s.set_c(c.cctx, ZSTD_c_format, ZSTD_f_zstd1_magicless))
            or s.is_error(s.set_d(c.dctx, ZSTD_d_format, ZSTD_f_zstd1_magicless))):
        return -EINVAL
    if s.cdict != NULL and (s.is_error(s.ref_cdict(c.cctx, s.cdict))
                            or s.is_error(s.ref_ddict(c.dctx, s.ddict))):
        return -EINVAL
    return 0


cdef int ctx_new(void *state, void **ctx) noexcept nogil:
    cdef zstd_state *s = <zstd_state *> state
    cdef zstd_context *c = NULL
    cdef int rc = -ENOMEM
    if fault(Site.COMPRESSOR_CONTEXT) == 0:
        c = <zstd_context *> calloc(1, sizeof(zstd_context))
    if c == NULL:
        return rc
    c.cctx = s.new_cctx(zstd_memory(piece_new, piece_free, c))
    c.dctx = s.new_dctx(zstd_memory(piece_new, piece_free, c))
    if c.cctx != NULL and c.dctx != NULL:
        rc = configure(s, c)
    if rc < 0:
        ctx_free(state, c)
        return rc
    ctx[0] = c
    return 0


cdef size_t ctx_bytes(void *state, void *ctx) noexcept nogil:
    cdef zstd_context *c = <zstd_context *> ctx
    cdef size_t size = sizeof(zstd_context)
    cdef int i
    for i in range(<int> PIECES):
        if zsw_load_ptr(&c.pieces[i].memory) != NULL:
            size += zsw_peek_u64(&c.pieces[i].size)
    return size


cdef int64_t compress(void *state, void *ctx, const uint8_t *src, size_t n, uint8_t *dst,
                      size_t cap) noexcept nogil:
    cdef zstd_state *s = <zstd_state *> state
    cdef size_t done = s.compress((<zstd_context *> ctx).cctx, dst, cap, src, n)
    cdef int code
    if not s.is_error(done):
        return <int64_t> done
    code = s.error_code(done)
    if code == ZSTD_error_dstSize_tooSmall:
        return 0
    return -ENOMEM if code == ZSTD_error_memory_allocation else -EIO


cdef int64_t decompress(void *state, void *ctx, const uint8_t *src, size_t n, uint8_t *dst,
                        size_t cap) noexcept nogil:
    cdef zstd_state *s = <zstd_state *> state
    cdef size_t done = s.decompress((<zstd_context *> ctx).dctx, dst, cap, src, n)
    if not s.is_error(done):
        return <int64_t> done
    return -ENOMEM if s.error_code(done) == ZSTD_error_memory_allocation else -EBADMSG


cdef void destroy(void *state) noexcept nogil:
    cdef zstd_state *s = <zstd_state *> state
    if s.cdict != NULL:
        s.free_cdict(s.cdict)
    if s.ddict != NULL:
        s.free_ddict(s.ddict)
    free_state(s)


cdef zsw_compressor_ops ZSTD = zsw_compressor_ops(
    abi_version=ZSW_ABI_VERSION,
    struct_size=sizeof(zsw_compressor_ops),
    name="zstd",
    flags=ZSW_COMPRESSOR_SLOW,
    bound=bound,
    ctx_new=ctx_new,
    ctx_free=ctx_free,
    compress=compress,
    decompress=decompress,
    destroy=destroy,
    ctx_bytes=ctx_bytes,
)


cdef int digest(zstd_state *s, Library lib, bytes dictionary) except -1:
    """Makes what contexts refer to; a dictionary that begins as zstd's own do must also go on as
    they do."""
    cdef void *(*new_cdict)(const void *dictionary, size_t n, int level) noexcept nogil
    cdef void *(*new_ddict)(const void *dictionary, size_t n) noexcept nogil
    cdef const uint8_t *data = dictionary
    cdef size_t n = len(dictionary)
    new_cdict = <void *(*)(const void *, size_t, int) noexcept nogil> lib.symbol("ZSTD_createCDict")
    new_ddict = <void *(*)(const void *, size_t) noexcept nogil> lib.symbol("ZSTD_createDDict")
    s.free_cdict = <size_t (*)(void *) noexcept nogil> lib.symbol("ZSTD_freeCDict")
    s.free_ddict = <size_t (*)(void *) noexcept nogil> lib.symbol("ZSTD_freeDDict")
    s.ref_cdict = <size_t (*)(void *, const void *) noexcept nogil> lib.symbol("ZSTD_CCtx_refCDict")
    s.ref_ddict = <size_t (*)(void *, const void *) noexcept nogil> lib.symbol("ZSTD_DCtx_refDDict")
    with nogil:
        s.cdict = new_cdict(data, n, s.level)
        s.ddict = new_ddict(data, n)
    if s.cdict == NULL or s.ddict == NULL:
        raise ValueError("the dictionary is damaged: it begins as zstd's own do, and libzstd "
                         "cannot read it")
    return 0


def open_zstd(level, path=None, dictionary=None):
    """Return the `zstd` compressor; `level` is -131072 .. 22, `dictionary` one that zstd trained or
    any bytes."""
    cdef Library lib = open_library(LIBZSTD, path)
    cdef zstd_state *s = <zstd_state *> new_state(sizeof(zstd_state))
    cdef Compressor self = new_compressor(&ZSTD, s, "zstd", level, lib, dictionary)
    s.level = level
    s.bound = <size_t (*)(size_t) noexcept nogil> lib.symbol("ZSTD_compressBound")
    s.is_error = <unsigned int (*)(size_t) noexcept nogil> lib.symbol("ZSTD_isError")
    s.error_code = <int (*)(size_t) noexcept nogil> lib.symbol("ZSTD_getErrorCode")
    s.new_cctx = <void *(*)(zstd_memory) noexcept nogil> lib.symbol("ZSTD_createCCtx_advanced")
    s.set_c = <size_t (*)(void *, int, int) noexcept nogil> lib.symbol("ZSTD_CCtx_setParameter")
    s.compress = <size_t (*)(void *, void *, size_t, const void *,
                             size_t) noexcept nogil> lib.symbol("ZSTD_compress2")
    s.new_dctx = <void *(*)(zstd_memory) noexcept nogil> lib.symbol("ZSTD_createDCtx_advanced")
    s.set_d = <size_t (*)(void *, int, int) noexcept nogil> lib.symbol("ZSTD_DCtx_setParameter")
    s.decompress = (<size_t (*)(void *, void *, size_t, const void *, size_t) noexcept nogil>
                    lib.symbol("ZSTD_decompressDCtx"))
    if dictionary is not None:
        digest(s, lib, dictionary)
    return self
