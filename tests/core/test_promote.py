"""Promotion: pages that are read from the backing store stay in the pool, and the store's copy of
them stays good until they change."""

import random

import numpy as np
import pytest

from hooks.faults import FOREVER, fault
from zswap import SwapFile

PAGE = 4096
NEVER = 86400


def half(seed):
    """A page that compresses to half."""
    return random.Random(seed).randbytes(PAGE // 2) + bytes(PAGE // 2)


def where(z, *offsets):
    """'m' for a page in memory, 'b' for one in the store, '-' for none."""
    return "".join(
        "m" if n >= 0 else "b" if n == -2 else "-" for n in z.compressed_sizes(list(offsets))
    )


@pytest.fixture
def store(memory_store):
    return memory_store()


@pytest.fixture
def make(engine, store):
    """Make an engine with these pages in its store, all of them and no others."""

    def make(n, backing=store, promote="second", **kwargs):
        quiet = {"shrinker_interval": NEVER, "shrinker_enabled": False, "max_pool_bytes": "64MiB"}
        z = engine(backing=backing, promote=promote, **quiet | kwargs)
        z.store_many(range(n), b"".join(map(half, range(n))))
        z.shrink(n)  # what had no room is there already
        assert where(z, *range(n)) == "b" * n
        store.reads.clear()
        store.writes.clear()
        return z

    return make


def load(z, how, offsets):
    """Load pages and compare them."""
    if how == "batch":
        assert z.load_many(offsets).tobytes() == b"".join(map(half, offsets))
    else:
        assert all(z.load(o) == half(o) for o in offsets)


# ---- who comes back ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["single", "batch"])
@pytest.mark.parametrize(("promote", "reads"), [("never", 3), ("second", 2), ("always", 1)])
def test_when_a_page_stays(make, store, promote, reads, how):
    z = make(10, promote=promote)
    for _ in range(3):
        load(z, how, [2, 5])
    assert sum(map(len, store.reads)) == 2 * reads
    stay = promote != "never"
    assert where(z, 1, 2, 5) == ("bmm" if stay else "bbb")
    s = z.stats()
    assert s.promoted_pages == 2 * stay
    assert (s.stored_pages, s.backed_pages, len(z)) == (2 * stay, 10 - 2 * stay, 10)
    z._validate()


def test_reads_of_some_pages_make_no_others_forgotten(engine, memory_store):
    """The table has a place for each of 200 pages, wherever they are among 48,000, but for two that
    may be unlucky; and one for a page of each area."""
    z = engine(backing=memory_store(), shrinker_enabled=False, shrinker_interval=NEVER)
    z.swapon(2, backing=memory_store())
    offsets = random.Random(1).sample(range(48_000), 200)
    for area in (0, 2):
        z.store_many(offsets, b"".join(map(half, offsets)), swap_type=area)
    assert z.shrink(400) == 400
    for area in (0, 2):
        for o in offsets:
            z.load(o, swap_type=area)
    assert z.stats().promoted_pages == 0
    for o in offsets:
        z.load(o)
    assert z.stats().promoted_pages >= 198


@pytest.mark.parametrize("how", ["single", "batch"])
def test_one_pass_over_everything_changes_nothing(make, how):
    z = make(2000)
    load(z, how, range(2000))
    assert z.stats().promoted_pages == 0


def test_a_page_that_comes_again_too_late_does_not_stay(make):
    """Later than as many reads as there could be pages resident."""
    z = make(2000)
    z.parameters["max_pool_bytes"] = 1000 * PAGE
    for o in [0, *range(100, 1101), 0]:
        z.load(o)
    assert z.stats().promoted_pages == 0
    for o in [50, *range(1100, 1150), 50]:
        z.load(o)
    assert where(z, 50) == "m"


def test_the_parameter_can_be_changed(make):
    z = make(4, promote="never")
    assert z.parameters["promote"] == "never"
    load(z, "single", [1, 1, 1])
    assert where(z, 1) == "b"
    z.parameters["promote"] = "always"
    load(z, "single", [1])
    assert where(z, 1) == "m"
    with pytest.raises(ValueError, match="'sometimes' is no such time; give 'second'"):
        z.parameters["promote"] = "sometimes"
    assert z.parameters["promote"] == "always"


def test_a_full_pool_is_no_place(make):
    z = make(50, promote="always", direct_reclaim=False)
    z.parameters["max_pool_bytes"] = 0
    load(z, "single", range(50))
    assert z.stats().promoted_pages == 0
    z._validate()


@pytest.mark.parametrize(
    "site", ["TOUCHES", "SCRATCH", "COMPRESS", "ZPOOL_MALLOC", "ARENA_MAP", "SLAB_BLOCK"]
)
@pytest.mark.parametrize("how", ["single", "batch"])
def test_where_there_is_no_memory_it_is_only_read(make, site, how):
    z = make(20)
    with fault(site, times=FOREVER):
        for _ in range(3):
            load(z, how, range(20))
    z._validate()
    load(z, how, range(20))
    load(z, how, range(20))
    load(z, how, range(20))
    assert where(z, *range(20)) == "m" * 20


def test_exclusive_loads_free_the_page(make, store):
    z = make(4, promote="always")
    z.parameters["exclusive_loads"] = True
    load(z, "batch", [0, 1])
    assert where(z, 0, 1, 2) == "--b"
    assert store.pages.keys() == {2, 3}


def test_the_hot_set_outlives_a_pass(make):
    z = make(3000, max_pool_bytes="2MiB", promote="second")
    hot = list(range(100))
    for _ in range(3):
        load(z, "single", hot)
    z.load_many(range(100, 3000))
    assert where(z, *hot) == "m" * 100


# ---- the copy that stays -------------------------------------------------------------------------


def test_going_again_is_no_write(make, store):
    z = make(10, promote="always")
    load(z, "batch", range(4))
    before = z.stats()
    assert z.shrink(10) == 4
    after = z.stats()
    assert store.writes == []
    assert after.clean_evictions == 4
    assert after.written_back_pages == before.written_back_pages
    assert where(z, *range(10)) == "b" * 10
    load(z, "single", range(10))


@pytest.mark.parametrize("how", ["store", "batch", "same-filled", "written through"])
def test_what_is_stored_anew_is_written_again(make, store, how):
    z = make(4, promote="always")
    load(z, "single", [1])
    if how == "same-filled":
        z.store(1, bytes(PAGE))
        assert z.load(1) == bytes(PAGE)
        z.store(1, half(100))
    elif how == "written through":
        z.parameters["enabled"] = False
        z.store(1, half(100))
        assert where(z, 1) == "b"
    elif how == "batch":
        z.store_many([1], half(100))
    else:
        z.store(1, half(100))
    z._validate()
    z.shrink(4)
    assert where(z, 1) == "b"
    assert store.writes == [[1]]
    assert store.pages[1] == z.load(1) == half(100)


@pytest.mark.parametrize("how", ["invalidate", "range", "take", "exclusive", "clear"])
def test_a_page_that_is_freed_leaves_the_store(make, store, how):
    z = make(4, promote="always")
    load(z, "single", [1])
    z.store(2, half(2))  # beside it one that is not clean, whose copy is stale
    if how == "invalidate":
        assert z.invalidate(1)
    elif how == "range":
        assert z.invalidate_range(0, 4) == 4
    elif how == "take":
        assert z.pop(1) == half(1)
    elif how == "exclusive":
        z.parameters["exclusive_loads"] = True
        load(z, "batch", [1])
    else:
        z.clear()
    assert 1 not in store.pages
    assert where(z, 1) == "-"
    z._validate()
    s = z.stats()
    assert s.stored_pages + s.backed_pages == len(z) == (0 if how in ("range", "clear") else 3)


def test_wiping_forgets_the_copy_first(make, store):
    z = make(4, promote="always", wipe_on_free=True)
    load(z, "single", [1])
    store.discards.clear()
    z.store(1, half(7))
    assert store.discards == [[1]]
    assert z.load(1) == half(7)
    assert z.stats().duplicate_entry == 1
    z._validate()


def test_swapoff_frees_both(make, store):
    z = make(20, promote="always")
    load(z, "batch", range(10))
    z.swapoff(0)
    assert store.pages == {}


def test_draining_an_area(make, store):
    z = make(20, promote="always")
    load(z, "batch", range(5))
    assert dict(z.swapoff(0, drain=True)) == {o: half(o) for o in range(20)}
    assert store.pages == {}


def test_recompressed_and_compacted_they_stay_clean(make, store):
    z = make(200, promote="always")
    load(z, "batch", range(200))
    z.compressor = "lz4hc"
    z.recompress("deflate")
    z.compact()
    load(z, "batch", range(200))
    assert z.shrink(200) == 200
    assert store.writes == []
    load(z, "batch", range(200))


def test_a_store_that_fails_does_not_keep_clean_pages(make, store):
    z = make(10, promote="always")
    load(z, "single", range(5))

    def fail(offsets):
        raise OSError(28, "full")

    store.on_write = fail
    z.store(9, half(9))
    assert z.shrink(10) >= 5
    assert where(z, *range(5)) == "b" * 5


def test_checksums_hold_on_both_ways(make, store):
    z = make(10, promote="always", checksum=True)
    load(z, "batch", range(10))
    load(z, "batch", range(10))
    z.shrink(10)
    load(z, "single", range(10))
    z._validate()


# ---- meanwhile -----------------------------------------------------------------------------------


def test_changed_while_it_is_read(make, store, gate, thread):
    z = make(4, promote="always")
    held = store.on_read = gate()
    loading = thread(z.load, 1)
    with held:
        store.on_read = lambda offsets: None
        z.store(1, half(50))
    assert loading.join() == half(50)
    assert z.stats().promoted_pages == 0
    assert z.load(1) == half(50)


@pytest.mark.parametrize("what", ["store", "invalidate", "shrink"])
def test_changed_while_it_is_compressed(make, store, codec, gate, thread, what):
    """The page was read, and something else happens to it before it is resident."""
    hook = [lambda: None]

    def compress(page):
        hook[0]()
        return page[: PAGE // 2]

    z = make(4, promote="never", compressor=codec(compress, lambda data: data + bytes(PAGE // 2)))
    z.parameters["promote"] = "always"
    held = hook[0] = gate()
    loading = thread(z.load, 1)
    with held:
        hook[0] = lambda: None
        if what == "invalidate":
            z.invalidate(1)
        else:
            z.store(1, half(60))
        if what == "shrink":
            assert z.shrink(1) == 1
    assert loading.join() == half(1)
    assert z.stats().promoted_pages == 0
    assert where(z, 1) == {"store": "m", "invalidate": "-", "shrink": "b"}[what]
    assert what == "invalidate" or z.load(1) == half(60)
    z._validate()


def test_what_the_caller_does_to_his_buffer_is_no_matter(make, store):
    z = make(4, promote="always")
    out = bytearray(PAGE)
    z.load(1, out)
    out[:] = b"x" * PAGE
    batch = np.empty((2, PAGE), np.uint8)
    z.load_many([2, 3], batch)
    batch[:] = 7
    load(z, "single", [1, 2, 3])
    assert where(z, 1, 2, 3) == "mmm"


def test_stress(make, tmp_path, thread):
    """Loads, stores, invalidations and evictions of a few pages at once: nobody sees another."""
    z = make(64, backing=SwapFile(tmp_path / "swap", "4MiB"), promote="always")

    def page(o, version):
        return o.to_bytes(4, "little") + version.to_bytes(4, "little") + half(o + version)[8:]

    z.store_many(range(64), b"".join(page(o, 0) for o in range(64)))

    def work(seed):
        rng = random.Random(seed)
        for _ in range(400):
            o, action = rng.randrange(64), rng.random()
            if action < 0.2:
                z.store(o, page(o, rng.randrange(50)))
            elif action < 0.25:
                z.invalidate(o)
            elif action < 0.35:
                z.shrink(rng.randrange(20))
            elif action < 0.7:
                found = z.get(o)
                if found is not None:
                    assert found == page(o, int.from_bytes(found[4:8], "little"))
            else:
                wanted = [rng.randrange(64) for _ in range(20)]
                status = np.empty(20, np.int8)
                got = z.load_many(wanted, status=status)
                for p, at, s in zip(got, wanted, status, strict=True):
                    if s >= 0:
                        data = p.tobytes()
                        assert data == page(at, int.from_bytes(data[4:8], "little"))

    threads = [thread(work, n) for n in range(4)]
    for t in threads:
        t.join()
    z._validate()
    assert z.stats().promoted_pages > 0
