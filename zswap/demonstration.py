"""A program to measure where there is no other: 64 MiB of ordinary Python memory.

Run as a script it is that program: it fills its memory, says so, and waits until its input ends.
"""

from __future__ import annotations

import array
import contextlib
import itertools
import mmap
import random
import subprocess
import sys
from collections.abc import Iterator

__all__ = ["LEAST_BYTES", "TITLE", "is_called_for", "running"]

#: A machine whose largest process holds less has nothing to tell.
LEAST_BYTES = 32 << 20
_HOLD_BYTES = 64 << 20
TITLE = "a demonstration made on the spot: records, text and arrays in Python"


def is_called_for() -> bool:
    """Whether no process that may be read holds as much as `LEAST_BYTES`."""
    from zswap.pages import SourceError, largest_process

    try:
        return largest_process().rss_anon < LEAST_BYTES
    except SourceError:
        return True


@contextlib.contextmanager
def running() -> Iterator[int]:
    """Run the program; its pid while it holds its memory."""
    command = [sys.executable, "-I", "-S", __file__]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if process.stdout.readline() != b"ready\n":
                from zswap.pages import SourceError

                raise SourceError(
                    "the demonstration did not start; name a target with --pid, --file or --core"
                )
            yield process.pid
        finally:
            process.stdin.close()


def _anonymous_bytes() -> int:
    with open("/proc/self/statm") as statm:
        resident, shared = map(int, statm.read().split()[1:3])
    return (resident - shared) * mmap.PAGESIZE


def _fill(seed: int = 0) -> list[object]:
    """Make objects until the process holds enough.

    Nearly half are records, a quarter text, the rest numbers.
    """
    rng = random.Random(seed)
    letters = "etaoinshrdlucmfwypvbgk"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 10))) for _ in range(5000)]
    weights = list(itertools.accumulate(1 / rank for rank in range(1, len(words) + 1)))
    cities = [word.title() for word in words[:200]]
    records = [
        {
            "id": number,
            "name": f"{words[number % 4999]} {words[number * 7 % 4993]}",
            "city": cities[number % 200],
            "balance": rng.random() * 10_000,
            "seen": 1_700_000_000 + rng.randrange(10**7),
            "active": number % 3 > 0,
        }
        for number in range(50_000)
    ]
    text = [" ".join(rng.choices(words, cum_weights=weights, k=240)) for _ in range(10_000)]
    level, walk = 100.0, array.array("d")
    for _ in range(1_000_000):
        level += rng.random() - 0.5
        walk.append(level)
    counts = []
    while _anonymous_bytes() < _HOLD_BYTES:
        counts.append(array.array("q", (int(rng.random() * 1000) for _ in range(1 << 14))))
    return [records, text, walk, counts]


if __name__ == "__main__":
    _held = _fill()
    print("ready", flush=True)
    sys.stdin.read()
