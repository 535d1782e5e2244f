"""A reader of another process, watched: it is left behind when it does not answer."""

from __future__ import annotations

import array
import io
import mmap
import os
import select
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence

from zswap.pages.reader import ANSWER, REQUEST, serve
from zswap.pages.source import SourceError, printable

__all__ = ["BUFFER_BYTES", "Blocked", "Reader", "command_of"]

#: The pages that go through the memory shared with the reader at a time.
BUFFER_BYTES = 16 << 20
#: Seconds after which a reader that says nothing is given up; smaps of a process of TiB takes some.
READ_LIMIT, LOOK_LIMIT, COMMAND_LIMIT = 10.0, 60.0, 2.0

_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "reader.py")


class Blocked(SourceError):
    """The process cannot be looked at without waiting for another."""


class _Forked:
    """A copy of this process that is the reader, where no interpreter can be started.

    It has as much of Popen as is needed.
    """

    def __init__(self, pages: mmap.mmap) -> None:
        theirs_in, ours_in = os.pipe()
        ours_out, theirs_out = os.pipe()
        # of other threads: the copy takes no lock that they could hold
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if not self.pid:
            try:
                os.setsid()
                os.dup2(theirs_in, 0)
                os.dup2(theirs_out, 1)
                os.closerange(2, os.sysconf("SC_OPEN_MAX"))
                serve(memoryview(pages), io.FileIO(0), io.FileIO(1, "w"))
            finally:
                os._exit(0)
        os.close(theirs_in)
        os.close(theirs_out)
        self.stdin, self.stdout = io.FileIO(ours_in, "w"), io.FileIO(ours_out)
        self.returncode: int | None = None

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while os.waitpid(self.pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("the reader", timeout)
            time.sleep(0.001)
        self.returncode = -9


class Reader:
    """A child process that looks at one process for us.

    `pages` is the memory that it reads pages into; after `patience` seconds without an answer to a
    look it is given up.
    """

    def __init__(self, patience: float = LOOK_LIMIT) -> None:
        self.patience = patience
        fd = os.memfd_create("zswap-pages", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, BUFFER_BYTES)
            self.pages = mmap.mmap(fd, BUFFER_BYTES)
            try:
                self._child: subprocess.Popen[bytes] | _Forked = subprocess.Popen(
                    [sys.executable or "python3", "-I", "-S", _PROGRAM, str(fd)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    bufsize=0,
                    pass_fds=[fd],
                    cwd="/",
                    start_new_session=True,  # Ctrl-C is for us
                )
            except OSError:  # no interpreter where we are, or none that we may run any more
                self._child = _Forked(self.pages)
        except OSError as error:
            raise SourceError(f"cannot start a process to read with: {error.strerror}") from error
        finally:
            os.close(fd)
        self._pid = 0

    def ask(
        self,
        letter: bytes,
        numbers: Sequence[int] | array.array[int] = (),
        *,
        limit: float | None = None,
    ) -> bytes:
        """Send a request and wait for the answer.

        Raises
        ------
        OSError
            What the kernel said to the reader.
        Blocked
            When no answer came in `limit` (or `patience`) seconds; the reader is given up then.
        """
        if letter in (b"o", b"c"):
            self._pid = numbers[0]
        payload = array.array("Q", numbers).tobytes()
        child = self._child
        if child.stdin is None or child.stdin.closed or child.stdout is None:
            raise ValueError("the pages of this process have been closed")
        try:
            request = memoryview(REQUEST.pack(letter, len(payload)) + payload)
            while request:
                request = request[child.stdin.write(request) :]
        except BrokenPipeError:
            raise self._lost() from None
        deadline = time.monotonic() + (self.patience if limit is None else limit)
        code, length = ANSWER.unpack(self._receive(ANSWER.size, deadline))
        answer = self._receive(length, deadline)
        if code:
            raise OSError(code, os.strerror(code))
        return answer

    def _receive(self, length: int, deadline: float) -> bytes:
        out = self._child.stdout
        assert out is not None
        poll = select.poll()
        poll.register(out, select.POLLIN)
        parts = []
        while length:
            left = deadline - time.monotonic()
            if not poll.poll(max(0.0, left) * 1000):
                self.close()
                raise Blocked(
                    f"process {self._pid} cannot be read: it waits for another program (a FUSE or "
                    "network file system, a"
                    " userfaultfd); choose another, or a core dump of it (--core)"
                )
            part = out.read(min(length, 1 << 20))
            if not part:
                raise self._lost()
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def _lost(self) -> SourceError:
        self.close()
        return SourceError(
            f"the reader of process {self._pid} has ended (was it killed, or out of memory?); try "
            "again"
        )

    def close(self) -> None:
        """End the reader; one that hangs in the kernel is left there."""
        child = self._child
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()
        if child.returncode is None:
            child.kill()
            try:
                child.wait(0.5)
            except subprocess.TimeoutExpired:
                child.returncode = -9  # not waited for, and no warning of it


def command_of(pids: Sequence[int]) -> tuple[list[str], Reader]:
    """Return the command lines of processes, and a reader for what comes next.

    A command line is a name in brackets where there is none, and ``?`` where it cannot be had.
    Reading one touches the memory of the process, so it is watched like all of that.
    """
    found: list[str] = []
    reader = Reader()
    for pid in pids:
        try:
            words = reader.ask(b"c", [pid], limit=COMMAND_LIMIT)
            found.append(
                printable(words.replace(b"\0", b" ").decode(errors="replace")).strip() or "?"
            )
        except Blocked:
            found.append("?")
            reader = Reader()
        except OSError:
            found.append("?")
        except BaseException:
            reader.close()
            raise
    return found, reader
