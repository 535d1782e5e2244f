# cython: language_level=3
"""z3fold: up to three objects a page, or one that needs the whole of it."""
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.abi cimport zsw_zpool_ops


cdef const zsw_zpool_ops *z3fold_ops() noexcept nogil

# For writeback by pages: the objects of the page that was least recently given one, in the order to evict them, at most `n`
# (3 are all); returns how many.  Pages that hold another page's object are passed over, as the kernel does: they do not know
# its handle.  The page becomes the most recent one, as one that the kernel failed to evict does.
cdef uint32_t z3fold_evict_candidates(void *pool, uint64_t *handles, uint32_t n) noexcept nogil
