from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZES: tuple[int, int]
SAMPLES: int
FEWEST: int

def sample_pages(pages: Any, page_size: int, most: int) -> NDArray[np.uint8]: ...
def train_dictionary(pages: Any, size: int = 16384, *, page_size: int = 4096) -> bytes: ...
