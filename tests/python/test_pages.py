"""Page sources: what counts as a page of a target, which are chosen, and what is read."""

import json
import mmap
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from zswap import pages
from zswap.pages import SourceError, open_core, open_files, open_process, pagemap, sample

PAGE = mmap.PAGESIZE
MIB = 1 << 20

# A process whose memory is known: `reserved` bytes of address space of which 4 pages in 1024 are
# touched, then one mapping each of zeros that were written, random bytes, text, and pages only ever
# read (they are the kernel's zero page).
CHILD = r"""
import mmap, os, sys
size, reserved = int(sys.argv[1]), int(sys.argv[2])
flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
# nothing goes through buffers that malloc would keep
area = lambda: mmap.mmap(-1, size, flags=flags)
zeros, random, text, shared = area(), area(), area(), mmap.mmap(-1, size)
for at in range(0, size, mmap.PAGESIZE):
    zeros[at] = 0
with open('/dev/urandom', 'rb', buffering=0) as source:
    for area_ in (random, shared):
        view = memoryview(area_)
        while view:
            view = view[source.readinto(view):]
while text.tell() + 43 <= size:
    text.write(b'%07d: all work and no play, a dull page\n' % text.tell())
untouched = area()
for at in range(0, size, mmap.PAGESIZE):
    untouched[at]
sparse = mmap.mmap(-1, reserved, flags=flags)
for at in range(4):
    sparse[reserved // 4 * at] = 1
print('ready', flush=True)
sys.stdin.read()
"""


@pytest.fixture
def child():
    """Starts a process of known memory: returns a function from (bytes a kind, bytes reserved) to
    the process."""
    started = []

    def start(size=4 * MIB, reserved=MIB):
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(size), str(reserved)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        started.append(process)
        assert process.stdout.readline() == b"ready\n"
        return process

    yield start
    for process in started:
        process.stdin.close()
        process.wait()
        process.stdout.close()


# A process with one mapping of each kind, half of it written (all ones); it prints where each lies,
# if it could be made.
KINDS = r"""
import ctypes, fcntl, json, mmap, os, platform, struct, sys
size, folder = 1 << 20, sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
PRIVATE, ANONYMOUS, SHARED, DROPPABLE, HUGETLB = 2, 0x20, 1, 8, 0x40000
made = {}
def area(name, flags=PRIVATE | ANONYMOUS, fd=-1, length=size):
    libc.mmap(None, 1 << 16, 0, PRIVATE | ANONYMOUS, -1, 0)  # none grows together with the next
    at = libc.mmap(None, length, 3, flags, fd, 0)
    if at in (None, ctypes.c_void_p(-1).value):
        return None
    if name not in ('hugetlb', 'hugetlb-shared'):
        libc.madvise(at, length, mmap.MADV_NOHUGEPAGE)
    ctypes.memset(at, 1, length // 2)
    made[name] = at
    return at
def file(path, kind):
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(fd, size)
    os.unlink(path)
    area(kind, PRIVATE, fd)
area('plain')
area('shared', SHARED | ANONYMOUS)
file(folder + '/file', 'file')
if os.path.isdir('/dev/shm'):
    file('/dev/shm/zswap-test-%d' % os.getpid(), 'shm')
fd = os.memfd_create('x')
os.ftruncate(fd, size)
area('memfd', PRIVATE, fd)
at = area('guard')
if libc.madvise(at + size // 2, size // 4, 102):  # MADV_GUARD_INSTALL
    del made['guard']
at = area('locked')
if libc.mlock(at, size):
    del made['locked']
area('droppable', DROPPABLE | ANONYMOUS)
area('hugetlb', PRIVATE | ANONYMOUS | HUGETLB, length=2 << 20)
for name, mode in (('missing', 1), ('protected', 2)):
    at = area(name)
    del made[name]
    uffd = libc.syscall(323, os.O_CLOEXEC | 1) if platform.machine() == 'x86_64' else -1
    try:
        fcntl.ioctl(uffd, 0xC018AA3F, struct.pack('=3Q', 0xAA, 1 << 13 if mode == 2 else 0, 0))
        fcntl.ioctl(uffd, 0xC020AA00, struct.pack('=4Q', at, size, mode, 0))
        if mode == 2:
            fcntl.ioctl(uffd, 0xC018AA06, struct.pack('=3Q', at, size, 1))
        made[name] = at
    except OSError:
        pass
print(json.dumps(made), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def kinds(tmp_path):
    """A process with mappings of many kinds, and where they lie."""
    process = subprocess.Popen(
        [sys.executable, "-c", KINDS, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process, json.loads(process.stdout.readline())
    process.communicate()


def count_kinds(data):
    """Pages of zeros, of incompressible bytes (many values), and of the child's text."""
    zero = ~data.any(axis=1)
    text = np.array([b"all work and no play" in page.tobytes() for page in data])
    random = np.array([np.unique(page).size >= 255 for page in data])
    return int(zero.sum()), int(random.sum()), int(text.sum())


# ---- sampling ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "wanted"),
    [(0, None), (1, 1), (100, None), (100, 100), (100, 500), (100, 7), (10**7, 5000)],
)
def test_sample_is_ascending_and_without_duplicates(total, wanted):
    chunks = list(sample(total, wanted, seed=3, chunk=64))
    assert all(0 < chunk.size <= 64 for chunk in chunks)
    chosen = np.concatenate([*chunks, np.zeros(0, np.int64)])
    assert chosen.size == (total if wanted is None else min(total, wanted))
    assert (np.diff(chosen) > 0).all()
    assert chosen.size == 0 or (chosen[0] >= 0 and chosen[-1] < total)


def test_sample_follows_the_seed():
    def chosen(seed):
        return np.concatenate(list(sample(10_000, 100, seed))).tolist()

    assert chosen(1) == chosen(1) != chosen(2)


def test_sample_is_uniform():
    drawn = np.bincount(
        np.concatenate([c for seed in range(2000) for c in sample(20, 5, seed)]), minlength=20
    )
    # Each of 20 pages is expected 500 times; the standard deviation is below 20.
    assert abs(drawn - 500).max() < 90


# ---- processes -----------------------------------------------------------------------------------


def test_process_pages_are_found_and_read(child):
    process = child(4 * MIB)
    with open_process(process.pid) as source:
        assert source.kind == "process"
        assert str(process.pid) in source.title
        data, kept = source.read(np.arange(len(source)))
        assert kept.tolist() == list(range(len(source)))
        zero, random, text = count_kinds(data)
        # Neither the pages that were only read nor those of the shared mapping are among them.
        each = 4 * MIB // PAGE
        assert each <= random <= each + each // 16
        assert each <= text <= each + each // 16
        assert each <= zero <= each + each // 4


def test_present_pages_are_what_the_kernel_counts(child):
    process = child(4 * MIB)
    with open(f"/proc/{process.pid}/status") as status:
        rss = next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))
    with open_process(process.pid) as source:
        # The kernel counts by batches for each CPU, and the zero page and the vdso are no anonymous
        # memory.
        assert abs(source.nbytes - rss) < 0.02 * rss + 64 * PAGE
        assert source.mapping_pages().sum() == len(source)


def without_scan(monkeypatch):
    """As on a kernel before 6.7, which has no PAGEMAP_SCAN."""
    monkeypatch.setattr(pagemap, "_can_scan", lambda reader: False)


def test_pagemap_words_tell_the_same_as_the_scan(child, monkeypatch):
    process = child(2 * MIB)
    with open_process(process.pid) as source:
        by_scan = source.mapping_pages()
    without_scan(monkeypatch)
    with open_process(process.pid) as source:
        by_words = source.mapping_pages()
        assert source.read(np.arange(len(source)))[1].size == len(source)
    # The words cannot tell the kernel's zero page: 2 MiB of it were read into being.
    assert 0 <= by_words.sum() - by_scan.sum() <= 2 * MIB // PAGE + 16


class WordsReader:
    """A reader whose pagemap is this."""

    def __init__(self, words):
        self.words = words

    def ask(self, letter, numbers):
        assert letter == b"w"
        return self.words[numbers[0] : numbers[0] + numbers[1]].tobytes()


@pytest.mark.parametrize("held", [64, 8, 6, 0])
def test_pagemap_words_are_told_apart(monkeypatch, held):
    monkeypatch.setattr(pagemap, "_PAGEMAP_CHUNK", 8)
    words = np.zeros(64, np.uint64)
    words[10:14] = (1 << 63) | 77  # present
    words[14:16] = 1 << 62  # in swap
    words[20] = (1 << 63) | (1 << 61)  # a page of a file
    words[21] = 1 << 61
    words[22] = (1 << 62) | (1 << 58)  # a guard page
    words[33:35] = 1 << 63  # present; the number of the page frame is hidden from us
    line = f"{8 * PAGE:x}-{64 * PAGE:x} rw-p 00000000 00:00 0 \0 rd wr \0{held}\n"
    areas = pagemap.parse_areas(line.encode(), frozenset())
    runs = pagemap.within(areas, pagemap._read_words(WordsReader(words), areas))
    found = list(zip((runs.offsets // PAGE).tolist(), runs.counts.tolist(), strict=True))
    # With as many found as smaps promised, the rest is not looked at.
    assert found == {64: [(10, 4), (33, 2)], 8: [(10, 4), (33, 2)], 6: [(10, 4)], 0: []}[held]
    assert runs.swapped == (0 if held == 0 else 2)


def pages_within(source, at, size):
    """Pages of a source that lie in a range of addresses."""
    ends = source._offsets + source._counts * PAGE
    return (
        int((np.minimum(ends, at + size) - np.maximum(source._offsets, at)).clip(min=0).sum())
        // PAGE
    )


#: Of each kind: whether what was written counts, and otherwise why not.
COUNTED = ("plain", "file", "shm", "memfd", "guard")
REASON = {
    "locked": "locked",
    "droppable": "droppable",
    "hugetlb": "hugetlb",
    "missing": "userfaultfd",
    "protected": "userfaultfd",
}


@pytest.mark.parametrize("scan", [True, False])
def test_kernel_says_what_counts(kinds, monkeypatch, scan):
    process, made = kinds
    if not scan:
        without_scan(monkeypatch)
    with open("/proc/meminfo") as meminfo, open(f"/proc/{process.pid}/status") as status:
        swap_is_used = "SwapTotal:             0 kB" not in meminfo.read()
        swapped = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmSwap"))
    with open_process(process.pid) as source:
        assert {"plain", "shared", "file", "memfd"} <= made.keys()
        half = (1 << 19) // PAGE
        for kind, at in made.items():
            assert pages_within(source, at, 1 << 20) == (half if kind in COUNTED else 0), kind
        if not swap_is_used:  # guard pages and what userfaultfd has marked are not in it
            assert source.swapped_pages == swapped == 0
        expected = dict.fromkeys((REASON[kind] for kind in made if kind in REASON), 0)
        for kind in made.keys() & REASON.keys():
            expected[REASON[kind]] += (2 << 20) if kind == "hugetlb" else 1 << 19
        assert {why: nbytes for why, nbytes in source.left_out.items() if why != "droppable"} == {
            why: nbytes for why, nbytes in expected.items() if why != "droppable"
        } | ({"locked": 1 << 20} if "locked" in made else {})
        assert source.left_out.get("droppable", 0) >= expected.get("droppable", 0)
        assert source.shared_bytes >= 1 << 19
        read = source.read(np.arange(len(source)))[1]
        assert read.size == len(source)


def test_process_whose_first_thread_has_ended_is_read():
    code = """
import ctypes, sys, threading
def stay():
    memory = bytearray(b'x' * (8 << 20))
    print('ready', flush=True)
    sys.stdin.read()
    import os; os._exit(0)
threading.Thread(target=stay).start()
# exit, of this thread only
ctypes.CDLL(None).syscall({'x86_64': 60}.get(__import__('platform').machine(), 93), 0)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"ready\n"
        while not pages.process._status(f"/proc/{process.pid}")[b"State"].startswith(b"Z"):
            pass
        thread = max(map(int, os.listdir(f"/proc/{process.pid}/task")))
        assert any(p.pid == process.pid and p.rss_anon > 8 * MIB for p in pages.processes())
        for number in (process.pid, thread):
            with open_process(number) as source:
                assert source.pid == process.pid
                assert source.nbytes > 8 * MIB
                assert source.read(np.arange(len(source)))[1].size == len(source)
    finally:
        process.communicate()


def test_zombie_and_kernel_thread_are_told_apart(child):
    process = child(PAGE)
    process.stdin.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(SourceError, match="has ended; its parent"):
        open_process(process.pid)
    if os.path.exists("/proc/2/exe") or os.getuid():
        return  # a container: process 2 is no kernel thread
    with pytest.raises(SourceError, match="kernel thread"):
        open_process(2)


def test_pages_that_went_away_are_not_brought_back(kinds):
    process, made = kinds
    with open_process(process.pid) as source:
        reader = source._reader
        # never touched there: reading would bring the page of the file in
        at = made["memfd"] + (1 << 19)
        before = Path(f"/proc/{process.pid}/statm").read_text()
        source._offsets = np.array([at])
        source._counts = np.array([4])
        source._ends = np.array([4])
        source._path_index = np.array([0])
        assert source.read(np.arange(4))[1].size == 0
        assert Path(f"/proc/{process.pid}/statm").read_text() == before
        assert reader.ask(b"c", [process.pid])


def test_reader_that_hangs_is_left_behind(child, monkeypatch):
    process = child(PAGE)
    monkeypatch.setattr(pages.process, "READ_LIMIT", 0.05)
    with open_process(process.pid) as source:
        reader = source._reader._child
        reader.send_signal(signal.SIGSTOP)
        with pytest.raises(
            SourceError, match=f"process {process.pid} cannot be read: it waits"
        ) as caught:
            source.read(np.arange(1))
        assert "\n" not in str(caught.value)
        assert reader.poll() is not None
        with pytest.raises(ValueError, match="closed"):
            source.read(np.arange(1))


def test_reader_that_was_killed_is_told(child):
    process = child(PAGE)
    with open_process(process.pid) as source:
        source._reader._child.kill()
        source._reader._child.wait()
        with pytest.raises(SourceError, match="reader of process"):
            source.read(np.arange(1))


def test_without_an_interpreter_a_copy_of_ourselves_reads(child, monkeypatch):
    process = child(PAGE)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with open_process(process.pid) as source:
        copy = source._reader._child
        assert isinstance(copy, pages.watch._Forked)
        assert source.read(np.arange(len(source)))[1].size == len(source)
    with pytest.raises(ChildProcessError):
        os.waitpid(copy.pid, 0)


@pytest.mark.parametrize("scan", [True, False])
def test_huge_sparse_mappings_cost_little(child, monkeypatch, scan):
    process = child(PAGE, reserved=100 << 30)
    if not scan:
        without_scan(monkeypatch)
    with open_process(process.pid) as source:
        assert len(source) < 20_000
        runs = source._counts[source._offsets >= 0]
        assert runs.size < 5_000


def test_vanished_pages_are_left_out_and_counted(child):
    process = child(PAGE)
    with open_process(process.pid) as real:
        first, count, *_ = real._offsets[0], int(real._counts[0])
        # Claim pages behind the end of the address space of the process: nothing is there.
        source = pages.process.ProcessPages(
            reader=real._reader, kind="process", title="t", paths=real.paths, path_index=[0, 0, 0],
            offsets=[first, 0x1000, first], counts=[count, 3, count], mapping_index=[0, 1, 0],
            mappings=["a", "gone"],
            page_size=PAGE, pid=process.pid,
        )  # fmt: skip
        data, kept = source.read(np.arange(len(source)))
        assert kept.tolist() == [*range(count), *range(count + 3, 2 * count + 3)]
        assert (data[:count] == data[count:]).all()


def test_process_that_ends_is_said_to_have_ended(child):
    process = child(PAGE)
    with open_process(process.pid) as source:
        source.read(np.arange(1))
        process.kill()
        process.wait()
        with pytest.raises(SourceError, match=f"process {process.pid} ended"):
            source.read(np.arange(len(source)))
    with pytest.raises(SourceError, match=f"no process {process.pid}"):
        open_process(process.pid)


def test_largest_process_skips_ourselves_and_the_unreadable(child):
    process = child(PAGE)
    listed = {p.pid: p for p in pages.processes()}
    assert listed[process.pid].rss_anon > PAGE
    assert "python" in listed[process.pid].name
    gone = pages.Process(2**22 + 1, "gone", 10**12)
    assert (
        pages.largest_process([gone, listed[os.getpid()], listed[process.pid]]).pid == process.pid
    )
    with pytest.raises(SourceError, match="--pid"):
        pages.largest_process([gone])


def area_line(
    permissions="rw-p", device="00:00", inode=0, name="", flags="rd wr mr mw me ac sd", start=PAGE
):
    line = f"{start:x}-{start + PAGE:x} {permissions} 00000000 {device} {inode} {name}"
    return f"{line}\0 {flags} \x000\n".encode()


def test_mappings_are_parsed():
    line = (
        b"7f0000000000-7f0000021000 rw-p 00000000 00:00 0                          "
        b"[heap]\0 rd wr \x003\n"
    )
    areas = pagemap.parse_areas(line, frozenset())
    assert (areas.ends - areas.starts).tolist() == [0x21000]
    assert (areas.names, areas.held.tolist()) == (["[heap]"], [3])
    for name, shown in [
        ("", "[anon]"), ("/tmp/a file (deleted)", "/tmp/a file (deleted)"),
        ("/tmp/\x1b[31m", "/tmp/?[31m"),
    ]:  # fmt: skip
        assert pagemap.parse_areas(area_line(name=name), frozenset()).names == [shown]
    assert not pagemap.parse_areas(
        area_line(start=0xFFFFFFFFFF600000), frozenset()
    ).names  # [vsyscall]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({}, ""),
        ({"name": "[vvar]", "flags": "rd mr pf io de dd"}, "device"),
        ({"permissions": "rw-s"}, "shared"),
        ({"permissions": "rw-s", "flags": "rd wr sh mr mw me ms de ht"}, "hugetlb"),
        ({"flags": "rd wr mr mw me de ht"}, "hugetlb"),
        ({"flags": "rd wr mr mw me lo ac"}, "locked"),
        ({"flags": "rd wr mr mw me nr wf dd dp"}, "droppable"),
        ({"flags": "rd wr mr mw me um ac"}, "userfaultfd"),
        ({"flags": "rd wr mr mw me uw ac"}, "userfaultfd"),
        ({"device": "08:01", "inode": 7, "name": "/lib/libc.so.6"}, ""),
        ({"device": "00:17", "inode": 7, "name": "/dev/shm/snapshot"}, ""),
        ({"device": "00:31", "inode": 7, "name": "/dev/shm/fuse"}, "remote"),
    ],
)
def test_flags_and_devices_decide_not_names(line, reason):
    areas = pagemap.parse_areas(area_line(**line), frozenset([b"00:17"]))
    assert pagemap.REASONS[areas.reasons[0]] == reason


def test_local_file_systems_are_known_by_mountinfo():
    ours = b"""\
22 27 0:21 / /proc rw,relatime - proc proc rw
24 27 0:6 / /dev rw,relatime - devtmpfs devtmpfs rw,size=12334432k
25 24 0:23 / /dev/shm rw,relatime shared:3 - tmpfs tmpfs rw
30 27 0:44 / /containers/merged rw - overlay overlay rw,lowerdir=/l
31 27 8:1 / / rw - ext4 /dev/sda1 rw
32 27 0:55 / /home/u/mnt rw - fuse.sshfs u@h: rw
"""
    theirs = b"""\
40 27 0:60 / /tmp rw - tmpfs tmpfs rw
41 27 0:61 / /over rw - overlay overlay rw,lowerdir=/home/u/mnt
42 27 0:62 / /net rw - nfs4 host:/x rw
nonsense
"""
    own = os.fstat(os.memfd_create("x")).st_dev
    internal = b"%02x:%02x" % (os.major(own), os.minor(own))
    assert pagemap.local_devices(ours, theirs) == {b"00:06", b"00:17", b"00:2c", b"00:3c", internal}


# ---- files ---------------------------------------------------------------------------------------


def numbered(count, first=0):
    """Pages that carry their number."""
    data = np.zeros((count, PAGE // 8), np.uint64)
    data[:] = np.arange(first, first + count)[:, None]
    return data.view(np.uint8)


def test_files_are_read_in_order(tmp_path):
    for name, count, first in (("a", 3, 0), ("b", 5, 3), ("c", 1, 8)):
        (tmp_path / name).write_bytes(numbered(count, first).tobytes())
    with open_files([tmp_path / name for name in "abc"]) as source:
        assert len(source) == 9
        assert source.mapping_pages().tolist() == [3, 5, 1]
        data, kept = source.read(np.arange(9))
        assert (data == numbered(9)).all()
        wanted = np.array([1, 2, 3, 6, 8])
        data, kept = source.read(wanted)
        assert (data == numbered(9)[wanted]).all()
        assert kept.tolist() == wanted.tolist()
        assert source.mapping_of(wanted).tolist() == [0, 0, 1, 1, 2]


def test_last_page_is_filled_up_with_zeros_and_that_is_told(tmp_path):
    (tmp_path / "odd").write_bytes(numbered(2, 1).tobytes() + b"rest")
    (tmp_path / "tiny").write_bytes(b"x")
    with open_files([tmp_path / "odd", tmp_path / "tiny"]) as source:
        assert source.notes == [
            f"The last pages of 2 files are filled up with zeros ({2 * PAGE - 5:,} bytes)."
        ]
        data = source.read(np.arange(4))[0]
        assert data.tobytes() == numbered(2, 1).tobytes() + b"rest".ljust(PAGE, b"\0") + b"x".ljust(
            PAGE, b"\0"
        )
        assert source.read(np.array([2]))[0].tobytes() == b"rest".ljust(PAGE, b"\0")
    with open_files([tmp_path / "tiny"]) as source:
        assert source.notes == [
            f"The last page of {tmp_path}/tiny is filled up with zeros ({PAGE - 1:,} bytes)."
        ]
    assert (tmp_path / "odd").stat().st_size == 2 * PAGE + 4


def test_file_that_shrinks_is_noticed(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(bytes(8 * PAGE))
    with open_files([path]) as source:
        os.truncate(path, 3 * PAGE + 5)
        with pytest.raises(SourceError, match="became shorter"):
            source.read(np.arange(8))


def test_wrong_files_are_refused_by_name(tmp_path):
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    for name, said in [
        ("missing", "no such file"), ("empty", "is empty"), (".", "directory"), ("pipe", "regular"),
    ]:  # fmt: skip
        with pytest.raises(SourceError, match=said) as caught:
            open_files([tmp_path / name])
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_capture_writes_what_is_read(tmp_path):
    (tmp_path / "in").write_bytes(numbered(100).tobytes())
    with open_files([tmp_path / "in"]) as source:
        assert pages.capture(source, tmp_path / "out", pages=10, seed=1) == (10, 0)
    wanted = next(sample(100, 10, 1))
    assert (tmp_path / "out").read_bytes() == numbered(100)[wanted].tobytes()
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]


# ---- core dumps ----------------------------------------------------------------------------------


def make_core(
    path,
    segments,
    *,
    order="<",
    wide=True,
    files=(),
    command=b"",
    kind=4,
    cut=None,
    phentsize=None,
    extended=False,
):
    """Write an ELF core dump.

    `segments` are (address, bytes, size in memory); `files` become its NT_FILE note.
    """
    ehdr = struct.Struct(order + "16s" + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"))
    phdr = struct.Struct(order + ("IIQQQQQQ" if wide else "IIIIIIII"))
    word = "Q" if wide else "I"

    def note(number, data):
        return (
            struct.pack(order + "III", 5, len(data), number)
            + b"CORE\0\0\0\0"
            + data
            + bytes(-len(data) % 4)
        )

    notes = b""
    if command:
        notes += note(3, bytes(40) + command[:15].ljust(16, b"\0") + command.ljust(80, b"\0"))
    if files:
        body = struct.pack(order + 2 * word, len(files), PAGE)
        body += b"".join(struct.pack(order + 3 * word, start, end, 0) for start, end, _ in files)
        notes += note(0x46494C45, body + b"".join(name.encode() + b"\0" for _, _, name in files))
    count = len(segments) + bool(notes)
    table = ehdr.size
    at = table + count * phdr.size + (64 if extended else 0)
    headers, data = [], b""

    def header(type_, address, blob, memory):
        nonlocal at, data
        pad = -(at + len(data)) % PAGE if type_ == 1 else 0
        data += bytes(pad)
        offset = at + len(data)
        data += blob
        fields = (
            (type_, 6, offset, address, 0, len(blob), memory, PAGE)
            if wide
            else (type_, offset, address, 0, len(blob), memory, 6, PAGE)
        )
        headers.append(phdr.pack(*fields))

    if notes:
        header(4, 0, notes, 0)
    for address, blob, memory in segments:
        header(1, address, blob, memory)
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    section_at = table + count * phdr.size
    number = 0xFFFF if extended else count
    core = ehdr.pack(
        ident,
        kind,
        62,
        1,
        0,
        table,
        section_at if extended else 0,
        0,
        ehdr.size,
        phentsize or phdr.size,
        number,
        64,
        1,
        0,
    )
    core += b"".join(headers)
    if extended:
        core += struct.pack(order + "IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, count, 0, 0)
    path.write_bytes((core + data)[:cut])


@pytest.mark.parametrize(("order", "wide"), [("<", True), (">", True), ("<", False)])
def test_core_is_read(tmp_path, order, wide):
    core = tmp_path / "core"
    base = 0x40000000
    segments = [
        (base, numbered(3, 1).tobytes(), 3 * PAGE),
        (base + 16 * PAGE, b"", 8 * PAGE),  # not dumped
        (base + 32 * PAGE, numbered(2, 4).tobytes(), 4 * PAGE),
    ]
    files = [(base + 32 * PAGE, base + 40 * PAGE, "/lib/libx.so")]
    make_core(
        core, segments, order=order, wide=wide, files=files, command=b"some program --with args"
    )
    with open_core(core) as source:
        assert len(source) == 5
        assert (source.read(np.arange(5))[0] == numbered(5, 1)).all()
        assert source.command == "some program --with args"
        assert dict(zip(source.mappings, source.mapping_pages().tolist(), strict=True)) == {
            "[anon]": 3,
            "/lib/libx.so": 2,
        }


def test_core_with_more_segments_than_16_bits_hold_is_read(tmp_path):
    make_core(tmp_path / "core", [(PAGE, numbered(2, 1).tobytes(), 2 * PAGE)], extended=True)
    with open_core(tmp_path / "core") as source:
        assert len(source) == 2


def test_core_holes_are_left_out(tmp_path):
    core = tmp_path / "core"
    make_core(core, [(PAGE, bytes(64 * PAGE), 64 * PAGE)])
    at = core.stat().st_size - 64 * PAGE
    os.truncate(core, at)
    os.truncate(core, at + 64 * PAGE)
    with open(core, "r+b") as file:
        for page in (0, 40, 41):
            file.seek(at + page * PAGE)
            file.write(numbered(1, page + 7).tobytes())
    with open_core(core) as source:
        if not source.hole_pages:
            pytest.skip("this file system keeps no holes")
        assert len(source) + source.hole_pages == 64
        found = source.read(np.arange(len(source)))[0].view(np.uint64)[:, 0].tolist()
        assert [number for number in found if number] == [7, 47, 48]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cut": 10}, "ELF header"),
        ({"cut": 40}, "ELF header"),
        ({"cut": 90}, "program headers"),
        ({"cut": 6000}, "segment 0"),
        ({"kind": 2}, "type is 2"),
        ({"phentsize": 57}, "57 bytes"),
        ({"segments": []}, "no program headers"),
        ({"segments": [(PAGE, b"", PAGE)]}, "no memory"),
        ({"segments": [(PAGE, bytes(PAGE), 1)]}, "segment 0"),
        ({"segments": [(PAGE + 8, bytes(PAGE), PAGE)]}, "not made of pages"),
        ({"segments": [(PAGE, bytes(PAGE + 8), 2 * PAGE)]}, "not made of pages"),
    ],
)
def test_damaged_core_is_refused(tmp_path, change, said):
    core = tmp_path / "core"
    make_core(core, **({"segments": [(PAGE, numbered(2, 1).tobytes(), 2 * PAGE)]} | change))
    with pytest.raises(SourceError, match=said) as caught:
        open_core(core)
    assert str(core) in str(caught.value)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\x7fELF",
        b"MZ" + bytes(200),
        b"\x7fELF\x07\x01\x01" + bytes(200),
        b"\x28\xb5\x2f\xfd" * 99,
    ],
)
def test_what_is_no_core_is_refused(tmp_path, head):
    (tmp_path / "core").write_bytes(head)
    with pytest.raises(SourceError):
        open_core(tmp_path / "core")


@pytest.mark.slow
def test_every_byte_of_the_headers_may_be_damaged(tmp_path):
    core = tmp_path / "core"
    make_core(
        core,
        [(PAGE, numbered(2, 1).tobytes(), 2 * PAGE)],
        files=[(PAGE, 3 * PAGE, "/lib/x")],
        command=b"x",
    )
    good = core.read_bytes()
    for at in range(64 + 2 * 56 + 300):
        for value in (0x00, 0xFF, good[at] ^ 0x40):
            core.write_bytes(good[:at] + bytes([value]) + good[at + 1 :])
            try:  # either it is refused, or it reads what it promised
                with open_core(core) as source:
                    assert source.read(np.arange(len(source)))[1].size == len(source)
            except SourceError:
                pass


def test_bytes_that_several_segments_name_are_read_once(tmp_path):
    core = tmp_path / "core"
    make_core(
        core,
        [
            (PAGE, numbered(2, 1).tobytes(), 2 * PAGE),
            (16 * PAGE, numbered(2, 3).tobytes(), 2 * PAGE),
        ],
    )
    data = bytearray(core.read_bytes())
    first = struct.unpack_from("<Q", data, 64 + 8)[0]
    # the second says that it lies where the first does
    struct.pack_into("<Q", data, 64 + 56 + 8, first)
    core.write_bytes(data)
    with open_core(core) as source:
        assert source.read(np.arange(len(source)))[0].tobytes() == numbered(2, 1).tobytes()
        assert source.notes == ["1 segments are left out: others have the same bytes of the file."]
        assert pages.capture(source, tmp_path / "out") == (2, 0)


def hostile_core(path, entries, headers, size, table=64, sections=0):
    """A core of `entries` program headers, of which these are written, in a file of `size` bytes
    that are holes else."""
    with open(path, "wb") as file:
        file.write(b"\x7fELF\x02\x01\x01" + bytes(9))
        count = min(entries, 0xFFFF)
        file.write(
            struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, table, sections, 0, 64, 56, count, 64, 0, 0)
        )
        file.seek(table)
        for type_, offset, address, nbytes in headers:
            file.write(struct.pack("<IIQQQQQQ", type_, 4, offset, address, 0, nbytes, nbytes, PAGE))
        if sections:
            file.seek(sections)
            file.write(struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, entries, 0, 0))
        file.truncate(size)


def test_table_of_a_core_is_bounded(tmp_path):
    entries = 40_000_000
    hostile_core(tmp_path / "core", entries, [], 8192 + 56 * entries, table=8192, sections=4096)
    with pytest.raises(SourceError, match="40,000,000 program headers"):
        open_core(tmp_path / "core")


def test_notes_of_a_core_are_bounded_in_all(tmp_path, monkeypatch):
    monkeypatch.setattr(pages.cores, "_MOST_NOTES", 1000)
    # holes: more than a thousand notes of 12 bytes each, without names and contents
    at, each = (
        1 << 20,
        16 << 10,
    )
    headers = [(4, at, 0, each), (4, at + each, 0, each), (1, at + 3 * each, PAGE, PAGE)]
    hostile_core(tmp_path / "core", 3, headers, at + 3 * each + PAGE)
    late = struct.pack("<III", 0, 136, 3) + bytes(40 + 16) + b"late".ljust(80, b"\0")
    with open(tmp_path / "core", "r+b") as file:
        file.seek(at + each)
        file.write(late)
        file.seek(at + 3 * each)
        file.write(numbered(1, 1).tobytes())
    with open_core(tmp_path / "core") as source:
        assert source.command is None
    monkeypatch.setattr(pages.cores, "_MOST_NOTES", 2000)
    with open_core(tmp_path / "core") as source:
        assert source.command == "late"
