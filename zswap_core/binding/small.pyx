"""What an `ObjectStore` does most, in one step each: values of up to a small page, which are bytes.

Each says that it did nothing where anything is not as usual; then the store goes its way of many
steps, which knows what to do and what to raise.  How a value is noted is said in zswap/objects.py.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_CheckExact
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint64_t

from zswap_core.abi cimport ZSW_COMPRESSOR_SLOW
from zswap_core.binding.results cimport Handle
from zswap_core.locks cimport Lock
from zswap_core.os cimport zsw_load_u32
from zswap_core.single cimport single_free, single_load, single_store, SMALL, wipe
from zswap_core.state cimport zsw_engine


cdef extern from "Python.h":
    PyObject *get_item "PyDict_GetItemWithError"(object values, object key) except? NULL


cdef enum:
    SMALL_BITS = 13             # of a length


cdef inline uint64_t small_length(uint64_t where) noexcept:
    return where >> 3 & ((1 << SMALL_BITS) - 1)


cdef inline bint is_small(object where):
    """Whether a value lies in one small page; None is no value."""
    # a large one's number may take more than 64 bits
    return where is None or type(where) is int and not where & 1


cdef class SmallValues:
    """The base of `ObjectStore`: what it keeps, and the mapping's calls, as C slots."""

    # What others see, as attributes, is zswap/objects.py's to explain.
    cdef public object _map
    cdef public Lock _lock
    cdef public Handle _small
    cdef public list _slots
    cdef public int64_t _value_bytes, _step, _inserted_small

    def __cinit__(self):
        self._lock = Lock()
        self._slots = []

    def __getitem__(self, key):
        value = self.take(key)      # what is most common
        return self._read(key)[1] if value is None else value

    def __setitem__(self, key, value):
        if type(key) is not str:
            self._check_key(key)
        if type(value) is not bytes or not self.hold(key, value):
            self._publish(key, self._pack(value))

    def __delitem__(self, key):
        self._free(key)

    cdef int free_value(self, uint64_t offset, bint waits) except -1:
        cdef zsw_engine *e = self._small.e
        if waits:
            with nogil:
                single_free(e, offset)
        else:
            single_free(e, offset)
        self._slots.append(offset)
        return 0

    cdef object replace(self, object key, object where, uint64_t length):
        """Has the key note a value; gives what it noted before.  `where` itself: it cannot be done
        here, and nothing has changed."""
        cdef PyObject *found
        cdef object values, old = None
        cdef int64_t size
        self._lock.take()
        try:
            values = self._map
            if not PyDict_CheckExact(values):       # closed
                return where
            found = get_item(values, key)
            if found != NULL:
                old = <object> found
            if not is_small(old):
                return where
            size = self._value_bytes + <int64_t> length
            if old is not None:
                size -= <int64_t> small_length(old)
            (<dict> values)[key] = where
            self._value_bytes = size
            return old
        finally:
            self._lock.give()

    cdef bint hold(self, object key, bytes value) except -1:
        """Holds a value under a key; whether that was done."""
        cdef uint64_t length = PyBytes_GET_SIZE(value)
        cdef const char *data = PyBytes_AS_STRING(value)
        cdef zsw_engine *e
        cdef uint64_t offset
        cdef object where
        cdef bint waits
        cdef int status
        if length > SMALL or self._inserted_small + <int64_t> length > self._step:
            return False
        if not self._slots:
            return False
        e = self._small.e
        offset = self._slots.pop()
        waits = (zsw_load_u32(&e.backed_areas) != 0
                 or self._small.compressor_.c.ops.flags & ZSW_COMPRESSOR_SLOW)
        if waits:
            with nogil:
                status = single_store(e, offset, data, length)
        else:
            status = single_store(e, offset, data, length)
        if status < 0:
            self._slots.append(offset)
            return False
        self._inserted_small += length
        where = offset << 16 | length << 3
        try:
            old = self.replace(key, where, length)
        except BaseException:
            self.free_value(offset, waits)
            raise
        if old is where:
            self.free_value(offset, waits)
            return False
        if old is not None:
            self.free_value(<uint64_t> old >> 16, waits)
        return True

    cdef object take(self, object key):
        """Reads a value; None where that was not done."""
        cdef uint8_t page[SMALL]
        cdef object values = self._map
        cdef PyObject *found
        cdef object where
        cdef uint64_t number
        cdef zsw_engine *e
        cdef int status
        if not PyDict_CheckExact(values):           # closed
            return None
        found = get_item(values, key)
        if found == NULL:
            return None
        where = <object> found
        if type(where) is not int or where & 7:
            return None
        number = where
        e = self._small.e
        status = single_load(e, number >> 16, page, small_length(number))
        data = None
        if status >= 0:
            data = PyBytes_FromStringAndSize(<char *> page, small_length(number))
        wipe(e, page)
        # else it may be another's page by now
        found = get_item(values, key)
        return data if found == <PyObject *> where and values is self._map else None
