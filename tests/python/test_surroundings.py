"""Commands started as others start them: streams closed or full, no home, no folder, strange
variables, signals.

Whatever it is, there is no traceback, the report is printed or its loss is an exit code, and a file
is whole or not there.
"""

import fcntl
import importlib
import itertools
import os
import pty
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

import zswap
from zswap import plot

pytestmark = pytest.mark.slow

FOLDER = str(Path(zswap.__file__).parents[1])
PLAIN = {
    "PATH": os.environ.get("PATH", os.defpath),
    "HOME": "/",
    "PYTHONPATH": FOLDER,
    "LANG": "C.UTF-8",
}
COMMANDS = {
    "version": "--version",
    "help": "analyze --help",
    "compressors": "compressors --json",
    "advise": "advise --pages 20",
    "analyze": "analyze --file pages --compressor lz4 --pages 20",
    "capture": "capture --file pages -o out.bin",
    "bench": "bench --smoke --corpus mix --pages 16 --row memcpy",
    "replay": "replay trace --compressor lz4",
    "top": "top nothing.sock",
    "usage": "analyze --nonsense",
}
CODES = {"top": 2, "usage": 2}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pages").write_bytes(
        b"".join(b"%d bottles " % number for number in range(20_000))[: 4096 * 32]
    )
    (tmp_path / "trace").write_text("".join(f"{n * n % 97} rw\n" for n in range(1000)))
    return tmp_path


@pytest.fixture(scope="module")
def fonts():
    """matplotlib's list of fonts, which each folder of settings would take seconds to make anew."""
    matplotlib = pytest.importorskip("matplotlib")
    importlib.import_module("matplotlib.font_manager")
    return list(Path(matplotlib.get_cachedir()).glob("fontlist-*.json"))


def start(folder, command, around="{}", **environment):
    """Run a command in a shell, `around` it what the shell does with it."""
    line = around.format(f"{shlex.quote(sys.executable)} -m zswap {COMMANDS.get(command, command)}")
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env={**PLAIN, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
    )
    for said in (done.stdout, done.stderr):
        for word in ("Traceback", "Exception ignored", "should not be", "\x1b["):
            assert word not in said, said
    assert done.stderr.count("\n") <= 1, done.stderr
    assert not list(folder.glob(".zswap-*"))
    return done


EACH = [(command, closed) for command in COMMANDS for closed in ("1", "2", "012")]
ALL = [
    ("capture", "".join(some)) for count in (1, 2) for some in itertools.combinations("012", count)
]


@pytest.mark.parametrize(("command", "closed"), sorted({*EACH, *ALL}))
def test_closed_streams(folder, command, closed):
    done = start(
        folder,
        command,
        "{} " + " ".join({"0": "<&-", "1": ">&-", "2": "2>&-"}[number] for number in closed),
    )
    lost = "1" in closed and command not in ("capture", *CODES)  # these print nothing there
    assert done.returncode == (1 if lost else CODES.get(command, 0))
    if "2" not in closed:
        assert ("zswap: cannot write standard output" in done.stderr) is lost
    assert (folder / "out.bin").exists() is (command == "capture")
    if command == "capture":
        assert (folder / "out.bin").read_bytes() == (folder / "pages").read_bytes()


@pytest.mark.parametrize(
    ("around", "lost"),
    [
        ("{} > /dev/full", True),
        ("{} 2> /dev/full", False),
        ("{} > /dev/full 2> /dev/full", True),
        ("set -o pipefail; {} | true", None),
        ("mkdir gone; cd gone; rmdir ../gone; cp ../pages /proc/self/fd/0 2>/dev/null; {}", None),
        ("env -i PYTHONPATH=$PYTHONPATH {}", False),
        ("ulimit -f 0; {}", None),
        ("ulimit -n 16; {}", None),
        ("nohup {}", False),
    ],
)
@pytest.mark.parametrize("command", ["version", "analyze", "capture", "top"])
def test_how_it_is_started(folder, command, around, lost):
    done = start(folder, command, around)
    if lost is None:
        assert done.returncode in (0, 1, 2)
    else:
        assert done.returncode == (
            1 if lost and command in ("version", "analyze") else CODES.get(command, 0)
        )
    if command == "capture" and done.returncode:
        assert not (folder / "out.bin").exists()


# Several at a time, of which none hides what another does.
VARIABLES = [
    {"COLUMNS": "auto", "TERM": "dumb", "LANG": "C", "HOME": "/nonexistent"},
    {"COLUMNS": "-5", "LC_ALL": "C", "PYTHONWARNINGS": "error", "TMPDIR": "/nonexistent"},
    {"COLUMNS": "²", "NO_COLOR": "1", "PYTHONIOENCODING": "ascii", "PYTHONOPTIMIZE": "2"},
    {"COLUMNS": "9" * 30, "TERM": "no-such-terminal", "PYTHONIOENCODING": "ascii:strict"},
    {"LINES": "²", "PYTHONUNBUFFERED": "1", "MPLBACKEND": "module://no.such"},
]


@pytest.mark.parametrize("variables", VARIABLES, ids=" ".join)
@pytest.mark.parametrize("command", ["compressors", "analyze"])
def test_variables(folder, command, variables):
    done = start(folder, command, **variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert "lz4" in done.stdout


def test_signs_that_an_encoding_lacks_are_written_otherwise(folder):
    done = start(
        folder, "analyze --file pages --compressor lz4 --pages 20", PYTHONIOENCODING="ascii:strict"
    )
    assert done.stdout.isascii()
    assert "+-" in done.stdout


# ---- terminals -----------------------------------------------------------------------------------

COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;\d+)*m")


def on_a_terminal(folder, columns, command, **variables):
    """What a command writes to a terminal of that width."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    streams = {"stdin": slave, "stdout": slave, "stderr": slave}
    words = [sys.executable, "-m", "zswap", *command.split()]
    with subprocess.Popen(words, cwd=folder, env={**PLAIN, **variables}, **streams) as process:
        os.close(slave)
        written = b""
        while True:
            try:
                data = os.read(master, 1 << 16)
            except OSError:  # nobody has the other end any more
                break
            if not data:
                break
            written += data
    os.close(master)
    assert process.returncode == 0, written
    return written.decode()


@pytest.mark.parametrize("command", ["compressors", "analyze"])
def test_a_dumb_terminal_is_as_wide_as_it_is(folder, command):
    text = on_a_terminal(folder, 60, COMMANDS[command].removesuffix(" --json"), TERM="dumb")
    assert "\x1b" not in text
    assert re.search(r"^lz4 ", text, re.MULTILINE)
    # what is to be copied is not wrapped
    assert all(len(line) <= 60 or line.startswith("  ") for line in text.splitlines()), text


def test_no_color_is_obeyed_as_its_page_says(folder):
    """Set to anything but nothing at all, it means no colours."""
    server = (
        "import sys, zswap; z = zswap.ZSwap(max_pool_bytes='1MiB'); z.serve_stats('s'); "
        "z[0] = bytes(range(256)) * 16; print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", server],
        cwd=folder,
        env=PLAIN,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as program:
        program.stdout.readline()
        plain, empty = (
            on_a_terminal(folder, 60, "top s --once", TERM="xterm-256color", NO_COLOR=value)
            for value in ("0", "")
        )
        program.stdin.close()
    assert not COLOUR.search(plain)
    assert COLOUR.search(empty)
    for text in (plain, empty):
        assert max(len(re.sub(r"\x1b\[[\d;]*m", "", line)) for line in text.splitlines()) <= 60


# ---- pictures ------------------------------------------------------------------------------------

PLOT = "analyze --file pages --compressor lz4 --pages 20 --plot out.svg"


@pytest.mark.parametrize(
    ("where", "settings"),
    [
        ("here", "text.usetex: True\nbackend: module://no.such"),
        ("here", "\x00\xff"),
        ("user", "text.parse_math: True\naxes.formatter.use_mathtext: True"),
        ("user", "text.usetex: True"),
    ],
)
def test_a_users_matplotlibrc_does_not_count(folder, fonts, where, settings):
    (folder / "user").mkdir()
    for file in fonts:
        shutil.copy(file, folder / "user")
    (folder / "matplotlibrc" if where == "here" else folder / "user" / "matplotlibrc").write_text(
        settings, "latin-1"
    )
    done = start(folder, PLOT, MPLCONFIGDIR=str(folder / "user"))
    assert (done.returncode, done.stderr) == (0, "drawn: out.svg\n")
    assert "pages" in done.stdout


def test_a_name_is_no_formula(folder):
    pytest.importorskip("matplotlib")
    os.rename(folder / "pages", folder / r"$\frac{ $")
    for command in (
        r"analyze --file '$\frac{ $' --compressor lz4 --pages 20 --plot out.svg",
        r"bench --smoke --file '$\frac{ $' --row memcpy --plot out.svg",
    ):
        done = start(folder, command)
        assert (done.returncode, done.stderr) == (0, "drawn: out.svg\n")


@pytest.mark.parametrize("around", ["{} | true", "{} 2>/dev/null > /dev/full"])
def test_the_picture_is_drawn_though_nobody_reads_the_report(folder, around):
    pytest.importorskip("matplotlib")
    start(folder, PLOT, around + "; true")
    assert (folder / "out.svg").stat().st_size > 1000


def test_the_report_is_there_though_the_picture_cannot_be_written(folder):
    pytest.importorskip("matplotlib")
    done = start(folder, PLOT, "ulimit -f 0; {}")
    assert done.returncode == 1
    assert "pages" in done.stdout
    assert done.stderr.startswith("zswap: cannot write out.svg: File too large")
    assert not (folder / "out.svg").exists()


def test_what_a_program_has_set_for_its_own_pictures_stays():
    matplotlib = pytest.importorskip("matplotlib")
    with matplotlib.rc_context({"text.usetex": True, "font.size": 33}):
        with plot.settings():
            assert matplotlib.rcParams["text.usetex"] is False
            assert matplotlib.rcParams["text.parse_math"] is False
        assert matplotlib.rcParams["font.size"] == 33


# ---- signals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
@pytest.mark.parametrize("old", [None, b"old"])
def test_capture_that_is_stopped(folder, number, old):
    if old is not None:
        (folder / "out.bin").write_bytes(old)
    os.truncate(folder / "pages", 8 << 30)
    before = sorted(os.listdir(folder))
    process = subprocess.Popen(
        [sys.executable, "-m", "zswap", "capture", "--file", "pages", "-o", "out.bin"],
        cwd=folder,
        env=PLAIN,
        stderr=subprocess.PIPE,
        text=True,
    )
    descriptors = Path(f"/proc/{process.pid}/fd")

    def begun():
        for path in descriptors.iterdir():
            try:
                name, size = os.readlink(path), path.stat().st_size
            except OSError:
                continue
            if name.startswith(str(folder)) and not name.endswith("pages") and size > 4096:
                return True
        return False

    while not begun():
        assert process.poll() is None
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "stopped" in said
    assert "Traceback" not in said
    assert sorted(os.listdir(folder)) == before
    assert old is None or (folder / "out.bin").read_bytes() == old


@pytest.mark.parametrize("path", ["pages", "link", "hard"])
def test_capture_onto_what_it_reads_is_refused(folder, path):
    os.symlink("pages", folder / "link")
    os.link(folder / "pages", folder / "hard")
    before = (folder / "pages").read_bytes()
    done = start(folder, f"capture --file pages -o {path}")
    assert done.returncode == 2
    assert "name another one" in done.stderr
    assert (folder / "pages").read_bytes() == before


def test_capture_to_standard_output(folder):
    done = start(folder, "capture --file pages -o -", "{} 2>/dev/null | cmp - pages")
    assert (done.returncode, done.stdout) == (0, "")
