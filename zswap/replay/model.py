"""A trace replayed through a model of RAM, zswap and a swap device, once for each setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zswap.costs import NO_COSTS, Costs
from zswap.estimate import KERNEL_ENTRY_BYTES, KERNEL_HANDLE_BYTES, SlotTable, zpool_model
from zswap.replay.contents import Contents
from zswap.replay.curve import Curve
from zswap.replay.settings import Setting
from zswap.replay.trace import Trace
from zswap_core.replay import Replay

__all__ = ["Outcome", "Replayed", "replay", "simulator"]

PAGE = 4096
_STEP = 1 << 18  # references between two looks at Ctrl-C
_ENTRY_BYTES = KERNEL_ENTRY_BYTES + KERNEL_HANDLE_BYTES

Progress = Callable[[int, int, str], object]


@dataclass(frozen=True)
class Outcome:
    """What came of one setting.

    Attributes
    ----------
    setting : Setting
    counters : dict of str to int
        `zswap_core.replay.COUNTERS`.
    payload_ratio : float or None
        Of what the pages compress to.
    store_us, load_us, fault_us : float
        Microseconds: to compress a page, to decompress one, and of a fault beside.
    """

    setting: Setting
    counters: dict[str, int]
    payload_ratio: float | None
    store_us: float
    load_us: float
    fault_us: float

    def __getattr__(self, name: str) -> int:
        """Return a counter."""
        try:
            return self.counters[name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def faults(self) -> int:
        """Touches of pages that had been swapped out."""
        return self.pool_hits + self.same_hits + self.device_hits

    @property
    def hit_rate(self) -> float | None:
        """Share of these faults that the device was not read for; None where there were none."""
        return 1 - self.device_hits / self.faults if self.faults else None

    @property
    def loads(self) -> int:
        """Pages decompressed for faults and by reading ahead."""
        return self.pool_hits + self.ahead_pool

    @property
    def device_read_bytes(self) -> int:
        """Bytes read from the swap device, read-ahead included."""
        return PAGE * (self.device_hits + self.ahead_device)

    @property
    def device_write_bytes(self) -> int:
        """Bytes written to it: pages refused, and pages written back."""
        return PAGE * (self.rejected + self.written_back)

    @property
    def mean_pool_bytes(self) -> float:
        """What the pool and its metadata took, on average over the references."""
        return self._mean(PAGE * self.sum_pool_pages + _ENTRY_BYTES * self.sum_stored)

    @property
    def most_pool_bytes(self) -> int:
        """The most that the pool and its metadata took."""
        return PAGE * self.most_pool_pages + _ENTRY_BYTES * self.most_stored

    @property
    def mean_stored(self) -> float:
        """Pages in the pool, on average over the references."""
        return self._mean(self.sum_stored)

    @property
    def mean_resident(self) -> float:
        """Pages in RAM as they are, on average over the references."""
        return self._mean(self.sum_resident)

    @property
    def cpu_seconds(self) -> float:
        """Of one CPU: compressing, decompressing (also to write back), and the faults."""
        return 1e-6 * (
            self.stored * self.store_us
            + (self.loads + self.written_back) * self.load_us
            + self.faults * self.fault_us
        )

    def _mean(self, total: int) -> float:
        return total / self.references if self.references else 0.0


@dataclass(frozen=True)
class Replayed:
    """A trace, what was asked, and what came of it.

    Attributes
    ----------
    trace : Trace
    memory, ram : int
        Bytes for the pages and the pool; of the machine, of which max_pool_percent is.
    model : {"kernel", "engine"}
    contents : list of Contents
    how : str
        Where these are from.
    outcomes : list of Outcome
    curve : Curve
    seconds : float
        For all replays.
    costs : str
        Where the microseconds of a fault are from.
    """

    trace: Trace
    memory: int
    ram: int
    model: str
    contents: list[Contents]
    how: str
    outcomes: list[Outcome]
    curve: Curve
    seconds: float
    costs: str

    @property
    def speed(self) -> float:
        """References a second, over all settings."""
        return len(self.outcomes) * self.trace.references / max(self.seconds, 1e-9)


def simulator(
    trace: Trace,
    setting: Setting,
    contents: Contents | None,
    *,
    memory: int,
    ram: int,
    model: str = "kernel",
    charged: str = "whole",
    zpool: str | None = None,
    log_room: int = 0,
    exclusive: bool | None = None,
) -> Replay:
    """Make the model of one setting, before its first reference.

    Parameters
    ----------
    trace : Trace
    setting : Setting
    contents : Contents or None
        None where there is no zswap.
    memory, ram : int
        Bytes.
    model : {"kernel", "engine"}
    charged : {"whole", "payload", "beside"}
        What of the pool is part of `memory`.
    zpool : str, optional
        The allocator; the model's own unless given.
    log_room : int
        Events to log.
    exclusive : bool, optional
        Whether loads take entries out, as the kernel's do.

    Returns
    -------
    zswap_core.replay.Replay
    """
    ours = model == "engine"
    table = zpool_model(zpool or ("zsmalloc" if ours else "zsmalloc-kernel"), page_size=PAGE)
    assert isinstance(table, SlotTable)
    classes = np.stack([table.sizes, table.pages, table.objects], axis=1).astype(np.uint32)
    most = ram // PAGE * setting.max_pool_percent // 100
    sizes = np.zeros(trace.pages, np.uint16) if contents is None else contents.sizes
    options: dict[str, Any] = {"charged": charged}
    return Replay(
        trace.numbers,
        sizes,
        classes,
        memory=max(1, memory // PAGE),
        most=most,
        accept=most * setting.accept_threshold_percent // 100,
        header=table.header,
        compacted=ours,
        zswap=contents is not None,
        shrinker=setting.shrinker and not ours,
        ours=ours,
        exclusive=not ours if exclusive is None else exclusive,
        cluster=0 if ours else setting.page_cluster,
        log_room=log_room,
        **options,
    )


def replay(
    trace: Trace,
    settings: Sequence[Setting],
    contents: Sequence[Contents],
    *,
    memory: int,
    ram: int,
    model: str = "kernel",
    zpool: str | None = None,
    costs: Costs | None = None,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Replay a trace for each setting.

    Parameters
    ----------
    trace : Trace
    settings : sequence of Setting
    contents : sequence of Contents
        One for each compressor that the settings name.
    memory, ram : int
        Bytes for pages and pool; of the machine.
    model : {"kernel", "engine"}
    zpool : str, optional
        The allocator.
    costs : Costs, optional
        What the kernel does beside the codec; nothing unless given.
    progress : callable, optional
        Called with references done, references in all, and a word.

    Returns
    -------
    list of Outcome
    """
    by_name = {one.compressor: one for one in contents}
    beside = costs if costs is not None else NO_COSTS
    total = trace.references * len(settings)
    outcomes = []
    done = 0
    for setting in settings:
        one = None if setting.compressor is None else by_name[setting.compressor]
        model_of = simulator(trace, setting, one, memory=memory, ram=ram, model=model, zpool=zpool)
        for first in range(0, trace.references, _STEP):
            stop = min(first + _STEP, trace.references)
            model_of.run(trace.ids, trace.ops, first, stop)
            done += stop - first
            if progress is not None:
                progress(done, total, f"replaying: {setting.name}")
        outcomes.append(
            Outcome(
                setting,
                model_of.counters(),
                None if one is None else one.ratio,
                0.0 if one is None else one.store_us + beside.store_us,
                0.0 if one is None else one.load_us + beside.load_us,
                beside.fault_us,
            )
        )
    return outcomes
