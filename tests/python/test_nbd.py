"""The block device of examples/nbdkit_plugin, in C and in Python: under a client of ours, which
asks what no good client would, and under foreign ones."""

import contextlib
import errno
import json
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path

import pytest

import hooks
from hooks import nbd

EXAMPLE = hooks.ROOT / "examples" / "nbdkit_plugin"
PAGE, KIB, MIB, GIB = 4096, 1 << 10, 1 << 20, 1 << 30
READ, WRITE, DISCONNECT, FLUSH, TRIM, ZERO = 0, 1, 2, 3, 4, 6  # the protocol's commands,
FUA, NO_HOLE, FAST = 1, 2, 16  # and flags
ENV = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([hooks.PATH, sysconfig.get_path("platlib")]),
    "PATH": nbd.PATH,
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not EXAMPLE.exists(), reason="the examples are not here"),
    pytest.mark.skipif(bool(nbd.without("nbdkit")), reason=str(nbd.without("nbdkit"))),
]


def needs(*programs):
    """Skip where a program is missing."""
    if missing := nbd.without(*programs):
        pytest.skip(missing)


def run(*command, cwd=None, code=0):
    """Run a program, and return what it printed."""
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=ENV, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


# ---- the disks -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The C plugin, built outside of the tree."""
    if missing := nbd.cannot_build():
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copy(EXAMPLE / "zswap-plugin.c", folder)
    shutil.copy(EXAMPLE / "build.py", folder)
    done = subprocess.run(
        [sys.executable, "build.py"],
        cwd=folder,
        env={**ENV, "CFLAGS": "-O1 -Werror"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [str(folder / "zswap-plugin.so")]


@pytest.fixture(scope="module")
def interpreted():
    """The plugin in Python, for the Python that nbdkit was built with."""
    done = subprocess.run(
        ["nbdkit", "python", "--dump-plugin"], env=ENV, capture_output=True, text=True, check=False
    )
    found = re.search(r"^python_version=(\d+\.\d+)", done.stdout, re.MULTILINE)
    if found is None:
        pytest.skip("nbdkit has no Python (Debian: nbdkit-plugin-python)")
    if found[1] != f"{sys.version_info[0]}.{sys.version_info[1]}":
        pytest.skip(f"nbdkit has Python {found[1]}, which cannot import this zswap")
    return ["python", str(EXAMPLE / "zswap_disk.py")]


@pytest.fixture(params=["C", "Python"])
def plugin(request):
    """How nbdkit is told to use it."""
    return request.getfixturevalue({"C": "compiled", "Python": "interpreted"}[request.param])


class Disk:
    """A running nbdkit."""

    may_say = "nothing of the kind"

    def __init__(self, plugin, *parameters):
        """Start it, and wait until it answers.  Parameters that begin with - are nbdkit's."""
        self.folder = Path(tempfile.mkdtemp(prefix="nbd"))  # names of sockets are short
        self.socket = self.folder / "s"
        self.uri = f"nbd+unix:///?socket={self.socket}"
        self.log = (self.folder / "log").open("w")  # no pipe, which nobody would read
        options = [parameter for parameter in parameters if parameter.startswith("-")]
        rest = [parameter for parameter in parameters if not parameter.startswith("-")]
        self.process = subprocess.Popen(
            [
                "nbdkit",
                "-f",
                "-P",
                self.folder / "pid",
                "-U",
                self.socket,
                *options,
                *plugin,
                *rest,
            ],
            env=ENV,
            cwd=self.folder,
            stderr=self.log,
        )
        end = time.monotonic() + 60
        while not (self.folder / "pid").exists():  # the socket is there before it listens
            assert self.process.poll() is None, self.said
            assert time.monotonic() < end, "nbdkit does not start"
            time.sleep(0.005)

    def end(self, number=signal.SIGTERM):
        """Have it end; returns its exit code.  nbdkit waits for clients that are connected."""
        self.process.send_signal(number)
        return self.process.wait(60)

    @property
    def said(self):
        """What it said."""
        return (self.folder / "log").read_text()

    @property
    def files(self):
        """What it has in its folder."""
        return sorted(set(os.listdir(self.folder)) - {"s", "log", "pid"})


@pytest.fixture
def disk(plugin):
    """Start disks: `disk("size=64M", ...)`.  They end well, and say nothing but what they may."""
    started = []

    def start(*parameters):
        started.append(Disk(plugin, *parameters))
        return started[-1]

    yield start
    for one in started:
        if one.process.returncode is None:
            assert one.end() == 0, one.said
            lines = one.said.splitlines()
            assert [line for line in lines if not re.search(one.may_say, line)] == []
            assert one.files == []
        one.log.close()
        shutil.rmtree(one.folder)


class Client:
    """A client that does what it is told, right or wrong."""

    def __init__(self, disk):
        """Connect, by the oldest handshake that is still spoken."""
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(str(disk.socket))
        assert self.receive(18)[:16] == b"NBDMAGICIHAVEOPT"
        self.socket.sendall(struct.pack(">I8sII", 3, b"IHAVEOPT", 1, 0))
        self.size, self.flags = struct.unpack(">QH", self.receive(10))
        self.cookie = 0

    def receive(self, count):
        """Get so many bytes."""
        got = bytearray()
        while len(got) < count:
            part = self.socket.recv(count - len(got))
            if not part:
                raise EOFError
            got += part
        return bytes(got)

    def send(self, kind, offset=0, count=0, data=b"", flags=0):
        """Ask, and do not wait."""
        self.cookie += 1
        head = struct.pack(">IHHQQI", 0x25609513, flags, kind, self.cookie, offset, count)
        self.socket.sendall(head + data)

    def answer(self):
        """What became of one of the requests: its cookie, and an error number or 0."""
        magic, error, cookie = struct.unpack(">IIQ", self.receive(16))
        assert magic == 0x67446698
        return cookie, error

    def ask(self, kind, offset=0, count=0, data=b"", flags=0):
        """Ask, and give the bytes that were read; an OSError where the disk says so."""
        self.send(kind, offset, count, data, flags)
        cookie, error = self.answer()
        assert cookie == self.cookie
        if error:
            raise OSError(error, os.strerror(error))
        return self.receive(count) if kind == READ else b""

    def read(self, offset, count):
        """Give bytes of the disk."""
        return self.ask(READ, offset, count)

    def write(self, offset, data, flags=0):
        """Change bytes of the disk."""
        self.ask(WRITE, offset, len(data), data, flags)

    def close(self):
        """Say goodbye."""
        with contextlib.suppress(OSError):
            self.send(DISCONNECT)
        self.socket.close()


@pytest.fixture
def client():
    """Connect: `client(disk)`."""
    made = []

    def connect(disk):
        made.append(Client(disk))
        return made[-1]

    yield connect
    for one in made:
        one.close()


def noise(count, seed):
    return random.Random(seed).randbytes(count)


def fails(call, *args, **kwargs):
    """Give the error number that a request ends with, or 0."""
    try:
        call(*args, **kwargs)
    except OSError as error:
        return error.errno
    return 0


def extents(disk):
    """Give the parts of the disk: offset, length, and 0, or 3 for a hole."""
    needs("nbdinfo")
    found = json.loads(run("nbdinfo", "--map", "--json", disk.uri))
    return [(part["offset"], part["length"], part["type"]) for part in found]


# ---- what a disk does ----------------------------------------------------------------------------


def test_any_bytes_come_back(disk, client):
    """Against a model: requests that begin and end anywhere, on a disk that ends within a page."""
    size = 60 * PAGE + 1001
    to = client(disk(f"size={size}"))
    assert to.size == size
    rng, model = random.Random(15), bytearray(size)
    for number in range(400):
        at = rng.randrange(size)
        count = min(rng.choice([1, 511, 512, PAGE, 3 * PAGE + 5, 20 * PAGE]), size - at)
        if rng.random() < 0.4:
            at, count = at // PAGE * PAGE, -(-count // PAGE) * PAGE
            count = min(count, size - at)
        kind = rng.choice(["write", "write", "zero", "solid zero", "trim", "read"])
        if kind == "write":
            data = noise(count, number)
            to.write(at, data, flags=rng.choice([0, FUA]))
            model[at : at + count] = data
        elif "zero" in kind:
            to.ask(ZERO, at, count, flags=NO_HOLE if kind == "solid zero" else 0)
            model[at : at + count] = bytes(count)
        elif kind == "trim":  # whole pages, since of others may become what will
            at = at // PAGE * PAGE
            to.ask(TRIM, at, min(8 * PAGE, size - at))
            model[at : at + 8 * PAGE] = bytes(min(8 * PAGE, size - at))
        assert to.read(at, count) == model[at : at + count], number
    assert to.read(0, size) == model


def test_trim_leaves_the_rest_of_a_page(disk, client):
    to = client(disk("size=64K"))
    data = noise(3 * PAGE, 1)
    to.write(0, data)
    to.ask(TRIM, 100, 2 * PAGE)
    assert to.read(0, 100) == data[:100]
    assert to.read(PAGE, PAGE) == bytes(PAGE)
    assert to.read(2 * PAGE + 100, PAGE - 100) == data[2 * PAGE + 100 :]


def test_holes_are_told(disk, client):
    size = 8 * GIB + 100
    one = disk(f"size={size}")
    assert extents(one) == [(0, size, 3)]
    to = client(one)
    to.write(PAGE + 1, b"x")
    to.write(5 * GIB - 5, b"0123456789")
    to.write(size - 1, b"x")
    assert to.read(5 * GIB - 5, 10) == b"0123456789"
    assert extents(one) == [
        (0, PAGE, 3),
        (PAGE, PAGE, 0),
        (2 * PAGE, 5 * GIB - 3 * PAGE, 3),
        (5 * GIB - PAGE, 2 * PAGE, 0),
        (5 * GIB + PAGE, 3 * GIB - PAGE, 3),
        (8 * GIB, 100, 0),
    ]
    to.ask(ZERO, PAGE, PAGE)
    to.ask(ZERO, 2 * PAGE, PAGE, flags=NO_HOLE)
    assert extents(one)[:2] == [(0, 2 * PAGE, 3), (2 * PAGE, PAGE, 0)]
    for at in range(0, size, 2 * GIB):
        to.ask(TRIM, at, min(2 * GIB, size - at))
    assert extents(one) == [(0, size, 3)]


def test_requests_beyond_the_end(disk, client):
    one = disk("size=1000001")
    one.may_say = "out of range"
    to = client(one)
    to.write(1_000_000, b"x")
    for kind in (READ, TRIM, ZERO):
        assert fails(to.ask, kind, 1_000_000, 2) in (errno.EINVAL, errno.ENOSPC)
    for at in (1_000_000, 1_000_001, 2**63 - 1, 2**64 - 1):
        assert fails(to.write, at, b"xy") in (errno.EINVAL, errno.ENOSPC)
    assert to.read(999_999, 2) == b"\0x"


def test_flush_and_several_connections_are_offered(disk, client):
    one = disk("size=1M")
    to, beside = client(one), client(one)
    assert to.flags & (1 << 8)  # several connections
    assert to.flags & (1 << 3)  # FUA
    to.write(5, b"seen", flags=FUA)
    to.ask(FLUSH)
    assert beside.read(5, 4) == b"seen"


def test_a_fast_zero_is_fast_or_refused(compiled, client):
    one = Disk(compiled, "size=1M")
    to = client(one)
    to.write(0, noise(PAGE, 1))
    assert fails(to.ask, ZERO, 0, PAGE, flags=FAST | NO_HOLE) == errno.EOPNOTSUPP
    to.ask(ZERO, 0, PAGE, flags=FAST)
    assert to.read(0, PAGE) == bytes(PAGE)
    to.close()
    assert one.end() == 0
    shutil.rmtree(one.folder)


def test_two_clients_change_parts_of_the_same_pages(disk, client, thread):
    one = disk("size=1M")
    parts = range(64)  # of 512 bytes: eight pages

    def change(to, mine):
        for turn in range(40):
            for part in mine:
                to.write(part * 512, bytes([turn, part]) * 256)

    threads = [thread(change, client(one), parts[first::2]) for first in (0, 1)]
    for each in threads:
        each.join()
    assert client(one).read(0, 64 * 512) == b"".join(bytes([39, part]) * 256 for part in parts)


def test_a_part_does_not_bring_back_what_a_whole_page_has_replaced(disk, client, thread):
    one, turns = disk("size=64K"), 200

    def whole(to):
        for turn in range(turns):
            to.write(0, bytes([turn]) * PAGE)

    def part(to):
        for turn in range(turns):
            to.write(0, bytes([turn]))

    threads = [thread(call, client(one)) for call in (whole, part)]
    for each in threads:
        each.join()
    assert client(one).read(1, PAGE - 1) == bytes([turns - 1]) * (PAGE - 1)


# ---- memory and the file -------------------------------------------------------------------------


def test_a_full_disk_without_a_file(disk, client):
    """A write that is refused changes nothing, and trimmed pages make room."""
    one = disk("size=16M", "limit=256K")
    to, held = client(one), {}
    while (number := len(held)) < 4096:
        if code := fails(to.write, number * PAGE, noise(PAGE, number)):
            break
        held[number] = noise(PAGE, number)
    assert code == errno.ENOSPC
    assert 30 < len(held) <= 64
    for number in held:  # in place of others, and as parts of them
        for at, data in ((0, noise(PAGE, -1 - number)), (100, noise(3000, -1))):
            if not fails(to.write, number * PAGE + at, data):
                held[number] = held[number][:at] + data + held[number][at + len(data) :]
    for number, page in held.items():
        assert to.read(number * PAGE, PAGE) == page
    assert to.read(len(held) * PAGE, PAGE) == bytes(PAGE)
    to.write(5 * MIB, b"\7" * PAGE)  # same-filled pages take nothing
    to.ask(TRIM, 0, 8 * MIB)
    to.write(0, noise(20 * PAGE, 1))
    to.close()
    assert one.end() == 0
    assert re.search("writes fail with ENOSPC|raise max_pool_bytes, or free pages", one.said)


def test_what_is_said_of_a_full_disk_is_said_once(compiled, client):
    one = Disk(compiled, "size=16M", "limit=64K")
    to = client(one)
    found = [fails(to.write, number * PAGE, noise(PAGE, number)) for number in range(100)]
    assert found.count(errno.ENOSPC) > 50
    to.close()
    assert one.end() == 0
    (line,) = one.said.splitlines()
    assert line.endswith(
        "error: no room for a page: writes fail with ENOSPC until pages are trimmed; "
        "raise limit=, or give backing="
    )
    shutil.rmtree(one.folder)


def test_the_coldest_pages_go_to_the_file(disk, client):
    one = disk("size=16M", "limit=1M", "backing=swap", "compressor=zstd:1")
    to = client(one)
    for number in range(8):
        to.write(number * MIB, noise(MIB, number))
    for number in range(8):
        assert to.read(number * MIB, MIB) == noise(MIB, number)
    assert one.files == []  # it has no name
    to.write(100, b"x")
    assert to.read(0, 200) == noise(MIB, 0)[:100] + b"x" + noise(MIB, 0)[101:200]
    assert one.end(signal.SIGKILL) == -signal.SIGKILL
    assert one.files == []


# ---- how it begins and ends ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ((), "size= is missing"),
        (("size=0",), "size= is missing"),
        (("size=much",), "could not parse size"),
        (("size=64M", "sise=3"), "there is no parameter 'sise'; there are size, limit, backing"),
        (("size=64M", "limit=4K"), "at least 16384 bytes"),
        (("size=64M", "compressor=lz5"), "there is no compressor 'lz5'; there are lz4"),
        (("size=64M", "backing=/nonexistent/x"), "cannot open it: No such file or directory"),
        (("size=64M", "backing=/dev/null"), "swap file '/dev/null'"),
        (("size=64M", "encrypt=rot13"), "rot13"),
    ],
)
def test_what_is_wrong_is_said_at_the_terminal(plugin, parameters, said):
    """Without -f: before nbdkit goes to the background."""
    command = ["nbdkit", "-U", "/nonexistent/socket", *plugin, *parameters]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert said in done.stderr


def test_in_the_background(plugin, client, until):
    """After the fork, in another folder."""
    folder = Path(tempfile.mkdtemp(prefix="nbd"))
    pid = folder / "pid"
    run(
        *("nbdkit", "-U", folder / "s", "-P", pid, *plugin),
        *("size=16M", "limit=256K", "backing=swap"),
        cwd=folder,
    )
    until(lambda: pid.exists() and pid.read_text().endswith("\n"))
    number = int(pid.read_text())
    try:
        one = type("Started", (), {"socket": folder / "s"})
        to = client(one)
        to.write(1000, noise(MIB, 1))
        assert to.read(1000, MIB) == noise(MIB, 1)
        to.close()
    finally:
        os.kill(number, signal.SIGTERM)
        until(lambda: not Path(f"/proc/{number}/exe").exists() or state(number) == "Z")
    assert set(os.listdir(folder)) <= {"s", "pid"}
    shutil.rmtree(folder)


def state(number):
    """One letter of what a process does."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_a_client_that_is_killed_in_the_middle(disk, client):
    # With more threads for a connection nbdkit 1.32 ends by an assertion of its own at times, and
    # so it does with its memory plugin.
    one = disk("-t1", "size=16M")
    one.may_say = "write reply|read data"
    for _ in range(5):
        dying = Client(one)
        for number in range(50):
            dying.send(WRITE, number * PAGE, PAGE, b"\1" * PAGE)
        dying.send(WRITE, 50 * PAGE, PAGE, b"\1" * 1000)  # and no more of it
        dying.socket.close()
    to = client(one)
    for number in range(50):
        assert to.read(number * PAGE, PAGE) in (bytes(PAGE), b"\1" * PAGE)
    assert to.read(50 * PAGE, PAGE) == bytes(PAGE)


def test_nbdkit_is_ended_with_requests_in_flight(disk):
    one = disk("size=64M", "limit=1M", "backing=swap")
    asked = threading.Barrier(5)

    def ask(seed):
        to, data = Client(one), noise(64 * KIB, seed)
        with contextlib.suppress(EOFError, OSError):
            for number in range(10_000):
                to.send(WRITE, (seed * 16 * MIB + number % 128 * len(data)), len(data), data)
                assert to.answer()[1] in (0, errno.ESHUTDOWN)
                if number == 5:
                    asked.wait(60)
        to.socket.close()

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for each in threads:
        each.start()
    asked.wait(60)
    assert one.end() == 0
    for each in threads:
        each.join(60)
        assert not each.is_alive()


# ---- foreign clients -----------------------------------------------------------------------------


@pytest.fixture
def image(tmp_path):
    """Text, noise, zeros and a hole: 16 MiB and a bit."""
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.write(b"".join(b"line %d of a text\n" % n for n in range(150_000)))
        file.write(noise(MIB, 1))
        file.write(bytes(MIB))
        file.seek(15 * MIB)
        file.write(noise(MIB, 2) + b"end")
        file.truncate(16 * MIB + 512)
    return path


def test_nbdcopy_and_qemu(disk, image, tmp_path):
    needs("nbdcopy")
    one = disk(f"size={image.stat().st_size}", "limit=4M", "backing=swap")
    run("nbdcopy", image, one.uri)
    assert sum(length for _, length, kind in extents(one) if kind) > 8 * MIB
    run("nbdcopy", one.uri, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == image.read_bytes()
    needs("qemu-img")
    assert "identical" in run("qemu-img", "compare", "-f", "raw", "-F", "raw", image, one.uri)


@pytest.mark.parametrize("file", [False, True], ids=["memory", "file"])
def test_fio_finds_what_it_wrote(disk, tmp_path, file):
    needs("fio")
    if "nbd" not in run("fio", "--enghelp").split():
        pytest.skip("this fio has no engine nbd")
    one = disk("size=64M", *(["limit=4M", "backing=swap"] if file else []))
    run(
        *("fio", "--name=verify", "--ioengine=nbd", f"--uri={one.uri}", "--rw=randrw", "--bs=4k"),
        *("--verify=crc32c", "--iodepth=16", "--size=16M"),
        *("--output-format=json", f"--output={tmp_path / 'found'}"),
        cwd=tmp_path,
    )
    text = (tmp_path / "found").read_text()  # after a line or two
    (job,) = json.loads(text[text.index("{") :])["jobs"]
    assert job["error"] == 0
    assert job["write"]["total_ios"] > 1000
    # those of the workload, and one for each write, to verify it
    assert job["read"]["total_ios"] >= 4096


def test_an_ext4_file_system(disk, tmp_path):
    """Made and filled in a file, put on the disk, changed there by qemu, taken back and checked."""
    needs("nbdcopy")
    needs("mke2fs", "e2fsck", "debugfs")
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(100):
        (tree / f"file{number}").write_bytes(noise(5000, number) + b"text " * 2000)
    image, back = tmp_path / "image", tmp_path / "back"
    run("mke2fs", "-q", "-t", "ext4", "-d", tree, image, "64M")
    one = disk("size=64M", "limit=2M", "backing=swap")
    run("nbdcopy", image, one.uri)
    if shutil.which("qemu-io"):
        run("qemu-io", "-f", "raw", "-c", "discard 0 512", "-c", "write -P 0 0 512", one.uri)
    run("nbdcopy", one.uri, back)
    run("e2fsck", "-f", "-n", back)
    (tmp_path / "out").mkdir()
    run("debugfs", "-R", f"rdump / {tmp_path / 'out'}", back)
    for number in range(100):
        found = (tmp_path / "out" / f"file{number}").read_bytes()
        assert found == (tree / f"file{number}").read_bytes()
