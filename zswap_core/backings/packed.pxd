"""A packed swap file: objects one behind the other, wherever their pages are."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zswap_core.abi cimport zsw_backing_ops
from zswap_core.backings.log cimport zsw_log
from zswap_core.backings.medium cimport swap_file
from zswap_core.os cimport zsw_mutex


cdef enum:
    READERS = 4                 # calls that read into memory which is there already


cdef struct zsw_packed:
    zsw_log log
    zsw_mutex append            # held by who writes to the file, also while the disk works
    uint32_t opened[2]          # 1 + number of the segment that takes pages, or what is moved; or 0
    uint32_t wipe               # what is freed or moved away from
    uint64_t sequence           # of the segment that was opened last
    uint64_t seed               # of the sums
    uint8_t *out                # what is about to be written
    uint8_t *whole              # a segment that is being cleaned; made by the first
    uint8_t *readers
    zsw_mutex reader_locks[READERS]
    # counts
    uint64_t read_bytes
    uint64_t written_bytes
    uint64_t moved_bytes
    uint64_t cleaned


cdef int packed_open(swap_file *f, zsw_packed *p) noexcept nogil
cdef void packed_destroy(zsw_packed *p) noexcept nogil
cdef void packed_clear(swap_file *f) noexcept nogil
cdef uint64_t packed_bytes(zsw_packed *p) noexcept nogil

cdef const zsw_backing_ops *packed_ops() noexcept nogil
