"""Areas with variable=True: values of 1 to page_size bytes, which keep their length.

A machine of hypothesis compares one with a dict, for some compressors, zpools and backing stores at
a time; the profiles "ci" and "long" run all (HYPOTHESIS_PROFILE, see conftest.py).
"""

import asyncio
import contextlib
import os
import random
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

import zswap
from hooks.engine import object_of
from zswap import Status, SwapFile

PAGE = 4096
AREA = 7
AVAILABLE = {info.name for info in zswap.compressors() if info.available}
COMPRESSORS = [
    spec
    for spec in ("lz4", "lz4hc", "zstd:3", "lzo", "deflate:1", "lref", "lref:2", "test-values")
    if spec.partition(":")[0] in AVAILABLE | {"test-values"}
]
ZPOOLS = ["zsmalloc", "zsmalloc-kernel", "z3fold", "zbud"]
BACKINGS = [None, "plain", "packed", "encrypted", "memory"]
LENGTHS = [1, 2, 7, 8, 9, 63, 64, 65, 1000, 1024, 2048, 4000, 4088, 4095, 4096]


def value_of(kind, length, seed=0):
    rng = random.Random(f"{kind} {length} {seed}")
    if kind == "zeros":
        return bytes(length)
    if kind == "word":
        return (rng.randbytes(8) * 512)[:length]
    if kind == "tail":  # ends in zeros that are part of it
        return (rng.randbytes((length + 1) // 2) + bytes(length))[:length]
    if kind == "text":
        return (f"value {seed} of many " * PAGE).encode()[:length]
    return rng.randbytes(length)


KINDS = ["zeros", "word", "tail", "text", "noise"]
EVERY = [value_of(kind, length) for kind in KINDS for length in LENGTHS]


@pytest.fixture(autouse=True)
def python_compressor():
    """A compressor in Python."""
    zswap.register_compressor("test-values", lambda data: zlib.compress(data, 1), zlib.decompress)
    yield
    zswap.unregister_compressor("test-values")


def backing_of(kind, path, memory_store):
    if kind is None:
        return None
    if kind == "memory":
        return memory_store()
    return SwapFile(path, 400 * PAGE, packed=kind == "packed", encrypt=kind == "encrypted")


@pytest.fixture
def make(engine, memory_store, tmp_path):
    """Make an engine with an area of values, 7."""
    with contextlib.ExitStack() as files:

        def make(backing=None, **kwargs):
            quiet = {"shrinker_interval": 86400, "shrinker_enabled": False}
            z = engine(**{"max_pool_bytes": "64MiB"} | quiet | kwargs)
            store = backing_of(backing, tmp_path / "swap", memory_store)
            if isinstance(store, SwapFile):
                files.callback(store.close)
                files.callback(z.close)
            z.swapon(
                AREA, backing=store, encrypt=None if backing != "memory" else False, variable=True
            )
            return z

        yield make


@pytest.fixture
def z(make):
    return make()


def get(z, offset, **kwargs):
    return z.load(offset, swap_type=AREA, **kwargs)


def put(z, offset, value):
    z.store(offset, value, swap_type=AREA)


def check(z, values, start=0):
    for o, value in enumerate(values, start):
        assert z.length(o, swap_type=AREA) == len(value)
        assert get(z, o) == value


# ---- one way and back ----------------------------------------------------------------------------


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_every_value_comes_back(make, compressor, checksum):
    z = make("memory", compressor=compressor, checksum=checksum)
    for o, value in enumerate(EVERY):
        put(z, o, value)
    z._validate()
    check(z, EVERY)
    z.shrink(1000)
    assert z.stats().backed_pages > 50
    check(z, EVERY)
    z.parameters["promote"] = "always"
    check(z, EVERY)
    check(z, EVERY)
    z._validate()
    assert z.stats().promoted_pages > 50


@pytest.mark.parametrize("zpool", ZPOOLS)
@pytest.mark.parametrize("backing", BACKINGS)
def test_wherever_they_are(make, zpool, backing):
    z = make(backing, zpool=zpool)
    held = {}
    for o, value in enumerate(EVERY):
        try:
            put(z, o, value)
            held[o] = value
        except zswap.Error:  # of noise zbud holds no page
            assert zpool in ("zbud", "z3fold")
            assert backing is None
    z.shrink(40)
    z.recompress("zstd:9")
    z.compact()
    z.promote(range(20), swap_type=AREA)
    z.evict(range(10, 30), swap_type=AREA)
    z.compressor = "deflate:1"
    for o, value in held.items():
        assert get(z, o) == value, o
    assert dict(z.swapoff(AREA, drain=True)) == held


@pytest.mark.parametrize("page_size", [16384, 65536])
def test_of_larger_pages(make, page_size):
    z = make("memory", page_size=page_size)
    lengths = [1, 4095, 4096, 4097, page_size - 1, page_size]
    values = [value_of(kind, n) + bytes(n) for kind in KINDS for n in lengths]
    values = [v[:n] for v, n in zip(values, lengths * len(KINDS), strict=True)]
    for o, value in enumerate(values):
        put(z, o, value)
    check(z, values)
    z.shrink(1000)
    check(z, values)
    with pytest.raises(ValueError, match=f"1 to {page_size}"):
        put(z, 0, bytes(page_size + 1))


def test_a_value_takes_what_it_is_compressed_to(z):
    for o in range(1000):
        put(z, o, value_of("noise", 500, o))
    area = next(a for a in z.areas() if a.swap_type == AREA)
    assert area.variable
    assert area.compressed_bytes < 1000 * 510
    assert z.stats().pool_total_size < 1000 * 560
    put(z, 0, b"x" * 1000)
    assert len(object_of(z, 0, swap_type=AREA)) < 40


def test_the_parameters_say_that_zeros_are_trimmed_now():
    with zswap.ZSwap() as z:
        assert not z.parameters["trim_zeros"]
        z.swapon(AREA, 10, variable=True)
        assert z.parameters["trim_zeros"]


def test_values_of_nothing_or_too_much(z):
    put(z, 0, b"before")
    for value in (b"", bytes(PAGE + 1), bytearray(), np.zeros(0)):
        with pytest.raises(ValueError, match="1 to 4096"):
            put(z, 0, value)
        with pytest.raises(ValueError, match="1 to 4096"):
            z.store_many([0], [value], swap_type=AREA)
        with pytest.raises(ValueError, match="1 to 4096"):
            asyncio.run(z.astore(0, value, swap_type=AREA))
    for value in (None, 5, "text"):
        with pytest.raises(TypeError):
            put(z, 0, value)
    assert get(z, 0) == b"before"


def test_into_a_buffer(z):
    put(z, 0, b"some value")
    out = bytearray(b"." * 20)
    view = get(z, 0, out=out)
    assert isinstance(view, memoryview)
    assert view == b"some value"
    assert out == b"some value" + b"." * 10
    assert get(z, 0, out=bytearray(10)) == b"some value"
    assert get(z, 0, out=np.zeros(3, np.uint64)) == b"some value"
    assert get(z, 0, out=bytearray(PAGE)) == get(z, 0, out=bytearray(2 * PAGE)) == b"some value"
    with pytest.raises(ValueError, match="10 bytes are needed"):
        get(z, 0, out=bytearray(9))
    with pytest.raises(KeyError):
        get(z, 1, out=bytearray(9))
    z.parameters["exclusive_loads"] = True
    with pytest.raises(ValueError, match="4096 bytes are needed"):
        get(z, 0, out=bytearray(100))
    assert get(z, 0, out=bytearray(PAGE)) == b"some value"
    with pytest.raises(KeyError):
        get(z, 0)


def test_absent_values(z):
    for call in (get, lambda z, o: z.length(o, swap_type=AREA)):
        with pytest.raises(KeyError):
            call(z, 5)
    assert get(z, 5, absent="zeros") == bytes(PAGE)
    with pytest.raises(KeyError):
        z.length(5)
    z[5] = bytes(PAGE)
    assert z.length(5) == PAGE  # of a page
    z.swapoff(AREA)
    with pytest.raises(ValueError, match="no such swap area"):
        put(z, 5, bytes(PAGE))


def test_batches(make):
    z = make("memory")
    values = EVERY * 8
    assert (z.store_many(range(600), values, swap_type=AREA) >= 0).all()
    assert z.load_many(range(600), swap_type=AREA) == values
    z.shrink(300)
    assert z.load_many(range(599, -1, -1), swap_type=AREA) == values[::-1]
    status = np.full(3, 99, np.int8)
    assert z.load_many([0, 600, 1], swap_type=AREA, status=status) == [values[0], None, values[1]]
    assert status[1] == Status.ABSENT
    with pytest.raises(KeyError, match="600"):
        z.load_many([0, 600, 1], swap_type=AREA)
    assert z.load_many([], swap_type=AREA) == []
    assert len(z.store_many([], [], swap_type=AREA)) == 0
    with pytest.raises(ValueError, match="2 values for 3 offsets"):
        z.store_many([1, 2, 3], [b"a", b"b"], swap_type=AREA)
    with pytest.raises(ValueError, match="out is for pages"):
        z.load_many([1], bytearray(PAGE), swap_type=AREA)
    with pytest.raises(ValueError, match="not timed"):
        z.load_many([1], swap_type=AREA, ns=np.zeros(1, np.uint32))
    with pytest.raises(TypeError):
        z.store_many([1], bytes(PAGE), swap_type=AREA)
    z.set_quota(AREA, 0)
    z.swapon(AREA + 1, quota_bytes=0, variable=True)
    with pytest.raises(zswap.StoreError, match="AREA_QUOTA"):
        z.store_many([1], [b"abc"], swap_type=AREA + 1, errors="raise")


def test_parts_lie_in_the_value(make):
    z = make("memory")
    for backed in (False, True):
        put(z, 0, b"a value of 21 bytes..")
        if backed:
            z.shrink(1)
        assert z.load_part(0, 2, 5, swap_type=AREA) == b"value"
        for at, n in ((21, 1), (0, 22), (4000, 96)):
            with pytest.raises(ValueError, match="no part"):
                z.load_part(0, at, n, swap_type=AREA)
            with pytest.raises(ValueError, match="no part"):
                z.store_part(0, at, bytes(n), swap_type=AREA)
        z.store_part(0, 16, b"words", swap_type=AREA)
        assert get(z, 0) == b"a value of 21 bywords"
        if backed:
            z.shrink(1)
        z.store_part(0, 0, b"A", swap_type=AREA)
        assert get(z, 0) == b"A value of 21 bywords"
    put(z, 3, b"\0" * 9)
    z.store_part(3, 8, b"!", swap_type=AREA)
    assert get(z, 3) == b"\0" * 8 + b"!"
    z.store_part(4, 5, b"part", swap_type=AREA, absent="zeros")
    assert z.length(4, swap_type=AREA) == PAGE
    z.parameters["exclusive_loads"] = True
    assert z.load_part(0, 0, 1, swap_type=AREA) == b"A"
    assert z.length(0, swap_type=AREA) == 21  # it is taken as a whole or not at all


def test_what_is_for_pages_in_a_row(z):
    for call in (
        lambda: z.storev(0, [b"x"], swap_type=AREA),
        lambda: z.loadv(0, [bytearray(9)], swap_type=AREA),
        lambda: z._store_span(0, b"x", swap_type=AREA),
        lambda: z._load_span(0, 1, swap_type=AREA),
    ):
        with pytest.raises(ValueError, match="area 7 is variable"):
            call()


def test_awaited(make):
    z = make("memory")

    async def main():
        await asyncio.gather(*(z.astore(o, v, swap_type=AREA) for o, v in enumerate(EVERY)))
        z.shrink(50)
        found = await asyncio.gather(*(z.aload(o, swap_type=AREA) for o in range(len(EVERY))))
        assert found == EVERY
        with pytest.raises(KeyError):
            await z.aload(1000, swap_type=AREA)
        with pytest.raises(ValueError, match="out is for pages"):
            await z.aload(0, bytearray(PAGE), swap_type=AREA)
        z.parameters["exclusive_loads"] = True
        assert await z.aload(1, swap_type=AREA) == EVERY[1]

    asyncio.run(main())


def test_as_a_mapping(z):
    z.swapoff(0)
    z.swapon(0, variable=True)
    z.update({1: b"one", 2: b"two", 3: bytes(PAGE)})
    z[4] = b"\0"
    assert list(z.items()) == [(1, b"one"), (2, b"two"), (3, bytes(PAGE)), (4, b"\0")]
    assert z == {1: b"one", 2: b"two", 3: bytes(PAGE), 4: b"\0"}
    assert z.pop(1) == b"one"
    assert z.setdefault(2, b"other") == b"two"
    assert z.setdefault(9, b"nine") == z[9] == b"nine"
    assert z.popitem() == (2, b"two")
    z[3] = b"\0\0"  # one same-filled value in place of another
    assert z[3] == b"\0\0"


def test_an_area_may_come_back_as_the_other_kind(z):
    for n in range(4):
        put(z, n, value_of("noise", 10 + n))
        z.swapoff(AREA)
        z.swapon(AREA)
        z.store(n, value_of("noise", PAGE), swap_type=AREA)
        with pytest.raises(ValueError, match="4096 are needed"):
            put(z, n, b"short")
        assert get(z, n) == value_of("noise", PAGE)
        z._validate()
        z.swapoff(AREA)
        z.swapon(AREA, variable=True)
        with pytest.raises(KeyError):
            get(z, n)


@pytest.mark.parametrize("variable", [None, 1, "yes"])
def test_variable_is_a_bool(z, variable):
    with pytest.raises(TypeError, match="variable"):
        z.swapon(1, variable=variable)


@pytest.mark.parametrize("how", ["pool", "quota"])
def test_what_has_no_room_is_refused_or_goes_through(make, how):
    z = make()
    z.swapon(1, variable=True, quota_bytes=0 if how == "quota" else None)
    put(z, 0, b"kept")
    if how == "pool":
        z.parameters["max_pool_bytes"] = 0
    with pytest.raises(zswap.PoolLimitError):
        z.store(0, b"x" * 9, swap_type=1)
    z = make("memory", max_pool_bytes=0)
    for o, value in enumerate(EVERY):
        put(z, o, value)
    assert z.stats().written_through_pages > 50
    check(z, EVERY)


@pytest.mark.parametrize("wipe_on_free", [False, True])
def test_replaced_and_freed(make, wipe_on_free):
    z = make("packed", wipe_on_free=wipe_on_free, checksum=True)
    rng = random.Random(5)
    held = {}
    for step in range(600):
        o = rng.randrange(40)
        if rng.random() < 0.8:
            held[o] = rng.choice(EVERY)
            put(z, o, held[o])
        elif o in held:
            z.invalidate(o, swap_type=AREA)
            del held[o]
        if step % 50 == 0:
            z.shrink(rng.randrange(30))
    assert {o: get(z, o) for o in held} == held
    z._validate()


def test_many_threads(make, thread):
    z = make("memory", max_pool_bytes=60 * PAGE)

    def storm(seed):
        rng = random.Random(seed)
        for _ in range(400):
            o, n = rng.randrange(50), rng.choice(LENGTHS)
            put(z, o, bytes([n % 251 + 1]) * n)
            value = get(z, rng.randrange(50), absent="zeros")
            # a value of one moment: its bytes say how long it is
            assert len(set(value)) == 1
            assert value == bytes(PAGE) or value[0] == len(value) % 251 + 1
            if rng.random() < 0.1:
                z.shrink(5)

    threads = [thread(storm, seed) for seed in range(3)]
    for t in threads:
        t.join()
    z._validate()


# ---- against a dict ------------------------------------------------------------------------------

offsets = st.sampled_from([0, 1, 2, 3, 63, 64, 65, 399])
values = st.builds(value_of, st.sampled_from(KINDS), st.sampled_from(LENGTHS), st.integers(0, 3))


class Model(RuleBasedStateMachine):
    """An area of values, and the dict that it must equal."""

    compressor, zpool, backing, checksum = "lz4", "zsmalloc", None, False
    store_class, path = None, None

    @initialize()
    def start(self):
        """Make both."""
        self.z = zswap.ZSwap(
            self.compressor,
            self.zpool,
            max_pool_bytes="64MiB",
            shrinker_interval=86400,
            shrinker_enabled=False,
            checksum=self.checksum,
        )
        self.store = backing_of(self.backing, self.path, self.store_class)
        self.z.swapon(AREA, 400, backing=self.store, encrypt=None, variable=True)
        self.held = {}

    def teardown(self):
        """Close the engine."""
        self.z.close()
        if isinstance(self.store, SwapFile):
            self.store.close()

    def stored(self, offset, value, status):
        if status >= 0:
            self.held[offset] = value
        else:
            self.held.pop(offset, None)
            assert self.backing is None
            assert status in (Status.COMPRESS_POOR, Status.AREA_QUOTA, Status.POOL_LIMIT)

    @rule(batch=st.dictionaries(offsets, values, max_size=5))
    def put_many(self, batch):
        """Store."""
        status = self.z.store_many(list(batch), list(batch.values()), swap_type=AREA)
        for (offset, value), code in zip(batch.items(), status.tolist(), strict=True):
            self.stored(offset, value, code)

    @rule(offset=offsets, value=values)
    def put(self, offset, value):
        """Store one."""
        try:
            self.z.store(offset, memoryview(value), swap_type=AREA)
        except zswap.PoolLimitError:
            self.stored(offset, value, Status.POOL_LIMIT)
        except zswap.Error:
            self.stored(offset, value, Status.COMPRESS_POOR)
        else:
            self.stored(offset, value, 0)

    @rule(offset=offsets, at=st.integers(0, 9), n=st.integers(0, 9))
    def part(self, offset, at, n):
        """Write over a part."""
        value, data = self.held.get(offset), bytes(range(n))
        try:
            self.z.store_part(offset, at, data, swap_type=AREA)
        except KeyError:
            assert value is None
        except zswap.Error:
            assert self.backing is None
        except ValueError:
            assert at + n > len(value)
        else:
            self.held[offset] = value[:at] + data + value[at + n :]
            assert self.z.load_part(offset, at, n, swap_type=AREA) == data

    @rule(offset=offsets)
    def drop(self, offset):
        """Invalidate."""
        assert self.z.invalidate(offset, swap_type=AREA) == (
            self.held.pop(offset, None) is not None
        )

    @rule(count=st.integers(1, 9))
    def shrink(self, count):
        """Write back."""
        self.z.shrink(count)

    @rule(
        what=st.sampled_from(
            ["promote", "recompress", "compact", "evict", "always", "take", "quota"]
        )
    )
    def move(self, what):
        """Move them about."""
        z = self.z
        if what == "promote":
            z.promote(range(400), swap_type=AREA)
        elif what == "recompress":
            z.recompress("deflate:9")
        elif what == "compact":
            z.compact()
        elif what == "evict":
            z.evict(range(0, 64), swap_type=AREA)
        elif what == "quota":
            z.set_quota(AREA, 4 * PAGE)
            z.set_quota(AREA, None)
        elif what == "always":
            z.parameters["promote"] = "always"
        elif self.held:
            offset = min(self.held)
            assert z._take(offset, swap_type=AREA) == self.held.pop(offset)

    @rule(compressor=st.sampled_from(["lz4", *COMPRESSORS]))
    def switch(self, compressor):
        """Use another compressor."""
        self.z.compressor = compressor

    @invariant()
    def agrees(self):
        """The engine holds what the dict holds."""
        z = self.z
        z._validate()
        assert {o: len(v) for o, v in self.held.items()} == {
            o: z.length(o, swap_type=AREA) for o in self.held
        }
        assert z.load_many(list(self.held), swap_type=AREA) == list(self.held.values())
        assert z._page_count(AREA) == len(self.held)
        s = z.stats()
        assert s.decompress_fail == s.checksum_fail == s.backing_checksum_fail == 0


def combinations():
    """All, or some with each of each among them."""
    if os.environ.get("HYPOTHESIS_PROFILE", "quick") != "quick":
        return [(c, z, b) for c in COMPRESSORS for z in ZPOOLS for b in BACKINGS]
    turns = [[every[i % len(every)] for i in range(8)] for every in (COMPRESSORS, ZPOOLS, BACKINGS)]
    return list(zip(*turns, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("compressor", "zpool", "backing"), combinations())
def test_machine(memory_store, tmp_path, compressor, zpool, backing):
    parts = {"compressor": compressor, "zpool": zpool, "backing": backing}
    parts |= {"store_class": memory_store, "path": tmp_path / "swap"}
    parts["checksum"] = COMPRESSORS.index(compressor) % 2 == 0
    quiet = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    run_state_machine_as_test(
        type("Machine", (Model,), parts), settings=settings(suppress_health_check=quiet)
    )
