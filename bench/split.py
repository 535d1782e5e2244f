"""How a `zswap.Memory` divides its budget: by what faults cost, against fixed shares of the pool.

Each share is a process of its own, in which one workload follows the other, each warmed up first:
reads at random, Zipf's (0.99), the same with a fifth writes, a hot set of three quarters of the
budget, and in order.  A touch reads or writes one word of a page; the figure is the mean of all,
resident pages included.  The last column is the division that moves over the best fixed share.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
from memory import contents

import zswap
from zswap.bench.output import Column, machine, print_table, progress
from zswap.meminfo import format_bytes, parse_bytes
from zswap.shell import run

PAGE = 4096
AUTO = "auto"
WORKLOADS = ("random", "Zipf", "Zipf, 1/5 writes", "hot set", "in order")


def plan(name: str, budget: int, pages: int, touches: int) -> tuple[np.ndarray, np.ndarray]:
    """Which pages are touched, and which of the touches are writes."""
    rng = np.random.default_rng(1)
    writes = rng.random(touches) < (0.2 if "writes" in name else 0)
    if name == "random":
        return rng.integers(0, pages, touches), writes
    if name == "hot set":
        hot = rng.permutation(pages)[: budget * 3 // 4 // PAGE]
        return rng.choice(hot, touches), writes
    if name == "in order":
        return np.arange(touches) % pages, writes
    weights = np.cumsum(np.arange(1, pages + 1) ** -0.99)
    ranks = np.searchsorted(weights / weights[-1], rng.random(touches))
    return rng.permutation(pages)[ranks], writes


def touch(words: np.ndarray, which: np.ndarray, writes: np.ndarray) -> float:
    """Nanoseconds a touch."""
    start = time.perf_counter_ns()
    for page, write in zip(which.tolist(), writes.tolist(), strict=True):
        if write:
            words[page, 77] += 1
        else:
            words[page, 77]
    return (time.perf_counter_ns() - start) / len(which)


def measure(share: str, budget: int, times: float, touches: int, folder: str) -> dict[str, float]:
    """Nanoseconds a touch, by workload."""
    pages = int(budget * times) // PAGE
    fixed = None if share == AUTO else float(share)
    with tempfile.TemporaryDirectory(dir=folder) as where:
        mem = zswap.Memory(budget, Path(where, "spill"), pool_share=fixed)
        words = mem.empty((pages, PAGE // 8), np.uint64)
        for first, some in contents(pages):
            words[first : first + len(some)] = some.view(np.uint64)
        took = {}
        for name in WORKLOADS:
            which, writes = plan(name, budget, pages, 2 * touches)
            touch(words, which[:touches], writes[:touches])
            took[name] = touch(words, which[touches:], writes[touches:])
    return took


def apart(share: str, options: list[str]) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--one", share, *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)}: exit code {done.returncode}")
    took: dict[str, float] = json.loads(done.stdout)
    return took


@click.command(help=__doc__)
@click.option("--budget", default="64MiB", show_default=True)
@click.option("--times", type=float, multiple=True, help="The data over it.  [default: 2, 3]")
@click.option("--share", type=click.FloatRange(0.05, 0.85), multiple=True, help="Fixed ones.")
@click.option("--touches", type=click.IntRange(min=1000), default=100_000, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--folder", type=click.Path(exists=True, file_okay=False), default=".")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
@click.option("--smoke", is_flag=True, help="As little as shows that it works.")
@click.option("--one", hidden=True)
def main(
    budget: str,
    times: tuple[float, ...],
    share: tuple[float, ...],
    touches: int,
    rounds: int,
    folder: str,
    as_json: bool,
    as_markdown: bool,
    smoke: bool,
    one: str | None,
) -> None:
    size = parse_bytes(budget)
    if one is not None:
        click.echo(json.dumps(measure(one, size, times[0], touches, folder)))
        return
    shares = [AUTO, *map(str, share or (0.15, 0.35, 0.6, 0.8))]
    if smoke:
        size, touches, rounds, shares, times = parse_bytes("16MiB"), 1000, 1, shares[:2], (2.0,)
    rows: list[dict[str, Any]] = []
    with progress() as tell:
        for factor in times or (2.0, 3.0):
            took: dict[str, list[dict[str, float]]] = {name: [] for name in shares}
            for done in range(rounds):
                for name in shares:
                    tell(done, rounds, f"{factor:g} times the budget, {name}")
                    options = [f"--budget={size}", f"--times={factor}", f"--touches={touches}"]
                    took[name].append(apart(name, [*options, f"--folder={folder}"]))
            for workload in WORKLOADS:
                ns = {name: median(each[workload] for each in took[name]) for name in shares}
                best = min(value for name, value in ns.items() if name != AUTO)
                rows.append(
                    {"times": factor, "workload": workload, "ns": ns, "over best": ns[AUTO] / best}
                )
    if as_json:
        click.echo(json.dumps({"budget": size, "rounds": rounds, "rows": rows}))
        return
    columns = [Column("", "data"), Column("", "workload"), *(Column("ns", name) for name in shares)]
    columns.append(Column("", "over best"))
    grid = [
        [
            f"{row['times']:g} x",
            str(row["workload"]),
            *(f"{value:.0f}" for value in row["ns"].values()),
            f"{row['over best']:.2f} x",
        ]
        for row in rows
    ]
    click.echo(f"{machine()}; a budget of {format_bytes(size)}, median of {rounds}\n")
    print_table(columns, grid, as_markdown=as_markdown)


if __name__ == "__main__":
    sys.exit(run(main, name="split.py"))
