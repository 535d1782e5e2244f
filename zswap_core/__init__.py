"""The compiled core of zswap.  Programs use the package `zswap`; plug-ins cimport `zswap_core.abi`."""

from pathlib import Path


def get_include() -> str:
    """Return the directory to compile a plug-in against: it holds ``zswap/abi.h``."""
    return str(Path(__file__).parent / "include")
