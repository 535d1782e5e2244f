"""The Prometheus collector: names, types, labels, and engines that come and go."""

import dataclasses
import gc
import importlib
import os
import sys

import pytest

import zswap

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from zswap.prometheus import Collector

PAGE = 4096


def scrape(*collectors):
    """The families as Prometheus would read them, by name."""
    registry = CollectorRegistry(auto_describe=True)
    for collector in collectors:
        registry.register(collector)
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    assert len({f.name for f in families}) == len(families)
    return {f.name: f for f in families}


def values(families, name, **labels):
    """The values of the samples of one family with these labels."""
    return [s.value for s in families[name].samples if labels.items() <= s.labels.items()]


class Fake:
    """An engine whose figures are what one says."""

    closed = False
    asked = 0

    def __init__(self, pools=(), **figures):
        self.figures = {field.name: 0 for field in dataclasses.fields(zswap.Stats)} | figures
        self.listed = list(pools)

    def stats(self):
        self.asked += 1
        return zswap.Stats(**self.figures)

    def pools(self):
        return self.listed

    def latency(self):
        nothing = zswap.Latency((0,) * (len(zswap.Latency.bounds) - 1), 0, 0)
        return {"store": nothing, "load": nothing}


@pytest.fixture
def z():
    with zswap.ZSwap(max_pool_bytes="1MiB") as engine:
        yield engine


def test_samples_are_the_engines_figures(z):
    z[1] = os.urandom(PAGE)
    z[2] = bytes(PAGE)
    z[2] = b"swap" * 1024
    assert z[1]
    assert z.get(9) is None
    z.parameters["enabled"] = False
    with pytest.raises(zswap.Error):
        z[3] = bytes(PAGE)
    families, stats = scrape(Collector(z)), z.stats()
    assert values(families, "zswap_stored_pages") == [2]
    assert values(families, "zswap_same_filled_pages") == [1]
    assert values(families, "zswap_stored_incompressible_pages") == [1]
    assert values(families, "zswap_compressed_bytes") == [PAGE]
    assert values(families, "zswap_pool_total_size_bytes") == [stats.pool_total_size]
    assert values(families, "zswap_max_pool_bytes") == [1 << 20]
    assert values(families, "zswap_compression_ratio") == [pytest.approx(stats.compression_ratio)]
    assert values(families, "zswap_loads") == [1]
    assert values(families, "zswap_load_misses") == [stats.load_misses]
    assert values(families, "zswap_duplicate_entry") == [1]
    assert values(families, "zswap_rejects", reason="disabled") == [1]
    assert values(families, "zswap_rejects", reason="pool_limit") == [0]


def test_every_figure_is_shown_once():
    fields = [field.name for field in dataclasses.fields(zswap.Stats)]
    fake = Fake(**{name: 1000 + number for number, name in enumerate(fields)})
    families = scrape(Collector(fake))
    shown = [s.value for f in families.values() for s in f.samples]
    for name in fields:
        assert shown.count(fake.figures[name]) == 1, name


def test_types_names_and_help_follow_the_conventions(z):
    for name, family in scrape(Collector(z)).items():
        assert name.startswith("zswap_")
        assert family.documentation.endswith(".")
        assert (
            family.type == "histogram"
            if name.endswith("_seconds")
            else family.type in ("counter", "gauge")
        )
        assert all(s.name.endswith("_total") == (family.type == "counter") for s in family.samples)
        assert "size" not in name.removesuffix("_bytes") or name.endswith("_bytes")
    text = generate_latest(registry := CollectorRegistry()).decode()
    assert text == ""
    registry.register(Collector(z))
    assert "zswap_loads_total 0.0" in generate_latest(registry).decode()


def test_latencies_are_histograms(z):
    z.parameters["latency"] = True
    for offset in range(20):
        z[offset] = os.urandom(PAGE)
    z.load_many(range(15))
    families, latency = scrape(Collector(z, labels={"engine": "a"})), z.latency()
    for name, kind, calls in (
        ("zswap_store_seconds", "store", 20),
        ("zswap_load_seconds", "load", 15),
    ):
        samples = families[name].samples
        buckets = [(float(s.labels["le"]), s.value) for s in samples if s.name == f"{name}_bucket"]
        assert buckets[-1] == (float("inf"), calls)
        assert [count for _, count in buckets] == sorted(count for _, count in buckets)
        for end, count in buckets:
            assert count == sum(
                n
                for n, start in zip(latency[kind].counts, zswap.Latency.bounds, strict=False)
                if start < end * 1e9
            )
        assert {s.name.removeprefix(name): s.value for s in samples if "le" not in s.labels} == {
            "_count": calls,
            "_sum": pytest.approx(latency[kind].total / 1e9),
        }
        assert {s.labels["engine"] for s in samples} == {"a"}


def test_each_pool_has_its_series(z):
    z[1] = os.urandom(PAGE)
    z.compressor = "zstd:3"
    z[2] = z[3] = os.urandom(PAGE)
    families = scrape(Collector(z))
    for pool in z.pools():
        labels = {"compressor": pool.compressor, "zpool": pool.zpool}
        assert values(families, "zswap_pool_current", **labels) == [pool.current]
        assert values(families, "zswap_pool_stored_pages", **labels) == [pool.stored_pages]
        assert values(families, "zswap_pool_size_bytes", **labels) == [pool.total_size]
        assert values(families, "zswap_pool_references", **labels) == [pool.references]
    assert sorted(values(families, "zswap_pool_stored_pages")) == [1, 2]


def test_pools_alike_in_both_names_are_one_series():
    pool = zswap.PoolInfo("lz4", "zsmalloc", True, 3, 8192, 4)
    old = zswap.PoolInfo("lz4", "zsmalloc", False, 2, 4096, 2)
    fake = Fake([pool, old])
    families = scrape(Collector(fake))
    assert values(families, "zswap_pool_stored_pages") == [5]
    assert values(families, "zswap_pool_current") == [1]


def test_several_engines_by_label(z):
    with zswap.ZSwap(max_pool_bytes="2MiB") as other:
        collector = Collector(z, labels={"engine": "a", "node": "0"})
        collector.add(other, labels={"node": "1", "engine": 'b"\n'})
        other[0] = bytes(PAGE)
        families = scrape(collector)
        assert values(families, "zswap_stored_pages", engine="a", node="0") == [0]
        assert values(families, "zswap_stored_pages", engine='b"\n', node="1") == [1]
        assert len(values(families, "zswap_rejects", reason="area")) == 2
        with pytest.raises(ValueError, match="another engine has the labels"):
            collector.add(other, labels={"engine": "a", "node": "0"})
        with pytest.raises(ValueError, match="needs"):
            collector.add(other, labels={"engine": "c"})
    assert values(scrape(collector), "zswap_stored_pages") == [0]
    collector.add(
        zswap_again := zswap.ZSwap(max_pool_bytes="1MiB"), labels={"engine": 'b"\n', "node": "1"}
    )
    zswap_again.close()


@pytest.mark.parametrize("name", ["reason", "zpool", "compressor", "__name__", "1st", "a-b", ""])
def test_bad_label_names_are_refused(z, name):
    with pytest.raises(ValueError, match="label"):
        Collector(z, labels={name: "x"})


def test_closed_engine_has_no_samples(z):
    collector = Collector(z)
    z.close()
    families = scrape(collector)
    assert "zswap_stored_pages" in families
    assert not any(f.samples for f in families.values())


def test_engine_closed_during_a_scrape_has_no_samples(z, monkeypatch):
    collector = Collector(z)
    monkeypatch.setattr(type(z), "pools", lambda self: (self.close(), self.stats()))
    assert not any(f.samples for f in scrape(collector).values())


def test_collector_keeps_no_engine_alive():
    collector = Collector(fake := Fake())
    del fake
    gc.collect()
    assert not any(f.samples for f in scrape(collector).values())


def test_nothing_is_read_but_on_a_scrape():
    fake = Fake()
    collector = Collector(fake)
    registry = CollectorRegistry(auto_describe=True)
    registry.register(collector)
    assert fake.asked == 0
    generate_latest(registry)
    assert fake.asked == 1


def test_a_counter_never_goes_back():
    fake = Fake(pages_compacted=10)
    collector = Collector(fake)
    assert values(scrape(collector), "zswap_pages_compacted") == [10]
    fake.figures["pages_compacted"] = 4  # a pool is being freed just now
    assert values(scrape(collector), "zswap_pages_compacted") == [10]


def test_missing_package_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "zswap.prometheus")
    monkeypatch.setitem(sys.modules, "prometheus_client.core", None)
    with pytest.raises(ImportError, match=r"pip install 'zswap\[prometheus\]'"):
        importlib.import_module("zswap.prometheus")
