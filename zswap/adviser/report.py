"""The advice as one screen for people, and as JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import zswap
from zswap import report as parts
from zswap.adviser.machine import Machine
from zswap.meminfo import format_bytes

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from zswap.adviser import Advised
    from zswap.adviser.verdict import Gain

__all__ = ["JSON_VERSION", "advised_json", "print_advised"]

#: Raised when a key changes its meaning or goes away; new keys may come at any time.
JSON_VERSION = 1

_PROCESSES = 5
_ACCESS = {
    "yes": "as root",
    "not root": "as root, which you are not",
    "read-only": "as root, on the host: /sys is read-only here, as in a container",
}


def print_advised(found: Advised, console: Console) -> None:
    """Print the advice.

    Parameters
    ----------
    found : Advised
    console : rich.console.Console
    """

    def say(text: str = "", style: str | None = None) -> None:
        # what is to be copied is not wrapped
        whole = not console.is_terminal or text.startswith("  ")
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=whole)

    console.print(_grid(_facts(found)))
    analysis = found.analysis
    if analysis is not None:
        say()
        console.print(parts.choice_table(analysis, console.width))
        setting = found.verdict.setting
        tables = (
            parts.part_tables(analysis, console.width, _PROCESSES, setting.measured, setting.zpool)
            if setting is not None
            else parts.part_tables(analysis, console.width, _PROCESSES)
        )
        for table in tables if analysis.parts else ():
            say()
            console.print(table)
            if found.whole:
                break  # cgroups are in --json, and shown where targets were named
    say()
    verdict = found.verdict
    say(f"{verdict.headline}: {verdict.why}.", "bold")
    console.print(_grid(_figures(found)))
    for line in _commands(found):
        say(line)


def _grid(rows: Iterator[tuple[str, str]]) -> Table:
    """Make two columns: what, and the rest wrapped beside it."""
    from rich.markup import escape
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(escape(name), escape(text))
    return table


# ---- what is found -------------------------------------------------------------------------------


def _facts(found: Advised) -> Iterator[tuple[str, str]]:
    machine = found.machine
    kernel = machine.kernel
    when = machine.taken[:16].replace("T", " ")
    cpus = f"{machine.cpus} CPU{'s' * (machine.cpus != 1)}"
    yield "machine", f"Linux {kernel.release or '?'}, {machine.cpu}, {cpus}, {when}"
    limit = " (the limit of this cgroup)" if machine.limited else ""
    yield "RAM", f"{format_bytes(machine.ram)}{limit}, {format_bytes(machine.available)} available"
    never = [
        f"{format_bytes(amount)} {what}"
        for amount, what in ((machine.locked, "locked"), (machine.hugetlb, "in hugetlb pages"))
        if amount
    ]
    rest = f"; never: {', '.join(never)}" if never else ""
    yield (
        "swappable",
        f"{format_bytes(machine.anonymous)} anonymous, {format_bytes(machine.shared)} tmpfs and "
        f"shared memory (not measured){rest}",
    )
    yield "swap", "; ".join(_areas(machine)) or "none"
    yield "zram", _zram(machine)
    yield "zswap", _zswap(machine)
    yield "measured", _sample(found)


def _areas(machine: Machine) -> Iterator[str]:
    for area in machine.areas:
        yield (
            f"{area.path} ({area.kind}), {format_bytes(area.used)} of {format_bytes(area.size)} "
            f"used, priority {area.priority}"
        )


def _offered(machine: Machine, way: str) -> str:
    kernel = machine.kernel
    names = sorted(kernel.of(way))
    default = kernel.default(way)
    if not names:
        return f"this kernel has it, with {default}" if default else "this kernel has it"
    marked = (f"{name} (default)" if name == default else name for name in names)
    return f"this kernel has {', '.join(marked)}"


def _zram(machine: Machine) -> str:
    kernel = machine.kernel
    told = []
    for name, device in machine.zram.items():
        text = f"{name}: {format_bytes(int(device['size']))} with {device['compressor']}"
        if "orig" in device:
            text += f", holds {format_bytes(int(device['orig']))}"
            if device["used"]:
                text += f" in {format_bytes(int(device['used']))}"
        told.append(text)
    if kernel.zram == "absent":
        return "; ".join([*told, "this kernel has none, or does not show it here"][: 1 + len(told)])
    if kernel.zram_compressors is None:
        told.append("off; its compressors show once it is loaded (modprobe zram)")
    else:
        told.append(f"{'' if told else 'off; '}{_offered(machine, 'zram')}")
    return "; ".join(told)


def _zswap(machine: Machine) -> str:
    kernel = machine.kernel
    if kernel.zswap is None:
        return "this kernel has none, or does not show it here"
    if not machine.zswap_on:
        return f"off; {_offered(machine, 'zswap')}"
    text = (
        f"on, with {kernel.zswap.get('compressor', '?')}, at most "
        f"{kernel.zswap.get('max_pool_percent', '?')} % of RAM"
    )
    if machine.zswap_stored:
        text += (
            f", holds {format_bytes(machine.zswap_stored)} in {format_bytes(machine.zswap_pool)}"
        )
    if not machine.areas:
        text += ", but without swap it does nothing"
    refused = sum(n for name, n in machine.zswap_debug.items() if name.startswith("reject_"))
    for number, what in (
        (refused, "refused"),
        (machine.zswap_debug.get("written_back_pages", 0), "written back"),
        (machine.zswap_debug.get("pool_limit_hit", 0), "times full"),
    ):
        if number:
            text += f", {number:,} {what}"
    return f"{text}; {_offered(machine, 'zswap')}"


def _sample(found: Advised) -> str:
    analysis = found.analysis
    if analysis is None:
        text = "nothing: no process with memory may be read"
    else:
        count = found.processes
        read, total = analysis.sampled_pages, analysis.total_pages
        whose = f"{count} process{'es' * (count != 1)}" if count > 1 else analysis.title
        text = (
            f"all {total:,} pages of {whose}"
            if analysis.exact
            else f"{read:,} of {total:,} pages of {whose} (± 95 %)"
        )
        if analysis.parts:
            text += ", shared ones once"
    for sentence in found.left_out:
        text += f"; {sentence[0].lower()}{sentence[1:].rstrip('.')}"
    if not found.root and found.whole:
        text += "; as root: all processes"
    return text


# ---- what to do ----------------------------------------------------------------------------------


def _gain(gain: Gain) -> str:
    return parts.size_and_margin(gain.gained, gain.margin)


def _figures(found: Advised) -> Iterator[tuple[str, str]]:
    verdict = found.verdict
    today, full, cost = verdict.today, verdict.full, verdict.cost
    if today is None or full is None or cost is None or verdict.setting is None:
        return
    yield from _heat(found)
    per = 100 * today.gained / today.moved
    yield (
        "gains",
        f"{_gain(today)} of the {format_bytes(today.moved)} measured, if all of it is swapped out "
        f"({per:.0f} %); when full, {_gain(full)} for {format_bytes(full.moved)}",
    )
    share = 100 * cost.cpu_share
    rates = (
        f"today {cost.swapped_out:,.0f} pages/s go out and {cost.swapped_in:,.0f} come back: "
        f"{f'{share:.1f}' if share >= 0.1 else 'less than 0.1'} % of one CPU"
        if cost.swapped_out >= 0.5 or cost.swapped_in >= 0.5
        else "today nothing is swapped, so it costs nothing"
    )
    yield (
        "CPU",
        f"{rates}; a thousand pages/s out and back would take {100 * cost.thousand_share:.1f} %; "
        f"{cost.move_seconds:.1f} s to move it all once",
    )
    disk = (
        ""
        if cost.disk_us is None
        else f"; from {'an' * (cost.disk_us < 1000) or 'a'} "
        f"{'SSD' if cost.disk_us < 1000 else 'hard disk'} it is usually "
        + (f"{cost.disk_us:.0f} µs" if cost.disk_us < 1000 else f"{cost.disk_us / 1000:.0f} ms")
    )
    yield (
        "latency",
        f"{cost.fault_us:.1f} µs for a page that comes back: {cost.load_us:.1f} µs to decompress "
        f"it (99 %: {cost.load_p99_us:.1f} µs), the rest for the fault and what the kernel does "
        f"beside{disk}",
    )
    if cost.costs_from:
        yield (
            "in kernel",
            f"{cost.kernel_store_us:.1f} µs of CPU time to store a page and "
            f"{cost.kernel_load_us:.1f} µs to load it, {cost.costs_from}",
        )


def _heat(found: Advised) -> Iterator[tuple[str, str]]:
    """Say what was cold, and what each part would save."""
    touched, analysis, setting = found.touched, found.analysis, found.verdict.setting
    if touched is None or analysis is None or setting is None:
        return
    *before, (seconds, share) = zip(touched.seconds, touched.untouched, strict=True)
    ages = ", ".join(f"{100 * s:.0f} % in {_seconds(t)}" for t, s in before)
    text = f"{100 * share:.0f} % was not touched in {_seconds(seconds)} ({ages})"
    cold, hot = analysis.by_heat(setting.measured, setting.zpool)
    if cold.estimate is not None:
        e = cold.estimate
        saved = parts.size_and_margin(e.saved_bytes, e.margin_bytes)
        text += (
            f": {format_bytes(cold.target_bytes)}, which would save {saved} ({100 * e.saved:.0f} %"
        )
        if hot.estimate is not None:
            text += f"; what was touched {100 * hot.estimate.saved:.0f} %"
        text += ")"
    yield "cold", text
    back = touched.back_per_second
    idle = max(1, round(touched.untouched[-2] * analysis.total_pages))
    cost = found.verdict.cost
    assert cost is not None
    yield (
        "back",
        f"{back:,.0f} pages/s would come back if all that is idle for "
        f"{_seconds(touched.seconds[-2])} were compressed: {100 * 60 * back / idle:.1f} % of it a "
        "minute, "
        f"{100 * back * cost.thousand_share / 1000:.2f} % of one CPU",
    )


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def _commands(found: Advised) -> Iterator[str]:
    plan, kernel = found.plan, found.machine.kernel
    now = "Should it get short" if found.verdict.action == "leave" else "Now"
    for head, lines in (
        (f"{now} ({_ACCESS[kernel.access]}):", plan.now),
        ("To keep it over a restart:", plan.keep),
        ("To check it:", plan.check),
        (
            "To undo it, in the same shell:" if _uses_variables(plan.undo) else "To undo it:",
            plan.undo,
        ),
    ):
        if lines:
            yield head
            yield from (f"  {line}" for line in lines)
    yield from plan.notes
    if found.analysis is not None and found.verdict.setting is not None:
        yield from parts.remarks(found.analysis)


def _uses_variables(lines: Sequence[str]) -> bool:
    return any("$" in line for line in lines)


# ---- JSON ----------------------------------------------------------------------------------------


def _gain_json(gain: Gain | None) -> dict[str, Any] | None:
    if gain is None:
        return None
    return {
        "moved_bytes": gain.moved,
        "gained_bytes": gain.gained,
        "gained_bytes_95": [gain.low, gain.high],
    }


def _watched_json(found: Advised) -> dict[str, Any] | None:
    touched, analysis, setting = found.touched, found.analysis, found.verdict.setting
    if touched is None or analysis is None:
        return None
    saved: list[float | None] = [None, None]
    if setting is not None:
        saved = [
            None if part.estimate is None else part.estimate.saved
            for part in analysis.by_heat(setting.measured, setting.zpool)
        ]
    return {
        "seconds": touched.seconds[-1],
        "ages": [
            {"seconds": seconds, "untouched": share}
            for seconds, share in zip(touched.seconds, touched.untouched, strict=True)
        ],
        "cold_bytes": touched.cold_pages * analysis.page_size,
        "touched_bytes": touched.touched_pages * analysis.page_size,
        "cold_saved": saved[0],
        "touched_saved": saved[1],
        "back_per_second": touched.back_per_second,
    }


def advised_json(found: Advised) -> dict[str, Any]:
    """Turn the advice into what ``zswap advise --json`` prints.

    Parameters
    ----------
    found : Advised

    Returns
    -------
    dict
        ``schema``, ``version`` (`JSON_VERSION`), ``zswap`` (this library's version), ``date``, then

        machine
            ``cpu``, ``cpus``, ``ram_bytes`` (the cgroup's limit where ``limited``),
            ``available_bytes``, ``anonymous_bytes``, ``shared_bytes`` (tmpfs and shared memory),
            ``locked_bytes``, ``hugetlb_bytes``, ``uptime_seconds``, ``pressure_percent`` (some
            task waited for memory, over 10, 60 and 300 seconds; null: the kernel does not tell),
            ``sysctls``, ``systemd``.
        kernel
            ``release``, ``access`` (yes, not root, read-only), ``zswap_compressors``,
            ``zram_compressors`` (null: not known before it is loaded), ``zram_state`` (present,
            loadable, absent).
        swap
            For each area, the first to be used first: ``path``, ``kind`` (zram, SSD, hard disk,
            file, device), ``size_bytes``, ``used_bytes``, ``priority``.
        zram
            For each device with a size: ``name``, ``compressor``, ``size``, and the figures of
            mm_stat: ``orig``, ``payload``, ``used``, ``limit``, ``used_max``, ``same``,
            ``compacted``, ``raw``.
        zswap_now
            ``on``, ``parameters`` (null: there is none), ``pool_bytes``, ``stored_bytes``,
            ``debug`` (its statistics; empty where they do not show).
        rates
            Pages a second: ``seconds`` (how long was looked), ``since_start`` and ``lately`` (by
            the kernel's names).
        measured
            ``whole`` (all processes that could be read), ``as_root``, ``processes`` (how many),
            ``left_out`` (sentences), and ``analysis``: what `zswap.report.analysis_json` says, or
            null where there was nothing to measure.
        verdict
            ``action`` (zram, zswap, keep, leave), ``headline``, ``why``, ``shortage`` (none, some,
            short), ``way`` (zram, zswap; null: nothing to set), ``compressor`` (the kernel's name),
            ``measured_as``, ``size_bytes`` (of zram), ``max_pool_percent`` (of zswap), ``behind``
            (the path of the swap that zswap stands before).
        watched
            Null without ``--watch``: ``seconds``, ``ages`` (for each look ``seconds``, and
            ``untouched``: the share not touched by then), ``cold_bytes`` and ``touched_bytes`` (at
            the end), ``cold_saved`` and ``touched_saved`` (shares, with what is advised; null: too
            few pages read), ``back_per_second`` (pages touched for the first time in the second
            half, a second).
        gains
            ``today`` (what was measured is all swapped out) and ``full`` (as much as it can
            take): ``moved_bytes``, ``gained_bytes``, ``gained_bytes_95`` = [low, high].
        costs
            ``store_us``, ``load_us``, ``load_p99_us`` (a page, by the codec alone),
            ``kernel_store_us``, ``kernel_load_us``, ``fault_us`` (CPU time of a page, with what the
            kernel does beside; a load and the fault around it), ``costs_measured`` (on this
            machine; else from a table), ``costs_from`` (words), ``move_seconds`` (of
            one CPU, once), ``swapped_out`` and ``swapped_in`` (pages a second
            today), ``cpu_share`` (of one CPU, at these), ``thousand_share`` (for a thousand pages a
            second out and back), ``disk_us`` (a usual figure, or null).
        commands
            ``now``, ``keep``, ``check``, ``undo``: lists of lines for a shell of root; and
            ``notes``.

        A number that is not defined is null.
    """
    machine, verdict, kernel = found.machine, found.verdict, found.machine.kernel
    setting, cost = verdict.setting, verdict.cost
    return {
        "schema": "zswap.advise",
        "version": JSON_VERSION,
        "zswap": zswap.__version__,
        "date": machine.taken,
        "machine": {
            "cpu": machine.cpu,
            "cpus": machine.cpus,
            "ram_bytes": machine.ram,
            "limited": machine.limited,
            "available_bytes": machine.available,
            "anonymous_bytes": machine.anonymous,
            "shared_bytes": machine.shared,
            "locked_bytes": machine.locked,
            "hugetlb_bytes": machine.hugetlb,
            "uptime_seconds": machine.usage.at,
            "pressure_percent": None
            if machine.usage.pressure is None
            else list(machine.usage.pressure),
            "sysctls": machine.sysctls,
            "systemd": machine.systemd,
        },
        "kernel": {
            "release": kernel.release,
            "access": kernel.access,
            "zswap_compressors": sorted(kernel.of("zswap")),
            "zram_compressors": None
            if kernel.zram_compressors is None
            else sorted(kernel.of("zram")),
            "zram_state": kernel.zram,
        },
        "swap": [
            {
                "path": area.path,
                "kind": area.kind,
                "size_bytes": area.size,
                "used_bytes": area.used,
                "priority": area.priority,
            }
            for area in machine.areas
        ],
        "zram": [{"name": name, **device} for name, device in machine.zram.items()],
        "zswap_now": {
            "on": machine.zswap_on,
            "parameters": kernel.zswap,
            "pool_bytes": machine.zswap_pool,
            "stored_bytes": machine.zswap_stored,
            "debug": machine.zswap_debug,
        },
        "rates": {
            "seconds": found.rates.seconds,
            "since_start": found.rates.since_start,
            "lately": found.rates.lately,
        },
        "measured": {
            "whole": found.whole,
            "as_root": found.root,
            "processes": found.processes,
            "left_out": list(found.left_out),
            "analysis": None if found.analysis is None else parts.analysis_json(found.analysis),
        },
        "verdict": {
            "action": verdict.action,
            "headline": verdict.headline,
            "why": verdict.why,
            "shortage": verdict.shortage.level,
            "way": None if setting is None else setting.way,
            "compressor": None if setting is None else setting.compressor,
            "measured_as": None if setting is None else setting.measured,
            "size_bytes": verdict.size,
            "max_pool_percent": verdict.max_pool_percent,
            "behind": None if verdict.behind is None else verdict.behind.path,
        },
        "watched": _watched_json(found),
        "gains": {"today": _gain_json(verdict.today), "full": _gain_json(verdict.full)},
        "costs": None
        if cost is None
        else {
            name: parts.finite(value) if isinstance(value, float) else value
            for name, value in vars(cost).items()
        },
        "commands": {
            "now": list(found.plan.now),
            "keep": list(found.plan.keep),
            "check": list(found.plan.check),
            "undo": list(found.plan.undo),
            "notes": list(found.plan.notes),
        },
    }
