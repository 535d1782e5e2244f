"""The commands: for now, to keep it over a restart, to check it, and to undo it all.

What is written lies in files of our own, so that nobody's settings are lost and undoing is to
remove them.
"""

from __future__ import annotations

from dataclasses import dataclass
from os.path import basename

from zswap.adviser.machine import Machine
from zswap.adviser.verdict import Verdict
from zswap.kernel import PARAMETERS

__all__ = ["Plan", "plan"]

SYSCTL_FILE = "/etc/sysctl.d/99-zswap-advise.conf"
TMPFILES = "/etc/tmpfiles.d/zswap-advise.conf"
GENERATOR_FILE = "/etc/systemd/zram-generator.conf.d/zswap-advise.conf"
UDEV_FILE = "/etc/udev/rules.d/99-zswap-advise.rules"
_ZSWAP = ("enabled", "zpool", "compressor", "max_pool_percent")


@dataclass(frozen=True)
class Plan:
    """Commands for a shell of root, each list in order.

    Attributes
    ----------
    now, keep, check, undo : tuple of str
        Those of `undo` are for the same shell, as they use the variables that `now` has set.
    notes : tuple of str
        What to know beside, a sentence each.
    """

    now: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    check: tuple[str, ...] = ()
    undo: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def wanted_sysctls(machine: Machine, verdict: Verdict) -> dict[str, int]:
    """Return the settings of the kernel's memory management that should change.

    Swapping to memory is so much cheaper than reading files again that more of it is better; pages
    are as quickly had one by one; and reclaim should begin early, as it needs memory itself.
    """
    assert verdict.setting is not None
    before_5_8 = (0, 0) < machine.kernel.version < (5, 8)
    if verdict.setting.way == "zram":
        wanted = {
            "vm.swappiness": 100 if before_5_8 else 180,
            "vm.page-cluster": 0,
            "vm.watermark_boost_factor": 0,
            "vm.watermark_scale_factor": 125,
        }
    elif verdict.behind is not None and verdict.behind.kind == "SSD":
        wanted = {"vm.swappiness": 100}
    else:
        wanted = {}
    return {
        name: value
        for name, value in wanted.items()
        if name in machine.sysctls and machine.sysctls[name] != value
    }


def plan(machine: Machine, verdict: Verdict) -> Plan:
    """Write the commands for a verdict; none where nothing is to be set."""
    if verdict.setting is None or (verdict.action == "keep"):
        check = (verdict.setting.check,) if verdict.setting is not None else ()
        return Plan(check=check)
    sysctls = wanted_sysctls(machine, verdict)
    of = _zram(machine, verdict) if verdict.setting.way == "zram" else _zswap(machine, verdict)
    if not sysctls:
        return of
    words = " ".join(f"{name}={value}" for name, value in sysctls.items())
    before = " ".join(f"{name}={machine.sysctls[name]}" for name in sysctls)
    lines = "\\n".join(f"{name}={value}" for name, value in sysctls.items())
    return Plan(
        now=(*of.now, f"sysctl -q {words}"),
        keep=(*of.keep, f"printf '{lines}\\n' > {SYSCTL_FILE}"),
        check=of.check,
        undo=(*of.undo, f"sysctl -q {before}", f"rm -f {SYSCTL_FILE}"),
        notes=of.notes,
    )


def _zram(machine: Machine, verdict: Verdict) -> Plan:
    setting, kernel = verdict.setting, machine.kernel
    assert setting is not None
    assert verdict.size is not None
    undo: list[str] = []
    in_use = next(
        (d for d in kernel.zram_devices if any(basename(a.path) == d.name for a in machine.areas)),
        None,
    )
    if in_use is not None:
        at, dev = f"/sys/block/{in_use.name}", f"/dev/{in_use.name}"
        undo.append(
            f"swapoff {dev} && echo 1 > {at}/reset && echo {in_use.compressor} > "
            f"{at}/comp_algorithm &&"
        )
        undo.append(f"echo {in_use.size} > {at}/disksize && mkswap {dev} && swapon -p 100 {dev}")
    elif kernel.zramctl and (free := next((d for d in kernel.zram_devices if not d.size), None)):
        # zramctl takes the one that is there; -r would remove it
        undo.append("swapoff $dev && z=/sys/block/${dev#/dev/} && echo 1 > $z/reset &&")
        undo.append(f"echo {free.compressor} > $z/comp_algorithm")
    elif kernel.zramctl:
        undo.append("swapoff $dev && zramctl -r $dev")
    else:
        undo.append("swapoff /dev/zram$n && echo 1 > $z/reset &&")
        undo.append("echo $n > /sys/class/zram-control/hot_remove")
    off = machine.zswap_on and not machine.disks
    if off:
        undo.append(f"echo Y > /{PARAMETERS}/enabled")
    keep: list[str] = []
    files: list[str] = []
    notes: list[str] = []
    megabytes = verdict.size >> 20
    if machine.systemd and (machine.generator or machine.package):
        if not machine.generator:
            keep.append(str(machine.package))
        lines = (
            f"[zram0]\\nzram-size = {megabytes}\\ncompression-algorithm = {setting.compressor}\\n"
            "swap-priority = 100\\n"
        )
        keep.append(f"mkdir -p {GENERATOR_FILE.rpartition('/')[0]}")
        keep.append(f"printf '{lines}' > {GENERATOR_FILE}")
        files.append(GENERATOR_FILE)
    elif not machine.udev:
        notes.append(
            "Neither systemd nor udev runs here: to keep it, run the first commands at each start."
        )
    else:
        rule = (
            'ACTION=="add", KERNEL=="zram0", ATTR{initstate}=="0", '
            f'ATTR{{comp_algorithm}}="{setting.compressor}", ATTR{{disksize}}="{megabytes}M", '
            'RUN+="/sbin/mkswap /dev/zram0", RUN+="/sbin/swapon -p 100 /dev/zram0"'
        )
        keep.append(f"echo '{rule}' > {UDEV_FILE}")
        files.append(UDEV_FILE)
        if kernel.zram == "loadable":
            keep.append("echo zram > /etc/modules-load.d/zswap-advise.conf")
            files.append("/etc/modules-load.d/zswap-advise.conf")
    if off and machine.systemd:
        keep.append(f"echo 'w /{PARAMETERS}/enabled - - - - N' > {TMPFILES}")
        files.append(TMPFILES)
    if files:
        undo.append(f"rm -f {' '.join(files)}")
    check = (setting.check, "swapon --show")
    return Plan(setting.commands, tuple(keep), check, tuple(undo), tuple(notes))


def _zswap(machine: Machine, verdict: Verdict) -> Plan:
    setting, kernel = verdict.setting, machine.kernel
    assert setting is not None
    found = kernel.zswap or {}
    wanted = {
        "compressor": setting.compressor,
        "max_pool_percent": str(verdict.max_pool_percent),
        "enabled": "Y",
    }
    if "zpool" in found and kernel.zsmalloc:
        wanted = {"zpool": "zsmalloc", **wanted}
    undo = [
        f"echo {found[key]} > /{PARAMETERS}/{key}"
        for key in _ZSWAP
        if key in wanted and key in found and found[key] != wanted[key]
    ]
    words = " ".join(
        f"zswap.{key}={'1' if key == 'enabled' else value}" for key, value in wanted.items()
    )
    keep, notes = [], []
    if machine.systemd:
        lines = "\\n".join(
            f"w /{PARAMETERS}/{key} - - - - {value}" for key, value in wanted.items()
        )
        keep.append(f"printf '{lines}\\n' > {TMPFILES}")
        undo.append(f"rm -f {TMPFILES}")
        notes.append(f"Or, to keep it, on the kernel's command line: {words}")
    else:
        notes.append(f"To keep it, add to the kernel's command line: {words}")
    if not machine.disks:
        keep.append('echo "$f none swap defaults 0 0" >> /etc/fstab')
        undo.append('swapoff $f && sed -i "\\|^$f |d" /etc/fstab && rm -f $f')
    check = (setting.check, "grep -i zswap /proc/meminfo")
    return Plan(setting.commands, tuple(keep), check, tuple(undo), tuple(notes))
