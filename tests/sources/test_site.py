"""The documentation site and the recordings in it."""

import importlib.util
import json
import posixpath
import re
import subprocess
import sys

import pytest

from hooks import ROOT
from zswap.__main__ import cli

DOCS = ROOT / "docs"

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the documents are not here")

RECORDINGS = sorted((DOCS / "recordings").glob("*.cast"))


def script(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site():
    return script(DOCS / "site" / "build.py")


@pytest.fixture(scope="module")
def laid_out(site):
    """The site's source, recordings left as links: their text takes a terminal's emulation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site, "with_recordings", lambda page, text: text)
        return site.laid_out()


def test_links_are_for_the_site(site):
    text = "[a](design.md#the-index) `[b](x.md)` [c](../zswap/kernel.py) [d](https://x.y/z) [e](#f)"
    assert site.relinked("docs/kernel.md", text) == (
        "[a](design.md#the-index) `[b](x.md)` [c](source/zswap/kernel.py.md) [d](https://x.y/z) "
        "[e](#f)"
    )
    assert site.relinked("README.md", "[a](docs/howto/c.md) [b](SECURITY.md#x)") == (
        "[a](howto/c.md) [b](security.md#x)"
    )
    assert site.relinked("docs/howto/c.md", "[a](../../examples)") == (
        "[a](../source/examples/index.md)"
    )


def test_every_document_is_in_the_site(site, laid_out):
    documents = [str(path.relative_to(ROOT)) for path in DOCS.rglob("*.md")]
    assert {site.place(path) for path in documents} <= set(laid_out)
    assert {"readme.md", "security.md", "python.md", "commands.md"} <= set(laid_out)


def test_documents_are_not_written_twice(site, laid_out):
    """But for links, the site's pages are the files."""
    for path in ("docs/design.md", "docs/kernel.md", "SECURITY.md"):
        before, after = (ROOT / path).read_text(), laid_out[site.place(path)]
        assert re.sub(r"\]\([^)]*\)", "]()", before) == re.sub(r"\]\([^)]*\)", "]()", after)


def test_every_link_of_the_site_leads_to_one_of_its_files(site, laid_out):
    for name, text in laid_out.items():
        if isinstance(text, str) and "\n~~~~~~" not in text:  # which is a source
            for match in site.links(text):
                there = posixpath.normpath(posixpath.join(posixpath.dirname(name), match[1]))
                assert there in laid_out, f"{name}: {match[1]}"


def test_the_contents_are_the_lists_of_the_index(site, laid_out):
    listed = re.findall(r"^([\w/-]+)$", site.contents(laid_out["index.md"]), re.MULTILINE)
    assert {"tutorial", "howto/server", "reference", "design", "python", "commands"} <= set(listed)
    pages = {n.removesuffix(".md") for n in laid_out if n.endswith(".md") and "source/" not in n}
    assert pages - set(listed) == {"index"}


def test_the_reference_has_all_that_is_public(laid_out):
    import zswap

    for name in zswap.__all__:
        assert re.search(rf"^\.\. auto\w+:: zswap\.{name}$", laid_out["python.md"], re.MULTILINE)
    for name, command in cli.commands.items():
        assert f"## zswap {name}\n" in laid_out["commands.md"]
        for parameter in command.params:
            assert all(o in laid_out["commands.md"] for o in parameter.opts if o.startswith("--"))


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(site, tmp_path):
    for module in ("sphinx", "myst_parser", "furo", "pyte"):
        pytest.importorskip(module, reason=f"{module} of the extra `docs` is not here")
    assert site.main(str(tmp_path)) == 0
    index = (tmp_path / "html" / "index.html").read_text()
    assert "tutorial.html" in index
    assert "store_many" in (tmp_path / "html" / "python.html").read_text()


# ---- recordings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_recordings_are_casts(path):
    assert path.stat().st_size < 100_000
    head, *events = map(json.loads, path.read_text().splitlines())
    assert head["version"] == 2
    assert {"width", "height", "timestamp", "title"} <= set(head)
    times = [time for time, _, _ in events]
    assert times == sorted(times)
    assert {kind for _, kind, _ in events} == {"o"}
    command = events[0][2].split()
    assert command[:2] == ["$", "zswap"]
    assert command[2] in cli.commands


def test_there_is_a_recording_of_each_session():
    sessions = script(DOCS / "recordings" / "record.py").SESSIONS
    assert {path.stem for path in RECORDINGS} == set(sessions)


def test_a_command_is_recorded():
    recorder = script(DOCS / "recordings" / "record.py")
    session = recorder.Session("version", 40, 10, "zswap --version")
    head, *events = map(json.loads, recorder.record(session).splitlines())
    assert (head["width"], head["height"]) == (40, 10)
    said = "".join(data for _, _, data in events)
    assert re.match(r"\$ zswap --version\r\nzswap \d", said)


def test_the_builder_says_how_to_call_it():
    done = subprocess.run(
        [sys.executable, str(DOCS / "site" / "build.py")],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "FOLDER" in done.stderr
