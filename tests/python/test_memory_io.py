"""Arrays in a `zswap.Memory` that the kernel reads and writes, for files, pipes and sockets."""

import contextlib
import ctypes
import errno
import fcntl
import gc
import io
import mmap
import os
import pickle
import shutil
import socket
import subprocess
import threading

import numpy as np
import pytest

import zswap
from hooks import program

BUDGET = 8 << 20
SO_SNDBUFFORCE = 32
F_SETPIPE_SZ = 1031
SIZE = 3 * BUDGET // 2  # bytes of an array, more than can be resident


@pytest.fixture(params=["signal", "thread"])
def mem(request, tmp_path):
    """A memory with a file, in each mode there is."""
    try:
        return zswap.Memory(BUDGET, tmp_path / "spill", mode=request.param)
    except zswap.Error as error:
        pytest.skip(str(error))


@pytest.fixture
def by_signals(tmp_path):
    """One in signal mode."""
    try:
        return zswap.Memory(BUDGET, tmp_path / "spill", mode="signal")
    except zswap.Error as error:
        pytest.skip(str(error))


def numbers(size=SIZE):
    """Content that tells where it belongs, and of which a part does not compress."""
    words = np.arange(size // 8, dtype=np.uint64)
    words[::3] = np.random.default_rng(size).integers(0, 1 << 63, len(words[::3]), np.uint64)
    return words


def held(mem, content):
    """The content as an array in the memory, of which nothing is resident."""
    a = mem.array(content)
    mem.advise(a, "cold")
    return a


# ---- out of arrays -------------------------------------------------------------------------------


def all_of(call, data):
    """Repeat a call that may take a part, as sockets and pipes do."""
    view, done = memoryview(data).cast("B"), 0
    while done < len(view):
        done += call(view[done:])


@contextlib.contextmanager
def copied(source, sink):
    """Meanwhile a thread copies what comes from the one, a path or a descriptor, to the other."""

    def copy():
        with open(source, "rb", 0) as begin, open(sink, "wb", 0) as end:
            shutil.copyfileobj(begin, end, 1 << 16)

    thread = threading.Thread(target=copy)
    thread.start()
    yield
    thread.join()


def by_tofile(a, path):
    a.tofile(path)


def by_save(a, path):
    np.save(f"{path}.npy", a)
    np.load(f"{path}.npy").tofile(path)


def by_savez(a, path):
    np.savez(f"{path}.npz", a=a)
    with np.load(f"{path}.npz") as file:
        file["a"].tofile(path)


def by_write(a, path):
    with open(path, "wb") as file:
        assert file.write(a) == a.nbytes


def by_write_unbuffered(a, path):
    with open(path, "wb", 0) as file:
        assert file.write(a) == a.nbytes


def by_os_write(a, path):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    assert os.write(fd, a) == a.nbytes
    os.close(fd)


def by_pwrite(a, path):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    assert os.pwrite(fd, a[100:], 800) == a.nbytes - 800
    assert os.pwrite(fd, a[:100], 0) == 800
    os.close(fd)


def by_writev(a, path):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    all_of(lambda rest: os.writev(fd, [rest[:5000], rest[5000:70_000], rest[70_000:]]), a)
    os.close(fd)


def by_pwritev(a, path):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    view, done = memoryview(a).cast("B"), 0
    while done < len(view):
        done += os.pwritev(fd, [view[done : done + 9999], view[done + 9999 :]], done)
    os.close(fd)


def by_pipe(a, path):
    end, start = os.pipe()
    with copied(end, path):
        all_of(lambda rest: os.write(start, rest), a)
        os.close(start)


def by_sendall(a, path):
    here, there = socket.socketpair()
    with copied(there.detach(), path), here:
        here.sendall(a)


def by_send(a, path):
    here, there = socket.socketpair()
    with copied(there.detach(), path), here:
        all_of(here.send, a)


def by_sendmsg(a, path):
    here, there = socket.socketpair()
    with copied(there.detach(), path), here:
        all_of(lambda rest: here.sendmsg([rest[:3], rest[3:]]), a)


def by_subprocess(a, path):
    with open(path, "wb") as file:
        subprocess.run(["cat"], input=memoryview(a), stdout=file, check=True)


def by_pickle(a, path):
    with open(f"{path}.pickle", "wb") as file:
        pickle.dump(a, file, protocol=5)
    with open(f"{path}.pickle", "rb") as file:
        pickle.load(file).tofile(path)


def by_pickle_out_of_band(a, path):
    parts = []
    pickle.dumps(a, protocol=5, buffer_callback=parts.append)
    with open(path, "wb") as file:
        for part in parts:
            file.write(part.raw())


def by_memmap(a, path):
    copy = np.memmap(path, a.dtype, "w+", shape=a.shape)
    copy[:] = a
    copy.flush()


def by_mmap(a, path):
    with open(path, "wb+") as file:
        file.truncate(a.nbytes)
        with mmap.mmap(file.fileno(), a.nbytes) as there:
            assert there.write(a) == a.nbytes


def by_bytes(a, path):
    with open(path, "wb") as file:
        file.write(io.BytesIO(a).getbuffer())


OUT = [
    by_tofile,
    by_save,
    by_savez,
    by_write,
    by_write_unbuffered,
    by_os_write,
    by_pwrite,
    by_writev,
    by_pwritev,
    by_pipe,
    by_sendall,
    by_send,
    by_sendmsg,
    by_subprocess,
    by_pickle,
    by_pickle_out_of_band,
    by_memmap,
    by_mmap,
    by_bytes,
]


@pytest.mark.slow
@pytest.mark.parametrize("call", OUT, ids=lambda call: call.__name__[3:])
def test_out(mem, tmp_path, call):
    content = numbers()
    a = held(mem, content)
    call(a, tmp_path / "out")
    assert (np.fromfile(tmp_path / "out", np.uint64) == content).all()


# ---- into arrays ---------------------------------------------------------------------------------


def from_fromfile(mem, path):
    with mem:
        return np.fromfile(path, np.uint64)


def from_load(mem, path):
    np.save(f"{path}.npy", np.fromfile(path, np.uint64))
    with mem:
        return np.load(f"{path}.npy")


def from_memmap(mem, path):
    return mem.array(np.memmap(path, np.uint64, "r"))


def from_pickle(mem, path):
    data, parts = pickle.dumps(np.fromfile(path, np.uint64), 5), []
    shell = pickle.dumps(pickle.loads(data), 5, buffer_callback=parts.append)
    buffers = [mem.array(np.frombuffer(part.raw(), np.uint8)) for part in parts]
    return pickle.loads(shell, buffers=buffers)


def filled(mem, path, call):
    """An array that calls have filled which may fill a part."""
    a = held(mem, np.ones(os.path.getsize(path) // 8, np.uint64))
    all_of(call, a)
    return a


def from_readinto(mem, path):
    a = held(mem, np.ones(os.path.getsize(path) // 8, np.uint64))
    with open(path, "rb") as file:
        assert file.readinto(a) == a.nbytes
    return a


def from_readinto_unbuffered(mem, path):
    a = held(mem, np.ones(os.path.getsize(path) // 8, np.uint64))
    with open(path, "rb", 0) as file:
        assert file.readinto(a) == a.nbytes
        assert file.readinto(a) == 0
    return a


def from_readv(mem, path):
    with open(path, "rb", 0) as file:
        return filled(mem, path, lambda rest: os.readv(file.fileno(), [rest[:7], rest[7:]]))


def from_preadv(mem, path):
    done = 0

    def read(rest):
        nonlocal done
        got = os.preadv(file.fileno(), [rest[:9000], rest[9000:]], done)
        done += got
        return got

    with open(path, "rb", 0) as file:
        return filled(mem, path, read)


def from_pipe(mem, path):
    end, start = os.pipe()
    with copied(path, start), open(end, "rb", 0) as file:
        return filled(mem, path, file.readinto)


def from_recv_into(mem, path):
    here, there = socket.socketpair()
    with copied(path, there.detach()), here:
        return filled(mem, path, here.recv_into)


def from_recv_into_that_waits(mem, path):
    here, there = socket.socketpair()
    a = held(mem, np.ones(os.path.getsize(path) // 8, np.uint64))
    with copied(path, there.detach()), here:
        assert here.recv_into(a, 0, socket.MSG_WAITALL) == a.nbytes
    return a


def from_recvfrom_into(mem, path):
    here, there = socket.socketpair()
    with copied(path, there.detach()), here:
        return filled(mem, path, lambda rest: here.recvfrom_into(rest)[0])


def from_recvmsg_into(mem, path):
    here, there = socket.socketpair()
    with copied(path, there.detach()), here:
        return filled(mem, path, lambda rest: here.recvmsg_into([rest[:3], rest[3:]])[0])


INTO = [
    from_fromfile,
    from_load,
    from_memmap,
    from_pickle,
    from_readinto,
    from_readinto_unbuffered,
    from_readv,
    from_preadv,
    from_pipe,
    from_recv_into,
    from_recv_into_that_waits,
    from_recvfrom_into,
    from_recvmsg_into,
]


@pytest.mark.slow
@pytest.mark.parametrize("call", INTO, ids=lambda call: call.__name__[5:])
def test_into(mem, tmp_path, call):
    content = numbers()
    content.tofile(tmp_path / "in")
    a = call(mem, tmp_path / "in")
    assert mem._region.contains(a.ctypes.data)
    assert (a == content).all()


def test_past_the_page_cache(mem, tmp_path):
    """The device reads and writes pages themselves, which may not leave meanwhile."""
    content = numbers()
    a, b = held(mem, content), held(mem, np.zeros_like(content))
    try:
        fd = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        assert os.pwrite(fd, a, 0) == a.nbytes
    except OSError as error:
        pytest.skip(f"no O_DIRECT here: {error}")
    for _ in range(3):
        b[:] = 0
        with open(fd, "rb", 0, closefd=False) as file:
            file.seek(0)
            assert file.readinto(b) == b.nbytes
        assert (b == content).all()
    os.close(fd)


# ---- what a call is besides its bytes ------------------------------------------------------------


def test_a_read_does_not_wait_for_more_than_there_is(by_signals):
    a = held(by_signals, np.ones(SIZE // 8))
    end, start = os.pipe()
    os.write(start, b"12345")
    assert os.readv(end, [a]) == 5
    here, there = socket.socketpair()
    with here, there:
        there.send(b"12345")
        assert here.recv_into(a[1000:]) == 5
        here.setblocking(False)
        with pytest.raises(BlockingIOError):
            here.recv_into(a)
        sent = here.send(a)
        assert 0 < sent < a.nbytes
        with pytest.raises(BlockingIOError):
            here.send(a)
    assert a[:1].tobytes()[:5] == a[1000:].tobytes()[:5] == b"12345"
    os.close(start)
    with open(end, "rb", 0) as file:
        assert file.readinto(a) == 0


def test_nor_after_as_much_as_is_held_at_once(by_signals):
    a = held(by_signals, np.ones(SIZE // 8))
    end, start = os.pipe()
    fcntl.fcntl(start, F_SETPIPE_SZ, 1 << 20)
    os.write(start, bytes(256 << 10))
    with open(end, "rb", 0) as file:
        assert file.readinto(a) == 256 << 10
    os.close(start)


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_a_datagram_stays_whole(by_signals, kind):
    most = 600 << 10 if os.geteuid() == 0 else 100 << 10
    content = numbers(most)
    a = held(by_signals, content)
    b = held(by_signals, np.zeros_like(content))
    here, there = socket.socketpair(socket.AF_UNIX, kind)
    with here, there:
        if os.geteuid() == 0:
            here.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 2 << 20)
        there.settimeout(10)
        for send, receive in (
            (lambda: here.send(a), lambda: there.recv_into(b)),
            (lambda: os.write(here.fileno(), a), lambda: os.readv(there.fileno(), [b])),
            (
                lambda: here.sendmsg([a[:100], a[100:]]),
                lambda: there.recvmsg_into([b[:5], b[5:]])[0],
            ),
        ):
            b[:] = 0
            by_signals.advise(a, "cold")
            assert send() == a.nbytes
            by_signals.advise(b, "cold")
            assert receive() == a.nbytes
            assert (b == content).all()


def test_errors_are_those_of_the_call(by_signals, tmp_path):
    a = held(by_signals, np.ones(SIZE // 8))
    with open(tmp_path / "out", "wb", 0) as file, pytest.raises(OSError, match="descriptor"):
        os.readv(file.fileno(), [a])
    with open("/dev/full", "wb", 0) as file, pytest.raises(OSError, match="No space left"):
        file.write(a)
    assert by_signals.stats().pinned_bytes == 0


def test_it_works_though_all_that_may_be_is_pinned(by_signals, tmp_path):
    content = numbers()
    a = held(by_signals, content)
    room = by_signals.stats().room_bytes
    with contextlib.ExitStack() as pins:
        for start in range(0, room, 4096):
            part = a[start // 8 :][:512]
            try:
                pins.enter_context(by_signals.pin(part))
            except MemoryError:
                break
        else:
            raise AssertionError("more than half of the room could be pinned")
        a.tofile(tmp_path / "out")
    assert (np.fromfile(tmp_path / "out", np.uint64) == content).all()


# ---- what fails ----------------------------------------------------------------------------------


LOST = """
import errno, sys
import numpy as np
import zswap
from hooks.faults import FOREVER, arm
mem = zswap.Memory("16MiB", sys.argv[1], mode=sys.argv[2])
a = mem.empty((100, 4096), np.uint8)
a[:] = np.random.default_rng(1).integers(0, 3, a.shape)
mem.advise(a, "cold")
a[:3].sum()
arm("DECOMPRESS", 1, FOREVER, errno.EIO)
with open(sys.argv[1] + ".out", "wb", 0) as file:
    print(file.write(a[:3]))
    for part in (a[:5], a[4:]):
        try:
            print(file.write(part))
        except OSError as error:
            print(error)
"""


def test_a_page_that_cannot_be_had_is_an_error_and_one_line(mem, tmp_path):
    code, out, err = program(LOST, tmp_path / "spill", mem.mode, PYTHONWARNINGS="ignore")
    assert (code, out.splitlines()) == (0, ["12288", "12288", "[Errno 5] Input/output error"]), err
    assert err.count("\n") == 2
    assert all("damaged in memory" in line for line in err.splitlines())
    assert err.startswith("zswap: page 3 of a Memory")


LATER = """
import ctypes, os, sys
import numpy as np
import zswap
assert sys.argv[2] not in sys.modules
mem = zswap.Memory("16MiB", sys.argv[1], mode="signal")
a = mem.zeros(1 << 19)
a[:] = 7
mem.advise(a, "cold")
if sys.argv[2] == "_socket":
    import socket
    here, there = socket.socketpair()
    print(here.send(a[:10000]))
else:
    lib = ctypes.CDLL(sys.argv[2])
    mem.zeros(1)                        # any call looks what has been loaded
    lib.put.argtypes = ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t
    lib.put.restype = ctypes.c_ssize_t
    print(lib.put(os.open("/dev/null", os.O_WRONLY), a.ctypes.data, 10000))
    print(lib.put(os.memfd_create("x"), a.ctypes.data, a.nbytes))
"""


def test_modules_that_are_loaded_later(tmp_path):
    code, out, err = program(
        "import sys, zswap; print('_socket' in sys.modules)", PYTHONWARNINGS="ignore"
    )
    if out == "True\n":
        pytest.skip("zswap has imported it already")
    code, out, err = program(LATER, tmp_path / "spill", "_socket", PYTHONWARNINGS="ignore")
    assert (code, out) == (0, "80000\n"), err


@pytest.mark.slow
@pytest.mark.parametrize("how", ["lazy", "now", "no-plt"])
def test_libraries_that_are_loaded_later(tmp_path, how):
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    (tmp_path / "put.c").write_text(
        "#include <unistd.h>\nssize_t put(int fd, void *p, size_t n) { return write(fd, p, n); }\n"
    )
    options = {"lazy": ["-Wl,-z,lazy"], "now": ["-Wl,-z,now"], "no-plt": ["-fno-plt"]}[how]
    command = [compiler, "-shared", "-fPIC", *options, "-o", tmp_path / "put.so"]
    subprocess.run([*command, tmp_path / "put.c"], check=True)
    code, out, err = program(
        LATER, tmp_path / "spill", tmp_path / "put.so", PYTHONWARNINGS="ignore"
    )
    assert (code, out.split()) == (0, ["10000", str(8 << 19)]), err


def test_a_call_of_nobodys_is_an_error(by_signals, tmp_path):
    """By itself the kernel does not wait for pages in signal mode: `pin` is for that."""
    a = held(by_signals, np.ones(1 << 17))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.write.argtypes = ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t
    with open(tmp_path / "out", "wb", 0) as file:
        assert libc.write(file.fileno(), a.ctypes.data, a.nbytes) == -1
        assert ctypes.get_errno() == errno.EFAULT
        with by_signals.pin(a):
            assert libc.write(file.fileno(), a.ctypes.data, a.nbytes) == a.nbytes


def test_where_a_memory_was_others_lie(tmp_path):
    """A call about memory that came to its place takes all of its parts at once, as it did."""
    try:
        memory = zswap.Memory(BUDGET, tmp_path / "spill")
    except zswap.Error as error:
        pytest.skip(str(error))
    at = memory.zeros(SIZE, "u1").ctypes.data & -mmap.PAGESIZE
    memory.close()
    del memory
    gc.collect()
    parts, no_replace = 100, 0x100000
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_replace
    there = libc.mmap(at, parts * 4096, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    if there != at:
        pytest.skip("something lies there already")
    content = os.urandom(parts * 4096)
    (tmp_path / "file").write_bytes(content)
    views = [(ctypes.c_uint8 * 4096).from_address(at + n * 4096) for n in range(parts)]
    with open(tmp_path / "file", "rb") as file:
        assert os.preadv(file.fileno(), views, 0) == len(content)
    assert b"".join(map(bytes, views)) == content
    del views
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    assert libc.munmap(at, parts * 4096) == 0
