"""A running engine's figures on a Unix socket, for ``zswap top`` and whoever else asks.

The protocol, version 1: whoever connects to the stream socket sends lines; each line gets one line
of JSON.  The line ``stats`` gets an object with

``schema``, ``version``, ``zswap``
    ``"zswap.stats"``; 1, raised when a key changes its meaning or goes away (new keys may come at
    any time); the library's version.
``pid``, ``command``, ``time``, ``uptime``
    The program, its command line, seconds since the epoch, and seconds since it began to serve (by
    a clock that never jumps).
``stats``, ``pools``, ``parameters``
    What `ZSwap.stats` (``to_dict``), `ZSwap.pools` and `ZSwap.parameters` say.
``latency``
    What `ZSwap.latency` says, an object with ``count``, ``total``, ``p50``, ``p90``, ``p99`` and
    ``max`` for each kind of call, in nanoseconds; all 0 unless the parameter ``latency`` is on or
    was.

Any other line gets ``{"schema", "version", "error"}``.  A line may be 255 bytes long; a longer one
gets an error and the end of the connection.  By hand: ``echo stats | socat - UNIX-CONNECT:PATH``.
"""

from __future__ import annotations

import atexit
import errno
import json
import os
import secrets
import selectors
import socket
import stat
import sys
import threading
import time
import weakref
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from zswap.parameters import PARAMETERS

if TYPE_CHECKING:
    from zswap.core import ZSwap

__all__ = ["PROTOCOL_VERSION", "SCHEMA", "StatsServer"]

SCHEMA = "zswap.stats"
PROTOCOL_VERSION = 1

_LINE = 256  # bytes of a request, its newline included
_CLIENTS = 32  # connections at a time; one more ends the one that was quiet longest
_LOOK = 0.5  # seconds between two looks whether the engine is still there
_COMMAND = 1000  # characters

_servers: weakref.WeakSet[StatsServer] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for server in list(_servers):
        server._close_sockets()


def _at_exit() -> None:
    for server in list(_servers):
        server.close()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)


class _Client:
    """A connection: at most one piece of a request, and one answer not yet taken whole."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.request = bytearray()
        self.answer = b""
        self.last = False  # end the connection after this answer
        self.active = time.monotonic()


class StatsServer:
    """Serves an engine's figures on a Unix socket; `ZSwap.serve_stats` makes one.

    A daemon thread does the work: it wakes when a client asks, and twice a second to see whether
    the engine is closed.  It stops when `close` is called, when the engine is closed or nobody has
    it any more, and when the program exits; its file goes with it.  It does not keep the engine
    alive.  A forked child does not serve, and leaves the file alone.

    Parameters
    ----------
    engine : ZSwap
        The engine.
    path : path
        Where the socket goes, readable and writable by this user alone.  A socket that a dead
        program of this user has left there is replaced; nothing else is.

    Attributes
    ----------
    path : str
        The socket, as an absolute path.

    Raises
    ------
    FileExistsError
        When there is something else at the path.
    OSError
        With errno EADDRINUSE when somebody serves there; for any other reason why the socket cannot
        be made.
    ValueError
        When the engine is closed, or the path does not fit into a socket's address.

    Examples
    --------
    >>> import tempfile, zswap
    >>> with tempfile.TemporaryDirectory() as folder, zswap.ZSwap(max_pool_bytes="1MiB") as z:
    ...     with z.serve_stats(f"{folder}/stats.sock") as server:
    ...         server.closed
    False
    """

    def __init__(self, engine: ZSwap, path: str | os.PathLike[str]) -> None:
        engine.stats()  # closed?
        self.path = os.path.abspath(os.fsdecode(path))
        self._engine = weakref.ref(engine)
        self._pid = os.getpid()
        self._begun = time.monotonic()
        self._command = " ".join(sys.orig_argv)[:_COMMAND]
        self._stopping = False
        self._clients: dict[int, _Client] = {}
        # as it was given: a relative path may fit where the absolute does not
        self._listener = _listen(os.fsdecode(path))
        self._inode = _inode(self.path)
        self._waker, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        # poll, not epoll: an epoll set would be shared with forked children.
        self._selector = selectors.PollSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._waker, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="zswap-stats", daemon=True)
        _servers.add(self)
        try:
            self._thread.start()
        except BaseException:
            self._end()
            raise

    @property
    def closed(self) -> bool:
        """Whether nothing is served any more."""
        return self._listener.fileno() < 0

    def close(self) -> None:
        """Stop serving and remove the socket.  Closing twice is fine."""
        self._stopping = True
        if os.getpid() != self._pid:
            return  # the parent's thread, and the parent's file
        with suppress(OSError):
            self._wake.send(b"\0")
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is served any more.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most.

        Returns
        -------
        bool
            Whether it has ended.
        """
        self._thread.join(timeout)
        return self.closed

    def __enter__(self) -> StatsServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<StatsServer {'closed' if self.closed else self.path}>"

    # ---- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (
                not self._stopping and (engine := self._engine()) is not None and not engine.closed
            ):
                del engine  # not kept while waiting
                for key, _ in self._selector.select(_LOOK):
                    if key.fileobj is self._listener:
                        self._accept()
                    elif (
                        key.fileobj is not self._waker
                        and (client := self._clients.get(key.fd)) is not None
                    ):
                        self._work(client)
        finally:
            self._end()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError, InterruptedError):
            return
        except OSError:  # no descriptors, no memory: not to be tried again at once
            self._waker.settimeout(_LOOK / 5)
            with suppress(OSError):
                self._waker.recv(1)
            return
        sock.setblocking(False)
        if len(self._clients) >= _CLIENTS:
            self._drop(min(self._clients.values(), key=lambda client: client.active))
        self._clients[sock.fileno()] = _Client(sock)
        self._selector.register(sock, selectors.EVENT_READ)

    def _drop(self, client: _Client) -> None:
        self._selector.unregister(client.sock)
        del self._clients[client.sock.fileno()]
        client.sock.close()

    def _work(self, client: _Client) -> None:
        """Take what the client sends, give what it asked for, and never wait."""
        client.active = time.monotonic()
        try:
            if not client.answer:
                received = client.sock.recv(_LINE)
                if not received:
                    self._drop(client)
                    return
                client.request += received
            self._answer(client)
        except BlockingIOError:
            pass
        except OSError:
            self._drop(client)
            return
        if client.last and not client.answer:
            self._drop(client)
        else:
            # While it does not take its answer, nothing more is read from it.
            self._selector.modify(
                client.sock, selectors.EVENT_WRITE if client.answer else selectors.EVENT_READ
            )

    def _answer(self, client: _Client) -> None:
        while not self._stopping:
            if client.answer:
                client.answer = client.answer[client.sock.send(client.answer) :]
                continue
            line, newline, rest = client.request.partition(b"\n")
            if client.last or (not newline and len(line) < _LINE):
                return
            client.request = rest
            if newline and len(line) < _LINE:
                client.answer = self._reply(bytes(line))
            else:
                client.last = True
                client.answer = _error(f"a request is at most {_LINE - 1} bytes long")

    def _reply(self, line: bytes) -> bytes:
        if line.strip() != b"stats":
            return _error("unknown request; say 'stats'")
        engine = self._engine()
        try:
            if engine is not None:
                return _encode(self._snapshot(engine))
        except MemoryError:
            return _error("no memory")
        except ValueError:  # closed meanwhile
            pass
        self._stopping = True
        return b""

    def _snapshot(self, engine: ZSwap) -> dict[str, Any]:
        from zswap import __version__

        return {
            "schema": SCHEMA,
            "version": PROTOCOL_VERSION,
            "zswap": __version__,
            "pid": self._pid,
            "command": self._command,
            "time": time.time(),
            "uptime": time.monotonic() - self._begun,
            "stats": engine.stats().to_dict(),
            "pools": [asdict(pool) for pool in engine.pools()],
            "latency": {kind: latency.to_dict() for kind, latency in engine.latency().items()},
            # By key: another thread may be setting one, and the mapping is not to be walked then.
            "parameters": {key: engine.parameters.get(key) for key in PARAMETERS},
        }

    def _end(self) -> None:
        _servers.discard(self)
        with suppress(OSError):
            if _inode(self.path) == self._inode:
                os.unlink(self.path)
        self._close_sockets()

    def _close_sockets(self) -> None:
        for client in list(self._clients.values()):
            client.sock.close()
        self._clients.clear()
        for sock in (self._listener, self._waker, self._wake):
            sock.close()


def _encode(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _error(text: str) -> bytes:
    return _encode({"schema": SCHEMA, "version": PROTOCOL_VERSION, "error": text})


# ---- the socket's file ---------------------------------------------------------------------------


def _inode(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def _listen(path: str) -> socket.socket:
    """Make a listening socket at `path`, mode 0600.

    bind gives the file the mode that the socket itself has, less the umask (Linux: unix_bind).  Set
    before bind, the mode is 0600 from the first moment, and the umask of the other threads is left
    alone.

    The socket is bound beside its place and linked there when it listens.  link never replaces
    anything, and a socket of ours at which nobody listens is therefore one whose program is dead,
    not one that is just being made.
    """
    beside = f"{path}.{secrets.token_hex(3)}"
    if "\0" in path:
        raise ValueError(f"the path {path!r} has a NUL character in it")
    if len(os.fsencode(beside)) > 107:
        raise ValueError(
            f"the path {path!r} is too long for a socket: at most {107 - 7} bytes will do"
        )
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        os.fchmod(sock.fileno(), 0o600)
        try:
            sock.bind(beside)
        except OSError as error:
            raise type(error)(
                error.errno, f"cannot make a socket: {error.strerror}", path
            ) from None
        try:
            sock.listen(_CLIENTS)
            try:
                os.link(beside, path)
            except FileExistsError:
                _remove_stale(path)
                try:
                    os.link(beside, path)
                except FileExistsError:  # somebody else was faster
                    raise _in_use(path) from None
        finally:
            os.unlink(beside)
    except BaseException:
        sock.close()
        raise
    return sock


def _in_use(path: str) -> OSError:
    return OSError(errno.EADDRINUSE, "another server of statistics is at this path", path)


def _remove_stale(path: str) -> None:
    """Remove the socket at `path` if this user made it and nobody listens."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise FileExistsError(
            errno.EEXIST, "there is something else at this path, which is not replaced", path
        )
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise FileExistsError(
            errno.EEXIST,
            "there is a socket of somebody else at this path, which is not replaced",
            path,
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        code = probe.connect_ex(path)
    if code == errno.ENOENT:
        return
    if code != errno.ECONNREFUSED:
        raise _in_use(path)
    # Between our look and now another program may have replaced it: what is taken away must be what
    # was looked at.
    aside = f"{path}.{secrets.token_hex(3)}"
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    try:
        if _inode(aside) != (found.st_dev, found.st_ino):
            os.link(aside, path)
            raise _in_use(path)
    finally:
        os.unlink(aside)
