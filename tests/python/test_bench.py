"""The bench: that it measures what it says, leaves out what is missing, and leaves nothing
behind."""

import contextlib
import io
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import lz4.block
import numpy as np
import pytest
from rich.console import Console

import zswap
from zswap.__main__ import main
from zswap.bench import corpora, figures, growth, output, rows, table, zram
from zswap_core.bench import CodecLoop, IndexLoop
from zswap_core.compressors.registry import open_compressor

pytestmark = pytest.mark.slow

MADE = ["text", "zero", "same-filled", "pointers", "floats", "random", "mix"]


@pytest.fixture
def pages():
    return corpora.make("mix", 64)


@pytest.fixture
def job(pages):
    return rows.Job(pages, np.zeros_like(pages))


# ---- pages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MADE)
def test_made_pages_are_the_same_each_time(name):
    pages = corpora.make(name, 40, seed=3)
    assert pages.shape == (40, corpora.PAGE)
    assert pages.dtype == np.uint8
    assert np.array_equal(pages, corpora.make(name, 40, seed=3))
    if name not in ("text", "zero"):
        assert not np.array_equal(pages, corpora.make(name, 40, seed=4))
    assert corpora.same_filled(pages).all() == (name in ("zero", "same-filled"))


@pytest.mark.parametrize("name", ["process", "node", "java"])
def test_pages_of_a_live_program(name):
    try:
        pages = corpora.make(name, 100)
    except corpora.CorpusMissing as missing:
        pytest.skip(str(missing))
    assert 90 < len(pages) <= 100  # it is not stopped: some may vanish while it is read
    ratio = pages.nbytes / sum(min(corpora.PAGE, len(lz4.block.compress(page))) for page in pages)
    assert 1.2 < ratio < 20  # neither noise nor nothing


def test_a_missing_runtime_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(corpora.CorpusMissing, match=r"no node .*install"):
        corpora.make("node", 10)


def test_a_runtime_that_fails_is_told(monkeypatch, tmp_path):
    program = tmp_path / "node"
    program.write_text("#!/bin/sh\necho no such option >&2\nexit 9\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(corpora.CorpusMissing, match="no such option"):
        corpora.make("node", 10)


def test_pages_of_a_file(tmp_path, pages):
    path = tmp_path / "pages"
    path.write_bytes(pages.tobytes())
    taken = corpora.from_file(str(path), 20, seed=1)
    assert {bytes(page) for page in taken} <= {bytes(page) for page in pages}
    assert len(taken) == 20


def test_distinct_leaves_same_filled_pages_out(pages):
    both = np.concatenate([pages, corpora.make("zero", 5), corpora.make("same-filled", 5)])
    assert np.array_equal(corpora.distinct(both), pages)


# ---- loops in C ----------------------------------------------------------------------------------


def test_codec_loop_copies_and_scans(pages):
    pages = np.concatenate([pages, corpora.make("same-filled", 6)])
    loop = CodecLoop(open_compressor("lz4"), pages.reshape(-1))
    out, order = (
        np.zeros_like(pages),
        np.random.default_rng(0).permutation(len(pages)).astype(np.uint64),
    )
    assert loop.run("copy", out=out.reshape(-1), order=order) > 0
    assert np.array_equal(out, pages[order])
    loop.run("scan")
    assert loop.lengths()[1:] == (64, 6)
    loop.run("store")
    loop.run("load", out=out.reshape(-1), order=order)
    assert np.array_equal(out, pages[order])


def test_codec_loop_refuses(pages):
    loop = CodecLoop(open_compressor("lz4"), pages.reshape(-1))
    with pytest.raises(ValueError, match="scan or copy"):
        loop.run("move")
    with pytest.raises(ValueError, match="copy needs"):
        loop.run("copy")
    with pytest.raises(ValueError, match="no page 64"):
        loop.run("copy", out=np.zeros_like(pages).reshape(-1), order=np.full(64, 64, np.uint64))


@pytest.mark.parametrize("step", [1, 64, 1 << 30])
def test_index_loop_finds_what_it_holds(step):
    offsets = np.arange(1000, dtype=np.uint64) * np.uint64(step)
    index = IndexLoop(offsets)
    assert index.lookup(np.random.default_rng(0).permutation(offsets))[0] == 1000
    assert index.lookup(offsets + np.uint64(1000 * step))[0] == 0
    assert index.bytes() > 4 * 1000


def test_index_loop_refuses():
    with pytest.raises(ValueError, match="too large"):
        IndexLoop(np.array([1 << 47], np.uint64))
    with pytest.raises(ValueError, match="items of 4 bytes; items of 8"):
        IndexLoop(np.zeros(4, np.uint32))
    with pytest.raises(ValueError, match="must be a C-contiguous buffer"):
        IndexLoop(np.zeros(8, np.uint64)[::2])
    with pytest.raises(TypeError, match="references to Python objects"):
        IndexLoop(np.zeros(4, object))


# ---- rows ----------------------------------------------------------------------------------------


@pytest.fixture(params=list(rows.ROWS))
def row(request, job):
    figures._page_aligned(job)  # zram's requests need it
    try:
        row = rows.ROWS[request.param](job)
    except rows.RowMissing as missing:
        pytest.skip(str(missing))
    yield row
    row.close()


def test_a_row_gives_back_what_it_was_given(row):
    took = table.one_round(row)
    assert all(ns > 0 for ns in took.values())
    assert {"store", "load"} <= set(took)
    assert ("new" in took, "load_random" in took) == (row.starts_empty, row.random)
    assert ("store_2" in took, "load_2" in took) == (2 in row.store_threads, 2 in row.load_threads)
    assert row.check()


def test_a_row_that_gives_back_other_pages_is_found_out(row):
    row.clear()
    row.store()
    row.job.pages[5, 100] ^= 1
    if row.name == "memcpy":  # keeps nothing: it copies what is there now
        pytest.skip("holds no pages")
    assert not row.check()


def test_a_row_times_single_pages(row):
    row.clear()
    row.store()
    for each in (row.store_each, row.load_each):
        ns = np.zeros(row.count, np.uint32)
        assert each(ns) == ns.all()


def test_memory_is_that_of_the_pages(row):
    row.clear()
    row.store()
    payload = row.payload()
    assert payload is None or 0 < payload <= 1.1 * row.job.pages.nbytes


def test_a_missing_peer_names_the_extra(monkeypatch, job):
    monkeypatch.setitem(sys.modules, "cramjam", None)
    with pytest.raises(
        rows.RowMissing, match=r"cramjam is not installed: pip install 'zswap\[bench\]'"
    ):
        rows.ROWS["dict of cramjam.lz4"](job)


def test_together_runs_at_the_same_time():
    meet = threading.Barrier(2, timeout=60)  # passes only when both are there
    assert rows.together(2, lambda number: meet.wait()) > 0


def test_together_passes_failures_on():
    def work(number):
        if number == 1:
            raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        rows.together(2, work)


# ---- zram, without one ---------------------------------------------------------------------------


def fake_device(folder, name):
    device = folder / name
    device.mkdir()
    for what, value in (("disksize", "0"), ("comp_algorithm", "[lzo-rle] lzo lz4"), ("reset", "")):
        (device / what).write_text(f"{value}\n")
    (folder / "dev" / name).touch()
    return device


@pytest.fixture
def fake_zram(monkeypatch, tmp_path):
    """A directory that looks like /sys/block with one free device, of a kernel that adds none."""
    (tmp_path / "dev").mkdir()
    monkeypatch.setattr(zram, "BLOCK", tmp_path)
    monkeypatch.setattr(zram, "CONTROL", tmp_path / "none")
    monkeypatch.setattr(zram, "DEV", tmp_path / "dev")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return fake_device(tmp_path, "zram0")


def test_zram_is_given_back_as_it_was(fake_zram):
    with zram.Zram("lz4") as device:
        device.empty(1 << 20)
        assert (fake_zram / "comp_algorithm").read_text() == "lz4\n"
        assert 1 << 20 < int((fake_zram / "disksize").read_text()) <= 17 << 20
        (fake_zram / "reset").write_text("")
    assert (fake_zram / "comp_algorithm").read_text() == "lzo-rle\n"
    assert (fake_zram / "reset").read_text() == "1\n"


def test_a_zram_device_that_is_somebody_elses_by_now_is_not_reset(fake_zram):
    with zram.Zram("lz4") as device:
        (fake_zram / "disksize").write_text("1073741824\n")
        (fake_zram / "comp_algorithm").write_text("[zstd] lz4\n")
    assert (fake_zram / "reset").read_text() == "\n"
    assert (fake_zram / "comp_algorithm").read_text() == "[zstd] lz4\n"
    assert (fake_zram / "disksize").read_text() == "1073741824\n"
    device.close()


def test_a_zram_device_that_another_sets_up_at_the_same_moment(fake_zram, monkeypatch):
    write = zram.Zram.write

    def faster(self, name, value):
        if name == "disksize":
            (fake_zram / name).write_text("1073741824\n")
            raise OSError(16, "Device or resource busy")
        write(self, name, value)

    monkeypatch.setattr(zram.Zram, "write", faster)
    with pytest.raises(
        rows.RowMissing, match=r"no zram device can be used \(zram0: Device or resource busy\)"
    ):
        zram.Zram("lz4")
    assert (fake_zram / "reset").read_text() == "\n"


def test_a_zram_device_is_added_and_taken_away(fake_zram, tmp_path, monkeypatch):
    control = tmp_path / "control"
    control.mkdir()
    (control / "hot_add").write_text("7\n")
    (control / "hot_remove").write_text("")
    monkeypatch.setattr(zram, "CONTROL", control)
    added = fake_device(tmp_path, "zram7")

    def write(self, name, value):
        (self.sys / name).write_text(f"{value}\n")

    def written(self, name, value):
        write(self, *(("disksize", 0) if name == "reset" else (name, value)))

    monkeypatch.setattr(zram.Zram, "write", written)
    with zram.Zram("lz4") as device:
        assert device.dev.name == "zram7"
        assert (added / "comp_algorithm").read_text() == "lz4\n"
    assert (control / "hot_remove").read_text() == "7\n"
    assert (fake_zram / "comp_algorithm").read_text() == "[lzo-rle] lzo lz4\n"
    (control / "hot_remove").write_text("")
    with zram.Zram("lz4"):
        (added / "disksize").write_text("1073741824\n")  # somebody has taken it over
    assert (control / "hot_remove").read_text() == ""


def test_no_zram_device_is_added_that_could_not_be_taken_away(fake_zram, tmp_path, monkeypatch):
    """On a read-only /sys one is still made by reading, and stays."""
    control = tmp_path / "control"
    control.mkdir()
    (control / "hot_add").write_text("7\n")
    (control / "hot_remove").write_text("")
    monkeypatch.setattr(zram, "CONTROL", control)
    writable = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: path != control / "hot_remove" and writable(path, mode)
    )
    fake_device(tmp_path, "zram7")
    monkeypatch.setattr(
        zram.Zram, "write", lambda self, name, value: (self.sys / name).write_text(f"{value}\n")
    )
    device = zram.Zram("lz4")
    assert (device.added, device.dev.name) == (None, "zram0")


def test_zram_of_this_kernel_is_as_it_was(given_back):
    try:
        device = zram.Zram("lz4")
    except rows.RowMissing as missing:
        pytest.skip(str(missing))
    with device:
        for size in (1 << 20, 2 << 20):
            device.empty(size)
            assert int(device.read("disksize")) > size
            with pytest.raises(OSError, match="busy"):
                device.write("reset", 1)  # nobody can, while it is ours
    given_back()


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("disksize", "4096", "in use"),
        ("comp_algorithm", "[zstd] lzo", "has no lz4; it has zstd, lzo"),
    ],
)
def test_a_zram_device_that_does_not_fit_is_left_alone(fake_zram, name, value, why):
    (fake_zram / name).write_text(value)
    with pytest.raises(rows.RowMissing, match=why):
        zram.Zram("lz4")
    assert (fake_zram / name).read_text() == value
    assert (fake_zram / "reset").read_text() == "\n"


def test_a_zram_device_serves_one_at_a_time(fake_zram):
    with zram.Zram("lz4"), pytest.raises(rows.RowMissing, match="in use"):
        zram.Zram("lz4")
    (fake_zram / "comp_algorithm").write_text("[lzo-rle] lz4")
    (fake_zram / "disksize").write_text("0")
    zram.Zram("lz4").close()


def test_zram_is_for_root(fake_zram, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(rows.RowMissing, match="root"):
        zram.Zram("lz4")


# ---- rounds --------------------------------------------------------------------------------------

FEW = ["memcpy", "zswap, batch"]


def test_rows_take_turns(pages):
    seen = []
    corpus = table.measure(
        "mix",
        pages,
        rows=FEW,
        rounds=3,
        progress=lambda done, total, what: seen.append((done, total, what)),
    )
    assert [what.removeprefix("mix: ") for _, _, what in seen] == [
        *(f"start {name}" for name in FEW),
        *(FEW[turn % 2 - which] for turn in range(5) for which in (0, 1)),
    ]
    assert [done for done, _, _ in seen] == list(range(12))
    assert {total for _, total, _ in seen} == {12}
    copy, batch = corpus.rows
    assert (copy.kind, batch.kind) == ("limit", "zswap")
    assert [
        len(getattr(batch, what))
        for what in ("new", "store", "store_2", "load", "load_random", "load_2")
    ] == [3] * 6
    assert copy.new == []
    assert batch.payload < pages.nbytes
    assert batch.payload < batch.resident
    assert batch.store_p99 > 0
    assert multiprocessing.active_children() == []


def test_a_row_that_fails_says_why_and_the_others_are_measured(pages, monkeypatch):
    # here alone: the row's own process knows no such row
    monkeypatch.setitem(rows.ROWS, "broken", None)
    corpus = table.measure("mix", pages, rows=("broken", *FEW), rounds=1)
    assert [row.row for row in corpus.rows] == list(FEW)
    assert corpus.failed == ["broken"]
    assert "broken" in corpus.missing["broken"]
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("name", ["SIGBUS", "SIGKILL"])
def test_a_row_whose_process_dies_says_how_and_the_others_are_measured(pages, name):
    def kill(done, total, what):
        if what == f"mix: {FEW[0]}":
            child = next(
                child for child in multiprocessing.active_children() if child.name == FEW[0]
            )
            os.kill(child.pid, getattr(signal, name))

    corpus = table.measure("mix", pages, rows=FEW, rounds=1, progress=kill)
    assert [row.row for row in corpus.rows] == list(FEW[1:])
    assert corpus.failed == [FEW[0]]
    assert f"was ended by {name}" in corpus.missing[FEW[0]]
    assert multiprocessing.active_children() == []


def test_lmdb_needs_room_beforehand(pages, monkeypatch):
    """It maps its file: that there is no room for it would be told by SIGBUS."""
    pytest.importorskip("lmdb")
    there = os.statvfs("/")
    little = [*there]
    little[4] = 16  # blocks for those who are not root
    monkeypatch.setattr(rows.os, "statvfs", lambda path: os.statvfs_result(little))
    with pytest.raises(rows.RowMissing, match=r"/dev/shm has .* free, and lmdb needs .*shm-size"):
        rows.Lmdb(rows.Job(pages, pages.copy(), "lz4", 0))


def test_smoke_judges_nothing_and_check_has_an_exit_code(monkeypatch):
    from click.testing import CliRunner

    from zswap.bench import corpora
    from zswap.bench.command import bench

    monkeypatch.setattr(
        corpora, "CORPORA", {"process": lambda count, seed: np.zeros((64, 4096), np.uint8)}
    )
    found = [figures.Figure("good", 1.0, 0.9), figures.Figure("bad", 1.0, 2.0)]
    monkeypatch.setattr(figures, "figures", lambda *args, **kwargs: found)
    monkeypatch.setattr(
        "zswap.bench.command._pages_of",
        lambda *args: iter([("process", np.zeros((64, 4096), np.uint8))]),
    )
    monkeypatch.setattr(corpora, "distinct", lambda pages: pages)
    smoke = CliRunner().invoke(bench, ["--figures", "--smoke", "--pages", "64"])
    assert smoke.exit_code == 0, smoke.output
    assert "NO" not in smoke.output
    judged = CliRunner().invoke(bench, ["--figures", "--pages", "64"])
    assert judged.exit_code == 0, judged.output
    assert "NO" in judged.output
    checked = CliRunner().invoke(bench, ["--figures", "--pages", "64", "--check"])
    assert checked.exit_code != 0
    for wrong in (["--check"], ["--check", "--figures", "--smoke"]):
        assert CliRunner().invoke(bench, wrong).exit_code == 2


def test_lmdb_leaves_nothing_behind_however_it_ends(job):
    pytest.importorskip("lmdb")
    before = set(os.listdir("/dev/shm"))
    row = rows.Lmdb(job)
    row.clear()
    row.store()
    assert not [
        name for name in set(os.listdir("/dev/shm")) - before if name.startswith("zswap-bench-")
    ]
    assert row.check()
    row.close()


SMALL_SHM = """
mount -t tmpfs -o size=4m none /dev/shm
exec {python} -m zswap bench --smoke --corpus mix --pages 512 --row memcpy --row lmdb
"""


def test_a_container_with_a_small_dev_shm(tmp_path):
    pytest.importorskip("lmdb")
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("mount namespaces need root")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-ec", SMALL_SHM.format(python=sys.executable)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(zswap.__file__).parents[1])},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "memcpy" in done.stdout
    assert "lmdb on /dev/shm: left out; /dev/shm has 4.0 MiB free" in done.stdout


# ---- figures and growth --------------------------------------------------------------------------


def test_whether_a_figure_holds():
    assert figures.Figure("x", 1.0, 0.9).holds is True
    assert figures.Figure("x", 1.0, 1.1).holds is False
    assert figures.Figure("x", 1.0, 0.9, at_most=False).holds is False
    assert figures.Figure("x", 1.0, 1.1, at_most=False, beside=False).holds is False
    unmeasured = figures.Figure("x", 1.0, float("nan"), note="no root")
    assert unmeasured.holds is None
    assert unmeasured.to_dict()["value"] is None


def test_of_a_pair_now_one_and_now_the_other_comes_first():
    seen = []

    def call(name, values):
        seen.append(name)
        return next(values)

    one, other = iter([1.0, 9.0, 5.0]), iter([2.0, 3.0, 8.0])
    assert figures.in_pairs(3, lambda: call("a", one), lambda: call("b", other)) == [
        (1.0, 2.0),
        (9.0, 3.0),
        (5.0, 8.0),
    ]
    assert "".join(seen) == "abbaab"


@pytest.mark.parametrize(
    "group", ["calls", "large", "same-filled", "memory", "many", "writeback", "start"]
)
def test_figures_are_measured(group, pages, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    setting = figures.Setting({"mix": pages}, rounds=1, entries=(500, 1000, 2000))
    found = figures.figures(setting, [group])
    assert found
    for figure in found:
        assert figure.holds is not None
        assert figure.unit != "×" or figure.value > 0
    assert list(tmp_path.iterdir()) == []


def test_memory_figures_are_those_of_an_engine(pages):
    setting = figures.Setting({"mix": pages}, rounds=1)
    filled, halved, refilled = (figure.value for figure in figures.memory(setting))
    with zswap.ZSwap("lz4", max_pool_bytes="64MiB") as engine:
        engine.store_many(np.arange(640), np.tile(pages, (10, 1)))
        stats = engine.stats()
    assert filled == pytest.approx(stats.resident_bytes / stats.compressed_bytes, rel=0.02)
    assert halved > 1
    assert refilled == pytest.approx(filled, rel=0.1)


@pytest.mark.parametrize("shape", growth.SHAPES)
def test_growth(shape):
    offsets = growth.offsets_of(shape, 2000)
    assert np.unique(offsets // np.uint64(64 if shape.startswith("sparse") else 1)).size == 2000
    assert bool((np.diff(offsets.astype(np.int64)) > 0).all()) == shape.endswith("in order")
    point = growth.grow(shape, 2000, rounds=1)
    assert min(point.store, point.load, point.replace, point.invalidate) > 0
    assert 24 < point.metadata < point.resident


def test_growth_takes_small_pages():
    lengths = [len(lz4.block.compress(page, store_size=False)) for page in growth.small_pages(50)]
    assert 80 < np.mean(lengths) < 140


# ---- what it prints ------------------------------------------------------------------------------


@pytest.fixture
def corpus():
    measured = table.Measured(
        "zswap, batch",
        "zswap",
        [30.0],
        [10.0, 12.0, 99.0],
        [6.0],
        [4.0],
        [5.0],
        [2.0],
        77.0,
        None,
        2048,
        4096,
    )
    return table.Corpus(
        "mix",
        2,
        1,
        [measured, table.Measured("zram", "peer")],
        {"lmdb on /dev/shm": "lmdb is not installed"},
    )


def printed(corpus, width):
    console = Console(file=io.StringIO(), width=width)
    output.print_corpus(corpus, console)
    return console.file.getvalue()


def test_table(corpus):
    text = printed(corpus, 160)
    assert "mix: 2 pages, 8.0 KiB, 50.0 % same-filled" in text
    (line,) = (line for line in text.splitlines() if line.startswith("zswap, batch"))
    assert line.split()[2:] == [
        "30",
        "12",
        "77",
        "4",
        "5",
        "341,333",
        "1,024,000",
        "2.00",
        "2.00",
        "4.00",
        "2.00",
    ]
    assert "lmdb on /dev/shm: left out; lmdb is not installed" in text


def test_a_narrow_table_leaves_columns_out(corpus):
    columns = []
    for width in (80, 100, 120):
        lines = printed(corpus, width).splitlines()
        (line,) = (line for line in lines if line.startswith("zswap, batch"))
        assert line.split()[-1] == "2.00"
        assert max(map(len, lines)) <= width
        columns.append(len(line.split()))
    assert columns == sorted(columns)
    assert columns[0] < columns[-1]


@pytest.mark.parametrize("width", [40, 60])
def test_a_table_that_is_too_wide_is_several(corpus, width):
    lines = [line for line in printed(corpus, width).splitlines() if ": " not in line]
    assert max(map(len, lines)) <= width
    assert "…" not in "\n".join(lines)
    rows = [line.split()[2:] for line in lines if line.startswith("zswap, batch")]
    assert len(rows) > 1
    assert [cell for row in rows for cell in row] == ["30", "12", "4", "5", "4.00", "2.00"]
    for group in ("store ns", "load ns", "ratio"):
        assert sum(group in line for line in lines) == 1


def test_a_figure_too_long_for_the_terminal_is_folded():
    found = [
        figures.Figure("what a batch costs over the codec and the scan alone, by far", 1.06, 1.034),
        figures.Figure("short", 250, 312, unit="ns"),
    ]
    console = Console(file=io.StringIO(), width=60)
    output.print_figures(found, console)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 60
    assert "…" not in text
    assert re.search(r"≤ 1.06 × +1.034 × +yes", text)
    assert re.search(r"^short +≤ 250 ns +312 ns +NO", text, re.MULTILINE)


def test_markdown(corpus, capsys):
    output.print_corpus(corpus, Console(), as_markdown=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert "| store ns new |" in lines[0]


def test_figures_table(capsys):
    found = [
        figures.Figure("holds", 1.06, 1.034, note="mix 1.03"),
        figures.Figure("falls short", 250, 312, unit="ns"),
        figures.Figure("unknown", 1.15, float("nan"), at_most=False, note="no zram"),
    ]
    console = Console(file=io.StringIO(), width=120)
    output.print_figures(found, console)
    text = console.file.getvalue()
    assert re.search(r"holds\s+≤ 1.06 ×\s+1.034 ×\s+yes", text)
    assert re.search(r"falls short\s+≤ 250 ns\s+312 ns\s+NO", text)
    assert re.search(r"unknown\s+≥ 1.15 ×\s+not measured", text)
    assert "1 of 3 figures hold, 1 not measured" in text
    output.print_figures(found, console, as_markdown=True)
    assert "| holds | ≤ 1.06 × | 1.034 × | yes | mix 1.03 |" in capsys.readouterr().out


def test_a_group_of_figures_that_fails_leaves_the_others(monkeypatch, pages):
    def broken(setting):
        raise OSError(28, "No space left on device")

    whole = [figures.Figure("whole", 1.0, 0.9)]
    monkeypatch.setattr(
        figures, "FIGURES", {"writeback": broken, "start": lambda setting: iter(whole)}
    )
    missing = {}
    assert figures.figures(figures.Setting({"mix": pages}), missing=missing) == whole
    assert missing == {"figures of writeback": "[Errno 28] No space left on device"}


# ---- the command ---------------------------------------------------------------------------------

QUICK = [
    "bench",
    "--smoke",
    "--corpus",
    "mix",
    "--pages",
    "32",
    "--row",
    "memcpy",
    "--row",
    "zswap, batch",
]


def test_json(capsys, tmp_path):
    picture = tmp_path / "bench.svg"
    assert main([*QUICK, "--rounds", "2", "--json", "--plot", str(picture)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["schema"], report["version"], report["rounds"]) == ("zswap.bench", 1, 2)
    assert report["compressor"]["name"].startswith("lz4")
    (corpus,) = report["corpora"]
    assert (corpus["name"], corpus["pages"]) == ("mix", 32)
    assert [row["row"] for row in corpus["rows"]] == FEW
    assert len(corpus["rows"][1]["load"]) == 2
    # text may be drawn as outlines
    assert "zswap, batch" in picture.read_text() or picture.stat().st_size > 10_000


def test_a_file_is_a_corpus(capsys, tmp_path):
    (tmp_path / "held.bin").write_bytes(corpora.make("text", 40).tobytes())
    arguments = [
        "bench",
        "--smoke",
        "--file",
        str(tmp_path / "held.bin"),
        "--row",
        "memcpy",
        "--markdown",
    ]
    assert main(arguments) == 0
    assert "**held.bin: 40 pages" in capsys.readouterr().out


def test_a_corpus_that_cannot_be_made_is_left_out(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([*QUICK, "--corpus", "java"]) == 0
    text = capsys.readouterr().out
    assert "java: left out; there is no javac on this machine" in text
    assert "mix: 32 pages" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json", "--markdown"], "exclude each other"),
        (["--figures", "--plot", "x.png"], "--plot draws the table"),
        (["--row", "nothing"], "no row has 'nothing' in its name"),
        (["--compressor", "lz4:nine"], "'nine' is not a level"),
        (["--compressor", "nosuch"], "nosuch"),
        (["--corpus", "nosuch"], "nosuch"),
        (["--plot", "x.gif"], "must end in"),
        (["--figures", "--corpus", "zero", "--smoke"], "same-filled"),
        (["--file", "/nosuch"], "/nosuch"),
    ],
)
def test_usage_errors(capsys, arguments, message):
    assert main(["bench", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("zswap: ")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(("row", "code"), [("zswap, batch", 1), ("memcpy", 0)])
def test_a_failure_of_ours_is_the_commands(monkeypatch, capsys, row, code):
    def measure(name, pages, **options):
        return table.Corpus(
            name, len(pages), 0, [table.Measured("zram", "peer")], {row: "lost a page"}, [row]
        )

    monkeypatch.setattr(table, "measure", measure)
    assert main(QUICK) == code
    out, err = capsys.readouterr()
    assert f"{row}: left out; lost a page" in out
    assert err == (f"zswap: failed: {row}\n" if code else "")


def test_nothing_measured_is_a_failure(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["bench", "--smoke", "--corpus", "node"]) == 1
    out, err = capsys.readouterr()
    assert "node: left out; there is no node" in out
    assert err == "zswap: nothing was measured\n"


def test_the_table_is_there_when_the_picture_fails(capsys):
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    assert main([*QUICK, "--plot", "/dev/full/x.png"]) == 2
    assert capsys.readouterr().out == ""  # told before anything is measured

    def measured(corpora, path, compressor):
        raise zswap.Error("no picture")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "plot_corpora", measured)
        assert main([*QUICK, "--plot", "x.png"]) == 1
    out, err = capsys.readouterr()
    assert "memcpy" in out
    assert err == "zswap: no picture\n"


def at_step(monkeypatch, wanted, act):
    """Let the command do something when it tells of a step."""

    @contextlib.contextmanager
    def progress():
        def tell(done, total, what):
            if done == wanted:
                act()

        yield tell

    monkeypatch.setattr(output, "progress", progress)


@pytest.mark.parametrize("step", [0, 1, 3, 5])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopping_it_leaves_nothing_behind(monkeypatch, capsys, step, number, code):
    before = signal.getsignal(signal.SIGTERM)
    at_step(monkeypatch, step, lambda: signal.raise_signal(number))
    assert main(QUICK) == code
    said = "zswap: stopped" if number == signal.SIGINT else "zswap: stopped by SIGTERM"
    assert capsys.readouterr().err.strip() == said
    assert multiprocessing.active_children() == []
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("step", [0, 3])
def test_rows_leave_ctrl_c_to_the_parent(monkeypatch, capsys, step):
    def interrupt():
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGINT)

    at_step(monkeypatch, step, interrupt)
    assert main([*QUICK, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["corpora"][0]["rows"]) == 2


KILLED = """
import os, signal
from zswap.bench import corpora, table
def progress(done, total, what):
    if done == 5:
        os.kill(os.getpid(), signal.SIGKILL)
if __name__ == "__main__":
    mix = corpora.make("mix", 32)
    table.measure("mix", mix, rows=["memcpy", "zswap, batch"], rounds=9, progress=progress)
"""


def test_rows_end_with_a_parent_that_is_killed(tmp_path):
    path = tmp_path / "killed.py"
    path.write_text(KILLED)
    found = {"PYTHONPATH": str(Path(zswap.__file__).parents[1])}
    run = subprocess.Popen(
        [sys.executable, path],
        env=os.environ | found,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    _, said = run.communicate(timeout=60)  # returns when the last process that could write has gone
    assert (run.returncode, said) == (-signal.SIGKILL, b"")
