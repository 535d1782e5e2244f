"""The block device of examples/nbdkit_plugin against nbdkit's own compressed memory disk.

fio writes and reads 4 KiB at random with 16 requests in flight, over a Unix socket, to a disk that
was filled before; the disks take turns.  Half of each block that fio makes is noise, the rest
repeats.  Beside the requests a second are nbdkit's CPU time for one, since much of the rest is
fio's and the socket's, and what the process takes of memory (VmRSS) at the end of the fill, some 35
MiB of which Python takes.  Where nbdkit or fio is missing there is nothing to measure.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import click

import zswap
from zswap.bench.output import Column, machine, print_table, progress
from zswap.shell import run

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "nbdkit_plugin"
ENV = {**os.environ, "PYTHONPATH": str(Path(zswap.__file__).parents[1])}
PEER = "memory allocator=zstd"
TITLES = (
    "disk",
    "writes a second",
    "over the peer's",
    "CPU µs",
    "reads",
    "over the peer's",
    "CPU µs",
    "MiB",
)
#: What is to be reached at least, over the peer.
BOUNDS = {"write": 3.0, "read": 1.2}


def missing() -> str | None:
    """Give a reason why there is nothing to measure, if there is one."""
    for name in ("nbdkit", "fio", "cc"):
        if shutil.which(name) is None:
            return f"there is no {name}"
    return None


@contextmanager
def serving(folder: Path, plugin: str, size: int) -> Iterator[tuple[str, int]]:
    """Run nbdkit with a disk of so many MiB; gives its address and process number."""
    socket, pid = folder / "socket", folder / "pid"
    command = ["nbdkit", "-f", "-U", str(socket), "-P", str(pid), *plugin.split(), f"size={size}M"]
    process = subprocess.Popen(command, env=ENV, cwd=folder)
    try:
        while not pid.exists():
            if process.poll() is not None:
                raise click.ClickException(f"nbdkit {plugin} does not start")
            time.sleep(0.01)
        yield f"nbd+unix:///?socket={socket}", process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        for path in (socket, pid):
            path.unlink(missing_ok=True)


def fio(folder: Path, uri: str, kind: str, block: str, *more: str) -> tuple[float, int]:
    """Requests a second of one run, and how many there were."""
    out = folder / "fio.json"
    command = [
        *("fio", "--name=bench", "--ioengine=nbd", f"--uri={uri}", f"--rw={kind}", f"--bs={block}"),
        *("--iodepth=16", "--buffer_compress_percentage=50", "--buffer_compress_chunk=2k"),
        *("--refill_buffers", "--output-format=json", f"--output={out}", *more),
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise click.ClickException(f"fio failed:\n{done.stderr}")
    text = out.read_text()
    (job,) = json.loads(text[text.index("{") :])["jobs"]
    found = job["write" if "write" in kind else "read"]
    return float(found["iops"]), int(found["total_ios"])


def resident(pid: int) -> float:
    """MiB of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def cpu(pid: int) -> float:
    """Microseconds of CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1e6 / os.sysconf("SC_CLK_TCK")


def measure(folder: Path, plugin: str, size: int, seconds: int) -> dict[str, float]:
    with serving(folder, plugin, size) as (uri, pid):
        fio(folder, uri, "write", "256k", f"--size={size}M")
        found = {"mib": resident(pid)}
        for kind in ("write", "read"):
            before, timed = cpu(pid), ("--time_based", f"--runtime={seconds}")
            found[kind], count = fio(folder, uri, f"rand{kind}", "4k", f"--size={size}M", *timed)
            found[f"{kind}_cpu_us"] = (cpu(pid) - before) / max(count, 1)
    return found


@click.command(help=__doc__)
@click.option(
    "--size",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    metavar="MIB",
    help="Of the disks.",
)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--seconds",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Of writing, and of reading.",
)
@click.option(
    "--compressor",
    "compressors",
    multiple=True,
    default=("lz4", "zstd:1"),
    show_default=True,
    help="Of ours; may be given again.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
@click.option("--smoke", is_flag=True, help="As little as shows that it works.")
def main(
    size: int,
    rounds: int,
    seconds: int,
    compressors: tuple[str, ...],
    as_json: bool,
    as_markdown: bool,
    smoke: bool,
) -> None:
    if smoke:
        size, rounds, seconds, compressors = 8, 1, 1, compressors[:1]
    if reason := missing():
        click.echo(f"skipped: {reason}")
        return
    with tempfile.TemporaryDirectory(prefix="nbd.") as name, progress() as tell:
        folder = Path(name)
        done = subprocess.run(
            [sys.executable, EXAMPLE / "build.py"],
            cwd=folder,
            env=ENV,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            click.echo(f"skipped: the plugin cannot be built here\n{done.stderr}")
            return
        plugins = [PEER, *(f"./zswap-plugin.so compressor={name}" for name in compressors)]
        rows: dict[str, list[dict[str, float]]] = {plugin: [] for plugin in plugins}
        for number in range(rounds):
            for at in range(len(plugins)):
                tell(number * len(plugins) + at, rounds * len(plugins), f"round {number + 1}")
                plugin = plugins[(at + number) % len(plugins)]
                rows[plugin].append(measure(folder, plugin, size, seconds))
    ratios = {
        (plugin, kind): median(
            ours[kind] / peer[kind] for ours, peer in zip(rows[plugin], rows[PEER], strict=True)
        )
        for plugin in plugins
        for kind in BOUNDS
    }
    if as_json:
        found = {
            "size_mib": size,
            "seconds": seconds,
            "rounds": rows,
            "ratios": {
                plugin: {kind: ratios[plugin, kind] for kind in BOUNDS} for plugin in plugins[1:]
            },
            "bounds": BOUNDS,
        }
        click.echo(json.dumps(found, indent=1))
        return
    grid = []
    for plugin in plugins:
        cells = [plugin.replace("./zswap-plugin.so ", "zswap ")]
        for kind, bound in BOUNDS.items():
            ratio = f"{ratios[plugin, kind]:.2f} ({bound:g})" if plugin != PEER else ""
            took = median(row[f"{kind}_cpu_us"] for row in rows[plugin])
            cells += [f"{median(row[kind] for row in rows[plugin]):.0f}", ratio, f"{took:.1f}"]
        grid.append([*cells, f"{median(row['mib'] for row in rows[plugin]):.0f}"])
    columns = [Column("", title) for title in TITLES]
    click.echo(
        f"{machine()}; {size} MiB, {seconds} s each, median of {rounds} rounds (what is to be "
        "reached)\n"
    )
    print_table(columns, grid, as_markdown=as_markdown)


if __name__ == "__main__":
    sys.exit(run(main, name="nbd.py"))
