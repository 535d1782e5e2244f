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
 * and may define, each followed by its own of what stands under its name below:
 *   LREF_LINES     64 bytes at a time: line_gather(dst, room, line, p, mask) and line_spread(dst,
 *                  ref, kept, room, mask), which touch no more than `room` in the payload; put()
 *   LREF_SEARCH    which lines are not zeros, and the best of eight references for each
 *   LREF_MASKS     with that also which bytes differ from the best
 *   LREF_HEADS     what is not the kept bytes, to the payload and back, and putting lines together
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

static inline void fill_64(void *dst, uint8_t byte)
{
    const line_t line = line_fill(byte);
    memcpy(dst, &line, 64);
}

#ifndef LREF_LINES
/* n bytes; from src 64 more may be read, up to a multiple of that. */
static inline void put(uint8_t *dst, const uint8_t *src, size_t n)
{
    memcpy(dst, src, n);
}
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
 * thing to all lines, so that the processor works on several at once.  None has a branch that
 * depends on what a page holds: which way it would go is as unpredictable as the page.  Where a
 * compiler would make one, what is chosen is said with masks, all bits or none. */

static inline uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

#ifndef LREF_SEARCH
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

/* Which lines are not zeros, and what the best of eight references would be for each. */
static inline void search(lines_t *lines, const uint8_t *page, size_t at, uint16_t *table)
{
    uint16_t old[64][8];
    size_t n = 0, first;
    for (unsigned l = 0; l < 64; l++) {
        lines->nonzero[n] = line_nonzero(line_load(page + 64 * l));
        lines->full[n] = (uint8_t) l;
        n += lines->nonzero[n] != 0;
    }
    lines->n = n;
    lines->first = first = at == 0 && n > 0 && lines->full[0] == 0;
    for (size_t i = 0; i < n; i++) {
        const unsigned l = lines->full[i], pos = (unsigned) (at / 8 + 8 * l);
        find_distances(old[i], page + 64 * l, pos, pos < FARTHEST ? pos : FARTHEST, table);
    }
    lines->near[0] = NEAREST;
    lines->least[0] = lines->limit[0] = 255;
    for (size_t i = first; i < n; i++) {
        const uint8_t *src = page + 64 * lines->full[i];
        const uint32_t nearest = find_nearest(line_load(src), src, old[i]);
        const uint32_t zero = count_bits64(lines->nonzero[i]), fresh = (nearest >> 16) + 1;
        lines->near[i] = (uint16_t) nearest;
        lines->least[i] = (uint8_t) least(zero, fresh);
        lines->limit[i] = (uint8_t) (fresh | -(uint32_t) (zero <= fresh));
    }
}
#endif

/* What is kept of a comparison until it is known whether it counts: how many bytes differ, or
 * LREF_MASKS, which. */
#ifdef LREF_MASKS
typedef uint64_t compared_t;
#define compare(line, p) in_register(line_differs(line, p))
#define compared_count count_bits64
#else
typedef uint32_t compared_t;
#define compare line_distance
#define compared_count(count) (count)
#endif

/* Chooses each line's reference, writes the bytes that differ from it and returns how many, or
 * more than fit.  Whether the last distance would do is asked of each line twice: with the one
 * that held before the last line, and with the one that this line may have brought.  So a line
 * need not wait for the last one to be decided. */
static inline size_t choose(lines_t *lines, const uint8_t *page, uint8_t *dst, size_t cap)
{
    const uint8_t *const end = dst + cap, *src;
    uint8_t *out = dst;
    compared_t fresh[64 + 1], held = 0;
    const size_t n = lines->n;
    size_t last = NEAREST;
    uint64_t news = 0;
    line_t line;
    for (unsigned l = 0; l < 64; l += 8)
        fill_64(lines->kept + l, 0);
    for (unsigned l = 0; l < 64; l += 32)
        fill_64(lines->choice + l, 0);
    if (n == 0)
        return 0;
    /* For the line behind the last, of which nothing counts: any that is no nearer to the page's
     * beginning, and not its first line, before which there is nothing. */
    lines->full[n] = lines->full[n - 1] | 1;
    fresh[0] = 0;
    for (size_t i = 0; i < n; i++) {
        src = page + 64 * lines->full[i + 1];
        fresh[i + 1] = compare(line_load(src), src - 8 * (size_t) lines->near[i]);
    }
    src = page + 64 * lines->full[0];
    line = line_load(src);
    if (lines->first) {             /* there is nothing before it */
        lines->least[0] = 0;
        lines->limit[0] = 255;
    } else {
        held = compare(line, src - 8 * NEAREST);
    }
    for (size_t i = 0; i < n; i++) {
        const size_t near = lines->near[i];
        const compared_t with_last = (fresh[i] & (compared_t) news) | (held & ~(compared_t) news);
        const uint32_t count = compared_count(with_last);
        const uint64_t again = -(uint64_t) (count < lines->least[i]);
        const unsigned l = lines->full[i];
        const uint8_t *const next = page + 64 * lines->full[i + 1];
        const line_t next_line = line_load(next);
        size_t words;
        uint64_t mask;

        held = compare(next_line, next - 8 * last);
        news = -(uint64_t) (count >= lines->limit[i]);
        words = (last & again) | (near & news);
        last = (near & news) | (last & ~news);
#ifdef LREF_MASKS
        mask = (with_last & again) | (lines->mask[i] & ~again);
#else
        mask = line_differs(line, src - 8 * words) |
               (lines->nonzero[i] & -(uint64_t) (words == 0));
#endif
        lines->choice[l] = (uint16_t) (words | (CHOICE_NEW & news));
        lines->kept[l] = mask;
        if (count_bits64(mask) + HEAD > (size_t) (end - out))
            return cap;
        line_gather(out, (size_t) (end - out), line, src, mask);
        out += count_bits64(mask);
        src = next;
        line = next_line;
    }
    return (size_t) (out - dst);
}

#ifndef LREF_HEADS
/* The bits of lines that are set: in `has_ref` where a line has a distance, and so on; and these
 * distances. */
static inline size_t take_distances(
    uint8_t *distances, const lines_t *lines, uint64_t *has_ref, uint64_t *has_new)
{
    size_t taken = 0;
    *has_ref = *has_new = 0;
    for (unsigned l = 0; l < 64; l++) {
        const unsigned words = lines->choice[l] & (CHOICE_NEW - 1);
        const unsigned news = lines->choice[l] / CHOICE_NEW;
        *has_ref |= (uint64_t) (words != 0) << l;
        *has_new |= (uint64_t) news << l;
        distances[taken] = (uint8_t) (words - NEAREST + 1);
        taken += news;
    }
    return taken;
}

/* The masks one after another, and for each line that has any which of its words these are of. */
static inline size_t take_masks(
    uint8_t *masks, uint8_t *words, const lines_t *lines, uint64_t *has_mask)
{
    size_t taken = 0, n_lines = 0;
    *has_mask = 0;
    for (unsigned l = 0; l < 64; l++) {
        const uint64_t mask = lines->kept[l];
        const unsigned which = nonzero_bytes(mask);
        *has_mask |= (uint64_t) (mask != 0) << l;
        words[n_lines] = (uint8_t) which;
        n_lines += mask != 0;
        gather(masks + taken, mask, which);
        taken += count_bits(which);
    }
    return taken;
}

/* The codes of masks, 0 for those that have none.  Both may be worked on up to a multiple of 64. */
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

static inline void pack_codes(uint8_t *dst, const uint8_t *codes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = (uint8_t) (codes[2 * i] | codes[2 * i + 1] << 4);
}
#endif

/* Of some of the escapes, the three met most often among all. */
static inline void choose_own(uint8_t *own, uint8_t *escapes, size_t n)
{
    uint32_t some[SAMPLES];
    const size_t whole = (n + 63) & ~(size_t) 63;
    memset(own, 0, OWN);
    if (n < 4)
        return;
    fill_64(escapes + n, 0);
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

size_t LREF_(pack)(const uint8_t *page, size_t at, lref_work *work, uint8_t *dst, size_t cap)
{
    lines_t lines;
    uint8_t masks[512 + 64], codes[512 + 64], escapes[512 + 128], words[64 + 64],
        distances[64 + 64], own[OWN];
    uint64_t has_ref, has_new, has_mask;
    size_t n_lits, n_masks, n_codes, n_words, n_distances, n_escapes, size;

    page += at;
    search(&lines, page, at, work->table);
    n_lits = choose(&lines, page, dst, cap);
    n_distances = take_distances(distances, &lines, &has_ref, &has_new);
    n_masks = take_masks(masks, words, &lines, &has_mask);
    n_words = count_bits64(has_mask);
    n_codes = (n_masks + 1) / 2;
    if (n_lits + n_codes + n_words + n_distances + HEAD > cap)
        return 0;

    /* What fills up the last 64 has a code, and so is no escape. */
    fill_64(masks + n_masks, 0xff);
    code_masks(codes, masks, n_masks);
    n_escapes = take_escapes(escapes, codes, masks, n_masks);
    choose_own(own, escapes, n_escapes);
    if (own[0] != 0) {
        code_own(codes, masks, n_masks, own);
        n_escapes = take_escapes(escapes, codes, masks, n_masks);
    }
    size = n_lits + n_escapes + n_codes + n_words + n_distances + HEAD;
    if (size > cap)
        return 0;
    dst += n_lits;
    put(dst, escapes, n_escapes);
    dst += n_escapes;
    codes[n_masks] = 0;
    pack_codes(dst, codes, n_codes);
    dst += n_codes;
    put(dst, words, n_words);
    dst += n_words;
    put(dst, distances, n_distances);
    dst += n_distances;
    memcpy(dst, own, OWN);
    store64(dst + OWN, has_ref);
    store64(dst + OWN + 8, has_new);
    store64(dst + OWN + 16, has_mask);
    return size;
}

/* ---- decoder ----------------------------------------------------------------------------- */

#ifndef LREF_HEADS
/* How many masks the lines have; each byte of `words` says of which words of its line. */
static inline size_t count_masks(
    uint64_t *which, const uint8_t *words, size_t n_words, uint64_t has_mask)
{
    size_t n_masks = 0;
    (void) which, (void) has_mask;
    for (size_t i = 0; i < n_words; i++)
        n_masks += count_bits(words[i]);
    return n_masks;
}

/* The masks that codes stand for; a bit of `none` for each that has no code; how many have not.
 * Masks may be written on to a multiple of 64. */
static inline size_t read_codes(uint8_t *masks, uint64_t *none, const uint8_t *codes,
    size_t n_masks, const uint8_t *mask_of)
{
    size_t n_escapes = 0;
    /* What lies behind the last is read with it, and does not count.  It is made zeros beforehand:
     * a load of what two stores have just written waits for them. */
    memset(masks + n_masks, 0, 8);
    unpack_codes(masks, codes, (n_masks + 1) / 2, mask_of);
    none[n_masks / 8] = 0;
    for (size_t i = 0; i < n_masks; i += 8)
        none[i / 8] = 255 & ~nonzero_bytes(load64(masks + i));
    none[n_masks / 8] &= ((uint64_t) 1 << n_masks % 8) - 1;
    for (size_t i = 0; i < n_masks; i += 8)
        n_escapes += count_bits((unsigned) none[i / 8]);
    return n_escapes;
}

static inline void fill_escapes(
    uint8_t *masks, const uint64_t *none, const uint8_t *escapes, size_t n_masks)
{
    for (size_t i = 0; i < n_masks; i += 8) {
        const unsigned zero = (unsigned) none[i / 8];
        spread(masks + i, load64(masks + i), load64(escapes), zero);
        escapes += count_bits(zero);
    }
}

/* Each line's mask; how many bits they have. */
static inline size_t spread_masks(uint64_t *kept, const uint64_t *which, const uint8_t *words,
    uint64_t has_mask, const uint8_t *masks)
{
    size_t n_lits = 0;
    (void) which;
    for (unsigned l = 0; l < 64; l++) {
        unsigned set = 0;
        if (has_mask >> l & 1)
            set = *words++;
        spread((uint8_t *) &kept[l], 0, load64(masks), set);
        masks += count_bits(set);
        n_lits += count_bits64(kept[l]);
    }
    return n_lits;
}

/* Puts the lines together; -1 when a reference would not lie inside the page and before its
 * line. */
static inline int fill_lines(uint8_t *page, size_t at, uint64_t has_ref, uint64_t has_new,
    const uint8_t *distances, const uint8_t *lits, const uint8_t *end, const uint64_t *kept)
{
    unsigned distance = 8 * NEAREST;
    for (unsigned l = 0; l < 64; l++) {
        const uint8_t *ref = zeros;
        if (has_ref >> l & 1) {
            if (has_new >> l & 1)
                distance = 8 * (*distances++ + NEAREST - 1);
            if (distance > at || distance < 64)
                return -1;
            ref = page - distance;
        }
        line_spread(page, ref, lits, (size_t) (end - lits), kept[l]);
        lits += count_bits64(kept[l]);
        page += 64;
        at += 64;
    }
    return 0;
}
#endif

int LREF_(unpack)(const uint8_t *src, size_t n, uint8_t *page, size_t at)
{
    uint8_t masks[512 + 64], mask_of[16];
    uint64_t kept[64], none[64 + 1], which[8];
    uint64_t has_ref, has_new, has_mask;
    size_t n_distances, n_words, n_masks, n_codes, n_escapes;
    const uint8_t *distances, *words;

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
    n_words = count_bits64(has_mask);
    if ((has_new & ~has_ref) != 0 || n < n_distances + n_words)
        return -1;
    n -= n_distances;
    distances = src + n;
    n -= n_words;
    words = src + n;
    n_masks = count_masks(which, words, n_words, has_mask);
    n_codes = (n_masks + 1) / 2;
    if (n < n_codes)
        return -1;
    n -= n_codes;
    n_escapes = read_codes(masks, none, src + n, n_masks, mask_of);
    if (n < n_escapes)
        return -1;
    n -= n_escapes;
    fill_escapes(masks, none, src + n, n_masks);
    if (spread_masks(kept, which, words, has_mask, masks) != n)
        return -1;
    return fill_lines(page + at, at, has_ref, has_new, distances, src, src + n, kept);
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
    prefetch(src, LREF_PIECE_SIZE, 0);      /* what comes next will read it all */
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
