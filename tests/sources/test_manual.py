"""The manual page and the completions are of the commands as they are."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from hooks import ROOT
from zswap.__main__ import cli

SHELL = ROOT / "docs" / "shell"

pytestmark = pytest.mark.skipif(not SHELL.is_dir(), reason="the documents are not here")


@pytest.fixture(scope="module")
def manual():
    sys.path.insert(0, str(SHELL))
    try:
        import manual
    finally:
        sys.path.remove(str(SHELL))
    return manual


def test_the_page_is_of_the_commands_as_they_are(manual):
    assert manual.PAGE.read_text() == manual.page(), "run python docs/shell/manual.py"


def test_every_command_and_option_is_in_it(manual):
    text = manual.PAGE.read_text().replace("\\-", "-")
    for name, command in cli.commands.items():
        assert f".SS zswap {name} " in text
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert all(option in text for option in parameter.opts), parameter.opts


def test_the_page_is_roff(manual):
    if not shutil.which("groff"):
        pytest.skip("groff is not here")
    done = subprocess.run(
        ["groff", "-man", "-Tascii", "-ww", str(manual.PAGE)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "zswap advise" in re.sub(".\x08", "", done.stdout)


def test_roff_does_not_eat_text(manual):
    assert manual.escaped("a-b\\c\n.x\n'y") == "a\\-b\\ec\n\\&.x\n\\&'y"


def completed(tmp_path, *words):
    """What bash would offer."""
    program = tmp_path / "zswap"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m zswap "$@"\n')
    program.chmod(0o755)
    (tmp_path / "a-file").touch()
    quoted = " ".join(f"'{word}'" for word in words)
    script = (
        "compopt() { :; }\n"  # works within a completion alone
        f"source {SHELL / 'zswap'}\nCOMP_WORDS=(zswap {quoted})\nCOMP_CWORD={len(words)}\n"
        f'_zswap {program}\nprintf "%s\\n" "${{COMPREPLY[@]}}"\n'
    )
    folder = str(Path(cli.callback.__code__.co_filename).parents[1])
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": folder},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.slow
def test_bash_completes_commands_options_and_files(tmp_path):
    assert completed(tmp_path, "ad") == ["advise"]
    assert set(cli.commands) <= set(completed(tmp_path, ""))
    assert completed(tmp_path, "advise", "--wa") == ["--watch"]
    assert {"--pid", "--file", "--json"} <= set(completed(tmp_path, "analyze", "--"))
    assert completed(tmp_path, "analyze", "--file", "a-") == ["a-file"]


@pytest.mark.parametrize(("shell", "name"), [("zsh", "_zswap"), ("fish", "zswap.fish")])
def test_other_shells_can_read_theirs(shell, name):
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not here")
    subprocess.run([shell, "-n", str(SHELL / name)], check=True)


def test_what_the_wheel_installs_is_there():
    declared = re.findall(
        r'^"share/\S+" = \["(\S+)"\]$', (ROOT / "pyproject.toml").read_text(), re.M
    )
    assert len(declared) == 4
    assert all((ROOT / path).is_file() for path in declared)
