"""How much memory there is, and what tells of its shortage."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from os.path import exists, join

from zswap_core.amounts import format_bytes, parse_bytes
from zswap_core.errors import Error

__all__ = [
    "format_bytes",
    "memory_limit",
    "online_node",
    "parse_budget",
    "parse_bytes",
    "pressure_files",
    "process_ceilings",
    "total_ram",
]


# pathlib is not used here: importing it takes an eighth of the time that importing this package
# takes.
_Root = str | os.PathLike[str]
_LONGEST_PATH = 512  # that the engine keeps; the pressure of a cgroup deeper down is not looked at


def read_text(*path: _Root) -> str:
    """Return what a file of the system's says, or nothing where it cannot be read."""
    try:
        with open(join(*path), encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return ""


# Where a kernel's cgroups of each version say what limits memory, and how much is used.  Above
# memory.high tasks are slowed down and their memory reclaimed: to go by memory.max alone would be
# to live there.
_V2 = ("sys/fs/cgroup", ("memory.max", "memory.high"), "memory.current")
_V1 = ("sys/fs/cgroup/memory", ("memory.limit_in_bytes",), "memory.usage_in_bytes")


def _cgroups(root: _Root) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """List folders of the cgroups that account for this process's memory, its own first.

    Each comes with its files of limits and its file of use.
    """
    for line in read_text(root, "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base, limits, usage = _V1 if controllers else _V2
        parts = [part for part in path.split("/") if part]
        if ".." in parts:  # its cgroup lies outside of what this namespace shows
            parts = []
        for depth in range(len(parts), -1, -1):
            yield join(root, base, *parts[:depth]), limits, usage


def _cgroup_limits(root: _Root) -> list[tuple[int, str]]:
    """List the memory limits in bytes of this process's cgroups and of all above them.

    Each comes with the file that tells how much of it is used.
    """
    found = []
    for folder, limits, usage in _cgroups(root):
        for name in limits:
            text = read_text(folder, name)
            # version 1 writes a huge number for "no limit"
            if text.isdigit() and 0 < int(text) < 1 << 60:
                found.append((int(text), join(folder, usage)))
    return found


def memory_limit(root: _Root = "/") -> tuple[int, str] | None:
    """Return the lowest memory limit of this process's cgroups, and the folder of that cgroup.

    None where there is no limit.
    """
    limit, usage = min(_cgroup_limits(root), key=lambda found: found[0], default=(0, ""))
    return (limit, os.path.dirname(usage)) if limit else None


def pressure_files(root: _Root = "/") -> tuple[bytes, bytes, int]:
    """Find where the system tells of memory pressure.

    Returns
    -------
    tuple
        The PSI file for this process (its cgroup's, else the machine's; empty where there is none),
        the file with the memory use of the cgroup with the lowest limit (empty where none has a
        limit), and that limit in bytes (0: none).
    """
    places = [
        *(join(folder, "memory.pressure") for folder, *_ in _cgroups(root)),
        join(root, "proc/pressure/memory"),
    ]
    psi = next((os.fsencode(path) for path in places if exists(path)), b"")
    # its own of two that are equal
    limit, usage = min(_cgroup_limits(root), key=lambda found: found[0], default=(0, ""))
    return (psi if len(psi) < _LONGEST_PATH else b""), *(
        (os.fsencode(usage), limit) if len(usage) < _LONGEST_PATH else (b"", 0)
    )


def total_ram(root: _Root = "/") -> int:
    """Return the memory that this process may use, in bytes.

    It is the machine's, or the lowest limit of its cgroups where that is less.

    Raises
    ------
    Error
        When the system tells nowhere how much there is.
    """
    match = re.search(r"^MemTotal:\s+(\d+) kB", read_text(root, "proc/meminfo"), re.MULTILINE)
    total = int(match[1]) * 1024 if match else _physical_memory()
    if total <= 0:
        raise Error(
            f"neither {join(root, 'proc/meminfo')} nor sysconf tells how much memory there is; "
            "give max_pool_bytes"
        )
    return min([total, *(limit for limit, _ in _cgroup_limits(root))])


def parse_budget(value: object) -> int | str:
    """Read an amount of memory as `parse_bytes`, or "auto", or "auto:" and an amount.

    Raises
    ------
    ValueError
        When it is neither.
    """
    if not isinstance(value, str) or not value.startswith("auto"):
        return parse_bytes(value)  # type: ignore[arg-type]
    if value == "auto":
        return value
    limit = parse_bytes(value[5:]) if value[4] == ":" else 0
    if limit <= 0:
        raise ValueError(f"{value!r} is no budget; give 'auto', or as 'auto:448MiB'")
    return f"auto:{limit}"


def process_ceilings(limit: int | None = None, root: _Root = "/") -> tuple[int, int, int]:
    """Find what this process must stay below: three amounts in bytes, 0 where there is no limit.

    Parameters
    ----------
    limit : int, optional
        For its resident memory.  By default the lowest limit of its cgroups, or the machine's
        memory.
    root : path, default "/"
        Where the system's files are.

    Returns
    -------
    tuple
        Of resident memory, of address space (RLIMIT_AS) and of data (RLIMIT_DATA).
    """
    import resource  # takes as long to import as all of this module

    sizes = (resource.getrlimit(which)[0] for which in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    addresses, data = (max(size, 1) if size != resource.RLIM_INFINITY else 0 for size in sizes)
    return total_ram(root) if limit is None else limit, addresses, data


def _physical_memory() -> int:
    """Ask the C library for the memory in bytes; 0 when it knows nothing.

    For where /proc has no meminfo, as in a service with ProcSubset=pid.
    """
    try:
        return max(os.sysconf("SC_PHYS_PAGES"), 0) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def online_node(node: int, root: _Root = "/") -> int:
    """Check that a NUMA node is online.

    Raises
    ------
    ValueError
        When it is not.
    """
    text = read_text(root, "sys/devices/system/node/online") or "0"
    spans = [part.split("-") for part in text.split(",")]
    if (
        isinstance(node, bool)
        or not isinstance(node, int)
        or not any(int(s[0]) <= node <= int(s[-1]) for s in spans)
    ):
        raise ValueError(f"numa_node {node!r} is not online; there are {text}")
    return node
