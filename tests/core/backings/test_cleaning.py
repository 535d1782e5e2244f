"""Cleaning of a packed file, interrupted at each of its system calls: by SIGKILL, and by failures.

What is on the disk changes by system calls alone.  So a process that is killed before one of them
leaves what any that dies in this phase does: with a segment chosen, read, in part or all copied,
published and sealed, made a hole, or cut from the file.
"""

import errno
import os

import numpy as np
import pytest

from hooks.faults import FOREVER, arm, disarm, hits, injected
from hooks.packed import check, position, segments, tidy
from zswap import SwapFile

pytestmark = pytest.mark.slow

PAGE = 4096
MIB = 1 << 20

FILL = """
import numpy as np, zswap
from zswap import SwapFile
from hooks.packed import check, tidy
pages = np.random.default_rng(0).integers(0, 256, (250, 4096), np.uint8)

def fill(path, **kwargs):
    # A file whose segments, each with a tenth of its pages, are to be moved together.
    file = SwapFile(path, "64MiB", packed=True, io_uring=False, **kwargs)
    for first in range(0, 5000, 250):
        file.write_pages(range(first, first + 250), pages)
    file.discard_pages([o for o in range(5000) if o % 10])
    return file

def clean(file):
    while tidy(file):
        pass
"""

KILLED = (
    FILL
    + """
import os, signal, sys
from hooks.faults import arm, disarm, hits, STOP
encrypt = sys.argv[1] == "encrypted"
# SwapFile() in the same process would find its own lock
OPEN = "another SwapFile (process {}) uses it"

with fill("counted", encrypt=encrypt) as file:
    arm("POOL", nth=1 << 30)            # nothing of it is reached: the others are counted
    clean(file)
    counted = hits()
    disarm()
    length = file.stats()["file_bytes"]
os.unlink("counted")
sites = ("FILE_READ", "FILE_WRITE", "FILE_LENGTH", "FILE_PUNCH")
phases = [(site, nth) for site in sites for nth in range(1, counted[site] + 1)]
phases += [("torn", nth) for nth in range(1, counted["FILE_WRITE"] + 1)] + [("done", 0)]
lengths = set()

def in_child(site, nth):
    signal.alarm(60)
    file = fill("swap", encrypt=encrypt)
    if site == "torn":                  # half of it is there
        arm("FILE_WRITE_SHORT", nth=nth, error=1 << 16)
        arm("FILE_WRITE", nth=nth + 1, error=STOP)
    elif site != "done":
        arm(site, nth=nth, error=STOP)
    clean(file)
    os.kill(os.getpid(), signal.SIGSTOP)

for turn, (site, nth) in enumerate(phases):
    pid = os.fork()
    if not pid:
        try:
            in_child(site, nth)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), (site, nth, status)
    before = os.stat("swap")
    lengths.add(before.st_size)
    try:
        SwapFile("swap", packed=True)
    except zswap.BackingError as error:
        assert OPEN.format(pid) in str(error), error
    else:
        raise AssertionError("it is in use")
    after = os.stat("swap")
    assert (before.st_ino, before.st_size, before.st_mtime_ns) == (
        after.st_ino, after.st_size, after.st_mtime_ns)

    os.kill(pid, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    packed = turn % 3 > 0
    with SwapFile("swap", packed=packed) as file:
        assert file.left_open and file.nr_pages == 16384
        now = os.stat("swap")
        assert now.st_ino != before.st_ino      # a new file: nothing is left of the old one
        assert now.st_size == (4096 if packed else 16385 * 4096)
        out = bytearray(4096)
        for offset in range(0, 5000, 10):
            file.read_pages([offset], out)
            assert not any(out)
        with zswap.ZSwap("lz4", backing=file, shrinker_enabled=False) as z:
            assert len(z) == 0
            z.store_many(range(250), pages)
            assert z.shrink(250) == 250
            assert z.load_many(range(250)).tobytes() == pages.tobytes()
            z._validate()
        if packed:
            check(file)
    with SwapFile("swap") as file:
        assert not file.left_open
    os.unlink("swap")
assert len(lengths) > 3 and min(lengths) == length < max(lengths)
print(*(counted[site] for site in sites))
"""
)


@pytest.mark.usefixtures("whole_fork")
@pytest.mark.parametrize("how", ["plain", "encrypted"])
def test_killed_before_each_system_call(python, how):
    """Refused as long as its user lives, and then replaced by the next: nothing of it is taken for
    a page, whatever phase it was in."""
    reads, writes, lengths, holes = map(int, python(KILLED, how).split())
    assert min(reads, writes) >= 5
    assert min(lengths, holes) >= 2


# ---- in a process that lives ---------------------------------------------------------------------

N = 5400
FREE, SHUNNED = 0, 3
FAILURES = [
    ("FILE_READ", errno.EIO),
    ("FILE_READ", errno.EINTR),
    ("FILE_READ_SHORT", 1 << 16),
    ("FILE_WRITE", errno.EIO),
    ("FILE_WRITE", errno.ENOSPC),
    ("FILE_WRITE_SHORT", 1 << 16),
    ("FILE_LENGTH", errno.EIO),
    ("FILE_LENGTH", errno.ENOSPC),
    ("FILE_PUNCH", errno.EIO),
]
CASES = [("once", *failure) for failure in FAILURES]
CASES += [(how, *f) for how in ("for ever", "guarded") for f in FAILURES if f[1] == errno.EIO]


class Cleaned:
    """An engine whose pages are in a packed file, with every tenth held when it is to be cleaned:
    some raw, some compressed."""

    def __init__(self, z, file):
        self.z, self.file, self.turn = z, file, 0
        self.pages = np.random.default_rng(0).integers(0, 256, (N, PAGE), np.uint8)
        self.pages[::4, 3600:] = 0
        self.kept = np.arange(0, N, 10)
        self.gone = np.setdiff1d(np.arange(N), self.kept)

    def fill(self):
        """Store all pages, others than the last time, and free most."""
        self.turn += 1
        self.z.store_many(range(N), np.roll(self.pages, self.turn, axis=0))
        assert self.z.shrink(N) == N
        assert self.z.invalidate_many(self.gone) == len(self.gone)

    def clean(self):
        """Tidy until it ends; the bytes that were moved."""
        before = self.file.stats()["moved_bytes"]
        for _ in range(1000):
            if not tidy(self.file):
                return self.file.stats()["moved_bytes"] - before
        pytest.fail("there is no end to it")

    def look(self):
        """Every page, every account, every counter; and the file is as long as it says."""
        check(self.file)
        self.z._validate()
        expected = np.roll(self.pages, self.turn, axis=0)[self.kept]
        assert np.array_equal(self.z.load_many(self.kept), expected)
        stats, of_file = self.z.stats(), self.file.stats()
        assert len(self.z) == stats.backed_pages == len(self.kept)
        assert stats.backing_read_fail == stats.backing_write_fail == 0
        assert stats.backing_checksum_fail == stats.reject_reclaim_fail == 0
        assert of_file["read_failures"] == of_file["write_failures"] == 0
        assert of_file["packed_bytes"] == sum(position(self.file, o)[1] for o in self.kept)
        assert of_file["file_bytes"] == os.stat(self.file.path).st_size

    def within_bound(self):
        """A segment that could not be read holds the file's end up, but there are holes before."""
        states = [state for state, _ in segments(self.file)]
        size = (len(states) - states.count(FREE)) * MIB
        if SHUNNED not in states:
            size = self.file.stats()["file_bytes"]
        most = 1.3 * self.file.stats()["packed_bytes"] + (16 + states.count(SHUNNED)) * MIB
        assert size <= most


@pytest.fixture
def cleaned(request, tmp_path, engine):
    guarded = request.node.callspec.params["how"] == "guarded"
    with SwapFile(tmp_path / "swap", "64MiB", packed=True, io_uring=False, encrypt=guarded) as file:
        z = engine(
            "lz4",
            backing=file,
            shrinker_enabled=False,
            shrinker_interval=86400,  # tidied by nobody else
            promote="never",
            read_ahead=False,
            wipe_on_free=guarded,
        )
        yield Cleaned(z, file)
        disarm()
        z.close()


@pytest.mark.parametrize(("how", "site", "code"), CASES)
def test_failures_at_each_system_call(cleaned, how, site, code):
    """Whichever it is that fails, nothing is lost; and when it works again the file comes within
    its bound.  What takes longer is tried at the first and the last only: a failure that stays, and
    a file that is encrypted and wiped."""
    cleaned.fill()
    arm("POOL", nth=1 << 30)
    assert cleaned.clean()
    counted = hits()[site]
    disarm()
    cleaned.look()
    assert counted >= (1 if site == "FILE_PUNCH" else 4)
    for nth in range(1, counted + 1) if how == "once" else (1, counted):
        cleaned.fill()
        arm(site, nth=nth, times=FOREVER if how == "for ever" else 1, error=code)
        cleaned.clean()
        assert injected().get(site)
        disarm()
        cleaned.look()
        if site.startswith("FILE_WRITE") or site == "FILE_LENGTH":
            assert SHUNNED not in {state for state, _ in segments(cleaned.file)}
        cleaned.clean()
        cleaned.look()
        cleaned.within_bound()
