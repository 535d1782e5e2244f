"""Allocators by name, as in ``"zsmalloc"``.

``"zsmalloc:16"`` has the longest chain, ``"zsmalloc-kernel"`` the kernel's geometry.
"""

from __future__ import annotations

from zswap_core.zpools.registry import BUILTIN, zpool_names

_KERNEL_SUFFIX = "-kernel"
_KERNEL_CHAINS = (4, 16)


def parse_zpool(spec: str) -> tuple[str, int, bool]:
    """Split a zpool spec into allocator name, chain (0: default) and whether it is the kernel's.

    Raises
    ------
    ValueError
        For an unknown name, or a chain that the allocator cannot have.
    """
    name, colon, chain_text = spec.partition(":")
    kernel = name == "zsmalloc" + _KERNEL_SUFFIX
    base = "zsmalloc" if kernel else name
    if name not in zpools():
        raise ValueError(f"unknown zpool {name!r}; there are {', '.join(zpools())}")
    if not colon:
        return base, 0, kernel
    if base != "zsmalloc":
        raise ValueError(f"zpool {spec!r}: {name} takes no chain, only zsmalloc does; say {name}")
    low, high = _KERNEL_CHAINS if kernel else (1, 32)
    if not (chain_text.isascii() and chain_text.isdigit() and low <= int(chain_text) <= high):
        raise ValueError(
            f"zpool {spec!r}: the chain of {name} is a whole number from {low} to {high}, as in "
            f"{name}:{low}"
        )
    return base, int(chain_text), kernel


def format_zpool(name: str, chain: int, kernel: bool) -> str:
    """Write the spec that `parse_zpool` reads."""
    return name + (_KERNEL_SUFFIX if kernel else "") + (f":{chain}" if chain else "")


def zpools() -> list[str]:
    """List the names of the allocators; those that were registered come last."""
    names = zpool_names()
    return [*names[:BUILTIN], "zsmalloc" + _KERNEL_SUFFIX, *names[BUILTIN:]]
