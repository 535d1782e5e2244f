"""Files that are written: what is there is replaced whole or kept, what is no file stays what it
is, nothing is left over."""

import errno
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import zswap
from zswap import output, signals
from zswap.output import OutputError, OutputFailed, check, writing

pytestmark = pytest.mark.slow

ZSWAP = [sys.executable, "-m", "zswap"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(zswap.__file__).parents[1])}


@pytest.fixture(params=["unnamed", "named"])
def folder(request, tmp_path, monkeypatch):
    """A folder on a file system with O_TMPFILE, or without."""
    monkeypatch.chdir(tmp_path)
    if request.param == "named":
        without_unnamed_files(monkeypatch.setattr)
    return tmp_path


def without_unnamed_files(setattr):
    real = os.open

    def opened(path, flags, *arguments, **options):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return real(path, flags, *arguments, **options)

    setattr(os, "open", opened)


def names(folder):
    return sorted(os.listdir(folder))


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def write(path, *parts, **options):
    with writing(path, **options) as file:
        for part in parts:
            assert file.write(part) == len(part)


def write_and(path, act, data=b"half of it"):
    """Write, and let something happen before the end."""
    with writing(path) as file:
        file.write(data)
        act()


def raised(error):
    raise error


# ---- regular files -------------------------------------------------------------------------------


def test_new_file(folder):
    write("new", b"one ", bytearray(b"two "), memoryview(b"three"))
    assert Path("new").read_bytes() == b"one two three"
    write("private", b"x", private=True)
    before = os.umask(0o027)
    try:
        write("shared", b"x")
    finally:
        os.umask(before)
    assert (mode("private"), mode("shared")) == (0o600, 0o640)
    assert names(folder) == ["new", "private", "shared"]


def test_old_file_stays_until_the_new_one_is_complete(folder):
    Path("old").write_bytes(b"a long old text")
    with open("old", "rb") as held:
        with writing("old") as file:
            file.write(b"new")
            assert Path("old").read_bytes() == b"a long old text"
        assert (Path("old").read_bytes(), held.read()) == (b"new", b"a long old text")
    assert names(folder) == ["old"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit(143)])
def test_nothing_changes_when_it_fails(folder, error):
    Path("old").write_bytes(b"old")
    for path in ("old", "new"):
        with pytest.raises(error if isinstance(error, type) else SystemExit):
            write_and(path, lambda: raised(error))
    assert (names(folder), Path("old").read_bytes()) == (["old"], b"old")


def test_permissions_of_an_old_file(folder):
    Path("old").write_bytes(b"old")
    os.chmod("old", 0o664)
    if os.geteuid() == 0:
        os.chown("old", 1234, 4321)
    owner = os.stat("old").st_uid
    write("old", b"new")
    assert (mode("old"), os.stat("old").st_uid) == (0o664, owner)
    write("old", b"secret", private=True)
    assert (mode("old"), os.stat("old").st_uid) == (0o600, os.geteuid())


def test_a_hard_link_keeps_what_it_had(folder):
    Path("old").write_bytes(b"old")
    os.link("old", "other")
    write("old", b"new")
    assert (Path("old").read_bytes(), Path("other").read_bytes()) == (b"new", b"old")


@pytest.mark.parametrize("there", [True, False])
def test_symbolic_links_are_followed(folder, there):
    (folder / "deep").mkdir()
    if there:
        (folder / "deep" / "file").write_bytes(b"old")
    os.symlink("deep/../deep/file", "second")
    os.symlink(folder / "second", "first")
    write("first", b"new")
    assert os.path.islink("first")
    assert os.path.islink("second")
    assert (folder / "deep" / "file").read_bytes() == b"new"
    assert names("deep") == ["file"]


def test_a_file_that_was_changed_for_another_is_not_touched(folder, monkeypatch):
    Path("old").write_bytes(b"old")
    Path("other").write_bytes(b"other")
    real = output._resolved

    def resolved(path, keep):
        found, _ = real(path, keep)
        return found, "other"  # as if a link had been changed between two looks

    monkeypatch.setattr(output, "_resolved", resolved)
    with pytest.raises(OutputError, match="just been replaced"):
        write("old", b"new")
    assert (Path("old").read_bytes(), Path("other").read_bytes()) == (b"old", b"other")


def test_what_comes_meanwhile_and_is_no_file_is_not_replaced(folder):
    with pytest.raises(OutputFailed, match="something else has come"):
        write_and("new", lambda: os.mkfifo("new"))
    assert stat.S_ISFIFO(os.stat("new").st_mode)
    assert names(folder) == ["new"]


def test_what_comes_meanwhile_and_is_a_file_is_replaced(folder):
    write_and("new", lambda: Path("new").write_bytes(b"theirs"), b"ours")
    assert (names(folder), Path("new").read_bytes()) == (["new"], b"ours")


# ---- what is no regular file ---------------------------------------------------------------------


def test_devices_are_written_into(folder):
    before = os.stat("/dev/null")
    os.symlink("/dev/null", "link")
    for path in ("/dev/null", "link"):
        write(path, b"x", private=True)
    after = os.stat("/dev/null")
    assert (after.st_ino, after.st_mode, after.st_uid) == (
        before.st_ino,
        before.st_mode,
        before.st_uid,
    )


def test_a_pipe_is_written_into(folder, thread):
    os.mkfifo("pipe", 0o640)
    reader = thread(lambda: Path("pipe").read_bytes())
    write("pipe", b"x" * 300_000, private=True)
    assert reader.join() == b"x" * 300_000
    assert stat.S_ISFIFO(os.stat("pipe").st_mode)
    assert mode("pipe") == 0o640


def test_a_pipe_that_is_not_to_block(folder, thread):
    reading, writing_to = os.pipe()
    os.set_blocking(writing_to, False)
    got = thread(lambda: b"".join(iter(lambda: os.read(reading, 1 << 16), b"")))
    write(f"/dev/fd/{writing_to}", b"x" * 300_000)
    os.close(writing_to)
    assert got.join() == b"x" * 300_000
    os.close(reading)


@pytest.mark.parametrize("path", ["/dev/fd/{}", "/proc/self/fd/{}", "/proc/thread-self/fd/{}"])
def test_an_open_descriptor_is_written_on(folder, path):
    with open("file", "wb", buffering=0) as file:
        file.write(b"before ")
        write(path.format(file.fileno()), b"between ", private=True)
        file.write(b"after")
    assert Path("file").read_bytes() == b"before between after"


def test_a_terminal_is_refused(folder):
    master, slave = os.openpty()
    try:
        for path in (os.ttyname(slave), f"/dev/fd/{slave}"):
            with pytest.raises(OutputError, match="it is a terminal"):
                write(path, b"\x1b]0;x\x07")
    finally:
        os.close(master)
        os.close(slave)


def test_a_reader_that_has_gone(folder):
    reading, writing_to = os.pipe()
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        write(f"/dev/fd/{writing_to}", b"x")
    os.close(writing_to)


# ---- what cannot be written ----------------------------------------------------------------------

REFUSED = {
    "directory": ("folder", "Is a directory"),
    "directory with a slash": ("folder/", "Is a directory"),
    "missing folder": ("none/x", "No such file"),
    "file for a folder": ("file/x", "Not a directory"),
    "link in circles": ("circle", "symbolic links"),
    "socket": ("socket", "No such device"),
    "long name": ("x" * 300, "name too long"),
    "NUL": ("a\0b", "null"),
    "no name": ("", "No such file"),
}


@pytest.mark.parametrize(("path", "why"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_opened(folder, path, why):
    Path("folder").mkdir()
    Path("file").touch()
    os.symlink("circle", "circle")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
    before = names(folder)
    with pytest.raises(OutputError, match=rf"^cannot write .*: .*{why}") as told:
        write(path, b"x")
    assert not isinstance(told.value, OutputFailed)
    assert names(folder) == before
    if path != "socket":  # which may be written to, but not like this
        with pytest.raises(OutputError, match=r"^cannot write "):
            check(path)


def test_check_takes_what_can_be_written(folder):
    Path("old").touch()
    os.symlink("nothing yet", "link")
    for path in ("old", "new", "link", "/dev/null", "/dev/stdout", "-"):
        check(path)
    assert names(folder) == ["link", "old"]


def test_a_full_disk(folder):
    with pytest.raises(
        OutputFailed, match=r"^cannot write /dev/full: No space left on device; free some space"
    ):
        write("/dev/full", b"x")


def test_a_file_that_may_not_grow_so_large(folder):
    Path("old").write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        for path in ("old", "new"):
            with pytest.raises(OutputFailed, match=r"File too large; .*ulimit"):
                write(path, b"x" * 9000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (names(folder), Path("old").read_bytes()) == (["old"], b"old")


def in_private_mounts(commands):
    """Run a shell script in a mount namespace of its own, where that is allowed."""
    probe = subprocess.run(["unshare", "-m", "true"], capture_output=True)
    if probe.returncode:
        pytest.skip("mount namespaces need root")
    done = subprocess.run(
        ["unshare", "-m", "bash", "-ec", commands], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_small_file_system(tmp_path):
    said = in_private_mounts(f"""
        cd {tmp_path}; mkdir small; mount -t tmpfs -o size=64k none small
        head -c 1M /dev/zero > pages; cd small
        echo old > old; set +e
        for name in old new
        do {sys.executable} -m zswap capture --file ../pages -o $name 2>&1; echo "exit $?"; done
        ls -A; cat old
    """)
    told = (
        "zswap: cannot write {}: No space left on device; free some space, or name a file "
        "elsewhere\nexit 1\n"
    )
    assert said == told.format("old") + told.format("new") + "old\nold\n"


def test_a_file_that_is_mounted_is_written_over(tmp_path):
    said = in_private_mounts(f"""
        cd {tmp_path}; head -c 100k /dev/zero > old; chmod 644 old
        touch target; mount --bind old target
        head -c 8k /dev/urandom > pages
        {sys.executable} -m zswap capture --file pages -o target 2>/dev/null
        cmp pages target; cmp pages old; stat -c %a target; ls -A
    """)
    assert said == "600\nold\npages\ntarget\n"


AS_NOBODY = """
import os, sys
from zswap.output import writing
folder = sys.argv[1]
if os.getuid() == 0:
    os.chmod(folder, 0o755); os.chmod(f'{folder}/mine', 0o666); os.chmod(f'{folder}/theirs', 0o644)
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
else:
    os.chmod(folder, 0o555); os.chmod(f'{folder}/theirs', 0o444)
def tried(name, **options):
    try:
        with writing(f'{folder}/{name}', **options) as file:
            file.write(b'new')
        print(name, 'written')
    except Exception as error:
        print(name, type(error).__name__, error)
tried('mine'); tried('theirs'); tried('new')
"""


def test_a_folder_that_may_not_be_written_to(python, tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir()
    for parent in folder.parents:
        if parent.stat().st_uid == os.geteuid() and os.geteuid() == 0:
            parent.chmod(parent.stat().st_mode | 0o011)
    for name in ("mine", "theirs"):
        (folder / name).write_bytes(b"a long old text")
    said = python(AS_NOBODY, folder).splitlines()
    folder.chmod(0o755)
    assert said[0] == "mine written"
    assert (folder / "mine").read_bytes() == b"new"
    for line, name in zip(said[1:], ("theirs", "new"), strict=True):
        assert line.startswith(
            f"{name} OutputError cannot write {folder}/{name}: Permission denied; name a file in a "
            "folder"
        )
    assert names(folder) == ["mine", "theirs"]


# ---- signals -------------------------------------------------------------------------------------

STOPPED = """
import os, signal, sys, time
from zswap import signals
from zswap.output import writing
if sys.argv[1] == 'named':
    opened = os.open
    def without(path, flags, *arguments, **options):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, 'not here')
        return opened(path, flags, *arguments, **options)
    os.open = without
try:
    with signals.raised(), writing('out', private=True) as file:
        file.write(b'secret' * 1000)
        # a signal in the middle of a flush would have its text written twice
        os.write(1, b'%d\\n' % len([name for name in os.listdir() if 'part' in name]))
        while True:
            time.sleep(0.01)  # one that comes before a sleep begins is told after it
except BaseException as error:
    print(type(error).__name__, getattr(error, 'code', ''))
"""


@pytest.mark.parametrize("way", ["unnamed", "named"])
@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGXCPU"])
def test_a_signal_leaves_nothing_behind(tmp_path, way, number):
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED, way],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=ENVIRONMENT,
    ) as process:
        assert process.stdout.readline() == f"{1 if way == 'named' else 0}\n"
        process.send_signal(getattr(signal, number))
        said, _ = process.communicate(timeout=60)
    assert names(tmp_path) == []
    code = 128 + getattr(signal, number)
    assert said.split() == (
        ["KeyboardInterrupt"] if number == "SIGINT" else ["SystemExit", str(code)]
    )


def test_not_even_sigkill_leaves_something_behind(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED, "unnamed"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=ENVIRONMENT,
    ) as process:
        if process.stdout.readline() != "0\n":
            process.kill()
            pytest.skip("this file system has no O_TMPFILE")
        process.kill()
    assert names(tmp_path) == []


def test_what_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.raised():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_signals_wait_for_the_end_of_a_step():
    done = []

    def work():
        with signals.raised():
            with signals.held():
                with signals.held():
                    signal.raise_signal(signal.SIGTERM)
                    signal.raise_signal(signal.SIGINT)
                done.append("whole")
            done.append("and not further")

    with pytest.raises(SystemExit) as ended:
        work()
    assert (ended.value.code, done) == (143, ["whole"])
