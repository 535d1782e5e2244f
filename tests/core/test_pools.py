"""Pools: switches under load, old pools that stay readable, the last entry that frees one, and
recompression."""

import random
import zlib

import pytest

from hooks.parts import Codec
from zswap import CompressorNotFound, Status

PAGE = 4096
PAIRS = [
    ("lz4", "zsmalloc"),
    ("zstd", "zsmalloc:4"),
    ("deflate", "z3fold"),
    ("lz4", "zbud"),
    ("lz4", "zsmalloc-kernel"),
]


def noise(seed):
    return random.Random(seed).randbytes(PAGE)


VOCABULARY = ["".join(random.Random(n).choices("etaoinshrdlu", k=n % 7 + 3)) for n in range(100)]


def words(seed, share=0.7):
    """A page of which so much is words, which every compressor shrinks, the denser the more; the
    rest is noise."""
    text = " ".join(random.Random(seed).choices(VOCABULARY, k=PAGE // 3)).encode()
    return (noise(seed)[: int(PAGE * (1 - share))] + text)[:PAGE]


@pytest.fixture
def make(engine):
    return lambda *args, **kwargs: engine(*args, **({"max_pool_bytes": "64MiB"} | kwargs))


def of(z):
    """(compressor, zpool) -> pages, of all pools."""
    return {(p.compressor.partition(":")[0], p.zpool): p.stored_pages for p in z.pools()}


def switch(z, pair):
    z.compressor, z.zpool = pair


# ---- switches ------------------------------------------------------------------------------------


def test_old_pools_stay_readable(make, until):
    z = make(*PAIRS[0])
    for k, pair in enumerate(PAIRS):
        switch(z, pair)
        for o in range(10):
            z.store(100 * k + o, words(100 * k + o))
    # pools in between, made by changing one thing at a time, go
    until(lambda: of(z) == dict.fromkeys(PAIRS, 10))
    pools = z.pools()
    assert [p.current for p in pools] == [True, False, False, False, False]
    assert (pools[0].compressor.partition(":")[0], pools[0].zpool) == PAIRS[-1]
    assert [p.references for p in pools] == [11, 10, 10, 10, 10]
    assert sum(p.total_size for p in pools) == z.stats().pool_total_size
    assert all(p.total_size >= 10 * 1000 for p in pools)
    for k in range(len(PAIRS)):
        for o in range(10):
            assert z.load(100 * k + o) == words(100 * k + o)


def test_contexts_go_with_their_pool(make, codec, until):
    c = Codec(stateless=False)
    z = make(codec(factory=c.capsule))
    for n in range(5):
        z.store(n, words(n))
        assert z.load(n) == words(n)
    assert c.contexts > 0
    switch(z, PAIRS[0])
    z.clear()
    until(lambda: len(z.pools()) == 1)
    until(lambda: c.contexts == 0)
    for pair in PAIRS:  # others of the same number
        switch(z, pair)
        z.store(1, words(1))
        assert z.load(1) == words(1)


def test_a_pool_goes_with_its_last_entry(make, until):
    z = make(*PAIRS[0])
    for k, pair in enumerate(PAIRS):
        switch(z, pair)
        z.store(2 * k, words(2 * k))
        z.store(2 * k + 1, words(2 * k + 1))
    left = dict.fromkeys(PAIRS, 2)
    for k, pair in enumerate(PAIRS[:-1]):
        assert z.invalidate(2 * k)
        left[pair] = 1
        until(lambda: of(z) == left)
        z.store(2 * k + 1, words(500 + k))  # moves to the current pool
        del left[pair]
        left[PAIRS[-1]] += 1
        until(lambda: of(z) == left)
        z._validate()
    z.clear()
    until(lambda: of(z) == {PAIRS[-1]: 0})  # the current one stays
    assert z.pools()[0].references == 1


def test_the_same_pair_is_promoted_again(make):
    z = make("lz4")
    z.store(0, words(0))
    z.compressor = "zstd"
    z.store(1, words(1))
    z.compressor = "lz4"
    z.store(2, words(2))
    assert of(z) == {("lz4", "zsmalloc"): 2, ("zstd", "zsmalloc"): 1}
    assert z.pools()[0].compressor.startswith("lz4")
    # Another level, another chain: another pool.
    z.compressor = "lz4:5"
    z.store(3, words(3))
    z.zpool = "zsmalloc:4"
    z.store(4, words(4))
    assert len(z.pools()) == 4
    assert all(z.load(o) == words(o) for o in range(5))


def test_an_empty_pool_that_is_promoted_again_before_it_goes(make, until):
    z = make("lz4")
    z.store(0, words(0))
    for _ in range(100):  # whether it is found or made anew is the maintenance thread's luck
        z.compressor = "zstd"
        z.compressor = "lz4"
    z.compressor = "zstd"
    z.store(1, words(1))
    until(lambda: of(z) == {("lz4", "zsmalloc"): 1, ("zstd", "zsmalloc"): 1})
    assert z.load(0) == words(0)
    assert z.load(1) == words(1)


def test_figures_outlive_their_pool(make, until):
    z = make("lz4")
    for o in range(400):
        z.store(o, words(o))
    for o in range(400):
        if o % 3:
            z.invalidate(o)
    z.compact()
    compacted = z.stats().pages_compacted
    assert compacted > 0
    z.compressor = "zstd"
    z.clear()
    z.store(0, words(0))
    until(lambda: len(z.pools()) == 1)
    assert z.stats().pages_compacted == compacted


def test_switches_while_threads_store_and_load(make, thread, until):
    z = make()
    done = []

    def work(k):
        rng, held = random.Random(k), {}
        for _ in range(1500):
            o = 10_000 * k + rng.randrange(200)
            what = rng.random()
            if what < 0.5:
                seed = rng.randrange(40)
                z.store(o, words(seed))
                held[o] = seed
            elif what < 0.6:
                assert z.invalidate(o) == (held.pop(o, None) is not None)
            elif o in held:
                assert z.load(o) == words(held[o])
            else:
                assert o not in z
        done.append(k)
        return held

    def meddle():
        rng = random.Random(9)
        switches = 0
        while len(done) < 2:
            switch(z, rng.choice(PAIRS))
            z.compact()
            switches += 1
        return switches

    threads = [thread(work, k) for k in range(2)]
    meddling = thread(meddle)
    held = threads[0].join() | threads[1].join()
    assert meddling.join() > 0
    z._validate()
    assert len(z) == len(held)
    for o, seed in held.items():
        assert z.load(o) == words(seed)
    z.clear()
    until(lambda: len(z.pools()) == 1)


def test_a_stuck_call_keeps_emptied_pools_and_they_go_after_it(make, codec, gate, thread, until):
    """Several at once, each of which the call might be using."""
    held = gate()
    name = codec(lambda page: page[:2000], lambda data: held() or data + data + data[:96])
    z = make(name)
    z.store(0, (noise(0)[:2000] * 3)[:PAGE])
    loading = thread(z.load, 0)
    with held:
        for pair in PAIRS:
            switch(z, pair)
        z.invalidate(0)
        z.store(1, words(1))
        assert len(z.pools()) > 1
        assert z.load(1) == words(1)
    assert loading.join() == (noise(0)[:2000] * 3)[:PAGE]
    until(lambda: of(z) == {PAIRS[-1]: 1})


def test_close_with_pools_that_wait(make, codec, gate, thread, until):
    held = gate()
    name = codec(lambda page: page[:2000], lambda data: held() or data + data + data[:96])
    z = make(name)
    z.store(0, (noise(0)[:2000] * 3)[:PAGE])
    loading = thread(z.load, 0)
    with held:
        for pair in PAIRS:
            switch(z, pair)
        closing = thread(z.close)
        until(lambda: z.closed)
        assert closing.is_alive()
    loading.join()
    closing.join()


# ---- recompression -------------------------------------------------------------------------------


@pytest.fixture
def mixed(make):
    """200 pages: 50 each of words, half noise, noise and same-filled ones."""

    def mixed(**kwargs):
        z = make("lz4", **kwargs)
        pages = {}
        for k in range(50):
            pages[k] = words(k, 1)
            pages[100 + k] = words(100 + k, 0.5)
            pages[200 + k] = noise(200 + k)
            pages[300 + k] = bytes([k]) * PAGE
        z.update(pages)
        return z, pages

    return mixed


def test_recompression_moves_what_gets_smaller(mixed, until):
    z, pages = mixed()
    before = z.compressed_sizes(list(pages))
    used = z.stats().compressed_bytes
    result = z.recompress("zstd:9")
    after = z.compressed_sizes(list(pages))
    moved = before != after
    assert result.moved == moved.sum() >= 50
    assert result.moved + result.kept == 150  # all but the same-filled ones were tried
    assert (result.bytes_before, result.bytes_after) == (before[moved].sum(), after[moved].sum())
    assert (after[moved] < before[moved]).all()
    assert z.stats().compressed_bytes == used - result.bytes_before + result.bytes_after
    assert of(z) == {("lz4", "zsmalloc"): 150 - result.moved, ("zstd", "zsmalloc"): result.moved}
    assert z.compressor.startswith("lz4")  # stores go on as before
    z._validate()
    assert dict(z) == pages
    # Once more: those that were kept are tried again, the others are there already.
    assert z.recompress("zstd:9") == (0, result.kept, 0, 0)


def test_a_pool_that_recompression_empties_goes(make, until):
    z = make("lz4")
    z.update({o: words(o, 1) for o in range(100)})
    assert z.recompress("zstd").moved == 100
    z.store(0, words(0, 1))
    assert of(z) == {("lz4", "zsmalloc"): 1, ("zstd", "zsmalloc"): 99}  # lz4's is current
    assert z.recompress("zstd").moved == 1
    z.compressor = "zstd"
    until(lambda: of(z) == {("zstd", "zsmalloc"): 100})
    assert dict(z) == {o: words(o, 1) for o in range(100)}


def test_a_pool_made_for_nothing_goes(make, until):
    z = make("lz4")
    z.update({o: noise(o) for o in range(10)})
    assert z.recompress("zstd") == (0, 10, 0, 0)
    until(lambda: len(z.pools()) == 1)
    z.clear()
    assert z.recompress("zstd") == (0, 0, 0, 0)
    until(lambda: len(z.pools()) == 1)


def test_into_the_pool_that_they_are_in(mixed):
    z, _ = mixed()
    assert z.recompress("lz4") == (0, 0, 0, 0)
    assert len(z.pools()) == 1


def test_idle_pages_only(mixed):
    z, pages = mixed()
    z._age(100)
    for o in range(25):
        z.load(o)
    before = z.compressed_sizes(range(25)).tolist()
    assert z.recompress("zstd", idle_seconds=101 + 10**6) == (0, 0, 0, 0)
    result = z.recompress("zstd", idle_seconds=100)
    assert result.moved + result.kept == 125
    assert z.compressed_sizes(range(25)).tolist() == before
    z._age(1000)
    result = z.recompress("zstd", idle_seconds=1000)
    assert result.moved >= 25
    assert dict(z) == pages


def test_incompressible_pages_only(make):
    z = make("lz4")
    # Letters at random: lz4 finds no repetition, and a coder of single letters does.
    hard = {o: bytes(random.Random(o).choices(range(128), k=PAGE)) for o in range(10)}
    z.update(hard)
    z.update({100 + o: words(o) for o in range(10)})
    assert z.stats().stored_incompressible_pages == 10
    result = z.recompress("deflate:6", incompressible=True)
    assert (result.moved, result.kept, result.bytes_before) == (10, 0, 10 * PAGE)
    assert result.bytes_after < 0.95 * result.bytes_before
    assert z.stats().stored_incompressible_pages == 0
    assert of(z) == {("lz4", "zsmalloc"): 10, ("deflate", "zsmalloc"): 10}
    assert dict(z) == hard | {100 + o: words(o) for o in range(10)}


@pytest.mark.parametrize("most", [0, 1, 7, 1 << 70])
def test_so_many_pages_at_most(make, most):
    z = make("lz4")
    z.update({o: words(o, 1) for o in range(20)})
    assert z.recompress("zstd", max_pages=most).moved == min(most, 20)


def test_the_limit_holds_for_recompression(mixed):
    z, pages = mixed()
    z.parameters["max_pool_bytes"] = z.stats().pool_total_size
    assert z.recompress("zstd") == (0, 0, 0, 0)
    assert dict(z) == pages


def test_backed_pages_stay_where_they_are(make, memory_store):
    store = memory_store()
    z = make("lz4", backing=store, shrinker_interval=3600, shrinker_enabled=False)
    z.update({o: words(o, 1) for o in range(20)})
    z.shrink(5)
    assert z.recompress("zstd").moved == 15
    assert store.reads == []
    assert z.shrink(20) == 15
    assert dict(z) == {o: words(o, 1) for o in range(20)}


def test_a_page_that_is_being_read_is_kept(make, codec, gate, thread):
    held, calls = gate(), []

    def decompress(data):
        calls.append(1)
        if len(calls) == 1:
            held()
        return bytes(data) * 2

    z = make(codec(lambda page: bytes(page[: PAGE // 2]), decompress))
    page = words(0, 1)[: PAGE // 2] * 2
    z[0] = z[1] = page
    loading = thread(z.load, 0)
    with held:
        result = z.recompress("zstd")
        assert (result.moved, result.kept) == (1, 1)
        assert z[0] == z[1] == page
    assert loading.join() == page
    assert z.recompress("zstd").moved == 1


@pytest.mark.parametrize("what", ["store", "invalidate", "reuse", "shrink", "switch"])
def test_a_page_that_changes_while_it_is_recompressed(
    make, memory_store, codec, gate, thread, what
):
    held = gate()
    name = codec(lambda page: held() or zlib.compress(page), zlib.decompress)
    store = memory_store()
    z = make("lz4", backing=store, shrinker_interval=3600, shrinker_enabled=False)
    z[0] = words(0)
    left = {0: words(0)}
    working = thread(z.recompress, name)
    with held:
        if what == "store":
            z[0] = left[0] = words(1)
        elif what == "invalidate":
            del z[0], left[0]
        elif what == "reuse":
            del z[0]
            for o in range(50):
                z[o] = left[o] = words(o + 1)
        elif what == "shrink":
            assert z.shrink(1) == 1
        else:
            z.compressor = "zstd"
            z.compact()
            z[0] = left[0] = words(2)
    # What it was about to move has changed; what came instead it may meet as well.
    result = working.join()
    assert result.kept >= 1
    assert result.moved + result.kept <= len(left) + 1
    z._validate()
    assert dict(z) == left


def test_compressors_that_fail(make, codec):
    z = make(codec(lambda page: bytes(page[: PAGE // 2]), lambda data: 1 / 0))
    z[0] = words(0)
    assert z.recompress("zstd") == (0, 1, 0, 0)
    z.compressor = "lz4"
    z[0] = words(0)
    assert z.recompress(codec(lambda page: 1 / 0, bytes)) == (0, 1, 0, 0)
    assert z[0] == words(0)


def test_arguments(make):
    z = make()
    with pytest.raises(CompressorNotFound):
        z.recompress("nope")
    for bad in (0, -1, 1 << 22):
        with pytest.raises(ValueError, match="idle_seconds is"):
            z.recompress("zstd", idle_seconds=bad)
    with pytest.raises(ValueError, match="max_pages is -1"):
        z.recompress("zstd", max_pages=-1)
    z.close()
    with pytest.raises(ValueError, match="closed"):
        z.recompress("zstd")


def test_recompression_while_threads_store_and_load(make, thread):
    z = make("lz4")
    done = []

    def work(k):
        rng, held = random.Random(k), {}
        for _ in range(1200):
            o = 10_000 * k + rng.randrange(100)
            if rng.random() < 0.5:
                held[o] = rng.randrange(30)
                assert z.store_many([o], words(held[o], 1))[0] == Status.STORED
            elif o in held:
                assert z.load(o) == words(held[o], 1)
        done.append(k)
        return held

    def meddle():
        moved = 0
        while len(done) < 2:
            moved += z.recompress("zstd").moved + z.recompress("deflate:9").moved
            z.compact()
        return moved

    threads = [thread(work, k) for k in range(2)]
    meddling = thread(meddle)
    held = threads[0].join() | threads[1].join()
    assert meddling.join() > 0
    z._validate()
    for o, seed in held.items():
        assert z.load(o) == words(seed, 1)
