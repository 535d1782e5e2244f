"""Sort and sum an array that is three times as large as the memory it is given."""

import numpy as np

import zswap

mem = zswap.Memory(budget="32MiB", backing="memory.spill")
numbers = mem.empty(12 << 20, np.int64)  # 96 MiB
rng = np.random.default_rng(0)
for start in range(0, len(numbers), 1 << 20):
    numbers[start : start + (1 << 20)] = rng.integers(0, 1_000_000, 1 << 20)
numbers.sort()
assert (numbers[1:] >= numbers[:-1]).all()

with mem:  # numpy allocates there
    squares = numbers[: 4 << 20] ** 2
assert squares[-1] == numbers[(4 << 20) - 1] ** 2

stats = mem.stats()
assert stats.total_bytes <= stats.budget
print(f"{stats.allocated_bytes >> 20} MiB in {stats.total_bytes >> 20}: {stats.faults} faults,")
print(f"{stats.fetched_pages} pages came back, {stats.clean_pages} of those that left were clean")
