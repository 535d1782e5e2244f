"""What was found, as text for people and as JSON for programs."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import zswap
from zswap.advice import (
    DEFLATE_KERNEL,
    LARGEST_POOL_PERCENT,
    UNMEASURABLE,
    WORTH_A_KERNEL,
    Setting,
    kernel_name,
)
from zswap.demonstration import LEAST_BYTES
from zswap.measure import MappingResult
from zswap.meminfo import format_bytes, parse_bytes
from zswap.pages import left_out_words
from zswap_core.compressors.registry import AUTO, chosen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rich.console import Console
    from rich.table import Table

    from zswap.analyze import Analysis, PartEstimate
    from zswap.estimate import CompressorResult, Estimate, Timing

__all__ = [
    "JSON_VERSION",
    "analysis_json",
    "choice_table",
    "compressors_json",
    "part_tables",
    "print_analysis",
    "print_compressors",
    "remarks",
    "size_and_margin",
]

#: Raised when a key changes its meaning or goes away; new keys may come at any time.
JSON_VERSION = 1

_MANY_ZEROS = 0.02  # share of pages from which on they are spoken of
_WIDE = 100  # columns from which on there is room for more
_NARROW = 78  # columns below which some must be left out
# between columns, beside the blank that is there anyway: for 80 columns, and for 60
_CLOSE, _TIGHT = (0, 0, 0, 1), (0, 0)
_PARTS = 5  # processes, and cgroups, of several


def size_and_margin(nbytes: int, margin: int) -> str:
    """Write an amount and how far it may be off, in the same unit: ``12.3 ± 0.4 MiB``."""
    if not margin:
        return format_bytes(nbytes)
    unit = format_bytes(nbytes).partition(" ")[2]
    factor = parse_bytes(f"1{unit}")
    digits = 0 if factor == 1 else 1 if margin / factor >= 0.05 else 2
    return f"{nbytes / factor:.{digits}f} ± {margin / factor:.{digits}f} {unit}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _ratio(ratio: float) -> str:
    return "∞" if math.isinf(ratio) else f"{ratio:.2f}"


def _ns(ns: float) -> str:
    return "?" if math.isnan(ns) else f"{ns:.0f}"


def _microseconds(timing: float) -> str:
    return f"{timing / 1000:.1f} µs"


# ---- text ----------------------------------------------------------------------------------------


def _table(*columns: str, left: int = 1) -> Table:
    """Make a table without frame, the first `left` columns flush left, the others right."""
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="bold", show_edge=False
    )
    for number, column in enumerate(columns):
        table.add_column(
            column, justify="left" if number < left else "right", no_wrap=True, overflow="ellipsis"
        )
    return table


def print_analysis(
    analysis: Analysis,
    console: Console,
    *,
    everything: bool = False,
    maps: bool = False,
    top: int = 12,
) -> None:
    """Print the report on a target.

    Parameters
    ----------
    analysis : Analysis
    console : rich.console.Console
    everything : bool
        All compressors and allocators, in place of the best three; and both ways to set the kernel.
    maps : bool
        Break it down by mapping.
    top : int
        The largest mappings to show; the rest becomes one line.
    """

    def say(text: str = "", style: str | None = None) -> None:
        # what is to be copied is not wrapped
        whole = not console.is_terminal or text.startswith("  ")
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=whole)

    say(_heading(analysis), "bold")
    say(_sampling(analysis))
    for note in analysis.notes:
        say(note)
    if words := left_out_words(analysis.left_out):
        say(f"Left out: {words}.")
    say()
    if everything:
        say("Compressors on these pages (times: ns a page, same-filled ones left out)")
        console.print(_compressor_table(analysis, console.width))
        say()
        confidence = "" if analysis.exact else "± 95 % confidence; "
        say(
            f"Saved on the whole target ({confidence}its share of the allocator's pages and "
            "metadata counted)"
        )
        console.print(_estimate_table(analysis, console.width))
        say()
        for line in _notes(analysis):
            say(line, "dim")
    else:
        console.print(choice_table(analysis, console.width))
    for line in _zero_lines(analysis, everything):
        say(line)
    if analysis.parts:
        for table in part_tables(analysis, console.width, top if maps else _PARTS):
            say()
            console.print(table)
    if maps:
        say()
        say(f"Mapping by mapping, with {analysis.compressors[0].name}")
        console.print(_mapping_table(analysis, top, console.width))
    say()
    for number, line in enumerate(advice_lines(analysis, everything=everything)):
        say(line, "bold" if number == 0 else None)


def _heading(analysis: Analysis) -> str:
    what = {"process": "of anonymous memory in RAM", "file": "", "core": "of memory in the dump"}[
        analysis.kind
    ]
    if analysis.demonstration:
        return f"{analysis.title}, {format_bytes(analysis.target_bytes)}"
    text = f"{analysis.title}: {format_bytes(analysis.target_bytes)} {what}".rstrip()
    if analysis.kind == "process":
        text += f", {format_bytes(analysis.swapped_pages * analysis.page_size)} more in swap"
        if analysis.shared_bytes > 0.01 * analysis.target_bytes:
            text += f"; {format_bytes(analysis.shared_bytes)} of shared memory left out"
    return text


def _sampling(analysis: Analysis) -> str:
    read, total = analysis.sampled_pages, analysis.total_pages
    text = (
        f"All {total:,} pages read"
        if analysis.exact
        else f"{read:,} of {total:,} pages read, chosen at random (seed {analysis.seed}; ± 95 %)"
    )
    if analysis.vanished_pages:
        text += f"; {analysis.vanished_pages:,} vanished meanwhile"
    if analysis.hole_pages:
        text += f"; {analysis.hole_pages:,} that are holes in the file left out"
    return f"{text}. {_percent(analysis.same_filled)} are same-filled."


def choice_table(analysis: Analysis, width: int) -> Table:
    """Make the table of the best three, one line each; in narrow ones intervals are left out."""
    narrow = width < _NARROW
    columns = ["compressor", "saves", "", "store", "load", "this kernel's"]
    if narrow:
        columns = [*(f"\n{column}" for column in columns[:-1]), "this kernel's\n(*: default)"]
    table = _table(*columns)
    table.columns[-1].justify = "left"
    table.padding = _TIGHT if narrow else _CLOSE
    default = "*" if narrow else " (default)"
    for choice in analysis.advice.choices:
        ways = ", ".join(way + default * (way in choice.default_of) for way in choice.ways)
        if choice.measured is None:
            # as long as an amount may be
            unknown = "unmeasured" if narrow else "not measured"
            table.add_row(choice.name, unknown, "", "", "", ways)
            continue
        e, r = (
            analysis.estimate(choice.measured, analysis.advice.zpool),
            analysis.compressor(choice.measured),
        )
        table.add_row(
            choice.name,
            size_and_margin(e.saved_bytes, 0 if narrow else e.margin_bytes),
            _percent(e.saved),
            _microseconds(r.store.median),
            _microseconds(r.load.median),
            ways or ("neither" if narrow else "neither zswap nor zram"),
        )
    return table


def _compressor_table(analysis: Analysis, width: int) -> Table:
    table = _table(
        "\ncompressor", "payload\nratio", "store ns\nmedian", "\np99", "load ns\nmedian", "\np99"
    )
    if width < _NARROW:
        table.padding = _TIGHT
    for result in analysis.compressors:
        table.add_row(
            result.name,
            _ratio(result.payload_ratio),
            _ns(result.store.median),
            _ns(result.store.p99),
            _ns(result.load.median),
            _ns(result.load.p99),
        )
    return table


def _estimate_table(analysis: Analysis, width: int) -> Table:
    wide, narrow = width >= _WIDE, width < _NARROW
    columns = ["\ncompressor", "\nzpool", "incom-\npressible", "effective\nratio", "\nsaves", ""]
    if wide:
        columns[4:4] = ["\npool", "\nmetadata"]
    if narrow:
        del columns[2]
    table = _table(*columns, left=2)
    if not wide:
        table.padding = _TIGHT if narrow else _CLOSE
    before = None
    for e in analysis.estimates:
        cells = [
            e.compressor if e.compressor != before else "",
            e.zpool,
            _percent(e.incompressible),
            _ratio(e.effective_ratio),
            size_and_margin(e.saved_bytes, 0 if narrow else e.margin_bytes),
            _percent(e.saved),
        ]
        if wide:
            cells[4:4] = [format_bytes(e.allocator_bytes), format_bytes(e.metadata_bytes)]
        if narrow:
            del cells[2]
        table.add_row(*cells)
        before = e.compressor
    return table


def _notes(analysis: Analysis) -> Iterable[str]:
    names = [r.name for r in analysis.compressors]
    if adapted := [
        r.name for r in analysis.compressors if r.through_python and r.name != DEFLATE_KERNEL
    ]:
        yield (
            f"{', '.join(adapted)}: called through Python: slower than the C library, and not "
            "quite its sizes."
        )
    if DEFLATE_KERNEL in names:
        pages = analysis.compressor(DEFLATE_KERNEL).pages
        yield (
            f"{DEFLATE_KERNEL}: zlib as the kernel has it (level 6, 2 KiB window), on {pages:,} "
            "pages."
        )
    if ours := [name for name in names if name.partition(":")[0] == "lref"]:
        yield f"{', '.join(ours)}: this library's own; no kernel has such a codec."
    zpools = {e.zpool for e in analysis.estimates}
    if "zsmalloc" in zpools:
        yield "zsmalloc: this library.  Incompressible: takes a whole page there."
    if any(name.startswith("zsmalloc-kernel") for name in zpools):
        yield "zsmalloc-kernel: Linux zswap or zram, 8-byte handles, 64 bytes a page beside."
    if unused := max((e.unused_bytes for e in analysis.estimates), default=0):
        yield (
            f"A pool that holds nothing else takes up to {format_bytes(unused)} more: its last "
            "zspages are not full."
        )


def _zero_lines(analysis: Analysis, everything: bool) -> Iterable[str]:
    """Say what remains of the savings if pages of zeros were memory that was never touched."""
    if analysis.kind == "process" or analysis.zeros < _MANY_ZEROS:
        return
    what = "a dump" if analysis.kind == "core" else "an image of memory"
    yield (
        f"{_percent(analysis.zeros)} of the pages are all zeros; in {what} those never touched "
        "look so, and took no memory."
    )
    names = (
        {r.name for r in analysis.compressors}
        if everything
        else {c.measured for c in analysis.advice.choices}
    )
    if rest := [
        e
        for e in analysis.without_zeros
        if e.zpool == analysis.advice.zpool and e.compressor in names
    ]:
        saved = ", ".join(
            f"{e.compressor} {_percent(e.saved)} (not "
            f"{_percent(analysis.estimate(e.compressor, e.zpool).saved)})"
            for e in rest
        )
        yield (
            f"Without them, {format_bytes(rest[0].target_bytes)}, {rest[0].zpool} saves with "
            f"{saved}."
        )


def part_tables(
    analysis: Analysis,
    width: int,
    top: int,
    compressor: str | None = None,
    zpool: str | None = None,
) -> Iterator[Table]:
    """Make tables of the processes, and of the cgroups where there are several, that save most.

    By the setting advised unless a compressor (as it was measured) and an allocator are named.
    """
    setting = analysis.advice.setting(analysis.advice.first)
    if compressor is None:
        compressor = setting.measured if setting is not None else analysis.advice.balanced
    zpool = zpool or (setting.zpool if setting is not None else analysis.advice.zpool)
    name_width = max(10, min(28, width - 46))
    yield _part_table(
        "process", analysis.by_process(compressor, zpool), top, name_width, compressor
    )
    cgroups = analysis.by_cgroup(compressor, zpool)
    if len(cgroups) > 1:
        yield _part_table("cgroup", cgroups, top, name_width, compressor)


def _part_table(
    kind: str, parts: list[PartEstimate], top: int, width: int, compressor: str
) -> Table:
    from rich.markup import escape

    with_pid = kind == "process"
    table = _table(kind, "memory", f"{compressor} saves", "")
    table.padding = (0, 0, 0, 1)
    # one alone is no rest
    shown, rest = (parts, []) if len(parts) <= top + 1 else (parts[:top], parts[top:])
    for part in shown:
        pid = f" {part.pids[0]}"
        name = _short(part.name, width - len(pid)) + pid if with_pid else _end(part.name, width)
        e = part.estimate
        table.add_row(
            escape(name),
            format_bytes(part.target_bytes),
            "too few pages read" if e is None else size_and_margin(e.saved_bytes, e.margin_bytes),
            "" if e is None else _percent(e.saved),
        )
    if rest:
        saved = sum(p.estimate.saved_bytes for p in rest if p.estimate is not None)
        table.add_row(
            f"{len(rest):,} others",
            format_bytes(sum(p.target_bytes for p in rest)),
            format_bytes(saved) if saved > 0 else "",
            "",
        )
    return table


def _end(path: str, width: int) -> str:
    """Cut a path down to its last part, and that to `width`."""
    last = path if len(path) <= width else "…/" + path.rpartition("/")[2]
    return last if len(last) <= width else last[: width - 1] + "…"


def _mapping_table(analysis: Analysis, top: int, width: int) -> Table:
    from rich.markup import escape

    table = _table(
        "\nmapping", "\nsize", "pages\nread", "same-\nfilled", "incom-\npressible", "payload\nratio"
    )
    if width < _NARROW:
        table.padding = _TIGHT
    name_width = max(10, min(26, width - 46))
    shown = [m for m in analysis.mappings[:top] if m.sampled]
    rest = [m for m in analysis.mappings if m not in shown]
    if len(rest) == 1 and rest[0].sampled:
        shown, rest = analysis.mappings, []
    if rest:
        shown = [*shown, MappingResult.together(f"{len(rest)} smaller ones", rest)]
    for m in shown:
        n = max(m.sampled, 1)
        share = [
            f"{m.sampled:,}",
            _percent(m.same_filled / n),
            _percent(m.raw / n),
            _ratio(m.payload_ratio),
        ]
        table.add_row(
            escape(_short(m.name, name_width)),
            format_bytes(m.pages * m.page_size),
            *(share if m.sampled else ["0", "", "", ""]),
        )
    return table


def _short(name: str, width: int) -> str:
    """Cut a path down to its last part, and that to `width`."""
    name = name.rpartition("/")[2] if name.startswith("/") else name
    return name if len(name) <= width else name[: width - 1] + "…"


def advice_lines(analysis: Analysis, *, everything: bool = False) -> list[str]:
    """Write the advice: the verdict in one sentence, then what to tell a kernel, a line each.

    Parameters
    ----------
    analysis : Analysis
    everything : bool
        The commands for zswap and for zram, whichever of them is the better.

    Returns
    -------
    list of str
        Lines that begin with two blanks are commands.
    """
    advice = analysis.advice
    if not advice.worthwhile:
        best = analysis.estimate(advice.densest, advice.zpool)
        return [
            f"Not worth it: {_gain(best)}; these pages hardly compress, and the processor time "
            "would be lost.",
            "Leave zswap and zram off for this workload, or give it more RAM.",
        ]
    lines = [_verdict(analysis)]
    if everything:
        lines.append(_sentence(analysis))
    elif analysis.target_bytes < LEAST_BYTES and advice.first is not None:
        lines.append(
            f"{format_bytes(analysis.target_bytes)} are little to set up a kernel for: analyze "
            "what fills the memory."
        )
        return [*lines, *remarks(analysis)]
    ways = [way for way in ("zswap", "zram") if advice.setting(way) is not None]
    ways.sort(key=lambda way: way != advice.first)
    for number, way in enumerate(ways):
        setting = advice.setting(way)
        assert setting is not None
        if number and not everything:
            lines.append(f"Or {_praise(analysis, setting)}: --all-compressors shows how.")
        else:
            lines += ["", *_setting_lines(analysis, setting)]
    return [*lines, *([""] if everything or not ways else []), *remarks(analysis)]


def _gain(e: Estimate) -> str:
    return (
        f"{e.compressor} saves {100 * e.saved:.0f} %"
        if e.saved > 0
        else f"even {e.compressor} saves nothing"
    )


def _times(result: CompressorResult) -> str:
    return f"store {_microseconds(result.store.median)}, load {_microseconds(result.load.median)}"


def _praise(analysis: Analysis, setting: Setting) -> str:
    """Name a setting and its figures: ``zram with lz4 (saves 63 %, store 6.2 µs, load 1.6 µs)``."""
    saved = analysis.estimate(setting.measured, setting.zpool).saved
    times = _times(analysis.compressor(setting.measured))
    return f"{setting.way} with {setting.compressor} (saves {100 * saved:.0f} %, {times})"


def _verdict(analysis: Analysis) -> str:
    setting = analysis.advice.setting(analysis.advice.first)
    if setting is not None:
        return f"Worth it: {_praise(analysis, setting)}."
    kernel = analysis.advice.kernel
    if kernel.zswap is None and kernel.zram == "absent":
        return (
            "These pages compress, but this kernel has neither zswap nor zram (or does not "
            "show them here)."
        )
    return "These pages compress, but not with what was measured of this kernel's compressors."


def _sentence(analysis: Analysis) -> str:
    """Say which compressors serve the three aims in a program that takes this library."""
    advice = analysis.advice

    def praise(name: str) -> str:
        saved = analysis.estimate(name, advice.zpool).saved
        return f"{name} (saves {100 * saved:.0f} %, {_times(analysis.compressor(name))})"

    head = "Of all measured, "
    if advice.fastest == advice.densest:
        return f"{head}take {praise(advice.fastest)}: nothing is faster, and nothing saves more."
    if advice.balanced == advice.densest:
        return (
            f"{head}for speed take {praise(advice.fastest)}; for most memory, and on balance, "
            f"{praise(advice.densest)}."
        )
    if advice.balanced == advice.fastest:
        return (
            f"{head}for speed, and on balance, take {praise(advice.fastest)}; for most memory "
            f"{praise(advice.densest)}."
        )
    return (
        f"{head}for speed take {praise(advice.fastest)}, for most memory {praise(advice.densest)},"
        f" on balance {praise(advice.balanced)}."
    )


def _setting_lines(analysis: Analysis, setting: Setting) -> list[str]:
    """List the commands for one way, and the one that checks them."""
    advice = analysis.advice
    kernel = advice.kernel
    if not setting.commands:
        used = (
            next((d for d in kernel.zram_devices if d.compressor), None)
            if setting.way == "zram"
            else None
        )
        if used is None or used.compressor == setting.compressor:
            return [f"{setting.way} is set so already; what it holds:", "  " + _held(setting)]
        return [
            f"zram is swap here already, with {used.compressor}, which was not measured; leave it, "
            f"or try {setting.compressor}.",
            "  " + setting.check,
        ]
    who = {
        "yes": "as root",
        "not root": "as root (you are not)",
        "read-only": "as root, on the host: /sys is read-only here, as in a container",
    }[kernel.access]
    if setting.way == "zram":
        needs = "no disk needed; "
    elif kernel.disk_swaps:
        free = sum(swap.size - swap.used for swap in kernel.disk_swaps)
        needs = f"{format_bytes(free)} of swap is free; " if free < analysis.target_bytes else ""
    else:
        needs = "swap on a disk, too: there is none; "
    lines = [
        f"To set {setting.way} ({needs}{who}):",
        *("  " + command for command in setting.commands),
    ]
    lines.append(
        f"Then this must show {setting.compressor}" + (" and Y:" if setting.way == "zswap" else ":")
    )
    lines.append("  " + setting.check)
    if setting.way == "zswap":
        lines.append(_pool_line(analysis))
        zsmalloc_only_grows = (
            "zpool" in (kernel.zswap or {}) and kernel.zsmalloc and (0, 0) < kernel.version < (6, 3)
        )
        if zsmalloc_only_grows:
            lines.append(
                "Before Linux 6.3 zsmalloc writes nothing back: once the pool is full, new pages "
                "go to the disk."
            )
    return lines


def _held(setting: Setting) -> str:
    return "grep -i zswap /proc/meminfo" if setting.way == "zswap" else setting.check


def _pool_line(analysis: Analysis) -> str:
    advice = analysis.advice
    needed, percent = advice.pool_percent_needed, advice.max_pool_percent
    assert needed is not None
    assert percent is not None
    assert advice.zswap_pool_bytes is not None
    why = (
        f"all of this target compressed: at most {format_bytes(advice.zswap_pool_bytes)}, "
        f"{needed} % of RAM"
    )
    if needed > LARGEST_POOL_PERCENT:
        why += "; more would crowd out what runs, so part of it goes to disk"
    elif needed < percent:
        why += f"; {percent} is the default"
    return f"({why})"


def remarks(analysis: Analysis) -> Iterator[str]:
    """Say what this kernel lacks, and what could not be measured."""
    advice = analysis.advice
    kernel, better = advice.kernel, advice.better
    if better is not None:
        family = "ZRAM_BACKEND" if better.way == "zram" and kernel.version >= (6, 12) else "CRYPTO"
        unseen = "" if kernel.modules_seen else "  Whether this one can load it does not show here."
        yield (
            f"A kernel with CONFIG_{family}_{better.compressor.upper()} would save more: "
            f"{_praise(analysis, better)}.{unseen}"
        )
    if (own := _own(analysis)) is not None:
        saved = analysis.estimate(own.name, advice.zpool).saved
        yield (
            f"{own.name}, which is this library's own and in no kernel, saves {100 * saved:.0f} % "
            f"({_times(own)}) of what a program keeps in a ZSwap."
        )
    if kernel.zram != "absent" and kernel.zram_compressors is None:
        yield (
            "What zram compresses with shows once it is loaded: modprobe zram && cat "
            "/sys/block/zram0/comp_algorithm"
        )
    lzo_measured = any(kernel_name(r) == "lzo" for r in analysis.compressors)
    to_measure = "it takes the system's liblzo2 (apt install liblzo2-2) to measure that"
    ways = {
        name: [way for way in ("zswap", "zram") if name == kernel.default(way)]
        for name in UNMEASURABLE
    }
    for name in [name for name in UNMEASURABLE if ways[name]]:
        text = (
            f"{name}, the default of {' and '.join(ways[name])}, is in no library and was not "
            "measured"
        )
        if name == "lzo-rle":
            text += "; lzo comes within about a point of it" + (
                "" if lzo_measured else f", but {to_measure}"
            )
            lzo_measured = True
        yield text + "."
    if "lzo" in kernel.of("zswap") | kernel.of("zram") and not lzo_measured:
        yield f"lzo was not measured: {to_measure}."


def _own(analysis: Analysis) -> CompressorResult | None:
    """Find the densest of our own codec's levels, if the kernel is advised nothing as dense."""
    advice = analysis.advice
    setting = advice.setting(advice.first)
    now = 0.0 if setting is None else analysis.estimate(setting.measured, advice.zpool).saved
    more = {
        analysis.estimate(r.name, advice.zpool).saved: r
        for r in analysis.compressors
        if r.name.partition(":")[0] == "lref"
    }
    return more[max(more)] if more and max(more) >= now + WORTH_A_KERNEL else None


def print_compressors(console: Console) -> None:
    """Print the compressors that this library knows, and where each was found."""
    from rich.markup import escape

    table = _table("compressor", "library", "levels (default)", "found in", left=4)
    table.columns[-1].no_wrap = False
    for info in zswap.compressors():
        place = info.path or ""
        package = place.rpartition("/site-packages/")[2]
        if console.width < _WIDE:
            package = (
                os.path.basename(place)
                if package == place
                else package.partition("/")[0].partition(".")[0]
            )
        table.add_row(
            info.name,
            " ".join(filter(None, (info.library, info.version))) if info.available else "missing",
            "{0} to {2} ({1})".format(*info.levels) if info.levels else "none",
            escape(f"{info.origin}: {package}") if info.available else "",
        )
    console.print(table)
    if auto := _auto():
        console.print(f"auto: {auto} on this processor.", highlight=False)
    for info in zswap.compressors():
        if not info.available:
            text = f"{info.name}: {info.error}"
            console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def _auto() -> str | None:
    """Find what "auto" stands for; a list must not fail for it."""
    try:
        return chosen(AUTO)
    except zswap.CompressorNotFound:
        return None


# ---- JSON ----------------------------------------------------------------------------------------


def finite(value: float | None) -> float | None:
    """Give a number as JSON has it: None where there is none, or no end of it."""
    return value if value is not None and math.isfinite(value) else None


def _timing_json(timing: Timing) -> dict[str, float | None]:
    return {
        "median": finite(timing.median),
        "p99": finite(timing.p99),
        "mean": finite(timing.mean),
    }


def analysis_json(analysis: Analysis) -> dict[str, Any]:
    """Turn an analysis into what ``zswap analyze --json`` prints.

    Parameters
    ----------
    analysis : Analysis

    Returns
    -------
    dict
        ``schema``, ``version`` (`JSON_VERSION`) and ``zswap`` (this library's version), then

        target
            ``kind`` (process, file, core), ``title``, ``pid``, ``command``, ``paths``,
            ``page_size``, ``pages`` and ``bytes`` (what the estimates are for), ``swapped_pages``,
            ``shared_bytes``, ``hole_pages`` (these three left out), ``pids`` (all of them, where
            there are several), ``left_out`` (bytes of other memory left out, by why: ``locked``,
            ``hugetlb``, ``device``, ``droppable``, ``userfaultfd``, ``remote``), ``notes``
            (sentences on the pages), ``demonstration`` (a program made on the spot).
        sample
            ``pages`` (measured), ``vanished_pages``, ``seed``, ``exact`` (all pages measured),
            ``same_filled_pages``, ``same_filled`` (a share; all shares are 0 to 1), ``zero_pages``
            (those of them that are all zeros).
        compressors
            For each: ``name``, ``payload_bytes``, ``payload_ratio``, ``raw_pages`` (kept raw by
            this library), ``through_python`` (the times are not the compressor's own), ``store_ns``
            and ``load_ns`` with ``median``, ``p99``, ``mean`` over pages not same-filled, and
            ``histogram``: pages of the sample in 64 (page_size / 64 bytes each) bins of payload,
            same-filled pages not among them.
        estimates
            For each compressor and zpool, for the whole target: ``compressor``, ``zpool``,
            ``incompressible`` (share that takes a whole page), ``allocator_bytes``,
            ``metadata_bytes``, ``memory_bytes`` (both), ``effective_ratio``, ``saved_bytes``,
            ``saved``, ``saved_bytes_95`` = [low, high], and ``target_bytes``.  The allocator's
            pages are the target's share; ``unused_bytes`` more are taken while nothing else is in
            the pool.
        without_zero_pages
            For files and core dumps the same estimates for the pages that are not all zeros, as
            those may never have been touched; empty where there are none, or nothing else.
        mappings
            For each name: ``name``, ``pages``, and by the first compressor ``sampled_pages``,
            ``same_filled_pages``, ``raw_pages``, ``payload_bytes``, ``payload_ratio``.
        processes
            Where several processes are taken as one, for each, with what is advised first:
            ``name``, ``pids``, ``bytes`` (pages that several share count in parts),
            ``swapped_bytes``, ``sampled_pages``, ``saved_bytes``, ``saved_bytes_95`` (null: too few
            pages read).
        cgroups
            The same of their cgroups.
        kernel
            What the running kernel has: ``release``, ``access`` (yes, not root, read-only),
            ``zswap``: ``parameters`` (null: it has none), ``compressors``, ``modules_seen``
            (whether more may be loadable), ``zram``: ``state`` (present, loadable, absent),
            ``compressors`` (null: not known before it is loaded), ``default``; ``swap_bytes`` on
            disks.
        advice
            ``worthwhile``, ``fastest``, ``balanced``, ``densest``, ``judged_by`` (a zpool),
            ``text`` (lines), and ``first`` (zswap or zram, null: neither), ``choices``: ``name``,
            ``measured_as`` (null: it was not), ``ways``, ``default_of``; ``kernel`` (zswap) and
            ``zram``: ``compressor``, ``measured_as``, ``zpool``, ``saved``, ``commands``,
            ``check``; ``kernel`` also ``max_pool_percent``, ``pool_percent_needed``,
            ``pool_bytes``, ``ram_bytes``; ``better``: what another kernel would do better with, or
            null.

        A number that is not defined (a ratio over nothing) is null.
    """
    advice = analysis.advice
    kernel = advice.kernel
    bins = 64
    return {
        "schema": "zswap.analyze",
        "version": JSON_VERSION,
        "zswap": zswap.__version__,
        "target": {
            "kind": analysis.kind,
            "title": analysis.title,
            "pid": analysis.pid,
            "command": analysis.command,
            "paths": analysis.paths,
            "page_size": analysis.page_size,
            "pages": analysis.total_pages,
            "bytes": analysis.target_bytes,
            "swapped_pages": analysis.swapped_pages,
            "shared_bytes": analysis.shared_bytes,
            "hole_pages": analysis.hole_pages,
            "pids": analysis.pids,
            "left_out": analysis.left_out,
            "notes": analysis.notes,
            "demonstration": analysis.demonstration,
        },
        "sample": {
            "pages": analysis.sampled_pages,
            "vanished_pages": analysis.vanished_pages,
            "seed": analysis.seed,
            "exact": analysis.exact,
            "same_filled_pages": analysis.same_filled_pages,
            "same_filled": analysis.same_filled,
            "zero_pages": analysis.zero_pages,
        },
        "compressors": [
            {
                "name": result.name,
                "payload_bytes": result.payload_bytes,
                "payload_ratio": finite(result.payload_ratio),
                "raw_pages": result.raw_pages,
                "through_python": result.through_python,
                "store_ns": _timing_json(result.store),
                "load_ns": _timing_json(result.load),
                "histogram": result.histogram[1:].reshape(bins, -1).sum(axis=1).tolist(),
            }
            for result in analysis.compressors
        ],
        "estimates": [_estimate_json(e) for e in analysis.estimates],
        "without_zero_pages": [_estimate_json(e) for e in analysis.without_zeros],
        "mappings": [
            {
                "name": m.name,
                "pages": m.pages,
                "sampled_pages": m.sampled,
                "same_filled_pages": m.same_filled,
                "raw_pages": m.raw,
                "payload_bytes": m.payload_bytes,
                "payload_ratio": finite(m.payload_ratio) if m.sampled else None,
            }
            for m in analysis.mappings
        ],
        "processes": [_part_json(p) for p in _parts(analysis, analysis.by_process)],
        "cgroups": [_part_json(p) for p in _parts(analysis, analysis.by_cgroup)],
        "kernel": {
            "release": kernel.release,
            "access": kernel.access,
            "zswap": {
                "parameters": kernel.zswap,
                "compressors": sorted(kernel.of("zswap")),
                "modules_seen": kernel.modules_seen,
            },
            "zram": {
                "state": kernel.zram,
                "compressors": None
                if kernel.zram_compressors is None
                else sorted(kernel.of("zram")),
                "default": kernel.zram_default,
            },
            "swap_bytes": sum(swap.size for swap in kernel.disk_swaps),
        },
        "advice": {
            "worthwhile": advice.worthwhile,
            "fastest": advice.fastest,
            "balanced": advice.balanced,
            "densest": advice.densest,
            "judged_by": advice.zpool,
            "text": advice_lines(analysis, everything=True),
            "first": advice.first,
            "choices": [
                {
                    "name": c.name,
                    "measured_as": c.measured,
                    "ways": list(c.ways),
                    "default_of": list(c.default_of),
                }
                for c in advice.choices
            ],
            "kernel": {
                **_setting_json(analysis, advice.zswap),
                "max_pool_percent": advice.max_pool_percent,
                "pool_percent_needed": advice.pool_percent_needed,
                "pool_bytes": advice.zswap_pool_bytes,
                "ram_bytes": advice.ram_bytes,
            },
            "zram": _setting_json(analysis, advice.zram),
            "better": _setting_json(analysis, advice.better) if advice.better is not None else None,
        },
    }


def _parts(analysis: Analysis, by: Callable[[str, str], list[PartEstimate]]) -> list[PartEstimate]:
    setting = analysis.advice.setting(analysis.advice.first)
    if setting is None:
        return by(analysis.advice.balanced, analysis.advice.zpool) if analysis.parts else []
    return by(setting.measured, setting.zpool) if analysis.parts else []


def _part_json(part: PartEstimate) -> dict[str, Any]:
    return {
        "name": part.name,
        "pids": list(part.pids),
        "bytes": part.target_bytes,
        "swapped_bytes": part.swapped_bytes,
        "sampled_pages": part.sampled_pages,
        "saved_bytes": None if part.estimate is None else part.estimate.saved_bytes,
        "saved_bytes_95": None
        if part.estimate is None
        else [part.estimate.saved_low, part.estimate.saved_high],
    }


def _estimate_json(e: Estimate) -> dict[str, Any]:
    return {
        "compressor": e.compressor,
        "zpool": e.zpool,
        "target_bytes": e.target_bytes,
        "incompressible": e.incompressible,
        "allocator_bytes": e.allocator_bytes,
        "metadata_bytes": e.metadata_bytes,
        "memory_bytes": e.memory_bytes,
        "effective_ratio": finite(e.effective_ratio),
        "saved_bytes": e.saved_bytes,
        "saved": e.saved,
        "saved_bytes_95": [e.saved_low, e.saved_high],
        "unused_bytes": e.unused_bytes,
    }


def _setting_json(analysis: Analysis, setting: Setting | None) -> dict[str, Any]:
    if setting is None:
        return dict.fromkeys(("compressor", "measured_as", "zpool", "saved"), None) | {
            "commands": [],
            "check": None,
        }
    return {
        "compressor": setting.compressor,
        "measured_as": setting.measured,
        "zpool": setting.zpool,
        "saved": analysis.estimate(setting.measured, setting.zpool).saved,
        "commands": list(setting.commands),
        "check": setting.check or None,
    }


def compressors_json() -> dict[str, Any]:
    """Turn the list of compressors into what ``zswap compressors --json`` prints.

    Returns
    -------
    dict
        ``schema``, ``version``, ``zswap``, ``auto`` (which compressor that means here; null where
        $ZSWAP_LREF names none), and ``compressors``: for each ``name``, ``available``,
        ``library``, ``version`` (its), ``path``, ``origin`` (wheel, system, ...), ``levels`` =
        [lowest, default, highest] or null, ``dictionary`` (whether it takes one), and ``error``
        where it is not available.
    """
    compressors = [
        {
            "name": info.name,
            "available": info.available,
            "library": info.library,
            "version": info.version,
            "path": info.path,
            "origin": info.origin,
            "levels": list(info.levels) if info.levels else None,
            "dictionary": info.dictionary,
            "error": info.error,
        }
        for info in zswap.compressors()
    ]
    return {
        "schema": "zswap.compressors",
        "version": JSON_VERSION,
        "zswap": zswap.__version__,
        "auto": _auto(),
        "compressors": compressors,
    }
