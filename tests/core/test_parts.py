"""Parts of pages: `load_part`, `store_part`, and pages of zeros where nothing is held.

Races are forced by compressors and backing stores in Python, which do what another thread might at
that moment.
"""

import errno
import os
import random
import threading
import zlib

import numpy as np
import pytest

from hooks.faults import FOREVER, fault
from hooks.parts import Codec
from zswap import BackingError, Error, PageCorruptError, PoolLimitError, Status, SwapFile

PAGE = 4096
NEVER = 86400
QUIET = {"shrinker_interval": NEVER, "shrinker_enabled": False, "max_pool_bytes": "64MiB"}
KINDS = {
    "same-filled": bytes(range(8)) * (PAGE // 8),
    "compressed": random.Random(1).randbytes(PAGE // 2) + bytes(PAGE // 2),
    "raw": random.Random(2).randbytes(PAGE),
}
PARTS = [(0, 1), (0, PAGE), (PAGE - 1, 1), (PAGE, 0), (0, 0), (17, 1000), (2048, 2048)]


def noise(seed, size=PAGE):
    return random.Random(seed).randbytes(size)


def over(page, at, data):
    """The page with these bytes over it."""
    return page[:at] + data + page[at + len(data) :]


def state(z, offset):
    """'m' for a page in memory, 'b' for one in the store, '-' for none."""
    (n,) = z.compressed_sizes([offset])
    return "m" if n >= 0 else "b" if n == -2 else "-"


@pytest.fixture(params=["memory", "backed", "packed", "encrypted", "checksum", "wipe", "clean"])
def place(request, engine, tmp_path):
    """A function that makes an engine with this page at offset 5, wherever pages can be."""

    def make(page):
        where, path = request.param, str(tmp_path / "swap")
        backing = {
            "backed": lambda: SwapFile(path, "1MiB"),
            "packed": lambda: SwapFile(path, "1MiB", packed=True),
            "encrypted": lambda: SwapFile(path, "1MiB", encrypt=True),
            "checksum": lambda: SwapFile(path, "1MiB"),
            "wipe": lambda: SwapFile(path, "1MiB", packed=True),
            "clean": lambda: SwapFile(path, "1MiB", packed=True),
        }.get(where, lambda: None)()
        z = engine(
            backing=backing,
            checksum=where in ("checksum", "clean", "encrypted"),
            wipe_on_free=where == "wipe",
            promote="always" if where == "clean" else "never",
            **QUIET,
        )
        z[5] = page
        if backing is not None:
            z.shrink(1)
            if where == "clean":  # in memory, and as it is in the store
                z.load(5)
        return z

    return make


# ---- what comes of it ----------------------------------------------------------------------------


@pytest.mark.parametrize(("at", "n"), PARTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_part_is_loaded(place, kind, at, n):
    page = KINDS[kind]
    z = place(page)
    assert z.load_part(5, at, n) == page[at : at + n]
    out = np.full(n, 7, np.uint8)
    assert z.load_part(5, at, n, out=out) is out
    assert out.tobytes() == page[at : at + n]
    assert z[5] == page
    z._validate()


@pytest.mark.parametrize(("at", "n"), PARTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_part_is_stored(place, kind, at, n):
    page = KINDS[kind]
    z = place(page)
    for data in (noise(3, n), bytes(n), page[at : at + n]):
        z.store_part(5, at, data)
        page = over(page, at, data)
        assert z[5] == page
    z._validate()
    assert len(z) == 1
    z.shrink(1)
    assert z[5] == page


@pytest.mark.parametrize("page_size", [16384, 65536])
def test_large_pages(engine, page_size):
    z = engine(page_size=page_size, **QUIET)
    page = noise(1, page_size)
    z[0] = page
    z.store_part(0, page_size - 100, bytes(100))
    assert z.load_part(0, page_size - 200, 200) == page[-200:-100] + bytes(100)
    with pytest.raises(ValueError, match="no part"):
        z.load_part(0, page_size, 1)


def test_a_page_becomes_same_filled_and_raw_again(engine):
    z = engine(**QUIET)
    z[0] = bytes(PAGE)
    z.store_part(0, 0, noise(1))
    assert (z.stats().same_filled_pages, z.stats().stored_incompressible_pages) == (0, 1)
    z.store_part(0, 0, bytes(PAGE))
    assert (z.stats().same_filled_pages, z.stats().stored_incompressible_pages) == (1, 0)
    assert z.stats().duplicate_entry == 2


def test_it_is_a_load_or_a_store(engine, memory_store):
    z = engine(backing=memory_store(), promote="always", latency=True, **QUIET)
    z[0] = KINDS["compressed"]
    z.store_part(0, 1, b"x")
    z.load_part(0, 1, 1)
    with pytest.raises(KeyError):
        z.load_part(1, 0, 1)
    s = z.stats()
    assert (s.loads, s.load_misses, s.duplicate_entry) == (1, 1, 1)
    latency = z.latency()
    assert (latency["store"].count, latency["load"].count) == (2, 1)
    z.shrink(1)
    z.load_part(0, 0, 10)
    assert state(z, 0) == "m"
    assert z.stats().promoted_pages == 1


def test_exclusive_loads(engine, memory_store):
    z = engine(backing=memory_store(), **QUIET)
    z[0] = z[1] = KINDS["raw"]
    z.shrink(1)
    z.parameters["exclusive_loads"] = True
    z.store_part(0, 5, b"abc")  # takes nothing
    z.store_part(1, 5, b"abc")
    assert z.load_part(0, 4, 5) == z.load_part(1, 4, 5) == over(KINDS["raw"], 5, b"abc")[4:9]
    assert len(z) == 0


# ---- where nothing is held -----------------------------------------------------------------------


def test_absent_pages(engine):
    z = engine(**QUIET)
    for call in (z.load, lambda o: z.load_part(o, 1, 1), lambda o: z.store_part(o, 1, b"x")):
        with pytest.raises(KeyError, match="7"):
            call(7)
    assert len(z) == 0
    out = bytearray(b"x" * PAGE)
    assert z.load(7, absent="zeros") == bytes(PAGE)
    assert z.load(7, out, absent="zeros") is out
    assert out == bytes(PAGE)
    assert z.load_part(7, 100, 5, absent="zeros") == bytes(5)
    part = bytearray(b"x" * 9)
    z.load_part(7, 100, 9, out=part, absent="zeros")
    assert part == bytes(9)
    assert len(z) == 0
    z.store_part(7, 100, b"part", absent="zeros")
    assert z.load(7, absent="zeros") == over(bytes(PAGE), 100, b"part")
    z.store_part(7, 50, b"another", absent="zeros")
    assert z[7] == over(over(bytes(PAGE), 100, b"part"), 50, b"another")


def test_beyond_an_area_there_are_no_zeros(engine):
    z = engine(**QUIET)
    z.swapon(1, nr_pages=10)
    assert z.load(9, swap_type=1, absent="zeros") == bytes(PAGE)
    for offset, swap_type in ((10, 1), (0, 2)):
        kwargs = {"swap_type": swap_type, "absent": "zeros"}
        with pytest.raises(ValueError, match="no such swap area"):
            z.load(offset, **kwargs)
        with pytest.raises(ValueError, match="no such swap area"):
            z.load_part(offset, 0, 1, **kwargs)
        with pytest.raises(ValueError, match="no such swap area"):
            z.store_part(offset, 0, b"x", **kwargs)
    with pytest.raises(ValueError, match="no such swap area"):
        z.store_part(10, 0, b"x", swap_type=1)
    with pytest.raises(KeyError):
        z.load_part(10, 0, 1, swap_type=1)


@pytest.mark.parametrize("absent", ["zero", None, True, b"zeros", 0, np.zeros(2)], ids=repr)
def test_what_absent_can_be(engine, absent):
    z = engine(**QUIET)
    z[0] = bytes(PAGE)
    for call in (
        lambda: z.load(0, absent=absent),
        lambda: z.load_part(0, 0, 1, absent=absent),
        lambda: z.store_part(0, 0, b"x", absent=absent),
    ):
        with pytest.raises(ValueError, match="absent is"):
            call()
    assert z[0] == bytes(PAGE)


@pytest.mark.parametrize(
    ("at", "n"), [(-1, 1), (0, PAGE + 1), (PAGE, 1), (PAGE + 1, 0), (1, PAGE), (1 << 64, 1)]
)
def test_what_is_no_part(engine, at, n):
    z = engine(**QUIET)
    z[0] = KINDS["raw"]
    with pytest.raises(ValueError, match="no part of a page"):
        z.load_part(0, at, n)
    with pytest.raises(ValueError, match="no part of a page"):
        z.store_part(0, at, bytes(n))
    assert z[0] == KINDS["raw"]


def test_arguments_of_the_wrong_kind(engine):
    z = engine(**QUIET)
    z[0] = KINDS["raw"]
    for call in (
        lambda: z.load_part(0, "1", 1),
        lambda: z.load_part(0, 1, 1.0),
        lambda: z.store_part(0, 1, "text"),
        lambda: z.store_part(0, None, b"x"),
        lambda: z.store_part(0, 0, np.array([object()])),
    ):
        with pytest.raises(TypeError):
            call()
    for out in (bytearray(2), bytes(3), np.zeros((3, 2), np.uint8)[:, 0]):
        with pytest.raises(ValueError, match="out"):
            z.load_part(0, 1, 3, out=out)
    for n in (-1, 1 << 62, 1 << 80):
        with pytest.raises(ValueError, match="no part"):
            z.load_part(0, 0, n)
    assert z[0] == KINDS["raw"]


# ---- races, forced -------------------------------------------------------------------------------


@pytest.fixture
def meanwhile(engine, codec):
    """An engine, and a list of what is to be called, one for each page that is compressed, before
    that is done."""
    calls = []

    def compress(page):
        if calls:
            calls.pop(0)()
        return zlib.compress(page, 1)

    z = engine(codec(compress, zlib.decompress), **QUIET)
    return z, calls


def test_two_parts_of_one_page_both_hold(meanwhile):
    z, calls = meanwhile
    z[0] = page = KINDS["compressed"]
    calls.append(lambda: z.store_part(0, 100, b"inner"))
    z.store_part(0, 10, b"outer")
    assert z[0] == over(over(page, 100, b"inner"), 10, b"outer")
    assert z.stats().duplicate_entry == 2


def test_of_two_parts_that_overlap_the_later_wins(meanwhile):
    z, calls = meanwhile
    z[0] = page = KINDS["compressed"]
    calls.append(lambda: z.store_part(0, 100, b"inner"))
    z.store_part(0, 102, b"outer")
    assert z[0] == over(page, 100, b"inouter")


def test_it_is_overtaken_often(meanwhile):
    z, calls = meanwhile
    z[0] = page = KINDS["compressed"]
    # each time the part is compressed anew; the calls themselves compress, too, and are passed over
    for n in range(30):
        calls += [lambda n=n: z.store_part(0, 100 + n, b"%c" % (65 + n % 26)), lambda: None]
    z.store_part(0, 10, b"outer")
    letters = bytes(65 + n % 26 for n in range(30))
    assert z[0] == over(over(page, 100, letters), 10, b"outer")


@pytest.mark.parametrize("before", KINDS)
@pytest.mark.parametrize("after", [*KINDS, "other same-filled", "other compressed", "other raw"])
@pytest.mark.parametrize("freed", [False, True], ids=["in place", "freed"])
def test_a_whole_page_is_stored_meanwhile(meanwhile, before, after, freed):
    """Where the old one is freed first, the new one may get the id of its entry."""
    z, calls = meanwhile
    z[0] = KINDS[before]
    page = {
        **KINDS,
        "other same-filled": b"other so" * (PAGE // 8),
        "other compressed": noise(4, PAGE // 2) + bytes(PAGE // 2),
        "other raw": noise(5),
    }[after]
    calls.append(lambda: (freed and z.invalidate(0), z.store(0, page)))
    z.store_part(0, 10, b"part")
    assert z[0] == over(page, 10, b"part")


def test_the_page_goes_meanwhile(meanwhile):
    z, calls = meanwhile
    for kind in KINDS:
        z[0] = KINDS[kind]
        calls.append(lambda: z.invalidate(0))
        with pytest.raises(KeyError):
            z.store_part(0, 10, b"part")
        assert len(z) == 0
        z[0] = KINDS[kind]
        calls.append(lambda: z.invalidate(0))
        z.store_part(0, 10, b"part", absent="zeros")
        assert z[0] == over(bytes(PAGE), 10, b"part")


def test_the_page_comes_meanwhile(meanwhile):
    z, calls = meanwhile
    calls.append(lambda: z.store(0, KINDS["raw"]))
    z.store_part(0, 10, b"part", absent="zeros")
    assert z[0] == over(KINDS["raw"], 10, b"part")


def test_the_page_is_written_back_and_comes_back_meanwhile(engine, codec, memory_store):
    calls = []

    def compress(page):
        if calls:
            calls.pop(0)()
        return zlib.compress(page, 1)

    z = engine(codec(compress, zlib.decompress), backing=memory_store(), promote="always", **QUIET)
    z[0] = page = KINDS["compressed"]
    z.load(0)
    for at, step in enumerate(
        [
            lambda: z.shrink(5),
            lambda: z.load(0),  # promoted
            lambda: z.load(0),  # a clean page that stays
            lambda: (z.shrink(5), z.load(0), z.shrink(5)),
            lambda: z.shrink(5),
        ]
    ):
        calls.append(step)
        z.store_part(0, at, b"x")
        calls.clear()
        page = over(page, at, b"x")
        assert z[0] == page
        if at % 2 == 0:
            z.shrink(5)
    z._validate()


def test_the_shard_is_made_anew_meanwhile(engine, codec, memory_store):
    """It counts its writes from the beginning, so the slot says the same number of another page."""
    calls = []

    def compress(page):
        if calls:
            calls.pop(0)()
        return page

    z = engine(codec(compress), backing=memory_store(), promote="never", **QUIET)
    z[0] = KINDS["raw"]
    assert z.shrink(1) == 1

    def others():
        assert z.invalidate(0)
        z.compact()  # takes the empty shard out of the index
        z.store(0, other)
        assert z.shrink(1) == 1

    other = noise(9)
    calls.append(others)
    z.store_part(0, 10, b"part")
    assert z[0] == over(other, 10, b"part")


def test_another_part_is_stored_while_the_store_reads(engine, memory_store):
    store = memory_store()
    z = engine(backing=store, promote="never", **QUIET)
    z[0] = page = KINDS["raw"]
    z.shrink(1)
    left = list(range(12))  # more often than it reads without keeping writers away

    def read(offsets):
        if left:
            n = left.pop()
            z.store(0, over(page, 100, b"%2d" % n))
            z.shrink(1)

    store.on_read = read
    z.store_part(0, 10, b"part")
    store.on_read = lambda offsets: None
    assert z[0] == over(over(page, 100, b"%2d" % (left[-1] + 1 if left else 0)), 10, b"part")


def test_parts_go_on_while_one_is_decompressed(engine, codec, thread, until):
    """No lock is held meanwhile, and the entry that is read stays."""
    held = Codec(slow=True)
    z = engine(codec(factory=held.capsule), **QUIET)
    z[0] = page = KINDS["compressed"]
    held.hold_decompress = True
    first = thread(z.store_part, 0, 10, b"first")
    until(lambda: held.decompressing == 1)
    z.store(0, page2 := over(page, 50, b"between"))
    held.hold_decompress = False
    first.join()
    assert z[0] == over(page2, 10, b"first")


# ---- many at once --------------------------------------------------------------------------------


@pytest.mark.usefixtures("eager_switches")
@pytest.mark.parametrize(("compressor", "backed"), [("zstd:1", False), ("lz4", True)])
def test_a_storm_of_parts(engine, compressor, backed, tmp_path, thread):
    """Each thread owns an eighth of each page, counts up in it, and never finds less than it last
    stored; readers find every eighth of one number."""
    backing = SwapFile(str(tmp_path / "swap"), "1MiB", packed=True) if backed else None
    z = engine(compressor, backing=backing, promote="always", **QUIET)
    size, rounds, pages = PAGE // 8, 200, 3
    stop = threading.Event()

    def write(k):
        for n in range(1, rounds + 1):
            for o in range(pages):
                z.store_part(o, k * size, np.full(size // 4, n, np.uint32), absent="zeros")
                found = np.frombuffer(z.load_part(o, k * size, size), np.uint32)
                assert (found == n).all()

    def read():
        while not stop.is_set():
            for o in range(pages):
                page = np.frombuffer(z.load(o, absent="zeros"), np.uint32).reshape(8, -1)
                assert (page == page[:, :1]).all()

    def evict():
        while not stop.is_set():
            z.shrink(pages)

    others = [thread(read)] + ([thread(evict)] if backed else [])
    writers = [thread(write, k) for k in range(8)]
    try:
        for t in writers:
            t.join()
    finally:
        stop.set()
    for t in others:
        t.join()
    assert z.load_many(range(pages)).view(np.uint32).tolist() == [[rounds] * (PAGE // 4)] * pages


# ---- refusals ------------------------------------------------------------------------------------


def test_a_part_that_is_refused_leaves_the_page(engine):
    z = engine(max_pool_bytes=4 * PAGE, shrinker_interval=NEVER)
    z[0] = page = KINDS["compressed"]
    assert z.store_many(range(1, 9), noise(1, 8 * PAGE))[-1] == Status.POOL_LIMIT
    with pytest.raises(PoolLimitError):
        z.store_part(0, 0, noise(9, 2000))
    assert z[0] == page
    with pytest.raises(PoolLimitError):
        z.store_part(50, 0, noise(9, 2000), absent="zeros")
    assert 50 not in z
    z.store_part(0, 0, bytes(PAGE))  # same-filled, which takes no room
    assert z[0] == bytes(PAGE)


def test_storing_is_off(engine, memory_store):
    z = engine(**QUIET)
    z[0] = KINDS["raw"]
    z.parameters["enabled"] = False
    with pytest.raises(Error, match="'enabled' is off"):
        z.store_part(0, 0, b"part")
    assert z[0] == KINDS["raw"]
    z = engine(backing=memory_store(), promote="never", **QUIET)
    z[0] = z[1] = KINDS["raw"]
    z.shrink(1)
    z.parameters["enabled"] = False
    for o in (0, 1):  # from memory and from the store, both written through
        z.store_part(o, 1, b"part")
        assert z[o] == over(KINDS["raw"], 1, b"part")
        assert state(z, o) == "b"
    z.store_part(2, 1, b"part", absent="zeros")
    assert z[2] == over(bytes(PAGE), 1, b"part")


def test_written_through_in_a_race(engine, codec, memory_store):
    """A page that is refused, and whose place is taken meanwhile."""
    store = memory_store()
    z = engine(backing=store, promote="never", **QUIET)
    z[0] = KINDS["raw"]
    z.shrink(1)
    z.parameters["enabled"] = False
    other = noise(77)

    def read(offsets):
        store.on_read = lambda offsets: None
        z.store(0, other)

    store.on_read = read
    z.store_part(0, 10, b"part")
    assert z[0] == over(other, 10, b"part")


def test_a_store_that_fails(engine, memory_store):
    store = memory_store()
    z = engine(backing=store, promote="never", **QUIET)
    z[0] = z[1] = KINDS["raw"]
    assert z.shrink(2) == 2
    with fault("BACKING_READ", error=errno.EIO, times=FOREVER):
        for call in (lambda: z.store_part(0, 1, b"x"), lambda: z.load_part(0, 1, 1)):
            with pytest.raises(BackingError, match=os.strerror(errno.EIO)):
                call()
    assert z[0] == KINDS["raw"]
    z.parameters["enabled"] = False
    with fault("BACKING_WRITE", error=errno.EIO, times=FOREVER), pytest.raises(BackingError):
        z.store_part(0, 1, b"x")
    assert 0 not in z  # as after store()
    assert z[1] == KINDS["raw"]
    z._validate()


@pytest.mark.parametrize("site", ["SCRATCH", "SLAB_BLOCK", "ZPOOL_MALLOC", "COMPRESS"])
@pytest.mark.parametrize("backed", [False, True])
def test_no_memory(engine, site, backed, tmp_path):
    """Nothing changes, or the page goes to the store; never a page of zeros."""
    backing = SwapFile(str(tmp_path / "swap"), "1MiB", packed=True) if backed else None
    z = engine(backing=backing, promote="never", **QUIET)
    z[0] = KINDS["raw"]
    z.shrink(1)
    for data in (noise(5, 100), bytes(PAGE)):
        before = z[0]
        with fault(site, times=FOREVER):
            try:
                z.store_part(0, 7 if len(data) < PAGE else 0, data, absent="zeros")
                after = over(before, 7 if len(data) < PAGE else 0, data)
            except (MemoryError, Error):
                after = before
        assert z[0] == after
    z._validate()


def test_no_memory_for_the_page(engine):
    z = engine(**QUIET)
    with fault("SCRATCH", times=FOREVER):
        for call in (
            lambda: z.store_part(0, 0, b"x", absent="zeros"),
            lambda: z.load_part(0, 0, 1, absent="zeros"),
        ):
            with pytest.raises(MemoryError):
                call()
    before = z.stats().metadata_bytes
    z.store_part(0, 0, b"x", absent="zeros")
    assert z.stats().metadata_bytes >= before + PAGE


def test_damage(engine):
    z = engine(checksum=True, **QUIET)
    z[0] = KINDS["compressed"]
    with fault("DECOMPRESS", error=errno.EIO, times=FOREVER):
        for call in (lambda: z.store_part(0, 1, b"x"), lambda: z.load_part(0, 1, 1)):
            with pytest.raises(PageCorruptError):
                call()
    assert z[0] == KINDS["compressed"]


def test_statuses(engine):
    """A part's status is its page's; a batch finds the same."""
    z = engine(**QUIET)
    z.store_part(3, 0, noise(1, 10), absent="zeros")
    status = np.empty(1, np.int8)
    z.load_many([3], status=status)
    assert status[0] == Status.STORED
