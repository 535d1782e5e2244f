"""`zswap replay` against the truth: how fast the model is, and how far from engine and kernel.

speed: a trace replayed for each of some settings, in references a second.  engine: a recorded trace
of touches is fed to an engine with a swap file behind it, and what came of it is held against the
model.  kernel (as root, on a machine without swap): the same in a memory cgroup, with a swap file
and the kernel's zswap; settings are put back, whatever happens.  Exits with 1 when a hit rate is
more than 2 points off the engine's, or of the kernel's hit rate, its pool and its bytes to the
device one is more than 10 points or per cent off.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import numpy as np

import zswap
from zswap import signals
from zswap.bench.output import Column, machine, markdown, print_table
from zswap.replay.contents import Contents
from zswap.replay.model import simulator
from zswap.replay.settings import Setting
from zswap.replay.trace import Trace
from zswap.shell import run

PAGE = 4096
PARAMETERS, VM = Path("/sys/module/zswap/parameters"), Path("/proc/sys/vm")
TEMPLATES = 256
POINTS = {"engine": 2.0, "kernel": 10.0}
TITLES = ("", "setting", "figure", "truth", "model", "apart")


@dataclass
class Row:
    """A figure, in truth and by the model: a share, held apart in points, or an amount, in per
    cent."""

    against: str
    setting: str
    figure: str
    truth: float
    model: float
    share: bool = False
    judged: bool = False

    @property
    def apart(self) -> float:
        if self.share:
            return 100 * (self.model - self.truth)
        return 100 * (self.model - self.truth) / max(self.truth, 1)

    def cells(self) -> list[str]:
        def shown(value: float) -> str:
            return f"{100 * value:.1f} %" if self.share else f"{value:,.0f}"

        unit = "points" if self.share else "%"
        return [
            self.against,
            self.setting,
            self.figure,
            shown(self.truth),
            shown(self.model),
            f"{self.apart:+.1f} {unit}",
        ]


def recorded(references: int, pages: int, seed: int) -> Trace:
    """A program's touches: a hot part by rank, a loop over a part, a slow scan over all; three in
    ten write.  It begins by filling its memory."""
    rng = np.random.default_rng(seed)
    place = rng.permutation(pages)
    hot = place[np.minimum(rng.zipf(1.25, references) - 1, pages - 1)]
    loop = np.arange(references) // 4 % (pages // 3)
    scan = np.arange(references) // 7 % pages
    touched = np.choose(rng.choice(3, references, p=(0.7, 0.2, 0.1)), (hot, loop, scan))
    ids = np.concatenate((np.arange(pages), touched)).astype(np.uint32)
    ops = np.concatenate((np.ones(pages), rng.random(references) < 0.3)).astype(np.uint8)
    return Trace("recorded", "text", np.arange(pages, dtype=np.uint64), ids, ops)


def templates(seed: int = 0) -> np.ndarray:
    """Pages that compress to all kinds of sizes."""
    rng = np.random.default_rng(seed)
    made = np.zeros((TEMPLATES, PAGE), np.uint8)
    for page in made:
        fresh = int(rng.integers(PAGE // 16, PAGE * 5 // 8)) // 8
        words = page.view(np.uint64)
        words[:] = rng.integers(0, 8, PAGE // 8)
        words[rng.permutation(PAGE // 8)[:fresh]] = rng.integers(0, 1 << 63, fresh)
    return made


def sizes_of(pages: np.ndarray, spec: str) -> np.ndarray:
    with zswap.ZSwap(spec, max_pool_bytes=1 << 32) as z:
        offsets = np.arange(len(pages), dtype=np.uint64)
        z.store_many(offsets, pages)
        return z.compressed_sizes(offsets).astype(np.uint16)


def contents_of(trace: Trace, sizes: np.ndarray, name: str) -> Contents:
    """Page i has the template of its number."""
    return Contents(name, sizes[np.arange(trace.pages) % TEMPLATES], 0.0, 0.0)


# ---- speed ---------------------------------------------------------------------------------------


def speed(trace: Trace, sizes: np.ndarray) -> list[tuple[str, float]]:
    found = []
    memory = trace.pages * PAGE // 3
    one = contents_of(trace, sizes, "lz4")
    for name, setting, with_pool in (
        ("no zswap", Setting(None), None),
        ("pool of 20 %", Setting("lz4", 20), one),
        ("shrinker", Setting("lz4", 20, 90, True), one),
    ):
        model = simulator(trace, setting, with_pool, memory=memory, ram=memory)
        begun = time.monotonic()
        model.run(trace.ids, trace.ops)
        found.append((name, trace.references / (time.monotonic() - begun)))
    return found


# ---- the engine ----------------------------------------------------------------------------------


def against_engine(trace: Trace, made: np.ndarray, percent: int, folder: str) -> list[Row]:
    memory = ram = trace.pages * PAGE // 3
    sizes = sizes_of(made, "lz4")
    setting = Setting("lz4", percent)
    model = simulator(
        trace,
        setting,
        contents_of(trace, sizes, "lz4"),
        memory=memory,
        ram=ram,
        model="engine",
        charged="beside",
        log_room=3 * trace.references,
    )
    model.run(trace.ids, trace.ops)
    n, now = model.counters(), model.state()
    swap = zswap.SwapFile(os.path.join(folder, "swap"), size=trace.pages * PAGE)
    with zswap.ZSwap(
        "lz4",
        max_pool_bytes=ram // PAGE * percent // 100 * PAGE,
        promote="never",
        backing=swap,
    ) as z:
        out = np.empty(PAGE, np.uint8)
        for event in model.log().tolist():
            offset, what = event >> 2, event & 3
            if what == 0:
                z.store(offset, made[offset % TEMPLATES])
            elif what == 1:
                z.load(offset, out)
            else:
                z.invalidate(offset)
        z.compact()
        real = z.stats()
    faults = n["pool_hits"] + n["same_hits"] + n["device_hits"]
    name = f"lz4, {percent} %"
    return [
        Row(
            "engine",
            name,
            "hit rate",
            1 - real.backing_loads / real.loads,
            1 - n["device_hits"] / faults,
            share=True,
            judged=True,
        ),
        Row("engine", name, "written back", real.written_back_pages, n["written_back"]),
        Row("engine", name, "pool bytes", real.pool_total_size, now["pool_pages"] * PAGE),
    ]


# ---- the kernel ----------------------------------------------------------------------------------


@contextlib.contextmanager
def kept(*paths: Path) -> Iterator[None]:
    """Have files of the kernel's say at the end what they say now."""
    before = {path: path.read_text().strip() for path in paths if path.exists()}
    try:
        yield
    finally:
        for path, value in before.items():
            if path.read_text().strip() != value:
                path.write_text(value)


@contextlib.contextmanager
def swap_file(nbytes: int) -> Iterator[None]:
    with tempfile.NamedTemporaryFile(prefix="zswap-replay-swap.", dir="/var/tmp") as file:
        block = bytes(1 << 20)
        for _ in range(-(-nbytes // len(block))):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        subprocess.run(["mkswap", file.name], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["swapon", file.name], check=True)
        try:
            yield
        finally:
            subprocess.run(["swapoff", file.name], check=True)


@contextlib.contextmanager
def memory_cgroup(nbytes: int) -> Iterator[Path]:
    """A cgroup of version 1 or 2 with a limit."""
    first = Path("/sys/fs/cgroup/memory")
    v1 = (first / "memory.limit_in_bytes").exists()
    group = (first if v1 else Path("/sys/fs/cgroup")) / f"zswap-replay-{os.getpid()}"
    group.mkdir()
    try:
        (group / ("memory.limit_in_bytes" if v1 else "memory.max")).write_text(f"{nbytes}")
        if v1:
            (group / "memory.swappiness").write_text("100")
        yield group
    finally:
        for _ in range(50):
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.1)


def rotational(folder: str) -> Path:
    """Where the kernel says whether the disk below a folder rotates."""
    device = os.stat(folder).st_dev
    at = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    return (at if (at / "queue").exists() else at.parent) / "queue/rotational"


def vmstat() -> dict[str, int]:
    lines = Path("/proc/vmstat").read_text().splitlines()
    return {name: int(value) for name, value in (line.split() for line in lines)}


def touch_all(trace: Trace, made: np.ndarray, group: Path, ready: int, go: int) -> None:
    """In a child: fill memory in the cgroup, and touch it as the trace does."""
    pages, filled = trace.pages, trace.pages
    area_bytes = pages * PAGE
    ids = trace.ids.tolist()
    ops = trace.ops.tolist()
    banks = [page.tobytes() for page in made]
    (group / "cgroup.procs").write_text(f"{os.getpid()}")
    area = mmap.mmap(-1, area_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):
        area.madvise(mmap.MADV_NOHUGEPAGE)
    view = memoryview(area)
    for number in range(filled):
        at = number * PAGE
        view[at : at + PAGE] = banks[number % TEMPLATES]
    os.write(ready, b".")
    os.read(go, 1)
    at_byte = PAGE - 1
    for number, op in zip(ids[filled:], ops[filled:], strict=True):
        if op:
            view[number * PAGE + at_byte] = 1
        else:
            view[number * PAGE + at_byte]
    os.write(ready, b".")
    os.read(go, 1)  # until the figures are read
    os._exit(0)


def in_kernel(
    trace: Trace, made: np.ndarray, setting: Setting, memory: int
) -> tuple[dict[str, int], int]:
    """What vmstat counts for the trace after its fill, and what zswap's pool takes at the end."""
    parameters = {
        "compressor": setting.compressor,
        "max_pool_percent": setting.max_pool_percent,
        "accept_threshold_percent": setting.accept_threshold_percent,
        "shrinker_enabled": "Y" if setting.shrinker else "N",
        "enabled": "Y",
    }
    turning = rotational("/var/tmp")
    files = [*(PARAMETERS / name for name in parameters), VM / "page-cluster", turning]
    with contextlib.ExitStack() as keep:
        keep.enter_context(kept(*files))
        turning.write_text("0")  # else the kernel reads ahead by places in the file
        keep.enter_context(swap_file(2 * trace.pages * PAGE))
        group = keep.enter_context(memory_cgroup(memory))
        for name, value in parameters.items():
            (PARAMETERS / name).write_text(f"{value}")
        (VM / "page-cluster").write_text(f"{setting.page_cluster}")
        ready, theirs = os.pipe()
        wait, go = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                touch_all(trace, made, group, theirs, wait)
            finally:
                os._exit(1)
        os.close(theirs)
        try:
            if os.read(ready, 1) != b".":
                raise SystemExit("the child has ended early: too little memory?")
            before = vmstat()
            os.write(go, b".")
            if os.read(ready, 1) != b".":
                raise SystemExit("the child has ended early")
            after = vmstat()
            pool = next(
                int(line.split()[1]) * 1024
                for line in Path("/proc/meminfo").read_text().splitlines()
                if line.startswith("Zswap:")
            )
            os.write(go, b".")
        finally:
            os.close(go)
            os.waitpid(child, 0)
        return {name: after[name] - before.get(name, 0) for name in after}, pool


def against_kernel(
    trace: Trace, made: np.ndarray, sizes: np.ndarray, setting: Setting, memory: int
) -> list[Row]:
    with signals.raised():
        real, pool = in_kernel(trace, made, setting, memory)
    ram = os.sysconf("SC_PHYS_PAGES") * PAGE
    v1 = Path("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists()
    # page tables are charged as well
    tables = trace.pages * 8
    model = simulator(
        trace,
        # which asks what zswap has of the cgroup, and in version 1 nobody counts that
        replace(setting, shrinker=setting.shrinker and not v1),
        contents_of(trace, sizes, str(setting.compressor)),
        memory=memory - tables,
        ram=ram,
        charged="beside" if v1 else "payload",
    )
    model.run(trace.ids, trace.ops, 0, trace.pages)
    filled = model.counters()
    model.run(trace.ids, trace.ops, trace.pages)
    n = {name: value - filled[name] for name, value in model.counters().items()}
    came = real["zswpin"] + real["pswpin"]
    ours = n["pool_hits"] + n["ahead_pool"] + n["device_hits"] + n["ahead_device"]
    name = (
        f"{setting.compressor}, {setting.max_pool_percent} %, "
        f"{'shrinker, ' if setting.shrinker else ''}cluster {setting.page_cluster}"
    )
    return [
        Row(
            "kernel",
            name,
            "from the pool",
            real["zswpin"] / max(1, came),
            (n["pool_hits"] + n["ahead_pool"]) / max(1, ours),
            share=True,
            judged=True,
        ),
        Row("kernel", name, "pages in", came, ours),
        Row("kernel", name, "stored", real["zswpout"], n["stored"]),
        Row("kernel", name, "written back", real["zswpwb"], n["written_back"]),
        Row(
            "kernel",
            name,
            "to the device",
            real["pswpout"],
            n["rejected"] + n["written_back"],
            judged=True,
        ),
        Row(
            "kernel", name, "from the device", real["pswpin"], n["device_hits"] + n["ahead_device"]
        ),
        Row("kernel", name, "pool bytes", pool, model.state()["pool_pages"] * PAGE, judged=True),
    ]


def zram_sizes(made: np.ndarray, algorithm: str) -> np.ndarray:
    """What each template becomes in this kernel's zram."""
    from zswap.bench.zram import Zram

    sizes = []
    with Zram(algorithm) as zram:
        zram.empty(made.nbytes)
        area = memoryview(mmap.mmap(-1, made.nbytes))
        area[:] = made.reshape(-1).data
        held = 0
        for number in range(len(made)):
            zram.transfer(area, write=True, first=number * PAGE, stop=(number + 1) * PAGE)
            now = zram.mm_stat()["payload"]
            sizes.append(now - held)
            held = now
    return np.array(sizes, np.uint16)


@click.command(help=__doc__)
@click.option("--against", type=click.Choice(("speed", "engine", "kernel")), multiple=True)
@click.option("--references", type=click.IntRange(1000), default=1_000_000, show_default=True)
@click.option("--pages", type=click.IntRange(512), default=250_000, show_default=True)
@click.option("--percent", "percents", type=click.IntRange(1, 50), multiple=True, default=(1, 5))
@click.option("--cluster", "clusters", type=click.IntRange(0, 5), multiple=True, default=(0, 3))
@click.option(
    "--memory", type=click.IntRange(8), default=400, show_default=True, help="MiB of the cgroup."
)
@click.option("--compressor", default="lzo", show_default=True, help="Of the kernel's zswap.")
@click.option("--shrinker", is_flag=True)
@click.option("--seed", type=click.IntRange(0), default=0)
@click.option("--json", "as_json", is_flag=True)
@click.option("--markdown", "as_markdown", is_flag=True)
@click.option("--smoke", is_flag=True)
def main(
    against: tuple[str, ...],
    references: int,
    pages: int,
    percents: tuple[int, ...],
    clusters: tuple[int, ...],
    memory: int,
    compressor: str,
    shrinker: bool,
    seed: int,
    as_json: bool,
    as_markdown: bool,
    smoke: bool,
) -> None:
    if smoke:
        references, pages = 20_000, 2_000
        against = against or ("speed", "engine")
    rows: list[Row] = []
    speeds: list[tuple[str, float]] = []
    made = templates()
    wanted = against or ("speed", "engine", "kernel")
    trace = recorded(references, pages, seed)
    if "speed" in wanted:
        speeds = speed(trace, sizes_of(made, "lz4"))
    if "engine" in wanted:
        small = recorded(min(references, 1_000_000), min(pages, 50_000), seed)
        with tempfile.TemporaryDirectory(prefix="zswap-replay.") as folder:
            for percent in (5, 20):
                rows += against_engine(small, made, percent, folder)
    if "kernel" in wanted:
        why = reason_not()
        if why:
            click.echo(f"kernel: left out: {why}", err=True)
        else:
            sizes = zram_sizes(made, compressor)
            for percent in percents:
                for cluster in clusters:
                    setting = Setting(compressor, percent, 90, shrinker, cluster)
                    rows += against_kernel(trace, made, sizes, setting, memory << 20)
    if as_json:
        told = {
            "machine": machine(),
            "speed": dict(speeds),
            "rows": [{**asdict(row), "apart": row.apart} for row in rows],
        }
        click.echo(json.dumps(told, indent=2))
    else:
        click.echo(machine())
        for name, per_second in speeds:
            click.echo(f"{name}: {per_second / 1e6:.1f} million references a second")
        columns, grid = tuple(Column("", title) for title in TITLES), [row.cells() for row in rows]
        if rows and as_markdown:
            click.echo(markdown(columns, grid))
        elif rows:
            print_table(columns, grid)
    off = [row for row in rows if row.judged and abs(row.apart) > POINTS[row.against]]
    sys.exit(1 if off and not smoke else 0)


def reason_not() -> str | None:
    if os.geteuid():
        return "it must be root"
    if len(Path("/proc/swaps").read_text().splitlines()) > 1:
        return "this machine has swap already"
    if not PARAMETERS.exists():
        return "this kernel has no zswap"
    return None


if __name__ == "__main__":
    sys.exit(run(main, name="replay.py"))
