"""From 10^4 to 10^7 pages held: what a store, a load, a replacement and a dropped range cost, and a
page's metadata.

Offsets are dense (0, 1, 2, ...) or sparse (one in each run of 64), used in order or at random.
Pages are such that lz4 makes about 100 bytes of each, so that 10^7 of them take 1.6 GiB: what is
measured is finding pages, more than compressing them.  10^7 entries take about half a minute for
each of the four ways.
"""

from __future__ import annotations

import json
import sys

import click

from zswap.bench.growth import SHAPES, grow
from zswap.bench.output import machine, plot_growth, print_growth, progress, to_json
from zswap.plot import prepare
from zswap.shell import printed_first, run


@click.command(help=__doc__)
@click.option(
    "--entries",
    type=click.IntRange(min=100),
    multiple=True,
    metavar="N",
    help="Pages to hold; may be repeated.",
)
@click.option(
    "--offsets",
    type=click.Choice(SHAPES),
    multiple=True,
    metavar="WAY",
    help=f"Of {'; '.join(SHAPES)}.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Of loads and replacements.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
@click.option("--plot", metavar="PATH", help="Draw it to a .png, .svg or .pdf.")
@click.option("--smoke", is_flag=True, help="As few entries as show that it works.")
def main(
    entries: tuple[int, ...],
    offsets: tuple[str, ...],
    rounds: int,
    seed: int,
    as_json: bool,
    as_markdown: bool,
    plot: str | None,
    smoke: bool,
) -> None:
    sizes = entries or ((1000, 5000) if smoke else (10_000, 100_000, 1_000_000, 10_000_000))
    shapes = offsets or SHAPES
    if plot is not None:
        prepare(plot)
    points = []
    with progress() as tell:
        for shape in shapes:
            for count in sizes:
                tell(len(points), len(shapes) * len(sizes), f"{shape}, {count:,} entries")
                points.append(grow(shape, count, rounds=rounds, seed=seed))

    def draw() -> None:
        if plot is not None:
            plot_growth(points, plot)
            click.echo(f"drawn: {plot}", err=True)

    with printed_first(draw):
        if as_json:
            click.echo(
                json.dumps(
                    to_json(compressor="lz4", rounds=rounds, seed=seed, growth=points), indent=1
                )
            )
        else:
            click.echo(
                f"{machine()}; lz4, pages of about 100 bytes compressed, median of {rounds} "
                "rounds\n"
            )
            print_growth(points, as_markdown=as_markdown)


if __name__ == "__main__":
    sys.exit(run(main, name="scaling.py"))
