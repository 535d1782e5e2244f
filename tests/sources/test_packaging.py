"""What an installed zswap consists of."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import zswap
import zswap_core
from hooks import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed():
    """The distribution that `import zswap` comes from."""
    try:
        distribution = metadata.distribution("zswap")
    except metadata.PackageNotFoundError:
        pytest.skip("zswap is not installed")
    if (
        Path(zswap.__file__).resolve()
        != Path(distribution.locate_file("zswap/__init__.py")).resolve()
    ):
        pytest.skip(f"the zswap in use is not the installed one but {zswap.__file__}")
    return distribution


@pytest.fixture(scope="module")
def names(installed):
    return {file.as_posix() for file in installed.files}


def is_module(name):
    """Whether it is a compiled module of Python's, not what `zswap run` preloads."""
    return name.endswith(".so") and "/preload/" not in name


def test_version(installed):
    assert installed.version == zswap.__version__


def test_what_plug_ins_need_is_there(names):
    assert {
        "zswap_core/include/zswap/abi.h",
        "zswap_core/abi.pxd",
        "zswap_core/zswap.pxd",
        "zswap_core/include/zswap/zswap.h",
        "zswap_core/__init__.py",
    } <= names


def test_type_information_is_there(names):
    assert {
        "zswap/py.typed",
        "zswap_core/py.typed",
        "zswap_core/binding/engine.pyi",
        "zswap_core/compressors/base.pyi",
    } <= names


def test_the_manual_and_the_completions_are_there(names):
    found = {name.lstrip("./") for name in names}
    assert {
        "share/man/man1/zswap.1",
        "share/bash-completion/completions/zswap",
        "share/zsh/site-functions/_zswap",
        "share/fish/vendor_completions.d/zswap.fish",
    } <= found


def test_nothing_else_is_there(names):
    ours = re.compile(
        r"zswap(_core)?/.*\.(py|pyi|so|typed)|zswap_core/((abi|zswap)\.pxd|include/zswap/(abi|zswap)\.h)|zswap-[^/]+\.dist-info/.*|(\.\./)+bin/zswap|(\.\./)+share/(man|bash-completion|zsh|fish)/.*|.*/__pycache__/.*\.pyc"
    )
    assert sorted(name for name in names if not ours.fullmatch(name)) == []
    assert not any(name.endswith((".pyx", ".c")) for name in names)
    assert not any("test" in name or "hooks" in name for name in names)


def test_every_source_was_compiled(names):
    sources = {
        path.relative_to(ROOT).with_suffix("").as_posix()
        for path in (ROOT / "zswap_core").rglob("*.pyx")
    }
    if not sources:
        pytest.skip("the sources are not here")
    assert {name.partition(".")[0] for name in names if is_module(name)} == sources
    assert "zswap_core/preload/zswap_run.so" in names


def test_extensions_are_the_installed_ones(installed, names):
    for name in sorted(names):
        if is_module(name):
            module = importlib.import_module(name.partition(".")[0].replace("/", "."))
            assert Path(module.__file__).resolve() == Path(installed.locate_file(name)).resolve()


def test_command_line_is_declared(installed):
    scripts = [entry for entry in installed.entry_points if entry.group == "console_scripts"]
    assert [(entry.name, entry.value) for entry in scripts] == [("zswap", "zswap.__main__:main")]


def test_plain_install_is_small(installed):
    plain = {re.match(r"[\w-]+", need)[0] for need in installed.requires if "extra ==" not in need}
    assert plain == {"numpy", "lz4", "zstd", "click", "rich"}


def test_import_is_lean(tmp_path):
    """The library alone brings in neither the command line's packages nor the plots'."""
    code = (
        "import sys, zswap; print(sorted({'click', 'rich', 'matplotlib', 'Cython', "
        "'zswap.analyze'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


# ---- compiling it --------------------------------------------------------------------------------

# What setup.py would have the compiler told, a line; nothing is compiled.
FLAGS = """
import os, sys, Cython.Build, setuptools
Cython.Build.cythonize = lambda extensions, **options: extensions
def setup(ext_modules, **options):
    print(*sorted({" ".join(e.extra_compile_args + e.extra_link_args)
              for e in ext_modules if "preload" not in e.name}),
          sep="\\n")
setuptools.setup = setup
exec(compile(open("setup.py").read(), "setup.py", "exec"))
"""


@pytest.fixture
def flags():
    """The compiler's flags under an environment, and behind them the linker's: those of a module of
    the engine.  Others differ in the first, -O1, alone."""
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools")
    if not (ROOT / "setup.py").exists():
        pytest.skip("the sources are not here")

    def run(**environment):
        env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("ZSWAP_") and name != "CFLAGS"
        }
        command = [sys.executable, "-c", FLAGS]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**env, **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        seldom, often = (line.split() for line in done.stdout.splitlines())
        assert (seldom[0], often[0]) == ("-O1", "-O3")
        assert seldom[1:] == often[1:]
        return often

    return run


def test_optimised_and_without_debug_information(flags):
    """Whatever CPython was built with, which a user's CFLAGS replace."""
    plain = flags()
    assert [flag for flag in plain if re.match("-[gO]", flag)] == ["-O3", "-g0"]
    assert {"-DNDEBUG", "-fwrapv"} <= set(plain)
    assert plain[-1] == "-Wl,-s"
    assert flags(CFLAGS="-march=native") == [*plain[:-1], "-march=native", "-Wl,-s"]


def test_the_users_flags_have_the_last_word(flags):
    assert flags(CFLAGS="-g -O1 '-DNAME=1'")[-3:] == ["-g", "-O1", "-DNAME=1"]


@pytest.mark.parametrize("switch", ["DEBUG", "SANITIZE", "COVERAGE"])
def test_debugging_brings_debug_information_or_names(flags, switch):
    found = flags(**{f"ZSWAP_{switch}": "1"})
    assert [flag for flag in found if flag.startswith("-g")][-1] == (
        "-g0" if switch == "COVERAGE" else "-g"
    )
    assert "-Wl,-s" not in found


# ---- compiling against it ------------------------------------------------------------------------


def test_include_directory():
    assert (Path(zswap_core.get_include()) / "zswap" / "abi.h").is_file()


@pytest.mark.parametrize(("compiler", "language"), [("cc", "c"), ("c++", "c++")])
def test_header_stands_alone(tmp_path, compiler, language):
    """In C and in C++, with nothing included before it and every warning on."""
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    flags = [
        "-fsyntax-only",
        "-Wall",
        "-Wextra",
        "-Wpedantic",
        "-Werror",
        "-std=c11" if language == "c" else "-std=c++11",
    ]
    source = tmp_path / "plug_in"
    source.write_text("#include <zswap/abi.h>\nextern zsw_compressor_ops table;\n")
    done = subprocess.run(
        [compiler, *flags, "-I", zswap_core.get_include(), "-x", language, str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_cython_finds_the_declarations(tmp_path):
    pytest.importorskip("Cython")
    source = tmp_path / "plug_in.pyx"
    source.write_text(
        "from zswap_core.abi cimport zsw_compressor_ops\ncdef zsw_compressor_ops table\n"
    )
    # Cython asks no editable install's finder
    env = {
        **os.environ,
        "PYTHONPATH": str(Path(zswap_core.__file__).parents[1]),
    }
    subprocess.run(
        [sys.executable, "-m", "cython", "-3", source.name], cwd=tmp_path, env=env, check=True
    )
    assert "zswap/abi.h" in source.with_suffix(".c").read_text()
