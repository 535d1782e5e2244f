"""The compiled core of zswap.

Programs use the package `zswap`; plug-ins cimport `zswap_core.abi`, and C includes zswap/zswap.h.
"""

import importlib
import os.path
from typing import Any


def get_include() -> str:
    """Return the directory to compile against: it holds ``zswap/abi.h`` and ``zswap/zswap.h``."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "include")


def __getattr__(name: str) -> Any:
    if name == "api":  # for PyCapsule_Import, which imports the package alone
        return importlib.import_module("zswap_core.api")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
