"""Objects of any kind and size, held compressed under keys."""

from __future__ import annotations

import os
import pickle
import weakref
from collections import OrderedDict
from collections.abc import (
    Callable,
    Hashable,
    ItemsView,
    Iterable,
    Iterator,
    MutableMapping,
    ValuesView,
)
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import wraps
from typing import Any, NamedTuple, TypeVar

import numpy as np

from zswap.core import FEWEST_PAGES, ZSwap
from zswap.meminfo import format_bytes, parse_budget, parse_bytes, total_ram
from zswap_core.backings import SwapFile, default_size
from zswap_core.binding.small import SmallValues
from zswap_core.compressors.base import Compressor
from zswap_core.errors import Error, PageCorruptError, PoolLimitError
from zswap_core.locks import Lock

Key = str | bytes | int | tuple[Any, ...]
_Call = TypeVar("_Call", bound=Callable[..., Any])

SMALL, LARGE = 4096, 65536
_CHUNK = 64  # slots that are allocated at a time
LEAST = 2 << 20  # that a store may be limited to

# A value is noted as an int where it can be, since that takes 32 bytes:
#     offset | length (13 bits when small, else 44) | kind (2 bits) | is it large?
# What else is to be known of it makes it a `_Record`.
_BYTES, _BYTEARRAY, _PICKLE = range(3)
_SMALL_BITS, _LARGE_BITS = 13, 44
_NONE = object()


class _Record(NamedTuple):
    """A value of which there is more to know, and its parts, each noted as an int."""

    kind: str
    about: Any
    parts: tuple[int, ...]


_Where = int | _Record


@dataclass(frozen=True)
class ObjectStats:
    """What an object store holds and takes.

    Attributes
    ----------
    values : int
        How many are held.
    value_bytes : int
        What they are uncompressed, as bytes.
    compressed_bytes : int
        What those of them take that are in memory, before the allocators' rounding.
    memory_bytes : int
        What the engines take in all: pools and metadata.  The keys and the map of them are Python's
        and are not in it.
    backed_bytes : int
        Room of the pages in the files, before anything is done to compress those.
    written_bytes : int
        What was written to the files so far.
    max_memory : int
        The limit in bytes.
    """

    values: int
    value_bytes: int
    compressed_bytes: int
    memory_bytes: int
    backed_bytes: int
    written_bytes: int
    max_memory: int

    @property
    def ratio(self) -> float:
        """Uncompressed bytes of all values over the memory they take; 0 without any memory."""
        return self.value_bytes / self.memory_bytes if self.memory_bytes else 0.0

    def to_dict(self) -> dict[str, float]:
        """Return all figures."""
        return {**asdict(self), "ratio": self.ratio}


class _Gone(dict[Any, Any]):
    """In place of the map of a store that cannot be used any more."""

    def __init__(self, why: str) -> None:
        self._why = why

    def _refuse(self, *args: object) -> Any:
        raise ValueError(self._why)

    __getitem__ = __setitem__ = __delitem__ = __contains__ = __iter__ = __len__ = _refuse
    __reversed__ = get = pop = values = _refuse


class _Items(ItemsView[Any, Any]):
    """Items of a store that others may change meanwhile; a value gone since is passed over."""

    _mapping: ObjectStore

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for key in self._mapping:
            value = self._mapping.get(key, _NONE)
            if value is not _NONE:
                yield key, value


class _Values(ValuesView[Any]):
    """The values alone, in the same way."""

    _mapping: ObjectStore

    def __iter__(self) -> Iterator[Any]:
        for _, value in self._mapping.items():
            yield value


class CacheInfo(NamedTuple):
    """What a function that `ObjectStore.cached` decorates has done so far.

    Attributes
    ----------
    hits, misses : int
        Calls answered from the store, and calls of the function itself.
    maxbytes : int or None
        The limit on what its results take, compressed.
    currbytes, currsize : int
        What they take, and how many there are.
    """

    hits: int
    misses: int
    maxbytes: int | None
    currbytes: int
    currsize: int


def check_key(key: object) -> None:
    """Refuse a key that is no str, bytes, int or tuple of those.

    Raises
    ------
    TypeError
        It names the key's type.
    """
    if isinstance(key, tuple):
        for part in key:
            check_key(part)
    elif not isinstance(key, (str, bytes, int)):
        raise TypeError(f"a key is a str, bytes, an int or a tuple of those, not {_name(key)}")


def _name(value: object) -> str:
    return type(value).__name__


def _length(part: int) -> int:
    return part >> 3 & ((1 << (_LARGE_BITS if part & 1 else _SMALL_BITS)) - 1)


def _size(where: _Where) -> int:
    """Bytes of all parts."""
    if type(where) is int:
        return where >> 3 & (0xFFFFFFFFFFF if where & 1 else 0x1FFF)
    return sum(_length(part) for part in _parts(where))


def _parts(where: _Where) -> tuple[int, ...]:
    return (where,) if isinstance(where, int) else where.parts


def _raw(array: np.ndarray[Any, Any]) -> memoryview:
    """Give the bytes of a contiguous array, whatever its dtype."""
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


_stores: weakref.WeakSet[ObjectStore] = weakref.WeakSet()


def _forked() -> None:
    for store in list(_stores):
        store._map = _Gone(
            "this ObjectStore belongs to the parent process; a forked child needs one of its own"
        )


os.register_at_fork(after_in_child=_forked)


class ObjectStore(SmallValues, MutableMapping[Any, Any]):
    """A mapping of keys to objects, whose values are held compressed.

    Every method may be called from any thread.  A value is in place at once or not at all: an
    insertion that fails leaves what was there before.  Keys may come and go during iteration, which
    sees those that were there when it began.  After a fork the child's copy is closed.

    Keys are str, bytes, int, or tuples of those.  Values that are bytes, bytearrays, memoryviews
    or numpy arrays without Python objects in them are held as they are, and come back as the same
    type, shape and dtype; arrays and bytearrays are new ones, which may be written to.  All others
    are pickled (protocol 5; large buffers in them are held beside the pickle, without a copy).

    Parameters
    ----------
    max_memory : int or str, optional
        Most bytes that the compressed values and what is kept about them may take, as an int or as
        ``"512MiB"``; at least 2 MiB.  By default a fifth of the memory.  What Python takes for keys
        and their dict comes on top.
    process_limit : int or str, optional
        Keep the whole process below so many bytes, or below the limit of its cgroup with
        ``"auto"``: what the store takes then gets less as others in the process take more; see
        `max_memory_bytes` of `ZSwap`.  `max_memory` counts as well.
    compressor : str or Compressor, default "auto"
        As for `ZSwap`: lref where the processor has the vectors for it, else lz4.
    zpool : str, default "zsmalloc"
        As for `ZSwap`.
    backing : path, optional
        Where the coldest values go when the limit is hit: two swap files, the one that is named and
        one with "-small" behind its name.  Without it an insertion that would exceed the limit is
        a `PoolLimitError`.
    encrypt : bool, default True
        Encrypt those files, and hold what they give back against a checksum in memory.  Only where
        nothing is unpickled may it be False: else whoever writes to the files could run code here.
    pickle : bool, default True
        False: values that would have to be pickled are refused.
    dumps, loads : callable, optional
        Take the place of pickle, both of them: ``dumps(value)`` gives bytes-like, of which
        ``loads(bytes)`` makes the value again.
    wipe_on_free, dontdump : bool, default False
        As for `ZSwap`.

    Raises
    ------
    CompressorNotFound
        For an unknown compressor.
    BackingError
        When a file cannot be used.
    ValueError, TypeError
        For any other argument that is wrong.

    Notes
    -----
    Values of up to 4096 bytes go into pages of 4 KiB and all others into pages of 64 KiB, of which
    the last is compressed as far as the value reaches.  The pages belong to two engines, which
    share the limit by what each holds.

    Examples
    --------
    >>> with ObjectStore("64MiB") as store:
    ...     store["numbers"] = list(range(1000))
    ...     store["numbers"][999]
    999
    """

    def __init__(
        self,
        max_memory: int | str | None = None,
        *,
        process_limit: int | str | None = None,
        compressor: str | Compressor = "auto",
        zpool: str = "zsmalloc",
        backing: str | os.PathLike[str] | None = None,
        encrypt: bool = True,
        pickle: bool = True,
        dumps: Callable[[Any], Any] | None = None,
        loads: Callable[[bytes], Any] | None = None,
        wipe_on_free: bool = False,
        dontdump: bool = False,
    ) -> None:
        if (dumps is None) != (loads is None):
            raise TypeError("dumps and loads are to be given together, or not at all")
        if backing is not None and not isinstance(backing, (str, os.PathLike)):
            raise TypeError(
                f"backing is a {_name(backing)}; a path is needed, as two swap files are made"
            )
        if backing is not None and not encrypt and (pickle or dumps is not None):
            raise ValueError(
                "encrypt=False lets whoever writes to the file choose what is unpickled: "
                "leave it out, or give pickle=False without dumps and loads"
            )
        self._pickles, self._dumps, self._loads = bool(pickle), dumps, loads
        # Of SmallValues are also `_lock`, and `_slots`: free pages of the small engine.
        self._map: dict[Any, _Where] = {}
        self._balancing = Lock()
        self._unfreed: list[int] = []  # extents of the large one, without pages
        self._value_bytes = 0
        # bytes since the limits were balanced
        self._inserted_small = self._inserted_large = 0
        self._max_memory = self._read_limit(max_memory)
        self._process_limit = self._read_process(process_limit)
        self._engines: tuple[ZSwap, ...] = ()
        self._files: tuple[SwapFile, ...] = ()
        path = None if backing is None else os.path.abspath(os.fsdecode(backing))
        try:
            for size, suffix in ((SMALL, "-small"), (LARGE, "")):
                file = None
                if path is not None:
                    name = path + suffix
                    # values as they are compressed: they are written and read whole
                    file = SwapFile(
                        name, default_size(name), page_size=size, encrypt=bool(encrypt), packed=True
                    )
                    self._files = (*self._files, file)
                engine = ZSwap(
                    compressor,
                    zpool,
                    size,
                    max_pool_bytes=self._max_memory,
                    max_memory_bytes=self._process_limit,
                    accept_threshold_percent=90 if backing is not None else 100,
                    backing=file,
                    encrypt=None if path is None else bool(encrypt),
                    checksum=backing is not None,
                    wipe_on_free=wipe_on_free,
                    dontdump=dontdump,
                    trim_zeros=True,
                )
                self._engines = (*self._engines, engine)
        except BaseException:
            self._end()
            raise
        self._small, self._large = self._engines
        self._backed = backing is not None
        self._step = self._max_memory // 64
        _stores.add(self)

    _check_key = staticmethod(check_key)

    @staticmethod
    def _read_limit(amount: int | str | None) -> int:
        limit = total_ram() // 5 if amount is None else parse_bytes(amount)
        if limit < LEAST:
            raise ValueError(f"max_memory is {limit} bytes; at least {LEAST} are needed")
        return limit

    @staticmethod
    def _read_process(limit: int | str | None) -> str | None:
        if limit is None or limit == "auto":
            return limit
        return str(parse_budget(f"auto:{parse_bytes(limit)}"))

    # ---- pages -----------------------------------------------------------------------------------

    def _more_slots(self) -> int:
        first = self._small.allocate(_CHUNK)
        self._slots.extend(range(first + _CHUNK - 1, first, -1))
        return first

    def _put(self, data: Any, length: int, kind: int) -> int:
        """Hold bytes; returns what notes them.  Nothing is held where it fails."""
        large = length > SMALL
        if large:
            self._inserted_large += length
        else:
            self._inserted_small += length
        if max(self._inserted_small, self._inserted_large) > self._step:
            self._balance()
        balanced = False
        while True:
            try:
                if large:
                    return self._put_large(data, length, kind)
                try:
                    offset = self._slots.pop()
                except IndexError:
                    offset = self._more_slots()
                try:
                    self._small._store_span(offset, data)
                except BaseException:
                    self._slots.append(offset)
                    raise
                return offset << 16 | length << 3 | kind << 1
            except PoolLimitError:
                if balanced or not self._balance(large):
                    raise PoolLimitError(
                        f"a value of {length} bytes is refused: the store is at "
                        f"{self._name_limit(large)}, or give a backing"
                    ) from None
                balanced = True
            except ValueError:
                self._map.get(None)  # closed: says so
                raise

    def _name_limit(self, large: bool) -> str:
        """Name the limit that an engine is at, and what to do."""
        engine = self._engines[large]
        if engine.stats().max_pool_bytes // engine.page_size < (
            engine.parameters["max_pool_bytes"] // engine.page_size
        ):
            return "what its process_limit leaves it now; delete values, raise process_limit"
        return f"its limit of {self._max_memory} bytes; delete values, raise max_memory"

    def _put_large(self, data: Any, length: int, kind: int) -> int:
        for _ in range(len(self._unfreed)):  # once each: there may still be no memory for it
            with suppress(IndexError):
                self._free_large(self._unfreed.pop(), 0)
        pages = -(-length // LARGE)
        offset = self._large.allocate(pages)
        try:
            self._large._store_span(offset, data)
        except BaseException:
            with suppress(ValueError):
                self._free_large(offset, pages)
            raise
        return offset << (_LARGE_BITS + 3) | length << 3 | kind << 1 | 1

    def _fetch(self, part: int, out: Any = None) -> Any:
        """Read the bytes of a part: a bytes object, or `out` filled with them."""
        if part & 1:
            if out is None:
                out = part >> 3 & ((1 << _LARGE_BITS) - 1)
            return self._large._load_span(part >> (_LARGE_BITS + 3), out)
        if out is None:
            out = part >> 3 & 0x1FFF
        return self._small._load_span(part >> 16, out)

    def _release(self, where: _Where) -> None:
        """Free what a value took."""
        if type(where) is int and not where & 1:
            try:
                self._small.invalidate(where >> 16)
            except ValueError:  # closed meanwhile
                return
            self._slots.append(where >> 16)
            return
        with suppress(ValueError):  # closed meanwhile
            for part in _parts(where):
                if part & 1:
                    self._free_large(part >> (_LARGE_BITS + 3), -(-_length(part) // LARGE))
                else:
                    self._small.invalidate(part >> 16)
                    self._slots.append(part >> 16)

    def _free_large(self, offset: int, pages: int) -> None:
        try:
            self._large.free(offset)
        except MemoryError:  # to note that: the offsets are free later, the pages now
            self._large.invalidate_range(offset, offset + pages)
            self._unfreed.append(offset)

    # ---- the limit -------------------------------------------------------------------------------

    @property
    def max_memory(self) -> int:
        """The limit in bytes.  Setting it, also as ``"1GiB"``, takes effect at once."""
        return self._max_memory

    @max_memory.setter
    def max_memory(self, amount: int | str | None) -> None:
        self._map.get(None)  # closed?
        self._max_memory = self._read_limit(amount)
        self._step = self._max_memory // 64
        self._balance()

    @property
    def process_limit(self) -> str | None:
        """The limit of the process, as ``"auto"`` or ``"auto:469762048"``; None: it has none.

        Setting it, also as ``"448MiB"``, takes effect at once.
        """
        return self._process_limit

    @process_limit.setter
    def process_limit(self, limit: int | str | None) -> None:
        self._map.get(None)  # closed?
        self._process_limit = self._read_process(limit)
        for engine in self._engines:
            engine.parameters["max_memory_bytes"] = self._process_limit

    def _balance(self, large: bool | None = None) -> bool:
        """Share the limit among the engines anew.

        Each may take what the other does not; where both are full, the one that takes less in gives
        some to the other, and writes back what it held there.  With `large`, whether the limit of
        that engine has been raised.
        """
        with self._balancing:
            stats = [engine.stats() for engine in self._engines]
            room = self._max_memory - sum(s.metadata_bytes for s in stats)
            room = max(room, self._max_memory // 2) - 2 * self._step  # taken in until the next time
            used = [s.pool_total_size for s in stats]
            before = [engine.parameters["max_pool_bytes"] for engine in self._engines]
            inserted = self._inserted_small, self._inserted_large
            self._inserted_small = self._inserted_large = 0
            give = [0, 0]
            if self._backed and sum(used) > room * 7 // 8 and any(inserted):
                loser = int(inserted[1] < inserted[0])
                give[loser] = min(used[loser] // 8, self._step)
            limits = [room - used[1] + give[1], room - used[0] + give[0]]
            for i, engine in enumerate(self._engines):
                least = FEWEST_PAGES * engine.page_size
                limits[i] = max(limits[i] - give[i], least)
                if limits[i] // engine.page_size != before[i] // engine.page_size:
                    engine.parameters["max_pool_bytes"] = limits[i]
            if large is None:
                return True
            return bool(limits[large] > before[large])

    # ---- values ----------------------------------------------------------------------------------

    def _pack(self, value: Any) -> _Where:
        """Hold a value; returns what notes it.  Nothing is held where it fails."""
        kind = type(value)
        if kind is bytes:
            return self._put(value, len(value), _BYTES)
        if kind is bytearray:
            with memoryview(value) as view:  # no longer or shorter meanwhile
                return self._put(view, view.nbytes, _BYTEARRAY)
        if kind is np.ndarray and value.dtype.itemsize and not value.dtype.hasobject:
            return self._pack_array(value)
        if kind is memoryview:
            data = value if value.c_contiguous else value.tobytes()
            part = self._put(data, value.nbytes, _BYTES)
            # that of an exotic format comes back as bytes in a row
            plain = len(value.format.lstrip("@")) == 1
            return _Record("memoryview", (value.format, value.shape) if plain else None, (part,))
        if self._dumps is not None:
            data = memoryview(self._dumps(value)).cast("B")
            return self._put(data, data.nbytes, _PICKLE)
        if not self._pickles:
            raise TypeError(
                f"a {_name(value)} would have to be pickled, and this store has pickle=False; "
                "give bytes or an array, or dumps= and loads="
            )
        return self._pack_pickle(value)

    def _pack_array(self, value: np.ndarray[Any, Any]) -> _Record:
        order = "C"
        if not value.flags.c_contiguous:
            if value.flags.f_contiguous:
                order, value = "F", value.T
            else:
                value = np.ascontiguousarray(value)
        data = _raw(value)
        part = self._put(data, data.nbytes, _BYTES)
        return _Record("array", (value.dtype, value.shape, order), (part,))

    def _dump(self, value: Any, outside: Callable[[pickle.PickleBuffer], bool]) -> bytes:
        """Pickle a value; a subclass may know how to pickle more."""
        return pickle.dumps(value, protocol=5, buffer_callback=outside)

    def _pack_pickle(self, value: Any) -> _Where:
        buffers: list[memoryview] = []

        def outside(buffer: pickle.PickleBuffer, always: bool = False) -> bool:
            """Whether the buffer is to be within the pickle; `always`: it cannot be."""
            try:
                view = buffer.raw()
            except BufferError:
                if always:
                    raise
                return True
            if view.nbytes <= SMALL and not always:
                return True
            buffers.append(view)
            return False

        data = self._dump(value, outside)
        if not buffers:
            return self._put(data, len(data), _PICKLE)
        parts: list[int] = []
        try:
            parts.append(self._put(data, len(data), _PICKLE))
            for view in buffers:
                parts.append(self._put(view, view.nbytes, _BYTES))
        except BaseException:
            self._release(_Record("pickle", None, tuple(parts)))
            raise
        return _Record("pickle", [view.readonly for view in buffers], tuple(parts))

    def _collect(self, where: _Where) -> list[Any]:
        """Read the bytes of a value's parts, into whatever the value is made of."""
        if type(where) is int:
            return [self._fetch(where)]
        kind, about, parts = where  # type: ignore[misc]
        if kind == "array":
            array = np.empty(about[1], about[0])
            self._fetch(parts[0], _raw(array))
            return [array]
        found = [self._fetch(parts[0])]
        if kind == "pickle":
            for part, readonly in zip(parts[1:], about, strict=True):
                out = None if readonly else bytearray(_length(part))
                found.append(self._fetch(part, out))
        return found

    def _make(self, where: _Where, found: list[Any]) -> Any:
        """Make the value whose parts were found."""
        if type(where) is int:
            kind = where >> 1 & 3
            if kind == _BYTES:
                return found[0]
            if kind == _BYTEARRAY:
                return bytearray(found[0])
            return pickle.loads(found[0]) if self._loads is None else self._loads(found[0])
        if where.kind == "array":  # type: ignore[union-attr]
            return found[0] if where.about[2] == "C" else found[0].T  # type: ignore[union-attr]
        if where.kind == "memoryview":  # type: ignore[union-attr]
            view, about = memoryview(found[0]), where.about  # type: ignore[union-attr]
            return view if about is None else view.cast(*about[: 2 if view.nbytes else 1])
        return pickle.loads(found[0], buffers=found[1:])

    def _read(self, key: Any) -> tuple[_Where, Any]:
        """Find what notes a value, and make the value.

        It is read without a lock.  What another thread replaces meanwhile may be another's by then:
        nothing is made of it, and it is read again.
        """
        while True:
            where = self._map[key]
            try:
                found = self._collect(where)
            except (KeyError, ValueError, PageCorruptError) as error:
                if self._map.get(key) is not where:  # or closed, and it says so
                    continue
                if isinstance(error, KeyError):
                    raise Error("a page of the value is gone from the store's engine") from error
                raise
            if self._map.get(key) is where:
                return where, self._make(where, found)

    def _publish(self, key: Any, where: _Where, absent: bool = False) -> bool:
        """Give a value its key, and free the one it had; with `absent` only where it had none."""
        length = _size(where)
        try:
            with self._lock:
                old = self._map.get(key)
                if old is not None:
                    if absent:
                        return False
                    length -= _size(old)
                self._map[key] = where
                self._value_bytes += length
        except BaseException:
            self._release(where)
            raise
        if old is not None:
            self._release(old)
        return True

    # ---- the mapping -----------------------------------------------------------------------------

    def _free(self, key: Any) -> None:
        with self._lock:
            where = self._map.pop(key)
            self._value_bytes -= _size(where)
        self._release(where)

    def __contains__(self, key: object) -> bool:
        return key in self._map

    def __len__(self) -> int:
        return len(self._map)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._map))

    def __reversed__(self) -> Iterator[Any]:
        return iter(list(self._map)[::-1])

    def items(self) -> ItemsView[Any, Any]:
        """Keys with their values; a value that is gone when its turn comes is passed over."""
        return _Items(self)

    def values(self) -> ValuesView[Any]:
        """Values alone, in the same way."""
        return _Values(self)

    def pop(self, key: Any, default: Any = _NONE) -> Any:
        """Give a value and free it.

        Of several calls one gets it.  A value that cannot be read, or made, stays.

        Parameters
        ----------
        key : str, bytes, int or tuple
            Whose value.
        default : object, optional
            What to give where there is none, instead of raising KeyError.
        """
        try:
            return self._take(key)
        except KeyError:
            if key in self._map or default is _NONE:
                raise
            return default

    def _take(self, key: Any) -> Any:
        while True:
            where, value = self._read(key)
            with self._lock:
                if self._map.get(key) is not where:
                    continue
                del self._map[key]
                self._value_bytes -= _size(where)
            self._release(where)
            return value

    def popitem(self) -> tuple[Any, Any]:
        """Give the key that was inserted last, with its value, and free it; or raise KeyError."""
        while True:
            with self._lock:
                key = next(reversed(self._map), _NONE)
            if key is _NONE:
                raise KeyError("popitem(): the store is empty")
            try:
                return key, self._take(key)
            except KeyError:
                if key in self._map:
                    raise

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """Give a value; where there is none, hold another and give that.

        Parameters
        ----------
        key : str, bytes, int or tuple
            Whose value.
        default : object, optional
            What to hold.
        """
        self._check_key(key)
        while True:
            try:
                return self._read(key)[1]
            except KeyError:
                if key in self._map:
                    raise
            where = self._pack(default)
            if self._publish(key, where, absent=True):
                return default
            self._release(where)

    def clear(self) -> None:
        """Free all values."""
        with self._lock:
            if not isinstance(self._map, _Gone):
                gone, self._map = self._map, {}
                self._value_bytes = 0
            else:
                gone = self._map
        for where in gone.values():
            self._release(where)

    # By identity: what it holds changes.
    __hash__ = object.__hash__

    # ---- figures ---------------------------------------------------------------------------------

    def weight(self, key: Any) -> int:
        """Bytes that a value takes in memory, compressed; what of it is in a file counts 0.

        Parameters
        ----------
        key : str, bytes, int or tuple
            Whose value.

        Raises
        ------
        KeyError
            When there is no such key.
        """
        total = 0
        for part in _parts(self._map[key]):
            engine, shift = (self._large, _LARGE_BITS + 3) if part & 1 else (self._small, 16)
            pages = -(-_length(part) // engine.page_size)
            sizes = engine.compressed_sizes(range(part >> shift, (part >> shift) + pages))
            total += int(sizes[sizes > 0].sum())
        return total

    def stats(self) -> ObjectStats:
        """Take a snapshot of what is held, and of what it takes."""
        count = len(self._map)
        stats = [engine.stats() for engine in self._engines]
        return ObjectStats(
            values=count,
            value_bytes=self._value_bytes,
            compressed_bytes=sum(s.compressed_bytes for s in stats),
            memory_bytes=sum(s.pool_total_size + s.metadata_bytes for s in stats),
            backed_bytes=sum(s.backed_pages * s.page_size for s in stats),
            written_bytes=sum(file.stats()["file_written_bytes"] for file in self._files),
            max_memory=self._max_memory,
        )

    def evict(self, size: int | str) -> int:
        """Write the coldest values to the files until so much memory is free.

        Parameters
        ----------
        size : int or str
            Bytes of memory to be freed, as an int or as ``"16MiB"``.

        Returns
        -------
        int
            Bytes freed: fewer than asked for when there is no more to write, and 0 without a
            backing.
        """
        wanted = parse_bytes(size)
        self._map.get(None)  # closed?
        freed = 0
        engines = list(self._engines) if self._backed else []
        while engines and freed < wanted:
            engine = max(engines, key=lambda engine: engine.stats().pool_total_size)
            stats = engine.stats()
            held = stats.stored_pages - stats.same_filled_pages
            mean = max(stats.pool_total_size // max(held, 1), 1)
            if not engine.shrink(max(min((wanted - freed) // mean, 1024), 16)):
                engines.remove(engine)
                continue
            engine.compact()
            freed += max(stats.pool_total_size - engine.stats().pool_total_size, 0)
        return freed

    def __repr__(self) -> str:
        if isinstance(self._map, _Gone):
            return "<ObjectStore closed>"
        stats = self.stats()
        return (
            f"<ObjectStore: {stats.values} values, {format_bytes(stats.value_bytes)} in "
            f"{format_bytes(stats.memory_bytes)}, limit {format_bytes(stats.max_memory)}>"
        )

    # ---- caching ---------------------------------------------------------------------------------

    def cached(self, maxbytes: int | str | None = None) -> Callable[[_Call], _Call]:
        """Make a decorator that keeps a function's results in the store.

        As `functools.lru_cache`, but bounded by bytes: the results used least recently go first.
        Arguments must be hashable; results are made anew from the store for each call.

        Parameters
        ----------
        maxbytes : int or str, optional
            Most bytes that the results may take in memory, compressed.  By default the store's
            limit alone counts.

        Returns
        -------
        callable
            The decorator.  The function that it gives has ``cache_info()``, ``cache_clear()`` and
            ``__wrapped__``.
        """
        limit = None if maxbytes is None else parse_bytes(maxbytes)

        def decorate(function: _Call) -> _Call:
            cache = _Cache(self, function, limit)

            @wraps(function)
            def call(*args: Any, **kwargs: Any) -> Any:
                return cache.call(args, kwargs)

            call.cache_info = cache.info  # type: ignore[attr-defined]
            call.cache_clear = cache.clear  # type: ignore[attr-defined]
            return call  # type: ignore[return-value]

        return decorate

    # ---- the end ---------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether close() was called, or this process was forked off the one that made it."""
        return isinstance(self._map, _Gone)

    def close(self) -> None:
        """Free everything.  Closing twice is fine; anything else after it is a ValueError."""
        with self._lock:
            if not self.closed:
                self._map = _Gone("the ObjectStore is closed")
        self._end()

    def _end(self) -> None:
        for engine in self._engines:
            engine.close()
        for file in self._files:
            file.close()

    def __enter__(self) -> ObjectStore:
        self._map.get(None)  # closed?
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise TypeError(
            "an ObjectStore can be neither copied nor pickled: it is memory of this process; "
            "dict(store) copies its values"
        )


class _Cache:
    """The results of one function in a store."""

    def __init__(
        self, store: ObjectStore, function: Callable[..., Any], maxbytes: int | None
    ) -> None:
        self._store, self._function, self._maxbytes = store, function, maxbytes
        self._lock = Lock()
        # by arguments, the oldest first: the result's number, and what it takes
        self._results: OrderedDict[Hashable, tuple[int, int]] = OrderedDict()
        self._bytes = self._hits = self._misses = self._made = 0

    def _key(self, number: int) -> tuple[Any, ...]:
        return ("zswap.cached", id(self), number)

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        asked: Hashable = (args, tuple(kwargs.items())) if kwargs else args
        with self._lock:
            known = self._results.get(asked)
            if known is not None:
                self._results.move_to_end(asked)
        if known is not None:
            value = self._store.get(self._key(known[0]), _NONE)
            if value is not _NONE:
                self._hits += 1
                return value
        self._misses += 1
        value = self._function(*args, **kwargs)
        with self._lock:
            self._made += 1
            number = self._made
        with suppress(PoolLimitError):  # then it is not kept
            self._store[self._key(number)] = value
            self._keep(asked, number)
        return value

    def _keep(self, asked: Hashable, number: int) -> None:
        weight = self._store.weight(self._key(number))
        with self._lock:
            old = self._results.pop(asked, None)
            self._results[asked] = number, weight
            self._bytes += weight - (old[1] if old is not None else 0)
            gone = [old[0]] if old is not None else []
            while self._maxbytes is not None and self._bytes > self._maxbytes:
                _, (last, size) = self._results.popitem(last=False)
                self._bytes -= size
                gone.append(last)
        self._forget(gone)

    def _forget(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            with suppress(KeyError):
                del self._store[self._key(number)]

    def info(self) -> CacheInfo:
        """Tell what was done so far."""
        with self._lock:
            return CacheInfo(
                self._hits, self._misses, self._maxbytes, self._bytes, len(self._results)
            )

    def clear(self) -> None:
        """Forget all results, and what was done so far."""
        with self._lock:
            gone = [number for number, _ in self._results.values()]
            self._results.clear()
            self._bytes = self._hits = self._misses = 0
        self._forget(gone)
