"""What the project promises, measured here: each figure, its bound, and whether it holds.

What is compared runs in one process, one right after the other, again and again: the figure is the
median of the ratios (or differences) of these pairs, so that what a noisy machine does to both
falls out.  The pages are not same-filled: those would flatter every line but the codec's own.
"""

from __future__ import annotations

import math
import mmap
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import zswap
from zswap.bench import corpora
from zswap.bench.corpora import PAGE, Pages
from zswap.bench.growth import Held, grow, offsets_of
from zswap.bench.rows import Batch, Codec, CodecCopy, Job, Single, together
from zswap.bench.table import measure
from zswap_core.bench import CodecLoop, IndexLoop
from zswap_core.compressors.registry import open_compressor

__all__ = ["ENTRIES", "FIGURES", "Figure", "Setting", "figures"]

Values = Mapping[str, float]  # by corpus

_LASTING = 8

#: Numbers of entries: where growth begins, of the index and ranges, where growth ends.
ENTRIES = (100_000, 1_000_000, 10_000_000)


@dataclass(frozen=True)
class Figure:
    """One promise.

    Attributes
    ----------
    what : str
    bound, value : float
        Value is NaN where it could not be measured.
    at_most : bool
        Whether the bound is from above.
    unit : str
    note : str
        Values by corpus, or why there is none.
    beside : bool
        Whether all else that goes with the figure holds too.
    judged : bool
        Whether enough was measured to say whether it holds.
    """

    what: str
    bound: float
    value: float
    at_most: bool = True
    unit: str = "×"
    note: str = ""
    beside: bool = True
    judged: bool = True

    @property
    def holds(self) -> bool | None:
        """None where it was not measured, or is not judged."""
        if math.isnan(self.value) or not self.judged:
            return None
        return self.beside and (
            self.value <= self.bound if self.at_most else self.value >= self.bound
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the figure as JSON has it, with whether it holds."""
        value = None if math.isnan(self.value) else self.value
        return asdict(self) | {"value": value, "holds": self.holds}


@dataclass
class Setting:
    """What the figures are measured with.

    Attributes
    ----------
    pages : dict
        Of each corpus, same-filled ones left out.
    rounds : int
    entries : tuple of int
        As `ENTRIES`.
    progress : callable
        Told what is being done.
    """

    pages: dict[str, Pages]
    rounds: int = 5
    entries: tuple[int, int, int] = ENTRIES
    seed: int = 0
    progress: Callable[[str], object] = field(default=lambda what: None)


def in_pairs(
    rounds: int, one: Callable[[], float], other: Callable[[], float]
) -> list[tuple[float, float]]:
    """Results of the two calls made right after each other; which one comes first changes."""
    pairs = []
    for number in range(rounds):
        if number % 2:
            second = other()
            pairs.append((one(), second))
        else:
            pairs.append((one(), other()))
    return pairs


def _by_corpus(values: Values, form: str) -> str:
    return ", ".join(f"{name} {value:{form}}" for name, value in values.items())


def _worst(
    what: str, bound: float, values: Values, *, at_most: bool = True, unit: str = "×"
) -> Figure:
    value = (max if at_most else min)(values.values())
    return Figure(
        what, bound, value, at_most, unit, _by_corpus(values, ".2f" if unit == "×" else ".0f")
    )


# ---- calls ---------------------------------------------------------------------------------------


def _calls_on(pages: Pages, compressor: str, setting: Setting) -> dict[str, float]:
    """Measure the figures of `calls` on one corpus; by their names there."""
    job = Job(pages, pages.copy(), compressor, setting.seed)
    order, shuffled, count = job.order, job.shuffled, len(pages)
    bare, whole = Codec(job), CodecCopy(job)
    # What is loaded from is filled once, in order; what is stored replaces pages elsewhere.
    kept, stirred = Batch(job), Batch(job)
    single_kept, single_stirred = Single(job), Single(job)
    # Python threads take turns of 5 ms: only what lasts much longer tells what they gain.
    lasting = Job(
        np.concatenate([pages] * _LASTING),
        np.concatenate([job.out] * _LASTING),
        compressor,
        setting.seed,
    )
    taking_turns = Single(lasting)
    rows = (kept, stirred, single_kept, single_stirred, taking_turns)
    fresh = Batch(job)

    def new() -> int:
        fresh.clear()
        return fresh.store()

    def over(one: Callable[[], float], other: Callable[[], float]) -> float:
        return statistics.median(a / b for a, b in in_pairs(3 * setting.rounds, one, other))

    def beyond(one: Callable[[], float], other: Callable[[], float]) -> float:
        return statistics.median(a - b for a, b in in_pairs(3 * setting.rounds, one, other)) / count

    def gain(call: Callable[[int], float]) -> float:
        return over(lambda: call(1), lambda: call(2))

    try:
        for row in rows:
            row.clear()
            row.store()
        found = {
            "store 2": gain(stirred.store),
            "load 2": gain(lambda threads: kept.load(order, threads)),
            "codec store 2": gain(whole.store),
            "codec load 2": gain(lambda threads: bare.load(order, threads)),
        }
        if compressor == "lz4":
            found |= {
                "store": over(stirred.store, whole.store),
                "new": over(new, whole.store),
                "load": over(lambda: kept.load(order), lambda: bare.load(order)),
                "random": over(lambda: kept.load(shuffled), lambda: bare.load(shuffled)),
                "single store": beyond(single_stirred.store, stirred.store),
                "single load": beyond(lambda: single_kept.load(order), lambda: kept.load(order)),
                "single store 2": gain(taking_turns.store),
                "single load 2": gain(lambda threads: taking_turns.load(lasting.order, threads)),
            }
        if not all(row.check() for row in rows):
            raise zswap.Error("the pages loaded are not those stored")
        return found
    finally:
        for row in (*rows, fresh):
            row.close()


def calls(setting: Setting) -> Iterator[Figure]:
    """Batches over the bare codec, single calls over batches, two threads over one."""
    taken: dict[str, dict[str, dict[str, float]]] = {}
    for compressor in ("lz4", "zstd:1"):
        for name, pages in setting.pages.items():
            setting.progress(f"calls, {compressor}, {name}")
            taken.setdefault(compressor, {})[name] = _calls_on(pages, compressor, setting)

    def of(what: str, compressor: str = "lz4") -> dict[str, float]:
        return {name: found[what] for name, found in taken[compressor].items()}

    store = _worst("batch store over codec, scan, copy", 1.06, of("store"))
    yield replace(store, note=f"{store.note}; into an empty pool {_by_corpus(of('new'), '.2f')}")
    yield _worst("batch load over codec, in order", 1.08, of("load"))
    yield _worst("batch load over codec, at random", 1.20, of("random"))
    yield _worst("single store over batch", 250, of("single store"), unit="ns")
    yield _worst("single load over batch", 200, of("single load"), unit="ns")
    for compressor in taken:
        for what in ("store", "load"):
            figure = _worst(
                f"threads=2 over 1, {what}, {compressor}",
                1.9,
                of(f"{what} 2", compressor),
                at_most=False,
            )
            alone = _by_corpus(of(f"codec {what} 2", compressor), ".2f")
            yield replace(figure, note=f"{figure.note}; the codec alone {alone}")
    for what in ("single store", "single load"):
        yield _worst(f"two Python threads over one, {what}", 1.0, of(f"{what} 2"), at_most=False)


def _gain_on_large(pages: Pages, rounds: int) -> float:
    """Two Python threads over one, each of which loads all pages of 64 KiB, one at a time."""
    size, count = 16 * PAGE, len(pages) // 16
    outs = np.empty((2, size), np.uint8)
    with zswap.ZSwap("zstd:1", page_size=size, max_pool_bytes=2 * pages.nbytes) as engine:
        engine.store_many(range(count), pages[: 16 * count])

        def load(number: int) -> None:
            for _ in range(_LASTING):
                for offset in range(count):
                    engine.load(offset, outs[number])

        pairs = in_pairs(rounds, lambda: 2 * together(1, load), lambda: together(2, load))
    return statistics.median(one / two for one, two in pairs)


def large(setting: Setting) -> Iterator[Figure]:
    """Measure two Python threads over one where a call takes long: pages of 64 KiB with zstd:1."""
    setting.progress("large pages")
    yield _worst(
        "two Python threads over one, single load of 64 KiB, zstd:1",
        1.8,
        {name: _gain_on_large(pages, setting.rounds) for name, pages in setting.pages.items()},
        at_most=False,
    )


def against_zram(setting: Setting) -> Iterator[Figure]:
    """Measure batches against the kernel's zram, pages new and in place.

    Each runs in a process of its own, as in the table.
    """
    gains: dict[str, dict[str, float]] = {"new": {}, "store": {}, "load": {}}
    why = ""
    for name, pages in setting.pages.items():
        setting.progress(f"against zram, {name}")
        corpus = measure(
            name, pages, rows=(Batch.name, "zram"), rounds=setting.rounds, seed=setting.seed
        )
        ours, zram = corpus.row(Batch.name), corpus.row("zram")
        if ours is None or zram is None:
            why = corpus.missing.get("zram") or corpus.missing[Batch.name]
            break
        for what, values in gains.items():
            values[name] = statistics.median(getattr(zram, what)) / statistics.median(
                getattr(ours, what)
            )
    for what, title in (("new", "store, new"), ("store", "store, in place"), ("load", "load")):
        figure = Figure(
            f"zram over batch, {title}, geometric mean", 1.15, math.nan, at_most=False, note=why
        )
        if not why:
            values = gains[what]
            mean = statistics.geometric_mean(values.values())
            figure = replace(
                figure, value=mean, note=_by_corpus(values, ".2f"), beside=min(values.values()) > 1
            )
        yield figure


def _page_aligned(job: Job) -> None:
    """Move a job's pages to where O_DIRECT takes them from."""
    moved = [
        np.frombuffer(mmap.mmap(-1, job.pages.nbytes), np.uint8).reshape(-1, PAGE) for _ in range(2)
    ]
    moved[0][:] = job.pages
    job.pages, job.out = moved


def same_filled(setting: Setting) -> Iterator[Figure]:
    """Measure a same-filled page in cache over the bare scan and fill; batches of 256, 1 MiB."""
    setting.progress("same-filled pages")
    pages = corpora.make("same-filled", 256, setting.seed)
    out, count, repeats = pages.copy(), 256, 20
    order = np.arange(count, dtype=np.uint64)
    loop = CodecLoop(open_compressor("lz4"), pages.reshape(-1), PAGE)
    loop.run("store")

    def timed(call: Callable[[], object]) -> float:
        start = time.perf_counter_ns()
        for _ in range(repeats):
            call()
        return (time.perf_counter_ns() - start) / (count * repeats)

    with zswap.ZSwap(max_pool_bytes="64MiB") as engine:
        engine.store_many(order, pages)

        def store() -> float:
            return timed(lambda: engine.store_many(order, pages))

        def load() -> float:
            return timed(lambda: engine.load_many(order, out=out))

        def scan() -> float:
            return sum(loop.run("scan") for _ in range(repeats)) / (count * repeats)

        def fill() -> float:
            return sum(
                loop.run("load", out=out.reshape(-1), order=order) for _ in range(repeats)
            ) / (count * repeats)

        for call, limit in ((store, scan), (load, fill)):
            pairs = in_pairs(8 * setting.rounds, call, limit)
            ours, bare = (statistics.median(values) for values in zip(*pairs, strict=True))
            yield Figure(
                f"same-filled page, {call.__name__} over a bare {limit.__name__}",
                80,
                statistics.median(a - b for a, b in pairs),
                unit="ns",
                note=f"{call.__name__} {ours:.0f}, bare {limit.__name__} {bare:.0f}",
            )


# ---- memory --------------------------------------------------------------------------------------


def memory(setting: Setting) -> Iterator[Figure]:
    """Measure allocator and metadata over payload: filled, half freed and compacted, refilled.

    The pages are ten times each corpus.
    """
    found: dict[str, dict[str, float]] = {
        "after a fill": {},
        "half freed, after compact()": {},
        "refilled": {},
    }
    for name, pages in setting.pages.items():
        setting.progress(f"memory, {name}")
        count, times = len(pages), 10
        half = (
            np.random.default_rng(setting.seed)
            .permutation(times * count)[: times * count // 2]
            .astype(np.uint64)
        )
        with zswap.ZSwap("lz4", max_pool_bytes=2 * times * pages.nbytes + (64 << 20)) as engine:

            def overhead(engine: zswap.ZSwap = engine) -> float:
                stats = engine.stats()
                return stats.resident_bytes / stats.compressed_bytes

            for turn in range(times):
                engine.store_many(
                    np.arange(turn * count, (turn + 1) * count, dtype=np.uint64), pages
                )
            found["after a fill"][name] = overhead()
            engine.invalidate_many(half)
            engine.compact()
            found["half freed, after compact()"][name] = overhead()
            for at in range(0, len(half), 1024):
                part = half[at : at + 1024]
                engine.store_many(part, pages[(part % np.uint64(count)).astype(np.int64)])
            found["refilled"][name] = overhead()
    for what, bound in zip(found, (1.04, 1.10, 1.05), strict=True):
        values = found[what]
        yield Figure(
            f"memory and metadata over payload, {what}",
            bound,
            max(values.values()),
            note=_by_corpus(values, ".3f"),
        )


# ---- growth --------------------------------------------------------------------------------------


def many(setting: Setting) -> Iterator[Figure]:
    """Measure metadata and ranges at 10^6 pages, the index alone, and a load from 10^5 to 10^7.

    The pages are such that lz4 makes 100 bytes of each.
    """
    few, some, most = setting.entries
    setting.progress(f"{some:,} entries")
    dense = grow("dense, in order", some, rounds=1, seed=setting.seed)
    yield Figure("metadata a page, dense", 40, dense.metadata, unit="bytes", note=f"{some:,} pages")
    yield Figure(f"invalidate_range of {some:,} pages, a page", 40, dense.invalidate, unit="ns")
    setting.progress("the index")
    index = IndexLoop(np.arange(some, dtype=np.uint64))
    looked_up = offsets_of("dense, random", some, setting.seed)
    lookups = [index.lookup(looked_up)[1] / some for _ in range(setting.rounds)]
    yield Figure(
        f"index lookup, random, {some:,} entries", 60, statistics.median(lookups), unit="ns"
    )
    setting.progress(f"{few:,} and {most:,} entries")
    shape = "dense, random"
    with (
        Held(shape, few, seed=setting.seed) as small,
        Held(shape, most, seed=setting.seed) as large,
    ):
        pairs = in_pairs(setting.rounds, small.load, large.load)
    ns = [statistics.median(values) for values in zip(*pairs, strict=True)]
    yield Figure(
        f"a load, from {few:,} to {most:,} entries",
        1.3,
        statistics.median(b / a for a, b in pairs),
        note=f"{ns[0]:.0f} ns, {ns[1]:.0f} ns at random",
    )


# ---- backing store, start ------------------------------------------------------------------------


def writeback(setting: Setting) -> Iterator[Figure]:
    """Measure writeback to a swap file over bare pwrite in 1 MiB batches to a file beside it.

    Both files are sparse.
    """
    name, pages = next(iter(setting.pages.items()))
    setting.progress("writeback")
    count = len(pages)
    job = Job(pages, pages.copy(), "lz4", setting.seed)
    _page_aligned(job)
    view = job.pages.reshape(-1).data
    with tempfile.TemporaryDirectory(prefix="zswap-bench-", dir=".") as folder:
        file = zswap.SwapFile(f"{folder}/swap", count * PAGE)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (os.O_DIRECT if file.direct else 0)
        fd = os.open(f"{folder}/bare", flags, 0o600)
        try:
            with zswap.ZSwap(
                "lz4", max_pool_bytes=2 * pages.nbytes + (64 << 20), backing=file
            ) as engine:

                def ours() -> float:
                    engine.store_many(job.order, job.pages)
                    start = time.perf_counter_ns()
                    written = engine.shrink(count)
                    took = time.perf_counter_ns() - start
                    if written != count:
                        raise zswap.Error(f"{written} of {count} pages were written back")
                    return took / count

                def bare() -> float:
                    os.ftruncate(fd, 0)
                    os.ftruncate(fd, count * PAGE)
                    start = time.perf_counter_ns()
                    for at in range(0, len(view), 1 << 20):
                        os.pwrite(fd, view[at : at + (1 << 20)], at)
                    return (time.perf_counter_ns() - start) / count

                pairs = in_pairs(3 * setting.rounds, ours, bare)
        finally:
            os.close(fd)
            file.close()
        direct = "O_DIRECT" if file.direct else "page cache"
    ns = [statistics.median(values) for values in zip(*pairs, strict=True)]
    yield Figure(
        "writeback over bare pwrite, throughput",
        0.7,
        statistics.median(b / a for a, b in pairs),
        at_most=False,
        note=f"{name}, {direct}: {_rate(ns[0])}, bare {_rate(ns[1])}",
    )


def _rate(ns: float) -> str:
    return f"{PAGE * 1000 / ns:,.0f} MB/s"


_START = """
import time
import numpy
begin = time.perf_counter()
import zswap
imported = time.perf_counter()
zswap.ZSwap().close()
print(imported - begin, time.perf_counter() - imported)
"""


def start(setting: Setting) -> Iterator[Figure]:
    """Measure what a program waits for: the import beyond numpy's own, and the first ZSwap()."""
    setting.progress("start")
    folder = Path(zswap.__file__).parents[1]  # so that this zswap is the one imported
    taken = []
    for _ in range(setting.rounds):
        done = subprocess.run(
            [sys.executable, "-c", _START], capture_output=True, text=True, check=True, cwd=folder
        )
        taken.append([1000 * float(word) for word in done.stdout.split()])
    imported, first = (statistics.median(column) for column in zip(*taken, strict=True))
    yield Figure(
        "import zswap, beyond numpy's",
        60,
        imported,
        unit="ms",
        note=f"Python {platform.python_version()}",
    )
    yield Figure("first ZSwap()", 5, first, unit="ms")


#: The groups of figures, by name.
FIGURES: dict[str, Callable[[Setting], Iterator[Figure]]] = {
    "calls": calls,
    "large": large,
    "zram": against_zram,
    "same-filled": same_filled,
    "memory": memory,
    "many": many,
    "writeback": writeback,
    "start": start,
}


def figures(
    setting: Setting, groups: Sequence[str] | None = None, missing: dict[str, str] | None = None
) -> list[Figure]:
    """Measure the figures.

    Parameters
    ----------
    setting : Setting
    groups : sequence of str, optional
        Which of `FIGURES`; all unless given.
    missing : dict, optional
        Takes the groups that could not be measured, and why; without it, the first of them is an
        exception.

    Returns
    -------
    list of Figure
    """
    found: list[Figure] = []
    for group in groups or FIGURES:
        try:
            found += FIGURES[group](setting)
        except (OSError, MemoryError, zswap.Error, subprocess.SubprocessError) as error:
            if missing is None:
                raise
            missing[f"figures of {group}"] = str(error) or type(error).__name__
    return found
