"""Pages of one target, numbered, and how they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from zswap import Error

if TYPE_CHECKING:
    from zswap.pages.touched import Touched

__all__ = [
    "Int64Array",
    "PageSource",
    "Pages",
    "Part",
    "ProcessEnded",
    "SourceError",
    "Span",
    "cut",
    "printable",
]

Int64Array = npt.NDArray[np.int64]
Pages = npt.NDArray[np.uint8]
#: Which of the paths, byte offset in it, and the rows to fill: from, up to.
Span = tuple[int, int, int, int]


class SourceError(Error, ValueError):
    """A target that cannot be read; the message names it and the remedy."""


class ProcessEnded(SourceError):
    """The process ended while its memory was read."""


@dataclass(frozen=True)
class Part:
    """One process of several that are taken as one target.

    Attributes
    ----------
    pid : int
    name : str
        As `ps -o comm` shows it.
    cgroup : str
        Its path, as ``/proc/PID/cgroup`` has it.
    pages : int
        Its anonymous pages in RAM.
    share : float
        Of these its own: a page that n processes share counts as 1/n.
    swapped_pages : int
    """

    pid: int
    name: str
    cgroup: str
    pages: int
    share: float = 1.0
    swapped_pages: int = 0

    @property
    def population(self) -> int:
        """Pages that are its own."""
        return round(self.pages * self.share)


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
    left_out : mapping of str to int, optional
        Other memory of the target that is left out: bytes by reason.
    notes : sequence of str
        What the reader of a report should know about the pages, a sentence each.
    pid : int, optional
    command : str, optional
    pids : sequence of int, optional
        The processes, where there are several; else `pid` alone.
    parts : sequence of Part, optional
        The processes, one for each of `paths`, where pages that they share count once.
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
        left_out: Mapping[str, int] | None = None,
        notes: Sequence[str] = (),
        pid: int | None = None,
        command: str | None = None,
        pids: Sequence[int] | None = None,
        parts: Sequence[Part] = (),
    ) -> None:
        self.kind = kind
        self.title = title
        self.mappings = list(mappings)
        self.page_size = page_size
        self.swapped_pages = swapped_pages
        self.shared_bytes = shared_bytes
        self.hole_pages = hole_pages
        self.left_out = dict(left_out or {})
        self.notes = list(notes)
        self.pid = pid
        self.command = command
        self.pids = list(pids) if pids is not None else [] if pid is None else [pid]
        self.parts = list(parts)
        #: Pages that were read and left out, as they count elsewhere.
        self.passed_over = 0
        #: What `zswap.pages.watch_memory` has found, if it was called.
        self.touched: Touched | None = None
        self.paths = list(paths)
        self._path_index = np.asarray(path_index, np.int64)
        self._offsets = np.asarray(offsets, np.int64)
        self._counts = np.asarray(counts, np.int64)
        self._mapping_index = np.asarray(mapping_index, np.int64)
        self._ends = np.cumsum(self._counts)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._ends.size else 0

    def __enter__(self) -> PageSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back what is open."""

    @property
    def nbytes(self) -> int:
        """Size of all pages of the target that can be read."""
        return len(self) * self.page_size

    @property
    def population(self) -> int:
        """Pages that the target takes: those that several of its processes share count once."""
        return sum(part.population for part in self.parts) if self.parts else len(self)

    def part_of(self, indexes: Int64Array) -> Int64Array:
        """Return, for each page number, which of `paths` (and of `parts`) it belongs to."""
        return self._path_index[np.searchsorted(self._ends, indexes, side="right")]

    def places(self, indexes: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Return, for each page number, which of `paths` has it, and the byte offset there."""
        run = np.searchsorted(self._ends, indexes, side="right")
        first = self._ends[run] - self._counts[run]
        return self._path_index[run], self._offsets[run] + (indexes - first) * self.page_size

    def forget(self, path: int) -> bool:
        """Have the kernel forget what has been touched of a process; whether it does."""
        return False

    def referenced(self, path: int) -> Int64Array:
        """Return for each mapping of a process what has been touched since.

        Returns
        -------
        ndarray of int64, shape (n, 5)
            Begin, end, and bytes: anonymous, resident, touched.
        """
        return np.zeros((0, 5), np.int64)

    def mapping_of(self, indexes: Int64Array) -> Int64Array:
        """Return, for each page number, which of `mappings` it belongs to."""
        return self._mapping_index[np.searchsorted(self._ends, indexes, side="right")]

    def mapping_pages(self) -> Int64Array:
        """Return the number of pages of each of `mappings`."""
        return np.bincount(
            self._mapping_index, weights=self._counts, minlength=len(self.mappings)
        ).astype(np.int64)

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
        which, offset = self.places(indexes)
        # A span is a stretch of wanted pages that one call can read.
        cut = np.flatnonzero((np.diff(offset) != size) | (np.diff(which) != 0)) + 1
        begins = np.concatenate(([0], cut))
        ends = np.concatenate((cut, [indexes.size]))
        spans = zip(
            which[begins].tolist(),
            offset[begins].tolist(),
            begins.tolist(),
            ends.tolist(),
            strict=True,
        )
        lost = self._read_spans(list(spans), pages)
        if not lost:
            return pages, indexes
        keep = np.ones(indexes.size, bool)
        keep[lost] = False
        return pages[keep], indexes[keep]

    def _read_spans(self, spans: Sequence[Span], pages: Pages) -> list[int]:
        """Read each span into its rows of `pages`; return the rows that could not be read."""
        raise NotImplementedError


def printable(text: str) -> str:
    """Replace what a terminal might act upon, such as escape sequences in a command line."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)


def cut(text: str, width: int = 72) -> str:
    """Shorten a text to a width in characters."""
    return text if len(text) <= width else text[: width - 1] + "…"
