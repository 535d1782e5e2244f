"""``zswap run``: programs whose large allocations lie in a memory that has a budget.

The program is started with a small library of ours preloaded, which has what it allocates come from
a region of memory that this process serves.  What the two say to each other is in
zswap_core/include/zswap/program.h.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import selectors
import signal
import socket
import struct
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import zswap_core.preload
from zswap.meminfo import format_bytes
from zswap.memory import Memory
from zswap_core.binding.programs import PART, Programs, die_with_parent, forward_signals
from zswap_core.errors import Error

__all__ = ["LIBRARY", "NotRun", "ProgramMemory", "Summary", "run"]

LIBRARY = os.path.join(os.path.dirname(zswap_core.preload.__file__), "zswap_run.so")
_HELLO, _WELCOME, _READY, _REPLY = (struct.Struct(form) for form in ("=II", "=QQ", "=Q", "=qQ"))
_VERSION = 1
_SO_COOKIE = 57
_HIGH = 950  # where programs do not expect a descriptor
_LOOK = 0.5  # seconds between two looks how well pages compress
_ENDING = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGWINCH,
)


class NotRun(Error):
    """The program could not be started."""

    def __init__(self, program: str, error: int) -> None:
        super().__init__(f"cannot run {program}: {os.strerror(error)}")
        self.code = 127 if error in (errno.ENOENT, errno.ENOTDIR) else 126  # as shells have it


@dataclass(frozen=True)
class Summary:
    """What came of a program.

    Attributes
    ----------
    code : int
        Its exit code, or 128 and the number of the signal that ended it.
    peak_bytes, budget : int
        The most that pages, pool and metadata took, and might take.
    allocated_bytes : int
        The most that was allocated at a time.
    faults : int
        Touches of pages that were not there.
    ratio : float
        How well pages compressed when most of them were in the pool; 0 if none were.
    spilled_bytes : int
        What went to the backing file, in all.
    processes : int
        How many had memory from here.
    """

    code: int
    peak_bytes: int
    budget: int
    allocated_bytes: int
    faults: int
    ratio: float
    spilled_bytes: int
    processes: int

    def __str__(self) -> str:
        if not self.processes:
            return (
                "run: nothing was allocated here: the program took no block of min-size or more, "
                "or it is statically linked or set-user-ID"
            )
        ratio = f"{self.ratio:.1f}" if self.ratio else "none"
        return (
            f"run: at most {format_bytes(self.peak_bytes)} of {format_bytes(self.budget)}; "
            f"{format_bytes(self.allocated_bytes)} allocated; {self.faults:,} faults; "
            f"ratio {ratio}; {format_bytes(self.spilled_bytes)} spilled"
        )


class ProgramMemory(Memory):
    """A memory whose pages other processes touch; arguments as for `Memory`."""

    _region: Programs

    def _open(self, used: Any, pages: int, limit: int, mode: str) -> tuple[Any, str]:
        try:
            programs = Programs(
                self._engine, used, pages - pages % PART, self._budget, limit, self._divides
            )
        except PermissionError as error:
            raise Error(str(error.strerror)) from error
        path = getattr(self._store, "path", None)
        if path is not None:
            programs.watch_space(os.path.dirname(path))
        return programs, "programs"


@dataclass(eq=False)
class _Client:
    """A process that has said hello."""

    sock: socket.socket
    life: int  # while this is open the process is not killed
    file: int
    pid: int
    number: int = 0  # of the program, once it has mapped its memory
    pidfd: int = -1


class _Server:
    """Answers what programs ask for, in a thread."""

    def __init__(self, memory: ProgramMemory, inbox: socket.socket) -> None:
        self.memory, self.inbox = memory, inbox
        self.ratio = 0.0
        self.processes = 0
        self.clients: set[_Client] = set()
        self._programs = memory._region
        self._most_stored = 0
        self._stopping = False
        self._selector = selectors.DefaultSelector()
        self._waker, self._wake = socket.socketpair()
        self._on(self.inbox, self._meet)
        self._on(self._waker, self._waker.recv, 1)
        self._thread = threading.Thread(target=self._run, name="zswap-run", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; processes that still have pages are killed."""
        self._stopping = True
        self._wake.send(b"\0")
        self._thread.join()
        self.kill(signal.SIGKILL)
        for client in list(self.clients):
            self._end(client)
        for sock in (self.inbox, self._waker, self._wake):
            sock.close()
        self._selector.close()

    def kill(self, number: int) -> None:
        """Send a signal to every process that has pages."""
        for client in list(self.clients):
            with contextlib.suppress(OSError):
                os.kill(client.pid, number)

    def wait_for_all(self) -> None:
        """Wait until no process has pages any more, whichever it was that the first left behind."""
        while self.clients and self._thread.is_alive():
            self._thread.join(0.02)

    # ---- the thread ------------------------------------------------------------------------------

    def _on(self, source: Any, call: Callable[..., object], *args: object) -> None:
        self._selector.register(source, selectors.EVENT_READ, (call, args))

    def _run(self) -> None:
        looked = 0.0
        try:
            while not self._stopping:
                for key, _ in self._selector.select(_LOOK):
                    call, args = key.data
                    call(*args)
                if time.monotonic() - looked > _LOOK:
                    self._look()
                    looked = time.monotonic()
        finally:
            if not self._stopping:  # they would wait for ever
                self.kill(signal.SIGKILL)

    def _look(self) -> None:
        """Note how well pages compress while there are most of them."""
        stats = self.memory._engine.stats()
        if stats.stored_pages > self._most_stored:
            self._most_stored, self.ratio = stats.stored_pages, stats.compression_ratio

    def _meet(self) -> None:
        """Give a process that says hello a file for its pages."""
        try:
            data, fds, *_ = socket.recv_fds(
                self.inbox, _HELLO.size, 2, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        if not data:  # nobody is left who could
            self._selector.unregister(self.inbox)
            return
        if len(data) != _HELLO.size or len(fds) != 2 or _HELLO.unpack(data)[0] != _VERSION:
            _close(*fds)
            return
        sock = socket.socket(fileno=fds[0])
        file = -1
        try:
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            file = os.memfd_create("zswap", os.MFD_CLOEXEC)
            os.ftruncate(file, self._programs.bytes)
            welcome = _WELCOME.pack(self._programs.bytes, self._programs.page_size)
            socket.send_fds(sock, [welcome], [file], socket.MSG_DONTWAIT)
        except OSError:
            sock.close()
            _close(fds[1], file)
            return
        client = _Client(sock, fds[1], file, struct.unpack("=iII", credentials)[0])
        self.clients.add(client)
        self._on(sock, self._hear, client)

    def _hear(self, client: _Client) -> None:
        if client.number:
            if not self._programs.answer(client.number, client.sock.fileno()):
                self._lost(client)
            return
        try:
            data, fds, *_ = socket.recv_fds(
                client.sock, _READY.size, 1, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:  # it has ended, or could not map its pages
            _close(*fds)
            self._end(client)
            return
        failed = errno.EPROTO
        try:
            if len(data) == _READY.size and len(fds) == 1 and _is_userfaultfd(fds[0]):
                client.number = self._programs.join(fds[0], client.file, *_READY.unpack(data))
                fds, client.file, failed = [], -1, 0
                self.processes += 1
        except OSError as error:
            failed = error.errno or failed
        _close(*fds)
        with contextlib.suppress(OSError):
            client.sock.send(_REPLY.pack(-failed, 0), socket.MSG_DONTWAIT)

    def _lost(self, client: _Client) -> None:
        """Its socket is closed: it has ended, or begun another program, or done that by itself."""
        self._selector.unregister(client.sock)
        if self._programs.is_alive(client.number):
            with contextlib.suppress(OSError):
                client.pidfd = os.pidfd_open(client.pid)
                self._on(client.pidfd, self._end, client)
                return
        self._end(client)

    def _end(self, client: _Client) -> None:
        for source in (client.sock, client.pidfd):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(source)
        self._look()
        if client.number:
            self._programs.leave(client.number)
        client.sock.close()
        _close(client.life, client.file, client.pidfd)
        self.clients.discard(client)


def _close(*fds: int) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)


def _is_userfaultfd(fd: int) -> bool:
    return os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[userfaultfd]"


# ---- the program ---------------------------------------------------------------------------------


def _environment(inherited: socket.socket, min_size: int) -> dict[str, str]:
    """Make the program's environment: the library, and where that finds us."""
    if not os.path.exists(LIBRARY):
        raise Error(f"{LIBRARY} is missing: install zswap anew")
    if any(c in LIBRARY for c in ": \t\n"):
        raise Error(
            f"the dynamic linker cannot load {LIBRARY!r}: install zswap where the path has no "
            "spaces or colons"
        )
    cookie = int.from_bytes(inherited.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8), "little")
    others = os.environ.get("LD_PRELOAD", "")
    return {
        **os.environ,
        "LD_PRELOAD": f"{LIBRARY}:{others}" if others else LIBRARY,
        "ZSWAP_RUN": f"{inherited.fileno()}:{cookie}:{min_size}",
    }


def _become(
    program: Sequence[str],
    environment: dict[str, str],
    inherited: int,
    go: int,
    failed: int,
    parent: int,
) -> NoReturn:
    """In the child: wait for the word, and be the program."""
    try:
        if os.read(go, 1) and die_with_parent(parent):
            for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
                signal.signal(number, signal.SIG_DFL)
            os.set_inheritable(inherited, True)
            os.execvpe(program[0], list(program), environment)
    except OSError as error:
        os.write(failed, bytes([error.errno or 1]))
    finally:
        os._exit(127)


class _Child:
    """The program's process, which waits until it is told to begin."""

    def __init__(self, program: Sequence[str], min_size: int) -> None:
        self.program = program
        self.inbox, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        high = fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, _highest())
        theirs.close()
        with socket.socket(fileno=high) as inherited:
            environment = _environment(inherited, min_size)
            go, self._go = os.pipe()
            self._failed, failed = os.pipe()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # numpy has threads: we exec
                parent = os.getpid()
                self.pid = os.fork()
            if self.pid == 0:
                os.close(self._go)
                _become(program, environment, high, go, failed, parent)
        _close(go, failed)

    def begin(self) -> None:
        """Run it; NotRun when that cannot be."""
        forward_signals(self.pid, _ENDING)
        os.write(self._go, b"!")
        error = os.read(self._failed, 1)
        _close(self._go, self._failed)
        self._go = self._failed = -1
        if error:
            self.wait()
            raise NotRun(self.program[0], error[0])

    def wait(self) -> int:
        """Wait for its end; the exit code, or 128 and the number of a signal."""
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        forward_signals(0, ())  # before its number can be another's
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.pid = 0
        return code if code >= 0 else 128 - code

    def abandon(self) -> None:
        """End it where it has not begun, or is still there for whatever reason."""
        _close(self._go, self._failed)
        self._go = self._failed = -1
        if self.pid:
            forward_signals(0, ())
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0


def _highest() -> int:
    """Choose a descriptor's number that is high, but below the limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _HIGH if soft == resource.RLIM_INFINITY or soft > _HIGH + 50 else max(soft // 2, 3)


def _allow_files() -> None:
    """Each process takes some of our descriptors."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(
    program: Sequence[str],
    budget: int | str,
    backing: str | None = None,
    *,
    min_size: int,
    limit: int | str | None = None,
    stats: str | None = None,
) -> Summary:
    """Run a program whose large allocations lie in a memory that has a budget.

    Parameters
    ----------
    program : sequence of str
        The program and its arguments.
    budget, backing, limit
        As for `Memory`; the file is encrypted, as what a program allocates holds its keys.
    min_size : int
        The smallest allocation that lies there, in bytes.
    stats : str, optional
        Where to serve figures for ``zswap top``.

    Returns
    -------
    Summary

    Raises
    ------
    NotRun
        When the program cannot be started.
    Error, ValueError, MemoryError, OSError
        As for `Memory`.
    """
    child = _Child(program, min_size)
    server = None
    try:
        memory = ProgramMemory(
            budget, backing, limit=limit, encrypt=backing is not None, checksum=backing is not None
        )
        _allow_files()
        served = memory.serve_stats(stats) if stats is not None else contextlib.nullcontext()
        with served:
            server = _Server(memory, child.inbox)
            child.begin()
            code = child.wait()
            try:
                server.wait_for_all()
            except (KeyboardInterrupt, SystemExit) as ended:
                said = ended.code if isinstance(ended, SystemExit) else None
                server.kill(said - 128 if isinstance(said, int) else signal.SIGINT)
                raise
            finally:
                server.close()
            figures = memory.stats()
            return Summary(
                code=code,
                peak_bytes=memory._region.most_bytes(),
                budget=memory.budget,
                allocated_bytes=figures.peak_allocated_bytes,
                faults=figures.faults,
                ratio=round(server.ratio, 3),
                spilled_bytes=memory._engine.stats().written_back_pages * memory._region.page_size,
                processes=server.processes,
            )
    finally:
        child.abandon()
