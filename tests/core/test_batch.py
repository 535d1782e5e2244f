"""Stores of a batch: its pages are made ready and then published some at a time, under one lock.

What others do in between is done from inside the compressor here, while pages are ready that nobody
knows, or while a backing store holds a page in transit; so each time it comes at the same moment.
"""

import random

import numpy as np
import pytest

from hooks import faults
from zswap import Status, SwapFile

PAGE = 4096
SHARD = 1 << 14  # pages
TOGETHER = 16  # pages that are published under one lock
WORD = b"a word. " * (PAGE // 8)


def noise(seed):
    return random.Random(seed).randbytes(PAGE)


def text(name):
    """A page of that name, which compresses."""
    return (f"page named {name}. ".encode() * 400)[:PAGE]


def batch_of(names):
    return np.frombuffer(b"".join(text(name) for name in names), np.uint8).reshape(-1, PAGE)


class Between:
    """A compressor that makes calls, each before the page of that number since `watch`."""

    def __init__(self):
        """Make one that makes none."""
        self.number, self.calls = 0, {}

    def watch(self, calls):
        """Count from here on."""
        self.number, self.calls = 0, dict(calls)

    def compress(self, data):
        """Leave of a page what `text` began it with."""
        number, self.number = self.number, self.number + 1
        self.calls.pop(number, lambda: None)()
        return bytes(data[:100])

    @staticmethod
    def decompress(data):
        """Make the page of that again."""
        data = bytes(data)
        return (data[: data.index(b". ") + 2] * 400)[:PAGE]


@pytest.fixture
def between(engine, codec):
    """Make an engine with such a compressor; returns both."""

    def make(**options):
        made = Between()
        return engine(codec(made.compress, made.decompress), **options), made

    return make


# ---- as if each page had been stored by itself ---------------------------------------------------


COUNTERS = [
    "stored_pages",
    "same_filled_pages",
    "stored_incompressible_pages",
    "compressed_bytes",
    "duplicate_entry",
    "backed_pages",
    "written_through_pages",
    "reject_area_quota",
    "invalidates",
]


def a_page(rng):
    kind = rng.randrange(3)
    if kind == 0:
        return text(rng.randrange(1000))
    return noise(rng.random()) if kind == 1 else bytes([rng.randrange(256)]) * PAGE


@pytest.mark.parametrize(
    "options",
    [{}, {"checksum": True}, {"wipe_on_free": True}, {"same_filled_pages_enabled": False}],
    ids=lambda options: next(iter(options), "plain"),
)
@pytest.mark.parametrize("backing", [None, "memory", "packed"])
@pytest.mark.parametrize("quota", [None, 20 * PAGE])
def test_a_batch_is_what_its_pages_are_one_by_one(
    engine, memory_store, tmp_path, options, backing, quota
):
    rng = random.Random(1)
    engines = []
    for name in "01":
        engines.append(engine(**options))
        store = {
            None: lambda: None,
            "memory": memory_store,
            "packed": lambda name=name: SwapFile(tmp_path / name, "16MiB", packed=True),
        }[backing]()
        engines[-1].swapon(1, backing=store, quota_bytes=quota)
    one, other = engines
    held = {}
    for number in range(12):
        # some offsets twice or more, of one shard and of several
        near = [3, 4, 5, 64, SHARD - 1, SHARD, SHARD + 1, *range(100, 160), 5 * SHARD]
        offsets = rng.choices(near, k=rng.choice([1, 2, TOGETHER - 1, 70]))
        pages = [a_page(rng) for _ in offsets]
        status = one.store_many(offsets, b"".join(pages), swap_type=1)
        for offset, page, code in zip(offsets, pages, status, strict=True):
            assert other.store_many([offset], page, swap_type=1)[0] == code
            held.pop(offset, None)
            if code >= 0:
                held[offset] = page
        a, b = one.stats(), other.stats()
        if quota is None or backing is None:
            assert [getattr(a, name) for name in COUNTERS] == [
                getattr(b, name) for name in COUNTERS
            ]
        one._validate()
        if number % 4 == 3 and backing:
            for z in engines:
                z.evict(range(100, 130), swap_type=1)
                z.promote(range(110, 120), swap_type=1)  # the store has these as well
    assert len(held) > 20
    for z in engines:
        for offset, page in held.items():
            assert z.load(offset, swap_type=1) == page
        assert next(a for a in z.areas() if a.swap_type == 1).held_pages == len(held) > 20


def test_the_later_of_two_is_held(engine):
    z = engine()
    for n in range(1, 40):
        names = [f"{n} {k}" for k in range(n)]
        z.store_many([7] * n, batch_of(names))
        assert z[7] == text(names[-1])
    assert z.stats().duplicate_entry == 40 * 39 // 2 - 1
    assert (z.stats().stored_pages, len(z)) == (1, 1)


def test_pages_of_a_batch_came_in_their_order(engine, memory_store):
    store = memory_store()
    z = engine("lz4", backing=store)
    offsets = random.Random(3).sample(range(1000), 100)
    z.store_many(offsets, batch_of(offsets))
    for offset in offsets:
        assert z.shrink(1) == 1
        assert store.writes[-1] == [offset]


@pytest.mark.parametrize("clean", [False, True])
def test_a_store_forgets_what_a_batch_replaces(engine, memory_store, clean):
    store = memory_store()
    z = engine("lz4", backing=store, wipe_on_free=True)
    z.store_many(range(12), batch_of(range(12)))
    z.evict(range(12))
    assert sorted(store.pages) == list(range(12))
    if clean:
        z.promote(range(12))
        assert z.stats().backed_pages == 0
    z.store_many(range(4, 12), batch_of(range(8)))
    assert sorted(store.pages) == [0, 1, 2, 3]
    assert [z[n] for n in range(4, 12)] == [text(n) for n in range(8)]
    z._validate()


# ---- while pages are ready that nobody knows -----------------------------------------------------


OLD = [f"old {n}" for n in range(12)]
NEW = [f"new {n}" for n in range(12)]


def swap_compressor(z):
    z.compressor = "lz4"


MEANWHILE = {
    "invalidate": lambda z: z.invalidate_range(0, 12),
    "store": lambda z: (z.store(2, noise(2)), z.store(9, noise(9))),
    "same-filled": lambda z: (z.store(2, WORD), z.store(9, WORD)),
    "batch": lambda z: z.store_many([9, 2, 2], batch_of("abc")),
    "part": lambda z: z.store_part(2, 100, b"part"),
    "evict": lambda z: z.evict(range(12)),
    "come back": lambda z: (z.evict(range(12)), z.promote(range(12))),
    "compact": lambda z: z.compact(),
    "recompress": lambda z: z.recompress("lz4"),
    "switch": swap_compressor,
}


@pytest.mark.parametrize(
    ("what", "backing"),
    [
        (what, backing)
        for what in MEANWHILE
        for backing in (None, "memory", "packed")
        if backing or what not in ("evict", "come back")
    ],
)
def test_what_others_do_before_a_batch_is_published(between, memory_store, tmp_path, what, backing):
    store = None
    if backing == "memory":
        store = memory_store()
    elif backing == "packed":
        store = SwapFile(tmp_path / "swap", "16MiB", packed=True)
    z, compressor = between(backing=store)
    z.store_many(range(12), batch_of(OLD))
    seen = []
    compressor.watch({6: lambda: (seen.extend(z.load_many([0, 5, 11])), MEANWHILE[what](z))})
    assert z.store_many(range(12), batch_of(NEW)).tolist() == [Status.STORED] * 12
    assert [page.tobytes() for page in seen] == [text(OLD[n]) for n in (0, 5, 11)]
    assert [z[n] for n in range(12)] == [text(name) for name in NEW]
    assert (z.stats().stored_pages, z.stats().backed_pages, len(z)) == (12, 0, 12)
    z._validate()


def test_a_listener_hears_of_no_page_of_a_batch_that_stays(between, memory_store):
    heard = []
    z, compressor = between(backing=memory_store())
    z.on_evict(lambda swap_type, offsets: heard.extend(offsets.tolist()))
    z.store_many(range(4), batch_of(OLD[:4]))
    compressor.watch({3: lambda: z.shrink(100)})
    z.store_many([10, 11, 12, 13], batch_of(NEW[:4]))
    assert sorted(heard) == [0, 1, 2, 3]
    assert z.stats().stored_pages == 4


def test_an_area_goes_offline_before_a_batch_is_published(between, thread, until):
    z, compressor = between()
    z.swapon(1)
    z.store_many(range(12), batch_of(OLD), swap_type=1)
    ending = []

    def swapoff():
        ending.append(thread(z.swapoff, 1))  # it waits for the batch to end
        until(lambda: all(area.swap_type != 1 for area in z.areas()))

    compressor.watch({6: swapoff})
    assert z.store_many(range(12), batch_of(NEW), swap_type=1).tolist() == [Status.NO_AREA] * 12
    ending[0].join()
    assert z.stats().stored_pages == 0
    z._validate()


def test_a_page_in_transit_is_waited_for_and_those_before_it_are_not(
    engine, memory_store, gate, thread, until
):
    store = memory_store()
    z = engine("lz4", backing=store)
    z.parameters["enabled"] = False  # so what is stored goes to the store
    store.on_write = gate()
    through = thread(z.store_many, [5], batch_of(["through"]))
    with store.on_write:
        z.parameters["enabled"] = True
        batch = thread(z.store_many, range(10), batch_of(NEW[:10]))
        until(lambda: 4 in z)
        assert z[4] == text(NEW[4])
        assert z.stats().stored_pages == 10  # all are made
    through.join()
    assert batch.join().tolist() == [Status.STORED] * 10
    assert [z[n] for n in range(10)] == [text(name) for name in NEW[:10]]
    assert z.stats().backed_pages == 0


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("backed", [False, True])
def test_a_refused_page_comes_after_those_before_it_and_before_those_behind(
    between, memory_store, backed
):
    # 5 is held, then refused, then held; 6 held and then refused; 7 refused and then held
    store = memory_store() if backed else None
    z, compressor = between(backing=store)
    z.store_many([5, 6, 7], batch_of(["old 5", "old 6", "old 7"]))

    def fail():
        raise ValueError("a page that nobody can compress")

    compressor.watch({2: fail, 3: fail, 4: fail})
    names = ["5 first", "6 first", "5 refused", "6 refused", "7 refused", "5 last", "7 last"]
    status = z.store_many([int(name[0]) for name in names], batch_of(names))
    refused = Status.WRITTEN_THROUGH if backed else Status.COMPRESS_FAIL
    assert status.tolist() == [0, 0, refused, refused, refused, 0, 0]
    assert (z[5], z[7]) == (text("5 last"), text("7 last"))
    assert z.get(6) == (text("6 refused") if backed else None)
    assert z.stats().reject_compress_fail == 3
    z._validate()


def test_the_limit_comes_down_before_a_batch_is_published(between):
    # What is ready comes in, as if it had been stored before; what comes then is refused.
    z, compressor = between(max_pool_bytes="1GiB")
    z.store_many(range(1000), batch_of(range(1000)))
    compressor.watch({6: lambda: z.parameters.update(max_pool_bytes=4 * PAGE)})
    status = z.store_many(range(12), batch_of(NEW))
    assert status.tolist() == [Status.STORED] * 7 + [Status.POOL_LIMIT] * 5
    assert [z.get(n) for n in range(12)] == [text(name) for name in NEW[:7]] + [None] * 5
    z._validate()


def test_each_page_that_finds_no_memory_has_its_status(between):
    # The index has memory for four pages of a run and for other runs, and gets no more.
    z, compressor = between()
    z[0] = text(0)
    offsets = [1, 2, 3, 4, 5, 6, 64, 5, 2]
    pages = [WORD if offset == 4 else text(f"new {offset}") for offset in offsets]
    compressor.watch({7: lambda: faults.arm("SLAB_BLOCK", times=99)})
    try:
        status = z.store_many(offsets, b"".join(pages))
    finally:
        faults.disarm()
    assert [Status(code).name for code in status] == (
        ["STORED"] * 3 + ["ENTRY_FAIL"] * 3 + ["STORED", "ENTRY_FAIL", "STORED"]
    )
    assert sorted(z) == [0, 1, 2, 3, 64]
    assert (z[2], z[64]) == (pages[1], pages[6])
    assert z.stats().reject_kmemcache_fail == 4
    z._validate()


# ---- pages that do not compress ------------------------------------------------------------------


@pytest.fixture
def as_they_are(engine, codec):
    """Make an engine whose compressor makes calls and nothing smaller; returns both."""
    made = Between()

    def compress(data):
        made.compress(data)
        return bytes(data)

    return engine(codec(compress, bytes)), made


def test_a_batch_gives_back_the_places_it_had_no_use_for(engine):
    z = engine("lz4")
    seed = 0
    for kinds in ("r", "rr", "rt", "rrt", "rrrrt", "r" * 20 + "t" * 40, "rt" * 40, "r" * 200):
        pages = []
        for kind in kinds:
            seed += 1
            pages.append(noise(seed) if kind == "r" else WORD)
        z.invalidate_range(0, 1000)
        z.store_many(range(len(pages)), b"".join(pages))
        z._validate()
        stats = z.stats()
        assert stats.stored_incompressible_pages == kinds.count("r")
        assert stats.pool_total_size - stats.idle_bytes == kinds.count("r") * PAGE
        assert [z[n] for n in range(len(pages))] == pages


@pytest.mark.parametrize("what", ["zpool", "compressor", "invalidate", "compact", "batch"])
def test_what_others_do_while_a_batch_has_places(as_they_are, what):
    z, compressor = as_they_are
    meanwhile = {
        "zpool": lambda: setattr(z, "zpool", "z3fold"),
        "compressor": lambda: setattr(z, "compressor", "lz4"),
        "invalidate": lambda: z.invalidate_range(200, 300),
        "compact": lambda: z.compact(),
        "batch": lambda: z.store_many(range(100, 130), b"".join(map(noise, range(30)))),
    }[what]
    pages = [noise(seed) for seed in range(100, 150)]
    z.store_many(range(200, 240), b"".join(map(noise, range(40))))
    # Of the first 16 it sees that it needs a place for each, and so takes the next 16 at once.
    compressor.watch({20: meanwhile})
    assert (z.store_many(range(50), b"".join(pages)) >= 0).all()
    assert [z[n] for n in range(50)] == pages
    z._validate()
    z.invalidate_range(0, 1000)
    z._validate()
    assert z.stats().stored_pages == 0


def test_a_batch_gives_its_places_back_before_a_page_is_refused(as_they_are):
    z, compressor = as_they_are
    # Then 20 pages are in, and there are places for 12 more.
    compressor.watch({20: lambda: z.parameters.update(max_pool_bytes=30 * PAGE)})
    status = z.store_many(range(60), b"".join(map(noise, range(60))))
    assert (status >= 0).sum() == 30
    assert z.stats().pool_total_size == 30 * PAGE
    z._validate()


def test_a_batch_near_the_limit_takes_no_places_ahead(engine):
    z = engine("lz4", max_pool_bytes=40 * PAGE)
    status = z.store_many(range(60), b"".join(map(noise, range(60))))
    assert (status >= 0).sum() == 40
    assert z.stats().pool_total_size == 40 * PAGE
