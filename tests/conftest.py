"""What all tests share: which zswap is tested, hypothesis profiles, a guard against hangs, engines
that check themselves.

The tests run against an installed package.  A checkout that was not built in place must not shadow
it, which `python -m pytest` and a PYTHONPATH would make it do, so its directory is taken off the
path unless it holds the compiled modules.
"""

import faulthandler
import gc
import importlib
import importlib.machinery
import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# no test takes near this; a deadlock takes for ever
HANG_SECONDS = float(os.environ.get("ZSWAP_TEST_TIMEOUT", "300"))


def built(folder):
    """Whether a directory holds zswap with its compiled modules."""
    suffixes = tuple(importlib.machinery.EXTENSION_SUFFIXES)
    return any(path.name.endswith(suffixes) for path in (folder / "zswap_core").glob("engine.*"))


if not built(ROOT):
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
    for name in [name for name in sys.modules if name.partition(".")[0] in ("zswap", "zswap_core")]:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(
            f"{ROOT}{os.sep}zswap"
        ):
            del sys.modules[name]  # found before the path was put right

try:
    import zswap
    import zswap_core.binding  # noqa: F401 (only to see that it is compiled)
except ImportError as error:
    pytest.exit(
        f"no zswap with compiled modules can be imported ({error}).\n"
        f"Install it with `pip install {ROOT}`, or build in place with `python setup.py build_ext "
        "--inplace`.",
        returncode=4,
    )

if str(ROOT / "tests") not in sys.path:
    sys.path.insert(0, str(ROOT / "tests"))
try:
    import hooks  # compiles what tests reach inside by, and gives engines its methods
except ImportError as error:
    pytest.exit(str(error), returncode=4)

import hypothesis  # noqa: E402 (after the path was put right)

# Packages that register compressors or zpools of their own, to be tried by the suites of all.
for _name in os.environ.get("ZSWAP_TEST_PLUGINS", "").split():
    importlib.import_module(_name)

# A shell that runs the tests in the background has them ignore Ctrl-C and Ctrl-\\, nohup that the
# terminal is gone; they and what they start would leave it at that.
for _number, _usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)

hypothesis.settings.register_profile(
    "quick", max_examples=20, stateful_step_count=30, deadline=None, derandomize=True, database=None
)
hypothesis.settings.register_profile(
    "ci", max_examples=100, stateful_step_count=50, deadline=None, derandomize=True, database=None
)
hypothesis.settings.register_profile(
    "long", max_examples=1000, stateful_step_count=100, deadline=None
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_report_header():
    """Say which zswap is tested."""
    return f"zswap {zswap.__version__} from {Path(zswap.__file__).parent}"


def pytest_configure(config):
    """Keep the real stderr, which pytest is about to capture, for the traceback of a hang."""
    config.hang_file = os.fdopen(os.dup(2), "w")


def pytest_collection_finish(session):
    """Let the collector pass over what lives as long as the run: many tests call it, and thousands
    of items are slow to walk."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config):
    """Close it."""
    faulthandler.cancel_dump_traceback_later()
    config.hang_file.close()


@pytest.fixture(autouse=True)
def no_hang(request):
    """End the run, with every thread's traceback, when a test hangs: nothing else gets out of a
    deadlock over the GIL."""
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True, file=request.config.hang_file)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True, scope="session")
def calm():
    """Keep what the machine suffers away from the engines: under memory pressure they write pages
    back that a test has in mind, and while one is damaged, that wrecks it.  Tests of pressure name
    files of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zswap.core, "pressure_files", lambda: (b"", b"", 0))
        yield


@pytest.fixture
def engine():
    """Make engines: `engine(...)` is `zswap.ZSwap(...)`, validated and closed when the test
    ends."""
    made = []

    def make(*args, **kwargs):
        made.append(zswap.ZSwap(*args, **kwargs))
        return made[-1]

    yield make
    for z in made:
        if not z.closed:
            z._validate()
            z.close()


@pytest.fixture
def codec(request):
    """Register compressors for one test: `codec(compress, decompress)` returns the name."""
    names = []

    def register(compress=bytes, decompress=bytes, **kwargs):
        names.append(f"test.{len(names)}.{random.Random(request.node.nodeid).getrandbits(32):08x}")
        if "factory" in kwargs:
            zswap.register_compressor(names[-1], **kwargs)
        else:
            zswap.register_compressor(names[-1], compress, decompress)
        return names[-1]

    yield register
    for name in names:
        zswap.unregister_compressor(name)


@pytest.fixture
def python(tmp_path):
    """Run a program in a Python of its own, with the zswap that is tested; returns what it
    printed."""

    def run(source, *args, timeout=120, **environment):
        env = {**os.environ, "PYTHONPATH": hooks.PATH, **environment}
        # Not from the checkout, whose sources would be imported first.
        command = [sys.executable, "-X", "faulthandler", "-c", source, *map(str, args)]
        try:
            done = subprocess.run(
                command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=timeout
            )
        except subprocess.TimeoutExpired as error:
            pytest.fail(f"the program hangs: {error.stdout}\n{error.stderr}")
        assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


def page_of(seed, size=4096, incompressible=0.3):
    """A page made of `seed` alone: a part of it, `incompressible`, is random, and the rest
    repeats."""
    noise = random.Random(seed).randbytes(int(size * incompressible))
    tail = (f"page {seed} of the test " * (size // 8)).encode()
    return (noise + tail)[:size]


@pytest.fixture(scope="session")
def make_page():
    """The function `page_of`, as test modules cannot import this one under every import mode."""
    return page_of


class MemoryStore:
    """A backing store in memory.  It notes the offsets of each call, then calls a hook, which may
    raise or wait."""

    def __init__(self):
        """Make an empty one."""
        self.pages = {}
        self.writes, self.reads, self.discards = [], [], []
        self.on_write = self.on_read = self.on_discard = lambda offsets: None

    def write_pages(self, offsets, pages):
        """Keep pages."""
        self.writes.append(offsets.tolist())
        self.on_write(offsets.tolist())
        self.pages.update(
            (o, page.tobytes()) for o, page in zip(offsets.tolist(), pages, strict=True)
        )

    def read_pages(self, offsets, out):
        """Give pages back."""
        self.reads.append(offsets.tolist())
        self.on_read(offsets.tolist())
        for o, page in zip(offsets.tolist(), out, strict=True):
            page[:] = memoryview(self.pages[o])

    def discard_pages(self, offsets):
        """Forget pages."""
        self.discards.append(offsets.tolist())
        self.on_discard(offsets.tolist())
        for o in offsets.tolist():
            self.pages.pop(o, None)


class Gate:
    """A hook that holds up the thread that comes to it, until it is opened."""

    def __init__(self):
        """Make a closed one."""
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, *args):
        """Wait."""
        self.reached.set()
        assert self.opened.wait(60), "nobody opened the gate"

    def __enter__(self):
        """Wait until somebody is held up."""
        assert self.reached.wait(60), "nobody came to the gate"
        return self

    def __exit__(self, *exception):
        """Open it."""
        self.opened.set()


class Thread(threading.Thread):
    """A thread whose result, or exception, join() hands over."""

    def __init__(self, call, *args):
        """Start it."""
        super().__init__(target=self.work, args=(call, args), daemon=True)
        self.outcome = self.error = None
        self.start()

    def work(self, call, args):
        """Do the call."""
        try:
            self.outcome = call(*args)
        except BaseException as error:
            self.error = error

    def join(self, timeout=60):
        """Wait for the end."""
        super().join(timeout)
        assert not self.is_alive(), "the thread hangs"
        if self.error is not None:
            raise self.error
        return self.outcome


def wait_until(condition, seconds=30):
    """Wait for what another thread is about to do."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.0005)


@pytest.fixture(scope="session")
def build_example(tmp_path_factory):
    """A function that builds the module of an example, away from the tree against the package as an
    outsider would."""

    def build(name, env=None):
        source = hooks.ROOT / "examples" / name
        if not source.is_dir():
            pytest.skip("the examples are not here")
        folder = tmp_path_factory.mktemp("example") / name
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("build", "*.so"))
        done = subprocess.run(
            [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
            cwd=folder,
            env={**(os.environ if env is None else env), "PYTHONPATH": hooks.PATH},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (file,) = folder.glob(f"{name}.*.so")
        spec = importlib.util.spec_from_file_location(name, file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return build


@pytest.fixture(scope="session")
def memory_store():
    """The class `MemoryStore`."""
    return MemoryStore


@pytest.fixture(scope="session")
def gate():
    """The class `Gate`."""
    return Gate


@pytest.fixture(scope="session")
def thread():
    """The class `Thread`."""
    return Thread


@pytest.fixture(scope="session")
def until():
    """The function `wait_until`."""
    return wait_until


@pytest.fixture
def whole_fork():
    """For tests that fork a process with engines in it, which have threads."""
    if "ZSWAP_SANITIZED" in os.environ:
        # gdb shows such children waiting in PyOS_AfterFork_Child, in malloc, for a lock of
        # libasan's (GCC 12) that a thread held which the child does not have.
        pytest.skip("the sanitizer's allocator does not survive a fork beside other threads")


@pytest.fixture
def eager_switches():
    """Change threads often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def given_back(monkeypatch):
    """A check that the zram devices that the test used are as they were, whatever other tests do to
    theirs at the same time."""
    from zswap.bench import zram

    begin, used = zram.Zram.__init__, []

    def look(path):
        try:
            return [
                path.stat().st_ino,
                *((path / name).read_text() for name in ("disksize", "comp_algorithm")),
            ]
        except FileNotFoundError:
            return None

    def init(self, *arguments):
        before = {path: look(path) for path in zram.BLOCK.glob("zram*")}
        begin(self, *arguments)
        used.append((self.sys, self.added is None and before[self.sys], look(self.sys)))

    def check():
        assert used
        for path, before, meanwhile in used:
            now = look(path)
            if before:
                assert now == before
            else:  # it was added, and is gone; another may have come by its name
                assert now is None or now[0] != meanwhile[0]

    monkeypatch.setattr(zram.Zram, "__init__", init)
    return check
