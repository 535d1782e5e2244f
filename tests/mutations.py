"""Mutations: bugs that could really be made, planted one at a time.  The tests that are named with
each must fail.

    python tests/mutations.py              all of them, an hour on an idle machine
    python tests/mutations.py WORD ...     those whose names have one of the words in them
    python tests/mutations.py --list       their names; exit code 1 when one fits no more

Run it in a checkout that is built in place: each mutation gets a copy of it, in which what depends
on the changed file is built anew.  A crash and a hang are failures like any other.  The exit code
is 0 when every mutation was caught.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 240  # for the tests of one mutation; a test that hangs ends after a quarter of that
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".hypothesis", "temp.*", "__pycache__", ".*_cache", ".venv", "dist"
)


class Mutation(NamedTuple):
    """A bug: in `file`, below zswap_core, each of `edits` replaces a text that is there once.
    `tests` are files or test ids."""

    name: str
    file: str
    edits: tuple
    tests: str


def bug(name, file, *texts, tests):
    """A mutation whose edits are given as old, new, old, new ..."""
    return Mutation(name, file, tuple(zip(texts[::2], texts[1::2], strict=True)), tests)


MUTATIONS = [
    # ---- locks
    bug(
        "a store does not lock its shard",
        "index.pyx",
        "        zsw_lock(&shard.lock)\n        if zsw_likely(zsw_peek_u32(&shard.next) == 0):",
        "        if zsw_likely(zsw_peek_u32(&shard.next) == 0):",
        tests="threads stress",
    ),
    bug(
        "a range is invalidated without the shard's lock",
        "invalidate.pyx",
        "        zsw_lock(&shard.lock)\n        found = shard_collect",
        "        found = shard_collect",
        tests="threads writeback stress",
    ),
    bug(
        "a batch publishes without the shard's lock",
        "store.pyx",
        "    if zsw_unlikely(zsw_load_u32(&area.online) != AREA_ONLINE):\n        rc = ",
        "    zsw_unlock(&shard.lock)\n"
        "    if zsw_unlikely(zsw_load_u32(&area.online) != AREA_ONLINE):\n        rc = ",
        "                entries += 1\n    zsw_unlock(&shard.lock)\n",
        "                entries += 1\n",
        tests="threads stress",
    ),
    bug(
        "the shard is let go before the new entry is in it",
        "store.pyx",
        "    old = fill_slot(e, w, shard, slot, pos, id, sum)\n    zsw_unlock(&shard.lock)\n",
        "    zsw_unlock(&shard.lock)\n    old = fill_slot(e, w, shard, slot, pos, id, sum)\n",
        tests="threads stress",
    ),
    bug(
        "a class of zsmalloc is not locked",
        "zpools/zsmalloc.pyx",
        "    zsw_lock(&cls.lock)\n    id = fullest_with_room(cls)\n    if",
        "    id = fullest_with_room(cls)\n    if",
        tests="zsmalloc threads zpool_contract",
    ),
    bug(
        "a slab hands out items without its lock",
        "slab.pyx",
        "    zsw_lock(&s.lock)\n    before = s.touched_bytes\n    while got < count:",
        "    before = s.touched_bytes\n    while got < count:",
        tests="slab threads",
    ),
    bug(
        "a slab's memory is not counted towards the budget",
        "slab.pyx",
        "    meter_move(s.meter, s.touched_bytes - before)\n",
        "",
        tests="budget",
    ),
    bug(
        "pages of one word come in whatever the budget is",
        "budget.pxd",
        "    return zsw_peek_u32(&e.budget.over) == 0",
        "    return True",
        tests="budget",
    ),
    bug(
        "the budget has no room set aside for buffers",
        "budget.pyx",
        "        aside += buffers_share(e) - min(buffers_share(e), buffers)\n",
        "",
        tests="budget",
    ),
    bug(
        "writeback's buffers stay for good",
        "maintenance.pyx",
        "        flights_rest(e)\n",
        "        pass\n",
        tests="budget",
    ),
    bug(
        "a load finds its entry without the shard's lock",
        "load.pyx",
        "    while shard != NULL:\n        zsw_lock(&shard.lock)",
        "    while shard != NULL:",
        tests="threads stress",
    ),
    bug(
        "z3fold is not locked",
        "zpools/z3fold.pyx",
        "    zsw_lock(&pool.buddies.lock)\n    id = best_fit(&pool.buddies, chunks, 0)",
        "    id = best_fit(&pool.buddies, chunks, 0)",
        tests="z3fold zpool_contract",
    ),
    bug(
        "zbud frees without its lock",
        "zpools/zbud.pyx",
        "    zsw_lock(&pool.lock)\n    buddy = buddy_of(page, start)",
        "    buddy = buddy_of(page, start)",
        tests="zbud zpool_contract",
    ),
    bug(
        "the arena hands out spans without its lock",
        "zpools/arena.pyx",
        "    zsw_lock(&arena.lock)\n    rc = take_span(arena, pages, span)",
        "    rc = take_span(arena, pages, span)",
        tests="arena zsmalloc threads zpool_contract",
    ),
    bug(
        "pages that do not compress are handed out without a lock",
        "zpools/arena.pyx",
        "    cdef zsw_span span\n    zsw_lock(&arena.lock)\n    while got < count",
        "    cdef zsw_span span\n    while got < count",
        tests="zsmalloc threads stress",
    ),
    bug(
        "a page that is freed twice is given back twice",
        "zpools/zsmalloc.pyx",
        "        if zsw_unlikely(not arena_is_lone(&pool.arena, <uint32_t> handles[i])):",
        "        if False:",
        tests="zsmalloc",
    ),
    bug(
        "a batch keeps the places that it had no use for",
        "store.pyx",
        "    magazine_expect(w, 0)\n    magazine_empty(w)\n",
        "    magazine_expect(w, 0)\n",
        tests="batch",
    ),
    bug(
        "places are of a pool that is not current any more",
        "magazine.pyx",
        "    if m.next != m.end and m.pool != pool:",
        "    if False:",
        tests="batch",
    ),
    bug(
        "places of a batch stay while another page is refused",
        "store.pyx",
        "    freed = magazine_empty(w)\n",
        "    freed = False\n",
        tests="batch",
    ),
    bug(
        "two calls may add the same shard",
        "index.pyx",
        "    zsw_lock(&area.grow)\n    shard = area_shard(ix, area, number)\n",
        "    shard = area_shard(ix, area, number)\n",
        tests="index threads stress",
    ),
    # ---- references
    bug(
        "references are dropped without an atomic",
        "entry.pxd",
        "    return (zsw_add_u32(&entry.state, <uint32_t> -1) & ENTRY_REFS) == 0",
        "    state = zsw_peek_u32(&entry.state) - 1\n    zsw_poke_u32(&entry.state, state)\n    "
        "return (state & ENTRY_REFS) == 0",
        tests="threads stress",
    ),
    bug(
        "a load keeps its reference",
        "load.pyx",
        "    if not held.same:\n        put_entry(e, w, held.id)\n",
        "",
        tests="engine",
    ),
    bug(
        "a load takes no reference",
        "load.pyx",
        "    if not held.same:\n        put_entry(e, w, held.id)\n",
        "",
        "    cdef int status = read_entry(e, w, held, page)\n",
        "    cdef int status\n    if not held.same:\n        put_entry(e, w, held.id)\n    "
        "status = read_entry(e, w, held, page)\n",
        tests="threads",
    ),
    bug(
        "a batch takes pages of one shard for those of another",
        "load.pyx",
        "    while taken < pages and offsets[taken] >> SHARD_SHIFT == number:",
        "    while taken < pages:",
        tests="engine",
    ),
    bug(
        "exclusive loads of a batch begin before those before them are over",
        "load.pyx",
        "        taken = (0 if zsw_unlikely(is_on(&e.params, Flag.exclusive_loads))\n",
        "        taken = (0 if zsw_unlikely(False)\n",
        tests="engine",
    ),
    bug(
        "a victim is not pinned",
        "writeback.pyx",
        "is_aloft(e.writeback, victim.area, victim.offset) and entry_pin(entry)",
        "is_aloft(e.writeback, victim.area, victim.offset)",
        tests="writeback",
    ),
    bug(
        "recompression moves a page that is being read",
        "recompress.pyx",
        "(zsw_load_u32(&entry.state) & ENTRY_REFS) == 2",
        "(zsw_load_u32(&entry.state) & ENTRY_REFS) >= 2",
        tests="pools",
    ),
    bug(
        "compaction moves a page that is being read",
        "compact.pyx",
        "(zsw_load_u32(&entry.state) & (ENTRY_REFS | ENTRY_SAME)) == 1:",
        "(zsw_load_u32(&entry.state) & ENTRY_SAME) == 0:",
        tests="threads",
    ),
    bug(
        "a failed store leaks its entry",
        "store.pyx",
        "    free_entry(e, w, id)\n    refund(area, paid)\n",
        "    refund(area, paid)\n",
        tests="faults engine",
    ),
    # ---- stores of a batch
    bug(
        "a batch publishes over a page in transit",
        "store.pyx",
        "    if zsw_unlikely(old[0] == IN_TRANSIT) or must_discard(e, area, old[0], pos):\n",
        "    if must_discard(e, area, old[0], pos):\n",
        tests="batch",
    ),
    bug(
        "a batch leaves a stale page in a store that should forget it",
        "store.pyx",
        "    if zsw_unlikely(old[0] == IN_TRANSIT) or must_discard(e, area, old[0], pos):\n",
        "    if zsw_unlikely(old[0] == IN_TRANSIT):\n",
        tests="batch",
    ),
    bug(
        "a batch publishes what an area has no room for",
        "store.pyx",
        "    elif zsw_unlikely(shard.tallied) and not charge(area, slot_bytes(e, id),\n"
        "                                                    slot_bytes(e, old[0])):\n"
        "        rc = ALONE\n",
        "",
        tests="batch",
    ),
    bug(
        "a batch fills an area that went away",
        "store.pyx",
        "    if zsw_unlikely(zsw_load_u32(&area.online) != AREA_ONLINE):\n        rc = ",
        "    if False:\n        rc = ",
        tests="batch",
    ),
    bug(
        "pages of a batch are of one age",
        "store.pyx",
        "    if ready.id != 0:\n        lru_pass(&e.lru, &e.entries, &w.lru_left)\n",
        "",
        tests="batch",
    ),
    bug(
        "a refused page goes before those of its batch that came before it",
        "store.pyx",
        "        publish_all(b)                          # one of them may be of the same offset\n",
        "",
        tests="batch",
    ),
    bug(
        "a page of a batch is overwritten by one that was refused before it",
        "store.pyx",
        "        if zsw_unlikely(b.refusals != 0) and is_refused(b, ready.offset):\n"
        "            write_refused(b)\n",
        "",
        tests="batch",
    ),
    bug(
        "a batch publishes pages of one shard in another",
        "store.pyx",
        " and n < pages and ready[n].offset >> SHARD_SHIFT == number:\n",
        " and n < pages:\n",
        tests="batch",
    ),
    # ---- stores, loads, invalidations
    bug(
        "a refused store leaves the stale page",
        "store.pyx",
        "        invalidate_area(e, w, area, offset, offset)     # what it held is stale now",
        "        pass",
        tests="engine model",
    ),
    bug(
        "a refused replacement takes the old page with it",
        "store.pyx",
        "    if area == NULL or area.backing != NULL:\n",
        "    if True:\n",
        tests="c_api",
    ),
    bug(
        "what is found at an entry's place is taken for the entry",
        "slots.pyx",
        "    if slot != NULL and slot[0] == id:",
        "    if slot != NULL:",
        tests="threads writeback",
    ),
    bug(
        "pop gives a page that was replaced meanwhile",
        "load.pyx",
        "        status = AGAIN\n    if not held.same:",
        "        pass\n    if not held.same:",
        tests="mapping",
    ),
    bug(
        "shards at equal distances go on from one slot",
        "index.pxd",
        "        return (slot ^ slot >> 32) & table.mask\n",
        "        return number + 1 & table.mask\n",
        tests="index",
    ),
    bug(
        "setdefault replaces a page",
        "slots.pyx",
        "            if zsw_unlikely(only != NULL) and not is_still(",
        "            if False and not is_still(",
        tests="mapping",
    ),
    bug(
        "a refused setdefault frees the page of others",
        "store.pyx",
        "        if only == NULL:\n",
        "        if True:\n",
        tests="mapping parts",
    ),
    bug(
        "an area that is drained takes pages in to its end",
        "area.pyx",
        "        zsw_store_u32(&area.online, AREA_SEALED if sealed else AREA_ONLINE)",
        "        pass",
        tests="mapping",
    ),
    bug(
        "a buffer of objects is known by its dtype alone",
        "buffers.pyx",
        '        elif format[0] == c"O" and not in_name:',
        "        elif False:",
        tests="api",
    ),
    bug(
        "a range ends one page early in its last shard",
        "invalidate.pyx",
        "            hi = last & (SHARD_PAGES - 1) if shard.number == last_shard else SHARD_PAGES "
        "- 1",
        "            hi = last & (SHARD_PAGES - 2) if shard.number == last_shard else SHARD_PAGES "
        "- 1",
        tests="index engine",
    ),
    bug(
        "the end of a page does not count for same-filled",
        "samefilled.pxd",
        "memcmp(page, page + 8, size - 8) != 0",
        "memcmp(page, page + 8, size - 24) != 0",
        tests="samefilled",
    ),
    bug(
        "the length of a decompressed page is not looked at",
        "objects.pyx",
        "        if size <= 0 or not zsw_peek_u32(&e.params.trim_zeros):",
        "        if size <= 0:",
        tests="engine api compressors damage",
    ),
    bug(
        "what a page ends in is not made zeros again",
        "objects.pyx",
        "            memset(page + size, 0, fill - <size_t> size)",
        "            pass",
        tests="engine",
    ),
    bug(
        "an extent is free before its pages are gone",
        "extents.pyx",
        "        insert(s, x, fresh[0], offset, unit, LEAVING)",
        "        insert(s, x, fresh[0], offset, unit, EXTENT_FREE)",
        tests="extents",
    ),
    bug(
        "freed extents do not join",
        "extents.pyx",
        "    unite(s, x, id, find(s, x, end) if end < ALL_PAGES else 0)",
        "    pass",
        tests="extents",
    ),
    bug(
        "the limit is off by one",
        "pool.pyx",
        "    return pool_pages(e) >= pages",
        "    return pool_pages(e) > pages",
        tests="engine threads",
    ),
    bug(
        "the accept threshold is forgotten",
        "pool.pyx",
        "        return Status.ACCEPT_THRESHOLD\n",
        "        pass\n",
        tests="engine shrinker",
    ),
    bug(
        "a page that goes stays in the LRU",
        "slots.pxd",
        "    if is_entry(old):\n        lru_leave(&e.entries, old)\n",
        "",
        tests="engine",
    ),
    bug(
        "stamps of the LRU are not swept",
        "lru.pyx",
        "        sweep(lru, entries)\n",
        "        pass\n",
        tests="lru",
    ),
    bug(
        "of the LRU's pages the youngest go first",
        "lru.pyx",
        "<uint64_t> (LRU_TIME - age) << 32 | id",
        "<uint64_t> age << 32 | id",
        tests="lru writeback",
    ),
    # ---- counters
    bug(
        "compressed bytes are not counted down",
        "entries.pyx",
        "        count(w.counters, Counter.compressed_bytes, -<int64_t> length)\n",
        "",
        tests="engine",
    ),
    bug(
        "many pages at once are not counted down",
        "entries.pyx",
        "    count(w.counters, Counter.stored_pages, -<int64_t> dead)\n",
        "",
        tests="engine",
    ),
    bug(
        "pages that leave the store are not counted down",
        "transit.pyx",
        "    count(w.counters, Counter.backed_pages, -<int64_t> n)",
        "    pass",
        tests="writeback",
    ),
    bug(
        "the writeback limit is not counted down",
        "writeback.pyx",
        "    spend(e, written)\n",
        "",
        tests="writeback",
    ),
    # ---- index and slabs
    bug(
        "an array of the index shrinks too far",
        "index.pyx",
        "    while to and count <= kind_capacity(to - 1) // 2:",
        "    while to and count <= kind_capacity(to - 1) * 2:",
        tests="index engine",
    ),
    bug(
        "garbage of the index does not wait for calls",
        "worker.pyx",
        "        if not worker_ended(w, which):\n            return False\n",
        "",
        tests="index pools threads",
    ),
    bug(
        "a store fills a shard that has left the table",
        "index.pyx",
        "        if zsw_likely(zsw_peek_u32(&shard.next) == 0):\n            return shard",
        "        if zsw_likely(zsw_peek_u32(&shard.next) == 0 or shard != NULL):\n            "
        "return shard",
        tests="index threads memory stress",
    ),
    bug(
        "a block that went back keeps its list of free items",
        "slab.pyx",
        "    c.bump = reserved(number)\n    c.free_head = 0\n",
        "    c.bump = reserved(number)\n",
        tests="slab",
    ),
    bug(
        "a slab's item is one of 0",
        "slab.pyx",
        "    return number == 0\n",
        "    return 0\n",
        tests="slab",
    ),
    bug(
        "a table of blocks takes the place of another before it knows the blocks",
        "slab.pyx",
        "memcpy(fresh.bases, old.bases, old.capacity * sizeof(uint8_t *))",
        "memcpy(fresh.bases, old.bases, 0)",
        tests="slab",
    ),
    bug(
        "a forked child loses the table of blocks",
        "slab.pyx",
        "zsw_map_as(bytes, s.mapping & ~ZSW_MAP_NO_FORK)",
        "zsw_map_as(bytes, s.mapping)",
        tests="fork",
    ),
    bug(
        "checksums outlive their pages",
        "index.pyx",
        "            sums[zsw_ctz(gone)] = 0\n",
        "            pass\n",
        tests="wipe",
    ),
    bug(
        "a forked child keeps the swap file",
        "backings/file.pyx",
        "    reader_forget(&f.reader)\n    if f.fd >= 0:\n        close(f.fd)\n",
        "    reader_forget(&f.reader)\n",
        tests="mappings",
    ),
    bug(
        "a forked child keeps the swap file's rings",
        "backings/file.pyx",
        "    reader_forget(&f.reader)\n",
        "",
        tests="reads",
    ),
    bug(
        "a page that is stored anew passes for what the store has",
        "store.pyx",
        "        set_clean(&e.index, pos, False)         # what the store has is stale now\n",
        "        pass\n",
        tests="promote writeback_model",
    ),
    bug(
        "a page that is freed stays in the store if it was in the pool as well",
        "invalidate.pyx",
        "    if not is_clean(&e.index, pos):\n        return False\n",
        "    return False\n",
        tests="promote",
    ),
    bug(
        "a page becomes resident though it has changed",
        "promote.pyx",
        "    if (slot == NULL or slot[0] != seen or ",
        "    if (slot == NULL or not slot[0] or ",
        tests="promote",
    ),
    bug(
        "every read is a second one",
        "promote.pyx",
        "            and <uint32_t> (now - before) <= window)",
        "            or before == 0)",
        tests="promote",
    ),
    bug(
        "a range goes on behind its end",
        "writeback.pyx",
        "engine_next_held(e, type, first) and first[0] <= last:",
        "engine_next_held(e, type, first):",
        tests="walk",
    ),
    bug(
        "a window outlives the shard whose writes it goes by",
        "streams.pyx",
        "stream.freed != shards_freed(&e.index)",
        "False",
        tests="read_ahead",
    ),
    bug(
        "a window is anybody's who has a page of that number of writes",
        "streams.pyx",
        " or parked.shard != shard",
        "",
        tests="read_ahead",
    ),
    bug(
        "a window gives a page that was stored anew since",
        "streams.pyx",
        " or parked.seen != seen",
        "",
        tests="read_ahead",
    ),
    bug(
        "a window is kept for ever by who has copied from it",
        "streams.pyx",
        "    zsw_add_u32(&stream.readers, <uint32_t> -1)\n",
        "",
        tests="read_ahead",
    ),
    bug(
        "what was read together is believed though it was written anew meanwhile",
        "parking.pyx",
        "slot == NULL or slot[0] != parked.seen",
        "slot == NULL",
        tests="reads read_ahead walk",
    ),
    bug(
        "what is read from the store together is not checked",
        "parking.pyx",
        "    if e.index.checksums and sum_at(&e.index, pos)[0] != sum:\n",
        "    if False:\n",
        tests="reads read_ahead walk",
    ),
    bug(
        "a buffer of another size is taken for a batch",
        "parking.pyx",
        "    if spare and spare_bytes(e, spare) == parking.size:\n",
        "    if spare:\n",
        tests="reads",
    ),
    bug(
        "a child goes on with the ring of its parent",
        "backings/transfer.pyx",
        "            if is_gone(ring):\n                return False\n",
        "",
        tests="reads",
    ),
    bug(
        "a ring that fails is left with reads on their way",
        "backings/transfer.pyx",
        "    while flying or seen < ended or good and next < n:\n",
        "    while seen < ended or good and (flying or next < n):\n",
        tests="reads",
    ),
    bug(
        "a short answer of the ring passes for a whole one",
        "backings/transfer.pyx",
        "    if r.size == 0:\n        r.rc = 0\n    return r.size != 0\n",
        "    r.rc = 0\n    return False\n",
        tests="reads swapfile",
    ),
    # ---- allocators, compaction
    bug(
        "a class of zsmalloc is one step too small",
        "zpools/zsmalloc.pyx",
        "        step = (size - pool.size_min + (<size_t> 1 << pool.step_shift) - 1) >> "
        "pool.step_shift",
        "        step = (size - pool.size_min) >> pool.step_shift",
        tests="zsmalloc zpool_contract",
    ),
    bug(
        "an object in zbud may be one chunk too long",
        "zpools/zbud.pyx",
        "        start = CHUNKS - chunks\n",
        "        start = CHUNKS - chunks + 1\n",
        tests="zbud zpool_contract",
    ),
    bug(
        "an entry keeps the old word when its object moves",
        "compact.pyx",
        "            zsw_poke_u64(&entry.word, word_pack(handle, word_length(word), pool.id))",
        "            pass",
        tests="engine zsmalloc model zpool_contract",
    ),
    bug(
        "an object that moves is one byte short",
        "compact.pyx",
        "word_pack(handle, word_length(word), pool.id)",
        "word_pack(handle, word_length(word) - 1, pool.id)",
        tests="engine zsmalloc model zpool_contract",
    ),
    bug(
        "an emptied pool goes though a store has filled it meanwhile",
        "pool.pyx",
        "            pool.stage = POOL_DRAINING\n            continue\n",
        "            pool.stage = POOL_DRAINING\n",
        tests="threads pools",
    ),
    bug(
        "recompression leaves the old object",
        "recompress.pyx",
        "    source.ops.free(source.zpool, word_handle(old))\n",
        "",
        tests="pools",
    ),
    bug(
        "contexts of a pool that went stay for the next of its number",
        "pool.pyx",
        "        drop_contexts(e, pool)\n",
        "",
        tests="pools meminfo",
    ),
    # ---- writeback
    bug(
        "a flight lands before it is written",
        "flight.pyx",
        "    await_pilot(e)\n    first = 0\n",
        "    first = 0\n",
        tests="writeback swapfile shrinker stress backing_contract",
    ),
    bug(
        "nobody writes a flight that its thread has not begun",
        "flight.pyx",
        "        write_flight(e, wb.aloft)\n    while zsw_load_u32(&wb.turn) == PILOTS:\n",
        "        pass\n    while zsw_load_u32(&wb.turn) == PILOTS:\n",
        tests="faults writeback",
    ),
    bug(
        "a write that failed counts as done",
        "flight.pyx",
        "            flight.rc[i] = rc\n",
        "            flight.rc[i] = 0\n",
        tests="writeback",
    ),
    bug(
        "a page is taken that is on its way already",
        "flight.pyx",
        "            and flight_has(wb.aloft, area, offset))\n",
        "            and False)\n",
        tests="writeback swapfile writeback_model backing_contract",
    ),
    bug(
        "what was written in vain stays in the store",
        "flight.pyx",
        "            area.backing.discard(area.store, flight.offsets + first, vain)\n",
        "            pass\n",
        tests="writeback",
    ),
    bug(
        "a write is not told to readers of the store",
        "flight.pyx",
        "    shard.writes += 1\n    slot[0] = backed(shard.writes)\n",
        "    slot[0] = backed(0)\n",
        tests="writeback writeback_model stress",
    ),
    bug(
        "a reader of the store does not look whether it was overtaken",
        "transit.pyx",
        "    still = slot != NULL and slot[0] == seen\n",
        "    still = slot != NULL and is_backed(slot[0])\n",
        tests="writeback writeback_model stress",
    ),
    bug(
        "a page that is being discarded is not in transit",
        "invalidate.pyx",
        "                slot[0] = IN_TRANSIT\n",
        "                pass\n",
        tests="writeback writeback_model stress",
    ),
    bug(
        "a page that is being written through is not in transit",
        "transit.pyx",
        "    slot[0] = IN_TRANSIT\n    change_slot(e, shard[0], old, 0)",
        "    if not is_entry(old):\n        slot[0] = IN_TRANSIT\n"
        "    change_slot(e, shard[0], old, 0)",
        tests="writeback",
    ),
    bug(
        "a page that an exclusive load drops is not in transit",
        "transit.pyx",
        "        slot[0] = IN_TRANSIT\n    zsw_unlock(&shard.lock)\n    if rc != 0 and",
        "        pass\n    zsw_unlock(&shard.lock)\n    if rc != 0 and",
        tests="writeback writeback_model stress",
    ),
    bug(
        "a page that was loaded gets no other round",
        "writeback.pyx",
        "        if (not idle and zsw_and_u32(&entry.state, ~<uint32_t> ENTRY_REFERENCED)\n"
        "                & ENTRY_REFERENCED):\n            continue\n",
        "",
        tests="writeback",
    ),
    bug(
        "a flight is not written in order",
        "writeback.pyx",
        "    qsort(flight.victims, n, sizeof(zsw_victim), by_place)\n",
        "",
        tests="writeback",
    ),
    bug(
        "a reader of the store that is always overtaken never ends",
        "load.pyx",
        "            if tries < OPTIMISTIC_READS or how & LOAD_NO_WAIT:",
        "            if True:",
        tests="writeback",
    ),
    bug(
        "a page written through inside a write is overwritten by the older",
        "transit.pyx",
        "    lost = not first and in_flight(e, area, offset)",
        "    lost = False",
        tests="writeback",
    ),
    bug(
        "pages lie one place too early in the file",
        "backings/file.pyx",
        "        at = <off_t> ((1 + offsets[i]) * f.page_size)",
        "        at = <off_t> (offsets[i] * f.page_size)",
        tests="swapfile backing_contract",
    ),
    bug(
        "holes are punched one place off",
        "backings/file.pyx",
        "        start = <off_t> (f.page_size + offsets[i] * f.page_size)",
        "        start = <off_t> (f.page_size * 2 + offsets[i] * f.page_size)",
        tests="swapfile backing_contract",
    ),
    bug(
        "a preallocated file keeps the pages that are freed",
        "backings/file.pyx",
        "        if rc != 0:\n            rc = overwrite(f, start, stretch * f.page_size)\n",
        "        if rc != 0 and f.preallocated:\n            rc = 0\n",
        tests="swapfile backing_contract",
    ),
    bug(
        "a segment at the end that cannot be read ends all cleaning",
        "backings/packed.pyx",
        "            if log.taken <= largest(log):\n                return False\n"
        "            victim = emptiest(log, victim)      # then there are holes before it\n",
        "            return False\n",
        tests="cleaning",
    ),
    bug(
        "the shrinker writes back before it looks for holes",
        "maintenance.pyx",
        "    moved[0] = holes - left[0] > pool_pages(e) // share + FEW_HOLES\n",
        "    moved[0] = False\n",
        tests="reclaim",
    ),
    bug(
        "reads are remembered by the middle bits of their hash",
        "promote.pyx",
        "&table[(key >> 32) * (zsw_peek_u64(&e.touches_mask) + 1) >> 32]",
        "&table[key >> 32 & zsw_peek_u64(&e.touches_mask)]",
        tests="promote",
    ),
    bug(
        "cleaning that fails publishes what it did not write",
        "backings/packed.pyx",
        "    if n == 0 or rc != 0:\n        return rc\n    zsw_lock(&log.lock)",
        "    if n == 0:\n        return rc\n    zsw_lock(&log.lock)",
        tests="cleaning",
    ),
    # ---- parts of pages
    bug(
        "a part is stored in place of whatever is held by now",
        "parts.pyx",
        "        status = store_page(e, w, area.type, offset, page, &held)\n",
        "        status = store_page(e, w, area.type, offset, page, NULL)\n",
        tests="parts",
    ),
    bug(
        "a same-filled page that changed is taken for the one that was read",
        "slots.pyx",
        "    return not held.same or entry_same",
        "    return True or entry_same",
        tests="parts",
    ),
    bug(
        "a number of writes is taken for the same of a shard made anew",
        "slots.pyx",
        " or is_backed(id) and shard != held.shard:",
        ":",
        tests="parts",
    ),
    bug(
        "an entry is let go of before its page is replaced",
        "parts.pyx",
        "        status = store_page(e, w, area.type, offset, page, &held)\n        "
        "let_go(e, w, &held)\n",
        "        let_go(e, w, &held)\n        "
        "status = store_page(e, w, area.type, offset, page, &held)\n",
        tests="parts",
    ),
    bug(
        "the page that parts are read from is not wiped",
        "parts.pyx",
        "        memcpy(data, page + at, n)\n    if zsw_unlikely(e.params.wipe_on_free):\n",
        "        memcpy(data, page + at, n)\n    if zsw_unlikely(False):\n",
        tests="wipe",
    ),
    # ---- several buffers at once
    bug(
        "a row of buffers that is refused half way is there in part",
        "vectors.pyx",
        "            drop(e, w, area, made, i)\n            failed[0] = i\n"
        "            return status\n",
        "            v.pages = i\n            break\n",
        tests="vectors",
    ),
    bug(
        "entries that nobody knows are not freed",
        "vectors.pyx",
        "            drop(e, w, area, made, i)\n",
        "",
        tests="vectors",
    ),
    # ---- values
    bug(
        "a value that replaces another of one word keeps its length",
        "store.pyx",
        "    note_page(e, w, shard, pos, sum)\n    return True\n",
        "    if e.index.checksums != 0:\n        sum_at(&e.index, pos)[0] = sum\n    return True\n",
        tests="values",
    ),
    bug(
        "a value that is written through has no length",
        "transit.pyx",
        "            set_value_length(&e.index, pos, w.size)\n",
        "            pass\n",
        tests="values",
    ),
    bug(
        "a value that was read from its store is as long as the one before",
        "transit.pyx",
        "        w.size = value_length(&e.index, pos)\n",
        "        pass\n",
        tests="values",
    ),
    bug(
        "a part is stored beyond the value's end",
        "parts.pyx",
        "        if zsw_unlikely(at + n > w.size):\n            let_go",
        "        if False:\n            let_go",
        tests="values",
    ),
    bug(
        "a value too long for its buffer is freed by the load that finds so",
        "values.pyx",
        "        if how & LOAD_TAKE:\n            n[0]",
        "        if False:\n            n[0]",
        tests="values c_api",
    ),
    bug(
        "an area that is brought online anew takes lengths for what they were",
        "area.pyx",
        "        area_vary(&e.index, area, variable)\n",
        "        area.variable = variable\n",
        tests="values",
    ),
    # ---- who hears of pages that left
    bug(
        "pages that leave are told of within the listener that made them leave",
        "departures.pyx",
        "    if outer != NULL and reserve(",
        "    if False and reserve(",
        tests="departures",
    ),
    bug(
        "a page leaves though there is no memory to note that",
        "departures.pxd",
        "        return pages\n    return 0\n",
        "        return pages\n    return pages\n",
        tests="departures",
    ),
    bug(
        "nobody hears of pages that their store had already",
        "writeback.pyx",
        "        note_departure(w, shard.type, shard.number << SHARD_SHIFT | where)\n",
        "",
        tests="departures",
    ),
    # ---- a memory's pages, pins and budget
    bug(
        "pages leave unprotected",
        "memory/evict.pyx",
        "        if protect(m, first, chosen, pinned, True) == 0:\n",
        "        if fault(Site.MEMORY_PROTECT) == 0:\n",
        tests="tests/core/test_memory.py::test_threads_find_every_page_as_they_left_it",
    ),
    bug(
        "a changed page counts as the one that the engine has",
        "memory/evict.pyx",
        "    held = (word & COPY and sum.low == m.sums[page].low and "
        "sum.high == m.sums[page].high)\n",
        "    held = word & COPY\n",
        tests="tests/core/test_memory.py::test_threads_find_every_page_as_they_left_it",
    ),
    bug(
        "a page that could not be stored counts as one that is",
        "memory/evict.pyx",
        "        word &= ~<uint32_t> COPY\n        held =",
        "        held =",
        tests="tests/core/test_memory.py::test_a_page_that_could_not_be_stored_is_not_known",
    ),
    bug(
        "pinned pages leave",
        "memory/evict.pyx",
        "        if word & PINS:\n            pinned[0] |= bit(i)\n        elif",
        "        if",
        tests="tests/core/test_memory.py::test_pinned_pages_stay_and_may_be_read_by_the_system",
    ),
    bug(
        "the first of two pins counts alone",
        "memory/region.pyx",
        "            if (word - PIN_ONE) & PINS == 0:\n",
        "            if True:\n",
        tests="tests/core/test_memory.py::"
        "test_and_while_others_pin_advise_fork_and_change_the_budget",
    ),
    bug(
        "what could not be pinned stays promised",
        "memory/region.pyx",
        "        zsw_add_u64(&m.pinning, i - pages)\n",
        "",
        tests="tests/core/test_memory.py::"
        "test_what_could_not_be_pinned_takes_no_room_from_other_pins",
    ),
    bug(
        "extents are looked at whose pages are all pinned",
        "memory/evict.pyx",
        "        if zsw_peek_u32(&m.parts[part].here) > zsw_peek_u32(&m.parts[part].pinned):\n",
        "        if zsw_peek_u32(&m.parts[part].here):\n",
        tests="tests/core/test_memory.py::test_what_may_go_is_found_among_what_is_pinned",
    ),
    bug(
        "a memory's engine takes what is left of the pool's limit",
        "memory/room.pyx",
        "    if its != zsw_peek_u64(&m.e.budget.bytes):\n",
        "    if False:\n",
        tests="tests/core/test_memory.py::test_whatever_is_pinned_something_may_go",
    ),
    bug(
        "a budget may be too small for what is pinned",
        "memory/region.pyx",
        "    if budget < before and pins_of(m) > lasting_room(m, budget) // 2:\n",
        "    if False:\n",
        tests="tests/core/test_memory.py::test_a_budget_that_is_too_small_for_what_is_pinned",
    ),
    bug(
        "a budget may be too small for what is allocated",
        "memory/region.pyx",
        "    if m.allocated > limit:\n        rc = -ENOSPC\n",
        "    if False:\n        rc = -ENOSPC\n",
        tests="tests/core/test_memory.py::"
        "test_what_is_kept_about_pages_takes_half_of_the_budget_at_most",
    ),
    # ---- a memory's allocations
    bug(
        "zeros are what an array before has left",
        "memory/allocations.pyx",
        "        elif zeros and kind_of(word_of(m, first + i)) != FRESH:\n",
        "        elif False:\n",
        tests="memory_numpy",
    ),
    bug(
        "what is kept is not counted where the limit is met",
        "memory/allocations.pyx",
        "m.allocated + m.kept_pages <= m.limit - pages",
        "m.allocated <= m.limit - pages",
        tests="memory_numpy",
    ),
    bug(
        "pages stay pinned whose array is gone",
        "memory/allocations.pyx",
        "        if word_of(m, first + i) & PINS:\n            return False\n",
        "        pass\n",
        tests="memory_numpy",
    ),
    bug(
        "what nobody has is compressed when pages have to leave",
        "memory/evict.pyx",
        "release_idle(m, REST), part",
        "0, part",
        tests="memory_numpy",
    ),
    bug(
        "a page that numpy is about to fill is not brought",
        "memory/region.pyx",
        "    if pages > zsw_peek_u64(&m.room) >> BROUGHT_SHIFT:\n",
        "    if True:\n",
        tests="memory_numpy",
    ),
    # ---- system calls on a memory
    bug(
        "what the kernel is to read is not held",
        "memory/io.pyx",
        "    rc = memory_pin(m, first, pages)\n    while",
        "    rc = 0\n    while",
        tests="memory_io",
    ),
    bug(
        "what was held stays pinned",
        "memory/io.pyx",
        "    if piece.memory != NULL:\n",
        "    if False:\n",
        tests="memory_io",
    ),
    bug(
        "a datagram is sent in pieces",
        "include/zswap/io.h",
        "    return type != SOCK_STREAM;\n",
        "    return type < 0;\n",
        tests="memory_io",
    ),
    bug(
        "a read waits for all that it has room for",
        "include/zswap/io.h",
        "    return at >= 0;\n",
        "    return at >= -1;\n",
        tests="memory_io",
    ),
    bug(
        "modules that are loaded later are not looked at",
        "include/zswap/io.h",
        "    if (handle != NULL) zsw_rebind();\n",
        "",
        tests="memory_io",
    ),
    # ---- areas
    bug(
        "an area does not notice that a page went to its store by itself",
        "transit.pyx",
        "        change_slot(e, shard, 0, slot[0])\n",
        "",
        tests="areas",
    ),
    bug(
        "a page that is recompressed weighs what it did",
        "recompress.pyx",
        "                count_slot(e, shard, id, 1)\n",
        "                count_bytes(e, shard, word_length(old))\n",
        "from zswap_core.slots cimport count_slot,",
        "from zswap_core.slots cimport count_bytes, count_slot,",
        tests="areas",
    ),
    bug(
        "a quota counts what is replaced as well",
        "quota.pyx",
        "bytes > frees and used + bytes - frees > quota",
        "used + bytes > quota",
        tests="areas",
    ),
    bug(
        "a refused page leaves an empty slot in its area",
        "store.pyx",
        "                if slot[0] == 0:\n                    shard_erase",
        "                if False:\n                    shard_erase",
        tests="areas",
    ),
    bug(
        "what was paid for several buffers is never given back",
        "vectors.pyx",
        "            refund(area, made[i].paid)\n",
        "            pass\n",
        tests="areas",
    ),
    bug(
        "pages come back from a store whatever the quota",
        "promote.pyx",
        " and not charge(area, slot_bytes(e, id), 0)):",
        " and not charge(area, 0, 0)):",
        tests="areas",
    ),
    bug(
        "the last page ends in what was there before",
        "vectors.pyx",
        "    memset(page + filled, 0, size - filled)\n",
        "",
        tests="vectors",
    ),
    bug(
        "pages that the store did not take leave the others of their row",
        "vectors.pyx",
        "            invalidate_area(e, w, area, first, first + v.pages - 1)\n",
        "",
        tests="vectors",
    ),
    # ---- checksums, secrets
    bug(
        "what the store gives back is not checked",
        "transit.pyx",
        "    damaged = still and rc == 0 and e.index.checksums and sum_at(&e.index, pos)[0] != sum",
        "    damaged = False",
        tests="checksum",
    ),
    bug(
        "what comes out of the pool is not checked",
        "objects.pxd",
        "    if zsw_likely(checksum_of(&e.checksum, data, size) == sum):",
        "    if data != NULL:",
        tests="checksum",
    ),
    bug(
        "a page written through has the sum of the one before",
        "transit.pyx",
        "        if e.index.checksums:\n            sum_at(&e.index, pos)[0] = sum\n",
        "",
        tests="checksum",
    ),
    bug(
        "a same-filled page that changes keeps its sum",
        "store.pyx",
        "    note_page(e, w, shard, pos, sum)\n    return True\n",
        "    if shard.variable:\n        set_value_length(&e.index, pos, w.size)\n"
        "    return True\n",
        tests="checksum",
    ),
    bug(
        "a flight's buffer is not wiped",
        "flight.pyx",
        "    wipe_pages(e, flight, 0, flight.count)\n",
        "",
        tests="wipe",
    ),
    bug(
        "the scratch is not wiped",
        "calls.pyx",
        "        zsw_wipe(w.scratch, w.scratch_size)\n",
        "",
        tests="wipe",
    ),
    bug(
        "a place that an object leaves is not wiped",
        "zpools/zsmalloc.pyx",
        "    arena_vacate(&pool.arena, zs.first + slot * zs.size, cls.payload)\n",
        "",
        tests="wipe",
    ),
    bug(
        "a page that does not compress is not wiped",
        "zpools/zsmalloc.pyx",
        "        arena_vacate(&pool.arena, lone_page(pool, handles[i]), pool.page_size)\n",
        "",
        tests="wipe",
    ),
    bug(
        "the word of a same-filled page stays",
        "entries.pyx",
        "        zsw_poke_u64(&entry.word, 0)\n",
        "        pass\n",
        tests="wipe",
    ),
    bug(
        "all units have one tweak",
        "libraries/ciphers.pyx",
        "        set_tweak(tweak, first + i)",
        "        set_tweak(tweak, 0)",
        tests="encryption",
    ),
    bug(
        "the tweak counts from the start of the request",
        "libraries/ciphers.pyx",
        "        set_tweak(tweak, first + i)",
        "        set_tweak(tweak, i)",
        tests="encryption",
    ),
    bug(
        "a context keeps the key",
        "libraries/ciphers.pyx",
        "    if c.init(context, NULL, NULL, NO_KEY, tweak, encrypting) != 1:\n        good = "
        "False\n",
        "",
        tests="encryption",
    ),
    bug(
        "the key stays when the file is closed",
        "libraries/ciphers.pyx",
        "            zsw_wipe(self.c.key, KEY_BYTES)",
        "            pass",
        tests="encryption",
    ),
    bug(
        "compaction lets go of the shard before it moves the object",
        "compact.pyx",
        "        if (fault(Site.ZPOOL_RELOCATE) == 0\n                and pool.ops.relocate",
        "        zsw_unlock(&shard.lock)\n"
        "        if (fault(Site.ZPOOL_RELOCATE) == 0\n                and pool.ops.relocate",
        "moved = True\n    zsw_unlock(&shard.lock)",
        "moved = True\n    else:\n        zsw_unlock(&shard.lock)",
        tests="tests/core/test_stress.py::test_readers_of_few_pages_beside_compaction",
    ),
    # ---- life
    bug(
        "a forked child may use the engine",
        "engine.pyx",
        "        e.closing = 1\n        e.forked = 1\n",
        "        e.forked = 1\n",
        tests="fork",
    ),
    bug(
        "close does not wait for calls",
        "engine.pyx",
        "        wait_calls(e)\n        requests_stop(e)",
        "        requests_stop(e)",
        tests="threads",
    ),
    bug(
        "a request's page is read from where another's is",
        "submit.pyx",
        "            offsets[i] = group[i].offset\n",
        "            offsets[i] = group[0].offset\n",
        tests="submit",
    ),
    bug(
        "what closing finds in the queue is not completed",
        "submit.pyx",
        "            group[i].status = ZSWAP_NO_MEMORY if rc == -ENOMEM else ZSWAP_CLOSED\n",
        "            group[i].status = 0\n",
        tests="submit",
    ),
    bug(
        "what was touched after the clock was read is the oldest",
        "entry.pxd",
        "    return age if age <= ENTRY_AGE_MAX else 0\n",
        "    return age\n",
        tests="calls",
    ),
    bug(
        "a lowered limit waits for the next store",
        "pool.pyx",
        "    hit_limit(e)\n    # perhaps since before",
        "    # perhaps since before",
        tests="calls",
    ),
    bug(
        "a batch reports how the store failed last, not with its first page",
        "batch.pyx",
        "    if b.error == 0 or at < b.failed_at:\n",
        "    if True:\n",
        tests="calls",
    ),
    bug(
        "a compressor is let go of before its pool is made",
        "binding/engine.pyx",
        "            if (held.calls == 0 and held.compressor",
        "            if (held.compressor",
        tests="calls storm pools",
    ),
    bug(
        "swapoff does not wait for calls that use the store",
        "area.pyx",
        "    wait_calls(e)\n",
        "",
        tests="writeback",
    ),
    bug(
        "a batch goes past its end",
        "batch.pyx",
        "        if end > b.total:\n            end = b.total\n",
        "",
        tests="engine",
    ),
    # ---- lref
    bug(
        "lref's decoder believes the masks",
        "lref/lref_core.h",
        "    if (spread_masks(kept, which, words, has_mask, masks) != n)\n        return -1;\n",
        "    spread_masks(kept, which, words, has_mask, masks);\n",
        tests="lref",
    ),
    bug(
        "lref's decoder refers to what is before the page",
        "lref/lref_core.h",
        "            if (distance > at || distance < 64)",
        "            if (distance < 64)",
        tests="lref",
    ),
    bug(
        "lref's decoder takes a line that is not there yet for a reference",
        "lref/lref_core.h",
        "            if (distance > at || distance < 64)",
        "            if (distance > at)",
        tests="lref",
    ),
    bug(
        "lref's decoder does not look whether new distances belong to lines that have one",
        "lref/lref_core.h",
        "    if ((has_new & ~has_ref) != 0 || n < n_distances + n_words)",
        "    if (n < n_distances + n_words)",
        tests="lref",
    ),
    bug(
        "lref's decoder for AVX-512 refers to what is not there yet, or before the page",
        "lref/lref_avx512.c",
        "    if ((bad & has_ref) != 0)\n        return -1;\n",
        "",
        tests="lref",
    ),
    bug(
        "lref takes the last distance for new where it is not",
        "lref/lref_core.h",
        "        news = -(uint64_t) (count >= lines->limit[i]);\n",
        "        news = -(uint64_t) (count > lines->limit[i]);\n",
        tests="lref",
    ),
    bug(
        "lref forgets the distance that the line before gave",
        "lref/lref_core.h",
        "        last = (near & news) | (last & ~news);\n",
        "        last = near & news ? near : NEAREST;\n",
        tests="lref",
    ),
    bug(
        "lref's table of places is kept from page to page",
        "lref/lref.c",
        "        memset(work, 0, sizeof(*work));\n",
        "",
        tests="lref",
    ),
    bug(
        "one variant of lref takes the last of equals",
        "lref/lref_core.h",
        "distance[j]) << 19 | j << 16 |",
        "distance[j]) << 19 | (7 - j) << 16 |",
        tests="lref",
    ),
    bug(
        "lref writes a piece that does not fit",
        "lref/lref_core.h",
        "count_bits64(mask) + HEAD > (size_t) (end - out))\n            return cap;\n",
        "count_bits64(mask) + HEAD > (size_t) (end - out))\n            (void) 0;\n",
        tests="lref",
    ),
    bug(
        "lref's second opinion counts though it is larger",
        "compressors/lref.pyx",
        "min(cap if size == 0 else <size_t> size - 1, n)",
        "min(cap, n)",
        tests="lref",
    ),
    bug(
        "lref asks for no second opinion where a page does not fit",
        "compressors/lref.pyx",
        "or (size == 0 and cap >= large)",
        "",
        tests="lref",
    ),
    bug(
        '"auto" is lref on any processor',
        "compressors/lref.pyx",
        '("avx512", "avx2", "neon")',
        '("avx512", "avx2", "neon", "sse41", "portable")',
        tests="lref",
    ),
    bug(
        "lref looks before a page",
        "lref/lref_core.h",
        "    lines->full[n] = lines->full[n - 1] | 1;\n",
        "    lines->full[n] = lines->full[n - 1];\n",
        tests="lref",
    ),
    bug(
        "lref believes the sizes of pieces",
        "lref/lref.c",
        "            if (size > n - at)\n                return -1;\n",
        "",
        tests="lref",
    ),
]


def unfit(mutation, root):
    """Why a mutation cannot be made in this tree, or None."""
    text = (root / "zswap_core" / mutation.file).read_text()
    for old, _ in mutation.edits:
        if text.count(old) != 1:
            return f"{mutation.file} has {text.count(old)} times {old!r}"
    return None


def plant(mutation, root):
    """Change the sources."""
    path = root / "zswap_core" / mutation.file
    text = path.read_text()
    for old, new in mutation.edits:
        text = text.replace(old, new)
    path.write_text(text)


def run(command, root, seconds):
    """Exit code, None when it hung, and output."""
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.setdefault("CFLAGS", "-O1")
    environment["ZSWAP_TEST_TIMEOUT"] = str(SECONDS / 4)
    process = subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace",
        start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        return None, process.communicate()[0]
    return process.returncode, output


def path_of(name):
    """The file of tests that has this name."""
    (path,) = ROOT.glob(f"tests/**/test_{name}.py")
    return path.relative_to(ROOT).as_posix()


def verdict(code, output):
    """What pytest's end means: which test caught the bug, None when all passed."""
    if code == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) tests/(.+?)(?: - |$)", output, re.MULTILINE)
    if failed:
        return failed[1]
    frame = re.search(r'File ".*/tests/(test_\w+\.py)", line \d+ in (test_\w+)', output)
    where = f" in {frame[1]}::{frame[2]}" if frame else ""
    if code is None or "Timeout (" in output:
        return "a hang" + where
    if code < 0 or code > 128 or "Fatal Python error" in output:
        return "a crash" + where
    return f"?? exit code {code}\n{output[-2000:]}"


def tested(mutation, wrap):
    """Try one; returns what caught it, None when nothing did."""
    with tempfile.TemporaryDirectory(prefix="zswap-mutation.") as folder:
        root = Path(folder) / "tree"
        shutil.copytree(ROOT, root, ignore=LEFT_OUT, symlinks=True)
        plant(mutation, root)
        code, output = run(
            [*wrap, sys.executable, "setup.py", "-q", "build_ext", "--inplace"], root, None
        )
        if code != 0:
            return f"?? it does not build\n{output[-2000:]}"
        files = [name if "::" in name else path_of(name) for name in mutation.tests.split()]
        command = [
            *wrap,
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            *files,
        ]
        return verdict(*run(command, root, None if wrap else SECONDS))


def main():
    """Run them; the exit code is how many were not caught."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("words", nargs="*", help="only mutations with one of these in their names")
    parser.add_argument("--list", action="store_true", help="only say what there is")
    parser.add_argument(
        "--wrap", default="", help="a command that runs builds and tests, and ends those that hang"
    )
    options = parser.parse_args()
    chosen = [
        m for m in MUTATIONS if not options.words or any(word in m.name for word in options.words)
    ]
    bad = {m.name: why for m in chosen if (why := unfit(m, ROOT))}
    for mutation in chosen:
        start = time.monotonic()
        if mutation.name in bad:
            print(f"{mutation.name}: DOES NOT FIT: {bad[mutation.name]}", flush=True)
        elif options.list:
            print(f"{mutation.name} ({mutation.file}; {mutation.tests})")
        else:
            caught = tested(mutation, options.wrap.split())
            if caught is None or caught.startswith("??"):
                bad[mutation.name] = caught
            print(
                f"{mutation.name}: {caught or 'NOT CAUGHT'} ({time.monotonic() - start:.0f} s)",
                flush=True,
            )
    print(f"{len(chosen) - len(bad)} of {len(chosen)} {'fit' if options.list else 'caught'}")
    return min(len(bad), 1)


if __name__ == "__main__":
    sys.exit(main())
