"""lref, this library's own codec for pages of memory, with another one for what is no heap.

The codec itself is in zswap_core/lref and knows nothing of this file.  A page is looked at first:
text goes to the other compressor, and its result is kept under lref's mark; what would not shrink
is not tried.  Levels 2 and 3 also put the other one behind lref: what lref leaves, mostly bytes
that no earlier line had, shrinks once more.
"""
from libc.errno cimport EBADMSG, ENOMEM
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy, memset

from zswap_core.abi cimport (
    ZSW_ABI_VERSION, zsw_compressor, ZSW_COMPRESSOR_GIVES_UP, zsw_compressor_ops,
    ZSW_COMPRESSOR_SLOW, ZSW_COMPRESSOR_STATELESS_DECOMPRESS,
)
from zswap_core.compressors.base cimport Compressor, free_state, new_compressor, new_state
from zswap_core.fault cimport fault, Site
from zswap_core.libraries.bind cimport Library
from zswap_core.os cimport zsw_map_as, ZSW_MAP_NO_DUMP, ZSW_MAP_NO_FORK, zsw_unlikely, zsw_unmap

import os

from zswap_core.compressors.registry import open_compressor
from zswap_core.errors import CompressorNotFound


cdef extern from "lref.h" nogil:
    ctypedef struct lref_variant:
        pass
    enum lref_class:
        LREF_HEAP
        LREF_TEXT
        LREF_RANDOM
    enum:
        LREF_RAW
        LREF_LZ4
        LREF_THEN_LZ4
        LREF_ZSTD
        LREF_THEN_ZSTD
        LREF_PIECE_SIZE
        LREF_SIZE_MAX
        LREF_WORKSPACE
    const lref_variant *lref_variant_at(unsigned int i)
    const char *lref_variant_name(const lref_variant *variant)
    bint lref_variant_works(const lref_variant *variant)
    size_t lref_bound(size_t n)
    size_t lref_compress(const lref_variant *variant, void *workspace, const uint8_t *src, size_t n,
                         uint8_t *dst, size_t cap)
    int64_t lref_decompress(const lref_variant *variant, const uint8_t *src, size_t n, uint8_t *dst,
                            size_t cap)
    lref_class lref_classify(const lref_variant *variant, const uint8_t *src, size_t n)

VARIANT_ENV = "ZSWAP_LREF"
FASTER_THAN_LZ4 = ("avx512", "avx2", "neon")    # for these "auto" means lref


# The other compressor is called through its table; the Compressor keeps whoever opened it alive.
cdef struct lref_state:
    const lref_variant *variant
    zsw_compressor other        # no ops: there is none
    uint8_t other_mark
    uint8_t then_mark           # of the other one's result over lref's; 0: it is not put there


cdef struct lref_context:
    uint8_t workspace[LREF_WORKSPACE]
    void *other
    uint8_t between[LREF_SIZE_MAX + 1]


cdef size_t bound(void *state, size_t n) noexcept nogil:
    return lref_bound(n)


cdef void ctx_free(void *state, void *ctx) noexcept nogil:
    cdef lref_state *s = <lref_state *> state
    cdef lref_context *c = <lref_context *> ctx
    if c.other != NULL:
        s.other.ops.ctx_free(s.other.state, c.other)
    zsw_unmap(c, sizeof(lref_context))


cdef int ctx_new(void *state, void **ctx) noexcept nogil:
    cdef lref_state *s = <lref_state *> state
    cdef lref_context *c = NULL
    cdef int rc
    ctx[0] = NULL
    if fault(Site.COMPRESSOR_CONTEXT) == 0:
        c = <lref_context *> zsw_map_as(sizeof(lref_context), ZSW_MAP_NO_DUMP | ZSW_MAP_NO_FORK)
    if c == NULL:
        return -ENOMEM
    if s.other.ops != NULL:
        rc = s.other.ops.ctx_new(s.other.state, &c.other)
        if rc < 0:
            c.other = NULL
            ctx_free(state, c)
            return rc
    ctx[0] = c
    return 0


cdef size_t ctx_bytes(void *state, void *ctx) noexcept nogil:
    cdef lref_state *s = <lref_state *> state
    cdef lref_context *c = <lref_context *> ctx
    cdef size_t size = sizeof(lref_context)
    if c.other != NULL and s.other.ops.ctx_bytes != NULL:
        size += s.other.ops.ctx_bytes(s.other.state, c.other)
    return size


cdef int64_t compress_other(const lref_state *s, lref_context *c, const uint8_t *src, size_t n,
                            uint8_t *dst, size_t cap, uint8_t mark) noexcept nogil:
    """The other compressor's result with a mark behind it, 0 when that does not fit, or -errno."""
    cdef int64_t size = 0
    if cap > 1:
        size = s.other.ops.compress(s.other.state, c.other, src, n, dst, cap - 1)
    if size > 0:
        dst[size] = mark
        size += 1
    return size


cdef int64_t keep(const uint8_t *src, size_t n, uint8_t *dst, size_t cap) noexcept nogil:
    if n > cap:
        return 0
    memcpy(dst, src, n)
    return <int64_t> n


cdef int64_t keep_raw(const uint8_t *src, size_t n, uint8_t *dst, size_t cap) noexcept nogil:
    if n >= cap:
        return 0
    memcpy(dst, src, n)
    dst[n] = LREF_RAW
    return <int64_t> n + 1


cdef int64_t compress_heap(const lref_state *s, lref_context *c, const uint8_t *src, size_t n,
                           uint8_t *dst, size_t cap) noexcept nogil:
    cdef size_t size
    cdef int64_t less
    if s.then_mark == 0:
        return <int64_t> lref_compress(s.variant, c.workspace, src, n, dst, cap)
    size = lref_compress(s.variant, c.workspace, src, n, c.between, sizeof(c.between))
    less = compress_other(s, c, c.between, size, dst, min(cap, size), s.then_mark)
    if less == 0:
        less = keep(c.between, size, dst, cap)
    # a context holds no bytes of a page between two calls
    memset(c.between, 0, size)
    return less


cdef int64_t ask_other(const lref_state *s, lref_context *c, const uint8_t *src, size_t n,
                       uint8_t *dst, size_t cap, int64_t size) noexcept nogil:
    """A second opinion on what came out large, `size` bytes in dst, or does not fit, 0: the other
    compressor's result where that is less."""
    cdef size_t room = min(cap if size == 0 else <size_t> size - 1, n)
    cdef int64_t less = compress_other(s, c, src, n, c.between, room, s.other_mark)
    if less > 0:
        memcpy(dst, c.between, less)
    memset(c.between, 0, room)
    return size if less == 0 else less


cdef int64_t compress(void *state, void *ctx, const uint8_t *src, size_t n, uint8_t *dst,
                      size_t cap) noexcept nogil:
    cdef const lref_state *s = <const lref_state *> state
    cdef lref_context *c = <lref_context *> ctx
    cdef lref_class looks = LREF_TEXT           # so does what is no page
    cdef size_t large = n - n // 4
    cdef int64_t size
    if s.other.ops == NULL:
        return <int64_t> lref_compress(s.variant, c.workspace, src, n, dst, cap)
    if n % LREF_PIECE_SIZE == 0 and n - 1 < LREF_SIZE_MAX:
        looks = lref_classify(s.variant, src, n)
    if looks == LREF_RANDOM:
        return keep_raw(src, n, dst, cap)
    if looks == LREF_TEXT:
        size = compress_other(s, c, src, n, dst, min(cap, n), s.other_mark)
        return size if size != 0 else keep_raw(src, n, dst, cap)
    size = compress_heap(s, c, src, n, dst, cap)
    if size > <int64_t> large or (size == 0 and cap >= large):
        size = ask_other(s, c, src, n, dst, cap, size)
    return size


cdef int64_t decompress(void *state, void *ctx, const uint8_t *src, size_t n, uint8_t *dst,
                        size_t cap) noexcept nogil:
    cdef const lref_state *s = <const lref_state *> state
    cdef lref_context *c = <lref_context *> ctx     # NULL for level 1, which needs none
    cdef void *other = NULL if c == NULL else c.other
    cdef int64_t size
    if zsw_unlikely(n == 0):
        return -EBADMSG
    if src[n - 1] == s.other_mark and s.other.ops != NULL:
        return s.other.ops.decompress(s.other.state, other, src, n - 1, dst, cap)
    if s.then_mark != 0 and src[n - 1] == s.then_mark:
        size = s.other.ops.decompress(s.other.state, other, src, n - 1, c.between,
                                      sizeof(c.between))
        if zsw_unlikely(size < 0):
            memset(c.between, 0, sizeof(c.between))
            return size
        n = <size_t> size
        size = lref_decompress(s.variant, c.between, n, dst, cap)
        memset(c.between, 0, n)
    else:
        size = lref_decompress(s.variant, src, n, dst, cap)
    return size if size >= 0 else -EBADMSG


cdef zsw_compressor_ops LREF = zsw_compressor_ops(
    abi_version=ZSW_ABI_VERSION,
    struct_size=sizeof(zsw_compressor_ops),
    name="lref",
    flags=ZSW_COMPRESSOR_GIVES_UP | ZSW_COMPRESSOR_STATELESS_DECOMPRESS,
    bound=bound,
    ctx_new=ctx_new,
    ctx_free=ctx_free,
    compress=compress,
    decompress=decompress,
    destroy=free_state,
    ctx_bytes=ctx_bytes,
)

# A table for each pair of flags: what level 2 decompresses passes through its context.
cdef zsw_compressor_ops LREF_THEN = LREF
LREF_THEN.flags = ZSW_COMPRESSOR_GIVES_UP

cdef zsw_compressor_ops LREF_THEN_SLOW = LREF
LREF_THEN_SLOW.flags = ZSW_COMPRESSOR_GIVES_UP | ZSW_COMPRESSOR_SLOW


def variants():
    """Names of the variants that work on this processor, the best first."""
    cdef const lref_variant *variant
    cdef unsigned int i = 0
    names = []
    while (variant := lref_variant_at(i)) != NULL:
        if lref_variant_works(variant):
            names.append(lref_variant_name(variant).decode())
        i += 1
    return names


def default_variant():
    """The one that the environment names, or the best."""
    name = os.environ.get(VARIANT_ENV) or variants()[0]
    find_variant(name)
    return name


cdef const lref_variant *find_variant(str name) except NULL:
    """The variant of that name; CompressorNotFound when there is none or this processor lacks what
    it needs."""
    cdef unsigned int i = 0
    if name not in variants():
        raise CompressorNotFound(f"${VARIANT_ENV} asks for {name!r}; this processor has "
                                 f"{', '.join(variants())}")
    while lref_variant_name(lref_variant_at(i)).decode() != name:
        i += 1
    return lref_variant_at(i)


def open_lref(level, path=None, variant=None):
    """Return the `lref` compressor.

    Parameters
    ----------
    level : int
        1: lref; 2: lz4 over it; 3: zstd:1 over it; 0, for tests: lref for all pages, whatever they
        look like.
    path : str, optional
        The library's file for the other compressor: liblz4, or libzstd for level 3.
    variant : str, optional
        One of `variants()`; by default `default_variant()`.
    """
    cdef Compressor self, other = None
    cdef Library lib = Library.__new__(Library)
    cdef lref_state *s
    cdef const zsw_compressor_ops *ops = (
        &LREF_THEN_SLOW if level == 3 else &LREF_THEN if level == 2 else &LREF)
    if level:
        other = open_compressor("zstd:1" if level == 3 else "lz4", path=path)
    if variant is None:
        variant = default_variant()
    lib.library = "lref"
    lib.version = f"1 ({variant})"
    lib.path = __file__
    lib.origin = "zswap"
    cdef const lref_variant *chosen = find_variant(variant)
    s = <lref_state *> new_state(sizeof(lref_state))
    s.variant = chosen
    if other is not None:
        s.other = other.c
    s.other_mark = LREF_ZSTD if level == 3 else LREF_LZ4
    s.then_mark = LREF_THEN_ZSTD if level == 3 else LREF_THEN_LZ4 if level == 2 else 0
    self = new_compressor(ops, s, "lref", level, lib)
    self.keep = (lib, other)
    return self
