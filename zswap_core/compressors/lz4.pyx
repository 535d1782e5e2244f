"""lz4 and lz4hc, from liblz4.

For each page of 4 KiB or more lz4 clears its table of 16 KiB.  For less, which is what values and
pages that end in zeros are, LZ4_compress_fast_extState_fastReset leaves it as it is, and old
positions count as out of reach; not every build of the library shows that function.  The HC
functions always do so, reset with LZ4_resetStreamHC_fast: from a fresh start each call would clear
256 KiB.
"""
from libc.errno cimport EBADMSG, EINVAL, ENOMEM
from libc.limits cimport INT_MAX
from libc.stdint cimport int64_t, uint8_t

from zswap_core.abi cimport (
    ZSW_ABI_VERSION, zsw_compressor_ops, ZSW_COMPRESSOR_SLOW, ZSW_COMPRESSOR_STATELESS_DECOMPRESS,
)
from zswap_core.compressors.base cimport Compressor, free_state, new_compressor, new_state
from zswap_core.fault cimport fault, Site
from zswap_core.libraries.bind cimport Library, open_library
from zswap_core.os cimport zsw_map_as, ZSW_MAP_NO_DUMP, ZSW_MAP_NO_FORK, zsw_unmap

from contextlib import suppress

from zswap_core.libraries.find import LIBLZ4


cdef size_t INPUT_MAX = 0x7E000000  # liblz4's own limit
cdef size_t RESET_FROM = 4096       # bytes, as the library has it


cdef struct lz4_state:
    int level                 # lz4: acceleration
    size_t context            # its size
    int (*sizeof_state)() noexcept nogil
    int (*compress)(void *ctx, const char *src, char *dst, int n, int cap,
                    int acceleration) noexcept nogil
    int (*compress_less)(void *ctx, const char *src, char *dst, int n, int cap,
                         int acceleration) noexcept nogil       # less than RESET_FROM
    int (*decompress)(const char *src, char *dst, int n, int cap) noexcept nogil
    void *(*hc_init)(void *ctx, size_t size) noexcept nogil
    void (*hc_reset)(void *ctx, int level) noexcept nogil
    int (*hc_compress)(void *ctx, const char *src, char *dst, int n, int cap) noexcept nogil


cdef size_t bound(void *state, size_t n) noexcept nogil:
    return n + n // 255 + 16


cdef inline int at_most_int_max(size_t n) noexcept nogil:
    return INT_MAX if n > <size_t> INT_MAX else <int> n


cdef int ctx_new(void *state, void **ctx) noexcept nogil:
    ctx[0] = NULL
    if fault(Site.COMPRESSOR_CONTEXT) == 0:
        ctx[0] = zsw_map_as((<lz4_state *> state).context, ZSW_MAP_NO_DUMP | ZSW_MAP_NO_FORK)
    return 0 if ctx[0] != NULL else -ENOMEM


cdef int hc_ctx_new(void *state, void **ctx) noexcept nogil:
    cdef lz4_state *s = <lz4_state *> state
    cdef int rc = ctx_new(state, ctx)
    if rc == 0 and s.hc_init(ctx[0], s.context) == NULL:
        ctx_free(state, ctx[0])
        rc = -EINVAL
    return rc


cdef void ctx_free(void *state, void *ctx) noexcept nogil:
    zsw_unmap(ctx, (<lz4_state *> state).context)


cdef size_t ctx_bytes(void *state, void *ctx) noexcept nogil:
    return (<lz4_state *> state).context


cdef int64_t compress(void *state, void *ctx, const uint8_t *src, size_t n, uint8_t *dst,
                      size_t cap) noexcept nogil:
    cdef lz4_state *s = <lz4_state *> state
    if n > INPUT_MAX:
        return -EINVAL
    if n < RESET_FROM:
        return s.compress_less(ctx, <const char *> src, <char *> dst, <int> n, at_most_int_max(cap),
                               s.level)
    return s.compress(ctx, <const char *> src, <char *> dst, <int> n, at_most_int_max(cap), s.level)


cdef int64_t hc_compress(void *state, void *ctx, const uint8_t *src, size_t n, uint8_t *dst,
                         size_t cap) noexcept nogil:
    cdef lz4_state *s = <lz4_state *> state
    cdef int done
    if n > INPUT_MAX:
        return -EINVAL
    # Also after a result that did not fit: the library marks the context itself, and this call then
    # starts afresh.
    s.hc_reset(ctx, s.level)
    done = s.hc_compress(ctx, <const char *> src, <char *> dst, <int> n, at_most_int_max(cap))
    return done if done > 0 else 0


cdef int64_t decompress(void *state, void *ctx, const uint8_t *src, size_t n, uint8_t *dst,
                        size_t cap) noexcept nogil:
    cdef int done
    if n > <size_t> INT_MAX:
        return -EINVAL
    done = (<lz4_state *> state).decompress(<const char *> src, <char *> dst, <int> n,
                                            at_most_int_max(cap))
    return done if done >= 0 else -EBADMSG


cdef zsw_compressor_ops LZ4 = zsw_compressor_ops(
    abi_version=ZSW_ABI_VERSION,
    struct_size=sizeof(zsw_compressor_ops),
    name="lz4",
    flags=ZSW_COMPRESSOR_STATELESS_DECOMPRESS,
    bound=bound,
    ctx_new=ctx_new,
    ctx_free=ctx_free,
    compress=compress,
    decompress=decompress,
    destroy=free_state,
    ctx_bytes=ctx_bytes,
)

cdef zsw_compressor_ops LZ4HC = zsw_compressor_ops(
    abi_version=ZSW_ABI_VERSION,
    struct_size=sizeof(zsw_compressor_ops),
    name="lz4hc",
    flags=ZSW_COMPRESSOR_STATELESS_DECOMPRESS | ZSW_COMPRESSOR_SLOW,
    bound=bound,
    ctx_new=hc_ctx_new,
    ctx_free=ctx_free,
    compress=hc_compress,
    decompress=decompress,
    destroy=free_state,
    ctx_bytes=ctx_bytes,
)


cdef lz4_state *new_lz4(Library lib, int level) except NULL:
    cdef lz4_state *s = <lz4_state *> new_state(sizeof(lz4_state))
    s.level = level
    s.decompress = <int (*)(const char *, char *, int,
                            int) noexcept nogil> lib.symbol("LZ4_decompress_safe")
    return s


def open_lz4(level, path=None):
    """Return the `lz4` compressor; `level` is its acceleration, 1 .. 65537."""
    cdef Library lib = open_library(LIBLZ4, path)
    cdef lz4_state *s = new_lz4(lib, level)
    cdef Compressor self = new_compressor(&LZ4, s, "lz4", level, lib)
    s.sizeof_state = <int (*)() noexcept nogil> lib.symbol("LZ4_sizeofState")
    s.compress = (<int (*)(void *, const char *, char *, int, int, int) noexcept nogil>
                  lib.symbol("LZ4_compress_fast_extState"))
    s.compress_less = s.compress
    with suppress(LookupError):
        s.compress_less = (<int (*)(void *, const char *, char *, int, int, int) noexcept nogil>
                           lib.symbol("LZ4_compress_fast_extState_fastReset"))
    s.context = <size_t> s.sizeof_state()
    return self


def open_lz4hc(level, path=None):
    """Return the `lz4hc` compressor; `level` is 1 .. 12."""
    cdef Library lib = open_library(LIBLZ4, path)
    cdef lz4_state *s = new_lz4(lib, level)
    cdef Compressor self = new_compressor(&LZ4HC, s, "lz4hc", level, lib)
    s.sizeof_state = <int (*)() noexcept nogil> lib.symbol("LZ4_sizeofStateHC")
    s.hc_init = <void *(*)(void *, size_t) noexcept nogil> lib.symbol("LZ4_initStreamHC")
    s.hc_reset = <void (*)(void *, int) noexcept nogil> lib.symbol("LZ4_resetStreamHC_fast")
    s.hc_compress = <int (*)(void *, const char *, char *, int,
                             int) noexcept nogil> lib.symbol("LZ4_compress_HC_continue")
    s.context = <size_t> s.sizeof_state()
    return self
