"""A replay as a picture: misses by memory, and what each setting made of the faults.

It is 1920 by 1080 as PNG, and told apart in grey: by hatching, by dashes, by lightness.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zswap.meminfo import format_bytes
from zswap.pages import printable
from zswap.pages.source import cut
from zswap.plot import INK, head, panels, save_picture, settings, where_and_when
from zswap.replay.model import Outcome, Replayed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw", "save"]

_MOST_BARS = 12
_PAGE = 4096


def save(found: Replayed, path: str) -> None:
    """Draw a replay and write it to a file.

    Parameters
    ----------
    found : Replayed
    path : str

    Raises
    ------
    OutputError
        When the file cannot be written.
    """
    save_picture(draw(found), path)


def draw(found: Replayed) -> Figure:
    """Draw a replay.

    Parameters
    ----------
    found : Replayed

    Returns
    -------
    matplotlib.figure.Figure
    """
    with settings():
        return _drawn(found)


def _drawn(found: Replayed) -> Figure:
    figure, ((left, right),) = panels(1, 2)
    _draw_curve(left, found)
    _draw_faults(right, found)
    trace = found.trace
    name = "standard input" if trace.name == "-" else cut(printable(trace.name), 48)
    head(
        figure,
        f"{name}: {trace.references:,} references to {format_bytes(trace.pages * _PAGE)}",
        f"rules of the {found.model}, {format_bytes(found.memory)} for pages and pool; pages "
        f"{cut(found.how, 80)}\n{where_and_when()}",
    )
    return figure


def _best(found: Replayed) -> Outcome | None:
    """Return the setting that reads and writes the device least."""
    zswapped = [o for o in found.outcomes if o.setting.compressor is not None]
    return min(zswapped, key=lambda o: (o.device_read_bytes, o.device_write_bytes), default=None)


def _draw_curve(axes: Axes, found: Replayed) -> None:
    """Draw the misses of a list of whole pages, and of one with a part of it compressed."""
    curve = found.curve
    unit, word = (
        (1 << 30, "GiB")
        if curve.bytes[-1] >= 1 << 31
        else (1 << 20, "MiB")
        if curve.bytes[-1] >= 1 << 21
        else (1 << 10, "KiB")
    )
    x, y = curve.bytes / unit, 100 * curve.misses
    axes.plot(x, y, color=INK, linewidth=2.4, label="whole pages", zorder=3)
    if curve.error > 0:
        axes.fill_between(
            x,
            100 * np.clip(curve.misses - curve.errors, 0, 1),
            100 * np.clip(curve.misses + curve.errors, 0, 1),
            color="#9aa5b1",
            alpha=0.5,
            linewidth=0,
            label="95 %",
        )
    best = _best(found)
    if best is not None and best.mean_stored:
        pool = best.mean_pool_bytes / (best.mean_pool_bytes + _PAGE * best.mean_resident)
        dense = _PAGE * best.mean_stored / best.mean_pool_bytes
        holds = curve.bytes * (1 - pool + pool * dense)
        axes.plot(
            x,
            100 * curve.at(holds),
            color="#0072b2",
            linewidth=2.4,
            linestyle="--",
            zorder=3,
            label=f"{100 * pool:.0f} % of it compressed, {best.setting.name}",
        )
    axes.axvline(found.memory / unit, color="#d55e00", linewidth=1.6, linestyle=":", zorder=2)
    axes.annotate(
        "replayed",
        (found.memory / unit, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(5, -4),
        textcoords="offset points",
        va="top",
        fontsize=12,
        color="#a34400",
    )
    axes.set_xlim(0, x[-1])
    seen = y[curve.bytes >= 0.02 * curve.bytes[-1]]
    axes.set_ylim(0, max(1e-9, 1.35 * float(seen.max(initial=0.0))))
    axes.set_xlabel(f"memory, {word}", fontsize=12, color=INK)
    axes.set_ylabel("% of references that miss it", fontsize=12, color=INK)
    axes.legend(loc="upper right", frameon=False, fontsize=12, bbox_to_anchor=(1, 0.94))
    axes.set_title("Misses by memory (LRU)", loc="left", fontsize=14, color=INK)


def _label(found: Replayed, outcome: Outcome) -> str:
    """Name a setting by what tells it from the others."""
    others = [o.setting for o in found.outcomes if o.setting.compressor is not None]
    s, words = outcome.setting, [outcome.setting.name]
    if s.compressor is not None:
        if len({o.max_pool_percent for o in others}) > 1:
            words.append(f"{s.max_pool_percent} %")
        if len({o.accept_threshold_percent for o in others}) > 1:
            words.append(f"accept {s.accept_threshold_percent}")
        if len({o.shrinker for o in others}) > 1:
            words.append("shrinker" if s.shrinker else "no shrinker")
    if len({o.setting.page_cluster for o in found.outcomes}) > 1:
        words.append(f"cluster {s.page_cluster}")
    return ", ".join(words)


def _draw_faults(axes: Axes, found: Replayed) -> None:
    """Draw where pages came back from, and what went to the device."""
    shown = found.outcomes[:_MOST_BARS]
    places = np.arange(len(shown))
    pool = np.array([o.pool_hits + o.same_hits for o in shown], float)
    device = np.array([o.device_hits for o in shown], float)
    to_device = np.array([o.device_write_bytes / _PAGE for o in shown])
    top = max(1.0, float((pool + device).max()), float(to_device.max()))
    scale, word = (1e6, " million") if top >= 1e6 else (1e3, " thousand") if top >= 1e4 else (1, "")
    height = 0.38
    axes.barh(
        places - height / 2,
        pool / scale,
        height,
        color="#cfe8f7",
        edgecolor=INK,
        label="back from the pool",
    )
    axes.barh(
        places - height / 2,
        device / scale,
        height,
        left=pool / scale,
        color="#e69f00",
        edgecolor=INK,
        hatch="///",
        label="back from the device",
    )
    axes.barh(
        places + height / 2,
        to_device / scale,
        height,
        color="#4a5560",
        edgecolor=INK,
        hatch="xx",
        label="written to the device",
    )
    axes.set_yticks(places, [_label(found, o) for o in shown])
    axes.invert_yaxis()
    axes.set_ylim(len(shown) - 0.4, -0.6 - 0.22 * len(shown))
    axes.set_xlabel(f"pages{word and ','}{word}", fontsize=12, color=INK)
    axes.legend(loc="upper left", frameon=False, fontsize=11.5)
    left_out = len(found.outcomes) - len(shown)
    axes.set_title(
        "Pages to and fro" + (f" (the first {len(shown)} settings)" if left_out else ""),
        loc="left",
        fontsize=14,
        color=INK,
    )
