/* lref_tables.h: what to do with the eight bytes of a word for each of the 256 ways to keep some of them. */
#ifndef LREF_TABLES_H
#define LREF_TABLES_H

#include <stdint.h>

#if defined(__GNUC__)
#define LREF_HIDDEN __attribute__((visibility("hidden")))
#else
#define LREF_HIDDEN
#endif

/* spread[m][j]: which of the kept bytes goes to byte j; 0x80: none. */
extern LREF_HIDDEN const uint8_t lref_spread[256][8];

/* gather[m][k]: where the k-th kept byte comes from; 0 behind the last. */
extern LREF_HIDDEN const uint8_t lref_gather[256][8];

/* The same without a shuffle: a kept byte j moves down by as many places as bytes below it are dropped, first by 1, then by
 * 2, then by 4 as the bits of that number say.  steps[m][i]: the bytes that move in step i, where they are by then;
 * steps[m][3]: the bytes that are kept. */
extern LREF_HIDDEN const uint64_t lref_steps[256][4];

/* Masks with a code of four bits: those met most often in the heaps of Java, Node, Python and Perl. */
#define LREF_CODES(is) \
    is(1, 0x03) is(2, 0x01) is(3, 0x3f) is(4, 0xff) is(5, 0x0f) is(6, 0x10) is(7, 0x07) is(8, 0x02) is(9, 0xf0) \
    is(10, 0x30) is(11, 0x7f) is(12, 0xc0)

#endif
