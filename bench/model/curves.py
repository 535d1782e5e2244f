"""How many pages a second up to 64 threads store and load: a model, fed with what was measured.

inputs.json has, for one thread and by build, what a page takes outside of the locks, which locks it
takes and how long each is held (measure.py).  The rest is reckoned: queues.py says how, and what it
leaves out.  What a lock takes from one processor to another cannot be measured on a single core; it
is assumed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import click

sys.path.insert(0, str(Path(__file__).resolve().parent))
from queues import Lock, linear_up_to, simulate

from zswap.bench.output import Column, print_table, progress
from zswap.plot import FAINT, INK, head, panels, prepare, save_picture, settings
from zswap.shell import run

INPUTS = Path(__file__).with_name("inputs.json")
THREADS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
SHARDS = 256  # of many: 16 GiB
CODECS = (1200.0, 4000.0)
TRANSFER_NS = 100.0
INSIDE = {"arena": "class", "slab": "class"}  # what is taken while another is held
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
LINES = ("-.", "--", "-")  # of builds, the last as it is now
LINEAR = ":"


class Scene(NamedTuple):
    """What threads do: a call of measure.py, in so many shards, with a codec or without."""

    title: str
    call: str
    shards: int
    codec: bool = True
    changed: bool = True  # from build to build; else only the last is shown


SCENES = (
    Scene("stores in order, one shard", "store in order", 1),
    Scene(f"stores at random, {SHARDS} shards", "store at random", SHARDS),
    Scene(f"stores of raw pages, {SHARDS} shards", "store raw", SHARDS),
    Scene("same-filled stores, one shard", "store same-filled", 1, codec=False),
    Scene("loads in order, one shard", "load in order", 1, changed=False),
    Scene(f"loads at random, {SHARDS} shards", "load at random", SHARDS, changed=False),
)


def builds_drawn(builds: list[str]) -> list[tuple[str, str, str]]:
    """The legend of the lines: name, line and colour of each."""
    lines = [LINES[number - len(builds)] for number in range(len(builds))]
    return [
        *((name, line, FAINT) for name, line in zip(builds, lines, strict=True)),
        ("linear", LINEAR, FAINT),
    ]


def codecs_drawn(_: list[str]) -> list[tuple[str, str, str]]:
    """The legend of the colours."""
    names = [*(f"{ns / 1000:g} µs codec" for ns in CODECS), "no codec"]
    return [(name, "-", colour) for name, colour in zip(names, COLOURS, strict=False)]


LEGENDS = {SCENES[4]: builds_drawn, SCENES[5]: codecs_drawn}  # where there is room for one


def locks_of(inputs: dict[str, Any], build: str, scene: Scene) -> list[Lock]:
    """The locks that a page of the scene takes."""
    many = inputs["class_shares"] if scene.call != "store raw" else [1.0]
    shares = {"shard": [1.0] * scene.shards, "class": many}
    rows = inputs["builds"][build][scene.call]["locks"]
    return [
        Lock(
            kind,
            row["per_page"],
            row["held_ns"],
            shares.get(kind, [1.0]),
            INSIDE.get(kind, "") if INSIDE.get(kind) in rows else "",
        )
        for kind, row in rows.items()
    ]


def curve(
    inputs: dict[str, Any],
    build: str,
    scene: Scene,
    codec_ns: float,
    transfer_ns: float,
    threads: tuple[int, ...],
    pages: int,
) -> dict[int, float]:
    """Pages a second by threads."""
    outside = inputs["builds"][build][scene.call]["outside_ns"] + codec_ns
    locks = locks_of(inputs, build, scene)
    return {n: simulate(outside, locks, n, transfer_ns=transfer_ns, pages=pages) for n in threads}


def draw(rows: list[dict[str, Any]], path: str, transfer_ns: float, where: str) -> None:
    """Draw the curves, a panel for each scene."""
    from matplotlib.lines import Line2D

    with settings():
        picture, drawn = panels(2, 3)
        builds = list(dict.fromkeys(row["build"] for row in rows))
        for axes, scene in zip(drawn.flat, SCENES, strict=True):
            for row in rows:
                if row["scene"] != scene.title:
                    continue
                threads = [int(n) for n in row["rates"]]
                rates = [rate / 1e6 for rate in row["rates"].values()]
                colour = COLOURS[CODECS.index(row["codec_ns"]) if row["codec_ns"] else 2]
                line = LINES[builds.index(row["build"]) - len(builds)]
                axes.plot(threads, rates, line, color=colour)
                if row["build"] == builds[-1]:
                    linear = [rates[0] * n for n in threads]
                    axes.plot(threads, linear, LINEAR, color=colour, linewidth=1)
            axes.set_title(scene.title, fontsize=12, color=INK, loc="left")
            axes.set_xlim(0, max(THREADS))
            top = max(max(r["rates"].values()) for r in rows if r["scene"] == scene.title) / 1e6
            keys = LEGENDS.get(scene, lambda _: [])(builds)
            axes.set_ylim(0, (1.7 if keys else 1.15) * top)
            if keys:
                lines = [Line2D([], [], linestyle=line, color=colour) for _, line, colour in keys]
                names = [name for name, _, _ in keys]
                axes.legend(
                    lines, names, frameon=False, fontsize=9, labelcolor=FAINT, loc="upper left"
                )
        for axes in drawn[1]:
            axes.set_xlabel("threads", color=INK)
        for axes in drawn[:, 0]:
            axes.set_ylabel("million pages a second", color=INK)
        head(
            picture,
            "Up to 64 threads: a model, fed with one thread's locks",
            f"Measured: holds and the rest of a page, one thread.  Assumed: {transfer_ns:g} ns to "
            f"move a lock.  Reckoned: all else.\n{where}",
        )
    save_picture(picture, path)


@click.command(help=__doc__)
@click.option("--inputs", type=click.Path(path_type=Path, exists=True), default=INPUTS)
@click.option("--build", "builds", multiple=True, help="Of those in the inputs.  [default: all]")
@click.option("--transfer-ns", type=click.FloatRange(min=0), default=TRANSFER_NS, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
@click.option("--plot", metavar="PATH", help="Draw it to a .png, .svg or .pdf.")
@click.option("--smoke", is_flag=True, help="As little as shows that it works.")
def main(
    inputs: Path,
    builds: tuple[str, ...],
    transfer_ns: float,
    as_json: bool,
    as_markdown: bool,
    plot: str | None,
    smoke: bool,
) -> None:
    if plot is not None:
        prepare(plot)
    found = json.loads(inputs.read_text())
    threads, pages = ((1, 8), 500) if smoke else (THREADS, 8000)
    builds = builds or tuple(found["builds"])
    if unknown := [build for build in builds if build not in found["builds"]]:
        raise click.BadParameter(f"{inputs.name} has no {unknown[0]!r}", param_hint="--build")
    rows = []
    todo = [
        (scene, codec, build)
        for scene in SCENES
        for codec in (CODECS if scene.codec else (0.0,))
        for build in (builds if scene.changed else builds[-1:])
    ]
    with progress() as tell:
        for done, (scene, codec, build) in enumerate(todo):
            tell(done, len(todo), scene.title)
            rates = curve(found, build, scene, codec, transfer_ns, threads, pages)
            rows.append(
                {"scene": scene.title, "codec_ns": codec, "build": build, "rates": rates}
                | {"linear_up_to": linear_up_to(rates)}
            )
    if plot is not None:
        draw(rows, plot, transfer_ns, found["machine"])
        click.echo(f"drawn: {plot}", err=True)
    if as_json:
        click.echo(json.dumps({"transfer_ns": transfer_ns, "rows": rows}))
        return
    shown = [n for n in (1, 8, 24, 64) if n in threads]
    columns = [
        Column("", title)
        for title in (
            "threads that",
            "codec µs",
            "build",
            *(f"{n}: M pages/s" for n in shown),
            "80 % of linear up to",
        )
    ]
    grid = [
        [
            row["scene"],
            f"{row['codec_ns'] / 1000:g}" if row["codec_ns"] else "",
            row["build"],
            *(f"{row['rates'][n] / 1e6:.2f}" for n in shown),
            str(row["linear_up_to"]),
        ]
        for row in rows
    ]
    click.echo(f"{found['machine']}; {transfer_ns:g} ns to move a lock assumed\n")
    print_table(columns, grid, as_markdown=as_markdown)


if __name__ == "__main__":
    sys.exit(run(main, name="curves.py"))
