"""The documentation site: README.md, docs/ and their kin as they are, with a reference made anew.

python docs/site/build.py FOLDER    makes FOLDER/html; a warning is an error

It takes `pip install '.[docs]'`. Pages are laid out in FOLDER/source, where a link that leaves
them leads to a page made here: of the commands, of the docstrings, of a source. So links serve on
GitHub and in the site, and nothing is written twice.
"""

from __future__ import annotations

import importlib
import inspect
import posixpath
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INDEX = "docs/index.md"
#: What stands for these sources in the site.
MADE = {"zswap/__init__.py": "python.md", "zswap/__main__.py": "commands.md"}
#: Sources that can be shown, and in which language.
SHOWN = {
    ".py": "python",
    ".pyx": "cython",
    ".pxd": "cython",
    ".c": "c",
    ".h": "c",
    ".sh": "sh",
    ".toml": "toml",
    ".md": "md",
    ".supp": "none",
    ".fish": "fish",
    ".1": "groff",
}
#: Public, and not in `zswap.__all__`.
BESIDE = ("zswap.serve.StatsServer", "zswap.zict.Store")

LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
RECORDING = re.compile(r"^\[[^\]]+\]\((\S+\.cast)\)$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def place(path: str) -> str:
    """Where a file or folder of the repository is in the site."""
    if path in MADE:
        return MADE[path]
    if path.startswith("docs/") and path.endswith((".md", ".png", ".cast")):
        return path.removeprefix("docs/")
    if path.endswith(".md") and "/" not in path:
        return path.lower()
    return f"source/{path}/index.md" if (ROOT / path).is_dir() else f"source/{path}.md"


def links(text: str) -> Iterator[re.Match[str]]:
    """Links to other files, those in code left out."""
    code = [match.span() for match in FENCE.finditer(text)]
    code += [match.span() for match in re.finditer(r"`[^`\n]*`", text)]
    for match in LINK.finditer(text):
        if not any(start <= match.start() < end for start, end in code):
            yield match


def target(page: str, link: str) -> str:
    """The file or folder that a page's link names."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def relinked(page: str, text: str) -> str:
    """A page of the repository with links for the site."""
    folder = posixpath.dirname(place(page))
    for match in reversed([*links(text)]):
        there = posixpath.relpath(place(target(page, match[1])), folder or ".")
        text = f"{text[: match.start(1)]}{there}{text[match.end(1) :]}"
    return text


def with_recordings(page: str, text: str) -> str:
    """A page with the text of each recording under the link to it."""

    def shown(match: re.Match[str]) -> str:
        sys.path.insert(0, str(ROOT / "docs" / "recordings"))
        from record import text_of

        return f"{match[0]}\n\n```\n{text_of(ROOT / target(page, match[1]))}\n```"

    return RECORDING.sub(shown, text)


# ---- pages that are made -------------------------------------------------------------------------


def commands_page() -> str:
    """Each command's help."""
    import click

    from zswap.__main__ import cli

    def helped(command: click.Command, name: str) -> str:
        context = click.Context(command, info_name=name, terminal_width=90)
        return f"```\n{command.get_help(context)}\n```\n"

    parts = ["# Commands\n", "`python -m zswap` is the same. As a manual page: zswap(1).\n"]
    parts.append(helped(cli, "zswap"))
    for name, command in sorted(cli.commands.items()):
        parts += [f"## zswap {name}\n", helped(command, f"zswap {name}")]
    return "\n".join(parts)


def python_page() -> str:
    """All that is public, the engine first."""
    import zswap

    names = [f"zswap.{name}" for name in sorted(zswap.__all__, key=lambda n: (n != "ZSwap", n))]
    kinds: dict[str, list[str]] = {"class": [], "function": [], "exception": []}
    for name in (*names, *BESIDE):
        module, _, word = name.rpartition(".")
        thing = getattr(importlib.import_module(module), word)
        kinds[
            "function"
            if not inspect.isclass(thing)
            else "exception"
            if issubclass(thing, BaseException)
            else "class"
        ].append(name)
    parts = ["# Python\n", "Made of the docstrings; `help(zswap.ZSwap)` shows the same.\n"]
    for kind, title in (("class", "Classes"), ("function", "Functions"), ("exception", "Errors")):
        parts.append(f"## {title}\n")
        for name in kinds[kind]:
            options = "" if kind == "function" else "   :members:\n"
            if name == "zswap.ZSwap":
                options += "   :inherited-members: MutableMapping\n"
            head = f"### {name.removeprefix('zswap.')}\n\n" if kind == "class" else ""
            parts.append(f"{head}```{{eval-rst}}\n.. auto{kind}:: {name}\n{options}```\n")
    return "\n".join(parts)


def source_page(path: str) -> str:
    """A source as it is, or what is in a folder."""
    there = ROOT / path
    head = f"---\norphan: true\n---\n# {path}\n\n"
    if not there.is_dir():
        return f"{head}~~~~~~{SHOWN.get(there.suffix, 'none')}\n{there.read_text()}~~~~~~\n"
    inside = [
        entry.name
        for entry in sorted(there.iterdir())
        if (entry.is_file() and entry.suffix in SHOWN)
        or (entry.is_dir() and any(some.suffix in SHOWN for some in entry.glob("[!_.]*")))
    ]
    return head + "".join(
        f"- [{name}]({posixpath.relpath(place(f'{path}/{name}'), f'source/{path}')})\n"
        for name in inside
        if name not in ("build", "__pycache__")
    )


def contents(text: str) -> str:
    """The table of contents that the lists of the index make."""
    parts = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        pages = re.findall(r"^- \[[^\]]+\]\((\S+?)\.md\)", section, re.MULTILINE)
        title = section.partition("\n")[0]
        parts.append("\n```{toctree}\n:hidden:\n:caption: " + title + "\n")
        parts += [f"{page}\n" for page in pages]
        parts.append("```\n")
    return "".join(parts)


# ---- all of it -----------------------------------------------------------------------------------


def laid_out() -> dict[str, str | Path]:
    """Every file of the site's source: its text, or what it is a copy of."""
    made = {"zswap/__init__.py": python_page, "zswap/__main__.py": commands_page}
    files: dict[str, str | Path] = {}
    todo = [INDEX]
    while todo:
        path = todo.pop()
        where = place(path)
        if where in files:
            continue
        if path in made:
            files[where] = made[path]()
        elif where.endswith((".png", ".cast")):
            files[where] = ROOT / path
        elif where.startswith("source/"):
            files[where] = text = source_page(path)
            if (ROOT / path).is_dir():
                todo += [
                    f"{path}/{name.partition('/')[0].removesuffix('.md')}"
                    for name in re.findall(r"^- \[[^\]]+\]\((\S+)\)", text, re.MULTILINE)
                ]
        else:
            text = (ROOT / path).read_text()
            todo += [target(path, match[1]) for match in links(text)]
            text = relinked(path, with_recordings(path, text))
            files[where] = text + contents(text) if path == INDEX else text
    return files


def main(folder: str) -> int:
    """Build it; the exit code of Sphinx."""
    from sphinx.cmd.build import main as sphinx

    source = Path(folder) / "source"
    shutil.rmtree(source, ignore_errors=True)
    for name, content in laid_out().items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, source / name)
        else:
            (source / name).write_text(content)
    settings = str(Path(__file__).parent)
    out = str(Path(folder) / "html")
    return sphinx(["-q", "-W", "--keep-going", "-c", settings, str(source), out])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
