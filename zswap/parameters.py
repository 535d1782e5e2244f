"""The parameters, named as in /sys/module/zswap/parameters, as a mapping."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, MutableMapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np

from zswap.memory import parse_bytes
from zswap.zpools import format_zpool, parse_zpool
from zswap_core.compressors.base import Compressor
from zswap_core.compressors.registry import open_compressor
from zswap_core.errors import CompressorNotFound
from zswap_core.locks import Lock

if TYPE_CHECKING:
    from zswap.core import ZSwap


def boolean(value: object) -> bool:
    """Read a switch: a bool, 0 or 1, or the kernel's Y and N."""
    if isinstance(value, str) and value.upper() in ("Y", "N", "1", "0"):
        return value.upper() in ("Y", "1")
    if isinstance(value, (bool, int, float, np.bool_, np.integer)) and value in (0, 1):
        return bool(value)
    raise ValueError(f"{value!r} is no switch; give True or False (or 'Y', 'N')")


def percent(value: object) -> int:
    """Read a whole number from 0 to 100."""
    number = int(value) if isinstance(value, str) and value.isdigit() else value
    if (
        isinstance(number, bool)
        or not isinstance(number, (int, np.integer))
        or not 0 <= number <= 100
    ):
        raise ValueError(f"{value!r} is no percentage; give a whole number from 0 to 100")
    return int(number)


def optional_bytes(value: object) -> int | None:
    """Read an amount of memory, or None."""
    return None if value is None else parse_bytes(value)  # type: ignore[arg-type]


def seconds(value: object) -> float:
    """Read a time in seconds, more than 0."""
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float, np.integer, np.floating))
        or not 0 < value <= 86400
    ):
        raise ValueError(f"{value!r} is no interval; give seconds, more than 0 and at most 86400")
    return float(value)


def optional_count(value: object) -> int | None:
    """Read a number of pages, or None for no limit."""
    if value is None:
        return None
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, np.integer))
        or not 0 <= value < 1 << 62
    ):
        raise ValueError(
            f"{value!r} is no number of pages; give a whole number, or None for no limit"
        )
    return int(value)


def compressor(value: object) -> Compressor:
    """Read a compressor: its spec, or itself."""
    if not isinstance(value, (str, Compressor)):
        raise ValueError(f"{value!r} is no compressor; give its name, or a zswap.Compressor")
    return open_compressor(value)


def zpool(value: object) -> str:
    """Read an allocator's spec; the result is the one way to write it."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no name; give a str")
    return format_zpool(*parse_zpool(value))


READERS: dict[str, Callable[[object], Any]] = {
    "enabled": boolean,
    "compressor": compressor,
    "zpool": zpool,
    "max_pool_percent": percent,
    "max_pool_bytes": optional_bytes,
    "accept_threshold_percent": percent,
    "same_filled_pages_enabled": boolean,
    "non_same_filled_pages_enabled": boolean,
    "exclusive_loads": boolean,
    "reject_compress_poor": boolean,
    "latency": boolean,
    "checksum": boolean,
    "shrinker_enabled": boolean,
    "shrinker_interval": seconds,
    "writeback_limit": optional_count,
    "writeback_rate": optional_count,
}


def not_an_attribute(owner: str, name: str, form: str, attributes: tuple[str, ...]) -> str:
    """Say that `owner` no such attribute, and what was meant: one of `attributes`, or a parameter,
    written as in `form`."""
    near = [name] if name in READERS else get_close_matches(name, [*attributes, *READERS], 1)
    meant = (
        f"; did you mean {near[0] if near[0] in attributes else form.format(near[0])}?"
        if near
        else ""
    )
    return f"{owner} no attribute {name!r} to set{meant}"


class Parameters(MutableMapping[str, Any]):
    """The parameters of one engine.  Setting one takes effect at once; a bad value is a ValueError
    and changes nothing.

    ``enabled``, ``compressor``, ``zpool``, ``max_pool_percent``, ``accept_threshold_percent``,
    ``same_filled_pages_enabled``, ``non_same_filled_pages_enabled``, ``exclusive_loads`` and
    ``shrinker_enabled`` are the kernel's; ``writeback_limit`` is zram's: how many pages may still
    be written back, counted down as they are, None for no limit.  A load with ``exclusive_loads``
    frees the page, also in the backing store.  Ours are ``max_pool_bytes`` (None: the percentage
    counts), ``reject_compress_poor`` (refuse pages that do not compress instead of keeping them
    raw), ``latency`` (time stores and loads, for `ZSwap.latency`), ``checksum`` (which does not
    change any more), ``shrinker_interval`` in seconds and ``writeback_rate`` in pages a second
    (None: no limit).
    """

    __slots__ = ("__weakref__", "_lock", "_ref", "_values")

    def __init__(self, engine: ZSwap, values: dict[str, Any]) -> None:
        self._ref = weakref.ref(
            engine
        )  # not a cycle: the last reference to an engine frees its memory
        self._lock = Lock()  # one change at a time
        self._values = {key: READERS[key](value) for key, value in values.items()}

    @property
    def _engine(self) -> ZSwap:
        engine = self._ref()
        if engine is None:
            raise ValueError("the ZSwap of these parameters is gone")
        return engine

    def __getitem__(self, key: str) -> Any:
        if key == "writeback_limit" and self._values[key] is not None:
            return max(self._engine._writeback_limit(), 0)
        return self._values[key].spec if key == "compressor" else self._values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in READERS:
            near = get_close_matches(str(key), READERS, 1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise KeyError(f"{key!r} is no parameter{meant}; there are {', '.join(READERS)}")
        engine = self._engine
        if engine.closed:
            raise ValueError("the ZSwap is closed")
        try:
            read = READERS[key](value)  # may run code of the user's: not under the lock
            with self._lock:
                engine._apply({**self._values, key: read}, key)
                self._values[key] = read
        except (CompressorNotFound, TypeError, OverflowError) as error:
            raise ValueError(f"parameter {key!r}: {error}") from error

    def __delitem__(self, key: str) -> None:
        raise TypeError("a parameter can be set, not deleted")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __setattr__(self, name: str, value: object) -> None:
        if name not in self.__slots__:
            raise AttributeError(
                not_an_attribute("the parameters have", name, "parameters[{!r}]", ())
            )
        super().__setattr__(name, value)

    def __reduce__(self) -> tuple[type, tuple[dict[str, Any]]]:
        return dict, (dict(self),)  # a copy, pickled or not, is no way to set anything

    def __repr__(self) -> str:
        return f"Parameters({ {**self._values, 'compressor': self._values['compressor'].spec} })"
