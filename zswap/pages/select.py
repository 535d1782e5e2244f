"""Which processes are meant: by name, by descent, by cgroup, unit or container, or all."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from zswap.pages.group import cgroups_of
from zswap.pages.process import find_processes, processes
from zswap.pages.source import SourceError

__all__ = ["everything", "in_cgroup", "in_container", "in_unit", "named", "tree"]

_UNITS = (".service", ".scope", ".slice", ".socket", ".mount")
#: What managers put before the name or the number of a container.
_PREFIX = re.compile(
    r"^(?:docker|libpod|cri-containerd|crio|containerd|lxc\.payload|lxc\.monitor|machine|lxc|nspawn)"
    r"[-.:]"
)
_LEAST_ID = 4  # characters of a number by which a container is found


def everything() -> list[int]:
    """List all processes with anonymous memory but ourselves, the largest first.

    Raises
    ------
    SourceError
        When there is none.
    """
    if not (found := _all()):
        raise SourceError("there is no process here but this one")
    return found


def named(name: str) -> list[int]:
    """List the processes of a name.

    Raises
    ------
    SourceError
        When there is none.
    """
    if not (found := find_processes(name)):
        raise SourceError(
            f"no process with memory of its own is called {name!r}: see `ps -e` for those that run"
        )
    return [process.pid for process in found]


def _parents() -> dict[int, int]:
    found = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                found[pid] = int(file.read().rpartition(b")")[2].split()[1])
        except (OSError, ValueError, IndexError):  # it ended meanwhile
            continue
    return found


def tree(root: int) -> list[int]:
    """List a process and all that descend from it, as far as they hold memory.

    Raises
    ------
    SourceError
        When there is no such process, or none of them holds memory.
    """
    parents = _parents()
    if root not in parents:
        raise SourceError(f"no process {root}: it has ended or never was; see `ps -ef` for a root")
    wanted = {root}
    waiting = [root]
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    while waiting:
        for pid in children.get(waiting.pop(), ()):
            if pid not in wanted:
                wanted.add(pid)
                waiting.append(pid)
    found = [pid for pid in _all() if pid in wanted]
    if not found:
        raise SourceError(f"neither process {root} nor what it started has memory of its own")
    return found


def _all() -> list[int]:
    return [process.pid for process in processes() if process.pid != os.getpid()]


def _where(matches: Callable[[str], bool], refusal: str) -> list[int]:
    found = []
    for pid in _all():
        try:
            paths = cgroups_of(pid)
        except OSError:
            continue
        if any(matches(path) for path in paths):
            found.append(pid)
    if not found:
        raise SourceError(refusal)
    return found


def in_cgroup(path: str) -> list[int]:
    """List the processes of a cgroup and of those below it.

    Parameters
    ----------
    path : str
        As ``/proc/PID/cgroup`` has it, or where it is mounted (below /sys/fs/cgroup).

    Raises
    ------
    SourceError
        When no process with memory is in it.
    """
    inside = path
    if (at := re.match(r"/?sys/fs/cgroup(?:/|$)", path)) is not None:
        inside = path[at.end() :]
        if not os.path.exists("/sys/fs/cgroup/cgroup.procs"):
            inside = inside.partition("/")[2]  # version 1: a folder for each controller
    inside = "/" + inside.strip("/")
    return _where(
        lambda at: inside == "/" or at == inside or at.startswith(inside + "/"),
        f"no process with memory of its own is in the cgroup {path}: see `systemd-cgls`, or "
        "/proc/PID/cgroup of one that is",
    )


def in_unit(name: str) -> list[int]:
    """List the processes of a unit of systemd.

    Parameters
    ----------
    name : str
        With its ending or, of a service, without.

    Raises
    ------
    SourceError
        When no process with memory belongs to it.
    """
    wanted = {name} if name.endswith(_UNITS) else {name + ending for ending in _UNITS[:3]}
    return _where(
        lambda path: not wanted.isdisjoint(path.split("/")),
        f"no process with memory of its own belongs to the unit {name!r}: see `systemctl status` "
        "for those that run",
    )


def in_container(name: str) -> list[int]:
    """List the processes of a container: Docker, Podman, Kubernetes, LXC, systemd-nspawn.

    Parameters
    ----------
    name : str
        The beginning of its number (four signs at least), or, of LXC and nspawn, its name.

    Raises
    ------
    SourceError
        When no process with memory is in it.
    """

    def matches(path: str) -> bool:
        for word in path.split("/"):
            word = _PREFIX.sub("", word.removesuffix(".scope").removesuffix(".service"))
            if word == name:
                return True
            numbered = re.fullmatch(r"[0-9a-f]{12,64}", word) is not None
            if numbered and len(name) >= _LEAST_ID and word.startswith(name):
                return True
        return False

    return _where(
        matches,
        f"no process with memory of its own is in a container {name!r}: give the number that "
        "`docker ps` or `podman ps` shows (names of theirs do not show from outside)",
    )
