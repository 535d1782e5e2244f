"""Plug-ins by name: compressors, zpools and backing stores are added and taken away alike."""

import re
from typing import Any

from zswap_core.locks import Lock

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,31}")


class Registry:
    """The plug-ins of one kind.

    Parameters
    ----------
    kind : str
        What messages call one.
    missing : type
        The exception for a name that there is not.
    builtin : dict of str to object, optional
        What comes with zswap: it can be neither replaced nor taken away.
    """

    def __init__(
        self, kind: str, missing: type[Exception], builtin: "dict[str, Any] | None" = None
    ) -> None:
        self.kind, self.missing = kind, missing
        self.builtin: dict[str, Any] = builtin or {}
        self._added: dict[str, Any] = {}
        self._lock = Lock()

    def names(self) -> list[str]:
        """Those that come with zswap in their order, then the others."""
        with self._lock:
            return [*self.builtin, *sorted(self._added)]

    def get(self, name: str) -> Any:
        """Return what has this name, or None."""
        with self._lock:
            return self.builtin.get(name) or self._added.get(name)

    def find(self, name: str) -> Any:
        """Return what has this name, or raise and say what there is."""
        found = self.get(name)
        if found is None:
            known = ", ".join(self.names()) or "none"
            raise self.missing(f"there is no {self.kind} {name!r}; there are {known}")
        return found

    def check(self, name: str) -> None:
        """Raise where none can be added under this name."""
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} is not a name for a {self.kind}: use a-z, 0-9, '_', '.' and '-', "
                "32 at most"
            )
        if name in self.builtin:
            raise ValueError(f"{self.kind} {name!r} comes with zswap and cannot be replaced")

    def add(self, name: str, plugin: Any) -> None:
        """Add one, in place of what was added under that name before."""
        with self._lock:
            self._added[name] = plugin

    def remove(self, name: str) -> None:
        """Take one away.  What uses it already goes on using it."""
        if name in self.builtin:
            raise ValueError(f"{self.kind} {name!r} comes with zswap and cannot be taken away")
        with self._lock:
            if self._added.pop(name, None) is None:
                raise self.missing(f"no {self.kind} {name!r} was registered")
