"""What became of one page: a row for each code, and for each reason to refuse a store.

C has the numbers in status.pxd.  Messages, help, the figures and docs/reference.md read the rows.
"""

from enum import IntEnum

from zswap_core.rows import document


class Status(IntEnum):
    """What became of one page of a batch: held where >= 0, refused or not found where negative.

    After a store with a negative status nothing is held at that offset.
    """

    _value_: int
    text: str
    counter: str | None
    label: str

    def __new__(
        cls, value: int, text: str = "", counter: str | None = None, label: str = ""
    ) -> "Status":
        """Make a row: number and sentence.

        A reason to refuse a store also has its counter in `Stats` and its name in ``zswap top``.
        """
        member = int.__new__(cls, value)
        member._value_ = value
        member.text = member.__doc__ = text
        member.counter, member.label = counter, label
        return member

    STORED = 0, "Held, compressed."
    SAME_FILLED = 1, "Held as the one word that it consists of."
    INCOMPRESSIBLE = 2, "Held raw."
    WRITTEN_THROUGH = 3, "Refused, and written to the area's backing store instead."
    DISABLED = (
        -1,
        "Refused: the parameter `enabled` is off, or the one for pages of its kind.",
        "reject_disabled",
        "storing is off",
    )
    NO_AREA = (
        -2,
        "Refused: there is no such swap area, it is going offline, or the offset lies beyond its "
        "end.",
        "reject_area",
        "no such area",
    )
    POOL_LIMIT = -3, "Refused: the pool is at its limit.", "pool_limit_hit", "pool limit"
    ACCEPT_THRESHOLD = (
        -4,
        "Refused: the pool was at its limit and has not fallen to the accept threshold since.",
        "reject_accept_threshold",
        "accept threshold",
    )
    COMPRESS_POOR = (
        -5,
        "Refused: it would take a whole page, and `reject_compress_poor` is on; or the allocator "
        "has no room that large.",
        "reject_compress_poor",
        "compress poor",
    )
    COMPRESS_FAIL = -6, "Refused: the compressor failed.", "reject_compress_fail", "compress fail"
    ALLOC_FAIL = -7, "Refused: no memory for the page.", "reject_alloc_fail", "alloc fail"
    ENTRY_FAIL = (
        -8,
        "Refused: no memory for its entry or the index.",
        "reject_kmemcache_fail",
        "kmemcache fail",
    )
    ABSENT = -9, "Nothing is held at that offset."
    CORRUPT = (
        -10,
        "It is damaged in memory: it does not decompress to what was stored.  The entry is kept.",
    )
    BACKING_FAIL = -11, "The backing store failed to write or read the page."
    WOULD_BLOCK = -12, "Of use inside the engine alone: no call returns it."
    BACKING_CORRUPT = (
        -13,
        "What the backing store gave back is not what was written there.  It is kept there.",
    )
    AREA_QUOTA = (
        -14,
        "Refused: the swap area is at its quota.",
        "reject_area_quota",
        "area quota",
    )


#: The reasons to refuse a store, by the counter in `Stats`.
REFUSALS = {status.counter: status for status in Status if status.counter is not None}

document(Status, ((f"{s.name} : {s.value}", s.text) for s in Status), "Attributes")
