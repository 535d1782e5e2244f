"""Numpy's arrays in a `zswap.Memory`: what one leaves when it is gone is the next one's."""

import threading

import numpy as np
import pytest

import zswap
from hooks.faults import FOREVER, disarm, fault

BUDGET = 16 << 20
PAGE = 4096


@pytest.fixture(params=["signal", "thread"])
def memory(request, tmp_path):
    """Make memories that have arrays from 4 KiB on, in each mode there is."""

    def make(backing=tmp_path / "spill", **kwargs):
        try:
            return zswap.Memory(BUDGET, backing, mode=request.param, min_size=PAGE, **kwargs)
        except zswap.Error as error:
            pytest.skip(str(error))

    yield make
    disarm()


def place(array):
    """Where it lies."""
    return array.__array_interface__["data"][0]


def leave(mem, size, value):
    """An array of bytes that is gone; where it lay."""
    with mem:
        a = np.full(size, value, np.uint8)
    return place(a)


def test_an_array_takes_what_one_of_its_length_left(memory):
    mem = memory()
    at = leave(mem, 50_000, 7)
    assert mem.stats().kept_bytes == 13 * PAGE
    assert mem.stats().allocated_bytes == 0
    before = mem.stats().faults
    with mem:
        a = np.empty(13 * PAGE - 5, np.uint8)
        assert place(a) == at
        assert a[0] == 7
        assert mem.stats().kept_bytes == 0
        assert mem.stats().allocated_bytes == 13 * PAGE
        b = np.empty(13 * PAGE, np.uint8)
        assert place(b) != at
    assert mem.stats().faults == before


@pytest.mark.parametrize("pages", [1, 5, 40, 400])
def test_zeros_are_zeros_whatever_was_there(memory, pages):
    mem = memory()
    at = leave(mem, pages * PAGE, 9)
    with mem:
        a = np.zeros(pages * PAGE, np.uint8)
        assert place(a) == at
        assert not a.any()
        a[:] = 3
        mem.advise(a[PAGE : 30 * PAGE], "cold")  # of which some has left
        mem.advise(a[35 * PAGE :], "dontneed")
        del a
        a = np.zeros(pages * PAGE, np.uint8)
        assert place(a) == at
        assert not a.any()
    mem._engine._validate()


def test_an_array_that_is_about_to_be_filled_is_brought_in(memory):
    mem = memory()
    with mem:
        a = np.empty(50 * PAGE, np.uint8)
    before = mem.stats().faults
    a[:] = 1
    assert mem.stats().faults == before


def test_lengths_are_rounded_up_to_a_sixteenth(memory):
    mem = memory(limit="1GiB")
    for pages in (1, 16, 17, 31, 32, 33, 63, 64, 65, 100, 1000, 1025, 30_000, 32_768):
        with mem:
            array = np.empty(pages * PAGE, np.uint8)
        assert array.nbytes // PAGE <= mem.stats().allocated_bytes // PAGE <= pages + pages // 16
        del array
    with mem:
        array = np.empty(40_000 * PAGE, np.uint8)
    assert mem.stats().allocated_bytes == array.nbytes


def test_an_eighth_of_the_room_is_kept_at_most_and_of_it_what_was_in_use_last(memory):
    mem = memory()
    held = []
    with mem:
        for pages in range(2, 36):
            held += [np.ones(pages * PAGE, np.uint8) for _ in range(3)]
        while held:
            del held[0]
        kept = mem.stats().kept_bytes
        assert 0 < kept <= BUDGET // 8  # of what the room was then
        assert np.empty(35 * PAGE, np.uint8)[-1] == 1
        assert mem.stats().kept_bytes == kept
        assert mem.stats().resident_bytes >= kept * 15 // 16  # but for what lengths were rounded up
        large = np.ones(mem.stats().room_bytes // 4, np.uint8)
        assert mem.stats().kept_bytes <= kept
        del large
    assert mem.stats().kept_bytes <= BUDGET // 8
    assert mem.stats().allocated_bytes == 0


def test_it_goes_first_when_pages_have_to_leave(memory):
    mem = memory()
    leave(mem, 100 * PAGE, 1)
    assert mem.stats().kept_bytes
    a = mem.empty(3 * BUDGET, np.uint8)
    a[::PAGE] = 1
    assert mem.stats().kept_bytes == 0
    assert (a[::PAGE] == 1).all()


def test_it_gives_way_where_the_limit_is_met(memory):
    mem = memory(backing=None)
    limit = mem.stats().limit
    leave(mem, 100 * PAGE, 1)
    held = mem.buffer(limit)
    assert mem.stats().kept_bytes == 0
    del held
    leave(mem, 100 * PAGE, 1)
    with mem, pytest.raises(MemoryError):
        np.empty(limit + PAGE, np.uint8)
    with mem:
        held = np.empty(limit, np.uint8)  # not a byte more, where lengths would be rounded
    del held
    leave(mem, 200 * PAGE, 1)
    held = mem.buffer(9 << 20)
    mem.budget = "12MiB"
    assert len(held) == 9 << 20
    assert mem.stats().allocated_bytes + mem.stats().kept_bytes <= mem.stats().limit


def test_pinned_pages_are_not_kept(memory):
    mem = memory()
    with mem:
        a = np.ones(20 * PAGE, np.uint8)
    region, at = mem._region, place(a)
    region.pin(at, a.nbytes)
    del a
    assert (mem.stats().kept_bytes, mem.stats().pinned_bytes) == (0, 0)
    assert mem.stats().resident_bytes == 0


def test_without_memory_to_note_what_is_free_it_stays_kept(memory):
    mem = memory(backing=None)
    limit = mem.stats().limit
    with mem:  # neighbours of one length are one node, which freeing splits
        held = [np.ones(10 * PAGE, np.uint8) for _ in range(3)]
        del held[1]
        kept = mem.stats().kept_bytes
        with fault("EXTENT", 1, FOREVER), pytest.raises(MemoryError):
            mem.buffer(limit - 30 * PAGE + kept)
        assert mem.stats().kept_bytes == kept == 10 * PAGE
        assert mem.buffer(limit - 20 * PAGE)
        assert mem.stats().kept_bytes == 0
        assert (held[0] == 1).all()
        assert (held[1] == 1).all()


@pytest.mark.slow
def test_threads_whose_arrays_come_and_go(memory):
    """Four times what the budget holds, of all lengths, each found as it was left."""
    mem = memory(limit="128MiB")
    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        held = []
        with mem:
            for n in range(300):
                pages = int(rng.integers(1, 200 if n % 3 else 12))
                a = (np.zeros, np.empty)[n % 2](pages * PAGE // 8, np.uint64)
                if n % 2 == 0 and a.any():
                    wrong.append(n)
                a[:] = np.arange(a.size, dtype=np.uint64) * 31 + seed * 1000 + n
                held.append((n, a))
                if len(held) > 80:
                    m, a = held.pop(int(rng.integers(len(held))))
                    if (a != np.arange(a.size, dtype=np.uint64) * 31 + seed * 1000 + m).any():
                        wrong.append(m)
                    del a
            for m, a in held:
                if (a != np.arange(a.size, dtype=np.uint64) * 31 + seed * 1000 + m).any():
                    wrong.append(m)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert mem.stats().evicted_pages
    assert mem.stats().allocated_bytes == 0
    mem._engine._validate()
