"""The manual page, made of the commands as they are: ``python docs/shell/manual.py`` writes it.

A test sees that it was done.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from zswap import __version__
from zswap.__main__ import cli

PAGE = Path(__file__).with_name("zswap.1")

EXITS = (
    ("0", "Done, whatever the verdict. zswap run has the exit code of the program."),
    ("1", "The work failed, or its result could not be written."),
    ("2", "Wrong usage, or a target that cannot be read."),
    ("126, 127", "zswap run: the program cannot be run, or is not there."),
    ("130", "Stopped by Ctrl-C; 128 and its number after another signal."),
)
ENVIRONMENT = (
    ("NO_COLOR", "No colours, if it is set and not empty."),
    ("COLUMNS", "The width to print for; a pipe is taken to be 120 columns wide."),
    ("ZSWAP_LIBRARIES", "system: take compressors from the system before the wheels'."),
    (
        "ZSWAP_LIBLZ4, ZSWAP_LIBZSTD, ZSWAP_LIBLZO2, ZSWAP_LIBDEFLATE",
        "The file of a library.",
    ),
    ("ZSWAP_LREF", "The variant of the compressor lref to take."),
    ("ZSWAP_TRACEBACK", "Anything: show where an error that should not be comes from."),
)
EXAMPLES = (
    ("zswap advise", "Should this machine compress its memory, and how?"),
    ("sudo zswap advise --watch 60", "The same of all processes, and how much of it lies idle."),
    ("zswap advise --unit postgresql", "What the processes of a unit would save."),
    ("zswap analyze --pid 1234 --maps", "One process, mapping by mapping."),
    ("zswap capture --pid 1234 -o pages", "Keep its pages."),
    ("zswap analyze --file pages --all-compressors", "Try every compressor on them."),
    (
        "zswap replay trace --memory 1GiB --max-pool-percent 10 --max-pool-percent 30",
        "What each limit would have done for a trace of touches.",
    ),
    ("zswap run --budget 2G --backing spill -- sort lines", "Sort in less memory than it takes."),
)


def escaped(text: str) -> str:
    """Text as roff has it."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        if number:
            yield ".PP"
        yield escaped(" ".join(paragraph.split()))


def option_lines(option: click.Option) -> Iterator[str]:
    names = ", ".join(f"\\fB{escaped(name)}\\fR" for name in option.opts)
    if option.metavar and not option.is_flag:
        names += f" \\fI{escaped(option.metavar)}\\fR"
    elif not option.is_flag and option.type.name == "choice":
        names += f" \\fI{escaped('|'.join(option.type.choices))}\\fR"
    elif not option.is_flag:
        names += " \\fIN\\fR"
    text = option.help or ""
    if option.show_default and not option.is_flag:
        text += f" {option.default} unless given."
    yield from (".TP", names, escaped(text))


def command_lines(name: str, command: click.Command) -> Iterator[str]:
    operands = " ".join(
        f"[\\fI{parameter.name.upper()}\\fR]"
        if not parameter.required
        else f"\\fI{parameter.name.upper()}\\fR"
        for parameter in command.params
        if isinstance(parameter, click.Argument) and parameter.metavar != ""
    )
    yield f".SS zswap {name} [\\fIOPTIONS\\fR] {operands}".rstrip()
    yield from paragraphs(command.help or "")
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            yield from option_lines(parameter)


def listed(title: str, rows: tuple[tuple[str, str], ...]) -> Iterator[str]:
    yield f".SH {title}"
    for word, text in rows:
        yield from (".TP", f"\\fB{escaped(word)}\\fR", escaped(text))


def page() -> str:
    """The whole page."""
    lines = [
        '.\\" made by docs/shell/manual.py of the commands as they are',
        f'.TH ZSWAP 1 "" "zswap {__version__}" "User Commands"',
        ".SH NAME",
        "zswap \\- see what compressing memory would save",
        ".SH SYNOPSIS",
        ".B zswap",
        "\\fICOMMAND\\fR [\\fIOPTIONS\\fR]",
        ".SH DESCRIPTION",
        *paragraphs(
            "Reads the memory of processes, files or core dumps, compresses a sample of it as the "
            "kernel would, and says what zswap or zram would save and cost. Nothing is stopped, "
            "swapped or changed.\n\n"
            "Words without an option, as in zswap analyze 1 2, belong to the option before them."
        ),
        ".SH COMMANDS",
    ]
    for name, command in sorted(cli.commands.items()):
        lines += command_lines(name, command)
    lines += listed("EXIT STATUS", EXITS)
    lines += listed("ENVIRONMENT", ENVIRONMENT)
    lines += listed("EXAMPLES", EXAMPLES)
    lines += [".SH SEE ALSO", ".BR zramctl (8),", ".BR swapon (8),", ".BR proc (5)"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
