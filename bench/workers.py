"""Dask's workers with data several times their memory: SpillTier, SpillBuffer and a control.

    pip install '.[dask]' pandas pyarrow        # what it needs beside zswap
    python bench/workers.py --rounds 3 --size 768MiB

Two workers of 448 MiB hold a data set that does not fit, use it twice and drop it.  Each row is a
cluster of its own in a process of its own, in turns.  Told are the wall time, the largest resident
set of a worker (VmHWM), the bytes that the workers wrote to the disk (write_bytes of
/proc/self/io), how many of those the tier wrote, the workers' CPU time, for how many seconds they
were paused, and how many were killed.

- arrays: float64, rounded measurements, as dask.array
- text: a column of log lines, as dask.dataframe
- shuffle: rows with a key and numbers, shuffled by the key, as Dask does that by itself: between
  workers and through files of its own (p2p)
- tasks: the same as a graph of tasks, whose pieces are results like others

The control is what people write by hand: the results used least recently are serialized into LZ4
frames in a dict, and when those are too many the oldest goes to a file.  "All in memory" has no
limit: what is beyond it is what the limit costs.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import click
import lz4.frame
import numpy as np
from dask.sizeof import sizeof
from distributed.protocol import deserialize_bytes, serialize_bytelist

from zswap.meminfo import parse_bytes

LIMIT = "448MiB"
WORKERS = 2
TIERS = ("tier", "buffer", "frames", "memory")
NAMES = {
    "tier": "SpillTier",
    "buffer": "SpillBuffer",
    "frames": "LZ4 frames",
    "memory": "all in memory",
}
WORKLOADS = ("arrays", "text", "shuffle", "tasks")


class Frames(MutableMapping[Any, Any]):
    """The control; with the budgets of a SpillTier."""

    def __init__(self, worker_local_directory: str) -> None:
        limit = parse_bytes(LIMIT)
        self.most, self.most_frames = int(limit * 0.6) - limit // 8, limit // 8
        self.values_: OrderedDict[Any, Any] = OrderedDict()
        self.frames: OrderedDict[Any, bytes] = OrderedDict()
        self.files: set[Any] = set()
        self.sizes: dict[Any, int] = {}
        self.bytes = self.frame_bytes = self.written_bytes = 0
        self.folder = Path(worker_local_directory, "frames")
        self.folder.mkdir(exist_ok=True)
        self.lock = threading.RLock()

    @property
    def fast(self) -> bool:
        return bool(self.values_ or self.frames)

    def path(self, key: Any) -> Path:
        return self.folder / str(abs(hash(key)))

    def evict(self) -> int:
        with self.lock:
            if self.values_:
                key, value = self.values_.popitem(last=False)
                self.bytes -= self.sizes[key]
                parts = serialize_bytelist(value, on_error="raise", compression=None)
                self.frames[key] = lz4.frame.compress(b"".join(parts))
                self.frame_bytes += len(self.frames[key])
                while self.frame_bytes > self.most_frames:
                    self.write()
                return self.sizes[key]
            return self.write() if self.frames else -1

    def write(self) -> int:
        key, frame = self.frames.popitem(last=False)
        self.path(key).write_bytes(frame)
        self.files.add(key)
        self.frame_bytes -= len(frame)
        self.written_bytes += len(frame)
        return len(frame)

    def __setitem__(self, key: Any, value: Any) -> None:
        with self.lock:
            if key in self.sizes:
                del self[key]
            self.values_[key] = value
            self.sizes[key] = sizeof(value)
            self.bytes += self.sizes[key]
            while self.bytes > self.most and self.values_:
                self.evict()

    def __getitem__(self, key: Any) -> Any:
        with self.lock:
            if key in self.values_:
                self.values_.move_to_end(key)
                return self.values_[key]
            if key in self.frames:
                frame = self.frames.pop(key)
                self.frame_bytes -= len(frame)
            elif key in self.files:
                frame = self.path(key).read_bytes()
                self.files.discard(key)
                self.path(key).unlink()
            else:
                raise KeyError(key)
            value = deserialize_bytes(lz4.frame.decompress(frame))
            del self.sizes[key]
            self[key] = value
            return value

    def __delitem__(self, key: Any) -> None:
        with self.lock:
            size = self.sizes.pop(key)
            if key in self.values_:
                del self.values_[key]
                self.bytes -= size
            elif key in self.frames:
                self.frame_bytes -= len(self.frames.pop(key))
            else:
                self.files.discard(key)
                self.path(key).unlink()

    def __contains__(self, key: object) -> bool:
        return key in self.sizes

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self.sizes))

    def __len__(self) -> int:
        return len(self.sizes)


# ---- what the workers do -------------------------------------------------------------------------


def arrays(size: int) -> bool:
    import dask.array as da

    rows = size // 8 // 1000
    x = da.random.RandomState(1).normal(0, 100, (rows, 1000), chunks=(500, 1000)).round(1)
    x = x.persist()
    mean = float(x.mean().compute())
    return abs(float((x - mean).sum().compute())) < rows * 1000 and mean < 10


def log_lines(part: int, rows: int) -> Any:
    import pandas as pd

    rng = np.random.default_rng(part)
    who, took = rng.integers(0, 5000, rows), rng.integers(1, 900, rows)
    lines = [
        f"2026-11-26 12:{n % 60:02} GET /users/{who[n]}/items?page={n % 7} 200 {took[n]} ms"
        for n in range(rows)
    ]
    return pd.DataFrame({"line": pd.Series(lines, dtype=object), "took": took})


def text(size: int) -> bool:
    import dask.dataframe as dd

    rows = 40_000  # some 5 MB a part, as Dask counts
    parts = max(size // (rows * 125), 2)
    frame = dd.from_map(log_lines, range(parts), rows=rows).persist()
    longest = frame.line.str.len().max().compute()
    slow = (frame.took > 800).sum().compute()
    return int(longest) > 40 and int(slow) > 0


def numbers(part: int, rows: int) -> Any:
    import pandas as pd

    rng = np.random.default_rng(part)
    frame = {"key": rng.integers(0, 1 << 20, rows)}
    frame.update({f"x{n}": rng.integers(0, 1000, rows).astype(float) for n in range(7)})
    return pd.DataFrame(frame)


def shuffle(size: int, method: str = "p2p") -> bool:
    import dask.dataframe as dd

    rows = 80_000
    parts = max(size // (rows * 64), 2)
    frame = dd.from_map(numbers, range(parts), rows=rows)
    shuffled = frame.shuffle("key", shuffle_method=method).persist()
    total = shuffled.x0.sum().compute()
    return len(shuffled) == parts * rows and float(total) > 0


def tasks(size: int) -> bool:
    return shuffle(size, "tasks")


# ---- one cluster ---------------------------------------------------------------------------------


def taken(dask_worker: Any) -> dict[str, float]:
    """VmHWM of a worker, bytes that it has written to the disk, and its tier, and CPU time."""
    status = Path("/proc/self/status").read_text()
    written = Path("/proc/self/io").read_text()
    data = dask_worker.data
    by_tier = getattr(data, "written_bytes", None)
    if by_tier is None:
        metrics = getattr(data, "cumulative_metrics", {})  # a dict has none
        by_tier = metrics.get(("disk-write", "bytes"), 0)
    return {
        "peak": int(status.partition("VmHWM:")[2].split()[0]) << 10,
        "written": int(written.partition("\nwrite_bytes:")[2].split()[0]),
        "by_tier": by_tier,
        "cpu": time.process_time(),
    }


def measure(tier: str, workload: str, size: int) -> dict[str, Any]:
    """Run a workload in a cluster of this process."""
    import dask
    from distributed import Client, LocalCluster, Status

    import zswap.dask

    data = {"tier": zswap.dask.SpillTier, "frames": Frames}.get(tier)
    options = {} if data is None else {"data": data}
    # as Dask's users have it, but for strings, which are to be objects
    dask.config.set({"dataframe.convert-string": False})
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp") as folder,
        LocalCluster(
            n_workers=WORKERS,
            threads_per_worker=1,
            memory_limit=0 if tier == "memory" else LIMIT,
            dashboard_address=None,
            local_directory=folder,
            silence_logs=50,
            **options,
        ) as cluster,
        Client(cluster) as client,
    ):
        pids = set(client.run(os.getpid).values())
        idle = sum(f["cpu"] for f in client.run(taken).values())
        seen, paused, stop = set(pids), [0.0], threading.Event()

        def watch() -> None:
            while not stop.wait(0.05):
                for worker in list(cluster.scheduler.workers.values()):
                    paused[0] += 0.05 * (worker.status == Status.paused)
                    seen.add(worker.pid)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        began = time.perf_counter()
        try:
            sound = globals()[workload](size)
            seconds = time.perf_counter() - began
            figures = list(client.run(taken).values())
        except Exception as error:  # killed too often, say
            return {"failed": f"{type(error).__name__}: {error}"[:200]}
        finally:
            stop.set()
            watcher.join()
        seen |= set(client.run(os.getpid).values())
        return {
            "seconds": seconds,
            "peak_bytes": max(f["peak"] for f in figures),
            "written_bytes": sum(f["written"] for f in figures),
            "by_tier_bytes": sum(f["by_tier"] for f in figures),
            "paused_seconds": paused[0],
            "cpu_seconds": sum(f["cpu"] for f in figures) - idle,
            "killed": len(seen - pids),
            "sound": sound,
        }


def in_a_process(tier: str, workload: str, size: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", tier, "--workload", workload]
    command += ["--size", str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    try:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"failed": done.stderr.strip().splitlines()[-1][:200] if done.stderr else "?"}
    return found


def row_of(tier: str, rounds: list[dict[str, Any]], base: float | None) -> list[str]:
    good = [r for r in rounds if "failed" not in r and r["sound"]]
    if not good:
        return [NAMES[tier], "failed", *[""] * 7]
    middle = {key: statistics.median(r[key] for r in good) for key in good[0]}
    return [
        NAMES[tier],
        f"{middle['seconds']:.1f}" + ("" if len(good) == len(rounds) else f" ({len(good)} runs)"),
        "" if base is None else f"{middle['seconds'] / base:.2f}",
        f"{int(middle['peak_bytes']) >> 20}",
        f"{int(middle['written_bytes']) >> 20}",
        f"{int(middle['by_tier_bytes']) >> 20}",
        f"{middle['cpu_seconds']:.1f}",
        f"{middle['paused_seconds']:.1f}",
        f"{sum(r['killed'] for r in good)}",
    ]


@click.command(help=__doc__.partition("\n")[0])
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--size", default="768MiB", show_default=True)
@click.option("--workload", "wanted", multiple=True, type=click.Choice(WORKLOADS))
@click.option("--tier", "tiers", multiple=True, type=click.Choice(TIERS))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--smoke", is_flag=True, help="As little as shows that it works.")
@click.option("--one", type=click.Choice(TIERS), hidden=True)
def main(
    rounds: int,
    size: str,
    wanted: tuple[str, ...],
    tiers: tuple[str, ...],
    as_json: bool,
    smoke: bool,
    one: str | None,
) -> None:
    amount = parse_bytes("64MiB" if smoke else size)
    if one is not None:
        print(json.dumps(measure(one, wanted[0], amount)))
        return
    report: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for workload in wanted or WORKLOADS[:1] * smoke or WORKLOADS:
        report[workload] = {tier: [] for tier in tiers or TIERS}
        for _ in range(1 if smoke else rounds):
            for tier, found in report[workload].items():
                found.append(in_a_process(tier, workload, amount))
                print(f"{workload} {NAMES[tier]}: {found[-1]}", file=sys.stderr)
    if as_json:
        print(json.dumps(report))
    failed = False
    for workload, by_tier in report.items():
        failed |= any("failed" in r or not r["sound"] for found in by_tier.values() for r in found)
        base = [r["seconds"] for r in by_tier.get("buffer", []) if "failed" not in r]
        if not as_json:
            print(f"\n| {workload} | s | x | peak MiB | to disk MiB | by the tier", end="")
            print(" | CPU s | paused s | killed |")
            print("|---" + "|---:" * 8 + "|")
            for tier, found in by_tier.items():
                row = row_of(tier, found, statistics.median(base) if base else None)
                print("| " + " | ".join(row) + " |")
    sys.exit(1 if failed and smoke else 0)


if __name__ == "__main__":
    main()
