"""Where pages come from: a live process, files, or a core dump.

Every source is a list of *runs*: stretches of pages that lie one after another in a file that can be read with
preadv(2).  For a process that file is /proc/PID/mem and the offset is the address; the process is not stopped, so a page
may vanish between the look at the page tables and the read.  It is then left out and counted.

What counts as anonymous memory of a process is what the kernel would have to swap for it: pages present in its private
mappings that belong to no file, so heap, stacks and anonymous mmap, and also those pages of a privately mapped file that
the process has written to.  Left out: pages of files (dropped, not swapped); shared memory (swapped too, but no single
process's; how much there is of it is told); the kernel's one zero page wherever it is mapped (it takes no memory; told apart
from Linux 6.7 on, by PAGEMAP_SCAN); devices, hugetlb pages and the vdso.  Pages in swap already are counted apart and not
read, as reading them would bring them back.
"""

from __future__ import annotations

import array
import errno
import fcntl
import mmap
import os
import stat
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zswap import Error

__all__ = [
    "CHUNK_PAGES",
    "PageSource",
    "Process",
    "SourceError",
    "largest_process",
    "open_core",
    "open_files",
    "open_process",
    "processes",
    "sample",
]

Int64Array = npt.NDArray[np.int64]
Pages = npt.NDArray[np.uint8]

#: The pages read, and held in memory, at a time: 64 MiB of 4 KiB pages.
CHUNK_PAGES = 16384


class SourceError(Error, ValueError):
    """A target that cannot be read; the message names it and the remedy."""


class ProcessEnded(SourceError):
    """The process ended while its memory was read."""


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


class PageSource:
    """Pages of one target, numbered 0 to ``len(source) - 1`` in address (or file) order.

    Parameters
    ----------
    kind : {"process", "file", "core"}
    title : str
        The target in words, as a heading would have it.
    paths : sequence of str
        The files that hold the pages.
    path_index, offsets, counts, mapping_index : array_like of int
        The runs: which of `paths`, byte offset in it, number of pages, which of `mappings`.
    mappings : sequence of str
        Names of the mappings (or of the files).
    page_size : int
    swapped_pages : int
        Pages of the target that lie in swap and are not among those numbered here.
    shared_bytes : int
        Resident shared memory (memfd, /dev/shm, System V) of a process, left out.
    hole_pages : int
        Pages of a core dump that are holes in its file, left out too.
    pid : int, optional
    command : str, optional
    """

    def __init__(
        self,
        *,
        kind: str,
        title: str,
        paths: Sequence[str],
        path_index: npt.ArrayLike,
        offsets: npt.ArrayLike,
        counts: npt.ArrayLike,
        mapping_index: npt.ArrayLike,
        mappings: Sequence[str],
        page_size: int,
        swapped_pages: int = 0,
        shared_bytes: int = 0,
        hole_pages: int = 0,
        pid: int | None = None,
        command: str | None = None,
    ) -> None:
        self.kind = kind
        self.title = title
        self.mappings = list(mappings)
        self.page_size = page_size
        self.swapped_pages = swapped_pages
        self.shared_bytes = shared_bytes
        self.hole_pages = hole_pages
        self.pid = pid
        self.command = command
        self.paths = list(paths)
        self._path_index = np.asarray(path_index, np.int64)
        self._offsets = np.asarray(offsets, np.int64)
        self._counts = np.asarray(counts, np.int64)
        self._mapping_index = np.asarray(mapping_index, np.int64)
        self._ends = np.cumsum(self._counts)
        self._open: tuple[int, int] | None = None  # (which of paths, descriptor)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._ends.size else 0

    def __enter__(self) -> PageSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file that is open; a later read opens it again."""
        if self._open is not None:
            os.close(self._open[1])
            self._open = None

    @property
    def nbytes(self) -> int:
        """Size of all pages of the target that can be read."""
        return len(self) * self.page_size

    def mapping_of(self, indexes: Int64Array) -> Int64Array:
        """Return, for each page number, which of `mappings` it belongs to."""
        return self._mapping_index[np.searchsorted(self._ends, indexes, side="right")]

    def mapping_pages(self) -> Int64Array:
        """Return the number of pages of each of `mappings`."""
        return np.bincount(self._mapping_index, weights=self._counts, minlength=len(self.mappings)).astype(np.int64)

    def read(self, indexes: Int64Array) -> tuple[Pages, Int64Array]:
        """Read pages.

        Parameters
        ----------
        indexes : ndarray of int64
            Page numbers, ascending, without duplicates.

        Returns
        -------
        pages : ndarray of uint8, shape (m, page_size)
        kept : ndarray of int64, shape (m,)
            The page numbers that were read; fewer than `indexes` where pages have vanished.
        """
        size = self.page_size
        pages = np.empty((indexes.size, size), np.uint8)
        if not indexes.size:
            return pages, indexes
        run = np.searchsorted(self._ends, indexes, side="right")
        offset = self._offsets[run] + (indexes - (self._ends[run] - self._counts[run])) * size
        which = self._path_index[run]
        # A span is a stretch of wanted pages that one call can read.
        cut = np.flatnonzero((np.diff(offset) != size) | (np.diff(which) != 0)) + 1
        begins = np.concatenate(([0], cut))
        ends = np.concatenate((cut, [indexes.size]))
        lost: list[int] = []
        view = pages.reshape(-1).data
        for begin, end, path, at in zip(
            begins.tolist(), ends.tolist(), which[begins].tolist(), offset[begins].tolist(), strict=True
        ):
            self._read_span(path, at, view, begin, end, lost)
        if not lost:
            return pages, indexes
        keep = np.ones(indexes.size, bool)
        keep[lost] = False
        return pages[keep], indexes[keep]

    def _read_span(self, path: int, at: int, view: memoryview, begin: int, end: int, lost: list[int]) -> None:
        size = self.page_size
        fd = self._descriptor(path)
        done = begin
        while done < end:
            try:
                got = os.preadv(fd, [view[done * size : end * size]], at + (done - begin) * size)
            except OSError as error:
                if self.kind != "process" or error.errno not in (errno.EIO, errno.EFAULT, errno.ENOMEM):
                    raise SourceError(f"cannot read {self.paths[path]}: {error.strerror}") from error
            else:
                if self.kind == "process" and got == 0:
                    raise ProcessEnded(
                        f"process {self.pid} ended while its memory was read; choose another, or a core dump of it (--core)"
                    )
                if self.kind != "process" and got < size:
                    raise SourceError(
                        f"{self.paths[path]} became shorter while it was read; try again when nothing writes to it"
                    )
                done += got // size
            if self.kind == "process" and done < end:  # the page behind the last whole one is gone; go on behind that
                lost.append(done)
                done += 1

    def _descriptor(self, path: int) -> int:
        if self._open is None or self._open[0] != path:
            self.close()
            try:
                fd = os.open(self.paths[path], os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise SourceError(f"cannot open {self.paths[path]}: {error.strerror}") from error
            self._open = (path, fd)
        return self._open[1]


def sample(total: int, wanted: int | None, seed: int = 0, chunk: int | None = None) -> Iterator[Int64Array]:
    """Choose pages uniformly at random without replacement, and give them out in ascending chunks.

    Parameters
    ----------
    total : int
        Number of pages to choose from.
    wanted : int or None
        How many to choose; None, or `total` and more, for all of them.
    seed : int
        The same seed gives the same pages.
    chunk : int, optional
        Most pages in one chunk; `CHUNK_PAGES` unless given.

    Yields
    ------
    ndarray of int64
    """
    chunk = CHUNK_PAGES if chunk is None else chunk
    if wanted is None or wanted >= total:
        for begin in range(0, total, chunk):
            yield np.arange(begin, min(begin + chunk, total), dtype=np.int64)
        return
    chosen = np.random.default_rng(seed).choice(total, wanted, replace=False, shuffle=False)
    chosen.sort()
    for begin in range(0, wanted, chunk):
        yield chosen[begin : begin + chunk].astype(np.int64, copy=False)


# ---- processes --------------------------------------------------------------------------------------------------------


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
            areas = [area for area in map(_parse_area, maps) if area is not None and _may_be_swapped(area)]
        runs = _present_runs(pid, pagemap, areas)
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
        title=f"process {pid} ({_cut(command)})",
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


def printable(text: str) -> str:
    """Replace what a terminal might act upon, such as escape sequences in a command line."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)


def _cut(text: str, width: int = 72) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


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


@dataclass(frozen=True)
class _Area:
    """One line of /proc/PID/maps."""

    start: int
    end: int
    permissions: str
    name: str


def _parse_area(line: bytes) -> _Area | None:
    """Parse a line of maps (or the head line of a mapping in smaps); None when it is none."""
    fields = line.split(None, 5)
    if len(fields) < 5:
        return None
    try:
        start, _, end = fields[0].partition(b"-")
        name = fields[5].rstrip(b"\n").decode(errors="replace") if len(fields) > 5 else ""
        return _Area(int(start, 16), int(end, 16), fields[1].decode(), printable(name) or "[anon]")
    except ValueError:
        return None


def _may_be_swapped(area: _Area) -> bool:
    if not area.permissions.endswith("p") or area.name.startswith(("[v", "/anon_hugepage")):
        return False
    return not area.name.startswith("/dev/") or area.name.startswith("/dev/zero")


@dataclass(frozen=True)
class _Runs:
    """Runs of present pages: byte offsets, page counts, which area each lies in; and how many pages are swapped."""

    offsets: Int64Array
    counts: Int64Array
    areas: Int64Array
    swapped: int

    def whole_pages(self, page_size: int) -> _Runs:
        """Only the aligned pages of `page_size` bytes that are present as a whole."""
        first = -(-self.offsets // page_size) * page_size
        counts = (self.offsets + self.counts * mmap.PAGESIZE - first) // page_size
        keep = counts > 0
        return _Runs(first[keep], counts[keep], self.areas[keep], self.swapped)


def _present_runs(pid: int, pagemap: int, areas: Sequence[_Area]) -> _Runs:
    try:
        return _collect(areas, lambda area: _scan_area(pagemap, area))
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL, errno.ENOSYS, errno.EPERM):
            raise
    held = _anonymous_pages(pid)  # an older kernel: read the pagemap, but only where there is something
    return _collect(areas, lambda area: _read_pagemap(pagemap, area, held.get(area.start)))


#: Half-open ranges of page addresses and whether they are present (else: swapped).
_Ranges = tuple[Int64Array, Int64Array, npt.NDArray[np.bool_]]


def _collect(areas: Sequence[_Area], ranges_of: Callable[[_Area], Iterable[_Ranges]]) -> _Runs:
    offsets, counts, which, swapped = [], [], [], 0
    for index, area in enumerate(areas):
        for begin, end, present in ranges_of(area):
            pages = (end - begin) // mmap.PAGESIZE
            swapped += int(pages[~present].sum())
            offsets.append(begin[present])
            counts.append(pages[present])
            which.append(np.full(offsets[-1].size, index, np.int64))
    empty = [np.zeros(0, np.int64)]
    return _Runs(np.concatenate(offsets or empty), np.concatenate(counts or empty), np.concatenate(which or empty), swapped)


# PAGEMAP_SCAN, from Linux 6.7 on: the kernel walks the page tables, skips holes, and tells the zero page apart.
_PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg)
_PM_SCAN_ARG = struct.Struct("=12Q")  # size flags start end walk_end vec vec_len max_pages inverted mask anyof return
_IS_FILE, _IS_PRESENT, _IS_SWAPPED, _IS_PFNZERO = 1 << 2, 1 << 3, 1 << 4, 1 << 5
_SCAN_REGIONS = 1 << 15


def _scan_area(pagemap: int, area: _Area) -> Iterator[_Ranges]:
    regions = np.zeros((_SCAN_REGIONS, 3), np.uint64)  # begin, end, categories
    unwanted, wanted = _IS_FILE | _IS_PFNZERO, _IS_PRESENT | _IS_SWAPPED
    at = area.start
    while at < area.end:
        to = (regions.ctypes.data, _SCAN_REGIONS, 0)
        request = _PM_SCAN_ARG.pack(_PM_SCAN_ARG.size, 0, at, area.end, 0, *to, unwanted, unwanted, wanted, wanted)
        argument = bytearray(request)
        found = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, argument)
        walked = _PM_SCAN_ARG.unpack(argument)[4]
        part = regions[:found].astype(np.int64)
        yield part[:, 0], part[:, 1], (part[:, 2] & _IS_PRESENT) != 0
        if walked <= at:  # nothing more can be said of this area
            return
        at = walked


# Before: /proc/PID/pagemap, one 64-bit word for each page of address space, holes included.
_PM_PRESENT, _PM_SWAPPED, _PM_FILE = np.uint64(1 << 63), np.uint64(1 << 62), np.uint64(1 << 61)
_PAGEMAP_CHUNK = 1 << 16  # words: half a MiB, which stays in the CPU's cache, for 256 MiB of address space


def _read_pagemap(pagemap: int, area: _Area, held: int | None) -> Iterator[_Ranges]:
    """Read the words of an area; `held` is how many pages smaps says there are to be found (None: unknown)."""
    page = mmap.PAGESIZE
    left = (area.end - area.start) // page if held is None else held
    nothing = bytes(8 * _PAGEMAP_CHUNK)
    for first in range(area.start // page, area.end // page, _PAGEMAP_CHUNK):
        if left <= 0:
            return
        count = min(_PAGEMAP_CHUNK, area.end // page - first)
        data = os.pread(pagemap, count * 8, first * 8)
        if data == nothing:  # the usual case in a huge mapping, and the quickest way to see it
            continue
        words = np.frombuffer(data, np.uint64)
        present = (words & (_PM_PRESENT | _PM_FILE)) == _PM_PRESENT
        swapped = (words & (_PM_SWAPPED | _PM_FILE)) == _PM_SWAPPED
        state = present.astype(np.int8) + 2 * swapped.astype(np.int8)
        cuts = np.flatnonzero(np.diff(state)) + 1
        begins = np.concatenate(([0], cuts))
        ends = np.concatenate((cuts, [words.size]))
        some = state[begins] != 0
        begins, ends = begins[some], ends[some]
        if held is not None:
            left -= int((ends - begins).sum())
        yield (first + begins) * page, (first + ends) * page, state[begins] == 1


def _anonymous_pages(pid: int) -> dict[int, int]:
    """How many anonymous pages, present or swapped, each mapping has according to smaps: address of mapping -> pages."""
    held: dict[int, int] = {}
    start = None
    with open(f"/proc/{pid}/smaps", "rb") as smaps:
        for line in smaps:
            if line.startswith((b"Anonymous:", b"Swap:")):
                if start is not None:
                    held[start] = held.get(start, 0) + -(-int(line.split()[1]) * 1024 // mmap.PAGESIZE)
            elif line[:1] in b"0123456789abcdef" and (area := _parse_area(line)) is not None:
                start = area.start
    return held


# ---- files ------------------------------------------------------------------------------------------------------------


def _file_size(path: str) -> int:
    try:
        status = os.stat(path)
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except FileNotFoundError as error:
        raise SourceError(f"no such file: {path} (seen from {os.getcwd()})") from error
    except PermissionError as error:
        raise SourceError(f"may not read {path}: run as a user who may, or change its permissions") from error
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error
    if stat.S_ISDIR(status.st_mode):
        raise SourceError(f"{path} is a directory: name the files in it")
    if not stat.S_ISREG(status.st_mode):
        raise SourceError(f"{path} is not a regular file: copy what it holds into one")
    if status.st_size == 0:
        raise SourceError(f"{path} is empty: there are no pages to look at")
    return status.st_size


def open_files(paths: Iterable[str | os.PathLike[str]], *, page_size: int = mmap.PAGESIZE) -> PageSource:
    """Open files as memory: page after page, each file a whole number of pages.

    Parameters
    ----------
    paths : iterable of path-like
    page_size : int

    Returns
    -------
    PageSource

    Raises
    ------
    SourceError
        When a file is missing, unreadable, empty, no regular file, or not a whole number of pages.
    """
    names = [os.fspath(path) for path in paths]
    if not names:
        raise SourceError("no file was named")
    sizes = [_file_size(name) for name in names]
    for name, size in zip(names, sizes, strict=True):
        if size % page_size:
            raise SourceError(
                f"{name} has {size} bytes, not a multiple of the page size {page_size}; pad it with zeros:"
                f" truncate -s %{page_size} {name}"
            )
    each = np.arange(len(names))
    labels = [printable(name) for name in names]
    return PageSource(
        kind="file",
        title=f"file {labels[0]}" if len(names) == 1 else f"{len(names)} files ({labels[0]} …)",
        paths=names,
        path_index=each,
        offsets=np.zeros(len(names), np.int64),
        counts=np.array(sizes, np.int64) // page_size,
        mapping_index=each,
        mappings=labels,
        page_size=page_size,
    )


# ---- core dumps -------------------------------------------------------------------------------------------------------

_PT_LOAD, _PT_NOTE, _ET_CORE, _PN_XNUM = 1, 4, 4, 0xFFFF
_NT_PRPSINFO, _NT_FILE = 3, 0x46494C45


@dataclass(frozen=True)
class _Segment:
    """A program header, reduced to what is needed."""

    type: int
    offset: int
    address: int
    file_size: int


def read_elf_core(path: str, page_size: int) -> tuple[list[_Segment], str]:
    """Read the program headers of an ELF core dump.

    Parameters
    ----------
    path : str
    page_size : int

    Returns
    -------
    segments : list
        PT_LOAD and PT_NOTE headers with data in the file.
    order : {"<", ">"} followed by {"4", "8"}
        Byte order and bytes a word.

    Raises
    ------
    SourceError
        For every field that cannot be true.
    """
    size = _file_size(path)

    def wrong(what: str) -> SourceError:
        return SourceError(f"{path} is no usable core dump: {what}; take it again (gcore PID, coredumpctl dump PID -o FILE)")

    with open(path, "rb") as core:

        def read(at: int, length: int, what: str) -> bytes:
            if at + length > size:
                raise wrong(f"{what} would end at byte {at + length}, the file has {size}")
            core.seek(at)
            return core.read(length)

        ident = read(0, 16, "the ELF header")
        if ident[:4] != b"\x7fELF":
            raise wrong("it does not begin with \\x7fELF (is it compressed?)")
        if ident[4] not in (1, 2) or ident[5] not in (1, 2) or ident[6] != 1:
            raise wrong(f"ELF class {ident[4]}, byte order {ident[5]}, version {ident[6]} is unknown")
        order, wide = "<>"[ident[5] - 1], ident[4] == 2
        head = struct.Struct(order + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"))
        kind, _, _, _, table, sections, _, _, entry_size, entries, *_ = head.unpack(read(16, head.size, "the ELF header"))
        if kind != _ET_CORE:
            raise wrong(f"its ELF type is {kind}, not {_ET_CORE} (a core dump)")
        entry = struct.Struct(order + ("IIQQQQQQ" if wide else "IIIIIIII"))
        if entry_size != entry.size:
            raise wrong(f"its program headers are {entry_size} bytes each, not {entry.size}")
        if entries == _PN_XNUM:  # more than 16 bits hold: the number is in the first section header
            section = struct.Struct(order + ("IIQQQQIIQQ" if wide else "IIIIIIIIII"))
            entries = section.unpack(read(sections, section.size, "the first section header"))[7]
        if not entries or not table:
            raise wrong("it has no program headers")
        headers = read(table, entries * entry.size, f"the table of {entries} program headers")
    segments = []
    for index, fields in enumerate(entry.iter_unpack(headers)):
        if wide:
            kind, _, offset, address, _, file_size, memory_size, _ = fields
        else:
            kind, offset, address, _, file_size, memory_size, _, _ = fields
        if kind not in (_PT_LOAD, _PT_NOTE) or not file_size:
            continue
        if offset + file_size > size:
            raise wrong(f"segment {index} would end at byte {offset + file_size}, the file has {size} (cut off?)")
        if kind == _PT_LOAD:
            if file_size > memory_size:
                raise wrong(f"segment {index} has {file_size} bytes in the file but {memory_size} in memory")
            if address % page_size or file_size % page_size:
                raise wrong(f"segment {index} ({file_size} bytes at {address:#x}) is not made of pages of {page_size} bytes")
        segments.append(_Segment(kind, offset, address, file_size))
    if not any(segment.type == _PT_LOAD for segment in segments):
        raise wrong("it holds no memory (no PT_LOAD segment with data)")
    return segments, order + ("8" if wide else "4")


def _core_notes(path: str, segments: Iterable[_Segment], layout: str) -> tuple[str, list[tuple[int, int, str]]]:
    """The command line, and the mapped files as (start, end, name), that the notes of a core dump tell.

    Notes are a courtesy: where one makes no sense, the rest is not read and names are missing.
    """
    order, word = layout[0], "Q" if layout[1] == "8" else "I"
    command, files = "", []
    with open(path, "rb") as core:
        for segment in segments:
            if segment.type != _PT_NOTE:
                continue
            core.seek(segment.offset)
            data = core.read(min(segment.file_size, 64 << 20))
            at = 0
            while at + 12 <= len(data):
                name_size, size, kind = struct.unpack_from(order + "III", data, at)
                begin = at + 12 + -(-name_size // 4) * 4
                note = data[begin : begin + size]
                at = begin + -(-size // 4) * 4
                if len(note) < size:
                    break
                if kind == _NT_PRPSINFO and size >= 96:  # it ends with the name (16) and the arguments (80)
                    name, arguments = note[-96:-80].split(b"\0")[0], note[-80:].split(b"\0")[0]
                    command = printable((arguments or name).decode(errors="replace").strip())
                elif kind == _NT_FILE and size >= 2 * struct.calcsize(order + word):
                    files = _core_files(note, order + word)
    return command, files


def _core_files(note: bytes, word: str) -> list[tuple[int, int, str]]:
    count, width = struct.unpack_from(word, note)[0], struct.calcsize(word)
    begin = 2 * width
    if count > (len(note) - begin) // (3 * width):
        return []
    names = note[begin + 3 * width * count :].split(b"\0")
    ranges = np.frombuffer(note, word[0] + f"u{width}", 3 * count, begin).reshape(-1, 3)
    return [
        (int(start), int(end), printable(name.decode(errors="replace")))
        for (start, end, _), name in zip(ranges.tolist(), names, strict=False)
    ]


def _without_holes(path: str, begin: int, end: int, page_size: int) -> tuple[Int64Array, Int64Array]:
    """Runs of pages of a stretch of a file that touch data; the others are holes."""
    marks = array.array("q")
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        at = begin
        while at < end:
            try:
                data = os.lseek(fd, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole from here on
                    break
                return np.array([begin]), np.array([(end - begin) // page_size])  # the file system cannot tell
            if data >= end:
                break
            at = min(os.lseek(fd, data, os.SEEK_HOLE), end)
            first, last = (data - begin) // page_size, -(-(at - begin) // page_size)
            if marks and marks[-1] >= first:
                marks[-1] = last
            else:
                marks.extend((first, last))
    finally:
        os.close(fd)
    runs = np.array(marks, np.int64).reshape(-1, 2)
    return begin + runs[:, 0] * page_size, runs[:, 1] - runs[:, 0]


def open_core(path: str | os.PathLike[str], *, page_size: int = mmap.PAGESIZE) -> PageSource:
    """Open the memory in an ELF core dump: every PT_LOAD segment with data in the file.

    Holes in the file are left out and counted (`hole_pages`): the kernel leaves one for each page that was never touched,
    and newer versions of gdb for each page of zeros too.  A dump may hold pages of mapped files, which the kernel would
    not swap; their mapping names tell them apart.

    Parameters
    ----------
    path : path-like
    page_size : int

    Returns
    -------
    PageSource

    Raises
    ------
    SourceError
        When the file is missing or damaged.
    """
    name = os.fspath(path)
    segments, layout = read_elf_core(name, page_size)
    command, files = _core_notes(name, segments, layout)
    starts = np.array([start for start, _, _ in files], np.uint64)
    numbers: dict[str, int] = {}
    offsets, counts, which = [], [], []
    holes = 0
    for segment in segments:
        if segment.type != _PT_LOAD:
            continue
        mapping = "[anon]"
        nearest = int(np.searchsorted(starts, np.uint64(segment.address), side="right")) - 1
        if nearest >= 0 and segment.address < files[nearest][1]:
            mapping = files[nearest][2]
        begin, pages = _without_holes(name, segment.offset, segment.offset + segment.file_size, page_size)
        holes += segment.file_size // page_size - int(pages.sum())
        offsets.append(begin)
        counts.append(pages)
        which.append(np.full(begin.size, numbers.setdefault(mapping, len(numbers)), np.int64))
    if not sum(map(len, counts)):
        raise SourceError(f"{name} holds nothing but holes: was it copied whole?")
    all_counts = np.concatenate(counts)
    return PageSource(
        kind="core",
        title=f"core dump {printable(name)}" + (f" ({_cut(command)})" if command else ""),
        paths=[name],
        path_index=np.zeros(all_counts.size, np.int64),
        offsets=np.concatenate(offsets),
        counts=all_counts,
        mapping_index=np.concatenate(which),
        mappings=list(numbers),
        page_size=page_size,
        hole_pages=holes,
        command=command or None,
    )


def capture(
    source: PageSource,
    output: str | os.PathLike[str],
    *,
    pages: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], Any] | None = None,
) -> tuple[int, int]:
    """Write pages of a target to a file, one after another in address order.

    The file is readable by its owner only, as it holds a process's memory, and appears when it is complete.

    Parameters
    ----------
    source : PageSource
    output : path-like
    pages : int or None
        How many pages to choose at random; None for all.
    seed : int
    progress : callable, optional
        Called with pages done and pages wanted.

    Returns
    -------
    written : int
        Pages written.
    vanished : int
        Pages that could not be read any more.
    """
    path = os.fspath(output)
    partial = f"{path}.{os.getpid()}.part"
    wanted = len(source) if pages is None else min(pages, len(source))
    written = seen = 0
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb", buffering=0) as file:
            for indexes in sample(len(source), pages, seed, CHUNK_PAGES // 4):
                data, kept = source.read(indexes)
                view = data.reshape(-1).data
                while view:
                    view = view[file.write(view) or 0 :]
                written += kept.size
                seen += indexes.size
                if progress is not None:
                    progress(seen, wanted)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
    return written, seen - written
