"""What a typed program does with zswap.  Not run: `mypy --strict` reads it, and every line must
mean what it says."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, MutableMapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_type

import zswap
from zswap import AreaInfo, PoolInfo, Stats, Status, ZSwap


def making() -> None:
    assert_type(ZSwap(), ZSwap)
    ZSwap("zstd:3", "zsmalloc", 16384)
    ZSwap(
        "lz4", max_pool_bytes="64MiB", accept_threshold_percent=80, same_filled_pages_enabled=False
    )
    ZSwap(
        compressor="lz4hc",
        zpool="zsmalloc-kernel",
        page_size=65536,
        max_pool_percent=10,
        max_pool_bytes=1 << 20,
    )
    ZSwap(max_pool_bytes=1.5)  # type: ignore[arg-type]  # refused, as it should be
    ZSwap(compressor=3)  # type: ignore[arg-type]  # refused, as it should be
    with ZSwap() as z:
        assert_type(z, ZSwap)
        assert_type(z.closed, bool)
        assert_type(z.page_size, int)
    z.close()


def single_pages(
    z: ZSwap, page: bytes, room: bytearray, array: NDArray[np.uint8], mapped: mmap.mmap
) -> None:
    for buffer in (page, room, array, mapped, memoryview(page)):
        z.store(1, buffer)
    z.store(1, page, swap_type=2)
    z.store(np.int64(1), page)
    z.load(1, room)
    z.load(1, out=array, swap_type=2)
    z.load(1, absent="zeros")
    z.store_part(1, 7, page[:9], absent="zeros")
    z.load_part(np.int64(1), 7, 2, out=room)
    z.storev(1, [page, array])
    z.loadv(1, (room, array))
    assert_type(z.invalidate(1), bool)
    assert_type(z.invalidate_range(0, 10), int)
    assert_type(z.invalidate_area(0), int)
    z.store("1", page)  # type: ignore[arg-type]  # refused, as it should be
    z.invalidate(None)  # type: ignore[arg-type]  # refused, as it should be


def batches(z: ZSwap, offsets: NDArray[np.uint64], pages: NDArray[np.uint8]) -> None:
    status = z.store_many(offsets, pages, threads=2)
    assert_type(status, NDArray[np.int8])
    assert_type(Status(int(status[0])), Status)
    z.store_many([1, 2, 3], bytes(3 * 4096), swap_type=1)
    z.load_many(range(3), out=pages, status=status, threads=2)
    assert_type(z.invalidate_many(offsets), int)
    assert_type(z.compressed_sizes(offsets), NDArray[np.int32])


def mapping(z: ZSwap, page: bytes) -> None:
    as_mapping: MutableMapping[int, bytes] = z
    as_mapping[1] = page
    assert_type(z[1], bytes)
    z[1] = page
    del z[1]
    assert_type(1 in z, bool)
    assert_type(len(z), int)
    assert_type(iter(z), Iterator[int])
    assert_type(z.get(1), bytes | None)
    assert_type(z.pop(1), bytes)
    for offset, held in z.items():
        assert_type(offset, int)
        assert_type(held, bytes)
    z.clear()


def areas(z: ZSwap) -> None:
    z.swapon(1)
    z.swapon(2, nr_pages=100)
    z.swapoff(1)


def settings(z: ZSwap) -> None:
    z.compressor = zswap.open_compressor("zstd", dictionary=zswap.train_dictionary(bytes(1 << 20)))
    z.compressor = "zstd"
    z.zpool = "zsmalloc:4"
    assert_type(z.compressor, str)
    assert_type(z.zpool, str)
    z.parameters["enabled"] = False
    parameters: MutableMapping[str, Any] = z.parameters
    parameters.update(max_pool_percent=5)


def figures(z: ZSwap) -> None:
    s = z.stats()
    assert_type(s, Stats)
    assert_type(s.stored_pages, int)
    assert_type(s.compression_ratio, float)
    assert_type(s.to_dict(), dict[str, Any])
    s.stored_pages = 1  # type: ignore[misc]  # refused, as it should be
    assert_type(z.pools(), list[PoolInfo])
    assert_type(z.areas(), list[AreaInfo])
    assert_type(z.areas()[0].quota_bytes, int | None)
    assert_type(z.pools()[0].current, bool)
    assert_type(z.compact(), int)
    assert_type(z.numa_pages(), dict[int, int])
    assert_type(z.latency(reset=True)["store"], zswap.Latency)
    assert_type(z.latency()["load"].p99, int)


def compressors() -> None:
    assert_type(zswap.zpools(), list[str])
    for info in zswap.compressors():
        assert_type(info, zswap.CompressorInfo)
        assert_type(info.available, bool)
    zswap.register_compressor("mine", lambda data: data, lambda data: data)
    zswap.unregister_compressor("mine")


def errors(z: ZSwap, page: bytes) -> None:
    try:
        z[1] = page
    except zswap.PoolLimitError as error:
        assert_type(error, zswap.PoolLimitError)
    except (zswap.PageCorruptError, zswap.BackingError, zswap.CompressorNotFound) as error:
        base: zswap.Error = error
        raise base from None
