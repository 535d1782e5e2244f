"""Measure a sample of a target's pages, and put together all that is found out about it.

Nothing here prints.  `analyze` reads pages from a `zswap.pages.PageSource`, compresses each once
with each compressor, and has `zswap.estimate` work out for each allocator (zpool) what the whole
target would take, and `zswap.advice` what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

import zswap
from zswap.advice import DEFLATE_KERNEL, Advice, advise
from zswap.estimate import (
    CompressorResult,
    Estimate,
    Int64Array,
    ZpoolModel,
    estimate,
    zpool_model,
)
from zswap.kernel import Kernel, read_kernel
from zswap.measure import MappingResult, Measured, PartResult, Progress, measure
from zswap.pages import PageSource, Part
from zswap_core.compressors.registry import chosen

__all__ = ["DEFAULT_COMPRESSORS", "Analysis", "PartEstimate", "analyze", "default_compressors"]

#: Measured when none is named, as far as their libraries are there.
DEFAULT_COMPRESSORS = ("lz4", "lref", "lref:2", "lz4hc", "zstd:1", "zstd:3", "lzo", "deflate")
_LEAST_PAGES = 8  # of a process, for an estimate of its own


@dataclass(frozen=True)
class PartEstimate:
    """What one process of several, or all of one cgroup, would save.

    Attributes
    ----------
    name : str
        Of the process, or the path of the cgroup.
    pids : tuple of int
    target_bytes, swapped_bytes : int
        Memory of its own, and more of it in swap.
    sampled_pages : int
    estimate : Estimate or None
        None where too few of its pages were read.
    """

    name: str
    pids: tuple[int, ...]
    target_bytes: int
    swapped_bytes: int
    sampled_pages: int
    estimate: Estimate | None


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
    parts: list[PartResult]
    heat: list[PartResult]
    zpool_slots: dict[str, Int64Array]
    advice: Advice
    pids: list[int] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    zero_pages: int = 0
    without_zeros: list[Estimate] = field(default_factory=list)
    demonstration: bool = False

    @property
    def target_bytes(self) -> int:
        """Size of the whole target in bytes."""
        return self.total_pages * self.page_size

    @property
    def exact(self) -> bool:
        """Whether all pages were measured.

        Of pages that processes share chance may have counted one or two more than they come to.
        """
        return self.sampled_pages >= self.total_pages

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

    def by_process(self, compressor: str, zpool: str) -> list[PartEstimate]:
        """Estimate for each process of several, the one that saves most first."""
        return self._by(lambda part: str(part.pid), compressor, zpool)

    def by_cgroup(self, compressor: str, zpool: str) -> list[PartEstimate]:
        """Estimate for each cgroup, the one that saves most first."""
        return self._by(lambda part: part.cgroup, compressor, zpool)

    def by_heat(self, compressor: str, zpool: str) -> list[PartEstimate]:
        """Estimate for what was cold and for what was touched; empty where it was not watched."""
        return [
            self._together(lambda part: part.cgroup, [one], compressor, zpool) for one in self.heat
        ]

    def _by(self, key: Callable[[Part], str], compressor: str, zpool: str) -> list[PartEstimate]:
        groups: dict[str, list[PartResult]] = {}
        for one in self.parts:
            groups.setdefault(key(one.part), []).append(one)
        found = [self._together(key, some, compressor, zpool) for some in groups.values()]
        found.sort(key=lambda p: (-(p.estimate.saved_bytes if p.estimate else 0), -p.target_bytes))
        return found

    def _together(
        self, key: Callable[[Part], str], some: Sequence[PartResult], compressor: str, zpool: str
    ) -> PartEstimate:
        parts = [one.part for one in some]
        # What is too slow for the whole sample is taken to differ everywhere as it does in all.
        there = some[0].results
        name = compressor if compressor in there else list(there)[-1]
        results = [one.results[name] for one in some]
        population, pages = sum(p.population for p in parts), sum(r.pages for r in results)
        found = None
        if pages >= _LEAST_PAGES or (pages and pages >= population):
            histogram = sum((r.histogram for r in results), np.zeros_like(results[0].histogram))
            result = replace(results[0], name=compressor, pages=pages, histogram=histogram)
            model = zpool_model(zpool, page_size=self.page_size)
            found = estimate(result, model, max(population, pages))
            if name != compressor:
                apart = self.estimate(compressor, zpool).saved - self.estimate(name, zpool).saved
                more = round(apart * found.target_bytes)
                found = replace(
                    found,
                    allocator_bytes=found.allocator_bytes - more,
                    saved_low=found.saved_low + more,
                    saved_high=found.saved_high + more,
                )
        return PartEstimate(
            name=parts[0].name if key(parts[0]) != parts[0].cgroup else parts[0].cgroup,
            pids=tuple(p.pid for p in parts),
            target_bytes=population * self.page_size,
            swapped_bytes=sum(p.swapped_pages for p in parts) * self.page_size,
            sampled_pages=pages,
            estimate=found,
        )


# ---- measuring -----------------------------------------------------------------------------------


def default_compressors(kernel: Kernel | None = None) -> list[str]:
    """Return the `DEFAULT_COMPRESSORS` whose library is there, and deflate if the kernel has it.

    What there is only as a Python package (lzo from lzallright) is a tenth denser and ten times
    slower than the C library: nothing follows from it for a kernel, so it is measured only by
    request.
    """
    there = {
        info.name for info in zswap.compressors() if info.available and info.origin != "python"
    }
    names = [name for name in DEFAULT_COMPRESSORS if name.partition(":")[0] in there]
    if kernel is not None and any("deflate" in kernel.of(way) for way in ("zswap", "zram")):
        names.append(DEFLATE_KERNEL)
    return names


def analyze(
    source: PageSource,
    *,
    compressors: Sequence[str] | None = None,
    zpools: Sequence[str] | None = None,
    pages: int | None = 20_000,
    seed: int = 0,
    progress: Progress | None = None,
    kernel: Kernel | None = None,
) -> Analysis:
    """Measure a sample of a target and estimate what zswap would save on all of it.

    Parameters
    ----------
    source : PageSource
    compressors : sequence of str, optional
        Compressors to try, such as ``zstd:3``; `default_compressors` unless given.  ``auto`` is
        measured as what it stands for.
    zpools : sequence of str, optional
        Allocators to try; unless given, all that `zswap.zpools` lists.
    pages : int or None
        Pages to sample; None for all of the target.
    seed : int
        Chooses the sample.
    progress : callable, optional
        Called with steps done, steps in all, and a word on what is being done.
    kernel : Kernel, optional
        The one that the advice is for; the running one unless given.

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
    kernel = read_kernel() if kernel is None else kernel
    names = list(
        dict.fromkeys(
            map(chosen, compressors) if compressors is not None else default_compressors(kernel)
        )
    )
    if not names:
        raise zswap.CompressorNotFound("no compressor is available: pip install lz4 zstd")
    if any(
        name.partition(":")[0] == "deflate" for name in names
    ) and DEFLATE_KERNEL in default_compressors(kernel):
        names = list(dict.fromkeys([*names, DEFLATE_KERNEL]))
    size = source.page_size
    usual = [
        kernel.zsmalloc_model if name == "zsmalloc-kernel" else name for name in zswap.zpools()
    ]
    models = [
        zpool_model(name, page_size=size)
        for name in dict.fromkeys(zpools if zpools is not None else usual)
    ]
    measured = measure(source, names, pages, seed, progress)
    population = max(source.population, measured.results[0].pages)
    estimates = [
        estimate(result, model, population) for result in measured.results for model in models
    ]
    return Analysis(
        kind=source.kind,
        title=source.title,
        pid=source.pid,
        command=source.command,
        paths=source.paths,
        page_size=size,
        total_pages=source.population if source.parts else population,
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
        parts=measured.parts,
        heat=measured.heat,
        zpool_slots={model.name: model.slots for model in models if model.slots.size},
        advice=advise(measured.results, estimates, kernel),
        pids=source.pids,
        left_out=source.left_out,
        notes=source.notes,
        zero_pages=measured.zero_pages,
        without_zeros=[]
        if source.kind == "process"
        else _without_zeros(measured, models, population),
    )


def _without_zeros(
    measured: Measured, models: Sequence[ZpoolModel], population: int
) -> list[Estimate]:
    """Estimate for the pages that are not all zeros.

    In a dump, memory that was never touched is zeros too, and it took no room.
    """
    zeros, sampled = measured.zero_pages, measured.results[0].pages
    if not zeros or zeros == sampled:
        return []
    rest = max(sampled - zeros, round(population * (1 - zeros / sampled)))
    results = []
    for result in measured.results:
        histogram = result.histogram.copy()
        # some were measured on a part of the sample
        less = min(int(histogram[0]), round(zeros * result.pages / sampled))
        histogram[0] -= less
        if less < result.pages:
            results.append(replace(result, pages=result.pages - less, histogram=histogram))
    return [estimate(result, model, rest) for result in results for model in models]
