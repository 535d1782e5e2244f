"""The exceptions of zswap.

Wrong arguments are `ValueError` or `TypeError`, as everywhere in Python.
"""

from typing import Any


class Error(Exception):
    """Base of every error that is zswap's own."""


class PoolLimitError(Error):
    """The pool is at its limit, and there is no backing store to take the page instead."""


class StoreError(Error):
    """Pages of a batch are not held: raised by ``store_many(..., errors="raise")``, once for all.

    Attributes
    ----------
    offsets : list of int
        Of the pages that are not held.
    reasons : list of Status
        Why, for each of these.
    status : ndarray of int8
        What `store_many` would have returned: a status for every page of the batch.
    """

    def __init__(
        self,
        message: str,
        offsets: "list[int] | None" = None,
        reasons: Any = None,
        status: Any = None,
    ) -> None:
        super().__init__(message)
        self.offsets = offsets or []
        self.reasons = reasons or []
        self.status = status


class CompressorNotFound(Error, LookupError):
    """No compressor has this name, or the library that it needs is not there."""


class PageCorruptError(Error):
    """A page is not what was stored, in memory or in the backing store.

    Its entry is kept, and counted.
    """


class BackingError(Error, OSError):
    """The backing store failed to read or write pages."""
