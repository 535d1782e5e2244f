"""What is touched and what lies idle: programs whose pattern is known."""

import json
import mmap
import os
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest

from zswap import pages
from zswap.__main__ import main
from zswap.analyze import analyze
from zswap.pages import SourceError, touched

PAGE = mmap.PAGESIZE
MIB = 1 << 20
#: Text that is touched whenever it is told to, random bytes that never are; no huge pages.
PROGRAM = """
import mmap, os, sys
hot, cold, readers = map(int, sys.argv[1:])
def area(size):
    found = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    found.madvise(mmap.MADV_NOHUGEPAGE)
    return found
text, noise = area(hot), area(cold)
noise.madvise(mmap.MADV_DONTDUMP)  # else both could become one mapping
for at in range(0, hot, mmap.PAGESIZE):
    text[at : at + mmap.PAGESIZE] = (b"%d bottles " % at * 512)[: mmap.PAGESIZE]
noise[:] = os.urandom(cold)
print('ready', flush=True)
for line in sys.stdin:
    for at in range(0, hot, mmap.PAGESIZE):
        if readers:
            text[at]
        else:
            text[at] = 65
    print('done', flush=True)
"""

pytestmark = pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="the kernel tells nothing of this"
)


class Pattern:
    """The program; called, it touches its hot part once."""

    def __init__(self, process):
        self.process = process
        self.pid = process.pid

    def __call__(self, seconds=0.0):
        self.process.stdin.write("again\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"


@contextmanager
def pattern(hot, cold, readers=1):
    command = [sys.executable, "-c", PROGRAM, str(hot), str(cold), str(readers)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        try:
            yield Pattern(process)
        finally:
            process.stdin.close()


def opened(*patterns):
    return pages.open_processes([each.pid for each in patterns], lenient=True)


@pytest.mark.slow
@pytest.mark.parametrize(("hot", "cold"), [(24, 8), (16, 16), (4, 28)])
@pytest.mark.parametrize("readers", [0, 1])
def test_the_cold_share_is_within_5_points(hot, cold, readers):
    with pattern(hot * MIB, cold * MIB, readers) as touch, opened(touch) as source:
        found = pages.watch_memory(source, 0.02, sleep=touch)
        total = len(source) * PAGE
    # Python's own memory is a few MiB beside, touched in part
    known = cold * MIB / total, 1 - hot * MIB / total
    share = found.cold_pages / (found.cold_pages + found.touched_pages)
    assert known[0] - 0.05 <= share <= known[1] + 0.05
    assert found.cold_pages + found.touched_pages == source.population
    assert found.untouched == sorted(found.untouched, reverse=True)
    assert found.untouched[-1] == pytest.approx(share, abs=0.001)


def test_what_is_cold_is_measured_apart():
    with pattern(16 * MIB, 16 * MIB) as touch, opened(touch) as source:
        source.touched = pages.watch_memory(source, 0.02, sleep=touch)
        found = analyze(source, compressors=["lz4"], pages=4000)
    cold, touched = found.by_heat("lz4", "zsmalloc-kernel")
    assert (cold.name, touched.name) == ("cold", "touched")
    assert cold.target_bytes + touched.target_bytes == found.target_bytes
    assert cold.estimate.saved < 0.25  # noise, and some of Python's own
    assert touched.estimate.saved > 0.8  # text
    assert cold.sampled_pages + touched.sampled_pages == found.sampled_pages


def test_one_process_alone_is_watched_too():
    with pattern(8 * MIB, 8 * MIB) as touch, pages.open_process(touch.pid) as source:
        found = pages.watch_memory(source, 0.02, sleep=touch)
        assert 0.3 < found.untouched[-1] < 0.75
        cold = found.is_cold(*source.places(np.arange(len(source))))
        assert cold.mean() == pytest.approx(found.untouched[-1], abs=0.05)


def test_what_comes_back_is_a_rate(monkeypatch):
    """Half is touched in the second half of the time, and that is how much a second comes back."""
    now = [0.0]
    monkeypatch.setattr(touched.time, "monotonic", lambda: now[0])
    with pattern(16 * MIB, 4 * MIB) as touch, pages.open_process(touch.pid) as source:

        def late(seconds):
            now[0] += seconds
            if now[0] > 0.5:
                touch()

        # the reader's own deadlines go by the same clock, which stands still meanwhile
        found = pages.watch_memory(source, 0.8, sleep=late)
        moved = found.untouched[-2] - found.untouched[-1]
        assert moved > 0.5
        assert found.seconds == pytest.approx([0.1, 0.2, 0.4, 0.8])
        assert found.back_per_second == pytest.approx(moved * source.population / 0.4)


def test_a_process_that_ends_while_it_is_watched_counts_as_touched():
    with (
        pattern(4 * MIB, 4 * MIB) as first,
        pattern(4 * MIB, 4 * MIB) as second,
        opened(first, second) as source,
    ):

        def end(seconds):
            second.process.kill()
            second.process.wait()
            first()

        found = pages.watch_memory(source, 0.02, sleep=end)
        assert found.touched_pages >= source.parts[1].population
        assert found.cold_pages * PAGE >= 3.5 * MIB


def test_what_cannot_be_watched_is_refused(monkeypatch):
    with pages.open_process(os.getpid()) as source:
        monkeypatch.setattr(source, "forget", lambda path: False)
        with pytest.raises(SourceError, match="clear_refs"):
            pages.watch_memory(source, 0.01)


@pytest.mark.slow
def test_the_adviser_watches(capsys):
    with pattern(16 * MIB, 16 * MIB) as touch:
        arguments = ["advise", "--pid", str(touch.pid), "--watch", "0.5"]
        assert main([*arguments, "--json"]) == 0
        watched = json.loads(capsys.readouterr().out)["watched"]
        assert watched["cold_bytes"] > 16 * MIB  # nobody told it to touch anything
        assert [age["seconds"] for age in watched["ages"]] == sorted(
            age["seconds"] for age in watched["ages"]
        )
        assert main(arguments) == 0
        out = capsys.readouterr().out
    assert "was not touched in 0.5 s" in out
