"""What Python programs see of `zswap.Memory`: arrays, numpy's handler, forks, signals, rights."""

import ctypes
import os
import pickle
import signal
import threading

import numpy as np
import pytest

import zswap
from hooks import program
from zswap_core.binding.memory import Block

BUDGET = 16 << 20


def memory(backing, **kwargs):
    """A memory, in the mode that is chosen here unless it is said."""
    try:
        return zswap.Memory(BUDGET, backing, **kwargs)
    except zswap.Error as error:
        pytest.skip(str(error))


@pytest.fixture
def mem(tmp_path):
    """One with a file."""
    return memory(tmp_path / "spill")


# ---- arrays --------------------------------------------------------------------------------------


def test_arrays_are_ordinary_ones(mem):
    a = mem.empty((200, 300), "f4", "F")
    assert (type(a), a.shape, a.dtype, a.flags.f_contiguous) == (np.ndarray, (200, 300), "f4", True)
    assert a.flags.writeable
    assert isinstance(a.base, Block)
    assert mem.zeros(5).tolist() == [0.0] * 5
    assert mem.zeros((3, 0)).shape == (3, 0)
    assert mem.zeros(()).shape == ()
    x = np.arange(60_000).reshape(200, 300)
    for source in (x, x.T, x[::2, ::-3], x.tolist(), np.float32(3)):
        copy = mem.array(source)
        assert (copy == np.asarray(source)).all()
        assert copy.base is not None
    assert mem.array(x.T).flags.f_contiguous
    assert mem.array(x, "u1").dtype == np.uint8
    assert pickle.loads(pickle.dumps(mem.array(x))).sum() == x.sum()
    with pytest.raises(TypeError, match="references to Python objects"):
        mem.empty(5, object)
    with pytest.raises(ValueError, match="at least 1"):
        mem.buffer(0)
    assert np.frombuffer(mem.buffer(800), "f8").shape == (100,)


@pytest.mark.slow
def test_numpy_over_three_times_the_budget(mem):
    n = BUDGET // 8
    a, b = mem.empty(3 * n), mem.empty(3 * n)
    a[:] = np.arange(3 * n) % 1000
    np.multiply(a, 2, out=b)
    b += a
    assert b.sum() == 3 * a.sum()
    assert a[::-1][:10].tolist() == a[-10:][::-1].tolist()
    a.sort()
    assert (np.diff(a) >= 0).all()
    assert mem.stats().total_bytes <= BUDGET


def test_numpy_allocates_here_in_the_block_and_nowhere_else(mem):
    outside = np.ones(100_000)
    with mem:
        a = np.ones(1 << 20)
        small = np.ones(10)
        b = a * 2 + outside.sum()
        c = np.concatenate([a[:70_000], a[:70_000]])
        d = a[:100_000].astype("f4")
        elsewhere = []
        thread = threading.Thread(target=lambda: elsewhere.append(np.ones(1 << 20)))
        thread.start()
        thread.join()
        with mem:
            e = np.zeros(1 << 17)
    after = np.ones(1 << 20)
    lies = mem._region.contains
    assert [lies(x.ctypes.data) for x in (a, b, c, d, e)] == [True] * 5
    assert [lies(x.ctypes.data) for x in (outside, small, elsewhere[0], after)] == [False] * 4
    assert not e.any()
    assert b[5] == 2 + 100_000
    a.resize(1 << 21, refcheck=False)
    assert (a.sum(), lies(a.ctypes.data)) == (1 << 20, True)
    a.resize(100, refcheck=False)
    assert a.tolist() == [1.0] * 100
    del a, b, c, d, e
    assert mem.stats().allocated_bytes == 0
    with pytest.raises(MemoryError), mem:
        np.empty(1 << 46, np.uint8)


def test_an_array_of_numpys_outlives_the_memory(mem):
    with mem:
        a = np.arange(1 << 20)
    mem.close()
    del mem
    assert a.sum() == (1 << 20) * ((1 << 20) - 1) // 2


UNTIL_THE_END = """
import sys
import numpy as np
import zswap
mem = zswap.Memory("16MiB", sys.argv[1])
mem.__enter__()
a = np.ones(1 << 20)
"""


def test_a_block_that_is_never_left(mem, tmp_path):
    assert program(UNTIL_THE_END, tmp_path / "file") == (0, "", "")


# ---- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": "1MiB"}, "at least 8388608"),
        ({"budget": BUDGET, "mode": "threads"}, "'auto', 'thread' or 'signal'"),
        ({"budget": BUDGET, "min_size": 0}, "min_size"),
        ({"budget": BUDGET, "backing": "pythons"}, "written in Python"),
        ({"budget": BUDGET, "compressor": "mine"}, "written in Python"),
    ],
)
def test_arguments_that_are_wrong(arguments, message, codec):
    class Store:
        def write_pages(self, offsets, pages):
            """Never called."""

        def read_pages(self, offsets, out):
            """Never called."""

    given = dict(arguments)
    if given.get("backing") == "pythons":
        given["backing"] = Store()
    if given.get("compressor") == "mine":
        given["compressor"] = codec()
    with pytest.raises(ValueError, match=message):
        zswap.Memory(**given)


def test_a_store_by_name_is_made_once(tmp_path):
    made = []

    def factory(argument, page_size):
        made.append(zswap.SwapFile(tmp_path / f"{argument}{len(made)}", "32MiB"))
        return made[-1]

    zswap.register_backing("counted", factory=factory)
    try:
        mem = memory("counted:a")
    finally:
        zswap.unregister_backing("counted")
    assert len(made) == 1
    assert mem.stats().limit == 32 << 20


def test_a_file_leaves_no_name(tmp_path):
    mem = memory(tmp_path / "spill")
    a = mem.zeros(10)
    assert a.sum() == 0
    assert list(tmp_path.iterdir()) == []
    del a, mem
    with zswap.SwapFile(tmp_path / "own", "32MiB") as file:
        other = memory(file)
        assert other.stats().limit == 32 << 20
        del other


def test_repr_and_figures(mem, until):
    a = mem.zeros((1024, 1024), "u1")
    assert repr(mem) == f"<Memory: 1.0 MiB allocated, budget 16.0 MiB, {mem.mode} mode>"
    a[0, 0] = 1
    until(lambda: mem.stats().fresh_pages >= 1)  # whoever touched it goes on before it is counted
    stats = mem.stats()
    assert stats.resident_bytes >= 4096
    assert stats.to_dict()["total_bytes"] == stats.total_bytes < BUDGET
    mem.close()
    assert repr(mem) == "<Memory: closed>"


# ---- forks ---------------------------------------------------------------------------------------

FORK = """
import os, signal, sys
import numpy as np
import zswap
mem = zswap.Memory("16MiB", sys.argv[1], mode=sys.argv[2])
a = mem.empty(1 << 21)
a[:] = 7
with mem:
    numpys = np.full(1 << 17, 7.0)
child = os.fork()
if child == 0:
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
    try:
        mem.zeros(5)
    except ValueError as error:
        print(error, flush=True)
    try:
        numpys.resize(1000, refcheck=False)     # fewer, of which nobody knows here what they were
    except MemoryError:
        print("no array", flush=True)
    if sys.argv[3] == "touch":
        print(a[5], flush=True)         # never zeros
    if sys.argv[3] == "kernel":
        child = os.fork()               # whose descriptors are none of the first child's affair
        if child == 0:
            for number in opened:
                os.fstat(number)
            os._exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        try:
            os.write(1, a[:10])
        except OSError as error:
            print(error, flush=True)
    del a
    print(mem, flush=True)
    os._exit(0)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert (a == 7).all()
assert (numpys == 7).all()
print(code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["signal", "auto"])
def test_a_forked_child_never_sees_zeros(tmp_path, mode):
    code, out, err = program(FORK, tmp_path / "spill", mode, "touch", PYTHONWARNINGS="ignore")
    assert code == 0
    assert out.splitlines()[0].startswith("this Memory belongs to the parent process")
    assert out.splitlines()[1:] == ["no array", str(-signal.SIGBUS)]
    assert "this is a forked child" in err
    assert err.count("\n") == 1
    code, out, err = program(FORK, tmp_path / "spill", mode, "kernel", PYTHONWARNINGS="ignore")
    assert out.splitlines()[1:3] == ["no array", "7"]
    assert "Bad address" in out.splitlines()[3]
    assert out.splitlines()[4:] == ["<Memory: the parent process has it>", "0"]


CHILDREN = """
import multiprocessing, subprocess, sys
import zswap
def work(n):
    return n + 1
if __name__ == "__main__":
    mem = zswap.Memory("16MiB", sys.argv[1], mode=sys.argv[2])
    a = mem.empty(1 << 22)
    a[:] = 3
    assert subprocess.run([sys.executable, "-c", "print(5)"], capture_output=True).stdout == b"5\\n"
    assert subprocess.run("exit 3", shell=True).returncode == 3
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(work, range(10)) == list(range(1, 11))
    assert (a == 3).all()
    print("well")
"""


@pytest.mark.parametrize("mode", ["signal", "auto"])
def test_children_that_do_not_touch_it(tmp_path, mode):
    code, out, err = program(CHILDREN, tmp_path / "spill", mode, PYTHONWARNINGS="ignore")
    assert (code, out) == (0, "well\n"), err


# ---- signals -------------------------------------------------------------------------------------

OTHERS = """
import ctypes, faulthandler, mmap, os, signal, sys, tempfile
import zswap
which = sys.argv[1]
def others(number, frame):
    print("theirs", flush=True)
if which == "handler":
    signal.signal(signal.SIGBUS, others)
if which == "before":
    faulthandler.enable()
mem = zswap.Memory("16MiB", mode="signal")
a = mem.empty(1 << 20)
a[:] = 1
mem.advise(a, "cold")
if which == "after":
    faulthandler.enable()
    a.sum()
    mem.advise(a, "cold")
assert a.sum() == 1 << 20
print("ours", flush=True)
if which == "handler":
    os.kill(os.getpid(), signal.SIGBUS)
    print("goes on")
    sys.exit()
file = tempfile.TemporaryFile()
file.truncate(4096)
m = mmap.mmap(file.fileno(), 4096)
file.truncate(0)
m[0]
"""


@pytest.mark.slow
def test_a_signal_that_is_not_ours_goes_to_who_was_there():
    code, out, err = program(OTHERS, "handler")
    assert (code, out.split("\n")[:3]) == (0, ["ours", "theirs", "goes on"]), err
    code, out, err = program(OTHERS, "nobody")
    assert (code, out, err) == (-signal.SIGBUS, "ours\n", "")
    for when in ("before", "after"):
        code, out, err = program(OTHERS, when)
        assert (code, out) == (-signal.SIGBUS, "ours\n")
        assert "Fatal Python error: Bus error" in err


def test_beyond_an_array_lies_nothing(mem):
    """A page of no array is an error and no page of zeros."""
    source = """
import ctypes, zswap
mem = zswap.Memory("16MiB")
a = mem.zeros(512)
print(ctypes.string_at(a.ctypes.data + 4096 * 5, 1), flush=True)
"""
    code, out, err = program(source)
    assert (code, out) == (-signal.SIGBUS, "")
    assert "belongs to no allocation" in err


# ---- rights --------------------------------------------------------------------------------------

RIGHTS = """
import os, sys, zswap
mem = zswap.Memory("16MiB", mode=sys.argv[1])
a = mem.zeros(1 << 20)
a[:] = 1
mem.advise(a, "cold")
assert os.pwrite(os.memfd_create("file"), a, 0) == a.nbytes
mem.advise(a, "cold")
print(mem.mode, int(a.sum()))
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_any_user_may(tmp_path):
    prefix = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    if program("import zswap", prefix=prefix)[0] != 0:
        pytest.skip("another user cannot read this Python")
    code, out, err = program(RIGHTS, "signal", prefix=prefix)
    assert (code, out) == (0, f"signal {1 << 20}\n"), err
    code, out, err = program(RIGHTS, "auto", prefix=prefix)
    assert (code, out.split()[1:]) == (0, [str(1 << 20)]), err


# A seccomp filter that answers the system call userfaultfd with EPERM, as Docker's does.
SECCOMP = """
import ctypes, os, struct
import zswap
from zswap.memory import Memory
number = {"x86_64": 323, "aarch64": 282}[os.uname().machine]
program = b"".join(struct.pack("HBBI", *f) for f in (
    (0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7fff0000)))
buffer = ctypes.create_string_buffer(program)
class Filter(ctypes.Structure):
    _fields_ = [("n", ctypes.c_ushort), ("at", ctypes.c_void_p)]
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Filter(4, ctypes.addressof(buffer))), 0, 0) == 0
for mode in ("signal", "auto", "thread"):
    try:
        Memory("16MiB", mode=mode)
        print("well")
    except zswap.Error as error:
        print(error)
"""


def test_where_it_is_refused_one_line_says_what_to_allow():
    if os.uname().machine not in ("x86_64", "aarch64"):
        pytest.skip("the number of the system call is not known here")
    code, out, err = program(SECCOMP)
    assert code == 0, err
    lines = out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("userfaultfd is refused (Operation not permitted): allow the system")
    # with the device, threads need no such call
    assert all(line == "well" or "userfaultfd is refused" in line for line in lines[1:])


def test_libc_may_touch_it(mem):
    a = mem.array(np.frombuffer(b"x" * 100_000 + b"\0", "u1"))
    mem.advise(a, "cold")
    libc = ctypes.CDLL(None)
    libc.strlen.restype = ctypes.c_size_t
    libc.strlen.argtypes = [ctypes.c_void_p]
    assert libc.strlen(a.ctypes.data) == 100_000
