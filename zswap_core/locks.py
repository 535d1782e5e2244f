"""Locks of the Python level.

A thread of the parent may hold one at a fork, and in the child it will never let go.  So the child
gets them all anew: what they guard is whole whenever a thread can be stopped, or else left as it
was by one assignment.
"""

import os
import threading
import weakref
from types import TracebackType

_all: "weakref.WeakSet[Lock]" = weakref.WeakSet()


class Lock:
    """A `threading.Lock`, or RLock, for ``with``, that is free in a forked child."""

    def __init__(self, *, reentrant: bool = False) -> None:
        self._make = threading.RLock if reentrant else threading.Lock
        self._lock = self._make()
        _all.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()


def _renew() -> None:
    for lock in list(_all):
        lock._lock = lock._make()


os.register_at_fork(after_in_child=_renew)
