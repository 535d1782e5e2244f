"""Files whose bytes are pages of an engine."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, SupportsIndex

import numpy as np

from zswap.core import ZSwap
from zswap_core.errors import Error
from zswap_core.locks import Lock

_CHUNK = 64  # offsets that are allocated at a time
_HOLE = -1
_LONGEST = 1 << 62
_SLICE = 1024  # pages that are read or written at a time
_BLOCK = 512  # pages whose offsets lie in one array


class PageFile(io.RawIOBase):
    """A binary file in memory, compressed, in offsets that it allocates from an engine.

    It does what an unbuffered file opened with ``"w+b"`` does: seek, read, readinto, write,
    truncate; bytes that were never written are zeros and take no memory.  Pages that are cold go to
    the area's backing store as others do.  Any thread may call any method; each read and write is
    one step.  `io.BufferedRandom` around it makes small reads and writes fast, and
    `io.TextIOWrapper` text.

    Parameters
    ----------
    engine : ZSwap
        Whose pages they are.  It is not closed with the file.
    swap_type : int, optional
        The area to allocate from.

    Raises
    ------
    TypeError
        When `engine` is no `ZSwap`.
    ValueError
        When the area is not online, or the engine closed.

    Notes
    -----
    A page that changes is written to another offset first, and takes the old one's place when the
    engine holds it: so a write that fails, as with ENOSPC when the pool is at its limit and there
    is no backing store, leaves the file as it was.

    Examples
    --------
    >>> with ZSwap(max_pool_bytes="64MiB") as z, PageFile(z) as file:
    ...     file.write(b"compressed")
    ...     file.seek(2)
    ...     file.read(4)
    10
    2
    b'mpre'
    """

    def __init__(self, engine: ZSwap, swap_type: SupportsIndex = 0) -> None:
        # the offset of each page, or _HOLE; blocks that are all holes are not there
        self._blocks: dict[int, np.ndarray[Any, Any]] = {}
        self._free: list[int] = []
        self._chunks: list[int] = []
        self._lock = Lock(reentrant=True)
        self._size = self._at = 0
        if not isinstance(engine, ZSwap):
            raise TypeError(f"engine is a {type(engine).__name__}; a ZSwap is needed")
        self._engine, self._type = engine, swap_type
        self._page = engine.page_size
        if not engine._online(swap_type):
            raise ValueError(f"swap area {swap_type} is not online")

    # ---- pages -----------------------------------------------------------------------------------

    def _spans(self, first: int, count: int) -> Iterator[tuple[int, slice, slice]]:
        """List the blocks that pages lie in: number, which of the block's, which of the pages."""
        done = 0
        while done < count:
            block, at = divmod(first + done, _BLOCK)
            here = min(_BLOCK - at, count - done)
            yield block, slice(at, at + here), slice(done, done + here)
            done += here

    def _find(self, first: int, count: int) -> np.ndarray[Any, Any]:
        """Give the offsets of pages, or _HOLE."""
        found = np.full(count, _HOLE, np.int64)
        for block, inside, where in self._spans(first, count):
            known = self._blocks.get(block)
            if known is not None:
                found[where] = known[inside]
        return found

    def _cut(self, first: int) -> list[int]:
        """Forget all pages from `first` on; returns the offsets they had."""
        block, at = divmod(first, _BLOCK)
        gone: list[int] = []
        for number in [number for number in self._blocks if number >= block]:
            known = self._blocks[number]
            from_ = at if number == block else 0
            gone += known[from_:][known[from_:] != _HOLE].tolist()
            if from_:
                known[from_:] = _HOLE
            else:
                del self._blocks[number]
        return gone

    def _take(self, count: int) -> list[int]:
        """Give offsets that hold nothing."""
        while len(self._free) < count:
            try:
                first = self._engine.allocate(_CHUNK, self._type)
            except Error as error:
                raise OSError(errno.ENOSPC, str(error)) from error
            self._chunks.append(first)
            self._free.extend(range(first, first + _CHUNK))
        taken = self._free[-count:]
        del self._free[-count:]
        return taken

    def _give(self, offsets: list[int]) -> None:
        """Take offsets back, and free what they hold."""
        if offsets:
            self._engine.invalidate_many(offsets, swap_type=self._type)
            self._free.extend(offsets)

    def _load(self, first: int, count: int) -> np.ndarray[Any, Any]:
        """Read whole pages; what is a hole or beyond the end is zeros."""
        pages = np.zeros((count, self._page), np.uint8)
        numbers = self._find(first, count)
        held = np.flatnonzero(numbers >= 0)
        if len(held) == count:
            self._engine.load_many(numbers, pages, swap_type=self._type)
        elif len(held):
            pages[held] = self._engine.load_many(numbers[held], swap_type=self._type)
        return pages

    def _store(self, first: int, pages: np.ndarray[Any, Any]) -> None:
        """Give pages new content: all of them or, with an OSError, none."""
        offsets = self._take(len(pages))
        try:
            status = self._engine.store_many(offsets, pages, swap_type=self._type)
            if status.min() < 0:
                raise OSError(
                    errno.ENOSPC,
                    "the engine refuses a page: it is at its limit, and there is no backing store "
                    "that takes it; raise max_pool_bytes, or free pages",
                )
        except BaseException:
            with suppress(ValueError):  # closed meanwhile
                self._give(offsets)
            raise
        old = self._find(first, len(pages))
        fresh = np.array(offsets, np.int64)
        for block, inside, where in self._spans(first, len(pages)):
            if block not in self._blocks:
                self._blocks[block] = np.full(_BLOCK, _HOLE, np.int64)
            self._blocks[block][inside] = fresh[where]
        self._give(old[old != _HOLE].tolist())

    def _check(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if self._engine.closed:
            raise ValueError("the ZSwap of this file is closed")

    # ---- the file --------------------------------------------------------------------------------

    def readable(self) -> bool:
        """Give True."""
        self._check()
        return True

    def writable(self) -> bool:
        """Give True."""
        self._check()
        return True

    def seekable(self) -> bool:
        """Give True."""
        self._check()
        return True

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self._size

    def seek(self, offset: SupportsIndex, whence: int = os.SEEK_SET, /) -> int:
        """Go to a byte, and return its number.

        Parameters
        ----------
        offset : int
            Bytes from where `whence` says.
        whence : int, optional
            ``os.SEEK_SET``, ``SEEK_CUR`` or ``SEEK_END``; or ``SEEK_DATA`` and ``SEEK_HOLE``, which
            go to the next byte of a page that is held, and of one that is not.

        Raises
        ------
        ValueError
            When `whence` is none of these, or the place lies before the beginning.
        OSError
            ENXIO, when there is no more data, or `offset` lies beyond the end.
        """
        offset = offset.__index__()
        with self._lock:
            self._check()
            if whence in (os.SEEK_DATA, os.SEEK_HOLE):
                self._at = self._next(offset, whence == os.SEEK_DATA)
                return self._at
            bases = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}
            if whence not in bases:
                raise ValueError(f"whence is {whence!r}; one of the constants os.SEEK_ is needed")
            at = bases[whence] + offset
            if not 0 <= at <= _LONGEST:
                raise ValueError(f"{at} is no place in a file; 0 to 2**62 is needed")
            self._at = at
            return at

    def _next(self, offset: int, data: bool) -> int:
        if not 0 <= offset < self._size:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        block, at = divmod(offset // self._page, _BLOCK)
        for number in sorted(number for number in self._blocks if number >= block):
            if not data and number > block:
                break
            held = self._blocks[number] != _HOLE
            if number == block:
                held[:at] = not data
            found = np.flatnonzero(held == data)
            if len(found):
                block, at = number, int(found[0])
                break
            block, at = number + 1, 0
        else:
            if data:
                raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        place = max(offset, (block * _BLOCK + at) * self._page)
        if place >= self._size and data:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        return min(place, self._size)

    def tell(self) -> int:
        """Return the number of the byte that is next."""
        self._check()
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer from where the file is; return how many bytes there were.

        Parameters
        ----------
        buffer : buffer
            A writable one.
        """
        with self._lock:
            done = self.readinto_at(buffer, self._at)
            self._at += done
            return done

    def readinto_at(self, buffer: Any, offset: SupportsIndex) -> int:
        """Fill a buffer from a byte on; return how many bytes there were.

        The file's own place stays, so threads need not agree on it.

        Parameters
        ----------
        buffer : buffer
            A writable one.
        offset : int
            Which byte.
        """
        out, at = memoryview(buffer).cast("B"), offset.__index__()
        if at < 0:
            raise ValueError(f"offset is {at}; it cannot be negative")
        with self._lock:
            self._check()
            count = min(len(out), max(self._size - at, 0))
            done = 0
            while done < count:
                first, skip = divmod(at + done, self._page)
                pages = min(-(-(skip + count - done) // self._page), _SLICE)
                data = self._load(first, pages).reshape(-1)[skip : skip + count - done]
                out[done : done + len(data)] = data.data
                done += len(data)
            return count

    def readall(self) -> bytes:
        """Read all that is left."""
        with self._lock:
            self._check()
            out = bytearray(max(self._size - self._at, 0))
            self.readinto(out)
            return bytes(out)

    def write(self, data: Any, /) -> int:
        """Write bytes where the file is, and return their number.

        Parameters
        ----------
        data : buffer
            Of any format; it is written as bytes.

        Raises
        ------
        OSError
            ENOSPC, when the engine refuses a page; what was written before that stays, and its
            length is returned instead when it is not 0.
        """
        with self._lock:
            done = self.write_at(data, self._at)
            self._at += done
            return done

    def write_at(self, data: Any, offset: SupportsIndex) -> int:
        """Write bytes from a byte of the file on, and return their number.

        As `write`, but the file's own place stays.

        Parameters
        ----------
        data : buffer
            Of any format; it is written as bytes.
        offset : int
            Which byte.
        """
        given, at = memoryview(data), offset.__index__()
        given = (given if given.c_contiguous else memoryview(given.tobytes())).cast("B")
        if at < 0:
            raise ValueError(f"offset is {at}; it cannot be negative")
        with self._lock:
            self._check()
            if at + len(given) > _LONGEST:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            done = 0
            while done < len(given):
                first, skip = divmod(at + done, self._page)
                part = given[done : done + _SLICE * self._page - skip]
                try:
                    self._write(first, skip, part)
                except OSError:
                    if not done:
                        raise
                    break
                done += len(part)
            return done

    def _write(self, first: int, skip: int, data: memoryview) -> None:
        whole = skip == 0 and len(data) % self._page == 0
        if whole:
            pages = np.frombuffer(data, np.uint8).reshape(-1, self._page)
        else:
            count = -(-(skip + len(data)) // self._page)
            pages = np.zeros((count, self._page), np.uint8)
            last = count - 1
            if skip:
                pages[0] = self._load(first, 1)[0]
            if (skip + len(data)) % self._page and (last or not skip):
                pages[last] = self._load(first + last, 1)[0]
            pages.reshape(-1)[skip : skip + len(data)] = np.frombuffer(data, np.uint8)
        self._store(first, pages)
        self._size = max(self._size, first * self._page + skip + len(data))

    def truncate(self, size: SupportsIndex | None = None, /) -> int:
        """Cut the file, or make it longer by a hole; return its size.

        Parameters
        ----------
        size : int, optional
            Bytes that it is to have; by default up to where the file is.
        """
        with self._lock:
            self._check()
            length = self._at if size is None else size.__index__()
            if not 0 <= length <= _LONGEST:
                raise ValueError(f"size is {length}; 0 to 2**62 is needed")
            keep, part = divmod(length, self._page)
            if length < self._size and part and self._find(keep, 1)[0] != _HOLE:
                page = self._load(keep, 1)  # what is behind the end is to be zeros
                page[0, part:] = 0
                self._store(keep, page)
            self._give(self._cut(keep + (part > 0)))
            self._size = length
            return length

    def punch(self, offset: SupportsIndex, size: SupportsIndex) -> None:
        """Make a hole of bytes: they read as zeros, and pages that lie in it whole are freed.

        The file's size and place stay.

        Parameters
        ----------
        offset, size : int
            Which bytes; those beyond the end are passed over.

        Raises
        ------
        OSError
            ENOSPC, when the engine refuses a page of which only a part is cleared.
        """
        at, count = offset.__index__(), size.__index__()
        if at < 0 or count < 0:
            raise ValueError(f"offset is {at} and size {count}; neither can be negative")
        with self._lock:
            self._check()
            end = min(at + count, self._size)
            first, last = -(-at // self._page), end // self._page  # whole pages: first to last - 1
            if end == self._size:  # nothing of its last page is beyond
                last = -(-end // self._page)
            if first > last:
                self._zero(at, end)
                return
            self._zero(at, min(first * self._page, end))
            self._zero(max(last * self._page, at), end)
            for number in [n for n in self._blocks if first // _BLOCK <= n <= last // _BLOCK]:
                known = self._blocks[number]
                held = known[max(first - number * _BLOCK, 0) : last - number * _BLOCK]
                gone = held[held != _HOLE].tolist()
                held[:] = _HOLE
                if (known == _HOLE).all():
                    del self._blocks[number]
                self._give(gone)

    def _zero(self, start: int, end: int) -> None:
        """Clear bytes of one page."""
        number, at = divmod(start, self._page)
        if start < end and self._find(number, 1)[0] != _HOLE:
            page = self._load(number, 1)
            page[0, at : at + end - start] = 0
            self._store(number, page)

    def weight(self) -> int:
        """Bytes that the file's pages take in memory, compressed; those in a file count 0."""
        with self._lock:
            self._check()
            total = 0
            for known in self._blocks.values():
                held = known[known != _HOLE]
                sizes = self._engine.compressed_sizes(held, swap_type=self._type)
                total += int(sizes[sizes > 0].sum())
            return total

    def close(self) -> None:
        """Free the file's pages and offsets.  Closing twice is fine."""
        if self.closed:
            return
        super().close()
        with self._lock:
            chunks, self._chunks = self._chunks, []
            self._blocks, self._free = {}, []
            for first in chunks:
                with suppress(ValueError):  # the engine was closed before
                    self._engine.free(first, self._type)

    def __repr__(self) -> str:
        if self.closed:
            return "<PageFile closed>"
        return f"<PageFile: {self._size} bytes at {self._at}, in {self._engine!r}>"
