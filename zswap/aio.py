"""Loads and stores that are awaited: what `ZSwap.aload` and `ZSwap.astore` do not do at once.

An engine has one thread for them, begun by the first.  It takes all that has come meanwhile for one
batch, and gives what came of it to each event loop by one call.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import operator
import os
import threading
import weakref
from collections.abc import Iterable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from zswap_core.errors import BackingError, Error, StoreError
from zswap_core.locks import Lock

if TYPE_CHECKING:
    from zswap.core import ZSwap

MOST = 1024  # requests that are one batch

_beginning = Lock()  # of an engine's thread


class Request:
    """One page to be loaded, or stored where there is a `page`."""

    __slots__ = ("absent", "future", "offset", "out", "page", "room", "swap_type", "taken")

    def __init__(
        self, offset: Any, swap_type: Any, page: bytes | None, out: Any, absent: str
    ) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.offset, self.swap_type = operator.index(offset), operator.index(swap_type)
        self.page, self.out, self.absent = page, out, absent
        # held from now on, so that nobody makes it shorter
        self.room = None if out is None else np.frombuffer(out, np.uint8)
        self.taken = False  # whether a page was loaded, which exclusive_loads frees

    def kind(self) -> tuple[bool, int]:
        """Give what the requests of one call have in common."""
        return self.page is not None, self.swap_type

    def settle(self, z: ZSwap | None, outcome: Any) -> None:
        """Hand over what came of it, in the loop's thread."""
        if self.future.done():  # cancelled
            self.give_back(z, outcome)
        elif isinstance(outcome, BaseException):
            self.future.set_exception(outcome)
        elif self.page is not None:
            self.future.set_result(None)
        elif self.room is None:
            self.future.set_result(outcome.tobytes())
        else:
            self.room[:] = outcome
            self.future.set_result(self.out)

    def give_back(self, z: ZSwap | None, outcome: Any) -> None:
        """Hold a page again that nobody gets, where its load has freed it."""
        if self.taken and z is not None:
            with suppress(Error, ValueError, MemoryError):
                if z.parameters["exclusive_loads"]:
                    z._store_absent(self.offset, outcome, swap_type=self.swap_type)


def _load_values(z: ZSwap, requests: list[Request], swap_type: int) -> list[Any]:
    outcomes: list[Any] = []
    for request in requests:
        try:
            value = z.load(request.offset, swap_type=swap_type, absent=request.absent)  # type: ignore[arg-type]
        except Exception as error:
            outcomes.append(error)
        else:
            request.taken = True
            outcomes.append(np.frombuffer(value, np.uint8))
    return outcomes


def _load(z: ZSwap, requests: list[Request], swap_type: int) -> list[Any]:
    if z._is_variable(swap_type):
        return _load_values(z, requests, swap_type)
    pages = np.empty((len(requests), z.page_size), np.uint8)
    status = np.empty(len(requests), np.int8)
    z.load_many([r.offset for r in requests], pages, swap_type=swap_type, status=status)
    outcomes: list[Any] = []
    for request, page, code in zip(requests, pages, status.tolist(), strict=True):
        request.taken = code >= 0
        outcomes.append(page if request.taken else _load_again(z, request, page))
    return outcomes


def _load_again(z: ZSwap, request: Request, page: Any) -> Any:
    """Load a page that failed by itself, which tells why."""
    try:
        z.load(request.offset, page, swap_type=request.swap_type, absent=request.absent)  # type: ignore[arg-type]
    except Exception as error:
        return error
    return page


def _store(z: ZSwap, requests: list[Request], swap_type: int) -> list[Any]:
    offsets = [r.offset for r in requests]
    pages: Any = [r.page for r in requests if r.page is not None]
    try:
        z.store_many(
            offsets,
            pages if z._is_variable(swap_type) else b"".join(pages),
            swap_type=swap_type,
            errors="raise",
        )
    except StoreError as error:
        cause = error.__cause__
        rc = -(cause.errno or errno.EIO) if isinstance(cause, BackingError) else -errno.EIO
        return [
            None if code >= 0 else z._error(code, rc, offset, swap_type)
            for offset, code in zip(offsets, error.status.tolist(), strict=True)
        ]
    return [None] * len(requests)


def _serve(engine: weakref.ref[ZSwap], requests: Iterable[Request]) -> None:
    z = engine()
    wanted = [r for r in requests if not r.future.cancelled()]
    for (storing, swap_type), row in itertools.groupby(wanted, Request.kind):
        group = list(row)
        try:
            if z is None:
                raise ValueError("the ZSwap is closed")
            outcomes = (_store if storing else _load)(z, group, swap_type)
        except Exception as error:
            outcomes = [error] * len(group)
        _hand_over(engine, group, outcomes)


def _hand_over(engine: weakref.ref[ZSwap], requests: list[Request], outcomes: list[Any]) -> None:
    loops: dict[asyncio.AbstractEventLoop, list[tuple[Request, Any]]] = {}
    for request, outcome in zip(requests, outcomes, strict=True):
        loops.setdefault(request.future.get_loop(), []).append((request, outcome))
    for loop, settled in loops.items():
        try:
            loop.call_soon_threadsafe(_settle, engine, settled)
        except RuntimeError:  # it is closed
            for request, outcome in settled:
                request.give_back(engine(), outcome)


def _settle(engine: weakref.ref[ZSwap], settled: list[tuple[Request, Any]]) -> None:
    z = engine()
    for request, outcome in settled:
        request.settle(z, outcome)


def _work(queue: SimpleQueue[Request | None], engine: weakref.ref[ZSwap]) -> None:
    """Be the thread: it has no reference to the engine while there is nothing to do."""
    going = True
    while going:
        batch = [queue.get()]
        with suppress(Empty):
            while len(batch) < MOST:
                batch.append(queue.get_nowait())
        going = None not in batch
        _serve(engine, [request for request in batch if request is not None])
        del batch


class Batches:
    """An engine's thread, and what it is given."""

    def __init__(self, engine: ZSwap) -> None:
        self._queue: SimpleQueue[Request | None] = SimpleQueue()
        self._lock = Lock()
        self._ended = False
        self._pid = os.getpid()
        self._thread = threading.Thread(
            target=_work, args=(self._queue, weakref.ref(engine)), name="zswap-aio", daemon=True
        )
        self._thread.start()

    def submit(self, request: Request) -> bool:
        """Give it a request; False when it has ended."""
        with self._lock:  # so that nothing comes after the end
            if not self._ended:
                self._queue.put(request)
            return not self._ended

    def close(self) -> None:
        """Wait until it has done what it was given, and end it."""
        if self._pid != os.getpid():
            return  # a forked child has no such thread
        with self._lock:
            if not self._ended:
                self._queue.put(None)
            self._ended = True
        # It drops the last reference to the engine where everybody else has done so meanwhile.
        if threading.current_thread() is not self._thread:
            self._thread.join()


def _submit(z: ZSwap, request: Request) -> None:
    batches = z._batches
    if batches is None:
        with _beginning:
            batches = z._batches
            if batches is None:
                z._batches = batches = Batches(z)
        if z.closed:  # close() may not have seen it
            batches.close()
    if not batches.submit(request):
        len(z)  # raises what any call does now
        raise ValueError("the ZSwap is closed")


async def load(z: ZSwap, offset: Any, out: Any, swap_type: Any, absent: str) -> Any:
    """Load a page that cannot be had at once; the arguments have been checked."""
    request = Request(offset, swap_type, None, out, absent)
    _submit(z, request)
    return await request.future


async def store(z: ZSwap, offset: Any, page: bytes, swap_type: Any) -> None:
    """Store a page, which nobody changes meanwhile."""
    request = Request(offset, swap_type, page, None, "raise")
    _submit(z, request)
    await request.future
