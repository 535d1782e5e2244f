"""Several processes taken as one target, each looked at in its turn by one reader.

Pages that processes share since a fork are taken once.  The kernel says of each page whether others
have it too, and of each process what its pages come to when one that n processes share counts as
1/n (Pss).  So of the shared pages of a sample just so many are kept, chosen at random, that the
sample of each process is in proportion to that.
"""

from __future__ import annotations

import math
import mmap
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from zswap.pages.process import (
    Look,
    forget,
    look,
    open_process,
    read_spans,
    referenced,
)
from zswap.pages.source import (
    Int64Array,
    Pages,
    PageSource,
    Part,
    ProcessEnded,
    SourceError,
    Span,
    cut,
)
from zswap.pages.watch import Blocked, Reader

__all__ = ["cgroups_of", "open_processes"]

#: Seconds that a look at one of many processes may take, else it is left out.
PATIENCE = 3.0


class Group(PageSource):
    """Pages of several processes.

    Parameters
    ----------
    reader : Reader
        Closed with this.
    started : sequence of bytes
        When each process was started: by that it is known again.
    **options
        As for `PageSource`, with `parts`.
    """

    def __init__(self, *, reader: Reader, started: Sequence[bytes], **options: Any) -> None:
        super().__init__(**options)
        self._reader = reader
        self._started = started
        self._rng = np.random.default_rng(0)

    def close(self) -> None:
        """End the reader."""
        self._reader.close()

    def _read_spans(self, spans: Sequence[Span], pages: Pages) -> list[int]:
        lost: list[int] = []
        of_path: dict[int, list[Span]] = {}
        for span in spans:
            of_path.setdefault(span[0], []).append(span)
        for path, mine in of_path.items():
            rows = np.concatenate([np.arange(begin, end) for *_, begin, end in mine])
            try:
                gone, shared = self._read_part(path, mine, pages)
            except SourceError:  # this one has ended, or may not be read any more
                lost += rows.tolist()
            else:
                lost += gone + self._too_many(path, rows.size - len(gone), shared)
        return lost

    def _read_part(
        self, path: int, spans: Sequence[Span], pages: Pages
    ) -> tuple[list[int], list[int]]:
        pid = self.parts[path].pid
        self._turn_to(path)
        try:
            return read_spans(self._reader, pid, spans, pages)
        except Blocked:
            self._reader = Reader(PATIENCE)
            raise

    def _turn_to(self, path: int) -> None:
        """Have the reader open one of the processes again."""
        pid = self.parts[path].pid
        try:
            self._reader.ask(b"o", [pid])
            if _started(self._reader.ask(b"p")) != self._started[path]:
                raise ProcessEnded(f"process {pid} has ended")
        except Blocked:
            self._reader = Reader(PATIENCE)
            raise
        except OSError as error:
            raise ProcessEnded(f"process {pid} has ended") from error

    def forget(self, path: int) -> bool:
        """Have the kernel forget what has been touched of one of them."""
        try:
            self._turn_to(path)
        except SourceError:
            return False
        return forget(self._reader)

    def referenced(self, path: int) -> Int64Array:
        """Return what has been touched of one of them since."""
        try:
            self._turn_to(path)
        except SourceError:
            return np.zeros((0, 5), np.int64)
        return referenced(self._reader)

    def _too_many(self, path: int, read: int, shared: list[int]) -> list[int]:
        """Choose which of the shared pages count elsewhere."""
        rows = np.array(shared, np.int64)
        wanted = read * self.parts[path].share  # a fraction of a page is a chance
        keep = int(max(0.0, wanted - (read - rows.size)) + self._rng.random())
        if keep >= rows.size:
            return []
        over: list[int] = self._rng.permutation(rows)[keep:].tolist()
        self.passed_over += len(over)
        return over


def _started(stat_and_amounts: bytes) -> bytes:
    """Take the time of the start out of /proc/PID/stat, whose second field may hold anything."""
    return stat_and_amounts.partition(b"\n")[0].rpartition(b")")[2].split()[19]


def _share(stat_and_amounts: bytes) -> float:
    """Part of a process's anonymous memory that is its own; 1 where the kernel does not tell."""
    amounts = {}
    for line in stat_and_amounts.splitlines():
        key, _, value = line.partition(b":")
        if value.endswith(b"kB"):
            amounts[key] = int(value.split()[0])
    whole = amounts.get(b"Anonymous", 0)
    return min(1.0, amounts.get(b"Pss_Anon", whole) / whole) if whole else 1.0


def cgroups_of(pid: int) -> tuple[str, ...]:
    """Return the paths of the cgroups of a process: that of its memory first.

    Raises
    ------
    OSError
        When the process has ended.
    """
    with open(f"/proc/{pid}/cgroup", errors="replace") as file:
        lines = [line.rstrip("\n").split(":", 2) for line in file]
    rank = {"": 1, "memory": 0}
    found = [
        (min(rank.get(name, 2) for name in controllers.split(",")), path)
        for _, controllers, path in lines
    ]
    return tuple(dict.fromkeys(path for _, path in sorted(found, key=lambda each: each[0])))


def open_processes(
    pids: Sequence[int],
    *,
    title: str | None = None,
    lenient: bool = False,
    seconds: float = math.inf,
    progress: Callable[[int, int], object] | None = None,
) -> PageSource:
    """Open the anonymous memory of several processes as one target.

    Parameters
    ----------
    pids : sequence of int
    title : str, optional
        The target in words; made of their names unless given.
    lenient : bool
        Leave out those that cannot be read, or have ended, and tell how many in the notes.
    seconds : float
        After so long no further ones are looked at, and that is told.
    progress : callable, optional
        Called with processes looked at, and all.

    Returns
    -------
    PageSource

    Raises
    ------
    SourceError
        When one of them (where lenient: none of them) can be read.
    """
    pids = list(dict.fromkeys(pids))
    if len(pids) == 1 and not lenient:
        return open_process(pids[0])
    reader = Reader(PATIENCE)
    try:
        return _open(reader, pids, title, lenient, seconds, progress)
    except BaseException:
        reader.close()
        raise


def _open(
    reader: Reader,
    pids: Sequence[int],
    title: str | None,
    lenient: bool,
    seconds: float,
    progress: Callable[[int, int], object] | None,
) -> PageSource:
    found: list[Look] = []
    parts: list[Part] = []
    started: list[bytes] = []
    skipped: Counter[str] = Counter()
    deadline = time.monotonic() + seconds
    for number, pid in enumerate(pids):
        if time.monotonic() > deadline:
            skipped["too many to look at in time; these are the smallest"] = len(pids) - number
            break
        if progress is not None:
            progress(number, len(pids))
        try:
            one = look(reader, pid)
            told = reader.ask(b"p")
            cgroups = cgroups_of(one.pid)
        except (SourceError, OSError) as error:
            if isinstance(error, Blocked):
                reader.close()
                reader = Reader(PATIENCE)
            elif not lenient:
                raise
            skipped[_why(error)] += 1
            continue
        if any(part.pid == one.pid for part in parts):
            continue
        if not one.runs.counts.size:
            if not lenient:
                raise one.has_none(one.name)
            continue
        found.append(one)
        started.append(_started(told))
        parts.append(
            Part(
                one.pid,
                one.name,
                cgroups[0] if cgroups else "/",
                int(one.runs.counts.sum()),
                _share(told),
                one.runs.swapped,
            )
        )
    notes = [
        f"{count:,} process{'es' * (count != 1)} left out: {why}." for why, count in skipped.items()
    ]
    if not found:
        raise SourceError(
            "none of these processes may be read; run as root, or as their owner"
            if skipped
            else "none of these processes has anonymous memory in RAM"
        )
    names = list(dict.fromkeys(name for one in found for name in one.areas.names))
    number_of = {name: number for number, name in enumerate(names)}
    left_out: Counter[str] = Counter()
    for one in found:
        left_out.update(one.runs.left_out)
    if title is None:
        title = f"{len(parts)} processes: {cut(', '.join(f'{p.pid} ({p.name})' for p in parts))}"
    return Group(
        reader=reader,
        started=started,
        kind="process",
        title=title,
        paths=[f"/proc/{part.pid}/mem" for part in parts],
        path_index=np.repeat(np.arange(len(found)), [one.runs.counts.size for one in found]),
        offsets=np.concatenate([one.runs.offsets for one in found]),
        counts=np.concatenate([one.runs.counts for one in found]),
        mapping_index=np.concatenate([_mappings(one, number_of) for one in found]),
        mappings=names,
        page_size=mmap.PAGESIZE,
        swapped_pages=sum(one.runs.swapped for one in found),
        shared_bytes=max(one.shared_bytes for one in found),
        left_out=left_out,
        notes=notes,
        pids=[part.pid for part in parts],
        parts=parts,
    )


def _mappings(one: Look, number_of: dict[str, int]) -> Int64Array:
    numbers = np.array([number_of[name] for name in one.areas.names], np.int64)
    return numbers[one.areas.name_index[one.runs.areas]]


def _why(error: Exception) -> str:
    if isinstance(error, Blocked):
        return (
            "looking would wait for another program (a FUSE or network file system, a userfaultfd)"
        )
    if str(error).startswith("may not read"):
        return "another user's" if os.geteuid() else "not even root may read it here"
    return "ended meanwhile"
