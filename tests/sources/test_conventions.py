"""Rules about the sources that no tool knows."""

import importlib.util
import re
from fnmatch import fnmatch

import pytest

import zswap
from hooks import ROOT
from zswap_core.stats import Counter

CORE = ROOT / "zswap_core"

# Modules that face Python: all others know neither objects nor exceptions, and run without the GIL.
FACING_PYTHON = {
    "backings/adapter",
    "backings/base",
    "backings/file",
    "bench",
    "binding/arguments",
    "binding/engine",
    "binding/results",
    "buffers",
    "compressors/adapter",
    "compressors/base",
    "compressors/deflate",
    "compressors/dictionary",
    "compressors/lref",
    "compressors/lz4",
    "compressors/lzo",
    "compressors/zstd",
    "libraries/bind",
    "libraries/checksums",
    "libraries/ciphers",
    "zpools/geometry",
}
# Modules that run Python callables on behalf of the engine.
TAKING_THE_GIL = {"backings/adapter", "compressors/adapter"}

pytestmark = pytest.mark.skipif(not (CORE / "abi.pxd").exists(), reason="the sources are not here")

STRING_OR_COMMENT = re.compile(
    r'("""|\'\'\')(?:.|\n)*?\1 | "(?:\\.|[^"\\\n])*" | \'(?:\\.|[^\'\\\n])*\' | \#[^\n]*',
    re.VERBOSE,
)
# A function of C: `cdef` or `cpdef`, perhaps a result, a name and "(".  A pointer to a function has
# "(*".
FUNCTION = re.compile(
    r"^[ ]*(?:cdef|cpdef)[ ]+(?:inline[ ]+)?(?:[\w.]+[ *]+|const[ ]+)*(\w+)\((?!\*)", re.MULTILINE
)


def name_of(path):
    return path.relative_to(CORE).with_suffix("").as_posix()


def cython_files():
    return sorted(path for path in CORE.rglob("*.p[yx][xd]") if path.suffix in (".pyx", ".pxd"))


def code(path):
    """The text without strings and comments, line numbers kept."""
    return STRING_OR_COMMENT.sub(lambda match: '""' + "\n" * match[0].count("\n"), path.read_text())


def functions(text):
    """Name, line and what follows the arguments, of each function of C."""
    for match in FUNCTION.finditer(text):
        depth, at = 1, match.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(text[at], 0)
            at += 1
        yield match[1], text.count("\n", 0, match.start()) + 1, text[at : text.index("\n", at)]


def script(name):
    """A program of this directory, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CORE_FILES = [path for path in cython_files() if name_of(path) not in FACING_PYTHON]


def test_the_core_is_found():
    assert {"engine", "index", "slab", "zpools/zsmalloc"} <= {name_of(path) for path in CORE_FILES}
    assert {name_of(path) for path in cython_files()} >= FACING_PYTHON


@pytest.mark.parametrize("path", CORE_FILES, ids=name_of)
def test_core_knows_no_exceptions(path):
    found = re.findall(r"\b(?:raise|try|except|assert|finally|with gil)\b", code(path))
    assert not found


@pytest.mark.parametrize("path", CORE_FILES, ids=name_of)
def test_core_functions_run_without_the_gil(path):
    wrong = [
        f"{path.name}:{line}: {name}"
        for name, line, tail in functions(code(path))
        if "noexcept nogil" not in tail
    ]
    assert not wrong


def test_the_pattern_sees_functions():
    text = (
        "cdef int a(int x) except -1:\n    cdef int (*f)(int)\n    cdef int v = a(1)\n"
        "cdef inline const uint8_t *b(\n        void *c) noexcept nogil\ncpdef c():\n"
    )
    assert list(functions(text)) == [
        ("a", 1, " except -1:"),
        ("b", 4, " noexcept nogil"),
        ("c", 6, ":"),
    ]


def test_only_adapters_take_the_gil():
    takers = {name_of(path) for path in cython_files() if re.search(r"\bwith gil\b", code(path))}
    assert takers <= TAKING_THE_GIL


def test_the_core_does_not_import_the_package_above_it():
    """zswap uses zswap_core, never the other way round."""
    pattern = re.compile(r"^\s*(?:from|import|cimport) zswap\b", re.MULTILINE)
    assert [
        name_of(path)
        for path in CORE.rglob("*.py*")
        if path.suffix in (".py", ".pyx", ".pxd") and pattern.search(code(path))
    ] == []


# What turns data into code or objects of its choice.  multiprocessing pickles, but between
# processes that it made itself.
UNSAFE = re.compile(
    r"^[ \t]*(?:from|import)[ "
    r"](?:_?pickle|cPickle|cloudpickle|dill|joblib|jsonpickle|marshal|shelve|yaml)\b"
    r"|(?<![.\w])(?:eval|exec|__import__)\(|\ballow_pickle\b|\bshell=True\b|\bos\.(?:system|popen)\b",
    re.MULTILINE,
)
UNSAFE_OUTSIDE_THE_BENCH = re.compile(r"^[ \t]*(?:from|import)[ ]multiprocessing\b", re.MULTILINE)


def python_files():
    folders = [ROOT / "zswap", CORE, ROOT / "bench", ROOT / "examples"]
    return sorted(
        path
        for folder in folders
        for path in folder.rglob("*.py*")
        if path.suffix in (".py", ".pyx", ".pxd")
    )


def test_nothing_unpickles_or_evaluates():
    """No data from outside, be it a file, a socket or another process's memory, can run
    anything."""
    found = [
        (path.name, match[0]) for path in python_files() for match in UNSAFE.finditer(code(path))
    ]
    assert found == []
    users = {
        path.parent.name for path in python_files() if UNSAFE_OUTSIDE_THE_BENCH.search(code(path))
    }
    assert users <= {"bench"}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "    from marshal import loads",
        "x = eval(y)",
        "np.load(f, allow_pickle=True)",
        "run(a, shell=True)",
        "os.system(a)",
        "import shelve as s",
    ],
)
def test_unsafe_lines_are_seen(line):
    assert UNSAFE.search(line)


def test_no_module_has_a_typed_memoryview():
    """Each costs its module 20,000 lines of C; `buffers.Items` does."""
    declared = re.compile(r"(?:^|[(,]|\bcdef)[ ]*(?:const )?\w+\[:[:, 1]*\]", re.MULTILINE)
    assert [name_of(path) for path in cython_files() if declared.search(code(path))] == []


def test_every_module_has_a_docstring():
    sources = [*CORE.rglob("*.pyx"), *CORE.rglob("*.py"), *(ROOT / "zswap").rglob("*.py")]
    without = []
    for path in sources:
        lines = [
            line
            for line in path.read_text().splitlines()
            if line.strip() and not line.startswith("#")
        ]
        if lines and not lines[0].startswith('"""'):
            without.append(str(path.relative_to(ROOT)))
    assert not without


def test_there_is_one_version_number():
    declared = re.search(
        r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )[1]
    assert declared == zswap.__version__
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == declared


@pytest.mark.parametrize(
    "counter", [counter.name for counter in Counter if counter.name != "COUNTERS"]
)
def test_every_counter_is_shown_and_explained(counter):
    assert counter in zswap.Stats.__dataclass_fields__
    assert re.search(rf"\b{counter}\b", zswap.Stats.__doc__)


def test_every_figure_is_explained():
    assert [
        name
        for name in zswap.Stats.__dataclass_fields__
        if not re.search(rf"\b{name}\b", zswap.Stats.__doc__)
    ] == []


# ---- floors --------------------------------------------------------------------------------------


def test_arrows_run_one_way():
    known = script("floors").graph()
    table = re.findall(
        r"^\| (\S+) \| ((?:`\S+` ?)+) \|$", (ROOT / "docs" / "design.md").read_text(), re.MULTILINE
    )
    on = {
        name: [
            at
            for at, (_, names) in enumerate(table)
            if any(fnmatch(name, n) for n in re.findall(r"`(\S+)`", names))
        ]
        for name in known
    }
    assert {name: at for name, at in on.items() if len(at) != 1} == {}, "not on one floor"
    roof, plugins = (at for at, (floor, _) in enumerate(table) if floor in ("roof", "plug-ins"))
    for name, others in known.items():
        above = sorted(other for other in others if on[other] < on[name])
        assert not above, f"{name} knows {above}, which are above it"
        assert on[name] in ([roof], [plugins]) or [plugins] not in [
            on[other] for other in others
        ], f"{name} knows a plug-in"
    assert script("floors").circles(known) == []


# ---- README.md -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def readme():
    return (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    "command",
    [
        "python3 -m venv .venv && .venv/bin/pip install -v . && .venv/bin/zswap analyze",
        "python3 -m venv .venv && .venv/bin/pip install '.[test]' && .venv/bin/pytest -n auto",
    ],
)
def test_readme_has_the_commands_that_ci_runs(readme, command):
    assert readme.splitlines().count(command) == 1


def test_readme_shows_the_quickstart(readme):
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    quickstart = (ROOT / "examples" / "quickstart.py").read_text()
    assert blocks[0] == quickstart.partition('"""\n\n')[2]


def test_readme_has_no_gaps(readme):
    assert re.findall(r"^[A-Z]+-[A-Z]+$", readme, re.MULTILINE) == []


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "SECURITY.md",
        "docs/bench.md",
        "docs/design.md",
        "docs/kernel.md",
        "docs/reliability.md",
    ],
)
def test_links_lead_somewhere(page):
    path = ROOT / page
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text())
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_every_mutation_still_fits_the_sources():
    """A mutation whose text is gone tests nothing: `python tests/mutations.py --list` says
    which."""
    mutations = script("mutations")
    assert len(mutations.MUTATIONS) > 70
    assert not [
        f"{m.name}: {why}" for m in mutations.MUTATIONS if (why := mutations.unfit(m, ROOT))
    ]
