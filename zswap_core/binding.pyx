# cython: language_level=3
"""The binding: the only place where Python objects, buffers and exceptions meet the engine.

Every method has one shape: check what can be checked and take raw pointers, enter the engine, work without touching a Python
object, leave, and turn the result into a value or an exception.

A batch releases the GIL once.  A single call keeps it when the current compressor is a fast one: giving the GIL away and
getting it back costs more than the microsecond or two it would buy (docs/design.md has the figures).
"""
from cpython.number cimport PyNumber_Index
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EFBIG, EINVAL, ENOMEM, ENOSPC
from libc.string cimport memcpy, memset
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t

from zswap_core.abi cimport (ZSW_COMPRESSOR_SLOW, zsw_zpool_config, ZSW_ZPOOL_NO_DUMP, ZSW_ZPOOL_NO_FORK, zsw_zpool_ops,
                             ZSW_ZPOOL_WIPE)
from zswap_core.batch cimport engine_invalidate_many, engine_load_many, engine_store_many
from zswap_core.backings.base cimport Backing
from zswap_core.maintenance cimport maintenance_start, maintenance_wake
from zswap_core.writeback cimport engine_writeback
from zswap_core.area cimport engine_swapoff, engine_swapoff_end, engine_swapon, find_area
from zswap_core.check cimport engine_age, engine_object, engine_validate, zsw_finding
from zswap_core.compact cimport engine_compact
from zswap_core.compressors.base cimport Compressor
from zswap_core.compressors.checksum cimport Checksum
from zswap_core.engine cimport engine_close, engine_create, engine_free
from zswap_core.fault cimport fault, Site
from zswap_core.figures cimport engine_latency, engine_node_pages, engine_totals, zsw_totals
from zswap_core.index cimport index_protect
from zswap_core.invalidate cimport engine_invalidate
from zswap_core.latency cimport bucket_start, LATENCY_BUCKETS, latency_record, Timed, TIMED, zsw_histogram
from zswap_core.load cimport engine_contains, engine_length, engine_load
from zswap_core.os cimport (EDEADLK, zsw_add_u32, zsw_bind_node, zsw_load_ptr, zsw_map, zsw_map_as, ZSW_MAP_NO_DUMP,
                            ZSW_MAP_NO_FORK, zsw_now_ns, zsw_peek_i64, zsw_peek_u32, zsw_poke_i64, zsw_poke_u32,
                            zsw_poke_u64, zsw_unlikely, zsw_unmap)
from zswap_core.pool cimport compressor_in_use, engine_use_pool, pool_at
from zswap_core.state cimport MAX_AREAS, MAX_OFFSET_SHIFT, MAX_POOLS, PATH_BYTES, zsw_engine, zsw_pool, zsw_worker
from zswap_core.status cimport Status
from zswap_core.recompress cimport engine_recompress, zsw_recompressed
from zswap_core.store cimport engine_store
from zswap_core.walk cimport engine_area_pages, engine_shard_offsets, engine_shards
from zswap_core.worker cimport engine_enter, engine_leave
from zswap_core.zpools.registry cimport zpool_at, zpool_find

import os

import numpy as np

from zswap_core.backings import open_backing
from zswap_core.errors import BackingError, PageCorruptError, PoolLimitError
from zswap_core.stats import Counter as _Counter

cdef object UINT64 = np.dtype(np.uint64), INT64 = np.dtype(np.int64)
cdef uint64_t OFFSET_LIMIT = <uint64_t> 1 << MAX_OFFSET_SHIFT
COUNTER_NAMES = tuple(c.name for c in sorted(_Counter) if c.name != "COUNTERS")
FLAGS = ("enabled", "same_filled_pages_enabled", "non_same_filled_pages_enabled", "exclusive_loads", "reject_compress_poor",
         "latency")
LATENCY_BOUNDS = tuple(bucket_start(i) for i in range(LATENCY_BUCKETS + 1))
# Pages that a call works on before it looks whether a signal has come: a tenth of a second or so.
cdef enum:
    SLICE = 16384

NODES = 1024                    # NUMA nodes that a kernel can have


def zpool_names():
    """Names of the allocators, in order of preference."""
    cdef const zsw_zpool_ops *ops
    names = []
    while True:
        ops = zpool_at(len(names))
        if ops == NULL:
            return names
        names.append(ops.name.decode())


# ---- arguments ------------------------------------------------------------------------------------------------------


# Declared here for its second argument; asks __index__, so a float is no number.
cdef extern from "Python.h":
    int64_t PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1


cdef uint64_t as_offset(object offset) except? 0xffffffffffffffff:
    cdef int beyond
    cdef int64_t value = PyLong_AsLongLongAndOverflow(offset, &beyond)
    if beyond or value < 0 or <uint64_t> value >= OFFSET_LIMIT:
        raise ValueError(f"offset {offset} is out of range: a page number from 0 to 2**{MAX_OFFSET_SHIFT} - 1 is needed")
    return <uint64_t> value


cdef uint32_t as_type(object swap_type) except? 0xffffffff:
    cdef int beyond
    cdef int64_t value = PyLong_AsLongLongAndOverflow(swap_type, &beyond)
    if beyond or value < 0 or value >= MAX_AREAS:
        raise ValueError(f"swap_type {swap_type} is out of range: 0 to {MAX_AREAS - 1} is needed")
    return <uint32_t> value


cdef int take_buffer(object obj, str name, Py_ssize_t size, bint writable, Py_buffer *buffer) except -1:
    """The buffer of `obj`, checked to be C-contiguous, of `size` bytes and, where asked, writable.  To be released."""
    try:
        PyObject_GetBuffer(obj, buffer, PyBUF_WRITABLE if writable else PyBUF_SIMPLE)
    except (BufferError, ValueError) as error:
        # numpy says ValueError, memoryview BufferError.
        need = "a writable C-contiguous" if writable else "a C-contiguous"
        raise ValueError(f"{name} must be {need} buffer: {error}") from None
    if buffer.len != size:
        PyBuffer_Release(buffer)
        raise ValueError(f"{name} is {buffer.len} bytes long; {size} are needed")
    return 0


cdef class View:
    """A buffer, held as long as this is."""
    cdef Py_buffer buffer
    cdef bint held

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.buffer)


cdef View view_of(object obj, str name, Py_ssize_t size, bint writable):
    cdef View view = View.__new__(View)
    take_buffer(obj, name, size, writable, &view.buffer)
    view.held = True
    return view


cdef object wide_integers(object array):
    """As an array of 64-bit integers, signed or not."""
    if array.dtype.kind == "O":             # integers too large for an array are no offsets either
        for bad in array.tolist():
            if isinstance(bad, int):
                as_offset(bad)
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"offsets must be integers, not {array.dtype}")
    return array.astype(UINT64 if array.dtype.kind == "u" else INT64)


cdef View offsets_of(object offsets):
    """`offsets` as uint64, every one checked."""
    cdef View view
    cdef const uint64_t *at
    cdef uint64_t i, n, bits = 0
    array = np.asarray(offsets)
    if array.ndim != 1:
        raise ValueError(f"offsets must be one-dimensional, not of shape {array.shape}")
    if array.dtype is not UINT64 and array.dtype is not INT64:
        array = wide_integers(array)
    if array.strides[0] != 8:
        array = np.ascontiguousarray(array)
    n = len(array)
    view = view_of(array, "offsets", n * 8, False)
    at = <const uint64_t *> view.buffer.buf
    for i in range(n):
        bits |= at[i]                       # the limit is a power of two; what was negative is beyond it
    if bits >= OFFSET_LIMIT:
        for bad in (array.min(), array.max()):
            as_offset(int(bad))
    return view


cdef int thread_count(object threads) except -1:
    cdef int64_t count
    try:
        count = PyNumber_Index(threads)
    except OverflowError:
        count = 64 if threads > 0 else 0
    if count < 1:
        raise ValueError(f"threads is {threads}; at least 1 is needed")
    return <int> count if count < 64 else 64


# ---- results --------------------------------------------------------------------------------------------------------


cdef object error_for(int status, object offset, object swap_type, Engine engine):
    """The exception for one page that was refused: the one table from status to exception."""
    where = f"page at offset {offset}" + (f" of swap area {swap_type}" if swap_type else "")
    if status == Status.ABSENT:
        return KeyError(offset)
    if status == Status.NO_AREA:
        return ValueError(f"{where}: no such swap area, or the offset lies beyond its end")
    if status == Status.CORRUPT:
        error = PageCorruptError(f"{where} is damaged in memory: it does not decompress to what was stored; the entry is kept")
        error.__cause__ = engine.compressor_error()
        return error
    if status == Status.BACKING_CORRUPT:
        store = engine.stores.get(swap_type)
        return PageCorruptError(f"{where} is damaged in the backing store{f', {store.name}' if store is not None else ''}: its "
                                "checksum is not that of what was written; it is kept there")
    if status == Status.POOL_LIMIT or status == Status.ACCEPT_THRESHOLD:
        limit = engine.e.params.max_pages * engine.e.page_size
        why = ("the pool is at its limit" if status == Status.POOL_LIMIT
               else "the pool was at its limit and is still above the accept threshold")
        return PoolLimitError(f"{where} refused: {why} ({limit} bytes); invalidate pages or raise max_pool_bytes")
    if status == Status.BACKING_FAIL:
        return engine.backing_error(f"{where}: the backing store failed", swap_type)
    if status == Status.ALLOC_FAIL or status == Status.ENTRY_FAIL:
        return MemoryError(f"{where}: no memory")
    if status == Status.DISABLED:
        name = "non_same_filled_pages_enabled" if engine.e.params.enabled else "enabled"
        return engine.error(f"{where} refused: the parameter {name!r} is off")
    if status == Status.COMPRESS_POOR:
        why = ("the parameter 'reject_compress_poor' is on" if engine.e.params.reject_compress_poor
               else f"the zpool {engine.zpool} holds no raw pages")
        return engine.error(f"{where} refused: it does not compress, and {why}")
    error = engine.error(f"{where}: the compressor {engine.compressor_.spec} failed")
    error.__cause__ = engine.compressor_error()
    return error


cdef bint encrypts(object store):
    return getattr(store, "encrypted", False)   # a store of the user's has to do that by itself


cdef void end_call(zsw_engine *e, zsw_worker *w, Timed call, uint64_t start, int status) noexcept nogil:
    """Gives the worker back; a call that has a start is timed."""
    if zsw_unlikely(start != 0) and status >= 0:
        latency_record(&w.latency, zsw_peek_u32(&e.latency_epoch), call, zsw_now_ns() - start)
    engine_leave(e, w)


# ---- the engine -----------------------------------------------------------------------------------------------------


cdef class Engine:
    """The compiled half of `zswap.ZSwap`, which documents it."""
    cdef zsw_engine *e
    cdef set compressors            # all that pools may still use
    cdef Compressor compressor_     # the current one
    cdef Checksum checksum_         # None: no checksums
    cdef object error               # zswap_core.errors.Error
    cdef bint slow                  # single stores release the GIL
    cdef set opened                 # those of the stores that we opened ourselves
    cdef dict stores                # swap type -> Backing, of the areas that have one
    cdef object encrypt_            # whether swap files are encrypted where nobody says; None: nobody said so far
    cdef object __weakref__

    def __cinit__(self, compressor=None, zpool=None, page_size=4096, *args, **kwargs):
        cdef int rc
        from zswap_core.errors import Error
        self.error = Error
        self.compressors = set()
        self.stores = {}
        self.opened = set()
        if page_size not in (4096, 16384, 65536):
            raise ValueError(f"page_size is {page_size}; 4096, 16384 or 65536 is needed")
        rc = engine_create(page_size, &self.e)
        if rc != 0:
            raise MemoryError("no memory for the engine")

    def __del__(self):
        # Before the collector clears `stores` and `compressors`, which calls in flight still use; and without the GIL, which
        # those calls may be waiting for.
        if self.e != NULL and self.e.closing == 0:
            self.close()

    def __dealloc__(self):
        cdef int rc
        if self.e != NULL:
            with nogil:
                rc = engine_close(self.e)
            if rc >= 0:                         # else the last reference went away inside one of its own calls: it stays
                engine_free(self.e)

    cdef zsw_worker *enter(self) except NULL:
        cdef int rc = 0
        cdef zsw_worker *w = engine_enter(self.e, &rc)
        if w == NULL:
            if rc == -ENOMEM:
                raise MemoryError("no memory for one more call")
            if self.e.forked:
                raise ValueError("this ZSwap belongs to the parent process; a forked child needs one of its own")
            raise ValueError("the ZSwap is closed")
        return w

    def close(self):
        """Wait for calls in flight and free everything.  Closing twice is fine; anything else after it is a ValueError."""
        cdef Backing store
        cdef int rc
        with nogil:
            rc = engine_close(self.e)
        if rc == -EDEADLK:
            raise RuntimeError("close() was called from inside a call of the same engine, which it would wait for")
        while rc == 0 and self.stores:          # whoever closed it
            store = self.stores.popitem()[1]
            if self.e.params.wipe_on_free:
                store.erase()
            self.drop_store(store)

    @property
    def closed(self):
        """Whether close() was called (or this process was forked off the one that made the engine)."""
        return zsw_peek_u32(&self.e.closing) != 0

    @property
    def page_size(self):
        """Bytes in a page."""
        return self.e.page_size

    cdef object compressor_error(self):
        """The exception behind a compressor's last failure, where it is one in Python; told once."""
        cdef Compressor compressor
        for candidate in list(self.compressors):
            compressor = candidate
            if compressor.last_error is not None:
                error, compressor.last_error = compressor.last_error, None
                return error
        return None

    cdef object drop_compressors(self):
        """Inside a call: lets go of compressors whose pools are gone.  One that is about to get a pool is held by its call."""
        cdef Compressor compressor
        for candidate in list(self.compressors):
            compressor = candidate
            if compressor is not self.compressor_ and not compressor_in_use(self.e, &compressor.c):
                self.compressors.discard(compressor)

    cdef object backing_error(self, str what, object swap_type):
        cdef Backing store = self.stores.get(swap_type)
        cdef int code = -self.e.areas[<int> swap_type].error
        cause = store.last_error if store is not None else None
        remedy = ("free space on its file system or make the swap file smaller" if code in (ENOSPC, EFBIG)
                  else "look at the device and the system log")
        error = BackingError(code, f"{what}: {cause or os.strerror(code)}; {remedy}")
        error.__cause__ = cause
        return error

    cdef object drop_store(self, Backing store):
        """Gives a store back; one that was opened for a path is closed."""
        store.detach()
        if store in self.opened:
            self.opened.discard(store)
            store.close()

    # ---- configuration: what zswap.ZSwap builds on ------------------------------------------------------------------

    def _protect(self, bint wipe_on_free, bint no_dump, no_fork):
        """To be said before there is a pool.  With `no_fork` None memory is kept from forked children where the system can."""
        cdef uint32_t mapping = ZSW_MAP_NO_DUMP if no_dump else 0
        cdef void *page
        if no_fork is None or no_fork:
            page = zsw_map_as(self.e.page_size, ZSW_MAP_NO_FORK)
            if page != NULL:
                mapping |= ZSW_MAP_NO_FORK
            elif no_fork:
                raise self.error("dontfork=True: the system cannot keep memory from forked children (Linux 4.14 or later does)")
            zsw_unmap(page, self.e.page_size)
        self.e.params.wipe_on_free = wipe_on_free
        self.e.params.mapping = self.e.entries.mapping = mapping
        index_protect(&self.e.index, wipe_on_free, mapping)

    def _use_pool(self, Compressor compressor, str zpool, int chain, bint kernel, int numa_node):
        cdef zsw_zpool_config config
        cdef const zsw_zpool_ops *ops = zpool_find(zpool.encode())
        cdef zsw_worker *w
        cdef int rc
        if ops == NULL:
            raise ValueError(f"unknown zpool {zpool!r}")
        if numa_node >= 0:
            self.check_node(numa_node)
        config.page_size, config.chain, config.kernel, config.numa_node = self.e.page_size, chain, kernel, numa_node
        config.flags = self.zpool_flags()
        w = self.enter()
        self.start_maintenance(w, zsw_load_ptr(<void **> &self.e.current) != NULL)
        with nogil:
            rc = engine_use_pool(self.e, &compressor.c, ops, &config)
        if rc == 0:
            self.compressors.add(compressor)
            self.compressor_ = compressor
            self.slow = compressor.c.ops.flags & ZSW_COMPRESSOR_SLOW != 0
            self.drop_compressors()
        engine_leave(self.e, w)
        if rc == -ENOSPC:
            raise self.error(f"there are {MAX_POOLS} pools that still hold pages; no more fit")
        if rc == -ENOMEM:
            raise MemoryError("no memory for the pool")
        if rc != 0:
            raise ValueError(f"no pool of compressor {compressor.spec!r} and zpool {zpool!r} (error {-rc})")

    cdef uint32_t zpool_flags(self):
        return ((ZSW_ZPOOL_WIPE if self.e.params.wipe_on_free else 0)
                | (ZSW_ZPOOL_NO_DUMP if self.e.params.mapping & ZSW_MAP_NO_DUMP else 0)
                | (ZSW_ZPOOL_NO_FORK if self.e.params.mapping & ZSW_MAP_NO_FORK else 0))

    cdef int start_maintenance(self, zsw_worker *w, bint needed) except -1:
        """Inside a call, which ends if the thread that is needed cannot be had."""
        cdef int rc = 0
        if needed:
            with nogil:
                rc = maintenance_start(self.e)
        if rc != 0:
            engine_leave(self.e, w)
            raise self.error(f"the system starts no thread for the engine: {os.strerror(-rc)}; "
                             "allow this user or container more (ulimit -u, pids.max)")
        return 0

    cdef object check_node(self, int node):
        """Binding happens deep in the allocator, where a refusal would look like a lack of memory: ask beforehand."""
        cdef size_t size = self.e.page_size
        cdef void *page = zsw_map(size)
        cdef int rc = fault(Site.ARENA_BIND)
        if rc == 0:
            rc = zsw_bind_node(page, size, node) if page != NULL else -ENOMEM
        zsw_unmap(page, size)
        if rc != 0:
            raise self.error(f"the system does not bind memory to NUMA node {node}: {os.strerror(-rc)}; "
                             "leave numa_node out, or give the process CAP_SYS_NICE if it runs in a container")

    def _use_checksum(self, Checksum checksum):
        """Keep a checksum of each page.  Before there are any pages."""
        self.checksum_ = checksum
        self.e.checksum = checksum.c
        self.e.index.checksums = 1

    @property
    def checksum(self):
        """The function that makes the pages' checksums, and its library; None where none are kept."""
        return None if self.checksum_ is None else self.checksum_.name

    def _set_flag(self, str name, bint value):
        cdef uint32_t *flag
        if name == "enabled":
            flag = &self.e.params.enabled
        elif name == "same_filled_pages_enabled":
            flag = &self.e.params.same_filled_pages_enabled
        elif name == "non_same_filled_pages_enabled":
            flag = &self.e.params.non_same_filled_pages_enabled
        elif name == "exclusive_loads":
            flag = &self.e.params.exclusive_loads
        elif name == "latency":
            flag = &self.e.params.latency
        else:
            flag = &self.e.params.reject_compress_poor
        zsw_poke_u32(flag, value)

    def _set_limits(self, uint64_t max_pages, uint64_t accept_pages):
        zsw_poke_u64(&self.e.params.max_pages, max_pages)
        zsw_poke_u64(&self.e.params.accept_pages, accept_pages)

    def _set_encrypt(self, encrypt):
        """What swapon() goes by where it is told nothing.  Before there is an area."""
        self.encrypt_ = encrypt

    @property
    def encrypt(self):
        """Whether a swap file is encrypted for which `swapon` is not told."""
        return bool(self.encrypt_)

    def swapon(self, swap_type, nr_pages=None, backing=None, *, encrypt=None):
        """Bring a swap area online.

        Parameters
        ----------
        swap_type : int
            The area's number, 0 to 255.  Area 0 is online from the start.
        nr_pages : int, optional
            Offsets 0 to ``nr_pages - 1`` are the area's.  By default all that the backing store has, or without one any
            offset up to ``2**47 - 1``.
        backing : path, SwapFile or object with write_pages and read_pages, optional
            Where the coldest pages go, and those that are refused.
        encrypt : bool, optional
            Encrypt the swap file, see `SwapFile`.  By default as the engine: it encrypts all once it was told to encrypt one,
            be it here, when it was made, or by a SwapFile that does.  A backing that does not is then refused, unless
            False says that it may hold pages in clear.

        Raises
        ------
        ValueError
            When the area is online already, a number is out of range, or the backing does not encrypt though it should.
        BackingError
            When the backing store cannot be opened, or another engine uses it.
        """
        cdef uint32_t type = as_type(swap_type)
        cdef uint64_t pages
        cdef zsw_worker *w
        cdef Backing store = None
        cdef int rc
        engine_leave(self.e, self.enter())      # closed?
        if encrypt is not None and not isinstance(encrypt, bool):
            raise TypeError(f"encrypt is {encrypt!r}; True, False or None is needed")
        if backing is not None:
            store = open_backing(backing, self.e.page_size, encrypt=self.encrypt if encrypt is None else encrypt)
            if store is not backing:
                self.opened.add(store)
        elif encrypt:
            raise ValueError("encrypt=True needs a backing to encrypt")
        try:
            limit = OFFSET_LIMIT if store is None else store.nr_pages
            if nr_pages is None:
                nr_pages = limit
            nr_pages = PyNumber_Index(nr_pages)
            if not 0 < nr_pages <= limit:
                raise ValueError(f"nr_pages is {nr_pages}; 1 to {limit} is needed")
            pages = nr_pages
            if store is not None:
                store.attach()
        except BaseException:
            if store in self.opened:
                self.opened.discard(store)
                store.close()
            raise
        try:
            w = self.enter()
            self.start_maintenance(w, store is not None)
        except BaseException:
            if store is not None:
                self.drop_store(store)
            raise
        rc = engine_swapon(self.e, type, pages, store.ops if store is not None else NULL,
                           store.state if store is not None else NULL)
        engine_leave(self.e, w)
        if rc == 0:
            if store is not None:
                self.stores[int(swap_type)] = store
                if self.encrypt_ is None and encrypts(store):
                    self.encrypt_ = True
            return
        if store is not None:
            self.drop_store(store)
        if rc == -EINVAL:
            raise ValueError(f"swap area {swap_type} is online already")
        raise MemoryError("no memory for the swap area")

    def _swapoff(self, swap_type):
        cdef uint32_t type = as_type(swap_type)
        cdef zsw_worker *w = self.enter()
        cdef int rc
        with nogil:
            rc = engine_swapoff(self.e, w, type)
            engine_leave(self.e, w)
        if rc == -EDEADLK:
            raise RuntimeError("swapoff() was called from inside a call of the same engine, which it would wait for")
        if rc != 0:
            raise ValueError(f"swap area {swap_type} is not online")
        store = self.stores.pop(int(swap_type), None)
        with nogil:
            engine_swapoff_end(self.e, type)
        if store is not None:
            self.drop_store(store)

    def _online(self, swap_type):
        cdef uint32_t type = as_type(swap_type)
        cdef zsw_worker *w = self.enter()
        cdef bint online = find_area(self.e, type, 0) != NULL
        engine_leave(self.e, w)
        return online

    def shrink(self, nr_pages, *, idle_seconds=None):
        """Write back the coldest pages now.

        Parameters
        ----------
        nr_pages : int
            How many at most.
        idle_seconds : int, optional
            Only pages that were not accessed for so long; referenced or not, they get no second chance.

        Returns
        -------
        int
            Pages written back: 0 when no area has a backing store; fewer than asked for when there are no more, the store
            fails (`reject_reclaim_fail`), or the budget is used up.
        """
        cdef uint64_t pages, count, written, done = 0
        cdef uint32_t idle = 0
        cdef zsw_worker *w
        nr_pages = PyNumber_Index(nr_pages)
        if nr_pages < 0:
            raise ValueError(f"nr_pages is {nr_pages}; it cannot be negative")
        if idle_seconds is not None:
            if not 0 < idle_seconds < 1 << 22:
                raise ValueError(f"idle_seconds is {idle_seconds}; 1 to 2**22 - 1 is needed")
            idle = idle_seconds
        pages = min(nr_pages, 1 << 40)
        while True:
            count = min(pages - done, <uint64_t> SLICE)
            w = self.enter()
            with nogil:
                written = engine_writeback(self.e, w, count, idle)
                engine_leave(self.e, w)
            done += written
            if written < count or done == pages:
                return done
            PyErr_CheckSignals()

    def _recompress(self, Compressor compressor, str zpool, int chain, bint kernel, int numa_node, uint32_t idle,
                    bint incompressible, uint64_t max_pages):
        cdef zsw_zpool_config config
        cdef const zsw_zpool_ops *ops = zpool_find(zpool.encode())
        cdef zsw_recompressed result
        cdef uint32_t next = 1
        cdef zsw_worker *w
        cdef int rc = 0
        config.page_size, config.chain, config.kernel, config.numa_node = self.e.page_size, chain, kernel, numa_node
        config.flags = self.zpool_flags()
        memset(&result, 0, sizeof(result))
        while rc == 0 and next != 0:
            w = self.enter()
            self.start_maintenance(w, True)
            self.compressors.add(compressor)
            with nogil:
                rc = engine_recompress(self.e, w, &compressor.c, ops, &config, idle, incompressible, max_pages, SLICE // 8,
                                       &next, &result)
                engine_leave(self.e, w)
            self.compressors.add(compressor)    # it may have been dropped before its pool was made
            if next != 0:
                PyErr_CheckSignals()
        if rc == -ENOSPC:
            raise self.error(f"there are {MAX_POOLS} pools that still hold pages; no more fit")
        if rc != 0:
            raise MemoryError("no memory for the pool")
        return result.moved, result.kept, result.bytes_before, result.bytes_after

    def _set_writeback(self, uint32_t shrinker_enabled, uint64_t interval_ns, int64_t limit, uint64_t rate):
        zsw_poke_u32(&self.e.params.shrinker_enabled, shrinker_enabled)
        zsw_poke_u64(&self.e.params.shrinker_interval_ns, interval_ns)
        zsw_poke_i64(&self.e.params.writeback_limit, limit)
        zsw_poke_u64(&self.e.params.writeback_rate, rate)
        maintenance_wake(self.e)                # it sleeps by the old interval

    def _writeback_limit(self):
        return zsw_peek_i64(&self.e.params.writeback_limit)

    def _set_pressure(self, bytes psi_path, bytes usage_path, uint64_t usage_limit):
        """Which files tell of memory pressure.  Before the first backing store only: the shrinker reads them."""
        if max(len(psi_path), len(usage_path)) >= PATH_BYTES:
            raise ValueError("a path is too long")
        memcpy(self.e.psi_path, <const char *> psi_path, len(psi_path) + 1)
        memcpy(self.e.usage_path, <const char *> usage_path, len(usage_path) + 1)
        self.e.usage_limit = usage_limit

    # ---- single pages -----------------------------------------------------------------------------------------------

    def store(self, offset, page, *, swap_type=0):
        """Hold a copy of a page, in place of what was held at that offset.

        Parameters
        ----------
        offset : int
            Page number in the area.
        page : buffer
            Any C-contiguous buffer of `page_size` bytes.
        swap_type : int, optional
            The swap area.

        Raises
        ------
        PoolLimitError
            When the pool is at its limit.
        ValueError
            For a wrong length, a negative offset, an area that is not online, or a closed engine.
        Error
            When the page is refused for another reason.  After any refusal nothing is held at `offset`.
        """
        cdef uint64_t at = as_offset(offset)
        cdef uint32_t type = as_type(swap_type)
        cdef Py_buffer buffer
        cdef zsw_worker *w
        cdef uint64_t start
        cdef int status
        take_buffer(page, "page", self.e.page_size, False, &buffer)
        try:
            w = self.enter()
            start = zsw_now_ns() if zsw_unlikely(zsw_peek_u32(&self.e.params.latency) != 0) else 0
            if self.slow or self.stores:
                with nogil:
                    status = engine_store(self.e, w, type, at, <const uint8_t *> buffer.buf)
                    end_call(self.e, w, Timed.store_ns, start, status)
            else:
                status = engine_store(self.e, w, type, at, <const uint8_t *> buffer.buf)
                end_call(self.e, w, Timed.store_ns, start, status)
        finally:
            PyBuffer_Release(&buffer)
        if status < 0:
            raise error_for(status, offset, swap_type, self)

    def load(self, offset, out=None, *, swap_type=0):
        """Get a page back.  It stays held.

        Parameters
        ----------
        offset : int
            Page number in the area.
        out : buffer, optional
            A writable C-contiguous buffer of `page_size` bytes to fill.
        swap_type : int, optional
            The swap area.

        Returns
        -------
        bytes or buffer
            The page, or `out`.

        Raises
        ------
        KeyError
            When nothing is held at `offset`.
        PageCorruptError
            When the page does not decompress, or is not what its checksum was made of.  The entry is kept; the content of
            `out` is undefined.
        """
        cdef uint64_t at = as_offset(offset)
        cdef uint32_t type = as_type(swap_type)
        cdef Py_buffer buffer
        cdef int status
        if out is None:
            out = PyBytes_FromStringAndSize(NULL, self.e.page_size)
            status = self.load_page(type, at, <uint8_t *> PyBytes_AS_STRING(out))
        else:
            take_buffer(out, "out", self.e.page_size, True, &buffer)
            try:
                status = self.load_page(type, at, <uint8_t *> buffer.buf)
            finally:
                PyBuffer_Release(&buffer)
        if status < 0:
            raise error_for(status, offset, swap_type, self)
        return out

    cdef int load_page(self, uint32_t type, uint64_t at, uint8_t *page) except? -1000:
        cdef zsw_worker *w = self.enter()
        cdef uint64_t start = zsw_now_ns() if zsw_unlikely(zsw_peek_u32(&self.e.params.latency) != 0) else 0
        cdef int status
        w.no_wait = 1
        status = engine_load(self.e, w, type, at, page)
        w.no_wait = 0
        if status == Status.WOULD_BLOCK:
            with nogil:
                status = engine_load(self.e, w, type, at, page)
                end_call(self.e, w, Timed.load_ns, start, status)
        else:
            end_call(self.e, w, Timed.load_ns, start, status)
        return status

    def invalidate(self, offset, *, swap_type=0):
        """Free the page at `offset`.  Returns whether one was held."""
        cdef uint64_t at = as_offset(offset)
        cdef uint32_t type = as_type(swap_type)
        cdef zsw_worker *w = self.enter()
        cdef uint64_t freed
        if self.stores:
            with nogil:
                freed = engine_invalidate(self.e, w, type, at, at)
                engine_leave(self.e, w)
        else:
            freed = engine_invalidate(self.e, w, type, at, at)
            engine_leave(self.e, w)
        return freed != 0

    # ---- the mapping over area 0; collections.abc supplies the rest --------------------------------------------------

    def __getitem__(self, offset):
        return self.load(offset)

    def __setitem__(self, offset, page):
        self.store(offset, page)

    def __delitem__(self, offset):
        if not self.invalidate(offset):
            raise KeyError(offset)

    def __contains__(self, offset):
        cdef uint64_t at
        cdef zsw_worker *w = self.enter()
        cdef bint held = False
        try:
            at = as_offset(offset)
            held = engine_contains(self.e, 0, at)
        except (TypeError, ValueError):         # no page can be held there
            pass
        finally:
            engine_leave(self.e, w)
        return held

    def __len__(self):
        return self._page_count()

    # ---- batches ----------------------------------------------------------------------------------------------------

    def store_many(self, offsets, pages, *, swap_type=0, threads=1, ns=None):
        """Store many pages with one release of the GIL for 16384 of them.

        In between signals are looked for: Ctrl-C leaves what was stored until then, and all other offsets as they were.

        Parameters
        ----------
        offsets : array_like of int, shape (n,)
            Page numbers.  Where one occurs twice the later page wins with one thread, either with more.
        pages : buffer of n * page_size bytes
            The pages, one after another.
        swap_type : int, optional
            The swap area.
        threads : int, optional
            Threads that share the work.
        ns : ndarray of uint32, shape (n,), optional
            Filled with the nanoseconds each page took.

        Returns
        -------
        ndarray of int8, shape (n,)
            A `zswap.Status` for each page: held where >= 0.  No exception is raised for a page.
        """
        return self._many(offsets, pages, swap_type, threads, ns, None, True)

    def load_many(self, offsets, out=None, *, swap_type=0, threads=1, status=None, ns=None):
        """Load many pages, as `store_many` stores them.

        Parameters
        ----------
        offsets : array_like of int, shape (n,)
            Page numbers.
        out : buffer of n * page_size bytes, optional
            Where to put the pages, one after another.
        swap_type, threads, ns
            As for `store_many`.
        status : ndarray of int8, shape (n,), optional
            Filled with a `zswap.Status` for each page.  With it nothing is raised for a page; what `out` holds for a page
            with a negative status is undefined.

        Returns
        -------
        ndarray of uint8, shape (n, page_size), or `out`

        Raises
        ------
        KeyError
            Without `status`: for the first of `offsets` at which nothing is held.  The other pages are loaded all the same.
        PageCorruptError
            Without `status`: for the first page that is damaged.
        """
        return self._many(offsets, out, swap_type, threads, ns, status, False)

    cdef _many(self, offsets, pages, swap_type, threads, ns, status, bint storing):
        cdef uint32_t type = as_type(swap_type)
        cdef int workers = thread_count(threads)
        cdef View offset_view, page_view, status_view, ns_view
        cdef const uint64_t *at
        cdef int8_t *done
        cdef uint64_t n, i = 0
        cdef uint32_t *ns_data = NULL
        cdef uint64_t begun = 0, count
        cdef uint8_t *memory
        cdef zsw_worker *w
        offset_view = offsets_of(offsets)
        at = <const uint64_t *> offset_view.buffer.buf
        n = offset_view.buffer.len // 8
        if pages is None:
            if storing:
                raise TypeError("pages must be a buffer, not None")
            pages = np.empty((n, self.e.page_size), np.uint8)
        codes = np.empty(n, np.int8) if status is None else status
        page_view = view_of(pages, "pages" if storing else "out", n * self.e.page_size, not storing)
        status_view = view_of(codes, "status", n, True)
        done = <int8_t *> status_view.buffer.buf
        if ns is not None:
            ns_view = view_of(ns, "ns", n * 4, True)
            ns_data = <uint32_t *> ns_view.buffer.buf
        memory = <uint8_t *> page_view.buffer.buf
        while True:
            count = min(n - begun, <uint64_t> SLICE)
            w = self.enter()
            with nogil:
                if storing:
                    engine_store_many(self.e, w, type, at + begun, memory + begun * self.e.page_size, count, workers,
                                      done + begun, ns_data + begun if ns_data != NULL else NULL)
                else:
                    engine_load_many(self.e, w, type, at + begun, memory + begun * self.e.page_size, count, workers,
                                     done + begun, ns_data + begun if ns_data != NULL else NULL)
                engine_leave(self.e, w)
            begun += count
            if begun == n:
                break
            PyErr_CheckSignals()                # no worker is held: a handler may well close the engine
        with nogil:
            while i < n and done[i] >= 0:
                i += 1
        if storing:
            return codes
        if status is None and i < n:
            raise error_for(done[i], at[i], swap_type, self)
        return pages

    def invalidate_many(self, offsets, *, swap_type=0):
        """Free the pages at `offsets`.  Returns how many were held."""
        cdef uint32_t type = as_type(swap_type)
        cdef uint64_t n, count, begun = 0, freed = 0
        cdef View view
        cdef zsw_worker *w
        view = offsets_of(offsets)
        n = view.buffer.len // 8
        while True:
            count = min(n - begun, <uint64_t> SLICE)
            w = self.enter()
            with nogil:
                freed += engine_invalidate_many(self.e, w, type, <const uint64_t *> view.buffer.buf + begun, count)
                engine_leave(self.e, w)
            begun += count
            if begun == n:
                return freed
            PyErr_CheckSignals()

    def invalidate_range(self, start, stop, *, swap_type=0):
        """Free the pages at ``start <= offset < stop``.  Returns how many were held."""
        cdef uint32_t type = as_type(swap_type)
        cdef uint64_t first = as_offset(start), freed = 0, last
        cdef zsw_worker *w
        stop = PyNumber_Index(stop)
        if stop < 0 or stop > OFFSET_LIMIT:
            raise ValueError(f"stop {stop} is out of range: 0 to 2**{MAX_OFFSET_SHIFT} is needed")
        w = self.enter()
        if stop > start:
            last = stop
            last -= 1
            with nogil:
                freed = engine_invalidate(self.e, w, type, first, last)
        engine_leave(self.e, w)
        return freed

    def invalidate_area(self, swap_type=0):
        """Free every page of an area, which stays online.  Returns how many were held."""
        return self.invalidate_range(0, OFFSET_LIMIT, swap_type=swap_type)

    def compressed_sizes(self, offsets, *, swap_type=0):
        """What each page takes, before the allocator's rounding.

        Returns
        -------
        ndarray of int32, shape (n,)
            Compressed bytes; 0 for a same-filled page, `page_size` for one kept raw, -1 where nothing is held, -2 for a page in
            the backing store.
        """
        cdef uint32_t type = as_type(swap_type)
        cdef uint64_t i, n
        cdef View view, size_view
        cdef const uint64_t *at
        cdef int32_t *size
        cdef zsw_worker *w
        view = offsets_of(offsets)
        n = view.buffer.len // 8
        sizes = np.empty(n, np.int32)
        size_view = view_of(sizes, "sizes", n * 4, True)
        at = <const uint64_t *> view.buffer.buf
        size = <int32_t *> size_view.buffer.buf
        w = self.enter()
        with nogil:
            for i in range(n):
                size[i] = <int32_t> engine_length(self.e, type, at[i])
            engine_leave(self.e, w)
        return sizes

    # ---- iteration --------------------------------------------------------------------------------------------------

    def _page_count(self, swap_type=0):
        cdef uint32_t type = as_type(swap_type)
        cdef zsw_worker *w = self.enter()
        cdef uint64_t pages = engine_area_pages(self.e, type)
        engine_leave(self.e, w)
        return pages

    def _shards(self, swap_type=0):
        """Numbers of the area's shards, in order."""
        cdef uint32_t type = as_type(swap_type)
        cdef uint64_t found, room = 0
        cdef View view
        cdef zsw_worker *w
        while True:
            numbers = np.empty(room, np.uint64)
            view = view_of(numbers, "numbers", room * 8, True)
            w = self.enter()
            found = engine_shards(self.e, type, <uint64_t *> view.buffer.buf, room)
            engine_leave(self.e, w)
            if found <= room:
                return np.sort(numbers[:found]).tolist()
            room = found + found // 4

    def _shard_offsets(self, uint64_t number, swap_type=0):
        """Offsets held in one shard, in order."""
        cdef uint32_t type = as_type(swap_type), found
        cdef zsw_worker *w
        cdef View view
        offsets = np.empty(1 << 14, np.uint64)
        view = view_of(offsets, "offsets", 8 << 14, True)
        w = self.enter()
        found = engine_shard_offsets(self.e, type, number, <uint64_t *> view.buffer.buf, 1 << 14)
        engine_leave(self.e, w)
        return offsets[:found].tolist()

    # ---- memory and figures -----------------------------------------------------------------------------------------

    def compact(self):
        """Move pages together in every pool and give the memory freed back to the system.

        Returns
        -------
        int
            Allocator pages freed.
        """
        cdef uint64_t freed
        cdef zsw_worker *w = self.enter()
        with nogil:
            freed = engine_compact(self.e, w)
            engine_leave(self.e, w)
        return freed

    def _totals(self):
        """Every counter, and pool_pages, idle_pages, pages_compacted, metadata_bytes."""
        cdef zsw_totals totals
        cdef zsw_worker *w = self.enter()
        cdef int i
        engine_totals(self.e, &totals)
        self.drop_compressors()
        engine_leave(self.e, w)
        stores = list(self.stores.values())
        result = {name: totals.counters[i] for i, name in enumerate(COUNTER_NAMES)}
        result.update(pool_pages=totals.pool_pages, idle_pages=totals.idle_pages, pages_compacted=totals.pages_compacted,
                      metadata_bytes=totals.metadata_bytes, backed_areas=len(stores),
                      encrypted_areas=sum(map(encrypts, stores)))
        return result

    def _latency(self, bint reset):
        """(counts of each bucket, sum, longest) of stores and of loads, in ns; then, if wanted, they begin anew."""
        cdef zsw_histogram histogram
        cdef zsw_worker *w = self.enter()
        cdef int call
        result = []
        for call in range(<int> TIMED):
            engine_latency(self.e, <Timed> call, &histogram)
            result.append((tuple([histogram.counts[i] for i in range(LATENCY_BUCKETS)]), histogram.total, histogram.longest))
        if reset:
            zsw_add_u32(&self.e.latency_epoch, 1)
        engine_leave(self.e, w)
        return result

    def numa_pages(self):
        """Ask the system on which NUMA nodes the allocators' memory lies.

        This looks at every page, about 0.3 microseconds each, and stops nobody meanwhile.

        Returns
        -------
        dict of int to int
            Node, and how many pages of the allocators lie there; nodes with none are left out.  Pages in the system's own
            swap lie on no node.

        Raises
        ------
        Error
            When the system does not tell, as in some containers.
        """
        cdef View view
        cdef uint64_t *counts
        cdef uint32_t nodes = NODES
        cdef zsw_worker *w
        cdef int rc
        found = np.zeros(NODES, np.uint64)
        view = view_of(found, "counts", NODES * 8, True)
        counts = <uint64_t *> view.buffer.buf
        w = self.enter()
        with nogil:
            rc = engine_node_pages(self.e, counts, nodes)
            engine_leave(self.e, w)
        if rc != 0:
            raise self.error(f"the system does not tell where memory lies: {os.strerror(-rc)} (move_pages)")
        return {node: int(pages) for node, pages in enumerate(found) if pages}

    def _pools(self):
        """(compressor, zpool, chain, kernel, current, entries, total pages) of each pool, the current one first."""
        cdef zsw_worker *w = self.enter()
        cdef zsw_pool *current = <zsw_pool *> zsw_load_ptr(<void **> &self.e.current)      # once: it may change meanwhile
        cdef zsw_pool *pool
        cdef Compressor compressor
        cdef uint64_t pages
        rows = []
        try:
            self.drop_compressors()
            for i in range(MAX_POOLS):
                pool = pool_at(self.e, i)
                if pool == NULL:
                    continue
                spec = "?"
                for candidate in list(self.compressors):
                    compressor = candidate
                    if compressor.c.ops == pool.compressor.ops and compressor.c.state == pool.compressor.state:
                        spec = compressor.spec
                pages = pool.ops.total_pages(pool.zpool)
                rows.append((spec, pool.ops.name.decode(), pool.config.chain, bool(pool.config.kernel),
                             pool == current, zsw_peek_i64(&pool.entries), pages))
        finally:
            engine_leave(self.e, w)
        return sorted(rows, key=lambda row: not row[4])

    def _validate(self):
        """Walk every structure and compare it with the counters; AssertionError names what does not agree.  For tests: no
        other call may be in flight."""
        cdef zsw_worker *w = self.enter()       # so that no pool is freed under it
        cdef zsw_finding finding
        cdef int rc
        with nogil:
            rc = engine_validate(self.e, &finding)
            engine_leave(self.e, w)
        if rc != 0:
            from zswap_core.findings import describe
            raise AssertionError(describe(rc, finding.place, finding.zpool.decode() if finding.zpool != NULL else None))

    def _address(self):
        """Where the engine lies, for tests that damage it."""
        return <size_t> self.e

    def _age(self, uint32_t seconds):
        """Make every held page `seconds` older.  For tests: no other call may be in flight."""
        cdef zsw_worker *w = self.enter()
        engine_age(self.e, seconds)
        engine_leave(self.e, w)

    def _object(self, offset, const uint8_t[::1] data=None, *, swap_type=0):
        """The bytes that a page in memory was made into, or its word; with `data`, after that took the place of the first of
        them.  None for a page that is elsewhere.  For tests: no other call may be in flight."""
        cdef uint64_t at = as_offset(offset)
        cdef uint32_t type = as_type(swap_type), length = 0
        cdef zsw_worker *w = self.enter()
        cdef uint8_t *object = engine_object(self.e, type, at, &length)
        result = None
        if object != NULL:
            if data is not None and data.shape[0]:
                memcpy(object, &data[0], min(<size_t> data.shape[0], <size_t> length))
            result = PyBytes_FromStringAndSize(<const char *> object, length)
        engine_leave(self.e, w)
        return result
