"""The engine as Python programs use it."""

from __future__ import annotations

import atexit
import itertools
import operator
import os
import weakref
from collections.abc import ItemsView, Iterable, Iterator, Mapping, MutableMapping, ValuesView
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex

from zswap.log import Log
from zswap.meminfo import (
    format_bytes,
    online_node,
    parse_bytes,
    pressure_files,
    process_ceilings,
    total_ram,
)
from zswap.parameters import FIRST, PARAMETERS, Parameters, boolean, not_an_attribute
from zswap.stats import AreaInfo, Latency, PoolInfo, Recompressed, Stats, Weight
from zswap.zpools import format_zpool, parse_zpool
from zswap_core.binding import Engine
from zswap_core.compressors.base import Compressor
from zswap_core.compressors.registry import open_compressor
from zswap_core.libraries.checksums import open_checksum
from zswap_core.locks import Lock

if TYPE_CHECKING:
    from zswap.aio import Batches
    from zswap.serve import StatsServer

# Closed before the interpreter shuts down: from then on Python ends every thread that asks for the
# GIL, also one that is in a backing store written in Python, and close() would wait for its call
# forever.
_open: weakref.WeakSet[ZSwap] = weakref.WeakSet()

_NO_BUDGET = 0, 0, (0, 0, 0)
_NOTHING = object()  # a default that nobody gave

# that a limit allows, unless it allows none: with fewer, rounding would decide what is refused
FEWEST_PAGES = 4

# that a budget must have for what an engine takes at least, and for a few pages
LEAST_BUDGET, BUDGET_PAGES = 1 << 20, 96


def _same_page(page: bytes | None, other: object) -> bool:
    """Whether a page held, or None, equals an object: as bytes, or by its own ``==``."""
    if page is None or other is None:
        return False
    try:
        return page == memoryview(other).tobytes()  # type: ignore[arg-type]
    except TypeError:
        return bool(page == other)


def _ends_of(offsets: range) -> tuple[int, int]:
    """Take a range apart."""
    if not isinstance(offsets, range):
        raise TypeError(f"offsets is {offsets!r}; a range is needed")
    if offsets.step != 1:
        raise ValueError(f"{offsets} has a step of {offsets.step}; 1 is needed")
    return offsets.start, max(offsets.start, offsets.stop)


def _quota(quota_bytes: int | str | None) -> int | None:
    return parse_bytes(quota_bytes) if isinstance(quota_bytes, str) else quota_bytes


@atexit.register
def _close_all() -> None:
    for engine in list(_open):
        engine.close()


class _Items(ItemsView[int, bytes]):
    """Items of an engine that others may change meanwhile; a page gone since is passed over."""

    _mapping: ZSwap

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        for offset in self._mapping:
            try:
                page = self._mapping[offset]
            except KeyError:
                continue
            yield offset, page

    def __contains__(self, item: object) -> bool:
        if not isinstance(item, tuple) or len(item) != 2 or item[0] not in self._mapping:
            return False
        return _same_page(self._mapping._peek(item[0]), item[1])


class _Values(ValuesView[bytes]):
    """The pages alone, in the same way."""

    _mapping: ZSwap

    def __iter__(self) -> Iterator[bytes]:
        for _, page in self._mapping.items():
            yield page

    def __contains__(self, page: object) -> bool:
        return any(_same_page(held, page) for _, held in self._mapping._held())


class ZSwap(Engine, MutableMapping[int, bytes]):
    """A compressed cache of pages, keyed by offset.

    It is a mutable mapping from offsets of swap area 0 to pages, and a context manager.  Every
    method may be called from any thread.  Pages may come and go during iteration: what is there all
    the time is seen, in order, and no error raised.  After a fork the child's copy is closed.

    Parameters
    ----------
    compressor : str or Compressor, default "lz4"
        Name, or name and level as in ``"zstd:3"``; `zswap.compressors` lists them.  ``"auto"`` is
        lref where the processor has AVX2 or NEON at least, else lz4.  Or one from
        `zswap.open_compressor`.
    zpool : str, default "zsmalloc"
        The allocator; `zswap.zpools` lists them.
    page_size : int, default 4096
        4096, 16384 or 65536 bytes.
    max_pool_percent : int, default 20
        How much of the memory (the machine's, or the cgroup's limit where that is less) the
        allocators may take.
    max_pool_bytes : int or str, optional
        The same in bytes, or as ``"512MiB"``; wins over the percentage.  At least four pages; 0 is
        no pool at all: only same-filled pages are held, and others go to the backing store where
        there is one.
    max_memory_bytes : int or str, optional
        Most bytes for all that the engine takes: the pools, the index and other metadata, scratch
        and buffers.  The lower of the two limits counts.  At its end same-filled pages are refused
        as well, or go to the backing store.  ``"auto"`` keeps the whole process below the limit of
        its cgroup, RLIMIT_AS and RLIMIT_DATA, or else the machine's memory, and
        ``"auto:448MiB"`` below that: the engine takes what is left, less or more at each look of
        the shrinker.
    accept_threshold_percent : int, default 90
        After a page was refused at the limit, others are until the allocators are down to this
        share of it; with `direct_reclaim` and a backing store only the shrinker goes by it.
    same_filled_pages_enabled : bool, default True
        Hold a page whose 8-byte words are all equal as that one word.
    backing : path, SwapFile or object with write_pages and read_pages, optional
        Where area 0's coldest pages go when the limit was hit, and pages that are refused.
    encrypt : bool, optional
        Encrypt the swap file that `backing` names, and those of areas that `swapon` adds later,
        with a key that only this process ever has; see `SwapFile`.  By default as `backing` does;
        False says that files may hold pages in clear.
    wipe_on_free : bool, default False
        Overwrite what pages leave behind in zswap's memory when they are freed, replaced, moved or
        written back.
    dontdump : bool, default False
        Keep the engine's memory out of core dumps (MADV_DONTDUMP).
    dontfork : bool, optional
        Let a forked child, whose copy of the engine is closed, find zeros where pages are
        (MADV_WIPEONFORK).  By default where the system can; with True it must.
    direct_reclaim : bool, default True
        Let a page that meets the limit wait while the coldest pages are written back, so that it
        is the coldest that go.  False is the kernel's way: it is refused until the shrinker has
        reached the accept threshold, and goes to the backing store itself.  Without a backing
        store it makes no difference.
    read_ahead : bool, default True
        Have single loads of pages in order read those that follow with them from the backing
        store.
    promote : {"second", "always", "never"}, default "second"
        When a page that was read from the backing store stays in the pool again: when it is read a
        second time before long, each time, or never.  The store keeps it, so that writing it back
        again is no write.
    shrinker_enabled : bool, default True
        Also write back when memory is short: tasks stall on it, or the cgroup is near its limit.
    shrinker_interval : float, default 1.0
        Seconds between two looks of the shrinker; a store that hits the limit wakes it at once.
    numa_node : int, optional
        Bind the pools' memory to this node.  By default each page comes from the node of the thread
        that stores.
    dictionary : bytes-like, optional
        What pages have in common, for the compressor zstd; `zswap.train_dictionary` makes one.  To
        go over to another one later: ``z.compressor = zswap.open_compressor("zstd:3",
        dictionary=...)``.
    latency : bool, default False
        Time every store and load, for `latency`.
    checksum : bool, default False
        Keep four bytes of checksum with every page, and hold the page against it whenever it is
        decompressed, moved or read from the backing store, so that damage done to the memory or to
        the backing store is a `PageCorruptError` and never a wrong page.  That is for accidents:
        against somebody who writes to the swap file it takes `encrypt` as well, since such a sum
        has no key.  A page that another thread changes while it is being stored may seem damaged as
        well.
    trim_zeros : bool, default False
        Compress a page only up to the zeros that it ends in, and make them anew when it is read:
        for values shorter than a page, filled up with zeros.  Compressors in Python are given whole
        pages all the same.

    Raises
    ------
    CompressorNotFound
        For an unknown compressor, or one whose library is missing.
    ValueError
        For any other argument out of range.

    Notes
    -----
    The logger ``zswap`` is told once, at WARNING, when the pool reaches its limit, when pages are
    refused, and when a backing store fails or works again; what a thread of the engine's own finds,
    by the next store, load, `shrink` or `stats`.

    Examples
    --------
    >>> with ZSwap("lz4", max_pool_bytes="64MiB") as z:
    ...     z[7] = b"swap" * 1024
    ...     z[7][:8]
    b'swapswap'
    """

    _parameters: Parameters | None = None  # until __init__
    _budgeted = False  # whether there is a budget
    _batches: Batches | None = None  # what is awaited: until there is something
    _plain = True  # whether the mapping's items are the engine's pages

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Leave methods built on items to collections.abc where a subclass makes items otherwise.

        They are right there, though in steps.
        """
        super().__init_subclass__(**kwargs)
        if any(
            getattr(cls, name) is not getattr(Engine, name)
            for name in ("__getitem__", "__setitem__", "__delitem__")
        ):
            cls._plain = False
            for name in ("pop", "popitem", "setdefault", "__eq__"):
                if getattr(cls, name) is getattr(ZSwap, name):
                    setattr(cls, name, getattr(MutableMapping, name))

    def __init__(
        self,
        compressor: str | Compressor = "lz4",
        zpool: str = "zsmalloc",
        page_size: int = 4096,
        *,
        max_pool_percent: int = 20,
        max_pool_bytes: int | str | None = None,
        max_memory_bytes: int | str | None = None,
        accept_threshold_percent: int = 90,
        same_filled_pages_enabled: bool = True,
        backing: Any = None,
        encrypt: bool | None = None,
        wipe_on_free: bool = False,
        dontdump: bool = False,
        dontfork: bool | None = None,
        direct_reclaim: bool = True,
        read_ahead: bool = True,
        promote: str = "second",
        shrinker_enabled: bool = True,
        shrinker_interval: float = 1.0,
        numa_node: int | None = None,
        dictionary: Any = None,
        latency: bool = False,
        checksum: bool = False,
        trim_zeros: bool = False,
    ) -> None:
        self._begin(page_size)
        self._log = Log()
        self._bulk = Lock(reentrant=True)  # changes of many pages at once, one after another
        try:
            self._protect(
                boolean(wipe_on_free),
                boolean(dontdump),
                None if dontfork is None else boolean(dontfork),
            )
            self._node = -1 if numa_node is None else online_node(numa_node)
            self._parameters = Parameters(
                self,
                {
                    "compressor": open_compressor(compressor, dictionary=dictionary),
                    "zpool": zpool,
                    "max_pool_percent": max_pool_percent,
                    "max_pool_bytes": max_pool_bytes,
                    "max_memory_bytes": max_memory_bytes,
                    "accept_threshold_percent": accept_threshold_percent,
                    "same_filled_pages_enabled": same_filled_pages_enabled,
                    "direct_reclaim": direct_reclaim,
                    "read_ahead": read_ahead,
                    "promote": promote,
                    "latency": latency,
                    "checksum": checksum,
                    "trim_zeros": trim_zeros,
                    "shrinker_enabled": shrinker_enabled,
                    "shrinker_interval": shrinker_interval,
                },
            )
            if self.parameters["checksum"]:
                self._use_checksum(open_checksum())
            if self.parameters["trim_zeros"]:
                self._trim_zeros()
            for key, row in PARAMETERS.items():
                # Of others than switches one applies all of its kind.
                if row.apply == "switch" or key == FIRST[row.apply]:
                    self._apply(self.parameters._values, key)
            self._set_pressure(*pressure_files())
            self._set_encrypt(encrypt)
            self.swapon(0, backing=backing, encrypt=encrypt)
        except BaseException:
            self.close()
            raise
        _open.add(self)

    def __setattr__(self, name: str, value: Any) -> None:
        cls = type(self)
        known = getattr(cls, name, None)
        settable = isinstance(known, property) and known.fset is not None
        if (
            name in PARAMETERS
            and not settable
            and (known is None or known is getattr(ZSwap, name, None))
        ):
            wrong = True
        elif name.startswith("_") or settable:
            wrong = False
        elif known is not None:
            # a method, which may be replaced by another
            wrong = callable(known) and not callable(value)
        else:
            wrong = cls is ZSwap  # subclasses have attributes of their own
        if wrong:
            raise AttributeError(
                not_an_attribute(
                    f"a {cls.__name__} has", name, ".parameters[{!r}]", ("compressor", "zpool")
                ),
                name=name,
                obj=self,
            )
        super().__setattr__(name, value)

    @property
    def parameters(self) -> Parameters:
        """The parameters, as a mutable mapping; setting one takes effect at once."""
        if self._parameters is None:
            raise ValueError(
                f"this {type(self).__name__} is not open: its __init__ was not called, or failed"
            )
        return self._parameters

    def _apply(self, values: Any, key: str) -> None:
        """Make the engine follow one parameter, or fail and change nothing.

        `Parameters` sets one at a time.
        """
        getattr(self, f"_apply_{PARAMETERS[key].apply}")(values, key)
        self._log.changed()

    def _apply_switch(self, values: Any, key: str) -> None:
        self._set_flag(key, values[key])

    def _apply_pool(self, values: Any, key: str) -> None:
        self._use_pool(values["compressor"], *parse_zpool(values["zpool"]), self._node)

    def _apply_promote(self, values: Any, key: str) -> None:
        self._set_promote(values[key])

    def _apply_fixed(self, values: Any, key: str) -> None:
        if values[key] != self.parameters[key]:
            raise ValueError(f"{key} is chosen when the ZSwap is made")

    def _apply_writeback(self, values: Any, key: str) -> None:
        limit = values["writeback_limit"]
        if limit is not None and key != "writeback_limit":
            limit = self._writeback_limit()  # what is left of it
        self._set_writeback(
            values["shrinker_enabled"],
            int(values["shrinker_interval"] * 1e9),
            -1 if limit is None else limit,
            values["writeback_rate"] or 0,
        )

    def _apply_limit(self, values: Any, key: str) -> None:
        limit = values["max_pool_bytes"]
        if limit is None:
            limit = total_ram() * values["max_pool_percent"] // 100
        pages = limit // self.page_size
        if pages < FEWEST_PAGES and limit > 0:
            what = "max_pool_percent" if values["max_pool_bytes"] is None else "max_pool_bytes"
            raise ValueError(
                f"{what} gives a limit of {limit} bytes, {pages} pages of {self.page_size}: "
                "too little to hold anything; "
                f"give at least {FEWEST_PAGES * self.page_size} bytes, or 0 for no pool at all"
            )
        budget = self._read_budget(values["max_memory_bytes"])
        self._set_limits(pages, pages * values["accept_threshold_percent"] // 100)
        if budget != _NO_BUDGET or self._budgeted:
            self._set_budget(*budget)  # looks at the process at once, too
            self._budgeted = budget != _NO_BUDGET

    def _read_budget(self, value: int | str | None) -> tuple[int, int, tuple[int, int, int]]:
        """Return what `_set_budget` takes."""
        least = LEAST_BUDGET + BUDGET_PAGES * self.page_size
        if value is None:
            return _NO_BUDGET
        if isinstance(value, str):
            limit = int(value.partition(":")[2]) if ":" in value else None
            return least, least, process_ceilings(limit)
        if value < least:
            raise ValueError(
                f"max_memory_bytes is {value}; with pages of {self.page_size} bytes at least "
                f"{least} are needed"
            )
        return value, least, (0, 0, 0)

    def _news(self, filled: bool, stores: list[tuple[Any, int, int, int]]) -> None:
        if filled:
            self._log.filled(self._limits_now()[0])
        for store in stores:
            self._log.store(*store)

    def _deaf(self, error: BaseException) -> None:
        self._log.deaf(error)

    def _refused(self, status: int, error: Exception) -> None:
        if hasattr(self, "_log"):  # else it was never initialised
            self._log.refused(status, error)

    @property
    def compressor(self) -> str:
        """The current pool's compressor.

        Setting it starts a new pool; pages held stay readable and move when stored anew.
        """
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
            max_pool_bytes=totals.pop("max_pages") * self.page_size,
            pool_total_size=totals.pop("pool_pages") * self.page_size,
            idle_bytes=totals.pop("idle_pages") * self.page_size,
            **totals,
        )

    def pools(self) -> list[PoolInfo]:
        """List the pools that exist, the current one first."""
        return [
            PoolInfo(
                spec,
                format_zpool(name, chain, kernel),
                current,
                entries,
                pages * self.page_size,
                entries + current,
            )
            for spec, name, chain, kernel, current, entries, pages in self._pools()
        ]

    def areas(self) -> list[AreaInfo]:
        """List the swap areas that are online, by number, with what each holds.

        While others store and load, each figure is of some moment; at rest all are exact.
        """
        return [
            AreaInfo(
                swap_type,
                nr_pages,
                backing,
                quota,
                variable,
                # what is on its way to the store just now is in neither
                max(pages - backed, 0),
                same,
                raw,
                size,
                backed,
            )
            for (
                swap_type,
                nr_pages,
                backing,
                quota,
                variable,
                pages,
                same,
                raw,
                backed,
                size,
            ) in self._areas()
        ]

    def latency(self, *, reset: bool = False) -> dict[str, Latency]:
        """Tell how long stores and loads took, pages of batches included.

        Only those count that came while the parameter ``latency`` was on.

        Parameters
        ----------
        reset : bool, default False
            Begin anew afterwards.

        Returns
        -------
        dict
            `Latency` of ``"store"`` and of ``"load"``.  Refused stores and loads that found nothing
            are not in it.
        """
        return {
            name: Latency(*row)
            for name, row in zip(("store", "load"), self._latency(reset), strict=True)
        }

    async def aload(
        self,
        offset: SupportsIndex,
        out: Any = None,
        *,
        swap_type: SupportsIndex = 0,
        absent: Literal["raise", "zeros"] = "raise",
    ) -> Any:
        """Load a page as `load` does, without holding up the event loop.

        What is in the pool is there at once, with no step of the loop.  What is in the backing
        store, or on its way there, is read by a thread of the engine's, with all else that is
        awaited then.

        A load that is cancelled touches `out` no more; with `exclusive_loads` its page is held
        again.  Whatever waits when the engine is closed is a ValueError.

        Parameters
        ----------
        offset, out, swap_type, absent
            As for `load`.

        Returns
        -------
        bytes or buffer
            The page, or `out`.

        Raises
        ------
        KeyError, PageCorruptError, ValueError
            As `load`.
        """
        page = self._load_at_once(offset, out, swap_type=swap_type, absent=absent)
        if page is None:
            from zswap import aio

            page = await aio.load(self, offset, out, swap_type, absent)
        return page

    async def astore(
        self, offset: SupportsIndex, page: Any, *, swap_type: SupportsIndex = 0
    ) -> None:
        """Store a page as `store` does, without holding up the event loop.

        A thread of the engine's compresses it, with all else that is awaited then, in the order in
        which they were begun.  The page is copied first, unless it is bytes: it may be changed as
        soon as this has begun.  If it is cancelled, the page is stored or it is not.

        Parameters
        ----------
        offset, page, swap_type
            As for `store`.

        Raises
        ------
        PoolLimitError, BackingError, Error, ValueError
            As `store`.
        """
        data = self._page_to_store(offset, page, swap_type)
        from zswap import aio

        await aio.store(self, offset, data, swap_type)

    def close(self) -> None:
        """Wait for calls in flight and free everything.

        Closing twice is fine; anything else after it is a ValueError.
        """
        super().close()
        if self._batches is not None:
            self._batches.close()

    def serve_stats(self, path: str | os.PathLike[str]) -> StatsServer:
        """Serve the figures on a Unix socket, for ``zswap top``.

        Parameters
        ----------
        path : path-like
            Where the socket is made.

        Returns
        -------
        StatsServer
            Close it, or use it as a context manager, to stop.
        """
        from zswap.serve import StatsServer

        return StatsServer(self, path)

    def swapon(
        self,
        swap_type: SupportsIndex,
        nr_pages: int | None = None,
        backing: Any = None,
        *,
        encrypt: bool | None = None,
        quota_bytes: int | str | None = None,
        variable: bool = False,
    ) -> None:
        """Bring a swap area online.

        Parameters
        ----------
        swap_type : int
            The area's number, 0 to 255.  Area 0 is online from the start.
        nr_pages : int, optional
            Offsets 0 to ``nr_pages - 1`` are the area's.  By default all that the backing store
            has, or without one any offset up to ``2**47 - 1``.
        backing : path, SwapFile or object with write_pages and read_pages, optional
            Where the coldest pages go, and those that are refused.
        encrypt : bool, optional
            Encrypt the swap file, see `SwapFile`.  By default as the engine: it encrypts all once
            it was told to encrypt one, be it here, when it was made, or by a SwapFile that does.  A
            backing that does not is then refused, unless False says that it may hold pages in
            clear.
        quota_bytes : int or str, optional
            How much the area's pages may take of the pool, see `set_quota`.  By default only the
            limit on the whole pool counts, as in the kernel.
        variable : bool, default False
            Have it hold values of 1 to `page_size` bytes, which take what they are compressed to
            and no page.  `load` gives back as many bytes as were stored; with `out`, at least as
            long (`page_size` where `exclusive_loads` is on), it fills the front of that and gives a
            memoryview of it.  `store_many` takes a sequence of values, `load_many` gives a list of
            bytes, with None where `status` is negative, in one thread each.  Parts must lie in the
            value.  `storev` and `loadv` are for pages.

        Raises
        ------
        ValueError
            When the area is online already, a number is out of range, or the backing does not
            encrypt though it should.
        BackingError
            When the backing store cannot be opened, or another engine uses it.
        """
        self._swapon(swap_type, nr_pages, backing, encrypt, _quota(quota_bytes), variable)
        if variable:
            self.parameters._values["trim_zeros"] = True

    def set_quota(self, swap_type: SupportsIndex, quota_bytes: int | str | None) -> None:
        """Limit what the pages of one area take of the pool, or no longer.

        What counts is their payload, `AreaInfo.compressed_bytes`, to the byte; same-filled pages
        take nothing.  A store that would exceed the quota has the area's own coldest pages written
        back and waits for that, whatever `direct_reclaim` says.  Where there is no backing store,
        or it fails, the page is refused with `Status.AREA_QUOTA`, as at the limit on the pool.
        A page that takes the place of one as large is always within the quota.  No page of another
        area goes for it; and what another takes of the pool is not reserved for this one.

        Parameters
        ----------
        swap_type : int
            The area.
        quota_bytes : int, str or None
            Bytes, or as ``"64MiB"``; 0 for none but same-filled pages; None for no quota.  What the
            area has above is written back before this returns, where it has a backing store;
            without one it stays, and nothing that takes room comes in.

        Raises
        ------
        ValueError
            When the area is not online, or the number negative.
        """
        self._set_quota(swap_type, _quota(quota_bytes))

    def swapoff(self, swap_type: int, *, drain: bool = False) -> Iterator[tuple[int, bytes]] | None:
        """Take a swap area offline and free every page it held.

        Parameters
        ----------
        swap_type : int
            The area.
        drain : bool, default False
            Give the pages back: the result is an iterator over (offset, page), each page freed as
            it is given, and the area goes offline at its end.  What is stored meanwhile is given
            too; towards the end, once all has been given that there was, stores are refused.  If a
            page cannot be read, the error comes out of the iterator; that page and those not yet
            given stay held and the area online.

        Raises
        ------
        ValueError
            When the area is not online.
        """
        if not drain:
            self._swapoff(swap_type)
            return None
        swap_type = operator.index(swap_type)  # asked once
        if not self._online(swap_type):
            raise ValueError(f"swap area {swap_type} is not online")
        return self._drain(swap_type)

    def _drain(self, swap_type: int) -> Iterator[tuple[int, bytes]]:
        yield from self._take_all(swap_type)
        self._seal(swap_type, True)
        try:
            yield from self._take_all(swap_type)  # what came before it was sealed
            self._swapoff(swap_type)
        except BaseException:
            with suppress(ValueError):  # closed, or offline by somebody else
                self._seal(swap_type, False)
            raise

    def _take_all(self, swap_type: int, most: int = 1 << 14) -> Iterator[tuple[int, bytes]]:
        """Take pages until there are none.

        It takes `most` of a shard before it looks again which there are.
        """
        while self._page_count(swap_type):
            for number in self._shards(swap_type):
                for offset in self._shard_offsets(number, swap_type, most):
                    try:
                        page = self._take(offset, swap_type=swap_type)
                    except KeyError:  # gone meanwhile
                        continue
                    yield offset, page

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

        A result is kept only if it lands in a smaller size class.  The pages move to a pool of
        `compressor` and the current allocator; stores go on using the current compressor.
        `compact` afterwards gives back what the old pool has to spare.  It stops early when the
        pools reach the limit.

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
            How many pages moved, how many were tried and kept, and the bytes of those moved before
            and after.
        """
        limit = (1 << 63) if max_pages is None else min(operator.index(max_pages), 1 << 63)
        if limit < 0:
            raise ValueError(f"max_pages is {max_pages}; it cannot be negative")
        opened, zpool = open_compressor(compressor, dictionary=dictionary), parse_zpool(self.zpool)
        return Recompressed(
            *self._recompress(opened, *zpool, self._node, idle_seconds, incompressible, limit)
        )

    def weight(
        self, start: SupportsIndex, stop: SupportsIndex, *, swap_type: SupportsIndex = 0
    ) -> Weight:
        """Say what a range of offsets holds and takes, before the allocator's rounding.

        Parameters
        ----------
        start, stop : int
            The first page number, and the one after the last.
        swap_type : int, optional
            The swap area.

        Returns
        -------
        Weight
            Pages, same-filled ones, those in the backing store, and the compressed bytes of the
            others.  While others store it is right for each page as it was at some moment.
        """
        return Weight(*self._weight(start, stop, swap_type))

    def evict(self, what: int | str | range, *, swap_type: SupportsIndex = 0) -> int:
        """Write the coldest pages back until so much memory is free, or those of a range.

        Parameters
        ----------
        what : int, str or range
            Bytes, or as ``"64MiB"``; or offsets whose pages go, cold or not, but for same-filled
            ones, which take no room.
        swap_type : int, optional
            The swap area that a range is of.

        Returns
        -------
        int
            Bytes by which `Stats.resident_bytes` is smaller: less than asked for, or 0, when there
            is no backing store, it fails or has no room, the budget of writeback is used up, or no
            more is held.  What others store meanwhile counts against it.

        Raises
        ------
        ValueError
            The range has a step, or offsets that no area has.
        """
        if isinstance(what, range):
            start, stop = _ends_of(what)
            before = self.stats().resident_bytes
            if self._evict_range(start, stop, swap_type):
                self.compact()
            return max(before - self.stats().resident_bytes, 0)
        return self._evict_bytes(min(parse_bytes(what), 1 << 62))

    def promote(self, offsets: range, *, swap_type: SupportsIndex = 0) -> int:
        """Bring pages back from the backing store before they are asked for.

        Parameters
        ----------
        offsets : range
            Their offsets.
        swap_type : int, optional
            The swap area.

        Returns
        -------
        int
            How many pages became resident.  The store keeps them, so that writing one back is no
            write until it is stored anew.  It ends where the limit is reached; what cannot be read
            is left alone: whoever loads it is told.

        Raises
        ------
        ValueError
            The range has a step, or offsets that no area has.
        """
        return self._recall_range(*_ends_of(offsets), swap_type)

    def pop(self, offset: int, default: Any = _NOTHING) -> Any:
        """Give a page of area 0 and free it, in one step.

        Parameters
        ----------
        offset : int
            Page number.
        default : object, optional
            What to give where nothing is held.

        Raises
        ------
        KeyError
            When nothing is held and there is no `default`.
        """
        try:
            return self._take(offset)
        except KeyError:
            if default is _NOTHING:
                raise
            return default

    def popitem(self) -> tuple[int, bytes]:
        """Give the first page of area 0 with its offset, and free it; or raise KeyError."""
        for item in self._take_all(0, 8):
            return item
        raise KeyError("popitem(): no page is held")

    def setdefault(self, offset: SupportsIndex, default: Any = None) -> Any:
        """Give a page of area 0, which stays held; where there is none, store one, in one step.

        Parameters
        ----------
        offset : int
            Page number.
        default : bytes-like
            The page to store and give where nothing is held.
        """
        offset = operator.index(offset)  # asked once
        while True:
            try:
                return self._read(offset)
            except KeyError:
                if self._store_absent(offset, default):
                    return default

    def update(self, other: Any = (), /, **pages: Any) -> None:
        """Store pages in area 0, from a mapping of offsets to pages or from pairs of the two.

        Each page is in place at once, not all of them together; but no `clear` and no update from
        another dict comes in between where `other` is a dict.  When one is refused its exception is
        raised, and those before it stay stored.

        Parameters
        ----------
        other : mapping or iterable of pairs
            Offsets and pages.
        **pages : bytes-like
            Taken as dict takes them; an offset is no name, so they are refused.
        """
        if other is self:
            pairs: Iterable[tuple[SupportsIndex, Any]] = ()
        elif isinstance(other, ZSwap):
            pairs = other._held()
        elif isinstance(other, Mapping):
            pairs = other.items()
        elif hasattr(other, "keys"):
            pairs = ((offset, other[offset]) for offset in other.keys())  # noqa: SIM118
        else:
            pairs = other
        if isinstance(other, dict):
            self._update_at_once(list(itertools.chain(pairs, pages.items())))  # type: ignore[arg-type]
            return
        rest = itertools.chain(pairs, pages.items())
        while some := list(itertools.islice(rest, 64)):
            for offset, page in some:
                self[offset] = page  # type: ignore[index]

    def _update_at_once(self, pairs: list[tuple[SupportsIndex, Any]]) -> None:
        if self.closed:  # in a forked child somebody of the parent's may hold the lock for ever
            raise ValueError("the ZSwap is closed")
        with self._bulk:
            for offset, page in pairs:
                self[offset] = page

    def __ior__(self, other: Any) -> ZSwap:
        self.update(other)
        return self

    def clear(self) -> None:
        """Free every page of area 0."""
        if self.closed:
            raise ValueError("the ZSwap is closed")
        with self._bulk:
            self.invalidate_area(0)

    def __iter__(self) -> Iterator[int]:
        for number in self._shards():
            yield from self._shard_offsets(number)

    def items(self) -> ItemsView[int, bytes]:
        """Offsets of area 0 with their pages, in order."""
        return _Items(self) if self._plain else ItemsView(self)

    def values(self) -> ValuesView[bytes]:
        """Pages of area 0, in the order of their offsets."""
        return _Values(self) if self._plain else ValuesView(self)

    def __enter__(self) -> ZSwap:
        if self.closed:
            raise ValueError("the ZSwap is closed")
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self.closed:
            return "<ZSwap closed>"
        pool, budget = map(format_bytes, self._limits_now())
        of = self.parameters["max_memory_bytes"]
        if of is not None:
            pool += f", {budget} in all{' (auto)' if isinstance(of, str) else ''}"
        return (
            f"<ZSwap {self.compressor} on {self.zpool}: {self.stats().stored_pages} pages, "
            f"limit {pool}{', encrypted' if self.encrypt else ''}>"
        )

    def _held(self) -> Iterator[tuple[int, bytes]]:
        """Offsets and pages of area 0, none of them freed by exclusive_loads."""
        for offset in self:
            try:
                yield offset, self._read(offset)
            except KeyError:  # gone since its offset was read
                continue

    def __eq__(self, other: object) -> bool:
        """Whether both are the same mapping, or hold the same pages at the same offsets.

        A closed one equals only itself.
        """
        if self is other:
            return True
        if not isinstance(other, Mapping):
            return NotImplemented
        if self.closed or (isinstance(other, ZSwap) and other.closed) or len(self) != len(other):
            return False
        get = other._peek if isinstance(other, ZSwap) else other.get
        return all(_same_page(page, get(offset)) for offset, page in self._held())

    def _peek(self, offset: int) -> bytes | None:
        try:
            return self._read(offset)
        except KeyError:
            return None

    # By identity, though pages are compared: what it holds changes, and sets of engines are of use.
    __hash__ = object.__hash__
