"""Follow ``zswap advise`` letter for letter: memory gained against memory promised.

It must be root, on a machine without swap.  It starts what is there of redis-server, PostgreSQL, a
Java and a Python program, each with some memory, on sockets in a folder of its own; has the adviser
measure these; runs the commands of its report in one shell (to set it, to keep it, to check it);
has the kernel swap the programs' memory out; compares what that takes with what was promised; runs
the commands that undo it; and sees that all is as it was.  With a swap file in place it follows the
advice for zswap, without one that for zram.  Exits with 1 when more than 5 points lie between, or
when something was not put back.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from follow_advice import MADV_PAGEOUT, meminfo

from zswap import demonstration
from zswap.meminfo import format_bytes
from zswap.shell import run as run_command

PARAMETERS = Path("/sys/module/zswap/parameters")
PROCESS_MADVISE, PIDFD_OPEN = 440, 434
MOST_APART = 5.0  # points
MARK = "-- done --"
JAVA = """
import java.util.HashMap;
public class Load {
    public static void main(String[] arguments) throws Exception {
        HashMap<String, String> map = new HashMap<>();
        for (int n = 0; n < Integer.parseInt(arguments[0]); n++)
            map.put("customer:" + n, "{\\"id\\": " + n + ", \\"sum\\": " + n * 31L % 9973 + "}");
        System.out.println("ready");
        System.in.read();
    }
}
"""


# ---- programs with memory ------------------------------------------------------------------------


def started(command: list[str], keep: contextlib.ExitStack, **options: object) -> subprocess.Popen:
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **options
    )

    def end() -> None:
        with contextlib.suppress(OSError):
            process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    keep.callback(end)
    return process


def python_load(folder: Path, mib: int, keep: contextlib.ExitStack) -> int:
    return keep.enter_context(demonstration.running())


def java_load(folder: Path, mib: int, keep: contextlib.ExitStack) -> int | None:
    if not (java := shutil.which("java")):
        return None
    (folder / "Load.java").write_text(JAVA)
    command = [java, f"-Xmx{4 * mib}m", str(folder / "Load.java"), str(4000 * mib)]
    process = started(command, keep, stdout=subprocess.PIPE)
    assert process.stdout is not None
    return process.pid if process.stdout.readline() == "ready\n" else None


def redis_load(folder: Path, mib: int, keep: contextlib.ExitStack) -> int | None:
    server, client = shutil.which("redis-server"), shutil.which("redis-cli")
    if not server or not client:
        return None
    socket = folder / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder)]
    process = started([server, *options], keep, stdout=subprocess.DEVNULL)
    wait_for(socket.exists, process)
    orders = "".join(
        f"SET order:{n} \"{{'id': {n}, 'sum': {n * 7 % 1000}.{n % 100}, 'state': 'paid', "
        f"'items': [{n % 17}, {n % 23}, {n % 29}], 'note': 'leave it with the neighbour'}}\"\n"
        for n in range(4000 * mib)
    )
    subprocess.run(
        [client, "-s", str(socket)], input=orders, text=True, check=True, stdout=subprocess.DEVNULL
    )
    return process.pid


def postgres_load(folder: Path, mib: int, keep: contextlib.ExitStack) -> int | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found or not shutil.which("runuser"):
        return None
    data = folder / "postgres"
    data.mkdir()
    shutil.chown(data, "postgres", "postgres")
    as_user = ["runuser", "-u", "postgres", "--"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": data}
    subprocess.run([*as_user, found[-1] / "initdb", "-D", data / "db"], check=True, **quiet)
    command = [*as_user, str(found[-1] / "postgres"), "-D", str(data / "db"), "-k", str(data)]
    process = started([*command, "-c", "listen_addresses="], keep, stdout=subprocess.DEVNULL)
    wait_for((data / ".s.PGSQL.5432").exists, process)
    psql = started(
        [*as_user, str(found[-1] / "psql"), "-qAt", "-h", str(data), "postgres"],
        keep,
        stdout=subprocess.PIPE,
    )
    assert psql.stdin is not None
    assert psql.stdout is not None
    psql.stdin.write(
        f"SET temp_buffers = '{mib}MB'; CREATE TEMP TABLE t AS SELECT n, md5((n % 1000)::text) AS k"
        f", 'customer ' || n AS name FROM generate_series(1, {10000 * mib}) n; SELECT 'ready';\n"
    )
    psql.stdin.flush()
    return process.pid if psql.stdout.readline() == "ready\n" else None


LOADS = {
    "Python": python_load,
    "Java": java_load,
    "redis-server": redis_load,
    "PostgreSQL": postgres_load,
}


def wait_for(there: Callable[[], bool], process: subprocess.Popen) -> None:
    end = time.monotonic() + 60
    while not there():
        if process.poll() is not None or time.monotonic() > end:
            raise click.ClickException(f"{process.args[0]} does not start")
        time.sleep(0.05)


# ---- the kernel ----------------------------------------------------------------------------------


def swap_out(pids: list[int]) -> None:
    """Have the kernel swap out what these processes, stopped, have written."""
    libc = ctypes.CDLL(None, use_errno=True)

    class Vector(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

    for pid in pids:
        fd = libc.syscall(PIDFD_OPEN, pid, 0)
        if fd < 0:
            continue
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            at, permissions = line.split()[:2]
            if permissions.startswith("rw") and permissions.endswith("p"):
                begin, end = (int(number, 16) for number in at.split("-"))
                for _ in range(2):  # a page in use just then is left out
                    vector = Vector(begin, end - begin)
                    libc.syscall(PROCESS_MADVISE, fd, ctypes.byref(vector), 1, MADV_PAGEOUT, 0)
        os.close(fd)


def swap_used() -> int:
    rows = [line.split() for line in Path("/proc/swaps").read_text().splitlines()[1:]]
    return sum(int(row[3]) * 1024 for row in rows)


def taken(way: str) -> tuple[int, int]:
    """What is held, and what that takes."""
    if way == "zswap":
        return meminfo("Zswapped"), meminfo("Zswap")
    stats = [path.read_text().split() for path in Path("/sys/block").glob("zram*/mm_stat")]
    return swap_used(), sum(int(numbers[2]) for numbers in stats)


def state() -> dict[str, object]:
    """What must be as it was."""
    sysctls = ("swappiness", "page-cluster", "watermark_boost_factor", "watermark_scale_factor")
    return {
        "swaps": [line.split()[0] for line in Path("/proc/swaps").read_text().splitlines()[1:]],
        "zram": {
            path.parent.name: (path.read_text(), (path.parent / "comp_algorithm").read_text())
            for path in Path("/sys/block").glob("zram*/disksize")
        },
        "zswap": {path.name: path.read_text() for path in PARAMETERS.glob("*")},
        "sysctls": {name: Path("/proc/sys/vm", name).read_text() for name in sysctls},
        "files": sorted(map(str, Path("/etc").glob("**/*zswap-advise*"))),
    }


class Shell:
    """One shell, as the commands use each other's variables."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            ["sh"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def type(self, lines: list[str]) -> str:
        """Type lines, and return what they print; a line that fails ends it all."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        text = "\n".join(lines).replace("&&\n", "&& ").replace("\n", " || failed=1\n")
        self.process.stdin.write(f"failed=0\n{text} || failed=1\necho; echo {MARK} $failed\n")
        self.process.stdin.flush()
        out = []
        for line in self.process.stdout:
            if line.startswith(MARK):
                if line.split()[-1] != "0":
                    raise click.ClickException(f"{lines[-1]}: {''.join(out)}")
                break
            out.append(line)
        return "".join(out).strip()


@contextlib.contextmanager
def swap_file(mib: int) -> Iterator[None]:
    """A swap file for zswap to stand before."""
    fd, path = tempfile.mkstemp(prefix="swap.", dir="/")
    try:
        with os.fdopen(fd, "wb") as file:
            for _ in range(mib):
                file.write(bytes(1 << 20))
        subprocess.run(["mkswap", path], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["swapon", path], check=True)
        try:
            yield
        finally:
            subprocess.run(["swapoff", path], check=True)
    finally:
        os.unlink(path)


# ---- one way -------------------------------------------------------------------------------------


def follow(way: str, loads: dict[str, int]) -> float | None:
    """Follow the advice; points between what was promised and what came of it."""
    before = state()
    command = [sys.executable, "-m", "zswap", "advise", "--json"]
    for pid in loads.values():
        command += ["--tree", str(pid)]
    begun = time.monotonic()
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    seconds = time.monotonic() - begun
    verdict, commands, today = found["verdict"], found["commands"], found["gains"]["today"]
    click.echo(f"{way}: {verdict['headline']}: {verdict['why']}.")
    if verdict["way"] != way:
        click.echo(f"  it is not {way} that is advised here; left out")
        return None
    pids = found["measured"]["analysis"]["target"]["pids"]
    promised = 100 * today["gained_bytes"] / today["moved_bytes"]
    click.echo(
        f"  advised in {seconds:.1f} s; promised {promised:.1f} % of "
        f"{format_bytes(today['moved_bytes'])}, {len(pids)} processes"
    )
    shell = Shell()
    stopped: list[int] = []
    try:
        keep = [line for line in commands["keep"] if " install " not in line]
        for line in [*commands["now"], *keep]:
            click.echo(f"  # {line}")
        shell.type([*commands["now"], *keep])
        shown = shell.type(commands["check"])
        if verdict["compressor"] not in shown:
            raise click.ClickException(f"the check does not show {verdict['compressor']}: {shown}")
        at = taken(way)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
            stopped.append(pid)
        swap_out(pids)
        held, took = (now - then for now, then in zip(taken(way), at, strict=True))
    finally:
        for pid in stopped:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGCONT)
        for line in commands["undo"]:
            click.echo(f"  # {line}")
        shell.type(commands["undo"])
    if not held:
        raise click.ClickException("nothing was swapped out")
    gained = 100 * (1 - took / held)
    click.echo(
        f"  {format_bytes(held)} swapped out take {format_bytes(took)}: gained {gained:.1f} %, "
        f"promised {promised:.1f} %: {abs(gained - promised):.1f} points apart"
    )
    after = state()
    for name in before:
        if before[name] != after[name]:
            raise click.ClickException(
                f"{name} is not as it was: {before[name]} before, {after[name]} now"
            )
    click.echo("  everything is as it was")
    return abs(gained - promised)


@click.command(help=__doc__)
@click.option("--way", "ways", type=click.Choice(["zram", "zswap"]), multiple=True)
@click.option("--load", "names", type=click.Choice(list(LOADS)), multiple=True)
@click.option("--mib", type=click.IntRange(8, 4096), default=64, show_default=True)
def main(ways: tuple[str, ...], names: tuple[str, ...], mib: int) -> None:
    if os.geteuid():
        raise click.UsageError("it must be root")
    if swap_used() or len(Path("/proc/swaps").read_text().splitlines()) > 1:
        raise click.UsageError("this machine has swap already")
    apart = []
    with contextlib.ExitStack() as keep:
        folder = Path(keep.enter_context(tempfile.TemporaryDirectory(prefix="zswap-loads.")))
        folder.chmod(0o711)
        loads = {}
        for name in names or LOADS:
            if (pid := LOADS[name](folder, mib, keep)) is None:
                click.echo(f"{name}: not here, left out")
            else:
                loads[name] = pid
        click.echo(f"running: {', '.join(loads)}; pages of {mmap.PAGESIZE} bytes")
        for way in ways or ("zram", "zswap"):
            with swap_file(16 * mib + 512) if way == "zswap" else contextlib.nullcontext():
                apart.append(follow(way, loads))
    sys.exit(1 if any(points is not None and points > MOST_APART for points in apart) else 0)


if __name__ == "__main__":
    sys.exit(run_command(main, name="follow_adviser.py"))
