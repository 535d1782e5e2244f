"""The exception behind a failure in a compressor or a backing store written in Python.

It cannot pass through the compiled core, which knows result codes only.  So it waits here, for the
thread it happened in, until the binding turns the code into an exception: what another thread's
call met is never told.
"""

import threading
from typing import Any

_last = threading.local()


def remember(owner: Any, error: BaseException | None) -> None:
    """Keep what a call of `owner` by this thread raised; None for one that went well."""
    _last.owner, _last.error = (None, None) if error is None else (owner, error)


def recall(owner: Any) -> BaseException | None:
    """Give the exception, once, if it is this thread's latest and `owner` raised it."""
    error: BaseException | None = getattr(_last, "error", None)
    if error is None or _last.owner is not owner:
        return None
    remember(None, None)
    return error


def out_of_stack() -> RecursionError:
    """Make the exception of a call that has called the engine, and so itself, too often."""
    return RecursionError(
        "called by the engine from within its own calls until the stack of the thread was used up"
    )
