"""What every backing store promises, whoever wrote it: pages against a dict, any order and repeats,
the end, threads, close.

One of your own is tried with $ZSWAP_TEST_BACKING, see CONTRIBUTING.md.
"""

import importlib
import mmap
import os
import random
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from test_backing_adapter import Full, Memory, read

from zswap_core.backings import Backing, PythonBacking, SwapFile

PAGE = 4096
SIZES = [4096, 16384, pytest.param(65536, marks=pytest.mark.slow)]


def in_file(direct, **kwargs):
    def make(folder, nr_pages, page_size):
        path = folder / "swap"
        return SwapFile(path, nr_pages * page_size, direct=direct, page_size=page_size, **kwargs)

    return make


def of_object(kind):
    def make(folder, nr_pages, page_size):
        return PythonBacking(kind(page_size), page_size)

    return make


KINDS = {
    "direct": in_file(True),
    "cached": in_file(False),
    "packed": in_file(True, packed=True),
    "packed, cached": in_file(False, packed=True, io_uring=False),
    "packed, encrypted": in_file(True, packed=True, encrypt=True),
    "object": of_object(Full),
    "object without discard": of_object(Memory),
}
if "ZSWAP_TEST_BACKING" in os.environ:
    _module, _, _name = os.environ["ZSWAP_TEST_BACKING"].partition(":")
    KINDS["own"] = getattr(importlib.import_module(_module), _name)


def in_folders(*kinds):
    """Each kind with the folders that make a difference to it."""
    where = {kind: ["disk", "shm"] for kind in ("direct", "cached", "packed", "own")}
    pairs = [(kind, folder) for kind in kinds for folder in where.get(kind, ["disk"])]
    return pytest.mark.parametrize(("kind", "folder"), pairs, indirect=["folder"])


each = in_folders(*KINDS)


def aligned(size):
    return memoryview(mmap.mmap(-1, size))


def unaligned(size, shift=8):
    return aligned(size + PAGE)[shift : shift + size]


@pytest.mark.slow
@pytest.mark.parametrize("page_size", SIZES)
@each
def test_against_a_dict(kind, folder, page_size):
    rnd = random.Random(page_size + list(KINDS).index(kind))
    nr_pages = 600 if page_size == 4096 else 150
    oracle = {}
    written = got = 0
    with KINDS[kind](folder, nr_pages, page_size) as store:
        assert isinstance(store, Backing)
        assert store.page_size == page_size
        assert store.nr_pages >= nr_pages
        assert "cached" not in kind or not store.direct
        obj = getattr(store, "obj", None)
        last = [store.nr_pages - 1, store.nr_pages // 2]
        for step in range(100):
            n = rnd.choice([1, 1, 2, 7, 64, nr_pages // 2])
            if rnd.random() < 0.5:
                start = rnd.randrange(nr_pages - n + 1)
                offsets = list(range(start, start + n))
            else:
                offsets = sorted(rnd.sample(range(nr_pages), n))
                offsets = sorted({*offsets[:-2], *last}) if n > 2 else offsets
            n = len(offsets)
            memory = rnd.choice([aligned, unaligned])(n * page_size)
            if rnd.random() < 0.6:
                memory[:] = rnd.randbytes(page_size) * n
                for i, offset in enumerate(offsets):
                    struct.pack_into("<QQ", memory, i * page_size, step, offset)
                    oracle[offset] = bytes(memory[i * page_size : (i + 1) * page_size])
                kinds = [np.int64, np.uint64, *([np.uint16] if offsets[-1] < 1 << 16 else [])]
                store.write_pages(np.array(offsets, rnd.choice(kinds)), memory)
                written += n
            elif rnd.random() < 0.3:
                offsets = [o for o in offsets if o in oracle or obj is None]
                store.discard_pages(offsets)
                for offset in offsets if kind != "object without discard" else ():
                    oracle.pop(offset, None)
            else:
                offsets = [o for o in offsets if o in oracle]
                memory = memory[: len(offsets) * page_size]
                store.read_pages(offsets, memory)
                assert memory == b"".join(oracle[o] for o in offsets)
                got += len(offsets)
            if obj is not None and step % 10 == 0:
                assert obj.pages == oracle
        for offset, page in oracle.items():
            assert read(store, offset) == page
        got += len(oracle)
        assert obj is None or obj.pages == oracle
        figures = store.stats()
        assert (figures["written_pages"], figures["read_pages"]) == (written, got)
        assert figures["read_bytes"] == figures["read_pages"] * page_size
        assert figures["write_failures"] == figures["read_failures"] == 0
        assert figures["discard_failures"] == 0
        if isinstance(store, SwapFile):
            assert (figures["bounced_pages"] > 0) == (store.direct and not store.packed)
        if obj is not None:
            done = {
                kind: [offsets for k, offsets in obj.calls if k == kind]
                for kind in ("write", "read", "discard")
            }
            assert figures["write_requests"] == len(done["write"])
            assert figures["read_requests"] == len(done["read"])
            assert figures["written_pages"] == sum(map(len, done["write"]))
            assert figures["read_bytes"] == page_size * sum(map(len, done["read"]))
            if kind == "object":
                assert figures["discarded_pages"] == sum(map(len, done["discard"]))


@each
def test_any_order_and_repeats(kind, folder):
    with KINDS[kind](folder, 16, PAGE) as store:
        store.write_pages([9, 3, 4, 3], b"".join(bytes([c]) * PAGE for c in b"abcd"))
        assert read(store, 4, 9, 3, 3) == b"".join(bytes([c]) * PAGE for c in b"cadd")


@each
def test_beyond_the_end(kind, folder):
    """Nothing of the call is done."""
    with KINDS[kind](folder, 16, PAGE) as store:
        end = store.nr_pages
        store.write_pages([end - 1], b"x" * PAGE)
        match = f"offset {end} is out of range"
        with pytest.raises(ValueError, match=match):
            store.write_pages([end - 1, end], b"y" * 2 * PAGE)
        with pytest.raises(ValueError, match=match):
            read(store, end)
        if end < 1 << 47:  # no store has more, so such an offset gets to none
            store.discard_pages([end])
            kinds = "write_failures", "read_failures", "discard_failures"
            assert [store.stats()[kind] for kind in kinds] == [1, 1, 1]
        assert read(store, end - 1) == b"x" * PAGE


@pytest.mark.slow
@each
def test_threads(kind, folder):
    """More of them than a swap file has bounce buffers."""
    nr_threads, every = 12, 50
    written, got = [0] * nr_threads, [0] * nr_threads
    with KINDS[kind](folder, nr_threads * every, PAGE) as store:

        def work(t):
            rnd = random.Random(t)
            held = {}
            for _ in range(60):
                n = rnd.randrange(1, 20)
                # Interleaved offsets, so that the threads' pages are neighbours.
                offsets = sorted(o * nr_threads + t for o in rnd.sample(range(every), n))
                memory = rnd.choice([aligned, unaligned])(n * PAGE)
                memory[:] = rnd.randbytes(PAGE) * n
                store.write_pages(offsets, memory)
                held.update(dict.fromkeys(offsets, bytes(memory[:PAGE])))
                written[t] += n
                offsets = sorted(rnd.sample(list(held), min(len(held), 5)))
                assert read(store, *offsets) == b"".join(held[o] for o in offsets)
                got[t] += len(offsets)

        with ThreadPoolExecutor(nr_threads) as threads:
            list(threads.map(work, range(nr_threads)))
        figures = store.stats()
        assert (figures["written_pages"], figures["read_pages"]) == (sum(written), sum(got))


@each
def test_after_close(kind, folder):
    store = KINDS[kind](folder, 16, PAGE)
    store.close()
    store.close()
    assert store.closed
    for call in (
        lambda: store.write_pages([0], bytes(PAGE)),
        lambda: read(store, 0),
        lambda: store.discard_pages([0]),
    ):
        with pytest.raises(ValueError, match="closed"):
            call()
    assert store.stats()["written_pages"] == 0
