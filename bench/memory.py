"""How long touches of a `zswap.Memory` take, whose data is larger than its budget.

    python bench/memory.py [--budget 64MiB] [--times 2] [--mode MODE ...] [--backing FILE] [--smoke]
    python bench/memory.py --kernel [--resident 128MiB --times 2.4] [--rounds 3] [--plot PNG]

Each page is a heap's as far as compression goes (about 3 : 1 by lz4).  A touch reads one word of a
page; times are those of all touches, resident pages included, by the clock around each.

With `--kernel` the same goes through the kernel's zswap, in turns: ordinary memory of a process in
a memory cgroup, with a swap file.  It takes root, and puts back what it changes.  The kernel's
compressed pages count towards its budget as ours do; with `--resident` neither's do, and both have
so much for pages that are there.
"""

import argparse
import contextlib
import json
import mmap
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import zswap
from zswap.meminfo import format_bytes, parse_bytes

PAGE = os.sysconf("SC_PAGE_SIZE")
SHARES = np.concatenate([np.arange(0, 0.99, 0.01), 1 - np.logspace(-2, -5, 40)])  # of an ECDF
ZSWAP = Path("/sys/module/zswap/parameters")


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
    """By name: which pages are touched, and of how many touches one writes, 0: none.  To what is
    measured come a quarter as many before."""
    weights = 1 / np.arange(1, pages + 1) ** 0.99
    sums, pages_by_rank = np.cumsum(weights / weights.sum()), rng.permutation(pages)
    count += count // 4

    def zipf():
        return pages_by_rank[np.minimum(np.searchsorted(sums, rng.random(count)), pages - 1)]

    order = np.arange(count) % pages
    return {
        "random read": (rng.integers(0, pages, count), 0),
        "random write": (rng.integers(0, pages, count), 1),
        "sequential read": (order, 0),
        "sequential write": (order, 1),
        "stride 3 read": (order * 3 % pages, 0),
        "zipf read": (zipf(), 0),
        "zipf, a fifth writes": (zipf(), 5),
    }


def touch(words, which, writes, took):
    """Nanoseconds of each touch, into `took`."""
    clock = time.perf_counter_ns
    for n in range(len(which)):
        page = int(which[n])  # no list of them: it would count as the memory's
        start = clock()
        if writes and n % writes == 0:
            words[page, 77] = n
        else:
            words[page, 77]
        took[n] = clock() - start
    return took[: len(which)]


def anonymous(pid="self"):
    """Bytes of a process's memory that no file has: its pages, not the code of libraries."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) << 10
    return 0  # it has ended


class Killed(Exception):
    """The kernel found no memory for the cgroup, which happens to it in a small one."""


def run(command):
    """What a process prints, and the most that it had, looked at every 10 ms."""
    most = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        while process.poll() is None:
            most = max(most, anonymous(process.pid))
            time.sleep(0.01)
        printed = process.stdout.read()
    if process.returncode == -signal.SIGKILL:
        raise Killed
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return json.loads(printed), most


class Ours:
    """Words in a `zswap.Memory`."""

    def __init__(self, args, mode):
        self.budget = parse_bytes(args.resident or args.budget)
        more = {"backing": args.backing}
        if args.resident:  # all that is not there is compressed
            more = {"limit": int((args.times + 1) * self.budget)}
        budget = (2 if args.resident else 1) * self.budget  # cut once it is known what that takes
        self.mem = zswap.Memory(budget, compressor=args.compressor, mode=mode, **more)
        self.resident = args.resident

    def words(self, pages):
        """All of them."""
        return self.mem.empty((pages, PAGE // 8), np.uint64)

    def settle(self):
        """Have the budget mean what it is to mean, once all is filled."""
        while self.resident:
            stats = self.mem.stats()
            beside = stats.pool_bytes + stats.metadata_bytes
            if abs(self.mem.budget - beside - self.budget) <= self.budget // 100:
                return
            self.mem.budget = self.budget + beside
            time.sleep(0.2)

    def faults(self):
        """Touches of what was not there."""
        return self.mem.stats().faults

    def figures(self):
        """What it took in the end."""
        stats = self.mem.stats()
        return {"resident": stats.resident_bytes, "pool": stats.pool_bytes, **stats.to_dict()}


class Kernels:
    """Words in ordinary memory of a cgroup: version 1 does not charge it for what zswap has, and
    version 2 does."""

    def __init__(self, args):
        self.budget = parse_bytes(args.resident or args.budget)
        self.group = Path(args.group)
        self.charged = (self.group / "memory.max").exists()
        self.file = self.group / ("memory.max" if self.charged else "memory.limit_in_bytes")
        self.counted = not args.resident
        self.file.write_text(str(self.budget))
        (self.group / "cgroup.procs").write_text(str(os.getpid()))

    def words(self, pages):
        """All of them."""
        self.map = mmap.mmap(-1, pages * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.map.madvise(mmap.MADV_NOHUGEPAGE)
        return np.frombuffer(self.map, np.uint64).reshape(pages, PAGE // 8)

    @staticmethod
    def pool():
        """Bytes that the kernel's zswap takes."""
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("Zswap:"):
                return int(line.split()[1]) << 10
        return 0

    def settle(self):
        """Cut what may be resident until it and the pool are the budget."""
        for _ in range(10):
            beside = self.pool() if self.counted or self.charged else 0
            limit = self.budget
            if self.counted and not self.charged:
                limit -= beside
            elif self.charged and not self.counted:
                limit += beside
            if abs(limit - int(self.file.read_text())) <= self.budget // 200:
                return
            with contextlib.suppress(OSError):  # busy: some of it, the next time
                self.file.write_text(str(max(limit, 8 << 20)))
            time.sleep(0.2)

    @staticmethod
    def faults():
        """Touches of what was not there."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_majflt + usage.ru_minflt

    def figures(self):
        """What it took in the end."""
        pool, limit = self.pool(), int(self.file.read_text())
        return {"resident": limit, "pool": pool, "allocated_bytes": len(self.map)}


def measure(args, mode):
    """In a process of its own: figures by pattern, as a dict."""
    pages = int(parse_bytes(args.resident or args.budget) * args.times) // PAGE
    count = args.touches
    rng = np.random.default_rng(1)
    plans = patterns(pages, count, rng)
    took = np.ones(max(count, 20_000), np.int64)
    plain = np.ones((64, PAGE // 8), np.uint64)
    some = np.arange(20_000) % 64
    rows = {"ordinary memory": row(touch(plain, some, 0, took))}
    before = anonymous()
    made = Kernels(args) if mode == "kernel" else Ours(args, mode)
    words = made.words(pages)
    for first, kinds in contents(pages):
        words[first : first + len(kinds)] = kinds.view(np.uint64)
        words[first : first + len(kinds), 77] = np.arange(first, first + len(kinds))
    made.settle()
    ecdf = {}
    for name, (which, writes) in plans.items():
        touch(words, which[: count // 4], writes, took)
        which = which[count // 4 :]
        made.settle()
        faults = made.faults()
        rows[name] = row(touch(words, which, writes, took), (made.faults() - faults) / count)
        ecdf[name] = np.quantile(took[:count], SHARES).tolist()
    if mode != "kernel":
        with made.mem.pin(words[:64]):
            rows["resident, pinned"] = row(touch(words, some, 0, took))
    return {
        "mode": mode,
        "rows": rows,
        "before": before,
        "budget": made.budget,
        "stats": made.figures(),
        "ecdf": ecdf,
    }


def row(took, faults=0.0):
    """What is told of some touches."""
    p50, p99 = np.percentile(took, [50, 99])
    return {"mean": float(took.mean()), "p50": float(p50), "p99": float(p99), "faults": faults}


# ---- the kernel's --------------------------------------------------------------------------------


@contextlib.contextmanager
def written(path, value):
    """A file of the kernel's has another value; yields whether it took it."""
    before = path.read_text()
    try:
        path.write_text(value)
        yield True
    except OSError:
        yield False
    finally:
        path.write_text(before)


@contextlib.contextmanager
def kernel_zswap(args):
    """The kernel's zswap is on, over a swap file; yields a memory cgroup."""
    unified = Path("/sys/fs/cgroup/memory.pressure").exists()
    group = Path("/sys/fs/cgroup") / ("" if unified else "memory") / f"memory-bench-{os.getpid()}"
    file = Path(f"{args.backing}.swap")
    size = int(2 * parse_bytes(args.resident or args.budget) * args.times)
    with contextlib.ExitStack() as undo:
        for name in args.kernel_compressor.split(","):
            if undo.enter_context(written(ZSWAP / "compressor", name)):
                break
        undo.enter_context(written(Path("/proc/sys/vm/page-cluster"), "0"))
        if not args.resident:  # of all memory; the budget's larger part, as near as that comes
            percent = 65 * parse_bytes(args.budget) / (os.sysconf("SC_PHYS_PAGES") * PAGE)
            undo.enter_context(written(ZSWAP / "max_pool_percent", str(max(round(percent), 1))))
        group.mkdir()
        undo.callback(group.rmdir)
        undo.callback(file.unlink)
        with open(file, "wb") as out:
            os.fchmod(out.fileno(), 0o600)
            os.posix_fallocate(out.fileno(), 0, size)
        subprocess.run(["mkswap", "-q", file], check=True)
        subprocess.run(["swapon", file], check=True)
        undo.callback(subprocess.run, ["swapoff", file], check=True)
        undo.enter_context(written(ZSWAP / "enabled", "Y"))
        yield group, (ZSWAP / "compressor").read_text().strip()


# ---- what is shown -------------------------------------------------------------------------------


def middle(rounds):
    """Of several rounds of one mode each figure's median."""
    first = rounds[0]
    rows = {
        name: {
            key: float(np.median([figures["rows"][name][key] for figures in rounds])) for key in row
        }
        for name, row in first["rows"].items()
    }
    ecdf = {
        name: np.median([figures["ecdf"][name] for figures in rounds], 0).tolist()
        for name in first["ecdf"]
    }
    return {**first, "rows": rows, "ecdf": ecdf, "peak": max(one["peak"] for one in rounds)}


def compare(done):
    """Print what ours take over what the kernel's take."""
    kernels = done["kernel"]
    for mode, figures in done.items():
        if mode == "kernel":
            continue
        print(f"\n{mode + ' mode over kernel':22} {'mean':>9} {'p50':>9} {'p99':>9}")
        for name in figures["ecdf"]:
            ours, theirs = figures["rows"][name], kernels["rows"][name]
            ratios = " ".join(f"{ours[key] / theirs[key]:9.2f}" for key in ("mean", "p50", "p99"))
            print(f"{name:22} {ratios}")


def picture(done, path, title):
    """Draw how many touches took no longer than so long, by pattern."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = ("random read", "sequential read", "random write", "zipf, a fifth writes")
    figure, panels = pyplot.subplots(2, 2, figsize=(12, 8), sharex=True, sharey=True)
    kinds = {"signal": "-", "thread": "-.", "kernel": "--"}
    names = {"kernel": "the kernel's zswap"}
    for panel, pattern in zip(panels.flat, shown, strict=True):
        for mode, figures in done.items():
            rest = 1 - SHARES
            panel.plot(
                np.array(figures["ecdf"][pattern]) / 1000,
                rest,
                kinds[mode],
                label=names.get(mode, f"Memory, {mode} mode"),
            )
        panel.set(xscale="log", yscale="log", title=pattern, ylim=(1e-5, 1), xlim=(0.1, 1e5))
        panel.grid(color="#dde3e9")
    for panel in panels[1]:
        panel.set_xlabel("µs a touch")
    for panel in panels[:, 0]:
        panel.set_ylabel("share of touches that took longer")
    panels[0, 0].legend()
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def show(figures):
    """Print a mode's figures."""
    stats = figures["stats"]
    held = format_bytes(figures["budget"])
    print(
        f"\n{figures['mode']} mode: {format_bytes(stats['allocated_bytes'])} in {held}; "
        f"{format_bytes(stats['resident'])} resident, {format_bytes(stats['pool'])} compressed; "
        f"peak {figures['peak'] / figures['budget']:.3f} of it"
    )
    print(f"{'ns a touch':22} {'mean':>9} {'p50':>9} {'p99':>9}  faults a touch")
    for name, one in figures["rows"].items():
        print(
            f"{name:22} {one['mean']:9.0f} {one['p50']:9.0f} {one['p99']:9.0f}  {one['faults']:.3f}"
        )


def rounds(args, modes, group=None):
    """Measure the modes in turns; the middle figures of each."""
    done = {mode: [] for mode in modes}
    command = [sys.executable, __file__, "--budget", args.budget, "--times", str(args.times)]
    command += ["--touches", str(args.touches), "--backing", args.backing]
    command += ["--compressor", args.compressor, "--resident", args.resident]
    command += ["--group", str(group)]
    for n in range(args.rounds):
        for mode in modes if n % 2 == 0 else reversed(modes):
            for last in (False, False, False, True):
                try:
                    figures, most = run([*command, "--one", mode])
                    break
                except Killed:
                    print(f"round {n + 1}, {mode}: killed for want of memory in its cgroup")
                    if last:
                        raise
            done[mode].append({**figures, "peak": most - figures["before"]})
    return {mode: middle(figures) for mode, figures in done.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--budget", default="64MiB")
    parser.add_argument("--times", type=float, default=2.0, help="how much larger the data is")
    parser.add_argument("--touches", type=int, default=100_000)
    parser.add_argument("--backing", help="a path; by default one beside the current directory")
    parser.add_argument("--compressor", default="lz4")
    parser.add_argument("--mode", nargs="*", default=["signal", "thread"])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--kernel", action="store_true", help="beside the kernel's zswap; as root")
    parser.add_argument("--kernel-compressor", default="lz4,lzo-rle", help="the first that it has")
    parser.add_argument("--resident", default="", help="instead of a budget: resident pages alone")
    parser.add_argument("--plot", help="a picture of the distributions")
    parser.add_argument("--smoke", action="store_true", help="only whether it runs")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--group", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.backing is None:
        args.backing = f"memory-bench-{os.getpid()}"
    if args.smoke:
        args.budget, args.touches = "16MiB", 2000
    if args.one:
        print(json.dumps(measure(args, args.one)))
        return
    modes, what = [], "Memory"
    for mode in args.mode:
        try:
            zswap.Memory("16MiB", mode=mode)
            modes.append(mode)
        except zswap.Error as error:
            print(f"{mode} mode: skipped: {error}")
    if args.kernel:
        with kernel_zswap(args) as (group, compressor):
            done = rounds(args, [*modes, "kernel"], group)
        what = f"Memory with {args.compressor} and the kernel's zswap with {compressor}"
    else:
        done = rounds(args, modes)
    size = f"{args.resident} resident" if args.resident else args.budget
    if args.plot:
        picture(done, args.plot, f"{what}: {args.times:g} times as much data as {size}")
    if args.json:
        print(json.dumps(list(done.values())))
        return
    for figures in done.values():
        show(figures)
    if args.kernel:
        print(f"\n{what}, {args.rounds} rounds, median")
        compare(done)


if __name__ == "__main__":
    main()
