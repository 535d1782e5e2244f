"""What all pictures share, and the one of `zswap analyze`.

That is ratio against load time, and the distribution of compressed sizes.  As PNG pictures are 1920
by 1080, and told apart in grey: by names, markers, hatching, kinds of lines.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import platform
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from zswap import Error
from zswap.analyze import Analysis
from zswap.estimate import CompressorResult
from zswap.meminfo import format_bytes
from zswap.output import check, writing
from zswap.report import size_and_margin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "FAINT",
    "FORMATS",
    "GRID",
    "INK",
    "SIZE",
    "PlotError",
    "check_path",
    "draw",
    "head",
    "panels",
    "prepare",
    "save",
    "save_picture",
    "settings",
    "style",
    "where_and_when",
]

#: File formats by the ending of the name.
FORMATS = ("png", "svg", "pdf")

#: Colours of text, of what is less, and of lines behind.
INK, FAINT, GRID = "#1f2933", "#5b6672", "#dde3e9"
# Okabe and Ito: told apart by everybody
_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#8a6d00",
    "#56b4e9",
)
_LINES = ("-", "--", ":")
_BINS = 64
_MARKERS = "osD^vPX"  # one after another, as the colours
_BESIDE = 14  # pixels from a point to its name
#: Inches of a picture, at the 160 dots of `save_picture`.
SIZE = (12.0, 6.75)


class PlotError(Error):
    """The picture cannot be made; the message says what to do."""


def check_path(path: str) -> None:
    """Find out before the measurement whether a picture can be made and written.

    Raises
    ------
    PlotError
    OutputError
    """
    if _ending(path) not in FORMATS:
        raise PlotError(
            f"cannot draw {path}: its name must end in {', '.join('.' + f for f in FORMATS)}"
        )
    _matplotlib()
    check(path)


def save(analysis: Analysis, path: str) -> None:
    """Draw the report and write it to a file.

    Parameters
    ----------
    analysis : Analysis
    path : str
        Ends in one of `FORMATS`.

    Raises
    ------
    PlotError
        When matplotlib is missing.
    OutputError
        When the file cannot be written.
    """
    check_path(path)
    save_picture(draw(analysis), path)


def save_picture(picture: Figure, path: str) -> None:
    """Write any picture to a file, by `zswap.output.writing`.

    Raises
    ------
    OutputError
    """
    drawn = io.BytesIO()
    with settings():
        picture.savefig(drawn, format=_ending(path), dpi=160)
    with writing(path) as file:
        file.write(drawn.getvalue())  # a copy: a view would outlive the stream in a traceback


def _ending(path: str) -> str:
    return os.path.splitext(path)[1].lstrip(".").lower()


@contextlib.contextmanager
def settings() -> Iterator[None]:
    """Draw by our settings, not by the user's for other pictures; names are text, not formulas."""
    matplotlib = _matplotlib()
    ours = {
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "svg.hashsalt": "zswap",
        "text.parse_math": False,
    }
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name may have signs that the font lacks
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(ours)
        yield


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise PlotError("drawing needs matplotlib: pip install 'zswap[plot]'") from error
    except Exception as error:  # its configuration, read at its import, is wrong
        raise PlotError(f"matplotlib cannot be used here: {error}") from error
    return matplotlib


def prepare(path: str) -> None:
    """Make sure, as a command does before it measures, that a picture can be made and written.

    matplotlib is imported without what it would read then: a matplotlibrc (it begins in the working
    directory, whoever owns that), and MPLBACKEND (which a notebook sets for its children).  For the
    process of a command only: the working directory changes meanwhile.

    Raises
    ------
    PlotError
    OutputError
    """
    if "matplotlib" not in sys.modules:
        alone = {"MATPLOTLIBRC": os.devnull, "MPLBACKEND": "agg"}
        before = {name: os.environ.get(name) for name in alone}
        os.environ.update(alone)
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        try:
            with _elsewhere():
                _matplotlib()
        finally:
            for name, value in before.items():
                del os.environ[name]
                if value is not None:
                    os.environ[name] = value
    check_path(path)


@contextlib.contextmanager
def _elsewhere() -> Iterator[None]:
    try:
        here = os.open(".", os.O_PATH | os.O_CLOEXEC)
    except OSError:  # nor can matplotlib read anything there
        yield
        return
    try:
        os.chdir("/")
        yield
    finally:
        os.fchdir(here)
        os.close(here)


def panels(
    rows: int,
    columns: int,
    *,
    size: tuple[float, float] = SIZE,
    ratios: Sequence[float] | None = None,
    grid: Literal["both", "x", "y"] = "both",
) -> tuple[Figure, Any]:
    """Make an empty picture, in our style; within `settings`.

    Parameters
    ----------
    rows, columns : int
    size : tuple of float
        Inches.
    ratios : sequence of float, optional
        How wide the columns are.
    grid : {"both", "x", "y"}
        Lines across.

    Returns
    -------
    figure : matplotlib.figure.Figure
        Not tied to pyplot: nothing needs to be closed.
    axes : ndarray of matplotlib.axes.Axes
        By row and column.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(
        figsize=size,
        facecolor="white",
        layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12, wspace=0.05),
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, width_ratios=ratios)
    for one in axes.flat:
        style(one, grid)
    return figure, axes


def style(axes: Axes, grid: Literal["both", "x", "y"] = "both") -> None:
    """Give axes our colours: no frame, and lines behind what is drawn."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=FAINT, labelcolor=INK, labelsize=12)
    axes.grid(True, axis=grid, which="major", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def head(figure: Figure, title: str, below: str) -> None:
    """Give a picture its title, and a line or two at its foot: of what, where and when."""
    at: dict[str, Any] = {"x": 0.012, "ha": "left"}
    figure.suptitle(title, fontsize=18, fontweight="bold", color=INK, **at)
    figure.supxlabel(below, fontsize=11.5, color=FAINT, **at)


def draw(analysis: Analysis) -> Figure:
    """Draw the report.

    Parameters
    ----------
    analysis : Analysis

    Returns
    -------
    matplotlib.figure.Figure
        Not tied to pyplot: nothing needs to be closed.
    """
    with settings():
        return _drawn(analysis)


def _drawn(analysis: Analysis) -> Figure:
    figure, ((left, right),) = panels(1, 2, ratios=(1, 1.15))
    colours = {r.name: _COLOURS[i % len(_COLOURS)] for i, r in enumerate(analysis.compressors)}
    _draw_ratio(left, analysis, colours)
    _draw_sizes(right, analysis, colours)
    best = analysis.estimate(analysis.advice.balanced, analysis.advice.zpool)
    below = (
        f"{format_bytes(analysis.target_bytes)}, {analysis.sampled_pages:,} of "
        f"{analysis.total_pages:,} pages measured, "
        f"{100 * analysis.same_filled:.1f} % same-filled.  "
        f"{best.compressor} would save {size_and_margin(best.saved_bytes, best.margin_bytes)} "
        f"({100 * best.saved:.0f} %)\n{where_and_when()}"
    )
    head(figure, f"What zswap would save: {_shorten(analysis.title, 70)}", below)
    _label_points(figure, left, analysis)
    return figure


def where_and_when() -> str:
    """Say in a line what a picture is of: now, this kernel, this machine."""
    from zswap.adviser.machine import read_cpu

    cpus = os.cpu_count() or 1
    return (
        f"{time.strftime('%Y-%m-%d %H:%M')}  ·  Linux {platform.release()}  ·  {read_cpu()}, "
        f"{cpus} CPU{'s' * (cpus != 1)}"
    )


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _points(analysis: Analysis) -> list[tuple[CompressorResult, float, float, float, float]]:
    """Compressor, load time in µs, effective ratio, and the ends of its interval."""
    points = []
    for result in analysis.compressors:
        e = analysis.estimate(result.name, analysis.advice.zpool)
        if math.isfinite(result.load.median) and math.isfinite(e.effective_ratio):
            low, high = (
                e.target_bytes / max(e.target_bytes - saved, 1)
                for saved in (e.saved_low, e.saved_high)
            )
            points.append((result, result.load.median / 1000, e.effective_ratio, low, high))
    return points


def _draw_ratio(axes: Axes, analysis: Analysis, colours: dict[str, str]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    points = _points(analysis)
    markers = {r.name: _MARKERS[i % len(_MARKERS)] for i, r in enumerate(analysis.compressors)}
    for result, load, ratio, low, high in points:
        axes.plot(
            [load, result.load.p99 / 1000],
            [ratio, ratio],
            color=colours[result.name],
            alpha=0.35,
            linewidth=2,
            zorder=2,
        )
        axes.errorbar(
            load,
            ratio,
            yerr=[[max(ratio - low, 0)], [max(high - ratio, 0)]],
            color=colours[result.name],
            capsize=3,
            zorder=3,
        )
        axes.plot(
            load,
            ratio,
            markers[result.name],
            markersize=10,
            color=colours[result.name],
            markeredgecolor="white",
            zorder=4,
        )
    axes.set_xscale("log")
    if points:
        times = [load for _, load, *_ in points] + [r.load.p99 / 1000 for r, *_ in points]
        axes.set_xlim(min(times) / 1.5, max(times) * 1.5)
        lowest, highest = min(p[3] for p in points), max(p[4] for p in points)
        room = 0.18 * max(highest - lowest, 0.25)
        axes.set_ylim(max(lowest - room, 0), highest + room)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(
        "µs to load a page (median; the line reaches to the 99th percentile)",
        color=INK,
        fontsize=11.5,
    )
    axes.set_ylabel("effective ratio, allocator and metadata counted", color=INK, fontsize=11.5)
    axes.set_title(
        f"Density against speed ({analysis.advice.zpool})",
        loc="left",
        fontsize=13,
        color=INK,
        pad=10,
    )


def _label_points(figure: Figure, axes: Axes, analysis: Analysis) -> None:
    """Put each name beside its point, where it covers no other point, line or name."""
    points = _points(analysis)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    at = axes.transData.transform
    taken: list[tuple[float, float, float, float]] = []
    for result, load, ratio, low, high in points:
        x, y = at((load, ratio))
        end = at((result.load.p99 / 1000, ratio))[0]
        taken += [
            (x - 12, y - 12, x + 12, y + 12),
            (x, y - 3, end, y + 3),
            (x - 6, at((load, low))[1], x + 6, at((load, high))[1]),
        ]
    frame = axes.get_window_extent(renderer)
    sides = ((0, 1), (0, -1), (-1, 0), (-0.8, 0.8), (0.8, 0.8), (-0.8, -0.8), (0.8, -0.8), (1, 0))
    steps = [(dx * reach, dy * reach) for reach in (1, 2, 3, 4.5, 6) for dx, dy in sides]
    for result, load, ratio, *_ in points:
        best: tuple[float, Any, tuple[float, float, float, float]] | None = None
        for dx, dy in steps:
            label = axes.annotate(
                result.name,
                (load, ratio),
                xytext=(dx * 13, dy * 13),
                textcoords="offset points",
                ha="center" if abs(dx) < 0.1 else "left" if dx > 0 else "right",
                va="center" if abs(dy) < 0.1 else "bottom" if dy > 0 else "top",
                fontsize=12,
                fontweight="bold",
                color=INK,
                zorder=5,
            )
            box = label.get_window_extent(renderer)
            mine = (box.x0 - 2, box.y0 - 1, box.x1 + 2, box.y1 + 1)
            badness = sum(_overlap(mine, other) for other in taken)
            badness += 10 * (
                (box.x1 - box.x0) * (box.y1 - box.y0)
                - _overlap((box.x0, box.y0, box.x1, box.y1), frame.extents)
            )
            if best is None or badness < best[0] - 1e-6:
                if best is not None:
                    best[1].remove()
                best = (badness, label, mine)
            else:
                label.remove()
            if badness <= 1e-6:
                break
        if best is not None:
            taken.append(best[2])
            _lead(axes, at((load, ratio)), best[2])


def _lead(axes: Axes, point: Any, box: tuple[float, float, float, float]) -> None:
    """Draw a line from a point to a name that is not beside it: names of others may be nearer."""
    end = [min(max(point[i], box[i]), box[i + 2]) for i in (0, 1)]
    if math.dist(point, end) > _BESIDE:
        x, y = axes.transData.inverted().transform((point, end)).T
        axes.plot(x, y, color=INK, linewidth=0.8, zorder=3.5)


def _overlap(a: Any, b: Any) -> float:
    return float(
        max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    )


def _shown_sizes(analysis: Analysis) -> list[CompressorResult]:
    """Choose at most three distributions, which fit one picture.

    They are those of the advice, one level of each compressor, and then the first measured.
    """
    advice = analysis.advice
    names = (advice.fastest, advice.balanced, advice.densest, analysis.compressors[0].name)
    by_base: dict[str, str] = {}
    for name in names:
        by_base.setdefault(name.partition(":")[0], name)
    return [result for result in analysis.compressors if result.name in list(by_base.values())[:3]]


def _draw_sizes(axes: Axes, analysis: Analysis, colours: dict[str, str]) -> None:
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    size = analysis.page_size
    edges = np.linspace(0, size, _BINS + 1)
    top = 0.0
    for result, line in zip(_shown_sizes(analysis), _LINES, strict=False):
        bins = result.histogram[1:].reshape(_BINS, -1).sum(axis=1)
        share = 100 * bins / result.pages
        top = max(top, float(share.max()))
        axes.stairs(
            share,
            edges,
            color=colours[result.name],
            linewidth=2,
            linestyle=line,
            label=result.name,
            zorder=3,
        )
        axes.stairs(share, edges, color=colours[result.name], fill=True, alpha=0.10, zorder=2)
    top = top or 1.0
    slots = analysis.zpool_slots.get(analysis.advice.zpool)
    if slots is not None and slots.size > 1:
        saving = slots[:-1]
        axes.vlines(
            saving, -0.055 * top, -0.015 * top, color=FAINT, linewidth=0.9, clip_on=False, zorder=4
        )
        axes.axvspan(float(saving[-1]), size, color="#b00020", alpha=0.07, linewidth=0, zorder=0)
        axes.annotate(
            f"over {int(saving[-1]):,} bytes:\na whole page,\nnothing saved",
            (float(saving[-1]), 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-8, -6),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=10.5,
            color="#9a2234",
        )
    axes.set_xlim(0, size)
    axes.set_ylim(-0.07 * top, top * 1.2)  # the names and the remark stand above the bars
    axes.xaxis.set_major_locator(MultipleLocator(size / 8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:g}" if value >= 0 else "")
    )
    axes.set_xlabel(
        "bytes of a compressed page (ticks: the allocator's size classes)",
        color=INK,
        fontsize=11.5,
    )
    axes.set_ylabel(f"% of pages, in bins of {size // _BINS} bytes", color=INK, fontsize=11.5)
    axes.set_title(
        "What pages compress to (same-filled pages left out)",
        loc="left",
        fontsize=13,
        color=INK,
        pad=10,
    )
    axes.legend(
        loc="upper left", ncols=3, frameon=False, fontsize=12, columnspacing=1.2, handlelength=1.2
    )
