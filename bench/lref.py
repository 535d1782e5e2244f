"""lref beside the other compressors on pages of processes: the codecs alone, or through the engine
and beside the kernel's zram; all in one process, taking turns.

    python bench/lref.py [--pages 8000] [--rounds 8] [--variants | --engine] [--page-size 16384]
                         [--plot FILE] [CORPUS ...]

A markdown table.  Ratio: a page that does not shrink counts whole.  Nanoseconds a page to store and
to load: the mean over all pages, and p99, of each page's best round, so that what else the machine
does falls out; each against lz4.  The pages lie in a shuffled order in memory, as do those that
they are loaded from: both are cold.  Without CORPUS: seven, of which the first five are heaps.

`--engine` stores and loads batches of 128 KiB, as large as the requests to zram (as root; its loads
are in order), and takes each batch's best round.
"""

import argparse
import contextlib
import functools
import statistics
import sys
import time

import numpy as np

import zswap
from zswap.bench import corpora, zram
from zswap.bench.rows import RowMissing
from zswap_core.bench import CodecLoop
from zswap_core.compressors.lref import open_lref, variants
from zswap_core.compressors.registry import open_compressor

HEAPS = ("process", "node", "java", "sqlite", "perl")
SPECS = ("lz4", "lref", "lref:2", "lref:3", "zstd:1", "zstd:3")
# where a name may stand: right of its point, left, above, below
PLACES = tuple((x, y, a) for y in (5, -4, -13, 9, -18) for x, a in ((8, "left"), (-8, "right")))
PICTURED = ("lz4hc", "lzo", "deflate:1", "deflate")  # too slow to be of use in the table


class Codec:
    """A compressor alone."""

    unit = 1

    def __init__(self, compressor, pages, order):
        self.order = order
        self.loop = CodecLoop(compressor, pages.reshape(-1), pages.shape[1])
        self.ns = np.empty(len(pages), np.uint32)
        self.loop.run("store")

    def store(self):
        self.loop.run("compress", ns=self.ns)
        return self.ns

    def load(self, out):
        self.loop.run("load", out=out.reshape(-1), order=self.order, ns=self.ns)
        return self.ns

    def payload(self):
        return self.loop.lengths()[0]

    def close(self):
        pass


class Engine:
    """store_many and load_many, 128 KiB a call."""

    def __init__(self, spec, pages, order):
        self.unit = zram.REQUEST // pages.shape[1]
        self.pages, self.order = pages, order
        self.held = zswap.ZSwap(
            spec, page_size=pages.shape[1], max_pool_bytes=2 * pages.nbytes + (64 << 20)
        )

    def timed(self, call):
        ns = []
        for at in range(0, len(self.pages), self.unit):
            start = time.perf_counter_ns()
            call(slice(at, at + self.unit))
            ns.append(time.perf_counter_ns() - start)
        return np.array(ns)

    def store(self):
        places = np.arange(len(self.pages), dtype=np.uint64)
        return self.timed(lambda part: self.held.store_many(places[part], self.pages[part]))

    def load(self, out):
        return self.timed(lambda part: self.held.load_many(self.order[part], out=out[part]))

    def payload(self):
        return self.held.stats().compressed_bytes

    def close(self):
        self.held.close()


class Zram(Engine):
    """The kernel's, in order: what is read at random is read by single pages."""

    def __init__(self, algorithm, pages, order):
        self.unit, self.pages = zram.REQUEST // pages.shape[1], pages
        self.order = np.arange(len(pages))
        self.held = zram.Zram(algorithm)
        self.held.empty(pages.nbytes)

    def moved(self, array, write):
        view, size = array.reshape(-1).data, self.pages.shape[1]
        return self.timed(
            lambda part: self.held.transfer(
                view, write=write, first=part.start * size, stop=min(part.stop * size, view.nbytes)
            )
        )

    def store(self):
        return self.moved(self.pages, True)

    def load(self, out):
        return self.moved(out, False)

    def payload(self):
        return self.held.mm_stat()["payload"]


def makers(chosen):
    """By the name of a row, what makes it of pages and an order."""
    if chosen.engine:
        specs = ("lz4", "lref", "lref:2")
        return {f"zswap {s}": functools.partial(Engine, s) for s in specs} | {
            "zram lz4": functools.partial(Zram, "lz4")
        }
    if chosen.variants:
        opened = {"lz4": open_compressor("lz4")} | {
            f"lref, {v}": open_lref(1, variant=v) for v in variants()
        }
    else:
        opened = {}
        for spec in SPECS + (PICTURED if chosen.plot else ()):
            with contextlib.suppress(zswap.CompressorNotFound):
                opened[spec] = open_compressor(spec)
    return {name: functools.partial(Codec, c) for name, c in opened.items()}


def measure(name, pages, made, rounds):
    """Print the rows of one corpus; for each (ratio, store ns, load ns)."""
    size = pages.shape[1]
    pages = np.ascontiguousarray(pages[np.random.default_rng(0).permutation(len(pages))])
    pages = aligned(pages)
    order = np.random.default_rng(1).permutation(len(pages)).astype(np.uint64)
    out = aligned(np.zeros_like(pages))
    rows, best = {}, {}
    for row, make in made.items():
        try:
            rows[row] = make(pages, order)
        except (RowMissing, OSError) as missing:
            print(f"{row}: left out; {missing}", file=sys.stderr)
    try:
        for _ in range(rounds):
            for row, held in rows.items():
                took = [held.store().copy(), held.load(out).copy()]
                best[row] = np.minimum(best.get(row, took), took)
                if not np.array_equal(out, pages[held.order]):
                    raise SystemExit(f"{row} does not give back the pages of {name}")
        found = {}
        for row, held in rows.items():
            ns = best[row] / held.unit
            found[row] = len(pages) * size / held.payload(), *ns.mean(axis=1)
            base = next(iter(found.values()))
            gains = found[row][0] / base[0], base[1] / found[row][1], base[2] / found[row][2]
            p99 = np.percentile(ns, 99, axis=1)
            print(
                f"| {name} | {row} | {found[row][0]:.2f} | {found[row][1]:.0f} ({p99[0]:.0f}) | "
                f"{found[row][2]:.0f} ({p99[1]:.0f}) | "
                + " | ".join(f"{gain:.2f}" for gain in gains)
                + " |",
                flush=True,
            )
        return found
    finally:
        for held in rows.values():
            held.close()


def aligned(pages):
    """Copy to where O_DIRECT takes it from."""
    room = np.empty(pages.nbytes + 4096, np.uint8)
    room = room[-room.ctypes.data % 4096 :][: pages.nbytes].reshape(pages.shape)
    room[:] = pages
    return room


def mean(found, row):
    """The geometric means of (ratio, store ns, load ns) over corpora."""
    return [statistics.geometric_mean(f[row][k] for f in found) for k in range(3)]


def label(axes, points, colour_of):
    """Write its name beside each point, where it covers least."""
    renderer = axes.figure.canvas.get_renderer()
    taken = [
        axes.transData.transform(point) + np.array([[-6, -6], [6, 6]]) for point in points.values()
    ]
    for name, point in points.items():
        text = axes.annotate(
            name,
            point,
            textcoords="offset points",
            color=colour_of(name),
            weight="bold" if name.startswith("lref") else "normal",
        )

        def covered(place, text=text):
            text.set_position(place[:2])
            text.set_horizontalalignment(place[2])
            box = text.get_window_extent(renderer).get_points()
            return sum(
                np.prod(np.maximum(0, np.minimum(box[1], b[1]) - np.maximum(box[0], b[0])))
                for b in taken
            )

        covered(best := min(PLACES, key=covered))
        text.set_position(best[:2])
        taken.append(text.get_window_extent(renderer).get_points())


def plot(found, path):
    """Ratio against store time, processes and text."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from zswap.plot import save_picture, settings

    def colour_of(name):
        return "#d55e00" if name.startswith("lref") else "#0072b2"

    heaps = [rows for name, rows in found.items() if name in HEAPS]
    parts = {f"{len(heaps)} heaps": heaps, "text": [found.get("text")]}
    parts = {title: rows for title, rows in parts.items() if rows and rows[0]}
    with settings():
        picture = Figure(figsize=(6 * len(parts), 4.6), facecolor="white", layout="constrained")
        FigureCanvasAgg(picture)
        panels = picture.subplots(1, len(parts), squeeze=False)[0]
        points = []
        for axes, (title, rows) in zip(panels, parts.items(), strict=True):
            means = {name: mean(rows, name) for name in rows[0]}
            points.append(
                {name: (store / 1000, ratio) for name, (ratio, store, _) in means.items()}
            )
            for name, point in points[-1].items():
                axes.plot(*point, "o", color=colour_of(name), markersize=8)
            axes.set_xscale("log")
            axes.set_xticks(ticks := [3, 5, 10, 20, 50, 100, 200], [f"{t} µs" for t in ticks])
            axes.minorticks_off()
            axes.margins(0.16)
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(True, color="#dde3e9")
            axes.set_axisbelow(True)
            axes.set_title(title, loc="left")
            axes.set_xlabel("to store a page")
            axes.set_ylabel("times smaller")
        picture.draw_without_rendering()
        for axes, where in zip(panels, points, strict=True):
            label(axes, where, colour_of)
        save_picture(picture, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--pages", type=int, default=8000, help="32 MiB: more than a cache holds")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--page-size", type=int, default=corpora.PAGE, metavar="BYTES")
    parser.add_argument("--plot", metavar="FILE", help="ratio against store time, a PNG or SVG")
    parser.add_argument(
        "--variants",
        action="store_true",
        help="each variant of lref that works here, not lref:2, :3 and zstd",
    )
    parser.add_argument("--engine", action="store_true", help="batches, beside zram")
    parser.add_argument("--smoke", action="store_true", help="show that it works; measure nothing")
    parser.add_argument("corpus", nargs="*", default=[*HEAPS, "text", "random"])
    chosen = parser.parse_args()
    if chosen.smoke:
        chosen.pages, chosen.rounds, chosen.corpus = 64, 1, ["process", "text"]
    corpora.PAGE = chosen.page_size
    made = makers(chosen)
    print(
        "| corpus | row | ratio | store ns (p99) | load ns (p99) | over lz4: ratio | store | load |"
    )
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    found = {}
    for name in chosen.corpus:
        try:
            pages = corpora.distinct(corpora.make(name, chosen.pages))
        except corpora.CorpusMissing as missing:
            print(f"{name}: left out; {missing}", file=sys.stderr)
            continue
        found[name] = measure(name, pages, made, chosen.rounds)
    heaps = [rows for name, rows in found.items() if name in HEAPS]
    for row in heaps[0] if heaps else ():
        base, this = mean(heaps, next(iter(heaps[0]))), mean(heaps, row)
        gains = this[0] / base[0], base[1] / this[1], base[2] / this[2]
        over = " | ".join(f"{gain:.2f}" for gain in gains)
        print(f"| geometric mean of {len(heaps)} heaps | {row} | | | | {over} |")
    if chosen.plot:
        plot(found, chosen.plot)


if __name__ == "__main__":
    main()
