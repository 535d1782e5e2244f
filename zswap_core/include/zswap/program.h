/* zswap/program.h: what the library that `zswap run` preloads and `zswap run` say to each other.
 *
 * A program's library sends zsw_hello over the socket that it inherited, with a socket of its own
 * and the end of a pipe for which it is killed when nobody has that open any more.  Over its socket
 * it gets zsw_welcome, with the file of its memory, and answers zsw_ready, with a userfaultfd under
 * which it has mapped that.  From then on it sends requests, each of which gets a reply.
 */
#ifndef ZSWAP_PROGRAM_H
#define ZSWAP_PROGRAM_H

#include <stdint.h>

#define ZSW_PROGRAM_VERSION 1u
#define ZSW_PROGRAM_PART 64u /* pages: an allocation begins at a multiple of that */

struct zsw_hello { uint32_t version, unused; };
struct zsw_welcome { uint64_t bytes, page_size; };
struct zsw_ready { uint64_t base; };

enum zsw_what {
    ZSW_ALLOCATE = 1, /* pages; the number of the first, or -errno */
    ZSW_GROW,         /* the allocation at `first`, which has `more` pages, to `pages`; 0, -errno */
    ZSW_FREE,         /* pages in any allocations */
    ZSW_GIVE_UP,      /* their content: zeros from then on; -EINVAL when one is pinned */
    ZSW_PIN,          /* or 0, -errno */
    ZSW_UNPIN,
    ZSW_EVICT,        /* now */
    ZSW_HINT          /* they will be read: 0 as usual, 1 at random, 2 in order */
};

struct zsw_request { uint32_t what, hint; uint64_t first, pages, more; };
/* `stale`: what the page tables have there is to be dropped, as a page of it was lost before. */
struct zsw_reply { int64_t value; uint64_t stale; };

#endif
