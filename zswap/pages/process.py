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

from zswap.pages.pagemap import left_out_words, local_devices, runs_of
from zswap.pages.source import Pages, PageSource, ProcessEnded, SourceError, Span, cut, printable
from zswap.pages.watch import BUFFER_BYTES, READ_LIMIT, Reader, command_of

__all__ = [
    "Process",
    "ProcessPages",
    "find_processes",
    "largest_process",
    "open_process",
    "processes",
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

    def _read_spans(self, spans: Sequence[Span], pages: Pages) -> list[int]:
        size, lost = self.page_size, []
        most = BUFFER_BYTES // size
        batch: list[tuple[int, int, int]] = []  # address, rows
        rows = 0
        for _, at, begin, end in spans:
            while begin < end:
                count = min(end - begin, most - rows)
                batch.append((at, begin, begin + count))
                rows, at, begin = rows + count, at + count * size, begin + count
                if rows == most:
                    lost += self._read_batch(batch, pages)
                    batch, rows = [], 0
        return lost + self._read_batch(batch, pages)

    def _read_batch(self, batch: Sequence[tuple[int, int, int]], pages: Pages) -> list[int]:
        if not batch:
            return []
        size = self.page_size
        asked = array.array("Q")
        for at, begin, end in batch:
            asked.extend((at, (end - begin) * size))
        try:
            answer = self._reader.ask(b"r", asked, limit=READ_LIMIT)
        except OSError as error:
            if error.errno != errno.ESRCH:
                raise SourceError(
                    f"cannot read the memory of process {self.pid}: {error.strerror}"
                ) from error
            raise ProcessEnded(
                f"process {self.pid} ended while its memory was read; choose another, or a core "
                "dump of it (--core)"
            ) from error
        read = np.frombuffer(answer, np.uint8).reshape(-1, size // mmap.PAGESIZE).all(axis=1)
        rows = np.concatenate([np.arange(begin, end) for _, begin, end in batch])
        buffer = np.frombuffer(self._reader.pages, np.uint8, rows.size * size).reshape(-1, size)
        if rows[-1] - rows[0] + 1 == rows.size:
            pages[rows[0] : rows[-1] + 1] = buffer
        else:
            pages[rows] = buffer
        missing: list[int] = rows[~read].tolist()
        return missing


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


def _open_process(reader: Reader, pid: int, command: str, page_size: int) -> PageSource:
    try:
        status = _parse_status(reader.ask(b"o", [pid]))
        pid = int(status.get(b"Tgid", b"%d" % pid))  # a thread may have been named
        if command == "?":
            command = f"[{printable(status.get(b'Name', b'?').decode(errors='replace'))}]"
        theirs = reader.ask(b"m")
        areas, runs = runs_of(
            reader,
            local_devices(_our_mounts(), theirs),
            _amount(status, b"VmSwap") // mmap.PAGESIZE,
        )
    except OSError as error:
        raise _process_error(pid, error) from error
    if page_size != mmap.PAGESIZE:
        runs = runs.whole_pages(page_size)
    if not runs.counts.size:
        raise SourceError(
            f"process {pid} ({command}) has no anonymous memory in "
            f"RAM{_instead(runs.swapped, runs.left_out)}"
        )
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
        shared_bytes=_amount(status, b"RssShmem"),
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
