"""Extents: which offsets of an area are handed out, to whom, and what becomes of them."""

import os
import random
import threading
from bisect import bisect, insort
from itertools import pairwise

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import zswap
from hooks.faults import FOREVER, fault

LAST = 1 << 47
AREAS = {0: LAST, 3: 100}


def page(n):
    return n.to_bytes(8, "little") + bytes(4088)


class Oracle:
    """An area by the book: the first free place that fits."""

    def __init__(self, limit):
        self.limit = limit
        self.extents = []  # (start, pages), sorted

    def allocate(self, pages):
        at = 0
        for start, length in self.extents:
            if start - at >= pages:
                break
            at = start + length
        if at + pages > self.limit:
            return None
        insort(self.extents, (at, pages))
        return at

    def free(self, start):
        for extent in self.extents:
            if extent[0] == start:
                self.extents.remove(extent)
                return True
        return False


class Model(RuleBasedStateMachine):
    """Two areas against the book, with pages in the extents."""

    def __init__(self):
        super().__init__()
        self.z = zswap.ZSwap(max_pool_bytes="16MiB")
        self.z.swapon(3, AREAS[3])
        self.oracles = {area: Oracle(limit) for area, limit in AREAS.items()}
        self.pages = {}

    def teardown(self):
        self.z.close()

    areas = st.sampled_from(list(AREAS))

    @rule(area=areas, pages=st.one_of(st.integers(1, 4), st.integers(1, 120)))
    def allocate(self, area, pages):
        expected = self.oracles[area].allocate(pages)
        if expected is None:
            with pytest.raises(zswap.Error, match="free some"):
                self.z.allocate(pages, area)
            return
        assert self.z.allocate(pages, area) == expected
        for offset in {expected, expected + pages - 1}:
            assert self.z.compressed_sizes([offset], swap_type=area)[0] == -1
            self.z.store(offset, page(offset + 1), swap_type=area)
            self.pages[area, offset] = page(offset + 1)

    @rule(area=areas, data=st.data())
    def free(self, area, data):
        extents = self.oracles[area].extents
        offset = data.draw(
            st.one_of(st.integers(0, 120), st.sampled_from([e[0] for e in extents] or [0]))
        )
        length = dict(extents).get(offset)
        if not self.oracles[area].free(offset):
            with pytest.raises(ValueError, match="no extent begins"):
                self.z.free(offset, area)
            return
        gone = [k for k in self.pages if k[0] == area and offset <= k[1] < offset + length]
        assert self.z.free(offset, area) == len(gone)
        for key in gone:
            del self.pages[key]

    @rule(area=areas, pages=st.integers(1, 60))
    def refused_for_want_of_memory(self, area, pages):
        with fault("EXTENT", times=FOREVER) as failed:
            try:
                offset = self.z.allocate(pages, area)
            except MemoryError:
                assert failed()
                return
            except zswap.Error:
                assert self.oracles[area].allocate(pages) is None
                return
        assert offset == self.oracles[area].allocate(pages)

    @precondition(lambda self: any(o.extents for o in self.oracles.values()))
    @rule(data=st.data())
    def not_freed_for_want_of_memory(self, data):
        area = data.draw(st.sampled_from([a for a, o in self.oracles.items() if o.extents]))
        offset, length = data.draw(st.sampled_from(self.oracles[area].extents))
        with fault("EXTENT", times=FOREVER) as failed:
            try:
                self.z.free(offset, area)
            except MemoryError:
                assert failed()
                return
        assert self.oracles[area].free(offset)
        for key in [k for k in self.pages if k[0] == area and offset <= k[1] < offset + length]:
            del self.pages[key]

    @rule()
    def area_anew(self):
        self.z.swapoff(3)
        with pytest.raises(ValueError, match="not online"):
            self.z.allocate(1, 3)
        with pytest.raises(ValueError, match="not online"):
            self.z.free(0, 3)
        self.z.swapon(3, AREAS[3])
        self.oracles[3] = Oracle(AREAS[3])
        self.pages = {key: value for key, value in self.pages.items() if key[0] != 3}

    @invariant()
    def agrees(self):
        self.z._validate()
        for (area, offset), content in self.pages.items():
            assert self.z.load(offset, swap_type=area) == content


TestModel = Model.TestCase


@pytest.fixture
def z():
    with zswap.ZSwap(max_pool_bytes="16MiB") as z:
        yield z


@pytest.mark.parametrize("pages", [0, -1, LAST + 1, 1 << 70])
def test_a_length_out_of_range_is_refused(z, pages):
    with pytest.raises(ValueError, match="1 to 2\\*\\*47"):
        z.allocate(pages)


@pytest.mark.parametrize("pages", [1.0, "1", None])
def test_a_length_that_is_no_int_is_refused(z, pages):
    with pytest.raises(TypeError, match="pages must be an int"):
        z.allocate(pages)


def test_all_of_an_area_can_be_handed_out_once(z):
    assert z.allocate(LAST) == 0
    with pytest.raises(zswap.Error, match="no 1 offsets in a row"):
        z.allocate(1)
    z.free(0)
    assert z.allocate(1) == 0


def test_free_takes_the_beginning_of_an_extent_only(z):
    first, second = z.allocate(4), z.allocate(4)
    for offset in (first + 1, second + 1, second + 4, LAST - 1):
        with pytest.raises(ValueError, match="no extent begins"):
            z.free(offset)
    z.free(first)
    with pytest.raises(ValueError, match="once"):
        z.free(first)
    z.free(second)


def test_pages_of_a_freed_extent_are_gone_and_others_stay(z):
    a, b, c = (z.allocate(3) for _ in "abc")
    for offset in range(9):
        z[offset] = page(offset + 1)
    assert z.free(b) == 3
    assert list(z) == [*range(a, a + 3), *range(c, c + 3)]
    assert z.allocate(3) == b
    assert z.free(b) == 0


def test_pages_in_the_backing_store_are_freed_too(memory_store):
    with zswap.ZSwap(max_pool_bytes="16MiB", backing=memory_store()) as z:
        at = z.allocate(8)
        z.store_many(range(at, at + 8), random.Random(0).randbytes(8 * 4096))
        assert z.shrink(4) == 4
        assert z.free(at) == 8
        assert len(z) == 0
        assert z.stats().backed_pages == 0


def test_an_area_may_grow(z):
    """What is beyond the end is free, and not handed out before it is there."""
    z.swapon(1, 10)
    assert z.allocate(6, 1) == 0
    with pytest.raises(zswap.Error, match="no 6 offsets"):
        z.allocate(6, 1)
    z.swapoff(1)
    z.swapon(1, 12)
    assert [z.allocate(6, 1), z.allocate(6, 1)] == [0, 6]


def test_a_million_single_pages_cost_next_to_nothing(z):
    z.allocate(1)
    before = z.stats().metadata_bytes
    assert [z.allocate(1) for _ in range(100_000)][-1] == 100_000
    assert z.stats().metadata_bytes - before < 4096


@pytest.mark.slow
def test_a_day_of_random_sizes_does_not_break_the_area_up(z):
    """Sizes from 1 to 1000 pages, by a power law, come and go at a steady fill.

    A third more than what is in use is enough from the first hour on, and stays so.
    """
    rng = random.Random(15)
    held, used, ends = [], 0, [0] * 24
    for step in range(100_000):
        hour = step * 24 // 100_000
        if used > 200_000:
            offset, pages = held.pop(rng.randrange(len(held)))
            z.free(offset)
            used -= pages
        else:
            pages = min(int(rng.paretovariate(0.6)), 1000)
            offset = z.allocate(pages)
            held.append((offset, pages))
            used += pages
            ends[hour] = max(ends[hour], offset + pages)
    z._validate()
    held.sort()
    assert all(a + n <= b for (a, n), (b, _) in pairwise(held))
    assert max(ends) < 200_000 * 4 / 3
    assert max(ends[12:]) <= max(ends[:12])
    for offset, _ in held:
        z.free(offset)
    z._validate()
    assert z.allocate(LAST) == 0


@pytest.mark.slow
def test_threads_are_never_given_the_same_offsets(z):
    failures = []
    barrier = threading.Barrier(4)

    def work(number):
        rng = random.Random(number)
        held = []
        barrier.wait()
        try:
            for _ in range(1500):
                if held and rng.random() < 0.5:
                    offset, pages = held.pop(rng.randrange(len(held)))
                    assert z.load(offset) == page(number + (offset << 8))
                    assert z.free(offset) == (2 if pages > 1 else 1)
                else:
                    pages = rng.choice((1, 1, 2, 3, 17))
                    offset = z.allocate(pages)
                    assert offset not in z
                    assert offset + pages - 1 not in z
                    for at in {offset, offset + pages - 1}:
                        z[at] = page(number + (at << 8))
                    held.append((offset, pages))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    z._validate()


@pytest.mark.parametrize("end", ["close", "swapoff"])
def test_against_close_and_swapoff(end):
    """Whoever allocates or frees meanwhile gets a ValueError, and nothing is left behind."""
    for _ in range(20):
        z = zswap.ZSwap(max_pool_bytes="16MiB")
        z.swapon(5)
        begun = threading.Barrier(3)
        failures = []

        def work(z=z, begun=begun, failures=failures):
            held = []
            begun.wait()
            try:
                while True:
                    held.append(z.allocate(2, 5))
                    z.store(held[-1], page(1), swap_type=5)
                    if len(held) > 3:
                        z.free(held.pop(0), 5)
            except ValueError:
                pass
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        begun.wait()
        if end == "close":
            z.close()
        else:
            z.swapoff(5)
        for thread in threads:
            thread.join()
        assert not failures
        if end == "swapoff":
            z.swapon(5)
            assert z.allocate(1, 5) == 0
            z._validate()
            z.close()


def test_a_forked_child_has_none(z):
    at = z.allocate(3)
    child = os.fork()
    if child == 0:
        for call in (z.allocate, z.free):
            try:
                call(1)
            except ValueError:
                continue
            os._exit(1)
        z.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    z.free(at)
    z._validate()


@pytest.mark.parametrize("site", ["EXTENT", "SLAB_BLOCK", "SLAB_TABLE"])
def test_without_memory_nothing_changes(site):
    with zswap.ZSwap(max_pool_bytes="16MiB") as z:
        with fault(site, times=FOREVER), pytest.raises(MemoryError):
            z.allocate(4)
        z._validate()
        assert [z.allocate(4) for _ in range(3)] == [0, 4, 8]
        z[5] = page(5)
        with fault("EXTENT", times=FOREVER), pytest.raises(MemoryError, match="as it was"):
            z.free(4)
        assert z[5] == page(5)
        z._validate()
        assert z.free(4) == 1
        z._validate()


def test_the_first_place_that_fits_is_taken():
    """As bisect over a sorted list of free places says, for many sizes."""
    rng = random.Random(2)
    oracle = Oracle(LAST)
    with zswap.ZSwap(max_pool_bytes="16MiB") as z:
        for _ in range(2000):
            if oracle.extents and rng.random() < 0.45:
                start = oracle.extents[bisect(oracle.extents, (rng.randrange(4000),)) - 1][0]
                assert oracle.free(start)
                z.free(start)
            else:
                pages = rng.choice((1, 2, 3, 8, 50))
                assert z.allocate(pages) == oracle.allocate(pages)
        z._validate()
