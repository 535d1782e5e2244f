/* zswap/track.h: tells a memory checker what is inside our own mappings, which it would take for
 * one big allocation. */
#ifndef ZSWAP_TRACK_H
#define ZSWAP_TRACK_H

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define ZSW_POISON(p, n) ASAN_POISON_MEMORY_REGION((p), (n))
#define ZSW_UNPOISON(p, n) ASAN_UNPOISON_MEMORY_REGION((p), (n))
#elif defined(ZSW_VALGRIND)
#include <valgrind/memcheck.h>
#define ZSW_POISON(p, n) VALGRIND_MAKE_MEM_NOACCESS((p), (n))
/* an object may be moved onto a part of itself */
#define ZSW_UNPOISON(p, n) VALGRIND_MAKE_MEM_DEFINED((p), (n))
#else
#define ZSW_POISON(p, n) ((void)(p), (void)(n))
#define ZSW_UNPOISON(p, n) ((void)(p), (void)(n))
#endif

#endif
