"""What a kernel offers, read from planted ones: their /sys, /proc, /lib/modules and /boot below a
folder."""

import gzip
import os

import pytest

from zswap.kernel import Kernel, Swap, ZramDevice, read_kernel

PARAMETERS = "sys/module/zswap/parameters"


def plant(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def crypto(*names):
    return "".join(
        f"name         : {name}\ndriver       : {name}-scomp\ntype         : scomp\n\n"
        for name in names
    )


def parameters(**values):
    return {f"{PARAMETERS}/{name}": f"{value}\n" for name, value in values.items()}


def modules(release, *paths, builtin=()):
    """Module files and their list; a kernel that can load them."""
    at = f"lib/modules/{release}"
    return {
        "proc/modules": "",
        "proc/sys/kernel/osrelease": release + "\n",
        f"{at}/modules.dep": "".join(f"{path}: kernel/lib/other.ko\n" for path in paths),
        f"{at}/modules.builtin": "".join(f"{path}\n" for path in builtin),
        **{f"{at}/{path}": "" for path in paths},
    }


def test_nothing_is_there(tmp_path):
    found = read_kernel(tmp_path)
    assert (found.zswap, found.crypto, found.zram) == (None, frozenset(), "absent")
    assert (found.of("zswap"), found.of("zram"), found.version) == (
        frozenset(),
        frozenset(),
        (0, 0),
    )
    assert found.swaps == ()


def test_an_old_kernel_with_lzo_alone(tmp_path):
    plant(
        tmp_path,
        {
            **modules("4.19.0-27-amd64"),
            "proc/crypto": crypto("lzo", "sha1"),
            **parameters(enabled="N", compressor="lzo", zpool="zbud", max_pool_percent=20),
        },
    )
    found = read_kernel(tmp_path)
    assert found.of("zswap") == {"lzo"}
    assert found.default("zswap") == "lzo"
    assert (found.zsmalloc, found.zsmalloc_model, found.version) == (
        False,
        "zsmalloc-kernel:4",
        (4, 19),
    )
    assert (found.zram, found.modules_seen) == ("absent", True)


def test_zram_with_two_and_zswap_without_zstd(tmp_path):
    plant(
        tmp_path,
        {
            **modules("6.18.2"),
            "proc/crypto": crypto("lzo-rle", "lzo", "deflate"),
            **parameters(enabled="N", compressor="lzo", max_pool_percent=20),
            "sys/block/zram0/comp_algorithm": "[lzo-rle] lz4 \n",
            "sys/block/zram0/disksize": "0\n",
            "sys/class/zram-control/hot_add": "1\n",
        },
    )
    found = read_kernel(tmp_path)
    assert found.of("zswap") == {"lzo-rle", "lzo", "deflate"}
    assert found.of("zram") == {"lzo-rle", "lz4"}
    assert (found.zram, found.zram_default, found.zsmalloc) == ("present", "lzo-rle", True)
    assert found.zram_devices == (ZramDevice("zram0", ("lzo-rle", "lz4"), "lzo-rle", 0),)


@pytest.mark.parametrize("ending", ["ko", "ko.xz", "ko.zst", "ko.gz"])
def test_what_can_be_loaded_counts(tmp_path, ending):
    release = "6.8.0-31-generic"
    files = modules(
        release,
        f"kernel/crypto/zstd.{ending}",
        f"kernel/crypto/lz4hc.{ending}",
        f"kernel/crypto/lzo_rle.{ending}",
        f"kernel/lib/lz4/lz4.{ending}",  # not the one of the crypto API
        f"kernel/drivers/block/zram/zram.{ending}",
        builtin=("kernel/crypto/lzo.ko",),
    )
    plant(tmp_path, {**files, **parameters(enabled="N", compressor="lzo", zpool="zbud")})
    found = read_kernel(tmp_path)
    assert found.of("zswap") == {"zstd", "lz4hc", "lzo-rle", "lzo"}
    assert found.zram == "loadable"
    assert found.of("zram") == found.of("zswap")  # before 6.12 they are the crypto API's
    assert found.modules_seen


def test_what_can_be_loaded_does_not_count_where_loading_is_forbidden_or_the_file_is_gone(tmp_path):
    files = modules(
        "6.1.0",
        "kernel/crypto/zstd.ko",
        "kernel/drivers/block/zram/zram.ko",
        builtin=("kernel/crypto/lzo.ko",),
    )
    plant(tmp_path, {**files, **parameters(enabled="N")})
    assert read_kernel(tmp_path).of("zswap") == {"zstd", "lzo"}
    (tmp_path / "lib/modules/6.1.0/kernel/crypto/zstd.ko").unlink()
    assert read_kernel(tmp_path).of("zswap") == {"lzo"}
    plant(tmp_path, {**files, "proc/sys/kernel/modules_disabled": "1\n"})
    found = read_kernel(tmp_path)
    assert found.of("zswap") == {"lzo"}
    assert found.zram == "absent"


def test_a_container_shows_the_kernels_crypto_and_not_its_modules(tmp_path):
    plant(
        tmp_path,
        {
            "proc/sys/kernel/osrelease": "6.5.0\n",
            "proc/modules": "",
            "proc/crypto": crypto("lzo"),
            **parameters(enabled="Y", compressor="lzo", zpool="zsmalloc"),
            "proc/self/mountinfo": (
                "21 1 0:20 / / rw,relatime - overlay overlay rw\n"
                "22 21 0:21 / /sys ro,nosuid,nodev,noexec,relatime - sysfs sysfs ro\n"
                "23 22 0:22 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup rw\n"
            ),
        },
    )
    found = read_kernel(tmp_path)
    assert (found.access, found.modules_seen) == ("read-only", False)
    assert found.of("zswap") == {"lzo"}


def test_a_mount_below_sys_may_be_writable(tmp_path):
    plant(
        tmp_path,
        {
            **parameters(enabled="Y"),
            "proc/self/mountinfo": (
                "22 21 0:21 / /sys ro,relatime - sysfs sysfs rw\n"
                "23 22 0:21 / /sys/module/zswap rw,relatime - sysfs sysfs rw\n"
                "24 22 0:21 / /sys/module/zswapx ro,relatime - sysfs sysfs ro\n"
            ),
        },
    )
    assert read_kernel(tmp_path).access == "yes"


def test_who_may_not_write_is_not_root(tmp_path, monkeypatch):
    plant(tmp_path, parameters(enabled="Y"))
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert read_kernel(tmp_path).access == "not root"


def test_from_6_12_on_zram_has_backends_of_its_own(tmp_path):
    files = modules("6.12.9", "kernel/drivers/block/zram/zram.ko.zst", "kernel/crypto/lz4.ko.zst")
    plant(tmp_path, files)
    found = read_kernel(tmp_path)
    assert (found.zram, found.zram_compressors, found.of("zram")) == ("loadable", None, frozenset())
    backends = (
        "CONFIG_ZRAM_BACKEND_LZO=y\nCONFIG_ZRAM_BACKEND_ZSTD=y\n"
        "# CONFIG_ZRAM_BACKEND_LZ4 is not set\n"
    )
    plant(tmp_path, {"boot/config-6.12.9": backends + 'CONFIG_ZRAM_DEF_COMP="zstd"\n'})
    found = read_kernel(tmp_path)
    assert (found.of("zram"), found.zram_default) == ({"lzo", "lzo-rle", "zstd"}, "zstd")


def test_the_configuration_in_proc_is_read(tmp_path):
    plant(tmp_path, {"proc/sys/kernel/osrelease": "6.18.0\n"})
    with gzip.open(tmp_path / "proc/config.gz", "wt") as file:
        file.write("CONFIG_ZSMALLOC_CHAIN_SIZE=10\nCONFIG_ZSMALLOC=y\n")
    assert read_kernel(tmp_path).zsmalloc_model == "zsmalloc-kernel:10"
    (tmp_path / "proc/config.gz").write_bytes(b"\x1f\x8b damaged")
    assert read_kernel(tmp_path).zsmalloc_model == "zsmalloc-kernel"


def test_zsmalloc_beside_zbud(tmp_path):
    plant(tmp_path, {**modules("5.15.0"), **parameters(enabled="N", zpool="zbud")})
    assert not read_kernel(tmp_path).zsmalloc
    (tmp_path / "sys/module/zsmalloc").mkdir()
    assert read_kernel(tmp_path).zsmalloc


def test_swap_areas(tmp_path):
    plant(
        tmp_path,
        {
            "proc/swaps": "Filename\tType\tSize\tUsed\tPriority\n"
            "/dev/zram0   partition\t1048576\t0\t100\n/swap\\040file  file\t2048\t512\t-2\nbroken\n"
        },
    )
    found = read_kernel(tmp_path)
    assert found.swaps == (
        Swap("/dev/zram0", 1 << 30, 0),
        Swap("/swap\\040file", 2 << 20, 512 << 10),
    )
    assert found.disk_swaps == found.swaps[1:]


def test_the_tool_for_zram_is_looked_for(tmp_path):
    assert not read_kernel(tmp_path).zramctl
    plant(tmp_path, {"usr/sbin/zramctl": "#!/bin/sh\n"})
    (tmp_path / "usr/sbin/zramctl").chmod(0o755)
    assert read_kernel(tmp_path).zramctl


def test_this_machines_kernel_can_be_read():
    found = read_kernel()
    assert isinstance(found, Kernel)
    assert found.version > (3, 0)
    if os.path.isdir("/" + PARAMETERS):
        assert found.zswap["enabled"] in ("Y", "N")
