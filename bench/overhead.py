"""What zswap costs over the bare codec: nanoseconds a page, for a store and a load.

Every line is the median of interleaved rounds: each round runs every line once, so a slow spell of the machine meets all.
Same-filled pages are left out, as they would flatter every line but the codec's own.

    codec           the compressor's functions in a C loop over the pages; what it makes is dropped
    codec + copy    the same with the scan for same-filled pages before, and a copy to where the page stays after
    batch           ZSwap.store_many and load_many; new: into an empty engine, else in place of what was there
    single          ZSwap.store(offset, page) and load(offset, out), from a Python loop
    dict            d[offset] = lz4.block.compress(page), and decompress(d[offset])
    random          offsets in random order; what is loaded was stored in order

p99 is of single pages, from a round of its own with a clock around each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import lz4.block
import numpy as np
import numpy.typing as npt
from corpora import PAGE, Pages, chosen, common_options, main, same_filled

import zswap
from zswap_core.bench import CodecLoop
from zswap_core.compressors.registry import open_compressor

Run = Callable[[], float]  # returns ns a page


@dataclass
class Line:
    """One way to store and load all pages."""

    corpus: str
    name: str
    threads: int
    store: list[float] = field(default_factory=list)
    load: list[float] = field(default_factory=list)
    store_p99: float | None = None
    load_p99: float | None = None


def timed(count: int, call: Callable[[], object]) -> float:
    """Nanoseconds a page of a call that works on `count` pages."""
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / count


def p99(ns: npt.NDArray[np.uint32]) -> float:
    return float(np.percentile(ns, 99))


class Bench:
    """All lines over the pages of one corpus."""

    def __init__(self, corpus: str, pages: Pages, compressor: str) -> None:
        self.pages, self.compressor = pages, compressor
        self.count = len(pages)
        self.out = np.zeros_like(pages)
        self.order = np.arange(self.count, dtype=np.uint64)
        self.shuffled = np.random.default_rng(0).permutation(self.count).astype(np.uint64)
        self.shuffled_list = self.shuffled.tolist()
        self.rows = list(pages)  # one view a page, made ahead: slicing is no part of a call
        self.out_rows = list(self.out)
        self.loop = CodecLoop(open_compressor(compressor), pages.reshape(-1), PAGE)
        self.loop.run("store")
        # What is loaded from is stored once, in order; stores go elsewhere, and stir up the memory there.
        self.engine, self.stirred = self.new_engine(), self.new_engine()
        self.engine.store_many(self.order, pages)
        self.stirred.store_many(self.order, pages)
        self.dict = {offset: lz4.block.compress(page, store_size=False) for offset, page in enumerate(self.rows)}
        self.stirred_dict = dict(self.dict)
        self.corpus = corpus
        self.lines: list[tuple[Line, Run | None, Run | None]] = []

    def new_engine(self) -> zswap.ZSwap:
        return zswap.ZSwap(self.compressor, max_pool_bytes=2 * self.pages.nbytes + (64 << 20))

    def close(self) -> None:
        self.engine.close()
        self.stirred.close()

    # ---- the work of each line --------------------------------------------------------------------------------------

    def memcpy(self) -> None:
        np.copyto(self.out, self.pages)

    def codec(self, what: str, order: npt.NDArray[np.uint64], threads: int) -> float:
        def work(number: int) -> None:
            self.loop.run(
                what,
                self.count * number // threads,
                self.count * (number + 1) // threads,
                out=self.out.reshape(-1),
                order=order,
            )

        if threads == 1:
            return timed(self.count, lambda: work(0))
        helpers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]

        def together() -> None:
            for helper in helpers:
                helper.start()
            for helper in helpers:
                helper.join()

        return timed(self.count, together)

    def batch_store(self, order: npt.NDArray[np.uint64], threads: int, new: bool = False) -> float:
        if not new:
            return timed(self.count, lambda: self.stirred.store_many(order, self.pages, threads=threads))
        with self.new_engine() as engine:
            return timed(self.count, lambda: engine.store_many(order, self.pages, threads=threads))

    def batch_load(self, order: npt.NDArray[np.uint64], threads: int) -> float:
        return timed(self.count, lambda: self.engine.load_many(order, out=self.out, threads=threads))

    def single_store(self) -> None:
        store = self.stirred.store
        for offset, page in enumerate(self.rows):
            store(offset, page)

    def single_load(self) -> None:
        load = self.engine.load
        for offset, out in enumerate(self.out_rows):
            load(offset, out)

    def single_load_bytes(self) -> None:
        load = self.engine.load
        for offset in range(self.count):
            load(offset)

    def single_load_random(self) -> None:
        load = self.engine.load
        for offset, out in zip(self.shuffled_list, self.out_rows, strict=True):
            load(offset, out)

    def dict_store(self) -> None:
        compress, held = lz4.block.compress, self.stirred_dict
        for offset, page in enumerate(self.rows):
            held[offset] = compress(page, store_size=False)

    def dict_load(self) -> None:
        decompress, held = lz4.block.decompress, self.dict
        for offset in range(self.count):
            decompress(held[offset], uncompressed_size=PAGE)

    def dict_load_random(self) -> None:
        decompress, held = lz4.block.decompress, self.dict
        for offset in self.shuffled_list:
            decompress(held[offset], uncompressed_size=PAGE)

    # ---- rounds -----------------------------------------------------------------------------------------------------

    def add(self, name: str, threads: int, store: Run | None, load: Run | None) -> None:
        self.lines.append((Line(self.corpus, name, threads), store, load))

    def run(self, rounds: int, threads: list[int]) -> list[Line]:
        order, shuffled = self.order, self.shuffled

        def python(call: Callable[[], object]) -> Run:
            return lambda: timed(self.count, call)

        self.add("memcpy", 1, python(self.memcpy), None)
        for n in threads:
            self.add("codec", n, lambda n=n: self.codec("compress", order, n), lambda n=n: self.codec("load", order, n))
            self.add("codec + copy", n, lambda n=n: self.codec("store", order, n), None)
            self.add("batch, new", n, lambda n=n: self.batch_store(order, n, new=True), None)
            self.add("batch", n, lambda n=n: self.batch_store(order, n), lambda n=n: self.batch_load(order, n))
            self.add("codec, random", n, None, lambda n=n: self.codec("load", shuffled, n))
            self.add("batch, random", n, lambda n=n: self.batch_store(shuffled, n), lambda n=n: self.batch_load(shuffled, n))
        self.add("single", 1, python(self.single_store), python(self.single_load))
        self.add("single, random", 1, None, python(self.single_load_random))
        self.add("single, to bytes", 1, None, python(self.single_load_bytes))
        if self.compressor.startswith("lz4:"):
            self.add("dict of lz4.block", 1, python(self.dict_store), python(self.dict_load))
            self.add("dict, random", 1, None, python(self.dict_load_random))
        for number in range(rounds):
            turn = number % len(self.lines)
            for line, store, load in self.lines[turn:] + self.lines[:turn]:
                if store is not None:
                    line.store.append(store())
                if load is not None:
                    line.load.append(load())
        self.check()
        self.tails()
        return [line for line, _, _ in self.lines]

    def check(self) -> None:
        """Whatever was measured, the pages must be right."""
        self.stirred.store_many(self.order, self.pages)
        if not all(np.array_equal(engine.load_many(self.order), self.pages) for engine in (self.engine, self.stirred)):
            raise OSError("the pages loaded are not the pages stored")

    def tails(self) -> None:
        """The p99 of the lines where a page can be timed by itself."""
        ns = np.zeros(self.count, np.uint32)
        by_name = {(line.name, line.threads): line for line, _, _ in self.lines}
        codec, batch, single = by_name["codec", 1], by_name["batch", 1], by_name["single", 1]
        self.loop.run("compress", ns=ns)
        codec.store_p99 = p99(ns)
        self.loop.run("load", out=self.out.reshape(-1), order=self.order, ns=ns)
        codec.load_p99 = p99(ns)
        self.stirred.store_many(self.order, self.pages, ns=ns)
        batch.store_p99 = p99(ns)
        self.engine.load_many(self.order, out=self.out, ns=ns)
        batch.load_p99 = p99(ns)
        clock, store, load = time.perf_counter_ns, self.stirred.store, self.engine.load
        for offset, page in enumerate(self.rows):
            start = clock()
            store(offset, page)
            ns[offset] = clock() - start
        single.store_p99 = p99(ns)
        for offset, out in enumerate(self.out_rows):
            start = clock()
            load(offset, out)
            ns[offset] = clock() - start
        single.load_p99 = p99(ns)


# ---- output ---------------------------------------------------------------------------------------------------------

COLUMNS = ("", "threads", "store", "over codec", "p99", "load", "over codec", "p99")


def table(lines: list[Line]) -> list[list[str]]:
    """Rows of text for one corpus."""

    def text(value: float | None, form: str = ".0f") -> str:
        return "" if value is None else format(value, form)

    def median(values: list[float]) -> float | None:
        return statistics.median(values) if values else None

    def over(line: Line, what: str) -> float | None:
        """What a line takes more than the bare codec with as many threads, in the same order where order matters."""
        name = "codec, random" if what == "load" and line.name.endswith("random") else "codec"
        mine, bare = median(getattr(line, what)), median(getattr(by_name[name, line.threads], what))
        return None if mine is None or bare is None or line.name in ("memcpy", name) else mine - bare

    by_name = {(line.name, line.threads): line for line in lines}
    return [
        [
            line.name,
            str(line.threads),
            text(median(line.store)),
            text(over(line, "store"), "+.0f"),
            text(line.store_p99),
            text(median(line.load)),
            text(over(line, "load"), "+.0f"),
            text(line.load_p99),
        ]
        for line in lines
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


def machine() -> str:
    model = platform.processor()
    with open("/proc/cpuinfo") as info:
        for entry in info:
            if entry.startswith("model name"):
                model = entry.partition(":")[2].strip()
                break
    return f"{model}, {os.cpu_count()} CPUs, Linux {platform.release()}, Python {platform.python_version()}"


def run() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common_options(parser)
    parser.add_argument("--compressor", default="lz4", metavar="SPEC", help="lz4 unless given")
    parser.add_argument("--rounds", type=int, metavar="N", help="7 unless given")
    options = parser.parse_args()
    count = options.pages or (256 if options.smoke else 16384)
    rounds = options.rounds or (1 if options.smoke else 7)
    if count < 4 or rounds < 1:
        parser.error("at least 4 pages and 1 round are needed")
    try:
        compressor = open_compressor(options.compressor)
    except (zswap.Error, ValueError) as error:
        parser.error(str(error))

    if options.markdown or not options.json:
        print(f"{compressor.spec} ({compressor.library} {compressor.version}), {machine()}")
        print(f"ns a page, median of {rounds} rounds")
    lines: list[Line] = []
    for name, pages in chosen(options.corpus, count):
        pages = np.ascontiguousarray(pages[~same_filled(pages)])
        bench = Bench(name, pages, compressor.spec)
        payload, raw, _ = bench.loop.lengths()
        found = bench.run(rounds, [1] if (os.cpu_count() or 1) < 2 else [1, 2])
        bench.close()
        lines += found
        if not options.json:
            shape = f"compressed {pages.nbytes / payload:.2f} times, {100 * raw / len(pages):.0f} % raw"
            show(f"{name}: {len(pages)} pages, {shape}", table(found), options.markdown)
    if options.json:
        report = {"compressor": compressor.spec, "library": compressor.library, "version": compressor.version}
        print(
            json.dumps(
                report | {"machine": machine(), "page_size": PAGE, "lines": [asdict(line) for line in lines]}, indent=1
            )
        )
    return 0


if __name__ == "__main__":
    main(run)
