"""``zswap bench``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from zswap.bench.corpora import CORPORA, DEFAULT, PAGE
from zswap.bench.rows import OURS, ROWS

if TYPE_CHECKING:
    from zswap.bench.corpora import Pages
    from zswap.bench.figures import Figure
    from zswap.bench.table import Corpus

__all__ = ["bench"]

_PAGES, _ROUNDS = 10_240, 5
_SMOKE_PAGES, _SMOKE_ROUNDS, _SMOKE_ENTRIES = 256, 1, (1_000, 2_000, 10_000)


def _chosen_rows(ctx: click.Context, param: click.Parameter, words: tuple[str, ...]) -> list[str]:
    """Return the rows in whose name one of the words is; all when there are none."""
    for word in words:
        if not any(word in name for name in ROWS):
            raise click.BadParameter(
                f"no row has {word!r} in its name; there are: {', '.join(ROWS)}"
            )
    return [name for name in ROWS if not words or any(word in name for word in words)]


def _pages_of(
    names: Sequence[str], files: Sequence[str], count: int, seed: int, missing: dict[str, str]
) -> Iterator[tuple[str, Pages]]:
    """Name and pages of each corpus, one at a time; why one is left out goes to `missing`."""
    from zswap.bench import corpora
    from zswap.pages import SourceError, printable

    for name in names:
        try:
            yield name, corpora.make(name, count, seed)
        except corpora.CorpusMissing as error:
            missing[name] = str(error)
    for path in files:
        try:
            yield printable(os.path.basename(path)), corpora.from_file(path, count, seed)
        except SourceError as error:  # it was there when we began
            missing[path] = str(error)


@click.command(short_help="Compare with the bare codec, other libraries and zram.")
@click.option(
    "--corpus",
    "names",
    type=click.Choice(list(CORPORA)),
    multiple=True,
    metavar="NAME",
    help=f"Pages to take: {', '.join(CORPORA)}; may be repeated.  {', '.join(DEFAULT)} unless "
    "given.",
)
@click.option(
    "--file", "files", metavar="PATH", multiple=True, help="Pages of this file; may be repeated."
)
@click.option(
    "--pages",
    type=click.IntRange(min=8),
    metavar="N",
    help=f"Pages of each; {_PAGES:,} unless given.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Of which the median counts; {_ROUNDS} unless given.",
)
@click.option(
    "--compressor",
    metavar="SPEC",
    default="lz4",
    show_default=True,
    help="For zswap, the bare codec and zram.",
)
@click.option(
    "--row",
    "rows",
    metavar="WORD",
    multiple=True,
    callback=_chosen_rows,
    help="Only rows with WORD in their name.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of made pages and random orders.",
)
@click.option(
    "--figures",
    "with_figures",
    is_flag=True,
    help="Measure what the project promises (of lz4 and zstd:1) instead.",
)
@click.option(
    "--check", is_flag=True, help="With --figures: exit with 1 when one of them does not hold."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
@click.option("--plot", metavar="PATH", help="Draw the table to a .png, .svg or .pdf.")
@click.option("--smoke", is_flag=True, help="As few pages and rounds as show that it works.")
def bench(
    names: tuple[str, ...],
    files: tuple[str, ...],
    pages: int | None,
    rounds: int | None,
    compressor: str,
    rows: list[str],
    seed: int,
    with_figures: bool,
    check: bool,
    as_json: bool,
    as_markdown: bool,
    plot: str | None,
    smoke: bool,
) -> None:
    """Store and load the same pages by this library, the bare codec, other libraries, and zram.

    Every row runs in a process of its own, and they take turns; one that cannot run is left out,
    and says why.  docs/bench.md says what each does.  The exit code is 1 when a row of this library
    fails.
    """
    if as_json and as_markdown:
        raise click.UsageError("--json and --markdown exclude each other")
    if check and not with_figures:
        raise click.UsageError("--check is for --figures")
    if check and smoke:
        raise click.UsageError(
            "--check and --smoke exclude each other: of so little nothing is judged"
        )
    if with_figures and plot is not None:
        raise click.UsageError("--plot draws the table; --figures has none")
    from zswap.bench import output
    from zswap.bench.table import measure
    from zswap.pages import open_files
    from zswap.plot import prepare
    from zswap.shell import Failure, printed_first
    from zswap_core.compressors.registry import open_compressor

    if plot is not None:
        prepare(plot)
    try:
        spec = open_compressor(compressor).spec
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--compressor") from error
    for path in files:
        open_files([path], page_size=PAGE).close()  # before anything is measured
    if not names and not files:
        names = ("process", "text") if smoke else DEFAULT
    count = pages or (_SMOKE_PAGES if smoke else _PAGES)
    rounds = rounds or (_SMOKE_ROUNDS if smoke else _ROUNDS)
    console = output.console()
    missing: dict[str, str] = {}
    corpora: list[Corpus] = []
    figures: list[Figure] = []

    def draw() -> None:
        if plot is not None and corpora:
            output.plot_corpora(corpora, plot, spec)
            click.echo(f"drawn: {plot}", err=True)

    if not as_json:
        click.echo(output.heading(spec, rounds))
    made = _pages_of(names, files, count, seed, missing)
    if with_figures:
        figures = _figures(dict(made), rounds, seed, smoke, missing)
    else:
        for name, taken in made:
            with output.progress() as progress:
                corpora.append(
                    measure(
                        name,
                        taken,
                        rows=rows,
                        rounds=rounds,
                        compressor=spec,
                        seed=seed,
                        progress=progress,
                    )
                )
            if not as_json:
                output.print_corpus(corpora[-1], console, as_markdown=as_markdown)
    with printed_first(draw):
        if as_json:
            report = output.to_json(
                compressor=spec,
                rounds=rounds,
                seed=seed,
                corpora=corpora,
                figures=figures,
                missing=missing,
            )
            click.echo(json.dumps(report, indent=1, allow_nan=False))
        elif with_figures:
            output.print_figures(figures, console, as_markdown=as_markdown)
        for name, why in missing.items():
            click.echo(f"{name}: left out; {why}", err=as_json)
    ours = [row for corpus in corpora for row in corpus.failed if row in OURS]
    broken = [figure.what for figure in figures if figure.holds is False]
    if ours:
        raise Failure(f"failed: {', '.join(dict.fromkeys(ours))}")
    if not corpora and not figures:
        raise Failure("nothing was measured")
    if check and broken:
        raise Failure(f"does not hold: {', '.join(broken)}")


def _figures(
    made: dict[str, Pages], rounds: int, seed: int, smoke: bool, missing: dict[str, str]
) -> list[Figure]:
    from zswap.bench import figures, output
    from zswap.bench.corpora import distinct

    pages = {name: distinct(taken) for name, taken in made.items()}
    pages = {name: taken for name, taken in pages.items() if len(taken)}
    if not pages:
        raise click.UsageError("--figures needs pages that are not same-filled; there are none")
    entries = _SMOKE_ENTRIES if smoke else figures.ENTRIES
    with output.progress() as progress:
        setting = figures.Setting(pages, rounds, entries, seed, lambda what: progress(0, 1, what))
        found = figures.figures(setting, missing=missing)
    return [replace(figure, judged=not smoke) for figure in found]
