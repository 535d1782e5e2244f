"""The doors to an engine beside what people use in their place: C, arrays, objects that spill.

    pip install '.[bench,dask]'; python bench/doors.py --rounds 5

- c: one call a page from C against a batch of all, both through the table of zswap.h
- array: a `CompressedArray` against a `blosc2.NDArray` of the same chunks, read in order
- spill: an `ObjectStore` of 100 MB with 400 MB in it, against a zict.Buffer over files and
  distributed's SpillBuffer; each in a process of its own, for the bytes that it writes

Times are medians of the rounds, taken in turns.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import shlex
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import numpy as np
import objects  # the bench beside this one, for its values

import zswap
import zswap_core.api
from zswap.bench import corpora

PAGE = 4096

PROGRAM = r"""
#include <time.h>
#include <zswap/zswap.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

/* ns a page of n stores or loads, each a call or all in one; -1 where one fails. */
double run(const zswap_api *api, zswap_engine *engine, unsigned char *pages,
           const uint64_t *offsets, int8_t *status, size_t n, int loads, int together)
{
    double began = now();
    int rc = 0;
    if (together)
        rc = loads ? api->load_many(engine, 0, offsets, pages, n, 1, status)
                   : api->store_many(engine, 0, offsets, pages, n, 1, status);
    for (size_t i = 0; i < n && rc >= 0 && !together; i++)
        rc = loads ? api->load(engine, 0, offsets[i], pages + i * 4096)
                   : api->store(engine, 0, offsets[i], pages + i * 4096);
    return rc < 0 ? -1 : (now() - began) / n;
}
"""


def compiled(folder: str) -> Any:
    """The program as a library."""
    source, library = Path(folder, "singles.c"), Path(folder, "singles.so")
    source.write_text(PROGRAM)
    cc = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    include = f"-I{zswap_core.get_include()}"
    command = [*cc, "-O2", "-shared", "-fPIC", include, str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    run = ctypes.CDLL(str(library)).run
    run.restype = ctypes.c_double
    run.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_size_t, ctypes.c_int, ctypes.c_int]
    return run


def function(table: int, place: int) -> int:
    """Address of a function of the table, behind version and size."""
    address = ctypes.c_void_p.from_address(table + 8 + place * ctypes.sizeof(ctypes.c_void_p)).value
    assert address is not None
    return address


def in_c(rounds: int, pages: int) -> list[tuple[str, float, float, float]]:
    """Of stores and loads: ns a single call, ns a page of a batch, and the difference."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    table = get(zswap_core.api.v1, b"zswap_core.api.v1")
    data = corpora.process(pages, 0)[:pages].copy()
    n = len(data)
    offsets, status = np.arange(n, dtype=np.uint64), np.empty(n, np.int8)
    rows = []
    with tempfile.TemporaryDirectory() as folder, zswap.ZSwap(max_pool_bytes="2GiB") as z:
        run = compiled(folder)
        engine = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(function(table, 0))(z)
        unref = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function(table, 2))
        out = np.empty_like(data)

        def ns(loads: int, together: int) -> float:
            where = (out if loads else data).ctypes.data
            found = run(
                table, engine, where, offsets.ctypes.data, status.ctypes.data, n, loads, together
            )
            assert found > 0
            return float(found)

        ns(0, 1)
        for loads, what in ((0, "store"), (1, "load")):
            pairs = [(ns(loads, 0), ns(loads, 1)) for _ in range(rounds)]
            single, batch = (statistics.median(column) for column in zip(*pairs, strict=True))
            rows.append((what, single, batch, statistics.median(a - b for a, b in pairs)))
        assert (out == data).all()
        unref(engine)
    return rows


def of_arrays(rounds: int, rows: int) -> list[tuple[str, float]]:
    """Seconds to read an array of float64 once, in order."""
    import blosc2

    noise = np.random.default_rng(0).integers(0, 1 << 16, (rows, 1000))
    x = (np.sin(np.arange(rows * 1000).reshape(rows, 1000) / 500) * 1e4 + noise / 65536).round(2)
    chunks = (64, 1000)
    parameters = {"codec": blosc2.Codec.LZ4, "clevel": 9, "filters": [blosc2.Filter.NOFILTER]}
    plain = blosc2.asarray(x, chunks=chunks, cparams=parameters)
    usual = blosc2.asarray(x, chunks=chunks)
    with zswap.CompressedArray(x.shape, "f8", chunks=chunks, max_memory="1GiB") as ours:
        ours[:] = x

        def seconds(array: Any, threads: int) -> float:
            blosc2.set_nthreads(threads)
            began = time.perf_counter()
            for first in range(0, rows, chunks[0]):
                array[first : first + chunks[0]]
            return time.perf_counter() - began

        assert (ours[100:200] == x[100:200]).all()
        kinds: dict[str, Callable[[], float]] = {
            "CompressedArray": lambda: seconds(ours, 1),
            "blosc2, lz4, no filter, one thread": lambda: seconds(plain, 1),
            "blosc2 as it comes, one thread": lambda: seconds(usual, 1),
            "blosc2 as it comes, all threads": lambda: seconds(usual, os.cpu_count() or 1),
        }
        found: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(rounds):
            for kind, measured in kinds.items():
                found[kind].append(measured())
    return [(kind, statistics.median(times)) for kind, times in found.items()]


STORES = ("ObjectStore", "ObjectStore, lz4", "zict.Buffer over File", "SpillBuffer")


def spilling(store: str, folder: str, budget: int) -> Any:
    """A mapping with so much memory, and files."""
    if store.startswith("ObjectStore"):
        compressor = "lz4" if "lz4" in store else "auto"
        return zswap.ObjectStore(budget, backing=Path(folder, "spill"), compressor=compressor)
    if store == "SpillBuffer":
        from distributed.spill import SpillBuffer

        return SpillBuffer(folder, target=budget)
    import zict

    return zict.Buffer({}, zict.File(folder), n=budget, weight=lambda key, value: len(value))


def written() -> int:
    return int(Path("/proc/self/io").read_text().partition("\nwrite_bytes:")[2].split()[0])


def one_store(store: str, count: int) -> dict[str, float]:
    """Values of 100 kB, four times the budget: put in, and read at random."""
    size = 100_000
    rng = random.Random(15)
    made = [make(size, rng) for make in objects.KINDS.values() for _ in range(20)]
    values = [made[n % len(made)] for n in range(count)]
    order = random.Random(1).sample(range(count), count)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        it = spilling(store, folder, count * size // 4)
        before = written()
        began = time.perf_counter()
        for key, value in enumerate(values):
            it[str(key)] = value
        stored = time.perf_counter()
        for key in order:
            assert len(it[str(key)]) == size
        done = time.perf_counter()
        to_disk = written() - before
        assert all(it[str(key)] == values[key] for key in order[:50])
        with suppress(AttributeError):
            it.close()
    return {"store": stored - began, "load": done - stored, "written": to_disk}


def of_stores(rounds: int, count: int) -> list[tuple[str, dict[str, float]]]:
    rows = []
    for store in STORES:
        found = []
        for _ in range(rounds):
            command = [sys.executable, __file__, "--one", store, "--count", str(count)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                print(f"{store}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                break
            found.append(json.loads(done.stdout))
        if found:
            rows.append((store, {k: statistics.median(f[k] for f in found) for k in found[0]}))
    return rows


@click.command(help=__doc__.partition("\n")[0])
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--only", type=click.Choice(["c", "array", "spill"]), multiple=True)
@click.option("--smoke", is_flag=True, help="As little as shows that it works.")
@click.option("--one", type=click.Choice(STORES), hidden=True)
@click.option("--count", default=4000, hidden=True)
def main(rounds: int, only: tuple[str, ...], smoke: bool, one: str | None, count: int) -> None:
    if one is not None:
        print(json.dumps(one_store(one, count)))
        return
    rounds, wanted = 1 if smoke else rounds, only or ("c", "array", "spill")
    if "c" in wanted:
        print("| from C | ns, one call a page | ns, a batch | ns more |\n|---|---:|---:|---:|")
        for what, single, batch, more in in_c(rounds, 500 if smoke else 20_000):
            print(f"| {what} | {single:.0f} | {batch:.0f} | {more:.0f} |")
    if "array" in wanted:
        print("\n| float64 read in order | s | x |\n|---|---:|---:|")
        rows = of_arrays(rounds, 640 if smoke else 20_000)
        for kind, seconds in rows:
            print(f"| {kind} | {seconds:.3f} | {seconds / rows[1][1]:.2f} |")
    if "spill" in wanted:
        print("\n| four times the budget | store s | load s | to disk MB |\n|---|---:|---:|---:|")
        for store, found in of_stores(rounds, 100 if smoke else count):
            print(
                f"| {store} | {found['store']:.2f} | {found['load']:.2f} | "
                f"{found['written'] / 1e6:.0f} |"
            )


if __name__ == "__main__":
    main()
