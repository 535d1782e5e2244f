"""Fault sites: the places that can fail, each with a name by which a test makes it fail.

They are in every build, so that what tests run is what ships.  While no test has armed anything a
site costs one load and a branch that is never taken.  tests/hooks/faults.pyx is the way to arm
them.
"""
from libc.stdint cimport uint32_t

from zswap_core.os cimport zsw_peek_u32, zsw_unlikely


cpdef enum Site:
    # memory for the engine's parts
    ENGINE                  # the engine itself, and the list of its workers
    WORKER                  # one more worker
    SCRATCH                 # what a worker compresses into
    SLAB_TABLE              # a slab's table of blocks
    # a block of a slab: entries, shards, runs, arrays, descriptors of zspages
    SLAB_BLOCK
    SLAB_RELEASE            # giving an empty block back
    AREA                    # a swap area
    AREA_TABLE              # its table of shards, the first and each larger one
    EXTENT                  # a node of what an area has handed out
    POOL                    # a pool
    WRITEBACK_BUFFERS
    TOUCHES                 # the table of recent reads
    # allocators
    ZPOOL                   # an allocator's own structure
    ZPOOL_MALLOC            # an object
    ZPOOL_RELOCATE          # an object to move to
    ARENA_MAP               # address space for pages
    ARENA_BIND              # binding it to a NUMA node
    ARENA_NODES             # asking on which node pages lie
    ARENA_CHECK             # memory for checking an arena
    # compressors
    LIBRARY_OPEN
    LIBRARY_SYMBOL
    COMPRESSOR              # a compressor's own structure
    COMPRESSOR_CONTEXT
    COMPRESS
    DECOMPRESS
    # threads
    MAINTENANCE_THREAD
    BATCH_THREAD
    WRITEBACK_THREAD
    # what the system tells
    PRESSURE_FILE
    # backing stores of every kind
    BACKING_WRITE
    BACKING_READ
    # the swap file's system calls
    FILE_BUFFERS
    FILE_STAT
    FILE_WRITE
    FILE_WRITE_SHORT        # moves only so many bytes as the error number says
    FILE_READ
    FILE_READ_SHORT
    FILE_RING               # making an io_uring
    FILE_RING_ENTER         # asking it
    FILE_THREAD             # one more thread to read with
    FILE_ALLOCATE
    FILE_PUNCH
    FILE_LENGTH             # making it longer or shorter
    FILE_TABLE              # memory to say where in it things lie
    # memories
    MEMORY_OPEN             # a userfaultfd
    MEMORY_MAP              # address space: the memory, and what is kept about its pages
    MEMORY_REGISTER
    MEMORY_THREAD
    MEMORY_COPY             # mapping pages
    MEMORY_PROTECT          # write-protecting an extent
    MEMORY_DROP             # dropping pages
    SITES                   # how many there are


cdef struct zsw_fault:
    uint32_t hits           # how often it was reached while anything was armed
    uint32_t first          # of these, the first to fail
    uint32_t end            # and the first not to fail any more
    int error


cdef uint32_t faults_armed
cdef zsw_fault faults[SITES]

cdef int fault_hit(Site site) noexcept nogil


cdef inline int fault(Site site) noexcept nogil:
    """0, or -errno where a test wants it to fail here."""
    if zsw_unlikely(zsw_peek_u32(&faults_armed) != 0):
        return fault_hit(site)
    return 0
