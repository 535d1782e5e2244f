/* lref_core.h: the encoder and the decoder of one piece of 4096 bytes, written once for all
 * variants.  docs/lref.md has the format and the proof that the decoder stays where it may.
 *
 * A variant defines, and then includes this:
 *   LREF_(name)                     the name with the variant's own in it
 *   line_t, line_load(p)            64 bytes
 *   line_fill(byte)                 64 times the same
 *   line_nonzero(line)              bit i: byte i is not zero
 *   line_differs(line, p)           bit i: byte i differs from p[i]
 *   line_distance(line, p)          how many do
 *   gather(dst, word, m) the bytes of a word whose bits in m are set go to dst, one after
 *   another; writes 8 bytes
 *   spread(dst, old, kept, m)       the inverse: byte i of the word written is the next of
 *                                   `kept` if bit i of m is set, else that of `old`
 *   unpack_codes(masks, codes, n, mask_of)
 *                                   the masks that n bytes of codes, two in each, stand for; may
 *                                   read and write on to a multiple of 8 and 16
 * and may define LREF_LINES, and then line_gather(dst, room, line, p, mask) and line_spread(dst,
 * ref, kept, room, mask), the same for 64 bytes, of which they touch no more than `room` in the
 * payload.
 */

#ifndef LREF_LINES
static inline void line_gather(
    uint8_t *dst, size_t room, line_t line, const uint8_t *p, uint64_t mask)
{
    (void) room, (void) line;
    for (unsigned j = 0; j < 8; j++) {
        unsigned m = (unsigned) (mask >> 8 * j & 255);
        gather(dst, load64(p + 8 * j), m);
        dst += count_bits(m);
    }
}

#ifndef LREF_LINE_SPREAD
static inline void line_spread(
    uint8_t *dst, const uint8_t *ref, const uint8_t *kept, size_t room, uint64_t mask)
{
    (void) room;
    for (unsigned j = 0; j < 8; j++) {
        unsigned m = (unsigned) (mask >> 8 * j & 255);
        spread(dst + 8 * j, load64(ref + 8 * j), load64(kept), m);
        kept += count_bits(m);
    }
}
#endif
#endif

/* A page is seldom in a cache when its turn comes: asked for as a whole, its lines arrive side
 * by side. */
static inline void prefetch(const uint8_t *p, size_t n, int to_write)
{
#if defined(__GNUC__)
    for (size_t i = 0; i < n; i += 64)
        if (to_write)
            __builtin_prefetch(p + i, 1);
        else
            __builtin_prefetch(p + i, 0);
#endif
}

/* ---- encoder ----------------------------------------------------------------------------- */

/* A line waits long for what it asks of memory and of vectors: each of these loops does one
 * thing to all lines, so that the processor works on several at once. */

static inline uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

#ifndef LREF_DISTANCES
/* How far back, in words, those with the same lower half as the line's were last seen; and now
 * they are here. */
static inline void find_distances(
    uint16_t *distance, const uint8_t *src, unsigned pos, unsigned reach, uint16_t *table)
{
    /* For a distance too short the smallest multiple of it that is not. */
    static const uint8_t multiple[NEAREST] = {8, 8, 8, 9, 8, 10, 12, 14};
    uint32_t slot[8];
    for (unsigned j = 0; j < 8; j++)
        slot[j] = (uint32_t) load64(src + 8 * j) * LREF_HASH >> (32 - LREF_TABLE_BITS);
    for (unsigned j = 0; j < 8; j++) {
        uint32_t words = pos + j - table[slot[j]];
        words = words < NEAREST ? multiple[words] : words;
        distance[j] = (uint16_t) (words > reach ? NEAREST : words);
    }
    for (unsigned j = 0; j < 8; j++)
        table[slot[j]] = (uint16_t) (pos + j);
}
#endif

#ifndef LREF_NEAREST
/* The nearest of eight references, of equals the first: how many bytes differ << 16 | distance. */
static inline uint32_t find_nearest(line_t line, const uint8_t *src, const uint16_t *distance)
{
    uint32_t best = UINT32_MAX;
    for (uint32_t j = 0; j < 8; j++)
        best =
            least(best, line_distance(line, src - 8 * distance[j]) << 19 | j << 16 | distance[j]);
    return best >> 19 << 16 | (best & 0xffff);
}
#endif

/* The codes of masks, 0 for those that have none.  Both may be worked on up to a multiple of 32. */
static inline void code_masks(uint8_t *codes, const uint8_t *masks, size_t n)
{
    for (const uint8_t *end = masks + n; masks < end; masks += 32, codes += 32)
        for (unsigned k = 0; k < 32; k++) {
            const uint8_t mask = masks[k];
            uint8_t code = 0;
#define IS(c, m) code |= (uint8_t) (-(mask == (m)) & (c));
            LREF_CODES(IS)
#undef IS
            codes[k] = code;
        }
}

static inline void code_own(uint8_t *codes, const uint8_t *masks, size_t n, const uint8_t *own)
{
    const uint8_t first = own[0], second = own[1], third = own[2];
    for (const uint8_t *end = masks + n; masks < end; masks += 32, codes += 32)
        for (unsigned k = 0; k < 32; k++) {
            const uint8_t mask = masks[k];
            codes[k] |=
                (uint8_t) ((-(mask == first) & OWN_FIRST) | (-(mask == second) & (OWN_FIRST + 1)) |
                           (-(mask == third) & (OWN_FIRST + 2)));
        }
}

/* The masks without a code, one after another. */
static inline size_t take_escapes(
    uint8_t *escapes, const uint8_t *codes, const uint8_t *masks, size_t n)
{
    size_t taken = 0;
    for (size_t i = 0; i < n; i += 8) {
        unsigned none = ~nonzero_bytes(load64(codes + i)) & 255;
        gather(escapes + taken, load64(masks + i), none);
        taken += count_bits(none);
    }
    return taken;
}

/* Of some of the escapes, the three met most often among all. */
static inline void choose_own(uint8_t *own, uint8_t *escapes, size_t n)
{
    uint32_t some[SAMPLES];
    const size_t whole = (n + 63) & ~(size_t) 63;
    memset(own, 0, OWN);
    if (n < 4)
        return;
    memset(escapes + n, 0, 64);
    for (unsigned i = 0; i < SAMPLES; i++) {
        const uint8_t mask = escapes[i * n / SAMPLES];
        const line_t line = line_fill(mask);
        uint32_t others = 0;
        for (size_t k = 0; k < whole; k += 64)
            others += line_distance(line, escapes + k);
        some[i] = (uint32_t) (whole - others) << 8 | mask;
    }
    for (unsigned k = 0; k < OWN; k++) {
        uint32_t most = 1 << 8 | 255;       /* one that is met once gains nothing */
        for (unsigned i = 0; i < SAMPLES; i++)
            most = some[i] > most ? some[i] : most;
        if (most >> 8 == 1)
            return;
        own[k] = (uint8_t) most;
        for (unsigned i = 0; i < SAMPLES; i++)
            some[i] = some[i] == most ? 0 : some[i];
    }
}

static inline void pack_codes(uint8_t *dst, const uint8_t *codes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = (uint8_t) (codes[2 * i] | codes[2 * i + 1] << 4);
}

size_t LREF_(pack)(const uint8_t *page, size_t at, lref_work *work, uint8_t *dst, size_t cap)
{
    uint8_t masks[512 + 32], codes[512 + 32], escapes[512 + 64], lines[64 + 1], distances[64 + 1],
        own[OWN];
    uint8_t full[64 + 1];                   /* the lines that are not zeros */
    uint64_t nonzero[64];
    uint16_t old[64][8];
    uint32_t nearest[64];
    uint64_t has_ref = 0, has_new = 0, has_mask = 0;
    size_t n_full = 0, n_lits = 0, n_masks = 0, n_lines = 0, n_distances = 0, n_escapes, first;
    unsigned last = NEAREST;

    page += at;
    at /= 8;
    for (unsigned l = 0; l < 64; l++) {
        nonzero[l] = line_nonzero(line_load(page + 64 * l));
        full[n_full] = (uint8_t) l;
        n_full += nonzero[l] != 0;
    }
    for (size_t i = 0; i < n_full; i++) {
        const unsigned l = full[i], pos = (unsigned) (at + 8 * l);
        find_distances(old[i], page + 64 * l, pos, pos < FARTHEST ? pos : FARTHEST, work->table);
    }
    first = at == 0 && n_full > 0 && full[0] == 0;  /* there is nothing before the first line */
    nearest[0] = UINT32_C(64) << 16;
    for (size_t i = first; i < n_full; i++) {
        const uint8_t *src = page + 64 * full[i];
        nearest[i] = find_nearest(line_load(src), src, old[i]);
    }
    for (size_t i = 0; i < n_full; i++) {
        const unsigned l = full[i];
        const uint8_t *src = page + 64 * l;
        const line_t line = line_load(src);
        uint64_t mask = nonzero[l];
        uint32_t best, words;
        unsigned news, which;

        /* Bytes to keep, of equals the first, the distance; and no branches: which way they would go
         * is as unpredictable as the page. */
        best = least(count_bits64(mask) << 18,
            ((nearest[i] >> 16) + 1) << 18 | 1 << 16 | (nearest[i] & 0xffff));
        if (i >= first)
            best = least(best, line_distance(line, src - 8 * last) << 18 | 2 << 16 | last);
        words = best & 0xffff;
        news = (words != 0) & (words != last);
        mask = line_differs(line, src - 8 * words) | (mask & -(uint64_t) (words == 0));
        has_ref |= (uint64_t) (words != 0) << l;
        has_new |= (uint64_t) news << l;
        distances[n_distances] = (uint8_t) (words - NEAREST + 1);
        n_distances += news;
        last = words != 0 ? words : last;

        which = nonzero_bytes(mask);
        has_mask |= (uint64_t) (mask != 0) << l;
        lines[n_lines] = (uint8_t) which;
        n_lines += mask != 0;
        gather(masks + n_masks, mask, which);
        n_masks += count_bits(which);
        if (n_lits + count_bits64(mask) + (n_masks + 1) / 2 + n_lines + n_distances + HEAD > cap)
            return 0;
        line_gather(dst + n_lits, cap - n_lits, line, src, mask);
        n_lits += count_bits64(mask);
    }

    /* What fills up the last 32 has a code, and so is no escape. */
    memset(masks + n_masks, 0xff, 32);
    code_masks(codes, masks, n_masks);
    n_escapes = take_escapes(escapes, codes, masks, n_masks);
    choose_own(own, escapes, n_escapes);
    if (own[0] != 0) {
        code_own(codes, masks, n_masks, own);
        n_escapes = take_escapes(escapes, codes, masks, n_masks);
    }
    if (n_lits + n_escapes + (n_masks + 1) / 2 + n_lines + n_distances + HEAD > cap)
        return 0;
    dst += n_lits;
    memcpy(dst, escapes, n_escapes);
    dst += n_escapes;
    codes[n_masks] = 0;
    pack_codes(dst, codes, (n_masks + 1) / 2);
    dst += (n_masks + 1) / 2;
    memcpy(dst, lines, n_lines);
    dst += n_lines;
    memcpy(dst, distances, n_distances);
    dst += n_distances;
    memcpy(dst, own, OWN);
    store64(dst + OWN, has_ref);
    store64(dst + OWN + 8, has_new);
    store64(dst + OWN + 16, has_mask);
    return n_lits + n_escapes + (n_masks + 1) / 2 + n_lines + n_distances + HEAD;
}

/* ---- decoder ----------------------------------------------------------------------------- */

int LREF_(unpack)(const uint8_t *src, size_t n, uint8_t *page, size_t at)
{
    uint8_t masks[512 + 16], zero[64], mask_of[16];
    uint64_t full[64];
    uint64_t has_ref, has_new, has_mask;
    size_t n_distances, n_lines, n_masks = 0, n_codes, n_escapes = 0, n_lits = 0;
    const uint8_t *distances, *lines, *end, *lits = src;
    unsigned distance = 8 * NEAREST;

    if (n < HEAD)
        return -1;
    prefetch(src, n, 0);
    prefetch(page + at, 4096, 1);
    n -= HEAD;
#define IS(code, mask) mask_of[code] = mask;
    mask_of[0] = 0;
    LREF_CODES(IS)
#undef IS
    memcpy(mask_of + OWN_FIRST, src + n, OWN);
    has_ref = load64(src + n + OWN);
    has_new = load64(src + n + OWN + 8);
    has_mask = load64(src + n + OWN + 16);
    n_distances = count_bits64(has_new);
    n_lines = count_bits64(has_mask);
    if ((has_new & ~has_ref) != 0 || n < n_distances + n_lines)
        return -1;
    n -= n_distances;
    distances = src + n;
    n -= n_lines;
    lines = src + n;
    for (size_t i = 0; i < n_lines; i++)
        n_masks += count_bits(lines[i]);
    n_codes = (n_masks + 1) / 2;
    if (n < n_codes)
        return -1;
    n -= n_codes;
    unpack_codes(masks, src + n, n_codes, mask_of);
    for (size_t i = n_masks; i < n_masks + 8; i++)
        masks[i] = 1;
    for (size_t i = 0; i < n_masks; i += 8) {
        zero[i / 8] = (uint8_t) ~nonzero_bytes(load64(masks + i));
        n_escapes += count_bits(zero[i / 8]);
    }
    if (n < n_escapes)
        return -1;
    n -= n_escapes;
    end = src + n;
    {
        const uint8_t *escapes = end;
        for (size_t i = 0; i < n_masks; i += 8) {
            spread(masks + i, load64(masks + i), load64(escapes), zero[i / 8]);
            escapes += count_bits(zero[i / 8]);
        }
    }
    {
        const uint8_t *m = masks;
        for (unsigned l = 0; l < 64; l++) {
            unsigned which = 0;
            if (has_mask >> l & 1)
                which = *lines++;
            spread((uint8_t *) &full[l], 0, load64(m), which);
            m += count_bits(which);
            n_lits += count_bits64(full[l]);
        }
    }
    if (n_lits != n)
        return -1;
    page += at;
    for (unsigned l = 0; l < 64; l++) {
        const uint8_t *ref = zeros;
        if (has_ref >> l & 1) {
            if (has_new >> l & 1)
                distance = 8 * (*distances++ + NEAREST - 1);
            if (distance > at || distance < 64)
                return -1;
            ref = page - distance;
        }
        line_spread(page, ref, lits, (size_t) (end - lits), full[l]);
        lits += count_bits64(full[l]);
        page += 64;
        at += 64;
    }
    return 0;
}

/* ---- what a page looks like -------------------------------------------------------------- */

/* A dense line has next to no zeros, and few of its bytes are those 8 or 64 before them.  Half
 * the lines such: LZ4 does better than this codec.  All of them more so, and of all bytes many:
 * nothing will shrink the page. */
enum lref_class LREF_(classify)(const uint8_t *src, size_t n)
{
    /* no stride meets them all */
    static const uint8_t where[SAMPLED] = {3, 12, 18, 29, 33, 44, 54, 59};
    uint8_t seen[256] = {0};
    unsigned dense = 0, denser = 0, values = 0;
    for (unsigned i = 0; i < SAMPLED; i++) {
        const uint8_t *p = src + n / 64 * where[i];
        const line_t line = line_load(p);
        unsigned nonzero = count_bits64(line_nonzero(line));
        unsigned same = 64 - count_bits64(line_differs(line, p - 8) & line_differs(line, p - 64));
        dense += nonzero >= 54 && same < 24;
        denser += nonzero >= 60 && same < 10;
    }
    if (dense < SAMPLED / 2)
        return LREF_HEAP;
    if (denser < SAMPLED)
        return LREF_TEXT;
    for (unsigned i = 0; i < SAMPLED; i += 2)
        for (unsigned j = 0; j < 64; j++)
            seen[src[n / 64 * where[i] + j]] = 1;
    for (unsigned i = 0; i < 256; i += 64)
        values += count_bits64(line_nonzero(line_load(seen + i)));
    /* of 256 random bytes about 162 differ */
    return values >= 140 ? LREF_RANDOM : LREF_TEXT;
}
