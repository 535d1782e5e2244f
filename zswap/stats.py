"""What an engine can say about itself."""

# No annotation here is put off, as `_figures` looks into all of them while the program starts.

import enum
from dataclasses import asdict, dataclass
from typing import Annotated, Any, NamedTuple

from zswap.meminfo import format_bytes
from zswap_core.binding import LATENCY_BOUNDS
from zswap_core.rows import document
from zswap_core.status import REFUSALS


class Kind(enum.Enum):
    """What a figure is one of; the value is how docs/reference.md puts it."""

    SIZE = "bytes, now"
    PAGES = "pages, now"
    NUMBER = "number, now"
    CALL = "events"
    REFUSAL = "refused stores"
    FAILURE = "failures"

    @property
    def counts(self) -> bool:
        """Whether it only grows."""
        return self in (Kind.CALL, Kind.REFUSAL, Kind.FAILURE)


class Row(NamedTuple):
    """All there is to say of a figure beside its name.

    Help, Prometheus, ``zswap top`` and docs/reference.md read it.

    `label` is what ``zswap top`` calls it, "" where it does not show it; `kernel`, whether the
    kernel's zswap has a counter of this name.
    """

    kind: Kind
    text: str = ""
    label: str = ""
    kernel: bool = False


_SIZE, _PAGES, _NUMBER, _CALL, _FAILURE = (
    Kind.SIZE,
    Kind.PAGES,
    Kind.NUMBER,
    Kind.CALL,
    Kind.FAILURE,
)
# `Status` says the rest
_OUR_REASON, _KERNELS_REASON = (
    Row(Kind.REFUSAL),
    Row(Kind.REFUSAL, kernel=True),
)


@dataclass(frozen=True)
class Stats:
    """Figures of an engine at one moment.  Counts are exact when no call is in flight."""

    page_size: Annotated[int, Row(_SIZE, "Size of a page.")]
    max_pool_bytes: Annotated[
        int, Row(_SIZE, "Limit on `pool_total_size` now: what `max_memory_bytes` leaves, too.")
    ]
    max_memory_bytes: Annotated[
        int, Row(_SIZE, "Limit on `resident_bytes` now; 0 where there is none.")
    ]
    stored_pages: Annotated[int, Row(_PAGES, "Pages held in memory.", "stored", kernel=True)]
    same_filled_pages: Annotated[
        int, Row(_PAGES, "Pages held as one repeated word.", "same-filled", kernel=True)
    ]
    stored_incompressible_pages: Annotated[
        int,
        Row(_PAGES, "Pages held raw because they did not compress.", "incompressible", kernel=True),
    ]
    compressed_bytes: Annotated[
        int,
        Row(
            _SIZE,
            "Payload: sum of the compressed sizes; a raw page counts whole, a same-filled page "
            "nothing.",
        ),
    ]
    backed_pages: Annotated[int, Row(_PAGES, "Pages in backing stores.", "on backing")]
    backed_areas: Annotated[int, Row(_NUMBER, "Swap areas that have a backing store.")]
    encrypted_areas: Annotated[int, Row(_NUMBER, "Swap areas whose swap file is encrypted.")]
    pool_total_size: Annotated[
        int, Row(_SIZE, "Memory of all allocators, whole pages counted.", kernel=True)
    ]
    idle_bytes: Annotated[
        int, Row(_SIZE, "Allocator memory kept for reuse without holding anything.")
    ]
    metadata_bytes: Annotated[
        int,
        Row(
            _SIZE,
            "Memory for entries, index, allocator bookkeeping, scratch, buffers, and the "
            "compressors' contexts as far as they tell.",
        ),
    ]
    buffer_bytes: Annotated[
        int,
        Row(
            _SIZE,
            "Of these: scratch, contexts, and the buffers of writeback, read-ahead, promotion and "
            "reads of many pages.  What is idle goes back.",
        ),
    ]
    pages_compacted: Annotated[int, Row(_CALL, "Allocator pages that compaction has freed.")]
    pool_limit_hit: Annotated[int, _KERNELS_REASON]
    reject_accept_threshold: Annotated[int, _OUR_REASON]
    reject_disabled: Annotated[int, _OUR_REASON]
    reject_area: Annotated[int, _OUR_REASON]
    reject_area_quota: Annotated[int, _OUR_REASON]
    reject_compress_poor: Annotated[int, _KERNELS_REASON]
    reject_compress_fail: Annotated[int, _KERNELS_REASON]
    reject_alloc_fail: Annotated[int, _KERNELS_REASON]
    reject_kmemcache_fail: Annotated[int, _KERNELS_REASON]
    decompress_fail: Annotated[
        int,
        Row(
            _FAILURE,
            "Pages that could not be decompressed, whoever wanted them.",
            "decompress fail",
            kernel=True,
        ),
    ]
    loads: Annotated[int, Row(_CALL, "Pages loaded.", "loaded")]
    load_misses: Annotated[int, Row(_CALL, "Loads that found nothing.", "missed")]
    duplicate_entry: Annotated[
        int, Row(_CALL, "Stores that replaced a held page.", "replaced", kernel=True)
    ]
    invalidates: Annotated[
        int, Row(_CALL, "Pages invalidated, refused stores' stale copies included.", "invalidated")
    ]
    written_back_pages: Annotated[
        int,
        Row(
            _CALL,
            "Pages that went to a backing store because they were cold.",
            "written back",
            kernel=True,
        ),
    ]
    written_through_pages: Annotated[
        int,
        Row(
            _CALL,
            "Pages that went to a backing store because they were refused.",
            "written through",
        ),
    ]
    backing_loads: Annotated[int, Row(_CALL, "Pages read from a backing store.", "read back")]
    promoted_pages: Annotated[
        int,
        Row(_CALL, "Pages read from a backing store that stayed in the pool again."),
    ]
    clean_evictions: Annotated[
        int,
        Row(
            _CALL,
            "Pages that left the pool without a write: the backing store had them still.",
        ),
    ]
    read_ahead_pages: Annotated[
        int,
        Row(_CALL, "Pages read from a backing store with others, before they were asked for."),
    ]
    read_ahead_loads: Annotated[
        int, Row(_CALL, "Pages read from a backing store that had been read ahead.")
    ]
    reject_reclaim_fail: Annotated[
        int,
        Row(
            _FAILURE,
            "Pages that could not be written back and stay held: the store failed, or the page "
            "did not decompress.",
            "reclaim fail",
            kernel=True,
        ),
    ]
    on_evict_fail: Annotated[
        int, Row(_FAILURE, "Times that what `on_evict` was given has raised something.", "on_evict")
    ]
    backing_write_fail: Annotated[
        int, Row(_FAILURE, "Pages that a backing store failed to write.", "backing write")
    ]
    backing_read_fail: Annotated[
        int, Row(_FAILURE, "Pages that a backing store failed to read.", "backing read")
    ]
    checksum_fail: Annotated[
        int,
        Row(
            _FAILURE,
            "Pages in memory that were not what their checksum was made of, whoever wanted them.  "
            "They stay held.",
            "checksum fail",
        ),
    ]
    backing_checksum_fail: Annotated[
        int,
        Row(
            _FAILURE,
            "Pages from a backing store that were not what their checksum was made of.  They stay "
            "there.",
            "backing checksum",
        ),
    ]

    @property
    def stored_bytes(self) -> Annotated[int, Row(_SIZE)]:
        """Size of the held pages before compression."""
        return self.stored_pages * self.page_size

    @property
    def resident_bytes(self) -> Annotated[int, Row(_SIZE)]:
        """Memory taken in all: allocators and metadata."""
        return self.pool_total_size + self.metadata_bytes

    @property
    def payload_ratio(self) -> Annotated[float, Row(_NUMBER)]:
        """Bytes of the pages that were compressed over their payload; 0.0 when there are none."""
        pages = self.stored_pages - self.same_filled_pages
        return pages * self.page_size / self.compressed_bytes if self.compressed_bytes else 0.0

    @property
    def compression_ratio(self) -> Annotated[float, Row(_NUMBER)]:
        """Bytes of all held pages over all memory taken; 0.0 when nothing is held."""
        return self.stored_bytes / self.resident_bytes if self.stored_pages else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Every figure, the computed ones included."""
        return {name: getattr(self, name) for name in FIGURES}

    def __str__(self) -> str:
        lines = [
            f"{self.stored_pages} pages ({format_bytes(self.stored_bytes)}) in "
            f"{format_bytes(self.resident_bytes)}: "
            f"ratio {self.compression_ratio:.2f}"
            + (f", of {format_bytes(self.max_memory_bytes)}" if self.max_memory_bytes else ""),
            f"  pool      {format_bytes(self.pool_total_size)} of "
            f"{format_bytes(self.max_pool_bytes)} allowed, "
            f"payload {format_bytes(self.compressed_bytes)} (ratio {self.payload_ratio:.2f})",
            f"  metadata  {format_bytes(self.metadata_bytes)}, buffers "
            f"{format_bytes(self.buffer_bytes)} of it",
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
            if value and FIGURES[name].kind in (Kind.REFUSAL, Kind.FAILURE)
        }
        if refusals:
            lines.append(
                "  refused   " + ", ".join(f"{value} {name}" for name, value in refusals.items())
            )
        return "\n".join(lines)


def _figures() -> dict[str, Row]:
    """Return the rows of all figures, those that are computed last."""
    rows = {name: hint.__metadata__[0] for name, hint in Stats.__annotations__.items()}
    for name, status in REFUSALS.items():
        text = status.text.replace("Refused:", "Stores refused:", 1)
        rows[name] = rows[name]._replace(text=text, label=status.label)
    for name, value in vars(Stats).items():
        if isinstance(value, property):
            hint = value.fget.__annotations__["return"]
            rows[name] = hint.__metadata__[0]._replace(text=value.__doc__)
    return rows


#: What there is to say of each figure, by its name.
FIGURES = _figures()


document(
    Stats,
    ((f"{name} : int", FIGURES[name].text) for name in Stats.__dataclass_fields__),
    "Attributes",
)


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


@dataclass(frozen=True)
class AreaInfo:
    """One swap area and what it holds: at rest the sum over all areas is what `Stats` says.

    Attributes
    ----------
    swap_type : int
        Its number.
    nr_pages : int
        Offsets 0 to ``nr_pages - 1`` are the area's.
    backing : SwapFile, Backing or None
        Its backing store.
    quota_bytes : int or None
        How much of its payload may be in the pool; None: as much as the limit allows.
    variable : bool
        Whether it holds values of 1 to `page_size` bytes.
    stored_pages : int
        Pages held in memory, same-filled ones included.
    same_filled_pages, stored_incompressible_pages : int
        Of these, pages held as one word; pages kept raw.
    compressed_bytes : int
        Payload of its pages in the pool, before the allocator's rounding: what the quota limits.
    backed_pages : int
        Pages that are in the backing store alone.
    """

    swap_type: int
    nr_pages: int
    backing: Any
    quota_bytes: int | None
    variable: bool
    stored_pages: int
    same_filled_pages: int
    stored_incompressible_pages: int
    compressed_bytes: int
    backed_pages: int

    @property
    def held_pages(self) -> int:
        """Pages held, wherever."""
        return self.stored_pages + self.backed_pages

    @property
    def pool_pages(self) -> int:
        """Pages that are in the pool, compressed or raw."""
        return self.stored_pages - self.same_filled_pages


class Weight(NamedTuple):
    """What a range of offsets holds.

    Attributes
    ----------
    pages : int
        Pages held, wherever.
    same_filled, backed : int
        Of these, pages held as one word; pages that are in the backing store alone.
    compressed_bytes : int
        Payload of the others, a raw page counted whole.
    """

    pages: int
    same_filled: int
    backed: int
    compressed_bytes: int


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
    bounds : tuple of int
        Where each bucket begins, and where the last one ends; the same for all.
    """

    counts: tuple[int, ...]
    total: int
    max: int

    bounds = LATENCY_BOUNDS

    @property
    def count(self) -> int:
        """How many calls."""
        return sum(self.counts)

    def percentile(self, percent: float) -> int:
        """Give the time that so many percent of the calls stayed within.

        Parameters
        ----------
        percent : float
            From 0 to 100.

        Returns
        -------
        int
            Nanoseconds; 0 when there were no calls.

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
        """Return the figures without the buckets."""
        return {
            name: getattr(self, name) for name in ("count", "total", "p50", "p90", "p99", "max")
        }
