/* The variant for NEON, which every AArch64 processor has. */
#include "lref_common.h"

#ifdef LREF_NEON
#include <arm_neon.h>

#define LREF_(name) lref_neon_##name

typedef struct {
    uint8x16_t part[4];
} line_t;

static inline line_t line_load(const uint8_t *p)
{
    return (line_t) {{vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)}};
}

static inline line_t line_fill(uint8_t byte)
{
    uint8x16_t x = vdupq_n_u8(byte);
    return (line_t) {{x, x, x, x}};
}

/* Bit i: byte i of four vectors, each 0 or 255, is set. */
static inline uint64_t bits_of(uint8x16_t a, uint8x16_t b, uint8x16_t c, uint8x16_t d)
{
    const uint8x16_t bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    uint8x16_t low = vpaddq_u8(vandq_u8(a, bit), vandq_u8(b, bit)),
               high = vpaddq_u8(vandq_u8(c, bit), vandq_u8(d, bit));
    low = vpaddq_u8(low, high);
    low = vpaddq_u8(low, low);
    return vgetq_lane_u64(vreinterpretq_u64_u8(low), 0);
}

static inline uint64_t line_differs(line_t line, const uint8_t *p)
{
    line_t other = line_load(p);
    return ~bits_of(vceqq_u8(line.part[0], other.part[0]), vceqq_u8(line.part[1], other.part[1]),
        vceqq_u8(line.part[2], other.part[2]), vceqq_u8(line.part[3], other.part[3]));
}

static inline uint64_t line_nonzero(line_t line)
{
    return ~bits_of(vceqzq_u8(line.part[0]), vceqzq_u8(line.part[1]), vceqzq_u8(line.part[2]),
        vceqzq_u8(line.part[3]));
}

static inline uint32_t line_distance(line_t line, const uint8_t *p)
{
    line_t other = line_load(p);
    uint8x16_t a =
        vaddq_u8(vceqq_u8(line.part[0], other.part[0]), vceqq_u8(line.part[1], other.part[1]));
    uint8x16_t b =
        vaddq_u8(vceqq_u8(line.part[2], other.part[2]), vceqq_u8(line.part[3], other.part[3]));
    return (uint32_t) (64 + vaddvq_s8(vreinterpretq_s8_u8(vaddq_u8(a, b))));
}

static inline void gather(uint8_t *dst, uint64_t word, unsigned m)
{
    vst1_u8(dst, vtbl1_u8(vcreate_u8(word), vld1_u8(lref_gather[m])));
}

static inline void spread(uint8_t *dst, uint64_t old, uint64_t kept, unsigned m)
{
    vst1_u8(dst, vtbx1_u8(vcreate_u8(old), vcreate_u8(kept), vld1_u8(lref_spread[m])));
}

static inline void unpack_codes(
    uint8_t *masks, const uint8_t *codes, size_t n, const uint8_t *mask_of)
{
    const uint8x16_t mask = vld1q_u8(mask_of);
    for (size_t i = 0; i < n; i += 8) {
        uint8x8_t x = vld1_u8(codes + i);
        uint8x8x2_t both = vzip_u8(vand_u8(x, vdup_n_u8(15)), vshr_n_u8(x, 4));
        vst1q_u8(masks + 2 * i, vqtbl1q_u8(mask, vcombine_u8(both.val[0], both.val[1])));
    }
}

#include "lref_core.h"
#endif
