"""Keep an engine under load for a while and check everything: real pages, swap files, switches,
failures, a full disk.

Two threads store, load and invalidate pages in random order, one over a plain swap file and one
over a packed one, a third switches compressor and zpool every 50 ms, a fourth changes the limit and
tells of memory pressure, and the shrinker works.  Every page that is loaded is compared with what
was stored; at the end all pages are, and the counters with a scan of every structure.  The process
must not grow beyond the cap, zswap's own metadata and 16 MiB; and once it is warm, what it has
beside the pools, whose size is that of the limit, must not grow at all: the medians of the first
and of the last tenth of the time are compared.  A packed file must come within its bound.

With --faults a fifth has system calls of the files fail, be short, or find no space, and the plain
file is behind a store in Python that fails one write in ten and one read in fifty.

    python bench/soak.py [--pages 80000] [--cap 32MiB] [--seconds 30] [--files both] [--faults]
    python bench/soak.py --seconds 120 --encrypt --wipe --checksum --json soak.json
    python bench/soak.py --seconds 3600 --faults --encrypt --wipe --checksum --plot soak.png

CI runs the second.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import mmap
import os
import random
import resource
import signal
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import hooks  # it makes _validate
import hooks.faults
import hooks.packed
import zswap
import zswap.core
from zswap.bench.corpora import PAGE, make
from zswap.bench.output import machine
from zswap.meminfo import format_bytes, parse_bytes
from zswap.output import check, writing
from zswap.plot import prepare, save_picture, settings
from zswap.shell import run

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture

WORKERS = 2
BATCH = 32  # pages a call, at most
SLACK = 16 << 20
GROWTH = 4 << 20  # that is none: what Python, numpy and the C library's heap come and go by
WARM = 0.1  # of the time
SHARES = (1.0, 0.5, 0.75, 0.25)  # of the cap: the limits, in turns
SWITCH_SECONDS = 0.05
SAMPLE_SECONDS = 0.25
SAMPLES = 2000  # at most
LINES = 240  # printed, at most
COMPRESSORS = [
    f"{info.name}:1"
    for info in zswap.compressors()
    if info.available and info.name in ("lz4", "zstd", "deflate")
]
ZPOOLS = ("zsmalloc", "zsmalloc:4", "z3fold", "zbud")
WRITES_A_FAILURE = 10
READS_A_FAILURE = 50
LAYOUTS = {"plain": ("plain",), "packed": ("packed",), "both": ("plain", "packed")}
# What the system says now and then; of a short transfer, so many bytes.
BROKEN = [
    ("FILE_WRITE", errno.EIO),
    ("FILE_WRITE", errno.ENOSPC),
    ("FILE_WRITE", errno.EINTR),
    ("FILE_WRITE_SHORT", 4096),
    ("FILE_READ", errno.EIO),
    ("FILE_READ_SHORT", 512),
    ("FILE_LENGTH", errno.ENOSPC),
    ("FILE_PUNCH", errno.EIO),
]
SHUNNED = 3  # the state of a segment that could not be read as a whole


def rss() -> int:
    """Resident memory of this process that is not a file's, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError(errno.ENOENT, "no RssAnon in /proc/self/status")


class Sample(NamedTuple):
    """One look at the memory, in bytes but for the first, in seconds."""

    at: float
    used: int  # by this process, beside what it used before there was an engine
    pool: int
    metadata: int
    limit: int
    held: int
    backed: int
    plain: int  # blocks that the files have on the disk
    packed: int


def growth(values: list[int]) -> tuple[int, int]:
    """The medians of the first and of the last tenth."""
    tenth = max(len(values) // 10, 1)
    return int(statistics.median(values[:tenth])), int(statistics.median(values[-tenth:]))


class Faulty:
    """A swap file that fails one write in ten and one read in fifty, from a seed, and counts the
    pages it failed."""

    def __init__(self, below: zswap.SwapFile) -> None:
        self.below, self.nr_pages = below, below.nr_pages
        self.rng, self.lock = random.Random(0), threading.Lock()
        self.failed_writes = self.failed_reads = 0
        self.calm = False

    def _fails(self, one_in: int) -> bool:
        return not self.calm and self.rng.randrange(one_in) == 0

    def write_pages(self, offsets: npt.NDArray[np.uint64], pages: npt.NDArray[np.uint8]) -> None:
        with self.lock:
            fails = self._fails(WRITES_A_FAILURE)
            self.failed_writes += len(offsets) * fails
        if fails:
            half = len(offsets) // 2  # as a device does: some of it is there
            with contextlib.suppress(zswap.BackingError):
                self.below.write_pages(offsets[:half], pages[:half])
            raise OSError(errno.EIO, "one write in ten")
        try:
            self.below.write_pages(offsets, pages)
        except zswap.BackingError:
            with self.lock:
                self.failed_writes += len(offsets)
            raise

    def read_pages(self, offsets: npt.NDArray[np.uint64], out: npt.NDArray[np.uint8]) -> None:
        with self.lock:
            fails = self._fails(READS_A_FAILURE)
            self.failed_reads += len(offsets) * fails
        if fails:
            out[:] = 0xEE
            raise OSError(errno.EIO, "one read in fifty")
        try:
            self.below.read_pages(offsets, out)
        except zswap.BackingError:
            with self.lock:
                self.failed_reads += len(offsets)
            raise

    def discard_pages(self, offsets: npt.NDArray[np.uint64]) -> None:
        self.below.discard_pages(offsets)


class Soak:
    """One run: the engine, the oracle, and what went wrong."""

    def __init__(
        self,
        z: zswap.ZSwap,
        files: dict[str, zswap.SwapFile],
        faults: bool,
        full_disk: bool,
        count: int,
        pages: npt.NDArray[np.uint8],
        source: mmap.mmap,
        seconds: float,
        psi: Path,
    ) -> None:
        self.z, self.pages, self.source, self.seconds, self.psi = z, pages, source, seconds, psi
        self.faults, self.full_disk = faults, full_disk
        self.files = files  # one an area, the first of area 0
        self.cap = z.stats().max_pool_bytes
        self.samples: list[Sample] = []
        self.filled = 0  # workers that have stored a page at each of their offsets
        self.digests = [hashlib.blake2b(page, digest_size=8).digest() for page in pages]
        # Which of the pages is stored at each offset, -1 for none.  A worker has every second
        # offset, and all of a worker's are in one area.
        self.held = np.full(count, -1, np.int64)
        self.stop = threading.Event()
        self.problems: list[str] = []
        self.done = dict.fromkeys(
            (
                *("stored", "loaded", "invalidated", "refused", "retried"),
                *("switches", "limits", "broken"),
            ),
            0,
        )
        self.lock = threading.Lock()

    def wrong(self, what: str) -> None:
        """Note what must not be, and end the run."""
        self.problems.append(what)
        self.stop.set()

    def count(self, **done: int) -> None:
        with self.lock:
            for name, by in done.items():
                self.done[name] += by

    def place(self, offsets: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], int]:
        """Where a worker's pages are: their offsets in an area, and its number."""
        return offsets // len(self.files), int(offsets[0]) % WORKERS % len(self.files)

    def store(self, offsets: npt.NDArray[np.int64], rng: np.random.Generator) -> None:
        which = rng.integers(0, len(self.pages), len(offsets))
        places, area = self.place(offsets)
        status = self.z.store_many(places, self.pages[which], swap_type=area)
        for code in set(status[status < 0].tolist()):
            # Without a store nothing is held after a refusal; with one, only when the store has
            # failed.
            if code != zswap.Status.BACKING_FAIL:
                self.wrong(f"a store was refused with {zswap.Status(code).name}")
        self.held[offsets] = np.where(status < 0, -1, which)
        self.count(stored=int((status >= 0).sum()), refused=int((status < 0).sum()))

    def load(self, offsets: npt.NDArray[np.int64]) -> None:
        out = np.empty((len(offsets), PAGE), np.uint8)
        status = np.empty(len(offsets), np.int8)
        places, area = self.place(offsets)
        self.z.load_many(places, out, swap_type=area, status=status)
        rows = zip(offsets.tolist(), places.tolist(), status.tolist(), out, strict=True)
        for offset, place, code, page in rows:
            for _ in range(50):  # one read in fifty fails, fifty in turn do not
                if code != zswap.Status.BACKING_FAIL:
                    break
                self.count(retried=1)
                one = np.empty(1, np.int8)
                self.z.load_many([place], page, swap_type=area, status=one)
                code = int(one[0])
            self.compare(offset, code, page)
        self.count(loaded=len(offsets))

    def compare(self, offset: int, code: int, page: npt.NDArray[np.uint8]) -> None:
        which = int(self.held[offset])
        if which < 0:
            if code != zswap.Status.ABSENT:
                self.wrong(
                    f"offset {offset} holds a page that was never stored, or freed (status {code})"
                )
        elif code < 0:
            self.wrong(f"the page at offset {offset} is lost: {zswap.Status(code).name}")
        elif hashlib.blake2b(page, digest_size=8).digest() != self.digests[which]:
            self.wrong(f"the page at offset {offset} is not the one that was stored")

    def work(self, number: int) -> None:
        """Store, load and invalidate, until told to stop."""
        rng = np.random.default_rng(number)
        mine = np.arange(number, len(self.held), WORKERS)
        try:
            for first in range(0, len(mine), BATCH):  # all of them once, in random order
                if first == 0:
                    rng.shuffle(mine)
                if self.stop.is_set():
                    return
                self.store(mine[first : first + BATCH], rng)
            with self.lock:
                self.filled += 1
            while not self.stop.is_set():
                offsets = rng.choice(mine, int(rng.integers(1, BATCH + 1)), replace=False)
                what = rng.random()
                if what < 0.35:
                    self.store(offsets, rng)
                elif what < 0.95:
                    self.load(offsets)
                else:
                    places, area = self.place(offsets)
                    freed = self.z.invalidate_many(places, swap_type=area)
                    if freed != int((self.held[offsets] >= 0).sum()):
                        self.wrong(
                            f"{freed} pages were freed, not {int((self.held[offsets] >= 0).sum())}"
                        )
                    self.held[offsets] = -1
                    self.count(invalidated=freed)
        except BaseException as error:
            self.wrong(f"worker {number}: {error!r}")

    def meddle(self) -> None:
        """Switch pools, and compact now and then."""
        rng = random.Random(3)
        try:
            while not self.stop.wait(SWITCH_SECONDS):
                self.z.compressor = rng.choice(COMPRESSORS)
                self.z.zpool = rng.choice(ZPOOLS)
                if rng.random() < 0.1:
                    self.z.compact()
                self.count(switches=1)
        except BaseException as error:
            self.wrong(f"the one that switches: {error!r}")

    def press(self) -> None:
        """Change the limit, and have the machine short of memory every second time.

        All the limits come up equally often in each tenth of the time, so that tenths can be
        compared.
        """
        tenth = self.seconds * (1 - WARM) / 10
        step = tenth / (len(SHARES) * max(round(tenth / len(SHARES)), 1))
        stalled = 0
        try:
            for turn in itertools.count(1):
                if self.stop.wait(step):
                    return
                self.z.parameters["max_pool_bytes"] = int(self.cap * SHARES[turn % len(SHARES)])
                stalled += turn % 2 * int(step * 1e6)
                self.psi.write_text(f"some avg10=0.00 avg60=0.00 avg300=0.00 total={stalled}\n")
                self.count(limits=1)
        except BaseException as error:
            self.wrong(f"the one that presses: {error!r}")

    def break_files(self) -> None:
        """Have one system call of the files fail, or a few in turn, over and over."""
        rng = random.Random(5)
        try:
            while not self.stop.wait(SWITCH_SECONDS):
                site, code = rng.choice(BROKEN)
                hooks.faults.arm(
                    site, nth=rng.randrange(1, 9), times=rng.randrange(1, 4), error=code
                )
                self.stop.wait(SWITCH_SECONDS)
                self.count(broken=hooks.faults.injected().get(site, 0))
                hooks.faults.disarm()
        except BaseException as error:
            self.wrong(f"the one that breaks files: {error!r}")
        finally:
            hooks.faults.disarm()

    def watch(self, base: int) -> None:
        """Sample the memory until the time is up."""
        begin = time.monotonic()
        every = max(SAMPLE_SECONDS, self.seconds / SAMPLES)
        next_line = 0.0
        while (at := time.monotonic() - begin) < self.seconds and not self.stop.wait(every):
            stats = self.z.stats()
            sample = Sample(
                at,
                rss() - base,
                stats.pool_total_size,
                stats.metadata_bytes,
                stats.max_pool_bytes,
                stats.stored_pages,
                stats.backed_pages,
                self.on_disk("plain"),
                self.on_disk("packed"),
            )
            self.samples.append(sample)
            if at >= next_line:
                next_line += max(every, self.seconds / LINES)
                print(
                    f"  {at:6.1f} s  used {format_bytes(max(sample.used, 0)):>9} of "
                    f"{format_bytes(self.allowed(sample)):>9}  "
                    f"pool {format_bytes(sample.pool):>9} of {format_bytes(sample.limit):>9}  held "
                    f"{sample.held:6}  "
                    f"in the files {sample.backed:6}  plain {format_bytes(sample.plain):>9}  "
                    f"packed {format_bytes(sample.packed):>9}",
                    flush=True,
                )
        self.stop.set()

    def on_disk(self, layout: str) -> int:
        return os.stat(self.files[layout].path).st_blocks * 512 if layout in self.files else 0

    def tidied(self) -> None:
        """The maintenance thread brings a packed file within its bound, but for segments that could
        not be read, and rests."""
        file = self.files["packed"]
        end, last = time.monotonic() + 60, None
        while (now := (file.stats(), hooks.packed.segments(file))) != last:
            if time.monotonic() > end:
                self.wrong("there is no end to cleaning")
                return
            last = now
            time.sleep(0.5)
        stats, segments = now
        states = [state for state, _ in segments]
        most = 1.3 * stats["packed_bytes"] + ((16 + states.count(SHUNNED)) << 20)
        size = sum(map(bool, states)) << 20 if SHUNNED in states else stats["file_bytes"]
        if size > most and not self.full_disk:  # cleaning takes a segment to move to
            self.wrong(f"the packed file has {size} bytes, more than {most:.0f}")
        hooks.packed.check(file)

    def allowed(self, sample: Sample) -> int:
        """What the process may use: a limit that was lowered is not reached at once, the cap is
        never passed."""
        return self.cap + sample.metadata + SLACK

    def judge(self) -> dict[str, int]:
        """Compare the memory with what is allowed, and its end with its beginning."""
        most = max(s.used for s in self.samples)
        room = min(self.allowed(s) - s.used for s in self.samples)
        warm = [s for s in self.samples if s.at >= self.seconds * WARM] or self.samples
        first, last = growth([s.used - s.pool for s in warm])
        first_rss, last_rss = growth([s.used for s in warm])
        if room < 0:
            self.problems.append(
                f"memory: {format_bytes(-room)} more than the cap, the metadata and "
                f"{format_bytes(SLACK)}"
            )
        # Where calls fail, what the files have for others to go on with is touched late.
        warmed = self.filled == WORKERS and (not self.faults or self.seconds >= 60)
        if warmed and last - first > GROWTH:
            self.problems.append(
                f"memory grows: from {format_bytes(max(first, 0))} to {format_bytes(last)} beside "
                "the pools"
            )
        return {
            "most": most,
            "room": room,
            "first_tenth": first,
            "last_tenth": last,
            "first_tenth_rss": first_rss,
            "last_tenth_rss": last_rss,
        }

    def check(self, faulty: Faulty | None) -> None:
        """At rest: every page, every counter."""
        if faulty is not None:
            faulty.calm = True
        self.z.parameters["writeback_limit"] = 0  # the shrinker rests
        self.z.swapon(255)
        self.z.swapoff(255)  # waits for calls in flight
        held = np.flatnonzero(self.held >= 0)
        for number in range(WORKERS):
            mine = np.arange(number, len(self.held), WORKERS)
            for first in range(0, len(mine), 256):
                self.load(mine[first : first + 256])
        count = sum(self.z._page_count(area) for area in range(len(self.files)))
        if count != len(held):
            self.wrong(f"{count} pages are held, not {len(held)}")
        stats = self.z.stats()
        where = np.concatenate(
            [
                self.z.compressed_sizes(places, swap_type=area)
                for number in range(WORKERS)
                for part in np.array_split(np.arange(number, len(self.held), WORKERS), 16)
                for places, area in [self.place(part)]
            ]
        )
        scan = {
            "stored_pages": int((where >= 0).sum()),
            "same_filled_pages": int((where == 0).sum()),
            "stored_incompressible_pages": int((where == PAGE).sum()),
            "compressed_bytes": int(where[where > 0].sum()),
            "backed_pages": int((where == -2).sum()),
            "invalidates": self.done["invalidated"],
            "decompress_fail": 0,
        }
        # What fails together is tried again page by page, and only that counts.
        scan["backing_read_fail"] = self.done["retried"]
        scan["backing_write_fail"] = stats.reject_reclaim_fail + self.done["refused"]
        if faulty is not None and "packed" not in self.files:
            for ours, theirs in (
                (stats.backing_write_fail, faulty.failed_writes),
                (stats.backing_read_fail, faulty.failed_reads),
            ):
                if ours > theirs:
                    self.wrong(f"{ours} pages failed, and the file failed {theirs} times")
        for name, value in scan.items():
            if getattr(stats, name) != value:
                self.wrong(f"the counter {name} is {getattr(stats, name)}; a scan finds {value}")
        try:
            if "packed" in self.files:
                self.tidied()
            self.z._validate()
        except AssertionError as error:
            self.wrong(str(error))

    def run(self, faulty: Faulty | None) -> dict[str, Any]:
        """Run it, print what it did, and return the report."""
        self.source.madvise(mmap.MADV_DONTNEED)
        base = rss()
        threads = [threading.Thread(target=self.work, args=(k,)) for k in range(WORKERS)]
        threads += [threading.Thread(target=self.meddle), threading.Thread(target=self.press)]
        threads += [threading.Thread(target=self.break_files)] * self.faults
        for t in threads:
            t.start()
        self.watch(base)
        for t in threads:
            t.join()
        self.check(faulty)
        memory = self.judge()
        self.tell(memory, faulty)
        return {
            "problems": self.problems,
            "done": self.done,
            "memory": memory,
            "stats": self.z.stats().to_dict(),
            "files": {layout: file.stats() for layout, file in self.files.items()},
            "samples": [sample._asdict() for sample in self.samples],
        }

    def tell(self, memory: dict[str, int], faulty: Faulty | None) -> None:
        stats = self.z.stats()
        print("\n" + "  ".join(f"{name} {value:,}" for name, value in self.done.items()))
        names = (
            "written_back_pages",
            "written_through_pages",
            "backing_loads",
            "pool_limit_hit",
            "backing_write_fail",
        )
        print(
            "  ".join(
                f"{name} {getattr(stats, name):,}"
                for name in (*names, "backing_read_fail", "reject_reclaim_fail")
            )
        )
        if faulty is not None:
            print(
                f"the plain file failed {faulty.failed_writes:,} pages' writes and "
                f"{faulty.failed_reads:,} pages' reads"
            )
        if "packed" in self.files:
            figures = self.files["packed"].stats()
            print(
                f"packed: {figures['cleaned_segments']:,} segments cleaned, "
                f"{format_bytes(figures['moved_bytes'])} of "
                f"{format_bytes(figures['file_written_bytes'])} written were moved, "
                f"{figures['write_failures']:,} writes and {figures['read_failures']:,} reads "
                "failed"
            )
        least = {name: format_bytes(max(value, 0)) for name, value in memory.items()}
        print(f"memory: {least['most']} at most; room left at worst {least['room']}")
        for what, name in (("beside the pools", "tenth"), ("in all", "tenth_rss")):
            print(
                f"medians {what}: {least[f'first_{name}']} in the first tenth once warm, "
                f"{least[f'last_{name}']} in the last"
            )
        for problem in self.problems[:10]:
            print(f"WRONG: {problem}")
        print(
            "nothing lost, every counter right"
            if not self.problems
            else f"{len(self.problems)} things are wrong"
        )


def corpus(path: Path, count: int) -> tuple[npt.NDArray[np.uint8], mmap.mmap]:
    """Pages of a process's memory and of files, mapped from a file so that they are no memory of
    ours."""
    with path.open("wb") as file:
        for part in (make("process", count // 2), make("text", count - count // 2)):
            file.write(part.tobytes())
    with path.open("rb") as file:
        source = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(source, np.uint8).reshape(-1, PAGE), source


def draw(report: dict[str, Any], path: str) -> None:
    """The memory over time."""
    with settings():
        save_picture(_drawn(report), path)


def _drawn(report: dict[str, Any]) -> Picture:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    samples = [Sample(**sample) for sample in report["samples"]]
    minutes = report["options"]["seconds"] > 600
    times = [s.at / (60 if minutes else 1) for s in samples]
    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    memory, disk = figure.subplots(2, 1, sharex=True)
    lines = [
        (memory, "the process, beside what it had before (RSS)", "used", "#0072b2"),
        (memory, "the pools", "pool", "#009e73"),
        (memory, "the limit", "limit", "#d55e00"),
    ]
    lines += [
        (disk, f"the {layout} swap file (blocks on the disk)", layout, colour)
        for layout, colour in (("plain", "#cc79a7"), ("packed", "#56b4e9"))
        if layout in report["files"]
    ]
    for axes, name, what, colour in lines:
        values = [getattr(s, what) / (1 << 20) for s in samples]
        axes.plot(times, values, label=name, color=colour, linewidth=0.9)
    disk.set_xlabel("minutes" if minutes else "seconds")
    for axes in (memory, disk):
        axes.set(ylabel="MiB", ylim=(0, None), xlim=(0, None))
        axes.grid(color="#dde3e9", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.13), ncols=3, frameon=False)
    return figure


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.option(
    "--pages",
    type=click.IntRange(min=1000),
    default=80_000,
    show_default=True,
    help="Offsets to store pages at.",
)
@click.option(
    "--cap",
    default="32MiB",
    show_default=True,
    metavar="SIZE",
    help="The most that the pool's limit is set to.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=30,
    show_default=True,
    help="How long.",
)
@click.option(
    "--files",
    "layout",
    type=click.Choice(list(LAYOUTS)),
    default="both",
    show_default=True,
    help="Which swap files there are.",
)
@click.option(
    "--faults", is_flag=True, help="System calls of the files fail, are short, or find no space."
)
@click.option(
    "--full-disk", is_flag=True, help="The swap file has room for a third of what it should hold."
)
@click.option("--encrypt", is_flag=True, help="The swap file is encrypted.")
@click.option(
    "--wipe", is_flag=True, help="What is freed is wiped, and nothing of it goes into core dumps."
)
@click.option("--checksum", is_flag=True, help="Every page has a checksum.")
@click.option("--plot", metavar="PATH", help="Draw the memory over time to a .png, .svg or .pdf.")
@click.option("--json", "json_path", metavar="PATH", help="Write a report.")
@click.option("--smoke", is_flag=True, help="A few seconds, few pages.")
def main(plot: str | None, json_path: str | None, smoke: bool, **options: Any) -> None:
    """Run what the command line asks for in a folder of its own."""
    if smoke:
        options.update(pages=4000, cap="2MiB", seconds=4)
    if plot is not None:
        prepare(plot)
    if json_path is not None:
        check(json_path)
    with tempfile.TemporaryDirectory(prefix="zswap-soak-") as name:
        report = soak(Path(name), **options)
    report = {"schema": "zswap.soak", "machine": machine(), "options": options, **report}
    if json_path is not None:
        with writing(json_path) as file:
            file.write(json.dumps(report).encode() + b"\n")
    if plot is not None:
        draw(report, plot)
    sys.exit(1 if report["problems"] else 0)


def soak(
    folder: Path,
    pages: int,
    cap: str,
    seconds: float,
    layout: str,
    faults: bool,
    full_disk: bool,
    encrypt: bool,
    wipe: bool,
    checksum: bool,
) -> dict[str, Any]:
    """Run, and return the report."""
    corpus_pages, source = corpus(folder / "pages", pages)
    click.echo(
        f"{pages} offsets, {len(corpus_pages)} pages of a process and of files, cap {cap}, swap "
        f"files ({', '.join(LAYOUTS[layout])}) in {folder}"
    )
    files = {
        name: zswap.SwapFile(
            folder / name,
            (pages + 1) // len(LAYOUTS[layout]) * PAGE,
            direct=False,
            encrypt=encrypt,
            packed=name == "packed",
        )
        for name in LAYOUTS[layout]
    }
    faulty = Faulty(files["plain"]) if faults and "plain" in files else None
    if full_disk:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (pages // len(files) // 3 * PAGE, hard))
    psi = folder / "pressure"
    psi.write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")
    # the machine's own is not ours to press
    zswap.core.pressure_files = lambda: (
        bytes(psi),
        b"",
        0,
    )
    stores: list[Faulty | zswap.SwapFile] = list(files.values())
    if faulty is not None:
        stores[0] = faulty
    try:
        with zswap.ZSwap(
            max_pool_bytes=parse_bytes(cap),
            backing=stores[0],
            shrinker_interval=0.1,
            wipe_on_free=wipe,
            dontdump=wipe,
            checksum=checksum,
        ) as z:
            for area, store in enumerate(stores[1:], 1):
                z.swapon(area, backing=store)
            what = Soak(z, files, faults, full_disk, pages, corpus_pages, source, seconds, psi)
            return what.run(faulty)
    finally:
        for file in files.values():
            file.close()


if __name__ == "__main__":
    sys.exit(run(main, name="soak.py"))
