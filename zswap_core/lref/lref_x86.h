/* lref_x86.h: words by PSHUFB, for every variant on x86-64. */
static inline void gather(uint8_t *dst, uint64_t word, unsigned m)
{
    __m128i from = _mm_loadl_epi64((const __m128i *) lref_gather[m]);
    _mm_storel_epi64((__m128i *) dst, _mm_shuffle_epi8(_mm_cvtsi64_si128((long long) word), from));
}

static inline void spread(uint8_t *dst, uint64_t old, uint64_t kept, unsigned m)
{
    __m128i to = _mm_loadl_epi64((const __m128i *) lref_spread[m]);
    __m128i x = _mm_shuffle_epi8(_mm_cvtsi64_si128((long long) kept), to);
    _mm_storel_epi64((__m128i *) dst, _mm_blendv_epi8(x, _mm_cvtsi64_si128((long long) old), to));
}

static inline void unpack_codes(
    uint8_t *masks, const uint8_t *codes, size_t n, const uint8_t *mask_of)
{
    const __m128i low = _mm_set1_epi8(15), mask = _mm_loadu_si128((const __m128i *) mask_of);
    for (size_t i = 0; i < n; i += 8) {
        __m128i x = _mm_loadl_epi64((const __m128i *) (codes + i));
        x = _mm_unpacklo_epi8(_mm_and_si128(x, low), _mm_and_si128(_mm_srli_epi16(x, 4), low));
        _mm_storeu_si128((__m128i *) (masks + 2 * i), _mm_shuffle_epi8(mask, x));
    }
}

#define LREF_DISTANCES

/* find_distances() of lref_core.h, from where in the table the words' places are. */
static inline void place_distances(
    uint16_t *distance, const uint16_t *slots, unsigned pos, unsigned reach, uint16_t *table)
{
    const __m128i multiple = _mm_setr_epi8(8, 8, 8, 9, 8, 10, 12, 14, 8, 8, 8, 8, 8, 8, 8, 8);
    const __m128i nearest = _mm_set1_epi16(NEAREST), most = _mm_set1_epi16((short) reach);
    __m128i x = _mm_add_epi16(_mm_set1_epi16((short) pos), _mm_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7)),
            a, b, longer;
    uint16_t *slot[8];
    for (unsigned j = 0; j < 8; j++)
        slot[j] = table + slots[j];
    a = _mm_cvtsi32_si128(*slot[0]);
    b = _mm_cvtsi32_si128(*slot[4]);
    a = _mm_insert_epi16(a, *slot[1], 1);
    b = _mm_insert_epi16(b, *slot[5], 1);
    a = _mm_insert_epi16(a, *slot[2], 2);
    b = _mm_insert_epi16(b, *slot[6], 2);
    a = _mm_insert_epi16(a, *slot[3], 3);
    b = _mm_insert_epi16(b, *slot[7], 3);
    for (unsigned j = 0; j < 8; j++)
        *slot[j] = (uint16_t) (pos + j);
    x = _mm_sub_epi16(x, _mm_unpacklo_epi64(a, b));
    longer = _mm_shuffle_epi8(multiple, _mm_or_si128(x, _mm_set1_epi16((short) 0xff00)));
    x = _mm_blendv_epi8(
        x, longer, _mm_cmpeq_epi16(x, _mm_min_epu16(x, _mm_set1_epi16(NEAREST - 1))));
    x = _mm_blendv_epi8(nearest, x, _mm_cmpeq_epi16(x, _mm_min_epu16(x, most)));
    _mm_storeu_si128((__m128i *) distance, x);
}

#ifndef LREF_SLOTS
static inline void find_distances(
    uint16_t *distance, const uint8_t *src, unsigned pos, unsigned reach, uint16_t *table)
{
    uint16_t slots[8];
    for (unsigned j = 0; j < 8; j++)
        slots[j] = (uint16_t) ((uint32_t) load64(src + 8 * j) * LREF_HASH >> (32 - LREF_TABLE_BITS));
    place_distances(distance, slots, pos, reach, table);
}
#endif
