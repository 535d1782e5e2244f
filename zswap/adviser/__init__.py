"""The adviser: should this machine compress its memory, how, what is gained, and what it costs.

`look` reads the machine and a sample of its processes, and puts the advice together; `machine`
reads, `verdict` decides, `plan` writes the commands, `report` prints.  Nothing is changed, stopped
or swapped.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

from zswap.advice import DEFLATE_KERNEL, STANDS_FOR, Advice, advise
from zswap.adviser.machine import Machine, Rates, read_machine, read_usage
from zswap.adviser.plan import Plan, plan
from zswap.adviser.verdict import Verdict, judge
from zswap.analyze import Analysis, analyze, default_compressors
from zswap.costs import Costs, for_machine
from zswap.kernel import Kernel
from zswap.pages import PageSource, Touched, watch_memory

__all__ = ["Advised", "compressors_for", "look", "look_together"]

#: Measured for what they would save, whether this kernel has them or not.
_ALWAYS = ("lz4", "zstd")


@dataclass(frozen=True)
class Advised:
    """The advice on a machine, and what it rests on.

    Attributes
    ----------
    machine : Machine
    rates : Rates
    analysis : Analysis or None
        None where there was nothing to measure.
    verdict : Verdict
    plan : Plan
    processes : int
        How many were measured.
    left_out : tuple of str
        What could not be, in sentences.
    whole : bool
        Whether it is of all processes that could be read, none having been named.
    root : bool
    touched : Touched or None
        Where it was watched what is touched.
    """

    machine: Machine
    rates: Rates
    analysis: Analysis | None
    verdict: Verdict
    plan: Plan
    processes: int
    left_out: tuple[str, ...]
    whole: bool
    root: bool
    touched: Touched | None = None


def compressors_for(kernel: Kernel) -> list[str]:
    """List what to measure for a kernel: what stands for its own, and for the usual best."""
    there = default_compressors(kernel)
    found = []
    for name, stand_ins in STANDS_FOR.items():
        if name in _ALWAYS or any(name in kernel.of(way) for way in ("zswap", "zram")):
            found += [one for one in stand_ins if one in there][:1]
    return sorted(found, key=lambda name: name == DEFLATE_KERNEL)


def look(
    open_source: Callable[[], PageSource | None],
    *,
    pages: int | None = 8192,
    seed: int = 0,
    whole: bool = True,
    watch: float | None = None,
    zram: bool = True,
    progress: Callable[[int, int, str], object] | None = None,
    root: str | os.PathLike[str] = "/",
) -> Advised:
    """Look at the machine and at a sample of its processes, and advise.

    Parameters
    ----------
    open_source : callable
        Opens what is to be measured; gives None where there is nothing.
    pages : int or None
        Pages to sample; None for all.
    seed : int
        Chooses them.
    whole : bool
        Whether these are all processes.
    watch : float, optional
        Seconds for which it is watched what is touched.
    zram : bool
        Whether, as root, a zram device of our own may be timed, and given back.
    progress : callable, optional
        Called with steps done, steps in all, and a word on what is being done.
    root : path
        Where the machine is looked for.

    Returns
    -------
    Advised

    Raises
    ------
    SourceError
        When what was named cannot be read.
    """
    before = read_usage(root)
    machine = read_machine(root)
    analysis, advice = None, None
    left_out: tuple[str, ...] = ()
    touched = costs = None
    source = open_source()
    if source is not None:
        with source:
            if watch is not None:
                source.touched = watch_memory(source, watch, progress=progress)
            analysis, advice = _measured(source, machine, pages, seed, progress)
            left_out, touched = tuple(source.notes), source.touched
            costs = for_machine(
                machine.cpu, source if zram else None, sorted(machine.kernel.of("zram")), seed
            )
    usage = read_usage(root)
    machine = replace(machine, usage=usage)
    return look_together(
        machine,
        Rates.between(before, usage),
        analysis,
        advice,
        left_out=left_out,
        whole=whole,
        touched=touched,
        costs=costs,
    )


def look_together(
    machine: Machine,
    rates: Rates,
    analysis: Analysis | None,
    advice: Advice | None,
    *,
    left_out: tuple[str, ...] = (),
    whole: bool = True,
    touched: Touched | None = None,
    costs: Costs | None = None,
) -> Advised:
    """Put the advice together from what was found."""
    verdict = judge(machine, rates, analysis, advice, costs)
    return Advised(
        machine=machine,
        rates=rates,
        analysis=analysis,
        verdict=verdict,
        plan=plan(machine, verdict),
        processes=0 if analysis is None else len(analysis.pids),
        left_out=left_out,
        whole=whole,
        root=os.geteuid() == 0,
        touched=touched,
    )


def _measured(
    source: PageSource,
    machine: Machine,
    pages: int | None,
    seed: int,
    progress: Callable[[int, int, str], object] | None,
) -> tuple[Analysis, Advice]:
    kernel = machine.kernel
    zpools = [kernel.zsmalloc_model]
    if not kernel.zsmalloc and kernel.zswap is not None:
        zpools.append(kernel.zswap["zpool"])
    analysis = analyze(
        source,
        compressors=compressors_for(kernel),
        zpools=zpools,
        pages=pages,
        seed=seed,
        progress=progress,
        kernel=kernel,
    )
    advice = advise(
        analysis.compressors, analysis.estimates, kernel, machine.ram or math.ceil(_physical())
    )
    return replace(analysis, advice=advice), advice


def _physical() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
