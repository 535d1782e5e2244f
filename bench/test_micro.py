"""The parts: scan and fill, index, allocator; and single calls.  Times are of what each docstring
says."""

import numpy as np
import pytest

from hooks.zpool import Zpool
from zswap.bench.corpora import PAGE
from zswap_core.bench import CodecLoop, IndexLoop
from zswap_core.compressors.registry import open_compressor

MANY = 100_000


@pytest.fixture
def loop(pages):
    loop = CodecLoop(open_compressor("lz4"), pages.reshape(-1), PAGE)
    loop.run("store")
    return loop


def test_scan(benchmark, loop):
    """Whether each page of a corpus is same-filled."""
    benchmark(loop.run, "scan")


def test_fill(benchmark, made):
    """Same-filled pages from their words."""
    pages = made("same-filled")
    loop = CodecLoop(open_compressor("lz4"), pages.reshape(-1), PAGE)
    loop.run("store")
    out = np.empty_like(pages)
    benchmark(loop.run, "load", out=out.reshape(-1), order=np.arange(len(pages), dtype=np.uint64))
    assert np.array_equal(out, pages)


@pytest.mark.parametrize("step", [1, 64], ids=["dense", "sparse"])
def test_index_lookup(benchmark, step):
    """100,000 offsets at random, each found under its shard's lock."""
    offsets = np.arange(MANY, dtype=np.uint64) * np.uint64(step)
    index = IndexLoop(offsets)
    found, _ = benchmark(index.lookup, np.random.default_rng(0).permutation(offsets))
    assert found == MANY


@pytest.mark.parametrize("step", [1, 64], ids=["dense", "sparse"])
def test_index_fill(benchmark, step):
    """100,000 offsets in order into an empty index."""
    offsets = np.arange(MANY, dtype=np.uint64) * np.uint64(step)
    assert benchmark(IndexLoop, offsets).count == MANY


@pytest.mark.parametrize("zpool", ["zsmalloc", "zbud", "z3fold"])
def test_allocator(benchmark, zpool):
    """10,000 objects of 200 to 1300 bytes allocated, then freed in another order."""
    sizes = np.random.default_rng(0).integers(200, 1300, 10_000, np.uint32)
    order = np.random.default_rng(1).permutation(sizes.size)
    pool = Zpool(zpool)

    def churn():
        handles = np.asarray(pool.malloc_many(sizes))
        pool.free_many(handles[order])

    benchmark(churn)
    pool.validate()


def test_single_store(benchmark, engine, made):
    """One call in place of a held page."""
    page = made("process")[0]
    engine.store(7, page)
    benchmark(engine.store, 7, page)
    assert bytes(page) == engine.load(7)


def test_single_load(benchmark, engine, made):
    """One call into the caller's page."""
    page = made("process")[0]
    out = np.zeros_like(page)
    engine.store(7, page)
    benchmark(engine.load, 7, out)
    assert np.array_equal(out, page)


def test_single_contains(benchmark, engine, made):
    """``offset in z``."""
    engine.store(7, made("process")[0])
    assert benchmark(engine.__contains__, 7)


def test_single_miss(benchmark, engine):
    """A load of what is not there, and its exception."""

    def miss():
        try:
            engine.load(7)
        except KeyError:
            return True
        return False

    assert benchmark(miss)


def test_single_same_filled(benchmark, engine):
    """A store of a zero page."""
    benchmark(engine.store, 7, bytes(PAGE))
    assert engine.stats().same_filled_pages == 1
