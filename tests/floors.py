"""The floors of the compiled core: which module knows which, read from the cimports.

    python tests/floors.py [DIRECTORY]      prints them, the uppermost first

A module stands one floor above the highest that it knows.  Those that know each other in a circle
stand on one floor, and the exit code is 1.
"""

import re
import sys
from pathlib import Path

CORE = Path(__file__).resolve().parent.parent / "zswap_core"
CIMPORT = re.compile(
    r"^\s*(?:from zswap_core\.([\w.]+) cimport|cimport zswap_core\.([\w.]+))", re.MULTILINE
)


def graph(core=CORE):
    """For each module of the core the set of those that its .pyx and its .pxd cimport."""
    known = {}
    for path in sorted(core.rglob("*.p[yx][xd]")):
        if path.suffix in (".pyx", ".pxd"):
            name = ".".join(path.relative_to(core).with_suffix("").parts)
            known.setdefault(name, set()).update(
                a or b for a, b in CIMPORT.findall(path.read_text())
            )
    return {name: others - {name} for name, others in known.items()}


def reachable(known, start):
    """All that a module knows, itself or by others."""
    found, rest = set(), [start]
    while rest:
        for other in known[rest.pop()] - found:
            found.add(other)
            rest.append(other)
    return found


def circles(known):
    """The sets of modules that know each other in a circle."""
    below = {name: reachable(known, name) for name in known}
    return sorted(
        {
            frozenset(other for other in below[name] if name in below[other])
            for name in known
            if name in below[name]
        },
        key=sorted,
    )


def floors(known):
    """The floor of each module, from 0."""
    circle = {name: members for members in circles(known) for name in members}
    number = {}

    def floor(name):
        if name not in number:
            members = circle.get(name, {name})
            others = set().union(*(known[member] for member in members)) - set(members)
            height = 1 + max((floor(other) for other in others), default=-1)
            number.update(dict.fromkeys(members, height))
        return number[name]

    for name in known:
        floor(name)
    return number


def main(directory=CORE):
    known = graph(Path(directory))
    number = floors(known)
    for level in range(max(number.values()), -1, -1):
        print(f"floor {level}")
        for name in sorted(name for name in known if number[name] == level):
            print(f"    {name:24} {' '.join(sorted(known[name]))}".rstrip())
    found = circles(known)
    for members in found:
        print(f"circle of {len(members)}: {' '.join(sorted(members))}")
    print(
        f"{len(known)} modules, {sum(map(len, known.values()))} arrows, {max(number.values()) + 1} "
        f"floors, {len(found)} circles"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
