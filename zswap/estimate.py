"""What an allocator takes for a whole target, worked out from a sample of it.

The sample is drawn uniformly at random without replacement: ``n`` of ``N`` pages.  A page with a
payload of ``s`` bytes costs ``c(s)`` bytes: its share of the allocator's pages plus its metadata.
The mean cost of the sample estimates that of the target without bias, with the variance ``(1 - n/N)
* S**2 / n``, where ``S**2`` is the sample variance of ``c`` and ``1 - n/N`` the finite population
correction (W. G. Cochran, Sampling Techniques, 3rd ed., 1977, theorem 2.2 and equation 2.20).  The
interval is the mean -+ t standard errors, t being the quantile of Student's distribution (Cochran
2.24).  When all pages are read it is a point.  It says how far a sample may mislead; that the
process goes on changing is not in it.

An allocator hands memory out in zspages, so beside each object's share of one there is what the
last zspage of each size class leaves unused.  A target is not charged with that: the pool's other
pages fill those zspages, and what this target adds is its share.  It matters to who has nothing
else in the pool, so it is told apart, as `Estimate.unused_bytes`.  It does not grow with the
target, so it cannot be scaled from the sample: the number of objects that the whole target has in
each class is drawn many times, given the sample (Poisson, smoothed over neighbouring classes so
that a class the sample missed is not taken for empty), and the zspages are counted that the
allocator would fill.  When all pages are read there is nothing to draw, and cost and unused bytes
together are what the allocator itself would report.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

import zswap
from zswap.zpools import parse_zpool
from zswap_core.zpools.geometry import Trial

__all__ = [
    "CompressorResult",
    "Estimate",
    "FedZpool",
    "SlotTable",
    "Timing",
    "ZpoolModel",
    "estimate",
    "zpool_model",
]

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

#: The kernel's metadata: struct zswap_entry of each page, and the 8-byte slab cell that a zsmalloc
#: handle points to.
KERNEL_ENTRY_BYTES = 56
KERNEL_HANDLE_BYTES = 8
#: What zsmalloc puts in front of each object: the handle again, for compaction.
KERNEL_OBJECT_HEADER = 8

#: For engines that hold no more than a part of a sample.
NO_LIMIT = 1 << 40

_DRAWS = 200  # of the number of objects in each class


@dataclass(frozen=True)
class Timing:
    """Nanoseconds a page, over the pages that the compressor had to work on.

    Those are all but the same-filled.
    """

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
        Whether it was called through Python, so that its times are not those of the compressor
        alone.
    """

    name: str
    pages: int
    histogram: Int64Array
    store: Timing
    load: Timing
    through_python: bool = False

    @property
    def page_size(self) -> int:
        """Bytes of a page."""
        return self.histogram.size - 1

    @property
    def payload_bytes(self) -> int:
        """Bytes of the sample's payloads; a raw page counts whole, a same-filled one nothing."""
        return int(self.histogram @ np.arange(self.histogram.size))

    @property
    def payload_ratio(self) -> float:
        """Bytes of the sample over those of its payloads; infinite when all is same-filled."""
        payload = self.payload_bytes
        return self.pages * self.page_size / payload if payload else math.inf

    @property
    def same_filled_pages(self) -> int:
        """Same-filled pages of the sample."""
        return int(self.histogram[0])

    @property
    def raw_pages(self) -> int:
        """Pages of the sample that no compressor makes smaller."""
        return int(self.histogram[-1])


@dataclass(frozen=True)
class Estimate:
    """What the whole target would take and save with one compressor and one zpool.

    The interval holds at 95 %.

    Attributes
    ----------
    compressor, zpool : str
    incompressible : float
        Share of pages that would take a whole page of the allocator.
    allocator_bytes, metadata_bytes : int
        The target's share of the allocator's pages, and what is kept about its pages.
    memory_bytes : int
        Both together.
    unused_bytes, unused_high : int
        What the last zspage of each size class leaves unused when nothing else is in the pool:
        expected, and at most (95 %).
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
    unused_bytes: int = 0
    unused_high: int = 0

    @property
    def memory_bytes(self) -> int:
        """What the allocator and the metadata take."""
        return self.allocator_bytes + self.metadata_bytes

    @property
    def saved_bytes(self) -> int:
        """How much less than the target that is."""
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
        """Bytes of the target over bytes of memory; infinite when it takes none."""
        return self.target_bytes / self.memory_bytes if self.memory_bytes else math.inf


# ---- allocators ----------------------------------------------------------------------------------


class ZpoolModel(Protocol):
    """What the estimate asks of an allocator: memory for a number of objects of each payload."""

    @property
    def name(self) -> str:
        """The zpool's name."""

    @property
    def slots(self) -> Int64Array:
        """The largest payload of each size class, ascending; empty when the allocator has none."""

    @property
    def max_saving_size(self) -> int:
        """The largest payload that takes less than a whole allocator page."""

    def costs(self, histogram: Int64Array) -> FloatArray:
        """Return the allocator bytes of one page, by payload, among pages as in `histogram`."""

    def unused(self, histogram: Int64Array, population: int) -> tuple[float, float]:
        """Return the mean and variance of the allocator bytes that `costs` leaves out.

        `population` pages take them; `histogram` is of a sample.
        """

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
        Bytes that the allocator puts in front of an object; an object too large for that has them
        elsewhere.
    page_metadata, object_metadata : float
        Metadata bytes of every page, and of every page with an object.
    whole : bool
        Whether a zspage takes all of its pages from its first object on, as in the kernel; ours
        grow page by page.
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
        """The largest payload of each size class, ascending."""
        return np.where(self.sizes == self.sizes[-1], self.sizes, self.sizes - self.header)

    @property
    def max_saving_size(self) -> int:
        """The largest payload that takes less than a whole allocator page."""
        return int(self.slots[-2]) if self.slots.size > 1 else 0

    def _class_of(self, page_size: int) -> Int64Array:
        payload = np.minimum(np.arange(page_size + 1) + self.header, self.sizes[-1])
        classes: Int64Array = np.searchsorted(self.sizes, payload).astype(np.int64)
        return classes

    def costs(self, histogram: Int64Array) -> FloatArray:
        """Return an object's share of its zspage, by payload."""
        page_size = histogram.size - 1
        share = self.pages * page_size / self.objects
        costs: FloatArray = share[self._class_of(page_size)]
        costs[0] = 0.0
        return costs

    def unused(self, histogram: Int64Array, population: int) -> tuple[float, float]:
        """Estimate the room in zspages that are not full."""
        page_size, measured = histogram.size - 1, int(histogram.sum())
        of_class = self._class_of(page_size)[1:]
        counts = np.bincount(of_class, weights=histogram[1:], minlength=self.sizes.size).astype(
            np.int64
        )
        partial = np.append(counts[:-1], 0)  # raw pages are no neighbours of compressed ones
        neighbours = (np.convolve(partial, np.ones(5), "same") - partial) / 4
        unseen = (counts + neighbours) / 2 * (population - measured) / measured
        drawn = counts + np.random.default_rng(0).poisson(
            unseen, (_DRAWS if population > measured else 1, counts.size)
        )
        left = self._pages_for(drawn, page_size) * page_size - drawn * (
            self.pages * page_size / self.objects
        )
        total = left.sum(axis=1)
        return float(total.mean()), float(total.var())

    def _pages_for(self, objects: Int64Array, page_size: int) -> Int64Array:
        """Pages that so many objects of each class take, no zspage being emptier than need be."""
        zspages, rest = np.divmod(objects, self.objects)
        last = self.pages * (rest > 0) if self.whole else -(-rest * self.sizes // page_size)
        pages: Int64Array = zspages * self.pages + last
        return pages

    def metadata_costs(self, page_size: int) -> FloatArray:
        """Return the metadata bytes of one page, by payload."""
        costs = np.full(page_size + 1, self.page_metadata + self.object_metadata)
        costs[0] = self.page_metadata
        return costs


@dataclass(frozen=True)
class FedZpool:
    """Any other allocator: fed with the payloads of the sample in random order.

    The pages that it takes are scaled to the target.

    What one object costs is not defined here, as neighbours share pages; for the interval each
    payload is charged in proportion to its size, the linearised ratio estimator (Cochran 6.3).
    """

    name: str
    malloc_pages: Callable[[Int64Array], int]
    max_saving_size: int
    page_metadata: float
    object_metadata: float

    _MOST_FED = 1 << 16

    @property
    def slots(self) -> Int64Array:
        """No size classes."""
        return np.zeros(0, np.int64)

    def costs(self, histogram: Int64Array) -> FloatArray:
        """Return the allocator bytes of one page: by payload, in proportion to it."""
        page_size, limit = histogram.size - 1, self.max_saving_size
        sizes = np.repeat(np.arange(1, limit + 1), histogram[1 : limit + 1])
        fed = np.random.default_rng(0).permutation(sizes)[: self._MOST_FED]
        each = self.malloc_pages(fed) * page_size / fed.sum() if fed.size else 0.0
        costs = np.arange(page_size + 1) * each
        costs[limit + 1 :] = page_size  # raw: in the allocator, or refused and left where it was
        return costs

    def unused(self, histogram: Int64Array, population: int) -> tuple[float, float]:
        """Return zeros: `costs` leaves nothing out."""
        return 0.0, 0.0

    def metadata_costs(self, page_size: int) -> FloatArray:
        """Return the metadata bytes of one page, by payload."""
        costs = np.full(page_size + 1, self.page_metadata + self.object_metadata)
        costs[0] = self.page_metadata
        return costs


def kernel_zsmalloc(chain: int = 0, *, page_size: int = 4096) -> SlotTable:
    """Model the Linux kernel's zsmalloc under zswap.

    `chain` is CONFIG_ZSMALLOC_CHAIN_SIZE, 0 for the default of 8.
    """
    name = f"zsmalloc-kernel:{chain}" if chain else "zsmalloc-kernel"
    return _slot_table(
        name,
        chain or 8,
        True,
        page_size,
        KERNEL_OBJECT_HEADER,
        KERNEL_ENTRY_BYTES,
        KERNEL_HANDLE_BYTES,
    )


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

    def malloc_pages(sizes: Int64Array) -> int:
        return Trial(name, page_size=page_size).pages(sizes.astype(np.uint32))

    return FedZpool(
        name, malloc_pages, Trial(name, page_size=page_size).max_saving_size, page, item
    )


def _slot_table(
    name: str,
    chain: int,
    kernel: bool,
    page_size: int,
    header: int,
    page_metadata: float,
    object_metadata: float,
) -> SlotTable:
    table = np.array(
        Trial("zsmalloc", chain=chain, kernel=kernel, page_size=page_size).classes(), np.int64
    )
    table = table[np.argsort(table[:, 0], kind="stable")]
    return SlotTable(
        name, table[:, 0], table[:, 1], table[:, 2], header, page_metadata, object_metadata, kernel
    )


@lru_cache
def _library_metadata(zpool: str, page_size: int) -> tuple[float, float]:
    """Measure, once, the metadata bytes that this library adds for each page, and for each object.

    Same-filled and well compressible pages are stored at ascending offsets, and the growth is taken
    over the second half, so that what the engine keeps anyway does not count.
    """
    batch, batches = 1024, 8
    same = np.zeros((batch, page_size), np.uint8)
    other = same.copy()
    other[:, ::512] = 1
    growth = []
    for pages in (same, other):
        with zswap.ZSwap(
            "lz4", zpool, page_size=page_size, max_pool_bytes=NO_LIMIT, shrinker_enabled=False
        ) as engine:
            for number in range(2 * batches):
                if number == batches:
                    before = engine.stats().metadata_bytes
                engine.store_many(
                    np.arange(number * batch, (number + 1) * batch, dtype=np.uint64), pages
                )
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
    allocator = round(float(histogram @ shares) * population / n)
    metadata = round(float(histogram @ metadata_costs) * population / n)
    costs = shares + metadata_costs
    mean = float(histogram @ costs) / n
    variance = float(histogram @ (costs - mean) ** 2) / (n - 1) if n > 1 else float(size) ** 2
    error = math.sqrt(population**2 * max(0.0, 1 - n / population) * variance / n)
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
        unused_bytes=round(unused),
        unused_high=math.ceil(unused + 2 * math.sqrt(unused_variance)),
    )


def _student_t95(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's distribution.

    It is good to 2 % from 3 on (Abramowitz and Stegun 26.7.5).
    """
    z, v = 1.959963984540054, max(freedom, 1)
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )
