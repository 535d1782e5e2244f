"""The fuzzers' drives, on inputs that were found and on some of every length at random."""

import importlib
import random
import sys

import pytest

from hooks import ROOT

FUZZ = ROOT / "tests" / "fuzz"


@pytest.fixture
def drive(request, monkeypatch):
    monkeypatch.syspath_prepend(str(FUZZ))
    module = importlib.import_module(request.param)
    yield module
    for name in {request.param, "api", "common"}:  # these names are too common to be left behind
        sys.modules.pop(name, None)


def found():
    return [(path.parent.name, path) for path in sorted(FUZZ.glob("corpus/*/*"))]


@pytest.mark.parametrize(
    ("drive", "path"), found(), indirect=["drive"], ids=lambda value: getattr(value, "name", value)
)
def test_what_was_found(drive, path):
    drive.one_input(path.read_bytes())


@pytest.mark.parametrize(
    ("drive", "count"),
    [("decompress", 400), ("api", 60), ("parts", 120), ("swapfile", 300)],
    indirect=["drive"],
)
def test_at_random(drive, count):
    rng = random.Random(count)
    for _ in range(count):
        drive.one_input(rng.randbytes(rng.choice((0, 1, 8, 30, 100, 400))))
