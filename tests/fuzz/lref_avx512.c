/* The variant for AVX-512 on processors without: what it uses of that, by the definitions, an
 * element at a time. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef union {
    uint8_t byte[64];
    uint16_t word[32];
    uint64_t number[8];
} vector;

typedef struct {
    uint8_t byte[32];
} half;

#define __m512i vector
#define __m256i half

/* ---- memory ------------------------------------------------------------------------------- */

static inline vector load(const void *p)
{
    vector x;
    memcpy(&x, p, 64);
    return x;
}

static inline void store(void *p, vector x)
{
    memcpy(p, &x, 64);
}

static inline vector load_some(vector x, uint64_t mask, const uint8_t *p)
{
    for (int i = 0; i < 64; i++)
        if (mask >> i & 1)
            x.byte[i] = p[i];
    return x;
}

static inline half load_half(uint32_t mask, const uint8_t *p)
{
    half x = {{0}};
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1)
            x.byte[i] = p[i];
    return x;
}

static inline void store_some(uint8_t *p, uint64_t mask, vector x)
{
    for (int i = 0; i < 64; i++)
        if (mask >> i & 1)
            p[i] = x.byte[i];
}

#define _mm512_loadu_si512(p) load(p)
#define _mm512_storeu_si512(p, x) store(p, x)
#define _mm512_maskz_loadu_epi8(mask, p) load_some((vector) {{0}}, mask, p)
#define _mm512_mask_loadu_epi8(x, mask, p) load_some(x, mask, p)
#define _mm256_maskz_loadu_epi8(mask, p) load_half(mask, p)
#define _mm512_mask_storeu_epi8(p, mask, x) store_some(p, mask, x)
#define _mm256_storeu_si256(p, x) memcpy(p, (x).byte, 32)

/* ---- an element of one or two vectors at a time ------------------------------------------- */

#define EACH(name, n, part, expression) \
    static inline vector name(vector a, vector b) \
    { \
        vector x; \
        (void) b; \
        for (int i = 0; i < (n); i++) \
            x.part[i] = (expression); \
        return x; \
    }
#define A8 a.byte[i]
#define B8 b.byte[i]
#define A16 a.word[i]
#define B16 b.word[i]
#define A64 a.number[i]
#define B64 b.number[i]
EACH(add_8, 64, byte, (uint8_t) (A8 + B8))
EACH(shuffle_8, 64, byte, B8 & 128 ? 0 : a.byte[(i & 48) | (B8 & 15)])
EACH(permute_8, 64, byte, b.byte[A8 & 63])
EACH(add_16, 32, word, (uint16_t) (A16 + B16))
EACH(subtract_16, 32, word, (uint16_t) (A16 - B16))
/* unsigned by signed bytes; the sums that there are fit */
EACH(multiply_pairs, 32, word,
    (uint16_t) (a.byte[2 * i] * (int8_t) b.byte[2 * i] +
                a.byte[2 * i + 1] * (int8_t) b.byte[2 * i + 1]))
EACH(add_64, 8, number, A64 + B64)
EACH(and_64, 8, number, A64 & B64)
EACH(or_64, 8, number, A64 | B64)
EACH(least_64, 8, number, A64 < B64 ? A64 : B64)
EACH(multiply_low, 8, number, (A64 & UINT32_MAX) * (B64 & UINT32_MAX))
EACH(popcnt_64, 8, number, (uint64_t) __builtin_popcountll(A64))

#define _mm512_add_epi8(a, b) add_8(a, b)
#define _mm512_shuffle_epi8(a, b) shuffle_8(a, b)
#define _mm512_permutexvar_epi8(a, b) permute_8(a, b)
#define _mm512_add_epi16(a, b) add_16(a, b)
#define _mm512_sub_epi16(a, b) subtract_16(a, b)
#define _mm512_maddubs_epi16(a, b) multiply_pairs(a, b)
#define _mm512_add_epi64(a, b) add_64(a, b)
#define _mm512_and_si512(a, b) and_64(a, b)
#define _mm512_or_si512(a, b) or_64(a, b)
#define _mm512_min_epu64(a, b) least_64(a, b)
#define _mm512_mul_epu32(a, b) multiply_low(a, b)
#define _mm512_popcnt_epi64(a) popcnt_64(a, a)

static inline vector fill_8(uint8_t element)
{
    vector x;
    memset(&x, element, 64);
    return x;
}

static inline vector fill_16(uint16_t element)
{
    vector x;
    for (int i = 0; i < 32; i++)
        x.word[i] = element;
    return x;
}

static inline vector fill_64s(uint64_t element)
{
    vector x;
    for (int i = 0; i < 8; i++)
        x.number[i] = element;
    return x;
}

#define _mm512_setzero_si512() fill_8(0)
#define _mm512_set1_epi8(x) fill_8((uint8_t) (x))
#define _mm512_set1_epi16(x) fill_16((uint16_t) (x))
#define _mm512_set1_epi64(x) fill_64s((uint64_t) (x))

static inline vector shift_16(vector x, int left)
{
    for (int i = 0; i < 32; i++)
        x.word[i] = (uint16_t) (x.word[i] << left);
    return x;
}

static inline vector shift_64(vector x, int left, int right)
{
    for (int i = 0; i < 8; i++)
        x.number[i] = x.number[i] << left >> right;
    return x;
}

#define _mm512_slli_epi16(x, n) shift_16(x, n)
#define _mm512_slli_epi64(x, n) shift_64(x, n, 0)
#define _mm512_srli_epi64(x, n) shift_64(x, 0, n)

static inline int64_t sum_64(vector x)
{
    uint64_t sum = 0;
    for (int i = 0; i < 8; i++)
        sum += x.number[i];
    return (int64_t) sum;
}

#define _mm512_reduce_add_epi64(x) sum_64(x)

/* ---- bits of elements --------------------------------------------------------------------- */

#define BITS(name, n, expression) \
    static inline uint64_t name(vector a, vector b) \
    { \
        uint64_t mask = 0; \
        (void) b; \
        for (int i = 0; i < (n); i++) \
            mask |= (uint64_t) ((expression) != 0) << i; \
        return mask; \
    }
BITS(differ_8, 64, A8 != B8)
BITS(both_8, 64, A8 & B8)
BITS(high_8, 64, A8 & 128)
BITS(both_16, 32, A16 & B16)
BITS(greater_16, 32, A16 > B16)
BITS(less_64, 8, A64 < B64)

#undef _mm512_cmpneq_epi8_mask
#undef _mm512_cmpgt_epu16_mask
#undef _mm512_cmplt_epu64_mask
#define _mm512_cmpneq_epi8_mask(a, b) differ_8(a, b)
#define _mm512_test_epi8_mask(a, b) both_8(a, b)
#define _mm512_movepi8_mask(a) high_8(a, a)
#define _mm512_test_epi16_mask(a, b) (uint32_t) both_16(a, b)
#define _mm512_cmpgt_epu16_mask(a, b) (uint32_t) greater_16(a, b)
#define _mm512_cmplt_epu64_mask(a, b) (uint8_t) less_64(a, b)

static inline vector blend_8(uint64_t mask, vector a, vector b)
{
    for (int i = 0; i < 64; i++)
        if (mask >> i & 1)
            a.byte[i] = b.byte[i];
    return a;
}

static inline vector blend_64(uint8_t mask, vector a, vector b)
{
    for (int i = 0; i < 8; i++)
        if (mask >> i & 1)
            a.number[i] = b.number[i];
    return a;
}

static inline vector compress(uint64_t mask, vector x)
{
    vector y = {{0}};
    int n = 0;
    for (int i = 0; i < 64; i++)
        if (mask >> i & 1)
            y.byte[n++] = x.byte[i];
    return y;
}

static inline vector expand(vector old, uint64_t mask, vector x)
{
    int n = 0;
    for (int i = 0; i < 64; i++)
        if (mask >> i & 1)
            old.byte[i] = x.byte[n++];
    return old;
}

#define _mm512_mask_blend_epi8(mask, a, b) blend_8(mask, a, b)
#define _mm512_mask_blend_epi64(mask, a, b) blend_64(mask, a, b)
#define _mm512_maskz_compress_epi8(mask, x) compress(mask, x)
#define _mm512_mask_expand_epi8(old, mask, x) expand(old, mask, x)
#define _mm512_maskz_expand_epi8(mask, x) expand((vector) {{0}}, mask, x)

/* ---- from one size to another ------------------------------------------------------------- */

static inline vector two_tables(vector low, vector which, vector high)
{
    for (int i = 0; i < 64; i++)
        which.byte[i] = (which.byte[i] & 64 ? high : low).byte[which.byte[i] & 63];
    return which;
}

static inline vector four_times(__m128i part)
{
    vector x;
    for (int i = 0; i < 64; i += 16)
        memcpy(x.byte + i, &part, 16);
    return x;
}

static inline vector widen(half x)
{
    vector y;
    for (int i = 0; i < 32; i++)
        y.word[i] = x.byte[i];
    return y;
}

static inline half narrow(vector x)
{
    half y;
    for (int i = 0; i < 32; i++)
        y.byte[i] = (uint8_t) x.word[i];
    return y;
}

static inline __m128i narrow_64_to_16(vector x)
{
    uint16_t y[8];
    for (int i = 0; i < 8; i++)
        y[i] = (uint16_t) x.number[i];
    return _mm_loadu_si128((const __m128i *) y);
}

static inline __m128i narrow_64_to_8(vector x)
{
    uint8_t y[16] = {0};
    for (int i = 0; i < 8; i++)
        y[i] = (uint8_t) x.number[i];
    return _mm_loadu_si128((const __m128i *) y);
}

static inline half half_of(vector x, int high)
{
    half y;
    memcpy(&y, x.byte + 32 * high, 32);
    return y;
}

static inline vector with_half(vector x, half y, int high)
{
    memcpy(x.byte + 32 * high, &y, 32);
    return x;
}

#undef _mm512_extracti64x4_epi64
#undef _mm512_inserti64x4
#define _mm512_permutex2var_epi8(low, which, high) two_tables(low, which, high)
#define _mm512_broadcast_i32x4(part) four_times(part)
#define _mm512_cvtepu8_epi16(x) widen(x)
#define _mm512_cvtepi16_epi8(x) narrow(x)
#define _mm512_cvtepi64_epi16(x) narrow_64_to_16(x)
#define _mm512_cvtepi64_epi8(x) narrow_64_to_8(x)
#define _mm512_castsi512_si256(x) half_of(x, 0)
#define _mm512_castsi256_si512(x) with_half((vector) {{0}}, x, 0)
#define _mm512_extracti64x4_epi64(x, high) half_of(x, high)
#define _mm512_inserti64x4(x, y, high) with_half(x, y, high)

#undef _bzhi_u64
#define _bzhi_u64(x, n) ((n) < 64 ? (x) & ~(~UINT64_C(0) << (n)) : (x))
#define LREF_TARGET(features)
#include "../../zswap_core/lref/lref_avx512.c"
