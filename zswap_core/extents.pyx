"""Extents: spans of offsets that an area hands out, as a swap allocator does with its slots.

A treap by address in which each node knows the longest free span under it.  So the first span that
is long enough is found in O(log n), as are an extent's neighbours; and of all spans the first is
taken, which leaves long ones at the end: that is what keeps a day of random sizes from breaking
the area up.  Extents of one length side by side are one node, so a million single pages cost what
one does until some are freed in between.

The last free span always reaches to the end of all offsets.  How many of them the area has is told
with each call: so an area may grow.
"""
from libc.errno cimport EINVAL, ENOMEM, ENOSPC
from libc.stdint cimport uint32_t, uint64_t

from zswap_core.fault cimport fault, Site
from zswap_core.slab cimport slab_at, slab_check_claim, slab_give, slab_take, zsw_slab


cdef uint64_t ALL_PAGES = <uint64_t> 1 << EXTENT_SHIFT
cdef uint64_t LEAVING = <uint64_t> -1       # a unit: about to be free, its pages being invalidated


cdef inline zsw_extent *at(const zsw_slab *s, uint32_t id) noexcept nogil:
    return <zsw_extent *> slab_at(s, id)


cdef inline uint32_t priority(uint32_t id) noexcept nogil:
    """As good as random, and never the same for two."""
    id = (id ^ id >> 16) * <uint32_t> 0x7feb352d
    id = (id ^ id >> 15) * <uint32_t> 0x846ca68b
    return id ^ id >> 16


cdef inline uint64_t room_of(const zsw_slab *s, uint32_t id) noexcept nogil:
    return at(s, id).room if id else 0


cdef void sum_up(const zsw_slab *s, zsw_extent *node) noexcept nogil:
    node.room = max(node.pages if node.unit == EXTENT_FREE else 0,
                    max(room_of(s, node.left), room_of(s, node.right)))


# ---- the tree ------------------------------------------------------------------------------------


cdef uint32_t join(const zsw_slab *s, uint32_t a, uint32_t b) noexcept nogil:
    """One tree of two, of which one ends where the other begins."""
    if a == 0 or b == 0:
        return a | b
    if priority(a) > priority(b):
        at(s, a).right = join(s, at(s, a).right, b)
        sum_up(s, at(s, a))
        return a
    at(s, b).left = join(s, a, at(s, b).left)
    sum_up(s, at(s, b))
    return b


cdef void cut(const zsw_slab *s, uint32_t id, uint64_t start, uint32_t *a,
              uint32_t *b) noexcept nogil:
    """Two trees of one: what begins before `start`, and the rest."""
    if id == 0:
        a[0] = b[0] = 0
    elif at(s, id).start < start:
        a[0] = id
        cut(s, at(s, id).right, start, &at(s, id).right, b)
        sum_up(s, at(s, id))
    else:
        b[0] = id
        cut(s, at(s, id).left, start, a, &at(s, id).left)
        sum_up(s, at(s, id))


cdef void insert(const zsw_slab *s, zsw_extents *x, uint32_t id, uint64_t start, uint64_t pages,
                 uint64_t unit) noexcept nogil:
    cdef zsw_extent *node = at(s, id)
    cdef uint32_t a, b
    node.left = node.right = 0
    node.start, node.pages, node.unit = start, pages, unit
    sum_up(s, node)
    cut(s, x.root, start, &a, &b)
    x.root = join(s, join(s, a, id), b)


cdef uint32_t without(const zsw_slab *s, uint32_t id, uint64_t start) noexcept nogil:
    """The tree without the node that begins at `start`."""
    cdef zsw_extent *node = at(s, id)
    if node.start == start:
        return join(s, node.left, node.right)
    if start < node.start:
        node.left = without(s, node.left, start)
    else:
        node.right = without(s, node.right, start)
    sum_up(s, node)
    return id


cdef void renew(const zsw_slab *s, uint32_t id, uint64_t start) noexcept nogil:
    """Sums up anew all above the node that begins at `start`, and that."""
    cdef zsw_extent *node = at(s, id)
    if start < node.start:
        renew(s, node.left, start)
    elif start > node.start:
        renew(s, node.right, start)
    sum_up(s, node)


cdef uint32_t find(const zsw_slab *s, const zsw_extents *x, uint64_t offset) noexcept nogil:
    """The node that the offset lies in."""
    cdef uint32_t id = x.root, found = 0
    while id:
        if at(s, id).start <= offset:
            found = id
            id = at(s, id).right
        else:
            id = at(s, id).left
    return found


cdef uint32_t first_fit(const zsw_slab *s, const zsw_extents *x, uint64_t pages) noexcept nogil:
    """The first free span of so many pages, or 0."""
    cdef uint32_t id = x.root
    cdef zsw_extent *node
    if room_of(s, id) < pages:
        return 0
    while True:
        node = at(s, id)
        if room_of(s, node.left) >= pages:
            id = node.left
        elif node.unit == EXTENT_FREE and node.pages >= pages:
            return id
        else:
            id = node.right


cdef void unite(zsw_slab *s, zsw_extents *x, uint32_t a, uint32_t b) noexcept nogil:
    """Makes one of two neighbours if they are of one kind."""
    cdef zsw_extent *first
    if a == 0 or b == 0 or at(s, a).unit != at(s, b).unit or at(s, a).unit == LEAVING:
        return
    first = at(s, a)
    x.root = without(s, x.root, at(s, b).start)
    first.pages += at(s, b).pages
    renew(s, x.root, first.start)
    slab_give(s, &b, 1)


cdef void settle(zsw_slab *s, zsw_extents *x, uint32_t id) noexcept nogil:
    """A node has become of another kind: its neighbours may be of that."""
    cdef zsw_extent *node = at(s, id)
    cdef uint64_t start = node.start, end = start + node.pages
    renew(s, x.root, start)
    unite(s, x, id, find(s, x, end) if end < ALL_PAGES else 0)
    unite(s, x, find(s, x, start - 1) if start else 0, id)


cdef bint take_nodes(zsw_slab *s, uint32_t *ids, uint32_t count) noexcept nogil:
    """All or none."""
    cdef uint32_t got
    if count == 0:
        return True
    got = slab_take(s, ids, count) if fault(Site.EXTENT) == 0 else 0
    if got == count:
        return True
    slab_give(s, ids, got)
    return False


# ---- extents -------------------------------------------------------------------------------------


cdef int extents_take(zsw_slab *s, zsw_extents *x, uint64_t pages, uint64_t limit,
                      uint64_t *offset) noexcept nogil:
    """Hands out the first free span of so many pages.  -ENOSPC when none ends at `limit` or before,
    or -ENOMEM; then nothing has changed."""
    cdef uint32_t id, before, fresh = 0
    cdef zsw_extent *node
    if x.root == 0:
        if not take_nodes(s, &fresh, 1):
            return -ENOMEM
        insert(s, x, fresh, 0, ALL_PAGES, EXTENT_FREE)
    id = first_fit(s, x, pages)
    if id == 0 or at(s, id).start + pages > limit:
        return -ENOSPC
    node = at(s, id)
    if node.pages == pages:
        offset[0] = node.start
        node.unit = pages
        settle(s, x, id)
        return 0
    before = find(s, x, node.start - 1) if node.start else 0
    if before != 0 and at(s, before).unit != pages:
        before = 0
    if before == 0 and not take_nodes(s, &fresh, 1):
        return -ENOMEM
    offset[0] = node.start
    # It keeps its place in the tree: what lies before it ends where it begins now.
    node.start += pages
    node.pages -= pages
    renew(s, x.root, node.start)
    if before != 0:
        at(s, before).pages += pages
    else:
        insert(s, x, fresh, offset[0], pages, pages)
    return 0


cdef int extents_leave(zsw_slab *s, zsw_extents *x, uint64_t offset,
                       uint64_t *pages) noexcept nogil:
    """An extent is about to be free: it is nobody's from now on, and handed out to nobody before
    extents_give.  -EINVAL when none begins there, or -ENOMEM; then nothing has changed."""
    cdef uint32_t fresh[2]
    cdef uint32_t id = find(s, x, offset), needed
    cdef zsw_extent *node
    cdef uint64_t unit, end
    if id == 0:
        return -EINVAL
    node = at(s, id)
    unit, end = node.unit, node.start + node.pages
    if unit == EXTENT_FREE or unit == LEAVING or (offset - node.start) % unit != 0:
        return -EINVAL
    needed = (offset > node.start) + (offset + unit < end)
    if not take_nodes(s, fresh, needed):
        return -ENOMEM
    pages[0] = unit
    if offset + unit < end:
        needed -= 1
        node.pages = offset + unit - node.start
        insert(s, x, fresh[needed], offset + unit, end - offset - unit, unit)
    if offset > node.start:
        node.pages = offset - node.start
        insert(s, x, fresh[0], offset, unit, LEAVING)
    else:
        node.unit = LEAVING
    return 0


cdef void extents_give(zsw_slab *s, zsw_extents *x, uint64_t offset) noexcept nogil:
    """An extent that was leaving is free, unless all have gone meanwhile."""
    cdef uint32_t id = find(s, x, offset)
    if id == 0 or at(s, id).start != offset or at(s, id).unit != LEAVING:
        return
    at(s, id).unit = EXTENT_FREE
    settle(s, x, id)


cdef void clear_tree(zsw_slab *s, uint32_t id) noexcept nogil:
    if id:
        clear_tree(s, at(s, id).left)
        clear_tree(s, at(s, id).right)
        slab_give(s, &id, 1)


cdef void extents_clear(zsw_slab *s, zsw_extents *x) noexcept nogil:
    """Nothing is handed out any more."""
    clear_tree(s, x.root)
    x.root = 0


cdef int check_tree(zsw_slab *s, uint32_t id, uint64_t *claims, uint64_t *next,
                    uint64_t *unit) noexcept nogil:
    """In order: `next` is where the next node must begin, `unit` that of the one before."""
    cdef zsw_extent *node
    cdef int rc
    if id == 0:
        return 0
    rc = slab_check_claim(s, claims, id)
    if rc != 0:
        return rc
    node = at(s, id)
    if (node.left and priority(node.left) > priority(id)
            or node.right and priority(node.right) > priority(id)):
        return -31
    if node.room != max(node.pages if node.unit == EXTENT_FREE else 0,
                        max(room_of(s, node.left), room_of(s, node.right))):
        return -32
    rc = check_tree(s, node.left, claims, next, unit)
    if rc != 0:
        return rc
    if node.start != next[0] or node.pages == 0 or node.pages > ALL_PAGES - node.start:
        return -33
    if node.unit == LEAVING or node.unit != EXTENT_FREE and node.pages % node.unit != 0:
        return -34
    if node.unit == unit[0]:
        return -35
    next[0], unit[0] = node.start + node.pages, node.unit
    return check_tree(s, node.right, claims, next, unit)


cdef int extents_check(zsw_slab *s, zsw_extents *x, uint64_t *claims) noexcept nogil:
    """0, or a negative number that names what does not agree.  `claims` are of slab_check_begin.
    At rest."""
    cdef uint64_t next = 0, unit = LEAVING
    cdef int rc = check_tree(s, x.root, claims, &next, &unit)
    if rc != 0 or x.root == 0:
        return rc
    return 0 if next == ALL_PAGES and unit == EXTENT_FREE else -36
