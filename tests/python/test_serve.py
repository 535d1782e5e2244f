"""The statistics socket: its protocol, its file, its clients, and its end."""

import contextlib
import errno
import gc
import json
import os
import socket
import stat
import sys
import threading

import pytest

import zswap
from zswap import serve

PAGE = 4096


@pytest.fixture
def z():
    with zswap.ZSwap(max_pool_bytes="1MiB") as engine:
        yield engine


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A place for a socket; as a short path, for the long ones do not fit into an address."""
    monkeypatch.chdir(tmp_path)
    return "s"


class Client:
    """A connection, and its lines."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(path)
        self.lines = self.socket.makefile("rb")

    def __call__(self, request=b"stats\n"):
        self.socket.sendall(request)
        return json.loads(self.lines.readline())

    def at_end(self):
        try:
            return self.lines.readline() == b""
        except ConnectionResetError:
            return True

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.lines.close()
        self.socket.close()


def test_line_in_line_out(z, path):
    z[1] = os.urandom(PAGE)
    z[2] = bytes(PAGE)
    with z.serve_stats(path) as server, Client(path) as ask:
        answer = ask()
        assert (answer["schema"], answer["version"], answer["zswap"]) == (
            "zswap.stats",
            1,
            zswap.__version__,
        )
        assert answer["pid"] == os.getpid()
        assert answer["command"].startswith(sys.orig_argv[0])
        assert answer["stats"] == z.stats().to_dict()
        assert answer["pools"] == [pool.__dict__ for pool in z.pools()]
        assert answer["parameters"] == dict(z.parameters)
        assert answer["latency"] == {
            kind: latency.to_dict() for kind, latency in z.latency().items()
        }
        z[3] = bytes(PAGE)
        later = ask(b"stats\r\n")
        assert later["stats"]["stored_pages"] == 3
        assert later["uptime"] > answer["uptime"]
        assert server.path == os.path.abspath(path)
        assert repr(server) == f"<StatsServer {server.path}>"


def test_requests_in_pieces_and_in_heaps(z, path):
    with z.serve_stats(path), Client(path) as ask:
        ask.socket.sendall(b"sta")
        assert ask(b"ts\n" + 20 * b"stats\n")["pid"] == os.getpid()
        for _ in range(20):
            assert "stats" in json.loads(ask.lines.readline())


def test_answers_come_after_the_client_has_said_all(z, path):
    with z.serve_stats(path), Client(path) as ask:
        ask.socket.sendall(b"stats\n")
        ask.socket.shutdown(socket.SHUT_WR)
        assert "stats" in json.loads(ask.lines.readline())
        assert ask.at_end()


@pytest.mark.parametrize(
    "request_line", [b"\n", b"quit\n", b"STATS\n", b"\xff\0\n", b"x" * 255 + b"\n"]
)
def test_unknown_requests_get_an_error(z, path, request_line):
    with z.serve_stats(path), Client(path) as ask:
        assert ask(request_line) == {
            "schema": "zswap.stats",
            "version": 1,
            "error": "unknown request; say 'stats'",
        }
        assert "stats" in ask()


@pytest.mark.parametrize("request_line", [b"x" * 256, b"x" * 256 + b"\n", b"x" * 100_000])
def test_too_long_a_request_ends_the_connection(z, path, request_line):
    with z.serve_stats(path), Client(path) as ask:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            ask.socket.sendall(request_line)
        with contextlib.suppress(ConnectionResetError):
            assert "at most 255 bytes" in json.loads(ask.lines.readline())["error"]
            assert ask.at_end()
        with Client(path) as other:
            assert "stats" in other()


def test_a_client_that_does_not_read_blocks_nobody(z, path):
    with z.serve_stats(path) as server, Client(path) as lazy:
        lazy()  # now the server knows it
        (kept,) = server._clients.values()
        lazy.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                lazy.socket.send(b"stats\n" * 1000)
        with Client(path) as ask:
            before = b""
            while not before or kept.answer is not before:  # until it is stuck, and once more
                before = kept.answer
                assert "stats" in ask()
        assert len(kept.answer) < 1 << 16
        assert len(kept.request) <= 512


def test_one_client_too_many_ends_the_one_quiet_longest(z, path, monkeypatch):
    monkeypatch.setattr(serve, "_CLIENTS", 3)
    with z.serve_stats(path), contextlib.ExitStack() as stack:
        first, second, third = (stack.enter_context(Client(path)) for _ in range(3))
        for ask in (second, third, first):
            assert "stats" in ask()
        assert "stats" in stack.enter_context(Client(path))()
        assert second.at_end()
        assert "stats" in third()
        assert "stats" in first()


def test_many_clients_at_once(z, path):
    def work():
        with Client(path) as ask:
            answers.extend(ask()["pid"] for _ in range(20))

    answers = []
    with z.serve_stats(path):
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == 160 * [os.getpid()]


# ---- the file ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0, 0o022, 0o077])
def test_the_socket_is_its_users_alone(z, path, mask, monkeypatch):
    modes = []
    link = os.link
    monkeypatch.setattr(os, "link", lambda a, b: (modes.append(os.lstat(a).st_mode), link(a, b)))
    before = os.umask(mask)
    try:
        with z.serve_stats(path):
            modes.append(os.lstat(path).st_mode)
            assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert [stat.S_IMODE(mode) for mode in modes] == [0o600, 0o600]
    assert os.listdir() == []


def make_socket(path, mode=0o600):
    """A socket as a dead program leaves it."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()
    os.chmod(path, mode)


def test_a_dead_programs_socket_is_replaced(z, path):
    make_socket(path)
    with z.serve_stats(path), Client(path) as ask:
        assert "stats" in ask()
        assert os.listdir() == [path]


def test_what_is_not_a_dead_socket_of_ours_is_left(z, path):
    for make in (
        lambda: open(path, "x").close(),
        lambda: os.mkdir(path),
        lambda: os.symlink("elsewhere", path),
        lambda: os.mkfifo(path),
        lambda: make_socket(path, 0o666),
    ):
        make()
        before = os.lstat(path)
        with pytest.raises(FileExistsError, match="not replaced"):
            z.serve_stats(path)
        assert os.lstat(path) == before
        assert os.listdir() == [path]
        os.rmdir(path) if stat.S_ISDIR(before.st_mode) else os.unlink(path)


def test_a_socket_in_use_is_left(z, path):
    with z.serve_stats(path), Client(path) as ask:
        with pytest.raises(OSError, match="another server") as caught:
            z.serve_stats(path)
        assert caught.value.errno == errno.EADDRINUSE
        assert caught.value.filename == path
        assert "stats" in ask()
        with z.serve_stats(path + "2"), Client(path + "2") as other:
            assert "stats" in other()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(path)
        os.chmod(path, 0o600)
        with pytest.raises(OSError, match="another server"):
            z.serve_stats(path)


def test_two_that_find_the_same_dead_socket(z, path, monkeypatch):
    """The second puts back what the first has made between its look and its deed."""
    make_socket(path)
    rename = os.rename

    def late(a, b):
        monkeypatch.setattr(os, "rename", rename)
        servers.append(z.serve_stats(path))
        rename(a, b)

    servers = []
    monkeypatch.setattr(os, "rename", late)
    with pytest.raises(OSError, match="another server"):
        z.serve_stats(path)
    with servers[0], Client(path) as ask:
        assert "stats" in ask()
        assert os.listdir() == [path]


def test_paths_that_cannot_be(z, path):
    with pytest.raises(FileNotFoundError, match="cannot make a socket"):
        z.serve_stats("no/such/folder")
    with pytest.raises(ValueError, match="too long"):
        z.serve_stats("x" * 108)
    with pytest.raises(ValueError, match="NUL"):
        z.serve_stats("a\0b")
    with pytest.raises(TypeError):
        z.serve_stats(7)
    assert os.listdir() == []


def test_paths_of_every_kind(z, path, tmp_path):
    with z.serve_stats(b"bytes"), Client("bytes") as ask:
        assert "stats" in ask()
    server = z.serve_stats(tmp_path / "s")
    os.mkdir("below")
    os.chdir("below")
    server.close()
    assert os.listdir("..") == ["below"]
    os.mkdir("x" * 100)
    os.chdir("x" * 100)
    with z.serve_stats("s"), Client("s") as ask:
        assert "stats" in ask()
    assert os.listdir() == []


# ---- the end -------------------------------------------------------------------------------------


def test_close_ends_all_and_may_be_repeated(z, path):
    server = z.serve_stats(path)
    with Client(path) as ask:
        ask()
        server.close()
        assert server.closed
        assert ask.at_end()
    assert not os.path.exists(path)
    server.close()
    assert server.wait(0)
    assert repr(server) == "<StatsServer closed>"
    z[1] = bytes(PAGE)


def test_close_leaves_what_has_taken_its_place(z, path):
    with z.serve_stats(path):
        os.unlink(path)
        open(path, "x").close()
    assert os.path.exists(path)


def test_it_ends_with_the_engine(z, path):
    server = z.serve_stats(path)
    with Client(path) as ask:
        ask()
        z.close()
        assert server.wait(5)
        assert ask.at_end()
    assert not os.path.exists(path)
    with pytest.raises(ValueError, match="closed"):
        z.serve_stats(path)
    assert not os.path.exists(path)


def test_a_request_after_the_engines_end_ends_it(z, path, monkeypatch):
    monkeypatch.setattr(serve, "_LOOK", 60)
    server = z.serve_stats(path)
    with Client(path) as ask:
        ask()
        z.close()
        ask.socket.sendall(b"stats\n")
        assert ask.at_end()
    assert server.wait(5)


def test_it_does_not_keep_the_engine(path):
    server = zswap.ZSwap(max_pool_bytes="1MiB").serve_stats(path)
    gc.collect()
    assert server.wait(5)
    assert not os.path.exists(path)


@pytest.mark.usefixtures("whole_fork")
def test_a_forked_child_does_not_serve(z, path):
    server = z.serve_stats(path)
    with Client(path) as ask:
        ask()
        go, done = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            with contextlib.suppress(BaseException):
                server.close()
                assert server.closed
                assert os.path.exists(path)
                os.write(done[1], b"x")
                os.close(go[1])
                os.read(go[0], 1)
                status = 0
            os._exit(status)
        os.read(done[0], 1)
        assert "stats" in ask()
        server.close()
        assert ask.at_end()  # so the child does not hold the connection open
        os.close(go[1])
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        for fd in (go[0], *done):
            os.close(fd)


def test_the_file_goes_with_the_program(python, tmp_path):
    code = """
import os, zswap
z = zswap.ZSwap(max_pool_bytes="1MiB")
z.serve_stats("s")
print(os.listdir())
"""
    assert python(code) == "['s']\n"
    assert os.listdir(tmp_path) == []


def test_nothing_is_left_when_no_thread_can_start(z, path, monkeypatch):
    def fail(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(RuntimeError):
        z.serve_stats(path)
    assert os.listdir() == []
