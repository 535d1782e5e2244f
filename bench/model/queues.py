"""A model of threads that share locks: how many pages a second so many threads get done.

A thread does a page's work outside of the locks, and on the way takes locks of some kinds, each for
some time.  Of a kind there may be several, of which a visit picks one; a visit may lie inside one
of another kind.  Who finds a lock held waits, first come first served, and has it with the lines it
guards later by what moving them from the last holder's processor takes.  All times are drawn from
exponential distributions about their means, by a seed.

What is left out: that waiting threads disturb the holder, that memory has a bandwidth, that a
processor's frequency falls, that threads are taken off their processors.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

__all__ = ["Lock", "linear_up_to", "simulate"]


class Lock(NamedTuple):
    """A kind of lock, and how a page's work visits it."""

    name: str
    per_page: float  # visits, those inside another's included
    held_ns: float  # what a visit takes, what lies inside it included
    shares: Sequence[float] = (1.0,)  # of the locks of this kind, how often each is the one
    inside: str = ""  # the kind in whose visits these lie


class _Held:
    """A lock: who has it, who had it last and who waits."""

    def __init__(self) -> None:
        self.holder: int | None = None
        self.last: int | None = None
        self.waiting: deque[int] = deque()


def _visit(
    kind: Lock, inner: Sequence[Lock], place: dict[str, range], rng: random.Random
) -> Iterator[tuple[str, float]]:
    """Take a lock, work, take what lies inside, and let go."""
    pick = place[kind.name].start
    if len(kind.shares) > 1:
        pick = rng.choices(place[kind.name], kind.shares)[0]
    own = kind.held_ns - sum(i.held_ns * i.per_page / kind.per_page for i in inner)
    yield "lock", pick
    yield "work", rng.expovariate(1 / own) if own > 0 else 0.0
    for other in inner:
        for _ in range(_visits(other.per_page / kind.per_page, rng)):
            yield from _visit(other, (), place, rng)
    yield "unlock", pick


def _visits(mean: float, rng: random.Random) -> int:
    return int(mean) + (rng.random() < mean - int(mean))


def _pages(
    outside_ns: float, locks: Sequence[Lock], place: dict[str, range], rng: random.Random
) -> Iterator[tuple[str, float]]:
    """What a thread does, page after page, for ever."""
    outer = [lock for lock in locks if not lock.inside]
    while True:
        visits = [lock for lock in outer for _ in range(_visits(lock.per_page, rng))]
        for lock in visits:
            if outside_ns:
                yield "work", rng.expovariate((1 + len(visits)) / outside_ns)
            yield from _visit(lock, [i for i in locks if i.inside == lock.name], place, rng)
        if outside_ns:
            yield "work", rng.expovariate((1 + len(visits)) / outside_ns)
        yield "page", 0.0


def simulate(
    outside_ns: float,
    locks: Sequence[Lock],
    threads: int,
    *,
    transfer_ns: float = 0.0,
    pages: int = 20_000,
    seed: int = 0,
) -> float:
    """Pages a second of so many threads, each on a processor of its own.

    Parameters
    ----------
    outside_ns : float
        What a page takes outside of all locks.
    locks : sequence of Lock
    threads : int
    transfer_ns : float
        What a lock and the lines it guards take from one processor to another.
    pages : int
        How many are simulated; a fifth more come before them, and are not counted.
    seed : int
    """
    place, end = {}, 0
    for lock in locks:
        place[lock.name] = range(end, end + len(lock.shares))
        end += len(lock.shares)
    all_locks = [_Held() for _ in range(end)]
    doing = [_pages(outside_ns, locks, place, random.Random(f"{seed} {n}")) for n in range(threads)]
    events = [(0.0, n, n) for n in range(threads)]  # when, in which order, who goes on
    order = itertools.count(threads)
    left, warm, began = pages + pages // 5, pages, 0.0
    now = 0.0

    def take(held: _Held, who: int) -> None:
        moves = held.last not in (None, who)
        held.holder = held.last = who
        heapq.heappush(events, (now + (transfer_ns if moves else 0.0), next(order), who))

    while left:
        now, _, who = heapq.heappop(events)
        for what, value in doing[who]:
            if what == "work":
                heapq.heappush(events, (now + value, next(order), who))
                break
            if what == "page":
                left -= 1
                if left == warm:
                    began = now
                if not left:
                    break
                continue
            held = all_locks[int(value)]
            if what == "lock":
                if held.holder is None:
                    take(held, who)
                else:
                    held.waiting.append(who)
                break
            held.holder = None
            if held.waiting:
                take(held, held.waiting.popleft())
    return pages / (now - began) * 1e9


def linear_up_to(rates: dict[int, float], share: float = 0.8) -> int:
    """The most threads that get so large a share of what one gets, each."""
    up_to = min(rates)
    for threads in sorted(rates):
        if rates[threads] < share * rates[1] * threads:
            break
        up_to = threads
    return up_to
