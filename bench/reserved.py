"""What an engine takes: address space, memory, and what its statistics say, step by step.

Each row is a process of its own that does what its name says before it opens an engine of 16 MiB:
lock its memory with mlockall, or live under a limit on its address space (`ulimit -v`: what it had,
and 48 MiB).  As root, --system adds the system's own settings, which are put back: huge pages for
all (THP=always) and no overcommitted memory (vm.overcommit_memory=2).  They hold for every process
meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from zswap.bench.output import Column, machine, print_table

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")
STEPS = ("opened", "one page", "full", "emptied", "second", "third")
ROWS = {
    "plain": ("", None, ""),
    "mlockall": ("lock(3)", None, ""),
    "mlockall, on fault": ("lock(7)", None, ""),
    "ulimit -v": ("limit(48 << 20)", None, ""),
    "THP=always": ("", THP, "always"),
    "overcommit_memory=2": ("", OVERCOMMIT, "2"),
}

PROGRAM = """
import ctypes, json, os, resource, sys
import numpy as np
import zswap

def taken():
    with open("/proc/self/smaps_rollup") as f:
        rss = next(int(line.split()[1]) << 10 for line in f if line.startswith("Rss:"))
    with open("/proc/self/statm") as f:
        return int(f.read().split()[0]) * resource.getpagesize(), rss

def lock(flags):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(flags):
        raise OSError(ctypes.get_errno(), "mlockall")

def limit(more):
    size = taken()[0] + more
    resource.setrlimit(resource.RLIMIT_AS, (size, size))

pages = np.full((256, 4096), 7, np.uint8)
pages[:, :2000] = np.frombuffer(os.urandom(2000 * 256), np.uint8).reshape(256, 2000)
zswap.open_compressor("lz4").compress(pages[0].tobytes())
kept = []

def step():
    size, rss = taken()
    counted = sum(z.stats().resident_bytes for z in kept)
    rows.append((size - before[0], rss - before[1], counted))

def open_one():
    kept.append(zswap.ZSwap(max_pool_bytes="16MiB"))
    return kept[-1]

rows = []
numbers = np.arange(256)
taken(), numbers.sum()
try:
    exec(sys.argv[1])
    before = taken()
    z = open_one()
    step()
    z.store_many(numbers[:1], pages[:1])
    step()
    for start in range(0, 1 << 20, 256):
        if (z.store_many(numbers + start, pages) < 0).any():
            break
    step()
    z.clear()
    z.compact()
    step()
    for _ in range(2):
        open_one().store_many(numbers[:1], pages[:1])
        step()
except Exception as error:
    print(json.dumps([rows, f"{type(error).__name__}: {error}"]))
else:
    print(json.dumps([rows, ""]))
"""


@contextlib.contextmanager
def setting(path: Path | None, value: str) -> Iterator[None]:
    """Hold a setting of the system's at another value."""
    if path is None:
        yield
        return
    before = path.read_text().split()
    was = next((word.strip("[]") for word in before if word.startswith("[")), before[0])
    try:
        path.write_text(value)
        yield
    finally:
        path.write_text(was)


def measure(prepare: str, path: Path | None, value: str) -> tuple[list[tuple[int, int, int]], str]:
    """Rows of (address space, memory, memory as counted) after each step, and what ended it
    early."""
    with setting(path, value):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, prepare], capture_output=True, text=True, check=False
        )
    if not done.stdout:
        return [], done.stderr.strip().splitlines()[-1]
    return json.loads(done.stdout)


def cell(amounts: tuple[int, int, int]) -> str:
    return " / ".join(f"{amount / (1 << 20):.2f}" for amount in amounts)


@click.command(help=__doc__)
@click.option(
    "--system", is_flag=True, help="Also under changed settings of the system (root; put back)."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
@click.option("--smoke", is_flag=True, help="The first row alone.")
def main(system: bool, as_json: bool, as_markdown: bool, smoke: bool) -> None:
    found = {}
    for name, (prepare, path, value) in ROWS.items():
        if (path is None or system) and not (smoke and found):
            try:
                found[name] = measure(prepare, path, value)
            except OSError as error:
                found[name] = [], str(error)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    click.echo(
        f"{machine()}; MiB beyond what the process had: address space / memory / memory as the "
        "statistics have it\n"
    )
    columns = [Column("", title) for title in ("", *STEPS)]
    grid = [
        [name, *map(cell, rows), *[ended] * (len(STEPS) - len(rows))]
        for name, (rows, ended) in found.items()
    ]
    print_table(columns, grid, as_markdown=as_markdown)


if __name__ == "__main__":
    main()
