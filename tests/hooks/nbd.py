"""What the block device of examples/nbdkit_plugin takes to be built and run."""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"
PACKAGES = {
    "nbdkit": "nbdkit",
    "nbdinfo": "libnbd-bin",
    "nbdcopy": "libnbd-bin",
    "qemu-img": "qemu-utils",
    "fio": "fio",
    "mke2fs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "debugfs": "e2fsprogs",
}
HEADERS = {"nbdkit-plugin.h": "nbdkit-plugin-dev", "Python.h": "python3-dev"}


def without(*programs):
    """The first of these programs that is missing, in words; or None."""
    for name in programs:
        if shutil.which(name, path=PATH) is None:
            return f"there is no {name} (Debian: {PACKAGES[name]})"
    return None


def cannot_build():
    """Why the plugin in C cannot be built here, or None."""
    if not shutil.which("cc"):
        return "there is no C compiler"
    folder, value = sysconfig.get_path("include"), sysconfig.get_config_var
    for header, package in HEADERS.items():
        source = f"#include <{header}>\n"
        command = ["cc", f"-I{folder}", "-E", "-o", os.devnull, "-xc", "-"]
        if subprocess.run(command, input=source, capture_output=True, text=True).returncode != 0:
            return f"there is no {header} (Debian: {package})"
    library = f"libpython{value('LDVERSION')}.so"
    if not any(Path(at, library).exists() for at in (value("LIBDIR"), value("LIBPL"))):
        return "this Python has no shared library to embed"
    return None
