"""Backing stores, each a table of C functions (`zswap/abi.h`): where pages go that leave the pool.

`base` is what a store is, `file` the swap file, `adapter` any Python object with `write_pages` and
`read_pages`, `capsule` a table from outside, `registry` those by name.
"""

import os
from typing import Any

from zswap_core.backings.adapter import PythonBacking
from zswap_core.backings.base import Backing
from zswap_core.backings.capsule import CapsuleBacking
from zswap_core.backings.file import SwapFile
from zswap_core.backings.registry import open_registered

__all__ = ["Backing", "CapsuleBacking", "PythonBacking", "SwapFile", "open_backing"]

LARGEST_DEFAULT = 64 << 30
LEAST_DEFAULT = 1 << 16  # a page of any size
IN_CLEAR = "with encrypt=False if zswap may hand it pages in clear"


def open_backing(spec: Any, page_size: int = 4096, *, encrypt: bool = False) -> Backing:
    """Make a backing store of whatever a user may give for one.

    Parameters
    ----------
    spec : path, name, Backing or object
        A name that was registered, as in "memory:1000", is opened by its factory.  A path is opened
        as a sparse `SwapFile`.  A swap file that is already there keeps its size; a new one has
        room for half of what is free on its file system, but never more than 64 GiB.  A `Backing`
        is returned as it is.  Any other object needs the methods of `PythonBacking`.
    page_size : int, default 4096
    encrypt : bool, default False
        Open the path as an encrypted `SwapFile`.  A store that is open already must be one.

    Returns
    -------
    Backing
        Whoever opened it by path or name closes it: ``opened is not spec``.

    Raises
    ------
    BackingError
        The file cannot be used; the message says why.
    TypeError
        `spec` is none of these.
    ValueError
        The `Backing` has another page size, or is closed, or `encrypt` was asked of something that
        does not.
    """
    registered = open_registered(spec, page_size) if isinstance(spec, str) else None
    if registered is not None:
        return open_backing(registered, page_size, encrypt=encrypt)
    if isinstance(spec, Backing):
        if spec.closed:
            raise ValueError(f"{spec!r} is closed; open it anew")
        if spec.page_size != page_size:
            raise ValueError(
                f"{spec!r}: {page_size} bytes to a page are needed; open it with "
                f"page_size={page_size}"
            )
        if encrypt and not (isinstance(spec, SwapFile) and spec.encrypted):
            raise ValueError(
                f"{spec!r} does not encrypt; open a SwapFile with encrypt=True, or give it "
                f"{IN_CLEAR}"
            )
        return spec
    if isinstance(spec, (str, bytes, os.PathLike)):
        path = os.path.abspath(os.fsdecode(spec))
        return SwapFile(path, default_size(path), page_size=page_size, encrypt=encrypt)
    if encrypt:
        raise ValueError(
            f"encrypt=True is for swap files; {spec!r} has to encrypt by itself: give it {IN_CLEAR}"
        )
    return PythonBacking(spec, page_size=page_size)


def default_size(path: str) -> int | None:
    """Choose the size of a swap file to be made at `path`.

    None when a file with content is there, or when nothing can be made.
    """
    try:
        if os.lstat(path).st_size > 0:
            return None
    except FileNotFoundError:
        pass
    except OSError:
        return None  # SwapFile tells what is wrong
    try:
        room = os.statvfs(os.path.dirname(path))
    except OSError:
        return 1 << 30  # again
    # On a disk that is full it is the file system that says so.
    return max(min(room.f_bavail * room.f_frsize // 2, LARGEST_DEFAULT), LEAST_DEFAULT)
