"""Compile zswap-plugin.so, into the folder that this is called in: `python3 build.py`.

The Python that runs this is the one that the plugin starts, so it must have zswap.  It takes a C
compiler, nbdkit's header (Debian: nbdkit-plugin-dev), and Python's own, with its shared library.
"""

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import zswap_core

source = Path(__file__).resolve().with_name("zswap-plugin.c")
python = f"python{sysconfig.get_config_var('LDVERSION')}"
folder = sysconfig.get_config_var("LIBDIR")
command = [
    *shlex.split(os.environ.get("CC", "cc")),
    *shlex.split(os.environ.get("CFLAGS", "-O2 -g")),
    *("-Wall", "-Wextra", "-shared", "-fPIC", str(source), "-o", "zswap-plugin.so"),
    f'-DPYTHON="{sys.executable}"',
    f'-DLIBPYTHON="{sysconfig.get_config_var("INSTSONAME") or f"lib{python}.so"}"',
    f"-I{zswap_core.get_include()}",
    f"-I{sysconfig.get_path('include')}",
    *(f"-L{folder}", f"-Wl,-rpath,{folder}", f"-l{python}", "-ldl", "-lpthread"),
]
sys.exit(subprocess.run(command, check=False).returncode)
