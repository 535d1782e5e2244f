/* The variant for AVX-512 with VBMI, VBMI2 and VPOPCNTDQ, as Ice Lake and Zen 4 have it and all
 * after them: a line is one vector, and so is what is known of 8, 32 or 64 lines. */
#include "lref_common.h"

#ifdef LREF_X86
#include <immintrin.h>

#include "lref_target.h"

LREF_TARGET("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,avx512vpopcntdq,avx2,bmi,"
            "bmi2,popcnt")

#define LREF_(name) lref_avx512_##name

typedef __m512i line_t;

static inline line_t line_load(const uint8_t *p)
{
    return _mm512_loadu_si512(p);
}

static inline __m512i line_load64(const uint64_t *p)
{
    return _mm512_loadu_si512(p);
}

static inline line_t line_fill(uint8_t byte)
{
    return _mm512_set1_epi8((char) byte);
}

/* A mask takes two cycles from where it is made to a register of the other kind or to memory: not
 * to both, and not to the one by way of the other. */
static inline uint64_t in_register(uint64_t x)
{
    __asm__("" : "+r"(x));
    return x;
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

static inline uint64_t low_bits(size_t n)
{
    return _bzhi_u64(~UINT64_C(0), (unsigned) n);
}

/* VPCOMPRESSB to memory is slow where it is microcoded, so it goes to a register. */
static inline void line_gather(
    uint8_t *dst, size_t room, line_t line, const uint8_t *p, uint64_t mask)
{
    line_t kept = _mm512_maskz_compress_epi8(mask, line);
    (void) p;
    if (room >= 64)
        _mm512_storeu_si512(dst, kept);
    else
        _mm512_mask_storeu_epi8(dst, low_bits(count_bits64(mask)), kept);
}

static inline void line_spread(
    uint8_t *dst, const uint8_t *ref, const uint8_t *kept, size_t room, uint64_t mask)
{
    line_t x;
    if (room >= 64)
        x = line_load(kept);
    else
        x = _mm512_maskz_loadu_epi8(low_bits(count_bits64(mask)), kept);
    _mm512_storeu_si512(dst, _mm512_mask_expand_epi8(line_load(ref), mask, x));
}

static inline void put(uint8_t *dst, const uint8_t *src, size_t n)
{
    for (size_t i = 0; i < n; i += 64)
        _mm512_mask_storeu_epi8(dst + i, low_bits(n - i < 64 ? n - i : 64), line_load(src + i));
}

#define LREF_SLOTS
#include "lref_x86.h"

/* ---- encoder ----------------------------------------------------------------------------- */

#define LREF_SEARCH
#define LREF_MASKS

/* As in lref_core.h.  Which bytes differ from each reference goes through memory, where it can
 * be counted for eight lines at a time. */
static inline void search(lines_t *lines, const uint8_t *page, size_t at, uint16_t *table)
{
    const __m512i hash = _mm512_set1_epi64(LREF_HASH);
    uint16_t slots[64][8], old[64][8];
    uint64_t differs[8][64];
    uint8_t best[64];
    size_t n = 0, first;
    for (unsigned l = 0; l < 64; l++) {
        const line_t line = line_load(page + 64 * l);
        const __m512i product = _mm512_slli_epi64(_mm512_mul_epu32(line, hash), 32);
        const uint64_t nonzero = in_register(line_nonzero(line));
        lines->nonzero[n] = nonzero;
        lines->full[n] = (uint8_t) l;
        _mm_storeu_si128((__m128i *) slots[n],
            _mm512_cvtepi64_epi16(_mm512_srli_epi64(product, 64 - LREF_TABLE_BITS)));
        n += nonzero != 0;
    }
    lines->n = n;
    lines->first = first = at == 0 && n > 0 && lines->full[0] == 0;
    for (size_t i = 0; i < n; i++) {
        const unsigned pos = (unsigned) (at / 8 + 8 * lines->full[i]);
        place_distances(old[i], slots[i], pos, pos < FARTHEST ? pos : FARTHEST, table);
    }
    for (unsigned j = 0; j < 8; j++)
        differs[j][0] = ~UINT64_C(0);
    for (size_t i = first; i < n; i++) {
        const uint8_t *src = page + 64 * lines->full[i];
        const line_t line = line_load(src);
        for (unsigned j = 0; j < 8; j++)
            differs[j][i] = line_differs(line, src - 8 * (size_t) old[i][j]);
    }
    for (size_t i = 0; i < n; i += 8) {
        const __m512i nonzero = line_load64(lines->nonzero + i);
        const __m512i zero = _mm512_popcnt_epi64(nonzero);
        __m512i mask = line_load64(differs[0] + i), cost = _mm512_popcnt_epi64(mask);
        __m512i which = _mm512_setzero_si512();
        __mmask8 better;
        for (unsigned j = 1; j < 8; j++) {
            const __m512i other = line_load64(differs[j] + i), count = _mm512_popcnt_epi64(other);
            better = _mm512_cmplt_epu64_mask(count, cost);
            cost = _mm512_min_epu64(cost, count);
            mask = _mm512_mask_blend_epi64(better, mask, other);
            which = _mm512_mask_blend_epi64(better, which, _mm512_set1_epi64(j));
        }
        _mm_storel_epi64((__m128i *) (best + i), _mm512_cvtepi64_epi8(which));
        cost = _mm512_add_epi64(cost, _mm512_set1_epi64(1));
        better = _mm512_cmplt_epu64_mask(cost, zero);
        _mm512_storeu_si512(lines->mask + i, _mm512_mask_blend_epi64(better, nonzero, mask));
        cost = _mm512_min_epu64(cost, zero);
        _mm_storel_epi64((__m128i *) (lines->least + i), _mm512_cvtepi64_epi8(cost));
        cost = _mm512_mask_blend_epi64(better, _mm512_set1_epi64(255), cost);
        _mm_storel_epi64((__m128i *) (lines->limit + i), _mm512_cvtepi64_epi8(cost));
    }
    for (size_t i = 0; i < n; i++)
        lines->near[i] = old[i][best[i]];
}

#define LREF_HEADS

static inline size_t take_distances(
    uint8_t *distances, const lines_t *lines, uint64_t *has_ref, uint64_t *has_new)
{
    const __m512i words = _mm512_set1_epi16(CHOICE_NEW - 1), news = _mm512_set1_epi16(CHOICE_NEW);
    const __m512i before = _mm512_set1_epi16(NEAREST - 1);
    const __m512i a = _mm512_loadu_si512(lines->choice), b = _mm512_loadu_si512(lines->choice + 32);
    __m512i x = _mm512_castsi256_si512(_mm512_cvtepi16_epi8(_mm512_sub_epi16(a, before)));
    x = _mm512_inserti64x4(x, _mm512_cvtepi16_epi8(_mm512_sub_epi16(b, before)), 1);
    *has_ref = _mm512_test_epi16_mask(a, words) | (uint64_t) _mm512_test_epi16_mask(b, words) << 32;
    *has_new = _mm512_test_epi16_mask(a, news) | (uint64_t) _mm512_test_epi16_mask(b, news) << 32;
    _mm512_storeu_si512(distances, _mm512_maskz_compress_epi8(*has_new, x));
    return count_bits64(*has_new);
}

static inline size_t take_masks(
    uint8_t *masks, uint8_t *words, const lines_t *lines, uint64_t *has_mask)
{
    uint64_t which[8];
    size_t taken = 0;
    line_t x;
    for (unsigned g = 0; g < 8; g++) {
        x = line_load64(lines->kept + 8 * g);
        which[g] = line_nonzero(x);
        _mm512_storeu_si512(masks + taken, _mm512_maskz_compress_epi8(which[g], x));
        taken += count_bits64(which[g]);
    }
    x = line_load64(which);
    *has_mask = line_nonzero(x);
    _mm512_storeu_si512(words, _mm512_maskz_compress_epi8(*has_mask, x));
    return taken;
}

static const _Alignas(64) uint8_t code_of[256] = {
#define IS(code, mask) [mask] = (code),
    LREF_CODES(IS)
#undef IS
};

static inline void code_masks(uint8_t *codes, const uint8_t *masks, size_t n)
{
    const __m512i a = line_load(code_of), b = line_load(code_of + 64),
                  c = line_load(code_of + 128), d = line_load(code_of + 192);
    for (size_t i = 0; i < n; i += 64) {
        const __m512i x = line_load(masks + i);
        _mm512_storeu_si512(codes + i,
            _mm512_mask_blend_epi8(_mm512_movepi8_mask(x), _mm512_permutex2var_epi8(a, x, b),
                _mm512_permutex2var_epi8(c, x, d)));
    }
}

static inline void code_own(uint8_t *codes, const uint8_t *masks, size_t n, const uint8_t *own)
{
    for (size_t i = 0; i < n; i += 64) {
        __m512i code = line_load(codes + i);
        for (unsigned k = 0; k < OWN; k++)
            code = _mm512_mask_blend_epi8(line_differs(line_fill(own[k]), masks + i),
                line_fill((uint8_t) (OWN_FIRST + k)), code);
        _mm512_storeu_si512(codes + i, code);
    }
}

static inline size_t take_escapes(
    uint8_t *escapes, const uint8_t *codes, const uint8_t *masks, size_t n)
{
    size_t taken = 0;
    for (size_t i = 0; i < n; i += 64) {
        const uint64_t none = ~line_nonzero(line_load(codes + i));
        _mm512_storeu_si512(
            escapes + taken, _mm512_maskz_compress_epi8(none, line_load(masks + i)));
        taken += count_bits64(none);
    }
    return taken;
}

static inline void pack_codes(uint8_t *dst, const uint8_t *codes, size_t n)
{
    const __m512i weights = _mm512_set1_epi16(16 << 8 | 1);
    uint8_t packed[256 + 64];
    for (size_t i = 0; i < n; i += 32)
        _mm256_storeu_si256((__m256i *) (packed + i),
            _mm512_cvtepi16_epi8(_mm512_maddubs_epi16(line_load(codes + 2 * i), weights)));
    put(dst, packed, n);
}

/* ---- decoder ----------------------------------------------------------------------------- */

static inline size_t count_masks(
    uint64_t *which, const uint8_t *words, size_t n_words, uint64_t has_mask)
{
    const __m512i x = _mm512_maskz_expand_epi8(
        has_mask, _mm512_maskz_loadu_epi8(low_bits(n_words), words));
    _mm512_storeu_si512(which, x);
    return (size_t) _mm512_reduce_add_epi64(_mm512_popcnt_epi64(x));
}

static inline size_t read_codes(uint8_t *masks, uint64_t *none, const uint8_t *codes,
    size_t n_masks, const uint8_t *mask_of)
{
    const __m512i table = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *) mask_of));
    size_t n_escapes = 0;
    for (size_t i = 0; i < n_masks; i += 64) {
        const size_t n = n_masks - i < 64 ? n_masks - i : 64;
        __m512i x = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(
            (__mmask32) low_bits((n + 1) / 2), codes + i / 2));
        x = _mm512_and_si512(_mm512_or_si512(x, _mm512_slli_epi16(x, 4)), line_fill(15));
        x = _mm512_shuffle_epi8(table, x);
        _mm512_storeu_si512(masks + i, x);
        none[i / 64] = ~line_nonzero(x) & low_bits(n);
        n_escapes += count_bits64(none[i / 64]);
    }
    return n_escapes;
}

static inline void fill_escapes(
    uint8_t *masks, const uint64_t *none, const uint8_t *escapes, size_t n_masks)
{
    for (size_t i = 0; i < n_masks; i += 64) {
        const unsigned n = count_bits64(none[i / 64]);
        const __m512i x = _mm512_maskz_loadu_epi8(low_bits(n), escapes);
        _mm512_storeu_si512(
            masks + i, _mm512_mask_expand_epi8(line_load(masks + i), none[i / 64], x));
        escapes += n;
    }
}

static inline size_t spread_masks(uint64_t *kept, const uint64_t *which, const uint8_t *words,
    uint64_t has_mask, const uint8_t *masks)
{
    __m512i sum = _mm512_setzero_si512();
    (void) words, (void) has_mask;
    for (unsigned g = 0; g < 8; g++) {
        const __m512i x = _mm512_maskz_expand_epi8(which[g], line_load(masks));
        _mm512_storeu_si512(kept + 8 * g, x);
        sum = _mm512_add_epi64(sum, _mm512_popcnt_epi64(x));
        masks += count_bits64(which[g]);
    }
    return (size_t) _mm512_reduce_add_epi64(sum);
}

#define EACH_4(f, l) f(l), f((l) + 1), f((l) + 2), f((l) + 3)
#define EACH_16(f, l) EACH_4(f, l), EACH_4(f, (l) + 4), EACH_4(f, (l) + 8), EACH_4(f, (l) + 12)
#define EACH_LINE(f) EACH_16(f, 0), EACH_16(f, 16), EACH_16(f, 32), EACH_16(f, 48)

/* Bits 0 to l. */
#define UP_TO(l) ~UINT64_C(0) >> (63 - (l))
static const _Alignas(64) uint64_t up_to[64] = {EACH_LINE(UP_TO)};

/* Where lines begin, in words. */
#define PLACE(l) (8 * (l))
static const _Alignas(64) uint16_t line_places[64] = {EACH_LINE(PLACE)};

static inline int fill_lines(uint8_t *page, size_t at, uint64_t has_ref, uint64_t has_new,
    const uint8_t *distances, const uint8_t *lits, const uint8_t *end, const uint64_t *kept)
{
    uint8_t given[64];
    uint16_t back[64];
    uint64_t bad;
    __m512i x, half[2];
    /* How many distances have been given by each line, 0 for the one that holds at first. */
    for (unsigned g = 0; g < 8; g++) {
        x = _mm512_and_si512(_mm512_set1_epi64((long long) has_new), line_load64(up_to + 8 * g));
        _mm_storel_epi64(
            (__m128i *) (given + 8 * g), _mm512_cvtepi64_epi8(_mm512_popcnt_epi64(x)));
    }
    /* The distances that there are, and 64 behind the last: 0 - 1 refers to that, for if all 64
     * are there each line has one. */
    x = _mm512_mask_loadu_epi8(line_fill(1), low_bits(count_bits64(has_new)), distances);
    x = _mm512_permutexvar_epi8(_mm512_add_epi8(line_load(given), line_fill(255)), x);
    bad = ~line_nonzero(x);
    half[0] = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(x));
    half[1] = _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(x, 1));
    for (unsigned g = 0; g < 2; g++) {
        const __m512i here = _mm512_set1_epi16((short) (at / 8)),
                      places = _mm512_add_epi16(here, _mm512_loadu_si512(line_places + 32 * g));
        x = _mm512_add_epi16(half[g], _mm512_set1_epi16(NEAREST - 1));
        bad |= (uint64_t) _mm512_cmpgt_epu16_mask(x, places) << 32 * g;
        _mm512_storeu_si512(back + 32 * g, _mm512_slli_epi16(x, 3));
    }
    if ((bad & has_ref) != 0)
        return -1;
    for (unsigned l = 0; l < 64; l++) {
        const uint8_t *ref = page - back[l];
        ref = has_ref & 1 ? ref : zeros;    /* no branch, in this form */
        has_ref >>= 1;
        line_spread(page, ref, lits, (size_t) (end - lits), kept[l]);
        lits += count_bits64(kept[l]);
        page += 64;
    }
    return 0;
}

#include "lref_core.h"

LREF_TARGET_END
#endif
