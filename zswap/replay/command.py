"""The command ``zswap replay``."""

from __future__ import annotations

import math
import re
import time
from typing import TYPE_CHECKING, Any

import click

from zswap.shell import Refusal, plain_errors, progress_bar, tell
from zswap.targets import Targets, check_compressors, seed_option

if TYPE_CHECKING:
    from zswap.replay.contents import Contents
    from zswap.replay.trace import Trace

__all__ = ["replay"]

_FORMATS = ("text", "lackey", "perf", "csv", "oracle")
_RATIO = 2.5
_MOST_SETTINGS = 256
_PAGE = 4096


def _columns(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    """Read one or two numbers of columns."""
    if value is None:
        return None
    if not re.fullmatch(r"[1-9]\d{0,3}(,[1-9]\d{0,3})?", value):
        raise click.BadParameter(f"{value!r} is not the number of a column, or of two: 2 or 2,4")
    page, _, op = value.partition(",")
    return int(page), int(op or 0)


def _amount(ctx: click.Context, param: click.Parameter, value: str | None) -> int | float | None:
    """Read bytes, or a percentage as a share."""
    from zswap.meminfo import parse_bytes

    if value is None:
        return None
    if match := re.fullmatch(r"\s*(\d{1,6}(?:\.\d*)?)\s*%\s*", value):
        share = float(match[1]) / 100
        if share <= 0:
            raise click.BadParameter(f"{value!r} is no memory at all")
        return share
    try:
        nbytes = parse_bytes(value)
    except ValueError as error:
        raise click.BadParameter(f"{error}, or as a part of the trace's pages: '50%'") from error
    if nbytes < _PAGE:
        raise click.BadParameter(f"{value!r} is less than a page of {_PAGE} bytes")
    return nbytes


def _finite(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a number")
    return value


@click.command(short_help="Replay an access trace for several settings.")
@click.argument("trace", metavar="TRACE")
@click.option(
    "--format",
    "format_name",
    type=click.Choice(_FORMATS),
    help="Of the trace; told by how it begins unless given.",
)
@click.option(
    "--columns",
    metavar="PAGE[,OP]",
    callback=_columns,
    help="Which columns of a csv or text trace these are, from 1.",
)
@click.option("--addresses", is_flag=True, help="Its numbers are addresses in bytes, not pages.")
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Take its first N references."
)
@click.option(
    "--memory",
    metavar="SIZE",
    callback=_amount,
    default="50%",
    show_default=True,
    help="For the pages and the pool, as 64MiB, or as a part of all pages of the trace.",
)
@click.option(
    "--ram",
    metavar="SIZE",
    callback=_amount,
    help="Of the machine, of which max_pool_percent is; as --memory unless given.",
)
@click.option("--contents", metavar="PATH", help="Pages of the program: of `zswap capture`, say.")
@click.option("--pid", metavar="N", help="Take the sizes of a running process's pages.")
@click.option("--analysis", metavar="PATH", help="Take those that `zswap analyze --json` printed.")
@click.option(
    "--ratio",
    type=click.FloatRange(1, 64),
    callback=_finite,
    metavar="R",
    help=f"Assume that pages become R times smaller; {_RATIO} where no contents are named.",
)
@click.option(
    "--compressor",
    "compressors",
    metavar="SPEC",
    multiple=True,
    help="Replay this one (lz4, zstd:3); may be repeated.",
)
@click.option(
    "--max-pool-percent",
    "percents",
    type=click.IntRange(0, 100),
    metavar="N",
    multiple=True,
    default=(20,),
    help="Replay this limit, of RAM; 20 unless given; may be repeated.",
)
@click.option(
    "--accept-threshold-percent",
    "thresholds",
    type=click.IntRange(0, 100),
    metavar="N",
    multiple=True,
    default=(90,),
    help="Of the limit, where stores are taken again; 90 unless given; may be repeated.",
)
@click.option(
    "--shrinker",
    type=click.Choice(("off", "on", "both")),
    default="off",
    show_default=True,
    help="The kernel's shrinker_enabled.",
)
@click.option(
    "--page-cluster",
    "clusters",
    type=click.IntRange(0, 10),
    metavar="N",
    multiple=True,
    default=(3,),
    help="As vm.page-cluster; 3 unless given; may be repeated.",
)
@click.option(
    "--model",
    type=click.Choice(("kernel", "engine")),
    default="kernel",
    show_default=True,
    help="Whose rules: Linux's zswap, or this library's engine before a swap file.",
)
@click.option(
    "--sample",
    type=click.FloatRange(0, 1, min_open=True),
    callback=_finite,
    metavar="R",
    help="Share of the pages that the miss-ratio curve follows; as many as take a second or so.",
)
@seed_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--plot", metavar="PATH", help="Draw the replay to a .png, .svg or .pdf.")
def replay(
    trace: str,
    format_name: str | None,
    columns: tuple[int, int] | None,
    addresses: bool,
    limit: int | None,
    memory: int | float,
    ram: int | float | None,
    contents: str | None,
    pid: str | None,
    analysis: str | None,
    ratio: float | None,
    compressors: tuple[str, ...],
    percents: tuple[int, ...],
    thresholds: tuple[int, ...],
    shrinker: str,
    clusters: tuple[int, ...],
    model: str,
    sample: float | None,
    seed: int,
    as_json: bool,
    plot: str | None,
) -> None:
    """Replay an access trace through a model of RAM, zswap and a swap device, for each setting.

    TRACE is a file, or - for standard input: a page and r or w in each line, what valgrind's lackey
    or perf script (page faults, memory events, DAMON) prints, libCacheSim's csv or oracleGeneral;
    also packed by gzip, zstd or xz. What the pages compress to comes from a capture, a process, an
    analysis, or is assumed. docs/replay.md says how it reckons, and how well that holds.
    """
    if sum(given is not None for given in (contents, pid, analysis, ratio)) > 1:
        raise click.UsageError(
            "--contents, --pid, --analysis and --ratio exclude each other: name one"
        )
    if model == "engine":
        for name in ("shrinker", "clusters"):
            source = click.get_current_context().get_parameter_source(name)
            if source is not None and source.name == "COMMANDLINE":
                option = "--shrinker" if name == "shrinker" else "--page-cluster"
                raise click.UsageError(f"{option} is the kernel's: the engine has none")
    count = len(set(percents)) * len(set(thresholds)) * len(set(clusters))
    count *= max(1, len(compressors)) * (1 + (shrinker == "both"))
    if count > _MOST_SETTINGS:
        raise click.UsageError(
            f"{count} settings are too many to compare: {_MOST_SETTINGS} at most"
        )
    with plain_errors():
        from zswap import costs as costing
        from zswap import plot as drawing
        from zswap import replay as replaying
        from zswap.adviser.machine import read_cpu
        from zswap.replay import picture, report

        if plot is not None:
            drawing.prepare(plot)
        if analysis is None:
            check_compressors(compressors)
        with progress_bar() as progress:
            found = replaying.read_trace(
                trace,
                format=format_name,
                columns=columns,
                addresses=addresses,
                limit=limit,
                progress=progress,
            )
            pages, how = _contents(
                found, contents, pid, analysis, ratio, compressors, seed, progress
            )
            whole = found.pages * _PAGE
            room = max(_PAGE, int(memory * whole)) if isinstance(memory, float) else memory
            total = room if ram is None else int(ram * whole) if isinstance(ram, float) else ram
            settings = replaying.grid(
                [one.compressor for one in pages],
                percents,
                thresholds,
                {"off": (False,), "on": (True,), "both": (False, True)}[shrinker],
                (0,) if model == "engine" else clusters,
            )
            costs = costing.from_table(read_cpu())
            begun = time.monotonic()
            outcomes = replaying.replay(
                found,
                settings,
                pages,
                memory=room,
                ram=max(_PAGE, total),
                model=model,
                costs=costs,
                progress=progress,
            )
            seconds = time.monotonic() - begun
            curve = replaying.miss_ratio_curve(found, rate=sample, seed=seed, progress=progress)
        result = replaying.Replayed(
            found, room, max(_PAGE, total), model, pages, how, outcomes, curve, seconds, costs.words
        )

        tell(
            result,
            as_json=as_json,
            plot=plot,
            json_of=report.replayed_json,
            print_of=report.print_replayed,
            save_of=picture.save,
        )


def _contents(
    trace: Trace,
    contents: str | None,
    pid: str | None,
    analysis: str | None,
    ratio: float | None,
    compressors: tuple[str, ...],
    seed: int,
    progress: Any,
) -> tuple[list[Contents], str]:
    """Find out what the pages compress to."""
    from zswap import pages as reading
    from zswap.adviser import compressors_for
    from zswap.kernel import read_kernel
    from zswap.replay import contents as making

    if analysis is not None:
        return making.from_analysis(analysis, compressors or None, trace.pages, seed)
    names = list(dict.fromkeys(compressors)) or compressors_for(read_kernel())
    if not names:
        raise Refusal("no compressor is available: pip install lz4 zstd")
    if contents is not None:
        with reading.open_files([contents]) as source:
            return making.from_pages(source, names, trace.pages, seed, progress)
    if pid is not None:
        with Targets(pids=(pid,)).open(progress) as source:
            return making.from_pages(source, names, trace.pages, seed, progress)
    return making.from_ratio(ratio or _RATIO, names, trace.pages, seed, progress)
