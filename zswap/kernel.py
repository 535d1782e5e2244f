"""What the running kernel has of zswap, zram and compressors, and what of it may be set from here.

Only read: nothing is loaded, created or changed.  Every path is taken below `root`, so that tests
can plant kernels.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from os.path import exists, isdir, join

from zswap.meminfo import read_text

__all__ = ["Kernel", "Swap", "ZramDevice", "read_kernel"]

#: The compressors that zswap and zram know by these names.
COMPRESSORS = ("lz4", "lz4hc", "zstd", "lzo", "lzo-rle", "deflate", "842")
#: Where zswap's parameters lie.
PARAMETERS = "sys/module/zswap/parameters"

_ZRAM_CONTROL = "sys/class/zram-control"
_Root = str | os.PathLike[str]


@dataclass(frozen=True)
class Swap:
    """A swap area in use: its file or device, bytes, and which is filled first, the highest."""

    path: str
    size: int
    used: int
    priority: int = field(default=0, compare=False)

    @property
    def zram(self) -> bool:
        """Whether it is a zram device."""
        return os.path.basename(self.path).startswith("zram")


@dataclass(frozen=True)
class ZramDevice:
    """A zram device: what it can compress with, what is chosen, and its size (0: not set up)."""

    name: str
    compressors: tuple[str, ...]
    compressor: str
    size: int


@dataclass(frozen=True)
class Kernel:
    """What `read_kernel` found.

    Attributes
    ----------
    release : str
    zswap : dict or None
        Its parameters as in /sys; None where this kernel has no zswap (or does not show it).
    crypto : frozenset of str
        Compressors that zswap can use: those of the crypto API that are registered or whose module
        can be loaded.
    modules_seen : bool
        Whether it is known what else could be loaded; not so where /lib/modules is another
        system's, as in a container.
    zsmalloc : bool
        Whether that allocator is there; only kernels before 6.18 have others to choose from.
    chain : int
        CONFIG_ZSMALLOC_CHAIN_SIZE, or what stands for it before 6.3.
    zram : {"present", "loadable", "absent"}
    zram_compressors : frozenset of str or None
        None where that shows only once a device is there.
    zram_default : str or None
        What a new device takes.
    zram_devices : tuple of ZramDevice
    zramctl : bool
        Whether util-linux's tool is installed.
    swaps : tuple of Swap
    access : {"yes", "not root", "read-only"}
        Whether this process may set all that.
    """

    release: str = ""
    zswap: dict[str, str] | None = None
    crypto: frozenset[str] = frozenset()
    modules_seen: bool = True
    zsmalloc: bool = True
    chain: int = 8
    zram: str = "absent"
    zram_compressors: frozenset[str] | None = frozenset()
    zram_default: str | None = None
    zram_devices: tuple[ZramDevice, ...] = ()
    zramctl: bool = True
    swaps: tuple[Swap, ...] = ()
    access: str = "yes"

    @property
    def version(self) -> tuple[int, int]:
        """Major and minor number; (0, 0) where the release does not begin with them."""
        return _version(self.release)

    @property
    def zsmalloc_model(self) -> str:
        """The zpool spec of this kernel's zsmalloc."""
        return "zsmalloc-kernel" if self.chain == 8 else f"zsmalloc-kernel:{self.chain}"

    @property
    def disk_swaps(self) -> tuple[Swap, ...]:
        """Swap areas that zswap can stand in front of: all but zram, which is memory itself."""
        return tuple(swap for swap in self.swaps if not swap.zram)

    def of(self, way: str) -> frozenset[str]:
        """Compressors that are known to work in ``zswap`` or in ``zram``."""
        if way == "zswap":
            return self.crypto if self.zswap is not None else frozenset()
        return (self.zram_compressors or frozenset()) if self.zram != "absent" else frozenset()

    def default(self, way: str) -> str | None:
        """Return the compressor that ``zswap`` or ``zram`` takes when nothing is set."""
        if way == "zswap":
            return None if self.zswap is None else self.zswap.get("compressor")
        return self.zram_default


def read_kernel(root: _Root = "/") -> Kernel:
    """Find out what the running kernel offers.

    Parameters
    ----------
    root : path
        Where /sys, /proc, /lib/modules and /boot are looked for.

    Returns
    -------
    Kernel
        Whatever cannot be read counts as absent.
    """
    release = read_text(root, "proc/sys/kernel/osrelease")
    config = _config(root, release)
    modules = _Modules(root, release)
    registered = {
        line.partition(":")[2].strip()
        for line in read_text(root, "proc/crypto").splitlines()
        if line.partition(":")[0].strip() == "name"
    }
    crypto = frozenset(
        name for name in COMPRESSORS if name in registered or modules.has(f"crypto/{name}.ko")
    )
    zswap = _parameters(root)
    devices = tuple(_zram_devices(root))
    if devices or isdir(join(root, _ZRAM_CONTROL)) or modules.builtin("zram/zram.ko"):
        zram = "present"
    else:
        zram = "loadable" if modules.has("zram/zram.ko") else "absent"
    zram_compressors, zram_default = _zram_compressors(devices, config, _version(release), crypto)
    if "CONFIG_ZSMALLOC_CHAIN_SIZE" in config:
        chain = int(config["CONFIG_ZSMALLOC_CHAIN_SIZE"])
    else:
        chain = 4 if (0, 0) < _version(release) < (6, 3) else 8
    return Kernel(
        release=release,
        zswap=zswap,
        crypto=crypto,
        modules_seen=modules.seen,
        zsmalloc=zswap is None
        or "zpool" not in zswap
        or zswap["zpool"] == "zsmalloc"
        or modules.has("mm/zsmalloc.ko")
        or isdir(join(root, "sys/module/zsmalloc"))
        or config.get("CONFIG_ZSMALLOC") == "y",
        chain=chain if 4 <= chain <= 16 else 8,
        zram=zram,
        zram_compressors=zram_compressors,
        zram_default=zram_default,
        zram_devices=devices,
        zramctl=any(
            shutil.which("zramctl", path=join(root, at))
            for at in ("usr/sbin", "sbin", "usr/bin", "bin")
        ),
        swaps=tuple(_swaps(root)),
        access=_access(root),
    )


def _version(release: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _config(root: _Root, release: str) -> dict[str, str]:
    """Read the kernel's configuration, where it can be; values without their quotes."""
    text = ""
    try:
        with gzip.open(
            join(root, "proc/config.gz"), "rt", encoding="utf-8", errors="replace"
        ) as file:
            text = file.read()
    except (OSError, EOFError):
        for path in (f"boot/config-{release}", f"lib/modules/{release}/config"):
            text = text or (read_text(root, path) if release else "")
    return {
        name: value.strip('"')
        for name, value in re.findall(r"^(CONFIG_\w+)=(.*)$", text, re.MULTILINE)
    }


class _Modules:
    """The modules of the running kernel: files that are there, and those built in."""

    def __init__(self, root: _Root, release: str) -> None:
        folder = join(root, "lib/modules", release)
        loads = (
            exists(join(root, "proc/modules"))
            and read_text(root, "proc/sys/kernel/modules_disabled") != "1"
        )
        there = bool(release) and isdir(folder)
        #: A kernel that loads no modules has nothing that is not seen.
        self.seen = there or not loads
        self._builtin = read_text(folder, "modules.builtin").splitlines() if there else []
        self._files = []
        if there and loads:
            listed = (
                line.partition(":")[0] for line in read_text(folder, "modules.dep").splitlines()
            )
            self._files = [path for path in listed if exists(join(folder, path))]

    def builtin(self, name: str) -> bool:
        """Whether a module, as ``crypto/zstd.ko``, is part of the kernel."""
        return any(_is_module(path, name) for path in self._builtin)

    def has(self, name: str) -> bool:
        """Whether it is part of the kernel or can be loaded."""
        return self.builtin(name) or any(_is_module(path, name) for path in self._files)


def _is_module(path: str, name: str) -> bool:
    path = re.sub(r"\.ko\.(?:xz|zst|gz)$", ".ko", path).replace("_", "-")
    return ("/" + path).endswith("/" + name)


def _parameters(root: _Root) -> dict[str, str] | None:
    folder = join(root, PARAMETERS)
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return None
    return {name: read_text(folder, name) for name in names}


def _zram_devices(root: _Root) -> Iterator[ZramDevice]:
    try:
        names = sorted(
            name for name in os.listdir(join(root, "sys/block")) if re.fullmatch(r"zram\d+", name)
        )
    except OSError:
        return
    for name in names:
        words = read_text(root, "sys/block", name, "comp_algorithm").split()
        size = read_text(root, "sys/block", name, "disksize")
        chosen = next((word.strip("[]") for word in words if word.startswith("[")), "")
        known = tuple(word.strip("[]") for word in words)
        yield ZramDevice(name, known, chosen, int(size) if size.isdigit() else 0)


def _zram_compressors(
    devices: tuple[ZramDevice, ...],
    config: dict[str, str],
    version: tuple[int, int],
    crypto: frozenset[str],
) -> tuple[frozenset[str] | None, str | None]:
    """Find what zram can compress with, and what a new device takes; None where unknown."""
    default = config.get("CONFIG_ZRAM_DEF_COMP")
    for device in devices:
        if device.compressors:
            fresh = next((d.compressor for d in devices if not d.size and d.compressor), None)
            return frozenset(device.compressors), default or fresh or device.compressor
    if (0, 0) < version < (6, 12):  # it used the crypto API
        return crypto, default
    backends = {
        name for name in COMPRESSORS if config.get(f"CONFIG_ZRAM_BACKEND_{name.upper()}") == "y"
    }
    if backends:
        return frozenset(backends | ({"lzo-rle"} if "lzo" in backends else set())), default
    return None, default


def _swaps(root: _Root) -> Iterator[Swap]:
    for line in read_text(root, "proc/swaps").splitlines()[1:]:
        fields = line.split()
        if len(fields) >= 4 and fields[2].isdigit() and fields[3].isdigit():
            number = fields[4] if len(fields) > 4 else ""
            priority = int(number) if re.fullmatch(r"-?\d+", number) else 0
            yield Swap(fields[0], int(fields[2]) * 1024, int(fields[3]) * 1024, priority)


def _access(root: _Root) -> str:
    """Say whether zswap's parameters may be written; without them, zram's control file."""
    places = (join(PARAMETERS, "enabled"), join(_ZRAM_CONTROL, "hot_add"))
    if any(_mounted_read_only(root, "/" + place) for place in places if exists(join(root, place))):
        return "read-only"
    for place, mode in zip(places, (os.W_OK, os.R_OK), strict=True):
        if exists(join(root, place)):
            return "yes" if os.access(join(root, place), mode) else "not root"
    return "yes" if os.geteuid() == 0 else "not root"


def _mounted_read_only(root: _Root, path: str) -> bool:
    """Whether the mount that holds `path` is read-only, as a container's /sys is."""
    best, read_only = "", False
    for line in read_text(root, "proc/self/mountinfo").splitlines():
        fields = line.split()
        if len(fields) < 6:
            continue
        at = fields[4]
        if (path == at or path.startswith(at.rstrip("/") + "/")) and len(at) >= len(best):
            best, read_only = at, "ro" in fields[5].split(",") or "ro" in fields[-1].split(",")
    return read_only
