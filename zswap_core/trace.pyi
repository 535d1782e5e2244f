import numpy as np
from numpy.typing import NDArray

def parse_lines(
    data: bytes,
    pages: NDArray[np.uint64],
    ops: NDArray[np.uint8],
    *,
    delimiter: int = 0,
    id_column: int = 1,
    op_column: int = 2,
    base: int = 10,
    names: bool = False,
    lackey: bool = False,
    final: bool = False,
) -> tuple[int, int, int, int, int]: ...
