"""What the tests of the zpools share."""

import sysconfig
from array import array
from pathlib import Path

import numpy as np

PAGE = 4096


def name(geometry):
    """A test's name for a zpool's options."""
    return "-".join(f"{k}{int(v)}" for k, v in geometry.items()) or "default"


def uints(values):
    """Sizes, as malloc_many() takes them."""
    return array("I", values)


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
