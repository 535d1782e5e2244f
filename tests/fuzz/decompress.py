"""Any bytes for compressed data, for every compressor: a clear error or a page of the right length,
and no byte beside it.

The bytes come at random, or as what a compressor made with some of it changed.  They go to the
compressor itself, from memory that ends where they do to memory that ends where the page does, and
into an engine in place of a page's object.
"""

from common import PAGE, Data, Guarded, mutate, page_of

import zswap
from zswap_core.compressors.registry import open_compressor

DICTIONARY = bytes(range(256)) * 8 + b"page of what a program holds, " * 20
NAMES = [info.name for info in zswap.compressors() if info.available]
COMPRESSORS = [open_compressor(name) for name in NAMES]
if "zstd" in NAMES:
    COMPRESSORS += [open_compressor("zstd:1", dictionary=DICTIONARY), open_compressor("zstd:-5")]
source, target = Guarded(2 * PAGE), Guarded(PAGE)
engines = {}


def bare(compressor, packed, room):
    """The compressor itself."""
    page = target.last(room)
    target.map[: target.size - room] = b"\xa5" * (target.size - room)
    try:
        n = compressor.decompress_into(source.holding(packed), page)
    except zswap.Error:
        n = 0
    assert 0 <= n <= room, n
    assert target.map[: target.size - room].strip(b"\xa5") == b"", "written before the page"


def engine_of(compressor, checksum):
    """An engine that is kept for all inputs."""
    key = compressor.spec, checksum
    if key not in engines:
        engines[key] = zswap.ZSwap(compressor, max_pool_bytes="16MiB", checksum=checksum)
    return engines[key]


def in_engine(compressor, page, packed, checksum):
    """The bytes in place of those that the engine made of a page."""
    z = engine_of(compressor, checksum)
    z[0] = page
    before = z._object(0)
    damaged = z._object(0, packed[: len(before)])
    try:
        found = z.load(0, target.last(PAGE))
    except zswap.PageCorruptError:
        found = None
    assert found is None or len(found) == PAGE
    assert found is None or not checksum or found == page, "damage passed for a page"
    assert damaged != before or found == page, "a sound page was refused"
    z._object(0, before)
    assert z[0] == page
    z._validate()


def one_input(data):
    """Try one."""
    data = Data(data)
    compressor = data.pick(COMPRESSORS)
    page = page_of(data)
    room = PAGE if data.number(0, 3) else data.number(1, PAGE)
    checksum = bool(data.number(0, 1))
    packed = mutate(data, compressor.compress(page)) if data.number(0, 3) else data.rest()
    packed = packed[: 2 * PAGE] or b"\0"
    bare(compressor, packed, room)
    in_engine(compressor, page, packed, checksum)
