"""The binding: the only place where Python objects, buffers and exceptions meet the engine.

Every method has one shape: check what can be checked and put raw pointers into a struct, let
`Engine.call` run a function on it inside the engine, and turn what the struct then says into a
value or an exception.  Only `Engine.call` enters and leaves, and what it runs knows no Python: so
nothing can raise in between, and what a call reports is its own.

A batch releases the GIL once.  A single call keeps it when the current compressor is a fast one,
and pages are not so large that calls take long all the same, as every so often one is timed: giving
the GIL away and getting it back costs more than the microsecond or two it would buy (docs/design.md
has the figures).
"""
from cpython.buffer cimport PyBuffer_Release
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.errno cimport EINVAL, ENODEV, ENOMEM, ENOSPC
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from zswap_core.abi cimport (
    ZSW_COMPRESSOR_SLOW, ZSW_ZPOOL_NO_DUMP, ZSW_ZPOOL_NO_FORK, ZSW_ZPOOL_WIPE,
)
from zswap_core.area cimport engine_swapoff_end
from zswap_core.backings.base cimport Backing
from zswap_core.binding.arguments cimport (
    as_int, as_offset, as_stop, as_type, Buffers, buffers_of, idle_of, offsets_of, take_pages,
    thread_count, View, view_of, wants_zeros,
)
from zswap_core.binding.requests cimport (
    allocate_extent, area_args, area_shard_numbers, batch_args, budget_args, call_body, compact_all,
    contains_page, count_nodes, count_pages, do_load, do_load_part, do_loadv, do_store,
    do_store_part, do_storev, evict_args, evict_bytes, evict_pages, extent_args, free_extent,
    invalidate_batch, invalidate_pages, is_online, latency_args, list_pools, load_batch, load_span,
    LoadAs, look, look_args, news_args, next_held, next_hole, NODES, nodes_args, page_args,
    page_sizes, part_args, pool_args, pool_row, pools_args, range_args, reach_args, read_latency,
    read_news, recall_pages, recompress_some, seal, set_budget, set_limits, shard_offsets, SLICE,
    span_args, store_batch, store_span, sum_totals, swap_off, swap_on, use_pool, vector_args,
    walk_args, weigh_pages, work_args, write_back,
)
from zswap_core.binding.results cimport error_for, Handle, Held
from zswap_core.buffers cimport take_buffer
from zswap_core.calls cimport engine_enter, engine_leave
from zswap_core.compressors.base cimport Compressor
from zswap_core.engine cimport engine_close, engine_create, engine_free
from zswap_core.fault cimport fault, Site
from zswap_core.figures cimport zsw_totals
from zswap_core.index cimport index_protect, SHARD_PAGES
from zswap_core.latency cimport bucket_start, LATENCY_BUCKETS, TIMED, zsw_histogram
from zswap_core.libraries.checksums cimport Checksum
from zswap_core.os cimport (
    EDEADLK, zsw_bind_node, zsw_map, zsw_map_as, ZSW_MAP_NO_DUMP, ZSW_MAP_NO_FORK, zsw_now_ns,
    zsw_peek_i64, zsw_peek_u32, zsw_peek_u64, zsw_poke_i64, zsw_poke_u32, zsw_poke_u64,
    zsw_unlikely, zsw_unmap,
)
from zswap_core.pool cimport compressor_in_use
from zswap_core.slots cimport CHANGED
from zswap_core.state cimport (
    MAX_AREAS, MAX_OFFSET_SHIFT, MAX_POOLS, PATH_BYTES, zsw_engine, zsw_worker,
)
from zswap_core.status cimport Status
from zswap_core.vectors cimport vector_init, VECTOR_PAGES, zsw_made
from zswap_core.wake cimport maintenance_wake
from zswap_core.zpools.registry cimport zpool_find

import os

import numpy as np

from zswap_core.backings import open_backing
from zswap_core.causes import remember
from zswap_core.errors import Error, StoreError
from zswap_core.params import Flag as _Flag
from zswap_core.promote import Promote as _Promote
from zswap_core.stats import Counter as _Counter
from zswap_core.status import REFUSALS, Status as PyStatus

COUNTER_NAMES = tuple([c.name for c in sorted(_Counter) if c.name != "COUNTERS"])
FLAGS = tuple([f.name for f in sorted(_Flag) if f.name != "FLAGS"])
LATENCY_BOUNDS = tuple([bucket_start(i) for i in range(LATENCY_BUCKETS + 1)])


cdef bint encrypts(object store):
    return getattr(store, "encrypted", False)   # a store of the user's has to do that by itself


# What an Engine has before its __init__: closed for good, and nobody's.
cdef zsw_engine unborn
cdef zsw_worker unborn_worker
cdef zsw_worker *unborn_workers[1]
unborn_workers[0] = unborn.all_workers = &unborn_worker
unborn.workers, unborn.worker_count = unborn_workers, 1
unborn.page_size, unborn.closing, unborn.closed = 4096, 1, 1


cdef enum:
    TIMED_CALLS = 32            # of so many single calls one is timed
    LONG_NS = 10000             # those that take longer give the GIL away


# How long single calls of a kind take.  Under the GIL.
cdef struct pace:
    uint32_t calls
    uint64_t ns                 # 0: not known yet


cdef inline bint at_once(pace *p, uint64_t *began) noexcept:
    """Whether the call that begins keeps the GIL: unless its kind takes long.  `began` is set where
    it does so in order to be timed."""
    p.calls += 1
    began[0] = 0
    if zsw_unlikely(p.calls % TIMED_CALLS == 1):
        began[0] = zsw_now_ns()
        return True
    return p.ns <= LONG_NS


cdef inline void ended(pace *p, uint64_t began, int status) noexcept:
    """The call is over; it took longer than it did if it was interrupted."""
    cdef uint64_t ns
    if zsw_unlikely(began != 0 and status >= 0):
        ns = zsw_now_ns() - began
        if p.ns != 0:
            ns = p.ns - p.ns // 4 + min(ns, 2 * p.ns) // 4
        p.ns = max(ns, <uint64_t> 1)


cdef class Engine(Handle):
    """The compiled half of `zswap.ZSwap`, which documents it."""
    cdef Checksum checksum_         # None: no checksums
    cdef bint slow                  # single stores release the GIL
    cdef pace stores_pace
    cdef pace loads_pace
    cdef set opened                 # ids of those of the stores that we opened ourselves
    cdef int backed                 # how many of them there are
    cdef uint32_t heard             # of zsw_engine.news
    cdef uint32_t times_full        # what it was then
    # (swap type, 1 for reads), of the backing stores that did not work then
    cdef set failing
    # whether swap files are encrypted where nobody says; None: nobody said so far
    cdef object encrypt_
    cdef object __weakref__

    def __cinit__(self, *args, **kwargs):
        self.e = &unborn
        self.compressors = {}
        self.stores = [None] * MAX_AREAS
        self.opened = set()
        self.failing = set()

    def _begin(self, page_size):
        """Make the engine: what __init__ does first, and once."""
        cdef zsw_engine *e = NULL
        cdef int rc
        if self.e != &unborn:
            raise RuntimeError(f"this {type(self).__name__} has been initialised before; make a "
                               "new one")
        if (isinstance(page_size, bool) or not isinstance(page_size, (int, np.integer))
                or page_size not in (4096, 16384, 65536)):
            raise ValueError(f"page_size is {page_size}; 4096, 16384 or 65536 is needed")
        rc = engine_create(page_size, &e)
        if rc != 0:
            raise MemoryError("no memory for the engine")
        self.e = e

    def __del__(self):
        # Before the collector clears `stores` and `compressors`, which calls in flight still use;
        # and without the GIL, which those calls may be waiting for.
        if self.e.closing == 0:
            self.close()

    def __dealloc__(self):
        cdef int rc
        if self.e != &unborn:
            with nogil:
                rc = engine_close(self.e)
            # else the last reference went away inside one of its own calls: it stays
            if rc >= 0:
                engine_free(self.e)

    cdef int call(self, call_body body, void *args, bint waits) except -1:
        """Runs `body` inside a call of the engine, without the GIL if it may wait for anything.
        The only place that enters and leaves."""
        cdef int rc = 0
        cdef zsw_worker *w = engine_enter(self.e, &rc)
        if zsw_unlikely(w == NULL):
            if rc == -ENOMEM:
                raise MemoryError("no memory for one more call")
            if self.e == &unborn:
                raise ValueError(f"this {type(self).__name__} is not open: its __init__ was not "
                                 "called, or failed")
            if self.e.forked:
                raise ValueError("this ZSwap belongs to the parent process; a forked child needs "
                                 "one of its own")
            raise ValueError("the ZSwap is closed")
        if waits:
            with nogil:
                body(self.e, w, args)
                engine_leave(self.e, w)
        else:
            body(self.e, w, args)
            engine_leave(self.e, w)
        return 0

    def close(self):
        """Wait for calls in flight and free everything.  Closing twice is fine; anything else after
        it is a ValueError."""
        cdef Backing store
        cdef int rc, type
        with nogil:
            rc = engine_close(self.e)
        if rc == -EDEADLK:
            raise RuntimeError("close() was called from inside a call of the same engine, which it "
                               "would wait for")
        if rc == 0:                             # else another thread closed it, and does this
            failure = None
            for type in range(MAX_AREAS):
                store = self.take_store(type)
                if store is not None:
                    try:
                        try:
                            if self.e.params.wipe_on_free:
                                store.erase()
                        finally:
                            self.drop_store(store)
                    except BaseException as error:
                        failure = failure or error
            if failure is not None:
                raise failure

    def __reduce__(self):
        raise TypeError(f"a {type(self).__name__} can be neither copied nor pickled: it is memory "
                        "of this process; in another process make one anew, and dict(z.items()) "
                        "copies its pages")

    @property
    def closed(self):
        """Whether close() was called (or this process was forked off the one that made the
        engine)."""
        return zsw_peek_u32(&self.e.closing) != 0

    @property
    def page_size(self):
        """Bytes in a page."""
        return self.e.page_size

    cdef int hear(self) except -1:
        """After a call, outside of it: is there anything to tell?  Whoever is told may do what he
        likes."""
        if zsw_unlikely(zsw_peek_u32(&self.e.news) != self.heard):
            self.tell()
        return 0

    cdef int tell(self) except -1:
        cdef news_args args
        cdef uint32_t type, code
        try:
            self.call(read_news, &args, False)
        except ValueError:                      # closed meanwhile
            return 0
        self.heard = args.news
        news = []
        for type in range(<uint32_t> MAX_AREAS):
            for reads in (0, 1):
                code = args.errors[2 * type + reads]
                if (code != 0) != ((type, reads) in self.failing):
                    self.failing ^= {(type, reads)}
                    if self.stores[type] is not None:
                        news.append((self.stores[type], type, reads, code))
        filled, self.times_full = args.times_full != self.times_full, args.times_full
        self._news(filled, news)
        return 0

    def _news(self, filled, stores):
        """The pool has become full; these backing stores fail, or work again: (store, swap type,
        reads, errno or 0)."""

    def _refused(self, status, error):
        """Pages were refused with this status; `error` is the exception for one of them."""

    cdef int refusals(self, View codes, uint64_t n, const uint64_t *at,
                      uint32_t swap_type) except -1:
        """Tells of every kind of refusal in a batch of stores."""
        cdef const int8_t *done = <const int8_t *> codes.buffer.buf
        cdef uint64_t i, seen = 0
        for i in range(n):
            if done[i] < 0 and done[i] != Status.BACKING_FAIL and not seen >> -done[i] & 1:
                seen |= <uint64_t> 1 << -done[i]
                self._refused(done[i], error_for(done[i], 0, at[i], swap_type, self))
        return 0

    cdef Held hold(self, Compressor compressor):
        """Keeps a compressor that is about to get a pool, until `release`, and for as long as pools
        use it."""
        cdef Held held = self.compressors.get(id(compressor))
        if held is None:
            held = Held.__new__(Held)
            held.compressor = compressor
            self.compressors[id(compressor)] = held
        held.calls += 1
        return held

    cdef int release(self, Held held) except -1:
        held.calls -= 1
        try:
            self.drop_compressors()
        except MemoryError:                     # another time
            pass
        return 0

    cdef int drop_compressors(self) except -1:
        """Lets go of compressors whose pools are gone."""
        cdef Held held
        for candidate in list(self.compressors.values()):
            held = candidate
            if (held.calls == 0 and held.compressor is not self.compressor_
                    and not compressor_in_use(self.e, &held.compressor.c)):
                self.compressors.pop(id(held.compressor), None)
        return 0

    cdef Backing take_store(self, int type):
        """The area's backing store, which from now on is the caller's to drop."""
        cdef Backing store = self.stores[type]
        if store is not None:
            self.stores[type] = None
            self.backed -= 1
        return store

    cdef object drop_store(self, Backing store):
        """Gives a store back; one that was opened for a path is closed."""
        store.detach()
        if id(store) in self.opened:
            self.opened.discard(id(store))
            store.close()

    # ---- configuration: what zswap.ZSwap builds on -----------------------------------------------

    def _protect(self, bint wipe_on_free, bint no_dump, no_fork):
        """To be said before there is a pool.  With `no_fork` None memory is kept from forked
        children where the system can."""
        cdef uint32_t mapping = ZSW_MAP_NO_DUMP if no_dump else 0
        cdef void *page
        if no_fork is None or no_fork:
            page = zsw_map_as(self.e.page_size, ZSW_MAP_NO_FORK)
            if page != NULL:
                mapping |= ZSW_MAP_NO_FORK
            elif no_fork:
                raise Error("dontfork=True: the system cannot keep memory from forked "
                            "children (Linux 4.14 or later does)")
            zsw_unmap(page, self.e.page_size)
        self.e.params.wipe_on_free = wipe_on_free
        self.e.params.mapping = self.e.entries.mapping = mapping
        index_protect(&self.e.index, wipe_on_free, mapping)

    cdef int pool_arguments(self, pool_args *args, Compressor compressor, str zpool, int chain,
                            bint kernel, int numa_node) except -1:
        memset(args, 0, sizeof(pool_args))
        args.compressor = &compressor.c
        args.ops = zpool_find(zpool)
        if args.ops == NULL:
            raise ValueError(f"unknown zpool {zpool!r}")
        args.config.page_size, args.config.chain, args.config.kernel, args.config.numa_node = (
            self.e.page_size, chain, kernel, numa_node)
        args.config.flags = self.zpool_flags()
        return 0

    cdef int check_pool(self, const pool_args *args, Compressor compressor) except -1:
        """Raises what a call about a pool came to."""
        self.check_thread(args.thread)
        if args.rc == -ENOSPC:
            raise Error(f"there are {MAX_POOLS} pools that still hold pages; no more fit")
        if args.rc == -ENOMEM:
            raise MemoryError("no memory for the pool")
        if args.rc != 0:
            raise ValueError(f"no pool of compressor {compressor.spec!r} and zpool "
                             f"{args.ops.name.decode()!r} (error {-args.rc})")
        return 0

    def _use_pool(self, Compressor compressor, str zpool, int chain, bint kernel, int numa_node):
        cdef pool_args args
        cdef Held held
        self.pool_arguments(&args, compressor, zpool, chain, kernel, numa_node)
        if numa_node >= 0:
            self.check_node(numa_node)
        held = self.hold(compressor)
        try:
            self.call(use_pool, &args, True)
            self.check_pool(&args, compressor)
            self.compressor_ = compressor
            self.slow = compressor.c.ops.flags & ZSW_COMPRESSOR_SLOW != 0
        finally:
            self.release(held)

    cdef uint32_t zpool_flags(self):
        return ((ZSW_ZPOOL_WIPE if self.e.params.wipe_on_free else 0)
                | (ZSW_ZPOOL_NO_DUMP if self.e.params.mapping & ZSW_MAP_NO_DUMP else 0)
                | (ZSW_ZPOOL_NO_FORK if self.e.params.mapping & ZSW_MAP_NO_FORK else 0))

    cdef int check_thread(self, int rc) except -1:
        if rc != 0:
            raise Error(f"the system starts no thread for the engine: {os.strerror(-rc)}; "
                        "allow this user or container more (ulimit -u, pids.max)")
        return 0

    cdef object check_node(self, int node):
        """Binding happens deep in the allocator, where a refusal would look like a lack of memory:
        ask beforehand."""
        cdef size_t size = self.e.page_size
        cdef void *page = zsw_map(size)
        cdef int rc = fault(Site.ARENA_BIND)
        if rc == 0:
            rc = zsw_bind_node(page, size, node) if page != NULL else -ENOMEM
        zsw_unmap(page, size)
        if rc != 0:
            raise Error(f"the system does not bind memory to NUMA node {node}: {os.strerror(-rc)}; "
                        "leave numa_node out, or give the process CAP_SYS_NICE if it runs in a "
                        "container")

    def _trim_zeros(self):
        """Compress pages only up to the zeros that they end in.  Before there are any pages."""
        self.e.params.trim_zeros = True

    def _use_checksum(self, Checksum checksum):
        """Keep a checksum of each page.  Before there are any pages."""
        self.checksum_ = checksum
        self.e.checksum = checksum.c
        self.e.index.checksums = 1

    @property
    def checksum(self):
        """The function that makes the pages' checksums, and its library; None where none are
        kept."""
        return None if self.checksum_ is None else self.checksum_.name

    def _set_flag(self, str name, bint value):
        zsw_poke_u32(&self.e.params.flags[<int> FLAGS.index(name)], value)

    def _set_limits(self, uint64_t max_pages, uint64_t accept_pages):
        cdef work_args args
        args.pages, args.accept = max_pages, accept_pages
        self.call(set_limits, &args, True)

    def _set_budget(self, uint64_t size, uint64_t least, tuple ceilings):
        cdef budget_args args
        memset(&args, 0, sizeof(args))
        args.bytes, args.least = size, least
        args.ceilings[0], args.ceilings[1], args.ceilings[2] = ceilings
        self.call(set_budget, &args, True)
        self.check_thread(args.thread)

    def _limits_now(self):
        """Bytes that the pools may take, and all together; 0: there is no such limit."""
        return (zsw_peek_u64(&self.e.params.max_pages) * self.e.page_size,
                zsw_peek_u64(&self.e.budget.bytes))

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
            Offsets 0 to ``nr_pages - 1`` are the area's.  By default all that the backing store
            has, or without one any offset up to ``2**47 - 1``.
        backing : path, SwapFile or object with write_pages and read_pages, optional
            Where the coldest pages go, and those that are refused.
        encrypt : bool, optional
            Encrypt the swap file, see `SwapFile`.  By default as the engine: it encrypts all once
            it was told to encrypt one, be it here, when it was made, or by a SwapFile that does.  A
            backing that does not is then refused, unless False says that it may hold pages in
            clear.

        Raises
        ------
        ValueError
            When the area is online already, a number is out of range, or the backing does not
            encrypt though it should.
        BackingError
            When the backing store cannot be opened, or another engine uses it.
        """
        cdef area_args args
        cdef Backing store = None
        memset(&args, 0, sizeof(args))
        args.type = as_type(swap_type)
        self.call(look, NULL, False)            # closed?
        if encrypt is not None and not isinstance(encrypt, bool):
            raise TypeError(f"encrypt is {encrypt!r}; True, False or None is needed")
        if backing is not None:
            store = open_backing(backing, self.e.page_size, encrypt=self.encrypt if encrypt is None
                                 else encrypt)
        elif encrypt:
            raise ValueError("encrypt=True needs a backing to encrypt")
        try:
            if store is not None and store is not backing:
                self.opened.add(id(store))
            limit = <uint64_t> 1 << MAX_OFFSET_SHIFT if store is None else store.nr_pages
            if nr_pages is None:
                nr_pages = limit
            nr_pages = as_int(nr_pages, "nr_pages")
            if not 0 < nr_pages <= limit:
                raise ValueError(f"nr_pages is {nr_pages}; 1 to {limit} is needed")
            args.pages = nr_pages
            if store is not None:
                store.attach()
                store.wipe_freed(self.e.params.wipe_on_free)
                args.backing, args.store = store.ops, store.state
        except BaseException:
            if store is not None and store is not backing:
                self.opened.discard(id(store))
                store.close()
            raise
        try:
            encrypted = store is not None and encrypts(store)
            # With the GIL: nobody is to find the area without its store.
            self.call(swap_on, &args, False)
            self.check_thread(args.thread)
            if args.rc == -EINVAL:
                raise ValueError(f"swap area {args.type} is online already")
            if args.rc != 0:
                raise MemoryError("no memory for the swap area")
        except BaseException:
            if store is not None:
                self.drop_store(store)
            raise
        if store is not None:
            self.failing -= {(args.type, 0), (args.type, 1)}        # that was another one
            self.stores[args.type] = store
            self.backed += 1
            if encrypted and self.encrypt_ is None:
                self.encrypt_ = True

    def _swapoff(self, swap_type):
        cdef area_args args
        cdef Backing store
        memset(&args, 0, sizeof(args))
        args.type = as_type(swap_type)
        self.call(swap_off, &args, True)
        if args.rc == -EDEADLK:
            raise RuntimeError("swapoff() was called from inside a call of the same engine, which "
                               "it would wait for")
        if args.rc != 0:
            raise ValueError(f"swap area {args.type} is not online")
        # None also when close() was faster: then it is close()'s to drop
        store = self.take_store(args.type)
        with nogil:
            engine_swapoff_end(self.e, args.type)
        if store is not None:
            self.drop_store(store)

    def _seal(self, swap_type, bint sealed):
        """Let an area take nothing in any more, though what it holds can be loaded; or let it
        again."""
        cdef area_args args
        args.type, args.sealed = as_type(swap_type), sealed
        self.call(seal, &args, True)
        if args.rc != 0:
            raise ValueError(f"swap area {args.type} is not online")

    def _online(self, swap_type):
        cdef range_args args
        args.type = as_type(swap_type)
        self.call(is_online, &args, False)
        return args.pages != 0

    def shrink(self, nr_pages, *, idle_seconds=None):
        """Write back the coldest pages now.

        Parameters
        ----------
        nr_pages : int
            How many at most.
        idle_seconds : int, optional
            Only pages that were not accessed for so long; referenced or not, they get no second
            chance.

        Returns
        -------
        int
            Pages written back: 0 when no area has a backing store; fewer than asked for when there
            are no more, the store fails (`reject_reclaim_fail`), or the budget is used up.
        """
        cdef work_args args
        cdef uint64_t pages, done = 0
        nr_pages = as_int(nr_pages, "nr_pages")
        if nr_pages < 0:
            raise ValueError(f"nr_pages is {nr_pages}; it cannot be negative")
        args.idle = idle_of(idle_seconds)
        pages = min(nr_pages, 1 << 40)
        while True:
            args.pages = min(pages - done, <uint64_t> SLICE)
            self.call(write_back, &args, True)
            done += args.done
            if args.done < args.pages or done == pages:
                remember(None, None)            # what failed was counted, and stays held
                self.hear()
                return done
            PyErr_CheckSignals()

    def _evict_bytes(self, uint64_t wanted):
        cdef evict_args args
        args.begun, args.goes_on, args.eviction.wanted = False, True, wanted
        while args.goes_on:
            self.call(evict_bytes, &args, True)
            PyErr_CheckSignals()
        remember(None, None)                    # what failed was counted, and stays held
        self.hear()
        return args.eviction.freed

    cdef object reach(self, call_body body, object start, object stop, object swap_type):
        """Evicts or recalls the pages of a range, a slice at a time; returns how many."""
        cdef reach_args args
        cdef uint64_t done = 0
        args.type, args.first, args.last = as_type(swap_type), as_offset(start), as_stop(stop)
        args.pages, args.done = SLICE, 0
        if args.last <= args.first:
            self.call(look, NULL, False)
            return 0
        args.last -= 1
        while args.first <= args.last:
            self.call(body, &args, True)
            done += args.done
            if args.done == 0:
                break
            PyErr_CheckSignals()
        remember(None, None)                    # what failed was counted, and stays where it was
        self.hear()
        return done

    def _evict_range(self, start, stop, swap_type):
        return self.reach(evict_pages, start, stop, swap_type)

    def _recall_range(self, start, stop, swap_type):
        return self.reach(recall_pages, start, stop, swap_type)

    def _recompress(self, Compressor compressor, str zpool, int chain, bint kernel, int numa_node,
                    idle_seconds, bint incompressible, uint64_t max_pages):
        cdef pool_args args
        cdef Held held
        self.pool_arguments(&args, compressor, zpool, chain, kernel, numa_node)
        args.idle, args.incompressible = idle_of(idle_seconds), incompressible
        args.max_pages, args.next = max_pages, 1
        held = self.hold(compressor)
        try:
            while args.next != 0:
                self.call(recompress_some, &args, True)
                self.check_pool(&args, compressor)
                if args.next != 0:
                    PyErr_CheckSignals()
        finally:
            self.release(held)
        remember(None, None)
        return (args.result.moved, args.result.kept, args.result.bytes_before,
                args.result.bytes_after)

    def _set_writeback(self, uint32_t shrinker_enabled, uint64_t interval_ns, int64_t limit,
                       uint64_t rate):
        zsw_poke_u32(&self.e.params.shrinker_enabled, shrinker_enabled)
        zsw_poke_u64(&self.e.params.shrinker_interval_ns, interval_ns)
        zsw_poke_i64(&self.e.params.writeback_limit, limit)
        zsw_poke_u64(&self.e.params.writeback_rate, rate)
        zsw_poke_u64(&self.e.pause_ns, 0)       # what they held up may go on
        zsw_poke_u64(&self.e.resting_until, 0)
        maintenance_wake(self.e)                # it sleeps by the old interval

    def _set_promote(self, str name):
        zsw_poke_u32(&self.e.params.promote, _Promote[name])

    def _writeback_limit(self):
        return zsw_peek_i64(&self.e.params.writeback_limit)

    def _set_pressure(self, bytes psi_path, bytes usage_path, uint64_t usage_limit):
        """Which files tell of memory pressure.  Before the first backing store only: the shrinker
        reads them."""
        if max(len(psi_path), len(usage_path)) >= PATH_BYTES:
            raise ValueError("a path is too long")
        memcpy(self.e.psi_path, <const char *> psi_path, len(psi_path) + 1)
        memcpy(self.e.usage_path, <const char *> usage_path, len(usage_path) + 1)
        self.e.usage_limit = usage_limit

    # ---- single pages ----------------------------------------------------------------------------

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
            When the page is refused for another reason.  After any refusal nothing is held at
            `offset`.
        """
        self.store_as(offset, page, swap_type, False)

    def _store_absent(self, offset, page, *, swap_type=0):
        """As store, unless a page is held there.  Returns whether it was stored."""
        return self.store_as(offset, page, swap_type, True)

    cdef bint store_as(self, object offset, object page, object swap_type, bint absent) except -1:
        cdef page_args args
        cdef Py_buffer buffer
        cdef bint waits = self.slow or self.backed != 0
        cdef uint64_t began = 0
        args.offset, args.type, args.absent = as_offset(offset), as_type(swap_type), absent
        take_pages(page, "page", self.e.page_size, False, &buffer)
        waits = waits or not at_once(&self.stores_pace, &began)
        try:
            args.page = <uint8_t *> buffer.buf
            self.call(do_store, &args, waits)
        finally:
            PyBuffer_Release(&buffer)
        ended(&self.stores_pace, began, args.status)
        if args.status == CHANGED:
            return False
        if args.status < 0:
            error = error_for(args.status, args.error, args.offset, args.type, self)
            self.hear()
            self._refused(args.status, error)
            raise error
        self.hear()
        return True

    def load(self, offset, out=None, *, swap_type=0, absent="raise"):
        """Get a page back.  It stays held.

        Parameters
        ----------
        offset : int
            Page number in the area.
        out : buffer, optional
            A writable C-contiguous buffer of `page_size` bytes to fill.
        swap_type : int, optional
            The swap area.
        absent : {"raise", "zeros"}, default "raise"
            What a page is at whose offset nothing is held: an error, or zeros.

        Returns
        -------
        bytes or buffer
            The page, or `out`.

        Raises
        ------
        KeyError
            When nothing is held at `offset`.
        ValueError
            With ``absent="zeros"``: when the area is not online, or does not reach so far.
        PageCorruptError
            When the page does not decompress, or is not what its checksum was made of.  The entry
            is kept; the content of `out` is undefined.
        """
        cdef page_args args
        cdef Py_buffer buffer
        args.zeros = wants_zeros(absent)
        if out is None:
            return self.load_as(offset, swap_type, LoadAs.USUAL, args.zeros)
        args.offset, args.type, args.how = as_offset(offset), as_type(swap_type), LoadAs.USUAL
        take_pages(out, "out", self.e.page_size, True, &buffer)
        try:
            args.page = <uint8_t *> buffer.buf
            self.load_into(&args, True)
        finally:
            PyBuffer_Release(&buffer)
        return out

    def _load_at_once(self, offset, out=None, *, swap_type=0, absent="raise"):
        """As load, but None where that would wait for a backing store or another call."""
        cdef page_args args
        cdef Py_buffer buffer
        cdef bytes page
        cdef bint loaded
        args.offset, args.type, args.how = as_offset(offset), as_type(swap_type), LoadAs.USUAL
        args.zeros = wants_zeros(absent)
        if out is None:
            page = PyBytes_FromStringAndSize(NULL, self.e.page_size)
            args.page = <uint8_t *> PyBytes_AS_STRING(page)
            return page if self.load_into(&args, False) else None
        take_pages(out, "out", self.e.page_size, True, &buffer)
        try:
            args.page = <uint8_t *> buffer.buf
            loaded = self.load_into(&args, False)
        finally:
            PyBuffer_Release(&buffer)
        return out if loaded else None

    def _page_to_store(self, offset, page, swap_type):
        """The page as bytes that nobody changes, with all arguments checked as store would."""
        cdef Py_buffer buffer
        as_offset(offset)
        as_type(swap_type)
        self.call(look, NULL, False)
        take_pages(page, "page", self.e.page_size, False, &buffer)
        try:
            if type(page) is bytes:
                return page
            return PyBytes_FromStringAndSize(<char *> buffer.buf, buffer.len)
        finally:
            PyBuffer_Release(&buffer)

    def _error(self, int status, int rc, uint64_t offset, uint32_t swap_type):
        """The exception for a page with this status; `rc` is what the backing store said."""
        return error_for(status, rc, offset, swap_type, self)

    def _take(self, offset, *, swap_type=0):
        """Load a page and free it: of several calls, also of loads with exclusive_loads, one gets
        it."""
        return self.load_as(offset, swap_type, LoadAs.TAKE, False)

    def _read(self, offset, *, swap_type=0):
        """Load a page that stays held, whatever exclusive_loads says."""
        return self.load_as(offset, swap_type, LoadAs.KEEP, False)

    cdef bytes load_as(self, object offset, object swap_type, LoadAs how, bint zeros):
        cdef page_args args
        cdef bytes page = PyBytes_FromStringAndSize(NULL, self.e.page_size)
        args.offset, args.type, args.how = as_offset(offset), as_type(swap_type), how
        args.zeros = zeros
        args.page = <uint8_t *> PyBytes_AS_STRING(page)
        self.load_into(&args, True)
        return page

    cdef bint load_into(self, page_args *args, bint waits) except -1:
        """False where it would have to wait, and must not."""
        cdef uint64_t began
        # a page that takes long to decompress is nothing to hold others up for
        args.no_wait = at_once(&self.loads_pace, &began) or not waits
        self.call(do_load, args, not args.no_wait)
        ended(&self.loads_pace, began, args.status)
        if zsw_unlikely(args.status == Status.WOULD_BLOCK):
            if not waits:
                return False
            args.no_wait = False
            self.call(do_load, args, True)
        error = error_for(args.status, args.error, args.offset, args.type,
                          self) if args.status < 0 else None
        self.hear()
        if error is not None:
            raise error
        return True

    # ---- parts of pages --------------------------------------------------------------------------

    def load_part(self, offset, at, n, *, out=None, swap_type=0, absent="raise"):
        """Get a part of a page back.

        It is of one moment: a part that is stored meanwhile is in it, or is not.

        Parameters
        ----------
        offset : int
            Page number in the area.
        at, n : int
            Where in the page the part begins, and how many bytes it has.
        out : buffer, optional
            A writable C-contiguous buffer of `n` bytes to fill.
        swap_type : int, optional
            The swap area.
        absent : {"raise", "zeros"}, default "raise"
            As for `load`.

        Returns
        -------
        bytes or buffer
            The part, or `out`.

        Raises
        ------
        KeyError
            When nothing is held at `offset`.
        ValueError
            When the part does not lie in the page; or as `load`.
        PageCorruptError
            As `load`; `out` is as it was.

        Notes
        -----
        It takes as long as `load` and the copy of the part: the page is read as a whole.  It is a
        load, so with `exclusive_loads` the page is freed, as a whole.
        """
        cdef part_args args
        cdef Py_buffer buffer
        self.part_of(&args, offset, at, n, swap_type, absent)
        if out is None:
            out = PyBytes_FromStringAndSize(NULL, args.bytes)
            args.data = <uint8_t *> PyBytes_AS_STRING(out)
            self.move_part(do_load_part, &args, &self.loads_pace, True)
        else:
            take_pages(out, "out", args.bytes, True, &buffer)
            try:
                args.data = <uint8_t *> buffer.buf
                self.move_part(do_load_part, &args, &self.loads_pace, True)
            finally:
                PyBuffer_Release(&buffer)
        return out

    def store_part(self, offset, at, data, *, swap_type=0, absent="raise"):
        """Write over a part of a page, and leave the rest of it as it is.

        All of it or nothing: whoever loads the page meanwhile finds the one or the other, and of
        several parts that are stored at once none is lost.

        Parameters
        ----------
        offset : int
            Page number in the area.
        at : int
            Where in the page the part begins.
        data : buffer
            Any C-contiguous buffer that fits into the page from there on.
        swap_type : int, optional
            The swap area.
        absent : {"raise", "zeros"}, default "raise"
            Where nothing is held at `offset`: an error, or a page of zeros around the part.

        Raises
        ------
        KeyError
            When nothing is held at `offset`.
        PoolLimitError, Error
            When the page is refused, as by `store`.  It is as it was before.
        BackingError
            When the backing store fails.  The page is as it was if that was in reading it, and
            nothing is held any more if it was in writing it there, as after `store`.
        PageCorruptError
            When what is held is damaged.  The entry is kept.
        ValueError
            When the part does not lie in the page; or as `store`.

        Notes
        -----
        It takes as long as a load and a store: the page is read, and stored anew.
        """
        cdef part_args args
        cdef Py_buffer buffer
        take_buffer(data, "data", False, &buffer)
        try:
            self.part_of(&args, offset, at, buffer.len, swap_type, absent)
            args.data = <uint8_t *> buffer.buf
            self.move_part(do_store_part, &args, &self.stores_pace,
                           not self.slow and self.backed == 0)
        finally:
            PyBuffer_Release(&buffer)

    cdef int part_of(self, part_args *args, object offset, object at, object n, object swap_type,
                     object absent) except -1:
        """Fills in which part of which page is meant."""
        args.offset, args.type = as_offset(offset), as_type(swap_type)
        args.zeros = wants_zeros(absent)
        at, n = as_int(at, "at"), as_int(n, "n")
        if at < 0 or n < 0 or at + n > self.e.page_size:
            raise ValueError(f"{n} bytes from {at} on are no part of a page of {self.e.page_size} "
                             "bytes")
        args.at, args.bytes = at, n
        return 0

    cdef int move_part(self, call_body body, part_args *args, pace *p, bint soon) except -1:
        """Loads or stores a part; with the GIL at first where it may be there `soon`."""
        cdef uint64_t began = 0
        args.no_wait, args.status = soon and at_once(p, &began), Status.WOULD_BLOCK
        if args.no_wait:
            self.call(body, args, False)
            ended(p, began, args.status)
        if args.status == Status.WOULD_BLOCK:
            args.no_wait = False
            self.call(body, args, True)
        error = error_for(args.status, args.error, args.offset, args.type,
                          self) if args.status < 0 else None
        self.hear()
        if error is not None:
            if body == do_store_part and args.status in REFUSALS.values():
                self._refused(args.status, error)
            raise error
        return 0

    def invalidate(self, offset, *, swap_type=0):
        """Free a page.

        Parameters
        ----------
        offset : int
            Page number in the area.
        swap_type : int, optional
            The swap area.

        Returns
        -------
        bool
            Whether one was held.
        """
        cdef range_args args
        args.first = args.last = as_offset(offset)
        args.type = as_type(swap_type)
        self.call(invalidate_pages, &args, self.backed != 0)
        return args.pages != 0

    # ---- extents ---------------------------------------------------------------------------------

    def allocate(self, pages, swap_type=0):
        """Hand out offsets in a row that nobody else is given until they are freed.

        So that several users can share one area.  It knows only what it has handed out itself: an
        area in which you choose offsets of your own is not one to allocate from.

        Parameters
        ----------
        pages : int
            How many, 1 or more.
        swap_type : int, optional
            The swap area.

        Returns
        -------
        int
            The first of the offsets.  Nothing is held at any of them.

        Raises
        ------
        Error
            When the area has not so many offsets in a row left.
        ValueError
            When `pages` is out of range, the area not online, or the engine closed.

        Notes
        -----
        Of all places that fit the first is taken.  An extent costs no memory where its neighbour is
        of the same length, and 40 bytes elsewhere.
        """
        cdef extent_args args
        args.type, pages = as_type(swap_type), as_int(pages, "pages")
        if not 0 < pages <= <uint64_t> 1 << MAX_OFFSET_SHIFT:
            raise ValueError(f"pages is {pages}; 1 to 2**{MAX_OFFSET_SHIFT} is needed")
        args.pages = pages
        self.call(allocate_extent, &args, False)
        if args.rc == -ENOSPC:
            raise Error(f"swap area {args.type} has no {pages} offsets in a row left; free some, "
                        "or bring an area online that has more (swapon)")
        if args.rc == -ENOMEM:
            raise MemoryError(f"no memory for one more extent of swap area {args.type}")
        if args.rc != 0:
            raise ValueError(f"swap area {args.type} is not online")
        return args.offset

    def free(self, offset, swap_type=0):
        """Take back what `allocate` gave, and free every page in it.

        Parameters
        ----------
        offset : int
            What `allocate` returned.
        swap_type : int, optional
            The swap area.

        Returns
        -------
        int
            How many pages were held there.

        Raises
        ------
        ValueError
            When no extent begins at `offset`, be it that it was freed before.
        MemoryError
            When there is no memory to split what the extent is noted in.  Nothing has changed then.
        """
        cdef extent_args args
        args.offset, args.type, args.pages = as_offset(offset), as_type(swap_type), 0
        self.call(free_extent, &args, self.backed != 0)
        if args.rc == -ENOMEM:
            raise MemoryError(f"no memory to free the extent at offset {args.offset} of swap area "
                              f"{args.type}; it is as it was")
        if args.rc == -ENODEV:
            raise ValueError(f"swap area {args.type} is not online")
        if args.rc != 0:
            raise ValueError(f"no extent begins at offset {args.offset} of swap area {args.type}: "
                             "free what allocate() returned, once")
        return args.pages

    # ---- bytes of any number, from the beginning of a page on ------------------------------------

    def _store_span(self, first, data, *, swap_type=0):
        """Store a buffer of any length at `first` and what follows; the last page is filled up with
        zeros.  All or nothing: if a page is refused, none of them is held any more."""
        cdef span_args args
        cdef Py_buffer buffer
        cdef uint64_t began = 0
        cdef bint waits
        args.first, args.type, args.error = as_offset(first), as_type(swap_type), 0
        take_buffer(data, "data", False, &buffer)
        try:
            args.data, args.bytes = <uint8_t *> buffer.buf, buffer.len
            waits = self.slow or self.backed != 0 or args.bytes > self.e.page_size
            waits = waits or not at_once(&self.stores_pace, &began)
            self.run_span(&args, store_span, waits)
            ended(&self.stores_pace, began, args.status)
        finally:
            PyBuffer_Release(&buffer)
        if args.status < 0:
            error = error_for(args.status, args.error, args.first + args.done, args.type, self)
            if args.done:
                self.invalidate_range(args.first, args.first + args.done, swap_type=swap_type)
            self.hear()
            self._refused(args.status, error)
            raise error
        self.hear()

    def _load_span(self, first, out, *, swap_type=0):
        """What _store_span stored: into `out`, a buffer, or as bytes where that is their number."""
        cdef span_args args
        cdef Py_buffer buffer
        args.first, args.type, args.error = as_offset(first), as_type(swap_type), 0
        if type(out) is int:
            out = PyBytes_FromStringAndSize(NULL, out)
            args.data, args.bytes = <uint8_t *> PyBytes_AS_STRING(out), len(out)
            self.read_span(&args)
            return out
        take_buffer(out, "out", True, &buffer)
        try:
            args.data, args.bytes = <uint8_t *> buffer.buf, buffer.len
            self.read_span(&args)
        finally:
            PyBuffer_Release(&buffer)
        return out

    cdef int read_span(self, span_args *args) except -1:
        cdef uint64_t began = 0
        # A page or less is tried with the GIL: if it can be read at once it takes a microsecond.
        args.no_wait = args.bytes <= self.e.page_size and at_once(&self.loads_pace, &began)
        self.run_span(args, load_span, not args.no_wait)
        ended(&self.loads_pace, began, args.status)
        if zsw_unlikely(args.status == Status.WOULD_BLOCK):
            args.no_wait = False
            self.run_span(args, load_span, True)
        self.hear()
        if args.status < 0:
            raise error_for(args.status, args.error, args.first + args.done, args.type, self)
        return 0

    cdef int run_span(self, span_args *args, call_body body, bint waits) except -1:
        args.done, args.part, args.most, args.status = 0, NULL, SLICE // 16, 0
        if args.bytes % self.e.page_size:
            args.part = <uint8_t *> PyMem_Malloc(self.e.page_size)
            if args.part == NULL:
                raise MemoryError
        try:
            while True:
                self.call(body, args, waits)
                if args.status < 0 or args.done * self.e.page_size >= args.bytes:
                    return 0
                PyErr_CheckSignals()
        except BaseException:
            if body == store_span and args.done and not self.closed:
                self.invalidate_range(args.first, args.first + args.done, swap_type=args.type)
            raise
        finally:
            if args.part != NULL and self.e.params.wipe_on_free:
                memset(args.part, 0, self.e.page_size)
            PyMem_Free(args.part)

    # ---- several buffers as one row of bytes -----------------------------------------------------

    def storev(self, offset, buffers, *, swap_type=0):
        """Store several buffers, one behind the other, in pages that follow one another.

        All or nothing: what is held changes only when every page has found room.  The last page is
        filled up with zeros.

        Parameters
        ----------
        offset : int
            The first page number.
        buffers : sequence of buffers
            C-contiguous buffers of any length each, for at most 16384 pages in all.
        swap_type : int, optional
            The swap area.

        Returns
        -------
        int
            How many pages they fill.

        Raises
        ------
        PoolLimitError, Error
            When a page is refused, as by `store`.  All is as it was before.
        BackingError
            When the backing store fails, to which pages go that are refused.  Then none of these
            pages is held any more; the same with an area that goes offline meanwhile, or no memory
            for the index.
        ValueError
            When the buffers are too long, or the area is not online or ends before.

        Notes
        -----
        What is replaced is freed at the end, so for a moment both take room.  Each page is replaced
        as a whole; between them others may see some pages that are new and some that are not.
        """
        cdef vector_args args
        cdef Buffers held
        cdef uint64_t began = 0
        cdef bint waits
        self.vector_of(&args, offset, swap_type)
        held = buffers_of(buffers, False)
        self.take_vector(&args, held)
        args.made = <zsw_made *> PyMem_Malloc((args.vector.pages + 1) * sizeof(zsw_made))
        if args.made == NULL:
            raise MemoryError
        waits = self.slow or self.backed != 0 or args.vector.pages > 1
        waits = waits or not at_once(&self.stores_pace, &began)
        try:
            self.call(do_storev, &args, waits)
        finally:
            PyMem_Free(args.made)
        ended(&self.stores_pace, began, args.status)
        return self.end_vector(&args, True)

    def loadv(self, offset, buffers, *, swap_type=0, absent="raise"):
        """Get back what `storev` stored, into several buffers.

        The pages stay held, also with `exclusive_loads`: if one failed, those before would be lost.

        Parameters
        ----------
        offset : int
            The first page number.
        buffers : sequence of buffers
            Writable C-contiguous buffers of any length each, for at most 16384 pages in all.
        swap_type : int, optional
            The swap area.
        absent : {"raise", "zeros"}, default "raise"
            As for `load`.

        Returns
        -------
        int
            How many pages they come from.

        Raises
        ------
        KeyError
            For the first page that is not held.
        PageCorruptError, BackingError, ValueError
            As `load`.  After any failure the content of the buffers is undefined.
        """
        cdef vector_args args
        cdef Buffers held
        cdef uint64_t began = 0
        self.vector_of(&args, offset, swap_type)
        args.zeros = wants_zeros(absent)
        held = buffers_of(buffers, True)
        self.take_vector(&args, held)
        # A page or less is tried with the GIL, as a single load.
        args.no_wait = args.vector.pages <= 1 and at_once(&self.loads_pace, &began)
        args.status = Status.WOULD_BLOCK
        if args.no_wait:
            self.call(do_loadv, &args, False)
            ended(&self.loads_pace, began, args.status)
        if args.status == Status.WOULD_BLOCK:
            args.no_wait = False
            self.call(do_loadv, &args, True)
        return self.end_vector(&args, False)

    cdef int vector_of(self, vector_args *args, object offset, object swap_type) except -1:
        args.first, args.type = as_offset(offset), as_type(swap_type)
        args.made, args.no_wait, args.zeros = NULL, False, False
        return 0

    cdef int take_vector(self, vector_args *args, Buffers held) except -1:
        if vector_init(self.e, &args.vector, held.rows, held.count) != 0:
            raise ValueError(f"buffers has more than {<int> VECTOR_PAGES} pages of "
                             f"{self.e.page_size} bytes; take them in several calls")
        return 0

    cdef object end_vector(self, vector_args *args, bint storing):
        error = error_for(args.status, args.error, args.first + args.failed, args.type,
                          self) if args.status < 0 else None
        self.hear()
        if error is not None:
            if storing:
                self._refused(args.status, error)
            raise error
        return args.vector.pages

    # ---- the mapping over area 0; collections.abc supplies the rest ------------------------------

    def __getitem__(self, offset):
        return self.load(offset)

    def __setitem__(self, offset, page):
        self.store(offset, page)

    def __delitem__(self, offset):
        if not self.invalidate(offset):
            raise KeyError(offset)

    def __contains__(self, offset):
        cdef page_args args
        try:
            args.offset, args.type = as_offset(offset), 0
        except (TypeError, ValueError):         # no page can be held there
            self.call(look, NULL, False)
            return False
        self.call(contains_page, &args, False)
        return args.status != 0

    def __len__(self):
        return self._page_count()

    # ---- batches ---------------------------------------------------------------------------------

    def store_many(self, offsets, pages, *, swap_type=0, threads=1, ns=None, errors="status"):
        """Store many pages with one release of the GIL for 16384 of them.

        In between signals are looked for: Ctrl-C leaves what was stored until then, and all other
        offsets as they were.

        Parameters
        ----------
        offsets : array_like of int, shape (n,)
            Page numbers.  Where one occurs twice the later page wins with one thread, either with
            more.
        pages : buffer of n * page_size bytes
            The pages, one after another.
        swap_type : int, optional
            The swap area.
        threads : int, optional
            Threads that share the work.
        ns : ndarray of uint32, shape (n,), optional
            Filled with the nanoseconds each page took.
        errors : {"status", "raise"}, default "status"
            What to do about pages that are not held afterwards, because the pool is at its limit,
            say.  "status" leaves it to the result: a cache is full by design, and goes on.  Where
            no page may be lost, "raise" raises one `StoreError` for all of them, once the whole
            batch was tried.

        Returns
        -------
        ndarray of int8, shape (n,)
            A `zswap.Status` for each page: held where >= 0, and nothing is held at the offset where
            < 0.

        Raises
        ------
        StoreError
            With ``errors="raise"``: has the offsets and the reasons of the pages that are not held.
        """
        if not isinstance(errors, str) or errors not in ("status", "raise"):
            raise ValueError(f"errors is {errors!r}; 'status' or 'raise' is needed")
        return self._many(offsets, pages, swap_type, threads, ns, None, True, errors == "raise")

    cdef object store_error(self, int rc, const uint64_t *at, object codes, uint32_t swap_type):
        """The exception for all pages of a batch that were refused; `rc` is how a backing store
        failed with the first of those that it failed with."""
        where = np.flatnonzero(codes < 0).tolist()
        offsets = [at[i] for i in where]
        reasons = [PyStatus(codes[i]) for i in where]
        first = error_for(reasons[0], rc, offsets[0], swap_type, self)
        names = ", ".join([f"offset {offset}: {reason.name}" for offset,
                           reason in zip(offsets[:5], reasons)])
        more = f", and {len(where) - 5} more" if len(where) > 5 else ""
        error = StoreError(f"{len(where)} of {len(codes)} pages are not held ({names}{more}); of "
                           f"the first: {first}", offsets, reasons, codes)
        error.__cause__ = first
        return error

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
            Filled with a `zswap.Status` for each page.  With it nothing is raised for a page; what
            `out` holds for a page with a negative status is undefined.

        Returns
        -------
        ndarray of uint8, shape (n, page_size), or `out`

        Raises
        ------
        KeyError
            Without `status`: for the first of `offsets` at which nothing is held.  The other pages
            are loaded all the same.
        PageCorruptError
            Without `status`: for the first page that is damaged.
        """
        return self._many(offsets, out, swap_type, threads, ns, status, False, status is None)

    cdef _many(self, offsets, pages, swap_type, threads, ns, status, bint storing, bint strict):
        cdef batch_args args
        cdef View offset_view, page_view, status_view, ns_view
        cdef const uint64_t *at
        cdef int8_t *done
        cdef uint64_t n, i = 0, begun = 0
        cdef uint32_t *ns_data = NULL
        cdef int error = 0
        args.type, args.threads = as_type(swap_type), thread_count(threads)
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
        while True:
            args.count = min(n - begun, <uint64_t> SLICE)
            args.offsets, args.status = at + begun, done + begun
            args.pages = <uint8_t *> page_view.buffer.buf + begun * self.e.page_size
            args.ns = ns_data + begun if ns_data != NULL else NULL
            self.call(store_batch if storing else load_batch, &args, True)
            error = error or args.error
            begun += args.count
            if begun == n:
                break
            # outside any call: a handler may well close the engine
            PyErr_CheckSignals()
        with nogil:
            while i < n and done[i] >= 0:
                i += 1
        failure = None
        if i < n:
            if strict:
                failure = (self.store_error(error, at, codes, args.type) if storing
                           else error_for(done[i], error, at[i], args.type, self))
            if storing:
                self.refusals(status_view, n, at, args.type)
            remember(None, None)                # of the rest a code has told
        self.hear()
        if failure is not None:
            raise failure
        return codes if storing else pages

    def invalidate_many(self, offsets, *, swap_type=0):
        """Free pages, wherever they lie.

        Parameters
        ----------
        offsets : array_like of int, shape (n,)
            Page numbers in the area.
        swap_type : int, optional
            The swap area.

        Returns
        -------
        int
            How many were held.
        """
        cdef look_args args
        cdef uint64_t n, begun = 0, freed = 0
        cdef View view
        args.type = as_type(swap_type)
        view = offsets_of(offsets)
        n = view.buffer.len // 8
        while True:
            args.offsets = <const uint64_t *> view.buffer.buf + begun
            args.count = min(n - begun, <uint64_t> SLICE)
            self.call(invalidate_batch, &args, True)
            freed += args.found
            begun += args.count
            if begun == n:
                return freed
            PyErr_CheckSignals()

    def invalidate_range(self, start, stop, *, swap_type=0):
        """Free a range of pages, in time that grows with what is held there.

        Parameters
        ----------
        start, stop : int
            The first page number, and the one after the last.
        swap_type : int, optional
            The swap area.

        Returns
        -------
        int
            How many were held.
        """
        cdef range_args args
        args.type, args.first, args.pages = as_type(swap_type), as_offset(start), 0
        # one too far; a range of none is one of the wrong way round, or closed
        args.last = as_stop(stop)
        if args.last > args.first:
            args.last -= 1
            self.call(invalidate_pages, &args, True)
        else:
            self.call(look, NULL, False)
        return args.pages

    def invalidate_area(self, swap_type=0):
        """Free every page of an area, which stays online.

        Parameters
        ----------
        swap_type : int, optional
            The swap area.

        Returns
        -------
        int
            How many were held.
        """
        return self.invalidate_range(0, <uint64_t> 1 << MAX_OFFSET_SHIFT, swap_type=swap_type)

    def compressed_sizes(self, offsets, *, swap_type=0):
        """Say what each page takes, before the allocator's rounding.

        Parameters
        ----------
        offsets : array_like of int, shape (n,)
            Page numbers in the area.
        swap_type : int, optional
            The swap area.

        Returns
        -------
        ndarray of int32, shape (n,)
            Compressed bytes; 0 for a same-filled page, `page_size` for one kept raw, -1 where
            nothing is held, -2 for a page in the backing store.
        """
        cdef look_args args
        cdef View view, size_view
        args.type = as_type(swap_type)
        view = offsets_of(offsets)
        args.offsets, args.count = <const uint64_t *> view.buffer.buf, view.buffer.len // 8
        sizes = np.empty(args.count, np.int32)
        size_view = view_of(sizes, "sizes", args.count * 4, True)
        args.sizes = <int32_t *> size_view.buffer.buf
        self.call(page_sizes, &args, True)
        return sizes

    def next_held(self, offset=0, *, swap_type=0):
        """Find the first page that is held, from an offset on.

        Parameters
        ----------
        offset : int
            Where to begin.
        swap_type : int, optional
            The swap area.

        Returns
        -------
        int or None
            Its offset; None when there is none.
        """
        cdef walk_args args
        args.type, args.offset = as_type(swap_type), as_offset(offset)
        self.call(next_held, &args, True)
        return args.offset if args.found else None

    def next_hole(self, offset=0, *, swap_type=0):
        """Find the first offset at which no page is held, from an offset on.

        Parameters
        ----------
        offset : int
            Where to begin.
        swap_type : int, optional
            The swap area.

        Returns
        -------
        int or None
            The offset: the area's size when all the others are held; None when the area has no such
            offset, or is not online.
        """
        cdef walk_args args
        args.type, args.offset = as_type(swap_type), as_offset(offset)
        self.call(next_hole, &args, True)
        return args.offset if args.found else None

    def _weight(self, start, stop, swap_type):
        cdef walk_args args
        args.type, args.offset = as_type(swap_type), as_offset(start)
        args.last = as_stop(stop)
        if args.last > args.offset:
            args.last -= 1
            self.call(weigh_pages, &args, True)
            return args.weight.pages, args.weight.same_filled, args.weight.backed, args.weight.bytes
        self.call(look, NULL, False)
        return 0, 0, 0, 0

    # ---- iteration -------------------------------------------------------------------------------

    def _page_count(self, swap_type=0):
        cdef range_args args
        args.type = as_type(swap_type)
        self.call(count_pages, &args, False)
        return args.pages

    def _shards(self, swap_type=0):
        """Numbers of the area's shards, in order."""
        cdef look_args args
        cdef View view
        args.type, args.count = as_type(swap_type), 0
        while True:
            numbers = np.empty(args.count, np.uint64)
            view = view_of(numbers, "numbers", args.count * 8, True)
            args.numbers = <uint64_t *> view.buffer.buf
            self.call(area_shard_numbers, &args, False)
            if args.found <= args.count:
                return np.sort(numbers[:args.found]).tolist()
            args.count = args.found + args.found // 4

    def _shard_offsets(self, uint64_t number, swap_type=0, uint32_t most=SHARD_PAGES):
        """Offsets held in one shard, in order, the first ones when there are more than `most`."""
        cdef look_args args
        cdef View view
        args.type, args.shard, args.count = as_type(swap_type), number, most
        offsets = np.empty(most, np.uint64)
        view = view_of(offsets, "offsets", args.count * 8, True)
        args.numbers = <uint64_t *> view.buffer.buf
        self.call(shard_offsets, &args, False)
        return offsets[:args.found].tolist()

    # ---- memory and figures ----------------------------------------------------------------------

    def compact(self):
        """Move pages together in every pool and give the memory freed back to the system.

        Returns
        -------
        int
            Allocator pages freed.
        """
        cdef work_args args
        self.call(compact_all, &args, True)
        return args.done

    def _totals(self):
        """Every counter, and pool_pages, idle_pages, pages_compacted, metadata_bytes,
        buffer_bytes, max_pages, max_memory_bytes."""
        cdef zsw_totals totals
        cdef int i
        self.call(sum_totals, &totals, False)
        self.drop_compressors()
        self.hear()
        stores = [store for store in self.stores if store is not None]
        result = {name: totals.counters[i] for i, name in enumerate(COUNTER_NAMES)}
        for name, status in REFUSALS.items():
            result[name] = totals.refused[-<int> status]
        result.update(pool_pages=totals.pool_pages, idle_pages=totals.idle_pages,
                      pages_compacted=totals.pages_compacted, metadata_bytes=totals.metadata_bytes,
                      buffer_bytes=totals.buffer_bytes, max_pages=totals.max_pages,
                      max_memory_bytes=totals.max_bytes,
                      backed_areas=len(stores), encrypted_areas=sum(map(encrypts, stores)))
        return result

    def _latency(self, bint reset):
        """(counts of each bucket, sum, longest) of stores and of loads, in ns; then, if wanted,
        they begin anew."""
        cdef latency_args args
        cdef zsw_histogram *histogram
        cdef int call
        args.reset = reset
        self.call(read_latency, &args, False)
        result = []
        for call in range(<int> TIMED):
            histogram = &args.histograms[call]
            result.append((tuple([histogram.counts[i] for i in range(LATENCY_BUCKETS)]),
                           histogram.total, histogram.longest))
        return result

    def numa_pages(self):
        """Ask the system on which NUMA nodes the allocators' memory lies.

        This looks at every page, about 0.3 microseconds each, and stops nobody meanwhile.

        Returns
        -------
        dict of int to int
            Node, and how many pages of the allocators lie there; nodes with none are left out.
            Pages in the system's own swap lie on no node.

        Raises
        ------
        Error
            When the system does not tell, as in some containers.
        """
        cdef nodes_args args
        cdef View view
        found = np.zeros(<int> NODES, np.uint64)
        view = view_of(found, "counts", NODES * 8, True)
        args.counts = <uint64_t *> view.buffer.buf
        self.call(count_nodes, &args, True)
        if args.rc != 0:
            raise Error(f"the system does not tell where memory lies: {os.strerror(-args.rc)} "
                        "(move_pages)")
        return {node: int(pages) for node, pages in enumerate(found) if pages}

    def _pools(self):
        """(compressor, zpool, chain, kernel, current, entries, total pages) of each pool, the
        current one first."""
        cdef pools_args args
        cdef pool_row *row
        cdef Compressor compressor
        cdef uint32_t i
        # with the GIL: no compressor is let go of before its name is looked up
        self.call(list_pools, &args, False)
        rows = []
        for i in range(args.count):
            row = &args.rows[i]
            spec = "?"
            for held in list(self.compressors.values()):
                compressor = (<Held> held).compressor
                if (compressor.c.ops == row.compressor.ops
                        and compressor.c.state == row.compressor.state):
                    spec = compressor.spec
            rows.append((spec, row.name.decode(), row.chain, row.kernel, row.current, row.entries,
                         row.pages))
        self.drop_compressors()
        return sorted(rows, key=lambda row: not row[4])
