"""Writing a file so that nothing is lost, and nothing is left behind.

A regular file is replaced at one stroke when the new one is complete; until then, and whenever that
fails, the old one stays as it was.  The new one has no name while it is written, where the file
system can do that (O_TMPFILE), so that not even SIGKILL leaves a piece of it behind.  Elsewhere it
has a name that nobody can guess, and goes away with every exception, which `zswap.signals` makes of
signals.

What is no regular file (a device, a pipe, a terminal's end) is written into and stays what it is.
Symbolic links are followed, by the kernel first, as it may forbid that (protected_symlinks).
``-``, ``/dev/stdout`` and ``/dev/fd/N`` are the open descriptors, at their positions.  A file that
is mounted in its place, or lies in a folder in which nothing can be made, can only be written over.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import secrets
import select
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from zswap import Error
from zswap.signals import held

__all__ = ["OutputError", "OutputFailed", "check", "writing"]

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_LINKS = 40  # as many as the kernel follows
_NO_UNNAMED = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS)


class OutputError(Error):
    """A file that cannot be written; the message names it and the remedy.

    The file is as it was.
    """


class OutputFailed(OutputError):
    """Writing began, and failed.  What was there before is as it was."""


class _Descriptor(Exception):
    """The path is a name of one of this process's descriptors."""

    def __init__(self, number: int) -> None:
        self.number = number


def check(path: str | os.PathLike[str]) -> None:
    """Find out whether a file can probably be written, before work is done for it.

    Raises
    ------
    OutputError
    """
    path = os.fsdecode(path)
    if path == "-":
        return
    with ExitStack() as keep, _told(path, OutputError):
        try:
            mode = os.stat(path).st_mode
        except FileNotFoundError:
            with contextlib.suppress(_Descriptor):
                folder, name = _resolved(path, keep)
                if not name or not os.access(
                    ".", os.W_OK | os.X_OK, dir_fd=folder, effective_ids=True
                ):
                    raise OSError(errno.EACCES if name else errno.EISDIR, "") from None
            return
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, "")
        if not os.access(path, os.W_OK, effective_ids=True):
            raise OSError(errno.EACCES, "")


@contextlib.contextmanager
def writing(path: str | os.PathLike[str], *, private: bool = False) -> Iterator[io.RawIOBase]:
    """Open a file for writing bytes; it is there when the block ends.

    It is not there at all when the block ends with an exception.

    Parameters
    ----------
    path : path-like
        ``-`` for standard output.
    private : bool
        Whether the file must be readable by its owner alone, who is this user.  Else a new one has
        the permissions of any new file, and a file that is replaced leaves its owner, group and
        permissions to the new one.

    Yields
    ------
    file
        A raw binary file.  A call of its ``write`` writes everything; a reader that has gone away
        is a BrokenPipeError.

    Raises
    ------
    OutputError
        When the file cannot be opened.
    OutputFailed
        When it cannot be written to the end.
    """
    path = os.fsdecode(path)
    keep = ExitStack()
    try:
        with _told(path, OutputError):
            place = _found(path, keep)
            fd, temporary = _opened(place, private, keep)
        file = _File(fd, path)
        keep.callback(file.close)
        yield file
        with _told(path, OutputFailed), held():
            if fd != place.into:
                _put(place, fd, temporary, keep)
            elif place.folder is not None:  # what the old file had beyond
                os.ftruncate(fd, file.tell())
    finally:
        with held():
            keep.close()


class _File(io.FileIO):
    """A file that writes everything or fails with a message."""

    def __init__(self, fd: int, path: str) -> None:
        super().__init__(fd, "w", closefd=False)
        self._path = path

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        size = len(view)
        with _told(self._path, OutputFailed):
            while view:
                done = super().write(view)
                if done is None:  # a pipe that somebody has set not to block, and that is full
                    select.select([], [self], [])
                view = view[done or 0 :]
        return size


@dataclass
class _Place:
    """Where the file goes, and what is there now.

    That is a descriptor to write into, or a name in a folder.
    """

    into: int | None = None
    folder: int | None = None
    name: str = ""
    before: os.stat_result | None = None


@contextlib.contextmanager
def _told(path: str, kind: type[OutputError]) -> Iterator[None]:
    """Turn an OSError into one line with a remedy; but that of a reader that has gone."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) else None
        what = "standard output" if path == "-" else path or "''"
        why = str(error) if number is None else error.strerror or os.strerror(number)  # type: ignore[union-attr]
        raise kind(f"cannot write {what}: {why}{_REMEDIES.get(number, '')}") from error


_FREE = "; free some space, or name a file elsewhere"
_ELSEWHERE = "; name a file in a folder that exists and that you may write to"
_REMEDIES: dict[int | None, str] = {
    errno.ENOENT: _ELSEWHERE,
    errno.ENOTDIR: _ELSEWHERE,
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.EROFS: _ELSEWHERE,
    errno.EISDIR: "; name a file in it",
    errno.ENOSPC: _FREE,
    errno.EDQUOT: _FREE,
    errno.EFBIG: "; the limit is that of `ulimit -f`, or the file system's",
    errno.ETXTBSY: "; it is a program that runs",
}


def _found(path: str, keep: ExitStack) -> _Place:
    """Look at what the path leads to, and open what has it now."""
    if path == "-":
        return _into(os.dup(1), keep)
    try:
        folder, name = _resolved(path, keep)
    except _Descriptor as own:
        return _into(os.dup(own.number), keep)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError:
        if not name:
            raise
        return _Place(folder=folder, name=name)
    place = _into(fd, keep)
    assert place.before is not None
    if stat.S_ISREG(place.before.st_mode):
        # What the kernel opened must be what is to be replaced.
        if not os.path.samestat(place.before, os.stat(name, dir_fd=folder, follow_symlinks=False)):
            raise OSError(errno.ESTALE, "it has just been replaced")
        place.folder, place.name = folder, name
    return place


def _into(fd: int, keep: ExitStack) -> _Place:
    keep.callback(os.close, fd)
    if os.isatty(fd):
        raise OSError(errno.EINVAL, "it is a terminal; name a file, or send it into a pipe")
    return _Place(into=fd, before=os.fstat(fd))


def _resolved(path: str, keep: ExitStack) -> tuple[int, str]:
    """Open the folder of the path's last name; symbolic links are followed."""
    head, name = os.path.split(path)
    folder = _folder(head, None, keep)
    for _ in range(_LINKS):
        try:
            link = os.readlink(name, dir_fd=folder)
        except OSError:  # no link, or nothing
            return folder, name
        where = ""
        with contextlib.suppress(OSError):
            where = os.readlink(f"/proc/self/fd/{folder}")
        if re.fullmatch(rf"/proc/{os.getpid()}(/task/\d+)?/fd", where) and name.isdigit():
            raise _Descriptor(int(name))
        head, name = os.path.split(link)
        folder = _folder(head, folder, keep)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _folder(path: str, beside: int | None, keep: ExitStack) -> int:
    fd = os.open(path or ".", _FOLDER, dir_fd=beside)
    keep.callback(os.close, fd)
    return fd


def _opened(place: _Place, private: bool, keep: ExitStack) -> tuple[int, str | None]:
    """Open a descriptor to write to; with the name it has meanwhile, if any."""
    before, into = place.before, place.into
    if place.folder is None:  # a device, a pipe, a descriptor
        assert into is not None
        return into, None
    if into is not None and _mount(into) != _mount(place.folder):
        return _over(into, before, private), None
    try:
        fd, name = _new(place.folder, 0o600 if private or before is not None else 0o666, keep)
    except OSError as error:
        if into is None or error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return _over(into, before, private), None
    if before is not None and not private:
        with contextlib.suppress(OSError):
            os.fchown(fd, before.st_uid, before.st_gid)
        os.fchmod(fd, stat.S_IMODE(before.st_mode) & 0o777)
    return fd, name


def _new(folder: int, mode: int, keep: ExitStack) -> tuple[int, str | None]:
    """Make a new file in the folder, without a name where the system can."""
    try:
        fd = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, mode, dir_fd=folder)
    except OSError as error:
        if error.errno not in _NO_UNNAMED:
            raise
    else:
        keep.callback(os.close, fd)
        if os.path.exists(f"/proc/self/fd/{fd}"):  # by which it gets its name
            return fd, None
    with held():
        name = _unguessable(folder, keep)
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=folder)
        keep.callback(os.close, fd)
    return fd, name


def _unguessable(folder: int, keep: ExitStack) -> str:
    """Make up a name that nobody can guess; a file of that name at the end goes away."""

    def remove() -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)

    name = f".zswap-{secrets.token_hex(8)}.part"
    keep.callback(remove)
    return name


def _over(fd: int, before: os.stat_result | None, private: bool) -> int:
    """Open the old file itself, where no other can take its place."""
    if private and before is not None and before.st_mode & 0o077:
        os.fchmod(fd, 0o600)
    return fd


def _mount(fd: int) -> str | None:
    """Which mount a descriptor belongs to; None where the kernel does not tell."""
    with contextlib.suppress(OSError), open(f"/proc/self/fdinfo/{fd}") as lines:
        return next((line for line in lines if line.startswith("mnt_id:")), None)
    return None


def _put(place: _Place, fd: int, name: str | None, keep: ExitStack) -> None:
    """Give the complete file its name, in one step whatever has it now."""
    folder = place.folder
    assert folder is not None
    if name is None:
        unnamed = f"/proc/self/fd/{fd}"
        if place.before is None:
            with contextlib.suppress(FileExistsError):
                os.link(unnamed, place.name, dst_dir_fd=folder)
                return
        name = _unguessable(folder, keep)
        os.link(unnamed, name, dst_dir_fd=folder)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(place.name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise OSError(errno.EEXIST, "something else has come there meanwhile")
    os.replace(name, place.name, src_dir_fd=folder, dst_dir_fd=folder)
