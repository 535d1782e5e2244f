"""Zpools and backing stores from outside: registered by name, their tables as abi.h promises."""

import ctypes
import gc
import os
import shutil
import subprocess
import sys

import pytest

import hooks
import zswap
from zswap_core.zpools.registry import zpool_capsule

PAGE = 4096


class Head(ctypes.Structure):
    """What each table begins with."""

    _fields_ = (
        ("abi_version", ctypes.c_uint32),
        ("struct_size", ctypes.c_uint32),
        ("name", ctypes.c_char_p),
        ("flags", ctypes.c_uint32),
    )


def table_of(*functions):
    fields = [(name, ctypes.c_void_p) for name in functions]
    return type("Table", (Head,), {"_fields_": fields})


ZpoolTable = table_of(
    "create",
    "destroy",
    "malloc",
    "free",
    "map",
    "total_pages",
    "max_saving_size",
    "compact_begin",
    "relocate",
    "compact_end",
    "trim",
    "stats",
    "validate",
    "slot_size",
    "node_pages",
    "prefetch",
    "free_many",
    "object_room",
    "malloc_many",
)
BackingTable = table_of("write_pages", "read_pages", "discard", "destroy")


class Given(ctypes.Structure):
    """zsw_backing."""

    _fields_ = (
        ("ops", ctypes.POINTER(BackingTable)),
        ("state", ctypes.c_void_p),
        ("nr_pages", ctypes.c_uint64),
        ("page_size", ctypes.c_uint32),
    )


def capsule_of(what, kind):
    new = ctypes.pythonapi.PyCapsule_New
    new.restype = ctypes.py_object
    new.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    return new(ctypes.addressof(what), kind, None)


def page_of(n):
    return bytes([n % 251 + 1]) * 8 + n.to_bytes(8, "little") * 100 + os.urandom(600) + bytes(2688)


PAGES = {n: page_of(n) for n in range(300)}


def same(z):
    return all(z[n] == page for n, page in PAGES.items())


# ---- zpools --------------------------------------------------------------------------------------


@pytest.fixture
def table():
    """A copy of zsmalloc's table."""
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    theirs = pointer(zpool_capsule("zsmalloc"), b"zswap_core.zpool.v1")
    copy = ZpoolTable.from_buffer_copy(ZpoolTable.from_address(theirs))
    assert copy.struct_size == ctypes.sizeof(copy), "a function is missing above"
    return copy


@pytest.fixture
def mine(table):
    """Registers the table as "mine"."""

    def register():
        capsule = capsule_of(table, b"zswap_core.zpool.v1")
        zswap.register_zpool("mine", factory=lambda: capsule)

    yield register
    if "mine" in zswap.zpools():
        zswap.unregister_zpool("mine")


@pytest.mark.parametrize("last", ["malloc_many", "object_room", "free_many", "prefetch"])
def test_a_zpool_whose_table_is_shorter_than_ours(table, mine, last):
    table.struct_size = getattr(ZpoolTable, last).offset
    mine()
    with zswap.ZSwap(zpool="mine", max_pool_bytes="4MiB") as z:
        for n, page in PAGES.items():
            z[n] = page
        z.load_many(list(PAGES))
        for n in range(0, 300, 2):
            del z[n]
            z[n] = PAGES[n]
        assert same(z)
        z.invalidate_range(0, 100)
        z.compact()
        assert z.pools()[0].zpool == "mine"


def test_a_pool_outlives_the_name_of_its_zpool(mine):
    mine()
    assert zswap.zpools()[-1] == "mine"
    with zswap.ZSwap(zpool="mine", max_pool_bytes="4MiB") as z:
        for n, page in PAGES.items():
            z[n] = page
        zswap.unregister_zpool("mine")
        gc.collect()
        assert "mine" not in zswap.zpools()
        z.zpool = "zbud"
        assert same(z)
        assert z.recompress("lz4").kept >= 0
    with pytest.raises(ValueError, match="unknown zpool 'mine'"):
        zswap.ZSwap(zpool="mine")
    with pytest.raises(ValueError, match="no zpool 'mine' was registered"):
        zswap.unregister_zpool("mine")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"abi_version": 2}, "not of zpool ABI version"),
        ({"struct_size": ZpoolTable.prefetch.offset - 1}, "not of zpool ABI version"),
        ({"create": None}, "lacks a function"),
        ({"slot_size": None}, "lacks a function"),
        ({"node_pages": None}, "lacks a function"),
    ],
)
def test_zpools_with_a_bad_table(table, mine, change, message):
    for field, value in change.items():
        setattr(table, field, value)
    with pytest.raises(ValueError, match=message):
        mine()
    assert "mine" not in zswap.zpools()


# ---- backing stores ------------------------------------------------------------------------------


class Store:
    """A backing store in C, as far as ctypes makes one."""

    WORK = ctypes.CFUNCTYPE(
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_uint64),
        ctypes.c_void_p,
        ctypes.c_size_t,
    )
    END = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

    def __init__(self):
        self.held, self.ended, self.size = {}, [], ctypes.sizeof(BackingTable)
        self.functions = [self.WORK(self.write), self.WORK(self.read), self.END(self.end)]

    def write(self, state, offsets, pages, n):
        for i in range(n):
            self.held[offsets[i]] = ctypes.string_at(pages + PAGE * i, PAGE)
        return 0

    def read(self, state, offsets, pages, n):
        for i in range(n):
            ctypes.memmove(pages + PAGE * i, self.held[offsets[i]], PAGE)
        return 0

    def end(self, state):
        self.ended.append(state)

    def __call__(self, argument, page_size, **changes):
        write, read, end = (ctypes.cast(f, ctypes.c_void_p) for f in self.functions)
        self.table = BackingTable(1, self.size, b"dict", 0, write, read, None, end)
        for name, value in changes.items():
            setattr(self.table, name, value)
        self.given = Given(ctypes.pointer(self.table), 7, int(argument or 1000), page_size)
        return capsule_of(self.given, b"zswap_core.backing.v1")


@pytest.fixture
def store():
    made = Store()
    zswap.register_backing("dict", factory=made)
    yield made
    if "dict" in zswap.backings():
        zswap.unregister_backing("dict")


def test_pages_go_to_a_backing_store_from_outside(store):
    with zswap.ZSwap(backing="dict:500", max_pool_bytes="64KiB") as z:
        for n, page in PAGES.items():
            z[n] = page
        assert same(z)
        s = z.stats()
        assert (s.backed_pages, s.backed_areas, s.backing_write_fail) == (len(store.held), 1, 0)
        assert len(store.held) > 100
        with pytest.raises(ValueError, match="beyond its end"):
            z[500] = bytes(PAGE)
        zswap.unregister_backing("dict")
        assert same(z)
        assert store.ended == []
    assert store.ended == [7]


@pytest.mark.parametrize("last", ["destroy", "discard"])
def test_a_backing_store_whose_table_is_shorter_than_ours(store, last):
    store.size = getattr(BackingTable, last).offset
    with zswap.ZSwap(backing="dict", max_pool_bytes="64KiB") as z:
        for n, page in PAGES.items():
            z[n] = page
        for n in range(0, 300, 2):
            del z[n]
        assert all(z[n] == PAGES[n] for n in range(1, 300, 2))
    assert store.ended == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"abi_version": 0}, "not of backing ABI version"),
        ({"struct_size": BackingTable.discard.offset - 1}, "not of backing ABI version"),
        ({"write_pages": None}, "lacks a function"),
        ({"read_pages": None}, "lacks a function"),
    ],
)
def test_backing_stores_with_a_bad_table(change, message):
    made = Store()
    zswap.register_backing("bad", factory=lambda *args: made(*args, **change))
    try:
        with pytest.raises(ValueError, match=message):
            zswap.ZSwap(backing="bad")
    finally:
        zswap.unregister_backing("bad")


def test_a_backing_store_in_clear_is_refused_where_encryption_is_wanted(store):
    with pytest.raises(ValueError, match="does not encrypt"):
        zswap.ZSwap(backing="dict", encrypt=True)
    assert store.ended == [7]


def test_a_factory_may_make_an_object_in_python(memory_store):
    zswap.register_backing("plain", factory=lambda argument, page_size: memory_store())
    try:
        with zswap.ZSwap(backing="plain", max_pool_bytes="64KiB") as z:
            for n, page in PAGES.items():
                z[n] = page
            assert same(z)
            assert z.stats().backed_pages > 0
    finally:
        zswap.unregister_backing("plain")


# ---- registration --------------------------------------------------------------------------------

VERBS = {
    "compressor": (zswap.register_compressor, zswap.unregister_compressor, "lz4"),
    "zpool": (zswap.register_zpool, zswap.unregister_zpool, "zbud"),
    "backing store": (zswap.register_backing, zswap.unregister_backing, None),
}


@pytest.mark.parametrize("kind", VERBS)
def test_all_are_registered_alike(kind):
    register, unregister, builtin = VERBS[kind]
    for name in ("", "A", "a:b", "a b", "x" * 33, "../a", 3, None):
        with pytest.raises(ValueError, match=f"is not a name for a {kind}"):
            register(name, factory=dict)
    with pytest.raises(TypeError, match="callable"):
        register("mine", factory=3)
    with pytest.raises(LookupError if kind != "zpool" else ValueError, match="was registered"):
        unregister("mine")
    if builtin is not None:
        with pytest.raises(ValueError, match="comes with zswap and cannot be replaced"):
            register(builtin, factory=dict)
        with pytest.raises(ValueError, match="comes with zswap and cannot be taken away"):
            unregister(builtin)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["halves_zpool", "memory_backing"])
def test_examples(name, tmp_path):
    """Built away from the tree against the package, as an outsider would, and run."""
    example = hooks.ROOT / "examples" / name
    if not example.is_dir():
        pytest.skip("the examples are not here")
    pytest.importorskip("Cython")
    shutil.copytree(example, tmp_path / name)
    for command in ("setup.py -q build_ext --inplace", "main.py"):
        done = subprocess.run(
            [sys.executable, *command.split()],
            cwd=tmp_path / name,
            env={**os.environ, "PYTHONPATH": hooks.PATH},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    assert " pages " in done.stdout
