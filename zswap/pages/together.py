"""Several core dumps taken as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from zswap.pages.source import Pages, PageSource, Span, cut

__all__ = ["open_together"]


class Together(PageSource):
    """The pages of several core dumps, one behind another."""

    def __init__(self, sources: Sequence[PageSource]) -> None:
        self._sources = list(sources)
        first = sources[0]
        of_path = [number for number, source in enumerate(sources) for _ in source.paths]
        before = np.cumsum([0, *(len(source.paths) for source in sources)])
        self._first_path, self._of_path = before[:-1].tolist(), of_path
        names = list(dict.fromkeys(name for source in sources for name in source.mappings))
        number_of = {name: number for number, name in enumerate(names)}
        left_out: Counter[str] = Counter()
        for source in sources:
            left_out.update(source.left_out)
        titles = ", ".join(source.title.removeprefix("core dump ") for source in sources)
        super().__init__(
            kind=first.kind,
            title=f"{len(sources)} core dumps: {cut(titles)}",
            paths=[path for source in sources for path in source.paths],
            path_index=np.concatenate(
                [s._path_index + at for s, at in zip(sources, self._first_path, strict=True)]
            ),
            offsets=np.concatenate([s._offsets for s in sources]),
            counts=np.concatenate([s._counts for s in sources]),
            mapping_index=np.concatenate(
                [
                    np.array([number_of[name] for name in s.mappings], np.int64)[s._mapping_index]
                    for s in sources
                ]
            ),
            mappings=names,
            page_size=first.page_size,
            swapped_pages=sum(s.swapped_pages for s in sources),
            shared_bytes=sum(s.shared_bytes for s in sources),
            hole_pages=sum(s.hole_pages for s in sources),
            left_out=left_out,
            notes=list(dict.fromkeys(note for s in sources for note in s.notes)),
        )

    def close(self) -> None:
        for source in self._sources:
            source.close()

    def _read_spans(self, spans: Sequence[Span], pages: Pages) -> list[int]:
        lost: list[int] = []
        for number, source in enumerate(self._sources):
            first = self._first_path[number]
            if mine := [
                (path - first, *rest) for path, *rest in spans if self._of_path[path] == number
            ]:
                lost += source._read_spans(mine, pages)
        return lost


def open_together(sources: Sequence[PageSource]) -> PageSource:
    """Take several core dumps as one.

    Parameters
    ----------
    sources : sequence of PageSource
        Of the same page size; closed with what is returned.

    Returns
    -------
    PageSource
        The only one itself when there is one.
    """
    return sources[0] if len(sources) == 1 else Together(sources)
