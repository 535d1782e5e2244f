/* lref_nearest.h: find_nearest() of lref_core.h, for variants that have
 *   four_distances(line, src, distance) the bytes that differ at each of four distances, each as
 *   two words to be summed up */
#define LREF_NEAREST

static inline uint32_t find_nearest(line_t line, const uint8_t *src, const uint16_t *distance)
{
    __m128i all = _mm_hadd_epi16(
        four_distances(line, src, distance), four_distances(line, src, distance + 4));
    uint32_t least = (uint32_t) _mm_cvtsi128_si32(_mm_minpos_epu16(all));
    return least << 16 | distance[least >> 16];
}
