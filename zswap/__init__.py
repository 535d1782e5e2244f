"""The Linux kernel's compressed swap cache as a library.

Pages are kept in RAM, compressed, and given back bit for bit.
"""

from zswap.core import ZSwap
from zswap.parameters import Parameters
from zswap.stats import Latency, PoolInfo, Recompressed, Stats
from zswap.zpools import zpools
from zswap_core.backings import SwapFile
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

__version__ = "0.1.0"

__all__ = [
    "BackingError",
    "Compressor",
    "CompressorInfo",
    "CompressorNotFound",
    "Error",
    "Latency",
    "PageCorruptError",
    "Parameters",
    "PoolInfo",
    "PoolLimitError",
    "Recompressed",
    "Stats",
    "Status",
    "StoreError",
    "SwapFile",
    "ZSwap",
    "compressors",
    "open_compressor",
    "register_compressor",
    "train_dictionary",
    "unregister_compressor",
    "zpools",
]
