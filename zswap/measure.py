"""A sample of a target's pages read, compressed with each compressor, and some of it timed.

What follows from the sizes is worked out elsewhere, in `zswap.estimate`.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

import zswap
from zswap.advice import DEFLATE_KERNEL
from zswap.estimate import NO_LIMIT, CompressorResult, FloatArray, Int64Array, Timing
from zswap.pages import PageSource, Part, SourceError, sample

__all__ = ["MappingResult", "Measured", "PartResult", "Progress", "measure"]

Progress = Callable[[int, int, str], object]

_BATCH = 1024  # pages between two looks at Ctrl-C
_TIMED_PAGES = 4096
_REPEATS = 3
_SLOW_PAGES = 2048  # measured with what takes ten times as long
_SLOW_STEPS = 10
_STEP = 16  # bytes: as fine as sizes of single parts are kept


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
class PartResult:
    """What some compressors make of one part of a target: a process of several.

    Attributes
    ----------
    part : Part
    results : dict of str to CompressorResult
        By compressor, those too slow for the whole sample left out; sizes to 16 bytes, no times.
    """

    part: Part
    results: dict[str, CompressorResult]


@dataclass(frozen=True)
class Measured:
    """What `measure` found."""

    results: list[CompressorResult]
    mappings: list[MappingResult]
    parts: list[PartResult]
    heat: list[PartResult]
    vanished: int
    zero_pages: int


def measure(
    source: PageSource,
    names: Sequence[str],
    pages: int | None,
    seed: int,
    progress: Progress | None,
) -> Measured:
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
    by_part = np.zeros((len(source.parts), len(names), size // _STEP + 1), np.int64)
    by_heat = np.zeros((2, len(names), size // _STEP + 1), np.int64)
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
                    part = slice(payload.begin, payload.begin + payload.sizes.size)
                    if source.parts:
                        steps_of = -(-payload.sizes // _STEP)
                        np.add.at(by_part[:, number], (source.part_of(kept[part]), steps_of), 1)
                    if source.touched is not None:
                        cold = source.touched.is_cold(*source.places(kept[part]))
                        steps_of = -(-payload.sizes // _STEP)
                        np.add.at(by_heat[:, number], ((~cold).astype(np.int64), steps_of), 1)
                    if number == 0:
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
    parts = [
        PartResult(
            part,
            {name: _part_result(name, steps) for name, steps in zip(names, table, strict=True)},
        )
        for part, table in zip(source.parts, by_part, strict=True)
    ]
    heat = []
    if source.touched is not None:
        pages_of = source.touched.cold_pages, source.touched.touched_pages
        for word, amount, table in zip(("cold", "touched"), pages_of, by_heat, strict=True):
            of = {name: _part_result(name, steps) for name, steps in zip(names, table, strict=True)}
            heat.append(PartResult(Part(0, word, word, amount), of))
    return Measured(
        results, mappings, parts, heat, seen - kept_pages - source.passed_over, zero_pages
    )


def _part_result(name: str, steps: Int64Array) -> CompressorResult:
    """Make a result of pages by the number of steps that their payloads take."""
    histogram = np.zeros((steps.size - 1) * _STEP + 1, np.int64)
    histogram[0] = steps[0]
    histogram[_STEP // 2 :: _STEP] = steps[1:]  # the middle of each
    histogram[(steps.size - 2) * _STEP + _STEP // 2] = 0
    histogram[-1] = steps[-1]
    nothing = Timing(math.nan, math.nan, math.nan)
    return CompressorResult(name, int(steps.sum()), histogram, nothing, nothing)


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
