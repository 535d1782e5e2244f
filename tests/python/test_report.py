"""The report: what a person sees of an analysis on one screen, and what a program gets of it."""

import io
import json
import mmap
import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from rich.console import Console

from zswap import demonstration, report
from zswap.advice import DEFLATE_KERNEL, Choice, advise
from zswap.analyze import analyze
from zswap.estimate import CompressorResult, Timing, estimate, zpool_model
from zswap.kernel import Kernel, Swap, ZramDevice
from zswap.measure import MappingResult
from zswap.meminfo import format_bytes
from zswap.pages import open_files

PAGE = mmap.PAGESIZE
DISK = (Swap("/dev/sda2", 8 << 30, 0),)

pytestmark = pytest.mark.skipif(PAGE != 4096, reason="figures are for pages of 4096 bytes")


@pytest.fixture(scope="module")
def analysis(tmp_path_factory):
    """A file of 400 pages: a quarter zeros, a quarter random, the rest text; for a kernel that has
    everything."""
    rng = np.random.default_rng(0)
    text = b"".join(b"%d green bottles hanging on the wall\n" % i for i in range(200 * PAGE // 30))[
        : 200 * PAGE
    ]
    path = tmp_path_factory.mktemp("memory") / "memory.bin"
    path.write_bytes(bytes(100 * PAGE) + rng.bytes(100 * PAGE) + text)
    with open_files([path]) as source:
        return analyze(source, pages=300, kernel=EVERYTHING)


def printed(analysis, width, **options):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    report.print_analysis(analysis, console, **options)
    return console.file.getvalue()


def amount_of(e, width):
    return report.size_and_margin(e.saved_bytes, e.margin_bytes if width >= 80 else 0)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_full_tables_fit_the_terminal(analysis, width):
    text = printed(analysis, width, everything=True, maps=True)
    for line in text.splitlines():
        # commands are not broken up
        assert len(line.rstrip()) <= width or line.startswith("  "), line
    tables = text.split("\n\n")[1:4]
    assert not any("…" in table.partition("Mapping")[0] for table in tables)
    for e in analysis.estimates:  # what matters is there at any width
        ratio = f"{e.effective_ratio:.2f}"
        assert re.search(
            rf"{e.zpool} .*{ratio} .*{amount_of(e, width)} +{100 * e.saved:.1f} %", text
        ), f"{e.compressor} {e.zpool}"
    for result in analysis.compressors:
        assert re.search(rf"^{result.name} .*{result.payload_ratio:.2f}", text, re.MULTILINE)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_best_are_shown_with_amount_share_and_times_at_every_width(analysis, width):
    text = printed(analysis, width)
    shown = [choice for choice in analysis.advice.choices if choice.measured is not None]
    assert shown
    for choice in shown:
        e = analysis.estimate(choice.measured, analysis.advice.zpool)
        amount = amount_of(e, width)
        assert re.search(
            rf"^{choice.name} +{amount} +{100 * e.saved:.1f} % +[\d.]+ µs +[\d.]+ µs +\w",
            text,
            re.MULTILINE,
        ), text


def test_the_widest_choices_fit_60_columns(analysis):
    """Names, amounts, times and ways as long as they get."""
    most = replace(
        analysis.estimates[0],
        target_bytes=1 << 31,
        allocator_bytes=(1 << 31) - int(1023.9 * 2**20),
        metadata_bytes=0,
    )
    assert len(format_bytes(most.saved_bytes)) == len("unmeasured")
    slow = Timing(177_400.0, 999_900.0, 177_400.0)
    choices = (
        Choice("deflate", analysis.compressors[0].name, ("zswap", "zram"), ("zswap", "zram")),
        Choice("lzo-rle", None, ("zswap", "zram"), ("zswap", "zram")),
    )
    found = replace(
        analysis,
        advice=replace(analysis.advice, choices=choices, zpool=most.zpool),
        compressors=[replace(analysis.compressors[0], store=slow, load=slow)],
        estimates=[most],
    )
    console = Console(file=io.StringIO(), width=60)
    console.print(report.choice_table(found, 60))
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert not any("…" in line for line in lines), lines
    assert lines[-1] == "lzo-rle    unmeasured" + lines[-1][21:]
    assert lines[-1].endswith("zswap*, zram*")


def test_full_tables_name_the_estimates(analysis):
    text = printed(analysis, 120, everything=True)
    for e in analysis.estimates:
        assert re.search(rf"{e.zpool} .*{e.effective_ratio:.2f} .*{100 * e.saved:.1f} %", text)
    assert "± 95 % confidence" in text
    assert "/sys/module/zswap/parameters" in text
    assert "zramctl" in text


# ---- one screen, for every kernel ----------------------------------------------------------------

# name -> (payload of every page, store ns, load ns)
USUAL = {
    "lz4": (2000, 6000, 1700),
    "lz4hc": (1800, 40_000, 1500),
    "zstd:1": (1250, 16_000, 7000),
    "zstd:3": (1200, 20_000, 7000),
    "lzo": (1850, 7000, 3000),
    "deflate": (1230, 50_000, 7000),
    DEFLATE_KERNEL: (1240, 170_000, 22_000),
}
PARAMETERS = {"enabled": "N", "compressor": "lzo", "max_pool_percent": "20"}
ZRAM = {
    "zram": "present",
    "zram_compressors": frozenset({"lzo-rle", "lz4"}),
    "zram_default": "lzo-rle",
}
USED = ZramDevice("zram0", ("lzo-rle", "lz4"), "lzo-rle", 1 << 30)
KERNELS = {
    "nothing": Kernel(release="6.8.0"),
    "old, lzo alone": Kernel(
        release="4.19.0",
        zswap={**PARAMETERS, "zpool": "zbud"},
        crypto=frozenset({"lzo"}),
        chain=4,
        zsmalloc=False,
        swaps=DISK,
    ),
    "before 6.3": Kernel(
        release="5.15.0",
        zswap={**PARAMETERS, "zpool": "zbud"},
        crypto=frozenset({"lzo", "zstd"}),
        chain=4,
        swaps=DISK,
    ),
    "zram alone": Kernel(release="6.18.0", **ZRAM),
    "both, no disk": Kernel(
        release="6.18.0", zswap=PARAMETERS, crypto=frozenset({"lzo", "deflate"}), **ZRAM
    ),
    "both, disk": Kernel(
        release="6.18.0",
        zswap=PARAMETERS,
        crypto=frozenset({"lzo", "lz4", "zstd"}),
        swaps=DISK,
        **ZRAM,
    ),
    "little disk": Kernel(
        release="6.18.0",
        zswap=PARAMETERS,
        crypto=frozenset({"zstd"}),
        swaps=(Swap("/swap", 2 << 20, 1 << 20),),
    ),
    "container": Kernel(
        release="6.8.0",
        zswap=PARAMETERS,
        crypto=frozenset({"lzo"}),
        modules_seen=False,
        access="read-only",
    ),
    "not root": Kernel(
        release="6.18.0",
        zswap=PARAMETERS,
        crypto=frozenset({"zstd"}),
        swaps=DISK,
        access="not root",
    ),
    "zram not loaded": Kernel(release="6.12.0", zram="loadable", zram_compressors=None),
    "zram in use": Kernel(
        release="6.18.0",
        **ZRAM,
        zram_devices=(USED,),
        swaps=(Swap("/dev/zram0", 1 << 30, 5 << 20),),
        zramctl=False,
    ),
    "set so": Kernel(
        release="6.18.0",
        zswap={**PARAMETERS, "compressor": "zstd", "enabled": "Y"},
        crypto=frozenset({"zstd"}),
        swaps=DISK,
    ),
    "842": Kernel(
        release="6.18.0",
        zswap={**PARAMETERS, "compressor": "842"},
        crypto=frozenset({"842"}),
        swaps=DISK,
    ),
}
EVERYTHING = Kernel(
    release="6.18.0",
    zswap=PARAMETERS,
    crypto=frozenset({"lz4", "lz4hc", "zstd", "lzo", "deflate"}),
    zram="present",
    zram_compressors=frozenset({"lz4", "zstd"}),
    zram_default="lz4",
)


@cache
def measured(rows, pages, zpools):
    results = [
        CompressorResult(
            name,
            100,
            np.bincount([size] * 100, minlength=PAGE + 1),
            Timing(store, store, store),
            Timing(load, load, load),
            name == DEFLATE_KERNEL,
        )
        for name, (size, store, load) in rows
    ]
    return results, [estimate(r, zpool_model(zpool), pages) for r in results for zpool in zpools]


def on_kernel(analysis, kernel, rows=None, pages=100_000):
    """The analysis as if all this had been measured, for another kernel."""
    zpools = ("zsmalloc", "zbud", kernel.zsmalloc_model)
    results, estimates = measured(tuple((rows or USUAL).items()), pages, zpools)
    advice = advise(results, estimates, kernel, 1 << 34)
    return replace(
        analysis,
        compressors=results,
        estimates=estimates,
        advice=advice,
        total_pages=pages,
        zero_pages=0,
        without_zeros=[],
    )


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", KERNELS)
def test_report_is_one_screen(analysis, name, width):
    text = printed(on_kernel(analysis, KERNELS[name]), width)
    lines = text.splitlines()
    shown = sum(max(1, -(-len(line.rstrip()) // width)) for line in lines)
    assert shown <= (24 if width == 120 else 27), text
    assert "…" not in text
    assert all(len(line.rstrip()) <= width or line.startswith("  ") for line in lines)


@pytest.mark.parametrize("name", KERNELS)
def test_report_names_three_at_most_and_the_default_among_them(analysis, name):
    kernel = KERNELS[name]
    found = on_kernel(analysis, kernel)
    table = printed(found, 120).partition("──\n")[2].partition("\n\n")[0]
    rows = [line.split()[0] for line in table.splitlines()]
    assert rows == [c.name for c in found.advice.choices]
    assert 1 <= len(rows) <= 3
    if (default := kernel.default(found.advice.first)) is not None:
        assert default in rows


def text_for(analysis, name, **options):
    return "\n".join(report.advice_lines(on_kernel(analysis, KERNELS[name]), **options))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "neither zswap nor zram"),
        ("old, lzo alone", "echo Y > enabled"),
        ("before 6.3", "Before Linux 6.3 zsmalloc writes nothing back"),
        (
            "zram alone",
            "lzo-rle, the default of zram, is in no library and was not measured; lzo comes within "
            "about a point of it.",
        ),
        (
            "zram alone",
            "A kernel with CONFIG_ZRAM_BACKEND_ZSTD would save more: zram with zstd (saves 6",
        ),
        ("both, no disk", "zramctl -f -a lz4"),
        ("both, no disk", "Or zswap with lzo (saves"),
        ("both, disk", "Worth it: zswap with zstd"),
        ("little disk", "1.0 MiB of swap is free"),
        ("container", "as root, on the host: /sys is read-only here"),
        ("container", "A kernel with CONFIG_CRYPTO_ZSTD would save more: zswap with zstd (saves 6"),
        ("container", "Whether this one can load it does not show here."),
        ("not root", "as root (you are not)"),
        ("zram not loaded", "modprobe zram && cat /sys/block/zram0/comp_algorithm"),
        ("zram in use", "zram is swap here already, with lzo-rle, which was not measured"),
        ("set so", "zswap is set so already"),
        ("set so", "grep -i zswap /proc/meminfo"),
        ("842", "842, the default of zswap, is in no library and was not measured."),
    ],
)
def test_what_is_said_fits_the_kernel(analysis, name, said):
    assert said in text_for(analysis, name)


@pytest.mark.parametrize("name", ["nothing", "zram not loaded", "842"])
def test_a_kernel_that_has_nothing_measured_is_told_nothing_to_set(analysis, name):
    assert not re.search(r"\becho\b|zramctl|swapon", text_for(analysis, name, everything=True))


def test_what_another_kernel_would_give_is_said_once(analysis):
    for name in KERNELS:
        assert text_for(analysis, name, everything=True).count("CONFIG_") <= 1
    assert "CONFIG_" not in text_for(analysis, "both, disk")  # it has all that is worth having


def test_a_check_follows_each_setting(analysis):
    for name in KERNELS:
        found = on_kernel(analysis, KERNELS[name])
        lines = report.advice_lines(found, everything=True)
        for way in ("zswap", "zram"):
            setting = found.advice.setting(way)
            if setting is not None and setting.commands:
                at = lines.index("  " + setting.commands[-1])
                assert setting.compressor in lines[at + 1]
                assert lines[at + 2] == "  " + setting.check


def test_lzo_that_was_not_measured_names_its_library(analysis):
    rows = {name: row for name, row in USUAL.items() if name != "lzo"}
    for name in ("both, no disk", "both, disk"):
        lines = report.advice_lines(on_kernel(analysis, KERNELS[name], rows))
        assert sum("liblzo2" in line for line in lines) == 1
    assert not any(
        "liblzo2" in line
        for line in report.advice_lines(on_kernel(analysis, KERNELS["not root"], rows))
    )


@pytest.mark.parametrize("name", KERNELS)
def test_our_own_codec_is_named_apart_from_the_kernels(analysis, name):
    rows = USUAL | {"lref": (1000, 4000, 1500), "lref:2": (900, 6000, 1900)}
    found = on_kernel(analysis, KERNELS[name], rows)
    lines = report.advice_lines(found)
    assert [line.startswith("lref:2, ") for line in lines if "lref" in line] == [True], lines
    lines = report.advice_lines(found, everything=True)
    assert not any("lref" in line for line in lines if line.startswith("  "))
    rows["lref"] = rows["lref:2"] = USUAL["lz4hc"]
    lines = report.advice_lines(on_kernel(analysis, KERNELS["both, disk"], rows))
    assert "lref" not in "".join(lines)


def test_little_memory_is_nothing_to_set_a_kernel_for(analysis):
    found = on_kernel(analysis, KERNELS["both, disk"], pages=240)
    text = printed(found, 80)
    assert "960.0 KiB are little" in text
    assert "echo" not in text
    assert re.search(r"saves 6\d %", text)  # not charged with zspages that it leaves half empty
    assert "echo" in printed(found, 80, everything=True)


def test_a_demonstration_says_that_it_is_one(analysis):
    found = replace(analysis, title=demonstration.TITLE, demonstration=True, kind="process")
    assert "demonstration" in printed(found, 80).splitlines()[0]
    assert len(printed(found, 80).splitlines()[0].rstrip()) <= 80
    assert report.analysis_json(found)["target"]["demonstration"]


# ---- names, JSON, extremes -----------------------------------------------------------------------


def test_names_are_printed_as_they_are(analysis):
    strange = [MappingResult("[anon:[bold]x[/]]", 5, 5, 0, 0, 99, PAGE)]
    console = Console(file=io.StringIO(), width=80)
    console.print(report._mapping_table(replace(analysis, mappings=strange), 5, 80))
    assert "[anon:[bold]x[/]]" in console.file.getvalue()


def test_json_has_the_documented_keys(analysis):
    found = json.loads(json.dumps(report.analysis_json(analysis), allow_nan=False))
    assert (found["schema"], found["version"]) == ("zswap.analyze", 1)
    documented = set(re.findall(r"``(\w+)``", report.analysis_json.__doc__)) | set(
        re.findall(r"^ {4,8}(\w+)$", report.analysis_json.__doc__, re.MULTILINE)
    )

    def keys(value):
        if isinstance(value, dict):
            return set(value) | set().union(*map(keys, value.values()))
        return set().union(*map(keys, value)) if isinstance(value, list) else set()

    found["kernel"]["zswap"]["parameters"].clear()  # named by the kernel
    assert keys(found) <= documented


def test_json_tells_what_the_text_tells(analysis):
    for name, kernel in KERNELS.items():
        case = on_kernel(analysis, kernel)
        found = json.loads(json.dumps(report.analysis_json(case), allow_nan=False))
        advice = found["advice"]
        for key, way in (("kernel", "zswap"), ("zram", "zram")):
            setting = case.advice.setting(way)
            assert advice[key]["compressor"] == (setting.compressor if setting else None), name
            assert advice[key]["commands"] == (list(setting.commands) if setting else [])
        assert advice["first"] == case.advice.first
        assert found["kernel"]["access"] == kernel.access
        assert [c["name"] for c in advice["choices"]] == [c.name for c in case.advice.choices]


def constructed(sizes, **times):
    """An analysis as if every page had had this payload: name -> payload."""
    results = [
        CompressorResult(
            name,
            50,
            np.bincount([size] * 50, minlength=PAGE + 1),
            Timing(9, 9, 9),
            Timing(*times.get("load", (9, 9, 9))),
        )
        for name, size in sizes.items()
    ]
    return results, [estimate(r, zpool_model("zsmalloc-kernel"), 50) for r in results]


def replaced(analysis, sizes):
    results, estimates = constructed(sizes)
    changes = {"compressors": results, "estimates": estimates, "advice": advise(results, estimates)}
    changes |= {"mappings": [], "zero_pages": 0, "without_zeros": []}
    return replace(analysis, **changes)


def test_report_says_when_it_is_not_worth_it(analysis):
    for sizes in ({"lz4": PAGE}, {"lz4": 3700, "zstd:3": 3690}):
        lines = report.advice_lines(replaced(analysis, sizes))
        assert lines[0].startswith("Not worth it")
        assert not any("echo" in line for line in lines)


def test_report_of_nothing_but_same_filled_pages(analysis):
    all_zero = replaced(analysis, {"lz4": 0})
    assert "∞" in printed(all_zero, 80, everything=True)
    found = report.analysis_json(all_zero)
    assert found["compressors"][0]["payload_ratio"] is None
    json.dumps(found, allow_nan=False)
