"""The command line: ``zswap analyze``, ``bench``, ``capture``, ``compressors`` and ``top``.

Exit codes: 0 done; 1 the work failed, or its result could not be written; 2 wrong usage, or a
target that cannot be read; 130 stopped by Ctrl-C, 143 by SIGTERM, 128 and its number by another
signal.
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
    """Read a positive number of pages, or ``all`` (None)."""
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
    """Show a progress bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_console(err=True), transient=True) as bar:
        task = bar.add_task("reading pages", total=None)
        yield lambda done, total, what: bar.update(
            task, completed=done, total=total, description=what
        )


def _say(text: str) -> None:
    click.echo(f"zswap: {text}", err=True)


def _open_target(
    pids: tuple[str, ...], files: tuple[str, ...], cores: tuple[str, ...], more: tuple[str, ...]
) -> PageSource:
    """Open what was named, all of it as one target.

    Words without an option belong to the option that was given.
    """
    from zswap import pages

    if sum(map(bool, (pids, files, cores))) > 1:
        raise click.UsageError(
            "--pid, --file and --core exclude each other: name targets of one kind"
        )
    if files:
        return pages.open_files(_once((*files, *more)))
    if cores:
        return _open_all(pages.open_core, _once((*cores, *more)))
    if pids or more:
        for word in more:
            if not pids and not _is_number(word) and os.path.exists(word):
                raise click.UsageError(
                    f"unexpected {word!r}: say --file {word} to analyse a file, --core for a core "
                    "dump, or --pid for a process"
                )
        return _open_all(pages.open_process, [_find_process(word) for word in (*pids, *more)])
    chosen = pages.largest_process()
    click.echo(
        f"no target named; process {chosen.pid} has the most anonymous memory of those that may be "
        "read",
        err=True,
    )
    return pages.open_process(chosen.pid)


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit()


def _once(paths: tuple[str, ...]) -> list[str]:
    """Leave out what is named twice, under whatever name."""
    found: dict[str, str] = {}
    for path in paths:
        if found.setdefault(os.path.realpath(path), path) is not path:
            _say(f"{path} is named twice; it is taken once")
    return list(found.values())


def _find_process(word: str) -> int:
    """Return the number of a process, given that, or a name that only one has."""
    from zswap import pages
    from zswap.memory import format_bytes

    if _is_number(word):
        if not 0 < int(word) < 1 << 31:
            raise Refusal(
                f"no process {word}: their numbers are from 1 to /proc/sys/kernel/pid_max; see `ps`"
            )
        return int(word)
    found = pages.find_processes(word)
    if not found:
        raise Refusal(
            f"no process with memory of its own is called {word!r}: see `ps` for those that run, "
            "and name one with --pid, or a"
            " file with --file"
        )
    if len(found) > 1:
        shown = ", ".join(
            f"{process.pid} ({format_bytes(process.rss_anon)})" for process in found[:_SHOWN]
        )
        rest = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise Refusal(
            f"{len(found)} processes are called {word!r}: {shown}{rest}; name one, or several, "
            "with --pid"
        )
    _say(f"{word} is process {found[0].pid}")
    return found[0].pid


_SHOWN = 12  # of the processes of a name


def _open_all(opener: Callable[[Any], PageSource], targets: list[Any]) -> PageSource:
    from zswap import pages

    opened: list[PageSource] = []
    try:
        for target in targets:
            source = opener(target)
            if source.pid is not None and any(source.pid == other.pid for other in opened):
                source.close()
                _say(f"process {source.pid} is named twice; it is taken once")
            else:
                opened.append(source)
    except BaseException:
        for source in opened:
            source.close()
        raise
    return pages.open_together(opened)


def _check_compressors(specs: tuple[str, ...]) -> None:
    import zswap

    for spec in specs:
        try:
            zswap.ZSwap(spec, max_pool_bytes=1 << 20).close()
        except (ValueError, zswap.Error) as error:
            raise Refusal(
                f"cannot use compressor {spec!r}: {error}; see `zswap compressors`"
            ) from error


def _check_zpools(names: tuple[str, ...]) -> None:
    from zswap.zpools import parse_zpool

    for name in names:
        try:
            parse_zpool(name)
        except ValueError as error:
            raise Refusal(str(error)) from error


def _target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--seed",
            type=click.IntRange(min=0),
            default=0,
            show_default=True,
            help="Chooses the sample.",
        ),
        click.option(
            "--core",
            "cores",
            metavar="PATH...",
            multiple=True,
            help="ELF core dumps (gcore PID, coredumpctl dump).",
        ),
        click.option(
            "--file",
            "files",
            metavar="PATH...",
            multiple=True,
            help="Files, read as pages; several may follow.",
        ),
        click.option(
            "--pid",
            "pids",
            metavar="N...",
            multiple=True,
            help="Running processes, by number or name; all as one.",
        ),
        click.argument("more", nargs=-1, metavar=""),
    ):
        command = option(command)
    return command


class _Commands(click.Group):
    """Commands that refuse an option for a single value when it is given twice."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None:
            inner = click.Context(command, info_name=name, parent=ctx, resilient_parsing=True)
            with contextlib.suppress(click.UsageError):  # it will be raised again where it belongs
                given = command.make_parser(inner).parse_args(list(rest))[2]
                for param in given:
                    single = (
                        isinstance(param, click.Option) and not param.multiple and not param.is_flag
                    )
                    if single and given.count(param) > 1:
                        twice = param.opts[-1]
                        break
                else:
                    return name, command, rest
                raise Refusal(f"{twice} is given twice and takes one value: which is meant?")
        return name, command, rest


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="zswap", message="%(prog)s %(version)s")
def cli() -> None:
    """Compressed swap as a library: see what it would save."""


@cli.command(short_help="Estimate what zswap would save.")
@_target_options
@click.option(
    "--pages",
    callback=_page_count,
    metavar="N",
    default="20000",
    show_default=True,
    help="Pages to sample, or 'all'.",
)
@click.option(
    "--compressor",
    "compressors",
    metavar="SPEC",
    multiple=True,
    help="Try this one (lz4, zstd:3); may be repeated.",
)
@click.option(
    "--zpool",
    "zpools",
    metavar="NAME",
    multiple=True,
    help="Try this allocator (zsmalloc, zsmalloc-kernel:4).",
)
@click.option(
    "--all-compressors",
    is_flag=True,
    help="Show all compressors and allocators, not only the best three.",
)
@click.option("--maps", is_flag=True, help="Break the target down by mapping.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--plot", metavar="PATH", help="Draw the report to a .png, .svg or .pdf.")
def analyze(
    pids: tuple[str, ...],
    files: tuple[str, ...],
    cores: tuple[str, ...],
    more: tuple[str, ...],
    pages: int | None,
    seed: int,
    compressors: tuple[str, ...],
    zpools: tuple[str, ...],
    all_compressors: bool,
    maps: bool,
    as_json: bool,
    plot: str | None,
) -> None:
    """Estimate what zswap would save on a process, on files, or on a core dump.

    Without a target it takes the process with the most anonymous memory, and where none holds 32
    MiB a demonstration. Nothing is stopped, swapped or changed.
    """
    with _plain_errors():
        from dataclasses import replace

        from zswap import analyze as measuring
        from zswap import demonstration, report
        from zswap import plot as drawing
        from zswap.pages import ProcessEnded

        if plot is not None:
            drawing.prepare(plot)
        _check_compressors(compressors)
        _check_zpools(zpools)

        demonstrating = not (pids or files or cores or more) and demonstration.is_called_for()

        def measure() -> measuring.Analysis:
            with contextlib.ExitStack() as stack:
                targets = pids
                if demonstrating:
                    click.echo(
                        "no target named, and no process that may be read holds "
                        f"{demonstration.LEAST_BYTES >> 20} MiB:"
                        " measuring a demonstration",
                        err=True,
                    )
                    targets = (str(stack.enter_context(demonstration.running())),)
                source = stack.enter_context(_open_target(targets, files, cores, more))
                progress = stack.enter_context(_progress())
                return measuring.analyze(
                    source,
                    compressors=compressors or None,
                    zpools=zpools or None,
                    pages=pages,
                    seed=seed,
                    progress=progress,
                )

        for left in range(4, -1, -1):
            try:
                analysis = measure()
                break
            except ProcessEnded:
                if pids or more or not left:
                    raise
                click.echo("it has ended; taking the one that is the largest now", err=True)
        if demonstrating:
            analysis = replace(analysis, title=demonstration.TITLE, demonstration=True)

        def draw() -> None:
            if plot is not None:
                drawing.save(analysis, plot)
                click.echo(f"drawn: {plot}", err=True)

        with printed_first(draw):
            if as_json:
                click.echo(json.dumps(report.analysis_json(analysis), indent=2, allow_nan=False))
            else:
                report.print_analysis(analysis, _console(), everything=all_compressors, maps=maps)


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
    "-o",
    "--output",
    metavar="FILE",
    required=True,
    help="Where to write, readable by you alone; - for standard output.",
)
def capture(
    pids: tuple[str, ...],
    files: tuple[str, ...],
    cores: tuple[str, ...],
    more: tuple[str, ...],
    pages: int | None,
    seed: int,
    output: str,
) -> None:
    """Write the pages of a target to a file, one after another, for `zswap analyze --file`."""
    with _plain_errors():
        from zswap import pages as reading
        from zswap.memory import format_bytes

        for path in (*files, *cores, *(more if files or cores else ())):
            with contextlib.suppress(OSError, ValueError):
                if os.path.samefile(path, output):
                    raise Refusal(
                        f"{output} is the file whose pages are to be written; name another one"
                    )
        with _open_target(pids, files, cores, more) as source, _progress() as progress:
            written, vanished = reading.capture(
                source,
                output,
                pages=pages,
                seed=seed,
                progress=None
                if progress is None
                else lambda done, total: progress(done, total, "writing pages"),
            )
        lost = f" ({vanished:,} had vanished)" if vanished else ""
        click.echo(
            f"{written:,} pages of {source.title}{lost}, "
            f"{format_bytes(written * source.page_size)}: {output}",
            err=True,
        )


cli.add_command(bench)


@cli.command(short_help="List the compressors.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compressors(as_json: bool) -> None:
    """List the compressors, their libraries, and where these were found.

    Libraries are taken from installed wheels first and then from the system; with
    ZSWAP_LIBRARIES=system in the environment, from the system first.  ZSWAP_LIBLZ4, ZSWAP_LIBZSTD,
    ZSWAP_LIBLZO2 and ZSWAP_LIBDEFLATE name a file each.
    """
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
@click.option(
    "--once",
    is_flag=True,
    help="Print one snapshot and end; so it is where the output is no terminal.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one snapshot as JSON.")
def top(path: str, interval: float, once: bool, as_json: bool) -> None:
    """Show pools, ratio, rates, refusals and writeback of a running program.

    The program has called z.serve_stats(PATH).  q quits.
    """
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
