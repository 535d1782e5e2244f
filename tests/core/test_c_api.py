"""The engine from C: `examples/threads_in_c`, built against the installed header, and its table."""

import ctypes
import gc
import re
import threading
import weakref
from pathlib import Path

import pytest

import hooks
import zswap
import zswap_core.api

EXAMPLE = hooks.ROOT / "examples" / "threads_in_c"
CLOSED = -1001

pytestmark = pytest.mark.skipif(not EXAMPLE.exists(), reason="the examples are not here")


@pytest.fixture(scope="module")
def example(build_example):
    """The module."""
    return build_example(
        "threads_in_c", {"PATH": "/usr/bin:/bin", "CFLAGS": "-Wall -Wextra -Werror"}
    )


@pytest.mark.parametrize("compressor", ["lz4", "lref", "zstd"])
def test_eight_threads_that_never_hold_the_gil(example, compressor):
    with zswap.ZSwap(compressor, max_pool_bytes="64MiB") as z:
        assert example.run(z, 300) == (2400, 0)
        z._validate()
        assert len(z) == 2400
        for n in range(8):
            assert z.free(n * 300) == 300


def test_what_is_no_engine_is_refused(example):
    with pytest.raises(TypeError):
        example.run("z", 1)
    z = zswap.ZSwap(max_pool_bytes="1MiB")
    z.close()
    with pytest.raises(ValueError, match="closed"):
        example.run(z, 1)


def test_the_last_reference_lets_the_engine_go(example):
    z = zswap.ZSwap(max_pool_bytes="1MiB")
    gone = weakref.ref(z)
    assert example.run(z, 2) == (16, 0)
    del z
    gc.collect()
    assert gone() is None


def test_with_a_compressor_in_python(example):
    """It takes the GIL, which no thread of C holds."""
    zswap.register_compressor("test-c-api", lambda page: page[:9], lambda data: data * 456)
    try:
        with zswap.ZSwap("test-c-api", max_pool_bytes="8MiB") as z:
            held, failure = example.run(z, 5)
            assert held == 0
            assert failure == zswap.Status.CORRUPT
    finally:
        zswap.unregister_compressor("test-c-api")


def test_close_waits_for_c_and_refuses_what_comes_later(example):
    for _ in range(5):
        z = zswap.ZSwap(max_pool_bytes="256MiB")
        found = []
        thread = threading.Thread(
            target=lambda z=z, found=found: found.append(example.run(z, 9999))
        )
        thread.start()
        while not len(z):
            pass
        z.close()
        thread.join()
        assert found[0][1] in (0, CLOSED)


def test_the_capsule_is_found_by_its_name():
    assert repr(zswap_core.api.v1).startswith('<capsule object "zswap_core.api.v1"')
    get = ctypes.pythonapi.PyCapsule_Import
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_int]
    table = (ctypes.c_uint32 * 2).from_address(get(b"zswap_core.api.v1", 0))
    assert (table[0], table[1]) == (1, 8 + 29 * ctypes.sizeof(ctypes.c_void_p))


@pytest.fixture
def table():
    """The functions of the table, by their place in it."""
    get = ctypes.pythonapi.PyCapsule_Import
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_int]
    return (ctypes.c_void_p * 29).from_address(get(b"zswap_core.api.v1", 0) + 8)


def test_what_is_held_and_what_it_weighs(table):
    u64 = ctypes.c_uint64
    opened = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(table[0])
    unref = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(table[2])
    step = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32, ctypes.POINTER(u64))
    next_held, next_hole = step(table[13]), step(table[14])
    weigh = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32, u64, u64, ctypes.POINTER(u64 * 4)
    )(table[15])
    offset, weight = u64(0), (u64 * 4)()
    with zswap.ZSwap(max_pool_bytes="1MiB") as z:
        engine = opened(z)
        z[7], z[8] = bytes(4096), b"x" * 2048 + bytes(range(256)) * 8
        assert (next_held(engine, 0, offset), offset.value) == (1, 7)
        assert (next_hole(engine, 0, offset), offset.value) == (1, 9)
        assert (next_held(engine, 0, offset), offset.value) == (0, 9)
        assert next_hole(engine, 5, offset) == 0
        assert weigh(engine, 0, 7, 8, weight) == 0
        assert tuple(weight) == z.weight(7, 9) != (0, 0, 0, 0)
    assert next_held(engine, 0, offset) == CLOSED
    assert next_hole(engine, 0, offset) == weigh(engine, 0, 7, 8, weight) == CLOSED
    unref(engine)


def test_parts(table):
    size, u32 = ctypes.c_size_t, ctypes.c_uint32
    opened = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(table[0])
    unref = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(table[2])
    of_part = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.c_void_p, u32, ctypes.c_uint64, size, size, ctypes.c_void_p, u32
    )
    load_part, store_part = of_part(table[16]), of_part(table[17])
    room = ctypes.create_string_buffer(b"part of it", 4096)
    no_part, zeros = -1006, 1
    with zswap.ZSwap(max_pool_bytes="1MiB") as z:
        engine = opened(z)
        assert store_part(engine, 0, 7, 100, 10, room, 0) == zswap.Status.ABSENT
        assert load_part(engine, 0, 7, 100, 10, room, 0) == zswap.Status.ABSENT
        assert room.raw[:10] == b"part of it"
        assert load_part(engine, 9, 7, 100, 10, room, zeros) == zswap.Status.NO_AREA
        assert store_part(engine, 0, 7, 100, 10, room, zeros) == zswap.Status.STORED
        assert z[7] == bytes(100) + b"part of it" + bytes(4096 - 110)
        assert load_part(engine, 0, 7, 105, 4091 - 100, room, 0) == zswap.Status.STORED
        assert room.raw[:6] == b"of it\0"
        assert load_part(engine, 0, 8, 0, 4096, room, zeros) == zswap.Status.SAME_FILLED
        assert room.raw == bytes(4096)
        for at, n in ((4096, 1), (0, 4097), (4097, 0), (1, (1 << 64) - 1), ((1 << 64) - 1, 2)):
            assert load_part(engine, 0, 7, at, n, room, 0) == no_part
            assert store_part(engine, 0, 7, at, n, room, 0) == no_part
        assert load_part(engine, 0, 7, 4096, 0, room, 0) == zswap.Status.STORED
    assert load_part(engine, 0, 7, 0, 1, room, 0) == CLOSED
    assert store_part(engine, 0, 7, 0, 1, room, 0) == CLOSED
    unref(engine)


def test_vectors(table):
    class Buffer(ctypes.Structure):
        _fields_ = [("data", ctypes.c_void_p), ("bytes", ctypes.c_size_t)]

    kinds = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_size_t]
    opened = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(table[0])
    unref = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(table[2])
    storev = ctypes.CFUNCTYPE(ctypes.c_int, *kinds)(table[18])
    loadv = ctypes.CFUNCTYPE(ctypes.c_int, *kinds, ctypes.c_uint32)(table[19])
    data = [ctypes.create_string_buffer(b"%d" % n * 9000, 9000) for n in range(2)]
    rows = (Buffer * 3)(
        (ctypes.addressof(data[0]), 9000), (None, 0), (ctypes.addressof(data[1]), 100)
    )
    expected = data[0].raw + data[1].raw[:100] + bytes(3 * 4096 - 9100)
    with zswap.ZSwap(max_pool_bytes="1MiB") as z:
        engine = opened(z)
        assert storev(engine, 0, 7, rows, 3) == 0
        assert b"".join(z[o] for o in (7, 8, 9)) == expected
        for room in data:
            ctypes.memset(room, 0, 9000)
        assert loadv(engine, 0, 7, rows, 3, 0) == 0
        assert data[0].raw + data[1].raw[:100] == expected[:9100]
        assert loadv(engine, 0, 8, rows, 3, 0) == zswap.Status.ABSENT
        assert loadv(engine, 0, 8, rows, 3, 1) == 0
        assert (data[0].raw + data[1].raw[:100])[: 2 * 4096] == expected[4096:]
        assert storev(engine, 3, 0, rows, 3) == zswap.Status.NO_AREA
        assert storev(engine, 0, (1 << 64) - 1, rows, 3) == zswap.Status.NO_AREA
        assert storev(engine, 0, 0, None, 0) == loadv(engine, 0, 0, None, 0, 0) == 0
        for length in ((16384 * 4096) - 99, (1 << 64) - 1):
            rows[1] = (ctypes.addressof(data[1]), length)
            assert storev(engine, 0, 0, rows, 3) == loadv(engine, 0, 0, rows, 3, 0) == -1007
        assert sorted(z) == [7, 8, 9]
        rows[1] = (None, 0)
    assert storev(engine, 0, 7, rows, 3) == loadv(engine, 0, 7, rows, 3, 0) == CLOSED
    unref(engine)


def test_a_page_that_replace_is_refused_for_leaves_the_old_one(table, make_page, memory_store):
    opened = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(table[0])
    unref = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(table[2])
    call = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_char_p
    )
    store, replace = call(table[4]), call(table[20])
    page, other = make_page(1), make_page(2)
    with zswap.ZSwap(max_pool_bytes="1MiB") as z:
        engine = opened(z)
        assert replace(engine, 0, 7, page) == zswap.Status.STORED
        assert replace(engine, 0, 7, other) == zswap.Status.STORED
        assert z[7] == other
        z.parameters["max_pool_bytes"] = 0
        assert replace(engine, 0, 7, page) == zswap.Status.POOL_LIMIT
        assert z[7] == other
        assert replace(engine, 0, 8, page) == zswap.Status.POOL_LIMIT
        assert replace(engine, 1, 8, page) == zswap.Status.NO_AREA
        assert replace(engine, 0, 8, bytes(4096)) == zswap.Status.SAME_FILLED
        assert list(z) == [7, 8]
        assert store(engine, 0, 7, page) == zswap.Status.POOL_LIMIT
        assert list(z) == [8]
        z._validate()
    assert replace(engine, 0, 7, page) == CLOSED
    unref(engine)
    with zswap.ZSwap(max_pool_bytes=0, backing=memory_store()) as z:
        engine = opened(z)
        assert replace(engine, 0, 7, page) == zswap.Status.WRITTEN_THROUGH
        assert z[7] == page
        unref(engine)


def test_who_listens_hears_of_pages_that_have_left(table, make_page, memory_store):
    opened = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(table[0])
    unref = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(table[2])
    shrink = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_uint64)(table[12])
    store = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_char_p
    )(table[4])
    evicted = ctypes.CFUNCTYPE(
        None,
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.POINTER(ctypes.c_uint64),
        ctypes.c_size_t,
    )
    on_evict = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, evicted, ctypes.c_void_p)(table[25])
    heard, also = [], []

    @evicted
    def hear(context, area, offsets, n):
        heard.append((context, area, offsets[:n]))
        assert store(engine, 0, 100, make_page(100)) >= 0
        assert on_evict(engine, hear, 8) == 0

    with zswap.ZSwap(max_pool_bytes="1MiB", shrinker_enabled=False) as z:
        engine = opened(z)
        z.swapon(3, backing=memory_store())
        for o in range(5):
            z.store(o, make_page(o), swap_type=3)
        z.on_evict(lambda swap_type, offsets: also.append((swap_type, offsets.tolist())))
        assert on_evict(engine, hear, 7) == 0
        assert shrink(engine, 2) == 2
        assert z.shrink(1) == 1
        assert heard == [(7, 3, [0, 1]), (8, 3, [2])]
        assert also == [(3, [0, 1]), (3, [2])]
        assert on_evict(engine, evicted(), None) == 0
        assert z.shrink(1) == 1
        assert (len(heard), len(also)) == (2, 3)
        assert 100 in z
        on_evict(engine, hear, 7)
    assert on_evict(engine, evicted(), None) == CLOSED
    assert len(heard) == 2
    unref(engine)


def test_values(table):
    size, u32, u64 = ctypes.c_size_t, ctypes.c_uint32, ctypes.c_uint64
    opened = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(table[0])
    unref = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(table[2])
    call = [ctypes.c_int, ctypes.c_void_p, u32, u64, ctypes.c_void_p]
    load = ctypes.CFUNCTYPE(*call)(table[5])
    store_value = ctypes.CFUNCTYPE(*call, size)(table[26])
    load_value = ctypes.CFUNCTYPE(*call, ctypes.POINTER(size))(table[27])
    length = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, u32, u64)(table[28])
    load_part = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.c_void_p, u32, u64, size, size, ctypes.c_void_p, u32
    )(table[16])
    room, n, no_part = ctypes.create_string_buffer(b"a value", 4096), size(), -1006
    with zswap.ZSwap(max_pool_bytes="1MiB") as z:
        z.swapon(1, variable=True)
        engine = opened(z)
        assert store_value(engine, 1, 5, room, 7) == zswap.Status.STORED
        assert z.load(5, swap_type=1) == b"a value"
        assert length(engine, 1, 5) == 7
        assert (length(engine, 1, 6), length(engine, 2, 6)) == (-1, -1)
        for wrong in (0, 4097, (1 << 64) - 1):
            assert store_value(engine, 1, 5, room, wrong) == no_part
        assert store_value(engine, 0, 5, room, 7) == zswap.Status.NO_AREA  # it is for pages
        ctypes.memset(room, 46, 4096)
        n.value = 6
        assert (load_value(engine, 1, 5, room, n), n.value) == (no_part, 7)
        assert (load_value(engine, 1, 5, room, n), n.value) == (0, 7)
        assert room.raw[:8] == b"a value."
        assert load(engine, 1, 5, room) == 0
        assert room.raw == b"a value".ljust(4096, b"\0")
        assert load_part(engine, 1, 5, 2, 5, room, 0) == 0
        assert room.raw[:5] == b"value"
        assert load_part(engine, 1, 5, 2, 6, room, 0) == no_part
        assert load_value(engine, 1, 6, room, n) == zswap.Status.ABSENT
        z.parameters["exclusive_loads"] = True
        n.value = 4095
        assert (load_value(engine, 1, 5, room, n), n.value) == (no_part, 4096)
        n.value = (1 << 64) - 1
        assert (load_value(engine, 1, 5, room, n), n.value) == (0, 7)
        assert length(engine, 1, 5) == -1
    assert store_value(engine, 1, 5, room, 7) == load_value(engine, 1, 5, room, n) == CLOSED
    assert length(engine, 1, 5) == CLOSED
    unref(engine)


def test_the_header_has_the_results():
    text = (Path(zswap_core.get_include()) / "zswap" / "zswap.h").read_text()
    (listed,) = re.findall(r"enum zswap_status \{(.*?)\};", text, re.DOTALL)
    found = {name: int(value) for name, value in re.findall(r"ZSWAP_(\w+) = (-?\d+)", listed)}
    assert found.pop("OUT_OF_AREA") == zswap.Status.NO_AREA  # NO_AREA is another one in C
    assert found == {
        s.name: s.value for s in zswap.Status if s.name not in ("NO_AREA", "WOULD_BLOCK")
    }
