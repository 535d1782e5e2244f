"""zsmalloc: geometry against the kernel's and a second computation, contents against a dict, memory
against the system."""

import errno
import itertools
import os
import random
import textwrap
import threading
from array import array
from concurrent.futures import ThreadPoolExecutor

import pytest
from zpool_tools import PAGE, name, uints

from hooks.faults import FOREVER, fault
from hooks.zpool import Zpool

KERNEL = {"kernel": True}
GEOMETRIES = [
    {},
    {"chain": 1},
    {"chain": 8},
    {"page_size": 16384},
    {"page_size": 65536},
    KERNEL,
    {"kernel": True, "chain": 4},
    {"kernel": True, "page_size": 65536},
]


geometries = pytest.mark.parametrize("geometry", GEOMETRIES, ids=name)


# ---- geometry ------------------------------------------------------------------------------------


def kernel_classes(chain, page):
    """The kernel's rule (6.3 and later), written down a second time."""
    classes = []
    sizes = sorted({min(page, 32 + i * (page >> 8)) for i in range(260)}, reverse=True)
    for size in sizes:
        pages = (
            1
            if size.bit_count() == 1
            else min(range(1, chain + 1), key=lambda p: (p * page % size, p))
        )
        if not classes or classes[-1][1:] != (pages, pages * page // size):
            classes.append((size, pages, pages * page // size))
    return classes[::-1]


def our_classes(chain, page):
    """Ours: of all chains that waste at most 1/256 of their pages more than the best, the
    shortest."""
    classes = []
    for units in range(256, 0, -1):
        wasted = {p: (256 * p % units) / p for p in range(1, min(chain, units) + 1)}
        pages = next(p for p in wasted if wasted[p] <= min(wasted.values()) + 1 + 1e-9)
        slots = 256 * pages // units
        if not classes or classes[-1][1:] != (pages, slots):
            classes.append((units * page // 256, pages, slots))
    return classes[::-1]


@pytest.mark.parametrize(("chain", "count"), [(4, 69), (8, 119), (16, 192)])
def test_kernel_class_count(chain, count):
    assert len(Zpool(chain=chain, **KERNEL).classes()) == count


@pytest.mark.parametrize("page_size", [4096, 16384, 65536])
@pytest.mark.parametrize("chain", [1, 4, 5, 8, 16])
def test_kernel_classes(chain, page_size):
    assert Zpool(chain=chain, page_size=page_size, **KERNEL).classes() == kernel_classes(
        chain, page_size
    )


def test_kernel_tail_tables():
    def tail(chain):
        return " ".join(
            f"{s}/{p}/{n}" for s, p, n in Zpool(chain=chain, **KERNEL).classes() if s >= 2048
        )

    assert tail(4) == "2048/1/2 2336/4/7 2448/3/5 2720/2/3 3072/3/4 3264/4/5 4096/1/1"
    assert tail(8) == (
        "2048/1/2 2176/8/15 2192/7/13 2224/6/11 2272/5/9 2336/4/7 2384/7/12 2448/3/5 2512/8/13 "
        "2560/5/8 2592/7/11 2720/2/3"
        " 2864/7/10 2912/5/7 2976/8/11 3072/3/4 3184/7/9 3264/4/5 3408/5/6 3504/6/7 3584/7/8 "
        "3632/8/9 4096/1/1"
    )


@pytest.mark.parametrize(
    ("size", "per_object"),
    [
        (500, 512.0),
        (1000, 1024),
        (1365, 1424.7),
        (2048, 2184.5),
        (2500, 2520.6),
        (3000, 3072),
        (3400, 3413.3),
        (3625, 4096),
    ],
)
def test_kernel_cost_an_object(size, per_object):
    zpool = Zpool(**KERNEL)
    slots = next((n for slot, _, n in zpool.classes() if slot >= size + 8), 1)
    zpool.malloc_many(uints([size] * (slots * 7)))
    assert zpool.total_pages * PAGE / (slots * 7) == pytest.approx(per_object, abs=0.05)


@pytest.mark.parametrize(("chain", "size"), [(0, 3624), (4, 3256), (8, 3624), (16, 3832)])
def test_kernel_max_saving_size(chain, size):
    zpool = Zpool(chain=chain, **KERNEL)
    assert zpool.max_saving_size == size


@pytest.mark.parametrize("page_size", [4096, 16384, 65536])
@pytest.mark.parametrize("chain", [1, 4, 8, 16, 31, 32])
def test_our_classes(chain, page_size):
    zpool = Zpool(chain=chain, page_size=page_size)
    assert zpool.classes() == our_classes(chain, page_size)
    assert max(n for _, _, n in zpool.classes()) == 256
    assert zpool.max_saving_size == max(s for s, p, n in zpool.classes() if n > p)


def test_our_defaults():
    zpool = Zpool()
    assert len(zpool.classes()) == 237
    assert zpool.max_saving_size == 3968
    assert zpool.classes()[:3] == [(16, 1, 256), (32, 1, 128), (48, 1, 85)]
    assert zpool.classes()[-2:] == [(3968, 31, 32), (4096, 1, 1)]


@geometries
def test_max_saving_size_is_the_limit(geometry):
    """One byte more, and every object takes a page."""
    n = 1000
    for extra, saves in ((0, True), (1, False)):
        zpool = Zpool(**geometry)
        zpool.malloc_many(uints([zpool.max_saving_size + extra] * n))
        assert (zpool.total_pages < n) == saves


# ---- objects -------------------------------------------------------------------------------------


@geometries
def test_round_trip(geometry):
    zpool = Zpool(**geometry)
    page = geometry.get("page_size", PAGE)
    rng = random.Random(7)
    edges = [
        s + d
        for s, _, _ in zpool.classes()[::5]
        for d in (-9, -8, -7, -1, 0, 1)
        if 0 < s + d <= page
    ]
    sizes = [
        1,
        2,
        7,
        8,
        9,
        page - 8,
        page - 1,
        page,
        *edges,
        *(rng.randint(1, page) for _ in range(1000)),
    ]
    data = {}
    for size in sizes:
        content = rng.randbytes(size)
        handle = zpool.malloc(content)
        assert 0 < handle < 1 << 40
        assert handle not in data
        data[handle] = content
    assert all(zpool.read(h, len(c)) == c for h, c in data.items())
    spans = sorted((zpool.address(h), zpool.address(h) + len(c)) for h, c in data.items())
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    assert all(start % 8 == 0 for start, _ in spans)
    assert zpool.validate() == 0
    assert zpool.stats()["objects"] == len(data)
    for handle in data:
        zpool.free(handle)
    assert zpool.validate() == 0
    assert zpool.total_pages == 0


@pytest.mark.parametrize(
    "bad",
    [
        {"chain": 33},
        {"chain": 17, "kernel": True},
    ],
    ids=name,
)
def test_bad_configuration(bad):
    with pytest.raises(OSError, match=r"\[Errno 22\]"):
        Zpool(**bad)


def test_pages_are_counted_as_they_are_touched():
    zpool = Zpool()
    size = 2000  # 21 pages, 43 objects
    handles = zpool.malloc_many(uints([size]))
    assert zpool.total_pages == 1
    handles += zpool.malloc_many(uints([size] * 2))  # the third one reaches into the second page
    assert zpool.total_pages == 2
    handles += zpool.malloc_many(uints([size] * 40))
    assert zpool.total_pages == 21
    handles += zpool.malloc_many(uints([size]))
    assert zpool.total_pages == 22
    assert zpool.validate() == 0


def test_the_kernel_counts_whole_zspages():
    zpool = Zpool(**KERNEL)
    handle = zpool.malloc(b"x" * 3600)
    assert zpool.total_pages == 8
    assert zpool.stats()["object_bytes"] == 3632
    zpool.free(handle)
    assert zpool.total_pages == 0


def test_lowest_slot_first_and_fullest_zspage_first():
    zpool = Zpool()
    size, pages, slots = next(c for c in zpool.classes() if c[0] == 2000)
    handles = zpool.malloc_many(uints([size] * (3 * slots)))
    first, second, third = (handles[i * slots : (i + 1) * slots] for i in range(3))
    assert [len({h >> 12 for h in part}) for part in (first, second, third)] == [1, 1, 1]
    zpool.free_many(first[:30])
    zpool.free_many(second[:5])
    zpool.free_many(third[:20])
    assert list(zpool.malloc_many(uints([size] * 5))) == list(second[:5])
    assert list(zpool.malloc_many(uints([size] * 20))) == list(third[:20])
    assert list(zpool.malloc_many(uints([size] * 30))) == list(first[:30])
    assert zpool.total_pages == 3 * pages
    assert zpool.malloc_many(uints([size]))[0] >> 12 not in {h >> 12 for h in handles}
    assert zpool.validate() == 0


# ---- objects that have a page to themselves ------------------------------------------------------


LONE = 1 << 39  # of a handle


@pytest.mark.parametrize("options", [{}, KERNEL, {"page_size": 16384}], ids=name)
def test_an_object_that_is_a_page_has_no_zspage(options):
    zpool = Zpool(**options)
    size = options.get("page_size", PAGE)
    zpool.malloc(b"one of a zspage's")
    before = zpool.stats()
    handles = zpool.malloc_many(uints([size] * 2000), 7)
    assert all(handle & LONE for handle in handles)
    assert len({zpool.address(handle) for handle in handles}) == 2000
    assert all(zpool.address(handle) % PAGE == 0 for handle in handles)
    assert zpool.wrong(handles, uints([size] * 2000), 7) == 0
    after = zpool.stats()
    assert after["objects"] - before["objects"] == 2000
    assert after["object_bytes"] - before["object_bytes"] == 2000 * size
    assert after["total_pages"] - before["total_pages"] == 2000
    # A bit a page, and no descriptor of 64 bytes.
    assert after["metadata_bytes"] - before["metadata_bytes"] < 2000 * 8
    assert zpool.validate() == 0
    assert zpool.compact_begin() == 0  # a page by itself moves nowhere
    assert zpool.relocate_many(handles[:10]) == 0
    zpool.compact_end()
    zpool.free_together(handles)
    zpool.trim()
    assert zpool.stats()["total_pages"] == before["total_pages"]
    assert zpool.validate() == 0


def test_pages_are_taken_and_given_many_at_a_time():
    zpool = Zpool()
    for n in (1, 2, 31, 32, 33, 100):
        handles = zpool.malloc_alike(PAGE, n)
        assert len({zpool.address(handle) for handle in handles}) == n
        assert zpool.stats()["objects"] == n
        assert {zpool.room(handle) for handle in handles} == {PAGE}
        assert zpool.validate() == 0
        zpool.free_together(handles)
        assert {zpool.room(handle) for handle in handles} == {0}
        assert (zpool.stats()["objects"], zpool.validate()) == (0, 0)
    assert [zpool.room(LONE | at) for at in (0, 1, 1 << 20, (1 << 32) - 1)] == [0] * 4
    others = zpool.malloc_alike(100, 5)  # of one zspage
    assert len({handle >> 12 for handle in others}) == 1
    zpool.free_together(array("Q", [*zpool.malloc_alike(PAGE, 3), *others]))
    assert (zpool.stats()["objects"], zpool.total_pages) == (0, 0)
    for size, error in ((0, errno.EINVAL), (PAGE + 1, errno.ENOSPC)):
        with pytest.raises(OSError, match=os.strerror(error)):
            zpool.malloc_alike(size, 3)


def test_memory_for_some_pages_only():
    zpool = Zpool()
    with fault("ARENA_MAP", nth=2, times=FOREVER):
        first = zpool.malloc_alike(PAGE, 1000)
        assert 0 < len(first) < 1000
        with pytest.raises(MemoryError):
            zpool.malloc_alike(PAGE, 1)
    assert zpool.validate() == 0
    zpool.free_together(first)
    assert (zpool.total_pages, zpool.validate()) == (0, 0)


def test_a_page_that_is_freed_twice_is_told_of():
    zpool = Zpool()
    first, second = zpool.malloc_alike(PAGE, 2)
    zpool.free(first)
    zpool.free(first)
    assert zpool.validate() == -100
    assert zpool.stats()["objects"] == 1
    assert zpool.room(second) == PAGE


# ---- against a dict ------------------------------------------------------------------------------


# ---- compaction ----------------------------------------------------------------------------------


def half_freed(zpool, seed=3, n=20000):
    rng = random.Random(seed)
    sizes = uints(min(zpool.max_saving_size, int(rng.gammavariate(4, 500)) + 50) for _ in range(n))
    handles = zpool.malloc_many(sizes, 0)
    tags = [i for i in range(n) if rng.random() < 0.5]
    kept = set(tags)
    zpool.free_many(array("Q", [h for i, h in enumerate(handles) if i not in kept]))
    return array("Q", [handles[i] for i in tags]), uints(sizes[i] for i in tags), tags


def wrong(zpool, handles, sizes, tags):
    return sum(zpool.wrong(handles[i : i + 1], sizes[i : i + 1], tag) for i, tag in enumerate(tags))


@pytest.mark.parametrize(
    "geometry", [{}, {"chain": 8}, KERNEL, {"kernel": True, "chain": 4}], ids=name
)
def test_compaction_frees_what_it_can(geometry):
    zpool = Zpool(**geometry)
    handles, sizes, tags = half_freed(zpool)
    zpool.trim()
    before = zpool.total_pages
    overhead = 8 if geometry.get("kernel") else 0
    # The kernel's rule, a second time: whole zspages' worth of free slots, class by class.
    classes = zpool.classes()
    used, zspages = [0] * len(classes), [set() for _ in classes]
    for handle, size in zip(handles, sizes, strict=True):
        k = next(k for k, c in enumerate(classes) if c[0] >= size + overhead)
        used[k] += 1
        zspages[k].add(handle >> 12)
    predicted = sum(
        (len(ids) * slots - n) // slots * pages
        for n, ids, (_, pages, slots) in zip(used, zspages, classes, strict=True)
    )
    moves = zpool.compact_begin()
    moved = zpool.relocate_many(handles)
    freed = zpool.compact_end()
    assert 0 < moved <= moves
    assert before - zpool.total_pages == freed
    if geometry.get("kernel"):
        assert freed == predicted
        assert moved == moves
    else:
        assert freed >= predicted
    assert wrong(zpool, handles, sizes, tags) == 0
    assert zpool.stats()["idle_pages"] == 0
    assert zpool.validate() == 0
    # What is left cannot be packed better: no class has a zspage to spare, and in ours hardly a
    # page.
    minimum = sum(-(-n * slot // PAGE) for n, (slot, _, _) in zip(used, classes, strict=True))
    if not geometry.get("kernel"):
        assert zpool.total_pages <= minimum + 2 * len(classes)
    assert zpool.compact_begin() == 0
    assert zpool.compact_end() == 0


def test_refill_after_compaction():
    zpool = Zpool()
    handles, sizes, tags = half_freed(zpool)
    zpool.compact(handles)
    more = zpool.malloc_many(sizes, 10**6)
    payload = 2 * sum(sizes)
    assert zpool.total_pages * PAGE <= 1.05 * payload
    assert wrong(zpool, handles, sizes, tags) == zpool.wrong(more, sizes, 10**6) == 0
    assert zpool.validate() == 0


@pytest.mark.parametrize("geometry", [{}, KERNEL], ids=name)
def test_no_object_lands_on_a_page_being_emptied_while_there_is_room(geometry):
    zpool = Zpool(**geometry)
    slots = next(n for s, _, n in zpool.classes() if s >= 1008)
    handles = zpool.malloc_many(uints([1000] * slots * 4))
    parts = [handles[i * slots : (i + 1) * slots] for i in range(4)]
    for part, keep in zip(parts, (0.3, 0.35, 0.7, 0.75), strict=True):
        zpool.free_many(part[int(keep * slots) :])
    room = {h >> 12 for h in (*parts[2], *parts[3])}
    assert zpool.compact_begin() > 0
    fresh = zpool.malloc_many(uints([1000] * int(0.4 * slots)))
    assert {h >> 12 for h in fresh} <= room
    # And when there is none, a source serves before a new zspage is made.
    before = zpool.stats()["total_pages"]
    zpool.malloc_many(uints([1000] * int(1.1 * slots)))
    assert zpool.stats()["total_pages"] <= before
    assert zpool.validate() == 0
    zpool.compact_end()
    assert zpool.validate() == 0


# ---- memory --------------------------------------------------------------------------------------


class Resident:
    """How many of some page numbers are in memory, asked of the system; takes none itself."""

    def __init__(self, pages):
        self.pages, self.first = pages, min(pages)
        self.words = bytearray((max(pages) - self.first + 1) * 8)

    def __call__(self):
        with open("/proc/self/pagemap", "rb", buffering=0) as f:
            f.seek(self.first * 8)
            read = f.readinto(self.words)
        return sum(
            self.words[at * 8 + 7] >> 7
            for at in (page - self.first for page in self.pages)
            if at * 8 < read
        )


@pytest.mark.parametrize("geometry", [{}, KERNEL], ids=name)
def test_memory_goes_back_to_the_system(geometry):
    zpool = Zpool(**geometry)
    rng = random.Random(5)
    sizes = uints(rng.randint(500, 3600) for _ in range(30000))
    handles = zpool.malloc_many(sizes, 1)
    pages = set()
    for handle, size in zip(handles, sizes, strict=True):
        start = zpool.address(handle)
        pages.update(range(start // PAGE, (start + size - 1) // PAGE + 1))
    # Address space that is unmapped finds another use: what is needed from here on is there before.
    resident = Resident(pages)
    order = list(handles)
    rng.shuffle(order)
    assert resident() == len(pages)
    if geometry:
        assert len(pages) <= zpool.total_pages
    else:
        assert len(pages) == zpool.total_pages
    most_idle = 0
    for i in range(0, len(order), 1500):
        zpool.free_many(array("Q", order[i : i + 1500]))
        most_idle = max(most_idle, zpool.stats()["idle_pages"])
        assert resident() <= zpool.total_pages + 256  # an arena of Python's
    assert 0 < most_idle <= 256
    assert zpool.stats()["idle_pages"] == zpool.total_pages == 0
    assert resident() <= 256


def test_density():
    rng = random.Random(9)
    sizes = uints(min(4096, int(rng.gammavariate(4, 500)) + 100) for _ in range(100000))
    payload = sum(sizes)

    def overhead(**geometry):
        zpool = Zpool(**geometry)
        zpool.malloc_many(sizes)
        stats = zpool.stats()
        return (stats["total_pages"] * PAGE + stats["metadata_bytes"]) / payload

    assert overhead() <= 1.015
    assert overhead() < overhead(chain=8) < overhead(kernel=True) < overhead(kernel=True, chain=4)
    assert 1.02 <= overhead(kernel=True) <= 1.06


def test_no_memory_leaves_everything_as_it_was(python):
    code = textwrap.dedent("""
        import resource
        from array import array
        from hooks.zpool import Zpool

        zpools = [Zpool(), Zpool(kernel=True), Zpool(page_size=65536)]
        sizes = array("I", [37, 500, 1500, 3000, 4000] * 20)
        held = [[z.malloc_many(sizes, 1)] for z in zpools]
        with open("/proc/self/statm") as f:
            now = int(f.read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (now + (40 << 20), resource.RLIM_INFINITY))
        failures = 0
        for z, handles in zip(zpools, held):
            while True:
                before = z.stats()
                try:
                    handles.append(z.malloc_many(sizes, 1))
                except MemoryError:
                    break
            after = z.stats()
            assert after["objects"] == before["objects"]
            assert after["object_bytes"] == before["object_bytes"]
            failures += 1
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        try:
            for z, handles in zip(zpools, held):
                assert z.validate() == 0, z.validate()
                handles.append(z.malloc_many(sizes, 1))
                assert all(z.wrong(h, sizes, 1) == 0 for h in handles)
                for h in handles:
                    z.free_many(h)
                assert z.validate() == 0 and z.total_pages == 0
        except MemoryError:
            raise SystemExit("still no memory")
        print("failures", failures)
    """)
    assert python(code) == "failures 3\n"


# ---- threads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", [{}, KERNEL], ids=name)
def test_compaction_while_others_work(geometry):
    zpool = Zpool(**geometry)
    handles, sizes, tags = half_freed(zpool, n=8000)
    stop = threading.Event()

    def churn(seed):
        rng = random.Random(seed)
        bad = rounds = 0
        while not stop.is_set() or rounds < 20:
            batch = uints(rng.choice(sizes) for _ in range(300))
            mine = zpool.malloc_many(batch, seed)
            bad += zpool.wrong(mine, batch, seed)
            zpool.free_many(mine)
            rounds += 1
        return bad

    with ThreadPoolExecutor(3) as threads:
        running = [threads.submit(churn, seed) for seed in (1, 2, 3)]
        try:
            moved = 0
            for round_ in range(12):
                zpool.compact_begin()
                moved += zpool.relocate_many(handles)
                assert zpool.validate() == 0
                zpool.compact_end()
                drop = range(round_ % 3, len(handles), 9)
                zpool.free_many(array("Q", [handles[i] for i in drop]))
                gone = set(drop)
                handles = array("Q", [h for i, h in enumerate(handles) if i not in gone])
                sizes_left = [s for i, s in enumerate(sizes) if i not in gone]
                tags = [t for i, t in enumerate(tags) if i not in gone]
                sizes = uints(sizes_left)
                assert wrong(zpool, handles, sizes, tags) == 0
                assert zpool.validate() == 0
        finally:
            stop.set()
        assert [f.result() for f in running] == [0, 0, 0]
    assert moved > 0
    assert zpool.validate() == 0
    assert zpool.stats()["objects"] == len(handles)


def test_threads_take_and_give_pages():
    zpool = Zpool()
    together = threading.Barrier(4)
    sizes = uints([PAGE] * 100)

    def life(seed):
        together.wait()
        lost = 0
        for n in range(60):
            handles = zpool.malloc_many(sizes, 1000 * seed + n)
            lost += zpool.wrong(handles, sizes, 1000 * seed + n)
            zpool.free_together(handles)
        return lost

    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(life, seed) for seed in range(4)]
        assert [each.result() for each in running] == [0] * 4
    assert zpool.validate() == 0
    assert (zpool.stats()["objects"], zpool.total_pages) == (0, 0)
