"""`zswap.ObjectStore`: objects of any kind and size, held compressed under keys."""

import array
import copy
import datetime
import os
import pickle
import random
import threading
from collections import OrderedDict
from contextlib import suppress
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import zswap
from hooks.faults import FOREVER, fault
from zswap import Error, ObjectStore, PageCorruptError, PoolLimitError

LIMIT = "64MiB"


@pytest.fixture
def store():
    with ObjectStore(LIMIT) as store:
        yield store
        if not store.closed:
            whole(store)


def whole(store):
    """Every structure of both engines agrees, and no page is held that no value has."""
    for engine in store._engines:
        engine._validate()
    if len(store) == 0:
        assert [len(engine) for engine in store._engines] == [0, 0]


def noise(n, seed=0):
    return random.Random(seed).randbytes(n)


class Thing:
    """An object with a large buffer in it, and a way to fail."""

    def __init__(self, data, fails=None):
        self.data, self.fails = data, fails

    def __eq__(self, other):
        return np.array_equal(self.data, other.data)

    __hash__ = None

    def __getstate__(self):
        if self.fails:
            raise self.fails
        return self.__dict__


SIZES = [0, 1, 7, 1000, 4095, 4096, 4097, 10_000, 65535, 65536, 65537, 200_000]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", [bytes, bytearray, memoryview], ids=lambda t: t.__name__)
@pytest.mark.parametrize("content", ["zeros", "noise", "ends in zeros"])
def test_bytes_of_any_length(store, size, make, content):
    data = {
        "zeros": bytes(size),
        "noise": noise(size),
        "ends in zeros": noise(size)[: size // 2].ljust(size, b"\0"),
    }[content]
    store["x"] = make(data)
    assert type(store["x"]) is make
    assert store["x"] == data
    del store["x"]


@pytest.mark.parametrize(
    "value",
    [
        np.arange(100_000),
        np.arange(12).reshape(3, 4),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(1000)[::3],
        np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
        np.array(5.5),
        np.empty((0, 3)),
        np.array(["2026-11-26", "NaT"], "datetime64[D]"),
        np.zeros(3, [("a", "i4"), ("b", "S3")]),
        np.array([b"x", b"yz"]),
        np.arange(5, dtype=">i8"),
        np.zeros(70_000, bool),
        np.zeros(4, "S0"),
        np.array([1, "a", None], object),
        np.ma.masked_array([1, 2], [0, 1]),
        np.float32(2.5),
    ],
    ids=lambda v: f"{type(v).__name__}-{v.dtype}-{v.shape}",
)
def test_arrays_come_back_as_they_were(store, value):
    store[1] = value
    found = store[1]
    assert type(found) is type(value)
    assert (found.dtype, found.shape) == (value.dtype, value.shape)
    np.testing.assert_array_equal(found, value)
    if type(value) is np.ndarray:
        assert found.flags.writeable
        contiguous = value.flags.c_contiguous or not value.flags.f_contiguous
        assert found.flags.c_contiguous if contiguous else found.flags.f_contiguous


@pytest.mark.parametrize(
    "value",
    [
        None,
        1.5,
        "text " * 10_000,
        {"a": [1, 2, (3,)], 5: {6}},
        datetime.date(2026, 11, 26),
        array.array("d", range(9000)),
        Thing(np.arange(50_000)),
        [np.arange(50_000), bytearray(100_000), {"deep": np.ones((300, 300))}],
        OrderedDict(a=1),
    ],
    ids=lambda v: type(v).__name__,
)
def test_any_object_comes_back_equal(store, value):
    store["k"] = value
    found = store["k"]
    assert type(found) is type(value)
    if isinstance(value, list):
        np.testing.assert_array_equal(found[0], value[0])
        np.testing.assert_array_equal(found[2]["deep"], value[2]["deep"])
        assert found[0].flags.writeable
    else:
        assert found == value


def test_buffers_of_a_pickle_lie_beside_it(store):
    """Not in it: else a copy would be made of each."""
    store["k"] = Thing(np.arange(500_000))
    assert len(store._map["k"].parts) == 2
    assert zswap.objects._length(store._map["k"].parts[0]) < 1000


@pytest.mark.parametrize(
    "value", [memoryview(np.arange(12.0)), memoryview(np.arange(12).reshape(3, 4))[::2]]
)
def test_memoryviews_keep_format_and_shape(store, value):
    store[0] = value
    assert store[0] == value
    assert (store[0].format, store[0].shape) == (value.format, value.shape)


@pytest.mark.parametrize("key", ["a", "", b"a", 0, -5, 1 << 200, True, (), ("a", 1, (b"", 2))])
def test_keys(store, key):
    store[key] = b"1"
    assert store[key] == b"1"
    assert list(store) == [key]
    assert key in store


@pytest.mark.parametrize("key", [None, 1.0, ("a", None), [1], frozenset(), (1, (2, 3.0))])
def test_other_keys_are_refused(store, key):
    with pytest.raises(TypeError, match=r"a key is a str, bytes, an int or a tuple of those, not"):
        store[key] = b""
    with pytest.raises(TypeError, match="a key is"):
        store.setdefault(key, b"")
    assert len(store) == 0


# ---- as a dict -----------------------------------------------------------------------------------

VALUES = st.one_of(
    st.sampled_from(["", "a" * 5000, "1000", "9000", "zeros", "70000"]).map(
        lambda s: noise(int(s)) if s.isdigit() else bytes(70_000) if s == "zeros" else s.encode()
    ),
    st.integers(),
    st.text(max_size=5),
    st.tuples(st.integers(), st.just(bytearray(6000))),
)
KEYS = st.one_of(st.integers(0, 4), st.sampled_from(["a", b"a", ("a", 1)]))


def test_what_cannot_be_freed_for_lack_of_memory_is_no_endless_task():
    with ObjectStore("8MiB") as store:
        large = noise(70_000)
        for n in range(3):
            store[n] = large
        with fault("EXTENT", times=FOREVER):
            del store[1]
            with suppress(MemoryError):
                store["more"] = large
        store["more"] = large
        assert set(store) == {0, 2, "more"}
        whole(store)


class Model(RuleBasedStateMachine):
    """A store against a dict."""

    def __init__(self):
        super().__init__()
        self.store, self.dict = ObjectStore("8MiB"), {}

    def teardown(self):
        self.store.close()

    @rule(key=KEYS, value=VALUES)
    def set(self, key, value):
        self.store[key] = self.dict[key] = value

    @rule(key=KEYS)
    def delete(self, key):
        if key in self.dict:
            del self.store[key], self.dict[key]
        else:
            with pytest.raises(KeyError):
                del self.store[key]

    @rule(key=KEYS)
    def pop(self, key):
        assert self.store.pop(key, "none") == self.dict.pop(key, "none")

    @rule(key=KEYS, value=VALUES)
    def setdefault(self, key, value):
        assert self.store.setdefault(key, value) == self.dict.setdefault(key, value)

    @rule()
    def popitem(self):
        if self.dict:
            assert self.store.popitem() == self.dict.popitem()
        else:
            with pytest.raises(KeyError, match="empty"):
                self.store.popitem()

    @rule(some=st.dictionaries(KEYS, VALUES, max_size=3))
    def update(self, some):
        self.store.update(some)
        self.dict.update(some)

    @rule()
    def clear(self):
        self.store.clear()
        self.dict.clear()

    @rule(key=KEYS, value=VALUES, site=st.sampled_from(["ZPOOL_MALLOC", "COMPRESS", "EXTENT"]))
    def set_without_memory(self, key, value, site):
        with fault(site, times=FOREVER):
            try:
                self.store[key] = value
            except (MemoryError, Error):
                return
        self.dict[key] = value

    @rule(key=KEYS)
    def delete_without_memory(self, key):
        if key in self.dict:
            with fault("EXTENT", times=FOREVER):
                del self.store[key], self.dict[key]

    @invariant()
    def agrees(self):
        assert list(self.store.items()) == list(self.dict.items())
        assert list(reversed(self.store)) == list(reversed(self.dict))
        assert len(self.store) == len(self.dict)
        whole(self.store)


TestModel = Model.TestCase


def test_equality_is_of_what_is_held_and_hash_of_identity(store):
    store.update(a=b"1", b=[2])
    assert store == {"a": b"1", "b": [2]}
    assert store != {"a": b"1"}
    assert len({store, store}) == 1


def test_iteration_survives_changes(store):
    store.update((n, n) for n in range(10))
    seen = []
    for key, value in store.items():
        seen.append(key)
        assert key == value
        store.pop(key + 1, None)
        store[key + 100] = 0
    assert seen == [0, 2, 4, 6, 8]
    values = iter(store.values())
    store.clear()
    assert list(values) == []


def test_a_value_cannot_be_changed_from_outside(store):
    value = bytearray(b"abc")
    store["a"] = value
    value[0] = 0
    found = store["a"]
    found[1] = 0
    assert store["a"] == b"abc"


# ---- all or nothing ------------------------------------------------------------------------------


def test_over_the_limit_what_was_there_stays():
    with ObjectStore("4MiB") as store:
        store["a"] = noise(1 << 20)
        for value in (noise(8 << 20), [noise(2 << 20), np.frombuffer(noise(5 << 20), np.uint8)]):
            with pytest.raises(PoolLimitError, match=r"limit of 4194304 bytes; delete values, rai"):
                store["a"] = value
            assert store["a"] == noise(1 << 20)
            whole(store)
        assert store.stats().memory_bytes < 4 << 20
        store.max_memory = "64MiB"
        store["a"] = noise(8 << 20)
        assert store["a"] == noise(8 << 20)


def fill(store, number, size):
    """Insert until it is full; returns how many it took."""
    for held in range(100_000):
        try:
            store[number, held] = noise(size, held)
        except PoolLimitError:
            return held
    raise AssertionError("it is never full")


@pytest.mark.parametrize("sizes", [(1000, 100_000), (100_000, 1000)])
def test_large_and_small_values_share_the_limit(sizes):
    """Whatever comes first, most of the limit can be filled with either."""
    with ObjectStore("8MiB") as store:
        for number, size in enumerate(sizes):
            held = fill(store, number, size)
            assert held * size > 5 << 20
            assert store.stats().memory_bytes < 8 << 20
            for at in range(held):
                assert store[number, at] == noise(size, at)
            store.clear()
            whole(store)


@pytest.mark.parametrize("error", [ValueError("no"), KeyError("no"), RuntimeError("no")])
def test_an_object_that_does_not_pickle_changes_nothing(store, error):
    store["a"] = 1
    with pytest.raises(type(error), match="no"):
        store["a"] = Thing(b"", error)
    assert store["a"] == 1


class Unmakeable:
    """Pickles, and cannot be made again."""

    failures: ClassVar[list] = []

    def __reduce__(self):
        return _make, (type(self),)


def _make(cls):
    raise cls.failures[0]


@pytest.mark.parametrize("error", [KeyError("k"), ValueError("v"), EOFError("e")])
def test_what_unpickling_raises_comes_through_and_the_value_stays(store, error):
    store["k"] = Unmakeable()
    Unmakeable.failures = [error]
    for call in (store.__getitem__, store.pop):
        with pytest.raises(type(error)) as caught:
            call("k")
        assert caught.value is error
    assert "k" in store
    del store["k"]


# ---- pickle, or not ------------------------------------------------------------------------------


def test_without_pickle_only_bytes_and_arrays_are_taken():
    with ObjectStore(LIMIT, pickle=False) as store:
        store["a"] = b"1"
        store["b"] = np.arange(3)
        for value in ("text", 1, [b""], np.array([None])):
            with pytest.raises(TypeError, match="would have to be pickled"):
                store["c"] = value
        assert len(store) == 2


def test_dumps_and_loads_take_pickles_place():
    with ObjectStore(LIMIT, pickle=False, dumps=str.encode, loads=bytes.decode) as store:
        store["a"] = "text" * 5000
        store["b"] = b"bytes"
        assert store["a"] == "text" * 5000
        assert store["b"] == b"bytes"
        with pytest.raises(TypeError):
            store["c"] = 5
    with pytest.raises(TypeError, match="together"):
        ObjectStore(LIMIT, dumps=str.encode)


# ---- files ---------------------------------------------------------------------------------------


@pytest.fixture
def backed(tmp_path):
    with ObjectStore("4MiB", backing=tmp_path / "values") as store:
        yield store


def values(n):
    rng = random.Random(n)
    return [rng.randbytes(rng.choice((500, 3000, 70_000, 300_000))) for _ in range(n)]


def test_more_than_the_limit_goes_to_the_files(backed):
    for number, value in enumerate(values(200)):
        backed[number] = [value]  # a pickle
    stats = backed.stats()
    assert stats.value_bytes > 3 * (4 << 20)
    assert stats.backed_bytes > 8 << 20
    for number, value in enumerate(values(200)):
        assert backed[number] == [value]
    backed.clear()
    assert backed.stats().backed_bytes == backed.stats().value_bytes == 0
    whole(backed)


def test_evict_frees_memory(backed):
    for number in range(100):
        backed[number] = noise(20_000, number)
    before = backed.stats()
    assert backed.evict("512KiB") >= 512 << 10
    assert backed.stats().compressed_bytes < before.compressed_bytes - (400 << 10)
    assert backed.weight(0) == 0 < backed.weight(99)
    assert backed.evict(1 << 40) > 0
    assert backed.evict(1) == 0
    assert all(backed[number] == noise(20_000, number) for number in range(100))


def test_without_a_backing_evict_frees_nothing(store):
    store["a"] = noise(100_000)
    assert store.evict(1000) == 0


def test_a_forged_file_never_reaches_pickle(backed, tmp_path, monkeypatch):
    """Whoever writes to the files gets a PageCorruptError at most."""
    for number in range(40):
        backed[number] = {"n": number, "data": noise(30_000, number)}
    backed.evict(1 << 40)
    assert backed.stats().compressed_bytes == 0
    forged = pickle.dumps({"forged": True}).ljust(65536, b".")
    for name in ("values", "values-small"):
        with open(tmp_path / name, "r+b") as file:
            size = os.fstat(file.fileno()).st_size
            for at in range(65536, min(size, 80 * 65536), 65536):
                file.seek(at)
                file.write(forged)
    made = []
    monkeypatch.setattr(zswap.objects.pickle, "loads", lambda *a, **k: made.append(a))
    for number in range(40):
        with pytest.raises(PageCorruptError):
            backed[number]
    assert made == []


def test_files_in_clear_are_for_what_is_not_unpickled(tmp_path):
    path = tmp_path / "values"
    for more in ({}, {"dumps": pickle.dumps, "loads": pickle.loads, "pickle": False}):
        with pytest.raises(ValueError, match="encrypt=False lets whoever writes"):
            ObjectStore(LIMIT, backing=path, encrypt=False, **more)
    assert not path.exists()
    with ObjectStore(LIMIT, backing=path, encrypt=False, pickle=False) as store:
        store["a"] = noise(100_000)
        store.evict(1 << 30)
        assert store["a"] == noise(100_000)


# ---- threads, close, fork ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("backing", [False, True])
def test_threads_never_see_another_keys_value(tmp_path, backing):
    failures = []
    sizes = (10, 900, 4096, 5000, 70_000)

    def value(key, n):
        head = f"{key} {n} ".encode()
        return (head * (sizes[n % 5] // len(head) + 1))[: max(sizes[n % 5], len(head))]

    def work(number):
        rng = random.Random(number)
        try:
            for n in range(1500):
                key = rng.randrange(8)
                do = rng.random()
                if do < 0.4:
                    store[key] = value(key, n) if n % 2 else [value(key, n)]
                elif do < 0.5:
                    store.pop(key, None)
                elif do < 0.55:
                    store.setdefault(key, value(key, n))
                else:
                    found = store.get(key)
                    if found is not None:
                        data = found if type(found) is bytes else found[0]
                        head = data.split(b" ", 2)
                        assert data == value(key, int(head[1]))
                        assert int(head[0]) == key
        except BaseException as error:
            failures.append(error)

    with ObjectStore("8MiB", backing=tmp_path / "f" if backing else None) as store:
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        if backing:
            for _ in range(10):
                store.evict("1MiB")
        for thread in threads:
            thread.join()
        assert failures == []
        store.clear()
        whole(store)
        assert store.stats().value_bytes == 0


CALLS = {
    "get": lambda s: s["a"],
    "get large": lambda s: s["b"],
    "set": lambda s: s.__setitem__("a", b"2"),
    "set large": lambda s: s.__setitem__("a", noise(100_000)),
    "set object": lambda s: s.__setitem__("a", [np.arange(9999)]),
    "del": lambda s: s.__delitem__("a"),
    "contains": lambda s: "a" in s,
    "len": len,
    "iter": list,
    "reversed": lambda s: list(reversed(s)),
    "items": lambda s: list(s.items()),
    "values": lambda s: list(s.values()),
    "keys": lambda s: list(s.keys()),
    "pop": lambda s: s.pop("a", None),
    "popitem": lambda s: s.popitem(),
    "setdefault": lambda s: s.setdefault("c", 1),
    "update": lambda s: s.update(c=1),
    "clear": lambda s: s.clear(),
    "weight": lambda s: s.weight("a"),
    "stats": lambda s: s.stats(),
    "evict": lambda s: s.evict(1),
    "max_memory": lambda s: setattr(s, "max_memory", "9MiB"),
    "process_limit": lambda s: setattr(s, "process_limit", "9GiB"),
    "cached": lambda s: s.cached()(lambda: 1)(),
    "with": lambda s: s.__enter__(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_after_close_all_is_a_value_error(call):
    store = ObjectStore(LIMIT)
    store["a"], store["b"] = b"1", noise(100_000)
    store.close()
    with pytest.raises(ValueError, match="the ObjectStore is closed"):
        call(store)
    store.close()
    assert store.closed
    assert repr(store) == "<ObjectStore closed>"


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_in_a_forked_child_all_is_a_value_error(call):
    with ObjectStore(LIMIT) as store:
        store["a"], store["b"] = b"1", noise(100_000)
        store._lock.__enter__()  # as another thread may have at that moment
        child = os.fork()
        if child == 0:
            try:
                call(store)
            except ValueError as error:
                os._exit("parent process" not in str(error))
            os._exit(2)
        store._lock.__exit__(None, None, None)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert store["a"] == b"1"


def test_close_while_others_work():
    for _ in range(10):
        store = ObjectStore(LIMIT)
        store["a"] = noise(300_000)
        begun, failures = threading.Barrier(4), []

        def work(number, store=store, begun=begun, failures=failures):
            begun.wait()
            try:
                for n in range(10**6):
                    if number == 0:
                        store["a"] = noise(100_000 * (n % 3))
                    elif number == 1:
                        store[n % 5] = n
                    else:
                        store.get("a")
            except ValueError as error:
                if "the ObjectStore is closed" not in str(error):
                    failures.append(error)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        begun.wait()
        store["late"] = b"1"
        store.close()
        for thread in threads:
            thread.join()
        assert failures == []


# ---- the rest ------------------------------------------------------------------------------------


def test_figures(store):
    assert store.stats().to_dict()["values"] == 0
    store["a"], store["b"] = bytes(1000), np.zeros(100_000)
    store["c"] = [noise(1000)]
    stats = store.stats()
    assert stats.values == 3
    assert 802_000 < stats.value_bytes < 802_200
    assert stats.compressed_bytes < 1200
    assert stats.ratio > 1
    assert stats.max_memory == 64 << 20 == store.max_memory
    assert store.weight("a") == store.weight("b") == 0
    assert 1000 < store.weight("c") < 1100
    with pytest.raises(KeyError):
        store.weight("d")
    assert repr(store) == (
        f"<ObjectStore: 3 values, {zswap.meminfo.format_bytes(stats.value_bytes)} in "
        f"{zswap.meminfo.format_bytes(store.stats().memory_bytes)}, limit 64.0 MiB>"
    )


def test_repr_and_errors_show_no_values(store):
    store["a"] = "secret"
    assert "secret" not in repr(store)
    with ObjectStore("2MiB", pickle=False) as other, pytest.raises(TypeError) as caught:
        other["a"] = "secret"
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"max_memory": 1 << 20}, ValueError),
        ({"max_memory": -1}, ValueError),
        ({"process_limit": -1}, ValueError),
        ({"process_limit": "auto:"}, ValueError),
        ({"process_limit": 1.5}, TypeError),
        ({"max_memory": "much"}, ValueError),
        ({"max_memory": 1.5}, TypeError),
        ({"compressor": "nonsense"}, zswap.CompressorNotFound),
        ({"zpool": "nonsense"}, ValueError),
        ({"backing": object()}, TypeError),
        ({"backing": "/nowhere/at/all"}, zswap.BackingError),
    ],
)
def test_wrong_arguments(arguments, error):
    with pytest.raises(error):
        ObjectStore(**{"max_memory": LIMIT, **arguments})


def test_it_is_neither_copied_nor_pickled(store):
    for call in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"dict\(store\)"):
            call(store)


@pytest.mark.parametrize("compressor", ["lz4", "zstd:1", "lref", "deflate", "test-objects-zlib"])
def test_compressors(compressor):
    import zlib

    if compressor.startswith("test"):
        zswap.register_compressor(compressor, zlib.compress, zlib.decompress)
    try:
        with ObjectStore(LIMIT, compressor=compressor) as store:
            for size in SIZES:
                store[size] = noise(size // 2) * 2
                store[str(size)] = noise(size)
            for size in SIZES:
                assert store[size] == noise(size // 2) * 2
                assert store[str(size)] == noise(size)
            whole(store)
    finally:
        if compressor.startswith("test"):
            zswap.unregister_compressor(compressor)


def test_a_small_value_costs_little_more_than_its_payload():
    """A kilobyte does not cost a page, and what is noted about it is some tens of bytes."""
    with ObjectStore(LIMIT) as store:
        for n in range(20_000):
            store[n] = noise(1000, n)
        stats = store.stats()
        assert stats.compressed_bytes / 20_000 < 1010
        assert stats.memory_bytes / 20_000 < 1064


# ---- cached --------------------------------------------------------------------------------------


def test_cached_calls_once(store):
    calls = []

    @store.cached("1MiB")
    def double(x, *, times=2):
        """Doubles."""
        calls.append(x)
        return [x] * times

    assert double(3) == double(3) == [3, 3]
    assert double(3, times=3) == [3, 3, 3]
    assert calls == [3, 3]
    info = double.cache_info()
    assert (info.hits, info.misses, info.currsize, info.maxbytes) == (1, 2, 2, 1 << 20)
    assert double.__doc__ == "Doubles."
    assert double.__wrapped__(1) == [1, 1]
    double.cache_clear()
    assert len(store) == 0
    assert double.cache_info().currsize == double.cache_info().currbytes == 0


def test_cached_keeps_within_its_bytes(store):
    @store.cached(100_000)
    def make(n):
        return noise(20_000, n)

    for n in range(10):
        make(n)
        make(0)  # stays, since it is asked for
    info = make.cache_info()
    assert info.currbytes <= 100_000
    assert info.currsize == len(store) == 4
    assert info.misses == 10


def test_cached_makes_do_without_room():
    with ObjectStore("2MiB") as store:

        @store.cached()
        def make(n):
            return noise(4 << 20, n)

        assert make(1) == noise(4 << 20, 1)
        assert make.cache_info().currsize == 0


def test_cached_functions_do_not_share_results(store):
    one, two = store.cached()(lambda x: "one"), store.cached()(lambda x: "two")
    assert (one(1), two(1), one(1)) == ("one", "two", "one")
    store.clear()
    assert one(1) == "one"
    with pytest.raises(TypeError, match="hashable"):
        one([])


def test_the_process_is_kept_below_its_limit(tmp_path):
    """What the store takes is what the process leaves it, at least enough to work."""
    with ObjectStore("64MiB", process_limit="1MiB", backing=tmp_path / "file") as store:
        values = {n: os.urandom(50_000) for n in range(400)}
        store.update(values)
        assert store.process_limit == "auto:1048576"
        assert store.stats().memory_bytes < 10 << 20
        assert store.stats().backed_bytes > 8 << 20
        store.process_limit = None
        assert dict(store) == values
        store.process_limit = "auto"
        assert store.process_limit == "auto"
    with (
        ObjectStore("64MiB", process_limit="1MiB") as store,
        pytest.raises(
            zswap.PoolLimitError, match=r"process_limit leaves it now; .* or give a backing"
        ),
    ):
        store.update(values)
