"""How much memory there is, and what tells of its shortage."""

from __future__ import annotations

import os
import re
from os.path import exists, join

from zswap_core.amounts import format_bytes, parse_bytes

__all__ = ["format_bytes", "online_node", "parse_bytes", "pressure_files", "total_ram"]


# pathlib is not used here: importing it takes an eighth of the time that importing this package takes.
_Root = str | os.PathLike[str]


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


def _cgroup_limit(root: _Root) -> int | None:
    """The smallest memory limit of this process's cgroups and all above them, versions 1 and 2; None when there is none."""
    limits = []
    for line in _read(join(root, "proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, name = join(root, "sys/fs/cgroup"), "memory.max"
        elif "memory" in controllers.split(","):
            base, name = join(root, "sys/fs/cgroup/memory"), "memory.limit_in_bytes"
        else:
            continue
        parts = path.strip("/").split("/")
        for depth in range(len(parts) + 1):
            text = _read(join(base, *parts[:depth], name))
            if text.isdigit():
                limits.append(int(text))
    return min(limits, default=None)


def pressure_files(root: _Root = "/") -> tuple[bytes, bytes, int]:
    """Find where the system tells of memory pressure.

    Returns
    -------
    tuple
        The PSI file for this process (its cgroup's, else the machine's; empty where there is none), the file with its
        cgroup's memory use (empty where the cgroup has no limit of its own), and that limit in bytes (0: none).
    """
    psi = join(root, "proc/pressure/memory")
    usage, limit = b"", 0
    for line in _read(join(root, "proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            group, names = join(root, "sys/fs/cgroup", path.lstrip("/")), ("memory.max", "memory.current")
            if exists(join(group, "memory.pressure")):
                psi = join(group, "memory.pressure")
        elif "memory" in controllers.split(","):
            group = join(root, "sys/fs/cgroup/memory", path.lstrip("/"))
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        text = _read(join(group, names[0]))
        if text.isdigit() and int(text) < 1 << 60:  # version 1 writes a huge number for "no limit"
            usage, limit = os.fsencode(join(group, names[1])), int(text)
    return (os.fsencode(psi) if exists(psi) else b""), usage, limit


def total_ram(root: _Root = "/") -> int:
    """Memory that this process may use, in bytes: the machine's, or its cgroup's limit where that is less."""
    match = re.search(r"^MemTotal:\s+(\d+) kB", _read(join(root, "proc/meminfo")), re.MULTILINE)
    if match is None:
        raise OSError(f"no MemTotal in {join(root, 'proc/meminfo')}; give max_pool_bytes instead of max_pool_percent")
    total = int(match[1]) * 1024
    limit = _cgroup_limit(root)
    return total if limit is None else min(total, limit)


def online_node(node: int, root: _Root = "/") -> int:
    """Check that a NUMA node is online.

    Raises
    ------
    ValueError
        When it is not.
    """
    text = _read(join(root, "sys/devices/system/node/online")) or "0"
    spans = [part.split("-") for part in text.split(",")]
    if isinstance(node, bool) or not isinstance(node, int) or not any(int(s[0]) <= node <= int(s[-1]) for s in spans):
        raise ValueError(f"numa_node {node!r} is not online; there are {text}")
    return node
