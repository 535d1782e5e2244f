from typing import Any

from zswap_core.backings.base import Backing

class PythonBacking(Backing):
    def __init__(self, obj: Any, page_size: int = 4096) -> None: ...
    @property
    def obj(self) -> Any: ...
