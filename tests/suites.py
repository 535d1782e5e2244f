"""Run the tests of numpy, or another package, in a memory a quarter as large as their peak.

    python tests/suites.py [numpy/_core/tests/test_umath.py ...] [-- arguments of pytest]
    python tests/suites.py --run --package pandas [pandas/tests/groupby/test_groupby.py ...]

The tests are those of the installed package (`pip install pytest hypothesis`; of numpy those that
`numpy.test()` runs), each file in processes of its own: without a memory of ours; with one that has
room for all, which tells the peak of what is allocated; and with one whose budget is a quarter of
that, at least the 8 MiB that a budget may be.  The outcome of each test has to be the same in all
three; of those that fail without one as well, too.

In a `zswap.Memory` lies every array of numpy's of `--min-size` bytes or more.  With `--run` it is
`zswap run`, and whatever Python and its libraries allocate in pieces of that size lies there.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import zswap
from zswap.memory import LEAST

SHOWN = 20  # tests of a file that come out otherwise, at most

PLUGIN = """
import json
import os
import time

import pytest

asked = json.loads(os.environ["ZSWAP_SUITES"])
outcomes, took, mem = {}, (0.0, 0.0), None
if asked["budget"] and not asked["run"]:
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
        self.more = ["-c", os.devnull, "--rootdir", str(options.root.parent)]
        if not options.faulthandler:
            self.more += ["-p", "no:faulthandler"]

    def run(self, file, budget):
        """Outcomes, seconds and figures; with a budget of 0 without a memory."""
        report = self.folder / "report"
        report.unlink(missing_ok=True)
        options = self.options
        asked = {
            "budget": budget,
            "backing": options.backing or str(self.folder / "spill"),
            "limit": "64GiB",
            "mode": options.mode,
            "min_size": options.min_size,
            "report": str(report),
            "run": options.run,
        }
        command = []
        if budget and options.run:
            command = [sys.executable, "-m", "zswap", "run", "--json"]
            for name in ("budget", "backing", "limit", "min_size"):
                command += [f"--{name.replace('_', '-')}", str(asked[name])]
            command += ["--"]
        command += [sys.executable, "-m", "pytest", "-p", "in_a_memory", "-p", "no:cacheprovider"]
        command += ["-q", "-m", "not slow", "--tb=short", *self.more, *options.pytest]
        path = os.pathsep.join(filter(None, [str(self.folder), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [*command, str(file)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": path, "ZSWAP_SUITES": json.dumps(asked)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if not report.exists():  # it did not come to its end
            ended = {f"it ended with {done.returncode}": "failed"}
            return {"outcomes": ended, "took": (0.0, 0.0), "stats": {}, "text": done.stdout}
        came = {**json.loads(report.read_text()), "text": done.stdout}
        if budget and options.run:
            figures = json.loads(done.stdout.splitlines()[-1])
            came["stats"] = {**figures, "peak_allocated_bytes": figures["allocated_bytes"]}
        return came


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
        "spilled": stats.get("spilled_bytes"),
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
    parser.add_argument("--package", default="numpy", help="whose tests, where none are named")
    parser.add_argument("--run", action="store_true", help="under `zswap run`")
    parser.add_argument("--mode", default="auto", choices=["auto", "signal", "thread"])
    parser.add_argument("--min-size", default="4KiB")
    parser.add_argument("--room", default="4GiB", help="the budget that has room for all")
    parser.add_argument("--backing", help="the file; one in a temporary folder")
    parser.add_argument("--faulthandler", action="store_true", help="with pytest's on")
    ours, rest = sys.argv[1:], []
    if "--" in ours:  # argparse takes what follows for files
        at = ours.index("--")
        ours, rest = ours[:at], ours[at + 1 :]
    options = parser.parse_args(ours)
    mode = "thread" if options.run else zswap.Memory(LEAST, mode=options.mode).mode
    options.pytest = rest
    package = importlib.import_module(options.package)
    root = options.root = Path(package.__file__).parent
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
    print(f"{options.package} {package.__version__}, {len(files)} files, ", end="")
    print("run" if options.run else f"{mode} mode", f"in {time.monotonic() - began:.0f} s")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
