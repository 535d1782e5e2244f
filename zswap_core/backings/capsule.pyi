from typing import Any

from zswap_core.backings.base import Backing

class CapsuleBacking(Backing):
    def __init__(self, capsule: Any, name: str | None = None) -> None: ...

def is_capsule(made: Any) -> bool: ...
