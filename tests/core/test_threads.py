"""Many threads: torn and wrong pages, pools that change under them, close, and readers whose page
goes away.

A cookie page is made of its offset, its writer and a generation, and says so in every 32 bytes, so
that a torn or wrong page is found out by looking at it alone.  All loops are bounded by counts;
what waits for another thread has a deadline.
"""

import contextlib
import os
import random
import struct
import threading
import time

import numpy as np
import pytest

import zswap
from hooks.parts import Codec
from zswap import Error, PoolLimitError, Status
from zswap_core.binding import FLAGS

PAGE = 4096
LINES = PAGE // 32


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("eager_switches")]


def cookie(offset, writer, generation):
    """A page of that name; a varying part of it does not compress."""
    line = struct.pack(
        "<QQQQ", offset, writer, generation, (offset * 7 + writer * 31 + generation) & 0xFFFFFFFF
    )
    rng = random.Random((offset << 20) ^ (writer << 40) ^ generation)
    hard = rng.choice([0, 10, 60, 100, LINES - 1])
    body = bytearray(line * LINES)
    for n in range(hard):
        body[32 * n + 24 : 32 * n + 32] = rng.randbytes(8)
    return bytes(body)


def name_of(page):
    """The name that a cookie page gives itself; fails when it is torn."""
    page = bytes(page)
    offset, writer, generation, _ = struct.unpack_from("<QQQQ", page)
    assert page == cookie(offset, writer, generation), f"torn page of {offset, writer, generation}"
    return offset, writer, generation


def together(*workers):
    """Run functions in threads of their own, begun at once; raises what the first of them
    raised."""
    errors = []
    start = threading.Barrier(len(workers))

    def work(body):
        try:
            start.wait()
            body()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(body,)) for body in workers]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise errors[0]


def until(condition, seconds=30):
    """Wait for something that another thread is about to do."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.0005)


def disturb(z, done, kinds):
    """What a meddler does until all others are done: switch pools, compact, look."""
    specs = ["lz4", "lz4:5", "zstd:1"]
    rng = random.Random(9)
    n = 0
    while not done.is_set():
        n += 1
        if "switch" in kinds:
            z.compressor = rng.choice(specs)
            z.zpool = rng.choice(["zsmalloc", "zsmalloc:4", "zsmalloc-kernel"])
        if "compact" in kinds:
            z.compact()
        z.stats()
        z.pools()
        if n % 16 == 0:
            len(z)
            list(z)
    return n


def at_rest(z):
    """Counters equal a scan, and all that is left can be freed."""
    z._validate()
    until(lambda: all(p.current or p.stored_pages for p in z.pools()))
    z._validate()
    for area in (0, 1):
        z.invalidate_area(area)
    s = z.stats()
    assert (
        s.stored_pages,
        s.same_filled_pages,
        s.compressed_bytes,
        s.stored_incompressible_pages,
    ) == (0, 0, 0, 0)
    assert s.pool_total_size == s.idle_bytes
    assert s.decompress_fail == s.reject_compress_fail == s.reject_alloc_fail == 0
    until(lambda: len(z.pools()) == 1)
    z._validate()


# ---- at random -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", ["", "compact", "switch", "switch compact"])
def test_disjoint_offsets_against_dicts(engine, kinds):
    z = engine(max_pool_bytes="64MiB")
    done = threading.Event()
    left = [4]

    def work(k):
        rng = random.Random(k)
        # neighbours of the others', in the same runs
        mine = [n * 4 + k for n in range(120)] + [(k + 1) << 40]
        held = {}
        try:
            for step in range(500):
                what = rng.random()
                offset = rng.choice(mine)
                if what < 0.3:
                    held[offset] = page = (
                        cookie(offset, k, step)
                        if rng.random() < 0.85
                        else bytes([step % 256]) * PAGE
                    )
                    z.store(offset, page)
                elif what < 0.6:
                    assert z.get(offset) == held.get(offset)
                elif what < 0.75:
                    assert z.invalidate(offset) == (held.pop(offset, None) is not None)
                elif what < 0.87:
                    batch = rng.sample(mine, 20)
                    pages = [cookie(o, k, step) for o in batch]
                    assert (
                        z.store_many(batch, b"".join(pages), threads=rng.choice([1, 2])).min() >= 0
                    )
                    held.update(zip(batch, pages, strict=True))
                elif what < 0.97:
                    batch = rng.sample(mine, 30)
                    status = np.zeros(30, np.int8)
                    pages = z.load_many(batch, threads=rng.choice([1, 2]), status=status)
                    for o, page, code in zip(batch, pages, status, strict=True):
                        assert (code >= 0) == (o in held)
                        assert code < 0 or page.tobytes() == held[o]
                else:
                    batch = rng.sample(mine, 20)
                    assert z.invalidate_many(batch) == sum(
                        held.pop(o, None) is not None for o in batch
                    )
            for offset in mine:
                assert z.get(offset) == held.get(offset)
        finally:
            left[0] -= 1
            if not left[0]:
                done.set()

    meddlers = [lambda: disturb(z, done, kinds)] if kinds else []
    together(*(lambda k=k: work(k) for k in range(4)), *meddlers)
    at_rest(z)


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("kinds", ["", "switch compact"])
def test_shared_offsets(engine, kinds, exclusive):
    z = engine(max_pool_bytes="64MiB")
    z.parameters["exclusive_loads"] = exclusive
    done = threading.Event()
    left = [4]
    offsets = [0, 1, 2, 3, 62, 63, 64, 65, 16383, 16384, 1 << 40]

    def work(k):
        rng = random.Random(k)
        try:
            for step in range(600):
                what = rng.random()
                offset = rng.choice(offsets)
                if what < 0.35:
                    z.store(offset, cookie(offset, k, step))
                elif what < 0.65:
                    page = z.get(offset)
                    assert page is None or name_of(page)[0] == offset
                elif what < 0.75:
                    z.invalidate(offset)
                elif what < 0.85:
                    z.store_many(offsets, b"".join(cookie(o, k, step) for o in offsets), threads=2)
                elif what < 0.97:
                    status = np.zeros(len(offsets) * 4, np.int8)
                    pages = z.load_many(offsets * 4, status=status, threads=2)
                    for o, page, code in zip(offsets * 4, pages, status, strict=True):
                        assert code >= 0 or code == Status.ABSENT
                        assert code < 0 or name_of(page)[0] == o
                else:
                    z.invalidate_range(rng.choice(offsets), 1 << 41)
        finally:
            left[0] -= 1
            if not left[0]:
                done.set()

    meddlers = [lambda: disturb(z, done, kinds)] if kinds else []
    together(*(lambda k=k: work(k) for k in range(4)), *meddlers)
    z.parameters["exclusive_loads"] = False
    at_rest(z)


def test_a_reader_never_goes_back_in_time(engine):
    # One writer an offset; a reader sees no generation older than one whose store had ended before
    # its load began.
    z = engine(max_pool_bytes="64MiB")
    offsets = [5, 6, 70, 20000]
    written = dict.fromkeys(offsets, 0)  # generations whose store has ended
    begun = dict.fromkeys(offsets, 0)
    for o in offsets:
        z[o] = cookie(o, 0, 0)
    done = threading.Event()

    def write():
        for generation in range(1, 400):
            for o in offsets:
                begun[o] = generation
            z.store_many(offsets, b"".join(cookie(o, 0, generation) for o in offsets))
            for o in offsets:
                written[o] = generation
        done.set()

    def read():
        while not done.is_set():
            low = dict(written)
            pages = z.load_many(offsets)
            high = dict(begun)
            for o, page in zip(offsets, pages, strict=True):
                offset, _, generation = name_of(page)
                assert offset == o
                assert low[o] <= generation <= high[o]

    def meddle():
        while not done.is_set():
            z.compact()
            z.compressor = random.choice(["lz4", "zstd:1", "lz4:4"])

    together(write, read, read, meddle)
    at_rest(z)


def test_batches_of_the_same_pages_from_four_threads(engine):
    # All of it outside the GIL: real races on two cores.
    z = engine(max_pool_bytes="256MiB")
    offsets = np.arange(400)
    sets = [b"".join(cookie(o, k, 0) for o in range(400)) for k in range(4)]

    def store(k):
        for n in range(12):
            assert z.store_many(offsets, sets[(k + n) % 4], threads=2).min() >= 0

    def load():
        status = np.zeros(400, np.int8)
        for _ in range(12):
            pages = z.load_many(offsets, status=status)
            for o in range(0, 400, 7):
                assert status[o] in (Status.STORED, Status.INCOMPRESSIBLE, Status.ABSENT)
                assert status[o] < 0 or pages[o].tobytes() in [
                    s[o * PAGE : (o + 1) * PAGE] for s in sets
                ]

    def drop():
        for n in range(12):
            z.invalidate_range(n * 30, n * 30 + 64)
            z.invalidate_many(offsets[n::7])
            z.compact()

    together(lambda: store(0), lambda: store(1), load, drop)
    at_rest(z)


@pytest.mark.parametrize(
    ("width", "apart", "rounds"), [(2, 0, 40), (64, 0, 120), (64, 1 << 14, 40), (256, 1 << 14, 40)]
)
def test_crowds(engine, width, apart, rounds):
    # Hundreds of thousands of calls on few pages, outside the GIL: they meet in every lock and
    # every atomic of the short paths. One shard's lock would hide the lack of another's, so the two
    # who store may do so in different ones.
    z = engine(max_pool_bytes="64MiB")
    size = 256
    offsets = [np.arange(size) % width + k * apart for k in range(2)]
    sets = [
        np.frombuffer(b"".join(cookie(o, k, 0) for o in offsets[k].tolist()), np.uint64).reshape(
            size, -1
        )
        for k in range(2)
    ]

    def store(k):
        for _ in range(2 * rounds):
            assert z.store_many(offsets[k], sets[k]).min() >= 0

    def load(k):
        pages, status = np.empty((size, PAGE), np.uint8), np.zeros(size, np.int8)
        mine = [sets[k]] if apart else sets
        for _ in range(3 * rounds):
            z.load_many(offsets[k], pages, status=status)
            good = status == Status.ABSENT
            for right in mine:
                good |= (pages.view(np.uint64) == right).all(axis=1)
            assert good.all(), offsets[k][~good]

    def drop():
        for n in range(10 * rounds):
            z.invalidate_many(offsets[n % 2][n % 5 :: 3])

    together(lambda: store(0), lambda: store(1), lambda: load(0), lambda: load(1), drop)
    at_rest(z)


def test_areas_come_and_go(engine):
    z = engine(max_pool_bytes="64MiB")
    done = threading.Event()

    def swap():
        for _ in range(60):
            z.swapon(1, nr_pages=50_000)
            z.store_many(
                range(1000, 1020), b"".join(cookie(o, 9, 0) for o in range(1000, 1020)), swap_type=1
            )
            z.swapoff(1)
        done.set()

    def use(k):
        rng = random.Random(k)
        page = {o: cookie(o, k, 1) for o in range(0, 40_000, 1000)}
        while not done.is_set():
            o = rng.choice(list(page))
            with contextlib.suppress(ValueError):
                z.store(o, page[o], swap_type=1)
            with contextlib.suppress(KeyError):
                assert name_of(z.load(o, swap_type=1))[0] == o
            z.invalidate_range(o, o + 5000, swap_type=1)

    together(swap, lambda: use(1), lambda: use(2))
    assert z.stats().stored_pages == 0
    at_rest(z)


def test_the_limit_is_a_hard_cap(engine):
    # A thread that has passed the check may still open one zspage, of 32 pages at the most; no more
    # than that.
    pages = 60
    z = engine(max_pool_bytes=pages * PAGE, accept_threshold_percent=95)
    done = threading.Event()
    left, worst = [4], [0]

    def work(k):
        rng = random.Random(k)
        mine = [n * 4 + k for n in range(300)]
        try:
            for step in range(60):
                batch = rng.sample(mine, 60)
                z.store_many(batch, b"".join(cookie(o, k, step) for o in batch))
                if rng.random() < 0.5:
                    z.invalidate_many(rng.sample(mine, 80))
                with contextlib.suppress(PoolLimitError):
                    z.store(batch[0], cookie(batch[0], k, step))
        finally:
            left[0] -= 1
            if not left[0]:
                done.set()

    def watch():
        while not done.is_set():
            worst[0] = max(worst[0], z.stats().pool_total_size // PAGE)

    together(*(lambda k=k: work(k) for k in range(4)), watch)
    s = z.stats()
    assert s.pool_limit_hit > 0
    assert worst[0] <= pages + 4 * 32
    at_rest(z)


@pytest.mark.parametrize("zpool", ["zsmalloc:1", "zsmalloc"])
def test_the_limit_is_exact_for_one_thread(engine, zpool):
    # zsmalloc:1 takes pages one at a time; ours takes a zspage's pages as it needs them.
    z = engine("lz4", zpool, max_pool_bytes=100 * PAGE, accept_threshold_percent=100)
    for n in range(600):
        z.store_many([n % 300], cookie(n % 300, 0, n))
        assert z.stats().pool_total_size <= 100 * PAGE


# ---- readers that hold a page --------------------------------------------------------------------


def held_up(engine, codec, **kwargs):
    """An engine with a codec that can be made to wait, holding a page that compresses at 7."""
    c = Codec()
    z = engine(codec(factory=c.capsule), **kwargs)
    z[7] = b"the old page" + bytes(PAGE - 12)
    return z, c


OLD = b"the old page" + bytes(PAGE - 12)


def meanwhile(z, c, action, readers=1):
    """Do something while `readers` loads of page 7 wait in the middle; returns what they got."""
    got = []
    c.hold_decompress = True
    threads = [
        threading.Thread(target=lambda: got.append(z.load_many([7]).tobytes()))
        for _ in range(readers)
    ]
    try:
        for t in threads:
            t.start()
        until(lambda: c.decompressing == readers)
        action()
    finally:
        c.hold_decompress = False
        for t in threads:
            t.join()
    return got


def grind(z, area=0):
    """Use the memory that is free, so that a page which was freed too early is overwritten."""
    for n in range(100, 300):
        page = bytes([n % 256]) * (n % 100 + 10) + b"x" + bytes(PAGE - n % 100 - 11)
        z.store(n, page, swap_type=area)
    z.invalidate_range(100, 300, swap_type=area)


@pytest.mark.parametrize("readers", [1, 5])
@pytest.mark.parametrize(
    "what",
    [
        "invalidate",
        "overwrite",
        "same-filled",
        "range",
        "swapoff",
        "exclusive",
        "exclusive overwrite",
    ],
)
def test_a_reader_keeps_the_page_that_goes_away(engine, codec, what, readers):
    z, c = held_up(engine, codec)
    new = b"another page" + bytes(PAGE - 12)
    swapping = threading.Thread(target=z.swapoff, args=(0,))

    def action():
        if what == "invalidate":
            assert z.invalidate(7)
        elif what == "overwrite":
            z[7] = new
        elif what == "same-filled":
            z[7] = bytes(PAGE)
        elif what == "range":
            assert z.invalidate_range(0, 100) == 1
        elif what == "swapoff":
            swapping.start()  # it may wait for the calls in flight
            until(lambda: 7 not in z)
            z.swapon(1)
        elif what.startswith("exclusive"):
            z.parameters["exclusive_loads"] = True
            if what == "exclusive overwrite":
                z[7] = new  # not what the readers are to take away
        if what in ("invalidate", "range", "swapoff"):
            assert 7 not in z
        for _ in range(3):
            grind(z, 1 if what == "swapoff" else 0)
            z.compact()

    assert meanwhile(z, c, action, readers) == [OLD] * readers
    if what == "swapoff":
        swapping.join()
        z.swapon(0)
    # A load is exclusive by what the parameter was when it began: the readers' were not, this one
    # is.
    expected = {
        "overwrite": new,
        "exclusive overwrite": new,
        "same-filled": bytes(PAGE),
        "exclusive": OLD,
    }.get(what)
    assert z.get(7) == expected
    assert (7 in z) == (what in ("overwrite", "same-filled"))
    z.parameters["exclusive_loads"] = False
    z._validate()
    z.clear()
    s = z.stats()
    assert (s.stored_pages, s.compressed_bytes) == (0, 0)
    z.compact()
    assert z.stats().pool_total_size == 0, "the page was freed with its last reader"


def test_compaction_leaves_the_page_that_is_read(engine, codec):
    z, c = held_up(engine, codec)
    for n in range(1000, 3000):
        z[n] = b"the old page" + bytes([n % 256]) * 400 + bytes(PAGE - 412)
    z[7] = b"the old page" + bytes([7]) * 400 + bytes(PAGE - 412)
    for n in range(3000, 5000):
        z[n] = b"the old page" + bytes([n % 256]) * 400 + bytes(PAGE - 412)
    z.invalidate_many([n for n in range(1000, 5000) if n % 50])
    expected = z[7]

    def action():
        assert z.compact() > 0
        grind(z)

    assert meanwhile(z, c, action, 3) == [expected] * 3
    z._validate()
    assert z[7] == expected
    z.compact()
    assert z[7] == expected
    assert [z[n][12] for n in range(1000, 5000, 50)] == [n % 256 for n in range(1000, 5000, 50)]


def test_a_reader_keeps_the_pool_that_goes_away(engine, codec):
    z, c = held_up(engine, codec)

    def action():
        z.compressor = "lz4"
        z.invalidate(7)
        grind(z)
        assert len(z.pools()) == 2, "its page is being read"

    assert meanwhile(z, c, action) == [OLD]
    until(lambda: len(z.pools()) == 1)
    until(lambda: c.contexts == 0)
    z._validate()


def test_a_store_that_waits_keeps_its_pool(engine, codec):
    z, c = held_up(engine, codec)
    z.invalidate(7)
    c.hold_compress = True
    t = threading.Thread(target=z.store_many, args=([7], OLD))
    t.start()
    try:
        until(lambda: c.compressing == 1)
        z.compressor = "lz4"
        z[8] = OLD
        assert len(z.pools()) == 2, "a store that began with it may still come to it"
    finally:
        c.hold_compress = False
        t.join()
    assert z[7] == z[8] == OLD
    pools = z.pools()
    assert [(p.stored_pages, p.current) for p in pools] == [(1, True), (1, False)]
    z._validate()


def test_a_call_on_a_worker_made_for_it_keeps_its_pool(engine, codec):
    # All workers of the start are in calls, so the store that is held up has one that was made just
    # now, at the list's head.
    blocking, held = Codec(), Codec()
    z = engine(codec(factory=blocking.capsule))
    page = cookie(1, 0, 0)[:3000].ljust(PAGE, b".")
    z[1] = page
    blocking.hold_decompress = True
    before = [threading.Thread(target=z.load_many, args=([1],)) for _ in range(os.cpu_count() + 1)]
    for t in before:
        t.start()
    until(lambda: blocking.decompressing == len(before))
    z.compressor = name = codec(factory=held.capsule)
    held.hold_compress = True
    store = threading.Thread(target=z.store_many, args=([2], page))
    store.start()
    until(lambda: held.compressing == 1)
    z.compressor = "lz4"  # the pool of the call is empty, and nobody's any more
    blocking.hold_decompress = False
    for t in before:
        t.join()
    for n in range(20):  # each wakes the thread that frees pools
        z.compressor = f"lz4:{n % 3 + 2}"
        assert any(pool.compressor == name for pool in z.pools())
    assert held.contexts == 1
    held.hold_compress = False
    store.join()
    assert z[2] == z[1] == page
    z._validate()
    del z[2]
    until(lambda: held.contexts == 0)


def test_the_last_store_to_begin_is_not_the_last_to_win(engine, codec):
    # A store that waits in the compressor is published when it ends, over what came meanwhile; an
    # offline area refuses it.
    z, c = held_up(engine, codec)
    status = []
    swapping = threading.Thread(target=z.swapoff, args=(0,))
    for action, expected in [
        (lambda: z.store(7, bytes(PAGE)), OLD),
        (lambda: z.invalidate(7), OLD),
        (lambda: swapping.start() or until(lambda: 7 not in z), None),
    ]:
        c.hold_compress = True
        t = threading.Thread(target=lambda: status.append(z.store_many([7], OLD)[0]))
        t.start()
        try:
            until(lambda: c.compressing == 1)
            action()
        finally:
            c.hold_compress = False
            t.join()
        assert z.get(7) == expected
        z._validate()
    swapping.join()
    assert status == [Status.STORED, Status.STORED, Status.NO_AREA]


def test_one_slow_store_leaves_the_gil(engine, codec):
    c = Codec(slow=True)
    z = engine(codec(factory=c.capsule))
    c.hold_compress = True
    t = threading.Thread(target=z.store, args=(1, OLD))
    t.start()
    until(lambda: c.compressing == 1)  # we run, so it does not hold the GIL
    c.hold_compress = False
    t.join()
    assert z[1] == OLD


def test_more_calls_at_once_than_cpus(engine, codec):
    # Each has a worker of its own, with a context of its own.
    z, c = held_up(engine, codec)
    got = meanwhile(z, c, lambda: z.store(8, OLD), readers=40)
    assert got == [OLD] * 40
    c.hold_compress = True
    threads = [threading.Thread(target=z.store_many, args=([n], OLD)) for n in range(40)]
    for t in threads:
        t.start()
    try:
        until(lambda: c.compressing == 40)
        assert z[8] == OLD
    finally:
        c.hold_compress = False
        for t in threads:
            t.join()
    assert c.contexts >= 40
    assert [z[n] for n in range(40)] == [OLD] * 40
    z._validate()
    z.close()
    assert c.contexts == 0


# ---- close ---------------------------------------------------------------------------------------


def test_close_waits_for_a_batch(engine, codec):
    inside, go = threading.Event(), threading.Event()
    first = []

    def compress(data):
        if not first:
            first.append(data)
            inside.set()
            assert go.wait(30)
        return data[:50]

    z = engine(codec(compress, lambda data: data.ljust(PAGE, b".")))
    pages = b"".join(cookie(o, 0, 0) for o in range(100))
    results, closed = [], threading.Event()
    batch = threading.Thread(target=lambda: results.append(z.store_many(range(100), pages)))
    batch.start()
    assert inside.wait(30)

    def close():
        z.close()
        closed.set()

    closer = threading.Thread(target=close)
    closer.start()
    until(lambda: z.closed)  # it has begun: nobody else gets in
    for call in (
        lambda: z.load(0),
        lambda: z.store(0, bytes(PAGE)),
        z._page_count,
        z.stats,
        z.compact,
    ):
        with pytest.raises(ValueError, match="closed"):
            call()
    assert not closed.is_set(), "the batch is still at it"
    go.set()
    batch.join()
    closer.join()
    assert closed.is_set()
    assert results[0].tolist() == [Status.STORED] * 100
    with pytest.raises(ValueError, match="closed"):
        z.load(0)


def test_close_waits_for_a_load(engine, codec):
    z, c = held_up(engine, codec)
    closer = threading.Thread(target=z.close)

    def action():
        closer.start()
        until(lambda: z.closed)

    assert meanwhile(z, c, action, readers=3) == [OLD] * 3
    closer.join()
    assert c.contexts == 0


def test_close_from_many_threads(engine):
    for n in range(20):
        z = engine()
        z[1] = cookie(1, 0, n)
        z.compressor = "zstd"
        together(z.close, z.close, z.close, z.close)
        assert z.closed


def test_close_amid_all_kinds_of_calls(engine):
    for n in range(10):
        z = engine(max_pool_bytes="64MiB")
        seen = threading.Barrier(4)
        pages = b"".join(cookie(o, 0, n) for o in range(100))

        def work(k, z=z, seen=seen, pages=pages):
            first = True
            with pytest.raises(ValueError, match="closed"):  # noqa: PT012 (any of the calls may be the one)
                while True:
                    z.store_many(range(k * 100, k * 100 + 100), pages, threads=2)
                    if first:
                        seen.wait()
                        first = False
                    z.load_many(range(k * 100, k * 100 + 100), threads=2)
                    z.load(k * 100)
                    z.compact()
                    z.compressor = f"lz4:{k + 1}"
                    z.stats()
                    z.invalidate_range(k * 100, k * 100 + 50)
                    list(z)

        def close(z=z, seen=seen):
            seen.wait()
            z.close()

        together(*(lambda k=k, work=work: work(k) for k in range(3)), close)


def test_settings_change_amid_stores(engine):
    z = engine(max_pool_bytes="64MiB")
    done = threading.Event()

    def store():
        rng = random.Random(1)
        for step in range(150):
            batch = rng.sample(range(300), 30)
            z.store_many(batch, b"".join(cookie(o, 0, step) for o in batch))
        done.set()

    def change():
        rng = random.Random(2)
        while not done.is_set():
            for name in FLAGS:
                z.parameters[name] = rng.random() < 0.5
            z.parameters["max_pool_bytes"] = rng.choice([0, 20 * PAGE, "64MiB"])
            z.parameters["accept_threshold_percent"] = rng.choice([0, 50, 100])

    def load():
        while not done.is_set():
            for o in range(0, 300, 5):
                page = z.get(o)
                assert page is None or name_of(page)[0] == o

    together(store, change, load)
    z.parameters.update(exclusive_loads=False, enabled=True, max_pool_bytes="64MiB")
    at_rest(z)


def test_loads_look_ahead_amid_changes(engine):
    # With so many entries batches of loads look ahead, at what others free, move and store
    # meanwhile.
    z = engine(max_pool_bytes="64MiB")
    many = np.arange(1 << 20, (1 << 20) + 80_000)
    z.store_many(many, bytes(PAGE * len(many)))
    kept = np.arange(0, 40 * 2000, 40)
    z.store_many(kept, b"".join(cookie(o, 0, 0) for o in kept.tolist()))
    done = threading.Event()

    def load():
        rng = np.random.default_rng(1)
        for _ in range(20):
            offsets = rng.permutation(
                np.concatenate([rng.choice(kept, 500, replace=False), rng.integers(0, 80_000, 500)])
            )
            status = np.empty(len(offsets), np.int8)
            out = z.load_many(offsets, status=status, threads=2)
            for offset, code, page in zip(offsets.tolist(), status.tolist(), out, strict=True):
                assert code >= 0 or offset % 40
                assert code < 0 or name_of(page.tobytes())[0] == offset
        done.set()

    def change():
        rng = random.Random(2)
        while not done.is_set():
            batch = [o for o in rng.sample(range(80_000), 300) if o % 40]
            z.store_many(batch, b"".join(cookie(o, 1, 1) for o in batch))
            if rng.random() < 0.3:
                start = rng.randrange(2000) * 40 + 1
                z.invalidate_range(start, start + 39)
            if rng.random() < 0.3:
                z.invalidate_many([o for o in range(80_000) if o % 40 == rng.randrange(1, 40)])

    def switch():
        rng = random.Random(3)
        while not done.is_set():
            z.compressor = rng.choice(["lz4", "lz4:9", "zstd:1"])
            z.compact()

    together(load, change, switch)
    assert z.invalidate_range(1 << 20, 1 << 21) == len(many)
    at_rest(z)


def test_a_compressor_in_python_from_many_threads(engine, codec):
    z = engine(codec(lambda data: data.rstrip(b"."), lambda data: data.ljust(PAGE, b".")))
    pages = {o: (b"%d " % o * 40).ljust(PAGE, b".") for o in range(120)}

    def work(k):
        mine = list(range(k * 30, k * 30 + 30))
        for _ in range(8):
            assert z.store_many(mine, b"".join(pages[o] for o in mine), threads=3).min() >= 0
            assert z.load_many(mine, threads=3).tobytes() == b"".join(pages[o] for o in mine)
            z.store(mine[0], pages[mine[0]])
            assert z.load(mine[0]) == pages[mine[0]]

    together(*(lambda k=k: work(k) for k in range(4)))
    assert dict(z.items()) == pages


def test_errors_from_many_threads_are_each_their_own(engine, codec):
    # A compressor of which some pages fail: each caller learns about its own page.
    def compress(data):
        if data[0] % 2:
            raise ArithmeticError(f"odd {data[0]}")
        return data[:10]

    z = engine(codec(compress, lambda data: data))

    def work(k):
        for n in range(100):
            page = bytes([n]) + bytes(PAGE - 2) + b"x"
            if n % 2:
                with pytest.raises(Error, match=f"offset {k * 1000 + n}"):
                    z.store(k * 1000 + n, page)
            else:
                z.store(k * 1000 + n, page)

    together(*(lambda k=k: work(k) for k in range(4)))
    assert z.stats().reject_compress_fail == 200
    assert len(z) == 200


@pytest.mark.parametrize("compressor", ["zstd:1", "lz4"])
def test_single_calls_that_take_long(compressor):
    """They give the GIL away once they were timed: pages come and go beside each other."""
    pages = [np.random.default_rng(n).integers(0, 40, 65536, np.uint8).tobytes() for n in range(16)]
    with zswap.ZSwap(compressor, page_size=65536, max_pool_bytes="64MiB") as z:
        for n, page in enumerate(pages):
            z[n] = page

        def load(seed):
            out = bytearray(65536)
            for n in random.Random(seed).choices(range(16), k=150):
                assert z[n] == pages[n]
                assert z.load(n, out) == pages[n]
                assert z.load_part(n, 7, 9) == pages[n][7:16]
                z.loadv(n, [out])
                assert out == pages[n]

        def store():
            for n in random.Random(9).choices(range(16), k=150):
                z[n] = pages[n]
                z.store_part(n, 3, pages[n][3:9])
                z.storev(n, [pages[n]])

        together(lambda: load(1), lambda: load(2), store)
        z._validate()
