"""A memory tier for Dask's workers: RAM, then compressed RAM, then a file.

One line makes a cluster use it (`pip install 'zswap[dask]'`):

    LocalCluster(n_workers=2, memory_limit="4GiB", data=zswap.dask.SpillTier)
"""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import dask
from dask.utils import format_bytes, parse_bytes
from distributed import system
from distributed.protocol import pickle as distributed_pickle
from distributed.sizeof import safe_sizeof

from zswap.meminfo import read_text
from zswap.objects import LEAST
from zswap.zict import Store
from zswap_core.errors import BackingError, PoolLimitError
from zswap_core.locks import Lock

logger = logging.getLogger("distributed.zswap")

_EVICTED_AT_ONCE = 16 << 20  # bytes of compressed memory
_PAGE = os.sysconf("SC_PAGESIZE")
_STATM = "/proc/self/statm"


def _resident() -> int:
    """Bytes of memory that this process takes; 0 where the system does not tell."""
    text = read_text(_STATM)  # there may be no /proc, or no descriptor to be had
    return int(text.split()[1]) * _PAGE if text else 0


def _fraction(of: str, default: float) -> float:
    """One of the worker's thresholds; where it is off, what it is by default."""
    return dask.config.get(f"distributed.worker.memory.{of}", default) or default


class _Compressed(Store):
    """Values as Dask sends them: by cloudpickle where pickle does not know how."""

    def _dump(self, value: Any, outside: Callable[..., bool]) -> bytes:
        # distributed takes all buffers out of the pickle, and asks nobody
        return distributed_pickle.dumps(  # type: ignore[no-any-return]
            value, buffer_callback=partial(outside, always=True), protocol=5
        )


class SpillTier(MutableMapping[Any, Any]):
    """What a worker keeps its results in: ``distributed.Worker(data=SpillTier)``.

    Results lie in memory as they are until they take more than `target`; those used least recently
    are then compressed, and when the compressed ones take more than `compressed` the coldest of
    them go to an encrypted file in the worker's directory; sooner, when the process has taken 0.7
    of the worker's limit (``distributed.worker.memory.spill``).  From there on the worker calls
    `evict`, too.  A value that cannot be pickled stays in memory, and
    holds up no other.  One that is read stays compressed where the others leave no room for it,
    unless it is read again soon: one pass over everything pushes nothing out.

    Parameters
    ----------
    worker_local_directory : path, optional
        Where the file is; Dask gives it.  None: no file, so that what does not fit into the two
        others stays in memory.
    memory_limit : int, float or str, default "auto"
        The worker's limit, from which the two that follow are made.  By default that of the worker
        whose data this is, as soon as there is one.
    target : int or str, optional
        Bytes of results that stay as they are.  By default ``distributed.worker.memory.target`` of
        the limit, less what `compressed` takes.
    compressed : int or str, optional
        Bytes for compressed results; at least 2 MiB.  By default an eighth of the limit.
    compressor : str, default "auto"
        As for `zswap.ZSwap`: lref where the processor has the vectors for it, else lz4.
    max_spill : int, str or False, optional
        Most bytes in the file; what has no room there stays in memory.  By default
        ``distributed.worker.memory.max-spill``; False is no limit but the disk's.
    promote : {"second", "always"}, default "second"
        When a compressed value that is read pushes others out and stays as it is: when it is read
        a second time before `target` bytes of others were read so or came; or each time.

    Attributes
    ----------
    target, compressed : int
        The two in bytes.
    cumulative_metrics : dict
        By (activity, unit), as distributed counts them for its Prometheus page: how many results,
        how many bytes (as they are) and seconds.  The activities are "memory-read", of what was
        there, "disk-write", of what was compressed, and "disk-read", of what was decompressed, be
        it from memory or from the file.
    """

    def __init__(
        self,
        worker_local_directory: str | os.PathLike[str] | None = None,
        *,
        memory_limit: int | float | str = "auto",
        target: int | str | None = None,
        compressed: int | str | None = None,
        compressor: str = "auto",
        max_spill: int | str | bool | None = None,
        promote: str = "second",
    ) -> None:
        if promote not in ("second", "always"):
            raise ValueError(f"promote is {promote!r}; it is 'second' or 'always'")
        self._promote = promote
        self._lock = Lock(reentrant=True)
        self._fast: OrderedDict[Any, Any] = OrderedDict()  # the least recently used first
        self._sizes: dict[Any, int] = {}  # of all values, as sizeof says
        self._fast_bytes = self._slow_bytes = 0
        self._stuck: set[Any] = set()  # what could not be pickled
        # bytes that came or were decompressed; and how many those were when a value was last read
        self._passed = 0
        self._read_at: dict[Any, int] = {}
        # what is in use somewhere is not made a second time
        self._alive: weakref.WeakValueDictionary[Any, Any] = weakref.WeakValueDictionary()
        self._given = target, compressed
        self._unseen = 0  # bytes that came since the process was looked at
        if max_spill is None:
            max_spill = dask.config.get("distributed.worker.memory.max-spill", False)
        self._max_spill: int | None = None if max_spill is False else parse_bytes(max_spill)
        self.cumulative_metrics: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._files: list[str] = []
        path = None
        if worker_local_directory is not None:
            path = os.path.join(worker_local_directory, f"zswap-{os.getpid()}-{id(self):x}")
            self._files = [path, f"{path}-small"]
        self._known = memory_limit != "auto"
        limit = system.MEMORY_LIMIT if memory_limit == "auto" else parse_bytes(memory_limit)
        self._follow(limit)
        self._store = _Compressed(
            self.compressed,
            process_limit=self._process_limit,
            compressor=compressor,
            backing=path,
        )

    def _follow(self, limit: int) -> None:
        """Make all budgets of a worker's limit."""
        target, compressed = self._given
        for_store = limit // 8 if compressed is None else parse_bytes(compressed)
        self.compressed = max(for_store, LEAST)
        spill, pause = _fraction("spill", 0.7), _fraction("pause", 0.8)
        if target is None:
            self.target = max(int(limit * _fraction("target", 0.6)) - for_store, 0)
            # What the process takes is to stay below where the worker would begin to call `evict`.
            self._goal = int(limit * (spill - 1 / 32))
        else:
            self.target, self._goal = parse_bytes(target), 0
        # Results as they are give way first; compressed ones before the worker would pause.
        self._process_limit = int(limit * (spill + pause) / 2)

    def _ask_worker(self) -> None:
        """Follow the limit of the worker whose data this is."""
        from distributed.worker import Worker

        self._known = True
        for worker in list(Worker._instances):
            if getattr(worker, "data", None) is self:
                limit = worker.memory_manager.memory_limit
                if limit:
                    self._follow(limit)
                    self._store.max_memory = self.compressed
                    self._store.process_limit = self._process_limit
                logger.info(
                    "%s for results as they are, %s compressed",
                    format_bytes(self.target),
                    format_bytes(self.compressed),
                )
                return

    # ---- from one tier to the next ---------------------------------------------------------------

    def _compress(self, key: Any) -> bool:
        """Move a value from fast to slow; False where that fails, and it stays."""
        value = self._fast[key]
        if self._file_is_full():
            logger.warning("Spill file on disk reached capacity; %r stays in memory", key)
            return False
        try:
            with self._measured("disk-write", key):
                self._store[key] = value
        except Exception as error:
            # Disk or memory may have room again; what cannot be pickled today cannot tomorrow.
            if not isinstance(error, (BackingError, PoolLimitError, MemoryError)):
                self._stuck.add(key)
            logger.error("%r stays in memory: it cannot be compressed", key, exc_info=True)
            return False
        del self._fast[key]
        self._fast_bytes -= self._sizes[key]
        self._slow_bytes += self._sizes[key]
        with suppress(TypeError):  # cannot be referred to weakly
            self._alive[key] = value
        return True

    def _room_in_file(self) -> int | None:
        """Bytes that may still go to the file; None: as many as the disk takes."""
        if self._max_spill is None:
            return None
        return max(self._max_spill - self._file_bytes(), 0)

    def _file_bytes(self) -> int:
        total = 0
        for path in self._files:
            with suppress(OSError):
                total += os.stat(path).st_blocks * 512
        return total

    def _file_is_full(self) -> bool:
        # what is written through or back next would go there
        return bool(self._files) and self._room_in_file() == 0

    @contextmanager
    def _measured(self, activity: str, key: Any) -> Iterator[None]:
        """Count a value that is compressed, or decompressed."""
        began = time.perf_counter()
        yield
        metrics = self.cumulative_metrics
        metrics[activity, "seconds"] += time.perf_counter() - began
        metrics[activity, "count"] += 1
        metrics[activity, "bytes"] += self._sizes[key]

    def _note_hit(self, key: Any) -> None:
        self.cumulative_metrics["memory-read", "count"] += 1
        self.cumulative_metrics["memory-read", "bytes"] += self._sizes[key]

    def _compress_coldest(self) -> int:
        """Compress the coldest value that can be; its size, or -1."""
        for key in self._fast:
            if key not in self._stuck:
                size = self._sizes[key]
                return size if self._compress(key) else -1
        return -1

    def _shrink(self, came: int = 0) -> None:
        """Compress what is too much after so many bytes more."""
        most = self.target
        self._unseen += came
        if self._unseen > self._goal >> 8 > 0:
            # Twice as much as came, and no more: what is freed may stay the process's.
            over = min(self._over_goal(), 2 * self._unseen)
            most = min(most, self._fast_bytes - max(over, 0))
            self._unseen = 0
        while self._fast_bytes > most and self._compress_coldest() >= 0:
            pass

    def _over_goal(self) -> int:
        """Say by how much the process takes too much, in bytes; negative: what it may take yet.

        What compressed results may take yet counts as taken.
        """
        to_come = self.compressed - self._store.stats().memory_bytes
        return _resident() + max(to_come, 0) - self._goal

    @property
    def fast(self) -> bool:
        """Whether `evict` has anything to try."""
        with self._lock:
            return len(self._fast) > len(self._stuck) or self._in_memory() > 0

    def _in_memory(self) -> int:
        return self._store.stats().compressed_bytes if self._files and len(self._store) else 0

    def evict(self) -> int:
        """Compress the coldest value; when all are, write compressed ones to the file.

        Returns
        -------
        int
            Bytes that left, or -1 when nothing can.  It never raises.
        """
        try:
            with self._lock:
                size = self._compress_coldest()
                if size >= 0:
                    return size
                if self._in_memory():
                    room = self._room_in_file()
                    most = _EVICTED_AT_ONCE if room is None else min(room, _EVICTED_AT_ONCE)
                    return self._store.evict(most) or -1
        except Exception:
            logger.exception("nothing was evicted")
        return -1

    # ---- the mapping -----------------------------------------------------------------------------

    def __setitem__(self, key: Any, value: Any) -> None:
        if not self._known:
            self._ask_worker()
        size = safe_sizeof(value)
        with self._lock:
            self.discard(key)
            self._fast[key] = value
            self._sizes[key] = size
            self._fast_bytes += size
            self._passed += size
            if size > self.target:  # first, so that it does not push all others out
                self._compress(key)
            self._shrink(size)

    def __getitem__(self, key: Any) -> Any:
        with self._lock:
            if key in self._fast:
                self._fast.move_to_end(key)
                self._note_hit(key)
                return self._fast[key]
            value = self._alive.get(key)
            if value is None:
                with self._measured("disk-read", key):
                    value = self._store[key]
            else:
                self._note_hit(key)
            size = self._sizes[key]
            if self._is_promoted(key, size):
                del self._store[key]
                self._alive.pop(key, None)
                self._fast[key] = value
                self._slow_bytes -= size
                self._fast_bytes += size
                self._shrink()
            else:
                with suppress(TypeError):
                    self._alive[key] = value
            return value

    def _is_promoted(self, key: Any, size: int) -> bool:
        """Whether a compressed value that is read is to stay as it is from now on."""
        if size > self.target:
            return False
        if self._promote == "always" or (
            self._fast_bytes + size <= self.target
            and (not self._goal or self._over_goal() + size <= 0)
        ):
            return True
        last = self._read_at.pop(key, None)
        if last is not None and self._passed - last + size <= self.target:
            return True  # it would be there still had it been promoted then
        self._passed += size
        self._read_at[key] = self._passed
        return False

    def __delitem__(self, key: Any) -> None:
        with self._lock:
            size = self._sizes.pop(key)
            if self._fast.pop(key, self) is not self:
                self._fast_bytes -= size
            else:
                self._slow_bytes -= size
                del self._store[key]
            self._alive.pop(key, None)
            self._read_at.pop(key, None)
            self._stuck.discard(key)

    def discard(self, key: Any) -> None:
        """Free a value if there is one.

        Parameters
        ----------
        key : hashable
            Whose value.
        """
        with suppress(KeyError):
            del self[key]

    def __contains__(self, key: object) -> bool:
        return key in self._sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._sizes))

    @property
    def memory(self) -> frozenset[Any]:
        """Keys of the results that lie in memory as they are."""
        with self._lock:
            return frozenset(self._fast)

    @property
    def disk(self) -> frozenset[Any]:
        """Keys of those that are compressed, in memory or in the file."""
        with self._lock:
            return frozenset(self._sizes) - frozenset(self._fast)

    # ---- figures, and the end --------------------------------------------------------------------

    @property
    def written_bytes(self) -> int:
        """Bytes written to the file so far."""
        return self._store.stats().written_bytes

    @property
    def spilled_total(self) -> tuple[int, int]:
        """What the dashboard shows as spilled: bytes as they were, and as they are now."""
        if self._store.closed:
            return 0, 0
        stats = self._store.stats()
        return self._slow_bytes, stats.compressed_bytes + self._file_bytes()

    def close(self) -> None:
        """Free everything, the files too.  Closing twice is fine."""
        with self._lock:
            self._store.close()
            for path in self._files:
                with suppress(OSError):
                    os.unlink(path)
            self._files = []

    def __del__(self) -> None:
        if hasattr(self, "_store"):
            self.close()

    def __repr__(self) -> str:
        return (
            f"<SpillTier: {len(self._fast)} results as they are "
            f"({format_bytes(self._fast_bytes)} of {format_bytes(self.target)}), "
            f"{len(self._sizes) - len(self._fast)} in {self._store!r}>"
        )
