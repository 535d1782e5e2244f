"""Pages for the benchmarks: small by default, `--pages N` for more.  Run with `pytest bench
--benchmark-only`."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import hooks  # noqa: F401 (it makes _validate, and is where Zpool is from)
import zswap
from zswap.bench import corpora


def pytest_addoption(parser):
    parser.addoption(
        "--pages", type=int, default=1024, metavar="N", help="pages of each corpus (default: 1024)"
    )


@pytest.fixture(scope="session")
def count(request):
    return request.config.getoption("--pages")


@pytest.fixture(scope="session")
def made(count):
    """The pages of a corpus, made once."""
    kept = {}

    def pages(name):
        if name not in kept:
            try:
                kept[name] = corpora.make(name, count)
            except corpora.CorpusMissing as error:
                pytest.skip(str(error))
        return kept[name]

    return pages


@pytest.fixture(params=["process", "text", "pointers", "floats", "same-filled", "random"])
def pages(request, made):
    return made(request.param)


@pytest.fixture
def offsets(pages):
    return np.arange(len(pages), dtype=np.uint64)


@pytest.fixture
def shuffled(offsets):
    return np.random.default_rng(0).permutation(offsets)


@pytest.fixture
def engine():
    with zswap.ZSwap("lz4", max_pool_bytes="1GiB") as engine:
        yield engine
