"""The Linux kernel's compressed swap cache as a library.

Pages are kept in RAM, compressed, and given back bit for bit.
"""

import importlib
from typing import TYPE_CHECKING, Any

from zswap.core import ZSwap
from zswap.parameters import Parameters
from zswap.stats import AreaInfo, Latency, PoolInfo, Recompressed, Stats, Weight
from zswap.zpools import zpools
from zswap_core.backings import SwapFile
from zswap_core.backings.registry import backings, register_backing, unregister_backing
from zswap_core.compressors.base import Compressor
from zswap_core.compressors.dictionary import train_dictionary
from zswap_core.compressors.registry import (
    CompressorInfo,
    compressors,
    open_compressor,
    register_compressor,
    unregister_compressor,
)
from zswap_core.errors import (
    BackingError,
    CompressorNotFound,
    Error,
    PageCorruptError,
    PoolLimitError,
    StoreError,
)
from zswap_core.status import Status
from zswap_core.zpools.registry import register_zpool, unregister_zpool

if TYPE_CHECKING:
    from zswap.arrays import CompressedArray
    from zswap.files import PageFile
    from zswap.memory import Memory, MemoryStats
    from zswap.objects import ObjectStats, ObjectStore

__version__ = "0.1.0"

__all__ = [
    "AreaInfo",
    "BackingError",
    "CompressedArray",
    "Compressor",
    "CompressorInfo",
    "CompressorNotFound",
    "Error",
    "Latency",
    "Memory",
    "MemoryStats",
    "ObjectStats",
    "ObjectStore",
    "PageCorruptError",
    "PageFile",
    "Parameters",
    "PoolInfo",
    "PoolLimitError",
    "Recompressed",
    "Stats",
    "Status",
    "StoreError",
    "SwapFile",
    "Weight",
    "ZSwap",
    "backings",
    "compressors",
    "open_compressor",
    "register_backing",
    "register_compressor",
    "register_zpool",
    "train_dictionary",
    "unregister_backing",
    "unregister_compressor",
    "unregister_zpool",
    "zpools",
]

# The doors for objects, files and arrays: imported when asked for, since an engine needs none.
_DOORS = {
    "CompressedArray": "zswap.arrays",
    "Memory": "zswap.memory",
    "MemoryStats": "zswap.memory",
    "ObjectStats": "zswap.objects",
    "ObjectStore": "zswap.objects",
    "PageFile": "zswap.files",
}


def __getattr__(name: str) -> Any:
    if name not in _DOORS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    found = globals()[name] = getattr(importlib.import_module(_DOORS[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_DOORS})
