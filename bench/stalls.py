"""Stores and loads beside maintenance: how long the slowest takes while something goes over all.

Threads store pages in place and load what they stored, in small batches, while each verb of
maintenance runs in turn; the engine's own clock times every page, so waits for Python do not count.
The first row is the same threads beside one that only computes, for as long: what a busy machine
does to a thread is in all rows.  It is not in *asleep*: the longest that a batch of 256 was neither
running nor ready to run inside the engine, by the kernel's account of the thread: it waited for
others or for the disk.  Medians of the rounds.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import click
import numpy as np

import zswap
from zswap.bench.output import Column, machine, print_table, progress
from zswap.shell import run

PAGE = 4096
BATCH = 256  # pages that a thread stores, and then loads
CHUNK = 16384  # pages that are made and stored at a time to fill an engine
FEW = 4096  # pages that go to the file in one run, at most
ALONE = "a thread that computes"
COLUMNS = [
    Column("", "beside"),
    Column("", "seconds"),
    *(
        Column(call, name)
        for call in ("store µs", "load µs")
        for name in ("p99.9", "max", "over alone", "asleep")
    ),
]


class Verb(NamedTuple):
    """What runs beside the threads, and what must be done before each time."""

    name: str
    run: Callable[[], object]
    prepare: Callable[[], object] = lambda: None


def pages_of(seed: int, count: int) -> np.ndarray:
    """Pages that compress to about a hundred bytes, all different."""
    pages = np.zeros((count, PAGE // 8), np.uint64)
    pages[:, :8] = np.random.default_rng(seed).integers(1 << 62, size=(count, 8), dtype=np.uint64)
    return pages.view(np.uint8)


def fill(z: zswap.ZSwap, first: int, count: int, *, swap_type: int = 0) -> None:
    for at in range(first, first + count, CHUNK):
        part = min(CHUNK, first + count - at)
        z.store_many(range(at, at + part), pages_of(at, part), swap_type=swap_type)


def touch(z: zswap.ZSwap, pages: int) -> None:
    """Load every page, so that all have been referenced."""
    out = np.empty((CHUNK, PAGE), np.uint8)
    for at in range(0, pages, CHUNK):
        part = min(CHUNK, pages - at)
        z.load_many(range(at, at + part), out[:part])


class Asleep:
    """How long a thread's batches wait: what the engine took less what the thread ran, or was
    ready to."""

    def __init__(self) -> None:
        self.ns = np.empty(BATCH, np.uint32)
        self.most = dict.fromkeys(("store", "load"), 0)
        self.fd = os.open("/proc/thread-self/schedstat", os.O_RDONLY)

    def awake(self) -> int:
        """Nanoseconds that the thread has run, or waited for a processor."""
        return time.thread_time_ns() + int(os.pread(self.fd, 64, 0).split()[1])

    def call(self, name: str, batch: Callable[..., object], *args: object) -> None:
        before = self.awake()
        batch(*args, ns=self.ns)
        spent = int(self.ns.sum(dtype=np.uint64)) - (self.awake() - before)
        self.most[name] = max(self.most[name], spent)

    def close(self) -> None:
        os.close(self.fd)


class Workers:
    """Threads that store pages in place at random, and load some of those stored before."""

    def __init__(self, z: zswap.ZSwap, pages: int, threads: int) -> None:
        self.z, self.pages = z, pages
        self.over = threading.Event()
        self.asleep = dict.fromkeys(("store", "load"), 0)
        self.threads = [threading.Thread(target=self.work, args=(n,)) for n in range(threads)]

    def work(self, number: int) -> None:
        rng = np.random.default_rng(number)
        some, out = pages_of(1 << 40 | number, BATCH), np.empty((BATCH, PAGE), np.uint8)
        offsets = rng.integers(self.pages, size=BATCH, dtype=np.uint64)
        asleep = Asleep()
        while not self.over.is_set():
            # what is loaded is young, so none of it is read from the file
            stored, offsets = offsets, rng.integers(self.pages, size=BATCH, dtype=np.uint64)
            asleep.call("store", self.z.store_many, offsets, some)
            asleep.call("load", self.z.load_many, stored, out)
        asleep.close()
        for call, most in asleep.most.items():
            self.asleep[call] = max(self.asleep[call], most)

    def __enter__(self) -> Workers:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()


def measure(z: zswap.ZSwap, verb: Verb, pages: int, threads: int, least: float) -> dict[str, float]:
    """Run a verb beside the threads for some time, or once where it takes longer."""
    seconds, worst = 0.0, dict.fromkeys(("store", "load"), 0)
    asleep = worst.copy()
    counts: dict[str, Any] = {}
    runs = 0
    while seconds < least and runs < 10:
        verb.prepare()
        with Workers(z, pages, threads) as workers:
            time.sleep(0.01)
            z.latency(reset=True)
            start = time.perf_counter()
            verb.run()
            seconds += time.perf_counter() - start
            took = z.latency()
        for call, latency in took.items():
            worst[call] = max(worst[call], latency.max)
            counts[call] = np.add(counts.get(call, 0), latency.counts)
        for call, most in workers.asleep.items():
            asleep[call] = max(asleep[call], most)
        runs += 1
    got = {"seconds": seconds / runs}
    for call, longest in worst.items():
        latency = zswap.Latency(tuple(map(int, counts[call])), 0, longest)
        got[f"{call} p99.9"] = latency.percentile(99.9) / 1000
        got[f"{call} max"] = longest / 1000
        got[f"{call} asleep"] = asleep[call] / 1000
    return got


@contextmanager
def opened(pages: int, path: Path) -> Any:
    """An engine with so many pages over a swap file, nothing of it written yet."""
    file = zswap.SwapFile(path, 2 * pages * PAGE)
    with (
        file,
        zswap.ZSwap(
            "lz4",
            max_pool_bytes=pages * 1024,
            backing=file,
            shrinker_enabled=False,
            shrinker_interval=3600,
            promote="never",
            latency=True,
        ) as z,
    ):
        fill(z, 0, pages)
        yield z


def verbs(z: zswap.ZSwap, pages: int, least: float) -> list[Verb]:
    """Every verb of maintenance, over an engine with so many pages."""
    memory, part = bytes(1 << 20), max(pages // 8, 1)
    others: list[zswap.ZSwap] = []

    def compute() -> None:
        end = time.perf_counter() + least
        while time.perf_counter() < end:
            for _ in range(8):
                zlib.crc32(memory)

    def punch() -> None:
        """Free every second page of a quarter, so that there is something to move."""
        fill(z, pages, 2 * part)
        z.invalidate_many(np.arange(pages, pages + 2 * part, 2, dtype=np.uint64))

    def switch() -> None:
        for compressor, zpool in (("zstd:1", "zsmalloc"), ("lz4", "zbud"), ("lz4", "zsmalloc")):
            z.compressor, z.zpool = compressor, zpool
            time.sleep(least / 10)

    def limit() -> None:
        before = z.parameters["max_pool_bytes"]
        z.parameters["max_pool_bytes"] = z.stats().pool_total_size * 63 // 64
        time.sleep(least / 4)
        z.parameters["max_pool_bytes"] = before

    def another() -> None:
        y = zswap.ZSwap("lz4", max_pool_bytes=pages * 1024)
        fill(y, 0, 2 * part)
        others.append(y)

    def area() -> None:
        z.swapon(1)
        fill(z, 0, part, swap_type=1)

    def areas() -> None:
        for number in range(1, 21):
            z.swapon(number)
        for number in range(1, 21):
            z.swapoff(number)

    few = min(FEW, part)
    return [
        Verb(ALONE, compute),
        Verb("shrink(64), all referenced", lambda: z.shrink(64), lambda: touch(z, pages)),
        Verb(f"shrink({few})", lambda: z.shrink(few)),
        Verb("shrink, none idle", lambda: z.shrink(few, idle_seconds=86400)),
        Verb("compact, half of a quarter free", z.compact, punch),
        Verb("compact, nothing to move", z.compact, z.compact),
        Verb(f"recompress, {few} pages", lambda: z.recompress("zstd:1", max_pages=few)),
        Verb("switch of compressor and zpool", switch),
        Verb("swapoff, an eighth", lambda: z.swapoff(1), area),
        Verb("swapon, swapoff, 20 areas", areas),
        Verb(
            "invalidate_range, a quarter",
            lambda: z.invalidate_range(pages, pages + 2 * part),
            lambda: fill(z, pages, 2 * part),
        ),
        Verb("a lower limit", limit),
        Verb("stats", lambda: [(z.stats(), z.pools()) for _ in range(100)]),
        Verb("iteration", lambda: sum(1 for _ in z)),
        Verb("another engine closes", lambda: others.pop().close(), another),
    ]


def table(rounds: list[dict[str, dict[str, float]]]) -> list[dict[str, Any]]:
    """Medians of the rounds, a row for each verb."""
    rows: list[dict[str, Any]] = []
    for name in rounds[0]:
        rows.append(
            {"beside": name}
            | {key: median(r[name][key] for r in rounds) for key in rounds[0][name]}
        )
    for row in rows:
        for call in ("store", "load"):
            row[f"{call} over alone"] = row[f"{call} max"] - rows[0][f"{call} max"]
    return rows


@click.command(help=__doc__)
@click.option(
    "--pages",
    type=click.IntRange(min=4096),
    default=1_000_000,
    show_default=True,
    help="Held. Ten million take 2 GB of memory.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=max((os.cpu_count() or 2) - 1, 1),
    show_default="one a CPU, less one",
    help="That store and load.",
)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--seconds",
    "least",
    type=click.FloatRange(min=0.01),
    default=1,
    show_default=True,
    help="A verb runs at least, up to ten times.",
)
@click.option("--verb", "words", multiple=True, metavar="WORD", help="Only these verbs.")
@click.option(
    "--folder", type=click.Path(exists=True, file_okay=False), help="Where the file is made."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
@click.option("--smoke", is_flag=True, help="As little as shows that it works.")
def main(
    pages: int,
    threads: int,
    rounds: int,
    least: float,
    words: tuple[str, ...],
    folder: str | None,
    as_json: bool,
    as_markdown: bool,
    smoke: bool,
) -> None:
    if smoke:
        pages, threads, rounds, least = 4096, 1, 1, 0.01
    done = []
    with (
        tempfile.TemporaryDirectory(prefix="zswap-stalls.", dir=folder) as inside,
        opened(pages, Path(inside) / "swap") as z,
        progress() as tell,
    ):
        chosen = [
            verb
            for verb in verbs(z, pages, least)
            if not words or verb.name == ALONE or any(word in verb.name for word in words)
        ]
        for number in range(rounds):
            found = {}
            for at, verb in enumerate(chosen):
                tell(number * len(chosen) + at, rounds * len(chosen), verb.name)
                found[verb.name] = measure(z, verb, pages, threads, least)
            done.append(found)
    rows = table(done)
    if as_json:
        click.echo(json.dumps({"pages": pages, "threads": threads, "rounds": done, "rows": rows}))
        return
    keys = [
        f"{call} {what}"
        for call in ("store", "load")
        for what in ("p99.9", "max", "over alone", "asleep")
    ]
    grid = [
        [row["beside"], f"{row['seconds']:.4f}", *(f"{row[key]:.1f}" for key in keys)]
        for row in rows
    ]
    click.echo(f"{machine()}; lz4, {pages:,} pages, {threads} threads, median of {rounds}\n")
    print_table(COLUMNS, grid, as_markdown=as_markdown)


if __name__ == "__main__":
    sys.exit(run(main, name="stalls.py"))
