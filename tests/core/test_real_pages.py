"""Real anonymous pages, of Python and of another runtime, through every compressor and back, bit
for bit.

20 000 pages, of which compressors other than lz4 and zstd see a quarter except in one test; 100 000
and all of them with ZSWAP_LONG=1.
"""

import os
import shutil
import struct
import subprocess
import sys
import threading

import numpy as np
import pytest

import zswap
from zswap import Status

pytestmark = pytest.mark.slow

PAGE = os.sysconf("SC_PAGESIZE")
LONG = os.environ.get("ZSWAP_LONG", "0") not in ("", "0")
PAGES = 100_000 if LONG else 20_000
BATCH = 2_000

# Programs that fill their memory with what such programs hold, say so, and wait to be read.
MEGABYTES = PAGES * PAGE * 13 // 10 >> 20
PYTHON = f"""
import json, random, sys
rng = random.Random(1)
words = ["word%d" % n for n in range(5000)]
keep = []
while len(keep) < {MEGABYTES} * 4:
    keep.append({{"id": len(keep), "text": " ".join(rng.choices(words, k=700)),
                 "numbers": [rng.random() for _ in range(1500)], "raw": rng.randbytes(30000),
                 "nested": json.loads(json.dumps({{w: rng.random() for w in words[:900]}})),
                 "zeros": bytearray(50000)}})
print("ready", flush=True)
sys.stdin.read()
"""
NODE = f"""
const keep = [];
let x = 1;
const next = () => (x = (x * 1103515245 + 12345) % 2147483648);
while (keep.length < {MEGABYTES} * 6) {{
  const o = {{id: keep.length, text: '', list: [], map: new Map()}};
  for (let i = 0; i < 700; i++) o.text += 'token' + (next() % 5000) + ' ';
  for (let i = 0; i < 3000; i++) o.list.push(next() / 7);
  for (let i = 0; i < 900; i++) o.map.set('key' + i, {{v: next()}});
  o.text = Buffer.from(o.text).toString();
  keep.push(o);
}}
console.log('ready');
process.stdin.resume();
process.stdin.on('end', () => process.exit(keep.length ? 0 : 1));
"""
PERL = f"""
$| = 1;
srand(1);
my @keep;
while (@keep < {MEGABYTES} * 6) {{
  my %h = map {{ ("key$_" => rand()) }} 0 .. 900;
  my @l = map {{ int(rand(1e9)) }} 0 .. 1500;
  push @keep, {{id => scalar(@keep),
    text => join(' ', map {{ "token" . int(rand(5000)) }} 0 .. 700),
    h => \\%h, l => \\@l}};
}}
print "ready\\n";
<STDIN>;
"""


def other_runtime():
    """The command of a program in another language, by name; the first that is installed."""
    for name, command in {
        "node": ["node", "--max-old-space-size=8000", "-e", NODE],
        "perl": ["perl", "-e", PERL],
    }.items():
        if shutil.which(name):
            return name, command
    return None, None


def anonymous_pages(pid, wanted):
    """Up to `wanted` present pages of a process's private writable memory, spread over all of it:
    an array of them."""
    runs = []
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/pagemap", "rb", 0) as pagemap:
        for line in maps:
            where, mode, _, _, inode = line.split()[:5]
            if not mode.startswith("rw-p") or inode != "0" or "[v" in line:
                continue
            start, end = (int(n, 16) for n in where.split("-"))
            for at in range(start, end, PAGE << 15):
                count = min(1 << 15, (end - at) // PAGE)
                entries = np.frombuffer(
                    os.pread(pagemap.fileno(), 8 * count, at // PAGE * 8), np.uint64
                )
                present = np.flatnonzero(entries >> np.uint64(63))
                runs.append(at + present.astype(np.int64) * PAGE)
    addresses = np.concatenate(runs)
    if len(addresses) > wanted:
        addresses = addresses[np.linspace(0, len(addresses) - 1, wanted).astype(int)]
    pages = np.empty((len(addresses), PAGE), np.uint8)
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for row, address in zip(pages, addresses.tolist(), strict=True):
            assert os.preadv(memory.fileno(), [row], address) == PAGE
    return pages


def capture(command):
    """The pages of a program that is started for this."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            try:
                return anonymous_pages(process.pid, PAGES)
            except PermissionError as error:
                pytest.skip(f"this process may not read its children's memory: {error}")
        finally:
            process.kill()


@pytest.fixture(scope="module", params=["python", "other"])
def pages(request):
    """The pages of one runtime."""
    if PAGE not in (4096, 16384, 65536):
        pytest.skip(f"pages of {PAGE} bytes")
    if request.param == "python":
        name, command = "python", [sys.executable, "-c", PYTHON]
    else:
        name, command = other_runtime()
        if name is None:
            pytest.skip("neither node nor perl is installed")
    found = capture(command)
    assert len(found) >= PAGES * 9 // 10, f"{name} has only {len(found)} pages"
    return found


COMPRESSORS = [c.name for c in zswap.compressors() if c.available]


def share(pages, compressor):
    """The pages for a compressor: all, or a quarter for one that takes its time."""
    return pages if LONG or compressor in ("lz4", "zstd") else np.ascontiguousarray(pages[::4])


def offsets_of(pages):
    """Offsets for the pages: dense runs with holes between, out of order."""
    n = np.arange(len(pages), dtype=np.int64)
    offsets = n + n // 700 * 12_345
    np.random.default_rng(7).shuffle(offsets)
    return offsets


def same(z, offsets, pages, threads):
    """Check that batches give back what was stored."""
    out = np.empty((BATCH, PAGE), np.uint8)
    for start in range(0, len(pages), BATCH):
        part = out[: len(pages[start : start + BATCH])]
        part[:] = 0xA5
        z.load_many(offsets[start : start + BATCH], part, threads=threads)
        assert np.array_equal(part, pages[start : start + BATCH]), (
            f"wrong page in the batch from {start}"
        )


@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.parametrize("threads", [1, 2])
def test_batches(engine, pages, compressor, threads):
    if threads == 1:
        pages = share(pages, compressor)
    z = engine(compressor, page_size=PAGE, max_pool_bytes="4GiB")
    offsets = offsets_of(pages)
    held = []
    for start in range(0, len(pages), BATCH):
        held.append(
            z.store_many(
                offsets[start : start + BATCH], pages[start : start + BATCH], threads=threads
            )
        )
        assert held[-1].min() >= 0
    same(z, offsets, pages, threads)
    held = np.concatenate(held)
    s = z.stats()
    assert s.stored_pages == len(z) == len(pages)
    words = pages.view(np.uint64)
    assert (
        s.same_filled_pages
        == (held == Status.SAME_FILLED).sum()
        == (words == words[:, :1]).all(axis=1).sum()
    )
    assert s.stored_incompressible_pages == (held == Status.INCOMPRESSIBLE).sum()
    assert s.compressed_bytes == np.maximum(z.compressed_sizes(offsets), 0).sum()
    assert list(z) == sorted(offsets.tolist())
    # And after things have moved about.
    gone = offsets[:: 3 if threads == 1 else 2]
    assert z.invalidate_many(gone) == len(gone)
    z.compact()
    z._validate()
    kept = ~np.isin(offsets, gone)
    same(z, offsets[kept], pages[kept], threads)


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_single_calls(engine, pages, compressor):
    z = engine(compressor, page_size=PAGE, max_pool_bytes="4GiB")
    pages = share(pages, compressor)
    offsets = offsets_of(pages).tolist()
    out = np.empty(PAGE, np.uint8)
    for offset, page in zip(offsets, pages, strict=True):
        z.store(offset, page)
    for n, (offset, page) in enumerate(zip(offsets, pages, strict=True)):
        if n % 2:
            assert z.load(offset) == page.tobytes()
        else:
            z.load(offset, out)
            assert np.array_equal(out, page)
    assert len(z) == len(pages)


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_single_calls_from_two_threads(engine, pages, compressor):
    z = engine(compressor, page_size=PAGE, max_pool_bytes="4GiB")
    step = 1 if LONG else 8
    wrong = []

    def work(k):
        mine = range(k * step, len(pages), 2 * step)
        for n in mine:
            z.store(n, pages[n])
        wrong.extend(n for n in mine if z.load(n) != pages[n].tobytes())

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    assert len(z) == len(range(0, len(pages), step))


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_four_threads_at_random(engine, pages, compressor):
    # Each thread has every fourth offset and knows what it left there; shards, size classes and
    # workers are everybody's.
    z = engine(compressor, page_size=PAGE, max_pool_bytes="4GiB")
    pages = share(pages, compressor)
    oracles, wrong = [{} for _ in range(4)], []

    def work(k):
        rng, oracle = np.random.default_rng(k), oracles[k]
        for _ in range(len(pages) // 400):
            offsets = 4 * rng.choice(len(pages) // 4, 100, replace=False) + k
            what = rng.integers(4)
            if what < 2:
                which = rng.integers(0, len(pages), 100)
                if what:
                    assert z.store_many(offsets, pages[which]).min() >= 0
                else:
                    for offset, n in zip(offsets.tolist(), which.tolist(), strict=True):
                        z.store(offset, pages[n])
                oracle.update(zip(offsets.tolist(), which.tolist(), strict=True))
            elif what == 2:
                assert z.invalidate_many(offsets[:30]) == sum(
                    oracle.pop(o, None) is not None for o in offsets[:30].tolist()
                )
            status = np.empty(100, np.int8)
            out = z.load_many(offsets, status=status)
            for offset, code, page in zip(offsets.tolist(), status.tolist(), out, strict=True):
                right = (
                    np.array_equal(page, pages[oracle[offset]])
                    if offset in oracle
                    else code == Status.ABSENT
                )
                if not right:
                    wrong.append((offset, code))

    def run(k):
        try:
            work(k)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    held = {offset: n for oracle in oracles for offset, n in oracle.items()}
    assert list(z) == sorted(held)
    assert all(z.load(offset) == pages[n].tobytes() for offset, n in held.items())


# zbud holds no raw pages
@pytest.mark.parametrize("zpool", ["zsmalloc:1", "zsmalloc:4", "zsmalloc-kernel", "z3fold"])
def test_every_zpool(engine, pages, zpool):
    z = engine("lz4", zpool, page_size=PAGE, max_pool_bytes="4GiB")
    offsets = np.arange(len(pages))
    for start in range(0, len(pages), BATCH):
        z.store_many(offsets[start : start + BATCH], pages[start : start + BATCH], threads=2)
    same(z, offsets, pages, 2)
    s = z.stats()
    assert s.compressed_bytes <= s.pool_total_size < s.stored_bytes


def test_pages_name_themselves_after_all_that(engine, pages):
    # What a page says of itself in its first bytes is where it was stored: none was mixed up with
    # another.
    z = engine("zstd:1", page_size=PAGE, max_pool_bytes="4GiB")
    marked = pages[:BATCH].copy()
    for n, page in enumerate(marked):
        page[:8] = np.frombuffer(struct.pack("<Q", n), np.uint8)
    order = np.random.default_rng(3).permutation(len(marked))
    z.store_many(order, marked[order], threads=2)
    loaded = z.load_many(np.arange(len(marked)), threads=2)
    assert np.array_equal(loaded[:, :8].copy().view("<u8")[:, 0], np.arange(len(marked)))
