"""The census of locks, which ordinary builds have no trace of: what it counts, and that
bench/locks.py reads it as it is."""

import ctypes
import importlib.util
import os
import shlex
import shutil
import subprocess
import threading

import pytest

from hooks import ROOT

SOURCE = r"""
#include "zswap/os.h"
struct shard { zsw_mutex lock; } first;
zsw_mutex *shown = &first.lock;
void hold(int times, long ns) {
    for (int i = 0; i < times; i++) {
        struct shard *shard = &first;
        zsw_lock(&shard->lock);
        if (ns) zsw_sleep_ns((uint64_t)ns);
        zsw_unlock(&shard->lock);
    }
}
int try_it(void) {
    int got = zsw_trylock(&first.lock);
    if (got) zsw_unlock(&first.lock);
    return got;
}
size_t mutex_size(void) { return sizeof(zsw_mutex); }
#ifdef ZSW_LOCK_STATS
size_t site_size(void) { return sizeof(zsw_lock_site); }
#endif
"""


@pytest.fixture
def build(tmp_path):
    """Compile the source into a library, with macros."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        pytest.skip("needs a C compiler")

    def build(*macros):
        source, out = tmp_path / "locks.c", tmp_path / f"locks{len(macros)}.so"
        source.write_text(SOURCE)
        include = ROOT / "zswap_core" / "include"
        flags = [
            "-std=gnu11",
            "-O1",
            "-fPIC",
            "-shared",
            "-Wall",
            "-Wno-unused-function",
            "-Werror",
        ]
        command = [*compiler, *flags, *macros, f"-I{include}", source, "-o", out, "-lpthread"]
        subprocess.run(command, check=True)
        return ctypes.CDLL(str(out))

    return build


@pytest.fixture
def locks(monkeypatch):
    """The module bench/locks.py."""
    spec = importlib.util.spec_from_file_location("locks", ROOT / "bench" / "locks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_ordinary_build_counts_nothing(build):
    library = build()
    assert library.mutex_size() == 4
    assert not hasattr(library, "zsw_lock_sites")


def test_every_lock_is_counted_where_it_is_taken(build, locks, monkeypatch):
    library = build("-DZSW_LOCK_STATS=1")
    monkeypatch.setattr(locks, "libraries", lambda: [library])
    assert ctypes.sizeof(locks.Site) == library.site_size()
    assert locks.census(1) == {}
    library.hold(1000, 0)
    library.hold(1, ctypes.c_long(2_000_000))
    assert library.try_it()
    tick = locks.tick_ns()
    found = locks.census(tick)
    shard = found.pop("shard")
    assert (shard["taken"], shard["contended"], shard["where"]) == (1001, 0, ["hold"])
    assert sum(shard["holds"]) == 1001
    assert 2e6 <= shard["longest_hold"] <= shard["held"]
    assert shard["wide"] >= 1
    assert [row["taken"] for row in found.values()] == [1]
    locks.reset()
    assert locks.census(tick) == {}


def test_waits_are_counted_and_a_lock_that_is_not_had_is_not(build, locks, monkeypatch):
    library = build("-DZSW_LOCK_STATS=1")
    monkeypatch.setattr(locks, "libraries", lambda: [library])
    word = ctypes.c_uint32.from_address(ctypes.c_void_p.in_dll(library, "shown").value)
    holder = threading.Thread(target=library.hold, args=(1, ctypes.c_long(300_000_000)))
    holder.start()
    while not word.value:
        pass
    assert not library.try_it()
    library.hold(1, 0)  # waits for the other
    holder.join()
    found = locks.census(locks.tick_ns())
    assert list(found) == ["shard"]
    assert (found["shard"]["taken"], found["shard"]["contended"]) == (2, 1)
    assert 0 < found["shard"]["longest_wait"] <= found["shard"]["longest_hold"] * 1.5
    assert sum(found["shard"]["waits"]) == 1
