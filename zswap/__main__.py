"""The command line: ``zswap advise``, ``analyze``, ``bench``, ``capture`` and others.

Exit codes: 0 done; 1 the work failed, or its result could not be written; 2 wrong usage, or a
target that cannot be read; 130 stopped by Ctrl-C, 143 by SIGTERM, 128 and its number by another
signal.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from functools import partial

import click

from zswap import __version__
from zswap.adviser.command import advise
from zswap.bench.command import bench
from zswap.replay.command import replay
from zswap.shell import Failure, Refusal, progress_bar, run, say, tell
from zswap.shell import console as _console
from zswap.shell import plain_errors as _plain_errors
from zswap.targets import Targets, check_compressors, file_options, page_count, seed_option

__all__ = ["cli", "main"]

# What follows the program's name is the program's.
_PROGRAM = {"allow_interspersed_args": False}


def _check_zpools(names: tuple[str, ...]) -> None:
    from zswap.zpools import parse_zpool

    for name in names:
        try:
            parse_zpool(name)
        except ValueError as error:
            raise Refusal(str(error)) from error


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
@file_options
@seed_option
@click.option(
    "--pages",
    callback=page_count,
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
    targets: Targets,
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
        check_compressors(compressors)
        _check_zpools(zpools)

        demonstrating = not targets and demonstration.is_called_for()

        def measure() -> measuring.Analysis:
            with contextlib.ExitStack() as stack:
                chosen = targets
                if demonstrating:
                    click.echo(
                        "no target named, and no process that may be read holds "
                        f"{demonstration.LEAST_BYTES >> 20} MiB:"
                        " measuring a demonstration",
                        err=True,
                    )
                    chosen = Targets(pids=(str(stack.enter_context(demonstration.running())),))
                progress = stack.enter_context(progress_bar())
                source = stack.enter_context(chosen.open(progress))
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
                if targets or not left:
                    raise
                click.echo("it has ended; taking the one that is the largest now", err=True)
        if demonstrating:
            analysis = replace(analysis, title=demonstration.TITLE, demonstration=True)

        tell(
            analysis,
            as_json=as_json,
            plot=plot,
            json_of=report.analysis_json,
            print_of=partial(report.print_analysis, everything=all_compressors, maps=maps),
            save_of=drawing.save,
        )


@cli.command(short_help="Write the pages of a target to a file.")
@file_options
@seed_option
@click.option(
    "--pages",
    callback=page_count,
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
    targets: Targets,
    pages: int | None,
    seed: int,
    output: str,
) -> None:
    """Write the pages of a target to a file, one after another, for `zswap analyze --file`."""
    with _plain_errors():
        from zswap import pages as reading
        from zswap.meminfo import format_bytes

        more = targets.more if targets.files or targets.cores else ()
        for path in (*targets.files, *targets.cores, *more):
            with contextlib.suppress(OSError, ValueError):
                if os.path.samefile(path, output):
                    raise Refusal(
                        f"{output} is the file whose pages are to be written; name another one"
                    )
        with progress_bar() as progress, targets.open(progress) as source:
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


cli.add_command(advise)
cli.add_command(bench)
cli.add_command(replay)


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


@cli.command("run", short_help="Run a program in less memory.", context_settings=_PROGRAM)
@click.option(
    "--budget",
    metavar="BYTES",
    required=True,
    help="What its large allocations may take, such as 2G: pages, pool and metadata.",
)
@click.option("--backing", metavar="FILE", help="Where the coldest pages go, encrypted.")
@click.option(
    "--limit",
    metavar="BYTES",
    help="The most that may be allocated: what the file has room for; without one, the budget.",
)
@click.option(
    "--min-size",
    metavar="BYTES",
    default="1M",
    show_default=True,
    help="The least allocation that counts as large.",
)
@click.option("--stats", metavar="SOCKET", help="Serve figures there, for `zswap top`.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED)
def run_program(
    budget: str,
    backing: str | None,
    limit: str | None,
    min_size: str,
    stats: str | None,
    as_json: bool,
    program: tuple[str, ...],
) -> int:
    """Run a program whose large allocations lie compressed when they are cold.

    What it and its children allocate of min-size or more, all together, takes no more memory than
    the budget. The exit code is the program's, or 128 and the number of the signal that ended it;
    a summary comes on standard error. See docs/memory.md.
    """
    from dataclasses import asdict

    from zswap import Error
    from zswap import program as running
    from zswap_core.amounts import parse_bytes

    try:
        least = parse_bytes(min_size)
        if least < 1:
            raise ValueError(f"min-size is {min_size}; at least 1 is needed")
        done = running.run(program, budget, backing, min_size=least, limit=limit, stats=stats)
    except running.NotRun as error:
        say(str(error))
        return error.code
    except (Error, ValueError, OSError) as error:
        raise Refusal(str(error)) from error
    if as_json:
        click.echo(json.dumps(asdict(done)), err=True)
    else:
        say(str(done))
    return done.code


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
