"""What zram and a swap fault cost, against what `zswap advise` reckons: CPU time and memory.

As root.  For each algorithm of the kernel's zram the same pages go to a device and back, by
requests of 128 KiB; the CPU time a page is held against that of the library's codec and the table's
surplus (zswap/costs.py), mem_used_total against what the model of zsmalloc says.  With --fault it
also makes a zram device swap, has the kernel swap out some memory, and times the faults that bring
it back; all of it is put back.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

import zswap
from zswap import costs
from zswap.adviser.machine import read_cpu
from zswap.bench.corpora import CORPORA, make
from zswap.bench.output import Column, machine, print_table
from zswap.bench.rows import RowMissing
from zswap.bench.zram import Zram
from zswap.estimate import CompressorResult, Timing, estimate, zpool_model
from zswap.shell import run

PAGE, MADV_PAGEOUT = 4096, 21
#: Which codec here stands for the kernel's.
LIBRARY = {"lz4": "lz4", "lzo": "lzo", "lzo-rle": "lzo", "zstd": "zstd:3", "lz4hc": "lz4hc"}
TITLES = (
    "corpus",
    "algorithm",
    "store µs: codec",
    "predicted",
    "zram",
    "off by",
    "load µs: codec",
    "predicted",
    "zram",
    "off by",
)


@dataclass
class Row:
    corpus: str
    algorithm: str
    codec_store: float
    store: float
    zram_store: float
    codec_load: float
    load: float
    zram_load: float
    pool: int
    zram_pool: int

    def cells(self) -> list[str]:
        return [
            self.corpus,
            self.algorithm,
            f"{self.codec_store:.2f}",
            f"{self.store:.2f}",
            f"{self.zram_store:.2f}",
            f"{100 * (self.store / self.zram_store - 1):+.0f} %",
            f"{self.codec_load:.2f}",
            f"{self.load:.2f}",
            f"{self.zram_load:.2f}",
            f"{100 * (self.load / self.zram_load - 1):+.0f} %",
        ]


def codec(pages: np.ndarray, spec: str) -> tuple[float, float]:
    """Microseconds of CPU time to store and to load a page, the least of some rounds."""
    offsets = np.arange(len(pages), dtype=np.uint64)
    out = np.empty_like(pages)
    store = load = float("inf")
    with zswap.ZSwap(spec, max_pool_bytes=1 << 34, shrinker_enabled=False) as z:
        for _ in range(2):
            begun = time.thread_time_ns()
            z.store_many(offsets, pages)
            between = time.thread_time_ns()
            z.load_many(offsets, out)
            ended = time.thread_time_ns()
            store = min(store, (between - begun) / 1000 / len(pages))
            load = min(load, (ended - between) / 1000 / len(pages))
    return store, load


def pool_bytes(pages: np.ndarray, spec: str) -> int:
    """What a pool with nothing else in it takes for the pages, as `zswap analyze` reckons."""
    offsets = np.arange(len(pages), dtype=np.uint64)
    with zswap.ZSwap(spec, max_pool_bytes=1 << 34, shrinker_enabled=False) as z:
        z.store_many(offsets, pages)
        histogram = np.bincount(z.compressed_sizes(offsets), minlength=PAGE + 1)
    nothing = Timing(0, 0, 0)
    result = CompressorResult(spec, len(pages), histogram, nothing, nothing)
    found = estimate(result, zpool_model("zsmalloc-kernel"), len(pages))
    return found.allocator_bytes + found.unused_bytes


def fault_us(pages: np.ndarray, algorithm: str) -> tuple[float, float]:
    """Microseconds of CPU time of a touch that brings a page back from zram, and of reclaim for a
    page that goes there."""
    libc = ctypes.CDLL(None, use_errno=True)
    if len(Path("/proc/swaps").read_text().splitlines()) > 1:
        raise click.UsageError("this machine has swap already")
    with Zram(algorithm) as zram:
        zram.empty(2 * pages.nbytes)
        os.close(zram._held)  # swapon wants it for itself
        zram._held = -1
        subprocess.run(["mkswap", zram.dev], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["swapon", "-p", "100", zram.dev], check=True)
        try:
            best = out = float("inf")
            area = mmap.mmap(-1, pages.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            with contextlib.suppress(OSError):
                area.madvise(mmap.MADV_NOHUGEPAGE)
            view = np.frombuffer(area, np.uint8)
            order = np.random.default_rng(0).permutation(len(pages)) * PAGE
            for _ in range(3):
                view[:] = pages.reshape(-1)
                begun = time.thread_time_ns()
                for _ in range(2):
                    libc.madvise(
                        ctypes.c_void_p(view.ctypes.data),
                        ctypes.c_size_t(pages.nbytes),
                        MADV_PAGEOUT,
                    )
                between = time.thread_time_ns()
                view[order]
                ended = time.thread_time_ns()
                view[order]
                again = time.thread_time_ns() - ended
                out = min(out, (between - begun) / 1000 / len(pages))
                best = min(best, (ended - between - again) / 1000 / len(pages))
            del view
            area.close()
        finally:
            subprocess.run(["swapoff", zram.dev], check=True)
    return best, out


@click.command(help=__doc__)
@click.option(
    "--corpus",
    "names",
    type=click.Choice(list(CORPORA)),
    multiple=True,
    default=("process", "text"),
)
@click.option("--pages", type=click.IntRange(64), default=8192, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=8, show_default=True)
@click.option("--fault", is_flag=True, help="Swap to a zram device, for a moment.")
@click.option("--json", "as_json", is_flag=True)
@click.option("--markdown", "as_markdown", is_flag=True)
@click.option("--smoke", is_flag=True)
def main(
    names: tuple[str, ...],
    pages: int,
    rounds: int,
    fault: bool,
    as_json: bool,
    as_markdown: bool,
    smoke: bool,
) -> None:
    if smoke:
        names, pages, rounds = ("text",), 256, 1
    rows, faults = [], []
    try:
        with Zram("lz4") as zram:
            there = [name.strip("[]") for name in zram.read("comp_algorithm").split()]
    except RowMissing as error:
        click.echo(f"left out: {error}", err=True)
        sys.exit(0)
    beside = costs.from_table(read_cpu())
    have = {info.name for info in zswap.compressors() if info.available}
    for name in names:
        data = make(name, pages, 0)
        for algorithm in there:
            if LIBRARY.get(algorithm, "?").partition(":")[0] not in have:
                continue
            store = load = real_store = real_load = float("inf")
            for _ in range(rounds):  # in turns, so that a slow spell meets both
                some = codec(data, LIBRARY[algorithm])
                store, load = min(store, some[0]), min(load, some[1])
                real = costs.in_zram(data, algorithm, 1)
                real_store = min(real_store, real.store_us)
                real_load = min(real_load, real.load_us)
            want_store, want_load = beside.of(algorithm, store, load)
            pool = pool_bytes(data, LIBRARY[algorithm])
            rows.append(
                Row(
                    name,
                    algorithm,
                    store,
                    want_store,
                    real_store,
                    load,
                    want_load,
                    real_load,
                    pool,
                    real.used,
                )
            )
            if fault:
                come, go = fault_us(data, algorithm)
                faults.append(
                    {
                        "corpus": name,
                        "algorithm": algorithm,
                        "fault_us": come,
                        "predicted_us": want_load + beside.fault_us,
                        "beside_us": come - load,
                        "reclaim_us": go,
                    }
                )
    touch = costs.first_touch_us()
    if as_json:
        told = {
            "machine": machine(),
            "first_touch_us": touch,
            "costs": asdict(beside),
            "rows": [asdict(row) for row in rows],
            "faults": faults,
        }
        click.echo(json.dumps(told, indent=2))
        return
    click.echo(f"{machine()}\nfirst touch of a page: {touch:.2f} µs; {beside.words}")
    columns, grid = tuple(Column("", title) for title in TITLES), [row.cells() for row in rows]
    print_table(columns, grid, as_markdown=as_markdown)
    for row in rows:
        click.echo(
            f"{row.corpus}, {row.algorithm}: {row.zram_pool / (1 << 20):.2f} MiB in zram, "
            f"predicted {row.pool / (1 << 20):.2f} ({100 * (row.pool / row.zram_pool - 1):+.1f} %)"
        )
    for one in faults:
        click.echo(
            f"{one['corpus']}, {one['algorithm']}: a fault takes {one['fault_us']:.2f} µs, "
            f"predicted {one['predicted_us']:.2f}; to swap a page out {one['reclaim_us']:.2f} µs"
        )


if __name__ == "__main__":
    sys.exit(run(main, name="costs.py"))
