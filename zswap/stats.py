"""What an engine can say about itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from zswap.memory import format_bytes
from zswap_core.binding import LATENCY_BOUNDS


@dataclass(frozen=True)
class Stats:
    """Figures of an engine at one moment.  Counts are exact when no call is in flight.

    Attributes
    ----------
    page_size, max_pool_bytes : int
        The page size, and the limit that `pool_total_size` is held against, in bytes.
    stored_pages, same_filled_pages, stored_incompressible_pages : int
        Pages held in memory; of these, held as one word; of these, held raw because they did not
        compress.
    compressed_bytes : int
        Payload: the sum of the compressed sizes (a raw page counts whole, a same-filled page
        nothing).
    backed_pages : int
        Pages in backing stores.
    backed_areas, encrypted_areas : int
        Swap areas that have a backing store; of these, whose swap file is encrypted.
    pool_total_size, idle_bytes : int
        Memory of all allocators in bytes, whole pages counted; of this, kept for reuse without
        holding anything.
    metadata_bytes : int
        Memory for entries, index, allocator bookkeeping, scratch and the buffers of writeback, in
        bytes; not what the compressors' libraries work with.
    pages_compacted : int
        Allocator pages that compaction has freed.
    pool_limit_hit, reject_accept_threshold : int
        Stores refused at the limit; stores refused after it, until the accept threshold was
        reached.
    reject_disabled, reject_area, reject_compress_poor, reject_compress_fail, reject_alloc_fail,
    reject_kmemcache_fail : int
        Stores refused because: storing is off; no such area or offset; the page does not compress
        and such pages are refused; the compressor failed; no memory for the object; no memory for
        the entry or index.
    decompress_fail : int
        Pages that could not be decompressed, whoever wanted them.
    duplicate_entry : int
        Stores that replaced a held page.
    loads, load_misses, invalidates : int
        Pages loaded, loads that found nothing, pages invalidated (refused stores' stale copies
        included).
    written_back_pages, written_through_pages, backing_loads : int
        Pages that went to a backing store because they were cold, or because they were refused;
        pages read from one.
    reject_reclaim_fail : int
        Pages that could not be written back: the store failed, or the page could not be
        decompressed.  They stay held.
    backing_write_fail, backing_read_fail : int
        Pages that a backing store failed to write or to read.
    checksum_fail, backing_checksum_fail : int
        Pages that were not what their checksum was made of: as they came from memory, whoever
        wanted them, or from a backing store.  They stay held.
    """

    page_size: int
    max_pool_bytes: int
    stored_pages: int
    same_filled_pages: int
    stored_incompressible_pages: int
    compressed_bytes: int
    backed_pages: int
    backed_areas: int
    encrypted_areas: int
    pool_total_size: int
    idle_bytes: int
    metadata_bytes: int
    pages_compacted: int
    pool_limit_hit: int
    reject_accept_threshold: int
    reject_disabled: int
    reject_area: int
    reject_compress_poor: int
    reject_compress_fail: int
    reject_alloc_fail: int
    reject_kmemcache_fail: int
    decompress_fail: int
    duplicate_entry: int
    loads: int
    load_misses: int
    invalidates: int
    written_back_pages: int
    written_through_pages: int
    backing_loads: int
    reject_reclaim_fail: int
    backing_write_fail: int
    backing_read_fail: int
    checksum_fail: int
    backing_checksum_fail: int

    @property
    def stored_bytes(self) -> int:
        """Size of the held pages before compression, in bytes."""
        return self.stored_pages * self.page_size

    @property
    def resident_bytes(self) -> int:
        """Memory the engine takes in all, in bytes: allocators and metadata."""
        return self.pool_total_size + self.metadata_bytes

    @property
    def payload_ratio(self) -> float:
        """Bytes of the pages that were compressed over their payload; 0.0 when there are none."""
        pages = self.stored_pages - self.same_filled_pages
        return pages * self.page_size / self.compressed_bytes if self.compressed_bytes else 0.0

    @property
    def compression_ratio(self) -> float:
        """Bytes of all held pages over all memory taken; 0.0 when nothing is held."""
        return self.stored_bytes / self.resident_bytes if self.stored_pages else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Every figure, the computed ones included."""
        computed = ("stored_bytes", "resident_bytes", "payload_ratio", "compression_ratio")
        return asdict(self) | {name: getattr(self, name) for name in computed}

    def __str__(self) -> str:
        lines = [
            f"{self.stored_pages} pages ({format_bytes(self.stored_bytes)}) in "
            f"{format_bytes(self.resident_bytes)}: "
            f"ratio {self.compression_ratio:.2f}",
            f"  pool      {format_bytes(self.pool_total_size)} of "
            f"{format_bytes(self.max_pool_bytes)} allowed, "
            f"payload {format_bytes(self.compressed_bytes)} (ratio {self.payload_ratio:.2f})",
            f"  metadata  {format_bytes(self.metadata_bytes)}",
            f"  pages     {self.same_filled_pages} same-filled, {self.stored_incompressible_pages} "
            "incompressible",
            f"  calls     {self.loads} loads, {self.load_misses} misses, {self.duplicate_entry} "
            "replaced, "
            f"{self.invalidates} invalidated",
        ]
        if self.backed_areas or self.written_back_pages or self.written_through_pages:
            lines.append(
                f"  backing   {self.backed_pages} pages "
                f"({format_bytes(self.backed_pages * self.page_size)}) "
                f"in {self.backed_areas} stores, {self.encrypted_areas} encrypted: "
                f"{self.written_back_pages} written back, {self.written_through_pages} written "
                "through, "
                f"{self.backing_loads} read"
            )
        refusals = {
            name.removeprefix("reject_"): value
            for name, value in asdict(self).items()
            if value
            and (name.startswith("reject_") or name == "pool_limit_hit" or name.endswith("_fail"))
        }
        if refusals:
            lines.append(
                "  refused   " + ", ".join(f"{value} {name}" for name, value in refusals.items())
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class PoolInfo:
    """One pool: a compressor and a zpool with its memory.

    Attributes
    ----------
    compressor, zpool : str
        What it is made of.
    current : bool
        Whether stores go here.
    stored_pages : int
        Entries that live in it (same-filled pages live in none).
    total_size : int
        Memory of its allocator in bytes.
    references : int
        What keeps it alive: its entries, and being current.
    """

    compressor: str
    zpool: str
    current: bool
    stored_pages: int
    total_size: int
    references: int


class Recompressed(NamedTuple):
    """What `ZSwap.recompress` did.

    Attributes
    ----------
    moved, kept : int
        Pages that got smaller; pages tried that would not have, or could not be moved just then.
    bytes_before, bytes_after : int
        Compressed size of the pages moved.
    """

    moved: int
    kept: int
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True)
class Latency:
    """How long the calls of one kind took, in nanoseconds.

    Times are sorted into buckets that are a quarter of a power of two wide, and percentiles are
    read from those: they are off by an eighth at most.

    Attributes
    ----------
    counts : tuple of int
        How many calls fell into each bucket; `bounds` has the buckets.
    total, max : int
        Sum of all times, and the longest one, both exact.
    """

    counts: tuple[int, ...]
    total: int
    max: int

    #: Where each bucket begins, and where the last one ends.
    bounds = LATENCY_BOUNDS

    @property
    def count(self) -> int:
        """How many calls."""
        return sum(self.counts)

    def percentile(self, percent: float) -> int:
        """Give the time that so many percent of the calls stayed within; 0 when there were none.

        Raises
        ------
        ValueError
            When `percent` is not within 0 to 100.
        """
        if not 0 <= percent <= 100:
            raise ValueError(f"percent is {percent}; 0 to 100 is needed")
        rank = self.count * percent / 100
        below = 0
        for count, start, end in zip(self.counts, self.bounds, self.bounds[1:], strict=False):
            if count and below + count >= rank:
                return min(round(start + (end - start) * max(rank - below, 0) / count), self.max)
            below += count
        return 0

    @property
    def p50(self) -> int:
        """The median."""
        return self.percentile(50)

    @property
    def p90(self) -> int:
        """What nine of ten calls stayed within."""
        return self.percentile(90)

    @property
    def p99(self) -> int:
        """What 99 of 100 calls stayed within."""
        return self.percentile(99)

    def to_dict(self) -> dict[str, int]:
        """The figures without the buckets."""
        return {
            name: getattr(self, name) for name in ("count", "total", "p50", "p90", "p99", "max")
        }
