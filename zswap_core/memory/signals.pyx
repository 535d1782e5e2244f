"""SIGBUS: the memories of the process, and whose fault it was.

The handler may look at a memory at any time; so those lie in a table that is never freed.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from zswap_core.memory.fetch cimport memory_fault, NO_PAGE, NO_ROOM, NOT_MAPPED
from zswap_core.memory.state cimport zsw_memory
from zswap_core.os cimport zsw_cas_u32, zsw_load_u32, zsw_store_u32
from zswap_core.status cimport Status


cdef extern from "zswap/sigbus.h" nogil:
    ctypedef int (*zsw_sigbus_server)(uint64_t address, uint32_t how) noexcept nogil
    int zsw_sigbus_catch(zsw_sigbus_server serve)
    void zsw_say(uint64_t page, const void *address, const char *what, int error)


cdef enum:
    MEMORIES = 64
    FORKED = -204


cdef struct shell:
    uint32_t taken
    uint32_t serving
    zsw_memory memory

cdef shell shells[MEMORIES]


cdef zsw_memory *take_shell() noexcept nogil:
    """Room for one more memory; NULL when there are too many."""
    cdef uint32_t i
    for i in range(<uint32_t> MEMORIES):
        if zsw_cas_u32(&shells[i].taken, 0, 1):
            memset(&shells[i].memory, 0, sizeof(zsw_memory))
            return &shells[i].memory
    return NULL


cdef void leave_shell(zsw_memory *m) noexcept nogil:
    cdef uint32_t i
    for i in range(<uint32_t> MEMORIES):
        if &shells[i].memory == m:
            zsw_store_u32(&shells[i].taken, 0)


cdef void set_serving(zsw_memory *m, uint32_t serving) noexcept nogil:
    cdef uint32_t i
    for i in range(<uint32_t> MEMORIES):
        if &shells[i].memory == m:
            zsw_store_u32(&shells[i].serving, serving)


cdef void serve_signals(zsw_memory *m) noexcept nogil:
    set_serving(m, 1)


cdef void stop_serving(zsw_memory *m) noexcept nogil:
    set_serving(m, 0)


cdef const char *cause_of(const zsw_memory *m, int rc) noexcept nogil:
    if rc == Status.CORRUPT:
        return b"it is damaged in memory: it does not decompress to what was stored"
    if rc == Status.BACKING_CORRUPT:
        return b"what the backing file gave back is not what was written there"
    if rc == Status.BACKING_FAIL:
        return b"the backing file cannot be read"
    if rc == NO_PAGE:
        return b"it belongs to no allocation: that was freed, or ends before it"
    if rc == NO_ROOM:
        return b"there is no room for it: nothing goes to the pool or the backing file any more"
    if rc == NOT_MAPPED:
        return b"the system has no memory for it"
    if rc == FORKED:
        return (b"this is a forked child, and the memory its parent's alone: make children by "
                b"'spawn' or 'forkserver', or copy what they need")
    return b"it is lost"


cdef void complain(const zsw_memory *m, uint64_t page, uint64_t address, int rc) noexcept nogil:
    """One line on stderr: which page cannot be had, and why."""
    zsw_say(page, <const void *> address, cause_of(m, rc),
            -m.error if rc == Status.BACKING_FAIL else 0)


cdef zsw_memory *memory_at(uint64_t address) noexcept nogil:
    """The memory that has this address; NULL: none that is served."""
    cdef uint32_t i
    for i in range(<uint32_t> MEMORIES):
        if (zsw_load_u32(&shells[i].serving)
                and address - <uint64_t> shells[i].memory.base < shells[i].memory.bytes):
            return &shells[i].memory
    return NULL


cdef int serve(uint64_t address, uint32_t how) noexcept nogil:
    cdef zsw_memory *m = memory_at(address)
    cdef uint64_t page
    cdef int rc
    if m == NULL:
        return 0
    page = (address - <uint64_t> m.base) >> m.page_shift
    rc = FORKED if m.forked else memory_fault(m, page, how)
    # with threads the one that read the fault has said what there is to say
    if rc < 0 and (m.forked or not m.threads):
        complain(m, page, address, rc)
    return rc >= 0


cdef int catch_signals() noexcept nogil:
    """Makes SIGBUS ours, be it again.  0, 1 when others had it, or -errno."""
    return zsw_sigbus_catch(serve)
