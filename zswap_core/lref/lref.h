/* lref.h: a codec for pages of process memory.
 *
 * A line of 64 bytes is mostly another one from not far before it with a few bytes changed: what
 * is kept is where that one lies, which bytes differ, and these bytes.  Faster than LZ4 both
 * ways and denser on heaps, of no use on text.  docs/lref.md has the format, which is stable,
 * and why the decoder is safe on any bytes.
 *
 * No state, no memory of its own, no locks: any thread may call anything.  C11 and nothing else;
 * take the folder along.
 */
#ifndef LREF_H
#define LREF_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The last byte of a payload says what it is.  The first three are this codec's own; the others
 * are kept free for callers that put another codec in its place or behind it, and
 * lref_decompress() refuses them. */
#define LREF_RAW 0xa0u       /* the bytes themselves */
#define LREF_PIECE 0xa1u     /* one piece: 4096 bytes */
#define LREF_PIECES 0xa2u    /* several */
#define LREF_LZ4 0xa3u       /* an LZ4 block of the bytes */
#define LREF_THEN_LZ4 0xa4u  /* an LZ4 block of a payload of the first three kinds */
#define LREF_ZSTD 0xa5u      /* a zstd frame, without its magic number, of the bytes */
#define LREF_THEN_ZSTD 0xa6u /* and of such a payload */

#define LREF_PIECE_SIZE 4096u
#define LREF_SIZE_MAX 65536u

/* Scratch for lref_compress(), aligned as for uint64_t.  Holds nothing between two calls, and no
 * bytes of the page. */
#define LREF_WORKSPACE 2048u

/* One way to do it.  All of them write the same bytes and read each other's. */
typedef struct lref_variant lref_variant;

/* The i-th variant that was built in, the best first; NULL behind the last. */
const lref_variant *lref_variant_at(unsigned i);
const char *lref_variant_name(const lref_variant *variant);
/* Whether this processor has what it needs. */
int lref_variant_works(const lref_variant *variant);

/* Room for the payload of any n bytes. */
size_t lref_bound(size_t n);

/* Compresses n <= LREF_SIZE_MAX bytes.  Returns the size of the payload, or 0 when it does not
 * fit in cap: found out early, so a low cap saves time.  What is no whole number of pieces, or
 * does not shrink, is kept as LREF_RAW. */
size_t lref_compress(const lref_variant *variant, void *workspace, const uint8_t *src, size_t n,
    uint8_t *dst, size_t cap);

/* Returns the size of what came out, never more than cap, or -1 when the payload is damaged.
 * Reads nothing but src[0 .. n) and writes nothing but dst[0 .. cap), whatever the payload
 * holds. */
int64_t lref_decompress(
    const lref_variant *variant, const uint8_t *src, size_t n, uint8_t *dst, size_t cap);

/* What a page of n bytes, a whole number of pieces, looks like: by a few of its lines, in a
 * small part of the time that compressing it would take. */
enum lref_class {
    LREF_HEAP,      /* what this codec is for */
    LREF_TEXT,      /* LZ4 does better */
    LREF_RANDOM     /* nothing will shrink it */
};
enum lref_class lref_classify(const lref_variant *variant, const uint8_t *src, size_t n);

#ifdef __cplusplus
}
#endif

#endif
