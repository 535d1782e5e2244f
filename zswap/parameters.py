"""The parameters, named as in /sys/module/zswap/parameters, as a mapping."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zswap.meminfo import parse_budget, parse_bytes
from zswap.zpools import format_zpool, parse_zpool
from zswap_core.compressors.base import Compressor
from zswap_core.compressors.registry import open_compressor
from zswap_core.errors import CompressorNotFound
from zswap_core.locks import Lock
from zswap_core.rows import document

if TYPE_CHECKING:
    from zswap.core import ZSwap


PROMOTIONS = ("second", "always", "never")


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


def optional_budget(value: object) -> int | str | None:
    """Read an amount of memory, "auto", "auto:" and an amount, or None."""
    return None if value is None else parse_budget(value)


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


def promotion(value: object) -> str:
    """Read when pages come back into the pool."""
    if not isinstance(value, str) or value not in PROMOTIONS:
        raise ValueError(f"{value!r} is no such time; give {', '.join(map(repr, PROMOTIONS))}")
    return value


class Kind(NamedTuple):
    """What values a parameter takes."""

    name: str
    read: Callable[[object], Any]


SWITCH = Kind("switch", boolean)
PERCENT = Kind("percent", percent)
BYTES = Kind("bytes or None", optional_bytes)
BUDGET = Kind("bytes, auto or None", optional_budget)
SECONDS = Kind("seconds", seconds)
PAGES = Kind("pages or None", optional_count)
COMPRESSOR = Kind("compressor", compressor)
ZPOOL = Kind("zpool", zpool)
PROMOTION = Kind("second, always or never", promotion)


class Parameter(NamedTuple):
    """All there is to say of a parameter beside its name.

    `apply` says which method of `ZSwap` makes the engine follow: ``_apply_switch`` for "switch",
    and so on; a switch has its place among the flags of zswap_core/params.pxd.  `origin` is who
    else has a parameter of this name.
    """

    kind: Kind
    default: Any
    apply: str
    text: str
    origin: str = "zswap"


PARAMETERS: dict[str, Parameter] = {
    "enabled": Parameter(
        SWITCH, True, "switch", "Take pages in.  What is held stays when it is off.", "kernel"
    ),
    "compressor": Parameter(
        COMPRESSOR, "lz4", "pool", "What pages are compressed with from now on.", "kernel"
    ),
    "zpool": Parameter(ZPOOL, "zsmalloc", "pool", "The allocator of pages from now on.", "kernel"),
    "max_pool_percent": Parameter(
        PERCENT, 20, "limit", "Share of the memory that the allocators may take.", "kernel"
    ),
    "max_pool_bytes": Parameter(
        BYTES, None, "limit", "The same in bytes, and wins; None: the percentage counts."
    ),
    "max_memory_bytes": Parameter(
        BUDGET,
        None,
        "limit",
        "Most bytes for all that the engine takes, or `auto`: what the process has left; None: no "
        "such limit.",
    ),
    "accept_threshold_percent": Parameter(
        PERCENT,
        90,
        "limit",
        "Share of the limit to come down to before pages are taken in again.",
        "kernel",
    ),
    "same_filled_pages_enabled": Parameter(
        SWITCH,
        True,
        "switch",
        "Hold a page whose 8-byte words are all equal as that one word.",
        "kernel",
    ),
    "non_same_filled_pages_enabled": Parameter(
        SWITCH, True, "switch", "Take in other pages, too.", "kernel"
    ),
    "exclusive_loads": Parameter(
        SWITCH, False, "switch", "A load frees the page, in the backing store as well.", "kernel"
    ),
    "reject_compress_poor": Parameter(
        SWITCH, False, "switch", "Refuse pages that do not compress instead of keeping them raw."
    ),
    "direct_reclaim": Parameter(
        SWITCH, True, "switch", "A page at the limit waits for room that the coldest ones make."
    ),
    "read_ahead": Parameter(
        SWITCH,
        True,
        "switch",
        "Loads of single pages in order have those that follow read with them from a backing "
        "store.",
    ),
    "promote": Parameter(
        PROMOTION,
        "second",
        "promote",
        "When a page that is read from a backing store stays in the pool.",
    ),
    "latency": Parameter(SWITCH, False, "switch", "Time stores and loads, for `ZSwap.latency`."),
    "checksum": Parameter(
        SWITCH, False, "fixed", "Keep a checksum with every page.  Chosen when the engine is made."
    ),
    "trim_zeros": Parameter(
        SWITCH,
        False,
        "fixed",
        "Compress a page only up to the zeros that it ends in.  Chosen when the engine is made; an "
        "area of values (`swapon` with ``variable``) chooses it, too.",
    ),
    "shrinker_enabled": Parameter(
        SWITCH,
        True,
        "writeback",
        "Write back when memory is short, not only at the limit.",
        "kernel",
    ),
    "shrinker_interval": Parameter(
        SECONDS, 1.0, "writeback", "Time between two looks of the shrinker."
    ),
    "writeback_limit": Parameter(
        PAGES,
        None,
        "writeback",
        "How many may still be written back, counted down; None: no limit.",
        "zram",
    ),
    "writeback_rate": Parameter(
        PAGES, None, "writeback", "How many a second may be written back; None: no limit."
    ),
}

#: The first parameter of each way to apply them.
FIRST = {row.apply: name for name, row in reversed(PARAMETERS.items())}


def _nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the one that was probably meant."""
    import difflib  # only for a mistake

    return next(iter(difflib.get_close_matches(name, names, 1)), None)


def not_an_attribute(owner: str, name: str, form: str, attributes: tuple[str, ...]) -> str:
    """Say that `owner` no such attribute, and what was meant.

    That is one of `attributes`, or a parameter, written as in `form`.
    """
    near = name if name in PARAMETERS else _nearest(name, [*attributes, *PARAMETERS])
    meant = f"; did you mean {near if near in attributes else form.format(near)}?" if near else ""
    return f"{owner} no attribute {name!r} to set{meant}"


class Parameters(MutableMapping[str, Any]):
    """The parameters of one engine.

    Setting one takes effect at once; a bad value is a ValueError and changes nothing.
    """

    __slots__ = ("__weakref__", "_lock", "_ref", "_values")

    def __init__(self, engine: ZSwap, given: dict[str, Any]) -> None:
        # not a cycle: the last reference to an engine frees its memory
        self._ref = weakref.ref(engine)
        self._lock = Lock()  # one change at a time
        self._values = {
            key: row.kind.read(given.get(key, row.default)) for key, row in PARAMETERS.items()
        }

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
        if key not in PARAMETERS:
            near = _nearest(str(key), PARAMETERS)
            meant = f"; did you mean {near!r}?" if near else ""
            raise KeyError(f"{key!r} is no parameter{meant}; there are {', '.join(PARAMETERS)}")
        engine = self._engine
        if engine.closed:
            raise ValueError("the ZSwap is closed")
        try:
            # may run code of the user's: not under the lock
            read = PARAMETERS[key].kind.read(value)
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


document(
    Parameters,
    (
        (f"{name} : {row.kind.name}, by default {row.default!r}", row.text)
        for name, row in PARAMETERS.items()
    ),
)
