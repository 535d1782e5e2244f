"""Damage to one word of an engine's structures, and its repair: to see that validate() reports it.

    with Damage(z, "lru.next"):
        z._validate()               # AssertionError

The engine holds some hundred ordinary pages, and some of each other kind, and nobody else uses it
meanwhile.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from zswap_core.binding.results cimport Handle
from zswap_core.entries cimport entry_at
from zswap_core.entry cimport IN_TRANSIT, ON_BACKING, word_handle, zsw_entry
from zswap_core.index cimport (
    ARRAY_KINDS, pos_shard, RUN_SHIFT, shard_find, zsw_area, zsw_run, zsw_shard,
)
from zswap_core.lru cimport LRU_LISTED, lru_stamp, stamp_at
from zswap_core.slab cimport slab_at, slab_block, slab_give, slab_limit, zsw_slab
from zswap_core.state cimport POOL_EMPTY, zsw_engine, zsw_pool, zsw_worker
from zswap_core.worker cimport first_worker
from zswap_core.zpools.arena cimport REGION_PAGES, zsw_arena, zsw_region
from zswap_core.zpools.z3fold cimport z3_page, z3_pool
from zswap_core.zpools.zbud cimport buddy_page, buddy_pool, BY_AGE, BY_ROOM, page_at
from zswap_core.zpools.zsmalloc cimport GROUPS, SLOT_BITS, zs_class, zs_pool, zspage

from zswap_core.stats import Counter as Counters

ENGINE = ("entry.pos", "entry.refs", "entry.pool", "entry.length", "entry.handle",
          "entry.owned twice", "entry.same", "reclaim.turn", "reclaim.awaited", "reclaim.near",
          "lru.missing", "lru.spare", "lru.ahead", "slot.in transit",
          "slot.empty", "slot.other", "slot.backed", "worker.spare", "worker.spares",
          "pool.entries", "pool.stage", "pool.id", "pool.holds", "pool.claimed", "area.backed",
          "area.offline", "counter.stored_pages", "counter.same_filled_pages",
          "counter.stored_incompressible_pages", "counter.compressed_bytes", "counter.backed_pages")
INDEX = ("shard.id", "shard.number", "shard.type", "shard.next", "shard.pages", "shard.present",
         "shard.runs", "shard.runs_kind", "run.present", "run.clean", "run.shard", "run.number",
         "run.slots", "run.slots_kind", "table.count", "table.slot", "garbage.shard")
SLAB = ("slab.free_head", "slab.free_used", "slab.bump", "block.inuse", "slab.room", "slab.inuse",
        "slab.touched", "slab.touched_bytes", "slab.base", "array.inuse")
ARENA = ("arena.total", "arena.idle", "arena.spans", "arena.bins", "arena.free", "arena.free_pages",
         "arena.bin", "arena.lone", "arena.lone_pages", "arena.prev")
ZSMALLOC = ("zspage.prev", "zspage.next", "zspage.group", "zspage.class", "zspage.size",
            "zspage.objects", "zspage.free", "zspage.first", "zspage.committed", "zspage.pages",
            "zspage.at", "class.groups", "class.zspages", "class.objects", "class.head",
            "bad_frees")
BUDDIES = ("page.age prev", "page.room prev", "page.first", "page.last", "page.middle",
           "page.start", "page.at", "lru.last", "rooms", "room.first", "page_count", "objects",
           "object_chunks", "bad_frees")
Z3FOLD = ("cell.page", "cell.start", "cell.none", "foreign", "lone", "gaps", "without_page")


cdef class Damage:
    """A context in which one word is wrong."""
    cdef zsw_engine *e
    cdef str name
    cdef void *at
    cdef size_t size
    cdef uint8_t old[8]

    def __init__(self, z, name):
        self.e = (<Handle?> z).e
        self.name = name

    cdef int put(self, void *at, size_t size, uint64_t value) except -1:
        """Little-endian, as every machine that this is built for."""
        self.at, self.size = at, size
        memcpy(self.old, at, size)
        memcpy(at, &value, size)
        return 0

    cdef int put8(self, uint8_t *at, uint64_t value) except -1:
        return self.put(at, 1, value)

    cdef int put16(self, uint16_t *at, uint64_t value) except -1:
        return self.put(at, 2, value)

    cdef int put32(self, uint32_t *at, uint64_t value) except -1:
        return self.put(at, 4, value)

    cdef int put64(self, uint64_t *at, uint64_t value) except -1:
        return self.put(at, 8, value)

    def __enter__(self):
        kind = self.e.current.ops.name.decode()
        if self.name in ENGINE:
            self.damage_engine()
        elif self.name in INDEX:
            self.damage_index()
        elif self.name in SLAB:
            self.damage_slab()
        elif self.name in ARENA:
            self.damage_arena(&(<zs_pool *> self.e.current.zpool).arena if kind == "zsmalloc"
                              else &(<buddy_pool *> self.e.current.zpool).arena)
        elif kind == "zsmalloc" and self.name in ZSMALLOC:
            self.damage_zsmalloc(<zs_pool *> self.e.current.zpool)
        elif kind != "zsmalloc" and self.name in BUDDIES:
            self.damage_buddies(<buddy_pool *> self.e.current.zpool)
        elif kind == "z3fold" and self.name in Z3FOLD:
            self.damage_z3fold(<z3_pool *> self.e.current.zpool)
        else:
            raise LookupError(f"no {self.name!r} in an engine with {kind}")
        return self

    def __exit__(self, *exception):
        memcpy(self.at, self.old, self.size)

    # ---- what there is to damage ----

    cdef uint32_t listed(self, int number) except 0:
        """The entry of the page that came as this one of those in the LRU; -1 is the last."""
        ids = range(1, slab_limit(&self.e.entries))
        stamps = [(lru_stamp(&self.e.entries, id)[0], id) for id in ids]
        stamps = sorted([one for one in stamps if one[0]])
        return stamps[number if number >= 0 else len(stamps) + number][1]

    cdef zsw_shard *shard(self):
        cdef uint32_t where
        return pos_shard(&self.e.index, entry_at(self.e, self.listed(0)).pos, &where)

    cdef zsw_run *run(self):
        return <zsw_run *> slab_at(&self.e.index.runs,
                                   entry_at(self.e, self.listed(0)).pos >> RUN_SHIFT)

    cdef uint32_t *slot(self, uint32_t id):
        cdef uint32_t where, pos
        cdef zsw_shard *shard = pos_shard(&self.e.index, entry_at(self.e, id).pos, &where)
        return shard_find(&self.e.index, shard, where, &pos)

    cdef zsw_worker *spare_worker(self) except NULL:
        cdef zsw_worker *w = first_worker(self.e)
        while w != NULL and w.spares < 2:
            w = w.next
        if w == NULL:
            raise LookupError("no worker has spare entries")
        return w

    cdef int damage_engine(self) except -1:
        cdef zsw_engine *e = self.e
        cdef uint32_t id = self.listed(0), next = self.listed(1)
        cdef zsw_entry *entry = entry_at(e, id)
        cdef zsw_entry *other = entry_at(e, next)
        cdef zsw_pool *pool = e.current
        cdef zsw_worker *w
        word = self.name.partition(".")[2]
        if self.name.startswith("counter."):
            w = first_worker(e)
            return self.put64(<uint64_t *> &w.counters[<int> Counters[word]],
                              w.counters[<int> Counters[word]] + 1)
        if self.name == "entry.pos":
            return self.put32(&entry.pos, entry.pos ^ 1)
        if self.name == "entry.refs":
            return self.put32(&entry.state, entry.state + 1)
        if self.name == "entry.pool":
            return self.put64(&entry.word, entry.word ^ 0x80)
        if self.name == "entry.length":
            return self.put64(&entry.word, entry.word | 0xffff << 8)
        if self.name == "entry.handle":
            return self.put64(&entry.word, entry.word | <uint64_t> 0xff << 56)
        if self.name == "entry.owned twice":
            return self.put64(&entry.word, other.word)
        if self.name == "entry.same":
            return self.put32(&entry.state, entry.state | 0x100)
        if self.name == "reclaim.turn":
            return self.put32(&e.turn, e.turn + 1)
        if self.name == "reclaim.awaited":
            return self.put32(&e.awaited, 1)
        if self.name == "reclaim.near":
            return self.put64(&e.params.near_pages, e.params.near_pages + 1)
        if self.name == "lru.missing":
            return self.put16(lru_stamp(&e.entries, id), 0)
        if self.name == "lru.spare":
            return self.put16(lru_stamp(&e.entries, self.spare_worker().spare[0]), LRU_LISTED)
        if self.name == "lru.ahead":
            return self.put16(lru_stamp(&e.entries, id), stamp_at(e.lru.tick + 1))
        if self.name == "slot.in transit":
            return self.put32(self.slot(id), IN_TRANSIT)
        if self.name == "slot.empty":
            return self.put32(self.slot(id), 0)
        if self.name == "slot.other":
            return self.put32(self.slot(id), next)
        if self.name == "slot.backed":
            # in an area that has none
            return self.put32(self.slot(self.listed(-1)), ON_BACKING)
        if self.name == "worker.spare":
            w = self.spare_worker()
            return self.put32(&w.spare[0], w.spare[1])
        if self.name == "worker.spares":
            w = self.spare_worker()
            return self.put32(&w.spares, w.spares - 1)
        if self.name == "pool.entries":
            return self.put64(<uint64_t *> &pool.entries, pool.entries + 1)
        if self.name == "pool.stage":
            return self.put32(&pool.stage, POOL_EMPTY)
        if self.name == "pool.id":
            return self.put32(&pool.id, pool.id + 1)
        if self.name == "pool.holds":
            return self.put32(&pool.holds, 1)
        if self.name == "pool.claimed":
            return self.put8(&e.pool_claimed[pool.id], 0)
        if self.name == "area.backed":
            return self.put32(&e.backed_areas, e.backed_areas + 1)
        return self.put32(&e.areas[0].online, 0)            # area.offline

    cdef int damage_index(self) except -1:
        cdef zsw_shard *shard = self.shard()
        cdef zsw_run *run = self.run()
        cdef zsw_area *area = self.e.areas[shard.type]
        cdef uint64_t slot = 0
        if self.name == "shard.id":
            return self.put32(&shard.id, shard.id + 1)
        if self.name == "shard.number":
            return self.put64(&shard.number, shard.number + 1)
        if self.name == "shard.type":
            return self.put32(&shard.type, shard.type + 1)
        if self.name == "shard.next":
            return self.put32(&shard.next, shard.id)
        if self.name == "shard.pages":
            return self.put32(&shard.pages, shard.pages + 1)
        if self.name == "shard.present":
            return self.put64(&shard.present[0], shard.present[0] & (shard.present[0] - 1))
        if self.name == "shard.runs":
            return self.put32(&shard.runs, shard.runs + 100000)
        if self.name == "shard.runs_kind":
            return self.put32(&shard.runs_kind, ARRAY_KINDS)
        if self.name == "run.present":
            return self.put64(&run.present, run.present & (run.present - 1))
        if self.name == "run.clean":
            return self.put64(&run.clean, run.clean | (run.present & -run.present))
        if self.name == "run.shard":
            return self.put32(&run.shard, 0)
        if self.name == "run.number":
            return self.put8(&run.number, run.number + 1)
        if self.name == "run.slots":
            return self.put32(&run.slots, run.slots + 1)
        if self.name == "run.slots_kind":
            return self.put8(&run.slots_kind, run.slots_kind - 1)
        if self.name == "table.count":
            return self.put64(&area.table.count, area.table.count + 1)
        if self.name == "garbage.shard":
            return self.put32(&self.e.index.unlinked.shards, shard.id)
        while area.table.slots[slot] != 0:                  # table.slot
            slot += 1
        return self.put32(&area.table.slots[slot], shard.id)

    cdef slab_block *freed(self, zsw_slab *s) except NULL:
        """A block with a freed entry.  Which CPUs' workers served the calls decides whether there
        is one, or all are kept as spares: then one of those goes back."""
        cdef zsw_worker *w
        cdef uint32_t i
        for i in range(s.block_count):
            if s.blocks[i].free_head != 0:
                return &s.blocks[i]
        w = self.spare_worker()
        w.spares -= 1
        slab_give(s, &w.spare[w.spares], 1)
        return self.freed(s)

    cdef int damage_slab(self) except -1:
        cdef zsw_slab *s = &self.e.entries
        cdef slab_block *c = self.freed(s)
        if self.name == "slab.free_head":
            return self.put32(&c.free_head, 0)
        if self.name == "slab.free_used":
            return self.put32(<uint32_t *> (c.base + <size_t> (c.free_head - 1) * s.item_size),
                              self.listed(0) + 1)
        if self.name == "slab.bump":
            return self.put32(&c.bump, c.bump + 1)
        if self.name == "block.inuse":
            return self.put32(&c.inuse, c.inuse - 1)
        if self.name == "slab.room":
            return self.put32(&s.room, 0)
        if self.name == "slab.inuse":
            return self.put64(&s.inuse, s.inuse + 1)
        if self.name == "slab.touched":
            return self.put64(&s.touched, s.touched + 1)
        if self.name == "slab.touched_bytes":
            return self.put64(&s.touched_bytes, s.touched_bytes + 1)
        if self.name == "slab.base":
            return self.put64(<uint64_t *> &c.base, <uint64_t> <size_t> c.base + s.item_size)
        s = &self.e.index.arrays[self.run().slots_kind]     # array.inuse
        return self.put64(&s.inuse, s.inuse + 1)

    cdef int damage_arena(self, zsw_arena *arena) except -1:
        cdef zsw_region *region
        cdef uint32_t bin = 0
        while arena.heads[bin] == 0:
            bin += 1
        region = <zsw_region *> slab_at(&arena.regions, arena.heads[bin])
        if self.name == "arena.total":
            return self.put64(&arena.total_pages, arena.total_pages + 1)
        if self.name == "arena.idle":
            return self.put64(&arena.idle_pages, arena.idle_pages + 1)
        if self.name == "arena.spans":
            return self.put32(&arena.spans, arena.spans + 1)
        if self.name == "arena.bins":
            return self.put64(&arena.bins, arena.bins ^ 1)
        if self.name == "arena.free":
            return self.put64(&region.free[0], ~region.free[0])
        if self.name == "arena.free_pages":
            return self.put32(&region.free_pages, region.free_pages - 1)
        if self.name == "arena.bin":
            return self.put32(&region.bin, region.bin - 1)
        if self.name == "arena.lone":
            return self.put64(&region.lone[0], region.lone[0] ^ 1)
        if self.name == "arena.lone_pages":
            return self.put64(&arena.lone_pages, arena.lone_pages + 1)
        return self.put32(&region.prev, 1)                   # arena.prev

    cdef int damage_zsmalloc(self, zs_pool *pool) except -1:
        cdef uint64_t handle = word_handle(entry_at(self.e, self.listed(0)).word)
        cdef uint32_t id = <uint32_t> (handle >> SLOT_BITS)
        cdef zspage *zs = <zspage *> slab_at(&pool.zspages, id)
        cdef zs_class *cls = &pool.classes[zs.class_id]
        cdef uint64_t *free = <uint64_t *> (zs + 1)
        if self.name == "zspage.prev":
            return self.put32(&zs.prev, id)
        if self.name == "zspage.next":
            return self.put32(&zs.next, id)
        if self.name == "zspage.group":
            return self.put8(&zs.group, (zs.group + 1) % GROUPS)
        if self.name == "zspage.class":
            return self.put8(&zs.class_id, zs.class_id ^ 1)
        if self.name == "zspage.size":
            return self.put32(&zs.size, zs.size + 1)
        if self.name == "zspage.objects":
            return self.put16(&zs.objects, zs.objects + 1)
        if self.name == "zspage.free":
            return self.put64(free, free[0] ^ 1)
        if self.name == "zspage.first":
            return self.put64(<uint64_t *> &zs.first, <uint64_t> <size_t> zs.first + 1)
        if self.name == "zspage.committed":
            return self.put16(&zs.span.committed, 0)
        if self.name == "zspage.pages":
            return self.put16(&zs.span.pages, zs.span.pages + 1)
        if self.name == "zspage.at":
            return self.put32(&zs.span.at, zs.span.at + REGION_PAGES // 2)
        if self.name == "class.groups":
            return self.put32(&cls.groups, 0)
        if self.name == "class.zspages":
            return self.put64(&cls.zspages, cls.zspages + 1)
        if self.name == "class.objects":
            return self.put64(&cls.objects, cls.objects - 1)
        if self.name == "class.head":
            return self.put32(&cls.heads[zs.group], 0)
        return self.put64(&pool.bad_frees, 1)               # bad_frees

    cdef int damage_buddies(self, buddy_pool *pool) except -1:
        cdef buddy_page *page = page_at(pool, pool.lru.last)
        cdef uint32_t room = 0
        while pool.unbuddied[room].first == 0:
            room += 1
        if self.name == "page.age prev":
            return self.put32(&page.links[BY_AGE].prev, pool.lru.last)
        if self.name == "page.room prev":
            return self.put32(&page_at(pool, pool.unbuddied[room].first).links[BY_ROOM].prev,
                              pool.lru.last)
        if self.name == "page.first":
            return self.put8(&page.first, 63)
        if self.name == "page.last":
            return self.put8(&page.last, page.last + 1)
        if self.name == "page.middle":
            return self.put8(&page.middle, page.middle + 1)
        if self.name == "page.start":
            return self.put64(<uint64_t *> &page.start, <uint64_t> <size_t> page.start
                              + pool.page_size)
        if self.name == "page.at":
            return self.put32(&page.at, page.at + REGION_PAGES // 2)
        if self.name == "lru.last":
            return self.put32(&pool.lru.last, pool.lru.first)
        if self.name == "rooms":
            return self.put64(&pool.rooms, 0)
        if self.name == "room.first":
            return self.put32(&pool.unbuddied[room].first, 0)
        if self.name == "page_count":
            return self.put64(&pool.page_count, pool.page_count - 1)
        if self.name == "objects":
            return self.put64(&pool.objects, pool.objects + 1)
        if self.name == "object_chunks":
            return self.put64(&pool.object_chunks, pool.object_chunks + 1)
        return self.put64(&pool.bad_frees, 1)               # bad_frees

    cdef int damage_z3fold(self, z3_pool *pool) except -1:
        cdef uint32_t id = pool.buddies.lru.last
        cdef z3_page *page = <z3_page *> page_at(&pool.buddies, id)
        while page.cells[0] == 0:
            id = page.page.links[BY_AGE].prev
            page = <z3_page *> page_at(&pool.buddies, id)
        if self.name == "cell.page":
            return self.put64(&page.cells[0], page.cells[0] + (<uint64_t> 1000 << 8))
        if self.name == "cell.start":
            return self.put64(&page.cells[0], page.cells[0] + 4)
        if self.name == "cell.none":
            return self.put64(&page.cells[0], 0)
        if self.name == "foreign":
            return self.put8(&page.foreign, page.foreign + 1)
        if self.name == "lone":
            return self.put64(&pool.lone[5], pool.lone[5] + 1)
        if self.name == "gaps":
            return self.put64(&pool.gaps, pool.gaps + 1)
        return self.put64(&pool.without_page, pool.without_page + 1)
