from typing import Any

from zswap_core.binding import Engine
from zswap_core.locks import Lock

class SmallValues:
    """The base of `ObjectStore`: what it keeps, and the mapping's calls, as C slots."""

    _map: dict[Any, Any]
    _lock: Lock
    _small: Engine
    _slots: list[int]
    _value_bytes: int
    _step: int
    _inserted_small: int

    def __getitem__(self, key: Any, /) -> Any: ...
    def __setitem__(self, key: Any, value: Any, /) -> None: ...
    def __delitem__(self, key: Any, /) -> None: ...
