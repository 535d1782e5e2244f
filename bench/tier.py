"""A pool in front of a file: how near stores and loads come to what disk and pool do by themselves.

Distinct pages of a process are stored in a full pool of 16 MiB with a swap file below it, read back
in order and at random, and a few of them over and over; then the same with a packed file.  What the
disk can is measured beside it, round by round, on a file of its own with O_DIRECT: as many bytes in
requests of 1 MiB, and single pages with 32 requests in flight.  These come last, and a pause after
them: a disk that others share writes at half its speed for some seconds then.  Figures are ratios;
the file needs twice the pages' size of disk.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import click
import numpy as np

import zswap
from zswap.bench import corpora
from zswap.bench.output import Column, machine, print_table, progress
from zswap.shell import run

MIB = 1 << 20
PAGE = corpora.PAGE
DEPTH = 32  # requests in flight, of the disk's own loop
RANDOM = 500  # pages in a batch at random
PAUSE = 8  # seconds after each round
HOT = 200  # pages that are read over and over
COLUMNS = [Column("", title) for title in ("", "measured", "bound", "zswap", "beside it")]


class Row(NamedTuple):
    """One figure of the table: a ratio or a time, what it should be, and what it was made of."""

    name: str
    value: float
    bound: str
    ours: str
    beside: str


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def touched(pages: corpora.Pages) -> corpora.Pages:
    """Memory for as many pages, which the system has given: what the first touch of it costs is
    neither the disk's nor ours, and was more than both on a virtual machine."""
    out = np.empty_like(pages)
    out.fill(1)
    return out


# ---- the disk by itself --------------------------------------------------------------------------


class Disk:
    """A file as large as the pages, read and written with O_DIRECT."""

    def __init__(self, path: Path, size: int) -> None:
        self.size = size // MIB * MIB
        self.slowest = 0.0  # of the writes, seconds
        flags = os.O_RDWR | os.O_CREAT
        try:
            self.fd = os.open(path, flags | os.O_DIRECT, 0o600)
        except OSError:  # as a SwapFile, it makes do without
            self.fd = os.open(path, flags, 0o600)
        self.memory = mmap.mmap(-1, MIB)

    def write(self, pages: corpora.Pages) -> float:
        """Write the pages, whole MiB; returns bytes a second."""
        flat = pages.reshape(-1)

        def all_of_it() -> None:
            for at in range(0, self.size, MIB):
                self.memory[:] = flat[at : at + MIB].tobytes()
                one = seconds(lambda at=at: os.pwritev(self.fd, [self.memory], at))
                self.slowest = max(self.slowest, one)

        os.ftruncate(self.fd, 0)  # a swap file is sparse at first, too
        return self.size / seconds(all_of_it)

    def read(self) -> float:
        def all_of_it() -> None:
            for at in range(0, self.size, MIB):
                os.preadv(self.fd, [self.memory], at)

        return self.size / seconds(all_of_it)

    def read_at_random(self, offsets: np.ndarray) -> float:
        """Read single pages with DEPTH requests in flight; returns pages a second."""

        def some(mine: list[int]) -> None:
            memory = mmap.mmap(-1, PAGE)
            for at in mine:
                os.preadv(self.fd, [memory], at)

        places = (offsets % (self.size // PAGE) * PAGE).tolist()
        threads = [
            threading.Thread(target=some, args=(places[first::DEPTH],)) for first in range(DEPTH)
        ]

        def all_of_it() -> None:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        return len(places) / seconds(all_of_it)

    def close(self) -> None:
        os.close(self.fd)


# ---- one round -----------------------------------------------------------------------------------


def single_loads(z: zswap.ZSwap, offsets: list[int]) -> float:
    """Seconds that a load of each takes, one by one."""
    out = np.empty(PAGE, np.uint8)

    def each() -> None:
        for offset in offsets:
            z.load(offset, out)

    return seconds(each) / len(offsets)


def steady(
    z: zswap.ZSwap, pages: corpora.Pages, first: int, last: int, most: float
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of each of the single stores into the full pool that fit into `most` seconds; and the
    same without what the thread was ready to run and the system did not let it."""
    took, ready, count = [], [], last - first
    with open("/proc/thread-self/schedstat", "rb", buffering=0) as account:
        end = time.perf_counter() + most
        at = i = 0
        while at < end:
            page, offset = pages[i % len(pages)], first + i % count
            start = time.perf_counter()
            z.store(offset, page)
            at = time.perf_counter()
            ready.append(os.pread(account.fileno(), 64, 0))
            took.append(at - start)
            i += 1
    waited = np.array([int(line.split()[1]) for line in ready])
    return np.array(took), np.array(took) - np.diff(waited, prepend=waited[0]) / 1e9


def over_a_file(
    file: zswap.SwapFile, pages: corpora.Pages, pool: int, shuffled: np.ndarray, most: float
) -> dict[str, float]:
    """What a full pool over this file does, which is closed then."""
    n, size = len(pages), pages.nbytes
    offsets = np.arange(n, dtype=np.uint64)
    out = touched(pages)
    hot = shuffled[:HOT].tolist()
    got: dict[str, float] = {}
    with file, zswap.ZSwap("lz4", max_pool_bytes=pool, backing=file, shrinker_enabled=False) as z:
        got["stream"] = size / seconds(lambda: z.store_many(offsets, pages))
        stats, of_file = z.stats(), file.stats()
        got["written through"] = stats.written_through_pages / n
        evicted = stats.written_through_pages + stats.written_back_pages
        written = of_file.get("file_written_bytes", of_file["written_bytes"])
        got["bytes written"] = written / (max(evicted, 1) * PAGE)
        got["in order"] = size / seconds(lambda: z.load_many(offsets, out))
        if not np.array_equal(out, pages):
            raise click.ClickException("a page came back wrong")
        batches = [shuffled[at : at + RANDOM] for at in range(0, n, RANDOM)]
        few = np.empty((RANDOM, PAGE), np.uint8)
        got["random"] = n / seconds(
            lambda: [z.load_many(batch, few[: len(batch)]) for batch in batches]
        )
        z.shrink(n)  # the rest as well: what is hot from now on begins on the file
        got["hot"] = [single_loads(z, hot) for _ in range(3)][-1]
        took, awake = steady(z, pages, n, 2 * n, most)
    took *= 1e6
    got["other waits"] = awake.max()
    got["mean us"], got["p99.9 us"], got["max us"] = (
        took.mean(),
        np.quantile(took, 0.999),
        took.max(),
    )
    return got


def one_round(
    folder: Path, pages: corpora.Pages, pool: int, shuffled: np.ndarray, most: float, number: int
) -> dict[str, float]:
    """Everything once; a plain file and a packed one take turns in being the first."""
    size = pages.nbytes
    offsets = np.arange(len(pages), dtype=np.uint64)
    out = touched(pages)
    got: dict[str, float] = {}

    disk = Disk(folder / "raw", size)
    got["raw write"] = disk.write(pages)
    got["raw slowest"] = disk.slowest
    got["raw read"] = disk.read()

    with zswap.ZSwap("lz4", max_pool_bytes=2 * size + MIB) as z:
        got["store"] = size / seconds(lambda: z.store_many(offsets, pages))
        got["load"] = size / seconds(lambda: z.load_many(offsets, out))
        hot = shuffled[:HOT].tolist()
        got["hot load"] = min(single_loads(z, hot) for _ in range(3))

    for packed in (False, True) if number % 2 == 0 else (True, False):
        file = zswap.SwapFile(folder / "swap", 2 * size, packed=packed)
        found = over_a_file(file, pages, pool, shuffled, most)
        got |= {f"packed {name}": value for name, value in found.items()} if packed else found
    got["raw random"] = disk.read_at_random(shuffled)
    disk.close()
    os.unlink(folder / "raw")
    time.sleep(PAUSE if most >= 1 else 0)
    return got


# ---- the table -----------------------------------------------------------------------------------


def rate(value: float) -> str:
    return f"{value / 1e6:.0f} MB/s"


def table(rounds: list[dict[str, float]]) -> list[Row]:
    """Medians of the rounds; of a ratio, the median of the rounds' own."""

    def of(call: Callable[[dict[str, float]], float]) -> float:
        return median(map(call, rounds))

    def word(name: str, form: Callable[[float], str] = rate) -> str:
        return form(of(lambda r: r[name]))

    def us(value: float) -> str:
        return f"{value * 1e6:.1f} µs"

    def thousands(value: float) -> str:
        return f"{value / 1e3:.1f} k/s"

    def ratio(name: str, *beside: str) -> float:
        return of(lambda r: r[name] / min((r[other] for other in beside), default=1))

    def alone(what: str) -> str:
        return f"disk {word(f'raw {what}')}, pool {word('store' if what == 'write' else 'load')}"

    raw = f"disk {word('raw random', thousands)} at depth {DEPTH}"
    hot_load, slowest = word("hot load", us), f"slowest write {word('raw slowest', us)}"
    rows = []
    for file, title in (("", ""), ("packed ", "packed: ")):
        through = of(lambda r, file=file: r[f"{file}written through"])
        stream = ratio(f"{file}stream", "raw write", "store")
        in_order = ratio(f"{file}in order", "raw read", "load")
        rows += [
            Row("stream into the full pool", stream, "0.7", word(f"{file}stream"), alone("write")),
            Row("pages written through", through, "0.001", f"{100 * through:.2f} %", ""),
            Row("read back in order", in_order, "0.6", word(f"{file}in order"), alone("read")),
            Row(
                f"at random, batches of {RANDOM}",
                ratio(f"{file}random", "raw random"),
                "0.6",
                word(f"{file}random", thousands),
                raw,
            ),
            Row(
                f"{HOT} hot pages on the file",
                ratio(f"{file}hot", "hot load"),
                "1.2",
                word(f"{file}hot", us),
                hot_load,
            ),
            Row("bytes written over bytes evicted", ratio(f"{file}bytes written"), "0.6", "", ""),
        ]
        for what, bound in (("mean", "30 µs"), ("p99.9", "2 ms"), ("max", "20 ms")):
            took = median(r[f"{file}{what} us"] for r in rounds)
            beside = ""
            if what == "max":
                other = of(lambda r, file=file: r[f"{file}other waits"])
                beside = f"without waits for a CPU {us(other)}, {slowest}"
            rows.append(Row(f"store under pressure, {what}", took, bound, f"{took:.1f} µs", beside))
        rows[-9:] = [row._replace(name=title + row.name) for row in rows[-9:]]
    return rows


@click.command(help=__doc__)
@click.option(
    "--pages",
    "count",
    type=click.IntRange(min=1000),
    default=48_000,
    show_default=True,
    help="Distinct pages.",
)
@click.option(
    "--pool",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    metavar="MIB",
    help="Size of the pool.",
)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--seconds",
    "most",
    type=click.FloatRange(min=0.1),
    default=10,
    show_default=True,
    help="Of single stores.",
)
@click.option(
    "--folder", type=click.Path(exists=True, file_okay=False), help="Where the files are made."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
@click.option("--smoke", is_flag=True, help="As little as shows that it works.")
def main(
    count: int,
    pool: int,
    rounds: int,
    most: float,
    folder: str | None,
    as_json: bool,
    as_markdown: bool,
    smoke: bool,
) -> None:
    if smoke:
        count, pool, rounds, most = 1000, 1, 1, 0.1
    pages = corpora.distinct(corpora.make("process", count + count // 2))[:count]
    shuffled = np.random.default_rng(0).permutation(len(pages)).astype(np.uint64)
    done = []
    with (
        tempfile.TemporaryDirectory(prefix="zswap-tier.", dir=folder) as inside,
        progress() as tell,
    ):
        for number in range(rounds):
            tell(number, rounds, f"round {number + 1} of {rounds}")
            done.append(one_round(Path(inside), pages, pool * MIB, shuffled, most, number))
    rows = table(done)
    if as_json:
        found = {
            "pages": len(pages),
            "pool_bytes": pool * MIB,
            "rounds": done,
            "rows": [row._asdict() for row in rows],
        }
        click.echo(json.dumps(found, indent=1))
        return
    grid = [[row.name, f"{row.value:.4g}", row.bound, row.ours, row.beside] for row in rows]
    click.echo(
        f"{machine()}; lz4, {len(pages):,} pages, pool of {pool} MiB, median of {rounds} rounds\n"
    )
    print_table(COLUMNS, grid, as_markdown=as_markdown)


if __name__ == "__main__":
    sys.exit(run(main, name="tier.py"))
