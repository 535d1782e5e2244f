"""Bytes of a trace, from a file, a pipe or standard input; gzip, zstd and xz are unpacked."""

from __future__ import annotations

import contextlib
import ctypes
import lzma
import os
import select
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from zswap import CompressorNotFound
from zswap.pages import SourceError

__all__ = ["CHUNK", "opened", "read_chunks"]

CHUNK = 4 << 20
_GZIP, _ZSTD, _XZ = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\x00"


@contextlib.contextmanager
def opened(path: str) -> Iterator[int]:
    """Open a trace for reading; ``-`` is standard input.

    Raises
    ------
    SourceError
        When it cannot be read, or is no file and no pipe.
    """
    try:
        fd = (
            os.dup(0)
            if path == "-"
            else os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        )
    except FileNotFoundError as error:
        raise SourceError(f"no such file: {path}") from error
    except PermissionError as error:
        raise SourceError(
            f"may not read {path}: run as a user who may, or change its permissions"
        ) from error
    except OSError as error:
        what = "standard input" if path == "-" else path
        raise SourceError(f"cannot read {what}: {error.strerror}") from error
    except ValueError as error:
        raise SourceError(f"cannot read {path!r}: {error}") from error
    what = "standard input" if path == "-" else path
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise SourceError(f"{what} is a directory: name a trace in it")
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
            kind = "a terminal" if os.isatty(fd) else "a device"
            raise SourceError(f"{what} is {kind}: name a file, or send a trace into a pipe")
        yield fd
    finally:
        os.close(fd)


def read_chunks(fd: int, what: str) -> Iterator[bytes]:
    """Yield all bytes, unpacked.

    Raises
    ------
    SourceError
        When they cannot be read, or are damaged.
    """
    raw = _raw(fd, what)
    first = b""
    for piece in raw:
        first += piece
        if len(first) >= 6:
            break
    if first.startswith(_GZIP):
        yield from _unpacked(first, raw, what, "gzip", _Gzip)
    elif first.startswith(_ZSTD):
        with _Zstd() as unpacker:
            yield from _unpacked(first, raw, what, "zstd", lambda: unpacker)
    elif first.startswith(_XZ):
        yield from _unpacked(first, raw, what, "xz", _Xz)
    else:
        if first:
            yield first
        yield from raw


def _raw(fd: int, what: str) -> Iterator[bytes]:
    while True:
        try:
            piece = os.read(fd, CHUNK)
        except BlockingIOError:  # a pipe, opened so as not to wait for its writer
            select.select([fd], [], [])
            continue
        except OSError as error:
            raise SourceError(f"cannot read {what}: {error.strerror}") from error
        if not piece:
            return
        yield piece


class _Gzip:
    def __init__(self) -> None:
        self._stream = zlib.decompressobj(31)

    def feed(self, data: bytes, most: int) -> tuple[bytes, bytes]:
        out = self._stream.decompress(data, most)
        return out, self._stream.unconsumed_tail or self._stream.unused_data

    @property
    def ended(self) -> bool:
        return self._stream.eof


class _Xz:
    def __init__(self) -> None:
        self._stream = lzma.LZMADecompressor()
        self._rest = b""

    def feed(self, data: bytes, most: int) -> tuple[bytes, bytes]:
        # what it has not looked at yet it keeps itself
        out = self._stream.decompress(data, most)
        return out, self._stream.unused_data

    @property
    def ended(self) -> bool:
        return self._stream.eof


class _Buffer(ctypes.Structure):
    _fields_ = (("at", ctypes.c_void_p), ("size", ctypes.c_size_t), ("pos", ctypes.c_size_t))


class _Zstd:
    """libzstd's stream, of the library that zswap compresses with."""

    def __init__(self) -> None:
        from zswap_core.libraries.bind import open_library
        from zswap_core.libraries.find import LIBZSTD

        try:
            try:
                library = ctypes.CDLL(open_library(LIBZSTD).path)
                self._create = library.ZSTD_createDStream
            except AttributeError:  # a wheel without streams
                library = ctypes.CDLL(LIBZSTD.soname)
                self._create = library.ZSTD_createDStream
            self._decompress, self._free = library.ZSTD_decompressStream, library.ZSTD_freeDStream
        except (OSError, AttributeError, CompressorNotFound) as error:
            raise SourceError(
                f"the trace is packed by zstd, and no libzstd can unpack it ({error}); "
                "unpack it with zstd -d"
            ) from error
        self._create.restype = ctypes.c_void_p
        self._decompress.restype = ctypes.c_size_t
        self._decompress.argtypes = (
            ctypes.c_void_p,
            ctypes.POINTER(_Buffer),
            ctypes.POINTER(_Buffer),
        )
        self._free.argtypes = (ctypes.c_void_p,)
        self._stream: int | None = None
        self.ended = False

    def __enter__(self) -> _Zstd:
        self._stream = self._create()
        if not self._stream:
            raise MemoryError("no memory to unpack the trace")
        return self

    def __exit__(self, *exc: object) -> None:
        self._free(self._stream)

    def feed(self, data: bytes, most: int) -> tuple[bytes, bytes]:
        room = ctypes.create_string_buffer(most)
        source = ctypes.create_string_buffer(data, max(1, len(data)))
        into = _Buffer(ctypes.addressof(room), most, 0)
        of = _Buffer(ctypes.addressof(source), len(data), 0)
        done = self._decompress(self._stream, ctypes.byref(into), ctypes.byref(of))
        if done > sys.maxsize:  # an error, as the library codes them
            raise ValueError("damaged")
        self.ended = done == 0
        return room.raw[: into.pos], data[of.pos :]


def _unpacked(
    first: bytes, raw: Iterator[bytes], what: str, kind: str, make: Callable[[], Any]
) -> Iterator[bytes]:
    """Unpack stream after stream; each must be whole."""
    unpacker = make()
    data = first
    while True:
        try:
            out, data = unpacker.feed(data, CHUNK)
        except (zlib.error, lzma.LZMAError, ValueError, EOFError) as error:
            raise SourceError(f"{what} is damaged: its {kind} data cannot be unpacked") from error
        if out:
            yield out
        if unpacker.ended:
            data = data or next(raw, b"")
            if not data:
                return
            if kind != "zstd":
                unpacker = make()
            continue
        if not data and not out:
            data = next(raw, b"")
            if not data:
                raise SourceError(f"{what} is damaged: it ends in the middle of {kind} data")
