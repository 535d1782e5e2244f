"""What zswap would save: measure a sample of pages, estimate the whole target.

Nothing here prints.  `analyze` reads pages from a `zswap.pages.PageSource`, compresses each once with each compressor, and
works out for each allocator (zpool) what the whole target would take.

The estimate
------------
The sample is drawn uniformly at random without replacement: ``n`` of ``N`` pages.  A page with a payload of ``s`` bytes
costs ``c(s)`` bytes: its share of the allocator's pages plus its metadata.  The mean cost of the sample estimates that of
the target without bias, with the variance ``(1 - n/N) * S**2 / n``, where ``S**2`` is the sample variance of ``c`` and
``1 - n/N`` the finite population correction (W. G. Cochran, Sampling Techniques, 3rd ed., 1977, theorem 2.2 and equation
2.20).  The interval is the mean -+ t standard errors, t being the quantile of Student's distribution (Cochran 2.24).  When
all pages are read it is a point.  It says how far a sample may mislead; that the process goes on changing is not in it.

An allocator hands memory out in zspages, so beside each object's share of one there is what the last zspage of each size
class leaves unused.  Multiplying that with the rest would overstate it: it does not grow with the target.  Instead the
number of objects that the whole target has in each class is drawn many times, given the sample (Poisson, smoothed over
neighbouring classes so that a class the sample missed is not taken for empty), and the zspages are counted that the
allocator would fill; mean and variance of what is left unused go into the estimate and into the interval.  When all pages
are read there is nothing to draw, and the result is what the allocator itself would report.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

import zswap
from zswap.pages import PageSource, SourceError, sample
from zswap.zpools import parse_zpool

__all__ = [
    "DEFAULT_COMPRESSORS",
    "Advice",
    "Analysis",
    "CompressorResult",
    "Estimate",
    "MappingResult",
    "SlotTable",
    "Timing",
    "analyze",
    "default_compressors",
    "estimate",
]

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Progress = Callable[[int, int, str], object]

#: Measured when none is named, as far as their libraries are there.
DEFAULT_COMPRESSORS = ("lz4", "lz4hc", "zstd:1", "zstd:3", "lzo", "deflate")

#: The kernel's metadata: struct zswap_entry of each page, and the 8-byte slab cell that a zsmalloc handle points to.
KERNEL_ENTRY_BYTES = 56
KERNEL_HANDLE_BYTES = 8
#: What zsmalloc puts in front of each object: the handle again, for compaction.
KERNEL_OBJECT_HEADER = 8

#: Less saved than this share of the target is not worth the processor time.
WORTH_SAVING = 0.10
#: A balanced compressor saves at least this share of what the densest one saves.
NEARLY_DENSEST = 0.90
#: Two that save so nearly the same share of the target are as dense as each other.
AS_DENSE = 0.005
#: The kernel's default, and a bound above which the pool would crowd out what runs.
DEFAULT_POOL_PERCENT, LARGEST_POOL_PERCENT = 20, 50

_NO_LIMIT = 1 << 40  # for engines that hold no more than a part of the sample
_DRAWS = 200  # of the number of objects in each class
_BATCH = 1024  # pages between two looks at Ctrl-C
_TIMED_PAGES = 4096
_REPEATS = 3


@dataclass(frozen=True)
class Timing:
    """Nanoseconds a page, over the pages that the compressor had to work on (all but the same-filled)."""

    median: float
    p99: float
    mean: float


@dataclass(frozen=True)
class CompressorResult:
    """What one compressor makes of the sample.

    Attributes
    ----------
    name : str
        As given: ``zstd:3``.
    pages : int
        Pages measured.
    histogram : ndarray of int64, shape (page_size + 1,)
        Number of pages by payload: 0 is same-filled, `page_size` is kept raw.
    store, load : Timing
    through_python : bool
        Whether it was called through Python, so that its times are not those of the compressor alone.
    """

    name: str
    pages: int
    histogram: Int64Array
    store: Timing
    load: Timing
    through_python: bool = False

    @property
    def page_size(self) -> int:
        return self.histogram.size - 1

    @property
    def payload_bytes(self) -> int:
        """Bytes of all payloads of the sample; a raw page counts whole, a same-filled one nothing."""
        return int(self.histogram @ np.arange(self.histogram.size))

    @property
    def payload_ratio(self) -> float:
        """Bytes of the sample over bytes of its payloads; infinite when every page is same-filled."""
        payload = self.payload_bytes
        return self.pages * self.page_size / payload if payload else math.inf

    @property
    def same_filled_pages(self) -> int:
        return int(self.histogram[0])

    @property
    def raw_pages(self) -> int:
        return int(self.histogram[-1])


@dataclass(frozen=True)
class Estimate:
    """What the whole target would take and save with one compressor and one zpool; the interval holds at 95 %.

    Attributes
    ----------
    compressor, zpool : str
    incompressible : float
        Share of pages that would take a whole page of the allocator.
    allocator_bytes, metadata_bytes : int
    memory_bytes : int
        Both together.
    saved_bytes, saved_low, saved_high : int
        Bytes of the target less `memory_bytes`; negative when it would take more.
    """

    compressor: str
    zpool: str
    target_bytes: int
    incompressible: float
    allocator_bytes: int
    metadata_bytes: int
    saved_low: int
    saved_high: int

    @property
    def memory_bytes(self) -> int:
        return self.allocator_bytes + self.metadata_bytes

    @property
    def saved_bytes(self) -> int:
        return self.target_bytes - self.memory_bytes

    @property
    def saved(self) -> float:
        """Share of the target that is saved."""
        return self.saved_bytes / self.target_bytes

    @property
    def margin_bytes(self) -> int:
        """Half the width of the interval."""
        return (self.saved_high - self.saved_low + 1) // 2

    @property
    def effective_ratio(self) -> float:
        return self.target_bytes / self.memory_bytes if self.memory_bytes else math.inf


@dataclass(frozen=True)
class MappingResult:
    """One mapping (all of the same name taken together) of the target, by the first compressor."""

    name: str
    pages: int
    sampled: int
    same_filled: int
    raw: int
    payload_bytes: int
    page_size: int

    @property
    def payload_ratio(self) -> float:
        return self.sampled * self.page_size / self.payload_bytes if self.payload_bytes else math.inf

    @staticmethod
    def together(name: str, parts: Sequence[MappingResult]) -> MappingResult:
        """Sum several up under one name."""
        return MappingResult(
            name,
            pages=sum(p.pages for p in parts),
            sampled=sum(p.sampled for p in parts),
            same_filled=sum(p.same_filled for p in parts),
            raw=sum(p.raw for p in parts),
            payload_bytes=sum(p.payload_bytes for p in parts),
            page_size=parts[0].page_size,
        )


@dataclass(frozen=True)
class Advice:
    """Which compressor for which aim, and what to tell a kernel.

    Attributes
    ----------
    worthwhile : bool
        Whether anything measured saves a tenth of the target.
    fastest, balanced, densest : str
        Least time for a store and a load; the same among those that save nearly as much as the densest; most saved.
    zpool : str
        The allocator that this was judged by.
    kernel_compressor : str or None
        Name for /sys/module/zswap/parameters/compressor; None when no measured compressor is one of the kernel's.
    kernel_measured : str or None
        The compressor measured here that stands for it.
    kernel_pool_bytes : int or None
        Upper end of the interval of what the kernel's pool would hold.
    pool_percent_needed : int or None
        That, in per cent of RAM, rounded up.
    max_pool_percent : int or None
        What to set.
    ram_bytes : int
    """

    worthwhile: bool
    fastest: str
    balanced: str
    densest: str
    zpool: str
    kernel_compressor: str | None
    kernel_measured: str | None
    kernel_pool_bytes: int | None
    pool_percent_needed: int | None
    max_pool_percent: int | None
    ram_bytes: int


@dataclass(frozen=True)
class Analysis:
    """All that was found out about a target."""

    kind: str
    title: str
    pid: int | None
    command: str | None
    paths: list[str]
    page_size: int
    total_pages: int
    swapped_pages: int
    shared_bytes: int
    hole_pages: int
    sampled_pages: int
    vanished_pages: int
    seed: int
    same_filled_pages: int
    compressors: list[CompressorResult]
    estimates: list[Estimate]
    mappings: list[MappingResult]
    zpool_slots: dict[str, Int64Array]
    advice: Advice
    pids: list[int] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    zero_pages: int = 0
    without_zeros: list[Estimate] = field(default_factory=list)

    @property
    def target_bytes(self) -> int:
        return self.total_pages * self.page_size

    @property
    def same_filled(self) -> float:
        """Share of the sample that is same-filled."""
        return self.same_filled_pages / self.sampled_pages

    @property
    def zeros(self) -> float:
        """Share of the sample that is all zeros."""
        return self.zero_pages / self.sampled_pages

    def compressor(self, name: str) -> CompressorResult:
        """Return the result of one compressor."""
        return next(result for result in self.compressors if result.name == name)

    def estimate(self, compressor: str, zpool: str) -> Estimate:
        """Return the estimate for one pair."""
        return next(e for e in self.estimates if (e.compressor, e.zpool) == (compressor, zpool))


# ---- allocators -------------------------------------------------------------------------------------------------------


class ZpoolModel(Protocol):
    """What the estimate asks of an allocator: memory for a number of objects of each payload."""

    @property
    def name(self) -> str: ...

    @property
    def slots(self) -> Int64Array:
        """The largest payload of each size class, ascending; empty when the allocator has none."""

    @property
    def max_saving_size(self) -> int:
        """The largest payload that takes less than a whole allocator page."""

    def costs(self, histogram: Int64Array) -> FloatArray:
        """Allocator bytes that one page takes among pages distributed as in `histogram`, by payload."""

    def unused(self, histogram: Int64Array, population: int) -> tuple[float, float]:
        """Allocator bytes beside those of `costs` that `population` pages take, given a sample: mean and variance."""

    def metadata_costs(self, page_size: int) -> FloatArray:
        """Metadata bytes of one page, by payload."""


@dataclass(frozen=True)
class SlotTable:
    """zsmalloc: slots of fixed sizes, cut from zspages of a few pages.

    Attributes
    ----------
    name : str
    sizes, pages, objects : ndarray of int64
        Each class's slot size, pages in a zspage, slots in a zspage; ascending by size.
    header : int
        Bytes that the allocator puts in front of an object; an object too large for that has them elsewhere.
    page_metadata, object_metadata : float
        Metadata bytes of every page, and of every page with an object.
    whole : bool
        Whether a zspage takes all of its pages from its first object on, as in the kernel; ours grow page by page.
    """

    name: str
    sizes: Int64Array
    pages: Int64Array
    objects: Int64Array
    header: int
    page_metadata: float
    object_metadata: float
    whole: bool

    @property
    def slots(self) -> Int64Array:
        return np.where(self.sizes == self.sizes[-1], self.sizes, self.sizes - self.header)

    @property
    def max_saving_size(self) -> int:
        return int(self.slots[-2]) if self.slots.size > 1 else 0

    def _class_of(self, page_size: int) -> Int64Array:
        payload = np.minimum(np.arange(page_size + 1) + self.header, self.sizes[-1])
        classes: Int64Array = np.searchsorted(self.sizes, payload).astype(np.int64)
        return classes

    def costs(self, histogram: Int64Array) -> FloatArray:
        page_size = histogram.size - 1
        share = self.pages * page_size / self.objects
        costs: FloatArray = share[self._class_of(page_size)]
        costs[0] = 0.0
        return costs

    def unused(self, histogram: Int64Array, population: int) -> tuple[float, float]:
        page_size, measured = histogram.size - 1, int(histogram.sum())
        of_class = self._class_of(page_size)[1:]
        counts = np.bincount(of_class, weights=histogram[1:], minlength=self.sizes.size).astype(np.int64)
        partial = np.append(counts[:-1], 0)  # raw pages are no neighbours of compressed ones
        neighbours = (np.convolve(partial, np.ones(5), "same") - partial) / 4
        unseen = (counts + neighbours) / 2 * (population - measured) / measured
        drawn = counts + np.random.default_rng(0).poisson(unseen, (_DRAWS if population > measured else 1, counts.size))
        left = self._pages_for(drawn, page_size) * page_size - drawn * (self.pages * page_size / self.objects)
        total = left.sum(axis=1)
        return float(total.mean()), float(total.var())

    def _pages_for(self, objects: Int64Array, page_size: int) -> Int64Array:
        """Pages that so many objects of each class take, no zspage being emptier than need be."""
        zspages, rest = np.divmod(objects, self.objects)
        last = self.pages * (rest > 0) if self.whole else -(-rest * self.sizes // page_size)
        pages: Int64Array = zspages * self.pages + last
        return pages

    def metadata_costs(self, page_size: int) -> FloatArray:
        costs = np.full(page_size + 1, self.page_metadata + self.object_metadata)
        costs[0] = self.page_metadata
        return costs


@dataclass(frozen=True)
class FedZpool:
    """Any other allocator: it is fed the payloads of the sample in random order, and its pages are scaled to the target.

    What one object costs is not defined here, as neighbours share pages; for the interval each payload is charged in
    proportion to its size, the linearised ratio estimator (Cochran 6.3).
    """

    name: str
    malloc_pages: Callable[[Int64Array], int]
    max_saving_size: int
    page_metadata: float
    object_metadata: float

    _MOST_FED = 1 << 16

    @property
    def slots(self) -> Int64Array:
        return np.zeros(0, np.int64)

    def costs(self, histogram: Int64Array) -> FloatArray:
        page_size, limit = histogram.size - 1, self.max_saving_size
        sizes = np.repeat(np.arange(1, limit + 1), histogram[1 : limit + 1])
        fed = np.random.default_rng(0).permutation(sizes)[: self._MOST_FED]
        each = self.malloc_pages(fed) * page_size / fed.sum() if fed.size else 0.0
        costs = np.arange(page_size + 1) * each
        costs[limit + 1 :] = page_size  # raw: in the allocator, or refused and left where it was
        return costs

    def unused(self, histogram: Int64Array, population: int) -> tuple[float, float]:
        return 0.0, 0.0

    def metadata_costs(self, page_size: int) -> FloatArray:
        costs = np.full(page_size + 1, self.page_metadata + self.object_metadata)
        costs[0] = self.page_metadata
        return costs


def kernel_zsmalloc(chain: int = 0, *, page_size: int = 4096) -> SlotTable:
    """Model the Linux kernel's zsmalloc under zswap; `chain` is CONFIG_ZSMALLOC_CHAIN_SIZE, 0 for the default of 8."""
    name = f"zsmalloc-kernel:{chain}" if chain else "zsmalloc-kernel"
    return _slot_table(name, chain or 8, True, page_size, KERNEL_OBJECT_HEADER, KERNEL_ENTRY_BYTES, KERNEL_HANDLE_BYTES)


def zpool_model(name: str, *, page_size: int = 4096) -> ZpoolModel:
    """Find the model of an allocator by its name.

    Parameters
    ----------
    name : str
        One of ``zswap.zpools()``; of zsmalloc also with its chain, as in ``zsmalloc-kernel:4``.
    page_size : int

    Returns
    -------
    ZpoolModel
    """
    base, chain, kernel = parse_zpool(name)
    if kernel:
        return kernel_zsmalloc(chain, page_size=page_size)
    page, item = _library_metadata(name, page_size)
    if base == "zsmalloc":
        return _slot_table(name, chain, False, page_size, 0, page, item)

    from zswap_core.testing_zpool import Zpool

    def malloc_pages(sizes: Int64Array) -> int:
        pool = Zpool(name, page_size=page_size)
        pool.malloc_many(sizes.astype(np.uint32))
        return int(pool.total_pages)

    return FedZpool(name, malloc_pages, Zpool(name, page_size=page_size).max_saving_size, page, item)


def _slot_table(
    name: str, chain: int, kernel: bool, page_size: int, header: int, page_metadata: float, object_metadata: float
) -> SlotTable:
    from zswap_core.testing_zpool import Zpool

    table = np.array(Zpool("zsmalloc", chain=chain, kernel=kernel, page_size=page_size).classes(), np.int64)
    table = table[np.argsort(table[:, 0], kind="stable")]
    return SlotTable(name, table[:, 0], table[:, 1], table[:, 2], header, page_metadata, object_metadata, kernel)


@lru_cache
def _library_metadata(zpool: str, page_size: int) -> tuple[float, float]:
    """Bytes of metadata that this library adds for each page, and more for each page with an object: measured once.

    Same-filled and well compressible pages are stored at ascending offsets, and the growth is taken over the second half, so
    that what the engine keeps anyway does not count.
    """
    batch, batches = 1024, 64
    same = np.zeros((batch, page_size), np.uint8)
    other = same.copy()
    other[:, ::512] = 1
    growth = []
    for pages in (same, other):
        with zswap.ZSwap("lz4", zpool, page_size=page_size, max_pool_bytes=_NO_LIMIT, shrinker_enabled=False) as engine:
            for number in range(2 * batches):
                if number == batches:
                    before = engine.stats().metadata_bytes
                engine.store_many(np.arange(number * batch, (number + 1) * batch, dtype=np.uint64), pages)
            growth.append((engine.stats().metadata_bytes - before) / (batch * batches))
    return growth[0], max(0.0, growth[1] - growth[0])


def estimate(result: CompressorResult, model: ZpoolModel, population: int) -> Estimate:
    """Estimate what a target of `population` pages takes in an allocator, from a sample of it.

    Parameters
    ----------
    result : CompressorResult
        The sample.
    model : ZpoolModel
    population : int
        Pages of the target; as many as the sample has for a full count.

    Returns
    -------
    Estimate
        With the 95 % interval that the module's head explains.
    """
    histogram, size, n = result.histogram, result.page_size, result.pages
    shares, metadata_costs = model.costs(histogram), model.metadata_costs(size)
    unused, unused_variance = model.unused(histogram, population)
    allocator = round(float(histogram @ shares) * population / n + unused)
    metadata = round(float(histogram @ metadata_costs) * population / n)
    costs = shares + metadata_costs
    mean = float(histogram @ costs) / n
    variance = float(histogram @ (costs - mean) ** 2) / (n - 1) if n > 1 else float(size) ** 2
    error = math.sqrt(population**2 * max(0.0, 1 - n / population) * variance / n + unused_variance)
    half = _student_t95(n - 1) * error
    saved = population * size - allocator - metadata
    return Estimate(
        compressor=result.name,
        zpool=model.name,
        target_bytes=population * size,
        incompressible=float(histogram[model.max_saving_size + 1 :].sum()) / n,
        allocator_bytes=allocator,
        metadata_bytes=metadata,
        saved_low=math.floor(saved - half),
        saved_high=math.ceil(saved + half),
    )


def _student_t95(freedom: int) -> float:
    """The 97.5 % quantile of Student's distribution, good to 2 % from 3 on (Abramowitz and Stegun 26.7.5)."""
    z, v = 1.959963984540054, max(freedom, 1)
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )


# ---- measuring --------------------------------------------------------------------------------------------------------


def default_compressors() -> list[str]:
    """Return those of `DEFAULT_COMPRESSORS` whose library is there."""
    there = {info.name for info in zswap.compressors() if info.available}
    return [name for name in DEFAULT_COMPRESSORS if name.partition(":")[0] in there]


def analyze(
    source: PageSource,
    *,
    compressors: Sequence[str] | None = None,
    zpools: Sequence[str] | None = None,
    pages: int | None = 20_000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Analysis:
    """Measure a sample of a target and estimate what zswap would save on all of it.

    Parameters
    ----------
    source : PageSource
    compressors : sequence of str, optional
        Compressors to try, such as ``zstd:3``; `default_compressors` unless given.
    zpools : sequence of str, optional
        Allocators to try; unless given, all that `zswap.zpools` lists.
    pages : int or None
        Pages to sample; None for all of the target.
    seed : int
        Chooses the sample.
    progress : callable, optional
        Called with steps done, steps in all, and a word on what is being done.

    Returns
    -------
    Analysis

    Raises
    ------
    SourceError
        When the target cannot be read.
    zswap.Error, ValueError
        When a compressor or an allocator is unknown or not available.
    """
    names = list(dict.fromkeys(compressors if compressors is not None else default_compressors()))
    if not names:
        raise zswap.CompressorNotFound("no compressor is available: pip install lz4 zstd")
    size = source.page_size
    models = [zpool_model(name, page_size=size) for name in dict.fromkeys(zpools if zpools is not None else zswap.zpools())]
    measured = _measure(source, names, pages, seed, progress)
    estimates = [estimate(result, model, len(source)) for result in measured.results for model in models]
    return Analysis(
        kind=source.kind,
        title=source.title,
        pid=source.pid,
        command=source.command,
        paths=source.paths,
        page_size=size,
        total_pages=len(source),
        swapped_pages=source.swapped_pages,
        shared_bytes=source.shared_bytes,
        hole_pages=source.hole_pages,
        sampled_pages=measured.results[0].pages,
        vanished_pages=measured.vanished,
        seed=seed,
        same_filled_pages=measured.results[0].same_filled_pages,
        compressors=measured.results,
        estimates=estimates,
        mappings=measured.mappings,
        zpool_slots={model.name: model.slots for model in models if model.slots.size},
        advice=advise(measured.results, estimates),
        pids=source.pids,
        left_out=source.left_out,
        notes=source.notes,
        zero_pages=measured.zero_pages,
        without_zeros=[] if source.kind == "process" else _without_zeros(measured, models, len(source)),
    )


def _without_zeros(measured: _Measured, models: Sequence[ZpoolModel], population: int) -> list[Estimate]:
    """Estimate for the pages that are not all zeros: in a dump, what was never touched is zeros too, and took no memory."""
    zeros, sampled = measured.zero_pages, measured.results[0].pages
    if not zeros or zeros == sampled:
        return []
    rest = max(sampled - zeros, round(population * (1 - zeros / sampled)))
    results = []
    for result in measured.results:
        histogram = result.histogram.copy()
        histogram[0] -= zeros
        results.append(replace(result, pages=sampled - zeros, histogram=histogram))
    return [estimate(result, model, rest) for result in results for model in models]


@dataclass(frozen=True)
class _Measured:
    results: list[CompressorResult]
    mappings: list[MappingResult]
    vanished: int
    zero_pages: int


def _measure(source: PageSource, names: Sequence[str], pages: int | None, seed: int, progress: Progress | None) -> _Measured:
    """Read the sample in chunks; compress each with every compressor for its sizes; then time a random part of it."""
    size, total = source.page_size, len(source)
    wanted = total if pages is None else min(pages, total)
    # What is timed is chosen by its place in the sample, before anything is read.
    places = np.sort(np.random.default_rng(seed + 1).choice(wanted, min(_TIMED_PAGES, wanted), replace=False))
    timed = np.empty((places.size, size), np.uint8)
    steps = (wanted + 2 * _REPEATS * places.size) * len(names)
    seen = kept_pages = timed_pages = zero_pages = done = 0
    histograms = np.zeros((len(names), size + 1), np.int64)
    by_mapping = np.zeros((4, len(source.mappings)), np.int64)  # sampled, same-filled, raw, payload bytes
    threads = min(4, len(os.sched_getaffinity(0)))
    engines = _Engines(names, size)
    try:
        for indexes in sample(total, wanted, seed):
            chunk, kept = source.read(indexes)
            marked = indexes[places[(places >= seen) & (places < seen + indexes.size)] - seen]
            some = chunk[np.isin(kept, marked, assume_unique=True)]
            timed[timed_pages : timed_pages + len(some)] = some
            timed_pages += len(some)
            seen += indexes.size
            kept_pages += kept.size
            for number, name in enumerate(names):
                for payload in engines.payloads(number, chunk, threads):
                    histograms[number] += np.bincount(payload.sizes, minlength=size + 1)
                    if number == 0:
                        part = slice(payload.begin, payload.begin + payload.sizes.size)
                        zero_pages += int(((payload.sizes == 0) & ~chunk[part, :8].any(axis=1)).sum())
                        mapping = source.mapping_of(kept[part])
                        for row, weights in enumerate((None, payload.sizes == 0, payload.sizes == size, payload.sizes)):
                            by_mapping[row] += np.bincount(mapping, weights, by_mapping.shape[1]).astype(np.int64)
                    done += payload.sizes.size
                    if progress is not None:
                        progress(done, steps, f"compressing with {name}")
            done += (indexes.size - kept.size) * len(names)
        if not kept_pages:
            raise SourceError(f"none of the {wanted} pages chosen in {source.title} could be read; try again")
        timings = _time(engines, timed[:timed_pages], seed, done, steps, progress)
    finally:
        engines.close()
    slow = {info.name for info in zswap.compressors() if info.origin == "python"}
    results = [
        CompressorResult(name, kept_pages, histogram, store, load, name.partition(":")[0] in slow)
        for name, histogram, (store, load) in zip(names, histograms, timings, strict=True)
    ]
    mappings = [
        MappingResult(name, pages, sampled, same_filled, raw, payload, size)
        for name, pages, (sampled, same_filled, raw, payload) in zip(
            source.mappings, source.mapping_pages().tolist(), by_mapping.T.tolist(), strict=True
        )
        if pages
    ]
    mappings.sort(key=lambda mapping: (-mapping.pages, mapping.name))
    return _Measured(results, mappings, seen - kept_pages, zero_pages)


@dataclass(frozen=True)
class _Payloads:
    """Payload bytes of the pages of a chunk from `begin` on."""

    begin: int
    sizes: Int64Array


class _Engines:
    """One engine a compressor, empty between two calls."""

    def __init__(self, names: Sequence[str], page_size: int) -> None:
        self.names = names
        self.all: list[zswap.ZSwap] = []
        try:
            for name in names:
                self.all.append(
                    zswap.ZSwap(name, "zsmalloc", page_size=page_size, max_pool_bytes=_NO_LIMIT, shrinker_enabled=False)
                )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for engine in self.all:
            engine.close()

    def payloads(self, number: int, pages: npt.NDArray[np.uint8], threads: int) -> Iterator[_Payloads]:
        engine = self.all[number]
        for begin in range(0, len(pages), _BATCH):
            part = pages[begin : begin + _BATCH]
            offsets = np.arange(len(part), dtype=np.uint64)
            self.store(number, offsets, part, threads=threads)
            yield _Payloads(begin, engine.compressed_sizes(offsets).astype(np.int64))
            engine.invalidate_range(0, len(part))

    def store(
        self,
        number: int,
        offsets: npt.NDArray[np.uint64],
        pages: npt.NDArray[np.uint8],
        *,
        threads: int = 1,
        ns: npt.NDArray[np.uint32] | None = None,
    ) -> None:
        status = self.all[number].store_many(offsets, pages, threads=threads, ns=ns)
        if (status < 0).any():
            refused = status[status < 0]
            why = zswap.Status(int(refused[0])).name
            raise zswap.Error(f"{self.names[number]}: {refused.size} of {status.size} pages were not stored ({why})")


def _time(
    engines: _Engines, pages: npt.NDArray[np.uint8], seed: int, done: int, steps: int, progress: Progress | None
) -> list[tuple[Timing, Timing]]:
    """Time storing and loading page by page.

    The compressors take turns, so that a slow moment of the machine hits all of them; of each page the median of all
    rounds counts.  Everything has run before (the sizes were taken with the same engines), so nothing is timed cold.
    Pages are stored and loaded in random order, as reclaim and faults would come, not in the order that prefetching
    likes.
    """
    if not len(pages):  # all that were to be timed have vanished
        nothing = Timing(math.nan, math.nan, math.nan)
        return [(nothing, nothing)] * len(engines.all)
    rng = np.random.default_rng(seed)
    pages = pages[rng.permutation(len(pages))]
    offsets = np.arange(len(pages), dtype=np.uint64)
    shuffled = rng.permutation(offsets)
    out = np.zeros((min(_BATCH, len(pages)), pages.shape[1]), np.uint8)
    ns = np.zeros((len(engines.all), 2, _REPEATS, len(pages)), np.uint32)
    for repeat in range(_REPEATS):
        for number, engine in enumerate(engines.all):
            for begin in range(0, len(pages), _BATCH):
                part = slice(begin, begin + _BATCH)
                engines.store(number, offsets[part], pages[part], ns=ns[number, 0, repeat, part])
            for begin in range(0, len(pages), _BATCH):
                wanted = shuffled[begin : begin + _BATCH]
                spent = np.zeros(len(wanted), np.uint32)
                engine.load_many(wanted, out[: len(wanted)], ns=spent)
                ns[number, 1, repeat, wanted.astype(np.int64)] = spent
            if repeat == _REPEATS - 1:
                worked = engine.compressed_sizes(offsets) > 0
            engine.invalidate_range(0, len(pages))
            done += 2 * len(pages)
            if progress is not None:
                progress(done, steps, f"timing {engines.names[number]}")
    worked = worked if worked.any() else np.ones(len(pages), bool)
    typical = np.median(ns[..., worked], axis=2)
    return [(_timing(store), _timing(load)) for store, load in typical]


def _timing(ns: FloatArray) -> Timing:
    return Timing(float(np.median(ns)), float(np.percentile(ns, 99)), float(ns.mean()))


# ---- advice -----------------------------------------------------------------------------------------------------------

#: Names under which the kernel knows what is measured here, and the level that it uses when it has levels.
_KERNEL_COMPRESSORS = {"lz4": "lz4", "lz4hc": "lz4hc", "zstd": "zstd", "lzo": "lzo", "deflate": "deflate", "842": "842"}
_KERNEL_ZSTD = "zstd:3"


def advise(results: Sequence[CompressorResult], estimates: Sequence[Estimate], ram_bytes: int | None = None) -> Advice:
    """Choose compressors for three aims, and what to set in a kernel.

    Judged by the kernel's zsmalloc where it was estimated, else by the first allocator.

    Parameters
    ----------
    results : sequence of CompressorResult
    estimates : sequence of Estimate
    ram_bytes : int, optional
        Of the machine that zswap is to run on; unless given, this one.

    Returns
    -------
    Advice
    """
    if ram_bytes is None:
        ram_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    zpools = [e.zpool for e in estimates]
    zpool = next((name for name in zpools if name.startswith("zsmalloc-kernel")), zpools[0])
    by_name = {e.compressor: e for e in estimates if e.zpool == zpool}
    saved = {name: e.saved for name, e in by_name.items()}

    def quickest(candidates: Iterable[CompressorResult]) -> str:
        return min(candidates, key=lambda r: r.store.median + r.load.median).name

    most = max(saved.values())
    densest = quickest(r for r in results if saved[r.name] >= most - AS_DENSE)
    fastest = quickest([r for r in results if saved[r.name] >= WORTH_SAVING] or results)

    def balance(candidates: Sequence[CompressorResult]) -> str:
        most = max(saved[r.name] for r in candidates)
        nearly = [r for r in candidates if saved[r.name] >= NEARLY_DENSEST * most] if most > 0 else list(candidates)
        return quickest(nearly)

    # The kernel's zswap takes no level: of several zstd, the one at its own level stands for it.
    # What came through Python is another implementation, and its times say nothing of the kernel's.
    kernel = [r for r in results if r.name.partition(":")[0] in _KERNEL_COMPRESSORS and not r.through_python]
    if any(r.name == _KERNEL_ZSTD for r in kernel):
        kernel = [r for r in kernel if r.name == _KERNEL_ZSTD or not r.name.startswith("zstd")]
    chosen = balance(kernel) if kernel else None
    need = by_name[chosen].target_bytes - by_name[chosen].saved_low - by_name[chosen].metadata_bytes if chosen else None
    percent = max(1, math.ceil(100 * need / ram_bytes)) if need is not None else None
    return Advice(
        worthwhile=most >= WORTH_SAVING,
        fastest=fastest,
        balanced=balance(results),
        densest=densest,
        zpool=zpool,
        kernel_compressor=_KERNEL_COMPRESSORS[chosen.partition(":")[0]] if chosen else None,
        kernel_measured=chosen,
        kernel_pool_bytes=need,
        pool_percent_needed=percent,
        max_pool_percent=None if percent is None else min(max(percent, DEFAULT_POOL_PERCENT), LARGEST_POOL_PERCENT),
        ram_bytes=ram_bytes,
    )
