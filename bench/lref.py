"""lref alone beside lz4 and zstd: size and time on pages of processes, in one process, taking
turns.

    python bench/lref.py [--pages 6000] [--rounds 5] [--variants] [CORPUS ...]

A markdown table: payload ratio (a page that does not shrink counts whole), nanoseconds a page to
compress and to decompress (medians of the rounds; p99 of all pages of all rounds), and each against
lz4.  The pages lie in a shuffled order in memory, as do those that they are decompressed from: both
are cold.  Without CORPUS: seven, of which the first five are heaps.
"""

import argparse
import statistics

import numpy as np

from zswap.bench import corpora
from zswap_core.bench import CodecLoop
from zswap_core.compressors.lref import open_lref, variants
from zswap_core.compressors.registry import open_compressor

HEAPS = ("process", "node", "java", "sqlite", "perl")
SPECS = ("lz4", "lref", "lref:2", "lref:3", "zstd:1", "zstd:3")


class Row:
    """One compressor on one corpus."""

    def __init__(self, name, compressor, pages):
        self.name = name
        self.loop = CodecLoop(compressor, pages.reshape(-1))
        count = self.loop.count
        self.order = np.random.default_rng(1).permutation(count).astype(np.uint64)
        self.times = {"compress": [], "load": []}
        self.ns = np.empty(count, np.uint32)
        self.worst = {"compress": [], "load": []}

    def turn(self, what, out):
        options = {"out": out, "order": self.order} if what == "load" else {}
        self.times[what].append(self.loop.run(what, **options) / self.loop.count)
        self.loop.run(what, ns=self.ns, **options)
        self.worst[what].append(float(np.percentile(self.ns, 99)))

    def result(self):
        payload, _, same = self.loop.lengths()
        ratio = (self.loop.count - same) * corpora.PAGE / payload
        return ratio, *(statistics.median(self.times[what]) for what in ("compress", "load"))


def measure(name, pages, compressors, rounds):
    """Rows of the table for one corpus, and for each compressor (ratio, store, load) over lz4's."""
    pages = np.ascontiguousarray(pages[np.random.default_rng(0).permutation(len(pages))])
    out = np.empty(pages.size, np.uint8)
    rows = [Row(spec, compressor, pages) for spec, compressor in compressors.items()]
    for row in rows:
        row.loop.run("store")
        row.loop.run("load", out=out, order=row.order)
        if not np.array_equal(out.reshape(-1, corpora.PAGE), pages[row.order]):
            raise SystemExit(f"{row.name} does not give back the pages of {name}")
    for what in ("compress", "load"):
        for _ in range(rounds):
            for row in rows:
                row.turn(what, out)
    base = rows[0].result()
    gains = {}
    for row in rows:
        ratio, store, load = row.result()
        gains[row.name] = ratio / base[0], base[1] / store, base[2] / load
        over = " | ".join(f"{gain:.2f}" for gain in gains[row.name])
        p99 = [statistics.median(row.worst[what]) for what in ("compress", "load")]
        print(
            f"| {name} | {row.name} | {ratio:.2f} | {store:.0f} ({p99[0]:.0f}) | {load:.0f} "
            f"({p99[1]:.0f}) | {over} |",
            flush=True,
        )
    return gains


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pages", type=int, default=6000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--variants",
        action="store_true",
        help="each variant of lref that works here, not lref:2, :3 and zstd",
    )
    parser.add_argument("corpus", nargs="*", default=[*HEAPS, "text", "random"])
    chosen = parser.parse_args()
    if chosen.variants:
        compressors = {"lz4": open_compressor("lz4")} | {
            f"lref, {v}": open_lref(1, variant=v) for v in variants()
        }
    else:
        compressors = {spec: open_compressor(spec) for spec in SPECS}
    print(
        "| corpus | compressor | ratio | store ns (p99) | load ns (p99) | ratio | store | load, "
        "over lz4 |"
    )
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    all_gains = {}
    for name in chosen.corpus:
        try:
            pages = corpora.distinct(corpora.make(name, chosen.pages))
        except corpora.CorpusMissing as missing:
            print(f"| {name} | {missing} | | | | | | |")
            continue
        all_gains[name] = measure(name, pages, compressors, chosen.rounds)
    heaps = [gains for name, gains in all_gains.items() if name in HEAPS]
    for spec in compressors if heaps else ():
        over = " | ".join(
            f"{statistics.geometric_mean(g[spec][k] for g in heaps):.2f}" for k in range(3)
        )
        print(f"| geometric mean of {len(heaps)} heaps | {spec} | | | | {over} |")


if __name__ == "__main__":
    main()
