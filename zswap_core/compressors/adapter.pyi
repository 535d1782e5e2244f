from collections.abc import Callable
from typing import Any

from zswap_core.compressors.base import Compressor

class PythonCompressor(Compressor):
    def __init__(
        self,
        name: str,
        compress: Callable[..., Any] | None,
        decompress: Callable[..., Any] | None,
        *,
        level: int | None = None,
        library: str | None = None,
        version: str | None = None,
        path: str | None = None,
    ) -> None: ...

def takes_size(decompress: Callable[..., Any]) -> bool: ...
