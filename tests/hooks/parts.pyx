"""The engine's parts, driven from Python: for the test suite.  Programs use zswap.ZSwap.

The parts are C structures without an object of their own, so each is wrapped here just enough that
a test can hold it against a set, a dict or a list: `Slab`, `Index` (one area and its shards),
`Lru`, `Entry` (the reference count and the packed word), `Histogram` (of latencies), and the scan
and fill of same-filled pages.  `Codec` is a compressor in C whose calls a test can hold up or make
fail.

Arguments are checked only where a slip would make a test pass by accident; a wrong id crashes, as
it would in the engine.
"""
from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_New, PyCapsule_SetContext
from cpython.ref cimport Py_INCREF, Py_XDECREF, PyObject
from libc.errno cimport EBADMSG, ENOMEM
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from array import array

from zswap_core.abi cimport (
    ZSW_ABI_VERSION, zsw_compressor, ZSW_COMPRESSOR_CAPSULE, zsw_compressor_ops,
    ZSW_COMPRESSOR_SLOW, ZSW_COMPRESSOR_STATELESS_DECOMPRESS,
)
from zswap_core.buffers cimport Items, items_of
from zswap_core.entry cimport (
    entry_age, ENTRY_AGE_SHIFT, entry_get, entry_put, ENTRY_REFERENCED, ENTRY_REFS, ENTRY_REFS_MAX,
    ENTRY_SAME, entry_touch, state_new, word_handle, word_length, word_pack, word_pool, zsw_entry,
)
from zswap_core.index cimport (
    area_bytes, area_check, area_destroy, area_init, area_lock_shard, area_prune, area_rebuild,
    area_shard, area_shards, index_bytes, index_check_begin, index_check_end, index_claims,
    index_destroy, index_init, index_pruned, index_turn, next_slot, pos_shard, run_id_peek,
    run_peek, RUN_SHIFT, shard_collect, shard_erase, shard_erase_run, shard_find, SHARD_PAGES,
    shard_reserve, SHARD_SHIFT, shard_table, slot_peek, zsw_area, zsw_index, zsw_run, zsw_shard,
)
from zswap_core.latency cimport (
    latency_add, LATENCY_BUCKETS, latency_record, Timed, zsw_histogram, zsw_latency,
)
from zswap_core.lru cimport (
    lru_join, lru_leave, lru_next, lru_pass, lru_renew, lru_stamp, lru_tick, zsw_lru, zsw_search,
)
from zswap_core.os cimport (
    zsw_add_u32, zsw_load_u32, zsw_lock, zsw_map, zsw_sleep_ns, zsw_store_u32, zsw_unlock,
    zsw_unmap,
)
from zswap_core.samefilled cimport same_fill, same_filled
from zswap_core.slab cimport (
    ANY_ID, slab_at, slab_bytes, slab_destroy, slab_give, slab_init, slab_limit, slab_take,
    slab_validate, zsw_slab,
)

SHARD_SPAN = SHARD_PAGES        # offsets in a shard
REFS_MAX = ENTRY_REFS_MAX       # references an entry can have, the index's own among them


# ---- latency -------------------------------------------------------------------------------------


cdef class Histogram:
    """One worker's histograms, of which the first is used."""
    cdef zsw_latency latency

    def record(self, uint64_t ns, uint32_t epoch=1):
        """Counts a call."""
        latency_record(&self.latency, epoch, Timed.store_ns, ns)

    def read(self, uint32_t epoch=1):
        """Counts of each bucket, sum and longest."""
        cdef zsw_histogram sum
        memset(&sum, 0, sizeof(sum))
        latency_add(&self.latency, epoch, Timed.store_ns, &sum)
        return tuple([sum.counts[i] for i in range(LATENCY_BUCKETS)]), sum.total, sum.longest


# ---- slabs ---------------------------------------------------------------------------------------


cdef class Slab:
    """A slab of items of one size."""
    cdef zsw_slab s

    def __cinit__(self, size_t item_size, uint64_t limit=ANY_ID):
        if not 4 <= item_size <= 64 << 10:
            raise ValueError("item_size is 4 bytes to 64 KiB")
        slab_init(&self.s, item_size, limit)

    def __dealloc__(self):
        slab_destroy(&self.s)

    def take(self, Py_ssize_t count):
        """Ids of up to `count` new items, as an array."""
        ids = array("I", bytes(4 * count))
        cdef Items items = items_of(ids, "ids", 4, writable=True)
        cdef uint32_t got = 0
        if count:
            with nogil:
                got = slab_take(&self.s, <uint32_t *> items.at, <uint32_t> count)
        return ids[:got]

    def give(self, ids):
        """Takes items back."""
        cdef Items items = items_of(array("I", ids), "ids", 4)
        if items.count:
            with nogil:
                slab_give(&self.s, <const uint32_t *> items.at, <uint32_t> items.count)

    def mark(self, ids, uint32_t salt=0):
        """Fills each item with bytes made of its id, so that two which overlap are found out."""
        cdef Items items = items_of(array("I", ids), "ids", 4)
        cdef const uint32_t *at = <const uint32_t *> items.at
        cdef Py_ssize_t i
        with nogil:
            for i in range(items.count):
                memset(slab_at(&self.s, at[i]), <uint8_t> ((at[i] + salt) * 2654435761u >> 24),
                       self.s.item_size)

    def marked(self, ids, uint32_t salt=0):
        """How many items hold what mark() put there."""
        cdef Items items = items_of(array("I", ids), "ids", 4)
        cdef const uint32_t *at = <const uint32_t *> items.at
        cdef Py_ssize_t i, right = 0
        cdef size_t k
        cdef uint8_t *item
        cdef uint8_t byte
        with nogil:
            for i in range(items.count):
                item = <uint8_t *> slab_at(&self.s, at[i])
                byte = <uint8_t> ((at[i] + salt) * 2654435761u >> 24)
                k = 0
                while k < self.s.item_size and item[k] == byte:
                    k += 1
                right += k == self.s.item_size
        return right

    def address(self, uint32_t id):
        return <size_t> slab_at(&self.s, id)

    @property
    def bytes(self):
        return slab_bytes(&self.s)

    @property
    def inuse(self):
        return self.s.inuse

    @property
    def limit(self):
        return slab_limit(&self.s)

    def validate(self):
        """0, or a negative number that names the check that failed."""
        return slab_validate(&self.s)


# ---- the index -----------------------------------------------------------------------------------


cdef int count_page(void *pages, zsw_area *area, uint64_t offset, uint32_t id,
                    uint32_t pos) noexcept nogil:
    (<uint64_t *> pages)[0] += 1
    return 0


cdef class Index:
    """The index of one swap area.  Calls take the shards' locks as the engine does, and release the
    GIL."""
    cdef zsw_index ix
    cdef zsw_area area

    def __cinit__(self, uint32_t swap_type=0):
        index_init(&self.ix)
        if area_init(&self.area, swap_type, 0) != 0:
            raise MemoryError

    def __dealloc__(self):
        area_destroy(&self.area)
        index_destroy(&self.ix)

    cdef int reserve(self, uint64_t offset, uint32_t id, uint32_t *old,
                     uint32_t *pos) noexcept nogil:
        cdef zsw_shard *shard = area_lock_shard(&self.ix, &self.area, offset >> SHARD_SHIFT)
        cdef uint32_t *slot
        cdef int rc
        if shard == NULL:
            return -ENOMEM
        rc = shard_reserve(&self.ix, shard, offset & (SHARD_PAGES - 1), &slot, pos)
        if rc == 0:
            old[0] = slot[0]
            slot[0] = id
        zsw_unlock(&shard.lock)
        return rc

    def put(self, uint64_t offset, uint32_t id):
        """Puts an id in place of the one there; returns (the old one or 0, its pos)."""
        cdef uint32_t old = 0, pos = 0
        cdef int rc
        with nogil:
            rc = self.reserve(offset, id, &old, &pos)
        if rc == -ENOMEM:
            raise MemoryError
        return old, pos

    def get(self, uint64_t offset):
        """(the id at `offset`, its pos), or None."""
        cdef zsw_shard *shard = area_shard(&self.ix, &self.area, offset >> SHARD_SHIFT)
        cdef uint32_t *slot
        cdef uint32_t pos = 0, id = 0
        if shard == NULL:
            return None
        with nogil:
            zsw_lock(&shard.lock)
            slot = shard_find(&self.ix, shard, offset & (SHARD_PAGES - 1), &pos)
            id = slot[0] if slot != NULL else 0
            zsw_unlock(&shard.lock)
        return (id, pos) if slot != NULL else None

    def erase(self, uint64_t offset):
        """Removes what is at `offset`; returns whether there was something."""
        cdef zsw_shard *shard = area_shard(&self.ix, &self.area, offset >> SHARD_SHIFT)
        cdef uint32_t pos
        cdef bint found
        if shard == NULL:
            return False
        with nogil:
            zsw_lock(&shard.lock)
            found = shard_find(&self.ix, shard, offset & (SHARD_PAGES - 1), &pos) != NULL
            if found:
                shard_erase(&self.ix, shard, offset & (SHARD_PAGES - 1))
            zsw_unlock(&shard.lock)
        return found

    def peek(self, uint64_t offset):
        """The id at `offset` or 0, read as a look ahead does: without the lock."""
        cdef zsw_shard *shard = area_shard(&self.ix, &self.area, offset >> SHARD_SHIFT)
        cdef uint32_t *id = (
            run_id_peek(&self.ix, shard, offset & (SHARD_PAGES - 1)) if shard != NULL else NULL)
        cdef zsw_run *run = run_peek(&self.ix, id[0]) if id != NULL else NULL
        id = slot_peek(&self.ix, run, offset & (SHARD_PAGES - 1)) if run != NULL else NULL
        return id[0] if id != NULL else 0

    def erase_run(self, uint64_t offset, uint64_t gone):
        """Removes from the run of `offset` the pages whose bits are in `gone`, all of which are
        there."""
        cdef zsw_shard *shard = area_shard(&self.ix, &self.area, offset >> SHARD_SHIFT)
        with nogil:
            zsw_lock(&shard.lock)
            shard_erase_run(&self.ix, shard, (offset & (SHARD_PAGES - 1)) >> RUN_SHIFT, gone)
            zsw_unlock(&shard.lock)

    def collect(self, uint64_t first, uint64_t last, uint32_t capacity=64):
        """[(offset, id)] in first..last (inclusive), which lie in one shard: the first `capacity`
        of them."""
        cdef zsw_shard *shard = area_shard(&self.ix, &self.area, first >> SHARD_SHIFT)
        cdef uint32_t found
        if first >> SHARD_SHIFT != last >> SHARD_SHIFT or not capacity:
            raise ValueError("the range lies in one shard, and is asked for something")
        if shard == NULL:
            return []
        where, ids = array("I", bytes(4 * capacity)), array("I", bytes(4 * capacity))
        cdef Items offset_room = items_of(where, "where", 4, writable=True)
        cdef Items id_room = items_of(ids, "ids", 4, writable=True)
        with nogil:
            zsw_lock(&shard.lock)
            found = shard_collect(&self.ix, shard, first & (SHARD_PAGES - 1),
                                  last & (SHARD_PAGES - 1), <uint32_t *> offset_room.at,
                                  <uint32_t *> id_room.at, capacity)
            zsw_unlock(&shard.lock)
        return [(shard.number << SHARD_SHIFT | where[i], ids[i]) for i in range(found)]

    def shards(self, uint64_t first=0, uint64_t last=0xffffffffffffffff):
        """Numbers of the shards in first..last, sorted."""
        cdef uint64_t count = area_shards(&self.ix, &self.area, first, last, NULL, 0)
        numbers = array("Q", bytes(8 * count))
        cdef Items room = items_of(numbers, "numbers", 8, writable=True)
        area_shards(&self.ix, &self.area, first, last, <uint64_t *> room.at, count)
        return sorted(numbers)

    def offset_of(self, uint32_t pos):
        """The offset that an entry's `pos` names, or None."""
        cdef uint32_t where
        cdef zsw_shard *shard = pos_shard(&self.ix, pos, &where)
        return None if shard == NULL else shard.number << SHARD_SHIFT | where

    def prune(self):
        """Removes empty shards if that pays; how many shards are left."""
        cdef uint64_t left
        with nogil:
            left = area_prune(&self.ix, &self.area)
            index_pruned(&self.ix, left)
        return left

    def begin_removal(self, uint64_t offset):
        """Stops in the midst of removing the empty shard of `offset`: it is marked, but the table
        has it still."""
        cdef zsw_shard *shard = area_shard(&self.ix, &self.area, offset >> SHARD_SHIFT)
        with nogil:
            zsw_lock(&self.area.grow)
            zsw_lock(&shard.lock)
            shard.next = shard.id
            zsw_unlock(&shard.lock)

    def end_removal(self):
        """Goes on."""
        cdef int rc
        with nogil:
            rc = area_rebuild(&self.ix, &self.area)
            zsw_unlock(&self.area.grow)
        if rc != 0:
            raise MemoryError

    @property
    def removal_awaited(self):
        """Whether somebody waits for the removal to end."""
        return zsw_load_u32(&self.area.grow.word) == 2

    def turn(self):
        """Frees the garbage that is condemned and condemns the rest; whether there was such."""
        cdef bint more
        with nogil:
            more = index_turn(&self.ix)
        return more

    @property
    def reap_due(self):
        return zsw_load_u32(&self.ix.reap_due) != 0

    @property
    def bytes(self):
        return index_bytes(&self.ix)

    def looks(self, uint64_t offset):
        """How many slots of the table are looked at to find the shard of `offset`, or that there is
        none."""
        cdef shard_table *table = self.area.table
        cdef uint64_t number = offset >> SHARD_SHIFT, slot = number & table.mask
        cdef uint64_t step = 0, looks = 1
        while table.slots[slot] and (<zsw_shard *> slab_at(&self.ix.shards,
                                                           table.slots[slot])).number != number:
            slot = next_slot(table, number, slot, &step)
            looks += 1
        return looks

    @property
    def area_bytes(self):
        return area_bytes(&self.area)

    def validate(self):
        """(0 or the negative number that names the check that failed, pages counted)."""
        cdef index_claims claims
        cdef uint64_t pages = 0
        cdef int rc, end
        rc = index_check_begin(&self.ix, &claims)
        if rc == 0:
            rc = area_check(&self.ix, &claims, &self.area, count_page, &pages)
        end = index_check_end(&self.ix, &claims)
        return rc if rc != 0 else end, pages


# ---- entries and the LRU -------------------------------------------------------------------------


def pack_word(uint64_t handle, uint32_t length, uint32_t pool):
    return word_pack(handle, length, pool)


def unpack_word(uint64_t word):
    """(handle, length, pool)."""
    return word_handle(word), word_length(word), word_pool(word)


cdef class Entry:
    """One entry, not in any index."""
    cdef zsw_entry entry

    def __cinit__(self, bint same=False, uint64_t now=0):
        self.entry.state = state_new(same, now)

    def get(self, uint64_t now=0):
        """Takes a reference; False when all are out."""
        return entry_get(&self.entry, now)

    def put(self):
        """Drops one; True when it was the last."""
        return entry_put(&self.entry)

    def touch(self, uint64_t now):
        entry_touch(&self.entry, now)

    @property
    def refs(self):
        return self.entry.state & ENTRY_REFS

    @property
    def same(self):
        return self.entry.state & ENTRY_SAME != 0

    @property
    def referenced(self):
        return self.entry.state & ENTRY_REFERENCED != 0

    @property
    def age(self):
        return self.entry.state >> ENTRY_AGE_SHIFT

    def age_at(self, uint64_t now):
        """Seconds since the last access, for who read the clock at `now`."""
        return entry_age(&self.entry, now)


def entry_size():
    return sizeof(zsw_entry)


cdef class Lru:
    """An LRU with entries of its own, named by number."""
    cdef zsw_slab entries
    cdef zsw_lru lru
    cdef zsw_search search
    cdef uint32_t left

    def __cinit__(self):
        slab_init(&self.entries, sizeof(zsw_entry), ANY_ID)
        self.entries.beside = sizeof(uint16_t)

    def __dealloc__(self):
        slab_destroy(&self.entries)

    def new(self):
        cdef uint32_t id = 0
        if slab_take(&self.entries, &id, 1) != 1:
            raise MemoryError
        return id

    def add(self, uint32_t id, uint64_t now=0, *, bint late=True):
        """As the youngest; with `late` at a later time than whoever came before."""
        if late:
            lru_pass(&self.lru, &self.entries, &self.left)
        (<zsw_entry *> slab_at(&self.entries, id)).state = state_new(False, now)
        lru_join(&self.lru, &self.entries, id)

    def remove(self, uint32_t id):
        lru_leave(&self.entries, id)

    def renew(self, uint32_t id):
        """Makes it the youngest; False when it is not there."""
        lru_pass(&self.lru, &self.entries, &self.left)
        return lru_renew(&self.lru, &self.entries, id, max(lru_stamp(&self.entries, id)[0], 1))

    def pop(self, uint64_t now=0, uint32_t idle=0, *, bint vain=False):
        """The oldest, which leaves; None when there is none.  With `vain` those before were of no
        use."""
        cdef uint32_t id = 0
        cdef uint16_t stamp = 0
        if not vain:
            self.search.vain = 0
        if not lru_next(&self.lru, &self.entries, &self.search, now, idle, &id, &stamp):
            return None
        lru_leave(&self.entries, id)
        return id

    @property
    def vain(self):
        """Looks since there was an LRU."""
        return self.search.vain

    def wait(self, uint32_t ticks):
        cdef uint32_t _
        for _ in range(ticks):
            lru_tick(&self.lru, &self.entries)


# ---- same-filled pages ---------------------------------------------------------------------------


cdef Items page_items(object page, bint writable):
    cdef Items items = items_of(page, "page", 1, writable)
    if items.count < 8 or items.count % 8:
        raise ValueError("a page is some 8-byte words")
    return items


def scan(page):
    """The word that the page repeats, or None.  The page is scanned where it lies, aligned or
    not."""
    cdef Items items = page_items(page, False)
    cdef uint64_t value = 0
    return value if same_filled(<const uint8_t *> items.at, items.count, &value) else None


def fill(page, uint64_t value):
    """Repeats the word over the page."""
    cdef Items items = page_items(page, True)
    same_fill(<uint8_t *> items.at, items.count, value)


# ---- a compressor that tests can hold up and break -----------------------------------------------


cdef struct codec_state:
    uint32_t compress_gate          # while not 0, compress() waits
    uint32_t decompress_gate
    uint32_t compressing            # calls that wait at a gate now
    uint32_t decompressing
    uint32_t contexts               # contexts alive
    int compress_error              # when not 0, what compress() returns
    int decompress_error
    int context_error
    int64_t decompress_short        # bytes by which decompress() says less than it wrote


cdef size_t codec_bound(void *state, size_t n) noexcept nogil:
    return n + 16


cdef int codec_ctx_new(void *opaque, void **ctx) noexcept nogil:
    cdef codec_state *state = <codec_state *> opaque
    if state.context_error:
        return state.context_error
    ctx[0] = zsw_map(4096)
    if ctx[0] == NULL:
        return -ENOMEM
    zsw_add_u32(&state.contexts, 1)
    return 0


cdef void codec_ctx_free(void *opaque, void *ctx) noexcept nogil:
    zsw_add_u32(&(<codec_state *> opaque).contexts, <uint32_t> -1)
    zsw_unmap(ctx, 4096)


cdef void wait_at(uint32_t *gate, uint32_t *waiting) noexcept nogil:
    if zsw_load_u32(gate):
        zsw_add_u32(waiting, 1)
        while zsw_load_u32(gate):
            zsw_sleep_ns(50000)
        zsw_add_u32(waiting, <uint32_t> -1)


# The format: 4 bytes of length, the byte that fills the rest of the page, then the page up to
# there.
cdef int64_t codec_compress(void *opaque, void *ctx, const uint8_t *src, size_t n, uint8_t *dst,
                            size_t cap) noexcept nogil:
    cdef codec_state *state = <codec_state *> opaque
    cdef uint32_t length = <uint32_t> n
    wait_at(&state.compress_gate, &state.compressing)
    if state.compress_error:
        return state.compress_error
    # two calls in one context would be a race that a sanitizer sees
    (<uint8_t *> ctx)[0] += 1
    while length and src[length - 1] == src[n - 1]:
        length -= 1
    if length + 5 > cap:
        return 0
    memcpy(dst, &length, 4)
    dst[4] = src[n - 1]
    memcpy(dst + 5, src, length)
    return length + 5


cdef int64_t codec_decompress(void *opaque, void *ctx, const uint8_t *src, size_t n, uint8_t *dst,
                              size_t cap) noexcept nogil:
    cdef codec_state *state = <codec_state *> opaque
    cdef uint32_t length
    wait_at(&state.decompress_gate, &state.decompressing)
    if state.decompress_error:
        return state.decompress_error
    if n < 5:
        return -EBADMSG
    memcpy(&length, src, 4)
    if length + 5 != n or length > cap:
        return -EBADMSG
    memcpy(dst, src + 5, length)
    memset(dst + length, src[4], cap - length)
    return <int64_t> cap - state.decompress_short


cdef zsw_compressor_ops CODEC = zsw_compressor_ops(
    abi_version=ZSW_ABI_VERSION,
    struct_size=sizeof(zsw_compressor_ops),
    name="testing",
    flags=0,
    bound=codec_bound,
    ctx_new=codec_ctx_new,
    ctx_free=codec_ctx_free,
    compress=codec_compress,
    decompress=codec_decompress,
    destroy=NULL,
    ctx_bytes=NULL,
)


cdef class Codec:
    """A compressor that waits, or fails, when told.  `register_compressor("gate",
    factory=codec.capsule)` makes it known.

    It strips the last byte's repetitions off a page.  It never takes the GIL; a caller that kept
    the GIL (a single load; a single store, unless the codec says that it is slow) therefore stops
    the whole program when it waits, so go through the batch calls.

    Attributes
    ----------
    hold_compress, hold_decompress : bool
        Whether calls wait.
    compressing, decompressing : int
        How many wait now.
    contexts : int
        Contexts alive.
    compress_error, decompress_error, context_error : int
        What those calls return instead of working, when not 0.
    decompress_short : int
        By how much decompress() understates what it wrote.
    """
    cdef codec_state state
    cdef zsw_compressor_ops ops
    cdef zsw_compressor c

    def __cinit__(self, *, slow=False, stateless=True):
        self.ops = CODEC
        self.ops.flags = ZSW_COMPRESSOR_SLOW if slow else 0
        if stateless:
            self.ops.flags |= ZSW_COMPRESSOR_STATELESS_DECOMPRESS
        self.c.ops = &self.ops
        self.c.state = &self.state

    def capsule(self):
        capsule = PyCapsule_New(&self.c, ZSW_COMPRESSOR_CAPSULE, release_codec)
        PyCapsule_SetContext(capsule, <void *> self)
        Py_INCREF(self)
        return capsule

    @property
    def hold_compress(self):
        return self.state.compress_gate != 0

    @hold_compress.setter
    def hold_compress(self, bint on):
        zsw_store_u32(&self.state.compress_gate, on)

    @property
    def hold_decompress(self):
        return self.state.decompress_gate != 0

    @hold_decompress.setter
    def hold_decompress(self, bint on):
        zsw_store_u32(&self.state.decompress_gate, on)

    @property
    def compressing(self):
        return zsw_load_u32(&self.state.compressing)

    @property
    def decompressing(self):
        return zsw_load_u32(&self.state.decompressing)

    @property
    def contexts(self):
        return zsw_load_u32(&self.state.contexts)

    @property
    def compress_error(self):
        return self.state.compress_error

    @compress_error.setter
    def compress_error(self, int rc):
        self.state.compress_error = rc

    @property
    def decompress_error(self):
        return self.state.decompress_error

    @decompress_error.setter
    def decompress_error(self, int rc):
        self.state.decompress_error = rc

    @property
    def context_error(self):
        return self.state.context_error

    @context_error.setter
    def context_error(self, int rc):
        self.state.context_error = rc

    @property
    def decompress_short(self):
        return self.state.decompress_short

    @decompress_short.setter
    def decompress_short(self, int64_t by):
        self.state.decompress_short = by


cdef void release_codec(object capsule) noexcept:
    Py_XDECREF(<PyObject *> PyCapsule_GetContext(capsule))
