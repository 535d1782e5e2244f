/* Pieces into payloads, and which variant makes them. */
#include "lref_common.h"

struct lref_variant {
    const char *name;
    size_t (*pack)(const uint8_t *page, size_t at, lref_work *work, uint8_t *dst, size_t cap);
    int (*unpack)(const uint8_t *src, size_t n, uint8_t *page, size_t at);
    enum lref_class (*classify)(const uint8_t *src, size_t n);
    int (*works)(void);
};

_Static_assert(sizeof(lref_work) <= LREF_WORKSPACE, "LREF_WORKSPACE is too small");

/* ---- variants ----------------------------------------------------------------------------- */

static int always(void)
{
    return 1;
}

#ifdef LREF_X86
static int has_sse41(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("sse4.1") && __builtin_cpu_supports("ssse3") &&
           __builtin_cpu_supports("popcnt");
}

static int has_avx2(void)
{
    return has_sse41() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2");
}

static int has_avx512(void)
{
#ifdef EMULATE_AVX512   /* tests/fuzz/lref_avx512.c */
    return 1;
#endif
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") &&
           __builtin_cpu_supports("avx512vpopcntdq");
}
#endif

static const lref_variant variants[] = {
#ifdef LREF_X86
    {"avx512", lref_avx512_pack, lref_avx512_unpack, lref_avx512_classify, has_avx512},
    {"avx2", lref_avx2_pack, lref_avx2_unpack, lref_avx2_classify, has_avx2},
    {"sse41", lref_sse41_pack, lref_sse41_unpack, lref_sse41_classify, has_sse41},
#endif
#ifdef LREF_NEON
    {"neon", lref_neon_pack, lref_neon_unpack, lref_neon_classify, always},
#endif
    {"portable", lref_portable_pack, lref_portable_unpack, lref_portable_classify, always},
};

const lref_variant *lref_variant_at(unsigned i)
{
    return i < sizeof(variants) / sizeof(variants[0]) ? &variants[i] : NULL;
}

const char *lref_variant_name(const lref_variant *variant)
{
    return variant->name;
}

int lref_variant_works(const lref_variant *variant)
{
    return variant->works();
}

/* ---- payloads ----------------------------------------------------------------------------- */

size_t lref_bound(size_t n)
{
    return n + 1;
}

static size_t keep_raw(const uint8_t *src, size_t n, uint8_t *dst, size_t cap)
{
    if (n >= cap)
        return 0;
    memcpy(dst, src, n);
    dst[n] = LREF_RAW;
    return n + 1;
}

/* The pieces one after another, two bytes with the size of each but the last, their number less
 * one, LREF_PIECES. */
static size_t compress_pieces(
    const lref_variant *v, lref_work *work, const uint8_t *src, size_t n, uint8_t *dst, size_t cap)
{
    const size_t count = n / LREF_PIECE_SIZE, tail = 2 * count;
    uint8_t sizes[2 * (LREF_SIZE_MAX / LREF_PIECE_SIZE)];
    size_t end = 0;
    if (cap >= n)
        cap = n - 1;
    if (cap < tail)
        return 0;
    cap -= tail;
    for (size_t i = 0; i < count; i++) {
        const size_t room = cap - end;
        size_t size = v->pack(src, i * LREF_PIECE_SIZE, work, dst + end,
            room < LREF_PIECE_SIZE ? room : LREF_PIECE_SIZE - 1);
        if (size == 0) {
            size = LREF_PIECE_SIZE;         /* as it is */
            if (room < size)
                return 0;
            memcpy(dst + end, src + i * LREF_PIECE_SIZE, size);
        }
        end += size;
        sizes[2 * i] = (uint8_t) size;
        sizes[2 * i + 1] = (uint8_t) (size >> 8);
    }
    memcpy(dst + end, sizes, tail - 2);
    end += tail - 2;
    dst[end] = (uint8_t) (count - 1);
    dst[end + 1] = LREF_PIECES;
    return end + 2;
}

size_t lref_compress(const lref_variant *variant, void *workspace, const uint8_t *src, size_t n,
    uint8_t *dst, size_t cap)
{
    lref_work *work = workspace;
    size_t size = 0;
    if (n > LREF_SIZE_MAX)
        return 0;
    if (n % LREF_PIECE_SIZE == 0 && n != 0) {
        memset(work, 0, sizeof(*work));
        if (n > LREF_PIECE_SIZE) {
            size = compress_pieces(variant, work, src, n, dst, cap);
        } else if (cap > 0) {
            size = variant->pack(src, 0, work, dst, cap < n ? cap - 1 : n - 2);
            if (size != 0)
                dst[size++] = LREF_PIECE;
        }
    }
    return size != 0 ? size : keep_raw(src, n, dst, cap);
}

static int64_t decompress_pieces(
    const lref_variant *v, const uint8_t *src, size_t n, uint8_t *dst, size_t cap)
{
    size_t count, tail, at = 0;
    const uint8_t *sizes;
    if (n == 0)
        return -1;
    count = (size_t) src[n - 1] + 1;
    tail = 2 * count - 1;
    if (count * LREF_PIECE_SIZE > cap || n < tail)
        return -1;
    n -= tail;
    sizes = src + n;
    for (size_t i = 0; i < count; i++) {
        size_t size = n - at;
        if (i + 1 < count) {
            size = sizes[2 * i] | (size_t) sizes[2 * i + 1] << 8;
            if (size > n - at)
                return -1;
        }
        if (size == LREF_PIECE_SIZE)
            memcpy(dst + i * LREF_PIECE_SIZE, src + at, size);
        else if (v->unpack(src + at, size, dst, i * LREF_PIECE_SIZE) != 0)
            return -1;
        at += size;
    }
    return (int64_t) (count * LREF_PIECE_SIZE);
}

int64_t lref_decompress(
    const lref_variant *variant, const uint8_t *src, size_t n, uint8_t *dst, size_t cap)
{
    if (n == 0)
        return -1;
    n--;
    switch (src[n]) {
    case LREF_PIECE:
        if (cap < LREF_PIECE_SIZE || variant->unpack(src, n, dst, 0) != 0)
            return -1;
        return LREF_PIECE_SIZE;
    case LREF_PIECES:
        return decompress_pieces(variant, src, n, dst, cap);
    case LREF_RAW:
        if (n > cap)
            return -1;
        memcpy(dst, src, n);
        return (int64_t) n;
    default:
        return -1;
    }
}

enum lref_class lref_classify(const lref_variant *variant, const uint8_t *src, size_t n)
{
    return variant->classify(src, n);
}
