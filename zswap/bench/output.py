"""What was measured, as tables, Markdown, JSON, and pictures."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import zswap
from zswap.bench.figures import Figure
from zswap.bench.growth import Point
from zswap.bench.table import Corpus, Measured
from zswap.meminfo import format_bytes
from zswap.plot import (
    INK,
    SIZE,
    check_path,
    head,
    panels,
    save_picture,
    settings,
    where_and_when,
)
from zswap.shell import console
from zswap_core.compressors.registry import open_compressor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture
    from rich.console import Console
    from rich.table import Table

__all__ = [
    "Column",
    "console",
    "heading",
    "machine",
    "markdown",
    "plot_corpora",
    "plot_growth",
    "print_corpus",
    "print_figures",
    "print_growth",
    "print_table",
    "progress",
    "to_json",
]

#: Raised when a key changes its meaning or goes away; new keys may come at any time.
JSON_VERSION = 1

Grid = list[list[str]]


def machine() -> str:
    """Describe the machine in one line."""
    model = platform.machine()
    with open("/proc/cpuinfo") as info:
        for entry in info:
            if entry.startswith("model name"):
                model = entry.partition(":")[2].strip()
                break
    return (
        f"{model}, {os.cpu_count()} CPUs, Linux {platform.release()}, Python "
        f"{platform.python_version()}"
    )


def heading(compressor: str, rounds: int) -> str:
    """Say what was measured, on what."""
    library = open_compressor(compressor)
    return (
        f"{library.spec} ({library.library} {library.version}); median of {rounds} "
        f"rounds\n{machine()}"
    )


@contextlib.contextmanager
def progress() -> Iterator[Callable[[int, int, str], None]]:
    """Show a bar on a terminal that can take it back, nothing elsewhere.

    Gives a function that is told steps done, steps in all, and what is being done.
    """
    if not sys.stderr.isatty() or (on := console(err=True)).is_dumb_terminal:
        yield lambda done, total, what: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=on, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, what: bar.update(
            task, completed=done, total=total, description=what
        )


# ---- tables --------------------------------------------------------------------------------------


class Column(NamedTuple):
    """Where a table has little room, the columns with the highest `spare` are left out first."""

    group: str
    name: str
    spare: int = 0

    @property
    def title(self) -> str:
        """Heading of the column, its group included."""
        return f"{self.group} {self.name}".strip()


_ROW = (
    Column("", "row"),
    Column("store ns", "new"),
    Column("store ns", "in place"),
    Column("store ns", "p99", 2),
    Column("load ns", "in order"),
    Column("load ns", "random"),
    Column("load ns", "p99", 2),
    Column("MB/s", "store", 3),
    Column("MB/s", "load", 3),
    Column("2 thr.", "store", 1),
    Column("2 thr.", "load", 1),
    Column("ratio", "payload"),
    Column("ratio", "memory"),
)


def _number(value: float | None, form: str = ".0f") -> str:
    return "" if value is None else f"{value:{form}}"


def _row_cells(corpus: Corpus, row: Measured) -> list[str]:
    def speed(what: str) -> str:
        ns = row.median(what)
        return "" if ns is None else f"{corpus.nbytes / corpus.pages / ns * 1000:,.0f}"

    def ratio(nbytes: int | None) -> str:
        return "" if nbytes is None else "∞" if nbytes <= 0 else f"{corpus.nbytes / nbytes:.2f}"

    return [
        row.row,
        *(_number(value) for value in (row.median("new"), row.median("store"), row.store_p99)),
        *(
            _number(value)
            for value in (row.median("load"), row.median("load_random"), row.load_p99)
        ),
        speed("store"),
        speed("load"),
        *(_number(row.gain(what), ".2f") for what in ("store", "load")),
        ratio(row.payload),
        ratio(row.resident),
    ]


def _corpus_title(corpus: Corpus) -> str:
    same = 100 * corpus.same_filled / corpus.pages
    return (
        f"{corpus.name}: {corpus.pages:,} pages, {format_bytes(corpus.nbytes)}, {same:.1f} % "
        "same-filled"
    )


def _missing_lines(corpus: Corpus) -> list[str]:
    return [f"{row}: left out; {why}" for row, why in corpus.missing.items()]


def markdown(columns: Sequence[Column], grid: Grid) -> str:
    """Write a Markdown table, the first column flush left."""
    lines = [
        " | ".join(column.title for column in columns),
        "|".join(["---", *["---:"] * (len(columns) - 1)]),
    ]
    lines += [" | ".join(cells) for cells in grid]
    return "\n".join(f"| {line} |" if "---" not in line else f"|{line}|" for line in lines)


def _rich_table(
    columns: Sequence[Column],
    grid: Grid,
    styles: Sequence[str | None],
    shown: Sequence[int],
    *,
    folded: bool = False,
) -> Table:
    """Make the table of some columns; the first one `folded` where there is no room for it."""
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1),
        collapse_padding=True,
        header_style="bold",
        show_edge=False,
    )
    before = ""
    for number in shown:
        group, name, _ = columns[number]
        title = (
            f"{group if group != before else ''}\n{name}"
            if any(column.group for column in columns)
            else name
        )
        table.add_column(
            title,
            justify="right" if number else "left",
            no_wrap=bool(number) or not folded,
            overflow="fold",
        )
        before = group
    for cells, style in zip(grid, styles, strict=True):
        table.add_row(*(cells[number] for number in shown), style=style)
    return table


def _kept(columns: Sequence[Column], spare: int) -> list[int]:
    return [number for number, column in enumerate(columns) if column.spare <= spare]


def _fitting(
    console: Console, columns: Sequence[Column], grid: Grid, styles: Sequence[str | None]
) -> list[Table]:
    """Make a table of as many columns as there is room for.

    Where there is too little for those that none must be without, it is several, group by group.
    """
    from rich.measure import measure_renderables

    def fits(table: Table) -> bool:
        options = console.options.update(max_width=1000)
        return measure_renderables(console, options, [table]).maximum <= console.width

    def of(shown: list[int]) -> Table:
        return _rich_table(columns, grid, styles, shown)

    for spare in range(max(column.spare for column in columns), -1, -1):
        if fits(table := of(_kept(columns, spare))):
            return [table]
    parts: list[list[int]] = []
    for _, group in itertools.groupby(_kept(columns, 0)[1:], lambda number: columns[number].group):
        some = [*group]
        if parts and fits(of([*parts[-1], *some])):
            parts[-1] += some
        else:
            parts.append([0, *some])
    return [
        table if fits(table := of(part)) else _rich_table(columns, grid, styles, part, folded=True)
        for part in parts
    ]


def _say(console: Console, text: str, style: str | None = None) -> None:
    console.print(
        text, style=style, markup=False, highlight=False, soft_wrap=not console.is_terminal
    )


def print_table(columns: Sequence[Column], grid: Grid, *, as_markdown: bool = False) -> None:
    """Print a table with as many of its columns as there is room for; as Markdown, with all."""
    if as_markdown:
        print(markdown(columns, grid))
        return
    on = console()
    for table in _fitting(on, columns, grid, [None] * len(grid)):
        on.print(table)


def print_corpus(corpus: Corpus, console: Console, *, as_markdown: bool = False) -> None:
    """Print the table of one corpus, and what was left out."""
    grid = [_row_cells(corpus, row) for row in corpus.rows]
    if as_markdown:
        print(f"\n**{_corpus_title(corpus)}**\n\n{markdown(_ROW, grid)}")
        for line in _missing_lines(corpus):
            print(f"\n{line}")
        return
    styles = {"limit": "dim", "zswap": "bold", "peer": None}
    console.print()
    _say(console, _corpus_title(corpus), "bold")
    for table in _fitting(console, _ROW, grid, [styles[row.kind] for row in corpus.rows]):
        console.print(table)
    for line in _missing_lines(corpus):
        _say(console, line, "dim")


_FIGURE = (
    Column("", "figure"),
    Column("", "bound"),
    Column("", "measured"),
    Column("", "holds"),
    Column("", "", 1),
)


def _amount(value: float, unit: str) -> str:
    digits = 2 if unit == "×" else 1 if abs(value) < 100 else 0
    digits = 3 if unit == "×" and value < 1.15 else digits
    return f"{value:.{digits}f} {unit}"


def _figure_cells(figure: Figure) -> list[str]:
    bound = f"{'≤' if figure.at_most else '≥'} {figure.bound:g} {figure.unit}"
    value = "" if math.isnan(figure.value) else _amount(figure.value, figure.unit)
    holds = {True: "yes", False: "NO", None: "not measured" if figure.judged else ""}[figure.holds]
    return [figure.what, bound, value, holds, figure.note]


def _summary(figures: Sequence[Figure]) -> str:
    judged = [figure for figure in figures if figure.judged]
    if not judged:
        return f"{len(figures)} figures, none judged: too little was measured to tell"
    unknown = sum(figure.holds is None for figure in judged)
    held = sum(figure.holds is True for figure in judged)
    return f"{held} of {len(judged)} figures hold" + (
        f", {unknown} not measured" if unknown else ""
    )


def print_figures(
    figures: Sequence[Figure], console: Console, *, as_markdown: bool = False
) -> None:
    """Print each figure, its bound, and whether it holds."""
    grid = [_figure_cells(figure) for figure in figures]
    summary = _summary(figures)
    if as_markdown:
        print(f"\n{markdown(_FIGURE, grid)}\n\n{summary}")
        return
    console.print()
    styles = {True: None, False: "bold red", None: "dim"}
    notes = console.width >= 150  # else below, where they may take a line of their own
    columns = _FIGURE if notes else _FIGURE[:-1]
    for table in _fitting(console, columns, grid, [styles[figure.holds] for figure in figures]):
        console.print(table)
    if not notes:
        for cells in grid:
            if cells[-1]:
                _say(console, f"{cells[0]}: {cells[-1]}", "dim")
    _say(console, summary, "bold")


_GROWTH = (
    Column("", "offsets"),
    Column("", "entries"),
    Column("ns a page", "store"),
    Column("ns a page", "load"),
    Column("ns a page", "replace"),
    Column("ns a page", "invalidate"),
    Column("bytes a page", "metadata"),
    Column("bytes a page", "in all"),
)


def print_growth(points: Sequence[Point], *, as_markdown: bool = False) -> None:
    """Print the table of growth."""
    grid = [
        [
            point.shape,
            f"{point.entries:,}",
            *(_number(ns) for ns in (point.store, point.load, point.replace, point.invalidate)),
            f"{point.metadata:.1f}",
            f"{point.resident:.1f}",
        ]
        for point in points
    ]
    if as_markdown:
        print(f"\n{markdown(_GROWTH, grid)}")
    else:
        print_table(_GROWTH, grid)


# ---- JSON ----------------------------------------------------------------------------------------


def to_json(
    *,
    compressor: str,
    rounds: int,
    seed: int,
    corpora: Sequence[Corpus] = (),
    figures: Sequence[Figure] = (),
    growth: Sequence[Point] = (),
    missing: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Make what ``zswap bench --json`` prints.

    Returns
    -------
    dict
        ``schema``, ``version``, ``zswap``, ``machine``, ``compressor`` (``name``, ``library``,
        ``version``), ``page_size``, ``rounds``, ``seed``, ``missing`` (corpora left out, and why),
        ``corpora`` (`Corpus`: every round's ns a page), ``figures`` (`Figure`), ``growth``
        (`Point`).
    """
    library = open_compressor(compressor)
    return {
        "schema": "zswap.bench",
        "version": JSON_VERSION,
        "zswap": zswap.__version__,
        "machine": machine(),
        "compressor": {
            "name": library.spec,
            "library": library.library,
            "version": library.version,
        },
        "page_size": 4096,
        "rounds": rounds,
        "seed": seed,
        "missing": missing or {},
        "corpora": [corpus.to_dict() for corpus in corpora],
        "figures": [figure.to_dict() for figure in figures],
        "growth": [point.to_dict() for point in growth],
    }


# ---- pictures ------------------------------------------------------------------------------------

# Okabe and Ito: told apart by everybody
_COLOURS = {
    "limit": "#9aa5b1",
    "zswap": "#d55e00",
    "peer": "#0072b2",
}
_HATCHES = {"limit": "", "zswap": "///", "peer": ""}  # in grey peers look like zswap
_SHAPES = {
    "dense, in order": ("#0072b2", "-", "o"),
    "dense, random": ("#d55e00", "-", "s"),
    "sparse, in order": ("#0072b2", "--", "o"),
    "sparse, random": ("#d55e00", "--", "s"),
}


def _entitle(axes: Axes, title: str) -> None:
    """Many panels are in a picture: letters are smaller than elsewhere."""
    axes.tick_params(labelsize=10)
    axes.set_title(title, loc="left", fontsize=11, color=INK)


def plot_corpora(corpora: Sequence[Corpus], path: str, compressor: str) -> None:
    """Draw store, load and ratio of every row as bars, with a row of panels for each corpus.

    Raises
    ------
    PlotError
        When matplotlib is missing.
    OutputError
        When the file cannot be written.
    """
    check_path(path)
    with settings():
        save_picture(_drawn_corpora(corpora, compressor), path)


def _drawn_corpora(corpora: Sequence[Corpus], compressor: str) -> Picture:
    """One corpus fills a picture of the usual size; more of them make it higher."""
    most = max(1, *(len(corpus.rows) for corpus in corpora))
    width, height = SIZE
    height = max(height, 1.2 + len(corpora) * (0.9 + 0.24 * most))
    picture, drawn = panels(len(corpora), 3, size=(width, height), grid="x")
    for corpus, line in zip(corpora, drawn, strict=True):
        names = [row.row for row in corpus.rows]
        colours = [_COLOURS[row.kind] for row in corpus.rows]
        columns: tuple[tuple[str, list[float | None], str], ...] = (
            (
                f"{corpus.name}: µs to store a page, in place",
                [_micro(row.median("store")) for row in corpus.rows],
                ".1f",
            ),
            (
                "µs to load a page, in order",
                [_micro(row.median("load")) for row in corpus.rows],
                ".1f",
            ),
            (
                "times smaller, by memory taken",
                [
                    corpus.nbytes / row.resident if row.resident and row.resident > 0 else None
                    for row in corpus.rows
                ],
                ".2f",
            ),
        )
        for axes, (label, values, form) in zip(line, columns, strict=True):
            bars = axes.barh(
                names,
                [value or 0 for value in values],
                color=colours,
                hatch=[_HATCHES[row.kind] for row in corpus.rows],
                edgecolor="white",
                height=0.72,
            )
            axes.bar_label(
                bars,
                [_number(value, form) for value in values],
                padding=3,
                fontsize=8.5,
                color=INK,
            )
            axes.invert_yaxis()
            axes.margins(x=0.16)
            if axes is not line[0]:
                axes.set_yticklabels([])
            _entitle(axes, label)
    head(
        picture,
        f"Holding pages, {compressor}: zswap (hatched) beside its limits (grey) and its peers",
        where_and_when(),
    )
    return picture


def _micro(ns: float | None) -> float | None:
    return None if ns is None else ns / 1000


def plot_growth(points: Sequence[Point], path: str) -> None:
    """Draw what an operation and a page's metadata cost against the number of entries.

    Raises
    ------
    PlotError
        When matplotlib is missing.
    OutputError
        When the file cannot be written.
    """
    check_path(path)
    with settings():
        save_picture(_drawn_growth(points), path)


def _drawn_growth(points: Sequence[Point]) -> Picture:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    picture, drawn = panels(2, 2)
    columns = (
        ("load", "ns to load a page"),
        ("store", "ns to store a new page"),
        ("invalidate", "ns a page to invalidate a range"),
        ("metadata", "bytes of metadata a page"),
    )
    for axes, (what, title) in zip(drawn.flat, columns, strict=True):
        for shape, (colour, line, marker) in _SHAPES.items():
            chosen = [point for point in points if point.shape == shape]
            if chosen:
                values = [getattr(point, what) for point in chosen]
                entries = [point.entries for point in chosen]
                axes.plot(
                    entries, values, line, marker=marker, markersize=6, color=colour, label=shape
                )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(bottom=0)
        axes.set_xlabel("pages held", color=INK)
        _entitle(axes, title)
    drawn[0][0].legend(frameon=False, fontsize=9)
    head(picture, "As it grows (pages of about 100 bytes compressed)", where_and_when())
    return picture
