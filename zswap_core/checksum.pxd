"""The checksum of a page: 32 bits, made by a library's function."""
from libc.stdint cimport uint8_t, uint32_t


# `call` is NULL where no checksums are kept; else it knows how to call the library's `function`.
cdef struct zsw_checksum:
    uint32_t (*call)(void *function, const uint8_t *data, size_t n) noexcept nogil
    void *function


cdef inline uint32_t checksum_of(const zsw_checksum *c, const void *data, size_t n) noexcept nogil:
    """0 where no checksums are kept."""
    return c.call(c.function, <const uint8_t *> data, n) if c.call != NULL else 0
