"""Live processes: which there are, and the anonymous memory of one."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from zswap.pages.pagemap import may_be_swapped, parse_area, present_runs
from zswap.pages.source import PageSource, SourceError, cut, printable

__all__ = ["Process", "largest_process", "open_process", "processes"]


@dataclass(frozen=True)
class Process:
    """A process, as the list of candidates shows it.

    Attributes
    ----------
    pid : int
    command : str
        Command line, or the name in brackets when there is none.
    rss_anon : int
        Resident anonymous memory in bytes.
    """

    pid: int
    command: str
    rss_anon: int


def processes() -> list[Process]:
    """List the processes with anonymous memory that /proc shows, the largest first."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            rss = _status_bytes(int(name), b"RssAnon")
        except OSError:  # it ended meanwhile
            continue
        if rss:  # kernel threads have none
            found.append(Process(int(name), _command(int(name)), rss))
    return sorted(found, key=lambda p: (-p.rss_anon, p.pid))


def _status_bytes(pid: int, key: bytes) -> int:
    """One of the amounts of memory in /proc/PID/status."""
    with open(f"/proc/{pid}/status", "rb") as status:
        return next((int(line.split()[1]) * 1024 for line in status if line.startswith(key + b":")), 0)


def largest_process(candidates: Iterable[Process] | None = None) -> Process:
    """Return the process with the most resident anonymous memory among those whose memory may be read, ourselves excepted.

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
        "no other process may be read by this user; run as root, or name a target with --pid, --file or --core"
    )


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
    command = _command(pid)
    try:
        pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _process_error(pid, error) from error
    try:
        os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC))
        with open(f"/proc/{pid}/maps", "rb") as maps:
            areas = [area for area in map(parse_area, maps) if area is not None and may_be_swapped(area)]
        runs = present_runs(pid, pagemap, areas)
        shared_bytes = _status_bytes(pid, b"RssShmem")
    except OSError as error:
        raise _process_error(pid, error) from error
    finally:
        os.close(pagemap)
    if page_size != mmap.PAGESIZE:
        runs = runs.whole_pages(page_size)
    if not runs.counts.size:
        raise SourceError(
            f"process {pid} ({command}) has no anonymous memory in RAM"
            + (f", only {runs.swapped} pages in swap" if runs.swapped else "; is it a kernel thread, or has it ended?")
        )
    names = list(dict.fromkeys(area.name for area in areas))
    number = {name: index for index, name in enumerate(names)}
    area_name = np.array([number[area.name] for area in areas], np.int64)
    return PageSource(
        kind="process",
        title=f"process {pid} ({cut(command)})",
        paths=[f"/proc/{pid}/mem"],
        path_index=np.zeros(runs.counts.size, np.int64),
        offsets=runs.offsets,
        counts=runs.counts,
        mapping_index=area_name[runs.areas],
        mappings=names,
        page_size=page_size,
        swapped_pages=runs.swapped * mmap.PAGESIZE // page_size,
        shared_bytes=shared_bytes,
        pid=pid,
        command=command,
    )


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
            words = cmdline.read(4096).rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace").strip()
        if words:
            return printable(words)
        with open(f"/proc/{pid}/comm", "rb") as comm:
            return f"[{printable(comm.read().decode(errors='replace').strip())}]"
    except OSError:
        return "?"


def _process_error(pid: int, error: OSError) -> SourceError:
    if error.errno in (errno.EACCES, errno.EPERM):
        return SourceError(
            f"may not read the memory of process {pid} ({_command(pid)}): run as root or as its owner (and see"
            " /proc/sys/kernel/yama/ptrace_scope)"
        )
    if os.path.exists(f"/proc/{pid}") and error.errno in (errno.ENOENT, errno.ESRCH):
        return SourceError(
            f"process {pid} ({_command(pid)}) has no memory of its own: it is a kernel thread, or has just ended"
        )
    if error.errno in (errno.ENOENT, errno.ESRCH):
        return SourceError(f"no process {pid}: it has ended or never was; see `ps` for those that run")
    return SourceError(f"cannot read process {pid}: {error.strerror}")
