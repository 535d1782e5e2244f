"""Run numpy's own tests with its arrays in a `zswap.Memory` a quarter as large as their peak.

    python tests/numpy_tests.py [numpy/_core/tests/test_umath.py ...] [-- arguments of pytest]

The tests are those that `numpy.test()` of the installed numpy runs (`pip install pytest
hypothesis`), each file in processes of its own: without a Memory; with one that has room for all,
which tells the peak of what is allocated; and with one whose budget is a quarter of that, at least
the 8 MiB that a budget may be.  Every array of `--min-size` bytes or more lies there.  The outcome
of each test has to be the same in all three; of those that fail without one as well, too.
`LEFT_OUT` says which are left out in signal mode, and why; in thread mode none is.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

import zswap
from zswap.memory import LEAST

SHOWN = 20  # tests of a file that come out otherwise, at most

LEFT_OUT = {
    "has the system write an array larger than what may be resident, which needs pin() by parts": [
        "numpy/_core/tests/test_multiarray.py::TestIO::test_largish_file"
    ],
}

PLUGIN = """
import json
import os
import time

import pytest

asked = json.loads(os.environ["ZSWAP_NUMPY_TESTS"])
outcomes, took, mem = {}, (0.0, 0.0), None
if asked["budget"]:
    import zswap

    mem = zswap.Memory(asked["budget"], asked["backing"], mode=asked["mode"],
                       limit=asked["limit"], min_size=asked["min_size"])
    mem.__enter__()


def pytest_runtest_logreport(report):
    # the worst of setup, call and teardown
    order = ("passed", "skipped", "failed")
    before = outcomes.get(report.nodeid, "passed")
    outcomes[report.nodeid] = max(before, report.outcome, key=order.index)


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session):
    global took
    began = time.monotonic(), time.process_time()
    result = yield
    took = time.monotonic() - began[0], time.process_time() - began[1]
    return result


def pytest_unconfigure():
    with open(asked["report"], "w") as file:
        stats = mem.stats().to_dict() if mem else {}
        json.dump({"outcomes": outcomes, "took": took, "stats": stats}, file)
"""


class Runs:
    """How one file's tests come out."""

    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        # not the configuration of a checkout that the environment may lie in
        self.more = ["-c", os.devnull, "--rootdir", str(Path(np.__file__).parent.parent)]
        self.more += [f"--deselect={name}" for names in options.left_out.values() for name in names]
        if not options.faulthandler:
            self.more += ["-p", "no:faulthandler"]

    def run(self, file, budget):
        """Outcomes, seconds and figures; with a budget of 0 without a Memory."""
        report = self.folder / "report"
        report.unlink(missing_ok=True)
        asked = {
            "budget": budget,
            "backing": self.options.backing or str(self.folder / "spill"),
            "limit": "64GiB",
            "mode": self.options.mode,
            "min_size": self.options.min_size,
            "report": str(report),
        }
        command = [sys.executable, "-m", "pytest", "-p", "in_a_memory", "-p", "no:cacheprovider"]
        command += ["-q", "-m", "not slow", "--tb=short", *self.more, *self.options.pytest]
        path = os.pathsep.join(filter(None, [str(self.folder), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [*command, str(file)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": path, "ZSWAP_NUMPY_TESTS": json.dumps(asked)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if not report.exists():  # it did not come to its end
            ended = {f"it ended with {done.returncode}": "failed"}
            return {"outcomes": ended, "took": (0.0, 0.0), "stats": {}, "text": done.stdout}
        return {**json.loads(report.read_text()), "text": done.stdout}


def differences(runs):
    """Tests whose outcome is not that without a Memory."""
    plain = runs["plain"]["outcomes"]
    found = []
    for name in ("roomy", "quarter"):
        here = runs[name]["outcomes"]
        for test in sorted(plain.keys() | here.keys()):
            if plain.get(test) != here.get(test):
                found.append(f"{test}: {plain.get(test)}, {name}: {here.get(test)}")
    return found


def try_file(runs, file):
    """Run one file's tests three times, and say how they came out."""
    done = {"plain": runs.run(file, 0), "roomy": runs.run(file, runs.options.room)}
    peak = done["roomy"]["stats"].get("peak_allocated_bytes", 0)
    done["quarter"] = runs.run(file, max(peak // 4, LEAST))
    stats = done["quarter"]["stats"]
    figures = {
        "file": file.name,
        "outcomes": dict(Counter(done["quarter"]["outcomes"].values())),
        "peak": peak,
        "seconds": {name: round(run["took"][0], 1) for name, run in done.items()},
        "cpu": {name: round(run["took"][1], 1) for name, run in done.items()},
        "faults": stats.get("faults"),
        "evicted": stats.get("evicted_pages"),
    }
    wrong = figures["differences"] = differences(done)
    print(json.dumps({**figures, "differences": wrong[:SHOWN]}), flush=True)
    for name, run in done.items():
        if wrong and name != "plain":
            print(run["text"][-5000:], flush=True)
    return figures


def main() -> int:
    """Run them; 0 when each comes out as it does without a Memory."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--mode", default="auto", choices=["auto", "signal", "thread"])
    parser.add_argument("--min-size", default="4KiB")
    parser.add_argument("--room", default="4GiB", help="the budget that has room for all")
    parser.add_argument("--backing", help="the file; one in a temporary folder")
    parser.add_argument("--faulthandler", action="store_true", help="with pytest's on")
    options, rest = parser.parse_known_args()
    by_signals = zswap.Memory(LEAST, mode=options.mode).mode == "signal"
    options.left_out = LEFT_OUT if by_signals else {}
    options.pytest = [argument for argument in rest if argument != "--"]
    root = Path(np.__file__).parent
    files = options.files or sorted(root.glob("**/tests/test_*.py"))
    began, totals, wrong = time.monotonic(), Counter(), 0
    seconds, cpu = Counter(), Counter()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "in_a_memory.py").write_text(PLUGIN)
        runs = Runs(options, Path(folder))
        for file in files:
            path = file if file.exists() else root.parent / file
            figures = try_file(runs, path)
            totals.update(figures["outcomes"])
            seconds.update(figures["seconds"])
            cpu.update(figures["cpu"])
            wrong += len(figures["differences"])
    print(f"{dict(totals)}, {wrong} otherwise than without")
    for name, sums in (("seconds", seconds), ("of CPUs", cpu)):
        print(name, {run: round(amount, 1) for run, amount in sums.items()})
    print(f"numpy {np.__version__}, {len(files)} files in {time.monotonic() - began:.0f} s")
    for reason, names in options.left_out.items():
        print(f"left out: {', '.join(names)}: {reason}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
