"""The LRU by itself: who is the oldest, whatever came, went and was renewed in between."""

import random

import pytest

from hooks.parts import Lru

TICKS = 1 << 15  # stamps come round after so many


@pytest.fixture
def lru():
    return Lru()


def filled(lru, count, now=0):
    """The ids of so many pages that come one after the other."""
    ids = [lru.new() for _ in range(count)]
    random.Random(count).shuffle(ids)  # they do not come as they lie
    for i in ids:
        lru.add(i, now)
    return ids


def popped(lru, count):
    return [lru.pop() for _ in range(count)]


def test_against_a_list(lru):
    rng = random.Random(5)
    ids, listed = [lru.new() for _ in range(60)], []
    for _ in range(5000):
        i = rng.choice(ids)
        if rng.random() < 0.2:
            assert lru.pop() == (listed.pop(0) if listed else None)
        elif i not in listed:
            lru.add(i)
            listed.append(i)
        elif rng.random() < 0.5:
            assert lru.renew(i)
            listed.remove(i)
            listed.append(i)
        else:
            lru.remove(i)
            listed.remove(i)
            assert not lru.renew(i)
    assert popped(lru, len(listed) + 1) == [*listed, None]


def test_thousands_are_in_exact_order_over_several_searches(lru):
    ids = filled(lru, 4000)
    assert popped(lru, 2500) == ids[:2500]
    lru.add(ids[0])  # it comes last now
    assert popped(lru, 1501) == [*ids[2500:], ids[0]]


def test_of_many_the_oldest_share_goes_first(lru):
    count = 200_000
    share = count // 64
    ids = filled(lru, count)
    came = {i: n for n, i in enumerate(ids)}
    for at in range(0, 8 * share, share):
        numbers = [came[i] for i in popped(lru, share)]
        # what a search found goes in the order in which it lies, and then the next begins
        assert at - share <= min(numbers)
        assert max(numbers) < at + 2 * share
    assert len(set(popped(lru, count))) == count - 8 * share + 1


def test_more_in_one_tick_than_a_search_finds(lru):
    ids = [lru.new() for _ in range(3000)]
    for i in ids:
        lru.add(i, late=i in (ids[0], ids[1]))  # one, and then all others at once
    assert popped(lru, 1) == ids[:1]
    assert sorted(popped(lru, 2999)) == sorted(ids[1:])
    assert lru.pop() is None


@pytest.mark.parametrize("ticks", [TICKS // 2, TICKS - 1, TICKS, 5 * TICKS + 3])
def test_what_is_very_old_stays_the_oldest(lru, ticks):
    old = filled(lru, 300)
    lru.wait(ticks)
    young = filled(lru, 300)
    assert sorted(popped(lru, 300)) == sorted(old)
    assert popped(lru, 300) == young


def test_old_ones_keep_their_order_for_a_time(lru):
    ids = filled(lru, 300)
    lru.wait(10_000)
    assert popped(lru, 300) == ids


def test_a_search_that_takes_too_long_begins_anew(lru):
    ids = filled(lru, 100_000)
    first = popped(lru, 10)  # of a share that is found in two goes
    lru.wait(TICKS - 1000)
    young = filled(lru, 10)
    assert sorted(first + popped(lru, len(ids) - 10)) == sorted(ids)
    assert sorted(popped(lru, 10)) == sorted(young)


def test_idle_ones_only(lru):
    idle = filled(lru, 2000, now=100)
    filled(lru, 2000, now=200)
    assert lru.pop(now=210, idle=111) is None
    assert [lru.pop(now=210, idle=110) for _ in range(2000)] == idle
    assert lru.pop(now=210, idle=110) is None
    assert lru.pop(now=210, idle=10) is not None


def test_what_is_asked_for_changes_between_two(lru):
    ids = filled(lru, 100, now=100)
    for i in ids[::2]:
        lru.renew(i)
        lru.remove(i)
        lru.add(i, now=150)
    assert lru.pop(now=160, idle=50) == ids[1]
    assert lru.pop() == ids[3]
    assert lru.pop(now=160, idle=50) == ids[5]


def test_looks_that_are_of_no_use_find_more_each_time(lru):
    count = 100_000
    filled(lru, count)
    seen = set()
    for _ in range(count * 9 // 10):
        i = lru.pop(vain=True)
        seen.add(i)
        lru.add(i)  # it had been referenced
    assert len(seen) == count * 9 // 10
    assert lru.vain < 10
