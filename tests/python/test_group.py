"""Several processes as one target: shared pages once, processes that end, and which are meant."""

import json
import mmap
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from zswap import pages
from zswap.__main__ import main
from zswap.analyze import analyze
from zswap.measure import measure
from zswap.pages import select
from zswap.pages.source import SourceError

PAGE = mmap.PAGESIZE
MIB = 1 << 20
#: A process with memory of random bytes that all its children share, and as many children as told.
FAMILY = """
import mmap, os, sys
size, children = map(int, sys.argv[1:])
area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.write(os.urandom(size))
pids = []
for _ in range(children):
    pid = os.fork()
    if not pid:
        sys.stdin.read()
        os._exit(0)
    pids.append(pid)
print(*pids, flush=True)
sys.stdin.read()
"""


@contextmanager
def family(size=8 * MIB, children=3):
    """The pids of a parent and its children."""
    with subprocess.Popen(
        [sys.executable, "-c", FAMILY, str(size), str(children)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield [process.pid, *map(int, process.stdout.readline().split())]
        finally:
            process.stdin.close()


def amount(pid, key):
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))


def test_pages_shared_since_a_fork_count_once():
    if not os.path.exists("/proc/self/smaps_rollup"):
        pytest.skip("this kernel does not tell what processes share")
    with family() as pids, pages.open_processes(pids) as source:
        alone = sum(amount(pid, "Pss_Anon") for pid in pids)
        each = sum(amount(pid, "Anonymous") for pid in pids)
        assert each > 4 * 8 * MIB
        assert alone < each / 2
        assert source.population * PAGE == pytest.approx(alone, rel=0.05)
        assert len(source) * PAGE == pytest.approx(each, rel=0.05)
        found = analyze(source, compressors=["lz4"], pages=None)
        assert found.vanished_pages <= 0.01 * found.total_pages
    # the sample has as much of the random pages, which are raw, as there is once
    result = found.compressor("lz4")
    assert result.pages * PAGE == pytest.approx(alone, rel=0.05)
    assert result.raw_pages * PAGE == pytest.approx(8 * MIB, rel=0.08)
    parts = found.by_process("lz4", "zsmalloc-kernel")
    assert sorted(pid for part in parts for pid in part.pids) == sorted(pids)
    assert sum(part.target_bytes for part in parts) == found.target_bytes
    assert sum(part.estimate.saved_bytes for part in parts) == pytest.approx(
        found.estimate("lz4", "zsmalloc-kernel").saved_bytes, abs=0.03 * found.target_bytes
    )
    (cgroup,) = found.by_cgroup("lz4", "zsmalloc-kernel")
    assert sorted(cgroup.pids) == sorted(pids)
    assert cgroup.name.startswith("/")


def test_a_slow_compressor_has_totals_by_process_too(monkeypatch):
    with family(MIB, 1) as pids, pages.open_processes(pids) as source:
        found = analyze(source, compressors=["lz4", "zstd:3"], pages=None)
    parts = [one.results for one in found.parts]
    for results in parts:
        del results["zstd:3"]  # as if it had been too slow
    by = found.by_process("zstd:3", "zsmalloc-kernel")
    assert sum(p.estimate.saved_bytes for p in by) == pytest.approx(
        found.estimate("zstd:3", "zsmalloc-kernel").saved_bytes, abs=0.03 * found.target_bytes
    )


def test_a_process_that_ends_meanwhile_is_left_out_and_counted():
    with family(MIB, 2) as pids, pages.open_processes(pids) as source:
        whole = len(source)
        gone = source.parts[-1]
        os.kill(gone.pid, signal.SIGKILL)
        while Path(f"/proc/{gone.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            pass  # its parent takes no note of it: only the memory goes
        found = measure(source, ["lz4"], None, 0, None)
        assert found.vanished == gone.pages
        assert found.results[0].pages + source.passed_over == whole - gone.pages


def test_a_number_that_is_another_process_by_now_is_not_read():
    with family(MIB, 1) as pids, pages.open_processes(pids) as source:
        source._started = [b"1", *source._started[1:]]
        kept = source.read(np.arange(len(source)))[1]
        assert set(source.part_of(kept).tolist()) == {1}


def test_those_that_cannot_be_read_are_told_of_a_set_and_refused_by_number():
    with family(MIB, 1) as pids:
        dead = subprocess.Popen(["true"])
        dead.wait()
        with pages.open_processes([*pids, dead.pid], lenient=True) as source:
            assert [part.pid for part in source.parts] == pids
            assert source.notes == ["1 process left out: ended meanwhile."]
        with pytest.raises(SourceError, match=f"no process {dead.pid}"):
            pages.open_processes([*pids, dead.pid])
        with pytest.raises(SourceError, match="none of these processes"):
            pages.open_processes([dead.pid], lenient=True)


def test_a_process_that_makes_the_reader_wait_is_left_behind(monkeypatch):
    blocked = pages.watch.Blocked("it waits")
    with family(MIB, 2) as pids:

        def look(reader, pid, real=pages.group.look):
            if pid == pids[1]:
                reader.close()  # as `Reader.ask` does
                raise blocked
            return real(reader, pid)

        monkeypatch.setattr(pages.group, "look", look)
        with pages.open_processes(pids, lenient=True) as source:
            assert [part.pid for part in source.parts] == [pids[0], pids[2]]
            assert "would wait" in source.notes[0]
            assert source.read(np.arange(4))[1].size + source.passed_over == 4


# ---- which are meant -----------------------------------------------------------------------------

CGROUPS = {
    1: "/init.scope",
    2: "/system.slice/postgresql.service",
    3: "/system.slice/system-postgresql.slice/postgresql@15-main.service",
    4: "/system.slice/docker-0123456789abcdef0123456789abcdef.scope",
    5: "/kubepods.slice/kubepods-pod1.slice/cri-containerd-fedcba9876543210fedcba9876543210.scope",
    6: "/docker/0123456789ab0123456789ab/inner",
    7: "/lxc.payload.web/init.scope",
    8: "/machine.slice/libpod-00112233445566778899aabbccddeeff.scope",
    9: "/user.slice/user-1000.slice/session-2.scope",
}


@pytest.fixture
def planted(monkeypatch):
    listed = [pages.Process(pid, "x", 1 << 20) for pid in CGROUPS]
    monkeypatch.setattr(select, "processes", lambda: listed)
    monkeypatch.setattr(select, "cgroups_of", lambda pid: ("/elsewhere", CGROUPS[pid]))


@pytest.mark.parametrize(
    ("find", "name", "expected"),
    [
        ("in_unit", "postgresql", [2]),
        ("in_unit", "postgresql@15-main.service", [3]),
        ("in_unit", "system.slice", [2, 3, 4]),
        ("in_unit", "session-2", [9]),
        ("in_container", "0123", [4, 6]),
        ("in_container", "0123456789abcdef0", [4]),
        ("in_container", "fedcba98", [5]),
        ("in_container", "web", [7]),
        ("in_container", "0011", [8]),
        ("in_cgroup", "/system.slice", [2, 3, 4]),
        ("in_cgroup", "system.slice/postgresql.service/", [2]),
        ("in_cgroup", "/docker", [6]),
        ("in_cgroup", "/", list(CGROUPS)),
    ],
)
def test_processes_are_found_by_cgroup(planted, find, name, expected):
    assert getattr(select, find)(name) == expected


@pytest.mark.parametrize(
    ("find", "name"),
    [
        ("in_unit", "postgres"),
        ("in_container", "012"),
        ("in_container", "x"),
        ("in_cgroup", "/sys"),
    ],
)
def test_what_matches_nothing_is_refused_by_name(planted, find, name):
    with pytest.raises(SourceError, match=name):
        getattr(select, find)(name)


def test_where_cgroups_are_mounted_is_no_part_of_their_path(planted):
    version_2 = os.path.exists("/sys/fs/cgroup/cgroup.procs")
    path = "/sys/fs/cgroup/" + ("" if version_2 else "memory/") + "docker"
    assert select.in_cgroup(path) == [6]


def test_a_tree_is_a_process_and_what_it_started():
    with family(MIB, 2) as pids:
        assert sorted(select.tree(pids[0])) == sorted(pids)
        assert select.tree(pids[1]) == [pids[1]]
        assert set(pids) < set(select.everything())
        assert os.getpid() not in select.everything()
    with pytest.raises(SourceError, match="no process 2147483647"):
        select.tree((1 << 31) - 1)


def test_the_memory_controllers_cgroup_comes_first(monkeypatch, tmp_path):
    found = pages.group.cgroups_of(os.getpid())
    assert found
    assert all(path.startswith("/") for path in found)


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_a_tree_is_analyzed_with_totals(capsys):
    with family(2 * MIB, 2) as pids:
        options = ("--tree", pids[0], "--compressor", "lz4")
        code, out, err = run(capsys, "analyze", *options, "--json")
        assert (code, err) == (0, "")
        found = json.loads(out)
        assert sorted(found["target"]["pids"]) == sorted(pids)
        assert found["target"]["title"] == f"3 processes from {pids[0]}"
        listed = [pid for process in found["processes"] for pid in process["pids"]]
        assert sorted(listed) == sorted(pids)
        assert sum(p["bytes"] for p in found["processes"]) == found["target"]["bytes"]
        assert len(found["cgroups"]) == 1
        out = run(capsys, "analyze", *options)[1]
        assert f"3 processes from {pids[0]}: " in out
        assert "process " in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--all", "--pid", "1"], "--all is every process"),
        (["--tree", "1", "--file", "x"], "exclude each other"),
        (["--name", "no-such-program"], "'no-such-program'"),
        (["--unit", "no-such-unit"], "'no-such-unit'"),
        (["--container", "no-such"], "'no-such'"),
        (["--cgroup", "/no/such"], "/no/such"),
        (["--tree", "0"], "--tree"),
        (["--tree", "x"], "--tree"),
    ],
)
def test_wrong_targets_are_told_in_one_line(capsys, arguments, said):
    code, out, err = run(capsys, "analyze", *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
