"""A brick for zict: the slow side of a `zict.Buffer`, in compressed memory instead of files.

zict.Buffer({}, zswap.zict.Store("1GiB"), n=10**9, weight=lambda key, value: sys.getsizeof(value))
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from zswap.objects import ObjectStore


class Store(ObjectStore):
    """An `ObjectStore` whose keys may be anything that is hashable, as zict's are.

    It needs no zict.  `close` is what zict calls at the end; `flush` does nothing, for nothing is
    waiting to be written.
    """

    @staticmethod
    def _check_key(key: object) -> None:
        hash(key)  # a TypeError where it has none

    def flush(self) -> None:
        """Do nothing: what is stored is in place."""
        self._map.get(None)  # closed?

    def discard(self, key: Any) -> None:
        """Free a value if there is one.

        Parameters
        ----------
        key : hashable
            Whose value.
        """
        with suppress(KeyError):
            del self[key]
