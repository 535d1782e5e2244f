"""Files read as memory."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterable

import numpy as np

from zswap.pages.source import PageSource, SourceError, printable

__all__ = ["open_files", "regular_size"]


def regular_size(path: str) -> int:
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
    sizes = [regular_size(name) for name in names]
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
