"""zbud: the kernel's limits, layout and choice of page, contents against a dict, and the engine on
top of it."""

import errno
import itertools
import random
from array import array

import numpy as np
import pytest
from zpool_tools import BUDDY_GEOMETRIES, CHUNK, PAGE, library_pages, put, uints, used_pages, where

import zswap
from hooks.buddies import Buddies
from hooks.zpool import Zpool

NCHUNKS = 63

LIMITS = list(zip(BUDDY_GEOMETRIES, (3968, 15872, 63488, 3960, 63480), strict=True))


# ---- limits and layout ---------------------------------------------------------------------------


@pytest.mark.parametrize(("geometry", "limit"), LIMITS, ids=str)
def test_limits(geometry, limit):
    zpool = Zpool("zbud", **geometry)
    page = geometry.get("page_size", PAGE)
    assert zpool.max_saving_size == limit
    for size, code in (
        (0, errno.EINVAL),
        (limit + 1, errno.ENOSPC),
        (page, errno.ENOSPC),
        (1 << 31, errno.ENOSPC),
    ):
        with pytest.raises(OSError, match=r"\[Errno") as caught:
            zpool.malloc_many(uints([size]))
        assert caught.value.errno == code
    assert zpool.total_pages == 0
    handle = zpool.malloc_many(uints([limit]))[0]
    assert zpool.stats()["object_bytes"] == 62 * page // 64
    assert zpool.total_pages == 1
    zpool.free(handle)
    assert zpool.total_pages == 0
    assert zpool.validate() == 0


@pytest.mark.parametrize(
    ("size", "chunks"),
    [(1, 1), (64, 1), (65, 2), (128, 2), (1984, 31), (3904, 61), (3905, 62), (3968, 62)],
)
def test_objects_are_whole_chunks(size, chunks):
    zpool = Zpool("zbud")
    zpool.malloc(b"x" * size)
    assert zpool.stats()["object_bytes"] == chunks * CHUNK
    left = NCHUNKS - chunks
    (beside,) = put(zpool, left)
    assert zpool.total_pages == 1
    assert where(zpool, beside)[1] == 64 - left
    assert zpool.validate() == 0


def test_the_kernel_prefix_takes_8_bytes():
    zpool = Zpool("zbud", kernel=True)
    first = zpool.malloc(b"x" * 56)
    assert zpool.address(first) % PAGE == CHUNK + 8
    assert zpool.stats()["object_bytes"] == CHUNK
    last = zpool.malloc(b"y" * 57)
    assert zpool.stats()["object_bytes"] == 3 * CHUNK
    assert zpool.address(last) % PAGE == PAGE - 2 * CHUNK + 8
    assert (zpool.read(first, 56), zpool.read(last, 57)) == (b"x" * 56, b"y" * 57)
    assert zpool.validate() == 0


def test_first_and_last():
    zpool = Zpool("zbud")
    a, b = put(zpool, 10, 20)
    page, chunk = where(zpool, a)
    assert chunk == 1
    assert where(zpool, b) == (page, 44)
    # The place behind the header is filled again before the other.
    zpool.free(a)
    (c,) = put(zpool, 43)
    assert where(zpool, c) == (page, 1)
    zpool.free(b)
    (d,) = put(zpool, 20)
    assert where(zpool, d) == (page, 44)
    assert zpool.total_pages == 1
    assert zpool.validate() == 0


def test_a_page_is_freed_with_its_last_object():
    zpool = Zpool("zbud")
    handles = put(zpool, 50, 50, 50, 13)
    assert used_pages(zpool) == 3
    zpool.free(handles[2])
    assert used_pages(zpool) == 3
    zpool.free(handles[3])
    assert used_pages(zpool) == 2
    zpool.free_many(array("Q", handles[:2]))
    assert zpool.total_pages == 0
    assert zpool.validate() == 0


def test_best_fit_then_latest():
    zpool = Zpool("zbud")
    rooms = (40, 32, 32, 33, 50)
    handles = put(zpool, *itertools.chain.from_iterable((NCHUNKS - room, room) for room in rooms))
    pages = [where(zpool, h)[0] for h in handles[::2]]
    zpool.free_many(array("Q", handles[1::2]))
    # Rooms of 32, the page changed last before the other; then of 33, 40, 50.
    wanted = [pages[i] for i in (2, 1, 3, 0, 4)]
    assert [where(zpool, h)[0] for h in put(zpool, 32, 31, 32, 32, 32)] == wanted
    assert where(zpool, put(zpool, 32)[0])[0] not in wanted
    assert zpool.validate() == 0


def test_a_freed_place_comes_first():
    zpool = Zpool("zbud")
    handles = put(zpool, 40, 23, 41, 22, 40, 23)  # three full pages
    pages = [where(zpool, h)[0] for h in handles]
    zpool.free(handles[1])
    zpool.free(handles[5])
    assert [where(zpool, h)[0] for h in put(zpool, 23, 23)] == [pages[5], pages[1]]
    assert zpool.validate() == 0


def test_nothing_is_compacted():
    zpool = Zpool("zbud")
    handles = array("Q", put(zpool, *[30] * 200))
    keep = handles[::2]
    zpool.free_many(handles[1::2])
    assert zpool.compact_begin() == 0
    assert zpool.relocate_many(keep) == 0
    assert zpool.compact_end() == 0
    assert keep == handles[::2]
    assert used_pages(zpool) == 100


# ---- eviction by pages ---------------------------------------------------------------------------


def test_eviction_order():
    pool = Buddies("zbud")
    a, b, c = pool.malloc(3000), pool.malloc(3100), pool.malloc(3200)  # a page each
    d = pool.malloc(900)  # fits a's page, after which that page is the latest
    assert pool.candidates() == [b]
    assert pool.candidates() == [c]
    assert pool.candidates() == [a, d]  # first, then last
    assert pool.candidates(1) == [b]  # none was evicted, so it starts again
    assert pool.candidates(0) == []
    for handle in pool.candidates():
        assert handle in (a, d)
        pool.free(handle)
    assert pool.validate() == 0
    assert [*pool.candidates(), *pool.candidates()] == [b, c]
    pool.free(b)
    pool.free(c)
    assert pool.candidates() == []
    assert pool.total_pages == 0


# ---- against a model and a dict ------------------------------------------------------------------


class Model:
    """zbud's policy a second time: a page is [first, last], in chunks."""

    def __init__(self):
        self.rooms = [[] for _ in range(64)]

    def room(self, page):
        return 0 if all(page) else NCHUNKS - sum(page)

    def malloc(self, chunks):
        page = next(
            (self.rooms[room].pop() for room in range(chunks, 64) if self.rooms[room]), [0, 0]
        )
        place = 0 if page[0] == 0 else 1
        page[place] = chunks
        self.file(page)
        return page, place, 1 if place == 0 else 64 - chunks

    def free(self, page, place):
        if not all(page):
            self.rooms[self.room(page)] = [p for p in self.rooms[self.room(page)] if p is not page]
        page[place] = 0
        if any(page):
            self.file(page)

    def file(self, page):
        if self.room(page):
            self.rooms[self.room(page)].append(page)


@pytest.mark.parametrize("seed", range(4))
def test_every_object_is_where_the_policy_puts_it(seed):
    zpool, model, rng = Zpool("zbud"), Model(), random.Random(seed)
    held = []
    for step in range(4000):
        if held and rng.random() < (0.3 if step % 1000 < 500 else 0.65):
            handle, page, place = held.pop(rng.randrange(len(held)))
            zpool.free(handle)
            model.free(page, place)
        else:
            chunks = rng.choice((rng.randint(1, 62), rng.randint(20, 40)))
            (handle,) = put(zpool, chunks)
            page, place, start = model.malloc(chunks)
            assert where(zpool, handle)[1] == start
            held.append((handle, page, place))
        if step % 100 == 0:
            assert zpool.validate() == 0
            pages = {where(zpool, handle)[0]: id(page) for handle, page, _ in held}
            assert all(pages[where(zpool, handle)[0]] == id(page) for handle, page, _ in held)
            assert (
                used_pages(zpool)
                == len(set(pages.values()))
                == len({id(page) for _, page, _ in held})
            )
    assert zpool.validate() == 0


# ---- the engine on top of it ---------------------------------------------------------------------


def test_engine():
    text = library_pages(700)
    noise = np.random.default_rng(5).integers(0, 256, (60, PAGE), np.uint8)
    zero = np.zeros((40, PAGE), np.uint8)
    pages = np.concatenate([text, noise, zero])
    np.random.default_rng(6).shuffle(pages)
    with zswap.ZSwap(zpool="zbud", max_pool_bytes="64MiB") as z:
        status = z.store_many(np.arange(len(pages)), pages)
        z._validate()
        stats = z.stats()
        # What does not compress is more than zbud ever takes: refused as poor, as the kernel does.
        assert stats.reject_compress_poor == 60
        assert stats.stored_incompressible_pages == 0
        assert stats.same_filled_pages == 40
        assert stats.stored_pages == 740
        held = np.flatnonzero(status >= 0)
        assert len(held) == 740
        assert (z.load_many(held) == pages[held]).all()
        assert 350 <= stats.pool_total_size // PAGE <= 700
        z.compact()
        assert z.stats().pages_compacted == 0
        z.invalidate_many(held[::2])
        z._validate()
        assert (z.load_many(held[1::2]) == pages[held[1::2]]).all()
        z.clear()
        z._validate()
        assert z.stats().pool_total_size == 0
