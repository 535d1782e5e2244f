/* zswap/text.h: lines put together where printf may not be called: in a signal handler, and where
 * malloc is ours.
 *
 * Each takes where to write and the end of the room, writes as much as fits, and gives the place
 * behind it.
 */
#ifndef ZSWAP_TEXT_H
#define ZSWAP_TEXT_H

#include <stdint.h>

static inline char *zsw_add_text(char *at, const char *end, const char *text) {
    while (at < end && *text) *at++ = *text++;
    return at;
}
static inline char *zsw_add_number(char *at, const char *end, uint64_t number, unsigned base) {
    char digits[24];
    int n = 0;
    do digits[n++] = "0123456789abcdef"[number % base], number /= base;
    while (number);
    while (n && at < end) *at++ = digits[--n];
    return at;
}
static inline char *zsw_add_error(char *at, const char *end, int error) {
    at = zsw_add_text(at, end, " (errno ");
    at = zsw_add_number(at, end, (uint64_t)error, 10);
    return zsw_add_text(at, end, ")");
}

#endif
