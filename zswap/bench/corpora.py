"""Pages to measure with: of live processes, of text, made from a seed, or of any file."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from zswap import Error
from zswap import pages as sources

__all__ = [
    "CORPORA",
    "DEFAULT",
    "PAGE",
    "CorpusMissing",
    "Pages",
    "distinct",
    "from_file",
    "make",
    "same_filled",
]

PAGE = 4096
Pages = npt.NDArray[np.uint8]


class CorpusMissing(Error):
    """A corpus that this machine cannot make; the message says what is missing."""


# ---- live processes ------------------------------------------------------------------------------
# Each program is given a number of bytes, holds at least so much data, the same every time, says
# "ready", and waits until its standard input is closed.

_PYTHON = """
import json, sys
import numpy as np
seed, size = int(sys.argv[2]), int(sys.argv[1]) // 5
rng = np.random.default_rng(seed)
held = [np.sort(rng.integers(0, 1 << 40, size // 8)), rng.standard_normal(size // 8),
        rng.integers(0, 100, size // 8)]
row = lambda i: {"id": i, "name": f"user {i % 997}", "score": i * 0.37, "tags": ["a", str(i % 31)],
                 "active": i % 3 == 0}
text = json.dumps([row(i) for i in range(size // 700)])
held.append(json.loads(text))
held.append([json.dumps(r) for r in held[-1]])
print("ready", flush=True)
sys.stdin.read()
"""

_NODE = """
const size = Number(process.argv[1]) / 4;
let state = Number(process.argv[2]) + 1;
const random = () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 4294967296;
const orders = [], byName = new Map(), prices = new Float64Array(size / 8);
for (let i = 0; i < size / 300; i++) {
    const order = { id: i, customer: `customer ${Math.floor(random() * 5000)}`,
                    total: random() * 1000, paid: random() < 0.7,
                    lines: [{ sku: `sku-${i % 731}`, count: 1 + i % 9 },
                            { sku: `sku-${i % 97}`, count: 1 }] };
    orders.push(order);
    byName.set(order.customer + i, order);
}
const replies = [];
for (let held = 0; held < size; held += replies[replies.length - 1].length)
    replies.push(Buffer.from(JSON.stringify(
        orders.slice(replies.length % 999, replies.length % 999 + 40))));
for (let i = 0, price = 100; i < prices.length; i++) prices[i] = price += random() - 0.5;
console.log("ready");
process.stdin.resume();
process.stdin.on("end", () =>
    process.exit(orders.length + byName.size + prices.length < 0 ? 1 : 0));
"""

_JAVA = """
import java.util.*;

public class Held {
    record Visit(long at, String page, int status) {}
    static class Account {
        long id; String name; double balance; Date opened; List<Visit> visits = new ArrayList<>();
    }

    public static void main(String[] arguments) throws Exception {
        long size = Long.parseLong(arguments[0]) / 4;
        Random random = new Random(Long.parseLong(arguments[1]));
        Map<Long, Account> accounts = new HashMap<>();
        for (long i = 0; i < size / 400; i++) {
            Account account = new Account();
            account.id = i * 7919;
            account.name = "account " + random.nextInt(1 << 20);
            account.balance = Math.round(random.nextGaussian() * 100000) / 100.0;
            account.opened = new Date(1500000000000L + random.nextInt());
            for (int k = 0; k < 4; k++)
                account.visits.add(
                    new Visit(1700000000000L + i * 1000 + k, "/item/" + random.nextInt(3000), 200));
            accounts.put(account.id, account);
        }
        int[] histogram = new int[(int) (size / 4)];
        for (int i = 0; i < histogram.length; i++)
            histogram[i] = (int) Math.abs(random.nextGaussian() * 50);
        List<String> log = new ArrayList<>();
        for (long i = 0; i < size / 130; i++)
            log.add("2026-01-01T00:" + i % 60 + " INFO worker-" + i % 13 + " served request " + i
                    + " in " + random.nextInt(90));
        System.out.println("ready");
        while (System.in.read() >= 0) { }
        if (accounts.size() + histogram.length + log.size() < 0) System.exit(1);
    }
}
"""

_SQLITE = """
import random, sqlite3, sys
size, rng = int(sys.argv[1]), random.Random(int(sys.argv[2]))
held = sqlite3.connect(":memory:")
held.execute("create table visits (id integer primary key, user text, page text, at integer, "
             "ms real, status integer)")
held.execute("create index by_user on visits (user, at)")
held.executemany("insert into visits values (?, ?, ?, ?, ?, ?)", (
    (i, f"user {rng.randrange(5000)}",
     f"/item/{rng.randrange(3000)}/{rng.choice(('view', 'cart', 'buy'))}",
     1700000000 + 7 * i + rng.randrange(7), rng.random() * 100,
     rng.choice((200, 200, 200, 404, 500)))
    for i in range(size // 130)))
print("ready", flush=True)
sys.stdin.read()
"""

_PERL = """
my ($size, $seed) = @ARGV;
srand $seed;
my (@orders, %by_name);
for my $i (0 .. $size / 900) {
    my $order = {id => $i, name => "user " . int(rand(5000)), total => rand(100),
                 tags => ["a" . $i % 31, "b" . $i % 7],
                 paid => $i % 3 == 0 ? 1 : 0};
    push @orders, $order;
    $by_name{$order->{name} . $i} = $order;
}
$| = 1;
print "ready\\n";
<STDIN>;
"""


def _captured(
    command: Sequence[str], count: int, seed: int, environment: dict[str, str] | None = None
) -> Pages:
    """Anonymous memory of a program that holds twice what is wanted, sampled over all of it."""
    try:
        child = subprocess.Popen(
            [*command, str(max(2 * count * PAGE, 16 << 20)), str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | (environment or {}),
        )
    except OSError as error:
        raise CorpusMissing(f"{command[0]} cannot be run: {error.strerror}") from error
    try:
        assert child.stdout is not None
        assert child.stderr is not None
        if child.stdout.readline() != b"ready\n":
            child.kill()
            said = child.stderr.read().decode(errors="replace").strip().splitlines()
            raise CorpusMissing(
                f"{command[0]} failed: {sources.printable(said[-1]) if said else 'no message'}"
            )
        with sources.open_process(child.pid, page_size=PAGE) as source:
            parts = [source.read(chosen)[0] for chosen in sources.sample(len(source), count, seed)]
    except sources.SourceError as error:
        raise CorpusMissing(f"its memory cannot be read: {error}") from error
    finally:
        child.kill()
        child.communicate()
    return np.concatenate(parts)


def _need(program: str, what: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise CorpusMissing(f"there is no {program} on this machine: install {what}")
    return path


def process(count: int, seed: int) -> Pages:
    """Read a Python process with numpy arrays and parsed JSON."""
    return _captured([sys.executable, "-c", _PYTHON], count, seed, {"PYTHONHASHSEED": "0"})


def node(count: int, seed: int) -> Pages:
    """Read a Node process with objects, a Map, replies in Buffers, and a Float64Array."""
    return _captured([_need("node", "Node"), "-e", _NODE, "--"], count, seed)


def java(count: int, seed: int) -> Pages:
    """Read a Java process with a HashMap of objects, lists of strings, and an int[]."""
    compiler, runtime = _need("javac", "a JDK"), _need("java", "a JDK")
    with tempfile.TemporaryDirectory(prefix="zswap-bench-") as folder:
        source = Path(folder) / "Held.java"
        source.write_text(_JAVA)
        done = subprocess.run([compiler, "-nowarn", str(source)], capture_output=True, text=True)
        if done.returncode:
            raise CorpusMissing(
                f"javac failed (Java 16 or newer is needed): {done.stderr.strip().splitlines()[:1]}"
            )
        return _captured([runtime, "-XX:+UseSerialGC", "-cp", folder, "Held"], count, seed)


def sqlite(count: int, seed: int) -> Pages:
    """Make a SQLite database in memory: a table and an index, in B-trees packed byte by byte."""
    return _captured([sys.executable, "-c", _SQLITE], count, seed)


def perl(count: int, seed: int) -> Pages:
    """Read a Perl process with hashes of arrays, strings and numbers."""
    return _captured([_need("perl", "Perl"), "-e", _PERL], count, seed)


# ---- text and what a seed makes ------------------------------------------------------------------


def text(count: int, seed: int) -> Pages:
    """Python's own sources."""
    blob = bytearray()
    for folder, folders, names in os.walk(sysconfig.get_paths()["stdlib"]):
        folders[:] = sorted(set(folders) - {"site-packages"})
        for name in sorted(names):
            if name.endswith(".py"):
                with contextlib.suppress(OSError):
                    blob += Path(folder, name).read_bytes()
        if len(blob) >= count * PAGE:
            break
    return np.frombuffer(bytes(blob[: len(blob) // PAGE * PAGE]), np.uint8).reshape(-1, PAGE)[
        :count
    ]


def zero(count: int, seed: int) -> Pages:
    """Zeros."""
    return np.zeros((count, PAGE), np.uint8)


def filled(count: int, seed: int) -> Pages:
    """Each page one word, repeated."""
    words = np.random.default_rng(seed).integers(1, 1 << 63, (count, 1), np.uint64)
    return np.repeat(words, PAGE // 8, axis=1).view(np.uint8)


def pointers(count: int, seed: int) -> Pages:
    """Objects of four words: a reference count, a type, and two pointers into a heap nearby."""
    rng = np.random.default_rng(seed)
    shape = (count, PAGE // 32)
    heap = 0x7F0000000000 + (np.arange(count, dtype=np.uint64)[:, None] << np.uint64(12))
    words = np.empty((*shape, 4), np.uint64)
    words[..., 0] = np.minimum(rng.zipf(2.0, shape), 1 << 20)
    words[..., 1] = 0x5555555A0000 + rng.integers(0, 24, shape, np.uint64) * np.uint64(416)
    for field in (2, 3):
        near = heap + (rng.integers(0, 1 << 16, shape, np.uint64) << np.uint64(4))
        words[..., field] = np.where(rng.random(shape) < 0.3, np.uint64(0), near)
    return words.reshape(count, -1).view(np.uint8)


def floats(count: int, seed: int) -> Pages:
    """Measurements as doubles, with three decimals."""
    values: npt.NDArray[np.float64] = (
        np.random.default_rng(seed).normal(20, 5, (count, PAGE // 8)).round(3)
    )
    return values.view(np.uint8)


def noise(count: int, seed: int) -> Pages:
    """Random bytes."""
    return np.random.default_rng(seed).integers(0, 256, (count, PAGE), np.uint8)


def mix(count: int, seed: int) -> Pages:
    """Small integers, mostly zeros, words, and noise, a quarter each, shuffled."""
    rng = np.random.default_rng(seed)
    out = np.empty((count, PAGE), np.uint8)
    kind = rng.permutation(count) % 4
    some = [np.flatnonzero(kind == k) for k in range(4)]
    out[some[0]] = rng.integers(0, 10_000, (some[0].size, PAGE // 8)).view(np.uint8)
    sparse = np.zeros((some[1].size, PAGE), np.uint8)
    sparse[:, ::64] = rng.integers(1, 256, (some[1].size, PAGE // 64))
    out[some[1]] = sparse
    words = np.frombuffer(
        b"".join(f"{w:<8x}".encode() for w in rng.integers(0, 1 << 30, 4096).tolist()), np.uint64
    )
    rank = np.minimum(rng.zipf(1.3, (some[2].size, PAGE // 8)), 4096) - 1
    out[some[2]] = words[rank].view(np.uint8)
    out[some[3]] = rng.integers(0, 256, (some[3].size, PAGE), np.uint8)
    return out


CORPORA: dict[str, Callable[[int, int], Pages]] = {
    "process": process,
    "node": node,
    "java": java,
    "sqlite": sqlite,
    "perl": perl,
    "text": text,
    "zero": zero,
    "same-filled": filled,
    "pointers": pointers,
    "floats": floats,
    "random": noise,
    "mix": mix,
}
DEFAULT = ("process", "node", "java", "text")


def make(name: str, count: int, seed: int = 0) -> Pages:
    """Up to `count` pages of a corpus.

    Raises
    ------
    CorpusMissing
        When this machine lacks what it takes.
    """
    return np.ascontiguousarray(CORPORA[name](count, seed))


def from_file(path: str, count: int, seed: int = 0) -> Pages:
    """Up to `count` pages of a file, chosen at random."""
    with sources.open_files([path], page_size=PAGE) as source:
        return np.concatenate(
            [source.read(part)[0] for part in sources.sample(len(source), count, seed)]
        )


def same_filled(pages: Pages) -> npt.NDArray[np.bool_]:
    """Which pages are one 8-byte word repeated."""
    words = pages.view(np.uint64)
    return np.asarray((words == words[:, :1]).all(axis=1), bool)


def distinct(pages: Pages) -> Pages:
    """Return the pages that are not same-filled."""
    return np.ascontiguousarray(pages[~same_filled(pages)])
