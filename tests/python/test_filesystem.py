"""`zswap://`, against fsspec's own tests of file systems, a dict, and its own one in memory."""

import contextlib
import errno
import io
import os
import pickle
import random
import re
import subprocess
import sys
import threading

import pytest

fsspec = pytest.importorskip("fsspec")

from fsspec.implementations.memory import MemoryFileSystem  # noqa: E402
from fsspec.tests import abstract  # noqa: E402

import hooks  # noqa: E402
import zswap  # noqa: E402
from zswap.filesystem import ZswapFileSystem  # noqa: E402

MIB = 1 << 20


@pytest.fixture
def fs():
    made = ZswapFileSystem(max_memory="64MiB", skip_instance_cache=True)
    yield made
    if not made.engine.closed:
        made.engine._validate()
        made.close()


# ---- fsspec's own --------------------------------------------------------------------------------


class Fixtures(abstract.AbstractFixtures):
    """A file system and a folder for fsspec's tests."""

    @pytest.fixture
    def fs(self):
        made = ZswapFileSystem(max_memory="64MiB", skip_instance_cache=True)
        yield made
        made.close()

    @pytest.fixture
    def fs_join(self):
        return lambda *parts: "/".join(parts)

    @pytest.fixture
    def fs_path(self):
        return "folder"


class TestCopy(abstract.AbstractCopyTests, Fixtures):
    pass


class TestGet(abstract.AbstractGetTests, Fixtures):
    pass


class TestPut(abstract.AbstractPutTests, Fixtures):
    pass


class TestPipe(abstract.AbstractPipeTests, Fixtures):
    pass


class TestOpen(abstract.AbstractOpenTests, Fixtures):
    pass


# ---- by URL --------------------------------------------------------------------------------------


def test_a_url_is_enough(tmp_path):
    """What is installed says where the protocol is: nothing was imported."""
    code = (
        "import fsspec\n"
        "with fsspec.open('zswap://a/b.txt', 'w') as f: f.write('text')\n"
        "print(fsspec.open('zswap://a/b.txt').fs.cat('a/b.txt'))\n"
    )
    if "zswap" not in fsspec.available_protocols():
        pytest.skip("the zswap in use is not the installed one")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout == "b'text'\n"


def test_one_of_the_same_options():
    one, two = ZswapFileSystem("1MiB"), ZswapFileSystem("1MiB")
    assert one is two is not ZswapFileSystem("2MiB")
    one.pipe("a", b"1")
    one.close()
    assert ZswapFileSystem("1MiB").ls("") == []
    for made in (ZswapFileSystem("1MiB"), ZswapFileSystem("2MiB")):
        made.close()


@pytest.mark.parametrize("path", ["a/b", "/a/b", "/a/b/", "zswap://a/b", "zswap:///a/b"])
def test_names(fs, path):
    fs.pipe("a/b", b"1")
    assert fs.cat(path) == b"1"
    assert fs.info(path)["name"] == "a/b"


# ---- the tree, against fsspec's in memory --------------------------------------------------------

NAMES = ["a", "b", "a/b", "c/d", "c/d/e", "c/f"]


def outcome(call):
    try:
        return call()
    except (OSError, ValueError) as error:
        return type(error) if isinstance(error, FileNotFoundError) else OSError


@pytest.mark.parametrize("seed", range(20))
def test_random_life(fs, seed):
    """Contents agree with a dict whenever a call says that it worked."""
    rng, files = random.Random(seed), {}
    for _ in range(300):
        name, other = rng.choices(NAMES, k=2)
        verb = rng.choice(["pipe", "write", "append", "rm", "cat", "mv", "cp", "touch", "part"])
        data = rng.randbytes(rng.choice([0, 1, 5000, 65536, 70000]))
        try:
            if verb == "pipe":
                fs.pipe_file(name, data)
                files[name] = data
            elif verb == "write":
                with fs.open(name, "wb") as file:
                    file.write(data)
                files[name] = data
            elif verb == "append":
                with fs.open(name, "ab") as file:
                    file.write(data)
                files[name] = files.get(name, b"") + data
            elif verb == "rm":
                fs.rm_file(name)
                del files[name]
            elif verb == "mv":
                fs.mv_file(name, other)
                files[other] = files.pop(name)
            elif verb == "cp":
                fs.cp_file(name, other)
                if name in files:
                    files[other] = files[name]
            elif verb == "touch":
                fs.touch(name)
                files[name] = b""
            elif verb == "part":
                with fs.open(name, "r+b") as file:
                    file.seek(100)
                    file.write(data)
                old = files[name].ljust(100, b"\0") if data else files[name]
                files[name] = old[:100] + data + old[100 + len(data) :] if data else old
            else:
                assert fs.cat_file(name) == files[name]
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, FileExistsError):
            if verb in ("rm", "cat", "part"):
                assert name not in files
        assert sorted(fs.find("")) == sorted(files)
        for name, content in files.items():
            assert fs.size(name) == len(content)
    for name, content in files.items():
        assert fs.cat_file(name) == content
        assert fs.cat_file(name, 3, -3) == content[3:-3]
        assert fs.cat_file(name, -10) == content[-10:]


def test_folders_as_in_memory(fs):
    memory = MemoryFileSystem(global_store=False, skip_instance_cache=True)
    for made in (fs, memory):
        made.mkdir("/x/y")
        made.pipe({"/x/1": b"1", "/x/y/2": b"22", "/z/3": b"333"})
    for call in (
        lambda f: f.ls("/x", detail=False),
        lambda f: f.ls("", detail=False),
        lambda f: f.glob("/*/*"),
        lambda f: f.find("/"),
        lambda f: f.du("/"),
        lambda f: sorted(f.walk("/x"), key=str),
        lambda f: outcome(lambda: f.rmdir("/x")),
        lambda f: outcome(lambda: f.ls("/nowhere")),
        lambda f: outcome(lambda: f.mkdir("/x")),
        lambda f: outcome(lambda: f.rm_file("/nowhere")),
        lambda f: f.isdir("/x/y"),
        lambda f: f.isfile("/x/y"),
        lambda f: f.rm("/x", recursive=True),
        lambda f: f.find("/"),
    ):
        ours, its = call(fs), call(memory)
        # its names begin with a slash
        assert repr(ours) == re.sub(r"'/(?=\w)", "'", repr(its))
    fs.rm("/z", recursive=True)
    assert fs.ls("") == []
    assert len(fs.engine) == 0


# ---- files ---------------------------------------------------------------------------------------


def test_readers_keep_what_they_opened(fs):
    fs.pipe("a", b"old" * 100_000)
    with fs.open("a", "rb") as reader, fs.open("a", "wb") as writer:
        assert reader.read(3) == b"old"
        writer.write(b"new")
        assert fs.cat("a") == b"old" * 100_000
        writer.close()
        assert fs.cat("a") == b"new"
        fs.rm("a")
        assert reader.read() == (b"old" * 100_000)[3:]
    del reader, writer
    assert fs.ls("") == []
    assert len(fs.engine) == 0


def test_a_transaction_is_all_or_nothing(fs):
    with fs.transaction:
        with fs.open("a", "wb") as file:
            file.write(b"1")
        assert not fs.exists("a")
    assert fs.cat("a") == b"1"

    def fails():
        with fs.transaction:
            with fs.open("a", "wb") as file:
                file.write(b"2")
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert fs.cat("a") == b"1"


def test_it_is_full():
    fs = ZswapFileSystem(max_memory="1MiB", skip_instance_cache=True)
    fs.pipe("a", b"kept")
    with pytest.raises(OSError, match="limit") as caught:
        fs.pipe("a", os.urandom(2 * MIB))
    assert caught.value.errno == errno.ENOSPC
    file = fs.open("a", "wb")
    with pytest.raises(OSError, match="limit"):
        file.write(os.urandom(2 * MIB))
    with contextlib.suppress(OSError):
        file.close()
    assert fs.cat("a") == b"kept"
    fs.close()


def test_with_a_file_behind(tmp_path):
    fs = ZswapFileSystem("1MiB", tmp_path / "swap", "64MiB", skip_instance_cache=True)
    data = os.urandom(8 * MIB)
    fs.pipe("a", data)
    assert fs.cat("a") == data
    assert fs.engine.stats().encrypted_areas == 1
    assert fs.weight("a") <= MIB
    fs.close()
    assert list(tmp_path.iterdir()) == []


def test_pickled_it_is_itself_and_nothing_elsewhere(fs, tmp_path):
    assert pickle.loads(pickle.dumps(fs)) is fs
    file = tmp_path / "fs"
    file.write_bytes(pickle.dumps(fs))
    code = f"import pickle; pickle.load(open({str(file)!r}, 'rb'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": hooks.PATH},
    )
    assert f"in the memory of process {os.getpid()}" in done.stderr


def test_closed(fs):
    fs.pipe("a", b"1")
    reader = fs.open("a")
    fs.close()
    with pytest.raises(ValueError, match="closed"):
        reader.read()
    with pytest.raises(ValueError, match="closed"):
        fs.pipe("a", b"1")
    with pytest.raises(FileNotFoundError):
        fs.cat("a")


@pytest.mark.parametrize("mode", ["q", "", "rw", "bb"])
def test_bad_modes(fs, mode):
    with pytest.raises(ValueError, match="mode"):
        fs._open("a", mode)


def test_a_reader_does_not_write(fs):
    fs.pipe("a", b"1")
    with fs.open("a") as file, pytest.raises(io.UnsupportedOperation):
        file.write(b"2")
    with fs.open("b", "wb") as file, pytest.raises(io.UnsupportedOperation):
        file.read()


def test_threads(fs):
    def work(n):
        data = random.Random(n).randbytes(100_000)
        for i in range(20):
            fs.pipe(f"{n}/{i % 3}", data)
            assert fs.cat(f"{n}/{i % 3}") == data
            with fs.open("shared", "wb") as file:
                file.write(data)
            assert len(fs.cat("shared")) == 100_000

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fs.find("")) == 13


def test_an_engine_is_a_zswap(fs):
    assert isinstance(fs.engine, zswap.ZSwap)
