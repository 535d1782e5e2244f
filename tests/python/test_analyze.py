"""The measurement and the estimate: against the allocators, against lz4 itself, and against whole
populations."""

import mmap
import zlib

import lz4.block
import numpy as np
import pytest

import zswap
from hooks.zpool import Zpool
from zswap.advice import DEFLATE_KERNEL
from zswap.analyze import analyze, default_compressors
from zswap.estimate import CompressorResult, Timing, estimate, zpool_model
from zswap.kernel import Kernel
from zswap.pages import PageSource, SourceError, open_files
from zswap.zpools import parse_zpool

PAGE = 4096
ZPOOLS = ("zsmalloc", "zsmalloc-kernel", "zsmalloc-kernel:4")

pytestmark = pytest.mark.skipif(mmap.PAGESIZE != PAGE, reason="figures are for pages of 4096 bytes")


def result_of(sizes, name="lz4", store=1000.0, load=500.0):
    """A result as if pages with these payloads had been measured."""
    histogram = np.bincount(sizes, minlength=PAGE + 1)
    return CompressorResult(
        name, len(sizes), histogram, Timing(store, store, store), Timing(load, load, load)
    )


def options(name):
    """What `Zpool` is made with for a spec."""
    _, chain, kernel = parse_zpool(name)
    return {"chain": chain, "kernel": kernel} if kernel or chain else {}


def payloads(count, seed=0):
    """Payloads as processes have them: same-filled, small, middling, raw."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(4, count, p=(0.2, 0.3, 0.4, 0.1))
    return np.choose(kinds, (0, rng.integers(30, 600, count), rng.integers(600, 3700, count), PAGE))


@pytest.mark.parametrize("name", [*ZPOOLS, "zsmalloc:1", "z3fold", "zbud"])
def test_incompressible_is_what_takes_a_page_by_itself(name):
    model, taken = (
        zpool_model(name),
        Zpool(parse_zpool(name)[0].removesuffix("-kernel"), **options(name)),
    )
    largest = model.max_saving_size
    assert largest == taken.max_saving_size
    # Many small ones: in zbud and z3fold each byte of theirs costs dearly, and none takes a page.
    found = estimate(
        result_of([0] * 10 + [700] * 60 + [largest] * 20 + [largest + 1] * 20), model, 110
    )
    assert found.incompressible == pytest.approx(20 / 110)


def page_mix(each, seed=0):
    """`each` pages of zeros, of one repeated word, of text, and of random bytes, shuffled."""
    rng = np.random.default_rng(seed)
    text = b"".join(
        b"%d bottles of beer on the wall, %d bottles of beer;\n" % (i, i * 7)
        for i in range(each * PAGE // 40)
    )
    pages = np.concatenate(
        [
            np.zeros((each, PAGE), np.uint8),
            np.full((each, PAGE // 8), 0x0102030405060708, np.uint64).view(np.uint8),
            np.frombuffer(text[: each * PAGE], np.uint8).reshape(each, PAGE),
            rng.integers(0, 256, (each, PAGE), np.uint8),
        ]
    )
    return rng.permutation(pages)


@pytest.fixture
def mix(tmp_path):
    """A source of 4 x 300 pages of four kinds."""
    (tmp_path / "mix").write_bytes(page_mix(300).tobytes())
    with open_files([tmp_path / "mix"]) as source:
        yield source


# ---- allocators ----------------------------------------------------------------------------------


def test_kernel_costs_are_the_kernels():
    costs = zpool_model("zsmalloc-kernel").costs(np.zeros(PAGE + 1, np.int64))
    known = {
        0: 0,
        500: 512,
        1000: 1024,
        1365: 1424.7,
        2048: 2184.5,
        2500: 2520.6,
        3000: 3072,
        3400: 3413.3,
        3624: 3640.9,
        3625: PAGE,
    }
    assert {size: round(float(costs[size]), 1) for size in known} == known
    tighter = zpool_model("zsmalloc-kernel:4").costs(np.zeros(PAGE + 1, np.int64))
    assert (tighter[3256], tighter[3257]) == (4 * PAGE / 5, PAGE)


@pytest.mark.parametrize("name", ZPOOLS)
@pytest.mark.parametrize("count", [1, 10, 5000])
def test_estimate_of_all_pages_is_what_the_allocator_reports(name, count):
    sizes = payloads(count, seed=count)
    base, chain, kernel = parse_zpool(name)
    pool = Zpool(base, chain=chain, kernel=kernel)
    pool.malloc_many(sizes[sizes > 0].astype(np.uint32))
    found = estimate(result_of(sizes), zpool_model(name), count)
    assert found.allocator_bytes + found.unused_bytes == pytest.approx(
        pool.total_pages * PAGE, abs=1
    )
    assert found.saved_low == found.saved_bytes == found.saved_high


@pytest.mark.parametrize("name", ZPOOLS)
def test_a_target_is_charged_its_share_and_not_the_zspages_that_it_leaves_half_empty(name):
    # A shell: 240 pages that compress to an eighth, in as many classes as there can be.
    sizes = np.linspace(60, 960, 240).astype(int)
    found = estimate(result_of(sizes), zpool_model(name), sizes.size)
    assert 0.84 < found.saved < 0.88
    assert found.saved == pytest.approx(
        estimate(result_of(np.tile(sizes, 40)), zpool_model(name), 9600).saved, abs=0.001
    )
    assert found.unused_bytes > (0.1 if name == "zsmalloc" else 0.5) * found.allocator_bytes


@pytest.mark.parametrize("name", ZPOOLS)
def test_no_small_target_costs_many_times_itself(name):
    for count in (1, 3, 17, 69):
        for seed in range(20):
            found = estimate(result_of(payloads(count, seed)), zpool_model(name), count)
            # A raw page costs itself and its metadata, nothing more.
            assert found.saved > -0.03


@pytest.mark.parametrize("name", ZPOOLS)
def test_slots_are_the_largest_payloads_of_their_class(name):
    model = zpool_model(name)
    costs = model.costs(np.zeros(PAGE + 1, np.int64))
    boundaries = np.flatnonzero(np.diff(costs[1:])) + 1
    assert set(boundaries.tolist()) <= set(model.slots.tolist())
    assert model.slots[-1] == PAGE


def test_engine_takes_what_the_estimate_says():
    pages = page_mix(500)
    with zswap.ZSwap("lz4", max_pool_bytes=1 << 30) as engine:
        engine.store_many(np.arange(len(pages)), pages)
        sizes = engine.compressed_sizes(np.arange(len(pages)))
        stats = engine.stats()
    found = estimate(result_of(sizes), zpool_model("zsmalloc"), len(pages))
    assert found.allocator_bytes + found.unused_bytes == pytest.approx(stats.pool_total_size, abs=1)
    # The engine's own metadata has a part that does not grow; the estimate is of what each page
    # adds.
    assert found.metadata_bytes <= stats.metadata_bytes
    assert 20 <= found.metadata_bytes / len(pages) <= 80


# ---- the interval --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sampled"), [("zsmalloc", 60), ("zsmalloc-kernel", 400), ("zsmalloc-kernel", 3000)]
)
def test_interval_holds_the_truth_95_times_in_100(name, sampled):
    model = zpool_model(name)
    tries, pages = 400, 5000
    held, errors, margins = 0, [], []
    for seed in range(tries):
        population = payloads(pages, seed)
        truth = estimate(result_of(population), model, pages).saved_bytes
        chosen = np.random.default_rng(10_000 + seed).choice(population, sampled, replace=False)
        found = estimate(result_of(chosen), model, pages)
        held += found.saved_low <= truth <= found.saved_high
        errors.append(found.saved_bytes - truth)
        margins.append(found.margin_bytes)
    # 380 of 400 are expected, with a standard deviation of 4.4.
    assert 0.925 * tries <= held <= 0.98 * tries
    # The estimate leans to neither side by more than a small part of what the interval allows.
    assert abs(np.mean(errors)) < 0.25 * np.std(errors)
    # And the interval is as wide as it has to be.
    assert np.mean(margins) == pytest.approx(1.96 * np.std(errors), rel=0.12)


def test_partial_zspages_of_a_small_sample_are_not_multiplied():
    sizes = np.arange(40, 3600, 40)  # one object in most classes
    model = zpool_model("zsmalloc-kernel")
    few = estimate(result_of(sizes), model, sizes.size)
    many = estimate(result_of(sizes), model, 1000 * sizes.size)
    assert few.unused_bytes > sizes.sum()
    assert many.unused_bytes < few.unused_bytes
    assert few.saved == pytest.approx(many.saved, abs=1e-6)


@pytest.mark.parametrize("sizes", [[0], [PAGE], [0, 0, 0], [PAGE] * 3, [17]])
def test_estimate_of_extreme_samples(sizes):
    for name in ZPOOLS:
        found = estimate(result_of(np.array(sizes)), zpool_model(name), 1000)
        assert found.saved_low <= found.saved_bytes <= found.saved_high
        assert found.memory_bytes > 0
        if set(sizes) == {PAGE}:
            assert found.saved_bytes < 0
            assert found.incompressible == 1


# ---- measuring -----------------------------------------------------------------------------------


def test_shares_and_payload_are_right(mix):
    found = analyze(mix, compressors=["lz4"], pages=None)
    assert (found.total_pages, found.sampled_pages, found.vanished_pages) == (1200, 1200, 0)
    assert found.same_filled == 0.5
    (lz4_result,) = found.compressors
    assert lz4_result.raw_pages == 300
    data, _ = mix.read(np.arange(1200))
    expected = sum(
        min(len(lz4.block.compress(page.tobytes(), store_size=False)), PAGE)
        for page in data
        if (page.view(np.uint64) != page.view(np.uint64)[0]).any()
    )
    assert lz4_result.payload_bytes == pytest.approx(expected, rel=0.01)
    assert lz4_result.payload_ratio == 1200 * PAGE / lz4_result.payload_bytes
    for e in found.estimates:
        assert e.saved_low == e.saved_bytes == e.saved_high
        assert e.incompressible == 0.25


def test_sample_estimates_the_whole(mix):
    everything = analyze(mix, compressors=["lz4"], pages=None)
    part = analyze(mix, compressors=["lz4"], pages=400, seed=5)
    again = analyze(mix, compressors=["lz4"], pages=400, seed=5)
    other = analyze(mix, compressors=["lz4"], pages=400, seed=6)
    assert part.sampled_pages == 400
    assert (part.compressors[0].histogram == again.compressors[0].histogram).all()
    assert (part.compressors[0].histogram != other.compressors[0].histogram).any()
    for e in part.estimates:
        truth = everything.estimate(e.compressor, e.zpool)
        assert e.target_bytes == truth.target_bytes
        assert abs(e.saved_bytes - truth.saved_bytes) < 2 * e.margin_bytes


def test_more_pages_than_fit_one_chunk(mix, monkeypatch):
    whole = analyze(mix, compressors=["lz4"], pages=None)
    monkeypatch.setattr("zswap.pages.sampling.CHUNK_PAGES", 64)
    monkeypatch.setattr("zswap.measure._BATCH", 50)
    monkeypatch.setattr("zswap.measure._TIMED_PAGES", 100)
    steps = []
    parts = analyze(
        mix,
        compressors=["lz4"],
        pages=None,
        progress=lambda done, total, what: steps.append((done, total, what)),
    )
    assert (whole.compressors[0].histogram == parts.compressors[0].histogram).all()
    assert [m.sampled for m in parts.mappings] == [1200]
    done = [step[0] for step in steps]
    assert done == sorted(done)
    assert steps[-1][0] == steps[-1][1]


def test_every_available_compressor_is_tried(mix):
    found = analyze(mix, pages=200, kernel=Kernel())
    assert [r.name for r in found.compressors] == default_compressors()
    assert {"lz4", "zstd:1", "zstd:3"} <= set(default_compressors())
    assert [(e.compressor, e.zpool) for e in found.estimates] == [
        (r.name, zpool) for r in found.compressors for zpool in zswap.zpools()
    ]
    for r in found.compressors:
        assert 0 < r.store.median <= r.store.p99
        assert 0 < r.load.median <= r.load.p99
        assert r.same_filled_pages == found.same_filled_pages


def test_mappings_add_up(tmp_path):
    for name, data in (
        ("zeros", bytes(50 * PAGE)),
        ("noise", np.random.default_rng(0).bytes(30 * PAGE)),
    ):
        (tmp_path / name).write_bytes(data)
    with open_files([tmp_path / "zeros", tmp_path / "noise"]) as source:
        found = analyze(source, compressors=["lz4"], pages=40)
    zeros, noise = found.mappings
    assert (zeros.pages, noise.pages) == (50, 30)
    assert zeros.sampled + noise.sampled == 40
    assert (zeros.same_filled, zeros.raw) == (zeros.sampled, 0)
    assert (noise.same_filled, noise.raw) == (0, noise.sampled)
    assert noise.payload_bytes == noise.sampled * PAGE


class Unreadable(PageSource):
    """A source whose pages have all gone."""

    def _read_spans(self, spans, pages):
        return [row for _, _, begin, end in spans for row in range(begin, end)]


def test_nothing_readable_is_an_error():
    source = Unreadable(
        kind="process", title="process 1 (gaps)", paths=["/proc/1/mem"], path_index=[0],
        offsets=[0x1000], counts=[5],
        mapping_index=[0], mappings=["[anon]"], page_size=PAGE, pid=1,
    )  # fmt: skip
    with pytest.raises(SourceError, match="none of the 5 pages"):
        analyze(source, compressors=["lz4"])


def test_unknown_names_are_errors(mix):
    with pytest.raises(zswap.CompressorNotFound, match="no-such"):
        analyze(mix, compressors=["no-such"])
    with pytest.raises(ValueError, match="no-such"):
        analyze(mix, compressors=["lz4"], zpools=["no-such"])


def test_the_kernels_deflate_is_measured_with_zlib_where_the_kernel_has_it(mix):
    kernel = Kernel(release="6.18.0", zswap={"compressor": "lzo"}, crypto=frozenset({"deflate"}))
    assert DEFLATE_KERNEL not in default_compressors(Kernel())
    steps = []
    found = analyze(
        mix,
        compressors=["lz4", "deflate"] if "deflate" in default_compressors() else None,
        kernel=kernel,
        pages=None,
        progress=lambda done, total, what: steps.append((done, total)),
    )
    result = found.compressor(DEFLATE_KERNEL)
    assert result.pages == 1200  # as many as are timed
    assert result.same_filled_pages == 600
    text = [page.tobytes() for page in mix.read(np.arange(1200))[0]]
    expected = 0
    for page in text:
        stream = zlib.compressobj(6, zlib.DEFLATED, -11, 9)
        packed = len(stream.compress(page) + stream.flush())
        expected += min(packed, PAGE) if page != page[:8] * (PAGE // 8) else 0
    assert result.payload_bytes == pytest.approx(expected, rel=0.01)
    assert steps[-1][0] == steps[-1][1]
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert found.advice.zswap.compressor == "deflate"


def test_what_takes_long_is_measured_on_a_part(mix, monkeypatch):
    monkeypatch.setattr("zswap.measure._SLOW_PAGES", 100)
    kernel = Kernel(release="6.18.0", zram="present", zram_compressors=frozenset({"deflate"}))
    found = analyze(mix, kernel=kernel, pages=None)
    assert (found.sampled_pages, found.compressor(DEFLATE_KERNEL).pages) == (1200, 100)
    e = found.estimate(DEFLATE_KERNEL, "zsmalloc-kernel")
    assert e.margin_bytes > 0
    truth = found.estimate("zstd:3", "zsmalloc-kernel")
    assert abs(e.saved - truth.saved) < 0.1


def test_auto_is_measured_as_what_it_stands_for(mix, monkeypatch):
    monkeypatch.setenv("ZSWAP_LREF", "portable")
    found = analyze(mix, pages=50, compressors=["auto", "lz4"], kernel=Kernel())
    assert [r.name for r in found.compressors] == ["lz4"]


def test_lzo_through_python_is_measured_only_by_request(monkeypatch):
    listed = [
        zswap.CompressorInfo("lz4", True, origin="wheel"),
        zswap.CompressorInfo("lzo", True, origin="python"),
    ]
    monkeypatch.setattr(zswap, "compressors", lambda: listed)
    assert default_compressors() == ["lz4"]


def test_an_old_kernels_zsmalloc_has_short_chains(mix):
    found = analyze(mix, compressors=["lz4"], pages=100, kernel=Kernel(release="5.15.0", chain=4))
    assert "zsmalloc-kernel:4" in {e.zpool for e in found.estimates}
    assert found.advice.zpool == "zsmalloc-kernel:4"
