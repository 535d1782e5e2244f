"""The model of threads that share locks (bench/model): where the answer is known it gives that."""

import importlib.util
import json
from pathlib import Path

import pytest

MODEL = Path(__file__).resolve().parents[2] / "bench" / "model"
if not MODEL.is_dir():
    pytest.skip("the benches are not here", allow_module_level=True)


def load(name):
    spec = importlib.util.spec_from_file_location(f"model_{name}", MODEL / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


queues = load("queues")
Lock, simulate = queues.Lock, queues.simulate


def rate(*args, pages=6000, **kwargs):
    """Pages a microsecond."""
    return simulate(*args, pages=pages, **kwargs) / 1e6


def machine_repair(outside, held, threads):
    """Pages a microsecond where one lock is shared and all times are exponential: mean value
    analysis, which is exact for that."""
    waiting, found = 0.0, 0.0
    for n in range(1, threads + 1):
        response = held * (1 + waiting)
        found = n / (outside + response)
        waiting = found * response
    return found * 1000


@pytest.mark.parametrize("threads", [1, 2, 64])
def test_without_a_lock_threads_add_up(threads):
    assert rate(500, [], threads) == pytest.approx(2 * threads, rel=0.05)


@pytest.mark.parametrize("threads", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("outside", [100, 1000])
def test_one_lock_is_the_machine_repair_model(threads, outside):
    found = rate(outside, [Lock("shard", 1, 100)], threads)
    assert found == pytest.approx(machine_repair(outside, 100, threads), rel=0.05)


def test_nothing_but_a_lock_goes_one_at_a_time():
    for threads in (1, 2, 16):
        assert rate(0, [Lock("shard", 1, 100)], threads) == pytest.approx(10, rel=0.05)
    # and each time it moves to another processor
    assert rate(0, [Lock("shard", 1, 100)], 2, transfer_ns=100) == pytest.approx(5, rel=0.05)
    assert rate(0, [Lock("shard", 1, 100)], 1, transfer_ns=100) == pytest.approx(10, rel=0.05)


def test_a_lock_for_sixteen_pages_moves_a_sixteenth_as_often():
    each = rate(0, [Lock("shard", 1, 50)], 8, transfer_ns=100)
    together = rate(0, [Lock("shard", 1 / 16, 800)], 8, transfer_ns=100, pages=20_000)
    assert each == pytest.approx(1000 / 150, rel=0.05)
    assert together == pytest.approx(1000 / (50 + 100 / 16), rel=0.05)


def test_several_locks_are_shared_by_as_many():
    one, ten = Lock("class", 1, 100), Lock("class", 1, 100, [1] * 1000)
    assert rate(900, [ten], 64) == pytest.approx(64, rel=0.05)
    # one of which two pages in five go to is what one lock of so many visits is
    uneven = Lock("class", 1, 100, [0.4] + [0.6 / 1000] * 1000)
    assert rate(900, [uneven], 64) == pytest.approx(25, rel=0.05)
    assert rate(900, [one], 64) == pytest.approx(10, rel=0.05)


def test_what_lies_inside_another_counts_once():
    nested = [Lock("class", 2, 100), Lock("arena", 1, 60, inside="class")]
    assert rate(800, nested, 1) == pytest.approx(1, rel=0.05)  # 800 + 2 x 100
    assert rate(800, nested, 64) == pytest.approx(5, rel=0.05)
    # with many classes the one inside them is what all wait for
    nested[0] = nested[0]._replace(shares=[1] * 1000)
    assert rate(800, nested, 64) == pytest.approx(1000 / 60, rel=0.05)


def test_the_same_seed_gives_the_same():
    locks = [Lock("shard", 0.5, 70), Lock("class", 2, 20, [1, 2, 3])]
    assert rate(200, locks, 5, seed=1) == rate(200, locks, 5, seed=1)
    assert rate(200, locks, 5, seed=1) != rate(200, locks, 5, seed=2)


def test_how_far_it_is_linear():
    assert queues.linear_up_to({1: 1, 2: 1.9, 4: 3.3, 8: 5, 16: 16}) == 4
    assert queues.linear_up_to({1: 1, 2: 1.1}) == 1


def test_the_inputs_are_whole():
    inputs = json.loads((MODEL / "inputs.json").read_text())
    assert sum(inputs["class_shares"]) == pytest.approx(1, abs=0.01)
    for calls in inputs["builds"].values():
        assert set(calls) == {
            *("store in order", "store at random", "store raw", "store same-filled"),
            *("load in order", "load at random"),
        }
        for found in calls.values():
            held = sum(
                row["per_page"] * row["held_ns"]
                for kind, row in found["locks"].items()
                if kind in ("shard", "class")
            )
            assert found["page_ns"] == pytest.approx(found["outside_ns"] + held, rel=0.02)
