"""What validate() can find, in words.  The numbers are those that the checks in the .pyx files
return."""

from __future__ import annotations

# {} is the place: of an entry, a pool or an area its number, of a page its offset.
ENGINE = {
    -101: "area {}: it is not where its number says, or holds pages without being online",
    -102: "entry {}: it says that it is indexed, and no slot names it",
    -103: "entry {}: it names another place than the slot that names it",
    -104: "entry {}: it has other references than the index's own",
    -105: "entry {}: its pool does not exist",
    -106: "the counter of pages in backing stores is not their number",
    -107: "entry {}: it should be in the LRU and has no stamp, or the other way round",
    -108: "entry {}: its stamp of the LRU is none, or older than one can be",
    -109: "pool {}: it counts other entries than there are, or its allocator other objects",
    -110: "the counters of stored, same-filled, incompressible pages or payload are not what the "
    "entries add up to",
    -111: "offset {}: a call that has ended left its slot in transit or empty",
    -112: "entry {}: there are more entries than the slab has handed out",
    -113: "entry {}: its object does not live, or is shorter than the entry says",
    -114: "offset {}: it is in the backing store of an area that has none",
    -115: "the count of areas with a backing store is wrong",
    -116: "entry {}: spare with a worker, and indexed, free or spare with another as well",
    -117: "object {:#x}: two entries own it",
    -119: "reclaim: a store that has left is still at the gate, or the limit is near elsewhere",
    -125: "budget: what is counted as taken is not what is",
    -121: "streams: a call that has ended still copies from a window",
    -120: "offset {}: it is said to be in a backing store as well, and cannot be",
    -122: "area {}: its shards count other pages or payload than they hold",
    -123: "area {}: what its quota goes by is not the payload of its pages",
    -118: "pool {}: it is not where its number says, or somebody holds it still",
}
INDEX = {
    -20: "shard: the table does not find it by its number, or it belongs elsewhere",
    -21: "run: its shard, its number or its bitmap is wrong",
    -22: "array: it is smaller than the bitmap in front of it says",
    -24: "shard: its count of pages is not its runs'",
    -25: "area's table: it counts other shards than it holds",
    -26: "shard: it was removed, and the table has it still",
    -27: "removed shard: it is linked wrongly",
    -28: "removed shard: it is not empty",
    -37: "run: it has lengths of values and its area none, or the other way round",
    -30: "run: it has checksums and the index keeps none, or the other way round",
}
EXTENTS = {
    -31: "area {}: its extents' tree is no heap",
    -32: "area {}: an extent's longest free span is not that of the tree under it",
    -33: "area {}: an extent does not begin where the one before it ends, or is too long",
    -34: "area {}: an extent was left half freed, or its span is no multiple of it",
    -35: "area {}: spans of one kind lie side by side",
    -36: "area {}: its extents do not end with free offsets up to the last there is",
}
SLAB = {
    -1: "slab: a free list leads outside what was handed out, or in a circle",
    -2: "slab: used, free and untouched items of a block do not add up",
    -3: "slab: the list of blocks with room is linked wrongly",
    -4: "slab: the lists of blocks with room are not those that have room",
    -5: "slab: its totals are not what its blocks add up to",
    -6: "slab: a block whose memory was given back is not empty",
    -7: "slab: the item was never handed out",
    -8: "slab: the item is free, or has another owner",
    -9: "slab: an item is neither free nor anybody's",
    -10: "slab: readers go by another place of a block than its own",
    -12: "no memory to check with",
}
ARENA = {
    -201: "arena: a span's length makes no sense",
    -202: "arena: a span's region does not exist",
    -203: "arena: a page is free and in use",
    -204: "arena: a page is in use twice",
    -205: "arena: a span does not begin where its user thinks",
    -206: "arena: a page is neither free nor in a span",
    -207: "arena: a region's count of free pages is wrong",
    -208: "arena: a region has a longer free span than its bin says",
    -209: "arena: the mask of bins is wrong",
    -210: "arena: a bin's list is linked wrongly",
    -211: "arena: a region without spans is in a bin",
    -212: "arena: the spare region is not free",
    -213: "arena: a region is in no list",
    -214: "arena: an idle span has no committed page",
    -215: "arena: the count of idle pages is wrong",
    -216: "arena: the total is not the committed and idle pages",
    -217: "arena: the count of lone pages is wrong",
}
BUDDIES = {
    -100: "an object was freed twice",
    -101: "page: it is empty",
    -102: "page: a middle object without a place, or a place without one",
    -103: "page: it has another object beside one that takes it whole",
    -104: "page: its middle and last objects overlap",
    -105: "page: its first object reaches into the next",
    -106: "page: the list by age is linked wrongly",
    -107: "the list by age ends elsewhere, or has other pages than there are",
    -108: "the counts of objects or chunks are not what the pages add up to",
    -109: "other pages are in use in the arena",
    -110: "the mask of rooms is wrong",
    -111: "page: the list by room is linked wrongly",
    -112: "page: it is listed under a room that it has not",
    -113: "a list by room ends elsewhere",
    -114: "a page with room is in no list",
    -115: "other descriptors are in use than pages",
    -121: "cell: it names no page",
    -122: "cell: it names no object",
    -123: "cell: its object begins elsewhere",
    -124: "cell: its object has another cell as well",
    -125: "cell: its object is on another page while its own has objects",
    -126: "descriptor: without a page and with more than one cell in use",
    -127: "page: foreign objects beside one that takes it whole",
    -128: "page: an object without a cell, or the count of foreign ones is wrong",
    -129: "the counts of lone objects are wrong",
    -130: "the count of gaps is wrong",
    -131: "the count of descriptors without a page is wrong",
}
ZSMALLOC = {
    -100: "an object was freed twice",
    -101: "zspage: its fullness group is linked wrongly, or is another",
    -102: "zspage: its class, slot size or length is not its class's",
    -103: "zspage: it is in the group of another fullness, or is empty",
    -104: "zspage: an object lies on a page that is not committed",
    -105: "zspage: its count of objects is not its bitmap's",
    -106: "zspage: a slot is free that does not exist",
    -107: "zspage: it should be committed whole",
    -110: "class: the mask of groups is wrong",
    -111: "class: a group's list leads elsewhere, or has more zspages than there are",
    -112: "class: its counts of zspages or objects are wrong",
    -113: "other zspages are in use in the slab or the arena",
}
ZPOOLS = {"zsmalloc": ZSMALLOC, "zbud": BUDDIES, "z3fold": BUDDIES}


def describe(number: int, place: int = 0, zpool: str | None = None) -> str:
    """Say what a check found: its number, where, and the allocator when it was one of its own
    checks."""
    tables = [ENGINE, INDEX, EXTENTS] if zpool is None else [ZPOOLS.get(zpool, {}), ARENA]
    for table in (*tables, SLAB):
        if number in table:
            where = "" if zpool is None else f"{zpool} of pool {place}: "
            return f"{where}{table[number].format(place)} ({number})"
    return f"check {number} of {zpool or 'the engine'} failed at {place}"
