"""What the kernel says of the mappings of a process and of the pages in them."""

from __future__ import annotations

import errno
import mmap
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zswap.meminfo import format_bytes
from zswap.pages.source import Int64Array, printable
from zswap.pages.watch import Reader

__all__ = ["Areas", "Runs", "left_out_words", "local_devices", "parse_areas", "runs_of"]

#: Reasons why anonymous pages of a mapping do not count; the first is no reason.
COUNTS, SHARED, LOCKED, HUGETLB, DEVICE, DROPPABLE, USERFAULTFD, REMOTE = range(8)
REASONS = ("", "shared", "locked", "hugetlb", "device", "droppable", "userfaultfd", "remote")
_WORDS = {
    "locked": "locked in RAM (mlock)",
    "hugetlb": "in hugetlb pages, which the kernel does not swap",
    "device": "of devices",
    "droppable": "that the kernel drops rather than swaps",
    "userfaultfd": "under a userfaultfd, which reading might wake",
    "remote": "in mappings of files on FUSE, network or unknown file systems, which might not "
    "answer",
}


def left_out_words(left_out: Mapping[str, int]) -> str:
    """Write what is left out of a process, and why, as one phrase; empty when nothing is."""
    return "; ".join(
        f"{format_bytes(left_out[why])} {words}"
        for why, words in _WORDS.items()
        if left_out.get(why)
    )


# What a mapping's flags in smaps (VmFlags) make of its pages, the weightier first: memory that the
# kernel does not swap, then pages that another program would have to bring back if they went away
# before they are read.
_FLAGS = (
    (frozenset((b"ht",)), HUGETLB),
    (frozenset((b"io", b"pf", b"mm")), DEVICE),
    (frozenset((b"dp",)), DROPPABLE),
    (frozenset((b"lo",)), LOCKED),
    (frozenset((b"um", b"uw", b"ui")), USERFAULTFD),
)

#: File systems without a block device that nobody else answers for.
_LOCAL = frozenset(
    [
        "tmpfs",
        "ramfs",
        "rootfs",
        "devtmpfs",
        "hugetlbfs",
        "btrfs",
        "zfs",
        "bcachefs",
        "ubifs",
        "jffs2",
        "nullfs",
    ]
)
#: Those with one that somebody does.
_NOT_LOCAL = ("fuseblk", "ocfs2", "gfs2")


@dataclass(frozen=True)
class Areas:
    """The mappings of a process, ascending.

    It has where they lie, why their pages do not count, and which of `names` is theirs.
    """

    starts: Int64Array
    ends: Int64Array
    reasons: npt.NDArray[np.int8]
    name_index: Int64Array
    names: list[str]
    held: Int64Array


_LINE = re.compile(
    rb"([0-9a-f]+)-([0-9a-f]+) (.{4}) \S+ (\S+) (\d+) *([^\0\n]*)\0([^\0\n]*)\0(\d+)\n"
)


def parse_areas(text: bytes, local: frozenset[bytes]) -> Areas:
    """Parse what the reader makes of smaps.

    Parameters
    ----------
    text : bytes
        For each mapping its line in maps, its flags, and the number of its anonymous pages, a NUL
        between them.
    local : frozenset of bytes
        Devices (as in maps) of file systems that wait for nobody.

    Returns
    -------
    Areas
    """
    # not [vsyscall], which no signed number holds
    found = [line for line in _LINE.findall(text) if len(line[0]) < 16]
    kinds: dict[tuple[bytes, ...], int] = {}
    reasons = np.empty(len(found), np.int8)
    names: dict[bytes, int] = {}
    name_index = np.empty(len(found), np.int64)
    for index, (_, _, permissions, device, inode, name, flags, _) in enumerate(found):
        kind = (permissions, device, inode[:1] if inode == b"0" else b"1", flags)
        if kind not in kinds:
            kinds[kind] = _reason(
                permissions, device, inode != b"0", frozenset(flags.split()), local
            )
        reasons[index] = kinds[kind]
        name_index[index] = names.setdefault(name, len(names))
    return Areas(
        starts=np.array([int(line[0], 16) for line in found], np.int64),
        ends=np.array([int(line[1], 16) for line in found], np.int64),
        reasons=reasons,
        name_index=name_index,
        names=[printable(name.decode(errors="replace")) or "[anon]" for name in names],
        held=np.array([int(line[7]) for line in found], np.int64),
    )


def _reason(
    permissions: bytes, device: bytes, file: bool, flags: frozenset[bytes], local: frozenset[bytes]
) -> int:
    if not permissions.endswith(b"p"):
        return HUGETLB if b"ht" in flags else SHARED
    for some, reason in _FLAGS:
        if flags & some:
            return reason
    return REMOTE if file and device not in local and device.startswith(b"00:") else COUNTS


def local_devices(ours: bytes, theirs: bytes) -> frozenset[bytes]:
    """Find, by mountinfo, the file systems that wait for no other program.

    `ours` is of this process, `theirs` of the other.

    An overlay is as local as what it is made of, so it is trusted only where it is mounted for us
    too, and not where the process may have mounted it over a file system of its own.
    """
    # the kernel's own tmpfs, which is mounted nowhere
    fd = os.memfd_create("zswap-device", os.MFD_CLOEXEC)
    try:
        device = os.fstat(fd).st_dev
    finally:
        os.close(fd)
    found = {f"{os.major(device):02x}:{os.minor(device):02x}".encode()}
    remote = set()
    for text, is_ours in ((ours, True), (theirs, False)):
        for line in text.splitlines():
            before, _, behind = line.partition(b" - ")
            if len(fields := before.split(None, 3)) < 3 or not behind:
                continue
            major, _, minor = fields[2].partition(b":")
            device_name = b"%02x:%02x" % (int(major), int(minor))
            kind = behind.split(None, 1)[0].decode(errors="replace")
            if kind in _LOCAL or (kind == "overlay" and is_ours):
                found.add(device_name)
            elif kind in _NOT_LOCAL:
                remote.add(device_name)
    return frozenset(found - remote)


@dataclass(frozen=True)
class Runs:
    """Runs of present pages, and how many pages are swapped.

    Of each run: its byte offset, how many pages, and the area that it lies in.
    """

    offsets: Int64Array
    counts: Int64Array
    areas: Int64Array
    swapped: int
    left_out: dict[str, int]

    def whole_pages(self, page_size: int) -> Runs:
        """Only the aligned pages of `page_size` bytes that are present as a whole."""
        first = -(-self.offsets // page_size) * page_size
        counts = (self.offsets + self.counts * mmap.PAGESIZE - first) // page_size
        keep = counts > 0
        return Runs(first[keep], counts[keep], self.areas[keep], self.swapped, self.left_out)


#: Half-open ranges of addresses of anonymous pages, ascending, and whether these are present (else:
#: swapped).
Ranges = tuple[Int64Array, Int64Array, npt.NDArray[np.bool_]]


def runs_of(reader: Reader, local: frozenset[bytes], swapped_at_most: int) -> tuple[Areas, Runs]:
    """Find the anonymous pages of the process that a reader has opened.

    Parameters
    ----------
    reader : Reader
    local : frozenset of bytes
        As for `parse_areas`.
    swapped_at_most : int
        Pages that the kernel counts as swapped: some kernels show other marks in the page tables
        alike.

    Returns
    -------
    areas : Areas
    runs : Runs
    """
    scan = _can_scan(reader)
    areas = parse_areas(reader.ask(b"a", [not scan]), local)
    ranges, exact = _scan(reader, areas) if scan else (_read_words(reader, areas), False)
    # what is write-protected there is marked like swapped pages
    exact = exact and not (areas.reasons == USERFAULTFD).any()
    return areas, within(areas, ranges, None if exact else swapped_at_most)


def within(areas: Areas, ranges: Ranges, swapped_at_most: int | None = None) -> Runs:
    """Cut ranges at the borders of the mappings, and keep those whose pages count."""
    begins, ends, present = ranges
    first = np.searchsorted(areas.ends, begins, side="right")
    each = np.maximum(np.searchsorted(areas.starts, ends, side="left") - first, 0)
    of_range = np.repeat(np.arange(begins.size), each)
    area = np.arange(of_range.size) - np.repeat(np.cumsum(each) - each, each) + first[of_range]
    begin = np.maximum(begins[of_range], areas.starts[area])
    pages = (np.minimum(ends[of_range], areas.ends[area]) - begin) // mmap.PAGESIZE
    here, reason = present[of_range], areas.reasons[area]
    swapped = int(pages[~here & (reason != SHARED)].sum())
    left_out = {
        REASONS[number]: int(pages[here & (reason == number)].sum()) * mmap.PAGESIZE
        for number in range(LOCKED, len(REASONS))
    }
    keep = here & (reason == COUNTS)
    return Runs(
        begin[keep],
        pages[keep],
        area[keep],
        swapped if swapped_at_most is None else min(swapped, swapped_at_most),
        {name: nbytes for name, nbytes in left_out.items() if nbytes},
    )


def _together(parts: Sequence[Ranges]) -> Ranges:
    begins, ends, present = zip(*parts, strict=True) if parts else ([], [], [])
    empty = np.zeros(0, np.int64)
    return (
        np.concatenate([empty, *begins]),
        np.concatenate([empty, *ends]),
        np.concatenate([empty > 0, *present]),
    )


_IS_PRESENT = 1 << 3


def _can_scan(reader: Reader) -> bool:
    """Whether the kernel has PAGEMAP_SCAN (from Linux 6.7 on)."""
    try:
        reader.ask(b"s", [0, mmap.PAGESIZE])
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL, errno.ENOSYS, errno.EPERM):
            raise
        return False
    return True


def _scan(reader: Reader, areas: Areas) -> tuple[Ranges, bool]:
    """Ask the kernel for all anonymous pages; and whether it tells guard pages apart."""
    parts: list[Ranges] = []
    at, end = (int(areas.starts[0]), int(areas.ends[-1])) if areas.starts.size else (0, 0)
    exact = True
    while at < end:
        answer = reader.ask(b"s", [at, end])
        walked, guard = np.frombuffer(answer, np.uint64, 2).tolist()
        # begin, end, categories
        regions = np.frombuffer(answer, np.int64, offset=16).reshape(-1, 3)
        parts.append((regions[:, 0], regions[:, 1], (regions[:, 2] & _IS_PRESENT) != 0))
        exact = exact and bool(guard)
        if walked <= at:  # nothing more can be said
            break
        at = walked
    return _together(parts), exact


# Before: /proc/PID/pagemap, one 64-bit word for each page of address space, holes included.
_PM_PRESENT, _PM_SWAPPED, _PM_FILE = np.uint64(1 << 63), np.uint64(1 << 62), np.uint64(1 << 61)
_PM_GUARD = np.uint64(1 << 58)
# words: half a MiB, which stays in the CPU's cache, for 256 MiB of address space
_PAGEMAP_CHUNK = 1 << 16
_GAP = 1 << 10  # words between two mappings that are read rather than asked for again


def _read_words(reader: Reader, areas: Areas) -> Ranges:
    """Read the words of all mappings that have anonymous pages according to smaps."""
    parts: list[Ranges] = []
    some = (areas.held > 0) & (areas.reasons != SHARED)
    starts, ends, held = (
        areas.starts[some] // mmap.PAGESIZE,
        areas.ends[some] // mmap.PAGESIZE,
        areas.held[some],
    )
    far = (
        np.flatnonzero(starts[1:] - ends[:-1] > _GAP) + 1 if starts.size else np.zeros(0, np.int64)
    )
    first = np.concatenate(([0], far)) if starts.size else far
    last = np.concatenate((far, [starts.size])) - 1 if starts.size else far
    sums = np.add.reduceat(held, first) if starts.size else far
    for begin, end, left in zip(
        starts[first].tolist(), ends[last].tolist(), sums.tolist(), strict=True
    ):
        parts += _read_stretch(reader, begin, end, left)
    return _together(parts)


def _read_stretch(reader: Reader, begin: int, end: int, left: int) -> Iterator[Ranges]:
    """Read the words of pages; smaps says that there are `left` anonymous ones to be found."""
    nothing = bytes(8 * _PAGEMAP_CHUNK)
    for first in range(begin, end, _PAGEMAP_CHUNK):
        if left <= 0:
            return
        data = reader.ask(b"w", [first, min(_PAGEMAP_CHUNK, end - first)])
        if data == nothing:  # the usual case in a huge mapping, and the quickest way to see it
            continue
        found = _ranges_of_words(first, np.frombuffer(data, np.uint64))
        left -= int((found[1] - found[0]).sum()) // mmap.PAGESIZE
        yield found


def _ranges_of_words(first: int, words: npt.NDArray[np.uint64]) -> Ranges:
    kind = words & (_PM_PRESENT | _PM_SWAPPED | _PM_FILE | _PM_GUARD)
    state = (kind == _PM_PRESENT).astype(np.int8) + 2 * (kind == _PM_SWAPPED).astype(np.int8)
    cuts = np.flatnonzero(np.diff(state)) + 1
    begins = np.concatenate(([0], cuts))
    ends = np.concatenate((cuts, [words.size]))
    some = state[begins] != 0
    begins, ends = begins[some], ends[some]
    return (first + begins) * mmap.PAGESIZE, (first + ends) * mmap.PAGESIZE, state[begins] == 1
