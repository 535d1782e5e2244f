"""All pages of a corpus in one call: store, load, both at once, writeback.  Times are of a whole
batch."""

import numpy as np
import pytest

import zswap
from zswap.bench.corpora import distinct


@pytest.fixture
def full(engine, offsets, pages):
    assert engine.store_many(offsets, pages).min() >= 0
    return engine


def test_store_new(benchmark, offsets, pages):
    engines = []

    def empty():
        if engines:
            engines.pop().close()
        engines.append(zswap.ZSwap("lz4", max_pool_bytes="1GiB"))
        return (engines[0],), {}

    status = benchmark.pedantic(
        lambda engine: engine.store_many(offsets, pages), setup=empty, rounds=10
    )
    assert status.min() >= 0
    engines.pop().close()


@pytest.mark.parametrize("threads", [1, 2])
def test_store_in_place(benchmark, full, offsets, pages, threads):
    status = benchmark(full.store_many, offsets, pages, threads=threads)
    assert status.min() >= 0


@pytest.mark.parametrize("threads", [1, 2])
def test_load(benchmark, full, offsets, pages, threads):
    out = np.empty_like(pages)
    benchmark(full.load_many, offsets, out=out, threads=threads)
    assert np.array_equal(out, pages)


def test_load_random(benchmark, full, shuffled, pages):
    out = np.empty_like(pages)
    benchmark(full.load_many, shuffled, out=out)
    assert np.array_equal(out, pages[shuffled])


def test_mixed(benchmark, full, shuffled, pages):
    """Seven pages of ten loaded, two replaced, one dropped and stored again; in batches of 64."""
    out = np.empty_like(pages[:64])
    batches = np.array_split(shuffled, max(1, len(shuffled) // 64))

    def mix():
        for number, batch in enumerate(batches):
            if number % 10 < 7:
                full.load_many(batch, out=out[: len(batch)])
                continue
            if number % 10 == 9:
                full.invalidate_many(batch)
            full.store_many(batch, pages[batch])

    benchmark(mix)
    assert len(full) == len(pages)
    full._validate()


def test_writeback(benchmark, tmp_path, pages):
    """Every page from the pool to a swap file, coldest first.  Same-filled ones have no place in
    it."""
    pages = distinct(pages)
    if not len(pages):
        pytest.skip("all pages are same-filled")
    offsets = np.arange(len(pages), dtype=np.uint64)
    with (
        zswap.SwapFile(tmp_path / "swap", pages.nbytes) as file,
        zswap.ZSwap("lz4", max_pool_bytes="1GiB", backing=file) as engine,
    ):

        def fill():
            engine.store_many(offsets, pages)

        written = benchmark.pedantic(lambda: engine.shrink(len(pages)), setup=fill, rounds=5)
        assert written == len(pages)
        assert np.array_equal(engine.load_many(offsets), pages)
