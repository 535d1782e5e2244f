/* The variant for SSE4.1, with SSSE3 and POPCNT: four vectors a line. */
#include "lref_common.h"

#ifdef LREF_X86
#include <immintrin.h>

#include "lref_target.h"

LREF_TARGET("sse4.1,ssse3,popcnt")

#define LREF_(name) lref_sse41_##name

typedef struct {
    __m128i part[4];
} line_t;

static inline __m128i block_load(const uint8_t *p)
{
    return _mm_loadu_si128((const __m128i *) p);
}

static inline line_t line_load(const uint8_t *p)
{
    return (line_t) {{block_load(p), block_load(p + 16), block_load(p + 32), block_load(p + 48)}};
}

static inline line_t line_fill(uint8_t byte)
{
    __m128i x = _mm_set1_epi8((char) byte);
    return (line_t) {{x, x, x, x}};
}

static inline uint64_t same(__m128i a, __m128i b)
{
    return (uint32_t) _mm_movemask_epi8(_mm_cmpeq_epi8(a, b));
}

static inline uint64_t line_differs(line_t line, const uint8_t *p)
{
    return ~(same(line.part[0], block_load(p)) | same(line.part[1], block_load(p + 16)) << 16 |
             same(line.part[2], block_load(p + 32)) << 32 |
             same(line.part[3], block_load(p + 48)) << 48);
}

static inline uint64_t line_nonzero(line_t line)
{
    const __m128i zero = _mm_setzero_si128();
    return ~(same(line.part[0], zero) | same(line.part[1], zero) << 16 |
             same(line.part[2], zero) << 32 | same(line.part[3], zero) << 48);
}

/* How many bytes of two parts of the line differ from p's. */
static inline __m128i parts_distance(line_t line, const uint8_t *p)
{
    __m128i a = _mm_add_epi8(_mm_cmpeq_epi8(line.part[0], block_load(p)),
        _mm_cmpeq_epi8(line.part[1], block_load(p + 16)));
    __m128i b = _mm_add_epi8(_mm_cmpeq_epi8(line.part[2], block_load(p + 32)),
        _mm_cmpeq_epi8(line.part[3], block_load(p + 48)));
    return _mm_sad_epu8(_mm_add_epi8(_mm_add_epi8(a, b), _mm_set1_epi8(4)), _mm_setzero_si128());
}

static inline uint32_t line_distance(line_t line, const uint8_t *p)
{
    __m128i parts = parts_distance(line, p);
    return (uint32_t) (_mm_cvtsi128_si32(parts) + _mm_extract_epi16(parts, 4));
}

#include "lref_x86.h"

static inline __m128i four_distances(line_t line, const uint8_t *src, const uint16_t *distance)
{
    __m128i ab = _mm_packus_epi32(
        parts_distance(line, src - 8 * distance[0]), parts_distance(line, src - 8 * distance[1]));
    __m128i cd = _mm_packus_epi32(
        parts_distance(line, src - 8 * distance[2]), parts_distance(line, src - 8 * distance[3]));
    return _mm_packus_epi32(ab, cd);
}

#include "lref_nearest.h"
#include "lref_core.h"

LREF_TARGET_END
#endif
