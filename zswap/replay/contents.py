"""What the pages of a trace compress to: from pages that were captured, or a distribution.

A trace tells which page was touched, not what is in it.  Of a capture with as many pages as the
trace has, the first is the trace's first page by address, and so on; else each page gets a size
drawn from what was measured: the same quantile of every compressor's sizes, so that they may be
compared.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import zswap
from zswap.advice import DEFLATE_KERNEL
from zswap.estimate import CompressorResult, Timing
from zswap.measure import Progress, measure
from zswap.pages import PageSource, SourceError, printable
from zswap.pages.files import FilePages, regular_size

__all__ = ["Contents", "from_analysis", "from_pages", "from_ratio"]

PAGE = 4096
_SAMPLE = 16_384
_MADE = 2048  # pages, where a ratio is given
_LARGEST_JSON = 64 << 20

Sizes = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Contents:
    """What one compressor makes of each page, and how long it takes.

    Attributes
    ----------
    compressor : str
    sizes : ndarray of uint16
        Bytes, by page; 0 is same-filled, 4096 kept raw.
    store_us, load_us : float
        Microseconds a page, the codec's own.
    """

    compressor: str
    sizes: Sizes
    store_us: float
    load_us: float

    @property
    def ratio(self) -> float:
        """Bytes of the pages over bytes of what they compress to."""
        total = int(self.sizes.sum(dtype=np.int64))
        return PAGE * self.sizes.size / total if total else math.inf


def from_pages(
    source: PageSource,
    names: Sequence[str],
    pages: int,
    seed: int,
    progress: Progress | None = None,
) -> tuple[list[Contents], str]:
    """Measure the pages of a target.

    Returns
    -------
    contents : list of Contents
    how : str
        In words, where they are from.
    """
    if source.page_size != PAGE:
        raise SourceError(
            f"pages of {source.page_size:,} bytes: replay takes those of {PAGE:,} alone"
        )
    results = measure(source, names, _SAMPLE, seed, progress).results
    sizes = _drawn([result.histogram for result in results], pages, seed)
    if source.kind != "process" and len(source) == pages:
        quick = [n for n, result in enumerate(results) if result.name != DEFLATE_KERNEL]
        each = _each(source, [results[n].name for n in quick], progress)
        for n, size in zip(quick, each, strict=True):
            sizes[n] = size
        how = f"{source.title}: one for each page, in order"
    else:
        how = f"drawn from {results[0].pages:,} of {len(source):,} pages of {source.title}"
    return [
        Contents(result.name, size, *_microseconds(result.store, result.load))
        for result, size in zip(results, sizes, strict=True)
    ], how


def from_analysis(
    path: str, names: Sequence[str] | None, pages: int, seed: int
) -> tuple[list[Contents], str]:
    """Take the sizes and times that `zswap analyze --json` has printed.

    Raises
    ------
    SourceError
        When it is no such file.
    """
    label = printable(path)
    if regular_size(path) > _LARGEST_JSON:
        raise SourceError(f"{label} is no result of `zswap analyze --json`: it is too large")
    try:
        with open(path, encoding="utf-8") as file:
            told = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(f"{label} is no result of `zswap analyze --json`: {error}") from error
    try:
        found = _analysed(told, names)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise SourceError(
            f"{label} is no result of `zswap analyze --json`, or is damaged"
        ) from error
    if not found:
        there = ", ".join(str(c.get("name")) for c in told["compressors"])
        raise SourceError(f"{label} has none of the compressors named; it has {there}")
    sizes = _drawn([result.histogram for result in found], pages, seed)
    title = printable(str(told["target"]["title"]))
    return [
        Contents(result.name, size, *_microseconds(result.store, result.load))
        for result, size in zip(found, sizes, strict=True)
    ], f"drawn from the analysis of {title}"


def _analysed(told: Any, names: Sequence[str] | None) -> list[CompressorResult]:
    if told["schema"] != "zswap.analyze" and told["schema"] != "zswap.advise":
        raise ValueError("another schema")
    if told["schema"] == "zswap.advise":
        told.update(told["measured"]["analysis"])
    sampled, same = int(told["sample"]["pages"]), float(told["sample"]["same_filled"])
    if int(told["target"]["page_size"]) != PAGE or sampled <= 0 or not 0 <= same <= 1:
        raise ValueError("other pages")
    found = []
    for entry in told["compressors"]:
        if names and entry["name"] not in names:
            continue
        bins = np.array(entry["histogram"], np.int64)
        width = PAGE // bins.size
        if (bins < 0).any() or width * bins.size != PAGE or not 0 <= entry["raw_pages"] <= bins[-1]:
            raise ValueError("no histogram")
        histogram = np.zeros(PAGE + 1, np.int64)
        histogram[-1] = entry["raw_pages"]
        bins[-1] -= entry["raw_pages"]
        histogram[width // 2 : PAGE : width] = bins
        histogram[0] = round(same / (1 - same) * int(histogram.sum())) if same < 1 else sampled
        store, load = (
            Timing(float(t["median"]), float(t["p99"]), float(t["mean"]))
            for t in (entry["store_ns"], entry["load_ns"])
        )
        found.append(
            CompressorResult(str(entry["name"]), int(histogram.sum()), histogram, store, load)
        )
        if not histogram.sum():
            raise ValueError("no page")
    return found


def from_ratio(
    ratio: float, names: Sequence[str], pages: int, seed: int, progress: Progress | None = None
) -> tuple[list[Contents], str]:
    """Take sizes around a page over `ratio`; times are those of pages made to be so dense."""
    rng = np.random.default_rng(seed)
    mean = PAGE / ratio
    # a spread as of heaps: a third of the mean, no page less than a 64th
    spread = min(mean / 3, (PAGE - mean) / 2)
    wanted = np.clip(rng.normal(mean, spread, pages), PAGE // 64, PAGE)
    wanted *= mean / wanted.mean()
    sizes = np.clip(np.rint(wanted), 1, PAGE).astype(np.uint16)
    made = np.zeros((min(_MADE, pages), PAGE), np.uint8)
    for page, size in zip(made, sizes[: len(made)].tolist(), strict=True):
        # words of four bytes, as many of them new as the size asks for
        fresh = min(PAGE // 4, size // 4)
        words = page.view(np.uint32)
        words[:] = rng.integers(0, 16, PAGE // 4, np.uint32)
        words[rng.permutation(PAGE // 4)[:fresh]] = rng.integers(0, 1 << 32, fresh, np.uint32)
    results = measure(_Made(made), names, len(made), seed, progress).results
    return [
        Contents(result.name, sizes, *_microseconds(result.store, result.load))
        for result in results
    ], f"assumed: {ratio:g} times smaller, by every compressor (nothing was measured)"


class _Made(FilePages):
    """Pages of an array."""

    def __init__(self, pages: npt.NDArray[np.uint8]) -> None:
        self._pages = pages
        super().__init__(
            sizes=[pages.nbytes],
            kind="file",
            title="made pages",
            paths=["made pages"],
            path_index=[0],
            offsets=[0],
            counts=[len(pages)],
            mapping_index=[0],
            mappings=["made pages"],
            page_size=PAGE,
        )

    def _read_span(self, path: int, at: int, view: memoryview) -> None:
        view[:] = self._pages.reshape(-1).data[at : at + len(view)]


def _microseconds(store: Timing, load: Timing) -> tuple[float, float]:
    return tuple(0.0 if math.isnan(t.mean) else t.mean / 1000 for t in (store, load))  # type: ignore[return-value]


def _drawn(histograms: Sequence[npt.NDArray[np.int64]], pages: int, seed: int) -> list[Sizes]:
    """Draw a size for each page, at the same quantile of each distribution."""
    places = np.random.default_rng(seed).random(pages)
    return [
        np.searchsorted(np.cumsum(h) / h.sum(), places, side="right")
        .clip(0, PAGE)
        .astype(np.uint16)
        for h in histograms
    ]


def _each(source: PageSource, names: Sequence[str], progress: Progress | None) -> list[Sizes]:
    """Compress every page."""
    from zswap.estimate import NO_LIMIT
    from zswap.pages.sampling import sample

    sizes = [np.zeros(len(source), np.uint16) for _ in names]
    threads = min(4, len(os.sched_getaffinity(0)))
    engines: list[zswap.ZSwap] = []
    try:
        engines += (
            zswap.ZSwap(name, "zsmalloc", max_pool_bytes=NO_LIMIT, shrinker_enabled=False)
            for name in names
        )
        for indexes in sample(len(source), None, 0):
            chunk, kept = source.read(indexes)
            offsets = np.arange(len(chunk), dtype=np.uint64)
            for engine, size in zip(engines, sizes, strict=True):
                engine.store_many(offsets, chunk, threads=threads)
                size[kept] = engine.compressed_sizes(offsets)
                engine.invalidate_range(0, len(chunk))
            if progress is not None:
                progress(int(indexes[-1]) + 1, len(source), "compressing every page")
    finally:
        for engine in engines:
            engine.close()
    return sizes
