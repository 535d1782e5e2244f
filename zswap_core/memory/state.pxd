"""A memory: what is known of each page, and who may change it.

The word of a page says where its content is, and whoever changes that owns the page meanwhile:

    NOBODYS     in no allocation: a touch is an error
    FRESH       never touched: zeros
    HERE        resident, and the program's, which reads and writes it unseen
    AWAY        in the engine, at the offset that is its number
    BUSY        one thread's, which makes it one of the others; all others wait
    LEAVING     resident, write-protected and evict's, which looks at it in its turn

    NOBODYS -> FRESH            allocated
    FRESH, AWAY -> BUSY -> HERE fetched: a copy of the content is mapped
    HERE -> LEAVING             to be evicted; then its extent is protected, with one call
    LEAVING -> BUSY -> LEAVING  it is compared with its copy in the engine, or stored
    LEAVING -> BUSY -> AWAY     dropped, with the others of its extent
    LEAVING -> BUSY -> HERE     a writer took it back: its protection is gone
    LEAVING -> HERE             it could not be stored
    HERE -> BUSY -> HERE        a writer met what the protection of an extent left behind
    HERE, AWAY, FRESH -> BUSY -> NOBODYS, FRESH         freed, or given up

All but the first and the last by compare-and-swap.  COPY says that the engine holds a page that was
equal once: `sums` has its sum, by which evict knows whether it still is.  It is cleared before the
engine is given another, as a writer may take the page back meanwhile.

A page is brought in without protection, so the one who protects is evict, and only while it has
`leaving` of the extent set; before it clears that, what it protected and did not drop is
unprotected.  Pinned pages it never protects: so a pin counts once `leaving` has been seen clear.
"""
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t

from zswap_core.extents cimport zsw_extents
from zswap_core.forks cimport zsw_fork_watch
from zswap_core.memory.uffd cimport zsw_sum
from zswap_core.os cimport (
    pthread_t, zsw_add_u32, zsw_add_u64, zsw_mutex, zsw_pause, zsw_peek_u32, zsw_sleep_ns,
    zsw_yield,
)
from zswap_core.parking cimport zsw_parking
from zswap_core.slab cimport zsw_slab
from zswap_core.state cimport zsw_engine


# The word of a page, from bit 0.
cdef enum page_kind:
    NOBODYS
    FRESH
    HERE
    AWAY
    BUSY
    LEAVING

cdef enum:
    KIND = 7
    COPY = 8
    HEAT_ONE = 16               # how often it came back soon after it had gone, at most 3
    HEAT = 3 * HEAT_ONE
    MISSED = 64                 # it came from the file, and a larger pool would have had it
    PIN_ONE = 256
    PINS = 255 * PIN_ONE
    EPOCH_SHIFT = 16            # when it went away, in epochs

cdef enum:
    EXTENT_SHIFT = 6
    EXTENT = 64                 # pages that evict takes together
    WINDOW = 64                 # pages that are fetched together, at most
    SLOTS = 32                  # faults at the same time
    THREADS = 64                # whose streams are told apart
    STREAMS = 4                 # of each
    SERVERS = 1                 # threads that read faults
    PROGRAMS = 1024             # the first of them is none
    LENGTHS = 192               # of allocations that are kept, see allocations.pyx

# Who touches the memory, and how that is told.
cdef enum zsw_mode:
    BY_SIGNALS
    BY_MESSAGES
    OF_PROGRAMS                 # other processes, by messages

cdef enum zsw_hint:
    HINT_NONE
    HINT_RANDOM
    HINT_SEQUENTIAL


cdef struct zsw_part:           # an extent of the memory
    uint32_t here               # its resident pages
    uint32_t leaving            # evict is at it
    uint32_t fetched            # when a page came last, in epochs
    uint32_t hint
    uint32_t owner              # the program that has it; 0: none, or there are no programs
    uint32_t live               # its pages that are allocated to that
    uint32_t pinned             # its pages that are pinned


# Allocations of one length that nobody has any more, kept for the next.
cdef struct zsw_kept:
    uint32_t last               # 1 + the first page of the one kept last; 0: there are none
    uint32_t epoch              # when one came or went,
    uint64_t turn               # and how many of any length had come and gone by then


# A process that has the pages of the parts that it owns, in a file that we have mapped as well.
cdef struct zsw_program:
    int fd                      # its userfaultfd, or -1
    int file
    uint32_t left               # it has ended
    uint32_t stale              # a page of it was lost
    uint64_t base               # where it has page 0


cdef struct zsw_stream:
    uint64_t ahead              # the last page that was fetched for it
    int32_t stride
    uint32_t window


cdef struct zsw_streams:
    uint32_t turn
    uint32_t unused
    zsw_stream streams[STREAMS]


# How the budget is divided between resident pages and the pool, see split.pyx.
cdef struct zsw_split:
    uint64_t pool               # the pool's limit in pages; 0: it is not divided here
    uint64_t filled             # what the pool takes now
    uint64_t reach              # epochs: away for less, a page was in the pool, or nearly so
    uint64_t pool_ns            # what a page from the pool takes, about,
    uint64_t file_ns            # and one from the file
    uint64_t by_room            # ns that more resident pages would have saved,
    uint64_t by_pool            # and a larger pool
    uint32_t noted              # pages that say so


# What one fault at a time works with.
cdef struct zsw_slot:
    uint32_t busy
    uint32_t n
    uint64_t pages[WINDOW]
    uint32_t words[WINDOW]
    int8_t status[WINDOW]
    uint8_t *memory             # of WINDOW pages
    zsw_parking parking


cdef struct zsw_counts:
    uint64_t faults
    uint64_t fetched            # pages from the engine
    uint64_t fresh              # pages of zeros
    uint64_t ahead              # of both, those that nobody had asked for yet
    uint64_t evicted
    uint64_t clean              # of these, those whose copy still held
    uint64_t taken_back
    uint64_t refused            # pages that the engine could not hold
    uint64_t direct             # how often a fault had to make room
    uint64_t waits              # and how often it could not
    uint64_t peak               # the most pages that were resident
    uint64_t most               # and the most bytes that all of it took


cdef struct zsw_memory:
    zsw_fork_watch watch        # the first, so that it leads here
    zsw_engine *e
    uint8_t *base
    uint64_t bytes
    uint64_t pages
    uint32_t page_size
    uint32_t page_shift
    int fd
    int pidfd
    uint32_t threads            # faults are read by threads
    uint32_t forked
    uint32_t *words             # by page
    zsw_sum *sums               # by page
    zsw_part *parts             # by extent
    uint32_t *sizes             # by page, of an allocation that begins there, in pages
    uint64_t *key               # of the sums
    zsw_slot *slots
    zsw_streams *streams
    uint8_t *slot_memory
    # programs
    zsw_program *programs       # NULL: it is this process that touches the memory
    zsw_mutex reading           # held while a fault of theirs is served
    uint64_t asking             # whose fault it is
    uint64_t lowest             # no part below it is free
    uint64_t most_allocated     # pages
    # what is allocated
    zsw_slab nodes
    zsw_extents extents
    uint64_t allocated          # pages
    uint64_t limit              # of them
    zsw_kept kept[LENGTHS]      # these under the lock of the extents, as `allocated`
    uint64_t kept_pages
    uint64_t turn
    uint64_t top                # no allocation reached beyond this page yet
    # room
    uint64_t budget             # bytes
    uint64_t overhead           # bytes that nobody counts elsewhere
    uint64_t beside             # bytes of all but pages and the pool, when that was asked last
    uint64_t room               # pages that may be resident
    uint64_t patience           # ns that who needs room waits when nothing can be evicted
    uint64_t resident           # pages that are, or soon will be
    uint64_t pinned
    uint64_t pinning            # pages that are about to be
    uint64_t epoch_pages        # fetched pages that make an epoch
    uint64_t arrivals           # pages that came so far
    uint64_t epoch_end          # arrivals at which the next epoch begins
    uint32_t epoch
    zsw_split split
    uint64_t seed
    int error                   # how a backing store failed last, -errno
    # the thread that evicts
    pthread_t evictor
    uint32_t evictor_started
    uint32_t work               # futex word
    uint32_t idle               # it sleeps
    uint32_t stop
    # those that read faults
    pthread_t servers[SERVERS]
    uint32_t servers_started
    int ending                  # a pipe whose end tells them to go
    int ended
    zsw_counts counts


cdef inline uint32_t kind_of(uint32_t word) noexcept nogil:
    return word & KIND


cdef inline uint32_t word_of(const zsw_memory *m, uint64_t page) noexcept nogil:
    return zsw_peek_u32(&m.words[page])


cdef inline uint8_t *at_page(const zsw_memory *m, uint64_t page) noexcept nogil:
    return m.base + (page << m.page_shift)


cdef inline void count_pinned(zsw_memory *m, uint64_t page, int by) noexcept nogil:
    """One page more is pinned, or less."""
    zsw_add_u64(&m.pinned, <uint64_t> <int64_t> by)
    zsw_add_u32(&m.parts[page >> EXTENT_SHIFT].pinned, <uint32_t> by)


cdef inline int fd_of(const zsw_memory *m, uint64_t page) noexcept nogil:
    """The userfaultfd under which a page lies."""
    return m.fd if m.programs == NULL else m.programs[m.parts[page >> EXTENT_SHIFT].owner].fd


cdef inline uint8_t *seen_at(const zsw_memory *m, uint64_t page) noexcept nogil:
    """Where who touches the page has it."""
    if m.programs == NULL:
        return at_page(m, page)
    return <uint8_t *> (m.programs[m.parts[page >> EXTENT_SHIFT].owner].base
                        + (page << m.page_shift))


cdef inline void rest(uint32_t *times) noexcept nogil:
    """Waits a moment for another thread, longer each time."""
    times[0] += 1
    if times[0] < 200:
        zsw_pause()
    elif times[0] < 240:
        zsw_yield()
    else:
        zsw_sleep_ns(20000)


cdef inline uint32_t epoch_of(const zsw_memory *m) noexcept nogil:
    return zsw_peek_u32(&m.epoch)


cdef inline uint32_t away_for(const zsw_memory *m, uint32_t word) noexcept nogil:
    """Epochs since the page went away, whose word this is."""
    return (epoch_of(m) - (word >> EPOCH_SHIFT)) & 0xffff
