"""zswap replay: traces read, the model by hand, the curve, and the command."""

import gzip
import io
import json
import lzma
import os
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
from rich.console import Console

import zswap
from hooks.engine import shrink_if_wanted, stop_maintenance
from zswap.__main__ import main
from zswap.pages import SourceError, open_files
from zswap.replay import Replayed, grid, miss_ratio_curve, read_trace, replay, report, trace
from zswap.replay.contents import Contents, from_analysis, from_pages, from_ratio
from zswap.replay.model import simulator
from zswap.replay.settings import Setting
from zswap_core.replay import COUNTERS, Replay, reuse_distances

PAGE = 4096


def made(text, tmp_path, name="trace.txt"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def told(found):
    """Pages and operations, as they came."""
    return list(zip(found.numbers[found.ids].tolist(), found.ops.tolist(), strict=True))


def in_memory(pages, ops=None):
    """A trace of these pages."""
    numbers, ids = np.unique(np.asarray(pages, np.uint64), return_inverse=True)
    what = np.zeros(ids.size, np.uint8) if ops is None else np.asarray(ops, np.uint8)
    return trace.Trace("made", "text", numbers, ids.astype(np.uint32), what)


# ---- traces --------------------------------------------------------------------------------------

LACKEY = """==1234== Lackey, an example Valgrind tool
I  04001000,3
 L 1ffefff0f8,8
 S 04222ff8,8
 M 04223ffc,8
==1234== end
"""
DAMON = "".join(
    f" kdamond.0 4729 [000] 80.1: damon:damon_aggregated: target_id=0 nr_regions=2 {region}\n"
    for region in ("40960-81920: 20 3", "81920-163840: 0 9", "81920-163840: 10")
)
FAULTS = """a 1 [001] 3.5: exceptions:page_fault_user: address=0x7f0000001008 ip=0x40 error_code=0x6
a 12 [001] 3.6: exceptions:page_fault_user: address=0x7f0000002000 ip=0x40 error_code=0x4
a 12 [001] 3.7:          1 cpu/mem-stores/P:     7f0000003010
a 12 [001] 3.8:          1 page-faults:u:     7f0000004000
"""


def test_text_is_read(tmp_path):
    found = read_trace(made("# a remark\n5 r\n0x10 W\n\n5\n7 store\n16 free\r\n5 1", tmp_path))
    assert found.format == "text"
    assert told(found) == [(5, 0), (16, 1), (5, 0), (7, 1), (16, 2), (5, 1)]
    assert (found.references, found.pages, found.writes) == (6, 3, 3)


def test_lackey_is_read(tmp_path):
    found = read_trace(made(LACKEY, tmp_path))
    assert found.format == "lackey"
    # an access over the end of a page touches two
    assert told(found) == [(0x1FFEFFF, 0), (0x4222, 1), (0x4223, 1), (0x4224, 1)]


def test_damons_regions_are_spread(tmp_path):
    found = read_trace(made(DAMON, tmp_path))
    assert found.format == "perf"
    pages = [page for page, _ in told(found)]
    assert pages[:10] == list(range(10, 20))  # accessed in all samples: all of it
    assert len(pages) == 20  # and half of the twenty of another
    assert set(pages[10:]) <= set(range(20, 40))
    assert "DAMON" in found.notes[0]


def test_faults_and_memory_events_are_read(tmp_path):
    found = read_trace(made(FAULTS, tmp_path))
    assert told(found) == [(0x7F0000001 + n, op) for n, op in enumerate((1, 0, 1, 0))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("time,obj_id,size,op\n1,9,4096,r\n2,8,4096,w\n", [(9, 0), (8, 1)]),
        ("1,9,4096\n2,8,4096\n", [(9, 0), (8, 0)]),
        ("page,op\n9,get\n8,set\n", [(9, 0), (8, 1)]),
        ("9;r\n8;w\n", [(9, 0), (8, 1)]),
        ("# time\tobj_id\tsize\n1\t9\t1\n", [(9, 0)]),
    ],
)
def test_columns_are_found(tmp_path, text, expected):
    found = read_trace(made(text, tmp_path))
    assert (found.format, told(found)) == ("csv", expected)
    assert "Column" in found.notes[0]


def test_columns_may_be_named_and_names_be_hashed(tmp_path):
    path = made("x,alpha,1\ny,beta,0\nz,alpha,0\n", tmp_path)
    found = read_trace(path, format="csv", columns=(2, 3))
    assert (found.pages, found.ids.tolist()[0] == found.ids.tolist()[2]) == (2, True)


def oracle(pages):
    rows = np.zeros(len(pages), trace._ORACLE)
    rows["time"], rows["id"], rows["size"] = np.arange(len(pages)), pages, 512
    rows["next"] = -1
    return rows.tobytes()


def test_oracle_is_read(tmp_path):
    found = read_trace(made(oracle([3, 1, 3]), tmp_path, "a.oracleGeneral"))
    assert (found.format, told(found)) == ("oracle", [(3, 0), (1, 0), (3, 0)])


def test_addresses_become_pages(tmp_path):
    path = made("8191 r\n8192 r\n", tmp_path)
    assert told(read_trace(path, addresses=True)) == [(1, 0), (2, 0)]


def zstd_packed(data):
    return pytest.importorskip("zstd").compress(data)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, zstd_packed])
def test_packed_traces_are_unpacked(tmp_path, pack):
    text = "".join(f"{n * 7919 % 100_003} r\n" for n in range(200_000)).encode()
    plain = read_trace(made(text, tmp_path))
    packed = read_trace(made(pack(text), tmp_path, "packed"))
    twice = read_trace(made(pack(text) + pack(text), tmp_path, "twice"))
    assert told(packed) == told(plain)
    assert twice.references == 2 * plain.references


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, zstd_packed])
def test_a_packed_trace_cut_short_is_told(tmp_path, pack):
    text = "".join(f"{n * 7919 % 100_003} r\n" for n in range(20_000)).encode()
    whole = pack(text)
    with pytest.raises(SourceError, match="damaged"):
        read_trace(made(whole[: len(whole) // 2], tmp_path))


def test_the_first_references_may_be_taken(tmp_path):
    path = made("1\n2\n3\n", tmp_path)
    assert told(read_trace(path, limit=2)) == [(1, 0), (2, 0)]
    assert read_trace(path, limit=9).references == 3


def test_too_long_a_trace_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(trace, "MOST_REFERENCES", 2)
    with pytest.raises(SourceError, match="more than 2 references: --limit"):
        read_trace(made("1\n2\n3\n", tmp_path))
    regions = " x: damon:damon_aggregated: target_id=0 nr_regions=1 0-4096000000000: 1 1\n"
    with pytest.raises(SourceError, match="more than 2 references: --limit"):
        read_trace(made(regions, tmp_path, "damon"))


def test_lines_over_many_reads_are_joined(tmp_path, monkeypatch):
    monkeypatch.setattr("zswap.replay.unpack.CHUNK", 7)
    monkeypatch.setattr(trace, "CHUNK", 11)
    monkeypatch.setattr(trace, "_LOOK", 5)
    text = "".join(f"{n} w\n" for n in range(300))
    assert told(read_trace(made(text, tmp_path), format="text")) == [(n, 1) for n in range(300)]


# ---- the model -----------------------------------------------------------------------------------


def by_hand(pages, ops=None, *, memory=4, percent=50, size=1024, **options):
    """Replay in a few pages of memory, four objects to a page of the pool."""
    found = in_memory(pages, ops)
    threshold = options.pop("threshold", 90)
    ram = options.pop("ram", memory)
    most = ram * percent // 100
    model = Replay(
        found.numbers,
        np.full(found.pages, size, np.uint16),
        np.array([[1024, 1, 4], [4096, 1, 1]], np.uint32),
        memory=memory,
        most=most,
        accept=most * threshold // 100,
        header=0,
        **options,
    )
    model.run(found.ids, found.ops)
    return {**model.counters(), **{f"now_{name}": n for name, n in model.state().items()}}


def test_what_fits_stays():
    n = by_hand([1, 2, 3, 1, 2, 3], memory=4)
    assert (n["first_touches"], n["hits"], n["evicted"]) == (3, 3, 0)


def test_a_scan_larger_than_memory_comes_from_the_pool():
    n = by_hand(list(range(6)) * 3, memory=4, percent=100, charged="beside")
    assert n["first_touches"] == 6
    assert n["pool_hits"] > 0
    assert (n["device_hits"], n["rejected"], n["written_back"]) == (0, 0, 0)
    assert n["now_resident"] + n["now_stored"] == 6


def test_without_zswap_all_goes_to_the_device():
    n = by_hand(list(range(6)) * 3, memory=4, zswap=False)
    assert (n["stored"], n["pool_hits"], n["now_pool_pages"]) == (0, 0, 0)
    assert n["device_hits"] > 0
    assert n["evicted"] == n["rejected"] + n["dropped"]


def test_a_clean_page_from_the_device_is_dropped_and_a_written_one_is_not():
    read = by_hand(list(range(8)) * 3, memory=4, zswap=False)
    wrote = by_hand(list(range(8)) * 3, [1] * 24, memory=4, zswap=False)
    assert read["dropped"] > 0
    assert wrote["dropped"] == 0
    assert wrote["rejected"] == wrote["evicted"]


def test_a_full_pool_refuses_until_the_threshold():
    # one page of pool is four entries; the newest kernel refuses at the limit
    n = by_hand(list(range(40)), memory=4, percent=25, charged="beside")
    assert n["limit_hits"] > 0
    assert n["rejected"] > 0
    assert n["most_pool_pages"] <= 1


def test_no_pool_refuses_everything():
    n = by_hand(list(range(20)), memory=4, percent=0, charged="beside")
    assert (n["stored"], n["most_stored"]) == (0, 0)
    assert n["rejected"] == n["evicted"]


def test_the_workers_first_look_gives_every_entry_another_round():
    n = by_hand(list(range(200)), memory=4, ram=100, percent=8, charged="beside")
    assert n["second_chances"] > 0
    assert n["written_back"] > 0
    assert n["most_pool_pages"] <= 8


def test_a_threshold_of_100_accepts_again_at_once():
    strict = by_hand(list(range(400)), memory=4, ram=100, percent=8, threshold=50, charged="beside")
    loose = by_hand(list(range(400)), memory=4, ram=100, percent=8, threshold=100, charged="beside")
    assert strict["sum_pool_pages"] < loose["sum_pool_pages"]


def test_same_filled_pages_take_nothing():
    n = by_hand(list(range(20)) * 2, memory=4, size=0, percent=0, charged="beside")
    assert (n["rejected"], n["now_pool_pages"], n["device_hits"]) == (0, 0, 0)
    assert n["same_hits"] > 0


def test_the_pool_is_part_of_the_memory():
    pages = list(range(64)) * 2
    whole = by_hand(pages, memory=32, percent=100)
    beside = by_hand(pages, memory=32, percent=100, charged="beside")
    assert whole["now_resident"] + whole["now_pool_pages"] <= 32
    assert beside["most_resident"] > whole["sum_resident"] / whole["references"]
    with_payload = by_hand(pages, memory=32, percent=100, charged="payload")
    assert with_payload["now_resident"] * PAGE + with_payload["now_payload_bytes"] <= 32 * PAGE


def test_a_page_given_back_is_new_again():
    n = by_hand([1, 2, 3, 4, 5, 6, 1, 1], [0, 0, 0, 0, 0, 0, 2, 0], memory=4, charged="beside")
    assert n["freed"] == 1
    assert n["first_touches"] == 7


def test_pages_are_read_ahead_where_they_are_touched_in_order():
    pages = list(range(256)) * 3
    ahead = by_hand(pages, memory=64, zswap=False, cluster=3)
    alone = by_hand(pages, memory=64, zswap=False)
    assert alone["ahead_device"] == 0
    assert ahead["ahead_used"] > 0.8 * ahead["ahead_device"] > 0
    assert ahead["device_hits"] < alone["device_hits"] / 2


def test_an_entry_that_stays_is_dropped_when_its_page_is_written():
    pages = list(range(8)) * 4
    keeping = by_hand(pages, memory=4, percent=100, charged="beside", exclusive=False)
    taking = by_hand(pages, memory=4, percent=100, charged="beside")
    assert keeping["dropped"] > 0  # evicted again without a store
    assert taking["dropped"] == 0
    assert keeping["stored"] < taking["stored"] + taking["most_stored"]
    written = by_hand(pages, [1] * 32, memory=4, percent=100, charged="beside", exclusive=False)
    assert written["dropped"] == 0


def test_the_shrinker_writes_back_before_the_limit():
    rng = np.random.default_rng(0)
    pages = rng.integers(0, 4000, 40_000)
    off = by_hand(pages, memory=1000, percent=100, ram=4000)
    on = by_hand(pages, memory=1000, percent=100, ram=4000, shrinker=True)
    assert off["written_back"] == 0
    assert on["written_back"] > 0
    assert on["sum_stored"] < off["sum_stored"]


@pytest.mark.parametrize("options", [{}, {"shrinker": True}, {"ours": True}, {"exclusive": False}])
@pytest.mark.parametrize("charged", ["whole", "payload", "beside"])
def test_nothing_is_lost_count_of(options, charged):
    """Whatever the trace: each page is in one place, and sums agree."""
    rng = np.random.default_rng(1)
    pages, ops = rng.integers(0, 500, 30_000), rng.choice([0, 0, 1, 2], 30_000)
    n = by_hand(
        pages, ops, memory=120, percent=30, cluster=3, charged=charged, compacted=True, **options
    )
    touched = n["hits"] + n["first_touches"] + n["pool_hits"] + n["same_hits"] + n["device_hits"]
    assert n["references"] == 30_000 == touched + int((ops == 2).sum())
    assert n["evicted"] == n["dropped"] + n["rejected"] + n["same_filled"] + n["stored"]
    assert n["most_pool_pages"] <= 36
    assert n["now_pool_pages"] == -(-n["now_stored"] // 4)
    assert n["now_payload_bytes"] == 1024 * n["now_stored"]


def zspages_by_hand(events, objects, pages):
    """The kernel's: an object goes to the fullest group with room, to its newest zspage.  One that
    was never full is shared with others."""
    where, used, groups, made, full = {}, {}, [[] for _ in range(12)], 0, set()

    def group(n):
        return 11 if n == objects else 10 * n // objects + 1 if n else 0

    def change(z, by):
        before, used[z] = group(used[z]), used[z] + by
        if group(used[z]) != before or not used[z]:
            if z in groups[before]:
                groups[before].remove(z)
            if used[z]:
                groups[group(used[z])].insert(0, z)
        if used[z] == objects:
            full.add(z)

    for event in events:
        page, what = event >> 2, event & 3
        if what == 0:
            z = next((g[0] for g in reversed(groups[:11]) if g), None)
            if z is None:
                z, made = made, made + 1
                used[z] = 0
            where[page] = z
            change(z, 1)
        elif page in where:
            change(where.pop(page), -1)
    shared = sum(n for z, n in used.items() if z not in full) * (16 * PAGE * pages // objects)
    return pages * sum(used[z] > 0 for z in full) - (-shared // (16 * PAGE))


@pytest.mark.parametrize(("objects", "pages"), [(4, 1), (7, 4), (15, 8), (1, 1)])
def test_a_zspage_stays_until_it_has_lost_all_its_objects(objects, pages):
    rng = np.random.default_rng(objects)
    found = in_memory(rng.integers(0, 400, 20_000), rng.choice([0, 1, 2], 20_000))
    model = Replay(
        found.numbers,
        np.full(found.pages, 1000, np.uint16),
        np.array([[1000, pages, objects], [4096, 1, 1]], np.uint32),
        memory=100,
        most=1 << 20,
        accept=1 << 20,
        header=0,
        charged="beside",
        log_room=80_000,
    )
    model.run(found.ids, found.ops)
    stored, room = model.state()["stored"], model.state()["pool_pages"]
    assert room == zspages_by_hand(model.log().tolist(), objects, pages)
    assert room >= stored * pages // objects


def test_a_pool_that_has_lost_everything_takes_nothing():
    pages = list(range(300))
    n = by_hand(pages * 2, [1] * 300 + [2] * 300, memory=100, percent=100, charged="beside")
    assert n["most_stored"] >= 200
    assert (n["now_stored"], n["now_pool_pages"]) == (0, 0)


def test_wrong_arguments_are_refused():
    found = in_memory([1, 2])
    classes = np.array([[4096, 1, 1]], np.uint32)
    sizes = np.zeros(2, np.uint16)
    for wrong in (
        {"sizes": np.zeros(3, np.uint16)},
        {"sizes": np.array([1, 5000], np.uint16)},
        {"classes": np.zeros(4, np.uint32)},
        {"classes": np.zeros(3, np.uint32)},
        {"charged": "none"},
        {"memory": 0},
    ):
        given = {
            "numbers": found.numbers,
            "sizes": sizes,
            "classes": classes,
            "memory": 1,
            "most": 1,
            "accept": 1,
            **wrong,
        }
        with pytest.raises(ValueError, match=r"needed|room|more than a page"):
            Replay(given.pop("numbers"), given.pop("sizes"), given.pop("classes"), **given)
    model = Replay(found.numbers, sizes, classes, memory=1, most=1, accept=1)
    with pytest.raises(ValueError, match="no page 7"):
        model.run(np.array([7], np.uint32), np.zeros(1, np.uint8))
    with pytest.raises(ValueError, match="no such range"):
        model.run(found.ids, found.ops, 1, 9)
    with pytest.raises(ValueError, match="room for 0 events"):
        model.log()
    assert set(model.counters()) == set(COUNTERS)


# ---- against the engine --------------------------------------------------------------------------


def recorded(references=60_000, pages=12_000, seed=0):
    """A trace as of a program with a hot part, a scan and cold rest."""
    rng = np.random.default_rng(seed)
    hot = rng.zipf(1.2, references) % pages
    scan = np.arange(references) % pages
    which = rng.choice(2, references, p=(0.8, 0.2))
    ops = rng.choice([0, 1], references, p=(0.7, 0.3))
    return in_memory(np.where(which, scan, hot), ops)


def page_of(number, size=PAGE):
    """A page of one of a few sizes, as a small pool is emptied by many."""
    rng = np.random.default_rng(number)
    page = np.zeros(size, np.uint8)
    fresh = int(rng.choice((150, 400, 700, 1000, 1400, 1900)))
    page[:fresh] = rng.integers(0, 256, fresh)
    return page


def through_the_engine(found, setting, *, memory, ram, swap, shrinks=True):
    """Feed an engine with what the model's RAM asks zswap for; give its figures, and the model's.

    The engine decides by itself what it holds, what it writes back and what it reads.
    """
    few = np.stack([page_of(number) for number in range(64)])
    pages = few[found.numbers.astype(np.int64) % 64]
    offsets = np.arange(len(pages), dtype=np.uint64)
    with zswap.ZSwap("lz4", max_pool_bytes="1GiB") as z:
        z.store_many(offsets, pages)
        sizes = z.compressed_sizes(offsets).astype(np.uint16)
    model = simulator(
        found,
        setting,
        Contents("lz4", sizes, 0.0, 0.0),
        memory=memory,
        ram=ram,
        model="engine",
        charged="beside",
        log_room=4 * found.references,
    )
    model.run(found.ids, found.ops)
    with zswap.ZSwap(
        "lz4",
        max_pool_bytes=ram // PAGE * setting.max_pool_percent // 100 * PAGE,
        promote="never",
        backing=zswap.SwapFile(swap, size=len(pages) * PAGE),
    ) as z:
        stop_maintenance(z)  # how far the shrinker comes between two calls is the scheduler's
        for event in model.log().tolist():
            offset, what = event >> 2, event & 3
            if what == 0:
                z.store(offset, pages[offset])
                if shrinks:
                    shrink_if_wanted(z)
            elif what == 1:
                assert z.load(offset) == pages[offset].tobytes()
            else:
                z.invalidate(offset)
        z.compact()
        return z.stats(), model.counters(), model.state()


@pytest.mark.parametrize("shrinks", [True, False], ids=["by-the-shrinker", "by-stores"])
def test_the_model_does_as_the_engine_within_two_percent(tmp_path, shrinks):
    """Whoever makes room: the shrinker, always in time, or stores alone."""
    found = recorded()
    real, n, now = through_the_engine(
        found,
        Setting("lz4", 30),
        memory=4000 * PAGE,
        ram=4000 * PAGE,
        swap=tmp_path / "swap",
        shrinks=shrinks,
    )
    faults = n["pool_hits"] + n["same_hits"] + n["device_hits"]
    assert real.loads == faults
    assert 0.05 * faults < n["device_hits"] < 0.95 * faults
    assert (real.loads - real.backing_loads) / faults == pytest.approx(
        1 - n["device_hits"] / faults, abs=0.02
    )
    assert real.written_back_pages == pytest.approx(n["written_back"], rel=0.15)
    assert real.pool_total_size == pytest.approx(now["pool_pages"] * PAGE, rel=0.1)


# ---- the curve -----------------------------------------------------------------------------------


def lru_misses(pages, size):
    """Misses of an LRU list, counted."""
    held, misses = {}, 0
    for page in pages:
        misses += held.pop(page, None) is None
        held[page] = True
        if len(held) > size:
            held.pop(next(iter(held)))
    return misses / len(pages)


def test_distances_are_those_of_a_list():
    rng = np.random.default_rng(0)
    ids = (rng.zipf(1.3, 3000) % 97).astype(np.uint32)
    order, expected = [], []
    for page in ids.tolist():
        expected.append(order.index(page) if page in order else -1)
        if page in order:
            order.remove(page)
        order.insert(0, page)
    assert reuse_distances(ids, 97).tolist() == expected
    with pytest.raises(ValueError, match="96 or more"):
        reuse_distances(np.array([96], np.uint32), 96)


def test_the_curve_of_all_pages_is_exact():
    rng = np.random.default_rng(2)
    pages = (rng.zipf(1.2, 20_000) % 400).tolist()
    found = in_memory(pages)
    curve = miss_ratio_curve(found)
    assert (curve.rate, curve.error) == (1.0, 0.0)
    for size in (1, 10, 50, 200, found.pages):
        assert curve.at(size * PAGE) == pytest.approx(lru_misses(pages, size), abs=2e-3)


def test_a_sampled_curve_is_as_far_off_as_it_says():
    rng = np.random.default_rng(3)
    found = in_memory(rng.permutation(40_000)[rng.zipf(1.15, 400_000) % 40_000])
    exact = miss_ratio_curve(found, rate=1.0)
    for seed in range(3):
        curve = miss_ratio_curve(found, rate=0.1, seed=seed)
        assert 0.08 < curve.pages / found.pages < 0.12
        assert 0 < curve.error < 0.3
        off = np.abs(curve.misses - exact.misses)
        # of 95 % of the sizes on average; those of one curve are off together
        assert (off <= curve.errors + 1e-3).mean() > 0.75
        assert off.mean() < 0.06


# ---- what the pages compress to ------------------------------------------------------------------


@pytest.fixture
def captured(tmp_path):
    """A file of 300 pages, as `zswap capture` writes them, and its sizes by lz4."""
    pages = np.stack([page_of(n) for n in range(300)])
    pages[::10] = 0
    path = tmp_path / "pages.bin"
    path.write_bytes(pages.tobytes())
    with zswap.ZSwap("lz4", max_pool_bytes="64MiB") as z:
        z.store_many(np.arange(300, dtype=np.uint64), pages)
        return str(path), z.compressed_sizes(np.arange(300, dtype=np.uint64))


def test_a_capture_of_as_many_pages_is_taken_in_order(captured):
    path, sizes = captured
    with open_files([path]) as source:
        (one,), how = from_pages(source, ["lz4"], 300, 0)
    assert one.sizes.tolist() == sizes.tolist()
    assert "in order" in how
    assert min(one.store_us, one.load_us) > 0


def test_of_others_sizes_are_drawn(captured):
    path, sizes = captured
    with open_files([path]) as source:
        (one, other), how = from_pages(source, ["lz4", "zstd:1"], 20_000, 0)
    assert "drawn" in how
    assert one.sizes.mean() == pytest.approx(sizes.mean(), rel=0.03)
    assert (one.sizes == 0).mean() == pytest.approx(0.1, abs=0.01)
    # the same page is large with both, or small
    assert np.corrcoef(one.sizes, other.sizes)[0, 1] > 0.9


def test_an_analysis_will_do(captured, tmp_path, capsys):
    path, sizes = captured
    assert main(["analyze", "--file", path, "--json", "--compressor", "lz4"]) == 0
    stored = made(capsys.readouterr().out, tmp_path, "analysis.json")
    (one,), how = from_analysis(stored, None, 20_000, 0)
    assert one.compressor == "lz4"
    assert one.sizes.mean() == pytest.approx(sizes.mean(), rel=0.03)
    assert (one.sizes == 0).mean() == pytest.approx(0.1, abs=0.01)
    assert "analysis of" in how
    with pytest.raises(SourceError, match="none of the compressors named; it has lz4"):
        from_analysis(stored, ["zstd:9"], 10, 0)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"schema": "zswap.bench"}', "\xff", "[" * 100_000, "null", "1e999"],
)
def test_what_is_no_analysis_is_told(tmp_path, text):
    with pytest.raises(SourceError):
        from_analysis(made(text, tmp_path), None, 10, 0)


def test_a_ratio_is_met():
    for ratio in (1.0, 1.5, 4.0):
        (one,), how = from_ratio(ratio, ["lz4"], 5000, 0)
        assert one.ratio == pytest.approx(ratio, rel=0.05)
        assert "assumed" in how


# ---- the command ---------------------------------------------------------------------------------


@pytest.fixture
def traced(tmp_path):
    rng = np.random.default_rng(0)
    pages = rng.zipf(1.3, 5000) % 700
    return made("".join(f"{p} {'rw'[n % 3 == 0]}\n" for n, p in enumerate(pages)), tmp_path)


def command(capsys, *arguments):
    code = main(["replay", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_each_setting_is_a_row(capsys, traced):
    code, out, err = command(
        capsys,
        traced,
        "--compressor",
        "lz4",
        "--max-pool-percent",
        5,
        "--max-pool-percent",
        30,
        "--shrinker",
        "both",
    )
    assert (code, err) == (0, "")
    assert len(re.findall(r"^lz4 +\d", out, re.MULTILINE)) == 4
    assert "no zswap" in out
    assert "5,000 references to" in out
    assert "assumed: 2.5 times smaller" in out
    assert "from a table" in out


def test_json_has_what_is_documented(capsys, traced):
    code, out, _ = command(capsys, traced, "--json", "--compressor", "lz4", "--page-cluster", 0)
    told = json.loads(out)
    assert code == 0
    assert (told["schema"], told["version"]) == ("zswap.replay", report.JSON_VERSION)
    assert [o["compressor"] for o in told["outcomes"]] == [None, "lz4"]
    none, lz4 = told["outcomes"]
    assert none["pool_bytes"] == 0
    assert lz4["hit_rate"] > 0.5
    assert lz4["device_read_bytes"] < none["device_read_bytes"]
    assert len(told["curve"]["bytes"]) == len(told["curve"]["miss_ratio"])
    doc = report.replayed_json.__doc__

    def names(value):
        for key, inside in value.items():
            yield key
            if isinstance(inside, dict):
                yield from names(inside)
            elif isinstance(inside, list) and inside and isinstance(inside[0], dict):
                yield from names(inside[0])

    assert [name for name in names(told) if f"{name}" not in doc] == []


def test_the_engines_rules_may_be_asked_for(capsys, traced):
    code, out, _ = command(capsys, traced, "--model", "engine", "--compressor", "lz4", "--json")
    assert code == 0
    assert json.loads(out)["model"] == "engine"
    code, _, err = command(capsys, traced, "--model", "engine", "--shrinker", "on")
    assert code == 2
    assert "the kernel's" in err


def test_a_narrow_terminal_keeps_what_matters(traced):
    found = read_trace(traced)
    contents, how = from_ratio(3.0, ["lz4"], found.pages, 0)
    settings = grid(["lz4"], [20], [90], [False], [3])
    outcomes = replay(found, settings, contents, memory=200 * PAGE, ram=400 * PAGE)
    curve = miss_ratio_curve(found)
    result = Replayed(
        found, 200 * PAGE, 400 * PAGE, "kernel", contents, how, outcomes, curve, 0.1, "none"
    )
    out = io.StringIO()
    report.print_replayed(result, Console(file=out, width=60, force_terminal=True, no_color=True))
    row = next(line for line in out.getvalue().splitlines() if line.startswith("lz4"))
    assert "%" in row
    assert "…" not in row


@pytest.mark.skipif(
    "ZSWAP_SANITIZED" in os.environ,
    reason="matplotlib's C++ throws, which a sanitizer loaded before it cannot follow",
)
def test_the_picture_is_1920_by_1080(capsys, traced, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "a.png"
    code, _, err = command(
        capsys, traced, "--plot", path, "--sample", 0.5, "--page-cluster", 0, "--page-cluster", 3
    )
    assert (code, err) == (0, f"drawn: {path}\n")
    head = path.read_bytes()[16:24]
    assert (int.from_bytes(head[:4], "big"), int.from_bytes(head[4:], "big")) == (1920, 1080)


NO_TRACES = {
    "empty": (b"", "is empty"),
    "remarks": (b"\n\n# nothing\n", "nothing in it"),
    "a-word": (b"1 r\n2 w\nhello\n", "line 3 of"),
    "no-operation": (b"1 r\n2 x\n", "line 2 of"),
    "too-large": (b"1 r\n99999999999999999999999 r\n", "line 2 of"),
    "negative": (b"1 r\n-5 r\n", "line 2 of"),
    "elf": (b"\x7fELF\x02\x01\x01" + bytes(200), "binary"),
    "binary": (bytes(range(256)) * 40, "binary"),
    "oracle-cut": (oracle([1, 2, 3])[:-5], "cut off: its last record has 19 of 24"),
    "gzip-head": (b"\x1f\x8b\x08\x00", "damaged"),
    "zstd-head": (b"\x28\xb5\x2f\xfd\xff\xff\xff\xff", "damaged"),
    "gzip-of-nothing": (gzip.compress(b""), "is empty"),
    "gzip-cut": (gzip.compress(b"1 r\n" * 1000)[:-4], "damaged"),
    "lackey": (b"==1== Lackey\n L zz,8\n L 1000,8\n", "line 2 of"),
    "words": (b"some words that are\nno trace\n", "no trace that is known"),
    "long-remark": (b"#" + b"x" * (3 << 20), "nothing in it"),
    "long-number": (b"1 r\n" * 20_000 + b"1" * (3 << 20), "over"),
    "not-ascii": ("ünï\n".encode(), "no trace that is known"),
}


@pytest.mark.parametrize(("content", "said"), NO_TRACES.values(), ids=NO_TRACES)
def test_what_is_no_trace_is_told_in_one_line(capsys, tmp_path, content, said):
    path = made(content, tmp_path)
    code, out, err = command(capsys, path)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert said in err
    assert err.startswith("zswap: ")


def test_places_that_are_no_trace_are_told(capsys, tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "fifo")
    for path, said in (
        (tmp_path, "is a directory"),
        ("/dev/zero", "is a device"),
        (tmp_path / "none", "no such file"),
        (tmp_path / "fifo", "is empty"),
        ("a\0b", "cannot read"),
    ):
        code, out, err = command(capsys, path)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert said in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--memory", "0"),
        ("--memory", "12"),
        ("--memory", "0%"),
        ("--memory", "lots"),
        ("--ram", "-1"),
        ("--columns", "0"),
        ("--columns", "a,b"),
        ("--limit", "0"),
        ("--ratio", "0.5"),
        ("--ratio", "nan"),
        ("--sample", "0"),
        ("--sample", "nan"),
        ("--max-pool-percent", "101"),
        ("--compressor", "none-such"),
        ("--format", "vscsi"),
        ("--contents", "/no/such"),
        ("--analysis", "/dev/null"),
        ("--pid", "none-such-process"),
        ("--ratio", "2", "--contents", "x"),
        ("--plot", "a.gif"),
    ],
)
def test_wrong_use_is_one_line_and_2(capsys, traced, arguments):
    code, out, err = command(capsys, traced, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)


def start(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "zswap", "replay", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=os.path.dirname(os.path.dirname(zswap.__file__)),
        **options,
    )


def test_a_trace_may_come_through_a_pipe(traced):
    with open(traced, "rb") as file:
        text = file.read()
    with start("-", "--compressor", "lz4", stdin=subprocess.PIPE) as process:
        out, err = process.communicate(text, timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert b"standard input (text): 5,000 references" in out


def test_a_named_pipe_is_read_to_its_end(capsys, traced, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    both = os.open(fifo, os.O_RDWR)  # so that neither end waits

    def write():
        with open(fifo, "wb") as file, open(traced, "rb") as source:
            file.write(10 * source.read())  # more than fits in before it is read
        os.close(both)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        code, out, err = command(capsys, fifo, "--compressor", "lz4")
    finally:
        writer.join()
    assert (code, err) == (0, "")
    assert "50,000 references" in out


def test_ctrl_c_leaves_clean(capsys, traced, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("zswap.replay.model.simulator", stop)
    code, out, err = command(capsys, traced, "--compressor", "lz4")
    assert (code, out) == (130, "")
    assert "Traceback" not in err
