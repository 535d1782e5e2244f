"""What the kernel says of the mappings of a process and of the pages in them."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zswap.pages.source import Int64Array, printable


@dataclass(frozen=True)
class Area:
    """One line of /proc/PID/maps."""

    start: int
    end: int
    permissions: str
    name: str


def parse_area(line: bytes) -> Area | None:
    """Parse a line of maps (or the head line of a mapping in smaps); None when it is none."""
    fields = line.split(None, 5)
    if len(fields) < 5:
        return None
    try:
        start, _, end = fields[0].partition(b"-")
        name = fields[5].rstrip(b"\n").decode(errors="replace") if len(fields) > 5 else ""
        return Area(int(start, 16), int(end, 16), fields[1].decode(), printable(name) or "[anon]")
    except ValueError:
        return None


def may_be_swapped(area: Area) -> bool:
    if not area.permissions.endswith("p") or area.name.startswith(("[v", "/anon_hugepage")):
        return False
    return not area.name.startswith("/dev/") or area.name.startswith("/dev/zero")


@dataclass(frozen=True)
class Runs:
    """Runs of present pages: byte offsets, page counts, which area each lies in; and how many pages are swapped."""

    offsets: Int64Array
    counts: Int64Array
    areas: Int64Array
    swapped: int

    def whole_pages(self, page_size: int) -> Runs:
        """Only the aligned pages of `page_size` bytes that are present as a whole."""
        first = -(-self.offsets // page_size) * page_size
        counts = (self.offsets + self.counts * mmap.PAGESIZE - first) // page_size
        keep = counts > 0
        return Runs(first[keep], counts[keep], self.areas[keep], self.swapped)


def present_runs(pid: int, pagemap: int, areas: Sequence[Area]) -> Runs:
    try:
        return _collect(areas, lambda area: _scan_area(pagemap, area))
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL, errno.ENOSYS, errno.EPERM):
            raise
    held = _anonymous_pages(pid)  # an older kernel: read the pagemap, but only where there is something
    return _collect(areas, lambda area: _read_pagemap(pagemap, area, held.get(area.start)))


#: Half-open ranges of page addresses and whether they are present (else: swapped).
_Ranges = tuple[Int64Array, Int64Array, npt.NDArray[np.bool_]]


def _collect(areas: Sequence[Area], ranges_of: Callable[[Area], Iterable[_Ranges]]) -> Runs:
    offsets, counts, which, swapped = [], [], [], 0
    for index, area in enumerate(areas):
        for begin, end, present in ranges_of(area):
            pages = (end - begin) // mmap.PAGESIZE
            swapped += int(pages[~present].sum())
            offsets.append(begin[present])
            counts.append(pages[present])
            which.append(np.full(offsets[-1].size, index, np.int64))
    empty = [np.zeros(0, np.int64)]
    return Runs(np.concatenate(offsets or empty), np.concatenate(counts or empty), np.concatenate(which or empty), swapped)


# PAGEMAP_SCAN, from Linux 6.7 on: the kernel walks the page tables, skips holes, and tells the zero page apart.
_PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg)
_PM_SCAN_ARG = struct.Struct("=12Q")  # size flags start end walk_end vec vec_len max_pages inverted mask anyof return
_IS_FILE, _IS_PRESENT, _IS_SWAPPED, _IS_PFNZERO = 1 << 2, 1 << 3, 1 << 4, 1 << 5
_SCAN_REGIONS = 1 << 15


def _scan_area(pagemap: int, area: Area) -> Iterator[_Ranges]:
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


def _read_pagemap(pagemap: int, area: Area, held: int | None) -> Iterator[_Ranges]:
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
            elif line[:1] in b"0123456789abcdef" and (area := parse_area(line)) is not None:
                start = area.start
    return held
