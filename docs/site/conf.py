"""Sphinx's settings for docs/site/build.py."""

project = "zswap"
copyright = "the zswap authors, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "index"

myst_heading_anchors = 4  # named as GitHub names them, so that links serve both
highlight_language = "none"
suppress_warnings = [
    "misc.highlighting_failure",  # Cython and roff, which are only shown
    "ref.python",  # in a docstring, a name that several classes have
]

default_role = "py:obj"  # a name in single backticks is a link, where there is such a thing
autodoc_member_order = "groupwise"
autodoc_typehints = "none"  # types are in the docstrings
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "furo"
_SMALL = {"code-font-size": "0.7rem"}  # 100 columns fit beside the contents
html_theme_options = {"light_css_variables": _SMALL, "dark_css_variables": _SMALL}
html_title = "zswap"
html_copy_source = False
html_show_sourcelink = False


def skip(app, what, name, obj, skip, options):
    """Leave out fields of named tuples: the class says what they are."""
    return True if type(obj).__name__ == "_tuplegetter" else skip


def setup(app):
    app.connect("autodoc-skip-member", skip)
