"""A random mix of batches over swap files many times the pool, against an oracle.

Batches of 1 to 512 pages are stored, loaded and freed at random, half of them all over the area,
half in a tenth of it, over a plain file and a packed one in turns.  What every page is follows from
its offset and from how often it was stored, so the oracle is one number a page, and each page that
is loaded is compared as a whole.  In the end all are, and every structure is checked.

    python bench/mix.py --operations 1e8 --json mix.json        # the long profile: an hour or two
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import hooks  # noqa: F401 (it makes _validate)
import zswap
from zswap.bench import corpora
from zswap.bench.output import machine
from zswap.output import check, writing
from zswap.shell import run

MIB = 1 << 20
PAGE = corpora.PAGE
TEMPLATES = 8192  # pages that others are made of
SIZES = (1, 4, 16, 64, 256, 512)
LAYOUTS = {"plain": ("plain",), "packed": ("packed",), "both": ("plain", "packed")}


class Wrong(Exception):
    """The engine and the oracle do not agree."""


class Area:
    """One swap area, its file, and how often each page of it was stored; 0 where none is."""

    def __init__(self, number: int, file: zswap.SwapFile, templates: corpora.Pages) -> None:
        self.number, self.file, self.templates = number, file, templates
        self.turn = np.zeros(file.nr_pages, np.uint64)
        self.expected = np.empty((max(SIZES), PAGE), np.uint8)
        self.found = np.empty_like(self.expected)
        self.status = np.empty(max(SIZES), np.int8)

    def pages(self, offsets: npt.NDArray[np.int64]) -> corpora.Pages:
        """What they are by the oracle, until the next call."""
        turns = self.turn[offsets]
        which = (offsets.astype(np.uint64) * 7919 + turns * 104_729) % TEMPLATES
        made = self.expected[: len(offsets)]
        np.take(self.templates, which.astype(np.int64), axis=0, out=made)
        words = made[:, :16].view(np.uint64)
        words[:, 0], words[:, 1] = offsets + (self.number << 48), turns
        return made

    def store(self, z: zswap.ZSwap, offsets: npt.NDArray[np.int64]) -> None:
        self.turn[offsets] += np.uint64(1)
        status = z.store_many(offsets, self.pages(offsets), swap_type=self.number)
        if (status < 0).any():
            raise Wrong(f"a store was refused: {zswap.Status(int(status.min())).name}")

    def load(self, z: zswap.ZSwap, offsets: npt.NDArray[np.int64]) -> None:
        n = len(offsets)
        out, status = self.found[:n], self.status[:n]
        z.load_many(offsets, out, swap_type=self.number, status=status)
        there = self.turn[offsets] > 0
        if not np.array_equal(status >= 0, there) or (status[~there] != zswap.Status.ABSENT).any():
            raise Wrong(f"area {self.number}: pages are missing, or there and should not be")
        expected = self.pages(offsets)
        if there.all():
            same = np.array_equal(out, expected)
        else:
            same = np.array_equal(out[there], expected[there])
        if not same:
            at = offsets[there][(out[there] != expected[there]).any(axis=1)]
            raise Wrong(f"area {self.number}: wrong pages at {at.tolist()[:9]}")

    def free(self, z: zswap.ZSwap, offsets: npt.NDArray[np.int64]) -> None:
        freed = z.invalidate_many(offsets, swap_type=self.number)
        if freed != np.count_nonzero(self.turn[offsets]):
            raise Wrong(f"area {self.number}: {freed} pages were freed")
        self.turn[offsets] = 0

    def all_is_there(self, z: zswap.ZSwap) -> None:
        for first in range(0, len(self.turn), max(SIZES)):
            self.load(z, np.arange(first, min(first + max(SIZES), len(self.turn))))
        if z._page_count(self.number) != np.count_nonzero(self.turn):
            raise Wrong(f"area {self.number} holds {z._page_count(self.number)} pages")


def drawn(rng: np.random.Generator, pages: int) -> npt.NDArray[np.int64]:
    """Offsets of one batch, none twice."""
    n = min(int(rng.choice(SIZES)), pages // 10)
    among = pages if rng.random() < 0.5 else pages // 10
    return np.unique(rng.integers(0, among, n))


def mix(z: zswap.ZSwap, areas: list[Area], operations: int, seconds: float, seed: int) -> int:
    """So many pages stored, loaded or freed, or as many as the time allows; how many it were."""
    rng = np.random.default_rng(seed)
    done, begin, said = 0, time.monotonic(), 0.0
    for area in areas:  # the file is full at first
        for first in range(0, len(area.turn), max(SIZES)):
            area.store(z, np.arange(first, min(first + max(SIZES), len(area.turn))))
        done += len(area.turn)
    while done < operations and (now := time.monotonic() - begin) < seconds:
        area = areas[int(rng.integers(len(areas)))]
        offsets = drawn(rng, len(area.turn))
        what = rng.random()
        if what < 0.45:
            area.store(z, offsets)
        elif what < 0.95:
            area.load(z, offsets)
        else:
            area.free(z, offsets)
        done += len(offsets)
        if now >= said:
            said += 60
            s = z.stats()
            click.echo(
                f"  {now:6.0f} s  {done:12,} operations  held {s.stored_pages:7,}  in the files "
                f"{s.backed_pages:7,}"
            )
            sys.stdout.flush()
    return done


@click.command(help=__doc__.partition("\n")[0])
@click.option(
    "--operations", type=float, default=1e6, show_default=True, help="Pages, of all batches."
)
@click.option("--seconds", type=float, default=86_400, help="But no longer than this.")
@click.option("--pool", type=click.IntRange(min=1), default=16, show_default=True, metavar="MIB")
@click.option(
    "--times",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Each area over the pool.",
)
@click.option(
    "--files", "layout", type=click.Choice(list(LAYOUTS)), default="both", show_default=True
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--folder", type=click.Path(exists=True, file_okay=False))
@click.option("--json", "json_path", metavar="PATH", help="Write a report.")
@click.option("--smoke", is_flag=True, help="As little as shows that it works.")
def main(
    operations: float,
    seconds: float,
    pool: int,
    times: int,
    layout: str,
    seed: int,
    folder: str | None,
    json_path: str | None,
    smoke: bool,
) -> None:
    if smoke:
        operations, pool = 20_000, 1
    if json_path is not None:
        check(json_path)
    report: dict[str, Any] = {"schema": "zswap.mix", "machine": machine(), "wrong": None}
    templates = corpora.make("process", TEMPLATES)
    with tempfile.TemporaryDirectory(prefix="zswap-mix.", dir=folder) as inside:
        files = [
            zswap.SwapFile(Path(inside) / name, times * pool * MIB, packed=name == "packed")
            for name in LAYOUTS[layout]
        ]
        with zswap.ZSwap("lz4", max_pool_bytes=pool * MIB, backing=files[0]) as z:
            for number, file in enumerate(files[1:], 1):
                z.swapon(number, backing=file)
            areas = [Area(number, file, templates) for number, file in enumerate(files)]
            begin = time.monotonic()
            try:
                report["operations"] = mix(z, areas, int(operations), seconds, seed)
                report["seconds"] = time.monotonic() - begin
                for area in areas:
                    area.all_is_there(z)
                z._validate()
            except (Wrong, AssertionError, zswap.Error) as error:
                report["wrong"] = str(error)
            report["stats"] = z.stats().to_dict()
            report["files"] = {
                name: file.stats() for name, file in zip(LAYOUTS[layout], files, strict=True)
            }
        for file in files:
            file.close()
    if report["wrong"] is None:
        click.echo(
            f"{report['operations']:,} operations in {report['seconds']:.0f} s over {layout}, "
            f"{times} times a pool of {pool} MiB: every page is the one that was stored last"
        )
    else:
        click.echo(f"WRONG: {report['wrong']}")
    if json_path is not None:
        with writing(json_path) as out:
            out.write(json.dumps(report).encode() + b"\n")
    sys.exit(report["wrong"] is not None)


if __name__ == "__main__":
    sys.exit(run(main, name="mix.py"))
