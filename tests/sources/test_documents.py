"""README.md, SECURITY.md and docs/: every line of them that is code runs, or names commands and
options that there are.  Of the tutorial and the how-to pages all commands run, too, and print what
the pages show."""

import importlib
import os
import re
import shlex
import subprocess
import sys

import click
import numpy as np
import pytest

import hooks
import zswap
from hooks import ROOT, nbd
from zswap import demonstration
from zswap.__main__ import cli

PAGES = [
    "README.md",
    "SECURITY.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
]
#: Those whose commands are run.
FOLLOWED = [page for page in PAGES if page == "docs/tutorial.md" or page.startswith("docs/howto/")]

pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the documents are not here")


def blocks(page, language):
    """The blocks of code of a page, each with the line that it begins on."""
    text = (ROOT / page).read_text()
    return [
        (text.count("\n", 0, match.start()) + 2, match[1])
        for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    ]


def spans(page):
    """What stands between backticks in running text, on one line each."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]


def test_every_block_says_what_it_is():
    """So that none is left out below: Python, shell, or output and pictures of text."""
    for page in PAGES:
        text = (ROOT / page).read_text()
        assert text.count("```") % 2 == 0, page
        opened = re.findall(r"^```(.*)\n(?:.*\n)*?^```$", text, re.MULTILINE)
        assert set(opened) <= {"python", "sh", ""}, page


# ---- Python, and the commands of pages that are followed -----------------------------------------

LISTING = re.compile(
    r"^```(python|sh)\n(.*?)^```$(?:\n\n^```\n(.*?)^```$)?", re.DOTALL | re.MULTILINE
)
# Of these, how a line begins: the rest is the machine's.
BEGINNINGS = {
    "zswap advise": ("machine ", "RAM ", "swappable ", "swap ", "zram ", "zswap ", "measured "),
    "zswap analyze": ("compressor ", "lz4 ", "Worth it: "),
    "zswap compressors": ("compressor ", "lz4 ", "lz4hc ", "zstd ", "lref ", "auto: "),
    "zswap replay": ("trace.txt ", "memory ", "contents ", "setting ", "no zswap ", "lz4 "),
    "zswap top": ("zswap top ", "pools ", "memory ", "ratio ", "pages ", "stored ", "compressor "),
}


def listings(page):
    """The line, language and code of each block, and the output that is shown below it, if any."""
    text = (ROOT / page).read_text()
    return [(text.count("\n", 0, m.start()) + 2, *m.groups()) for m in LISTING.finditer(text)]


def masked(text):
    """Text without figures and blanks."""
    text = re.sub(r"\d[\d,.]*(?: (?:[KMGT]iB|B|%)(?!\w))?", "#", text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def assert_printed(shown, printed, code=""):
    """That a block prints what its page shows, whatever the figures."""
    beginnings = [b for command, some in BEGINNINGS.items() if command in code for b in some]
    if not beginnings:
        assert masked(printed) == masked(shown)
        return
    found = [
        [b for b in beginnings if re.search(rf"^ *{re.escape(b)}", text, re.MULTILINE)]
        for text in (shown, printed)
    ]
    assert found[0], "the page shows no line that is known"
    assert set(found[0]) <= set(found[1]), printed


@pytest.fixture
def shell(tmp_path):
    """Run commands with this zswap and this Python; what they print, errors as well."""
    programs = tmp_path / ".programs"
    programs.mkdir()
    for name, start in (("zswap", " -m zswap"), ("python3", "")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{start} "$@"\n')
        program.chmod(0o755)

    def run(commands):
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", commands],
            cwd=tmp_path,
            env={
                **os.environ,
                "PATH": f"{programs}:{nbd.PATH}",
                "PYTHONPATH": hooks.PATH,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] * (page in FOLLOWED)) for page in PAGES],
)
def test_blocks_run_one_after_another(page, tmp_path, monkeypatch, capsys, shell):
    if page in FOLLOWED and "ZSWAP_SANITIZED" in os.environ:
        pytest.skip("under sanitizers its commands would start programs that lack them")
    monkeypatch.chdir(tmp_path)
    if page == "docs/howto/block-device.md":
        if missing := nbd.without("nbdkit", "nbdcopy", "mke2fs", "e2fsck") or nbd.cannot_build():
            pytest.skip(missing)
        (tmp_path / "examples").symlink_to(ROOT / "examples")
    names = {"__name__": "__main__"}
    try:
        for line, language, block, shown in listings(page):
            if language == "sh":
                if page in FOLLOWED:
                    printed = shell(block)
                    assert shown is None or not assert_printed(shown, printed, block)
                continue
            if "prometheus" in block:
                client = pytest.importorskip("prometheus_client")
                monkeypatch.setattr(client, "REGISTRY", client.CollectorRegistry())
            if "distributed" in block:
                pytest.importorskip("distributed")
            capsys.readouterr()
            code = compile("\n" * (line - 1) + block, page, "exec")
            exec(code, names)
            if page in FOLLOWED and shown is not None:
                assert_printed(shown, capsys.readouterr().out)
    finally:
        for value in list(names.values()):
            if isinstance(value, zswap.ZSwap):
                value.close()


def test_what_a_block_prints_is_compared():
    assert_printed("12 pages,  3.5 MiB\n", "7 pages, 81 KiB\n\n")
    with pytest.raises(AssertionError):
        assert_printed("12 pages\n", "12 sheets\n")
    with pytest.raises(AssertionError):
        assert_printed("12 pages\n", "")
    with pytest.raises(AssertionError, match="known"):
        assert_printed("something\n", "something\n", "zswap advise")
    assert_printed("RAM  1 GiB\nx\n", "RAM  2 GiB\nzram off\n", "zswap advise")
    with pytest.raises(AssertionError):
        assert_printed("RAM  1 GiB\nzram  off\n", "RAM  2 GiB\n", "zswap advise")


def test_pages_that_are_followed_show_what_each_block_prints():
    """Nothing that was to be filled in later; and there are such pages."""
    assert len(FOLLOWED) > 8
    for page in FOLLOWED:
        blocks = listings(page)
        assert any(shown for *_, shown in blocks), page
        for line, language, block, shown in blocks:
            prints = re.search(r"^ *print\(", block, re.MULTILINE) and language == "python"
            assert shown or not prints, f"{page}:{line}"


# Calls, assignments and attributes of an engine or of the package; not names of files, figures, or
# signatures with "...".
PYTHON_SPAN = re.compile(
    r"(?:print\(|help\()?(?:z|zswap|status|pages)(?:\.|\[)[a-zA-Z]\w*[\w.]*(?:[\[( =].*|\))?"
)


def python_spans():
    found = {}
    for page in PAGES:
        for span in spans(page):
            if (
                PYTHON_SPAN.fullmatch(span)
                and not span.endswith((".py", ".pyx", ".md", ".sock"))
                and "…" not in span
            ):
                found.setdefault(span, page)
    return found


def test_spans_of_python_are_found():
    assert {
        'z.compressor = "zstd:3"',
        "z.compact()",
        "print(z.stats())",
        "help(zswap.ZSwap)",
    } <= set(python_spans())


@pytest.mark.parametrize("span", python_spans())
def test_spans_of_python_run(span, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if "zswap.dask" in span:
        pytest.importorskip("distributed")
    for module in re.findall(r"zswap\.(?:dask|zict)\b", span):
        importlib.import_module(module)
    with zswap.ZSwap(max_pool_bytes="16MiB") as z:
        z.store_many(
            np.arange(20), np.random.default_rng(0).integers(0, 9, (20, z.page_size), np.uint8)
        )
        exec(span, {"zswap": zswap, "z": z, "n": 1, "path": str(tmp_path / "x")})


# ---- shell ---------------------------------------------------------------------------------------


def commands():
    """Each command of the blocks and spans, with its page: without variables set, comments and the
    parts of a pipe.  Not the blocks of pages that are followed, which are run as they are."""
    starts = re.compile(r"(?:\.venv/bin/)?(?:zswap|python3?|pytest|pip|bash)(?= )")
    for page in PAGES:
        shell = blocks(page, "sh") if page not in FOLLOWED else []
        lines = [line for _, block in shell for line in block.splitlines()]
        for line in (
            *lines,
            *(span for span in spans(page) if starts.match(re.sub(r"^\w+=\S+ ", "", span))),
        ):
            for part in re.split(r" (?:&&|\|\|?) |; ", line):
                words = shlex.split(part.replace("…", ""), comments=True)
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    words.pop(0)
                if words:
                    yield page, words


def options_of(command):
    names = {"--help", "-h"}
    for parameter in command.params:
        names |= {*parameter.opts, *parameter.secondary_opts}
    return names


def wrong_zswap(words):
    """What is wrong with a command line of zswap: words in brackets are optional there, `N` and
    `PATH` stand for values."""
    command = cli
    for word in words[: words.index("--")] if "--" in words else words:
        name = word.strip("[]")
        if isinstance(command, click.Group) and name in command.commands:
            command = command.commands[name]
        elif isinstance(command, click.Group) and not name.startswith("-"):
            return f"there is no command {name!r}"
        elif name.startswith("-") and name.partition("=")[0] not in options_of(command):
            return f"{command.name} has no option {name}"
    return None


def wrong(words):
    program, rest = words[0].rpartition("/")[2], words[1:]
    options = [word.partition("=")[0] for word in rest if word.startswith("--")]
    if program == "zswap":
        return wrong_zswap(rest)
    if program == "pip":
        declared = (ROOT / "pyproject.toml").read_text()
        extras = [extra for word in rest for extra in re.findall(r"\[([\w,-]+)\]", word)]
        missing = [
            extra for extra in extras if not re.search(rf"^{extra} = \[", declared, re.MULTILINE)
        ]
        return f"no extra {missing}" if missing else None
    paths = [
        word
        for word in rest
        if not word.startswith("-") and re.search(r"^(?:bench|tests|examples|docs)\b|\.pyx?$", word)
    ]
    missing = [
        path
        for path in paths
        if "." in path and not path.endswith((".png", ".svg")) and not (ROOT / path).exists()
    ]
    if missing:
        return f"{missing} is not there"
    if program.startswith("python") and paths and paths[0] != "setup.py":
        text = (ROOT / paths[0]).read_text()
        unknown = [option for option in options if f'"{option}"' not in text]
        return f"{paths[0]} has no option {unknown}" if unknown else None
    if program == "bash" and rest[0] == ".ci/run":
        gates = re.findall(r"^gate_(\w+)\(\)", (ROOT / ".ci/run").read_text(), re.MULTILINE)
        unknown = [gate for gate in rest[1:] if gate not in gates]
        return f"no gate {unknown}" if unknown and (ROOT / ".ci/run").exists() else None
    return None


def test_commands_are_found():
    programs = [words[0].rpartition("/")[2] for _, words in commands()]
    assert {"zswap", "python", "pip", "pytest"} <= set(programs)
    assert programs.count("zswap") > 10


def test_what_is_wrong_with_a_command_is_seen():
    assert wrong(["zswap", "analyze", "--no-such"])
    assert wrong(["zswap", "no-such"])
    assert wrong(["pip", "install", ".[no-such]"])
    assert wrong(["python", "bench/no_such.py"])
    assert wrong(["python", "bench/soak.py", "--no-such"])
    assert wrong(["zswap", "analyze", "[--pid", "N]", "--maps"]) is None


@pytest.mark.parametrize(
    ("page", "words"),
    [pytest.param(page, words, id=f"{page}: {' '.join(words)[:60]}") for page, words in commands()],
)
def test_commands_and_their_options_exist(page, words):
    assert wrong(words) is None, page


def test_the_report_in_the_readme_is_as_the_report_is_now():
    """Its parts, whatever the figures."""
    shown = next(block for block in blocks("README.md", "") if "demonstration" in block[1])[1]
    assert shown.splitlines()[0].startswith(demonstration.TITLE)
    for part in (
        r"^compressor +saves +store +load +this kernel's$",
        "^Worth it: zram with ",
        r"^To set zram \(",
        "^  dev=",
    ):
        assert re.search(part, shown, re.MULTILINE)
