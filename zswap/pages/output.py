"""Pages of a target written to a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from zswap.output import writing
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

    The file is readable by its owner only, as it holds a process's memory, and appears when it is
    complete: see `zswap.output.writing`.

    Parameters
    ----------
    source : PageSource
    output : path-like
        ``-`` is standard output.
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

    Raises
    ------
    SourceError
        When the target cannot be read.
    OutputError
        When the file cannot be written.
    """
    wanted = len(source) if pages is None else min(pages, len(source))
    written = seen = 0
    with writing(output, private=True) as file:
        for indexes in sampling.sample(len(source), pages, seed, sampling.CHUNK_PAGES // 4):
            data, kept = source.read(indexes)
            file.write(data.reshape(-1).data)
            written += kept.size
            seen += indexes.size
            if progress is not None:
                progress(seen, wanted)
    return written, seen - written - source.passed_over
