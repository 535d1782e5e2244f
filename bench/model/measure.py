"""What the model of locks goes by, measured: writes it to inputs.json under a name.

Run it twice under one name: in a build with ZSWAP_LOCK_STATS=1, which says how often a page takes
each lock and for how long, and in an ordinary build, which says what a page takes in all; the rest
is outside of the locks.  One thread, pages of bench/engine.py, whose codec does nothing; the model
adds a codec's time.  CPU time, so what else the machine does counts as little as can be.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import engine
import locks

import zswap
from zswap.bench.output import machine
from zswap.shell import run

INPUTS = Path(__file__).with_name("inputs.json")
PAGES = 65536
BATCHES = PAGES // engine.BATCH
CLOCK_NS = 20.0  # that reading the clock adds to each hold
CLASS_BYTES = 16  # what sizes of objects are rounded up to
LEAST = 0.002  # visits a page; what is rarer is left out
LEAST_NS = 5.0  # no hold is shorter
INSIDE = {"arena": "class", "slab": "class"}  # what is taken while another is held


def calls(z: zswap.ZSwap, drawn: np.ndarray) -> dict[str, Callable[[int], object]]:
    """By name: what is done with a batch of that number; BATCHES of them are all pages."""
    rng = np.random.default_rng(1)
    batches = [engine.pages_of(engine.BATCH, drawn, rng) for _ in range(4)]
    raw = [engine.pages_of(engine.BATCH, np.array([engine.PAGE], np.uint16), rng)]
    same = np.full((engine.BATCH, engine.PAGE), 7, np.uint8)
    out = np.empty((engine.BATCH, engine.PAGE), np.uint8)
    order = np.arange(PAGES, dtype=np.uint64).reshape(BATCHES, engine.BATCH)
    mixed = rng.permutation(order.ravel()).reshape(BATCHES, engine.BATCH)
    return {
        "store in order": lambda n: z.store_many(order[n], batches[n % 4]),
        "store at random": lambda n: z.store_many(mixed[n], batches[n % 4]),
        "load in order": lambda n: z.load_many(order[n], out),
        "load at random": lambda n: z.load_many(mixed[n], out),
        "store raw": lambda n: z.store_many(order[n], raw[0]),
        "store same-filled": lambda n: z.store_many(order[n], same),
    }


def cpu_ns(call: Callable[[int], object], number: int) -> float:
    began = time.thread_time_ns()
    call(number)
    return (time.thread_time_ns() - began) / engine.BATCH


def counted(call: Callable[[int], object], tick: float, rounds: int) -> dict[str, Any]:
    """A page's locks.  Medians of a round's batches, for one that is interrupted holds them for
    long; of several rounds the least."""
    taken: dict[str, list[float]] = {}
    least: dict[str, float] = {}
    for _ in range(rounds):
        held: dict[str, list[float]] = {}
        for number in range(BATCHES):
            locks.reset()
            call(number)
            for kind, row in locks.census(tick).items():
                taken.setdefault(kind, []).append(row["taken"] / engine.BATCH)
                held.setdefault(kind, []).append(row["held"] / row["taken"])
        for kind, ns in held.items():
            least[kind] = min(median(ns), least.get(kind, median(ns)))
    return {
        kind: {
            "per_page": round(sum(visits) / (rounds * BATCHES), 4),
            "held_ns": round(max(least[kind] - CLOCK_NS, LEAST_NS), 1),
        }
        for kind, visits in sorted(taken.items())
        if sum(visits) > LEAST * rounds * BATCHES
    }


def held_ns(found: dict[str, Any]) -> float:
    """What a page spends within locks."""
    return sum(
        row["per_page"] * row["held_ns"]
        for kind, row in found["locks"].items()
        if INSIDE.get(kind) not in found["locks"]
    )


@click.command(help=__doc__)
@click.argument("name")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--inputs", type=click.Path(path_type=Path), default=INPUTS, show_default="beside it")
def main(name: str, rounds: int, inputs: Path) -> None:
    counting = bool(locks.libraries())
    tick = locks.tick_ns() if counting else 0.0
    everything = json.loads(inputs.read_text()) if inputs.exists() else {"builds": {}}
    build = everything["builds"].setdefault(name, {})
    with tempfile.TemporaryDirectory() as folder:
        engine.register(Path(folder))
        drawn = engine.lengths(0)
        with zswap.ZSwap("nothing", max_pool_bytes=2 * PAGES * engine.PAGE) as z:
            todo = calls(z, drawn)
            for number in range(BATCHES):
                todo["store in order"](number)
            for what, call in todo.items():
                for number in range(BATCHES):
                    call(number)  # in place of what the one before left
                found = build.setdefault(what, {})
                if counting:
                    found["locks"] = counted(call, tick, rounds)
                else:
                    took = [median(cpu_ns(call, n) for n in range(BATCHES)) for _ in range(rounds)]
                    found["page_ns"] = round(min(took), 1)
                if "page_ns" in found and "locks" in found:
                    found["outside_ns"] = round(max(found["page_ns"] - held_ns(found), 1.0), 1)
    _, counts = np.unique(-(-drawn.astype(int) // CLASS_BYTES), return_counts=True)
    everything["class_shares"] = [round(float(n), 4) for n in np.sort(counts / counts.sum())[::-1]]
    everything["machine"] = machine()
    inputs.write_text(json.dumps(everything, indent=1) + "\n")
    click.echo(f"{name}: {'locks' if counting else 'times'} in {inputs}")


if __name__ == "__main__":
    sys.exit(run(main, name="measure.py"))
