"""The engine as Python programs use it."""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import ItemsView, Iterator, MutableMapping, ValuesView
from typing import TYPE_CHECKING, Any

from zswap.log import Log
from zswap.memory import format_bytes, online_node, pressure_files, total_ram
from zswap.parameters import Parameters
from zswap.stats import Latency, PoolInfo, Recompressed, Stats
from zswap.zpools import format_zpool, parse_zpool
from zswap_core.binding import FLAGS, Engine
from zswap_core.compressors.base import Compressor
from zswap_core.compressors.checksum import open_checksum
from zswap_core.compressors.registry import open_compressor

if TYPE_CHECKING:
    from zswap.serve import StatsServer

# Closed before the interpreter shuts down: from then on Python ends every thread that asks for the GIL, also one that is in a
# backing store written in Python, and close() would wait for its call forever.
_open: weakref.WeakSet[ZSwap] = weakref.WeakSet()

_NOTHING = object()  # a default that nobody gave


@atexit.register
def _close_all() -> None:
    for engine in list(_open):
        engine.close()


class _Items(ItemsView[int, bytes]):
    """Items of an engine that others may change meanwhile: what has gone since its offset was read is passed over."""

    _mapping: ZSwap

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        for offset in self._mapping:
            try:
                page = self._mapping[offset]
            except KeyError:
                continue
            yield offset, page


class _Values(ValuesView[bytes]):
    """The pages alone, in the same way."""

    _mapping: ZSwap

    def __iter__(self) -> Iterator[bytes]:
        for _, page in self._mapping.items():
            yield page

    def __contains__(self, page: object) -> bool:
        return any(page == held for held in self)


class ZSwap(Engine, MutableMapping[int, bytes]):
    """A compressed cache of pages, keyed by offset.

    It is a mutable mapping from offsets of swap area 0 to pages, and a context manager.  Every method may be called from any
    thread.  Pages may come and go during iteration: what is there all the time is seen, in order, and no error raised.  After
    a fork the child's copy is closed.

    Parameters
    ----------
    compressor : str or Compressor, default "lz4"
        Name, or name and level as in ``"zstd:3"``; `zswap.compressors` lists them.  Or one from `zswap.open_compressor`.
    zpool : str, default "zsmalloc"
        The allocator; `zswap.zpools` lists them.
    page_size : int, default 4096
        4096, 16384 or 65536 bytes.
    max_pool_percent : int, default 20
        How much of the memory (the machine's, or the cgroup's limit where that is less) the allocators may take.
    max_pool_bytes : int or str, optional
        The same in bytes, or as ``"512MiB"``; wins over the percentage.
    accept_threshold_percent : int, default 90
        After the limit was hit, pages are refused until the allocators are down to this share of the limit.
    same_filled_pages_enabled : bool, default True
        Hold a page whose 8-byte words are all equal as that one word.
    backing : path, SwapFile or object with write_pages and read_pages, optional
        Where area 0's coldest pages go when the limit was hit, and pages that are refused.
    encrypt : bool, optional
        Encrypt the swap file that `backing` names, and those of areas that `swapon` adds later, with a key that only this
        process ever has; see `SwapFile`.  By default as `backing` does; False says that files may hold pages in clear.
    wipe_on_free : bool, default False
        Overwrite what pages leave behind in zswap's memory when they are freed, replaced, moved or written back.
    dontdump : bool, default False
        Keep the engine's memory out of core dumps (MADV_DONTDUMP).
    dontfork : bool, optional
        Let a forked child, whose copy of the engine is closed, find zeros where pages are (MADV_WIPEONFORK).  By default where
        the system can; with True it must.
    shrinker_enabled : bool, default True
        Also write back when memory is short: tasks stall on it, or the cgroup is near its limit.
    shrinker_interval : float, default 1.0
        Seconds between two looks of the shrinker; a store that hits the limit wakes it at once.
    numa_node : int, optional
        Bind the pools' memory to this node.  By default each page comes from the node of the thread that stores.
    dictionary : bytes-like, optional
        What pages have in common, for the compressor zstd; `zswap.train_dictionary` makes one.  To go over to another one
        later: ``z.compressor = zswap.open_compressor("zstd:3", dictionary=...)``.
    latency : bool, default False
        Time every store and load, for `latency`.
    checksum : bool, default False
        Keep four bytes of checksum with every page, and hold the page against it whenever it is decompressed, moved or read
        from the backing store, so that damage done to the memory or to the backing store is a `PageCorruptError` and never a
        wrong page.  That is for accidents: against somebody who writes to the swap file it takes `encrypt` as well, since such
        a sum has no key.  A page that another thread changes while it is being stored may seem damaged as well.

    Raises
    ------
    CompressorNotFound
        For an unknown compressor, or one whose library is missing.
    ValueError
        For any other argument out of range.

    Notes
    -----
    The logger ``zswap`` is told once, at WARNING, when the pool reaches its limit, when pages are refused, and when a backing
    store fails or works again; what a thread of the engine's own finds, by the next store, load, `shrink` or `stats`.

    Examples
    --------
    >>> with ZSwap("lz4", max_pool_bytes="64MiB") as z:
    ...     z[7] = b"swap" * 1024
    ...     z[7][:8]
    b'swapswap'
    """

    def __init__(
        self,
        compressor: str | Compressor = "lz4",
        zpool: str = "zsmalloc",
        page_size: int = 4096,
        *,
        max_pool_percent: int = 20,
        max_pool_bytes: int | str | None = None,
        accept_threshold_percent: int = 90,
        same_filled_pages_enabled: bool = True,
        backing: Any = None,
        encrypt: bool | None = None,
        wipe_on_free: bool = False,
        dontdump: bool = False,
        dontfork: bool | None = None,
        shrinker_enabled: bool = True,
        shrinker_interval: float = 1.0,
        numa_node: int | None = None,
        dictionary: Any = None,
        latency: bool = False,
        checksum: bool = False,
    ) -> None:
        self._log = Log()
        self._protect(wipe_on_free, dontdump, dontfork)
        self._node = -1 if numa_node is None else online_node(numa_node)
        self.parameters = Parameters(
            self,
            {
                "enabled": True,
                "compressor": open_compressor(compressor, dictionary=dictionary),
                "zpool": zpool,
                "max_pool_percent": max_pool_percent,
                "max_pool_bytes": max_pool_bytes,
                "accept_threshold_percent": accept_threshold_percent,
                "same_filled_pages_enabled": same_filled_pages_enabled,
                "non_same_filled_pages_enabled": True,
                "exclusive_loads": False,
                "reject_compress_poor": False,
                "latency": latency,
                "checksum": checksum,
                "shrinker_enabled": shrinker_enabled,
                "shrinker_interval": shrinker_interval,
                "writeback_limit": None,
                "writeback_rate": None,
            },
        )
        if self.parameters["checksum"]:
            self._use_checksum(open_checksum())
        for key in ("compressor", "max_pool_bytes", "writeback_limit", *FLAGS):
            self._apply(self.parameters._values, key)
        self._set_pressure(*pressure_files())
        self._set_encrypt(encrypt)
        self.swapon(0, backing=backing, encrypt=encrypt)
        _open.add(self)

    def _apply(self, values: Any, key: str) -> None:
        """Make the engine follow one parameter, or fail and change nothing.  Parameters sees to it that one is set at a time."""
        if key in ("compressor", "zpool"):
            self._use_pool(values["compressor"], *parse_zpool(values["zpool"]), self._node)
        elif key == "checksum":
            if values[key] != self.parameters[key]:
                raise ValueError("checksum is chosen when the ZSwap is made")
        elif key in FLAGS:
            self._set_flag(key, values[key])
        elif key in ("shrinker_enabled", "shrinker_interval", "writeback_limit", "writeback_rate"):
            limit = values["writeback_limit"]
            if limit is not None and key != "writeback_limit":
                limit = self._writeback_limit()  # what is left of it
            self._set_writeback(
                values["shrinker_enabled"],
                int(values["shrinker_interval"] * 1e9),
                -1 if limit is None else limit,
                values["writeback_rate"] or 0,
            )
        else:
            limit = values["max_pool_bytes"]
            if limit is None:
                limit = total_ram() * values["max_pool_percent"] // 100
            pages = limit // self.page_size
            self._set_limits(pages, pages * values["accept_threshold_percent"] // 100)
            self._max_pool_bytes = pages * self.page_size
        self._log.changed()

    def _news(self, filled: bool, stores: list[tuple[Any, int, int, int]]) -> None:
        if filled:
            self._log.filled(self._max_pool_bytes)
        for store in stores:
            self._log.store(*store)

    def _refused(self, status: int, error: Exception) -> None:
        if hasattr(self, "_log"):  # else it was never initialised
            self._log.refused(status, error)

    @property
    def compressor(self) -> str:
        """The current pool's compressor.  Setting it starts a new pool; pages held stay readable and move when stored anew."""
        return str(self.parameters["compressor"])

    @compressor.setter
    def compressor(self, spec: str | Compressor) -> None:
        self.parameters["compressor"] = open_compressor(spec)

    @property
    def zpool(self) -> str:
        """The current pool's allocator.  Setting it starts a new pool."""
        return str(self.parameters["zpool"])

    @zpool.setter
    def zpool(self, name: str) -> None:
        self.parameters["zpool"] = name

    def stats(self) -> Stats:
        """Take a snapshot of every counter."""
        totals = self._totals()
        return Stats(
            page_size=self.page_size,
            max_pool_bytes=self._max_pool_bytes,
            pool_total_size=totals.pop("pool_pages") * self.page_size,
            idle_bytes=totals.pop("idle_pages") * self.page_size,
            **totals,
        )

    def pools(self) -> list[PoolInfo]:
        """List the pools that exist, the current one first."""
        return [
            PoolInfo(spec, format_zpool(name, chain, kernel), current, entries, pages * self.page_size, entries + current)
            for spec, name, chain, kernel, current, entries, pages in self._pools()
        ]

    def latency(self, *, reset: bool = False) -> dict[str, Latency]:
        """Tell how long stores and loads took, batches' pages included, while the parameter ``latency`` was on.

        Parameters
        ----------
        reset : bool, default False
            Begin anew afterwards.

        Returns
        -------
        dict
            `Latency` of ``"store"`` and of ``"load"``.  Refused stores and loads that found nothing are not in it.
        """
        return {name: Latency(*row) for name, row in zip(("store", "load"), self._latency(reset), strict=True)}

    def serve_stats(self, path: str | os.PathLike[str]) -> StatsServer:
        """Serve the figures on a Unix socket at `path`, for ``zswap top``; see `zswap.serve.StatsServer`."""
        from zswap.serve import StatsServer

        return StatsServer(self, path)

    def swapoff(self, swap_type: int, *, drain: bool = False) -> Iterator[tuple[int, bytes]] | None:
        """Take a swap area offline and free every page it held.

        Parameters
        ----------
        swap_type : int
            The area.
        drain : bool, default False
            Give the pages back: the result is an iterator over (offset, page), each page freed when it was given, and the
            area goes offline at its end.  Do not store to the area meanwhile: a page stored at an offset that is being
            given is freed with it.  If a page cannot be read, the error comes out of the iterator; that page and those
            not yet given stay held and the area online.

        Raises
        ------
        ValueError
            When the area is not online.
        """
        if not drain:
            self._swapoff(swap_type)
            return None
        if not self._online(swap_type):
            raise ValueError(f"swap area {swap_type} is not online")
        return self._drain(swap_type)

    def _drain(self, swap_type: int) -> Iterator[tuple[int, bytes]]:
        while self._page_count(swap_type):
            for number in self._shards(swap_type):
                for offset in self._shard_offsets(number, swap_type):
                    try:
                        page = self.load(offset, swap_type=swap_type)
                    except KeyError:  # invalidated meanwhile
                        continue
                    yield offset, page
                    self.invalidate(offset, swap_type=swap_type)
        self._swapoff(swap_type)

    def recompress(
        self,
        compressor: str | Compressor,
        *,
        idle_seconds: int | None = None,
        incompressible: bool = False,
        max_pages: int | None = None,
        dictionary: Any = None,
    ) -> Recompressed:
        """Compress held pages anew where that makes them smaller, as zram does with its idle pages.

        A result is kept only if it lands in a smaller size class.  The pages move to a pool of `compressor` and the current
        allocator; stores go on using the current compressor.  `compact` afterwards gives back what the old pool has to spare.
        It stops early when the pools reach the limit.

        Parameters
        ----------
        compressor : str or Compressor
            A denser one, such as ``"zstd:9"``.
        idle_seconds : int, optional
            Only pages that were not accessed for so long.
        incompressible : bool, default False
            Only pages that are kept raw.
        max_pages : int, optional
            Stop after so many have moved.
        dictionary : bytes-like, optional
            What the pages have in common, as for the engine itself.

        Returns
        -------
        Recompressed
            How many pages moved, how many were tried and kept, and the bytes of those moved before and after.
        """
        if max_pages is not None and max_pages < 0:
            raise ValueError(f"max_pages is {max_pages}; it cannot be negative")
        limit = (1 << 63) if max_pages is None else min(max_pages, 1 << 63)
        opened, zpool = open_compressor(compressor, dictionary=dictionary), parse_zpool(self.zpool)
        return Recompressed(*self._recompress(opened, *zpool, self._node, idle_seconds, incompressible, limit))

    def pop(self, offset: int, default: Any = _NOTHING) -> Any:
        """Give the page at `offset` of area 0 and free it; `default`, or KeyError, when there is none."""
        try:
            page = self[offset]  # with exclusive_loads this frees it already
        except KeyError:
            if default is _NOTHING:
                raise
            return default
        self.invalidate(offset)
        return page

    def popitem(self) -> tuple[int, bytes]:
        """Give the first page of area 0 with its offset, and free it; KeyError when there is none."""
        for offset, page in self.items():
            self.invalidate(offset)
            return offset, page
        raise KeyError("popitem(): no page is held")

    def clear(self) -> None:
        """Free every page of area 0."""
        self.invalidate_area(0)

    def __iter__(self) -> Iterator[int]:
        for number in self._shards():
            yield from self._shard_offsets(number)

    def items(self) -> ItemsView[int, bytes]:
        """Offsets of area 0 with their pages, in order."""
        return _Items(self)

    def values(self) -> ValuesView[bytes]:
        """Pages of area 0, in the order of their offsets."""
        return _Values(self)

    def __enter__(self) -> ZSwap:
        if self.closed:
            raise ValueError("the ZSwap is closed")
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self.closed:
            return "<ZSwap closed>"
        return (
            f"<ZSwap {self.compressor} on {self.zpool}: {self.stats().stored_pages} pages, "
            f"limit {format_bytes(self._max_pool_bytes)}{', encrypted' if self.encrypt else ''}>"
        )

    # A store is an object with an identity, not a value: two engines with equal pages are still two.
    __eq__ = object.__eq__
    __hash__ = object.__hash__
