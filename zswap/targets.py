"""Targets as the command line names them: options, and what they open."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from zswap.shell import Refusal, say

if TYPE_CHECKING:
    from zswap.pages import PageSource

__all__ = [
    "Targets",
    "check_compressors",
    "file_options",
    "open_pids",
    "page_count",
    "process_options",
    "seed_option",
]

_SHOWN = 12  # of the processes of a name


@dataclass(frozen=True)
class Targets:
    """What was named; `open` takes it as one target."""

    pids: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    trees: tuple[int, ...] = ()
    cgroups: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()
    everything: bool = False
    files: tuple[str, ...] = ()
    cores: tuple[str, ...] = ()
    more: tuple[str, ...] = ()

    @property
    def processes(self) -> bool:
        """Whether processes were named in any way."""
        sets = (self.names, self.trees, self.cgroups, self.units, self.containers)
        return bool(self.pids) or any(sets) or self.everything

    def __bool__(self) -> bool:
        return self.processes or bool(self.files or self.cores or self.more)

    def pids_found(self) -> tuple[list[int], str | None]:
        """Find the processes that were named.

        Returns
        -------
        pids : list of int
        title : str or None
            What they are together; None where each was named by itself.
        """
        from zswap.pages import select

        if self.everything:
            return select.everything(), "all processes"
        found = [_find_process(word) for word in self.pids]
        words = []
        sets: tuple[tuple[Sequence[Any], Callable[[Any], list[int]], str], ...] = (
            (self.names, select.named, "called"),
            (self.trees, select.tree, "from"),
            (self.cgroups, select.in_cgroup, "of cgroup"),
            (self.units, select.in_unit, "of unit"),
            (self.containers, select.in_container, "of container"),
        )
        for some, find, word in sets:
            for name in some:
                found += find(name)
                words.append(f"{word} {name}")
        pids = list(dict.fromkeys(found))
        if not words:
            return found, None
        if self.pids:
            words.insert(0, "named")
        return pids, f"{len(pids)} process{'es' * (len(pids) != 1)} {' and '.join(words)}"

    def open(self, progress: Callable[[int, int, str], object] | None = None) -> PageSource:
        """Open what was named, all of it as one target.

        Words without an option belong to the option that was given.
        """
        from zswap import pages

        if sum(map(bool, (self.processes, self.files, self.cores))) > 1:
            raise click.UsageError(
                "--pid (--name, --tree, ...), --file and --core exclude each other: name targets "
                "of one kind"
            )
        if self.files:
            return pages.open_files(_once((*self.files, *self.more)))
        if self.cores:
            return pages.open_together(
                [pages.open_core(path) for path in _once((*self.cores, *self.more))]
            )
        if self.everything and (self.pids or self.names or self.trees or self.more):
            raise click.UsageError("--all is every process: name no others beside it")
        if not self:
            chosen = pages.largest_process()
            click.echo(
                f"no target named; process {chosen.pid} has the most anonymous memory of those "
                "that may be read",
                err=True,
            )
            return pages.open_process(chosen.pid)
        for word in self.more:
            if not self.pids and not _is_number(word) and os.path.exists(word):
                raise click.UsageError(
                    f"unexpected {word!r}: say --file {word} to analyse a file, --core for a core "
                    "dump, or --pid for a process"
                )
        return open_pids(*self._with_more().pids_found(), progress)

    def _with_more(self) -> Targets:
        from dataclasses import replace

        return replace(self, pids=(*self.pids, *self.more), more=())


def open_pids(
    pids: list[int],
    title: str | None,
    progress: Callable[[int, int, str], object] | None = None,
    seconds: float = math.inf,
) -> PageSource:
    """Open processes: those named one by one must all be there, of a set those that can be read."""
    from zswap import pages

    once = list(dict.fromkeys(pids))
    for pid in once:
        if pids.count(pid) > 1:
            say(f"process {pid} is named twice; it is taken once")
    if len(once) == 1 and title is None:
        return pages.open_process(once[0])
    return pages.open_processes(
        once,
        title=title,
        lenient=title is not None,
        seconds=seconds,
        progress=None
        if progress is None
        else lambda done, total: progress(done, total, "looking at processes"),
    )


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit()


def _once(paths: tuple[str, ...]) -> list[str]:
    """Leave out what is named twice, under whatever name."""
    found: dict[str, str] = {}
    for path in paths:
        if found.setdefault(os.path.realpath(path), path) is not path:
            say(f"{path} is named twice; it is taken once")
    return list(found.values())


def _find_process(word: str) -> int:
    """Return the number of a process, given that, or a name that only one has."""
    from zswap import pages
    from zswap.meminfo import format_bytes

    if _is_number(word):
        if not 0 < int(word) < 1 << 31:
            raise Refusal(
                f"no process {word}: their numbers are from 1 to /proc/sys/kernel/pid_max; see `ps`"
            )
        return int(word)
    found = pages.find_processes(word)
    if not found:
        raise Refusal(
            f"no process with memory of its own is called {word!r}: see `ps` for those that run, "
            "and name one with --pid, or a"
            " file with --file"
        )
    if len(found) > 1:
        shown = ", ".join(
            f"{process.pid} ({format_bytes(process.rss_anon)})" for process in found[:_SHOWN]
        )
        rest = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise Refusal(
            f"{len(found)} processes are called {word!r}: {shown}{rest}; name one, or several, "
            f"with --pid, or all of them with --name {word}"
        )
    say(f"{word} is process {found[0].pid}")
    return found[0].pid


def check_compressors(specs: Sequence[str]) -> None:
    """Refuse what is no compressor, or cannot be used here."""
    import zswap

    for spec in specs:
        try:
            zswap.ZSwap(spec, max_pool_bytes=1 << 20).close()
        except (ValueError, zswap.Error) as error:
            raise Refusal(
                f"cannot use compressor {spec!r}: {error}; see `zswap compressors`"
            ) from error


# ---- options -------------------------------------------------------------------------------------

_PROCESS = (
    click.argument("more", nargs=-1, metavar=""),
    click.option(
        "--pid",
        "pids",
        metavar="N...",
        multiple=True,
        help="Running processes, by number or name; all as one.",
    ),
    click.option(
        "--name", "names", metavar="NAME", multiple=True, help="All processes of this name."
    ),
    click.option(
        "--tree",
        "trees",
        metavar="N",
        type=click.IntRange(1, (1 << 31) - 1),
        multiple=True,
        help="A process and all that it started.",
    ),
    click.option(
        "--cgroup", "cgroups", metavar="PATH", multiple=True, help="The processes of a cgroup."
    ),
    click.option(
        "--unit", "units", metavar="NAME", multiple=True, help="Those of a unit of systemd."
    ),
    click.option(
        "--container", "containers", metavar="ID", multiple=True, help="Those of a container."
    ),
    click.option("--all", "everything", is_flag=True, help="All processes that may be read."),
)
_FILE = (
    click.option(
        "--file",
        "files",
        metavar="PATH...",
        multiple=True,
        help="Files, read as pages; several may follow.",
    ),
    click.option(
        "--core",
        "cores",
        metavar="PATH...",
        multiple=True,
        help="ELF core dumps (gcore PID, coredumpctl dump).",
    ),
)


def _options(options: tuple[Any, ...]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_targets(**values: Any) -> Any:
            named = {name: values.pop(name) for name in _FIELDS if name in values}
            return command(targets=Targets(**named), **values)

        for option in reversed(options):
            with_targets = option(with_targets)
        return with_targets

    return decorate


_FIELDS = tuple(Targets.__dataclass_fields__)
#: Give a command the parameter `targets`, for processes alone, or for files and dumps too.
process_options = _options(_PROCESS)
file_options = _options((*_PROCESS, *_FILE))


def seed_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the parameter `seed`."""
    option = click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Chooses the sample.",
    )
    return option(command)


def page_count(ctx: click.Context, param: click.Parameter, value: str) -> int | None:
    """Read a positive number of pages, or ``all`` (None)."""
    if value == "all":
        return None
    try:
        pages = int(value.replace(",", ""))
    except ValueError:
        pages = 0
    if pages <= 0:
        raise click.BadParameter(f"{value!r} is neither a positive number of pages nor 'all'")
    return pages
