"""The advice: which compressor for which aim, and only what the kernel at hand can follow."""

import mmap
import re
import subprocess
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from zswap.advice import DEFLATE_KERNEL, advise, kernel_name
from zswap.estimate import CompressorResult, Timing, estimate, zpool_model
from zswap.kernel import Kernel, Swap, ZramDevice

PAGE = 4096
DISK = (Swap("/dev/sda2", 8 << 30, 0),)
# Like processes: name -> (payload of every page, store ns, load ns)
USUAL = {
    "lz4": (2000, 6000, 1700),
    "lz4hc": (1800, 40_000, 1500),
    "zstd:1": (1250, 16_000, 7000),
    "zstd:3": (1200, 20_000, 7000),
    "lzo": (1850, 7000, 3000),
    "deflate": (1230, 50_000, 7000),
    DEFLATE_KERNEL: (1240, 170_000, 22_000),
}
ALL = frozenset({"lz4", "lz4hc", "zstd", "lzo", "lzo-rle", "deflate", "842"})

pytestmark = pytest.mark.skipif(mmap.PAGESIZE != PAGE, reason="figures are for pages of 4096 bytes")


def result_of(size, name, store, load):
    histogram = np.bincount([size] * 100, minlength=PAGE + 1)
    python = name == DEFLATE_KERNEL
    return CompressorResult(
        name, 100, histogram, Timing(store, store, store), Timing(load, load, load), python
    )


@cache
def measured(rows, population, zpools):
    results = [result_of(size, name, store, load) for name, (size, store, load) in rows]
    return results, [
        estimate(r, zpool_model(zpool), population) for r in results for zpool in zpools
    ]


def advice_for(
    rows=None, kernel=None, ram=1 << 34, population=100_000, zpools=("zsmalloc-kernel",)
):
    return advise(*measured(tuple((rows or USUAL).items()), population, zpools), kernel, ram)


def without(*names):
    return {name: row for name, row in USUAL.items() if name not in names}


def zswap_kernel(compressors, current="lzo", release="6.18.0", swaps=DISK, **parameters):
    found = {"enabled": "N", "compressor": current, "max_pool_percent": "20", **parameters}
    return Kernel(release=release, zswap=found, crypto=frozenset(compressors), swaps=swaps)


def zram_kernel(compressors, default="lzo-rle", **more):
    values = {
        "release": "6.18.0",
        "zram": "present",
        "zram_compressors": frozenset(compressors),
        "zram_default": default,
    }
    return Kernel(**{**values, **more})


# ---- three aims ----------------------------------------------------------------------------------


def test_advice_names_the_fastest_the_densest_and_a_balance():
    rows = {
        "lz4": (1500, 3000, 1000),
        "lz4hc": (1400, 40_000, 1000),
        "zstd:1": (1100, 9000, 3000),
        "zstd:3": (1000, 18_000, 3300),
    }
    advice = advice_for(rows, zswap_kernel(ALL))
    assert advice.worthwhile
    assert (advice.fastest, advice.densest) == ("lz4", "zstd:3")
    assert advice.balanced == "zstd:1"  # saves nearly as much as zstd:3 and takes half of its time
    # the kernel's zswap takes no level
    assert (advice.zswap.compressor, advice.zswap.measured) == (
        "zstd",
        "zstd:3",
    )


def test_advice_leaves_the_fastest_that_saves_nothing_aside():
    advice = advice_for({"lz4": (PAGE, 1000, 100), "zstd:3": (1000, 18_000, 3300)})
    assert advice.fastest == "zstd:3"


def test_advice_on_what_does_not_compress():
    advice = advice_for(
        {"lz4": (PAGE, 1000, 100), "zstd:3": (3800, 18_000, 3300)}, zswap_kernel(ALL)
    )
    assert not advice.worthwhile
    assert (advice.zswap, advice.zram, advice.first, advice.better) == (None, None, None, None)


@pytest.mark.parametrize(("ram", "percent"), [(1 << 40, 20), (400 << 20, 31), (100 << 20, 50)])
def test_pool_percent_follows_target_and_ram(ram, percent):
    # 100,000 pages of 1264 bytes lie in slots of 1280 bytes: 122 MiB.
    advice = advice_for({"lz4": (1264, 1000, 500)}, zswap_kernel({"lz4"}), ram)
    assert advice.max_pool_percent == percent
    assert advice.zswap_pool_bytes == pytest.approx(122 << 20, rel=0.02)
    assert advice.pool_percent_needed == -(-100 * advice.zswap_pool_bytes // ram)
    written = " ".join(advice.zswap.commands)
    assert (f"echo {percent} > max_pool_percent" in written) == (percent != 20)  # 20 is set already


def test_the_pool_must_hold_what_its_last_zspages_leave_unused():
    advice = advice_for({"lz4": (1264, 1000, 500)}, zswap_kernel({"lz4"}), population=100)
    e = estimate(result_of(1264, "lz4", 1, 1), zpool_model("zsmalloc-kernel"), 100)
    assert advice.zswap_pool_bytes >= e.allocator_bytes + e.unused_bytes


def test_advice_without_a_compressor_that_the_kernel_has():
    advice = advice_for({"xor": (1264, 1000, 500)}, zswap_kernel(ALL))
    assert (advice.zswap, advice.max_pool_percent, advice.fastest) == (None, None, "xor")


# ---- what stands for the kernel's ----------------------------------------------------------------


def test_a_level_that_the_kernel_does_not_use_stands_for_nothing():
    def name(spec, python=False):
        return kernel_name(replace(result_of(9, "lz4", 9, 9), name=spec, through_python=python))

    assert [name(spec) for spec in ("lz4", "lz4hc", "lz4hc:9", "zstd:3", "zstd", "lzo")] == [
        "lz4",
        "lz4hc",
        "lz4hc",
        "zstd",
        "zstd",
        "lzo",
    ]
    assert [
        name(spec) for spec in ("zstd:1", "zstd:19", "lz4hc:12", "lz4:9", "deflate", "xor")
    ] == [None] * 6
    assert name(DEFLATE_KERNEL, python=True) == "deflate"
    assert name("lzo", python=True) is None  # lzallright is not what the kernel has


def test_lzo_through_python_is_advised_for_nothing():
    results = [
        replace(result_of(900, "lzo", 9, 9), through_python=True),
        result_of(1999, "lz4", 99, 99),
    ]
    advice = advise(
        results,
        [estimate(r, zpool_model("zsmalloc-kernel"), 1000) for r in results],
        zswap_kernel({"lzo"}),
    )
    assert (advice.densest, advice.fastest, advice.zswap) == ("lz4", "lz4", None)


def test_what_the_kernel_does_slowly_is_the_last_resort():
    assert advice_for(kernel=zswap_kernel({"lzo", "deflate"})).zswap.compressor == "lzo"
    assert (
        advice_for(without("lzo"), zswap_kernel({"lzo", "deflate"})).zswap.compressor == "deflate"
    )


# ---- planted kernels -----------------------------------------------------------------------------


def test_only_what_is_there_is_advised():
    """Whatever a kernel has, the advice is one of its compressors, and the commands name no
    other."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        zswap_has = {name for name in ALL if rng.random() < 0.4}
        zram_has = {name for name in ALL if rng.random() < 0.4}
        kernel = replace(
            zswap_kernel(zswap_has, swaps=DISK if rng.random() < 0.5 else ()),
            zram="present",
            zram_compressors=frozenset(zram_has),
            zram_default=sorted(zram_has)[0] if zram_has else None,
        )
        advice = advice_for(kernel=kernel)
        for setting, has in ((advice.zswap, zswap_has), (advice.zram, zram_has)):
            if setting is not None:
                assert setting.compressor in has
                named = set(
                    re.findall(
                        r"(?:echo|-a) (lz4|lz4hc|zstd|lzo|lzo-rle|deflate|842)\b",
                        " ".join(setting.commands),
                    )
                )
                assert named <= {setting.compressor}
                assert setting.check
        assert 1 <= len(advice.choices) <= 3
        if advice.first is not None and kernel.default(advice.first) is not None:
            assert kernel.default(advice.first) in [c.name for c in advice.choices]
        if advice.better is not None:
            assert advice.better.compressor not in kernel.of(advice.better.way)


def test_zram_with_lzo_rle_and_lz4():
    advice = advice_for(kernel=zram_kernel({"lzo-rle", "lz4"}))
    assert (advice.first, advice.zram.compressor, advice.zswap) == ("zram", "lz4", None)
    assert (advice.better.compressor, advice.better.measured) == ("zstd", "zstd:3")
    default = next(c for c in advice.choices if c.name == "lzo-rle")
    assert (default.measured, default.default_of) == (None, ("zram",))
    assert advice.choices[-1] is default  # what was not measured comes last


def test_an_old_kernel_with_lzo_alone():
    kernel = zswap_kernel({"lzo"}, release="4.19.0", zpool="zbud")
    advice = advice_for(kernel=replace(kernel, zsmalloc=False), zpools=("zsmalloc-kernel", "zbud"))
    # judged by the allocator that it has
    assert (advice.zswap.compressor, advice.zswap.zpool) == (
        "lzo",
        "zbud",
    )
    assert not any("zpool" in command for command in advice.zswap.commands)
    assert advice.zswap.commands == ("cd /sys/module/zswap/parameters", "echo Y > enabled")
    with_zsmalloc = advice_for(kernel=kernel, zpools=("zsmalloc-kernel", "zbud"))
    assert with_zsmalloc.zswap.zpool == "zsmalloc-kernel"
    assert with_zsmalloc.zswap.commands[-1] == "echo zsmalloc > zpool && echo Y > enabled"


def test_a_kernel_since_6_18_has_no_zpool_to_set():
    advice = advice_for(kernel=zswap_kernel({"zstd"}))
    assert not any("zpool" in command for command in advice.zswap.commands)
    assert advice.zswap.commands[-1] == "echo zstd > compressor && echo Y > enabled"


def test_zswap_comes_first_where_there_is_swap_on_a_disk_and_zram_where_there_is_none():
    both = replace(
        zswap_kernel({"lz4"}),
        zram="present",
        zram_compressors=frozenset({"lz4"}),
        zram_default="lzo-rle",
    )
    assert advice_for(kernel=both).first == "zswap"
    advice = advice_for(kernel=replace(both, swaps=()))
    assert advice.first == "zram"
    # zswap needs swap; the file is a new one that nobody else can read
    assert "mktemp" in advice.zswap.commands[0]
    assert advice_for(kernel=replace(both, swaps=(Swap("/dev/zram0", 1 << 30, 0),))).first == "zram"


def test_what_is_set_already_needs_no_command():
    advice = advice_for(kernel=zswap_kernel({"lz4"}, current="lz4", enabled="Y"))
    assert advice.zswap.commands == ()
    device = ZramDevice("zram0", ("lz4",), "lz4", 1 << 30)
    kernel = zram_kernel(
        {"lz4"}, "lz4", zram_devices=(device,), swaps=(Swap("/dev/zram0", 1 << 30, 0),)
    )
    assert advice_for(kernel=kernel).zram.commands == ()


def test_zram_that_is_swap_already_is_changed_only_if_what_it_has_was_measured():
    swaps = (Swap("/dev/zram0", 1 << 30, 0),)
    device = ZramDevice("zram0", ("lzo-rle", "lzo", "zstd"), "lzo", 1 << 30)
    kernel = zram_kernel({"lzo-rle", "lzo", "zstd"}, zram_devices=(device,), swaps=swaps)
    commands = " ".join(advice_for(kernel=kernel).zram.commands)
    assert "swapoff /dev/zram0" in commands
    assert "echo zstd > /sys/block/zram0/comp_algorithm" in commands
    assert f"echo {1 << 30} > /sys/block/zram0/disksize" in commands
    kernel = replace(kernel, zram_devices=(replace(device, compressor="lzo-rle"),))
    assert advice_for(kernel=kernel).zram.commands == ()


def test_zram_that_must_be_loaded_and_zram_without_its_tool():
    advice = advice_for(kernel=zram_kernel({"zstd"}, zram="loadable"))
    assert advice.zram.commands[0] == "modprobe zram"
    advice = advice_for(kernel=zram_kernel({"zstd"}, zramctl=False))
    assert not any("zramctl" in command for command in (*advice.zram.commands, advice.zram.check))
    assert any("hot_add" in command for command in advice.zram.commands)


def test_zswap_in_front_of_zram_is_turned_off():
    kernel = zram_kernel(
        {"zstd"}, zswap={"enabled": "Y", "compressor": "lzo"}, crypto=frozenset({"lzo"})
    )
    assert (
        advice_for(kernel=kernel).zram.commands[0]
        == "echo N > /sys/module/zswap/parameters/enabled"
    )
    assert "echo N" not in " ".join(advice_for(kernel=replace(kernel, swaps=DISK)).zram.commands)


def test_commands_are_shell():
    kernels = [
        zswap_kernel({"zstd"}, swaps=(), zpool="zbud"),
        zram_kernel({"zstd"}, zram="loadable"),
        zram_kernel({"zstd"}, zramctl=False),
    ]
    for kernel in kernels:
        advice = advice_for(kernel=kernel)
        setting = advice.setting(advice.first)
        text = "\n".join([*setting.commands, setting.check])
        assert subprocess.run(["sh", "-n"], input=text, text=True, check=False).returncode == 0
        assert all(len(line) <= 78 for line in setting.commands)


def test_a_kernel_with_nothing_leaves_the_choice_among_all():
    advice = advice_for(kernel=Kernel())
    assert (advice.zswap, advice.zram, advice.first) == (None, None, None)
    assert {c.name for c in advice.choices} <= {*USUAL, "zstd"}
    assert all(c.ways == () for c in advice.choices)
    assert advice.better.compressor == "zstd"
