"""The index against a dict: order, ranges, places that entries know, memory given back."""

import random
import threading

import pytest

from hooks.faults import FOREVER, fault
from hooks.parts import SHARD_SPAN, Index

TOP = (1 << 47) - 1


def patterns():
    """Names of the ways that offsets are chosen, and what chooses one."""
    return {
        "sequential": lambda rng, n: n % 6000,
        "dense": lambda rng, n: rng.randrange(900),
        "one shard": lambda rng, n: rng.randrange(SHARD_SPAN),
        "strided": lambda rng, n: (n % 500) * 64 + 63,
        "shard edges": lambda rng, n: (
            rng.randrange(8) * SHARD_SPAN + rng.choice([0, 1, 63, 64, SHARD_SPAN - 1])
        ),
        "sparse": lambda rng, n: rng.randrange(300) * (TOP // 300),
        "clustered": lambda rng, n: rng.randrange(5) * (1 << 41) + rng.randrange(200),
    }


@pytest.mark.parametrize("pattern", patterns())
def test_against_a_dict(pattern):
    rng = random.Random(pattern)
    choose = patterns()[pattern]
    index, held = Index(), {}
    for n in range(6000):
        offset = choose(rng, n)
        if rng.random() < (0.75 if n % 2000 < 1200 else 0.2):
            old, pos = index.put(offset, n + 1)
            assert old == held.get(offset, 0)
            assert index.peek(offset) == n + 1
            assert index.offset_of(pos) == offset
            held[offset] = n + 1
        else:
            assert index.erase(offset) == (held.pop(offset, None) is not None)
            assert index.get(offset) is None
            assert index.peek(offset) == 0
        if n % 500 == 499:
            assert index.validate() == (0, len(held))
    for offset, value in held.items():
        found, pos = index.get(offset)
        assert found == value
        assert index.offset_of(pos) == offset
    assert index.validate() == (0, len(held))
    numbers = index.shards()
    assert numbers == sorted(set(numbers))
    assert {offset // SHARD_SPAN for offset in held} <= set(numbers)
    walked = [
        item
        for number in numbers
        for item in index.collect(
            number * SHARD_SPAN, number * SHARD_SPAN + SHARD_SPAN - 1, SHARD_SPAN
        )
    ]
    assert walked == sorted(held.items())
    for offset in list(held):
        assert index.erase(offset)
    assert index.validate() == (0, 0)


def test_many_of_a_run_at_once():
    rng = random.Random(3)
    index, held = Index(), {}
    for step in range(600):
        run = rng.randrange(6) * 64 + rng.choice([0, SHARD_SPAN])
        if rng.random() < 0.5:
            for offset in rng.sample(range(run, run + 64), rng.randrange(1, 64)):
                index.put(offset, step + 1)
                held[offset] = step + 1
        else:
            there = [offset for offset in range(run, run + 64) if offset in held]
            some = there if rng.random() < 0.3 else rng.sample(there, rng.randrange(len(there) + 1))
            if some:
                index.erase_run(run, sum(1 << offset % 64 for offset in some))
            for offset in some:
                del held[offset]
        assert [index.peek(offset) for offset in range(run, run + 64)] == [
            held.get(o, 0) for o in range(run, run + 64)
        ]
        assert index.validate() == (0, len(held))
    assert all(index.get(offset)[0] == value for offset, value in held.items())


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3))])
def test_ranges(seed):
    rng = random.Random(seed)
    index = Index()
    base = rng.choice([0, SHARD_SPAN * 5, TOP + 1 - SHARD_SPAN])
    held = {base + o: o + 1 for o in rng.sample(range(SHARD_SPAN), [1, 40, 2000, SHARD_SPAN][seed])}
    for offset, value in held.items():
        index.put(offset, value)
    order = sorted(held.items())
    edges = [
        0,
        1,
        62,
        63,
        64,
        65,
        127,
        128,
        4095,
        4096,
        8191,
        SHARD_SPAN - 65,
        SHARD_SPAN - 64,
        SHARD_SPAN - 1,
    ]
    for _ in range(150):
        low, high = sorted(
            rng.choice(edges) if rng.random() < 0.5 else rng.randrange(SHARD_SPAN) for _ in range(2)
        )
        wanted = [item for item in order if base + low <= item[0] <= base + high]
        assert index.collect(base + low, base + high, SHARD_SPAN) == wanted
        few = rng.choice([1, 2, 63, 64, 65])
        assert index.collect(base + low, base + high, few) == wanted[:few]


def test_a_run_fills_and_empties_in_any_order():
    rng = random.Random(3)
    index = Index()
    for _ in range(30):
        order = rng.sample(range(64), 64)
        for n, slot in enumerate(order):
            index.put(slot, slot + 1)
            assert [o for o, _ in index.collect(0, 63)] == sorted(order[: n + 1])
        order = rng.sample(range(64), 64)
        for n, slot in enumerate(order):
            index.erase(slot)
            assert [(o, v) for o, v in index.collect(0, 63)] == [
                (o, o + 1) for o in sorted(order[n + 1 :])
            ]
    assert index.validate() == (0, 0)


def test_all_runs_of_a_shard():
    index = Index()
    for run in random.Random(1).sample(range(SHARD_SPAN // 64), SHARD_SPAN // 64):
        index.put(run * 64 + run % 64, run + 1)
    assert index.collect(0, SHARD_SPAN - 1, 300) == [
        (run * 64 + run % 64, run + 1) for run in range(SHARD_SPAN // 64)
    ]
    for run in range(0, SHARD_SPAN // 64, 2):
        index.erase(run * 64 + run % 64)
    assert index.validate() == (0, SHARD_SPAN // 128)


def test_absent_places():
    index = Index()
    assert index.get(5) is None
    assert not index.erase(5)
    assert index.collect(0, 100) == []
    assert index.shards() == []
    index.put(SHARD_SPAN + 5, 1)
    assert index.get(5) is None
    assert index.get(SHARD_SPAN + 4) is None
    assert not index.erase(SHARD_SPAN + 69)
    assert index.shards() == [1]
    assert index.offset_of(0) is None


def test_many_shards_outgrow_the_table():
    index = Index()
    rng = random.Random(4)
    offsets = {rng.randrange(TOP) for _ in range(3000)} | {n * SHARD_SPAN for n in range(1000)}
    for n, offset in enumerate(sorted(offsets), 1):
        index.put(offset, n)
    assert index.validate() == (0, len(offsets))
    assert index.shards() == sorted({o // SHARD_SPAN for o in offsets})
    low, high = 100, TOP // SHARD_SPAN // 2
    assert index.shards(low, high) == [
        n for n in sorted({o // SHARD_SPAN for o in offsets}) if low <= n <= high
    ]
    for n, offset in enumerate(sorted(offsets), 1):
        assert index.get(offset)[0] == n


def test_shard_numbers_that_share_their_low_bits():
    # All of these want one slot of a table that looks at the low bits alone.
    index = Index()
    for k in range(500):
        index.put((k << 21) * SHARD_SPAN % TOP, k + 1)
    assert index.validate()[0] == 0


STRIDES = {f"2**{k}": 1 << k for k in range(33)} | {f"3 * 2**{k}": 3 << k for k in (0, 7, 20, 31)}
STRIDES |= {
    "2**20 - 1": (1 << 20) - 1,
    "2**20 + 1": (1 << 20) + 1,
    "Fibonacci": 433494437,
    "golden": 0x9E3779B9 >> 1,
}


@pytest.mark.slow
@pytest.mark.parametrize("stride", STRIDES.values(), ids=STRIDES)
def test_no_stride_crowds_the_table(stride):
    index = Index()
    offsets = sorted({n * stride % (TOP // SHARD_SPAN) * SHARD_SPAN for n in range(1000)})
    few_looks(index, offsets)
    if stride == 1:
        assert all(index.looks(offset) == 1 for offset in offsets), "neighbours are in nobody's way"


def few_looks(index, offsets):
    """Half of the slots are free at least: looking at one after another by chance finds a free one
    in two, on average."""
    for offset in offsets:
        index.put(offset, 1)
    assert index.validate() == (0, len(offsets))
    looks = [index.looks(offset) for offset in offsets]
    assert sum(looks) < 3 * len(looks)
    assert max(looks) < 25
    absent = [
        index.looks(offset ^ 1 << 46) for offset in offsets if offset ^ 1 << 46 not in set(offsets)
    ]
    assert sum(absent) <= 4 * len(absent)


def test_rows_and_strides_in_one_table():
    rng = random.Random(4)
    row = range(500)
    for others in (
        [k << 22 for k in range(1, 500)],
        [k << 11 | 250 for k in range(1, 500)],
        [(k << 20) + near for k in range(1, 250) for near in (0, 1)],
        [rng.randrange(1 << 32) for _ in range(500)],
    ):
        few_looks(Index(), sorted({number * SHARD_SPAN for number in (*row, *others)}))


def test_dense_pages_cost_under_eight_bytes():
    index, pages = Index(), 300_000
    empty = index.bytes + index.area_bytes
    for offset in range(pages):
        index.put(offset, offset + 1)
    full = index.bytes + index.area_bytes - empty
    assert full / pages <= 8
    for offset in range(pages):
        index.erase(offset)
    left = index.bytes + index.area_bytes - empty
    assert left < full // 2, "each slab keeps one chunk warm"


def test_a_lone_page_is_cheap():
    index = Index()
    empty = index.bytes + index.area_bytes
    for n in range(2000):
        index.put(n << 30, n + 1)
    assert (index.bytes + index.area_bytes - empty) / 2000 <= 256


def test_threads_add_shards_together():
    index = Index()
    start = threading.Barrier(4)

    def work(k):
        rng = random.Random(k)
        order = rng.sample(range(400), 400)
        start.wait()
        for number in order:
            # each shard is found missing by several at once
            index.put(number * SHARD_SPAN + k * 70, k + 1)
            assert index.get(number * SHARD_SPAN + k * 70)[0] == k + 1

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert index.validate() == (0, 1600)
    assert index.shards() == list(range(400))
    for number in range(400):
        assert [v for _, v in index.collect(number * SHARD_SPAN, number * SHARD_SPAN + 300)] == [
            1,
            2,
            3,
            4,
        ]


def test_empty_shards_are_removed():
    index = Index()
    empty = index.bytes + index.area_bytes
    for n in range(3000):
        index.put(n << 30, n + 1)
    for n in range(3000):
        index.erase(n << 30)
    assert index.reap_due
    assert index.prune() == 0
    assert index.shards() == []
    assert index.validate() == (0, 0), "what is removed is not lost"
    assert index.bytes + index.area_bytes > empty + 3000 * 64, "nor free: somebody may be looking"
    assert index.turn()
    assert index.bytes + index.area_bytes > empty + 3000 * 64
    assert not index.turn()
    assert index.bytes + index.area_bytes <= empty + (192 << 10), (
        "a chunk each for shards, runs and arrays stays warm"
    )
    assert index.validate() == (0, 0)
    index.put(5 << 30, 7)
    assert index.get(5 << 30)[0] == 7


def test_shards_with_pages_stay():
    index = Index()
    for n in range(1000):
        index.put(n * SHARD_SPAN, n + 1)
    for n in range(0, 1000, 2):
        index.erase(n * SHARD_SPAN)
    assert index.prune() == 500
    while index.turn():
        pass
    assert index.shards() == list(range(1, 1000, 2))
    assert [index.get(n * SHARD_SPAN)[0] for n in range(1, 1000, 2)] == list(range(2, 1001, 2))
    index.erase(SHARD_SPAN)
    assert index.prune() == 500, "one in five hundred does not pay"
    assert index.validate() == (0, 499)


def test_a_table_that_is_full_of_empty_shards_does_not_grow():
    index = Index()
    size = index.area_bytes
    for n in range(5000):
        index.put(n * SHARD_SPAN, n + 1)
        index.erase(n * SHARD_SPAN)
        if n % 100 == 99:
            index.turn()
            assert index.area_bytes == size
    assert index.validate() == (0, 0)


def test_a_page_is_not_put_into_a_shard_that_is_being_removed():
    index = Index()
    index.put(SHARD_SPAN + 3, 1)
    index.put(9 * SHARD_SPAN, 2)
    index.erase(SHARD_SPAN + 3)
    index.begin_removal(SHARD_SPAN)
    assert index.get(SHARD_SPAN + 3) is None, "whoever finds it finds it empty"
    assert not index.erase(SHARD_SPAN + 3)
    put = threading.Thread(target=index.put, args=(SHARD_SPAN + 3, 4))
    put.start()
    while not index.removal_awaited:
        assert put.is_alive(), "it was put where nobody will find it"
    index.end_removal()
    put.join()
    assert index.get(SHARD_SPAN + 3)[0] == 4
    assert index.validate() == (0, 2)
    assert index.turn()
    assert not index.turn()
    assert index.get(SHARD_SPAN + 3)[0] == 4
    assert index.get(9 * SHARD_SPAN)[0] == 2
    assert index.validate() == (0, 2)


def test_no_memory_for_a_larger_table_keeps_the_shards_that_are_empty():
    index = Index()
    for n in range(64):
        index.put(n * SHARD_SPAN, n + 1)
    for n in range(0, 64, 2):
        index.erase(n * SHARD_SPAN)
    with fault("AREA_TABLE", times=FOREVER) as failures:
        index.put(64 * SHARD_SPAN, 65)  # half of the table is used: it wants a new one
        assert failures()
        for n in range(0, 64, 2):
            index.put(n * SHARD_SPAN, n + 1)
    assert [index.get(n * SHARD_SPAN)[0] for n in range(65)] == list(range(1, 66))
    assert index.validate() == (0, 65)
    assert index.put(65 * SHARD_SPAN, 66)[0] == 0
    assert index.validate() == (0, 66)


def test_no_memory_at_any_step_of_a_put_changes_nothing():
    # Chunks of every kind of item run out one after the other, at each step of a put: for the first
    # page of a shard, the first of a run, and where an array grows.
    index, held, failed = Index(), {}, 0

    def put(offset):
        nonlocal failed
        with fault("SLAB_BLOCK"):
            try:
                index.put(offset, offset + 1)
            except MemoryError:
                failed += 1
                assert index.get(offset) is None
                assert index.validate() == (0, len(held))
                index.put(offset, offset + 1)
        held[offset] = offset + 1

    for n in range(3):  # so that the slabs' chunks do not all end with the same page
        put(n * 64)
    for n in range(1, 4500):
        put(n * SHARD_SPAN)
    for n in range(2000):
        put(SHARD_SPAN // 2 + n * 64)
    for n in range(300):
        put(SHARD_SPAN * 5000 + n)
    assert failed > 8
    assert all(index.get(offset)[0] == value for offset, value in held.items())
    assert index.validate() == (0, len(held))


def test_no_memory_for_a_smaller_array_keeps_the_large_one():
    index = Index()
    for n in range(64):
        index.put(n, n + 1)
    with fault("SLAB_BLOCK", times=FOREVER):
        for n in range(0, 64):
            if n % 16:
                index.erase(n)
    assert [index.get(n)[0] for n in range(0, 64, 16)] == [1, 17, 33, 49]
    assert index.validate() == (0, 4)


def test_threads_put_and_erase_while_shards_are_removed():
    # Without turn(): nobody knows here when the others are done looking.
    index = Index()
    start, stop, wrong = threading.Barrier(3), threading.Event(), []

    def work(k):
        rng = random.Random(k)
        held = {}
        start.wait()
        for n in range(20_000):
            offset = rng.randrange(300) * SHARD_SPAN + k
            if offset in held:
                if index.get(offset)[0] != held.pop(offset) or not index.erase(offset):
                    wrong.append(offset)
            else:
                index.put(offset, n + 1)
                held[offset] = n + 1
        for offset in held:
            if not index.erase(offset):
                wrong.append(offset)

    def remove():
        start.wait()
        while not stop.is_set():
            index.prune()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    remover = threading.Thread(target=remove)
    for t in [*threads, remover]:
        t.start()
    for t in threads:
        t.join()
    stop.set()
    remover.join()
    assert not wrong
    assert index.validate() == (0, 0)
    assert index.prune() == 0
