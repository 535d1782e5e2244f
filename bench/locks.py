"""A census of the locks: which a store and a load take, how often, and how long each is held.

For a build with ZSWAP_LOCK_STATS=1, which counts at every place in the source that locks; reading
the clock twice is in each time.  Ordinary builds have no trace of it.  Threads store pages in
place, in order, in batches, and load them; what is raw takes other locks than what is compressed.
"""

from __future__ import annotations

import ctypes
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import click
import numpy as np

import zswap
from zswap.bench.output import Column, machine, print_table
from zswap.shell import run

PAGE = 4096
BUCKETS = 40
WIDE_US = 50  # no lock should be held for longer
COLUMNS = [
    Column("", title)
    for title in ("call", "lock", "a page", "held ns", "longest µs", "over 50 µs", "waited for")
]
KINDS = {  # by what the source calls them
    "shard": "shard",
    "cls": "class",
    "classes": "class",
    "s": "slab",
    "arena": "arena",
    "lru": "LRU",
    "owner": "class",
}


class Site(ctypes.Structure):
    """A place that locks; the mirror of zsw_lock_site in lockstats.h."""


Site._fields_ = [
    ("what", ctypes.c_char_p),
    ("where", ctypes.c_char_p),
    ("next", ctypes.POINTER(Site)),
    ("listed", ctypes.c_uint64),
    ("taken", ctypes.c_uint64),
    ("contended", ctypes.c_uint64),
    ("waited", ctypes.c_uint64),
    ("longest_wait", ctypes.c_uint64),
    ("held", ctypes.c_uint64),
    ("longest_hold", ctypes.c_uint64),
    ("waits", ctypes.c_uint64 * BUCKETS),
    ("holds", ctypes.c_uint64 * BUCKETS),
]
COUNTS = ("taken", "contended", "waited", "longest_wait", "held", "longest_hold")


def libraries() -> list[ctypes.CDLL]:
    """The core's extension modules that count their locks."""
    paths = {
        path
        for name, module in sys.modules.items()
        if name.startswith("zswap_core")
        and (path := getattr(module, "__file__", None) or "").endswith(".so")
    }
    return [found for found in map(ctypes.CDLL, sorted(paths)) if hasattr(found, "zsw_lock_sites")]


def sites() -> Iterator[Site]:
    """Every place that has locked something."""
    for library in libraries():
        at = ctypes.POINTER(Site).in_dll(library, "zsw_lock_sites")
        while at:
            yield at.contents
            at = at.contents.next


def kind(site: Site) -> str:
    """What is locked: ``(&__pyx_v_shard->lock)`` is a shard."""
    words: list[str] = re.findall(r"\w+", site.what.decode().replace("__pyx_v_", ""))
    words = [word for word in words if not word.isdigit() and word not in ("lock", "buddies")]
    name = words[-1] if words else "?"
    return KINDS.get(name, name.removesuffix("_lock"))


def tick_ns() -> float:
    """Nanoseconds of a tick."""
    clock = libraries()[0].zsw_lock_clock
    before, after = (ctypes.c_uint64 * 2)(), (ctypes.c_uint64 * 2)()
    clock(before)
    time.sleep(0.05)
    clock(after)
    return (after[1] - before[1]) / (after[0] - before[0])


def reset() -> None:
    """Forget what was counted."""
    for site in sites():
        for name in COUNTS:
            setattr(site, name, 0)
        ctypes.memset(site.waits, 0, ctypes.sizeof(site.waits))
        ctypes.memset(site.holds, 0, ctypes.sizeof(site.holds))


def census(tick: float) -> dict[str, dict[str, Any]]:
    """What was counted, by kind of lock; times in nanoseconds, histograms by powers of two."""
    found: dict[str, dict[str, Any]] = {}
    for site in sites():
        if not site.taken:
            continue
        row = found.setdefault(
            kind(site),
            dict.fromkeys(COUNTS, 0)
            | {"wide": 0, "holds": [0] * BUCKETS, "waits": [0] * BUCKETS, "where": []},
        )
        for name in ("taken", "contended"):
            row[name] += getattr(site, name)
        for name in ("waited", "held"):
            row[name] += getattr(site, name) * tick
        for name in ("longest_wait", "longest_hold"):
            row[name] = max(row[name], getattr(site, name) * tick)
        row["where"].append(site.where.decode())
        for i in range(BUCKETS):
            row["holds"][i] += site.holds[i]
            row["waits"][i] += site.waits[i]
            if (1 << i) * tick > 1000 * WIDE_US:
                row["wide"] += site.holds[i]
    return found


def pages_of(count: int, noise: bool) -> np.ndarray:
    """Distinct pages that compress, or do not."""
    rng = np.random.default_rng(0)
    if noise:
        return rng.integers(256, size=(count, PAGE), dtype=np.uint8)
    pages = np.zeros((count, PAGE // 8), np.uint64)
    pages[:, :64] = rng.integers(1 << 62, size=(count, 64), dtype=np.uint64)
    return pages.view(np.uint8)


def together(threads: int, call: Callable[[int], object]) -> None:
    """Run the call in so many threads, each with its number."""
    running = [threading.Thread(target=call, args=(n,)) for n in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


@click.command(help=__doc__)
@click.option("--pages", type=click.IntRange(min=64), default=65536, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, histograms included.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
@click.option("--smoke", is_flag=True, help="As little as shows that it works.")
def main(pages: int, threads: int, as_json: bool, as_markdown: bool, smoke: bool) -> None:
    if not libraries():
        raise click.UsageError("this build counts no locks; build with ZSWAP_LOCK_STATS=1")
    pages = 512 if smoke else pages
    tick, found = tick_ns(), {}
    out = np.empty((pages, PAGE), np.uint8)
    each = pages // threads
    for what in ("compressed", "raw"):
        made = pages_of(pages, what == "raw")
        with zswap.ZSwap("lz4", max_pool_bytes=3 * pages * PAGE) as z:

            def part(n: int) -> slice:
                return slice(n * each, (n + 1) * each)

            def store(n: int, z: zswap.ZSwap = z, made: np.ndarray = made) -> None:
                z.store_many(range(n * each, (n + 1) * each), made[part(n)])

            def load(n: int, z: zswap.ZSwap = z) -> None:
                z.load_many(range(n * each, (n + 1) * each), out[part(n)])

            for name, call in (("store, new", store), ("store, in place", store), ("load", load)):
                reset()
                together(threads, call)
                found[f"{name}, {what}"] = census(tick)
    if as_json:
        click.echo(
            json.dumps({"pages": pages, "threads": threads, "tick_ns": tick, "calls": found})
        )
        return
    grid = [
        [
            name,
            lock,
            f"{row['taken'] / pages:.3f}",
            f"{row['held'] / row['taken']:.0f}",
            f"{row['longest_hold'] / 1000:.1f}",
            str(row["wide"]),
            str(row["contended"]),
        ]
        for name, rows in found.items()
        for lock, row in sorted(rows.items(), key=lambda item: -item[1]["taken"])
        if row["taken"] >= pages / 1000
    ]
    click.echo(f"{machine()}; lz4, {pages:,} pages, {threads} threads\n")
    print_table(COLUMNS, grid, as_markdown=as_markdown)


if __name__ == "__main__":
    sys.exit(run(main, name="locks.py"))
