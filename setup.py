"""Builds the compiled core: every .pyx under zswap_core is an extension.  All other metadata is in
pyproject.toml.

A build in place also makes tests/hooks, by which the tests reach inside; no package holds those.

Switches, read from the environment:
    ZSWAP_DEBUG=1       bounds checks, C assertions, no optimisation
    ZSWAP_SANITIZE=1    AddressSanitizer and UndefinedBehaviourSanitizer; =thread: ThreadSanitizer;
                        =valgrind: hints for it
    ZSWAP_COVERAGE=1    count the lines that run, for .ci/coverage.py
    ZSWAP_LOCK_STATS=1  count locks, and how long each is waited for and held, for bench/locks.py
    ZSWAP_WERROR=1      compiler warnings are errors
    ZSWAP_ANNOTATE=1    keep Cython's annotated .html beside the .c
    ZSWAP_HOOKS=1       of a build in place, tests/hooks alone, for a zswap that is installed
"""

import os
import shlex
import sys
import sysconfig
from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


def switch(name):
    return os.environ.get(f"ZSWAP_{name}", "0") not in ("", "0")


DEBUG, SANITIZE, COVERAGE = switch("DEBUG"), switch("SANITIZE"), switch("COVERAGE")

# Named here, not left to the flags that CPython was built with: those bring debug information four
# times as large as the code, and a CFLAGS in the environment takes their place altogether.
cflags = [
    "-g0",
    "-fwrapv",
    "-DNDEBUG",
    "-std=gnu11",
    "-Wall",
    "-Wextra",
    "-Wno-unused-function",
    "-Wno-unused-parameter",
    "-Wno-missing-field-initializers",
]
if sysconfig.get_platform().endswith("x86_64"):  # what is built for, not where
    # the index counts bits; every x86-64 processor since 2008 has the instruction
    cflags += ["-mpopcnt"]
ldflags = []
checks = []  # what needs a runtime
macros = [("ZSW_LOCK_STATS", "1")] if switch("LOCK_STATS") else []
if switch("WERROR"):
    cflags += ["-Werror"]
if DEBUG:
    cflags += ["-Og", "-g", "-UNDEBUG"]
    macros += [("ZSW_DEBUG", "1")]
if SANITIZE:
    checker = {"thread": ["-fsanitize=thread"], "valgrind": []}.get(
        os.environ["ZSWAP_SANITIZE"], ["-fsanitize=address,undefined"]
    )
    cflags += [*checker, "-fno-omit-frame-pointer", "-O1", "-g"]
    checks += checker
    ldflags += checker
    macros += [("ZSW_VALGRIND", "1")] if os.environ["ZSWAP_SANITIZE"] == "valgrind" else []
if COVERAGE:
    checks += ["--coverage", "-fprofile-update=atomic"]
    cflags += [*checks, "-O1"]
    ldflags += ["--coverage"]

theirs = shlex.split(os.environ.get("CFLAGS", ""))
cflags += theirs  # once more, as the last word is the user's
if not (DEBUG or SANITIZE or COVERAGE or "--inplace" in sys.argv or "-g" in theirs):
    # A build in place keeps the names of functions, a tenth of it all, for perf.
    ldflags += ["-Wl,-s"]

directives = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "wraparound": False,
    "initializedcheck": DEBUG,
    "nonecheck": DEBUG,
    "cdivision": True,
    "embedsignature": True,
    "auto_pickle": False,  # what holds pointers is refused by Python itself, in fewer lines
}

# What opens, reports or calls a library: -O3 takes twice as long over it, for more code and no
# gain.
SELDOM = ("backings/", "compressors/", "fault", "libraries/", "params", "stats", "zpools/geometry")

# Modules with C of their own beside the .pyx: the folder it is in.
OWN_C = {"zswap_core/compressors/lref.pyx": "zswap_core/lref"}


def extension(path):
    """What a .pyx is compiled to."""
    own = OWN_C.get(path)
    seldom = path.startswith("tests/") or path.removeprefix("zswap_core/").startswith(SELDOM)
    return Extension(
        path.removeprefix("tests/").removesuffix(".pyx").replace(os.sep, "."),
        [path, *(sorted(glob(f"{own}/*.c")) if own else ())],
        include_dirs=["zswap_core/include", *([own] if own else ())],
        depends=sorted(glob("zswap_core/include/zswap/*.h") + (glob(f"{own}/*.h") if own else [])),
        define_macros=macros,
        extra_compile_args=["-O1" if seldom and not own else "-O3", *cflags],
        extra_link_args=ldflags,
        libraries=["dl", "pthread"],
    )


# What `zswap run` preloads into programs: no module of Python's.  A checker's runtime would have to
# be loaded before it.
PRELOADED = Extension(
    "zswap_core.preload.zswap_run",
    ["zswap_core/preload/zswap_run.c"],
    include_dirs=["zswap_core/include"],
    depends=sorted(glob("zswap_core/include/zswap/*.h")),
    extra_compile_args=[
        "-O2",
        *(flag for flag in cflags if flag not in checks),
        *("-fvisibility=hidden", "-fno-builtin", "-fno-lto"),
    ],
    extra_link_args=["-Wl,-s", "-Wl,-z,now", "-Wl,-z,relro"],
    libraries=["dl", "pthread"],
)


class BuildExt(build_ext):
    """Names what is no module of Python's by what it is."""

    def get_ext_filename(self, name):
        if name.endswith("zswap_run"):
            return os.path.join(*name.split(".")) + ".so"
        return super().get_ext_filename(name)


sources = [] if switch("HOOKS") else sorted(glob("zswap_core/**/*.pyx", recursive=True))
if "--inplace" in sys.argv:
    sources += sorted(glob("tests/hooks/*.pyx"))
    # What an older build left of a module that is gone, or is Python now, would be imported.
    for built in glob("zswap_core/**/*.so", recursive=True):
        if not os.path.exists(built.partition(".")[0] + ".pyx") and "/preload/" not in built:
            os.remove(built)
setup(
    ext_modules=cythonize(
        [extension(path) for path in sources],
        build_dir="build/cython",
        nthreads=2,
        compiler_directives=directives,
        annotate=switch("ANNOTATE"),
        show_all_warnings=False,
    )
    + ([] if switch("HOOKS") else [PRELOADED]),
    cmdclass={"build_ext": BuildExt},
    package_dir={"hooks": "tests/hooks"},
    options={"build_ext": {"parallel": os.cpu_count()}},
)
