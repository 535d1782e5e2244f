"""What the tests of the zpools share."""

import sysconfig
from array import array
from pathlib import Path

import numpy as np

PAGE = 4096
# ---- of zbud and z3fold, whose objects are of whole chunks
CHUNK = PAGE // 64
BUDDY_GEOMETRIES = [
    {},
    {"page_size": 16384},
    {"page_size": 65536},
    {"kernel": True},
    {"kernel": True, "page_size": 65536},
]


def name(geometry):
    """A test's name for a zpool's options."""
    return "-".join(f"{k}{int(v)}" for k, v in geometry.items()) or "default"


def uints(values):
    """Sizes, as malloc_many() takes them."""
    return array("I", values)


def put(zpool, *chunks):
    """Handles of new objects of so many chunks."""
    return list(zpool.malloc_many(uints(CHUNK * n for n in chunks)))


def where(zpool, handle):
    """(page, first chunk) of an object; pages are 4 KiB here, and as such aligned."""
    address = zpool.address(handle)
    assert address % CHUNK == 0
    return address // PAGE, address % PAGE // CHUNK


def used_pages(zpool):
    """Pages that hold objects."""
    stats = zpool.stats()
    return stats["total_pages"] - stats["idle_pages"]


def library_pages(n):
    """Pages of the standard library's sources."""
    text = bytearray()
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.glob("*.py")) + sorted(library.glob("*/*.py")):
        text += path.read_bytes()
        if len(text) >= n * PAGE:
            break
    return np.frombuffer(bytes(text[: n * PAGE]), np.uint8).reshape(n, PAGE)
