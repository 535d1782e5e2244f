"""The compiled core of zswap.

Programs use the package `zswap`; plug-ins cimport `zswap_core.abi`.
"""

import os.path


def get_include() -> str:
    """Return the directory to compile a plug-in against: it holds ``zswap/abi.h``."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "include")
