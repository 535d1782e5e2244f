"""What to do with what was measured: which compressor for which aim, and how to set the kernel.

Nothing is advised that `zswap.kernel` did not find, and of nothing that was not measured is it said
what it saves.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from zswap.estimate import CompressorResult, Estimate
from zswap.kernel import PARAMETERS, Kernel

__all__ = [
    "DEFLATE_KERNEL",
    "STANDS_FOR",
    "UNMEASURABLE",
    "Advice",
    "Choice",
    "Setting",
    "advise",
    "kernel_name",
    "zram_commands",
    "zswap_commands",
]

#: zlib as the kernel runs it: level 6, a window of 2 KiB.  Other libraries for the format are
#: denser and much faster.
DEFLATE_KERNEL = "deflate-kernel"

#: Which of the compressors measured does as the kernel's of that name does (its zstd is level 3,
#: its lz4hc level 9).
STANDS_FOR = {
    "lz4": ("lz4", "lz4:1"),
    "lz4hc": ("lz4hc", "lz4hc:9"),
    "zstd": ("zstd:3", "zstd"),
    "lzo": ("lzo",),
    "deflate": (DEFLATE_KERNEL,),
}
#: The kernel's compressors that no library has.
UNMEASURABLE = ("lzo-rle", "842")

#: Less saved than this share of the target is not worth the processor time.
WORTH_SAVING = 0.10
#: A balanced compressor saves at least this share of what the densest one saves.
NEARLY_DENSEST = 0.90
#: Two that save so nearly the same share of the target are as dense as each other.
AS_DENSE = 0.005
#: Another kernel is worth a word when it would save so much more of the target.
WORTH_A_KERNEL = 0.03
#: A page takes about so long from a fast disk: a kernel that is slower than that gains little
#: before it is the last resort.
SLOW_NS = 100_000
#: The kernel's default, and a bound above which the pool would crowd out what runs.
DEFAULT_POOL_PERCENT, LARGEST_POOL_PERCENT = 20, 50


@dataclass(frozen=True)
class Setting:
    """One way to have the running kernel compress.

    Attributes
    ----------
    way : {"zswap", "zram"}
    compressor : str
        The kernel's name for it.
    measured : str
        The compressor measured here that stands for it.
    zpool : str
        The allocator that it was judged by.
    commands : tuple of str
        What to type as root; empty where it is set so already.
    check : str
        What to type afterwards: it must show `compressor`.
    """

    way: str
    compressor: str
    measured: str
    zpool: str
    commands: tuple[str, ...]
    check: str


@dataclass(frozen=True)
class Choice:
    """A compressor for the short list.

    Attributes
    ----------
    name : str
        The kernel's name where the kernel knows it, else the name it was measured by.
    measured : str or None
        None: not measured.
    ways, default_of : tuple of str
        Where the running kernel has it, and where it takes it by itself: ``zswap``, ``zram``.
    """

    name: str
    measured: str | None
    ways: tuple[str, ...] = ()
    default_of: tuple[str, ...] = ()


@dataclass(frozen=True)
class Advice:
    """Which compressor for which aim, and what to tell a kernel.

    Attributes
    ----------
    worthwhile : bool
        Whether anything measured saves a tenth of the target.
    fastest, balanced, densest : str
        Least time for a store and a load; the same among those that save nearly as much as the
        densest; most saved.
    zpool : str
        The allocator that this was judged by.
    kernel : Kernel
        The one that it is for.
    choices : tuple of Choice
        The best three, the kernel's own default among them; the quickest first.
    zswap, zram : Setting or None
        None where the kernel has none, or nothing measured is worth setting there.
    first : {"zswap", "zram"} or None
        Which of the two to take.
    better : Setting or None
        What a kernel with more compressors would save clearly more with; no commands.
    zswap_pool_bytes : int or None
        Upper end of the interval of what zswap's pool would hold.
    pool_percent_needed : int or None
        That, in per cent of RAM, rounded up.
    max_pool_percent : int or None
        What to set.
    ram_bytes : int
    """

    worthwhile: bool
    fastest: str
    balanced: str
    densest: str
    zpool: str
    kernel: Kernel
    choices: tuple[Choice, ...]
    zswap: Setting | None
    zram: Setting | None
    first: str | None
    better: Setting | None
    zswap_pool_bytes: int | None
    pool_percent_needed: int | None
    max_pool_percent: int | None
    ram_bytes: int

    def setting(self, way: str | None) -> Setting | None:
        """Return `zswap` or `zram` by its name."""
        return {"zswap": self.zswap, "zram": self.zram}.get(way or "")


def kernel_name(result: CompressorResult) -> str | None:
    """Return the kernel's compressor that a result stands for; None where it stands for none.

    A library called through Python is another implementation, and its sizes and times say nothing
    of the kernel's.
    """
    for name, measured in STANDS_FOR.items():
        if result.name in measured and (not result.through_python or result.name == DEFLATE_KERNEL):
            return name
    return None


class _Judge:
    """Chooses among results by what they save in one allocator and by their time."""

    def __init__(self, estimates: Sequence[Estimate], zpool: str) -> None:
        self.zpool = zpool
        self.of = {e.compressor: e for e in estimates if e.zpool == zpool}

    def saved(self, result: CompressorResult) -> float:
        return self.of[result.name].saved

    @staticmethod
    def quickest(results: Iterable[CompressorResult]) -> CompressorResult:
        return min(results, key=lambda r: r.store.median + r.load.median)

    def fastest(self, results: Sequence[CompressorResult]) -> CompressorResult:
        return self.quickest([r for r in results if self.saved(r) >= WORTH_SAVING] or results)

    def densest(self, results: Sequence[CompressorResult]) -> CompressorResult:
        most = max(map(self.saved, results))
        return self.quickest(r for r in results if self.saved(r) >= most - AS_DENSE)

    def balanced(self, results: Sequence[CompressorResult]) -> CompressorResult:
        most = max(map(self.saved, results))
        return self.quickest(
            [r for r in results if self.saved(r) >= NEARLY_DENSEST * most] if most > 0 else results
        )

    def for_kernel(self, results: Sequence[CompressorResult]) -> CompressorResult:
        """Return the balanced one, a slow one only where there is no other."""
        bearable = [
            r for r in results if r.store.median <= SLOW_NS and self.saved(r) >= WORTH_SAVING
        ]
        return self.balanced(bearable or results)


def advise(
    results: Sequence[CompressorResult],
    estimates: Sequence[Estimate],
    kernel: Kernel | None = None,
    ram_bytes: int | None = None,
) -> Advice:
    """Choose compressors for three aims, and what to set in a kernel.

    Judged by the kernel's zsmalloc where it was estimated, else by the first allocator.

    Parameters
    ----------
    results : sequence of CompressorResult
    estimates : sequence of Estimate
    kernel : Kernel, optional
        The one that it is for; unless given, one that has nothing.
    ram_bytes : int, optional
        Of the machine that zswap is to run on; unless given, this one.

    Returns
    -------
    Advice
    """
    if kernel is None:
        kernel = Kernel()
    if ram_bytes is None:
        ram_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    zpools = list(dict.fromkeys(e.zpool for e in estimates))
    usual = next((name for name in zpools if name.startswith("zsmalloc-kernel")), zpools[0])
    zram_zpool = kernel.zsmalloc_model if kernel.zsmalloc_model in zpools else usual
    zswap_zpool = zram_zpool
    if not kernel.zsmalloc and (kernel.zswap or {}).get("zpool") in zpools:
        zswap_zpool = (kernel.zswap or {})["zpool"]
    judges = {"zswap": _Judge(estimates, zswap_zpool), "zram": _Judge(estimates, zram_zpool)}
    judge = judges["zram"]

    # What came through Python stands for no compressor but itself: it is chosen only where there is
    # nothing else.
    own = [r for r in results if not r.through_python] or list(results)
    stand_ins = {name: r for r in results if (name := kernel_name(r)) is not None}
    best = {
        way: judges[way].for_kernel(there)
        for way in judges
        if (there := [r for name, r in stand_ins.items() if name in kernel.of(way)])
    }
    worth = {way: r for way, r in best.items() if judges[way].saved(r) >= WORTH_SAVING}
    target_bytes = estimates[0].target_bytes

    need = percent = pool_percent = None
    if "zswap" in worth:
        e = judges["zswap"].of[worth["zswap"].name]
        need = e.target_bytes - e.saved_low - e.metadata_bytes + e.unused_high
        percent = max(1, math.ceil(100 * need / ram_bytes))
        pool_percent = min(max(percent, DEFAULT_POOL_PERCENT), LARGEST_POOL_PERCENT)
    settings: dict[str, Setting | None] = {"zswap": None, "zram": None}
    for way, r in worth.items():
        name = kernel_name(r)
        assert name is not None
        if way == "zram":
            commands, check = zram_commands(kernel, name, target_bytes, stand_ins)
        else:
            assert pool_percent is not None
            commands, check = zswap_commands(kernel, name, pool_percent, target_bytes)
        settings[way] = Setting(way, name, r.name, judges[way].zpool, commands, check)
    # zram needs no disk; where there is swap on one, zswap lets the coldest pages go there.
    ways = ("zswap", "zram") if kernel.disk_swaps else ("zram", "zswap")
    first = next((way for way in ways if settings[way] is not None), None)
    better = _better(kernel, stand_ins, judges, first or ways[0], worth)
    return Advice(
        worthwhile=any(judge.saved(r) >= WORTH_SAVING for r in results),
        fastest=judge.fastest(own).name,
        balanced=judge.balanced(own).name,
        densest=judge.densest(own).name,
        zpool=usual,
        kernel=kernel,
        choices=_choices(kernel, own, stand_ins, judge, first or ways[0], better),
        zswap=settings["zswap"],
        zram=settings["zram"],
        first=first,
        better=better,
        zswap_pool_bytes=need,
        pool_percent_needed=percent,
        max_pool_percent=pool_percent,
        ram_bytes=ram_bytes,
    )


def _better(
    kernel: Kernel,
    stand_ins: Mapping[str, CompressorResult],
    judges: Mapping[str, _Judge],
    way: str,
    worth: Mapping[str, CompressorResult],
) -> Setting | None:
    """Return what `way` would clearly save more with, if the kernel had it there."""
    judge = judges[way]
    lacking = [r for name, r in stand_ins.items() if name not in kernel.of(way)]
    if not lacking:
        return None
    found = judge.for_kernel(lacking)
    now = judge.saved(worth[way]) if way in worth else 0.0
    if judge.saved(found) < max(now + WORTH_A_KERNEL, WORTH_SAVING):
        return None
    name = kernel_name(found)
    assert name is not None
    return Setting(way, name, found.name, judge.zpool, (), "")


def _choices(
    kernel: Kernel,
    own: Sequence[CompressorResult],
    stand_ins: Mapping[str, CompressorResult],
    judge: _Judge,
    way: str,
    better: Setting | None,
) -> tuple[Choice, ...]:
    """Return the best three, with the kernel's default among them.

    They are of what this kernel has, where any of that was measured, else of all.
    """
    there = {
        name: r
        for name, r in stand_ins.items()
        if any(name in kernel.of(w) for w in ("zswap", "zram"))
    }
    pool = list(there.values()) or list(own)

    def names() -> Iterator[str]:
        if (default := kernel.default(way)) is not None:
            yield default
        for choose in (judge.balanced, judge.fastest, judge.densest):
            chosen = choose(pool)
            yield kernel_name(chosen) if there else chosen.name  # type: ignore[misc]
        for r in sorted(pool, key=judge.saved, reverse=True):
            yield (kernel_name(r) if there else r.name) or r.name
        if there and better is not None:
            yield better.compressor

    by_name = stand_ins if there else {**stand_ins, **{r.name: r for r in own}}
    chosen = list(dict.fromkeys(names()))[:3]

    def choice(name: str) -> Choice:
        r = by_name.get(name)
        return Choice(
            name,
            r.name if r is not None else None,
            tuple(w for w in ("zswap", "zram") if name in kernel.of(w)),
            tuple(w for w in ("zswap", "zram") if name == kernel.default(w)),
        )

    def time(name: str) -> float:
        r = by_name.get(name)
        return math.inf if r is None else r.store.median + r.load.median

    return tuple(choice(name) for name in sorted(chosen, key=time))


# ---- commands ------------------------------------------------------------------------------------


def zswap_commands(
    kernel: Kernel, name: str, percent: int, target_bytes: int
) -> tuple[tuple[str, ...], str]:
    """Return the commands that set zswap so, and one that shows that it is."""
    assert kernel.zswap is not None
    wanted = {"compressor": name, "max_pool_percent": str(percent), "enabled": "Y"}
    if "zpool" in kernel.zswap and kernel.zsmalloc:
        wanted = {"zpool": "zsmalloc", **wanted}
    changes = [
        f"echo {value} > {key}" for key, value in wanted.items() if kernel.zswap.get(key) != value
    ]
    commands = []
    if not kernel.disk_swaps:
        # mktemp makes a file that nobody else has open or can read.
        megabytes = 1 + -(-target_bytes >> 20)
        commands.append(f"f=$(mktemp /swap.XXXX) && dd if=/dev/zero of=$f bs=1M count={megabytes}")
        commands.append("mkswap $f && swapon $f")
    if changes:
        commands.append(f"cd /{PARAMETERS}")
        commands.append(" && ".join(changes))
    return tuple(commands), f"grep . /{PARAMETERS}/*"


def zram_commands(
    kernel: Kernel, name: str, target_bytes: int, stand_ins: Mapping[str, CompressorResult]
) -> tuple[tuple[str, ...], str]:
    """Return the commands that set up zram for swap, and one that shows its compressor.

    A device that is swap already is changed; else one is made.
    """
    commands = []
    if (kernel.zswap or {}).get("enabled") == "Y" and not kernel.disk_swaps:
        # else zswap would take the pages before zram
        commands.append(f"echo N > /{PARAMETERS}/enabled")
    swapped = {os.path.basename(swap.path) for swap in kernel.swaps if swap.zram}
    used = next((device for device in kernel.zram_devices if device.name in swapped), None)
    if used is not None:
        at, dev = f"/sys/block/{used.name}", f"/dev/{used.name}"
        if used.compressor != name and used.compressor in stand_ins:
            commands.append(
                f"swapoff {dev} && echo 1 > {at}/reset && echo {name} > {at}/comp_algorithm &&"
            )
            commands.append(
                f"echo {used.size} > {at}/disksize && mkswap {dev} && swapon -p 100 {dev}"
            )
        return tuple(commands), f"cat {at}/comp_algorithm {at}/mm_stat"
    if kernel.zram == "loadable":
        commands.append("modprobe zram")
    megabytes = -(-target_bytes >> 20)
    if kernel.zramctl:
        commands.append(
            f"dev=$(zramctl -f -a {name} -s {megabytes}M) && mkswap $dev && swapon -p 100 $dev"
        )
        return tuple(commands), "zramctl $dev"
    commands.append("n=$(cat /sys/class/zram-control/hot_add) && z=/sys/block/zram$n &&")
    commands.append(f"echo {name} > $z/comp_algorithm && echo {megabytes}M > $z/disksize &&")
    commands.append("mkswap /dev/zram$n && swapon -p 100 /dev/zram$n")
    return tuple(commands), "cat $z/comp_algorithm $z/mm_stat"
