"""Pages of a target written to a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from zswap.pages import sampling
from zswap.pages.source import PageSource

__all__ = ["capture"]


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
            for indexes in sampling.sample(len(source), pages, seed, sampling.CHUNK_PAGES // 4):
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
