"""Files read as memory."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from zswap.pages.source import Pages, PageSource, SourceError, Span, printable

__all__ = ["FilePages", "open_files", "regular_size"]


class FilePages(PageSource):
    """Pages that lie in files; what the last page of a file lacks is zeros.

    Parameters
    ----------
    sizes : sequence of int
        Bytes of each of `paths`.
    **options
        As for `PageSource`.
    """

    def __init__(self, *, sizes: Sequence[int], **options: Any) -> None:
        super().__init__(**options)
        self._sizes = sizes
        self._open: tuple[int, int] | None = None  # (which of paths, descriptor)

    def close(self) -> None:
        """Close the file that is open; a later read opens it again."""
        if self._open is not None:
            os.close(self._open[1])
            self._open = None

    def _read_spans(self, spans: Sequence[Span], pages: Pages) -> list[int]:
        view = pages.reshape(-1).data
        for path, at, begin, end in spans:
            self._read_span(path, at, view[begin * self.page_size : end * self.page_size])
        return []

    def _read_span(self, path: int, at: int, view: memoryview) -> None:
        fd = self._descriptor(path)
        there = min(len(view), self._sizes[path] - at)
        view[there:] = bytes(len(view) - there)
        done = 0
        while done < there:
            try:
                got = os.preadv(fd, [view[done:there]], at + done)
            except OSError as error:
                raise SourceError(f"cannot read {self.paths[path]}: {error.strerror}") from error
            if not got:
                raise SourceError(
                    f"{self.paths[path]} became shorter while it was read; try again when nothing "
                    "writes to it"
                )
            done += got

    def _descriptor(self, path: int) -> int:
        if self._open is None or self._open[0] != path:
            self.close()
            try:
                fd = os.open(self.paths[path], os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise SourceError(f"cannot open {self.paths[path]}: {error.strerror}") from error
            self._open = (path, fd)
        return self._open[1]


def regular_size(path: str) -> int:
    """Return the size of a file that can be read, or say why it cannot."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(fd)
            size = os.lseek(fd, 0, os.SEEK_END) if stat.S_ISBLK(status.st_mode) else status.st_size
        finally:
            os.close(fd)
    except FileNotFoundError as error:
        raise SourceError(f"no such file: {path}" + _seen_from(path)) from error
    except PermissionError as error:
        raise SourceError(
            f"may not read {path}: run as a user who may, or change its permissions"
        ) from error
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error
    if stat.S_ISDIR(status.st_mode):
        raise SourceError(f"{path} is a directory: name the files in it")
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISBLK(status.st_mode):
        raise SourceError(f"{path} is not a regular file: copy what it holds into one")
    if size == 0:
        raise SourceError(f"{path} is empty: there are no pages to look at")
    return size


def _seen_from(path: str) -> str:
    if os.path.isabs(path):
        return ""
    try:
        return f" (seen from {os.getcwd()})"
    except OSError:
        return " (and the working folder has been removed)"


def open_files(
    paths: Iterable[str | os.PathLike[str]], *, page_size: int = mmap.PAGESIZE
) -> PageSource:
    """Open files as memory: page after page.

    The last page of each is filled up with zeros, as the kernel does when it maps a file.

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
        When a file is missing, unreadable, empty, or no file with bytes.
    """
    names = list(dict.fromkeys(os.fspath(path) for path in paths))
    if not names:
        raise SourceError("no file was named")
    sizes = [regular_size(name) for name in names]
    labels = [printable(name) for name in names]
    short = [
        (label, -size % page_size)
        for label, size in zip(labels, sizes, strict=True)
        if size % page_size
    ]
    notes = []
    if len(short) == 1:
        notes.append(
            f"The last page of {short[0][0]} is filled up with zeros ({short[0][1]:,} bytes)."
        )
    elif short:
        notes.append(
            f"The last pages of {len(short)} files are filled up with zeros "
            f"({sum(lacks for _, lacks in short):,} bytes)."
        )
    each = np.arange(len(names))
    return FilePages(
        kind="file",
        title=f"file {labels[0]}" if len(names) == 1 else f"{len(names)} files ({labels[0]} …)",
        paths=names,
        sizes=sizes,
        path_index=each,
        offsets=np.zeros(len(names), np.int64),
        counts=-(-np.array(sizes, np.int64) // page_size),
        mapping_index=each,
        mappings=labels,
        page_size=page_size,
        notes=notes,
    )
