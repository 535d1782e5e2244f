from typing import Literal

import numpy as np
from numpy.typing import NDArray

from zswap_core.compressors.base import Compressor

class CodecLoop:
    count: int
    def __init__(
        self, compressor: Compressor, pages: NDArray[np.uint8], page_size: int = 4096
    ) -> None: ...
    def run(
        self,
        what: Literal["compress", "store", "load", "scan", "copy"],
        first: int = 0,
        stop: int | None = None,
        *,
        out: NDArray[np.uint8] | None = None,
        order: NDArray[np.uint64] | None = None,
        ns: NDArray[np.uint32] | None = None,
    ) -> int: ...
    def lengths(self) -> tuple[int, int, int]: ...

class IndexLoop:
    count: int
    def __init__(self, offsets: NDArray[np.uint64]) -> None: ...
    def lookup(self, offsets: NDArray[np.uint64]) -> tuple[int, int]: ...
    def bytes(self) -> int: ...
