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

from zswap.pages.files import regular_size
from zswap.pages.source import Int64Array, PageSource, SourceError, cut, printable

__all__ = ["open_core", "read_elf_core"]

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
    size = regular_size(path)

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
        title=f"core dump {printable(name)}" + (f" ({cut(command)})" if command else ""),
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
