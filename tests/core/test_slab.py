"""The slab against a set: ids unique, items apart, memory given back."""

import ctypes
import itertools
import random
import threading

import pytest

from hooks.parts import Slab

CHUNK = 64 << 10


@pytest.mark.parametrize("item_size", [4, 24, 64, 100, 4096, CHUNK])
def test_ids_are_unique_and_items_apart(item_size):
    slab = Slab(item_size)
    ids = slab.take(2 * CHUNK // item_size + 3)
    assert len(ids) == len(set(ids)) == slab.inuse
    assert 0 not in ids
    assert max(ids) < slab.limit
    places = sorted(slab.address(i) for i in ids)
    assert all(b - a >= item_size for a, b in itertools.pairwise(places))
    slab.mark(ids)
    assert slab.marked(ids) == len(ids)
    assert slab.validate() == 0


@pytest.mark.parametrize("item_size", [4, 24, 1024])
@pytest.mark.parametrize("seed", range(3))
def test_against_a_set(item_size, seed):
    rng = random.Random(seed)
    slab = Slab(item_size)
    held = set()
    for step in range(300):
        if rng.random() < 0.5 + 0.4 * (step % 100 < 50) - 0.2:
            ids = slab.take(rng.choice([0, 1, 2, 32, 33, 700]))
            assert not held & set(ids), "handed out twice"
            slab.mark(ids)
            held |= set(ids)
        else:
            ids = rng.sample(sorted(held), min(len(held), rng.choice([1, 32, 900])))
            assert slab.marked(ids) == len(ids)
            slab.give(ids)
            held -= set(ids)
        assert slab.inuse == len(held)
        if step % 10 == 0:
            assert slab.validate() == 0
    assert slab.marked(held) == len(held)
    assert slab.validate() == 0


def test_freed_ids_are_used_again_before_new_memory():
    slab = Slab(64)
    ids = slab.take(10_000)
    before = slab.bytes
    slab.give(ids[:5_000])
    again = slab.take(5_000)
    assert slab.bytes <= before
    assert set(again) <= set(range(1, slab.limit))
    assert len(set(again) | set(ids[5_000:])) == 10_000


@pytest.mark.parametrize("order", ["as taken", "backwards", "at random"])
def test_memory_goes_back_when_blocks_empty(order):
    slab = Slab(24)
    empty = slab.bytes
    ids = list(slab.take(200_000))
    full = slab.bytes
    assert full >= 200_000 * 24
    if order == "backwards":
        ids.reverse()
    elif order == "at random":
        random.Random(1).shuffle(ids)
    slab.give(ids)
    assert slab.inuse == 0
    assert slab.validate() == 0
    assert slab.bytes < empty + full // 10, "one block may stay warm, and the table of blocks"
    # A released block serves again, from its first item on.
    again = slab.take(200_000)
    assert len(set(again)) == 200_000
    assert 0 not in again
    assert slab.bytes <= full
    assert slab.validate() == 0


def test_an_item_may_be_looked_at_after_it_was_given_back():
    # What readers without a lock rely on: the memory stays mapped, whatever it holds.
    slab = Slab(64)
    ids = slab.take(50_000)
    slab.give(ids)
    slab.marked(ids)


def test_one_item_back_and_forth_keeps_its_block_warm():
    slab = Slab(64)
    first = slab.take(1)
    warm = slab.bytes
    for _ in range(100):
        slab.give(first)
        first = slab.take(1)
        assert slab.bytes == warm
    assert slab.validate() == 0


def test_one_item_back_and_forth_keeps_its_block_warm_whatever_came_before():
    slab = Slab(64)
    slab.give(slab.take(20_000))
    for _ in range(3):
        item = slab.take(1)[0]
        slab.mark([item])
        slab.give([item])
        # What is not the slab's own is as it was, so the memory has not gone back meanwhile.
        assert ctypes.string_at(slab.address(item) + 8, 8) != bytes(8)


def test_ids_stay_below_the_limit():
    slab = Slab(64, limit=5000)
    ids = slab.take(10_000)
    assert 4000 < len(ids) < 5000
    assert max(ids) < 5000
    assert len(slab.take(1)) == 0
    slab.give(ids)
    assert len(slab.take(10_000)) == len(ids)
    assert slab.validate() == 0


def test_blocks_without_memory_serve_again_before_new_ones():
    slab = Slab(24)
    ids = slab.take(100_000)
    limit = slab.limit
    for _ in range(5):
        slab.give(ids)
        ids = slab.take(100_000)
        assert slab.limit == limit
        assert slab.validate() == 0


def test_threads_get_different_items():
    slab = Slab(24)
    wrong = []

    def work(seed):
        rng = random.Random(seed)
        held = []
        for _ in range(150):
            ids = slab.take(rng.randrange(1, 300))
            slab.mark(ids, seed)
            held.extend(ids)
            rng.shuffle(held)
            back, held[:] = held[: len(held) // 2], held[len(held) // 2 :]
            if slab.marked(back, seed) != len(back):
                wrong.append(seed)
            slab.give(back)
        slab.give(held)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    assert slab.inuse == 0
    assert slab.validate() == 0


def test_the_table_of_blocks_grows():
    # A block an item, so that many tables follow each other; all that was handed out stays where it
    # was.
    slab = Slab(CHUNK)
    places, before = {}, slab.bytes
    for count in (1, 100, 2, 101, 300, 900):
        places.update((i, slab.address(i)) for i in slab.take(count))
        assert [slab.address(i) for i in places] == list(places.values())
        assert slab.validate() == 0
    assert before == 0, "a slab costs nothing before its first item"
    assert len(places) == 1404
    slab.give(list(places))
    assert slab.bytes < 256 << 10


def test_readers_go_on_while_the_table_grows():
    slab = Slab(CHUNK)
    held = slab.take(100)
    slab.mark(held)
    stop, wrong = threading.Event(), []

    def read():
        while not stop.is_set():
            if slab.marked(held) != len(held):
                wrong.append("moved")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for t in readers:
        t.start()
    for _ in range(40):
        slab.take(50)
    stop.set()
    for t in readers:
        t.join()
    assert not wrong
    assert slab.validate() == 0
