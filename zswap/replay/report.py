"""What a replay found, as a table for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import zswap
from zswap.meminfo import format_bytes
from zswap.pages import printable
from zswap.replay.model import Outcome, Replayed
from zswap.report import finite

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["JSON_VERSION", "print_replayed", "replayed_json"]

#: Raised when a key changes its meaning or goes away; new keys may come at any time.
JSON_VERSION = 1

_NARROW, _WIDE = 80, 110
_PAGE = 4096


def print_replayed(found: Replayed, console: Console) -> None:
    """Print what came of the settings.

    Parameters
    ----------
    found : Replayed
    console : rich.console.Console
    """

    def say(text: str = "", style: str | None = None) -> None:
        console.print(
            text, style=style, markup=False, highlight=False, soft_wrap=not console.is_terminal
        )

    say(_heading(found), "bold")
    for line in _facts(found):
        say(line)
    say()
    console.print(_table(found, console.width))
    say()
    for line in _remarks(found):
        say(line)


def _heading(found: Replayed) -> str:
    trace = found.trace
    name = "standard input" if trace.name == "-" else printable(trace.name)
    return (
        f"{name} ({trace.format}): {trace.references:,} references to {trace.pages:,} pages, "
        f"{format_bytes(trace.pages * _PAGE)}; {100 * trace.writes / trace.references:.0f} % write"
    )


def _facts(found: Replayed) -> Iterator[str]:
    room = f"{format_bytes(found.memory)} for pages and pool"
    of = "" if found.ram == found.memory else f", of {format_bytes(found.ram)} of RAM"
    yield f"memory    {room}{of}; rules of the {found.model}"
    yield f"contents  {found.how}"
    yield f"times     {found.costs}"
    for note in found.trace.notes:
        yield f"note      {note}"


def _percent(share: float | None, digits: int = 1) -> str:
    return "" if share is None else f"{100 * share:.{digits}f} %"


def _table(found: Replayed, width: int) -> Table:
    """Make the table; in narrow ones what the settings share is left out, and what is least."""
    from rich import box
    from rich.table import Table

    settings = [o.setting for o in found.outcomes]
    zswapped = [s for s in settings if s.compressor is not None] or settings
    varied = {
        "pool %": len({s.max_pool_percent for s in zswapped}) > 1,
        "accept": len({s.accept_threshold_percent for s in zswapped}) > 1,
        "shrinker": len({s.shrinker for s in zswapped}) > 1,
        "cluster": len({s.page_cluster for s in settings}) > 1,
    }
    shown = [name for name, differs in varied.items() if differs or width >= _WIDE]
    last = ["from pool", "to swap", "from swap", "pool", "CPU"]
    if width < _NARROW:
        last.remove("pool")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
    for number, column in enumerate(("setting", *shown, "faults", *last)):
        justify: Literal["left", "right"] = "right" if number else "left"
        table.add_column(column, justify=justify, no_wrap=True, overflow="ellipsis")
    for outcome in found.outcomes:
        s = outcome.setting
        none = s.compressor is None
        cells = {
            "pool %": "" if none else f"{s.max_pool_percent}",
            "accept": "" if none else f"{s.accept_threshold_percent}",
            "shrinker": "" if none else "on" if s.shrinker else "off",
            "cluster": f"{s.page_cluster}",
            "faults": f"{outcome.faults:,}",
            "from pool": "" if none else _percent(outcome.hit_rate),
            "to swap": format_bytes(outcome.device_write_bytes),
            "from swap": format_bytes(outcome.device_read_bytes),
            "pool": "" if none else format_bytes(outcome.mean_pool_bytes),
            "CPU": f"{outcome.cpu_seconds:.2f} s",
        }
        table.add_row(s.name, *(cells[name] for name in (*shown, "faults", *last)))
    return table


def _remarks(found: Replayed) -> Iterator[str]:
    fixed = found.outcomes[-1].setting
    if fixed.compressor is not None:
        yield (
            f"max_pool_percent {fixed.max_pool_percent}, accept_threshold_percent "
            f"{fixed.accept_threshold_percent}, shrinker {'on' if fixed.shrinker else 'off'}, "
            f"page-cluster {fixed.page_cluster}, unless the table says otherwise."
        )
    refused = [o for o in found.outcomes if o.setting.compressor is not None and o.rejected]
    if refused:
        worst = max(refused, key=lambda o: o.rejected)
        yield (
            f"{worst.setting.name} at {worst.setting.max_pool_percent} % refused "
            f"{worst.rejected:,} of {worst.rejected + worst.stored:,} pages, as the pool was full: "
            "these went to the swap device, though they are the youngest."
        )
    curve = found.curve
    followed = (
        "all pages followed: exact"
        if curve.rate >= 1
        else f"{curve.pages:,} pages followed ({100 * curve.rate:.2g} %), ± "
        f"{100 * curve.error:.2g} points at most (95 %)"
    )
    at = [(share, curve.at(share * found.trace.pages * _PAGE)) for share in (0.25, 0.5, 0.75)]
    points = ", ".join(f"{100 * float(miss):.1f} % at {100 * share:.0f} %" for share, miss in at)
    yield f"An LRU list of whole pages would miss {points} of the pages; {followed}."
    yield (f"{len(found.outcomes)} replays at {found.speed / 1e6:.1f} million references a second.")


# ---- JSON ----------------------------------------------------------------------------------------


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    s = outcome.setting
    return {
        "compressor": s.compressor,
        "max_pool_percent": s.max_pool_percent,
        "accept_threshold_percent": s.accept_threshold_percent,
        "shrinker": s.shrinker,
        "page_cluster": s.page_cluster,
        "faults": outcome.faults,
        "hit_rate": finite(outcome.hit_rate),
        "payload_ratio": finite(outcome.payload_ratio),
        "pool_bytes": round(outcome.mean_pool_bytes),
        "pool_bytes_most": outcome.most_pool_bytes,
        "stored_pages": round(outcome.mean_stored),
        "resident_pages": round(outcome.mean_resident),
        "device_write_bytes": outcome.device_write_bytes,
        "device_read_bytes": outcome.device_read_bytes,
        "cpu_seconds": outcome.cpu_seconds,
        "store_us": outcome.store_us,
        "load_us": outcome.load_us,
        "fault_us": outcome.fault_us,
        "counters": {
            name: n for name, n in outcome.counters.items() if not name.startswith("sum_")
        },
    }


def replayed_json(found: Replayed) -> dict[str, Any]:
    """Turn a replay into what ``zswap replay --json`` prints.

    Parameters
    ----------
    found : Replayed

    Returns
    -------
    dict
        ``schema``, ``version`` (`JSON_VERSION`), ``zswap`` (this library's version), then

        trace
            ``path`` (- for standard input), ``format``, ``references``, ``pages``, ``writes``,
            ``notes`` (sentences).
        model, memory_bytes, ram_bytes
            Whose rules (kernel, engine); what there is for pages and pool; of what
            max_pool_percent is.
        contents
            ``how`` (words), and ``compressors``: for each ``name``, ``payload_ratio``,
            ``store_us``, ``load_us`` (a page, the codec's own).
        costs
            Where the microseconds are from, in words.
        outcomes
            For each setting, first without zswap: ``compressor`` (null: no zswap),
            ``max_pool_percent``, ``accept_threshold_percent``, ``shrinker``, ``page_cluster``,
            ``faults`` (touches of pages that had been swapped out), ``hit_rate`` (share of these
            that the device was not read for; null: there were none), ``payload_ratio``,
            ``pool_bytes`` and ``pool_bytes_most`` (mean over the references, and most: allocator
            pages and metadata), ``stored_pages`` and ``resident_pages`` (means),
            ``device_write_bytes``, ``device_read_bytes``, ``cpu_seconds``, ``store_us``,
            ``load_us`` and ``fault_us`` (a page, as reckoned with), and ``counters``:
            ``references``, ``hits`` (in RAM), ``first_touches``, ``same_hits`` (same-filled pages
            swapped in), ``pool_hits``, ``device_hits``, ``ahead_pool``, ``ahead_device`` (pages
            read ahead), ``ahead_used``, ``evicted``, ``dropped`` (of these, without a write: a copy
            was still good), ``same_filled``, ``stored``, ``rejected``, ``limit_hits``,
            ``written_back``, ``second_chances``, ``freed``, ``most_pool_pages``, ``most_stored``,
            ``most_resident``.
        curve
            ``bytes``, ``miss_ratio``, ``error_95`` (lists: an LRU list of whole pages of that size,
            the share of all references that miss it, first touches counted, and half the interval's
            width), ``rate`` (share of the pages followed), ``pages``, ``references`` (followed).
        speed
            ``seconds`` and ``references_per_second`` of all replays together.

        A number that is not defined is null.
    """
    trace, curve = found.trace, found.curve
    return {
        "schema": "zswap.replay",
        "version": JSON_VERSION,
        "zswap": zswap.__version__,
        "trace": {
            "path": trace.name,
            "format": trace.format,
            "references": trace.references,
            "pages": trace.pages,
            "writes": trace.writes,
            "notes": list(trace.notes),
        },
        "model": found.model,
        "memory_bytes": found.memory,
        "ram_bytes": found.ram,
        "contents": {
            "how": found.how,
            "compressors": [
                {
                    "name": one.compressor,
                    "payload_ratio": finite(one.ratio),
                    "store_us": one.store_us,
                    "load_us": one.load_us,
                }
                for one in found.contents
            ],
        },
        "costs": found.costs,
        "outcomes": [_outcome_json(outcome) for outcome in found.outcomes],
        "curve": {
            "bytes": [round(n) for n in curve.bytes.tolist()],
            "miss_ratio": curve.misses.tolist(),
            "error_95": curve.errors.tolist(),
            "rate": curve.rate,
            "pages": curve.pages,
            "references": curve.references,
        },
        "speed": {
            "seconds": found.seconds,
            "references_per_second": found.speed,
        },
    }
