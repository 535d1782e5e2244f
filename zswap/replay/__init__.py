"""An access trace replayed for several settings: what zswap would have done for it.

`trace` reads it, `contents` says what the pages compress to, `settings` are what is asked, `model`
replays (its loop is `zswap_core.replay`), `curve` works out misses for every size of memory,
`report` and `picture` show it.
"""

from __future__ import annotations

from zswap.replay.curve import Curve, miss_ratio_curve
from zswap.replay.model import Outcome, Replayed, replay
from zswap.replay.settings import Setting, grid
from zswap.replay.trace import FORMATS, Trace, read_trace

__all__ = [
    "FORMATS",
    "Curve",
    "Outcome",
    "Replayed",
    "Setting",
    "Trace",
    "grid",
    "miss_ratio_curve",
    "read_trace",
    "replay",
]
