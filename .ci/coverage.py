#!/usr/bin/env python3
"""Which lines of the compiled core the tests reach.

    python .ci/coverage.py                      all tests of the core, twenty minutes
    python .ci/coverage.py --tree DIR engine    test_engine.py alone, added to what is in DIR
    python .ci/coverage.py --tree DIR --report  only say what was reached; with --lines, what not

The C compiler counts (gcc --coverage), not the interpreter: so what runs without the GIL is counted
too, on any thread, and nothing waits for anything it would not wait for else.  Each line of C
belongs to the line of Cython that the comment before it names.  A line counts when it is in a
function; the tests' own modules and the loops of `zswap bench` are left out.
"""

import argparse
import collections
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Tests that look at the package as installed, at Python alone, or at what draws and prints.
ELSEWHERE = {
    "analyze",
    "bench",
    "cli",
    "conventions",
    "packaging",
    "pages",
    "prometheus",
    "serve",
    "top",
}
NOT_CORE = re.compile(r"/hooks/\w+\.p..$|/bench\.pyx$")
MARK = re.compile(r'\s*/\* "(.+)":(\d+)$')


def build(tree):
    """Copy the sources, if they are not there yet, and build what is not."""
    if not tree.exists():
        listing = ["git", "ls-files", "-coz", "--exclude-standard"]
        files = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True, text=True).stdout
        for name in filter(None, files.split("\0")):
            if (ROOT / name).exists():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, tree / name)
    environment = {**os.environ, "ZSWAP_COVERAGE": "1"}
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=tree,
        env=environment,
        check=True,
    )


def test(tree, name, wrap):
    """Run one file of tests; whether it passed."""
    (path,) = tree.glob(f"tests/**/test_{name}.py")
    command = [
        *wrap,
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(path),
    ]
    done = subprocess.run(command, cwd=tree, stdout=subprocess.PIPE, text=True)
    print(f"{name}: {(done.stdout.splitlines() or ['nothing'])[-1]}", flush=True)
    return done.returncode == 0


def lines_of(c_file):
    """For each line of generated C, from 1, the line of Cython that it belongs to, or None."""
    line, lines, module = None, [None], False
    for text in c_file.read_text(errors="replace").splitlines():
        mark = MARK.match(text)
        if mark:
            line = (mark[1], int(mark[2]))
        elif text.startswith("}") or "/* function exit code */" in text:
            line, module = None, module and not text.startswith("}")
        elif "__pyx_pymod_exec_" in text and text.startswith("static") and not text.endswith(";"):
            module = True  # what runs when the module is imported
        lines.append(None if module else line)
    return lines


def reached(tree):
    """How often each line of each source ran, {file: {line: count}}."""
    counts = collections.defaultdict(dict)
    for notes in sorted(tree.glob("build/temp.*/**/*.gcno")):
        c_file = (
            tree
            / "build"
            / "cython"
            / str(notes).partition("/build/cython/")[2].replace(".gcno", ".c")
        )
        said = subprocess.run(
            ["gcov", "--json-format", "--stdout", notes], cwd=tree, capture_output=True, check=True
        ).stdout
        lines = lines_of(c_file)
        for source in json.loads(said)["files"]:
            if not source["file"].endswith(c_file.name):
                continue
            for line in source["lines"]:
                at = lines[line["line_number"]] if line["line_number"] < len(lines) else None
                if at and at[0].startswith("zswap_core/") and not NOT_CORE.search(at[0]):
                    counts[at[0]][at[1]] = max(line["count"], counts[at[0]].get(at[1], 0))
    return counts


def report(tree, every_line):
    """Print a table; the share of lines that were reached."""
    total = hit = 0
    for name, lines in sorted(reached(tree).items()):
        missed = sorted(line for line, count in lines.items() if not count)
        total += len(lines)
        hit += len(lines) - len(missed)
        print(
            f"{name:42}{len(lines):6}{100 - 100 * len(missed) / len(lines):7.1f} %  "
            f"{' '.join(map(str, missed))}"
        )
        text = (tree / name).read_text().splitlines()
        for line in missed if every_line else ():
            print(f"    {line:5}  {text[line - 1].strip()}")
    share = 100 * hit / max(total, 1)
    print(f"{'all':42}{total:6}{share:7.1f} %")
    return share


def main():
    """Return the exit code: 0 when all tests passed and 95 % of the lines were reached."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tests", nargs="*", help="names of test files, as in test_NAME.py")
    parser.add_argument(
        "--tree", type=Path, help="where to build and count; by default a directory that is removed"
    )
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument(
        "--lines", action="store_true", help="print the lines that were not reached"
    )
    parser.add_argument(
        "--wrap", default="", help="a command that runs the tests, as in --wrap 'nice -n 5'"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="zswap-coverage.") as folder:
        tree = (options.tree or Path(folder) / "tree").resolve()
        names = options.tests or sorted(
            {p.stem.removeprefix("test_") for p in ROOT.glob("tests/**/test_*.py")} - ELSEWHERE
        )
        failed = []
        if not options.report:
            build(tree)
            failed = [name for name in names if not test(tree, name, options.wrap.split())]
        share = report(tree, options.lines)
    return 0 if not failed and share >= 95 else 1


if __name__ == "__main__":
    sys.exit(main())
