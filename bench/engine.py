"""The engine without its codec: what finding, allocating, copying and publishing a page costs.

The compressor does nothing: it says a length that is written in the page itself, drawn from those
that lz4 makes of a live process's pages, and gives nothing back.  So what is measured is all that a
store or a load does beside compressing, the copy of the compressed bytes included; what these
copies take by themselves is measured beside it.  Medians.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import click
import numpy as np

import zswap
import zswap_core
from zswap.bench import corpora
from zswap.bench.output import Column, machine, print_table, progress
from zswap.shell import run

PAGE = 4096
BATCH = 1024
LEAST = 16_384  # pages at a time: few that are held are taken again, as the caches hold them
SINGLE = 20_000  # single calls at a time
COLUMNS = [Column("", "what"), Column("", "ns a page"), Column("", "least"), Column("", "over one")]

CODEC = r"""
#include <string.h>
#include <zswap/abi.h>

static size_t bound(void *state, size_t n) { return n + 64; }

/* The page's first two bytes are the length that it compresses to; its own is as it is. */
static int64_t compress(void *s, void *c, const uint8_t *src, size_t n, uint8_t *dst, size_t cap) {
    uint16_t length;
    memcpy(&length, src, 2);
    return length < n && length <= cap ? length : 0;
}

static int64_t decompress(
    void *s, void *c, const uint8_t *src, size_t n, uint8_t *dst, size_t cap) {
    return (int64_t)cap;
}

static const zsw_compressor_ops ops = {
    ZSW_ABI_VERSION, sizeof(zsw_compressor_ops), "nothing", ZSW_COMPRESSOR_STATELESS_DECOMPRESS,
    bound, NULL, NULL, compress, decompress, NULL,
};
const zsw_compressor nothing = {&ops, NULL};

/* What no store can do without: the bytes of each page go where they stay, a raw page's from the
 * caller's memory, others' from where they were compressed to. */
void copies(const uint8_t *batch, size_t pages, uint8_t *to, const uint64_t *places,
            const uint16_t *lengths, size_t n) {
    static uint8_t scratch[4096];
    for (size_t i = 0; i < n; i++)
        memcpy(to + places[i], lengths[i] < 4096 ? scratch : batch + i % pages * 4096, lengths[i]);
}
"""


def register(folder: Path) -> ctypes.CDLL:
    """Compile the codec that does nothing, as a plug-in from outside; returns the library."""
    source, library = folder / "nothing.c", folder / "nothing.so"
    source.write_text(CODEC)
    compiler = (sysconfig.get_config_var("CC") or "cc").split()
    include = zswap_core.get_include()
    subprocess.run(
        [*compiler, "-O2", "-shared", "-fPIC", f"-I{include}", str(source), "-o", str(library)],
        check=True,
    )
    loaded = ctypes.CDLL(str(library))
    codec = ctypes.addressof(ctypes.c_char.in_dll(loaded, "nothing"))
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = (
        ctypes.py_object,
        [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p],
    )
    name = b"zswap_core.compressor.v1"
    zswap.register_compressor("nothing", factory=lambda: new(codec, name, None))
    return loaded


def lengths(seed: int) -> np.ndarray:
    """What lz4 makes of the pages of a process; PAGE where it gains nothing."""
    pages = corpora.distinct(corpora.process(4096, seed))
    with zswap.ZSwap("lz4") as z:
        weights = []
        for offset, page in enumerate(pages):
            before = z.stats().compressed_bytes
            z.store(offset, page)
            weights.append(z.stats().compressed_bytes - before)
    return np.array([weight for weight in weights if weight > 8], np.uint16)


def pages_of(count: int, drawn: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    pages = np.zeros((count, PAGE // 2), np.uint16)
    pages[:, 0] = rng.choice(drawn, count)
    pages[:, 1:5] = rng.integers(1, 1 << 16, size=(count, 4), dtype=np.uint16)
    return pages.view(np.uint8)


def timed(call: Callable[[int], object], pages: int, threads: int) -> float:
    """Nanoseconds a page of all threads together."""
    begin = threading.Barrier(threads + 1)

    def work(number: int) -> None:
        begin.wait()
        call(number)

    running = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    for thread in running:
        thread.start()
    begin.wait()
    start = time.perf_counter_ns()
    for thread in running:
        thread.join()
    return (time.perf_counter_ns() - start) / (pages * threads)


def calls(
    z: zswap.ZSwap, held: int, drawn: np.ndarray
) -> dict[str, tuple[Callable[[int], object], int]]:
    """By name: what a thread does, and with how many pages."""
    rng = np.random.default_rng(1)
    batches = [pages_of(BATCH, drawn, rng) for _ in range(4)]
    out = [np.empty((BATCH, PAGE), np.uint8) for _ in range(8)]
    count = held // BATCH // 8 * BATCH  # of a thread's own part
    times = -(-LEAST // count)  # that each call takes them

    def order(number: int) -> np.ndarray:
        return np.arange(number * count, (number + 1) * count, dtype=np.uint64)

    mixed = [np.random.default_rng(n).permutation(held).astype(np.uint64)[:count] for n in range(8)]

    def each(offsets: np.ndarray, act: Callable[[np.ndarray, int], object]) -> None:
        for at in list(range(0, count, BATCH)) * times:
            act(offsets[at : at + BATCH], at // BATCH)

    def store(offsets: np.ndarray) -> None:
        each(offsets, lambda part, n: z.store_many(part, batches[n % 4]))

    def load(offsets: np.ndarray, number: int) -> None:
        each(offsets, lambda part, _: z.load_many(part, out[number]))

    # pages drawn as the batches' are: of one length they would leave the pool another than it was
    views, single = [page for batch in batches for page in batch], np.empty(PAGE, np.uint8)
    some = np.resize(mixed[0], SINGLE).tolist()
    single_pages = [views[n % len(views)] for n in range(len(some))]

    def store_single(_: int) -> None:
        for offset, page in zip(some, single_pages, strict=True):
            z.store(offset, page)

    def load_single(_: int) -> None:
        for offset in some:
            z.load(offset, out=single)

    return {
        "store in place, in order": (lambda n: store(order(n)), count * times),
        "store in place, at random": (lambda n: store(mixed[n]), count * times),
        "load in order": (lambda n: load(order(n), n), count * times),
        "load at random": (lambda n: load(mixed[n], n), count * times),
        "single store, at random": (store_single, len(some)),
        "single load, at random": (load_single, len(some)),
    }


def copies(
    library: ctypes.CDLL, count: int, drawn: np.ndarray
) -> dict[str, tuple[Callable[[int], object], int]]:
    """As `calls`, of what the stores there copy, to places as closely packed as can be."""
    rng = np.random.default_rng(1)
    batch = pages_of(BATCH, drawn, rng)
    lengths = np.resize(batch.view(np.uint16)[:, 0], count)
    sizes = (lengths.astype(np.uint64) + np.uint64(15)) // np.uint64(16) * np.uint64(16)
    to = np.ones(int(sizes.sum()), np.uint8)
    places = np.cumsum(sizes) - sizes
    shuffled = rng.permutation(count)

    def copy(at: np.ndarray, wide: np.ndarray) -> None:
        arrays = [a.ctypes.data_as(ctypes.c_void_p) for a in (batch, to, at, wide)]
        library.copies(arrays[0], ctypes.c_size_t(BATCH), *arrays[1:], ctypes.c_size_t(count))

    mixed = places[shuffled].copy(), lengths[shuffled].copy()
    return {
        "the copies alone, in order": (lambda _: copy(places, lengths), count),
        "the copies alone, at random": (lambda _: copy(*mixed), count),
    }


def measure(
    library: ctypes.CDLL, held: int, threads: tuple[int, ...], rounds: int, seed: int
) -> list[dict[str, object]]:
    drawn = lengths(seed)
    rows: list[dict[str, object]] = []
    with zswap.ZSwap("nothing", max_pool_bytes=2 * held * PAGE) as z, progress() as tell:
        rng = np.random.default_rng(seed)
        for at in range(0, held, BATCH):
            z.store_many(range(at, at + BATCH), pages_of(BATCH, drawn, rng))
        todo = calls(z, held, drawn) | copies(library, held, drawn)
        took: dict[tuple[str, int], list[float]] = {}
        for done in range(rounds):
            for name, (call, pages) in todo.items():
                tell(done, rounds, name)
                for n in threads if not name.startswith(("single", "the copies")) else (1,):
                    took.setdefault((name, n), []).append(timed(call, pages, n))
        for (name, n), ns in took.items():
            alone = took.get((name, 1))
            rows.append(
                {
                    "what": name if n == 1 else f"{name}, {n} threads",
                    "threads": n,
                    "ns": median(ns),
                    "least": min(ns),
                    # pages a second over those of one thread
                    "gain": median(alone) / median(ns) if alone and n > 1 else None,
                }
            )
    return rows


@click.command(help=__doc__)
@click.option("--pages", type=click.IntRange(min=8 * BATCH), default=200_000, show_default=True)
@click.option(
    "--threads", type=click.IntRange(1, 8), multiple=True, help="May be repeated.  [default: 1, 2]"
)
@click.option("--rounds", type=click.IntRange(min=1), default=9, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
@click.option("--smoke", is_flag=True, help="As little as shows that it works.")
def main(
    pages: int,
    threads: tuple[int, ...],
    rounds: int,
    seed: int,
    as_json: bool,
    as_markdown: bool,
    smoke: bool,
) -> None:
    pages, rounds = (8 * BATCH, 1) if smoke else (pages // BATCH * BATCH, rounds)
    with tempfile.TemporaryDirectory() as folder:
        library = register(Path(folder))
        rows = measure(library, pages, threads or (1, 2), rounds, seed)
    if as_json:
        click.echo(json.dumps({"pages": pages, "rounds": rounds, "rows": rows}))
        return
    grid = [
        [
            str(row["what"]),
            f"{row['ns']:.0f}",
            f"{row['least']:.0f}",
            "" if row["gain"] is None else f"{row['gain']:.2f} x",
        ]
        for row in rows
    ]
    click.echo(f"{machine()}; a codec that does nothing, {pages:,} pages\n")
    print_table(COLUMNS, grid, as_markdown=as_markdown)


if __name__ == "__main__":
    sys.exit(run(main, name="engine.py"))
