"""The mapping's methods are each one step, as dict's are: what others do meanwhile comes before or
after, and is not lost."""

import collections
import random
import threading
import zlib

import numpy as np
import pytest

import zswap
from zswap import PageCorruptError, PoolLimitError, ZSwap

PAGE = 4096


def page(number):
    """A page that compresses, made of a number."""
    return random.Random(number).randbytes(100) * 40 + bytes(96)


class Hooked:
    """A codec that calls a hook once, in the middle of the next compression or decompression."""

    def __init__(self):
        """Make one without a hook."""
        self.on_compress = self.on_decompress = None

    def compress(self, data):
        """Call the hook, then compress."""
        hook, self.on_compress = self.on_compress, None
        if hook is not None:
            hook()
        return zlib.compress(data, 1)

    def decompress(self, data):
        """Call the hook, then decompress."""
        hook, self.on_decompress = self.on_decompress, None
        if hook is not None:
            hook()
        return zlib.decompress(data)


@pytest.fixture
def hooked(engine, codec):
    """An engine, and the codec it has."""
    hooks = Hooked()
    return engine(codec(hooks.compress, hooks.decompress), max_pool_bytes="8MiB"), hooks


# ---- CPython's own tests of mappings -------------------------------------------------------------

try:
    from test.mapping_tests import BasicTestMappingProtocol
except ImportError:  # some systems pack it apart

    def test_the_mapping_protocol():
        """Say that it did not run."""
        pytest.skip("this interpreter has no package `test`")
else:

    class TestProtocol(BasicTestMappingProtocol):
        """`dict`'s tests, with pages for values."""

        def _reference(self):
            return {1: page(1), 1 << 40: bytes(PAGE), 3: page(3)}

        def _empty_mapping(self):
            return ZSwap(max_pool_bytes="1MiB")

    del BasicTestMappingProtocol


# ---- pop and popitem -----------------------------------------------------------------------------


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_page_stored_during_pop_is_not_lost(hooked, exclusive):
    z, hooks = hooked
    z.parameters["exclusive_loads"] = exclusive
    z[0] = page(1)
    hooks.on_decompress = lambda: z.store(0, page(2))
    assert z.pop(0) == page(2), "the old page was gone before pop was over"
    assert len(z) == 0


@pytest.mark.parametrize("new", [bytes(PAGE), b"\1" * PAGE], ids=["zeros", "ones"])
def test_a_same_filled_page_stored_during_pop_is_not_lost(hooked, new):
    z, hooks = hooked
    z[0] = page(1)
    hooks.on_decompress = lambda: z.store(0, new)
    assert z.pop(0) == new
    assert len(z) == 0


def test_two_pops_of_one_page(hooked):
    z, hooks = hooked
    inner = []
    for pop in (lambda: z.pop(0), lambda: z.popitem()[1]):
        z[0] = page(1)
        hooks.on_decompress = lambda pop=pop: inner.append(pop())
        with pytest.raises(KeyError):
            z.pop(0)
        assert inner.pop() == page(1)


def test_two_exclusive_loads_of_one_page(hooked):
    z, hooks = hooked
    z.parameters["exclusive_loads"] = True
    z[0] = page(1)
    inner = []
    hooks.on_decompress = lambda: inner.append(z[0])
    with pytest.raises(KeyError):
        z.load(0, bytearray(PAGE))
    assert inner == [page(1)]


def test_popitem_goes_on_to_the_next_page(hooked):
    z, hooks = hooked
    z.update({1: page(1), 2: page(2)})
    hooks.on_decompress = lambda: z.invalidate(1)
    assert z.popitem() == (2, page(2))
    z.update({5: page(5)})
    hooks.on_decompress = lambda: (z.pop(5), z.store(3, page(3)))
    assert z.popitem() == (3, page(3)), "stored before the one it looked at, which went"
    with pytest.raises(KeyError):
        z.popitem()


def test_popitem_gives_each_page_to_one_of_many(engine, thread, eager_switches):
    z = engine()
    pages = {n * n * 1000: page(n) for n in range(200)} | {
        n * n * 1000 + 1: bytes([n]) * PAGE for n in range(200)
    }
    z.update(pages)

    def take():
        taken = []
        while True:
            try:
                taken.append(z.popitem())
            except KeyError:
                return taken

    taken = [item for t in [thread(take) for _ in range(4)] for item in t.join()]
    assert len(taken) == len(pages)
    assert dict(taken) == pages


def test_same_filled_pages_are_given_or_held(engine, thread):
    # A store of another same-filled page changes the entry in place.  Batches, as they run beside
    # each other.
    z = engine()
    z.parameters["exclusive_loads"] = True
    offsets = np.arange(256)
    barrier = threading.Barrier(2)
    rounds = 60

    def load():
        given = []
        for _ in range(rounds):
            barrier.wait(60)
            out, status = np.zeros((len(offsets), PAGE), np.uint8), np.zeros(len(offsets), np.int8)
            z.load_many(offsets, out, status=status)
            given.append(np.where(status >= 0, out[:, 0].astype(int), -1))
            barrier.wait(60)
        return given

    loading = thread(load)
    held = []
    old = np.full((len(offsets), PAGE), 1, np.uint8)
    new = np.full((len(offsets), PAGE), 2, np.uint8)
    for _ in range(rounds):
        z.store_many(offsets, old)
        barrier.wait(60)
        z.store_many(offsets, new)
        barrier.wait(60)
        status = np.zeros(len(offsets), np.int8)
        out = z.load_many(offsets, status=status)
        held.append(np.where(status >= 0, out[:, 0].astype(int), -1))
    for before, after in zip(loading.join(), held, strict=True):
        assert ((before == 2) | (after == 2)).all(), (
            "a page that was stored was neither given nor held"
        )


def test_a_damaged_same_filled_page_is_not_taken(engine):
    z = engine(checksum=True)
    z[0] = b"\1" * PAGE
    z._object(0, b"\2")
    for attempt in (lambda: z.pop(0), z.popitem, lambda: z.setdefault(0, page(1))):
        with pytest.raises(PageCorruptError):
            attempt()
        assert 0 in z
    z.invalidate(0)


# ---- pages in a backing store --------------------------------------------------------------------


@pytest.fixture
def backed(engine, memory_store):
    """An engine without a pool, and its backing store, to which all pages go."""
    store = memory_store()
    return engine(backing=store, max_pool_bytes=0), store


def test_pop_from_a_backing_store(backed):
    z, store = backed
    z.update({1: page(1), 2: page(2)})
    assert z.pop(1) == page(1)
    assert z.popitem() == (2, page(2))
    assert (len(z), store.pages) == (0, {})
    assert z.pop(2, None) is None


def once(call):
    """A hook that does something the first time."""
    calls = [call]
    return lambda offsets: calls.pop()() if calls else None


def test_a_page_stored_during_pop_from_a_backing_store(backed):
    z, store = backed
    z[1] = page(1)
    store.on_read = once(lambda: z.store(1, page(2)))
    assert z.pop(1) == page(2)
    assert (len(z), store.pages) == (0, {})


def test_two_pops_from_a_backing_store(backed):
    z, store = backed
    z[1] = page(1)
    inner = []
    store.on_read = once(lambda: inner.append(z.pop(1)))
    with pytest.raises(KeyError):
        z.pop(1)
    assert inner == [page(1)]
    assert store.pages == {}


def test_pop_of_a_page_on_its_way_to_the_store(backed, gate, thread):
    z, store = backed
    z[1] = page(1)
    store.on_write = gate()
    storing = thread(z.store, 1, page(2))
    with store.on_write:
        popping = thread(z.pop, 1)
        setting = thread(z.setdefault, 2, page(3))
        popping_other = thread(z.pop, 7, None)
        assert popping_other.join() is None, "which waits for nobody"
    storing.join()
    assert popping.join() == page(2)
    assert setting.join() == page(3)
    assert list(z) == [2]


def test_pop_during_writeback(engine, memory_store):
    # The page is taken while it is being written: what the store then has is in vain.
    store = memory_store()
    z = engine(backing=store, shrinker_enabled=False)
    z.update({1: page(1), 2: page(2)})
    taken = []
    store.on_write = once(lambda: taken.append(z.pop(1)))
    z.shrink(2)
    assert taken == [page(1)]
    assert list(z.items()) == [(2, page(2))]
    assert set(store.pages) <= {2}


# ---- setdefault ----------------------------------------------------------------------------------


def test_setdefault_keeps_what_another_stored_meanwhile(hooked):
    z, hooks = hooked
    hooks.on_compress = lambda: z.store(0, page(1))
    assert z.setdefault(0, page(2)) == page(1)
    assert z[0] == page(1)
    hooks.on_compress = lambda: z.store(1, bytes(PAGE))
    assert z.setdefault(1, page(2)) == z[1] == bytes(PAGE)


def test_setdefault_keeps_what_another_stored_in_the_backing_store(backed, codec):
    z, store = backed
    hooks = Hooked()
    z.compressor = codec(hooks.compress, hooks.decompress)
    z.parameters["max_pool_bytes"] = "1MiB"

    def meanwhile():
        z.parameters["max_pool_bytes"] = 0
        z[0] = page(1)

    hooks.on_compress = meanwhile
    assert z.setdefault(0, page(2)) == z[0] == page(1)
    assert z.setdefault(1, page(2)) == z[1] == page(2), "written through"
    assert set(store.pages) == {0, 1}


@pytest.mark.parametrize("limit", ["1MiB", 0])
def test_a_setdefault_that_goes_to_the_backing_store_keeps_what_another_stored(
    backed, codec, limit
):
    z, store = backed
    hooks = Hooked()
    z.compressor = codec(hooks.compress, hooks.decompress)
    z.parameters["max_pool_bytes"] = "1MiB"

    def meanwhile():
        z.parameters["max_pool_bytes"] = limit
        z[0] = page(1)
        raise ValueError("no compressing today")

    hooks.on_compress = meanwhile
    assert z.setdefault(0, page(2)) == z[0] == page(1)
    assert set(store.pages) == (set() if limit else {0})


def test_a_refused_setdefault_leaves_what_another_stored(hooked):
    z, hooks = hooked

    def meanwhile():
        z.store(0, page(1))
        z.parameters["reject_compress_poor"] = True

    hooks.on_compress = meanwhile
    with pytest.raises(zswap.Error, match="reject_compress_poor"):
        z.setdefault(0, random.Random(1).randbytes(PAGE))
    assert z[0] == page(1)


def test_setdefault_leaves_the_page_though_loads_free_it(hooked):
    z, _ = hooked
    z[0] = page(1)
    z.parameters["exclusive_loads"] = True
    assert z.setdefault(0, page(2)) == page(1)
    assert 0 in z


def test_setdefault_without_a_page(hooked):
    z, _ = hooked
    with pytest.raises(TypeError, match="NoneType"):
        z.setdefault(0)
    with pytest.raises(ValueError, match="5 bytes"):
        z.setdefault(0, b"hello")
    assert 0 not in z
    z[0] = page(1)
    assert z.setdefault(0) == page(1)
    z.parameters["max_pool_bytes"] = 0
    with pytest.raises(PoolLimitError):
        z.setdefault(1, page(1))


# ---- update, |= and clear ------------------------------------------------------------------------


def test_update_from_an_engine_that_changes(hooked, engine):
    z, hooks = hooked
    z.update({n: page(n) for n in range(4)})
    other = engine()
    hooks.on_decompress = lambda: z.invalidate(2)
    other.update(z)
    assert dict(other.items()) == {n: page(n) for n in (0, 1, 3)}


def test_update_from_itself_brings_no_old_page_back(hooked):
    z, hooks = hooked
    z.update({n: page(n) for n in range(4)})
    hooks.on_decompress = lambda: z.store(0, page(9))
    z.update(z)
    z |= z
    assert hooks.on_decompress is not None, "nothing is read, so nothing old is written"


def test_two_updates_and_a_clear_come_one_after_another(hooked, thread):
    z, hooks = hooked
    started = []

    def meanwhile():
        # In the middle of the first update: these have to wait.
        started.append(thread(z.update, {n: page(100 + n) for n in range(8)}))
        started.append(thread(z.update, [(50, page(50))]))  # pairs wait for nobody
        started[1].join()

    hooks.on_compress = meanwhile
    z.update({n: page(n) for n in range(8)})
    started[0].join()
    assert dict(z.items()) == {n: page(100 + n) for n in range(8)} | {50: page(50)}

    hooks.on_compress = lambda: started.append(thread(z.clear))
    z |= {n: page(n) for n in range(8)}
    started[2].join()
    assert len(z) == 0


def test_update_in_place(hooked):
    z, _ = hooked
    same = z
    z |= {1: page(1)}
    z |= [(2, page(2))]
    assert z is same
    assert z == {1: page(1), 2: page(2)}
    z.update()
    z.update({}, **{})
    with pytest.raises(TypeError):
        z.update(name=page(1))
    with pytest.raises(ValueError, match="5 bytes"):
        z.update([(3, page(3)), (4, b"hello")])
    assert list(z) == [1, 2, 3]


# ---- comparison ----------------------------------------------------------------------------------


def test_equal_mappings(hooked, engine):
    z, _ = hooked
    other = engine("zstd")
    assert z == other
    z.update({1: page(1), 2: bytes(PAGE)})
    assert z != other
    other.update(z)
    assert z == other
    for held in (
        dict(z.items()),
        collections.OrderedDict(z.items()),
        {1: bytearray(page(1)), 2: memoryview(bytes(PAGE))},
    ):
        assert z == held
        assert held == z
    assert z == {1: np.frombuffer(page(1), np.uint64), 2: np.zeros((64, 64), np.uint8)}
    for different in (
        {},
        {1: page(1)},
        {1: page(1), 2: page(2)},
        {1: page(1), 3: bytes(PAGE)},
        {1: page(1), 2: None},
        5,
    ):
        assert z != different
        assert different != z
    missing = collections.defaultdict(lambda: bytes(PAGE), {1: page(1), 3: bytes(PAGE)})
    assert z != missing
    assert 2 not in missing


def test_an_engine_equals_itself_first(hooked):
    z, _ = hooked
    z[1] = page(1)
    z.close()
    assert z == z
    assert z != {}
    assert z in [z]
    assert len({z, z}) == 1


def test_looking_frees_nothing(hooked, engine):
    z, _ = hooked
    z.update({1: page(1), 2: bytes(PAGE)})
    z.parameters["exclusive_loads"] = True
    assert z == {1: page(1), 2: bytes(PAGE)}
    assert page(1) in z.values()
    assert (1, page(1)) in z.items()
    assert (1, page(2)) not in z.items()
    assert "nonsense" not in z.items()
    other = engine()
    other.update(z)
    assert len(z) == len(other) == 2


# ---- a subclass whose items are no pages ---------------------------------------------------------


class Texts(ZSwap):
    """Keeps texts."""

    def __getitem__(self, offset):
        """Give a text."""
        return super().__getitem__(offset).rstrip(b"\0").decode()

    def __setitem__(self, offset, text):
        """Keep a text."""
        super().__setitem__(offset, text.encode().ljust(self.page_size, b"\0"))


def test_a_subclass_with_items_of_its_own():
    with Texts(max_pool_bytes="1MiB") as z:
        z.update({1: "one"})
        z |= {2: "two"}
        assert z.setdefault(1, "else") == "one"
        assert z.setdefault(3, "three") == "three"
        assert z.pop(1) == "one"
        assert z == {2: "two", 3: "three"}
        assert ("two" in z.values(), (2, "two") in z.items(), list(z.items())) == (
            True,
            True,
            [(2, "two"), (3, "three")],
        )
        assert z.popitem() == (2, "two")
        assert z.pop(2, None) is None
        z.clear()
        assert not z


# ---- swapoff(drain=True) -------------------------------------------------------------------------


def test_a_page_stored_while_its_offset_is_given(hooked):
    z, hooks = hooked
    z.swapon(1)
    for offset in range(3):
        z.store(offset, page(offset), swap_type=1)
    hooks.on_decompress = lambda: z.store(0, page(10), swap_type=1)
    given = []
    for offset, held in z.swapoff(1, drain=True):
        if offset == 1 and held == page(1):
            z.store(1, page(11), swap_type=1)  # at the offset that is being given
        given.append((offset, held))
    assert sorted(given) == sorted([(0, page(10)), (1, page(1)), (1, page(11)), (2, page(2))])
    with pytest.raises(ValueError, match="area"):
        z.store(1, page(1), swap_type=1)


def test_the_end_of_a_drain(hooked, thread):
    # Of many that store until the area is gone, each page is given or refused.
    z, _ = hooked
    z.swapon(1)
    stop = threading.Event()

    def fill(first):
        kept = {}
        for offset in range(first, 1 << 20, 4):
            try:
                z.store(offset, page(offset), swap_type=1)
            except ValueError:
                return kept
            kept[offset] = page(offset)
            if stop.is_set():
                return kept
        return kept

    filling = [thread(fill, n) for n in range(4)]
    given = {}
    for offset, held in z.swapoff(1, drain=True):
        given[offset] = held
        if len(given) > 200:
            stop.set()
    kept = {offset: held for t in filling for offset, held in t.join().items()}
    assert given == kept


def test_a_sealed_area_refuses_stores_and_gives_what_it_holds(backed):
    z, _ = backed
    z.swapon(1)
    z.store(0, bytes(PAGE), swap_type=1)
    z[1] = page(1)
    for area in (0, 1):
        z._seal(area, True)
        with pytest.raises(ValueError, match="area"):
            z.store(5, bytes(PAGE) if area else page(5), swap_type=area)
        with pytest.raises(ValueError, match="online"):
            z._seal(area, True)
        with pytest.raises(ValueError, match="online"):
            z.swapon(area)
    assert z.load(0, swap_type=1) == bytes(PAGE)
    assert z[1] == page(1)
    z._validate()
    z._seal(1, False)
    z.store(5, bytes(PAGE), swap_type=1)
    z.swapoff(0)
    z.swapoff(1)
    for area in (1, 256):
        with pytest.raises(ValueError, match=str(area)):
            z._seal(area, True)


def test_a_drain_that_nobody_ends_leaves_the_area_online(hooked, monkeypatch):
    z, _ = hooked
    z.swapon(1)
    z.store(0, page(0), swap_type=1)
    drain = z.swapoff(1, drain=True)
    assert next(drain) == (0, page(0))
    drain.close()
    z.store(1, page(1), swap_type=1)
    # Sealed, then a page that cannot be read: the area takes pages in again.
    original = z._seal

    def seal(area, sealed):
        if sealed:
            z.store(2, page(2), swap_type=1)
        original(area, sealed)

    monkeypatch.setattr(z, "_seal", seal)
    drain = z.swapoff(1, drain=True)
    assert [next(drain), next(drain)] == [(1, page(1)), (2, page(2))]
    with pytest.raises(ValueError, match="area"):
        z.store(3, page(3), swap_type=1)
    drain.close()
    z.store(3, page(3), swap_type=1)
    assert z.load(3, swap_type=1) == page(3)
