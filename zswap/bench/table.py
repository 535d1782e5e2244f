"""Every row in a process of its own, so that memory is told apart, taking turns on the same pages.

The pages, and the room for those loaded, are shared memory that all the processes map.  A round
lets each row run once, beginning with another one each time, so that a slow spell of the machine
meets all.  A row's process ends when the pipe from its parent closes, however the parent ends;
Ctrl-C is the parent's to answer.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
import multiprocessing
import os
import signal
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from zswap import Error
from zswap.bench.corpora import PAGE, Pages, same_filled
from zswap.bench.rows import ROWS, Job, Row, RowMissing
from zswap.pages import printable
from zswap.shell import calm

__all__ = ["Corpus", "Measured", "measure"]

Progress = Callable[[int, int, str], object]
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Measured:
    """What one row took on one corpus.  Times are ns a page, one for each round.

    Attributes
    ----------
    row, kind : str
    new, store, store_2 : list of float
        Storing into an empty one; replacing what is held; the same with two threads.
    load, load_random, load_2 : list of float
        In order; at random; in order with two threads.
    store_p99, load_p99 : float or None
        Of single pages, in a round of its own.
    payload, resident : int or None
        Bytes of the compressed pages, and of memory taken for them.
    """

    row: str
    kind: str
    new: list[float] = field(default_factory=list)
    store: list[float] = field(default_factory=list)
    store_2: list[float] = field(default_factory=list)
    load: list[float] = field(default_factory=list)
    load_random: list[float] = field(default_factory=list)
    load_2: list[float] = field(default_factory=list)
    store_p99: float | None = None
    load_p99: float | None = None
    payload: int | None = None
    resident: int | None = None

    def median(self, what: str) -> float | None:
        """Return the median of the rounds; None where this was not measured."""
        values = getattr(self, what)
        return statistics.median(values) if values else None

    def gain(self, what: str) -> float | None:
        """How much faster two threads do it than one; `what` is store or load."""
        one, two = self.median(what), self.median(f"{what}_2")
        return None if one is None or two is None else one / two


@dataclass
class Corpus:
    """All rows on one corpus.

    Attributes
    ----------
    name : str
    pages, same_filled : int
    rows : list of Measured
    missing : dict
        Rows left out, and why.
    failed : list of str
        Those of them that began and failed.
    """

    name: str
    pages: int
    same_filled: int
    rows: list[Measured]
    missing: dict[str, str]
    failed: list[str] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Size of all pages in bytes."""
        return self.pages * PAGE

    def row(self, name: str) -> Measured | None:
        """Find a row by its name; None where it was not measured."""
        return next((row for row in self.rows if row.row == name), None)

    def to_dict(self) -> dict[str, Any]:
        """Return the corpus as JSON has it."""
        return asdict(self)


# ---- in the row's process ------------------------------------------------------------------------


def _anonymous() -> int:
    """Anonymous memory of this process in bytes, exactly."""
    with open("/proc/self/smaps_rollup") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


def _shared(path: str, count: int) -> Pages:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        area = mmap.mmap(fd, count * PAGE, mmap.MAP_SHARED | mmap.MAP_POPULATE)
        return np.frombuffer(area, np.uint8).reshape(count, PAGE)
    finally:
        os.close(fd)


def one_round(row: Row) -> dict[str, float]:
    """Everything a row can do, once; ns a page."""
    job, each = row.job, float(row.count)
    row.clear()
    took = {}
    new = row.store()
    if row.starts_empty:
        took["new"] = new / each
    took["load"] = row.load(job.order) / each
    if row.random:
        took["load_random"] = row.load(job.shuffled) / each
    if 2 in row.load_threads:
        took["load_2"] = row.load(job.order, 2) / each
    took["store"] = row.store() / each
    if 2 in row.store_threads:
        took["store_2"] = row.store(2) / each
    return took


def _settle() -> None:
    """Give back what the process itself has freed, where the C library can."""
    gc.collect()
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _memory(row: Row) -> dict[str, int | None]:
    _settle()
    before = _anonymous()
    row.clear()
    row.store()
    _settle()
    return {"payload": row.payload(), "resident": row.resident(_anonymous() - before)}


def _tails(row: Row) -> dict[str, float]:
    ns = np.zeros(row.count, np.uint32)
    tails = {}
    if row.store_each(ns):
        tails["store_p99"] = float(np.percentile(ns, 99))
    if row.load_each(ns):
        tails["load_p99"] = float(np.percentile(ns, 99))
    return tails


@calm()
def _serve(
    pipe: Connection, name: str, paths: tuple[str, str], count: int, compressor: str, seed: int
) -> None:
    """Be a row's process: memory once, then a round at each word from the parent.

    The check and the tails come last.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # it has come with all of _STOPPING held
    signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGINT})
    row: Row | None = None
    try:
        pages, out = (_shared(path, count) for path in paths)
        row = ROWS[name](Job(pages, out, compressor, seed))
        pipe.send(("ready", row.kind))
        while True:
            match pipe.recv():
                case "memory":
                    pipe.send(("done", _memory(row)))
                case "round":
                    pipe.send(("done", one_round(row)))
                case "tails":
                    tails = _tails(row)
                    pipe.send(
                        ("done", tails)
                        if row.check()
                        else ("failed", "the pages loaded are not those stored")
                    )
    except RowMissing as error:
        with contextlib.suppress(OSError):
            pipe.send(("missing", str(error)))
    except (EOFError, ConnectionError):
        pass
    except Exception as error:
        with contextlib.suppress(OSError):
            pipe.send(("failed", _told(error)))
    finally:
        if row is not None:
            row.close()


def _told(error: Exception) -> str:
    """Describe an error in one line."""
    return printable(f"{type(error).__name__}: {error}".rstrip(": "))


# ---- in ours -------------------------------------------------------------------------------------


class RowFailed(Error):
    """A row that did not do what it should; the message says how it failed."""


def _end(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    why = {
        signal.SIGBUS: " (memory that it had mapped could not be had)",
        signal.SIGKILL: " (memory may have run out)",
    }
    return f"was ended by {name}{why.get(-code, '')}"  # type: ignore[call-overload]


class _RowProcess:
    """A row's process, seen from here."""

    def __init__(
        self, name: str, paths: tuple[str, str], count: int, compressor: str, seed: int
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._pipe, self._theirs = context.Pipe()
        self._process = context.Process(
            target=_serve,
            args=(self._theirs, name, paths, count, compressor, seed),
            name=name,
            daemon=True,
        )

    def start(self) -> None:
        resource_tracker.ensure_running()  # which would let signals in
        with _signals_held():
            self._process.start()
            self._theirs.close()

    def answer(self) -> tuple[str, Any]:
        try:
            kind, value = self._pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            raise RowFailed(f"its process {_end(self._process.exitcode)}") from None
        if kind == "failed":
            raise RowFailed(value)
        return kind, value

    def ask(self, word: str) -> dict[str, Any]:
        # it has died, as the lack of an answer will tell
        with contextlib.suppress(BrokenPipeError):
            self._pipe.send(word)
        kind, value = self.answer()
        if kind == "missing":
            raise RowMissing(value)
        return dict(value)

    def dismiss(self) -> None:
        """Let it finish what it does, give back what it holds, and go."""
        self._pipe.close()

    def wait(self) -> None:
        """Wait until it has gone."""
        if self._process.pid is None:
            return
        self._process.join(30)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(30)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Let signals wait while a process is started, or things are given back."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def measure(
    name: str,
    pages: Pages,
    *,
    rows: Sequence[str],
    rounds: int,
    compressor: str = "lz4",
    seed: int = 0,
    progress: Progress | None = None,
) -> Corpus:
    """Run rows on the pages of one corpus.

    Parameters
    ----------
    name : str
        Of the corpus.
    pages : ndarray of uint8, shape (n, PAGE)
    rows : sequence of str
        Which of `ROWS`.
    rounds : int
    compressor : str
        For this library, the bare codec and zram.
    seed : int
        Of the random order.
    progress : callable, optional
        Called with steps done, steps in all, and what is being done.

    Returns
    -------
    Corpus

    A row that fails, dies, or gives back other pages than were stored is left out; why,
    `Corpus.missing` says.
    """
    count = len(pages)
    descriptors = [os.memfd_create(f"zswap-bench-{what}") for what in ("pages", "out")]
    processes: list[_RowProcess] = []
    found: dict[str, Measured] = {}
    missing: dict[str, str] = {}
    failed: list[str] = []
    done, steps = 0, (rounds + 3) * len(rows)

    def step(what: str) -> None:
        nonlocal done
        if progress is not None:
            progress(done, steps, f"{name}: {what}")
        done += 1

    @contextlib.contextmanager
    def tried(process: _RowProcess) -> Iterator[None]:
        """One row's failure is not the others'."""
        try:
            yield
        except (RowMissing, RowFailed, OSError) as error:
            missing[process.name] = str(error)
            if not isinstance(error, RowMissing):
                failed.append(process.name)

    try:
        for fd in descriptors:
            os.ftruncate(fd, pages.nbytes)
        with mmap.mmap(descriptors[0], pages.nbytes) as shared:
            shared[:] = pages.tobytes()
        paths = (
            f"/proc/{os.getpid()}/fd/{descriptors[0]}",
            f"/proc/{os.getpid()}/fd/{descriptors[1]}",
        )
        processes += [_RowProcess(row, paths, count, compressor, seed) for row in rows]
        running = []
        for process in processes:
            with tried(process):
                process.start()
                running.append(process)
        for process in running:
            step(f"start {process.name}")
            with tried(process):
                kind, value = process.answer()
                if kind == "missing":
                    raise RowMissing(value)
                found[process.name] = Measured(process.name, value)
        for word in ("memory", *["round"] * rounds, "tails"):
            running = [process for process in running if process.name not in missing]
            for process in running:
                step(process.name)
                with tried(process):
                    answer = process.ask(word)
                    for what, value in answer.items():
                        if word == "round":
                            getattr(found[process.name], what).append(value)
                        else:
                            setattr(found[process.name], what, value)
            running = running[1:] + running[:1]
    finally:
        with _signals_held():
            for process in processes:
                process.dismiss()
            for process in processes:
                process.wait()
            for fd in descriptors:
                os.close(fd)
    whole = [row for row in found.values() if row.row not in missing]
    return Corpus(name, count, int(np.count_nonzero(same_filled(pages))), whole, missing, failed)
