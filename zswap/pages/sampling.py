"""Which pages of a target are taken: a uniform sample."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from zswap.pages.source import Int64Array

__all__ = ["CHUNK_PAGES", "sample"]

#: The pages read, and held in memory, at a time: 64 MiB of 4 KiB pages.
CHUNK_PAGES = 16384


def sample(
    total: int, wanted: int | None, seed: int = 0, chunk: int | None = None
) -> Iterator[Int64Array]:
    """Choose pages uniformly at random without replacement, and give them out in ascending chunks.

    Parameters
    ----------
    total : int
        Number of pages to choose from.
    wanted : int or None
        How many to choose; None, or `total` and more, for all of them.
    seed : int
        The same seed gives the same pages.
    chunk : int, optional
        Most pages in one chunk; `CHUNK_PAGES` unless given.

    Yields
    ------
    ndarray of int64
    """
    chunk = CHUNK_PAGES if chunk is None else chunk
    if wanted is None or wanted >= total:
        for begin in range(0, total, chunk):
            yield np.arange(begin, min(begin + chunk, total), dtype=np.int64)
        return
    chosen = np.random.default_rng(seed).choice(total, wanted, replace=False, shuffle=False)
    chosen.sort()
    for begin in range(0, wanted, chunk):
        yield chosen[begin : begin + chunk].astype(np.int64, copy=False)
