"""What every zpool promises, whoever wrote it: its limits, contents against a dict, memory that
comes and goes, compaction, threads, and an engine on top of it.

A zpool has a row in `PROMISES` where it promises more than the least; one from outside is tried
without, see CONTRIBUTING.md.
"""

import errno
import functools
import itertools
import random
import threading
from array import array
from concurrent.futures import ThreadPoolExecutor, wait
from typing import NamedTuple

import numpy as np
import pytest
from zpool_tools import PAGE, library_pages, name, uints, used_pages

import zswap
from hooks.zpool import Zpool, zpools

KERNEL = {"kernel": True}
PAGES = [{}, {"page_size": 16384}, {"page_size": 65536}, KERNEL, {**KERNEL, "page_size": 65536}]


class Promise(NamedTuple):
    """What is known of a zpool."""

    geometries: list = [{}]  # noqa: RUF012 (a tuple's fields are nobody's to change)
    busy: list = [{}]  # noqa: RUF012 (those that threads meet in)
    largest: object = None  # of a page's size and `kernel`, the largest object; None: not told
    a_page: int = 0  # most objects that share a page; 0: any number
    usable: int = 64  # 64ths of a page that objects take
    compacts: bool | None = None  # None: not told
    keeps_handles: bool = False  # a moved object's handle stays
    sizes: object = lambda rng, page, most: rng.randint(1, most)  # a random life's
    units: tuple = (1, 11, 11, 24, 40, 61)  # those of threads, in 64ths of a page


@functools.cache
def favourites(page):
    return random.Random(page).sample(range(1, page), 12)


def zsmalloc_sizes(rng, page, most):
    return rng.choice(favourites(page)) if rng.random() < 0.8 else rng.randint(1, page)


PROMISES = {
    "zsmalloc": Promise(
        [{}, {"chain": 1}, {"chain": 8}, *PAGES[1:3], KERNEL, {**KERNEL, "chain": 4}, PAGES[4]],
        [{}, KERNEL],
        largest=lambda page, kernel: page,
        compacts=True,
        sizes=zsmalloc_sizes,
        units=(0.625, 11, 11, 24, 40, 62.5),
    ),
    "zbud": Promise(
        PAGES,
        PAGES,
        largest=lambda page, kernel: page - page // 32 - 8 * kernel,
        a_page=2,
        usable=63,
        compacts=False,
        keeps_handles=True,
    ),
    "z3fold": Promise(
        PAGES,
        PAGES,
        largest=lambda page, kernel: page - 8 * kernel,
        a_page=3,
        compacts=True,
        keeps_handles=True,
        sizes=lambda rng, page, most: rng.randint(1, page // 3 if rng.random() < 0.6 else page - 8),
        units=(1, 11, 11, 18, 24, 40, 61, 63),
    ),
}
NAMES = list(zpools())
CASES = [(pool, options) for pool in NAMES for options in PROMISES.get(pool, Promise()).geometries]
BUSY = [(pool, options) for pool in NAMES for options in PROMISES.get(pool, Promise()).busy]


def ids(value):
    return value if isinstance(value, str) else name(value)


each = pytest.mark.parametrize(("pool", "options"), CASES, ids=ids)


def promise_of(pool):
    return PROMISES.get(pool, Promise())


def largest(pool, options, zpool):
    """The largest object."""
    of = promise_of(pool).largest
    if of is None:
        return zpool.max_saving_size
    return of(options.get("page_size", PAGE), options.get("kernel", False))


# ---- limits ------------------------------------------------------------------------------------


def test_registry():
    assert {"zsmalloc", "zbud", "z3fold"} <= set(NAMES)
    with pytest.raises(LookupError, match="no zpool 'slab'"):
        Zpool("slab")


@each
def test_limits(pool, options):
    zpool = Zpool(pool, **options)
    page = options.get("page_size", PAGE)
    most = largest(pool, options, zpool)
    assert 0 < zpool.max_saving_size <= most <= page
    refused = [(0, errno.EINVAL), (page + 1, errno.ENOSPC), (1 << 31, errno.ENOSPC)]
    if promise_of(pool).largest is not None:
        refused += [(size, errno.ENOSPC) for size in {most + 1, page} if size > most]
    for size, code in refused:
        with pytest.raises(OSError, match=r"\[Errno") as caught:
            zpool.malloc_many(uints([size]))
        assert caught.value.errno == code
    assert zpool.stats()["objects"] == zpool.total_pages == 0
    assert zpool.validate() == 0
    content = random.Random(most).randbytes(most)
    handle = zpool.malloc(content)
    assert zpool.total_pages >= 1
    assert zpool.read(handle, most) == content
    assert zpool.validate() == 0
    zpool.free(handle)
    assert zpool.total_pages == 0
    assert zpool.validate() == 0


@pytest.mark.parametrize(
    "bad", [{"page_size": 2048}, {"page_size": 131072}, {"page_size": 5000}], ids=name
)
@pytest.mark.parametrize("pool", NAMES)
def test_bad_configuration(pool, bad):
    with pytest.raises(OSError, match=r"\[Errno 22\]"):
        Zpool(pool, **bad)


@pytest.mark.parametrize("of_the_largest", [False, True], ids=["small", "largest"])
@pytest.mark.parametrize("pool", NAMES)
def test_freeing_twice_is_noticed_and_harmless(pool, of_the_largest):
    zpool = Zpool(pool)
    size = largest(pool, {}, zpool) if of_the_largest else 7
    keep, handle = zpool.malloc(b"keep me"), zpool.malloc(b"f" * size)
    zpool.free(handle)
    assert zpool.validate() == 0
    zpool.free(handle)
    assert zpool.stats()["objects"] == 1
    assert zpool.read(keep, 7) == b"keep me"
    assert zpool.validate() == -100


# ---- compaction ----------------------------------------------------------------------------------


def compact(pool, zpool, handles):
    """(pages freed, the handles afterwards), all live ones or some given; validate() agrees in
    between."""
    new = array("Q", handles)
    most = zpool.compact_begin()
    moved = zpool.relocate_many(new)
    assert zpool.validate() == 0
    freed = zpool.compact_end()
    assert zpool.validate() == 0
    assert moved == 0 or most > 0
    if promise_of(pool).keeps_handles:
        assert new == array("Q", handles)
    if promise_of(pool).compacts is False:
        assert most == moved == freed == 0
    return freed, new


@pytest.mark.parametrize("pool", NAMES)
def test_compaction_of_the_untouched_has_nothing_to_do(pool):
    zpool = Zpool(pool)
    handles = zpool.malloc_many(uints(range(1, min(4000, largest(pool, {}, zpool) + 1))))
    new = array("Q", handles)
    assert zpool.compact_begin() == 0
    assert zpool.relocate_many(new) == 0
    assert zpool.compact_end() == 0
    assert new == handles
    assert zpool.compact(new) == 0
    assert new == handles


# ---- against a dict ------------------------------------------------------------------------------


@pytest.mark.slow
@each
@pytest.mark.parametrize("seed", range(2))
def test_random_life(pool, options, seed):
    zpool, promise = Zpool(pool, **options), promise_of(pool)
    page, most = options.get("page_size", PAGE), largest(pool, options, zpool)
    rng = random.Random(seed)
    held = {}
    compacted = 0
    for step in range(80):
        for _ in range(rng.randint(1, 80)):
            content = rng.randbytes(promise.sizes(rng, page, most))
            handle = zpool.malloc(content)
            assert 0 < handle < 1 << 40
            assert handle not in held
            held[handle] = content
        if step % 3 == 2:
            share = rng.random()
            for handle in [h for h in held if rng.random() < share]:
                assert zpool.read(handle, len(held[handle])) == held.pop(handle)
                zpool.free(handle)
        if step % 7 == 6:
            old = rng.sample(list(held), len(held))
            total, used = zpool.total_pages, used_pages(zpool)
            freed, new = compact(pool, zpool, old)
            assert zpool.total_pages <= total
            if promise.keeps_handles:
                assert used_pages(zpool) == used - freed
            compacted += freed
            assert zpool.stats()["pages_compacted"] == compacted
            held = {n: held[o] for n, o in zip(new, old, strict=True)}
        if step % 11 == 10:
            idle = zpool.stats()["idle_pages"]
            assert zpool.trim() == idle
        assert zpool.validate() == 0
        stats = zpool.stats()
        assert stats["objects"] == len(held)
        room = used_pages(zpool) if promise.a_page else stats["total_pages"]
        payload = sum(map(len, held.values()))
        assert payload <= stats["object_bytes"] <= room * page * promise.usable // 64
        if promise.a_page:
            assert used_pages(zpool) <= len(held) <= promise.a_page * used_pages(zpool)
    assert all(zpool.read(h, len(c)) == c for h, c in held.items())
    spans = sorted((zpool.address(h), zpool.address(h) + len(c)) for h, c in held.items())
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    for handle in held:
        zpool.free(handle)
    assert zpool.total_pages == zpool.stats()["object_bytes"] == 0
    assert zpool.validate() == 0
    assert promise.compacts is None or (compacted > 0) == promise.compacts


# ---- threads -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("pool", "options"), BUSY, ids=ids)
def test_threads(pool, options):
    """Every thread sees its own objects whole, whatever the others put beside them, while their
    pages are shared and compacted."""
    zpool = Zpool(pool, **options)
    unit = options.get("page_size", PAGE) // 64
    compacting = threading.Lock()
    count = 200 if promise_of(pool).a_page else 400

    def life(seed):
        rng = random.Random(seed)
        batches, bad = [], 0
        for round_ in range(40):
            sizes = uints(int(unit * rng.choice(promise_of(pool).units)) for _ in range(count))
            tag = seed * 10**9 + round_ * 10**4
            batches.append((zpool.malloc_many(sizes, tag), sizes, tag))
            if len(batches) > 4:
                handles, sizes, tag = batches.pop(rng.randrange(len(batches)))
                bad += zpool.wrong(handles, sizes, tag)
                zpool.free_many(handles)
            if round_ % 5 == seed:
                with compacting:  # one compaction at a time; each moves its own objects only
                    zpool.compact_begin()
                    for handles, _, _ in batches:
                        zpool.relocate_many(handles)
                    zpool.compact_end()
        for handles, sizes, tag in batches:
            bad += zpool.wrong(handles, sizes, tag)
            zpool.free_many(handles)
        return bad

    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(life, seed) for seed in range(4)]
        while wait(running, timeout=0.01).not_done:  # a pause in which the others get at the locks
            assert zpool.validate() == 0
            zpool.stats()
            zpool.trim()
        assert [f.result() for f in running] == [0, 0, 0, 0]
    assert zpool.validate() == 0
    assert zpool.stats()["objects"] == zpool.total_pages == 0


# ---- the engine on top of it ---------------------------------------------------------------------


@pytest.mark.parametrize("page_size", [4096, 16384, 65536])
@pytest.mark.parametrize("pool", NAMES)
def test_engine(pool, page_size):
    pages = library_pages(1024).reshape(-1, page_size)
    every = np.arange(len(pages))
    with zswap.ZSwap(zpool=pool, page_size=page_size, max_pool_bytes="64MiB") as z:
        assert (z.store_many(every, pages) >= 0).all()
        z._validate()
        assert (z.load_many(every) == pages).all()
        z.invalidate_many(every[::2])
        z.compact()
        z._validate()
        assert (z.load_many(every[1::2]) == pages[1::2]).all()
        z.clear()
        z._validate()
        assert z.stats().pool_total_size == 0
