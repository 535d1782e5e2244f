"""Misses for every size of memory: Mattson's stack distances on a sample of the pages.

An LRU list of n pages misses each touch of a page since whose last touch n others or more were
touched.  SHARDS (Waldspurger et al., FAST '15) counts that for the pages alone whose number hashes
below a threshold, with distances scaled up: a hundredth of the pages gives the curve of all.

The pages of the sample are split at random into ten groups, each of which is such a sample itself;
from how far their curves lie apart follows how far the whole sample's may be off (the random
groups method).  Where all pages are taken there is no error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zswap.replay.trace import Trace
from zswap_core.replay import reuse_distances

__all__ = ["Curve", "miss_ratio_curve"]

PAGE = 4096
_GROUPS = 10
_POINTS = 128
#: Without a rate: so many references are followed at most, and so many pages at least.
_EXACT_REFERENCES = 4_000_000
_LEAST_PAGES = 8192
_STUDENT = 2.262  # 97.5 % at nine degrees of freedom

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Miss ratios by memory.

    Attributes
    ----------
    bytes : ndarray of float64
        Sizes of memory for whole pages, ascending.
    misses : ndarray of float64
        Share of the references that miss an LRU list of that size; first touches count.
    errors : ndarray of float64
        Half the width of the interval at 95 %.
    rate : float
        Share of the pages that were followed.
    pages, references : int
        Pages and references followed.
    """

    bytes: Floats
    misses: Floats
    errors: Floats
    rate: float
    pages: int
    references: int

    def at(self, nbytes: npt.ArrayLike) -> Floats:
        """Miss ratios for other sizes."""
        return np.interp(np.asarray(nbytes, np.float64), self.bytes, self.misses)

    @property
    def error(self) -> float:
        """The largest of the errors."""
        return float(self.errors.max()) if self.errors.size else 0.0


def miss_ratio_curve(
    trace: Trace,
    *,
    rate: float | None = None,
    seed: int = 0,
    progress: Callable[[int, int, str], object] | None = None,
) -> Curve:
    """Work out the miss-ratio curve of a trace.

    Parameters
    ----------
    trace : Trace
    rate : float, optional
        Share of the pages to follow; unless given all of a short trace, and of a long one as many
        as take a second or so.
    seed : int
        Chooses them.
    progress : callable, optional

    Returns
    -------
    Curve
    """
    if rate is None:
        rate = min(1.0, _EXACT_REFERENCES / trace.references)
        rate = min(1.0, max(rate, _LEAST_PAGES / trace.pages))
    hashes = _hashes(trace.numbers, seed)
    chosen = hashes < rate if rate < 1 else np.ones(trace.pages, bool)
    if not chosen.any():
        chosen[int(hashes.argmin())] = True
    sizes = _sizes(trace.pages)
    if progress is not None:
        progress(0, _GROUPS + 1, "following pages")
    misses, followed = _curve(trace, chosen, sizes, rate)
    errors = np.zeros_like(misses)
    if rate < 1:
        # by another part of the hash, so that each group is a sample of all
        group = (_hashes(trace.numbers, seed + 1) * _GROUPS).astype(np.int64)
        curves = []
        for number in range(_GROUPS):
            part = chosen & (group == number)
            if part.any():
                curves.append(_curve(trace, part, sizes, rate / _GROUPS)[0])
            if progress is not None:
                progress(number + 1, _GROUPS + 1, "following pages")
        if len(curves) > 1:
            errors = _STUDENT * np.std(curves, axis=0, ddof=1) / np.sqrt(len(curves))
    return Curve(
        bytes=sizes * float(PAGE),
        misses=misses,
        errors=np.minimum(errors, 1.0),
        rate=rate,
        pages=int(chosen.sum()),
        references=followed,
    )


def _sizes(pages: int) -> Floats:
    """Sizes of memory to tell misses for: none, all, and more closely where it is little."""
    steps = np.unique(np.rint(np.geomspace(1, pages + 1, _POINTS)).astype(np.int64))
    even = np.rint(np.linspace(0, pages, _POINTS)).astype(np.int64)
    return np.unique(np.concatenate((steps, even))).astype(np.float64)


def _hashes(numbers: npt.NDArray[np.uint64], seed: int) -> Floats:
    """Spread page numbers over 0 to 1 (the finisher of SplitMix64)."""
    with np.errstate(over="ignore"):
        x = numbers + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 & (1 << 64) - 1)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    spread: Floats = (x >> np.uint64(11)).astype(np.float64) / float(1 << 53)
    return spread


def _curve(
    trace: Trace, chosen: npt.NDArray[np.bool_], sizes: Floats, rate: float
) -> tuple[Floats, int]:
    """Return the miss ratios at `sizes`, by the pages chosen; and how many references they have."""
    renumbered = np.cumsum(chosen).astype(np.uint32) - np.uint32(1)
    pages = int(chosen.sum())
    ids = trace.ids if pages == trace.pages else trace.ids[chosen[trace.ids]]
    distances = reuse_distances(np.ascontiguousarray(renumbered[ids]), pages)
    again = np.sort(distances[distances >= 0]) / rate
    expected = trace.references * rate
    # SHARDS-adj: what the sample has too many or too few of is taken to be the closest touches
    hits = np.searchsorted(again, sizes, side="left") + (expected - ids.size)
    misses = 1 - hits / expected
    misses[sizes == 0] = 1.0
    return np.clip(np.minimum.accumulate(np.clip(misses, 0, 1)), 0, 1), int(ids.size)
