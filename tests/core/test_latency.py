"""Latency histograms: what is recorded, read back, emptied and shown."""

import random
import threading

import numpy as np
import pytest

import zswap
from hooks.parts import Histogram
from zswap import Latency

PAGE = 4096
SHARD = 1 << 14  # offsets


def counts_of(z):
    return {kind: latency.count for kind, latency in z.latency().items()}


def test_off_by_default(engine):
    z = engine()
    z[0] = b"a" * PAGE
    assert z[0] == b"a" * PAGE
    z.store_many([1], b"b" * PAGE)
    assert z.parameters["latency"] is False
    assert counts_of(z) == {"store": 0, "load": 0}
    assert set(z.latency()["store"].to_dict().values()) == {0}


@pytest.mark.parametrize("compressor", ["lz4", "zstd:1"])
def test_every_page_is_timed_once(engine, make_page, compressor):
    z = engine(compressor, latency=True)
    for offset in range(10):
        z[offset] = make_page(offset)
    pages = b"".join(make_page(n) for n in range(200))
    z.store_many(range(100, 300), pages)
    z.store_many(range(100, 300), pages, threads=2)
    assert counts_of(z) == {"store": 410, "load": 0}
    out = bytearray(PAGE)
    for offset in range(7):
        z.load(offset, out)
    z.load_many(range(100, 300), threads=2)
    assert counts_of(z) == {"store": 410, "load": 207}
    for latency in z.latency().values():
        assert 0 < latency.p50 <= latency.p90 <= latency.p99 <= latency.max <= latency.total


def test_what_fails_is_left_out(engine):
    z = engine(latency=True, max_pool_bytes=0)
    with pytest.raises(zswap.PoolLimitError):
        z[0] = random.Random(1).randbytes(PAGE)
    with pytest.raises(KeyError):
        z[0]
    z.store_many([1, 2], random.Random(1).randbytes(PAGE) + bytes(PAGE))
    z.load_many([1, 2], status=np.zeros(2, np.int8))
    assert counts_of(z) == {"store": 1, "load": 1}


def test_switching_it(engine):
    z = engine()
    for on, stores in ((True, 1), (False, 1), ("Y", 2)):
        z.parameters["latency"] = on
        z[0] = b"x" * PAGE
        assert counts_of(z)["store"] == stores
    with pytest.raises(ValueError, match="maybe"):
        z.parameters["latency"] = "maybe"


def test_beginning_anew(engine):
    z = engine(latency=True)
    for round_ in range(3):
        for offset in range(round_ + 1):
            z[offset] = b"x" * PAGE
        before = z.latency(reset=True)
        assert before["store"].count == round_ + 1
        assert counts_of(z) == {"store": 0, "load": 0}
    z[0]
    assert counts_of(z) == {"store": 0, "load": 1}
    assert z.latency()["store"].max == 0


def test_nanoseconds_of_a_batch_are_the_same_as_without(engine):
    z = engine(latency=True)
    ns = np.zeros(100, np.uint32)
    z.store_many(range(100), random.Random(1).randbytes(100 * PAGE), ns=ns)
    latency = z.latency()["store"]
    assert latency.total == ns.sum()
    assert latency.max == ns.max()
    ordered = np.sort(ns)
    for percent in (50, 90, 99):
        exact = int(ordered[percent - 1])
        assert abs(latency.percentile(percent) - exact) <= exact / 4


def test_a_batch_of_loads_is_the_same_with_times_as_without(engine):
    z = engine()
    page = random.Random(1).randbytes(PAGE)
    kinds = [bytes(PAGE), page, bytes(1000) + page[1000:2000] + bytes(2096)]
    held = {shard * SHARD + i: kinds[i % 3] for shard in range(3) for i in range(0, 90, 2)}
    for offset, held_page in held.items():
        z[offset] = held_page
    wanted = [shard * SHARD + i for i in range(90) for shard in (0, 0, 2, 1)]
    status, plain_status = np.zeros((2, len(wanted)), np.int8)
    ns = np.zeros(len(wanted), np.uint32)
    plain = z.load_many(wanted, status=plain_status)
    z.parameters["latency"] = True
    timed = z.load_many(wanted, status=status, ns=ns)
    there = np.array([offset in held for offset in wanted])
    assert (status == plain_status).all()
    assert ((status >= 0) == there).all()
    for offset, one, other in zip(wanted, plain, timed, strict=True):
        assert offset not in held or bytes(one) == bytes(other) == held[offset]
    assert (ns > 0).all()
    assert z.latency()["load"].count == there.sum()
    assert z.latency()["load"].total == ns[there].sum()


def test_pages_from_a_backing_store_are_timed_whole(engine):
    held = {}
    pause = threading.Event()

    class Store:
        def write_pages(self, offsets, pages):
            held.update(
                (int(o), bytes(p))
                for o, p in zip(offsets, np.asarray(pages).reshape(-1, PAGE), strict=True)
            )

        def read_pages(self, offsets, pages):
            pause.wait(0.02)  # long enough to be told from memory's time
            for o, p in zip(offsets, np.asarray(pages).reshape(-1, PAGE), strict=True):
                p[:] = np.frombuffer(held[int(o)], np.uint8)

    store = Store()
    store.nr_pages = 100
    z = engine(latency=True, backing=store, max_pool_bytes=0)
    page = random.Random(1).randbytes(PAGE)
    z[5] = page  # refused, so written through
    assert z[5] == page
    assert counts_of(z) == {"store": 1, "load": 1}
    assert z.latency()["load"].max >= 20_000_000


# ---- the histogram -------------------------------------------------------------------------------


def test_buckets():
    assert Latency.bounds[:9] == (0, 1, 2, 3, 4, 5, 6, 7, 8)
    assert list(Latency.bounds) == sorted(set(Latency.bounds))
    for start, end in zip(Latency.bounds[4:], Latency.bounds[5:], strict=False):
        assert end - start <= start / 4
    for ns in [0, 1, 3, 4, 7, 8, 9, 10, 15, 16, 1000, 123456789, (1 << 41) - 1]:
        h = Histogram()
        h.record(ns)
        (bucket,) = np.flatnonzero(h.read()[0])
        assert Latency.bounds[bucket] <= ns < Latency.bounds[bucket + 1]
    for ns in [1 << 41, 1 << 63]:
        h = Histogram()
        h.record(ns)
        assert h.read()[0][-1] == 1
        assert h.read()[2] == ns


def test_an_epoch_that_is_over_does_not_count():
    h = Histogram()
    h.record(5)
    h.record(6)
    assert h.read(epoch=2) == ((0,) * len(h.read()[0]), 0, 0)
    h.record(9, epoch=2)
    assert sum(h.read(epoch=2)[0]) == 1
    assert h.read(epoch=2)[1:] == (9, 9)
    assert sum(h.read()[0]) == 0


@pytest.mark.parametrize("seed", range(3))
def test_percentiles_are_off_by_a_bucket_at_most(seed):
    rng = random.Random(seed)
    times = sorted(int(rng.lognormvariate(8, 2)) + 1 for _ in range(999))
    h = Histogram()
    for ns in times:
        h.record(ns)
    latency = Latency(*h.read())
    assert latency.count == 999
    assert latency.total == sum(times)
    assert latency.max == latency.percentile(100) == times[-1]
    for percent in (1, 25, 50, 90, 99, 99.9):
        exact = times[max(int(np.ceil(999 * percent / 100)) - 1, 0)]
        assert abs(latency.percentile(percent) - exact) <= max(exact / 4, 1)


def test_percentiles_out_of_range():
    latency = Latency((0,) * (len(Latency.bounds) - 1), 0, 0)
    assert latency.p99 == 0
    for percent in (-1, 101):
        with pytest.raises(ValueError, match="0 to 100"):
            latency.percentile(percent)
