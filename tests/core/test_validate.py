"""validate() reports damage to every structure, one word at a time, and nothing once the word is
right again."""

import re

import pytest

import zswap
from hooks import ROOT, damage, findings
from hooks.damage import Damage

WORDS = {
    "zsmalloc": damage.ENGINE + damage.INDEX + damage.SLAB + damage.ARENA,
    "zbud": (),
    "z3fold": damage.Z3FOLD,
}
WORDS["zsmalloc"] += damage.ZSMALLOC
WORDS["zbud"] += damage.ARENA + damage.BUDDIES
WORDS["z3fold"] += damage.BUDDIES

# What some are reported as, where it is a matter of interest which check it is.
REPORTS = {
    "entry.owned twice": "two entries own it",
    "entry.pos": "names another place",
    "entry.refs": "references",
    "entry.pool": "its pool does not exist",
    "entry.length": "shorter than the entry says",
    "entry.handle": "does not live",
    "reclaim.turn": "reclaim",
    "reclaim.near": "reclaim",
    "lru.missing": "LRU",
    "lru.spare": "LRU",
    "lru.ahead": "LRU",
    "slot.in transit": "in transit",
    "slot.backed": "backing store of an area that has none",
    "slot.other": "names another place",
    "worker.spare": "spare with a worker",
    "worker.spares": "neither free nor anybody's",
    "area.offline": "without being online",
    "shard.pages": "its count of pages",
    "shard.next": "it was removed",
    "table.count": "counts other shards",
    "counter.backed_pages": "pages in backing stores",
    "zspage.free": "bitmap",
    "zspage.objects": "zspage",
    "class.objects": "class",
    "arena.total": "the total",
    "arena.free": "arena",
    "arena.lone_pages": "lone pages|other zspages",
    "cell.none": "cell",
    "foreign": "foreign",
    "bad_frees": "freed twice",
}


@pytest.fixture(scope="module", params=WORDS)
def z(request, make_page, memory_store):
    """An engine that has something of everything, and its zpool's name."""
    z = zswap.ZSwap("lz4", request.param, max_pool_bytes="64MiB")
    z.swapon(1, 4096, backing=memory_store())
    for offset in range(256):
        z.store(offset, make_page(offset, incompressible=(offset % 8 + 1) / 12))
    z.store_many(range(1000, 1100), b"".join(make_page(i) for i in range(100)), swap_type=1)
    z.shrink(50)
    for offset in range(300, 310):
        z.store(offset, bytes([offset % 256]) * 4096)
    if request.param != "zbud":
        for offset in range(310, 320):
            z.store(offset, make_page(offset, incompressible=1))
    z.invalidate_many(range(64, 200, 3))
    z.load_many(range(64))
    z._validate()
    yield z
    z._validate()
    z.close()


@pytest.mark.parametrize(
    ("z", "name"),
    [(zpool, name) for zpool, names in WORDS.items() for name in names],
    indirect=["z"],
)
def test_damage_is_reported(z, name):
    with Damage(z, name), pytest.raises(AssertionError, match=REPORTS.get(name, r"\(-\d+\)$")):
        z._validate()
    z._validate()


@pytest.mark.parametrize("name", damage.SLAB)
def test_damage_is_reported_too_while_all_freed_entries_are_spares(engine, make_page, name):
    z = engine("lz4")
    z.store_many(range(40), b"".join(make_page(i) for i in range(40)))
    z.invalidate_many(range(10))
    with Damage(z, name), pytest.raises(AssertionError, match=r"\(-\d+\)$"):
        z._validate()
    z._validate()


def test_an_allocators_finding_names_the_allocator(z):
    with Damage(z, "bad_frees"), pytest.raises(AssertionError, match=rf"^{z.zpool} of pool 0: "):
        z._validate()


def test_unknown_damage():
    with (
        zswap.ZSwap() as z,
        pytest.raises(LookupError, match="no 'nonsense'"),
        Damage(z, "nonsense"),
    ):
        pass


@pytest.mark.parametrize(
    ("source", "tables"),
    [
        ("../tests/hooks/engine", [findings.ENGINE, findings.SLAB]),
        ("index", [findings.INDEX]),
        ("slab", [findings.SLAB]),
        ("extents", [findings.EXTENTS]),
        ("zpools/arena", [findings.ARENA]),
        ("zpools/zbud", [findings.BUDDIES]),
        ("zpools/z3fold", [findings.BUDDIES]),
        ("zpools/zsmalloc", [findings.ZSMALLOC]),
    ],
)
def test_every_number_has_its_words(source, tables):
    path = ROOT / "zswap_core" / f"{source}.pyx"
    if not path.exists():
        pytest.skip("no sources beside the tests")
    numbers = {-int(n) for n in re.findall(r"(?:return|rc =|else) -(\d+)\b", path.read_text())}
    assert numbers
    assert numbers <= set().union(*tables)


def test_every_number_is_said_once():
    for zpool in (None, *findings.ZPOOLS):
        said = [findings.describe(n, 7, zpool) for n in range(-1, -230, -1)]
        assert len(set(said)) == len(said)
