# cython: cdivision=True
"""A compressor for zswap, from outside: each 8-byte word is XORed with the one before it, and runs
of zeros are dropped.

Good for arrays that change slowly, and small enough to show all that a compressor has to do.

A packed page is a row of groups: a 16-bit count of zero words, a 16-bit count of other words, those
words.  What is left when the length is no multiple of 8 follows as it is.
"""
from cpython.pycapsule cimport PyCapsule_New
from libc.errno cimport EBADMSG
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy

from zswap_core.abi cimport (
    ZSW_ABI_VERSION, zsw_compressor, ZSW_COMPRESSOR_CAPSULE, zsw_compressor_ops,
    ZSW_COMPRESSOR_STATELESS_DECOMPRESS,
)


cdef struct group:
    uint16_t zeros
    uint16_t others


cdef inline uint64_t word(const uint8_t *p, size_t i) noexcept nogil:
    cdef uint64_t w
    memcpy(&w, p + 8 * i, 8)
    return w


cdef inline uint64_t difference(const uint8_t *p, size_t i) noexcept nogil:
    return word(p, i) ^ word(p, i - 1) if i else word(p, 0)


cdef size_t bound(void *state, size_t n) noexcept nogil:
    # At worst every second word is zero: a group then costs 4 bytes and saves 8.  Two more groups
    # for the ends.
    return n + (n // (8 * 65535) + 2) * sizeof(group)


cdef int64_t compress(void *state, void *ctx, const uint8_t *src, size_t n, uint8_t *dst,
                      size_t cap) noexcept nogil:
    cdef size_t words = n // 8, tail = n % 8, i = 0, at = 0, head
    cdef uint64_t w
    cdef group g
    while i < words:
        g.zeros = g.others = 0
        while i < words and g.zeros < 65535 and difference(src, i) == 0:
            g.zeros += 1
            i += 1
        if cap - at < sizeof(group):
            return 0
        head = at
        at += sizeof(group)
        while i < words and g.others < 65535:
            w = difference(src, i)
            if w == 0:
                break
            if cap - at < 8:
                return 0
            memcpy(dst + at, &w, 8)
            at += 8
            g.others += 1
            i += 1
        memcpy(dst + head, &g, sizeof(group))
    if cap - at < tail:
        return 0
    memcpy(dst + at, src + 8 * words, tail)
    return <int64_t> (at + tail)


cdef int64_t decompress(void *state, void *ctx, const uint8_t *src, size_t n, uint8_t *dst,
                        size_t cap) noexcept nogil:
    """Whatever src holds, nothing is read past n or written past cap.  All of cap is filled: a
    page's size is known."""
    cdef size_t words = cap // 8, tail = cap % 8, i = 0, at = 0, k
    cdef uint64_t w, last = 0
    cdef group g
    while i < words:
        if n - at < sizeof(group):
            return -EBADMSG
        memcpy(&g, src + at, sizeof(group))
        at += sizeof(group)
        if <size_t> g.zeros + g.others > words - i or <size_t> g.others * 8 > n - at:
            return -EBADMSG
        for k in range(g.zeros):
            memcpy(dst + 8 * (i + k), &last, 8)
        i += g.zeros
        for k in range(g.others):
            memcpy(&w, src + at + 8 * k, 8)
            last ^= w
            memcpy(dst + 8 * (i + k), &last, 8)
        i += g.others
        at += 8 * <size_t> g.others
    if n - at != tail:
        return -EBADMSG
    memcpy(dst + 8 * words, src + at, tail)
    return <int64_t> cap


cdef zsw_compressor_ops OPS = zsw_compressor_ops(
    abi_version=ZSW_ABI_VERSION,
    struct_size=sizeof(zsw_compressor_ops),
    name="xor",
    flags=ZSW_COMPRESSOR_STATELESS_DECOMPRESS,
    bound=bound,
    ctx_new=NULL,
    ctx_free=NULL,
    compress=compress,
    decompress=decompress,
    destroy=NULL,
    ctx_bytes=NULL,
)
cdef zsw_compressor XOR = zsw_compressor(ops=&OPS, state=NULL)


def capsule():
    """Return the compressor for `zswap.register_compressor("xor",
    factory=xor_compressor.capsule)`."""
    return PyCapsule_New(&XOR, ZSW_COMPRESSOR_CAPSULE, NULL)
