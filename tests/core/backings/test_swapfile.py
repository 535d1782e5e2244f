"""The swap file: what it refuses, what it keeps, and what it says when the system fails it."""

import errno
import gc
import mmap
import os
import random
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

import zswap_core
from hooks.faults import FOREVER, arm, disarm, fault, injected
from zswap_core.backings import Backing, SwapFile, open_backing
from zswap_core.errors import BackingError, Error

pytestmark = pytest.mark.slow

PAGE = 4096
SIZES = (4096, 16384, 65536)
ROOT = Path(zswap_core.__file__).parent.parent
HEADER = struct.Struct("<16sIIQ16sII")
CLEAN, IN_USE, BEING_MADE = range(3)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "swap"


def aligned(size):
    return memoryview(mmap.mmap(-1, size))


def unaligned(size, shift=8):
    return aligned(size + PAGE)[shift : shift + size]


def read(file, *offsets):
    out = bytearray(len(offsets) * file.page_size)
    file.read_pages(offsets, out)
    return bytes(out)


def refused(code, path, *args, match=None, **kwargs):
    """Opening fails with this errno and a message that names the file, and the file keeps every
    byte."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(BackingError, match=match) as caught:
        SwapFile(path, *args, **kwargs)
    assert caught.value.errno == code
    assert str(path) in str(caught.value)
    if before is not None:
        assert path.read_bytes() == before
    return str(caught.value)


def python(code, *args, check=True, **env):
    """Run a program of its own."""
    program = (
        "import os, sys\nfrom zswap_core.backings import SwapFile\nfrom zswap_core.errors "
        "import BackingError\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program + textwrap.dedent(code), *map(str, args)],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=check,
    )


# ---- opening -------------------------------------------------------------------------------------


def test_new_file(folder):
    path = folder / "swap"
    with SwapFile(path, "1MiB") as file:
        found = path.stat()
        assert stat.S_IMODE(found.st_mode) == 0o600
        assert found.st_size == (1 << 20) + PAGE
        assert found.st_blocks * 512 <= 2 * PAGE  # sparse
        assert isinstance(file, Backing)
        assert (file.path, file.nr_pages, file.page_size) == (str(path), 256, PAGE)
        assert not file.left_open
        assert not file.preallocated
        magic, version, page_size, nr_pages, id_, state, pid = HEADER.unpack_from(path.read_bytes())
        assert (magic, version) == (b"\x89zswap swap\r\n\x1a\n\0", 1)
        assert (page_size, nr_pages, id_.hex(), state, pid) == (
            PAGE,
            256,
            file.id,
            IN_USE,
            os.getpid(),
        )
        assert repr(file).startswith(f"<SwapFile {str(path)!r}, 256 pages of 4096 bytes")
    assert HEADER.unpack_from(path.read_bytes())[5] == CLEAN
    assert "closed" in repr(file)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o777])
def test_mode_is_0600_whatever_the_umask(path, mask):
    old = os.umask(mask)
    try:
        file = SwapFile(path, "64KiB")
    finally:
        os.umask(old)
    with file:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("size", "page_size", "nr_pages"),
    [
        (4096, 4096, 1),
        (8191, 4096, 1),
        ("1GB", 4096, 244140),
        ("1.5MiB", 16384, 96),
        (65536, 65536, 1),
        (1 << 40, 4096, 1 << 28),
    ],
)
def test_sizes(path, size, page_size, nr_pages):
    with SwapFile(path, size, page_size=page_size) as file:
        assert file.nr_pages == nr_pages
        assert path.stat().st_size == (nr_pages + 1) * page_size


@pytest.mark.parametrize("size", [0, -1, 4095, "x", "-1", 1 << 63, 1 << 100, (1 << 59) + PAGE])
def test_bad_sizes(path, size):
    with pytest.raises(ValueError, match=r"room|memory|more than a file"):
        SwapFile(path, size)
    assert not path.exists()


def test_other_bad_arguments(path):
    with pytest.raises(TypeError, match="float"):
        SwapFile(path, 1e6)
    with pytest.raises(ValueError, match="page_size is 8192; 4096, 16384 or 65536"):
        SwapFile(path, "1MiB", page_size=8192)
    with pytest.raises(ValueError, match="needs a size, such as"):
        SwapFile(path)
    with pytest.raises(TypeError):
        SwapFile(7, "1MiB")
    assert not path.exists()
    with SwapFile(path, "1MiB") as file, pytest.raises(TypeError, match="opened once"):
        file.__init__(path, "1MiB")
    with pytest.raises(ValueError, match="never opened"):
        SwapFile.__new__(SwapFile).read_pages([0], bytearray(PAGE))
    with pytest.raises(TypeError, match="open_backing"):
        Backing()


def test_paths_of_every_kind(path, monkeypatch):
    for spec in (str(path), os.fsencode(path), path):
        with SwapFile(spec, "64KiB") as file:
            assert file.path == str(path)
    monkeypatch.chdir(path.parent)
    with SwapFile("swap") as file:
        assert file.path == str(path)


def test_no_folder(tmp_path):
    refused(errno.ENOENT, tmp_path / "no" / "swap", "1MiB", match="cannot open it: No such file")


def test_an_empty_file_will_do(path):
    path.touch(0o600)
    with pytest.raises(ValueError, match="needs a size"):
        SwapFile(path)
    assert path.stat().st_size == 0
    with SwapFile(path, "64KiB") as file:
        assert file.nr_pages == 16


def test_a_swap_file_is_used_again_but_never_its_content(folder):
    path = folder / "swap"
    with SwapFile(path, "1MiB") as file:
        file.write_pages([0, 255], b"x" * 2 * PAGE)
        first = file.id
    with SwapFile(path) as file:
        assert file.nr_pages == 256
        assert not file.left_open
        assert file.id != first
        assert read(file, 0, 255) == bytes(2 * PAGE)
    with SwapFile(path, "128KiB", page_size=16384) as file:
        assert (file.nr_pages, path.stat().st_size) == (8, 9 * 16384)
    with SwapFile(path, page_size=65536) as file:
        assert file.nr_pages == 2
    with pytest.raises(ValueError, match="no room"):
        SwapFile(path, 1)


def test_closing_gives_the_space_back(folder):
    path = folder / "swap"
    with SwapFile(path, "1MiB") as file:
        file.write_pages(range(256), os.urandom(1 << 20))
        assert path.stat().st_blocks * 512 >= 1 << 20
    assert path.stat().st_blocks * 512 <= 4 * PAGE
    assert path.stat().st_size == (1 << 20) + PAGE


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [None, "64KiB"])
@pytest.mark.parametrize(
    "content", [b"x", b"\0" * 8192, b"\x89zswap swap\r\n\x1a", b"SWAPSPACE2" * 1000], ids=len
)
def test_a_foreign_file_is_left_alone(path, content, size):
    path.write_bytes(content)
    path.chmod(0o600)
    times = path.stat().st_mtime_ns
    refused(errno.EEXIST, path, size, match="holds something else.*name another file")
    assert path.stat().st_mtime_ns == times


@pytest.mark.parametrize("dangling", [False, True])
def test_a_symlink_is_refused(path, dangling):
    target = path.with_name("target")
    if not dangling:
        SwapFile(target, "64KiB").close()
    path.symlink_to(target)
    refused(errno.ELOOP, path, "64KiB", match="symbolic link")
    assert path.is_symlink()
    assert target.exists() is not dangling


def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo", 0o600)
    refused(errno.EINVAL, tmp_path / "fifo", "64KiB", match="device, a pipe or a socket")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        refused(errno.EINVAL, tmp_path / "socket", "64KiB", match="regular file")
    refused(errno.EINVAL, Path("/dev/null"), "64KiB", match="regular file")
    (tmp_path / "folder").mkdir()
    refused(errno.EISDIR, tmp_path / "folder", "64KiB", match="directory; name a file in it")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777, 0o601, 0o610])
def test_a_file_that_others_may_open_is_refused(path, mode):
    SwapFile(path, "64KiB").close()
    path.chmod(mode)
    text = refused(errno.EACCES, path, match=f"mode {mode:04o}.*run: rm")
    assert f"rm {path}" in text
    assert "chmod" not in text  # whoever has it open already would read every page
    path.chmod(0o600)
    SwapFile(path).close()


@pytest.mark.parametrize(
    "left", ["an empty file", "a swap file", "one left by a run that was killed"]
)
def test_whoever_had_the_file_open_before_sees_no_page(path, left):
    """A mode keeps nobody out who is in already."""
    secret = b"SECRET.." * (PAGE // 8)
    if left == "an empty file":
        path.touch(0o600)
    elif left == "a swap file":
        SwapFile(path, "64KiB").close()
    else:
        program = """
            file = SwapFile(sys.argv[1], "64KiB")
            file.write_pages(range(4), b"SECRET.." * 512 * 4)
            os.kill(os.getpid(), 9)
        """
        python(program, path, check=False)
    with open(path, "rb") as other, SwapFile(path, "64KiB") as file:
        file.write_pages(range(4), secret * 4)
        assert other.read().count(secret) == 0
        assert os.fstat(other.fileno()).st_nlink == 0
        assert path.read_bytes().count(secret) == 4
        assert file.left_open == (left == "one left by a run that was killed")


def test_a_file_that_cannot_be_replaced_is_not_used(path, monkeypatch):
    SwapFile(path, "64KiB").close()
    before = path.read_bytes()

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "no")

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        text = refused(errno.EACCES, path, match="cannot put a new file in its place")
    assert "name a file in a folder that you may write to" in text
    assert path.read_bytes() == before


def test_a_name_that_has_become_anothers_is_not_removed(path, tmp_path, monkeypatch):
    """unlink=True, and a failed opening, remove the file they made and no other."""

    def put_another(*args):
        path.rename(tmp_path / "moved")
        path.write_text("somebody else's")

    fchmod = os.fchmod
    monkeypatch.setattr(os, "fchmod", lambda *args: (fchmod(*args), put_another()))
    with SwapFile(path, "64KiB", unlink=True):
        assert path.read_text() == "somebody else's"
    path.unlink()
    with fault("FILE_ALLOCATE", error=errno.ENOSPC), pytest.raises(BackingError):
        SwapFile(path, "64KiB", preallocate=True)
    assert path.read_text() == "somebody else's"


@pytest.mark.parametrize("empty", [False, True])
def test_a_file_with_two_names_is_refused(path, empty):
    link = path.with_name("link")
    if empty:
        path.touch(0o600)
    else:
        SwapFile(path, "64KiB").close()
    os.link(path, link)
    for name in (path, link):
        refused(errno.EMLINK, name, "64KiB", match=r"it has 2 names \(hard links\).*remove it")
    link.unlink()
    SwapFile(path, "64KiB").close()


def test_a_file_is_not_handed_to_programs(path):
    with SwapFile(path, "64KiB"):
        (number,) = [
            n
            for n in os.listdir("/proc/self/fd")
            if os.path.realpath(f"/proc/self/fd/{n}") == str(path)
        ]
        assert not os.get_inheritable(int(number))


def test_a_path_through_links_of_ones_own(tmp_path):
    real = tmp_path / "a" / "real"
    real.mkdir(parents=True)
    (tmp_path / "a" / "up").symlink_to("../a//./real")
    (tmp_path / "absolute").symlink_to(tmp_path / "a" / "up")
    with SwapFile(tmp_path / "absolute" / "swap", "64KiB") as file:
        assert file.path == str(tmp_path / "absolute" / "swap")
        assert (real / "swap").exists()
    (tmp_path / "round").symlink_to("round")
    refused(errno.ELOOP, tmp_path / "round" / "swap", "64KiB", match="cannot open it")


def only_root(test):
    return pytest.mark.root(
        pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")(test)
    )


@only_root
@pytest.mark.parametrize("behind", [False, True])
def test_a_path_through_a_link_of_another_user_is_refused(tmp_path, behind):
    (tmp_path / "real").mkdir()
    (tmp_path / "theirs").symlink_to("real")
    os.chown(tmp_path / "theirs", 65534, -1, follow_symlinks=False)
    (tmp_path / "mine").symlink_to(tmp_path / "theirs")
    path = tmp_path / ("mine" if behind else "theirs") / "swap"
    text = refused(
        errno.ELOOP, path, "64KiB", match="symbolic link of user 65534.*give a path without it"
    )
    assert f"{tmp_path}/theirs is" in text
    assert not (tmp_path / "real" / "swap").exists()
    with SwapFile(tmp_path / "real" / "swap", "64KiB"):
        pass


@only_root
def test_a_file_of_another_user_is_refused(path):
    SwapFile(path, "64KiB").close()
    os.chown(path, 65534, -1)
    refused(errno.EPERM, path, match="belongs to user 65534, not to user 0")


def test_every_damaged_byte_of_the_header_is_found(path):
    SwapFile(path, "8KiB").close()
    content = bytearray(path.read_bytes())
    assert len(content) == 3 * PAGE
    with open(path, "r+b", buffering=0) as raw:
        for i in range(PAGE):
            content[i] ^= 1 << i % 8
            os.pwrite(raw.fileno(), content[i : i + 1], i)
            with pytest.raises(
                BackingError, match="something else" if i < 16 else "header is damaged; .* rm "
            ) as caught:
                SwapFile(path, "8KiB")
            assert caught.value.errno == (errno.EEXIST if i < 16 else errno.EBADMSG), i
            assert path.read_bytes() == content
            content[i] ^= 1 << i % 8
            os.pwrite(raw.fileno(), content[i : i + 1], i)
    SwapFile(path).close()


@pytest.mark.parametrize(
    "length", [16, 100, 4095, PAGE, 2 * PAGE, 3 * PAGE - 1, 3 * PAGE + 1, 4 * PAGE]
)
def test_a_swap_file_of_wrong_length_is_refused(path, length):
    SwapFile(path, "8KiB").close()
    os.truncate(path, length)
    refused(
        errno.EBADMSG,
        path,
        "8KiB",
        match="damaged" if length < PAGE else f"is {length} bytes long.*{3 * PAGE}.*rm ",
    )


def header(version=1, page_size=PAGE, nr_pages=2, state=CLEAN):
    text = HEADER.pack(
        b"\x89zswap swap\r\n\x1a\n\0", version, page_size, nr_pages, b"i" * 16, state, 1
    )
    text = text.ljust(PAGE - 4, b"\0")
    return text + zlib.crc32(text).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"version": 2}, "format version 2, and this zswap knows only 1"),
        ({"version": 0}, "format version 0"),
        ({"page_size": 0}, "makes no sense"),
        ({"nr_pages": 0}, "makes no sense"),
        ({"state": 3}, "makes no sense"),
        ({"nr_pages": (1 << 64) - 1, "page_size": (1 << 32) - 1}, "bytes long"),
    ],
)
def test_a_header_of_another_time_is_refused(path, fields, match):
    path.write_bytes(header(**fields) + bytes(2 * PAGE))
    path.chmod(0o600)
    refused(errno.EBADMSG, path, "8KiB", match=match)


@pytest.mark.parametrize("length", [PAGE, 2 * PAGE, 100 * PAGE])
def test_a_file_whose_making_was_cut_short_is_used(path, length):
    path.write_bytes(header(state=BEING_MADE, nr_pages=5).ljust(length, b"x"))
    path.chmod(0o600)
    with SwapFile(path) as file:
        assert file.left_open
        assert file.nr_pages == 5
        assert read(file, *range(5)) == bytes(5 * PAGE)


def test_a_forged_huge_file_is_refused_clearly(path):
    path.write_bytes(header(state=BEING_MADE, nr_pages=(1 << 64) - 1, page_size=(1 << 32) - 1))
    path.chmod(0o600)
    with pytest.raises(ValueError, match="more than a file can have"):
        SwapFile(path)


def test_a_second_opener_in_this_process(path):
    with SwapFile(path, "64KiB") as file:
        file.write_pages([3], b"z" * PAGE)
        refused(
            errno.EBUSY, path, "64KiB", match=rf"another SwapFile \(process {os.getpid()}\) uses it"
        )
        assert read(file, 3) == b"z" * PAGE
    SwapFile(path).close()


def test_a_second_opener_in_another_process(path):
    code = """
        try:
            SwapFile(sys.argv[1], "64KiB")
        except BackingError as error:
            print(error.errno, error)
    """
    with SwapFile(path, "64KiB") as file:
        file.write_pages([3], b"z" * PAGE)
        assert python(code, path).stdout.startswith(f"{errno.EBUSY} ")
        assert read(file, 3) == b"z" * PAGE
    assert python(code, path).stdout == ""


def test_racing_openers_leave_one_winner(path):
    def opened(_):
        barrier.wait()
        try:
            return SwapFile(path, "64KiB")
        except BackingError as error:
            return error.errno

    for _ in range(20):
        barrier = threading.Barrier(4)
        with ThreadPoolExecutor(4) as threads:
            results = list(threads.map(opened, range(4)))
        (winner,) = [r for r in results if r != errno.EBUSY]
        assert path.stat().st_size == 17 * PAGE
        winner.close()
        path.unlink()


def test_a_file_that_goes_away_while_it_is_being_opened_is_in_use(path, monkeypatch):
    """Whoever lost a race for the name is told so, at each step at which he may find it gone."""
    SwapFile(path, "64KiB").close()
    path.touch(0o600)
    opened = os.open

    def gone(name, flags, *mode, **options):
        if os.fspath(name) == str(path) and not flags & os.O_CREAT:
            path.unlink()
        return opened(name, flags, *mode, **options)

    monkeypatch.setattr(os, "open", gone)
    with pytest.raises(
        BackingError, match="replaced while it was being opened; try again"
    ) as caught:
        SwapFile(path, "64KiB")
    assert caught.value.errno == errno.EBUSY


# ---- pages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("get", "cap"), [(aligned, 256), (unaligned, 64)])
def test_runs_are_written_together(path, get, cap):
    with SwapFile(path, "8MiB") as file:
        file.write_pages(range(1024), get(1024 * PAGE))
        cap = cap if file.direct else 256
        assert file.stats()["write_requests"] == 1024 // cap
        file.read_pages(range(0, 64, 2), get(32 * PAGE))
        assert file.stats()["read_requests"] == 32
        figures = file.stats()
        assert (figures["written_pages"], figures["written_bytes"]) == (1024, 4 << 20)
        assert (figures["read_pages"], figures["bounced_pages"]) == (32, 1056 if cap == 64 else 0)


def test_the_pages_lie_where_the_format_says(path):
    with SwapFile(path, "64KiB", direct=False) as file:
        file.write_pages([0, 15], b"a" * PAGE + b"b" * PAGE)
        raw = path.read_bytes()
        assert raw[PAGE : 2 * PAGE] == b"a" * PAGE
        assert raw[16 * PAGE :] == b"b" * PAGE


def test_the_last_offset_there_is():
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no /dev/shm to write to")
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as name,
        SwapFile(f"{name}/swap", 1 << 59) as file,
    ):
        last = (1 << 47) - 1
        assert file.nr_pages == last + 1
        file.write_pages([0, last - 1, last], b"a" * PAGE + b"b" * PAGE + b"c" * PAGE)
        assert read(file, 0, last - 1, last) == b"a" * PAGE + b"b" * PAGE + b"c" * PAGE
        with pytest.raises(
            ValueError, match=r"offset 140737488355328 is out of range.*2\*\*47 - 1"
        ):
            file.write_pages([last + 1], bytes(PAGE))
        file.discard_pages([last])
        assert read(file, last) == bytes(PAGE)


def test_an_offset_beyond_the_end_writes_nothing(path):
    with SwapFile(path, "64KiB") as file:
        for call in (lambda: file.write_pages([0, 16], b"x" * 2 * PAGE), lambda: read(file, 0, 16)):
            with pytest.raises(ValueError, match="offset 16 is out of range: it has 16 pages"):
                call()
        file.discard_pages([16])
        assert read(file, 0) == bytes(PAGE)
        figures = file.stats()
        assert (
            figures["write_failures"],
            figures["read_failures"],
            figures["discard_failures"],
        ) == (1, 1, 1)
        assert figures["written_pages"] == figures["discarded_pages"] == 0
        assert path.stat().st_size == 17 * PAGE


def test_bad_calls(path):
    with SwapFile(path, "64KiB") as file:
        with pytest.raises(ValueError, match="2 pages of 4096 bytes are needed, not 4096 bytes"):
            file.write_pages([0, 1], bytes(PAGE))
        with pytest.raises(ValueError, match="not 4097 bytes"):
            file.write_pages([0], bytes(PAGE + 1))
        with pytest.raises(ValueError, match="offset -1 is out of range"):
            file.write_pages([-1], bytes(PAGE))
        with pytest.raises(TypeError, match="float64"):
            file.write_pages([0.5], bytes(PAGE))
        with pytest.raises(ValueError, match="one-dimensional"):
            file.write_pages([[0]], bytes(PAGE))
        with pytest.raises(ValueError, match="out must be a writable"):
            file.read_pages([0], bytes(PAGE))
        file.write_pages([], b"")
        file.discard_pages([])
        assert not any(file.stats().values())


def test_discard_punches_holes(folder):
    path = folder / "swap"
    with SwapFile(path, "1MiB") as file:
        file.write_pages(range(256), os.urandom(1 << 20))
        full = path.stat().st_blocks
        file.discard_pages([*range(100), 200])
        assert file.stats()["discarded_pages"] == 101
        assert path.stat().st_blocks <= full - 101 * PAGE // 512 + 16
        assert path.stat().st_size == 257 * PAGE
        assert read(file, 0, 200) == bytes(2 * PAGE)


def test_preallocate(folder):
    path = folder / "swap"
    with SwapFile(path, "1MiB", preallocate=True) as file:
        assert file.preallocated
        assert path.stat().st_blocks * 512 >= 1 << 20
        file.write_pages(range(256), b"s" * (1 << 20))
        file.discard_pages(range(256))
        assert (file.stats()["discarded_pages"], file.stats()["discard_failures"]) == (256, 0)
        assert path.stat().st_blocks * 512 >= 1 << 20  # it keeps them
        assert read(file, *range(256)) == bytes(1 << 20)
    assert b"s" * PAGE not in path.read_bytes()
    with SwapFile(path) as file:
        assert not file.preallocated
        assert read(file, 0) == bytes(PAGE)


# ---- lifetime ------------------------------------------------------------------------------------


def test_after_close(path):
    file = SwapFile(path, "64KiB")
    file.close()
    file.close()
    assert file.closed
    for call in (
        lambda: file.write_pages([0], bytes(PAGE)),
        lambda: read(file, 0),
        lambda: file.discard_pages([0]),
        file.attach,
        file.__enter__,
        lambda: open_backing(file),
    ):
        with pytest.raises(ValueError, match="closed; open it anew"):
            call()
    assert file.stats()["written_pages"] == 0
    file.detach()
    assert file.closed


def test_attach(path):
    with SwapFile(path, "64KiB") as file:
        file.write_pages([0], b"x" * PAGE)
        file.attach()
        assert file.attached
        with pytest.raises(BackingError, match="already used by an engine"):
            file.attach()
        with pytest.raises(BackingError, match="close the engine or swapoff"):
            file.close()
        for change in (lambda: file.write_pages([0], bytes(PAGE)), lambda: file.discard_pages([0])):
            with pytest.raises(BackingError, match="only the engine may change"):
                change()
        assert read(file, 0) == b"x" * PAGE
        file.detach()
        file.detach()
        assert not file.attached
        file.attach()
        file.detach()
    assert file.closed


def test_close_under_traffic(path):
    """Calls under way end first, later ones fail; none touches the file that gets the descriptor
    next."""
    for _ in range(10):
        file = SwapFile(path, "1MiB")
        started = threading.Barrier(4)

        def work(t, file=file, started=started):
            started.wait()
            try:
                while True:
                    file.write_pages(range(t * 16, t * 16 + 16), b"w" * 16 * PAGE)
            except ValueError:
                return True
            except BackingError as error:
                return error.errno == errno.EBADF

        with ThreadPoolExecutor(3) as threads:
            results = [threads.submit(work, t) for t in range(3)]
            started.wait()
            file.close()
            with open(path.with_name("other"), "w+b") as other:
                other.write(b"o" * (1 << 20))
                other.flush()
                assert all(r.result() for r in results)
                assert path.with_name("other").read_bytes() == b"o" * (1 << 20)
        SwapFile(path).close()


def test_a_forgotten_file_is_closed(path):
    SwapFile(path, "64KiB").write_pages([0], bytes(PAGE))
    gc.collect()
    with SwapFile(path) as file:
        assert not file.left_open


def test_unlink(folder):
    path = folder / "swap"
    with SwapFile(path, "64KiB", unlink=True) as file:
        assert not path.exists()
        file.write_pages([3], b"x" * PAGE)
        assert read(file, 3) == b"x" * PAGE
        with SwapFile(path, "64KiB") as another:
            assert read(another, 3) == bytes(PAGE)


def test_a_killed_user(path):
    code = """
        file = SwapFile(sys.argv[1], "64KiB")
        file.write_pages([0, 5], b"x" * 8192)
        os.kill(os.getpid(), 9)
    """
    assert python(code, path, check=False).returncode == -9
    with SwapFile(path) as file:
        assert file.left_open
        assert read(file, 0, 5) == bytes(2 * PAGE)


def test_exit_with_a_file_open(path):
    code = """
        import threading
        file = SwapFile(sys.argv[1], "1MiB")
        def work():
            while True:
                file.write_pages(range(256), bytes(1 << 20))
        threading.Thread(target=work, daemon=True).start()
        while not file.stats()["written_pages"]:
            pass
    """
    done = python(code, path)
    assert done.stderr == ""
    SwapFile(path).close()


def test_a_forked_child_cannot_touch_the_pages(path):
    code = """
        import errno
        file = SwapFile(sys.argv[1], "64KiB")
        file.write_pages([0], b"p" * 4096)
        child = os.fork()
        if child == 0:
            failed = []
            for call in (file.write_pages, file.read_pages):
                try:
                    call([0], bytearray(4096))
                except BackingError as error:
                    told = "belongs to the parent" in str(error)
                    failed.append(error.errno == errno.EPERM and told)
            file.discard_pages([0])
            file.close()
            os._exit(0 if failed == [True, True] else 1)
        assert os.waitpid(child, 0)[1] == 0
        page = bytearray(4096)
        file.read_pages([0], page)
        assert page == b"p" * 4096
        try:
            SwapFile(sys.argv[1])
        except BackingError as error:
            assert error.errno == errno.EBUSY
        file.close()
        SwapFile(sys.argv[1]).close()
    """
    assert python(code, path).stderr == ""


def test_a_forked_child_does_not_keep_a_closed_file_locked(path):
    code = """
        file = SwapFile(sys.argv[1], "64KiB")
        r, w = os.pipe()
        if os.fork() == 0:
            os.close(w)
            os.read(r, 1)
            os._exit(0)
        file.close()
        SwapFile(sys.argv[1]).close()
        os.write(w, b"x")
        os.wait()
    """
    assert python(code, path).stderr == ""


# ---- failures of the system ----------------------------------------------------------------------


@pytest.mark.parametrize("get", [aligned, unaligned])
@pytest.mark.parametrize("direct", [True, False])
def test_a_file_cut_short_is_never_read_as_zeros(folder, direct, get):
    path = folder / "swap"
    with SwapFile(path, "1MiB", direct=direct) as file:
        file.write_pages(range(256), b"x" * (1 << 20))
        os.truncate(path, 100 * PAGE)
        memory = get(PAGE)
        with pytest.raises(BackingError, match="changed behind zswap's back") as caught:
            file.read_pages([200], memory)
        assert caught.value.errno == errno.EIO
        # Not even what a write would have made long enough again.
        for call in (
            lambda: file.write_pages([255], b"y" * PAGE),
            lambda: read(file, 200),
            lambda: read(file, 0),
        ):
            with pytest.raises(BackingError):
                call()
        os.truncate(path, 257 * PAGE)
        with pytest.raises(BackingError):
            read(file, 200)
        assert file.stats()["read_failures"] == 4
    with SwapFile(path, "1MiB"):
        pass


def test_disk_full(tmp_path):
    """On a file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", disk]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small file system")
    try:
        path = disk / "swap"
        with SwapFile(path, "4MiB") as file:
            file.write_pages(range(100), b"a" * 100 * PAGE)
            with pytest.raises(
                BackingError, match="No space left on device; free space on its file system"
            ) as caught:
                file.write_pages(range(100, 400), b"b" * 300 * PAGE)
            assert caught.value.errno == errno.ENOSPC
            assert read(file, *range(100)) == b"a" * 100 * PAGE
            figures = file.stats()
            assert (figures["write_failures"], figures["written_pages"]) == (1, 100)
            # What is discarded makes room again.
            file.discard_pages(range(100, 400))
            file.write_pages(range(900, 1000), b"c" * 100 * PAGE)
            assert read(file, *range(900, 1000)) == b"c" * 100 * PAGE
        path.unlink()
        text = refused(
            errno.ENOSPC, path, "4MiB", preallocate=True, match="free space, or give a smaller size"
        )
        assert str(4 * 1024 * 1024 + PAGE) in text
        assert not path.exists()
        # A file that was there stays, takes no space, and can be opened again.
        SwapFile(path, "64KiB").close()
        with pytest.raises(BackingError):
            SwapFile(path, "4MiB", preallocate=True)
        assert path.stat().st_blocks * 512 <= PAGE
        SwapFile(path, "64KiB").close()
        path.write_bytes(b"")
        with pytest.raises(BackingError):
            SwapFile(path, "4MiB", preallocate=True)
        assert not path.exists()
        # Not even the header fits.
        with open(disk / "ballast", "wb", buffering=0) as ballast, suppress(OSError):
            while ballast.write(b"x" * PAGE):
                pass
        with pytest.raises(BackingError, match="free space"):
            SwapFile(path, "64KiB")
        assert not path.exists()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_limit_on_file_sizes(path):
    code = """
        import errno, resource
        file = SwapFile(sys.argv[1], "1MiB")
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
        file.write_pages(range(15), b"a" * 15 * 4096)
        for offsets in ([15], [200], range(10, 20)):
            try:
                file.write_pages(offsets, b"b" * len(offsets) * 4096)
            except BackingError as error:
                assert error.errno == errno.EFBIG and "ulimit -f" in str(error), error
            else:
                assert False
        page = bytearray(4096)
        file.read_pages([3], page)
        assert page == b"a" * 4096
        assert file.stats()["write_failures"] == 3
        try:
            SwapFile(sys.argv[1] + "2", "1MiB")
        except BackingError as error:
            assert error.errno == errno.EFBIG and "ulimit -f" in str(error), error
        assert not os.path.exists(sys.argv[1] + "2")
    """
    assert python(code, path).stderr == ""


def test_close_waits_for_a_write_under_way(path, thread, until):
    """A write that is interrupted all the time is under way until it no longer is."""
    file = SwapFile(path, "64KiB")
    arm("FILE_WRITE", times=FOREVER, error=errno.EINTR)
    writer = thread(file.write_pages, [3], bytes(PAGE))
    until(lambda: injected().get("FILE_WRITE", 0) > 3)
    closer = thread(file.close)
    until(lambda: file.closed)
    closed_at = injected()["FILE_WRITE"]
    until(lambda: injected()["FILE_WRITE"] > closed_at + 100)
    assert closer.is_alive()
    assert writer.is_alive()
    disarm()
    writer.join()
    closer.join()
    assert file.stats()["written_pages"] == 1
    SwapFile(path).close()


@pytest.mark.parametrize("direct", [True, False])
def test_interrupted_and_short_transfers_go_on(folder, direct):
    with SwapFile(folder / "swap", "4MiB", direct=direct) as file:
        n = 512
        data, back, odd = aligned(n * PAGE), aligned(n * PAGE), unaligned(n * PAGE)
        for size in (512, 4096, 4608, 100_352) + (() if file.direct else (1, 4095)):
            data[:] = random.Random(size).randbytes(n * PAGE)
            with fault("FILE_WRITE_SHORT", times=7, error=size) as failed:
                file.write_pages(range(n), data)
                assert failed() == 7
            with fault("FILE_READ_SHORT", times=7, error=size) as failed:
                file.read_pages(range(n), back)
                assert failed() == 7
            assert bytes(back) == bytes(data), size
            with fault("FILE_READ_SHORT", times=5, error=size) as failed:
                file.read_pages(range(n), odd)
                assert failed() == 5
            assert bytes(odd) == bytes(data)
        data[:] = random.Random(0).randbytes(n * PAGE)
        with fault("FILE_WRITE", times=3, error=errno.EINTR) as failed:
            file.write_pages(range(n), data)
            assert failed() == 3
        with fault("FILE_READ", times=3, error=errno.EINTR) as failed:
            file.read_pages(range(n), back)
            assert failed() == 3
        assert bytes(back) == bytes(data)
        assert file.stats()["write_failures"] == file.stats()["read_failures"] == 0


def failure(site, code, call, *args, **kwargs):
    """The number of the error that the call ends with when this site fails once."""
    with fault(site, error=code) as failed:
        with pytest.raises(BackingError) as caught:
            call(*args, **kwargs)
        assert failed() == 1
    return caught.value.errno


def test_failed_transfers_are_errors(path):
    with SwapFile(path, "1MiB") as file:
        memory = aligned(2 * PAGE)
        file.write_pages([0, 5], memory)
        for i, code in enumerate(
            (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM), 1
        ):
            assert failure("FILE_WRITE", code, file.write_pages, [0, 5], memory) == code
            assert failure("FILE_READ", code, file.read_pages, [0, 5], memory) == code
            assert file.stats()["write_failures"] == file.stats()["read_failures"] == i
        if file.direct:  # too little moved for O_DIRECT to go on: an error, not an endless loop
            assert failure("FILE_READ_SHORT", 511, file.read_pages, [0], aligned(PAGE)) == errno.EIO
            assert (
                failure("FILE_WRITE_SHORT", 511, file.write_pages, [0], aligned(PAGE)) == errno.EIO
            )
        file.write_pages([0, 5], memory)
        assert file.stats()["written_pages"] == 4


def test_a_file_whose_length_cannot_be_told_is_not_given_up(path):
    with SwapFile(path, "1MiB") as file:
        file.write_pages([3], b"x" * PAGE)
        assert failure("FILE_STAT", errno.EIO, file.read_pages, [3], bytearray(PAGE)) == errno.EIO
        assert read(file, 3) == b"x" * PAGE


def test_failed_openings_leave_nothing_behind(path, monkeypatch):
    # The header that says "being made", the blocks, the header that says "in use".
    for site, nth, code in (
        ("FILE_WRITE", 1, errno.EIO),
        ("FILE_ALLOCATE", 1, errno.ENOSPC),
        ("FILE_WRITE", 2, errno.EIO),
    ):
        with fault(site, nth, error=code), pytest.raises(BackingError) as caught:
            SwapFile(path, "1MiB", preallocate=True)
        assert caught.value.errno == code
        assert not path.exists()
    with (
        fault("FILE_ALLOCATE", error=errno.EOPNOTSUPP),
        pytest.raises(BackingError, match="use preallocate=False"),
    ):
        SwapFile(path, "1MiB", preallocate=True)
    assert not path.exists()
    with (
        fault("FILE_BUFFERS"),
        pytest.raises(MemoryError, match="no memory for its bounce buffers"),
    ):
        SwapFile(path, "1MiB")
    assert not path.exists()
    with fault("FILE_ALLOCATE", times=3, error=errno.EINTR):
        SwapFile(path, "1MiB", preallocate=True).close()

    # A header that cannot be read.
    def broken(*args):
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", broken)
        refused(errno.EIO, path)
    # One that cannot be marked clean: closed all the same, and used again.
    file = SwapFile(path)
    with fault("FILE_WRITE", error=errno.EIO) as failed:
        file.close()
        assert failed() == 1
    with SwapFile(path) as file:
        assert file.left_open


def test_a_file_system_that_takes_the_flag_but_not_the_write(path):
    with SwapFile(path, "1MiB") as real:
        was_direct = real.direct
    # The first write of the opening goes through the page cache, the second is the first direct
    # one.
    with fault("FILE_WRITE", nth=2, error=errno.EINVAL) as failed:
        if not was_direct:
            pytest.skip("no O_DIRECT here")
        file = SwapFile(path)
        assert failed() == 1
    with file:
        assert not file.direct
        page = unaligned(PAGE)
        page[:] = b"x" * PAGE
        file.write_pages([0], page)
        file.read_pages([0], page)
        assert bytes(page) == b"x" * PAGE
        assert file.stats()["bounced_pages"] == 0


def test_holes_that_cannot_be_punched(path):
    def counts():
        return file.stats()["discarded_pages"], file.stats()["discard_failures"]

    with SwapFile(path, "1MiB") as file:
        file.write_pages(range(4), bytes(4 * PAGE))
        with fault("FILE_PUNCH", times=2, error=errno.EINTR):
            file.discard_pages([0])
        with fault("FILE_PUNCH", error=errno.EIO):
            file.discard_pages([1, 3])  # overwritten then
        assert counts() == (3, 0)
        assert read(file, 0, 1, 3) == bytes(3 * PAGE)
        with fault("FILE_PUNCH", error=errno.EOPNOTSUPP) as failed:
            file.discard_pages([2])
            file.discard_pages([2])  # not tried again
            assert failed() == 1
        assert counts() == (5, 0)
        with fault("FILE_WRITE", error=errno.ENOSPC):
            file.discard_pages([1, 3])
        assert counts() == (6, 1)  # the second has gone all the same


@pytest.mark.parametrize("preallocate", [False, True])
@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("means", ["the file system's", "none"])
def test_freed_pages_leave_the_file_at_once(folder, preallocate, direct, means):
    """With whatever the file system can do: memory has holes and no zeros of blocks that stay."""
    path, secret = folder / "swap", b"SECRET.." * (PAGE // 8)
    if means == "none":
        arm("FILE_PUNCH", 1, FOREVER, errno.EOPNOTSUPP)
    try:
        file = SwapFile(path, "1MiB", direct=direct, preallocate=preallocate)
        full = path.stat().st_blocks
        file.write_pages(range(200), secret * 200)
        file.discard_pages([*range(70), 75, 77, *range(80, 200)])
        assert path.read_bytes().count(secret) == 8  # 70 to 74, 76, 78, 79
        assert read(file, 69, 70) == bytes(PAGE) + secret
        if preallocate:
            assert path.stat().st_blocks >= full
        file.close()
        assert secret not in path.read_bytes()
        assert path.stat().st_size == 257 * PAGE
    finally:
        disarm()
    with SwapFile(path) as file:
        assert not file.left_open


@pytest.mark.parametrize("kind", ["ext4", "ext3", "ext2", "xfs", "btrfs", "f2fs", "vfat"])
def test_freed_pages_on_file_systems_of_every_kind(tmp_path, kind):
    image, disk = tmp_path / "image", tmp_path / "disk"
    disk.mkdir()
    with open(image, "wb") as file:
        file.truncate(320 << 20)
    try:
        if (
            os.geteuid() != 0
            or subprocess.run([f"mkfs.{kind}", image], capture_output=True, check=False).returncode
        ):
            pytest.skip(f"only root can mount, and mkfs.{kind} is needed")
    except FileNotFoundError:
        pytest.skip(f"there is no mkfs.{kind}")
    options = "loop,uid=0,umask=077" if kind == "vfat" else "loop"
    if subprocess.run(
        ["mount", "-o", options, image, disk], capture_output=True, check=False
    ).returncode:
        pytest.skip(f"this system mounts no {kind} here")
    try:
        for preallocate in (False, True):
            path, secret = disk / "swap", b"SECRET.." * (PAGE // 8)
            try:
                file = SwapFile(path, "1MiB", preallocate=preallocate)
            except BackingError as error:
                assert error.errno == errno.EOPNOTSUPP, error  # noqa: PT017 (ext2 and ext3 allocate nothing ahead)
                assert preallocate
                continue
            file.write_pages(range(64), secret * 64)
            file.discard_pages(range(0, 64, 2))
            assert path.read_bytes().count(secret) == 32
            file.close()
            assert path.read_bytes().count(secret) == 0
            path.unlink()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_what_cannot_be_cleared_at_close_is_cut_off(path):
    secret = b"SECRET.." * (PAGE // 8)
    file = SwapFile(path, "1MiB", preallocate=True)
    file.write_pages(range(64), secret * 64)
    with fault("FILE_PUNCH", error=errno.EIO):
        file.close()
    assert secret not in path.read_bytes()
    with SwapFile(path) as file:
        assert (file.nr_pages, file.left_open) == (256, False)


# ---- open_backing --------------------------------------------------------------------------------


def test_open_backing_makes_a_file_of_half_the_free_space(folder):
    path = folder / "swap"
    with open_backing(path, 16384) as file:
        room = os.statvfs(folder)
        expected = min(room.f_bavail * room.f_frsize // 2, 64 << 30)
        assert abs(file.nr_pages * 16384 - expected) < max(expected // 10, 1 << 20)
        assert file.page_size == 16384
        assert not file.preallocated
        assert path.stat().st_blocks * 512 <= 65536
    path.unlink()
    path.touch(0o600)
    with open_backing(os.fsencode(path)) as file:
        assert file.nr_pages > 1


def test_open_backing_on_a_full_disk(path, monkeypatch):
    """It is the file system that has no room, not the size that is too small."""
    full = os.statvfs_result((4096, 4096, 1000, 0, 0, 1000, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda *args: full)
    with fault("FILE_WRITE", error=errno.ENOSPC), pytest.raises(BackingError, match="free space"):
        open_backing(path)
    with open_backing(path, 65536) as file:
        assert file.nr_pages == 1


def test_open_backing_keeps_the_size_of_a_swap_file(path):
    SwapFile(path, "1MiB").close()
    with open_backing(str(path)) as file:
        assert isinstance(file, SwapFile)
        assert file.nr_pages == 256


def test_open_backing_says_what_is_wrong(tmp_path):
    for path, code in ((tmp_path / "no" / "swap", errno.ENOENT), (tmp_path, errno.EISDIR)):
        with pytest.raises(BackingError) as caught:
            open_backing(path)
        assert caught.value.errno == code
    (tmp_path / "text").write_text("text")
    (tmp_path / "text").chmod(0o600)
    with pytest.raises(BackingError, match="something else"):
        open_backing(tmp_path / "text")
    with pytest.raises(BackingError, match="cannot open it: Not a directory"):
        open_backing(tmp_path / "text" / "swap")


def test_open_backing_passes_a_swap_file(path):
    with SwapFile(path, "1MiB") as file:
        assert open_backing(file) is file
        with pytest.raises(ValueError, match=r"pages of 4096 bytes.*: 16384 bytes to a page"):
            open_backing(file, 16384)


def test_errors_are_of_both_families(tmp_path):
    with pytest.raises(Error):
        SwapFile(tmp_path, "1MiB")
    with pytest.raises(OSError, match="Errno 21"):
        SwapFile(tmp_path, "1MiB")
