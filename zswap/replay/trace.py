"""Access traces: which page was touched, and how, in the order in which it happened."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from zswap.pages import SourceError, printable
from zswap.replay.unpack import CHUNK, opened, read_chunks
from zswap_core.trace import parse_lines

__all__ = ["FORMATS", "MOST_REFERENCES", "Trace", "read_trace"]

#: Formats by name, and what they are.
FORMATS = {
    "text": "a page and r or w in each line",
    "lackey": "valgrind --tool=lackey --trace-mem=yes",
    "perf": "perf script of damon:damon_aggregated, page faults or memory events",
    "csv": "columns, as libCacheSim has them",
    "oracle": "libCacheSim's oracleGeneral, 24 bytes to a reference",
}
#: More do not fit: each takes some 40 bytes while a trace is read.
MOST_REFERENCES = 100_000_000
READ, WRITE, FREE = 0, 1, 2
PAGE = 4096
_LOOK = 1 << 16  # bytes by which a format is told
_LONGEST_LINE = 1 << 20
_ORACLE = np.dtype([("time", "<u4"), ("id", "<u8"), ("size", "<u4"), ("next", "<i8")])
_IDS = ("page", "obj_id", "objid", "obj", "id", "key", "addr", "address", "lbn", "lba", "block")
_OPS = ("op", "operation", "rw", "command", "cmd", "opcode")

_LACKEY = re.compile(rb"(?:I | [LSM]) +[0-9a-fA-F]+,\d+\s*$")
_DAMON = re.compile(
    r"damon_aggregated: target_id=(\d+) nr_regions=\d+ (\d+)-(\d+): (\d+)(?: \d+)?\s*$"
)
_FAULT = re.compile(r"page_fault\w*: address=(?:0x)?([0-9a-f]+)\b.*?(?:error_code=(0x[0-9a-f]+))?$")
_EVENT = re.compile(r"\s([\w.,/=-]+(?::[\w.,/=-]+)*):\s+(?:0x)?([0-9a-f]{4,16})(?:\s|$)")
_TEXT = re.compile(rb"\s*(?:0[xX][0-9a-fA-F]+|\d+)(?:\s+[A-Za-z01]\w*)?\s*$")


@dataclass(frozen=True)
class Trace:
    """A trace in memory.

    Attributes
    ----------
    name : str
        As it was named.
    format : str
    numbers : ndarray of uint64
        The pages that occur, ascending.
    ids : ndarray of uint32
        For each reference, which of these.
    ops : ndarray of uint8
        0 read, 1 written, 2 given back.
    notes : tuple of str
        What to know of it, in sentences.
    """

    name: str
    format: str
    numbers: npt.NDArray[np.uint64]
    ids: npt.NDArray[np.uint32]
    ops: npt.NDArray[np.uint8]
    notes: tuple[str, ...] = ()

    @property
    def references(self) -> int:
        """How many references there are."""
        return self.ids.size

    @property
    def pages(self) -> int:
        """How many pages occur."""
        return self.numbers.size

    @property
    def writes(self) -> int:
        """How many references write."""
        return int(np.count_nonzero(self.ops == WRITE))


@dataclass
class _Found:
    """References as they are read."""

    limit: int
    given: bool
    what: str
    pages: list[npt.NDArray[np.uint64]] = field(default_factory=list)
    ops: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    count: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, pages: npt.NDArray[np.uint64], ops: npt.NDArray[np.uint8]) -> None:
        room = self.limit - self.count
        if pages.size > room:
            if not self.given:
                raise SourceError(
                    f"{self.what} has more than {self.limit:,} references: --limit N takes the "
                    "first N of them"
                )
            pages, ops = pages[:room], ops[:room]
        self.pages.append(pages)
        self.ops.append(ops)
        self.count += pages.size

    @property
    def full(self) -> bool:
        return self.given and self.count >= self.limit


def read_trace(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    columns: tuple[int, int] | None = None,
    addresses: bool = False,
    limit: int | None = None,
    progress: Callable[[int, int, str], object] | None = None,
) -> Trace:
    """Read a trace.

    Parameters
    ----------
    path : path-like
        ``-`` for standard input.
    format : str, optional
        One of `FORMATS`; told by what it begins with unless given.
    columns : tuple of int, optional
        Of csv: where the page is, and where the operation (0: nowhere), from 1.
    addresses : bool
        Whether the numbers of text, csv and oracle are of bytes, not of pages.
    limit : int, optional
        How many references to take.
    progress : callable, optional
        Called with bytes read, bytes in all (0: not known), and a word.

    Returns
    -------
    Trace

    Raises
    ------
    SourceError
        When it cannot be read, is damaged, or holds nothing.
    """
    path = os.fsdecode(path)
    what = "standard input" if path == "-" else printable(path)
    found = _Found(min(limit or MOST_REFERENCES, MOST_REFERENCES), limit is not None, what)
    with opened(path) as fd:
        total = os.fstat(fd).st_size
        chunks = read_chunks(fd, what)
        if progress is not None:
            chunks = _told(chunks, fd, total, progress)
        begin = b""
        for chunk in chunks:
            begin += chunk
            if len(begin) >= _LOOK:
                break
        if not begin:
            hint = "" if path != "-" and total else "; is there a trace in it?"
            raise SourceError(f"{what} is empty: there is no reference in it{hint}")
        kind = format or _told_format(begin, what)
        rest = _all(begin, chunks)
        if kind == "oracle":
            _read_oracle(rest, found)
        elif kind == "perf":
            _read_perf(rest, found)
        else:
            _read_lines(rest, found, kind, *_layout(begin, kind, columns, found.notes))
    if not found.count:
        raise SourceError(f"{what} has no reference to a page in it ({FORMATS[kind]})")
    if progress is not None:
        progress(1, 1, "numbering pages")
    return _numbered(path, kind, found, addresses and kind in ("text", "csv", "oracle"))


def _numbered(path: str, kind: str, found: _Found, addresses: bool) -> Trace:
    pages = np.concatenate(found.pages)
    found.pages.clear()
    if addresses:
        pages //= np.uint64(PAGE)
    numbers, ids = np.unique(pages, return_inverse=True)
    return Trace(
        name=path,
        format=kind,
        numbers=numbers,
        ids=ids.astype(np.uint32).reshape(-1),
        ops=np.concatenate(found.ops),
        notes=tuple(found.notes),
    )


def _all(begin: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield begin
    yield from rest


def _told(
    chunks: Iterator[bytes], fd: int, total: int, progress: Callable[[int, int, str], object]
) -> Iterator[bytes]:
    for chunk in chunks:
        done = 0
        if total:
            done = os.lseek(fd, 0, os.SEEK_CUR)
        progress(done, total or 1, "reading the trace")
        yield chunk


# ---- which format --------------------------------------------------------------------------------


def _told_format(begin: bytes, what: str) -> str:
    """Tell a format by what it begins with."""
    if b"\0" in begin[:4096] or (_is_oracle(begin) and not begin[:24].isascii()):
        if _is_oracle(begin):
            return "oracle"
        raise SourceError(
            f"{what} is no trace that is known here: it is binary, and not libCacheSim's "
            "oracleGeneral"
        )
    lines = [line for line in begin[:_LOOK].splitlines()[:200] if line.strip() and line[:1] != b"#"]
    if len(begin) >= _LOOK:
        lines = lines[:-1] or lines
    for line in lines:
        if _LACKEY.match(line):
            return "lackey"
        text = line.decode("utf-8", "replace")
        if _DAMON.search(text) or _FAULT.search(text) or _EVENT.search(text):
            return "perf"
    if lines and _TEXT.match(lines[0]):
        return "text"
    if lines and any(mark in lines[0] for mark in (b",", b"\t", b";", b"|")):
        return "csv"
    shown = printable(lines[0][:40].decode("utf-8", "replace")) if lines else ""
    raise SourceError(
        f"{what} is no trace that is known here"
        + (f": it begins with {shown!r}" if shown else ": there is nothing in it")
        + "; --format says what it is"
    )


def _is_oracle(begin: bytes) -> bool:
    rows = np.frombuffer(begin[: min(len(begin), 100 * 24) // 24 * 24], _ORACLE)
    if not rows.size:
        return False
    times, after = rows["time"].astype(np.int64), rows["next"]
    return bool(
        (np.diff(times) >= 0).all() and (after >= -1).all() and (rows["size"] < 1 << 31).all()
    )


def _layout(
    begin: bytes, kind: str, columns: tuple[int, int] | None, notes: list[str]
) -> tuple[int, int, int, bool]:
    """Tell the delimiter, the columns, and whether there is a heading."""
    if kind != "csv":
        return (0, *(columns or (1, 2)), False)
    line = next((line for line in begin.splitlines() if line.strip()), b"").decode(
        "utf-8", "replace"
    )
    heading = line.startswith("#")
    delimiter = max(",\t;|", key=line.count)
    cells = [cell.strip(' "#').lower() for cell in line.split(delimiter)]
    names = [re.sub(r"[^a-z]+", "_", cell).strip("_") for cell in cells]
    heading = heading or not any(re.fullmatch(r"(0x)?[0-9a-f]*\d[0-9a-f]*", cell) for cell in cells)
    if columns is None:
        page = next((names.index(name) + 1 for name in _IDS if heading and name in names), 0)
        op = next((names.index(name) + 1 for name in _OPS if heading and name in names), 0)
        if not page:  # a page; page and op; time, page, size and perhaps op
            page = 1 if len(cells) < 3 else 2
            if not op and len(cells) != 3:
                op = {1: 0, 2: 2}.get(len(cells), 4)
            if op > len(cells):
                op = 0
        columns = (page, op)
        notes.append(
            f"Column {columns[0]} is taken for the page"
            + (f", column {columns[1]} for the operation" if columns[1] else "; all are reads")
            + "."
        )
    return (ord(delimiter), *columns, heading)


# ---- formats -------------------------------------------------------------------------------------


def _read_lines(
    chunks: Iterable[bytes],
    found: _Found,
    kind: str,
    delimiter: int,
    id_column: int,
    op_column: int,
    heading: bool,
) -> None:
    """Read text, csv and lackey's lines."""
    options: dict[str, Any] = {
        "delimiter": delimiter,
        "id_column": id_column,
        "op_column": op_column,
        "names": kind == "csv",
        "lackey": kind == "lackey",
    }
    held, line, passed, final = b"", 1, 0, False
    pieces = iter(chunks)
    while not final and not found.full:
        piece = next(pieces, None)
        final = piece is None
        held += piece or b""
        if heading and (b"\n" in held or final):
            held, heading, line = held.partition(b"\n")[2], False, line + 1
        if heading:
            continue
        # in steps, as room is made for as many references as there might be
        while held:
            data = held[:CHUNK]
            pages = np.empty(len(data) // 2 + 2, np.uint64)
            ops = np.empty(pages.size, np.uint8)
            last = final and len(data) == len(held)
            count, used, lines, skipped, bad = parse_lines(data, pages, ops, final=last, **options)
            if bad >= 0:
                wrong = data[bad : bad + 200].split(b"\n")[0][:60].decode("utf-8", "replace")
                raise SourceError(
                    f"line {line + lines} of {found.what} is no reference to a page "
                    f"({FORMATS[kind]}): {printable(wrong)!r}"
                )
            found.add(pages[:count].copy(), ops[:count].copy())
            line += lines
            passed += skipped
            held = held[used:]
            if found.full or (not used and not last):
                break
        if len(held) > _LONGEST_LINE:
            raise SourceError(
                f"line {line} of {found.what} is over {_LONGEST_LINE:,} bytes long: that is no "
                f"trace ({FORMATS[kind]})"
            )
    if kind == "lackey":
        found.notes.append(
            "Instructions are left out: code is dropped and read again, not swapped."
        )


def _read_oracle(chunks: Iterable[bytes], found: _Found) -> None:
    held = b""
    for chunk in chunks:
        held += chunk
        whole = len(held) // _ORACLE.itemsize * _ORACLE.itemsize
        rows = np.frombuffer(held[:whole], _ORACLE)
        held = held[whole:]
        found.add(rows["id"].copy(), np.zeros(rows.size, np.uint8))
        if found.full:
            return
    if held:
        raise SourceError(
            f"{found.what} is cut off: its last record has {len(held)} of 24 bytes"
            if found.count
            else f"{found.what} is no oracleGeneral trace: it has {len(held)} bytes, a record 24"
        )
    found.notes.append("It tells no writes: all are reads; each object counts as a page.")


def _lines(chunks: Iterable[bytes], what: str) -> Iterator[str]:
    held = b""
    for chunk in chunks:
        held += chunk
        *whole, held = held.split(b"\n")
        if len(held) > _LONGEST_LINE:
            raise SourceError(
                f"{what} has a line of over {_LONGEST_LINE:,} bytes: that is no trace"
            )
        for line in whole:
            yield line.decode("utf-8", "replace")
    if held:
        yield held.decode("utf-8", "replace")


def _read_perf(chunks: Iterable[bytes], found: _Found) -> None:
    """Read what perf script prints: faults and memory events page by page, DAMON's by regions."""
    pages: list[int] = []
    ops: list[int] = []
    regions: list[tuple[int, int, int, int]] = []
    passed = 0

    def flush() -> None:
        found.add(np.array(pages, np.uint64), np.array(ops, np.uint8))
        pages.clear()
        ops.clear()

    for line in _lines(chunks, found.what):
        if match := _DAMON.search(line):
            target, begin, end, accesses = map(int, match.groups())
            if accesses and end > begin:
                regions.append(
                    (target << 52 | begin // PAGE, -(-(end - begin) // PAGE), accesses, 0)
                )
        elif match := _FAULT.search(line):
            pages.append(int(match[1], 16) // PAGE)
            ops.append(WRITE if int(match[2] or "0", 16) & 2 else READ)
        elif match := _EVENT.search(line):
            pages.append(int(match[2], 16) // PAGE)
            ops.append(WRITE if "store" in match[1] or "write" in match[1] else READ)
        elif line.strip() and not line.startswith("#"):
            passed += 1
        if len(pages) >= 1 << 16:
            flush()
            if found.full:
                break
    flush()
    if regions:
        _spread(regions, found)
    if passed:
        found.notes.append(f"{passed:,} lines without an address are left out.")


def _spread(regions: list[tuple[int, int, int, int]], found: _Found) -> None:
    """Turn DAMON's regions into references.

    In each look at a region as many of its pages are touched as the share of the samples in which
    it was found accessed, evenly over it, begun anywhere.
    """
    most = max(accesses for _, _, accesses, _ in regions)
    rng = np.random.default_rng(0)
    for first, pages, accesses, _ in regions:
        wanted = max(1, round(pages * accesses / most))
        if found.count + wanted > found.limit and not found.given:
            found.add(np.empty(found.limit + 1, np.uint64), np.empty(0, np.uint8))
        wanted = min(wanted, found.limit - found.count)
        places = (np.arange(wanted) * pages // wanted + int(rng.integers(pages))) % pages
        found.add(np.sort(places).astype(np.uint64) + np.uint64(first), np.zeros(wanted, np.uint8))
        if found.full:
            break
    found.notes.append(
        f"DAMON tells regions, not pages: of one found accessed in all of {most} samples all pages "
        "are taken as touched, else as large a share of them; all are reads."
    )
