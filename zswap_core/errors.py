"""The exceptions of zswap.  Wrong arguments are `ValueError` or `TypeError`, as everywhere in Python."""


class Error(Exception):
    """Base of every error that is zswap's own."""


class PoolLimitError(Error):
    """The pool is at its limit, and there is no backing store to take the page instead."""


class CompressorNotFound(Error, LookupError):
    """No compressor has this name, or the library that it needs is not there."""


class PageCorruptError(Error):
    """A page is not what was stored, in memory or in the backing store.  Its entry is kept, and counted."""


class BackingError(Error, OSError):
    """The backing store failed to read or write pages."""
