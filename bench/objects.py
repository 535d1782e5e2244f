"""`zswap.ObjectStore` against a dict of lz4.frame bytes: time and memory of values of three sizes.

    python bench/objects.py [--rounds 7] [--compressor lz4]

Each pair is measured in the same process, in turns; times are medians of the rounds.  Memory is
what the process grew by (VmRSS) while the values were put in, over a dict of the same keys, so all
that anybody keeps is in it.
"""

import argparse
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import time

import lz4.frame
import numpy as np

import zswap

SIZES = {"1 kB": (1000, 40_000), "100 kB": (100_000, 600), "8 MiB": (8 << 20, 8)}


def json_text(size, rng):
    """Records as a service writes them."""
    rows = [
        {"id": rng.randrange(10**6), "name": f"user{rng.randrange(5000)}", "score": rng.random()}
        for _ in range(size // 55 + 1)
    ]
    return json.dumps(rows).encode()[:size]


def heap(size, rng):
    """What a heap looks like: pointers, small numbers, short strings, gaps."""
    words = np.zeros(size // 8 + 1, np.uint64)
    kinds = np.array([rng.random() for _ in range(len(words))])
    base = 0x7F0000000000 + rng.randrange(1 << 30) * 16
    words[kinds < 0.4] = base + (kinds[kinds < 0.4] * 1e6).astype(np.uint64) * 16
    words[kinds > 0.8] = (kinds[kinds > 0.8] * 1000).astype(np.uint64)
    return words.tobytes()[:size]


def floats(size, rng):
    """An array as measurements make it: 16 bits of noise on a slow curve."""
    n = size // 8
    noise = np.random.default_rng(rng.randrange(1 << 30)).integers(0, 1 << 16, n)
    return (np.sin(np.arange(n) / 500) * 1e4 + noise / 65536).round(2).tobytes()


KINDS = {"JSON": json_text, "process-like": heap, "array": floats}


class Frames:
    """The peer: what people write by hand."""

    def __init__(self):
        self.held = {}

    def __setitem__(self, key, value):
        self.held[key] = lz4.frame.compress(value)

    def __getitem__(self, key):
        return lz4.frame.decompress(self.held[key])

    def close(self):
        self.held.clear()


def make(name):
    return Frames() if name == "frames" else zswap.ObjectStore("2GiB", compressor=name)


def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def data(kind, size, count):
    """Few values are made and cut differently: making them all would take longer than the rest."""
    rng = random.Random(15)
    some = [KINDS[kind](size, rng) for _ in range(min(count, 200 if size < 10**6 else 4))]
    return [some[n % len(some)] for n in range(count)]


def measure_memory(name, kind, size, count):
    """Bytes a value in a process of its own, over a dict of the same keys."""
    values = data(kind, size, count)
    keys = [f"key {n}" for n in range(count)]
    held = make(name)
    held["warm"] = values[0]
    nothing = dict.fromkeys(keys)
    before = resident()
    for key, value in zip(keys, values, strict=True):
        held[key] = value
    print((resident() - before) / count)
    del nothing


def memory(name, kind, size, count):
    command = [sys.executable, __file__, "--memory", json.dumps((name, kind, size, count))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def times(names, kind, size, count, rounds):
    """ns a value for each of the stores: (stores, loads)."""
    values = data(kind, size, count)
    keys = [f"key {n}" for n in range(count)]
    order = keys[:]
    random.Random(1).shuffle(order)
    found = {name: ([], []) for name in names}
    held = {name: make(name) for name in names}
    for _ in range(rounds):
        for name, it in held.items():
            start = time.perf_counter_ns()
            for key, value in zip(keys, values, strict=True):
                it[key] = value
            found[name][0].append((time.perf_counter_ns() - start) / count)
        for name, it in held.items():
            start = time.perf_counter_ns()
            for key in order:
                it[key]
            found[name][1].append((time.perf_counter_ns() - start) / count)
    for key, value in zip(keys[:50], values, strict=False):
        assert all(it[key] == value for it in held.values())
    for it in held.values():
        it.close()
    return {name: [statistics.median(row) for row in rows] for name, rows in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compressor", default="lz4")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        measure_memory(*json.loads(arguments.memory))
        return
    ours = arguments.compressor
    print("| values | store ns | frames | x | load ns | frames | x | bytes | frames | x |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for label, (size, count) in SIZES.items():
        for kind in KINDS:
            found = times((ours, "frames"), kind, size, count, arguments.rounds)
            taken = [memory(name, kind, size, count) for name in (ours, "frames")]
            (s, x), (fs, fx) = found[ours], found["frames"]
            print(
                f"| {label} {kind} | {s:.0f} | {fs:.0f} | {s / fs:.2f} | {x:.0f} | {fx:.0f} | "
                f"{x / fx:.2f} | {taken[0]:.0f} | {taken[1]:.0f} | {taken[0] / taken[1]:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
