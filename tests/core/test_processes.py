"""What happens to the process: forks in the midst of each kind of call, SIGKILL in a writeback, the
interpreter's end."""

import os
import signal
import subprocess
import sys

import pytest

import hooks
import zswap
from zswap import SwapFile

pytestmark = pytest.mark.slow

PAGE = 4096

# Pages 0 to 9 are compressed; a thread is held up in a call, in C by the codec or in Python by the
# store.
PRELUDE = """
import os, signal, sys, threading, time, zswap
from hooks.parts import Codec
pages = [(b"page %d " % n * 999)[:3800].ljust(4096, b".") for n in range(10)]

def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.0005)

class Store:
    def __init__(self):
        self.pages, self.held, self.hold, self.go = {}, None, None, threading.Event()
    def wait(self, what):
        if what == self.hold:
            self.held = what
            assert self.go.wait(60)
    def write_pages(self, offsets, pages):
        self.wait("write")
        self.pages.update((o, bytes(page)) for o, page in zip(offsets.tolist(), pages))
    def read_pages(self, offsets, out):
        self.wait("read")
        for o, page in zip(offsets.tolist(), out):
            page[:] = memoryview(self.pages[o])
    def discard_pages(self, offsets):
        self.wait("discard")

codec, store = Codec(), Store()
zswap.register_compressor("gate", factory=codec.capsule)
"""

FORK = (
    PRELUDE
    + """
z = zswap.ZSwap("gate", backing=store, shrinker_enabled=False)
for n, page in enumerate(pages):
    z[n] = page
phase = sys.argv[1]
call = {
    "store": lambda: z.store_many([0], pages[0]),
    "load": lambda: z.load_many([1]),
    "pick": lambda: z.shrink(4),
    "write": lambda: z.shrink(4),
    "read": lambda: z.load(0),
    "discard": lambda: z.invalidate(0),
    "through": lambda: z.store(0, pages[0]),
    "recompress": lambda: z.recompress("deflate:9"),
    "switch": lambda: (setattr(z, "zpool", "z3fold"), z.store_many([0], pages[0])),
    "close": lambda: z.load_many([1]),
}[phase]
if phase in ("read", "discard"):
    assert z.shrink(10) == 10
if phase == "through":
    z.parameters["non_same_filled_pages_enabled"] = False
    store.hold = "write"
if phase in ("store", "switch"):
    codec.hold_compress = True
elif phase in ("load", "pick", "recompress", "close"):
    codec.hold_decompress = True
elif phase != "through":
    store.hold = phase
t = threading.Thread(target=call)
t.start()
until(lambda: codec.compressing or codec.decompressing or store.held)
if phase == "close":
    closer = threading.Thread(target=z.close)
    closer.start()
    until(lambda: z.closed)
pid = os.fork()
if not pid:
    signal.alarm(30)
    for refused in [
        lambda: z.load(1), lambda: z.store_many([1], pages[1]), lambda: z.shrink(1),
        z.stats, z.compact,
    ]:
        try:
            refused()
        except ValueError as error:
            assert "parent" in str(error) or "closed" in str(error), error
        else:
            os._exit(4)
    z.close()
    del z
    with zswap.ZSwap(backing=Store()) as own:
        own[1] = pages[1]
        assert own.shrink(1) == 1 and own[1] == pages[1]
        own.zpool = "z3fold"
        own[2] = pages[2]
        own._validate()
    sys.stdout.flush()
    os._exit(7)
_, status = os.waitpid(pid, 0)
assert os.waitstatus_to_exitcode(status) == 7, status
codec.hold_compress = codec.hold_decompress = False
store.hold = None
store.go.set()
t.join()
if phase == "close":
    closer.join()
else:
    gone = {0} if phase == "discard" else set()
    assert {n: z[n] for n in z} == {n: page for n, page in enumerate(pages) if n not in gone}
    z._validate()
    z.close()
print("done")
"""
)


@pytest.mark.usefixtures("whole_fork")
@pytest.mark.parametrize(
    "phase",
    [
        "store",
        "load",
        "pick",
        "write",
        "read",
        "discard",
        "through",
        "recompress",
        "switch",
        "close",
    ],
)
def test_fork_in_the_midst(python, phase, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(FORK)
    assert (
        python(
            f"import sys\nsys.argv = ['', {phase!r}]\nexec(open({str(program)!r}).read())"
        ).strip()
        == "done"
    )


# A process that writes back until it is killed: before the first page of a batch, or between two
# batches.
KILLED = (
    PRELUDE
    + """
file = zswap.SwapFile(sys.argv[1], 2000 * 4096)
z = zswap.ZSwap("gate", backing=file, shrinker_enabled=False)
for n in range(1000):
    z[n] = pages[n % 10]
if sys.argv[2] == "later":
    assert z.shrink(600) == 600
codec.hold_decompress = True
threading.Thread(target=z.shrink, args=(400,), daemon=True).start()
until(lambda: codec.decompressing)
print("writing", flush=True)
time.sleep(60)
"""
)


@pytest.mark.parametrize("when", ["first", "later"])
def test_killed_in_a_writeback(tmp_path, make_page, when):
    page = make_page(1)
    path = tmp_path / "swap"
    environment = {**os.environ, "PYTHONPATH": hooks.PATH}
    command = [sys.executable, "-c", KILLED, str(path), when]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "writing\n"
        with pytest.raises(
            zswap.BackingError, match=rf"another SwapFile \(process {process.pid}\) uses it"
        ):
            SwapFile(path)  # it lives
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    # The header says that it was in use; nothing of what was written is taken for pages.
    assert path.stat().st_size == 2001 * PAGE
    held = path.read_bytes()[PAGE:]
    assert (b"page 3" in held) == (when == "later")
    with SwapFile(path) as file:
        assert file.left_open
        out = bytearray(PAGE)
        for offset in range(1000):
            file.read_pages([offset], out)
            assert not any(out)
        with zswap.ZSwap(backing=file) as z:
            assert len(z) == z.stats().backed_pages == 0
            z[3] = page
            assert z.shrink(1) == 1
            assert z[3] == page
            z._validate()
    with SwapFile(path) as file:
        assert not file.left_open


ENDS = (
    PRELUDE
    + """
import atexit, random
kind, how = sys.argv[1:3]
store = (zswap.SwapFile("swap", 4000 * 4096) if kind == "file" else
         Store() if kind == "object" else None)
z = zswap.ZSwap("zstd:1", max_pool_bytes="2MiB", shrinker_interval=0.001, backing=store)
class Engine(zswap.ZSwap): pass
lost = Engine()                         # nobody closes it
lost.self = lost
lost[1] = pages[1]
zswap.register_compressor("python", lambda page: page[:64], lambda data: data * 64)
noise = random.Random(1).randbytes(4096)
begun = threading.Barrier(5)
def work(k):
    begun.wait()
    while True:
        try:
            z.store_many(range(k * 200, k * 200 + 200), (noise + pages[k]) * 100, threads=2)
            z.load_many(range(800), status=__import__("numpy").empty(800, "i1"))
            z.shrink(50)
            z.compressor = random.choice(["lz4", "zstd:1", "python"])
        except ValueError:
            return                      # it is closed
for k in range(4):
    threading.Thread(target=work, args=(k,), daemon=True).start()
begun.wait()
until(lambda: z.stats().loads > 1000)
if how == "exit":
    sys.exit(0)
if how == "atexit":
    atexit.register(lambda: z.stats())
"""
)


@pytest.mark.parametrize(
    ("kind", "how"),
    [("none", "end"), ("file", "end"), ("object", "end"), ("object", "exit"), ("object", "atexit")],
)
def test_the_interpreter_ends_amid_calls(tmp_path, kind, how):
    environment = {**os.environ, "PYTHONPATH": hooks.PATH}
    command = [sys.executable, "-X", "faulthandler", "-c", ENDS, kind, how]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "Fatal" not in done.stderr
    assert "Traceback" not in done.stderr


INSIDE = """
try:
    import zswap
except ImportError as error:
    print("told:", error)
else:
    print("not told")
"""


def test_an_engine_alone_imports_no_doors(python):
    out = python(
        "import sys, zswap\nzswap.ZSwap().close()\n"
        "doors = ('zswap.arrays', 'zswap.files', 'zswap.objects')\n"
        "print([name for name in doors if name in sys.modules])\n"
        "print(set(zswap.__all__) <= set(dir(zswap)))\n"
        "from zswap import *\nprint(all(name in globals() for name in zswap.__all__))\n"
        "print(hasattr(zswap, 'nothing'))"
    )
    assert out.split() == ["[]", "True", "True", "False"]


def test_a_second_interpreter_is_told(python):
    if sys.version_info >= (3, 13):
        run = (
            "import _interpreters as sub\ni = sub.create('legacy')\nfailed = sub.run_string(i, "
            f"{INSIDE!r})\nassert not failed"
        )
    else:
        run = f"import _xxsubinterpreters as sub\ni = sub.create()\nsub.run_string(i, {INSIDE!r})"
    out = python(
        f"import sys, zswap\n{run}\nsub.destroy(i)\nz = zswap.ZSwap()\nz[1] = "
        "bytes(4096)\nz.close()"
    )
    assert out.startswith("told: "), out
    assert "interpreter" in out
