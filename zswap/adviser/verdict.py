"""What to do on a machine, why, what is gained and what it costs.

All of it follows from three things: the machine (`zswap.adviser.machine`), how often it swaps, and
what was measured of its memory (`zswap.analyze`).  Nothing is read here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from zswap.advice import Advice, Setting, kernel_name, zram_commands, zswap_commands
from zswap.adviser.machine import Area, Machine, Rates
from zswap.analyze import Analysis
from zswap.costs import NO_COSTS, Costs
from zswap.estimate import Estimate
from zswap.meminfo import format_bytes

__all__ = ["Cost", "Gain", "Shortage", "Verdict", "judge", "shortage"]

#: Less that could be swapped is not worth setting anything up for: bytes, and share of RAM.
LEAST_BYTES, LEAST_SHARE = 64 << 20, 0.01
#: Memory is short below this share available, or when tasks wait for it this share of the time; it
#: is ample above the other one.
SHORT_SHARE, SHORT_PRESSURE, AMPLE_SHARE = 0.10, 1.0, 0.40
#: So much of RAM in swap shows that memory has been short.
SWAPPED_SHARE = 0.02
#: What zram may take of RAM once it is full.
LARGEST_ZRAM = 0.5
#: A page read from such a swap area takes about so long: usual figures, not measured here.
USUAL_READ_US = {"SSD": 100.0, "hard disk": 8000.0}
#: Another compressor must save so much more of the memory than the one in use.
WORTH_CHANGING = 0.03
_PAGE = 4096
_GRAIN = 1 << 20


@dataclass(frozen=True)
class Shortage:
    """How short memory is.

    Attributes
    ----------
    level : {"none", "some", "short"}
    why : str
        What shows it.
    """

    level: str
    why: str


@dataclass(frozen=True)
class Gain:
    """Memory that moves there, and what becomes free by it; the interval holds at 95 %."""

    moved: int
    gained: int
    low: int
    high: int

    @property
    def margin(self) -> int:
        """Half the width of the interval."""
        return (self.high - self.low + 1) // 2


@dataclass(frozen=True)
class Cost:
    """What compressing costs.

    Attributes
    ----------
    store_us, load_us, load_p99_us : float
        Microseconds for a page, by the codec alone.
    kernel_store_us, kernel_load_us : float
        Microseconds of CPU time for a page, with it.
    fault_us : float
        Microseconds of CPU time for a page that comes back, the fault and the load together.
    costs_measured : bool
        Whether these were measured on this machine.
    costs_from : str
        Where they are from.
    move_seconds : float
        Of one CPU, for all of today's gain, once.
    swapped_out, swapped_in : float
        Pages a second at today's rates.
    cpu_share : float
        Of one CPU, at these rates.
    thousand_share : float
        Of one CPU, for a thousand pages a second there and back.
    disk_us : float or None
        What a page takes from the swap area that is there now, usually.
    """

    store_us: float
    load_us: float
    load_p99_us: float
    kernel_store_us: float
    kernel_load_us: float
    fault_us: float
    costs_measured: bool
    costs_from: str
    move_seconds: float
    swapped_out: float
    swapped_in: float
    cpu_share: float
    thousand_share: float
    disk_us: float | None


@dataclass(frozen=True)
class Verdict:
    """What to do.

    Attributes
    ----------
    action : {"zram", "zswap", "keep", "leave"}
        Set up or change one of the two; leave on what is on; leave all off.
    headline, why : str
        The same in words.
    shortage : Shortage
    setting : Setting or None
        How; where it is to be left off, how it would be if memory became short; None where there
        is nothing to set.
    size : int or None
        Of zram, in bytes.
    max_pool_percent : int or None
        Of zswap.
    behind : Area or None
        The swap area that zswap stands in front of.
    today, full : Gain or None
        With what was measured moved there, and with as much as it can take.
    cost : Cost or None
    """

    action: str
    headline: str
    why: str
    shortage: Shortage
    setting: Setting | None = None
    size: int | None = None
    max_pool_percent: int | None = None
    behind: Area | None = None
    today: Gain | None = None
    full: Gain | None = None
    cost: Cost | None = None


def shortage(machine: Machine, rates: Rates) -> Shortage:
    """Say how short memory is."""
    share = machine.available / machine.ram if machine.ram else 1.0
    waited = machine.usage.pressure[2] if machine.usage.pressure is not None else None
    words = [f"{100 * share:.0f} % of it is available"]
    if waited is not None:
        words.append(f"tasks waited for it {waited:.1f} % of the last 5 minutes")
    if machine.areas:
        words.append(f"{format_bytes(machine.swapped)} of swap is used")
    coming = rates.lately.get("pswpin", 0.0) + rates.lately.get("zswpin", 0.0)
    if coming >= 1:
        words.append(f"{coming:,.0f} pages a second come back from swap")
    why = "; ".join(words)
    if share < SHORT_SHARE or (waited or 0.0) >= SHORT_PRESSURE:
        return Shortage("short", f"memory is short: {why}")
    swapped = machine.swapped > SWAPPED_SHARE * machine.ram
    if share >= AMPLE_SHARE and not swapped and (waited or 0.0) < SHORT_PRESSURE / 2:
        return Shortage("none", f"memory is not short: {why}")
    return Shortage("some", f"memory gets short at times: {why}" if swapped else why)


def judge(
    machine: Machine,
    rates: Rates,
    analysis: Analysis | None,
    advice: Advice | None,
    costs: Costs | None = None,
) -> Verdict:
    """Decide what to do.

    Parameters
    ----------
    machine : Machine
    rates : Rates
    analysis : Analysis or None
        None where there was nothing to measure.
    advice : Advice or None
        For the memory that the machine has.
    costs : Costs, optional
        What the kernel does beside the codec; nothing unless given.

    Returns
    -------
    Verdict
    """
    short = shortage(machine, rates)
    if analysis is None or advice is None:
        why = "there is no process here whose memory could be measured"
        return Verdict("leave", "Leave it as it is", why, short)
    if not advice.worthwhile:
        best = analysis.estimate(advice.densest, advice.zpool)
        why = (
            f"this memory hardly compresses: {best.compressor} would save {100 * best.saved:.0f} %"
            if best.saved > 0
            else f"this memory does not compress: even {best.compressor} would save nothing"
        )
        return Verdict("leave", "Leave it off", why, short)
    setting, size = _chosen(machine, analysis, advice)
    if setting is None:
        kernel = machine.kernel
        why = (
            "this kernel has neither zswap nor zram, or does not show them here"
            if kernel.zswap is None and kernel.zram == "absent"
            else "none of this kernel's compressors could be measured here"
        )
        return Verdict("leave", "Leave it as it is", why, short)
    verdict = _with_figures(
        machine, rates, analysis, advice, setting, size, short, costs or NO_COSTS
    )
    kept = _in_use(machine, analysis, setting)
    if kept is not None:
        return replace(verdict, action="keep", headline=kept[0], why=kept[1])
    what = verdict.headline
    swappable = analysis.target_bytes + machine.swapped
    if swappable < max(LEAST_BYTES, LEAST_SHARE * machine.ram) and short.level != "short":
        why = f"only {format_bytes(swappable)} could be swapped at all; {short.why}"
        return replace(verdict, action="leave", headline="No need today", why=why)
    if short.level == "none":
        why = f"{short.why}. Were it short: {what}"
        return replace(verdict, action="leave", headline="No need today", why=why)
    return verdict


def _chosen(
    machine: Machine, analysis: Analysis, advice: Advice
) -> tuple[Setting | None, int | None]:
    """Return the setting for what is there, and the size of zram."""
    way = advice.first
    if any(area.kind == "zram" for area in machine.areas) and advice.zram is not None:
        way = "zram"  # it is in use; zswap in front of it would take its pages
    setting = advice.setting(way)
    if setting is None:
        return None, None
    measured = {n: r for r in analysis.compressors if (n := kernel_name(r)) is not None}
    e = analysis.estimate(setting.measured, setting.zpool)
    if way == "zram":
        size = zram_size(machine, e)
        commands, check = zram_commands(machine.kernel, setting.compressor, size, measured)
    else:
        size = None
        assert advice.max_pool_percent is not None
        commands, check = zswap_commands(
            machine.kernel, setting.compressor, advice.max_pool_percent, machine.ram // 2
        )
    return replace(setting, commands=commands, check=check), size


def zram_size(machine: Machine, e: Estimate) -> int:
    """Choose the size of zram.

    It is half of RAM, or all that could be swapped where that is more, and no more than what takes
    half of RAM when it is full.
    """
    in_use = sum(area.size for area in machine.areas if area.kind == "zram")
    if in_use:
        return in_use
    swappable = machine.anonymous + machine.shared + machine.swapped
    per_byte = max(0.01, (e.memory_bytes + e.unused_bytes) / e.target_bytes)
    size = min(max(machine.ram / 2, swappable), LARGEST_ZRAM * machine.ram / per_byte)
    grain = 256 * _GRAIN if size >= 4096 * _GRAIN else _GRAIN
    return max(_GRAIN, int(size) // grain * grain)


def _gain(e: Estimate, moved: int) -> Gain:
    """Scale an estimate to an amount; nothing else is in the pool."""
    scale = moved / e.target_bytes
    unused = min(1.0, scale) * e.unused_bytes, min(1.0, scale) * e.unused_high
    return Gain(
        moved,
        round(e.saved_bytes * scale - unused[0]),
        math.floor(e.saved_low * scale - unused[1]),
        math.ceil(e.saved_high * scale),
    )


def _with_figures(
    machine: Machine,
    rates: Rates,
    analysis: Analysis,
    advice: Advice,
    setting: Setting,
    size: int | None,
    short: Shortage,
    costs: Costs,
) -> Verdict:
    e = analysis.estimate(setting.measured, setting.zpool)
    r = analysis.compressor(setting.measured)
    behind = machine.disks[0] if setting.way == "zswap" and machine.disks else None
    if setting.way == "zram":
        assert size is not None
        capacity = size
        headline = f"zram of {format_bytes(size)} with {setting.compressor}"
        why = "there is no swap on a disk" if not machine.disks else "zswap cannot be set here"
        percent = None
    else:
        percent = advice.max_pool_percent
        assert percent is not None
        per_byte = max(0.01, (e.allocator_bytes + e.unused_bytes) / e.target_bytes)
        capacity = round(machine.ram * percent / 100 / per_byte)
        headline = f"zswap with {setting.compressor}, at most {percent} % of RAM"
        why = "this kernel has no zram that could be measured for"
        if behind is not None:
            capacity = min(capacity, sum(area.size for area in machine.disks))
            headline += f", in front of {behind.path}"
            why = (
                f"there is swap on a disk ({behind.kind})"
                if behind.kind != "file"
                else ("there is a swap file")
            )
    today = _gain(e, max(1, min(analysis.target_bytes, capacity)))
    store, load = (0.0 if math.isnan(ns) else ns / 1000 for ns in (r.store.mean, r.load.mean))
    store, load = costs.of(setting.compressor, store, load)
    fault = load + costs.fault_us
    worked = 1 - r.same_filled_pages / r.pages
    out, back = rates.swapped_out, rates.swapped_in
    read = USUAL_READ_US.get(machine.disks[0].kind) if machine.disks else None
    cost = Cost(
        store_us=r.store.median / 1000,
        load_us=r.load.median / 1000,
        load_p99_us=r.load.p99 / 1000,
        kernel_store_us=store,
        kernel_load_us=load,
        fault_us=fault,
        costs_measured=costs.measured,
        costs_from=costs.words,
        move_seconds=today.moved / analysis.page_size * worked * store / 1e6,
        swapped_out=out,
        swapped_in=back,
        cpu_share=worked * (out * store + back * fault) / 1e6,
        thousand_share=worked * 1000 * (store + fault) / 1e6,
        disk_us=read,
    )
    return Verdict(
        setting.way,
        headline,
        f"{why}; {short.why}",
        short,
        setting,
        size,
        percent,
        behind,
        today,
        _gain(e, capacity),
        cost,
    )


def _in_use(machine: Machine, analysis: Analysis, setting: Setting) -> tuple[str, str] | None:
    """Return what to say where what is on is as good as what would be set; None where it is not."""
    kernel = machine.kernel
    if setting.way == "zram":
        device = next(
            (
                d
                for d in kernel.zram_devices
                if any(area.path.endswith("/" + d.name) for area in machine.areas)
            ),
            None,
        )
        if device is None:
            return None
        now, held = device.compressor, f"zram is swap already, with {device.compressor}"
    elif machine.zswap_on and machine.disks:
        now = (kernel.zswap or {}).get("compressor", "")
        held = f"zswap is on already, with {now}"
    else:
        return None
    if now == setting.compressor:
        return "Keep it", f"{held}, and nothing of what this kernel has would do better"
    there = {kernel_name(r): r.name for r in analysis.compressors}
    if now not in there:
        return "Keep it", f"{held}, which no library has, so it was not measured"
    better = analysis.estimate(setting.measured, setting.zpool).saved
    saved = analysis.estimate(there[now], setting.zpool).saved
    if better - saved < WORTH_CHANGING:
        return "Keep it", (
            f"{held}; {setting.compressor} would save {100 * better:.0f} % instead of "
            f"{100 * saved:.0f} %"
        )
    return None
