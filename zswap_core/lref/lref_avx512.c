/* The variant for AVX-512 with VBMI2: a line is one vector. */
#include "lref_common.h"

#ifdef LREF_X86
#include <immintrin.h>

#include "lref_target.h"

LREF_TARGET("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi2,avx2,bmi,bmi2,popcnt")

#define LREF_(name) lref_avx512_##name

typedef __m512i line_t;

static inline line_t line_load(const uint8_t *p)
{
    return _mm512_loadu_si512(p);
}

static inline line_t line_fill(uint8_t byte)
{
    return _mm512_set1_epi8((char) byte);
}

static inline uint64_t line_differs(line_t line, const uint8_t *p)
{
    return _mm512_cmpneq_epi8_mask(line, line_load(p));
}

static inline uint64_t line_nonzero(line_t line)
{
    return _mm512_test_epi8_mask(line, line);
}

static inline uint32_t line_distance(line_t line, const uint8_t *p)
{
    return count_bits64(line_differs(line, p));
}

#define LREF_LINES

/* VPCOMPRESSB to memory is slow where it is microcoded, so it goes to a register. */
static inline void line_gather(
    uint8_t *dst, size_t room, line_t line, const uint8_t *p, uint64_t mask)
{
    line_t kept = _mm512_maskz_compress_epi8(mask, line);
    (void) p;
    if (room >= 64)
        _mm512_storeu_si512(dst, kept);
    else
        _mm512_mask_storeu_epi8(dst, _bzhi_u64(~UINT64_C(0), count_bits64(mask)), kept);
}

static inline void line_spread(
    uint8_t *dst, const uint8_t *ref, const uint8_t *kept, size_t room, uint64_t mask)
{
    line_t x = room >= 64
                   ? line_load(kept)
                   : _mm512_maskz_loadu_epi8(_bzhi_u64(~UINT64_C(0), count_bits64(mask)), kept);
    _mm512_storeu_si512(dst, _mm512_mask_expand_epi8(line_load(ref), mask, x));
}

#include "lref_x86.h"
#include "lref_core.h"

LREF_TARGET_END
#endif
