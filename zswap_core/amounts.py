"""Amounts of memory as people write them."""

import operator
import re

_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _UNITS[_letter] = _UNITS[_letter + "ib"] = 1024**_power
    _UNITS[_letter + "b"] = 1000**_power


def parse_bytes(amount: "int | str") -> int:
    """Read an amount of memory: an int, or text such as ``"512MiB"``, ``"1.5 GB"`` or ``"64k"``.

    A bare letter is binary.

    Raises
    ------
    ValueError
        When the text is no amount, or the amount is negative.
    """
    if isinstance(amount, str):
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?)\s*([a-zA-Z]*)\s*", amount)
        if match is None or match[2].lower() not in _UNITS:
            raise ValueError(
                f"{amount!r} is no amount of memory; write it as 536870912 or '512MiB'"
            )
        unit = _UNITS[match[2].lower()]
        whole, _, part = match[1].partition(".")
        amount = int(whole + part) * unit // 10 ** len(part)
    if (
        isinstance(amount, bool)
        or not hasattr(amount, "__index__")
        or getattr(amount, "ndim", False)
    ):
        raise TypeError(f"an amount of memory is an int or a str, not {type(amount).__name__}")
    amount = operator.index(amount)  # type: ignore[arg-type]
    if amount < 0:
        raise ValueError(f"{amount} is no amount of memory: it is negative")
    if amount >= 1 << 63:
        raise ValueError(
            f"{amount} is no amount of memory: it is more than there can be; give at most 2**63 - 1"
        )
    return amount


def format_bytes(amount: float) -> str:
    """Write an amount of memory for a person: ``"1.5 GiB"``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(amount) < 1024:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
