"""What the kernel does beside the codec: from the table, or measured in a zram device."""

import os

import numpy as np
import pytest

from zswap import costs
from zswap.bench.rows import RowMissing
from zswap.costs import Costs
from zswap.pages import open_files

PAGE = 4096


@pytest.fixture
def source(tmp_path):
    """Two hundred pages, half of them same-filled."""
    pages = np.zeros((200, PAGE), np.uint8)
    pages[::2, :600] = np.random.default_rng(0).integers(0, 256, (100, 600))
    path = tmp_path / "pages"
    path.write_bytes(pages.tobytes())
    with open_files([path]) as opened:
        yield opened


def test_the_table_says_that_it_is_one():
    found = costs.from_table("Some Other CPU")
    assert not found.measured
    assert "from a table (AMD EPYC" in found.words
    assert min(found.store_us, found.load_us, found.fault_us) > 0


def test_a_fault_is_scaled_by_what_a_first_touch_takes(monkeypatch):
    row = costs.TABLE[0]
    monkeypatch.setattr(costs, "first_touch_us", lambda: row.first_touch_us / 2)
    found = costs.from_table(row.cpu)
    assert found.fault_us == pytest.approx(row.fault_us / 2)
    assert (found.store_us, found.load_us) == (row.store_us, row.load_us)
    monkeypatch.setattr(costs, "first_touch_us", lambda: 1e9)
    assert costs.from_table(row.cpu).fault_us == pytest.approx(4 * row.fault_us)


def test_the_first_touch_of_a_page_takes_a_while():
    assert 0.01 < costs.first_touch_us() < 100


def test_what_was_measured_goes_before_what_is_reckoned():
    found = Costs(1.0, 2.0, 3.0, True, "", {"zstd": (20.0, 7.0)})
    assert found.of("zstd", 15.0, 5.0) == (20.0, 7.0)
    assert found.of("lz4", 5.0, 2.0) == (6.0, 4.0)
    assert found.of("lzo", 5.0, 4.0) == (6.0, 4.0)  # liblzo2 takes longer than the kernel
    assert costs.NO_COSTS.of("lz4", 5.0, 2.0) == (5.0, 2.0)


def test_a_user_gets_the_table(source, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(costs, "in_zram", None)  # it would fail
    assert not costs.for_machine("x", source, ["lz4"]).measured


def test_without_a_device_it_is_the_table(source, monkeypatch):
    def missing(*arguments):
        raise RowMissing("every zram device is in use")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(costs, "in_zram", missing)
    assert not costs.for_machine("x", source, ["lz4"]).measured
    monkeypatch.setattr(costs, "in_zram", None)
    assert not costs.for_machine("x", None, ["lz4"]).measured
    assert not costs.for_machine("x", source, []).measured
    assert not costs.for_machine("x", source, ["842"]).measured  # none that is quick


def test_each_algorithm_is_timed_on_pages_that_are_not_same_filled(source, monkeypatch):
    seen = []

    def timed(pages, algorithm, rounds):
        seen.append((algorithm, len(pages)))
        return costs.InZram(algorithm, 9.0, 3.0, 1, 2)

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(costs, "in_zram", timed)
    found = costs.for_machine("x", source, ["842", "lz4", "lzo-rle"])
    assert seen == [("lz4", 100), ("lzo-rle", 100)]
    assert found.measured
    assert found.of("lzo-rle", 1.0, 1.0) == (9.0, 3.0)
    assert "measured in a zram device of this kernel" in found.words
    assert "lz4 9.0 and 3.0 µs" in found.words


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="zram is root's")
def test_a_real_device_is_timed_and_given_back(source, given_back):
    pages = np.random.default_rng(0).integers(0, 4, (64, PAGE), np.uint8)
    try:
        found = costs.in_zram(pages, "lz4", 1)
    except RowMissing as error:
        pytest.skip(str(error))
    assert min(found.store_us, found.load_us) > 0
    assert 0 < found.payload < pages.nbytes
    given_back()
