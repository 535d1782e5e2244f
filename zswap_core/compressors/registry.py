"""Compressors by name.

A spec is a name, or a name and a level: "lz4", "zstd:3", "zstd:-5".  The spec of an opened
compressor with a dictionary goes on with the dictionary's id, as in "zstd:3+dict:1a2b3c4d", and can
be opened again as long as somebody holds that compressor.

"auto" is no compressor but a choice: lref where the processor has the vectors for it, else lz4.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from zswap_core.buffers import plain_view
from zswap_core.compressors.adapter import PythonCompressor
from zswap_core.compressors.base import Compressor, dictionary_id, spec_of
from zswap_core.errors import CompressorNotFound, Error
from zswap_core.libraries.find import (
    LIBDEFLATE,
    LIBLZ4,
    LIBLZO2,
    LIBZSTD,
    Source,
    explicit_path,
    out_of_memory,
)
from zswap_core.locks import Lock
from zswap_core.registry import Registry

__all__ = [
    "CompressorInfo",
    "compressors",
    "open_compressor",
    "register_compressor",
    "unregister_compressor",
]

Levels = tuple[int, int, int]  # lowest, default, highest


class _Builtin(NamedTuple):
    module: str  # opened by <module>.open_<name>(level, path); imported when first asked for
    source: Source | None  # None: no library
    levels: Levels | None
    dictionary: bool = False  # open_<name>(level, path, dictionary) takes one


class _Registered(NamedTuple):
    factory: Callable[..., Any]
    levels: Levels | None


_BUILTIN = {
    "lz4": _Builtin("lz4", LIBLZ4, (1, 1, 65537)),
    "lz4hc": _Builtin("lz4", LIBLZ4, (1, 9, 12)),
    "zstd": _Builtin("zstd", LIBZSTD, (-(1 << 17), 3, 22), dictionary=True),
    "lzo": _Builtin("lzo", LIBLZO2, None),
    "deflate": _Builtin("deflate", LIBDEFLATE, (1, 6, 12)),
    "lref": _Builtin("lref", None, (1, 1, 3)),
}
_known = Registry("compressor", CompressorNotFound, _BUILTIN)
AUTO = "auto"

_DICTIONARY_SIZES = 8, 1 << 24  # zstd ignores less; more than 16 MiB helps no page


class _Key(NamedTuple):
    spec: str  # without the dictionary
    path: str | None
    dictionary: str | None  # its id, whole


# Opened compressors, as long as somebody holds them: one object for each spec, library file and
# dictionary.
_opened: WeakValueDictionary[_Key, Compressor] = WeakValueDictionary()
_lock = Lock()

_LEVEL = re.compile(r"-?[0-9]{1,9}")


@dataclass(frozen=True)
class CompressorInfo:
    """What is known about a compressor.

    Attributes
    ----------
    name : str
    available : bool
        Whether it can be used now; `error` says why not.
    library, version, path, origin : str or None
        As in `Compressor`; None when it is not available.
    levels : tuple of int, or None
        Lowest, default and highest level; None when there are no levels.
    dictionary : bool
        Whether it takes a dictionary.
    error : str or None
    """

    name: str
    available: bool
    library: str | None = None
    version: str | None = None
    path: str | None = None
    origin: str | None = None
    levels: Levels | None = None
    dictionary: bool = False
    error: str | None = None


def open_compressor(
    spec: "str | Compressor", *, path: str | None = None, dictionary: Any = None
) -> Compressor:
    """Open a compressor: what `ZSwap` takes in place of a name, and for one with a dictionary must.

    Parameters
    ----------
    spec : str or Compressor
        "name" or "name:level", or "auto": `lref` where the processor has AVX2 or NEON at least,
        else `lz4`; a Compressor is returned as it is.
    path : str, optional
        The library's file, for a compressor that has a library; by default it is looked for.
    dictionary : bytes-like, optional
        What the pages have in common, for zstd: from `train_dictionary`, from ``zstd --train``, or
        any bytes at all, of which the last ones are the cheapest to refer to.  8 bytes to 16 MiB.

    Returns
    -------
    Compressor
        The same object for the same spec, path and dictionary, as long as somebody holds it.

    Raises
    ------
    CompressorNotFound
        There is no such name, or its library is missing.
    ValueError
        The level is not one that this compressor has, it takes no dictionary, or the dictionary is
        damaged.
    """
    if isinstance(spec, Compressor):
        if spec.spec is None:
            raise ValueError("this Compressor was never opened")
        if dictionary is not None:
            raise ValueError(
                f"the compressor {spec.spec} is open already: give the dictionary together with "
                "its name"
            )
        return spec
    if not isinstance(spec, str):
        raise TypeError(f"a compressor is a string or a Compressor, not {type(spec).__name__}")

    spec, plus, known = chosen(spec).partition("+")
    name, colon, text = spec.partition(":")
    entry = _known.find(name)
    level = _level(name, entry.levels, text if colon else None)
    if isinstance(entry, _Builtin) and entry.source is not None:
        path = explicit_path(entry.source, path)
    elif path is not None:
        raise ValueError(f"compressor {name!r} has no library to take from {path!r}")
    if plus:
        return _with_known_dictionary(spec_of(name, level), known)
    if dictionary is not None:
        dictionary = _dictionary(name, entry, dictionary)
    key = _Key(
        spec_of(name, level), path, None if dictionary is None else dictionary_id(dictionary)
    )

    with _lock:
        opened = _opened.get(key)
    if opened is not None:
        return opened
    # Not under the lock: a factory may do anything.
    if isinstance(entry, _Builtin):
        opened = _open_builtin(name, entry, level, path, dictionary)
    else:
        opened = _open_registered(name, entry, level)
    with _lock:
        if _known.get(name) is not entry:
            return opened  # replaced or taken away meanwhile
        return _opened.setdefault(key, opened)


def chosen(spec: str) -> str:
    """Return what "auto" stands for on this machine, and any other spec as it is."""
    name, colon, _ = spec.partition(":")
    if name != AUTO:
        return spec
    if colon:
        raise ValueError(f"{AUTO!r} stands for lref or lz4 and has no levels: name one of these")
    lref = import_module("zswap_core.compressors.lref")
    return "lref" if lref.default_variant() in lref.FASTER_THAN_LZ4 else "lz4"


def _with_known_dictionary(spec: str, known: str) -> Compressor:
    """Find the opened compressor that writes its spec so."""
    with _lock:
        for compressor in list(_opened.values()):
            if compressor.spec == f"{spec}+{known}":
                return compressor
    raise CompressorNotFound(
        f"no compressor {spec} with the dictionary {known!r} is in use; give the dictionary itself"
    )


def _dictionary(name: str, entry: "_Builtin | _Registered", dictionary: Any) -> bytes:
    if not isinstance(entry, _Builtin) or not entry.dictionary:
        takers = ", ".join(known for known, builtin in _BUILTIN.items() if builtin.dictionary)
        raise ValueError(f"compressor {name!r} takes no dictionary; {takers} does")
    data = bytes(plain_view(dictionary, "dictionary"))
    low, high = _DICTIONARY_SIZES
    if not low <= len(data) <= high:
        raise ValueError(f"the dictionary is {len(data)} bytes long; {low} to {high} are needed")
    return data


def _level(name: str, levels: Levels | None, text: str | None) -> int | None:
    if levels is None:
        if text is not None:
            raise ValueError(f"compressor {name!r} has no levels, so {text!r} is not one")
        return None
    low, default, high = levels
    if text is None:
        return default
    if not _LEVEL.fullmatch(text) or not low <= int(text) <= high:
        raise ValueError(
            f"{text!r} is not a level of compressor {name!r}: those are {low} to {high}, by "
            f"default {default}"
        )
    return int(text)


def _open_builtin(
    name: str, entry: _Builtin, level: int | None, path: str | None, dictionary: bytes | None
) -> Compressor:
    try:
        module = import_module(f"zswap_core.compressors.{entry.module}")
    except ImportError as error:
        if out_of_memory(str(error)):
            raise MemoryError(f"no memory to load the compressor {name!r}: {error}") from None
        raise
    try:
        given = () if dictionary is None else (dictionary,)
        compressor: Compressor = getattr(module, f"open_{name}")(level, path, *given)
    except CompressorNotFound as error:
        raise CompressorNotFound(f"compressor {name!r} is not available: {error}") from None
    # The functions were found by name alone.  One page there and back shows that they are what they
    # are taken for.
    page = bytes(range(64)) * 64
    packed = compressor.compress(page)
    if packed is None or compressor.decompress(packed, len(page)) != page:
        raise Error(
            f"compressor {name!r}: {compressor.path} does not give back the page that it was given"
        )
    return compressor


def _open_registered(name: str, entry: _Registered, level: int | None) -> Compressor:
    made = entry.factory() if level is None else entry.factory(level)
    if isinstance(made, Compressor):
        return made
    return Compressor.from_capsule(made, name, level=level)


def register_compressor(
    name: str,
    compress: Callable[..., Any] | None = None,
    decompress: Callable[..., Any] | None = None,
    *,
    factory: Callable[..., Any] | None = None,
    levels: Levels | None = None,
) -> None:
    """Add a compressor, from two Python callables or from a factory.

    Parameters
    ----------
    name : str
        Lower-case letters, digits, "_", "." and "-".  A name registered before is replaced for
        whoever opens it from now on.
    compress : callable, optional
        ``compress(data: bytes) -> bytes-like``.  A result longer than a page counts as
        incompressible.
    decompress : callable, optional
        ``decompress(data: bytes) -> bytes-like`` or ``decompress(data: bytes, size: int) ->
        bytes-like``.
    factory : callable, optional
        In place of the two: ``factory()``, or ``factory(level)`` if there are `levels`, returns a
        PyCapsule of a ``zsw_compressor`` (see ``zswap/abi.h``), which works without the GIL, or a
        `Compressor`.
    levels : tuple of int, optional
        Lowest, default and highest level that the factory takes.

    Raises
    ------
    ValueError
        The name is not allowed, or belongs to a compressor that comes with zswap.
    """
    if name == AUTO:
        raise ValueError(f"{name!r} is no name for a compressor: it stands for lref or lz4")
    _known.check(name)
    if factory is not None:
        if compress is not None or decompress is not None:
            raise TypeError("give either compress and decompress or factory, not both")
        if not callable(factory):
            raise TypeError("factory must be callable")
        if levels is not None and not levels[0] <= levels[1] <= levels[2]:
            raise ValueError("levels are the lowest, the default and the highest, in this order")
    else:
        if levels is not None:
            raise TypeError("only a factory takes levels")
        made = PythonCompressor(name, compress, decompress)

    with _lock:
        _forget(name)
        _known.add(name, _Registered(factory or (lambda: made), levels))


def unregister_compressor(name: str) -> None:
    """Take a registered compressor away.  What uses it already goes on using it.

    Parameters
    ----------
    name : str
        The name it was registered under.

    Raises
    ------
    CompressorNotFound
        Nothing was registered under that name.
    ValueError
        It comes with zswap.
    """
    with _lock:
        _known.remove(name)
        _forget(name)


def _forget(name: str) -> None:
    for key in [key for key in _opened if key.spec.partition(":")[0] == name]:
        del _opened[key]


def compressors() -> list[CompressorInfo]:
    """List every known compressor, whether its library is there, and which was taken."""
    entries = ((name, _known.get(name)) for name in _known.names())
    return [_info(name, entry) for name, entry in entries if entry]


def _info(name: str, entry: "_Builtin | _Registered") -> CompressorInfo:
    levels, dictionary = entry.levels, isinstance(entry, _Builtin) and entry.dictionary
    try:
        c = open_compressor(name)
    except Exception as error:  # a factory may raise anything, and a list must not fail for one row
        return CompressorInfo(
            name,
            False,
            levels=levels,
            dictionary=dictionary,
            error=str(error) or type(error).__name__,
        )
    return CompressorInfo(name, True, c.library, c.version, c.path, c.origin, levels, dictionary)
