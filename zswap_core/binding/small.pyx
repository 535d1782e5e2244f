"""What an `ObjectStore` does most, in one step each: values of up to a small page, which are bytes.

Each says that it did nothing where anything is not as usual; then the store goes its way of many
steps, which knows what to do and what to raise.  How a value is noted is said in zswap/objects.py.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t

from zswap_core.abi cimport ZSW_COMPRESSOR_SLOW
from zswap_core.binding.results cimport Handle
from zswap_core.os cimport zsw_load_u32
from zswap_core.single cimport single_free, single_load, single_store, SMALL, wipe
from zswap_core.state cimport zsw_engine


cdef enum:
    SMALL_BITS = 13             # of a length


cdef inline uint64_t small_length(uint64_t where) noexcept:
    return where >> 3 & ((1 << SMALL_BITS) - 1)


cdef inline bint is_small(object where):
    """Whether a value lies in one small page; None is no value."""
    # a large one's number may take more than 64 bits
    return where is None or type(where) is int and not where & 1


cdef inline int free_value(Handle engine, list slots, uint64_t offset, bint waits) except -1:
    cdef zsw_engine *e = engine.e
    if waits:
        with nogil:
            single_free(e, offset)
    else:
        single_free(e, offset)
    slots.append(offset)
    return 0


cdef object replace(object store, object key, object where, uint64_t length):
    """Has the key note a value; gives what it noted before.  `where` itself: it cannot be done
    here, and nothing has changed."""
    lock = store._lock._lock
    lock.acquire()
    try:
        values = store._map
        old = values.get(key)
        if not is_small(old):
            return where
        size = store._value_bytes + length
        if old is not None:
            size -= small_length(old)
        values[key] = where
        store._value_bytes = size
        return old
    finally:
        lock.release()


def hold_small(object store, Handle engine, object key, bytes value):
    """Hold a value under a key; whether that was done."""
    cdef uint64_t length = PyBytes_GET_SIZE(value)
    cdef list slots = store._slots
    cdef list inserted = store._inserted
    cdef const char *data = PyBytes_AS_STRING(value)
    cdef zsw_engine *e = engine.e
    cdef uint64_t offset
    cdef object where
    cdef bint waits
    cdef int status
    if length > SMALL or inserted[0] + length > store._step:
        return False
    try:
        offset = slots.pop()
    except IndexError:
        return False
    waits = (zsw_load_u32(&e.backed_areas) != 0
             or engine.compressor_.c.ops.flags & ZSW_COMPRESSOR_SLOW)
    if waits:
        with nogil:
            status = single_store(e, offset, data, length)
    else:
        status = single_store(e, offset, data, length)
    if status < 0:
        slots.append(offset)
        return False
    inserted[0] += length
    where = offset << 16 | length << 3
    try:
        old = replace(store, key, where, length)
    except BaseException:
        free_value(engine, slots, offset, waits)
        raise
    if old is where:
        free_value(engine, slots, offset, waits)
        return False
    if old is not None:
        free_value(engine, slots, <uint64_t> old >> 16, waits)
    return True


def take_small(object store, Handle engine, object key):
    """Read a value; None where that was not done."""
    cdef zsw_engine *e = engine.e
    cdef uint8_t page[SMALL]
    cdef uint64_t number
    cdef int status
    values = store._map
    where = values.get(key)
    if type(where) is not int or where & 7:
        return None
    number = where
    status = single_load(e, number >> 16, page)
    data = PyBytes_FromStringAndSize(<char *> page, small_length(number)) if status >= 0 else None
    wipe(e, page)
    # else it may be another's page by now
    return data if values.get(key) is where else None
