"""System calls about pages that may not be there.

Where signals serve faults, the kernel does not wait for a page but fails with EFAULT; and where it
does, a transfer by O_DIRECT goes on unseen while a page leaves.  So calls of libc about pages of a
memory are ours (zswap/io.h), and pin these meanwhile.
"""
from libc.errno cimport EBUSY, ENOMEM
from libc.stdint cimport uint64_t

from zswap_core.memory.region cimport memory_pin, memory_pin_one, memory_unpin
from zswap_core.memory.signals cimport complain, memory_at
from zswap_core.memory.state cimport at_page, zsw_memory


cdef extern from "zswap/io.h" nogil:
    cdef struct zsw_piece:
        void *at
        size_t size
        int whole
        void *memory
        uint64_t first
        uint64_t pages
    ctypedef int (*zsw_knows)(const void *p) noexcept nogil
    ctypedef int (*zsw_hold)(zsw_piece *piece) noexcept nogil
    ctypedef void (*zsw_let_go)(zsw_piece *piece) noexcept nogil
    const size_t ZSW_IO_PIECE
    void zsw_io_watch(void *p, size_t bytes, void *python, zsw_knows knows, zsw_hold hold,
                      zsw_let_go let_go)
    void zsw_rebind()


cdef inline void cut(const zsw_memory *m, zsw_piece *piece, uint64_t pages) noexcept nogil:
    """Makes the piece end where these pages do, or sooner."""
    cdef uint64_t within = <uint64_t> piece.at & (m.page_size - 1)
    piece.size = min(piece.size, <size_t> ((pages << m.page_shift) - within))


cdef int knows(const void *p) noexcept nogil:
    """Where a memory was, and is no more, others may lie."""
    cdef zsw_memory *m = memory_at(<uint64_t> p)
    return m != NULL and not m.forked


cdef int hold(zsw_piece *piece) noexcept nogil:
    cdef zsw_memory *m = memory_at(<uint64_t> piece.at)
    cdef uint64_t first, pages
    cdef int rc
    piece.memory = NULL
    if m == NULL or m.forked or piece.size == 0:
        return 1
    first = (<uint64_t> piece.at - <uint64_t> m.base) >> m.page_shift
    if not piece.whole:
        piece.size = min(piece.size, ZSW_IO_PIECE)
    pages = ((<uint64_t> piece.at & (m.page_size - 1)) + piece.size - 1 >> m.page_shift) + 1
    pages = min(pages, m.pages - first)
    rc = memory_pin(m, first, pages)
    while rc != 0 and pages > 1:
        pages //= 2
        rc = memory_pin(m, first, pages)
    if rc == -ENOMEM:                           # too much is
        rc = memory_pin_one(m, first)
    if rc == 0:
        piece.memory, piece.first, piece.pages = m, first, pages
    elif rc == -EBUSY:                          # it is pinned more often than can be counted
        rc = 0
    if rc < 0:
        complain(m, first, <uint64_t> at_page(m, first), rc)
        return 0
    if not piece.whole:
        cut(m, piece, pages)
    return 1


cdef void let_go(zsw_piece *piece) noexcept nogil:
    if piece.memory != NULL:
        memory_unpin(<zsw_memory *> piece.memory, piece.first, piece.pages)


cdef void io_watch(zsw_memory *m, void *python) noexcept nogil:
    """Has calls about pages of this memory pin them; `python` is any address in what loads
    modules.  With the GIL."""
    if m.programs == NULL:
        zsw_io_watch(m.base, m.bytes, python, knows, hold, let_go)


cdef void io_look() noexcept nogil:
    """Looks whether code was loaded since, whose calls are to be ours too.  With the GIL."""
    zsw_rebind()
