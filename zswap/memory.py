"""Arrays larger than the memory they are given."""

from __future__ import annotations

import math
import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from zswap import core
from zswap.meminfo import format_bytes, parse_bytes
from zswap_core.backings import PythonBacking, SwapFile, open_backing
from zswap_core.backings.registry import open_registered
from zswap_core.binding.memory import Block, Region, set_numpy_handler
from zswap_core.compressors.adapter import PythonCompressor
from zswap_core.compressors.base import Compressor
from zswap_core.compressors.registry import open_compressor
from zswap_core.errors import Error

if TYPE_CHECKING:
    from zswap.serve import StatsServer

LEAST = 8 << 20  # that a budget may be
_PAGE = mmap.PAGESIZE
_FIXED = 2 << 20  # about what there is of buffers before there is a page
_KEPT = 64  # bytes about a page, in the engine and beside it,
_KEPT_SHARE = 2  # which take one part in so many of the budget, where a file is behind the pool
_POOL_SHARE = 0.35  # of the budget, to begin with, where a file is behind the pool

Advice = Literal["willneed", "cold", "dontneed", "sequential", "random", "normal"]


@dataclass(frozen=True)
class MemoryStats:
    """What a memory holds, takes and has done.

    Attributes
    ----------
    mode : str
        "thread" or "signal".
    budget, limit : int
        Bytes that it may take, and that may be allocated.
    allocated_bytes, peak_allocated_bytes : int
        What is allocated, in whole pages, and the most that ever was.
    resident_bytes, pool_bytes, metadata_bytes : int
        What it takes: pages that are there, compressed ones, and what is kept about both.
    room_bytes, pool_limit : int
        What may be resident now, and what the pool may take.
    peak_resident_bytes, pinned_bytes : int
        The most that ever was resident; what is pinned.
    kept_bytes : int
        What arrays of numpy's that are gone have left, kept for the next of them.
    backed_bytes : int
        Room of the pages in the backing file.
    faults : int
        Touches of pages that were not there, or were about to leave.
    fetched_pages, fresh_pages : int
        Pages that came from the pool or the file, and those that were zeros.
    read_ahead_pages : int
        Of both, those that nobody had asked for yet.
    evicted_pages, clean_pages : int
        Pages that left, and those of them whose compressed copy was still good.
    taken_back_pages : int
        Pages written to while they were about to leave.
    refused_pages : int
        Pages that neither pool nor file could hold, and that stayed.
    direct_evictions, waits : int
        How often a fault made room by itself, and how often it could not and waited.
    """

    mode: str
    budget: int
    limit: int
    allocated_bytes: int
    peak_allocated_bytes: int
    resident_bytes: int
    room_bytes: int
    peak_resident_bytes: int
    kept_bytes: int
    pinned_bytes: int
    pool_bytes: int
    pool_limit: int
    metadata_bytes: int
    backed_bytes: int
    faults: int
    fetched_pages: int
    fresh_pages: int
    read_ahead_pages: int
    evicted_pages: int
    clean_pages: int
    taken_back_pages: int
    refused_pages: int
    direct_evictions: int
    waits: int

    @property
    def total_bytes(self) -> int:
        """What it takes in all."""
        return self.resident_bytes + self.pool_bytes + self.metadata_bytes

    def to_dict(self) -> dict[str, Any]:
        """Return all figures."""
        return {**asdict(self), "total_bytes": self.total_bytes}


def _open_native(compressor: str | Compressor) -> Compressor:
    """Open a compressor that is not in Python, since a fault may come at any moment."""
    opened = open_compressor(compressor)
    if isinstance(opened, PythonCompressor):
        raise ValueError(
            f"the compressor {opened.spec} is written in Python, which a fault may interrupt: "
            "take one of zswap.compressors() that is not"
        )
    return opened


def _bounds(array: NDArray[Any]) -> tuple[int, int]:
    """Tell where an array's elements lie, whatever its strides: address and length."""
    low = high = array.__array_interface__["data"][0]
    for length, stride in zip(array.shape, array.strides, strict=True):
        if stride < 0:
            low += (length - 1) * stride
        else:
            high += (length - 1) * stride
    return low, high + array.itemsize - low


class _Engine(core.ZSwap):
    """The engine of a memory, which goes with it and no sooner."""

    def __del__(self) -> None:
        """Not close it: of what is found unreachable together an array may be touched later."""


class Memory:
    """Memory whose cold pages lie compressed, and whose coldest in a file.

    What is allocated here is touched like any other memory, by plain loads and stores of any code
    of this process.  Pages that were not touched for a while are compressed, and come back when
    they are touched; all of them together never take more than the budget.  It needs neither root
    nor swap, but userfaultfd(2).

    Used as a context manager it serves numpy: in the block every array of `min_size` bytes or more
    that this thread makes lies here, results of ufuncs too (but not large ones that are unpickled,
    which stay in the bytes of the pickle).

    Parameters
    ----------
    budget : int or str
        Bytes that pages, their compressed copies and what is kept about them may take in memory, as
        an int or as ``"1GiB"``; at least 8 MiB.
    backing : path or SwapFile, optional
        Where the coldest pages go.  A file of that path is made and loses its name at once, so that
        the system frees it when the process ends.  Without one no more can be allocated than the
        budget holds, since nobody knows what will compress; or as much as `limit` says.
    compressor : str or Compressor, default "lz4"
        As for `ZSwap`, but none that is written in Python.
    mode : {"auto", "thread", "signal"}, default "auto"
        Who serves a touch of a page that is not there: a thread of ours, which needs
        /dev/userfaultfd, CAP_SYS_PTRACE or the sysctl vm.unprivileged_userfaultfd; or the thread
        itself, in a handler of SIGBUS, which any user may have.  "auto" takes the first where it is
        allowed.  In signal mode the kernel does not wait for a page: calls of libc about files,
        pipes and sockets bring it first; others (ioctl, io_uring, libc by ctypes) need `pin`.
    limit : int or str, optional
        Most bytes that may be allocated.  By default what the file has room for, though no more
        than 32 times the budget, since what is kept about pages takes a part of that; or without a
        file the budget less what is kept.  More than that trusts in compression: should it fail,
        the process gets a SIGBUS.
    min_size : int or str, default "64KiB"
        The smallest array that numpy is served with.
    pool_share : float, optional
        Of the budget, from 0.05 to 0.85: what the pool may take where a file is behind it.  By
        default it follows what the program does.
    encrypt : bool, default False
        Encrypt the file, see `SwapFile`.
    checksum : bool, default False
        Hold every page that comes back against a checksum.

    Attributes
    ----------
    mode : str
        "thread" or "signal": how faults are served.
    budget : int
        In bytes.  A new one takes effect at once, and pages leave until they are below it.
    closed : bool

    Raises
    ------
    Error
        When userfaultfd is refused, or there are too many memories.
    CompressorNotFound, BackingError, ValueError, TypeError
        As for `ZSwap`.

    Notes
    -----
    An array lives as long as somebody refers to it, and the memory as long as its last array, be it
    closed or not.  A forked child has neither: whoever touches an array there gets a SIGBUS with
    one line that says so, and never sees zeros.

    Examples
    --------
    >>> import numpy as np
    >>> mem = Memory("16MiB")
    >>> a = mem.zeros((1000, 1000), "f4")
    >>> a[10] = np.arange(1000)
    >>> float(a.sum())
    499500.0
    """

    def __init__(
        self,
        budget: int | str,
        backing: Any = None,
        compressor: str | Compressor = "lz4",
        *,
        mode: Literal["auto", "thread", "signal"] = "auto",
        limit: int | str | None = None,
        min_size: int | str = "64KiB",
        pool_share: float | None = None,
        encrypt: bool = False,
        checksum: bool = False,
    ) -> None:
        self.closed = True
        self._asked = None if limit is None else parse_bytes(limit)
        self._nested = threading.local()  # numpy's handlers before ours, by thread
        self._budget = self._read_budget(budget)
        self._min_size = parse_bytes(min_size)
        if self._min_size < 1:
            raise ValueError(f"min_size is {min_size!r}; at least 1 is needed")
        if mode not in ("auto", "thread", "signal"):
            raise ValueError(f"mode is {mode!r}; 'auto', 'thread' or 'signal' is needed")
        if pool_share is not None and not 0.05 <= pool_share <= 0.85:
            raise ValueError(f"pool_share is {pool_share!r}; 0.05 to 0.85 are possible, or None")
        native = _open_native(compressor)
        self._pool_share = pool_share
        store = self._store = self._open_store(backing, encrypt)
        self._divides = store is not None and pool_share is None
        self._engine = _Engine(
            native,
            page_size=_PAGE,
            max_pool_bytes=self._pool_bytes(self._budget),
            accept_threshold_percent=100,
            backing=store,
            encrypt=True if encrypt else None,
            checksum=checksum,
            promote="never",
            read_ahead=False,  # a fault brings its neighbours itself
            shrinker_enabled=False,
        )
        # Arrays may be touched until the process ends, and nothing of it is in Python.
        core._open.discard(self._engine)
        limit_pages = self._limit(self._budget) // _PAGE
        pages = store.nr_pages if store is not None else max(2 * limit_pages, 4096)
        self._region, self.mode = self._open((native, store), pages, limit_pages, mode)
        self.closed = False

    @staticmethod
    def _read_budget(budget: int | str) -> int:
        amount = parse_bytes(budget)
        if amount < LEAST:
            raise ValueError(f"budget is {amount} bytes; at least {LEAST} are needed")
        return amount

    def _open_store(self, backing: Any, encrypt: bool) -> Any:
        """Open the backing store, if there is to be one; not in Python either."""
        if backing is None:
            return None
        registered = open_registered(backing, _PAGE) if isinstance(backing, str) else None
        if registered is None and isinstance(backing, (str, bytes, os.PathLike)):
            return self._open_file(backing, encrypt)
        store = open_backing(backing if registered is None else registered, _PAGE)
        if isinstance(store, PythonBacking):
            raise ValueError(
                f"the backing store {store!r} is written in Python, which a fault may interrupt: "
                "give a path or a SwapFile"
            )
        return store

    def _open_file(self, path: Any, encrypt: bool) -> SwapFile:
        from zswap_core.backings import default_size

        name = os.path.abspath(os.fsdecode(path))
        size = default_size(name) if self._asked is None else max(self._asked, _PAGE)
        return SwapFile(name, size, page_size=_PAGE, encrypt=bool(encrypt), unlink=True)

    def _pool_bytes(self, budget: int) -> int:
        """Choose the pool's limit."""
        if self._store is None:
            return max(budget - _FIXED, LEAST // 2) // _PAGE * _PAGE
        share = _POOL_SHARE if self._pool_share is None else self._pool_share
        return int(budget * share) // _PAGE * _PAGE

    def _limit(self, budget: int) -> int:
        """Bytes that may be allocated."""
        if self._store is not None:
            room = min(int(self._store.nr_pages) * _PAGE, self._most(budget))
            return room if self._asked is None else min(self._asked, room)
        if self._asked is not None:
            return self._asked
        return int((budget - _FIXED) * _PAGE / (_PAGE + _KEPT))

    @staticmethod
    def _most(budget: int) -> int:
        """Bytes of which what is kept about them takes no more than its share."""
        return (budget - _FIXED) // _KEPT_SHARE // _KEPT * _PAGE

    def _open(self, used: Any, pages: int, limit: int, mode: str) -> tuple[Region, str]:
        asked = self._engine, used, pages, self._budget, limit, self._divides
        if mode != "signal":
            try:
                return Region(*asked, True), "thread"
            except PermissionError as error:
                if mode == "thread":
                    raise Error(f"mode='thread': {error.strerror}") from error
        try:
            return Region(*asked, False), "signal"
        except PermissionError as error:
            raise Error(f"{error.strerror}") from error

    # ---- allocations -----------------------------------------------------------------------------

    def buffer(self, nbytes: int) -> Block:
        """Allocate so many bytes of zeros, as an object with a writable buffer.

        Parameters
        ----------
        nbytes : int
            Any number from 1 on.

        Returns
        -------
        Block
            For `memoryview`, `numpy.frombuffer`, ``torch.frombuffer``, ``pyarrow.py_buffer``.  The
            memory is freed with the last reference.

        Raises
        ------
        MemoryError
            When budget and file cannot hold that much more.
        """
        size = int(nbytes)
        if size < 1:
            raise ValueError(f"nbytes is {nbytes}; at least 1 is needed")
        if self.closed:
            raise ValueError("the Memory is closed")
        block = self._region.allocate(size) if self._has_space(size) else None
        if block is None:
            raise MemoryError(self._why_not(size))
        return block

    def _has_space(self, size: int) -> bool:
        """Whether the file system has room for the file to grow by so much."""
        store = self._store
        if not isinstance(store, SwapFile) or store.preallocated or size < 1 << 20:
            return True
        try:
            room = os.statvfs(os.path.dirname(store.path))
        except OSError:
            return True
        return room.f_bavail * room.f_frsize >= size

    def _why_not(self, size: int) -> str:
        figures = self._region.figures()
        text = (
            f"{format_bytes(size)} more cannot be held: {format_bytes(figures['allocated_bytes'])} "
            f"of {format_bytes(figures['limit'])} are allocated"
        )
        if self._store is not None and figures["limit"] == self._most(self._budget):
            return f"{text}; free arrays, or raise the budget, of which that takes half by itself"
        if self._store is not None:
            return f"{text}; free arrays, or give a larger backing file, on a disk that has room"
        return (
            f"{text}, which is what the budget of {format_bytes(self._budget)} holds by itself; "
            "give a backing file, or the limit that you trust to compress"
        )

    def empty(
        self,
        shape: Any,
        dtype: DTypeLike = np.float64,
        order: Literal["C", "F"] = "C",
    ) -> NDArray[Any]:
        """Make an array, as `numpy.empty` does; it is zeros.

        Parameters
        ----------
        shape : int or tuple of int
        dtype : dtype, default float64
            Any without Python objects in it.
        order : {"C", "F"}, default "C"

        Returns
        -------
        ndarray
            An ordinary one, freed with the last reference to it or a view of it.

        Raises
        ------
        MemoryError
            When budget and file cannot hold it.
        """
        kind = np.dtype(dtype)
        if kind.hasobject:
            raise TypeError(f"{kind} holds references to Python objects, which cannot lie here")
        lengths = tuple(int(n) for n in (shape if np.iterable(shape) else (shape,)))
        size = math.prod(lengths) * kind.itemsize
        if size <= 0:
            return np.empty(lengths, kind, order)
        block: Any = self.buffer(size)
        array: NDArray[Any] = np.ndarray(lengths, kind, buffer=block, order=order)
        return array

    def zeros(
        self,
        shape: Any,
        dtype: DTypeLike = np.float64,
        order: Literal["C", "F"] = "C",
    ) -> NDArray[Any]:
        """Make an array of zeros, which take no memory before they are touched.

        Parameters
        ----------
        shape, dtype, order
            As for `empty`.
        """
        return self.empty(shape, dtype, order)

    def array(self, data: ArrayLike, dtype: DTypeLike | None = None) -> NDArray[Any]:
        """Copy anything that numpy makes an array of.

        Parameters
        ----------
        data : array_like
        dtype : dtype, optional
            By default that of `data`.
        """
        source = np.asarray(data, dtype)
        order: Literal["C", "F"] = "C"
        if source.flags.f_contiguous and not source.flags.c_contiguous:
            order = "F"
        copy = self.empty(source.shape, source.dtype, order)
        np.copyto(copy, source)
        return copy

    # ---- what is to be done with them ------------------------------------------------------------

    def _span(self, data: Any, what: str) -> tuple[int, int, bool]:
        """Tell where an array or a buffer lies: address, length, and whether that is all of it."""
        array = data if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)
        if array.size == 0:
            return 0, 0, True
        address, size = _bounds(array)
        if not self._region.contains(address):
            raise ValueError(f"what is to be {what} does not lie in this Memory")
        return address, size, size == array.nbytes

    @contextmanager
    def pin(self, data: Any) -> Iterator[Any]:
        """Keep an array, or a part of one, resident for a block.

        That is what the kernel, or a device, needs that reads or writes it without libc's functions
        for files, pipes and sockets.

        Parameters
        ----------
        data : ndarray or buffer
            At most half of the resident pages can be pinned at a time; larger arrays in pieces.

        Yields
        ------
        ndarray or buffer
            `data`.

        Raises
        ------
        MemoryError
            When it is too much.
        ValueError
            When it does not lie in this memory.
        """
        address, size, _ = self._span(data, "pinned")
        if size:
            self._region.pin(address, size)
        try:
            yield data
        finally:
            if size:
                self._region.unpin(address, size)

    def advise(self, data: Any, advice: Advice) -> None:
        """Tell what is about to happen to an array, or a part of one.

        Parameters
        ----------
        data : ndarray or buffer
        advice : {"willneed", "cold", "dontneed", "sequential", "random", "normal"}
            Fetch it now, as far as half of the room goes; let it leave now; forget what is in it,
            which is zeros from then on (whole pages alone, and only of an array that is
            contiguous); or how it will be read.

        Raises
        ------
        ValueError
            When it does not lie in this memory, or the advice is none of these.
        """
        address, size, whole = self._span(data, "advised about")
        if advice == "dontneed" and not whole:
            raise ValueError("'dontneed' needs a contiguous array: between its elements lie others")
        if size:
            self._region.advise(address, size, advice)

    @property
    def budget(self) -> int:
        """Bytes that it may take in memory."""
        return self._budget

    @budget.setter
    def budget(self, budget: int | str) -> None:
        amount = self._read_budget(budget)
        why_not = self._region.set_budget(amount, self._limit(amount) // _PAGE)
        if why_not is not None:
            raise ValueError(f"a budget of {format_bytes(amount)} is {why_not}")
        if not self._divides:
            self._engine.parameters["max_pool_bytes"] = self._pool_bytes(amount)
        self._budget = amount

    def stats(self) -> MemoryStats:
        """Take a snapshot of every figure."""
        backed = self._engine.stats().backed_pages * _PAGE
        return MemoryStats(mode=self.mode, backed_bytes=backed, **self._region.figures())

    def serve_stats(self, path: str | os.PathLike[str]) -> StatsServer:
        """Serve the figures of the pool on a Unix socket, for ``zswap top``.

        Parameters
        ----------
        path : path-like
            Where the socket is made.
        """
        return self._engine.serve_stats(path)

    def close(self) -> None:
        """Refuse further allocations.

        Arrays live on, and the memory as long as they do.
        """
        self.closed = True

    def __enter__(self) -> Memory:
        if self.closed:
            raise ValueError("the Memory is closed")
        before = set_numpy_handler(self._region.numpy_handler(self._min_size))
        self._nested.handlers = [*getattr(self._nested, "handlers", ()), before]
        return self

    def __exit__(self, *exception: object) -> None:
        set_numpy_handler(self._nested.handlers.pop())

    def __repr__(self) -> str:
        if self.closed or self._region.forked:
            return f"<Memory: {'closed' if self.closed else 'the parent process has it'}>"
        figures = self._region.figures()
        return (
            f"<Memory: {format_bytes(figures['allocated_bytes'])} allocated, budget "
            f"{format_bytes(self._budget)}, {self.mode} mode>"
        )
