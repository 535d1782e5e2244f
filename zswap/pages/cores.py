"""ELF core dumps."""

from __future__ import annotations

import array
import errno
import mmap
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from zswap.pages.files import FilePages, regular_size
from zswap.pages.source import Int64Array, PageSource, SourceError, cut, printable

__all__ = ["open_core", "read_elf_core"]

_PT_LOAD, _PT_NOTE, _ET_CORE, _PN_XNUM = 1, 4, 4, 0xFFFF
_NT_PRPSINFO, _NT_FILE = 3, 0x46494C45
#: Bounds of what is believed, in all: a segment for each mapping of a process, notes for each of
#: its threads, and the names of its files, for which the kernel has 4 MiB unless told otherwise.
_MOST_HEADERS, _MOST_NOTES, _LARGEST_NOTE = 1 << 21, 1 << 17, 16 << 20
_HEADERS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class _Segment:
    """A program header, reduced to what is needed."""

    type: int
    offset: int
    address: int
    file_size: int


def read_elf_core(path: str, page_size: int) -> tuple[list[_Segment], str, int]:
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
    overlapping : int
        Segments left out because another has their bytes of the file.

    Raises
    ------
    SourceError
        For every field that cannot be true.
    """
    size = regular_size(path)

    def wrong(what: str) -> SourceError:
        return SourceError(
            f"{path} is no usable core dump: {what}; take it again (gcore PID, coredumpctl dump "
            "PID -o FILE)"
        )

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
            raise wrong(
                f"ELF class {ident[4]}, byte order {ident[5]}, version {ident[6]} is unknown"
            )
        order, wide = "<>"[ident[5] - 1], ident[4] == 2
        head = struct.Struct(order + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"))
        kind, _, _, _, table, sections, _, _, entry_size, entries, *_ = head.unpack(
            read(16, head.size, "the ELF header")
        )
        if kind != _ET_CORE:
            raise wrong(f"its ELF type is {kind}, not {_ET_CORE} (a core dump)")
        entry = _header_type(order, wide)
        if entry_size != entry.itemsize:
            raise wrong(f"its program headers are {entry_size} bytes each, not {entry.itemsize}")
        if entries == _PN_XNUM:  # more than 16 bits hold: the number is in the first section header
            section = struct.Struct(order + ("IIQQQQIIQQ" if wide else "IIIIIIIIII"))
            entries = section.unpack(read(sections, section.size, "the first section header"))[7]
        if not entries or not table:
            raise wrong("it has no program headers")
        if entries > _MOST_HEADERS:
            raise wrong(
                f"it claims {entries:,} program headers, more than a process has mappings "
                f"({_MOST_HEADERS:,})"
            )
        if table + entries * entry.itemsize > size:
            what = f"the table of {entries} program headers"
            raise wrong(
                f"{what} would end at byte {table + entries * entry.itemsize}, the file has {size}"
            )
        parts = []
        for first in range(0, entries, _HEADERS_AT_ONCE):
            count = min(_HEADERS_AT_ONCE, entries - first)
            data = read(
                table + first * entry.itemsize, count * entry.itemsize, "the program headers"
            )
            part = np.frombuffer(data, entry)
            wanted = np.isin(part["type"], (_PT_LOAD, _PT_NOTE)) & (part["file_size"] > 0)
            parts.append((first + np.flatnonzero(wanted), part[wanted]))
    numbers, headers = (np.concatenate(column) for column in zip(*parts, strict=True))
    segments = [
        _Segment(*fields)
        for fields in zip(
            *(headers[name].tolist() for name in ("type", "offset", "address", "file_size")),
            strict=True,
        )
    ]
    for index, segment, memory_size in zip(
        numbers.tolist(), segments, headers["memory_size"].tolist(), strict=True
    ):
        end = segment.offset + segment.file_size
        if end > size:
            raise wrong(f"segment {index} would end at byte {end}, the file has {size} (cut off?)")
        if segment.type == _PT_LOAD:
            if segment.file_size > memory_size:
                raise wrong(
                    f"segment {index} has {segment.file_size} bytes in the file but {memory_size} "
                    "in memory"
                )
            if segment.address % page_size or segment.file_size % page_size:
                raise wrong(
                    f"segment {index} ({segment.file_size} bytes at {segment.address:#x}) is not "
                    "made of pages of"
                    f" {page_size} bytes"
                )
    kept, end = [], 0  # each byte of the file is read for one segment at most, however many name it
    for index in sorted(range(len(segments)), key=lambda index: segments[index].offset):
        if segments[index].offset >= end:
            kept.append(index)
            end = segments[index].offset + segments[index].file_size
    overlapping = len(segments) - len(kept)
    segments = [segments[index] for index in sorted(kept)]
    if not any(segment.type == _PT_LOAD for segment in segments):
        raise wrong("it holds no memory (no PT_LOAD segment with data)")
    return segments, order + ("8" if wide else "4"), overlapping


def _header_type(order: str, wide: bool) -> np.dtype[np.void]:
    """Return the dtype of a program header."""
    word = f"{order}u{8 if wide else 4}"
    sizes = [("address", word), ("physical", word), ("file_size", word), ("memory_size", word)]
    flags = ("flags", f"{order}u4")
    if wide:
        return np.dtype([("type", f"{order}u4"), flags, ("offset", word), *sizes, ("align", word)])
    return np.dtype([("type", f"{order}u4"), ("offset", word), *sizes, flags, ("align", word)])


def _core_notes(
    path: str, segments: Iterable[_Segment], layout: str
) -> tuple[str, list[tuple[int, int, bytes]]]:
    """Read the command line and the mapped files, (start, end, name), from a core dump's notes.

    Notes are a courtesy: where one makes no sense, or where there are more than a process could
    have, the rest is not read and names are missing.
    """
    order, word = layout[0], "Q" if layout[1] == "8" else "I"
    command = ""
    files: list[tuple[int, int, bytes]] = []
    left = _MOST_NOTES
    with open(path, "rb") as core:
        for segment in segments:
            if segment.type != _PT_NOTE:
                continue
            at, end = segment.offset, segment.offset + segment.file_size
            while at + 12 <= end and left > 0:
                left -= 1
                core.seek(at)
                name_size, size, kind = struct.unpack(order + "III", core.read(12))
                begin = at + 12 + -(-name_size // 4) * 4
                at = begin + -(-size // 4) * 4
                if begin + size > end:
                    break
                # it ends with the name (16) and the arguments (80)
                if kind == _NT_PRPSINFO and 96 <= size <= 4096:
                    core.seek(begin + size - 96)
                    note = core.read(96)
                    name, arguments = note[:16].split(b"\0")[0], note[16:].split(b"\0")[0]
                    command = printable((arguments or name).decode(errors="replace").strip())
                elif (
                    kind == _NT_FILE
                    and not files
                    and 2 * struct.calcsize(order + word) <= size <= _LARGEST_NOTE
                ):
                    core.seek(begin)
                    files = _core_files(core.read(size), order + word)
    return command, files


def _core_files(note: bytes, word: str) -> list[tuple[int, int, bytes]]:
    count, width = struct.unpack_from(word, note)[0], struct.calcsize(word)
    begin = 2 * width
    if count > (len(note) - begin) // (3 * width):
        return []
    names = note[begin + 3 * width * count :].split(b"\0", count)
    ranges = np.frombuffer(note, word[0] + f"u{width}", 3 * count, begin).reshape(-1, 3)
    return [
        (int(start), int(end), name)
        for (start, end, _), name in zip(ranges.tolist(), names, strict=False)
    ]


def _without_holes(fd: int, begin: int, end: int, page_size: int) -> tuple[Int64Array, Int64Array]:
    """Find the runs of pages that touch data; between them are holes of the file."""
    marks = array.array("q")
    at = begin
    while at < end:
        try:
            data = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole from here on
                break
            # the file system cannot tell
            return np.array([begin]), np.array([(end - begin) // page_size])
        if data >= end:
            break
        at = min(os.lseek(fd, data, os.SEEK_HOLE), end)
        first, last = (data - begin) // page_size, -(-(at - begin) // page_size)
        if marks and marks[-1] >= first:
            marks[-1] = last
        else:
            marks.extend((first, last))
    runs = np.array(marks, np.int64).reshape(-1, 2)
    return begin + runs[:, 0] * page_size, runs[:, 1] - runs[:, 0]


def open_core(path: str | os.PathLike[str], *, page_size: int = mmap.PAGESIZE) -> PageSource:
    """Open the memory in an ELF core dump: every PT_LOAD segment with data in the file.

    Holes in the file are left out and counted (`hole_pages`): the kernel leaves one for each page
    that was never touched, and newer versions of gdb for each page of zeros too.  A dump may hold
    pages of mapped files, which the kernel would not swap; their mapping names tell them apart.

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
    segments, layout, overlapping = read_elf_core(name, page_size)
    command, files = _core_notes(name, segments, layout)
    starts = np.array([start for start, _, _ in files], np.uint64)
    loads = [segment for segment in segments if segment.type == _PT_LOAD]
    nearest = (
        np.searchsorted(
            starts, np.array([segment.address for segment in loads], np.uint64), side="right"
        )
        - 1
    )
    numbers: dict[bytes, int] = {}
    offsets, counts, which = [], [], []
    holes = 0
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for segment, file in zip(loads, nearest.tolist(), strict=True):
            mapping = (
                files[file][2] if file >= 0 and segment.address < files[file][1] else b"[anon]"
            )
            begin, pages = _without_holes(
                fd, segment.offset, segment.offset + segment.file_size, page_size
            )
            holes += segment.file_size // page_size - int(pages.sum())
            offsets.append(begin)
            counts.append(pages)
            which.append(np.full(begin.size, numbers.setdefault(mapping, len(numbers)), np.int64))
    finally:
        os.close(fd)
    if not sum(map(len, counts)):
        raise SourceError(f"{name} holds nothing but holes: was it copied whole?")
    all_counts = np.concatenate(counts)
    return FilePages(
        sizes=[os.stat(name).st_size],
        kind="core",
        title=f"core dump {printable(name)}" + (f" ({cut(command)})" if command else ""),
        paths=[name],
        path_index=np.zeros(all_counts.size, np.int64),
        offsets=np.concatenate(offsets),
        counts=all_counts,
        mapping_index=np.concatenate(which),
        mappings=[printable(mapping.decode(errors="replace")) for mapping in numbers],
        page_size=page_size,
        hole_pages=holes,
        notes=[f"{overlapping:,} segments are left out: others have the same bytes of the file."]
        if overlapping
        else [],
        command=command or None,
    )
