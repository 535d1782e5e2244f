"""Read-ahead: single loads in order have what follows read with them, and never an older page."""

import random
import threading

import numpy as np
import pytest

import zswap
from hooks.faults import fault
from zswap import SwapFile

PAGE = 4096
PAGES = 600


def page_of(n, version=0):
    return np.random.default_rng([n, version]).integers(0, 256, 1000, np.uint8).tobytes() + bytes(
        PAGE - 1000
    )


class Counting:
    """A store that remembers which pages were asked for at once."""

    def __init__(self):
        self.pages, self.reads, self.before_read = {}, [], None

    def write_pages(self, offsets, pages):
        for offset, page in zip(offsets.tolist(), pages, strict=True):
            self.pages[offset] = bytes(page)

    def read_pages(self, offsets, out):
        self.reads.append(offsets.tolist())
        if self.before_read is not None:
            self.before_read()
        for place, offset in zip(out, offsets.tolist(), strict=True):
            place[:] = np.frombuffer(self.pages[offset], np.uint8)


@pytest.fixture
def store():
    return Counting()


@pytest.fixture
def make(engine, store):
    """An engine all of whose pages are in the store."""

    def make(pages=range(PAGES), backing=store, **options):
        z = engine(
            max_pool_bytes="64MiB",
            backing=backing,
            shrinker_enabled=False,
            **{"promote": "never", **options},
        )
        write_out(z, pages)
        return z

    return make


def write_out(z, pages, version=0):
    for n in pages:
        z[n] = page_of(n, version)
    z.shrink(len(pages))
    assert z.stats().stored_pages == 0


def counted(z):
    s = z.stats()
    return s.read_ahead_pages, s.read_ahead_loads, s.backing_loads


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("checksum", [False, True])
def test_pages_in_order_are_read_together(make, tmp_path, packed, checksum):
    file = SwapFile(tmp_path / "swap", 2000 * PAGE, packed=packed)
    z = make(backing=file, checksum=checksum)
    for n in range(PAGES):
        assert z[n] == page_of(n)
    ahead, loads, backing_loads = counted(z)
    assert backing_loads == PAGES == z.stats().loads
    # all but the first and those that began a window
    assert ahead >= loads >= PAGES * 9 // 10


def test_windows_grow_as_far_as_they_are_wanted(make, store):
    z = make()
    for n in range(PAGES):
        assert z[n] == page_of(n)
    sizes = [len(read) for read in store.reads]
    assert sizes[:6] == [1, 4, 8, 16, 32, 64]
    assert max(sizes) == 64
    assert sorted(n for read in store.reads for n in read) == list(range(PAGES))


def test_pages_at_random_are_read_alone(make, store):
    z = make()
    order = list(range(0, PAGES, 2))
    random.Random(1).shuffle(order)
    for n in order:
        assert z[n] == page_of(n)
    assert counted(z) == (0, 0, len(order))
    assert store.reads == [[n] for n in order]


def test_pairs_soon_end_it(make, store):
    """Two neighbours here and two there begin no stream for long."""
    z = make()
    order = list(range(0, PAGES, 12))
    random.Random(1).shuffle(order)
    for n in order:
        assert z[n] == page_of(n)
        assert z[n + 1] == page_of(n + 1)
    assert counted(z)[0] <= 30


def test_streams_go_on_side_by_side(make):
    z = make()
    for n in range(PAGES // 3):
        for first in (0, PAGES // 3, 2 * (PAGES // 3)):
            assert z[first + n] == page_of(first + n)
    _, loads, _ = counted(z)
    assert loads >= PAGES * 3 // 4


def test_holes_and_resident_pages_are_left_out(make, store):
    z = make(pages=[n for n in range(200) if n % 5])
    z[7] = page_of(7, 1)
    for n in range(1, 200):
        assert z.get(n) == (page_of(n, n == 7) if n % 5 else None)
    assert not {7, *range(0, 200, 5)} & {n for read in store.reads for n in read}
    assert counted(z)[1] > 100


@pytest.mark.parametrize(
    "options", [{"read_ahead": False}, {"exclusive_loads": True}, {"wipe_on_free": True}], ids=str
)
def test_it_can_be_off(make, store, options):
    exclusive = options.pop("exclusive_loads", False)
    z = make(**options)
    z.parameters["exclusive_loads"] = exclusive
    for n in range(PAGES):
        assert z[n] == page_of(n)
    assert counted(z) == (0, 0, PAGES)


def test_it_can_be_switched(make, store):
    z = make()
    z.parameters["read_ahead"] = False
    assert [z[n] == page_of(n) for n in range(50)] == [True] * 50
    assert counted(z)[0] == 0
    z.parameters["read_ahead"] = True
    assert [z[n] == page_of(n) for n in range(50, 100)] == [True] * 50
    assert counted(z)[0] > 40


# ---- never an older page -------------------------------------------------------------------------


def begun(z):
    """How many pages from the first on lie in a window that has just been read."""
    for n in range(20):
        assert z[n] == page_of(n)
    return 28  # 1, 4, 8 and 16 were read


def test_a_page_stored_meanwhile_is_the_new_one(make, store):
    z = make()
    end = begun(z)
    for n in range(20, end):
        z[n] = page_of(n, 1)
    assert all(z[n] == page_of(n, 1) for n in range(20, end))
    z.shrink(PAGES)
    assert z.stats().stored_pages == 0
    assert all(z[n] == page_of(n, 1) for n in range(20, end))


def test_a_page_freed_meanwhile_is_gone(make):
    z = make()
    end = begun(z)
    for n in range(20, end):
        z.invalidate(n)
    assert all(z.get(n) is None for n in range(20, end))


@pytest.mark.parametrize("reap", [False, True])
def test_a_shard_made_anew_counts_its_writes_anew(make, store, reap):
    """A slot's number of its page comes again, of another page."""
    z = make(pages=range(28))
    begun(z)
    z.clear()
    if reap:
        z.compact()
        z.compact()
    write_out(z, range(28), version=1)
    assert all(z[n] == page_of(n, 1) for n in range(20, 28))


def test_a_shard_that_is_not_freed_yet_counts_for_itself(make, store, thread):
    """A call in flight keeps a shard that was left empty; the one made in its place is another."""
    z = make(pages=[*range(28), 1 << 20])
    begun(z)
    reading, go = threading.Event(), threading.Event()

    def wait():
        store.before_read = None
        reading.set()
        assert go.wait(60)

    store.before_read = wait
    slow = thread(z.load, 1 << 20)
    assert reading.wait(60)
    for n in range(28):
        z.invalidate(n)
    z.compact()
    write_out(z, range(28), version=1)
    assert all(z[n] == page_of(n, 1) for n in range(20, 28))
    go.set()
    slow.join()


def test_an_area_made_anew_is_another(make, store):
    z = make(pages=range(28))
    begun(z)
    z.swapoff(0)
    z.swapon(0, backing=Counting())
    write_out(z, range(28), version=1)
    assert all(z[n] == page_of(n, 1) for n in range(20, 28))


def test_a_page_stored_while_the_window_is_read(make, store):
    z = make()
    assert z[0] == page_of(0)

    def meanwhile():
        store.before_read = None
        z[2] = page_of(2, 1)  # what is read of it after this is of before

    store.before_read = meanwhile
    assert [z[n] == page_of(n, n == 2) for n in range(1, 5)] == [True] * 4


def test_a_store_that_loads_while_it_reads(make, store):
    """The stream is taken: who comes again reads alone, and nobody waits."""
    z = make()
    assert z[0] == page_of(0)

    def meanwhile():
        store.before_read = None
        assert all(z[n] == page_of(n) for n in range(1, 5))

    store.before_read = meanwhile
    assert [z[n] == page_of(n) for n in range(1, 9)] == [True] * 8


def test_what_is_read_ahead_is_promoted_as_ever(make, store):
    def promoted(read_ahead):
        z = make(promote="second", read_ahead=read_ahead)
        for _ in range(2):
            for n in range(300):
                assert z[n] == page_of(n)
        z._validate()
        return z.stats().promoted_pages

    assert promoted(True) == promoted(False) == 300


# ---- when something fails ------------------------------------------------------------------------


@pytest.mark.parametrize("site", ["TOUCHES", "SCRATCH", "BACKING_READ"])
def test_a_window_that_cannot_be_had_costs_nothing(make, site):
    z = make()
    assert z[0] == page_of(0)
    with fault(site):
        assert z[1] == page_of(1)
    assert [z[n] == page_of(n) for n in range(2, 100)] == [True] * 98
    assert counted(z)[1] > 60
    assert z.stats().backing_read_fail == 0


def test_a_page_that_cannot_be_read_fails_alone(make, store):
    z = make()
    good = page_of(40)
    store.pages[40] = b"short"
    for n in range(PAGES):
        if n == 40:
            with pytest.raises(zswap.BackingError):
                z[n]
        else:
            assert z[n] == page_of(n)
    store.pages[40] = good
    assert z[40] == good


def test_a_damaged_page_is_told_alone(make, store):
    z = make(checksum=True)
    store.pages[40] = page_of(41)
    for n in range(80):
        if n == 40:
            with pytest.raises(zswap.PageCorruptError):
                z[n]
        else:
            assert z[n] == page_of(n)
    assert z.stats().backing_checksum_fail == 1


# ---- threads -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_streams_beside_writers(make, tmp_path, thread, packed):
    """Readers in order find of each page a version that was there meanwhile."""
    z = make(backing=SwapFile(tmp_path / "swap", 4000 * PAGE, packed=packed), pages=range(256))
    lows, highs = [0] * 256, [0] * 256
    done = threading.Event()
    old = {(n, v): page_of(n, v) for n in range(256) for v in range(12)}

    def write():
        rng = random.Random(0)
        for version in range(1, 12):
            for n in rng.sample(range(256), 128):
                highs[n] = version
                z[n] = old[n, version]
                lows[n] = version
            z.shrink(256)
            if version % 4 == 0:
                z.compact()
        done.set()

    def read(first):
        while True:
            last = done.is_set()
            for n in range(first, 256):
                low = lows[n]
                page = z[n]
                assert any(page == old[n, v] for v in range(low, highs[n] + 1)), n
            if last:
                return

    threads = [thread(write), *(thread(read, first) for first in (0, 0, 100))]
    for t in threads:
        t.join()
    z._validate()
    assert z.stats().read_ahead_loads > 0


def test_close_and_swapoff_with_a_window(make):
    z = make()
    begun(z)
    z._validate()
    z.swapoff(0)
    assert z.stats().backed_areas == 0
    z.close()
