"""The command ``zswap advise``."""

from __future__ import annotations

import click

from zswap.shell import plain_errors, progress_bar, tell
from zswap.targets import Targets, page_count, process_options, seed_option

__all__ = ["advise"]

_LOOK_SECONDS = 8.0  # at processes, of the twenty that all may take


@click.command(short_help="Should this machine compress its memory, and how?")
@process_options
@seed_option
@click.option(
    "--pages",
    callback=page_count,
    metavar="N",
    default="8192",
    show_default=True,
    help="Pages to sample, or 'all'.",
)
@click.option(
    "--watch",
    type=click.FloatRange(0.1, 3600),
    metavar="SECONDS",
    help="See for so long which memory is touched: the cold is worth compressing.",
)
@click.option(
    "--no-zram",
    is_flag=True,
    help="As root, time no zram device of our own: take costs from a table.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--plot", metavar="PATH", help="Draw the advice to a .png, .svg or .pdf.")
def advise(
    targets: Targets,
    seed: int,
    pages: int | None,
    watch: float | None,
    no_zram: bool,
    as_json: bool,
    plot: str | None,
) -> None:
    """Advise whether this machine should use zswap or zram, how, what it gains and what it costs.

    A sample of all processes that may be read is measured, in less than twenty seconds: as root all
    of them, else your own. Nothing is stopped, swapped or changed; with --watch the kernel forgets
    which memory was touched lately, and takes it for colder for a while. As root a zram device is
    added, timed for a moment, and taken away again.
    """
    with plain_errors():
        from zswap import adviser
        from zswap import pages as reading
        from zswap import plot as drawing
        from zswap.adviser import picture, report
        from zswap.targets import open_pids

        if plot is not None:
            drawing.prepare(plot)

        with progress_bar() as progress:

            def open_source() -> reading.PageSource | None:
                if targets and not targets.everything:
                    return targets.open(progress)
                try:
                    pids, title = Targets(everything=True).pids_found()
                    return open_pids(pids, title, progress, seconds=_LOOK_SECONDS)
                except reading.SourceError:
                    return None  # an empty machine is no error

            found = adviser.look(
                open_source,
                pages=pages,
                seed=seed,
                watch=watch,
                zram=not no_zram,
                whole=not targets or targets.everything,
                progress=progress,
            )

        tell(
            found,
            as_json=as_json,
            plot=plot,
            json_of=report.advised_json,
            print_of=report.print_advised,
            save_of=picture.save,
        )
