/* Fuzzes lref's C alone: every variant that works here, on the same input, between guard pages.
 *
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -DLIBFUZZER -Izswap_core/lref
 *   tests/fuzz/lref.c zswap_core/lref/[a-z]*.c -o fuzz ./fuzz -max_len=9000 CORPUS
 *
 *   cc -O2 -Izswap_core/lref tests/fuzz/lref.c zswap_core/lref/[a-z]*.c -o fuzz && ./fuzz SECONDS
 *   [SEED]
 *
 * The second way makes its own inputs: pages of strides and near-repeats, their payloads with
 * bytes changed, and noise. -DEMULATE_AVX512 and tests/fuzz/lref_avx512.c in place of that
 * variant run it on any x86-64.
 *
 * Of an input the first byte says what it is.  A payload: all variants must agree on what it
 * decodes to, or that it is damaged, and touch nothing outside.  A page: all variants must write
 * the same payload, with any cap, and all must read it.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "lref_common.h"

#define ROOM (LREF_SIZE_MAX + 4096u)
#define CHECK(what) \
    do { \
        if (!(what)) { \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what); \
            abort(); \
        } \
    } while (0)

static const lref_variant *variants[8];
static unsigned n_variants;

/* Memory that ends, or begins, where a page begins that must not be touched. */
struct guarded {
    uint8_t *first, *end;
};

static struct guarded guarded_new(void)
{
    struct guarded g;
    uint8_t *all =
        mmap(NULL, ROOM + 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(all != MAP_FAILED);
    CHECK(mprotect(all, 4096, PROT_NONE) == 0 && mprotect(all + 4096 + ROOM, 4096, PROT_NONE) == 0);
    g.first = all + 4096;
    g.end = g.first + ROOM;
    return g;
}

static struct guarded source, payload, output[8];
static uint64_t workspace[LREF_WORKSPACE / 8];

static void setup(void)
{
    if (n_variants != 0)
        return;
    for (unsigned i = 0; lref_variant_at(i) != NULL; i++)
        if (lref_variant_works(lref_variant_at(i)))
            variants[n_variants++] = lref_variant_at(i);
    source = guarded_new();
    payload = guarded_new();
    for (unsigned i = 0; i < n_variants; i++)
        output[i] = guarded_new();
}

/* The payload lies at the end of its memory, and then at the front: what is read too far, either
 * way, is seen. */
static int64_t decode(const uint8_t *data, size_t n, size_t cap)
{
    int64_t size = 0;
    for (int front = 0; front < 2; front++) {
        uint8_t *src = front ? payload.first : payload.end - n;
        memmove(src, data, n);
        for (unsigned i = 0; i < n_variants; i++) {
            uint8_t *dst = front ? output[i].first : output[i].end - cap;
            int64_t got = lref_decompress(variants[i], src, n, dst, cap);
            if (i == 0 && !front)
                size = got;
            CHECK(got == size);
            CHECK(got <= (int64_t) cap);
            if (got > 0 && i > 0)
                CHECK(
                    memcmp(dst, front ? output[0].first : output[0].end - cap, (size_t) got) == 0);
        }
    }
    return size;
}

/* As the payload, the page lies at the end of its memory and at the front. */
static void encode(const uint8_t *data, size_t n, size_t cap)
{
    static uint8_t first[ROOM];
    size_t size = 0;
    for (int front = 0; front < 2; front++) {
        uint8_t *src = front ? source.first : source.end - n;
        memcpy(src, data, n);
        for (unsigned i = 0; i < n_variants; i++) {
            uint8_t *dst = front ? output[i].first : output[i].end - cap;
            size_t got = lref_compress(variants[i], workspace, src, n, dst, cap);
            if (i == 0 && !front) {
                size = got;
                memcpy(first, dst, size);
            }
            CHECK(got == size && got <= cap);
            CHECK(memcmp(first, dst, size) == 0);
            if (n % LREF_PIECE_SIZE == 0 && n != 0)
                CHECK(lref_classify(variants[i], src, n) == lref_classify(variants[0], src, n));
        }
    }
    if (cap >= lref_bound(n))
        CHECK(size > 0 && size <= lref_bound(n));
    if (size > 0) {
        CHECK(decode(first, size, n) == (int64_t) n);
        CHECK(memcmp(output[0].first, data, n) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static uint8_t page[LREF_SIZE_MAX];
    static const size_t sizes[4] = {4096, 4096, 8192, 16384};
    setup();
    if (n < 4)
        return 0;
    if (n > 20000)
        n = 20000;
    if (data[0] & 1) {
        decode(data + 1, n - 1, sizes[data[0] >> 1 & 3]);
    } else {
        size_t size = sizes[data[0] >> 1 & 3],
               cap = data[0] & 8 ? (size_t) (data[1] | data[2] << 8) % (size + 2) : size + 1;
        for (size_t i = 0; i < size; i++)
            page[i] = data[3 + i % (n - 3)];
        encode(page, size, cap);
    }
    return 0;
}

#ifndef LIBFUZZER
static uint64_t state;

static uint64_t any(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state * UINT64_C(0x2545f4914f6cdd1d) >> 8;
}

static void make_page(uint8_t *page, size_t size)
{
    size_t stride = 1 + any() % 300, kind = any() % 6, words = any() % 2 ? 8 : 1;
    if (any() % 2)
        stride *= 8;
    for (size_t i = 0; i < size; i++) {
        uint8_t old = i >= stride ? page[i - stride] : (uint8_t) any();
        switch (kind) {
        case 0: page[i] = old; break;
        case 1: page[i] = any() % 10 ? old : (uint8_t) any(); break;
        case 2: page[i] = any() % 3 ? 0 : (uint8_t) any(); break;
        case 3: page[i] = i / words % 3 ? old : (uint8_t) any(); break;
        case 4: page[i] = any() % 64 ? 0 : (uint8_t) any(); break;
        default: page[i] = any() % 100 < i * 100 / size ? (uint8_t) any() : old; break;
        }
        if (any() % 400 == 0) {
            stride = 1 + any() % 2200;
            kind = any() % 6;
        }
    }
}

int main(int argc, char **argv)
{
    static uint8_t page[LREF_SIZE_MAX], packed[LREF_SIZE_MAX + 1], broken[LREF_SIZE_MAX + 1];
    const time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 5);
    unsigned long inputs = 0, good = 0;
    state = argc > 2 ? strtoull(argv[2], NULL, 0) | 1 : 88172645463325252u;
    setup();
    while (time(NULL) < end)
        for (unsigned k = 0; k < 16; k++) {
            size_t size = any() % 8 ? 4096 : 4096 * (1 + any() % 4), n, cap;
            make_page(page, size);
            encode(page, size, size + 1);
            encode(page, size, any() % (size + 2));
            inputs += 2;
            n = lref_compress(variants[0], workspace, page, size, packed, sizeof(packed));
            for (unsigned t = 0; t < 60; t++) {
                size_t length = n, changes = 1 + any() % 4;
                memcpy(broken, packed, n);
                if (any() % 8 == 0)
                    length = any() % (n + 1);
                for (size_t i = 0; i < changes && length > 0; i++) {
                    /* Mostly in the heads, which are at the end. */
                    size_t at = any() % 2 ? any() % length
                                          : length - 1 - any() % (length < 200 ? length : 200);
                    broken[at] =
                        any() % 2 ? (uint8_t) any() : (uint8_t) (broken[at] ^ 1 << any() % 8);
                }
                cap = any() % 16 ? size : any() % (size + 1);
                good += decode(broken, length, cap) >= 0;
                inputs++;
            }
        }
    printf("%u variants:", n_variants);
    for (unsigned i = 0; i < n_variants; i++)
        printf(" %s", lref_variant_name(variants[i]));
    printf("; %lu inputs, of the damaged ones %lu decoded to something; no fault, no difference\n",
        inputs, good);
    return 0;
}
#endif
