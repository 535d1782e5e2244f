"""Reads together: the pages of a batch that the backing store has.

Races are forced: a store that holds a reader up once it has filled its memory, so that what it read
is of before.
"""

import errno
import os
import random
import signal
import zlib
from pathlib import Path

import numpy as np
import pytest

import zswap
from hooks.faults import FOREVER, fault
from zswap import BackingError, Status, SwapFile

PAGE = 4096
TOGETHER = 256  # pages of 4 KiB that are read with one call
NEVER = 86400


def noise(seed, size=PAGE):
    return random.Random(seed).randbytes(size)


def batch(offsets, seed=0, size=PAGE):
    return b"".join(noise(o + seed, size) for o in offsets)


def shuffled(n, seed=0):
    return random.Random(seed).sample(range(n), n)


@pytest.fixture
def store(memory_store):
    return memory_store()


@pytest.fixture
def make(engine, store):
    """Make an engine, and have these pages in its store and no others."""

    def make(n, backing=store, *args, **kwargs):
        quiet = {
            "shrinker_interval": NEVER,
            "shrinker_enabled": False,
            "max_pool_bytes": "256MiB",
            "promote": "never",
        }
        z = engine(*args, backing=backing, **quiet | kwargs)
        z.store_many(range(n), batch(range(n), size=z.page_size))
        assert z.shrink(n) == n
        if backing is store:
            store.reads.clear()
        return z

    return make


def statuses(z, offsets, out):
    """Load these pages with one call, whatever becomes of each."""
    status = np.empty(len(offsets), np.int8)
    z.load_many(offsets, out, status=status)
    return status


def right(z, offsets, seed=0, **kwargs):
    """Load these pages with one call: they are what was stored."""
    out = np.empty((len(offsets), z.page_size), np.uint8)
    z.load_many(offsets, out, **kwargs)
    return out.tobytes() == batch(offsets, seed, z.page_size)


class LateStore:
    """A store whose readers are held up once they have what they came for; `spoil` is called with
    their offsets and their memory before."""

    def __init__(self, store, spoil):
        self.store, self.spoil = store, spoil
        self.write_pages, self.discard_pages = store.write_pages, store.discard_pages

    def read_pages(self, offsets, out):
        self.store.read_pages(offsets, out)
        self.spoil(offsets.tolist(), out)


# ---- what goes together --------------------------------------------------------------------------


def test_a_batch_is_sorted_and_read_together(make, store):
    z = make(1000)
    order = shuffled(1000)
    assert right(z, order)
    assert store.reads == [
        sorted(order[at : at + TOGETHER]) for at in range(0, len(order), TOGETHER)
    ]
    assert z.stats().backing_loads == z.stats().loads == 1000


def test_what_is_elsewhere_is_not_asked_of_the_store(make, store):
    z = make(200)
    z.store_many(range(50), batch(range(50), 7))  # back in memory, with other content
    z.store(50, bytes(PAGE))
    z.invalidate_range(60, 80)
    store.reads.clear()
    out = np.full((200, PAGE), 1, np.uint8)
    status = statuses(z, shuffled(200, 1), out)
    assert [sorted(read) for read in store.reads] == [[*range(51, 60), *range(80, 200)]]
    for o, s, page in zip(shuffled(200, 1), status, out, strict=True):
        if 60 <= o < 80:
            assert s == Status.ABSENT
        else:
            assert s >= 0
            assert page.tobytes() == (
                bytes(PAGE) if o == 50 else noise(o + 7) if o < 50 else noise(o)
            )
    assert z.stats().load_misses == 20


def test_a_page_that_is_named_twice_is_read_once(make, store):
    z = make(20)
    assert right(z, [3, 5, 3, 4, 5, 3])
    assert store.reads == [[3, 4, 5]]


@pytest.mark.parametrize(("page_size", "most"), [(16384, 64), (65536, 16)])
def test_they_are_bounded_by_bytes(make, store, page_size, most):
    z = make(100, page_size=page_size)
    assert right(z, shuffled(100))
    assert max(map(len, store.reads)) == most
    assert sum(map(len, store.reads)) == 100


def test_one_page_is_read_where_it_is_wanted(make, store):
    z = make(10)
    with fault("SCRATCH", times=FOREVER):
        assert right(z, [4])
    assert store.reads == [[4]]


def test_many_threads(make, store):
    z = make(3000)
    assert right(z, shuffled(3000), threads=4)
    assert sum(map(len, store.reads)) == 3000


def test_two_areas(make, memory_store):
    z = make(300)
    z.swapon(1, backing=memory_store())
    z.store_many(range(300), batch(range(300), 5), swap_type=1)
    z.shrink(300)
    assert right(z, shuffled(300))
    assert right(z, shuffled(300, 2), 5, swap_type=1)


def test_exclusive_loads_take_each_page(make, store):
    z = make(30)
    z.parameters["exclusive_loads"] = True
    assert right(z, range(30))
    assert len(z) == 0
    assert store.pages == {}


def test_the_times_of_all_are_recorded(make):
    z = make(500)
    z.parameters["latency"] = True
    right(z, shuffled(500))
    assert z.latency()["load"].count == 500


def test_a_store_that_loads_while_it_reads(make, memory_store):
    inner = memory_store()
    late = LateStore(inner, lambda offsets, out: None)
    z = make(600, late)
    nested = []
    late.spoil = lambda offsets, out: (
        nested.append(right(z, range(500, 600))) if min(offsets) < 500 else None
    )
    assert right(z, shuffled(500))
    assert nested == [True, True]


# ---- what changes meanwhile ----------------------------------------------------------------------


@pytest.mark.parametrize("what", ["written back", "written through", "in memory", "same-filled"])
def test_pages_that_are_stored_meanwhile(make, memory_store, gate, thread, what):
    inner = memory_store()
    late = LateStore(inner, lambda offsets, out: None)
    z = make(100, late)
    held = gate()

    def spoil(offsets, out):
        if 7 in offsets:
            out[offsets.index(7), : PAGE // 2] = 0  # as if a write had come in between
            held()

    late.spoil = spoil
    loading = thread(z.load_many, list(range(100)))
    with held:
        late.spoil = lambda offsets, out: None
        z.store(7, bytes(PAGE) if what == "same-filled" else noise(1007))
        if what == "written back":
            assert z.shrink(1) == 1
        elif what == "written through":
            z.parameters["max_pool_bytes"] = 0
            z.store(7, noise(1007))
    out = loading.join()
    expected = [noise(o) for o in range(100)]
    expected[7] = bytes(PAGE) if what == "same-filled" else noise(1007)
    assert out.tobytes() == b"".join(expected)


def test_pages_that_are_invalidated_meanwhile(make, memory_store, gate, thread):
    inner = memory_store()
    late = LateStore(inner, lambda offsets, out: None)
    z = make(100, late)
    held = late.spoil = gate()
    out = np.empty((100, PAGE), np.uint8)
    loading = thread(statuses, z, list(range(100)), out)
    with held:
        z.invalidate_range(10, 20)
    status = loading.join()
    assert [o for o in range(100) if status[o] == Status.ABSENT] == list(range(10, 20))


def test_other_pages_of_the_shard_may_come_and_go(make, memory_store, gate, thread):
    """What is written meanwhile of others does not have the batch read anew."""
    inner = memory_store()
    late = LateStore(inner, lambda offsets, out: None)
    z = make(100, late)
    inner.reads.clear()
    held = late.spoil = gate()
    loading = thread(z.load_many, list(range(100)))
    with held:
        z.store_many(range(200, 300), batch(range(200, 300)))
        assert z.shrink(100) == 100
    assert loading.join().tobytes() == batch(range(100))
    assert inner.reads == [list(range(100))]


def test_batches_at_a_time_have_buffers_of_their_own(make, memory_store, gate, thread):
    inner = memory_store()
    late = LateStore(inner, lambda offsets, out: None)
    z = make(200, late)
    before = z.stats().buffer_bytes
    assert right(z, shuffled(200))
    one = z.stats().buffer_bytes - before  # it stays for the next
    held = gate()
    late.spoil = lambda offsets, out: held() if 7 in offsets else None
    loading = thread(z.load_many, list(range(100)))
    with held:
        assert right(z, range(100, 200))
        assert z.stats().buffer_bytes - before == 2 * one
    assert loading.join().tobytes() == batch(range(100))
    assert z.stats().buffer_bytes - before == one >= PAGE * TOGETHER
    z._validate()


def test_a_buffer_that_nobody_takes_goes_back(make, until):
    z = make(200)
    before = z.stats().buffer_bytes
    assert right(z, shuffled(200))
    assert z.stats().buffer_bytes > before
    z.parameters["shrinker_interval"] = 0.01
    until(lambda: z.stats().buffer_bytes < before)  # with writeback's
    assert right(z, shuffled(200))


def test_a_buffer_of_another_budget_is_not_used(make):
    z = make(500)
    assert right(z, shuffled(500))
    z.parameters["max_memory_bytes"] = "4MiB"
    before = z.stats().buffer_bytes
    assert right(z, shuffled(500))
    assert z.stats().buffer_bytes < before
    z._validate()


def test_swapoff_waits_for_a_batch(make, memory_store, gate, thread, until):
    inner = memory_store()
    late = LateStore(inner, lambda offsets, out: None)
    z = make(50, late)
    held = late.spoil = gate()
    out = np.empty((50, PAGE), np.uint8)
    loading = thread(statuses, z, list(range(50)), out)
    with held:
        leaving = thread(z.swapoff, 0)
        until(lambda: not z._online(0))
        assert leaving.is_alive()
    status = loading.join()
    leaving.join()
    assert set(status.tolist()) <= {Status.ABSENT, Status.STORED}


# ---- failures ------------------------------------------------------------------------------------


def test_each_page_has_the_status_of_its_own_read(make, store):
    z = make(300)
    bad = {13, 77, 290}

    def refuse(offsets):
        if bad & set(offsets):
            raise OSError(errno.EIO, "a bad block")

    store.on_read = refuse
    out = np.empty((300, PAGE), np.uint8)
    order = shuffled(300)
    with pytest.raises(BackingError, match="a bad block"):
        z.load_many(order)
    status = statuses(z, order, out)
    assert {o for o, s in zip(order, status, strict=True) if s == Status.BACKING_FAIL} == bad
    for o, page in zip(order, out, strict=True):
        assert o in bad or page.tobytes() == noise(o)
    assert z.stats().backing_read_fail == 6
    store.on_read = lambda offsets: None
    assert right(z, order)


def test_damage_is_found_page_by_page(make, store):
    z = make(100, checksum=True)
    store.pages[31] = noise(1)
    out = np.empty((100, PAGE), np.uint8)
    status = statuses(z, shuffled(100), out)
    assert status[shuffled(100).index(31)] == Status.BACKING_CORRUPT
    assert (status >= 0).sum() == 99
    assert z.stats().backing_checksum_fail == 1


@pytest.mark.parametrize(("site", "code"), [("SCRATCH", errno.ENOMEM), ("BACKING_READ", errno.EIO)])
def test_where_nothing_can_be_read_together(make, store, site, code):
    z = make(100)
    with fault(site, error=code) as failed:
        assert right(z, shuffled(100))
        assert failed() == 1
    assert sorted(store.reads) == [[o] for o in range(100)]


# ---- swap files ----------------------------------------------------------------------------------

KINDS = {
    "plain": {},
    "buffered": {"direct": False},
    "encrypted": {"encrypt": True},
    "threads": {"io_uring": False},
    "encrypted, threads": {"io_uring": False, "encrypt": True},
}


PACKED = {
    "packed": {"packed": True},
    "packed, encrypted": {"packed": True, "encrypt": True},
    "packed, threads": {"packed": True, "io_uring": False},
}


@pytest.fixture
def open_file(tmp_path):
    """Open a swap file, which is closed when nobody has it any more: after its engine."""

    def open_file(**kwargs):
        return SwapFile(tmp_path / "swap", "64MiB", **kwargs)

    return open_file


@pytest.fixture(params=KINDS)
def file(request, open_file):
    return open_file(**KINDS[request.param])


@pytest.fixture(params=KINDS | PACKED)
def any_file(request, open_file):
    return open_file(**(KINDS | PACKED)[request.param])


def rings():
    """How many descriptors of io_urings this process has."""
    names = []
    for number in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:  # the folder's own
            continue
    return sum("io_uring" in name for name in names)


@pytest.fixture
def ring_file(open_file):
    """A swap file that has used its io_uring."""
    file = open_file()
    memory = np.empty(5 * PAGE, np.uint8)
    start = -memory.ctypes.data % PAGE
    file.read_pages([1, 3, 5, 7], memory[start : start + 4 * PAGE])
    if not file.io_uring:
        pytest.skip("this system refuses io_uring")
    return file


@pytest.mark.slow
def test_from_a_swap_file(make, file):
    z = make(2000, file)
    before = file.stats()
    assert right(z, shuffled(2000))
    assert right(z, range(2000))
    after = file.stats()
    assert after["read_pages"] - before["read_pages"] == 4000
    requests = after["read_requests"] - before["read_requests"]
    assert requests < 2000 + 16  # neighbours went together
    assert after["ring_requests"] in (0, requests - 8)  # in order there is one request at a time
    assert file.io_uring or after["ring_requests"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("nth", [1, 130])
@pytest.mark.parametrize(
    ("site", "code", "times"),
    [
        ("FILE_READ", errno.EIO, 1),
        ("FILE_READ", errno.EINTR, 3),
        ("FILE_READ", errno.EAGAIN, 3),
        ("FILE_READ", errno.EINVAL, 3),
        ("FILE_READ_SHORT", 512, 3),
        ("FILE_READ_SHORT", 100, 1),
        ("FILE_RING", errno.EPERM, 1),
        ("FILE_RING_ENTER", errno.EINTR, 3),
        ("FILE_RING_ENTER", errno.EPERM, 1),
        ("FILE_THREAD", errno.EAGAIN, 1),
        ("FILE_THREAD", errno.EAGAIN, FOREVER),
    ],
)
def test_failures_while_many_are_read(make, any_file, site, code, times, nth):
    z = make(500, any_file)
    with fault(site, nth=nth, times=times, error=code):
        assert right(z, shuffled(500))
    assert right(z, shuffled(500, 1))


def test_a_ring_that_is_refused_is_not_asked_for_again(make, open_file):
    file = open_file()
    z = make(500, file)
    with fault("FILE_RING", times=FOREVER, error=errno.EPERM) as failed:
        assert right(z, shuffled(500))
        assert right(z, shuffled(500))
        assert failed() == 1
    assert not file.io_uring
    assert file.stats()["ring_requests"] == 0


def test_a_ring_that_fails_is_given_up_with_its_reads_done(make, ring_file):
    z = make(500, ring_file)
    with fault("FILE_RING_ENTER", nth=3, error=errno.ENXIO) as failed:
        assert right(z, shuffled(500))
        assert failed() == 1
    assert not ring_file.io_uring
    assert right(z, shuffled(500))


def test_a_dead_disk_is_an_error(make, any_file):
    z = make(300, any_file)
    with (
        fault("FILE_READ", times=FOREVER, error=errno.EIO),
        pytest.raises(BackingError, match="page"),
    ):
        z.load_many(shuffled(300))
    assert right(z, shuffled(300))


@pytest.fixture
def far_apart(make, open_file):
    """Make an engine with pages of a compressor in Python, and load some with as many requests,
    more than a ring takes at a time; `decompress` is called for each before the rest has come."""
    engines = []

    def far_apart(decompress, **kwargs):
        def done(data):
            decompress()
            return zlib.decompress(data)

        zswap.register_compressor("reads.far", lambda data: zlib.compress(data, 1), done)
        z = make(100, open_file(packed=True, **kwargs))
        engines.append(z)
        z.compressor = "reads.far"
        pages = [noise(o, 3000) + bytes(PAGE - 3000) for o in range(1000, 1600)]
        z.store_many(range(1000, 1600), b"".join(pages))
        assert z.shrink(700) == 600

        def load():
            order = [4 * n for n in shuffled(150)]
            out = z.load_many([1000 + n for n in order])
            return out.tobytes() == b"".join(pages[n] for n in order)

        return z, load

    yield far_apart
    for z in engines:
        z.close()
    if engines:
        zswap.unregister_compressor("reads.far")


@pytest.mark.parametrize("io_uring", [True, False], ids=["ring", "threads"])
def test_a_compressor_that_loads_from_the_file_that_is_being_read(far_apart, io_uring):
    """What has come is decompressed while the rest is on its way, and that may call back."""
    nested = []
    z, load = far_apart(
        lambda: nested.append(right(z, shuffled(100))) if len(nested) < 3 else None,
        io_uring=io_uring,
    )
    assert load()
    assert nested == [True] * 3


@pytest.mark.parametrize("io_uring", [True, False], ids=["ring", "threads"])
def test_a_compressor_that_forks_while_the_file_is_being_read(far_apart, whole_fork, io_uring):
    """The child has neither ring nor file, and is told so."""
    here, children = os.getpid(), []

    def decompress():
        if not children:
            children.append(os.fork())
            if children == [0]:
                signal.alarm(20)

    _, load = far_apart(decompress, io_uring=io_uring)
    try:
        held = load()
    except (ValueError, zswap.Error):
        held = None
    finally:
        if os.getpid() != here:
            os._exit(held is not None)
    assert held
    assert os.waitpid(children[0], 0)[1] == 0
    assert load()


def test_rings_end_with_the_file(open_file, make):
    before = rings()
    file = open_file()
    z = make(500, file)
    assert right(z, shuffled(500), threads=2)
    assert rings() - before in ((1, 2) if file.io_uring else (0,))
    z.close()
    file.close()
    assert rings() == before


@pytest.mark.slow
def test_more_readers_than_rings(make, open_file, thread):
    z = make(1000, open_file())

    def read(seed):
        return all(right(z, shuffled(1000, seed + n)) for n in range(3))

    threads = [thread(read, 10 * n) for n in range(12)]
    assert all(t.join() for t in threads)


def test_a_forked_child_has_no_ring(ring_file, make, whole_fork):
    z = make(500, ring_file)
    assert right(z, shuffled(500))
    here = rings()
    assert here >= 1
    child = os.fork()
    if child == 0:
        found = 1
        try:
            found = rings() or Path("/proc/self/maps").read_text().count("io_uring")
        finally:
            os._exit(min(found, 100))
    assert os.waitpid(child, 0)[1] == 0
    assert rings() == here
    assert right(z, shuffled(500, 1))


def test_what_was_read_is_not_left_in_memory(make, ring_file):
    """The buffer goes with the batch."""
    z = make(300, ring_file, wipe_on_free=True)
    before = z.stats().metadata_bytes
    assert right(z, shuffled(300))
    assert z.stats().metadata_bytes == before
