"""Rules about the sources that no tool knows."""

import ast
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

import zswap
from hooks import ROOT
from zswap_core.stats import Counter

CORE = ROOT / "zswap_core"

# Modules that face Python: all others know neither objects nor exceptions, and run without the GIL.
FACING_PYTHON = {
    "api",
    "backings/adapter",
    "backings/base",
    "backings/capsule",
    "backings/file",
    "bench",
    "binding/arguments",
    "binding/ear",
    "binding/engine",
    "binding/memory",
    "binding/programs",
    "binding/results",
    "binding/small",
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
    "locks",
    "plugin",
    "replay",
    "trace",
    "zpools/geometry",
    "zpools/registry",
    "zswap",
}
# Modules that run Python callables on behalf of the engine.
TAKING_THE_GIL = {"api", "backings/adapter", "binding/ear", "compressors/adapter"}

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
        (path.name, match[0].strip())
        for path in python_files()
        for match in UNSAFE.finditer(code(path))
    ]
    # what the object store has pickled itself: from memory, or after a keyed check
    assert found == [("objects.py", "import pickle")]
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


# ---- docstrings ----------------------------------------------------------------------------------


def public():
    """Names and objects that users see, with the public members of classes."""
    for name in zswap.__all__:
        thing = getattr(zswap, name)
        yield name, thing, ""
        if inspect.isclass(thing):
            for member in dir(thing):
                if not member.startswith("_") and ours(thing, member):
                    yield f"{name}.{member}", getattr(thing, member), inspect.getdoc(thing) or ""


def ours(cls, member):
    """Whether the class that has it is ours, not Python's."""
    owner = next(c for c in cls.__mro__ if member in vars(c))
    return owner.__module__.partition(".")[0] in ("zswap", "zswap_core")


def in_a_section(name, doc, headings="Parameters|Attributes"):
    """Whether numpydoc finds it: before the colon of a line in a section of that kind."""
    for text in re.findall(rf"^(?:{headings})\n-+\n(.*?)(?=^\S[^\n]*\n---|\Z)", doc, re.S | re.M):
        names = re.findall(r"^(\S[^:\n]*?)(?: ?:.*)?$", text, re.MULTILINE)
        if any(name in re.split(r"[,\s*]+", line) for line in names):
            return True
    return False


def test_every_parameter_and_attribute_is_in_a_section():
    without = []
    for name, thing, of_class in public():
        doc = inspect.getdoc(thing) or ""
        if callable(thing) and not inspect.isclass(thing):
            asked = [p for p in inspect.signature(thing).parameters if p not in ("self", "cls")]
            missing = [p for p in asked if not p.startswith("_") and not in_a_section(p, doc)]
            without += [f"{name}({p})" for p in missing] or ([] if doc else [name])
        elif "." in name and not doc_of_its_own(thing):
            without += [name] if not in_a_section(name.partition(".")[2], of_class) else []
    assert without == []


def doc_of_its_own(thing):
    """Whether a member that is no method has a docstring, and not just its type's."""
    return bool(thing.__doc__) and thing.__doc__ != type(thing).__doc__


def test_what_no_section_names_is_seen():
    doc = "Parameters\n----------\na, *b : int\n    About c : this.\n\nRaises\n------\nd : no"
    assert [n for n in "abcd" if in_a_section(n, doc)] == ["a", "b"]


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
        "python3 -m venv .venv && .venv/bin/pip install -v . && .venv/bin/zswap advise",
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


DOCUMENTS = ["README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md"]
DOCUMENTS += sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))


def prose(text):
    """A page without its code."""
    return re.sub(
        r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    )


def anchors(text):
    """What GitHub, and the site, call the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#{1,4} (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", DOCUMENTS)
def test_links_lead_somewhere(page):
    path = ROOT / page
    for link, anchor in re.findall(r"\]\((?!\w+:)([^)#\s]*)#?([^)\s]*)\)", prose(path.read_text())):
        there = path.parent / link if link else path
        assert there.exists(), link
        assert not anchor or anchor in anchors(there.read_text()), f"{link}#{anchor}"


def test_headings_are_called_as_github_calls_them():
    text = "# A, b: `c` (d)\n## What's-new\n```\n# none\n```\n"
    assert anchors(text) == {"a-b-c-d", "whats-new"}


def test_every_mutation_still_fits_the_sources():
    """A mutation whose text is gone tests nothing: `python tests/mutations.py --list` says
    which."""
    mutations = script("mutations")
    assert len(mutations.MUTATIONS) > 70
    assert not [
        f"{m.name}: {why}" for m in mutations.MUTATIONS if (why := mutations.unfit(m, ROOT))
    ]


def started_in_the_checkout(source):
    """Lines that start a program which is to import the zswap under test, from wherever the tests
    are run: from a checkout that is not built it would import that."""
    for call in ast.walk(ast.parse(source)):
        if not (isinstance(call, ast.Call) and ast.unparse(call.func).startswith("subprocess.")):
            continue
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if "PYTHONPATH" in given.get("env", "") and "cwd" not in given:
            yield call.lineno


def test_programs_do_not_start_in_the_checkout():
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for line in started_in_the_checkout(path.read_text())
    ]
    assert found == []


def test_a_program_that_starts_in_the_checkout_is_seen():
    source = "subprocess.run(c{}, env={{**os.environ, 'PYTHONPATH': hooks.PATH}})"
    assert list(started_in_the_checkout(source.format(""))) == [1]
    assert list(started_in_the_checkout(source.format(", cwd=tmp_path"))) == []


@pytest.mark.slow
def test_tests_are_called_the_same_at_every_collection(request, tmp_path):
    """xdist refuses to run what its workers call by different names: those with a time, an address
    or a set's order in them."""
    command = ["-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "--rootdir", ROOT]
    run = subprocess.run(
        [sys.executable, *command, ROOT / "tests"],
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "PYTHONHASH"))},
            "PYTHONPATH": str(Path(zswap.__file__).parents[1]),  # the same zswap
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    names = {item.nodeid for item in request.session.items}
    assert names - set(run.stdout.splitlines()) == set()
