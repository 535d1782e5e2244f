"""The adviser: planted machines, what is decided on them, the commands, and the screen."""

import io
import json
import mmap
import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from test_kernel import crypto, modules, parameters, plant
from test_report import KERNELS, USUAL, on_kernel

from zswap import adviser, pages
from zswap.__main__ import main
from zswap.adviser import machine as looking
from zswap.adviser import picture, report
from zswap.adviser.machine import Area, Machine, Rates, Usage, read_machine, read_usage
from zswap.adviser.plan import plan
from zswap.adviser.verdict import judge, shortage, zram_size
from zswap.analyze import analyze
from zswap.kernel import Kernel, ZramDevice
from zswap.measure import PartResult
from zswap.pages import Part, open_files, select
from zswap.plot import PlotError

PAGE = mmap.PAGESIZE
MIB, GIB = 1 << 20, 1 << 30

pytestmark = pytest.mark.skipif(PAGE != 4096, reason="figures are for pages of 4096 bytes")


def meminfo(**kilobytes):
    return "".join(f"{name}:       {number} kB\n" for name, number in kilobytes.items())


#: An ordinary server: 8 GiB, a disk with swap on it and a file on another, zswap on.
SERVER = {
    **modules("6.8.0"),
    **parameters(enabled="Y", compressor="lzo", zpool="zsmalloc", max_pool_percent=20),
    "proc/crypto": crypto("lzo", "zstd"),
    "proc/meminfo": meminfo(
        MemTotal=8 << 20,
        MemFree=100_000,
        MemAvailable=600_000,
        AnonPages=6 << 20,
        Shmem=512 << 10,
        Mlocked=2048,
        Hugetlb=1024,
        Zswap=200_000,
        Zswapped=600_000,
    ),
    "proc/vmstat": "pswpin 1000\npswpout 5000\npgmajfault 70\nzswpin 3000\nzswpout 8000\nother 1\n",
    "proc/uptime": "1000.50 1900.00\n",
    "proc/pressure/memory": "some avg10=1.00 avg60=2.00 avg300=3.50 total=1\n"
    "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "proc/swaps": "Filename Type Size Used Priority\n"
    "/dev/sda2 partition 4194304 1048576 -2\n/dev/zram0 partition 1048576 65536 100\n",
    "proc/cpuinfo": "processor : 0\nmodel name : A  Processor @ 3 GHz\n",
    "sys/block/zram0/comp_algorithm": "lzo-rle [zstd]\n",
    "sys/block/zram0/disksize": f"{GIB}\n",
    "sys/block/zram0/mm_stat": "67108864 16777216 17825792 0 18874368 12 3 4 5\n",
    "sys/kernel/debug/zswap/pool_limit_hit": "7\n",
    "sys/kernel/debug/zswap/reject_reclaim_fail": "2\n",
    "sys/kernel/debug/zswap/stored_pages": "150000\n",
    "proc/sys/vm/swappiness": "60\n",
    "proc/sys/vm/page-cluster": "3\n",
    "proc/sys/vm/watermark_boost_factor": "15000\n",
    "proc/sys/vm/watermark_scale_factor": "10\n",
    "etc/os-release": 'ID=ubuntu\nID_LIKE="debian"\n',
    "run/systemd/system/x": "",
    "dev/sda2": "",
}


def block(root, name, disk, rotational):
    """A partition of a disk, as /sys shows it."""
    at = root / f"sys/devices/{disk}/{name}"
    plant(root, {f"sys/devices/{disk}/queue/rotational": f"{rotational}\n"})
    at.mkdir(parents=True)
    (at / "partition").write_text("2\n")
    folder = root / "sys/class/block"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).symlink_to(at)


# ---- the machine ---------------------------------------------------------------------------------


def test_a_server_is_read(tmp_path):
    plant(tmp_path, SERVER)
    block(tmp_path, "sda2", "sda", 1)
    (tmp_path / "sys/class/block/zram0").mkdir()
    found = read_machine(tmp_path)
    assert (found.ram, found.available, found.limited) == (8 * GIB, 600_000 << 10, False)
    assert (found.anonymous, found.shared) == (6 * GIB, 512 * MIB)
    assert (found.locked, found.hugetlb) == (2 * MIB, MIB)
    assert found.areas == (
        Area("/dev/zram0", "zram", GIB, 64 * MIB, 100),
        Area("/dev/sda2", "hard disk", 4 * GIB, GIB, -2),
    )
    assert found.disks == (found.areas[1],)
    assert found.zram["zram0"]["compressor"] == "zstd"
    assert (found.zram["zram0"]["orig"], found.zram["zram0"]["used"]) == (64 * MIB, 17 * MIB)
    assert (found.zswap_on, found.zswap_pool, found.zswap_stored) == (
        True,
        200_000 << 10,
        600_000 << 10,
    )
    assert found.zswap_debug["pool_limit_hit"] == 7
    assert found.cpu == "A Processor @ 3 GHz"
    assert found.sysctls["vm.page-cluster"] == 3
    assert (found.systemd, found.generator) == (True, False)
    assert found.package == "apt install systemd-zram-generator"
    assert found.usage.pressure == (1.0, 2.0, 3.5)
    assert found.usage.counters["zswpout"] == 8000
    assert "other" not in found.usage.counters
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", found.taken)


@pytest.mark.parametrize(("rotational", "kind"), [("0", "SSD"), ("1", "hard disk"), ("", "device")])
def test_a_disk_is_told_by_whether_it_turns(tmp_path, rotational, kind):
    plant(tmp_path, {"proc/swaps": "F T S U P\n/dev/vdb1 partition 1024 0 -2\n"})
    block(tmp_path, "vdb1", "vdb", rotational)
    assert [area.kind for area in read_machine(tmp_path).areas] == [kind]


def test_a_swap_file_lies_on_a_disk_or_somewhere(tmp_path):
    plant(tmp_path, {"proc/swaps": "F T S U P\n/swapfile file 1024 0 -2\n", "swapfile": ""})
    assert read_machine(tmp_path).areas[0].kind == "file"
    device = os.stat(tmp_path / "swapfile").st_dev
    at = f"sys/dev/block/{os.major(device)}:{os.minor(device)}/queue/rotational"
    plant(tmp_path, {at: "0\n"})
    assert read_machine(tmp_path).areas[0].kind == "SSD"


def test_an_empty_root_is_a_machine_of_nothing(tmp_path):
    found = read_machine(tmp_path)
    assert (found.ram, found.areas, found.zram, found.zswap_on) == (0, (), {}, False)
    assert (found.usage.pressure, found.usage.counters) == (None, {})
    assert found.cpu
    judged = adviser.look(lambda: None, root=tmp_path)
    assert judged.verdict.action == "leave"
    assert shown(judged, 80)
    assert json.dumps(report.advised_json(judged), allow_nan=False)


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_has_the_memory_of_its_cgroup(tmp_path, version):
    plant(tmp_path, SERVER)
    if version == 2:
        at = "sys/fs/cgroup/box"
        plant(
            tmp_path,
            {
                "proc/self/cgroup": "0::/box\n",
                f"{at}/memory.max": f"{512 * MIB}\n",
                f"{at}/memory.current": f"{400 * MIB}\n",
                f"{at}/memory.stat": f"anon {300 * MIB}\nshmem {20 * MIB}\nactive_file {50 * MIB}\n"
                f"inactive_file {30 * MIB}\n",
            },
        )
    else:
        at = "sys/fs/cgroup/memory/box"
        plant(
            tmp_path,
            {
                "proc/self/cgroup": "4:memory:/box\n",
                f"{at}/memory.limit_in_bytes": f"{512 * MIB}\n",
                f"{at}/memory.usage_in_bytes": f"{400 * MIB}\n",
                f"{at}/memory.stat": f"total_rss {300 * MIB}\ntotal_shmem {20 * MIB}\n"
                f"total_active_file {50 * MIB}\ntotal_inactive_file {30 * MIB}\n",
            },
        )
    found = read_machine(tmp_path)
    assert (found.ram, found.limited) == (512 * MIB, True)
    assert (found.anonymous, found.shared) == (300 * MIB, 20 * MIB)
    assert found.available == (512 - 400 + 80 - 20) * MIB


def test_rates_are_since_the_start_and_of_late(tmp_path):
    plant(tmp_path, SERVER)
    before = read_usage(tmp_path)
    plant(
        tmp_path,
        {
            "proc/uptime": "1002.50 1.0\n",
            "proc/vmstat": "pswpin 1010\npswpout 5000\nzswpin 3000\nzswpout 9000\npgmajfault 1\n",
        },
    )
    rates = Rates.between(before, read_usage(tmp_path))
    assert rates.seconds == 2.0
    assert rates.lately["pswpin"] == 5.0
    assert rates.lately["zswpout"] == 500.0
    assert rates.lately["pgmajfault"] == 0.0  # no rate is below nothing
    assert rates.since_start["pswpout"] == pytest.approx(5000 / 1002.5)
    assert rates.swapped_out == 500.0
    assert rates.swapped_in == 5.0
    assert Rates.between(Usage(), Usage()).swapped_in == 0.0


# ---- the verdict ---------------------------------------------------------------------------------

NO_RATES = Rates(1.0, {}, {})
SYSCTLS = {
    "vm.swappiness": 60,
    "vm.page-cluster": 3,
    "vm.watermark_boost_factor": 15000,
    "vm.watermark_scale_factor": 10,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("memory") / "memory.bin"
    path.write_bytes(np.random.default_rng(0).bytes(40 * PAGE))
    with open_files([path]) as source:
        return analyze(source, compressors=["lz4"], kernel=Kernel())


def machine_of(kernel, level="short", **more):
    available = {"short": 0.05, "some": 0.3, "none": 0.8}[level]
    values = {
        "taken": "2026-11-26T03:00:00+00:00",
        "kernel": kernel,
        "cpu": "A CPU",
        "cpus": 4,
        "ram": 2 * GIB,
        "available": int(available * 2 * GIB),
        "anonymous": GIB,
        "areas": tuple(
            Area(s.path, "zram" if s.zram else "SSD", s.size, s.used, -2) for s in kernel.swaps
        ),
        "zram": {d.name: {"compressor": d.compressor, "size": d.size} for d in kernel.zram_devices},
        "sysctls": SYSCTLS,
        "systemd": True,
        "udev": True,
        "generator": True,
        "usage": Usage(1000.0, {}, (0.0, 0.0, 0.0)),
    }
    return Machine(**{**values, **more})


def advised(base, kernel, level="short", rates=NO_RATES, rows=None, **more):
    """The advice on a planted machine with a quarter of a million pages like these."""
    found = on_kernel(base, kernel, rows, pages=250_000)
    parts = [
        PartResult(Part(pid, name, f"/unit-{pid}.service", size), {r.name: r for r in of})
        for pid, name, size, of in (
            (101, "postgres", 150_000, found.compressors),
            (102, "a-process-with-a-long-name", 99_999, found.compressors),
            (103, "sh", 1, [replace(r, pages=0) for r in found.compressors]),
        )
    ]
    found = replace(found, kind="process", title="all processes", parts=parts, pids=[101, 102, 103])
    return adviser.look_together(
        machine_of(kernel, level, **more), rates, found, found.advice, left_out=("2 left out.",)
    )


def shown(found, width):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    report.print_advised(found, console)
    return console.file.getvalue()


EXPECTED = {
    "nothing": "leave",
    "old, lzo alone": "zswap",
    "before 6.3": "zswap",
    "zram alone": "zram",
    "both, no disk": "zram",
    "both, disk": "zswap",
    "little disk": "zswap",
    "container": "zswap",
    "not root": "zswap",
    "zram not loaded": "leave",
    "zram in use": "keep",
    "set so": "keep",
    "842": "leave",
}


@pytest.mark.parametrize("name", KERNELS)
def test_the_verdict_fits_the_kernel(base, name):
    kernel = KERNELS[name]
    found = advised(base, kernel)
    verdict = found.verdict
    assert verdict.action == EXPECTED[name], verdict
    if verdict.setting is not None:
        assert verdict.setting.compressor in kernel.of(verdict.setting.way)
        assert verdict.today.low <= verdict.today.gained <= verdict.today.high
        assert verdict.today.moved <= verdict.full.moved or verdict.behind is not None
        assert 0 < verdict.full.gained < verdict.full.moved
    calm = advised(base, kernel, level="none").verdict
    assert calm.action in ("leave", "keep")
    assert calm.setting == verdict.setting


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("level", ["short", "none"])
def test_commands_are_shell_and_name_what_is_there(base, name, level):
    found = advised(base, KERNELS[name], level)
    lines = [*found.plan.now, *found.plan.keep, *found.plan.check, *found.plan.undo]
    done = subprocess.run(["sh", "-n"], input="\n".join(lines), text=True, check=False)
    assert done.returncode == 0
    known = {*KERNELS[name].of("zswap"), *KERNELS[name].of("zram")}
    named = re.findall(
        r"(?:-a|compressor - - - -|algorithm =|echo) (lz4|lz4hc|zstd|lzo|lzo-rle|deflate|842)\b",
        "\n".join(lines),
    )
    assert set(named) <= known | {KERNELS[name].default("zswap")}
    assert bool(found.plan.now) == (
        found.verdict.setting is not None and found.verdict.action != "keep"
    )
    assert bool(found.plan.now) == bool(found.plan.undo)


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("name", KERNELS)
def test_the_advice_is_one_screen(base, name, width):
    found = advised(base, KERNELS[name])
    text = shown(found, width)
    lines = [line.rstrip() for line in text.splitlines()]
    assert all(len(line) <= width or line.startswith("  ") for line in lines)
    tables = text.split("\n\n")[1:3]
    for choice in found.analysis.advice.choices:
        pattern = (
            r" +[\d.]+ .*iB +[\d.]+ % +[\d.]+ µs" if choice.measured else " +(not |un)measured"
        )
        assert re.search(f"^{choice.name}{pattern}", tables[0], re.MULTILINE), tables[0]
    assert not any(
        "…" in line.partition("  ")[2] for table in tables for line in table.splitlines()
    )
    rows = sum(max(1, -(-len(line) // width)) for line in lines)
    assert rows <= {60: 80, 80: 62, 120: 48}[width], text
    # no column is lost
    for part in ("RAM", "swappable", "postgres 101", "saves", "store", "load"):
        assert part in text
    assert "nan" not in text
    tables = text[text.index("compressor ") : text.index(found.verdict.headline)]
    assert not re.search(r"\d…|MiB…|µs…|measu…|compre…", tables), text
    if found.verdict.setting is not None:
        assert re.search(r"lzo-rle|lz4|zstd|lzo", tables)


def test_zram_is_half_of_ram_or_what_could_be_swapped(base):
    e = on_kernel(base, KERNELS["zram alone"]).estimate("zstd:3", "zsmalloc-kernel")
    small = machine_of(KERNELS["zram alone"], anonymous=100 * MIB)
    assert zram_size(small, e) == GIB
    assert zram_size(replace(small, anonymous=int(1.5 * GIB)), e) == int(1.5 * GIB)
    # what it takes once it is full stays below half of RAM
    dense = on_kernel(base, KERNELS["zram alone"], {"lz4": (3000, 1, 1)}).estimate(
        "lz4", "zsmalloc-kernel"
    )
    size = zram_size(replace(small, anonymous=8 * GIB), dense)
    assert size * dense.memory_bytes / dense.target_bytes <= GIB
    assert size >= 0.95 * GIB * dense.target_bytes / dense.memory_bytes
    large = replace(small, ram=64 * GIB)
    assert zram_size(large, e) % (256 * MIB) == 0


def test_memory_that_hardly_compresses_is_left_alone(base):
    found = advised(base, KERNELS["zram alone"], rows={"lz4": (PAGE, 9, 9), "zstd:3": (3900, 9, 9)})
    assert found.verdict.action == "leave"
    assert "does not compress" in found.verdict.why
    assert not found.plan.now
    assert "Leave it off" in shown(found, 80)


def test_what_could_not_be_swapped_at_all_needs_nothing(base):
    found = on_kernel(base, KERNELS["zram alone"], pages=2000)
    machine = machine_of(KERNELS["zram alone"], "some")
    verdict = judge(machine, NO_RATES, found, found.advice)
    assert verdict.action == "leave"
    assert "only 7.8 MiB could be swapped" in verdict.why
    assert (
        judge(machine_of(KERNELS["zram alone"]), NO_RATES, found, found.advice).action == "zram"
    )  # where memory is short every bit counts


@pytest.mark.parametrize(
    ("change", "level"),
    [
        ({}, "none"),
        ({"available": 100 * MIB}, "short"),
        ({"usage": Usage(9.0, {}, (0.0, 0.0, 1.5))}, "short"),
        ({"usage": Usage(9.0, {}, None)}, "none"),
        ({"available": 600 * MIB}, "some"),
        ({"areas": (Area("/dev/sda2", "SSD", GIB, 200 * MIB, -2),)}, "some"),
        ({"ram": 0}, "none"),
    ],
)
def test_how_short_memory_is(change, level):
    machine = replace(machine_of(Kernel(), "none"), **change)
    found = shortage(machine, Rates(2.0, {}, {"pswpin": 12.0}))
    assert found.level == level
    assert "12 pages a second come back" in found.why


def test_what_is_in_use_is_changed_only_for_something_clearly_better(base):
    kernel = replace(KERNELS["set so"], crypto=frozenset({"zstd", "lzo"}))
    now = {**kernel.zswap, "compressor": "lzo"}
    found = advised(base, replace(kernel, zswap=now))
    assert found.verdict.action == "zswap"
    assert "echo zstd > compressor" in " ".join(found.plan.now)
    assert "echo lzo > /sys/module/zswap/parameters/compressor" in found.plan.undo
    close = {**USUAL, "lzo": (1210, 7000, 3000), "zstd:3": (1200, 900, 900)}
    kept = advised(base, replace(kernel, zswap=now), rows=close)
    assert kept.verdict.action == "keep"
    assert "instead of" in kept.verdict.why
    assert not kept.plan.now
    assert kept.plan.check


def test_rates_of_today_are_what_it_costs(base):
    busy = Rates(1.0, {"pswpout": 10.0}, {"pswpout": 2000.0, "pswpin": 1000.0})
    found = advised(base, KERNELS["both, disk"], rates=busy)
    cost = found.verdict.cost
    assert (cost.swapped_out, cost.swapped_in) == (2000.0, 1000.0)
    zstd = USUAL["zstd:3"]
    assert cost.cpu_share == pytest.approx((2000 * zstd[1] + 1000 * zstd[2]) / 1e9)
    assert cost.move_seconds == pytest.approx(250_000 * zstd[1] / 1e9)
    text = " ".join(shown(found, 120).split())
    assert "today 2,000 pages/s go out and 1,000 come back: 4.7 % of one CPU" in text
    assert "SSD it is usually 100 µs" in text
    assert "today nothing is swapped" in shown(advised(base, KERNELS["zram alone"]), 120)


# ---- the commands --------------------------------------------------------------------------------


def test_zram_is_kept_by_a_file_of_its_own_and_undone(base):
    found = advised(base, KERNELS["zram alone"])
    now, keep, undo = map("\n".join, (found.plan.now, found.plan.keep, found.plan.undo))
    megabytes = found.verdict.size >> 20
    assert f"-s {megabytes}M" in now
    assert "sysctl -q vm.swappiness=180 vm.page-cluster=0" in now
    written = re.search(r"printf '(\[zram0\].*)' > (\S+)", keep)
    assert written[1].replace("\\n", "\n").splitlines() == [
        "[zram0]",
        f"zram-size = {megabytes}",
        "compression-algorithm = lz4",
        "swap-priority = 100",
    ]
    # what anybody else has written is not touched
    files = re.findall(r"> (/etc\S+)", keep)
    assert files
    assert all("zswap-advise" in path for path in files)
    assert set(re.findall(r"/etc\S+", undo)) == set(files)
    assert "swapoff $dev && zramctl -r $dev" in undo
    assert "sysctl -q vm.swappiness=60 vm.page-cluster=3" in undo


def test_a_device_that_was_there_unused_stays(base):
    free = ZramDevice("zram0", ("lzo-rle", "lz4"), "lzo-rle", 0)
    found = advised(base, replace(KERNELS["zram alone"], zram_devices=(free,)))
    undo = "\n".join(found.plan.undo)
    assert "zramctl -r" not in undo
    assert "echo lzo-rle > $z/comp_algorithm" in undo
    done = subprocess.run(
        [
            "sh",
            "-c",
            "dev=/dev/zram7; swapoff() { :; }; echo() { command echo $@; };"
            + undo.splitlines()[0].rpartition("&& echo")[0]
            + "&& echo $z",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "/sys/block/zram7\n"


def test_settings_that_are_right_already_are_not_touched(base):
    right = {"vm.swappiness": 180, "vm.page-cluster": 0, "vm.watermark_boost_factor": 0}
    found = advised(base, KERNELS["zram alone"], sysctls=right)
    assert "sysctl" not in "\n".join([*found.plan.now, *found.plan.keep, *found.plan.undo])
    old = replace(KERNELS["zram alone"], release="5.4.0")
    assert "vm.swappiness=100" in " ".join(advised(base, old).plan.now)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"generator": False, "package": "apt install x"}, "apt install x"),
        ({"generator": False}, "/etc/udev/rules.d/"),
        ({"systemd": False}, "/etc/udev/rules.d/"),
    ],
)
def test_zram_is_kept_by_what_the_machine_has(base, more, said):
    found = advised(base, KERNELS["zram alone"], **more)
    assert said in "\n".join(found.plan.keep)


def test_where_nothing_runs_at_the_start_that_is_said(base):
    found = advised(base, KERNELS["zram alone"], systemd=False, udev=False, sysctls={})
    assert found.plan.keep == ()
    assert "at each start" in found.plan.notes[0]
    assert not any("rm -f" in line for line in found.plan.undo)


def test_zswap_is_kept_by_systemd_or_on_the_command_line(base):
    found = advised(base, KERNELS["both, disk"])
    keep = "\n".join(found.plan.keep)
    assert "w /sys/module/zswap/parameters/enabled - - - - Y" in keep
    assert "zswap.enabled=1" in found.plan.notes[0]
    assert "in front of /dev/" in found.verdict.headline
    bare = advised(base, KERNELS["both, disk"], systemd=False)
    assert not [line for line in bare.plan.keep if "tmpfiles" in line]
    assert "zswap.compressor=zstd" in bare.plan.notes[0]
    old = advised(base, KERNELS["before 6.3"])
    assert "zswap.zpool=zsmalloc" in old.plan.notes[0]
    assert "echo zbud > /sys/module/zswap/parameters/zpool" in old.plan.undo


def test_zswap_in_front_of_zram_is_turned_off_and_on_again(base):
    kernel = replace(KERNELS["both, no disk"], zswap={"enabled": "Y", "compressor": "lzo"})
    found = advised(base, kernel)
    assert found.plan.now[0] == "echo N > /sys/module/zswap/parameters/enabled"
    assert "echo Y > /sys/module/zswap/parameters/enabled" in found.plan.undo
    assert any("enabled - - - - N" in line for line in found.plan.keep)


def test_zram_that_is_swap_is_changed_and_put_back(base):
    kernel = KERNELS["zram in use"]
    device = replace(kernel.zram_devices[0], compressors=("lzo", "zstd"), compressor="lzo")
    kernel = replace(kernel, zram_devices=(device,), zram_compressors=frozenset({"lzo", "zstd"}))
    found = advised(base, kernel)
    assert found.verdict.action == "zram"
    assert found.verdict.size == device.size
    assert "echo zstd > /sys/block/zram0/comp_algorithm" in "\n".join(found.plan.now)
    assert "echo lzo > /sys/block/zram0/comp_algorithm" in "\n".join(found.plan.undo)


# ---- the picture ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zram alone", "both, disk", "nothing", "zram in use"])
@pytest.mark.parametrize("watched", [False, True])
def test_the_picture_is_for_a_talk_and_names_do_not_overlap(base, name, watched, tmp_path):
    pytest.importorskip("matplotlib")
    close = {**USUAL, "zstd:3": (1240, 20_000, 7000)}
    found = advised(base, KERNELS[name], "none", rows=close)
    if watched:
        touched = pages.Touched([1.0, 2.0, 4.0, 8.0], [0.9, 0.8, 0.7, 0.6], 600, 400, 5.0, [])
        found = replace(found, touched=touched)
    picture.save(found, str(tmp_path / "x.png"))
    with open(tmp_path / "x.png", "rb") as file:
        header = file.read(24)
    assert (int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")) == (
        1920,
        1080,
    )
    figure = picture.draw(found)
    assert len(figure.axes) == 2 + watched
    renderer = figure.canvas.get_renderer()
    figure.canvas.draw()
    for axes in figure.axes:
        boxes = [t.get_window_extent(renderer) for t in axes.texts if t.get_text()]
        assert not any(a.overlaps(b) for n, a in enumerate(boxes) for b in boxes[:n])
        assert all(box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 for box in boxes)
    text = figure._supxlabel.get_text()
    assert "2026-11-26" in text
    assert "A CPU" in text
    assert "Linux" in text


def test_where_nothing_was_measured_there_is_nothing_to_draw():
    pytest.importorskip("matplotlib")
    with pytest.raises(PlotError, match="nothing to draw"):
        picture.draw(adviser.look_together(Machine(), NO_RATES, None, None))


# ---- JSON ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KERNELS)
def test_json_has_the_documented_keys(base, name):
    found = json.loads(
        json.dumps(report.advised_json(advised(base, KERNELS[name])), allow_nan=False)
    )
    assert (found["schema"], found["version"], found["date"][:4]) == ("zswap.advise", 1, "2026")
    documented = set(re.findall(r"``(\w+)``", report.advised_json.__doc__)) | set(
        re.findall(r"^ {4,8}(\w+)$", report.advised_json.__doc__, re.MULTILINE)
    )

    def keys(value):
        if isinstance(value, dict):
            return set(value) | set().union(*map(keys, value.values()))
        return set().union(*map(keys, value)) if isinstance(value, list) else set()

    assert found["measured"]["analysis"].pop("schema") == "zswap.analyze"
    found["measured"]["analysis"] = None
    for given in ("sysctls", "parameters", "debug", "since_start", "lately"):
        for part in found.values():
            if isinstance(part, dict) and part.get(given):
                part[given] = {}
    assert keys(found) <= documented


def test_the_documents_have_the_schema():
    path = os.path.join(os.path.dirname(__file__), "../../docs/advise.md")
    if not os.path.exists(path):
        pytest.skip("the documents are not here")
    with open(path) as file:
        text = file.read()
    for key in report.advised_json(adviser.look_together(Machine(), NO_RATES, None, None)):
        assert f"`{key}`" in text, key


# ---- the command ---------------------------------------------------------------------------------


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


@pytest.mark.slow
def test_the_command_advises_this_machine(capsys):
    with subprocess.Popen(["sleep", "100"]) as process:
        code, out, err = run(capsys, "advise", "--pages", "200", "--json")
        process.kill()
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["machine"]["ram_bytes"] > 0
    assert found["verdict"]["action"] in ("zram", "zswap", "keep", "leave")
    assert found["measured"]["whole"]
    assert process.pid in found["measured"]["analysis"]["target"]["pids"]
    assert os.getpid() not in found["measured"]["analysis"]["target"]["pids"]


@pytest.mark.slow
def test_the_command_takes_targets(capsys):
    with subprocess.Popen(["sleep", "100"]) as process:
        code, out, err = run(capsys, "advise", "--tree", process.pid)
        process.kill()
    assert (code, err) == (0, "")
    assert f"1 process from {process.pid}" in out
    assert "RAM" in out


def test_an_empty_machine_is_no_error(capsys, monkeypatch):
    monkeypatch.setattr(select, "processes", lambda: [])
    code, out, err = run(capsys, "advise")
    assert (code, err) == (0, "")
    assert "no process with memory may be read" in out
    assert "Leave it as it is" in out
    code, out, err = run(capsys, "advise", "--json")
    assert json.loads(out)["measured"]["analysis"] is None


def test_a_process_that_was_named_must_be_there(capsys):
    code, out, err = run(capsys, "advise", "--pid", (1 << 22) + 5)
    assert (code, out) == (2, "")
    assert err.startswith("zswap: no process")


def test_ctrl_c_leaves_clean(capsys, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(pages.PageSource, "read", interrupted)
    with subprocess.Popen(["sleep", "100"]) as process:
        code, out, err = run(capsys, "advise")
        process.kill()
    assert (code, out, err) == (130, "", "\nzswap: stopped\n")


NOBODY = 65534
AS_NOBODY = """
import contextlib, io, os, sys
from zswap.__main__ main
with contextlib.redirect_stdout(io.StringIO()):  # what it imports may be root's alone
    main(["advise", "--pid", str(os.getppid()), "--pages", "16", "--json"])
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
sys.exit(main(["advise", "--pages", "64", *sys.argv[2:]]))
""".replace("__main__ main", "__main__ import main")


@pytest.mark.slow
@pytest.mark.root
def test_who_is_not_root_sees_his_own_and_is_told(tmp_path):
    if os.geteuid():
        pytest.skip("only root can become somebody else")
    command = [sys.executable, "-c", AS_NOBODY, str(NOBODY)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    with subprocess.Popen(["sleep", "100"], user=NOBODY, group=NOBODY, extra_groups=[]) as process:
        done = subprocess.run([*command, "--json"], check=False, **options)
        process.kill()
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert not found["measured"]["as_root"]
    assert process.pid in found["measured"]["analysis"]["target"]["pids"]
    assert any("another user's" in sentence for sentence in found["measured"]["left_out"])
    if os.access("/sys/module/zswap/parameters/enabled", os.R_OK):
        assert found["kernel"]["access"] in ("not root", "read-only")


def test_looking_ends_when_its_time_is_over(monkeypatch):
    with subprocess.Popen(["sleep", "100"]) as process:
        with pages.open_processes([process.pid, os.getpid()], lenient=True) as source:
            assert len(source.parts) == 2
        clock = iter([0.0, 1.0, 3.0, 3.0, 3.0])
        monkeypatch.setattr(pages.group.time, "monotonic", lambda: next(clock, 3.0))
        with pages.open_processes([process.pid, os.getpid()], lenient=True, seconds=2.0) as source:
            assert [part.pid for part in source.parts] == [process.pid]
            assert source.notes == [
                "1 process left out: too many to look at in time; these are the smallest."
            ]
        process.kill()


def test_the_plan_of_what_is_kept_has_nothing_to_set(base):
    found = advised(base, KERNELS["zram in use"])
    assert plan(found.machine, found.verdict).now == ()
    assert tuple(SYSCTLS) == looking.SYSCTLS
