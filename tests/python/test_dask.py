"""`zswap.dask.SpillTier` and `zswap.zict.Store`: the tiers under Dask and zict."""

import os
import random
import subprocess
import sys
import threading

import numpy as np
import pytest

from hooks import ROOT
from zswap.zict import Store


def noise(n, seed=0):
    return random.Random(seed).randbytes(n)


# ---- zict ----------------------------------------------------------------------------------------


def test_keys_are_whatever_is_hashable():
    with Store("4MiB") as store:
        for key in (1.5, None, frozenset([1]), ("a", None), "a"):
            store[key] = b"1"
            assert store[key] == b"1"
        with pytest.raises(TypeError, match="unhashable"):
            store[[1]] = b""
        store.discard("a")
        store.discard("a")
        assert "a" not in store
        store.flush()
    with pytest.raises(ValueError, match="closed"):
        store.flush()


def test_under_a_zict_buffer():
    zict = pytest.importorskip("zict")
    buffer = zict.Buffer({}, Store("16MiB"), n=100_000, weight=lambda key, value: len(value))
    values = {n: noise(30_000, n) for n in range(20)}
    buffer.update(values)
    assert len(buffer.fast) == 3
    assert len(buffer.slow) == 17
    assert dict(buffer) == values
    del buffer[0]
    assert 0 not in buffer.slow
    buffer.close()
    assert buffer.slow.closed


@pytest.mark.parametrize("backing", [False, True], ids=["memory", "file"])
@pytest.mark.parametrize("buffered", [False, True], ids=["alone", "buffered"])
@pytest.mark.parametrize(
    "check", ["mapping", "different_keys_threadsafe", "same_key_threadsafe", "closing"]
)
def test_zicts_own_checks(tmp_path, check, buffered, backing):
    """What zict's tests ask of each of its mappings."""
    zict = pytest.importorskip("zict")
    checks = pytest.importorskip("zict.tests.utils_test")
    store = Store("4MiB", backing=tmp_path / "spill" if backing else None)
    mapping = zict.Buffer({}, store, n=100, weight=lambda k, v: len(v)) if buffered else store
    getattr(checks, f"check_{check}")(mapping)
    mapping.close()


# ---- Dask ----------------------------------------------------------------------------------------


@pytest.fixture
def dask():
    """The module, where Dask is."""
    pytest.importorskip("distributed")
    import zswap.dask

    return zswap.dask


@pytest.fixture
def tier(dask, tmp_path):
    with_file = dask.SpillTier(tmp_path, target=100_000, compressed="4MiB")
    yield with_file
    with_file.close()
    assert os.listdir(tmp_path) == []


class Unpicklable:
    """What stays in memory."""

    def __init__(self, size):
        self.size = size

    def __sizeof__(self):
        return self.size

    def __reduce__(self):
        raise TypeError("no")


def test_the_coldest_are_compressed_and_come_back(tier):
    for n in range(20):
        tier[n] = noise(30_000, n)
    assert list(tier._fast) == [17, 18, 19]
    assert tier[0] == tier[0] == noise(30_000, 0)
    assert list(tier._fast) == [18, 19, 0]
    assert tier.spilled_total[0] == tier._slow_bytes == sum(tier._sizes[n] for n in range(1, 18))
    assert len(tier) == 20
    for n in range(20):
        assert tier[n] == noise(30_000, n)
        del tier[n]
        assert n not in tier
    assert tier._fast_bytes == tier._slow_bytes == 0
    assert len(tier._store) == 0
    with pytest.raises(KeyError):
        tier[0]


def test_what_does_not_fit_compressed_goes_to_the_file(tier):
    for n in range(300):
        tier[n] = noise(50_000, n)
    assert tier._store.stats().backed_bytes > 8 << 20
    assert all(tier[n] == noise(50_000, n) for n in range(300))


def test_one_pass_over_everything_pushes_nobody_out(tier):
    """Nor do two, which are as far apart as they are long."""
    for n in range(20):
        tier[n] = noise(30_000, n)
    for n in [*range(20)] * 2:
        assert tier[n] == noise(30_000, n)
    assert tier.memory == {17, 18, 19}
    assert tier[3] == noise(30_000, 3)
    for n in (4, 5):
        tier[n]
    tier[3]
    assert 3 in tier.memory, "90,000 bytes of others went by, and 100,000 have room"
    for n in (6, 7, 8, 9):
        tier[n]
    tier[6]
    assert 6 not in tier.memory
    tier[6]
    assert 6 in tier.memory
    for n in tier.memory:
        del tier[n]
    tier[1]
    assert tier.memory == {1}, "it has room"


def test_each_that_is_read_may_stay(dask, tmp_path):
    tier = dask.SpillTier(tmp_path, target=100_000, compressed="4MiB", promote="always")
    for n in range(20):
        tier[n] = noise(30_000, n)
    for n in range(20):
        assert tier[n] == noise(30_000, n)
        assert n in tier.memory
    tier.close()
    with pytest.raises(ValueError, match="'first'"):
        dask.SpillTier(promote="first")


def test_what_is_forgotten_is_not_remembered(tier):
    """A key that comes anew has not been read."""
    for n in range(20):
        tier[n] = noise(30_000, n)
    tier[1]
    tier[1] = noise(30_000, 1)
    for n in (30, 31, 32, 33):
        tier[n] = noise(30_000, n)
    assert tier[1] == noise(30_000, 1)
    assert 1 not in tier.memory
    del tier[1]
    assert not tier._read_at.keys() - set(tier)


def test_results_as_they_are_give_way_where_the_process_is_full(dask, tmp_path, monkeypatch):
    """So that compressed ones have the room that is theirs."""
    process = [0]
    monkeypatch.setattr(dask, "_resident", lambda: process[0])
    tier = dask.SpillTier(tmp_path, memory_limit="256MiB")
    goal = tier._goal
    assert goal == int((256 << 20) * (0.7 - 1 / 32))
    assert tier.target > 16 << 20
    for n in range(16):
        tier[n] = noise(1 << 20, n)
    assert len(tier.memory) == 16
    process[0] = goal - tier.compressed + (8 << 20)  # but for what is to be compressed yet
    tier[16] = noise(1 << 20, 16)
    assert tier.memory == set(range(2, 17)), "twice as much as came, no more"
    tier[2], tier[3]
    process[0] += 8 << 20  # more than was compressed
    tier[17] = noise(1 << 20, 17)
    assert tier.memory == set(range(2, 18)) - {4, 5}
    tier[4]
    assert 4 not in tier.memory, "nor is one taken back"
    process[0] -= tier._over_goal() - 1000
    tier[18] = noise(1 << 20, 18)
    assert tier.memory == set(range(2, 19)) - {4, 5, 6}, "no more than is too much"
    process[0] = goal // 4
    tier[5]
    assert 5 in tier.memory
    assert all(tier[n] == noise(1 << 20, n) for n in range(19))
    tier.close()


def test_where_the_system_does_not_tell_the_target_alone_counts(dask, monkeypatch):
    assert 1 << 20 < dask._resident() < 1 << 40
    monkeypatch.setattr(dask, "_STATM", "/proc/self/no-such-file")
    tier = dask.SpillTier(memory_limit="256MiB")
    for n in range(16):
        tier[n] = noise(1 << 20, n)
    assert len(tier.memory) == 16
    assert tier[3] == noise(1 << 20, 3)
    tier.close()


def test_a_target_that_is_given_holds(dask, monkeypatch):
    monkeypatch.setattr(dask, "_resident", lambda: 1 << 40)
    tier = dask.SpillTier(memory_limit="256MiB", target="20MiB")
    for n in range(16):
        tier[n] = noise(1 << 20, n)
    assert len(tier.memory) == 16
    tier.close()


def test_a_value_larger_than_the_target_pushes_nobody_out(tier):
    tier["small"] = noise(1000)
    tier["large"] = np.arange(100_000)
    assert list(tier._fast) == ["small"]
    np.testing.assert_array_equal(tier["large"], np.arange(100_000))
    assert list(tier._fast) == ["small"]


def test_what_is_alive_is_not_made_again(tier):
    tier["large"] = array = np.arange(100_000)
    assert tier["large"] is array
    del array
    found = tier["large"]
    assert tier["large"] is found


def test_what_cannot_be_pickled_holds_up_no_other(tier, caplog):
    tier["bad"] = Unpicklable(60_000)
    for n in range(10):
        tier[n] = noise(30_000, n)
    assert "bad" in tier._fast
    assert tier._fast_bytes < 100_000
    assert caplog.text.count("'bad' stays in memory") == 1
    while tier.evict() > 0:
        pass
    assert list(tier._fast) == ["bad"]
    assert not tier.fast
    assert tier.evict() == -1
    assert all(tier[n] == noise(30_000, n) for n in range(10))
    del tier["bad"]
    assert tier._stuck == set()


def test_evict_goes_on_with_what_is_compressed(tier):
    for n in range(5):
        tier[n] = noise(30_000, n)
    freed = [tier.evict() for _ in range(3)]
    assert all(30_000 <= size < 31_000 for size in freed)
    assert len(tier._fast) == 0
    assert tier.fast
    assert tier.evict() > 100_000
    assert not tier.fast
    assert tier.evict() == -1
    assert all(tier[n] == noise(30_000, n) for n in range(5))


def test_without_a_file_what_does_not_fit_stays(dask):
    tier = dask.SpillTier(target=100_000, compressed="2MiB")
    values = {n: noise(100_000, n) for n in range(40)}
    tier.update(values)
    assert tier._fast_bytes > 100_000
    assert dict(tier) == values
    tier.close()
    tier.close()


def test_budgets_follow_the_limit(dask):
    tier = dask.SpillTier(memory_limit="400MB")
    assert tier.compressed == 50_000_000
    assert 150_000_000 < tier.target < 250_000_000
    assert "0 results as they are" in repr(tier)
    tier.close()


@pytest.mark.parametrize("size", [0, 1, 500, 513, 100_000])
def test_arrays_inside_of_values_come_back(tier, size):
    """Small ones, too: distributed leaves none within the pickle."""
    value = {"n": np.arange(size, dtype="f8"), "rest": [np.ones(3), "text", bytearray(size)]}
    tier["value"] = value
    while tier.memory:
        assert tier.evict() > 0
    tier._alive.clear()
    found = tier["value"]
    assert found is not value
    assert (found["n"] == value["n"]).all()
    assert (found["rest"][0] == 1).all()
    assert found["rest"][1:] == value["rest"][1:]
    found["n"][:1] = 7  # it is the reader's own


def test_the_file_has_a_limit(dask, tmp_path, caplog):
    """As ``distributed.worker.memory.max-spill`` has it; what has no room stays as it is."""
    config = pytest.importorskip("dask.config")
    with config.set({"distributed.worker.memory.max-spill": "1 MiB"}):
        tier = dask.SpillTier(tmp_path, memory_limit=10**9, target=0, compressed="2MiB")
    values = {n: np.random.default_rng(n).bytes(100_000) for n in range(60)}
    for key, value in values.items():
        tier[key] = value
    assert tier.memory
    assert tier.disk
    assert tier.memory | tier.disk == set(values)
    assert "reached capacity" in caplog.text
    # with what a segment and two values may be more
    assert sum(f.stat().st_blocks * 512 for f in tmp_path.iterdir()) <= 3 << 20
    assert {key: tier[key] for key in values} == values
    tier.close()
    unlimited = dask.SpillTier(tmp_path, memory_limit=10**9, target=0, compressed="2MiB")
    unlimited.update(values)
    assert not unlimited.memory
    unlimited.close()


def test_what_is_read_and_written_is_counted(tier):
    for n in range(3):
        tier[n] = np.full(100, n)
    metrics = tier.cumulative_metrics
    assert metrics == {}
    size = tier._sizes[0]
    assert tier[2][0] == 2
    assert tier.evict() == size
    assert tier.disk == {0}
    value = tier[0]
    assert {key: n for key, n in metrics.items() if key[1] != "seconds"} == {
        ("memory-read", "count"): 1,
        ("memory-read", "bytes"): size,
        ("disk-write", "count"): 1,
        ("disk-write", "bytes"): size,
        ("disk-read", "count"): 1,
        ("disk-read", "bytes"): size,
    }
    assert value[0] == 0
    assert metrics["disk-write", "seconds"] > 0


def test_the_store_follows_the_process(dask, tmp_path):
    """Whose limit is half way between where the worker begins to evict and where it pauses."""
    tier = dask.SpillTier(tmp_path, memory_limit="1GiB")
    assert tier._store.process_limit == f"auto:{int((1 << 30) * 0.75)}"
    tier._store.process_limit = "1MiB"  # less than there is: the least
    values = {n: noise(100_000, n) for n in range(160)}
    tier.target = 200_000
    tier.update(values)
    stats = tier._store.stats()
    assert stats.compressed_bytes < 9 << 20
    assert stats.backed_bytes > 4 << 20
    assert dict(tier) == values
    tier.close()


def test_threads(tier):
    failures = []

    def work(number):
        try:
            for n in range(60):
                tier[number, n] = noise(10_000, n)
                assert tier[number, n // 2] == noise(10_000, n // 2)
                tier.evict()
            for n in range(60):
                del tier[number, n]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(tier) == 0


@pytest.mark.slow
def test_the_example(dask):
    """A worker of its own holds more than it may take, and is neither killed nor paused."""
    path = ROOT / "examples" / "dask_tier.py"
    if not path.exists():
        pytest.skip("the examples are not here")
    done = subprocess.run(
        [sys.executable, path], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == f"{sum(1_999_999 + n for n in range(30))}\n", done.stderr
    assert "ausing" not in done.stderr


@pytest.mark.slow
def test_in_a_cluster(dask):
    """Of one process, whose worker finds its limit."""
    import distributed
    from dask import config as distributed_config

    memory = {f"distributed.worker.memory.{name}": False for name in ("spill", "pause")}
    with (
        distributed_config.set(memory),  # this process has more than the limit already
        distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            processes=False,
            memory_limit="80MiB",
            dashboard_address=None,
            data=dask.SpillTier,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        futures = client.map(lambda n: np.full(500_000, n), range(20), pure=False)
        distributed.wait(futures)
        (worker,) = cluster.workers.values()
        assert type(worker.data) is dask.SpillTier
        assert worker.data.compressed == (80 << 20) // 8
        assert len(worker.data) == 20
        assert len(worker.data._fast) < 20
        assert client.submit(sum, client.map(lambda a: int(a[0]), futures)).result() == 190
