"""An engine's figures for Prometheus, read when it scrapes.

Needs prometheus-client: ``pip install 'zswap[prometheus]'``.

from zswap_core.locks import Lock

Counters and gauges carry the kernel's names behind ``zswap_``, sizes end in ``_bytes`` and counters
in ``_total``.  Refused stores are one counter, ``zswap_rejects_total``, with a label ``reason``;
each pool has gauges with the labels ``compressor`` and ``zpool``.  The latencies of stores and
loads are histograms, empty unless the engine's parameter ``latency`` is or was on.  Nothing is
counted beside what the engine counts anyway: stores and loads cost what they cost without a
collector.
"""

from __future__ import annotations

import itertools
import re
import weakref
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

try:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )
    from prometheus_client.registry import Collector as BaseCollector
except ImportError as error:
    raise ImportError(
        "zswap.prometheus needs prometheus-client: pip install 'zswap[prometheus]'"
    ) from error

from zswap.stats import FIGURES, Kind, Row
from zswap_core.locks import Lock
from zswap_core.status import REFUSALS

if TYPE_CHECKING:
    from zswap.core import ZSwap
    from zswap.stats import Latency, PoolInfo, Stats

__all__ = ["Collector"]

# Name behind "zswap_pool_", field of PoolInfo, help.
_POOL_GAUGES = (
    ("current", "current", "Whether stores go to this pool: 1 or 0."),
    (
        "stored_pages",
        "stored_pages",
        "Entries that live in this pool; same-filled pages live in none.",
    ),
    ("size_bytes", "total_size", "Memory of this pool's allocator."),
    ("references", "references", "What keeps this pool alive: its entries, and being current."),
)
# Name behind "zswap_", kind of call, help.
_HISTOGRAMS = (
    ("store_seconds", "store", "Time to store a page, while the parameter latency was on."),
    ("load_seconds", "load", "Time to load a page, while the parameter latency was on."),
)
# of two, in nanoseconds: where the histograms' buckets end, from 256 ns to 1.07 s
_POWERS = range(8, 31, 2)
_OWN_LABELS = ("reason", "compressor", "zpool", "le")


def _plain() -> dict[str, Row]:
    """Return the figures that are a metric each: all but the reasons of refusals."""
    return {name: row for name, row in FIGURES.items() if row.kind is not Kind.REFUSAL}


def _family(name: str, row: Row, labels: tuple[str, ...]) -> Metric:
    """Make the metric of a figure."""
    if row.kind.counts:
        return CounterMetricFamily(f"zswap_{name}", row.text, labels=labels)
    suffix = "_bytes" if row.kind is Kind.SIZE and not name.endswith("_bytes") else ""
    return GaugeMetricFamily(f"zswap_{name}{suffix}", row.text, labels=labels)


class _Engine:
    """What is kept of one engine: a weak reference, so that being watched keeps none alive."""

    def __init__(self, z: ZSwap, labels: dict[str, str]) -> None:
        self.ref = weakref.ref(z)
        self.labels = labels
        self.compacted = 0

    def read(self) -> tuple[Stats, list[PoolInfo], dict[str, Latency]] | None:
        z = self.ref()
        try:
            return None if z is None or z.closed else (z.stats(), z.pools(), z.latency())
        except ValueError:  # closed meanwhile
            return None


def _buckets(latency: Latency) -> list[tuple[str, float]]:
    """Return the cumulative counts that Prometheus wants.

    Each of its buckets is a whole number of ours.
    """
    ends = dict(zip(latency.bounds, itertools.accumulate(latency.counts, initial=0), strict=True))
    return [
        *((repr(2**power / 1e9), float(ends[2**power])) for power in _POWERS),
        ("+Inf", float(latency.count)),
    ]


class Collector(BaseCollector):
    """Shows engines to a Prometheus registry.  Nothing is read but when the registry collects.

    An engine that was closed, or of which nothing else is left, has no samples any more; in a
    forked child none has any.

    Parameters
    ----------
    z : ZSwap
        The engine.
    labels : mapping of str to str, optional
        Labels of all its samples, such as ``{"engine": "sessions"}``.

    Raises
    ------
    ImportError
        On import of this module, when prometheus-client is missing.
    ValueError
        For a label name that Prometheus does not take, or that is used here: reason, compressor,
        zpool, le.

    Examples
    --------
    >>> from prometheus_client import CollectorRegistry, generate_latest
    >>> import zswap
    >>> registry = CollectorRegistry()
    >>> with zswap.ZSwap(max_pool_bytes="1MiB") as z:
    ...     registry.register(Collector(z, labels={"engine": "sessions"}))
    ...     z[0] = bytes(4096)
    ...     registry.get_sample_value("zswap_stored_pages", {"engine": "sessions"})
    1
    """

    def __init__(self, z: ZSwap, *, labels: Mapping[str, str] | None = None) -> None:
        self._lock = Lock()
        self._engines: list[_Engine] = []
        self._names = tuple(sorted(labels or ()))
        for name in self._names:
            if (
                not re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", name)
                or name.startswith("__")
                or name in _OWN_LABELS
            ):
                raise ValueError(
                    f"{name!r} cannot be an engine's label: letters, digits and _ can, but not "
                    f"{', '.join(_OWN_LABELS)}"
                )
        self.add(z, labels=labels)

    def add(self, z: ZSwap, *, labels: Mapping[str, str] | None = None) -> None:
        """Show one more engine.

        A registry takes each name from one collector only, so engines share one.

        Parameters
        ----------
        z : ZSwap
            The engine.
        labels : mapping of str to str, optional
            As for the first engine: the same names, and other values.

        Raises
        ------
        ValueError
            When the labels do not have the first engine's names, or another engine has their
            values.
        """
        mine = {name: str(value) for name, value in (labels or {}).items()}
        if tuple(sorted(mine)) != self._names:
            raise ValueError(
                f"labels {sorted(mine)} given; every engine of a collector needs "
                f"{list(self._names)}"
            )
        with self._lock:
            self._engines = [
                e for e in self._engines if (other := e.ref()) is not None and not other.closed
            ]
            if any(e.labels == mine for e in self._engines):
                raise ValueError(f"another engine has the labels {mine}; give each its own")
            self._engines.append(_Engine(z, mine))

    def describe(self) -> Iterator[Metric]:
        """Name the metrics, for the registry to find clashes; reads no engine."""
        yield from self._families()

    def collect(self) -> Iterator[Metric]:
        """Read every engine."""
        families = self._families()
        rows = iter(families)
        with self._lock:
            readings = [(e, reading) for e in self._engines if (reading := e.read()) is not None]
            for e, (
                stats,
                *_,
            ) in readings:  # while a pool is being freed, its part of this is missing for a moment
                e.compacted = max(e.compacted, stats.pages_compacted)
        for field in _plain():
            family = next(rows)
            for e, (stats, *_) in readings:
                family.add_metric(
                    self._values(e),
                    e.compacted if field == "pages_compacted" else getattr(stats, field),
                )
        rejects = next(rows)
        for e, (stats, *_) in readings:
            for field in REFUSALS:
                reason = field.removeprefix("reject_").removesuffix("_hit")
                rejects.add_metric([*self._values(e), reason], getattr(stats, field))
        for (_, field, _), family in zip(_POOL_GAUGES, rows, strict=False):
            for e, (_, pools, _) in readings:
                sums: dict[
                    tuple[str, str], int
                ] = {}  # pools alike in both names are one to Prometheus
                for pool in pools:
                    key = pool.compressor, pool.zpool
                    sums[key] = sums.get(key, 0) + getattr(pool, field)
                for key, value in sums.items():
                    family.add_metric([*self._values(e), *key], value)
        for (_, kind, _), family in zip(_HISTOGRAMS, rows, strict=True):
            for e, (_, _, latencies) in readings:
                family.add_metric(
                    self._values(e), _buckets(latencies[kind]), latencies[kind].total / 1e9
                )
        yield from families

    def _values(self, e: _Engine) -> list[str]:
        return [e.labels[name] for name in self._names]

    def _families(self) -> list[Any]:
        """Every metric without samples: gauges, counters, rejects, gauges of pools, histograms."""
        names = self._names
        return [
            *(_family(name, row, names) for name, row in _plain().items()),
            CounterMetricFamily(
                "zswap_rejects", "Stores refused, by reason.", labels=(*names, "reason")
            ),
            *(
                GaugeMetricFamily(
                    f"zswap_pool_{name}", text, labels=(*names, "compressor", "zpool")
                )
                for name, _, text in _POOL_GAUGES
            ),
            *(
                HistogramMetricFamily(f"zswap_{name}", text, labels=names)
                for name, _, text in _HISTOGRAMS
            ),
        ]
