"""Docstrings of classes whose rows say what there is to say."""

import inspect
import textwrap
from collections.abc import Iterable


def document(cls: type, rows: Iterable[tuple[str, str]], heading: str = "") -> None:
    """Add to a class's docstring a section of its rows: name and kind, and the sentence."""
    # Without its indentation, which CPython 3.13 and later leave out themselves.
    doc = [inspect.cleandoc(cls.__doc__ or ""), ""]
    if heading:
        doc += [heading, "-" * len(heading)]
    for name, text in rows:
        doc += [name, textwrap.indent(textwrap.fill(text, 92), "    ")]
    cls.__doc__ = "\n".join(doc)
