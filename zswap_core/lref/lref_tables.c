/* The tables: constant expressions, spelled by the preprocessor, as C11 has no other way to fill one before the program runs. */
#include "lref_tables.h"

#define BIT(m, j) ((m) >> (j) & 1)
/* How many of the bits below j are set, of eight: each is brought to a digit of its own, and the digits are summed up. */
#define BELOW(m, j) \
    ((int) ((((m) & ((1 << (j)) - 1)) * UINT64_C(0x200040008001) & UINT64_C(0x111111111111111)) % 15))

#define EACH_4(f, m) f(m), f((m) + 1), f((m) + 2), f((m) + 3)
#define EACH_16(f, m) EACH_4(f, m), EACH_4(f, (m) + 4), EACH_4(f, (m) + 8), EACH_4(f, (m) + 12)
#define EACH_64(f, m) EACH_16(f, m), EACH_16(f, (m) + 16), EACH_16(f, (m) + 32), EACH_16(f, (m) + 48)
#define EACH_256(f) EACH_64(f, 0), EACH_64(f, 64), EACH_64(f, 128), EACH_64(f, 192)

#define SPREAD(m, j) (BIT(m, j) ? BELOW(m, j) : 0x80)
#define SPREADS(m) \
    {SPREAD(m, 0), SPREAD(m, 1), SPREAD(m, 2), SPREAD(m, 3), SPREAD(m, 4), SPREAD(m, 5), SPREAD(m, 6), SPREAD(m, 7)}
const uint8_t lref_spread[256][8] = {EACH_256(SPREADS)};

#define FROM(m, k, j) (BIT(m, j) && BELOW(m, j) == (k) ? (j) : 0)
#define GATHER(m, k) \
    (FROM(m, k, 1) + FROM(m, k, 2) + FROM(m, k, 3) + FROM(m, k, 4) + FROM(m, k, 5) + FROM(m, k, 6) + FROM(m, k, 7))
#define GATHERS(m) \
    {GATHER(m, 0), GATHER(m, 1), GATHER(m, 2), GATHER(m, 3), GATHER(m, 4), GATHER(m, 5), GATHER(m, 6), GATHER(m, 7)}
const uint8_t lref_gather[256][8] = {EACH_256(GATHERS)};

#define DOWN(m, j) ((j) - BELOW(m, j))
#define MOVES(m, i, j) \
    (BIT(m, j) && BIT(DOWN(m, j), i) ? UINT64_C(255) << 8 * ((j) - (DOWN(m, j) & ((1 << (i)) - 1))) : 0)
#define STEP(m, i) \
    (MOVES(m, i, 1) | MOVES(m, i, 2) | MOVES(m, i, 3) | MOVES(m, i, 4) | MOVES(m, i, 5) | MOVES(m, i, 6) | MOVES(m, i, 7))
#define BYTE(m, j) (BIT(m, j) ? UINT64_C(255) << 8 * (j) : 0)
#define KEPT(m) \
    (BYTE(m, 0) | BYTE(m, 1) | BYTE(m, 2) | BYTE(m, 3) | BYTE(m, 4) | BYTE(m, 5) | BYTE(m, 6) | BYTE(m, 7))
#define STEPS(m) {STEP(m, 0), STEP(m, 1), STEP(m, 2), KEPT(m)}
const uint64_t lref_steps[256][4] = {EACH_256(STEPS)};
