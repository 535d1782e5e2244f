"""The page-span arena: spans never overlap, memory comes and goes as promised, and the checks
notice when it does not."""

import itertools
import random

import pytest

from hooks.zpool import Arena

PAGE = 4096
FIRST_PAGES = 256  # of the first two regions; the third has as many as both, and so on
CHUNK_PAGES = 2048  # at most
RUN_MAX = 32
IDLE_PAGES = (1 << 20) // PAGE


def resident(start, pages):
    """Pages of a range that are in memory, asked of the system."""
    with open("/proc/self/pagemap", "rb") as f:
        f.seek(start // PAGE * 8)
        words = f.read(8 * pages)
    return sum(words[i + 7] >> 7 for i in range(0, len(words), 8))


def test_runs_are_whole_aligned_and_apart():
    arena = Arena()
    rng = random.Random(1)
    spans = []
    for _ in range(2000):
        pages = rng.randint(1, RUN_MAX)
        start, committed = arena.alloc(pages)
        assert start % PAGE == 0
        assert committed == 0
        spans.append((start, start + pages * PAGE))
    spans.sort()
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    assert arena.validate() == 0


def test_address_space_costs_nothing_until_committed():
    arena = Arena()
    start, _ = arena.alloc(RUN_MAX)
    assert arena.total_pages == 0
    assert resident(start, RUN_MAX) == 0
    arena.commit(start, 5)
    assert arena.total_pages == 5
    assert resident(start, RUN_MAX) == 5
    assert arena.validate() == 0


def test_freed_run_stays_warm_and_comes_back_with_its_pages():
    arena = Arena()
    arena.alloc(1)
    start, _ = arena.alloc(8)
    arena.commit(start, 3)
    assert arena.free(start) is False
    assert (arena.total_pages, arena.idle_pages) == (3, 3)
    assert resident(start, 8) == 3
    assert arena.alloc(7)[1] == 0  # another length takes fresh pages
    assert arena.alloc(8) == (start, 3)
    assert (arena.total_pages, arena.idle_pages) == (3, 0)
    assert arena.validate() == 0


def test_release_gives_memory_back():
    arena = Arena()
    arena.alloc(1)
    starts = [arena.alloc(4)[0] for _ in range(10)]
    for start in starts:
        arena.commit(start, 4)
        arena.free(start)
    assert arena.release() == 40
    assert (arena.total_pages, arena.idle_pages) == (0, 0)
    assert sum(resident(start, 4) for start in starts) == 0
    assert arena.release() == 0
    assert arena.validate() == 0


def test_release_is_due_beyond_a_mebibyte_and_when_no_run_is_left():
    arena = Arena()
    starts = [arena.alloc(16)[0] for _ in range(IDLE_PAGES // 16 + 2)]
    for start in starts:
        arena.commit(start, 16)
    for start in starts[1:-1]:
        assert arena.free(start) is False
    assert arena.idle_pages == IDLE_PAGES
    assert arena.free(starts[-1]) is True
    assert arena.release() == IDLE_PAGES + 16
    assert arena.free(starts[0]) is True  # the last one in use
    assert arena.release() == 16


def test_more_idle_runs_than_there_is_room_to_remember():
    arena = Arena()
    starts = [arena.alloc(1)[0] for _ in range(700)]
    for start in starts:
        arena.commit(start, 1)
    for start in starts[:-1]:
        arena.free(start)  # and the caller does not do the release it is told of
    assert arena.validate() == 0
    assert arena.total_pages == arena.idle_pages + 1 == 513
    assert sum(resident(start, 1) for start in starts) == 513
    assert arena.release() == 512
    assert arena.total_pages == 1
    assert arena.validate() == 0


def test_uncommit_gives_the_tail_back():
    arena = Arena()
    start, _ = arena.alloc(12)
    arena.commit(start, 12)
    arena.uncommit(start, 4)
    assert arena.total_pages == 4
    assert resident(start, 12) == 4
    assert resident(start, 4) == 4
    assert arena.validate() == 0


def test_free_neighbours_are_joined():
    arena = Arena()
    ones = [arena.alloc(1)[0] for _ in range(FIRST_PAGES)]
    assert arena.regions == 1
    for start in ones[100 : 100 + RUN_MAX]:
        arena.free(start)
    assert arena.alloc(RUN_MAX)[0] == min(ones[100 : 100 + RUN_MAX])
    assert arena.regions == 1
    assert arena.alloc(1)[0] not in range(min(ones), max(ones) + 1)
    assert arena.regions == 2
    assert arena.validate() == 0


def test_empty_regions_are_unmapped_but_one():
    arena = Arena()
    starts = [arena.alloc(RUN_MAX)[0] for _ in range(3 * CHUNK_PAGES // RUN_MAX)]
    assert arena.regions == 6
    assert arena.mapped_pages == 3 * CHUNK_PAGES
    for start in starts:
        arena.free(start)
    assert arena.regions == 1
    assert arena.mapped_pages == FIRST_PAGES
    assert arena.validate() == 0
    arena.alloc(RUN_MAX)
    assert arena.regions == 1
    assert arena.validate() == 0


@pytest.mark.parametrize("page_shift", [12, 14, 16])
def test_address_space_grows_with_what_is_held(page_shift):
    arena = Arena(page_shift=page_shift)
    most, first = (8 << 20) >> page_shift, max((1 << 20) >> page_shift, 64)
    for held in range(RUN_MAX, 3 * most, RUN_MAX):
        arena.alloc(RUN_MAX)
        assert held <= arena.mapped_pages <= max(first, min(2 * held, held + most))
    assert arena.validate() == 0


def test_larger_pages():
    arena = Arena(page_shift=16)
    start, _ = arena.alloc(RUN_MAX)
    arena.commit(start, 2)
    assert resident(start, RUN_MAX * 16) == 2  # of the system's, one touched in each of ours
    arena.free(start)
    arena.release()
    assert resident(start, RUN_MAX * 16) == 0
    assert arena.validate() == 0


def test_checks_notice_a_leak_and_an_overlap():
    arena = Arena()
    first, _ = arena.alloc(3)
    arena.alloc(2)
    assert arena.validate() == 0
    assert arena.validate(forget=first) == -206
    assert arena.validate(twice=first) == -204
    assert arena.validate() == 0  # a failed check leaves nothing locked


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_random_life(seed):
    arena = Arena()
    rng = random.Random(seed)
    spans = {}  # start -> [pages, committed]
    idle_seen = 0
    for step in range(6000):
        grow = step // 1500 % 2 == 0
        if not spans or rng.random() < (0.6 if grow else 0.4):
            pages = rng.choice((1, 2, 3, 5, 8, 11, 17, 31, 32))
            start, committed = arena.alloc(pages)
            assert start not in spans
            assert 0 <= committed <= pages
            spans[start] = [pages, committed]
        else:
            start = rng.choice(list(spans))
            pages, committed = spans[start]
            what = rng.random()
            if what < 0.3:
                spans[start][1] = rng.randint(committed, pages)
                arena.commit(start, spans[start][1])
            elif what < 0.4:
                spans[start][1] = rng.randint(0, committed)
                arena.uncommit(start, spans[start][1])
            else:
                del spans[start]
                if arena.free(start):
                    idle = arena.idle_pages
                    assert arena.release() == idle
        idle_seen = max(idle_seen, arena.idle_pages)
        assert arena.idle_pages <= IDLE_PAGES
        assert arena.total_pages == arena.idle_pages + sum(
            committed for _, committed in spans.values()
        )
        if step % 200 == 0:
            assert arena.validate() == 0
    for start in list(spans):
        arena.free(start)
    arena.release()
    assert idle_seen > 0
    assert (arena.total_pages, arena.idle_pages, arena.regions) == (0, 0, 1)
    assert arena.validate() == 0
