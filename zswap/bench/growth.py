"""What grows with the number of pages held: time and memory from 10^4 to 10^7 entries."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import zswap
from zswap.bench.corpora import PAGE, Pages

__all__ = ["SHAPES", "Held", "Point", "grow", "offsets_of", "small_pages"]

#: How offsets lie, and in which order they are stored and loaded.
SHAPES = ("dense, in order", "dense, random", "sparse, in order", "sparse, random")

_BATCH = 1 << 14
_LOADS = 1 << 20  # at most so many are loaded and replaced at each size


@dataclass(frozen=True)
class Point:
    """One number of entries.  Times are ns a page.

    Attributes
    ----------
    shape : str
        One of `SHAPES`.
    entries : int
    store, load, replace, invalidate : float
        Into an empty engine; of pages held; in place of them; each by batches of 16384, but
        invalidate in one range.
    metadata : float
        Bytes a page, all counted.
    resident : float
        Bytes a page, the compressed page included.
    """

    shape: str
    entries: int
    store: float
    load: float
    replace: float
    invalidate: float
    metadata: float
    resident: float

    def to_dict(self) -> dict[str, Any]:
        """Return the point as JSON has it."""
        return asdict(self)


def small_pages(count: int = _BATCH, seed: int = 0) -> Pages:
    """Make pages that lz4 makes about 100 bytes of: twelve short records, else zeros.

    10^7 of them fit in 2 GiB.
    """
    rng = np.random.default_rng(seed)
    pages = np.zeros((count, PAGE), np.uint8)
    for at in range(12):
        begin = at * 336
        pages[:, begin : begin + 4] = rng.integers(0, 256, (count, 4))
    return pages


def offsets_of(shape: str, count: int, seed: int = 0) -> npt.NDArray[np.uint64]:
    """Return offsets in the order of use.

    Dense: from 0 up; sparse: one page in a run of 64, in random order.
    """
    offsets = np.arange(count, dtype=np.uint64)
    if shape.startswith("sparse"):
        offsets = offsets * np.uint64(64) + np.random.default_rng(seed).integers(
            0, 64, count, np.uint64
        )
    if shape.endswith("random"):
        np.random.default_rng(seed + 1).shuffle(offsets)
    return offsets


def _batches(offsets: npt.NDArray[np.uint64]) -> Iterator[npt.NDArray[np.uint64]]:
    return (offsets[at : at + _BATCH] for at in range(0, len(offsets), _BATCH))


def _timed(
    offsets: npt.NDArray[np.uint64], call: Callable[[npt.NDArray[np.uint64]], object]
) -> float:
    start = time.perf_counter_ns()
    for batch in _batches(offsets):
        call(batch)
    return (time.perf_counter_ns() - start) / len(offsets)


class Held:
    """An engine that holds `entries` small pages, and what is done with them.  A context manager.

    Parameters
    ----------
    shape : str
        One of `SHAPES`.
    entries : int
    compressor : str
    seed : int

    Attributes
    ----------
    engine : ZSwap
    store_ns : float
        What a store into the empty engine took.
    """

    def __init__(self, shape: str, entries: int, *, compressor: str = "lz4", seed: int = 0) -> None:
        self.entries = entries
        self._pages = small_pages(min(entries, _BATCH), seed)
        self._out = self._pages.copy()  # touched already
        offsets = offsets_of(shape, entries, seed)
        self._stop = int(offsets.max()) + 1
        if shape.endswith("random"):  # in another order than they were stored in
            self._used = np.random.default_rng(seed + 2).choice(
                offsets, min(entries, _LOADS), replace=False
            )
        else:  # spread over all: in order within each stretch
            stretches = max(1, min(entries, _LOADS) // _BATCH)
            at = np.linspace(0, max(0, entries - _BATCH), stretches).astype(np.int64)
            self._used = np.concatenate([offsets[a : a + _BATCH] for a in at])
        self.engine = zswap.ZSwap(compressor, max_pool_bytes=entries * 512 + (64 << 20))
        self.store_ns = _timed(offsets, self._store)

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *exc: object) -> None:
        self.engine.close()

    def _store(self, offsets: npt.NDArray[np.uint64]) -> None:
        if self.engine.store_many(offsets, self._pages[: len(offsets)]).min() < 0:
            raise zswap.Error(f"a page of {self.entries:,} was refused: {self.engine.stats()}")

    def load(self) -> float:
        """Load up to 2**20 of the pages; nanoseconds a page."""
        return _timed(
            self._used,
            lambda offsets: self.engine.load_many(offsets, out=self._out[: len(offsets)]),
        )

    def replace(self) -> float:
        """Store up to 2**20 of the pages anew; nanoseconds a page."""
        return _timed(self._used, self._store)

    def invalidate(self) -> float:
        """Drop all pages in one range; nanoseconds a page."""
        start = time.perf_counter_ns()
        dropped = self.engine.invalidate_range(0, self._stop)
        took = time.perf_counter_ns() - start
        if dropped != self.entries:
            raise zswap.Error(f"{dropped:,} pages were held, not {self.entries:,}")
        return took / self.entries


def grow(shape: str, entries: int, *, rounds: int = 3, seed: int = 0) -> Point:
    """Fill an engine, use it, and empty it.

    Parameters
    ----------
    shape : str
        One of `SHAPES`.
    entries : int
    rounds : int
        Of loads and replacements, of which the median counts.
    seed : int

    Returns
    -------
    Point
    """
    with Held(shape, entries, seed=seed) as held:
        loads = [held.load() for _ in range(rounds)]
        stats = held.engine.stats()
        replaced = [held.replace() for _ in range(rounds)]
        return Point(
            shape,
            entries,
            held.store_ns,
            statistics.median(loads),
            statistics.median(replaced),
            held.invalidate(),
            stats.metadata_bytes / entries,
            stats.resident_bytes / entries,
        )
