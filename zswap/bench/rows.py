"""What holds pages: this library, the limits (codec alone, a copy), and what else there is to use.

A row holds the pages of a `Job` at offsets 0 to n - 1.  It can be emptied, filled, and read, by one
thread or two; each of these is timed from the first thread's start to the last one's end.
"""

from __future__ import annotations

import importlib
import os
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

import zswap
from zswap.bench.corpora import PAGE, Pages
from zswap.meminfo import format_bytes
from zswap_core.bench import CodecLoop
from zswap_core.compressors.registry import open_compressor

__all__ = ["OURS", "ROWS", "Job", "Order", "Row", "RowMissing", "together"]

Order = npt.NDArray[np.uint64]
Nanoseconds = npt.NDArray[np.uint32]


class RowMissing(zswap.Error):
    """A row that cannot run here; the message says what is missing."""


@dataclass
class Job:
    """What every row of a corpus works on.

    Attributes
    ----------
    pages, out : ndarray of uint8, shape (n, PAGE)
        What is stored; room for what is loaded.
    compressor : str
        For the rows that may choose.
    seed : int
        Of the random order.
    """

    pages: Pages
    out: Pages
    compressor: str = "lz4"
    seed: int = 0
    order: Order = field(init=False)
    shuffled: Order = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.pages)
        self.order = np.arange(count, dtype=np.uint64)
        self.shuffled = np.random.default_rng(self.seed).permutation(count).astype(np.uint64)


def together(threads: int, work: Callable[[int], object]) -> int:
    """Run work(0) to work(threads - 1) at the same time.

    Returns the nanoseconds from the first start to the last end.
    """
    if threads == 1:
        start = time.perf_counter_ns()
        work(0)
        return time.perf_counter_ns() - start
    ready = threading.Barrier(threads)
    spans: list[tuple[int, int]] = []
    failures: list[BaseException] = []

    def run(number: int) -> None:
        ready.wait()
        start = time.perf_counter_ns()
        try:
            work(number)
        except BaseException as error:
            failures.append(error)
        spans.append((start, time.perf_counter_ns()))

    helpers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for helper in helpers:
        helper.start()
    for helper in helpers:
        helper.join()
    if failures:
        raise failures[0]
    return max(end for _, end in spans) - min(start for start, _ in spans)


def import_peer(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RowMissing(
            f"{module.partition('.')[0]} is not installed: pip install 'zswap[bench]'"
        ) from error


class Row:
    """One way to hold pages.

    Attributes
    ----------
    name : str
    kind : {"limit", "zswap", "peer"}
    store_threads, load_threads : tuple of int
        With how many threads it can be asked to.
    starts_empty : bool
        Whether storing new pages differs from replacing those held.
    random : bool
        Whether it can be read in any order.
    """

    name: ClassVar[str]
    kind: ClassVar[str] = "peer"
    store_threads: ClassVar[tuple[int, ...]] = (1, 2)
    load_threads: ClassVar[tuple[int, ...]] = (1, 2)
    starts_empty: ClassVar[bool] = True
    random: ClassVar[bool] = True

    def __init__(self, job: Job) -> None:
        self.job = job
        self.count = len(job.pages)

    def clear(self) -> None:
        """Drop all pages."""

    def store(self, threads: int = 1) -> int:
        """Store all pages in order; nanoseconds."""
        raise NotImplementedError

    def load(self, order: Order, threads: int = 1) -> int:
        """Load all pages in that order; nanoseconds."""
        raise NotImplementedError

    def store_each(self, ns: Nanoseconds) -> bool:
        """Store all pages and time each; False where that cannot be done."""
        return False

    def load_each(self, ns: Nanoseconds) -> bool:
        """Load all pages and time each; False where that cannot be done."""
        return False

    def payload(self) -> int | None:
        """Bytes of the compressed pages; None where nothing is kept."""
        return None

    def resident(self, grown: int) -> int | None:
        """Memory that holding the pages takes.

        It is what the process has grown by, unless the pages are elsewhere.
        """
        return grown

    def check(self) -> bool:
        """Whether the pages come back as they were stored."""
        self.job.out[:] = 0xA5
        self.load(self.job.order)
        return bool(np.array_equal(self.job.out, self.job.pages))

    def close(self) -> None:
        """Give everything back."""

    def part(self, number: int, threads: int) -> slice:
        """Return the pages of one thread."""
        return slice(self.count * number // threads, self.count * (number + 1) // threads)


# ---- the limits ----------------------------------------------------------------------------------


class _Loop(Row):
    """A loop in C over the pages."""

    kind = "limit"
    starts_empty = False
    storing: ClassVar[Any]
    loading: ClassVar[Any] = "load"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.loop = CodecLoop(open_compressor(job.compressor), job.pages.reshape(-1), PAGE)
        self.loop.run("store")

    def _run(self, what: Any, order: Order, threads: int, ns: Nanoseconds | None = None) -> int:
        out = self.job.out.reshape(-1)

        def work(number: int) -> None:
            part = self.part(number, threads)
            self.loop.run(what, part.start, part.stop, out=out, order=order, ns=ns)

        return together(threads, work)

    def store(self, threads: int = 1) -> int:
        return self._run(self.storing, self.job.order, threads)

    def load(self, order: Order, threads: int = 1) -> int:
        return self._run(self.loading, order, threads)

    def store_each(self, ns: Nanoseconds) -> bool:
        self._run(self.storing, self.job.order, 1, ns)
        return True

    def load_each(self, ns: Nanoseconds) -> bool:
        self._run(self.loading, self.job.order, 1, ns)
        return True

    def payload(self) -> int | None:
        return self.loop.lengths()[0]

    def resident(self, grown: int) -> int | None:
        return None


class Memcpy(_Loop):
    """The pages copied as they are, to where they are loaded."""

    name = "memcpy"
    storing = loading = "copy"

    def payload(self) -> int | None:
        return None


class Codec(_Loop):
    """The compressor's functions, called from C one page after another; the output is dropped."""

    name = "codec, bare"
    storing = "compress"


class CodecCopy(_Loop):
    """The codec with a scan for same-filled pages before and one copy to the page's place after."""

    name = "codec, scan, copy"
    storing = "store"


# ---- this library --------------------------------------------------------------------------------


class Batch(Row):
    """ZSwap.store_many and load_many, all pages in one call."""

    name = "zswap, batch"
    kind = "zswap"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.engine: zswap.ZSwap | None = None

    def clear(self) -> None:
        self.close()
        self.engine = zswap.ZSwap(
            self.job.compressor, max_pool_bytes=2 * self.job.pages.nbytes + (64 << 20)
        )

    @property
    def held(self) -> zswap.ZSwap:
        assert self.engine is not None
        return self.engine

    def store(self, threads: int = 1) -> int:
        return together(
            1, lambda _: self.held.store_many(self.job.order, self.job.pages, threads=threads)
        )

    def load(self, order: Order, threads: int = 1) -> int:
        return together(1, lambda _: self.held.load_many(order, out=self.job.out, threads=threads))

    def store_each(self, ns: Nanoseconds) -> bool:
        self.held.store_many(self.job.order, self.job.pages, ns=ns)
        return True

    def load_each(self, ns: Nanoseconds) -> bool:
        self.held.load_many(self.job.order, out=self.job.out, ns=ns)
        return True

    def payload(self) -> int | None:
        return self.held.stats().compressed_bytes

    def close(self) -> None:
        if self.engine is not None:
            self.engine.close()


# ---- one Python call a page ----------------------------------------------------------------------


class Calls(Row):
    """One Python call a page, from a Python loop; a thread has its own share of the pages.

    The views of the pages and the offsets are made ahead: slicing is no part of a call.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.views = list(job.pages)
        self.outs = list(job.out)
        self.offsets: list[int] = job.order.tolist()
        self._orders = {id(job.order): self.offsets, id(job.shuffled): job.shuffled.tolist()}

    def put(self, offsets: Sequence[int], views: Sequence[Pages]) -> None:
        raise NotImplementedError

    def get(self, offsets: Sequence[int], outs: Sequence[Pages]) -> None:
        raise NotImplementedError

    def fetch(self, offset: int) -> Any:
        """One page as a buffer, where `get` leaves none in its `outs`."""
        raise NotImplementedError

    def store(self, threads: int = 1) -> int:
        shares = [
            (self.offsets[part], self.views[part])
            for part in (self.part(n, threads) for n in range(threads))
        ]
        return together(threads, lambda number: self.put(*shares[number]))

    def load(self, order: Order, threads: int = 1) -> int:
        offsets = self._orders[id(order)]
        shares = [
            (offsets[part], self.outs[part])
            for part in (self.part(n, threads) for n in range(threads))
        ]
        return together(threads, lambda number: self.get(*shares[number]))

    def _each(
        self,
        ns: Nanoseconds,
        call: Callable[[Sequence[int], Sequence[Pages]], object],
        views: list[Pages],
    ) -> bool:
        clock = time.perf_counter_ns
        for number, (offset, view) in enumerate(zip(self.offsets, views, strict=True)):
            one, page = (offset,), (view,)
            start = clock()
            call(one, page)
            ns[number] = clock() - start
        return True

    def store_each(self, ns: Nanoseconds) -> bool:
        return self._each(ns, self.put, self.views)

    def load_each(self, ns: Nanoseconds) -> bool:
        return self._each(ns, self.get, self.outs)

    def check(self) -> bool:
        return all(
            np.array_equal(np.frombuffer(self.fetch(offset), np.uint8), page)
            for offset, page in zip(self.offsets, self.views, strict=True)
        )


class Single(Calls, Batch):
    """ZSwap.store(offset, page) and load(offset, out)."""

    name = "zswap, single calls"

    def put(self, offsets: Sequence[int], views: Sequence[Pages]) -> None:
        store = self.held.store
        for offset, page in zip(offsets, views, strict=True):
            store(offset, page)

    def get(self, offsets: Sequence[int], outs: Sequence[Pages]) -> None:
        load = self.held.load
        for offset, out in zip(offsets, outs, strict=True):
            load(offset, out)

    def fetch(self, offset: int) -> Any:
        return self.held.load(offset)


class _Dict(Calls):
    """Compressed pages in a dict."""

    held: dict[int, Any]

    def clear(self) -> None:
        self.held = {}

    def payload(self) -> int | None:
        return sum(map(len, self.held.values()))


class DictLz4(_Dict):
    """lz4.block.compress of each page."""

    name = "dict of lz4.block"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.codec = import_peer("lz4.block")

    def put(self, offsets: Sequence[int], views: Sequence[Pages]) -> None:
        compress, held = self.codec.compress, self.held
        for offset, page in zip(offsets, views, strict=True):
            held[offset] = compress(page, store_size=False)

    def get(self, offsets: Sequence[int], outs: Sequence[Pages]) -> None:
        decompress, held = self.codec.decompress, self.held
        for offset in offsets:
            decompress(held[offset], uncompressed_size=PAGE)

    def fetch(self, offset: int) -> Any:
        return self.codec.decompress(self.held[offset], uncompressed_size=PAGE)


class DictZstd(_Dict):
    """zstandard, one context a thread, at the level of --compressor zstd:N, else 1."""

    name = "dict of zstandard"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.codec = import_peer("zstandard")
        name, _, level = job.compressor.partition(":")
        self.level = int(level or 3) if name == "zstd" else 1
        self._contexts = threading.local()

    def _context(self, kind: str) -> Any:
        """Return the compressor or decompressor of the calling thread."""
        found = getattr(self._contexts, kind, None)
        if found is None:
            made = {
                "put": lambda: self.codec.ZstdCompressor(level=self.level),
                "get": self.codec.ZstdDecompressor,
            }
            found = made[kind]()
            setattr(self._contexts, kind, found)
        return found

    def put(self, offsets: Sequence[int], views: Sequence[Pages]) -> None:
        compress, held = self._context("put").compress, self.held
        for offset, page in zip(offsets, views, strict=True):
            held[offset] = compress(page)

    def get(self, offsets: Sequence[int], outs: Sequence[Pages]) -> None:
        decompress, held = self._context("get").decompress, self.held
        for offset in offsets:
            decompress(held[offset])

    def fetch(self, offset: int) -> Any:
        return self._context("get").decompress(self.held[offset])


class Cramjam(_Dict):
    """cramjam's LZ4 blocks as bytes, decompressed into the caller's page.

    Its own Buffers have room for 4 KiB each.
    """

    name = "dict of cramjam.lz4"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.codec = import_peer("cramjam").lz4

    def put(self, offsets: Sequence[int], views: Sequence[Pages]) -> None:
        compress, held = self.codec.compress_block, self.held
        for offset, page in zip(offsets, views, strict=True):
            held[offset] = bytes(compress(page, store_size=False))

    def get(self, offsets: Sequence[int], outs: Sequence[Pages]) -> None:
        decompress, held = self.codec.decompress_block_into, self.held
        for offset, out in zip(offsets, outs, strict=True):
            decompress(held[offset], out, output_len=PAGE)

    def fetch(self, offset: int) -> Any:
        out = np.zeros(PAGE, np.uint8)
        self.codec.decompress_block_into(self.held[offset], out, output_len=PAGE)
        return out


class Blosc2Pages(Calls):
    """A blosc2.SChunk with a chunk for each page.

    It uses lz4 without acceleration (clevel 9), as all others have it, and no filter.
    """

    name = "blosc2, 4 KiB chunks"
    # An SChunk is for one thread, and inside a chunk of one block there is nothing to share.
    store_threads: ClassVar[tuple[int, ...]] = (1,)
    load_threads: ClassVar[tuple[int, ...]] = (1,)
    chunk: ClassVar[int] = PAGE

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.blosc2 = import_peer("blosc2")

    def clear(self) -> None:
        self.chunks = self.new_chunks(1)

    def new_chunks(self, threads: int) -> Any:
        blosc2 = self.blosc2
        settings = blosc2.CParams(
            codec=blosc2.Codec.LZ4,
            clevel=9,
            typesize=1,
            blocksize=PAGE,
            nthreads=threads,
            splitmode=blosc2.SplitMode.NEVER_SPLIT,
            filters=[blosc2.Filter.NOFILTER],
            filters_meta=[0],
        )
        return blosc2.SChunk(
            chunksize=self.chunk, cparams=settings, dparams=blosc2.DParams(nthreads=threads)
        )

    def put(self, offsets: Sequence[int], views: Sequence[Pages]) -> None:
        chunks = self.chunks
        held, append, update = chunks.nchunks, chunks.append_data, chunks.update_data
        for offset, page in zip(offsets, views, strict=True):
            if offset < held:
                update(offset, page, copy=True)
            else:
                append(page)

    def get(self, offsets: Sequence[int], outs: Sequence[Pages]) -> None:
        decompress = self.chunks.decompress_chunk
        for offset, out in zip(offsets, outs, strict=True):
            decompress(offset, dst=out)

    def fetch(self, offset: int) -> Any:
        return self.chunks.decompress_chunk(offset)

    def payload(self) -> int | None:
        return int(self.chunks.cbytes)


class Blosc2Chunks(Blosc2Pages):
    """A blosc2.SChunk of 1 MiB chunks in blocks of a page.

    It is stored and read by chunks; at random, by page with get_slice.
    """

    name = "blosc2, 1 MiB chunks"
    store_threads = load_threads = (1, 2)  # blosc2's own
    chunk = 1 << 20

    def clear(self) -> None:
        self.by_threads: dict[int, Any] = {}
        self.chunks = self._with(1)

    def _with(self, threads: int) -> Any:
        """Make a chunk list for that many threads: how many is fixed when it is made."""
        if threads not in self.by_threads:
            self.by_threads[threads] = self.new_chunks(threads)
            if threads > 1:
                self._put_all(self.by_threads[threads])
        return self.by_threads[threads]

    def _chunks_of(self, pages: Pages) -> Iterable[Pages]:
        each = self.chunk // PAGE
        return (pages[at : at + each].reshape(-1) for at in range(0, self.count, each))

    def _put_all(self, chunks: Any) -> None:
        held = chunks.nchunks
        for number, part in enumerate(self._chunks_of(self.job.pages)):
            if number < held:
                chunks.update_data(number, part, copy=True)
            else:
                chunks.append_data(part)

    def store(self, threads: int = 1) -> int:
        chunks = self._with(threads)
        return together(1, lambda _: self._put_all(chunks))

    def load(self, order: Order, threads: int = 1) -> int:
        chunks = self._with(threads)
        if order is self.job.shuffled:
            return super().load(order)

        def work(_: int) -> None:
            for number, out in enumerate(self._chunks_of(self.job.out)):
                chunks.decompress_chunk(number, dst=out)

        return together(1, work)

    def get(self, offsets: Sequence[int], outs: Sequence[Pages]) -> None:
        get_slice = self.chunks.get_slice
        for offset, out in zip(offsets, outs, strict=True):
            get_slice(offset * PAGE, offset * PAGE + PAGE, out)

    def store_each(self, ns: Nanoseconds) -> bool:
        return False

    def fetch(self, offset: int) -> Any:
        return self.chunks.get_slice(offset * PAGE, offset * PAGE + PAGE)


class Lmdb(Calls):
    """lmdb in /dev/shm, not compressed, each store in one transaction of all its pages.

    Its memory is that of its file.
    """

    name = "lmdb on /dev/shm"
    store_threads = (1,)  # one writer at a time

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.lmdb = import_peer("lmdb")
        self._need_room()
        self.keys = [struct.pack(">Q", offset) for offset in self.offsets]
        self.file: int | None = None

    def _need_room(self) -> None:
        """Fail where /dev/shm lacks room: lmdb maps its file, and would be told by SIGBUS."""
        try:
            there = os.statvfs("/dev/shm")
        except OSError:
            raise RowMissing("there is no /dev/shm") from None
        # A page and its header take two of lmdb's; a transaction writes all anew beside those that
        # there are.
        free, needed = there.f_bavail * there.f_frsize, 4 * self.job.pages.nbytes + (8 << 20)
        if there.f_blocks and free < needed:
            have, need = format_bytes(free), format_bytes(needed)
            raise RowMissing(
                f"/dev/shm has {have} free, and lmdb needs {need}: mount a larger one (docker run "
                "--shm-size)"
            )

    def clear(self) -> None:
        self.close()
        self._need_room()
        size = 4 * self.job.pages.nbytes + (64 << 20)
        # The files lose their names once they are open: so they go with this process, however it
        # ends.
        with tempfile.TemporaryDirectory(prefix="zswap-bench-", dir="/dev/shm") as folder:
            self.held = self.lmdb.open(
                folder, map_size=size, sync=False, writemap=True, map_async=True
            )
            self.file = os.open(f"{folder}/data.mdb", os.O_RDONLY | os.O_CLOEXEC)

    def put(self, offsets: Sequence[int], views: Sequence[Pages]) -> None:
        keys = self.keys
        with self.held.begin(write=True) as transaction:
            put = transaction.put
            for offset, page in zip(offsets, views, strict=True):
                put(keys[offset], page)

    def get(self, offsets: Sequence[int], outs: Sequence[Pages]) -> None:
        keys = self.keys
        with self.held.begin() as transaction:
            get = transaction.get
            for offset in offsets:
                get(keys[offset])

    def fetch(self, offset: int) -> Any:
        with self.held.begin() as transaction:
            return transaction.get(self.keys[offset])

    def store_each(self, ns: Nanoseconds) -> bool:
        return False  # a transaction for each page is another thing

    def load_each(self, ns: Nanoseconds) -> bool:
        return False

    def payload(self) -> int | None:
        return self.job.pages.nbytes

    def resident(self, grown: int) -> int | None:
        assert self.file is not None
        return os.fstat(self.file).st_blocks * 512

    def close(self) -> None:
        if self.file is not None:
            self.held.close()
            os.close(self.file)
            self.file = None


def _zram(job: Job) -> Row:
    from zswap.bench.zram import ZramRow

    return ZramRow(job)


#: What makes each row, by name; in the order of the table.
ROWS: dict[str, Callable[[Job], Row]] = {
    row.name: row
    for row in (
        Memcpy,
        Codec,
        CodecCopy,
        Batch,
        Single,
        DictLz4,
        DictZstd,
        Cramjam,
        Blosc2Pages,
        Blosc2Chunks,
        Lmdb,
    )
} | {"zram": _zram}

#: The rows of this library, whose failure is the run's.
OURS = (Batch.name, Single.name)
