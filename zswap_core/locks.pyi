from types import TracebackType

class Lock:
    """A lock for ``with``, that is free in a forked child."""

    def __init__(self, *, reentrant: bool = False) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
