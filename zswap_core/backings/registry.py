"""Backing stores by name.

A spec is a name, or a name and what its factory is to make of it: "memory", "memory:64MiB".
"""

from collections.abc import Callable
from typing import Any

from zswap_core.backings.base import Backing
from zswap_core.backings.capsule import CapsuleBacking, is_capsule
from zswap_core.registry import Registry

__all__ = ["backings", "open_registered", "register_backing", "unregister_backing"]

_backings = Registry("backing store", LookupError)


def backings() -> list[str]:
    """List the names of the backing stores that were registered."""
    return _backings.names()


def register_backing(name: str, *, factory: Callable[..., Any]) -> None:
    """Add a backing store from outside, to be opened as ``backing="name"`` or ``"name:argument"``.

    Parameters
    ----------
    name : str
        Lower-case letters, digits, "_", "." and "-".  One registered before is replaced for whoever
        opens it from now on.  A file of that name needs a path, as in ``"./name"``, from now on.
    factory : callable
        ``factory(argument, page_size)``, `argument` a str or None, returns a PyCapsule of a
        ``zsw_backing`` (see ``zswap/abi.h``), which works without the GIL, or an object with
        ``write_pages`` and ``read_pages``.

    Raises
    ------
    ValueError
        The name is not allowed.
    """
    _backings.check(name)
    if not callable(factory):
        raise TypeError("factory must be callable")
    _backings.add(name, factory)


def unregister_backing(name: str) -> None:
    """Take a registered backing store away.  What uses it already goes on using it.

    Parameters
    ----------
    name : str
        The name it was registered under.

    Raises
    ------
    LookupError
        Nothing was registered under that name.
    """
    _backings.remove(name)


def open_registered(spec: str, page_size: int) -> "Backing | Any | None":
    """Make a store by the factory of that name, or return None where no such name was added."""
    name, colon, argument = spec.partition(":")
    factory = _backings.get(name)
    if factory is None:
        return None
    made = factory(argument if colon else None, page_size)
    return CapsuleBacking(made, f"backing store {spec}") if is_capsule(made) else made
