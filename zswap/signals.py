"""Signals that would end a command raise an exception, so that it gives everything back."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

__all__ = ["held", "raised"]

#: What somebody may end a command with, and what would end it; SIGPIPE and SIGXFSZ are errors of
#: the write already.
_ENDING = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGALRM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGXCPU,
)

_holding = 0
_waiting: list[int] = []


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Within, SIGINT is a KeyboardInterrupt and every other one a SystemExit of 128 and its number.

    What the program was started to ignore (nohup) stays ignored, and what somebody else handles is
    his.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in _ENDING:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                before[number] = signal.signal(number, _come)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Let these signals wait while a step is done that must not be left halfway.

    Not for what may take long.

    No mask would do: the libraries' threads have their own, and the interpreter hands what they
    take to the main thread.
    """
    global _holding
    _holding += 1
    try:
        yield
    finally:
        _holding -= 1
        if _waiting and not _holding:
            number = _waiting[0]
            _waiting.clear()
            _raise(number)


def _come(number: int, frame: FrameType | None) -> None:
    if _holding:
        _waiting.append(number)
    else:
        _raise(number)


def _raise(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if number == signal.SIGQUIT:
        signal.signal(number, signal.SIG_DFL)  # asked for twice, it ends at once
    raise SystemExit(128 + number)
