"""Slabs: where entries and index nodes live.

An id is `block << shift | index`; id 0 is never handed out, so 0 can mean "none".  A block's freed
items form a list through their own first four bytes.  When a block's last item comes back its
memory goes to the system at once, unless it is the only block with room: that one is kept warm, so
a slab keeps one block at most.  A block without memory serves again before a new one is mapped.

A reader needs no lock: it goes by a table of where the blocks lie.  Such a table is only ever added
to; when it is full its successor, a copy with more room, is published, and it stays for those who
are still looking.  All old ones together are no larger than the one in use.
"""
from libc.errno cimport ENOMEM
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from zswap_core.fault cimport fault, Site
from zswap_core.os cimport (
    zsw_load_u32, zsw_lock, zsw_map, zsw_map_as, ZSW_MAP_NO_FORK, zsw_poke_u32, zsw_poke_u64,
    zsw_popcount, zsw_release, zsw_store_ptr, zsw_store_u32, zsw_unlock, zsw_unmap,
)


cdef enum:
    BLOCK_BYTES = 64 << 10
    MAX_BLOCKS = 1 << 21
    OS_PAGE = 4096

cdef slab_table NO_TABLE        # of every slab that has no block yet, which costs nothing


cdef inline size_t whole_pages(size_t size) noexcept nogil:
    return (size + OS_PAGE - 1) & ~(<size_t> OS_PAGE - 1)


cdef inline size_t block_bytes(const zsw_slab *s) noexcept nogil:
    return whole_pages((s.item_size + s.beside) << s.shift)


cdef void slab_init(zsw_slab *s, size_t item_size, uint64_t limit) noexcept nogil:
    """Prepares an empty slab whose ids stay below `limit`.  `item_size` is at least 4 and at most
    BLOCK_BYTES."""
    memset(s, 0, sizeof(zsw_slab))
    s.item_size = item_size
    while (item_size << (s.shift + 1)) <= <size_t> BLOCK_BYTES:
        s.shift += 1
    s.max_blocks = <uint32_t> min(limit >> s.shift, <uint64_t> MAX_BLOCKS)
    s.table = &NO_TABLE


cdef void slab_destroy(zsw_slab *s) noexcept nogil:
    cdef slab_table *table = s.table
    cdef slab_table *older
    cdef uint32_t i
    if table == NULL:
        return
    for i in range(s.block_count):
        zsw_unmap(s.blocks[i].base, block_bytes(s))
    while table != &NO_TABLE:
        older = table.older
        zsw_unmap(table, table.bytes)
        table = older
    memset(s, 0, sizeof(zsw_slab))


cdef int grow_table(zsw_slab *s) noexcept nogil:
    """Makes room for more blocks."""
    cdef slab_table *old = s.table
    cdef slab_table *fresh
    cdef size_t bytes = max(2 * old.bytes, <size_t> OS_PAGE)
    if fault(Site.SLAB_TABLE) != 0:
        return -ENOMEM
    # A forked child needs it to give the blocks back.
    fresh = <slab_table *> zsw_map_as(bytes, s.mapping & ~ZSW_MAP_NO_FORK)
    if fresh == NULL:
        return -ENOMEM
    fresh.capacity = (bytes - sizeof(slab_table)) // (sizeof(uint8_t *) + sizeof(slab_block))
    fresh.bytes = bytes
    fresh.older = old
    if s.block_count != 0:
        memcpy(fresh.bases, old.bases, old.capacity * sizeof(uint8_t *))
        memcpy(fresh.bases + fresh.capacity, s.blocks, s.block_count * sizeof(slab_block))
    s.blocks = <slab_block *> (fresh.bases + fresh.capacity)
    s.table_bytes += bytes
    meter_move(s.meter, bytes)
    zsw_store_ptr(<void **> &s.table, fresh)
    return 0


cdef void room_push(zsw_slab *s, uint32_t number) noexcept nogil:
    cdef slab_block *c = &s.blocks[number]
    c.prev = 0
    c.next = s.room
    if s.room:
        s.blocks[s.room - 1].prev = number + 1
    s.room = number + 1


cdef void room_remove(zsw_slab *s, uint32_t number) noexcept nogil:
    cdef slab_block *c = &s.blocks[number]
    if c.prev:
        s.blocks[c.prev - 1].next = c.next
    else:
        s.room = c.next
    if c.next:
        s.blocks[c.next - 1].prev = c.prev
    c.prev = 0
    c.next = 0


cdef uint32_t reserved(uint32_t number) noexcept nogil:
    """Items of a block that are never handed out: id 0 means "none"."""
    return number == 0


cdef size_t touched_bytes(const zsw_slab *s, uint32_t number) noexcept nogil:
    """What a block costs: items are handed out from its beginning on, so it is the system's pages
    up to the last of them."""
    cdef uint32_t bump = s.blocks[number].bump
    if bump <= reserved(number):
        return 0
    return whole_pages(bump * s.item_size) + whole_pages(<size_t> bump * s.beside)


cdef int add_block(zsw_slab *s) noexcept nogil:
    """Gives the list of blocks with room one more, without memory yet."""
    cdef uint32_t number = s.block_count
    cdef slab_block *c
    cdef void *base
    if s.cold:
        number = s.cold - 1
        s.cold = s.blocks[number].next
        room_push(s, number)
        return 0
    if number == s.max_blocks or (number == s.table.capacity and grow_table(s) != 0):
        return -ENOMEM
    base = zsw_map_as(block_bytes(s), s.mapping) if fault(Site.SLAB_BLOCK) == 0 else NULL
    if base == NULL:
        return -ENOMEM
    c = &s.blocks[number]
    c.base = <uint8_t *> base
    c.bump = reserved(number)
    zsw_poke_u64(&s.touched, s.touched + c.bump)
    zsw_store_ptr(<void **> &s.table.bases[number], base)
    zsw_store_u32(&s.block_count, number + 1)
    room_push(s, number)
    return 0


cdef void cool_block(zsw_slab *s, uint32_t number) noexcept nogil:
    """Gives the memory of an empty block back."""
    cdef slab_block *c = &s.blocks[number]
    if fault(Site.SLAB_RELEASE) != 0 or zsw_release(c.base, block_bytes(s)) != 0:
        return
    zsw_poke_u64(&s.touched, s.touched - (c.bump - reserved(number)))
    s.touched_bytes -= touched_bytes(s, number)
    meter_move(s.meter, -<uint64_t> touched_bytes(s, number))
    c.bump = reserved(number)
    c.free_head = 0
    room_remove(s, number)
    c.next = s.cold
    s.cold = number + 1


cdef uint32_t slab_take(zsw_slab *s, uint32_t *ids, uint32_t count) noexcept nogil:
    """Hands out up to `count` items; returns how many: fewer only when there is no memory.  Their
    content is undefined."""
    cdef uint32_t got = 0, fresh = 0, number, index, size = <uint32_t> 1 << s.shift
    cdef uint64_t before
    cdef slab_block *c
    zsw_lock(&s.lock)
    before = s.touched_bytes
    while got < count:
        if s.room == 0 and add_block(s) != 0:
            break
        number = s.room - 1
        c = &s.blocks[number]
        s.touched_bytes -= touched_bytes(s, number)
        while got < count:
            if c.free_head:
                index = c.free_head - 1
                c.free_head = (<uint32_t *> (c.base + <size_t> index * s.item_size))[0]
            elif c.bump < size:
                index = c.bump
                c.bump += 1
                fresh += 1
            else:
                break
            c.inuse += 1
            ids[got] = number << s.shift | index
            got += 1
        s.touched_bytes += touched_bytes(s, number)
        if c.free_head == 0 and c.bump == size:
            room_remove(s, number)
    meter_move(s.meter, s.touched_bytes - before)
    zsw_poke_u64(&s.touched, s.touched + fresh)
    zsw_poke_u64(&s.inuse, s.inuse + got)
    zsw_unlock(&s.lock)
    return got


cdef void slab_give(zsw_slab *s, const uint32_t *ids, uint32_t count) noexcept nogil:
    """Takes items back.  Their first four bytes become the slab's."""
    cdef uint32_t i, number, index, size = <uint32_t> 1 << s.shift
    cdef slab_block *c
    zsw_lock(&s.lock)
    for i in range(count):
        number = ids[i] >> s.shift
        index = ids[i] & (size - 1)
        c = &s.blocks[number]
        if c.free_head == 0 and c.bump == size:
            room_push(s, number)        # it was full, so it was on no list
        # Whoever has the id still may look, so nothing is written by halves.
        zsw_poke_u32(<uint32_t *> (c.base + <size_t> index * s.item_size), c.free_head)
        c.free_head = index + 1
        c.inuse -= 1
        if c.inuse == 0 and (s.room != number + 1 or c.next):
            cool_block(s, number)
    zsw_poke_u64(&s.inuse, s.inuse - count)
    zsw_unlock(&s.lock)


cdef uint64_t slab_bytes(zsw_slab *s) noexcept nogil:
    """Memory that the slab occupies, its tables of blocks included."""
    cdef uint64_t size
    zsw_lock(&s.lock)
    size = s.touched_bytes + s.table_bytes
    zsw_unlock(&s.lock)
    return size


cdef uint32_t slab_limit(const zsw_slab *s) noexcept nogil:
    """One past the greatest id that may be in use: for a walk over all items."""
    return zsw_load_u32(&s.block_count) << s.shift


cdef int slab_validate(zsw_slab *s) noexcept nogil:
    """0 when the lists, the counts and the blocks agree; else a negative number naming the check.
    At rest only."""
    cdef uint64_t inuse = 0, touched = 0, bytes = 0
    cdef uint32_t i, free, link, on_list = 0, with_room = 0, cold = 0, previous = 0
    cdef uint32_t size = <uint32_t> 1 << s.shift
    cdef slab_block *c
    for i in range(s.block_count):
        c = &s.blocks[i]
        free = 0
        link = c.free_head
        while link:
            free += 1
            if link > c.bump or free > size:
                return -1
            link = (<uint32_t *> (c.base + <size_t> (link - 1) * s.item_size))[0]
        if c.bump > size or c.inuse + free + reserved(i) != c.bump:
            return -2
        if free or c.bump < size:
            with_room += 1
        inuse += c.inuse
        touched += c.bump
        bytes += touched_bytes(s, i)
        if c.base == NULL or c.base != s.table.bases[i]:
            return -10
    link = s.room
    while link:
        on_list += 1
        if link > s.block_count or on_list > s.block_count or s.blocks[link - 1].prev != previous:
            return -3
        if s.blocks[link - 1].free_head == 0 and s.blocks[link - 1].bump == size:
            return -4
        previous = link
        link = s.blocks[link - 1].next
    link = s.cold
    while link:
        cold += 1
        if (link > s.block_count or cold > s.block_count
                or s.blocks[link - 1].bump != reserved(link - 1)):
            return -6
        link = s.blocks[link - 1].next
    if on_list + cold != with_room:
        return -4
    if inuse != s.inuse or touched != s.touched or bytes != s.touched_bytes:
        return -5
    return 0


cdef size_t claims_bytes(const zsw_slab *s) noexcept nogil:
    # A bit for every item of every block; never none, which could not be mapped.
    return ((<size_t> s.block_count << s.shift) + 64) // 64 * sizeof(uint64_t)


cdef int slab_check_begin(zsw_slab *s, uint64_t **claims) noexcept nogil:
    cdef uint32_t i, link
    cdef slab_block *c
    cdef int rc
    claims[0] = NULL
    rc = slab_validate(s)
    if rc != 0:
        return rc
    claims[0] = <uint64_t *> zsw_map(claims_bytes(s))
    if claims[0] == NULL:
        return -ENOMEM
    for i in range(s.block_count):
        c = &s.blocks[i]
        link = c.free_head
        while link:
            rc = slab_check_claim(s, claims[0], i << s.shift | (link - 1))
            if rc != 0:
                return rc
            link = (<uint32_t *> (c.base + <size_t> (link - 1) * s.item_size))[0]
    return 0


cdef int slab_check_claim(const zsw_slab *s, uint64_t *claims, uint32_t id) noexcept nogil:
    cdef uint32_t within = id & ((<uint32_t> 1 << s.shift) - 1)
    if id == 0 or id >> s.shift >= s.block_count or within >= s.blocks[id >> s.shift].bump:
        return -7
    if claims[id >> 6] >> (id & 63) & 1:
        return -8
    claims[id >> 6] |= <uint64_t> 1 << (id & 63)
    return 0


cdef int slab_check_end(const zsw_slab *s, uint64_t *claims) noexcept nogil:
    cdef uint64_t claimed = 0, touched = 0, i
    if claims == NULL:
        return 0
    for i in range(claims_bytes(s) // sizeof(uint64_t)):
        claimed += zsw_popcount(claims[i])
    for i in range(s.block_count):
        touched += s.blocks[i].bump - reserved(<uint32_t> i)
    zsw_unmap(claims, claims_bytes(s))
    return 0 if claimed == touched else -9
