"""What the kernel does for a page beside compressing it: CPU time of a store, a load and a fault.

A library's codec is not all: zram and zswap take a page over, find room for what it becomes and
copy it there; and before a page is decompressed for a program there is a fault, a page to be found,
tables to be set.  As root, where a zram device is free, this is measured on the machine itself;
else it comes from a table, and a fault is scaled by what the first touch of a page takes here.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from zswap.pages import PageSource

__all__ = [
    "NO_COSTS",
    "TABLE",
    "Costs",
    "InZram",
    "first_touch_us",
    "for_machine",
    "from_table",
    "in_zram",
]

PAGE = 4096
_TOUCHED = 2048  # pages
_ROUNDS = 5
_ZRAM_PAGES, _LEAST_PAGES = 1024, 64
#: Of the kernel's algorithms those that take a thousand pages in a moment.
QUICK = ("lz4", "lzo", "lzo-rle", "zstd", "lz4hc")

Pages = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Costs:
    """Microseconds of CPU time a page, beside the codec's own.

    Attributes
    ----------
    store_us, load_us : float
        To take a page over and to give it back.
    fault_us : float
        Of the fault that asks for it, a load not counted.
    measured : bool
        Whether on this machine; else it is from a table.
    words : str
        Where it is from.
    in_kernel : dict of str to tuple of float
        By the kernel's algorithm what a store and a load took in zram, the codec included; empty
        where it was not measured.
    """

    store_us: float
    load_us: float
    fault_us: float
    measured: bool
    words: str
    in_kernel: dict[str, tuple[float, float]] = field(default_factory=dict)

    def of(self, algorithm: str, store_us: float, load_us: float) -> tuple[float, float]:
        """Return what a store and a load take in all, of which the codec takes what is given."""
        slower = _LIBRARY_LOADS.get(algorithm, 1.0)
        reckoned = store_us + self.store_us, load_us / slower + self.load_us
        return self.in_kernel.get(algorithm, reckoned)


#: How many times longer a library takes to decompress than the kernel: liblzo2 does it with checks
#: at each step.
_LIBRARY_LOADS = {"lzo": 2.0, "lzo-rle": 2.0}
#: Of a codec alone.
NO_COSTS = Costs(0.0, 0.0, 0.0, False, "")


@dataclass(frozen=True)
class Measured:
    """A row of the table: a CPU, and what was measured on it."""

    cpu: str
    kernel: str
    first_touch_us: float
    store_us: float
    load_us: float
    fault_us: float


#: Measured by bench/costs.py.
TABLE = (Measured("AMD EPYC", "Linux 6.18", 3.3, 0.1, 1.2, 8.4),)


@dataclass(frozen=True)
class InZram:
    """What a zram device made of pages: CPU time a page, and memory.

    Attributes
    ----------
    algorithm : str
    store_us, load_us : float
        Microseconds of CPU time a page, by requests of 128 KiB.
    payload, used : int
        Bytes, as mm_stat says.
    """

    algorithm: str
    store_us: float
    load_us: float
    payload: int
    used: int


def first_touch_us() -> float:
    """Measure what the first touch of a page of anonymous memory takes, at the least."""
    best = float("inf")
    for _ in range(_ROUNDS):
        area = mmap.mmap(-1, _TOUCHED * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError, AttributeError):
            area.madvise(mmap.MADV_NOHUGEPAGE)
        view = np.frombuffer(area, np.uint8)
        first, again = _touch(view), _touch(view)
        del view
        area.close()
        best = min(best, (first - again) / 1000 / _TOUCHED)
    return max(best, 0.0)


def _touch(view: Pages) -> int:
    begun = time.thread_time_ns()
    view[::PAGE] = 1
    return time.thread_time_ns() - begun


def from_table(cpu: str) -> Costs:
    """Take the costs from the table, a fault scaled to this machine.

    Parameters
    ----------
    cpu : str
        The processor's name, as /proc/cpuinfo has it.
    """
    row = next((row for row in TABLE if row.cpu in cpu), TABLE[0])
    here = first_touch_us()
    scale = min(4.0, max(0.25, here / row.first_touch_us))
    return Costs(
        row.store_us,
        row.load_us,
        row.fault_us * scale,
        False,
        f"from a table ({row.cpu}, {row.kernel}), faults × {scale:.2f} by what the first touch "
        "of a page takes here",
    )


def in_zram(pages: Pages, algorithm: str, rounds: int = 3) -> InZram:
    """Have a zram device of our own take pages and give them back.

    Parameters
    ----------
    pages : ndarray of uint8, shape (n, 4096)
    algorithm : str
        The kernel's name.
    rounds : int
        Of which the least counts.

    Returns
    -------
    InZram

    Raises
    ------
    RowMissing
        Where there is no device to be had.
    OSError
        Where it fails.
    """
    from zswap.bench.zram import Zram

    source, target = (mmap.mmap(-1, pages.nbytes) for _ in range(2))  # aligned, for O_DIRECT
    with Zram(algorithm) as zram:
        source[:] = pages.tobytes()
        target[:] = bytes(pages.nbytes)  # or its first touches would be timed as well
        store = load = float("inf")
        for _ in range(rounds):
            zram.empty(pages.nbytes)
            begun = time.thread_time_ns()
            zram.transfer(memoryview(source), write=True)
            between = time.thread_time_ns()
            zram.transfer(memoryview(target), write=False)
            ended = time.thread_time_ns()
            store = min(store, (between - begun) / 1000 / len(pages))
            load = min(load, (ended - between) / 1000 / len(pages))
        stat = zram.mm_stat()
        if target[:] != source[:]:
            raise OSError(f"{zram.dev} did not give back what was written")
    return InZram(algorithm, store, load, stat["payload"], stat["used"])


def for_machine(
    cpu: str, source: PageSource | None, algorithms: Sequence[str], seed: int = 0
) -> Costs:
    """Measure the costs where that can be done, else take them from the table.

    Parameters
    ----------
    cpu : str
    source : PageSource or None
        Of whose pages some go to a zram device; None: no device is to be used.
    algorithms : sequence of str
        Of this kernel's zram.
    seed : int
        Chooses the pages.
    """
    table = from_table(cpu)
    if source is None or os.geteuid() != 0 or not algorithms:
        return table
    pages = _some(source, seed)
    if len(pages) < _LEAST_PAGES:
        return table
    from zswap.bench.rows import RowMissing

    times: dict[str, tuple[float, float]] = {}
    try:
        for algorithm in algorithms:
            if algorithm in QUICK:
                found = in_zram(pages, algorithm, 2)
                times[algorithm] = found.store_us, found.load_us
    except (RowMissing, OSError):
        return table
    if not times:
        return table
    said = ", ".join(f"{name} {s:.1f} and {ld:.1f} µs" for name, (s, ld) in sorted(times.items()))
    return Costs(
        table.store_us,
        table.load_us,
        table.fault_us,
        True,
        f"measured in a zram device of this kernel ({said}); the fault around it {table.words}",
        times,
    )


def _some(source: PageSource, seed: int) -> Pages:
    """Read some pages that are not same-filled."""
    from zswap.pages import SourceError, sample

    if source.page_size != PAGE:
        return np.zeros((0, PAGE), np.uint8)
    try:
        found = [source.read(indexes)[0] for indexes in sample(len(source), _ZRAM_PAGES, seed)]
    except SourceError:  # the process has ended
        return np.zeros((0, PAGE), np.uint8)
    pages = np.concatenate(found) if found else np.zeros((0, PAGE), np.uint8)
    words = pages.view(np.uint64)
    worked: Pages = pages[(words != words[:, :1]).any(axis=1)]
    return worked
