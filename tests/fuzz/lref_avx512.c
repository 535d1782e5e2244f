/* The variant for AVX-512 on processors without: what it uses of that, by the definitions, a byte
 * at a time. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    uint8_t byte[64];
} vector;

#define __m512i vector
#undef _mm512_cmpneq_epi8_mask
#define _mm512_loadu_si512(p) load(p)
#define _mm512_storeu_si512(p, x) store(p, x)
#define _mm512_set1_epi8(x) fill(x)
#define _mm512_cmpneq_epi8_mask(a, b) differ(a, b)
#define _mm512_test_epi8_mask(a, b) both(a, b)
#define _mm512_maskz_compress_epi8(mask, x) compress(mask, x)
#define _mm512_mask_expand_epi8(old, mask, x) expand(old, mask, x)
#define _mm512_maskz_loadu_epi8(mask, p) load_some(mask, p)
#define _mm512_mask_storeu_epi8(p, mask, x) store_some(p, mask, x)

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

static inline vector fill(char byte)
{
    vector x;
    memset(&x, byte, 64);
    return x;
}

static inline uint64_t differ(vector a, vector b)
{
    uint64_t mask = 0;
    for (int i = 0; i < 64; i++)
        mask |= (uint64_t) (a.byte[i] != b.byte[i]) << i;
    return mask;
}

static inline uint64_t both(vector a, vector b)
{
    uint64_t mask = 0;
    for (int i = 0; i < 64; i++)
        mask |= (uint64_t) ((a.byte[i] & b.byte[i]) != 0) << i;
    return mask;
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

static inline vector load_some(uint64_t mask, const uint8_t *p)
{
    vector x = {{0}};
    for (int i = 0; i < 64; i++)
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

#undef _bzhi_u64
#define _bzhi_u64(x, n) ((n) < 64 ? (x) & ~(~UINT64_C(0) << (n)) : (x))
#define LREF_TARGET(features)
#include "../../zswap_core/lref/lref_avx512.c"
