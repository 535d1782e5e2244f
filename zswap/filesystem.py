"""``zswap://``: a file system for fsspec whose files are held compressed.

pandas, pyarrow, xarray, zarr and whatever else takes fsspec's URLs use it with no code of ours.
"""

from __future__ import annotations

import errno
import io
import os
import secrets
import weakref
from datetime import datetime, timezone
from typing import Any, SupportsIndex

from fsspec import AbstractFileSystem
from fsspec.utils import stringify_path

from zswap.core import ZSwap
from zswap.files import PageFile
from zswap_core.backings import SwapFile
from zswap_core.locks import Lock

_PAGE = 65536  # compresses better than smaller ones; the rest of the last one takes nothing
_COPIED = 4 << 20  # bytes at a time

_opened: weakref.WeakValueDictionary[str, ZswapFileSystem] = weakref.WeakValueDictionary()


def _same(token: str, process: int) -> ZswapFileSystem:
    """Give the file system that was pickled: itself, as its files lie in this process alone."""
    found = _opened.get(token)
    if found is None:
        raise ValueError(
            f"the files of this zswap:// file system are in the memory of process {process}; "
            "copy them to where another process can read"
        )
    return found


def _above(path: str) -> str:
    """Give the folder that a path lies in."""
    return path.rpartition("/")[0]


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)


class _Cursor(io.RawIOBase):
    """One reader's or writer's place in a file that others may have open too."""

    def __init__(self, file: PageFile, path: str, mode: str) -> None:
        self.path, self.mode = path, mode
        self._file, self._at = file, file.size if "a" in mode else 0

    @property
    def size(self) -> int:
        return self._file.size

    def readable(self) -> bool:
        return "r" in self.mode or "+" in self.mode

    def writable(self) -> bool:
        return self.mode != "rb"

    def seekable(self) -> bool:
        return True

    def seek(self, offset: SupportsIndex, whence: int = os.SEEK_SET, /) -> int:
        bases = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.size}
        if whence not in bases:
            raise ValueError(f"whence is {whence!r}; os.SEEK_SET, SEEK_CUR or SEEK_END is needed")
        at = bases[whence] + offset.__index__()
        if at < 0:
            raise _error(errno.EINVAL, self.path)
        self._at = at
        return at

    def readinto(self, buffer: Any, /) -> int:
        if not self.readable():
            raise io.UnsupportedOperation("not open for reading")
        done = self._file.readinto_at(buffer, self._at)
        self._at += done
        return done

    def write(self, data: Any, /) -> int:
        if not self.writable():
            raise io.UnsupportedOperation("not open for writing")
        done = self._file.write_at(data, self._file.size if "a" in self.mode else self._at)
        self._at = self._file.size if "a" in self.mode else self._at + done
        return done

    def truncate(self, size: int | None = None, /) -> int:
        if not self.writable():
            raise io.UnsupportedOperation("not open for writing")
        return self._file.truncate(self._at if size is None else size)


class _Writer(io.BufferedWriter):
    """A new file, which takes its name when it is closed, or a transaction ends.

    Not when a write has failed: what there is then is no file that anybody meant.
    """

    def __init__(self, fs: ZswapFileSystem, path: str, mode: str, autocommit: bool) -> None:
        self._fs, self.path, self._file = fs, path, fs._new_file()
        self._waits, self._failed = not autocommit, False
        super().__init__(_Cursor(self._file, path, mode), _PAGE)

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            self._failed = True
            raise

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            self._failed = True
            raise

    def close(self) -> None:
        if not self.closed:
            super().close()
            if not self._waits:
                self.commit()

    def commit(self) -> None:
        if not self._failed:
            self._fs._link(self.path, self._file)

    def discard(self) -> None:
        self._file.close()


class ZswapFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A file system in compressed memory.

    URLs are ``zswap://`` and a path.  Instances of the same options are one, as with every file
    system of fsspec, so what one part of a program writes, another reads; it is gone with the
    process, or with `close`.  Any thread may call any method.  A file that is written takes its
    name when it is closed, if no write failed: whoever has the old one open goes on reading that.

    Parameters
    ----------
    max_memory : int or str, optional
        What the files may take, compressed, as for `ZSwap`; by default a fifth of the memory.
    backing : path-like, optional
        A file for those that are cold, made anew, encrypted and removed at the end.  Without it a
        write that does not fit is an OSError with ENOSPC.
    size : int or str, default "64GiB"
        What `backing` may grow to.
    compressor : str, default "auto"
        As for `ZSwap`.
    **options
        fsspec's own.

    Examples
    --------
    >>> import fsspec
    >>> with fsspec.open("zswap://folder/a.txt", "w") as file:
    ...     file.write("any text")
    8
    >>> fsspec.filesystem("zswap").cat("folder/a.txt")
    b'any text'
    """

    protocol = "zswap"
    root_marker = ""

    def __init__(
        self,
        max_memory: int | str | None = None,
        backing: str | os.PathLike[str] | None = None,
        size: int | str = "64GiB",
        compressor: str = "auto",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        store = None
        if backing is not None:
            store = SwapFile(backing, size, page_size=_PAGE, encrypt=True, unlink=True)
        self._engine = ZSwap(
            compressor,
            page_size=_PAGE,
            max_pool_bytes=max_memory,
            backing=store,
            checksum=store is not None,
            trim_zeros=True,
        )
        self._lock = Lock(reentrant=True)
        self._files: dict[str, tuple[PageFile, datetime]] = {}
        self._folders: dict[str, set[str]] = {"": set()}  # what is in each
        self._pickled = f"{os.getpid()}.{secrets.token_hex(8)}"
        _opened[self._pickled] = self

    def __reduce__(self) -> Any:
        return _same, (self._pickled, os.getpid())

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, (list, tuple)):
            return [cls._strip_protocol(one) for one in path]
        path = stringify_path(path)
        return path.removeprefix("zswap://").removeprefix("zswap::").strip("/")

    @property
    def engine(self) -> ZSwap:
        """The engine that holds the pages."""
        return self._engine

    def close(self) -> None:
        """Free all files.  Whoever asks for a file system of these options gets a new one."""
        type(self)._cache.pop(self._fs_token_, None)
        with self._lock:
            self._files, self._folders = {}, {"": set()}
        self._engine.close()

    # ---- the tree --------------------------------------------------------------------------------

    def _new_file(self) -> PageFile:
        return PageFile(self._engine)

    def _add_folder(self, path: str) -> None:
        """Make a folder and those above it.  Under the lock, as the next ones."""
        missing = []
        while path not in self._folders:
            if path in self._files:
                raise _error(errno.ENOTDIR, path)
            missing.append(path)
            path = _above(path)
        for folder in reversed(missing):
            self._folders[folder] = set()
            self._folders[_above(folder)].add(folder)

    def _link(self, path: str, file: PageFile) -> None:
        with self._lock:
            if path in self._folders:
                raise _error(errno.EISDIR, path)
            parent = _above(path)
            self._add_folder(parent)
            self._files[path] = file, datetime.now(timezone.utc)
            self._folders[parent].add(path)

    def _unlink(self, path: str) -> PageFile:
        with self._lock:
            file = self._file(path)
            del self._files[path]
            self._folders[_above(path)].discard(path)
            return file

    def _file(self, path: str) -> PageFile:
        with self._lock:
            if path in self._folders:
                raise _error(errno.EISDIR, path)
            if path not in self._files:
                raise _error(errno.ENOENT, path)
            return self._files[path][0]

    def _about(self, path: str) -> dict[str, Any]:
        if path in self._folders:
            return {"name": path, "size": 0, "type": "directory"}
        file, made = self._files[path]
        return {"name": path, "size": file.size, "type": "file", "created": made}

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Tell name, size, type and when it was made."""
        path = self._strip_protocol(path)
        with self._lock:
            if path not in self._folders:
                self._file(path)
            return self._about(path)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """List a folder, or one file."""
        path = self._strip_protocol(path)
        with self._lock:
            if path not in self._folders:
                self._file(path)
            names = sorted(self._folders[path]) if path in self._folders else [path]
            return [self._about(name) for name in names] if detail else names

    def created(self, path: str) -> datetime:
        """Tell when a file was made."""
        return self.modified(path)

    def modified(self, path: str) -> datetime:
        """Tell when a file took its name."""
        path = self._strip_protocol(path)
        with self._lock:
            self._file(path)
            return self._files[path][1]

    def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        """Make a folder."""
        path = self._strip_protocol(path)
        with self._lock:
            if path in self._folders or path in self._files:
                raise _error(errno.EEXIST, path)
            if not create_parents and _above(path) not in self._folders:
                raise _error(errno.ENOENT, path)
            self._add_folder(path)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make a folder and those above it."""
        path = self._strip_protocol(path)
        with self._lock:
            if path in self._files or (path in self._folders and not exist_ok):
                raise _error(errno.EEXIST, path)
            self._add_folder(path)

    def rmdir(self, path: str) -> None:
        """Remove an empty folder."""
        path = self._strip_protocol(path)
        with self._lock:
            if path not in self._folders:
                raise _error(errno.ENOTDIR if path in self._files else errno.ENOENT, path)
            if self._folders[path]:
                raise _error(errno.ENOTEMPTY, path)
            if path:
                del self._folders[path]
                self._folders[_above(path)].discard(path)

    def _rm(self, path: str) -> None:
        self._unlink(self._strip_protocol(path))

    def rm_file(self, path: str) -> None:
        """Remove a file; who has it open may go on reading."""
        self._rm(path)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove files, and with `recursive` folders."""
        for name in reversed(self.expand_path(path, recursive=recursive, maxdepth=maxdepth)):
            if self.isdir(name):
                self.rmdir(name)
            else:
                self._rm(name)

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Copy a file, or make a folder of the name."""
        path1, path2 = self._strip_protocol(path1), self._strip_protocol(path2)
        if self.isdir(path1):
            self.makedirs(path2, exist_ok=True)
            return
        source, copy = self._file(path1), self._new_file()
        data, at = bytearray(_COPIED), 0
        while done := source.readinto_at(data, at):
            with memoryview(data) as view:
                self._write_all(copy, view[:done], at)
            at += done
        copy.truncate(source.size)
        self._link(path2, copy)

    def mv_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Give a file another name."""
        path1, path2 = self._strip_protocol(path1), self._strip_protocol(path2)
        with self._lock:
            file = self._file(path1)
            self._link(path2, file)  # may be refused
            if path1 != path2:
                self._unlink(path1)

    # ---- files -----------------------------------------------------------------------------------

    @staticmethod
    def _write_all(file: PageFile, data: Any, at: int = 0) -> None:
        """Write all of it or raise."""
        data, done = memoryview(data).cast("B"), 0
        while done < len(data):
            done += file.write_at(data[done:], at + done)

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: Any = None,
        **kwargs: Any,
    ) -> Any:
        path = self._strip_protocol(path)
        kind = mode.replace("b", "").replace("t", "")
        if kind not in ("r", "w", "x", "a", "r+", "a+", "w+", "x+"):
            raise ValueError(
                f"mode is {mode!r}; one of rb, wb, xb, ab, with or without + is needed"
            )
        mode = f"{kind[0]}b{kind[1:]}"
        with self._lock:
            if path in self._folders:
                raise _error(errno.EISDIR, path)
            if kind[0] == "x" and path in self._files:
                raise _error(errno.EEXIST, path)
            self._check_parents(path)
            if kind in ("w", "x"):
                return _Writer(self, path, mode, autocommit)
            if kind[0] in "wx" or (kind[0] == "a" and path not in self._files):
                self._link(path, self._new_file())
            cursor = _Cursor(self._file(path), path, mode)
        if kind == "r":
            return io.BufferedReader(cursor, _PAGE)
        return io.BufferedWriter(cursor, _PAGE) if kind == "a" else io.BufferedRandom(cursor, _PAGE)

    def _check_parents(self, path: str) -> None:
        while path:
            path = _above(path)
            if path in self._files:
                raise _error(errno.ENOTDIR, path)

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        """Read a file, or the bytes from `start` to `end`, which count from the end if negative."""
        file = self._file(self._strip_protocol(path))
        begin, stop, _ = slice(start, end).indices(file.size)
        data = bytearray(max(stop - begin, 0))
        done = file.readinto_at(data, begin)
        return bytes(memoryview(data)[:done])

    def pipe_file(self, path: str, value: Any, mode: str = "overwrite", **kwargs: Any) -> None:
        """Write a file of these bytes."""
        path = self._strip_protocol(path)
        with self._lock:
            if mode == "create" and path in self._files:
                raise _error(errno.EEXIST, path)
            self._check_parents(path)
        file = self._new_file()
        self._write_all(file, value)
        self._link(path, file)

    def touch(self, path: str, truncate: bool = True, **kwargs: Any) -> None:
        """Make an empty file; without `truncate` one that is there stays, and is new."""
        path = self._strip_protocol(path)
        with self._lock:
            keep = path in self._files and not truncate
            self._link(path, self._file(path) if keep else self._new_file())

    def weight(self, path: str) -> int:
        """Tell how many bytes a file takes in memory, compressed."""
        return self._file(self._strip_protocol(path)).weight()
