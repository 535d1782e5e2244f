"""Live processes: which there are, and the anonymous memory of one."""

from __future__ import annotations

import array
import errno
import mmap
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zswap.pages.pagemap import Areas, Runs, left_out_words, local_devices, runs_of
from zswap.pages.source import (
    Int64Array,
    Pages,
    PageSource,
    ProcessEnded,
    SourceError,
    Span,
    cut,
    printable,
)
from zswap.pages.watch import BUFFER_BYTES, READ_LIMIT, Reader, command_of

__all__ = [
    "Look",
    "Process",
    "ProcessPages",
    "find_processes",
    "forget",
    "largest_process",
    "look",
    "open_process",
    "processes",
    "read_spans",
    "referenced",
]


@dataclass(frozen=True)
class Process:
    """A process, as the list of candidates shows it.

    Attributes
    ----------
    pid : int
    name : str
        As `ps -o comm` shows it.
    rss_anon : int
        Resident anonymous memory in bytes.
    """

    pid: int
    name: str
    rss_anon: int


class ProcessPages(PageSource):
    """Pages of a process, read by a reader that has it open.

    Parameters
    ----------
    reader : Reader
        Closed with this.
    **options
        As for `PageSource`; the offsets are addresses.
    """

    def __init__(self, *, reader: Reader, **options: Any) -> None:
        super().__init__(**options)
        self._reader = reader

    def close(self) -> None:
        """End the reader."""
        self._reader.close()

    def forget(self, path: int) -> bool:
        """Have the kernel forget what has been touched."""
        return forget(self._reader)

    def referenced(self, path: int) -> Int64Array:
        """Return what has been touched since."""
        return referenced(self._reader)

    def _read_spans(self, spans: Sequence[Span], pages: Pages) -> list[int]:
        assert self.pid is not None
        return read_spans(self._reader, self.pid, spans, pages)[0]


def forget(reader: Reader) -> bool:
    """Have the kernel forget what was touched of the process that a reader has open."""
    try:
        reader.ask(b"k")
    except (OSError, SourceError):
        return False
    return True


def referenced(reader: Reader) -> Int64Array:
    """Return what was touched since, as `PageSource.referenced`; nothing where it has ended."""
    try:
        answer = reader.ask(b"f")
    except (OSError, SourceError):
        answer = b""
    return np.frombuffer(answer, np.int64).reshape(-1, 5)


def read_spans(
    reader: Reader, pid: int, spans: Sequence[Span], pages: Pages
) -> tuple[list[int], list[int]]:
    """Read spans of the process that a reader has open into their rows of `pages`.

    Returns
    -------
    lost, shared : list of int
        The rows that could not be read, and those of pages that other processes have too.

    Raises
    ------
    SourceError
        When the process cannot be read any more.
    """
    size = pages.shape[1]
    most = BUFFER_BYTES // size
    lost: list[int] = []
    shared: list[int] = []
    batch: list[tuple[int, int, int]] = []  # address, rows
    rows = 0
    for _, at, begin, end in spans:
        while begin < end:
            count = min(end - begin, most - rows)
            batch.append((at, begin, begin + count))
            rows, at, begin = rows + count, at + count * size, begin + count
            if rows == most:
                _read_batch(reader, pid, batch, pages, lost, shared)
                batch, rows = [], 0
    if batch:
        _read_batch(reader, pid, batch, pages, lost, shared)
    return lost, shared


def _read_batch(
    reader: Reader,
    pid: int,
    batch: Sequence[tuple[int, int, int]],
    pages: Pages,
    lost: list[int],
    shared: list[int],
) -> None:
    size = pages.shape[1]
    asked = array.array("Q")
    for at, begin, end in batch:
        asked.extend((at, (end - begin) * size))
    try:
        answer = reader.ask(b"r", asked, limit=READ_LIMIT)
    except OSError as error:
        if error.errno != errno.ESRCH:
            raise SourceError(
                f"cannot read the memory of process {pid}: {error.strerror}"
            ) from error
        raise ProcessEnded(
            f"process {pid} ended while its memory was read; choose another, or a core "
            "dump of it (--core)"
        ) from error
    marks = np.frombuffer(answer, np.uint8).reshape(-1, size // mmap.PAGESIZE)
    rows = np.concatenate([np.arange(begin, end) for _, begin, end in batch])
    buffer = np.frombuffer(reader.pages, np.uint8, rows.size * size).reshape(-1, size)
    if rows[-1] - rows[0] + 1 == rows.size:
        pages[rows[0] : rows[-1] + 1] = buffer
    else:
        pages[rows] = buffer
    lost += rows[~marks.all(axis=1)].tolist()
    shared += rows[(marks == 2).any(axis=1)].tolist()


def processes() -> list[Process]:
    """List the processes with anonymous memory that /proc shows, the largest first."""
    found = []
    try:
        names = os.listdir("/proc")
    except OSError:
        return []
    for pid in map(int, filter(str.isdigit, names)):
        try:
            status = _status(f"/proc/{pid}")
            # a kernel thread, or its first thread has ended before the others
            if b"VmSize" not in status:
                status = next((s for s in _thread_statuses(pid, status) if b"VmSize" in s), status)
            if rss := _amount(status, b"RssAnon"):
                found.append(
                    Process(pid, printable(status.get(b"Name", b"?").decode(errors="replace")), rss)
                )
        except OSError:  # it ended meanwhile
            continue
    return sorted(found, key=lambda p: (-p.rss_anon, p.pid))


def _thread_statuses(pid: int, status: dict[bytes, bytes]) -> Iterable[dict[bytes, bytes]]:
    if int(status.get(b"Threads", b"0")) and status.get(b"State", b"").startswith(b"Z"):
        for tid in sorted(map(int, os.listdir(f"/proc/{pid}/task"))):
            yield _status(f"/proc/{pid}/task/{tid}")


def _status(directory: str) -> dict[bytes, bytes]:
    with open(f"{directory}/status", "rb") as status:
        return _parse_status(status.read())


def _parse_status(text: bytes) -> dict[bytes, bytes]:
    return {
        key: value.strip() for key, _, value in (line.partition(b":") for line in text.splitlines())
    }


def _amount(status: dict[bytes, bytes], key: bytes) -> int:
    """One of the amounts of memory in /proc/PID/status, in bytes."""
    return int(status[key].split()[0]) * 1024 if key in status else 0


def largest_process(candidates: Iterable[Process] | None = None) -> Process:
    """Return the readable process, other than ours, with the most resident anonymous memory.

    Raises
    ------
    SourceError
        When no process may be read.
    """
    for process in processes() if candidates is None else candidates:
        if process.pid == os.getpid():
            continue
        try:
            os.close(os.open(f"/proc/{process.pid}/mem", os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            continue
        return process
    raise SourceError(
        "no other process may be read by this user; run as root, or name a target with --pid, "
        "--file or --core"
    )


def find_processes(name: str) -> list[Process]:
    """Find processes by the name of the process, of its program, or of the script that it runs.

    Parameters
    ----------
    name : str

    Returns
    -------
    list of Process
        Those with anonymous memory, ourselves excepted, the largest first.
    """
    others = [process for process in processes() if process.pid != os.getpid()]
    named = [process for process in others if name in (process.name, _program(process.pid))]
    if named or not others:
        return named
    commands, reader = command_of([process.pid for process in others])
    reader.close()
    return [
        process
        for process, command in zip(others, commands, strict=True)
        if any(os.path.basename(word) == name for word in _program_and_script(command))
    ]


def _program_and_script(command: str) -> list[str]:
    words = command.split()[:2]
    return words[:1] if words[1:] and words[1].startswith("-") else words


def _program(pid: int) -> str:
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe")).removesuffix(" (deleted)")
    except OSError:
        return ""


def open_process(pid: int, *, page_size: int = mmap.PAGESIZE) -> PageSource:
    """Open the anonymous memory of a running process.

    Parameters
    ----------
    pid : int
    page_size : int
        A multiple of the system's page size.

    Returns
    -------
    PageSource

    Raises
    ------
    SourceError
        When there is no such process, its memory may not be read, or it has no anonymous memory.
    """
    command, reader = command_of([pid])
    try:
        return _open_process(reader, pid, command[0], page_size)
    except BaseException:
        reader.close()
        raise


@dataclass(frozen=True)
class Look:
    """What a look at a process has shown.

    Attributes
    ----------
    pid : int
    name : str
        As `ps -o comm` shows it.
    areas : Areas
    runs : Runs
    shared_bytes : int
        Its resident shared memory.
    """

    pid: int
    name: str
    areas: Areas
    runs: Runs
    shared_bytes: int

    def has_none(self, command: str) -> SourceError:
        """Return the error that it has no anonymous memory."""
        return SourceError(
            f"process {self.pid} ({command}) has no anonymous memory in "
            f"RAM{_instead(self.runs.swapped, self.runs.left_out)}"
        )


def look(reader: Reader, pid: int) -> Look:
    """Have a reader open a process and find its anonymous pages.

    Raises
    ------
    SourceError
        When there is no such process, or its memory may not be read.
    """
    try:
        status = _parse_status(reader.ask(b"o", [pid]))
        pid = int(status.get(b"Tgid", b"%d" % pid))  # a thread may have been named
        theirs = reader.ask(b"m")
        areas, runs = runs_of(
            reader,
            local_devices(_our_mounts(), theirs),
            _amount(status, b"VmSwap") // mmap.PAGESIZE,
        )
    except OSError as error:
        raise _process_error(pid, error) from error
    name = printable(status.get(b"Name", b"?").decode(errors="replace"))
    return Look(pid, name, areas, runs, _amount(status, b"RssShmem"))


def _open_process(reader: Reader, pid: int, command: str, page_size: int) -> PageSource:
    found = look(reader, pid)
    pid, areas, runs = found.pid, found.areas, found.runs
    if command == "?":
        command = f"[{found.name}]"
    if page_size != mmap.PAGESIZE:
        runs = runs.whole_pages(page_size)
    if not runs.counts.size:
        raise found.has_none(command)
    return ProcessPages(
        reader=reader,
        kind="process",
        title=f"process {pid} ({cut(command)})",
        paths=[f"/proc/{pid}/mem"],
        path_index=np.zeros(runs.counts.size, np.int64),
        offsets=runs.offsets,
        counts=runs.counts,
        mapping_index=areas.name_index[runs.areas],
        mappings=areas.names,
        page_size=page_size,
        swapped_pages=runs.swapped * mmap.PAGESIZE // page_size,
        shared_bytes=found.shared_bytes,
        left_out=runs.left_out,
        pid=pid,
        command=command,
    )


def _instead(swapped: int, left_out: dict[str, int]) -> str:
    words = left_out_words(left_out)
    if not swapped and not words:
        return "; has it ended?"
    return ", only " + "; ".join(
        filter(None, (f"{swapped:,} pages in swap" if swapped else "", words))
    )


def _our_mounts() -> bytes:
    try:
        with open("/proc/self/mountinfo", "rb") as mountinfo:
            return mountinfo.read()
    except OSError:
        return b""


def _process_error(pid: int, error: OSError) -> SourceError:
    try:
        status = _status(f"/proc/{pid}")
    except OSError:
        return SourceError(
            f"no process {pid}: it has ended or never was; see `ps` for those that run"
        )
    name = printable(status.get(b"Name", b"?").decode(errors="replace"))
    if error.errno in (errno.EACCES, errno.EPERM):
        return SourceError(
            f"may not read the memory of process {pid} ({name}): run as root or as its owner (and "
            "see"
            " /proc/sys/kernel/yama/ptrace_scope)"
        )
    if error.errno in (errno.ENOENT, errno.ESRCH, errno.ENXIO):
        if status.get(b"State", b"").startswith((b"Z", b"X")):
            return SourceError(
                f"process {pid} ({name}) has ended; its parent has not taken note of that yet (a "
                "zombie)"
            )
        return SourceError(
            f"process {pid} ({name}) has no memory of its own: it is a kernel thread, or has just "
            "ended"
        )
    return SourceError(f"cannot read process {pid} ({name}): {error.strerror}")
