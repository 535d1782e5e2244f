"""z3fold: up to three objects a page, or one that needs the whole of it."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zswap_core.abi cimport zsw_zpool_ops
from zswap_core.zpools.zbud cimport buddy_page, buddy_pool, CHUNKS


cdef enum:
    CELLS = 3

cdef struct z3_page:
    buddy_page page
    uint64_t cells[CELLS]
    uint8_t foreign             # objects here whose cell is elsewhere
    uint8_t seen                # validate()'s own
    uint8_t padding[6]          # to a cache line

cdef struct z3_pool:
    buddy_pool buddies
    uint64_t lone[CHUNKS]       # pages whose only object could move away, by its chunks
    uint64_t gaps               # pages whose middle object could move up
    uint64_t without_page       # descriptors kept for a cell
    uint64_t freed_by_compaction

cdef const zsw_zpool_ops *z3fold_ops() noexcept nogil

# For writeback by pages: the objects of the page that was least recently given one, in the order to
# evict them, at most `n` (3 are all); returns how many.  Pages that hold another page's object are
# passed over, as the kernel does: they do not know its handle.  The page becomes the most recent
# one, as one that the kernel failed to evict does.
cdef uint32_t z3fold_evict_candidates(void *pool, uint64_t *handles, uint32_t n) noexcept nogil
