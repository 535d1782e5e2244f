"""Same-filled pages: every 8-byte word equal to the first.  Inline, because a store looks at every
page."""
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp, memcpy, memset


cdef inline bint same_filled(const uint8_t *page, size_t size, uint64_t *value) noexcept nogil:
    """Whether the page is one word repeated, and that word.  `page` need not be aligned; `size` is
    a multiple of 8."""
    cdef uint64_t first, last
    memcpy(&first, page, 8)
    memcpy(&last, page + size - 8, 8)
    # Most pages differ already here, which spares them the scan.
    if first != last:
        return False
    # The page equals itself moved by one word exactly when all words are equal; memcmp is the
    # widest scan the machine has.
    if memcmp(page, page + 8, size - 8) != 0:
        return False
    value[0] = first
    return True


cdef inline void same_fill(uint8_t *page, size_t size, uint64_t value) noexcept nogil:
    cdef size_t done
    cdef uint8_t byte = <uint8_t> value
    if value == byte * <uint64_t> 0x0101010101010101:
        memset(page, byte, size)
        return
    memcpy(page, &value, 8)
    done = 8
    while done < size:                  # doubling: memcpy is the widest store the machine has
        memcpy(page + done, page, done if done <= size - done else size - done)
        done *= 2
