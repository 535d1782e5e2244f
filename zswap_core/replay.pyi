from typing import Literal

import numpy as np
from numpy.typing import NDArray

COUNTERS: tuple[str, ...]

class Replay:
    def __init__(
        self,
        numbers: NDArray[np.uint64],
        sizes: NDArray[np.uint16],
        classes: NDArray[np.uint32],
        *,
        memory: int,
        most: int,
        accept: int,
        header: int = 8,
        compacted: bool = False,
        zswap: bool = True,
        shrinker: bool = False,
        ours: bool = False,
        exclusive: bool = True,
        charged: Literal["beside", "whole", "payload"] = "whole",
        cluster: int = 0,
        log_room: int = 0,
    ) -> None: ...
    def run(
        self,
        ids: NDArray[np.uint32],
        ops: NDArray[np.uint8],
        first: int = 0,
        stop: int | None = None,
    ) -> None: ...
    def counters(self) -> dict[str, int]: ...
    def state(self) -> dict[str, int]: ...
    def log(self) -> NDArray[np.uint64]: ...

def reuse_distances(ids: NDArray[np.uint32], pages: int) -> NDArray[np.int64]: ...
