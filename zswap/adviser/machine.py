"""What the machine is and does: RAM, what could be swapped, what is swapped, how fast, how short.

Only read.  Every path is taken below `root`, so that tests can plant machines; what cannot be read
is None, or counts as nothing.
"""

from __future__ import annotations

import datetime
import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from os.path import basename, exists, isdir, join, realpath

from zswap.kernel import Kernel, Swap, read_kernel
from zswap.meminfo import memory_limit, read_text

__all__ = ["Area", "Machine", "Rates", "Usage", "read_cpu", "read_machine", "read_usage"]

_Root = str | os.PathLike[str]

SYSCTLS = (
    "vm.swappiness",
    "vm.page-cluster",
    "vm.watermark_boost_factor",
    "vm.watermark_scale_factor",
)
_DEBUG = "sys/kernel/debug/zswap"
_GENERATORS = ("usr/lib", "lib", "usr/local/lib", "etc")


@dataclass(frozen=True)
class Area:
    """A swap area in use.

    Attributes
    ----------
    path : str
    kind : {"zram", "SSD", "hard disk", "file", "device"}
        A file or a device of which it does not show what it lies on is called that.
    size, used : int
        Bytes.
    priority : int
    """

    path: str
    kind: str
    size: int
    used: int
    priority: int


@dataclass(frozen=True)
class Usage:
    """What changes while one looks.

    Attributes
    ----------
    at : float
        Seconds since the machine was started.
    counters : dict
        Of /proc/vmstat, as far as they are about swapping.
    pressure : tuple of float or None
        Percentage of time in which some task waited for memory, over 10, 60 and 300 seconds; None
        where the kernel does not tell.
    """

    at: float = 0.0
    counters: dict[str, int] = field(default_factory=dict)
    pressure: tuple[float, float, float] | None = None


_COUNTERS = (
    "pswpin",
    "pswpout",
    "pgmajfault",
    "zswpin",
    "zswpout",
    "zswpwb",
    "workingset_refault_anon",
    "workingset_refault_file",
    "workingset_refault",
)


@dataclass(frozen=True)
class Rates:
    """Pages a second: since the machine was started, and over the last `seconds`."""

    seconds: float
    since_start: dict[str, float]
    lately: dict[str, float]

    @staticmethod
    def between(before: Usage, after: Usage) -> Rates:
        """Work out both from two looks."""
        seconds = after.at - before.at
        start = {name: n / after.at for name, n in after.counters.items()} if after.at > 0 else {}
        lately = {
            name: max(0, n - before.counters.get(name, n)) / seconds if seconds > 0 else 0.0
            for name, n in after.counters.items()
        }
        return Rates(seconds, start, lately)

    def highest(self, *names: str) -> float:
        """Return the higher of the two sums."""
        return max(
            sum(of.get(name, 0.0) for name in names) for of in (self.since_start, self.lately)
        )

    @property
    def swapped_out(self) -> float:
        """Pages a second that go to swap, compressed or not."""
        return self.highest("pswpout", "zswpout")

    @property
    def swapped_in(self) -> float:
        """Pages a second that come back."""
        return self.highest("pswpin", "zswpin")


@dataclass(frozen=True)
class Machine:
    """What `read_machine` found; amounts are bytes.

    Attributes
    ----------
    taken : str
        Date and time, with the zone.
    kernel : Kernel
    cpu : str
    cpus : int
    ram : int
        All of it, or the limit of this process's memory cgroup where that is less.
    limited : bool
        Whether it is such a limit.
    available : int
        What could be had without swapping.
    anonymous, shared : int
        What would be swapped: private memory; tmpfs and shared memory.
    locked, hugetlb : int
        What never is.
    areas : tuple of Area
    zram : dict of str to dict
        For each zram device with a size: mm_stat by name, ``compressor`` and ``size``.
    zswap_pool, zswap_stored : int
        What zswap's pool takes, and what it holds.
    zswap_debug : dict
        Its statistics; empty where they do not show (no root, debugfs not mounted).
    sysctls : dict
        Of those that are advised on, the values now.
    systemd, udev : bool
        Whether they run this system.
    generator : bool
        Whether zram-generator is installed.
    package : str or None
        The command that installs it.
    usage : Usage
    """

    taken: str = ""
    kernel: Kernel = field(default_factory=Kernel)
    cpu: str = ""
    cpus: int = 1
    ram: int = 0
    limited: bool = False
    available: int = 0
    anonymous: int = 0
    shared: int = 0
    locked: int = 0
    hugetlb: int = 0
    areas: tuple[Area, ...] = ()
    zram: dict[str, dict[str, int | str]] = field(default_factory=dict)
    zswap_pool: int = 0
    zswap_stored: int = 0
    zswap_debug: dict[str, int] = field(default_factory=dict)
    sysctls: dict[str, int] = field(default_factory=dict)
    systemd: bool = False
    udev: bool = False
    generator: bool = False
    package: str | None = None
    usage: Usage = field(default_factory=Usage)

    @property
    def swapped(self) -> int:
        """Bytes in swap."""
        return sum(area.used for area in self.areas)

    @property
    def disks(self) -> tuple[Area, ...]:
        """Swap areas that are not memory, the first to be used first."""
        return tuple(area for area in self.areas if area.kind != "zram")

    @property
    def zswap_on(self) -> bool:
        """Whether zswap takes pages."""
        return (self.kernel.zswap or {}).get("enabled") in ("Y", "1")


def _amounts(text: str) -> dict[str, int]:
    """Read lines as of /proc/meminfo; bytes."""
    return {
        name: int(number) * (1024 if unit else 1)
        for name, number, unit in re.findall(r"^(\S+):\s+(\d+)( kB)?$", text, re.MULTILINE)
    }


def _pairs(text: str) -> dict[str, int]:
    """Read lines of a name and a number."""
    return {name: int(number) for name, number in re.findall(r"^(\S+) (\d+)$", text, re.MULTILINE)}


def read_usage(root: _Root = "/") -> Usage:
    """Look at what changes."""
    counters = _pairs(read_text(root, "proc/vmstat"))
    words = read_text(root, "proc/uptime").split()
    averages = re.search(
        r"^some avg10=([\d.]+) avg60=([\d.]+) avg300=([\d.]+)",
        read_text(root, "proc/pressure/memory"),
        re.MULTILINE,
    )
    return Usage(
        at=float(words[0]) if words and re.fullmatch(r"[\d.]+", words[0]) else 0.0,
        counters={name: counters[name] for name in _COUNTERS if name in counters},
        pressure=None
        if averages is None
        else (float(averages[1]), float(averages[2]), float(averages[3])),
    )


def read_machine(root: _Root = "/", kernel: Kernel | None = None) -> Machine:
    """Look at the machine.

    Parameters
    ----------
    root : path
        Where /proc, /sys, /dev, /etc and /usr are looked for.
    kernel : Kernel, optional
        What `read_kernel` found, where that is known.

    Returns
    -------
    Machine
    """
    kernel = read_kernel(root) if kernel is None else kernel
    info = _amounts(read_text(root, "proc/meminfo"))
    ram, available = info.get("MemTotal", 0), info.get("MemAvailable", info.get("MemFree", 0))
    anonymous, shared = info.get("AnonPages", 0), info.get("Shmem", 0)
    limit = memory_limit(root)
    limited = limit is not None and (not ram or limit[0] < ram)
    if limit is not None and limited:
        ram, folder = limit[0], limit[1]
        stat = _pairs(read_text(folder, "memory.stat"))
        used = read_text(folder, "memory.current") or read_text(folder, "memory.usage_in_bytes")
        files = stat.get("inactive_file", stat.get("total_inactive_file", 0)) + stat.get(
            "active_file", stat.get("total_active_file", 0)
        )
        anonymous = stat.get("anon", stat.get("total_rss", anonymous))
        shared = stat.get("shmem", stat.get("total_shmem", shared))
        if used.isdigit():
            available = min(available or ram, max(0, ram - int(used) + files - shared))
    return Machine(
        taken=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        kernel=kernel,
        cpu=read_cpu(root),
        cpus=len(os.sched_getaffinity(0)),
        ram=ram,
        limited=limited,
        available=min(available, ram),
        anonymous=anonymous,
        shared=shared,
        locked=info.get("Mlocked", 0),
        hugetlb=info.get("Hugetlb", 0),
        areas=tuple(_areas(root, kernel.swaps)),
        zram=dict(_zram(root, kernel)),
        zswap_pool=info.get("Zswap", 0),
        zswap_stored=info.get("Zswapped", 0),
        zswap_debug=_debug(root),
        sysctls=dict(_sysctls(root)),
        systemd=isdir(join(root, "run/systemd/system")),
        udev=isdir(join(root, "run/udev")) and isdir(join(root, "etc/udev/rules.d")),
        generator=any(
            exists(join(root, at, "systemd/system-generators/zram-generator")) for at in _GENERATORS
        ),
        package=_package(root),
        usage=read_usage(root),
    )


def read_cpu(root: _Root = "/") -> str:
    """Name the processor."""
    found = re.search(
        r"^(?:model name|Model|cpu model|uarch)\s*:\s*(.+)$",
        read_text(root, "proc/cpuinfo"),
        re.MULTILINE,
    )
    return " ".join(found[1].split()) if found else platform.machine()


def _areas(root: _Root, swaps: tuple[Swap, ...]) -> Iterator[Area]:
    for swap in sorted(swaps, key=lambda swap: -swap.priority):
        kind = "zram" if swap.zram else _kind(root, swap.path)
        yield Area(swap.path, kind, swap.size, swap.used, swap.priority)


def _kind(root: _Root, path: str) -> str:
    """Say what a swap area lies on, as far as it shows."""
    block = join(root, "sys/class/block", basename(path))
    plain = "device"
    if not exists(block):  # a file: what is its file system on?
        plain = "file"
        try:
            device = os.stat(join(root, path.lstrip("/"))).st_dev
        except (OSError, ValueError):
            return plain
        block = join(root, "sys/dev/block", f"{os.major(device)}:{os.minor(device)}")
    block = realpath(block)
    if exists(join(block, "partition")):
        block = join(block, "..")
    turns = read_text(block, "queue/rotational")
    return {"0": "SSD", "1": "hard disk"}.get(turns, plain)


_MM_STAT = ("orig", "payload", "used", "limit", "used_max", "same", "compacted", "raw")


def _zram(root: _Root, kernel: Kernel) -> Iterator[tuple[str, dict[str, int | str]]]:
    for device in kernel.zram_devices:
        if device.size:
            numbers = read_text(root, "sys/block", device.name, "mm_stat").split()
            told: dict[str, int | str] = dict(zip(_MM_STAT, map(int, numbers), strict=False))
            yield device.name, {"compressor": device.compressor, "size": device.size, **told}


def _debug(root: _Root) -> dict[str, int]:
    try:
        names = sorted(os.listdir(join(root, _DEBUG)))
    except OSError:
        return {}
    texts = {name: read_text(root, _DEBUG, name) for name in names}
    return {name: int(text) for name, text in texts.items() if text.isdigit()}


def _sysctls(root: _Root) -> Iterator[tuple[str, int]]:
    for name in SYSCTLS:
        text = read_text(root, "proc/sys", name.replace(".", "/"))
        if re.fullmatch(r"-?\d+", text):
            yield name, int(text)


def _package(root: _Root) -> str | None:
    """Name the command that installs zram-generator, by the distribution's name for it."""
    text = read_text(root, "etc/os-release")
    names = " ".join(re.findall(r"^(?:ID|ID_LIKE)=(.*)$", text, re.MULTILINE)).replace('"', "")
    for name in names.split():
        if name in ("debian", "ubuntu"):
            return "apt install systemd-zram-generator"
        if name in ("fedora", "rhel"):
            return "dnf install zram-generator"
        if name == "arch":
            return "pacman -S zram-generator"
        if name in ("suse", "opensuse"):
            return "zypper install zram-generator"
    return None
