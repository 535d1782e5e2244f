"""Checksums, by functions of libraries that are likely to be there.

A sum is only ever compared with one that the same engine made, so it does not matter which function
it is.  A CRC-32 finds all damage that lies within 32 bits of each other; of other damage it, as any
sum of 32 bits, misses one in four billion.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zswap_core.buffers cimport Items, items_of
from zswap_core.checksum cimport checksum_of
from zswap_core.libraries.bind cimport open_library

from zswap_core.errors import CompressorNotFound, Error
from zswap_core.libraries.find import CRC_OF_LIBDEFLATE, XXH3_OF_LIBXXHASH, XXH64_OF_LIBZSTD

# the fastest first
NAMES = {CRC_OF_LIBDEFLATE: "crc32", XXH3_OF_LIBXXHASH: "XXH3", XXH64_OF_LIBZSTD: "XXH64"}


cdef uint32_t call_crc32(void *function, const uint8_t *data, size_t n) noexcept nogil:
    return (<uint32_t (*)(uint32_t, const void *, size_t) noexcept nogil> function)(0, data, n)


cdef uint32_t call_xxh3(void *function, const uint8_t *data, size_t n) noexcept nogil:
    return <uint32_t> (<uint64_t (*)(const void *, size_t) noexcept nogil> function)(data, n)


cdef uint32_t call_xxh64(void *function, const uint8_t *data, size_t n) noexcept nogil:
    return <uint32_t> (
        <uint64_t (*)(const void *, size_t, uint64_t) noexcept nogil> function)(data, n, 0)


cdef class Checksum:
    """A checksum function, found.

    Attributes
    ----------
    name : str
        What it is, and of which library: "crc32 (libdeflate)".
    path : str
        The file it was found in.
    """

    def __reduce__(self):
        raise TypeError("a Checksum can be neither copied nor pickled: it is a function of this "
                        "process; open_checksum makes one anew")

    @property
    def path(self):
        return self.library.path

    def __call__(self, data):
        """The sum of a bytes-like object, which is not empty."""
        cdef Items items = items_of(data, "data", 1)
        return checksum_of(&self.c, <const uint8_t *> items.at, items.count)


def open_checksum(sources=tuple(NAMES)):
    """Return the first of these that is there.

    Raises
    ------
    Error
        With what was tried, and what to do about it.
    """
    cdef Checksum self = Checksum.__new__(Checksum)
    why = []
    for source in sources:
        try:
            self.library = open_library(source)
        except CompressorNotFound as error:
            why.append(str(error))
            continue
        self.c.function = self.library.symbol(source.symbols[0])
        if source == CRC_OF_LIBDEFLATE:
            self.c.call = call_crc32
        elif source == XXH3_OF_LIBXXHASH:
            self.c.call = call_xxh3
        else:
            self.c.call = call_xxh64
        self.name = f"{NAMES[source]} ({source.library})"
        return self
    raise Error("there is no library that makes checksums; get one of these, or leave checksum "
                f"out: {'; '.join(why)}")
