"""`zswap.PageFile`: files whose bytes are pages of an engine."""

import io
import os
import random
import tarfile
import threading
import zipfile
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import zswap
from hooks.faults import FOREVER, fault
from zswap import PageFile


@pytest.fixture
def z():
    with zswap.ZSwap(max_pool_bytes="32MiB") as z:
        yield z
        z._validate()


@pytest.fixture
def file(z):
    with PageFile(z) as file:
        yield file


PLACES = st.one_of(
    st.integers(0, 9000), st.sampled_from([4095, 4096, 4097, 8192, 65536, 300_000, 1 << 40])
)
DATA = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([4096, 4095, 8192, 10_000]).map(lambda n: random.Random(n).randbytes(n)),
)


class Model(RuleBasedStateMachine):
    """A file against a dict of its bytes that are not zero."""

    def __init__(self):
        super().__init__()
        self.z = zswap.ZSwap(max_pool_bytes="32MiB")
        self.file, self.other = PageFile(self.z), PageFile(self.z)
        self.other.write(b"other" * 5000)
        self.bytes, self.size, self.at = {}, 0, 0

    def teardown(self):
        self.file.close()
        self.other.seek(0)
        assert self.other.read() == b"other" * 5000
        self.other.close()
        assert len(self.z) == 0
        self.z._validate()
        assert self.z.allocate(1 << 47) == 0
        self.z.close()

    @rule(at=PLACES)
    def seek(self, at):
        assert self.file.seek(at) == at
        self.at = at

    @rule(by=st.integers(-5000, 5000))
    def seek_by(self, by):
        if self.at + by < 0:
            with pytest.raises(ValueError, match="no place"):
                self.file.seek(by, os.SEEK_CUR)
        else:
            self.at += by
            assert self.file.seek(by, os.SEEK_CUR) == self.at

    @rule(data=DATA)
    def write(self, data):
        assert self.file.write(data) == len(data)
        for byte in data:
            self.bytes[self.at] = byte
            self.at += 1
        if data:
            self.size = max(self.size, self.at)

    @rule(data=DATA)
    def refused(self, data):
        with fault("ZPOOL_MALLOC", times=FOREVER):
            done = 0
            with suppress(OSError):
                done = self.file.write(data)
        assert self.file.tell() == self.at + done
        self.file.seek(self.at)
        if done:  # what needs no memory, or less than all
            self.write(data[:done])

    @rule(length=st.integers(0, 20_000))
    def read(self, length):
        data = self.file.read(length)
        expected = max(min(length, self.size - self.at), 0)
        assert data == bytes(self.bytes.get(self.at + n, 0) for n in range(expected))
        self.at += expected

    @rule(size=PLACES)
    def truncate(self, size):
        assert self.file.truncate(size) == size
        self.bytes = {at: byte for at, byte in self.bytes.items() if at < size}
        self.size = size

    @rule(at=PLACES, count=PLACES)
    def punch(self, at, count):
        self.file.punch(at, count)
        self.bytes = {n: byte for n, byte in self.bytes.items() if not at <= n < at + count}

    @invariant()
    def agrees(self):
        assert self.file.tell() == self.at
        assert self.file.size == self.size
        assert self.file.seek(0, os.SEEK_END) == self.size
        self.file.seek(self.at)


TestModel = Model.TestCase


@pytest.mark.parametrize("page_size", [4096, 65536])
def test_with_a_buffer_around_it(page_size):
    with zswap.ZSwap(page_size=page_size, max_pool_bytes="32MiB") as z:
        with io.BufferedRandom(PageFile(z)) as file:
            for n in range(20_000):
                file.write(b"%d\n" % n)
            file.seek(0)
            assert [int(line) for line in file] == list(range(20_000))
        assert len(z) == 0
        with io.TextIOWrapper(io.BufferedRandom(PageFile(z)), "utf-8") as text:
            text.write("größer\n" * 3)
            text.seek(0)
            assert text.readlines() == ["größer\n"] * 3


def test_zipfile(file):
    data = random.Random(1).randbytes(100_000) + bytes(1 << 20)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b.bin", data)
        archive.writestr("c.txt", "text")
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert archive.read("a/b.bin") == data
        assert archive.namelist() == ["a/b.bin", "c.txt"]


def test_tarfile(file, tmp_path):
    (tmp_path / "x").write_bytes(random.Random(1).randbytes(50_000))
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.add(tmp_path / "x", "x")
    file.seek(0)
    with tarfile.open(fileobj=file) as archive:
        assert archive.extractfile("x").read() == (tmp_path / "x").read_bytes()


def test_numpy(file):
    arrays = {"a": np.arange(100_000).reshape(100, -1), "b": np.array([1.5])}
    np.save(file, arrays["a"])
    file.seek(0)
    np.testing.assert_array_equal(np.load(file), arrays["a"])
    file.seek(0)
    file.truncate()
    np.savez(file, **arrays)
    file.seek(0)
    with np.load(file) as found:
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)


def test_h5py(file):
    h5py = pytest.importorskip("h5py")
    with h5py.File(file, "w") as h5:
        h5.create_dataset("a", data=np.arange(100_000), chunks=(1000,))
    with h5py.File(file, "r") as h5:
        np.testing.assert_array_equal(h5["a"][:], np.arange(100_000))


def test_holes_take_nothing_and_are_found(file, z):
    file.truncate(1 << 40)
    file.seek(1 << 30)
    file.write(b"data")
    assert len(z) == 1
    assert file.seek(0, os.SEEK_DATA) == 1 << 30
    assert file.seek((1 << 30) + 5, os.SEEK_HOLE) == (1 << 30) + 4096
    assert file.seek(5, os.SEEK_HOLE) == 5
    with pytest.raises(OSError, match="No such device"):
        file.seek((1 << 30) + 4096, os.SEEK_DATA)
    with pytest.raises(OSError, match="No such device"):
        file.seek(1 << 40, os.SEEK_HOLE)
    file.seek(1 << 30)
    assert file.read(4096) == b"data".ljust(4096, b"\0")


def test_punched_pages_are_freed(file, z):
    file.write(b"x" * (2000 * 4096 + 100))
    file.seek(5)
    file.punch(4097, 1500 * 4096)
    assert (file.size, file.tell(), len(z)) == (2000 * 4096 + 100, 5, 2001 - 1499)
    assert file.seek(0, os.SEEK_HOLE) == 2 * 4096
    assert file.seek(2 * 4096, os.SEEK_DATA) == 1501 * 4096
    file.seek(4096)
    assert file.read(4096) == b"x" + bytes(4095)
    file.punch(1600 * 4096, 1 << 61)  # the last page, of which there is only a part, goes too
    assert len(z) == 1600 - 1499
    file.truncate(1 << 60)
    file.punch(0, 1 << 60)
    assert len(z) == 0
    assert not file._blocks
    for at, count in ((-1, 1), (1, -1)):
        with pytest.raises(ValueError, match="negative"):
            file.punch(at, count)


def test_over_the_limit_the_file_stays_as_it_was(tmp_path):
    noise = random.Random(1).randbytes(1 << 20)
    with zswap.ZSwap(max_pool_bytes="2MiB", accept_threshold_percent=100) as z, PageFile(z) as file:
        file.write(noise)
        file.seek(0)
        with pytest.raises(OSError, match="refuses a page") as caught:
            file.write(random.Random(2).randbytes(3 << 20))
        assert caught.value.errno == 28
        assert file.tell() == 0
        assert file.read() == noise
        z._validate()


def test_beyond_the_limit_into_a_swap_file(tmp_path):
    noise = random.Random(1).randbytes(8 << 20)
    with (
        zswap.ZSwap(max_pool_bytes="2MiB", backing=tmp_path / "swap") as z,
        PageFile(z) as file,
    ):
        for at in range(0, len(noise), 1 << 16):
            file.write(noise[at : at + (1 << 16)])
        file.seek(0)
        assert file.read() == noise
        assert file.weight() < 2 << 20


def test_threads_share_a_file(file):
    """Each write is one step, and so is each read."""
    blocks = [bytes([n]) * 6000 for n in range(4)]
    failures = []
    file.write(blocks[0])

    def work(number):
        try:
            other = PageFile(file._engine)
            for _ in range(50):
                with file._lock:  # seek and what follows are two steps
                    file.seek(0)
                    file.write(blocks[number])
                with file._lock:
                    file.seek(0)
                    assert file.read(6000) in blocks
                other.write(blocks[number])
            other.seek(0)
            assert other.read() == blocks[number] * 50
            other.close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_after_close_all_is_a_value_error(z):
    file = PageFile(z)
    file.write(b"1")
    file.close()
    file.close()
    assert len(z) == 0
    for call in (file.tell, file.readall, file.truncate, file.weight, file.seekable, file.readable):
        with pytest.raises(ValueError, match="closed"):
            call()
    for call in (file.seek, file.read, lambda n: file.punch(n, n)):
        with pytest.raises(ValueError, match="closed"):
            call(0)
    with pytest.raises(ValueError, match="closed"):
        file.write(b"")
    assert repr(file) == "<PageFile closed>"


def test_when_the_engine_is_closed_first():
    z = zswap.ZSwap(max_pool_bytes="1MiB")
    file = PageFile(z)
    file.write(b"1")
    assert repr(file).startswith("<PageFile: 1 bytes at 1, in <ZSwap lz4")
    z.close()
    for call in (file.readall, file.tell, lambda: file.write(b"1")):
        with pytest.raises(ValueError, match="the ZSwap of this file is closed"):
            call()
    file.close()


def test_what_is_dropped_is_freed(z):
    PageFile(z).write(b"1")
    assert len(z) == 0


def test_in_an_area_of_its_own(z):
    z.swapon(4, 1000)
    with PageFile(z, 4) as file:
        file.write(b"1" * 10_000)
        assert len(z) == 0
        assert z._page_count(4) == 3
        with pytest.raises(OSError, match="no 64 offsets"):
            file.write(bytes(4096 * 1000))
    with pytest.raises(ValueError, match="area 5 is not online"):
        PageFile(z, 5)
    with pytest.raises(TypeError, match="a ZSwap is needed"):
        PageFile(b"")


@pytest.mark.parametrize("call", [("seek", -1), ("seek", 0, 9), ("truncate", -1)])
def test_places_that_are_none(file, call):
    name, *arguments = call
    with pytest.raises(ValueError, match="needed"):
        getattr(file, name)(*arguments)
