from os import PathLike

from zswap_core.backings.base import Backing

class SwapFile(Backing):
    def __init__(
        self,
        path: str | bytes | PathLike[str] | PathLike[bytes],
        size: int | str | None = None,
        direct: bool = True,
        preallocate: bool = False,
        page_size: int = 4096,
        *,
        encrypt: bool = False,
        unlink: bool = False,
    ) -> None: ...
    @property
    def path(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def left_open(self) -> bool: ...
    @property
    def direct(self) -> bool: ...
    @property
    def preallocated(self) -> bool: ...
    @property
    def encrypted(self) -> bool: ...
