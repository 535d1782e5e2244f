"""The command line: ``zswap analyze``, ``zswap bench``, ``zswap capture``, ``zswap compressors``, ``zswap top``.

Exit codes: 0 done; 1 the work failed, or its result could not be written; 2 wrong usage, or a target that cannot be read;
130 stopped by Ctrl-C, 143 by SIGTERM, 128 and its number by another signal.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from zswap import __version__
from zswap.bench.command import bench
from zswap.shell import Failure, Refusal, printed_first, run
from zswap.shell import console as _console
from zswap.shell import plain_errors as _plain_errors

if TYPE_CHECKING:
    from zswap.pages import PageSource

__all__ = ["cli", "main"]


def _page_count(ctx: click.Context, param: click.Parameter, value: str) -> int | None:
    """A positive number of pages, or ``all`` (None)."""
    if value == "all":
        return None
    try:
        pages = int(value.replace(",", ""))
    except ValueError:
        pages = 0
    if pages <= 0:
        raise click.BadParameter(f"{value!r} is neither a positive number of pages nor 'all'")
    return pages


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int, str], object] | None]:
    """A progress bar on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_console(err=True), transient=True) as bar:
        task = bar.add_task("reading pages", total=None)
        yield lambda done, total, what: bar.update(task, completed=done, total=total, description=what)


def _open_target(pid: int | None, files: tuple[str, ...], core: str | None, more: tuple[str, ...]) -> PageSource:
    from zswap import pages

    if more and not files:
        raise click.UsageError(f"unexpected {more[0]!r}: say --file {more[0]} to analyse a file, or --pid for a process")
    if sum((pid is not None, bool(files), core is not None)) > 1:
        raise click.UsageError("--pid, --file and --core exclude each other: name one target")
    if files:
        return pages.open_files(files + more)
    if core is not None:
        return pages.open_core(core)
    if pid is not None:
        return pages.open_process(pid)
    chosen = pages.largest_process()
    click.echo(f"no target named; process {chosen.pid} has the most anonymous memory of those that may be read", err=True)
    return pages.open_process(chosen.pid)


def _check_compressors(specs: tuple[str, ...]) -> None:
    import zswap

    for spec in specs:
        try:
            zswap.ZSwap(spec, max_pool_bytes=1 << 20).close()
        except (ValueError, zswap.Error) as error:
            raise Refusal(f"cannot use compressor {spec!r}: {error}; see `zswap compressors`") from error


def _check_zpools(names: tuple[str, ...]) -> None:
    from zswap.zpools import parse_zpool

    for name in names:
        try:
            parse_zpool(name)
        except ValueError as error:
            raise Refusal(str(error)) from error


def _target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Chooses the sample."),
        click.option("--core", metavar="PATH", help="An ELF core dump (gcore PID, coredumpctl dump)."),
        click.option("--file", "files", metavar="PATH...", multiple=True, help="Files, read as pages; several may follow."),
        click.option("--pid", type=click.IntRange(min=1), metavar="N", help="A running process."),
        click.argument("more", nargs=-1, metavar=""),
    ):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="zswap", message="%(prog)s %(version)s")
def cli() -> None:
    """Compressed swap as a library: see what it would save."""


@cli.command(short_help="Estimate what zswap would save.")
@_target_options
@click.option(
    "--pages", callback=_page_count, metavar="N", default="20000", show_default=True, help="Pages to sample, or 'all'."
)
@click.option(
    "--compressor", "compressors", metavar="SPEC", multiple=True, help="Try this one (lz4, zstd:3); may be repeated."
)
@click.option("--zpool", "zpools", metavar="NAME", multiple=True, help="Try this allocator (zsmalloc, zsmalloc-kernel:4).")
@click.option("--maps", is_flag=True, help="Break the target down by mapping.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--plot", metavar="PATH", help="Draw the report to a .png, .svg or .pdf.")
def analyze(
    pid: int | None,
    files: tuple[str, ...],
    core: str | None,
    more: tuple[str, ...],
    pages: int | None,
    seed: int,
    compressors: tuple[str, ...],
    zpools: tuple[str, ...],
    maps: bool,
    as_json: bool,
    plot: str | None,
) -> None:
    """Estimate what zswap would save on a process, on files, or on a core dump.

    Without a target it takes the process with the most anonymous memory.  Nothing is stopped, swapped or changed.
    """
    with _plain_errors():
        from zswap import analyze as measuring
        from zswap import plot as drawing
        from zswap import report
        from zswap.pages import ProcessEnded

        if plot is not None:
            drawing.prepare(plot)
        _check_compressors(compressors)
        _check_zpools(zpools)

        def measure() -> measuring.Analysis:
            with _open_target(pid, files, core, more) as source, _progress() as progress:
                return measuring.analyze(
                    source, compressors=compressors or None, zpools=zpools or None, pages=pages, seed=seed, progress=progress
                )

        try:
            analysis = measure()
        except ProcessEnded:
            if pid is not None:
                raise
            click.echo("it has ended; taking the one that is the largest now", err=True)
            analysis = measure()

        def draw() -> None:
            if plot is not None:
                drawing.save(analysis, plot)
                click.echo(f"drawn: {plot}", err=True)

        with printed_first(draw):
            if as_json:
                click.echo(json.dumps(report.analysis_json(analysis), indent=2, allow_nan=False))
            else:
                report.print_analysis(analysis, _console(), maps=maps)


@cli.command(short_help="Write the pages of a target to a file.")
@_target_options
@click.option(
    "--pages",
    callback=_page_count,
    metavar="N",
    default="all",
    show_default=True,
    help="Pages to sample at random, or 'all'.",
)
@click.option(
    "-o", "--output", metavar="FILE", required=True, help="Where to write, readable by you alone; - for standard output."
)
def capture(
    pid: int | None,
    files: tuple[str, ...],
    core: str | None,
    more: tuple[str, ...],
    pages: int | None,
    seed: int,
    output: str,
) -> None:
    """Write the pages of a target to a file, one after another, for `zswap analyze --file`."""
    with _plain_errors():
        from zswap import pages as reading
        from zswap.memory import format_bytes

        for path in (*files, *more, *([core] if core is not None else [])):
            with contextlib.suppress(OSError, ValueError):
                if os.path.samefile(path, output):
                    raise Refusal(f"{output} is the file whose pages are to be written; name another one")
        with _open_target(pid, files, core, more) as source, _progress() as progress:
            written, vanished = reading.capture(
                source,
                output,
                pages=pages,
                seed=seed,
                progress=None if progress is None else lambda done, total: progress(done, total, "writing pages"),
            )
        lost = f" ({vanished:,} had vanished)" if vanished else ""
        click.echo(
            f"{written:,} pages of {source.title}{lost}, {format_bytes(written * source.page_size)}: {output}", err=True
        )


cli.add_command(bench)


@cli.command(short_help="List the compressors.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compressors(as_json: bool) -> None:
    """List the compressors, their libraries, and where these were found."""
    with _plain_errors():
        from zswap import report

        if as_json:
            click.echo(json.dumps(report.compressors_json(), indent=2))
        else:
            report.print_compressors(_console())


@cli.command(short_help="Watch a running program.")
@click.argument("path")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    metavar="SECONDS",
    default=1.0,
    show_default=True,
    help="Time between two looks.",
)
@click.option("--once", is_flag=True, help="Print one snapshot and end; so it is where the output is no terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print one snapshot as JSON.")
def top(path: str, interval: float, once: bool, as_json: bool) -> None:
    """Show pools, ratio, rates, refusals and writeback of a program that called z.serve_stats(PATH).  q quits."""
    from zswap import top as watching

    try:
        watching.run(path, _console(), interval=interval, once=once, as_json=as_json)
    except watching.NotServed as error:
        raise Refusal(str(error)) from error
    except watching.Ended as error:
        raise Failure(str(error)) from error


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : list of str, optional
        ``sys.argv[1:]`` unless given.

    Returns
    -------
    int
        The exit code.
    """
    return run(cli, arguments, name="zswap")


if __name__ == "__main__":
    sys.exit(main())
