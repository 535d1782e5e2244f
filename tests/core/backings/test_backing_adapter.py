"""Any Python object as a backing store."""

import errno
import gc
import os
import subprocess
import sys
import textwrap
import weakref
from pathlib import Path

import numpy as np
import pytest

import zswap_core
from zswap_core.backings import Backing, PythonBacking, SwapFile, open_backing
from zswap_core.errors import BackingError

PAGE = 4096
ROOT = Path(zswap_core.__file__).parent.parent


class Memory:
    """A store in a dict."""

    def __init__(self, page_size=PAGE, **attributes):
        self.pages = {}
        self.page_size = page_size
        self.calls = []
        vars(self).update(attributes)

    def write_pages(self, offsets, pages):
        assert (offsets.dtype, offsets.ndim, pages.dtype) == (np.uint64, 1, np.uint8)
        assert pages.shape == (len(offsets), self.page_size)
        assert pages.flags.c_contiguous
        assert not pages.flags.writeable
        assert not offsets.flags.writeable
        self.calls.append(("write", offsets.tolist()))
        self.pages.update(zip(offsets.tolist(), map(bytes, pages), strict=True))

    def read_pages(self, offsets, out):
        assert out.shape == (len(offsets), self.page_size)
        assert out.flags.writeable
        self.calls.append(("read", offsets.tolist()))
        for row, offset in zip(out, offsets.tolist(), strict=True):
            row[:] = np.frombuffer(self.pages[offset], np.uint8)


class Full(Memory):
    def discard_pages(self, offsets):
        self.calls.append(("discard", offsets.tolist()))
        for offset in offsets.tolist():
            del self.pages[offset]


def read(backing, *offsets):
    out = bytearray(len(offsets) * backing.page_size)
    backing.read_pages(offsets, out)
    return bytes(out)


def test_attributes():
    obj = Memory()
    backing = PythonBacking(obj)
    assert isinstance(backing, Backing)
    assert backing.obj is obj
    assert (backing.name, backing.page_size, backing.nr_pages) == (
        "backing store Memory",
        PAGE,
        1 << 47,
    )
    assert repr(backing) == f"<PythonBacking of {obj!r}>"
    assert PythonBacking(Memory(nr_pages=10)).nr_pages == 10
    assert PythonBacking(Memory(nr_pages=None)).nr_pages == 1 << 47


@pytest.mark.parametrize(
    "obj", [None, 7, object(), [], type("Half", (), {"write_pages": print})(), Memory(read_pages=3)]
)
def test_missing_methods(obj):
    with pytest.raises(
        TypeError,
        match=r"path, a SwapFile or an object with write_pages\(.*has no (write|read)_pages",
    ):
        open_backing(obj)


def test_bad_attributes():
    for bad in (0, -1, (1 << 47) + 1):
        with pytest.raises(ValueError, match=rf"nr_pages of Memory is {bad}; 1 to 2\*\*47"):
            PythonBacking(Memory(nr_pages=bad))
    for bad in (True, "7", 1.0):
        with pytest.raises(TypeError, match="an int or None"):
            PythonBacking(Memory(nr_pages=bad))
    with pytest.raises(ValueError, match="page_size is 100"):
        PythonBacking(Memory(), 100)
    with pytest.raises(TypeError, match="does not change"):
        PythonBacking(Memory()).__init__(Memory())
    with pytest.raises(ValueError, match="never opened"):
        PythonBacking.__new__(PythonBacking).write_pages([0], bytes(PAGE))


def test_offsets_beyond_the_end_do_not_reach_the_object():
    obj = Full(nr_pages=10)
    backing = PythonBacking(obj)
    for call in (lambda: backing.write_pages([9, 10], bytes(2 * PAGE)), lambda: read(backing, 10)):
        with pytest.raises(ValueError, match="offset 10 is out of range: it has 10 pages"):
            call()
    backing.discard_pages([10])
    assert obj.calls == []
    figures = backing.stats()
    assert (figures["write_failures"], figures["read_failures"], figures["discard_failures"]) == (
        1,
        1,
        1,
    )


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("broken"), errno.EIO),
        (OSError("no number"), errno.EIO),
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (PermissionError(errno.EPERM, "no"), errno.EPERM),
        (OSError(errno.EINVAL, "what"), errno.EINVAL),
        (TimeoutError(errno.ETIMEDOUT, "late"), errno.ETIMEDOUT),
        (BackingError(errno.EDQUOT, "quota"), errno.EDQUOT),
        (OSError(0, "zero"), errno.EIO),
        (OSError(-5, "negative"), errno.EIO),
        (OSError(1 << 40, "large"), errno.EIO),
        (OSError("text", "text"), errno.EIO),
        (MemoryError(), errno.EIO),
        (SystemExit(3), errno.EIO),
        (StopIteration(), errno.EIO),
    ],
    ids=repr,
)
@pytest.mark.parametrize("method", ["write_pages", "read_pages", "discard_pages"])
def test_exceptions(error, code, method, capfd):
    def fail(*args):
        raise error

    backing = PythonBacking(Full(**{method: fail}))
    if method == "discard_pages":
        backing.discard_pages([3])
        assert backing.stats()["discard_failures"] == 1
    else:
        text = rf"store Full: cannot (write|read) the page at offset 3: {type(error).__name__}"
        with pytest.raises(BackingError, match=text) as caught:
            getattr(backing, method)([3], bytearray(PAGE))
        assert caught.value.errno == code
        assert caught.value.__cause__ is error
        assert backing.stats()[method.removesuffix("_pages") + "_failures"] == 1
    assert backing.last_error is error
    assert capfd.readouterr() == ("", "")


def test_a_success_forgets_the_error():
    obj = Memory()
    backing = PythonBacking(obj)
    with pytest.raises(BackingError):
        read(backing, 1)
    assert isinstance(backing.last_error, KeyError)
    backing.write_pages([1], bytes(PAGE))
    assert backing.last_error is None


def test_ctrl_c_is_raised_again():
    def interrupt(*args):
        raise KeyboardInterrupt

    backing = PythonBacking(Memory(write_pages=interrupt))

    def call():
        try:
            backing.write_pages([0], bytes(PAGE))
        except BackingError:
            for _ in range(10_000_000):
                pass

    with pytest.raises(KeyboardInterrupt):
        call()
    assert isinstance(backing.last_error, KeyboardInterrupt)


@pytest.mark.parametrize("result", [b"x" * PAGE, 4096, False])
def test_returning_the_pages_is_no_way_to_read(result):
    backing = PythonBacking(Memory(read_pages=lambda offsets, out: result))
    out = bytearray(b"o" * PAGE)
    with pytest.raises(BackingError, match="fill `out` and return None"):
        backing.read_pages([0], out)
    assert out == b"o" * PAGE


@pytest.mark.parametrize("shape", [(1,), (0,), (2 * PAGE,)])
def test_out_of_another_length_is_refused(shape):
    """Else what lies behind it in memory would be taken for the page, or a part of it be left."""

    class Resizes(Memory):
        def read_pages(self, offsets, out):
            out.resize(shape, refcheck=False)

    backing = PythonBacking(Resizes())
    page = bytearray(b"x" * PAGE)
    with pytest.raises(BackingError, match="changed the length of `out`"):
        backing.read_pages([0], page)
    assert page == b"x" * PAGE


@pytest.mark.parametrize(
    "result", [5, False, b"", iter(())], ids=lambda value: type(value).__name__
)
def test_a_write_that_returns_something_has_failed(result, engine):
    """A count, or a coroutine that nobody awaits, is no promise that the pages are kept: they stay
    in memory."""

    class Returns(Memory):
        def write_pages(self, offsets, pages):
            return result

    z = engine(backing=Returns(), shrinker_enabled=False)
    z[3] = b"abcdefgh" * 511 + b"the end."
    assert z.shrink(1) == 0
    assert z[3].endswith(b"the end.")


def test_a_failed_read_leaves_out_alone():
    def half(offsets, out):
        out[0] = 7
        raise OSError(errno.EIO, "torn")

    out = bytearray(b"o" * 2 * PAGE)
    with pytest.raises(BackingError):
        PythonBacking(Memory(read_pages=half)).read_pages([0, 1], out)
    assert out == b"o" * 2 * PAGE


def test_what_the_object_keeps_is_its_own():
    kept = []

    class Hoarder:
        def write_pages(self, offsets, pages):
            kept.append((offsets, pages, memoryview(pages)))

        def read_pages(self, offsets, out):
            out[:] = 5
            kept.append((offsets, out, memoryview(out)))

    backing = PythonBacking(Hoarder())
    page = bytearray(b"a" * PAGE)
    backing.write_pages([1], page)
    page[:] = b"b" * PAGE
    assert bytes(kept[0][1]) == b"a" * PAGE
    out = bytearray(PAGE)
    backing.read_pages([2], out)
    kept[1][1][:] = 9
    assert out == b"\5" * PAGE
    out.clear()  # no view of it is left
    page.clear()
    assert [k[0].tolist() for k in kept] == [[1], [2]]


def test_a_store_on_top_of_a_swap_file(tmp_path):
    """A Backing has the methods that a backing needs: a layer on top calls them."""

    class Inverted:
        def __init__(self, below):
            self.below = below
            self.nr_pages = below.nr_pages

        def write_pages(self, offsets, pages):
            self.below.write_pages(offsets, ~pages)

        def read_pages(self, offsets, out):
            self.below.read_pages(offsets, out)
            np.invert(out, out)

    with SwapFile(tmp_path / "swap", "64KiB") as file, PythonBacking(Inverted(file)) as backing:
        assert backing.nr_pages == 16
        backing.write_pages([3, 4], b"\x0f" * 2 * PAGE)
        assert read(backing, 3, 4) == b"\x0f" * 2 * PAGE
        assert read(file, 3) == b"\xf0" * PAGE
        os.truncate(file.path, 0)
        with pytest.raises(BackingError) as caught:
            read(backing, 3)
        assert caught.value.errno == errno.EIO


def test_lifetime():
    obj = Memory()
    backing = PythonBacking(obj)
    assert open_backing(backing) is backing
    backing.attach()
    with pytest.raises(BackingError, match="only the engine"):
        backing.write_pages([0], bytes(PAGE))
    with pytest.raises(BackingError, match="in use by an engine"):
        backing.close()
    with pytest.raises(BackingError, match="already used"):
        backing.attach()
    backing.detach()
    backing.close()
    backing.close()
    assert repr(backing).endswith("closed>")
    with pytest.raises(ValueError, match="backing store Memory is closed"):
        backing.write_pages([0], bytes(PAGE))
    with pytest.raises(ValueError, match="is closed"):
        open_backing(backing)

    cycle = Memory()
    cycle.backing = PythonBacking(cycle)
    gone = weakref.ref(cycle)
    del cycle
    gc.collect()
    assert gone() is None


def test_interpreter_exit():
    code = """
        import threading
        from zswap_core.backings import PythonBacking
        class Store:
            calls = 0
            def write_pages(self, offsets, pages):
                self.calls += 1
            def read_pages(self, offsets, out):
                pass
        store = Store()
        backing = PythonBacking(store)
        def work():
            while True:
                backing.write_pages([1], bytes(4096))
        for _ in range(3):
            threading.Thread(target=work, daemon=True).start()
        while store.calls < 100:
            pass
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
