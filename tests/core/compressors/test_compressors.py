"""The compressors: round trips, other implementations as oracles, damage, the registry, Python
callables, capsules."""

import ctypes
import datetime
import gc
import mmap
import os
import random
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import zswap
import zswap_core
from zswap_core.compressors.adapter import PythonCompressor
from zswap_core.compressors.base import Compressor
from zswap_core.compressors.registry import (
    CompressorInfo,
    compressors,
    open_compressor,
    register_compressor,
    unregister_compressor,
)
from zswap_core.errors import (
    BackingError,
    CompressorNotFound,
    Error,
    PageCorruptError,
    PoolLimitError,
)
from zswap_core.libraries import find
from zswap_core.libraries.bind import open_library

PAGE = 4096
ROOT = Path(zswap_core.__file__).parent.parent
MISSING = "/nonexistent/lib.so"

OURS = {"lz4", "lz4hc", "zstd", "lzo", "deflate", "lref"}
SPECS = (
    *("lz4", "lz4:8", "lz4:65537", "lz4hc:1", "lz4hc:3", "lz4hc:9", "lz4hc:12"),
    *("zstd:-131072", "zstd:-5", "zstd:1", "zstd", "zstd:9", "zstd:22"),
    *("lzo", "deflate:1", "deflate", "deflate:12"),
    *("lref", "lref:2", "lref:3"),
    *(c.name for c in zswap.compressors() if c.name not in OURS),  # of $ZSWAP_TEST_PLUGINS
)
SLOW = ("lz4hc:12", "zstd:22", "deflate:12", "lzo")  # lzo: where it goes through lzallright


def opened(spec):
    """The compressor, or skip: not every machine has every library."""
    try:
        return open_compressor(spec)
    except CompressorNotFound as error:
        pytest.skip(str(error))


def examples(spec, many):
    """Hypothesis settings: the same examples every time, and fewer of them where one takes
    milliseconds."""
    return settings(
        derandomize=True,
        deadline=None,
        database=None,
        max_examples=many // 5 if spec in SLOW else many,
    )


# ---- pages ---------------------------------------------------------------------------------------


def make_page(kind, seed, size=PAGE):
    rnd = random.Random(seed)
    if kind == "zeros":
        page = bytes(size)
    elif kind == "same":
        page = rnd.randbytes(8) * (size // 8)
    elif kind == "random":
        page = rnd.randbytes(size)
    elif kind == "text":
        words = [
            b"page ",
            b"swap ",
            b"pool ",
            b"entry ",
            b"handle ",
            b"offset ",
            rnd.randbytes(3),
            b"\n",
        ]
        page = b"".join(rnd.choices(words, k=size // 2))
    elif kind == "pointers":
        base = rnd.getrandbits(47)
        page = b"".join(
            (base + rnd.getrandbits(12) * 16).to_bytes(8, "little") for _ in range(size // 8)
        )
    elif kind == "sparse":
        sparse = bytearray(size)
        for _ in range(rnd.randrange(1, 40)):
            sparse[rnd.randrange(size)] = rnd.randrange(256)
        page = bytes(sparse)
    else:  # halves: compressible, then not
        page = bytes(size // 2) + rnd.randbytes(size // 2)
    return page[:size]


KINDS = ("zeros", "same", "random", "text", "pointers", "sparse", "halves")
PAGES = [make_page(kind, seed) for kind in KINDS for seed in range(3)]
any_page = st.builds(
    make_page, st.sampled_from(KINDS), st.integers(0, 2**32), st.sampled_from((4096, 16384, 65536))
)


class Guarded:
    """A buffer with known bytes before and after it, to see whether anything was written
    outside."""

    def __init__(self, size):
        self.all = bytearray(b"\xa5" * (size + 256))
        self.view = memoryview(self.all)[128 : 128 + size]

    def check(self):
        size = len(self.view)
        assert self.all[:128] == b"\xa5" * 128
        assert self.all[128 + size :] == b"\xa5" * 128


# ---- round trips ---------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS)
def test_round_trip(spec):
    c = opened(spec)

    @examples(spec, 25)
    @given(any_page)
    def check(page):
        packed = Guarded(c.bound(len(page)))
        n = c.compress_into(page, packed.view)
        packed.check()
        assert 0 < n <= len(packed.view)
        back = Guarded(len(page))
        assert c.decompress_into(packed.view[:n], back.view) == len(page)
        back.check()
        assert back.view == page

    check()


@pytest.mark.parametrize("spec", SPECS)
def test_arbitrary_bytes_round_trip(spec):
    c = opened(spec)

    @examples(spec, 25)
    @given(st.binary(min_size=1, max_size=300))
    def check(data):
        assert c.decompress(c.compress(data), len(data)) == data

    check()


@pytest.mark.parametrize("spec", ["lz4", "lz4hc", "zstd", "deflate", "lzo", "lref", "lref:2"])
def test_what_should_shrink_does(spec):
    c = opened(spec)
    assert len(c.compress(bytes(PAGE))) < 200
    assert len(c.compress(make_page("text", 1))) < 3000
    assert PAGE <= len(c.compress(make_page("random", 1))) <= c.bound(PAGE)


@pytest.mark.parametrize("spec", SPECS)
def test_small_cap(spec):
    c = opened(spec)
    for page in PAGES[:: 6 if spec in SLOW else 1]:
        full = len(c.compress(page))
        for cap in {0, 1, 2, 7, full // 2, full - 1, full, full + 1}:
            out = Guarded(cap)
            n = c.compress_into(page, out.view)
            out.check()
            assert n <= cap
            if n:
                assert c.decompress(out.view[:n], PAGE) == page
        assert c.compress(page, cap=full // 2) is None
        # What did not fit leaves nothing behind.
        assert c.decompress(c.compress(page), PAGE) == page


# ---- other implementations -----------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["lz4", "lz4hc:9", "lz4hc:12"])
def test_lz4_module_agrees(spec):
    block = pytest.importorskip("lz4.block")
    c = opened(spec)
    mode = {} if c.name == "lz4" else {"mode": "high_compression", "compression": c.level}
    ours = [c.compress(page) for page in PAGES]
    theirs = [block.compress(page, store_size=False, **mode) for page in PAGES]
    for page, one, other in zip(PAGES, ours, theirs, strict=True):
        assert block.decompress(one, uncompressed_size=PAGE) == page
        assert c.decompress(other, PAGE) == page
    # Not byte for byte: the module compresses a page as the next block of a stream, by slightly
    # other rules.
    assert sum(map(len, ours)) == pytest.approx(sum(map(len, theirs)), rel=0.02)


@pytest.mark.parametrize("level", [-5, 1, 3, 19])
def test_zstd_module_agrees(level):
    zstd = pytest.importorskip("zstd")
    c = opened(f"zstd:{level}")
    magic = b"\x28\xb5\x2f\xfd"
    for page in PAGES:
        assert zstd.decompress(magic + c.compress(page)) == page
        theirs = zstd.compress(page, level)
        assert theirs.startswith(magic)
        assert c.decompress(theirs[4:], PAGE) == page


@pytest.mark.parametrize("level", [1, 6, 12])
def test_zlib_agrees(level):
    c = opened(f"deflate:{level}")
    for page in PAGES:
        assert zlib.decompress(c.compress(page), -15) == page
        packer = zlib.compressobj(6, zlib.DEFLATED, -11)  # window bits as in the kernel
        assert c.decompress(packer.compress(page) + packer.flush(), PAGE) == page


def test_lzallright_agrees():
    lzallright = pytest.importorskip("lzallright")
    c = opened("lzo")
    for page in PAGES[::4]:
        assert lzallright.LZOCompressor.decompress(c.compress(page), PAGE) == page
        assert c.decompress(lzallright.LZOCompressor().compress(page), PAGE) == page


# ---- damage --------------------------------------------------------------------------------------


def decompress_anything(c, data, cap=PAGE):
    """Return what came out, or None when the damage was seen."""
    out = Guarded(cap)
    try:
        n = c.decompress_into(data, out.view)
    except PageCorruptError:
        n = None
    out.check()
    assert n is None or 0 <= n <= cap
    return None if n is None else bytes(out.view[:n])


@pytest.mark.parametrize("spec", ["lz4", "lz4hc", "zstd", "deflate", "lzo", "lref", "lref:2"])
@pytest.mark.slow
def test_damage_is_contained(spec):
    c = opened(spec)
    packed = [c.compress(page) for page in PAGES]

    @examples(spec, 300)
    @given(st.sampled_from(range(len(PAGES))), st.data())
    def check(i, data):
        whole = packed[i]
        how = data.draw(st.sampled_from(("truncate", "flip", "append", "splice", "short cap")))
        if how == "truncate":
            assert (
                decompress_anything(c, whole[: data.draw(st.integers(0, len(whole) - 1))])
                != PAGES[i]
            )
        elif how == "flip":
            bit = data.draw(st.integers(0, 8 * len(whole) - 1))
            broken = bytearray(whole)
            broken[bit // 8] ^= 1 << bit % 8
            decompress_anything(c, broken)
        elif how == "append":
            decompress_anything(c, whole + data.draw(st.binary(min_size=1, max_size=8)))
        elif how == "splice":
            other = packed[data.draw(st.sampled_from(range(len(PAGES))))]
            decompress_anything(c, whole[: len(whole) // 2] + other[len(other) // 2 :])
        else:
            assert decompress_anything(c, whole, data.draw(st.integers(0, PAGE - 1))) is None
        assert c.decompress(whole, PAGE) == PAGES[i]

    check()


@pytest.mark.parametrize("spec", ["lz4", "zstd", "deflate", "lzo", "lref", "lref:2", "lref:3"])
def test_random_bytes_are_contained(spec):
    c = opened(spec)
    rnd = random.Random(7)
    for _ in range(500):
        decompress_anything(c, rnd.randbytes(rnd.randrange(PAGE)))
    decompress_anything(c, b"")


@pytest.mark.parametrize("spec", ["lz4", "lz4hc", "zstd", "deflate", "lzo", "lref", "lref:2"])
def test_truncation_is_an_error(spec):
    c = opened(spec)
    with pytest.raises(PageCorruptError, match=c.spec):
        c.decompress(c.compress(PAGES[9])[:-1], PAGE)


@pytest.mark.parametrize("spec", ["lz4", "zstd", "deflate", "lref", "lref:3"])
def test_wrong_size_is_an_error(spec):
    c = opened(spec)
    packed = c.compress(PAGES[9])
    with pytest.raises(PageCorruptError):
        c.decompress(packed, PAGE - 1)
    with pytest.raises(PageCorruptError):
        c.decompress(packed, PAGE + 1)


# ---- threads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["lz4", "lz4hc", "zstd", "deflate", "lzo", "lref", "lref:2"])
def test_two_threads(spec):
    c = opened(spec)
    expected = [c.compress(page) for page in PAGES]

    def work(start):
        for i in range(start, start + (40 if spec == "lzo" else 200)):
            i %= len(PAGES)
            assert c.compress(PAGES[i]) == expected[i]
            assert c.decompress(expected[i], PAGE) == PAGES[i]

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, (0, 10)))


# ---- specs and the registry ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "name", "level", "canonical"),
    [
        ("lz4", "lz4", 1, "lz4:1"),
        ("lz4:8", "lz4", 8, "lz4:8"),
        ("lz4hc", "lz4hc", 9, "lz4hc:9"),
        ("zstd", "zstd", 3, "zstd:3"),
        ("zstd:-5", "zstd", -5, "zstd:-5"),
        ("zstd:03", "zstd", 3, "zstd:3"),
        ("deflate", "deflate", 6, "deflate:6"),
        ("lzo", "lzo", None, "lzo"),
    ],
)
def test_spec(spec, name, level, canonical):
    c = opened(spec)
    assert (c.name, c.level, c.spec) == (name, level, canonical)
    assert open_compressor(canonical) is c
    assert open_compressor(c) is c
    assert canonical in repr(c)


def test_where_it_came_from():
    c = opened("lz4")
    assert c.library == "liblz4"
    assert tuple(map(int, c.version.split("."))) >= (1, 9, 4)
    assert os.path.isfile(c.path)
    assert c.origin in ("wheel", "system", "path")


def test_opened_again_only_when_nobody_holds_it():
    first = opened("lz4:77")
    mark = id(first)
    assert id(open_compressor("lz4:77")) == mark
    del first
    gc.collect()
    assert open_compressor("lz4:77").spec == "lz4:77"


@pytest.mark.parametrize(
    "spec", ["lz4:0", "lz4:65538", "lz4hc:13", "zstd:23", "zstd:-131073", "deflate:0", "deflate:13"]
)
def test_level_out_of_range(spec):
    name = spec.partition(":")[0]
    low, default, high = next(i.levels for i in compressors() if i.name == name)
    with pytest.raises(ValueError, match=rf"{name}.*{low} to {high}, by default {default}"):
        open_compressor(spec)


@pytest.mark.parametrize(
    "text", ["", "x", "3.5", " 3", "3 ", "+3", "1_0", "٣", "--1", "9" * 30, "3:3"]
)
def test_level_is_not_a_number(text):
    with pytest.raises(ValueError, match="is not a level"):
        open_compressor(f"zstd:{text}")


def test_no_levels():
    with pytest.raises(ValueError, match="'lzo' has no levels"):
        open_compressor("lzo:1")


@pytest.mark.parametrize("spec", ["", "842", "LZ4", "lz4 ", ":3", "zstd;3"])
def test_unknown_name(spec):
    with pytest.raises(CompressorNotFound, match="there are lz4, lz4hc, zstd, lzo, deflate"):
        open_compressor(spec)


@pytest.mark.parametrize("spec", [None, 3, b"lz4"])
def test_spec_of_another_type(spec):
    with pytest.raises(TypeError, match="string or a Compressor"):
        open_compressor(spec)


def test_compressors():
    infos = compressors()
    assert [i.name for i in infos][:5] == ["lz4", "lz4hc", "zstd", "lzo", "deflate"]
    for i in infos:
        assert isinstance(i, CompressorInfo)
        assert (i.error is None) == i.available
        assert not i.available or (i.library and i.path and i.origin)
    with pytest.raises(AttributeError):
        infos[0].name = "other"


# ---- libraries -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "env", "remedy"),
    [
        ("lz4", "ZSWAP_LIBLZ4", "pip install lz4"),
        ("lz4hc", "ZSWAP_LIBLZ4", "pip install lz4"),
        ("zstd", "ZSWAP_LIBZSTD", "pip install zstd"),
        ("deflate", "ZSWAP_LIBDEFLATE", "pip install deflate"),
        ("lzo", "ZSWAP_LIBLZO2", "pip install lzallright"),
    ],
)
def test_missing_library(monkeypatch, spec, env, remedy):
    monkeypatch.setenv(env, MISSING)
    with pytest.raises(CompressorNotFound) as caught:
        open_compressor(spec)
    text = str(caught.value)
    for part in (f"{spec!r}", MISSING, "cannot open shared object file", remedy, env):
        assert part in text
    info = next(i for i in compressors() if i.name == spec)
    assert not info.available
    assert info.error == text
    assert info.path is info.version is info.origin is None
    monkeypatch.delenv(env)
    assert opened(spec).origin != "path"


def test_explicit_path(monkeypatch):
    file = opened("lz4").path
    monkeypatch.setenv("ZSWAP_LIBLZ4", MISSING)
    c = open_compressor("lz4", path=file)  # an argument is more explicit than the environment
    assert (c.origin, os.path.realpath(c.path)) == ("path", os.path.realpath(file))
    monkeypatch.setenv("ZSWAP_LIBLZ4", file)
    assert open_compressor("lz4") is c
    monkeypatch.setenv("ZSWAP_LIBLZ4", "")
    assert open_compressor("lz4") is not c


@pytest.mark.parametrize(
    ("spec", "symbol"), [("zstd", "ZSTD_"), ("deflate", "libdeflate_"), ("lzo", "__lzo_init_v2")]
)
def test_another_library(spec, symbol):
    with pytest.raises(CompressorNotFound, match=f"it has no {symbol}"):
        open_compressor(spec, path=opened("lz4").path)


def test_not_a_library():
    with pytest.raises(CompressorNotFound, match=__file__):
        open_compressor("lz4", path=__file__)


def test_all_places_are_tried_and_named():
    opened("lz4")
    nowhere = find.LIBLZ4._replace(
        library="libnone", env="ZSWAP_LIBNONE", module="no.such.module", soname="libnone.so.9"
    )
    with pytest.raises(
        CompressorNotFound, match=r"libnone was not found; tried libnone\.so\.9 \(cannot open"
    ):
        open_library(nowhere)
    with pytest.raises(
        CompressorNotFound, match=r"version \d.* and 99\.1 is the oldest that will do"
    ):
        open_library(find.LIBLZ4._replace(minimum=(99, 1)))


def test_modules_are_found_but_not_imported():
    code = (
        "import sys\n"
        "from zswap_core.compressors.registry import open_compressor\n"
        "assert open_compressor('lz4').compress(bytes(4096))\n"
        "assert not {'lz4', 'zstd', 'ctypes'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_module_file():
    assert find.module_file("json.decoder").endswith("decoder.py")
    assert find.module_file("no_such_package.module") is None
    assert find.module_file("json.no_such_module") is None
    assert find.module_file("zlib.inner") is None


def test_lzallright_serves_where_liblzo2_is_missing(monkeypatch):
    lzo = pytest.importorskip("zswap_core.compressors.lzo")
    pytest.importorskip("lzallright")
    monkeypatch.delenv("ZSWAP_LIBLZO2", raising=False)
    monkeypatch.setattr(lzo, "LIBLZO2", find.LIBLZO2._replace(soname="libnone.so.9"))
    c = lzo.open_lzo()
    assert (c.name, c.library, c.origin) == ("lzo", "lzallright", "python")
    assert c.decompress(c.compress(PAGES[9]), PAGE) == PAGES[9]
    monkeypatch.setattr(lzo, "module_file", lambda name: None)
    with pytest.raises(CompressorNotFound, match=r"apt install liblzo2-2.*pip install lzallright"):
        lzo.open_lzo()


# ---- Python callables ----------------------------------------------------------------------------


@pytest.fixture
def registered():
    """Register under the name "mine", and take it away at the end."""

    def register(*args, **kwargs):
        register_compressor("mine", *args, **kwargs)
        return open_compressor("mine" if "levels" not in kwargs else "mine:2")

    yield register
    unregister_compressor("mine")


def test_python_callables(registered):
    c = registered(zlib.compress, zlib.decompress)
    assert (c.name, c.spec, c.level, c.origin, c.library) == ("mine", "mine", None, "python", None)
    for page in PAGES:
        assert c.decompress(c.compress(page), PAGE) == page
    assert "mine" in [i.name for i in compressors()]
    assert c.last_error is None


def test_python_callables_may_want_the_size(registered):
    sizes = []

    def decompress(data, size):
        sizes.append(size)
        return memoryview(zlib.decompress(data))

    c = registered(lambda data: bytearray(zlib.compress(data)), decompress)
    assert c.decompress(c.compress(PAGES[9]), PAGE) == PAGES[9]
    assert sizes == [PAGE]


def test_python_callables_get_bytes(registered):
    seen = []
    c = registered(lambda data: seen.append(data) or data, lambda data, size=None: data[:size])
    assert c.decompress(c.compress(PAGES[9]), PAGE) == PAGES[9]
    assert type(seen[0]) is bytes


def test_python_exceptions(registered, capfd):
    broken = RuntimeError("no luck")

    def raises(data):
        raise broken

    c = registered(raises, raises)
    with pytest.raises(Error, match="mine: compress failed: Input/output error") as caught:
        c.compress(PAGES[0])
    assert caught.value.__cause__ is c.last_error is broken
    with pytest.raises(PageCorruptError, match="mine") as caught:
        c.decompress(b"x", PAGE)
    assert caught.value.__cause__ is broken
    assert capfd.readouterr() == ("", "")


def test_python_results_of_other_lengths(registered):
    c = registered(lambda data: data + bytes(10**6), lambda data: b"short")
    out = Guarded(PAGE)
    assert c.compress_into(PAGES[0], out.view) == 0
    out.check()
    with pytest.raises(PageCorruptError) as caught:
        c.decompress(b"x", PAGE)
    assert "5 bytes, not 4096" in str(caught.value.__cause__)


def test_python_results_of_other_types(registered):
    c = registered(lambda data: None, lambda data: "text")
    with pytest.raises(Error) as caught:
        c.compress(PAGES[0])
    assert isinstance(caught.value.__cause__, TypeError)
    with pytest.raises(PageCorruptError):
        c.decompress(b"x", PAGE)


def test_interrupt_reaches_the_user(registered):
    def interrupted(data):
        raise KeyboardInterrupt

    c = registered(interrupted, interrupted)

    def call():
        try:
            c.compress(PAGES[0])
        except Error:
            for _ in range(1000):
                pass

    with pytest.raises(KeyboardInterrupt):
        call()


def test_python_compressor_at_exit():
    code = (
        "import threading, zlib\n"
        "from zswap_core.compressors.registry import open_compressor, register_compressor\n"
        "register_compressor('mine', zlib.compress, zlib.decompress)\n"
        "c = open_compressor('mine')\n"
        "class Late:\n"
        "    def __del__(self, c=c):\n"
        "        try: c.compress(bytes(4096))\n"
        "        except Exception: pass\n"
        "late = Late()\n"
        "def work():\n"
        "    while True: c.compress(bytes(4096))\n"
        "threading.Thread(target=work, daemon=True).start()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_python_compressor_arguments():
    with pytest.raises(TypeError, match="callable"):
        PythonCompressor("mine", None, None)
    c = PythonCompressor("mine", zlib.compress, zlib.decompress)
    with pytest.raises(TypeError, match="does not change"):
        c.__init__("other", zlib.compress, zlib.decompress)


# ---- registering ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", "a:b", "Upper", "sp ace", "-x", "x" * 33, "ü", "a\n", 3, None]
)
def test_bad_names(name):
    with pytest.raises(ValueError, match="is not a name"):
        register_compressor(name, zlib.compress, zlib.decompress)


def test_builtin_names_are_taken():
    for name in ("lz4", "lzo"):
        with pytest.raises(ValueError, match="cannot be replaced"):
            register_compressor(name, zlib.compress, zlib.decompress)
        with pytest.raises(ValueError, match="cannot be taken away"):
            unregister_compressor(name)


def test_replacing_and_unregistering():
    register_compressor("mine", zlib.compress, zlib.decompress)
    first = open_compressor("mine")
    register_compressor("mine", lambda data: data, lambda data: data)
    second = open_compressor("mine")
    assert second is not first
    unregister_compressor("mine")
    with pytest.raises(CompressorNotFound):
        open_compressor("mine")
    with pytest.raises(CompressorNotFound):
        unregister_compressor("mine")
    # Who has one keeps it.
    assert first.decompress(first.compress(PAGES[9]), PAGE) == PAGES[9]


def test_factory_with_levels(registered):
    def factory(level):
        return PythonCompressor(
            "mine", lambda data: zlib.compress(data, level), zlib.decompress, level=level
        )

    c = registered(factory=factory, levels=(1, 6, 9))
    assert (c.spec, c.level) == ("mine:2", 2)
    assert open_compressor("mine").spec == "mine:6"
    with pytest.raises(ValueError, match="1 to 9, by default 6"):
        open_compressor("mine:10")
    with pytest.raises(ValueError, match="no library"):
        open_compressor("mine", path="/some/file")


def test_factory_that_fails(registered):
    def factory():
        raise OSError("no device")

    with pytest.raises(OSError, match="no device"):
        registered(factory=factory)
    info = next(i for i in compressors() if i.name == "mine")
    assert (info.available, info.error) == (False, "no device")


def test_factory_of_something_else(registered):
    with pytest.raises(ValueError, match="PyCapsule"):
        registered(factory=object)


def test_register_arguments():
    for kwargs in (
        {},
        {"compress": zlib.compress},
        {"compress": zlib.compress, "factory": dict},
        {"factory": 3},
        {"compress": zlib.compress, "decompress": zlib.decompress, "levels": (1, 2, 3)},
    ):
        with pytest.raises(TypeError):
            register_compressor("mine", **kwargs)
    with pytest.raises(ValueError, match="levels"):
        register_compressor("mine", factory=dict, levels=(3, 2, 1))
    with pytest.raises(CompressorNotFound):
        open_compressor("mine")


# ---- capsules ------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["lz4", "zstd:5"])
def test_capsule_round_trip(spec):
    c = opened(spec)
    packed = c.compress(PAGES[9])
    capsule = c.capsule
    del c
    gc.collect()  # the capsule keeps the compressor
    again = Compressor.from_capsule(capsule, level=5)
    del capsule
    gc.collect()
    assert (again.name, again.origin) == (spec.partition(":")[0], "capsule")
    assert again.spec == f"{again.name}:5"
    assert again.compress(PAGES[9]) == packed
    assert again.decompress(packed, PAGE) == PAGES[9]


class Table(ctypes.Structure):
    """zsw_compressor_ops, as abi.h has it."""

    _fields_ = (
        ("abi_version", ctypes.c_uint32),
        ("struct_size", ctypes.c_uint32),
        ("name", ctypes.c_char_p),
        ("flags", ctypes.c_uint32),
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("bound", "ctx_new", "ctx_free", "compress", "decompress"),
                *("destroy", "ctx_bytes"),
            )
        ),
    )


class Given(ctypes.Structure):
    """zsw_compressor."""

    _fields_ = (("ops", ctypes.POINTER(Table)), ("state", ctypes.c_void_p))


KIND = b"zswap_core.compressor.v1"


def capsule_of(given):
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = (
        ctypes.py_object,
        (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p),
    )
    return new(ctypes.addressof(given), KIND, None)


def given_in(capsule):
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    return Given.from_address(pointer(capsule, KIND))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"abi_version": 0}, "not of compressor ABI version"),
        ({"struct_size": Table.destroy.offset - 1}, "not of compressor ABI version"),
        ({"bound": None}, "lacks bound"),
        ({"compress": None}, "lacks bound"),
        ({"decompress": None}, "lacks bound"),
        ({"ctx_new": None}, "without the other"),
        ({"ctx_free": None}, "without the other"),
        ({"name": None}, "no name"),
    ],
)
def test_capsules_with_a_bad_table(change, message):
    good = open_compressor("zstd").capsule
    theirs = given_in(good)
    table = Table.from_buffer_copy(theirs.ops.contents)
    ours = Given(ctypes.pointer(table), theirs.state)
    capsule = capsule_of(ours)
    assert Compressor.from_capsule(capsule).name == "zstd"
    for field, value in change.items():
        setattr(table, field, value)
    with pytest.raises(ValueError, match=message):
        Compressor.from_capsule(capsule)


@pytest.mark.parametrize("spec", ["lz4", "zstd"])
def test_capsule_with_a_table_shorter_than_ours(spec):
    """As whoever built against the first version has it, when tables have grown: behind its end is
    no memory at all."""
    good = open_compressor(spec).capsule
    theirs = given_in(good)
    size = Table.destroy.offset
    room = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(room))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    ctypes.memmove(start + mmap.PAGESIZE - size, theirs.ops, size)
    table = Table.from_address(start + mmap.PAGESIZE - size)
    table.struct_size = size
    assert protect(start + mmap.PAGESIZE, mmap.PAGESIZE, 0) == 0
    try:
        ours = Given(ctypes.pointer(table), theirs.state)
        with zswap.ZSwap(Compressor.from_capsule(capsule_of(ours), "short")) as z:
            z.store_many(range(len(PAGES)), b"".join(PAGES))
            assert [z[offset] for offset in z] == [bytes(page) for page in PAGES]
            z.recompress("lz4hc")
            assert [z[offset] for offset in z] == [bytes(page) for page in PAGES]
    finally:
        assert protect(start + mmap.PAGESIZE, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE) == 0


def test_capsule_of_a_python_compressor():
    capsule = PythonCompressor("mine", zlib.compress, zlib.decompress).capsule
    gc.collect()
    c = Compressor.from_capsule(capsule, "other")
    assert c.spec == "other"
    assert c.decompress(c.compress(PAGES[9]), PAGE) == PAGES[9]


@pytest.mark.parametrize("capsule", [None, 3, datetime.datetime_CAPI])
def test_not_our_capsule(capsule):
    with pytest.raises(ValueError, match="PyCapsule"):
        Compressor.from_capsule(capsule)


def test_compressor_is_not_made_by_hand():
    with pytest.raises(TypeError):
        Compressor()
    empty = Compressor.__new__(Compressor)
    for use in (
        lambda: empty.compress(b"x"),
        lambda: empty.decompress(b"x", 1),
        lambda: empty.bound(1),
        lambda: empty.capsule,
        lambda: open_compressor(empty),
    ):
        with pytest.raises(ValueError, match="never opened"):
            use()
    repr(empty)


def test_read_only_output():
    with pytest.raises(ValueError, match="out must be a writable C-contiguous buffer"):
        opened("lz4").compress_into(bytes(PAGE), bytes(PAGE))


# ---- the example ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def xor(build_example):
    """The example's module."""
    pytest.importorskip("Cython")
    return build_example("xor_compressor")


@pytest.mark.slow
def test_example(xor):
    register_compressor("xor", factory=xor.capsule)
    try:
        c = open_compressor("xor")
    finally:
        unregister_compressor("xor")
    assert (c.spec, c.origin) == ("xor", "capsule")
    assert len(c.compress(make_page("same", 1))) < 32

    @examples("xor", 50)
    @given(any_page | st.binary(min_size=1, max_size=300))
    def check(page):
        packed = Guarded(c.bound(len(page)))
        n = c.compress_into(page, packed.view)
        packed.check()
        assert n
        assert c.decompress(packed.view[:n], len(page)) == page
        out = Guarded(n - 1)
        assert c.compress_into(page, out.view) == 0
        out.check()

    check()
    rnd = random.Random(7)
    for page in PAGES:
        whole = c.compress(page)
        decompress_anything(c, whole[: rnd.randrange(len(whole))])
        decompress_anything(c, rnd.randbytes(rnd.randrange(PAGE)))
        broken = bytearray(whole)
        broken[rnd.randrange(len(whole))] ^= 1 << rnd.randrange(8)
        decompress_anything(c, broken)


# ---- errors --------------------------------------------------------------------------------------


def test_error_classes():
    for kind in (PoolLimitError, CompressorNotFound, PageCorruptError, BackingError):
        assert issubclass(kind, Error)
    assert issubclass(CompressorNotFound, LookupError)
    assert issubclass(BackingError, OSError)
    assert str(CompressorNotFound("no 'x' here")) == "no 'x' here"
    error = BackingError(5, "Input/output error", "swapfile")
    assert (error.errno, error.filename) == (5, "swapfile")


@pytest.mark.parametrize("preference", ["system", "wheel", None])
def test_which_libraries_come_first(monkeypatch, preference):
    """For systems that keep their own up to date."""
    monkeypatch.delenv("ZSWAP_LIBRARIES", raising=False)
    monkeypatch.delenv("ZSWAP_LIBLZ4", raising=False)
    monkeypatch.setattr("zswap_core.libraries.find.module_file", lambda name: "/wheel.so")
    if preference:
        monkeypatch.setenv("ZSWAP_LIBRARIES", preference)
    places = [("wheel", "/wheel.so"), ("system", "liblz4.so.1")]
    assert list(find.candidates(find.LIBLZ4)) == (
        places[::-1] if preference == "system" else places
    )
    monkeypatch.setenv("ZSWAP_LIBLZ4", "/mine.so")
    assert list(find.candidates(find.LIBLZ4)) == [("path", "/mine.so")]
