"""Measure a sample of a target's pages, and put together all that is found out about it.

Nothing here prints.  `analyze` reads pages from a `zswap.pages.PageSource`, compresses each once
with each compressor, and has `zswap.estimate` work out for each allocator (zpool) what the whole
target would take, and `zswap.advice` what to do.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

import zswap
from zswap.advice import DEFLATE_KERNEL, Advice, advise
from zswap.estimate import (
    NO_LIMIT,
    CompressorResult,
    Estimate,
    FloatArray,
    Int64Array,
    Timing,
    ZpoolModel,
    estimate,
    zpool_model,
)
from zswap.kernel import Kernel, read_kernel
from zswap.pages import PageSource, SourceError, sample

__all__ = ["DEFAULT_COMPRESSORS", "Analysis", "MappingResult", "analyze", "default_compressors"]

Progress = Callable[[int, int, str], object]

#: Measured when none is named, as far as their libraries are there.
DEFAULT_COMPRESSORS = ("lz4", "lref", "lref:2", "lz4hc", "zstd:1", "zstd:3", "lzo", "deflate")

_BATCH = 1024  # pages between two looks at Ctrl-C
_TIMED_PAGES = 4096
_REPEATS = 3
_SLOW_PAGES = 2048  # measured with what takes ten times as long
_SLOW_STEPS = 10


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
        """Bytes of the sample over those of its payloads; infinite when all is same-filled."""
        return (
            self.sampled * self.page_size / self.payload_bytes if self.payload_bytes else math.inf
        )

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
    demonstration: bool = False

    @property
    def target_bytes(self) -> int:
        """Size of the whole target in bytes."""
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
        Compressors to try, such as ``zstd:3``; `default_compressors` unless given.
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
        dict.fromkeys(compressors if compressors is not None else default_compressors(kernel))
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
    measured = _measure(source, names, pages, seed, progress)
    estimates = [
        estimate(result, model, len(source)) for result in measured.results for model in models
    ]
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
        advice=advise(measured.results, estimates, kernel),
        pids=source.pids,
        left_out=source.left_out,
        notes=source.notes,
        zero_pages=measured.zero_pages,
        without_zeros=[]
        if source.kind == "process"
        else _without_zeros(measured, models, len(source)),
    )


def _without_zeros(
    measured: _Measured, models: Sequence[ZpoolModel], population: int
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


@dataclass(frozen=True)
class _Measured:
    results: list[CompressorResult]
    mappings: list[MappingResult]
    vanished: int
    zero_pages: int


def _measure(
    source: PageSource,
    names: Sequence[str],
    pages: int | None,
    seed: int,
    progress: Progress | None,
) -> _Measured:
    """Read the sample in chunks, compress all of it for sizes, then time a random part of it."""
    size, total = source.page_size, len(source)
    wanted = total if pages is None else min(pages, total)
    # What is timed is chosen by its place in the sample, before anything is read.
    places = np.sort(
        np.random.default_rng(seed + 1).choice(wanted, min(_TIMED_PAGES, wanted), replace=False)
    )
    timed = np.empty((places.size, size), np.uint8)
    slow_names = [name for name in names if name == DEFLATE_KERNEL]
    names = [name for name in names if name not in slow_names]
    slow_steps = _SLOW_STEPS * min(_SLOW_PAGES, places.size) * len(slow_names)
    steps = (wanted + 2 * _REPEATS * places.size) * len(names) + slow_steps
    seen = kept_pages = timed_pages = zero_pages = done = 0
    histograms = np.zeros((len(names), size + 1), np.int64)
    # sampled, same-filled, raw, payload bytes
    by_mapping = np.zeros((4, len(source.mappings)), np.int64)
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
                        zero_pages += int(
                            ((payload.sizes == 0) & ~chunk[part, :8].any(axis=1)).sum()
                        )
                        mapping = source.mapping_of(kept[part])
                        for row, weights in enumerate(
                            (None, payload.sizes == 0, payload.sizes == size, payload.sizes)
                        ):
                            by_mapping[row] += np.bincount(
                                mapping, weights, by_mapping.shape[1]
                            ).astype(np.int64)
                    done += payload.sizes.size
                    if progress is not None:
                        progress(done, steps, f"compressing with {name}")
            done += (indexes.size - kept.size) * len(names)
        if not kept_pages:
            raise SourceError(
                f"none of the {wanted} pages chosen in {source.title} could be read; try again"
            )
        timings = _time(engines, timed[:timed_pages], seed, done, steps - slow_steps, progress)
    finally:
        engines.close()
    python = {info.name for info in zswap.compressors() if info.origin == "python"}
    results = [
        CompressorResult(name, kept_pages, histogram, store, load, name.partition(":")[0] in python)
        for name, histogram, (store, load) in zip(names, histograms, timings, strict=True)
    ]
    for name in slow_names if timed_pages else ():
        if progress is not None:
            progress(steps - slow_steps, steps, f"compressing with {name}")
        results.append(_measure_slow(name, timed[:timed_pages], seed))
    if progress is not None:
        progress(steps, steps, "done")
    mappings = [
        MappingResult(name, pages, sampled, same_filled, raw, payload, size)
        for name, pages, (sampled, same_filled, raw, payload) in zip(
            source.mappings, source.mapping_pages().tolist(), by_mapping.T.tolist(), strict=True
        )
        if pages
    ]
    mappings.sort(key=lambda mapping: (-mapping.pages, mapping.name))
    return _Measured(results, mappings, seen - kept_pages, zero_pages)


def _measure_slow(name: str, pages: npt.NDArray[np.uint8], seed: int) -> CompressorResult:
    """Measure a random part of the timed pages, with a compressor too slow for all of them."""
    some = np.sort(np.random.default_rng(seed).permutation(len(pages))[:_SLOW_PAGES])
    pages = pages[some]
    engines = _Engines([name], pages.shape[1])
    try:
        sizes = np.concatenate([payload.sizes for payload in engines.payloads(0, pages, threads=1)])
        ((store, load),) = _time(engines, pages, seed, 0, 0, None, repeats=1)
    finally:
        engines.close()
    return CompressorResult(
        name, len(pages), np.bincount(sizes, minlength=pages.shape[1] + 1), store, load, True
    )


@lru_cache
def _kernel_deflate() -> zswap.Compressor:
    from zswap_core.compressors.adapter import PythonCompressor

    def compress(data: bytes) -> bytes:
        stream = zlib.compressobj(6, zlib.DEFLATED, -11, 9)
        return stream.compress(data) + stream.flush()

    return PythonCompressor(
        DEFLATE_KERNEL, compress, lambda data: zlib.decompress(data, -11), library="zlib"
    )


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
                compressor = _kernel_deflate() if name == DEFLATE_KERNEL else name
                self.all.append(
                    zswap.ZSwap(
                        compressor,
                        "zsmalloc",
                        page_size=page_size,
                        max_pool_bytes=NO_LIMIT,
                        shrinker_enabled=False,
                    )
                )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for engine in self.all:
            engine.close()

    def payloads(
        self, number: int, pages: npt.NDArray[np.uint8], threads: int
    ) -> Iterator[_Payloads]:
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
            raise zswap.Error(
                f"{self.names[number]}: {refused.size} of {status.size} pages were not stored "
                f"({why})"
            )


def _time(
    engines: _Engines,
    pages: npt.NDArray[np.uint8],
    seed: int,
    done: int,
    steps: int,
    progress: Progress | None,
    *,
    repeats: int = _REPEATS,
) -> list[tuple[Timing, Timing]]:
    """Time storing and loading page by page.

    The compressors take turns, so that a slow moment of the machine hits all of them; of each page
    the median of all rounds counts.  Everything has run before (the sizes were taken with the same
    engines), so nothing is timed cold.  Pages are stored and loaded in random order, as reclaim and
    faults would come, not in the order that prefetching likes.
    """
    if not len(pages):  # all that were to be timed have vanished
        nothing = Timing(math.nan, math.nan, math.nan)
        return [(nothing, nothing)] * len(engines.all)
    rng = np.random.default_rng(seed)
    pages = pages[rng.permutation(len(pages))]
    offsets = np.arange(len(pages), dtype=np.uint64)
    shuffled = rng.permutation(offsets)
    out = np.zeros((min(_BATCH, len(pages)), pages.shape[1]), np.uint8)
    ns = np.zeros((len(engines.all), 2, repeats, len(pages)), np.uint32)
    for repeat in range(repeats):
        for number, engine in enumerate(engines.all):
            for begin in range(0, len(pages), _BATCH):
                part = slice(begin, begin + _BATCH)
                engines.store(number, offsets[part], pages[part], ns=ns[number, 0, repeat, part])
            for begin in range(0, len(pages), _BATCH):
                wanted = shuffled[begin : begin + _BATCH]
                spent = np.zeros(len(wanted), np.uint32)
                engine.load_many(wanted, out[: len(wanted)], ns=spent)
                ns[number, 1, repeat, wanted.astype(np.int64)] = spent
            if repeat == repeats - 1:
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
