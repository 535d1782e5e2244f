/* The variant in plain C: words instead of vectors, steps instead of shuffles. */
#include "lref_common.h"

#define LREF_(name) lref_portable_##name

#if defined(__GNUC__)
/* What every compiler of this kind turns into vectors, of whatever size it has, or else into
 * words. */
typedef uint8_t block_t __attribute__((vector_size(16)));
typedef int8_t signs_t __attribute__((vector_size(16)));
typedef struct {
    block_t part[4];
} line_t;

static inline block_t block_load(const uint8_t *p)
{
    block_t x;
    memcpy(&x, p, 16);
    return x;
}

static inline line_t line_load(const uint8_t *p)
{
    return (line_t) {{block_load(p), block_load(p + 16), block_load(p + 32), block_load(p + 48)}};
}

static inline uint32_t line_distance(line_t line, const uint8_t *p)
{
    /* -1 for each pair of equal bytes. */
    signs_t same = (signs_t) (line.part[0] == block_load(p)) +
                   (signs_t) (line.part[1] == block_load(p + 16)) +
                   (signs_t) (line.part[2] == block_load(p + 32)) +
                   (signs_t) (line.part[3] == block_load(p + 48));
    signs_t differ = same + 4;
    uint64_t half[2];
    memcpy(half, &differ, 16);
    return (uint32_t) ((half[0] + half[1]) * UINT64_C(0x0101010101010101) >> 56);
}
#else
typedef struct {
    uint64_t part[8];
} line_t;

static inline line_t line_load(const uint8_t *p)
{
    line_t line;
    memcpy(&line, p, 64);
    return line;
}

static inline uint32_t line_distance(line_t line, const uint8_t *p)
{
    uint64_t sum = 0;
    for (unsigned j = 0; j < 8; j++)
        sum += nonzero_ones(load64(&line.part[j]) ^ load64(p + 8 * j));
    return (uint32_t) (sum * UINT64_C(0x0101010101010101) >> 56);
}
#endif

static inline line_t line_fill(uint8_t byte)
{
    line_t line;
    memset(&line, byte, 64);
    return line;
}

static inline uint64_t line_differs(line_t line, const uint8_t *p)
{
    uint64_t mask = 0, own[8];
    memcpy(own, &line, 64);
    for (unsigned j = 0; j < 8; j++)
        mask |= (uint64_t) nonzero_bytes(load64(&own[j]) ^ load64(p + 8 * j)) << 8 * j;
    return mask;
}

static inline uint64_t line_nonzero(line_t line)
{
    return line_differs(line, zeros);
}

static inline void gather(uint8_t *dst, uint64_t word, unsigned m)
{
    const uint64_t *steps = lref_steps[m];
    uint64_t moving;
    word &= steps[3];
    moving = word & steps[0];
    word = (word ^ moving) | moving >> 8;
    moving = word & steps[1];
    word = (word ^ moving) | moving >> 16;
    moving = word & steps[2];
    word = (word ^ moving) | moving >> 32;
    store64(dst, word);
}

static inline void spread(uint8_t *dst, uint64_t old, uint64_t kept, unsigned m)
{
    const uint64_t *steps = lref_steps[m];
    kept = (kept & ~steps[2]) | (kept << 32 & steps[2]);
    kept = (kept & ~steps[1]) | (kept << 16 & steps[1]);
    kept = (kept & ~steps[0]) | (kept << 8 & steps[0]);
    store64(dst, (kept & steps[3]) | (old & ~steps[3]));
}

static inline void unpack_codes(
    uint8_t *masks, const uint8_t *codes, size_t n, const uint8_t *mask_of)
{
    for (size_t i = 0; i < n; i++) {
        masks[2 * i] = mask_of[codes[i] & 15];
        masks[2 * i + 1] = mask_of[codes[i] >> 4];
    }
}

#include "lref_core.h"
