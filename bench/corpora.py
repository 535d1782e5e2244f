"""Pages to measure with: of a live process, of text, and made from a seed."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from zswap import pages as sources

PAGE = 4096
Pages = npt.NDArray[np.uint8]

# What the child holds when its pages are read: arrays and parsed JSON, the same every time.
_CHILD = """
import json, sys
import numpy as np
rng = np.random.default_rng(0)
size = int(sys.argv[1]) // 5
held = [np.sort(rng.integers(0, 1 << 40, size // 8)), rng.standard_normal(size // 8), rng.integers(0, 100, size // 8)]
row = lambda i: {"id": i, "name": f"user {i % 997}", "score": i * 0.37, "tags": ["a", str(i % 31)], "active": i % 3 == 0}
text = json.dumps([row(i) for i in range(size // 700)])
held.append(json.loads(text))
held.append([json.dumps(r) for r in held[-1]])
print("ready", flush=True)
sys.stdin.read()
"""


def process(count: int) -> Pages:
    """Anonymous memory of a Python process with numpy arrays and parsed JSON, sampled over all of it."""
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(max(2 * count * PAGE, 16 << 20))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONHASHSEED": "0"},
    )
    try:
        assert child.stdout is not None
        if child.stdout.readline() != b"ready\n":
            raise sources.SourceError("the process whose pages were to be measured has died")
        with sources.open_process(child.pid, page_size=PAGE) as source:
            parts = [source.read(chosen)[0] for chosen in sources.sample(len(source), count)]
    finally:
        child.kill()
        child.wait()
    return np.concatenate(parts)


def text(count: int) -> Pages:
    """Python's own sources."""
    blob = bytearray()
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if "site-packages" in path.parts:
            continue
        with contextlib.suppress(OSError):
            blob += path.read_bytes()
        if len(blob) >= count * PAGE:
            break
    return np.frombuffer(bytes(blob[: len(blob) // PAGE * PAGE]), np.uint8).reshape(-1, PAGE)[:count]


def mix(count: int) -> Pages:
    """Pages from a seed: small integers, mostly zeros, words, and noise, a quarter each, shuffled."""
    rng = np.random.default_rng(0)
    out = np.empty((count, PAGE), np.uint8)
    kind = rng.permutation(count) % 4
    some = [np.flatnonzero(kind == k) for k in range(4)]
    out[some[0]] = rng.integers(0, 10_000, (some[0].size, PAGE // 8)).view(np.uint8)
    sparse = np.zeros((some[1].size, PAGE), np.uint8)
    sparse[:, ::64] = rng.integers(1, 256, (some[1].size, PAGE // 64))
    out[some[1]] = sparse
    words = np.frombuffer(b"".join(f"{w:<8x}".encode() for w in rng.integers(0, 1 << 30, 4096).tolist()), np.uint64)
    rank = np.minimum(rng.zipf(1.3, (some[2].size, PAGE // 8)), 4096) - 1
    out[some[2]] = words[rank].view(np.uint8)
    out[some[3]] = rng.integers(0, 256, (some[3].size, PAGE), np.uint8)
    return out


CORPORA: dict[str, Callable[[int], Pages]] = {"process": process, "text": text, "mix": mix}


def same_filled(pages: Pages) -> npt.NDArray[np.bool_]:
    """Which pages are one 8-byte word repeated."""
    words = pages.view(np.uint64)
    return (words == words[:, :1]).all(axis=1)


def chosen(names: list[str] | None, count: int) -> Iterator[tuple[str, Pages]]:
    """Name and pages of each corpus, one at a time."""
    for name in names or CORPORA:
        yield name, np.ascontiguousarray(CORPORA[name](count))


def common_options(parser: argparse.ArgumentParser) -> None:
    """What every bench takes."""
    parser.add_argument("--corpus", action="append", choices=list(CORPORA), help="only this one; may be repeated")
    parser.add_argument("--pages", type=int, metavar="N", help="pages of each corpus, at most")
    parser.add_argument("--smoke", action="store_true", help="as few pages and rounds as show that it works")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--markdown", action="store_true", help="print Markdown tables")


def main(run: Callable[[], int]) -> None:
    """Run a bench; say in one line what went wrong."""
    name = Path(sys.argv[0]).name
    try:
        code = run()
        sys.stdout.flush()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print(f"{name}: stopped", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except (OSError, MemoryError, sources.SourceError) as error:
        print(f"{name}: {error or 'not enough memory; ask for fewer pages with --pages'}", file=sys.stderr)
        code = 1
    sys.exit(code)
