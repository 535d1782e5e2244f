"""What tests reach inside by: modules compiled beside those of the core, which no package holds.

A build in place makes them; for a zswap that is installed the first import of this does, and again
whenever a source is newer. Importing it gives `zswap.ZSwap` the methods that tests call on an
engine at rest: `_validate`, `_age` and `_object`.
"""

import fcntl
import importlib.machinery
import os
import subprocess
import sys
from pathlib import Path

import zswap

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
#: PYTHONPATH of programs that import the zswap under test, and this.
PATH = os.pathsep.join([str(Path(zswap.__file__).parents[1]), str(ROOT / "tests")])
SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]


def stale():
    """Names of the modules that are missing or older than what they are made of."""
    core = ROOT / "zswap_core"
    newest = max(
        path.stat().st_mtime
        for path in (*core.rglob("*.pxd"), *core.rglob("*.h"), ROOT / "setup.py")
    )
    made = {
        source.stem: (FOLDER / (source.stem + SUFFIX), source.stat().st_mtime)
        for source in FOLDER.glob("*.pyx")
    }
    return [
        n
        for n, (module, time) in made.items()
        if not module.exists() or module.stat().st_mtime < max(newest, time)
    ]


def build():
    """Compile what is stale; several test runs that start at once take turns."""
    with (FOLDER / "__init__.py").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stale():
            return
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        env = {**os.environ, "ZSWAP_HOOKS": "1"}
        done = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise ImportError(
                "tests/hooks cannot be compiled, which takes a C compiler, setuptools and "
                f"Cython:\n{done.stderr}"
            )
        for name in stale():  # what did not change was not compiled again
            os.utime(FOLDER / (name + SUFFIX))


def program(source, *args, prefix=(), **environment):
    """Run a program that may import the zswap under test; its exit code, stdout and stderr."""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", source, *map(str, args)],
        cwd=ROOT / "tests",  # not the checkout, whose sources would be imported first
        env={**os.environ, "PYTHONPATH": PATH, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


if stale():
    build()

from hooks.engine import age, object_of, validate  # noqa: E402 (once they are built)

zswap.ZSwap._validate, zswap.ZSwap._age, zswap.ZSwap._object = validate, age, object_of
