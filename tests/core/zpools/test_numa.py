"""Where the allocators' memory lies, and that it is bound to the node that was asked for."""

import re
import threading
from pathlib import Path

import pytest

import zswap
from zswap.meminfo import online_node
from zswap_core.binding import Engine

PAGE = 4096
NODES = [
    int(p.name.removeprefix("node")) for p in Path("/sys/devices/system/node").glob("node[0-9]*")
] or [0]


@pytest.fixture(autouse=True)
def _system_tells(engine):
    z = engine()
    z[0] = b"a page" + bytes(PAGE - 6)
    try:
        z.numa_pages()
    except zswap.Error as error:
        pytest.skip(str(error))
    z.close()


def policies():
    """Every mapping of this process that is bound to nodes: its first address, and the policy."""
    try:
        text = Path("/proc/self/numa_maps").read_text()
    except OSError as error:
        pytest.skip(f"the kernel does not tell policies: {error}")
    return {
        int(a, 16): nodes for a, nodes in re.findall(r"^([0-9a-f]+) bind:(\S+)", text, re.MULTILINE)
    }


@pytest.mark.parametrize("zpool", ["zsmalloc", "zsmalloc-kernel", "zbud", "z3fold"])
def test_pages_are_found(engine, make_page, zpool):
    z = engine(zpool=zpool)
    assert z.numa_pages() == {}
    z.store_many(range(3000), b"".join(make_page(n, incompressible=0.4) for n in range(3000)))
    nodes = z.numa_pages()
    assert set(nodes) <= set(NODES)
    # Every page that the limit counts has been written to, but for the last of a zspage, which may
    # not have been.
    assert (
        z.stats().pool_total_size // PAGE * 0.95
        <= sum(nodes.values())
        <= z.stats().pool_total_size // PAGE
    )
    z.clear()
    z.compact()
    assert sum(z.numa_pages().values()) <= z.stats().pool_total_size // PAGE


def test_all_pools_count(engine, make_page):
    z = engine()
    for number, compressor in enumerate(("lz4", "zstd:1", "lz4:9")):
        z.compressor = compressor
        z.store_many(
            range(number * 500, number * 500 + 500), b"".join(make_page(n) for n in range(500))
        )
    assert sum(z.numa_pages().values()) >= z.stats().pool_total_size // PAGE * 0.95


def test_asking_while_pages_come_and_go(engine, make_page):
    z = engine()
    pages = b"".join(make_page(n) for n in range(2000))
    done = threading.Event()

    def work():
        while not done.is_set():
            z.store_many(range(2000), pages)
            z.clear()

    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(30):
        assert set(z.numa_pages()) <= set(NODES)
    done.set()
    thread.join()


@pytest.mark.parametrize("zpool", ["zsmalloc", "zbud", "z3fold"])
def test_memory_is_bound(engine, make_page, zpool):
    node = NODES[-1]
    before = policies()
    z = engine(zpool=zpool, numa_node=node)
    z[0] = make_page(0)
    bound = {at: nodes for at, nodes in policies().items() if before.get(at) != nodes}
    assert set(bound.values()) == {str(node)}
    assert set(z.numa_pages()) == {node}
    z.recompress("zstd:9")
    z.compressor = "zstd:3"
    z[1] = make_page(1)
    assert set(z.numa_pages()) == {node}


def test_memory_is_not_bound_unasked(engine, make_page):
    before = policies()
    z = engine()
    z[0] = make_page(0)
    assert policies() == before


@pytest.mark.skipif(len(NODES) < 2, reason="this machine has one NUMA node")
def test_memory_goes_to_the_node_asked_for(engine, make_page):
    for node in NODES:
        z = engine(numa_node=node)
        z.store_many(range(1000), b"".join(make_page(n) for n in range(1000)))
        assert set(z.numa_pages()) == {node}


def test_a_node_that_cannot_be_bound_is_told_at_once(engine):
    z = engine()
    offline = next(node for node in range(1023, 0, -1) if node not in NODES)
    with pytest.raises(ValueError, match="not online"):
        online_node(offline)
    with pytest.raises(zswap.Error, match=rf"node {offline}.*Invalid argument.*numa_node"):
        Engine._use_pool(z, zswap.open_compressor("lz4:3"), "zsmalloc", 0, False, offline)
    assert [p.compressor for p in z.pools()] == ["lz4:1"]
