"""Settings of zswap that a trace is replayed for."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["MODELS", "Setting", "grid"]

#: Whose rules: the running kernel's kind, or this library's engine's.
MODELS = ("kernel", "engine")


@dataclass(frozen=True)
class Setting:
    """One setting; `compressor` None is no zswap at all.

    Attributes
    ----------
    compressor : str or None
    max_pool_percent : int
        Of the machine's RAM.
    accept_threshold_percent : int
    shrinker : bool
        Of the kernel, shrinker_enabled.
    page_cluster : int
        As vm.page-cluster: up to 2 to its power pages are read at a fault.
    """

    compressor: str | None
    max_pool_percent: int = 20
    accept_threshold_percent: int = 90
    shrinker: bool = False
    page_cluster: int = 3

    @property
    def name(self) -> str:
        """In a word or two."""
        return "no zswap" if self.compressor is None else self.compressor


def grid(
    compressors: Sequence[str],
    percents: Sequence[int],
    thresholds: Sequence[int],
    shrinkers: Sequence[bool],
    clusters: Sequence[int],
) -> list[Setting]:
    """Combine all with all; before them, for each page-cluster, no zswap."""
    settings = [Setting(None, page_cluster=cluster) for cluster in dict.fromkeys(clusters)]
    settings += (
        Setting(*values)
        for values in itertools.product(
            dict.fromkeys(compressors),
            dict.fromkeys(percents),
            dict.fromkeys(thresholds),
            dict.fromkeys(shrinkers),
            dict.fromkeys(clusters),
        )
    )
    return settings
