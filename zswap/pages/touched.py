"""Which memory is touched, and which lies idle: what is cold is what is worth compressing.

The kernel is told to forget what was touched (clear_refs), and asked from time to time, mapping by
mapping, what has been touched since (Referenced in smaps).  What is not touched within a time has
been idle for that long; a huge page counts as touched whole.  It takes no root for processes of
one's own.  The one effect: for a while the kernel takes the memory for colder than it did.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zswap.pages.source import Int64Array, PageSource, Part, SourceError

__all__ = ["Touched", "watch_memory"]

FloatArray = npt.NDArray[np.float64]

#: When it is looked, in parts of the whole time.
_LOOKS = (1 / 8, 1 / 4, 1 / 2, 1.0)


@dataclass(frozen=True)
class Touched:
    """What was touched while it was watched.

    Attributes
    ----------
    seconds : list of float
        When it was looked.
    untouched : list of float
        The share of the target's pages that had not been touched by then.
    cold_pages, touched_pages : int
        Of the target, at the end.
    back_per_second : float
        Pages a second that are touched for the first time in the second half: so many would come
        back if all that has been idle for half of the time were compressed.
    """

    seconds: list[float]
    untouched: list[float]
    cold_pages: int
    touched_pages: int
    back_per_second: float
    _areas: list[tuple[Int64Array, Int64Array, FloatArray]]

    def is_cold(self, paths: Int64Array, offsets: Int64Array) -> npt.NDArray[np.bool_]:
        """Choose pages to stand for the cold: of each mapping as large a share as is cold.

        Parameters
        ----------
        paths, offsets : ndarray of int64
            Which process, and the address, as of `PageSource.places`.
        """
        chance = np.zeros(offsets.size)
        for path, (starts, ends, cold) in enumerate(self._areas):
            mine = np.flatnonzero(paths == path)
            if mine.size and starts.size:
                area = np.minimum(np.searchsorted(ends, offsets[mine], "right"), ends.size - 1)
                inside = (starts[area] <= offsets[mine]) & (offsets[mine] < ends[area])
                chance[mine] = np.where(inside, cold[area], 0.0)
        return np.random.default_rng(0).random(offsets.size) < chance


def watch_memory(
    source: PageSource,
    seconds: float,
    *,
    sleep: Callable[[float], object] = time.sleep,
    progress: Callable[[int, int, str], object] | None = None,
) -> Touched:
    """Watch what is touched of processes.

    Parameters
    ----------
    source : PageSource
        Of processes, whose pages have not been read yet: reading touches them.
    seconds : float
    sleep : callable
        Waits.
    progress : callable, optional
        Called with steps done, steps in all, and a word on what is being done.

    Returns
    -------
    Touched

    Raises
    ------
    SourceError
        When none of the processes lets itself be watched.
    """
    parts = source.parts or [Part(source.pids[0], "", "", len(source))]
    watched = [source.forget(path) for path in range(len(parts))]
    if not any(watched):
        raise SourceError(
            f"{source.title}: what is touched does not show (/proc/PID/clear_refs); watch "
            "processes of your own, or run as root"
        )
    begun, untouched, times = time.monotonic(), [], []
    areas: list[tuple[Int64Array, Int64Array, FloatArray]] = []
    cold = np.zeros(len(parts))
    for look in _LOOKS:
        while True:  # so that the bar moves
            gone = time.monotonic() - begun
            if progress is not None:
                progress(int(1000 * gone / seconds), 1000, "watching what is touched")
            if gone >= seconds * look:
                break
            sleep(min(seconds * look - gone, 0.2))
        areas = []
        for path, part in enumerate(parts):
            table = source.referenced(path) if watched[path] else np.zeros((0, 5), np.int64)
            starts, ends, anonymous, resident, referenced = table.T
            idle = 1 - np.minimum(1.0, referenced / np.maximum(resident, 1))
            whole = anonymous.sum()
            share = float((anonymous * idle).sum() / whole) if whole else 0.0
            cold[path] = share * part.population
            areas.append((starts, ends, idle))
        times.append(time.monotonic() - begun)
        untouched.append(float(cold.sum()) / max(1, sum(part.population for part in parts)))
    total = sum(part.population for part in parts)
    cold_pages = min(total, round(float(cold.sum())))
    span = max(times[-1] - times[-2], 1e-9)
    return Touched(
        seconds=times,
        untouched=untouched,
        cold_pages=cold_pages,
        touched_pages=total - cold_pages,
        back_per_second=max(0.0, untouched[-2] - untouched[-1]) * total / span,
        _areas=areas,
    )
