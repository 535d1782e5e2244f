/* lref_common.h: what the variants share. */
#ifndef LREF_COMMON_H
#define LREF_COMMON_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "lref.h"
#include "lref_tables.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define LREF_X86
#endif
#if defined(__aarch64__) && defined(__ARM_NEON) && defined(__GNUC__) && \
    __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define LREF_NEON
#endif

#define LREF_TABLE_BITS 10
#define LREF_HASH 0x9e3779b1u

typedef struct {
    /* places of words, in words from the start of the page */
    uint16_t table[1 << LREF_TABLE_BITS];
} lref_work;

/* the smallest distance, in words: a reference never overlaps its line */
#define NEAREST 8u
#define FARTHEST (NEAREST + 254u)   /* the largest that a byte holds */
#define OWN 3u                      /* codes that each piece gives to masks of its own */
#define OWN_FIRST 13u
#define SAMPLES 16u                 /* escapes among which these are looked for */
#define HEAD (24u + OWN)
#define SAMPLED 8u                  /* lines by which a page is classified */

/* What pack() knows of the lines of a piece. */
typedef struct {
    /* those that are not zeros, one after another, and one more to look at (see choose) */
    size_t n;
    size_t first;           /* 1: the first of them is the page's first line */
    uint8_t full[64 + 1];   /* which line it is */
    uint64_t nonzero[64];   /* bit i: byte i is not zero */
    uint16_t near[64];      /* the best reference but the last distance */
    uint8_t least[64];      /* what it would cost, or zeros if that is less */
    uint8_t limit[64];      /* the same; 255 where zeros are the better */
    uint64_t mask[64];      /* that of the better of both, by variants with LREF_MASKS */
    /* all lines: the reference in words, 0 for zeros, and whether it is a new distance; the bytes
     * that differ from it */
    uint16_t choice[64];
    uint64_t kept[64];
} lines_t;

#define CHOICE_NEW 512u

static inline uint64_t load64(const void *p)
{
    uint64_t x;
    memcpy(&x, p, 8);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    x = __builtin_bswap64(x);
#endif
    return x;
}

static inline void store64(void *p, uint64_t x)
{
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    x = __builtin_bswap64(x);
#endif
    memcpy(p, &x, 8);
}

#if defined(__GNUC__)
#define count_bits64(x) ((unsigned) __builtin_popcountll(x))
#define count_bits(x) ((unsigned) __builtin_popcount(x))
#else
static inline unsigned count_bits64(uint64_t x)
{
    x -= x >> 1 & UINT64_C(0x5555555555555555);
    x = (x & UINT64_C(0x3333333333333333)) + (x >> 2 & UINT64_C(0x3333333333333333));
    x = (x + (x >> 4)) & UINT64_C(0x0f0f0f0f0f0f0f0f);
    return (unsigned) (x * UINT64_C(0x0101010101010101) >> 56);
}
#define count_bits(x) count_bits64(x)
#endif

static const uint8_t zeros[64];

/* 1 in each byte of the word that is not zero. */
static inline uint64_t nonzero_ones(uint64_t word)
{
    const uint64_t low = UINT64_C(0x7f7f7f7f7f7f7f7f);
    return ((((word & low) + low) | word) & ~low) >> 7;
}

/* Bit i: byte i of the word is not zero. */
static inline unsigned nonzero_bytes(uint64_t word)
{
    return (unsigned) (nonzero_ones(word) * UINT64_C(0x0102040810204080) >> 56);
}

/* pack: codes the piece at page + at, with what lies before it in the page to refer to, in at
 * most cap bytes or else returns 0.  unpack: the inverse; 0, or -1 for damage. */
#define LREF_VARIANT(name) \
    LREF_HIDDEN size_t lref_##name##_pack( \
        const uint8_t *page, size_t at, lref_work *work, uint8_t *dst, size_t cap); \
    LREF_HIDDEN int lref_##name##_unpack(const uint8_t *src, size_t n, uint8_t *page, size_t at); \
    LREF_HIDDEN enum lref_class lref_##name##_classify(const uint8_t *src, size_t n);
LREF_VARIANT(portable)
LREF_VARIANT(sse41)
LREF_VARIANT(avx2)
LREF_VARIANT(avx512)
LREF_VARIANT(neon)
#undef LREF_VARIANT

#endif
