"""The advice as a picture: RAM before and after, density against time, and what lay idle.

It is 1920 by 1080 as PNG, and told apart in grey: by hatching, by markers, by lightness.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from zswap.meminfo import format_bytes
from zswap.plot import FAINT, INK, PlotError, head, panels, save_picture, settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from zswap.adviser import Advised

__all__ = ["draw", "save"]

#: Colour and hatching: what stays, what could be swapped, that compressed, and what is free.
_PARTS = {
    "in use otherwise": ("#8795a1", ""),
    "measured": ("#d55e00", "///"),
    "the same, compressed": ("#7a3500", "xxx"),
    "available": ("#cfe8f7", ""),
}
_PLACES = (0.0, 1.7)  # of the bars; what does not fit into one stands beside it
_STORE, _LOAD = ("#0072b2", "o"), ("#e69f00", "s")


def save(found: Advised, path: str) -> None:
    """Draw the advice and write it to a file.

    Parameters
    ----------
    found : Advised
    path : str

    Raises
    ------
    PlotError
        When there is nothing to draw.
    OutputError
        When the file cannot be written.
    """
    save_picture(draw(found), path)


def draw(found: Advised) -> Figure:
    """Draw the advice.

    Parameters
    ----------
    found : Advised

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    PlotError
        When nothing was measured.
    """
    if found.analysis is None:
        raise PlotError("there is nothing to draw: no process with memory may be read")
    with settings():
        return _drawn(found)


def _drawn(found: Advised) -> Figure:
    machine = found.machine
    drawers = [_draw_ram, _draw_times] + [_draw_ages] * (found.touched is not None)
    figure, (row,) = panels(1, len(drawers), grid="y")
    for axes, drawer in zip(row, drawers, strict=True):
        drawer(axes, found)
    title = found.verdict.headline
    setting, size = found.verdict.setting, found.verdict.size
    if found.verdict.action in ("leave", "keep") and setting is not None:
        amount = f" of {format_bytes(size)}" if size else ""
        title += f"; if memory gets short: {setting.way}{amount} with {setting.compressor}"
    when = machine.taken[:16].replace("T", " ")
    cpus = f"{machine.cpus} CPU{'s' * (machine.cpus != 1)}"
    analysis = found.analysis
    assert analysis is not None
    head(
        figure,
        title,
        f"{when}  ·  Linux {machine.kernel.release}  ·  {machine.cpu}, {cpus}  ·  "
        f"{format_bytes(machine.ram)} RAM  ·  {analysis.sampled_pages:,} of "
        f"{analysis.total_pages:,} pages measured",
    )
    return figure


def _draw_ram(axes: Axes, found: Advised) -> None:
    """Draw RAM now, and with what was measured compressed."""
    machine, verdict, analysis = found.machine, found.verdict, found.analysis
    assert analysis is not None
    measured = min(analysis.target_bytes, machine.ram)
    gained = min(measured, max(0, verdict.today.gained)) if verdict.today is not None else 0
    available = min(machine.available, machine.ram - measured)
    other = machine.ram - measured - available
    rest = other, "in use otherwise"
    bars = {
        "now": [rest, (measured, "measured"), (available, "available")],
        "compressed": [
            rest,
            (measured - gained, "the same, compressed"),
            (available + gained, "available"),
        ],
    }
    unit = 1 << 30
    named = set()
    for place, segments in zip(_PLACES, bars.values(), strict=True):
        bottom = 0.0
        for amount, what in segments:
            colour, hatch = _PARTS[what]
            axes.bar(
                place,
                amount / unit,
                bottom=bottom,
                color=colour,
                hatch=hatch,
                edgecolor="white",
                width=0.62,
                label=what if what not in named else None,
            )
            named.add(what)
            inside = amount > 0.08 * machine.ram
            if inside or what in ("measured", "the same, compressed"):
                axes.text(
                    place if inside else place + 0.34,
                    bottom + amount / unit / 2,
                    format_bytes(amount),
                    ha="center" if inside else "left",
                    va="center",
                    fontsize=12,
                    color=INK,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.85}
                    if inside
                    else None,
                )
            bottom += amount / unit
    axes.set_xticks(_PLACES, list(bars))
    axes.set_ylabel("GiB", fontsize=12, color=INK)
    axes.set_xlim(-0.45, 3.1)
    axes.set_ylim(0, 1.42 * machine.ram / unit)
    axes.legend(loc="upper left", frameon=False, fontsize=11.5)
    axes.set_title(
        f"RAM: at most {format_bytes(gained)} gained", loc="left", fontsize=14, color=INK
    )


def _draw_times(axes: Axes, found: Advised) -> None:
    """Draw what each compressor saves against its time for a store and for a load."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    analysis = found.analysis
    assert analysis is not None
    zpool = analysis.advice.zpool
    rows = [
        (r.name, 100 * analysis.estimate(r.name, zpool).saved, r.store.median, r.load.median)
        for r in analysis.compressors
        if math.isfinite(r.store.median) and r.load.median > 0
    ]
    rows.sort(key=lambda row: row[1])
    room = max(1.0, (rows[-1][1] - rows[0][1]) / 14) if rows else 1.0
    placed = -math.inf
    for name, saved, store, load in rows:
        axes.plot([load / 1000, store / 1000], [saved, saved], color=FAINT, linewidth=1, zorder=2)
        for value, (colour, marker), label in ((store, _STORE, "store"), (load, _LOAD, "load")):
            axes.plot(
                value / 1000,
                saved,
                marker,
                color=colour,
                markersize=11,
                markeredgecolor=INK,
                zorder=3,
                label=label if name == rows[0][0] else None,
                linestyle="none",
            )
        placed = max(saved, placed + room)  # names do not cover each other
        axes.annotate(
            name.removesuffix("-kernel"),
            (max(store, load) / 1000, placed),
            xytext=(11, 0),
            textcoords="offset points",
            ha="left",
            va="center",
            fontsize=12,
            fontweight="bold",
            color=INK,
        )
    axes.set_xscale("log")
    if rows:
        axes.set_ylim(rows[0][1] - 2 * room, placed + 4 * room)
        times = [time / 1000 for row in rows for time in row[2:]]
        axes.set_xlim(min(times) / 1.6, max(times) * 7)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("µs a page (median)", fontsize=12, color=INK)
    axes.set_ylabel("% saved, allocator and metadata counted", fontsize=12, color=INK)
    axes.legend(loc="upper left", frameon=False, fontsize=12, ncols=2)
    axes.set_title("Density against time", loc="left", fontsize=14, color=INK)


def _draw_ages(axes: Axes, found: Advised) -> None:
    """Draw how much of the memory has been idle for how long."""
    touched, analysis = found.touched, found.analysis
    assert touched is not None
    assert analysis is not None
    shares = [1.0, *touched.untouched]
    edges = [0.0, *touched.seconds]
    names = [
        f"{begin:.0f} to {end:.0f} s"
        if touched.seconds[-1] >= 10
        else f"{begin:.1f} to {end:.1f} s"
        for begin, end in pairwise(edges)
    ]
    parts = [before - after for before, after in pairwise(shares)]
    names.append(f"over {touched.seconds[-1]:.{0 if touched.seconds[-1] >= 10 else 1}f} s")
    parts.append(shares[-1])
    for number, (name, part) in enumerate(zip(names, parts, strict=True)):
        grey = 0.85 - 0.6 * number / (len(parts) - 1)  # the older, the darker
        axes.bar(name, 100 * part, color=(grey * 0.75, grey * 0.9, min(1.0, grey * 1.1)), width=0.8)
        axes.text(
            number, 100 * part + 1, f"{100 * part:.0f} %", ha="center", fontsize=12, color=INK
        )
    axes.set_ylim(0, 112 * max(parts))
    for label in axes.get_xticklabels():
        label.set(rotation=35, ha="right", rotation_mode="anchor")
    axes.set_xlabel("idle for", fontsize=12, color=INK)
    axes.set_ylabel(f"% of {format_bytes(analysis.target_bytes)}", fontsize=12, color=INK)
    axes.set_title("What lies idle", loc="left", fontsize=14, color=INK)
