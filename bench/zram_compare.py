"""The same pages in a zram device and in zswap: memory.  (Time is a row of `zswap bench`.)

Adds a zram device and takes it away, or takes one that nobody uses and gives it back as it was,
whatever happens; needs root.  Where there is none it says so and exits with 0.  Exits with 1 when
zsmalloc with the kernel's geometry takes more than 2 % more or less than the device's own
mem_used_total.

All zpools stand side by side.  A page that one refuses stays as it is, and its memory counts whole.
"""

from __future__ import annotations

import json
import mmap
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

import zswap
from zswap.bench.corpora import CORPORA, PAGE, CorpusMissing, Pages, from_file, make
from zswap.bench.output import Column, print_table
from zswap.bench.rows import RowMissing
from zswap.bench.zram import Zram, zsmalloc_chain
from zswap.meminfo import format_bytes
from zswap.shell import run

TOLERANCE = 0.02
TITLES = (
    "",
    "payload",
    "memory",
    "against zram",
    "saved",
    "objects a page",
    "same-filled",
    "raw",
    "refused",
)
COLUMNS = tuple(Column("", title) for title in TITLES)


@dataclass
class Taken:
    """What held the pages, and what it took."""

    corpus: str
    name: str
    payload: int
    memory: int
    same_filled: int
    raw: int
    pages: int
    refused: int = 0
    off_by: float | None = None  # memory against zram's

    def cells(self) -> list[str]:
        against = "" if self.off_by is None else f"{100 * self.off_by:+.2f} %"
        saved = f"{100 * (1 - self.memory / (self.pages * PAGE)):.1f} %"
        objects = (
            (self.pages - self.same_filled - self.refused)
            * PAGE
            / (self.memory - self.refused * PAGE)
        )
        counts = (self.same_filled, self.raw, self.refused)
        return [
            self.name,
            f"{self.payload:,}",
            f"{self.memory:,}",
            against,
            saved,
            f"{objects:.2f}",
            *(f"{n:,}" for n in counts),
        ]


def in_zram(zram: Zram, corpus: str, pages: Pages) -> Taken:
    # page-aligned, as O_DIRECT has it
    source, target = (memoryview(mmap.mmap(-1, pages.nbytes)) for _ in range(2))
    source[:] = pages.reshape(-1).data
    zram.empty(pages.nbytes)
    zram.transfer(source, write=True)
    stat = zram.mm_stat()
    zram.transfer(target, write=False)
    if target != source:
        raise OSError(f"{zram.dev} did not give back what was written")
    if stat["orig"] + stat["same"] * PAGE < pages.nbytes and stat["orig"] != pages.nbytes:
        raise OSError(f"{zram.dev} holds {stat['orig']} bytes of {pages.nbytes}")
    name = f"zram, Linux {platform.release()}"
    return Taken(
        corpus, name, stat["payload"], stat["used"], stat["same"], stat.get("raw", 0), len(pages)
    )


def in_zswap(corpus: str, pages: Pages, zpool: str) -> Taken:
    offsets = np.arange(len(pages), dtype=np.uint64)
    with zswap.ZSwap("lz4", zpool, max_pool_bytes=2 * pages.nbytes + (64 << 20)) as z:
        status = z.store_many(offsets, pages)
        held = status >= 0
        refused = int(np.count_nonzero(status == zswap.Status.COMPRESS_POOR))
        if np.count_nonzero(~held) != refused:
            raise OSError(f"{zpool} refused pages: {np.unique(status[~held]).tolist()}")
        if not np.array_equal(z.load_many(offsets[held]), pages[held]):
            raise OSError(f"{zpool} did not give back what was stored")
        stats = z.stats()
    return Taken(
        corpus,
        f"zswap, {zpool}",
        stats.compressed_bytes,
        stats.pool_total_size + refused * PAGE,
        stats.same_filled_pages,
        stats.stored_incompressible_pages,
        len(pages),
        refused,
    )


def compare(zram: Zram, zpools: Sequence[str], corpus: str, pages: Pages) -> list[Taken]:
    found = [in_zram(zram, corpus, pages), *(in_zswap(corpus, pages, zpool) for zpool in zpools)]
    for taken in found[1:]:
        taken.off_by = taken.memory / found[0].memory - 1
    return found


@click.command(help=__doc__)
@click.option(
    "--corpus",
    "names",
    type=click.Choice(list(CORPORA)),
    multiple=True,
    help="Pages to take; may be repeated.",
)
@click.option(
    "--file", "files", metavar="PATH", multiple=True, help="Pages of this file; may be repeated."
)
@click.option(
    "--pages", type=click.IntRange(min=1), metavar="N", help="Pages of each; 16384 unless given."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--chain",
    type=click.IntRange(4, 16),
    metavar="4..16",
    help="The kernel's, where it does not tell.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
@click.option("--smoke", is_flag=True, help="As few pages as show that it works.")
def main(
    names: tuple[str, ...],
    files: tuple[str, ...],
    pages: int | None,
    seed: int,
    chain: int | None,
    as_json: bool,
    as_markdown: bool,
    smoke: bool,
) -> None:
    count = pages or (1024 if smoke else 16384)
    told = zsmalloc_chain()
    length = chain or told or 8
    zpools = [f"zsmalloc-kernel:{length}", "zsmalloc", "z3fold", "zbud"]
    lines: list[Taken] = []
    try:
        with Zram("lz4") as zram:
            if not as_json:
                note = (
                    ""
                    if chain or told
                    else "; the kernel does not tell its chain, 8 is its default: see --chain"
                )
                click.echo(f"lz4; {zram.dev}; chain of the kernel's zsmalloc: {length}{note}")
            for name in names or (() if files else ("process", "text", "mix")):
                try:
                    lines += shown(
                        compare(zram, zpools, name, make(name, count, seed)), as_json, as_markdown
                    )
                except CorpusMissing as error:
                    click.echo(f"{name}: left out; {error}", err=True)
            for path in files:
                found = compare(zram, zpools, Path(path).name, from_file(path, count, seed))
                lines += shown(found, as_json, as_markdown)
    except RowMissing as error:
        click.echo(f"skipped: {error}")
        return
    except (OSError, zswap.Error) as error:
        raise click.ClickException(str(error)) from error
    worst = max(
        (
            abs(line.off_by)
            for line in lines
            if line.off_by is not None and line.name.endswith(zpools[0])
        ),
        default=0,
    )
    if as_json:
        click.echo(
            json.dumps({"chain": length, "lines": [asdict(line) for line in lines]}, indent=1)
        )
    verdict = (
        f"kernel view within {100 * worst:.2f} % of zram's mem_used_total; "
        f"{100 * TOLERANCE:.0f} % allowed"
    )
    click.echo(verdict, err=as_json)
    if worst > TOLERANCE:
        sys.exit(1)


def shown(found: list[Taken], as_json: bool, as_markdown: bool) -> list[Taken]:
    grid = [taken.cells() for taken in found]
    if not as_json:
        click.echo(f"\n{found[0].corpus}: {format_bytes(found[0].memory)} in zram\n")
        print_table(COLUMNS, grid, as_markdown=as_markdown)
    return found


if __name__ == "__main__":
    sys.exit(run(main, name="zram_compare.py"))
