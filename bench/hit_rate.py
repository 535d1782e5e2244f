"""How often a page is found in the pool, by how those that go are chosen: a simulation.

The pool holds so many pages; an access to one that is not there brings it in, and the coldest goes.
Three accesses in ten are rewrites.  The rows are workloads, the columns ways to choose:

list       an LRU list with second chance, as in the kernel: exact, under one lock
stamps     what zswap does in a large pool: a stamp of 4096 times, the oldest 64th of all at once,
           in the order in which they lie (in a small pool it is the list's order exactly)
clock      a hand over all entries, which spares those loaded or stored since it last came by
loads      the same, but it spares only those loaded
random     anybody
"""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from collections import OrderedDict

import click
import numpy as np

from zswap.bench.output import Column, machine, print_table, progress
from zswap.shell import run

REWRITES = 0.3
TIMES, SHARE = 4096, 64


class Pool(ABC):
    """Pages in slots; those that are freed are taken again, the last one first."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.slot: dict[int, int] = {}
        self.page = np.full(size, -1, np.int64)
        self.free = list(range(size))[::-1]

    def access(self, page: int, rewrite: bool) -> bool:
        """Whether it was there; now it is."""
        hit = page in self.slot
        if hit and not rewrite:
            self.loaded(self.slot[page])
            return True
        if not hit and not self.free:
            self.drop(self.victim())
        # a rewrite makes a new entry before it frees the old one; without room for both, in place
        old = self.slot.get(page)
        at = self.free.pop() if self.free else old
        assert at is not None
        if old is not None and at != old:
            self.drop(old)
        self.slot[page], self.page[at] = at, page
        self.stored(at)
        return hit

    def drop(self, at: int) -> None:
        del self.slot[int(self.page[at])]
        self.page[at] = -1
        self.free.append(at)

    @abstractmethod
    def loaded(self, at: int) -> None:
        """Note that a page was read."""

    @abstractmethod
    def stored(self, at: int) -> None:
        """Note that a page came, or was written anew."""

    @abstractmethod
    def victim(self) -> int:
        """Choose the page that goes."""


class List(Pool):
    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.order: OrderedDict[int, bool] = OrderedDict()  # marked, by slot

    def loaded(self, at: int) -> None:
        self.order[at] = True

    def stored(self, at: int) -> None:
        self.order[at] = False
        self.order.move_to_end(at)

    def drop(self, at: int) -> None:
        super().drop(at)
        self.order.pop(at, None)

    def victim(self) -> int:
        while True:
            at, marked = next(iter(self.order.items()))
            if not marked:
                return at
            self.stored(at)


class Stamps(Pool):
    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.time, self.left = 0, 0
        self.stamp = np.full(size, -1, np.int64)
        self.marked = np.zeros(size, bool)
        self.found: list[tuple[int, int]] = []

    def stored(self, at: int) -> None:
        if self.left == 0:
            self.time += 1
            self.left = 1 + self.size // TIMES
        self.left -= 1
        self.stamp[at], self.marked[at] = self.time, False

    def loaded(self, at: int) -> None:
        self.marked[at] = True

    def drop(self, at: int) -> None:
        super().drop(at)
        self.stamp[at] = -1

    def victim(self) -> int:
        while True:
            while self.found:
                at, stamp = self.found.pop()
                if self.stamp[at] != stamp:
                    continue
                if not self.marked[at]:
                    return at
                self.stored(at)
            held = np.flatnonzero(self.stamp >= 0)
            some = max(len(held) // SHARE, 1)
            limit = np.partition(self.stamp[held], some - 1)[some - 1]
            old = held[self.stamp[held] <= limit]
            self.found = list(zip(old.tolist(), self.stamp[old].tolist(), strict=True))[::-1]


class Clock(Pool):
    spares_stored = True

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.marked = [False] * size
        self.hand = -1

    def stored(self, at: int) -> None:
        self.marked[at] = self.spares_stored

    def loaded(self, at: int) -> None:
        self.marked[at] = True

    def victim(self) -> int:
        while True:
            self.hand = (self.hand + 1) % self.size
            if self.page[self.hand] < 0:
                continue
            if not self.marked[self.hand]:
                return self.hand
            self.marked[self.hand] = False


class ClockOfLoads(Clock):
    spares_stored = False


class Random(Pool):
    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.rng = np.random.default_rng(1)

    def stored(self, at: int) -> None:
        pass

    def loaded(self, at: int) -> None:
        pass

    def victim(self) -> int:
        return int(self.rng.integers(self.size))


POLICIES: dict[str, type[Pool]] = {
    "list": List,
    "stamps": Stamps,
    "clock": Clock,
    "loads": ClockOfLoads,
    "random": Random,
}
COLUMNS = [Column("", title) for title in ("workload", *POLICIES, "stamps - list")]


# ---- workloads -----------------------------------------------------------------------------------


def zipf(rng: np.random.Generator, pages: int, count: int, power: float) -> np.ndarray:
    weights = np.arange(1, pages + 1, dtype=float) ** -power
    ranks = np.searchsorted(np.cumsum(weights / weights.sum()), rng.random(count))
    return rng.permutation(pages)[np.minimum(ranks, pages - 1)]


def drift(rng: np.random.Generator, pages: int, count: int, pool: int) -> np.ndarray:
    """Nine in ten go to a hot set of three quarters of the pool, which moves on all the time."""
    hot = pool * 3 // 4
    first = np.arange(count) * 4 * pool // count
    at = np.where(
        rng.random(count) < 0.9,
        first + rng.integers(hot, size=count),
        rng.integers(pages, size=count),
    )
    return at % pages


def phases(rng: np.random.Generator, pages: int, count: int, pool: int) -> np.ndarray:
    """A hot set of half the pool, another one every so often."""
    hot = pool // 2
    starts = rng.integers(pages - hot, size=8)[np.arange(count) * 8 // count]
    at = np.where(
        rng.random(count) < 0.8,
        starts + rng.integers(hot, size=count),
        rng.integers(pages, size=count),
    )
    return at


def scans(rng: np.random.Generator, pages: int, count: int, pool: int) -> np.ndarray:
    """Zipf, and one pass over everything in between, again and again."""
    return np.where(
        np.arange(count) // pool % 4 == 3, np.arange(count) % pages, zipf(rng, pages, count, 0.9)
    )


def workloads(pool: int, count: int) -> dict[str, np.ndarray]:
    """Page numbers, access by access."""
    pages, rng = 4 * pool, np.random.default_rng(0)
    at = np.arange(count)
    return {
        "Zipf 0.7": zipf(rng, pages, count, 0.7),
        "Zipf 0.9": zipf(rng, pages, count, 0.9),
        "Zipf 1.1": zipf(rng, pages, count, 1.1),
        "drifting hot set": drift(rng, pages, count, pool),
        "hot set by phases": phases(rng, pages, count, pool),
        "scans between Zipf": scans(rng, pages, count, pool),
        "loop, 9/10 of the pool": at % (pool * 9 // 10),
        "loop, 5/4 of the pool": at % (pool * 5 // 4),
        "loop beside Zipf": np.where(
            rng.random(count) < 0.5, at // 2 % pool, zipf(rng, pages, count, 0.9)
        ),
        "even": rng.integers(pages, size=count),
    }


def simulate(policy: type[Pool], pool: int, pages: np.ndarray) -> float:
    """Percent of the accesses that find their page, after the first quarter, which warms up."""
    p = policy(pool)
    rewrites = (np.random.default_rng(2).random(len(pages)) < REWRITES).tolist()
    hits = [p.access(page, rewrite) for page, rewrite in zip(pages.tolist(), rewrites, strict=True)]
    return 100 * float(np.mean(hits[len(hits) // 4 :]))


@click.command(help=__doc__)
@click.option(
    "--pool", type=click.IntRange(min=64), default=16384, show_default=True, help="Pages."
)
@click.option("--accesses", type=click.IntRange(min=100), default=400_000, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
@click.option("--smoke", is_flag=True, help="As little as shows that it works.")
def main(pool: int, accesses: int, as_json: bool, as_markdown: bool, smoke: bool) -> None:
    if smoke:
        pool, accesses = 64, 1000
    found: dict[str, dict[str, float]] = {}
    with progress() as tell:
        made = workloads(pool, accesses)
        for at, (name, pages) in enumerate(made.items()):
            tell(at, len(made), name)
            found[name] = {word: simulate(kind, pool, pages) for word, kind in POLICIES.items()}
    if as_json:
        click.echo(json.dumps({"pool": pool, "accesses": accesses, "hit percent": found}, indent=1))
        return
    grid = [
        [name, *(f"{row[word]:.2f}" for word in POLICIES), f"{row['stamps'] - row['list']:+.2f}"]
        for name, row in found.items()
    ]
    click.echo(f"{machine()}; a pool of {pool:,} pages, {accesses:,} accesses; hits in percent\n")
    print_table(COLUMNS, grid, as_markdown=as_markdown)


if __name__ == "__main__":
    sys.exit(run(main, name="hit_rate.py"))
