"""Touches of a `zswap.Memory` whose data is larger than its budget: what a page costs, by pattern
and by mode, and how far the process stays below the budget.

    python bench/memory.py [--budget BYTES] [--times N] [--mode MODE ...] [--backing FILE] [--smoke]

Each page is a heap's as far as compression goes (about 3 : 1 by lz4).  A touch reads one word of a
page; times are those of all touches, resident pages included, by the clock around each.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import zswap
from zswap.meminfo import format_bytes, parse_bytes

PAGE = os.sysconf("SC_PAGE_SIZE")


def contents(pages: int, seed: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """Pages of which about a third does not compress, a hundred different ones."""
    rng = np.random.default_rng(seed)
    kinds = np.zeros((100, PAGE), np.uint8)
    for kind in kinds:
        noise = int(rng.integers(300, 2000))
        kind[:noise] = rng.integers(0, 256, noise)
        kind[noise:] = np.resize(rng.integers(0, 256, 64), PAGE - noise)
    for first in range(0, pages, 100):
        yield first, kinds[: min(100, pages - first)]


def patterns(pages, count, rng):
    """By name: which pages are touched, and whether they are written to."""
    zipf = rng.permutation(pages)[np.minimum(rng.zipf(1.2, count) - 1, pages - 1)]
    order = np.arange(count) % pages
    return {
        "random read": (rng.integers(0, pages, count), False),
        "random write": (rng.integers(0, pages, count), True),
        "sequential read": (order, False),
        "sequential write": (order, True),
        "stride 3 read": (order * 3 % pages, False),
        "zipf read": (zipf, False),
    }


def touch(words, which, writes):
    """Nanoseconds of each touch."""
    took = np.empty(len(which), np.int64)
    clock = time.perf_counter_ns
    for n in range(len(which)):
        page = int(which[n])  # no list of them: it would count as the memory's
        start = clock()
        if writes:
            words[page, 77] = n
        else:
            words[page, 77]
        took[n] = clock() - start
    return took


def anonymous(pid="self"):
    """Bytes of a process's memory that no file has: its pages, not the code of libraries."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) << 10
    return 0  # it has ended


def run(command):
    """What a process prints, and the most that it had, looked at every 10 ms."""
    most = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        while process.poll() is None:
            most = max(most, anonymous(process.pid))
            time.sleep(0.01)
        printed = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return json.loads(printed), most


def measure(args, mode):
    """In a process of its own: figures by pattern, as a dict."""
    budget = parse_bytes(args.budget)
    pages = int(budget * args.times) // PAGE
    count = args.touches
    rng = np.random.default_rng(1)
    plans = patterns(pages, count, rng)
    plain = np.ones((64, PAGE // 8), np.uint64)
    floor = touch(plain, np.arange(20_000) % 64, False)
    # what this program takes itself
    touch(plain, np.arange(count) % 64, False)
    make = zswap.Memory
    before = anonymous()
    mem = make(budget, args.backing, args.compressor, mode=mode)
    words = mem.empty((pages, PAGE // 8), np.uint64)
    for first, some in contents(pages):
        words[first : first + len(some)] = some.view(np.uint64)
        words[first : first + len(some), 77] = np.arange(first, first + len(some))
    rows = {}
    for name, (which, writes) in plans.items():
        touch(words, which[: count // 4], writes)
        faults = mem.stats().faults
        took = touch(words, which, writes)
        rows[name] = {
            "mean": float(took.mean()),
            "p50": float(np.percentile(took, 50)),
            "p99": float(np.percentile(took, 99)),
            "faults": (mem.stats().faults - faults) / count,
        }
    with mem.pin(words[:64]):
        rows["resident, pinned"] = {
            "mean": float(touch(words, np.arange(20_000) % 64, False).mean()),
            "p50": float(np.median(touch(words, np.arange(20_000) % 64, False))),
            "p99": 0.0,
            "faults": 0.0,
        }
    rows["ordinary memory"] = {
        "mean": float(floor.mean()),
        "p50": float(np.median(floor)),
        "p99": 0.0,
        "faults": 0.0,
    }
    stats = mem.stats()
    return {
        "mode": mode,
        "rows": rows,
        "before": before,
        "budget": budget,
        "stats": stats.to_dict(),
    }


def show(figures):
    stats = figures["stats"]
    print(
        f"\n{figures['mode']} mode: {format_bytes(stats['allocated_bytes'])} in "
        f"{format_bytes(figures['budget'])}; peak {figures['peak'] / figures['budget']:.3f} of it"
    )
    print(f"{'ns a touch':20} {'mean':>9} {'p50':>9} {'p99':>9}  faults a touch")
    for name, row in figures["rows"].items():
        print(
            f"{name:20} {row['mean']:9.0f} {row['p50']:9.0f} {row['p99']:9.0f}  {row['faults']:.3f}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--budget", default="64MiB")
    parser.add_argument("--times", type=float, default=2.0, help="how much larger the data is")
    parser.add_argument("--touches", type=int, default=100_000)
    parser.add_argument("--backing", help="a path; by default one beside the current directory")
    parser.add_argument("--compressor", default="lz4")
    parser.add_argument("--mode", nargs="*", default=["signal", "thread"])
    parser.add_argument("--smoke", action="store_true", help="only whether it runs")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.backing is None:
        args.backing = f"memory-bench-{os.getpid()}"
    if args.smoke:
        args.budget, args.touches = "16MiB", 2000
    if args.one:
        print(json.dumps(measure(args, args.one)))
        return
    done = []
    for mode in args.mode:
        try:
            zswap.Memory("16MiB", mode=mode)
        except zswap.Error as error:
            print(f"{mode} mode: skipped: {error}")
            continue
        command = [sys.executable, __file__, "--one", mode, "--budget", args.budget]
        command += ["--times", str(args.times), "--touches", str(args.touches)]
        command += ["--backing", args.backing, "--compressor", args.compressor]
        figures, most = run(command)
        done.append({**figures, "peak": most - figures.pop("before")})
        if not args.json:
            show(done[-1])
    if args.json:
        print(json.dumps(done))


if __name__ == "__main__":
    main()
