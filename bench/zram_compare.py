"""The same pages in a zram device and in zswap: memory, and time.

Takes a zram device that nobody uses (disksize 0), needs root, and gives the device back as it was, whatever happens.  Where
there is none it says so and exits with 0.  Exits with 1 when zsmalloc with the kernel's geometry takes more than 2 % more or
less than the device's own mem_used_total.

Pages are written and read with O_DIRECT, 32 in one request.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import gzip
import json
import mmap
import os
import platform
import re
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from corpora import PAGE, Pages, chosen, common_options, main

import zswap
from zswap.memory import format_bytes
from zswap.pages import open_files, sample

REQUEST = 128 * 1024
TOLERANCE = 0.02
BLOCK = Path("/sys/block")


class Skip(Exception):
    """Why there is nothing to compare with here."""


@dataclass
class Taken:
    """What held the pages, and what it took.  Times are ns a page."""

    corpus: str
    name: str
    payload: int
    memory: int
    same_filled: int
    raw: int
    store_ns: float
    load_ns: float
    off_by: float | None = None  # memory against zram's


def zsmalloc_chain() -> int | None:
    """Most pages in a zspage of the running kernel, from its configuration; None where it does not tell."""
    for path in (Path("/proc/config.gz"), Path(f"/boot/config-{platform.release()}")):
        with contextlib.suppress(OSError):
            data = path.read_bytes()
            text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
            if match := re.search(r"^CONFIG_ZSMALLOC_CHAIN_SIZE=(\d+)", text, re.MULTILINE):
                return int(match[1])
            if "CONFIG_ZSMALLOC=" in text:
                return 4  # before Linux 6.3
    return None


class Zram:
    """A free zram device, taken and given back."""

    def __init__(self, algorithm: str) -> None:
        if os.geteuid() != 0:
            raise Skip("a zram device can be used by root only; run as root")
        devices = sorted(BLOCK.glob("zram*"))
        if not devices:
            raise Skip("there is no zram device; `modprobe zram` makes one where the kernel has it")
        for self.sys in devices:
            self.dev = Path("/dev") / self.sys.name
            try:
                if int(self.read("disksize")) == 0 and self.take():
                    break
            except OSError:
                continue
        else:
            raise Skip(f"every zram device is in use ({', '.join(path.name for path in devices)})")
        offered = self.read("comp_algorithm")
        names = [name.strip("[]") for name in offered.split()]
        self.algorithm_before = next((name.strip("[]") for name in offered.split() if name.startswith("[")), None)
        if algorithm not in names:
            os.close(self.lock)
            raise Skip(f"{self.sys.name} has no {algorithm}; it has {', '.join(names)}")
        self.algorithm = algorithm

    def take(self) -> bool:
        """Keep other runs of this script away, by a lock on the directory: with the device open it could not be reset."""
        self.lock = os.open(self.sys, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self.lock)
            return False
        return True

    def read(self, name: str) -> str:
        return (self.sys / name).read_text().strip()

    def write(self, name: str, value: object) -> None:
        (self.sys / name).write_text(f"{value}\n")

    def mm_stat(self) -> dict[str, int]:
        names = ("orig", "payload", "used", "limit", "used_max", "same", "compacted", "raw", "raw_since")
        return dict(zip(names, map(int, self.read("mm_stat").split()), strict=False))

    @contextlib.contextmanager
    def sized(self, nbytes: int) -> Iterator[None]:
        """The device, empty and of that size; as it was before, afterwards."""
        # The signals that end a program become exceptions, so that the device is put back.
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGHUP)}
        try:
            self.write("comp_algorithm", self.algorithm)
            self.write("disksize", nbytes)
            yield
        finally:
            while True:  # a second Ctrl-C must not leave the device behind
                try:
                    self.restore()
                    break
                except KeyboardInterrupt:
                    continue
            for number, handler in before.items():
                signal.signal(number, handler)

    @staticmethod
    def _stop(*_: object) -> None:
        raise KeyboardInterrupt

    def restore(self) -> None:
        """Empty the device and set it back."""
        for attempt in range(50):
            try:
                self.write("reset", 1)
                break
            except OSError as error:  # something (udev, say) has just opened it
                if attempt == 49:
                    way = f"echo 1 > {self.sys}/reset; echo {self.algorithm_before} > {self.sys}/comp_algorithm"
                    raise OSError(f"{self.dev} cannot be reset ({error.strerror}); once nobody uses it: {way}") from error
                time.sleep(0.1)
        if self.algorithm_before is not None:
            self.write("comp_algorithm", self.algorithm_before)

    def transfer(self, view: memoryview, write: bool) -> int:
        """Write all of `view` to the device, or read it back; ns."""
        fd = os.open(self.dev, (os.O_WRONLY if write else os.O_RDONLY) | os.O_DIRECT | os.O_CLOEXEC)
        try:
            start = time.perf_counter_ns()
            for at in range(0, len(view), REQUEST):
                part = view[at : at + REQUEST]
                done = os.pwrite(fd, part, at) if write else os.preadv(fd, [part], at)
                if done != len(part):
                    raise OSError(f"{self.dev}: {done} bytes of {len(part)} at {at}")
            return time.perf_counter_ns() - start
        finally:
            os.close(fd)


def aligned(pages: Pages) -> memoryview:
    """A copy where O_DIRECT takes it from: page-aligned memory."""
    area = mmap.mmap(-1, pages.nbytes)
    view = memoryview(area)
    view[:] = pages.reshape(-1).data
    return view


def in_zram(zram: Zram, corpus: str, pages: Pages, rounds: int) -> Taken:
    source, target = aligned(pages), memoryview(mmap.mmap(-1, pages.nbytes))
    store, load, stat = [], [], {}
    for _ in range(rounds):
        with zram.sized(pages.nbytes):
            store.append(zram.transfer(source, True) / len(pages))
            stat = zram.mm_stat()
            load.append(zram.transfer(target, False) / len(pages))
            if target != source:
                raise OSError(f"{zram.dev} did not give back what was written")
    if stat["orig"] + stat["same"] * PAGE < pages.nbytes and stat["orig"] != pages.nbytes:
        raise OSError(f"{zram.dev} holds {stat['orig']} bytes of {pages.nbytes}")
    return Taken(
        corpus,
        f"zram, Linux {platform.release()}",
        stat["payload"],
        stat["used"],
        stat["same"],
        stat.get("raw", 0),
        statistics.median(store),
        statistics.median(load),
    )


def in_zswap(corpus: str, pages: Pages, compressor: str, zpool: str, rounds: int) -> Taken:
    offsets = np.arange(len(pages), dtype=np.uint64)
    out = np.zeros_like(pages)
    store, load = [], []
    for _ in range(rounds):
        with zswap.ZSwap(compressor, zpool, max_pool_bytes=2 * pages.nbytes + (64 << 20)) as z:
            start = time.perf_counter_ns()
            status = z.store_many(offsets, pages)
            store.append((time.perf_counter_ns() - start) / len(pages))
            if status.min() < 0:
                raise OSError(f"{zpool} refused {np.count_nonzero(status < 0)} pages")
            start = time.perf_counter_ns()
            z.load_many(offsets, out=out)
            load.append((time.perf_counter_ns() - start) / len(pages))
            if not np.array_equal(out, pages):
                raise OSError(f"{zpool} did not give back what was stored")
            stats = z.stats()
    return Taken(
        corpus,
        f"zswap, {zpool}",
        stats.compressed_bytes,
        stats.pool_total_size,
        stats.same_filled_pages,
        stats.stored_incompressible_pages,
        statistics.median(store),
        statistics.median(load),
    )


# ---- output ---------------------------------------------------------------------------------------------------------

COLUMNS = ("", "payload", "memory", "against zram", "same-filled", "raw", "store ns", "load ns")


def table(found: list[Taken]) -> list[list[str]]:
    return [
        [
            taken.name,
            f"{taken.payload:,}",
            f"{taken.memory:,}",
            "" if taken.off_by is None else f"{100 * taken.off_by:+.2f} %",
            str(taken.same_filled),
            str(taken.raw),
            f"{taken.store_ns:.0f}",
            f"{taken.load_ns:.0f}",
        ]
        for taken in found
    ]


def show(title: str, rows: list[list[str]], markdown: bool) -> None:
    if markdown:
        print(f"\n{title}\n\n| {' | '.join(COLUMNS)} |\n|---{'|---:' * (len(COLUMNS) - 1)}|")
        for row in rows:
            print(f"| {' | '.join(row)} |")
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for number, column in enumerate(COLUMNS):
        shown.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        shown.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120).print(shown)


def pages_of(path: str, count: int) -> Pages:
    with open_files([path], page_size=PAGE) as source:
        return np.concatenate([source.read(part)[0] for part in sample(len(source), count)])


def run() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common_options(parser)
    parser.add_argument("--file", action="append", default=[], metavar="PATH", help="pages of this file; may be repeated")
    parser.add_argument("--rounds", type=int, metavar="N", help="3 unless given")
    parser.add_argument(
        "--chain", type=int, choices=range(4, 17), metavar="4..16", help="the kernel's, where it does not tell"
    )
    options = parser.parse_args()
    count = options.pages or (1024 if options.smoke else 16384)
    rounds = options.rounds or (1 if options.smoke else 3)
    if count < 1 or rounds < 1:
        parser.error("at least 1 page and 1 round are needed")
    try:
        zram = Zram("lz4")
    except Skip as skip:
        print(f"skipped: {skip}")
        return 0

    told = zsmalloc_chain()
    chain = options.chain or told or 8
    note = "" if options.chain or told else "; the kernel does not tell its chain, 8 is its default: see --chain"
    if not options.json:
        print(f"lz4; {zram.dev}; chain of the kernel's zsmalloc: {chain}{note}; median of {rounds} rounds")
    zpools = [f"zsmalloc-kernel:{chain}", "zsmalloc"]
    sets = (
        [*chosen(options.corpus or (["mix"] if options.file else None), count)] if not options.file or options.corpus else []
    )
    sets += [(Path(path).name, pages_of(path, count)) for path in options.file]
    lines: list[Taken] = []
    worst = 0.0
    for name, pages in sets:
        found = [in_zram(zram, name, pages, rounds)]
        found += [in_zswap(name, pages, "lz4", zpool, rounds) for zpool in zpools]
        for taken in found[1:]:
            taken.off_by = taken.memory / found[0].memory - 1
        worst = max(worst, abs(found[1].off_by or 0.0))
        lines += found
        if not options.json:
            show(f"{name}: {len(pages)} pages, {format_bytes(pages.nbytes)}", table(found), options.markdown)
    if options.json:
        print(json.dumps({"chain": chain, "lines": [asdict(line) for line in lines]}, indent=1))
    verdict = f"kernel view within {100 * worst:.2f} % of zram's mem_used_total; {100 * TOLERANCE:.0f} % allowed"
    print(verdict, file=sys.stderr if options.json else sys.stdout)
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    main(run)
