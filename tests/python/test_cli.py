"""The command line: what it prints, what it refuses and how, and its exit codes."""

import json
import mmap
import os
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from test_report import replaced

import zswap
from zswap import demonstration, pages, plot
from zswap.__main__ import main
from zswap.analyze import analyze

pytestmark = pytest.mark.slow

PAGE = mmap.PAGESIZE
CHILD = """
import mmap, os, sys
size = int(sys.argv[1])
area = lambda: mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
zeros, random = area(), area()
for at in range(0, size, mmap.PAGESIZE):
    zeros[at] = 0
with open('/dev/urandom', 'rb', buffering=0) as source:
    view = memoryview(random)
    while view:
        view = view[source.readinto(view):]
print('ready', flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def child():
    """A process with 8 MiB of zeros and 8 MiB of random bytes beside what Python has."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(8 << 20)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"ready\n"
    yield process
    process.stdin.close()
    process.wait()
    process.stdout.close()


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    """A file of 400 pages: a quarter zeros, a quarter random, the rest text."""
    rng = np.random.default_rng(0)
    text = b"".join(b"%d green bottles hanging on the wall\n" % i for i in range(200 * PAGE // 30))[
        : 200 * PAGE
    ]
    path = tmp_path_factory.mktemp("memory") / "memory.bin"
    path.write_bytes(bytes(100 * PAGE) + rng.bytes(100 * PAGE) + text)
    return str(path)


@pytest.fixture(scope="module")
def analysis(memory):
    with pages.open_files([memory]) as source:
        return analyze(source, pages=300)


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


# ---- what works ----------------------------------------------------------------------------------


def test_version_and_help(capsys):
    assert run(capsys, "--version") == (0, f"zswap {zswap.__version__}\n", "")
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert all(command in out for command in ("analyze", "capture", "compressors"))


def test_module_runs_in_a_pipe(memory):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "zswap",
            "analyze",
            "--file",
            memory,
            "--pages",
            "100",
            "--compressor",
            "lz4",
        ],
        capture_output=True,
        text=True,
        cwd="/",  # not where an unbuilt source tree may lie
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert "memory.bin" in done.stdout


def test_importing_the_library_imports_no_front_end():
    code = "import sys, zswap; print(sorted({'click', 'rich', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd="/") == "[]\n"


def test_process_is_analyzed_as_json(capsys, child):
    code, out, err = run(
        capsys, "analyze", "--pid", child.pid, "--json", "--compressor", "lz4", "--pages", "all"
    )
    assert (code, err) == (0, "")
    found = json.loads(out)
    total = found["target"]["pages"]
    each = (8 << 20) // PAGE
    assert found["target"]["pid"] == child.pid
    assert 2 * each <= total <= 4 * each
    assert each <= found["sample"]["same_filled_pages"] <= 1.1 * each
    lz4 = found["compressors"][0]
    assert each <= lz4["raw_pages"] <= 1.1 * each
    assert sum(lz4["histogram"]) + found["sample"]["same_filled_pages"] == found["sample"]["pages"]
    assert {m["name"] for m in found["mappings"]} >= {"[anon]", "[heap]", "[stack]"}
    for e in found["estimates"]:
        assert e["memory_bytes"] == e["allocator_bytes"] + e["metadata_bytes"]
        assert e["saved_bytes"] == found["target"]["bytes"] - e["memory_bytes"]
        low, high = e["saved_bytes_95"]
        assert low <= e["saved_bytes"] <= high


def test_without_a_target_the_largest_process_is_taken_and_named(capsys, child, monkeypatch):
    monkeypatch.setattr(demonstration, "LEAST_BYTES", 8 << 20)
    listed = [p for p in pages.processes() if p.pid == child.pid]
    monkeypatch.setattr(pages.process, "processes", lambda: listed)
    code, out, err = run(capsys, "analyze", "--pages", "50", "--compressor", "lz4")
    assert code == 0
    assert str(child.pid) in err
    assert "most anonymous memory" in err
    assert f"process {child.pid} (" in out


def test_several_processes_are_taken_as_one(capsys, child):
    alone = json.loads(
        run(
            capsys, "analyze", "--pid", child.pid, "--json", "--compressor", "lz4", "--pages", "50"
        )[1]
    )
    pids = ["--pid", child.pid, "--pid", os.getpid(), "--pid", child.pid]
    code, out, err = run(capsys, "analyze", *pids, "--json", "--compressor", "lz4", "--pages", "50")
    found = json.loads(out)["target"]
    assert (code, err) == (0, f"zswap: process {child.pid} is named twice; it is taken once\n")
    assert (found["kind"], found["pid"], found["pids"]) == (
        "process",
        None,
        [child.pid, os.getpid()],
    )
    assert found["bytes"] > alone["target"]["bytes"]
    assert found["paths"] == [f"/proc/{child.pid}/mem", f"/proc/{os.getpid()}/mem"]
    assert str(child.pid) in found["title"]


def test_process_may_be_named(capsys, tmp_path):
    script = tmp_path / "a-program-of-mine"
    script.write_text("print('ready', flush=True)\ninput()\n")
    started = [
        subprocess.Popen(
            [sys.executable, script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]
    first, second = started
    options = ["--json", "--compressor", "lz4", "--pages", "20"]
    try:
        assert all(process.stdout.readline() == b"ready\n" for process in started)
        code, out, err = run(capsys, "analyze", "a-program-of-mine", *options)
        assert (code, out) == (2, "")
        assert re.match(
            "zswap: 2 processes are called 'a-program-of-mine': .*with --pid, or .* --name ", err
        )
        assert all(f"{process.pid} (" in err for process in started)
        second.communicate()
        for words in (["a-program-of-mine"], ["--pid", "a-program-of-mine"], [first.pid]):
            code, out, err = run(capsys, "analyze", *words, *options)
            assert (code, json.loads(out)["target"]["pid"]) == (0, first.pid)
            assert err == (
                "" if words == [first.pid] else f"zswap: a-program-of-mine is process {first.pid}\n"
            )
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_an_option_is_no_name(capsys):
    program = "print('ready', flush=True)\ninput()\n"
    command = [sys.executable, "-uBc", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        code, out, err = run(capsys, "analyze", "--pid", "-uBc")
        process.stdin.write(b"\n")
    assert (code, out) == (2, "")
    assert "is called '-uBc'" in err
    assert err.count("\n") == 1


def test_file_named_twice_is_taken_once(capsys, memory, tmp_path):
    os.symlink(memory, tmp_path / "link")
    code, out, err = run(
        capsys, "analyze", "--file", memory, tmp_path / "link", "--json", "--compressor", "lz4"
    )
    assert (code, json.loads(out)["target"]["pages"]) == (0, 400)
    assert err == f"zswap: {tmp_path}/link is named twice; it is taken once\n"


def test_core_dumps_are_taken_as_one(capsys, tmp_path):
    from test_pages import make_core, numbered

    for name in ("a", "b"):
        make_core(tmp_path / name, [(PAGE, numbered(20, 1).tobytes(), 20 * PAGE)])
    code, out, _ = run(
        capsys,
        "analyze",
        "--core",
        tmp_path / "a",
        "--core",
        tmp_path / "b",
        "--json",
        "--compressor",
        "lz4",
    )
    assert (code, json.loads(out)["target"]["pages"]) == (0, 40)
    assert (
        run(capsys, "capture", "--core", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "c")[0]
        == 0
    )
    assert (tmp_path / "c").read_bytes() == 2 * numbered(20, 1).tobytes()


def test_dump_is_shown_with_and_without_its_zeros(capsys, tmp_path):
    from test_pages import make_core

    text = b"".join(b"%d bottles, %d bottles\n" % (i, 7 * i) for i in range(20 * PAGE // 15))[
        : 20 * PAGE
    ]
    make_core(tmp_path / "core", [(PAGE, text + bytes(80 * PAGE), 100 * PAGE)])
    (tmp_path / "text").write_bytes(text)
    options = ["--compressor", "lz4", "--zpool", "zsmalloc-kernel"]
    found = json.loads(run(capsys, "analyze", "--core", tmp_path / "core", "--json", *options)[1])
    alone = json.loads(run(capsys, "analyze", "--file", tmp_path / "text", "--json", *options)[1])
    assert (found["sample"]["zero_pages"], alone["without_zero_pages"]) == (80, [])
    assert found["without_zero_pages"] == alone["estimates"]
    assert found["estimates"][0]["saved"] > found["without_zero_pages"][0]["saved"] + 0.1
    out = run(capsys, "analyze", "--core", tmp_path / "core", *options)[1]
    both = [f"{100 * found[key][0]['saved']:.1f} %" for key in ("without_zero_pages", "estimates")]
    assert "80.0 % of the pages are all zeros" in out
    assert f"lz4 {both[0]} (not {both[1]})" in out


@pytest.mark.parametrize(("ended", "expected"), [(4, 0), (5, 2)])
def test_where_processes_come_and_go_the_next_is_taken(capsys, child, monkeypatch, ended, expected):
    monkeypatch.setattr(demonstration, "LEAST_BYTES", 8 << 20)
    listed = [p for p in pages.processes() if p.pid == child.pid]
    monkeypatch.setattr(pages, "largest_process", lambda: listed[0])
    left = [pages.ProcessEnded("process 1 ended")] * ended

    def measure(source, **options):
        if left:
            raise left.pop()
        return analyze(source, **options)

    monkeypatch.setattr("zswap.analyze.analyze", measure)
    code, _, err = run(capsys, "analyze", "--pages", "50", "--compressor", "lz4")
    assert (code, err.count("taking the one that is the largest now")) == (expected, 4)


@pytest.mark.parametrize("readable", [True, False])
def test_where_no_process_holds_much_a_demonstration_is_measured(
    capsys, child, monkeypatch, readable
):
    listed = [p for p in pages.processes() if p.pid == child.pid]  # 16 MiB

    def largest_process():
        if not readable:
            raise pages.SourceError("no other process may be read")
        return listed[0]

    monkeypatch.setattr(pages, "largest_process", largest_process)
    code, out, err = run(
        capsys,
        "analyze",
        "--pages",
        "2000",
        "--compressor",
        "lz4",
        "--compressor",
        "zstd:3",
        "--json",
    )
    assert (code, err.count("\n")) == (0, 1)
    assert "demonstration" in err
    found = json.loads(out)
    assert found["target"]["demonstration"]
    assert "demonstration" in found["target"]["title"]
    assert 60 << 20 < found["target"]["bytes"] < 72 << 20
    assert (
        1.5
        < found["compressors"][0]["payload_ratio"]
        < found["compressors"][1]["payload_ratio"]
        < 5
    )
    assert found["advice"]["worthwhile"]
    with pytest.raises(ProcessLookupError):  # it has ended
        os.kill(found["target"]["pid"], 0)


def test_a_small_target_that_was_named_is_analyzed(capsys):
    with subprocess.Popen(["sleep", "100"]) as process:
        code, out, _ = run(capsys, "analyze", "--pid", process.pid, "--compressor", "lz4", "--json")
        _, text, _ = run(capsys, "analyze", "--pid", process.pid, "--compressor", "lz4")
        process.kill()
    found = json.loads(out)
    assert (code, found["target"]["demonstration"]) == (0, False)
    assert found["target"]["bytes"] < 1 << 20
    assert all(e["saved"] > -0.05 for e in found["estimates"])
    assert f"process {process.pid} (sleep 100)" in text
    assert not re.search(r"-\d+(\.\d+)? %", text)


def test_core_dump_is_analyzed(capsys, tmp_path):
    from test_pages import make_core, numbered

    make_core(
        tmp_path / "core", [(PAGE, numbered(20, 0).tobytes(), 20 * PAGE)], command=b"dumped --fast"
    )
    code, out, _ = run(
        capsys, "analyze", "--core", tmp_path / "core", "--compressor", "lz4", "--maps"
    )
    assert code == 0
    assert "(dumped --fast)" in out
    assert "100.0 % are same-filled" in out


def test_several_files_may_follow_one_option(capsys, memory, tmp_path):
    (tmp_path / "other").write_bytes(bytes(PAGE))
    code, out, _ = run(
        capsys,
        "analyze",
        "--file",
        memory,
        str(tmp_path / "other"),
        "--json",
        "--compressor",
        "lz4",
    )
    assert code == 0
    assert json.loads(out)["target"]["paths"] == [memory, str(tmp_path / "other")]
    assert json.loads(out)["target"]["pages"] == 401


def test_capture_can_be_analyzed(capsys, child, tmp_path):
    code, out, err = run(
        capsys, "capture", "--pid", child.pid, "-o", tmp_path / "c", "--pages", "500"
    )
    assert (code, out) == (0, "")
    assert "500 pages" in err
    assert (tmp_path / "c").stat().st_size == 500 * PAGE
    assert run(capsys, "analyze", "--file", tmp_path / "c", "--compressor", "lz4")[0] == 0


def test_compressors_are_listed(capsys):
    code, out, _ = run(capsys, "compressors")
    assert code == 0
    assert re.search(r"^lz4 +liblz4", out, re.MULTILINE)
    auto = re.search(r"^auto: (lref|lz4) on this processor\.$", out, re.MULTILINE)
    code, out, _ = run(capsys, "compressors", "--json")
    found = json.loads(out)
    assert auto[1] == found["auto"]
    assert (found["schema"], found["version"]) == ("zswap.compressors", 1)
    assert [c["name"] for c in found["compressors"]] == [c.name for c in zswap.compressors()]
    keys = {
        "name",
        "available",
        "library",
        "version",
        "path",
        "origin",
        "levels",
        "dictionary",
        "error",
    }
    assert all(set(c) == keys for c in found["compressors"])


def test_a_variant_that_is_none_spoils_no_list(capsys, monkeypatch):
    monkeypatch.setenv("ZSWAP_LREF", "avx9")
    code, out, _ = run(capsys, "compressors")
    assert (code, "auto: " in out) == (0, False)
    assert "lref: " in out
    code, out, _ = run(capsys, "compressors", "--json")
    assert (code, json.loads(out)["auto"]) == (0, None)


def test_zpools_can_be_chosen(capsys, memory):
    code, out, _ = run(
        capsys,
        "analyze",
        "--file",
        memory,
        "--json",
        "--compressor",
        "lz4",
        "--zpool",
        "zsmalloc-kernel:4",
        "--zpool",
        "zsmalloc",
    )
    assert code == 0
    assert [e["zpool"] for e in json.loads(out)["estimates"]] == ["zsmalloc-kernel:4", "zsmalloc"]


def test_reader_that_goes_away_hears_no_complaint(memory):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "zswap",
            "analyze",
            "--file",
            memory,
            "--pages",
            "50",
            "--compressor",
            "lz4",
        ],
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1
    process.stderr.close()


# ---- what is refused -----------------------------------------------------------------------------


def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


REFUSED = {
    "dead process": (["analyze", "--pid", "DEAD"], "no process DEAD"),
    "missing file": (["analyze", "--file", "DIR/missing"], "no such file: DIR/missing"),
    "empty file": (["analyze", "--file", "DIR/empty"], "DIR/empty is empty"),
    "directory": (["analyze", "--file", "DIR"], "DIR is a directory"),
    "no core": (["analyze", "--core", "DIR/odd"], "DIR/odd is no usable core dump"),
    "missing core": (["analyze", "--core", "DIR/missing"], "no such file: DIR/missing"),
    "unknown compressor": (["analyze", "--file", "GOOD", "--compressor", "zip"], "'zip'"),
    "unknown level": (["analyze", "--file", "GOOD", "--compressor", "zstd:99"], "'zstd:99'"),
    "unknown zpool": (["analyze", "--file", "GOOD", "--zpool", "slab"], "'slab'"),
    "bad chain": (["analyze", "--file", "GOOD", "--zpool", "zsmalloc-kernel:99"], "from 4 to 16"),
    "no pages": (["analyze", "--file", "GOOD", "--pages", "0"], "'0'"),
    "words for pages": (["analyze", "--file", "GOOD", "--pages", "most"], "'most'"),
    "plot format": (["analyze", "--file", "GOOD", "--plot", "DIR/x.gif"], "DIR/x.gif"),
    "plot folder": (["analyze", "--file", "GOOD", "--plot", "DIR/none/x.png"], "DIR/none/x.png"),
    "capture folder": (["capture", "--file", "GOOD", "-o", "DIR/none/x"], "DIR/none/x"),
    "capture to folder": (["capture", "--file", "GOOD", "-o", "DIR"], "DIR"),
    "two targets": (["analyze", "--pid", "1", "--file", "GOOD"], "exclude each other"),
    "core and process": (["analyze", "--pid", "1", "--core", "GOOD"], "exclude each other"),
    "nobody's name": (["analyze", "--pid", "no-such-program"], "'no-such-program'"),
    "loose name": (["analyze", "no-such-program"], "'no-such-program'"),
    "process 0": (["analyze", "--pid", "0"], "no process 0"),
    "negative process": (["analyze", "--pid", "-5"], "'-5'"),
    "endless process": (["analyze", "--pid", "9" * 40], "no process 999"),
    "repeated seed": (
        ["analyze", "--file", "GOOD", "--seed", "1", "--seed=2"],
        "--seed is given twice",
    ),
    "repeated pages": (
        ["capture", "--file", "GOOD", "--pages", "1", "-o", "DIR/x", "--pages", "2"],
        "--pages is given twice",
    ),
    "repeated output": (
        ["capture", "--file", "GOOD", "-o", "DIR/x", "--output", "DIR/y"],
        "--output is given twice",
    ),
    "chain of zbud": (["analyze", "--file", "GOOD", "--zpool", "zbud:3"], "say zbud"),
    "loose word": (["analyze", "GOOD"], "--file GOOD"),
    "unknown command": (["analyse"], "analyse"),
    "unknown option": (["analyze", "--fast"], "--fast"),
    "no output": (["capture", "--file", "GOOD"], "--output"),
}


@pytest.mark.parametrize(("arguments", "said"), REFUSED.values(), ids=REFUSED)
def test_wrong_use_is_told_in_one_line(capsys, tmp_path, memory, arguments, said):
    (tmp_path / "empty").touch()
    (tmp_path / "odd").write_bytes(b"12345")
    words = {
        "DEAD": str(dead_pid()) if "DEAD" in arguments else "",
        "DIR": str(tmp_path),
        "GOOD": memory,
    }

    def fill(text):
        return re.sub("DEAD|DIR|GOOD", lambda match: words[match[0]], text)

    before = sorted(os.listdir(tmp_path))
    code, out, err = run(capsys, *map(fill, arguments))
    assert (code, out) == (2, "")
    assert fill(said) in err
    assert err.startswith("zswap: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert sorted(os.listdir(tmp_path)) == before


def test_forbidden_process_is_told_in_one_line():
    # Everything is imported while we may still read it; then the rights go.
    code = """
import os, sys
import zswap.__main__, zswap.analyze, zswap.pages.select, zswap.plot, zswap.report
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.exit(zswap.__main__.main(['analyze', '--pid', sys.argv[1]]))
"""
    forbidden = os.getpid() if os.getuid() == 0 else 1
    done = subprocess.run(
        [sys.executable, "-c", code, str(forbidden)], capture_output=True, text=True, cwd="/"
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        rf"zswap: (may not read the memory of process|no process) {forbidden}.*\n", done.stderr
    )


def test_missing_matplotlib_is_told_before_anything_is_measured(
    capsys, memory, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = run(capsys, "analyze", "--file", memory, "--plot", tmp_path / "x.png")
    assert (code, out) == (2, "")
    assert "pip install 'zswap[plot]'" in err


def test_failure_of_the_work_is_exit_code_1(capsys, memory, monkeypatch):
    def fail(*arguments, **options):
        raise zswap.Error("lz4: 3 of 4 pages were not stored (ALLOC_FAIL)")

    monkeypatch.setattr("zswap.analyze.analyze", fail)
    assert run(capsys, "analyze", "--file", memory) == (
        1,
        "",
        "zswap: lz4: 3 of 4 pages were not stored (ALLOC_FAIL)\n",
    )


def test_ctrl_c_leaves_clean(capsys, memory, tmp_path, monkeypatch):
    read, calls = pages.PageSource.read, []

    def interrupted(self, indexes):
        calls.append(indexes)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return read(self, indexes)

    monkeypatch.setattr(pages.sampling, "CHUNK_PAGES", 200)
    monkeypatch.setattr(pages.PageSource, "read", interrupted)
    assert run(capsys, "analyze", "--file", memory, "--compressor", "lz4") == (
        130,
        "",
        "\nzswap: stopped\n",
    )
    calls.clear()
    assert run(capsys, "capture", "--file", memory, "-o", tmp_path / "out") == (
        130,
        "",
        "\nzswap: stopped\n",
    )
    assert os.listdir(tmp_path) == []


# ---- the picture ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_picture_is_drawn(capsys, memory, tmp_path, ending):
    path = tmp_path / f"report.{ending}"
    code, _, err = run(
        capsys, "analyze", "--file", memory, "--pages", "100", "--compressor", "lz4", "--plot", path
    )
    assert (code, err) == (0, f"drawn: {path}\n")
    data = path.read_bytes()
    if ending == "png":
        assert data.startswith(b"\x89PNG")
        assert len(data) > 20_000
        width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
        assert (width, height) == (1920, 1080)
    else:
        assert ElementTree.fromstring(data).tag.endswith("svg")


def test_names_in_the_picture_do_not_overlap(analysis):
    figure = plot.draw(analysis)
    assert analysis.title in figure.get_suptitle()
    below = figure._supxlabel.get_text()
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d", below)
    assert f"Linux {os.uname().release}" in below
    assert re.search(r"\d CPUs?$", below)
    left = figure.axes[0]
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in left.texts]
    assert [text.get_text() for text in left.texts] == [r.name for r in analysis.compressors]
    frame = left.get_window_extent(renderer)
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:number])
        assert frame.x0 <= box.x0
        assert box.x1 <= frame.x1


def test_picture_of_extreme_results(analysis, tmp_path):
    for sizes in ({"lz4": 0}, {"lz4": PAGE}, {"lz4": 100, "zstd:3": 100}):
        plot.save(replaced(analysis, sizes), str(tmp_path / "x.svg"))
