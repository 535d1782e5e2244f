"""What an engine says to the logger ``zswap``."""

from __future__ import annotations

import os
import time
from collections.abc import Hashable
from contextlib import suppress
from typing import TYPE_CHECKING

from zswap.meminfo import format_bytes
from zswap_core.backings import Backing
from zswap_core.status import Status

if TYPE_CHECKING:
    import logging

# What comes and goes is told of so many times, and then once a minute: a disk that is nearly full
# fails every other page.
OFTEN = 8
SECONDS = 60.0


def _logger() -> logging.Logger:
    import logging  # takes longer to import than an engine to make, and most say nothing

    logger = logging.getLogger("zswap")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())  # silent, unless the program wants to hear it
    return logger


def _reason(status: int) -> str:
    """Name the kind of a refusal: the limit and what follows from it are one."""
    return "POOL_LIMIT" if status == Status.ACCEPT_THRESHOLD else Status(status).name


class Log:
    """What one engine has said so far.

    Everything is said once, until it changes.  A handler may call the engine back, or close it:
    nothing is held while it runs.  What a handler raises is dropped: a page that was stored is not
    to look refused because its news could not be written down.
    """

    def __init__(self) -> None:
        self._was_full = False
        self._refused: set[str] = set()
        self._failing: set[tuple[int, int]] = set()
        self._told: dict[Hashable, tuple[int, float]] = {}

    def changed(self) -> None:
        """Another value of a parameter: what comes of it is worth saying anew."""
        self._was_full = False
        self._refused.clear()

    def filled(self, limit: int) -> None:
        """Tell that the pool has reached its limit."""
        self._refused.discard("POOL_LIMIT")
        if not self._was_full:
            self._was_full = True
            self._say(
                "the pool has reached its limit of %s: until it is down to the accept threshold, "
                "pages go to a backing store "
                "or are refused",
                format_bytes(limit),
            )

    def store(self, store: Backing, swap_type: int, reads: int, code: int) -> None:
        """Tell that a backing store fails, or works again."""
        verb, key = "read" if reads else "write", (swap_type, reads)
        if code:
            if self._often(key):
                self._failing.add(key)
                why = store.last_error or os.strerror(code)
                self._say(
                    "%s, of swap area %d, fails to %s pages: %s", store.name, swap_type, verb, why
                )
        elif key in self._failing:
            self._failing.discard(key)
            self._say("%s, of swap area %d, %ss pages again", store.name, swap_type, verb)

    def refused(self, status: int, error: Exception) -> None:
        """Pages are refused."""
        reason = _reason(status)
        # of the store itself it was told
        if status != Status.BACKING_FAIL and reason not in self._refused:
            self._refused.add(reason)
            if self._often(reason):
                self._say("pages are refused: %s", error)

    def deaf(self, error: BaseException) -> None:
        """Tell that whoever was to hear of pages that left has failed."""
        if self._often("on_evict"):
            self._say("what on_evict was given has failed: %r", error, exc_info=error)

    def _often(self, key: Hashable) -> bool:
        """Whether to say it once more."""
        times, last = self._told.get(key, (0, 0.0))
        now = time.monotonic()
        if times >= OFTEN and now - last < SECONDS:
            return False
        self._told[key] = (times + 1, now)
        return True

    def _say(self, text: str, *values: object, exc_info: BaseException | None = None) -> None:
        with suppress(Exception):
            _logger().warning(text, *values, exc_info=exc_info)
