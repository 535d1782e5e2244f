/* The variant for AVX2: two vectors a line. */
#include "lref_common.h"

#ifdef LREF_X86
#include <immintrin.h>

#include "lref_target.h"

LREF_TARGET("avx2,bmi,bmi2,popcnt")

#define LREF_(name) lref_avx2_##name

typedef struct {
    __m256i part[2];
} line_t;

static inline line_t line_load(const uint8_t *p)
{
    return (line_t){
        {_mm256_loadu_si256((const __m256i *) p), _mm256_loadu_si256((const __m256i *) (p + 32))}};
}

static inline line_t line_fill(uint8_t byte)
{
    return (line_t) {{_mm256_set1_epi8((char) byte), _mm256_set1_epi8((char) byte)}};
}

static inline uint64_t line_compare(line_t line, __m256i a, __m256i b)
{
    uint32_t low = (uint32_t) _mm256_movemask_epi8(_mm256_cmpeq_epi8(line.part[0], a));
    uint32_t high = (uint32_t) _mm256_movemask_epi8(_mm256_cmpeq_epi8(line.part[1], b));
    return ~(low | (uint64_t) high << 32);
}

static inline uint64_t line_differs(line_t line, const uint8_t *p)
{
    line_t other = line_load(p);
    return line_compare(line, other.part[0], other.part[1]);
}

static inline uint64_t line_nonzero(line_t line)
{
    return line_compare(line, _mm256_setzero_si256(), _mm256_setzero_si256());
}

static inline uint32_t line_distance(line_t line, const uint8_t *p)
{
    return count_bits64(line_differs(line, p));
}

#include "lref_x86.h"

/* How many bytes of four pieces of the line differ from p's. */
static inline __m256i parts_distance(line_t line, const uint8_t *p)
{
    const line_t other = line_load(p);
    __m256i differ =
        _mm256_add_epi8(_mm256_cmpeq_epi8(line.part[0], other.part[0]), _mm256_set1_epi8(2));
    return _mm256_sad_epu8(_mm256_add_epi8(differ, _mm256_cmpeq_epi8(line.part[1], other.part[1])),
        _mm256_setzero_si256());
}

static inline __m128i four_distances(line_t line, const uint8_t *src, const uint16_t *distance)
{
    __m256i ab = _mm256_packus_epi32(
        parts_distance(line, src - 8 * distance[0]), parts_distance(line, src - 8 * distance[1]));
    __m256i cd = _mm256_packus_epi32(
        parts_distance(line, src - 8 * distance[2]), parts_distance(line, src - 8 * distance[3]));
    ab = _mm256_packus_epi32(ab, cd);
    return _mm_add_epi16(_mm256_castsi256_si128(ab), _mm256_extracti128_si256(ab, 1));
}

#include "lref_nearest.h"
#include "lref_core.h"

LREF_TARGET_END
#endif
