"""Arrays whose chunks are held compressed."""

from __future__ import annotations

import itertools
import math
import operator
import os
from collections.abc import Iterator
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import DTypeLike, NDArray

from zswap.objects import ObjectStore
from zswap_core.compressors.base import Compressor
from zswap_core.locks import Lock

_CHUNK_BYTES = 1 << 18  # about as much as a chunk is by default

_Span = tuple[int, int, int]  # first, count, step


def _default_chunks(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Halve the first axes until a chunk is small enough: in C order it is one piece then."""
    chunks = [max(length, 1) for length in shape]
    for axis in range(len(chunks)):
        rest = math.prod(chunks[axis + 1 :]) * itemsize
        chunks[axis] = max(min(chunks[axis], _CHUNK_BYTES // max(rest, 1)), 1)
        if rest <= _CHUNK_BYTES:
            break
    return tuple(chunks)


class CompressedArray:
    """An n-dimensional array whose chunks are held compressed, and made when they are looked at.

    It is indexed as numpy arrays are by ints, slices, ``...`` and `numpy.newaxis`; a part of it is
    an ordinary array, and a copy.  Any thread may call any method; what is read while another
    thread assigns to it may be partly old and partly new.  ``dask.array.from_array(a,
    chunks=a.chunks)`` works.

    Parameters
    ----------
    shape : int or tuple of int
        As for `numpy.empty`.
    dtype : dtype, default float64
        Any without Python objects in it.
    chunks : int or tuple of int, optional
        Elements of a chunk along each axis.  By default so many of the last axes that a chunk is
        about 256 KiB.
    fill_value : scalar, default 0
        What the elements are that were never assigned to; those take no memory.
    max_memory : int or str, optional
        Most bytes that the chunks may take, compressed; see `ObjectStore`.
    compressor, backing, encrypt
        As for `ObjectStore`.  Nothing is pickled here, so files need no encryption unless what is
        in the array does.

    Raises
    ------
    ValueError, TypeError
        For arguments that make no array.

    Examples
    --------
    >>> with CompressedArray((1000, 1000), "f8") as a:
    ...     a[10:20] = 3.0
    ...     a[9:12, 5].tolist()
    [0.0, 3.0, 3.0]
    """

    def __init__(
        self,
        shape: SupportsIndex | tuple[SupportsIndex, ...],
        dtype: DTypeLike = np.float64,
        chunks: SupportsIndex | tuple[SupportsIndex, ...] | None = None,
        *,
        fill_value: Any = 0,
        max_memory: int | str | None = None,
        compressor: str | Compressor = "lz4",
        backing: str | os.PathLike[str] | None = None,
        encrypt: bool = True,
    ) -> None:
        self.dtype = np.dtype(dtype)
        if self.dtype.hasobject or not self.dtype.itemsize:
            raise TypeError(f"dtype {self.dtype} has Python objects in it, or no size")
        sizes = shape if isinstance(shape, (tuple, list)) else (shape,)
        self.shape = tuple(operator.index(n) for n in sizes)
        if min(self.shape, default=0) < 0:
            raise ValueError(f"shape {self.shape} has a negative length")
        if chunks is None:
            self.chunks = _default_chunks(self.shape, self.dtype.itemsize)
        else:
            given = chunks if isinstance(chunks, (tuple, list)) else (chunks,) * len(self.shape)
            self.chunks = tuple(operator.index(n) for n in given)
        if len(self.chunks) != len(self.shape) or min(self.chunks, default=1) < 1:
            raise ValueError(
                f"chunks {self.chunks} do not fit shape {self.shape}: a length of 1 or more is "
                "needed for each axis"
            )
        self._fill = np.full((), fill_value, self.dtype)
        self._lock = Lock()  # one assignment at a time
        self._store = ObjectStore(
            max_memory, compressor=compressor, backing=backing, encrypt=encrypt, pickle=False
        )

    # ---- what it is ------------------------------------------------------------------------------

    @property
    def ndim(self) -> int:
        """How many axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements, uncompressed."""
        return self.size * self.dtype.itemsize

    @property
    def store(self) -> ObjectStore:
        """What holds the chunks, by their numbers along each axis; its `stats` tell their size."""
        return self._store

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of an array without axes")
        return self.shape[0]

    def __repr__(self) -> str:
        state = "closed" if self._store.closed else repr(self._store)
        return f"<CompressedArray {self.shape} {self.dtype}, chunks {self.chunks}: {state}>"

    # ---- indices ---------------------------------------------------------------------------------

    def _spans(self, index: Any) -> tuple[list[_Span], tuple[Any, ...]]:
        """Say what an index takes.

        Returns
        -------
        tuple
            What is taken of each axis, with a positive step, and the index that makes of an array
            of that the one that was asked for.
        """
        parts = list(index) if isinstance(index, tuple) else [index]
        ellipses = sum(part is Ellipsis for part in parts)
        named = sum(part is not None and part is not Ellipsis for part in parts)
        if ellipses > 1 or named > self.ndim:
            raise IndexError(f"index {index!r} has too many parts for {self.ndim} axes")
        if not ellipses:
            parts.append(Ellipsis)
        at = next(number for number, part in enumerate(parts) if part is Ellipsis)
        parts[at : at + 1] = [slice(None)] * (self.ndim - named)
        spans: list[_Span] = []
        then: list[Any] = []
        for part in parts:
            if part is None:
                then.append(None)
                continue
            length = self.shape[len(spans)]
            if isinstance(part, slice):
                start, stop, step = part.indices(length)
                count = len(range(start, stop, step))
                if step < 0:
                    start, step = start + (count - 1) * step, -step
                    then.append(slice(None, None, -1))
                else:
                    then.append(slice(None))
                spans.append((start if count else 0, count, step))
                continue
            if isinstance(part, (bool, np.bool_)) or not hasattr(type(part), "__index__"):
                raise IndexError(
                    f"{part!r} is no index here: ints, slices, ... and numpy.newaxis are; for "
                    "others take a part of the array first"
                )
            try:
                number = operator.index(part)
            except TypeError:
                raise IndexError(
                    f"{part!r} is no index here: take a part of the array first"
                ) from None
            if not -length <= number < length:
                raise IndexError(
                    f"index {number} is out of bounds for axis {len(spans)} of {length}"
                )
            spans.append((number % length, 1, 1))
            then.append(0)
        return spans, tuple(then)

    def _pieces(
        self, spans: list[_Span]
    ) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...], tuple[slice, ...]]]:
        """List the chunks that spans touch: number, what of the chunk, and what of the result."""
        axes = []
        for (start, count, step), chunk in zip(spans, self.chunks, strict=True):
            axis = []
            done = 0
            while done < count:
                number, inside = divmod(start + done * step, chunk)
                here = min(-(-(chunk - inside) // step), count - done)
                axis.append(
                    (
                        number,
                        slice(inside, inside + (here - 1) * step + 1, step),
                        slice(done, done + here),
                    )
                )
                done += here
            axes.append(axis)
        for piece in itertools.product(*axes):
            yield tuple(p[0] for p in piece), tuple(p[1] for p in piece), tuple(p[2] for p in piece)

    def _chunk_shape(self, number: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(
            min(chunk, length - n * chunk)
            for n, chunk, length in zip(number, self.chunks, self.shape, strict=True)
        )

    def __getitem__(self, index: Any) -> Any:
        spans, then = self._spans(index)
        out = np.empty(tuple(count for _, count, _ in spans), self.dtype)
        for number, inside, where in self._pieces(spans):
            chunk = self._store.get(number)
            out[where] = self._fill if chunk is None else chunk[inside]
        return out[then]

    def __setitem__(self, index: Any, value: Any) -> None:
        spans, then = self._spans(index)
        shape = tuple(count for _, count, _ in spans)
        given = np.asarray(value, self.dtype)
        values = np.broadcast_to(given, shape) if given.ndim == 0 else np.empty(shape, self.dtype)
        if given.ndim:
            values[then] = given
        for number, inside, where in self._pieces(spans):
            size = self._chunk_shape(number)
            part = np.asarray(values[where])
            with self._lock:
                if part.shape == size:
                    self._store[number] = part
                    continue
                chunk = self._store.get(number)
                if chunk is None:
                    chunk = np.full(size, self._fill)
                chunk[inside] = part
                self._store[number] = chunk

    # ---- as an array -----------------------------------------------------------------------------

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("a CompressedArray can be made an array only by a copy")
        return np.asarray(self[...], dtype)

    def __iter__(self) -> Iterator[Any]:
        """Go through the first axis, a chunk's worth read at a time."""
        if not self.shape:
            raise TypeError("iteration over an array without axes")
        for start in range(0, self.shape[0], self.chunks[0]):
            yield from self[start : start + self.chunks[0]]

    def iter_chunks(self) -> Iterator[tuple[tuple[slice, ...], NDArray[Any]]]:
        """Go through all chunks: where each is in the array, and a copy of it."""
        counts = [-(-n // chunk) for n, chunk in zip(self.shape, self.chunks, strict=True)]
        for number in np.ndindex(*counts):
            where = tuple(
                slice(n * chunk, n * chunk + size)
                for n, chunk, size in zip(
                    number, self.chunks, self._chunk_shape(number), strict=True
                )
            )
            yield where, self[where]

    def close(self) -> None:
        """Free everything.  Closing twice is fine; elements are a ValueError after it."""
        self._store.close()

    def __enter__(self) -> CompressedArray:
        self._store.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
