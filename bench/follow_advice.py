"""Follow the advice of ``zswap analyze`` letter for letter on this machine's kernel, and compare
what it saves.

It must be root.  The commands are taken from the printed report, run as they are, the pages are
swapped out by MADV_PAGEOUT, and what the kernel then says it holds is set beside what was promised.
Afterwards everything is put back: the device, the swap file and the parameters.  Run it only where
zram and zswap are not in use.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import numpy as np

PARAMETERS = Path("/sys/module/zswap/parameters")
MADV_PAGEOUT = 21
MOST_APART = 3.0  # points


class Report:
    """What ``zswap analyze`` printed: for each way the percentage promised, the commands, the
    check."""

    def __init__(self, path: str) -> None:
        self.text = subprocess.run(
            [sys.executable, "-m", "zswap", "analyze", "--file", path, "--all-compressors"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        self.ways: dict[str, tuple[str, float, list[str], str]] = {}
        for block in self.text.split("\n\n"):
            if not (head := re.match(r"To set (zswap|zram) ", block)):
                continue
            commands = [line[2:] for line in block.splitlines() if line.startswith("  ")]
            named = re.search(r"must show ([\w-]+)", block)
            assert named is not None
            self.ways[head[1]] = named[1], self._promised(named[1]), commands[:-1], commands[-1]

    def _promised(self, compressor: str) -> float:
        """The percentage in the full table, in the kernel's zsmalloc."""
        wanted = {"zstd": "zstd:3", "deflate": "deflate-kernel"}.get(compressor, compressor)
        name = ""
        for line in self.text.splitlines():
            if match := re.match(r"(\S+) +(?:zsmalloc|z3fold|zbud) ", line):
                name = match[1]
            if name == wanted and (
                found := re.search(r"zsmalloc-kernel\S* .* (-?[\d.]+) %$", line)
            ):
                return float(found[1])
        raise SystemExit(f"no row for {wanted} in:\n{self.text}")


def meminfo(key: str) -> int:
    match = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def run(commands: list[str], check: str) -> tuple[str, dict[str, str]]:
    """Type the commands into one shell, then the check; what that shows, and the variables left in
    the shell."""
    script = "\n".join(["set -e", *commands, "echo CHECK", check, 'echo "CHECKED $dev|$f|$n"'])
    done = subprocess.run(["sh"], input=script, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the commands failed:\n{done.stdout}{done.stderr}")
    shown, _, rest = done.stdout.partition("CHECK\n")[2].partition("CHECKED ")
    return shown, dict(zip(("dev", "f", "n"), rest.strip().split("|"), strict=True))


def swap_out(pages: np.ndarray) -> mmap.mmap:
    """Bring the pages into anonymous memory and have the kernel swap it out."""
    area = mmap.mmap(-1, pages.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    view = np.frombuffer(area, np.uint8)
    view[:] = pages
    libc = ctypes.CDLL(None, use_errno=True)
    for _ in range(2):  # a page in use just then is left out
        if libc.madvise(
            ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(pages.nbytes), MADV_PAGEOUT
        ):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    del view
    return area


def saved_in_zram(device: str, pages: np.ndarray) -> float:
    stat = Path("/sys/block", os.path.basename(device), "mm_stat")

    def memory() -> int:
        return int(stat.read_text().split()[2])

    before = memory(), swap_area_used(device)
    area = swap_out(pages)
    took, held = memory() - before[0], swap_area_used(device) - before[1]
    area.close()
    click.echo(f"  {held:,} bytes swapped out took {took:,}")
    return 100 * (1 - took / held)


def swap_area_used(path: str) -> int:
    for line in Path("/proc/swaps").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[0] == path:
            return int(fields[3]) * 1024
    raise SystemExit(f"{path} is no swap area")


def saved_in_zswap(pages: np.ndarray) -> float:
    before = meminfo("Zswap"), meminfo("Zswapped")
    area = swap_out(pages)
    memory, held = meminfo("Zswap") - before[0], meminfo("Zswapped") - before[1]
    area.close()
    click.echo(f"  {held:,} bytes swapped out took {memory:,}")
    return 100 * (1 - memory / held)


@click.command(help=__doc__)
@click.argument("path", type=click.Path(exists=True, dir_okay=False))
@click.option("--way", type=click.Choice(["zswap", "zram"]), multiple=True, help="Only this one.")
def main(path: str, way: tuple[str, ...]) -> None:
    if os.geteuid():
        raise click.UsageError("it must be root")
    if any("zram" in line for line in Path("/proc/swaps").read_text().splitlines()):
        raise click.UsageError("zram is swap here already")
    report = Report(path)
    pages = np.fromfile(path, np.uint8)
    pages = pages[: pages.size // mmap.PAGESIZE * mmap.PAGESIZE]
    apart = []
    for name, (compressor, promised, commands, check) in report.ways.items():
        if way and name not in way:
            continue
        click.echo("\n".join([f"{name}:", *("  # " + command for command in (*commands, check))]))
        parameters = (
            {p.name: p.read_text().strip() for p in PARAMETERS.iterdir()}
            if PARAMETERS.exists()
            else {}
        )
        left: dict[str, str] = {}
        try:
            shown, left = run(commands, check)
            click.echo("".join(f"  {line}\n" for line in shown.splitlines()), nl=False)
            if not re.search(rf"\b{compressor}\b", shown):
                raise SystemExit(f"it does not show {compressor}")
            device = left["dev"] or f"/dev/zram{left['n']}"
            real = saved_in_zram(device, pages) if name == "zram" else saved_in_zswap(pages)
        finally:
            put_back(name, parameters, left)
        click.echo(f"  promised {promised:.1f} %, saved {real:.1f} %")
        apart.append(abs(promised - real))
    sys.exit(1 if not apart or max(apart) > MOST_APART else 0)


def put_back(name: str, parameters: dict[str, str], left: dict[str, str]) -> None:
    for key in ("enabled", *parameters):
        if key in parameters:
            (PARAMETERS / key).write_text(parameters[key])
    if name == "zswap" and left.get("f"):
        subprocess.run(["swapoff", left["f"]], check=False)
        os.unlink(left["f"])
    device = left.get("dev") or (left.get("n") and f"/dev/zram{left['n']}")
    if name == "zram" and device:
        subprocess.run(["swapoff", device], check=False)
        Path("/sys/block", os.path.basename(device), "reset").write_text("1")
        if left.get("n"):
            Path("/sys/class/zram-control/hot_remove").write_text(left["n"])


if __name__ == "__main__":
    main()
